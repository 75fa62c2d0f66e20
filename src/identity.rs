//! Who this daemon is to the outside: its instance id, and the stable object ids made from it.
//!
//! The instance id is made once and kept in the state directory, outside the journal, so that throwing the
//! journal away changes no object id and every result written before is still recognised as ours.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::fs::Dir;

/// Name of the file in the state directory that holds the instance id.
const FILE: &str = "instance";

/// A file with more is none of ours, in bytes.
const MAX_FILE: u64 = 64 * 1024;

/// Who writes results here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The instance id, as in `[server] instance`.
    pub instance: String,
    /// The user the daemon runs as; files of others are never taken for ours.
    pub uid: u32,
}

/// Why the identity is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The state directory cannot be read or written.
    #[error("cannot use {}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is there without an id: something else than this daemon emptied it.
    #[error(
        "{} is empty: without the instance id every file would get a new object id and be sent again; restore it from a \
         backup or any result file (\"instance\"), or remove it to begin anew",
        .path.display()
    )]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The configured instance is not the one this state directory has.
    #[error(
        "server.instance is {configured:?}, but {} holds {kept:?}: with another instance every file would get a new \
         object id and be sent again; start once with `run --accept-new-instance` if that is what you want",
        .path.display()
    )]
    Changed {
        /// What the configuration says.
        configured: String,
        /// What the state directory says.
        kept: String,
        /// The file.
        path: PathBuf,
    },
}

impl Identity {
    /// Reads the instance id from the state directory; the first time it is taken from the configuration, else made.
    ///
    /// `accept_new` lets a configured id replace the kept one. The directory must exist.
    pub fn load(state_dir: &Path, configured: Option<&str>, accept_new: bool) -> Result<Self, IdentityError> {
        let path = state_dir.join(FILE);
        let io_error = |source| IdentityError::Io { path: state_dir.join(FILE), source };
        let dir = Dir::open(state_dir).map_err(io_error)?;
        let kept = dir.read_whole(FILE.as_ref(), MAX_FILE).and_then(|bytes| {
            bytes.map(|bytes| String::from_utf8(bytes).map_err(|_| io::Error::other("it is no text"))).transpose()
        });
        let kept = match kept.map_err(io_error)? {
            Some(text) if text.trim().is_empty() => return Err(IdentityError::Empty { path }),
            kept => kept.map(|text| text.trim().to_owned()),
        };
        let instance = match (kept, configured) {
            (Some(kept), None) => kept,
            (Some(kept), Some(configured)) if kept == configured => kept,
            (Some(kept), Some(configured)) if !accept_new => {
                return Err(IdentityError::Changed { configured: configured.to_owned(), kept, path });
            }
            (_, configured) => {
                let instance = configured.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned);
                dir.write_whole(FILE.as_ref(), format!("{instance}\n").as_bytes()).map_err(io_error)?;
                instance
            }
        };
        Ok(Self { instance, uid: rustix::process::geteuid().as_raw() })
    }

    /// The object id of a file: the same for the same instance, watch and relative path, always.
    ///
    /// The server replaces by object id, so a repeated delivery replaces instead of duplicating.
    pub fn object_id(&self, watch: &str, rel: &Path) -> Uuid {
        let namespace = Uuid::new_v5(&Uuid::NAMESPACE_URL, self.instance.as_bytes());
        let mut name = Vec::with_capacity(watch.len() + 1 + rel.as_os_str().len());
        name.extend_from_slice(watch.as_bytes());
        name.push(0);
        name.extend_from_slice(rel.as_os_str().as_bytes());
        Uuid::new_v5(&namespace, &name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::load(dir.path(), None, false).unwrap();
        assert_eq!(first, Identity::load(dir.path(), None, false).unwrap());
        assert_eq!(first, Identity::load(dir.path(), Some(&first.instance), false).unwrap());
    }

    #[test]
    fn an_emptied_file_is_not_taken_for_a_first_start() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "").unwrap();
        let error = Identity::load(dir.path(), None, false).unwrap_err();
        assert!(error.to_string().contains("empty"), "{error}");
    }

    #[test]
    fn another_instance_is_refused_until_it_is_accepted() {
        let dir = tempfile::tempdir().unwrap();
        Identity::load(dir.path(), Some("one"), false).unwrap();
        let error = Identity::load(dir.path(), Some("two"), false).unwrap_err();
        assert!(error.to_string().contains("--accept-new-instance"), "{error}");
        assert_eq!(Identity::load(dir.path(), None, false).unwrap().instance, "one");
        assert_eq!(Identity::load(dir.path(), Some("two"), true).unwrap().instance, "two");
        assert_eq!(Identity::load(dir.path(), None, false).unwrap().instance, "two");
    }

    #[test]
    fn object_ids_tell_watches_and_paths_apart() {
        let identity = Identity { instance: "i".into(), uid: 0 };
        let id = |watch: &str, path: &str| identity.object_id(watch, Path::new(path));
        assert_eq!(id("w", "a/b"), id("w", "a/b"));
        assert_ne!(id("w", "a/b"), id("w", "b"));
        assert_ne!(id("w", "b"), id("v", "b"));
        assert_ne!(id("wa", "b"), id("w", "ab"));
    }
}
