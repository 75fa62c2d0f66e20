//! Which paths beneath a root are inputs: filters, junk, and never our own outputs.
//!
//! Pure: it decides by the path alone, relative to the root of its watch.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::config::{OnSuccess, Watch};
use crate::sidecar;

/// Deepest nesting of folders that is walked into; a path this deep is a mistake or an attack.
pub const MAX_DEPTH: usize = 128;

/// Names that editors, browsers and systems leave while they work; compared without regard to case.
const JUNK_NAMES: &[&str] = &["thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"];
/// Beginnings of such names: hidden files and folders, and the lock files of office programs.
const JUNK_PREFIXES: &[&str] = &[".", "~$"];
/// Endings of such names.
const JUNK_SUFFIXES: &[&str] =
    &[".tmp", ".temp", ".part", ".partial", ".crdownload", ".opdownload", ".filepart", ".aria2", ".swp", "~"];

/// Why a path is not an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// One of our own outputs or hidden names.
    Output,
    /// In the folder that finished files are moved to.
    MoveTarget,
    /// Junk: `ignore_junk`.
    Junk,
    /// An `exclude` pattern matches.
    Excluded,
    /// No `include` pattern matches.
    NotIncluded,
    /// In a folder, and the watch is not recursive.
    NotRecursive,
    /// Nested deeper than [`MAX_DEPTH`].
    TooDeep,
}

impl Skip {
    /// Stable name of the rule.
    pub fn rule(self) -> &'static str {
        match self {
            Self::Output => "output",
            Self::MoveTarget => "move-target",
            Self::Junk => "junk",
            Self::Excluded => "exclude",
            Self::NotIncluded => "include",
            Self::NotRecursive => "recursive",
            Self::TooDeep => "depth",
        }
    }
}

/// The selection of one watch.
#[derive(Debug, Clone)]
pub struct Selector {
    filters: crate::config::Filters,
    recursive: bool,
    /// Where finished files are moved to, relative to the root, if it lies beneath it.
    move_target: Option<PathBuf>,
}

impl Selector {
    /// The selection that a watch asks for.
    pub fn new(watch: &Watch) -> Self {
        let move_target = match &watch.on_success {
            OnSuccess::Move(target) => target.strip_prefix(&watch.path).ok().map(Path::to_owned),
            OnSuccess::Keep | OnSuccess::Delete => None,
        };
        Self { filters: watch.select.clone(), recursive: watch.recursive, move_target }
    }

    /// Whether a file is an input, or why not.
    pub fn file(&self, rel: &Path) -> Result<(), Skip> {
        if sidecar::is_output(crate::fs::base_name(rel)) {
            return Err(Skip::Output);
        }
        self.folders(rel.parent().unwrap_or(Path::new("")))?;
        if self.filters.ignore_junk && is_junk(crate::fs::base_name(rel)) {
            return Err(Skip::Junk);
        }
        if self.filters.exclude.is_match(rel) {
            return Err(Skip::Excluded);
        }
        if self.filters.include.as_ref().is_some_and(|include| !include.is_match(rel)) {
            return Err(Skip::NotIncluded);
        }
        Ok(())
    }

    /// Whether a folder is walked into, or why not; the root itself always is.
    pub fn folders(&self, rel: &Path) -> Result<(), Skip> {
        if rel.as_os_str().is_empty() {
            return Ok(());
        }
        if !self.recursive {
            return Err(Skip::NotRecursive);
        }
        if self.move_target.as_ref().is_some_and(|target| rel.starts_with(target)) {
            return Err(Skip::MoveTarget);
        }
        let mut depth = 0;
        for component in rel.components() {
            let Component::Normal(name) = component else { return Err(Skip::TooDeep) };
            depth += 1;
            if name.as_bytes().starts_with(sidecar::HIDDEN_PREFIX.as_bytes()) {
                return Err(Skip::Output);
            }
            if self.filters.ignore_junk && is_junk(name) {
                return Err(Skip::Junk);
            }
        }
        if depth > MAX_DEPTH { Err(Skip::TooDeep) } else { Ok(()) }
    }
}

fn is_junk(name: &OsStr) -> bool {
    let name = name.as_bytes().to_ascii_lowercase();
    JUNK_NAMES.iter().any(|junk| name == junk.as_bytes())
        || JUNK_PREFIXES.iter().any(|junk| name.starts_with(junk.as_bytes()))
        || JUNK_SUFFIXES.iter().any(|junk| name.ends_with(junk.as_bytes()))
}
