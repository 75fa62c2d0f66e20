//! A job that is being worked on, and what all of them share.
//!
//! What becomes of it is told by `delivered` and `failed`.

use std::io;
use std::sync::Arc;

use rustix::io::Errno;
use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use uuid::Uuid;

use super::desks::Desks;
use super::groups::Groups;
use super::spool::Spool;
use super::verdict::{self, Fault};
use crate::board::Board;
use crate::config::Retry;
use crate::folder::Folder;
use crate::fs::{Look, Root};
use crate::identity::Identity;
use crate::job::{Event, FileKey, Job};
use crate::journal::{ApplyError, Failure, Journal};
use crate::show::Shown;
use crate::sidecar::{About, SCHEMA_VERSION};

/// Longest error that goes into the journal and the error file, in characters: servers' words can be pages.
const MAX_ERROR: usize = 2000;

/// What all claimed jobs share.
#[derive(Clone)]
pub struct Tools {
    /// The daemon's memory.
    pub journal: Journal,
    /// Who writes the results.
    pub identity: Arc<Identity>,
    /// Results that wait for a folder that can be written.
    pub spool: Arc<Spool>,
    /// Where short work on the disk is done.
    pub desks: Arc<Desks>,
    /// What is on its way to its folder.
    pub groups: Arc<Groups>,
    /// What others see of the uploads in flight.
    pub board: Arc<Board>,
    /// When a file is tried again.
    pub retry: Retry,
    /// Bounds all pieces being sent.
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
    /// The job as the worker has it: as picked until its claim is durable, then as claimed.
    pub job: Job,
}

impl Claimed {
    /// The object id of this file.
    pub fn object_id(&self) -> Uuid {
        self.tools.identity.object_id(&self.folder.watch.name, &self.job.path)
    }

    /// Does short work on the disk of this watch, off the async threads.
    pub(super) async fn at_desk<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.tools.desks.at(self.folder.watch.id, false, work).await
    }

    /// The same, before what is not urgent: its upload has a slot.
    pub(super) async fn first_at_desk<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.tools.desks.at(self.folder.watch.id, true, work).await
    }

    pub(super) fn hold(&self, reason: &str) {
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
                Look::Absent => self.missing(),
                Look::Unknown(unknown) => Fault::Blocked(format!("cannot tell whether the file is there: {unknown}")),
                _ => Fault::Changed("another file came to its place".into()),
            };
        }
        // Something else than a file stands at its place, or on the way to it.
        if error.kind() == io::ErrorKind::InvalidInput || error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) {
            return self.missing();
        }
        verdict::of_file("cannot open the file", error)
    }

    /// The file is not in the folder that stands at the watch's path.
    fn missing(&self) -> Fault {
        if self.folder.can_tell(&self.job) {
            return Fault::Vanished;
        }
        Fault::Blocked(
            "the file is not in the folder that stands at the watch's path now, which is another one than it was seen in; \
             put that one back (mount it), or restart the daemon if it is this one that counts"
                .into(),
        )
    }

    /// Tells the journal; `None` if the job is no longer the generation that this worker has.
    pub(super) async fn apply(&self, event: Event) -> Result<Option<Job>, Failure> {
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

    pub(super) fn filepath(&self) -> String {
        self.folder.watch.path.join(&self.job.path).to_string_lossy().into_owned()
    }

    pub(super) fn about(&self, attempts: u32) -> About {
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
pub(super) fn to_json(file: &impl Serialize) -> Vec<u8> {
    let mut json = serde_json::to_vec_pretty(file).unwrap_or_default();
    json.push(b'\n');
    json
}

pub(super) fn short(error: String) -> String {
    match error.char_indices().nth(MAX_ERROR) {
        Some((cut, _)) => format!("{}...", &error[..cut]),
        None => error,
    }
}
