//! The jobs, page by page.
//!
//! The journal has no index by state, so a page is bounded by what is looked at as well as by what is found: it answers
//! soon, perhaps with few jobs or none, and its cursor goes on where it stopped.

use axum::http::StatusCode;
use serde::Deserialize;

use super::Desk;
use super::api::Failure;
use super::hints::{self, Letter};
use super::wire;
use crate::job::{FileKey, Job, JobState, STATE_NAMES, WatchId};
use crate::journal::Journal;
use crate::show::{Shown, escaped};

/// Jobs on a page, if nothing else is asked for.
const DEFAULT_LIMIT: usize = 100;
/// Most jobs on a page.
const MAX_LIMIT: usize = 1000;
/// Records looked at for one page: some 50 ms of reading.
const LOOKED_AT: usize = 10_000;
/// Records read from the journal at a time.
const STEP: usize = 512;

/// Which jobs, and from where on.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Query {
    /// Only in this state.
    pub state: Option<String>,
    /// Only of this watch.
    pub watch: Option<String>,
    /// The cursor of the page before.
    pub after: Option<String>,
    /// How many, at most.
    pub limit: Option<usize>,
}

/// What to go through.
#[derive(Debug, Clone)]
pub struct Filter {
    /// The watches with their names, in the order of their ids.
    pub watches: Vec<(WatchId, String)>,
    /// Only jobs in this state.
    pub state: Option<&'static str>,
}

impl Filter {
    /// The watch and the state must exist.
    pub fn new(journal: &Journal, watch: Option<&str>, state: Option<&str>) -> Result<Self, Failure> {
        let state = state.map(state_named).transpose()?;
        let mut watches = journal.watches();
        if let Some(name) = watch {
            watches.retain(|(_, known, _)| known == name);
            if watches.is_empty() {
                return Err(Failure::new(
                    StatusCode::NOT_FOUND,
                    format!("there is no watch {:?}", escaped(name).to_string()),
                ));
            }
        }
        // Where the ledger has none in this state there is nothing to look for.
        let any = |counters: &crate::job::Counters| state.is_none_or(|state| counters.count(state) > 0);
        let watches = watches.into_iter().filter(|(_, _, counters)| any(counters)).map(|(id, name, _)| (id, name));
        Ok(Self { watches: watches.collect(), state })
    }
}

/// The state of this name.
fn state_named(name: &str) -> Result<&'static str, Failure> {
    STATE_NAMES.iter().find(|known| **known == name).copied().ok_or_else(|| {
        Failure::bad(format!(
            "there is no state {:?}; it is one of {}",
            escaped(name).to_string(),
            STATE_NAMES.join(", ")
        ))
    })
}

/// Goes through the jobs that match, in the order of their keys, until `visit` returns false or `look_at` records were
/// looked at. Returns the key to go on behind, or none at the end. Blocks.
pub fn walk(
    journal: &Journal,
    filter: &Filter,
    after: Option<FileKey>,
    look_at: usize,
    mut visit: impl FnMut(&str, FileKey, Job) -> bool,
) -> Result<Option<FileKey>, crate::journal::Failure> {
    let mut looked_at = 0;
    for (watch, name) in &filter.watches {
        let mut behind = match after {
            Some(after) if after.watch > *watch => continue,
            Some(after) if after.watch == *watch => Some(after),
            _ => None,
        };
        loop {
            let page = journal.jobs(*watch, behind, STEP)?;
            let Some((last, _)) = page.last() else { break };
            behind = Some(*last);
            for (key, job) in page {
                looked_at += 1;
                let matches = filter.state.is_none_or(|state| job.state.name() == state);
                if (matches && !visit(name, key, job)) || looked_at >= look_at {
                    return Ok(Some(key));
                }
            }
        }
    }
    Ok(None)
}

/// One page, and of a page of dead letters those whose hints can be read. Blocks.
pub(super) fn page(desk: &Desk, query: &Query) -> Result<(wire::Page, Vec<Letter>), Failure> {
    let filter = Filter::new(&desk.journal, query.watch.as_deref(), query.state.as_deref())?;
    let after = query.after.as_deref().map(cursor).transpose()?;
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
    let (mut jobs, mut letters) = (Vec::new(), Vec::new());
    let next = walk(&desk.journal, &filter, after, LOOKED_AT, |watch, key, job| {
        jobs.push(row(watch, key, &job));
        if filter.state == Some("failed") && letters.len() < hints::MAX_READ {
            letters.push(Letter { row: jobs.len() - 1, watch: watch.to_owned(), job });
        }
        jobs.len() < limit
    })?;
    Ok((wire::Page { jobs, next: next.map(|key| hex::encode(key.to_bytes())) }, letters))
}

/// A key that was given out.
pub fn cursor(text: &str) -> Result<FileKey, Failure> {
    let mut bytes = [0; FileKey::LEN];
    hex::decode_to_slice(text, &mut bytes)
        .map_err(|_| Failure::bad("the cursor is none of ours; begin without one"))?;
    Ok(FileKey::from_bytes(bytes))
}

/// A job as it is shown.
pub fn row(watch: &str, key: FileKey, job: &Job) -> wire::Job {
    let due = match job.state {
        JobState::Pending { due } | JobState::Blocked { due } => Some(due),
        _ => None,
    };
    wire::Job {
        key: hex::encode(key.to_bytes()),
        watch: watch.to_owned(),
        path: Shown(&job.path).to_string(),
        state: job.state.name().to_owned(),
        size: job.generation.size,
        attempts: job.attempts,
        admitted_at: job.admitted_at,
        last_attempt_at: job.last_attempt_at,
        due,
        last_error: job.last_error.as_deref().map(|error| escaped(error).to_string()),
        sidecar: job.sidecar.as_deref().map(|name| escaped(name).to_string()),
        hint: None,
    }
}
