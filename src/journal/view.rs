//! What the handles of the journal and its writer share: the durable state that readers see, and the first failure.
//!
//! It must not wait for the disk: the lock on the view is held for reads of the tree and for applying a batch, never
//! for making one durable.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::error::Failure;
use super::store::{ReadError, Store};
use crate::job::{Counters, FileKey, Job, WatchId};
use crate::locks::lock;

/// A watch as the journal knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Watch {
    pub(super) name: String,
    pub(super) counters: Counters,
}

/// What the handles and the writer share.
pub(super) struct Shared {
    pub(super) dir: PathBuf,
    pub(super) deadline: Duration,
    view: RwLock<View>,
    /// Since when the writer has been at its present batch.
    busy_since: Mutex<Option<Instant>>,
    pub(super) failure: watch::Sender<Option<Failure>>,
    pub(super) changes: watch::Sender<u64>,
}

/// What readers see: the tree as it was before the batch that is not durable yet.
pub(super) struct View {
    /// None once the journal is closed.
    pub(super) store: Option<Arc<Store>>,
    /// The durable records of the keys that the present batch touches.
    pub(super) uncommitted: HashMap<FileKey, Option<Job>>,
    /// The durable ledgers.
    pub(super) watches: BTreeMap<WatchId, Watch>,
}

impl Shared {
    pub(super) fn new(dir: PathBuf, deadline: Duration, view: View) -> Self {
        Self {
            dir,
            deadline,
            view: RwLock::new(view),
            busy_since: Mutex::new(None),
            failure: watch::Sender::new(None),
            changes: watch::Sender::new(0),
        }
    }

    pub(super) fn view<T>(&self, read: impl FnOnce(&View) -> T) -> T {
        read(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn with_view<T>(&self, write: impl FnOnce(&mut View) -> T) -> T {
        write(&mut self.view.write().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn read<T>(&self, read: impl FnOnce(&Store, &View) -> Result<T, ReadError>) -> Result<T, Failure> {
        if let Some(failure) = self.failure() {
            return Err(failure);
        }
        self.view(|view| match &view.store {
            Some(store) => read(store, view).map_err(|error| self.read_failed(&error)),
            None => Err(Failure::Closed),
        })
    }

    pub(super) fn failure(&self) -> Option<Failure> {
        self.failure.borrow().clone()
    }

    /// Only the first failure counts.
    pub(super) fn fail(&self, failure: Failure) {
        self.failure.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                tracing::error!(%failure, "the journal failed");
                *current = Some(failure);
            }
            first
        });
    }

    pub(super) fn overdue(&self) -> Failure {
        let failure = Failure::Overdue { dir: self.dir.clone(), after: self.deadline };
        self.fail(failure.clone());
        failure
    }

    pub(super) fn read_failed(&self, error: &ReadError) -> Failure {
        Failure::Read { dir: self.dir.clone(), message: error.to_string() }
    }

    pub(super) fn write_failed(&self, error: &sled::Error) -> Failure {
        Failure::Write { dir: self.dir.clone(), message: error.to_string() }
    }

    pub(super) fn set_busy(&self, since: Option<Instant>) {
        *lock(&self.busy_since) = since;
    }

    pub(super) fn busy_for(&self) -> Option<Duration> {
        lock(&self.busy_since).map(|since| since.elapsed())
    }

    pub(super) fn bump(&self) {
        self.changes.send_modify(|commits| *commits += 1);
    }
}

/// The sum of ledgers.
pub(super) fn sum<'a>(ledgers: impl Iterator<Item = &'a Counters>) -> Counters {
    ledgers.fold(Counters::default(), |mut sum, ledger| {
        sum.admitted += ledger.admitted;
        sum.superseded += ledger.superseded;
        sum.pruned += ledger.pruned;
        sum.states.iter_mut().zip(ledger.states).for_each(|(sum, count)| *sum += count);
        sum
    })
}
