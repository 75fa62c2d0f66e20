//! How long the opening of a journal may take, and what it means when it takes longer.
//!
//! Some damage makes the database's open loop for ever, and an open cannot be ended from outside. A slow or hung disk
//! looks the same on the clock, but not to the processor: it lets the process sleep, the loop keeps it busy. So what is
//! measured is the processor time of this process, which has nothing else to do yet.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Processor time that any opening may take. A healthy journal of 1,000,000 records (430 MB) takes 2 s.
const BUSY_BASE: Duration = Duration::from_secs(60);
/// Bytes of the database for each further second of processor time: some fifty times what a healthy one takes.
const BUSY_RATE: u64 = 4 << 20;
/// Time that any opening may take, however little of it is spent computing.
const TOTAL_BASE: Duration = Duration::from_secs(600);
/// Bytes of the database for each further second.
const TOTAL_RATE: u64 = 256 << 10;
/// How often it is looked.
const POLL: Duration = Duration::from_millis(50);

/// How long an opening may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Processor time of the whole process.
    pub(super) busy: Duration,
    /// Time on the clock.
    pub(super) total: Duration,
}

/// Why the end of the work is not waited for any longer. It goes on: a thread cannot be ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overdue {
    /// It computes without an end.
    Busy(Duration),
    /// It waits for something, the disk most likely.
    Asleep(Duration),
}

impl Patience {
    /// What a database of this size is given.
    pub(super) fn of(bytes: u64) -> Self {
        let further = |rate| Duration::from_secs(bytes / rate);
        Self { busy: BUSY_BASE + further(BUSY_RATE), total: TOTAL_BASE + further(TOTAL_RATE) }
    }

    fn judge(self, busy: Duration, total: Duration) -> Option<Overdue> {
        if busy > self.busy {
            Some(Overdue::Busy(busy))
        } else {
            (total > self.total).then_some(Overdue::Asleep(total))
        }
    }

    /// Does the work on a thread of its own; none if it panicked. `held` is dropped with the end of the work,
    /// whether that is still waited for or not.
    pub(super) fn wait_for<T: Send + 'static>(
        self,
        held: impl Send + 'static,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<Result<Option<T>, Overdue>> {
        let (began, busy_before) = (Instant::now(), processor_time());
        let (answer, result) = channel();
        let thread = thread::Builder::new().name("journal-open".to_owned()).spawn(move || {
            // A result that nobody takes any more is dropped here, before what is held.
            let _ = answer.send(work());
            drop(held);
        })?;
        loop {
            match result.recv_timeout(POLL) {
                Ok(done) => {
                    let _ = thread.join();
                    return Ok(Ok(Some(done)));
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(Ok(None)),
                Err(RecvTimeoutError::Timeout) => {
                    let busy = processor_time().saturating_sub(busy_before);
                    if let Some(overdue) = self.judge(busy, began.elapsed()) {
                        return Ok(Err(overdue));
                    }
                }
            }
        }
    }
}

/// What all threads of this process have computed so far.
fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_large_journal_is_given_more_than_a_small_one() {
        let (small, large) = (Patience::of(0), Patience::of(1 << 30));
        assert_eq!((small.busy, small.total), (BUSY_BASE, TOTAL_BASE));
        assert_eq!((large.busy, large.total), (BUSY_BASE + 256 * SECOND, TOTAL_BASE + 4096 * SECOND));
    }

    #[test]
    fn only_computing_is_a_spin_and_waiting_is_the_disk() {
        let patience = Patience { busy: SECOND, total: 10 * SECOND };
        assert_eq!(patience.judge(SECOND, 10 * SECOND), None);
        assert_eq!(patience.judge(2 * SECOND, 2 * SECOND), Some(Overdue::Busy(2 * SECOND)));
        assert_eq!(patience.judge(SECOND / 10, 11 * SECOND), Some(Overdue::Asleep(11 * SECOND)));
    }

    #[test]
    fn a_panic_of_the_work_is_no_wait() {
        let waited = Patience::of(0).wait_for((), || -> u8 { panic!("as it goes") });
        assert_eq!(waited.unwrap(), Ok(None));
        assert_eq!(Patience::of(0).wait_for((), || 7).unwrap(), Ok(Some(7)));
    }
}
