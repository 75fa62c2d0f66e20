//! A claimed job was not delivered now: whose fault it is decides what follows, and what the journal and the dropper
//! are told.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::blocking;
use super::claimed::{Claimed, short, to_json};
use super::delivered::POST_ACTION_PAUSES;
use super::verdict::{self, Blame, Fault};
use crate::clock::{rfc3339, unix_millis};
use crate::config::OnFailure;
use crate::crash;
use crate::fs::base_name;
use crate::job::{Event, Millis};
use crate::journal::Failure;
use crate::meters::meters;
use crate::show::{self, Shown};
use crate::sidecar::{self, ErrorFile, Kind};

/// When a file that this host cannot read is looked at again first; later ever more rarely, up to `retry.max`.
const BLOCKED_DELAY: Duration = Duration::from_secs(30);
/// An upload that stalled is tried again within twice this.
const STALLED_DELAY: Duration = Duration::from_secs(10);
/// When a job is looked at again that changed under the worker's hands, if settling does not bring it back before.
const CHANGED_DELAY: Duration = Duration::from_secs(60);
/// Jobs that come back at no attempt are spread over this long.
const REFUND_SPREAD: Duration = Duration::from_secs(1);

/// Whether a file pays for a failure of the pipeline on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charge {
    /// It does, and is tried again with backoff.
    Usual,
    /// It does, and is tried again after `retry.max`: it is the probe of a pipeline that fails on every file.
    Probe,
    /// It does not: the pipeline fails on every file.
    Free,
}

/// The pipeline failed on a file, and the journal has it.
#[derive(Debug)]
pub struct Blamed {
    /// It cost an attempt.
    pub charged: bool,
    /// Why.
    pub error: String,
}

impl Claimed {
    /// Records why a job was not delivered now, and what follows.
    pub async fn failed(&self, fault: Fault) -> Result<(), Failure> {
        let now = unix_millis();
        let spread = || verdict::after(now, REFUND_SPREAD.mul_f64(fastrand::f64()));
        match &fault {
            // That one is counted where it is charged.
            Fault::File(_) => {}
            Fault::Vanished => meters().file_ended(&self.folder.watch.name, "vanished"),
            other => self.count_retry(other.kind()),
        }
        let event = match fault {
            Fault::Pipeline(error) | Fault::TaskDied(error) => {
                Event::Retry { due: spread(), error: short(error), charged: false }
            }
            Fault::Stopping => Event::Retry { due: now, error: "the daemon stopped meanwhile".into(), charged: false },
            Fault::Descriptors(error) => {
                tracing::warn!(reason = %error, "no file descriptors left; nothing new is begun for a while");
                Event::Retry { due: spread(), error: short(error), charged: false }
            }
            Fault::Host(error) => {
                self.hold(&error);
                Event::Retry { due: spread(), error: short(error), charged: false }
            }
            Fault::Stalled(error) => {
                tracing::warn!(
                    watch = %self.folder.watch.name, path = %Shown(&self.job.path), reason = %error,
                    "the upload did not get on; tried again, at no attempt"
                );
                let due = verdict::after(now, STALLED_DELAY.mul_f64(1.0 + fastrand::f64()));
                Event::Retry { due, error: short(error), charged: false }
            }
            Fault::Blocked(error) => self.blocked(short(error), now),
            Fault::Changed(reason) => {
                tracing::debug!(path = %Shown(&self.job.path), reason, "settles again");
                self.apply(Event::Changed { due: verdict::after(now, CHANGED_DELAY), reason: short(reason) }).await?;
                // Told after the commit: intake then sees how often it changed.
                self.folder.report_changed(self.job.path.clone());
                return Ok(());
            }
            Fault::Vanished => {
                tracing::info!(
                    watch = %self.folder.watch.name, path = %Shown(&self.job.path), "gone before it was delivered"
                );
                Event::Vanish
            }
            Fault::File(blame) => return self.blame(blame, Charge::Usual).await.map(drop),
        };
        self.apply(event).await.map(drop)
    }

    /// Its turn did not come, and nothing of it was sent: it waits again, where it stood. It looks as if it had been tried, as
    /// does what a lost connection sends back.
    pub(super) async fn put_back(&self, due: Millis) -> Result<(), Failure> {
        // What it failed on before tells more.
        let error = self.job.last_error.clone().unwrap_or_else(|| "its turn to be sent did not come".into());
        self.apply(Event::Retry { due, error, charged: false }).await.map(drop)
    }

    fn count_retry(&self, kind: &str) {
        meters().retried(&self.folder.watch.pipeline, kind);
    }

    /// The longer a file cannot be read, the more rarely it is looked at; it is said once for each reason.
    fn blocked(&self, error: String, now: Millis) -> Event {
        let (watch, path) = (&self.folder.watch.name, Shown(&self.job.path));
        if self.job.last_error.as_ref() == Some(&error) {
            tracing::debug!(%watch, %path, reason = %error, "still cannot be served");
        } else {
            tracing::warn!(%watch, %path, reason = %error, "this host cannot serve the file now; it waits, at no attempt");
        }
        let so_far = Duration::from_millis(now.saturating_sub(self.job.first_attempt_at.unwrap_or(now)));
        let delay = so_far.clamp(BLOCKED_DELAY, self.tools.retry.max.max(BLOCKED_DELAY));
        Event::Block { due: verdict::after(now, delay), error }
    }

    /// Charges an attempt if it is to be charged; after the last one the file becomes a dead letter.
    pub async fn blame(&self, blame: Blame, charge: Charge) -> Result<Blamed, Failure> {
        let now = unix_millis();
        let error = short(blame.error.clone());
        let (watch, path) = (&self.folder.watch.name, &self.job.path);
        if charge == Charge::Free {
            self.count_retry("failing");
            tracing::warn!(%watch, path = %Shown(path), reason = %error, "failed as all files do; tried again, at no attempt");
            let due = verdict::after(now, REFUND_SPREAD.mul_f64(fastrand::f64()));
            self.apply(Event::Retry { due, error: error.clone(), charged: false }).await?;
            return Ok(Blamed { charged: false, error });
        }
        // Attempts may have been given back since it was claimed.
        let before = self.tools.journal.get(self.key)?.map_or(self.job.attempts, |job| job.attempts);
        let attempts = before.saturating_add(1);
        if let Some(due) = verdict::next_attempt(&self.tools.retry, attempts, blame.retryable, fastrand::f64(), now) {
            let due = if charge == Charge::Probe { verdict::after(now, self.tools.retry.max) } else { due };
            let seconds = (due - now) / 1000;
            tracing::warn!(%watch, path = %Shown(path), attempts, seconds, reason = %error, "failed; tried again");
            self.count_retry("file");
            self.apply(Event::Retry { due, error: error.clone(), charged: true }).await?;
            return Ok(Blamed { charged: true, error });
        }
        let sidecar = match self.write_error_file(&blame, attempts).await {
            Ok(name) => name,
            // Nobody would learn of it: the file is tried again, and given up when the error file can be written.
            Err(fault) => {
                Box::pin(self.failed(fault)).await?;
                return Ok(Blamed { charged: false, error });
            }
        };
        crash::point("failed.placed");
        tracing::error!(%watch, path = %Shown(path), attempts, reason = %error, "given up; see its error file");
        meters().file_ended(watch, "failed");
        let given_up = self.apply(Event::Fail { error: error.clone(), sidecar: Some(sidecar), charged: true }).await?;
        crash::point("failed.recorded");
        if let Some(job) = given_up
            && (Self { job, ..self.clone() }).put_aside(&POST_ACTION_PAUSES).await?
        {
            return Ok(Blamed { charged: true, error });
        }
        // Its error file may have been removed before the journal knew of it, and that event have meant nothing.
        self.folder.report_changed(self.job.path.clone());
        Ok(Blamed { charged: true, error })
    }

    /// What the dropper of a dead letter can do.
    fn how_to_retry(&self) -> String {
        let watch = &self.folder.watch;
        let name = base_name(&self.job.path);
        // Nobody tells of what is removed from another folder.
        let (goes, noticed) = if self.root.results_are_apart() {
            ("The file is", ", which is noticed when the folder is next walked")
        } else {
            ("The file and this error file are", "")
        };
        match (&watch.on_failure, &watch.done_marker) {
            (OnFailure::Move(target), _) => format!(
                "{goes} moved to {}. To try again, put the file back to where it was{}.",
                target.display(),
                watch.done_marker.as_ref().map_or("", |_| ", and then its marker")
            ),
            (OnFailure::Keep, Some(marker)) => format!(
                "To try again, save the file and then {} anew, or delete this error file{noticed}.",
                marker.of(name).to_string_lossy()
            ),
            (OnFailure::Keep, None) => {
                format!("To try again, save the file anew, touch it, or delete this error file{noticed}.")
            }
        }
    }

    /// Writes the error file; returns its name.
    async fn write_error_file(&self, blame: &Blame, attempts: u32) -> Result<String, Fault> {
        let file = ErrorFile {
            action: "error",
            filepath: self.filepath(),
            file_size: self.job.generation.size,
            error: short(blame.error.clone()),
            code: blame.code.to_owned(),
            retryable: blame.retryable,
            hint: format!("{}. {}", uppercase_first(blame.hint), self.how_to_retry()),
            first_attempt_at: self.job.first_attempt_at.map(rfc3339),
            last_attempt_at: self.job.last_attempt_at.map(rfc3339),
            about: self.about(attempts),
        };
        // Servers' words stand in it, and people look at it in a terminal.
        let content = show::plain_json(&to_json(&file)).into_owned();
        let claimed = self.clone();
        blocking(move || {
            let write = || -> io::Result<_> {
                let (rel, identity) = (&claimed.job.path, &claimed.tools.identity);
                let (dir, name) = (Arc::new(claimed.root.parent(rel)?), base_name(rel));
                let seen = dir.file(name)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
                claimed.begin(&dir, &seen)?.place(&content, name, Kind::Error, identity)
            };
            claimed.root.verify_results().map_err(|error| Fault::Host(error.to_string()))?;
            match write() {
                Ok(name) => Ok(sidecar::recorded(&claimed.root, &claimed.job.path, &name)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Err(claimed.of_open(&error)),
                Err(error) => Err(verdict::of_folder("cannot write the error file", &error)),
            }
        })
        .await
    }
}

fn uppercase_first(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}
