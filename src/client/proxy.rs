//! Through an HTTP proxy: `CONNECT` first, then the connection as if there were none.
//!
//! It knows nothing of the environment (the builder does) and of what travels afterwards. The proxy sees the name of the
//! server and how much travels, and with `https` nothing else.

use std::fmt;
use std::net::IpAddr;

use data_encoding::BASE64;
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use url::Url;

use super::error::{Error, Result};
use super::uri::ServiceUri;

/// The port of a proxy whose URL names none.
const DEFAULT_PORT: u16 = 80;
/// No answer to a `CONNECT` is longer, in bytes.
const MAX_ANSWER: usize = 16 * 1024;

/// An HTTP proxy. `Debug` and `Display` show no password.
#[derive(Clone)]
pub struct Proxy {
    host: String,
    port: u16,
    /// The value of `Proxy-Authorization`.
    authorization: Option<SecretString>,
}

impl Proxy {
    /// Reads `[http://][user:password@]host[:port]`; the user and the password percent-encoded where they must be.
    pub fn parse(url: &SecretString) -> Result<Self> {
        let text = url.expose_secret().trim();
        // Never quoted: it may hold a password.
        let invalid = |why: &str| Error::InvalidData(format!("invalid proxy url: {why}"));
        let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let url = Url::parse(&full).map_err(|error| invalid(&error.to_string()))?;
        if url.scheme() != "http" {
            return Err(invalid("only http:// proxies (CONNECT) are supported, for https:// servers too"));
        }
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(invalid("a path, query or fragment is not allowed"));
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| invalid("it names no host"))?;
        let port = url.port_or_known_default().unwrap_or(DEFAULT_PORT);
        let authorization = (!url.username().is_empty() || url.password().is_some()).then(|| {
            let mut pair: Vec<u8> = percent_decode_str(url.username()).collect();
            pair.push(b':');
            pair.extend(percent_decode_str(url.password().unwrap_or_default()));
            SecretString::from(format!("Basic {}", BASE64.encode(&pair)))
        });
        Ok(Self { host: host.trim_matches(['[', ']']).to_owned(), port, authorization })
    }

    /// Whether a `NO_PROXY` list spares this server: `*`, a name (and what is beneath it, with or without a leading
    /// dot), an address, a network like `10.0.0.0/8`; each with `:port` if only that port is meant.
    pub fn is_excepted(uri: &ServiceUri, list: &str) -> bool {
        let host = uri.host().to_ascii_lowercase();
        let address: Option<IpAddr> = host.parse().ok();
        list.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
            let entry = entry.to_ascii_lowercase();
            if entry == "*" {
                return true;
            }
            let (entry, port) = split_port(&entry);
            if port.is_some_and(|port| port != uri.port()) {
                return false;
            }
            address.map_or_else(|| spares_name(entry, &host), |address| spares_address(entry, address))
        })
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// The value of `Proxy-Authorization`, for another HTTP client.
    #[cfg(feature = "http")]
    pub(super) fn authorization(&self) -> Option<&SecretString> {
        self.authorization.as_ref()
    }

    /// Asks for a tunnel to the server; afterwards the stream is as good as a connection to it.
    pub(super) async fn tunnel<S>(&self, stream: &mut S, uri: &ServiceUri) -> Result<(), String>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let target = uri.authority();
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        if let Some(authorization) = &self.authorization {
            request.push_str("Proxy-Authorization: ");
            request.push_str(authorization.expose_secret());
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        let failed = |error: std::io::Error| format!("proxy {self}: {error}");
        stream.write_all(request.as_bytes()).await.map_err(failed)?;
        stream.flush().await.map_err(failed)?;

        // Byte by byte: what follows the answer belongs to the tunnel.
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() >= MAX_ANSWER {
                return Err(format!("proxy {self}: its answer is no HTTP"));
            }
            answer.push(stream.read_u8().await.map_err(failed)?);
        }
        match status(&answer) {
            Some(200..=299) => Ok(()),
            Some(407) => Err(format!("proxy {self}: it wants another user or password (HTTP 407)")),
            Some(status) => Err(format!("proxy {self}: it answered HTTP {status} instead of opening a tunnel")),
            None => Err(format!("proxy {self}: its answer is no HTTP")),
        }
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "http://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "http://{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self}, authorization: {})", self.authorization.is_some())
    }
}

/// The status of an answer like `HTTP/1.1 200 Connection established`.
fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    words.next()?.parse().ok()
}

/// `host:port`, where the host may be an address in brackets; a bare IPv6 address has no port.
fn split_port(entry: &str) -> (&str, Option<u16>) {
    match entry.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
            Ok(port) => (host.trim_matches(['[', ']']), Some(port)),
            Err(_) => (entry.trim_matches(['[', ']']), None),
        },
        _ => (entry.trim_matches(['[', ']']), None),
    }
}

fn spares_name(entry: &str, host: &str) -> bool {
    let name = entry.trim_start_matches("*.").trim_start_matches('.');
    !name.is_empty() && host.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn spares_address(entry: &str, address: IpAddr) -> bool {
    let Some((network, bits)) = entry.split_once('/') else {
        return entry.parse() == Ok(address);
    };
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else { return false };
    let same = |a: u128, b: u128, width: u32| bits <= width && (bits == 0 || (a ^ b) >> (width - bits) == 0);
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            same(u128::from(network.to_bits()), u128::from(address.to_bits()), u32::BITS)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => same(network.to_bits(), address.to_bits(), u128::BITS),
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_read_with_its_credential_and_never_shows_it() {
        for (text, shown, authorization) in [
            ("http://proxy.example:3128", "http://proxy.example:3128", None),
            ("proxy.example", "http://proxy.example:80", None),
            ("proxy.example:8080/", "http://proxy.example:8080", None),
            ("http://[::1]:3128", "http://[::1]:3128", None),
            // user "a", password "p@ss"
            ("http://a:p%40ss@h:1", "http://h:1", Some("Basic YTpwQHNz")),
            ("http://a@h:1", "http://h:1", Some("Basic YTo=")),
        ] {
            let proxy = Proxy::parse(&text.into()).unwrap();
            assert_eq!(proxy.to_string(), shown);
            assert_eq!(proxy.authorization.as_ref().map(SecretString::expose_secret), authorization, "{text}");
            assert!(!format!("{proxy:?}").contains("Basic"), "{proxy:?}");
        }
        for text in ["https://u:s3cret@h", "socks5://h", "http://", "http://u:s3cret@h/path", "http://u:s3cret@h:x"] {
            let error = Proxy::parse(&text.into()).unwrap_err().to_string();
            assert!(error.contains("proxy") && !error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn no_proxy_names_hosts_domains_addresses_and_networks() {
        for (uri, list, expected) in [
            ("https://engine.example", "", false),
            ("https://engine.example", "*", true),
            ("https://engine.example", "engine.example", true),
            ("https://a.engine.example", "engine.example", true),
            ("https://a.engine.example", "other,.Engine.Example", true),
            ("https://a.engine.example", "*.engine.example", true),
            ("https://notengine.example", "engine.example", false),
            ("https://engine.example:99", "engine.example:99", true),
            ("https://engine.example:99", "engine.example:98", false),
            ("https://10.1.2.3", "10.0.0.0/8", true),
            ("https://11.1.2.3", "10.0.0.0/8", false),
            ("https://10.1.2.3", "10.1.2.3", true),
            ("https://10.1.2.3:7", "10.1.2.3:8", false),
            ("https://10.1.2.3", "0.0.0.0/0", true),
            ("https://10.1.2.3", "10.0.0.0/33", false),
            ("https://[fd00::1]:7", "fd00::/8", true),
            ("https://[fd00::1]:7", "[fd00::1]:7", true),
            ("https://[fd00::1]:7", "fd00::1", true),
            ("https://[fd00::1]:7", "fe80::1", false),
        ] {
            assert_eq!(Proxy::is_excepted(&ServiceUri::parse(uri).unwrap(), list), expected, "{uri} {list}");
        }
    }

    #[test]
    fn an_answer_is_judged_by_its_first_line() {
        assert_eq!(status(b"HTTP/1.1 200 Connection established\r\nX: y\r\n\r\n"), Some(200));
        assert_eq!(status(b"HTTP/1.0 407 no\r\n\r\n"), Some(407));
        assert_eq!(status(b"SSH-2.0\r\n\r\n"), None);
        assert_eq!(status(b"\r\n\r\n"), None);
    }
}
