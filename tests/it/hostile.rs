//! A person who may write into an inbox may be hostile: nothing outside of it is read or written, nothing blocks, no
//! file is suppressed, and no name or word reaches a terminal or a log as anything but text.

use std::ffi::OsStr;
use std::fs::{File, FileTimes, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use rocketride_ingest::sandbox::{Effect, Rule, Sandbox};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags, XattrFlags, mkdirat, openat, renameat_with};
use serde_json::Value;

use crate::harness::{Host, KEY, delivered_as, engine, read_json, result_path, sha256, sibling, wait_for};

/// Names that mean something to a terminal, to a log, to a shell or to a filesystem.
fn names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = [
        "new\nline\r\n.txt",
        "\u{1b}[2J\u{1b}]0;title\u{7}.txt",
        "c1\u{9b}31m.txt",
        "bidi\u{202e}txt.exe",
        "separator\u{2028}.txt",
        "back\\slash.txt",
        "-rf",
        " blank ",
        "{} %s $(id) `id`.txt",
        "\"quoted\".txt",
        // Twins for people, two files for the filesystem.
        "Case.txt",
        "case.txt",
        "e\u{301}.txt",
        "\u{e9}.txt",
    ]
    .map(|name| name.as_bytes().to_vec())
    .to_vec();
    names.extend([b"\xff\xfe.txt".to_vec(), b"\xff\xfd.txt".to_vec(), vec![b'x'; 255], "é".repeat(127).into()]);
    names
}

/// That text is a terminal's and a log's to show: whole lines, nothing that drives anything.
fn assert_plain(text: &[u8], what: &str) {
    let text = String::from_utf8_lossy(text);
    let driving = |c: char| (c.is_control() && c != '\n') || ['\u{202e}', '\u{2028}'].contains(&c);
    if let Some(at) = text.find(driving) {
        let before: String = text[..at].chars().rev().take(200).collect();
        panic!("{what}: {:?} after, backwards, {before:?}", text[at..].chars().take(100).collect::<String>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_name_is_delivered_and_none_drives_a_terminal_or_forges_a_line() {
    let forged = "no \u{1b}[2J\n2026-01-01T00:00:00Z ERROR forged";
    for format in ["pretty", "json"] {
        let (host, engine) = (Host::new(), engine().await);
        host.configure(&engine.uri(), "");
        host.edit_config("format = \"json\"", &format!("format = \"{format}\""));
        host.edit_config("info,rocketride_ingest=debug", "trace");
        engine.faults().add(Rule::close(Effect::NodeError { message: forged.into() }).object("bad*"));
        let inbox = host.inbox();
        for name in names() {
            host.write(inbox.join(OsStr::from_bytes(&name)), &name);
        }
        host.write(inbox.join("bad\n\u{1b}[31m.txt"), "bad");
        // No name is left for this one's result: said in an error.
        let full = "full\u{1b}[31m\nERROR.txt";
        host.write(inbox.join(full), "full");
        for n in 1..=9 {
            use rocketride_ingest::sidecar::{Kind, name_of};
            host.write(inbox.join(name_of(OsStr::new(full), Kind::Result, n)), "somebody's");
        }
        host.write(inbox.join("folder\u{1b}[31m\n/in it.txt"), "in it");
        symlink("/etc/passwd", inbox.join("link\u{1b}[31m\n.txt")).unwrap();
        // Held open: checks tell of it by name.
        let _writer = File::create(inbox.join("open\u{1b}[31m\n")).unwrap();
        std::fs::set_permissions(inbox.join("open\u{1b}[31m\n"), Permissions::from_mode(0o000)).unwrap();

        let (_, out, errors) = host.output(&["check"]);
        assert_plain(out.as_bytes(), "check");
        assert_plain(errors.as_bytes(), "check");
        let daemon = host.start();
        let error_file = inbox.join("bad\n\u{1b}[31m.txt.error.json");
        wait_for("the error file", || error_file.exists()).await;
        daemon.logged("files of others stand at every name").await;
        for name in names() {
            let path = inbox.join(OsStr::from_bytes(&name));
            wait_for("a result", || read_json(&result_path(&path)).is_some_and(|r| r["sha256"] == *sha256(&name)))
                .await;
        }
        assert_plain(&std::fs::read(&error_file).unwrap(), "the error file");
        let log = daemon.log();
        assert_plain(log.as_bytes(), format);
        for line in log.lines() {
            let whole = if format == "json" {
                serde_json::from_str::<Value>(line).is_ok()
            } else {
                line.starts_with("20") && !line.starts_with("2026-01-01T00:00:00Z ERROR forged")
            };
            assert!(whole, "a line of its own making: {line:?}");
        }
        daemon.stop().await;
        let delivered: Vec<_> = engine.deliveries().into_iter().filter(|d| d.error.is_none()).collect();
        assert_eq!(delivered.len(), names().len() + 1);
    }
}

/// Components of 200 bytes: the path grows beyond what any call takes, long before it is too deep.
#[tokio::test(flavor = "multi_thread")]
async fn a_path_longer_than_any_call_takes_holds_up_nothing() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    let component = "d".repeat(200);
    let mut dir = OwnedFd::from(File::open(host.inbox()).unwrap());
    for depth in 0..25 {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        for name in [format!("f{depth}.txt"), format!("{}.txt", "n".repeat(200))] {
            drop(openat(&dir, name, flags, Mode::from_raw_mode(0o644)).unwrap());
        }
        mkdirat(&dir, &component, Mode::from_raw_mode(0o755)).unwrap();
        dir = openat(&dir, &component, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    }
    let (code, out, errors) = host.output(&["run", "--once"]);
    assert_eq!(code, 0, "{out}{errors}");
    // 20 folders and the short name fit into 4095 bytes, or 19 and the long one.
    assert_eq!(engine.delivered(), 21 + 20);
    let (_, out, errors) = host.output(&["check", "--offline"]);
    assert!(out.contains("41 matching files"), "{out}{errors}");
}

/// A folder outside of every inbox: whoever reads a file of it is found out by its access time.
struct Canaries {
    folder: PathBuf,
    names: Vec<String>,
}

const CANARY: &str = "nobody's business but the owner's";

impl Canaries {
    fn plant(folder: PathBuf, names: impl Iterator<Item = String>) -> Self {
        std::fs::create_dir_all(&folder).unwrap();
        let names: Vec<_> = names.collect();
        for name in &names {
            std::fs::write(folder.join(name), CANARY).unwrap();
            // Older than the change: the next read moves it, also where times are kept lazily.
            let times = FileTimes::new().set_accessed(Self::planted());
            File::open(folder.join(name)).unwrap().set_times(times).unwrap();
        }
        Self { folder, names }
    }

    fn planted() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)
    }

    /// That nobody read, changed or sent one of them, and nothing came beside them.
    fn assert_untouched(&self, engine: &Sandbox) {
        for name in &self.names {
            let path = self.folder.join(name);
            let accessed = std::fs::metadata(&path).unwrap().accessed().unwrap();
            assert_eq!(accessed, Self::planted(), "{} was read", path.display());
            assert_eq!(std::fs::read_to_string(&path).unwrap(), CANARY);
        }
        assert!(engine.deliveries().iter().all(|delivery| delivery.sha256 != sha256(CANARY)), "it was sent");
        let there: Vec<_> = std::fs::read_dir(&self.folder).unwrap().collect();
        assert_eq!(there.len(), self.names.len(), "{there:?}");
    }
}

/// Exchanges pairs of names, one after the other, again and again until dropped.
struct Swapper {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<u64>>,
}

impl Swapper {
    fn start(pairs: Vec<(PathBuf, PathBuf)>) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut swaps = 0;
            for (one, other) in pairs.iter().cycle() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                // One may be gone for a moment: the daemon renames too.
                swaps += u64::from(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).is_ok());
                std::thread::sleep(Duration::from_micros(200 + swaps * 37 % 3000));
            }
            swaps
        });
        Self { stop, thread: Some(thread) }
    }

    fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Files and folders of the inbox, and the target of the move, become links to the outside and back all the time.
async fn links_are_swapped_in(after: &str) {
    const FILES: usize = 10;
    let (host, engine) = (Host::new(), engine().await);
    // An upload that was given up counts for a while.
    let limits = "[pipelines.test.limits]\nmax_concurrent_uploads = 1000\n[limits]\nmax_concurrent_uploads = 1000\n";
    host.configure(&engine.uri(), &format!("on_success = {after}\nrescan_interval = \"1s\"\n{limits}"));
    host.edit_config("settle = \"300ms\"", "settle = \"1ms\"");
    host.edit_config("info,rocketride_ingest=debug", "warn");
    let of = |letter: char| (0..FILES).map(move |n| format!("{letter}{n}.txt"));
    let canaries = [
        Canaries::plant(host.path("outside/d"), of('x')),
        Canaries::plant(host.path("outside/f"), of('f')),
        Canaries::plant(host.path("outside/done"), of('x').chain(of('f'))),
    ];
    let place = |name: &str| host.inbox().join(name);
    // Junk by their names: hidden is what is not at its place.
    let mut pairs = vec![];
    for name in of('f') {
        symlink(host.path("outside/f").join(&name), place(&format!(".{name}"))).unwrap();
        pairs.push((place(&name), place(&format!(".{name}"))));
        for folder in ["d", "done"] {
            pairs.push((place(folder), place(&format!(".{folder}"))));
        }
    }
    for folder in ["d", "done"] {
        std::fs::create_dir_all(place(folder)).unwrap();
        symlink(host.path("outside").join(folder), place(&format!(".{folder}"))).unwrap();
    }
    let daemon = host.start();
    let swapper = Swapper::start(pairs);
    for round in 0..200 {
        let content = format!("round {round}");
        // Through whichever of the two is the folder now; never through a link.
        for (folder, name) in [("d", 'x'), (".d", 'x'), (".", 'f')] {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let Ok(dir) = openat(CWD, place(folder), flags, Mode::empty()) else { continue };
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::TRUNC | OFlags::CLOEXEC;
            let name = format!("{name}{}.txt", round % FILES);
            let Ok(file) = openat(&dir, name, flags, Mode::from_raw_mode(0o644)) else { continue };
            std::io::Write::write_all(&mut File::from(file), content.as_bytes()).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    let swaps = swapper.stop();
    assert!(swaps > 200, "links were swapped in: {swaps}");
    host.write("in/last.txt", "last");
    wait_for("the last", || !delivered_as(&engine, "last.txt").is_empty()).await;
    daemon.stop().await;
    assert!(engine.delivered() > 1, "the others got through at times");
    for canaries in &canaries {
        canaries.assert_untouched(&engine);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn links_swapped_in_at_any_moment_lead_nowhere() {
    links_are_swapped_in("\"keep\"").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_swapped_in_lead_no_removal_astray() {
    links_are_swapped_in("\"delete\"").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_swapped_in_lead_no_move_astray() {
    links_are_swapped_in("{ move = \"done\" }").await;
}

/// A result of the daemon's for `genuine.txt`, and what a stranger makes of it for `victim.txt`.
fn forge(host: &Host, genuine: &Value, victim: &Path) -> Value {
    let meta = std::fs::metadata(victim).unwrap();
    let mut forged = genuine.clone();
    forged["filepath"] = victim.to_str().unwrap().into();
    forged["file_size"] = meta.len().into();
    forged["bytes_sent"] = meta.len().into();
    forged["sha256"] = sha256(std::fs::read(victim).unwrap()).into();
    let nanos = |seconds: i64, nanos: i64| seconds * 1_000_000_000 + nanos;
    forged["generation"] = serde_json::json!({
        "ino": meta.ino(), "size": meta.len(), "mtime_ns": nanos(meta.mtime(), meta.mtime_nsec()),
        "ctime_ns": nanos(meta.ctime(), meta.ctime_nsec()),
    });
    assert_eq!(forged.as_object().unwrap().len(), genuine.as_object().unwrap().len(), "{}", host.path("").display());
    forged
}

/// What is forged, and how it is planted at a path.
type Forgery = (&'static str, fn(&Host, &Path, Value));

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_result_suppresses_nothing() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "on_success = \"delete\"");
    host.write("in/genuine.txt", "genuine");
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    let genuine = host.result("genuine.txt").unwrap();

    let forgeries: [Forgery; 6] = [
        ("control", |_, path, forged| std::fs::write(path, forged.to_string()).unwrap()),
        ("owner", |_, path, forged| {
            std::fs::write(path, forged.to_string()).unwrap();
            chown(path, Some(65534), None).unwrap();
        }),
        ("hard link", |host, path, forged| {
            std::fs::write(path, forged.to_string()).unwrap();
            std::fs::hard_link(path, host.path("other name")).unwrap();
        }),
        ("symlink", |host, path, forged| {
            let target = host.write("outside.json", forged.to_string());
            symlink(target, path).unwrap();
        }),
        ("instance", |_, path, mut forged| {
            forged["instance"] = "another".into();
            std::fs::write(path, forged.to_string()).unwrap();
        }),
        ("content", |_, path, mut forged| {
            forged["generation"]["mtime_ns"] = 1.into();
            forged["sha256"] = sha256("other content").into();
            std::fs::write(path, forged.to_string()).unwrap();
        }),
    ];
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can make a file of somebody else's");
        return;
    }
    for (what, plant) in forgeries {
        let before = engine.delivered();
        let victim = host.write(format!("in/{what}.txt"), format!("undelivered: {what}"));
        let forged = forge(&host, &genuine, &victim);
        plant(&host, &sibling(&victim, ".result.json"), forged);
        assert_eq!(host.output(&["run", "--once"]).0, 0);
        assert!(!victim.exists(), "{what}: delivered and removed");
        let suppressed = engine.delivered() == before;
        assert_eq!(suppressed, what == "control", "{what}");
    }
}

const ACL: &str = "system.posix_acl_access";

/// An access control list: the owner all, one more user reads, nobody else anything.
fn list_for(uid: u32) -> Vec<u8> {
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in
        [(1u16, 6u16, u32::MAX), (2, 6, uid), (4, 0, u32::MAX), (0x10, 6, u32::MAX), (0x20, 0, u32::MAX)]
    {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    acl
}

/// Whether a user without any group, or one with this group alone, can read a file.
fn can_read(path: &Path, uid: u32, gid: u32) -> bool {
    let ids = [format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".into()];
    let mut read = Command::new("setpriv");
    read.args(ids).arg("cat").arg(path).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_shows_nothing_to_anybody_who_cannot_read_its_input() {
    const DAEMON: u32 = 65534;
    const READER: u32 = 4001;
    const GROUP: u32 = 5001;
    const FOREIGN: u32 = 5002;
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can make files of other groups");
        return;
    }
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "on_success = { move = \"done\" }");
    let make = |rel: &str, mode: u32, gid: u32| {
        let path = host.write(format!("in/{rel}"), rel);
        chown(&path, Some(DAEMON), Some(gid)).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    };
    host.give_away();
    std::fs::set_permissions(host.path(""), Permissions::from_mode(0o755)).unwrap();
    // Results are made in another group than that of the inputs, and the daemon is in neither.
    chown(host.inbox(), None, Some(FOREIGN)).unwrap();
    std::fs::set_permissions(host.inbox(), Permissions::from_mode(0o2777)).unwrap();
    let mut inputs = vec![];
    for (name, mode) in [("group", 0o640), ("all", 0o644), ("not group", 0o604), ("own", 0o600), ("write", 0o666)] {
        inputs.push(make(name, mode, GROUP));
        inputs.push(make(&format!("{name} of the daemon"), mode, DAEMON));
    }
    // A private folder: what is moved out of it stays private.
    let private = make("private/open.txt", 0o644, GROUP);
    chown(host.path("in/private"), Some(DAEMON), Some(DAEMON)).unwrap();
    std::fs::set_permissions(host.path("in/private"), Permissions::from_mode(0o700)).unwrap();
    // Lists: of one input, and of a folder, which gives them to all that is made in it.
    let listed = make("listed.txt", 0o600, GROUP);
    let lists = rustix::fs::setxattr(&listed, ACL, &list_for(READER), XattrFlags::empty());
    std::fs::create_dir(host.path("in/folder")).unwrap();
    chown(host.path("in/folder"), Some(DAEMON), Some(DAEMON)).unwrap();
    let unlisted = make("folder/unlisted.txt", 0o640, DAEMON);
    let default = "system.posix_acl_default";
    if lists.is_ok() {
        let folder = host.path("in/folder");
        std::fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        rustix::fs::setxattr(&folder, default, &list_for(READER), XattrFlags::empty()).unwrap();
        inputs.extend([listed.clone(), unlisted]);
    } else {
        eprintln!("not tested: this filesystem has no access control lists");
    }
    inputs.push(private);

    let users = [(READER, READER), (READER + 1, GROUP), (READER + 1, FOREIGN), (READER + 1, DAEMON)];
    let readers = |path: &Path| users.map(|(uid, gid)| can_read(path, uid, gid));
    let before: Vec<_> = inputs.iter().map(|path| readers(path)).collect();
    // Nothing moves while it is looked at: the daemon starts now.
    let mut command = Host::unprivileged(&host.command(&["run", "--once"]));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    for (input, before) in inputs.iter().zip(before) {
        let moved = host.path("in/done").join(input.strip_prefix(host.inbox()).unwrap());
        let result = sibling(&moved, ".result.json");
        assert!(result.exists(), "{}", result.display());
        let (input_now, result_now) = (readers(&moved), readers(&result));
        for n in 0..users.len() {
            assert!(before[n] || !input_now[n], "{} can read {} once it is moved", users[n].0, moved.display());
            assert!(before[n] || !result_now[n], "{:?} can read {}", users[n], result.display());
        }
        let mode = std::fs::metadata(&result).unwrap().mode();
        assert_eq!(mode & 0o022, 0, "nobody else writes {}: {mode:o}", result.display());
    }
    let result_of = |name: &str| host.path(format!("in/done/{name}.result.json"));
    assert!(can_read(&result_of("all"), READER, READER), "it is no secret where the input is none");
    assert!(can_read(&result_of("group of the daemon"), READER, DAEMON), "the group of the input reads the result");
    if lists.is_ok() {
        assert!(can_read(&result_of("listed.txt"), READER, READER), "so does who is in its list");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_planted_at_the_temp_files_name_is_neither_followed_nor_overwritten() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    for name in ["link", "folder", "pipe", "file"] {
        host.write(format!("in/{name}"), "first");
    }
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    let outside = host.write("outside", "outside");
    let temp = |name: &str| {
        let id = host.result(name).unwrap()["object_id"].as_str().unwrap().to_owned();
        host.inbox().join(format!(".rri-tmp-{id}"))
    };
    symlink(&outside, temp("link")).unwrap();
    std::fs::create_dir(temp("folder")).unwrap();
    rustix::fs::mkfifoat(CWD, temp("pipe"), Mode::from_raw_mode(0o666)).unwrap();
    std::fs::write(temp("file"), "a stranger's").unwrap();
    if rustix::process::geteuid().is_root() {
        chown(temp("file"), Some(65534), None).unwrap();
    } else {
        eprintln!("not tested: only root can plant a file of somebody else's; this one is the daemon's own, and swept");
    }
    for name in ["link", "folder", "pipe", "file"] {
        host.write(format!("in/{name}"), "second");
    }
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    for name in ["link", "folder", "pipe", "file"] {
        assert_eq!(host.result(name).unwrap()["sha256"], sha256("second"), "{name}");
    }
    assert_eq!(std::fs::read_to_string(&outside).unwrap(), "outside");
    assert_eq!(std::fs::read_link(temp("link")).unwrap(), outside);
    assert!(temp("folder").is_dir());
    if rustix::process::geteuid().is_root() {
        assert_eq!(std::fs::read_to_string(temp("file")).unwrap(), "a stranger's");
    }
    assert_eq!(engine.delivered(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn send_shows_names_and_a_servers_words_as_text_alone() {
    let (host, engine) = (Host::new(), engine().await);
    let words = "no \u{1b}[2J\nall delivered \u{9b}31m\u{202e}";
    engine.faults().add(Rule::close(Effect::NodeError { message: words.into() }).object("bad*"));
    let names = ["good\u{1b}[31m\n.txt", "bad\u{1b}[31m\n\u{202e}.txt", "missing\u{1b}[31m\n.txt"];
    for name in &names[..2] {
        host.write(name, "content");
    }
    host.write_secret("token", &engine.start_task("by-token", 4).token);
    for extra in [&[][..], &["--json"], &["--log-level", "trace", "--log-format", "pretty"], &["--http"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rocketride-ingest"));
        command.current_dir(host.path("")).args(["send", "--token-file", "token"]).args(extra).args(names);
        command.env("ROCKETRIDE_URI", engine.uri()).env("ROCKETRIDE_APIKEY", KEY).stdin(Stdio::null());
        for variable in ["ROCKETRIDE_TOKEN", "ROCKETRIDE_INGEST_CONFIG", "HTTPS_PROXY", "https_proxy"] {
            command.env_remove(variable);
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{extra:?}: {output:?}");
        assert_plain(&output.stdout, &format!("standard output of send {extra:?}"));
        assert_plain(&output.stderr, &format!("standard error of send {extra:?}"));
        let all = [output.stdout, output.stderr].concat();
        let forged = String::from_utf8(all).unwrap().lines().any(|line| line.starts_with("all delivered"));
        assert!(!forged, "a line of its own making");
    }
}
