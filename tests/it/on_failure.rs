//! `on_failure`: a file that was given up goes elsewhere with its error file; what is not that very file never does.

use std::io::Write as _;
use std::time::Duration;

use rocketride_ingest::sandbox::{Effect, Rule, Sandbox};

use crate::harness::{
    Daemon, Host, delivered_names, engine, files_beneath, read_json, sha256, wait_for, writers_are_seen,
};

const MOVE: &str = "on_failure = { move = \"failed\" }";

/// A daemon with these further lines, whose pipeline refuses what is called `bad*`.
async fn running(extra: &str) -> (Host, Sandbox, Daemon) {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), extra);
    refuse_bad(&engine);
    let daemon = host.start();
    daemon.logged("\"message\":\"ready\"").await;
    (host, engine, daemon)
}

fn refuse_bad(engine: &Sandbox) {
    engine.faults().add(Rule::open(Effect::Mask).object("bad*"));
}

/// What the daemon is to do from its next start on.
fn from_now_on_move(host: &Host) {
    host.edit_config("on_failure = \"keep\"", MOVE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_given_up_is_moved_with_its_error_file_and_its_marker() {
    let (host, engine, daemon) = running(&format!("{MOVE}\ndone_marker = \"{{name}}.ok\"")).await;
    for name in ["bad.txt", "deep/er/bad.txt", "fine.txt"] {
        host.write(format!("in/{name}"), name);
        host.write(format!("in/{name}.ok"), "");
    }
    let of = |name: &str| [name.to_owned(), format!("{name}.error.json"), format!("{name}.ok")];
    let mut expected = [of("failed/bad.txt"), of("failed/deep/er/bad.txt")].concat();
    expected.extend(["fine.txt", "fine.txt.ok", "fine.txt.result.json"].map(str::to_owned));
    wait_for("all to be done", || files_beneath(&host.inbox()) == expected).await;
    let error = read_json(&host.inbox().join("failed/bad.txt.error.json")).unwrap();
    assert!(error["hint"].as_str().unwrap().contains("put the file back"), "{error}");
    daemon.stop().await;
    assert_eq!((host.journaled("in", "failed").await, engine.delivered()), (2, 1));

    // What lies there is never sent, by whatever way it is found; put back, it is a new file.
    engine.faults().clear();
    host.write("in/failed/by hand.txt", "x");
    host.write("in/failed/by hand.txt.ok", "");
    let daemon = host.start();
    std::fs::rename(host.inbox().join("failed/bad.txt"), host.inbox().join("bad.txt")).unwrap();
    std::fs::rename(host.inbox().join("failed/bad.txt.ok"), host.inbox().join("bad.txt.ok")).unwrap();
    wait_for("the result", || host.result("bad.txt").is_some()).await;
    daemon.stop().await;
    assert_eq!(delivered_names(&engine), ["bad.txt", "fine.txt"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_of_what_was_given_up_never_overwrites_and_a_file_saved_anew_is_new() {
    let (host, engine, daemon) = running(MOVE).await;
    host.write("in/failed/bad.txt", "somebody's");
    host.write("in/failed/bad.txt.error.json", "somebody's");
    for round in 1..=2 {
        // The same content each time: a file that appears in its place again is another one.
        host.write("in/bad.txt", "content");
        let others = 2;
        wait_for("the move", || files_beneath(&host.inbox().join("failed")).len() == others + 2 * round).await;
    }
    daemon.stop().await;
    let failed = host.inbox().join("failed");
    let names = files_beneath(&failed);
    assert_eq!(names.len(), files_beneath(&host.inbox()).len(), "nothing is left behind");
    for name in names.iter().filter(|name| !name.starts_with("bad.txt") && !name.ends_with(".error.json")) {
        assert!(name.starts_with("bad~") && name.len() == "bad~01234567.txt".len(), "{name}");
        assert_eq!(std::fs::read(failed.join(name)).unwrap(), b"content");
        let error = read_json(&failed.join(format!("{name}.error.json"))).unwrap();
        assert_eq!(error["attempts"], 3);
    }
    assert_eq!(std::fs::read(failed.join("bad.txt")).unwrap(), b"somebody's");
    assert_eq!(std::fs::read(failed.join("bad.txt.error.json")).unwrap(), b"somebody's");
    assert_eq!(engine.delivered(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_wrote_to_meanwhile_stays_and_is_tried_again() {
    let (host, engine) = (Host::new(), engine().await);
    if !writers_are_seen(&host) {
        eprintln!("SKIPPED: the kernel does not tell of writers here");
        return;
    }
    host.configure(&engine.uri(), MOVE);
    host.edit_config("attempts = 3", "attempts = 1");
    // The reply that says no comes late enough for somebody to open the file for writing.
    let late = engine.faults().add(Rule::close(Effect::Delay(Duration::from_millis(700))).times(1));
    engine.faults().add(Rule::close(Effect::NodeError { message: "no".into() }).times(1));
    let daemon = host.start();
    let path = host.write("in/a.txt", "one");
    wait_for("the close", || engine.faults().hits(late) == 1).await;
    let mut writer = std::fs::File::options().append(true).open(&path).unwrap();
    daemon.logged("the move of this dead letter is tried again").await;
    assert!(path.exists());
    writer.write_all(b", two").unwrap();
    drop(writer);
    daemon.logged("it is tried again, and stays in its place").await;
    wait_for("the result", || host.result("a.txt").is_some()).await;
    daemon.stop().await;
    assert_eq!(host.result("a.txt").unwrap()["sha256"], sha256("one, two"));
    assert_eq!(files_beneath(&host.inbox()), ["a.txt", "a.txt.result.json"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_crash_left_of_the_move_the_next_start_finishes() {
    let (host, engine, daemon) = running("on_failure = \"keep\"").await;
    // "bad" at any place of the way: not begun, hidden, moved without its error file; and one that is to be tried again.
    let names = ["bad0.txt", "bad1.txt", "bad2.txt", "bad3.txt"];
    for name in names {
        host.write(format!("in/{name}"), name);
    }
    wait_for("the error files", || names.iter().all(|name| host.error(name).is_some())).await;
    daemon.stop().await;
    assert_eq!(host.journaled("in", "failed").await, 4);
    let object_id = host.error("bad1.txt").unwrap()["object_id"].as_str().unwrap().to_owned();
    let inbox = host.inbox();
    std::fs::rename(inbox.join("bad1.txt"), inbox.join(format!(".rri-{object_id}"))).unwrap();
    std::fs::create_dir(inbox.join("failed")).unwrap();
    std::fs::rename(inbox.join("bad2.txt"), inbox.join("failed/bad2.txt")).unwrap();
    std::fs::remove_file(inbox.join("bad3.txt.error.json")).unwrap();
    engine.faults().clear();
    from_now_on_move(&host);
    let daemon = host.start();
    let of = |name: &str| [format!("failed/{name}"), format!("failed/{name}.error.json")];
    let mut expected = ["bad3.txt".to_owned(), "bad3.txt.result.json".to_owned()].to_vec();
    expected.extend([of("bad0.txt"), of("bad1.txt"), of("bad2.txt")].concat());
    wait_for("all to be moved", || files_beneath(&inbox) == expected).await;
    // The journal learns that they are gone: in their places they are new.
    for name in &names[..3] {
        std::fs::rename(inbox.join("failed").join(name), inbox.join(name)).unwrap();
        wait_for("its result", || host.result(name).is_some()).await;
    }
    daemon.stop().await;
    assert_eq!(delivered_names(&engine), names);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hidden_dead_letter_is_moved_though_the_journal_was_thrown_away() {
    let (host, engine, daemon) = running("on_failure = \"keep\"").await;
    host.write("in/bad.txt", "x");
    wait_for("the error file", || host.error("bad.txt").is_some()).await;
    daemon.stop().await;
    let hidden = format!(".rri-{}", host.error("bad.txt").unwrap()["object_id"].as_str().unwrap());
    std::fs::rename(host.inbox().join("bad.txt"), host.inbox().join(hidden)).unwrap();
    std::fs::remove_dir_all(host.path("state/journal")).unwrap();
    from_now_on_move(&host);
    // A single pass waits for it.
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    assert_eq!(files_beneath(&host.inbox()), ["failed/bad.txt", "failed/bad.txt.error.json"]);
    assert_eq!(engine.delivered(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_while_dead_letters_are_moved_lose_none_of_them() {
    const FILES: usize = 60;
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), MOVE);
    host.edit_config("attempts = 3", "attempts = 1");
    engine.faults().add(Rule::close(Effect::NodeError { message: "no".into() }));
    let names = host.drop_files("bad", FILES);
    let moved = |name: &String| host.inbox().join("failed").join(name).exists();
    for stop_at in [1, 15, 30, 45] {
        let mut daemon = host.start();
        wait_for("some to be moved", || names.iter().filter(|name| moved(name)).count() >= stop_at).await;
        daemon.kill();
    }
    let daemon = host.start();
    let nothing_left = || files_beneath(&host.inbox()).iter().all(|name| name.starts_with("failed/"));
    wait_for("all to be moved", || nothing_left() && names.iter().all(moved)).await;
    daemon.stop().await;
    for name in &names {
        let failed = host.inbox().join("failed");
        assert_eq!(std::fs::read_to_string(failed.join(name)).unwrap(), format!("content of {name}\n"));
        assert_eq!(read_json(&failed.join(format!("{name}.error.json"))).unwrap()["action"], "error");
    }
    assert_eq!(files_beneath(&host.inbox()).len(), 2 * FILES, "{:?}", files_beneath(&host.inbox()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_on_its_way_is_not_told_gone_and_not_new_when_it_comes_back() {
    let (host, engine, daemon) = running("on_failure = \"keep\"").await;
    let path = host.write("in/bad.txt", "x");
    daemon.logged("given up; see its error file").await;
    let refused = engine.opens().len();
    let hidden = format!(".rri-{}", host.error("bad.txt").unwrap()["object_id"].as_str().unwrap());
    std::fs::rename(&path, path.with_file_name(&hidden)).unwrap();
    // Intake looked at it, and did not find it.
    daemon.logged("cannot be looked at now").await;
    std::fs::rename(path.with_file_name(&hidden), &path).unwrap();
    host.write("in/later.txt", "y");
    wait_for("the result", || host.result("later.txt").is_some()).await;
    daemon.stop().await;
    assert_eq!(engine.opens().len(), refused + 1);
    assert_eq!(host.journaled("in", "failed").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_cannot_be_used_is_tried_again_and_costs_no_further_upload() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "on_failure = { move = \"failed/x\" }\ninclude = [\"bad*\"]");
    host.edit_config("attempts = 3", "attempts = 1");
    let refused = engine.faults().add(Rule::open(Effect::Mask));
    // A folder cannot be made in what is a file; the move is taken back each time.
    let obstacle = host.write("in/failed", "a file");
    let daemon = host.start();
    let path = host.write("in/bad.txt", "x");
    let tries = || daemon.messages("the move of this dead letter is tried again").len();
    wait_for("two tries", || tries() >= 2 || engine.faults().hits(refused) > 1).await;
    // Longer than it settles.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(engine.faults().hits(refused), 1, "what stands there again is what was given up");
    // It has its hidden name for the moment of a try.
    wait_for("its own name", || path.exists()).await;
    std::fs::remove_file(obstacle).unwrap();
    let expected = ["failed/x/bad.txt", "failed/x/bad.txt.error.json"];
    wait_for("the move", || files_beneath(&host.inbox()) == expected).await;
    daemon.stop().await;
    assert_eq!(engine.faults().hits(refused), 1);
}

/// A dead letter whose move cannot be made, and that an operator has sent again meanwhile.
async fn retried_while_its_move_fails(marker: Option<&str>, mend: bool) {
    let (host, engine) = (Host::new(), engine().await);
    let wanted = marker.map_or(String::new(), |suffix| format!("\ndone_marker = \"{{name}}{suffix}\""));
    host.configure(&engine.uri(), &format!("on_failure = {{ move = \"failed/x\" }}\ninclude = [\"bad*\"]{wanted}"));
    host.edit_config("attempts = 3", "attempts = 1");
    engine.faults().add(Rule::open(Effect::Mask));
    let obstacle = host.write("in/failed", "a file");
    let daemon = host.start();
    host.write("in/bad.txt", "x");
    if let Some(suffix) = marker {
        host.write(format!("in/bad.txt{suffix}"), "");
    }
    let tries = || daemon.messages("the move of this dead letter is tried again").len();
    // The next try is some seconds away.
    wait_for("two tries", || tries() >= 2).await;
    engine.faults().clear();
    let retried = host.output(&["retry", "--yes", host.inbox().join("bad.txt").to_str().unwrap()]);
    assert_eq!(retried.0, 0, "{retried:?}");
    if mend {
        std::fs::remove_file(obstacle).unwrap();
    }
    wait_for("the result in its place", || host.result("bad.txt").is_some()).await;
    assert!(host.path("in/bad.txt").exists() && !host.path("in/failed/x").exists());
    daemon.stop().await;
    assert_eq!((engine.delivered(), host.journaled("in", "done").await), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_is_retried_before_it_could_be_moved_is_sent_from_its_place() {
    retried_while_its_move_fails(None, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marked_dead_letter_that_is_retried_while_it_cannot_be_moved_is_sent() {
    retried_while_its_move_fails(Some(".ok"), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dropper_can_do_is_told_to_operators_too() {
    for (extra, error_file, words) in [
        ("", "in/bad.txt.error.json", "delete this error file"),
        (MOVE, "in/failed/bad.txt.error.json", "put the file back"),
        ("[watch.results]\ndirectory = \"out\"", "in/out/in/bad.txt.error.json", "delete"),
    ] {
        let (host, engine) = (Host::new(), engine().await);
        std::fs::create_dir(host.path("in/out")).unwrap();
        host.configure(&engine.uri(), extra);
        refuse_bad(&engine);
        let daemon = host.start();
        let bad = host.write("in/bad.txt", "bad");
        let letter = || {
            let (_, out, _) = host.output(&["list", "--state", "failed", "--json"]);
            serde_json::from_str::<serde_json::Value>(&out).ok()
        };
        wait_for("it to be given up", || letter().is_some()).await;
        wait_for("its place", || host.path(error_file).exists() && (extra == MOVE) != bad.exists()).await;
        let hint = letter().unwrap()["hint"].as_str().unwrap().to_owned();
        assert!(hint.starts_with("The pipeline could not process this file") && hint.contains(words), "{hint}");
        let (_, out, _) = host.output(&["list", "--state", "failed"]);
        assert!(out.contains(words), "{out}");
        let (_, out, _) = host.output(&["explain", bad.to_str().unwrap()]);
        assert!(out.contains("what to do") && out.contains(words), "{out}");

        // A stranger's file at its name tells nothing.
        let strange =
            std::fs::read_to_string(host.path(error_file)).unwrap().replace("\"schema_version\"", "\"version\"");
        assert_eq!(host.output(&["pause", "in"]).0, 0);
        host.write(error_file, strange);
        wait_for("the words to be gone", || !host.output(&["list", "--state", "failed"]).1.contains(words)).await;
        daemon.stop().await;
    }
}
