//! Where a server is: the URI rules of the official SDK, made strict.
//!
//! Pure. It knows nothing of sockets and resolves no name.
//!
//! The SDK's rules: no scheme means `http://`; no port means 5565, except for hosts that contain `rocketride.ai` (there
//! the scheme's own port); `http` becomes `ws`, `https` becomes `wss`; the path is always `/task/service`. What the SDK
//! drops silently (user names, queries, other paths) is refused here: it was written for a reason that would not be met.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use url::{Host, Url};

use super::error::{Error, Result};

/// The port of a self-hosted server when the URI names none.
pub const DEFAULT_PORT: u16 = 5565;
/// Hosts that contain this serve on the scheme's own port.
const CLOUD_DOMAIN: &str = "rocketride.ai";
/// The only path of the protocol.
const SERVICE_PATH: &str = "/task/service";

/// A checked address of a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceUri {
    tls: bool,
    host: Host<String>,
    port: u16,
}

impl ServiceUri {
    /// Reads a URI as the SDK does; [`Error::InvalidData`] names what is wrong with it.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.is_empty() {
            return Err(Error::InvalidData("the server uri is empty".into()));
        }
        let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        // A credential in the wrong place must not end up in a log: such a URI is never quoted.
        if authority(&full).contains('@') {
            return Err(Error::InvalidData("a server uri must not hold a user name or password".into()));
        }
        let invalid = |why: &str| Error::InvalidData(format!("invalid server uri {:?}: {why}", without_query(text)));

        let url = Url::parse(&full).map_err(|error| invalid(&error.to_string()))?;
        let tls = match url.scheme() {
            "http" | "ws" => false,
            "https" | "wss" => true,
            _ => return Err(invalid("the scheme must be http, https, ws or wss")),
        };
        if url.query().is_some() {
            return Err(invalid("a query is not allowed"));
        }
        if url.fragment().is_some() {
            return Err(invalid("a fragment is not allowed"));
        }
        if !matches!(url.path().trim_end_matches('/'), "" | SERVICE_PATH) {
            return Err(invalid("a path is not allowed, it is always /task/service"));
        }
        let host = match url.host() {
            Some(host) => host.to_owned(),
            None => return Err(invalid("it names no host")),
        };
        let port = match explicit_port(&full) {
            // The parser forgets a port that is the scheme's own; to the SDK it is as good as any other.
            Some(_) => url.port_or_known_default().ok_or_else(|| invalid("the port is not a number"))?,
            None if host.to_string().contains(CLOUD_DOMAIN) => default_port(tls),
            None => DEFAULT_PORT,
        };
        if port == 0 {
            return Err(invalid("port 0 cannot be connected to"));
        }
        Ok(Self { tls, host, port })
    }

    /// Whether everything, the credential included, travels unencrypted.
    pub fn is_plaintext(&self) -> bool {
        !self.tls
    }

    /// Whether it is this very host: `localhost` or a loopback address.
    pub fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Domain(name) => name.eq_ignore_ascii_case("localhost"),
            Host::Ipv4(address) => address.is_loopback(),
            Host::Ipv6(address) => IpAddr::V6(*address).to_canonical().is_loopback(),
        }
    }

    /// The host as a resolver wants it: an IPv6 address without brackets.
    pub fn host(&self) -> String {
        match &self.host {
            Host::Ipv6(address) => address.to_string(),
            other => other.to_string(),
        }
    }

    /// The port, never 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Host and port as a URL has them.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The address of the `WebSocket`.
    pub fn websocket_url(&self) -> String {
        format!("{}://{}:{}{SERVICE_PATH}", if self.tls { "wss" } else { "ws" }, self.host, self.port)
    }
}

impl fmt::Display for ServiceUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", if self.tls { "https" } else { "http" }, self.host, self.port)
    }
}

impl FromStr for ServiceUri {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

/// What stands between `://` and the path.
fn authority(full: &str) -> &str {
    let rest = full.split_once("://").map_or(full, |(_, rest)| rest);
    rest.split(['/', '?', '#', '\\']).next().unwrap_or(rest)
}

/// The port as it was written, if one was.
fn explicit_port(full: &str) -> Option<&str> {
    let authority = authority(full);
    let after_host = authority.rsplit_once(']').map_or(authority, |(_, after)| after);
    after_host.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.is_empty())
}

/// For messages: a query may hold a token.
fn without_query(text: &str) -> &str {
    text.split(['?', '#']).next().unwrap_or(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn uris_are_read_as_the_sdk_reads_them() {
        for (text, websocket, loopback) in [
            ("localhost", "ws://localhost:5565/task/service", true),
            ("localhost:80", "ws://localhost:80/task/service", true),
            ("LOCALHOST:9", "ws://localhost:9/task/service", true),
            ("http://localhost", "ws://localhost:5565/task/service", true),
            ("https://localhost:443", "wss://localhost:443/task/service", true),
            ("127.0.0.1:8080", "ws://127.0.0.1:8080/task/service", true),
            ("127.9.9.9", "ws://127.9.9.9:5565/task/service", true),
            ("http://[::1]", "ws://[::1]:5565/task/service", true),
            ("[::1]:7", "ws://[::1]:7/task/service", true),
            ("https://[fe80::1]:7", "wss://[fe80::1]:7/task/service", false),
            ("https://api.rocketride.ai", "wss://api.rocketride.ai:443/task/service", false),
            ("https://api.rocketride.ai/", "wss://api.rocketride.ai:443/task/service", false),
            ("http://api.rocketride.ai", "ws://api.rocketride.ai:80/task/service", false),
            ("api.rocketride.ai:5565", "ws://api.rocketride.ai:5565/task/service", false),
            ("wss://engine.example:443/task/service", "wss://engine.example:443/task/service", false),
            ("https://engine.example", "wss://engine.example:5565/task/service", false),
            ("https://engine.example:", "wss://engine.example:5565/task/service", false),
            (" http://10.0.0.7 ", "ws://10.0.0.7:5565/task/service", false),
            ("localhost.example.com", "ws://localhost.example.com:5565/task/service", false),
        ] {
            let uri = ServiceUri::parse(text).unwrap();
            assert_eq!(uri.websocket_url(), websocket, "{text}");
            assert_eq!(uri.is_loopback(), loopback, "{text}");
            assert_eq!(uri.is_plaintext(), websocket.starts_with("ws:"), "{text}");
            assert_eq!(ServiceUri::parse(&uri.to_string()).unwrap(), uri, "{text}");
        }
    }

    #[test]
    fn what_the_sdk_would_drop_is_refused_by_name() {
        for (text, word) in [
            ("", "empty"),
            ("  ", "empty"),
            ("https://", "host"),
            ("ftp://h", "scheme"),
            ("https://h?token=1", "query"),
            ("https://h/#x", "fragment"),
            ("https://h/other", "path"),
            ("https://u:p@h", "user name"),
            ("u@h", "user name"),
            ("https://h:99999", "port"),
            ("https://h:0", "port 0"),
            ("https://h:x", "port"),
        ] {
            let error = ServiceUri::parse(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn a_secret_in_a_uri_is_not_repeated() {
        for text in ["https://u:s3cret@h", "s3cret@h", "https://h?token=s3cret", "ftp://s3cret@h", "https://h#s3cret"] {
            let error = ServiceUri::parse(text).unwrap_err().to_string();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_uri_or_an_error(text in ".{0,60}") {
            if let Ok(uri) = ServiceUri::parse(&text) {
                prop_assert_eq!(ServiceUri::parse(&uri.to_string()).unwrap(), uri);
            }
        }
    }
}
