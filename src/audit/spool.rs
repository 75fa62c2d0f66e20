//! The spool: what lies in it belongs to a job that waits for it.

use std::collections::HashSet;

use uuid::Uuid;

use super::Run;
use super::report::Findings;
use crate::job::{FileKey, JobState};
use crate::journal::Failure;

/// Results that no job waits for, unless one of them was recorded a moment ago.
pub(super) fn orphans(run: &Run<'_>, spooled: &HashSet<Uuid>) -> Findings {
    let mut findings = Findings::default();
    for id in run.audit.spool.ids().into_iter().filter(|id| !spooled.contains(id)) {
        findings.add(&run.audit.spool_path(id), "a result in the spool that no job waits for");
    }
    findings
}

/// Keeps those that are still there, that still nobody waits for, and that were not left there because their place was
/// gone.
pub(super) fn confirm(run: &Run<'_>, findings: &mut Findings) -> Result<(), Failure> {
    let audit = run.audit;
    let mut failure = None;
    findings.confirm(|finding| {
        let id = finding.path.file_stem().and_then(|id| Uuid::try_parse(id.to_str()?).ok());
        let Some(whole) = id.and_then(|id| audit.spool.read(id).ok().flatten()) else { return false };
        let Some(subject) = audit.subjects.iter().find(|subject| subject.watch.name == whole.watch) else {
            return true;
        };
        let Ok(rel) = whole.filepath.strip_prefix(&subject.watch.path) else { return true };
        match audit.journal.get(FileKey::new(subject.watch.id, rel)) {
            Ok(job) => job.is_none_or(|job| {
                let kept = job.state == JobState::Done && job.absent && job.sha256 == Some(whole.sha256);
                job.state != JobState::Spooled && !kept
            }),
            Err(error) => {
                failure = Some(error);
                false
            }
        }
    });
    failure.map_or(Ok(()), Err)
}
