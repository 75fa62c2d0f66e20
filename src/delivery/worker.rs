//! One upload: a picked job is claimed and becomes a result beside its input, or goes back with a reason.
//!
//! ```text
//! claim, durably -> open beneath the root, same generation? -> adopt the result of an interrupted attempt -> temp file of the result
//!  -> its turn -> byte budget of a one-write file -> open pipe -> same? -> write, hashing -> still same, by descriptor and by name?
//!  -> close -> (see `delivered`) result durable -> journal -> post-action
//! ```
//!
//! `close` commits, so it is sent only for a whole, unchanged file: everything the file could do meanwhile is
//! looked at once more right before it. The dispatcher decides when a worker runs and when its turn comes; the worker tells it
//! when it is ready, when its pipe is granted and when its upload is over, and journals what became of the file itself.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::blocking;
use super::claimed::Claimed;
use super::delivered::Sent;
use super::failed::{Blamed, Charge};
use super::limits::ByteLimit;
use super::pipeline::{Health, Line, Session};
use super::result::{Input, Temp};
use super::slots::{PATIENCE, UploadId};
use super::steps::{Checks, FileAtPlace};
use super::verdict::{self, Blame, Fault};
use crate::board::Phase;
use crate::client::upload::{Upload, UploadError, upload};
use crate::client::{Error, FileSource, ObjectInfo, mime};
use crate::clock::unix_millis;
use crate::crash;
use crate::fs::{Dir, Look, Seen, base_name};
use crate::job::{ContentHash, Event};
use crate::journal::Failure;
use crate::lease::Writers;
use crate::sidecar::{self, Adoption, Kind, Place};

/// All pieces that are being sent together; the next piece of each, which is read meanwhile, may be as much again.
pub const BUFFER_BYTES: usize = 32 * 1024 * 1024;
/// Under a byte limit, no write is larger than what may be sent in this time: a pipe must not be silent.
const LONGEST_WRITE: Duration = Duration::from_secs(10);
/// Least bytes of one write.
const MIN_CHUNK: u64 = 4 * 1024;

/// One picked job and what it takes to upload it.
pub struct Worker {
    /// Number of the upload.
    pub id: UploadId,
    /// The job.
    pub claimed: Claimed,
    /// The pipeline.
    pub line: Arc<Line>,
    /// Its session: the one when the job was picked, until its turn comes.
    pub session: Arc<Session>,
    /// At whose risk.
    pub terms: Terms,
    /// The byte limits that apply.
    pub byte_limits: Vec<Arc<ByteLimit>>,
    /// The dispatcher's ear. Unbounded, but each worker sends three reports at most and workers are bounded.
    pub reports: mpsc::UnboundedSender<Report>,
}

/// At whose risk a file is sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Terms {
    /// It is the probe of a pipeline that fails on every file.
    pub probe: bool,
    /// Its task died too often over it: it goes alone, and should that happen again, it is to blame.
    pub alone: bool,
}

/// How an upload ended, as far as other files are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The pipeline has it.
    Delivered,
    /// The task died while it was on its way.
    TaskDied,
    /// This process has no descriptors left.
    OutOfDescriptors,
    /// In any other way.
    Other,
}

/// What a worker tells the dispatcher.
#[derive(Debug)]
pub enum Report {
    /// Its file is claimed, durably, and can be sent when its turn comes.
    Ready(UploadId),
    /// The server granted the pipe.
    Granted(UploadId),
    /// The upload is over; the recording may go on.
    Ended {
        /// Which.
        id: UploadId,
        /// The server may hold a slot for it still.
        abandoned: bool,
        /// How.
        outcome: Outcome,
    },
}

/// A file that is open and may be sent.
struct Prepared {
    /// When it was looked at.
    at: Instant,
    dir: Arc<Dir>,
    file: Arc<File>,
    content: FileSource,
    seen: Seen,
    temp: Temp,
}

/// What a first look at a claimed file says.
enum Preparation {
    /// It may be sent.
    Ready(Box<Prepared>),
    /// Its result stands in this folder from an attempt that a crash interrupted.
    Adopted(Arc<Dir>, ContentHash, String),
    /// Its result waits in the spool, which the journal does not know.
    Spooled(ContentHash),
}

/// The end of the upload.
enum End {
    Sent(Box<Sent>),
    Adopted(Arc<Dir>, ContentHash, String),
    Spooled(ContentHash),
    /// Its turn did not come: nothing was sent.
    NoTurn,
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
    /// Works the job to its end, which it begins when its turn comes; returns what the pipeline failed on, if it did. Errors:
    /// the journal failed.
    pub async fn run(mut self, turn: oneshot::Receiver<Arc<Session>>) -> Result<Option<Blamed>, Failure> {
        let (at, due) = (unix_millis(), self.claimed.job.state.due());
        let claimed = Claimed { job: self.claimed.job.claimed(at), ..self.claimed.clone() };
        // The disk is asked for the file while it makes the claim durable; nothing is sent before both are done.
        let (claim, prepared) =
            tokio::join!(self.claimed.apply(Event::Claim { at }), self.claimed.at_desk(move || prepare(&claimed)));
        let Some(job) = claim? else {
            // It moved on since it was picked.
            let _ = self.reports.send(Report::Ended { id: self.id, abandoned: false, outcome: Outcome::Other });
            return Ok(None);
        };
        crash::point("claim.durable");
        self.claimed.job = job;
        let end = match prepared {
            Ok(Preparation::Ready(prepared)) => {
                let _ = self.reports.send(Report::Ready(self.id));
                // One that is let go and does not know it any more says that it is over, like every other.
                if let Ok(Ok(session)) = timeout(PATIENCE, turn).await {
                    self.session = session;
                    self.deliver(*prepared).await
                } else {
                    End::NoTurn
                }
            }
            Ok(Preparation::Adopted(dir, sha256, sidecar)) => End::Adopted(dir, sha256, sidecar),
            Ok(Preparation::Spooled(sha256)) => End::Spooled(sha256),
            Err(fault) => fault.into(),
        };
        let (abandoned, outcome) = match &end {
            End::Fault { fault, abandoned } => {
                let outcome = match fault {
                    Fault::TaskDied(_) => Outcome::TaskDied,
                    Fault::Descriptors(_) => Outcome::OutOfDescriptors,
                    _ => Outcome::Other,
                };
                if let Fault::Pipeline(reason) | Fault::TaskDied(reason) = fault {
                    self.line.suspect(self.session.number, reason);
                }
                (*abandoned, outcome)
            }
            End::Sent(_) => (false, Outcome::Delivered),
            End::Adopted(..) | End::Spooled(_) | End::NoTurn => (false, Outcome::Other),
        };
        // Nobody listens any more when the dispatcher has given up waiting.
        let _ = self.reports.send(Report::Ended { id: self.id, abandoned, outcome });
        let fault = match end {
            End::Sent(sent) => return self.claimed.record(*sent).await.map(|()| None),
            End::Adopted(dir, sha256, sidecar) => {
                return self.claimed.adopted(dir, sha256, sidecar).await.map(|()| None);
            }
            End::Spooled(sha256) => return self.claimed.found_spooled(sha256).await.map(|()| None),
            End::NoTurn => return self.claimed.put_back(due.unwrap_or(at)).await.map(|()| None),
            End::Fault { fault: Fault::TaskDied(reason), .. } if self.terms.alone => verdict::kills_task(reason),
            End::Fault { fault, .. } => fault,
        };
        match fault {
            Fault::File(blame) if blame.retryable => {
                let charge = if self.terms.probe {
                    Charge::Probe
                } else if self.line.failing_since().is_some() {
                    Charge::Free
                } else {
                    Charge::Usual
                };
                self.claimed.blame(blame, charge).await.map(Some)
            }
            fault => self.claimed.failed(fault).await.map(|()| None),
        }
    }

    async fn deliver(&self, prepared: Prepared) -> End {
        let Prepared { at, dir, file, content, seen, temp } = prepared;
        let watch = &self.claimed.folder.watch;
        let name = base_name(&self.claimed.job.path).to_string_lossy();
        let mime_type = watch.mime_type.as_deref().unwrap_or_else(|| mime::of(&name));
        let what = self.upload(&name, mime_type, seen.generation.size);

        let size = seen.generation.size;
        let largest = what.largest_write(size);
        let (board, pipeline) = (&self.claimed.tools.board, &self.line.config.name);
        let flight = board.begin(self.id, &watch.name, self.claimed.job.path.clone(), pipeline, size);
        let granted = Arc::new(AtomicBool::new(false));
        let mut steps = Checks {
            worker: self,
            file: FileAtPlace { dir: dir.clone(), file, seen },
            looked: at,
            hasher: Sha256::new(),
            fault: None,
            granted: granted.clone(),
            largest,
            prepaid: largest as u64 == size,
            flight: &flight,
            buffer: None,
        };
        let sent = tokio::select! {
            sent = upload(&self.session.connection, &what, size, content, &mut steps) => sent,
            () = self.stopped_ungranted(&granted) => return End::Fault { fault: Fault::Stopping, abandoned: true },
            () = self.task_replaced() => {
                let reason = "the task was started anew while the file was on its way".to_owned();
                // With an open that was not granted, nothing of the file was on its way.
                let fault = if granted.load(Ordering::Acquire) { Fault::TaskDied(reason) } else { Fault::Pipeline(reason) };
                return self.of_a_living_socket(fault).into();
            }
        };
        match sent {
            Ok(uploaded) => {
                crash::point("upload.closed");
                let sha256 = steps.hasher.finalize().into();
                flight.enter(Phase::Recording);
                End::Sent(Box::new(Sent { uploaded, sha256, dir, temp, seen, flight }))
            }
            Err(UploadError { step, error, pipe_left, os_error, too_large_for_link, .. }) => {
                let fault = steps.fault.take().unwrap_or_else(|| verdict::of_upload(step, &error, os_error));
                End::Fault { fault: self.refine(fault, &error, too_large_for_link).await, abandoned: pipe_left }
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
        what.link = Some(self.line.link.clone());
        what.one_write_max = what.one_write_max.min(self.line.link.most_at_once() as u64);
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
    async fn refine(&self, fault: Fault, error: &Error, too_large_for_link: bool) -> Fault {
        match fault {
            // The close of the socket is itself the sign.
            Fault::TaskDied(_) if matches!(error, Error::ConnectionLost { .. }) => fault,
            Fault::TaskDied(_) => self.of_a_living_socket(fault),
            Fault::Changed(reason) => {
                let (root, rel) = (self.claimed.root.clone(), self.claimed.job.path.clone());
                match blocking(move || root.look(&rel)).await {
                    Look::Absent => Fault::Vanished,
                    _ => Fault::Changed(reason),
                }
            }
            // Requests in flight when a task dies are never answered: ask whether it did.
            Fault::File(Blame { error: reason, .. }) if matches!(error, Error::TimedOut { .. }) => {
                let timeout = self.session.connection.request_timeout();
                let slow_link = || {
                    Fault::Stalled(format!(
                        "{reason}; the link is too slow for a write of this size, the next is smaller"
                    ))
                };
                match self.session.connection.task_status(&self.session.token, timeout).await {
                    Ok(status) if status.is_alive() && status.start_time == self.session.task_started => {
                        if too_large_for_link {
                            slow_link()
                        } else {
                            verdict::out_of_time(reason)
                        }
                    }
                    Ok(_) => Fault::TaskDied(format!("{reason}; the task has ended")),
                    Err(Error::NotRunning(_)) => Fault::TaskDied(format!("{reason}; the task is gone")),
                    // A key that may only send data cannot ask; the file is charged, so that the doubt ends.
                    Err(Error::Refused(_)) => verdict::out_of_time(reason),
                    // The question waits behind what is too large.
                    Err(Error::TimedOut { .. }) if too_large_for_link => slow_link(),
                    Err(asked) => Fault::Pipeline(format!("{reason}; {asked}")),
                }
            }
            other => other,
        }
    }

    /// A task that died with its connection died of something else than a file: the server went down.
    fn of_a_living_socket(&self, fault: Fault) -> Fault {
        match fault {
            Fault::TaskDied(reason) if self.session.connection.is_closed() => Fault::Pipeline(reason),
            fault => fault,
        }
    }
}

/// Opens the file, looks for the result of an interrupted attempt, and begins the file of the result. Blocks.
fn prepare(claimed: &Claimed) -> Result<Preparation, Fault> {
    let Claimed { folder, root, job, tools, .. } = claimed;
    let (rel, at) = (&job.path, Instant::now());
    let dir = Arc::new(root.parent(rel).map_err(|error| claimed.of_open(&error))?);
    let (file, seen) = dir.open_file(base_name(rel)).map_err(|error| claimed.of_open(&error))?;
    if seen.generation != job.generation {
        return Err(Fault::Changed("the file changed since it settled".into()));
    }
    root.verify_results().map_err(|error| Fault::Host(error.to_string()))?;
    let results = root
        .make_results(rel, Some(&dir))
        .map_err(|error| verdict::of_folder("cannot open the folder of the result", &error))?;
    // Nothing is sent whose result would find no name.
    let place = sidecar::find(&results, base_name(rel), Kind::Result, &tools.identity)
        .map_err(|error| verdict::of_folder("cannot look for the result file", &error))?;
    if let Place::Ours(ours) = &place
        && job.may_have_made(ours.completed_at)
        && let Adoption::Adopt(sha256, name) = sidecar::adoption(&place, &seen.generation)
    {
        // That attempt may have been interrupted before the result's name was durable.
        results
            .sync()
            .map_err(|error| verdict::of_folder("cannot make the result of an earlier attempt durable", &error))?;
        crash::point("worker.adopting");
        return Ok(Preparation::Adopted(results, sha256, name.to_string_lossy().into_owned()));
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
    let temp = Temp::create(folder, &results, claimed.object_id(), Some(Input::Open(&file)), tools.identity.uid)
        .map_err(|error| verdict::of_folder("cannot begin the result file", &error))?;
    let temp = if let Place::Free(name) = place { temp.with_free_name(name) } else { temp };
    let file = Arc::new(file);
    let content = FileSource::opened(file.clone(), seen.generation.size)
        .map_err(|error| verdict::of_file("cannot read the file", &error))?;
    Ok(Preparation::Ready(Box::new(Prepared { at, dir, file, content, seen, temp })))
}
