//! `reload`: put a changed configuration in force.

use std::process::ExitCode;

use super::{Daemon, say_json};
use crate::admin::wire::Reloaded;
use crate::cli::{Failure, Global, print_error, say};

/// Have the running daemon read its configuration file again and put in force what changed, without dropping an upload.
///
/// Exit 0: applied; what only a restart can change is named. 78: rejected, and everything stays as it was. 75: no daemon
/// answers. SIGHUP does the same without an answer.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Print the outcome as JSON.
    #[arg(long)]
    json: bool,
}

pub(in crate::cli) fn main(global: &Global, args: &Args) -> Result<ExitCode, Failure> {
    let reloaded: Reloaded = Daemon::of(global)?.post("/api/reload", &serde_json::json!({}))?;
    if args.json {
        say_json(&reloaded)?;
        return Ok(ExitCode::SUCCESS);
    }
    for change in &reloaded.changes {
        say(change);
    }
    if reloaded.changes.is_empty() && reloaded.needs_restart.is_empty() {
        say("nothing changed");
    }
    for key in &reloaded.needs_restart {
        print_error(format_args!("{key} changed: that takes a restart; until then it stays as it was"));
    }
    Ok(ExitCode::SUCCESS)
}
