//! The configuration: validated, immutable, and the only place that knows a default.
//!
//! `raw` is what was written, this module is what it means. Parsing looks at the text and at the [`Environment`] alone;
//! whether a folder exists or a key can be read is a matter of the world and is asked later, by those who need it.
//! Nothing here connects, watches or creates anything.

mod filters;
mod log;
mod paths;
mod pipeline;
mod problem;
mod raw;
mod secret;
mod units;
mod watch;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::ops::{Range, RangeInclusive};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use toml::Spanned;

pub use filters::Filters;
pub use log::{Log, LogFormat, LogLevel};
pub use pipeline::{Limits, Pipeline, PipelineLimits, Target};
pub use problem::{ConfigError, Invalid, MAX_PROBLEMS, Problem};
pub use secret::{MAX_SECRET_BYTES, Secret, SecretError, is_task_key};
pub use watch::{Detect, OnSuccess, ResultMode, Results, Watch};

use paths::{Territory, User};
use pipeline::Shared;
use problem::Problems;
use raw::Text;
use units::Time;

/// The largest configuration file that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Name of the systemd credential that is used when the file names no key.
pub const DEFAULT_CREDENTIAL: &str = "api-key";

/// Where the state lives when neither the file nor systemd says so.
pub const DEFAULT_STATE_DIRECTORY: &str = "/var/lib/rocketride-ingest";

/// Characters of the name of a watch or pipeline.
const MAX_NAME: usize = 64;
/// Characters of the instance.
const MAX_INSTANCE: usize = 128;
/// More attempts than this are not patience but a mistake.
const MAX_ATTEMPTS: u32 = 1000;
/// Permission bits of a file that nobody but its owner can use.
const ALL_BUT_OWNER: u32 = 0o077;

const TICK: Duration = Duration::from_millis(100);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Everything the daemon is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file, as an absolute path.
    pub origin: PathBuf,
    /// What holds for every connection.
    pub server: Server,
    /// Limits of the whole daemon.
    pub limits: Limits,
    /// How often and when a file is tried again.
    pub retry: Retry,
    /// Where the daemon remembers.
    pub state: State,
    /// What is logged.
    pub log: Log,
    /// In the order of their names.
    pub pipelines: Vec<Arc<Pipeline>>,
    /// In the order of the file.
    pub watches: Vec<Arc<Watch>>,
}

/// What holds for every connection; what a pipeline may override stands in [`Pipeline`].
#[derive(Debug, Clone)]
pub struct Server {
    /// Name lookup, TCP, TLS and upgrade.
    pub connect_timeout: Duration,
    /// Write, status and auth, from the frame's departure.
    pub request_timeout: Duration,
    /// Execute and terminate.
    pub start_timeout: Duration,
    /// Close: then the task's status is asked. The default of the pipelines.
    pub result_timeout: Duration,
    /// How long a stop waits for what is in flight.
    pub drain_timeout: Duration,
    /// Names this daemon in object ids; none: made once and kept in the state directory.
    pub instance: Option<String>,
}

/// How often and when a file is tried again.
#[derive(Debug, Clone)]
pub struct Retry {
    /// Attempts until a file is a dead letter.
    pub attempts: u32,
    /// Upper end of the first wait.
    pub initial: Duration,
    /// Upper end of any wait.
    pub max: Duration,
}

/// Where the daemon remembers.
#[derive(Debug, Clone)]
pub struct State {
    /// Absolute.
    pub directory: PathBuf,
    /// With less free space than this, in bytes, nothing new is claimed.
    pub min_free: u64,
}

/// What the process's surroundings add to the file.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `$CREDENTIALS_DIRECTORY` of systemd.
    pub credentials_directory: Option<PathBuf>,
    /// `$STATE_DIRECTORY` of systemd.
    pub state_directory: Option<PathBuf>,
    /// `$ROCKETRIDE_URI`.
    pub rocketride_uri: Option<String>,
    /// `$ROCKETRIDE_APIKEY`.
    pub rocketride_apikey: Option<SecretString>,
}

impl Environment {
    /// The environment of this process; an empty variable counts as absent.
    pub fn from_process() -> Self {
        let path = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let text = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        Self {
            credentials_directory: path("CREDENTIALS_DIRECTORY"),
            // systemd separates several by colons; the unit asks for one.
            state_directory: text("STATE_DIRECTORY").and_then(|all| all.split(':').next().map(PathBuf::from)),
            rocketride_uri: text("ROCKETRIDE_URI"),
            rocketride_apikey: text("ROCKETRIDE_APIKEY").map(|key| SecretString::from(key.trim())),
        }
    }
}

impl Config {
    /// Reads and validates a file.
    pub fn load(path: &Path, env: &Environment) -> Result<Self, ConfigError> {
        let failed = |source| ConfigError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.mode();
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            let limit = units::show_size(MAX_FILE_BYTES);
            return Err(failed(std::io::Error::other(format!("it is larger than {limit}"))));
        }
        match std::str::from_utf8(&bytes) {
            Ok(text) => Self::parse_file(text, path, env, mode & ALL_BUT_OWNER == 0),
            Err(error) => {
                let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
                let mut problems = Problems::unparsed(&good, path);
                problems.at(&(good.len()..good.len()), "not UTF-8 text from here on; save the file as UTF-8");
                Err(problems.into_error())
            }
        }
    }

    /// Validates a text that is taken for the content of `origin`, and for one that nobody else can read.
    pub fn parse(text: &str, origin: &Path, env: &Environment) -> Result<Self, ConfigError> {
        Self::parse_file(text, origin, env, true)
    }

    /// The pipeline of this name.
    pub fn pipeline(&self, name: &str) -> Option<&Arc<Pipeline>> {
        self.pipelines.iter().find(|pipeline| pipeline.name == name)
    }

    fn parse_file(text: &str, origin: &Path, env: &Environment, private: bool) -> Result<Self, ConfigError> {
        let origin = std::path::absolute(origin).unwrap_or_else(|_| origin.to_owned());
        let mut problems = Problems::parse(text, &origin);
        if !problems.is_empty() {
            // What a text that is no TOML means is guesswork: only its syntax is reported.
            return Err(problems.into_error());
        }
        let mut written: raw::File = problems.read();
        let context = Context {
            directory: origin.parent().unwrap_or(Path::new("/")).to_owned(),
            env,
            private,
            server: written.server.as_ref().map(Spanned::span),
        };
        let (server, shared) = build_server(written.server.take(), &context, &mut problems);
        let limits = Limits::build(written.limits, 8, &mut problems);
        let retry = build_retry(written.retry, &mut problems);
        let mut territories = Vec::new();
        let state = build_state(written.state, env, &mut territories, &mut problems);
        let log = Log { level: written.log.level.unwrap_or_default(), format: written.log.format.unwrap_or_default() };
        if written.pipelines.is_empty() && shared.uri.is_none() {
            context.missing_uri(&mut problems);
        }
        let pipelines: Vec<_> = written
            .pipelines
            .into_iter()
            .map(|(name, pipeline)| {
                check_name("pipeline", name.get_ref(), &name.span(), &mut problems);
                Arc::new(Pipeline::build(name.into_inner(), pipeline, &shared, &context, &mut problems))
            })
            .collect();
        let watches = build_watches(written.watch, &pipelines, &mut territories, &mut problems);
        paths::check_overlaps(&territories, &mut problems);
        problems.finish(Self { origin, server, limits, retry, state, log, pipelines, watches })
    }
}

/// What the parts of a file need to know of its whole.
struct Context<'e> {
    /// Where the file lies.
    directory: PathBuf,
    env: &'e Environment,
    /// Whether nobody else can read the file.
    private: bool,
    /// The `[server]` section.
    server: Option<Range<usize>>,
}

impl Context<'_> {
    /// The places of a `*_file`: a relative one is looked up among the credentials, then beside the configuration file.
    fn candidates(&self, file: &Text, problems: &mut Problems<'_>) -> Vec<PathBuf> {
        let beside = self.beside(file, problems);
        match &self.env.credentials_directory {
            Some(credentials) if Path::new(file.get_ref()).is_relative() => {
                vec![credentials.join(file.get_ref()), beside]
            }
            _ => vec![beside],
        }
    }

    /// The path, a relative one beside the configuration file.
    fn beside(&self, file: &Text, problems: &mut Problems<'_>) -> PathBuf {
        if file.get_ref().trim().is_empty() || file.get_ref().contains('\0') {
            problems.at(&file.span(), "names no file; write its path or remove the key");
        }
        self.directory.join(file.get_ref())
    }

    fn inline(&self, secret: raw::Hidden, span: &Range<usize>, key: &str, problems: &mut Problems<'_>) -> SecretString {
        use secrecy::ExposeSecret;
        if secret.0.expose_secret().is_empty() {
            problems.at(span, format!("is empty; write the secret, or use {key}_file"));
        } else if secret.0.expose_secret().contains(|c: char| c.is_control() || c.is_whitespace()) {
            problems.at(span, "must be the secret alone, without blanks");
        }
        if !self.private {
            problems.at(
                span,
                format!("only allowed in a file that nobody else can read: chmod 0600 this file, or use {key}_file"),
            );
        }
        secret.0
    }

    fn unnamed_key(&self) -> Secret {
        let credential = self.env.credentials_directory.as_ref().map(|folder| folder.join(DEFAULT_CREDENTIAL));
        Secret::unnamed("the API key".to_owned(), credential, self.env.rocketride_apikey.clone())
    }

    fn missing_uri(&self, problems: &mut Problems<'_>) {
        let span = self.server.clone().unwrap_or(0..0);
        let message = "missing: write the address of the server, or set $ROCKETRIDE_URI (there is no default, so that \
                       documents never leave for a place nobody named)";
        problems.absent(&span, "server.uri", message);
    }
}

fn build_server(
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
        context.inline(key.into_inner(), &span, "api_key", problems)
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
        chunk_size: pipeline::chunk_size(written.chunk_size, problems),
        result_timeout,
    };
    let server = Server {
        connect_timeout: time_within(written.connect_timeout, 10 * SECOND, TICK..=10 * MINUTE, problems),
        request_timeout: time_within(written.request_timeout, 60 * SECOND, TICK..=HOUR, problems),
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

const SECOND: Duration = Duration::from_secs(1);

fn build_retry(written: raw::Retry, problems: &mut Problems<'_>) -> Retry {
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

fn build_state(
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
    State { directory, min_free: written.min_free.map_or(1 << 30, |size| size.into_inner().0) }
}

fn build_watches(
    written: Vec<Spanned<raw::Watch>>,
    pipelines: &[Arc<Pipeline>],
    territories: &mut Vec<Territory>,
    problems: &mut Problems<'_>,
) -> Vec<Arc<Watch>> {
    let mut names: BTreeMap<String, Range<usize>> = BTreeMap::new();
    let mut watches = Vec::new();
    for (number, written) in written.into_iter().enumerate() {
        let pipeline_at = written.get_ref().pipeline.as_ref().map(Spanned::span);
        let pipeline = written.get_ref().pipeline.as_ref().map(|pipeline| pipeline.get_ref().clone());
        if let (Some(name), Some(span)) = (pipeline, pipeline_at)
            && !pipelines.iter().any(|pipeline| pipeline.name == name)
            && !problems.is_blamed(&format!("pipelines.{name}"))
            && !problems.is_blamed("pipelines")
        {
            let known: Vec<_> = pipelines.iter().map(|pipeline| pipeline.name.as_str()).collect();
            let known =
                if known.is_empty() { "none is defined".to_owned() } else { format!("defined: {}", known.join(", ")) };
            problems.at(
                &span,
                format!("there is no pipeline {name:?} ({known}); add [pipelines.{name}] or correct the name"),
            );
        }
        let Some(placed) = watch::build(written, problems) else { continue };
        let watch = placed.watch;
        if let Some(first) = names.get(&watch.name) {
            let line = problems.line(first);
            let message =
                format!("the watch of line {line} is called {:?} too; give one of them another name", watch.name);
            problems.at(&placed.name_at, message);
        } else {
            names.insert(watch.name.clone(), placed.name_at);
        }
        territories.push(Territory {
            user: User::Watch(number),
            label: format!("watch {:?}", watch.name),
            path: watch.path.clone(),
            span: Some(placed.path_at),
        });
        if let (OnSuccess::Move(target), Some(span)) = (&watch.on_success, placed.target_at) {
            territories.push(Territory {
                user: User::Target(number),
                label: format!("the move target of watch {:?}", watch.name),
                path: target.clone(),
                span: Some(span),
            });
        }
        watches.push(Arc::new(watch));
    }
    watches
}

/// A name of a watch or pipeline: it stands in logs, metrics, commands, and may become the name of a folder.
fn check_name(kind: &str, name: &str, span: &Range<usize>, problems: &mut Problems<'_>) {
    if name.is_empty() {
        problems.at(span, format!("the {kind} has no name; add one"));
    } else if name.contains('/') || name == "." || name == ".." {
        problems.at(span, format!("{name:?} cannot be the name of a {kind}: leave out slashes and dots alone"));
    } else {
        check_text(name, MAX_NAME, span, problems);
    }
}

fn check_text(text: &str, most: usize, span: &Range<usize>, problems: &mut Problems<'_>) {
    let length = text.chars().count();
    if length > most {
        problems.at(span, format!("has {length} characters, at most {most} are allowed; shorten it"));
    } else if text.chars().any(crate::show::is_unsafe) {
        problems.at(span, "holds control characters; remove them");
    } else if text.trim() != text {
        problems.at(span, "begins or ends with a blank; remove it");
    }
}

/// `""` is how the example file writes "not set".
fn blank_as_none(written: Option<Text>) -> Option<Text> {
    written.filter(|text| !text.get_ref().is_empty())
}

fn time_within(
    written: Option<Spanned<Time>>,
    default: Duration,
    range: RangeInclusive<Duration>,
    problems: &mut Problems<'_>,
) -> Duration {
    let Some(written) = written else { return default };
    let Time(time) = *written.get_ref();
    if !range.contains(&time) {
        let show = humantime::format_duration;
        problems
            .at(&written.span(), format!("must be from \"{}\" to \"{}\"", show(*range.start()), show(*range.end())));
    }
    time
}

#[cfg(test)]
mod tests;
