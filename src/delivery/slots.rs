//! How many uploads one pipeline may have under way, given what its server does with slots.
//!
//! Pure. Time is a [`Duration`] on the dispatcher's monotonic clock.
//!
//! The server grants an open when a slot is free, perhaps hours later, and an open cannot be cancelled: one
//! whose client gave up is granted to nobody and blocks a slot for 60 to 90 s (measured: 88 s), and so does a
//! pipe that was abandoned. Hence:
//! - the first open of a session goes alone, until the server has granted it;
//! - once an open has waited longer than [`PATIENCE`], no other is sent beside it: more only as grants come;
//! - an upload that has not been granted for longer than [`PATIENCE`] holds no permit of the daemon, so that a
//!   full pipeline starves no other; its grant runs at once all the same;
//! - each abandoned pipe or open counts against the pipeline for [`ABANDONED_FOR`].

use std::collections::BTreeMap;
use std::time::Duration;

/// How long an open may wait before it counts as stuck.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// How long the server may need to get an abandoned slot back.
pub const ABANDONED_FOR: Duration = Duration::from_secs(90);

/// Number of one upload.
pub type UploadId = u64;

/// The slots of one pipeline.
#[derive(Debug)]
pub struct Slots {
    limit: usize,
    /// Uploads without a granted pipe, and since when.
    opening: BTreeMap<UploadId, Duration>,
    /// Uploads with one.
    running: Vec<UploadId>,
    /// Until when each abandoned slot counts.
    abandoned: Vec<Duration>,
    /// The server has granted an open in this session.
    proven: bool,
}

/// Whether another upload may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// It may.
    Yes,
    /// Not before this time, or before something happens.
    NotBefore(Duration),
    /// Not before something happens.
    No,
}

impl Slots {
    /// Slots for at most `limit` uploads at a time.
    pub fn new(limit: usize) -> Self {
        Self { limit, opening: BTreeMap::new(), running: Vec::new(), abandoned: Vec::new(), proven: false }
    }

    /// From now on at most so many at a time; what runs goes on.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// A new session begins: nothing is proven of its server yet. Another task knows nothing of the pipes that were
    /// abandoned in the one before.
    pub fn new_session(&mut self, same_task: bool) {
        self.proven = false;
        if !same_task {
            self.abandoned.clear();
        }
    }

    /// Whether another upload may start.
    pub fn room(&mut self, now: Duration) -> Room {
        self.abandoned.retain(|until| *until > now);
        if self.opening.values().any(|since| now.saturating_sub(*since) >= PATIENCE) {
            return Room::No;
        }
        if !self.proven && !self.opening.is_empty() {
            return Room::No;
        }
        if self.in_flight() + self.abandoned.len() < self.limit {
            return Room::Yes;
        }
        self.abandoned.iter().min().map_or(Room::No, |until| Room::NotBefore(*until))
    }

    /// An upload starts; it has no pipe yet.
    pub fn start(&mut self, id: UploadId, now: Duration) {
        self.opening.insert(id, now);
    }

    /// The server granted its pipe.
    pub fn grant(&mut self, id: UploadId) {
        if self.opening.remove(&id).is_some() {
            self.running.push(id);
            self.proven = true;
        }
    }

    /// The upload is over; `abandoned` if the server may hold a slot for it still.
    pub fn end(&mut self, id: UploadId, abandoned: bool, now: Duration) {
        let was_opening = self.opening.remove(&id).is_some();
        let was_running = self.running.iter().position(|running| *running == id);
        if let Some(index) = was_running {
            self.running.swap_remove(index);
        }
        // Whoever hears of an end twice counts it once.
        if abandoned && (was_opening || was_running.is_some()) {
            self.abandoned.push(now + ABANDONED_FOR);
        }
    }

    /// Uploads under way.
    pub fn in_flight(&self) -> usize {
        self.opening.len() + self.running.len()
    }

    /// Uploads that hold a permit of the daemon.
    pub fn permits(&self, now: Duration) -> usize {
        self.running.len() + self.opening.values().filter(|since| now.saturating_sub(**since) < PATIENCE).count()
    }

    /// When the next opening upload gives its permit back if it is not granted before.
    pub fn next_change(&self, now: Duration) -> Option<Duration> {
        self.opening.values().map(|since| *since + PATIENCE).filter(|at| *at > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_first_open_of_a_session_goes_alone() {
        let mut slots = Slots::new(4);
        assert_eq!(slots.room(at(0)), Room::Yes);
        slots.start(1, at(0));
        assert_eq!(slots.room(at(10)), Room::No);
        slots.grant(1);
        assert_eq!(slots.room(at(20)), Room::Yes);
        slots.start(2, at(20));
        assert_eq!(slots.room(at(30)), Room::Yes, "a proven server gets several at a time");
        slots.new_session(true);
        assert_eq!(slots.room(at(30)), Room::No);
    }

    #[test]
    fn nothing_is_sent_beside_an_open_that_is_stuck() {
        let mut slots = Slots::new(4);
        slots.start(1, at(0));
        slots.grant(1);
        slots.start(2, at(0));
        assert_eq!(slots.room(at(999)), Room::Yes);
        assert_eq!(slots.room(at(1000)), Room::No);
        assert_eq!((slots.permits(at(999)), slots.permits(at(1000))), (2, 1), "and it gives its permit back");
        slots.grant(2);
        assert_eq!(slots.permits(at(1000)), 2, "a grant runs at once");
        assert_eq!(slots.room(at(1000)), Room::Yes);
    }

    #[test]
    fn an_abandoned_slot_counts_for_as_long_as_the_server_needs_to_find_out() {
        let mut slots = Slots::new(1);
        slots.start(1, at(0));
        slots.grant(1);
        slots.end(1, true, at(0));
        assert_eq!(slots.room(at(1)), Room::NotBefore(ABANDONED_FOR));
        assert_eq!(slots.room(ABANDONED_FOR), Room::Yes);

        slots.start(2, at(0));
        slots.end(2, true, at(0));
        slots.end(2, true, at(0));
        assert_eq!(slots.abandoned.len(), 1, "an end that is heard of twice counts once");
        slots.new_session(true);
        assert_eq!(slots.room(at(1)), Room::NotBefore(ABANDONED_FOR), "its task may still hold it");
        slots.new_session(false);
        assert_eq!(slots.room(at(1)), Room::Yes, "another task knows nothing of it");
    }

    proptest! {
        /// In flight stays within the limit, and the permits within what is in flight.
        #[test]
        fn the_limit_holds(limit in 1usize..6, steps in proptest::collection::vec((0u8..4, any::<bool>(), 0u64..3000), 1..200)) {
            let mut slots = Slots::new(limit);
            let (mut now, mut next) = (Duration::ZERO, 0);
            for (action, abandoned, delay) in steps {
                now += at(delay);
                match action {
                    0 | 1 => if slots.room(now) == Room::Yes { next += 1; slots.start(next, now); },
                    2 => { let first = slots.opening.keys().next().copied(); if let Some(id) = first { slots.grant(id); } }
                    _ => { let first = slots.running.first().copied(); if let Some(id) = first { slots.end(id, abandoned, now); } }
                }
                prop_assert!(slots.opening.len() + slots.running.len() <= limit);
                prop_assert!(slots.permits(now) <= slots.opening.len() + slots.running.len());
            }
        }
    }
}
