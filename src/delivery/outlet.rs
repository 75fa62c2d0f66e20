//! What the dispatcher knows of one pipeline: its slots and limits, whether it fails on everything, who goes alone.
//!
//! It chooses nothing; it must not know of watches.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::failing::{Failed, IN_A_ROW, Refund, Streak};
use super::limits::{ByteLimit, FileLimit};
use super::pipeline::{Line, Session};
use super::slots::{Slots, UploadId};
use super::suspects::Suspects;
use super::worker::Outcome;
use crate::config::PipelineLimits;
use crate::job::FileKey;
use crate::show::Shown;

/// One pipeline.
pub(super) struct Outlet {
    /// Its line to the server.
    pub(super) line: Arc<Line>,
    /// How many at a time.
    pub(super) slots: Slots,
    /// Its own limits, as configured.
    limits: PipelineLimits,
    /// Its own limit of bytes.
    own_bytes: Option<Arc<ByteLimit>>,
    /// Its limit of files, and whether the next file is paid for already.
    pub(super) files: Option<FileLimit>,
    pub(super) files_paid: bool,
    /// Since when a limit of files has made ready work wait.
    pub(super) throttled: Option<Instant>,
    /// An operator paused it.
    pub(super) paused: bool,
    /// The byte limits that apply.
    pub(super) bytes: Vec<Arc<ByteLimit>>,
    /// The session that `slots` knows.
    pub(super) session: Option<Arc<Session>>,
    /// Whether it fails on every file.
    pub(super) streak: Streak,
    /// Which files may kill its task.
    pub(super) suspects: Suspects,
    /// Nothing but this goes, and only when nothing else is in flight: the probe of a pipeline that fails, or a suspect.
    pub(super) only: Option<Only>,
}

/// A job that goes alone.
#[derive(Clone, Copy)]
pub(super) struct Only {
    /// Index of its watch.
    pub(super) lane: usize,
    /// The job.
    pub(super) key: FileKey,
    /// Its upload, once it was picked.
    pub(super) upload: Option<UploadId>,
}

impl Outlet {
    /// An outlet that knows nothing yet, under its own limits and the daemon's of bytes.
    pub(super) fn new(line: Arc<Line>, limits: &PipelineLimits, daemon_bytes: Option<&Arc<ByteLimit>>) -> Self {
        let sharers = limits.max_concurrent_uploads;
        let own_bytes = limits.bytes_per_second.and_then(|rate| ByteLimit::new(rate, sharers)).map(Arc::new);
        Self {
            slots: Slots::new(limits.max_concurrent_uploads),
            files: limits.files_per_second.and_then(FileLimit::new),
            files_paid: false,
            throttled: None,
            paused: false,
            bytes: own_bytes.iter().chain(daemon_bytes).cloned().collect(),
            own_bytes,
            limits: limits.clone(),
            session: None,
            streak: Streak::default(),
            suspects: Suspects::default(),
            only: None,
            line,
        }
    }

    /// Notices a session that `slots` does not know yet. Returns the live one, if there is one.
    pub(super) fn notice_session(&mut self) -> Option<Arc<Session>> {
        let session = self.line.session()?;
        let known = self.session.as_ref();
        if known.is_none_or(|known| known.number != session.number) {
            let same_task = known.is_some_and(|known| known.task_started == session.task_started);
            self.slots.new_session(same_task);
            self.session = Some(session.clone());
        }
        Some(session)
    }

    /// Puts other limits in force. A limiter whose limit stays is kept, a new one begins without a burst.
    pub(super) fn limit(&mut self, limits: &PipelineLimits, daemon_bytes: Option<&Arc<ByteLimit>>) {
        let sharers = limits.max_concurrent_uploads;
        self.slots.set_limit(sharers);
        if self.limits.files_per_second != limits.files_per_second {
            self.files = limits.files_per_second.and_then(FileLimit::spent);
            self.files_paid = false;
        }
        if (self.limits.bytes_per_second, self.limits.max_concurrent_uploads) != (limits.bytes_per_second, sharers) {
            self.own_bytes = limits.bytes_per_second.and_then(|rate| ByteLimit::spent(rate, sharers)).map(Arc::new);
        }
        self.bytes = self.own_bytes.iter().chain(daemon_bytes).cloned().collect();
        self.limits = limits.clone();
    }

    /// An upload of this file is over, in this way.
    pub(super) fn note(&mut self, key: FileKey, path: &Path, outcome: Outcome, clock: Duration) {
        let pipeline = &self.line.config.name;
        match outcome {
            Outcome::Delivered => {
                self.suspects.clear(key);
                if let Some(lasted) = self.streak.succeeded(clock) {
                    self.line.set_failing(false);
                    tracing::info!(
                        %pipeline, seconds = lasted.as_secs(), path = %Shown(path),
                        "pipeline is no longer failing: it took a file; all of its files go again"
                    );
                }
            }
            Outcome::TaskDied => {
                self.suspects.suspect(key);
                if self.suspects.goes_alone(key) {
                    tracing::warn!(
                        %pipeline, path = %Shown(path),
                        "the task died more than once while this file was on its way; it is sent alone from now on"
                    );
                }
            }
            Outcome::OutOfDescriptors | Outcome::Other => {}
        }
    }

    /// The journal has it that the pipeline failed on a file. Returns who gets attempts back.
    pub(super) fn failed(&mut self, failed: Failed, error: &str, pause: Duration, clock: Duration) -> Vec<Refund> {
        let consequence = self.streak.failed(failed, pause, clock);
        if consequence.began {
            self.line.set_failing(true);
            tracing::error!(
                pipeline = %self.line.config.name, files = IN_A_ROW, every_seconds = pause.as_secs(), last_error = error,
                "pipeline is failing: different files failed in a row; only one is tried from now on, the others wait at \
                 no attempt"
            );
        }
        consequence.refunds
    }
}
