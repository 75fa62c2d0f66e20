//! What an audit found, as it is said over the socket.

use serde::{Deserialize, Serialize};

/// The outcome of an audit.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Audited {
    /// How much must not be.
    pub differences: u64,
    /// Each watch that is configured or that the journal knows.
    pub watches: Vec<Watch>,
    /// Results in the spool that no file waits for.
    pub spool: Findings,
}

/// One watch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Watch {
    /// Its name.
    pub name: String,
    /// Records in the journal.
    pub records: u64,
    /// Inputs seen on disk.
    pub inputs: u64,
    /// Delivered inputs among them whose result is there and right.
    pub results: u64,
    /// Inputs that are on their way or settling.
    pub in_flight: u64,
    /// What must not be.
    pub differences: Findings,
    /// What is strange, and was left alone.
    pub notes: Findings,
    /// What could not be looked at.
    pub unknown: Findings,
}

/// Findings of one kind.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Findings {
    /// The first of them.
    pub named: Vec<Finding>,
    /// How many there are.
    pub total: u64,
    /// Differences among them that were found once and not looked at again.
    #[serde(default)]
    pub unconfirmed: u64,
}

/// Something that was found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Finding {
    /// The file, relative to its watch; empty for the watch itself.
    pub path: String,
    /// What is the matter with it.
    pub what: String,
}
