//! The memory of the daemon: what became of every file, and the only user of sled.
//!
//! It must not know of folders, pipelines or results. It stores what the table of [`crate::job`] decides, and the
//! events come from elsewhere.
//!
//! # Promises
//! - An event is durable, against a killed process and a power cut, when [`Journal::apply`] returns. A read never
//!   shows a state that is not yet durable.
//! - The ledger of every watch is written in the same batch as the states it counts.
//! - After a failed or overdue commit nothing more is accepted, and [`Journal::failed`] resolves: the daemon stops.
//! - The journal can be thrown away: an empty one and a scan of the folders rebuild it from the results. So damage
//!   is answered by quarantine and an empty journal, never by a refusal to start.
//!
//! # Layout
//! One directory, `journal/`, and in it one sled tree, because only one tree takes one atomic batch:
//!
//! | key | value |
//! |---|---|
//! | `j`, watch id (8), path hash (16: of the folder first) | first row of a record |
//! | `x`, watch id, path hash, index (2) | further row of a record that does not fit into 900 bytes |
//! | `d`, watch id, due (8), path hash | empty: what the dispatcher is to look at, oldest first |
//! | `c`, watch id | name and ledger of a watch |
//! | `m` | the journal's identity, the number of its last commit and the sum of the ledgers; its version tells how records are keyed; part of every batch |
//!
//! Beside it in the state directory: `lock` (held while the daemon lives), `journal.format`, `journal.id` (second
//! copy of the identity: tells a lost journal from a new one), `journal.sequence` (how far it had come),
//! `journal.suspect` (the last opening did not end), `journal.corrupt-<time>` (quarantine), `journal.format-<n>.backup` (as
//! an earlier version left it).
//!
//! # Commit
//! One thread takes the waiting events, up to a bound, and applies them in order, later ones of a batch seeing what
//! earlier ones did. It writes one batch, flushes sled into the page cache, makes the file durable, and answers. From
//! the batch until it is durable, readers are shown the former records of the keys in it, so they never wait for the disk.
//!
//! # Opening
//! Lock; format, and a copy of a journal of an older one; unfinished snapshots moved aside; sled opened with panics caught,
//! as long as there is reason to wait; every row read and compared with everything that is written twice; records of an
//! earlier version moved to their keys; every file and name synced, for sled does not sync
//! all of its own. What fails there is quarantined, except for errors of the operating system.
//!
//! An open that computes without an end cannot be ended from outside. It leaves the mark `journal.suspect`, the daemon
//! ends, and the next start quarantines, if the database is still the file that the mark describes. What is measured is
//! processor time, so that a slow or hung disk never costs a healthy journal.
//!
//! A database that is cut off between two commits opens as an earlier, consistent journal. So every batch has a number,
//! and `journal.sequence` follows it: written after each durable batch without being made durable itself, it may lag, but
//! never leads. A journal older than it is damaged. Whoever restores a backup restores the whole state directory.

mod backup;
mod check;
mod commit;
mod error;
mod home;
mod layout;
mod open;
mod patience;
mod record;
mod recover;
mod rekey;
mod store;
#[cfg(test)]
mod tests;
mod view;

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::job::{Counters, Event, FileKey, Generation, Job, Millis, Refused, WatchId};
use crate::locks::lock;
pub use backup::backups;
use commit::{Denied, GROUP_LIMIT, Item, Message, Outcomes, QUEUE_LIMIT, Work, Writer};
pub use error::{ApplyError, Failure};
use open::Ways;
pub use open::{Looked, OpenError, Opened};
pub use recover::Recovered;
use store::SyncFile;
use view::{Shared, View, sum};

/// How long a commit may take, from the call to the answer.
pub const COMMIT_DEADLINE: Duration = Duration::from_secs(30);
/// How often [`Journal::failed`] looks whether the writer still makes progress.
const LIVENESS_INTERVAL: Duration = Duration::from_secs(1);

/// The journal. Clones share it.
#[derive(Clone)]
pub struct Journal {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Message>,
    /// Taken by whoever closes the journal.
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Journal {
    /// Opens the journal in `state_dir/journal`, or makes a new one. Blocks, for long if the journal is large.
    pub fn open(state_dir: &Path) -> Result<(Self, Opened), OpenError> {
        Self::open_with(state_dir, File::sync_data, COMMIT_DEADLINE)
    }

    /// Looks at the journal in `state_dir/journal` that no daemon uses: sound, or what is wrong with it. It is left where it
    /// is; a start would put a damaged one aside. Blocks, for long if the journal is large.
    pub fn look(state_dir: &Path) -> Result<Looked, OpenError> {
        open::look(state_dir, &Ways::usual(File::sync_data))
    }

    fn open_with(state_dir: &Path, sync_file: SyncFile, deadline: Duration) -> Result<(Self, Opened), OpenError> {
        Self::open_by(state_dir, &Ways::usual(sync_file), deadline)
    }

    fn open_by(state_dir: &Path, ways: &Ways, deadline: Duration) -> Result<(Self, Opened), OpenError> {
        let (store, id, content, opened) = open::open(state_dir, ways)?;
        let dir = store.home.journal();
        let store = Arc::new(store);
        let view = View { store: Some(store.clone()), uncommitted: HashMap::new(), watches: content.watches };
        let shared = Arc::new(Shared::new(dir.clone(), deadline, view));
        let (queue, receiver) = mpsc::channel(QUEUE_LIMIT);
        let sequence = content.sequence;
        let writer = Writer { store, shared: shared.clone(), queue: receiver, id, sequence };
        let thread = thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run_caught())
            .map_err(|source| OpenError::Io { path: dir, source })?;
        Ok((Self { inner: Arc::new(Inner { shared, queue, thread: Mutex::new(Some(thread)) }) }, opened))
    }

    /// Applies an event. Durable when it returns `Ok`. Dropping the future does not take back what was already sent to
    /// the writer.
    pub async fn apply(&self, key: FileKey, path: &Path, event: Event) -> Result<Job, ApplyError> {
        self.apply_one(Item { key, path: path.to_owned(), expected: None, event }).await
    }

    /// As [`Journal::apply`], unless the record is not of the generation `expected`: what a worker says of one generation
    /// must not hit a newer one.
    pub async fn apply_if(
        &self,
        key: FileKey,
        path: &Path,
        expected: Generation,
        event: Event,
    ) -> Result<Job, ApplyError> {
        self.apply_one(Item { key, path: path.to_owned(), expected: Some(expected), event }).await
    }

    async fn apply_one(&self, item: Item) -> Result<Job, ApplyError> {
        let event = item.event.name();
        match self.submit(Work::Events(vec![item])).await?.pop() {
            Some(Ok(job)) => Ok(job),
            Some(Err(Denied::Refused(refused))) => Err(refused.into()),
            Some(Err(Denied::Stale)) => Err(ApplyError::Stale { event }),
            None => Err(Failure::Closed.into()),
        }
    }

    /// Applies many events in their order, in as few batches as their bound allows; up to 512 events are one batch.
    /// Each has its own outcome.
    pub async fn apply_all(
        &self,
        events: Vec<(FileKey, PathBuf, Event)>,
    ) -> Result<Vec<Result<Job, Refused>>, Failure> {
        let mut outcomes = Vec::with_capacity(events.len());
        let mut items = events.into_iter().map(|(key, path, event)| Item { key, path, expected: None, event });
        loop {
            let group: Vec<Item> = items.by_ref().take(GROUP_LIMIT).collect();
            if group.is_empty() {
                return Ok(outcomes);
            }
            let names: Vec<_> = group.iter().map(|item| item.event.name()).collect();
            outcomes.extend(self.submit(Work::Events(group)).await?.into_iter().zip(names).map(|(outcome, event)| {
                outcome.map_err(|denied| match denied {
                    Denied::Refused(refused) => refused,
                    // No generation was expected, so this does not come.
                    Denied::Stale => Refused { event, state: "replaced" },
                })
            }));
        }
    }

    /// Forgets records that are over and whose files are gone, as [`crate::job::prune`] allows; each batch holds up to 512.
    /// Returns how many were; those to which that does not apply (any more) stay.
    pub async fn prune(&self, keys: &[FileKey]) -> Result<u64, Failure> {
        let mut pruned = 0;
        for group in keys.chunks(GROUP_LIMIT) {
            let outcomes = self.submit(Work::Prune(group.to_vec())).await?;
            pruned += outcomes.iter().filter(|outcome| outcome.is_ok()).count() as u64;
        }
        Ok(pruned)
    }

    async fn submit(&self, work: Work) -> Result<Outcomes, Failure> {
        let shared = &self.inner.shared;
        if let Some(failure) = shared.failure() {
            return Err(failure);
        }
        let (answer, reply) = oneshot::channel();
        let exchange = async {
            self.inner.queue.send(Message::Apply(work, answer)).await.map_err(|_| Failure::Closed)?;
            reply.await.map_err(|_| Failure::Closed)?
        };
        timeout(shared.deadline, exchange).await.unwrap_or_else(|_| Err(shared.overdue()))
    }

    /// The record of a path.
    pub fn get(&self, key: FileKey) -> Result<Option<Job>, Failure> {
        self.inner.shared.read(|store, view| match view.uncommitted.get(&key) {
            Some(before) => Ok(before.clone()),
            None => Ok(store.record(key)?.map(|(job, _)| job)),
        })
    }

    /// The jobs of a watch that the dispatcher is to look at between `from` and `now`, oldest first, at most `limit`. One that a commit
    /// under way touches is left out; [`Journal::changes`] tells when that commit is done.
    pub fn due(
        &self,
        watch: WatchId,
        from: Millis,
        now: Millis,
        limit: usize,
    ) -> Result<Vec<(FileKey, Millis)>, Failure> {
        self.inner.shared.read(|store, view| {
            store
                .due(watch, from)
                .take_while(|entry| entry.as_ref().map_or(true, |(_, due)| *due <= now))
                .filter(|entry| entry.as_ref().map_or(true, |(key, _)| !view.uncommitted.contains_key(key)))
                .take(limit)
                .collect()
        })
    }

    /// The earliest due time of a watch's jobs that lies after `after`.
    pub fn next_due(&self, watch: WatchId, after: Millis) -> Result<Option<Millis>, Failure> {
        self.inner.shared.read(|store, view| {
            store
                .due(watch, after.saturating_add(1))
                .find(|entry| entry.as_ref().map_or(true, |(key, _)| !view.uncommitted.contains_key(key)))
                .map(|entry| entry.map(|(_, due)| due))
                .transpose()
        })
    }

    /// The jobs of a watch in the order of their keys, at most `limit`, beginning behind the key `after`.
    pub fn jobs(&self, watch: WatchId, after: Option<FileKey>, limit: usize) -> Result<Vec<(FileKey, Job)>, Failure> {
        self.inner.shared.read(|store, view| {
            let durable = store.records(watch, after).filter_map(|entry| match entry {
                Ok((key, job)) => match view.uncommitted.get(&key) {
                    Some(before) => before.clone().map(|job| Ok((key, job))),
                    None => Some(Ok((key, job))),
                },
                Err(error) => Some(Err(error)),
            });
            durable.take(limit).collect()
        })
    }

    /// The ledger of a watch; empty for one that was never seen.
    pub fn counters(&self, watch: WatchId) -> Counters {
        self.inner.shared.view(|view| view.watches.get(&watch).map(|watch| watch.counters).unwrap_or_default())
    }

    /// The sum of the ledgers.
    pub fn totals(&self) -> Counters {
        self.inner.shared.view(|view| sum(view.watches.values().map(|watch| &watch.counters)))
    }

    /// All watches that ever had a record, also those no longer in the configuration.
    pub fn watches(&self) -> Vec<(WatchId, String, Counters)> {
        self.inner
            .shared
            .view(|view| view.watches.iter().map(|(id, watch)| (*id, watch.name.clone(), watch.counters)).collect())
    }

    /// Bytes that the journal takes on disk.
    pub fn size_on_disk(&self) -> Result<u64, Failure> {
        self.inner.shared.read(|store, _| Ok(store.db.size_on_disk()?))
    }

    /// Changes after each durable commit.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.shared.changes.subscribe()
    }

    /// Why nothing more is accepted, if that is so.
    pub fn failure(&self) -> Option<Failure> {
        self.inner.shared.failure()
    }

    /// Resolves when a commit failed or is overdue: the daemon must stop. Never resolves for a journal that was closed.
    pub async fn failed(&self) -> Failure {
        let shared = &self.inner.shared;
        let mut failure = shared.failure.subscribe();
        loop {
            // The sender lives as long as we do, so an error cannot come; the deadline is looked at in between.
            if let Ok(Ok(failure)) = timeout(LIVENESS_INTERVAL, failure.wait_for(Option::is_some)).await
                && let Some(failure) = failure.clone()
            {
                return failure;
            }
            if shared.busy_for().is_some_and(|busy| busy > shared.deadline) {
                return shared.overdue();
            }
        }
    }

    /// Commits what is waiting, ends the writer and closes the files. Other clones see [`Failure::Closed`] from then on.
    pub async fn close(self) {
        let deadline = self.inner.shared.deadline;
        // A writer that is stuck cannot be ended; the process is about to end anyway.
        let _ = timeout(deadline, self.inner.queue.send(Message::Close)).await;
        let thread = lock(&self.inner.thread).take();
        let shared = self.inner.shared.clone();
        let closing = tokio::task::spawn_blocking(move || {
            if thread.is_some_and(|thread| thread.join().is_err()) {
                tracing::error!("the journal's writer panicked");
            }
            let store = shared.with_view(|view| view.store.take());
            drop(store);
        });
        if timeout(deadline, closing).await.is_err() {
            tracing::error!("the journal's writer did not end within {} s", deadline.as_secs());
        }
    }
}
