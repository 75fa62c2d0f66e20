//! What an operator paused: watches and pipelines that delivery leaves alone until they are resumed.
//!
//! A pause survives restarts, and says since when. It is kept in a file of its own beside the journal, because the journal
//! may be thrown away and an operator's word may not. It knows nothing of what a pause means.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::fs::Dir;
use crate::job::Millis;
use crate::locks::lock;

/// The file in the state directory.
const FILE: &str = "pauses.json";
/// A file with more is none of ours, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// What can be paused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind", content = "name")]
pub enum Subject {
    /// A watch: nothing new of it is sent; what appears is still journaled.
    Watch(String),
    /// A pipeline: nothing new is sent to it.
    Pipeline(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Watch(name) => write!(f, "watch:{name}"),
            Self::Pipeline(name) => write!(f, "pipeline:{name}"),
        }
    }
}

/// What is paused, and since when.
pub type Paused = BTreeMap<Subject, Millis>;

/// One pause as it stands in the file.
#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    subject: Subject,
    since: Millis,
}

/// Why the pauses cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {}: {source}", .path.display())]
pub struct PausesError {
    path: PathBuf,
    source: io::Error,
}

/// The pauses of one daemon.
#[derive(Debug)]
pub struct Pauses {
    state_dir: PathBuf,
    now: watch::Sender<Paused>,
    /// Held while the file is written.
    turn: Mutex<()>,
}

impl Pauses {
    /// Reads what was paused before. The directory must exist. Blocks.
    ///
    /// Errors: the file is there and cannot be read; to go on without it would send what an operator held back.
    pub fn load(state_dir: &Path) -> Result<Self, PausesError> {
        let read = || -> io::Result<Paused> {
            let Some(json) = Dir::open(state_dir)?.read_whole(FILE.as_ref(), MAX_FILE)? else {
                return Ok(Paused::new());
            };
            let entries: Vec<Entry> = serde_json::from_slice(&json)?;
            Ok(entries.into_iter().map(|entry| (entry.subject, entry.since)).collect())
        };
        match read() {
            Ok(paused) => {
                Ok(Self { state_dir: state_dir.to_owned(), now: watch::Sender::new(paused), turn: Mutex::new(()) })
            }
            Err(source) => Err(PausesError { path: state_dir.join(FILE), source }),
        }
    }

    /// What is paused now.
    pub fn paused(&self) -> Paused {
        self.now.borrow().clone()
    }

    /// Follows what is paused.
    pub fn follow(&self) -> watch::Receiver<Paused> {
        self.now.subscribe()
    }

    /// Pauses or resumes; durable when it returns. True if that changed anything. A pause that lasts keeps its time. Blocks.
    pub fn set(&self, subject: Subject, paused: bool, at: Millis) -> Result<bool, PausesError> {
        // Two operators must not write over each other, and the dispatcher must not wait for the disk.
        let _turn = lock(&self.turn);
        let mut after = self.paused();
        if paused {
            after.entry(subject).or_insert(at);
        } else {
            after.remove(&subject);
        }
        if after == *self.now.borrow() {
            return Ok(false);
        }
        self.write(&after)?;
        self.now.send_replace(after);
        Ok(true)
    }

    fn write(&self, paused: &Paused) -> Result<(), PausesError> {
        let entries: Vec<_> =
            paused.iter().map(|(subject, since)| Entry { subject: subject.clone(), since: *since }).collect();
        let write = || {
            let json = serde_json::to_vec_pretty(&entries)?;
            Dir::open(&self.state_dir)?.write_whole(FILE.as_ref(), &json)
        };
        write().map_err(|source| PausesError { path: self.state_dir.join(FILE), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invoices() -> Subject {
        Subject::Watch("invoices".into())
    }

    #[test]
    fn a_pause_survives_a_restart_with_its_time() {
        let dir = tempfile::tempdir().unwrap();
        let pauses = Pauses::load(dir.path()).unwrap();
        assert!(pauses.set(invoices(), true, 7).unwrap());
        assert!(!pauses.set(invoices(), true, 9).unwrap(), "it is paused already");
        assert!(pauses.set(Subject::Pipeline("invoices".into()), true, 8).unwrap());
        let again = Pauses::load(dir.path()).unwrap();
        assert_eq!(again.paused().get(&invoices()), Some(&7));
        assert!(again.set(invoices(), false, 10).unwrap());
        assert_eq!(Pauses::load(dir.path()).unwrap().paused().len(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_understood_is_an_error_and_not_a_resume() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "[{").unwrap();
        let error = Pauses::load(dir.path()).unwrap_err();
        assert!(error.to_string().contains(FILE), "{error}");
    }

    #[test]
    fn what_cannot_be_written_is_not_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let pauses = Pauses::load(dir.path()).unwrap();
        drop(dir);
        assert!(pauses.set(invoices(), true, 1).is_err());
        assert!(pauses.paused().is_empty());
    }
}
