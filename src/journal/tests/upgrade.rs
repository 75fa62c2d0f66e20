//! A journal of an earlier format: taken over with a copy, and the way back.

use std::path::PathBuf;
use std::process::Command;

use super::*;
use crate::journal::home::FORMAT;
use crate::journal::open::{self, OpenError};
use crate::journal::record;
use crate::journal::{backups, layout};

/// A state directory whose journal is as the first version left it: no number of the commit in its own row, and none beside
/// it.
async fn of_format_1() -> TempDir {
    let dir = TempDir::new().unwrap();
    let journal = open(&dir);
    for name in ["a", "b", "c"] {
        apply(&journal, name, admit(1, 10)).await.unwrap();
    }
    apply(&journal, "b", Event::Claim { at: 20 }).await.unwrap();
    journal.close().await;
    let db = open::open_db(&dir.path().join("journal")).unwrap();
    let meta = record::decode_meta(&db.get(layout::META).unwrap().unwrap()).unwrap();
    db.insert(layout::META, record::encode_meta_1(&meta)).unwrap();
    db.flush().unwrap();
    drop(db);
    fs::remove_file(dir.path().join("journal.sequence")).unwrap();
    fs::write(dir.path().join("journal.format"), "1\n").unwrap();
    dir
}

fn format(dir: &Path) -> String {
    fs::read_to_string(dir.join("journal.format")).unwrap().trim().to_owned()
}

/// What the first version would find: the database with its own row as that one knows it.
fn is_readable_by_1(dir: &Path) -> bool {
    let db = open::open_db(&dir.join("journal")).unwrap();
    let row = db.get(layout::META).unwrap().unwrap();
    format(dir) == "1" && row[0] == 1
}

fn backup(dir: &TempDir) -> PathBuf {
    dir.path().join("journal.format-1.backup")
}

#[tokio::test]
async fn an_older_journal_is_taken_over_with_all_it_knows_and_copied_before() {
    let dir = of_format_1().await;
    let (journal, opened) = Journal::open(dir.path()).unwrap();
    assert_eq!(opened, Opened { records: 3, quarantined: None, fresh: false });
    assert_eq!(journal.get(key("b")).unwrap().unwrap().state, JobState::Sending);
    apply(&journal, "d", admit(1, 30)).await.unwrap();
    journal.close().await;

    assert_eq!(format(dir.path()), FORMAT.to_string());
    assert!(!is_readable_by_1(dir.path()), "the first version refuses it, by its format");
    assert_eq!(backups(dir.path()), [backup(&dir)]);
    assert!(is_readable_by_1(&backup(&dir)));
    assert_eq!(fs::read(backup(&dir).join("journal.id")).unwrap(), fs::read(dir.path().join("journal.id")).unwrap());
    assert_eq!(fs::metadata(backup(&dir)).unwrap().permissions().mode() & 0o777, 0o700);

    // Later openings make no other one.
    fs::write(backup(&dir).join("mark"), "").unwrap();
    assert_eq!(Journal::open(dir.path()).unwrap().1.records, 4);
    assert!(backup(&dir).join("mark").exists());
}

#[tokio::test]
async fn the_copy_put_back_is_the_journal_of_before_for_either_version() {
    let dir = of_format_1().await;
    let journal = open(&dir);
    apply(&journal, "later", admit(1, 30)).await.unwrap();
    journal.close().await;

    // As it is documented.
    let script = "rm -rf journal journal.id journal.format journal.sequence && cp -a journal.format-1.backup/. .";
    let status = Command::new("sh").args(["-ec", script]).current_dir(dir.path()).status().unwrap();
    assert!(status.success());
    assert!(is_readable_by_1(dir.path()));

    let (journal, opened) = Journal::open(dir.path()).unwrap();
    assert_eq!(opened, Opened { records: 3, quarantined: None, fresh: false });
    assert_eq!(journal.get(key("later")).unwrap(), None);
    journal.close().await;
    assert_eq!(backups(dir.path()).len(), 1, "the later copy takes the place of the earlier one");
}

#[tokio::test]
async fn without_room_for_the_copy_nothing_is_changed_and_it_is_said_what_to_do() {
    let dir = of_format_1().await;
    let mut ways = Ways::usual(File::sync_data);
    ways.free = |_| Ok(1 << 20);
    let error = open::open(dir.path(), &ways).err().unwrap();
    assert!(matches!(error, OpenError::NoRoom { found: 1, free, .. } if free == 1 << 20), "{error}");
    let words = error.to_string();
    assert!(words.contains("journal.format-1.backup") && words.contains("make room"), "{words}");
    assert!(is_readable_by_1(dir.path()));
    assert!(backups(dir.path()).is_empty());
    assert_eq!(Journal::open(dir.path()).unwrap().1.records, 3);
}

#[tokio::test]
async fn what_a_killed_start_left_of_a_copy_is_made_anew() {
    let dir = of_format_1().await;
    let half = dir.path().join("journal.format-1.backup.new/journal");
    fs::create_dir_all(&half).unwrap();
    fs::write(half.join("db"), "half").unwrap();
    assert_eq!(Journal::open(dir.path()).unwrap().1.records, 3);
    assert!(is_readable_by_1(&backup(&dir)));
    assert!(!dir.path().join("journal.format-1.backup.new").exists());
}

#[tokio::test]
async fn a_look_at_an_older_journal_takes_nothing_over() {
    let dir = of_format_1().await;
    assert!(matches!(Journal::look(dir.path()).unwrap(), Looked::Sound { records: 3, older_format: Some(1), .. }));
    assert!(is_readable_by_1(dir.path()));
    assert!(backups(dir.path()).is_empty());
    open(&dir).close().await;
    assert!(matches!(Journal::look(dir.path()).unwrap(), Looked::Sound { older_format: None, .. }));
}
