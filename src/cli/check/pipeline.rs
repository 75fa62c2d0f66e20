//! One pipeline: its address, credential and file; online also the login and the task, without starting one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use secrecy::SecretString;

use super::access::{Access, advice, may};
use super::report::Report;
use crate::cli::paint::span;
use crate::client::{Connection, Error, ServiceUri, load_pipeline};
use crate::config::{Config, PROXY_VARIABLE, Pipeline, Target};
use crate::delivery::pipeline::Line;
use crate::show::Shown;

/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// Servers that could not be reached, and why: each is tried once.
#[derive(Debug, Default)]
pub(super) struct Unreachable(HashMap<ServiceUri, String>);

/// What the first look left to be asked of the server.
pub(super) struct Credentials {
    key: SecretString,
    /// None where the task needs no token, or gets one when it is started.
    token: Option<SecretString>,
}

/// Checks what is here. None if the server cannot be asked then.
pub(super) fn check(config: &Config, pipeline: &Pipeline, report: &mut Report) -> Option<Credentials> {
    report.subject(format_args!("pipeline {:?}", pipeline.name));
    address(pipeline, report);
    let key = match pipeline.api_key.read().map_err(|error| error.to_string()) {
        Ok(key) => match pipeline.check_key(&key) {
            Ok(()) => {
                report.ok(format_args!("API key from {}", pipeline.api_key.describe()));
                Some(key)
            }
            Err(error) => {
                report.error(error);
                None
            }
        },
        Err(error) => {
            report.error(error);
            None
        }
    };
    let mut usable = true;
    let mut token = None;
    match &pipeline.target {
        Target::File(path) => match load_pipeline(path) {
            Ok(_) => report.ok(format_args!("pipeline file {}", Shown(path))),
            Err(error) => {
                report.error(error);
                usable = false;
            }
        },
        Target::Token(secret) => match secret.read() {
            Ok(read) => {
                report.ok(format_args!("token of the task from {}", secret.describe()));
                token = Some(read);
            }
            Err(error) => {
                report.error(error);
                usable = false;
            }
        },
        Target::Credential => report.ok("the task is the one that the key is locked to"),
    }
    if !pipeline.ttl.is_zero() && pipeline.ttl < pipeline.result_timeout {
        report.warning(format_args!(
            "ttl ({}) is less than result_timeout ({}): the server may end the task while it works on a long file; \
             raise ttl, or write \"0s\"",
            span(pipeline.ttl),
            span(pipeline.result_timeout)
        ));
    }
    if !config.watches.iter().any(|watch| watch.pipeline == pipeline.name) {
        report.warning("no watch uses it: remove it, or add a [[watch]]");
    }
    key.filter(|_| usable).map(|key| Credentials { key, token })
}

fn address(pipeline: &Pipeline, report: &mut Report) {
    match ServiceUri::parse(&pipeline.uri) {
        Ok(uri) if !uri.is_plaintext() => report.ok(format_args!("{uri}, encrypted (TLS)")),
        Ok(uri) if uri.is_loopback() => report.ok(format_args!("{uri}, not encrypted, but on this host")),
        Ok(uri) => report.warning(format_args!(
            "{uri} is not encrypted: the key and every file can be read on the way (allow_plaintext = true)"
        )),
        // `check_uris` has refused such a file before this.
        Err(error) => report.error(error),
    }
    if let (Some(rule), Ok(uri)) = (&pipeline.proxy, ServiceUri::parse(&pipeline.uri)) {
        let from = if rule.is_written() { "the configuration file" } else { PROXY_VARIABLE };
        match rule.proxy(&uri) {
            Ok(Some(proxy)) => report.ok(format_args!("through the proxy {proxy}, from {from}")),
            Ok(None) => report.ok(format_args!("directly, not through the proxy of {from}")),
            Err(error) => report.error(error),
        }
    }
    if let Some(path) = &pipeline.ca_file {
        match may(path, Access::READ_OK) {
            Ok(()) => report.ok(format_args!("additional root certificates from {}", Shown(path))),
            Err(error) => report.error(format_args!("ca_file {}: {error}{}", Shown(path), advice(&error))),
        }
    }
}

/// Connects, logs in, and asks about the task.
pub(super) async fn ask(
    config: &Config,
    pipeline: &Arc<Pipeline>,
    credentials: Credentials,
    unreachable: &mut Unreachable,
    report: &mut Report,
) {
    let options = match Line::new(pipeline.clone(), config, Arc::default()).options(credentials.key) {
        Ok(options) => options,
        Err(error) => return report.error(error),
    };
    if let Some(why) = unreachable.0.get(&options.uri) {
        return report.unavailable(why);
    }
    let began = Instant::now();
    let connection = match Connection::open(&options).await {
        Ok(connection) => connection,
        Err(error @ Error::Authentication(_)) => {
            return report.unavailable(format_args!(
                "{error}: the server does not take the key from {}; replace it",
                pipeline.api_key.describe()
            ));
        }
        Err(error) => {
            if matches!(error, Error::Connect { .. }) {
                unreachable.0.insert(options.uri, error.to_string());
            }
            return report.unavailable(error);
        }
    };
    report.ok(format_args!("connected and logged in, in {} ms", began.elapsed().as_millis()));
    task(pipeline, &connection, credentials.token, options.request_timeout, report).await;
    // The server notices a closed socket by itself; this is only polite.
    let _ = tokio::time::timeout(GOODBYE, connection.close()).await;
}

async fn task(
    pipeline: &Pipeline,
    connection: &Connection,
    token: Option<SecretString>,
    timeout: Duration,
    report: &mut Report,
) {
    if matches!(pipeline.target, Target::File(_)) {
        return report.ok("its task is started by `run` if it is not running; this check starts nothing");
    }
    let token = token.unwrap_or_else(|| SecretString::from(""));
    match connection.task_status(&token, timeout).await {
        Ok(status) if status.is_running() => report.ok("the task is running"),
        Ok(status) => report.unavailable(format_args!(
            "the task is not running (its state is {:?}): start it, or give the pipeline as a file",
            status.state
        )),
        // Such a key may send data and nothing else.
        Err(Error::Refused(_)) if matches!(pipeline.target, Target::Credential) => {
            report.ok("the key may not ask about its task, so whether it runs is unknown");
        }
        Err(error) => report.unavailable(format_args!("{error}: start the task, or give the pipeline as a file")),
    }
}
