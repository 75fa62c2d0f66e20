//! Everything that can go wrong between a client and a server, told apart by what the caller can do about it.
//!
//! It carries the server's own words and never a credential.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use super::protocol::Trace;

/// Result of the client library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The words of the server about a failure.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerError {
    /// The command that failed.
    pub command: String,
    /// What the server said; may be empty (a terminated or expired task does that).
    pub message: String,
    /// The machine-readable cause that newer servers send, for example `TASK_NOT_REGISTERED`.
    pub code: Option<String>,
    /// Where the server raised it.
    pub trace: Option<Trace>,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() {
            f.write_str("the server refused ")?;
            f.write_str(if self.command.is_empty() { "a request" } else { &self.command })?;
            f.write_str(" and gave no reason")?;
            f.write_str(match self.command.as_str() {
                "auth" => "; is it the right api key for this server?",
                "execute" => "; its log or the status of the task may tell",
                command if OF_A_TASK.contains(&command) || STEPS.contains(&command) => {
                    "; a task that was terminated or whose idle time is over answers like that: start the pipeline again"
                }
                _ => "",
            })?;
        } else {
            f.write_str(&self.message)?;
        }
        if let Some(code) = &self.code {
            write!(f, " ({code})")?;
        }
        Ok(())
    }
}

impl ServerError {
    /// What a `success:false` reply means for the caller.
    ///
    /// Newer servers send codes, older ones only words; a task that was terminated or expired says nothing at all.
    pub fn into_error(self) -> Error {
        let says = |words: &[&str]| words.iter().any(|word| self.message.contains(word));
        if self.command == "auth" || says(NOT_AUTHENTICATED) {
            return Error::Authentication(self);
        }
        if self.code.as_deref().is_some_and(|code| NOT_RUNNING_CODES.contains(&code)) || says(NOT_RUNNING) {
            return Error::NotRunning(self);
        }
        // An empty refusal of a start is no word about a running task.
        if self.message.is_empty() && self.code.is_none() && OF_A_TASK.contains(&self.command.as_str()) {
            return Error::NotRunning(self);
        }
        Error::Refused(self)
    }
}

/// Words of a refused login, also on other commands of a connection that is not (or no longer) logged in.
const NOT_AUTHENTICATED: &[&str] =
    &["Not authenticated", "Invalid API key", "No authorization provided", "Too many authentication attempts"];
/// Words about a task that is gone or going.
const NOT_RUNNING: &[&str] = &["Your pipeline is not running", "Task has already completed", "Task is terminating"];
/// Codes of the same; `TASK_AMBIGUOUS` is not among them: several tasks run, and starting another would not help.
const NOT_RUNNING_CODES: &[&str] = &["TASK_NOT_REGISTERED", "TASK_COMPLETED", "TASK_STOPPED"];
/// The steps of a pipe, by which errors name them.
const STEPS: &[&str] = &["open", "write", "close"];
/// Commands that address a running task.
const OF_A_TASK: &[&str] = &["rrext_process", "rrext_get_task_status", "terminate"];

/// Why a call of the client library failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller's own data is wrong: a bad URI, a forbidden key in an object, a pipeline file that does not parse.
    #[error("{0}")]
    InvalidData(String),
    /// The file to send is not there.
    #[error("file not found: {}", .0.display())]
    FileNotFound(PathBuf),
    /// The file to send cannot be read.
    #[error("cannot read {}: {message}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        message: String,
    },
    /// The credential was refused, or the server wants one.
    #[error("authentication failed: {0}")]
    Authentication(ServerError),
    /// The task that the token names is not running (unknown, completed, terminated, expired).
    #[error("the pipeline is not running: {0}")]
    NotRunning(ServerError),
    /// The server said no to a command for another reason.
    #[error("{0}")]
    Refused(ServerError),
    /// The pipeline failed on this object: a refused or masked open, a node's error in the result, a result that is not ours.
    #[error("{0}")]
    PipeFailed(ServerError),
    /// The caller stopped the upload between two steps; nothing was committed.
    #[error("upload abandoned: {0}")]
    Abandoned(String),
    /// No connection could be made.
    #[error("cannot connect to {uri}: {message}")]
    Connect {
        /// Where to.
        uri: String,
        /// Why not.
        message: String,
    },
    /// The connection ended while something was waiting on it.
    #[error("connection lost: {message}")]
    ConnectionLost {
        /// The close code of the server, if it sent one (1009: a message was too large; 1012: it restarts).
        code: Option<u16>,
        /// Why.
        message: String,
    },
    /// No reply in time.
    #[error("no reply to {what} within {} s", .after.as_secs_f32())]
    TimedOut {
        /// The step that waited.
        what: &'static str,
        /// For how long.
        after: Duration,
    },
    /// The server broke the protocol.
    #[error("the server broke the protocol: {0}")]
    Protocol(String),
}

impl Error {
    /// The same, in which the server does not quote this secret: its words go into logs and error files.
    #[must_use]
    pub(super) fn without(mut self, secret: &SecretString) -> Self {
        let words = match &mut self {
            Self::Authentication(words) | Self::NotRunning(words) | Self::Refused(words) | Self::PipeFailed(words) => {
                &mut words.message
            }
            Self::ConnectionLost { message, .. } => message,
            _ => return self,
        };
        let secret = secret.expose_secret();
        if !secret.is_empty() && words.contains(secret) {
            *words = words.replace(secret, "<secret>");
        }
        self
    }

    /// The server's own words, code and place, if it was the server that refused.
    pub fn server(&self) -> Option<&ServerError> {
        match self {
            Self::Authentication(words) | Self::NotRunning(words) | Self::Refused(words) | Self::PipeFailed(words) => {
                Some(words)
            }
            _ => None,
        }
    }

    /// Whether the same call may succeed later without a change by the caller.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::InvalidData(_) | Self::FileNotFound(_) | Self::Authentication(_) => false,
            Self::Read { .. }
            | Self::NotRunning(_)
            | Self::Refused(_)
            | Self::PipeFailed(_)
            | Self::Abandoned(_)
            | Self::Connect { .. }
            | Self::ConnectionLost { .. }
            | Self::TimedOut { .. }
            | Self::Protocol(_) => true,
        }
    }

    /// A short stable name of the kind of failure, for result files and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidData(_) => "INVALID_DATA",
            Self::FileNotFound(_) => "FILE_NOT_FOUND",
            Self::Read { .. } => "READ_FAILED",
            Self::Authentication(_) => "AUTHENTICATION_FAILED",
            Self::NotRunning(_) => "PIPELINE_NOT_RUNNING",
            Self::Refused(_) => "REFUSED",
            Self::PipeFailed(_) => "PIPE_FAILED",
            Self::Abandoned(_) => "ABANDONED",
            Self::Connect { .. } => "CONNECT_FAILED",
            Self::ConnectionLost { .. } => "CONNECTION_LOST",
            Self::TimedOut { .. } => "TIMED_OUT",
            Self::Protocol(_) => "PROTOCOL_VIOLATION",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_refusal_still_helps() {
        for (command, word) in [
            ("auth", "api key"),
            ("execute", "its log"),
            ("rrext_process", "start the pipeline again"),
            ("close", "start the pipeline again"),
            ("rrext_ping", "rrext_ping and gave no reason"),
            ("", "a request and gave no reason"),
        ] {
            let words = ServerError { command: command.into(), ..ServerError::default() }.to_string();
            assert!(words.contains(word), "{words}");
        }
    }

    #[test]
    fn refusals_are_told_apart_by_code_then_words() {
        for (command, message, code, expected) in [
            ("auth", "Invalid API key", None, "AUTHENTICATION_FAILED"),
            ("auth", "Bad request", None, "AUTHENTICATION_FAILED"),
            ("auth", "", None, "AUTHENTICATION_FAILED"),
            ("execute", "Not authenticated", None, "AUTHENTICATION_FAILED"),
            ("rrext_process", "Your pipeline is not running", None, "PIPELINE_NOT_RUNNING"),
            ("rrext_process", "Task has already completed", None, "PIPELINE_NOT_RUNNING"),
            ("rrext_process", "Task is terminating, cannot process data requests", None, "PIPELINE_NOT_RUNNING"),
            ("rrext_process", "", None, "PIPELINE_NOT_RUNNING"),
            ("rrext_get_task_status", "", None, "PIPELINE_NOT_RUNNING"),
            ("execute", "", None, "REFUSED"),
            ("rrext_process", "gone", Some("TASK_NOT_REGISTERED"), "PIPELINE_NOT_RUNNING"),
            ("rrext_process", "", Some("TASK_COMPLETED"), "PIPELINE_NOT_RUNNING"),
            ("rrext_process", "gone", Some("TASK_STOPPED"), "PIPELINE_NOT_RUNNING"),
            ("rrext_process", "which?", Some("TASK_AMBIGUOUS"), "REFUSED"),
            ("rrext_process", "Task token is required", None, "REFUSED"),
            ("rrext_process", "Could not send request", None, "REFUSED"),
            ("rrext_process", "You are looking for a \"chat\", but this pipeline isn't it", None, "REFUSED"),
            ("execute", "Pipeline is already running.", None, "REFUSED"),
        ] {
            let error = ServerError {
                command: command.into(),
                message: message.into(),
                code: code.map(str::to_owned),
                trace: None,
            };
            assert_eq!(error.into_error().code(), expected, "{command} {message:?} {code:?}");
        }
    }
}
