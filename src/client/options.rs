//! What a connection needs to know before it is made.
//!
//! It must not read files or the environment: that is the caller's, who knows where secrets live.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use super::error::{Error, Result};
use super::proxy::Proxy;
use super::uri::ServiceUri;

/// The name under which this library introduces itself.
pub const CLIENT_NAME: &str = env!("CARGO_PKG_NAME");
/// TCP, TLS and the upgrade together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Replies to everything but open and close, counted from the frame's departure.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// The official SDK pings this often too.
pub const PING_INTERVAL: Duration = Duration::from_secs(15);
/// As [`PINGS_PER_SILENCE`] says; the server itself gives up on a silent peer after 75 s.
pub const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);
/// Unanswered pings within a silence that ends the connection.
pub const PINGS_PER_SILENCE: u32 = 4;
/// A result of a pipeline may be large; the server's own limit for a message is 262,144,000 bytes.
pub const MAX_MESSAGE: usize = 256 * 1024 * 1024;

/// How to reach a server and how patient to be with it.
///
/// `Debug` does not show the credential.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// Where the server is.
    pub uri: ServiceUri,
    /// An account key, a `tk_` task token or a `pk_` public key of a task.
    pub credential: SecretString,
    /// Told to the server with the credential.
    pub client_name: String,
    /// Limit of TCP, TLS and the upgrade together.
    pub connect_timeout: Duration,
    /// Limit of an ordinary reply, counted from the departure of its request.
    pub request_timeout: Duration,
    /// A PEM file of extra roots; the system's roots always count.
    pub ca_file: Option<PathBuf>,
    /// The way to the server, if not the direct one.
    pub proxy: Option<Proxy>,
    /// How often this side pings.
    pub ping_interval: Duration,
    /// Without one received byte for this long the connection is lost; so it is when the server takes no byte for as long.
    pub silence_timeout: Duration,
    /// Largest incoming message in bytes; a larger one ends the connection (as if by close code 1009).
    pub max_message: usize,
    /// Lets the credential and the files travel unencrypted to another host.
    pub allow_plaintext: bool,
}

impl ConnectOptions {
    /// The defaults for this server and credential.
    pub fn new(uri: ServiceUri, credential: SecretString) -> Self {
        Self {
            uri,
            credential,
            client_name: CLIENT_NAME.into(),
            connect_timeout: CONNECT_TIMEOUT,
            request_timeout: REQUEST_TIMEOUT,
            ca_file: None,
            proxy: None,
            ping_interval: PING_INTERVAL,
            silence_timeout: SILENCE_TIMEOUT,
            max_message: MAX_MESSAGE,
            allow_plaintext: false,
        }
    }

    /// Gives up after so much silence, and pings [`PINGS_PER_SILENCE`] times within it.
    pub fn set_silence_timeout(&mut self, timeout: Duration) {
        self.silence_timeout = timeout;
        self.ping_interval = timeout / PINGS_PER_SILENCE;
    }

    /// Refuses what must not be tried: unencrypted traffic beyond this host, unless it was allowed, and
    /// spans of zero.
    pub fn check(&self) -> Result<()> {
        if self.uri.is_plaintext() && !self.uri.is_loopback() && !self.allow_plaintext {
            return Err(Error::InvalidData(format!(
                "{} would send the credential and the files unencrypted: use https://, or allow plaintext explicitly",
                self.uri
            )));
        }
        for (span, name) in [
            (self.connect_timeout, "connect timeout"),
            (self.request_timeout, "request timeout"),
            (self.ping_interval, "ping interval"),
            (self.silence_timeout, "silence timeout"),
        ] {
            if span.is_zero() {
                return Err(Error::InvalidData(format!("the {name} must not be zero")));
            }
        }
        Ok(())
    }
}

/// Whether a credential is locked to one task (`pk_`, `tk_`): then the task needs neither a file nor a token, and may
/// not be started or chosen with it.
pub fn is_task_key(key: &SecretString) -> bool {
    ["pk_", "tk_"].iter().any(|prefix| key.expose_secret().starts_with(prefix))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn options(uri: &str) -> ConnectOptions {
        ConnectOptions::new(ServiceUri::parse(uri).unwrap(), "s3cret".into())
    }

    #[test]
    fn debug_shows_no_credential() {
        let shown = format!("{:?}", options("localhost"));
        assert!(!shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn plaintext_beyond_this_host_needs_permission() {
        assert!(options("http://localhost").check().is_ok());
        assert!(options("https://engine.example").check().is_ok());
        let mut remote = options("http://engine.example");
        assert!(remote.check().unwrap_err().to_string().contains("unencrypted"));
        remote.allow_plaintext = true;
        assert!(remote.check().is_ok());
    }
}
