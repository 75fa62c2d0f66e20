//! One look through a watched folder: what would be sent, what not, and what this user may not do there.
//!
//! Nothing is written, and nothing but the names and attributes is read.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::access::{Access, change_names, may};
use crate::config::{OnFailure, OnSuccess, Watch};
use crate::fs::{Dir, EntryKind, Look, Root, base_name};
use crate::intake::marked::{Marked, marked};
use crate::intake::select::{Selector, Skip};

/// Names that are looked at; a larger folder is judged by its first part.
const MAX_NAMES: u64 = 5_000_000;
/// Matching files whose writers are asked for.
const MAX_PROBES: usize = 8;
/// In a folder with this bit only the owner of a file may rename or remove it.
const STICKY: u32 = 0o1000;

/// A number of paths, and the first of them.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) number: u64,
    pub(super) first: Option<(PathBuf, String)>,
}

impl Tally {
    fn add(&mut self, rel: &Path, why: impl Display) {
        self.number += 1;
        self.first.get_or_insert_with(|| (rel.to_owned(), why.to_string()));
    }
}

/// What a look found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Folders that are walked, and would be watched.
    pub(super) folders: u64,
    /// Files that are inputs, and their size.
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// Files that are not, by the rule that says so; our own outputs do not count.
    pub(super) skipped: BTreeMap<&'static str, u64>,
    /// Inputs over `max_size`.
    pub(super) oversized: Tally,
    /// Inputs whose `done_marker` does not say yet that they are whole, and those of which it never can.
    pub(super) unmarked: u64,
    pub(super) unmarkable: Tally,
    /// Inputs that cannot be read.
    pub(super) unreadable: Tally,
    /// Folders that cannot be listed.
    pub(super) unlistable: Tally,
    /// Folders in which no result can be made.
    pub(super) unwritable: Tally,
    /// Inputs that cannot be renamed although `on_success` or `on_failure` needs it.
    pub(super) stuck: Tally,
    /// Some inputs to ask for writers.
    pub(super) probes: Vec<PathBuf>,
    /// The folder has more names than were looked at.
    pub(super) cut_short: bool,
    names: u64,
}

/// Looks through everything beneath a root.
pub(super) fn look(watch: &Watch, root: &Root) -> Found {
    let selector = Selector::new(watch);
    let mut found = Found::default();
    let mut stack = vec![PathBuf::new()];
    while let Some(rel) = stack.pop() {
        if selector.folders(&rel).is_err() {
            continue;
        }
        match folder(watch, root, &selector, &rel, &mut stack, &mut found) {
            Ok(()) => {}
            // It went away meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound && !rel.as_os_str().is_empty() => {}
            Err(error) => found.unlistable.add(&rel, error),
        }
        if found.cut_short {
            break;
        }
    }
    found
}

fn folder(
    watch: &Watch,
    root: &Root,
    selector: &Selector,
    rel: &Path,
    stack: &mut Vec<PathBuf>,
    found: &mut Found,
) -> io::Result<()> {
    let dir = root.dir(rel)?;
    let path = root.path().join(rel);
    found.folders += 1;
    let mut holds_inputs = rel.as_os_str().is_empty();
    let sticky = sticky_for_us(&path);
    for entry in dir.entries()? {
        let entry = entry?;
        found.names += 1;
        if found.names > MAX_NAMES {
            found.cut_short = true;
            break;
        }
        let rel = rel.join(&entry.name);
        match kind(&dir, entry.kind, &rel) {
            EntryKind::Directory => stack.push(rel),
            EntryKind::File => holds_inputs |= file(watch, root, selector, &dir, rel, sticky, found)?,
            EntryKind::Special => {}
        }
    }
    // A folder without inputs needs no results yet, but the root always may; what is kept, with its results elsewhere, is
    // only read.
    let is_written = watch.results.directory.is_none() || goes(watch);
    if holds_inputs
        && is_written
        && let Err(error) = may(&path, change_names())
    {
        found.unwritable.add(rel, error);
    }
    Ok(())
}

fn kind(dir: &Dir, told: Option<EntryKind>, rel: &Path) -> EntryKind {
    told.unwrap_or_else(|| match dir.look(base_name(rel)) {
        Ok(Look::File(_)) => EntryKind::File,
        Ok(Look::Directory) => EntryKind::Directory,
        _ => EntryKind::Special,
    })
}

/// Counts a file. True if it is an input.
fn file(
    watch: &Watch,
    root: &Root,
    selector: &Selector,
    dir: &Dir,
    rel: PathBuf,
    sticky: bool,
    found: &mut Found,
) -> io::Result<bool> {
    match selector.file(&rel) {
        Ok(()) => {}
        Err(Skip::Output) => return Ok(false),
        Err(skip) => {
            *found.skipped.entry(skip.rule()).or_default() += 1;
            return Ok(false);
        }
    }
    let Some(seen) = dir.file(base_name(&rel))? else { return Ok(false) };
    found.files += 1;
    found.bytes = found.bytes.saturating_add(seen.generation.size);
    if seen.generation.size > watch.max_size {
        found.oversized.add(&rel, "");
    }
    if let Some(marker) = &watch.done_marker {
        match marked(marker, base_name(&rel), &seen.generation, |name| dir.file(name))? {
            Marked::Yes => {}
            Marked::NotYet => found.unmarked += 1,
            Marked::Never => found.unmarkable.add(&rel, ""),
        }
    }
    if let Err(error) = may(&root.path().join(&rel), Access::READ_OK) {
        found.unreadable.add(&rel, error);
    }
    if sticky && goes(watch) && seen.uid != rustix::process::geteuid().as_raw() {
        found.stuck.add(&rel, "the folder has the sticky bit and the file belongs to somebody else");
    }
    if found.probes.len() < MAX_PROBES {
        found.probes.push(rel);
    }
    Ok(true)
}

/// Whether files of a watch are renamed when they are done.
fn goes(watch: &Watch) -> bool {
    watch.on_success != OnSuccess::Keep || watch.on_failure != OnFailure::Keep
}

/// Whether the sticky bit of a folder keeps us from renaming others' files in it.
fn sticky_for_us(path: &Path) -> bool {
    let uid = rustix::process::geteuid();
    !uid.is_root()
        && path.metadata().is_ok_and(|metadata| metadata.mode() & STICKY != 0 && metadata.uid() != uid.as_raw())
}
