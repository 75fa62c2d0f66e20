//! Two questions of machines: is the daemon alive, and can it do its work.
//!
//! *Alive* is about the process alone: a dead server or a full disk must not have it restarted. *Ready* is about the work.

use std::time::Duration;

use super::Desk;
use super::wire::Status;

/// A dispatcher that is silent for so long hangs: it goes round every two seconds, and a commit may take thirty.
const STUCK: Duration = Duration::from_secs(45);

/// Why the process is no longer alive in earnest: its dispatcher makes no progress. None if it is.
pub fn dead(desk: &Desk) -> Option<String> {
    let silence = desk.progress.last_beat().elapsed();
    (silence > STUCK).then(|| format!("the dispatcher has made no progress for {} s", silence.as_secs()))
}

/// Why the daemon cannot do its work now; none if it can.
pub fn unready(desk: &Desk, status: &Status) -> Option<String> {
    if status.stopping {
        return Some("it is stopping".to_owned());
    }
    if let Some(failure) = desk.journal.failure() {
        return Some(format!("the journal failed: {failure}"));
    }
    if !status.watches.is_empty() && status.watches.iter().all(|watch| !watch.up) {
        return Some("no watched folder can be used".to_owned());
    }
    if !status.pipelines.is_empty() && status.pipelines.iter().all(|pipeline| !pipeline.up) {
        return Some("every pipeline is down".to_owned());
    }
    if status.state.free_bytes.is_some_and(|free| free < status.state.min_free_bytes) {
        return Some("the state directory has less free space than state.min_free".to_owned());
    }
    None
}
