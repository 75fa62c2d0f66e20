//! Whether a pipeline fails on everything, and then which files may still be tried on it, and at whose cost.
//!
//! Pure. Time is a [`Duration`] on the dispatcher's monotonic clock.
//!
//! A pipeline that fails on [`IN_A_ROW`] different files without a success in between is itself at fault: those files
//! get their attempts back, and only one file is tried from then on, the *probe*, at most every `retry.max` and at its
//! own cost, until a file is delivered. Failures that trying again cannot help (too large, wrongly configured) never
//! reach the pipeline and say nothing of it.
//!
//! This is forgotten at a restart: the first five files then find out anew. When each is due is in the journal.

use std::time::Duration;

use crate::job::FileKey;

/// So many different files that fail in a row are the pipeline's failure.
pub const IN_A_ROW: usize = 5;

/// Attempts that a file gets back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refund {
    /// The file.
    pub key: FileKey,
    /// How many.
    pub attempts: u32,
}

/// A failure of the pipeline on a file, as it is in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    /// The file.
    pub key: FileKey,
    /// It cost the file an attempt.
    pub charged: bool,
    /// The file was sent as the probe.
    pub probe: bool,
}

/// What follows from a failure.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Consequence {
    /// The pipeline is failing from now on.
    pub began: bool,
    /// Who gets attempts back. These are in the journal already, so the refund comes after the charge.
    pub refunds: Vec<Refund>,
}

/// How many files in a row a pipeline failed on.
#[derive(Debug, Default)]
pub struct Streak {
    /// The files since the last success and what each was charged; fewer than [`IN_A_ROW`].
    files: Vec<Refund>,
    failing: Option<Failing>,
}

#[derive(Debug, Clone, Copy)]
struct Failing {
    since: Duration,
    next_probe: Duration,
}

impl Streak {
    /// The pipeline failed on a file. `pause` is the time between two probes.
    pub fn failed(&mut self, failed: Failed, pause: Duration, now: Duration) -> Consequence {
        let Failed { key, charged, probe } = failed;
        let attempts = u32::from(charged);
        if let Some(failing) = &mut self.failing {
            if probe {
                failing.next_probe = now + pause;
                return Consequence::default();
            }
            // It was in flight when this began, and its worker had not heard of it.
            let refunds = charged.then_some(Refund { key, attempts }).into_iter().collect();
            return Consequence { began: false, refunds };
        }
        match self.files.iter_mut().find(|file| file.key == key) {
            Some(file) => file.attempts += attempts,
            None => self.files.push(Refund { key, attempts }),
        }
        if self.files.len() < IN_A_ROW {
            return Consequence::default();
        }
        self.failing = Some(Failing { since: now, next_probe: now });
        let refunds = std::mem::take(&mut self.files).into_iter().filter(|refund| refund.attempts > 0).collect();
        Consequence { began: true, refunds }
    }

    /// The pipeline took a file. For how long it had been failing, if it was.
    pub fn succeeded(&mut self, now: Duration) -> Option<Duration> {
        self.files.clear();
        self.failing.take().map(|failing| now.saturating_sub(failing.since))
    }

    /// When the next probe may go; `None` if the pipeline is not failing and all may.
    pub fn next_probe(&self) -> Option<Duration> {
        self.failing.map(|failing| failing.next_probe)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashMap;
    use std::path::Path;

    use super::*;
    use crate::job::WatchId;
    use proptest::prelude::*;

    const PAUSE: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn key(name: u8) -> FileKey {
        FileKey::new(WatchId::of("w"), Path::new(&name.to_string()))
    }

    fn charged(name: u8) -> Failed {
        Failed { key: key(name), charged: true, probe: false }
    }

    fn failing() -> Streak {
        let mut streak = Streak::default();
        for name in 0..5 {
            streak.failed(charged(name), PAUSE, at(0));
        }
        streak
    }

    #[test]
    fn the_fifth_file_in_a_row_makes_it_failing_and_all_five_get_back_what_they_paid() {
        let mut streak = Streak::default();
        for name in [0, 1, 1, 2, 0, 3, 0] {
            assert_eq!(streak.failed(charged(name), PAUSE, at(1)), Consequence::default());
            assert_eq!(streak.next_probe(), None);
        }
        let fifth = streak.failed(charged(4), PAUSE, at(2));
        assert!(fifth.began);
        let paid: Vec<_> = fifth.refunds.iter().map(|refund| refund.attempts).collect();
        assert_eq!(paid, [3, 2, 1, 1, 1]);
        assert_eq!(streak.next_probe(), Some(at(2)), "the first probe goes at once");
    }

    #[test]
    fn one_success_ends_the_streak_and_the_failing() {
        let mut streak = Streak::default();
        for name in 0..20 {
            assert!(!streak.failed(charged(name), PAUSE, at(1)).began, "every fourth succeeds");
            if name % 4 == 3 {
                assert_eq!(streak.succeeded(at(1)), None);
            }
        }
        let mut streak = failing();
        assert_eq!(streak.succeeded(at(9)), Some(at(9)));
        assert_eq!(streak.next_probe(), None);
    }

    #[test]
    fn one_file_that_fails_for_ever_says_nothing_of_the_pipeline() {
        let mut streak = Streak::default();
        for _ in 0..100 {
            assert!(!streak.failed(charged(7), PAUSE, at(1)).began);
        }
    }

    #[test]
    fn while_it_fails_the_probe_pays_and_nobody_else() {
        let mut streak = failing();
        let probe = Failed { key: key(0), charged: true, probe: true };
        assert_eq!(streak.failed(probe, PAUSE, at(5)), Consequence::default());
        assert_eq!(streak.next_probe(), Some(at(65)));
        let late = streak.failed(charged(8), PAUSE, at(6));
        assert_eq!(late, Consequence { began: false, refunds: vec![Refund { key: key(8), attempts: 1 }] });
        let free = Failed { charged: false, ..charged(9) };
        assert_eq!(streak.failed(free, PAUSE, at(7)), Consequence::default());
        assert_eq!(streak.next_probe(), Some(at(65)), "only the probe sets the pace");
    }

    proptest! {
        /// It fails exactly if five different files failed since the last success; then only probes have paid.
        #[test]
        fn only_probes_pay_for_a_failing_pipeline(steps in proptest::collection::vec((0u8..9, any::<bool>(), any::<bool>(), 0u8..12), 1..150)) {
            let mut streak = Streak::default();
            let mut different = std::collections::HashSet::new();
            let mut paid: HashMap<FileKey, u32> = HashMap::new();
            for (second, (name, pays, probe, success)) in (0..).zip(steps) {
                if success == 0 {
                    let was = streak.next_probe().is_some();
                    prop_assert_eq!(streak.succeeded(at(second)).is_some(), was);
                    different.clear();
                    paid.clear();
                } else {
                    let probe = probe && streak.next_probe().is_some();
                    let failed = Failed { key: key(name), charged: pays || probe, probe };
                    if failed.charged && !probe {
                        *paid.entry(failed.key).or_default() += 1;
                    }
                    let consequence = streak.failed(failed, PAUSE, at(second));
                    prop_assert_eq!(consequence.began, different.insert(name) && different.len() == IN_A_ROW);
                    for refund in consequence.refunds {
                        let paid = paid.get_mut(&refund.key).unwrap();
                        prop_assert!(refund.attempts > 0 && refund.attempts <= *paid);
                        *paid -= refund.attempts;
                    }
                }
                prop_assert_eq!(streak.next_probe().is_some(), different.len() >= IN_A_ROW);
                prop_assert!(streak.files.len() < IN_A_ROW);
                if streak.next_probe().is_some() {
                    prop_assert!(paid.values().all(|paid| *paid == 0));
                }
            }
        }
    }
}
