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
//!                   |   |          +--> Spooled    (its result waits for a writable folder; then as Sending)
//!        Requeue    |   |          +--> Failed     (until its dropper or an operator retries it)
//!  Failed ----------+   |          +--> Blocked    (this host cannot read it now; claimed again when due)
//!                       +-------------> Vanished   (gone before delivery; never final)
//! ```
//!
//! A new generation replaces what the path held before, unless that is `Sending`, `Spooled` or `Delivered`: then it
//! waits. Everything is counted in generations, and the ledger of every watch balances at each commit:
//! `admitted = sum of the states + superseded + pruned`.

mod key;
mod transition;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use key::{FileKey, WatchId};
pub use transition::{Event, Refused, prune, transition};

/// The SHA-256 of a file's content.
pub type ContentHash = [u8; 32];

/// Milliseconds since the Unix epoch.
pub type Millis = u64;

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
    /// The pipeline has it and its result is durable in the spool, for its own place cannot be written now. Never sent again.
    Spooled,
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
            Self::Spooled => 9,
        }
    }

    /// When the dispatcher should look at it, if it should.
    pub fn due(self) -> Option<Millis> {
        match self {
            Self::Pending { due } | Self::Blocked { due } => Some(due),
            // Before everything else: only the result's place, or the post-action, is left.
            Self::Delivered | Self::Spooled => Some(0),
            _ => None,
        }
    }
}

/// Names of the states, in the order of [`JobState::index`].
pub const STATE_NAMES: [&str; 10] =
    ["pending", "sending", "delivered", "done", "failed", "blocked", "vanished", "ignored", "parked", "spooled"];

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
    /// The result or error file that was written for it: its name beside the input, or the whole path of one elsewhere.
    pub sidecar: Option<String>,
    /// The file was seen to be absent after it was finished: a file that appears there again is new, whatever its content.
    pub absent: bool,
}

impl Job {
    /// Whether a result may stem from an earlier attempt of this very job, and not from before it was admitted once more.
    ///
    /// The result's own time tells: not even a job that was begun before may take over one that is older than itself, for
    /// an operator may have asked for the file to be sent again. A clock that was set back meanwhile makes the older one look
    /// younger: so there must be an attempt, too, that the journal knows of, before the one that asks (the first claim sets
    /// both times).
    pub fn may_have_made(&self, completed_at: Option<Millis>) -> bool {
        self.first_attempt_at != self.last_attempt_at && completed_at.is_none_or(|at| at >= self.admitted_at)
    }

    /// The job as it is once a worker has it.
    #[must_use]
    pub fn claimed(&self, at: Millis) -> Self {
        let first_attempt_at = Some(self.first_attempt_at.unwrap_or(at));
        Self { state: JobState::Sending, first_attempt_at, last_attempt_at: Some(at), ..self.clone() }
    }

    /// Whether its file was admitted and no worker has it.
    pub fn is_waiting(&self) -> bool {
        matches!(self.state, JobState::Pending { .. } | JobState::Blocked { .. })
    }

    /// Whether it matters to this record that its file is found absent: what was not begun vanishes, what was finished
    /// is noted. A worker or a post-action has the others and sees for itself.
    pub fn minds_absence(&self) -> bool {
        match self.state {
            JobState::Pending { .. } | JobState::Blocked { .. } => true,
            JobState::Done | JobState::Failed | JobState::Ignored => !self.absent,
            JobState::Sending | JobState::Spooled | JobState::Delivered | JobState::Vanished | JobState::Parked => {
                false
            }
        }
    }
}

/// The ledger of one watch, in generations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Generations ever admitted.
    pub admitted: u64,
    /// Generations in each state, by [`JobState::index`].
    pub states: [u64; STATE_NAMES.len()],
    /// Undelivered generations that a newer one replaced.
    pub superseded: u64,
    /// Generations whose record is gone: delivered ones that a newer one replaced, and those that [`prune`] forgot.
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

#[cfg(test)]
mod tests;
