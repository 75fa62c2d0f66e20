//! The commands that talk to the running daemon: what they share.
//!
//! They need its socket and nothing else: no valid configuration file, and none of its secrets.

pub(super) mod audit;
pub(super) mod explain;
pub(super) mod list;
pub(super) mod pause;
pub(super) mod reload;
pub(super) mod repair;
pub(super) mod status;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::{Failure, Global, exit, runtime, say};
use crate::admin::wire::Problem;
use crate::clock::rfc3339;
use crate::config::{self, Environment, MAX_FILE_BYTES};
use crate::job::Millis;

/// How long the daemon may take to answer; a change of a million jobs takes its time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);
/// And with what goes through everything it has.
const LONG_ANSWER_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// Longest answer, in bytes.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// The running daemon.
pub(super) struct Daemon {
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl Daemon {
    /// The daemon behind `--socket`, or the socket that the configuration or systemd names.
    pub(super) fn of(global: &Global) -> Result<Self, Failure> {
        let socket = global.socket.clone().unwrap_or_else(|| {
            let text = std::fs::metadata(&global.config)
                .ok()
                .filter(|metadata| metadata.is_file() && metadata.len() <= MAX_FILE_BYTES)
                .and_then(|_| std::fs::read_to_string(&global.config).ok());
            text.and_then(|text| config::socket_in(&text))
                .unwrap_or_else(|| config::default_socket(&Environment::from_process()))
        });
        Ok(Self { socket, runtime: runtime()? })
    }

    /// Asks for something.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.ask(Method::GET, path, Bytes::new(), ANSWER_TIMEOUT)
    }

    /// Has something done.
    pub(super) fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.post_within(ANSWER_TIMEOUT, path, body)
    }

    /// As [`Daemon::post`], for what may take hours.
    pub(super) fn post_long<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.post_within(LONG_ANSWER_TIMEOUT, path, body)
    }

    fn post_within<T: DeserializeOwned>(
        &self,
        limit: Duration,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).map_err(|error| Failure::new(exit::FAILED, error))?;
        self.ask(Method::POST, path, body.into(), limit)
    }

    fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes, limit: Duration) -> Result<T, Failure> {
        // A timeout is made inside the runtime or not at all.
        let exchange = async { tokio::time::timeout(limit, self.exchange(method, path, body)).await };
        let (status, body) = self.runtime.block_on(exchange).map_err(|_| {
            let seconds = limit.as_secs();
            Failure::new(exit::TEMPORARY, format!("the daemon did not answer within {seconds} s; see its log"))
        })??;
        let unreadable = |error| {
            let error = format!("the daemon's answer makes no sense ({error}): is it of another version?");
            Failure::new(exit::FAILED, error)
        };
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(unreadable);
        }
        let problem: Problem = serde_json::from_slice(&body).map_err(unreadable)?;
        let code = match status {
            StatusCode::UNPROCESSABLE_ENTITY => exit::CONFIG,
            StatusCode::CONFLICT => exit::FAILED,
            status if status.is_client_error() => exit::USAGE,
            _ => exit::FAILED,
        };
        Err(Failure::new(code, problem.error))
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), Failure> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| unreachable(&self.socket, &error))?;
        let broken = |error: &dyn std::fmt::Display| {
            Failure::new(exit::TEMPORARY, format!("the connection to the daemon broke off: {error}; see its log"))
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| Failure::new(exit::FAILED, error))?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            Ok((status, body.map_err(|error| broken(&error))?.to_bytes()))
        };
        tokio::select! {
            answer = answer => answer,
            // It ends with the answer in hand, or with an error that the sender reports too.
            Err(error) = connection => Err(broken(&error)),
        }
    }
}

fn unreachable(socket: &Path, error: &io::Error) -> Failure {
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied => "run as root, or as a member of the group that the socket belongs to",
        _ => "is it running? See `systemctl status rocketride-ingest`; --socket names another place",
    };
    Failure::new(exit::TEMPORARY, format!("no daemon answers at {}: {error}; {advice}", socket.display()))
}

/// The path that was meant, absolute.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// A value of a query.
pub(super) fn query(pairs: &[(&str, Option<&str>)]) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in pairs {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    query.finish()
}

/// A moment as people read it, to the second.
pub(super) fn time(at: Millis) -> String {
    let text = rfc3339(at);
    text.split('.').next().map_or_else(|| text.clone(), |seconds| format!("{seconds}Z"))
}

/// An answer as JSON on one line.
pub(super) fn say_json(answer: &impl Serialize) -> Result<(), Failure> {
    say(serde_json::to_string(answer).map_err(|error| Failure::new(exit::FAILED, error))?);
    Ok(())
}
