//! What an operator may change: send again, forget, pause, resume, scan.
//!
//! Every change is an event of the job table or a hint, so nothing here can lose a file. It never touches files.

use std::path::PathBuf;
use std::sync::Arc;

use axum::http::StatusCode;

use super::api::Failure;
use super::list::{self, Filter};
use super::place::key_of;
use super::wire::{Done, Selection, Target, Targets, WirePath};
use super::{Desk, Running};
use crate::blocking::blocking;
use crate::clock::unix_millis;
use crate::job::{Event, FileKey, Job, JobState};
use crate::pauses::Subject;
use crate::show::{Shown, escaped};

/// Changes that are handed to the journal at a time.
const BATCH: usize = 512;

/// A change that an operator wants, to be made to every job that is selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Retry { force: bool },
    Forget,
}

impl Change {
    /// The event, or why this job is not meant for it.
    fn event(self, job: &Job) -> Result<Event, &'static str> {
        match (self, job.state) {
            (_, JobState::Sending) => Err("it is being sent right now"),
            (_, JobState::Spooled | JobState::Delivered) => Err("it was delivered and is about to be finished"),
            (Self::Retry { .. }, _) if job.absent => Err("its file is no longer there; drop it again"),
            (Self::Retry { .. }, JobState::Vanished) => Err("its file is no longer there; drop it again"),
            (Self::Retry { .. }, JobState::Parked) => Err("its watch is not in the configuration"),
            (Self::Retry { force: false }, JobState::Done) => {
                Err("it was delivered; --force sends it again, and the pipeline replaces what it has of it")
            }
            (Self::Retry { force }, _) => Ok(Event::Requeue { at: unix_millis(), delivered_too: force }),
            (Self::Forget, JobState::Done) => Err("it was delivered: there is nothing to forget"),
            (Self::Forget, JobState::Ignored) => Err("it is forgotten already"),
            (Self::Forget, _) => Ok(Event::Forget),
        }
    }
}

/// Sends again.
pub async fn retry(desk: &Arc<Desk>, selection: Selection) -> Result<Done, Failure> {
    // Whoever asks for everything that is done has said what --force says.
    let force = selection.force || selection.state.as_deref() == Some("done");
    change(desk, selection, Change::Retry { force }).await
}

/// Leaves alone from now on, until the file changes.
pub async fn forget(desk: &Arc<Desk>, selection: Selection) -> Result<Done, Failure> {
    change(desk, selection, Change::Forget).await
}

async fn change(desk: &Arc<Desk>, selection: Selection, change: Change) -> Result<Done, Failure> {
    let named = !selection.paths.is_empty() || !selection.keys.is_empty();
    if !named && selection.state.is_none() && selection.watch.is_none() {
        return Err(Failure::bad("nothing is selected: name paths, a state or a watch"));
    }
    let mut done = Done::default();
    if named {
        let asked = desk.clone();
        let dry_run = selection.dry_run;
        let (found, refused) = blocking(move || named_jobs(&asked, &selection)).await?;
        done.refused = refused;
        let mut events = Vec::new();
        for (key, shown, job) in found {
            done.matched += 1;
            match change.event(&job) {
                Ok(event) => events.push((key, job.path, event)),
                Err(why) => done.refused.push(format!("{shown}: {why}")),
            }
        }
        if !dry_run {
            done.changed = apply(desk, events).await?;
        }
        return Ok(done);
    }
    let filter = Filter::new(&desk.journal, selection.watch.as_deref(), selection.state.as_deref())?;
    let (filter, selection) = (Arc::new(filter), Arc::new(selection));
    let mut after = None;
    loop {
        let (journal, filter, wanted) = (desk.journal.clone(), filter.clone(), selection.clone());
        let (events, next) = blocking(move || {
            let mut events = Vec::new();
            let next = list::walk(&journal, &filter, after, usize::MAX, |_, key, job| {
                if is_selected(&wanted, &job)
                    && let Ok(event) = change.event(&job)
                {
                    events.push((key, job.path, event));
                }
                events.len() < BATCH
            });
            next.map(|next| (events, next))
        })
        .await?;
        done.matched += events.len() as u64;
        if !selection.dry_run {
            done.changed += apply(desk, events).await?;
        }
        after = next;
        if after.is_none() {
            return Ok(done);
        }
    }
}

/// Whether a job is one of those that were described.
fn is_selected(selection: &Selection, job: &Job) -> bool {
    let since = selection.since.is_none_or(|since| job.last_attempt_at.is_some_and(|at| at >= since));
    let error = selection.error.as_ref().is_none_or(|text| {
        job.last_error.as_ref().is_some_and(|error| error.to_lowercase().contains(&text.to_lowercase()))
    });
    since && error
}

async fn apply(desk: &Desk, events: Vec<(FileKey, PathBuf, Event)>) -> Result<u64, Failure> {
    let outcomes = desk.journal.apply_all(events).await?;
    // What was refused moved on in the meantime.
    Ok(outcomes.iter().filter(|outcome| outcome.is_ok()).count() as u64)
}

type Found = Vec<(FileKey, String, Job)>;

/// The jobs of named files, and why there is none of the others.
fn named_jobs(desk: &Desk, selection: &Selection) -> Result<(Found, Vec<String>), Failure> {
    let running = desk.running();
    let (mut found, mut refused) = (Vec::new(), Vec::new());
    for path in selection.paths.iter().map(WirePath::to_path) {
        let shown = Shown(&path).to_string();
        let Some((key, _)) = key_of(&running, &path) else {
            refused.push(format!("{shown}: it lies in no watched folder"));
            continue;
        };
        match desk.journal.get(key)? {
            Some(job) => found.push((key, shown, job)),
            None => refused.push(format!("{shown}: nothing is known of it; `explain` tells why")),
        }
    }
    for key in &selection.keys {
        let key = list::cursor(key)?;
        match desk.journal.get(key)? {
            Some(job) => found.push((key, Shown(&job.path).to_string(), job)),
            None => refused.push("a job that is no longer known".to_owned()),
        }
    }
    Ok((found, refused))
}

/// Pauses or resumes. Without a target, everything. Blocks.
pub fn set_paused(desk: &Desk, target: &Target, paused: bool) -> Result<Targets, Failure> {
    let running = desk.running();
    let subjects = match &target.target {
        Some(text) => vec![subject(&running, text).or_else(|unknown| match left(desk, text) {
            Some(subject) if !paused => Ok(subject),
            _ => Err(unknown),
        })?],
        // What is paused may have left the configuration: a resume of everything means that too.
        None if !paused => desk.pauses.paused().into_keys().collect(),
        None => running.folders.iter().map(|folder| Subject::Watch(folder.watch.name.clone())).collect(),
    };
    let (mut changed, mut unchanged) = (Vec::new(), Vec::new());
    for subject in subjects {
        let name = subject.to_string();
        let did = desk.pauses.set(subject, paused, unix_millis());
        let did = did.map_err(|error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error))?;
        if did { &mut changed } else { &mut unchanged }.push(name);
    }
    Ok(Targets { changed, unchanged })
}

/// Walks folders at once.
pub fn rescan(desk: &Desk, target: &Target) -> Result<Targets, Failure> {
    let running = desk.running();
    let wanted = target.target.as_deref().map(|name| name.strip_prefix("watch:").unwrap_or(name));
    let folders: Vec<_> =
        running.folders.iter().filter(|folder| wanted.is_none_or(|name| folder.watch.name == name)).collect();
    if let (true, Some(name)) = (folders.is_empty(), wanted) {
        return Err(unknown(&running, name));
    }
    for folder in &folders {
        folder.ask_for_rescan();
    }
    let changed = folders.iter().map(|folder| Subject::Watch(folder.watch.name.clone()).to_string()).collect();
    Ok(Targets { changed, unchanged: Vec::new() })
}

/// What a target means that is paused and left the configuration; none if that is not one thing.
fn left(desk: &Desk, text: &str) -> Option<Subject> {
    let is_meant = |subject: &Subject| match subject {
        Subject::Watch(name) | Subject::Pipeline(name) => name == text || subject.to_string() == text,
    };
    let mut meant = desk.pauses.paused().into_keys().filter(is_meant);
    meant.next().filter(|_| meant.next().is_none())
}

/// What a target means.
fn subject(running: &Running, text: &str) -> Result<Subject, Failure> {
    let (watch, pipeline) = match text.split_once(':') {
        Some(("watch", name)) => (Some(name), None),
        Some(("pipeline", name)) => (None, Some(name)),
        _ => (Some(text), Some(text)),
    };
    let watch = watch.filter(|name| running.folder(name).is_some());
    let pipeline = pipeline.filter(|name| running.line(name).is_some());
    match (watch, pipeline) {
        (Some(name), None) => Ok(Subject::Watch(name.to_owned())),
        (None, Some(name)) => Ok(Subject::Pipeline(name.to_owned())),
        (Some(name), Some(_)) => Err(Failure::bad(format!(
            "a watch and a pipeline are named {name:?}: write watch:{name} or pipeline:{name}"
        ))),
        (None, None) => Err(unknown(running, text)),
    }
}

fn unknown(running: &Running, name: &str) -> Failure {
    let watches = running.folders.iter().map(|folder| format!("watch:{}", folder.watch.name));
    let pipelines = running.lines.iter().map(|line| format!("pipeline:{}", line.config.name));
    let known: Vec<_> = watches.chain(pipelines).collect();
    let name = escaped(name).to_string();
    Failure::new(StatusCode::NOT_FOUND, format!("there is no {name:?}; there are {}", known.join(", ")))
}
