//! The bytes of one write, with room before them for the header of their frame: they are sent from where they were read to.
//!
//! A piece is filled, lent to the socket, and filled again, so that a long upload allocates nothing for its bytes. It knows
//! nothing of files or of the wire.

use std::io::{self, Read};

use bytes::{Bytes, BytesMut};

/// Room for a header, in bytes. A longer one costs a copy of the piece.
const ROOM: usize = 512;

/// Bytes, with room before them.
#[derive(Debug, Default)]
pub(super) struct Piece {
    /// The room, the bytes, and what may still be filled. Empty while it is lent.
    whole: BytesMut,
    /// The same while a frame of it is on its way.
    lent: Bytes,
    /// Behind the room, in bytes.
    filled: usize,
    /// How many bytes are to fit in.
    capacity: usize,
}

impl Piece {
    /// A copy of these bytes.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut piece = Self::default();
        piece.reuse(bytes.len());
        piece.push(bytes);
        piece
    }

    /// What a reader has, but so many bytes at most.
    pub(super) fn read(reader: impl Read, most: usize) -> io::Result<Self> {
        let mut whole = Vec::with_capacity(ROOM + most);
        whole.resize(ROOM, 0);
        reader.take(most as u64).read_to_end(&mut whole)?;
        let filled = whole.len() - ROOM;
        Ok(Self { whole: Bytes::from(whole).into(), lent: Bytes::new(), filled, capacity: filled })
    }

    /// Empties it and sees to it that so many bytes will fit in. The memory is the old one where that suffices and the frame
    /// is gone; else there is none before the first of it is written to.
    pub(super) fn reuse(&mut self, capacity: usize) {
        if let Ok(whole) = std::mem::take(&mut self.lent).try_into_mut()
            && whole.len() > self.whole.len()
        {
            self.whole = whole;
        }
        self.filled = 0;
        self.capacity = capacity;
    }

    /// The bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        let whole = if self.whole.is_empty() { &self.lent[..] } else { &self.whole[..] };
        whole.get(ROOM..ROOM + self.filled).unwrap_or_default()
    }

    /// How many bytes there are.
    pub(super) fn len(&self) -> usize {
        self.filled
    }

    /// At most so many bytes behind those that are there, to be written to.
    pub(super) fn spare(&mut self, most: usize) -> &mut [u8] {
        if most > 0 && self.filled == 0 && self.whole.len() < ROOM + self.capacity {
            // Not grown: the old bytes would be copied for nothing.
            self.whole = BytesMut::new();
            self.whole = BytesMut::zeroed(ROOM + self.capacity);
        }
        let begin = (ROOM + self.filled).min(self.whole.len());
        let end = begin.saturating_add(most).min(self.whole.len());
        &mut self.whole[begin..end]
    }

    /// So many bytes of the spare ones were written.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.filled = (self.filled + bytes).min(self.whole.len().saturating_sub(ROOM));
    }

    /// Appends what fits in, which is for the caller to see to.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let spare = self.spare(bytes.len());
        let length = spare.len();
        spare.copy_from_slice(&bytes[..length]);
        self.advance(length);
    }

    /// Leaves the first so many bytes.
    pub(super) fn truncate(&mut self, bytes: usize) {
        self.filled = self.filled.min(bytes);
    }

    /// The header as a line, and the bytes behind it. The memory comes back when the frame is gone.
    pub(super) fn frame(&mut self, header: &[u8]) -> Bytes {
        let Some(begin) = ROOM.checked_sub(header.len() + 1).filter(|_| !self.whole.is_empty()) else {
            return [header, b"\n", self.bytes()].concat().into();
        };
        self.whole[begin..ROOM - 1].copy_from_slice(header);
        self.whole[ROOM - 1] = b'\n';
        self.lent = std::mem::take(&mut self.whole).freeze();
        self.lent.slice(begin..ROOM + self.filled)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_the_header_a_newline_and_the_bytes() {
        for header in [&b"{}"[..], &[b'x'; ROOM - 1], &[b'x'; ROOM], &[b'x'; 3 * ROOM], b""] {
            for bytes in [&b""[..], b"a", &[7; 3000]] {
                let mut piece = Piece::of(bytes);
                let expected = [header, b"\n", bytes].concat();
                assert_eq!(piece.frame(header), expected);
                assert_eq!((piece.bytes(), piece.len()), (bytes, bytes.len()));
                assert_eq!(piece.frame(header), expected, "it can be framed once more");
            }
        }
    }

    #[test]
    fn memory_is_used_again_once_the_frame_is_gone() {
        let mut piece = Piece::of(&[1; 1000]);
        let frame = piece.frame(b"head");
        let place = frame[5..].as_ptr();
        drop(frame);
        piece.reuse(500);
        piece.push(&[2; 500]);
        assert_eq!((piece.bytes(), piece.bytes().as_ptr()), (&[2; 500][..], place));
        let held = piece.frame(b"head");
        piece.reuse(1000);
        piece.push(&[3; 1000]);
        assert_eq!(held, [&b"head\n"[..], &[2; 500]].concat(), "a frame on its way is not written over");
        assert_eq!(piece.bytes(), [3; 1000]);
    }

    #[test]
    fn what_was_read_is_sent_from_where_it_lies() {
        for (most, expected) in [(0, &b""[..]), (3, b"abc"), (9, b"abcde")] {
            let mut piece = Piece::read(&b"abcde"[..], most).unwrap();
            let place = piece.bytes().as_ptr();
            assert_eq!(piece.bytes(), expected);
            let frame = piece.frame(b"head");
            assert_eq!((&frame[5..], frame[5..].as_ptr()), (expected, place));
        }
    }

    #[test]
    fn it_is_filled_bit_by_bit() {
        let mut piece = Piece::default();
        assert!(piece.spare(9).is_empty());
        piece.reuse(5);
        piece.push(b"ab");
        piece.spare(2).copy_from_slice(b"cd");
        piece.advance(2);
        assert_eq!(piece.spare(9).len(), 1);
        assert_eq!(piece.bytes(), b"abcd");
        piece.truncate(3);
        assert_eq!(piece.frame(b"h"), &b"h\nabc"[..]);
    }
}
