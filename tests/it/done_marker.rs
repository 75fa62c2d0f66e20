//! `done_marker`: nothing is sent before somebody says that it is whole, and what says so goes where its file goes.

use std::os::unix::fs::symlink;
use std::time::Duration;

use rocketride_ingest::sandbox::{Effect, Rule, Sandbox};

use crate::harness::{Daemon, Host, delivered_names, engine, files_beneath, sha256, wait_for};

const MARKER: &str = "done_marker = \"{name}.done\"\nsettle = \"\"\n";

/// A host whose watch needs markers, with these further lines.
async fn prepared(extra: &str) -> (Host, Sandbox) {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    host.edit_config("settle = \"300ms\"", &format!("{MARKER}{extra}"));
    (host, engine)
}

async fn running(extra: &str) -> (Host, Sandbox, Daemon) {
    let (host, engine) = prepared(extra).await;
    let daemon = host.start();
    daemon.logged("\"message\":\"ready\"").await;
    (host, engine, daemon)
}

/// Makes sure that what was written so far is older than what is written from now on.
async fn a_moment_later() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

async fn delivered(host: &Host, rel: &str, content: &str) {
    let hash = sha256(content);
    wait_for(&format!("the result of {rel}"), || host.result(rel).is_some_and(|result| result["sha256"] == *hash))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marker_sends_its_file_and_a_file_written_anew_waits_for_a_new_marker() {
    let (host, engine, daemon) = running("include = [\"*\"]").await;
    host.write("in/a.txt", "one");
    host.write("in/sub/b.txt", "b");
    // These are through: what stands before them without a marker was looked at.
    host.write("in/witness.txt", "w");
    host.write("in/witness.txt.done", "");
    delivered(&host, "witness.txt", "w").await;
    assert_eq!(delivered_names(&engine), ["witness.txt"]);

    a_moment_later().await;
    host.write("in/a.txt.done", "");
    host.write("in/sub/b.txt.done", "");
    delivered(&host, "a.txt", "one").await;
    delivered(&host, "sub/b.txt", "b").await;

    a_moment_later().await;
    host.write("in/a.txt", "two, and longer");
    host.write("in/witness2.txt", "w");
    host.write("in/witness2.txt.done", "");
    delivered(&host, "witness2.txt", "w").await;
    assert_eq!(engine.delivered(), 4, "the marker is older than the file");
    host.write("in/a.txt.done", "again");
    delivered(&host, "a.txt", "two, and longer").await;
    daemon.stop().await;
    // Nor is a marker ever sent by itself, here where everything is included.
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    assert_eq!(delivered_names(&engine), ["a.txt", "a.txt", "b.txt", "witness.txt", "witness2.txt"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_or_older_than_its_input_is_no_marker() {
    let (host, engine) = prepared("").await;
    host.write("in/old.txt.done", "");
    host.write("elsewhere", "");
    a_moment_later().await;
    for name in ["old", "link", "folder", "fifo", "good", "alone"] {
        host.write(format!("in/{name}.txt"), name);
    }
    let marker = |name: &str| host.inbox().join(format!("{name}.txt.done"));
    symlink(host.path("elsewhere"), marker("link")).unwrap();
    std::fs::create_dir(marker("folder")).unwrap();
    host.write("in/folder.txt.done/inner.txt", "inner");
    host.write("in/folder.txt.done/inner.txt.done", "");
    assert!(std::process::Command::new("mkfifo").arg(marker("fifo")).status().unwrap().success());
    std::fs::write(marker("good"), "").unwrap();
    std::fs::write(marker("nobody"), "").unwrap();

    // A single pass does not wait for those that have none.
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    assert_eq!(delivered_names(&engine), ["good.txt", "inner.txt"]);
    assert!(marker("nobody").exists() && marker("good").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_events_the_scan_finds_what_was_marked() {
    let (host, engine, daemon) = running("detect = \"poll\"\npoll_interval = \"200ms\"").await;
    host.write("in/a.txt", "a");
    host.write("in/b.txt", "b");
    a_moment_later().await;
    host.write("in/a.txt.done", "");
    delivered(&host, "a.txt", "a").await;
    host.write("in/b.txt.done", "");
    delivered(&host, "b.txt", "b").await;
    daemon.stop().await;
    assert_eq!(engine.delivered(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_named_like_a_marker_is_looked_into_when_it_appears() {
    let (host, _engine, daemon) = running("").await;
    host.write("new/inner.txt", "inner");
    host.write("new/inner.txt.done", "");
    std::fs::rename(host.path("new"), host.inbox().join("day.done")).unwrap();
    delivered(&host, "day.done/inner.txt", "inner").await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_wait_for_their_markers_hold_up_no_other() {
    // More than may be settling at a time.
    const WAITING: usize = 10_500;
    let (host, engine) = prepared("").await;
    for n in 0..WAITING {
        std::fs::write(host.inbox().join(format!("{n}.txt")), "").unwrap();
    }
    let daemon = host.start();
    daemon.logged("\"message\":\"ready\"").await;
    host.write("in/z.txt", "z");
    host.write("in/z.txt.done", "");
    delivered(&host, "z.txt", "z").await;
    host.write("in/77.txt.done", "");
    wait_for("the one that was marked", || host.result("77.txt").is_some()).await;
    daemon.stop().await;
    assert_eq!(delivered_names(&engine), ["77.txt", "z.txt"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_written_anew_before_it_was_sent_is_not_waited_for_without_a_new_marker() {
    let (host, engine) = prepared("").await;
    engine.faults().add(Rule::open(Effect::Mask).times(1));
    host.edit_config("initial = \"100ms\"\nmax = \"1s\"", "initial = \"1h\"\nmax = \"2h\"");
    host.write("in/a.txt", "one");
    host.write("in/a.txt.done", "");
    let daemon = host.start();
    daemon.logged("failed; tried again").await;
    a_moment_later().await;
    host.write("in/a.txt", "two, and longer");
    a_moment_later().await;
    daemon.stop().await;
    // It was admitted and waits for its next attempt; but what was admitted is no more.
    host.edit_config("initial = \"1h\"\nmax = \"2h\"", "initial = \"100ms\"\nmax = \"1s\"");
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    assert_eq!(engine.delivered(), 0);
    assert_eq!(host.journaled("in", "vanished").await, 1);
    host.write("in/a.txt.done", "");
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    assert_eq!(host.result("a.txt").unwrap()["sha256"], sha256("two, and longer"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marker_is_removed_with_its_file() {
    let (host, engine, daemon) = running("on_success = \"delete\"").await;
    for round in ["one", "two"] {
        host.write("in/a.txt", round);
        host.write("in/a.txt.done", "");
        wait_for("both to go", || files_beneath(&host.inbox()) == ["a.txt.result.json"]).await;
        assert_eq!(host.result("a.txt").unwrap()["sha256"], sha256(round));
    }
    daemon.stop().await;
    assert_eq!(engine.delivered(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marker_moves_with_its_file_and_never_over_another() {
    let (host, engine, daemon) = running("on_success = { move = \"done\" }").await;
    host.write("in/done/sub/a.txt.done", "somebody's");
    host.write("in/sub/a.txt", "one");
    host.write("in/sub/a.txt.done", "mine");
    let hash = &sha256("one")[..8];
    let expected = [
        "done/sub/a.txt".to_owned(),
        "done/sub/a.txt.done".to_owned(),
        "done/sub/a.txt.result.json".to_owned(),
        format!("done/sub/a.txt~{hash}.done"),
    ];
    wait_for("all to be moved", || files_beneath(&host.inbox()) == expected).await;
    assert_eq!(std::fs::read(host.inbox().join(&expected[1])).unwrap(), b"somebody's");
    assert_eq!(std::fs::read(host.inbox().join(&expected[3])).unwrap(), b"mine");
    // The name of the file being taken, its marker is called as the file is.
    host.write("in/sub/a.txt", "two");
    host.write("in/sub/a.txt.done", "");
    let moved = format!("a~{}.txt", &sha256("two")[..8]);
    wait_for("the second marker", || host.inbox().join(format!("done/sub/{moved}.done")).exists()).await;
    daemon.stop().await;
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    assert_eq!(engine.delivered(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_too_long_for_a_marker_is_said_to_be() {
    let (host, engine) = prepared("").await;
    let long = "n".repeat(252);
    host.write(format!("in/{long}"), "long");
    let mut once = host.start_with(&["run", "--once"]);
    assert!(once.ended().await.success());
    assert!(once.log().contains("its done_marker can never exist"), "{}", once.log());
    assert_eq!(engine.delivered(), 0);
    let (code, said, _) = host.output(&["check", "--offline"]);
    assert_eq!((code, said.contains("its done_marker can never exist")), (0, true), "{said}");
}
