//! `run`: the daemon in the foreground.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;

use super::{Failure, Global, exit, print_error, runtime, start_logging};
use crate::config::Config;
use crate::daemon::{self, DaemonError, Ended, Options};
use crate::journal::OpenError;
use crate::once::Once;
use crate::panics;
use crate::signals;

/// Run the daemon in the foreground.
///
/// It stops on SIGTERM or SIGINT, after what is in flight has finished (at most `server.drain_timeout`); a second
/// signal ends it at once, and nothing is lost by that.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// End when nothing is pending, being sent or settling.
    ///
    /// Exit 0: everything was delivered. 1: a file failed, is blocked, or did not settle within `retry.max`. 69: a
    /// pipeline stayed down, or failed on every file, for `retry.max`.
    #[arg(long)]
    once: bool,
    /// Use the instance of the configuration even though the state directory has another.
    ///
    /// Every file gets a new object id by that, and results of the old instance are not recognised any more.
    #[arg(long)]
    accept_new_instance: bool,
}

pub(super) fn main(global: &Global, args: &Args) -> Result<ExitCode, Failure> {
    let config = global.load()?;
    start_logging(global, &config.log)?;
    let options = Options { once: args.once, accept_new_instance: args.accept_new_instance, log: global.log() };
    run(config, options).map(|ended| match ended {
        Ended::Stopped => ExitCode::SUCCESS,
        Ended::Once(once) => verdict(&once),
    })
}

fn run(config: Config, options: Options) -> Result<Ended, Failure> {
    config.check_uris().map_err(|error| Failure::new(exit::CONFIG, error))?;
    let signals = signals::listen()?;
    let runtime = runtime()?;
    // A panic of what supervises the tasks is told like one of theirs.
    let ended = catch_unwind(AssertUnwindSafe(|| runtime.block_on(daemon::run(Arc::new(config), options, signals))))
        .unwrap_or_else(|panic| Err(DaemonError::Panicked(panics::message(panic.as_ref()).to_owned())));
    // A task that blocks on a dead network filesystem must not keep the process.
    runtime.shutdown_background();
    ended.map_err(failure)
}

/// Why a journal cannot be opened, and the exit code that says so.
pub(super) fn open_failure(error: OpenError) -> Failure {
    Failure::new(open_code(&error), error)
}

fn open_code(error: &OpenError) -> u8 {
    match error {
        OpenError::Locked { .. } => exit::TEMPORARY,
        _ => exit::FAILED,
    }
}

/// Why the daemon ended, and the exit code that says so.
pub(super) fn failure(error: DaemonError) -> Failure {
    let code = match &error {
        DaemonError::Open(error) => open_code(error),
        _ => exit::FAILED,
    };
    tracing::error!(%error, "the daemon ends");
    Failure::new(code, error)
}

fn verdict(once: &Once) -> ExitCode {
    for watch in &once.unavailable {
        print_error(format_args!("watch {watch:?}: this host cannot serve its folder; the log says why"));
    }
    for pipeline in &once.down {
        print_error(format_args!("pipeline {pipeline:?} is down or fails on every file"));
    }
    if once.failed + once.blocked + once.unsettled > 0 {
        let Once { failed, blocked, unsettled, .. } = once;
        print_error(format_args!("{failed} files failed, {blocked} cannot be read, {unsettled} did not settle"));
    }
    if !once.down.is_empty() {
        ExitCode::from(exit::UNAVAILABLE)
    } else if once.failed + once.blocked + once.unsettled > 0 || !once.unavailable.is_empty() {
        ExitCode::from(exit::FAILED)
    } else {
        ExitCode::SUCCESS
    }
}
