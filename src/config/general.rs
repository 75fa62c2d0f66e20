//! The sections that hold for the whole daemon: `[server]`, `[retry]` and `[state]`.

use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;

use super::environment::{Context, Environment};
use super::paths::{self, Territory, User};
use super::pipeline::{self, Shared};
use super::problem::Problems;
use super::secret::Secret;
use super::units::Size;
use super::{HOUR, MINUTE, SECOND, blank_as_none, check_text, proxy, raw, time_within, watch};
use crate::client::SILENCE_TIMEOUT;

/// Where the state lives when neither the file nor systemd says so.
pub const DEFAULT_STATE_DIRECTORY: &str = "/var/lib/rocketride-ingest";

/// Characters of the instance.
const MAX_INSTANCE: usize = 128;
/// More attempts than this are not patience but a mistake.
const MAX_ATTEMPTS: u32 = 1000;
const TICK: Duration = Duration::from_millis(100);

/// What holds for every connection; what a pipeline may override stands in [`super::Pipeline`].
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Name lookup, TCP, TLS and upgrade.
    pub connect_timeout: Duration,
    /// Write, status and auth, from the frame's departure.
    pub request_timeout: Duration,
    /// Without one byte from the server for so long, the connection is lost; it is pinged four times within.
    pub silence_timeout: Duration,
    /// Execute and terminate.
    pub start_timeout: Duration,
    /// Close: then the task's status is asked. The default of the pipelines.
    pub result_timeout: Duration,
    /// How long a stop waits for what is in flight.
    pub drain_timeout: Duration,
    /// Names this daemon in object ids; none: made once and kept in the state directory.
    pub instance: Option<String>,
}

impl Server {
    /// Whether connections are made and used in the same way.
    pub fn is_same_way(&self, other: &Self) -> bool {
        let neither = |server: &Self| Self { drain_timeout: Duration::ZERO, instance: None, ..server.clone() };
        neither(self) == neither(other)
    }
}

/// How often and when a file is tried again.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// Attempts until a file is a dead letter.
    pub attempts: u32,
    /// Upper end of the first wait.
    pub initial: Duration,
    /// Upper end of any wait.
    pub max: Duration,
}

/// Where the daemon remembers.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// Absolute.
    pub directory: PathBuf,
    /// With less free space than this, in bytes, nothing new is claimed.
    pub min_free: u64,
    /// Bytes of results that may wait here for a folder that can be written; 0: none.
    pub max_spool: u64,
    /// How long the journal knows of files that came to their end and are gone.
    pub finished_retention: Duration,
}

pub(super) fn server(
    written: Option<Spanned<raw::Server>>,
    context: &Context<'_>,
    problems: &mut Problems<'_>,
) -> (Server, Shared) {
    let written = written.map(Spanned::into_inner).unwrap_or_default();
    if let (Some(_), Some(key)) = (&written.api_key_file, &written.api_key) {
        problems.at(&key.span(), "one of api_key_file and api_key is enough; remove the other");
    }
    let inline_key = written.api_key.map(|key| {
        let span = key.span();
        Context::inline(key.into_inner(), &span, "api_key", problems)
    });
    let api_key = match (&written.api_key_file, &inline_key) {
        (Some(file), _) => Some(Secret::file("the API key".to_owned(), context.candidates(file, problems))),
        (None, Some(key)) => Some(Secret::inline("the API key".to_owned(), key.clone())),
        (None, None) => None,
    };
    let ca_file =
        blank_as_none(written.ca_file).and_then(|file| pipeline::first_existing(context.candidates(&file, problems)));
    let result_timeout = pipeline::result_timeout(written.result_timeout, problems);
    let shared = Shared {
        uri: written.uri.map(|uri| pipeline::uri_of(uri, problems)).or_else(|| context.env.rocketride_uri.clone()),
        api_key,
        inline_key,
        ca_file,
        allow_plaintext: written.allow_plaintext.unwrap_or(false),
        proxy: proxy::proxy(written.proxy, context.env, problems),
        chunk_size: pipeline::chunk_size(written.chunk_size, problems),
        result_timeout,
    };
    let server = Server {
        connect_timeout: time_within(written.connect_timeout, 10 * SECOND, TICK..=10 * MINUTE, problems),
        request_timeout: time_within(written.request_timeout, 60 * SECOND, TICK..=HOUR, problems),
        silence_timeout: time_within(written.silence_timeout, SILENCE_TIMEOUT, SECOND..=HOUR, problems),
        start_timeout: time_within(written.start_timeout, 10 * MINUTE, TICK..=24 * HOUR, problems),
        result_timeout,
        drain_timeout: time_within(written.drain_timeout, 60 * SECOND, Duration::ZERO..=HOUR, problems),
        instance: blank_as_none(written.instance).map(|instance| {
            check_text(instance.get_ref(), MAX_INSTANCE, &instance.span(), problems);
            instance.into_inner()
        }),
    };
    (server, shared)
}

pub(super) fn retry(written: raw::Retry, problems: &mut Problems<'_>) -> Retry {
    let attempts = written.attempts.map_or(6, |attempts| {
        if !(1..=MAX_ATTEMPTS).contains(attempts.get_ref()) {
            problems.at(&attempts.span(), format!("must be from 1 to {MAX_ATTEMPTS}"));
        }
        *attempts.get_ref()
    });
    let blame = written.max.as_ref().or(written.initial.as_ref()).map(Spanned::span);
    let initial = time_within(written.initial, 30 * SECOND, Duration::from_millis(1)..=24 * HOUR, problems);
    let max = time_within(written.max, 10 * MINUTE, Duration::from_millis(1)..=168 * HOUR, problems);
    if let (true, Some(span)) = (max < initial, blame) {
        let (max, initial) = (humantime::format_duration(max), humantime::format_duration(initial));
        problems
            .at(&span, format!("retry.max ({max}) is less than retry.initial ({initial}); raise max or lower initial"));
    }
    Retry { attempts, initial, max }
}

pub(super) fn state(
    written: raw::State,
    env: &Environment,
    territories: &mut Vec<Territory>,
    problems: &mut Problems<'_>,
) -> State {
    let span = written.directory.as_ref().map(Spanned::span);
    let default = || env.state_directory.clone().unwrap_or_else(|| DEFAULT_STATE_DIRECTORY.into());
    let directory = written.directory.and_then(|text| watch::absolute(&text, problems)).unwrap_or_else(default);
    let label = "the state directory".to_owned();
    territories.push(Territory { user: User::State, label, path: paths::normalised(&directory), span });
    let size = |written: Option<Spanned<Size>>, default| written.map_or(default, |size| size.into_inner().0);
    let retention = time_within(written.finished_retention, 7 * 24 * HOUR, MINUTE..=3650 * 24 * HOUR, problems);
    State {
        directory,
        min_free: size(written.min_free, 1 << 30),
        max_spool: size(written.max_spool, 5 << 30),
        finished_retention: retention,
    }
}
