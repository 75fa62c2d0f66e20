//! The choice of the jobs that may start now: watches take turns, and within a watch the oldest due job goes first.
//!
//! It never waits for one pipeline's limiter, slot or outage: it checks, notes the earliest time, and goes on to the
//! next watch. It must not know of workers, nor claim anything: that is the dispatcher's.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::limits::{ByteLimit, FileLimit};
use super::pipeline::{Line, Session};
use super::slots::{Room, Slots, UploadId};
use super::space::{self, Space};
use crate::clock::unix_millis;
use crate::config::Config;
use crate::folder::Folder;
use crate::fs::Root;
use crate::job::{FileKey, Millis};
use crate::journal::{Failure, Journal};

/// Due jobs of one watch that are kept at hand.
const AT_HAND: usize = 64;
/// No job waits longer than this for another reason than its own failures.
const LONGEST_OTHER_WAIT: Duration = Duration::from_secs(60);
/// How long a lane waits whose results cannot be written.
const UNPLACED_PAUSE: Duration = Duration::from_secs(1);

/// Chooses what is sent next.
pub(super) struct Picker {
    journal: Journal,
    /// Most uploads of the whole daemon that hold a permit.
    max_uploads: usize,
    /// The watches.
    pub(super) lanes: Vec<Lane>,
    /// The pipelines.
    pub(super) outlets: Vec<Outlet>,
    /// Limit of the whole daemon, and whether its next file is paid for already.
    files: Option<FileLimit>,
    files_paid: bool,
    /// Whose turn is next.
    turn: usize,
    next_id: UploadId,
    /// Keys that are picked, or that a worker has.
    pub(super) taken: HashSet<FileKey>,
    /// The clock of all slots begins here.
    started: Instant,
    /// Nothing is picked before.
    pub(super) paused_until: Option<Instant>,
    space: Space,
    /// The longest that any job is made to wait, in milliseconds.
    longest_wait: Millis,
}

/// One watch.
pub(super) struct Lane {
    /// The watch.
    pub(super) folder: Arc<Folder>,
    /// Index of its pipeline.
    pub(super) pipeline: usize,
    at_hand: VecDeque<FileKey>,
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
pub(super) struct Outlet {
    /// Its line to the server.
    pub(super) line: Arc<Line>,
    /// How many at a time.
    pub(super) slots: Slots,
    files: Option<FileLimit>,
    files_paid: bool,
    /// The byte limits that apply.
    pub(super) bytes: Vec<Arc<ByteLimit>>,
    /// The session that `slots` knows.
    pub(super) session: Option<Arc<Session>>,
}

/// A job about to be claimed.
pub(super) struct Pick {
    /// Number of the upload.
    pub(super) id: UploadId,
    /// Index of its watch.
    pub(super) lane: usize,
    /// The job.
    pub(super) key: FileKey,
    /// The root of its watch.
    pub(super) root: Arc<Root>,
    /// Where it goes.
    pub(super) session: Arc<Session>,
}

/// The earliest of the times that were noted.
struct Wake(Instant);

impl Wake {
    fn at(&mut self, at: Instant) {
        self.0 = self.0.min(at);
    }
}

impl Picker {
    /// A picker for these watches and pipelines, given in the order of the configuration.
    pub(super) fn new(config: &Config, journal: Journal, folders: &[Arc<Folder>], lines: &[Arc<Line>]) -> Self {
        // An upload that was granted late runs beside those that hold a permit: at most one for each pipeline.
        let sharers = config.limits.max_concurrent_uploads + lines.len();
        let byte_limit = |rate: Option<u64>, sharers| rate.and_then(|rate| ByteLimit::new(rate, sharers)).map(Arc::new);
        let daemon_bytes = byte_limit(config.limits.bytes_per_second, sharers);
        let outlets: Vec<Outlet> = lines
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
                Some(Lane { folder: folder.clone(), pipeline, at_hand: VecDeque::new() })
            })
            .collect();
        let longest_wait = config.retry.max.max(LONGEST_OTHER_WAIT);
        Self {
            journal,
            max_uploads: config.limits.max_concurrent_uploads,
            lanes: by_watch,
            outlets,
            files: config.limits.files_per_second.and_then(FileLimit::new),
            files_paid: false,
            turn: 0,
            next_id: 0,
            taken: HashSet::new(),
            started: Instant::now(),
            paused_until: None,
            space: Space::new(config.state.clone()),
            longest_wait: u64::try_from(longest_wait.as_millis()).unwrap_or(Millis::MAX),
        }
    }

    /// The clock of all slots.
    fn clock(&self) -> Duration {
        self.started.elapsed()
    }

    /// Chooses jobs until nothing more may start.
    /// They are at most so many. Returned with them is when to look again at the latest.
    pub(super) fn pick(&mut self, most: usize) -> Result<(Vec<Pick>, Instant), Failure> {
        let now = Instant::now();
        let mut wake = Wake(now + space::CHECK_EVERY);
        let mut picks = Vec::new();
        if let Some(until) = self.paused_until.filter(|until| *until > now) {
            wake.at(until);
            return Ok((picks, wake.0));
        }
        if !self.space.is_enough(now) {
            return Ok((picks, wake.0));
        }
        let clock = self.clock();
        let mut idle = 0;
        while idle < self.lanes.len() && picks.len() < most {
            let permits: usize = self.outlets.iter().map(|outlet| outlet.slots.permits(clock)).sum();
            if permits >= self.max_uploads {
                break;
            }
            let lane = self.turn % self.lanes.len();
            self.turn = (lane + 1) % self.lanes.len();
            match self.pick_from(lane, now, clock, &mut wake)? {
                Some(pick) => {
                    picks.push(pick);
                    idle = 0;
                }
                None => idle += 1,
            }
        }
        for outlet in &self.outlets {
            if let Some(at) = outlet.slots.next_change(clock) {
                wake.at(self.started + at);
            }
        }
        Ok((picks, wake.0))
    }

    /// The next job of one watch, if it may start now.
    fn pick_from(
        &mut self,
        index: usize,
        now: Instant,
        clock: Duration,
        wake: &mut Wake,
    ) -> Result<Option<Pick>, Failure> {
        let lane = &mut self.lanes[index];
        let outlet = &mut self.outlets[lane.pipeline];
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
            lane.fill(&self.journal, &self.taken, at)?;
            if lane.at_hand.is_empty() {
                let Some(next) = self.journal.next_due(watch, at)? else { return Ok(None) };
                // No wait is longer than this: a due time beyond it was written before the wall clock was set back.
                if next <= at.saturating_add(self.longest_wait) {
                    wake.at(now + Duration::from_millis(next - at));
                    return Ok(None);
                }
                lane.fill(&self.journal, &self.taken, Millis::MAX)?;
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

    /// An upload is over; `abandoned` if the server may hold a slot for it still.
    pub(super) fn end(&mut self, pipeline: usize, id: UploadId, abandoned: bool) {
        let clock = self.clock();
        self.outlets[pipeline].slots.end(id, abandoned, clock);
    }
}
