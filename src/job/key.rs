//! How watches and files are named in the journal.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use sha2::{Digest, Sha256};

/// Names a watch in keys: the first 8 bytes of the SHA-256 of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WatchId(pub [u8; 8]);

impl WatchId {
    /// The id of the watch of this name.
    pub fn of(name: &str) -> Self {
        let digest = Sha256::digest(name.as_bytes());
        let mut id = [0; 8];
        id.copy_from_slice(&digest[..8]);
        Self(id)
    }
}

/// Names a file in the journal: the watch and the first 16 bytes of the SHA-256 of the path relative to its root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileKey {
    /// The watch.
    pub watch: WatchId,
    /// The hashed path.
    pub path: [u8; 16],
}

impl FileKey {
    /// Length of [`FileKey::to_bytes`].
    pub const LEN: usize = 24;

    /// The key of a path relative to the root of a watch; the bytes count, not their meaning as text.
    pub fn new(watch: WatchId, path: &Path) -> Self {
        let digest = Sha256::digest(path.as_os_str().as_bytes());
        let mut hash = [0; 16];
        hash.copy_from_slice(&digest[..16]);
        Self { watch, path: hash }
    }

    /// Watch id, then path hash.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.watch.0);
        bytes[8..].copy_from_slice(&self.path);
        bytes
    }

    /// The reverse of [`FileKey::to_bytes`].
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        let (mut watch, mut path) = ([0; 8], [0; 16]);
        watch.copy_from_slice(&bytes[..8]);
        path.copy_from_slice(&bytes[8..]);
        Self { watch: WatchId(watch), path }
    }
}
