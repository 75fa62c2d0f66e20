//! Everything known of one path: which watch and rule it falls under, what stands there, how far it is, and what is next.
//!
//! Facts are gathered here, from the disk, from intake and from the journal; the sentences are made of them in `story`. It
//! changes nothing and decides nothing.

mod disk;
mod obstacles;
mod story;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::timeout;

use self::disk::Found;
use self::story::Facts;
use super::api::Failure;
use super::place::locate;
use super::wire::WirePath;
use super::wire::explain::{Choice, Explanation, Place, Record, Settling};
use super::{Desk, list, status, wire};
use crate::blocking::blocking;
use crate::clock::unix_millis;
use crate::folder::{Folder, Standing};
use crate::fs::Look;
use crate::intake::assess::assess;
use crate::intake::select::Selector;
use crate::job::{FileKey, Job, JobState, Millis};
use crate::lease::Writers;
use crate::show::{Shown, escaped};

/// How long the disk may take; a filesystem that does not answer is something to be told, too.
const DISK_TIMEOUT: Duration = Duration::from_secs(10);
/// Watched folders that are named for a path that lies in none.
const MAX_FOLDERS: usize = 10;

/// Which path.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Query {
    /// An absolute path, if it is UTF-8.
    pub path: Option<String>,
    /// Else its bytes, in hexadecimal.
    pub bytes: Option<String>,
}

impl Query {
    /// The path that is asked for.
    pub fn path(self) -> Result<PathBuf, Failure> {
        let path = match (self.path, self.bytes) {
            (Some(text), None) => WirePath::Text(text),
            (None, Some(bytes)) => {
                WirePath::Bytes(hex::decode(bytes).map_err(|_| Failure::bad("bytes must be hexadecimal digits"))?)
            }
            _ => return Err(Failure::bad("name one path, as path=TEXT or bytes=HEX")),
        }
        .to_path();
        if path.is_absolute() { Ok(path) } else { Err(Failure::bad("the path must be absolute; begin it with /")) }
    }
}

/// Tells everything known of a path.
pub async fn explain(desk: &Arc<Desk>, path: PathBuf) -> Result<Explanation, Failure> {
    let running = desk.running();
    let (asked, located) = (path.clone(), running.clone());
    let found = timeout(DISK_TIMEOUT, blocking(move || locate(&located, &asked))).await;
    let Ok(Some((folder, rel))) = found else {
        let (verdict, next) = nowhere(found.is_err(), running.folders.iter().any(|folder| folder.root().is_none()));
        let folders = nearest(&path, running.folders.iter().map(|folder| folder.watch.path.as_path()));
        return Ok(Explanation {
            path: Shown(&path).to_string(),
            verdict: verdict.to_owned(),
            next: next.to_owned(),
            folders,
            ..Explanation::default()
        });
    };
    // Intake first: what settles meanwhile is then found in the journal.
    let root = folder.root();
    let standing = match &root {
        Some(_) => folder.standing(rel.clone()).await,
        None => None,
    };
    let key = FileKey::new(folder.watch.id, &rel);
    let (journal, identity, watch) = (desk.journal.clone(), desk.identity.clone(), folder.watch.clone());
    let job = blocking(move || journal.get(key)).await?;
    let found = match root {
        None => Found::default(),
        Some(root) => {
            let (rel, job) = (rel.clone(), job.clone());
            let looked = blocking(move || Found::look(&watch, &root, &rel, job.as_ref(), &identity));
            timeout(DISK_TIMEOUT, looked).await.unwrap_or_else(|_| Found {
                look: Some(Look::Unknown(std::io::Error::other("its filesystem does not answer"))),
                ..Found::default()
            })
        }
    };
    let desk = desk.clone();
    Ok(blocking(move || told(&desk, &folder, &rel, job.as_ref(), &found, standing)).await)
}

/// What is said of a path that was found in no watched folder, and of what happens next.
fn nowhere(is_silent: bool, some_are_unavailable: bool) -> (&'static str, &'static str) {
    match (is_silent, some_are_unavailable) {
        (true, _) => (
            "it cannot be told where it lies: its filesystem does not answer",
            "unknown; a file that is named beneath a folder's path as the configuration has it is found all the same",
        ),
        (false, true) => (
            "it lies in no watched folder that can be looked at now; some are unavailable, which status names",
            "if it lies in one of those: name it beneath the folder's path as the configuration has it",
        ),
        (false, false) => {
            ("it lies in no watched folder", "nothing: the daemon looks at files in the watched folders only")
        }
    }
}

/// The watched folders, those first that have the most in common with the path.
fn nearest<'a>(path: &Path, folders: impl Iterator<Item = &'a Path>) -> Vec<String> {
    let common = |folder: &Path| folder.components().zip(path.components()).take_while(|(a, b)| a == b).count();
    let mut folders: Vec<_> = folders.collect();
    folders.sort_by_key(|folder| std::cmp::Reverse(common(folder)));
    folders.iter().take(MAX_FOLDERS).map(|folder| Shown(folder).to_string()).collect()
}

/// Puts together what was found.
fn told(
    desk: &Desk,
    folder: &Folder,
    rel: &Path,
    job: Option<&Job>,
    found: &Found,
    standing: Option<Standing>,
) -> Explanation {
    let (running, watch, now) = (desk.running(), &folder.watch, unix_millis());
    let selector = Selector::new(watch);
    let is_folder = rel.as_os_str().is_empty() || matches!(found.look, Some(Look::Directory));
    let selected = if is_folder { selector.folders(rel) } else { selector.file(rel) };
    let skip = selected.err().map(|skip| (skip, selector.reason(rel, skip)));
    let selection = Choice {
        selected: skip.is_none(),
        rule: skip.as_ref().map(|(skip, _)| skip.rule().to_owned()),
        why: match &skip {
            Some((_, why)) => Some(why.clone()),
            None if is_folder => None,
            None => selector.included_by(rel).map(|glob| format!("{:?} of include", escaped(glob).to_string())),
        },
    };
    let generation = found.generation();
    let assessment = generation.map(|generation| assess(job, &generation));
    let flights = desk.board.flights();
    let flight = flights.iter().find(|flight| flight.watch == watch.name && flight.path == rel);
    let is_waiting = job.is_some_and(Job::is_waiting);
    let obstacles = if is_waiting { obstacles::obstacles(desk, &running, folder) } else { Vec::new() };
    let unavailable = match &*folder.availability().borrow() {
        crate::folder::Availability::Unavailable(why) => Some(escaped(why).to_string()),
        _ => None,
    };
    let facts = Facts {
        watch,
        is_root: rel.as_os_str().is_empty(),
        unavailable,
        found,
        skip: skip.as_ref().map(|(skip, why)| (skip.rule(), why.as_str())),
        standing,
        is_scanned: folder.is_scanned(),
        job,
        assessment,
        transfer: flight.map(|flight| status::transfer(flight)),
        obstacles: &obstacles,
        attempts: running.config.retry.attempts,
        now,
    };
    let story = story::tell(&facts);
    Explanation {
        path: Shown(&watch.path.join(rel)).to_string(),
        verdict: story.verdict,
        next: story.next,
        next_at: story.at,
        watch: Some(Place {
            name: watch.name.clone(),
            folder: Shown(&watch.path).to_string(),
            path: Shown(rel).to_string(),
            pipeline: watch.pipeline.clone(),
        }),
        folders: Vec::new(),
        selection: Some(selection),
        disk: Some(found.disk()),
        marker: found.marker(),
        settling: standing.and_then(|standing| standing.settling).map(|settle| Settling {
            quiet_ms: millis(settle.quiet),
            unchanged_ms: settle.unchanged.map(millis),
            next_at: now + millis(settle.next),
        }),
        writers: found.writers.as_ref().map(|writers| match writers {
            Writers::None => "none".to_owned(),
            Writers::Some => "some".to_owned(),
            Writers::Unknown(why) => (*why).to_owned(),
        }),
        job: job.map(|job| Record {
            job: wire::Job { hint: found.hint.clone(), ..list::row(&watch.name, FileKey::new(watch.id, rel), job) },
            first_attempt_at: job.first_attempt_at,
            max_attempts: running.config.retry.attempts,
            changes: job.changes,
            sha256: job.sha256.map(hex::encode),
            is_current: generation.map(|generation| job.generation == generation && !job.absent),
        }),
        result: found.result.clone(),
        error_file: found.error_file.clone(),
        target: target(folder, rel, job, found),
        transfer: facts.transfer,
        obstacles,
    }
}

/// Where it was moved to, or where it will be.
fn target(folder: &Folder, rel: &Path, job: Option<&Job>, found: &Found) -> Option<String> {
    if let Some(moved) = &found.moved_to {
        return Some(Shown(moved).to_string());
    }
    let state = job?.state;
    let goes = matches!(state, JobState::Delivered) || found.generation().is_some() && state != JobState::Ignored;
    let target = disk::target(&folder.watch, state).filter(|_| goes)?;
    Some(Shown(&target.join(rel)).to_string())
}

fn millis(time: Duration) -> Millis {
    Millis::try_from(time.as_millis()).unwrap_or(Millis::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_comes_as_text_or_as_bytes_and_is_absolute() {
        let query = |path: Option<&str>, bytes: Option<&str>| {
            Query { path: path.map(str::to_owned), bytes: bytes.map(str::to_owned) }.path().ok()
        };
        assert_eq!(query(Some("/a/é"), None), Some("/a/é".into()));
        let bytes = query(None, Some("2f61ff")).unwrap();
        assert_eq!(bytes.as_os_str().as_encoded_bytes(), b"/a\xff");
        for (path, bytes) in [(None, None), (Some("/a"), Some("2f61")), (Some("a"), None), (None, Some("2f6"))] {
            assert_eq!(query(path, bytes), None, "{path:?} {bytes:?}");
        }
    }

    #[test]
    fn the_nearest_folders_are_named_first() {
        let folders = ["/srv/a", "/data/x/y", "/data/x"].map(Path::new);
        assert_eq!(nearest(Path::new("/data/x/z"), folders.into_iter()), ["/data/x/y", "/data/x", "/srv/a"]);
    }
}
