//! `retry` and `forget`: what the daemon is to do with files it knows.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use super::{Daemon, absolute, say_json};
use crate::admin::wire::{Done, Selection, WirePath};
use crate::cli::paint::count;
use crate::cli::{Failure, Global, exit, print_error, say};
use crate::clock::{from_rfc3339, unix_millis};
use crate::job::Millis;

/// More files than this are not sent again without a question.
const ASK_ABOVE: u64 = 100;

/// How a change is asked for, whatever it is.
#[derive(Debug, clap::Args)]
struct Switches {
    /// Only say how many there are.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask, however many there are.
    #[arg(long)]
    yes: bool,
    /// Print the outcome as JSON.
    #[arg(long)]
    json: bool,
}

/// Send files again: those that were given up, or ones that were delivered.
///
/// A file that waits for its next attempt is tried at once. Sent again under the same object id, a file replaces what the
/// pipeline has of it.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["paths", "failed", "done"]))]
pub(in crate::cli) struct Retry {
    /// These files.
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Every file that was given up.
    #[arg(long)]
    failed: bool,
    /// Every file that was delivered and is still there.
    #[arg(long)]
    done: bool,
    /// With --failed or --done: only of this watch.
    #[arg(long, value_name = "NAME", conflicts_with = "paths")]
    watch: Option<String>,
    /// With --failed or --done: only those last tried since then: `2026-11-22T10:00:00Z`, or a time ago, as `2h`.
    #[arg(long, value_name = "TIME", conflicts_with = "paths", value_parser = moment)]
    since: Option<Millis>,
    /// With --failed or --done: only those whose error contains this text.
    #[arg(long, value_name = "TEXT", conflicts_with = "paths")]
    error: Option<String>,
    /// Of named files, also those that were delivered.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    switches: Switches,
}

/// Leave files alone until they change: they are not sent, and not reported as failed any more.
///
/// The files themselves are never touched. `retry` takes it back.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["paths", "watch"]))]
pub(in crate::cli) struct Forget {
    /// These files.
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Every file of this watch that is not delivered.
    #[arg(long, value_name = "NAME")]
    watch: Option<String>,
    #[command(flatten)]
    switches: Switches,
}

pub(in crate::cli) fn retry(global: &Global, args: &Retry) -> Result<ExitCode, Failure> {
    let state = if args.failed { Some("failed".to_owned()) } else { args.done.then(|| "done".to_owned()) };
    let selection = Selection {
        paths: wire(&args.paths),
        state,
        watch: args.watch.clone(),
        since: args.since,
        error: args.error.clone(),
        force: args.force,
        ..Selection::default()
    };
    let how = How { verb: "send again", past: "will be sent again", switches: &args.switches };
    change(global, "/api/retry", &selection, &how)
}

pub(in crate::cli) fn forget(global: &Global, args: &Forget) -> Result<ExitCode, Failure> {
    let selection = Selection { paths: wire(&args.paths), watch: args.watch.clone(), ..Selection::default() };
    let how = How { verb: "forget", past: "forgotten", switches: &args.switches };
    change(global, "/api/forget", &selection, &how)
}

/// How a change is asked for and told.
struct How<'a> {
    verb: &'static str,
    past: &'static str,
    switches: &'a Switches,
}

fn change(global: &Global, path: &str, selection: &Selection, how: &How<'_>) -> Result<ExitCode, Failure> {
    let daemon = Daemon::of(global)?;
    // What names files one by one was meant; the rest is counted first.
    let is_named = !selection.paths.is_empty();
    if how.switches.dry_run || !(is_named || how.switches.yes) {
        let counted: Done = daemon.post_long(path, &Selection { dry_run: true, ..selection.clone() })?;
        if how.switches.dry_run {
            return tell(&counted, how, &format!("{} to {}", count(counted.matched, "file"), how.verb));
        }
        if counted.matched > ASK_ABOVE && !confirmed(how.verb, counted.matched)? {
            return Err(Failure::new(exit::FAILED, "nothing was changed"));
        }
    }
    let done: Done = daemon.post_long(path, selection)?;
    tell(&done, how, &format!("{} {}", count(done.changed, "file"), how.past))
}

fn tell(done: &Done, how: &How, text: &str) -> Result<ExitCode, Failure> {
    if how.switches.json {
        say_json(done)?;
    } else {
        say(text);
    }
    for refused in &done.refused {
        print_error(refused);
    }
    Ok(if done.refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) })
}

fn confirmed(verb: &str, files: u64) -> Result<bool, Failure> {
    let question = format!("{verb} {files} files?");
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(exit::FAILED, format!("{question} Say so with --yes; nothing was changed")));
    }
    let mut stderr = std::io::stderr();
    write!(stderr, "{question} [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Paths as the daemon is told them: absolute. It finds out itself where a path through links or `..` leads.
fn wire(paths: &[PathBuf]) -> Vec<WirePath> {
    paths.iter().map(|path| WirePath::from(absolute(path).as_path())).collect()
}

fn moment(text: &str) -> Result<Millis, String> {
    if let Some(at) = from_rfc3339(text) {
        return Ok(at);
    }
    let ago = humantime::parse_duration(text)
        .map_err(|_| format!("{text:?} is neither a time as 2026-11-22T10:00:00Z nor a duration as 2h"))?;
    Ok(unix_millis().saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)))
}
