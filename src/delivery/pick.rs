//! The choice of the jobs that may start now: watches take turns, and within a watch the oldest due job is claimed first.
//!
//! It never waits for one pipeline's limiter, slot or outage: it checks, notes the earliest time, and goes on to the
//! next watch. To a pipeline that fails only the probe goes, and a file that may kill its task goes alone. It claims
//! and starts nothing: the dispatcher starts workers, and they claim. A file that is claimed and prepared waits for its turn,
//! which comes when its pipeline has room, or never, if it may not be sent any more.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::claimed::Claimed;
use super::failing::{Failed, Refund};
use super::lane::{Head, Lane, Wake};
use super::limits::{ByteLimit, FileLimit};
use super::outlet::{Only, Outlet};
use super::pipeline::{Line, Session};
use super::slots::{Room, UploadId};
use super::space::Space;
use super::worker::{Outcome, Terms};
use crate::clock::unix_millis;
use crate::config::{Config, Limits};
use crate::folder::Folder;
use crate::fs::Root;
use crate::job::{FileKey, JobState, Millis};
use crate::journal::{Failure, Journal};
use crate::meters::meters;
use crate::pauses::{Paused, Subject};
use crate::progress::BEAT_EVERY;

/// No job waits longer than this for another reason than its own failures.
const LONGEST_OTHER_WAIT: Duration = Duration::from_secs(60);
/// Nothing is picked for so long when this process has no descriptors left.
const DESCRIPTOR_PAUSE: Duration = Duration::from_secs(5);

/// What a limit of bytes is made of: bytes per second, and how many uploads share them.
type BytesOf = (Option<u64>, usize);

/// Chooses what is sent next.
pub(super) struct Picker {
    journal: Journal,
    /// Of the whole daemon.
    limits: Limits,
    /// The watches.
    pub(super) lanes: Vec<Lane>,
    /// The pipelines.
    pub(super) outlets: Vec<Outlet>,
    /// Limit of the whole daemon, and whether its next file is paid for already.
    files: Option<FileLimit>,
    files_paid: bool,
    /// Limit of bytes of the whole daemon, with what it was made of; none before the first configuration.
    bytes: Option<(BytesOf, Option<Arc<ByteLimit>>)>,
    /// Which watch is next to have a file picked.
    turn: usize,
    /// Which pipeline is next to send one that is ready.
    next_outlet: usize,
    next_id: UploadId,
    /// Keys that are picked, or that a worker has.
    pub(super) taken: HashSet<FileKey>,
    /// The clock of all slots begins here.
    started: Instant,
    /// Nothing is picked before.
    paused_until: Option<Instant>,
    space: Space,
    /// The longest that any job is made to wait, in milliseconds.
    longest_wait: Millis,
    /// Between two probes of a pipeline that fails.
    probe_pause: Duration,
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
    /// At whose risk.
    pub(super) terms: Terms,
}

impl Picker {
    /// A picker that nothing has been configured for yet.
    pub(super) fn new(config: &Config, journal: Journal) -> Self {
        Self {
            journal,
            limits: config.limits.clone(),
            lanes: Vec::new(),
            outlets: Vec::new(),
            files: config.limits.files_per_second.and_then(FileLimit::new),
            files_paid: false,
            bytes: None,
            turn: 0,
            next_outlet: 0,
            next_id: 0,
            taken: HashSet::new(),
            started: Instant::now(),
            paused_until: None,
            space: Space::new(config.state.clone()),
            probe_pause: config.retry.max,
            longest_wait: 0,
        }
    }

    /// Serves these watches and pipelines from now on, given in the order of the configuration. What stays of them keeps
    /// all that is known of it. A pipeline that is `in_use` is kept for those who use it, though nothing new goes there.
    ///
    /// Returns the new index of every pipeline that there was.
    pub(super) fn configure(
        &mut self,
        config: &Config,
        folders: &[Arc<Folder>],
        lines: &[Arc<Line>],
        in_use: impl Fn(usize) -> bool,
    ) -> Vec<Option<usize>> {
        let limits = &config.limits;
        // An upload that was granted late runs beside those that hold a permit: at most one for each pipeline.
        let sharers = limits.max_concurrent_uploads + lines.len();
        let shared = (limits.bytes_per_second, sharers);
        if self.bytes.as_ref().is_none_or(|(known, _)| *known != shared) {
            let make = if self.bytes.is_some() { ByteLimit::spent } else { ByteLimit::new };
            let limit = limits.bytes_per_second.and_then(|rate| make(rate, sharers)).map(Arc::new);
            self.bytes = Some((shared, limit));
        }
        if self.limits.files_per_second != limits.files_per_second {
            self.files = limits.files_per_second.and_then(FileLimit::spent);
            self.files_paid = false;
        }
        self.limits = limits.clone();
        self.space = Space::new(config.state.clone());
        self.probe_pause = config.retry.max;
        let longest_wait = config.retry.max.max(LONGEST_OTHER_WAIT);
        self.longest_wait = u64::try_from(longest_wait.as_millis()).unwrap_or(Millis::MAX);

        let daemon_bytes = self.bytes.as_ref().and_then(|(_, limit)| limit.as_ref());
        let mut old: Vec<_> = std::mem::take(&mut self.outlets).into_iter().map(Some).collect();
        let mut moved = vec![None; old.len()];
        for line in lines {
            let known =
                old.iter().position(|outlet| outlet.as_ref().is_some_and(|known| Arc::ptr_eq(&known.line, line)));
            let own = config.pipeline(&line.config.name).map_or(&line.config.limits, |pipeline| &pipeline.limits);
            let outlet = match known.and_then(|index| old[index].take().map(|outlet| (index, outlet))) {
                Some((index, mut outlet)) => {
                    moved[index] = Some(self.outlets.len());
                    outlet.limit(own, daemon_bytes);
                    outlet
                }
                None => Outlet::new(line.clone(), own, daemon_bytes),
            };
            self.outlets.push(outlet);
        }
        for (index, outlet) in old.into_iter().enumerate() {
            if let Some(outlet) = outlet.filter(|_| in_use(index)) {
                moved[index] = Some(self.outlets.len());
                self.outlets.push(outlet);
            }
        }
        self.lanes = folders
            .iter()
            .filter_map(|folder| {
                let pipeline = lines.iter().position(|line| line.config.name == folder.watch.pipeline)?;
                Some(Lane::new(folder.clone(), pipeline))
            })
            .collect();
        for (pipeline, outlet) in self.outlets.iter_mut().enumerate() {
            outlet.only = outlet.only.and_then(|only| {
                let is_its = |lane: &Lane| lane.pipeline == pipeline && lane.folder.watch.id == only.key.watch;
                Some(Only { lane: self.lanes.iter().position(is_its)?, ..only })
            });
        }
        (self.turn, self.next_outlet) = (0, 0);
        moved
    }

    /// Leaves alone from now on what an operator paused, and nothing else.
    pub(super) fn obey(&mut self, paused: &Paused) {
        for lane in &mut self.lanes {
            lane.paused = paused.contains_key(&Subject::Watch(lane.folder.watch.name.clone()));
        }
        for outlet in &mut self.outlets {
            outlet.paused = paused.contains_key(&Subject::Pipeline(outlet.line.config.name.clone()));
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
        let mut wake = Wake(now + BEAT_EVERY);
        let mut picks = Vec::new();
        if let Some(until) = self.paused_until.filter(|until| *until > now) {
            wake.at(until);
            return Ok((picks, wake.0));
        }
        if !self.space.is_enough(now) {
            return Ok((picks, wake.0));
        }
        let clock = self.clock();
        for pipeline in 0..self.outlets.len() {
            self.narrow(pipeline, now, &mut wake)?;
        }
        let most_claimed = self.limits.max_concurrent_uploads
            + self.outlets.iter().map(|outlet| self.ahead(outlet, clock)).max().unwrap_or_default();
        let mut idle = 0;
        while idle < self.lanes.len() && picks.len() < most {
            let coming: usize = self.outlets.iter().map(|outlet| outlet.slots.coming(clock)).sum();
            if self.permits(clock) + coming >= most_claimed {
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
        Ok((picks, wake.0))
    }

    /// When room comes of itself next, if nothing else happens before.
    pub(super) fn next_change(&self) -> Option<Instant> {
        let clock = self.clock();
        let changes = self.outlets.iter().filter_map(|outlet| outlet.slots.next_change(clock));
        changes.min().map(|at| self.started + at)
    }

    /// Uploads that hold a permit of the daemon.
    fn permits(&self, clock: Duration) -> usize {
        self.outlets.iter().map(|outlet| outlet.slots.permits(clock)).sum()
    }

    /// How many files may be claimed beyond those that a pipeline has room for. Each is paid for, so under a limit of files per
    /// second they are few: what is paid for is to go soon.
    fn ahead(&self, outlet: &Outlet, clock: Duration) -> usize {
        let limits = self.files.iter().chain(&outlet.files);
        limits.map(FileLimit::prepaid).fold(outlet.slots.ahead(clock), usize::min)
    }

    /// The next upload whose turn it is, of all that are ready, and its pipeline.
    pub(super) fn next_turn(&mut self) -> Option<(usize, UploadId)> {
        let clock = self.clock();
        if self.permits(clock) >= self.limits.max_concurrent_uploads {
            return None;
        }
        let (first, count) = (self.next_outlet, self.outlets.len());
        let mut pipelines = (0..count).map(|nth| (first + nth) % count);
        let (pipeline, id) = pipelines.find_map(|pipeline| {
            let outlet = &mut self.outlets[pipeline];
            outlet.notice_session();
            Some((pipeline, outlet.slots.turn(clock)?))
        })?;
        self.next_outlet = pipeline + 1;
        Some((pipeline, id))
    }

    /// The session that a file which was picked earlier may go to now; none if it may not any more.
    pub(super) fn may_go(&self, pipeline: usize, Claimed { key, folder, .. }: &Claimed) -> Option<Arc<Session>> {
        let outlet = &self.outlets[pipeline];
        let is_meant = match outlet.only {
            Some(only) => only.key == *key,
            None => outlet.streak.next_probe().is_none() && !outlet.suspects.goes_alone(*key),
        };
        let lane = self.lanes.iter().find(|lane| lane.pipeline == pipeline && Arc::ptr_eq(&lane.folder, folder))?;
        // When to look again does not matter: it is picked anew then.
        lane.root(&self.journal, Instant::now(), &mut Wake(Instant::now()))?;
        outlet.line.session().filter(|_| is_meant && !outlet.paused)
    }

    /// It can be sent when its turn comes.
    pub(super) fn ready(&mut self, pipeline: usize, id: UploadId) {
        self.outlets[pipeline].slots.ready(id);
    }

    /// The next job of one watch, if it may be claimed now.
    fn pick_from(
        &mut self,
        index: usize,
        now: Instant,
        clock: Duration,
        wake: &mut Wake,
    ) -> Result<Option<Pick>, Failure> {
        let ahead = self.ahead(&self.outlets[self.lanes[index].pipeline], clock);
        let lane = &mut self.lanes[index];
        let outlet = &mut self.outlets[lane.pipeline];
        let Some(root) = lane.root(&self.journal, now, wake) else { return Ok(None) };
        let Some(session) = outlet.notice_session().filter(|_| !outlet.paused) else { return Ok(None) };
        match outlet.slots.room_ahead(lane.folder.watch.id, ahead, clock) {
            Room::Yes => {}
            Room::NotBefore(at) => {
                wake.at(self.started + at);
                return Ok(None);
            }
            Room::No => return Ok(None),
        }
        let probe_at = outlet.streak.next_probe();
        if outlet.only.is_none() {
            // Without a probe nothing goes to a pipeline that fails.
            if probe_at.is_some() {
                return Ok(None);
            }
            let at = unix_millis();
            let key = match lane.head(&self.journal, &self.taken, self.longest_wait, at)? {
                Head::Due(key, _) => key,
                Head::Later(next) => {
                    wake.at(now + Duration::from_millis(next - at));
                    return Ok(None);
                }
                Head::Empty => return Ok(None),
            };
            if outlet.suspects.goes_alone(key) {
                outlet.only = Some(Only { lane: index, key, upload: None });
            } else {
                return Ok(self.paid(index, now, wake).then(|| self.take(index, key, root, session, clock)));
            }
        }
        let Some(only) = outlet.only.filter(|only| only.lane == index && !self.taken.contains(&only.key)) else {
            return Ok(None);
        };
        if outlet.slots.in_flight() > 0 {
            return Ok(None);
        }
        if let Some(at) = probe_at.filter(|at| *at > clock) {
            wake.at(self.started + at);
            return Ok(None);
        }
        Ok(self.paid(index, now, wake).then(|| self.take(index, only.key, root, session, clock)))
    }

    /// Whether the limits of files per second let another one go. One that was paid for at one limit and refused by
    /// the other stays paid.
    fn paid(&mut self, lane: usize, now: Instant, wake: &mut Wake) -> bool {
        let outlet = &mut self.outlets[self.lanes[lane].pipeline];
        for (limit, paid) in [(&outlet.files, &mut outlet.files_paid), (&self.files, &mut self.files_paid)] {
            let Some(limit) = limit else { continue };
            if !*paid {
                match limit.take() {
                    Ok(()) => *paid = true,
                    Err(wait) => {
                        outlet.throttled.get_or_insert(now);
                        wake.at(now + wait);
                        return false;
                    }
                }
            }
        }
        (outlet.files_paid, self.files_paid) = (false, false);
        if let Some(since) = outlet.throttled.take() {
            meters().throttled(&outlet.line.config.name, "files", now.saturating_duration_since(since));
        }
        true
    }

    /// Takes a job for an upload.
    fn take(&mut self, lane: usize, key: FileKey, root: Arc<Root>, session: Arc<Session>, clock: Duration) -> Pick {
        let outlet = &mut self.outlets[self.lanes[lane].pipeline];
        let terms = Terms { probe: outlet.streak.next_probe().is_some(), alone: outlet.suspects.goes_alone(key) };
        self.lanes[lane].remove(key);
        self.taken.insert(key);
        self.next_id += 1;
        outlet.slots.prepare(self.next_id, key.watch, clock);
        if let Some(only) = outlet.only.as_mut().filter(|only| only.key == key) {
            only.upload = Some(self.next_id);
        }
        Pick { id: self.next_id, lane, key, root, session, terms }
    }

    /// Looks whether the one file that may go to a pipeline still may, and chooses the probe of one that fails: the
    /// oldest due file of all its watches, and the same one until it is delivered or given up.
    fn narrow(&mut self, pipeline: usize, now: Instant, wake: &mut Wake) -> Result<(), Failure> {
        let (at, clock) = (unix_millis(), self.clock());
        let outlet = &mut self.outlets[pipeline];
        let failing = outlet.streak.next_probe().is_some();
        if let Some(only) = outlet.only {
            let stays = if self.taken.contains(&only.key) {
                // Once it is over, its result alone is being written; and a disk that does not answer keeps nobody waiting.
                let is_held_up = only.upload.is_some_and(|upload| outlet.slots.is_held_up(upload, clock));
                let goes = only.upload.is_some_and(|upload| outlet.slots.holds(upload));
                !is_held_up && (failing || goes)
            } else if outlet.slots.hangs(only.key.watch, clock) {
                false
            } else if self.lanes[only.lane].root(&self.journal, now, wake).is_some() {
                match self.journal.get(only.key)?.map(|job| job.state) {
                    Some(JobState::Pending { due }) if due <= at => true,
                    Some(JobState::Pending { due }) if failing && due - at <= self.longest_wait => {
                        wake.at(now + Duration::from_millis(due - at));
                        true
                    }
                    _ => false,
                }
            } else {
                false
            };
            if !stays {
                outlet.only = None;
            }
        }
        if !failing || outlet.only.is_some() {
            return Ok(());
        }
        let mut oldest = None;
        for (index, lane) in self.lanes.iter_mut().enumerate().filter(|(_, lane)| lane.pipeline == pipeline) {
            if lane.root(&self.journal, now, wake).is_none() || outlet.slots.hangs(lane.folder.watch.id, clock) {
                continue;
            }
            match lane.head(&self.journal, &self.taken, self.longest_wait, at)? {
                Head::Due(key, due) if oldest.is_none_or(|(oldest, _)| due < oldest) => {
                    oldest = Some((due, Only { lane: index, key, upload: None }));
                }
                Head::Due(..) | Head::Empty => {}
                Head::Later(next) => wake.at(now + Duration::from_millis(next - at)),
            }
        }
        outlet.only = oldest.map(|(_, only)| only);
        Ok(())
    }

    /// An upload of this file is over, in this way.
    pub(super) fn note(&mut self, pipeline: usize, key: FileKey, path: &Path, outcome: Outcome) {
        if outcome == Outcome::OutOfDescriptors {
            self.paused_until = Some(Instant::now() + DESCRIPTOR_PAUSE);
        }
        let clock = self.clock();
        self.outlets[pipeline].note(key, path, outcome, clock);
    }

    /// The journal has it that the pipeline failed on a file. Returns who gets attempts back.
    pub(super) fn failed(&mut self, pipeline: usize, failed: Failed, error: &str) -> Vec<Refund> {
        let clock = self.clock();
        self.outlets[pipeline].failed(failed, error, self.probe_pause, clock)
    }

    /// An upload is over; `abandoned` if the server may hold a slot for it still.
    pub(super) fn end(&mut self, pipeline: usize, id: UploadId, abandoned: bool) {
        let clock = self.clock();
        self.outlets[pipeline].slots.end(id, abandoned, clock);
    }
}
