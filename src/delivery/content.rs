//! The content of a file as it is sent: a small one from memory, where it was read when it was opened, a larger one from
//! the disk, piece by piece.
//!
//! It must not know what is done with it. That a file is what it was is asked elsewhere.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

/// Up to this many bytes a file is read at one go.
const SMALL: u64 = 64 * 1024;

/// The content of a file.
pub(super) enum Content {
    /// What was read, and how much of it was handed out.
    Small(Vec<u8>, usize),
    /// Read as it is asked for.
    Large(tokio::fs::File),
}

impl Content {
    /// The content of an open file: what [`read_small`] read, or else what is read in pieces of at most so many bytes.
    pub(super) fn of(file: &File, small: Option<Vec<u8>>, piece: usize) -> io::Result<Self> {
        if let Some(small) = small {
            return Ok(Self::Small(small, 0));
        }
        let mut file = tokio::fs::File::from_std(file.try_clone()?);
        file.set_max_buf_size(piece);
        Ok(Self::Large(file))
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

impl AsyncRead for Content {
    fn poll_read(mut self: Pin<&mut Self>, waker: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Small(content, at) => {
                let left = content.get(*at..).unwrap_or_default();
                let now = left.len().min(into.remaining());
                into.put_slice(&left[..now]);
                *at += now;
                Poll::Ready(Ok(()))
            }
            Self::Large(file) => Pin::new(file).poll_read(waker, into),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;

    #[tokio::test]
    async fn small_and_large_files_read_the_same() {
        let dir = tempfile::tempdir().unwrap();
        for size in [0, 1, 4096, SMALL, SMALL + 1, 3 * SMALL] {
            let bytes: Vec<u8> = (0..size).map(|n| u8::try_from(n % 251).unwrap()).collect();
            std::fs::write(dir.path().join("f"), &bytes).unwrap();
            let file = File::open(dir.path().join("f")).unwrap();
            let small = read_small(&file, size).unwrap();
            assert_eq!(small.is_some(), size <= SMALL);
            let mut content = Content::of(&file, small, 1000).unwrap();
            let mut read = Vec::new();
            content.read_to_end(&mut read).await.unwrap();
            assert!(read == bytes, "{size}");
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
