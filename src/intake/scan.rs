//! The walk: every directory beneath a path is watched, then listed; what the journal does not know is reported.
//!
//! A scan alone would find every file. It never infers that something is absent: a directory that cannot be
//! listed is merely unknown. It runs on a blocking thread and waits when intake has no room.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::assess::{Assessment, assess};
use super::marked::{Marked, marked};
use super::pace::Pace;
use super::select::Selector;
use super::watch::{WatchError, Watches};
use crate::config::OnFailure;
use crate::folder::Folder;
use crate::fs::{Dir, EntryKind, Look, Root, Seen};
use crate::identity::Identity;
use crate::job::{FileKey, Job, JobState};
use crate::journal::Journal;
use crate::show::Shown;
use crate::sidecar;

/// Entries of a folder between two looks at the pace.
const LOOKS: usize = 256;

/// What a walk needs.
#[derive(Clone)]
pub struct Walker {
    /// The watch at run time.
    pub folder: Arc<Folder>,
    /// Its root.
    pub root: Arc<Root>,
    /// Its selection.
    pub selector: Arc<Selector>,
    /// What is known already.
    pub journal: Journal,
    /// Whose temp files may be swept.
    pub identity: Arc<Identity>,
    /// Where directories are watched; `None` while the root is polled.
    pub watches: Option<Arc<Watches>>,
    /// Where paths go that need a look.
    pub sink: mpsc::Sender<Found>,
}

/// A path that needs a look.
#[derive(Debug)]
pub struct Found {
    /// Relative to the root.
    pub path: PathBuf,
    /// No event was due that tells of it: the walk is of a folder that an event told of, or it is only to be seen whether a
    /// dead letter's error file is still there.
    pub expected: bool,
}

/// What a walk saw.
#[derive(Debug, Default)]
pub struct Report {
    /// Directories listed.
    pub directories: u64,
    /// Inputs seen, known or not.
    pub files: u64,
    /// Inputs that need a look: the journal did not know them in this generation, or gave them up.
    pub found: u64,
    /// Directories that could not be listed.
    pub unreadable: u64,
    /// Files that could not be looked at.
    pub unknown: u64,
    /// Watches ran out: the root must be polled.
    pub exhausted: bool,
    /// This process had no descriptors left for some of it: another walk is due soon.
    pub no_descriptors: bool,
    /// Intake went away: the walk was cut short.
    pub stopped: bool,
}

/// Whether something of a dead letter that is to be moved may be where it was.
fn is_left(job: &Job, root: &Root) -> bool {
    job.state == JobState::Failed && !(job.absent && root.results_are_apart())
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    [Errno::MFILE, Errno::NFILE].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

impl Walker {
    /// Walks everything beneath `start`, itself included. Blocking.
    pub fn walk(&self, start: &Path, mut pace: Pace) -> Report {
        // A folder inside is walked because an event told of it.
        let part = !start.as_os_str().is_empty();
        let mut report = Report::default();
        let mut stack = vec![start.to_owned()];
        while let Some(rel) = stack.pop() {
            if self.selector.folders(&rel).is_err() {
                continue;
            }
            match self.directory(&rel, part, &mut stack, &mut report, &mut pace) {
                Ok(()) => report.directories += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound && !rel.as_os_str().is_empty() => {}
                Err(error) => {
                    report.unreadable += 1;
                    report.no_descriptors |= is_out_of_descriptors(&error);
                    tracing::warn!(
                        watch = %self.folder.watch.name, path = %Shown(&rel), %error,
                        "cannot list this folder; what is in it is unknown until it can be read"
                    );
                }
            }
            // Intake may have gone without there being anything to tell it.
            report.stopped |= self.sink.is_closed();
            if report.stopped {
                break;
            }
        }
        if !part && self.root.results_are_apart() && !self.folder.is_scanned() {
            self.results(&mut report);
        }
        report
    }

    /// Looks through the tree that results go to for what an earlier run left there.
    fn results(&self, report: &mut Report) {
        let mut stack = vec![PathBuf::new()];
        while let Some(rel) = stack.pop() {
            if report.stopped || self.selector.folders(&rel).is_err() {
                continue;
            }
            if let Err(error) = self.results_folder(&rel, &mut stack, report) {
                tracing::warn!(
                    watch = %self.folder.watch.name, path = %Shown(&rel), %error,
                    "cannot list this folder of results; what an earlier run may have left in it stays"
                );
            }
        }
    }

    fn results_folder(&self, rel: &Path, stack: &mut Vec<PathBuf>, report: &mut Report) -> io::Result<()> {
        let Some(dir) = self.root.results_folder(rel)? else { return Ok(()) };
        for entry in dir.entries()? {
            let entry = entry?;
            let path = rel.join(&entry.name);
            if entry.name.as_encoded_bytes().starts_with(sidecar::TEMP_PREFIX.as_bytes()) {
                if let Err(error) = self.hidden(&dir, path) {
                    tracing::debug!(watch = %self.folder.watch.name, %error, "a temp file cannot be swept now");
                }
            } else if entry.kind == Some(EntryKind::Directory)
                || entry.kind.is_none() && matches!(dir.look(&entry.name), Ok(Look::Directory))
            {
                stack.push(path);
            } else {
                self.left_behind(&path, report);
            }
        }
        Ok(())
    }

    fn directory(
        &self,
        rel: &Path,
        part: bool,
        stack: &mut Vec<PathBuf>,
        report: &mut Report,
        pace: &mut Pace,
    ) -> io::Result<()> {
        if let Some(watches) = &self.watches
            && !report.exhausted
        {
            match watches.add(rel) {
                Ok(()) => {}
                Err(WatchError::Exhausted) => report.exhausted = true,
                Err(WatchError::Other(reason)) => {
                    tracing::debug!(path = %Shown(rel), reason, "this folder cannot be watched; scans will look into it");
                }
            }
        }
        let dir = self.root.dir(rel)?;
        self.root.note_mount(rel, &dir)?;
        pace.keep();
        for (nth, entry) in dir.entries()?.enumerate() {
            let entry = entry?;
            if nth % LOOKS == LOOKS - 1 {
                pace.keep();
            }
            // Of every second name, where all was delivered, nothing has to be known.
            if entry.kind == Some(EntryKind::File) && sidecar::is_result(&entry.name) {
                continue;
            }
            let path = rel.join(&entry.name);
            let kind = match entry.kind {
                Some(kind) => kind,
                None => match self.root.look(&path) {
                    Look::File(_) => EntryKind::File,
                    Look::Directory => EntryKind::Directory,
                    Look::Unknown(error) => {
                        report.unknown += 1;
                        report.no_descriptors |= is_out_of_descriptors(&error);
                        EntryKind::Special
                    }
                    Look::Special | Look::Absent => EntryKind::Special,
                },
            };
            match kind {
                EntryKind::Directory => stack.push(path),
                EntryKind::File => {
                    if let Err(error) = self.file(&dir, path, part, report) {
                        // One name that cannot be looked at hides none of the others.
                        report.unknown += 1;
                        tracing::debug!(watch = %self.folder.watch.name, %error, "an entry cannot be looked at now");
                    }
                }
                EntryKind::Special => {}
            }
            if report.stopped {
                break;
            }
        }
        Ok(())
    }

    fn file(&self, dir: &Dir, path: PathBuf, part: bool, report: &mut Report) -> io::Result<()> {
        let name = crate::fs::base_name(&path);
        if name.as_encoded_bytes().starts_with(sidecar::HIDDEN_PREFIX.as_bytes()) {
            return self.hidden(dir, path);
        }
        if self.selector.listed(&path).is_err() {
            self.left_behind(&path, report);
            return Ok(());
        }
        report.files += 1;
        let Some(seen) = dir.file(name)? else { return Ok(()) };
        let Ok(job) = self.journal.get(FileKey::new(self.folder.watch.id, &path)) else {
            // Without its memory the daemon stops.
            report.stopped = true;
            return Ok(());
        };
        let assessment = assess(job.as_ref(), &seen.generation);
        let needs_a_look = match assessment {
            Assessment::Known => false,
            Assessment::DeadLetter => {
                self.put_aside(&path);
                true
            }
            // What waits for its marker is not even looked at, however much of it there is.
            _ => job.is_some_and(|job| job.is_waiting()) || self.may_be_whole(dir, name, &seen)?,
        };
        if needs_a_look {
            report.found += 1;
            let expected = part || assessment == Assessment::DeadLetter;
            report.stopped = self.sink.blocking_send(Found { path, expected }).is_err();
        }
        Ok(())
    }

    fn may_be_whole(&self, dir: &Dir, name: &OsStr, seen: &Seen) -> io::Result<bool> {
        let Some(marker) = &self.folder.watch.done_marker else { return Ok(true) };
        Ok(marked(marker, name, &seen.generation, |name| dir.file(name))? != Marked::NotYet)
    }

    /// A crash may have come between the journal's word that a file was given up and its move, or that of its error file.
    fn left_behind(&self, path: &Path, report: &mut Report) {
        let Some(input) = sidecar::input_of_error(crate::fs::base_name(path)) else { return };
        let input = path.with_file_name(input);
        if self.folder.watch.on_failure == OnFailure::Keep
            || self.folder.is_scanned()
            || self.selector.listed(&input).is_err()
        {
            return;
        }
        match self.journal.get(FileKey::new(self.folder.watch.id, &input)) {
            // Its move may be on record already; that of its error file, if that follows it, is not.
            Ok(job) if job.as_ref().is_some_and(|job| is_left(job, &self.root)) => self.put_aside(&input),
            Ok(_) => {}
            Err(_) => report.stopped = true,
        }
    }

    /// At the start, delivery is told of the dead letters that stand in their place although they are to be moved.
    fn put_aside(&self, path: &Path) {
        if self.folder.watch.on_failure != OnFailure::Keep && !self.folder.is_scanned() {
            self.folder.add_stray(path.to_owned());
        }
    }

    /// Temp files that a crash left are swept; a file in the middle of a post-action without a record is reported.
    fn hidden(&self, dir: &Dir, path: PathBuf) -> io::Result<()> {
        let name = crate::fs::base_name(&path);
        if name.as_encoded_bytes().starts_with(sidecar::TEMP_PREFIX.as_bytes()) {
            if !self.folder.is_scanned() && self.folder.sweep_temp(dir, name, self.identity.uid)? {
                tracing::debug!(path = %Shown(&path), "removed a temp file that an earlier run left");
            }
            return Ok(());
        }
        let id = name
            .to_str()
            .and_then(|name| name.strip_prefix(sidecar::HIDDEN_PREFIX))
            .and_then(|id| Uuid::parse_str(id).ok());
        if id.is_some() && !self.folder.is_scanned() {
            self.folder.add_stray(path);
        }
        Ok(())
    }
}
