//! `list`: the jobs.

use std::process::ExitCode;

use super::{Daemon, query, say_json, time};
use crate::admin::wire::{Job, Page};
use crate::cli::paint::{self, Paint};
use crate::cli::{Failure, Global, say};
use crate::job::STATE_NAMES;

/// List the files that the running daemon knows: state, size, attempts, and why a file is where it is.
///
/// With `--state failed` each file comes with what its dropper can do. The order is none in particular. Long lists come page by page; `--limit` ends them early.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Only files in this state.
    #[arg(long, value_name = "STATE", value_parser = clap::builder::PossibleValuesParser::new(STATE_NAMES))]
    state: Option<String>,
    /// Only files of this watch.
    #[arg(long, value_name = "NAME")]
    watch: Option<String>,
    /// Stop after so many.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Print each file as a line of JSON.
    #[arg(long)]
    json: bool,
}

pub(in crate::cli) fn main(global: &Global, args: &Args) -> Result<ExitCode, Failure> {
    let daemon = Daemon::of(global)?;
    let paint = Paint::of_stdout();
    let (mut after, mut left) = (None::<String>, args.limit.unwrap_or(usize::MAX));
    let mut shown = 0_u64;
    while left > 0 {
        // The daemon reads the error files of so many only at a time.
        let most = if args.state.as_deref() == Some("failed") { 100 } else { 1000 };
        let limit = left.min(most).to_string();
        let pairs = [
            ("state", args.state.as_deref()),
            ("watch", args.watch.as_deref()),
            ("after", after.as_deref()),
            ("limit", Some(limit.as_str())),
        ];
        let page: Page = daemon.get(&format!("/api/jobs?{}", query(&pairs)))?;
        for job in page.jobs.iter().take(left) {
            if args.json {
                say_json(job)?;
            } else {
                say(row(job, paint));
            }
            shown += 1;
        }
        left = left.saturating_sub(page.jobs.len());
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    if !args.json && shown == 0 {
        say("no such files");
    }
    Ok(ExitCode::SUCCESS)
}

fn row(job: &Job, paint: Paint) -> String {
    let state = format!("{:9}", job.state);
    let state = match job.state.as_str() {
        "done" | "delivered" => paint.green(&state),
        "failed" | "blocked" => paint.red(&state),
        "vanished" | "ignored" | "parked" => paint.dim(&state),
        _ => paint.yellow(&state),
    };
    let mut line = format!("{state}  {:>10}  {}/{}", paint::size(job.size), job.watch, job.path);
    if job.attempts > 1 || (job.attempts == 1 && job.state != "done") {
        line = format!("{line}  {}", paint::count(job.attempts.into(), "attempt"));
    }
    if let Some(due) = job.due.filter(|_| job.attempts > 0 || job.state == "blocked") {
        line = format!("{line}, next {}", time(due));
    }
    if let Some(error) = &job.last_error {
        line = format!("{line}\n           {}", paint.dim(error));
    }
    if let Some(hint) = &job.hint {
        line = format!("{line}\n           {hint}");
    }
    line
}
