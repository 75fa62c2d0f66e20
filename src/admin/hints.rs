//! What the dropper of a dead letter was told to do: read out of its error file, which alone has it.
//!
//! Only for the rows that are shown, one reader a watch, and for a moment: what a folder does not tell in that time is left
//! out, and a folder that does not answer keeps one thread and no more.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use super::Desk;
use super::wire::Page;
use crate::blocking::blocking;
use crate::config::{OnFailure, Watch};
use crate::fs::{Dir, Root};
use crate::identity::Identity;
use crate::job::{Job, JobState};
use crate::locks::lock;
use crate::show::escaped;
use crate::sidecar;

/// Error files read for one page.
pub(super) const MAX_READ: usize = 100;
/// How long they may take, all together.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Characters of a hint that are shown; ours are shorter.
const MAX_CHARS: usize = 1000;

/// The watches whose error files are being read.
#[derive(Debug, Clone, Default)]
pub struct Hints(Arc<Mutex<HashSet<String>>>);

impl Hints {
    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        lock(&self.0)
    }

    /// Permission to read those of a watch; none while they are being read.
    fn begin(&self, watch: &str) -> Option<Reading> {
        self.lock().insert(watch.to_owned()).then(|| Reading { hints: self.clone(), watch: watch.to_owned() })
    }
}

/// Kept by the thread that reads, until it ends.
struct Reading {
    hints: Hints,
    watch: String,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.hints.lock().remove(&self.watch);
    }
}

/// A dead letter on a page.
pub(super) struct Letter {
    /// Its place on the page.
    pub(super) row: usize,
    /// Its watch.
    pub(super) watch: String,
    /// What the journal has of it.
    pub(super) job: Job,
}

/// Adds their hints to the dead letters of a page.
pub(super) async fn add(desk: &Desk, page: &mut Page, letters: Vec<Letter>) {
    let mut by_watch: BTreeMap<String, Vec<Letter>> = BTreeMap::new();
    for letter in letters.into_iter().take(MAX_READ) {
        by_watch.entry(letter.watch.clone()).or_default().push(letter);
    }
    let running = desk.running();
    let reads = by_watch.into_iter().filter_map(|(name, letters)| {
        let folder = running.folder(&name)?;
        let (root, watch, identity) = (folder.root()?, folder.watch.clone(), desk.identity.clone());
        let reading = desk.hints.begin(&name)?;
        let read = blocking(move || {
            let _reading = reading;
            let hint = |letter: &Letter| Some((letter.row, of(&watch, &root, &letter.job, &identity)?));
            letters.iter().filter_map(hint).collect::<Vec<_>>()
        });
        Some(timeout(TIMEOUT, read))
    });
    for (row, hint) in join_all(reads).await.into_iter().filter_map(Result::ok).flatten() {
        page.jobs[row].hint = Some(hint);
    }
}

/// What the error file of a dead letter says is to be done; none if it is not there, or not of this content. Blocks.
pub(super) fn of(watch: &Watch, root: &Root, job: &Job, identity: &Identity) -> Option<String> {
    if job.state != JobState::Failed {
        return None;
    }
    // A name alone is one beside the input; in a results directory it is a path.
    let recorded = Path::new(job.sidecar.as_deref()?);
    let name = recorded.file_name()?;
    let read = |dir: Dir| sidecar::hint(&dir, name, &job.generation, identity).ok().flatten();
    let moved = || match &watch.on_failure {
        OnFailure::Move(target) => read(Dir::open(&target.join(job.path.parent().unwrap_or(Path::new("")))).ok()?),
        OnFailure::Keep => None,
    };
    let placed = match recorded.parent() {
        Some(apart) if recorded.is_absolute() => Dir::open(apart),
        _ => root.parent(&job.path),
    };
    let hint = placed.ok().and_then(read).or_else(moved)?;
    Some(escaped(&hint.chars().take(MAX_CHARS).collect::<String>()).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_does_not_answer_keeps_one_reader() {
        let hints = Hints::default();
        let stuck = hints.begin("in").unwrap();
        assert!(hints.begin("in").is_none());
        assert!(hints.begin("other").is_some(), "and only its own");
        drop(stuck);
        assert!(hints.begin("in").is_some());
    }
}
