//! `pause`, `resume` and `rescan`: when the daemon works.

use std::process::ExitCode;

use super::{Daemon, say_json};
use crate::admin::wire::{Target, Targets};
use crate::cli::{Failure, Global, say};

/// Send nothing new of a watch, or to a pipeline, until it is resumed.
///
/// What is in flight is finished. Files that appear meanwhile are noted and wait. A pause survives a restart; `status` says
/// since when it lasts. Without a target every watch is paused.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Pause {
    #[command(flatten)]
    common: Common,
}

/// Go on with what was paused; without a target, with everything.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Resume {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct Common {
    /// `watch:NAME`, `pipeline:NAME`, or a name that only one of them has.
    #[arg(value_name = "TARGET")]
    target: Option<String>,
    /// Print the outcome as JSON.
    #[arg(long)]
    json: bool,
}

/// Walk a watched folder now instead of at its next interval; without a name, every one.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Rescan {
    /// The watch.
    #[arg(value_name = "WATCH")]
    watch: Option<String>,
    /// Print the outcome as JSON.
    #[arg(long)]
    json: bool,
}

pub(in crate::cli) fn pause(global: &Global, args: &Pause) -> Result<ExitCode, Failure> {
    change(global, "/api/pause", args.common.target.clone(), args.common.json, "paused")
}

pub(in crate::cli) fn resume(global: &Global, args: &Resume) -> Result<ExitCode, Failure> {
    change(global, "/api/resume", args.common.target.clone(), args.common.json, "resumed")
}

pub(in crate::cli) fn rescan(global: &Global, args: &Rescan) -> Result<ExitCode, Failure> {
    change(global, "/api/rescan", args.watch.clone(), args.json, "being scanned")
}

fn change(global: &Global, path: &str, target: Option<String>, json: bool, past: &str) -> Result<ExitCode, Failure> {
    let targets: Targets = Daemon::of(global)?.post(path, &Target { target })?;
    if json {
        say_json(&targets)?;
        return Ok(ExitCode::SUCCESS);
    }
    for target in &targets.changed {
        say(format_args!("{target} {past}"));
    }
    for target in &targets.unchanged {
        say(format_args!("{target} was {past} already"));
    }
    if targets.changed.is_empty() && targets.unchanged.is_empty() {
        say("nothing is paused");
    }
    Ok(ExitCode::SUCCESS)
}
