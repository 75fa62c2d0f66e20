//! The upload of one file: open, write, close, and the caller's word between the steps.
//!
//! Its one promise: `close`, which commits, is sent only for exactly the announced bytes, and only if every step of the
//! caller agreed. It must not know of folders, limits or retries; those are behind [`Steps`].

use std::fmt;
use std::future::{Future, ready};
use std::time::{Duration, Instant};

use futures_util::future::join;
use secrecy::SecretString;
use serde_json::Value;

use super::connection::{Connection, NOT_SENT};
use super::error::{Error, Result};
use super::link::Link;
use super::object::ObjectInfo;
use super::piece::Piece;
use super::pipe::{Pipe, PipeOptions};
use super::result::PipelineResult;
use super::source::{Room, Source};
use super::text;

/// The SDK's chunk. Every piece waits for a round trip, so smaller is slower.
pub const CHUNK_SIZE: usize = 1024 * 1024;
/// Chunks beyond this are cut down: a frame must stay well below the server's limit for a message.
pub const MAX_CHUNK_SIZE: usize = 64 * 1024 * 1024;
/// How long a result may take before the task is asked for.
pub const RESULT_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// What to send and how.
#[derive(Debug, Clone)]
pub struct Upload<'a> {
    /// The task.
    pub token: &'a SecretString,
    /// The object; its size is set from the upload's.
    pub object: ObjectInfo,
    /// Decides the lane; `text/*` is cut with care.
    pub mime_type: &'a str,
    /// The kind of source that the task must have; usually none.
    pub provider: Option<&'a str>,
    /// `start_time` of the task's status, if known.
    pub task_started: Option<&'a Value>,
    /// Most bytes in one write.
    pub chunk_size: usize,
    /// Text up to this size goes in one write; never more than [`text::ONE_WRITE_MAX`]. Lower it on a link where such a
    /// write takes over 10 s ([`Link::most_at_once`]).
    pub one_write_max: u64,
    /// What is known of the link, if it is to be measured: its writes then take no longer than [`TARGET`](super::link::TARGET), as far as
    /// can be told, and what they took is noted there.
    pub link: Option<Link>,
    /// See [`Pipe::close`].
    pub result_timeout: Duration,
}

impl<'a> Upload<'a> {
    /// The defaults for this object.
    pub fn new(token: &'a SecretString, object: ObjectInfo, mime_type: &'a str) -> Self {
        Self {
            token,
            object,
            mime_type,
            provider: None,
            task_started: None,
            chunk_size: CHUNK_SIZE,
            one_write_max: text::ONE_WRITE_MAX,
            link: None,
            result_timeout: RESULT_TIMEOUT,
        }
    }

    /// The largest write that a file of this size leads to: what its buffer takes, in bytes.
    pub fn largest_write(&self, size: u64) -> usize {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let chunk = self.chunk_size.clamp(text::MIN_PIECE, MAX_CHUNK_SIZE);
        if self.in_one_write(size) { size } else { size.min(chunk) }
    }

    /// Whether a file of this size is a text that is not to be cut.
    fn in_one_write(&self, size: usize) -> bool {
        let most = usize::try_from(self.one_write_max.min(text::ONE_WRITE_MAX)).unwrap_or_default();
        text::is_text(self.mime_type) && size <= most
    }
}

/// What the caller wants to do between the steps. Each may wait; an error stops the upload, and nothing is committed.
///
/// A pipe must not be silent: waits of over 45 s between the grant and the close cost the pipe.
pub trait Steps {
    /// Before the pipe is asked for.
    fn opening(&mut self) -> impl Future<Output = Result<()>> + Send {
        ready(Ok(()))
    }

    /// The pipe was granted after this wait, perhaps of hours: is the file still the same?
    fn granted(&mut self, waited: Duration) -> impl Future<Output = Result<()>> + Send {
        let _ = waited;
        ready(Ok(()))
    }

    /// These bytes of the file were read, in their order, and will be sent: hash them. The bytes before them may still be
    /// on their way.
    fn read(&mut self, bytes: &[u8]) {
        let _ = bytes;
    }

    /// These bytes come next: wait for the limit.
    fn before_write(&mut self, chunk: &[u8]) -> impl Future<Output = Result<()>> + Send {
        let _ = chunk;
        ready(Ok(()))
    }

    /// The server acknowledged so many bytes in all.
    fn written(&mut self, total: u64) {
        let _ = total;
    }

    /// Everything was sent: the last chance not to commit it.
    fn before_close(&mut self, bytes_sent: u64) -> impl Future<Output = Result<()>> + Send {
        let _ = bytes_sent;
        ready(Ok(()))
    }
}

/// Nothing to do in between.
impl Steps for () {}

/// A delivered file.
#[derive(Debug, Clone, PartialEq)]
pub struct Uploaded {
    /// What the pipeline made of it.
    pub result: PipelineResult,
    /// Bytes of the file that were sent.
    pub bytes_sent: u64,
    /// It went as text but is not UTF-8: the text lane of the pipeline will have lost writes.
    pub invalid_utf8: bool,
    /// From asking for the pipe to the result.
    pub seconds: f64,
}

/// The step at which an upload failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The pipe was not granted.
    Open,
    /// A piece was not taken.
    Write,
    /// The result did not come, or is a failure. Whether the object was committed is unknown after a timeout or a lost
    /// connection.
    Close,
    /// The file could not be read; nothing was committed.
    Read,
    /// The file is not the announced number of bytes; nothing was committed.
    Changed,
    /// The caller stopped it; nothing was committed.
    Caller,
}

/// A failed upload.
#[derive(Debug, Clone)]
pub struct UploadError {
    /// Where.
    pub step: Step,
    /// Why.
    pub error: Error,
    /// A pipe, or an ungranted open, may be left on the server and block a slot for up to 90 s.
    pub pipe_left: bool,
    /// The operating system's number if the file could not be read.
    pub os_error: Option<i32>,
    /// Bytes of the file that were acknowledged before.
    pub bytes_sent: u64,
    /// A write was not acknowledged in time, and it was too large for the link as it is known by now: smaller ones may
    /// arrive. Always false without [`Upload::link`].
    pub too_large_for_link: bool,
}

impl fmt::Display for UploadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for UploadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl UploadError {
    fn at(step: Step, error: Error, bytes_sent: u64) -> Self {
        let pipe_left = match (step, &error) {
            // The task that had the slots is gone; an open that was never sent holds none.
            (_, Error::NotRunning(_)) | (Step::Open, Error::TimedOut { what: NOT_SENT, .. }) => false,
            // An open whose reply cannot be read was granted, for all that is known.
            (Step::Open, Error::Protocol(_)) | (Step::Write | Step::Read | Step::Changed | Step::Caller, _) => true,
            // A refused open holds no slot, and after an answered close there is no pipe.
            (Step::Open | Step::Close, error) => {
                matches!(error, Error::TimedOut { .. } | Error::ConnectionLost { .. } | Error::Abandoned(_))
            }
        };
        Self { step, error, pipe_left, os_error: None, bytes_sent, too_large_for_link: false }
    }
}

/// Uploads exactly `size` bytes from `source`, which must end there.
///
/// The next piece is read while the reply to the last one is awaited: it takes two buffers of at most
/// [`Upload::largest_write`] bytes, one if the file goes in one write. Dropping the future abandons the pipe.
pub async fn upload<R, S>(
    connection: &Connection,
    upload: &Upload<'_>,
    size: u64,
    source: R,
    steps: &mut S,
) -> Result<Uploaded, UploadError>
where
    R: Source,
    S: Steps + Send,
{
    let before_open = |step| move |error| UploadError { pipe_left: false, ..UploadError::at(step, error, 0) };
    steps.opening().await.map_err(before_open(Step::Caller))?;
    let object = ObjectInfo { size, ..upload.object.clone() };
    let options = PipeOptions {
        token: upload.token,
        object: &object,
        mime_type: upload.mime_type,
        provider: upload.provider,
        task_started: upload.task_started,
    };
    let begun = Instant::now();
    let mut pipe = Pipe::open(connection, &options).await.map_err(|error| UploadError::at(Step::Open, error, 0))?;
    let failed = |step, sent| move |error| UploadError::at(step, error, sent);
    steps.granted(begun.elapsed()).await.map_err(failed(Step::Caller, 0))?;

    let largest = upload.largest_write(size).max(text::MIN_PIECE);
    let adapted = upload.link.as_ref().filter(|_| !upload.in_one_write(usize::try_from(size).unwrap_or(usize::MAX)));
    let most = || adapted.map_or(largest, |link| link.most().min(largest));
    let is_text = text::is_text(upload.mime_type);
    let mut window = Window { source, name: &object.name, left: size, largest };
    let mut sent: u64 = 0;
    let mut invalid_utf8 = false;
    let mut piece = window.after(Piece::default(), &[], most(), steps).await.map_err(|failure| failure.after(0))?;
    let mut other = Piece::default();
    while piece.len() > 0 {
        let most = most();
        // The link turned out to be faster than when it was read.
        piece = window.more(piece, most, steps).await.map_err(|failure| failure.after(sent))?;
        let length = if is_text { text::cut(piece.bytes(), window.left == 0, most) } else { piece.len().min(most) };
        let (now, later) = piece.bytes().split_at(length);
        invalid_utf8 |= is_text && std::str::from_utf8(now).is_err();
        // Where nothing follows, there is nothing to keep a second buffer for.
        let later = later.to_vec();
        piece.truncate(length);
        steps.before_write(piece.bytes()).await.map_err(failed(Step::Caller, sent))?;
        let handed_over = Instant::now();
        let writing = async {
            let outcome = pipe.write_piece(&mut piece).await;
            (outcome, handed_over.elapsed())
        };
        let ((written, took), next) = join(writing, window.after(other, &later, most, steps)).await;
        if let Err(error) = written {
            let late = matches!(error, Error::TimedOut { .. });
            let too_large_for_link = late && upload.link.as_ref().is_some_and(|link| link.gave_up(length, took));
            return Err(UploadError { too_large_for_link, ..UploadError::at(Step::Write, error, sent) });
        }
        if let Some(link) = &upload.link {
            link.took(length, took);
        }
        sent += length as u64;
        steps.written(sent);
        let next = next.map_err(|failure| failure.after(sent))?;
        other = std::mem::replace(&mut piece, next);
    }
    // What follows may take hours.
    drop((piece, other));
    window.ended().await.map_err(|failure| failure.after(sent))?;
    steps.before_close(sent).await.map_err(failed(Step::Caller, sent))?;
    let result = pipe.close(upload.result_timeout).await.map_err(failed(Step::Close, sent))?;
    Ok(Uploaded { result, bytes_sent: sent, invalid_utf8, seconds: begun.elapsed().as_secs_f64() })
}

/// A file in pieces.
struct Window<'a, R> {
    source: R,
    name: &'a str,
    /// Announced and not read yet.
    left: u64,
    /// Most bytes of any piece.
    largest: usize,
}

/// Why a file cannot be sent on.
enum Unread {
    Io(Error, Option<i32>),
    Changed(&'static str),
}

impl Unread {
    fn after(self, sent: u64) -> UploadError {
        match self {
            Self::Io(error, os_error) => UploadError { os_error, ..UploadError::at(Step::Read, error, sent) },
            Self::Changed(how) => {
                UploadError::at(Step::Changed, Error::Abandoned(format!("the file changed: {how}")), sent)
            }
        }
    }
}

impl<R: Source> Window<'_, R> {
    /// Fills `piece` with what was read before and not sent, and as much more as makes `most` bytes. Empty only when all
    /// that was announced was read.
    async fn after<S: Steps>(
        &mut self,
        mut piece: Piece,
        before: &[u8],
        most: usize,
        steps: &mut S,
    ) -> Result<Piece, Unread> {
        let coming = self.left().saturating_add(before.len());
        if coming == 0 {
            piece.truncate(0);
            return Ok(piece);
        }
        // At once as large as it may become: a link that turns out to be fast costs no new one.
        piece.reuse(coming.min(self.largest.max(before.len())));
        piece.push(before);
        self.more(piece, most, steps).await
    }

    /// Fills it up to so many bytes, as far as there are any.
    async fn more<S: Steps>(&mut self, piece: Piece, most: usize, steps: &mut S) -> Result<Piece, Unread> {
        let before = piece.len();
        let wanted = self.left().min(most.saturating_sub(before));
        if wanted == 0 {
            return Ok(piece);
        }
        let (Room(piece), read) = self.source.fill(Room(piece), wanted).await;
        let read = read.map_err(|error| self.unreadable(&error))?;
        self.left -= read as u64;
        if read < wanted {
            return Err(Unread::Changed("it is shorter than announced"));
        }
        steps.read(&piece.bytes()[before..]);
        Ok(piece)
    }

    fn left(&self) -> usize {
        usize::try_from(self.left).unwrap_or(usize::MAX)
    }

    /// Whether the file really ends with the last announced byte.
    async fn ended(&mut self) -> Result<(), Unread> {
        match self.source.ended().await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Unread::Changed("it is longer than announced")),
            Err(error) => Err(self.unreadable(&error)),
        }
    }

    fn unreadable(&self, error: &std::io::Error) -> Unread {
        Unread::Io(Error::Read { path: self.name.into(), message: error.to_string() }, error.raw_os_error())
    }
}
