//! What keeps a file that waits from being sent now, the weightiest first.
//!
//! It reads the same signs as the dispatcher does; it decides nothing.

use std::time::Instant;

use crate::admin::{Desk, Running};
use crate::clock::rfc3339;
use crate::delivery::pipeline::Line;
use crate::folder::{Availability, Folder};
use crate::fs::free_space;
use crate::job::{JobState, Millis};
use crate::pauses::Subject;
use crate::show::escaped;

/// What holds a whole watch or its pipeline.
pub(super) fn obstacles(desk: &Desk, running: &Running, folder: &Folder) -> Vec<String> {
    let watch = &folder.watch;
    let mut found = Vec::new();
    if *desk.stopping.borrow() {
        found.push("the daemon is stopping".to_owned());
    }
    let paused = desk.pauses.paused();
    let pause = |subject: Subject| {
        let since = seconds(*paused.get(&subject)?);
        Some(format!("{subject} is paused since {since}; `resume {subject}` ends that"))
    };
    found.extend(pause(Subject::Watch(watch.name.clone())));
    match &*folder.availability().borrow() {
        Availability::Open(_) => {}
        Availability::Starting => found.push("the watched folder has not been looked at yet".to_owned()),
        Availability::Unavailable(why) => {
            found.push(format!("the watched folder is unavailable: {}", escaped(why)));
        }
    }
    if desk.journal.counters(watch.id).states[JobState::Spooled.index()] > 0 {
        found.push(
            "results of this watch wait in the spool until their folder can be written; nothing new is sent before"
                .to_owned(),
        );
    }
    let now = Instant::now();
    if let Some(until) = folder.held_until(now) {
        let left = until.saturating_duration_since(now).as_secs();
        found.push(format!("this host could not serve the watch; tried again in {left} s (the log says why)"));
    }
    if folder.has_unplaced() {
        found.push("a result of this watch cannot be written; nothing new is sent until it is".to_owned());
    }
    found.extend(pause(Subject::Pipeline(watch.pipeline.clone())));
    if let Some(line) = running.line(&watch.pipeline) {
        found.extend(of_line(line));
        let (now, most) = (desk.board.in_flight(&watch.pipeline), line.config.limits.max_concurrent_uploads);
        let (all, most_of_all) = (desk.board.flights().len(), running.config.limits.max_concurrent_uploads);
        if now >= most {
            found.push(format!("{now} of {most} uploads to pipeline {} are under way", watch.pipeline));
        } else if all >= most_of_all {
            found.push(format!("{all} of {most_of_all} uploads of the daemon are under way"));
        }
    }
    let state = &running.config.state;
    if !free_space(&state.directory).is_ok_and(|free| free >= state.min_free) {
        found.push("the state directory has less free space than state.min_free".to_owned());
    }
    found
}

fn of_line(line: &Line) -> Option<String> {
    let name = &line.config.name;
    if let Some((since, why)) = line.outage() {
        let (seconds, why) = (since.elapsed().as_secs(), escaped(&why));
        return Some(format!("pipeline {name} has been down for {seconds} s and is tried again and again: {why}"));
    }
    if line.session().is_none() {
        return Some(format!("pipeline {name} lost its connection and is connecting again"));
    }
    let seconds = line.failing_since()?.elapsed().as_secs();
    Some(format!(
        "pipeline {name} has failed on every file for {seconds} s: one file is tried now and then, the others wait"
    ))
}

/// A moment to the second.
fn seconds(at: Millis) -> String {
    let text = rfc3339(at);
    text.split('.').next().map_or_else(|| text.clone(), |seconds| format!("{seconds}Z"))
}
