//! The main job: whatever people drop arrives, whole, once, under its own id, and nothing else does.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rocketride_ingest::sandbox::Sandbox;

use crate::harness::{Host, delivered_names, engine, read_json, result_path, sha256, wait_for, writers_are_seen};

/// How many files the large test drops.
const FILES: usize = 120;
/// Largest of them, in bytes.
const LARGEST: usize = 2_500_000;
/// Their types.
const TYPES: [&str; 10] = ["txt", "csv", "html", "json", "pdf", "png", "jpg", "zip", "tar.gz", "unknown"];

/// A dropped file: its path beneath the inbox and its content.
struct Dropped {
    rel: PathBuf,
    content: Vec<u8>,
}

impl Dropped {
    fn name(&self) -> String {
        self.rel.file_name().unwrap().to_string_lossy().into_owned()
    }
}

/// Content that no other file has; valid UTF-8, and in small chunks it could only be cut within a character.
fn content(n: usize, size: usize) -> Vec<u8> {
    let mut content = format!("{n:05}").into_bytes();
    while content.len() + 2 <= size {
        content.extend_from_slice("ä".as_bytes());
    }
    content.resize(size, b'.');
    content
}

/// The base name of the `n`-th file: ordinary, or as hard as a filesystem takes it.
fn name(n: usize) -> OsString {
    let ext = TYPES[n % TYPES.len()];
    let long = |filler: &str, bytes: usize| {
        let room = bytes - ext.len() - 1 - n.to_string().len();
        format!("{n}{}.{ext}", filler.repeat(room / filler.len()))
    };
    match n {
        10..20 => format!("quarterly report {n}.{ext}").into(),
        20..30 => format!("Größenübersicht {n}.{ext}").into(),
        30..40 => format!("it's \"{n}\" $(x) `y` *.{ext}").into(),
        40..44 => format!("two\nlines {n}.{ext}").into(),
        44..50 => long("x", 230).into(),
        50..56 => long("x", 250).into(),
        56..60 => long("ü", 250).into(),
        60..66 => OsString::from_vec([b"bytes \xFF\xFE\xC3 ", format!("{n}.{ext}").as_bytes()].concat()),
        66 => "no type at all".into(),
        // The same name in different folders.
        70..80 => format!("same.{ext}").into(),
        80..90 => format!("same.{}", TYPES[(n - 80) % TYPES.len()]).into(),
        _ => format!("{n}.{ext}").into(),
    }
}

fn drops() -> Vec<Dropped> {
    (0..FILES)
        .map(|n| {
            let size = match n {
                0..6 => n,
                110..116 => LARGEST - n,
                _ => 37 * n * n,
            };
            let folder = match n % 4 {
                0 => PathBuf::new(),
                // Half of these are made while the daemon runs, the instant before their file.
                1 => format!("made at once {n}/deep/er").into(),
                2 => "shared/by some".into(),
                _ => format!("{}", n / 10).into(),
            };
            // Two files of one name must not meet in one folder.
            let folder = if (70..90).contains(&n) { format!("twin {n}").into() } else { folder };
            Dropped { rel: folder.join(name(n)), content: content(n, size) }
        })
        .collect()
}

/// What Python's built-in table says, which the SDK goes by.
fn python_mime_types(names: &[String]) -> Option<Vec<String>> {
    let script = "import json, mimetypes, sys; table = mimetypes.MimeTypes(); \
                  json.dump([table.guess_type(n)[0] or 'application/octet-stream' for n in json.load(sys.stdin)], sys.stdout)";
    let mut command = Command::new("python3");
    command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().ok()?;
    child.stdin.take().unwrap().write_all(&serde_json::to_vec(names).unwrap()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "python3: {}", output.status);
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// All that is wrong with what arrived, compared with what was dropped.
fn assert_each_arrived_once(host: &Host, engine: &Sandbox, dropped: &[Dropped]) {
    let deliveries = engine.deliveries();
    let by_object: HashMap<_, _> = deliveries.iter().map(|delivery| (delivery.object_id.clone(), delivery)).collect();
    assert_eq!(by_object.len(), deliveries.len(), "an object arrived twice");
    assert_eq!(deliveries.len(), dropped.len(), "every file once and nothing else");
    let mut objects = HashSet::new();
    for file in dropped {
        let path = host.inbox().join(&file.rel);
        let result = read_json(&result_path(&path)).unwrap_or_else(|| panic!("no result of {}", path.display()));
        assert_eq!(result["sha256"], sha256(&file.content), "{}", path.display());
        let object_id = result["object_id"].as_str().unwrap();
        assert!(objects.insert(object_id.to_owned()), "{} shares its object id", path.display());
        let delivery = by_object[object_id];
        assert!(delivery.complete(), "{delivery:?}");
        assert_eq!(delivery.sha256, sha256(&file.content), "{}", path.display());
        assert_eq!(delivery.name, file.name());
        // As the SDK does it: an object of size 0 would be skipped as empty.
        assert_eq!(delivery.object["size"], file.content.len().max(1));
    }
    let names: Vec<_> = deliveries.iter().map(|delivery| delivery.name.clone()).collect();
    if let Some(expected) = python_mime_types(&names) {
        for (delivery, expected) in deliveries.iter().zip(expected) {
            assert_eq!(delivery.mime_type, expected, "{:?}", delivery.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_file_arrives_whole_exactly_once_whatever_its_name_and_moment() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure_with(&engine.uri(), "chunk_size = \"64KiB\"", "");
    let pauses = Duration::from_millis(if writers_are_seen(&host) { 500 } else { 20 });
    let mut dropped = drops();
    let put = |file: &Dropped| host.write(Path::new("in").join(&file.rel), &file.content);
    dropped.iter().step_by(2).for_each(|file| drop(put(file)));

    let daemon = host.start();
    daemon.logged("\"message\":\"ready\"").await;
    let slow = Dropped { rel: "written slowly.txt".into(), content: content(FILES, 100_000) };
    let mut handle = File::create(host.inbox().join(&slow.rel)).unwrap();
    dropped.iter().skip(1).step_by(2).for_each(|file| drop(put(file)));
    for piece in slow.content.chunks(25_000) {
        handle.write_all(piece).unwrap();
        tokio::time::sleep(pauses).await;
    }
    drop(handle);
    dropped.push(slow);

    let has_result = |file: &Dropped| result_path(&host.inbox().join(&file.rel)).exists();
    wait_for("all results", || dropped.iter().all(has_result)).await;
    daemon.stop().await;
    assert_each_arrived_once(&host, &engine, &dropped);

    // A second start knows all of them; what is new it sends.
    let daemon = host.start();
    host.write("in/new.txt", "new");
    wait_for("the new result", || host.result("new.txt").is_some()).await;
    daemon.logged("scan complete").await;
    daemon.stop().await;
    dropped.push(Dropped { rel: "new.txt".into(), content: b"new".to_vec() });
    assert_each_arrived_once(&host, &engine, &dropped);
}

#[tokio::test(flavor = "multi_thread")]
async fn once_delivers_what_is_there_and_then_has_nothing_left_to_send() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    for n in 0..20 {
        host.write(format!("in/{}/{n}.txt", n % 3), format!("file {n}"));
    }
    for _ in 0..2 {
        let (code, output, errors) = host.output(&["run", "--once"]);
        assert_eq!(code, 0, "{output}{errors}");
        assert_eq!(engine.delivered(), 20);
    }
    for n in 0..20 {
        assert_eq!(host.result(format!("{}/{n}.txt", n % 3)).unwrap()["sha256"], sha256(format!("file {n}")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn junk_is_never_sent() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    let drop_junk = |folder: &str| {
        for name in [".hidden", ".dir/x.txt", "a.tmp", "a.part", "a.PART", "a.crdownload", "~$letter.docx", "Thumbs.db"]
        {
            host.write(format!("in/{folder}{name}"), "junk");
        }
    };
    drop_junk("");
    host.write("in/before.txt", "x");
    let daemon = host.start();
    daemon.logged("\"message\":\"ready\"").await;
    drop_junk("sub/");
    host.write("in/sub/after.txt", "y");
    wait_for("both results", || host.result("before.txt").is_some() && host.result("sub/after.txt").is_some()).await;
    daemon.stop().await;
    assert_eq!(delivered_names(&engine), ["after.txt", "before.txt"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_our_own_outputs_are_never_sent_whatever_the_filters_say() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "ignore_junk = false\ninclude = [\"**\"]");
    for name in ["x.result.json", "x.error.json", "x.result.txt", ".rri-x", ".nfs0001", ".dotfile", "x.tmp"] {
        host.write(format!("in/{name}"), name);
    }
    for _ in 0..2 {
        assert_eq!(host.output(&["run", "--once"]).0, 0);
        assert_eq!(
            delivered_names(&engine),
            [".dotfile", "x.tmp"],
            "junk is asked for here, outputs are not to be had"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn include_chooses_and_exclude_wins() {
    let (host, engine) = (Host::new(), engine().await);
    // As in .gitignore: a pattern without a slash is about names at any depth.
    host.configure(&engine.uri(), "include = [\"*.pdf\", \"reports/*.txt\"]\nexclude = [\"drafts/\"]");
    for name in ["a.pdf", "deep/er/b.pdf", "c.txt", "reports/d.txt", "deep/reports/e.txt", "drafts/f.pdf"] {
        host.write(format!("in/{name}"), name);
    }
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    assert_eq!(delivered_names(&engine), ["a.pdf", "b.pdf", "d.txt"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watchs_metadata_and_mime_type_arrive_with_the_object() {
    let (host, engine) = (Host::new(), engine().await);
    let extra = "mime_type = \"text/x-invoice\"\nmetadata = { tenant = \"Müller & Co\", year = \"2026\" }";
    host.configure(&engine.uri(), extra);
    host.write("in/a.pdf", "content");
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    let delivery = engine.deliveries().pop().unwrap();
    assert_eq!(delivery.mime_type, "text/x-invoice");
    assert_eq!(delivery.object["tenant"], "Müller & Co");
    assert_eq!(delivery.object["year"], "2026");
    assert_eq!(delivery.object["objectId"], delivery.object_id);
    assert!(!delivery.object.contains_key("path"), "{:?}", delivery.object);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polled_folder_delivers_what_comes_later() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "detect = \"poll\"\npoll_interval = \"1s\"");
    let daemon = host.start();
    daemon.logged("scan complete").await;
    assert!(daemon.log().contains("Poll("), "{}", daemon.log());
    host.write("in/new/folder/a.txt", "polled");
    wait_for("the result", || host.result("new/folder/a.txt").is_some()).await;
    daemon.stop().await;
    assert_eq!(engine.delivered(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_500_files_that_appears_by_one_rename_is_delivered_whole() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    for n in 0..500 {
        host.write(format!("elsewhere/{}/{n}.txt", n % 7), format!("{n}"));
    }
    let daemon = host.start();
    daemon.logged("scan complete").await;
    std::fs::rename(host.path("elsewhere"), host.inbox().join("arrived")).unwrap();
    let expected: HashSet<String> = (0..500).map(|n| sha256(format!("{n}"))).collect();
    let result = |n: usize| result_path(&host.inbox().join(format!("arrived/{}/{n}.txt", n % 7)));
    wait_for("500 results", || (0..500).all(|n| result(n).exists())).await;
    daemon.stop().await;
    let delivered: Vec<_> = engine.deliveries().into_iter().map(|delivery| delivery.sha256).collect();
    assert_eq!(delivered.len(), 500);
    assert_eq!(delivered.into_iter().collect::<HashSet<_>>(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_too_large_is_given_up_with_a_hint_and_no_attempt_reaches_the_server() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "max_size = \"10KiB\"");
    host.write("in/large.bin", vec![7; 10 * 1024 + 1]);
    host.write("in/just fits.bin", vec![7; 10 * 1024]);
    let (code, _, errors) = host.output(&["run", "--once"]);
    assert_eq!(code, 1, "{errors}");
    let error = host.error("large.bin").unwrap();
    assert_eq!((&error["action"], &error["code"]), (&"error".into(), &"TOO_LARGE".into()));
    assert!(error["hint"].as_str().unwrap().contains("max_size"), "{error}");
    let opened: Vec<_> = engine.opens().into_iter().map(|open| open.name).collect();
    assert_eq!(opened, ["just fits.bin"]);
    assert!(host.error("just fits.bin").is_none() && host.result("large.bin").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_has_one_line_for_each_delivered_file_that_says_what_went_where() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    let daemon = host.start();
    for n in 0..5 {
        host.write(format!("in/sub/{n}.txt"), vec![b'x'; 10 + n]);
    }
    wait_for("the results", || (0..5).all(|n| host.result(format!("sub/{n}.txt")).is_some())).await;
    wait_for("the log lines", || daemon.messages("delivered").len() >= 5).await;
    let mut lines = daemon.messages("delivered");
    daemon.stop().await;
    lines.sort_by_key(|line| line["path"].to_string());
    assert_eq!(lines.len(), 5);
    for (n, line) in lines.iter().enumerate() {
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["watch"], "in");
        assert_eq!(line["pipeline"], "test");
        assert_eq!(line["path"], format!("sub/{n}.txt"));
        assert_eq!(line["bytes"], 10 + n);
        assert_eq!(line["attempts"], 1);
        assert!(line["seconds"].is_f64(), "{line}");
    }
}
