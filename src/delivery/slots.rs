//! How many uploads one pipeline may have under way, given what its server does with slots.
//!
//! Pure. Time is a [`Duration`] on the dispatcher's monotonic clock.
//!
//! ```text
//! prepare -> ready -> turn -> grant -> end
//! ```
//!
//! A file is claimed and prepared before its turn comes, so that nothing of that is waited for while a slot is free: when
//! files are taken quickly, up to [`AHEAD`] of them are. It may end at every step.
//!
//! The server grants an open when a slot is free, perhaps hours later, and an open cannot be cancelled: one
//! whose client gave up is granted to nobody and blocks a slot for 60 to 90 s (measured: 88 s), and so does a
//! pipe that was abandoned. Hence:
//! - the first open of a session goes alone, until the server has granted it;
//! - once an open has waited longer than [`PATIENCE`], no other is sent beside it: more only as grants come;
//! - an upload that has not been granted for longer than [`PATIENCE`] holds no permit of the daemon, so that a
//!   full pipeline starves no other; its grant runs at once all the same;
//! - a file that takes longer than that to be prepared, because its disk does not answer, keeps no file of another watch
//!   back;
//! - each abandoned pipe or open counts against the pipeline for [`ABANDONED_FOR`].

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::job::WatchId;

/// How long an open, or a preparation, may take before it counts as stuck.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// Most files that are prepared beyond those that there is room for.
pub const AHEAD: usize = 16;
/// Files are taken quickly while one is over this often, at least. However many are ahead, the turn of each so comes within
/// [`PATIENCE`].
const QUICK: Duration = Duration::from_millis(50);
/// How long the server may need to get an abandoned slot back.
pub const ABANDONED_FOR: Duration = Duration::from_secs(90);

/// Number of one upload.
pub type UploadId = u64;

/// The slots of one pipeline.
#[derive(Debug)]
pub struct Slots {
    limit: usize,
    /// Files that are being claimed and prepared: of which watch, and since when.
    preparing: BTreeMap<UploadId, (WatchId, Duration)>,
    /// Files whose turn comes next, the first first.
    ready: VecDeque<UploadId>,
    /// Uploads without a granted pipe, and since when.
    opening: BTreeMap<UploadId, Duration>,
    /// Uploads with one, and since when they have had their turn.
    running: BTreeMap<UploadId, Duration>,
    /// Until when each abandoned slot counts.
    abandoned: Vec<Duration>,
    /// The server has granted an open in this session.
    proven: bool,
    /// Until when files count as taken quickly.
    quick_until: Duration,
}

/// Whether another one may begin.
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
        Self {
            limit,
            preparing: BTreeMap::new(),
            ready: VecDeque::new(),
            opening: BTreeMap::new(),
            running: BTreeMap::new(),
            abandoned: Vec::new(),
            proven: false,
            quick_until: Duration::ZERO,
        }
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

    /// How many files may be prepared beyond those that there is room for: none, unless the server takes them quickly.
    pub fn ahead(&self, now: Duration) -> usize {
        if now < self.quick_until { AHEAD } else { 0 }
    }

    /// Whether a file of this watch may be prepared, with so many ahead of the room that there is.
    pub fn room_ahead(&mut self, watch: WatchId, ahead: usize, now: Duration) -> Room {
        self.abandoned.retain(|until| *until > now);
        let unproven = !self.proven && self.coming(now) + self.opening.len() > 0;
        if unproven || self.is_stuck(now) || self.hangs(watch, now) {
            return Room::No;
        }
        let prompt: Vec<_> = self.prompt(now).collect();
        if self.in_flight() + self.abandoned.len() + self.ready.len() + prompt.len() < self.limit + ahead {
            return Room::Yes;
        }
        let later = self.abandoned.iter().copied().chain(prompt.into_iter().map(|since| since + PATIENCE)).min();
        later.map_or(Room::No, Room::NotBefore)
    }

    /// A file is being prepared.
    pub fn prepare(&mut self, id: UploadId, watch: WatchId, now: Duration) {
        self.preparing.insert(id, (watch, now));
    }

    /// It can be sent from now on.
    pub fn ready(&mut self, id: UploadId) {
        if self.preparing.remove(&id).is_some() {
            self.ready.push_back(id);
        }
    }

    /// Whose turn it is to be sent, if there is room for it: it has no pipe yet.
    pub fn turn(&mut self, now: Duration) -> Option<UploadId> {
        self.abandoned.retain(|until| *until > now);
        let no_room = self.in_flight() + self.abandoned.len() >= self.limit;
        if no_room || self.is_stuck(now) || (!self.proven && !self.opening.is_empty()) {
            return None;
        }
        let id = self.ready.pop_front()?;
        self.opening.insert(id, now);
        Some(id)
    }

    /// The server granted its pipe.
    pub fn grant(&mut self, id: UploadId) {
        if let Some(since) = self.opening.remove(&id) {
            self.running.insert(id, since);
            self.proven = true;
        }
    }

    /// It is over; `abandoned` if the server may hold a slot for it still. Whoever hears of an end twice counts it once.
    pub fn end(&mut self, id: UploadId, abandoned: bool, now: Duration) {
        self.preparing.remove(&id);
        self.ready.retain(|ready| *ready != id);
        let was_opening = self.opening.remove(&id).is_some();
        let beside = u32::try_from(self.running.len()).unwrap_or(u32::MAX);
        let ran = self.running.remove(&id);
        // So many at a time, each for so long: then one is over every so often.
        if ran.is_some_and(|since| now.saturating_sub(since) < QUICK.saturating_mul(beside)) {
            self.quick_until = now + QUICK;
        }
        if abandoned && (was_opening || ran.is_some()) {
            self.abandoned.push(now + ABANDONED_FOR);
        }
    }

    /// Whether it is not over yet.
    pub fn holds(&self, id: UploadId) -> bool {
        let on_the_way = self.preparing.contains_key(&id) || self.opening.contains_key(&id);
        on_the_way || self.ready.contains(&id) || self.running.contains_key(&id)
    }

    /// Whether the disk of this watch does not answer: a file of it takes too long to be prepared.
    pub fn hangs(&self, watch: WatchId, now: Duration) -> bool {
        self.preparing.values().any(|(of, since)| *of == watch && is_long(*since, now))
    }

    /// Whether it takes too long to be prepared.
    pub fn is_held_up(&self, id: UploadId, now: Duration) -> bool {
        self.preparing.get(&id).is_some_and(|(_, since)| is_long(*since, now))
    }

    /// Uploads under way.
    pub fn in_flight(&self) -> usize {
        self.opening.len() + self.running.len()
    }

    /// Uploads that hold a permit of the daemon.
    pub fn permits(&self, now: Duration) -> usize {
        self.running.len() + self.opening.values().filter(|since| !is_long(**since, now)).count()
    }

    /// Files that are being prepared, or wait for their turn, and do not take too long over it.
    pub fn coming(&self, now: Duration) -> usize {
        self.ready.len() + self.prompt(now).count()
    }

    /// When the next upload that is opening gives its permit back if it is not granted before, or a file that is being
    /// prepared makes room for another.
    pub fn next_change(&self, now: Duration) -> Option<Duration> {
        let begun = self.opening.values().chain(self.preparing.values().map(|(_, since)| since));
        begun.map(|since| *since + PATIENCE).filter(|at| *at > now).min()
    }

    /// An open has waited for too long.
    fn is_stuck(&self, now: Duration) -> bool {
        self.opening.values().any(|since| is_long(*since, now))
    }

    /// Since when those are being prepared for which that does not take too long.
    fn prompt(&self, now: Duration) -> impl Iterator<Item = Duration> + '_ {
        self.preparing.values().map(|(_, since)| *since).filter(move |since| !is_long(*since, now))
    }
}

/// Whether what began then takes longer than it should.
fn is_long(since: Duration, now: Duration) -> bool {
    now.saturating_sub(since) >= PATIENCE
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn watch() -> WatchId {
        WatchId::of("w")
    }

    /// Whether another file may be prepared where nothing goes ahead.
    fn room(slots: &mut Slots, now: Duration) -> Room {
        slots.room_ahead(watch(), 0, now)
    }

    /// A file that is ready the moment it is taken, and whose turn it is at once.
    fn start(slots: &mut Slots, id: UploadId, now: Duration) {
        slots.prepare(id, watch(), now);
        slots.ready(id);
        assert_eq!(slots.turn(now), Some(id));
    }

    #[test]
    fn the_first_open_of_a_session_goes_alone() {
        let mut slots = Slots::new(4);
        assert_eq!(room(&mut slots, at(0)), Room::Yes);
        slots.prepare(1, watch(), at(0));
        assert_eq!(room(&mut slots, at(0)), Room::No);
        slots.ready(1);
        assert_eq!(room(&mut slots, at(0)), Room::No);
        assert_eq!(slots.turn(at(0)), Some(1));
        assert_eq!(room(&mut slots, at(10)), Room::No);
        slots.grant(1);
        assert_eq!(room(&mut slots, at(20)), Room::Yes);
        start(&mut slots, 2, at(20));
        assert_eq!(room(&mut slots, at(30)), Room::Yes, "a proven server gets several at a time");
        slots.prepare(3, watch(), at(30));
        slots.ready(3);
        slots.new_session(true);
        assert_eq!(room(&mut slots, at(30)), Room::No);
        assert_eq!(slots.turn(at(30)), None, "nor does one go that was ready before");
    }

    #[test]
    fn nothing_is_sent_beside_an_open_that_is_stuck() {
        let mut slots = Slots::new(4);
        start(&mut slots, 1, at(0));
        slots.grant(1);
        start(&mut slots, 2, at(0));
        slots.prepare(3, watch(), at(999));
        slots.ready(3);
        assert_eq!(room(&mut slots, at(999)), Room::Yes);
        assert_eq!((room(&mut slots, at(1000)), slots.turn(at(1000))), (Room::No, None));
        assert_eq!((slots.permits(at(999)), slots.permits(at(1000))), (2, 1), "and it gives its permit back");
        slots.grant(2);
        assert_eq!(slots.permits(at(1000)), 2, "a grant runs at once");
        assert_eq!((room(&mut slots, at(1000)), slots.turn(at(1000))), (Room::Yes, Some(3)));
    }

    #[test]
    fn an_abandoned_slot_counts_for_as_long_as_the_server_needs_to_find_out() {
        let mut slots = Slots::new(1);
        start(&mut slots, 1, at(0));
        slots.grant(1);
        slots.end(1, true, at(0));
        assert_eq!(room(&mut slots, at(1)), Room::NotBefore(ABANDONED_FOR));
        assert_eq!(room(&mut slots, ABANDONED_FOR), Room::Yes);

        start(&mut slots, 2, at(0) + ABANDONED_FOR);
        let now = at(0) + ABANDONED_FOR;
        slots.end(2, true, now);
        slots.end(2, true, now);
        assert_eq!(slots.abandoned.len(), 1, "an end that is heard of twice counts once");
        slots.new_session(true);
        assert_eq!(room(&mut slots, now), Room::NotBefore(now + ABANDONED_FOR), "its task may still hold it");
        slots.new_session(false);
        assert_eq!(room(&mut slots, now), Room::Yes, "another task knows nothing of it");
    }

    #[test]
    fn files_are_prepared_ahead_while_the_server_takes_them_quickly() {
        let mut slots = Slots::new(1);
        start(&mut slots, 0, at(0));
        slots.grant(0);
        assert_eq!(slots.ahead(at(5)), 0, "nothing is known of how quick it is");
        slots.end(0, false, at(0) + QUICK);
        assert_eq!(slots.ahead(at(0) + QUICK), 0, "it took its time");
        start(&mut slots, 1, at(0));
        slots.grant(1);
        slots.end(1, false, at(10));
        assert_eq!((slots.ahead(at(10)), slots.ahead(at(10) + QUICK)), (AHEAD, 0));
        for id in 2..=2 + AHEAD as u64 {
            assert_eq!(slots.room_ahead(watch(), AHEAD, at(10)), Room::Yes);
            slots.prepare(id, watch(), at(10));
            slots.ready(id);
        }
        assert_eq!(slots.room_ahead(watch(), AHEAD, at(10)), Room::No);
        assert_eq!((slots.turn(at(10)), slots.turn(at(10))), (Some(2), None), "they wait for their turn");
        slots.end(3, false, at(10));
        assert!(!slots.holds(3), "one that waits may end");
        slots.grant(2);
        slots.end(2, false, at(10));
        assert_eq!(slots.turn(at(10)), Some(4), "the first of those that are left");
    }

    #[test]
    fn a_disk_that_does_not_answer_keeps_no_other_watch_back() {
        let mut slots = Slots::new(2);
        slots.prepare(0, WatchId::of("hung from the beginning"), at(0));
        assert_eq!((room(&mut slots, at(999)), room(&mut slots, at(1000))), (Room::No, Room::Yes));
        slots.end(0, false, at(0));
        start(&mut slots, 1, at(0));
        slots.grant(1);
        slots.end(1, false, at(0));
        let hung = WatchId::of("hung");
        slots.prepare(2, hung, at(0));
        slots.prepare(3, hung, at(0));
        assert_eq!(room(&mut slots, at(999)), Room::NotBefore(at(1000)));
        assert_eq!((slots.coming(at(999)), slots.coming(at(1000))), (2, 0));
        assert_eq!(room(&mut slots, at(1000)), Room::Yes);
        assert!(slots.hangs(hung, at(1000)) && slots.is_held_up(3, at(1000)) && !slots.hangs(watch(), at(1000)));
        assert_eq!(slots.room_ahead(hung, AHEAD, at(1000)), Room::No, "of that one no more are begun");
        slots.ready(2);
        slots.end(3, false, at(1000));
        assert_eq!(slots.room_ahead(hung, 0, at(1000)), Room::Yes);
        assert_eq!(slots.turn(at(1000)), Some(2));
    }

    proptest! {
        /// In flight stays within the limit, the permits within what is in flight, and what comes within what may be ahead.
        #[test]
        fn the_limit_holds(limit in 1usize..6, steps in proptest::collection::vec((0u8..6, any::<bool>(), 0u64..1500), 1..200)) {
            let mut slots = Slots::new(limit);
            let (mut now, mut next) = (Duration::ZERO, 0);
            for (action, chance, delay) in steps {
                // Mostly nothing takes long.
                now += at(if chance { delay / 100 } else { delay });
                let ahead = slots.ahead(now);
                match action {
                    0 | 1 => if slots.room_ahead(watch(), ahead, now) == Room::Yes { next += 1; slots.prepare(next, watch(), now); },
                    2 => { let first = slots.preparing.keys().next().copied(); if let Some(id) = first { slots.ready(id); } }
                    3 => if let Some(id) = slots.turn(now) { prop_assert!(slots.holds(id)); },
                    4 => { let first = slots.opening.keys().next().copied(); if let Some(id) = first { slots.grant(id); } }
                    _ => { let first = slots.running.keys().next().or(slots.ready.front()).copied(); if let Some(id) = first { slots.end(id, chance, now); prop_assert!(!slots.holds(id)); } }
                }
                prop_assert!(slots.in_flight() <= limit);
                prop_assert!(slots.permits(now) <= slots.in_flight());
                prop_assert!(slots.coming(now) <= limit + AHEAD);
                prop_assert!(slots.preparing.len() <= limit + AHEAD);
            }
        }
    }
}
