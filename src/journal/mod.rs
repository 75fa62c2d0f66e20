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
//! | `j`, watch id (8), path hash (16) | first row of a record |
//! | `x`, watch id, path hash, index (2) | further row of a record that does not fit into 900 bytes |
//! | `d`, watch id, due (8), path hash | empty: what the dispatcher is to look at, oldest first |
//! | `c`, watch id | name and ledger of a watch |
//! | `m` | the journal's identity, and the sum of the ledgers; part of every batch |
//!
//! Beside it in the state directory: `lock` (held while the daemon lives), `journal.format`, `journal.id` (second
//! copy of the identity: tells a lost journal from a new one), `journal.corrupt-<time>` (quarantine).
//!
//! # Commit
//! One thread takes the waiting events, up to a bound, and applies them in order, later ones of a batch seeing what
//! earlier ones did. It writes one batch, flushes sled into the page cache, makes the file durable, and answers. From
//! the batch until it is durable, readers are shown the former records of the keys in it, so they never wait for the disk.
//!
//! # Opening
//! Lock; format; unfinished snapshots moved aside; sled opened with panics caught; every row read and compared with
//! everything that is written twice. What fails there is quarantined, except for errors of the operating system. A damaged
//! file can also make sled's open spin for ever; that is not noticed here, the start then never becomes ready.

mod check;
mod commit;
mod home;
mod layout;
mod open;
mod record;
mod store;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::job::{Counters, Event, FileKey, Generation, Job, JobState, Millis, Refused, WatchId};
use commit::{Denied, GROUP_LIMIT, Item, Message, Outcomes, QUEUE_LIMIT, Work, Writer};
pub use open::{OpenError, Opened};
use store::{ReadError, Store, SyncFile};

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

/// Why the journal does not work any more, or a record cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It was closed.
    #[error("the journal is closed")]
    Closed,
    /// A row cannot be read, or is not what it should be.
    #[error("cannot read the journal in {}: {message}", .dir.display())]
    Read {
        /// The journal's directory.
        dir: PathBuf,
        /// Why.
        message: String,
    },
    /// A commit failed. What it held is not durable.
    #[error("cannot write the journal in {}: {message}", .dir.display())]
    Write {
        /// The journal's directory.
        dir: PathBuf,
        /// Why.
        message: String,
    },
    /// A commit was not done in time. Whether what it held is durable is unknown.
    #[error("a commit of the journal in {} took longer than {} s", .dir.display(), .after.as_secs_f32())]
    Overdue {
        /// The journal's directory.
        dir: PathBuf,
        /// The deadline.
        after: Duration,
    },
    /// The writer, or the database below it, panicked.
    #[error("the journal's writer panicked: {message}")]
    Panicked {
        /// What the panic said.
        message: String,
    },
}

/// Why an event was not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The table has no such transition; nothing changed.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The record is of another generation than the event speaks of, or there is none; nothing changed.
    #[error("event {event} is about a generation that was replaced")]
    Stale {
        /// The event.
        event: &'static str,
    },
    /// The journal failed.
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// What [`Journal::recover`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovered {
    /// Generations that were being sent when the daemon ended: pending again.
    pub interrupted: u64,
    /// Generations whose watch is not in the configuration any more.
    pub parked: u64,
    /// Parked generations whose watch is back: pending again.
    pub unparked: u64,
}

impl Journal {
    /// Opens the journal in `state_dir/journal`, or makes a new one. Blocks, for long if the journal is large.
    pub fn open(state_dir: &Path) -> Result<(Self, Opened), OpenError> {
        Self::open_with(state_dir, File::sync_data, COMMIT_DEADLINE)
    }

    fn open_with(state_dir: &Path, sync_file: SyncFile, deadline: Duration) -> Result<(Self, Opened), OpenError> {
        let (store, id, content, opened) = open::open(state_dir, sync_file)?;
        let dir = store.home.journal();
        let store = Arc::new(store);
        let view = View { store: Some(store.clone()), uncommitted: HashMap::new(), watches: content.watches };
        let shared = Arc::new(Shared {
            dir: dir.clone(),
            deadline,
            view: RwLock::new(view),
            busy_since: Mutex::new(None),
            failure: watch::Sender::new(None),
            changes: watch::Sender::new(0),
        });
        let (queue, receiver) = mpsc::channel(QUEUE_LIMIT);
        let writer = Writer { store, shared: shared.clone(), queue: receiver, id };
        let thread = thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run())
            .map_err(|source| OpenError::Io { path: dir, source })?;
        Ok((Self { inner: Arc::new(Inner { shared, queue, thread: Mutex::new(Some(thread)) }) }, opened))
    }

    /// To be called once, after the opening and before any event: what was being sent is pending again, what belongs to
    /// watches not listed is parked, what was parked of the listed ones is pending again. Registers their names.
    pub async fn recover(&self, watches: &[(WatchId, String)], now: Millis) -> Result<Recovered, Failure> {
        for names in watches.chunks(GROUP_LIMIT) {
            self.submit(Work::Names(names.to_vec())).await?;
        }
        let mut recovered = Recovered::default();
        for (id, _, _) in self.watches() {
            let listed = watches.iter().any(|(watch, _)| *watch == id);
            recovered += self.recover_watch(id, listed, now).await?;
        }
        Ok(recovered)
    }

    /// As [`Journal::recover`], for one watch that came into the configuration or left it. Nothing of it may be on its way.
    pub async fn recover_watch(&self, watch: WatchId, watched: bool, now: Millis) -> Result<Recovered, Failure> {
        let mut recovered = Recovered::default();
        // The ledger tells without a scan whether there is anything to do.
        let counters = self.counters(watch);
        if !["pending", "sending", "blocked", "parked"].iter().any(|state| counters.count(state) > 0) {
            return Ok(recovered);
        }
        let mut after = None;
        loop {
            let journal = self.clone();
            let page = tokio::task::spawn_blocking(move || journal.jobs(watch, after, GROUP_LIMIT));
            let page = page.await.map_err(|error| Failure::Panicked { message: error.to_string() })??;
            let Some((last, _)) = page.last() else { return Ok(recovered) };
            after = Some(*last);
            let mut events = Vec::new();
            for (key, job) in page {
                let count = match (job.state, watched) {
                    (JobState::Sending, true) => &mut recovered.interrupted,
                    (JobState::Parked, true) => &mut recovered.unparked,
                    (JobState::Pending { .. } | JobState::Sending | JobState::Blocked { .. }, false) => {
                        &mut recovered.parked
                    }
                    _ => continue,
                };
                *count += 1;
                events.push((key, job.path, Event::Recover { at: now, watched }));
            }
            self.apply_all(events).await?;
        }
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
                    Denied::Stale => Refused { event, state: "replaced" },
                })
            }));
        }
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

    /// The jobs of a watch that the dispatcher is to look at by now, oldest first, at most `limit`. One that a commit
    /// under way touches is left out; [`Journal::changes`] tells when that commit is done.
    pub fn due(&self, watch: WatchId, now: Millis, limit: usize) -> Result<Vec<(FileKey, Millis)>, Failure> {
        self.inner.shared.read(|store, view| {
            store
                .due(watch)
                .take_while(|entry| entry.as_ref().map_or(true, |(_, due)| *due <= now))
                .filter(|entry| entry.as_ref().map_or(true, |(key, _)| !view.uncommitted.contains_key(key)))
                .take(limit)
                .collect()
        })
    }

    /// When the dispatcher is next to look at a job of a watch; may lie in the past.
    pub fn next_due(&self, watch: WatchId) -> Result<Option<Millis>, Failure> {
        let next = self.due(watch, Millis::MAX, 1)?;
        Ok(next.first().map(|(_, due)| *due))
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
        let thread = self.inner.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
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

impl std::ops::AddAssign for Recovered {
    fn add_assign(&mut self, other: Self) {
        self.interrupted += other.interrupted;
        self.parked += other.parked;
        self.unparked += other.unparked;
    }
}

/// A watch as the journal knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Watch {
    name: String,
    counters: Counters,
}

/// What the handles and the writer share.
struct Shared {
    dir: PathBuf,
    deadline: Duration,
    view: RwLock<View>,
    /// Since when the writer has been at its present batch.
    busy_since: Mutex<Option<Instant>>,
    failure: watch::Sender<Option<Failure>>,
    changes: watch::Sender<u64>,
}

/// What readers see: the tree as it was before the batch that is not durable yet.
struct View {
    /// None once the journal is closed.
    store: Option<Arc<Store>>,
    /// The durable records of the keys that the present batch touches.
    uncommitted: HashMap<FileKey, Option<Job>>,
    /// The durable ledgers.
    watches: BTreeMap<WatchId, Watch>,
}

impl Shared {
    fn view<T>(&self, read: impl FnOnce(&View) -> T) -> T {
        read(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn with_view<T>(&self, write: impl FnOnce(&mut View) -> T) -> T {
        write(&mut self.view.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn read<T>(&self, read: impl FnOnce(&Store, &View) -> Result<T, ReadError>) -> Result<T, Failure> {
        if let Some(failure) = self.failure() {
            return Err(failure);
        }
        self.view(|view| match &view.store {
            Some(store) => read(store, view).map_err(|error| self.read_failed(&error)),
            None => Err(Failure::Closed),
        })
    }

    fn failure(&self) -> Option<Failure> {
        self.failure.borrow().clone()
    }

    /// Only the first failure counts.
    fn fail(&self, failure: Failure) {
        self.failure.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                tracing::error!(%failure, "the journal failed");
                *current = Some(failure);
            }
            first
        });
    }

    fn overdue(&self) -> Failure {
        let failure = Failure::Overdue { dir: self.dir.clone(), after: self.deadline };
        self.fail(failure.clone());
        failure
    }

    fn read_failed(&self, error: &ReadError) -> Failure {
        Failure::Read { dir: self.dir.clone(), message: error.to_string() }
    }

    fn write_failed(&self, error: &sled::Error) -> Failure {
        Failure::Write { dir: self.dir.clone(), message: error.to_string() }
    }

    fn set_busy(&self, since: Option<Instant>) {
        *self.busy_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    fn busy_for(&self) -> Option<Duration> {
        self.busy_since.lock().unwrap_or_else(PoisonError::into_inner).map(|since| since.elapsed())
    }

    fn bump(&self) {
        self.changes.send_modify(|commits| *commits += 1);
    }
}

fn sum<'a>(ledgers: impl Iterator<Item = &'a Counters>) -> Counters {
    ledgers.fold(Counters::default(), |mut sum, ledger| {
        sum.admitted += ledger.admitted;
        sum.superseded += ledger.superseded;
        sum.pruned += ledger.pruned;
        sum.states.iter_mut().zip(ledger.states).for_each(|(sum, count)| *sum += count);
        sum
    })
}
