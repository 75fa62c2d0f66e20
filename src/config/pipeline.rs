//! One pipeline: where it runs, with which credential, which task it is, and how hard it may be driven.

use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;
use toml::Spanned;

use super::environment::Context;
use super::problem::Problems;
use super::proxy::ProxyRule;
use super::raw::Text;
use super::secret::Secret;
use super::units::{Size, show_size};
use super::{blank_as_none, raw, time_within};
use crate::client::is_task_key;
use crate::client::upload::{CHUNK_SIZE, MAX_CHUNK_SIZE, RESULT_TIMEOUT};

/// What a pipeline may do at a time unless it says otherwise.
const CONCURRENT_UPLOADS: u32 = 4;
/// The protocol's own limits lie far above, a smaller chunk only costs round trips.
const CHUNK_SIZES: std::ops::RangeInclusive<u64> = 4 * 1024..=MAX_CHUNK_SIZE as u64;
/// More threads than this is a mistake in the file, not a machine.
const MAX_THREADS: u32 = 4096;
/// More uploads at a time than this would be bounded by the 32 MiB of buffers long before.
const MAX_CONCURRENT_UPLOADS: u32 = 1024;
/// Below this a pipe would fall silent for longer than the server tolerates.
const MIN_BYTES_PER_SECOND: u64 = 1024;
/// From one file in a quarter of an hour to more than any disk can name.
const FILES_PER_SECOND: std::ops::RangeInclusive<f64> = 0.001..=1_000_000.0;
/// Characters of a URI.
const MAX_URI: usize = 2048;

const HOUR: Duration = Duration::from_secs(3600);

/// A pipeline.
#[derive(Debug, Clone, PartialEq)]
pub struct Pipeline {
    /// Unique among the pipelines.
    pub name: String,
    /// As written: the client knows its rules.
    pub uri: String,
    /// Whether an unencrypted connection may leave this machine.
    pub allow_plaintext: bool,
    /// PEM file of an extra root certificate.
    pub ca_file: Option<PathBuf>,
    /// The proxy on the way to it, if there is one.
    pub proxy: Option<ProxyRule>,
    /// The credential.
    pub api_key: Secret,
    /// Which task takes the files.
    pub target: Target,
    /// The source component of a started pipeline.
    pub source: Option<String>,
    /// Pipe slots of a started task; none: the server's default.
    pub threads: Option<u32>,
    /// Idle time after which the server ends a started task, in whole seconds; zero: never.
    pub ttl: Duration,
    /// Bytes of one write.
    pub chunk_size: usize,
    /// How long a close may take before the task is asked.
    pub result_timeout: Duration,
    /// How hard it may be driven.
    pub limits: PipelineLimits,
}

/// Which task takes the files.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// Started from this pipeline file; needs an account key.
    File(PathBuf),
    /// The running task of this token.
    Token(Secret),
    /// The task to which a `pk_` or `tk_` credential is locked.
    Credential,
}

/// Limits of one pipeline; the same as those of the daemon, with another default concurrency.
pub type PipelineLimits = Limits;

/// How much may happen at a time.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Files in flight.
    pub max_concurrent_uploads: usize,
    /// Files begun; none: unlimited.
    pub files_per_second: Option<f64>,
    /// Bytes sent; none: unlimited.
    pub bytes_per_second: Option<u64>,
}

impl Limits {
    pub(super) fn build(written: raw::Limits, concurrency: u32, problems: &mut Problems<'_>) -> Self {
        let uploads = written.max_concurrent_uploads.map_or(concurrency, |uploads| {
            if !(1..=MAX_CONCURRENT_UPLOADS).contains(uploads.get_ref()) {
                problems.at(&uploads.span(), format!("must be from 1 to {MAX_CONCURRENT_UPLOADS}"));
            }
            *uploads.get_ref()
        });
        let files = written.files_per_second.map_or(0.0, |files| {
            if *files.get_ref() != 0.0 && !FILES_PER_SECOND.contains(files.get_ref()) {
                let (least, most) = (FILES_PER_SECOND.start(), FILES_PER_SECOND.end());
                problems.at(&files.span(), format!("must be 0 (unlimited) or from {least} to {most}"));
            }
            *files.get_ref()
        });
        let bytes = written.bytes_per_second.map_or(0, |bytes| {
            let Size(number) = *bytes.get_ref();
            if number != 0 && number < MIN_BYTES_PER_SECOND {
                let least = show_size(MIN_BYTES_PER_SECOND);
                problems.at(&bytes.span(), format!("must be \"0\" (unlimited) or at least \"{least}\""));
            }
            number
        });
        Self {
            max_concurrent_uploads: uploads as usize,
            files_per_second: (files > 0.0).then_some(files),
            bytes_per_second: (bytes > 0).then_some(bytes),
        }
    }
}

/// What `[server]` says to every pipeline.
pub(super) struct Shared {
    pub(super) uri: Option<String>,
    pub(super) api_key: Option<Secret>,
    /// The key, when the file itself holds it.
    pub(super) inline_key: Option<SecretString>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) proxy: Option<ProxyRule>,
    pub(super) allow_plaintext: bool,
    pub(super) chunk_size: usize,
    pub(super) result_timeout: Duration,
}

impl Pipeline {
    /// Whether both are the same but for their limits.
    pub fn is_same_line(&self, other: &Self) -> bool {
        *self == Self { limits: self.limits.clone(), ..other.clone() }
    }

    /// Whether this credential can serve this pipeline; else what to do. The text of the file alone cannot tell.
    pub fn check_key(&self, key: &SecretString) -> Result<(), String> {
        match (&self.target, is_task_key(key)) {
            (Target::Credential, false) => Err(format!(
                "pipeline {:?} names no task: add file or token_file to it, or use the pk_ key of its task",
                self.name
            )),
            (Target::File(_), true) => Err(format!(
                "pipeline {:?}: a pk_ or tk_ key cannot start a pipeline: use an account key, or remove file",
                self.name
            )),
            (Target::Token(_), true) => {
                Err(format!("pipeline {:?}: a pk_ or tk_ key is locked to its own task: remove the token", self.name))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn build(
        name: String,
        written: Spanned<raw::Pipeline>,
        shared: &Shared,
        context: &Context<'_>,
        problems: &mut Problems<'_>,
    ) -> Self {
        let table = written.span();
        let written = written.into_inner();
        // A file that stands there but could not be read as one still says which kind is meant.
        let exact = |key: &str| format!("pipelines.{name}.{key}");
        let blamed = ["file", "token_file", "token"].iter().any(|key| problems.is_blamed(&exact(key)));
        let given: Vec<_> = [
            written.file.as_ref().map(Spanned::span),
            written.token_file.as_ref().map(Spanned::span),
            written.token.as_ref().map(Spanned::span),
        ]
        .into_iter()
        .flatten()
        .collect();
        if let Some(second) = given.get(1) {
            problems.at(second, "one of file, token_file and token is enough; remove the others");
        }
        if written.file.is_none() && !blamed {
            let useless = [
                written.source.as_ref().filter(|source| !source.get_ref().is_empty()).map(Spanned::span),
                written.threads.as_ref().filter(|threads| *threads.get_ref() != 0).map(Spanned::span),
                written.ttl.as_ref().filter(|ttl| !ttl.get_ref().0.is_zero()).map(Spanned::span),
            ];
            for span in useless.into_iter().flatten() {
                problems.at(&span, "has no effect on a task that is not started from a file; remove it or add file");
            }
        }
        let of = |what: &str| format!("the {what} of pipeline {name:?}");
        let target = if let Some(file) = &written.file {
            Target::File(context.beside(file, problems))
        } else if let Some(file) = &written.token_file {
            Target::Token(Secret::file(of("token"), context.candidates(file, problems)))
        } else if let Some(token) = written.token {
            let span = token.span();
            Target::Token(Secret::inline(of("token"), Context::inline(token.into_inner(), &span, "token", problems)))
        } else {
            Target::Credential
        };
        let own_key = written.api_key_file.as_ref();
        if own_key.is_none() && !blamed {
            match (&target, shared.inline_key.as_ref().map(is_task_key)) {
                (Target::Credential, Some(false)) => problems.missing(
                    &table,
                    "file",
                    "missing: add file or token_file, for server.api_key is not the key of a task (pk_ or tk_)",
                ),
                (Target::File(_) | Target::Token(_), Some(true)) => {
                    problems.at(
                        given.first().unwrap_or(&table),
                        "not possible with the key of a task (pk_ or tk_) in server.api_key; remove it",
                    );
                }
                _ => {}
            }
        }
        let api_key = match (own_key, &shared.api_key) {
            (Some(file), _) => Secret::file(of("API key"), context.candidates(file, problems)),
            (None, Some(secret)) => secret.clone(),
            (None, None) => context.unnamed_key(),
        };
        if written.uri.is_none() && shared.uri.is_none() {
            context.missing_uri(problems);
        }
        let uri = written.uri.map(|uri| uri_of(uri, problems)).or_else(|| shared.uri.clone()).unwrap_or_default();
        Self {
            uri,
            allow_plaintext: shared.allow_plaintext,
            ca_file: shared.ca_file.clone(),
            proxy: shared.proxy.clone(),
            api_key,
            target,
            source: blank_as_none(written.source).map(Spanned::into_inner),
            threads: threads(written.threads, problems),
            ttl: ttl(written.ttl, problems),
            chunk_size: written.chunk_size.map_or(shared.chunk_size, |size| chunk_size(Some(size), problems)),
            result_timeout: written
                .result_timeout
                .map_or(shared.result_timeout, |time| result_timeout(Some(time), problems)),
            limits: Limits::build(written.limits, CONCURRENT_UPLOADS, problems),
            name,
        }
    }
}

fn threads(written: Option<Spanned<u32>>, problems: &mut Problems<'_>) -> Option<u32> {
    let written = written?;
    if *written.get_ref() > MAX_THREADS {
        problems.at(&written.span(), format!("must be 0 (the server's default) or up to {MAX_THREADS}"));
    }
    (*written.get_ref() > 0).then_some(*written.get_ref())
}

fn ttl(written: Option<Spanned<super::units::Time>>, problems: &mut Problems<'_>) -> Duration {
    let span = written.as_ref().map(Spanned::span);
    let ttl = time_within(written, Duration::ZERO, Duration::ZERO..=10_000 * HOUR, problems);
    // The server counts seconds: less than one would become zero, which means never.
    if let (Some(span), true) = (span, ttl.subsec_nanos() != 0) {
        problems.at(&span, "must be whole seconds (0s: never)");
    }
    ttl
}

pub(super) fn chunk_size(written: Option<Spanned<Size>>, problems: &mut Problems<'_>) -> usize {
    let size = written.map_or(CHUNK_SIZE as u64, |written| {
        let Size(size) = *written.get_ref();
        if !CHUNK_SIZES.contains(&size) {
            let (least, most) = (show_size(*CHUNK_SIZES.start()), show_size(*CHUNK_SIZES.end()));
            problems.at(&written.span(), format!("must be from \"{least}\" to \"{most}\""));
        }
        size
    });
    usize::try_from(size).unwrap_or(usize::MAX)
}

pub(super) fn result_timeout(written: Option<Spanned<super::units::Time>>, problems: &mut Problems<'_>) -> Duration {
    time_within(written, RESULT_TIMEOUT, Duration::from_millis(100)..=168 * HOUR, problems)
}

/// The URI as written, once it can be one at all.
pub(super) fn uri_of(written: Text, problems: &mut Problems<'_>) -> String {
    let uri = written.get_ref();
    let after_scheme = uri.split_once("://").map_or(uri.as_str(), |(_, rest)| rest);
    let authority = after_scheme.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() {
        problems.at(&written.span(), "names no server; write for example \"https://rocketride.example.com\"");
    } else if uri.chars().any(|c| c.is_whitespace() || c.is_control()) || uri.len() > MAX_URI {
        problems.at(&written.span(), "is not a URI; write for example \"https://rocketride.example.com\"");
    } else if authority.contains('@') {
        problems.at(&written.span(), "must not hold a user or a password; put the key into api_key_file");
    }
    written.into_inner()
}

/// A file that is no secret: beside the configuration file unless the credentials hold it.
pub(super) fn first_existing(candidates: Vec<PathBuf>) -> Option<PathBuf> {
    let beside = candidates.last().cloned();
    candidates.into_iter().find(|path| Path::exists(path)).or(beside)
}
