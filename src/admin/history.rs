//! The last hour in samples: what was delivered and what waits, for the plot on the page.
//!
//! In memory only: it begins anew with the process, as a plot of a running thing may.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use super::wire::{History as Answer, Sample};
use crate::clock::unix_millis;
use crate::journal::Journal;
use crate::locks::lock;

/// How often a sample is taken.
const EVERY: Duration = Duration::from_secs(10);
/// An hour of them, and the one before.
const SAMPLES: usize = 361;
/// States of a file that is on its way.
const WAITING: [&str; 5] = ["pending", "sending", "blocked", "spooled", "delivered"];

/// The samples.
#[derive(Debug, Default)]
pub struct History {
    samples: Mutex<VecDeque<Sample>>,
}

impl History {
    /// Takes samples for as long as it is polled.
    pub async fn record(&self, journal: &Journal) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ends = Ends::default();
        loop {
            ticks.tick().await;
            let totals = journal.totals();
            let delivered = ends.follow(totals.count("done") + totals.count("delivered") + totals.pruned);
            let backlog = WAITING.iter().map(|state| totals.count(state)).sum();
            let mut samples = lock(&self.samples);
            if samples.len() == SAMPLES {
                samples.pop_front();
            }
            samples.push_back(Sample { at: unix_millis(), delivered, backlog });
        }
    }

    /// All samples, oldest first.
    pub fn samples(&self) -> Answer {
        Answer { samples: lock(&self.samples).iter().copied().collect() }
    }
}

/// A total that only grows, made of one that may also shrink: a delivered file that is sent again leaves its state.
#[derive(Debug, Default)]
struct Ends {
    last: u64,
    total: u64,
}

impl Ends {
    fn follow(&mut self, now: u64) -> u64 {
        self.total += now.saturating_sub(self.last);
        self.last = now;
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_never_shrinks() {
        let mut ends = Ends::default();
        assert_eq!([5, 9, 7, 8].map(|now| ends.follow(now)), [5, 9, 9, 10]);
    }
}
