//! Who may do what: pure rules on where a request comes from and what it carries.
//!
//! The Unix socket is guarded by its permissions: whoever may open it has full control. TCP is for looking: changes need
//! the token, and from other machines everything but metrics and health does. A page in somebody's browser must not
//! reach the daemon through it: requests that a browser sends on behalf of another site are refused by their `Origin`, and
//! names that somebody else may point at this host (DNS rebinding) by their `Host`.

use std::net::{IpAddr, SocketAddr};

/// Who is calling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// A process of this host, through the Unix socket.
    Local {
        /// Its user.
        uid: u32,
        /// Its process, if the kernel tells.
        pid: Option<i32>,
    },
    /// Through TCP.
    Remote(SocketAddr),
}

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Metrics and health, and the empty page that asks for the token.
    Public,
    /// Everything that shows names of files.
    Read,
    /// Everything that changes something.
    Write,
}

/// What of a request matters here.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked<'a> {
    /// The `Host` header.
    pub host: Option<&'a str>,
    /// The `Origin` header: a browser sends it with whatever a page does.
    pub origin: Option<&'a str>,
    /// It says of itself that a proxy passed it on.
    pub forwarded: bool,
    /// Whether the right token came with it; none if it carried no token.
    pub token: Option<bool>,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Misdirected: 421.
    #[error("this host is not served under that name; use its IP address or localhost")]
    Host,
    /// Forbidden: 403.
    #[error("requests of another site's page are refused")]
    Origin,
    /// Unauthorized: 401.
    #[error("the token is missing or wrong; send the content of admin.token_file as `Authorization: Bearer ...`")]
    Token,
    /// Forbidden: 403.
    #[error("changes over TCP need a token: set admin.token_file, or use the socket on the host itself")]
    NoToken,
}

/// Decides about a request. `has_token`: the configuration names a token.
pub fn check(caller: Caller, access: Access, asked: Asked<'_>, has_token: bool) -> Result<(), Refusal> {
    let Caller::Remote(address) = caller else { return Ok(()) };
    // What everybody may see needs no protection from other names of this host, by which it is scraped and probed.
    if access != Access::Public && !asked.host.is_some_and(is_plain_host) {
        return Err(Refusal::Host);
    }
    if asked.origin.is_some_and(|origin| !is_same_site(origin, asked.host.unwrap_or_default())) {
        return Err(Refusal::Origin);
    }
    let free = match access {
        Access::Public => true,
        // Behind a proxy on this host everybody comes from it.
        Access::Read => address.ip().to_canonical().is_loopback() && !asked.forwarded,
        Access::Write => false,
    };
    match asked.token {
        Some(true) => Ok(()),
        // A wrong token is never the same as none: its owner should learn of it.
        Some(false) => Err(Refusal::Token),
        None if free => Ok(()),
        None if has_token => Err(Refusal::Token),
        None => Err(Refusal::NoToken),
    }
}

/// Whether a `Host` names this host in a way that no stranger's DNS can: by address, or `localhost`.
fn is_plain_host(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

/// Whether an `Origin` is the site that the request went to. A proxy in front may speak TLS for us.
fn is_same_site(origin: &str, host: &str) -> bool {
    ["http://", "https://"]
        .iter()
        .any(|scheme| origin.strip_prefix(scheme).is_some_and(|site| site.eq_ignore_ascii_case(host)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(ip: &str) -> Caller {
        Caller::Remote(SocketAddr::new(ip.parse().unwrap(), 1))
    }

    fn asked(host: &str) -> Asked<'_> {
        Asked { host: Some(host), ..Asked::default() }
    }

    #[test]
    fn whoever_may_open_the_socket_has_full_control() {
        let local = Caller::Local { uid: 1000, pid: Some(1) };
        assert_eq!(check(local, Access::Write, Asked::default(), true), Ok(()));
    }

    #[test]
    fn over_tcp_the_token_decides_what_may_be_seen_and_changed() {
        use Access::{Public, Read, Write};
        let host = asked("127.0.0.1:9644");
        for (ip, access, token, has_token, expected) in [
            ("127.0.0.1", Public, None, false, Ok(())),
            ("127.0.0.1", Read, None, false, Ok(())),
            ("::1", Read, None, true, Ok(())),
            ("::ffff:127.0.0.1", Read, None, true, Ok(())),
            ("127.0.0.1", Write, None, false, Err(Refusal::NoToken)),
            ("127.0.0.1", Write, None, true, Err(Refusal::Token)),
            ("127.0.0.1", Write, Some(true), true, Ok(())),
            ("127.0.0.1", Read, Some(false), true, Err(Refusal::Token)),
            ("10.0.0.7", Public, None, false, Ok(())),
            ("10.0.0.7", Read, None, false, Err(Refusal::NoToken)),
            ("10.0.0.7", Read, None, true, Err(Refusal::Token)),
            ("10.0.0.7", Read, Some(true), true, Ok(())),
            ("10.0.0.7", Write, Some(true), true, Ok(())),
        ] {
            let got = check(remote(ip), access, Asked { token, ..host }, has_token);
            assert_eq!(got, expected, "{ip} {access:?} {token:?} {has_token}");
        }
    }

    #[test]
    fn a_name_that_somebody_else_may_point_here_is_refused() {
        for (host, good) in [
            ("localhost", true),
            ("LOCALHOST:9644", true),
            ("127.0.0.1:9644", true),
            ("[::1]:9644", true),
            ("[::1]", true),
            ("evil.example:9644", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("", false),
        ] {
            let got = check(remote("127.0.0.1"), Access::Read, asked(host), false);
            assert_eq!(got.is_ok(), good, "{host}");
            assert_eq!(check(remote("10.0.0.7"), Access::Public, asked(host), false), Ok(()), "{host} is probed");
        }
        assert_eq!(check(remote("127.0.0.1"), Access::Read, Asked::default(), false), Err(Refusal::Host));
    }

    #[test]
    fn behind_a_proxy_nobody_is_of_this_host() {
        let asked = Asked { forwarded: true, ..asked("127.0.0.1:9644") };
        assert_eq!(check(remote("127.0.0.1"), Access::Read, asked, true), Err(Refusal::Token));
        assert_eq!(check(remote("127.0.0.1"), Access::Public, asked, true), Ok(()));
    }

    #[test]
    fn a_page_of_another_site_reaches_nothing() {
        for (origin, good) in [
            ("http://127.0.0.1:9644", true),
            ("https://127.0.0.1:9644", true),
            ("http://127.0.0.1:80", false),
            ("http://evil.example", false),
            ("null", false),
        ] {
            let asked = Asked { origin: Some(origin), token: Some(true), ..asked("127.0.0.1:9644") };
            assert_eq!(check(remote("127.0.0.1"), Access::Write, asked, true).is_ok(), good, "{origin}");
        }
    }
}
