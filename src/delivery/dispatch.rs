//! The dispatcher: which job goes next, to which pipeline, and when.
//!
//! One task makes all decisions, so they have one order. Which job goes next is chosen by `pick`; here it is given to a
//! worker, who claims it, is told when its turn to send it comes, and is followed to its end. To start work, the dispatcher
//! waits for no commit.
//! The backlog stays in the journal: of each watch only a handful of keys is ever in memory.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::select_all;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};

use super::claimed::{Claimed, Tools};
use super::failed::Blamed;
use super::failing::Failed;
use super::lane::Wake;
use super::pick::Picker;
use super::pipeline::{Line, Session};
use super::recover;
use super::slots::UploadId;
use super::spool::{MAX_FILES, Spool};
use super::spooled;
use super::verdict::{Blame, Fault};
use super::worker::{BUFFER_BYTES, Report, Worker};
use crate::blocking::joined;
use crate::board::Board;
use crate::clock::unix_millis;
use crate::config::Config;
use crate::folder::Folder;
use crate::identity::Identity;
use crate::job::{Event, FileKey, Job, JobState};
use crate::journal::{Failure, Journal};
use crate::panics;
use crate::pauses::Paused;
use crate::progress::{BEAT_EVERY, Progress};
use crate::show::Shown;

/// Workers at a time, those included that only record any more.
const MAX_WORKERS: usize = 2048;
/// Jobs of one watch that are asked for of those due at once: they wait for a post-action, or in the spool.
const DUE_AT_ONCE: usize = MAX_WORKERS + MAX_FILES;

/// Decides what is sent when.
pub struct Dispatcher {
    config: Arc<Config>,
    tools: Arc<Tools>,
    picker: Picker,
    workers: JoinSet<Result<Option<Blamed>, Failure>>,
    in_flight: HashMap<tokio::task::Id, InFlight>,
    /// Uploads that are not over, or whose workers are not.
    uploads: HashMap<UploadId, Uploading>,
    reports: mpsc::UnboundedReceiver<Report>,
    report_to: mpsc::UnboundedSender<Report>,
    paused: watch::Receiver<Paused>,
    orders: mpsc::Receiver<Order>,
    /// What an earlier run left in the folders is looked through.
    recoveries: JoinSet<Result<(), Failure>>,
    progress: Progress,
}

/// What is needed should a worker panic.
struct InFlight {
    /// None while only a post-action is done.
    upload: Option<UploadId>,
    claimed: Claimed,
}

/// Where an upload goes.
struct Uploading {
    /// Its worker, by which it stands in `in_flight`.
    task: tokio::task::Id,
    pipeline: usize,
    session: Arc<Session>,
    /// It is the probe of a pipeline that fails.
    probe: bool,
    /// Tells its worker that its turn has come, or by its drop that it will not come.
    turn: Option<oneshot::Sender<Arc<Session>>>,
}

/// What the dispatcher shares with the rest of the daemon.
pub struct Shared {
    /// The daemon's memory.
    pub journal: Journal,
    /// Who writes the results.
    pub identity: Arc<Identity>,
    /// Results that wait for a folder that can be written.
    pub spool: Arc<Spool>,
    /// What others see of the uploads in flight.
    pub board: Arc<Board>,
    /// What an operator paused.
    pub paused: watch::Receiver<Paused>,
    /// True once the daemon stops.
    pub stopping: watch::Receiver<bool>,
}

/// What is to be served from now on.
pub struct Order {
    /// The configuration.
    pub config: Arc<Config>,
    /// The watches, in its order.
    pub folders: Vec<Arc<Folder>>,
    /// The pipelines, in its order.
    pub lines: Vec<Arc<Line>>,
    /// Told when it is so.
    pub done: oneshot::Sender<()>,
}

impl Dispatcher {
    /// A dispatcher that serves nothing until it is configured, by the first of these orders.
    pub fn new(config: Arc<Config>, shared: Shared, orders: mpsc::Receiver<Order>) -> Self {
        let Shared { journal, identity, spool, board, paused, stopping } = shared;
        let tools = Tools {
            journal,
            identity,
            spool,
            desks: Arc::default(),
            groups: Arc::default(),
            board,
            retry: config.retry.clone(),
            buffers: Arc::new(Semaphore::new(BUFFER_BYTES)),
            stopping,
        };
        let (report_to, reports) = mpsc::unbounded_channel();
        let picker = Picker::new(&config, tools.journal.clone());
        Self {
            config,
            tools: Arc::new(tools),
            picker,
            workers: JoinSet::new(),
            in_flight: HashMap::new(),
            uploads: HashMap::new(),
            reports,
            report_to,
            paused,
            orders,
            recoveries: JoinSet::new(),
            progress: Progress::default(),
        }
    }

    /// Tells from outside whether it still goes round.
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Dispatches until the daemon stops, then waits for what is in flight, at most `drain_timeout`.
    ///
    /// Errors: the journal failed; the daemon must stop.
    pub async fn run(mut self) -> Result<(), Failure> {
        let mut stopping = self.tools.stopping.clone();
        let mut changes = self.tools.journal.changes();
        let (mut health, mut roots) = (Vec::new(), Vec::new());
        while !*stopping.borrow_and_update() {
            self.progress.beat();
            changes.mark_unchanged();
            self.picker.obey(&self.paused.borrow_and_update());
            let wake = self.dispatch()?;
            tokio::select! {
                Some(report) = self.reports.recv() => self.report(&report),
                Some(ended) = self.workers.join_next_with_id() => self.ended(ended).await?,
                Some(ended) = self.recoveries.join_next() => joined(ended).await?,
                Some(order) = self.orders.recv() => {
                    self.configure(order);
                    health = self.picker.outlets.iter().map(|outlet| outlet.line.health()).collect();
                    roots = self.picker.lanes.iter().map(|lane| lane.folder.availability()).collect();
                }
                _ = changes.changed() => {}
                _ = self.paused.changed() => {}
                () = any_changed(&mut health) => {}
                () = any_changed(&mut roots) => {}
                () = tokio::time::sleep_until(wake.into()) => {}
                _ = stopping.changed() => {}
            }
            // Whatever else is ready is taken along: one round of choices does for all of it.
            while let Ok(report) = self.reports.try_recv() {
                self.report(&report);
            }
            while let Some(ended) = self.workers.try_join_next_with_id() {
                self.ended(ended).await?;
            }
        }
        self.recoveries.abort_all();
        self.drain().await
    }

    /// Serves other watches and pipelines from now on. What is in flight goes on as it was begun.
    fn configure(&mut self, order: Order) {
        let Order { config, folders, lines, done } = order;
        let known: Vec<_> = self.picker.lanes.iter().map(|lane| lane.folder.clone()).collect();
        let uses: HashSet<_> = self.uploads.values().map(|upload| upload.pipeline).collect();
        let moved = self.picker.configure(&config, &folders, &lines, |index| uses.contains(&index));
        for upload in self.uploads.values_mut() {
            upload.pipeline = moved[upload.pipeline].unwrap_or_default();
        }
        self.tools = Arc::new(Tools { retry: config.retry.clone(), ..Tools::clone(&self.tools) });
        let first = known.is_empty();
        for folder in folders.iter().filter(|folder| !known.iter().any(|known| Arc::ptr_eq(known, folder))) {
            self.recoveries.spawn(recover::strays(folder.clone(), self.tools.clone()));
        }
        if first {
            let review = spooled::review(folders, self.tools.clone());
            self.recoveries.spawn(async move {
                review.await;
                Ok(())
            });
        }
        self.config = config;
        // Nobody may be waiting any more.
        let _ = done.send(());
    }

    /// Starts everything that may start now. Returns when to look again at the latest.
    fn dispatch(&mut self) -> Result<Instant, Failure> {
        let mut wake = Wake(Instant::now() + BEAT_EVERY);
        self.start_post_actions()?;
        self.start_spooled(&mut wake)?;
        let most = MAX_WORKERS.saturating_sub(self.workers.len());
        let (picks, look_again) = self.picker.pick(most)?;
        wake.at(look_again);
        for pick in picks {
            let lane = &self.picker.lanes[pick.lane];
            let Some(job) = self.tools.journal.get(pick.key)? else {
                // It moved on since it was picked.
                self.picker.taken.remove(&pick.key);
                self.picker.end(lane.pipeline, pick.id, false);
                continue;
            };
            let outlet = &self.picker.outlets[lane.pipeline];
            let claimed =
                Claimed { tools: self.tools.clone(), folder: lane.folder.clone(), root: pick.root, key: pick.key, job };
            let (turn, its_turn) = oneshot::channel();
            let worker = Worker {
                id: pick.id,
                claimed: claimed.clone(),
                line: outlet.line.clone(),
                session: pick.session.clone(),
                terms: pick.terms,
                byte_limits: outlet.bytes.clone(),
                reports: self.report_to.clone(),
            };
            let name = format!("worker of watch {:?}", lane.folder.watch.name);
            let task = self.workers.spawn(panics::named(name.into(), worker.run(its_turn))).id();
            let (session, probe) = (pick.session, pick.terms.probe);
            let upload = Uploading { task, pipeline: lane.pipeline, session, probe, turn: Some(turn) };
            self.uploads.insert(pick.id, upload);
            self.in_flight.insert(task, InFlight { upload: Some(pick.id), claimed });
        }
        self.give_turns();
        if let Some(at) = self.picker.next_change() {
            wake.at(at);
        }
        Ok(wake.0)
    }

    /// Lets go whoever is ready, as far as there is room. Whoever may not be sent any more goes back.
    fn give_turns(&mut self) {
        while let Some((pipeline, id)) = self.picker.next_turn() {
            let gone = self.uploads.get_mut(&id).is_some_and(|upload| {
                let flight = self.in_flight.get(&upload.task);
                let session = flight.and_then(|flight| self.picker.may_go(pipeline, &flight.claimed));
                upload.turn.take().zip(session).is_some_and(|(turn, session)| {
                    upload.session = session.clone();
                    turn.send(session).is_ok()
                })
            });
            if !gone {
                self.picker.end(pipeline, id, false);
            }
        }
    }

    /// Starts what is left to do with files that were delivered before: after a crash, or adopted by intake.
    fn start_post_actions(&mut self) -> Result<(), Failure> {
        for lane in &self.picker.lanes {
            let watch = lane.folder.watch.id;
            let Some(root) = lane.folder.root() else { continue };
            if self.tools.journal.counters(watch).states[JobState::Delivered.index()] == 0 {
                continue;
            }
            let limit = if lane.has_spooled(&self.tools.journal) { DUE_AT_ONCE } else { MAX_WORKERS };
            // Only what is delivered, or spooled, is due at the beginning of time.
            for (key, _) in self.tools.journal.due(watch, 0, 0, limit)? {
                if self.workers.len() >= MAX_WORKERS || !self.picker.taken.insert(key) {
                    continue;
                }
                let Some(job) = self.tools.journal.get(key)?.filter(|job| is_to_finish(&lane.folder, job)) else {
                    self.picker.taken.remove(&key);
                    continue;
                };
                let (tools, folder, root) = (self.tools.clone(), lane.folder.clone(), root.clone());
                let claimed = Claimed { tools, folder, root, key, job };
                let worked = claimed.clone();
                let name = format!("post-action of watch {:?}", lane.folder.watch.name);
                let task = self
                    .workers
                    .spawn(panics::named(name.into(), async move { worked.finish().await.map(|()| None) }))
                    .id();
                self.in_flight.insert(task, InFlight { upload: None, claimed });
            }
        }
        Ok(())
    }

    /// Starts placing one spooled result of every watch that has some, unless the watch is held because they cannot be.
    fn start_spooled(&mut self, wake: &mut Wake) -> Result<(), Failure> {
        let now = Instant::now();
        for index in 0..self.picker.lanes.len() {
            let (folder, tried) = (self.picker.lanes[index].folder.clone(), self.picker.lanes[index].tried);
            let watch = folder.watch.id;
            let has_spooled = self.picker.lanes[index].has_spooled(&self.tools.journal);
            let Some(root) = folder.root().filter(|_| has_spooled) else { continue };
            if let Some(until) = folder.held_until(now) {
                wake.at(until);
                continue;
            }
            let mut flights = self.in_flight.values().map(|flight| &flight.claimed);
            if flights.any(|claimed| claimed.folder.watch.id == watch && claimed.job.state == JobState::Spooled) {
                continue;
            }
            let mut due: Vec<_> =
                self.tools.journal.due(watch, 0, 0, DUE_AT_ONCE)?.into_iter().map(|(key, _)| key).collect();
            let behind = due.iter().position(|key| tried.as_ref() == Some(key)).map_or(0, |at| at + 1);
            due.rotate_left(behind);
            for key in due {
                let job = self.tools.journal.get(key)?.filter(|job| job.state == JobState::Spooled);
                let Some(job) = job.filter(|_| self.picker.taken.insert(key)) else { continue };
                self.picker.lanes[index].tried = Some(key);
                let claimed = Claimed { tools: self.tools.clone(), folder, root, key, job };
                let worked = claimed.clone();
                let task = self.workers.spawn(async move { worked.place_spooled().await.map(|()| None) }).id();
                self.in_flight.insert(task, InFlight { upload: None, claimed });
                break;
            }
        }
        Ok(())
    }

    fn report(&mut self, report: &Report) {
        let (Report::Ready(id) | Report::Granted(id) | Report::Ended { id, .. }) = report;
        let Some(Uploading { pipeline, task, .. }) = self.uploads.get(id) else { return };
        let Some(InFlight { claimed, .. }) = self.in_flight.get(task) else { return };
        match report {
            Report::Ready(id) => self.picker.ready(*pipeline, *id),
            Report::Granted(id) => self.picker.outlets[*pipeline].slots.grant(*id),
            Report::Ended { abandoned, outcome, .. } => {
                self.picker.note(*pipeline, claimed.key, &claimed.job.path, *outcome);
                self.ended_upload(*id, *abandoned);
            }
        }
    }

    fn ended_upload(&mut self, id: UploadId, abandoned: bool) {
        let Some(upload) = self.uploads.get(&id) else { return };
        let now = self.picker.outlets[upload.pipeline].session.as_ref();
        // Another task knows nothing of the pipes of the one before.
        let same_task = now.is_none_or(|session| session.task_started == upload.session.task_started);
        self.picker.end(upload.pipeline, id, abandoned && same_task);
    }

    /// A worker is done with its job, or panicked over it.
    async fn ended(
        &mut self,
        ended: Result<(tokio::task::Id, Result<Option<Blamed>, Failure>), JoinError>,
    ) -> Result<(), Failure> {
        // What it reported before it ended comes first.
        while let Ok(report) = self.reports.try_recv() {
            self.report(&report);
        }
        let (task, outcome) = match ended {
            Ok((task, outcome)) => (task, Ok(outcome)),
            Err(error) => (error.id(), Err(error)),
        };
        let Some(flight) = self.in_flight.remove(&task) else { return Ok(()) };
        self.picker.taken.remove(&flight.claimed.key);
        if let Some(id) = flight.upload {
            // Of one that is over this is nothing new.
            self.ended_upload(id, outcome.is_err());
        }
        let upload = flight.upload.and_then(|id| self.uploads.remove(&id));
        match outcome {
            Ok(outcome) => match (outcome?, upload) {
                (Some(blamed), Some(upload)) => self.failed(&upload, flight.claimed.key, &blamed).await,
                _ => Ok(()),
            },
            Err(error) => {
                tracing::error!(
                    task = "worker", path = %Shown(&flight.claimed.job.path), %error,
                    "a task panicked; this is a defect of the daemon"
                );
                let blame = Blame {
                    error: "the daemon failed while it worked on this file".into(),
                    code: "INTERNAL",
                    retryable: true,
                    hint: "this is a defect of the daemon; tell its operator",
                };
                if flight.claimed.job.state == JobState::Spooled {
                    // It stays in the spool, and is tried again after a while.
                    flight.claimed.hold(&blame.error);
                    return Ok(());
                }
                if flight.upload.is_none() {
                    return flight.claimed.give_up_post_action(blame.error).await;
                }
                flight.claimed.failed(Fault::File(blame)).await
            }
        }
    }

    /// The pipeline failed on a file: if it fails on all of them, those get their attempts back.
    async fn failed(&mut self, upload: &Uploading, key: FileKey, blamed: &Blamed) -> Result<(), Failure> {
        let failed = Failed { key, charged: blamed.charged, probe: upload.probe };
        let due = unix_millis();
        let mut refunds = Vec::new();
        for refund in self.picker.failed(upload.pipeline, failed, &blamed.error) {
            if let Some(job) = self.tools.journal.get(refund.key)? {
                refunds.push((refund.key, job.path, Event::Refund { attempts: refund.attempts, due }));
            }
        }
        // Refused is what was given up, or is another generation by now.
        self.tools.journal.apply_all(refunds).await.map(drop)
    }

    /// Waits for what is in flight. What is left at the end is Pending again, at no attempt.
    async fn drain(mut self) -> Result<(), Failure> {
        // Nobody's turn comes any more.
        self.uploads.values_mut().for_each(|upload| upload.turn = None);
        let deadline = tokio::time::Instant::now() + self.config.server.drain_timeout;
        loop {
            self.progress.beat();
            tokio::select! {
                ended = self.workers.join_next_with_id() => match ended {
                    Some(ended) => self.ended(ended).await?,
                    None => return Ok(()),
                },
                Some(report) = self.reports.recv() => self.report(&report),
                () = tokio::time::sleep_until(deadline) => break,
                () = tokio::time::sleep(BEAT_EVERY) => {}
            }
        }
        tracing::warn!(files = self.in_flight.len(), "not finished within drain_timeout; these files are sent again");
        self.workers.abort_all();
        while self.workers.join_next().await.is_some() {}
        let (due, error) = (unix_millis(), "the daemon stopped meanwhile");
        let left = self.in_flight.into_values().filter(|flight| flight.upload.is_some()).map(|flight| {
            let retry = Event::Retry { due, error: error.into(), charged: false };
            (flight.claimed.key, flight.claimed.job.path, retry)
        });
        // Refused is what was recorded just before.
        self.tools.journal.apply_all(left.collect()).await?;
        Ok(())
    }
}

/// Whether a post-action is to be done now: in another folder than the file was in, it would find it gone.
fn is_to_finish(folder: &Folder, job: &Job) -> bool {
    job.state == JobState::Delivered && folder.can_tell(job)
}

/// Resolves when any of these changes; never, if there are none.
async fn any_changed<T>(receivers: &mut [watch::Receiver<T>]) {
    if receivers.is_empty() {
        return std::future::pending().await;
    }
    let _ = select_all(receivers.iter_mut().map(|receiver| Box::pin(receiver.changed()))).await;
}
