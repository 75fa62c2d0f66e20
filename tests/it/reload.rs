//! A changed configuration is put in force while the daemon runs, and no upload is dropped for it.

use std::path::Path;
use std::time::Duration;

use rocketride_ingest::sandbox::{Effect, Rule, Sandbox};
use serde_json::Value;

use crate::harness::{Daemon, Host, assert_sent_once, delivered_as, engine, read_json, sibling, wait_for};

async fn running(extra: &str) -> (Host, Sandbox, Daemon) {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), extra);
    let daemon = host.start();
    wait_for("a healthy daemon", || host.output(&["status"]).0 == 0).await;
    (host, engine, daemon)
}

/// Reloads; what changed, in words.
fn reload(host: &Host) -> Vec<String> {
    let (code, out, err) = host.output(&["reload", "--json"]);
    assert_eq!(code, 0, "{out}{err}");
    let answer: Value = serde_json::from_str(&out).unwrap();
    answer["changes"].as_array().unwrap().iter().map(|change| change.as_str().unwrap().to_owned()).collect()
}

fn status(host: &Host) -> Value {
    serde_json::from_str(&host.output(&["status", "--json"]).1).unwrap()
}

fn second_watch(host: &Host) -> String {
    format!(
        "[[watch]]\nname = \"two\"\npath = \"{}\"\npipeline = \"test\"\nsettle = \"300ms\"\n",
        host.path("two").display()
    )
}

fn append(host: &Host, text: &str) {
    let config = std::fs::read_to_string(host.path("config.toml")).unwrap();
    host.write("config.toml", config + text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_comes_goes_and_comes_back_with_what_waited_in_it() {
    let (host, engine, daemon) = running("").await;
    std::fs::create_dir(host.path("two")).unwrap();
    let before = std::fs::read_to_string(host.path("config.toml")).unwrap();
    append(&host, &second_watch(&host));
    assert_eq!(reload(&host), ["watch two added"]);
    let first = host.write("two/first.txt", "first");
    wait_for("its result", || sibling(&first, ".result.json").exists()).await;

    assert_eq!(host.output(&["pause", "two"]).0, 0);
    let second = host.write("two/second.txt", "second");
    wait_for("it to wait", || status(&host)["watches"][1]["jobs"]["pending"] == 1).await;
    host.write("config.toml", &before);
    assert_eq!(reload(&host), ["watch two removed; what waits in it is parked"]);
    let parked = || host.output(&["list", "--watch", "two", "--state", "parked"]).1.contains("second.txt");
    wait_for("it to be parked", parked).await;
    assert_eq!(host.output(&["resume"]).0, 0);
    let unseen = host.write("two/third.txt", "third");

    append(&host, &second_watch(&host));
    assert_eq!(reload(&host), ["watch two added"]);
    for file in [&second, &unseen] {
        wait_for("the others", || sibling(file, ".result.json").exists()).await;
    }
    let names = ["first.txt", "second.txt", "third.txt"].map(str::to_owned);
    assert_sent_once(&engine, &names);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_in_flight_ends_as_it_was_begun() {
    let (host, engine, daemon) = running("").await;
    let held = engine.faults().add(Rule::close(Effect::Delay(Duration::from_secs(4))).object("slow.txt"));
    let slow = host.write("in/slow.txt", "slow");
    wait_for("the close", || engine.faults().hits(held) == 1).await;
    // Its watch and its pipeline both change under it.
    append(&host, "exclude = [\"*.bak\"]\n");
    host.edit_config("file = \"test.pipe\"", "file = \"test.pipe\"\nresult_timeout = \"20m\"");
    assert_eq!(reload(&host), ["watch in changed", "pipeline test changed"]);
    let others = host.drop_files("f", 3);
    host.write("in/no.bak", "no");
    host.all_have_results(&others).await;
    wait_for("the slow one", || sibling(&slow, ".result.json").exists()).await;
    assert_sent_once(&engine, &[others, vec!["slow.txt".to_owned()]].concat());
    assert_eq!(host.result("slow.txt").unwrap()["attempts"], 1);
    assert!(host.result("no.bak").is_none());
    assert!(
        std::fs::read_dir(host.inbox()).unwrap().all(|e| !e.unwrap().file_name().to_string_lossy().starts_with(".rri"))
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_file_leaves_everything_as_it_was() {
    let (host, engine, daemon) = running("").await;
    let good = std::fs::read_to_string(host.path("config.toml")).unwrap();
    for (from, to, words) in [
        ("settle = \"300ms\"", "setle = \"300ms\"", "setle"),
        ("name = \"in\"", "name = \"renamed\"", "sent again"),
        ("file = \"test.pipe\"", "file = \"broken.pipe\"", "broken.pipe"),
        (&format!("path = \"{}\"", host.inbox().display()), "path = \"/srv/elsewhere\"", "moved from"),
    ] {
        host.write("broken.pipe", "{");
        host.edit_config(from, to);
        let (code, out, err) = host.output(&["reload"]);
        assert!(code == 78 && err.contains(words), "{to}: {code} {out} {err}");
        host.write("config.toml", &good);
    }
    daemon.logged("everything stays as it was").await;
    let names = host.drop_files("f", 2);
    host.all_have_results(&names).await;
    assert_sent_once(&engine, &names);
    assert_eq!(reload(&host), [""; 0], "the good one is still in force");
    daemon.stop().await;
    assert_eq!(host.output(&["reload"]).0, 75);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_change_in_place_and_a_restart_is_named_where_one_is_needed() {
    let (host, _engine, daemon) = running("").await;
    append(&host, "[limits]\nfiles_per_second = 2\n[admin]\nlisten = \"127.0.0.1:0\"\n");
    let (code, out, err) = host.output(&["reload"]);
    assert!(code == 0 && out.contains("limits changed") && err.contains("admin changed"), "{code} {out} {err}");
    let names = host.drop_files("f", 4);
    host.all_have_results(&names).await;
    let times: Vec<_> =
        names.iter().map(|name| host.result(name).unwrap()["completed_at"].as_str().unwrap().to_owned()).collect();
    let (first, last) = (times.iter().min().unwrap(), times.iter().max().unwrap());
    let at = |time: &str| rocketride_ingest::clock::from_rfc3339(time).unwrap();
    assert!(at(last) - at(first) >= 1000, "no burst of the new limit: {times:?}");
    host.edit_config("files_per_second = 2", "files_per_second = 0");
    assert_eq!(reload(&host), ["limits changed"]);
    let more = host.drop_files("more", 20);
    host.all_have_results(&more).await;
    daemon.stop().await;
}

fn content(project: &str, note: &str) -> String {
    format!(
        "// {note}\n{{pipeline: {{project_id: {project:?}, source: 'webhook_1', note: {note:?}, \
         components: [{{id: 'webhook_1', provider: 'webhook', config: {{}}}}]}}}}"
    )
}

/// How often a task of the engine was started, by its log of tasks.
fn tasks(engine: &Sandbox) -> Vec<String> {
    engine.tasks().into_iter().map(|(tokens, _)| tokens.token).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_pipeline_file_starts_its_task_again_also_when_it_changed_while_stopped() {
    let (host, engine, daemon) = running("").await;
    let restarted = "its file is not what its task was started with";
    host.write("test.pipe", content("test", "one"));
    assert_eq!(reload(&host), ["pipeline test: its file changed; its task is started again"]);
    daemon.logged(restarted).await;
    let names = host.drop_files("one", 2);
    host.all_have_results(&names).await;
    assert_eq!(reload(&host), [""; 0], "nothing is done twice");
    daemon.stop().await;

    host.write("test.pipe", content("test", "two"));
    let daemon = host.start();
    daemon.logged(restarted).await;
    let more = host.drop_files("two", 2);
    host.all_have_results(&more).await;

    // Under another project it is another task; the earlier one is ended.
    let before = tasks(&engine);
    host.write("test.pipe", content("another", "two"));
    assert_eq!(reload(&host), ["pipeline test: its file changed; its task is started again"]);
    daemon.logged("the task of its earlier file was ended").await;
    let last = host.drop_files("three", 1);
    host.all_have_results(&last).await;
    assert!(tasks(&engine).iter().any(|token| !before.contains(token)));
    assert_sent_once(&engine, &[names, more, last].concat());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_pipeline_file_lets_what_is_in_flight_end_first() {
    let (host, engine, daemon) = running("").await;
    let held = engine.faults().add(Rule::close(Effect::Delay(Duration::from_secs(3))).object("slow.txt"));
    let slow = host.write("in/slow.txt", "slow");
    wait_for("the close", || engine.faults().hits(held) == 1).await;
    host.write("test.pipe", content("test", "changed"));
    reload(&host);
    let next = host.drop_files("next", 1);
    host.all_have_results(&next).await;
    assert!(sibling(&slow, ".result.json").exists(), "the earlier task was left to finish");
    assert_eq!(delivered_as(&engine, "slow.txt").len(), 1);
    assert_eq!(read_json(&sibling(&slow, ".result.json")).unwrap()["attempts"], 1);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_reloads_too() {
    let (host, _engine, daemon) = running("").await;
    append(&host, "exclude = [\"*.bak\"]\n");
    daemon.signal("HUP");
    daemon.logged("watch in changed").await;
    host.write(Path::new("config.toml"), "[server");
    daemon.signal("HUP");
    daemon.logged("the reload was rejected").await;
    let names = host.drop_files("f", 1);
    host.all_have_results(&names).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_level_of_the_log_is_in_force_at_once() {
    let (host, _engine, daemon) = running("").await;
    let loud = "level = \"info,rocketride_ingest=debug\"";
    host.edit_config(loud, "level = \"error\"");
    assert_eq!(reload(&host), ["log.level changed"]);
    let before = daemon.log().len();
    let quiet = host.drop_files("quiet", 1);
    host.all_have_results(&quiet).await;
    assert_eq!(&daemon.log()[before..], "", "nothing of it is an error");

    host.edit_config("level = \"error\"", loud);
    assert_eq!(reload(&host), ["log.level changed"]);
    let told = host.drop_files("told", 1);
    host.all_have_results(&told).await;
    daemon.logged(&told[0]).await;

    host.edit_config("format = \"json\"", "format = \"pretty\"");
    let (code, out, err) = host.output(&["reload"]);
    assert!(code == 0 && err.contains("log.format"), "a restart is needed for it: {code} {out} {err}");
    daemon.stop().await;

    let daemon = host.start_with(&["run", "--log-level", "info", "--log-format", "json"]);
    daemon.logged("\"message\":\"ready\"").await;
    host.edit_config(loud, "level = \"error\"");
    let changes = reload(&host);
    assert!(changes.len() == 2 && changes[1].contains("of the command line holds"), "{changes:?}");
    daemon.logged("of the command line holds").await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_paused_and_then_removed_is_shown_and_resumed_by_its_name() {
    let (host, _engine, daemon) = running("").await;
    std::fs::create_dir(host.path("two")).unwrap();
    let before = std::fs::read_to_string(host.path("config.toml")).unwrap();
    append(&host, &second_watch(&host));
    reload(&host);
    assert_eq!(host.output(&["pause", "two"]).0, 0);
    assert_eq!(status(&host)["paused_elsewhere"], serde_json::json!({}));
    host.write("config.toml", &before);
    reload(&host);
    assert!(status(&host)["paused_elsewhere"]["watch:two"].is_u64(), "{}", status(&host));
    let (_, out, _) = host.output(&["status"]);
    assert!(out.contains("resume watch:two"), "{out}");
    assert_ne!(host.output(&["pause", "two"]).0, 0, "what is not there is not paused");
    let (code, out, err) = host.output(&["resume", "two"]);
    assert!(code == 0 && out.contains("watch:two"), "{code} {out} {err}");
    assert_eq!(status(&host)["paused_elsewhere"], serde_json::json!({}));
    assert_ne!(host.output(&["resume", "two"]).0, 0, "nor resumed twice");
    daemon.stop().await;
}
