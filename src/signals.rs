//! Signals of the process, as the rest sees them: a flag that says stop.
//!
//! Signals coalesce, so they are levels, not counts: the first SIGTERM or SIGINT asks for a stop, one that comes
//! later ends the process at once. Nothing is lost by that: what is not durable was never acted on.

use std::io;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio::sync::watch;

/// Exit code of a process that a second signal ended.
const FORCED: i32 = 1;

/// Listens from now on, on a thread of its own; the receiver turns true when the process is to stop. Should the thread
/// ever end, the receiver's sender is gone.
pub fn listen() -> io::Result<watch::Receiver<bool>> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let (stop, receiver) = watch::channel(false);
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            match signal {
                SIGHUP => {
                    tracing::info!("SIGHUP: the configuration is read at the start only; restart to apply a change");
                }
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
    Ok(receiver)
}
