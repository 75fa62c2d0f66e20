//! Where the bytes of an upload come from.
//!
//! Anything that can be read asynchronously will do. A file on disk is better handed over as a [`FileSource`]: its bytes
//! go to where they are sent from without a buffer in between, in one step of a blocking thread.

use std::fs::File;
use std::future::Future;
use std::io::{self, Read as _};
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::piece::Piece;

/// Bytes to upload. Others implement it by handing on to a reader or a [`FileSource`].
pub trait Source: Send {
    /// Reads so many bytes into `room`, fewer only at the end; returns it and their number.
    fn fill(&mut self, room: Room, wanted: usize) -> impl Future<Output = (Room, io::Result<usize>)> + Send;

    /// Whether nothing is left.
    fn ended(&mut self) -> impl Future<Output = io::Result<bool>> + Send;
}

/// Room for bytes that are read.
#[derive(Debug)]
pub struct Room(pub(super) Piece);

impl Room {
    /// The room for the next bytes, so many at most.
    fn spare(&mut self, most: usize) -> &mut [u8] {
        self.0.spare(most)
    }
}

impl<R: AsyncRead + Unpin + Send> Source for R {
    async fn fill(&mut self, mut room: Room, wanted: usize) -> (Room, io::Result<usize>) {
        let mut read = 0;
        while read < wanted {
            match self.read(room.spare(wanted - read)).await {
                Ok(0) => break,
                Ok(more) => {
                    room.0.advance(more);
                    read += more;
                }
                Err(error) => return (room, Err(error)),
            }
        }
        (room, Ok(read))
    }

    async fn ended(&mut self) -> io::Result<bool> {
        self.read(&mut [0]).await.map(|read| read == 0)
    }
}

/// Up to this many bytes, [`FileSource::opened`] reads a file at one go.
pub const SMALL: u64 = 64 * 1024;

/// A file, read from where it stands.
#[derive(Debug)]
pub struct FileSource(Content);

#[derive(Debug)]
enum Content {
    /// As it is asked for.
    File(Arc<File>),
    /// What was read before.
    Ready(Ready),
}

impl FileSource {
    /// This file, read as it is asked for.
    pub fn new(file: impl Into<Arc<File>>) -> Self {
        Self(Content::File(file.into()))
    }

    /// This file of so many bytes. One of up to [`SMALL`] is read here and now, so that no thread is asked for it later: blocks.
    pub fn opened(file: impl Into<Arc<File>>, size: u64) -> io::Result<Self> {
        if size > SMALL {
            return Ok(Self::new(file));
        }
        // One byte more, should it have grown meanwhile.
        let most = usize::try_from(size).unwrap_or_default() + 1;
        let piece = Piece::read(&*file.into(), most)?;
        Ok(Self(Content::Ready(Ready { piece, given: 0 })))
    }
}

impl Source for FileSource {
    async fn fill(&mut self, room: Room, wanted: usize) -> (Room, io::Result<usize>) {
        let file = match &mut self.0 {
            Content::Ready(ready) => return ready.fill(room, wanted),
            Content::File(file) => Arc::clone(file),
        };
        let filled = tokio::task::spawn_blocking(move || fill(&file, room, wanted)).await;
        filled.unwrap_or_else(|_| (Room(Piece::default()), Err(io::Error::other("the thread that reads it panicked"))))
    }

    async fn ended(&mut self) -> io::Result<bool> {
        let file = match &self.0 {
            Content::Ready(ready) => return Ok(ready.ended()),
            Content::File(file) => Arc::clone(file),
        };
        let ended = tokio::task::spawn_blocking(move || read(&file, &mut [0]).map(|read| read == 0)).await;
        ended.unwrap_or_else(|_| Err(io::Error::other("the thread that reads it panicked")))
    }
}

/// Bytes that were read before they are wanted, with room for a header: they are sent from where they lie if one write takes
/// all of them.
#[derive(Debug)]
struct Ready {
    piece: Piece,
    /// How many of them were wanted so far.
    given: usize,
}

impl Ready {
    fn fill(&mut self, mut room: Room, wanted: usize) -> (Room, io::Result<usize>) {
        if self.given == 0 && room.0.len() == 0 && self.piece.len() <= wanted {
            let piece = std::mem::take(&mut self.piece);
            let read = piece.len();
            return (Room(piece), Ok(read));
        }
        let left = &self.piece.bytes()[self.given..];
        let read = wanted.min(left.len());
        room.0.push(&left[..read]);
        self.given += read;
        (room, Ok(read))
    }

    fn ended(&self) -> bool {
        self.given == self.piece.len()
    }
}

fn fill(file: &File, mut room: Room, wanted: usize) -> (Room, io::Result<usize>) {
    let mut done = 0;
    while done < wanted {
        match read(file, room.spare(wanted - done)) {
            Ok(0) => break,
            Ok(more) => {
                room.0.advance(more);
                done += more;
            }
            Err(error) => return (room, Err(error)),
        }
    }
    (room, Ok(done))
}

fn read(mut file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match file.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Room for so many bytes.
    fn room(capacity: usize) -> Room {
        let mut piece = Piece::default();
        piece.reuse(capacity);
        Room(piece)
    }

    #[test]
    fn bytes_that_were_read_before_come_whole_or_in_parts() {
        for (wanted, expected, ended) in [
            (&[5][..], &["abcde"][..], true),
            (&[9], &["abcde"], true),
            (&[2, 3], &["ab", "cde"], true),
            (&[2, 9], &["ab", "cde"], true),
            (&[4], &["abcd"], false),
            (&[], &[], false),
        ] {
            let piece = Piece::of(b"abcde");
            let place = piece.bytes().as_ptr();
            let mut ready = Ready { piece, given: 0 };
            let mut came = Vec::new();
            for wanted in wanted {
                let (room, read) = ready.fill(room(*wanted), *wanted);
                assert_eq!(read.unwrap(), room.0.len());
                assert_eq!(room.0.bytes().as_ptr() == place, room.0.len() == 5, "not copied if it is all of it");
                came.push(String::from_utf8(room.0.bytes().to_vec()).unwrap());
            }
            assert_eq!((came, ready.ended()), (expected.iter().map(ToString::to_string).collect(), ended));
        }
    }

    /// Everything that a source gives, and whether it ends there.
    async fn all(mut source: FileSource, size: u64) -> (Vec<u8>, bool) {
        let size = usize::try_from(size).unwrap();
        let (room, read) = source.fill(room(size), size).await;
        let ended = source.ended().await.unwrap();
        (room.0.bytes()[..read.unwrap()].to_vec(), ended)
    }

    #[tokio::test]
    async fn a_file_is_the_same_whether_it_was_read_at_one_go_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        for size in [0, 1, 4096, SMALL, SMALL + 1, 3 * SMALL] {
            let bytes: Vec<u8> = (0..size).map(|n| u8::try_from(n % 251).unwrap()).collect();
            std::fs::write(&path, &bytes).unwrap();
            let source = FileSource::opened(File::open(&path).unwrap(), size).unwrap();
            assert_eq!(matches!(source.0, Content::Ready(_)), size <= SMALL);
            assert_eq!(all(source, size).await, (bytes, true), "{size}");
        }
        std::fs::write(&path, "longer").unwrap();
        let opened = |size| FileSource::opened(File::open(&path).unwrap(), size).unwrap();
        assert_eq!(all(opened(4), 4).await, (b"long".to_vec(), false), "one that grew does not end there");
        assert_eq!(all(opened(60), 60).await, (b"longer".to_vec(), true), "one that shrank ends before");
    }
}
