//! The journal's files damaged in every way that was seen, and a host that does not let it be opened: the daemon starts
//! or says why not, nothing is lost, and nothing that is finished is sent again.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use rocketride_ingest::sandbox::Sandbox;

use crate::harness::{Host, engine, read_json, result_path};

/// Long paths fill several segments of the database.
const FILES: usize = 250;

/// Damages a state directory.
type Damage = fn(&Path);

/// What then becomes of the journal.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    /// Every record is there.
    Kept,
    /// It is put aside, and an empty one begun.
    PutAside,
    /// The one or the other: what was hit may have been written again elsewhere since.
    Either,
    /// There is nothing to put aside.
    Gone,
}
use Fate::{Either, Gone, Kept, PutAside};

/// What is done, what becomes of the journal, and how it is done.
const OF_THE_DATABASE: &[(&str, Fate, Damage)] = &[
    ("nothing", Kept, |_| {}),
    ("garbage in most of it", PutAside, |state| {
        let length = fs::metadata(database(state)).unwrap().len();
        overwrite(state, 1, 16, &garbage(usize::try_from(length * 7 / 8).unwrap()));
    }),
    ("garbage in the middle", Either, |state| overwrite(state, 1, 4, &garbage(400_000))),
    ("garbage at the beginning", Either, |state| overwrite(state, 0, 1, &garbage(4096))),
    ("a segment twice", PutAside, |state| {
        let mut segment = vec![0; 512 * 1024];
        let file = fs::File::options().read(true).write(true).open(database(state)).unwrap();
        file.read_exact_at(&mut segment, 0).unwrap();
        file.write_all_at(&segment, segment.len() as u64).unwrap();
    }),
    ("a zeroed page at the beginning", Either, |state| overwrite(state, 0, 1, &[0; 4096])),
    ("zeroed pages in the middle", Either, |state| overwrite(state, 1, 3, &[0; 65536])),
    ("a cut near the beginning", PutAside, |state| cut(state, 1)),
    ("a cut in the middle", PutAside, |state| cut(state, 5)),
    ("a cut near the end", Either, |state| cut(state, 9)),
    ("an emptied file", PutAside, |state| cut(state, 0)),
    ("a removed file", PutAside, |state| fs::remove_file(database(state)).unwrap()),
];

/// As [`OF_THE_DATABASE`], of what stands beside its file.
const AROUND_THE_DATABASE: &[(&str, Fate, Damage)] = &[
    ("a removed directory", Gone, |state| fs::remove_dir_all(state.join("journal")).unwrap()),
    ("no `conf`", Kept, |state| fs::remove_file(state.join("journal/conf")).unwrap()),
    ("garbage in `conf`", Either, |state| fs::write(state.join("journal/conf"), garbage(80)).unwrap()),
    ("an unfinished snapshot", Kept, |state| {
        fs::write(state.join("journal/snap.00000000000012AB.generating"), "half of").unwrap();
    }),
    ("garbage for a snapshot", Either, |state| {
        fs::write(state.join("journal/snap.00000000000012AB"), garbage(5000)).unwrap();
    }),
    ("a stray large value", Kept, |state| fs::write(state.join("journal/blobs/4711"), garbage(2000)).unwrap()),
    ("no `blobs`", Kept, |state| fs::remove_dir_all(state.join("journal/blobs")).unwrap()),
    ("no second identity", Kept, |state| fs::remove_file(state.join("journal.id")).unwrap()),
    ("an unreadable second identity", Kept, |state| fs::write(state.join("journal.id"), garbage(40)).unwrap()),
    ("an unreadable format", Kept, |state| fs::write(state.join("journal.format"), garbage(40)).unwrap()),
    ("an unreadable sequence", Kept, |state| fs::write(state.join("journal.sequence"), garbage(40)).unwrap()),
    ("a mark of another journal", Kept, |state| fs::write(state.join("journal.suspect"), "1 2 3.000000004").unwrap()),
];

fn database(state: &Path) -> PathBuf {
    state.join("journal/db")
}

fn garbage(length: usize) -> Vec<u8> {
    (0..length).map(|n| u8::try_from(n * 31 % 251).unwrap()).collect()
}

/// Overwrites the database from `part / whole` of its length on.
fn overwrite(state: &Path, part: u64, whole: u64, bytes: &[u8]) {
    let file = fs::File::options().write(true).open(database(state)).unwrap();
    let length = file.metadata().unwrap().len();
    file.write_all_at(bytes, length * part / whole).unwrap();
}

fn cut(state: &Path, tenths: u64) {
    let file = fs::File::options().write(true).open(database(state)).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(length * tenths / 10).unwrap();
}

/// A host whose files are all delivered, and its engine.
async fn finished() -> (Host, Sandbox) {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    host.edit_config("max = \"1s\"", "max = \"60s\"");
    (0..FILES).for_each(|n| drop(host.write(input(n), format!("content of file {n}"))));
    let (code, _, stderr) = host.output(&["run", "--once"]);
    assert_eq!((code, engine.delivered()), (0, FILES as u64), "{stderr}");
    (host, engine)
}

fn input(n: usize) -> PathBuf {
    let folders = ["f", "g", "h"].map(|letter| letter.repeat(220));
    PathBuf::from_iter(["in".into(), folders.join("/"), format!("{n}.txt")])
}

fn put_aside(host: &Host) -> usize {
    let entries = fs::read_dir(host.path("state")).unwrap();
    entries.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("corrupt")).count()
}

fn copy(from: PathBuf, to: PathBuf) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_damaged_in_the_database_nothing_is_lost_and_nothing_finished_is_sent_again() {
    let panics = nothing_is_lost_and_nothing_sent_again(OF_THE_DATABASE).await;
    assert!(panics.contains("a segment twice"), "the database panics, and that is logged like everything else");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_damaged_around_the_database_nothing_is_lost_and_nothing_finished_is_sent_again() {
    nothing_is_lost_and_nothing_sent_again(AROUND_THE_DATABASE).await;
}

/// The damages that made the database panic.
async fn nothing_is_lost_and_nothing_sent_again(damages: &[(&'static str, Fate, Damage)]) -> BTreeSet<&'static str> {
    let (host, engine) = finished().await;
    let length = fs::metadata(database(&host.path("state"))).unwrap().len();
    assert!(length > 1_000_000, "{length} bytes are but one segment of the database");
    copy(host.path("state"), host.path("healthy"));
    let (mut sent, mut panics) = (FILES as u64, BTreeSet::new());
    for (what, fate, damage) in damages {
        fs::remove_dir_all(host.path("state")).unwrap();
        copy(host.path("healthy"), host.path("state"));
        damage(&host.path("state"));
        let later = host.write(format!("in/after {what}.txt"), *what);
        let (code, _, log) = host.output(&["run", "--once"]);
        assert_eq!(code, 0, "{what}:\n{log}");
        let kept = log.contains(&format!("\"records\":{FILES},"));
        match (put_aside(&host), kept) {
            (0, true) => assert!([Kept, Either].contains(fate), "{what}:\n{log}"),
            (1, false) => assert!([PutAside, Either].contains(fate), "{what}:\n{log}"),
            (moved, _) => assert!(moved == 0 && *fate == Gone, "{what}: {moved} moved\n{log}"),
        }
        sent += 1;
        assert_eq!(engine.delivered(), sent, "{what}: only what is new is sent");
        assert!(read_json(&result_path(&later)).is_some(), "{what}");
        for line in log.lines() {
            let line: serde_json::Value =
                serde_json::from_str(line).unwrap_or_else(|_| panic!("{what}: a line past the log: {line}"));
            if line["message"].as_str().unwrap().starts_with("a panic") {
                assert!(line["location"].as_str().unwrap().contains("sled"), "{line}");
                assert_eq!(line["thread"], "journal-open", "{line}");
                panics.insert(*what);
            }
        }
    }
    assert!((0..FILES).all(|n| read_json(&result_path(&host.path(input(n)))).is_some()));
    panics
}

/// What a start says that this host does not let have the journal.
fn refused(host: &Host, output: &std::process::Output, path: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(path), "the error names {path}: {said}");
    assert_eq!(put_aside(host), 0, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_may_not_be_read_is_healthy() {
    let (host, engine) = finished().await;
    // The database does not say which of its files it was, so the error names their directory.
    let cases = [
        ("state/journal/db", 0o600, "state/journal"),
        ("state/journal", 0o700, "state/journal"),
        ("state/lock", 0o600, "state/lock"),
        ("state", 0o700, "state/lock"),
    ];
    for (path, mode, named) in cases {
        fs::set_permissions(host.path(path), fs::Permissions::from_mode(0o0)).unwrap();
        let command = host.command(&["run", "--once"]);
        let output = if fs::metadata("/proc/self").unwrap().uid() == 0 {
            host.give_away();
            Host::unprivileged(&command).output().unwrap()
        } else {
            { command }.output().unwrap()
        };
        fs::set_permissions(host.path(path), fs::Permissions::from_mode(mode)).unwrap();
        refused(&host, &output, named);
    }
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    assert_eq!(engine.delivered(), FILES as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_on_a_full_or_read_only_disk_is_healthy() {
    let (host, engine) = finished().await;
    fs::rename(host.path("state"), host.path("healthy")).unwrap();
    fs::create_dir(host.path("state")).unwrap();
    let mount = |options: &str| {
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(host.path("state")).status();
        status.is_ok_and(|status| status.success())
    };
    if !mount("size=8m") {
        eprintln!("skipped: this host does not let the tests mount a filesystem");
        return;
    }
    let _mounted = Unmount(host.path("state"));
    copy(host.path("healthy/."), host.path("state"));
    let ballast = host.path("state/ballast");
    assert!(fs::write(&ballast, vec![1; 16 << 20]).is_err(), "the disk is full");
    let full = host.command(&["run", "--once"]).output().unwrap();
    assert_eq!(put_aside(&host), 0, "{}", String::from_utf8_lossy(&full.stderr));
    if full.status.code() != Some(0) {
        refused(&host, &full, "state");
    }
    fs::remove_file(ballast).unwrap();

    assert!(mount("remount,ro"));
    refused(&host, &host.command(&["run", "--once"]).output().unwrap(), "state/lock");
    assert!(mount("remount,rw"));
    let (code, _, log) = host.output(&["run", "--once"]);
    assert_eq!((code, put_aside(&host), engine.delivered()), (0, 0, FILES as u64), "{log}");
}

/// Takes a mount away, whatever becomes of the test.
struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_finds_no_free_descriptor_is_healthy() {
    let (host, engine) = finished().await;
    let mut refusals = 0;
    for limit in 9..24 {
        let command = host.command(&["run", "--once"]);
        let mut limited = Command::new("prlimit");
        limited.arg(format!("--nofile={limit}")).arg(command.get_program()).args(command.get_args());
        let output = limited.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(put_aside(&host), 0, "{limit} descriptors: {said}");
        if said.contains("cannot open the journal") {
            assert!(said.contains("state") && said.contains("Too many open files"), "{limit} descriptors: {said}");
            assert_eq!(output.status.code(), Some(1), "{said}");
            refusals += 1;
        }
    }
    assert!(refusals > 0, "no limit was low enough for the journal and high enough for what comes before it");
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    assert_eq!(engine.delivered(), FILES as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_of_an_earlier_format_is_copied_before_it_is_taken_over_and_that_is_told() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    let names = host.drop_files("f", 3);
    let daemon = host.start();
    host.all_have_results(&names).await;
    daemon.stop().await;
    host.write("state/journal.format", "1\n");
    let (code, out, err) = host.output(&["journal", "check"]);
    assert!(code == 0 && out.contains("older format 1"), "{code} {out} {err}");

    let daemon = host.start();
    daemon.logged("\"message\":\"ready\"").await;
    let backup = host.path("state/journal.format-1.backup");
    let told = daemon.messages("the journal has an older format and is taken over; it was copied before, for a way back to the earlier version");
    assert!(told.len() == 1 && told[0]["bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{told:?}");
    assert_eq!(told[0]["backup"], backup.to_str().unwrap());
    let (_, out, _) = host.output(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(status["state"]["journal_backups"], serde_json::json!([backup]));
    assert!(host.output(&["status"]).1.contains("as an earlier version left it"));
    daemon.stop().await;
    let (code, out, err) = host.output(&["journal", "check"]);
    assert!(
        code == 0 && out.contains("journal.format-1.backup: ") && !out.contains("older format"),
        "{code} {out} {err}"
    );
    assert_eq!(fs::read_to_string(backup.join("journal.format")).unwrap(), "1\n");
    assert_eq!(engine.delivered(), 3, "nothing was sent again");
}
