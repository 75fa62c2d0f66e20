//! `explain`: everything known of one path.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{Daemon, absolute, query, say_json, time};
use crate::admin::wire::WirePath;
use crate::admin::wire::explain::{Disk, Explanation, Record, Sidecar};
use crate::cli::paint::{self, Paint};
use crate::cli::{Failure, Global, say};
use crate::clock::unix_millis;
use crate::job::Millis;

/// Tell everything known of one path: how it stands and why, and what happens next and when.
///
/// It answers for any path, also for files that are not sent, which are told with the rule that leaves them alone, and for
/// files that are no longer there. Nothing is changed. Exit 0 whatever the answer is.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The file.
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Print everything as one line of JSON.
    #[arg(long)]
    json: bool,
}

/// Columns of the names of facts.
const NAMES: usize = 12;

pub(in crate::cli) fn main(global: &Global, args: &Args) -> Result<ExitCode, Failure> {
    let question = match WirePath::from(absolute(&args.path).as_path()) {
        WirePath::Text(text) => query(&[("path", Some(&text))]),
        WirePath::Bytes(bytes) => query(&[("bytes", Some(&hex::encode(bytes)))]),
    };
    let told: Explanation = Daemon::of(global)?.get(&format!("/api/explain?{question}"))?;
    if args.json {
        say_json(&told)?;
    } else {
        show(&told, Paint::of_stdout());
    }
    Ok(ExitCode::SUCCESS)
}

fn show(told: &Explanation, paint: Paint) {
    say(paint.bold(&told.path));
    let verdict = sentence(&told.verdict);
    let state = told.job.as_ref().filter(|job| job.is_current != Some(false)).map(|job| job.job.state.as_str());
    say(match state {
        Some("done" | "delivered") => paint.green(&verdict),
        Some("failed" | "blocked") => paint.red(&verdict),
        _ => paint.yellow(&verdict),
    });
    let at = told.next_at.map(|at| format!(" ({})", moment(at))).unwrap_or_default();
    say(format_args!("Next: {}{at}.", told.next));

    say("");
    let fact = |name: &str, value: &str| say(format_args!("  {}  {value}", paint.dim(&format!("{name:NAMES$}"))));
    if let Some(watch) = &told.watch {
        fact("watch", &format!("{} ({}), to pipeline {}", watch.name, watch.folder, watch.pipeline));
    }
    for folder in &told.folders {
        fact("watched is", folder);
    }
    if let Some(choice) = &told.selection {
        let why = choice.why.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
        match &choice.rule {
            Some(rule) => fact("selected", &format!("no, by the rule `{rule}`{why}")),
            None => fact("selected", &format!("yes{why}")),
        }
    }
    if let Some(found) = &told.disk {
        fact("on disk", &disk(found));
    }
    if let Some(marker) = &told.marker {
        let state = match marker.state.as_str() {
            "yes" => "stands there",
            "not yet" => "does not stand there, or is older than the file",
            "never" => "can never stand there, its name would be too long",
            why => why,
        };
        fact("marker", &format!("{}: {state}", marker.name));
    }
    if let Some(settling) = &told.settling {
        let quiet = milliseconds(settling.quiet_ms);
        let unchanged = settling
            .unchanged_ms
            .map_or("not looked at yet".to_owned(), |unchanged| format!("unchanged for {}", milliseconds(unchanged)));
        fact("settling", &format!("{unchanged} of {quiet}; looked at again {}", moment(settling.next_at)));
    }
    if let Some(writers) = &told.writers {
        fact(
            "writers",
            match writers.as_str() {
                "none" => "nobody has it open for writing",
                "some" => "somebody has it open for writing",
                why => why,
            },
        );
    }
    if let Some(record) = &told.job {
        journal(record, fact);
    }
    if let Some(transfer) = &told.transfer {
        let (sent, size) = (paint::size(transfer.sent), paint::size(transfer.size));
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // seconds since it began
        let since = paint::span_of_seconds(transfer.seconds as u64);
        fact("under way", &format!("{}, {sent} of {size}, for {since}", transfer.phase));
    }
    if let Some(result) = &told.result {
        fact("result", &sidecar(result));
    }
    if let Some(error) = &told.error_file {
        fact("error file", &sidecar(error));
    }
    if let Some(target) = &told.target {
        fact("moves to", target);
    }
    for obstacle in &told.obstacles {
        fact("waits for", obstacle);
    }
}

fn disk(disk: &Disk) -> String {
    let why = disk.why.as_deref().map(|why| format!(", {why}")).unwrap_or_default();
    let size = disk.size.map(|size| format!(", {}", paint::size(size))).unwrap_or_default();
    let written = disk.modified_at.map(|at| format!(", last written {}", time(at))).unwrap_or_default();
    format!("{}{size}{written}{why}", disk.kind)
}

fn journal(record: &Record, fact: impl Fn(&str, &str)) {
    let job = &record.job;
    let of = match record.is_current {
        Some(true) => String::new(),
        Some(false) => format!(", of an earlier content of {}", paint::size(job.size)),
        None => format!(", of {}", paint::size(job.size)),
    };
    fact("journal", &format!("{}{of}", job.state));
    fact("first seen", &time(job.admitted_at));
    match (record.first_attempt_at, job.last_attempt_at) {
        (Some(first), Some(last)) if first != last => {
            fact(
                "attempts",
                &format!("{} of {}, from {} to {}", job.attempts, record.max_attempts, time(first), time(last)),
            );
        }
        (_, Some(last)) => {
            fact("attempts", &format!("{} of {}, at {}", job.attempts, record.max_attempts, time(last)));
        }
        _ => fact("attempts", "none"),
    }
    if record.changes > 0 {
        fact("changed", &format!("{} while it was being sent", paint::count(record.changes.into(), "time")));
    }
    if let Some(error) = &job.last_error {
        fact("last error", error);
    }
    if let Some(hint) = &job.hint {
        fact("what to do", hint);
    }
    if let Some(sha256) = &record.sha256 {
        fact("sha256", sha256);
    }
}

fn sidecar(sidecar: &Sidecar) -> String {
    match sidecar.is_current {
        Some(false) => format!("{} (of an earlier content)", sidecar.path),
        _ => sidecar.path.clone(),
    }
}

/// As a sentence of its own.
fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", characters.as_str().trim_end_matches('.'))
}

/// A moment near now, as people ask for it.
fn moment(at: Millis) -> String {
    match at.checked_sub(unix_millis()) {
        None | Some(0) => "now".to_owned(),
        Some(left) if left < 60_000 => format!("in {}", milliseconds(left)),
        Some(left) => format!("at {}, in {}", time(at), paint::span_of_seconds(left / 1000)),
    }
}

fn milliseconds(time: u64) -> String {
    let whole = if time < 10_000 { time / 100 * 100 } else { time / 1000 * 1000 };
    paint::span(std::time::Duration::from_millis(whole)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_told_as_a_sentence() {
        assert_eq!(sentence("it was delivered"), "It was delivered.");
        assert_eq!(sentence("é: failed."), "É: failed.");
    }

    #[test]
    fn short_times_keep_one_decimal() {
        assert_eq!(milliseconds(1_234), "1s 200ms");
        assert_eq!(milliseconds(59_999), "59s");
        assert_eq!(moment(0), "now");
    }
}
