//! The audit: what the journal says, what the folders hold and what the results say, compared, watch by watch.
//!
//! It looks for what must not be: a ledger that does not balance, or is not the sum of its records; a delivered file that
//! stands there unchanged and has no result, or one of another content; an input that nobody ever took in; a result in the
//! spool that no job waits for, and a job whose result is not there. It says also what it found strange and left alone.
//!
//! Work in flight is no difference: whatever looks like one is looked at once more after a while. Unknown is never absent: what
//! cannot be looked at is reported as unknown. It changes nothing, reads nothing outside the roots, and needs no memory
//! that grows with the folders: of each kind of finding the first [`MAX_NAMED`] are named, the others counted.
//!
//! It must not know of pipelines, uploads or who reads its report. Everything here blocks on the disk, but for
//! [`regularly`].

mod inputs;
mod records;
mod regular;
mod report;
mod spool;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use self::regular::regularly;
pub use self::report::{Finding, Findings, MAX_NAMED, Report, WatchReport};
use crate::config::Watch;
use crate::delivery::spool::Spool;
use crate::folder::{Availability, Folder, open_root};
use crate::fs::Root;
use crate::identity::Identity;
use crate::journal::{Failure, Journal};
use crate::meters::meters;
use inputs::Inputs;
use records::Records;

/// Files or records looked at between two pauses.
const STRIDE: u32 = 64;

/// Everything that is compared.
pub struct Audit {
    /// What the daemon remembers.
    pub journal: Journal,
    /// Whose results count.
    pub identity: Arc<Identity>,
    /// Results that wait for a folder.
    pub spool: Arc<Spool>,
    /// The watches.
    pub subjects: Vec<Subject>,
    /// How much it leaves to others.
    pub pace: Pace,
}

/// A watch that is audited.
pub struct Subject {
    watch: Arc<Watch>,
    /// Its root, or why there is none.
    root: Result<Arc<Root>, String>,
    /// What a running daemon knows of it.
    folder: Option<Arc<Folder>>,
}

impl Subject {
    /// A watch of a running daemon.
    pub fn of_folder(folder: &Arc<Folder>) -> Self {
        let root = match &*folder.availability().borrow() {
            Availability::Open(root) => Ok(root.clone()),
            Availability::Starting => Err("it has not been opened yet".into()),
            Availability::Unavailable(why) => Err(why.to_string()),
        };
        Self { watch: folder.watch.clone(), root, folder: Some(folder.clone()) }
    }

    /// A watch while no daemon runs.
    pub fn of_watch(watch: &Arc<Watch>) -> Self {
        let root = open_root(watch).map(Arc::new).map_err(|error| error.to_string());
        Self { watch: watch.clone(), root, folder: None }
    }

    /// How long it takes at most until intake looks at a file that no event told of, if it is not settling.
    fn until_walked(&self) -> Duration {
        self.folder.as_ref().map_or(Duration::ZERO, |_| self.watch.rescan_interval.max(self.watch.poll_interval))
    }

    /// Whether intake has seen everything, and nothing is waiting to be admitted.
    fn is_idle(&self) -> bool {
        self.folder.as_ref().is_none_or(|folder| folder.is_scanned() && folder.settling() == 0)
    }
}

/// How much of a core and a disk the audit leaves to others, and how patient it is.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Pause after every few files or records.
    pub pause: Duration,
    /// After this long, what looks like a difference is looked at once more.
    pub again_after: Duration,
    /// An input that changed so short a time ago need not have been noticed yet.
    pub grace: Duration,
}

impl Pace {
    /// For a running daemon.
    pub const GENTLE: Self =
        Self { pause: Duration::from_millis(5), again_after: Duration::from_secs(30), grace: Duration::from_secs(60) };
    /// An operator waits for it, beside a running daemon.
    pub const ASKED_FOR: Self =
        Self { pause: Duration::from_millis(1), again_after: Duration::from_secs(3), grace: Duration::from_secs(60) };
    /// While nothing else runs.
    pub const ALONE: Self = Self { pause: Duration::ZERO, again_after: Duration::ZERO, grace: Duration::from_secs(60) };
}

impl Audit {
    /// Compares. Blocks, for long if the folders are large.
    ///
    /// Errors: the journal cannot be read.
    pub fn run(&self) -> Result<Report, Failure> {
        let run = Run { audit: self, steps: Cell::new(0) };
        let mut reports = Vec::new();
        let mut hidden = Vec::new();
        for subject in &self.subjects {
            let mut inputs = Inputs::new(&run, subject);
            inputs.walk()?;
            let (report, names) = inputs.finish();
            reports.push(report);
            hidden.push(names);
        }
        let mut records = Records::new(&run, &self.subjects, reports, hidden);
        for (id, name, _) in self.journal.watches() {
            records.count(id, &name)?;
        }
        let (mut watches, spooled) = records.finish();
        let mut in_spool = spool::orphans(&run, &spooled);

        let doubts = in_spool.total + watches.iter().map(|watch| watch.differences.total).sum::<u64>();
        if doubts > 0 {
            std::thread::sleep(self.pace.again_after);
            for watch in &mut watches {
                let Some(subject) = self.subjects.iter().find(|subject| subject.watch.name == watch.watch) else {
                    continue;
                };
                let inputs = Inputs::new(&run, subject);
                let mut failure = None;
                watch.differences.confirm(|finding| {
                    inputs.again(finding).unwrap_or_else(|error| {
                        failure = Some(error);
                        false
                    })
                });
                failure.map_or(Ok(()), Err)?;
            }
            spool::confirm(&run, &mut in_spool)?;
        }
        let report = Report { watches, spool: in_spool };
        meters().audited(report.differences());
        Ok(report)
    }

    /// The path that a message names a spooled result by.
    fn spool_path(&self, id: uuid::Uuid) -> PathBuf {
        self.spool.path_of(id)
    }
}

/// One audit under way.
struct Run<'a> {
    audit: &'a Audit,
    steps: Cell<u32>,
}

impl Run<'_> {
    /// To be called for every file and record.
    fn breathe(&self) {
        self.steps.set(self.steps.get().wrapping_add(1));
        if self.steps.get().is_multiple_of(STRIDE) && !self.audit.pace.pause.is_zero() {
            std::thread::sleep(self.audit.pace.pause);
        }
    }
}

/// The folder that a path stands for when the whole root is meant.
fn whole_root() -> &'static Path {
    Path::new("")
}
