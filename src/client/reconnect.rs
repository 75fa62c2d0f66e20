//! [`Client`]: a connection that comes back. It connects on demand, shares one attempt among its callers, waits between
//! failures, and asks anew for the events that were asked for before.
//!
//! It must not know what its connections are used for; the calls of a client are in `calls`,
//! [`send_files`](super::send_files) and [`events`](super::events).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::broadcast;

use super::backoff::Backoff;
use super::builder::ClientBuilder;
use super::connection::{Connection, EVENT_QUEUE};
use super::error::{Error, Result};
use super::events::Monitors;
use super::options::{ConnectOptions, is_task_key};
use super::protocol::Event;
use super::upload::{CHUNK_SIZE, RESULT_TIMEOUT};

/// Attempts of [`Client::connection`] before it gives up.
pub const RECONNECT_ATTEMPTS: u32 = 5;
/// The waits between them.
pub const RECONNECT_BACKOFF: Backoff = Backoff { initial: Duration::from_millis(250), max: Duration::from_secs(10) };

/// How hard a client tries to connect before a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reconnect {
    /// Attempts in all; 1 does not try again, and 0 means 1.
    pub attempts: u32,
    /// The waits between them.
    pub backoff: Backoff,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self { attempts: RECONNECT_ATTEMPTS, backoff: RECONNECT_BACKOFF }
    }
}

impl Reconnect {
    /// One attempt, and its outcome counts.
    pub const NEVER: Self = Self { attempts: 1, backoff: RECONNECT_BACKOFF };
}

/// What the calls of a client go by, beside the options of its connections.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) reconnect: Reconnect,
    /// See [`Pipe::close`](super::pipe::Pipe::close).
    pub(super) result_timeout: Duration,
    /// Most bytes in one write.
    pub(super) chunk_size: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { reconnect: Reconnect::default(), result_timeout: RESULT_TIMEOUT, chunk_size: CHUNK_SIZE }
    }
}

/// A server and a way to it. Clones are cheap and share one connection; every call connects if need be.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: Mutex<ConnectOptions>,
    settings: Settings,
    /// Finished attempts: tells a caller who waited for one that it was made meanwhile.
    attempts: AtomicU64,
    current: Mutex<Option<Connection>>,
    /// Held for the length of an attempt.
    login: tokio::sync::Mutex<Login>,
    /// The caller disconnected: who only listens does not bring the connection back.
    detached: AtomicBool,
    /// Outlives every single connection.
    events: broadcast::Sender<Arc<Event>>,
    monitors: Monitors,
}

#[derive(Debug, Default)]
struct Login {
    /// How the latest attempt failed.
    failure: Option<Error>,
    /// What the server suggested to log in with next time, and the credential it was given for.
    renewed: Option<(SecretString, SecretString)>,
}

impl Client {
    /// Begins with the defaults; see [`ClientBuilder`].
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// The client that the environment describes: [`ClientBuilder::from_env`] and nothing else.
    pub fn from_env() -> Result<Self> {
        Self::builder().from_env()?.build()
    }

    /// A client with the default policies. Does not connect yet.
    pub fn new(options: ConnectOptions) -> Self {
        Self::with_settings(options, Settings::default())
    }

    pub(super) fn with_settings(options: ConnectOptions, settings: Settings) -> Self {
        Self {
            inner: Arc::new(Inner {
                options: Mutex::new(options),
                settings,
                attempts: AtomicU64::new(0),
                current: Mutex::default(),
                login: tokio::sync::Mutex::default(),
                detached: AtomicBool::new(false),
                events: broadcast::Sender::new(EVENT_QUEUE),
                monitors: Monitors::default(),
            }),
        }
    }

    /// The live connection, else the outcome of one attempt. Callers who come while one is under way share its outcome.
    ///
    /// Nobody has to call it: every other call connects by itself.
    pub async fn connect(&self) -> Result<Connection> {
        if let Some(connection) = self.live() {
            return Ok(connection);
        }
        let seen = self.inner.attempts.load(Ordering::Acquire);
        let mut login = self.inner.login.lock().await;
        if let Some(connection) = self.live() {
            return Ok(connection);
        }
        if self.inner.attempts.load(Ordering::Acquire) != seen
            && let Some(failure) = &login.failure
        {
            return Err(failure.clone());
        }
        // Boxed: an attempt is rare and its state large, and every upload holds this future in its own.
        let outcome = Box::pin(self.attempt(&mut login)).await;
        if let Ok(connection) = &outcome {
            self.inner.monitors.renew(connection).await;
            self.inner.detached.store(false, Ordering::Release);
        }
        *self.current() = outcome.as_ref().ok().cloned();
        login.failure = outcome.as_ref().err().cloned();
        self.inner.attempts.fetch_add(1, Ordering::Release);
        outcome
    }

    /// The live connection, else as many attempts as [`Reconnect`] says, with growing waits. A refused credential and a
    /// wrong configuration are not tried again.
    pub async fn connection(&self) -> Result<Connection> {
        let Reconnect { attempts, backoff } = self.inner.settings.reconnect;
        let mut failures = 0;
        loop {
            match self.connect().await {
                Ok(connection) => return Ok(connection),
                Err(error) if !error.is_retryable() || failures + 1 >= attempts => return Err(error),
                Err(error) => {
                    let wait = backoff.delay(failures, fastrand::f64());
                    tracing::debug!(%error, ?wait, "connecting again");
                    tokio::time::sleep(wait).await;
                    failures += 1;
                }
            }
        }
    }

    /// Whether there is a live connection at this moment.
    pub fn is_connected(&self) -> bool {
        self.live().is_some()
    }

    /// Used from the next attempt on; a live connection stays.
    pub fn set_credential(&self, credential: SecretString) {
        self.options().credential = credential;
    }

    /// Ends the live connection, if there is one, and with it what is in flight; nothing unfinished is committed.
    ///
    /// The next call connects again, but a stream of [`events`](Client::events) ends.
    pub async fn disconnect(&self) {
        // Not in the middle of an attempt, whose connection would stay.
        let _login = self.inner.login.lock().await;
        self.inner.detached.store(true, Ordering::Release);
        let connection = self.current().take();
        if let Some(connection) = connection {
            connection.close().await;
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    pub(super) fn monitors(&self) -> &Monitors {
        &self.inner.monitors
    }

    pub(super) fn is_detached(&self) -> bool {
        self.inner.detached.load(Ordering::Acquire)
    }

    pub(super) fn listen(&self) -> broadcast::Receiver<Arc<Event>> {
        self.inner.events.subscribe()
    }

    fn live(&self) -> Option<Connection> {
        self.current().as_ref().filter(|connection| !connection.is_closed()).cloned()
    }

    fn current(&self) -> MutexGuard<'_, Option<Connection>> {
        self.inner.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn options(&self) -> MutexGuard<'_, ConnectOptions> {
        self.inner.options.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn open(&self, options: &ConnectOptions) -> Result<Connection> {
        Connection::open_telling(options, self.inner.events.clone()).await
    }

    async fn attempt(&self, login: &mut Login) -> Result<Connection> {
        let options = self.options().clone();
        let original = options.credential.clone();
        // Only for the credential that it was given for: a new one starts afresh.
        if let Some((for_credential, renewed)) = login.renewed.take()
            && for_credential.expose_secret() == original.expose_secret()
        {
            let outcome = self.open(&ConnectOptions { credential: renewed.clone(), ..options.clone() }).await;
            match outcome {
                // It has expired; the original may still serve.
                Err(Error::Authentication(_)) => {}
                outcome => {
                    let newest = outcome.as_ref().ok().and_then(Connection::user_token).cloned();
                    login.renewed = Some((original, newest.unwrap_or(renewed)));
                    return outcome;
                }
            }
        }
        let connection = self.open(&options).await?;
        // A key of a task stays what it is: an account's token in its place would reach further than was granted.
        let of_a_task = is_task_key(&original);
        login.renewed = connection.user_token().filter(|_| !of_a_task).map(|token| (original, token.clone()));
        Ok(connection)
    }
}
