//! Looking at the paths whose time has come: those that have settled go into the journal.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::admit::{Decision, Desk, Inspection};
use super::settle::Verdict;
use super::{Intake, QUIET_UNSURE, ROOT_CHECK};
use crate::blocking::blocking;
use crate::clock::unix_millis;
use crate::fs::Root;
use crate::job::{Event, FileKey, Job, JobState};
use crate::journal::Failure;
use crate::meters::meters;
use crate::show::Shown;

/// Paths looked at in one go.
const BATCH: usize = 256;
/// Bytes hashed in one go; what is left is looked at right after.
const HASH_BUDGET: u64 = 256 * 1024 * 1024;
/// When a path is looked at again that could not be looked at.
const UNKNOWN_DELAY: Duration = Duration::from_secs(10);
/// When a path is looked at again whose earlier generation is on its way, or that is gone while it is.
const BUSY_DELAY: Duration = Duration::from_millis(500);

/// What came of a look beyond what the journal was told.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// Paths that are folders.
    pub(super) folders: Vec<PathBuf>,
    /// Paths that cannot be looked at gave way to others: the next scan finds them again.
    pub(super) dropped: bool,
}

impl Intake {
    /// Looks at the paths whose time has come, and admits those that have settled. What is no failure, but an error, is why
    /// the root is not what it was.
    pub(super) async fn settle(&mut self, root: &Arc<Root>) -> Result<Result<Looked, String>, Failure> {
        let due = self.settling.due(self.started.elapsed(), BATCH);
        let inspected =
            self.at_desk(root, move |desk| due.into_iter().map(|rel| (desk.inspect(&rel), rel)).collect::<Vec<_>>());
        let inspected = match inspected.await {
            Ok(inspected) => inspected,
            Err(reason) => return Ok(Err(reason)),
        };
        let now = self.started.elapsed();
        let (mut settled, mut gone, mut looked) = (Vec::new(), Vec::new(), Looked::default());
        for (inspection, rel) in inspected {
            match inspection {
                Inspection::Candidate(generation) if self.selector.file(&rel).is_ok() => {
                    if self.settling.look(&rel, generation, now) == Verdict::Settled {
                        let watch = &self.folder.watch;
                        let unsure_is_fine = watch.settle.is_some()
                            || watch.done_marker.is_some()
                            || self.settling.quiet(&rel).is_some_and(|quiet| quiet >= QUIET_UNSURE);
                        settled.push((rel, generation, unsure_is_fine));
                    }
                }
                Inspection::Candidate(_) | Inspection::Nothing => self.settling.remove(&rel),
                Inspection::Gone => gone.push(rel),
                Inspection::Busy => self.settling.postpone(&rel, BUSY_DELAY, now),
                Inspection::Unmarkable => {
                    self.say_unmarkable(&rel);
                    self.settling.remove(&rel);
                }
                Inspection::Directory => {
                    self.settling.remove(&rel);
                    looked.folders.push(rel);
                }
                Inspection::Unknown(error) => {
                    tracing::debug!(watch = %self.folder.watch.name, path = %Shown(&rel), %error, "cannot be looked at now");
                    looked.dropped |= !self.settling.unknown(&rel, UNKNOWN_DELAY, now);
                }
            }
        }
        let at = unix_millis();
        let decided = self.at_desk(root, move |desk| {
            let mut decided = Vec::with_capacity(settled.len());
            for (rel, generation, unsure_is_fine) in settled {
                decided.push((desk.decide(&rel, generation, unsure_is_fine, at), rel));
                // The others are due still, and decided in the next round: hints and the root are not to wait for hours.
                if desk.hashed() >= HASH_BUDGET {
                    break;
                }
            }
            (decided, desk.unsure())
        });
        let (decided, unsure) = match decided.await {
            Ok(decided) => decided,
            Err(reason) => return Ok(Err(reason)),
        };
        if unsure.is_none()
            && decided.iter().any(|(decision, _)| matches!(decision, Decision::Record(_) | Decision::Writing))
        {
            self.folder.set_writers(Ok(()));
        }
        // Where a marker says that a file is whole, nobody needs to be told that the kernel does not.
        if let Some(why) = unsure
            && self.folder.watch.done_marker.is_none()
        {
            self.say_unsure(why);
        }
        let now = self.started.elapsed();
        let mut events: Vec<(PathBuf, Event)> = gone.into_iter().map(|rel| (rel, Event::Gone)).collect();
        for (decision, rel) in decided {
            match decision {
                Decision::Record(event) => events.push((rel, event)),
                Decision::Nothing => self.settling.remove(&rel),
                Decision::NoWriterCheck(why) => {
                    self.say_unsure(why);
                    self.settling.notice(&rel, QUIET_UNSURE, now);
                }
                Decision::Busy => self.settling.postpone(&rel, BUSY_DELAY, now),
                Decision::Writing | Decision::Later(None) => self.settling.restart(&rel, now),
                Decision::Later(Some(error)) => {
                    tracing::debug!(watch = %self.folder.watch.name, path = %Shown(&rel), %error, "cannot be admitted now");
                    looked.dropped |= !self.settling.unknown(&rel, UNKNOWN_DELAY, now);
                }
            }
        }
        self.record(events).await?;
        Ok(Ok(looked))
    }

    async fn record(&mut self, events: Vec<(PathBuf, Event)>) -> Result<(), Failure> {
        if events.is_empty() {
            return Ok(());
        }
        let watch = self.folder.watch.id;
        let rels: Vec<PathBuf> = events.iter().map(|(rel, _)| rel.clone()).collect();
        let events: Vec<_> = events.into_iter().map(|(rel, event)| (FileKey::new(watch, &rel), rel, event)).collect();
        let kinds: Vec<_> = events.iter().map(|(_, _, event)| event.name()).collect();
        let outcomes = self.journal.apply_all(events).await?;
        let now = self.started.elapsed();
        for ((rel, outcome), kind) in rels.into_iter().zip(outcomes).zip(kinds) {
            match outcome {
                Ok(job) => {
                    self.count(kind, &job);
                    self.settling.remove(&rel);
                }
                // It moved on between the look and the commit: look again.
                Err(refused) => {
                    tracing::debug!(watch = %self.folder.watch.name, path = %Shown(&rel), %refused, "looking again");
                    self.settling.postpone(&rel, BUSY_DELAY, now);
                }
            }
        }
        Ok(())
    }

    fn say_unmarkable(&mut self, rel: &Path) {
        if !std::mem::replace(&mut self.never_said, true) {
            tracing::warn!(
                watch = %self.folder.watch.name, path = %Shown(rel),
                "the name of this file is so long that its done_marker can never exist, so it is never sent; there may be \
                 others like it: give such files shorter names"
            );
        }
    }

    fn count(&self, event: &str, job: &Job) {
        let watch = &self.folder.watch.name;
        match event {
            "admit" => {
                let changed = job.generation.ctime_ns.unwrap_or_default().max(job.generation.mtime_ns);
                let changed = u64::try_from(changed / 1_000_000).unwrap_or_default();
                let delay = Duration::from_millis(job.admitted_at.saturating_sub(changed));
                meters().detection_delay.observe(delay.as_secs_f64());
            }
            "adopt" => meters().file_ended(watch, "adopted"),
            "gone" if job.state == JobState::Vanished => meters().file_ended(watch, "vanished"),
            _ => {}
        }
    }

    fn say_unsure(&mut self, why: &'static str) {
        self.folder.set_writers(Err(why));
        if !std::mem::replace(&mut self.unsure_said, true) {
            tracing::warn!(
                watch = %self.folder.watch.name, why, seconds = self.folder.watch.settle.unwrap_or(QUIET_UNSURE).as_secs_f64(),
                "the kernel does not tell whether files here are still being written; they settle by quiet alone"
            );
        }
    }

    /// Runs a closure that blocks on the disk. That may take long, for files are read; but if the root is not what it was
    /// meanwhile, or does not answer, this says so and does not wait for the end: nothing else would notice it.
    async fn at_desk<T: Send + 'static>(
        &self,
        root: &Arc<Root>,
        work: impl FnOnce(Desk<'_>) -> T + Send + 'static,
    ) -> Result<T, String> {
        let (folder, desk_root, journal, identity) =
            (self.folder.clone(), root.clone(), self.journal.clone(), self.identity.clone());
        let mut work = std::pin::pin!(blocking(move || work(Desk::new(&folder, &desk_root, &journal, &identity))));
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                () = tokio::time::sleep(ROOT_CHECK) => self.check_root(root).await?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::intake::testing;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_look_that_never_ends_does_not_hide_that_the_root_is_gone() {
        let (dir, intake, root) = testing::intake().await;
        assert_eq!(intake.at_desk(&root, |_| 7).await, Ok(7));
        std::fs::rename(root.path(), dir.path().join("away")).unwrap();
        let (go_on, hangs) = std::sync::mpsc::channel::<()>();
        let looked = intake.at_desk(&root, move |_| hangs.recv().is_ok()).await;
        assert!(looked.is_err_and(|reason| !reason.is_empty()), "the look goes on, and nobody waits for it");
        drop(go_on);
    }
}
