//! `results.directory`: results and error files stand in a tree of their own that mirrors the watch, whatever happens to it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rocketride_ingest::sandbox::{Effect, Rule, Sandbox};
use serde_json::Value;

use crate::audit::{audit, found};
use crate::harness::{
    Daemon, Host, assert_repeats_replace, assert_sent_once, delivered_as, engine, files_beneath, is_root, read_json,
    sha256, sibling, wait_for,
};
use crate::mount::Mount;

const HELD: &str = "the watched folder is unavailable";

/// A host whose results go to `out`, with these further lines for the watch; its pipeline refuses what is called `bad*`.
async fn host(extra: &str) -> (Host, Sandbox) {
    let (host, engine) = (Host::new(), engine().await);
    fs::create_dir(host.path("out")).unwrap();
    let out = host.path("out");
    host.configure(&engine.uri(), &format!("{extra}\n[watch.results]\ndirectory = \"{}\"\n", out.display()));
    host.edit_config("attempts = 3", "attempts = 1");
    engine.faults().add(Rule::open(Effect::Mask).object("bad*"));
    (host, engine)
}

async fn running(extra: &str) -> (Host, Sandbox, Daemon) {
    let (host, engine) = host(extra).await;
    let daemon = host.start();
    daemon.logged("\"message\":\"ready\"").await;
    (host, engine, daemon)
}

/// Where the result or error file of an input is to stand.
fn place(host: &Host, rel: &str, suffix: &str) -> PathBuf {
    sibling(&host.path("out/in").join(rel), suffix)
}

fn result(host: &Host, rel: &str) -> Option<Value> {
    read_json(&place(host, rel, ".result.json"))
}

async fn has_result_of(host: &Host, rel: &str, content: &str) {
    let hash = sha256(content);
    wait_for(&format!("the result of {rel}"), || result(host, rel).is_some_and(|result| result["sha256"] == *hash))
        .await;
}

async fn has_error_file(host: &Host, rel: &str) -> PathBuf {
    let path = place(host, rel, ".error.json");
    wait_for(&format!("the error file of {rel}"), || path.exists()).await;
    path
}

fn json(host: &Host, args: &[&str]) -> Value {
    let (_, out, err) = host.output(args);
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{args:?}: {error}\n{out}\n{err}"))
}

/// Everything that an audit finds, while no daemon runs.
async fn differences(host: &Host) -> Vec<String> {
    found(&audit(host).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn results_stand_in_a_tree_that_mirrors_the_watch_and_is_no_more_open() {
    let (host, engine) = host("").await;
    host.edit_config("[watch.results]", "[watch.results]\ntext = true");
    let names = ["a.txt", "b/a.txt", "b/c/d.txt"];
    for name in names {
        host.write(format!("in/{name}"), name);
    }
    fs::set_permissions(host.path("in/b"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(host.path("in/b/a.txt"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(host.output(&["check", "--offline"]).0, 0, "{}", host.output(&["check", "--offline"]).1);
    let daemon = host.start();
    for name in names {
        has_result_of(&host, name, name).await;
        assert!(place(&host, name, ".result.txt").exists());
    }
    wait_for("a healthy daemon", || host.output(&["status"]).0 == 0).await;
    let told = json(&host, &["explain", "--json", host.path("in/b/a.txt").to_str().unwrap()]);
    assert_eq!(told["result"]["path"], place(&host, "b/a.txt", ".result.json").to_str().unwrap(), "{told}");
    assert_eq!(told["verdict"], "it was delivered");
    daemon.stop().await;
    assert_eq!(files_beneath(&host.inbox()), names, "nothing is written into the inbox");
    assert_eq!(files_beneath(&host.path("out")).len(), 2 * names.len());
    let mode = |path: PathBuf| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(host.path("out/in/b")), mode(place(&host, "b/a.txt", ".result.json"))), (0o700, 0o600));
    assert_eq!(differences(&host).await, [""; 0]);
    fs::remove_file(place(&host, "b/c/d.txt", ".result.json")).unwrap();
    let left = differences(&host).await;
    assert!(left.len() == 1 && left[0].contains("d.txt") && left[0].contains("missing"), "{left:?}");
    assert_eq!(engine.delivered(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_journal_results_there_are_adopted() {
    let (host, engine) = host("").await;
    for name in ["a.txt", "b/c/d.txt"] {
        host.write(format!("in/{name}"), name);
    }
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    fs::remove_dir_all(host.path("state/journal")).unwrap();
    // And the temp file of a crash is swept.
    let temp = host.write("out/in/b/c/.rri-tmp-00000000-0000-0000-0000-000000000000", "half");
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    assert_eq!(engine.delivered(), 2);
    assert!(!temp.exists());
    assert_eq!(host.journaled("in", "done").await, 2);
    assert_eq!(differences(&host).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_file_stands_there_and_its_removal_tries_the_file_again() {
    let (host, engine, daemon) = running("rescan_interval = \"500ms\"").await;
    host.write("in/sub/bad.txt", "x");
    let error = has_error_file(&host, "sub/bad.txt").await;
    let hint = read_json(&error).unwrap()["hint"].as_str().unwrap().to_owned();
    assert!(hint.contains("noticed when the folder is next walked"), "{hint}");
    fs::remove_file(&error).unwrap();
    has_error_file(&host, "sub/bad.txt").await;
    engine.faults().clear();
    fs::remove_file(&error).unwrap();
    has_result_of(&host, "sub/bad.txt", "x").await;
    // A success removes the error file of an earlier failure.
    engine.faults().add(Rule::open(Effect::Mask).object("bad*").times(1));
    host.write("in/sub/bad.txt", "other");
    has_error_file(&host, "sub/bad.txt").await;
    host.write("in/sub/bad.txt", "third");
    has_result_of(&host, "sub/bad.txt", "third").await;
    wait_for("the error file to go", || !error.exists()).await;
    daemon.stop().await;
    assert_eq!(files_beneath(&host.inbox()), ["sub/bad.txt"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_directory_holds_the_watch_and_is_not_made() {
    let (host, engine) = host("").await;
    host.write("in/a.txt", "a");
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    fs::remove_dir_all(host.path("state/journal")).unwrap();
    fs::rename(host.path("out"), host.path("away")).unwrap();
    let (code, out, _) = host.output(&["check", "--offline"]);
    assert!(code != 0 && out.contains("results directory") && out.contains("does not exist"), "{out}");
    host.write("in/b.txt", "b");
    let daemon = host.start();
    daemon.logged(HELD).await;
    let status = json(&host, &["status", "--json"]);
    let trouble = status["watches"][0]["trouble"].as_str().unwrap();
    assert!(trouble.contains("the results directory") && trouble.contains("mount"), "{status}");
    let told = json(&host, &["explain", "--json", host.path("in/a.txt").to_str().unwrap()]);
    assert!(told.to_string().contains("the results directory"), "{told}");
    assert!(!host.path("out").exists());
    assert_eq!(engine.opens().len(), 1, "no result is not: send again");
    fs::rename(host.path("away"), host.path("out")).unwrap();
    has_result_of(&host, "b.txt", "b").await;
    daemon.stop().await;
    assert_sent_once(&engine, &["a.txt".into(), "b.txt".into()]);
    assert_eq!(host.journaled("in", "done").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_goes_away_while_files_are_sent_holds_the_rest_and_loses_no_result() {
    let (host, engine, daemon) = running("").await;
    let slow = engine.faults().add(Rule::close(Effect::Delay(Duration::from_millis(700))));
    let names = host.drop_files("f", 12);
    wait_for("some on their way", || engine.faults().hits(slow) >= 2).await;
    // With its temp files: what is answered now has no place, and goes to the spool.
    fs::remove_dir_all(host.path("out")).unwrap();
    daemon.logged(HELD).await;
    wait_for("the last answers", || engine.deliveries().len() as u64 == engine.faults().hits(slow)).await;
    let sent = engine.opens().len();
    host.write("in/later.txt", "later");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(engine.opens().len(), sent, "nothing new is sent");
    fs::create_dir(host.path("out")).unwrap();
    for name in &names {
        has_result_of(&host, name, &format!("content of {name}\n")).await;
    }
    has_result_of(&host, "later.txt", "later").await;
    assert!(!daemon.messages("delivered: the result was placed from the spool").is_empty(), "{}", daemon.log());
    daemon.stop().await;
    assert_sent_once(&engine, &names);
    assert_eq!(differences(&host).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_folder_beneath_a_disk_that_went_away_is_not_taken_for_it() {
    let (host, engine) = host("").await;
    let Some(_disk) = Mount::tmpfs(
        {
            fs::create_dir(host.path("disk")).unwrap();
            host.path("disk")
        },
        "size=1m",
    ) else {
        return;
    };
    let mounted = Mount::bind(&host.path("disk"), host.path("out"));
    let daemon = host.start();
    host.write("in/a.txt", "a");
    has_result_of(&host, "a.txt", "a").await;
    let (code, out, _) = host.output(&["check", "--offline"]);
    assert!(code == 0 && out.contains("name that"), "{out}");
    drop(mounted);
    daemon.logged(HELD).await;
    host.write("in/b.txt", "b");
    daemon.logged("the filesystem that was mounted at the results directory is gone").await;
    assert_eq!(files_beneath(&host.path("out")), [""; 0]);
    let _mounted = Mount::bind(&host.path("disk"), host.path("out"));
    has_result_of(&host, "b.txt", "b").await;
    daemon.stop().await;
    assert_sent_once(&engine, &["a.txt".into(), "b.txt".into()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_written_holds_the_watch_until_it_can() {
    let (host, engine) = host("").await;
    host.write("in/a.txt", "a");
    if is_root() {
        host.give_away();
    }
    let unprivileged = |args: &[&str]| {
        let command = host.command(args);
        if is_root() { Host::unprivileged(&command) } else { command }
    };
    let mode = |mode| fs::set_permissions(host.path("out"), fs::Permissions::from_mode(mode)).unwrap();
    mode(0o555);
    let checked = unprivileged(&["check", "--offline"]).output().unwrap();
    assert!(!checked.status.success());
    assert!(String::from_utf8_lossy(&checked.stdout).contains("cannot write to it"), "{checked:?}");
    let daemon = host.spawn(unprivileged(&["run"]));
    daemon.logged("nothing can be put into the results directory").await;
    assert_eq!(engine.opens().len(), 0);
    mode(0o755);
    has_result_of(&host, "a.txt", "a").await;
    daemon.stop().await;
    assert_sent_once(&engine, &["a.txt".into()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_of_results_that_was_made_read_only_holds_the_watch() {
    let (host, engine) = host("").await;
    let Some(disk) = Mount::tmpfs(host.path("out"), "size=1m") else { return };
    let daemon = host.start();
    host.write("in/sub/a.txt", "a");
    has_result_of(&host, "sub/a.txt", "a").await;
    disk.remount("ro");
    host.write("in/sub/b.txt", "b");
    host.write("in/new/c.txt", "c");
    daemon.logged("this host cannot serve the watch; it is held, and no file is charged").await;
    disk.remount("rw");
    has_result_of(&host, "sub/b.txt", "b").await;
    has_result_of(&host, "new/c.txt", "c").await;
    daemon.stop().await;
    assert_sent_once(&engine, &["a.txt", "b.txt", "c.txt"].map(str::to_owned));
    for name in ["sub/b.txt", "new/c.txt"] {
        assert_eq!(result(&host, name).unwrap()["attempts"], 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_at_any_moment_lose_no_result_and_repeat_only_what_was_on_its_way() {
    const FILES: usize = 80;
    let (host, engine) = host("").await;
    let names = host.drop_files("f", FILES);
    let finished = || names.iter().filter(|name| place(&host, name, ".result.json").exists()).count();
    for stop_at in [1, 20, 45, 70] {
        let mut daemon = host.start();
        wait_for("some results", || finished() >= stop_at).await;
        daemon.kill();
    }
    let before: Vec<_> = names.iter().filter(|name| result(&host, name).is_some()).cloned().collect();
    let sent_before: Vec<_> = before.iter().map(|name| delivered_as(&engine, name).len()).collect();
    fs::remove_dir_all(host.path("state/journal")).unwrap();
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    let sent_after: Vec<_> = before.iter().map(|name| delivered_as(&engine, name).len()).collect();
    assert_eq!(sent_after, sent_before, "what has its result is not sent again");
    assert_repeats_replace(&engine, &names);
    for name in &names {
        assert_eq!(result(&host, name).unwrap()["sha256"], sha256(format!("content of {name}\n")), "{name}");
    }
    assert_eq!(files_beneath(&host.path("out")).len(), FILES, "{:?}", files_beneath(&host.path("out")));
    assert_eq!(differences(&host).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_moved_or_removed_leaves_its_result_there() {
    for (action, left) in
        [("on_success = \"delete\"", vec![]), ("on_success = { move = \"done\" }", vec!["done/sub/a.txt"])]
    {
        let (host, engine) = host(action).await;
        host.write("in/sub/a.txt", "a");
        let daemon = host.start();
        wait_for("the end", || files_beneath(&host.inbox()) == left).await;
        has_result_of(&host, "sub/a.txt", "a").await;
        daemon.stop().await;
        // A crash between hiding and moving, with the journal thrown away: its result tells what it was.
        let id = result(&host, "sub/a.txt").unwrap()["object_id"].as_str().unwrap().to_owned();
        if let Some(moved) = left.first() {
            fs::rename(host.inbox().join(moved), host.inbox().join(format!("sub/.rri-{id}"))).unwrap();
            fs::remove_dir_all(host.path("state/journal")).unwrap();
            assert_eq!(host.output(&["run", "--once"]).0, 0);
            assert_eq!(files_beneath(&host.inbox()), left);
        }
        assert_eq!(files_beneath(&host.path("out")), ["in/sub/a.txt.result.json"]);
        assert_eq!(engine.delivered(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_is_moved_leaves_its_error_file_there_and_is_new_when_it_is_put_back() {
    let (host, engine) = host("on_failure = { move = \"failed\" }").await;
    host.write("in/sub/bad0.txt", "0");
    host.write("in/bad1.txt", "1");
    let daemon = host.start();
    wait_for("the moves", || files_beneath(&host.inbox()) == ["failed/bad1.txt", "failed/sub/bad0.txt"]).await;
    let error = has_error_file(&host, "sub/bad0.txt").await;
    assert!(read_json(&error).unwrap()["hint"].as_str().unwrap().contains("put the file back"));
    engine.faults().clear();
    fs::rename(host.path("in/failed/sub/bad0.txt"), host.path("in/sub/bad0.txt")).unwrap();
    has_result_of(&host, "sub/bad0.txt", "0").await;
    wait_for("the error file to go", || !error.exists()).await;
    daemon.stop().await;
    assert_eq!(files_beneath(&host.path("out")), ["in/bad1.txt.error.json", "in/sub/bad0.txt.result.json"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_the_move_of_a_dead_letter_is_noticed_by_its_error_file() {
    let (host, engine) = host("on_failure = \"keep\"").await;
    host.write("in/bad.txt", "x");
    assert_eq!(host.output(&["run", "--once"]).0, 1);
    // Moved, and the journal not told.
    fs::create_dir(host.path("in/failed")).unwrap();
    fs::rename(host.path("in/bad.txt"), host.path("in/failed/bad.txt")).unwrap();
    host.edit_config("on_failure = \"keep\"", "on_failure = { move = \"failed\" }");
    engine.faults().clear();
    let daemon = host.start();
    daemon.logged("given up, and gone from its place").await;
    fs::rename(host.path("in/failed/bad.txt"), host.path("in/bad.txt")).unwrap();
    has_result_of(&host, "bad.txt", "x").await;
    daemon.stop().await;
    // At the next start nothing is left to be done about it.
    let daemon = host.start();
    host.write("in/later.txt", "y");
    has_result_of(&host, "later.txt", "y").await;
    assert!(!daemon.log().contains("given up, and gone from its place"), "{}", daemon.log());
    daemon.stop().await;
    assert_eq!(engine.delivered(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn inside_its_own_watch_the_directory_holds_no_inputs() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "include = [\"*\"]\n[watch.results]\ndirectory = \"out\"\n");
    host.write("in/out/in/by hand.txt", "x");
    host.write("in/a.txt", "a");
    let daemon = host.start();
    let file = host.path("in/out/in/a.txt.result.json");
    wait_for("the result", || file.exists()).await;
    host.write("in/out/another.txt", "x");
    let told = json(&host, &["explain", "--json", host.path("in/out/another.txt").to_str().unwrap()]);
    assert_eq!(told["selection"]["rule"], "results", "{told}");
    host.write("in/b.txt", "b");
    wait_for("the other result", || host.path("in/out/in/b.txt.result.json").exists()).await;
    daemon.stop().await;
    assert_sent_once(&engine, &["a.txt".into(), "b.txt".into()]);
    assert_eq!((engine.delivered(), host.journaled("in", "done").await), (2, 2));
    assert_eq!(differences(&host).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_share_a_directory_and_their_results_do_not_meet() {
    let (host, engine) = host("").await;
    fs::create_dir(host.path("two")).unwrap();
    let config = fs::read_to_string(host.path("config.toml")).unwrap();
    let second = format!(
        "[[watch]]\nname = \"two\"\npath = \"{}\"\npipeline = \"test\"\nsettle = \"300ms\"\n\
         [watch.results]\ndirectory = \"{}\"\n",
        host.path("two").display(),
        host.path("out").display()
    );
    host.write("config.toml", config + &second);
    host.write("in/a.txt", "of one");
    host.write("two/a.txt", "of two");
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    for (watch, content) in [("in", "of one"), ("two", "of two")] {
        let result = read_json(&host.path(format!("out/{watch}/a.txt.result.json"))).unwrap();
        assert_eq!((&result["sha256"], &result["watch"]), (&sha256(content).into(), &watch.into()));
    }
    assert_eq!(engine.delivered(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_planted_there_is_not_taken_for_ours_nor_overwritten() {
    let (host, engine) = host("").await;
    host.write("in/a.txt", "a");
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    let forged = fs::read_to_string(place(&host, "a.txt", ".result.json")).unwrap();
    let forged = forged.replace("\"instance\": \"", "\"instance\": \"x");
    fs::write(place(&host, "a.txt", ".result.json"), &forged).unwrap();
    host.write("secret", "s");
    symlink(host.path("secret"), place(&host, "b.txt", ".result.json")).unwrap();
    fs::create_dir(host.path("elsewhere")).unwrap();
    symlink(host.path("elsewhere"), host.path("out/in/sub")).unwrap();
    fs::remove_dir_all(host.path("state/journal")).unwrap();
    host.write("in/b.txt", "b");
    host.write("in/sub/c.txt", "c");
    let daemon = host.start();
    let second = |name: &str| host.path(format!("out/in/{name}~2.result.json")).exists();
    wait_for("other names", || second("a.txt") && second("b.txt")).await;
    daemon.logged("cannot open the folder of the result").await;
    daemon.stop().await;
    assert_eq!(fs::read_to_string(place(&host, "a.txt", ".result.json")).unwrap(), forged);
    assert_eq!(fs::read_to_string(host.path("secret")).unwrap(), "s");
    assert_eq!(files_beneath(&host.path("elsewhere")), [""; 0]);
    assert!(delivered_as(&engine, "c.txt").is_empty(), "nothing is sent whose result has no place");
    assert_eq!(host.journaled("in", "blocked").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_directory_from_a_reload_on_is_for_new_results_and_sends_nothing_again() {
    let (host, engine, daemon) = running("rescan_interval = \"500ms\"").await;
    host.write("in/a.txt", "a");
    host.write("in/bad.txt", "x");
    has_result_of(&host, "a.txt", "a").await;
    has_error_file(&host, "bad.txt").await;
    let opens = engine.opens().len();
    fs::create_dir(host.path("new")).unwrap();
    host.edit_config("/out\"", "/new\"");
    let reloaded = json(&host, &["reload", "--json"]);
    assert!(reloaded.to_string().contains("earlier ones stay where they are"), "{reloaded}");
    host.write("in/b.txt", "b");
    wait_for("the result", || host.path("new/in/b.txt.result.json").exists()).await;
    // Walked several times since, and touched by a chmod, neither is sent again.
    fs::set_permissions(host.path("in/a.txt"), fs::Permissions::from_mode(0o600)).unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(engine.opens().len(), opens + 1);
    assert_eq!(files_beneath(&host.path("new")), ["in/b.txt.result.json"]);
    let explained = |name: &str| {
        let told = json(&host, &["explain", "--json", host.inbox().join(name).to_str().unwrap()]);
        (told["verdict"].as_str().unwrap().to_owned(), told)
    };
    let (verdict, told) = explained("a.txt");
    assert_eq!(verdict, "it was delivered");
    assert_eq!(told["result"]["path"], place(&host, "a.txt", ".result.json").to_str().unwrap());
    let (verdict, told) = explained("bad.txt");
    assert!(verdict.starts_with("it was given up") && !verdict.contains("tried again"), "{told}");
    // A file that is written anew goes to the new place.
    host.write("in/a.txt", "a, anew");
    wait_for("its new result", || read_json(Path::new(&host.path("new/in/a.txt.result.json"))).is_some()).await;
    daemon.stop().await;
    assert!(result(&host, "a.txt").is_some() && place(&host, "bad.txt", ".error.json").exists());
    assert_eq!(differences(&host).await, [""; 0]);
}
