//! The HTTP proxy on the way to the server: written in the file, or the one of the environment.
//!
//! Which server it serves is decided when a connection is made: a pipeline may have a server of its own. What is wrong with
//! a proxy of the environment is no fault of the file, so it takes the pipelines down instead of refusing the file.

use std::ops::Range;

use secrecy::{ExposeSecret, SecretString};
use toml::Spanned;

use super::environment::Environment;
use super::problem::Problems;
use super::raw::Hidden;
use crate::client::{Error, Proxy, ServiceUri};

/// Where the proxy's URL comes from when the file does not say.
pub const PROXY_VARIABLE: &str = "$HTTPS_PROXY";

/// A proxy, and for which servers.
#[derive(Debug, Clone)]
pub struct ProxyRule {
    /// It may hold a password.
    url: SecretString,
    /// The list of `$NO_PROXY`; none: written in the file, and meant for every server.
    exceptions: Option<String>,
}

impl ProxyRule {
    /// The URL of the proxy through which this server is reached; none: directly. As everywhere, the proxy of the
    /// environment is not asked for what is on this machine.
    pub fn url(&self, server: &ServiceUri) -> Option<&SecretString> {
        let spared =
            self.exceptions.as_ref().is_some_and(|list| server.is_loopback() || Proxy::is_excepted(server, list));
        (!spared).then_some(&self.url)
    }

    /// The same, ready to be used. Errors: the variable holds no URL of a proxy.
    pub fn proxy(&self, server: &ServiceUri) -> Result<Option<Proxy>, Error> {
        self.url(server).map(Proxy::parse).transpose().map_err(|error| match &self.exceptions {
            Some(_) => Error::InvalidData(format!("{PROXY_VARIABLE}: {error}")),
            None => error,
        })
    }

    /// For a person, without the password.
    pub fn describe(&self) -> String {
        Proxy::parse(&self.url).map_or_else(|error| error.to_string(), |proxy| proxy.to_string())
    }

    /// Whether the file says so, not the environment.
    pub fn is_written(&self) -> bool {
        self.exceptions.is_none()
    }
}

impl PartialEq for ProxyRule {
    fn eq(&self, other: &Self) -> bool {
        self.url.expose_secret() == other.url.expose_secret() && self.exceptions == other.exceptions
    }
}

/// The proxy that is written, else the one of the environment.
pub(super) fn proxy(
    written: Option<Spanned<Hidden>>,
    env: &Environment,
    problems: &mut Problems<'_>,
) -> Option<ProxyRule> {
    let written = written.filter(|url| !url.get_ref().0.expose_secret().is_empty());
    let Some(written) = written else {
        let exceptions = Some(env.no_proxy.clone());
        return env.https_proxy.clone().map(|url| ProxyRule { url, exceptions });
    };
    let span = written.span();
    let url = written.into_inner().0;
    check(&url, &span, problems);
    Some(ProxyRule { url, exceptions: None })
}

fn check(url: &SecretString, span: &Range<usize>, problems: &mut Problems<'_>) {
    if let Err(error) = Proxy::parse(url) {
        problems.at(span, format!("{error}; write for example \"http://proxy.example.com:3128\""));
    } else if url.expose_secret().contains('@') && !problems.is_private(span) {
        problems.at(
            span,
            format!(
                "a user and a password are only allowed in a file that nobody else can read: chmod 0600 this file, or \
                 set {PROXY_VARIABLE}"
            ),
        );
    }
}
