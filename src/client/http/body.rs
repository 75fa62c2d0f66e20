//! A file on its way: read piece by piece as the connection takes it, and watched for its length.
//!
//! The request announces the length. The last piece is held back until the file has really ended there, so that a file
//! that shrank or grew breaks the request off instead of arriving as something else. It must not know of HTTP replies.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, ReadBuf};

use crate::client::error::Error;

/// Bytes read at a time; a second copy of a piece waits in the connection.
const PIECE: usize = 64 * 1024;

/// How far the body is, for the one who waits for the reply.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    sent: AtomicU64,
    finished: AtomicBool,
    reading: AtomicBool,
    failure: Mutex<Option<Error>>,
}

impl Gauge {
    /// Bytes handed to the connection.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Whether these were all, and the file ended there.
    pub(super) fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    /// Whether the connection waits for the file, and not the other way round.
    pub(super) fn is_reading(&self) -> bool {
        self.reading.load(Ordering::Relaxed)
    }

    /// Why the file broke the request off.
    pub(super) fn failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Wakes the connection when the file has more. It need not come for it at once: its own buffer may be full, and then the
/// file is no longer what is waited for.
struct ReadAgain {
    gauge: Arc<Gauge>,
    connection: Waker,
}

impl Wake for ReadAgain {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.gauge.reading.store(false, Ordering::Relaxed);
        self.connection.wake_by_ref();
    }
}

/// Told how many bytes are handed over in all, and whether these are all.
pub(super) type Told = Box<dyn FnMut(u64, bool) + Send + Sync>;

/// The body of a request.
pub(super) struct FileBody<R> {
    /// Never locked: a body must be `Sync`, a reader need not.
    reader: Mutex<R>,
    name: String,
    left: u64,
    scratch: Box<[u8]>,
    /// The last piece, until the file has ended.
    held: Option<Bytes>,
    done: bool,
    gauge: Arc<Gauge>,
    told: Told,
}

impl<R> FileBody<R> {
    /// Exactly `size` bytes. An empty body is never asked for anything: whether its file is empty is the caller's to see.
    pub(super) fn new(reader: R, name: &str, size: u64, gauge: Arc<Gauge>, told: Told) -> Self {
        let scratch = vec![0; usize::try_from(size).unwrap_or(PIECE).clamp(1, PIECE)].into_boxed_slice();
        let done = size == 0;
        gauge.finished.store(done, Ordering::Release);
        Self { reader: Mutex::new(reader), name: name.to_owned(), left: size, scratch, held: None, done, gauge, told }
    }

    fn give(&mut self, piece: Bytes) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let sent = self.gauge.sent.fetch_add(piece.len() as u64, Ordering::Relaxed) + piece.len() as u64;
        (self.told)(sent, self.done);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn fail(&mut self, error: Error) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        *self.gauge.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
        Poll::Ready(Some(Err(error)))
    }
}

impl<R: AsyncRead + Unpin> FileBody<R> {
    /// Up to `most` bytes into the scratch; 0 at the end of the file.
    fn poll_read(&mut self, cx: &mut Context<'_>, most: u64) -> Poll<Result<usize, Error>> {
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(self.scratch.len());
        let mut buffer = ReadBuf::new(&mut self.scratch[..most]);
        let reader = self.reader.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Before the read: the wake may come at once, and from another thread.
        self.gauge.reading.store(true, Ordering::Relaxed);
        let waker = Waker::from(Arc::new(ReadAgain { gauge: Arc::clone(&self.gauge), connection: cx.waker().clone() }));
        let poll = Pin::new(reader).poll_read(&mut Context::from_waker(&waker), &mut buffer);
        if poll.is_ready() {
            self.gauge.reading.store(false, Ordering::Relaxed);
        }
        let read = buffer.filled().len();
        Poll::Ready(match ready!(poll) {
            Ok(()) => Ok(read),
            Err(error) => Err(Error::Read { path: self.name.clone().into(), message: error.to_string() }),
        })
    }
}

impl<R: AsyncRead + Unpin> Body for FileBody<R> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        if this.done {
            return Poll::Ready(None);
        }
        if this.left > 0 {
            match ready!(this.poll_read(cx, this.left)) {
                Err(error) => return this.fail(error),
                Ok(0) => return this.fail(changed("shorter")),
                Ok(read) => {
                    let piece = Bytes::copy_from_slice(&this.scratch[..read]);
                    this.left -= read as u64;
                    if this.left > 0 {
                        return this.give(piece);
                    }
                    this.held = Some(piece);
                }
            }
        }
        match ready!(this.poll_read(cx, 1)) {
            Err(error) => this.fail(error),
            Ok(0) => {
                this.done = true;
                this.gauge.finished.store(true, Ordering::Release);
                let last = this.held.take().unwrap_or_default();
                this.give(last)
            }
            Ok(_) => this.fail(changed("longer")),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.done
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left + self.held.as_ref().map_or(0, |held| held.len() as u64))
    }
}

/// The file is not what was announced.
pub(super) fn changed(how: &str) -> Error {
    Error::Abandoned(format!(
        "the file changed: it is {how} than announced; a server that takes broken requests may have committed its beginning"
    ))
}
