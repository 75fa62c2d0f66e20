//! `status`: is it well, and what is going on.

use std::process::ExitCode;

use super::{Daemon, say_json, time};
use crate::admin::wire::{Health, Pipeline, Status, Watch};
use crate::cli::paint::{self, Paint};
use crate::cli::{Failure, Global, exit, say};
use crate::clock::unix_millis;

/// Show how the running daemon is: each watch, each pipeline, and what needs a look.
///
/// Exit 0: healthy. 1: something needs a look; it is named. 75: no daemon answers.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Print everything as one line of JSON.
    #[arg(long)]
    json: bool,
}

/// The states that people ask about first, in the order of a file's way; the others are shown when there are any.
const COLUMNS: [&str; 5] = ["pending", "sending", "done", "failed", "blocked"];
const RARE: [&str; 5] = ["spooled", "delivered", "vanished", "ignored", "parked"];

pub(in crate::cli) fn main(global: &Global, args: &Args) -> Result<ExitCode, Failure> {
    let status: Status = Daemon::of(global)?.get("/api/status")?;
    if args.json {
        say_json(&status)?;
    } else {
        show(&status, Paint::of_stdout());
    }
    Ok(match status.health {
        Health::Healthy => ExitCode::SUCCESS,
        Health::Degraded => ExitCode::from(exit::FAILED),
    })
}

fn show(status: &Status, paint: Paint) {
    let word = match (status.stopping, status.health) {
        (true, _) => paint.yellow("stopping"),
        (_, Health::Healthy) => paint.green("healthy"),
        (_, Health::Degraded) => paint.red("needs a look"),
    };
    let since = time(status.started_at);
    say(format_args!("rocketride-ingest {}: {word}  (pid {}, since {since})", status.version, status.pid));
    for reason in &status.reasons {
        say(format_args!("  {} {reason}", paint.red("!")));
    }

    say("");
    let width = status.watches.iter().map(|watch| watch.name.chars().count()).max().unwrap_or(0).max(5);
    let columns = COLUMNS.map(|column| format!("{:>10}", column.to_uppercase())).concat();
    let heading = format!("{:width$}  {:8}{columns}", "WATCH", "IS");
    say(paint.bold(&heading));
    for watch in &status.watches {
        say(row(watch, width, paint));
    }

    say("");
    let width = status.pipelines.iter().map(|pipeline| pipeline.name.chars().count()).max().unwrap_or(0).max(8);
    say(paint.bold(&format!("{:width$}  {:8}  SERVER", "PIPELINE", "IS")));
    for pipeline in &status.pipelines {
        say(pipeline_row(pipeline, width, paint));
    }

    if !status.paused_elsewhere.is_empty() {
        say("");
    }
    for (name, since) in &status.paused_elsewhere {
        let words = format!("{name} is not in the configuration and paused since {}; `resume {name}`", time(*since));
        say(paint.yellow(&words));
    }

    say("");
    let state = &status.state;
    let free = state.free_bytes.map_or_else(|| "unknown".to_owned(), paint::size);
    let journal = state.journal_bytes.map_or_else(|| "unknown".to_owned(), paint::size);
    say(paint.dim(&format!("state {}: journal {journal}, free {free}", state.directory)));
    for backup in &state.journal_backups {
        say(paint.dim(&format!("{backup}: the journal as an earlier version left it; remove it when it is not needed")));
    }
}

fn row(watch: &Watch, width: usize, paint: Paint) -> String {
    let is = match (watch.paused_since, watch.up, &watch.trouble) {
        (Some(_), _, _) => paint.yellow("paused  "),
        (None, false, _) => paint.red("down    "),
        (None, true, Some(_)) => paint.red("held    "),
        (None, true, None) => paint.green("up      "),
    };
    let mut line = format!("{:width$}  {is}", watch.name);
    for state in COLUMNS {
        let count = watch.jobs.get(state).copied().unwrap_or(0);
        let cell = format!("{count:>10}");
        line += &if count > 0 && matches!(state, "failed" | "blocked") { paint.red(&cell) } else { cell };
    }
    let mut more = Vec::new();
    if watch.settling > 0 {
        more.push(format!("{} settling", watch.settling));
    }
    for state in RARE {
        match watch.jobs.get(state) {
            Some(0) | None => {}
            Some(count) => more.push(format!("{count} {state}")),
        }
    }
    if let Some(since) = watch.paused_since {
        more.push(format!("paused since {}", time(since)));
    }
    let now = unix_millis();
    if let Some(oldest) = watch.oldest_pending.filter(|oldest| *oldest < now) {
        more.push(format!("the oldest has been due for {}", paint::span_of_seconds((now - oldest) / 1000)));
    }
    if !more.is_empty() {
        line = format!("{line}  {}", paint.dim(&more.join(", ")));
    }
    line
}

fn pipeline_row(pipeline: &Pipeline, width: usize, paint: Paint) -> String {
    let is = match (pipeline.paused_since, pipeline.up) {
        (Some(_), _) => paint.yellow("paused  "),
        (None, true) => paint.green("up      "),
        (None, false) => paint.red("down    "),
    };
    let mut line = format!("{:width$}  {is}  {}", pipeline.name, pipeline.uri);
    if let Some(seconds) = pipeline.down_seconds {
        line = format!("{line}  {}", paint.dim(&format!("for {}", paint::span_of_seconds(seconds))));
    }
    if let Some(since) = pipeline.paused_since {
        line = format!("{line}  {}", paint.dim(&format!("paused since {}", time(since))));
    }
    line
}
