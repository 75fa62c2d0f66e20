//! Everything in one glance: is it well, and if not, what is to be looked at.

use std::collections::BTreeMap;
use std::time::Instant;

use super::wire::{Health, Pipeline, State, Status, Transfer, Watch};
use super::{Desk, Running};
use crate::board::Flight;
use crate::delivery::pipeline::Line;
use crate::folder::{Availability, Folder};
use crate::fs::free_space;
use crate::job::{Millis, STATE_NAMES};
use crate::journal::backups;
use crate::pauses::{Paused, Subject};
use crate::show::{Shown, escaped};

/// How the daemon is. Blocks for a moment.
pub fn status(desk: &Desk) -> Status {
    let running = desk.running();
    let paused = desk.pauses.paused();
    let watches: Vec<_> = running.folders.iter().map(|folder| watch(desk, folder, &paused)).collect();
    let pipelines: Vec<_> = running.lines.iter().map(|line| pipeline(desk, line, &paused)).collect();
    let state = state(desk, &running);
    let reasons = reasons(&watches, &pipelines, &state);
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        instance: desk.identity.instance.clone(),
        pid: std::process::id(),
        started_at: desk.started_at,
        config: Shown(&running.config.origin).to_string(),
        health: if reasons.is_empty() { Health::Healthy } else { Health::Degraded },
        reasons,
        stopping: *desk.stopping.borrow(),
        watches,
        pipelines,
        paused_elsewhere: left(&running, &paused),
        transfers: desk.board.flights().iter().map(|flight| transfer(flight)).collect(),
        state,
    }
}

/// What is paused and is not in the configuration.
fn left(running: &Running, paused: &Paused) -> BTreeMap<String, Millis> {
    let has_left = |subject: &Subject| match subject {
        Subject::Watch(name) => running.folder(name).is_none(),
        Subject::Pipeline(name) => running.line(name).is_none(),
    };
    let gone = paused.iter().filter(|(subject, _)| has_left(subject));
    gone.map(|(subject, since)| (escaped(&subject.to_string()).to_string(), *since)).collect()
}

fn watch(desk: &Desk, folder: &Folder, paused: &Paused) -> Watch {
    let counters = desk.journal.counters(folder.watch.id);
    let (up, mut trouble) = match &*folder.availability().borrow() {
        Availability::Open(_) => (true, None),
        Availability::Starting => (false, Some("it has not been looked at yet".to_owned())),
        Availability::Unavailable(reason) => (false, Some(escaped(reason).to_string())),
    };
    if trouble.is_none() && folder.has_unplaced() {
        trouble = Some("results cannot be written; nothing new is sent until they can".to_owned());
    } else if let (None, Some(until)) = (&trouble, folder.held_until(Instant::now())) {
        let seconds = until.saturating_duration_since(Instant::now()).as_secs();
        trouble = Some(format!("this host could not serve it; tried again in {seconds} s (the log says why)"));
    }
    let noticing = folder.noticing();
    Watch {
        name: folder.watch.name.clone(),
        path: Shown(&folder.watch.path).to_string(),
        pipeline: folder.watch.pipeline.clone(),
        up,
        trouble,
        paused_since: paused.get(&Subject::Watch(folder.watch.name.clone())).copied(),
        polls: noticing.polls.map(str::to_owned),
        writer_check: noticing.writers.map(|told| told.map_or_else(str::to_owned, |()| "yes".to_owned())),
        settling: folder.settling(),
        jobs: STATE_NAMES.iter().map(|state| ((*state).to_owned(), counters.count(state))).collect(),
        oldest_pending: desk.journal.next_due(folder.watch.id, 0).ok().flatten(),
    }
}

pub(super) fn transfer(flight: &Flight) -> Transfer {
    Transfer {
        watch: flight.watch.clone(),
        path: Shown(&flight.path).to_string(),
        pipeline: flight.pipeline.clone(),
        size: flight.size,
        sent: flight.sent(),
        seconds: flight.began.elapsed().as_secs_f64(),
        phase: flight.phase().name().to_owned(),
    }
}

/// What is said of a pipeline that takes files and fails on all of them.
fn failing(line: &Line) -> Option<String> {
    let since = line.failing_since()?;
    let seconds = since.elapsed().as_secs();
    Some(format!(
        "different files failed in a row for {seconds} s: only one is tried now and then, at no attempt of the others"
    ))
}

fn pipeline(desk: &Desk, line: &Line, paused: &Paused) -> Pipeline {
    let outage = line.outage();
    Pipeline {
        name: line.config.name.clone(),
        uri: line.config.uri.clone(),
        up: line.session().is_some(),
        trouble: outage.as_ref().map(|(_, reason)| escaped(reason).to_string()).or_else(|| failing(line)),
        in_flight: desk.board.in_flight(&line.config.name) as u64,
        last_success: desk.board.last_success(&line.config.name),
        down_seconds: outage.map(|(since, _)| since.elapsed().as_secs()),
        paused_since: paused.get(&Subject::Pipeline(line.config.name.clone())).copied(),
    }
}

fn state(desk: &Desk, running: &Running) -> State {
    let state = &running.config.state;
    State {
        directory: Shown(&state.directory).to_string(),
        free_bytes: free_space(&state.directory).ok(),
        min_free_bytes: state.min_free,
        journal_bytes: desk.journal.size_on_disk().ok(),
        journal_backups: backups(&state.directory).iter().map(|backup| Shown(backup).to_string()).collect(),
    }
}

/// What needs a look. An operator's own pause does not.
fn reasons(watches: &[Watch], pipelines: &[Pipeline], state: &State) -> Vec<String> {
    let mut reasons = Vec::new();
    for watch in watches {
        let name = &watch.name;
        if let Some(trouble) = &watch.trouble {
            reasons.push(format!("watch {name}: {trouble}"));
        }
        for (state, what) in
            [("failed", "given up"), ("blocked", "not readable"), ("spooled", "waiting for a writable folder")]
        {
            match watch.jobs.get(state) {
                Some(0) | None => {}
                Some(count) => {
                    reasons.push(format!("watch {name}: {count} {what}; see `list --watch {name} --state {state}`"));
                }
            }
        }
    }
    for pipeline in pipelines.iter().filter(|pipeline| !pipeline.up || pipeline.trouble.is_some()) {
        let trouble = pipeline.trouble.as_deref().unwrap_or("its connection was lost");
        reasons.push(format!("pipeline {}: {trouble}", pipeline.name));
    }
    if state.free_bytes.is_some_and(|free| free < state.min_free_bytes) {
        reasons.push("the state directory has less free space than state.min_free: nothing new is sent".to_owned());
    }
    reasons
}
