//! Which files are quiet: a table of paths that changed lately and how long each has been the same.
//!
//! Pure. Time is a [`Duration`] on a monotonic clock that the caller keeps, so a jump of the wall clock
//! neither hurries nor delays a file; what a file looks like is told by the caller, who asks the disk.
//! The table is bounded: a full one refuses new paths, and the caller keeps a rescan in mind instead.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::folder::Settle;
use crate::job::Generation;

/// Longest quiet that is demanded of a file because it changed while it was sent.
const MAX_DOUBLED: Duration = Duration::from_secs(600);

/// The quiet that a file must show which changed so often in a row while it was sent: doubled each time, up to ten
/// minutes, but never less than `base`.
pub fn doubled(base: Duration, changes: u8) -> Duration {
    let factor = 1u32.checked_shl(changes.into()).unwrap_or(u32::MAX);
    base.saturating_mul(factor).min(MAX_DOUBLED.max(base))
}

/// The paths that are settling.
#[derive(Debug)]
pub struct Settling {
    capacity: usize,
    entries: HashMap<Arc<Path>, Entry>,
    /// When to look at each path again.
    order: BTreeSet<(Duration, Arc<Path>)>,
}

#[derive(Debug)]
struct Entry {
    /// As it looked last; `None` before the first look.
    generation: Option<Generation>,
    /// Since when it has looked so.
    since: Duration,
    /// How long it must look so.
    quiet: Duration,
    /// When it is looked at again.
    next: Duration,
}

/// What a look at a path means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It has been the same for long enough.
    Settled,
    /// It changed, or has not been the same for long enough.
    Wait,
}

impl Settling {
    /// A table for at most `capacity` paths.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, entries: HashMap::new(), order: BTreeSet::new() }
    }

    /// Paths in the table.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no path is settling.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether new paths are refused.
    pub fn is_full(&self) -> bool {
        self.entries.len() >= self.capacity
    }

    /// Takes notice of a path: it is looked at now, and settles after looking the same for `quiet`.
    ///
    /// A path that is in the table already only has its demand raised, never lowered or hurried.
    /// False if the table is full and the path is not in it.
    pub fn notice(&mut self, path: &Path, quiet: Duration, now: Duration) -> bool {
        if let Some(entry) = self.entries.get_mut(path) {
            if quiet > entry.quiet {
                entry.quiet = quiet;
                let next = entry.since + quiet;
                self.reschedule(path, next);
            }
            return true;
        }
        if self.is_full() {
            return false;
        }
        let path: Arc<Path> = path.into();
        self.order.insert((now, path.clone()));
        self.entries.insert(path, Entry { generation: None, since: now, quiet, next: now });
        true
    }

    /// The quiet that is demanded of a path; `None` if it is not in the table.
    pub fn quiet(&self, path: &Path) -> Option<Duration> {
        self.entries.get(path).map(|entry| entry.quiet)
    }

    /// How far a path has settled; `None` if it is not in the table.
    pub fn standing(&self, path: &Path, now: Duration) -> Option<Settle> {
        let entry = self.entries.get(path)?;
        let unchanged = entry.generation.map(|_| now.saturating_sub(entry.since));
        Some(Settle { quiet: entry.quiet, unchanged, next: entry.next.saturating_sub(now) })
    }

    /// Notes how a path looks now and says whether it has settled.
    ///
    /// The quiet begins with the first look, and anew with every look that differs from the one before.
    /// A path that is not in the table waits.
    pub fn look(&mut self, path: &Path, generation: Generation, now: Duration) -> Verdict {
        let Some(entry) = self.entries.get_mut(path) else { return Verdict::Wait };
        if entry.generation == Some(generation) && now.saturating_sub(entry.since) >= entry.quiet {
            return Verdict::Settled;
        }
        if entry.generation != Some(generation) {
            entry.generation = Some(generation);
            entry.since = now;
        }
        let next = entry.since + entry.quiet;
        self.reschedule(path, next);
        Verdict::Wait
    }

    /// Looks at a path again after `delay`, without starting anew.
    pub fn postpone(&mut self, path: &Path, delay: Duration, now: Duration) {
        self.reschedule(path, now + delay);
    }

    /// A path could not be looked at: that is tried again after `delay`. In a table that is half full it gives way to paths
    /// that can be, for it may never be possible; then this is false, and the caller has to find it again.
    pub fn unknown(&mut self, path: &Path, delay: Duration, now: Duration) -> bool {
        let stays = self.entries.len() <= self.capacity / 2;
        if stays {
            self.postpone(path, delay, now);
        } else {
            self.remove(path);
        }
        stays
    }

    /// Starts a path's quiet anew: somebody has it open for writing.
    pub fn restart(&mut self, path: &Path, now: Duration) {
        if let Some(entry) = self.entries.get_mut(path) {
            entry.since = now;
            let next = now + entry.quiet;
            self.reschedule(path, next);
        }
    }

    /// Forgets a path.
    pub fn remove(&mut self, path: &Path) {
        if let Some((path, entry)) = self.entries.remove_entry(path) {
            self.order.remove(&(entry.next, path));
        }
    }

    /// Forgets every path.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.order.clear();
    }

    /// The paths whose time to be looked at has come, earliest first, at most `limit`.
    pub fn due(&self, now: Duration, limit: usize) -> Vec<PathBuf> {
        self.order.iter().take_while(|(next, _)| *next <= now).take(limit).map(|(_, path)| path.to_path_buf()).collect()
    }

    /// When the next path is to be looked at.
    pub fn next_due(&self) -> Option<Duration> {
        self.order.first().map(|(next, _)| *next)
    }

    fn reschedule(&mut self, path: &Path, next: Duration) {
        if let Some((path, _)) = self.entries.get_key_value(path) {
            let path = path.clone();
            if let Some(entry) = self.entries.get_mut(&path) {
                self.order.remove(&(entry.next, path.clone()));
                entry.next = next;
                self.order.insert((next, path));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const QUIET: Duration = Duration::from_secs(2);

    fn generation(n: u64) -> Generation {
        Generation { ino: Some(1), size: n, mtime_ns: 0, ctime_ns: Some(0) }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_file_settles_after_looking_the_same_for_long_enough() {
        let mut table = Settling::new(10);
        let path = Path::new("a");
        assert!(table.notice(path, QUIET, at(0)));
        assert_eq!(table.look(path, generation(1), at(0)), Verdict::Wait);
        assert!(table.due(at(1), 9).is_empty());
        assert_eq!(table.due(at(2), 9), [path]);
        assert_eq!(table.look(path, generation(1), at(2)), Verdict::Settled);
    }

    #[test]
    fn a_change_starts_the_quiet_anew() {
        let mut table = Settling::new(10);
        let path = Path::new("a");
        table.notice(path, QUIET, at(0));
        table.look(path, generation(1), at(0));
        assert_eq!(table.look(path, generation(2), at(2)), Verdict::Wait);
        assert_eq!(table.look(path, generation(2), at(3)), Verdict::Wait);
        assert_eq!(table.look(path, generation(2), at(4)), Verdict::Settled);
    }

    #[test]
    fn it_can_be_asked_how_far_a_path_has_settled() {
        let mut table = Settling::new(10);
        let path = Path::new("a");
        assert_eq!(table.standing(path, at(0)), None);
        table.notice(path, QUIET, at(0));
        assert_eq!(table.standing(path, at(0)), Some(Settle { quiet: QUIET, unchanged: None, next: at(0) }));
        table.look(path, generation(1), at(1));
        assert_eq!(table.standing(path, at(2)), Some(Settle { quiet: QUIET, unchanged: Some(at(1)), next: at(1) }));
    }

    #[test]
    fn a_writer_starts_the_quiet_anew_too() {
        let mut table = Settling::new(10);
        let path = Path::new("a");
        table.notice(path, QUIET, at(0));
        table.look(path, generation(1), at(0));
        assert_eq!(table.look(path, generation(1), at(2)), Verdict::Settled);
        table.restart(path, at(2));
        assert_eq!(table.next_due(), Some(at(4)));
        assert_eq!(table.look(path, generation(1), at(3)), Verdict::Wait);
    }

    #[test]
    fn a_higher_demand_holds_and_a_lower_one_does_not_hurry() {
        let mut table = Settling::new(10);
        let path = Path::new("a");
        table.notice(path, QUIET, at(0));
        table.notice(path, at(8), at(1));
        table.notice(path, QUIET, at(1));
        table.look(path, generation(1), at(0));
        assert_eq!(table.look(path, generation(1), at(7)), Verdict::Wait);
        assert_eq!(table.look(path, generation(1), at(8)), Verdict::Settled);
        table.notice(path, at(100_000), at(8));
        assert_eq!(table.next_due(), Some(at(100_000)), "a written value is obeyed");
    }

    #[test]
    fn a_full_table_refuses_new_paths_only() {
        let mut table = Settling::new(1);
        assert!(table.notice(Path::new("a"), QUIET, at(0)));
        assert!(!table.notice(Path::new("b"), QUIET, at(0)));
        assert!(table.notice(Path::new("a"), QUIET, at(0)));
        table.remove(Path::new("a"));
        assert!(table.notice(Path::new("b"), QUIET, at(0)));
    }

    #[test]
    fn paths_that_cannot_be_looked_at_leave_room_for_others() {
        let mut table = Settling::new(4);
        for name in ["a", "b", "c", "d"] {
            assert!(table.notice(Path::new(name), QUIET, at(0)));
        }
        assert!(table.is_full());
        let stay = table.due(at(0), 9).iter().filter(|path| table.unknown(path, at(10), at(0))).count();
        assert_eq!((stay, table.len()), (2, 2));
        assert!(table.due(at(9), 9).is_empty() && table.due(at(10), 9).len() == 2, "and those are looked at again");
        assert!(table.notice(Path::new("e"), QUIET, at(1)));
        table.look(Path::new("e"), generation(1), at(1));
        assert_eq!(table.look(Path::new("e"), generation(1), at(3)), Verdict::Settled);
    }

    #[test]
    fn each_change_doubles_the_quiet_up_to_ten_minutes() {
        assert_eq!([0, 1, 2, 3].map(|changes| doubled(QUIET, changes).as_secs()), [2, 4, 8, 16]);
        assert_eq!(doubled(QUIET, u8::MAX), MAX_DOUBLED);
        assert_eq!(doubled(at(3600), 3), at(3600), "a written value is obeyed");
    }

    proptest! {
        /// Whatever happens, a file is called settled only after `QUIET` of unchanged looks, and every path stays scheduled.
        #[test]
        fn settled_means_quiet(steps in proptest::collection::vec((0u64..4, 0u64..3, 0u8..4), 1..200)) {
            let mut table = Settling::new(4);
            let mut now = Duration::ZERO;
            let mut same_since: HashMap<u64, (u64, Duration)> = HashMap::new();
            for (path, content, action) in steps {
                now += Duration::from_millis(500);
                let name = PathBuf::from(path.to_string());
                match action {
                    0 => { table.notice(&name, QUIET, now); }
                    1 => table.restart(&name, now),
                    2 => { table.remove(&name); same_since.remove(&path); }
                    _ => {
                        let known = table.entries.contains_key(&*name);
                        let verdict = table.look(&name, generation(content), now);
                        let since = same_since.entry(path).or_insert((content, now));
                        if since.0 != content { *since = (content, now); }
                        if verdict == Verdict::Settled {
                            prop_assert!(now >= since.1 + QUIET);
                        }
                        if !known { same_since.remove(&path); }
                    }
                }
                prop_assert_eq!(table.order.len(), table.entries.len());
                prop_assert!(table.entries.iter().all(|(path, entry)| table.order.contains(&(entry.next, path.clone()))));
            }
        }
    }
}
