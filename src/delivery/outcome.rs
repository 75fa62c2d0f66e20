//! What became of a claimed job: its result or error file made durable, then the journal told, then the post-action.
//!
//! The order is the promise: a result is durable before the journal says so, and the journal says so before the
//! input is touched. A crash in between is found at the next start: the result is adopted, the post-action finished.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{Semaphore, watch};
use uuid::Uuid;

use super::after::{self, Delivered};
use super::blocking;
use super::result::{Temp, remove_error_file};
use super::verdict::{self, Blame, Fault};
use crate::client::upload::Uploaded;
use crate::clock::{rfc3339, unix_millis};
use crate::config::{OnSuccess, Retry};
use crate::folder::Folder;
use crate::fs::{Dir, Look, Root, Seen, base_name};
use crate::identity::Identity;
use crate::job::{ContentHash, Event, FileKey, Job, JobState};
use crate::journal::{ApplyError, Failure, Journal};
use crate::show::Shown;
use crate::sidecar::{self, About, ErrorFile, Kind, ResultFile, SCHEMA_VERSION};

/// When a file that this host cannot read is looked at again first; later ever more rarely, up to `retry.max`.
const BLOCKED_DELAY: Duration = Duration::from_secs(30);
/// An upload that stalled is tried again within twice this.
const STALLED_DELAY: Duration = Duration::from_secs(10);
/// When a job is looked at again that changed under the worker's hands, if settling does not bring it back before.
const CHANGED_DELAY: Duration = Duration::from_secs(60);
/// Jobs that come back at no attempt are spread over this long.
const REFUND_SPREAD: Duration = Duration::from_secs(1);
/// How long a result that could not be placed waits for the next try.
const PLACE_PAUSE: Duration = Duration::from_secs(5);
/// Pauses before a post-action is tried again; after the last it is given up with a warning.
const POST_ACTION_PAUSES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(15), Duration::from_secs(30)];
/// Longest error that goes into the journal and the error file, in characters: servers' words can be pages.
const MAX_ERROR: usize = 2000;

/// What all claimed jobs share.
pub struct Tools {
    /// The daemon's memory.
    pub journal: Journal,
    /// Who writes the results.
    pub identity: Arc<Identity>,
    /// When a file is tried again.
    pub retry: Retry,
    /// Bounds all buffers in flight.
    pub buffers: Arc<Semaphore>,
    /// True once the daemon stops.
    pub stopping: watch::Receiver<bool>,
}

/// A job that is being worked on.
#[derive(Clone)]
pub struct Claimed {
    /// What all share.
    pub tools: Arc<Tools>,
    /// The watch.
    pub folder: Arc<Folder>,
    /// Its root.
    pub root: Arc<Root>,
    /// The job's key.
    pub key: FileKey,
    /// The job as claimed.
    pub job: Job,
}

/// A file that the pipeline has, whose result is not on disk yet.
pub struct Sent {
    /// What the pipeline answered.
    pub uploaded: Uploaded,
    /// Hash of what was sent.
    pub sha256: ContentHash,
    /// The folder of the input.
    pub dir: Arc<Dir>,
    /// The begun result file.
    pub temp: Temp,
    /// The input as it was sent.
    pub seen: Seen,
}

impl Claimed {
    /// The object id of this file.
    pub fn object_id(&self) -> Uuid {
        self.tools.identity.object_id(&self.folder.watch.name, &self.job.path)
    }

    /// Writes the result, then records the delivery.
    pub async fn record(&self, sent: Sent) -> Result<(), Failure> {
        let Sent { uploaded, sha256, dir, temp, seen } = sent;
        let warning = uploaded.invalid_utf8.then(|| {
            "the content was sent as text but is not valid UTF-8; the pipeline may have lost parts of it".to_owned()
        });
        let (bytes_sent, upload_time) = (uploaded.bytes_sent, uploaded.seconds);
        let file = ResultFile {
            action: "complete",
            filepath: self.filepath(),
            bytes_sent,
            file_size: seen.generation.size,
            upload_time,
            result: &Value::Object(uploaded.result.into_raw()),
            sha256: hex::encode(sha256),
            about: self.about(self.job.attempts.saturating_add(1)),
            completed_at: rfc3339(unix_millis()),
            warnings: warning.iter().cloned().collect(),
        };
        let content = Arc::new(to_json(&file));
        drop(file);
        let name = match self.place(&content, &dir, temp, &seen).await {
            Ok(name) => name,
            Err(fault) => return self.failed(fault).await,
        };
        drop(content);
        let (identity, input) = (self.tools.identity.clone(), base_name(&self.job.path).to_owned());
        let removed = blocking(move || remove_error_file(&dir, &input, &identity)).await;
        if let Err(error) = removed {
            tracing::warn!(path = %Shown(&self.job.path), %error, "cannot remove the error file of an earlier failure");
        }
        if self.folder.release() {
            tracing::info!(watch = %self.folder.watch.name, "the watch goes on");
        }
        tracing::info!(
            watch = %self.folder.watch.name, path = %Shown(&self.job.path), pipeline = %self.folder.watch.pipeline,
            bytes = bytes_sent, seconds = upload_time, attempts = self.job.attempts + 1, result = %Shown(name.as_ref()),
            warning, "delivered"
        );
        self.delivered(sha256, name.to_string_lossy().into_owned(), warning).await
    }

    /// Records that the result of an interrupted attempt stands there already.
    pub async fn adopted(&self, sha256: ContentHash, sidecar: String) -> Result<(), Failure> {
        tracing::info!(
            watch = %self.folder.watch.name, path = %Shown(&self.job.path),
            "the result of an interrupted attempt stands there; not sent again"
        );
        self.delivered(sha256, sidecar, None).await
    }

    async fn delivered(&self, sha256: ContentHash, sidecar: String, warning: Option<String>) -> Result<(), Failure> {
        let post_action = self.folder.watch.on_success != OnSuccess::Keep;
        match self.apply(Event::Delivered { sha256, sidecar, post_action, warning }).await? {
            Some(job) if job.state == JobState::Delivered => Self { job, ..self.clone() }.finish().await,
            _ => Ok(()),
        }
    }

    /// Does the post-action of a delivered job. Also where a restart goes on.
    pub async fn finish(&self) -> Result<(), Failure> {
        let mut stopping = self.tools.stopping.clone();
        let mut pauses = POST_ACTION_PAUSES.iter();
        let outcome = loop {
            let claimed = self.clone();
            match blocking(move || claimed.post_action()).await {
                Ok(outcome) => break outcome,
                Err(error) => {
                    let Some(pause) = pauses.next() else { break after::Outcome::Kept(error.to_string()) };
                    tracing::debug!(path = %Shown(&self.job.path), %error, "the post-action is tried again");
                    tokio::select! {
                        () = tokio::time::sleep(*pause) => {}
                        // It stays Delivered; the next start goes on here.
                        _ = stopping.wait_for(|stopping| *stopping) => return Ok(()),
                    }
                }
            }
        };
        let warning = match &outcome {
            after::Outcome::Kept(why) if !why.is_empty() => {
                tracing::warn!(
                    watch = %self.folder.watch.name, path = %Shown(&self.job.path), why,
                    "delivered, but the file was left where it is"
                );
                Some(format!("left in place: {why}"))
            }
            after::Outcome::Kept(_) | after::Outcome::Gone => None,
        };
        self.apply(Event::Finished { warning, gone: outcome == after::Outcome::Gone }).await.map(drop)
    }

    /// The post-action cannot be done, by a defect of ours: the job is done without it.
    pub async fn give_up_post_action(&self, why: String) -> Result<(), Failure> {
        self.apply(Event::Finished { warning: Some(why), gone: false }).await.map(drop)
    }

    fn post_action(&self) -> io::Result<after::Outcome> {
        let dir = self.root.parent(&self.job.path)?;
        let place = sidecar::find(&dir, base_name(&self.job.path), Kind::Result, &self.tools.identity)?;
        let delivered = Delivered {
            generation: self.job.generation,
            sha256: self.job.sha256.unwrap_or_default(),
            object_id: self.object_id(),
            result: place.name().to_owned(),
        };
        after::finish(&self.folder, &self.root, &self.job.path, &delivered)
    }

    /// Records why a job was not delivered now, and what follows.
    pub async fn failed(&self, fault: Fault) -> Result<(), Failure> {
        let now = unix_millis();
        let spread = || verdict::after(now, REFUND_SPREAD.mul_f64(fastrand::f64()));
        let event = match fault {
            Fault::Pipeline(error) => Event::Retry { due: spread(), error: short(error), charged: false },
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
            Fault::File(blame) => return self.blame(blame).await,
        };
        self.apply(event).await.map(drop)
    }

    /// The longer a file cannot be read, the more rarely it is looked at; it is said once for each reason.
    fn blocked(&self, error: String, now: u64) -> Event {
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

    /// Charges an attempt; after the last one the file becomes a dead letter.
    async fn blame(&self, blame: Blame) -> Result<(), Failure> {
        let now = unix_millis();
        let attempts = self.job.attempts.saturating_add(1);
        let error = short(blame.error.clone());
        let (watch, path) = (&self.folder.watch.name, &self.job.path);
        if let Some(due) = verdict::next_attempt(&self.tools.retry, attempts, blame.retryable, fastrand::f64(), now) {
            let seconds = (due - now) / 1000;
            tracing::warn!(%watch, path = %Shown(path), attempts, seconds, reason = %error, "failed; tried again");
            return self.apply(Event::Retry { due, error, charged: true }).await.map(drop);
        }
        let sidecar = match self.write_error_file(&blame, attempts).await {
            Ok(name) => name,
            // Nobody would learn of it: the file is tried again, and given up when the error file can be written.
            Err(fault) => return Box::pin(self.failed(fault)).await,
        };
        tracing::error!(%watch, path = %Shown(path), attempts, reason = %error, "given up; see its error file");
        self.apply(Event::Fail { error, sidecar: Some(sidecar), charged: true }).await.map(drop)
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
            hint: format!(
                "{}. To try again, save the file anew, touch it, or delete this error file.",
                uppercase_first(blame.hint)
            ),
            first_attempt_at: self.job.first_attempt_at.map(rfc3339),
            last_attempt_at: self.job.last_attempt_at.map(rfc3339),
            about: self.about(attempts),
        };
        let content = to_json(&file);
        let claimed = self.clone();
        blocking(move || {
            let write = || -> io::Result<_> {
                let dir = Arc::new(claimed.root.parent(&claimed.job.path)?);
                let input = base_name(&claimed.job.path);
                let seen = dir.file(input)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
                let identity = &claimed.tools.identity;
                Temp::create(&claimed.folder, &dir, claimed.object_id(), &seen, identity.uid)?.place(
                    &content,
                    input,
                    Kind::Error,
                    identity,
                )
            };
            match write() {
                Ok(name) => Ok(name.to_string_lossy().into_owned()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Err(claimed.of_open(&error)),
                Err(error) => Err(verdict::of_folder("cannot write the error file", &error)),
            }
        })
        .await
    }

    /// Places a result for as long as it takes: what the pipeline did is not paid for twice.
    ///
    /// Fails only if the daemon stops, or the input is gone with its folder: then there is no place for a result.
    async fn place(
        &self,
        content: &Arc<Vec<u8>>,
        dir: &Arc<Dir>,
        temp: Temp,
        seen: &Seen,
    ) -> Result<std::ffi::OsString, Fault> {
        let mut stopping = self.tools.stopping.clone();
        let mut begun = Some(temp);
        let mut waiting = None;
        loop {
            let (claimed, dir, content, seen, temp) = (self.clone(), dir.clone(), content.clone(), *seen, begun.take());
            let placed = blocking(move || {
                let identity = &claimed.tools.identity;
                let place = || -> io::Result<_> {
                    let temp = match temp {
                        Some(temp) => temp,
                        None => Temp::create(&claimed.folder, &dir, claimed.object_id(), &seen, identity.uid)?,
                    };
                    temp.place(&content, base_name(&claimed.job.path), Kind::Result, identity)
                };
                place().map_err(|error| {
                    let gone = error.kind() == io::ErrorKind::NotFound
                        && matches!(claimed.root.look(&claimed.job.path), Look::Absent);
                    (error, gone)
                })
            });
            let (error, gone) = match placed.await {
                Ok(name) => return Ok(name),
                Err(failed) => failed,
            };
            let (watch, path) = (&self.folder.watch.name, Shown(&self.job.path));
            if gone {
                tracing::error!(%watch, %path, "delivered, but the file is gone with its folder: its result has no place");
                return Err(Fault::Vanished);
            }
            if waiting.is_none() {
                tracing::error!(
                    %watch, %path, %error,
                    "delivered, but the result cannot be written; trying until it can, and sending nothing new meanwhile"
                );
                waiting = Some(self.folder.unplaced());
            }
            tokio::select! {
                () = tokio::time::sleep(PLACE_PAUSE) => {}
                _ = stopping.wait_for(|stopping| *stopping) => return Err(Fault::Stopping),
            }
        }
    }

    fn hold(&self, reason: &str) {
        if let Some(pause) = self.folder.hold(std::time::Instant::now()) {
            tracing::warn!(
                watch = %self.folder.watch.name, reason, seconds = pause.as_secs(),
                "this host cannot serve the watch; it is held, and no file is charged"
            );
        }
    }

    /// What an error of opening the claimed file means.
    pub fn of_open(&self, error: &io::Error) -> Fault {
        if error.kind() == io::ErrorKind::NotFound {
            return match self.root.look(&self.job.path) {
                Look::Absent => Fault::Vanished,
                Look::Unknown(unknown) => Fault::Blocked(format!("cannot tell whether the file is there: {unknown}")),
                _ => Fault::Changed("another file came to its place".into()),
            };
        }
        // Something else than a file stands at its place, or on the way to it.
        if error.kind() == io::ErrorKind::InvalidInput || error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) {
            return Fault::Vanished;
        }
        verdict::of_file("cannot open the file", error)
    }

    /// Tells the journal; `None` if the job is no longer what this worker claimed.
    async fn apply(&self, event: Event) -> Result<Option<Job>, Failure> {
        let name = event.name();
        match self.tools.journal.apply_if(self.key, &self.job.path, self.job.generation, event).await {
            Ok(job) => Ok(Some(job)),
            Err(ApplyError::Failed(failure)) => Err(failure),
            Err(error) => {
                tracing::debug!(path = %Shown(&self.job.path), event = name, %error, "the job moved on");
                Ok(None)
            }
        }
    }

    fn filepath(&self) -> String {
        self.folder.watch.path.join(&self.job.path).to_string_lossy().into_owned()
    }

    fn about(&self, attempts: u32) -> About {
        About {
            schema_version: SCHEMA_VERSION,
            generation: self.job.generation,
            object_id: self.object_id(),
            instance: self.tools.identity.instance.clone(),
            pipeline: self.folder.watch.pipeline.clone(),
            watch: self.folder.watch.name.clone(),
            attempts,
        }
    }
}

/// Our files are read by people too.
fn to_json(file: &impl Serialize) -> Vec<u8> {
    let mut json = serde_json::to_vec_pretty(file).unwrap_or_default();
    json.push(b'\n');
    json
}

fn short(error: String) -> String {
    match error.char_indices().nth(MAX_ERROR) {
        Some((cut, _)) => format!("{}...", &error[..cut]),
        None => error,
    }
}

fn uppercase_first(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}
