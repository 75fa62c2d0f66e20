//! The tasks behind a [`Connection`](super::connection::Connection): one reads, one writes, one watches over both.
//!
//! It knows no command. It ends the connection on a close, an error, a panic, or when no byte moves for too long.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_tungstenite::tungstenite::{Error as WsError, Message, Result as WsResult};

use super::connection::{Departure, Outgoing, Shared};
use super::dial::{Meter, Socket};
use super::error::Error;

/// How long the closing handshake may take.
pub(super) const CLOSE_GRACE: Duration = Duration::from_secs(2);
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
    let (sink, stream) = socket.split();
    let mut tasks = JoinSet::new();
    tasks.spawn(read(stream, Arc::clone(&shared)));
    tasks.spawn(write(sink, queue, Arc::clone(&shared), pace.ping_interval));

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

async fn read(mut stream: impl Stream<Item = WsResult<Message>> + Unpin, shared: Arc<Shared>) -> Error {
    loop {
        match stream.next().await {
            Some(Ok(Message::Text(text))) => shared.receive(text.as_bytes()),
            Some(Ok(Message::Close(frame))) => {
                return Error::ConnectionLost {
                    code: frame.as_ref().map(|frame| frame.code.into()),
                    message: match &frame {
                        Some(frame) if !frame.reason.is_empty() => {
                            format!("the server closed it with code {} ({})", u16::from(frame.code), frame.reason)
                        }
                        Some(frame) => format!("the server closed it with code {}", u16::from(frame.code)),
                        None => "the server closed it".into(),
                    },
                };
            }
            // The server answers in text only.
            Some(Ok(Message::Binary(_))) => shared.ignore(),
            Some(Ok(_)) => {}
            Some(Err(WsError::Capacity(error))) => {
                // What this side would close with, and the same to the caller: something here is too large.
                return Error::ConnectionLost {
                    code: Some(TOO_LARGE),
                    message: format!("a reply is too large: {error}"),
                };
            }
            Some(Err(error)) => return lost(error.to_string()),
            None => return lost("the server hung up"),
        }
    }
}

async fn write(
    mut sink: impl Sink<Message, Error = WsError> + Unpin,
    mut queue: mpsc::Receiver<Outgoing>,
    shared: Arc<Shared>,
    ping_interval: Duration,
) -> Error {
    let mut ping = interval_at(Instant::now() + ping_interval, ping_interval);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let next = tokio::select! {
            biased;
            () = shared.closing.notified() => None,
            _ = ping.tick() => {
                if let Err(error) = sink.send(Message::Ping(Bytes::new())).await {
                    return unsendable(&error).await;
                }
                continue;
            }
            next = queue.recv() => next,
        };
        let Some(Outgoing { message, command, seq, not_after, departed }) = next else {
            let _ = sink.close().await;
            return closed_by_us();
        };
        if departed.is_closed() {
            continue;
        }
        if Instant::now() > not_after {
            tracing::debug!(command, seq, "dropped a frame that waited too long");
            let _ = departed.send(Departure::Overdue);
            continue;
        }
        if command != "auth" {
            tracing::trace!(command, seq, bytes = message.len(), "sending");
        }
        if let Err(error) = sink.send(message).await {
            return unsendable(&error).await;
        }
        let _ = departed.send(Departure::At(Instant::now()));
    }
}

/// The end by a failed write. The reader may know better, for example the server's close code that is still on its way
/// in: it gets a moment to say it first.
async fn unsendable(error: &WsError) -> Error {
    let error = lost(error.to_string());
    tokio::time::sleep(CLOSE_GRACE / 4).await;
    error
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
