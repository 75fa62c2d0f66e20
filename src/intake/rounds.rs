//! When a root is walked: the whole of it at the start and regularly, parts of it as folders appear.
//!
//! At most one walk of the whole and one of a part are under way at a time. Walks run on blocking threads and
//! hand what they find to intake through a bounded channel.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, spawn_blocking};

use super::pace::Pace;
use super::scan::{Report, Walker};
use super::sleep_until;
use crate::blocking::joined;
use crate::meters::meters;

/// Parts that may wait for their walk; beyond it one walk of everything does.
const MAX_PARTS: usize = 256;
/// Automatic rescans of one root are at least this far apart.
const RESCAN_GAP: Duration = Duration::from_secs(30);
/// The reason of a walk that nothing happened for but that its time came.
const REGULAR: &str = "interval";

/// The walks of one root.
pub struct Rounds {
    walker: Walker,
    /// From the end of one walk of the whole to the next.
    interval: Duration,
    whole: Option<JoinHandle<Report>>,
    part: Option<JoinHandle<Report>>,
    parts: Vec<PathBuf>,
    /// When the whole is walked next; during a walk, whether another was asked for meanwhile.
    next: Option<Instant>,
    /// Why, for metrics.
    reason: &'static str,
    /// When a walk of the whole last ended.
    last: Option<Instant>,
    /// Somebody asked for a walk, and none has begun since.
    asked: bool,
}

/// A walk that ended.
#[derive(Debug)]
pub struct Round {
    /// What it saw.
    pub report: Report,
    /// Whether it went through the whole root.
    pub whole: bool,
}

impl Rounds {
    /// The first walk is due at once.
    pub fn new(walker: Walker, interval: Duration) -> Self {
        Self {
            walker,
            interval,
            whole: None,
            part: None,
            parts: Vec::new(),
            next: Some(Instant::now()),
            reason: "start",
            last: None,
            asked: false,
        }
    }

    /// From now on the whole is walked this often.
    pub fn set_interval(&mut self, interval: Duration) {
        self.interval = interval;
        self.not_later_than(Instant::now() + interval);
    }

    /// Something may have been missed: walks the whole soon, but not too often. True if that brings a walk forward.
    pub fn rescan(&mut self) -> bool {
        let before = self.next;
        self.not_later_than(self.last.map_or_else(Instant::now, |last| last + RESCAN_GAP));
        if self.next != before {
            self.reason = "events-lost";
        }
        self.next != before
    }

    /// Somebody asked for it: walks the whole as soon as no walk of it is under way.
    pub fn rescan_now(&mut self) {
        self.reason = "operator";
        self.asked = true;
        self.not_later_than(Instant::now());
    }

    fn not_later_than(&mut self, at: Instant) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    /// A folder appeared: walks it.
    pub fn appeared(&mut self, rel: PathBuf) {
        if self.parts.len() < MAX_PARTS {
            self.parts.push(rel);
        } else {
            self.rescan();
        }
    }

    /// Until the whole is walked next; none while it is being walked.
    pub fn until_next(&self) -> Option<Duration> {
        let next = self.next.filter(|_| self.whole.is_none())?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// Parts that are being walked or wait for it.
    pub fn parts(&self) -> usize {
        self.parts.len() + usize::from(self.part.is_some())
    }

    /// Starts what is due, and resolves when a walk ends. Losing the future loses nothing.
    pub async fn ended(&mut self) -> Round {
        loop {
            if self.part.is_none()
                && let Some(rel) = self.parts.pop()
            {
                let walker = self.walker.clone();
                self.part = Some(spawn_blocking(move || walker.walk(&rel, Pace::Full)));
            }
            if self.whole.is_none() && self.next.is_some_and(|next| next <= Instant::now()) {
                (self.next, self.asked) = (None, false);
                let reason = std::mem::replace(&mut self.reason, REGULAR);
                meters().walked(&self.walker.folder.watch.name, reason);
                let walker = self.walker.clone();
                // Somebody waits for all others.
                let pace = if reason == REGULAR { Pace::shared() } else { Pace::Full };
                self.whole = Some(spawn_blocking(move || walker.walk(Path::new(""), pace)));
            }
            let next = self.next.filter(|_| self.whole.is_none());
            tokio::select! {
                report = end_of(&mut self.part) => return Round { report, whole: false },
                report = end_of(&mut self.whole) => {
                    let now = Instant::now();
                    self.last = Some(now);
                    let gap = if self.asked { Duration::ZERO } else { RESCAN_GAP };
                    self.next = self.next.map(|next| next.max(now + gap));
                    self.not_later_than(now + self.interval);
                    return Round { report, whole: true };
                }
                () = sleep_until(next) => {}
            }
        }
    }
}

/// The end of a walk, if one is under way.
async fn end_of(task: &mut Option<JoinHandle<Report>>) -> Report {
    let Some(handle) = task else { return std::future::pending().await };
    let outcome = handle.await;
    *task = None;
    joined(outcome).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intake::testing;
    use tokio::sync::mpsc;
    use tokio::time::timeout;

    #[tokio::test(flavor = "multi_thread")]
    async fn who_asks_for_a_walk_during_one_gets_it_right_after() {
        for asked in [true, false] {
            let (_dir, intake, root) = testing::intake().await;
            for name in ["a", "b", "c"] {
                std::fs::write(root.path().join(name), name).unwrap();
            }
            let (sink, mut found) = mpsc::channel(1);
            let mut rounds = Rounds::new(intake.walker(&root, None, sink), Duration::from_secs(3600));
            // Nobody takes what it finds: it does not end.
            assert!(timeout(Duration::from_millis(200), rounds.ended()).await.is_err());
            if asked {
                rounds.rescan_now();
            } else {
                rounds.rescan();
            }
            let taken = tokio::spawn(async move {
                for _ in 0..3 {
                    found.recv().await.unwrap();
                }
                found
            });
            assert!(rounds.ended().await.whole);
            let next = rounds.until_next().unwrap();
            assert_eq!(next < RESCAN_GAP / 2, asked, "the next walk comes in {next:?}");
            drop(taken.await);
        }
    }
}
