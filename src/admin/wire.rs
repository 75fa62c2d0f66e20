//! What the daemon says over its socket: the JSON of every answer, as structs that both sides share.
//!
//! Paths stand in them as text: what is not UTF-8 is shown as [`crate::show::Shown`] shows it. Times are milliseconds since
//! the epoch here and made readable by whoever prints them. It must not know where the values come from.

pub mod audit;
pub mod explain;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::job::Millis;

/// Any failure. Its sentence is for the operator.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Problem {
    /// What went wrong and what to do.
    pub error: String,
}

/// How the daemon is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Everything is as it should be.
    Healthy,
    /// It works, and something needs a look.
    Degraded,
}

/// Everything in one glance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Of the program.
    pub version: String,
    /// The instance id.
    pub instance: String,
    /// The process.
    pub pid: u32,
    /// When it started.
    pub started_at: Millis,
    /// The configuration file.
    pub config: String,
    /// How it is.
    pub health: Health,
    /// What needs a look, in words; empty when healthy.
    pub reasons: Vec<String>,
    /// The daemon is stopping.
    pub stopping: bool,
    /// Each watch, in the order of the configuration.
    pub watches: Vec<Watch>,
    /// Each pipeline.
    pub pipelines: Vec<Pipeline>,
    /// What is paused and not in the configuration: `watch:NAME` or `pipeline:NAME`, and since when. It is paused again when
    /// it returns.
    #[serde(default)]
    pub paused_elsewhere: BTreeMap<String, Millis>,
    /// What is on its way, oldest first.
    pub transfers: Vec<Transfer>,
    /// The state directory.
    pub state: State,
}

/// One watch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Watch {
    /// Its name.
    pub name: String,
    /// Its folder.
    pub path: String,
    /// Where its files go.
    pub pipeline: String,
    /// Whether the folder can be used.
    pub up: bool,
    /// Why not, or why nothing new is sent although it could.
    pub trouble: Option<String>,
    /// Since when an operator paused it.
    pub paused_since: Option<Millis>,
    /// Why new files are looked for by polling; none: the kernel's events tell.
    pub polls: Option<String>,
    /// Whether the kernel tells of writers: `yes`, or why not; none before the first file.
    pub writer_check: Option<String>,
    /// Paths that are settling: seen, and not yet quiet for long enough.
    pub settling: u64,
    /// Generations in each state, by the names of [`crate::job::STATE_NAMES`].
    pub jobs: BTreeMap<String, u64>,
    /// Due since, of the job that has waited longest to be sent.
    pub oldest_pending: Option<Millis>,
}

/// One pipeline.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pipeline {
    /// Its name.
    pub name: String,
    /// The server.
    pub uri: String,
    /// Whether it takes files.
    pub up: bool,
    /// Why not, or that it fails on everything.
    pub trouble: Option<String>,
    /// How long it has been down, in seconds.
    pub down_seconds: Option<u64>,
    /// Uploads under way.
    pub in_flight: u64,
    /// When it last took a file since the start.
    pub last_success: Option<Millis>,
    /// Since when an operator paused it.
    pub paused_since: Option<Millis>,
}

/// One upload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Transfer {
    /// Its watch.
    pub watch: String,
    /// The file, relative to it.
    pub path: String,
    /// Where it goes.
    pub pipeline: String,
    /// Its size in bytes.
    pub size: u64,
    /// Bytes that were acknowledged.
    pub sent: u64,
    /// How long it has been under way.
    pub seconds: f64,
    /// How far it is: `opening`, `sending`, `processing`, `recording`.
    pub phase: String,
}

/// What the daemon delivered and what waited at one moment.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Sample {
    /// When.
    pub at: Millis,
    /// Files delivered up to then, counted from some beginning.
    pub delivered: u64,
    /// Files that waited or were on their way.
    pub backlog: u64,
}

/// The last hour.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct History {
    /// Oldest first.
    pub samples: Vec<Sample>,
}

/// What the caller may do.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Allowed {
    /// Change things.
    pub write: bool,
    /// If not: whether the token would let it.
    pub token_helps: bool,
}

/// The state directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// Where.
    pub directory: String,
    /// Free bytes of its filesystem; none if that cannot be asked.
    pub free_bytes: Option<u64>,
    /// Below this nothing new is sent.
    pub min_free_bytes: u64,
    /// Bytes of the journal on disk.
    pub journal_bytes: Option<u64>,
    /// Copies of the journal as earlier versions left it; the operator removes them.
    #[serde(default)]
    pub journal_backups: Vec<String>,
}

/// One job of a list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// Names it in later requests.
    pub key: String,
    /// Its watch; the name it had, for one that is no longer configured.
    pub watch: String,
    /// Relative to the folder of the watch.
    pub path: String,
    /// Its state.
    pub state: String,
    /// Size in bytes.
    pub size: u64,
    /// Attempts charged to it.
    pub attempts: u32,
    /// When it was first seen whole.
    pub admitted_at: Millis,
    /// When it was last tried.
    pub last_attempt_at: Option<Millis>,
    /// When it is tried next, if it waits.
    pub due: Option<Millis>,
    /// Why it is where it is.
    pub last_error: Option<String>,
    /// The name of its result or error file beside it, or the whole path of one elsewhere.
    pub sidecar: Option<String>,
    /// What its dropper can do, of a dead letter whose error file could be read; `list` asks with `state=failed` for it.
    #[serde(default)]
    pub hint: Option<String>,
}

/// A page of a list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Page {
    /// May be fewer than were asked for, and none at all: only the cursor tells whether there is more.
    pub jobs: Vec<Job>,
    /// Ask with it for the next page; none at the end.
    pub next: Option<String>,
}

/// A path on its way to the daemon: text where it is text, else its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum WirePath {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Bytes(Vec<u8>),
}

impl WirePath {
    /// The path.
    pub fn to_path(&self) -> PathBuf {
        match self {
            Self::Text(text) => text.into(),
            Self::Bytes(bytes) => OsStr::from_bytes(bytes).into(),
        }
    }
}

impl From<&Path> for WirePath {
    fn from(path: &Path) -> Self {
        path.to_str()
            .map_or_else(|| Self::Bytes(path.as_os_str().as_bytes().to_vec()), |text| Self::Text(text.to_owned()))
    }
}

/// Which jobs an action is about.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Selection {
    /// These files, by absolute path.
    pub paths: Vec<WirePath>,
    /// These jobs, by the key that a list gave.
    pub keys: Vec<String>,
    /// Every job in this state.
    pub state: Option<String>,
    /// Only of this watch.
    pub watch: Option<String>,
    /// Only those last tried since then.
    pub since: Option<Millis>,
    /// Only those whose error contains this, whatever the case.
    pub error: Option<String>,
    /// Also what was delivered.
    pub force: bool,
    /// Only count.
    pub dry_run: bool,
}

/// What an action did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Done {
    /// How many jobs it was about.
    pub matched: u64,
    /// How many it changed; 0 for a dry run.
    pub changed: u64,
    /// Of paths that were named: why nothing could be done about them.
    pub refused: Vec<String>,
}

/// What a reload put in force.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Reloaded {
    /// In words; empty if nothing changed.
    pub changes: Vec<String>,
    /// Keys whose new value only a restart puts in force.
    pub needs_restart: Vec<String>,
}

/// What to pause, resume or scan.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// `watch:NAME`, `pipeline:NAME`, or a name that only one of them has. None: everything.
    pub target: Option<String>,
}

/// What was paused, resumed or scanned.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Targets {
    /// As `watch:NAME` and `pipeline:NAME`.
    pub changed: Vec<String>,
    /// That were so already.
    pub unchanged: Vec<String>,
}
