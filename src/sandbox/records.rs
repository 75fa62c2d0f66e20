//! What the engine remembers for those who look at it: deliveries, opens and writes, in order and bounded.
//!
//! It must not know of content: a record holds a hash and counts.

use std::collections::VecDeque;
use std::time::Instant;

use serde_json::{Map, Value};

/// Records of each kind that are kept unless [`super::Options::log_limit`] says otherwise; beyond it the oldest go.
pub const LOG_LIMIT: usize = 1_000_000;

/// One committed object, whole or not: a close commits whatever arrived before it.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Given by the client, else made from the name.
    pub object_id: String,
    /// Given by the client, else made up.
    pub name: String,
    /// The `object` argument of the open, as it was sent.
    pub object: Map<String, Value>,
    /// As it was sent.
    pub mime_type: String,
    /// Bytes that reached the pipeline: without the writes that were lost.
    pub bytes: u64,
    /// Bytes that were written, lost ones too.
    pub received: u64,
    /// Lower-case hex of the bytes that reached the pipeline.
    pub sha256: String,
    /// How many writes carried it.
    pub writes: u64,
    /// Writes to a text lane that were no valid UTF-8 on their own.
    pub lost_writes: u64,
    /// It was declared empty (`size` 0) and nothing of it was processed.
    pub skipped: bool,
    /// A node failed at the close: the client was told so in the body.
    pub error: Option<String>,
    /// The task that took it.
    pub token: String,
    /// The pipe it came through.
    pub pipe_id: u64,
    /// When the open arrived.
    pub requested_at: Instant,
    /// When the slot was granted.
    pub opened_at: Instant,
    /// When the close took it.
    pub committed_at: Instant,
}

impl Delivery {
    /// Whether the pipeline has all of what the client declared: the declared size arrived and no write was lost.
    ///
    /// The official SDK declares 1 for an empty file; that counts as complete.
    pub fn complete(&self) -> bool {
        let declared = self.object.get("size").and_then(Value::as_u64);
        let whole = declared.is_none_or(|size| size == self.bytes || (size == 1 && self.bytes == 0));
        whole && self.lost_writes == 0 && !self.skipped && self.error.is_none()
    }
}

/// One granted open.
#[derive(Debug, Clone)]
pub struct OpenRecord {
    /// When the request arrived.
    pub requested_at: Instant,
    /// When the slot was granted.
    pub granted_at: Instant,
    /// Name of the object.
    pub name: String,
    /// The task.
    pub token: String,
    /// The slot.
    pub pipe_id: u64,
}

/// One write to a living pipe.
#[derive(Debug, Clone)]
pub struct WriteRecord {
    /// When it arrived.
    pub at: Instant,
    /// Payload in bytes.
    pub bytes: usize,
    /// The task.
    pub token: String,
    /// The slot.
    pub pipe_id: u64,
}

/// The newest records of one kind.
#[derive(Debug)]
pub(super) struct Log<T> {
    records: VecDeque<T>,
    limit: usize,
    total: u64,
}

impl<T: Clone> Log<T> {
    pub(super) fn new(limit: usize) -> Self {
        Self { records: VecDeque::new(), limit: limit.max(1), total: 0 }
    }

    pub(super) fn push(&mut self, record: T) {
        if self.records.len() == self.limit {
            self.records.pop_front();
        }
        self.records.push_back(record);
        self.total += 1;
    }

    pub(super) fn all(&self) -> Vec<T> {
        self.records.iter().cloned().collect()
    }

    /// Records ever made, those that are gone too.
    pub(super) fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_drops_the_oldest_and_counts_on() {
        let mut log = Log::new(2);
        (0..5).for_each(|record| log.push(record));
        assert_eq!((log.all(), log.total()), (vec![3, 4], 5));
    }
}
