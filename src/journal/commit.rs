//! The writer: one thread that turns waiting events into batches, makes each durable once, and only then answers.
//!
//! It must not wait for anyone: it answers through oneshots and is never a sender of a bounded queue. It knows
//! nothing of what the events are for; the table of `job` decides what they do.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::record::{CodecError, Meta};
use super::store::{ReadError, Store};
use super::view::{Shared, Watch, sum};
use super::{Failure, layout, record};
use crate::crash;
use crate::job::{self, Event, FileKey, Generation, Job, Refused, WatchId};
use crate::meters::meters;
use crate::panics;

/// A batch takes no further operation once it has this many events.
pub(super) const GROUP_LIMIT: usize = 512;
/// Operations that may wait for the writer.
pub(super) const QUEUE_LIMIT: usize = 1024;
/// From the end of one commit to the next, at least: what a disk and a processor do for one event they do for a group.
const SPACING: Duration = Duration::from_millis(1);
/// Longest `last_error` that is kept, in bytes. The whole story is in the log and in the error file.
const MAX_ERROR: usize = 4096;
/// Longest name of a watch that is kept, in bytes.
const MAX_NAME: usize = 512;

/// An event on its way to the writer.
pub(super) struct Item {
    pub(super) key: FileKey,
    pub(super) path: PathBuf,
    /// The generation the sender speaks of, if it must not hit another one.
    pub(super) expected: Option<Generation>,
    pub(super) event: Event,
}

/// Why an event changed nothing.
pub(super) enum Denied {
    Refused(Refused),
    Stale,
}

/// The outcome of each event of an operation.
pub(super) type Outcomes = Vec<Result<Job, Denied>>;

/// What an operation is to do.
pub(super) enum Work {
    /// Events, in this order.
    Events(Vec<Item>),
    /// Records to be forgotten.
    Prune(Vec<FileKey>),
    /// Names of watches.
    Names(Vec<(WatchId, String)>),
}

/// What is sent to the writer.
pub(super) enum Message {
    /// All of the work goes into one batch.
    Apply(Work, oneshot::Sender<Result<Outcomes, Failure>>),
    /// Nothing more is taken after this.
    Close,
}

/// The writer's side of the journal.
pub(super) struct Writer {
    pub(super) store: Arc<Store>,
    pub(super) shared: Arc<Shared>,
    pub(super) queue: mpsc::Receiver<Message>,
    pub(super) id: Uuid,
    /// Number of the latest durable batch.
    pub(super) sequence: u64,
}

impl Writer {
    /// Runs until the journal is closed or nobody is left who could send. A panic is a failure of the journal, so that
    /// the daemon hears of it even while nobody waits for a commit.
    pub(super) fn run_caught(self) {
        let shared = self.shared.clone();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.run())) {
            shared.fail(Failure::Panicked { message: panics::message(panic.as_ref()).to_owned() });
        }
    }

    fn run(mut self) {
        let mut open = true;
        let (mut ended, mut busy): (Option<Instant>, bool) = (None, false);
        while open && let Some(first) = self.queue.blocking_recv() {
            // With much to do, what comes within a moment shares one commit. Of a file that comes alone, nothing waits: its
            // claim follows its admission at once, and then it is on its way for longer.
            let rest = ended.and_then(|ended| SPACING.checked_sub(ended.elapsed()));
            if let Some(rest) = rest.filter(|_| busy) {
                thread::sleep(rest);
            }
            busy = rest.is_some();
            let (mut works, mut answers, mut events) = (Vec::new(), Vec::new(), 0);
            let mut next = Some(first);
            while let Some(message) = next {
                let Message::Apply(work, answer) = message else {
                    open = false;
                    break;
                };
                events += match &work {
                    Work::Events(items) => items.len(),
                    Work::Prune(keys) => keys.len(),
                    Work::Names(names) => names.len(),
                };
                works.push(work);
                answers.push(answer);
                next = if events < GROUP_LIMIT { self.queue.try_recv().ok() } else { None };
            }
            // An answer that nobody waits for any more is no matter: the commit is durable all the same.
            let committed = self.commit(works);
            ended = Some(Instant::now());
            match committed {
                Ok(outcomes) => answers.into_iter().zip(outcomes).for_each(|(answer, outcomes)| {
                    let _ = answer.send(Ok(outcomes));
                }),
                Err(failure) => answers.into_iter().for_each(|answer| {
                    let _ = answer.send(Err(failure.clone()));
                }),
            }
        }
        self.store.sync_note();
    }

    /// Commits a group; after the first failure every other group fails with it.
    fn commit(&mut self, works: Vec<Work>) -> Result<Vec<Outcomes>, Failure> {
        if let Some(failure) = self.shared.failure() {
            return Err(failure);
        }
        let began = Instant::now();
        self.shared.set_busy(Some(began));
        let result = catch_unwind(AssertUnwindSafe(|| self.try_commit(works)))
            .unwrap_or_else(|panic| Err(Failure::Panicked { message: panics::message(panic.as_ref()).to_owned() }));
        self.shared.set_busy(None);
        meters().journal_commit_duration.observe(began.elapsed().as_secs_f64());
        if let Err(failure) = &result {
            self.shared.fail(failure.clone());
        }
        result
    }

    fn try_commit(&mut self, works: Vec<Work>) -> Result<Vec<Outcomes>, Failure> {
        let (read_failed, write_failed) =
            (|error| self.shared.read_failed(&error), |error| self.shared.write_failed(&error));

        let mut plan = Plan::default();
        let outcomes: Vec<Outcomes> = works
            .into_iter()
            .map(|work| match work {
                Work::Events(items) => items.into_iter().map(|item| plan.apply(item, self)).collect(),
                Work::Prune(keys) => keys.into_iter().map(|key| plan.prune(key, self)).collect(),
                Work::Names(names) => {
                    for (id, name) in names {
                        plan.name(id, name, self);
                    }
                    Ok(Vec::new())
                }
            })
            .collect::<Result<_, ReadError>>()
            .map_err(read_failed)?;
        if !plan.changed {
            return Ok(outcomes);
        }

        let watches = plan.watches_after(self);
        let totals = sum(watches.values().map(|watch| &watch.counters));
        let meta = Meta { id: self.id, sequence: self.sequence + 1, totals };
        let batch = plan.batch(&meta).map_err(|error| read_failed(error.into()))?;
        let changed = plan.slots.into_iter().filter(|(_, slot)| slot.changed());
        let before = changed.map(|(key, slot)| (key, slot.before)).collect();
        crash::point("commit.begun");
        self.shared
            .with_view(|view| {
                view.uncommitted = before;
                self.store.db.apply_batch(batch)
            })
            .map_err(write_failed)?;
        crash::point("commit.applied");
        self.store.make_durable().map_err(write_failed)?;
        self.sequence = meta.sequence;
        self.store.note(self.sequence);
        self.shared.with_view(|view| {
            view.uncommitted = HashMap::new();
            view.watches = watches;
        });
        self.shared.bump();
        crash::point("commit.answering");
        Ok(outcomes)
    }
}

/// What a batch is going to write.
#[derive(Default)]
struct Plan {
    slots: HashMap<FileKey, Slot>,
    /// The watches that the batch touches, as they will be.
    watches: BTreeMap<WatchId, Watch>,
    changed: bool,
}

/// A record that the batch touches.
struct Slot {
    /// What is durable.
    before: Option<Job>,
    /// How many further rows that has.
    rows_before: u16,
    /// What it will be, where something changed.
    after: Option<Job>,
    /// There will be none.
    pruned: bool,
}

impl Slot {
    /// The record as the events of this batch have left it so far.
    fn current(&self) -> Option<&Job> {
        if self.pruned { None } else { self.after.as_ref().or(self.before.as_ref()) }
    }

    fn changed(&self) -> bool {
        self.pruned || self.after.is_some()
    }
}

impl Plan {
    fn apply(&mut self, item: Item, writer: &Writer) -> Result<Result<Job, Denied>, ReadError> {
        let Item { key, path, expected, event } = item;
        let slot = touched_slot(&mut self.slots, key, writer)?;
        let current = slot.current();
        if expected.is_some_and(|expected| current.map(|job| job.generation) != Some(expected)) {
            return Ok(Err(Denied::Stale));
        }
        let watch = touched(&mut self.watches, key.watch, writer);
        Ok(match job::transition(&path, current, event, &mut watch.counters) {
            Ok(mut after) => {
                if let Some(error) = &mut after.last_error {
                    truncate(error, MAX_ERROR);
                }
                (slot.after, slot.pruned) = (Some(after.clone()), false);
                self.changed = true;
                Ok(after)
            }
            Err(refused) => Err(Denied::Refused(refused)),
        })
    }

    fn prune(&mut self, key: FileKey, writer: &Writer) -> Result<Result<Job, Denied>, ReadError> {
        let slot = touched_slot(&mut self.slots, key, writer)?;
        let Some(job) = slot.current().cloned() else {
            return Ok(Err(Denied::Refused(Refused { event: "prune", state: "unknown" })));
        };
        let watch = touched(&mut self.watches, key.watch, writer);
        Ok(match job::prune(&job, &mut watch.counters) {
            Ok(()) => {
                (slot.after, slot.pruned) = (None, true);
                self.changed = true;
                Ok(job)
            }
            Err(refused) => Err(Denied::Refused(refused)),
        })
    }

    fn name(&mut self, id: WatchId, mut name: String, writer: &Writer) {
        truncate(&mut name, MAX_NAME);
        let watch = touched(&mut self.watches, id, writer);
        if watch.name != name {
            watch.name = name;
            self.changed = true;
        }
    }

    /// All watches as they will be.
    fn watches_after(&mut self, writer: &Writer) -> BTreeMap<WatchId, Watch> {
        let mut watches = writer.shared.with_view(|view| view.watches.clone());
        watches.extend(self.watches.iter().map(|(id, watch)| (*id, watch.clone())));
        watches
    }

    fn batch(&self, meta: &Meta) -> Result<sled::Batch, CodecError> {
        let mut batch = sled::Batch::default();
        for (key, slot) in &self.slots {
            if !slot.changed() {
                continue;
            }
            let mut indexes = 0..=u16::MAX;
            if let Some(after) = &slot.after {
                let rows = record::encode(after)?;
                for (row, index) in rows.iter().skip(1).zip(indexes.by_ref()) {
                    batch.insert(layout::continuation(*key, index), row.as_slice());
                }
                batch.insert(layout::record(*key), rows[0].as_slice());
            } else {
                batch.remove(layout::record(*key));
            }
            for index in indexes.take_while(|index| *index < slot.rows_before) {
                batch.remove(layout::continuation(*key, index));
            }
            // A batch holds one entry per key, so removing first and inserting then is right for an unchanged time too.
            if let Some(due) = slot.before.as_ref().and_then(|job| job.state.due()) {
                batch.remove(layout::due(*key, due));
            }
            if let Some(due) = slot.after.as_ref().and_then(|job| job.state.due()) {
                batch.insert(layout::due(*key, due), &[]);
            }
        }
        for (id, watch) in &self.watches {
            batch.insert(layout::watch(*id), record::encode_watch(&watch.name, &watch.counters)?);
        }
        batch.insert(layout::META, record::encode_meta(meta)?);
        Ok(batch)
    }
}

fn touched_slot<'a>(
    slots: &'a mut HashMap<FileKey, Slot>,
    key: FileKey,
    writer: &Writer,
) -> Result<&'a mut Slot, ReadError> {
    Ok(match slots.entry(key) {
        Entry::Occupied(entry) => entry.into_mut(),
        Entry::Vacant(entry) => {
            let (before, rows_before) = writer.store.record(key)?.map_or((None, 0), |(job, rows)| (Some(job), rows));
            entry.insert(Slot { before, rows_before, after: None, pruned: false })
        }
    })
}

fn touched<'a>(watches: &'a mut BTreeMap<WatchId, Watch>, id: WatchId, writer: &Writer) -> &'a mut Watch {
    watches
        .entry(id)
        .or_insert_with(|| writer.shared.with_view(|view| view.watches.get(&id).cloned().unwrap_or_default()))
}

fn truncate(text: &mut String, limit: usize) {
    if text.len() > limit {
        let end = (0..=limit).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        text.truncate(end);
    }
}
