//! Signals of the process, as the rest sees them: a flag that says stop.
//!
//! Signals coalesce, so they are levels, not counts: the first SIGTERM or SIGINT asks for a stop, one that comes
//! later ends the process at once. Nothing is lost by that: what is not durable was never acted on.

use std::io;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tokio::sync::watch;

/// Exit code of a process that a second signal ended.
const FORCED: i32 = 1;

/// What the signals of the process asked for. Should the thread that listens ever end, the senders are gone.
#[derive(Debug, Clone)]
pub struct Signals {
    /// True when the process is to stop.
    pub stop: watch::Receiver<bool>,
    /// Changes with each SIGHUP that was seen: what was read is to be read again.
    pub hangups: watch::Receiver<()>,
}

/// Listens from now on, on a thread of its own.
pub fn listen() -> io::Result<Signals> {
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let (stop, stopped) = watch::channel(false);
    let (hangup, hangups) = watch::channel(());
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            match signal {
                SIGHUP => drop(hangup.send(())),
                _ if stop.send_replace(true) => {
                    tracing::warn!(
                        "a second signal: ending at once; what was in flight is sent again at the next start"
                    );
                    std::process::exit(FORCED);
                }
                _ => tracing::info!(signal = signal_hook::low_level::signal_name(signal), "asked to stop"),
            }
        }
    })?;
    Ok(Signals { stop: stopped, hangups })
}
