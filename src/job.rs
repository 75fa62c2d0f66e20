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
            // Before everything else: only the post-action is left.
            Self::Delivered => Some(0),
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
    /// A worker found the file absent (never merely unknown).
    Vanish,
    /// Intake found the file absent (never merely unknown): what was not begun vanishes, and what was finished
    /// is noted, so that a file which appears there again is new.
    Gone,
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
            Self::Gone => "gone",
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
#[expect(clippy::too_many_lines, reason = "the table is read as a whole")]
pub fn transition(path: &Path, before: Option<&Job>, event: Event, counters: &mut Counters) -> Result<Job, Refused> {
    use JobState as S;
    let state = before.map(|job| job.state);
    let refused = Refused { event: event.name(), state: state.map_or("unknown", S::name) };

    let (after, new_generation) = match (event, before) {
        (Event::Admit { generation, at }, before) => {
            // A generation that is on its way or delivered is finished first; the new one keeps settling.
            if let Some(S::Sending | S::Delivered | S::Parked) = state {
                return Err(refused);
            }
            let mut job = Job::admitted(path, generation, at);
            job.changes = before.filter(|job| matches!(job.state, S::Pending { .. })).map_or(0, |job| job.changes);
            (job, true)
        }
        (Event::Adopt { generation, sha256, sidecar, post_action, at }, _) => match state {
            // Out of Sending or Pending it is this generation's own result: a crash came between result and record.
            Some(S::Sending | S::Pending { .. })
                if before.is_some_and(|job| job.generation.size == generation.size) =>
            {
                let mut job = before.cloned().ok_or(refused)?;
                job.deliver(sha256, sidecar, post_action, None);
                job.generation = generation;
                (job, false)
            }
            Some(S::Sending | S::Delivered | S::Done | S::Parked | S::Ignored) => return Err(refused),
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
            S::Sending => (Job { state: S::Vanished, ..job.clone() }, false),
            _ => return Err(refused),
        },
        (Event::Gone, Some(job)) => match job.state {
            S::Pending { .. } | S::Blocked { .. } => (Job { state: S::Vanished, ..job.clone() }, false),
            S::Done | S::Failed | S::Ignored => (Job { absent: true, ..job.clone() }, false),
            // A worker or a post-action has the others and sees for itself.
            S::Sending | S::Delivered | S::Vanished | S::Parked => return Err(refused),
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
            (S::Sending | S::Parked, true) => (Job { state: S::Pending { due: at }, ..job.clone() }, false),
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Millis = 1_000;
    const LATER: Millis = 2_000;

    fn generation(size: u64) -> Generation {
        Generation { ino: Some(7), size, mtime_ns: 1, ctime_ns: Some(1) }
    }

    fn events() -> Vec<(&'static str, Event)> {
        let (sha256, sidecar, error) = ([1; 32], "a.result.json".to_owned(), "no".to_owned());
        let adopt = |size, post_action| Event::Adopt {
            generation: generation(size),
            sha256,
            sidecar: sidecar.clone(),
            post_action,
            at: NOW,
        };
        let delivered = |post_action| Event::Delivered { sha256, sidecar: sidecar.clone(), post_action, warning: None };
        vec![
            ("admit", Event::Admit { generation: generation(6), at: NOW }),
            ("adopt-same-size", adopt(5, false)),
            ("adopt-other-size", adopt(6, false)),
            ("adopt+post-action", adopt(5, true)),
            ("same-content", Event::SameContent { generation: generation(5) }),
            ("claim", Event::Claim { at: NOW }),
            ("delivered", delivered(false)),
            ("delivered+post-action", delivered(true)),
            ("finished", Event::Finished { warning: None }),
            ("retry", Event::Retry { due: LATER, error: error.clone(), charged: true }),
            ("changed", Event::Changed { due: LATER }),
            ("fail", Event::Fail { error: error.clone(), sidecar: None, charged: true }),
            ("block", Event::Block { due: LATER, error }),
            ("vanish", Event::Vanish),
            ("gone", Event::Gone),
            ("requeue", Event::Requeue { at: NOW }),
            ("recover-watched", Event::Recover { at: NOW, watched: true }),
            ("recover-unwatched", Event::Recover { at: NOW, watched: false }),
        ]
    }

    fn states() -> [JobState; 9] {
        use JobState as S;
        let (pending, blocked) = (S::Pending { due: NOW }, S::Blocked { due: NOW });
        [pending, S::Sending, S::Delivered, S::Done, S::Failed, blocked, S::Vanished, S::Ignored, S::Parked]
    }

    fn job(state: JobState) -> Job {
        Job { state, ..Job::admitted(Path::new("a"), generation(5), 1) }
    }

    /// A ledger that holds nothing but a job in this state.
    fn ledger(state: Option<JobState>) -> Counters {
        let mut counters = Counters::default();
        if let Some(state) = state {
            counters.admitted = 1;
            counters.states[state.index()] = 1;
        }
        counters
    }

    /// What becomes of every pair; `.` is refused, `*` begins a new generation.
    const TABLE: &str = "
        event                 unknown    pending    sending   delivered done     failed     blocked    vanished   ignored  parked
        admit                 *pending   *pending   .         .         *pending *pending   *pending   *pending   *pending .
        adopt-same-size       *done      done       done      .         .        *done      *done      *done      .        .
        adopt-other-size      *done      *done      .         .         .        *done      *done      *done      .        .
        adopt+post-action     *delivered delivered  delivered .         .        *delivered *delivered *delivered .        .
        same-content          .          .          .         .         done     .          .          .          .        .
        claim                 .          sending    .         .         .        .          sending    .          .        .
        delivered             .          .          done      .         .        .          .          .          .        .
        delivered+post-action .          .          delivered .         .        .          .          .          .        .
        finished              .          .          .         done      .        .          .          .          .        .
        retry                 .          .          pending   .         .        .          .          .          .        .
        changed               .          .          pending   .         .        .          .          .          .        .
        fail                  .          .          failed    .         .        .          .          .          .        .
        block                 .          .          blocked   .         .        .          .          .          .        .
        vanish                .          .          vanished  .         .        .          .          .          .        .
        gone                  .          vanished   .         .         done     failed     vanished   .          ignored  .
        requeue               .          .          .         .         .        pending    pending    .          .        .
        recover-watched       .          .          pending   .         .        .          .          .          .        pending
        recover-unwatched     .          parked     parked    .         .        .          parked     .          .        .
    ";

    #[test]
    fn every_pair_of_state_and_event_is_decided_as_the_table_says() {
        let mut lines = TABLE.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).filter(|l| !l.is_empty());
        let header = lines.next().unwrap();
        assert_eq!(header[2..], STATE_NAMES);
        let rows: Vec<_> = lines.collect();
        let events = events();
        assert_eq!(rows.iter().map(|row| row[0]).collect::<Vec<_>>(), events.iter().map(|e| e.0).collect::<Vec<_>>());

        for (row, (name, event)) in rows.iter().zip(events) {
            let befores = std::iter::once(None).chain(states().map(Some));
            for (expected, before) in row[1..].iter().zip(befores) {
                let what = format!("{name} on {}", before.map_or("unknown", JobState::name));
                let (job, mut counters) = (before.map(job), ledger(before));
                match transition(Path::new("a"), job.as_ref(), event.clone(), &mut counters) {
                    Ok(after) => {
                        let new = counters.admitted > u64::from(before.is_some());
                        assert_eq!(
                            *expected,
                            format!("{}{}", if new { "*" } else { "" }, after.state.name()),
                            "{what}"
                        );
                        assert_eq!(counters.count(after.state.name()), 1, "{what}");
                        assert_eq!(counters.states.iter().sum::<u64>(), 1, "{what}");
                        assert!(counters.balanced(), "{what}");
                    }
                    Err(refused) => {
                        assert_eq!(*expected, ".", "{what}");
                        assert_eq!(refused.event, event.name());
                        assert_eq!(refused.state, before.map_or("unknown", JobState::name));
                        assert_eq!(counters, ledger(before), "{what} must not count");
                    }
                }
            }
        }
    }

    fn after(before: &Job, event: Event) -> Job {
        transition(&before.path, Some(before), event, &mut ledger(Some(before.state))).unwrap()
    }

    #[test]
    fn a_new_generation_over_a_delivered_one_prunes_and_over_another_supersedes() {
        for (state, counted) in [(JobState::Done, (0, 1)), (JobState::Failed, (1, 0)), (JobState::Vanished, (1, 0))] {
            let mut counters = ledger(Some(state));
            let admit = Event::Admit { generation: generation(6), at: NOW };
            transition(Path::new("a"), Some(&job(state)), admit, &mut counters).unwrap();
            assert_eq!((counters.superseded, counters.pruned), counted, "{state:?}");
        }
    }

    #[test]
    fn only_charged_failures_and_deliveries_are_attempts() {
        let sending = job(JobState::Sending);
        for charged in [false, true] {
            let expected = u32::from(charged);
            let retry = Event::Retry { due: LATER, error: "no".to_owned(), charged };
            assert_eq!(after(&sending, retry).attempts, expected);
            let fail = Event::Fail { error: "no".to_owned(), sidecar: None, charged };
            assert_eq!(after(&sending, fail).attempts, expected);
        }
        for event in [Event::Changed { due: LATER }, Event::Block { due: LATER, error: "no".to_owned() }] {
            assert_eq!(after(&sending, event).attempts, 0);
        }
        let delivered = events().into_iter().find(|(name, _)| *name == "delivered").unwrap().1;
        assert_eq!(after(&sending, delivered).attempts, 1);
    }

    #[test]
    fn a_claim_keeps_the_first_attempt_and_moves_the_latest() {
        let first = after(&job(JobState::Pending { due: 1 }), Event::Claim { at: NOW });
        let pending = after(&first, Event::Changed { due: LATER });
        let second = after(&pending, Event::Claim { at: LATER });
        assert_eq!((second.first_attempt_at, second.last_attempt_at), (Some(NOW), Some(LATER)));
    }

    #[test]
    fn changes_add_up_over_new_generations_until_one_is_delivered() {
        let changed = after(&job(JobState::Sending), Event::Changed { due: LATER });
        let admitted = after(&changed, Event::Admit { generation: generation(9), at: NOW });
        assert_eq!(admitted.changes, 1);
        let sending = after(&admitted, Event::Claim { at: NOW });
        let twice = after(&sending, Event::Changed { due: LATER });
        assert_eq!(twice.changes, 2);
        let sending = after(&twice, Event::Claim { at: NOW });
        let delivered = events().into_iter().find(|(name, _)| *name == "delivered").unwrap().1;
        assert_eq!(after(&sending, delivered).changes, 0);
    }

    #[test]
    fn a_finished_file_that_is_gone_is_marked_and_a_new_one_is_not() {
        let gone = after(&job(JobState::Done), Event::Gone);
        assert!(gone.absent);
        assert!(!after(&gone, Event::Admit { generation: generation(5), at: NOW }).absent);
    }

    #[test]
    fn a_dead_letter_that_is_retried_has_all_its_attempts() {
        let failed = Job { attempts: 6, sidecar: Some("a.error.json".to_owned()), ..job(JobState::Failed) };
        let again = after(&failed, Event::Requeue { at: NOW });
        assert_eq!((again.attempts, again.sidecar, again.state), (0, None, JobState::Pending { due: NOW }));
    }

    #[test]
    fn keys_hash_the_bytes_of_the_path_and_belong_to_a_watch() {
        let (a, b) = (WatchId::of("a"), WatchId::of("b"));
        let path = Path::new(std::ffi::OsStr::from_bytes(b"x\xff"));
        assert_ne!(FileKey::new(a, path), FileKey::new(b, path));
        assert_ne!(FileKey::new(a, path), FileKey::new(a, Path::new("x")));
        assert_eq!(FileKey::from_bytes(FileKey::new(a, path).to_bytes()), FileKey::new(a, path));
    }

    proptest! {
        #[test]
        fn the_ledger_balances_over_any_history(history in proptest::collection::vec((0..3_usize, 0..17_usize), 0..200)) {
            let mut jobs: [Option<Job>; 3] = [None, None, None];
            let mut counters = Counters::default();
            let events = events();
            for (file, event) in history {
                if let Ok(after) = transition(Path::new("a"), jobs[file].as_ref(), events[event].1.clone(), &mut counters) {
                    jobs[file] = Some(after);
                }
                prop_assert!(counters.balanced());
                for state in states() {
                    let here = jobs.iter().flatten().filter(|job| job.state.index() == state.index()).count();
                    prop_assert_eq!(counters.states[state.index()], here as u64);
                }
            }
        }
    }
}
