//! The files of a watch: every input is known to the journal, and every delivered one has its result.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::report::{Finding, MAX_NAMED, WatchReport};
use super::{Run, Subject, whole_root};
use crate::clock::unix_millis;
use crate::fs::{Dir, EntryKind, Look, Root, Seen, base_name};
use crate::intake::assess::{Assessment, assess};
use crate::intake::marked::{Marked, marked};
use crate::intake::select::{Selector, Skip};
use crate::job::{FileKey, Generation, Job, JobState};
use crate::journal::Failure;
use crate::lease::Writers;
use crate::sidecar::{self, Kind, Place};

/// Hidden names of ours, by the object they are about.
pub(super) type Hidden = HashMap<Uuid, Vec<PathBuf>>;

/// What is the matter with an input.
enum Standing {
    /// Nothing; its result was looked at, or not.
    Fine { result: bool },
    /// It is on its way.
    InFlight,
    /// Something that must not be, unless it is on its way.
    Difference(String),
    /// It cannot be told.
    Unknown(io::Error),
}

/// One walk through a watch.
pub(super) struct Inputs<'a> {
    run: &'a Run<'a>,
    subject: &'a Subject,
    selector: Selector,
    report: WatchReport,
    hidden: Hidden,
    names: usize,
}

impl<'a> Inputs<'a> {
    pub(super) fn new(run: &'a Run<'a>, subject: &'a Subject) -> Self {
        let report = WatchReport { watch: subject.watch.name.clone(), configured: true, ..WatchReport::default() };
        let selector = Selector::new(&subject.watch);
        Self { run, subject, selector, report, hidden: Hidden::new(), names: 0 }
    }

    /// What was seen, and the hidden names among it that a job may account for.
    pub(super) fn finish(self) -> (WatchReport, Hidden) {
        (self.report, self.hidden)
    }

    /// Looks at everything beneath the root.
    pub(super) fn walk(&mut self) -> Result<(), Failure> {
        let root = match &self.subject.root {
            Ok(root) => root.clone(),
            Err(why) => {
                self.report.unknown.add(whole_root(), format!("the folder is unavailable: {why}"));
                return Ok(());
            }
        };
        let mut stack = vec![PathBuf::new()];
        while let Some(rel) = stack.pop() {
            if self.selector.folders(&rel).is_err() {
                continue;
            }
            match root.dir(&rel).and_then(|dir| Ok((dir.entries()?, dir))) {
                Ok((entries, dir)) => {
                    for entry in entries {
                        self.run.breathe();
                        match entry {
                            Ok(entry) => self.entry(&root, &dir, rel.join(entry.name), entry.kind, &mut stack)?,
                            Err(error) => self.report.unknown.add(&rel, format!("cannot be listed whole: {error}")),
                        }
                    }
                }
                // It went since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound && rel != whole_root() => {}
                Err(error) => self.report.unknown.add(&rel, format!("cannot be listed: {error}")),
            }
        }
        if let Err(error) = root.verify() {
            self.report.unknown.add(whole_root(), format!("the folder went away meanwhile: {error}"));
        }
        Ok(())
    }

    fn entry(
        &mut self,
        root: &Root,
        dir: &Dir,
        rel: PathBuf,
        kind: Option<EntryKind>,
        stack: &mut Vec<PathBuf>,
    ) -> Result<(), Failure> {
        let kind = kind.unwrap_or_else(|| match root.look(&rel) {
            Look::File(_) => EntryKind::File,
            Look::Directory => EntryKind::Directory,
            Look::Special | Look::Absent | Look::Unknown(_) => EntryKind::Special,
        });
        let skip = self.selector.file(&rel);
        match (kind, skip) {
            (EntryKind::Directory, _) => stack.push(rel),
            (_, Err(Skip::Output)) => self.output(dir, rel, kind),
            (EntryKind::File, Ok(())) => self.input(dir, &rel)?,
            _ => {}
        }
        Ok(())
    }

    /// A name that is never an input, whatever stands there.
    fn output(&mut self, dir: &Dir, rel: PathBuf, kind: EntryKind) {
        let name = base_name(&rel);
        if let Some(rest) = name.as_encoded_bytes().strip_prefix(sidecar::HIDDEN_PREFIX.as_bytes()) {
            let rest = rest.strip_prefix(b"tmp-").unwrap_or(rest);
            let id = rest.get(..36).and_then(|id| Uuid::try_parse_ascii(id).ok());
            match id.filter(|_| self.names < MAX_NAMED) {
                Some(id) => {
                    self.names += 1;
                    self.hidden.entry(id).or_default().push(rel);
                }
                None => self.report.notes.add(&rel, "a hidden name of this program that it does not use"),
            }
            return;
        }
        let of_ours = [Kind::Result, Kind::Error].into_iter().find(|kind| kind.is_of(name));
        let ours = match of_ours {
            Some(of) if kind == EntryKind::File => sidecar::is_ours(dir, name, of, &self.run.audit.identity),
            None if kind == EntryKind::File => sidecar::is_our_text(dir, name, &self.run.audit.identity),
            _ => Ok(false),
        };
        match ours {
            Ok(true) => {}
            // The filesystem's own.
            Ok(false) if name.as_encoded_bytes().starts_with(b".nfs") => {}
            Ok(false) => self.report.notes.add(&rel, "not ours, and never sent, because of its name"),
            Err(error) => self.report.unknown.add(&rel, format!("cannot be read: {error}")),
        }
    }

    fn input(&mut self, dir: &Dir, rel: &Path) -> Result<(), Failure> {
        let seen = match dir.file(base_name(rel)) {
            Ok(Some(seen)) => seen,
            Ok(None) => return Ok(()),
            Err(error) => {
                self.report.unknown.add(rel, format!("cannot be looked at: {error}"));
                return Ok(());
            }
        };
        self.report.inputs += 1;
        match self.standing(dir, rel, &seen)? {
            Standing::Fine { result } => self.report.results += u64::from(result),
            Standing::InFlight => self.report.in_flight += 1,
            Standing::Difference(what) => self.report.differences.add(rel, what),
            Standing::Unknown(error) => self.report.unknown.add(rel, format!("cannot be looked at: {error}")),
        }
        Ok(())
    }

    /// Whether a difference still holds.
    pub(super) fn again(&self, finding: &Finding) -> Result<bool, Failure> {
        if finding.path == whole_root() {
            // That of the ledger was seen twice already.
            return Ok(true);
        }
        if let Some(job) = self.job(&finding.path)?
            && job.state == JobState::Spooled
        {
            let id = self.run.audit.identity.object_id(&self.subject.watch.name, &finding.path);
            return Ok(matches!(self.run.audit.spool.read(id), Ok(None)));
        }
        let Ok(root) = &self.subject.root else { return Ok(false) };
        let Ok(dir) = root.parent(&finding.path) else { return Ok(false) };
        let Ok(Some(seen)) = dir.file(base_name(&finding.path)) else { return Ok(false) };
        Ok(matches!(self.standing(&dir, &finding.path, &seen)?, Standing::Difference(_)))
    }

    fn job(&self, rel: &Path) -> Result<Option<Job>, Failure> {
        self.run.audit.journal.get(FileKey::new(self.subject.watch.id, rel))
    }

    /// What is the matter with an input that stands there.
    fn standing(&self, dir: &Dir, rel: &Path, seen: &Seen) -> Result<Standing, Failure> {
        let job = self.job(rel)?;
        Ok(match assess(job.as_ref(), &seen.generation) {
            Assessment::Known | Assessment::DeadLetter => match job {
                Some(job) => self.known(rel, &job).unwrap_or_else(Standing::Unknown),
                None => Standing::Fine { result: false },
            },
            Assessment::Busy => Standing::InFlight,
            Assessment::Unseen | Assessment::New | Assessment::MaybeSame => {
                self.unknown_to_the_journal(dir, base_name(rel), seen).unwrap_or_else(Standing::Unknown)
            }
        })
    }

    /// An input in the generation that the journal knows: is what was written about it there?
    fn known(&self, rel: &Path, job: &Job) -> io::Result<Standing> {
        let (kind, what) = match job.state {
            JobState::Done => (Kind::Result, "result"),
            JobState::Failed => (Kind::Error, "error file"),
            JobState::Ignored | JobState::Vanished => return Ok(Standing::Fine { result: false }),
            _ => return Ok(Standing::InFlight),
        };
        // Its place was gone when it was to be written.
        let (Some(sidecar), Ok(root)) = (&job.sidecar, &self.subject.root) else {
            return Ok(Standing::Fine { result: false });
        };
        // What was put elsewhere, under an earlier configuration, is nobody's care any more.
        if !sidecar::is_in_place(root, rel, sidecar) {
            return Ok(Standing::Fine { result: false });
        }
        let results = root.results(rel, None)?;
        let is_taken = || results.as_ref().map_or(Ok(false), |dir| dir.exists(base_name(Path::new(sidecar))));
        match sidecar::find_in(results.as_deref(), base_name(rel), kind, &self.run.audit.identity) {
            Ok(Place::Ours(_)) if kind == Kind::Error => Ok(Standing::Fine { result: false }),
            Ok(Place::Ours(ours)) if ours.sha256 == job.sha256 => Ok(Standing::Fine { result: true }),
            Ok(Place::Ours(ours)) => Ok(Standing::Difference(format!(
                "{} is the result of another content than the one delivered",
                ours.name.display()
            ))),
            Ok(Place::Free(_)) if is_taken()? => {
                Ok(Standing::Difference(format!("its {what} {sidecar} was replaced by something that is not ours")))
            }
            Ok(Place::Free(_)) => Ok(Standing::Difference(format!("its {what} {sidecar} is missing"))),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Ok(Standing::Difference(format!("its {what} {sidecar} is missing, and others hold every name")))
            }
            Err(error) => Err(error),
        }
    }

    /// An input that the journal does not know as it is: is it still settling, or was it missed?
    fn unknown_to_the_journal(&self, dir: &Dir, name: &OsStr, seen: &Seen) -> io::Result<Standing> {
        let watch = &self.subject.watch;
        if !self.subject.is_idle() || self.is_young(&seen.generation) {
            return Ok(Standing::InFlight);
        }
        if let Some(marker) = &watch.done_marker
            && marked(marker, name, &seen.generation, |name| dir.file(name))? != Marked::Yes
        {
            return Ok(Standing::InFlight);
        }
        match dir.open_file(name) {
            Ok((file, _)) if dir.writers(&file) == Writers::Some => return Ok(Standing::InFlight),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Standing::InFlight),
            Err(error) => return Err(error),
        }
        Ok(Standing::Difference("nobody writes to it any more, and the journal does not know it".into()))
    }

    /// Whether the next walk may still be the one that finds it.
    fn is_young(&self, generation: &Generation) -> bool {
        let settle = self.subject.watch.settle.unwrap_or_default();
        let grace = self.run.audit.pace.grace + self.subject.until_walked() + settle;
        // Where the time of the last change is not known, that of the last write may be much older.
        let Some(changed) = generation.ctime_ns else { return true };
        let changed = u64::try_from(changed.max(generation.mtime_ns) / 1_000_000).unwrap_or(0);
        u128::from(unix_millis().saturating_sub(changed)) < grace.as_millis()
    }
}
