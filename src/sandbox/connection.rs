//! One client as its requests see it: who it is, where replies go, how it is told to end.
//!
//! It must not know of commands, nor read or write the socket itself.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::tungstenite::protocol::Message;

use super::commands::Answer;
use super::engine::Identity;
use super::monitor::{Monitors, Notice};
use crate::client::protocol::{Request, Response, Trace};
use crate::locks::lock;

/// What a connection is told to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Order {
    Serve,
    /// As if the host had died.
    Cut,
    Close(u16, String),
}

/// One client, as its requests see it. It may be gone while they still run.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) replies: mpsc::Sender<Message>,
    pub(super) order: watch::Sender<Order>,
    login: Mutex<Login>,
    monitors: Mutex<Monitors>,
    door: Arc<Door>,
    peer: IpAddr,
    seq: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Login {
    pub(super) attempts: u32,
    pub(super) identity: Option<Identity>,
    /// Held while nobody is logged in.
    pub(super) guest: Option<Guest>,
}

impl Connection {
    pub(super) fn new(replies: mpsc::Sender<Message>, guest: Option<Guest>, door: Arc<Door>, peer: IpAddr) -> Self {
        Self {
            replies,
            order: watch::Sender::new(Order::Serve),
            login: Mutex::new(Login { attempts: 0, identity: None, guest }),
            monitors: Mutex::default(),
            door,
            peer,
            seq: AtomicU64::new(1),
        }
    }

    pub(super) fn login(&self) -> MutexGuard<'_, Login> {
        lock(&self.login)
    }

    pub(super) fn monitors(&self) -> MutexGuard<'_, Monitors> {
        lock(&self.monitors)
    }

    /// Another user starts without subscriptions.
    pub(super) fn set_identity(&self, identity: Option<Identity>) {
        let guest = if identity.is_none() { self.door.enter(self.peer, usize::MAX) } else { None };
        let mut login = self.login();
        if login.identity != identity {
            self.monitors().clear();
        }
        login.identity = identity;
        login.guest = guest;
    }

    pub(super) fn cut(&self) {
        self.order.send_replace(Order::Cut);
    }

    pub(super) fn close(&self, code: u16, reason: &str) {
        self.order.send_if_modified(|order| {
            let serving = *order == Order::Serve;
            if serving {
                *order = Order::Close(code, reason.to_owned());
            }
            serving
        });
    }

    pub(super) async fn reply(&self, request: &Request, answer: Answer) {
        let mut response = Response {
            seq: self.seq.fetch_add(1, Ordering::Relaxed),
            request_seq: request.seq,
            command: request.command.clone(),
            success: true,
            ..Response::default()
        };
        match answer {
            Answer::Silence => return,
            Answer::Empty => {}
            Answer::Body(body) => response.body = Some(body),
            Answer::Refused { message, code } => {
                response.success = false;
                response.message = Some(message);
                response.code = code;
                response.trace = Some(Trace { file: "sandbox".into(), lineno: 0 });
            }
        }
        // A client that is gone hears nothing; what it asked for was done all the same.
        let _ = self.replies.send(Message::text(response.encode())).await;
    }

    /// Sends an event, waiting for room.
    pub(super) async fn tell(&self, notice: &Notice) {
        let _ = self.replies.send(self.event(notice)).await;
    }

    /// Sends those events that were asked for. A client that does not read misses some; nobody waits for it.
    pub(super) fn tell_subscribed<'a>(&self, notices: impl Iterator<Item = &'a Notice>) {
        let monitors = self.monitors();
        if monitors.is_empty() {
            return;
        }
        for notice in notices.filter(|notice| monitors.want(notice)) {
            if self.replies.try_send(self.event(notice)).is_err() {
                tracing::debug!(event = notice.event, "a subscriber of the sandbox misses an event");
            }
        }
    }

    fn event(&self, notice: &Notice) -> Message {
        let seq = self.seq.fetch_add(1, Ordering::Relaxed);
        let mut event = json!({"type": "event", "seq": seq, "event": notice.event, "body": notice.body});
        let id = notice.id();
        if !id.is_empty() {
            event["id"] = id.into();
        }
        Message::text(event.to_string())
    }
}

/// Counts the sockets of each address that have not logged in.
#[derive(Debug, Default)]
pub(super) struct Door {
    waiting: Mutex<HashMap<IpAddr, usize>>,
}

#[derive(Debug)]
pub(super) struct Guest {
    door: Arc<Door>,
    peer: IpAddr,
}

impl Door {
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        lock(&self.waiting)
    }

    pub(super) fn enter(self: &Arc<Self>, peer: IpAddr, limit: usize) -> Option<Guest> {
        let mut waiting = self.lock();
        let count = waiting.entry(peer).or_insert(0);
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Guest { door: Arc::clone(self), peer })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut waiting = self.door.lock();
        if let Some(count) = waiting.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.peer);
            }
        }
    }
}
