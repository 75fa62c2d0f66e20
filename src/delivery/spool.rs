//! The spool: results that cannot be written where they belong, kept in the state directory until they can.
//!
//! A pipeline's work is not paid for twice, so a result that the results folder refuses is made durable here:
//! `<state>/spool/<object id>.json`, the very bytes of the result file, which name the instance, the object, its
//! generation and its hash. It lies outside the journal, which may be thrown away: who finds a result of a file here
//! need not send the file.
//!
//! It is bounded in bytes (`state.max_spool`) and in files, and leaves the journal room on its disk: where it is full,
//! a result waits in memory. A file in it is trusted only if it is ours by `stat` and by what it says; others are
//! counted, and never read as results, overwritten or removed.
//!
//! It must not know of jobs, watches or folders. Everything here blocks on the disk.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use uuid::Uuid;

use crate::config::State;
use crate::crash;
use crate::fs::{Dir, Look, free_space};
use crate::identity::Identity;
use crate::locks::lock;
use crate::show::Shown;
use crate::sidecar::{self, Whole};

/// Most results that wait here. A fault brings as many as there are uploads in flight; then nothing more is sent.
pub const MAX_FILES: usize = 4096;
/// Most names that are looked at when it is opened; a spool of ours has fewer.
const MAX_NAMES: usize = 4 * MAX_FILES;
/// Bytes that stay free on the disk of the state directory: without room the journal fails, and with it the daemon.
const JOURNAL_ROOM: u64 = 64 * 1024 * 1024;
/// Its name in the state directory.
const DIRECTORY: &str = "spool";
const SUFFIX: &str = ".json";

/// The spool of a state directory.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    dir: Dir,
    identity: Arc<Identity>,
    max_bytes: u64,
    index: Mutex<Index>,
}

/// What is in it.
#[derive(Debug, Default)]
struct Index {
    /// Bytes of each result that may be ours.
    files: HashMap<Uuid, u64>,
    /// Bytes of all files, strangers' and those being written included.
    bytes: u64,
    /// Names that are no results of ours.
    strange: usize,
}

/// Why the spool cannot be used: what waits in it would be sent again.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot use the spool {}: {source}; it may hold results of files that were sent already: make it readable and \
     writable for the daemon's user",
    .path.display()
)]
pub struct SpoolError {
    path: PathBuf,
    source: io::Error,
}

impl Spool {
    /// Opens the spool of a state directory, which must exist, and makes it if need be. Sweeps what a crash left half
    /// written.
    pub fn open(state: &State, identity: Arc<Identity>) -> Result<Self, SpoolError> {
        let path = state.directory.join(DIRECTORY);
        Self::try_open(&path, state, identity).map_err(|source| SpoolError { path, source })
    }

    fn try_open(path: &Path, state: &State, identity: Arc<Identity>) -> io::Result<Self> {
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => Dir::open(&state.directory)?.sync()?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let dir = Dir::open(path)?;
        // Results are as confidential as their inputs.
        if std::fs::metadata(path)?.permissions().mode() & 0o077 != 0 {
            std::fs::set_permissions(path, Permissions::from_mode(0o700))?;
        }
        let mut index = Index::default();
        for (count, entry) in dir.entries()?.enumerate() {
            if count >= MAX_NAMES {
                tracing::warn!(path = %Shown(path), names = MAX_NAMES, "too many names in the spool; the others are not looked at");
                break;
            }
            index.note(&dir, &entry?.name, &identity)?;
        }
        // What is found may have been put there right before a crash, and the journal is told of it.
        dir.sync()?;
        Ok(Self { path: path.to_owned(), dir, identity, max_bytes: state.max_spool, index: Mutex::new(index) })
    }

    /// Where the result of an object lies, or would lie.
    pub fn path_of(&self, id: Uuid) -> PathBuf {
        self.path.join(name_of(id))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The objects whose results may be here.
    pub fn ids(&self) -> Vec<Uuid> {
        self.lock().files.keys().copied().collect()
    }

    /// Names in it, when it was opened, that are no results of ours.
    pub fn strange(&self) -> usize {
        self.lock().strange
    }

    /// Whether a result of this object may be here; asks no disk.
    pub fn has(&self, id: Uuid) -> bool {
        self.lock().files.contains_key(&id)
    }

    /// Writes a result, durably; it replaces an earlier one of the object.
    ///
    /// Errors: the spool is full, or cannot be written; a stranger's file stands at the name.
    pub fn put(&self, id: Uuid, content: &[u8]) -> io::Result<()> {
        let size = content.len() as u64;
        self.reserve(id, size)?;
        self.write(id, content).inspect_err(|_| self.lock().bytes -= size)?;
        // The name is what is left to make durable. If that fails, the entry stays, to be replaced by the next try.
        self.dir.sync()?;
        crash::point("spool.durable");
        Ok(())
    }

    fn reserve(&self, id: Uuid, size: u64) -> io::Result<()> {
        let full = |why: String| Err(io::Error::new(io::ErrorKind::StorageFull, why));
        if size > sidecar::MAX_LEN {
            return full(format!("the result has {size} bytes, more than any file of ours"));
        }
        let free = free_space(&self.path)?;
        let mut index = self.lock();
        if free < size.saturating_add(JOURNAL_ROOM) {
            return full(format!("the disk of the spool has {free} bytes left, which the journal needs"));
        }
        if index.bytes.saturating_add(size) > self.max_bytes {
            return full(format!(
                "the spool holds {} bytes and takes {} (state.max_spool)",
                index.bytes, self.max_bytes
            ));
        }
        if index.files.len() >= MAX_FILES && !index.files.contains_key(&id) {
            return full(format!("the spool holds {MAX_FILES} results, the most it takes"));
        }
        index.bytes += size;
        Ok(())
    }

    fn write(&self, id: Uuid, content: &[u8]) -> io::Result<()> {
        let (temp, name) = (sidecar::other_temp_name(id), name_of(id));
        let replaces = self.read(id)?.is_some();
        let mut file = self.dir.create_new(&temp, 0o600)?;
        let written = file.write_all(content).and_then(|()| {
            crash::point("spool.written");
            file.sync_all()?;
            crash::point("spool.synced");
            if replaces { self.dir.replace(&temp, &name) } else { self.dir.rename_new(&temp, &self.dir, &name) }
        });
        if let Err(error) = written {
            // What cannot be removed now is swept at the next start.
            let _ = self.dir.unlink(&temp);
            return Err(error);
        }
        crash::point("spool.renamed");
        let mut index = self.lock();
        if let Some(replaced) = index.files.insert(id, content.len() as u64) {
            index.bytes -= replaced;
        }
        Ok(())
    }

    /// Reads the result of an object; `None` if there is none, or none that can be trusted.
    pub fn read(&self, id: Uuid) -> io::Result<Option<Whole>> {
        let name = name_of(id);
        if !self.dir.exists(&name)? {
            self.forget(id);
            return Ok(None);
        }
        sidecar::read_result(&self.dir, &name, id, &self.identity)
    }

    /// Removes the result of an object, if there is one that can be trusted.
    pub fn remove(&self, id: Uuid) -> io::Result<()> {
        if self.read(id)?.is_none() {
            return Ok(());
        }
        match self.dir.unlink(&name_of(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => self.forget(id),
        }
        crash::point("spool.removed");
        self.dir.sync()
    }

    fn forget(&self, id: Uuid) {
        let mut index = self.lock();
        if let Some(size) = index.files.remove(&id) {
            index.bytes -= size;
        }
    }

    /// Plain data that no panic can leave half changed.
    fn lock(&self) -> MutexGuard<'_, Index> {
        lock(&self.index)
    }
}

impl Index {
    /// Takes a name into account that stands in the spool.
    fn note(&mut self, dir: &Dir, name: &OsStr, identity: &Identity) -> io::Result<()> {
        let seen = match dir.look(name) {
            Ok(Look::File(seen)) => seen,
            Ok(_) => {
                self.strange += 1;
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let ours = seen.uid == identity.uid && seen.nlink == 1;
        if ours && name.as_bytes().starts_with(sidecar::TEMP_PREFIX.as_bytes()) {
            return dir.unlink(name);
        }
        self.bytes = self.bytes.saturating_add(seen.generation.size);
        match id_of(name).filter(|_| ours) {
            Some(id) => drop(self.files.insert(id, seen.generation.size)),
            None => self.strange += 1,
        }
        Ok(())
    }
}

fn name_of(id: Uuid) -> OsString {
    format!("{id}{SUFFIX}").into()
}

/// The object that a name is of; only the way we write it counts.
fn id_of(name: &OsStr) -> Option<Uuid> {
    let id = Uuid::parse_str(name.to_str()?.strip_suffix(SUFFIX)?).ok()?;
    (name_of(id) == name).then_some(id)
}

#[cfg(test)]
mod tests;
