//! The table `(state, event) -> state`, every pair of it.

use std::path::Path;

use super::{ContentHash, Counters, Generation, Job, JobState, Millis};

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
    /// The metadata changed (chmod, rename over), the content did not; of a dead letter, by our own renames, and in that
    /// moment it may have come to be sent again.
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
    /// The pipeline has it, and its result is durable in the spool: its own place cannot be written now.
    Spool {
        /// Hash of what was sent.
        sha256: ContentHash,
        /// Why the result is not at its place.
        error: String,
    },
    /// The post-action is done, or was given up with a warning; or a spooled result has no place any more.
    Finished {
        /// Why the post-action was given up.
        warning: Option<String>,
        /// The file is no longer at its place: one that appears there again is new, whatever its content.
        gone: bool,
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
    /// Attempts were charged for what turned out not to be the file's fault.
    Refund {
        /// How many.
        attempts: u32,
        /// Earliest time of the next attempt, if it is not under way.
        due: Millis,
    },
    /// The file was no longer the generation that was admitted: back to settling, at no attempt.
    Changed {
        /// When to look at it again if settling does not bring a new generation before.
        due: Millis,
        /// How it changed.
        reason: String,
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
    /// An operator or its dropper wants the path sent again, with all its attempts.
    Requeue {
        /// Now.
        at: Millis,
        /// Also if this very content was delivered: perhaps only since whoever wants it has looked.
        delivered_too: bool,
    },
    /// An operator does not want this generation sent any more.
    Forget,
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
            Self::Spool { .. } => "spool",
            Self::Finished { .. } => "finished",
            Self::Retry { .. } => "retry",
            Self::Refund { .. } => "refund",
            Self::Changed { .. } => "changed",
            Self::Fail { .. } => "fail",
            Self::Block { .. } => "block",
            Self::Vanish => "vanish",
            Self::Gone => "gone",
            Self::Requeue { .. } => "requeue",
            Self::Forget => "forget",
            Self::Recover { .. } => "recover",
        }
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
            if let Some(S::Sending | S::Spooled | S::Delivered | S::Parked) = state {
                return Err(refused);
            }
            let mut job = Job::admitted(path, generation, at);
            job.changes = before.filter(|job| matches!(job.state, S::Pending { .. })).map_or(0, |job| job.changes);
            (job, true)
        }
        // Only of a path that nobody has seen: what is known of others says whether their content is new.
        (Event::Adopt { generation, sha256, sidecar, post_action, at }, None) => {
            let mut job = Job::admitted(path, generation, at);
            job.deliver(sha256, sidecar, post_action, None);
            (job, true)
        }
        (Event::SameContent { generation }, Some(job)) => match job.state {
            S::Done | S::Failed | S::Pending { .. } => (Job { generation, ..job.clone() }, false),
            _ => return Err(refused),
        },
        (Event::Claim { at }, Some(job)) => match job.state {
            S::Pending { .. } | S::Blocked { .. } => (job.claimed(at), false),
            _ => return Err(refused),
        },
        (Event::Delivered { sha256, sidecar, post_action, warning }, Some(job)) => match job.state {
            S::Sending | S::Spooled => {
                let mut job = job.clone();
                // A spooled one was counted when the pipeline had it.
                job.charge(job.state == S::Sending);
                job.deliver(sha256, sidecar, post_action, warning);
                (job, false)
            }
            _ => return Err(refused),
        },
        (Event::Spool { sha256, error }, Some(job)) => match job.state {
            S::Sending => {
                let mut job = job.clone();
                job.charge(true);
                job.changes = 0;
                (Job { state: S::Spooled, sha256: Some(sha256), last_error: Some(error), ..job }, false)
            }
            _ => return Err(refused),
        },
        (Event::Finished { warning, gone }, Some(job)) => match job.state {
            S::Delivered | S::Spooled => {
                (Job { state: S::Done, last_error: warning, absent: gone, ..job.clone() }, false)
            }
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
        (Event::Refund { attempts, due }, Some(job)) => {
            let attempts = job.attempts.saturating_sub(attempts);
            let state = match job.state {
                S::Pending { .. } => S::Pending { due },
                S::Sending => S::Sending,
                _ => return Err(refused),
            };
            (Job { state, attempts, ..job.clone() }, false)
        }
        (Event::Changed { due, reason }, Some(job)) => match job.state {
            S::Sending => {
                let changes = job.changes.saturating_add(1);
                (Job { state: S::Pending { due }, changes, last_error: Some(reason), ..job.clone() }, false)
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
            _ if !job.minds_absence() => return Err(refused),
            S::Pending { .. } | S::Blocked { .. } => (Job { state: S::Vanished, ..job.clone() }, false),
            _ => (Job { absent: true, ..job.clone() }, false),
        },
        (Event::Requeue { at, delivered_too }, Some(job)) => match job.state {
            S::Pending { .. } | S::Failed | S::Blocked { .. } => {
                let job =
                    Job { state: S::Pending { due: at }, attempts: 0, sidecar: None, absent: false, ..job.clone() };
                (job, false)
            }
            // Admitted anew: the result of its earlier delivery is older than that, and so not taken for one of this.
            S::Done if !delivered_too => return Err(refused),
            S::Done | S::Ignored if !job.absent => (Job::admitted(path, job.generation, at), false),
            _ => return Err(refused),
        },
        (Event::Forget, Some(job)) => match job.state {
            S::Pending { .. } | S::Blocked { .. } | S::Failed | S::Vanished | S::Parked => {
                (Job { state: S::Ignored, absent: job.absent || job.state == S::Vanished, ..job.clone() }, false)
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
        (Event::Adopt { .. }, Some(_)) | (_, None) => return Err(refused),
    };
    counters.moved(state, after.state, new_generation);
    Ok(after)
}

/// Forgets a generation that is over and whose file is gone: its record goes, and the ledger of its watch counts it as
/// pruned. What is still to be done, or still there, is refused. A file that appears at the path again is new, unless a
/// result that was left beside it is of its very content: without the record that one is taken over.
pub fn prune(job: &Job, counters: &mut Counters) -> Result<(), Refused> {
    use JobState as S;
    match job.state {
        S::Done | S::Failed | S::Ignored if job.absent => {}
        S::Vanished => {}
        state => return Err(Refused { event: "prune", state: state.name() }),
    }
    counters.states[job.state.index()] -= 1;
    counters.pruned += 1;
    Ok(())
}

impl Job {
    pub(crate) fn admitted(path: &Path, generation: Generation, at: Millis) -> Self {
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
