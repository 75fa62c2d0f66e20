//! The journal as its callers see it, on real files.

mod crash;
mod damage;
mod failure;
mod model;
mod upgrade;

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::job::JobState;
use tempfile::TempDir;

/// An upper bound for what takes milliseconds on an idle machine.
const LONG: Duration = Duration::from_secs(60);

fn watch_id() -> WatchId {
    WatchId::of("inbox")
}

fn key(path: impl AsRef<Path>) -> FileKey {
    FileKey::new(watch_id(), path.as_ref())
}

fn generation(size: u64) -> Generation {
    Generation { ino: Some(7), size, mtime_ns: 1, ctime_ns: None }
}

fn admit(size: u64, at: Millis) -> Event {
    Event::Admit { generation: generation(size), at }
}

fn delivered() -> Event {
    Event::Delivered { sha256: [1; 32], sidecar: "a.result.json".to_owned(), post_action: false, warning: None }
}

fn open(dir: &TempDir) -> Journal {
    let (journal, opened) = Journal::open(dir.path()).unwrap();
    assert_eq!(opened.quarantined, None);
    journal
}

async fn apply(journal: &Journal, path: &str, event: Event) -> Result<Job, ApplyError> {
    journal.apply(key(path), Path::new(path), event).await
}

#[tokio::test]
async fn what_was_applied_is_there_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let (journal, opened) = Journal::open(dir.path()).unwrap();
    assert_eq!(opened, Opened { records: 0, quarantined: None, fresh: true });
    apply(&journal, "a", admit(1, 10)).await.unwrap();
    apply(&journal, "b", admit(2, 20)).await.unwrap();
    let job = apply(&journal, "a", Event::Claim { at: 30 }).await.unwrap();
    journal.close().await;

    let (journal, opened) = Journal::open(dir.path()).unwrap();
    assert_eq!(opened, Opened { records: 2, quarantined: None, fresh: false });
    assert_eq!(journal.get(key("a")).unwrap(), Some(job));
    let counters = journal.counters(watch_id());
    assert_eq!((counters.admitted, counters.count("pending"), counters.count("sending")), (2, 1, 1));
    assert_eq!(journal.totals(), counters);
    assert_eq!(fs::metadata(dir.path().join("journal")).unwrap().permissions().mode() & 0o777, 0o700);
    journal.close().await;
}

#[tokio::test]
async fn a_refused_event_changes_nothing_and_costs_no_commit() {
    let dir = TempDir::new().unwrap();
    let journal = open(&dir);
    let changes = journal.changes();
    let refused = apply(&journal, "a", Event::Claim { at: 1 }).await.unwrap_err();
    assert_eq!(refused, ApplyError::Refused(Refused { event: "claim", state: "unknown" }));
    assert_eq!((journal.get(key("a")).unwrap(), journal.totals()), (None, Counters::default()));
    assert!(!changes.has_changed().unwrap());
    apply(&journal, "a", admit(1, 1)).await.unwrap();
    assert!(changes.has_changed().unwrap());
}

#[tokio::test]
async fn what_is_pruned_is_gone_with_all_its_rows_and_the_ledger_balances() {
    let dir = TempDir::new().unwrap();
    let journal = open(&dir);
    let long = "long/".repeat(500);
    for path in [&long, "kept"] {
        apply(&journal, path, admit(1, 10)).await.unwrap();
    }
    let keys = [key(&long), key("kept"), key("never seen")];
    assert_eq!(journal.prune(&keys).await.unwrap(), 0, "both are to be sent still");
    apply(&journal, &long, Event::Gone).await.unwrap();
    // In one batch with an event about the same path, or in two: both orders are told by what is there then.
    let (pruned, again) = tokio::join!(journal.prune(&keys), apply(&journal, &long, admit(2, 20)));
    assert_eq!((pruned.unwrap(), again.unwrap().state), (1, JobState::Pending { due: 20 }));
    assert_eq!(journal.get(key(&long)).unwrap().unwrap().generation, generation(2));
    apply(&journal, &long, Event::Gone).await.unwrap();
    assert_eq!(journal.prune(&keys).await.unwrap(), 1);
    assert_eq!(journal.get(key(&long)).unwrap(), None);
    journal.close().await;

    let (journal, opened) = Journal::open(dir.path()).unwrap();
    assert_eq!((opened.records, opened.quarantined), (1, None), "nothing of it is left to contradict the ledger");
    let counters = journal.counters(watch_id());
    assert_eq!((counters.admitted, counters.pruned, counters.balanced()), (3, 2, true));
    journal.close().await;
}

#[tokio::test]
async fn a_worker_cannot_speak_of_a_generation_that_was_replaced() {
    let dir = TempDir::new().unwrap();
    let journal = open(&dir);
    let stale = ApplyError::Stale { event: "claim" };
    let claim = |size| journal.apply_if(key("a"), Path::new("a"), generation(size), Event::Claim { at: 1 });
    assert_eq!(claim(1).await.unwrap_err(), stale, "there is no record");
    apply(&journal, "a", admit(2, 1)).await.unwrap();
    assert_eq!(claim(1).await.unwrap_err(), stale);
    assert_eq!(claim(2).await.unwrap().state, JobState::Sending);
}

#[tokio::test]
async fn many_events_have_each_their_own_outcome_in_their_order() {
    let dir = TempDir::new().unwrap();
    let journal = open(&dir);
    let paths: Vec<String> = (0..GROUP_LIMIT + 10).map(|n| format!("{n}")).collect();
    let events = paths.iter().flat_map(|path| {
        let event = |event| (key(path), PathBuf::from(path), event);
        [event(admit(1, 1)), event(Event::Gone), event(Event::Claim { at: 1 })]
    });
    let outcomes = journal.apply_all(events.collect()).await.unwrap();
    for outcome in outcomes.chunks(3) {
        assert_eq!(outcome[0].as_ref().unwrap().state, JobState::Pending { due: 1 });
        assert_eq!(outcome[1].as_ref().unwrap().state, JobState::Vanished);
        assert_eq!(outcome[2].as_ref().unwrap_err().state, "vanished");
    }
    assert_eq!(journal.totals().count("vanished"), paths.len() as u64);
    assert_eq!(journal.next_due(watch_id(), 0).unwrap(), None);
}

#[tokio::test]
async fn the_due_jobs_of_a_watch_come_oldest_first_and_not_before_their_time() {
    let dir = TempDir::new().unwrap();
    let journal = open(&dir);
    for (path, due) in [("c", 300), ("a", 100), ("b", 200), ("z", u64::MAX)] {
        apply(&journal, path, admit(1, due)).await.unwrap();
    }
    let other = WatchId::of("other");
    journal.apply(FileKey::new(other, Path::new("a")), Path::new("a"), admit(1, 1)).await.unwrap();
    let due = |now, limit| journal.due(watch_id(), 0, now, limit).unwrap();
    assert_eq!(due(250, 9), [(key("a"), 100), (key("b"), 200)]);
    assert_eq!(due(250, 1), [(key("a"), 100)]);
    assert_eq!(due(99, 9), []);
    assert_eq!(due(u64::MAX, 9).len(), 4);
    assert_eq!(journal.next_due(watch_id(), 0).unwrap(), Some(100));
    apply(&journal, "a", Event::Claim { at: 100 }).await.unwrap();
    assert_eq!(journal.next_due(watch_id(), 0).unwrap(), Some(200));
    let retry = Event::Retry { due: 250, error: "no".to_owned(), charged: true };
    apply(&journal, "a", retry).await.unwrap();
    assert_eq!(due(250, 9), [(key("b"), 200), (key("a"), 250)]);
    assert_eq!(journal.next_due(other, 0).unwrap(), Some(1));
}

#[tokio::test]
async fn the_jobs_of_a_watch_come_in_pages() {
    let dir = TempDir::new().unwrap();
    let journal = open(&dir);
    let paths: Vec<String> = (0..25).map(|n| format!("{n}")).collect();
    for path in &paths {
        apply(&journal, path, admit(1, 1)).await.unwrap();
    }
    let other = FileKey { watch: WatchId([0xff; 8]), path: [0; 16] };
    journal.apply(other, Path::new("x"), admit(1, 1)).await.unwrap();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = journal.jobs(watch_id(), after, 10).unwrap();
        assert!(page.len() <= 10);
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        seen.extend(page.into_iter().map(|(key, _)| key));
    }
    let mut expected: Vec<FileKey> = paths.iter().map(key).collect();
    expected.sort();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn at_a_start_interrupted_jobs_are_pending_and_jobs_follow_their_watch() {
    let dir = TempDir::new().unwrap();
    let journal = open(&dir);
    let events = |path: &str, events: Vec<Event>| {
        events.into_iter().map(|event| (key(path), PathBuf::from(path), event)).collect::<Vec<_>>()
    };
    let block = Event::Block { due: 900, error: "no".to_owned() };
    for list in [
        events("pending", vec![admit(1, 5)]),
        events("sending", vec![admit(1, 5), Event::Claim { at: 6 }]),
        events("blocked", vec![admit(1, 5), Event::Claim { at: 6 }, block]),
        events("done", vec![admit(1, 5), Event::Claim { at: 6 }, delivered()]),
        (0..GROUP_LIMIT + 50).flat_map(|n| events(&format!("more{n}"), vec![admit(1, 5)])).collect(),
    ] {
        assert!(journal.apply_all(list).await.unwrap().iter().all(Result::is_ok));
    }
    let waiting = 1 + GROUP_LIMIT as u64 + 50;

    let inbox = [(watch_id(), "inbox".to_owned())];
    let recovered = journal.recover(&inbox, 50).await.unwrap();
    assert_eq!(recovered, Recovered { interrupted: 1, ..Recovered::default() });
    assert_eq!(journal.get(key("sending")).unwrap().unwrap().state, JobState::Pending { due: 50 });
    assert_eq!(journal.watches()[0].1, "inbox");

    let recovered = journal.recover(&[], 60).await.unwrap();
    assert_eq!(recovered, Recovered { parked: waiting + 2, ..Recovered::default() });
    assert_eq!(journal.next_due(watch_id(), 0).unwrap(), None);
    assert_eq!(journal.watches()[0].1, "inbox", "the name of a removed watch is still known");

    let recovered = journal.recover(&inbox, 70).await.unwrap();
    assert_eq!(recovered, Recovered { unparked: waiting + 2, ..Recovered::default() });
    assert_eq!(journal.due(watch_id(), 0, 70, 9999).unwrap().len() as u64, waiting + 2);
    assert_eq!(journal.recover(&inbox, 80).await.unwrap(), Recovered::default());
    assert!(journal.totals().balanced());
}

#[tokio::test]
async fn long_paths_and_errors_make_no_files_beside_the_database() {
    let dir = TempDir::new().unwrap();
    let journal = open(&dir);
    let long: Vec<PathBuf> = (0..40_u8)
        .map(|n| PathBuf::from(OsStr::from_bytes(&[&[b'a' + n % 26, 0xff, n + 1][..], &[b'p'; 4093]].concat())))
        .collect();
    for path in &long {
        journal.apply(key(path), path, admit(1, 1)).await.unwrap();
        journal.apply(key(path), path, Event::Claim { at: 2 }).await.unwrap();
        let retry = Event::Retry { due: 3, error: "é".repeat(50_000), charged: true };
        let job = journal.apply(key(path), path, retry).await.unwrap();
        assert_eq!(job.last_error.as_ref().unwrap().len(), 4096);
        assert_eq!(journal.get(key(path)).unwrap(), Some(job));
        // A shorter record leaves no row of the longer one behind; the check at the opening would find it.
        journal.apply(key(path), path, Event::Claim { at: 4 }).await.unwrap();
        journal.apply(key(path), path, delivered()).await.unwrap();
    }
    journal.close().await;
    assert_eq!(fs::read_dir(dir.path().join("journal/blobs")).unwrap().count(), 0);
    let journal = open(&dir);
    for path in &long {
        assert_eq!(journal.get(key(path)).unwrap().unwrap().path, *path);
    }
}

#[tokio::test]
async fn many_callers_at_once_are_all_answered() {
    let dir = TempDir::new().unwrap();
    let journal = open(&dir);
    let tasks: Vec<_> = (0..300)
        .map(|n| {
            let journal = journal.clone();
            tokio::spawn(async move {
                let path = format!("{n}");
                apply(&journal, &path, admit(1, 1)).await.unwrap();
                apply(&journal, &path, Event::Claim { at: 2 }).await.unwrap();
                apply(&journal, &path, delivered()).await.unwrap()
            })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().state, JobState::Done);
    }
    assert_eq!(journal.totals().count("done"), 300);
}

#[tokio::test]
async fn a_second_daemon_is_refused() {
    let dir = TempDir::new().unwrap();
    let journal = open(&dir);
    let error = Journal::open(dir.path()).err().unwrap();
    assert!(matches!(error, OpenError::Locked { .. }));
    assert_eq!(error.to_string(), format!("another rocketride-ingest runs on {}", dir.path().display()));
    journal.close().await;
    open(&dir);
}

#[tokio::test]
async fn a_closed_journal_says_so_to_every_clone() {
    let dir = TempDir::new().unwrap();
    let journal = open(&dir);
    let clone = journal.clone();
    journal.close().await;
    assert_eq!(clone.get(key("a")), Err(Failure::Closed));
    assert_eq!(apply(&clone, "a", admit(1, 1)).await, Err(ApplyError::Failed(Failure::Closed)));
    clone.close().await;
}
