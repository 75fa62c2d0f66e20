//! Everything that can go wrong between a client and a server, told apart by what the caller can do about it.
//!
//! It carries the server's own words and never a credential.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

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
            write!(f, "the server refused {} without saying why", self.command)?;
        } else {
            f.write_str(&self.message)?;
        }
        if let Some(code) = &self.code {
            write!(f, " ({code})")?;
        }
        Ok(())
    }
}

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
