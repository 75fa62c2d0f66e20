//! How much of a core a walk may take: a regular one, that nobody waits for, leaves most of it to the others.
//!
//! What counts is the processor time of its thread: a walk of a slow filesystem, which waits more than it computes, is not
//! made slower still. It must not know what is walked.

use std::thread;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Work that is done in one go; less is never paused for.
const STRETCH: Duration = Duration::from_millis(4);
/// Times the work that the pause after it lasts: a quarter of a core is left for the walk.
const PAUSE_FACTOR: u32 = 3;

/// How fast a walk goes. It is kept on one thread.
#[derive(Debug)]
pub enum Pace {
    /// As fast as it can.
    Full,
    /// With pauses in proportion to the work.
    Shared {
        /// The thread's processor time at the end of the last pause; none before the first look.
        since: Option<Duration>,
    },
}

impl Pace {
    /// A pace that leaves most of a core to others.
    pub fn shared() -> Self {
        Self::Shared { since: None }
    }

    /// To be called again and again along the way: pauses if it is time to.
    pub fn keep(&mut self) {
        let Self::Shared { since } = self else { return };
        let now = worked();
        let pause = pause_after(now.saturating_sub(*since.get_or_insert(now)));
        if !pause.is_zero() {
            thread::sleep(pause);
            *since = Some(worked());
        }
    }
}

/// How long to pause after so much work.
fn pause_after(work: Duration) -> Duration {
    if work < STRETCH { Duration::ZERO } else { work * PAUSE_FACTOR }
}

/// The processor time of this thread.
fn worked() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanos.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn little_work_is_not_paused_for_and_much_work_in_proportion() {
        assert_eq!(pause_after(Duration::from_micros(3999)), Duration::ZERO);
        assert_eq!(pause_after(Duration::from_millis(4)), Duration::from_millis(12));
        assert_eq!(pause_after(Duration::from_millis(40)), Duration::from_millis(120));
    }

    #[test]
    fn a_shared_pace_leaves_most_of_the_time_to_others() {
        let (began, start, mut pace) = (Instant::now(), worked(), Pace::shared());
        pace.keep();
        while worked().saturating_sub(start) < STRETCH * 5 {
            pace.keep();
            std::hint::black_box((0..1000_u32).sum::<u32>());
        }
        // A pause is never shorter than asked for; the work itself comes on top.
        assert!(began.elapsed() >= STRETCH * PAUSE_FACTOR * 4);
    }
}
