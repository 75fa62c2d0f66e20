//! The tasks behind a [`Connection`](super::connection::Connection): one reads and writes, one watches over it.
//!
//! It knows no command. It ends the connection on a close, an error, a panic, or when no byte moves for too long.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tokio_tungstenite::tungstenite::{Error as WsError, Message, Result as WsResult};

use super::connection::{Outgoing, Shared};
use super::dial::{Meter, Socket};
use super::error::Error;

/// How long the closing handshake may take.
pub(super) const CLOSE_GRACE: Duration = Duration::from_secs(2);
/// Requests that wait are handed to the socket together, up to about so many bytes: a system call costs more than a small
/// request.
const AT_ONCE: usize = 32 * 1024;
/// The close code for a message that is too large, by RFC 6455.
const TOO_LARGE: u16 = 1009;

/// When to ping and when to give up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) ping_interval: Duration,
    pub(super) silence_timeout: Duration,
}

/// The end of a connection without a close code.
pub(super) fn lost(message: impl Into<String>) -> Error {
    Error::ConnectionLost { code: None, message: message.into() }
}

/// The end that this side wanted.
pub(super) fn closed_by_us() -> Error {
    lost("this side closed the connection")
}

/// Runs a connection until it ends, and tells everyone why.
pub(super) async fn supervise(
    socket: Socket,
    meter: Arc<Meter>,
    queue: mpsc::Receiver<Outgoing>,
    shared: Arc<Shared>,
    pace: Pace,
) {
    let _answered = EndOnDrop(Arc::clone(&shared));
    let mut tasks = JoinSet::new();
    tasks.spawn(Drive::new(socket, queue, Arc::clone(&shared), pace.ping_interval).run());

    let error = tokio::select! {
        Some(joined) = tasks.join_next() => joined.unwrap_or_else(|error| {
            tracing::error!(%error, "a task of the connection panicked");
            lost("a task of the connection panicked")
        }),
        error = silence(&meter, pace.silence_timeout) => error,
        error = shared.ended() => error,
    };
    tracing::debug!(%error, "connection ended");
    shared.end(&error);
    // Lets the other task finish the closing handshake; what is left is aborted with the set.
    shared.closing.notify_one();
    let _ = tokio::time::timeout(CLOSE_GRACE, async { while tasks.join_next().await.is_some() {} }).await;
}

/// However the supervisor ends, by a panic or with the runtime: nobody waits on a dead connection.
struct EndOnDrop(Arc<Shared>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end(&lost("the connection is no longer driven"));
    }
}

/// Reads and writes in one task: a request and its reply then wake nobody but this one and the caller.
struct Drive {
    socket: Socket,
    queue: mpsc::Receiver<Outgoing>,
    shared: Arc<Shared>,
    ping: Interval,
    /// Requests that were given to the socket and may not have left it.
    leaving: Vec<u64>,
    flush: Flush,
    /// The last flush had to wait: the link is behind.
    held_up: bool,
    /// The last handle is gone.
    forsaken: bool,
}

/// How far what was given to the socket has left it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flush {
    /// All of it.
    Over,
    /// Something was given to it.
    Due,
    /// It takes no more for now.
    Waiting,
}

/// What ends the reading and writing.
enum Turn {
    /// This side says goodbye.
    Close,
    /// The connection has ended.
    Ended(Error),
    /// A write failed.
    Unsendable(WsError),
}

impl Drive {
    fn new(socket: Socket, queue: mpsc::Receiver<Outgoing>, shared: Arc<Shared>, ping_interval: Duration) -> Self {
        let mut ping = interval_at(Instant::now() + ping_interval, ping_interval);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { socket, queue, shared, ping, leaving: Vec::new(), flush: Flush::Over, held_up: false, forsaken: false }
    }

    async fn run(mut self) -> Error {
        let shared = Arc::clone(&self.shared);
        let mut closing = pin!(shared.closing.notified());
        let turn = poll_fn(|cx| {
            if let Poll::Ready(error) = self.poll_read(cx) {
                return Poll::Ready(Turn::Ended(error));
            }
            // Not in the middle of a frame: what was given to the socket goes out first.
            if let Poll::Ready(Err(error)) = self.poll_write(cx) {
                return Poll::Ready(Turn::Unsendable(error));
            }
            if self.flush == Flush::Over && (self.forsaken || closing.as_mut().poll(cx).is_ready()) {
                return Poll::Ready(Turn::Close);
            }
            Poll::Pending
        });
        match turn.await {
            Turn::Ended(error) => error,
            Turn::Unsendable(error) => self.unsendable(&error).await,
            Turn::Close => {
                let _ = self.socket.close(None).await;
                closed_by_us()
            }
        }
    }

    /// Takes whatever has come; ready when nothing will come any more.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        loop {
            let next = ready!(self.socket.poll_next_unpin(cx));
            if let Some(error) = received(&self.shared, next) {
                return Poll::Ready(error);
            }
        }
    }

    /// Sends what waits, as far as the socket takes it; ready when a write failed.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<WsResult<()>> {
        loop {
            if self.flush != Flush::Over {
                let flushed = self.socket.poll_flush_unpin(cx);
                if flushed.is_pending() {
                    self.flush = Flush::Waiting;
                }
                ready!(flushed)?;
                self.held_up = self.flush == Flush::Waiting;
                self.flush = Flush::Over;
                self.shared.depart(&self.leaving);
                self.leaving.clear();
            }
            if self.ping.poll_tick(cx).is_ready() {
                ready!(self.socket.poll_ready_unpin(cx))?;
                self.socket.start_send_unpin(Message::Ping(Bytes::new()))?;
                self.flush = Flush::Due;
                continue;
            }
            let mut given = 0;
            while let Poll::Ready(next) = self.poll_wanted(cx) {
                let Some(outgoing) = next else {
                    self.forsaken = true;
                    break;
                };
                given += outgoing.message.len();
                self.leaving.push(outgoing.seq);
                self.flush = Flush::Due;
                self.socket.start_send_unpin(outgoing.message)?;
                // On a slow link nothing is to lie in a buffer: what is given to the socket cannot be taken back.
                if given >= AT_ONCE || self.held_up {
                    break;
                }
            }
            if self.flush == Flush::Over {
                return Poll::Pending;
            }
        }
    }

    /// The next request that somebody waits for and that is not too old.
    fn poll_wanted(&mut self, cx: &mut Context<'_>) -> Poll<Option<Outgoing>> {
        loop {
            let Some(outgoing) = ready!(self.queue.poll_recv(cx)) else { return Poll::Ready(None) };
            let Outgoing { command, seq, not_after, ref message } = outgoing;
            if !self.shared.is_wanted(seq) {
                continue;
            }
            if Instant::now() > not_after {
                tracing::debug!(command, seq, "dropped a frame that waited too long");
                self.shared.overdue(seq);
                continue;
            }
            if command != "auth" {
                tracing::trace!(command, seq, bytes = message.len(), "sending");
            }
            return Poll::Ready(Some(outgoing));
        }
    }

    /// The end by a failed write. The other side may have said why, for example by a close frame that is still on its way
    /// in: it gets a moment.
    async fn unsendable(&mut self, error: &WsError) -> Error {
        let said = tokio::time::timeout(CLOSE_GRACE / 4, poll_fn(|cx| self.poll_read(cx))).await;
        said.unwrap_or_else(|_| lost(error.to_string()))
    }
}

/// Takes one message; why the connection has ended, if it has.
fn received(shared: &Shared, message: Option<WsResult<Message>>) -> Option<Error> {
    match message {
        Some(Ok(Message::Text(text))) => shared.receive(text.as_bytes()),
        Some(Ok(Message::Close(frame))) => {
            return Some(Error::ConnectionLost {
                code: frame.as_ref().map(|frame| frame.code.into()),
                message: match &frame {
                    Some(frame) if !frame.reason.is_empty() => {
                        format!("the server closed it with code {} ({})", u16::from(frame.code), frame.reason)
                    }
                    Some(frame) => format!("the server closed it with code {}", u16::from(frame.code)),
                    None => "the server closed it".into(),
                },
            });
        }
        // The server answers in text only.
        Some(Ok(Message::Binary(_))) => shared.ignore(),
        Some(Ok(_)) => {}
        Some(Err(WsError::Capacity(error))) => {
            // What this side would close with, and the same to the caller: something here is too large.
            return Some(Error::ConnectionLost {
                code: Some(TOO_LARGE),
                message: format!("a reply is too large: {error}"),
            });
        }
        Some(Err(error)) => return Some(lost(error.to_string())),
        None => return Some(lost("the server hung up")),
    }
    None
}

/// Ends when no byte came in, or none could go out, for `limit`.
async fn silence(meter: &Meter, limit: Duration) -> Error {
    loop {
        let (silence, stall) = (meter.silence(), meter.stall());
        if silence >= limit {
            return lost(format!("nothing was heard from the server for {} s", limit.as_secs_f32()));
        }
        if stall >= limit {
            return lost(format!("the server took nothing for {} s", limit.as_secs_f32()));
        }
        // Neither can be over before: the end comes at the limit, not at some later look.
        tokio::time::sleep(limit.saturating_sub(silence.max(stall)).max(Duration::from_millis(1))).await;
    }
}
