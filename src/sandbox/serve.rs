//! The sockets: accepted and ended, one reader and one writer a connection, every message its own task.
//!
//! It must not know what a command does, nor who is logged in.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message};
use tokio_tungstenite::tungstenite::{Bytes, Error as SocketError};

use super::connection::{Connection, Door, Order};
use super::engine::Engine;
use super::{greet, requests};
use crate::client::protocol::{Frame, Request};
use crate::locks::lock;

/// Connections at one time, of HTTP too; more are dropped at once.
pub const MAX_CONNECTIONS: usize = 4_096;

/// Requests of one connection that are being worked on or wait for a slot; beyond it the connection is not read.
pub const MAX_REQUESTS: usize = 100_000;

/// Payload in flight of all connections, in KiB (1 GiB): the real server has no such bound, a test machine needs one.
const MAX_PAYLOAD_KIB: usize = 1024 * 1024;

/// Replies that wait for the writer of one connection; beyond it their handlers wait.
const MAX_REPLIES: usize = 1_024;

/// How often subscribers are told of counts that changed.
const SUM_UP_INTERVAL: Duration = Duration::from_millis(250);

/// How long a peer gets to answer a close frame before its socket is dropped.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

pub(super) type Socket = WebSocketStream<TcpStream>;

/// How the server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Serve,
    /// Every connection gets CLOSE 1012.
    Stop,
    /// Every socket is cut.
    Abort,
}

/// Everything that all connections share.
#[derive(Debug)]
pub(super) struct Hub {
    pub(super) engine: Arc<Engine>,
    pub(super) door: Arc<Door>,
    connections: Mutex<HashMap<u64, Arc<Connection>>>,
    pub(super) accepted: AtomicU64,
    payload: Arc<Semaphore>,
}

impl Hub {
    pub(super) fn new(engine: Arc<Engine>) -> Self {
        Self {
            engine,
            door: Arc::default(),
            connections: Mutex::default(),
            accepted: AtomicU64::new(0),
            payload: Arc::new(Semaphore::new(MAX_PAYLOAD_KIB)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        lock(&self.connections)
    }

    pub(super) fn connected(&self) -> usize {
        self.lock().len()
    }

    /// Hands the events out to whoever asked for them.
    fn spread(&self) {
        let notices = self.engine.take_notices();
        if !notices.is_empty() {
            self.lock().values().for_each(|connection| connection.tell_subscribed(notices.iter()));
        }
    }

    pub(super) fn cut_all(&self) {
        self.lock().values().for_each(|connection| connection.cut());
    }

    pub(super) fn close_all(&self, code: u16, reason: &str) {
        self.lock().values().for_each(|connection| connection.close(code, reason));
    }
}

/// Accepts and serves until the phase changes; afterwards nothing of the server is left.
pub(super) async fn serve(hub: Arc<Hub>, listener: TcpListener, mut phase: watch::Receiver<Phase>) {
    let mut connections = JoinSet::new();
    let mut sweep = tokio::time::interval(hub.engine.sweep_interval());
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut sum_up = tokio::time::interval(SUM_UP_INTERVAL);
    sum_up.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while *phase.borrow() == Phase::Serve {
        tokio::select! {
            changed = phase.changed() => if changed.is_err() { break },
            _ = sweep.tick() => hub.engine.sweep(Instant::now()),
            () = hub.engine.noticed.notified() => hub.spread(),
            _ = sum_up.tick() => {
                hub.engine.sum_up();
                hub.spread();
            }
            Some(ended) = connections.join_next() => note_panic(&hub.engine, &ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) if connections.len() < MAX_CONNECTIONS => {
                    connections.spawn(connect(Arc::clone(&hub), stream, peer));
                }
                Ok(_) => tracing::warn!("sandbox is full, connection dropped"),
                Err(error) => {
                    tracing::warn!(%error, "sandbox cannot accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
    drop(listener);
    let stopping = *phase.borrow() == Phase::Stop && phase.has_changed().is_ok();
    hub.engine.shut_down();
    if stopping {
        hub.close_all(1012, "");
        let all = async { while connections.join_next().await.is_some() {} };
        // Twice: once for the close frame to leave, once for its answer.
        let _ = tokio::time::timeout(CLOSE_GRACE * 2, all).await;
    }
    connections.shutdown().await;
}

fn note_panic(engine: &Engine, ended: &Result<(), tokio::task::JoinError>) {
    if ended.as_ref().is_err_and(tokio::task::JoinError::is_panic) {
        engine.saw_panic();
    }
}

async fn connect(hub: Arc<Hub>, stream: TcpStream, peer: SocketAddr) {
    // Small requests and replies would wait for each other otherwise; failing to set it only costs time.
    let _ = stream.set_nodelay(true);
    let Some((socket, guest)) = greet::greet(&hub, stream, peer).await else { return };
    let (replies, outgoing) = mpsc::channel(MAX_REPLIES);
    let connection = Arc::new(Connection::new(replies, Some(guest), Arc::clone(&hub.door), peer.ip()));
    let id = hub.accepted.fetch_add(1, Ordering::Relaxed);
    hub.lock().insert(id, Arc::clone(&connection));
    let registered = Registered { hub: &hub, id };
    converse(&hub, &connection, socket, outgoing).await;
    drop(registered);
}

/// Takes the connection off the list however it ends.
struct Registered<'a> {
    hub: &'a Hub,
    id: u64,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        let connection = self.hub.lock().remove(&self.id);
        // Requests may hold the connection for long; its place among the guests is free at once.
        if let Some(connection) = connection {
            connection.login().guest = None;
        }
    }
}

async fn converse(hub: &Arc<Hub>, connection: &Arc<Connection>, socket: Socket, outgoing: mpsc::Receiver<Message>) {
    let (sink, mut stream) = socket.split();
    // In a set, so that the writer ends with this connection whatever happens.
    let mut writer = JoinSet::new();
    writer.spawn(write_all(sink, outgoing));
    let Some((code, reason)) = read_all(hub, connection, &mut stream).await else { return };
    let frame = CloseFrame { code: code.into(), reason: reason.into() };
    let goodbye = async {
        connection.replies.send(Message::Close(Some(frame))).await.ok()?;
        writer.join_next().await?.ok()?
    };
    let Ok(Some(sink)) = tokio::time::timeout(CLOSE_GRACE, goodbye).await else { return };
    drain(stream, sink).await;
}

/// Waits for the peer to close, so that a reset does not overtake the close frame.
async fn drain(mut stream: SplitStream<Socket>, sink: SplitSink<Socket, Message>) {
    let rest = async {
        while let Some(Ok(_)) = stream.next().await {}
        // After an oversized message the stream is over for the codec, not for the kernel.
        if let Ok(mut socket) = stream.reunite(sink) {
            let mut waste = vec![0; 64 * 1024];
            while matches!(socket.get_mut().read(&mut waste).await, Ok(count) if count > 0) {}
        }
    };
    let _ = tokio::time::timeout(CLOSE_GRACE, rest).await;
}

/// Sends until a close frame was sent; none when the socket broke.
async fn write_all(
    mut sink: SplitSink<Socket, Message>,
    mut outgoing: mpsc::Receiver<Message>,
) -> Option<SplitSink<Socket, Message>> {
    while let Some(message) = outgoing.recv().await {
        let last = message.is_close();
        sink.feed(message).await.ok()?;
        if last || outgoing.is_empty() {
            sink.flush().await.ok()?;
        }
        if last {
            return Some(sink);
        }
    }
    None
}

/// Reads until the connection is over; the close frame to send, if one is to be sent.
async fn read_all(
    hub: &Arc<Hub>,
    connection: &Arc<Connection>,
    stream: &mut SplitStream<Socket>,
) -> Option<(u16, String)> {
    let options = &hub.engine.options;
    let mut order = connection.order.subscribe();
    let mut ping = tokio::time::interval(options.ping_interval.max(Duration::from_millis(10)));
    ping.reset();
    let mut last_pong = Instant::now();
    let requests = Arc::new(Semaphore::new(MAX_REQUESTS));
    loop {
        let message = tokio::select! {
            biased;
            changed = order.changed() => {
                changed.ok()?;
                match order.borrow_and_update().clone() {
                    Order::Serve => continue,
                    Order::Cut => return None,
                    Order::Close(code, reason) => return Some((code, reason)),
                }
            }
            _ = ping.tick() => {
                if last_pong.elapsed() > options.silent_after {
                    return Some((1011, "keepalive ping timeout".into()));
                }
                // With a full queue the peer does not read, and will not answer a ping either.
                let _ = connection.replies.try_send(Message::Ping(Bytes::new()));
                continue;
            }
            message = stream.next() => message,
        };
        let frame = match message? {
            Ok(Message::Text(text)) => Frame::Text(text.as_str().to_owned()),
            Ok(Message::Binary(bytes)) => Frame::Binary(bytes),
            Ok(Message::Pong(_)) => {
                last_pong = Instant::now();
                continue;
            }
            Ok(Message::Ping(_) | Message::Frame(_)) => continue,
            // The codec answers a close itself, in the read that follows.
            Ok(Message::Close(_)) => {
                let _ = tokio::time::timeout(CLOSE_GRACE, async { while stream.next().await.is_some() {} }).await;
                return None;
            }
            Err(SocketError::Capacity(_)) => return Some((1009, String::new())),
            Err(SocketError::Utf8(_)) => return Some((1007, String::new())),
            Err(_) => return None,
        };
        let size = match &frame {
            Frame::Text(text) => text.len(),
            Frame::Binary(bytes) => bytes.len(),
        };
        // Malformed input is never answered, and never closes the socket.
        let Ok(request) = Request::decode(&frame) else { continue };
        let kib = u32::try_from((size / 1024).min(MAX_PAYLOAD_KIB)).unwrap_or(u32::MAX);
        let request_permit = Arc::clone(&requests).acquire_owned().await.ok()?;
        let payload_permit = Arc::clone(&hub.payload).acquire_many_owned(kib).await.ok()?;
        start_request(hub, connection, request, size, (request_permit, payload_permit));
    }
}

/// Every message is its own task: it outlives the connection, and a later one may overtake it.
fn start_request(
    hub: &Arc<Hub>,
    connection: &Arc<Connection>,
    request: Request,
    size: usize,
    permits: (OwnedSemaphorePermit, OwnedSemaphorePermit),
) {
    let (hub, connection) = (Arc::clone(hub), Arc::clone(connection));
    // Decided on arrival: a request sent before the login was answered comes too early.
    let identity = connection.login().identity.clone();
    tokio::spawn(async move {
        let _permits = permits;
        let engine = &hub.engine;
        let work = std::panic::AssertUnwindSafe(requests::handle(engine, &connection, identity, request, size));
        let caught = tokio::select! {
            biased;
            () = engine.wait_down() => Ok(()),
            caught = work.catch_unwind() => caught,
        };
        if caught.is_err() {
            engine.saw_panic();
        }
    });
}
