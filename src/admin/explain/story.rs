//! From facts to two sentences: how a path stands, and what happens next.
//!
//! Pure. It must know the daemon's rules as they are; where it cannot tell, it says so.

use std::time::Duration;

use super::disk::{Found, Own};
use crate::admin::wire::Transfer;
use crate::config::{OnFailure, OnSuccess, Watch};
use crate::folder::Standing;
use crate::fs::Look;
use crate::intake::assess::Assessment;
use crate::intake::marked::Marked;
use crate::job::{Job, JobState, Millis};
use crate::lease::Writers;
use crate::show::{Shown, escaped};

/// Everything that the sentences are made of.
pub(super) struct Facts<'a> {
    pub(super) watch: &'a Watch,
    /// It is the watched folder itself.
    pub(super) is_root: bool,
    /// Why the watched folder cannot be used, if it cannot.
    pub(super) unavailable: Option<String>,
    pub(super) found: &'a Found,
    /// The rule that leaves it alone, and why.
    pub(super) skip: Option<(&'static str, &'a str)>,
    /// Intake's answer; none if it gave none.
    pub(super) standing: Option<Standing>,
    /// The whole folder has been walked since the start.
    pub(super) is_scanned: bool,
    pub(super) job: Option<&'a Job>,
    /// What the file that stands there means; none if none does.
    pub(super) assessment: Option<Assessment>,
    pub(super) transfer: Option<Transfer>,
    /// What keeps a waiting job, the weightiest first.
    pub(super) obstacles: &'a [String],
    /// After how many a file is given up.
    pub(super) attempts: u32,
    pub(super) now: Millis,
}

/// The sentences.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Story {
    pub(super) verdict: String,
    pub(super) next: String,
    pub(super) at: Option<Millis>,
}

impl Story {
    fn new(verdict: impl Into<String>, next: impl Into<String>) -> Self {
        Self { verdict: verdict.into(), next: next.into(), at: None }
    }

    fn at(self, at: Millis) -> Self {
        Self { at: Some(at), ..self }
    }
}

/// Tells how a path stands and what is next.
pub(super) fn tell(facts: &Facts<'_>) -> Story {
    if facts.is_root {
        return Story::new(
            format!("it is the folder of watch {} itself", facts.watch.name),
            "nothing for the folder itself; ask about a file in it, or see `status`",
        );
    }
    if let Some(job) = facts.job
        && let Some(story) = on_its_way(facts, job)
    {
        return story;
    }
    match &facts.found.look {
        Some(Look::File(_)) => of_file(facts),
        Some(Look::Directory) => match facts.skip {
            Some((rule, why)) => {
                Story::new(format!("it is a folder that is not looked into, by the rule `{rule}`: {why}"), NEVER)
            }
            None => Story::new(
                "it is a folder; the files in it are sent, each for itself",
                "nothing for the folder itself; ask about a file in it",
            ),
        },
        Some(Look::Special) => Story::new(
            "it is never sent: it is no regular file, or is reached through a link, and links are never followed \
             beneath a watched folder",
            NEVER,
        ),
        Some(Look::Absent) => of_absent(facts),
        Some(Look::Unknown(error)) => of_unknown(facts, &escaped(&error.to_string()).to_string()),
        None => {
            let why = facts.unavailable.as_deref().unwrap_or("it has not been looked at yet");
            of_unknown(facts, &format!("the watched folder is unavailable: {why}"))
        }
    }
}

const NEVER: &str = "nothing";

/// A file that a worker has, or that the pipeline has taken: nothing on the disk changes what is said of it.
fn on_its_way(facts: &Facts<'_>, job: &Job) -> Option<Story> {
    match job.state {
        JobState::Sending => Some(match &facts.transfer {
            Some(Transfer { phase, sent, size, .. }) => {
                let verdict = match phase.as_str() {
                    "opening" => "it is being sent: it waits for the pipeline to take it".to_owned(),
                    "sending" => format!("it is being sent: {sent} of {size} bytes have arrived"),
                    "processing" => "it has been sent, and the pipeline works on it".to_owned(),
                    _ => "the pipeline is done with it, and its result is being written".to_owned(),
                };
                Story::new(verdict, "its result is written as soon as the pipeline gives it")
            }
            None => Story::new(
                "it was just taken up and is sent in a moment, or its result is being recorded",
                "its result is written",
            ),
        }),
        JobState::Spooled => Some(Story::new(
            "it was delivered, and its result waits in the spool of the state directory, for its own folder cannot be written",
            "the result is written to its place as soon as that can be written; the file is not sent again",
        )),
        JobState::Delivered => {
            let (what, why) = match &facts.watch.on_success {
                OnSuccess::Delete => ("removed", String::new()),
                OnSuccess::Move(target) => ("moved", format!(" to {}", Shown(target))),
                OnSuccess::Keep => ("finished", String::new()),
            };
            let error = job.last_error.as_deref().map(|error| format!(" ({})", escaped(error))).unwrap_or_default();
            Some(Story::new(format!("it was delivered, and is to be {what}{error}"), format!("it is {what}{why}")))
        }
        _ => None,
    }
}

fn of_file(facts: &Facts<'_>) -> Story {
    let known = facts.assessment == Some(Assessment::Known);
    if let Some((rule, why)) = facts.skip {
        match facts.job {
            // It was admitted before the rules changed; the dispatcher does not ask them again.
            Some(job) if known && job.is_waiting() => {
                let mut story = waiting(facts, job);
                story.verdict =
                    format!("{}; newer versions of it are left alone by the rule `{rule}`: {why}", story.verdict);
                return story;
            }
            _ => return skipped(facts, rule, why),
        }
    }
    if let (Some(job), true) = (facts.job, known) {
        return of_known(facts, job);
    }
    match &facts.found.marker {
        Some((name, Ok(Marked::NotYet))) if facts.assessment != Some(Assessment::DeadLetter) => {
            return Story::new(
                format!("it waits for its marker {name}, or for one that is not older than the file"),
                "it is sent when the marker stands beside it",
            );
        }
        Some((_, Ok(Marked::Never))) => {
            return Story::new(
                "it is never sent: its name is so long that its done_marker can never exist",
                "nothing; give it a shorter name",
            );
        }
        _ => {}
    }
    if let Some(settle) = facts.standing.and_then(|standing| standing.settling) {
        return settling(facts, settle);
    }
    if let (Some(job), Some(Assessment::DeadLetter)) = (facts.job, facts.assessment) {
        return given_up(facts, job);
    }
    let verdict = match (facts.assessment, facts.job) {
        (Some(Assessment::MaybeSame), _) => {
            "it was delivered; its times or permissions changed since, or its content".to_owned()
        }
        (_, Some(job)) => format!("it changed since it was last looked at, when it was {}", job.state.name()),
        (_, None) => "it is an input, and has not been noticed yet".to_owned(),
    };
    noticed_later(facts, verdict)
}

fn skipped(facts: &Facts<'_>, rule: &str, why: &str) -> Story {
    match &facts.found.own {
        Some(Own::Ours(_, input)) => Story::new(
            format!("it is one of the daemon's own files (rule `{rule}`), and belongs to {}", Shown(input)),
            "nothing; ask about its input",
        ),
        Some(Own::Hidden) => Story::new(
            format!(
                "it is one of the daemon's own files (rule `{rule}`): a temp file, or one that is being moved or removed"
            ),
            "nothing; it goes by itself, or `audit` tells of it",
        ),
        Some(Own::Strange) => Story::new(
            format!("it is never sent, by the rule `{rule}`: {why}, but this daemon did not write it"),
            "nothing; if it is to be sent, give it another name",
        ),
        None => Story::new(format!("it is not sent, by the rule `{rule}`: {why}"), NEVER),
    }
}

fn settling(facts: &Facts<'_>, settle: crate::folder::Settle) -> Story {
    let (quiet, next) = (span(settle.quiet), facts.now + millis(settle.next));
    let verdict = match (&facts.found.writers, settle.unchanged) {
        (Some(Writers::Some), _) => "it is settling, and somebody has it open for writing".to_owned(),
        (_, None) => "it is settling: it was just noticed".to_owned(),
        (_, Some(unchanged)) => {
            let unchanged = span(unchanged.min(settle.quiet));
            format!("it is settling: unchanged for {unchanged} of the {quiet} that it must stay the same")
        }
    };
    Story::new(verdict, format!("it is sent once it stayed the same for {quiet} and nobody writes to it")).at(next)
}

/// The record is about the very file that stands there.
fn of_known(facts: &Facts<'_>, job: &Job) -> Story {
    match job.state {
        JobState::Pending { .. } | JobState::Blocked { .. } => waiting(facts, job),
        JobState::Done => {
            let what = if facts.found.result.is_some() {
                "it was delivered"
            } else {
                "it was delivered, but its result file is not there any more"
            };
            let warning = job.last_error.as_deref().map(|error| format!(" ({})", escaped(error))).unwrap_or_default();
            Story::new(
                format!("{what}{warning}"),
                "nothing, it is done; a changed file is sent anew, and `retry --force` sends this one again",
            )
        }
        JobState::Failed => given_up(facts, job),
        JobState::Ignored => Story::new(
            "it is left alone, because an operator said to forget it",
            "nothing until the file changes, or `retry` takes it back",
        ),
        JobState::Parked => Story::new(
            "it is parked: its watch was not in the configuration",
            "it is sent when the watch is served again",
        ),
        _ => noticed_later(facts, format!("the journal has it as {}", job.state.name())),
    }
}

fn given_up(facts: &Facts<'_>, job: &Job) -> Story {
    let attempts = match job.attempts {
        0 => "without an attempt".to_owned(),
        1 => "after 1 attempt".to_owned(),
        more => format!("after {more} attempts"),
    };
    let error = escaped(job.last_error.as_deref().unwrap_or("the reason is not known")).to_string();
    let verdict = format!("it was given up {attempts}: {error}");
    let gone = !matches!(facts.found.look, Some(Look::File(_)));
    if gone && matches!(facts.watch.on_failure, OnFailure::Move(_)) {
        return Story::new(verdict, "nothing; it was moved away: put it back to send it again");
    }
    if gone {
        return Story::new(verdict, "nothing; the file is not there any more");
    }
    if facts.found.is_elsewhere {
        return Story::new(verdict, "nothing by itself; `retry` or saving the file again sends it again");
    }
    if facts.found.error_file.is_none() && job.sidecar.is_some() {
        return noticed_later(facts, format!("{verdict}; its error file was removed, so it is tried again"));
    }
    Story::new(verdict, "nothing by itself; `retry`, saving the file again or removing its error file sends it again")
}

fn waiting(facts: &Facts<'_>, job: &Job) -> Story {
    let due = job.state.due().unwrap_or_default();
    let error = job.last_error.as_deref().map(|error| escaped(error).to_string());
    let verdict = match (job.state, job.attempts, &error) {
        (JobState::Blocked { .. }, _, Some(error)) => format!("this host cannot read it now, at no attempt: {error}"),
        (JobState::Blocked { .. }, _, None) => "this host cannot read it now, at no attempt".to_owned(),
        (_, 0, None) => "it waits to be sent".to_owned(),
        (_, 0, Some(error)) => format!("it waits to be sent again, at no attempt so far: {error}"),
        (_, attempts, Some(error)) => {
            format!("it waits to be sent again; attempt {attempts} of {} failed: {error}", facts.attempts)
        }
        (_, attempts, None) => format!("it waits to be sent again, after attempt {attempts} of {}", facts.attempts),
    };
    match facts.obstacles.first() {
        Some(obstacle) => Story::new(verdict, format!("it is sent when this is over: {obstacle}")),
        None if due > facts.now => Story::new(verdict, "it is tried again").at(due),
        None => Story::new(verdict, "it goes as soon as its turn comes"),
    }
}

fn of_absent(facts: &Facts<'_>) -> Story {
    let Some(job) = facts.job else {
        return match facts.skip {
            Some((rule, why)) => Story::new(
                format!(
                    "there is nothing at this path, and a file there would be left alone by the rule `{rule}`: {why}"
                ),
                NEVER,
            ),
            None => Story::new(
                "there is nothing at this path, and nothing is known of it",
                "a file that appears there is sent once it has settled",
            ),
        };
    };
    let again = "nothing; a file that appears there again is new";
    match job.state {
        JobState::Done => {
            let verdict = match (&facts.watch.on_success, &facts.found.moved_to) {
                (_, Some(moved)) => format!("it was delivered, and moved to {}", Shown(moved)),
                (OnSuccess::Delete, None) => "it was delivered, and removed".to_owned(),
                _ => "it was delivered, and is not there any more".to_owned(),
            };
            Story::new(verdict, again)
        }
        JobState::Failed => given_up(facts, job),
        JobState::Vanished => Story::new("it was gone before it could be sent", "it is sent when it comes back"),
        JobState::Ignored => Story::new("it was forgotten by an operator, and is not there any more", again),
        _ => {
            noticed_later(facts, format!("it is not there any more; the journal still has it as {}", job.state.name()))
        }
    }
}

fn of_unknown(facts: &Facts<'_>, why: &str) -> Story {
    let known = facts.job.map(|job| format!("; the journal has it as {}", job.state.name())).unwrap_or_default();
    Story::new(
        format!("it cannot be told what stands there: {why}{known}"),
        "it is looked at again as soon as it can be; until then it counts as there",
    )
}

/// Nobody has told intake yet: an event may, and the next walk will.
fn noticed_later(facts: &Facts<'_>, verdict: impl Into<String>) -> Story {
    let next = match facts.standing {
        Some(Standing { next_walk: Some(next), .. }) => {
            let story = Story::new(verdict, "it is looked at by the next walk of the folder at the latest");
            return story.at(facts.now + millis(next));
        }
        Some(Standing { next_walk: None, .. }) if !facts.is_scanned => {
            "the first walk of the folder since the start is under way and will come to it"
        }
        Some(_) => "a walk of the folder is under way and will come to it",
        None => "it is looked at by the next walk of the folder (intake is busy and does not say when)",
    };
    Story::new(verdict, next)
}

fn millis(time: Duration) -> Millis {
    Millis::try_from(time.as_millis()).unwrap_or(Millis::MAX)
}

/// A short time as people say it.
fn span(time: Duration) -> String {
    humantime::format_duration(Duration::from_millis(millis(time) / 100 * 100)).to_string()
}
