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

/// Bytes of a key that only tell the folder.
const FOLDER: usize = 4;

/// Names a file in the journal: the watch, the first 4 bytes of the SHA-256 of the folder it is in, and the first 12 of that
/// of its whole path, both relative to the root of the watch.
///
/// So the records of one folder stand side by side, and a walk, or a drop of many files, finds them in the few pages that the
/// journal has read last. Two folders of one hash do no harm; two files are told apart by 96 bits even within one folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileKey {
    /// The watch.
    pub watch: WatchId,
    /// The hashed folder and path.
    pub path: [u8; 16],
}

impl FileKey {
    /// Length of [`FileKey::to_bytes`].
    pub const LEN: usize = 24;

    /// The key of a path relative to the root of a watch; the bytes count, not their meaning as text.
    pub fn new(watch: WatchId, path: &Path) -> Self {
        let digest = |path: &Path| Sha256::digest(path.as_os_str().as_bytes());
        let mut hash = [0; 16];
        hash[..FOLDER].copy_from_slice(&digest(path.parent().unwrap_or(path))[..FOLDER]);
        hash[FOLDER..].copy_from_slice(&digest(path)[..16 - FOLDER]);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_folder_stand_side_by_side_and_apart_from_each_other() {
        let key = |path: &str| FileKey::new(WatchId::of("in"), Path::new(path)).path;
        let (a, b, other, top) = (key("x/y/a"), key("x/y/b"), key("x/z/a"), key("a"));
        assert_eq!(a[..FOLDER], b[..FOLDER]);
        assert_ne!(a[FOLDER..], b[FOLDER..]);
        assert_ne!(a[..FOLDER], other[..FOLDER]);
        assert_ne!(a[FOLDER..], other[FOLDER..], "the whole path counts, should two folders ever be of one hash");
        assert_ne!(top[..FOLDER], a[..FOLDER]);
    }

    #[test]
    fn the_keys_are_those_that_stand_in_journals() {
        let bytes = FileKey::new(WatchId::of("in"), Path::new("a/b")).to_bytes();
        assert_eq!(hex::encode(bytes), "582967534d0f909dca978112c14cddc033f64b9dea80ea67");
    }
}
