//! What the service manager is told: readiness, status, more time for a long phase, and that the daemon still works.
//!
//! The watchdog is fed by the progress of the dispatcher, not by a timer: a process whose timers run and whose files
//! stand still is killed, and started again. Without a service manager nothing of this happens.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};

use crate::progress::{BEAT_EVERY, Progress};

/// How often a long phase asks the service manager for more time, and how much.
const EXTEND_EVERY: Duration = Duration::from_secs(5);
const EXTEND_BY_USEC: u32 = 30_000_000;
/// How many times within the watchdog's deadline it is looked for progress.
const LOOKS: u32 = 4;

/// Tells the service manager, if there is one.
pub fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "cannot notify the service manager");
    }
}

/// Tells the service manager that the configuration is being reloaded; [`NotifyState::Ready`] ends it.
pub fn notify_reloading() {
    // Without the time of the clock that systemd goes by, it would take an old word for a new one.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "cannot notify the service manager"),
    }
}

/// Waits for something that may take long, asking the service manager for more time meanwhile. With a loop that the
/// work hangs on, only while that goes round: a loop that stands still is not to be waited for.
pub async fn extending<T>(what: &str, progress: Option<&Progress>, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    let began = Instant::now();
    let every = sd_notify::watchdog_enabled().map_or(EXTEND_EVERY, |deadline| EXTEND_EVERY.min(deadline / LOOKS));
    let mut seen = Seen::default();
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(every) => {
                let status = format!("{what} ({} s)", began.elapsed().as_secs());
                notify(&[NotifyState::Status(&status)]);
                if progress.is_none_or(|progress| seen.is_new(progress.beats())) {
                    notify(&[NotifyState::ExtendTimeoutUsec(EXTEND_BY_USEC), NotifyState::Watchdog]);
                }
            }
        }
    }
}

/// Feeds the service manager's watchdog, if it has one, for as long as the loop goes round. Never resolves.
pub async fn feed_watchdog(progress: Progress) {
    let Some(deadline) = sd_notify::watchdog_enabled().filter(|deadline| !deadline.is_zero()) else {
        return std::future::pending().await;
    };
    if deadline < BEAT_EVERY * 2 {
        tracing::warn!(
            ?deadline,
            "WatchdogSec= is shorter than {} s: a daemon with nothing to do would be killed",
            2 * BEAT_EVERY.as_secs()
        );
    }
    let mut look = interval(deadline / LOOKS);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut seen, mut warned) = (Seen::default(), false);
    loop {
        look.tick().await;
        if seen.is_new(progress.beats()) {
            notify(&[NotifyState::Watchdog]);
            warned = false;
        } else if !warned && progress.last_beat().elapsed() > deadline / 2 {
            warned = true;
            tracing::error!(
                ?deadline,
                "the dispatcher stands still; the service manager's watchdog is not fed any more"
            );
        }
    }
}

/// What was seen of a loop.
#[derive(Debug, Default)]
struct Seen(u64);

impl Seen {
    /// Whether the loop went round since the last look.
    fn is_new(&mut self, beats: u64) -> bool {
        std::mem::replace(&mut self.0, beats) != beats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_loop_that_went_round_since_the_last_look_has_progressed() {
        let (progress, mut seen) = (Progress::default(), Seen::default());
        assert!(!seen.is_new(progress.beats()), "it did not begin");
        let made = progress.last_beat();
        progress.beat();
        progress.beat();
        assert!(seen.is_new(progress.beats()));
        assert!(!seen.is_new(progress.beats()), "it stands still");
        progress.beat();
        assert!(seen.is_new(progress.beats()));
        assert!(progress.last_beat() >= made);
    }
}
