//! The dispatcher: which job goes next, to which pipeline, and when.
//!
//! One task makes all decisions, so they have one order. It never waits for one pipeline's limiter, slot or
//! outage: it checks, notes the earliest time, and goes on to the next watch. Watches take turns; within a watch
//! the oldest due job goes first. A claim is durable before its worker starts. The backlog stays in the journal:
//! of each watch only a handful of keys is ever in memory.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::select_all;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinError, JoinSet};

use super::claimed::{Claimed, Tools};
use super::limits::{ByteLimit, FileLimit};
use super::pipeline::{Line, Session};
use super::recover;
use super::slots::{Room, Slots, UploadId};
use super::space::Space;
use super::spool::{MAX_FILES, Spool};
use super::spooled;
use super::verdict::{Blame, Fault};
use super::worker::{BUFFER_BYTES, Report, Worker};
use crate::blocking::joined;
use crate::clock::unix_millis;
use crate::config::Config;
use crate::folder::Folder;
use crate::fs::Root;
use crate::identity::Identity;
use crate::job::{Event, FileKey, JobState, Millis, WatchId};
use crate::journal::{Failure, Journal};
use crate::panics;
use crate::progress::{BEAT_EVERY, Progress};
use crate::show::Shown;

/// Due jobs of one watch that are kept at hand.
const AT_HAND: usize = 64;
/// Workers at a time, those included that only record any more.
const MAX_WORKERS: usize = 2048;
/// Jobs of one watch that are asked for of those due at once: they wait for a post-action, or in the spool.
const DUE_AT_ONCE: usize = MAX_WORKERS + MAX_FILES;
/// Pause of all claims when this process has no descriptors left.
const DESCRIPTOR_PAUSE: Duration = Duration::from_secs(5);
/// No job waits longer than this for another reason than its own failures.
const LONGEST_OTHER_WAIT: Duration = Duration::from_secs(60);
/// How long a lane waits whose results cannot be written.
const UNPLACED_PAUSE: Duration = Duration::from_secs(1);

/// Decides what is sent when.
pub struct Dispatcher {
    config: Arc<Config>,
    tools: Arc<Tools>,
    lanes: Vec<Lane>,
    pipelines: Vec<Outlet>,
    /// Limit of the whole daemon, and whether its next file is paid for already.
    files: Option<FileLimit>,
    files_paid: bool,
    /// Whose turn is next.
    turn: usize,
    next_id: UploadId,
    workers: JoinSet<Result<(), Failure>>,
    in_flight: HashMap<tokio::task::Id, InFlight>,
    /// Keys of `in_flight`.
    taken: HashSet<FileKey>,
    reports: mpsc::UnboundedReceiver<Report>,
    report_to: mpsc::UnboundedSender<Report>,
    /// The dispatcher's clock begins here.
    started: Instant,
    paused_until: Option<Instant>,
    space: Space,
    progress: Progress,
    /// The longest that any job is made to wait, in milliseconds.
    longest_wait: Millis,
}

/// One watch.
struct Lane {
    folder: Arc<Folder>,
    /// Index of its pipeline.
    pipeline: usize,
    at_hand: VecDeque<FileKey>,
    /// Whose spooled result was tried last: one that no folder takes must not keep the others back.
    tried: Option<FileKey>,
}

impl Lane {
    /// Gets jobs that are due until then.
    fn fill(&mut self, journal: &Journal, taken: &HashSet<FileKey>, until: Millis) -> Result<(), Failure> {
        // What is taken already may come first, among it what waits for its post-action.
        let due = journal.due(self.folder.watch.id, until, AT_HAND + taken.len())?;
        let waiting = due.into_iter().filter(|(key, due)| *due > 0 && !taken.contains(key));
        self.at_hand.extend(waiting.map(|(key, _)| key).take(AT_HAND));
        Ok(())
    }
}

/// One pipeline.
struct Outlet {
    line: Arc<Line>,
    slots: Slots,
    files: Option<FileLimit>,
    files_paid: bool,
    bytes: Vec<Arc<ByteLimit>>,
    /// The session that `slots` knows.
    session: Option<Arc<Session>>,
}

/// What is needed should a worker panic.
struct InFlight {
    /// None while only a post-action is done.
    upload: Option<Uploading>,
    claimed: Claimed,
}

/// Where an upload goes.
#[derive(Clone)]
struct Uploading {
    id: UploadId,
    pipeline: usize,
    session: Arc<Session>,
}

/// A job about to be claimed.
struct Pick {
    id: UploadId,
    lane: usize,
    key: FileKey,
    root: Arc<Root>,
    session: Arc<Session>,
}

/// The earliest of the times that were noted.
#[derive(Default)]
struct Wake(Option<Instant>);

impl Wake {
    fn at(&mut self, at: Instant) {
        self.0 = Some(self.0.map_or(at, |earliest| earliest.min(at)));
    }
}

impl Dispatcher {
    /// A dispatcher for these watches and pipelines, given in the order of the configuration.
    pub fn new(
        config: Arc<Config>,
        journal: Journal,
        identity: Arc<Identity>,
        spool: Arc<Spool>,
        folders: &[Arc<Folder>],
        lines: &[Arc<Line>],
        stopping: watch::Receiver<bool>,
    ) -> Self {
        // An upload that was granted late runs beside those that hold a permit: at most one for each pipeline.
        let sharers = config.limits.max_concurrent_uploads + lines.len();
        let byte_limit = |rate: Option<u64>, sharers| rate.and_then(|rate| ByteLimit::new(rate, sharers)).map(Arc::new);
        let daemon_bytes = byte_limit(config.limits.bytes_per_second, sharers);
        let pipelines: Vec<Outlet> = lines
            .iter()
            .map(|line| {
                let limits = &line.config.limits;
                let own_bytes = byte_limit(limits.bytes_per_second, limits.max_concurrent_uploads);
                Outlet {
                    slots: Slots::new(limits.max_concurrent_uploads),
                    files: limits.files_per_second.and_then(FileLimit::new),
                    files_paid: false,
                    bytes: own_bytes.into_iter().chain(daemon_bytes.clone()).collect(),
                    session: None,
                    line: line.clone(),
                }
            })
            .collect();
        let by_watch = folders
            .iter()
            .filter_map(|folder| {
                let pipeline = lines.iter().position(|line| line.config.name == folder.watch.pipeline)?;
                Some(Lane { folder: folder.clone(), pipeline, at_hand: VecDeque::new(), tried: None })
            })
            .collect();
        let tools = Tools {
            journal,
            identity,
            spool,
            retry: config.retry.clone(),
            buffers: Arc::new(Semaphore::new(BUFFER_BYTES)),
            stopping,
        };
        let (report_to, reports) = mpsc::unbounded_channel();
        let config_state = config.state.clone();
        let longest_wait = config.retry.max.max(LONGEST_OTHER_WAIT);
        let longest_wait = u64::try_from(longest_wait.as_millis()).unwrap_or(Millis::MAX);
        Self {
            files: config.limits.files_per_second.and_then(FileLimit::new),
            files_paid: false,
            config,
            tools: Arc::new(tools),
            lanes: by_watch,
            pipelines,
            turn: 0,
            next_id: 0,
            workers: JoinSet::new(),
            in_flight: HashMap::new(),
            taken: HashSet::new(),
            reports,
            report_to,
            started: Instant::now(),
            paused_until: None,
            longest_wait,
            space: Space::new(config_state),
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
        let mut health: Vec<_> = self.pipelines.iter().map(|outlet| outlet.line.health()).collect();
        let mut roots: Vec<_> = self.lanes.iter().map(|lane| lane.folder.availability()).collect();
        let mut recoveries = JoinSet::new();
        for lane in &self.lanes {
            recoveries.spawn(recover::strays(lane.folder.clone(), self.tools.clone()));
        }
        let folders = self.lanes.iter().map(|lane| lane.folder.clone()).collect();
        let review = spooled::review(folders, self.tools.clone());
        recoveries.spawn(async move {
            review.await;
            Ok(())
        });
        while !*stopping.borrow_and_update() {
            self.progress.beat();
            changes.mark_unchanged();
            let wake = self.dispatch().await?;
            tokio::select! {
                Some(report) = self.reports.recv() => self.report(&report),
                Some(ended) = self.workers.join_next_with_id() => self.ended(ended).await?,
                Some(ended) = recoveries.join_next() => joined(ended).await?,
                _ = changes.changed() => {}
                () = any_changed(&mut health) => {}
                () = any_changed(&mut roots) => {}
                () = tokio::time::sleep_until(wake.into()) => {}
                _ = stopping.changed() => {}
            }
        }
        recoveries.abort_all();
        self.drain().await
    }

    /// Claims and starts everything that may start now. Returns when to look again at the latest.
    async fn dispatch(&mut self) -> Result<Instant, Failure> {
        let mut wake = Wake::default();
        wake.at(Instant::now() + BEAT_EVERY);
        self.start_post_actions()?;
        self.start_spooled(&mut wake)?;
        let picks = self.pick(&mut wake)?;
        if picks.is_empty() {
            return Ok(wake.0.unwrap_or_else(Instant::now));
        }
        let at = unix_millis();
        let mut claims = Vec::with_capacity(picks.len());
        for pick in &picks {
            // The path only names the record here, which the claim requires to exist.
            let path = self.tools.journal.get(pick.key)?.map(|job| job.path).unwrap_or_default();
            claims.push((pick.key, path, Event::Claim { at }));
        }
        let outcomes = self.tools.journal.apply_all(claims).await?;
        for (pick, outcome) in picks.into_iter().zip(outcomes) {
            let lane = &self.lanes[pick.lane];
            let Ok(job) = outcome else {
                // It moved on since it was picked.
                self.taken.remove(&pick.key);
                self.pipelines[lane.pipeline].slots.end(pick.id, false, self.started.elapsed());
                continue;
            };
            let outlet = &self.pipelines[lane.pipeline];
            let claimed =
                Claimed { tools: self.tools.clone(), folder: lane.folder.clone(), root: pick.root, key: pick.key, job };
            let worker = Worker {
                id: pick.id,
                claimed: claimed.clone(),
                line: outlet.line.clone(),
                session: pick.session.clone(),
                byte_limits: outlet.bytes.clone(),
                reports: self.report_to.clone(),
            };
            let name = format!("worker of watch {:?}", lane.folder.watch.name);
            let task = self.workers.spawn(panics::named(name.into(), worker.run())).id();
            let upload = Uploading { id: pick.id, pipeline: lane.pipeline, session: pick.session };
            self.in_flight.insert(task, InFlight { upload: Some(upload), claimed });
        }
        // There may be more to claim.
        Ok(Instant::now())
    }

    /// Starts what is left to do with files that were delivered before: after a crash, or adopted by intake.
    fn start_post_actions(&mut self) -> Result<(), Failure> {
        for lane in &self.lanes {
            let watch = lane.folder.watch.id;
            let Some(root) = lane.folder.root() else { continue };
            if self.tools.journal.counters(watch).states[JobState::Delivered.index()] == 0 {
                continue;
            }
            let limit = if self.has_spooled(watch) { DUE_AT_ONCE } else { MAX_WORKERS };
            // Only what is delivered, or spooled, is due at the beginning of time.
            for (key, _) in self.tools.journal.due(watch, 0, limit)? {
                if self.workers.len() >= MAX_WORKERS || !self.taken.insert(key) {
                    continue;
                }
                let Some(job) = self.tools.journal.get(key)?.filter(|job| job.state == JobState::Delivered) else {
                    self.taken.remove(&key);
                    continue;
                };
                let (tools, folder, root) = (self.tools.clone(), lane.folder.clone(), root.clone());
                let claimed = Claimed { tools, folder, root, key, job };
                let worked = claimed.clone();
                let name = format!("post-action of watch {:?}", lane.folder.watch.name);
                let task = self.workers.spawn(panics::named(name.into(), async move { worked.finish().await })).id();
                self.in_flight.insert(task, InFlight { upload: None, claimed });
            }
        }
        Ok(())
    }

    /// Starts placing one spooled result of every watch that has some, unless the watch is held because they cannot be.
    fn start_spooled(&mut self, wake: &mut Wake) -> Result<(), Failure> {
        let now = Instant::now();
        for index in 0..self.lanes.len() {
            let (folder, tried) = (self.lanes[index].folder.clone(), self.lanes[index].tried);
            let watch = folder.watch.id;
            let Some(root) = folder.root().filter(|_| self.has_spooled(watch)) else { continue };
            if let Some(until) = folder.held_until(now) {
                wake.at(until);
                continue;
            }
            let mut flights = self.in_flight.values().map(|flight| &flight.claimed);
            if flights.any(|claimed| claimed.folder.watch.id == watch && claimed.job.state == JobState::Spooled) {
                continue;
            }
            let mut due: Vec<_> =
                self.tools.journal.due(watch, 0, DUE_AT_ONCE)?.into_iter().map(|(key, _)| key).collect();
            let behind = due.iter().position(|key| tried.as_ref() == Some(key)).map_or(0, |at| at + 1);
            due.rotate_left(behind);
            for key in due {
                let job = self.tools.journal.get(key)?.filter(|job| job.state == JobState::Spooled);
                let Some(job) = job.filter(|_| self.taken.insert(key)) else { continue };
                self.lanes[index].tried = Some(key);
                let claimed = Claimed { tools: self.tools.clone(), folder, root, key, job };
                let worked = claimed.clone();
                let task = self.workers.spawn(async move { worked.place_spooled().await }).id();
                self.in_flight.insert(task, InFlight { upload: None, claimed });
                break;
            }
        }
        Ok(())
    }

    fn has_spooled(&self, watch: WatchId) -> bool {
        self.tools.journal.counters(watch).states[JobState::Spooled.index()] > 0
    }

    /// Chooses jobs until nothing more may start.
    fn pick(&mut self, wake: &mut Wake) -> Result<Vec<Pick>, Failure> {
        let now = Instant::now();
        let mut picks = Vec::new();
        if let Some(until) = self.paused_until.filter(|until| *until > now) {
            wake.at(until);
            return Ok(picks);
        }
        if !self.space.is_enough(now) {
            return Ok(picks);
        }
        let clock = self.started.elapsed();
        let mut idle = 0;
        while idle < self.lanes.len() && self.workers.len() + picks.len() < MAX_WORKERS {
            let permits: usize = self.pipelines.iter().map(|outlet| outlet.slots.permits(clock)).sum();
            if permits >= self.config.limits.max_concurrent_uploads {
                break;
            }
            let lane = self.turn % self.lanes.len();
            self.turn = (lane + 1) % self.lanes.len();
            match self.pick_from(lane, now, clock, wake)? {
                Some(pick) => {
                    picks.push(pick);
                    idle = 0;
                }
                None => idle += 1,
            }
        }
        for outlet in &self.pipelines {
            if let Some(at) = outlet.slots.next_change(clock) {
                wake.at(self.started + at);
            }
        }
        Ok(picks)
    }

    /// The next job of one watch, if it may start now.
    fn pick_from(
        &mut self,
        index: usize,
        now: Instant,
        clock: Duration,
        wake: &mut Wake,
    ) -> Result<Option<Pick>, Failure> {
        // What the pipeline did last for this watch waits to be written down: nothing more is asked of it.
        if self.has_spooled(self.lanes[index].folder.watch.id) {
            return Ok(None);
        }
        let lane = &mut self.lanes[index];
        let outlet = &mut self.pipelines[lane.pipeline];
        let Some(root) = lane.folder.root() else { return Ok(None) };
        if let Some(until) = lane.folder.held_until(now) {
            wake.at(until);
            return Ok(None);
        }
        // What the pipeline did last for this watch cannot be written down: nothing more is asked of it.
        if lane.folder.has_unplaced() {
            wake.at(now + UNPLACED_PAUSE);
            return Ok(None);
        }
        let Some(session) = outlet.line.session() else { return Ok(None) };
        let known = outlet.session.as_ref();
        if known.is_none_or(|known| known.number != session.number) {
            let same_task = known.is_some_and(|known| known.task_started == session.task_started);
            outlet.slots.new_session(same_task);
            outlet.session = Some(session.clone());
        }
        match outlet.slots.room(clock) {
            Room::Yes => {}
            Room::NotBefore(at) => {
                wake.at(self.started + at);
                return Ok(None);
            }
            Room::No => return Ok(None),
        }
        if lane.at_hand.is_empty() {
            let at = unix_millis();
            let watch = lane.folder.watch.id;
            lane.fill(&self.tools.journal, &self.taken, at)?;
            if lane.at_hand.is_empty() {
                let Some(next) = self.tools.journal.next_due(watch, at)? else { return Ok(None) };
                // No wait is longer than this: a due time beyond it was written before the wall clock was set back.
                if next <= at.saturating_add(self.longest_wait) {
                    wake.at(now + Duration::from_millis(next - at));
                    return Ok(None);
                }
                lane.fill(&self.tools.journal, &self.taken, Millis::MAX)?;
            }
        }
        // A file that was paid for at one limit and refused by the other stays paid.
        for (limit, paid) in [(&outlet.files, &mut outlet.files_paid), (&self.files, &mut self.files_paid)] {
            let Some(limit) = limit else { continue };
            if !*paid {
                match limit.take() {
                    Ok(()) => *paid = true,
                    Err(wait) => {
                        wake.at(now + wait);
                        return Ok(None);
                    }
                }
            }
        }
        let key = loop {
            match lane.at_hand.pop_front() {
                Some(key) if self.taken.insert(key) => break key,
                Some(_) => {}
                None => return Ok(None),
            }
        };
        (outlet.files_paid, self.files_paid) = (false, false);
        self.next_id += 1;
        outlet.slots.start(self.next_id, clock);
        Ok(Some(Pick { id: self.next_id, lane: index, key, root, session }))
    }

    fn report(&mut self, report: &Report) {
        let (Report::Granted(id) | Report::Ended { id, .. }) = report;
        let mut uploads = self.in_flight.values().filter_map(|flight| flight.upload.as_ref());
        let Some(upload) = uploads.find(|upload| upload.id == *id).cloned() else { return };
        match report {
            Report::Granted(id) => self.pipelines[upload.pipeline].slots.grant(*id),
            Report::Ended { abandoned, out_of_descriptors, .. } => {
                self.ended_upload(&upload, *abandoned);
                if *out_of_descriptors {
                    self.paused_until = Some(Instant::now() + DESCRIPTOR_PAUSE);
                }
            }
        }
    }

    fn ended_upload(&mut self, upload: &Uploading, abandoned: bool) {
        let outlet = &mut self.pipelines[upload.pipeline];
        // Another task knows nothing of the pipes of the one before.
        let same_task =
            outlet.session.as_ref().is_none_or(|session| session.task_started == upload.session.task_started);
        outlet.slots.end(upload.id, abandoned && same_task, self.started.elapsed());
    }

    /// A worker is done with its job, or panicked over it.
    async fn ended(&mut self, ended: Result<(tokio::task::Id, Result<(), Failure>), JoinError>) -> Result<(), Failure> {
        // What it reported before it ended comes first.
        while let Ok(report) = self.reports.try_recv() {
            self.report(&report);
        }
        let (task, outcome) = match ended {
            Ok((task, outcome)) => (task, Ok(outcome)),
            Err(error) => (error.id(), Err(error)),
        };
        let Some(flight) = self.in_flight.remove(&task) else { return Ok(()) };
        self.taken.remove(&flight.claimed.key);
        match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                if let Some(upload) = &flight.upload {
                    self.ended_upload(upload, true);
                }
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

    /// Waits for what is in flight. What is left at the end is Pending again, at no attempt.
    async fn drain(mut self) -> Result<(), Failure> {
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

/// Resolves when any of these changes; never, if there are none.
async fn any_changed<T>(receivers: &mut [watch::Receiver<T>]) {
    if receivers.is_empty() {
        return std::future::pending().await;
    }
    let _ = select_all(receivers.iter_mut().map(|receiver| Box::pin(receiver.changed()))).await;
}
