//! The first thing after an opening: jobs that a dead daemon left in mid-way, and watches that came or went.
//!
//! It must not touch what is finished or dead: only the table's `recover` event decides what changes.

use std::ops::AddAssign;

use super::commit::{GROUP_LIMIT, Work};
use super::{Failure, Journal};
use crate::crash;
use crate::job::{Event, JobState, Millis, WatchId};

/// What [`Journal::recover`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovered {
    /// Generations that were being sent when the daemon ended: pending again.
    pub interrupted: u64,
    /// Generations whose watch is not in the configuration any more.
    pub parked: u64,
    /// Parked generations whose watch is back: pending again.
    pub unparked: u64,
}

impl Journal {
    /// To be called once, after the opening and before any event: what was being sent is pending again, what belongs to
    /// watches not listed is parked, what was parked of the listed ones is pending again. Registers their names.
    pub async fn recover(&self, watches: &[(WatchId, String)], now: Millis) -> Result<Recovered, Failure> {
        for names in watches.chunks(GROUP_LIMIT) {
            self.submit(Work::Names(names.to_vec())).await?;
        }
        let mut recovered = Recovered::default();
        for (id, _, _) in self.watches() {
            let listed = watches.iter().any(|(watch, _)| *watch == id);
            recovered += self.recover_watch(id, listed, false, now).await?;
        }
        Ok(recovered)
    }

    /// A watch came into the configuration while the daemon runs: what was parked of it is pending again. What is still on
    /// its way from before is left alone.
    pub async fn watch_came(&self, watch: WatchId, name: &str, now: Millis) -> Result<Recovered, Failure> {
        self.submit(Work::Names(vec![(watch, name.to_owned())])).await?;
        self.recover_watch(watch, true, true, now).await
    }

    /// A watch left the configuration while the daemon runs: what waits to be sent is parked. What is still on its way is
    /// left alone, so this is to be asked again when nothing is.
    pub async fn watch_went(&self, watch: WatchId, now: Millis) -> Result<Recovered, Failure> {
        self.recover_watch(watch, false, true, now).await
    }

    async fn recover_watch(
        &self,
        watch: WatchId,
        watched: bool,
        running: bool,
        now: Millis,
    ) -> Result<Recovered, Failure> {
        let mut recovered = Recovered::default();
        // The ledger tells without a scan whether there is anything to do.
        let counters = self.counters(watch);
        if !["pending", "sending", "blocked", "parked"].iter().any(|state| counters.count(state) > 0) {
            return Ok(recovered);
        }
        let mut after = None;
        loop {
            let journal = self.clone();
            let page = tokio::task::spawn_blocking(move || journal.jobs(watch, after, GROUP_LIMIT));
            let page = page.await.map_err(|error| Failure::Panicked { message: error.to_string() })??;
            let Some((last, _)) = page.last() else { return Ok(recovered) };
            after = Some(*last);
            let mut events = Vec::new();
            for (key, job) in page {
                let count = match (job.state, watched) {
                    (JobState::Sending, _) if running => continue,
                    (JobState::Sending, true) => &mut recovered.interrupted,
                    (JobState::Parked, true) => &mut recovered.unparked,
                    (JobState::Pending { .. } | JobState::Sending | JobState::Blocked { .. }, false) => {
                        &mut recovered.parked
                    }
                    _ => continue,
                };
                *count += 1;
                events.push((key, job.path, Event::Recover { at: now, watched }));
            }
            self.apply_all(events).await?;
            crash::point("recover.page");
        }
    }
}

impl AddAssign for Recovered {
    fn add_assign(&mut self, other: Self) {
        self.interrupted += other.interrupted;
        self.parked += other.parked;
        self.unparked += other.unparked;
    }
}
