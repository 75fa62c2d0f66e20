//! The self-check of an opened journal: every row is read, and everything that is written twice must agree.
//!
//! sled sometimes opens a damaged file as one with fewer rows or none, so a successful open proves nothing. It must
//! not change anything.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::layout::{self, Key};
use super::record;
use super::store::{ReadError, read_record};
use super::view::{Watch, sum};
use crate::job::{Counters, WatchId};

/// What an intact journal holds.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// Whose journal it is; none if no batch was ever written.
    pub(super) id: Option<Uuid>,
    /// Number of its latest batch.
    pub(super) sequence: u64,
    /// The watches with their ledgers.
    pub(super) watches: BTreeMap<WatchId, Watch>,
    /// Number of records.
    pub(super) records: u64,
    /// The records stand at the keys of an earlier version.
    pub(super) scattered: bool,
}

/// Why a journal cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// A row cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Two rows contradict each other.
    #[error("{0}")]
    Contradiction(String),
}

impl From<sled::Error> for Fault {
    fn from(error: sled::Error) -> Self {
        Self::Read(error.into())
    }
}

impl From<record::CodecError> for Fault {
    fn from(error: record::CodecError) -> Self {
        Self::Read(error.into())
    }
}

/// Reads the whole tree.
pub(super) fn examine(tree: &sled::Tree) -> Result<Content, Fault> {
    let mut content = Content::default();
    let mut totals = None;
    let mut counted: BTreeMap<WatchId, Counters> = BTreeMap::new();
    let (mut rows, mut due_rows, mut due_jobs) = (0_u64, 0_u64, 0_u64);
    let (mut further_rows, mut further_named) = (0_u64, 0_u64);

    for row in tree {
        let (key, value) = row?;
        rows += 1;
        match Key::parse(&key).ok_or(ReadError::Key(key.len()))? {
            Key::Record(key) => {
                let (job, further) = read_record(tree, key, &value)?;
                if let Some(due) = job.state.due() {
                    if !tree.contains_key(layout::due(key, due))? {
                        return contradiction(format!("{} is missing in the due index", job.path.display()));
                    }
                    due_jobs += 1;
                }
                counted.entry(key.watch).or_default().states[job.state.index()] += 1;
                further_named += u64::from(further);
                content.records += 1;
            }
            // Each record with a due time has its entry, so equal numbers mean that there are no others.
            Key::Due(..) => due_rows += 1,
            Key::Continuation(..) => further_rows += 1,
            Key::Watch(watch) => {
                let (name, counters) = record::decode_watch(&value)?;
                content.watches.insert(watch, Watch { name, counters });
            }
            Key::Meta => {
                let meta = record::decode_meta(&value)?;
                content.scattered = record::has_scattered_keys(&value);
                (content.id, content.sequence, totals) = (Some(meta.id), meta.sequence, Some(meta.totals));
            }
        }
    }

    if due_rows != due_jobs {
        return contradiction(format!("the due index has {due_rows} entries for {due_jobs} records"));
    }
    if further_rows != further_named {
        return contradiction(format!("{further_rows} further rows stand for {further_named}"));
    }
    for (id, watch) in &content.watches {
        let states = counted.remove(id).unwrap_or_default().states;
        if states != watch.counters.states || !watch.counters.balanced() {
            return contradiction(format!(
                "the ledger of watch {} says {:?}, its records say {states:?}",
                watch.name, watch.counters
            ));
        }
    }
    if !counted.is_empty() {
        return contradiction(format!("{} watches have records and no ledger", counted.len()));
    }
    let ledgers = sum(content.watches.values().map(|watch| &watch.counters));
    match totals {
        Some(totals) if totals != ledgers => {
            contradiction(format!("the totals say {totals:?}, the ledgers {ledgers:?}"))
        }
        None if rows > 0 => contradiction(format!("{rows} rows and no identity")),
        _ => Ok(content),
    }
}

fn contradiction<T>(text: String) -> Result<T, Fault> {
    Err(Fault::Contradiction(text))
}
