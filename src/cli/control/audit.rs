//! `audit`: whether journal, folders and results say the same.

use std::process::ExitCode;

use super::{Daemon, say_json};
use crate::admin::wire::audit::{Audited, Findings};
use crate::cli::paint::{Paint, count};
use crate::cli::{Failure, Global, exit, say};

/// Compare what the running daemon remembers with what is on disk: every file, its result, and the spool.
///
/// Each difference is named: a result that is missing or of another content, an input that nobody took in, a ledger that
/// does not balance. Files on their way are none. Nothing is changed. It reads every folder and result, which takes its time
/// where there are many. Exit 0: no difference. 1: there are some. 75: no daemon answers.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Print everything as one line of JSON.
    #[arg(long)]
    json: bool,
}

pub(in crate::cli) fn main(global: &Global, args: &Args) -> Result<ExitCode, Failure> {
    let audited: Audited = Daemon::of(global)?.post_long("/api/audit", &())?;
    if args.json {
        say_json(&audited)?;
    } else {
        show(&audited, Paint::of_stdout());
    }
    Ok(if audited.differences == 0 { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) })
}

fn show(audited: &Audited, paint: Paint) {
    for watch in &audited.watches {
        let numbers = format!(
            "{}, {}, {} right, {} on the way",
            count(watch.records, "record"),
            count(watch.inputs, "input"),
            count(watch.results, "result"),
            watch.in_flight
        );
        say(format_args!("{}  {}", paint.bold(&watch.name), paint.dim(&numbers)));
        name(&watch.differences, &paint.red("difference"));
        name(&watch.unknown, &paint.yellow("unknown   "));
        name(&watch.notes, &paint.dim("note      "));
    }
    if audited.spool.total > 0 {
        say(paint.bold("spool"));
        name(&audited.spool, &paint.red("difference"));
    }
    let verdict = match audited.differences {
        0 => paint.green("no difference"),
        number => paint.red(&count(number, "difference")),
    };
    say(verdict);
}

fn name(found: &Findings, kind: &str) {
    for finding in &found.named {
        let path = if finding.path.is_empty() { "the watch itself" } else { &finding.path };
        say(format_args!("  {kind}  {path}: {}", finding.what));
    }
    let more = found.total.saturating_sub(found.named.len() as u64);
    if more > 0 {
        let once = match found.unconfirmed {
            0 => String::new(),
            number => {
                format!("; {number} of them were found once and not looked at again, and may have been on their way")
            }
        };
        say(format_args!("  {kind}  and {more} more{once}"));
    }
}
