//! The bounds of the spool, and whom it trusts.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use super::*;
use crate::clock::rfc3339;
use crate::job::Generation;
use crate::sidecar::{About, ResultFile, SCHEMA_VERSION};

fn open(dir: &Path, max_spool: u64) -> Spool {
    let state = State { directory: dir.to_owned(), min_free: 0, max_spool, finished_retention: Duration::MAX };
    let identity = Identity { instance: "inst".into(), uid: rustix::process::geteuid().as_raw() };
    Spool::open(&state, Arc::new(identity)).unwrap()
}

/// A result of ours.
fn result(id: Uuid, instance: &str) -> Vec<u8> {
    let about = About {
        schema_version: SCHEMA_VERSION,
        generation: Generation { ino: Some(1), size: 3, mtime_ns: 1, ctime_ns: None },
        object_id: id,
        instance: instance.into(),
        pipeline: "p".into(),
        watch: "w".into(),
        attempts: 1,
    };
    serde_json::to_vec(&ResultFile {
        action: "complete",
        filepath: "/in/a.txt".into(),
        bytes_sent: 3,
        file_size: 3,
        upload_time: 0.1,
        result: &serde_json::json!({}),
        sha256: hex::encode([7; 32]),
        text_sha256: None,
        about,
        completed_at: rfc3339(1),
        warnings: vec!["careful".into()],
    })
    .unwrap()
}

/// A result of ours of so many bytes.
fn sized(id: Uuid, size: usize) -> Vec<u8> {
    let mut content = result(id, "inst");
    content.resize(size, b' ');
    content
}

fn bytes(spool: &Spool) -> u64 {
    spool.lock().bytes
}

#[test]
fn what_is_put_is_read_back_also_after_a_restart_until_it_is_removed() {
    let temp = tempfile::tempdir().unwrap();
    let id = Uuid::new_v4();
    let content = result(id, "inst");
    let spool = open(temp.path(), 1 << 20);
    spool.put(id, &content).unwrap();
    assert_eq!(std::fs::metadata(temp.path().join("spool")).unwrap().mode() & 0o777, 0o700);
    assert_eq!(std::fs::metadata(spool.path_of(id)).unwrap().mode() & 0o777, 0o600);
    drop(spool);
    let spool = open(temp.path(), 1 << 20);
    assert_eq!((spool.ids(), bytes(&spool)), (vec![id], content.len() as u64));
    let whole = spool.read(id).unwrap().unwrap();
    assert_eq!((whole.content, whole.sha256, whole.watch.as_str()), (content, [7; 32], "w"));
    assert_eq!((whole.filepath.as_path(), whole.warning.as_deref()), (Path::new("/in/a.txt"), Some("careful")));
    spool.remove(id).unwrap();
    spool.remove(id).unwrap();
    assert_eq!((spool.has(id), bytes(&spool), spool.read(id).unwrap()), (false, 0, None));
    assert!(open(temp.path(), 1 << 20).ids().is_empty());
}

#[test]
fn what_is_no_directory_is_no_spool_and_stays_as_it_is() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("spool");
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    let state =
        State { directory: temp.path().to_owned(), min_free: 0, max_spool: 1, finished_retention: Duration::MAX };
    let identity = Identity { instance: "inst".into(), uid: rustix::process::geteuid().as_raw() };
    let error = Spool::open(&state, Arc::new(identity)).unwrap_err().to_string();
    assert!(error.contains("/spool: Not a directory"), "{error}");
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
}

#[test]
fn its_bytes_are_bounded_and_counted_exactly() {
    let temp = tempfile::tempdir().unwrap();
    let spool = open(temp.path(), 2500);
    let (a, b) = (Uuid::new_v4(), Uuid::new_v4());
    spool.put(a, &sized(a, 1000)).unwrap();
    spool.put(a, &sized(a, 900)).unwrap();
    assert_eq!(bytes(&spool), 900, "replaced");
    let full = spool.put(b, &sized(b, 1601)).unwrap_err();
    assert!(full.kind() == io::ErrorKind::StorageFull && full.to_string().contains("max_spool"), "{full}");
    assert_eq!((bytes(&spool), spool.has(b), std::fs::read_dir(spool.path()).unwrap().count()), (900, false, 1));
    spool.put(b, &sized(b, 1600)).unwrap();
    assert_eq!(bytes(&spool), 2500);
    spool.remove(a).unwrap();
    assert_eq!(bytes(&spool), 1600);
    drop(spool);
    let spool = open(temp.path(), 1000);
    assert_eq!(bytes(&spool), 1600, "what is there counts, whatever the bound is now");
    assert!(spool.put(b, &result(b, "inst")).is_err());
    assert!(spool.has(b), "a refused replacement leaves what was there");
}

#[test]
fn a_spool_of_no_bytes_takes_nothing() {
    let temp = tempfile::tempdir().unwrap();
    assert!(open(temp.path(), 0).put(Uuid::nil(), b"x").is_err());
}

#[test]
fn what_a_crash_left_half_written_is_swept_and_strangers_are_left_alone() {
    let temp = tempfile::tempdir().unwrap();
    let spool = open(temp.path(), 1 << 20);
    let half = spool.path().join(sidecar::other_temp_name(Uuid::nil()));
    let (id, link) = (Uuid::new_v4(), Uuid::new_v4());
    std::fs::write(&half, "{\"action\":").unwrap();
    std::fs::write(spool.path().join("notes.txt"), "of the operator").unwrap();
    std::fs::write(temp.path().join("target"), result(link, "inst")).unwrap();
    std::os::unix::fs::symlink("../target", spool.path_of(link)).unwrap();
    std::fs::hard_link(temp.path().join("target"), spool.path_of(id)).unwrap();
    let spool = open(temp.path(), 1 << 20);
    assert!(!half.exists() && spool.ids().is_empty());
    assert_eq!(spool.strange(), 3);
    for id in [id, link] {
        assert_eq!(spool.read(id).unwrap(), None);
        let taken = spool.put(id, &result(id, "inst")).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists, "a stranger's file is not overwritten");
    }
    assert_eq!(std::fs::read(temp.path().join("target")).unwrap(), result(link, "inst"));
    assert_eq!(std::fs::read_dir(spool.path()).unwrap().count(), 3, "nothing half written stays");
    assert_eq!(bytes(&spool), 15 + result(id, "inst").len() as u64);
}

#[test]
fn only_a_result_of_this_instance_about_the_object_of_its_name_is_trusted() {
    let temp = tempfile::tempdir().unwrap();
    let id = Uuid::new_v4();
    open(temp.path(), 1 << 20).put(id, &result(id, "inst")).unwrap();
    let spool = open(temp.path(), 1 << 20);
    let trusted = |content: &[u8]| {
        std::fs::write(spool.path_of(id), content).unwrap();
        let taken = spool.put(id, &result(id, "inst")).is_err();
        assert_eq!(spool.read(id).unwrap().is_none(), taken, "what is not ours is not overwritten");
        spool.remove(id).unwrap();
        assert_eq!(spool.path_of(id).exists(), taken, "nor removed");
        !taken
    };
    assert!(!trusted(&result(id, "another")));
    assert!(!trusted(&result(Uuid::new_v4(), "inst")));
    assert!(!trusted(b"{}"));
    let text = String::from_utf8(result(id, "inst")).unwrap();
    for (from, to) in [
        ("\"schema_version\":1", "\"schema_version\":2"),
        ("complete", "error"),
        ("\"sha256\":\"07", "\"sha256\":\"zz"),
    ] {
        assert!(!trusted(text.replace(from, to).as_bytes()), "{to}");
    }
    assert!(trusted(text.as_bytes()));
}

#[test]
fn one_that_was_removed_by_hand_is_not_counted_any_more() {
    let temp = tempfile::tempdir().unwrap();
    let spool = open(temp.path(), 1 << 20);
    spool.put(Uuid::nil(), b"x").unwrap();
    std::fs::remove_file(spool.path_of(Uuid::nil())).unwrap();
    assert_eq!(spool.read(Uuid::nil()).unwrap(), None);
    assert_eq!((spool.has(Uuid::nil()), bytes(&spool)), (false, 0));
}
