//! `explain`: whatever path is asked about, the answer says how it stands, why, and what is next.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rocketride_ingest::sandbox::{Effect, Rule, Sandbox};
use serde_json::Value;

use crate::harness::{Daemon, Host, engine, wait_for, writers_are_seen};

const NODE: &str = "the node says no: 4711";

/// A running daemon that has looked through its folder once; its pipeline refuses files called `bad*`.
async fn running(extra: &str) -> (Host, Sandbox, Daemon) {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), extra);
    engine.faults().add(Rule::close(Effect::NodeError { message: NODE.into() }).object("bad*"));
    let daemon = host.start();
    daemon.logged("scan complete").await;
    wait_for("a healthy daemon", || host.output(&["status"]).0 == 0).await;
    (host, engine, daemon)
}

fn answer(mut command: Command) -> Value {
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {out}{err}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{command:?}: {error}\n{out}\n{err}"))
}

/// The answer about a path; relative ones are beneath the inbox.
fn explain(host: &Host, path: impl AsRef<Path>) -> Value {
    let mut command = host.command(&["explain", "--json"]);
    command.arg(host.inbox().join(path));
    answer(command)
}

fn verdict(host: &Host, path: impl AsRef<Path>) -> String {
    explain(host, path)["verdict"].as_str().unwrap().to_owned()
}

fn text(host: &Host, path: &Path) -> String {
    let (code, out, err) = host.output(&["explain", path.to_str().unwrap()]);
    assert_eq!(code, 0, "{out}{err}");
    out
}

async fn becomes(host: &Host, path: &str, expected: &str) {
    wait_for(&format!("{path}: {expected}"), || verdict(host, path).contains(expected)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_sent_is_told_with_the_rule_and_what_of_it_matched() {
    let extra =
        "include = [\"*.txt\", \"*.pdf\"]\nexclude = [\"drafts/\", \"old-*\"]\non_success = { move = \"done\" }";
    let (host, _engine, daemon) = running(extra).await;
    for (path, rule, why) in [
        (".hidden/a.txt", "junk", ".hidden is hidden"),
        ("a.txt.part", "junk", "a.txt.part"),
        ("drafts/a.txt", "exclude", "\"drafts/\" of exclude"),
        ("old-a.txt", "exclude", "\"old-*\" of exclude"),
        ("a.csv", "include", "\"*.txt\", \"*.pdf\""),
        ("done/a.txt", "move-target", "it lies in done"),
    ] {
        host.write(host.inbox().join(path), "x");
        let told = explain(&host, path);
        assert_eq!(told["selection"]["rule"], rule, "{path}: {told}");
        assert!(told["selection"]["why"].as_str().unwrap().contains(why), "{path}: {told}");
        assert!(told["verdict"].as_str().unwrap().contains(&format!("rule `{rule}`")), "{path}: {told}");
        assert_eq!((&told["disk"]["kind"], &told["disk"]["size"]), (&"file".into(), &1.into()), "{path}");
        assert_eq!(told["job"], Value::Null, "{path}");
    }
    let told = explain(&host, "not-yet.pdf");
    assert_eq!((&told["selection"]["selected"], &told["disk"]["kind"]), (&true.into(), &"absent".into()));
    assert!(told["selection"]["why"].as_str().unwrap().contains("\"*.pdf\" of include"), "{told}");
    let shown = text(&host, &host.inbox().join("old-a.txt"));
    assert!(shown.contains("by the rule `exclude`: it matches \"old-*\" of exclude"), "{shown}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_or_in_no_watch_or_of_a_strange_name_is_told_too() {
    let (host, engine, daemon) = running("").await;
    let nowhere = explain(&host, "/etc/hostname");
    assert_eq!((&nowhere["watch"], &nowhere["disk"]), (&Value::Null, &Value::Null));
    assert!(nowhere["verdict"].as_str().unwrap().contains("no watched folder"), "{nowhere}");
    assert_eq!(nowhere["folders"][0], host.inbox().to_str().unwrap());
    assert!(verdict(&host, host.path("elsewhere")).contains("no watched folder"));

    symlink("/etc/hostname", host.inbox().join("link")).unwrap();
    std::fs::create_dir(host.inbox().join("sub")).unwrap();
    symlink("sub", host.inbox().join("linked")).unwrap();
    for (path, expected) in [
        ("", "the folder of watch in itself"),
        ("sub", "it is a folder; the files in it are sent"),
        ("link", "no regular file"),
        ("linked/a.txt", "links are never followed"),
        ("nothing.txt", "nothing is known of it"),
        ("no/folder/nothing.txt", "nothing is known of it"),
    ] {
        let told = verdict(&host, path);
        assert!(told.contains(expected), "{path}: {told}");
    }
    // Names that are no text, or that a terminal must not get.
    let names: [&[u8]; 2] = [b"a\xff\xfe.txt", b"a\x1b[2J\nb.txt"];
    for name in names {
        let name = OsStr::from_bytes(name);
        host.write(host.inbox().join(name), "x");
        wait_for("its end", || explain(&host, name)["job"]["job"]["state"] == "done").await;
        let mut command = host.command(&["explain"]);
        let shown = command.arg(host.inbox().join(name)).output().unwrap().stdout;
        let shown = String::from_utf8(shown).unwrap();
        assert!(!shown.contains('\u{1b}') && shown.contains("It was delivered."), "{shown}");
    }
    // A path is found through `..`, and through a link above the folder.
    symlink(host.path(""), host.path("another-way")).unwrap();
    for path in ["in/sub/../nothing.txt", "another-way/in/nothing.txt"] {
        assert_eq!(explain(&host, host.path(path))["watch"]["path"], "nothing.txt", "{path}");
    }
    let mut command = host.command(&["explain", "--json", "nothing.txt"]);
    command.current_dir(host.inbox());
    assert_eq!(answer(command)["watch"]["path"], "nothing.txt");
    drop(engine);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_told_apart_from_a_users_own_file_of_such_a_name() {
    let (host, _engine, daemon) = running("").await;
    host.write("in/a.txt", "one");
    host.write("in/own.result.json", "{}");
    becomes(&host, "a.txt", "it was delivered").await;
    let told = explain(&host, "a.txt");
    let result = host.inbox().join("a.txt.result.json");
    assert_eq!(
        (&told["result"]["path"], &told["result"]["is_current"]),
        (&result.to_str().unwrap().into(), &true.into())
    );
    assert_eq!(told["job"]["sha256"].as_str().unwrap().len(), 64);
    assert!(told["next"].as_str().unwrap().contains("nothing, it is done"), "{told}");

    let told = explain(&host, &result);
    assert!(told["verdict"].as_str().unwrap().contains("one of the daemon's own files"), "{told}");
    assert!(told["disk"]["why"].as_str().unwrap().contains("a.txt"), "{told}");
    let told = explain(&host, "own.result.json");
    assert_eq!(told["selection"]["rule"], "output");
    assert!(told["verdict"].as_str().unwrap().contains("did not write it"), "{told}");
    assert!(told["next"].as_str().unwrap().contains("another name"), "{told}");

    std::fs::remove_file(&result).unwrap();
    becomes(&host, "a.txt", "its result file is not there any more").await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_told_with_its_last_error_and_a_forgotten_file_as_such() {
    let (host, _engine, daemon) = running("").await;
    let path = host.write("in/bad.txt", "one");
    becomes(&host, "bad.txt", "it was given up after 3 attempts").await;
    wait_for("its error file", || explain(&host, "bad.txt")["error_file"].is_object()).await;
    let told = explain(&host, "bad.txt");
    assert!(told["verdict"].as_str().unwrap().contains(NODE), "{told}");
    assert!(told["next"].as_str().unwrap().contains("`retry`"), "{told}");
    assert_eq!((&told["job"]["job"]["attempts"], &told["job"]["max_attempts"]), (&3.into(), &3.into()));
    assert!(told["job"]["first_attempt_at"].as_u64() <= told["job"]["job"]["last_attempt_at"].as_u64());
    assert_eq!(told["error_file"]["is_current"], true);
    let shown = text(&host, &path);
    for expected in ["Next: nothing by itself", "attempts      3 of 3", "last error", "bad.txt.error.json"] {
        assert!(shown.contains(expected), "{expected}:\n{shown}");
    }
    assert_eq!(host.output(&["forget", path.to_str().unwrap()]).0, 0);
    becomes(&host, "bad.txt", "an operator said to forget it").await;
    std::fs::remove_file(&path).unwrap();
    becomes(&host, "bad.txt", "not there any more").await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_told_with_what_it_waits_for() {
    let (host, engine, daemon) = running("").await;
    host.edit_config("initial = \"100ms\"\nmax = \"1s\"", "initial = \"10h\"\nmax = \"10h\"");
    daemon.stop().await;
    let daemon = host.start();
    wait_for("a healthy daemon", || host.output(&["status"]).0 == 0).await;
    host.write("in/bad.txt", "one");
    becomes(&host, "bad.txt", "attempt 1 of 3 failed").await;
    let told = explain(&host, "bad.txt");
    assert_eq!((&told["obstacles"], told["next_at"].is_u64()), (&Value::Array(vec![]), true), "{told}");

    assert_eq!(host.output(&["pause", "in"]).0, 0);
    host.write("in/a.txt", "one");
    becomes(&host, "a.txt", "it waits to be sent").await;
    let told = explain(&host, "a.txt");
    assert!(told["next"].as_str().unwrap().contains("watch:in is paused since"), "{told}");
    assert_eq!(host.output(&["pause", "pipeline:test"]).0, 0);
    assert_eq!(host.output(&["resume", "watch:in"]).0, 0);
    assert!(explain(&host, "a.txt")["obstacles"][0].as_str().unwrap().contains("pipeline:test is paused"));
    engine.abort().await;
    wait_for("the outage", || {
        explain(&host, "a.txt")["obstacles"].as_array().unwrap().iter().any(|why| {
            let why = why.as_str().unwrap();
            why.contains("pipeline test has been down") || why.contains("lost its connection")
        })
    })
    .await;
    std::fs::rename(host.inbox(), host.path("gone")).unwrap();
    wait_for("the missing folder", || verdict(&host, "a.txt").contains("it cannot be told what stands there")).await;
    assert!(verdict(&host, "a.txt").contains("the journal has it as pending"));
    assert!(verdict(&host, "other.txt").contains("unavailable"));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_settles_or_is_written_is_told_with_the_time_it_needs() {
    let (host, _engine, daemon) = running("").await;
    host.edit_config("settle = \"300ms\"", "settle = \"2h\"");
    daemon.stop().await;
    let daemon = host.start();
    wait_for("a healthy daemon", || host.output(&["status"]).0 == 0).await;
    let path = host.write("in/a.txt", "one");
    becomes(&host, "a.txt", "of the 2h that it must stay the same").await;
    let told = explain(&host, "a.txt");
    assert_eq!(told["settling"]["quiet_ms"], 7_200_000);
    assert!(told["settling"]["unchanged_ms"].as_u64().unwrap() < 7_200_000 && told["next_at"].is_u64(), "{told}");
    if writers_are_seen(&host) {
        let writer = File::options().append(true).open(&path).unwrap();
        assert!(verdict(&host, "a.txt").contains("somebody has it open for writing"));
        drop(writer);
        assert_eq!(explain(&host, "a.txt")["writers"], "none");
    } else {
        eprintln!("skipped in part: this filesystem does not tell of writers");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_under_way_is_told_with_how_far_it_is() {
    let (host, engine, daemon) = running("").await;
    engine.faults().add(Rule::close(Effect::Delay(Duration::from_secs(2))));
    host.write("in/a.txt", "one");
    becomes(&host, "a.txt", "the pipeline works on it").await;
    let told = explain(&host, "a.txt");
    if told["job"]["job"]["state"] == "sending" {
        assert_eq!((&told["transfer"]["phase"], &told["transfer"]["size"]), (&"processing".into(), &3.into()));
    }
    becomes(&host, "a.txt", "it was delivered").await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_marker_and_a_name_that_can_have_none_are_told() {
    let (host, _engine, daemon) = running("done_marker = \"{name}.done\"").await;
    host.write("in/a.txt", "one");
    let long = "n".repeat(252);
    host.write(host.inbox().join(&long), "x");
    becomes(&host, "a.txt", "it waits for its marker a.txt.done").await;
    assert_eq!(explain(&host, "a.txt")["marker"]["state"], "not yet");
    assert!(verdict(&host, &long).contains("its done_marker can never exist"));
    tokio::time::sleep(Duration::from_millis(50)).await;
    host.write("in/a.txt.done", "");
    assert_eq!(explain(&host, "a.txt.done")["selection"]["rule"], "done-marker");
    becomes(&host, "a.txt", "it was delivered").await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_went_its_way_is_told_with_where_it_is() {
    let (host, engine, daemon) = running("on_success = { move = \"done\" }\non_failure = { move = \"failed\" }").await;
    host.write("in/sub/a.txt", "one");
    host.write("in/bad.txt", "two");
    becomes(&host, "sub/a.txt", "it was delivered, and moved to").await;
    let told = explain(&host, "sub/a.txt");
    assert_eq!(told["target"], host.inbox().join("done/sub/a.txt").to_str().unwrap());
    assert_eq!(told["result"]["path"], host.inbox().join("done/sub/a.txt.result.json").to_str().unwrap());
    becomes(&host, "bad.txt", "it was given up").await;
    wait_for("its move", || explain(&host, "bad.txt")["next"].as_str().unwrap().contains("it was moved away")).await;
    assert_eq!(explain(&host, "bad.txt")["target"], host.inbox().join("failed/bad.txt").to_str().unwrap());
    assert_eq!(host.output(&["pause", "in"]).0, 0);
    host.write("in/c.txt", "three");
    becomes(&host, "c.txt", "it waits to be sent").await;
    std::fs::remove_file(host.inbox().join("c.txt")).unwrap();
    becomes(&host, "c.txt", "gone before it could be sent").await;
    drop(engine);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_through_a_link_is_found_and_a_mistyped_one_wakes_no_other_folder() {
    let (host, engine) = (Host::new(), engine().await);
    let away = host.path("away");
    host.configure(
        &engine.uri(),
        &format!("[[watch]]\nname = \"away\"\npath = \"{}\"\npipeline = \"test\"", away.display()),
    );
    let daemon = host.start();
    daemon.logged("\"message\":\"ready\"").await;
    symlink(host.inbox(), host.path("link")).unwrap();
    let explain = |path: &Path| host.output(&["explain", path.to_str().unwrap()]).1;
    let told = explain(&host.path("link/a.txt"));
    assert!(told.contains("in/a.txt"), "{told}");
    let told = explain(&host.path("inn/a.txt"));
    assert!(told.contains("It lies in no watched folder that can be looked at now"), "{told}");
    std::fs::create_dir(&away).unwrap();
    wait_for("the other folder", || !explain(&host.path("inn/a.txt")).contains("that can be looked at now")).await;
    // Through a link to a folder that came later, too.
    symlink(&away, host.path("other")).unwrap();
    let told = explain(&host.path("other/b.txt"));
    assert!(told.contains("away/b.txt"), "{told}");
    daemon.stop().await;
}
