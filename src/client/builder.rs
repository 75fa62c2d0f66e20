//! How a [`Client`] is put together: one value a setting, checked at the end.
//!
//! The only place of the library that reads the environment, and only when told to.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use super::error::{Error, Result};
use super::options::{ConnectOptions, PINGS_PER_SILENCE};
use super::proxy::Proxy;
use super::reconnect::{Client, Reconnect, Settings};
use super::uri::ServiceUri;

/// Where the server is; the SDK's name.
pub const URI_VARIABLE: &str = "ROCKETRIDE_URI";
/// The credential; the SDK's name.
pub const API_KEY_VARIABLE: &str = "ROCKETRIDE_APIKEY";
/// A proxy for everything but plain HTTP, in either case of letters.
pub(crate) const PROXY_VARIABLES: [&str; 2] = ["HTTPS_PROXY", "https_proxy"];
/// What does not go through it.
pub(crate) const NO_PROXY_VARIABLES: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// The settings of a client to be; `uri` and `api_key` have no default.
///
/// `Debug` shows no credential.
#[derive(Debug, Clone, Default)]
#[must_use = "nothing is made before `build`"]
pub struct ClientBuilder {
    uri: Option<String>,
    api_key: Option<SecretString>,
    proxy: Option<SecretString>,
    /// The environment's proxy, and what does not go through it.
    proxy_of_environment: Option<(SecretString, String)>,
    adjust: Adjust,
    settings: Settings,
}

/// What differs from the defaults of [`ConnectOptions`].
#[derive(Debug, Clone, Default)]
struct Adjust {
    client_name: Option<String>,
    connect_timeout: Option<Duration>,
    request_timeout: Option<Duration>,
    ping_interval: Option<Duration>,
    silence_timeout: Option<Duration>,
    ca_file: Option<PathBuf>,
    max_message: Option<usize>,
    allow_plaintext: bool,
}

impl ClientBuilder {
    /// Where the server is, by the rules of [`ServiceUri`]. Unlike in the SDK there is no default: documents never leave
    /// for a cloud that nobody named.
    pub fn uri(mut self, uri: impl Into<String>) -> Self {
        self.uri = Some(uri.into());
        self
    }

    /// An account key, a `tk_` task token or a `pk_` public key of a task.
    pub fn api_key(mut self, api_key: impl Into<SecretString>) -> Self {
        self.api_key = Some(api_key.into());
        self
    }

    /// The name to be shown for this connection on the server.
    pub fn client_name(mut self, name: impl Into<String>) -> Self {
        self.adjust.client_name = Some(name.into());
        self
    }

    /// Limit of TCP, proxy, TLS and the upgrade together; 10 s unless set.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.adjust.connect_timeout = Some(timeout);
        self
    }

    /// Limit of an ordinary reply; 60 s unless set. An open waits for a slot without it, see [`Pipe`](super::Pipe).
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.adjust.request_timeout = Some(timeout);
        self
    }

    /// How long a result may take before the task is asked for; 30 min unless set. See [`Pipe::close`](super::Pipe::close).
    pub fn result_timeout(mut self, timeout: Duration) -> Self {
        self.settings.result_timeout = timeout;
        self
    }

    /// How often this side pings; a quarter of the silence timeout unless set.
    pub fn ping_interval(mut self, interval: Duration) -> Self {
        self.adjust.ping_interval = Some(interval);
        self
    }

    /// Without one byte for so long the connection is lost; 60 s unless set.
    pub fn silence_timeout(mut self, timeout: Duration) -> Self {
        self.adjust.silence_timeout = Some(timeout);
        self
    }

    /// A PEM file of extra roots; the system's roots always count.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.adjust.ca_file = Some(path.into());
        self
    }

    /// Reaches the server through this HTTP proxy, `http://[user:password@]host[:port]`, whatever the environment says.
    pub fn proxy(mut self, url: impl Into<SecretString>) -> Self {
        self.proxy = Some(url.into());
        self
    }

    /// Lets the credential and the files travel unencrypted to another host.
    pub fn allow_plaintext(mut self, allow: bool) -> Self {
        self.adjust.allow_plaintext = allow;
        self
    }

    /// Largest incoming message in bytes; a larger one ends the connection.
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.adjust.max_message = Some(bytes);
        self
    }

    /// Most bytes in one write; 1 MiB unless set.
    pub fn chunk_size(mut self, bytes: usize) -> Self {
        self.settings.chunk_size = bytes;
        self
    }

    /// How hard to try to connect before a call fails.
    pub fn reconnect(mut self, policy: Reconnect) -> Self {
        self.settings.reconnect = policy;
        self
    }

    /// Takes what was not set from `$ROCKETRIDE_URI`, `$ROCKETRIDE_APIKEY`, and `$HTTPS_PROXY` with `$NO_PROXY`.
    ///
    /// Empty variables count as unset. One that is not Unicode is an error.
    pub fn from_env(self) -> Result<Self> {
        self.from_variables(|name| match std::env::var(name) {
            Ok(value) => Ok(Some(value)),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => Err(Error::InvalidData(format!("${name} is not valid Unicode"))),
        })
    }

    /// The same from any source of variables.
    pub fn from_variables(mut self, variable: impl Fn(&str) -> Result<Option<String>>) -> Result<Self> {
        let first = |names: &[&str]| -> Result<Option<String>> {
            for name in names {
                if let Some(value) = variable(name)?.filter(|value| !value.trim().is_empty()) {
                    return Ok(Some(value));
                }
            }
            Ok(None)
        };
        if self.uri.is_none() {
            self.uri = first(&[URI_VARIABLE])?;
        }
        if self.api_key.is_none() {
            self.api_key = first(&[API_KEY_VARIABLE])?.map(SecretString::from);
        }
        if let Some(proxy) = first(&PROXY_VARIABLES)? {
            self.proxy_of_environment = Some((proxy.into(), first(&NO_PROXY_VARIABLES)?.unwrap_or_default()));
        }
        Ok(self)
    }

    /// The client; it does not connect yet. [`Error::InvalidData`] names what is missing or wrong.
    pub fn build(self) -> Result<Client> {
        let (options, settings) = self.finish()?;
        Ok(Client::with_settings(options, settings))
    }

    /// The same for where only HTTP passes; it does not connect yet. The policies of connections that stay
    /// ([`reconnect`](Self::reconnect), [`chunk_size`](Self::chunk_size)) mean nothing to it.
    #[cfg(feature = "http")]
    pub fn build_http(self) -> Result<super::http::HttpClient> {
        let (options, settings) = self.finish()?;
        Ok(super::http::HttpClient::with_result_timeout(options, settings.result_timeout))
    }

    fn finish(self) -> Result<(ConnectOptions, Settings)> {
        let missing = |what, variable| {
            Error::InvalidData(format!(
                "the {what} is missing: set it on the builder, or use from_env with ${variable}"
            ))
        };
        let uri = ServiceUri::parse(&self.uri.ok_or_else(|| missing("uri of the server", URI_VARIABLE))?)?;
        let credential = self.api_key.ok_or_else(|| missing("api key", API_KEY_VARIABLE))?;
        let proxy = match (&self.proxy, &self.proxy_of_environment) {
            (Some(url), _) => Some(Proxy::parse(url)?),
            (None, Some((url, exceptions))) if !uri.is_loopback() && !Proxy::is_excepted(&uri, exceptions) => {
                Some(Proxy::parse(url)?)
            }
            (None, _) => None,
        };
        if self.settings.result_timeout.is_zero() {
            return Err(Error::InvalidData("the result timeout must not be zero".into()));
        }
        let Adjust {
            client_name,
            connect_timeout,
            request_timeout,
            ping_interval,
            silence_timeout,
            ca_file,
            max_message,
            allow_plaintext,
        } = self.adjust;
        let defaults = ConnectOptions::new(uri, credential);
        let options = ConnectOptions {
            client_name: client_name.unwrap_or(defaults.client_name),
            connect_timeout: connect_timeout.unwrap_or(defaults.connect_timeout),
            request_timeout: request_timeout.unwrap_or(defaults.request_timeout),
            ping_interval: ping_interval
                .or(silence_timeout.map(|timeout| timeout / PINGS_PER_SILENCE))
                .unwrap_or(defaults.ping_interval),
            silence_timeout: silence_timeout.unwrap_or(defaults.silence_timeout),
            max_message: max_message.unwrap_or(defaults.max_message),
            ca_file,
            allow_plaintext,
            proxy,
            ..defaults
        };
        options.check()?;
        Ok((options, self.settings))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> ClientBuilder {
        let variable =
            |name: &str| Ok(variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()));
        Client::builder().from_variables(variable).unwrap()
    }

    #[test]
    fn what_is_missing_is_named() {
        let no_uri = Client::builder().api_key("k").build().unwrap_err().to_string();
        assert!(no_uri.contains("ROCKETRIDE_URI"), "{no_uri}");
        let no_key = from(&[("ROCKETRIDE_URI", "localhost"), ("ROCKETRIDE_APIKEY", " ")]).build();
        let no_key = no_key.unwrap_err().to_string();
        assert!(no_key.contains("ROCKETRIDE_APIKEY"), "{no_key}");
        let zero = Client::builder().uri("localhost").api_key("k").result_timeout(Duration::ZERO).build();
        assert!(zero.unwrap_err().to_string().contains("result timeout"));
    }

    #[test]
    fn what_was_set_wins_over_the_environment_and_nothing_shows_a_secret() {
        let builder = from(&[
            ("ROCKETRIDE_URI", "https://env.example"),
            ("ROCKETRIDE_APIKEY", "s3cret-key"),
            ("HTTPS_PROXY", "http://u:s3cret-word@proxy.example:3128"),
        ]);
        let shown = format!("{builder:?} {:?}", builder.clone().build().unwrap());
        assert!(!shown.contains("s3cret"), "{shown}");
        assert!(shown.contains("proxy.example") && shown.contains("env.example"), "{shown}");
        let shown = format!("{:?}", builder.uri("https://set.example").build().unwrap());
        assert!(shown.contains("set.example") && !shown.contains("env.example"), "{shown}");
    }

    #[test]
    fn the_proxy_of_the_environment_spares_this_host_and_what_no_proxy_names() {
        let proxied = |uri: &str, exceptions: &str| {
            let builder =
                from(&[("ROCKETRIDE_APIKEY", "k"), ("https_proxy", "proxy.example"), ("no_proxy", exceptions)]);
            format!("{:?}", builder.uri(uri).build().unwrap()).contains("proxy.example")
        };
        assert!(proxied("https://engine.example", ""));
        assert!(!proxied("http://localhost", ""));
        assert!(!proxied("https://engine.example", "other, .example"));
        let named = Client::builder().uri("localhost").api_key("k").proxy("http://proxy.example:1").build().unwrap();
        assert!(format!("{named:?}").contains("proxy.example"), "a proxy that was asked for is used");
    }

    #[test]
    fn a_client_may_be_shared_between_tasks() {
        fn shareable<T: Clone + Send + Sync + 'static>(_: &T) {}
        shareable(&Client::builder().uri("localhost").api_key("k").build().unwrap());
    }
}
