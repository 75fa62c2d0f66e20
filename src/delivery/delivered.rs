//! The pipeline has a file: its result made durable, then the journal told, then the post-action.
//!
//! The order is the promise: a result is durable before the journal says so, and the journal says so before the
//! input is touched. A result that its folder refuses goes to the spool (see `spooled`). A crash in between is found
//! at the next start: the result is adopted, the post-action finished.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::after::{self, Delivered};
use super::blocking;
use super::claimed::{Claimed, to_json};
use super::groups::{Here, ToPlace, Unplaced};
use super::result::{Input, Temp, remove_error_file};
use super::text::text_of;
use super::verdict::Fault;
use crate::board::Posted;
use crate::client::upload::Uploaded;
use crate::clock::{rfc3339, unix_millis};
use crate::config::OnSuccess;
use crate::crash;
use crate::fs::{Dir, Look, Seen, base_name};
use crate::job::{ContentHash, Event, Job, JobState};
use crate::journal::Failure;
use crate::meters::meters;
use crate::show::Shown;
use crate::sidecar::{self, Kind, Place, ResultFile};

/// How long a result that could not be placed waits for the next try.
const PLACE_PAUSE: Duration = Duration::from_secs(5);
/// Pauses before a post-action is tried again; after the last it is given up with a warning.
pub(super) const POST_ACTION_PAUSES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(15), Duration::from_secs(30)];

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
    /// What others see of the upload.
    pub flight: Posted,
}

/// Where a result is now.
enum Placed {
    /// At its place.
    Here(Here),
    /// In the spool, because it cannot be written there.
    InSpool(String),
}

impl Claimed {
    /// Writes the result, then records the delivery.
    pub async fn record(&self, sent: Sent) -> Result<(), Failure> {
        let Sent { uploaded, sha256, dir, temp, seen, flight } = sent;
        let warning = uploaded.invalid_utf8.then(|| {
            "the content was sent as text but is not valid UTF-8; the pipeline may have lost parts of it".to_owned()
        });
        let (bytes_sent, upload_time) = (uploaded.bytes_sent, uploaded.seconds);
        let text = self.folder.watch.results.text.then(|| text_of(&uploaded.result)).flatten();
        let text_sha256 = text.map(|text| hex::encode(sidecar::hash_parts(&[text.as_bytes()])));
        let file = ResultFile {
            action: "complete",
            filepath: self.filepath(),
            bytes_sent,
            file_size: seen.generation.size,
            upload_time,
            result: &Value::Object(uploaded.result.into_raw()),
            sha256: hex::encode(sha256),
            text_sha256,
            about: self.about(self.job.attempts.saturating_add(1)),
            completed_at: rfc3339(unix_millis()),
            warnings: warning.iter().cloned().collect(),
        };
        let content = Arc::new(to_json(&file));
        drop(file);
        let Here { name, is_absent } = match self.place(&content, &dir, temp, &seen).await {
            Ok(Placed::Here(here)) => here,
            Ok(Placed::InSpool(why)) => return self.spooled(sha256, &why).await,
            Err(fault) => return self.failed(fault).await,
        };
        drop(content);
        crash::point("delivered.placed");
        if self.folder.release() {
            tracing::info!(watch = %self.folder.watch.name, "the watch goes on");
        }
        tracing::info!(
            watch = %self.folder.watch.name, path = %Shown(&self.job.path), pipeline = %self.folder.watch.pipeline,
            bytes = bytes_sent, seconds = upload_time, attempts = self.job.attempts + 1, result = %Shown(name.as_ref()),
            warning, "delivered"
        );
        meters().file_ended(&self.folder.watch.name, "delivered");
        meters().upload_duration.observe(flight.began.elapsed().as_secs_f64());
        self.tools.board.succeeded(&self.folder.watch.pipeline, unix_millis());
        drop(flight);
        self.delivered(sha256, &name, warning, is_absent).await
    }

    /// Records that the result of an interrupted attempt stands there already.
    pub async fn adopted(&self, results: Arc<Dir>, sha256: ContentHash, sidecar: String) -> Result<(), Failure> {
        tracing::info!(
            watch = %self.folder.watch.name, path = %Shown(&self.job.path),
            "the result of an interrupted attempt stands there; not sent again"
        );
        meters().file_ended(&self.folder.watch.name, "adopted");
        // That attempt may have been interrupted before this.
        let is_absent = self.tidy(results).await;
        self.delivered(sha256, sidecar.as_ref(), None, is_absent).await
    }

    /// Removes the error file of an earlier failure. Whether the input is gone by now.
    async fn tidy(&self, results: Arc<Dir>) -> bool {
        let claimed = self.clone();
        blocking(move || {
            claimed.remove_error_file(&results);
            claimed.is_absent(None)
        })
        .await
    }

    /// Removes the error file of an earlier failure, if there is one: one that stays does no harm but to mislead. Blocks.
    pub(super) fn remove_error_file(&self, results: &Dir) {
        let path = &self.job.path;
        if let Err(error) = remove_error_file(results, base_name(path), &self.tools.identity) {
            tracing::warn!(path = %Shown(path), %error, "cannot remove the error file of an earlier failure");
        }
    }

    /// Whether a file that stays where it is after its delivery is known to be gone already. Blocks.
    ///
    /// While it is being sent intake cannot note that, and never hears of it again: the same content, dropped there once
    /// more, would count as sent. `dir` is the folder that it was in: while its name stands there, nothing more is asked.
    pub(super) fn is_absent(&self, dir: Option<&Dir>) -> bool {
        // A post-action sees for itself.
        self.folder.watch.on_success == OnSuccess::Keep
            && dir.is_none_or(|dir| !matches!(dir.exists(base_name(&self.job.path)), Ok(true)))
            && matches!(self.root.look(&self.job.path), Look::Absent)
            && self.folder.can_tell(&self.job)
    }

    async fn delivered(
        &self,
        sha256: ContentHash,
        sidecar: &OsStr,
        warning: Option<String>,
        is_absent: bool,
    ) -> Result<(), Failure> {
        match self.record_placed(sha256, sidecar, warning, is_absent).await? {
            Some(job) if job.state == JobState::Delivered => Self { job, ..self.clone() }.finish().await,
            _ => Ok(()),
        }
    }

    /// Tells the journal that the result stands at its place, and if its file is gone that too; then nothing of it is left
    /// in the spool.
    pub(super) async fn record_placed(
        &self,
        sha256: ContentHash,
        sidecar: &OsStr,
        warning: Option<String>,
        is_absent: bool,
    ) -> Result<Option<Job>, Failure> {
        let post_action = self.folder.watch.on_success != OnSuccess::Keep;
        let sidecar = sidecar::recorded(&self.root, &self.job.path, sidecar);
        let job = self.apply(Event::Delivered { sha256, sidecar, post_action, warning }).await?;
        crash::point("delivered.recorded");
        if is_absent && job.as_ref().is_some_and(|job| job.state == JobState::Done) {
            self.apply(Event::Gone).await?;
        }
        if job.is_some() {
            self.clear_spool().await;
        }
        Ok(job)
    }

    /// Does the post-action of a delivered job. Also where a restart goes on.
    pub async fn finish(&self) -> Result<(), Failure> {
        let mut stopping = self.tools.stopping.clone();
        let mut pauses = POST_ACTION_PAUSES.iter();
        let (outcome, is_replaced) = loop {
            let claimed = self.clone();
            match blocking(move || claimed.post_action().map(|outcome| (claimed.is_replaced(&outcome), outcome))).await
            {
                Ok((is_replaced, outcome)) => break (outcome, is_replaced),
                Err(error) => {
                    let Some(pause) = pauses.next() else { break (after::Outcome::Kept(error.to_string()), false) };
                    tracing::debug!(path = %Shown(&self.job.path), %error, "the post-action is tried again");
                    tokio::select! {
                        () = tokio::time::sleep(*pause) => {}
                        // It stays Delivered; the next start goes on here.
                        _ = stopping.wait_for(|stopping| *stopping) => return Ok(()),
                    }
                }
            }
        };
        crash::point("finish.done");
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
        let gone = is_replaced || outcome == after::Outcome::Gone;
        self.apply(Event::Finished { warning, gone }).await?;
        crash::point("finish.recorded");
        Ok(())
    }

    /// The post-action cannot be done, by a defect of ours: the job is done without it.
    pub async fn give_up_post_action(&self, why: String) -> Result<(), Failure> {
        self.apply(Event::Finished { warning: Some(why), gone: false }).await.map(drop)
    }

    /// Whether what was left in place is another file than the delivered one, which so is gone: it is new whatever its
    /// content, or it would never be sent and lie there for ever. Blocks.
    fn is_replaced(&self, outcome: &after::Outcome) -> bool {
        let after::Outcome::Kept(why) = outcome else { return false };
        let (Look::File(seen), false) = (self.root.look(&self.job.path), why.is_empty()) else { return false };
        let inodes = seen.generation.ino.zip(self.job.generation.ino);
        inodes.is_some_and(|(now, delivered)| now != delivered)
    }

    fn post_action(&self) -> io::Result<after::Outcome> {
        let (rel, identity) = (&self.job.path, &self.tools.identity);
        let (result, text) = if self.root.results_are_apart() {
            // It stays there; the journal has said that it is durable, and the disk that it is on may be elsewhere by now.
            (base_name(Path::new(self.job.sidecar.as_deref().unwrap_or_default())).to_owned(), None)
        } else {
            let dir = self.root.parent(rel)?;
            match sidecar::find(&dir, base_name(rel), Kind::Result, identity)? {
                Place::Ours(ours) => (ours.name.clone(), ours.text(&dir, base_name(rel), identity)?),
                Place::Free(name) => (name, None),
            }
        };
        let delivered = Delivered {
            kind: Kind::Result,
            generation: self.job.generation,
            sha256: self.job.sha256,
            object_id: self.object_id(),
            result,
            text,
        };
        after::finish(&self.folder, &self.root, rel, &delivered)
    }

    /// Begins the result or error file of the input in this folder. Blocks.
    pub(super) fn begin(&self, dir: &Arc<Dir>, seen: &Seen) -> io::Result<Temp> {
        let (rel, uid) = (&self.job.path, self.tools.identity.uid);
        let results = self.root.make_results(rel, Some(dir))?;
        let input = Input::Seen(dir, base_name(rel), seen);
        Temp::create(&self.folder, &results, self.object_id(), Some(input), uid)
    }

    /// Places a result, or else spools it, for as long as it takes: what the pipeline did is not paid for twice.
    ///
    /// Fails only if the daemon stops, or the input is gone with its folder: then there is no place for a result.
    async fn place(&self, content: &Arc<Vec<u8>>, dir: &Arc<Dir>, temp: Temp, seen: &Seen) -> Result<Placed, Fault> {
        let mut stopping = self.tools.stopping.clone();
        let mut begun = Some(temp);
        let mut waiting = None;
        loop {
            let (claimed, dir, content_too) = (self.clone(), dir.clone(), content.clone());
            let file = ToPlace { claimed, dir, temp: begun.take(), content: content_too, seen: *seen };
            let Unplaced { error, gone } = match self.tools.groups.place(file).await {
                Ok(here) => return Ok(Placed::Here(here)),
                Err(unplaced) => unplaced,
            };
            let (watch, path) = (&self.folder.watch.name, Shown(&self.job.path));
            if gone {
                tracing::error!(%watch, %path, "delivered, but the file is gone with its folder: its result has no place");
                return Err(Fault::Vanished);
            }
            match self.spool(content).await {
                Ok(()) => return Ok(Placed::InSpool(error.to_string())),
                Err(spool) if waiting.is_none() => {
                    tracing::error!(
                        %watch, %path, %error, %spool,
                        "delivered, but neither can the result be written nor spooled; trying until it can, and sending \
                         nothing new meanwhile"
                    );
                    waiting = Some(self.folder.unplaced());
                }
                Err(_) => {}
            }
            tokio::select! {
                () = tokio::time::sleep(PLACE_PAUSE) => {}
                _ = stopping.wait_for(|stopping| *stopping) => return Err(Fault::Stopping),
            }
        }
    }
}
