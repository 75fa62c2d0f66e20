//! Every fault has an owner: what an error says about the server, this host or the file, and what follows.
//!
//! Pure. Only a fault of the file costs it an attempt.

use std::io;
use std::time::Duration;

use rustix::io::Errno;

use crate::client::{Backoff, Error, NOT_SENT, Step};
use crate::config::Retry;
use crate::job::Millis;

/// The close code of a connection on which a message was too big.
pub const TOO_BIG: u16 = 1009;

/// Whose fault it is that a file was not delivered now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The server cannot be reached, refuses the credential, or does not run the task.
    Pipeline(String),
    /// The task died while the file was on its way, or the server closed the connection over a message that was too big.
    TaskDied(String),
    /// This host cannot serve the watch: its disk is full, read-only or failing.
    Host(String),
    /// This process has no descriptors left.
    Descriptors(String),
    /// The upload did not get on, on this host or on the way; nothing was committed.
    Stalled(String),
    /// This host cannot read this one file now.
    Blocked(String),
    /// The file is not what it was when it was admitted.
    Changed(String),
    /// The file is absent.
    Vanished,
    /// The daemon stops.
    Stopping,
    /// The pipeline does not take this file.
    File(Blame),
}

impl Fault {
    /// Stable name of whose fault it is, for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Pipeline(_) => "pipeline",
            Self::TaskDied(_) => "task-died",
            Self::Host(_) => "host",
            Self::Descriptors(_) => "descriptors",
            Self::Stalled(_) => "stalled",
            Self::Blocked(_) => "blocked",
            Self::Changed(_) => "changed",
            Self::Vanished => "vanished",
            Self::Stopping => "stopping",
            Self::File(_) => "file",
        }
    }
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blame {
    /// Why.
    pub error: String,
    /// Stable name of the kind of failure.
    pub code: &'static str,
    /// Whether trying again may help.
    pub retryable: bool,
    /// Plain words for the person who dropped it.
    pub hint: &'static str,
}

/// What an error about one file means: this file waits, and no other.
pub fn of_file(what: &str, error: &io::Error) -> Fault {
    of_io(what, error, &[Errno::ROFS])
}

/// What an error about a folder, or about writing into it, means: without room or with a failing disk, the watch waits.
pub fn of_folder(what: &str, error: &io::Error) -> Fault {
    of_io(what, error, &[Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::IO, Errno::STALE])
}

fn of_io(what: &str, error: &io::Error, of_the_host: &[Errno]) -> Fault {
    let reason = format!("{what}: {error}");
    let is = |errnos: &[Errno]| errnos.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()));
    if is(of_the_host) {
        Fault::Host(reason)
    } else if is(&[Errno::MFILE, Errno::NFILE]) {
        Fault::Descriptors(reason)
    } else {
        Fault::Blocked(reason)
    }
}

/// What a failed upload means; `os_error` is the operating system's number if the file could not be read.
pub fn of_upload(step: Step, error: &Error, os_error: Option<i32>) -> Fault {
    if let Some(number) = os_error {
        return of_file("cannot read the file", &io::Error::from_raw_os_error(number));
    }
    let reason = error.to_string();
    let blame = |retryable, hint| Fault::File(Blame { error: reason.clone(), code: error.code(), retryable, hint });
    let on_its_way = matches!(step, Step::Write | Step::Close);
    match error {
        Error::NotRunning(_) | Error::ConnectionLost { code: Some(TOO_BIG), .. } if on_its_way => {
            Fault::TaskDied(reason)
        }
        Error::Connect { .. } | Error::ConnectionLost { .. } | Error::Authentication(_) | Error::NotRunning(_) => {
            Fault::Pipeline(reason)
        }
        // Only an open that was given up after hours gets here: nothing was sent, nothing is the file's fault.
        Error::TimedOut { .. } if step == Step::Open => Fault::Pipeline(reason),
        Error::Refused(server) if server.message.contains("Connect call failed") => Fault::Pipeline(reason),
        Error::Read { .. } => Fault::Blocked(reason),
        Error::InvalidData(_) => blame(false, "the daemon's configuration for this folder is wrong; tell its operator"),
        Error::FileNotFound(_) => Fault::Vanished,
        // The pipe was given up because it had been silent for too long, or a frame never left this host.
        Error::Abandoned(_) if on_its_way => Fault::Stalled(reason),
        Error::TimedOut { what: NOT_SENT, .. } => Fault::Stalled(reason),
        Error::Abandoned(_) => Fault::Changed(reason),
        Error::TimedOut { .. } => out_of_time(reason),
        _ => blame(
            true,
            "the pipeline could not process this file; check that it opens and is of a kind the pipeline takes",
        ),
    }
}

/// A task that runs did not answer in time.
pub fn out_of_time(error: String) -> Fault {
    Fault::File(Blame {
        error,
        code: "TIMED_OUT",
        retryable: true,
        hint: "the pipeline did not finish with this file in time; it may be too large or too complex for it",
    })
}

/// A file that is sent alone because its task died twice over it, and that died again.
pub fn kills_task(error: String) -> Fault {
    Fault::File(Blame {
        error,
        code: "KILLS_TASK",
        retryable: true,
        hint: "the pipeline stops working whenever this file is sent to it, also when nothing else is; it may be damaged, \
               too large or too complex for it; tell the operator of the pipeline",
    })
}

/// The file is larger than its watch takes.
pub fn too_large(size: u64, max: u64) -> Fault {
    Fault::File(Blame {
        error: format!("the file has {size} bytes, more than the {max} that this folder takes (max_size)"),
        code: "TOO_LARGE",
        retryable: false,
        hint: "split the file, or ask the operator of this folder to raise max_size",
    })
}

/// When a file is tried again after so many charged attempts, or `None` if that was the last.
pub fn next_attempt(retry: &Retry, attempts: u32, retryable: bool, unit: f64, now: Millis) -> Option<Millis> {
    if !retryable || attempts >= retry.attempts {
        return None;
    }
    let backoff = Backoff { initial: retry.initial, max: retry.max };
    Some(after(now, backoff.delay(attempts.saturating_sub(1), unit)))
}

/// A time so much later.
pub fn after(now: Millis, delay: Duration) -> Millis {
    now.saturating_add(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ServerError;

    fn server(message: &str) -> ServerError {
        ServerError { command: "rrext_process".into(), message: message.into(), ..ServerError::default() }
    }

    #[test]
    fn only_the_files_own_faults_cost_an_attempt() {
        let lost = Error::ConnectionLost { code: None, message: "x".into() };
        for (step, error) in [
            (Step::Write, lost),
            (Step::Open, Error::NotRunning(server(""))),
            (Step::Open, Error::Authentication(server("no"))),
            (Step::Open, Error::TimedOut { what: "open", after: Duration::from_secs(1) }),
            (Step::Open, Error::Refused(server("[Errno 111] Connect call failed"))),
        ] {
            assert!(matches!(of_upload(step, &error, None), Fault::Pipeline(_)), "{error}");
        }
        for (step, error) in [
            (Step::Write, Error::NotRunning(server(""))),
            (Step::Close, Error::ConnectionLost { code: Some(TOO_BIG), message: "x".into() }),
        ] {
            assert!(matches!(of_upload(step, &error, None), Fault::TaskDied(_)), "{error}");
        }
        for (step, error) in [
            (Step::Open, Error::PipeFailed(server("masked"))),
            (Step::Close, Error::PipeFailed(server("node"))),
            (Step::Write, Error::TimedOut { what: "write", after: Duration::from_secs(1) }),
            (Step::Close, Error::Protocol("x".into())),
        ] {
            assert!(matches!(of_upload(step, &error, None), Fault::File(Blame { retryable: true, .. })), "{error}");
        }
        for step in [Step::Write, Step::Close] {
            let silent = Error::Abandoned("silent for too long".into());
            assert!(matches!(of_upload(step, &silent, None), Fault::Stalled(_)));
            let unsent = Error::TimedOut { what: NOT_SENT, after: Duration::from_secs(45) };
            assert!(matches!(of_upload(step, &unsent, None), Fault::Stalled(_)));
        }
        assert!(matches!(of_upload(Step::Changed, &Error::Abandoned("changed".into()), None), Fault::Changed(_)));
    }

    #[test]
    fn a_full_or_failing_disk_is_the_hosts_and_a_missing_permission_the_files_to_wait_for() {
        let of = |errno: Errno| of_folder("x", &io::Error::from(errno));
        for errno in [Errno::NOSPC, Errno::ROFS, Errno::IO, Errno::DQUOT] {
            assert!(matches!(of(errno), Fault::Host(_)));
        }
        assert!(matches!(of(Errno::MFILE), Fault::Descriptors(_)));
        assert!(matches!(of(Errno::ACCESS), Fault::Blocked(_)));
        for errno in [Errno::IO, Errno::STALE, Errno::ACCESS] {
            assert!(matches!(of_file("x", &io::Error::from(errno)), Fault::Blocked(_)), "one bad file holds no other");
        }
    }

    #[test]
    fn attempts_end_and_waits_stay_within_their_bounds() {
        let retry = Retry { attempts: 3, initial: Duration::from_secs(30), max: Duration::from_secs(40) };
        assert_eq!(next_attempt(&retry, 1, true, 0.0, 1000), Some(1000));
        assert!(next_attempt(&retry, 1, true, 0.999, 0).unwrap() <= 30_000);
        let second = next_attempt(&retry, 2, true, 0.999, 0).unwrap();
        assert!(second > 30_000 && second <= 40_000, "{second}");
        assert_eq!(next_attempt(&retry, 3, true, 0.5, 0), None);
        assert_eq!(next_attempt(&retry, 1, false, 0.5, 0), None);
    }
}
