//! Everything known of one path, as it is said over the socket.

use serde::{Deserialize, Serialize};

use super::{Job, Transfer};
use crate::job::Millis;

/// Everything known of one path.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Explanation {
    /// The path that was meant.
    pub path: String,
    /// How it stands, in one sentence.
    pub verdict: String,
    /// What happens next, and what would change it.
    pub next: String,
    /// When, if that is known.
    pub next_at: Option<Millis>,
    /// The watch it lies in.
    pub watch: Option<Place>,
    /// If it lies in none: the watched folders, nearest first, not all of many.
    pub folders: Vec<String>,
    /// Whether its name is one that is sent; none for what is no file's name.
    pub selection: Option<Choice>,
    /// What stands there now; none if it lies in no watch.
    pub disk: Option<Disk>,
    /// Its `done_marker`, if the watch wants one.
    pub marker: Option<Marker>,
    /// How far it has settled, if it is settling.
    pub settling: Option<Settling>,
    /// Whether somebody has it open for writing now: `none`, `some`, or why that cannot be told.
    pub writers: Option<String>,
    /// What the journal has of it.
    pub job: Option<Record>,
    /// Its result file.
    pub result: Option<Sidecar>,
    /// Its error file.
    pub error_file: Option<Sidecar>,
    /// Where it was moved to, or is to be moved to when it is done.
    pub target: Option<String>,
    /// Its upload, if it is under way.
    pub transfer: Option<Transfer>,
    /// What keeps it from being sent now, the weightiest first.
    pub obstacles: Vec<String>,
}

/// Where a path belongs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Place {
    /// The watch.
    pub name: String,
    /// Its folder.
    pub folder: String,
    /// Relative to it.
    pub path: String,
    /// Where its files go.
    pub pipeline: String,
}

/// Whether a name is one that is sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Choice {
    /// Whether it is.
    pub selected: bool,
    /// The rule that leaves it alone, as `check` counts them: `junk`, `exclude`, `include`, `output` and so on.
    pub rule: Option<String>,
    /// What of it the rule is about; of one that is selected, the pattern of `include` that takes it.
    pub why: Option<String>,
}

/// What stands at a path.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Disk {
    /// `file`, `folder`, `special` (a link, FIFO, socket or device), `absent` or `unknown`.
    pub kind: String,
    /// Why it is unknown; or what it is, of a file with a name of ours.
    pub why: Option<String>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Last written.
    pub modified_at: Option<Millis>,
}

/// The file that says of an input that it is whole.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Marker {
    /// Its name, beside the input.
    pub name: String,
    /// `yes` (it says so), `not yet`, `never` (its name would be too long), or why that cannot be told.
    pub state: String,
}

/// How far a path has settled.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Settling {
    /// How long it must look the same, in milliseconds.
    pub quiet_ms: u64,
    /// For how long it has looked the same; none before the first look.
    pub unchanged_ms: Option<u64>,
    /// When it is looked at next.
    pub next_at: Millis,
}

/// What the journal has of a path.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// As in a list.
    pub job: Job,
    /// When it was first tried.
    pub first_attempt_at: Option<Millis>,
    /// Attempts after which it is given up (`retry.attempts`).
    pub max_attempts: u32,
    /// How often in a row the file changed while it was being sent.
    pub changes: u8,
    /// SHA-256 of what was delivered.
    pub sha256: Option<String>,
    /// Whether the record is about the file as it stands there now; none if no file does.
    pub is_current: Option<bool>,
}

/// A result or error file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sidecar {
    /// Where it stands.
    pub path: String,
    /// Whether it is about the file as it stands there now; none where only the content could tell.
    pub is_current: Option<bool>,
}
