//! What one watch has to send, oldest first, a handful of keys at a time.
//!
//! It must not know of pipelines: whether one of them takes a file is asked elsewhere.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::folder::Folder;
use crate::fs::Root;
use crate::job::{FileKey, JobState, Millis};
use crate::journal::{Failure, Journal};

/// Due jobs of one watch that are kept at hand.
const AT_HAND: usize = 64;
/// How long a lane waits whose results cannot be written.
const UNPLACED_PAUSE: Duration = Duration::from_secs(1);

/// The earliest of the times that were noted.
pub(super) struct Wake(pub(super) Instant);

impl Wake {
    /// Notes a time.
    pub(super) fn at(&mut self, at: Instant) {
        self.0 = self.0.min(at);
    }
}

/// One watch.
pub(super) struct Lane {
    /// The watch.
    pub(super) folder: Arc<Folder>,
    /// Index of its pipeline.
    pub(super) pipeline: usize,
    /// An operator paused it.
    pub(super) paused: bool,
    /// With their due times.
    at_hand: VecDeque<(FileKey, Millis)>,
    /// Whose spooled result was tried last: one that no folder takes must not keep the others back.
    pub(super) tried: Option<FileKey>,
}

/// What one watch has to send.
pub(super) enum Head {
    /// This job is due since then.
    Due(FileKey, Millis),
    /// The next one is due then.
    Later(Millis),
    /// Nothing.
    Empty,
}

impl Lane {
    /// The lane of a watch to its pipeline.
    pub(super) fn new(folder: Arc<Folder>, pipeline: usize) -> Self {
        Self { folder, pipeline, paused: false, at_hand: VecDeque::new(), tried: None }
    }

    /// The root, unless the watch cannot send now.
    pub(super) fn root(&self, journal: &Journal, now: Instant, wake: &mut Wake) -> Option<Arc<Root>> {
        // Nor is anything asked of the pipeline while what it did last for this watch waits to be written down.
        if self.paused || self.has_spooled(journal) {
            return None;
        }
        let root = self.folder.root()?;
        if let Some(until) = self.folder.held_until(now) {
            wake.at(until);
            return None;
        }
        // What the pipeline did last for this watch cannot be written down: nothing more is asked of it.
        if self.folder.has_unplaced() {
            wake.at(now + UNPLACED_PAUSE);
            return None;
        }
        Some(root)
    }

    /// Whether results of it wait in the spool.
    pub(super) fn has_spooled(&self, journal: &Journal) -> bool {
        journal.counters(self.folder.watch.id).states[JobState::Spooled.index()] > 0
    }

    /// Its oldest job that nobody has.
    pub(super) fn head(
        &mut self,
        journal: &Journal,
        taken: &HashSet<FileKey>,
        longest_wait: Millis,
        at: Millis,
    ) -> Result<Head, Failure> {
        let watch = self.folder.watch.id;
        for until in [Some(at), None] {
            while let Some((key, due)) = self.at_hand.front() {
                if !taken.contains(key) {
                    return Ok(Head::Due(*key, *due));
                }
                self.at_hand.pop_front();
            }
            let until = match until {
                Some(until) => until,
                None => match journal.next_due(watch, at)? {
                    None => return Ok(Head::Empty),
                    Some(next) if next <= at.saturating_add(longest_wait) => return Ok(Head::Later(next)),
                    // No wait is longer than this: such a due time was written before the wall clock was set back.
                    Some(_) => Millis::MAX,
                },
            };
            // What waits for its post-action is due at the beginning of time, however much it is; what is taken may come first.
            let due = journal.due(watch, 1, until, AT_HAND + taken.len())?;
            let waiting = due.into_iter().filter(|(key, _)| !taken.contains(key));
            self.at_hand.extend(waiting.take(AT_HAND));
        }
        Ok(self.at_hand.front().map_or(Head::Empty, |(key, due)| Head::Due(*key, *due)))
    }

    /// It was taken from here, or from elsewhere.
    pub(super) fn remove(&mut self, key: FileKey) {
        self.at_hand.retain(|(at_hand, _)| *at_hand != key);
    }
}
