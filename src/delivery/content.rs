//! The content of a file as it is sent: a small one from memory, where it was read when it was opened, a larger one from
//! the disk, piece by piece.
//!
//! It must not know what is done with it. That a file is what it was is asked elsewhere.

use std::fs::File;
use std::io::{self, Cursor};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use crate::client::source::{FileSource, Room, Source};

/// Up to this many bytes a file is read at one go.
const SMALL: u64 = 64 * 1024;

/// The content of a file.
pub(super) enum Content {
    /// What was read.
    Small(Cursor<Vec<u8>>),
    /// Read as it is asked for.
    Large(FileSource),
}

impl Content {
    /// The content of an open file: what [`read_small`] read, or else what stands in the file.
    pub(super) fn of(file: &Arc<File>, small: Option<Vec<u8>>) -> Self {
        small.map_or_else(|| Self::Large(FileSource::new(file.clone())), |small| Self::Small(Cursor::new(small)))
    }
}

impl Source for Content {
    async fn fill(&mut self, room: Room, wanted: usize) -> (Room, io::Result<usize>) {
        match self {
            Self::Small(content) => content.fill(room, wanted).await,
            Self::Large(file) => file.fill(room, wanted).await,
        }
    }

    async fn ended(&mut self) -> io::Result<bool> {
        match self {
            Self::Small(content) => content.ended().await,
            Self::Large(file) => file.ended().await,
        }
    }
}

/// Reads a file if it is small, and one byte more if there is one: it would be longer than it was. Blocks.
pub(super) fn read_small(file: &File, size: u64) -> io::Result<Option<Vec<u8>>> {
    if size > SMALL {
        return Ok(None);
    }
    let most = usize::try_from(size).unwrap_or_default() + 1;
    let mut content = vec![0; most];
    let mut read = 0;
    while read < most {
        match file.read_at(&mut content[read..], read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    content.truncate(read);
    Ok(Some(content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_small_file_is_read_at_one_go() {
        let dir = tempfile::tempdir().unwrap();
        for size in [0, 1, 4096, SMALL, SMALL + 1, 3 * SMALL] {
            let bytes: Vec<u8> = (0..size).map(|n| u8::try_from(n % 251).unwrap()).collect();
            std::fs::write(dir.path().join("f"), &bytes).unwrap();
            let file = File::open(dir.path().join("f")).unwrap();
            let small = read_small(&file, size).unwrap();
            assert!(small == (size <= SMALL).then_some(bytes), "{size}");
        }
    }

    #[test]
    fn a_file_that_grew_shows_one_byte_too_many() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "longer").unwrap();
        let file = File::open(dir.path().join("f")).unwrap();
        assert_eq!(read_small(&file, 3).unwrap().unwrap(), b"long");
        assert_eq!(read_small(&file, 60).unwrap().unwrap(), b"longer");
    }
}
