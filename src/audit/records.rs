//! The records of a watch: as many in every state as its ledger says, and what waits in the spool is there.

use std::collections::HashSet;

use uuid::Uuid;

use super::inputs::Hidden;
use super::report::WatchReport;
use super::{Run, Subject, whole_root};
use crate::job::{Counters, Job, JobState, STATE_NAMES, WatchId};
use crate::journal::Failure;

/// Records read at a time.
const PAGE: usize = 256;
/// How often a ledger is compared with records that keep changing.
const TRIES: usize = 3;
/// Hidden names and the job that accounts for them.
const TEMP_OF: &str = "a temp file that no upload writes to; the next start removes it";
const HIDDEN_OF: &str = "a file in the middle of a post-action that no job knows of; it is left as it is";

/// All records, gone through watch by watch.
pub(super) struct Records<'a> {
    run: &'a Run<'a>,
    subjects: &'a [Subject],
    reports: Vec<WatchReport>,
    hidden: Vec<Hidden>,
    /// The objects whose results wait in the spool.
    spooled: HashSet<Uuid>,
}

impl<'a> Records<'a> {
    /// Begins with what is known of the subjects, in their order.
    pub(super) fn new(
        run: &'a Run<'a>,
        subjects: &'a [Subject],
        reports: Vec<WatchReport>,
        hidden: Vec<Hidden>,
    ) -> Self {
        Self { run, subjects, reports, hidden, spooled: HashSet::new() }
    }

    /// Goes through the records of a watch.
    pub(super) fn count(&mut self, watch: WatchId, name: &str) -> Result<(), Failure> {
        let index = self.subjects.iter().position(|subject| subject.watch.id == watch).unwrap_or_else(|| {
            self.reports.push(WatchReport { watch: name.to_owned(), ..WatchReport::default() });
            self.reports.len() - 1
        });
        let journal = &self.run.audit.journal;
        let changes = journal.changes();
        let mut wrong = None;
        for attempt in 0..TRIES {
            let before = *changes.borrow();
            let counters = journal.counters(watch);
            let states = self.states(watch, name, index, attempt == 0)?;
            if *changes.borrow() != before {
                continue;
            }
            let difference = compare(&counters, &states);
            // A commit may have come between the last page and the notice of it: only what is seen twice counts.
            if difference.is_none() || difference == wrong {
                self.reports[index].counted = true;
                wrong = difference;
                break;
            }
            wrong = difference;
            std::thread::sleep(self.run.audit.pace.again_after);
        }
        let report = &mut self.reports[index];
        if let Some(what) = wrong.filter(|_| report.counted) {
            report.differences.add(whole_root(), what);
        }
        Ok(())
    }

    /// The number of records in each state.
    fn states(
        &mut self,
        watch: WatchId,
        name: &str,
        index: usize,
        first: bool,
    ) -> Result<[u64; STATE_NAMES.len()], Failure> {
        let mut states = [0; STATE_NAMES.len()];
        let mut after = None;
        loop {
            let page = self.run.audit.journal.jobs(watch, after, PAGE)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            for (_, job) in page {
                self.run.breathe();
                states[job.state.index()] += 1;
                if first {
                    self.record(&job, name, index);
                }
            }
        }
        self.reports[index].records = states.iter().sum();
        Ok(states)
    }

    /// What a record accounts for, or lacks.
    fn record(&mut self, job: &Job, watch: &str, index: usize) {
        if !matches!(job.state, JobState::Sending | JobState::Spooled | JobState::Delivered | JobState::Failed) {
            return;
        }
        let audit = self.run.audit;
        let id = audit.identity.object_id(watch, &job.path);
        if let Some(hidden) = self.hidden.get_mut(index) {
            hidden.remove(&id);
        }
        if job.state != JobState::Spooled {
            return;
        }
        self.spooled.insert(id);
        let report = &mut self.reports[index];
        match audit.spool.read(id) {
            Ok(Some(_)) => {}
            Ok(None) => report
                .differences
                .add(&job.path, format!("its result is not in the spool: {}", audit.spool_path(id).display())),
            Err(error) => report.unknown.add(&job.path, format!("its result in the spool cannot be read: {error}")),
        }
    }

    /// The reports, and the objects whose results wait in the spool.
    pub(super) fn finish(mut self) -> (Vec<WatchReport>, HashSet<Uuid>) {
        for (report, hidden) in self.reports.iter_mut().zip(self.hidden) {
            let mut names: Vec<_> = hidden.into_values().flatten().collect();
            names.sort();
            for name in names {
                let temp =
                    crate::fs::base_name(&name).as_encoded_bytes().starts_with(crate::sidecar::TEMP_PREFIX.as_bytes());
                report.notes.add(&name, if temp { TEMP_OF } else { HIDDEN_OF });
            }
        }
        (self.reports, self.spooled)
    }
}

/// What is wrong with a ledger, if anything is.
fn compare(counters: &Counters, states: &[u64; STATE_NAMES.len()]) -> Option<String> {
    if !counters.balanced() {
        return Some(format!("the ledger does not balance: {counters:?}"));
    }
    let wrong = STATE_NAMES.iter().zip(counters.states.iter().zip(states)).filter(|(_, (says, are))| says != are);
    let wrong: Vec<_> =
        wrong.map(|(name, (says, are))| format!("{says} {name} by the ledger, {are} by the records")).collect();
    (!wrong.is_empty()).then(|| wrong.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_is_compared_state_by_state() {
        let mut counters = Counters { admitted: 3, ..Counters::default() };
        counters.states[JobState::Done.index()] = 3;
        let mut states = counters.states;
        assert_eq!(compare(&counters, &states), None);
        states[JobState::Done.index()] = 2;
        assert_eq!(compare(&counters, &states).as_deref(), Some("3 done by the ledger, 2 by the records"));
        counters.admitted = 4;
        assert!(compare(&counters, &counters.states).unwrap().contains("does not balance"));
    }
}
