//! After the delivery: what is removed, moved, written or left alone, and never a file that was not delivered.

use std::collections::HashSet;
use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rocketride_ingest::sandbox::{Effect, Rule, RuleId, Sandbox};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::Value;

use crate::harness::{
    Daemon, Host, PATIENCE, delivered_as, delivered_names, engine, files_beneath as files, read_json, result_path,
    running, sha256, sibling, wait_for,
};

fn touch(path: &Path) {
    let later = SystemTime::now() + Duration::from_secs(30);
    std::fs::File::options().write(true).open(path).unwrap().set_modified(later).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_removes_what_was_delivered_and_leaves_its_result() {
    let (host, engine, daemon) = running("on_success = \"delete\"\nexclude = [\"kept.txt\"]").await;
    engine.faults().add(Rule::open(Effect::Mask).object("refused.txt"));
    for name in ["a.txt", "sub/b.txt", "kept.txt", "refused.txt"] {
        host.write(format!("in/{name}"), name);
    }
    let done = || ["a.txt", "sub/b.txt"].iter().all(|name| !host.inbox().join(name).exists());
    wait_for("both inputs to go", done).await;
    wait_for("the error file", || host.error("refused.txt").is_some()).await;
    let expected = ["a.txt.result.json", "kept.txt", "refused.txt", "refused.txt.error.json", "sub/b.txt.result.json"];
    assert_eq!(files(&host.inbox()), expected);
    for name in ["a.txt", "sub/b.txt"] {
        assert_eq!(host.result(name).unwrap()["sha256"], sha256(name));
    }
    // The same file dropped again is a new one.
    host.write("in/a.txt", "a.txt");
    wait_for("the second delivery", || delivered_as(&engine, "a.txt").len() == 2).await;
    wait_for("the input to go", || !host.inbox().join("a.txt").exists()).await;
    daemon.stop().await;
    assert_eq!(engine.delivered(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn move_mirrors_the_folders_and_takes_the_result_along() {
    let (host, engine, daemon) = running("on_success = { move = \"done\" }").await;
    host.write("in/a.txt", "a");
    host.write("in/deep/er/b.txt", "b");
    let expected = ["done/a.txt", "done/a.txt.result.json", "done/deep/er/b.txt", "done/deep/er/b.txt.result.json"];
    wait_for("everything to be moved", || files(&host.inbox()) == expected).await;
    assert_eq!(host.result("done/deep/er/b.txt").unwrap()["sha256"], sha256("b"));
    // By hand, too: what lies there is finished.
    host.write("in/done/by hand.txt", "x");
    host.write("in/last.txt", "last");
    wait_for("the last", || host.result("done/last.txt").is_some()).await;
    daemon.stop().await;
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    assert_eq!(delivered_names(&engine), ["a.txt", "b.txt", "last.txt"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn move_never_overwrites_what_stands_at_its_target() {
    let (host, engine, daemon) = running("on_success = { move = \"done\" }").await;
    host.write("in/done/a.txt", "somebody's");
    host.write("in/done/a.txt.result.json", "somebody's");
    for (n, content) in ["first", "second", "first"].into_iter().enumerate() {
        host.write("in/a.txt", content);
        wait_for("the input to go", || engine.delivered() == n as u64 + 1 && !host.inbox().join("a.txt").exists())
            .await;
    }
    daemon.stop().await;
    let done = host.inbox().join("done");
    assert_eq!(std::fs::read(done.join("a.txt")).unwrap(), b"somebody's");
    assert_eq!(std::fs::read(done.join("a.txt.result.json")).unwrap(), b"somebody's");
    for content in ["first", "second"] {
        let moved = done.join(format!("a~{}.txt", &sha256(content)[..8]));
        assert_eq!(std::fs::read_to_string(&moved).unwrap(), content);
        assert_eq!(read_json(&result_path(&moved)).unwrap()["sha256"], sha256(content));
    }
    // Its name and the one with its hash are taken by then: the third time there still is a name.
    assert_eq!(files(&done).len(), 2 + 3 * 2, "{:?}", files(&host.inbox()));
    assert_eq!(files(&host.inbox()).len(), 2 + 3 * 2, "nothing is left behind: {:?}", files(&host.inbox()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_replaced_before_its_post_action_is_delivered_before_it_goes() {
    let (host, engine, daemon) = running("on_success = \"delete\"").await;
    // The old content is committed; its reply comes late enough for a new file to take the place.
    let late = engine.faults().add(Rule::close(Effect::Delay(Duration::from_millis(700))).times(1));
    let path = host.write("in/a.txt", "old");
    wait_for("the close", || engine.faults().hits(late) == 1).await;
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    let new = host.write("new", "new");
    std::fs::File::options().write(true).open(&new).unwrap().set_modified(modified).unwrap();
    std::fs::rename(new, &path).unwrap();
    daemon.logged("the file changed after its delivery").await;
    wait_for("the input to go", || !path.exists()).await;
    daemon.stop().await;
    let delivered: Vec<_> = engine.deliveries().into_iter().map(|delivery| delivery.sha256).collect();
    assert_eq!(delivered, [sha256("old"), sha256("new")]);
    assert_eq!(host.result("a.txt").unwrap()["sha256"], sha256("new"));
}

/// Somebody exchanges the file at every moment between its commit and its removal. Each content comes back to them,
/// stands in the inbox, or was delivered: none is removed unsent.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_removed_was_delivered_however_often_it_is_replaced() {
    const ROUNDS: u64 = 40;
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "on_success = \"delete\"");
    host.edit_config("settle = \"300ms\"", "settle = \"1ms\"");
    let daemon = host.start();
    daemon.logged("\"message\":\"ready\"").await;
    let (place, mine) = (host.inbox().join("a.txt"), host.path("mine"));
    let mut gone = HashSet::from([sha256("the first")]);
    host.write("in/a.txt", "the first");
    for round in 0..ROUNDS {
        let committed = engine.delivered();
        let next = async {
            while engine.delivered() == committed && place.exists() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("the next delivery");
        tokio::time::sleep(Duration::from_millis(round % 8)).await;
        let content = format!("content of round {round}");
        std::fs::write(&mine, &content).unwrap();
        gone.insert(sha256(&content));
        match renameat_with(CWD, &mine, CWD, &place, RenameFlags::EXCHANGE) {
            // The one that stood there came back.
            Ok(()) => assert!(gone.remove(&sha256(std::fs::read(&mine).unwrap()))),
            Err(rustix::io::Errno::NOENT) => {
                // If a file took the place this instant, this one was never put.
                if renameat_with(CWD, &mine, CWD, &place, RenameFlags::NOREPLACE).is_err() {
                    gone.remove(&sha256(&content));
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
    wait_for("the last to go", || !place.exists()).await;
    daemon.stop().await;
    let delivered: HashSet<_> = engine.deliveries().into_iter().map(|delivery| delivery.sha256).collect();
    let standing = files(&host.inbox());
    let standing: HashSet<_> =
        standing.iter().map(|rel| sha256(std::fs::read(host.inbox().join(rel)).unwrap())).collect();
    assert!(!files(&host.inbox()).iter().any(|name| name.starts_with(".rri-")), "{:?}", files(&host.inbox()));
    let lost: Vec<_> = gone.iter().filter(|hash| !delivered.contains(*hash) && !standing.contains(*hash)).collect();
    assert!(lost.is_empty(), "{} of {} contents were removed unsent", lost.len(), gone.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_put_at_the_results_name_is_never_overwritten() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    let in_inbox = |name: &str| host.inbox().join(name);
    host.write("secret", "secret");
    host.write("in/file.txt.result.json", "somebody's");
    host.write("in/json.txt.result.json", "{\"action\": \"complete\", \"schema_version\": 1}");
    std::fs::create_dir(in_inbox("folder.txt.result.json")).unwrap();
    symlink(host.path("secret"), in_inbox("link.txt.result.json")).unwrap();
    symlink("nowhere", in_inbox("dangling.txt.result.json")).unwrap();
    std::fs::hard_link(host.path("secret"), in_inbox("hard.txt.result.json")).unwrap();
    let before: Vec<_> = files(&host.inbox());
    let inputs = ["file", "json", "folder", "link", "dangling", "hard"].map(|name| format!("{name}.txt"));
    for round in ["one", "two"] {
        for name in &inputs {
            host.write(format!("in/{name}"), format!("{round} {name}"));
        }
        assert_eq!(host.output(&["run", "--once"]).0, 0);
        for name in &inputs {
            let result = read_json(&sibling(&in_inbox(name), "~2.result.json")).unwrap();
            assert_eq!(result["sha256"], sha256(format!("{round} {name}")), "{name}");
        }
        let expected = before.len() + 2 * inputs.len();
        assert_eq!(files(&host.inbox()).len(), expected, "{:?}", files(&host.inbox()));
    }
    assert_eq!(std::fs::read(in_inbox("file.txt.result.json")).unwrap(), b"somebody's");
    assert!(in_inbox("folder.txt.result.json").is_dir());
    assert_eq!(std::fs::read_link(in_inbox("link.txt.result.json")).unwrap(), host.path("secret"));
    assert_eq!(std::fs::read_link(in_inbox("dangling.txt.result.json")).unwrap(), PathBuf::from("nowhere"));
    assert_eq!(std::fs::read(host.path("secret")).unwrap(), b"secret");

    // Results at their second names are found there when the journal is lost, too.
    std::fs::remove_dir_all(host.path("state/journal")).unwrap();
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    assert_eq!(engine.delivered(), 2 * inputs.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_is_never_more_readable_than_its_input() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    for mode in [0o600, 0o640, 0o644, 0o666, 0o400] {
        let path = host.write(format!("in/{mode:o}.txt"), "x");
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    let mode_of = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    for mode in [0o600, 0o640, 0o644, 0o666, 0o400] {
        let result = mode_of(host.inbox().join(format!("{mode:o}.txt.result.json")));
        // To their owner they are writable: they may be replaced.
        assert_eq!(result & !(mode | 0o600), 0, "{result:o} for {mode:o}");
        assert_eq!(result & 0o600, 0o600, "{result:o} for {mode:o}");
        assert_eq!(result & 0o022, 0, "nobody else makes it say what was never delivered: {result:o} for {mode:o}");
    }
    drop(engine);
}

/// A daemon that has given up `a.txt`, which the pipeline refused each time in this way; the rule still holds.
async fn given_up(rule: Rule) -> (Host, Sandbox, Daemon, RuleId, Value) {
    let (host, engine, daemon) = running("").await;
    let refused = engine.faults().add(rule);
    host.write("in/a.txt", "content");
    wait_for("the error file", || host.error("a.txt").is_some()).await;
    let error = host.error("a.txt").unwrap();
    (host, engine, daemon, refused, error)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_the_pipeline_refuses_gets_an_error_file_until_a_touch_delivers_it() {
    let (host, engine, daemon, refused, error) = given_up(Rule::open(Effect::Mask)).await;
    assert_eq!(engine.faults().hits(refused), 3, "as many attempts as [retry] says");
    assert_eq!((&error["action"], &error["attempts"]), (&"error".into(), &3.into()), "{error}");
    for key in ["error", "hint", "code", "first_attempt_at", "last_attempt_at", "object_id", "instance"] {
        assert!(error[key].as_str().is_some_and(|text| !text.is_empty()), "{key} in {error}");
    }
    assert_eq!(error["retryable"], true);
    assert!(host.result("a.txt").is_none());

    engine.faults().remove(refused);
    touch(&host.inbox().join("a.txt"));
    host.has_result_of("a.txt", "content").await;
    wait_for("the error file to go", || host.error("a.txt").is_none()).await;
    daemon.stop().await;
    assert_eq!(engine.delivered(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_fails_is_quoted_in_the_error_file_and_removing_that_retries() {
    let rule = Rule::close(Effect::NodeError { message: "page 7 cannot be read".into() });
    let (host, engine, daemon, refused, error) = given_up(rule).await;
    assert!(error["error"].as_str().unwrap().contains("page 7 cannot be read"), "{error}");
    assert_eq!(error["attempts"], 3);

    engine.faults().remove(refused);
    std::fs::remove_file(host.inbox().join("a.txt.error.json")).unwrap();
    host.has_result_of("a.txt", "content").await;
    daemon.stop().await;
    assert!(host.error("a.txt").is_none());
    assert_eq!(engine.deliveries().iter().filter(|delivery| delivery.complete()).count(), 1);
}

/// Delivers `a.txt` once, so that the hidden name of its post-action is known, puts something there, and drops it again.
async fn with_something_at_the_hidden_name(
    extra: &str,
    put: impl FnOnce(&Host, &Path),
) -> (Host, Sandbox, Daemon, PathBuf) {
    let (host, engine, daemon) = running(extra).await;
    host.write("in/a.txt", "first");
    // It goes by way of its hidden name: only when that is free as well, its post-action is over.
    let is_over = || {
        let names = files(&host.inbox());
        !names.iter().any(|name| name == "a.txt" || name.contains(".rri-"))
    };
    wait_for("the input to go", || engine.delivered() == 1 && is_over()).await;
    let result = read_json(&host.inbox().join("a.txt.result.json"))
        .or_else(|| read_json(&host.inbox().join("done/a.txt.result.json")));
    let hidden = host.inbox().join(format!(".rri-{}", result.unwrap()["object_id"].as_str().unwrap()));
    put(&host, &hidden);
    host.write("in/a.txt", "second");
    (host, engine, daemon, hidden)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_got_stuck_at_a_hidden_name_is_sent_and_hinders_nothing() {
    for extra in ["on_success = \"delete\"", "on_success = { move = \"done\" }"] {
        let put = |host: &Host, hidden: &Path| {
            std::fs::rename(host.write("stuck", "somebody's only copy"), hidden).unwrap();
        };
        let (host, engine, daemon, hidden) = with_something_at_the_hidden_name(extra, put).await;
        let none_left =
            || files(&host.inbox()).iter().all(|name| name.starts_with("done/") || name.contains(".result."));
        wait_for("all inputs to go", || engine.delivered() == 3 && none_left()).await;
        assert!(!hidden.exists());
        let sent: Vec<_> = engine.deliveries().into_iter().map(|delivery| delivery.sha256).collect();
        assert!(sent.contains(&sha256("somebody's only copy")), "under a name of its own");
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_at_a_hidden_name_and_is_no_file_is_left_alone_and_said() {
    let put = |host: &Host, hidden: &Path| symlink(host.write("outside", "outside"), hidden).unwrap();
    let (host, engine, daemon, hidden) = with_something_at_the_hidden_name("on_success = \"delete\"", put).await;
    daemon.logged("stands in the way, and is no file: remove it, then touch this file").await;
    assert_eq!(std::fs::read_link(&hidden).unwrap(), host.path("outside"));
    assert_eq!(std::fs::read_to_string(host.path("outside")).unwrap(), "outside");
    assert!(host.inbox().join("a.txt").exists());
    assert_eq!(engine.delivered(), 2, "delivered all the same");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_whose_target_became_a_link_leads_nowhere_and_is_done_once_it_is_a_folder() {
    let (host, engine, daemon) = running("on_success = { move = \"done\" }").await;
    std::fs::create_dir(host.path("outside")).unwrap();
    symlink(host.path("outside"), host.inbox().join("done")).unwrap();
    host.write("in/a.txt", "a");
    daemon.logged("no folder to move it to, in").await;
    assert_eq!(std::fs::read_dir(host.path("outside")).unwrap().count(), 0);
    assert_eq!(std::fs::read_to_string(host.inbox().join("a.txt")).unwrap(), "a");
    std::fs::remove_file(host.inbox().join("done")).unwrap();
    wait_for("the move", || files(&host.inbox()) == ["done/a.txt", "done/a.txt.result.json"]).await;
    daemon.stop().await;
    assert_eq!(std::fs::read_dir(host.path("outside")).unwrap().count(), 0);
    assert_eq!(engine.delivered(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_comes_again_is_sent_again_though_nobody_remembers_the_first() {
    for action in ["\"delete\"", "{ move = \"done\" }"] {
        let (host, engine) = (Host::new(), engine().await);
        host.configure(&engine.uri(), &format!("on_success = {action}"));
        let path = host.write("in/prices.csv", "the same every week");
        assert_eq!(host.output(&["run", "--once"]).0, 0);
        assert!(!path.exists());
        // As the journal forgets what is long over; the result of the first may still stand there.
        std::fs::remove_dir_all(host.path("state/journal")).unwrap();
        host.write("in/prices.csv", "the same every week");
        assert_eq!(host.output(&["run", "--once"]).0, 0);
        assert_eq!(delivered_as(&engine, "prices.csv").len(), 2, "on_success = {action}");
    }
}
