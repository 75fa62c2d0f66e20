//! The open database: reads of rows, and making writes durable.
//!
//! It must not know of events or of who waits for them.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::sync::Arc;

use uuid::Uuid;

use super::home::{Home, Sequence};
use super::layout::{self, Key};
use super::open::OpenError;
use super::record::{self, CodecError};
use crate::crash;
use crate::job::{FileKey, Job, Millis, WatchId};

/// Makes what was written through any handle of a file durable. A parameter, so that a test can let it fail.
pub(super) type SyncFile = fn(&File) -> io::Result<()>;

/// The one tree, and what must stay open as long as it.
///
/// The fields are dropped in their order: the lock is given up when the database is closed.
pub(super) struct Store {
    /// The default tree.
    pub(super) db: sled::Db,
    /// The database's file. The kernel reports a failed write once to each handle, so this one lives as long as we do.
    file: File,
    sync_file: SyncFile,
    /// Says beside the journal how far it has come.
    sequence: Sequence,
    /// The state directory with its lock.
    pub(super) home: Arc<Home>,
}

/// Why a row cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The database's reason.
    #[error(transparent)]
    Sled(#[from] sled::Error),
    /// The row holds something else than it should.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A key that nobody we know writes.
    #[error("a key of {0} bytes is unknown")]
    Key(usize),
}

impl Store {
    /// Made durable as it stands; `id` and `commit` are whose journal it is and how far it has come.
    pub(super) fn new(
        db: sled::Db,
        sync_file: SyncFile,
        home: Arc<Home>,
        id: Uuid,
        commit: u64,
    ) -> Result<Self, OpenError> {
        let path = home.database();
        let failed = |source| OpenError::Io { path: path.clone(), source };
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(failed)?;
        db.flush().map_err(io::Error::from).and_then(|_| sync_file(&file)).map_err(failed)?;
        // Only now: what the note says must be durable before it is said.
        let sequence = home.follow(id, commit)?;
        home.sync()?;
        crash::point("journal.names-durable");
        Ok(Self { db, file, sync_file, sequence, home })
    }

    /// Makes every applied batch survive a power cut: sled's own flush only reaches the page cache.
    pub(super) fn make_durable(&self) -> Result<(), sled::Error> {
        self.db.flush()?;
        crash::point("journal.flushed");
        (self.sync_file)(&self.file).map_err(sled::Error::Io)?;
        crash::point("journal.synced");
        Ok(())
    }

    /// Notes beside the journal that this batch is durable. Costs no wait for the disk; a failure harms nothing but
    /// that an older journal in the place of this one might not be noticed.
    pub(super) fn note(&self, sequence: u64) {
        if let Err(error) = self.sequence.note(sequence) {
            tracing::warn!(directory = %self.home.dir().display(), %error, "cannot note beside the journal how far it has come");
        }
    }

    /// Makes the latest note durable; for the end, where a wait does no harm.
    pub(super) fn sync_note(&self) {
        if let Err(error) = self.sequence.sync() {
            tracing::warn!(directory = %self.home.dir().display(), %error, "cannot note beside the journal how far it has come");
        }
    }

    /// A record, and how many further rows it has.
    pub(super) fn record(&self, key: FileKey) -> Result<Option<(Job, u16)>, ReadError> {
        match self.db.get(layout::record(key))? {
            Some(first) => read_record(&self.db, key, &first).map(Some),
            None => Ok(None),
        }
    }

    /// The records of a watch in the order of their keys.
    pub(super) fn records(
        &self,
        watch: WatchId,
        after: Option<FileKey>,
    ) -> impl Iterator<Item = Result<(FileKey, Job), ReadError>> + '_ {
        let prefix = layout::prefix(layout::RECORD, watch);
        let start = after.map_or_else(|| Bound::Included(prefix.clone()), |key| Bound::Excluded(layout::record(key)));
        let rows = self.db.range::<Vec<u8>, _>((start, Bound::Unbounded));
        rows.take_while(move |row| row.as_ref().map_or(true, |(key, _)| key.starts_with(&prefix))).map(|row| {
            let (key, first) = row?;
            match Key::parse(&key) {
                Some(Key::Record(key)) => Ok((key, read_record(&self.db, key, &first)?.0)),
                _ => Err(ReadError::Key(key.len())),
            }
        })
    }

    /// The due index of a watch, oldest first.
    pub(super) fn due(
        &self,
        watch: WatchId,
        from: Millis,
    ) -> impl Iterator<Item = Result<(FileKey, Millis), ReadError>> + '_ {
        self.db.range(layout::due_range(watch, from)).keys().map(|key| {
            let key = key?;
            match Key::parse(&key) {
                Some(Key::Due(key, due)) => Ok((key, due)),
                _ => Err(ReadError::Key(key.len())),
            }
        })
    }
}

/// The record whose first row is known, and how many further rows it has.
pub(super) fn read_record(tree: &sled::Tree, key: FileKey, first: &[u8]) -> Result<(Job, u16), ReadError> {
    let further = record::further_rows(first)?;
    let mut rest = Vec::with_capacity(usize::from(further));
    for index in 0..further {
        // A missing row shows as a wrong number of rows.
        rest.extend(tree.get(layout::continuation(key, index))?);
    }
    Ok((record::decode(first, &rest)?, further))
}
