//! How long to wait before trying again: exponential growth with full jitter.
//!
//! Pure: the caller brings the chance and does the waiting.

use std::time::Duration;

/// A growing span to draw waits from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Upper end of the first wait.
    pub initial: Duration,
    /// Upper end of every wait.
    pub max: Duration,
}

impl Backoff {
    /// The wait after failure number `attempt` (0 is the first): `unit` of `min(max, initial * 2^attempt)`.
    ///
    /// `unit` is a random number in `[0, 1)`; drawing from the whole span ("full jitter") keeps many clients that failed
    /// together from coming back together.
    pub fn delay(&self, attempt: u32, unit: f64) -> Duration {
        let span = self.initial.saturating_mul(2_u32.saturating_pow(attempt.min(31))).min(self.max);
        span.mul_f64(if unit.is_finite() { unit.clamp(0.0, 1.0) } else { 1.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BACKOFF: Backoff = Backoff { initial: Duration::from_secs(30), max: Duration::from_secs(600) };

    #[test]
    fn the_span_doubles_up_to_the_maximum() {
        for (attempt, seconds) in [(0, 30), (1, 60), (2, 120), (3, 240), (4, 480), (5, 600), (6, 600), (u32::MAX, 600)]
        {
            assert_eq!(BACKOFF.delay(attempt, 1.0), Duration::from_secs(seconds), "attempt {attempt}");
        }
    }

    #[test]
    fn the_jitter_is_full() {
        assert_eq!(BACKOFF.delay(0, 0.0), Duration::ZERO);
        assert_eq!(BACKOFF.delay(0, 0.5), Duration::from_secs(15));
        assert_eq!(BACKOFF.delay(3, f64::NAN), Duration::from_secs(240));
    }

    proptest! {
        #[test]
        fn no_wait_exceeds_the_maximum(attempt: u32, unit in 0.0..1.0_f64, initial in 0_u64..1 << 40, max in 0_u64..1 << 40) {
            let backoff = Backoff { initial: Duration::from_millis(initial), max: Duration::from_millis(max) };
            prop_assert!(backoff.delay(attempt, unit) <= backoff.max);
        }
    }
}
