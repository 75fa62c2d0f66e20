//! What the server tells unasked: subscriptions (`rrext_monitor`) and the stream of events.
//!
//! It knows no event by name. Subscriptions belong to the client and are asked for anew on every new connection; the
//! stream is bounded, and who reads too slowly is told how much was lost.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::{Stream, StreamExt as _, stream};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::connection::{Connection, Wait};
use super::error::Result;
use super::progress::Notice;
use super::protocol::{Arguments, Event};
use super::reconnect::Client;

/// The command behind every subscription.
const MONITOR: &str = "rrext_monitor";

/// What to hear of.
#[derive(Debug, Clone)]
pub struct Monitor {
    about: About,
    pipe_id: Option<u64>,
    scope: Option<Scope>,
}

#[derive(Debug, Clone)]
enum About {
    Task(SecretString),
    Project { project_id: String, source: String },
}

#[derive(Debug, Clone)]
enum Scope {
    Team(String),
    Deploy,
}

impl Monitor {
    /// A running task.
    pub fn task(token: &SecretString) -> Self {
        Self { about: About::Task(token.clone()), pipe_id: None, scope: None }
    }

    /// The caller's own run of a source of a project, whether or not it runs now.
    pub fn project(project_id: impl Into<String>, source: impl Into<String>) -> Self {
        let about = About::Project { project_id: project_id.into(), source: source.into() };
        Self { about, pipe_id: None, scope: None }
    }

    /// Only what concerns this pipe, see [`DataPipe::pipe_id`](super::DataPipe::pipe_id).
    #[must_use]
    pub fn pipe(mut self, pipe_id: u64) -> Self {
        self.pipe_id = Some(pipe_id);
        self
    }

    /// A team's deployed run of the project instead of the caller's own.
    #[must_use]
    pub fn team(mut self, team_id: impl Into<String>) -> Self {
        self.scope = Some(Scope::Team(team_id.into()));
        self
    }

    /// The caller's own deployed run of the project instead of the one in development.
    #[must_use]
    pub fn deploy(mut self) -> Self {
        self.scope = Some(Scope::Deploy);
        self
    }

    /// What stands for it on the wire, without the types; two monitors are the same if this is.
    fn arguments(&self) -> Arguments {
        let mut arguments = Arguments::new();
        match &self.about {
            About::Task(token) => {
                arguments.insert("token".into(), token.expose_secret().into());
            }
            About::Project { project_id, source } => {
                arguments.insert("projectId".into(), project_id.as_str().into());
                arguments.insert("source".into(), source.as_str().into());
                match &self.scope {
                    Some(Scope::Team(team)) => drop(arguments.insert("teamId".into(), team.as_str().into())),
                    Some(Scope::Deploy) => drop(arguments.insert("runKind".into(), "deploy".into())),
                    None => {}
                }
            }
        }
        if let Some(pipe_id) = self.pipe_id {
            arguments.insert("pipeId".into(), pipe_id.into());
        }
        arguments
    }
}

/// The subscriptions of a client: how often each type of each monitor was asked for.
#[derive(Default)]
pub(super) struct Monitors {
    /// Held while the server is told, so that it hears of changes in their order.
    entries: Mutex<Vec<Entry>>,
}

struct Entry {
    monitor: Monitor,
    types: BTreeMap<String, usize>,
}

/// Of a subscription as the server is to know it; the whole set of types counts.
async fn subscribe(connection: &Connection, monitor: &Monitor, types: &BTreeMap<String, usize>) -> Result<()> {
    let mut arguments = monitor.arguments();
    arguments.insert("types".into(), types.keys().map(String::as_str).collect::<Value>());
    connection.request(MONITOR, arguments, None, Wait::Timeout(connection.request_timeout())).await.map(drop)
}

impl Monitors {
    /// Tells a new connection of everything. A subscription that the server refuses now, perhaps of a task that is gone,
    /// is no reason not to connect.
    pub(super) async fn renew(&self, connection: &Connection) {
        for entry in self.entries.lock().await.iter() {
            if let Err(error) = subscribe(connection, &entry.monitor, &entry.types).await {
                tracing::warn!(%error, "a subscription to events could not be renewed");
            }
        }
    }

    async fn change(
        &self,
        connection: &Connection,
        monitor: &Monitor,
        change: impl Fn(&mut Entry) + Send,
    ) -> Result<()> {
        let mut entries = self.entries.lock().await;
        let wanted = monitor.arguments();
        let at = entries.iter().position(|entry| entry.monitor.arguments() == wanted);
        let known = at.map_or_else(BTreeMap::new, |at| entries[at].types.clone());
        let mut entry = Entry { monitor: monitor.clone(), types: known };
        change(&mut entry);
        // Nothing is kept that the server refused.
        subscribe(connection, monitor, &entry.types).await?;
        if let Some(at) = at {
            entries.swap_remove(at);
        }
        if !entry.types.is_empty() {
            entries.push(entry);
        }
        Ok(())
    }
}

impl fmt::Debug for Monitors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Monitors")
    }
}

impl Client {
    /// Asks the server for events of these types (`summary`, `task`, `flow`, `detail`, `output`, `SSE`, ...), which come out of
    /// [`events`](Self::events). Types add up over calls, and are asked for again on every new connection.
    pub async fn add_monitor(&self, monitor: &Monitor, types: &[&str]) -> Result<()> {
        let connection = self.connection().await?;
        let add = |entry: &mut Entry| {
            for kind in types {
                *entry.types.entry((*kind).to_owned()).or_default() += 1;
            }
        };
        self.monitors().change(&connection, monitor, add).await
    }

    /// Takes one [`add_monitor`](Self::add_monitor) back; a type goes when nobody asked for it any more.
    pub async fn remove_monitor(&self, monitor: &Monitor, types: &[&str]) -> Result<()> {
        let connection = self.connection().await?;
        let remove = |entry: &mut Entry| {
            for kind in types {
                match entry.types.get_mut(*kind) {
                    Some(count) if *count > 1 => *count -= 1,
                    Some(_) => drop(entry.types.remove(*kind)),
                    None => {}
                }
            }
        };
        self.monitors().change(&connection, monitor, remove).await
    }

    /// Every event that the server sends to this client from now on.
    ///
    /// The stream holds the connection and brings it back when it is lost, by the client's [`Reconnect`](super::Reconnect).
    /// It ends after [`disconnect`](Self::disconnect), and after an error when no connection can be made.
    pub fn events(&self) -> ServerEvents {
        let state = Listening { client: self.clone(), receiver: self.listen(), connection: None, lost: false };
        let next = |state: Option<Listening>| async move { state?.next().await };
        ServerEvents { stream: Box::pin(stream::unfold(Some(state), next)) }
    }
}

/// An item of [`ServerEvents`]; an error is the last one.
pub type ServerNotice = Result<Notice<Arc<Event>>>;

/// One yield of the stream, and what the next one begins with.
type Yield = Option<(ServerNotice, Option<Listening>)>;

struct Listening {
    client: Client,
    receiver: Receiver<Arc<Event>>,
    connection: Option<Connection>,
    /// There was a connection before.
    lost: bool,
}

impl Listening {
    async fn next(mut self) -> Yield {
        loop {
            let Some(connection) = &self.connection else {
                if self.client.is_detached() {
                    return None;
                }
                match self.client.connection().await {
                    Ok(connection) => self.connection = Some(connection),
                    Err(error) => return Some((Err(error), None)),
                }
                if std::mem::replace(&mut self.lost, true) {
                    return Some((Ok(Notice::Reconnected), Some(self)));
                }
                continue;
            };
            let received = tokio::select! {
                // What came before the end counts.
                biased;
                received = self.receiver.recv() => received,
                _ = connection.closed() => {
                    self.connection = None;
                    continue;
                }
            };
            match received {
                Ok(event) => return Some((Ok(Notice::Event(event)), Some(self))),
                Err(RecvError::Lagged(missed)) => return Some((Ok(Notice::Missed(missed)), Some(self))),
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

/// What the server tells, in its order.
pub struct ServerEvents {
    stream: Pin<Box<dyn Stream<Item = ServerNotice> + Send>>,
}

impl ServerEvents {
    /// The next notice; none when the stream is over.
    pub async fn next(&mut self) -> Option<ServerNotice> {
        self.stream.next().await
    }
}

impl Stream for ServerEvents {
    type Item = ServerNotice;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for ServerEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerEvents")
    }
}
