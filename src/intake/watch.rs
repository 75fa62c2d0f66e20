//! Events of the kernel as hints: the only user of notify.
//!
//! Every directory is watched by itself, and before it is listed: whatever appears in it afterwards raises an
//! event, whatever was there before is in the listing. (Letting notify watch recursively loses files written
//! into a directory before its own watch is set: of 400 files in fresh nested directories, 22 to 35 raised nothing.)
//! An event only says "look here". The callback runs on notify's thread and never blocks: when the channel is
//! full, or the kernel's queue overflowed, a flag asks for a rescan instead.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind, RemoveKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{Notify, mpsc};

use crate::fs::base_name;
use crate::locks::lock;
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
        let mut own = OwnRename::default();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            forward(event, &mut own, &callback_root, &hints, &callback_shared);
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

fn forward(
    event: notify::Result<notify::Event>,
    own: &mut OwnRename,
    root: &Path,
    hints: &mpsc::Sender<PathBuf>,
    shared: &Shared,
) {
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
    let is_own = own.is(&event);
    for path in &event.paths {
        if let Ok(rel) = path.strip_prefix(root)
            && !rel.as_os_str().is_empty()
            && !is_of_no_interest(path, event.kind, is_own)
            && hints.try_send(rel.to_owned()).is_err()
        {
            lost();
        }
    }
}

/// The rename of a temp file of ours that was heard of last.
#[derive(Default)]
struct OwnRename {
    tracker: Option<usize>,
}

impl OwnRename {
    /// Whether an event is of such a rename: the kernel tells of both ends, and numbers what belongs together.
    fn is(&mut self, event: &notify::Event) -> bool {
        let EventKind::Modify(ModifyKind::Name(mode)) = event.kind else { return false };
        let is_temp = event.paths.first().is_some_and(|path| is_temp(base_name(path)));
        if mode == RenameMode::From && is_temp {
            self.tracker = event.tracker();
        }
        is_temp || (event.tracker().is_some() && event.tracker() == self.tracker)
    }
}

fn is_temp(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(sidecar::TEMP_PREFIX.as_bytes())
}

/// Whether what happens at a path can concern no input: a temp file of ours, or a result that is written. Each delivery
/// makes half a dozen such events. A folder may have the name of a result, and is intake's to look at all the same.
///
/// `is_own`: it is the rename of a temp file of ours. What stands there is not asked: that may take for ever.
fn is_of_no_interest(path: &Path, kind: EventKind, is_own: bool) -> bool {
    let name = base_name(path);
    // The removal of an error file asks for another try.
    if !sidecar::is_output(name) || sidecar::input_of_error(name).is_some() {
        return false;
    }
    let of_a_file = matches!(
        kind,
        EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Create(CreateKind::File)
            | EventKind::Modify(ModifyKind::Data(_))
            | EventKind::Remove(RemoveKind::File)
    );
    // No folder of a temp file's name is walked.
    is_own || of_a_file || is_temp(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renamed(mode: RenameMode, paths: &[&str], tracker: usize) -> notify::Event {
        let event = notify::Event::new(EventKind::Modify(ModifyKind::Name(mode))).set_tracker(tracker);
        paths.iter().fold(event, |event, path| event.add_path(path.into()))
    }

    #[test]
    fn our_own_files_are_of_no_interest_but_folders_and_error_files_are() {
        let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
        let uninteresting = |name: &str, kind, is_own| is_of_no_interest(Path::new(name), kind, is_own);
        assert!(uninteresting("in/a.result.json", written, false) && uninteresting(".rri-tmp-1", written, false));
        for name in ["a.pdf", "a.error.json"] {
            assert!(!uninteresting(name, written, false) && !uninteresting(name, written, true), "{name}");
        }
        let to = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        assert!(uninteresting("a.result.json", to, true));
        assert!(!uninteresting("a.result.json", to, false), "a folder may have come");
        assert!(!uninteresting("a.result.json", EventKind::Create(CreateKind::Folder), false));
    }

    #[test]
    fn both_ends_of_our_own_rename_are_known() {
        let mut own = OwnRename::default();
        assert!(!own.is(&renamed(RenameMode::To, &["a.result.json"], 7)), "whose it is was not told");
        assert!(own.is(&renamed(RenameMode::From, &["in/.rri-tmp-1"], 7)));
        assert!(own.is(&renamed(RenameMode::To, &["in/a.result.json"], 7)));
        assert!(own.is(&renamed(RenameMode::Both, &["in/.rri-tmp-1", "in/a.result.json"], 7)));
        assert!(!own.is(&renamed(RenameMode::From, &["in/b"], 8)) && !own.is(&renamed(RenameMode::To, &["in/c"], 8)));
    }
}
