//! An embedded engine that speaks the protocol: for the demo, the tests and the benches.
//!
//! It behaves as the real server was measured to behave, traps included: failures inside a task come back as
//! success without a body, a close commits whatever arrived, pipe ids are reused at once, a queued open is
//! granted to a dead client, nothing in flight is answered when a task dies. It runs no pipeline: it counts and
//! hashes what arrives, keeps none of it, and says so in the result. Only two nodes do something: a component with the
//! provider `sandbox_refusing` refuses every object, one with `sandbox_failing` fails at every close.
//!
//! | module | is about |
//! |---|---|
//! | `serve` | sockets: reader and writer, close codes, keepalive |
//! | `greet` | the first words: HTTP, the upgrade |
//! | `http` | tasks and uploads over HTTP: a client of the engine within it |
//! | `connection` | one client as its requests see it |
//! | `requests` | login, ordered trouble, then the command |
//! | `commands`, `data` | what a request does |
//! | `engine` | the state behind one lock: tasks and logs |
//! | `task`, `slots`, `lane` | pure: a task's life, its pipe slots, what becomes of the bytes |
//! | `monitor` | pure: subscriptions and events |
//! | [`faults`] | trouble on demand |
//! | `records` | what is remembered of deliveries, opens and writes |
//!
//! Of the rest of the crate it knows the wire codec alone, so that it cannot agree with the client by sharing its mistakes.

mod commands;
mod connection;
mod data;
mod engine;
pub mod faults;
mod greet;
mod http;
mod lane;
mod monitor;
mod records;
mod requests;
mod serve;
mod slots;
mod task;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use engine::{Engine, Started, TaskRef};
pub use faults::{Effect, Faults, Rule, RuleId};
pub use greet::SERVICE_PATH;
pub use http::{DATA_PATHS, HTTP_THREADS, TASK_PATH};
pub use monitor::MAX_MONITORS;
pub use records::{Delivery, LOG_LIMIT, OpenRecord, WriteRecord};
use serve::{Hub, Phase};
pub use serve::{MAX_CONNECTIONS, MAX_REQUESTS};
use task::{Nodes, Start};
pub use task::{TaskState, Tokens};

/// The account key of an engine that was not given one.
pub const DEFAULT_API_KEY: &str = "sandbox";

/// Largest message of the real server, in bytes; one more is CLOSE 1009.
pub const MAX_MESSAGE: usize = 262_144_000;

/// How the engine behaves. The defaults are those of the real server.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen; port 0 takes any.
    pub listen: SocketAddr,
    /// The account's key.
    pub api_key: SecretString,
    /// Pipe slots of a task that is started without `threads`.
    pub threads: usize,
    /// Idle time after which a task that is started without `ttl` ends; none: never.
    pub ttl: Option<Duration>,
    /// Idle time after which a pipe is dropped unprocessed.
    pub reap_after: Duration,
    /// How often idle pipes are looked for.
    pub reap_scan: Duration,
    /// How long a task takes to start.
    pub start_delay: Duration,
    /// How long a task takes to terminate.
    pub stop_delay: Duration,
    /// Largest message in bytes.
    pub max_message: usize,
    /// How often every peer is pinged.
    pub ping_interval: Duration,
    /// A peer that answered no ping for longer is dropped with CLOSE 1011.
    pub silent_after: Duration,
    /// Sockets of one address that have not logged in; one more is HTTP 403.
    pub max_unauthenticated: usize,
    /// Whether refusals carry the machine-readable `code` of newer servers.
    pub codes: bool,
    /// Records of each kind that are kept; the oldest go.
    pub log_limit: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            api_key: SecretString::from(DEFAULT_API_KEY),
            threads: slots::DEFAULT_SLOTS,
            ttl: Some(Duration::from_secs(900)),
            reap_after: Duration::from_secs(60),
            reap_scan: Duration::from_secs(30),
            start_delay: Duration::ZERO,
            stop_delay: Duration::from_millis(100),
            max_message: MAX_MESSAGE,
            ping_interval: Duration::from_secs(15),
            silent_after: Duration::from_secs(75),
            max_unauthenticated: 10,
            codes: false,
            log_limit: LOG_LIMIT,
        }
    }
}

/// A running engine. Dropping it is [`Sandbox::abort`] without waiting.
#[derive(Debug)]
pub struct Sandbox {
    addr: SocketAddr,
    hub: Arc<Hub>,
    phase: watch::Sender<Phase>,
    server: JoinHandle<()>,
}

impl Sandbox {
    /// Listens and serves on the current tokio runtime; fails when the address cannot be bound.
    pub async fn start(options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind(options.listen).await?;
        let addr = listener.local_addr()?;
        let hub = Arc::new(Hub::new(Arc::new(Engine::new(options))));
        let (phase, phases) = watch::channel(Phase::Serve);
        let server = tokio::spawn(serve::serve(Arc::clone(&hub), listener, phases));
        Ok(Self { addr, hub, phase, server })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The server URI for a client.
    pub fn uri(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// As a server that is shut down: CLOSE 1012, in-flight requests unanswered, tasks gone. The address is free afterwards.
    pub async fn stop(self) {
        self.end(Phase::Stop).await;
    }

    /// As a server that is killed: all sockets cut. The address is free afterwards.
    ///
    /// Returns all that was committed, as [`Sandbox::deliveries`]: no client was told of more.
    pub async fn abort(self) -> Vec<Delivery> {
        self.end(Phase::Abort).await
    }

    async fn end(self, phase: Phase) -> Vec<Delivery> {
        self.phase.send_replace(phase);
        if self.server.await.is_err() {
            tracing::error!("the server of the sandbox panicked");
        }
        self.hub.engine.shut_down();
        self.hub.engine.lock().deliveries.all()
    }

    /// The rules of ordered trouble.
    pub fn faults(&self) -> &Faults {
        &self.hub.engine.faults
    }

    /// Every committed object, in the order of the commits; the newest [`Options::log_limit`] of them.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.hub.engine.lock().deliveries.all()
    }

    /// How many objects were ever committed.
    pub fn delivered(&self) -> u64 {
        self.hub.engine.lock().deliveries.total()
    }

    /// Every granted open, in the order of the grants.
    pub fn opens(&self) -> Vec<OpenRecord> {
        self.hub.engine.lock().opens.all()
    }

    /// Every write to a living pipe, in the order of arrival.
    pub fn writes(&self) -> Vec<WriteRecord> {
        self.hub.engine.lock().writes.all()
    }

    /// Pipes that were dropped for being idle.
    pub fn reaped(&self) -> u64 {
        self.hub.engine.lock().reaped
    }

    /// Starts a pipeline called `name` with so many slots that never ends by itself; or finds it running.
    pub fn start_task(&self, name: &str, threads: usize) -> Tokens {
        let tokens = engine::tokens_of(name, "webhook_1");
        let start = Start {
            tokens: tokens.clone(),
            project_id: name.to_owned(),
            source: "webhook_1".to_owned(),
            provider: "webhook".to_owned(),
            name: name.to_owned(),
            threads,
            nodes: Nodes::default(),
            ttl: None,
        };
        if let Started::New(task) = self.hub.engine.start(start, Instant::now()) {
            self.hub.engine.set_state(&task, TaskState::Running);
        }
        tokens
    }

    /// Every task that is known, oldest first, with its state.
    pub fn tasks(&self) -> Vec<(Tokens, TaskState)> {
        self.hub.engine.tokens()
    }

    /// The task is gone and its tokens are unknown from now on; what was in flight is never answered.
    pub fn forget_task(&self, token: &str) -> bool {
        self.hub.engine.forget(token)
    }

    /// The task dies: state 5 with exit code 0; what was in flight is never answered.
    pub fn kill_task(&self, token: &str) -> bool {
        let epoch = self.hub.engine.task(token, |task| task.epoch);
        epoch.is_some_and(|epoch| {
            self.hub.engine.set_state(&TaskRef { token: token.to_owned(), epoch }, TaskState::Completed)
        })
    }

    /// Slots of the task that are taken; 0 for an unknown one.
    pub fn pipes_in_use(&self, token: &str) -> usize {
        self.hub.engine.task(token, |task| task.in_use()).unwrap_or(0)
    }

    /// Most slots of the task that its clients had at one time.
    pub fn peak_pipes(&self, token: &str) -> usize {
        self.hub.engine.task(token, |task| task.peak_pipes).unwrap_or(0)
    }

    /// Opens that wait for a slot of the task.
    pub fn opens_waiting(&self, token: &str) -> usize {
        self.hub.engine.task(token, |task| task.waiting()).unwrap_or(0)
    }

    /// Takes up to `count` free slots as another client would; they come back when the guard goes.
    pub fn hold_slots(&self, token: &str, count: usize) -> HeldSlots {
        let held = self.hub.engine.task(token, |task| (task.epoch, task.hold(count)));
        let (epoch, pipes) = held.unwrap_or_default();
        let task = TaskRef { token: token.to_owned(), epoch };
        HeldSlots { engine: Arc::clone(&self.hub.engine), task, pipes }
    }

    /// Cuts every socket; the server and its tasks go on.
    pub fn cut_connections(&self) {
        self.hub.cut_all();
    }

    /// Closes every connection with this code; the server and its tasks go on.
    pub fn close_connections(&self, code: u16, reason: &str) {
        self.hub.close_all(code, reason);
    }

    /// Connections that are open now.
    pub fn connections(&self) -> usize {
        self.hub.connected()
    }

    /// Connections that were ever accepted.
    pub fn accepted(&self) -> u64 {
        self.hub.accepted.load(Ordering::Relaxed)
    }

    /// Handlers that panicked: a fault of the sandbox itself.
    pub fn panics(&self) -> u64 {
        self.hub.engine.panics.load(Ordering::Relaxed)
    }

    /// Waits until `met` holds; false when it did not within `limit`.
    pub async fn wait_for(&self, limit: Duration, met: impl Fn(&Self) -> bool) -> bool {
        const POLL: Duration = Duration::from_millis(5);
        let waiting = async {
            while !met(self) {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(limit, waiting).await.is_ok()
    }
}

/// Slots that somebody else holds; given back on drop.
#[derive(Debug)]
#[must_use = "the slots come back when this is dropped"]
pub struct HeldSlots {
    engine: Arc<Engine>,
    task: TaskRef,
    pipes: Vec<u64>,
}

impl HeldSlots {
    /// How many there are: fewer than asked for when not so many were free.
    pub fn count(&self) -> usize {
        self.pipes.len()
    }
}

impl Drop for HeldSlots {
    fn drop(&mut self) {
        let now = Instant::now();
        self.engine.same(&self.task, |task| {
            for pipe in &self.pipes {
                task.release(*pipe, now);
            }
        });
    }
}
