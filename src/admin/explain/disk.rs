//! What stands on the disk: at the path itself, and the files that belong to it. Everything here blocks.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use crate::admin::hints;
use crate::admin::wire::explain::{Disk, Marker, Sidecar};
use crate::config::{OnFailure, OnSuccess, Watch};
use crate::fs::{Dir, Look, Root, Seen, base_name};
use crate::identity::Identity;
use crate::intake::marked::{Marked, marked};
use crate::job::{Generation, Job, JobState, Millis};
use crate::lease::Writers;
use crate::show::{Shown, escaped};
use crate::sidecar::{self, Adoption, Kind, Place};

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// What stands at the path; none if nothing was looked at.
    pub(super) look: Option<Look>,
    /// What the file is, if its name is one of ours.
    pub(super) own: Option<Own>,
    /// Its marker, if the watch wants one and a file stands there.
    pub(super) marker: Option<(String, io::Result<Marked>)>,
    /// Whether somebody has it open for writing.
    pub(super) writers: Option<Writers>,
    /// The result file.
    pub(super) result: Option<Sidecar>,
    /// The error file.
    pub(super) error_file: Option<Sidecar>,
    /// What the error file says is to be done.
    pub(super) hint: Option<String>,
    /// The result or error file was put elsewhere than where it would be put now, by an earlier configuration.
    pub(super) is_elsewhere: bool,
    /// Where the input was moved to.
    pub(super) moved_to: Option<PathBuf>,
}

/// A file with a name that the daemon keeps for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Own {
    /// A result or error file of ours, of this input.
    Ours(Kind, PathBuf),
    /// A temp file, or a file in the middle of its post-action.
    Hidden,
    /// Somebody's own.
    Strange,
}

impl Found {
    /// Looks at everything that has to do with a path.
    pub(super) fn look(watch: &Watch, root: &Root, rel: &Path, job: Option<&Job>, identity: &Identity) -> Self {
        let look = root.look(rel);
        let generation = generation_of(&look);
        let name = base_name(rel);
        let mut found = Self::default();
        let may_be_input = matches!(look, Look::File(_) | Look::Absent);
        if let (true, Ok(dir)) = (may_be_input, root.parent(rel)) {
            found.own = (generation.is_some() && sidecar::is_output(name)).then(|| own(&dir, name, identity));
            if let Some(generation) = &generation {
                found.marker = watch.done_marker.as_ref().map(|marker| {
                    let said = marked(marker, name, generation, |name| dir.file(name));
                    (Shown(marker.of(name).as_ref()).to_string(), said)
                });
                found.writers = dir.open_file(name).ok().map(|(file, _)| dir.writers(&file));
            }
        }
        if may_be_input {
            let about = |kind| sidecar_of(watch, root, rel, kind, generation.as_ref(), job, identity);
            (found.result, found.error_file) = (about(Kind::Result), about(Kind::Error));
        }
        let recorded = job.and_then(|job| Some((job.state, job.sidecar.as_deref()?)));
        if let Some((state, recorded)) = recorded.filter(|(_, recorded)| !sidecar::is_in_place(root, rel, recorded)) {
            found.is_elsewhere = true;
            let file = if state == JobState::Failed { &mut found.error_file } else { &mut found.result };
            // A name alone is one beside the input.
            let path = watch.path.join(rel).with_file_name(recorded);
            let is_there = path.symlink_metadata().is_ok_and(|found| found.is_file());
            *file = is_there.then(|| Sidecar { path: Shown(&path).to_string(), is_current: None }).or(file.take());
        }
        found.moved_to = job.filter(|_| generation.is_none()).and_then(|job| moved_to(watch, job));
        if let (None, Some(moved)) = (&found.result, &found.moved_to) {
            let beside = moved.with_file_name(sidecar::name_of(base_name(moved), Kind::Result, 1));
            let is_there = beside.symlink_metadata().is_ok_and(|found| found.is_file());
            found.result = is_there.then(|| Sidecar { path: Shown(&beside).to_string(), is_current: None });
        }
        found.hint = job.and_then(|job| hints::of(watch, root, job, identity));
        found.look = Some(look);
        found
    }

    /// The generation of the file that stands there.
    pub(super) fn generation(&self) -> Option<Generation> {
        self.look.as_ref().and_then(generation_of)
    }

    /// As it is said over the socket.
    pub(super) fn disk(&self) -> Disk {
        let plain = |kind: &str, why| Disk { kind: kind.to_owned(), why, size: None, modified_at: None };
        match &self.look {
            None => plain("unknown", Some("the watched folder is unavailable".to_owned())),
            Some(Look::File(Seen { generation, .. })) => Disk {
                size: Some(generation.size),
                modified_at: Millis::try_from(generation.mtime_ns / 1_000_000).ok(),
                ..plain("file", self.own.as_ref().map(own_in_words))
            },
            Some(Look::Directory) => plain("folder", None),
            Some(Look::Special) => {
                plain("special", Some("a link, FIFO, socket or device, or reached through a link".to_owned()))
            }
            Some(Look::Absent) => plain("absent", None),
            Some(Look::Unknown(error)) => plain("unknown", Some(escaped(&error.to_string()).to_string())),
        }
    }

    /// As it is said over the socket.
    pub(super) fn marker(&self) -> Option<Marker> {
        let (name, said) = self.marker.as_ref()?;
        let state = match said {
            Ok(Marked::Yes) => "yes".to_owned(),
            Ok(Marked::NotYet) => "not yet".to_owned(),
            Ok(Marked::Never) => "never".to_owned(),
            Err(error) => escaped(&error.to_string()).to_string(),
        };
        Some(Marker { name: name.clone(), state })
    }
}

fn generation_of(look: &Look) -> Option<Generation> {
    if let Look::File(seen) = look { Some(seen.generation) } else { None }
}

fn own(dir: &Dir, name: &OsStr, identity: &Identity) -> Own {
    if name.as_encoded_bytes().starts_with(sidecar::HIDDEN_PREFIX.as_bytes()) {
        return Own::Hidden;
    }
    match sidecar::whose(dir, name, identity) {
        Ok(Some((kind, input))) => Own::Ours(kind, input),
        // What cannot be read is none that we would read again.
        Ok(None) | Err(_) => Own::Strange,
    }
}

fn own_in_words(own: &Own) -> String {
    match own {
        Own::Ours(kind, input) => {
            let kind = if *kind == Kind::Result { "result" } else { "error" };
            format!("the daemon's own {kind} file of {}", Shown(input))
        }
        Own::Hidden => "a temp file of the daemon, or a file that it is moving or removing".to_owned(),
        Own::Strange => "not written by this daemon".to_owned(),
    }
}

fn sidecar_of(
    watch: &Watch,
    root: &Root,
    rel: &Path,
    kind: Kind,
    generation: Option<&Generation>,
    job: Option<&Job>,
    identity: &Identity,
) -> Option<Sidecar> {
    let place = sidecar::find_of(root, rel, None, kind, identity).ok()?;
    let Place::Ours(ours) = &place else { return None };
    let is_current = generation.and_then(|generation| match sidecar::adoption(&place, generation) {
        Adoption::Adopt(..) => Some(true),
        // Its metadata changed since. What the journal takes for the same content was compared.
        Adoption::IfHash(sha256, _) => {
            job.filter(|job| job.generation == *generation && job.sha256 == Some(sha256)).map(|_| true)
        }
        Adoption::No if kind == Kind::Error => Some(ours.generation == *generation),
        Adoption::No => Some(false),
    });
    let folder = root.results_path(rel).unwrap_or_else(|| watch.path.join(rel.parent().unwrap_or(Path::new(""))));
    Some(Sidecar { path: Shown(&folder.join(&ours.name)).to_string(), is_current })
}

/// Where files of this watch in this state go, as far as the watch moves them.
pub(super) fn target(watch: &Watch, state: JobState) -> Option<&Path> {
    match (state, &watch.on_success, &watch.on_failure) {
        (JobState::Failed, _, OnFailure::Move(target)) => Some(target),
        (JobState::Failed, ..) => None,
        (_, OnSuccess::Move(target), _) => Some(target),
        _ => None,
    }
}

/// Where a finished file stands that was moved.
fn moved_to(watch: &Watch, job: &Job) -> Option<PathBuf> {
    if !matches!(job.state, JobState::Done | JobState::Failed) {
        return None;
    }
    let usual = target(watch, job.state)?.join(&job.path);
    let other = job.sha256.map(|sha256| usual.with_file_name(sidecar::disambiguated(base_name(&usual), &sha256)));
    let is_it = |path: &PathBuf| {
        path.symlink_metadata().is_ok_and(|found| found.is_file() && found.len() == job.generation.size)
    };
    other.into_iter().chain([usual]).find(is_it)
}
