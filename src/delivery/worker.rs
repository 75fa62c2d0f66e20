//! One upload: a claimed job becomes a result beside its input, or goes back with a reason.
//!
//! ```text
//! open beneath the root, same generation? -> adopt the result of an interrupted attempt -> temp file of the result
//!  -> byte budget of a one-write file -> open pipe -> same? -> write, hashing -> still same, by descriptor and by name?
//!  -> close -> (see `delivered`) result durable -> journal -> post-action
//! ```
//!
//! `close` commits, so it is sent only for a whole, unchanged file: everything the file could do meanwhile is
//! looked at once more right before it. The dispatcher decides when a worker runs; the worker tells it when its
//! pipe is granted and when its upload is over, and journals what became of the file itself.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::blocking;
use super::claimed::Claimed;
use super::delivered::Sent;
use super::limits::{ByteLimit, take_bytes};
use super::pipeline::{Health, Line, Session};
use super::result::Temp;
use super::slots::UploadId;
use super::verdict::{self, Blame, Fault};
use crate::client::upload::{Steps, Upload, UploadError, upload};
use crate::client::{Error, ObjectInfo, mime};
use crate::fs::{Dir, Look, Seen, base_name};
use crate::job::ContentHash;
use crate::journal::Failure;
use crate::lease::Writers;
use crate::sidecar::{self, Adoption, Kind, Place};

/// All buffers of uploads together, in bytes.
pub const BUFFER_BYTES: usize = 32 * 1024 * 1024;
/// Under a byte limit, no write is larger than what may be sent in this time: a pipe must not be silent.
const LONGEST_WRITE: Duration = Duration::from_secs(10);
/// Least bytes of one write.
const MIN_CHUNK: u64 = 4 * 1024;
/// Most bytes that one read asks of the disk.
const READ_SIZE: usize = 1024 * 1024;

/// One claimed job and what it takes to upload it.
pub struct Worker {
    /// Number of the upload.
    pub id: UploadId,
    /// The job.
    pub claimed: Claimed,
    /// The pipeline.
    pub line: Arc<Line>,
    /// Its session when the job was claimed.
    pub session: Arc<Session>,
    /// The byte limits that apply.
    pub byte_limits: Vec<Arc<ByteLimit>>,
    /// The dispatcher's ear. Unbounded, but each worker sends two reports at most and workers are bounded.
    pub reports: mpsc::UnboundedSender<Report>,
}

/// What a worker tells the dispatcher.
#[derive(Debug)]
pub enum Report {
    /// The server granted the pipe.
    Granted(UploadId),
    /// The upload is over; the recording may go on.
    Ended {
        /// Which.
        id: UploadId,
        /// The server may hold a slot for it still.
        abandoned: bool,
        /// This process has no descriptors left.
        out_of_descriptors: bool,
    },
}

/// A file that is open and may be sent.
struct Prepared {
    dir: Arc<Dir>,
    file: File,
    seen: Seen,
    temp: Temp,
}

/// What a first look at a claimed file says.
enum Preparation {
    /// It may be sent.
    Ready(Box<Prepared>),
    /// Its result stands there from an attempt that a crash interrupted.
    Adopted(ContentHash, String),
    /// Its result waits in the spool, which the journal does not know.
    Spooled(ContentHash),
}

/// The end of the upload.
enum End {
    Sent(Box<Sent>),
    Adopted(ContentHash, String),
    Spooled(ContentHash),
    Fault {
        fault: Fault,
        /// The server may hold a slot for it still.
        abandoned: bool,
    },
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        Self::Fault { fault, abandoned: false }
    }
}

impl Worker {
    /// Works the job to its end. Errors: the journal failed.
    pub async fn run(self) -> Result<(), Failure> {
        let end = self.deliver().await;
        if let End::Fault { fault: Fault::Pipeline(reason), .. } = &end {
            self.line.suspect(self.session.number, reason);
        }
        let (abandoned, out_of_descriptors) = match &end {
            End::Fault { fault, abandoned } => (*abandoned, matches!(fault, Fault::Descriptors(_))),
            End::Sent(_) | End::Adopted(..) | End::Spooled(_) => (false, false),
        };
        // Nobody listens any more when the dispatcher has given up waiting.
        let _ = self.reports.send(Report::Ended { id: self.id, abandoned, out_of_descriptors });
        match end {
            End::Sent(sent) => self.claimed.record(*sent).await,
            End::Adopted(sha256, sidecar) => self.claimed.adopted(sha256, sidecar).await,
            End::Spooled(sha256) => self.claimed.found_spooled(sha256).await,
            End::Fault { fault, .. } => self.claimed.failed(fault).await,
        }
    }

    async fn deliver(&self) -> End {
        let claimed = self.claimed.clone();
        let prepared = match blocking(move || prepare(&claimed)).await {
            Ok(Preparation::Ready(prepared)) => *prepared,
            Ok(Preparation::Adopted(sha256, sidecar)) => return End::Adopted(sha256, sidecar),
            Ok(Preparation::Spooled(sha256)) => return End::Spooled(sha256),
            Err(fault) => return fault.into(),
        };
        let Prepared { dir, file, seen, temp } = prepared;
        let watch = &self.claimed.folder.watch;
        let name = base_name(&self.claimed.job.path).to_string_lossy();
        let mime_type = watch.mime_type.as_deref().unwrap_or_else(|| mime::of(&name));
        let what = self.upload(&name, mime_type, seen.generation.size);

        let size = seen.generation.size;
        let largest = what.largest_write(size);
        let source = match file.try_clone() {
            Ok(file) => file,
            Err(error) => return verdict::of_file("cannot open the file once more", &error).into(),
        };
        let mut source = tokio::fs::File::from_std(source);
        source.set_max_buf_size(largest.clamp(1, READ_SIZE));
        let granted = Arc::new(AtomicBool::new(false));
        let mut steps = Checks {
            worker: self,
            file: FileAtPlace { dir: dir.clone(), file: Arc::new(file), seen },
            hasher: Sha256::new(),
            fault: None,
            granted: granted.clone(),
            largest,
            prepaid: largest as u64 == size,
            buffer: None,
        };
        let sent = tokio::select! {
            sent = upload(&self.session.connection, &what, size, source, &mut steps) => sent,
            () = self.stopped_ungranted(&granted) => return End::Fault { fault: Fault::Stopping, abandoned: true },
            () = self.task_replaced() => {
                return Fault::Pipeline("the task was started anew while the file was on its way".into()).into();
            }
        };
        match sent {
            Ok(uploaded) => {
                let sha256 = steps.hasher.finalize().into();
                End::Sent(Box::new(Sent { uploaded, sha256, dir, temp, seen }))
            }
            Err(UploadError { step, error, pipe_left, os_error, .. }) => {
                let timed_out = matches!(error, Error::TimedOut { .. });
                let fault = steps.fault.take().unwrap_or_else(|| verdict::of_upload(step, &error, os_error));
                End::Fault { fault: self.refine(fault, timed_out).await, abandoned: pipe_left }
            }
        }
    }

    /// What is sent, in pieces that fit the limits.
    fn upload<'a>(&'a self, name: &str, mime_type: &'a str, size: u64) -> Upload<'a> {
        let watch = &self.claimed.folder.watch;
        let metadata = watch.metadata.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect();
        let object =
            ObjectInfo { name: name.to_owned(), size, object_id: Some(self.claimed.object_id().to_string()), metadata };
        let mut what = Upload::new(&self.session.token, object, mime_type);
        what.task_started = self.session.task_started.as_ref();
        what.result_timeout = self.line.config.result_timeout;
        what.chunk_size = self.line.config.chunk_size;
        if let Some(share) = self.byte_limits.iter().map(|limit| limit.share()).min() {
            let most = share.saturating_mul(LONGEST_WRITE.as_secs()).max(MIN_CHUNK);
            what.chunk_size = what.chunk_size.min(usize::try_from(most).unwrap_or(usize::MAX));
            what.one_write_max = what.one_write_max.min(most);
        }
        what
    }

    /// Resolves when the daemon stops before the pipe was granted: a stop does not wait for a queue of hours.
    async fn stopped_ungranted(&self, granted: &AtomicBool) {
        let mut stopping = self.claimed.tools.stopping.clone();
        // An error means that the daemon is gone, which is a stop too.
        let _ = stopping.wait_for(|stopping| *stopping).await;
        if granted.load(Ordering::Acquire) {
            std::future::pending::<()>().await;
        }
    }

    /// Resolves when the pipeline runs in another task than the one this upload goes to: nothing in flight there is ever
    /// answered.
    async fn task_replaced(&self) {
        let mut health = self.line.health();
        let ours = &self.session;
        let replaced = health.wait_for(|health| match health {
            Health::Up(now) => {
                ours.task_started.is_some() && now.task_started.is_some() && now.task_started != ours.task_started
            }
            Health::Down { .. } => false,
        });
        // The sender lives in the line.
        let _ = replaced.await;
    }

    /// Asks once more where the error alone does not tell whose fault it is.
    async fn refine(&self, fault: Fault, timed_out: bool) -> Fault {
        match fault {
            Fault::Changed(reason) => {
                let (root, rel) = (self.claimed.root.clone(), self.claimed.job.path.clone());
                match blocking(move || root.look(&rel)).await {
                    Look::Absent => Fault::Vanished,
                    _ => Fault::Changed(reason),
                }
            }
            // Requests in flight when a task dies are never answered: ask whether it did.
            Fault::File(Blame { error, .. }) if timed_out => {
                let timeout = self.session.connection.request_timeout();
                match self.session.connection.task_status(&self.session.token, timeout).await {
                    Ok(status) if status.is_alive() && status.start_time == self.session.task_started => {
                        verdict::out_of_time(error)
                    }
                    Ok(_) => Fault::Pipeline(format!("{error}; the task has ended")),
                    // A key that may only send data cannot ask; the file is charged, so that the doubt ends.
                    Err(Error::Refused(_)) => verdict::out_of_time(error),
                    Err(asked) => Fault::Pipeline(format!("{error}; {asked}")),
                }
            }
            other => other,
        }
    }
}

/// Opens the file, looks for the result of an interrupted attempt, and begins the file of the result. Blocks.
fn prepare(claimed: &Claimed) -> Result<Preparation, Fault> {
    let Claimed { folder, root, job, tools, .. } = claimed;
    let rel = &job.path;
    let dir = Arc::new(root.parent(rel).map_err(|error| claimed.of_open(&error))?);
    let (file, seen) = dir.open_file(base_name(rel)).map_err(|error| claimed.of_open(&error))?;
    if seen.generation != job.generation {
        return Err(Fault::Changed("the file changed since it settled".into()));
    }
    // Nothing is sent whose result would find no name.
    let place = sidecar::find(&dir, base_name(rel), Kind::Result, &tools.identity)
        .map_err(|error| verdict::of_folder("cannot look for the result file", &error))?;
    if let Place::Ours(ours) = &place
        && job.may_have_made(ours.completed_at)
        && let Adoption::Adopt(sha256, name) = sidecar::adoption(&place, &seen.generation)
    {
        return Ok(Preparation::Adopted(sha256, name.to_string_lossy().into_owned()));
    }
    if let Some(sha256) = claimed.find_spooled(&dir, &file, &seen)? {
        return Ok(Preparation::Spooled(sha256));
    }
    if seen.generation.size > folder.watch.max_size {
        return Err(verdict::too_large(seen.generation.size, folder.watch.max_size));
    }
    // It may have waited for hours since intake asked.
    if dir.writers(&file) == Writers::Some {
        return Err(Fault::Changed("somebody has the file open for writing".into()));
    }
    let temp = Temp::create(folder, &dir, claimed.object_id(), &seen, tools.identity.uid)
        .map_err(|error| verdict::of_folder("cannot begin the result file", &error))?;
    Ok(Preparation::Ready(Box::new(Prepared { dir, file, seen, temp })))
}

/// A file, by descriptor and by name.
#[derive(Clone)]
struct FileAtPlace {
    dir: Arc<Dir>,
    file: Arc<File>,
    seen: Seen,
}

impl FileAtPlace {
    /// Fails unless both the descriptor and the name still show what was opened, and nobody is writing to it. Blocks.
    fn unchanged(&self, claimed: &Claimed) -> Result<(), Fault> {
        let changed = |why: &str| Err(Fault::Changed(format!("the file {why} while it was being sent")));
        let failed = |error: io::Error| verdict::of_file("the file cannot be looked at any more", &error);
        let rel = &claimed.job.path;
        // Asked before the times are compared: what a writer did who is gone by now shows there.
        if self.dir.writers(&self.file) == Writers::Some {
            return changed("was opened for writing");
        }
        match self.dir.seen(&self.file).map_err(failed)? {
            Some(now) if now.generation == self.seen.generation => {}
            _ => return changed("changed"),
        }
        match self.dir.file(base_name(rel)).map_err(failed)? {
            Some(now) if now.generation == self.seen.generation => {}
            Some(_) => return changed("was replaced"),
            None => return changed("was removed"),
        }
        // The descriptor of a folder follows it when it is renamed: is the path still this folder's?
        let parent = claimed.root.parent(rel).and_then(|dir| dir.id());
        match (parent, self.dir.id()) {
            (Ok(now), Ok(opened)) if now == opened => Ok(()),
            _ => changed("went elsewhere with its folder"),
        }
    }
}

/// What happens between the steps of the upload.
struct Checks<'a> {
    worker: &'a Worker,
    file: FileAtPlace,
    hasher: Sha256,
    /// Why the upload was stopped here.
    fault: Option<Fault>,
    granted: Arc<AtomicBool>,
    /// Bytes of the largest write.
    largest: usize,
    /// The byte budget was taken before the open: the file goes in one write.
    prepaid: bool,
    /// Its share of all buffers.
    buffer: Option<OwnedSemaphorePermit>,
}

impl Checks<'_> {
    async fn unchanged(&mut self) -> Result<(), Error> {
        let (file, claimed) = (self.file.clone(), self.worker.claimed.clone());
        blocking(move || file.unchanged(&claimed)).await.map_err(|fault| {
            self.fault = Some(fault);
            Error::Abandoned("the file is not to be committed as it is".into())
        })
    }
}

impl Steps for Checks<'_> {
    async fn opening(&mut self) -> Result<(), Error> {
        if self.prepaid {
            take_bytes(&self.worker.byte_limits, self.largest as u64).await;
        }
        Ok(())
    }

    async fn granted(&mut self, _waited: Duration) -> Result<(), Error> {
        self.granted.store(true, Ordering::Release);
        let _ = self.worker.reports.send(Report::Granted(self.worker.id));
        self.worker.line.granted(self.worker.session.number);
        let share = u32::try_from(self.largest.min(BUFFER_BYTES)).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        self.buffer = self.worker.claimed.tools.buffers.clone().acquire_many_owned(share).await.ok();
        // The grant may have taken hours.
        self.unchanged().await
    }

    async fn before_write(&mut self, chunk: &[u8]) -> Result<(), Error> {
        if !self.prepaid {
            take_bytes(&self.worker.byte_limits, chunk.len() as u64).await;
        }
        self.hasher.update(chunk);
        Ok(())
    }

    async fn before_close(&mut self, _bytes_sent: u64) -> Result<(), Error> {
        // Everything is acknowledged: what follows may take hours and needs no buffer.
        self.buffer = None;
        self.unchanged().await
    }
}
