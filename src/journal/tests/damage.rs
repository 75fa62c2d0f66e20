//! Every kind of damage that was seen: never a wrong journal, never a refusal to start.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;

use super::*;
use crate::journal::check::Content;
use crate::journal::home::{FORMAT, Home};
use crate::journal::open::{Trouble, open_db};
use crate::journal::patience::Patience;

/// Enough for several segments of the database.
const FILES: u64 = 3000;

async fn filled() -> TempDir {
    let dir = TempDir::new().unwrap();
    let journal = open(&dir);
    let events = (0..FILES).map(|n| {
        let path = format!("{n}-{}", "p".repeat(300));
        (key(&path), PathBuf::from(&path), admit(n, n))
    });
    journal.apply_all(events.collect()).await.unwrap();
    journal.close().await;
    dir
}

fn database(dir: &TempDir) -> PathBuf {
    dir.path().join("journal/db")
}

/// Opens after damage: a quarantined journal and an empty one that works, or all of the old one.
async fn assert_quarantined(dir: &TempDir) {
    let (journal, opened) = Journal::open(dir.path()).unwrap();
    let moved = opened.quarantined.expect("the damage must be seen");
    assert!(moved.file_name().unwrap().to_str().unwrap().starts_with("journal.corrupt-2"));
    assert!(moved.is_dir());
    assert_eq!((opened.records, opened.fresh), (0, true));
    assert_eq!(journal.totals(), Counters::default());
    apply(&journal, "a", admit(1, 1)).await.unwrap();
    journal.close().await;
    assert_eq!(Journal::open(dir.path()).unwrap().1, Opened { records: 1, quarantined: None, fresh: false });
}

#[tokio::test]
async fn garbage_in_the_database_is_quarantined() {
    let dir = filled().await;
    let file = OpenOptions::new().write(true).open(database(&dir)).unwrap();
    let length = file.metadata().unwrap().len();
    let garbage: Vec<u8> = (0..length / 2).map(|n| (n * 31 % 251) as u8).collect();
    file.write_all_at(&garbage, length / 4).unwrap();
    assert_quarantined(&dir).await;
}

/// Where the cut leaves only whole commits, the database opens as an earlier, consistent one.
#[tokio::test]
async fn a_truncated_database_is_quarantined_wherever_it_is_cut() {
    for tenths in [1, 3, 5, 7, 8, 9] {
        let dir = filled().await;
        let file = OpenOptions::new().write(true).open(database(&dir)).unwrap();
        let length = file.metadata().unwrap().len();
        file.set_len(length * tenths / 10).unwrap();
        assert_quarantined(&dir).await;
    }
}

#[tokio::test]
async fn an_older_journal_in_the_place_of_a_newer_one_is_quarantined() {
    let dir = filled().await;
    let (journal_dir, backup) = (dir.path().join("journal"), dir.path().join("backup"));
    copy(&journal_dir, &backup);
    let sequence = fs::read(dir.path().join("journal.sequence")).unwrap();
    let journal = open(&dir);
    apply(&journal, "one more", admit(1, 1)).await.unwrap();
    journal.close().await;
    let replace = || {
        fs::remove_dir_all(&journal_dir).unwrap();
        copy(&backup, &journal_dir);
    };

    // Together with the note of its time it is a backup; so it is without any note, or with one that cannot be read.
    for note in [Some(&sequence[..]), None, Some(b"no note")] {
        replace();
        let path = dir.path().join("journal.sequence");
        note.map_or_else(|| fs::remove_file(&path).unwrap(), |note| fs::write(&path, note).unwrap());
        let (journal, opened) = Journal::open(dir.path()).unwrap();
        assert_eq!(opened, Opened { records: FILES, quarantined: None, fresh: false });
        apply(&journal, "one more", admit(1, 1)).await.unwrap();
        journal.close().await;
    }
    replace();
    assert_quarantined(&dir).await;
}

fn copy(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-r").args([from, to]).status().unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn an_emptied_database_is_not_taken_for_a_new_one() {
    let dir = filled().await;
    OpenOptions::new().write(true).open(database(&dir)).unwrap().set_len(0).unwrap();
    assert_quarantined(&dir).await;
}

#[tokio::test]
async fn a_removed_database_is_not_taken_for_a_new_one() {
    let dir = filled().await;
    fs::remove_file(database(&dir)).unwrap();
    assert_quarantined(&dir).await;
}

#[tokio::test]
async fn the_journal_of_another_directory_is_quarantined() {
    let (dir, other) = (filled().await, filled().await);
    fs::remove_dir_all(dir.path().join("journal")).unwrap();
    fs::rename(other.path().join("journal"), dir.path().join("journal")).unwrap();
    assert_quarantined(&dir).await;
}

#[tokio::test]
async fn a_deleted_journal_starts_empty_without_a_quarantine() {
    for keep_directory in [false, true] {
        let dir = filled().await;
        fs::remove_dir_all(dir.path().join("journal")).unwrap();
        if keep_directory {
            fs::create_dir(dir.path().join("journal")).unwrap();
        }
        let (journal, opened) = Journal::open(dir.path()).unwrap();
        assert_eq!(opened, Opened { records: 0, quarantined: None, fresh: true });
        journal.close().await;
        assert!(!Journal::open(dir.path()).unwrap().1.fresh);
    }
}

#[tokio::test]
async fn an_unfinished_snapshot_is_moved_aside() {
    let dir = filled().await;
    fs::write(dir.path().join("journal/snap.00000000000012AB.generating"), b"half of").unwrap();
    let (_journal, opened) = Journal::open(dir.path()).unwrap();
    assert_eq!(opened, Opened { records: FILES, quarantined: None, fresh: false });
    assert!(dir.path().join("journal.unfinished-snapshot").is_file());
}

#[tokio::test]
async fn a_lost_second_identity_is_written_again() {
    for content in [None, Some("")] {
        let dir = filled().await;
        let id = dir.path().join("journal.id");
        let before = fs::read_to_string(&id).unwrap();
        match content {
            None => fs::remove_file(&id).unwrap(),
            Some(text) => fs::write(&id, text).unwrap(),
        }
        let (journal, opened) = Journal::open(dir.path()).unwrap();
        assert_eq!((opened.records, opened.quarantined), (FILES, None));
        assert_eq!(fs::read_to_string(&id).unwrap(), before);
        journal.close().await;
    }
}

#[tokio::test]
async fn a_first_start_that_was_interrupted_is_begun_again() {
    let dir = TempDir::new().unwrap();
    // sled's files are there, our first row is not.
    drop(open_db(&dir.path().join("journal")).unwrap());
    assert_eq!(Journal::open(dir.path()).unwrap().1, Opened { records: 0, quarantined: None, fresh: true });
}

#[tokio::test]
async fn rows_that_contradict_each_other_are_quarantined() {
    type Tamper = fn(&sled::Db);
    let path = format!("7-{}", "p".repeat(300));
    assert_eq!(key(&path), path_seven());
    let tampers: [Tamper; 7] = [
        |db| drop(db.remove(layout::record(path_seven())).unwrap()),
        |db| drop(db.remove(layout::due(path_seven(), 7)).unwrap()),
        |db| drop(db.insert(layout::due(path_seven(), 8), &[]).unwrap()),
        |db| drop(db.insert(layout::continuation(path_seven(), 0), &[1]).unwrap()),
        |db| drop(db.insert(layout::record(path_seven()), &[9, 0, 0, 1]).unwrap()),
        |db| drop(db.insert(b"unknown", &[]).unwrap()),
        |db| drop(db.remove(layout::watch(watch_id())).unwrap()),
    ];
    for tamper in tampers {
        let dir = filled().await;
        let db = open_db(&dir.path().join("journal")).unwrap();
        tamper(&db);
        db.flush().unwrap();
        drop(db);
        assert_quarantined(&dir).await;
    }
}

fn path_seven() -> FileKey {
    key(format!("7-{}", "p".repeat(300)))
}

#[tokio::test]
async fn a_newer_format_is_refused_and_left_alone() {
    let dir = filled().await;
    fs::write(dir.path().join("journal.format"), format!("{}\n", FORMAT + 1)).unwrap();
    let error = Journal::open(dir.path()).err().unwrap();
    assert!(matches!(error, OpenError::NewerFormat { found, .. } if found == FORMAT + 1));
    assert!(error.to_string().contains("install the version that wrote it"));
    // One that cannot be read: the journal's own rows decide.
    fs::write(dir.path().join("journal.format"), "?\n").unwrap();
    assert_eq!(Journal::open(dir.path()).unwrap().1.records, FILES);
}

#[tokio::test]
async fn a_journal_that_this_host_cannot_open_is_not_quarantined() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("journal"), "a file").unwrap();
    let error = Journal::open(dir.path()).err().unwrap();
    assert!(matches!(error, OpenError::Io { .. }));
    assert!(dir.path().join("journal").is_file());

    // A directory in the place of the database's file: the operating system's error, whoever runs the test.
    let dir = filled().await;
    fs::rename(database(&dir), dir.path().join("healthy")).unwrap();
    fs::create_dir(database(&dir)).unwrap();
    assert!(matches!(Journal::open(dir.path()).err().unwrap(), OpenError::Io { .. }));
    fs::remove_dir(database(&dir)).unwrap();
    fs::rename(dir.path().join("healthy"), database(&dir)).unwrap();
    assert_eq!(Journal::open(dir.path()).unwrap().1.records, FILES);
}

/// An opening that gets nowhere until it is released. The damage that makes the database itself spin was not found
/// again: none of some 20,000 random ones does it.
fn stuck(released: &AtomicBool, pause: Duration) -> Result<(sled::Db, Content), Trouble> {
    while !released.load(SeqCst) {
        thread::sleep(pause);
    }
    Err(Trouble::Damage("released".to_owned()))
}

/// Waits for the end of whoever opened the journal in this process.
fn wait_unlocked(dir: &TempDir) {
    let deadline = std::time::Instant::now() + LONG;
    while matches!(Home::lock(dir.path()), Err(OpenError::Locked { .. })) && std::time::Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
}

/// Opens by a way that gets nowhere; then its process ends, as it were.
fn open_stuck(dir: &TempDir, ways: &Ways, released: &AtomicBool) -> OpenError {
    let error = Journal::open_by(dir.path(), ways, LONG).err().unwrap();
    let locked = Journal::open(dir.path()).err().unwrap();
    assert!(matches!(locked, OpenError::Locked { .. }), "whoever is still at it keeps the lock: {locked}");
    released.store(true, SeqCst);
    wait_unlocked(dir);
    error
}

#[tokio::test]
async fn an_opening_without_an_end_is_given_up_and_the_next_start_quarantines() {
    static RELEASED: AtomicBool = AtomicBool::new(false);
    let ways = Ways {
        sync_file: File::sync_data,
        read_all: |_| stuck(&RELEASED, Duration::ZERO),
        patience: |_| Patience { busy: Duration::from_millis(200), total: LONG },
        free: backup::free,
    };
    let dir = filled().await;
    let error = open_stuck(&dir, &ways, &RELEASED);
    assert!(matches!(error, OpenError::Endless { .. }), "{error}");
    assert!(error.to_string().contains("the next start puts it aside"), "{error}");
    let mark = dir.path().join("journal.suspect");
    assert!(mark.is_file() && database(&dir).is_file(), "nothing is moved while somebody has it open");
    let marked = fs::read(&mark).unwrap();

    assert_quarantined(&dir).await;
    assert!(!mark.exists());

    // Killed between the quarantine and the removal of the mark: the new journal is not what it speaks of.
    fs::write(&mark, marked).unwrap();
    wait_unlocked(&dir);
    assert_eq!(Journal::open(dir.path()).unwrap().1, Opened { records: 1, quarantined: None, fresh: false });
    assert!(!mark.exists());
}

#[tokio::test]
async fn a_mark_of_another_journal_than_the_present_one_costs_nothing() {
    let dir = filled().await;
    let mark = dir.path().join("journal.suspect");
    for (text, gone) in [("", false), ("1 2 3.000000004", false), ("1 2 3.000000004", true)] {
        fs::write(&mark, text).unwrap();
        if gone {
            fs::remove_dir_all(dir.path().join("journal")).unwrap();
        }
        let (journal, opened) = Journal::open(dir.path()).unwrap();
        assert_eq!((opened.records, opened.quarantined), (if gone { 0 } else { FILES }, None));
        assert!(!mark.exists());
        journal.close().await;
    }
}

#[tokio::test]
async fn a_disk_that_does_not_answer_costs_no_journal() {
    static RELEASED: AtomicBool = AtomicBool::new(false);
    let ways = Ways {
        sync_file: File::sync_data,
        read_all: |_| stuck(&RELEASED, Duration::from_millis(5)),
        patience: |_| Patience { busy: LONG, total: Duration::from_millis(200) },
        free: backup::free,
    };
    let dir = filled().await;
    let error = open_stuck(&dir, &ways, &RELEASED);
    assert!(matches!(error, OpenError::Unanswered { .. }), "{error}");
    assert!(!dir.path().join("journal.suspect").exists());
    assert_eq!(Journal::open(dir.path()).unwrap().1, Opened { records: FILES, quarantined: None, fresh: false });
}
