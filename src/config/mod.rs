//! The configuration: validated, immutable, and the only place that knows a default.
//!
//! `raw` is what was written, this module is what it means. Parsing looks at the text and at the [`Environment`] alone;
//! whether a folder exists or a key can be read is a matter of the world and is asked later, by those who need it.
//! Nothing here connects, watches or creates anything.

mod admin;
mod effective;
mod environment;
mod filters;
mod general;
mod log;
mod marker;
mod paths;
mod pipeline;
mod problem;
mod proxy;
mod raw;
mod schema;
mod secret;
mod source;
mod units;
mod watch;

use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use toml::Spanned;

pub use admin::{Admin, DEFAULT_SOCKET, MAX_SOCKET_PATH, default_socket, socket_in};
pub use environment::{DEFAULT_CREDENTIAL, Environment};
pub use filters::{Filters, Globs};
pub use general::{DEFAULT_STATE_DIRECTORY, Retry, Server, State};
pub use log::{Log, LogFormat, LogLevel, LogOverrides};
pub use marker::Marker;
pub use pipeline::{Limits, Pipeline, PipelineLimits, Target};
pub use problem::{ConfigError, Invalid, MAX_PROBLEMS, Problem};
pub use proxy::{PROXY_VARIABLE, ProxyRule};
pub use schema::schema;
pub use secret::{MAX_SECRET_BYTES, Secret, SecretError};
pub use source::{MAX_FILE_BYTES, MAX_FILES};
pub use watch::{Detect, OnFailure, OnSuccess, ResultMode, Results, Watch};

use crate::client::{ConnectOptions, ServiceUri};
use environment::Context;
use problem::Problems;
use raw::Text;
use source::Sources;
use units::Time;

/// Characters of the name of a watch or pipeline.
const MAX_NAME: usize = 64;

const SECOND: Duration = Duration::from_secs(1);
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
    /// Where its operators reach it.
    pub admin: Admin,
    /// What is logged, where the command line does not say it ([`LogOverrides`]).
    pub log: Log,
    /// In the order of their names.
    pub pipelines: Vec<Arc<Pipeline>>,
    /// In the order of the file, then of the files in `conf.d` by their names.
    pub watches: Vec<Arc<Watch>>,
}

impl Config {
    /// Reads and validates a file, with the pipelines and watches that the files of `conf.d` beside it add.
    pub fn load(path: &Path, env: &Environment) -> Result<Self, ConfigError> {
        Self::build(&Sources::load(path)?, env)
    }

    /// Validates a text that is taken for the content of `origin`, and for one that nobody else can read.
    pub fn parse(text: &str, origin: &Path, env: &Environment) -> Result<Self, ConfigError> {
        Self::build(&Sources::of(text, origin), env)
    }

    /// Refuses an address that is none: it is text of the file, and not the network's fault. Says what is wrong with which.
    pub fn check_uris(&self) -> Result<(), String> {
        let wrong = self.pipelines.iter().filter_map(|pipeline| {
            let uri = ServiceUri::parse(&pipeline.uri).and_then(|uri| {
                let mut options = ConnectOptions::new(uri, SecretString::from(""));
                options.allow_plaintext = pipeline.allow_plaintext;
                options.check()
            });
            uri.err().map(|error| format!("{}: pipeline {:?}: uri: {error}", self.origin.display(), pipeline.name))
        });
        let wrong: Vec<_> = wrong.collect();
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
    }

    /// The pipeline of this name.
    pub fn pipeline(&self, name: &str) -> Option<&Arc<Pipeline>> {
        self.pipelines.iter().find(|pipeline| pipeline.name == name)
    }

    fn build(sources: &Sources, env: &Environment) -> Result<Self, ConfigError> {
        let mut problems = Problems::parse(sources);
        if !problems.is_well_formed() {
            // What a text that is no TOML means is guesswork: only its syntax is reported.
            return Err(problems.into_error());
        }
        let origin = sources.origin().to_owned();
        let mut written: raw::File = problems.read();
        let context = Context {
            directory: origin.parent().unwrap_or(Path::new("/")).to_owned(),
            env,
            server: written.server.as_ref().map(Spanned::span),
        };
        let (server, shared) = general::server(written.server.take(), &context, &mut problems);
        let limits = Limits::build(written.limits, 8, &mut problems);
        let retry = general::retry(written.retry, &mut problems);
        let mut territories = Vec::new();
        let state = general::state(written.state, env, &mut territories, &mut problems);
        let admin = admin::admin(written.admin, &context, &mut problems);
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
        let watches = watch::build_all(written.watch, &pipelines, &mut territories, &mut problems);
        paths::check_overlaps(&territories, &mut problems);
        problems.finish(Self { origin, server, limits, retry, state, admin, log, pipelines, watches })
    }
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
