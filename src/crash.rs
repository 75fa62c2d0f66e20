//! Crash points: the places between two durable steps at which a test lets the process die. For tests only.
//!
//! Without the cargo feature `crash-points` a point is nothing at all. With it, the environment variable
//! `ROCKETRIDE_INGEST_CRASH_AT=NAME` (or `NAME:3` for the third time it is reached) ends the process there by SIGKILL: no
//! destructor runs, nothing is flushed, as after a crash. It must know nothing of what happens at its points.

/// Names the point to die at, and after a colon how many times it is to be reached.
#[cfg(feature = "crash-points")]
const VARIABLE: &str = "ROCKETRIDE_INGEST_CRASH_AT";

/// Every point, in about the order in which a start and a file come by. A point says what was just done.
#[cfg(feature = "crash-points")]
pub const POINTS: &[&str] = &[
    // The state directory and the opening of the journal.
    "state.made",
    "journal.locked",
    "state-file.created",
    "state-file.written",
    "state-file.synced",
    "state-file.renamed",
    "state-file.durable",
    "journal.snapshot-moved",
    "journal.quarantined",
    "journal.id-gone",
    "journal.directory-made",
    "journal.database-opened",
    "journal.meta-inserted",
    "journal.names-durable",
    // Every commit.
    "commit.begun",
    "commit.applied",
    "journal.flushed",
    "journal.synced",
    "commit.answering",
    // The identity and whatever else is written whole, and what a dead daemon left.
    "whole-file.created",
    "whole-file.written",
    "whole-file.synced",
    "whole-file.renamed",
    "whole-file.durable",
    "recover.page",
    "daemon.recovered",
    "temp.swept",
    "intake.adopting",
    "orphan.found",
    // A file on its way.
    "claim.durable",
    "worker.adopting",
    "temp.created",
    "upload.granted",
    "upload.closing",
    "upload.closed",
    "sidecar.written",
    "sidecar.synced",
    "text.synced",
    "text.renamed",
    "sidecar.renamed",
    "sidecar.durable",
    "error-file.removed",
    "delivered.placed",
    "delivered.recorded",
    "failed.placed",
    "failed.recorded",
    // What is done with its input.
    "after.hidden",
    "after.hidden-durable",
    "after.unlinked",
    "after.unlinked-durable",
    "directory.made",
    "after.moved",
    "after.moved-durable",
    "after.result-moved",
    "after.result-moved-durable",
    "after.put-back",
    "spool.written",
    "spool.synced",
    "spool.renamed",
    "spool.durable",
    "spool.recorded",
    "spool.removed",
    "finish.done",
    "finish.recorded",
    // The end.
    "daemon.closed",
];

/// Dies here, if a test wants it.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub(crate) const fn point(_name: &'static str) {}

/// Dies here, if a test wants it.
#[cfg(feature = "crash-points")]
pub(crate) fn point(name: &'static str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static ARMED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static REACHED: AtomicU64 = AtomicU64::new(0);

    assert!(POINTS.contains(&name), "{name:?} is not in the table of crash points");
    let armed = ARMED.get_or_init(|| std::env::var(VARIABLE).ok().map(|text| parse(&text)));
    let Some((armed, nth)) = armed else { return };
    if armed == name && REACHED.fetch_add(1, Ordering::SeqCst) + 1 == *nth {
        // What cannot be killed must not go on as if it had been.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        loop {
            std::thread::park();
        }
    }
}

#[cfg(feature = "crash-points")]
fn parse(text: &str) -> (String, u64) {
    let (name, nth) = text.split_once(':').unwrap_or((text, "1"));
    assert!(POINTS.contains(&name), "{VARIABLE}: there is no crash point {name:?}");
    let nth = nth.parse().unwrap_or_default();
    assert!(nth > 0, "{VARIABLE}: {text:?} does not end in a number above 0");
    (name.to_owned(), nth)
}
