//! What surrounds the file: the environment of the process, and the place where the file lies.

use std::ops::Range;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};

use super::problem::Problems;
use super::raw::{self, Text};
use super::secret::Secret;
use crate::client::builder::{NO_PROXY_VARIABLES, PROXY_VARIABLES};

/// Name of the systemd credential that is used when the file names no key.
pub const DEFAULT_CREDENTIAL: &str = "api-key";

/// What the process's surroundings add to the file.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `$CREDENTIALS_DIRECTORY` of systemd.
    pub credentials_directory: Option<PathBuf>,
    /// `$STATE_DIRECTORY` of systemd.
    pub state_directory: Option<PathBuf>,
    /// `$RUNTIME_DIRECTORY` of systemd.
    pub runtime_directory: Option<PathBuf>,
    /// `$ROCKETRIDE_URI`.
    pub rocketride_uri: Option<String>,
    /// `$ROCKETRIDE_APIKEY`.
    pub rocketride_apikey: Option<SecretString>,
    /// `$HTTPS_PROXY`, in either case of letters; it may hold a password.
    pub https_proxy: Option<SecretString>,
    /// `$NO_PROXY`, in either case of letters: what does not go through it.
    pub no_proxy: String,
}

impl Environment {
    /// The environment of this process; an empty variable counts as absent.
    pub fn from_process() -> Self {
        let path = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let text = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        // systemd separates several by colons; the unit asks for one.
        let first = |name: &str| text(name).and_then(|all| all.split(':').next().map(PathBuf::from));
        let either = |names: [&str; 2]| names.into_iter().find_map(text);
        Self {
            credentials_directory: path("CREDENTIALS_DIRECTORY"),
            state_directory: first("STATE_DIRECTORY"),
            runtime_directory: first("RUNTIME_DIRECTORY"),
            rocketride_uri: text("ROCKETRIDE_URI"),
            rocketride_apikey: text("ROCKETRIDE_APIKEY").map(|key| SecretString::from(key.trim())),
            https_proxy: either(PROXY_VARIABLES).map(SecretString::from),
            no_proxy: either(NO_PROXY_VARIABLES).unwrap_or_default(),
        }
    }
}

/// What the parts of a file need to know of its whole.
pub(super) struct Context<'e> {
    /// Where the file lies.
    pub(super) directory: PathBuf,
    pub(super) env: &'e Environment,
    /// The `[server]` section.
    pub(super) server: Option<Range<usize>>,
}

impl Context<'_> {
    /// The places of a `*_file`: a relative one is looked up among the credentials, then beside the configuration file.
    pub(super) fn candidates(&self, file: &Text, problems: &mut Problems<'_>) -> Vec<PathBuf> {
        let beside = self.beside(file, problems);
        match &self.env.credentials_directory {
            Some(credentials) if Path::new(file.get_ref()).is_relative() => {
                vec![credentials.join(file.get_ref()), beside]
            }
            _ => vec![beside],
        }
    }

    /// The path, a relative one beside the configuration file.
    pub(super) fn beside(&self, file: &Text, problems: &mut Problems<'_>) -> PathBuf {
        if file.get_ref().trim().is_empty() || file.get_ref().contains('\0') {
            problems.at(&file.span(), "names no file; write its path or remove the key");
        }
        self.directory.join(file.get_ref())
    }

    /// A secret that stands in the file itself, which then must be nobody else's to read.
    pub(super) fn inline(
        secret: raw::Hidden,
        span: &Range<usize>,
        key: &str,
        problems: &mut Problems<'_>,
    ) -> SecretString {
        if secret.0.expose_secret().is_empty() {
            problems.at(span, format!("is empty; write the secret, or use {key}_file"));
        } else if secret.0.expose_secret().contains(|c: char| c.is_control() || c.is_whitespace()) {
            problems.at(span, "must be the secret alone, without blanks");
        }
        if !problems.is_private(span) {
            problems.at(
                span,
                format!("only allowed in a file that nobody else can read: chmod 0600 this file, or use {key}_file"),
            );
        }
        secret.0
    }

    pub(super) fn unnamed_key(&self) -> Secret {
        let credential = self.env.credentials_directory.as_ref().map(|folder| folder.join(DEFAULT_CREDENTIAL));
        Secret::unnamed("the API key".to_owned(), credential, self.env.rocketride_apikey.clone())
    }

    pub(super) fn missing_uri(&self, problems: &mut Problems<'_>) {
        let span = self.server.clone().unwrap_or(0..0);
        let message = "missing: write the address of the server, or set $ROCKETRIDE_URI (there is no default, so that \
                       documents never leave for a place nobody named)";
        problems.absent(&span, "server.uri", message);
    }
}
