//! A connection that comes back: connects on demand, shares one attempt among its callers, waits between failures.
//!
//! It must not know what its connections are used for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use super::backoff::Backoff;
use super::connection::Connection;
use super::error::{Error, Result};
use super::options::ConnectOptions;

/// Attempts of [`Client::connection`] before it gives up.
pub const RECONNECT_ATTEMPTS: u32 = 5;
/// The waits between them.
pub const RECONNECT_BACKOFF: Backoff = Backoff { initial: Duration::from_millis(250), max: Duration::from_secs(10) };

/// A server and a way to it; clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: Mutex<ConnectOptions>,
    /// Finished attempts: tells a caller who waited for one that it was made meanwhile.
    attempts: AtomicU64,
    /// Held for the length of an attempt.
    live: tokio::sync::Mutex<Live>,
}

#[derive(Debug, Default)]
struct Live {
    connection: Option<Connection>,
    /// How the latest attempt failed.
    failure: Option<Error>,
    /// What the server suggested to log in with next time, and the credential it was given for.
    renewed: Option<(SecretString, SecretString)>,
}

impl Client {
    /// Does not connect yet.
    pub fn new(options: ConnectOptions) -> Self {
        let live = tokio::sync::Mutex::default();
        Self { inner: Arc::new(Inner { options: Mutex::new(options), attempts: AtomicU64::new(0), live }) }
    }

    /// The live connection, else the outcome of one attempt. Callers who come while one is under way share its outcome.
    pub async fn connect(&self) -> Result<Connection> {
        let seen = self.inner.attempts.load(Ordering::Acquire);
        let mut live = self.inner.live.lock().await;
        if let Some(connection) = live.connection.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        if self.inner.attempts.load(Ordering::Acquire) != seen
            && let Some(failure) = &live.failure
        {
            return Err(failure.clone());
        }
        let outcome = self.attempt(&mut live).await;
        live.connection = outcome.as_ref().ok().cloned();
        live.failure = outcome.as_ref().err().cloned();
        self.inner.attempts.fetch_add(1, Ordering::Release);
        outcome
    }

    /// The live connection, else up to [`RECONNECT_ATTEMPTS`] attempts with growing waits. A refused credential and a
    /// wrong configuration are not tried again.
    pub async fn connection(&self) -> Result<Connection> {
        let mut failures = 0;
        loop {
            match self.connect().await {
                Ok(connection) => return Ok(connection),
                Err(error) if !error.is_retryable() || failures + 1 >= RECONNECT_ATTEMPTS => return Err(error),
                Err(error) => {
                    let wait = RECONNECT_BACKOFF.delay(failures, fastrand::f64());
                    tracing::debug!(%error, ?wait, "connecting again");
                    tokio::time::sleep(wait).await;
                    failures += 1;
                }
            }
        }
    }

    /// Used from the next attempt on; a live connection stays.
    pub fn set_credential(&self, credential: SecretString) {
        self.options().credential = credential;
    }

    /// Ends the live connection, if there is one. The next call connects again.
    pub async fn disconnect(&self) {
        let connection = self.inner.live.lock().await.connection.take();
        if let Some(connection) = connection {
            connection.close().await;
        }
    }

    fn options(&self) -> std::sync::MutexGuard<'_, ConnectOptions> {
        self.inner.options.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn attempt(&self, live: &mut Live) -> Result<Connection> {
        let options = self.options().clone();
        let original = options.credential.clone();
        // Only for the credential that it was given for: a new one starts afresh.
        if let Some((for_credential, renewed)) = live.renewed.take()
            && for_credential.expose_secret() == original.expose_secret()
        {
            let outcome = Connection::open(&ConnectOptions { credential: renewed.clone(), ..options.clone() }).await;
            match outcome {
                // It has expired; the original may still serve.
                Err(Error::Authentication(_)) => {}
                outcome => {
                    let newest = outcome.as_ref().ok().and_then(Connection::user_token).cloned();
                    live.renewed = Some((original, newest.unwrap_or(renewed)));
                    return outcome;
                }
            }
        }
        let connection = Connection::open(&options).await?;
        // A key of a task stays what it is: an account's token in its place would reach further than was granted.
        let of_a_task = ["tk_", "pk_"].iter().any(|prefix| original.expose_secret().starts_with(prefix));
        live.renewed = connection.user_token().filter(|_| !of_a_task).map(|token| (original, token.clone()));
        Ok(connection)
    }
}
