//! Events of the kernel as hints: the only user of notify.
//!
//! Every directory is watched by itself, and before it is listed: whatever appears in it afterwards raises an
//! event, whatever was there before is in the listing. (Letting notify watch recursively loses files written
//! into a directory before its own watch is set: of 400 files in fresh nested directories, 22 to 35 raised nothing.)
//! An event only says "look here". The callback runs on notify's thread and never blocks: when the channel is
//! full, or the kernel's queue overflowed, a flag asks for a rescan instead.

use crate::locks::lock;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{Notify, mpsc};

use crate::fs::base_name;
use crate::sidecar;

/// Hints that may wait for intake; beyond it a rescan finds what was missed.
const CAPACITY: usize = 8192;

/// The watches of one root.
pub struct Watches {
    root: PathBuf,
    watcher: Mutex<RecommendedWatcher>,
    shared: Arc<Shared>,
}

/// What the callback and intake share.
#[derive(Debug, Default)]
struct Shared {
    /// Events were lost: look at everything.
    rescan: AtomicBool,
    /// Wakes intake for `rescan`.
    wake: Notify,
}

/// Why a directory cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The limit of inotify watches, instances or descriptors is reached.
    #[error(
        "the limit of inotify watches is reached (raise sysctl fs.inotify.max_user_watches, or \
         fs.inotify.max_user_instances where no watch at all could be set)"
    )]
    Exhausted,
    /// It went away before it was watched, or cannot be read.
    #[error("{0}")]
    Other(String),
}

impl From<notify::Error> for WatchError {
    fn from(error: notify::Error) -> Self {
        use rustix::io::Errno;
        let exhausted = match &error.kind {
            notify::ErrorKind::MaxFilesWatch => true,
            notify::ErrorKind::Io(io) => [Errno::NOSPC, Errno::MFILE, Errno::NFILE]
                .iter()
                .any(|errno| io.raw_os_error() == Some(errno.raw_os_error())),
            _ => false,
        };
        if exhausted { Self::Exhausted } else { Self::Other(error.to_string()) }
    }
}

impl Watches {
    /// Begins to listen; nothing is watched before [`Watches::add`]. Hints are paths relative to the root.
    pub fn new(root: &Path) -> Result<(Self, mpsc::Receiver<PathBuf>), WatchError> {
        let (hints, receiver) = mpsc::channel(CAPACITY);
        let shared = Arc::<Shared>::default();
        let (callback_root, callback_shared) = (root.to_owned(), shared.clone());
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            forward(event, &callback_root, &hints, &callback_shared);
        })?;
        Ok((Self { root: root.to_owned(), watcher: Mutex::new(watcher), shared }, receiver))
    }

    /// Watches one directory, given relative to the root. Watching it again is harmless and renews its path.
    pub fn add(&self, rel: &Path) -> Result<(), WatchError> {
        let path = if rel.as_os_str().is_empty() { self.root.clone() } else { self.root.join(rel) };
        let mut watcher = lock(&self.watcher);
        Ok(watcher.watch(&path, RecursiveMode::NonRecursive)?)
    }

    /// Resolves when events were lost since the last call.
    pub async fn lost(&self) {
        while !self.shared.rescan.swap(false, Ordering::AcqRel) {
            self.shared.wake.notified().await;
        }
    }
}

fn forward(event: notify::Result<notify::Event>, root: &Path, hints: &mpsc::Sender<PathBuf>, shared: &Shared) {
    let lost = || {
        shared.rescan.store(true, Ordering::Release);
        shared.wake.notify_one();
    };
    let Ok(event) = event else { return lost() };
    // An overflow carries no path: ask for it before looking at paths.
    if event.need_rescan() {
        return lost();
    }
    // Our own reads raise open and close events; only the end of a write says something.
    if matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write)) {
        return;
    }
    for path in &event.paths {
        if let Ok(rel) = path.strip_prefix(root)
            && !rel.as_os_str().is_empty()
            && !is_of_no_interest(path)
            && hints.try_send(rel.to_owned()).is_err()
        {
            lost();
        }
    }
}

/// Whether what happens at a path can concern no input: a temp file of ours, or a result that is written. Each delivery
/// makes half a dozen such events; a folder of such a name, or one that is gone, is intake's to look at all the same.
fn is_of_no_interest(path: &Path) -> bool {
    let name = base_name(path);
    // The removal of an error file asks for another try.
    if !sidecar::is_output(name) || sidecar::input_of_error(name).is_some() {
        return false;
    }
    // No folder of such a name is walked.
    name.as_encoded_bytes().starts_with(sidecar::TEMP_PREFIX.as_bytes())
        || std::fs::symlink_metadata(path).is_ok_and(|found| found.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_files_are_of_no_interest_but_folders_and_error_files_are() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["a.result.json", "a.error.json", "a.pdf"] {
            std::fs::write(at(name), "x").unwrap();
        }
        std::fs::create_dir(at("b.result.json")).unwrap();
        let uninteresting = |name: &str| is_of_no_interest(&at(name));
        assert!(uninteresting("a.result.json") && uninteresting(".rri-tmp-1"));
        for name in ["a.pdf", "a.error.json", "gone.error.json", "b.result.json", "gone.result.json"] {
            assert!(!uninteresting(name), "{name}");
        }
    }
}
