//! How fast: files and bytes per second, by governor.
//!
//! Files are asked for without waiting (the dispatcher never waits for one pipeline); bytes are waited for by
//! the worker that is about to write them. Bytes are counted in KiB cells: governor's intervals are whole
//! nanoseconds, so single bytes would overflow at ordinary rates. Waiting in governor is not first come first
//! served, so each limit hands out its cells under a fair lock.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::Mutex;

/// One cell of a byte limit, in bytes.
const CELL: u64 = 1024;
/// Part of a second's quota that may go in one burst.
const BURST_PART: u32 = 4;
/// Smallest burst of a byte limit, in cells.
const MIN_BURST: u32 = 16;

/// What a limit of files lets go in this many seconds may be paid for before it goes.
const PREPAID: f64 = 0.4;

/// A limit of files per second.
#[derive(Debug)]
pub struct FileLimit {
    per_second: f64,
    limiter: DefaultDirectRateLimiter,
    clock: DefaultClock,
}

impl FileLimit {
    /// A limit of so many files per second, evenly spaced; above 40 per second a quarter second's worth may go at once.
    pub fn new(per_second: f64) -> Option<Self> {
        let period = Duration::try_from_secs_f64(1.0 / per_second).ok().filter(|period| !period.is_zero())?;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates; both ends are sensible bursts
        let burst = NonZeroU32::new((per_second / f64::from(BURST_PART * 10)) as u32).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(period)?.allow_burst(burst);
        Some(Self { per_second, limiter: RateLimiter::direct(quota), clock: DefaultClock::default() })
    }

    /// How many files may be paid for that do not go yet.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates
    pub fn prepaid(&self) -> usize {
        (self.per_second * PREPAID) as usize
    }

    /// As [`FileLimit::new`], without the burst of a limit that nobody has used yet: it takes the place of another one.
    pub fn spent(per_second: f64) -> Option<Self> {
        let limit = Self::new(per_second)?;
        while limit.take().is_ok() {}
        Some(limit)
    }

    /// Takes one file, or says how long until there is one.
    pub fn take(&self) -> Result<(), Duration> {
        self.limiter.check().map_err(|refused| refused.wait_time_from(self.clock.now()))
    }
}

/// A limit of bytes per second, shared by any number of workers.
#[derive(Debug)]
pub struct ByteLimit {
    limiter: DefaultDirectRateLimiter,
    clock: DefaultClock,
    burst: NonZeroU32,
    /// Bytes per second for each of those who may share it.
    share: u64,
    /// Held while waiting, so that workers are served in the order they came.
    turn: Mutex<()>,
}

impl ByteLimit {
    /// A limit of so many bytes per second, at least one KiB, for at most so many uploads at a time.
    pub fn new(per_second: u64, sharers: usize) -> Option<Self> {
        let cells = u32::try_from(per_second.div_ceil(CELL)).unwrap_or(u32::MAX).max(1);
        let period = Duration::from_secs(1).checked_div(cells)?.max(Duration::from_nanos(1));
        let burst = NonZeroU32::new((cells / BURST_PART).max(MIN_BURST))?;
        let limiter = RateLimiter::direct(Quota::with_period(period)?.allow_burst(burst));
        Some(Self {
            limiter,
            clock: DefaultClock::default(),
            burst,
            share: per_second / sharers.max(1) as u64,
            turn: Mutex::new(()),
        })
    }

    /// As [`ByteLimit::new`], without the burst of a limit that nobody has used yet: it takes the place of another one.
    pub fn spent(per_second: u64, sharers: usize) -> Option<Self> {
        let limit = Self::new(per_second, sharers)?;
        while let Ok(Ok(())) = limit.limiter.check_n(limit.burst) {}
        Some(limit)
    }

    /// Bytes per second that each upload gets when all share the limit.
    pub fn share(&self) -> u64 {
        self.share
    }

    /// Waits until so many bytes may be sent.
    pub async fn take(&self, bytes: u64) {
        let mut cells = bytes.div_ceil(CELL);
        // Held to the end: pieces of several writes in turn would keep all of them waiting for the last piece of each.
        let _turn = self.turn.lock().await;
        while cells > 0 {
            let piece = u32::try_from(cells).unwrap_or(u32::MAX).min(self.burst.get());
            let Some(piece) = NonZeroU32::new(piece) else { return };
            // A piece is never larger than the burst, the only thing that governor refuses outright.
            while let Ok(Err(refused)) = self.limiter.check_n(piece) {
                tokio::time::sleep(refused.wait_time_from(self.clock.now())).await;
            }
            cells -= u64::from(piece.get());
        }
    }
}

/// Waits for every limit that applies.
pub async fn take_bytes(limits: &[std::sync::Arc<ByteLimit>], bytes: u64) {
    for limit in limits {
        limit.take(bytes).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_refused_with_the_time_to_wait() {
        let limit = FileLimit::new(0.5).unwrap();
        assert!(limit.take().is_ok());
        let wait = limit.take().unwrap_err();
        assert!(wait > Duration::from_secs(1) && wait <= Duration::from_secs(2), "{wait:?}");
    }

    #[test]
    fn a_limit_that_takes_the_place_of_another_begins_without_a_burst() {
        let limit = FileLimit::spent(400.0).unwrap();
        assert!(limit.take().is_err());
        let fresh = FileLimit::new(400.0).unwrap();
        assert!((0..10).all(|_| fresh.take().is_ok()), "a fresh one has one");
        let limit = ByteLimit::spent(1 << 20, 1).unwrap();
        assert!(matches!(limit.limiter.check_n(limit.burst), Ok(Err(_))));
    }

    #[test]
    fn extreme_rates_make_limits_too() {
        for rate in [1, 1023, 1 << 20, 1 << 40, u64::MAX] {
            assert!(ByteLimit::new(rate, 8).is_some(), "{rate}");
        }
        for rate in [0.001, 1.0, 39.9, 1e6] {
            assert!(FileLimit::new(rate).is_some(), "{rate}");
        }
        assert!(FileLimit::new(0.0).is_none());
    }

    #[tokio::test]
    async fn bytes_take_their_time_whatever_the_size_of_the_piece() {
        let limit = ByteLimit::new(256 * CELL, 1).unwrap();
        let start = std::time::Instant::now();
        // The burst of 64 KiB is free; the other 64 KiB take a quarter of a second.
        limit.take(128 * CELL).await;
        assert!(start.elapsed() >= Duration::from_millis(240), "{:?}", start.elapsed());
    }
}
