//! A job: what the daemon knows of one path, and the full table `(state, event) -> state`.
//!
//! Pure: no clock, no filesystem, no tokio. Times come in as milliseconds since the Unix epoch. The
//! journal applies [`transition`] inside its commit, so what is written is always a row of this table.
//!
//! ```text
//!            Admit                Claim              Delivered(post-action)      Finished
//!  (nothing) -----> Pending <---> Sending ---------> Delivered ----------------> Done
//!                   ^   |  Retry,  |  |  Delivered(no post-action)               ^
//!                   |   |  Changed |  +------------------------------------------+
//!        Requeue    |   |          +--> Failed     (until its dropper or an operator retries it)
//!  Failed ----------+   |          +--> Blocked    (this host cannot read it now; claimed again when due)
//!                       +-------------> Vanished   (gone before delivery; never final)
//! ```
//!
//! A new generation replaces what the path held before, unless that is `Sending` or `Delivered`: then it
//! waits. Everything is counted in generations, and the ledger of every watch balances at each commit:
//! `admitted = sum of the states + superseded + pruned`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The SHA-256 of a file's content.
pub type ContentHash = [u8; 32];

/// Milliseconds since the Unix epoch.
pub type Millis = u64;

/// Names a watch in keys: the first 8 bytes of the SHA-256 of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WatchId(pub [u8; 8]);

impl WatchId {
    /// The id of the watch of this name.
    pub fn of(name: &str) -> Self {
        let digest = Sha256::digest(name.as_bytes());
        let mut id = [0; 8];
        id.copy_from_slice(&digest[..8]);
        Self(id)
    }
}

/// Names a file in the journal: the watch and the first 16 bytes of the SHA-256 of the path relative to its root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileKey {
    /// The watch.
    pub watch: WatchId,
    /// The hashed path.
    pub path: [u8; 16],
}

impl FileKey {
    /// Length of [`FileKey::to_bytes`].
    pub const LEN: usize = 24;

    /// The key of a path relative to the root of a watch; the bytes count, not their meaning as text.
    pub fn new(watch: WatchId, path: &Path) -> Self {
        let digest = Sha256::digest(path.as_os_str().as_bytes());
        let mut hash = [0; 16];
        hash.copy_from_slice(&digest[..16]);
        Self { watch, path: hash }
    }

    /// Watch id, then path hash.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.watch.0);
        bytes[8..].copy_from_slice(&self.path);
        bytes
    }

    /// The reverse of [`FileKey::to_bytes`].
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        let (mut watch, mut path) = ([0; 8], [0; 16]);
        watch.copy_from_slice(&bytes[..8]);
        path.copy_from_slice(&bytes[8..]);
        Self { watch: WatchId(watch), path }
    }
}

/// The identity of a file's content at one time, as `stat` tells it.
///
/// `ino` and `ctime_ns` are absent on network and FUSE filesystems, where they are not stable. The device
/// is no part of it: device numbers change over a reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Generation {
    /// Inode number.
    pub ino: Option<u64>,
    /// Length in bytes.
    pub size: u64,
    /// Modification time in nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Change time in nanoseconds since the epoch; also moved by chmod, chown and rename.
    pub ctime_ns: Option<i64>,
}

/// Where a generation stands. The times say when the dispatcher may look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobState {
    /// Waits to be sent, not before `due`.
    Pending {
        /// Earliest time of the next attempt.
        due: Millis,
    },
    /// A worker has it.
    Sending,
    /// The pipeline has it and its result is durable; the post-action is not done yet.
    Delivered,
    /// Nothing is left to do.
    Done,
    /// Dead letter: not tried again by itself.
    Failed,
    /// This host cannot read it now; costs no attempt.
    Blocked {
        /// When to look again.
        due: Millis,
    },
    /// Gone before it could be delivered; comes back with its file.
    Vanished,
    /// An operator said to forget this generation.
    Ignored,
    /// Its watch is not in the configuration; Pending again when the watch returns.
    Parked,
}

impl JobState {
    /// Stable name for logs, files and commands.
    pub fn name(self) -> &'static str {
        STATE_NAMES[self.index()]
    }

    /// Position in [`Counters::states`].
    pub fn index(self) -> usize {
        match self {
            Self::Pending { .. } => 0,
            Self::Sending => 1,
            Self::Delivered => 2,
            Self::Done => 3,
            Self::Failed => 4,
            Self::Blocked { .. } => 5,
            Self::Vanished => 6,
            Self::Ignored => 7,
            Self::Parked => 8,
        }
    }

    /// When the dispatcher should look at it, if it should.
    pub fn due(self) -> Option<Millis> {
        match self {
            Self::Pending { due } | Self::Blocked { due } => Some(due),
            _ => None,
        }
    }
}

/// Names of the states, in the order of [`JobState::index`].
pub const STATE_NAMES: [&str; 9] =
    ["pending", "sending", "delivered", "done", "failed", "blocked", "vanished", "ignored", "parked"];

/// Everything known of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Relative to the root of its watch.
    pub path: PathBuf,
    /// The content this is about.
    pub generation: Generation,
    /// Where it stands.
    pub state: JobState,
    /// Attempts charged to the file so far.
    pub attempts: u32,
    /// How often in a row the file changed while it was being sent; doubles the quiet it must show.
    pub changes: u8,
    /// When this generation was admitted.
    pub admitted_at: Millis,
    /// First attempt of this generation.
    pub first_attempt_at: Option<Millis>,
    /// Latest attempt of this generation.
    pub last_attempt_at: Option<Millis>,
    /// Why it is not delivered yet, or a warning of a post-action.
    pub last_error: Option<String>,
    /// SHA-256 of the delivered content.
    pub sha256: Option<ContentHash>,
    /// Name of the result or error file that was written for it, in the folder of its results.
    pub sidecar: Option<String>,
    /// The file was seen to be absent after it was finished: a file that appears there again is new, whatever its content.
    pub absent: bool,
}

/// Something that happened to a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A generation is whole: it was quiet for long enough and nobody writes to it.
    Admit {
        /// What was seen.
        generation: Generation,
        /// Now.
        at: Millis,
    },
    /// A result of ours for this very content already stands beside the file: it is not sent again.
    Adopt {
        /// What was seen.
        generation: Generation,
        /// Hash that the result names.
        sha256: ContentHash,
        /// Name of the result file.
        sidecar: String,
        /// Whether a post-action is left to do.
        post_action: bool,
        /// Now.
        at: Millis,
    },
    /// The metadata changed (chmod, rename over), the content did not.
    SameContent {
        /// What was seen.
        generation: Generation,
    },
    /// A worker takes it.
    Claim {
        /// Now.
        at: Millis,
    },
    /// The pipeline has it and its result is durable.
    Delivered {
        /// Hash of what was sent.
        sha256: ContentHash,
        /// Name of the result file.
        sidecar: String,
        /// Whether a post-action is left to do.
        post_action: bool,
        /// Something the result file warns of.
        warning: Option<String>,
    },
    /// The post-action is done, or was given up with a warning.
    Finished {
        /// Why the post-action was given up.
        warning: Option<String>,
    },
    /// The attempt failed; another follows.
    Retry {
        /// Earliest time of the next attempt.
        due: Millis,
        /// Why.
        error: String,
        /// Whether the file is to blame: only then an attempt is charged.
        charged: bool,
    },
    /// The file was no longer the generation that was admitted: back to settling, at no attempt.
    Changed {
        /// When to look at it again if settling does not bring a new generation before.
        due: Millis,
    },
    /// The last attempt failed and the error file is durable.
    Fail {
        /// Why.
        error: String,
        /// Name of the error file; none if it could not be placed.
        sidecar: Option<String>,
        /// Whether the file is to blame: only then an attempt is charged.
        charged: bool,
    },
    /// This host cannot read the file now.
    Block {
        /// When to look again.
        due: Millis,
        /// Why.
        error: String,
    },
    /// The file is absent (never merely unknown).
    Vanish,
    /// A dead letter is to be tried again, with all its attempts.
    Requeue {
        /// Now.
        at: Millis,
    },
    /// The daemon starts: what was being sent is sent again unless its result stands there.
    Recover {
        /// Now.
        at: Millis,
        /// Whether the watch is in the configuration.
        watched: bool,
    },
}

impl Event {
    /// Name for logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Admit { .. } => "admit",
            Self::Adopt { .. } => "adopt",
            Self::SameContent { .. } => "same-content",
            Self::Claim { .. } => "claim",
            Self::Delivered { .. } => "delivered",
            Self::Finished { .. } => "finished",
            Self::Retry { .. } => "retry",
            Self::Changed { .. } => "changed",
            Self::Fail { .. } => "fail",
            Self::Block { .. } => "block",
            Self::Vanish => "vanish",
            Self::Requeue { .. } => "requeue",
            Self::Recover { .. } => "recover",
        }
    }
}

/// The ledger of one watch, in generations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Generations ever admitted.
    pub admitted: u64,
    /// Generations in each state, by [`JobState::index`].
    pub states: [u64; 9],
    /// Undelivered generations that a newer one replaced.
    pub superseded: u64,
    /// Delivered generations whose record is gone.
    pub pruned: u64,
}

impl Counters {
    /// Whether every admitted generation is accounted for.
    pub fn balanced(&self) -> bool {
        self.admitted == self.states.iter().sum::<u64>() + self.superseded + self.pruned
    }

    /// Generations in a state, by its name in [`STATE_NAMES`]; 0 for any other name.
    pub fn count(&self, state: &str) -> u64 {
        STATE_NAMES.iter().position(|name| *name == state).map_or(0, |index| self.states[index])
    }

    /// Accounts for a record that was `before` and is now `after`.
    ///
    /// A different admission (`admitted_at` or generation replaced by [`Event::Admit`] or [`Event::Adopt`]) is a new generation.
    fn moved(&mut self, before: Option<JobState>, after: JobState, new_generation: bool) {
        if let Some(before) = before {
            self.states[before.index()] -= 1;
            if new_generation {
                match before {
                    JobState::Done => self.pruned += 1,
                    _ => self.superseded += 1,
                }
            }
        }
        if new_generation {
            self.admitted += 1;
        }
        self.states[after.index()] += 1;
    }
}

/// An event that makes no sense in the state it met. Nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("event {event} does not apply to a job that is {state}")]
pub struct Refused {
    /// The event.
    pub event: &'static str,
    /// The state, or `unknown` for a path without a record.
    pub state: &'static str,
}

/// Applies an event to what is known of a path: the new record, with the ledger of its watch updated.
///
/// Every pair of state and event is decided here; a refused pair leaves `counters` untouched.
pub fn transition(path: &Path, before: Option<&Job>, event: Event, counters: &mut Counters) -> Result<Job, Refused> {
    use JobState as S;
    let state = before.map(|job| job.state);
    let refused = Refused { event: event.name(), state: state.map_or("unknown", S::name) };

    let (after, new_generation) = match (event, before) {
        (Event::Admit { generation, at }, before) => match state {
            // A generation that is on its way or delivered is finished first; the new one keeps settling.
            Some(S::Sending | S::Delivered | S::Parked) => return Err(refused),
            _ => {
                let mut job = Job::admitted(path, generation, at);
                job.changes = before.filter(|job| matches!(job.state, S::Pending { .. })).map_or(0, |job| job.changes);
                (job, true)
            }
        },
        (Event::Adopt { generation, sha256, sidecar, post_action, at }, _) => match state {
            Some(S::Delivered | S::Done | S::Parked | S::Ignored) => return Err(refused),
            // Out of Sending or Pending it is this generation's own result: a crash came between result and record.
            Some(S::Sending | S::Pending { .. })
                if before.is_some_and(|job| job.generation.size == generation.size) =>
            {
                let mut job = before.cloned().ok_or(refused)?;
                job.deliver(sha256, sidecar, post_action, None);
                job.generation = generation;
                (job, false)
            }
            Some(S::Sending) => return Err(refused),
            _ => {
                let mut job = Job::admitted(path, generation, at);
                job.deliver(sha256, sidecar, post_action, None);
                (job, true)
            }
        },
        (Event::SameContent { generation }, Some(job)) => match job.state {
            S::Done => (Job { generation, ..job.clone() }, false),
            _ => return Err(refused),
        },
        (Event::Claim { at }, Some(job)) => match job.state {
            S::Pending { .. } | S::Blocked { .. } => {
                let mut job = job.clone();
                job.state = S::Sending;
                job.first_attempt_at.get_or_insert(at);
                job.last_attempt_at = Some(at);
                (job, false)
            }
            _ => return Err(refused),
        },
        (Event::Delivered { sha256, sidecar, post_action, warning }, Some(job)) => match job.state {
            S::Sending => {
                let mut job = job.clone();
                job.attempts = job.attempts.saturating_add(1);
                job.deliver(sha256, sidecar, post_action, warning);
                (job, false)
            }
            _ => return Err(refused),
        },
        (Event::Finished { warning }, Some(job)) => match job.state {
            S::Delivered => (Job { state: S::Done, last_error: warning, ..job.clone() }, false),
            _ => return Err(refused),
        },
        (Event::Retry { due, error, charged }, Some(job)) => match job.state {
            S::Sending => {
                let mut job = job.clone();
                job.charge(charged);
                job.state = S::Pending { due };
                job.last_error = Some(error);
                (job, false)
            }
            _ => return Err(refused),
        },
        (Event::Changed { due }, Some(job)) => match job.state {
            S::Sending => {
                let changes = job.changes.saturating_add(1);
                (Job { state: S::Pending { due }, changes, ..job.clone() }, false)
            }
            _ => return Err(refused),
        },
        (Event::Fail { error, sidecar, charged }, Some(job)) => match job.state {
            S::Sending => {
                let mut job = job.clone();
                job.charge(charged);
                (Job { state: S::Failed, last_error: Some(error), sidecar, ..job }, false)
            }
            _ => return Err(refused),
        },
        (Event::Block { due, error }, Some(job)) => match job.state {
            S::Sending => (Job { state: S::Blocked { due }, last_error: Some(error), ..job.clone() }, false),
            _ => return Err(refused),
        },
        (Event::Vanish, Some(job)) => match job.state {
            S::Pending { .. } | S::Sending | S::Blocked { .. } => (Job { state: S::Vanished, ..job.clone() }, false),
            S::Done | S::Failed | S::Ignored => (Job { absent: true, ..job.clone() }, false),
            S::Delivered | S::Vanished | S::Parked => return Err(refused),
        },
        (Event::Requeue { at }, Some(job)) => match job.state {
            S::Failed | S::Blocked { .. } => {
                let job =
                    Job { state: S::Pending { due: at }, attempts: 0, sidecar: None, absent: false, ..job.clone() };
                (job, false)
            }
            _ => return Err(refused),
        },
        (Event::Recover { at, watched }, Some(job)) => match (job.state, watched) {
            (S::Sending, true) | (S::Parked, true) => (Job { state: S::Pending { due: at }, ..job.clone() }, false),
            (S::Pending { .. } | S::Blocked { .. } | S::Sending, false) => {
                (Job { state: S::Parked, ..job.clone() }, false)
            }
            _ => return Err(refused),
        },
        (_, None) => return Err(refused),
    };
    counters.moved(state, after.state, new_generation);
    Ok(after)
}

impl Job {
    fn admitted(path: &Path, generation: Generation, at: Millis) -> Self {
        Self {
            path: path.to_owned(),
            generation,
            state: JobState::Pending { due: at },
            attempts: 0,
            changes: 0,
            admitted_at: at,
            first_attempt_at: None,
            last_attempt_at: None,
            last_error: None,
            sha256: None,
            sidecar: None,
            absent: false,
        }
    }

    fn charge(&mut self, charged: bool) {
        self.attempts = self.attempts.saturating_add(u32::from(charged));
    }

    fn deliver(&mut self, sha256: ContentHash, sidecar: String, post_action: bool, warning: Option<String>) {
        self.state = if post_action { JobState::Delivered } else { JobState::Done };
        self.sha256 = Some(sha256);
        self.sidecar = Some(sidecar);
        self.last_error = warning;
        self.changes = 0;
    }
}
