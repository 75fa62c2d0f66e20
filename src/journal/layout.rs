//! The keys of the tree: one byte that says what the row is, then fixed fields in big-endian order.
//!
//! It must not know what the values hold. Every key is far shorter than the 512 bytes from which sled would
//! put it into a file of its own.

use crate::job::{FileKey, Millis, WatchId};

/// First byte of a record.
pub(super) const RECORD: u8 = b'j';
/// First byte of a continuation of a record.
pub(super) const CONTINUATION: u8 = b'x';
/// First byte of an entry of the due index.
pub(super) const DUE: u8 = b'd';
/// First byte of the row of a watch.
pub(super) const WATCH: u8 = b'c';
/// The one row that says whose journal this is and what it holds.
pub(super) const META: &[u8] = b"m";

/// What a key names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// The first row of a record.
    Record(FileKey),
    /// A further row of a record.
    Continuation(FileKey, u16),
    /// A record that the dispatcher is to look at.
    Due(FileKey, Millis),
    /// A watch with its ledger.
    Watch(WatchId),
    /// The journal itself.
    Meta,
}

impl Key {
    /// Reads a key; none if no version of this program writes such a key.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        match *kind {
            RECORD => Some(Self::Record(FileKey::from_bytes(rest.try_into().ok()?))),
            CONTINUATION => {
                let (key, index) = rest.split_first_chunk::<{ FileKey::LEN }>()?;
                Some(Self::Continuation(FileKey::from_bytes(*key), u16::from_be_bytes(index.try_into().ok()?)))
            }
            DUE => {
                let (watch, rest) = rest.split_first_chunk::<8>()?;
                let (due, path) = rest.split_first_chunk::<8>()?;
                let key = FileKey { watch: WatchId(*watch), path: path.try_into().ok()? };
                Some(Self::Due(key, Millis::from_be_bytes(*due)))
            }
            WATCH => Some(Self::Watch(WatchId(rest.try_into().ok()?))),
            _ => (bytes == META).then_some(Self::Meta),
        }
    }
}

/// Key of the first row of a record.
pub(super) fn record(key: FileKey) -> Vec<u8> {
    [&[RECORD][..], &key.to_bytes()].concat()
}

/// Key of a further row of a record, counted from 0.
pub(super) fn continuation(key: FileKey, index: u16) -> Vec<u8> {
    [&[CONTINUATION][..], &key.to_bytes(), &index.to_be_bytes()].concat()
}

/// Key of an entry of the due index: within a watch they sort by time.
pub(super) fn due(key: FileKey, due: Millis) -> Vec<u8> {
    [&[DUE][..], &key.watch.0, &due.to_be_bytes(), &key.path].concat()
}

/// The keys of all due rows of a watch from this time on.
pub(super) fn due_range(watch: WatchId, from: Millis) -> std::ops::RangeInclusive<Vec<u8>> {
    let first = FileKey { watch, path: [0; 16] };
    due(first, from)..=due(FileKey { watch, path: [0xff; 16] }, Millis::MAX)
}

/// Key of the row of a watch.
pub(super) fn watch(watch: WatchId) -> Vec<u8> {
    [&[WATCH][..], &watch.0].concat()
}

/// What the keys of all rows of one kind and watch begin with.
pub(super) fn prefix(kind: u8, watch: WatchId) -> Vec<u8> {
    [&[kind][..], &watch.0].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_key_is_read_back_and_short(watch_id: [u8; 8], path: [u8; 16], time: u64, index: u16) {
            let key = FileKey { watch: WatchId(watch_id), path };
            let rows = [
                (record(key), Key::Record(key)),
                (continuation(key, index), Key::Continuation(key, index)),
                (due(key, time), Key::Due(key, time)),
                (watch(key.watch), Key::Watch(key.watch)),
                (META.to_vec(), Key::Meta),
            ];
            for (bytes, expected) in rows {
                prop_assert!(bytes.len() < 64);
                prop_assert_eq!(Key::parse(&bytes), Some(expected));
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            let _ = Key::parse(&bytes);
        }

        #[test]
        fn the_due_index_sorts_by_time(path_a: [u8; 16], path_b: [u8; 16], a: u64, b: u64) {
            let watch = WatchId([7; 8]);
            let (row_a, row_b) = (due(FileKey { watch, path: path_a }, a), due(FileKey { watch, path: path_b }, b));
            prop_assume!(a != b);
            prop_assert_eq!(a < b, row_a < row_b);
        }
    }
}
