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

/// Bytes that were read before they are wanted, with room for a header: they are sent from where they lie if one write takes
/// all of them.
#[derive(Debug)]
pub(super) struct Ready {
    piece: Piece,
    /// How many of them were wanted so far.
    given: usize,
}

impl Ready {
    /// These bytes.
    pub(super) fn new(piece: Piece) -> Self {
        Self { piece, given: 0 }
    }
}

impl Source for Ready {
    async fn fill(&mut self, mut room: Room, wanted: usize) -> (Room, io::Result<usize>) {
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

    async fn ended(&mut self) -> io::Result<bool> {
        Ok(self.given == self.piece.len())
    }
}

/// A file, read from where it stands.
#[derive(Debug, Clone)]
pub struct FileSource {
    file: Arc<File>,
}

impl FileSource {
    /// This file.
    pub fn new(file: impl Into<Arc<File>>) -> Self {
        Self { file: file.into() }
    }
}

impl Source for FileSource {
    async fn fill(&mut self, room: Room, wanted: usize) -> (Room, io::Result<usize>) {
        let file = Arc::clone(&self.file);
        let filled = tokio::task::spawn_blocking(move || fill(&file, room, wanted)).await;
        filled.unwrap_or_else(|_| (Room(Piece::default()), Err(io::Error::other("the thread that reads it panicked"))))
    }

    async fn ended(&mut self) -> io::Result<bool> {
        let file = Arc::clone(&self.file);
        let ended = tokio::task::spawn_blocking(move || read(&file, &mut [0]).map(|read| read == 0)).await;
        ended.unwrap_or_else(|_| Err(io::Error::other("the thread that reads it panicked")))
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

    #[tokio::test]
    async fn bytes_that_were_read_before_come_whole_or_in_parts() {
        for (wanted, expected, ended) in [
            (&[5][..], &["abcde"][..], true),
            (&[9], &["abcde"], true),
            (&[2, 3], &["ab", "cde"], true),
            (&[2, 9], &["ab", "cde"], true),
            (&[4], &["abcd"], false),
            (&[], &[], false),
        ] {
            let content = Piece::of(b"abcde");
            let place = content.bytes().as_ptr();
            let mut ready = Ready::new(content);
            let mut came = Vec::new();
            for wanted in wanted {
                let (room, read) = ready.fill(room(*wanted), *wanted).await;
                assert_eq!(read.unwrap(), room.0.len());
                assert_eq!(room.0.bytes().as_ptr() == place, room.0.len() == 5, "not copied if it is all of it");
                came.push(String::from_utf8(room.0.bytes().to_vec()).unwrap());
            }
            assert_eq!(
                (came, ready.ended().await.unwrap()),
                (expected.iter().map(ToString::to_string).collect(), ended)
            );
        }
    }
}
