//! From a settled path to the journal's event: the last questions before a file is admitted.
//!
//! Is anybody still writing? Is it only the metadata that changed? Does its result already stand there?
//! Everything here blocks on the filesystem; the caller runs it off the async threads.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use super::assess::{Assessment, assess};
use super::marked::{Marked, marked};
use crate::config::OnSuccess;
use crate::crash;
use crate::folder::Folder;
use crate::fs::{Dir, Look, Root, Seen, base_name};
use crate::identity::Identity;
use crate::job::{ContentHash, Event, FileKey, Generation, Job, JobState, Millis};
use crate::journal::Journal;
use crate::lease::Writers;
use crate::sidecar::{self, Adoption, Kind, Place};

/// What a first look at a path says.
#[derive(Debug)]
pub enum Inspection {
    /// A file that the journal does not know like this.
    Candidate(Generation),
    /// Nothing to do.
    Nothing,
    /// It is absent, or the generation that was admitted is and its marker says nothing of the one that stands there now:
    /// its record ends with it.
    Gone,
    /// It is absent, and a worker or a post-action has it: what that means is known once they are through.
    Busy,
    /// It waits for a marker that can never stand there, for its name would be too long.
    Unmarkable,
    /// A directory: walk it.
    Directory,
    /// It cannot be told now.
    Unknown(io::Error),
}

/// What becomes of a settled path.
#[derive(Debug)]
pub enum Decision {
    /// Journal this; the path has settled for good.
    Record(Event),
    /// Nothing to do after all.
    Nothing,
    /// Somebody writes to it.
    Writing,
    /// Whether somebody writes to it cannot be told, and why: the quiet must be the longer one.
    NoWriterCheck(&'static str),
    /// An earlier generation is on its way.
    Busy,
    /// It is not what it was a moment ago, or cannot be read for this reason now.
    Later(Option<io::Error>),
}

/// The parts of a watch that these questions need.
pub struct Desk<'a> {
    folder: &'a Folder,
    root: &'a Root,
    journal: &'a Journal,
    identity: &'a Identity,
    /// Bytes hashed so far.
    hashed: Cell<u64>,
    /// Why a file was admitted without the kernel's word about writers.
    unsure: Cell<Option<&'static str>>,
}

impl<'a> Desk<'a> {
    /// A desk for one round of questions.
    pub fn new(folder: &'a Folder, root: &'a Root, journal: &'a Journal, identity: &'a Identity) -> Self {
        Self { folder, root, journal, identity, hashed: Cell::new(0), unsure: Cell::new(None) }
    }

    /// Bytes hashed so far.
    pub fn hashed(&self) -> u64 {
        self.hashed.get()
    }

    /// Why a file was admitted without the kernel's word about writers, if one was.
    pub fn unsure(&self) -> Option<&'static str> {
        self.unsure.get()
    }

    fn hash(&self, file: &File, seen: &Seen) -> io::Result<ContentHash> {
        self.hashed.set(self.hashed.get().saturating_add(seen.generation.size));
        sidecar::hash_reader(file)
    }

    fn key(&self, rel: &Path) -> FileKey {
        FileKey::new(self.folder.watch.id, rel)
    }

    fn object_id(&self, rel: &Path) -> Uuid {
        self.identity.object_id(&self.folder.watch.name, rel)
    }

    /// Looks at a path for the first time, or again.
    pub fn inspect(&self, rel: &Path) -> Inspection {
        let job = match self.journal.get(self.key(rel)) {
            Ok(job) => job,
            Err(error) => return Inspection::Unknown(io::Error::other(error)),
        };
        match self.root.look(rel) {
            Look::File(seen) => match assess(job.as_ref(), &seen.generation) {
                Assessment::Known => Inspection::Nothing,
                // It was whole when it was admitted, and is as it was.
                Assessment::DeadLetter => Inspection::Candidate(seen.generation),
                _ => match self.marked(rel, &seen.generation) {
                    Ok(Marked::Yes) => Inspection::Candidate(seen.generation),
                    Ok(_) if job.is_some_and(|job| job.is_waiting()) => Inspection::Gone,
                    Ok(Marked::Never) => Inspection::Unmarkable,
                    Ok(Marked::NotYet) => Inspection::Nothing,
                    Err(error) => Inspection::Unknown(error),
                },
            },
            Look::Directory => Inspection::Directory,
            Look::Absent
                if job.as_ref().is_some_and(|job| matches!(job.state, JobState::Sending | JobState::Delivered)) =>
            {
                Inspection::Busy
            }
            Look::Absent => match job.filter(|job| job.minds_absence() && self.folder.can_tell(job)) {
                Some(job)
                    if job.state == JobState::Failed && !sidecar::is_gone(self.root, rel, self.object_id(rel)) =>
                {
                    Inspection::Unknown(io::Error::new(io::ErrorKind::WouldBlock, "it is on its way to another folder"))
                }
                Some(_) => Inspection::Gone,
                None => Inspection::Nothing,
            },
            Look::Special => Inspection::Nothing,
            Look::Unknown(error) => Inspection::Unknown(error),
        }
    }

    /// Whether the watch's marker, if it has one, says that this generation is whole.
    fn marked(&self, rel: &Path, generation: &Generation) -> io::Result<Marked> {
        let Some(marker) = &self.folder.watch.done_marker else { return Ok(Marked::Yes) };
        marked(marker, base_name(rel), generation, |name| match self.root.look(&rel.with_file_name(name)) {
            Look::File(seen) => Ok(Some(seen)),
            Look::Directory | Look::Special | Look::Absent => Ok(None),
            Look::Unknown(error) => Err(error),
        })
    }

    /// Decides about a path that has been quiet in this generation.
    ///
    /// `unsure_is_fine`: the quiet was long enough to do without the kernel's word about writers.
    pub fn decide(&self, rel: &Path, settled: Generation, unsure_is_fine: bool, now: Millis) -> Decision {
        self.try_decide(rel, settled, unsure_is_fine, now).unwrap_or_else(|error| Decision::Later(Some(error)))
    }

    fn try_decide(&self, rel: &Path, settled: Generation, unsure_is_fine: bool, now: Millis) -> io::Result<Decision> {
        let job = self.journal.get(self.key(rel)).map_err(io::Error::other)?;
        let assessment = assess(job.as_ref(), &settled);
        match assessment {
            Assessment::Known => return Ok(Decision::Nothing),
            Assessment::Busy => return Ok(Decision::Busy),
            Assessment::Unseen | Assessment::New | Assessment::MaybeSame | Assessment::DeadLetter => {}
        }
        let dir = Arc::new(self.root.parent(rel)?);
        let name = base_name(rel);
        if assessment == Assessment::DeadLetter {
            return self.retried(rel, &dir, job.as_ref(), settled, now);
        }
        let admit = Decision::Record(Event::Admit { generation: settled, at: now });
        let (file, seen) = match dir.open_file(name) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Decision::Later(None)),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(Decision::Nothing),
            // It cannot be read now; the worker says so in the journal, where an operator sees it.
            Err(_) if unsure_is_fine => return Ok(admit),
            Err(_) => return Ok(Decision::NoWriterCheck("the file cannot be opened")),
        };
        if seen.generation != settled {
            return Ok(Decision::Later(None));
        }
        match dir.writers(&file) {
            Writers::None => {}
            Writers::Some => return Ok(Decision::Writing),
            Writers::Unknown(why) if unsure_is_fine => self.unsure.set(Some(why)),
            Writers::Unknown(why) => return Ok(Decision::NoWriterCheck(why)),
        }
        // Larger files are refused by the worker, with an error file; hashing them first would be for nothing.
        if seen.generation.size > self.folder.watch.max_size {
            return Ok(admit);
        }
        let unchanged = |file: &File| -> io::Result<bool> {
            Ok(dir.seen(file)?.is_some_and(|now: Seen| now.generation == settled))
        };
        match assessment {
            Assessment::MaybeSame => {
                let hash = self.hash(&file, &seen)?;
                if !unchanged(&file)? {
                    return Ok(Decision::Later(None));
                }
                // Written anew and without its result, as in a folder that was emptied unseen, it is a new file.
                let stayed = job.as_ref().is_some_and(|job| {
                    (job.generation.ino, job.generation.mtime_ns) == (settled.ino, settled.mtime_ns)
                });
                let has_result = || match sidecar::find_of(self.root, rel, Some(&dir), Kind::Result, self.identity) {
                    Ok(Place::Ours(ours)) => ours.sha256 == Some(hash),
                    Ok(Place::Free(_)) => false,
                    // What cannot be looked for counts as there: nothing is paid for twice by accident.
                    Err(_) => true,
                };
                if job.and_then(|job| job.sha256) == Some(hash) && (stayed || has_result()) {
                    return Ok(Decision::Record(Event::SameContent { generation: settled }));
                }
            }
            Assessment::Unseen => {
                // While their folder is out of reach, whether there is a result is unknown.
                let results = self.root.results(rel, Some(&dir))?;
                let place = results.as_ref().map(|results| sidecar::find(results, name, Kind::Result, self.identity));
                // A folder in which results cannot be looked for is delivery's to report.
                let adoption = place.and_then(Result::ok).map_or(Adoption::No, |place| {
                    let may_go = self.folder.watch.on_success != OnSuccess::Keep;
                    if may_go && !was_there(&place, &settled) {
                        Adoption::No
                    } else {
                        sidecar::adoption(&place, &settled)
                    }
                });
                let adopted = match adoption {
                    Adoption::Adopt(sha256, sidecar) => Some((sha256, sidecar)),
                    Adoption::IfHash(sha256, sidecar) => {
                        let hash = self.hash(&file, &seen)?;
                        if !unchanged(&file)? {
                            return Ok(Decision::Later(None));
                        }
                        (hash == sha256).then_some((sha256, sidecar))
                    }
                    Adoption::No => None,
                };
                if let (Some((sha256, sidecar)), Some(results)) = (adopted, results) {
                    // It may have been written right before a crash.
                    results.sync()?;
                    crash::point("intake.adopting");
                    return Ok(Decision::Record(Event::Adopt {
                        generation: settled,
                        sha256,
                        sidecar: sidecar::recorded(self.root, rel, &sidecar),
                        post_action: self.folder.watch.on_success != OnSuccess::Keep,
                        at: now,
                    }));
                }
            }
            _ => {}
        }
        Ok(admit)
    }

    /// Whether a dead letter is tried again: its error file was removed.
    fn retried(
        &self,
        rel: &Path,
        dir: &Arc<Dir>,
        job: Option<&Job>,
        settled: Generation,
        now: Millis,
    ) -> io::Result<Decision> {
        // What cannot be looked for counts as there: a dead letter is not retried by accident.
        let place = sidecar::find_of(self.root, rel, Some(dir), Kind::Error, self.identity);
        let recorded = job.and_then(|job| job.sidecar.as_deref());
        // So does one that was put elsewhere, under an earlier configuration.
        let elsewhere = recorded.is_some_and(|recorded| !sidecar::is_in_place(self.root, rel, recorded));
        let still_there = elsewhere || !matches!(place, Ok(Place::Free(_)));
        // Both go elsewhere together, the input first.
        if !still_there && dir.file(base_name(rel))?.is_none_or(|seen| seen.generation != settled) {
            return Ok(Decision::Later(None));
        }
        let is_known = job.is_some_and(|job| job.generation == settled);
        Ok(match (still_there, is_known) {
            (true, true) => Decision::Nothing,
            (true, false) => Decision::Record(Event::SameContent { generation: settled }),
            (false, true) => Decision::Record(Event::Requeue { at: now, delivered_too: false }),
            (false, false) => Decision::Record(Event::Admit { generation: settled, at: now }),
        })
    }
}

/// Whether a file was there when the result that stands there was made, as far as can be told: one that came later, with the
/// same content, was never sent, and a post-action must not take it.
fn was_there(place: &Place, settled: &Generation) -> bool {
    let Place::Ours(ours) = place else { return false };
    if settled.ino.is_some() && ours.generation == *settled {
        return true;
    }
    let (Some(changed), Some(completed)) = (settled.ctime_ns, ours.completed_at) else { return false };
    // A file's times are finer than ours.
    changed.max(settled.mtime_ns) / 1_000_000 <= i64::try_from(completed).unwrap_or(i64::MAX)
}
