//! The pipe slots of one task: who has which id, and who waits.
//!
//! Pure. It must not know what a pipe carries, nor who is at the other end: a slot is granted to the next in
//! the queue even when its client is long gone, because that is what the real server does.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet, VecDeque};

/// Slots of a task that was started without `threads`.
pub(super) const DEFAULT_SLOTS: usize = 64;

/// A fixed number of slots with a queue of `W`aiters.
#[derive(Debug)]
pub(super) struct Slots<W> {
    limit: usize,
    taken: HashSet<u64>,
    /// Ids below `next` that were given back, lowest first: the real server hands out the lowest free one.
    free: BinaryHeap<Reverse<u64>>,
    next: u64,
    queue: VecDeque<W>,
}

impl<W> Slots<W> {
    /// `limit` 0 grants nothing, ever: every open hangs.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, taken: HashSet::new(), free: BinaryHeap::new(), next: 0, queue: VecDeque::new() }
    }

    /// A slot at once, or the waiter's place in the queue.
    pub(super) fn request(&mut self, waiter: W) -> Result<(u64, W), usize> {
        if let Some(id) = self.take() {
            return Ok((id, waiter));
        }
        self.queue.push_back(waiter);
        Err(self.queue.len())
    }

    /// The lowest free id without queueing, for pipes that belong to somebody else.
    pub(super) fn take(&mut self) -> Option<u64> {
        if self.taken.len() >= self.limit {
            return None;
        }
        let id = self.free.pop().map_or_else(
            || {
                self.next += 1;
                self.next - 1
            },
            |Reverse(id)| id,
        );
        self.taken.insert(id);
        Some(id)
    }

    /// Gives an id back; the head of the queue gets the lowest free one at once. An id that is not taken is ignored.
    pub(super) fn release(&mut self, id: u64) -> Option<(u64, W)> {
        if !self.taken.remove(&id) {
            return None;
        }
        self.free.push(Reverse(id));
        if self.queue.is_empty() {
            return None;
        }
        let id = self.take()?;
        self.queue.pop_front().map(|waiter| (id, waiter))
    }

    pub(super) fn in_use(&self) -> usize {
        self.taken.len()
    }

    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_lowest_free_id_comes_first_and_is_reused_at_once() {
        let mut slots = Slots::new(3);
        assert_eq!((slots.take(), slots.take(), slots.take()), (Some(0), Some(1), Some(2)));
        assert_eq!(slots.take(), None);
        assert_eq!(slots.release(2), None::<(u64, ())>);
        slots.release(0);
        assert_eq!(slots.take(), Some(0));
        assert_eq!(slots.take(), Some(2));
    }

    #[test]
    fn a_freed_slot_goes_to_the_head_of_the_queue() {
        let mut slots = Slots::new(1);
        assert_eq!(slots.request("first"), Ok((0, "first")));
        assert_eq!(slots.request("second"), Err(1));
        assert_eq!(slots.request("third"), Err(2));
        assert_eq!(slots.release(0), Some((0, "second")));
        assert_eq!(slots.waiting(), 1);
    }

    #[test]
    fn no_threads_means_nobody_is_ever_granted() {
        let mut slots = Slots::new(0);
        assert_eq!(slots.request(()), Err(1));
        assert_eq!(slots.release(0), None);
        assert_eq!(slots.waiting(), 1);
    }

    proptest! {
        #[test]
        fn an_id_has_one_owner_and_nobody_waits_beside_a_free_slot(limit in 0usize..5, steps in proptest::collection::vec(any::<(bool, u8)>(), 0..200)) {
            let mut slots = Slots::new(limit);
            let mut held: Vec<u64> = Vec::new();
            for (open, pick) in steps {
                let granted = if open {
                    slots.request(()).ok()
                } else if held.is_empty() {
                    None
                } else {
                    let id = held.swap_remove(usize::from(pick) % held.len());
                    slots.release(id)
                };
                if let Some((id, ())) = granted {
                    prop_assert!(!held.contains(&id), "{id} has two owners");
                    held.push(id);
                }
                prop_assert_eq!(slots.in_use(), held.len());
                prop_assert!(slots.in_use() <= limit);
                prop_assert!(slots.waiting() == 0 || slots.in_use() == limit);
            }
        }
    }
}
