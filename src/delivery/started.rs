//! Which content of its file each pipeline's task was started with, kept over restarts.
//!
//! A server that is asked to start a pipeline joins the task that runs already, whatever it was started with. So a change
//! of the file would go unseen, also one that was made while the daemon was stopped. Only hashes are kept: the file may
//! hold keys, and a token is a secret.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::fs::Dir;
use crate::locks::lock;
use crate::show::Shown;

/// The file in the state directory.
const FILE: &str = "pipelines.json";
/// A file with more is none of ours, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// What each pipeline was started with.
#[derive(Debug, Default)]
pub struct Started {
    state_dir: PathBuf,
    hashes: Mutex<BTreeMap<String, String>>,
}

/// The hash of a pipeline's content: comments and blanks of its file are no part of it.
pub fn hash(pipeline: &Value) -> String {
    hex::encode(Sha256::digest(pipeline.to_string()))
}

impl Started {
    /// Reads what is known. Blocks. What cannot be read is not known: a change made while the daemon was stopped is then
    /// not noticed, which is said.
    pub fn load(state_dir: &Path) -> Self {
        let read = || -> io::Result<BTreeMap<String, String>> {
            let json = Dir::open(state_dir)?.read_whole(FILE.as_ref(), MAX_FILE)?;
            Ok(json.map(|json| serde_json::from_slice(&json)).transpose()?.unwrap_or_default())
        };
        let hashes = read().unwrap_or_else(|error| {
            tracing::warn!(
                path = %Shown(&state_dir.join(FILE)), %error,
                "cannot read what the pipelines were started with: should a pipeline file have changed meanwhile, restart its task"
            );
            BTreeMap::new()
        });
        Self { state_dir: state_dir.to_owned(), hashes: Mutex::new(hashes) }
    }

    /// The hash of what a pipeline's task was started with.
    pub fn of(&self, pipeline: &str) -> Option<String> {
        lock(&self.hashes).get(pipeline).cloned()
    }

    /// Notes what a pipeline's task runs with. Durable when it returns, if it can be; it is known in this process anyhow.
    /// Blocks.
    pub fn note(&self, pipeline: &str, hash: String) {
        let mut hashes = lock(&self.hashes);
        if hashes.get(pipeline) == Some(&hash) {
            return;
        }
        hashes.insert(pipeline.to_owned(), hash);
        let write = || {
            let json = serde_json::to_vec_pretty(&*hashes)?;
            Dir::open(&self.state_dir)?.write_whole(FILE.as_ref(), &json)
        };
        if let Err(error) = write() {
            tracing::warn!(path = %Shown(&self.state_dir.join(FILE)), %error, "cannot note what a pipeline was started with");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_known_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let started = Started::load(dir.path());
        assert_eq!(started.of("p"), None);
        started.note("p", "1".into());
        started.note("q", "2".into());
        started.note("p", "3".into());
        let again = Started::load(dir.path());
        assert_eq!((again.of("p"), again.of("q")), (Some("3".into()), Some("2".into())));
    }

    #[test]
    fn a_file_that_makes_no_sense_is_not_known() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "[").unwrap();
        assert_eq!(Started::load(dir.path()).of("p"), None);
    }

    #[test]
    fn the_content_counts_and_not_how_it_is_written() {
        let read = |text: &str| hash(&crate::client::parse_pipeline(text).unwrap());
        let plain = read(r#"{"pipeline": {"project_id": "a", "components": []}}"#);
        assert_eq!(plain, read("// note\n{pipeline: {components: [], project_id: 'a'}}"));
        assert_ne!(plain, read(r#"{"pipeline": {"project_id": "b", "components": []}}"#));
    }
}
