//! How fast a link is, as its own writes tell, and how large a write may be for it.
//!
//! The server hears of a write when the whole message is there. A write that is on its way for over a minute is silence
//! to it, and the pipe is reaped; so no write should take longer than [`TARGET`]. The measure is the time from handing a
//! write over to its acknowledgement, which includes the share that other uploads take at the same time.
//!
//! It must not know of files or pipes, nor look at a clock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// No write should take longer.
pub const TARGET: Duration = Duration::from_secs(10);
/// The least that a write is cut down to, in bytes: below that the round trips cost more than the silence.
pub const LEAST: usize = 4 * 1024;
/// The first write over a link of which nothing is known, in bytes.
pub const FIRST: usize = 64 * 1024;
/// What a link of which nothing bad is known is trusted with where a cut would show in the result, in bytes per second.
pub const ASSUMED: f64 = 1024.0 * 1024.0;
/// A write that is faster says only that the link is at least that fast: the rest is round trip.
const QUICK: Duration = Duration::from_secs(1);
/// A piece of half the size that takes more than this part of the time was not slowed down by the link.
const UNCHANGED: f64 = 0.8;

/// What is known of a link. Clones share it; it outlives connections.
#[derive(Debug, Clone, Default)]
pub struct Link {
    state: Arc<Mutex<Speed>>,
}

impl Link {
    /// Most bytes of the next write: what takes [`TARGET`].
    pub fn most(&self) -> usize {
        self.lock().most()
    }

    /// Most bytes of a write that is better not cut: more than [`Link::most`] as long as the link was not seen to be slow.
    pub fn most_at_once(&self) -> usize {
        self.lock().most_at_once()
    }

    /// A write of so many bytes was acknowledged after this time.
    pub fn took(&self, bytes: usize, time: Duration) {
        self.lock().took(bytes, time);
    }

    /// A write of so many bytes was given up after this time. Whether that was too much for the link; if not, the link
    /// is not to blame.
    pub fn gave_up(&self, bytes: usize, time: Duration) -> bool {
        self.lock().gave_up(bytes, time)
    }

    fn lock(&self) -> MutexGuard<'_, Speed> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The measure itself.
#[derive(Debug, Clone, Copy)]
struct Speed {
    /// Bytes per second that the link was seen to manage.
    rate: f64,
    /// A write was slow enough to say that it does not manage much more.
    limited: bool,
    /// Size and seconds of the slow write that set the rate, for telling a slow link from a slow server.
    slowest: Option<(f64, f64)>,
}

impl Default for Speed {
    fn default() -> Self {
        Self { rate: size(FIRST) / TARGET.as_secs_f64(), limited: false, slowest: None }
    }
}

impl Speed {
    fn most(&self) -> usize {
        in_target(self.rate)
    }

    fn most_at_once(&self) -> usize {
        in_target(if self.limited { self.rate } else { self.rate.max(ASSUMED) })
    }

    fn took(&mut self, bytes: usize, time: Duration) {
        let seconds = time.as_secs_f64().max(1e-6);
        let seen = size(bytes) / seconds;
        // Smaller pieces do not say that a link is slow: it is the round trip that they wait for.
        let says_slow = time >= QUICK && bytes >= self.most() / 2;
        self.limited |= says_slow;
        if time < QUICK {
            self.rate = self.rate.max(seen);
        } else if seen >= self.rate {
            self.rate = f64::midpoint(self.rate, seen);
        } else if says_slow {
            match self.slowest {
                Some((before, took)) if size(bytes) <= before / 2.0 && seconds >= took * UNCHANGED => {
                    // Half the bytes took as long: the server is slow, and ever smaller pieces would not make it faster.
                    self.rate = before / took;
                }
                Some((before, _)) if size(bytes) <= before && size(bytes) > before / 2.0 => self.rate = seen,
                _ => {
                    self.rate = seen;
                    self.slowest = Some((size(bytes), seconds));
                }
            }
        }
    }

    fn gave_up(&mut self, bytes: usize, time: Duration) -> bool {
        // Not even half of it may have arrived.
        self.rate = self.rate.min(size(bytes) / time.as_secs_f64().max(1.0) / 2.0);
        self.limited = true;
        bytes > self.most()
    }
}

#[expect(clippy::cast_precision_loss, reason = "sizes of writes are far below 2^52")]
fn size(bytes: usize) -> f64 {
    bytes as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates are positive; it saturates")]
fn in_target(rate: f64) -> usize {
    ((rate * TARGET.as_secs_f64()) as usize).max(LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KIB: f64 = 1024.0;
    const CHUNK: usize = 1024 * 1024;

    /// Sends pieces over a link of this rate and latency; returns their sizes and times.
    fn send(speed: &mut Speed, rate: f64, latency: f64, pieces: usize) -> Vec<(usize, f64)> {
        (0..pieces)
            .map(|_| {
                let bytes = speed.most().min(CHUNK);
                let seconds = size(bytes) / rate + latency;
                speed.took(bytes, Duration::from_secs_f64(seconds));
                (bytes, seconds)
            })
            .collect()
    }

    #[test]
    fn a_fast_link_gets_whole_chunks_after_one_small_one() {
        for latency in [0.0001, 0.05, 0.5] {
            let sizes: Vec<_> =
                send(&mut Speed::default(), 100e6, latency, 3).into_iter().map(|(bytes, _)| bytes).collect();
            assert_eq!(sizes, [FIRST, CHUNK, CHUNK], "{latency}");
        }
    }

    #[test]
    fn over_a_slow_link_no_piece_takes_long() {
        let mut speed = Speed::default();
        let pieces = send(&mut speed, 10.0 * KIB, 0.1, 20);
        assert!(pieces.iter().all(|(_, seconds)| *seconds < 15.0), "{pieces:?}");
        assert!(pieces.last().is_some_and(|(bytes, _)| *bytes > 60 * 1024), "and it is used: {pieces:?}");
        assert!(speed.most_at_once() < 150 * 1024, "text is cut as well");
    }

    #[test]
    fn an_unknown_link_is_trusted_with_whole_texts_until_it_proves_slow() {
        let mut speed = Speed::default();
        assert!(speed.most_at_once() >= 4 * 1024 * 1024);
        // Hundreds of small files over a slow round trip say nothing.
        for _ in 0..100 {
            speed.took(100, Duration::from_millis(300));
            speed.took(100, Duration::from_secs(3));
        }
        assert!(speed.most_at_once() >= 4 * 1024 * 1024);
        assert_eq!(speed.most(), FIRST);
        speed.took(600 * 1024, Duration::from_secs(40));
        assert!(speed.most_at_once() < 200 * 1024, "{}", speed.most_at_once());
    }

    #[test]
    fn a_write_that_was_given_up_makes_the_next_ones_smaller_until_the_link_is_not_to_blame() {
        let mut speed = Speed::default();
        let mut bytes = 4 * 1024 * 1024;
        let mut rounds = 0;
        while speed.gave_up(bytes, Duration::from_secs(60)) {
            assert!(speed.most() <= (bytes / 2).max(LEAST));
            bytes = speed.most();
            rounds += 1;
        }
        assert!(bytes == LEAST && rounds < 12, "{bytes} after {rounds}");
        assert!(!Speed::default().gave_up(100, Duration::from_secs(60)), "so little is never too much");
    }

    #[test]
    fn a_server_that_takes_its_time_for_every_write_is_no_slow_link() {
        let mut speed = Speed::default();
        send(&mut speed, 100e6, 0.01, 3);
        let pieces = send(&mut speed, 100e6, 15.0, 50);
        assert!(pieces.iter().all(|(bytes, _)| *bytes > CHUNK / 4), "no spiral: {pieces:?}");
    }

    #[test]
    fn a_link_that_recovers_is_used_again() {
        let mut speed = Speed::default();
        send(&mut speed, 5.0 * KIB, 0.1, 10);
        let pieces = send(&mut speed, 100e6, 0.05, 3);
        assert_eq!(pieces.last().map(|(bytes, _)| *bytes), Some(CHUNK));
    }

    proptest! {
        /// Whatever a steady link and server are like, pieces neither take too long for it nor get lost in small ones.
        #[test]
        fn steady_links_are_used_well(rate in 2e3..1e8_f64, latency in 0.0..0.9_f64) {
            let mut speed = Speed::default();
            let pieces = send(&mut speed, rate, latency, 60);
            for (bytes, seconds) in &pieces {
                prop_assert!(*seconds < 45.0 || *bytes <= LEAST, "{bytes} in {seconds}");
            }
            let (bytes, _) = pieces[59];
            let ideal = (rate * 10.0).min(size(CHUNK));
            prop_assert!(size(bytes) >= ideal / 4.0 || bytes == CHUNK, "{bytes} of {ideal}");
        }
    }
}
