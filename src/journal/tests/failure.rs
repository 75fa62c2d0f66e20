//! A disk that fails, panics below us, or does not answer.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU32};

use super::*;

/// A disk that does not answer while `stall` is set.
fn stalled(stall: &AtomicBool, file: &File) -> io::Result<()> {
    while stall.load(SeqCst) {
        thread::sleep(Duration::from_millis(1));
    }
    file.sync_data()
}

#[tokio::test]
async fn after_a_failed_commit_nothing_is_accepted_and_the_daemon_is_told() {
    // The first use is the opening's own.
    static SYNCS: AtomicU32 = AtomicU32::new(0);
    let dir = TempDir::new().unwrap();
    let fail_third = |file: &File| match SYNCS.fetch_add(1, SeqCst) {
        2 => Err(io::Error::other("the disk is gone")),
        _ => file.sync_data(),
    };
    let (journal, _) = Journal::open_with(dir.path(), fail_third, LONG).unwrap();
    apply(&journal, "a", admit(1, 1)).await.unwrap();

    let ApplyError::Failed(failure) = apply(&journal, "b", admit(1, 1)).await.unwrap_err() else { panic!() };
    assert!(matches!(&failure, Failure::Write { message, .. } if message.contains("the disk is gone")));
    assert_eq!(timeout(LONG, journal.failed()).await.unwrap(), failure);
    assert_eq!(apply(&journal, "c", admit(1, 1)).await, Err(ApplyError::Failed(failure.clone())));
    assert_eq!(journal.get(key("a")), Err(failure));
    assert_eq!(journal.totals().admitted, 1, "what is not durable is not counted");
    journal.close().await;
}

#[tokio::test]
async fn a_panic_below_the_writer_is_a_failure() {
    // The first use is the opening's own.
    static SYNCS: AtomicU32 = AtomicU32::new(0);
    let dir = TempDir::new().unwrap();
    let panic_second = |file: &File| match SYNCS.fetch_add(1, SeqCst) {
        0 => file.sync_data(),
        _ => panic!("unheard of"),
    };
    let (journal, _) = Journal::open_with(dir.path(), panic_second, LONG).unwrap();
    let failure = Failure::Panicked { message: "unheard of".to_owned() };
    assert_eq!(apply(&journal, "a", admit(1, 1)).await, Err(ApplyError::Failed(failure.clone())));
    assert_eq!(timeout(LONG, journal.failed()).await.unwrap(), failure);
}

#[tokio::test]
async fn an_overdue_commit_is_a_failure_even_if_nobody_waits_for_it() {
    static STALL: AtomicBool = AtomicBool::new(false);
    let dir = TempDir::new().unwrap();
    let deadline = Duration::from_millis(300);
    let (journal, _) = Journal::open_with(dir.path(), |file| stalled(&STALL, file), deadline).unwrap();
    STALL.store(true, SeqCst);
    let call = journal.apply(key("a"), Path::new("a"), admit(1, 1));
    // Long enough to hand it over, then the caller goes away.
    let _ = timeout(Duration::from_millis(50), call).await;
    let failure = timeout(LONG, journal.failed()).await.unwrap();
    assert!(matches!(failure, Failure::Overdue { .. }));
    STALL.store(false, SeqCst);
    assert_eq!(apply(&journal, "b", admit(1, 1)).await, Err(ApplyError::Failed(failure)));
}

#[tokio::test]
async fn a_caller_is_told_of_its_overdue_commit() {
    static STALL: AtomicBool = AtomicBool::new(false);
    let dir = TempDir::new().unwrap();
    let deadline = Duration::from_millis(50);
    let (journal, _) = Journal::open_with(dir.path(), |file| stalled(&STALL, file), deadline).unwrap();
    STALL.store(true, SeqCst);
    let failed = apply(&journal, "a", admit(1, 1)).await;
    assert!(matches!(failed, Err(ApplyError::Failed(Failure::Overdue { .. }))));
    STALL.store(false, SeqCst);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_read_shows_what_is_not_durable() {
    static STALL: AtomicBool = AtomicBool::new(false);
    let stalling = |file: &File| stalled(&STALL, file);
    let dir = TempDir::new().unwrap();
    let (journal, _) = Journal::open_with(dir.path(), stalling, LONG).unwrap();
    let old = apply(&journal, "old", admit(1, 1)).await.unwrap();

    STALL.store(true, SeqCst);
    let writing = tokio::spawn({
        let journal = journal.clone();
        async move {
            let events = [("old", Event::Claim { at: 2 }), ("new", admit(1, 1))];
            let events = events.map(|(path, event)| (key(path), PathBuf::from(path), event));
            journal.apply_all(events.to_vec()).await
        }
    });
    let in_tree = || journal.inner.shared.read(|store, _| Ok(store.record(key("new"))?.is_some())).unwrap();
    while !in_tree() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(journal.get(key("new")).unwrap(), None);
    assert_eq!(journal.get(key("old")).unwrap(), Some(old.clone()));
    assert_eq!(journal.jobs(watch_id(), None, 9).unwrap(), [(key("old"), old)]);
    assert_eq!(journal.due(watch_id(), 0, 9, 9).unwrap(), [], "what is about to change is nobody's to claim");
    assert_eq!(journal.totals().admitted, 1);
    assert!(!writing.is_finished());

    STALL.store(false, SeqCst);
    writing.await.unwrap().unwrap();
    assert_eq!(journal.get(key("old")).unwrap().unwrap().state, JobState::Sending);
    assert_eq!(journal.next_due(watch_id(), 0).unwrap(), Some(1));
    assert_eq!(journal.totals().admitted, 2);
}
