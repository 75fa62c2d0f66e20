//! Why the journal said no, told apart by what the caller can do: go on without this event, or stop the daemon.

use std::path::PathBuf;
use std::time::Duration;

use crate::job::Refused;

/// Why the journal does not work any more, or a record cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It was closed.
    #[error("the journal is closed")]
    Closed,
    /// A row cannot be read, or is not what it should be.
    #[error("cannot read the journal in {}: {message}", .dir.display())]
    Read {
        /// The journal's directory.
        dir: PathBuf,
        /// Why.
        message: String,
    },
    /// A commit failed. What it held is not durable.
    #[error("cannot write the journal in {}: {message}", .dir.display())]
    Write {
        /// The journal's directory.
        dir: PathBuf,
        /// Why.
        message: String,
    },
    /// A commit was not done in time. Whether what it held is durable is unknown.
    #[error("a commit of the journal in {} took longer than {} s", .dir.display(), .after.as_secs_f32())]
    Overdue {
        /// The journal's directory.
        dir: PathBuf,
        /// The deadline.
        after: Duration,
    },
    /// The writer, or the database below it, panicked.
    #[error("the journal's writer panicked: {message}")]
    Panicked {
        /// What the panic said.
        message: String,
    },
}

/// Why an event was not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The table has no such transition; nothing changed.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The record is of another generation than the event speaks of, or there is none; nothing changed.
    #[error("event {event} is about a generation that was replaced")]
    Stale {
        /// The event.
        event: &'static str,
    },
    /// The journal failed.
    #[error(transparent)]
    Failed(#[from] Failure),
}
