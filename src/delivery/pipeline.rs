//! One pipeline's line to its server: connected, authenticated, its task running, or down and probed.
//!
//! A line that is down is probed with jittered backoff for as long as it takes; nothing is charged to any file
//! meanwhile. A worker that learns that the task is gone says so ([`Line::suspect`]); the line is then down until
//! a probe says otherwise. A pipeline given as a file is started by the probe, and started again when the server
//! forgot it. An outage is logged at its start and its end, and every ten minutes with a count.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::sync::watch;

use super::started::{self, Started};
use crate::blocking::blocking;
use crate::client::{Backoff, ConnectOptions, Connection, Error, ExecuteOptions, Link, ServiceUri, load_pipeline};
use crate::config::{Config, Pipeline, Target};
use crate::locks::lock;

/// How often a lasting outage is logged.
const REMIND: Duration = Duration::from_secs(600);
/// Longest pause between probes, if `retry.max` is not less.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// First pause between probes.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// A session that lasted this long was a good one: the next outage begins with short pauses again.
const GOOD_SESSION: Duration = Duration::from_secs(60);

/// One pipeline at run time.
#[derive(Debug)]
pub struct Line {
    /// The pipeline as configured.
    pub config: Arc<Pipeline>,
    timeouts: Timeouts,
    state: watch::Sender<Health>,
    /// What is known of the way to the server; it outlives sessions.
    pub link: Link,
    /// Since when it fails on every file, by the dispatcher's word; none while it does not.
    failing: watch::Sender<Option<Instant>>,
    /// The latest session in which the server granted a pipe.
    proven: watch::Sender<u64>,
    /// What the tasks were started with.
    started: Arc<Started>,
    /// The task of the line that this one took the place of.
    earlier: Mutex<Option<SecretString>>,
}

#[derive(Debug, Clone, Copy)]
struct Timeouts {
    connect: Duration,
    request: Duration,
    silence: Duration,
    start: Duration,
    /// Longest pause between probes.
    pause: Duration,
}

/// Whether a pipeline can take files.
#[derive(Debug, Clone)]
pub enum Health {
    /// It cannot, and why.
    Down {
        /// Since when.
        since: Instant,
        /// Why.
        reason: Arc<str>,
    },
    /// It can.
    Up(Arc<Session>),
}

/// A live connection to a running task.
#[derive(Debug)]
pub struct Session {
    /// The connection.
    pub connection: Connection,
    /// The task's token; empty where the credential is locked to the task.
    pub token: SecretString,
    /// When the task started, in the server's words: another value under this token is another task.
    pub task_started: Option<Value>,
    /// Counts the sessions of a line.
    pub number: u64,
}

impl Line {
    /// A line that has not connected yet.
    pub fn new(config: Arc<Pipeline>, all: &Config, started: Arc<Started>) -> Arc<Self> {
        let timeouts = Timeouts {
            connect: all.server.connect_timeout,
            request: all.server.request_timeout,
            silence: all.server.silence_timeout,
            start: all.server.start_timeout,
            pause: all.retry.max.min(MAX_PAUSE),
        };
        let down = Health::Down { since: Instant::now(), reason: "not connected yet".into() };
        let state = watch::Sender::new(down);
        let (failing, proven) = (watch::Sender::new(None), watch::Sender::new(0));
        Arc::new(Self {
            config,
            timeouts,
            state,
            link: Link::default(),
            failing,
            proven,
            started,
            earlier: Mutex::default(),
        })
    }

    /// Takes the place of a line of the same name: when its own task runs and is another one on the same server, that one's
    /// is ended.
    pub fn succeed(&self, earlier: &Self) {
        let own = |line: &Self| matches!(line.config.target, Target::File(_));
        if own(self) && own(earlier) && earlier.config.uri == self.config.uri {
            let token = earlier.session().map(|session| session.token.clone());
            *lock(&self.earlier) = token;
        }
    }

    /// It is configured no longer, or in another way: nothing new goes through it, and its connection ends with the last
    /// upload that uses it.
    pub fn retire(&self) {
        let reason = "it is not configured like this any more".into();
        self.state.send_replace(Health::Down { since: Instant::now(), reason });
    }

    /// Whether its file says something else than its task was started with. Blocks.
    ///
    /// Errors: the file is no pipeline. One that is missing now says nothing.
    pub fn is_outdated(&self) -> Result<bool, Error> {
        let Target::File(path) = &self.config.target else { return Ok(false) };
        match load_pipeline(path) {
            Ok(pipeline) => {
                let known = self.started.of(&self.config.name);
                Ok(known.is_some_and(|known| known != started::hash(&pipeline)))
            }
            Err(error @ Error::InvalidData(_)) => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// Follows its health.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.state.subscribe()
    }

    /// The live session, if there is one.
    pub fn session(&self) -> Option<Arc<Session>> {
        match &*self.state.borrow() {
            Health::Up(session) if !session.connection.is_closed() => Some(session.clone()),
            Health::Up(_) | Health::Down { .. } => None,
        }
    }

    /// Since when it has been down, and why.
    pub fn outage(&self) -> Option<(Instant, Arc<str>)> {
        match &*self.state.borrow() {
            Health::Down { since, reason } => Some((*since, reason.clone())),
            Health::Up(_) => None,
        }
    }

    /// Since when it has failed on every file; none if it does not.
    pub fn failing_since(&self) -> Option<Instant> {
        *self.failing.borrow()
    }

    /// The dispatcher's word on whether it fails on every file.
    pub(super) fn set_failing(&self, failing: bool) {
        self.failing.send_replace(failing.then(Instant::now));
    }

    /// A worker's upload failed in a way that is the pipeline's fault: down until a probe says otherwise.
    ///
    /// Words about an earlier session are ignored.
    pub fn suspect(&self, session: u64, reason: &str) {
        self.state.send_if_modified(|health| {
            let current = matches!(health, Health::Up(current) if current.number == session);
            if current {
                *health = Health::Down { since: Instant::now(), reason: reason.into() };
            }
            current
        });
    }

    /// The server granted a pipe in this session: its task takes files.
    pub fn granted(&self, session: u64) {
        self.proven.send_if_modified(|proven| std::mem::replace(proven, session.max(*proven)) < session);
    }

    /// Resolves when it is sure that the session's task takes files: the server said so, or granted a pipe, or nothing
    /// was heard to the contrary for long enough.
    async fn proof(&self, session: u64, confirmed: bool) {
        if confirmed {
            return;
        }
        let mut proven = self.proven.subscribe();
        let granted = proven.wait_for(|proven| *proven >= session);
        let _ = tokio::time::timeout(GOOD_SESSION, granted).await;
    }

    /// Resolves when a worker has suspected the session, with the reason.
    async fn suspected(&self) -> String {
        let mut health = self.health();
        // The sender lives in this line.
        let _ = health.wait_for(|health| matches!(health, Health::Down { .. })).await;
        self.outage().map_or_else(String::new, |(_, reason)| reason.to_string())
    }

    /// Keeps the line up for as long as it is polled.
    pub async fn run(&self) {
        let backoff = Backoff { initial: FIRST_PAUSE, max: self.timeouts.pause };
        let name = &self.config.name;
        let mut failures = 0;
        let mut number = 0;
        let mut outage: Option<Outage> = None;
        let mut connection = None;
        loop {
            let reason = match self.establish(connection.take()).await {
                Ok((connection_now, Task { token, started: task_started, confirmed })) => {
                    number += 1;
                    let session = Session { connection: connection_now.clone(), token, task_started, number };
                    let session = Arc::new(session);
                    self.state.send_replace(Health::Up(session));
                    let up_since = Instant::now();
                    let mut said = false;
                    let reason = loop {
                        tokio::select! {
                            error = connection_now.closed() => break error.to_string(),
                            reason = self.suspected() => {
                                connection = self.worth_asking(connection_now);
                                break reason;
                            }
                            () = self.proof(number, confirmed), if !said => {
                                said = true;
                                self.say_up(outage.take().as_ref());
                            }
                        }
                    };
                    if up_since.elapsed() >= GOOD_SESSION {
                        failures = 0;
                    }
                    reason
                }
                Err(Down { reason, connection: kept }) => {
                    connection = kept;
                    reason
                }
            };
            let outage = outage.get_or_insert_with(Outage::begin);
            self.state.send_replace(Health::Down { since: outage.since, reason: reason.as_str().into() });
            outage.failed(name, &reason);
            tokio::time::sleep(backoff.delay(failures, fastrand::f64())).await;
            failures = failures.saturating_add(1);
        }
    }

    fn say_up(&self, outage: Option<&Outage>) {
        let pipeline = &self.config.name;
        if let Some(Outage { since, probes, .. }) = outage {
            tracing::info!(%pipeline, seconds = since.elapsed().as_secs(), probes, "pipeline is up again");
        } else {
            tracing::info!(%pipeline, uri = %self.config.uri, "pipeline is up");
        }
    }

    /// One probe: connects if need be, and makes sure that the task runs.
    async fn establish(&self, live: Option<Connection>) -> Result<(Connection, Task), Down> {
        let live = match live {
            Some(connection) => answering(connection).await,
            None => None,
        };
        let connection = match live {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        match self.task(&connection).await {
            Ok(task) => Ok((connection, task)),
            Err(Trouble { reason, of_task: true }) => Err(Down { reason, connection: self.worth_asking(connection) }),
            Err(Trouble { reason, of_task: false }) => Err(Down { reason, connection: None }),
        }
    }

    /// The connection, if the next probe may ask on it: its socket is fine, only the task is not.
    ///
    /// It is asked on rather than replaced also for what is still on its way on it: a write to a pipe of the task before
    /// comes in ahead of the first open in the new one, and meets nobody's pipe.
    ///
    /// A key that is locked to its task dies with it, and may not even ask for it: only a new login tells, and only
    /// that reads a replaced key.
    fn worth_asking(&self, connection: Connection) -> Option<Connection> {
        (!matches!(self.config.target, Target::Credential)).then_some(connection)
    }

    async fn connect(&self) -> Result<Connection, Down> {
        let config = self.config.clone();
        // The key may stand in a file: it is read anew each time, so that a replaced one is picked up.
        let key = tokio::task::spawn_blocking(move || {
            let key = config.api_key.read().map_err(|error| error.to_string())?;
            config.check_key(&key)?;
            Ok::<_, String>(key)
        });
        let key = key.await.map_err(|error| error.to_string()).and_then(|key| key)?;
        let options = self.options(key).map_err(|error| error.to_string())?;
        Ok(Connection::open(&options).await.map_err(|error| self.trouble(&error).reason)?)
    }

    /// What an error of a probe means, with what to do about it.
    fn trouble(&self, error: &Error) -> Trouble {
        let reason = match (error, &self.config.target) {
            (Error::Authentication(_), _) => format!(
                "{error}; the key is {}: replace it, it is read again at each try",
                self.config.api_key.describe()
            ),
            (Error::NotRunning(_), Target::Token(token)) => format!(
                "{error}; start it, and put its token into {}: it is read again at each try, or give the pipeline as a \
                 file, which is started here",
                token.describe()
            ),
            _ => error.to_string(),
        };
        Trouble { reason, of_task: matches!(error, Error::NotRunning(_)) }
    }

    /// How to connect with this credential. Errors: the URI is not one, or is not encrypted where it must be, or
    /// the proxy of the environment is none.
    pub fn options(&self, key: SecretString) -> Result<ConnectOptions, Error> {
        let mut options = ConnectOptions::new(ServiceUri::parse(&self.config.uri)?, key);
        options.connect_timeout = self.timeouts.connect;
        options.request_timeout = self.timeouts.request;
        options.set_silence_timeout(self.timeouts.silence);
        options.ca_file.clone_from(&self.config.ca_file);
        options.allow_plaintext = self.config.allow_plaintext;
        options.proxy = match &self.config.proxy {
            Some(rule) => rule.proxy(&options.uri)?,
            None => None,
        };
        options.check()?;
        Ok(options)
    }

    /// The task, which runs; a pipeline file is started if need be.
    async fn task(&self, connection: &Connection) -> Result<Task, Trouble> {
        let token = match &self.config.target {
            Target::File(path) => self.execute(connection, path).await?,
            Target::Token(token) => {
                let token = token.clone();
                tokio::task::spawn_blocking(move || token.read().map_err(|error| error.to_string()))
                    .await
                    .map_err(|error| error.to_string())
                    .and_then(|token| token)?
            }
            // The server takes the task from the credential and ignores the argument.
            Target::Credential => SecretString::from(""),
        };
        match connection.task_status(&token, self.timeouts.request).await {
            Ok(status) if status.is_running() => Ok(Task { token, started: status.start_time, confirmed: true }),
            Ok(status) => Err(Trouble {
                reason: format!(
                    "the task is not running (its state is {:?}); start it, or give the pipeline as a file",
                    status.state
                ),
                of_task: true,
            }),
            // A `pk_` key may send data and nothing else: what it may not ask is unknown, and the first open will tell.
            Err(Error::Refused(_)) if matches!(self.config.target, Target::Credential) => {
                Ok(Task { token, started: None, confirmed: false })
            }
            Err(error) => Err(self.trouble(&error)),
        }
    }

    async fn execute(&self, connection: &Connection, path: &Path) -> Result<SecretString, Trouble> {
        let file = path.to_owned();
        let pipeline = tokio::task::spawn_blocking(move || load_pipeline(&file))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        let content = started::hash(&pipeline);
        let mut options = ExecuteOptions::new(pipeline);
        options.source.clone_from(&self.config.source);
        options.threads = self.config.threads;
        options.ttl = Some(self.config.ttl);
        options.use_existing = true;
        options.name = Some(self.config.name.clone());
        options.start_timeout = self.timeouts.start;
        let mut token = self.start(connection, options.clone()).await?;
        let name = &self.config.name;
        if self.started.of(name).is_some_and(|known| known != content) {
            tracing::info!(pipeline = %name, "its file is not what its task was started with: the task is started again");
            connection.terminate(&token, self.timeouts.start).await.map_err(|error| self.trouble(&error))?;
            // Before the start, so that one that fails is not ended once more when it succeeds.
            self.note(&content).await;
            token = self.start(connection, options).await?;
        }
        self.note(&content).await;
        let earlier = lock(&self.earlier).take();
        if let Some(earlier) = earlier.filter(|earlier| earlier.expose_secret() != token.expose_secret()) {
            match connection.terminate(&earlier, self.timeouts.start).await {
                Ok(()) => tracing::info!(pipeline = %name, "the task of its earlier file was ended"),
                Err(error) => tracing::warn!(pipeline = %name, %error, "cannot end the task of its earlier file"),
            }
        }
        Ok(token)
    }

    async fn start(&self, connection: &Connection, options: ExecuteOptions) -> Result<SecretString, Trouble> {
        connection.execute(options).await.map(|task| task.token).map_err(|error| self.trouble(&error))
    }

    async fn note(&self, content: &str) {
        let (started, name, content) = (self.started.clone(), self.config.name.clone(), content.to_owned());
        blocking(move || started.note(&name, content)).await;
    }
}

/// The connection, if its server still answers on it.
///
/// One that does not is closed, so that those who wait on it for a reply wait no longer.
async fn answering(connection: Connection) -> Option<Connection> {
    match connection.ping().await {
        // A no is an answer, too.
        Ok(()) | Err(Error::Refused(_)) => Some(connection),
        Err(Error::TimedOut { .. }) => {
            connection.close().await;
            None
        }
        Err(_) => None,
    }
}

/// The task behind a pipeline.
struct Task {
    token: SecretString,
    started: Option<Value>,
    /// The server said that it runs.
    confirmed: bool,
}

/// Why the task of a pipeline does not take files.
struct Trouble {
    reason: String,
    /// It is the task, or this host's file of it: the connection is fine. Else only a new login may help: it may have
    /// another credential by then.
    of_task: bool,
}

impl From<String> for Trouble {
    fn from(reason: String) -> Self {
        Self { reason, of_task: true }
    }
}

/// Why a probe failed, and the connection if that was not why.
struct Down {
    reason: String,
    connection: Option<Connection>,
}

impl From<String> for Down {
    fn from(reason: String) -> Self {
        Self { reason, connection: None }
    }
}

/// An outage as the log tells it.
struct Outage {
    since: Instant,
    probes: u64,
    reminded: Instant,
    said: String,
}

impl Outage {
    fn begin() -> Self {
        Self { since: Instant::now(), probes: 0, reminded: Instant::now(), said: String::new() }
    }

    fn failed(&mut self, pipeline: &str, reason: &str) {
        self.probes += 1;
        if self.probes == 1 {
            tracing::warn!(%pipeline, reason, "pipeline is down; its files wait, at no attempt, until it is up");
            reason.clone_into(&mut self.said);
        } else if self.said != reason || self.reminded.elapsed() >= REMIND {
            let seconds = self.since.elapsed().as_secs();
            tracing::warn!(%pipeline, reason, seconds, probes = self.probes, "pipeline is still down");
            reason.clone_into(&mut self.said);
            self.reminded = Instant::now();
        }
    }
}
