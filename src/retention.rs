//! What the journal may forget: files that came to their end long ago and are gone.
//!
//! A record of a file that still stands there is what keeps it from being sent again, so it stays, however old. Of files
//! that are gone it only serves those who ask what became of them: for `state.finished_retention`, and never for more than
//! a bounded number. A file counts as gone only where that is known: its folder is the one it was in, and can be read.
//!
//! It decides nothing about files: what may be forgotten is decided by the job table.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use crate::blocking::blocking;
use crate::clock::unix_millis;
use crate::config::Config;
use crate::folder::Folder;
use crate::identity::Identity;
use crate::job::{Event, FileKey, Job, JobState, Millis};
use crate::journal::{ApplyError, Failure, Journal};
use crate::sidecar;

/// Records of absent files of one watch that are kept at most; the oldest go first, however young they are.
pub const MAX_ABSENT: usize = 200_000;
/// Time from the start to the first round: the folders are to be opened and looked through by then.
const FIRST: Duration = Duration::from_secs(300);
/// Time between two rounds.
const INTERVAL: Duration = Duration::from_secs(3600);
/// Records looked at in one go, and the pause after them: a round of a million takes a minute and never a core.
const STEP: usize = 512;
const PAUSE: Duration = Duration::from_millis(20);

/// Forgets regularly what may be forgotten, of the watches that there are then. Returns when the journal fails.
pub async fn regularly(
    running: impl Fn() -> (Arc<Config>, Vec<Arc<Folder>>) + Send,
    journal: Journal,
    identity: Arc<Identity>,
) -> Failure {
    let mut wait = FIRST;
    loop {
        tokio::time::sleep(wait).await;
        wait = INTERVAL;
        let (config, folders) = running();
        for folder in folders {
            match round(&folder, &journal, &identity, config.state.finished_retention, MAX_ABSENT).await {
                Ok(0) => {}
                Ok(forgotten) => tracing::info!(
                    watch = %folder.watch.name, forgotten,
                    "records of files that are over and gone were forgotten"
                ),
                Err(failure) => return failure,
            }
        }
    }
}

/// Forgets what may be forgotten of one watch: what is older than `retention`, and beyond `most` absent files the oldest.
/// Returns how many records went.
pub async fn round(
    folder: &Arc<Folder>,
    journal: &Journal,
    identity: &Arc<Identity>,
    retention: Duration,
    most: usize,
) -> Result<u64, Failure> {
    let now = unix_millis();
    let before = now.saturating_sub(u64::try_from(retention.as_millis()).unwrap_or(Millis::MAX));
    let mut forgotten = 0;
    // The youngest absent ones so far, the oldest of them on top.
    let mut kept: BinaryHeap<Reverse<(Millis, FileKey)>> = BinaryHeap::new();
    let mut after = None;
    loop {
        let (reader, looked, known_as) = (journal.clone(), folder.clone(), identity.clone());
        let page = blocking(move || {
            let page = reader.jobs(looked.watch.id, after, STEP)?;
            let last = page.last().map(|(key, _)| *key);
            let over = page.into_iter().filter(|(_, job)| is_over(job));
            let seen = over.map(|(key, job)| {
                // Only of what is old enough is it worth a look at the disk.
                let gone = !job.absent && ended_at(&job) < before && is_gone(&looked, &known_as, &job);
                (key, job, gone)
            });
            let seen: Vec<_> = seen.collect();
            Ok::<_, Failure>((seen, last))
        });
        let (seen, last) = page.await?;
        let Some(last) = last else { return Ok(forgotten) };
        after = Some(last);
        let (mut gone, mut prunable) = (Vec::new(), Vec::new());
        for (key, job, is_gone) in seen {
            let at = ended_at(&job);
            if is_gone {
                prunable.push(key);
                gone.push((key, job));
            } else if job.absent || job.state == JobState::Vanished {
                if at < before {
                    prunable.push(key);
                    continue;
                }
                kept.push(Reverse((at, key)));
                if kept.len() > most {
                    prunable.extend(kept.pop().map(|Reverse((_, key))| key));
                }
            }
        }
        // One that came back in the meantime has a record of another generation, and is not gone.
        let told = gone.iter().map(|(key, job)| journal.apply_if(*key, &job.path, job.generation, Event::Gone));
        for outcome in join_all(told).await {
            if let Err(ApplyError::Failed(failure)) = outcome {
                return Err(failure);
            }
        }
        forgotten += journal.prune(&prunable).await?;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether a record could ever be forgotten.
fn is_over(job: &Job) -> bool {
    matches!(job.state, JobState::Done | JobState::Failed | JobState::Ignored | JobState::Vanished)
}

/// When a job came to its end, as far as its record tells.
fn ended_at(job: &Job) -> Millis {
    job.last_attempt_at.unwrap_or(job.admitted_at).max(job.admitted_at)
}

/// Whether it is known that the file is gone. Blocks.
fn is_gone(folder: &Folder, identity: &Identity, job: &Job) -> bool {
    let id = || identity.object_id(&folder.watch.name, &job.path);
    folder.root().is_some_and(|root| sidecar::is_gone(&root, &job.path, id())) && folder.can_tell(job)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;
    use crate::folder::Availability;
    use crate::fs::Root;
    use crate::job::Generation;
    use std::path::Path;

    /// A watch with an open root, and a journal.
    async fn world() -> (tempfile::TempDir, Arc<Folder>, Journal, Arc<Identity>) {
        let dir = tempfile::tempdir().unwrap();
        let inbox = dir.path().join("in");
        std::fs::create_dir(&inbox).unwrap();
        let text = format!(
            "[server]\nuri = \"http://127.0.0.1\"\n[pipelines.p]\nfile = \"p.pipe\"\n[[watch]]\npath = {:?}\npipeline = \"p\"\n",
            inbox.display().to_string()
        );
        let config = Config::parse(&text, Path::new("/etc/config.toml"), &Environment::default()).unwrap();
        let (folder, _) = Folder::new(config.watches[0].clone());
        let root = Arc::new(Root::open(&inbox).unwrap());
        folder.opened(&root, 1);
        folder.set_availability(Availability::Open(root));
        let state = dir.path().join("state");
        let opened = state.clone();
        let journal = blocking(move || Journal::open(&opened)).await.unwrap().0;
        let identity = Arc::new(Identity::load(&state, None, false).unwrap());
        (dir, folder, journal, identity)
    }

    /// A delivered file that was admitted at this time.
    async fn delivered(folder: &Folder, journal: &Journal, name: &str, at: Millis) -> FileKey {
        let path = Path::new(name);
        let key = FileKey::new(folder.watch.id, path);
        let generation = Generation { ino: Some(1), size: 1, mtime_ns: 1, ctime_ns: Some(1) };
        let sidecar = format!("{name}.result.json");
        let adopt = Event::Adopt { generation, sha256: [1; 32], sidecar, post_action: false, at };
        journal.apply(key, path, adopt).await.unwrap();
        key
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn only_what_is_old_and_gone_is_forgotten() {
        let (dir, folder, journal, identity) = world().await;
        let now = unix_millis();
        let old_gone = delivered(&folder, &journal, "old-gone", now - 100_000).await;
        let old_here = delivered(&folder, &journal, "old-here", now - 100_000).await;
        let young_gone = delivered(&folder, &journal, "young-gone", now - 1_000).await;
        std::fs::write(dir.path().join("in/old-here"), "x").unwrap();
        // In the middle of a move, which may be taken back.
        let old_hidden = delivered(&folder, &journal, "old-hidden", now - 100_000).await;
        let hidden = sidecar::hidden_name(identity.object_id(&folder.watch.name, Path::new("old-hidden")));
        std::fs::write(dir.path().join("in").join(hidden), "x").unwrap();
        let retention = Duration::from_secs(50);
        assert_eq!(round(&folder, &journal, &identity, retention, 10).await.unwrap(), 1);
        assert!(journal.get(old_gone).unwrap().is_none());
        assert!(journal.get(old_here).unwrap().is_some(), "it would be sent again");
        assert!(journal.get(old_hidden).unwrap().is_some_and(|job| !job.absent), "it would be sent again, too");
        assert!(journal.get(young_gone).unwrap().is_some(), "somebody may ask for it");
        assert!(journal.counters(folder.watch.id).balanced());
        assert_eq!(journal.counters(folder.watch.id).pruned, 1);
        journal.close().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_folder_that_cannot_be_looked_at_keeps_its_records() {
        let (_dir, folder, journal, identity) = world().await;
        let key = delivered(&folder, &journal, "old-gone", 5).await;
        folder.set_availability(Availability::Unavailable("unmounted".into()));
        assert_eq!(round(&folder, &journal, &identity, Duration::from_secs(50), 10).await.unwrap(), 0);
        assert!(journal.get(key).unwrap().is_some());
        journal.close().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_absent_files_no_more_than_the_bound_is_known() {
        let (_dir, folder, journal, identity) = world().await;
        let now = unix_millis();
        let mut keys = Vec::new();
        for n in 0..20_u64 {
            let key = delivered(&folder, &journal, &format!("f{n}"), now - 1_000 + n).await;
            journal.apply(key, Path::new(&format!("f{n}")), Event::Gone).await.unwrap();
            keys.push(key);
        }
        assert_eq!(round(&folder, &journal, &identity, Duration::from_secs(3600), 5).await.unwrap(), 15);
        let known = keys.iter().map(|key| journal.get(*key).unwrap().is_some());
        assert_eq!(known.collect::<Vec<_>>(), (0..20).map(|n| n >= 15).collect::<Vec<_>>(), "the youngest");
        journal.close().await;
    }
}
