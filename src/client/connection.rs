//! One logged-in `WebSocket`: requests go out, replies find the one who waits.
//!
//! One task owns the socket, reads and writes (a cancelled send could leave half a frame); another one supervises it
//! and notices silence and panics. Replies are matched on `request_seq` alone, in any order; those that nobody waits for
//! are ignored. When the connection ends, whoever waits learns why, and a connection never comes back: see
//! [`reconnect`](super::reconnect) for that.
//!
//! It must not know what the commands mean, and it never logs an `auth` or any content: command, number and size only.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, broadcast, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use super::dial::{MAX_OUTGOING, dial};
use super::driver;
use super::error::{Error, Result, ServerError};
use super::options::ConnectOptions;
use super::piece::Piece;
use super::protocol::{self, Arguments, Event, Incoming, Response, answered_request};

/// Frames that may wait for the socket's task; a caller beyond that waits for room.
const OUTGOING_QUEUE: usize = 64;
/// Events a slow listener may lag behind before it loses the oldest.
pub(super) const EVENT_QUEUE: usize = 256;
/// A frame that could not leave for this long is dropped: its pipe may have been reaped (after 60 s of silence), and the
/// late frame would land in the object of whoever got that pipe's number next.
pub const MAX_QUEUED: Duration = Duration::from_secs(45);
/// What an unsent request is called in [`Error::TimedOut`].
pub const NOT_SENT: &str = "a request that could not be sent";

/// How long to wait for a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// This long after the request left for the socket.
    Timeout(Duration),
    /// Until the connection ends: the caller watches over it by other means.
    Connection,
}

/// A logged-in connection; clones share it. It closes when the last one is dropped.
#[derive(Debug, Clone)]
pub struct Connection {
    outgoing: mpsc::Sender<Outgoing>,
    shared: Arc<Shared>,
    request_timeout: Duration,
    user_token: Option<Arc<SecretString>>,
}

/// A frame on its way to the socket's task. Its waiter is asked whether it is still wanted, and told when it left.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) message: Message,
    pub(super) command: &'static str,
    pub(super) seq: u64,
    /// Not to be sent any more after this.
    pub(super) not_after: Instant,
}

/// The bytes of a request.
pub(super) enum Payload<'a> {
    /// None: a text frame.
    None,
    /// Copied behind the header.
    Bytes(Bytes),
    /// Sent as they lie, with the header before them.
    Piece(&'a mut Piece),
}

impl Payload<'_> {
    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Bytes(bytes) => bytes.len(),
            Self::Piece(piece) => piece.len(),
        }
    }
}

/// Somebody who waits for a reply.
#[derive(Debug)]
struct Waiting {
    reply: oneshot::Sender<Result<Response>>,
    /// When the request was handed to the socket.
    departed: Option<Instant>,
}

/// What the tasks of a connection and its handles have in common.
#[derive(Debug)]
pub(super) struct Shared {
    waiters: Mutex<HashMap<u64, Waiting>>,
    seq: AtomicU64,
    ended: watch::Sender<Option<Error>>,
    events: broadcast::Sender<Arc<Event>>,
    /// Asks the socket's task to say goodbye.
    pub(super) closing: Notify,
    ignored: AtomicU64,
    late_grants: AtomicU64,
}

impl Connection {
    /// Connects and logs in. [`Error::Authentication`] if the credential is refused, [`Error::Connect`] if there is no
    /// such server.
    pub async fn open(options: &ConnectOptions) -> Result<Self> {
        Self::open_telling(options, broadcast::Sender::new(EVENT_QUEUE)).await
    }

    /// The same with somewhere to tell events that outlives this connection.
    pub(super) async fn open_telling(options: &ConnectOptions, events: broadcast::Sender<Arc<Event>>) -> Result<Self> {
        // Boxed: a handshake is rare and its state large, and callers hold this future in theirs.
        let (socket, meter) = Box::pin(dial(options)).await?;
        let (outgoing, queue) = mpsc::channel(OUTGOING_QUEUE);
        let shared = Arc::new(Shared {
            waiters: Mutex::default(),
            seq: AtomicU64::new(1),
            ended: watch::Sender::new(None),
            events,
            closing: Notify::new(),
            ignored: AtomicU64::new(0),
            late_grants: AtomicU64::new(0),
        });
        let pace = driver::Pace { ping_interval: options.ping_interval, silence_timeout: options.silence_timeout };
        // It sees the panics of its tasks and ends with the connection.
        tokio::spawn(driver::supervise(socket, meter, queue, Arc::clone(&shared), pace));

        let mut connection = Self { outgoing, shared, request_timeout: options.request_timeout, user_token: None };
        let mut arguments = Arguments::new();
        arguments.insert("auth".into(), options.credential.expose_secret().into());
        arguments.insert("clientName".into(), options.client_name.as_str().into());
        arguments.insert("clientVersion".into(), env!("CARGO_PKG_VERSION").into());
        let reply = connection.request("auth", arguments, None, Wait::Timeout(options.request_timeout)).await?;
        connection.user_token = reply
            .body
            .as_ref()
            .and_then(|body| body.get("userToken"))
            .and_then(Value::as_str)
            .filter(|token| !token.is_empty())
            .map(|token| Arc::new(SecretString::from(token)));
        tracing::debug!(uri = %options.uri, "connected");
        Ok(connection)
    }

    /// Sends a request and waits for its reply; a refusal (`success:false`) is an error.
    ///
    /// The time runs from the moment the frame was handed to the socket. A frame that could not leave within
    /// [`MAX_QUEUED`] is not sent at all. Dropping the future withdraws a request that has not left yet.
    pub async fn request(
        &self,
        command: &'static str,
        arguments: Arguments,
        payload: Option<Bytes>,
        wait: Wait,
    ) -> Result<Response> {
        self.request_until(command, arguments, payload, wait, Instant::now() + MAX_QUEUED).await
    }

    /// The same with the caller's own moment after which the frame must not leave.
    pub(super) async fn request_until(
        &self,
        command: &'static str,
        arguments: Arguments,
        payload: Option<Bytes>,
        wait: Wait,
        not_after: Instant,
    ) -> Result<Response> {
        let payload = payload.map_or(Payload::None, Payload::Bytes);
        let reply = self.exchange(command, &arguments, payload, wait, not_after).await;
        reply.map_err(|error| {
            let secrets = ["auth", "token"].map(|key| arguments.get(key).and_then(Value::as_str));
            secrets.into_iter().flatten().fold(error, |error, secret| error.without(&SecretString::from(secret)))
        })
    }

    /// The same with arguments that are written as they are, and with every kind of payload. An error may hold what is in
    /// the arguments: secrets are for the caller to take out.
    pub(super) async fn exchange(
        &self,
        command: &'static str,
        arguments: &impl Serialize,
        payload: Payload<'_>,
        wait: Wait,
        not_after: Instant,
    ) -> Result<Response> {
        // Looked at before it is copied into a frame, and once more with its header.
        let fits = |bytes: usize| {
            if bytes <= MAX_OUTGOING {
                return Ok(());
            }
            Err(Error::InvalidData(format!(
                "a {command} request of {bytes} bytes is larger than the limit of {MAX_OUTGOING}"
            )))
        };
        fits(payload.len())?;
        let seq = self.shared.seq.fetch_add(1, Ordering::Relaxed);
        let message = match payload {
            Payload::None => Message::text(protocol::header(seq, command, arguments)),
            Payload::Bytes(bytes) => {
                Message::binary(Piece::of(&bytes).frame(protocol::header(seq, command, arguments).as_bytes()))
            }
            Payload::Piece(piece) => Message::binary(piece.frame(protocol::header(seq, command, arguments).as_bytes())),
        };
        fits(message.len())?;
        let mut waiter = self.shared.register(seq)?;
        let outgoing = Outgoing { message, command, seq, not_after };
        // Where it fails, the connection has ended, which the waiter is told.
        if let Err(TrySendError::Full(outgoing)) = self.outgoing.try_send(outgoing) {
            tokio::select! {
                biased;
                reply = &mut waiter.reply => return answer(command, reply),
                _ = self.outgoing.send(outgoing) => {}
            }
        }
        let Wait::Timeout(after) = wait else {
            // Never for ever: the driver's liveness check ends the connection, and that answers every waiter.
            return answer(command, (&mut waiter.reply).await);
        };
        let mut until = Instant::now() + after;
        loop {
            if let Ok(reply) = tokio::time::timeout_at(until, &mut waiter.reply).await {
                return answer(command, reply);
            }
            // The time runs from the departure; what still waits for it will be sent or dropped in time.
            until = self.shared.departed(seq).unwrap_or_else(Instant::now) + after;
            if until <= Instant::now() {
                return Err(Error::TimedOut { what: command, after });
            }
        }
    }

    /// What the server tells unasked, from now on. A listener that lags behind loses the oldest events.
    pub fn events(&self) -> broadcast::Receiver<Arc<Event>> {
        self.shared.events.subscribe()
    }

    /// Waits until the connection has ended and says why.
    pub async fn closed(&self) -> Error {
        self.shared.ended().await
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.shared.ended.borrow().is_some()
    }

    /// Says goodbye and waits (shortly) until the connection has ended. Requests in flight fail.
    pub async fn close(&self) {
        self.shared.closing.notify_one();
        let goodbye = tokio::time::timeout(driver::CLOSE_GRACE, self.shared.ended());
        if goodbye.await.is_err() {
            self.shared.end(&driver::closed_by_us());
        }
    }

    /// The limit of an ordinary reply on this connection.
    pub fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    /// The credential that the server suggests for later logins, if it sent one.
    pub fn user_token(&self) -> Option<&SecretString> {
        self.user_token.as_deref()
    }

    /// Messages that were ignored so far: malformed, or replies that nobody waited for.
    pub fn ignored(&self) -> u64 {
        self.shared.ignored.load(Ordering::Relaxed)
    }

    /// Pipes that were granted after their caller had gone. Each blocks a slot of its task for up to 90 s.
    pub fn late_grants(&self) -> u64 {
        self.shared.late_grants.load(Ordering::Relaxed)
    }
}

fn answer(command: &'static str, reply: Result<Result<Response>, oneshot::error::RecvError>) -> Result<Response> {
    // The sender is only ever dropped by answering; this is the belt to those braces.
    let reply = reply.map_err(|_| driver::lost("its waiter was dropped"))??;
    if reply.success {
        return Ok(reply);
    }
    let Response { message, code, trace, .. } = reply;
    Err(ServerError { command: command.into(), message: message.unwrap_or_default(), code, trace }.into_error())
}

/// A place among the waiters, given up on drop.
struct Waiter<'a> {
    shared: &'a Shared,
    seq: u64,
    reply: oneshot::Receiver<Result<Response>>,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.shared.waiters().remove(&self.seq);
    }
}

impl Shared {
    fn waiters(&self) -> MutexGuard<'_, HashMap<u64, Waiting>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place among the waiters. Their number is that of the callers' futures: each leaves with its future.
    fn register(&self, seq: u64) -> Result<Waiter<'_>> {
        let (sender, reply) = oneshot::channel();
        let mut waiters = self.waiters();
        // Looked at under the lock: `end` answers everyone who is in the map, and nobody may come in after it.
        if let Some(error) = &*self.ended.borrow() {
            return Err(error.clone());
        }
        waiters.insert(seq, Waiting { reply: sender, departed: None });
        Ok(Waiter { shared: self, seq, reply })
    }

    /// Whether anybody still wants the reply to a request that has not left.
    pub(super) fn is_wanted(&self, seq: u64) -> bool {
        self.waiters().contains_key(&seq)
    }

    /// A request will not leave any more.
    pub(super) fn overdue(&self, seq: u64) {
        if let Some(waiting) = self.waiters().remove(&seq) {
            let _ = waiting.reply.send(Err(Error::TimedOut { what: NOT_SENT, after: MAX_QUEUED }));
        }
    }

    /// These requests were handed to the socket in this moment.
    pub(super) fn depart(&self, requests: &[u64]) {
        let now = Some(Instant::now());
        let mut waiters = self.waiters();
        for seq in requests {
            if let Some(waiting) = waiters.get_mut(seq) {
                waiting.departed = now;
            }
        }
    }

    /// When a request was handed to the socket.
    fn departed(&self, seq: u64) -> Option<Instant> {
        self.waiters().get(&seq)?.departed
    }

    /// Ends the connection once; later reasons do not count.
    pub(super) fn end(&self, error: &Error) {
        let mut waiters = self.waiters();
        let first = self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                *ended = Some(error.clone());
            }
            first
        });
        if first {
            for (_, waiter) in waiters.drain() {
                let _ = waiter.reply.send(Err(error.clone()));
            }
        }
    }

    /// Waits for the end.
    pub(super) async fn ended(&self) -> Error {
        let mut ended = self.ended.subscribe();
        match ended.wait_for(Option::is_some).await {
            Ok(error) => error.clone().unwrap_or_else(driver::closed_by_us),
            Err(_) => driver::closed_by_us(),
        }
    }

    /// Takes one message of the server.
    pub(super) fn receive(&self, message: &[u8]) {
        match Incoming::decode(message) {
            Ok(Incoming::Response(reply)) => {
                let waiter = self.waiters().remove(&reply.request_seq);
                if reply.command != "auth" {
                    tracing::trace!(command = %reply.command, seq = reply.request_seq, bytes = message.len(), "received");
                }
                // A waiter that was cancelled in this very moment counts as none.
                let unclaimed = match waiter {
                    Some(waiter) => waiter.reply.send(Ok(reply)).err().and_then(Result::ok),
                    None => Some(reply),
                };
                if let Some(reply) = unclaimed {
                    self.ignored.fetch_add(1, Ordering::Relaxed);
                    if reply.body.as_ref().is_some_and(|body| body.get("pipe_id").is_some_and(Value::is_u64)) {
                        self.late_grants.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            Ok(Incoming::Event(event)) => {
                tracing::trace!(event = %event.event, bytes = message.len(), "received an event");
                // An error only means that nobody listens.
                let _ = self.events.send(Arc::new(event));
            }
            Err(error) => {
                let waiter = answered_request(message).and_then(|request| self.waiters().remove(&request));
                if let Some(waiter) = waiter {
                    tracing::warn!(%error, bytes = message.len(), "a reply of the server cannot be read");
                    // An error only means that the waiter was cancelled in this very moment.
                    let _ = waiter.reply.send(Err(Error::Protocol(format!("its reply cannot be read: {error}"))));
                } else {
                    self.ignore();
                    tracing::debug!(%error, bytes = message.len(), "ignored a message of the server");
                }
            }
        }
    }

    /// Counts a message that means nothing here.
    pub(super) fn ignore(&self) {
        self.ignored.fetch_add(1, Ordering::Relaxed);
    }
}
