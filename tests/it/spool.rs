//! Results that cannot be written beside their input wait in the spool: they are placed later, and never paid for twice.

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rocketride_ingest::identity::Identity;
use rocketride_ingest::job::{FileKey, WatchId};
use rocketride_ingest::sandbox::{Effect, Rule, Sandbox};

use crate::audit::{audit, found};
use crate::harness::{Daemon, Host, assert_sent_once, delivered_as, engine, read_json, sha256, wait_for};
use crate::host_faults::{Mount, chmod, is_root, start_bound, start_bound_by_permissions};

const WAITS: &str = "delivered, but the result cannot be written; it waits in the spool";
const HELD: &str = "this host cannot serve the watch; it is held, and no file is charged";
const PLACED: &str = "delivered: the result was placed from the spool";

/// A host, and the daemon that has sent `in/sub/a.txt` but found `in/sub` read-only when the result came.
async fn stuck(extra: &str, prepare: impl FnOnce(&Host)) -> (Host, Sandbox, Daemon) {
    let (host, engine) = (Host::new(), engine().await);
    let task = engine.start_task("test", 4).token;
    let held = engine.hold_slots(&task, 4);
    host.configure(&engine.uri(), extra);
    host.write("in/sub/a.txt", "a");
    prepare(&host);
    let daemon = start_bound_by_permissions(&host);
    // The file of the result is begun before the open.
    wait_for("an open that waits", || engine.opens_waiting(&task) > 0).await;
    chmod(host.path("in/sub"), 0o555);
    drop(held);
    (host, engine, daemon)
}

/// What stands in the spool.
fn in_spool(host: &Host) -> Vec<PathBuf> {
    std::fs::read_dir(host.path("state/spool")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn mode_of(path: impl AsRef<Path>) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o777
}

async fn placed(host: &Host) {
    chmod(host.path("in/sub"), 0o755);
    wait_for("the result", || host.result("sub/a.txt").is_some()).await;
    wait_for("the spool to be empty", || in_spool(host).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_whose_folder_became_read_only_outlives_a_kill_and_nothing_is_sent_until_it_is_placed() {
    let (host, engine, mut daemon) = stuck("", |_| ()).await;
    daemon.logged(WAITS).await;
    let spooled = in_spool(&host);
    assert_eq!((spooled.len(), mode_of(&spooled[0]), mode_of(host.path("state/spool"))), (1, 0o600, 0o700));
    assert_eq!(read_json(&spooled[0]).unwrap()["sha256"], sha256("a"));
    daemon.logged(HELD).await;
    daemon.kill();
    assert_eq!(host.journaled("in", "spooled").await, 1);
    assert_eq!(found(&audit(&host).await), Vec::<String>::new());
    let aside = host.path("aside");
    std::fs::rename(&spooled[0], &aside).unwrap();
    let missing = format!("sub/a.txt: its result is not in the spool: {}", spooled[0].display());
    assert_eq!(found(&audit(&host).await), [missing]);
    std::fs::rename(&aside, &spooled[0]).unwrap();
    host.write("in/late.txt", "late");
    if is_root() {
        host.give_away();
    }

    let daemon = start_bound_by_permissions(&host);
    daemon.logged(HELD).await;
    daemon.logged("\"message\":\"pipeline is up\"").await;
    daemon.logged("scan complete").await;
    // Longer than the late one needs to settle.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((engine.delivered(), in_spool(&host)), (1, spooled), "held, and not lost");
    placed(&host).await;
    let names = ["sub/a.txt".to_owned(), "late.txt".to_owned()];
    host.all_have_results(&names).await;
    host.assert_delivered_uncharged(&names);
    assert_sent_once(&engine, &["a.txt".into(), "late.txt".into()]);
    daemon.logged("\"message\":\"delivered\"").await;
    let log = daemon.log();
    assert!(log.find(PLACED) < log.find("\"message\":\"delivered\""), "what is waited for comes first");
    daemon.stop().await;
    assert_eq!((host.journaled("in", "done").await, host.journaled("in", "spooled").await), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spooled_result_is_adopted_after_the_journal_was_deleted() {
    let (host, engine, mut daemon) = stuck("", |_| ()).await;
    daemon.logged(WAITS).await;
    daemon.kill();
    std::fs::remove_dir_all(host.path("state/journal")).unwrap();

    let daemon = start_bound_by_permissions(&host);
    daemon.logged(HELD).await;
    assert_eq!(in_spool(&host).len(), 1);
    placed(&host).await;
    daemon.stop().await;
    host.assert_delivered_uncharged(&["sub/a.txt".into()]);
    assert_sent_once(&engine, &["a.txt".into()]);
    assert_eq!(host.journaled("in", "done").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_folder_that_refuses_its_result_keeps_no_other_result_back() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    // Time to take the permissions away after the writes and before the results.
    engine.faults().add(Rule::close(Effect::Delay(Duration::from_secs(3))));
    let folders = ["one", "two"];
    for folder in folders {
        host.write(format!("in/{folder}/{folder}.txt"), folder);
    }
    let mut daemon = start_bound_by_permissions(&host);
    wait_for("both writes", || engine.writes().len() == folders.len()).await;
    for folder in folders {
        chmod(host.path("in").join(folder), 0o555);
    }
    wait_for("both results to be spooled", || daemon.log().matches(WAITS).count() == folders.len()).await;
    daemon.kill();

    // The one that the dispatcher sees first stays closed.
    let key = |folder: &&str| FileKey::new(WatchId::of("in"), format!("{folder}/{folder}.txt").as_ref()).to_bytes();
    let [first, second] = if key(&folders[0]) < key(&folders[1]) { folders } else { [folders[1], folders[0]] };
    chmod(host.path("in").join(second), 0o755);
    host.write("in/late.txt", "late");
    if is_root() {
        host.give_away();
    }
    let daemon = start_bound_by_permissions(&host);
    wait_for("the other result", || host.result(format!("{second}/{second}.txt")).is_some()).await;
    daemon.logged(PLACED).await;
    let log = daemon.log();
    let before = &log[..log.find(PLACED).unwrap()];
    assert!(
        before.contains(&format!("the result of {first}/{first}.txt waits in the spool")),
        "{first} was tried before"
    );
    wait_for("the spool to have the first alone", || in_spool(&host).len() == 1).await;
    wait_for("the first to be tried again", || daemon.messages(HELD).len() == 2).await;
    // A stop waits for whatever was begun.
    daemon.stop().await;
    assert!(delivered_as(&engine, "late.txt").is_empty(), "nothing new is sent while a result waits");
    assert_eq!(host.journaled("in", "spooled").await, 1);
    assert_sent_once(&engine, &folders.map(|folder| format!("{folder}.txt")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_in_the_spool_after_its_delivery_was_recorded_is_removed() {
    let (host, engine, daemon) = stuck("", |_| ()).await;
    daemon.logged(WAITS).await;
    let spooled = in_spool(&host).remove(0);
    let content = std::fs::read(&spooled).unwrap();
    placed(&host).await;
    daemon.stop().await;
    std::fs::write(&spooled, content).unwrap();
    if is_root() {
        host.give_away();
    }
    let daemon = start_bound_by_permissions(&host);
    wait_for("the spool to be empty", || in_spool(&host).is_empty()).await;
    daemon.stop().await;
    assert_sent_once(&engine, &["a.txt".into()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spooled_result_is_adopted_by_its_content_where_the_file_was_touched() {
    let (host, engine, mut daemon) = stuck("", |_| ()).await;
    daemon.logged(WAITS).await;
    daemon.kill();
    std::fs::remove_dir_all(host.path("state/journal")).unwrap();
    host.write("in/sub/a.txt", "a");
    chmod(host.path("in/sub"), 0o755);
    let daemon = start_bound_by_permissions(&host);
    placed(&host).await;
    daemon.stop().await;
    assert_sent_once(&engine, &["a.txt".into()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_leaves_the_result_in_memory_and_says_so() {
    let (host, engine, daemon) =
        stuck("", |host| host.edit_config("min_free = \"0\"", "min_free = \"0\"\nmax_spool = \"100B\"")).await;
    daemon.logged("delivered, but neither can the result be written nor spooled").await;
    assert!(daemon.log().contains("state.max_spool") && in_spool(&host).is_empty());
    placed(&host).await;
    host.assert_delivered_uncharged(&["sub/a.txt".into()]);
    assert_sent_once(&engine, &["a.txt".into()]);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_spool_leaves_the_journal_room_on_its_disk() {
    let mut disk = None;
    let (host, engine, daemon) = stuck("", |host| {
        std::fs::create_dir(host.path("state")).unwrap();
        disk = Mount::tmpfs(host.path("state"), "size=32m");
    })
    .await;
    let Some(_disk) = disk else { return };
    daemon.logged("which the journal needs").await;
    assert!(in_spool(&host).is_empty());
    placed(&host).await;
    assert_sent_once(&engine, &["a.txt".into()]);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_post_action_follows_a_spooled_delivery() {
    let (host, engine, daemon) = stuck("on_success = \"delete\"", |_| ()).await;
    daemon.logged(WAITS).await;
    assert!(host.path("in/sub/a.txt").exists(), "not touched before its result stands there");
    placed(&host).await;
    wait_for("the input to go", || !host.path("in/sub/a.txt").exists()).await;
    assert_eq!(host.result("sub/a.txt").unwrap()["sha256"], sha256("a"));
    assert_eq!(engine.delivered(), 1);
    daemon.stop().await;
    assert_eq!(host.journaled("in", "done").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_placed_result_is_no_more_readable_than_its_input() {
    let (host, _engine, daemon) = stuck("", |host| chmod(host.path("in/sub/a.txt"), 0o600)).await;
    daemon.logged(WAITS).await;
    placed(&host).await;
    assert_eq!(mode_of(host.path("in/sub/a.txt.result.json")), 0o600);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_placed_result_has_the_mode_that_its_watch_wants() {
    let (host, _engine, daemon) = stuck("[watch.results]\nmode = \"0640\"", |_| ()).await;
    daemon.logged(WAITS).await;
    placed(&host).await;
    assert_eq!(mode_of(host.path("in/sub/a.txt.result.json")), 0o640);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_result_of_a_file_that_went_meanwhile_is_placed_for_its_owner_alone() {
    let (host, engine, daemon) = stuck("", |host| chmod(host.path("in/sub/a.txt"), 0o644)).await;
    daemon.logged(WAITS).await;
    chmod(host.path("in/sub"), 0o755);
    std::fs::remove_file(host.path("in/sub/a.txt")).unwrap();
    placed(&host).await;
    assert_eq!(mode_of(host.path("in/sub/a.txt.result.json")), 0o600);
    assert_eq!(host.result("sub/a.txt").unwrap()["sha256"], sha256("a"));
    // Intake had looked at the path while nothing could be said of it.
    daemon.logged(PLACED).await;
    assert_eq!(engine.delivered(), 1);
    wait_for("its absence to be known", || {
        let path = host.path("in/sub/a.txt");
        let (_, out, err) = host.output(&["retry", "--dry-run", path.to_str().unwrap()]);
        (out + &err).contains("its file is no longer there")
    })
    .await;
    host.write("in/sub/a.txt", "a");
    wait_for("the second delivery", || engine.delivered() == 2).await;
    daemon.stop().await;
    assert_eq!(host.journaled("in", "done").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spooled_result_is_placed_in_no_other_folder_than_its_file_was_in() {
    let (host, engine, daemon) = stuck("on_success = \"delete\"", |_| ()).await;
    daemon.logged(WAITS).await;
    // The folder of a disk that was unmounted, say: it looks the same, and is another one.
    std::fs::rename(host.inbox(), host.path("elsewhere")).unwrap();
    std::fs::create_dir_all(host.path("in/sub")).unwrap();
    if is_root() {
        host.give_away();
    }
    daemon.logged("another folder stands at this path than before").await;
    wait_for("a try in vain", || daemon.messages(HELD).len() >= 2 || host.result("sub/a.txt").is_some()).await;
    assert_eq!((host.result("sub/a.txt"), in_spool(&host).len()), (None, 1));
    std::fs::rename(host.inbox(), host.path("other")).unwrap();
    std::fs::rename(host.path("elsewhere"), host.inbox()).unwrap();
    assert!(host.path("in/sub/a.txt").exists());
    placed(&host).await;
    wait_for("the input to go", || !host.path("in/sub/a.txt").exists()).await;
    daemon.stop().await;
    assert_eq!((engine.delivered(), host.journaled("in", "done").await), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changed_meanwhile_is_sent_after_the_result_of_what_it_was_is_placed() {
    let (host, engine, daemon) = stuck("", |_| ()).await;
    daemon.logged(WAITS).await;
    host.write("in/sub/a.txt", "another content");
    placed(&host).await;
    wait_for("the new result", || host.result("sub/a.txt").unwrap()["sha256"] == sha256("another content")).await;
    // The result stands there a moment before the log says so.
    daemon.logged("\"message\":\"delivered\"").await;
    let log = daemon.log();
    let at = |text: &str| log.find(text).unwrap_or_else(|| panic!("{text:?} is not in the log"));
    assert!(at(PLACED) < at("\"message\":\"delivered\""), "the older one first");
    assert_eq!(delivered_as(&engine, "a.txt").len(), 2);
    daemon.stop().await;
    assert!(in_spool(&host).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_whose_folder_is_gone_is_kept_and_told_of_at_each_start() {
    let (host, engine, daemon) = stuck("", |_| ()).await;
    daemon.logged(WAITS).await;
    chmod(host.path("in/sub"), 0o755);
    std::fs::remove_dir_all(host.path("in/sub")).unwrap();
    daemon.logged("the file is gone with its folder: its result has no place, and is kept in the spool").await;
    daemon.stop().await;
    assert_eq!((in_spool(&host).len(), host.journaled("in", "done").await), (1, 1));
    assert_eq!(found(&audit(&host).await), Vec::<String>::new(), "it is there as the journal says");

    let daemon = start_bound_by_permissions(&host);
    daemon.logged("the spool holds files that nothing waits for").await;
    assert!(daemon.log().contains("\"orphaned\":1"), "{}", daemon.log());
    // The same content at the same path gets the result that was paid for.
    host.write("in/sub/a.txt", "a");
    if is_root() {
        host.give_away();
    }
    placed(&host).await;
    assert_eq!(engine.delivered(), 1);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ours_in_the_spool_is_no_result_and_stays() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    host.write("in/first.txt", "first");
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    let identity = Identity::load(&host.path("state"), None, false).unwrap();
    let result = std::fs::read_to_string(host.path("in/first.txt.result.json")).unwrap();
    let object_id = |name: &str| identity.object_id("in", name.as_ref()).to_string();
    let of_ours = |name: &str| result.replace("first.txt", name).replace(&object_id("first.txt"), &object_id(name));
    let spooled = |name: &str| host.path(format!("state/spool/{}.json", object_id(name)));
    std::fs::write(spooled("a.txt"), of_ours("a.txt").replace(&identity.instance, "somebody")).unwrap();
    std::fs::write(spooled("b.txt"), of_ours("of another object.txt")).unwrap();
    symlink(host.write("elsewhere.json", of_ours("c.txt")), spooled("c.txt")).unwrap();
    std::fs::hard_link(host.write("linked.json", of_ours("d.txt")), spooled("d.txt")).unwrap();
    std::fs::write(spooled("e.txt"), of_ours("e.txt").replace(&sha256("first"), &sha256("e"))).unwrap();
    let names = ["a.txt", "b.txt", "c.txt", "d.txt", "e.txt"].map(str::to_owned);
    for name in &names {
        host.write(format!("in/{name}"), "first");
    }
    let daemon = host.start();
    host.all_have_results(&names).await;
    assert_sent_once(&engine, &names);
    daemon.logged("the spool holds files that nothing waits for").await;
    daemon.stop().await;
    for name in ["a.txt", "b.txt", "c.txt", "d.txt"] {
        assert!(std::fs::symlink_metadata(spooled(name)).is_ok(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spooled_result_that_was_tampered_with_is_not_placed_and_its_file_not_sent_again() {
    let (host, engine, mut daemon) = stuck("", |_| ()).await;
    daemon.logged(WAITS).await;
    daemon.kill();
    let spooled = in_spool(&host).remove(0);
    let text = std::fs::read_to_string(&spooled).unwrap();
    std::fs::write(&spooled, text.replace(&sha256("a"), &sha256("b"))).unwrap();
    chmod(host.path("in/sub"), 0o755);
    let daemon = start_bound_by_permissions(&host);
    daemon.logged("its result was removed from the spool, or is not what was put there").await;
    daemon.stop().await;
    assert_eq!((engine.delivered(), host.result("sub/a.txt")), (1, None));
    assert_eq!(host.journaled("in", "done").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_pass_waits_for_a_spooled_result_and_ends_when_waiting_does_not_help() {
    let (host, engine, daemon) = stuck("", |_| ()).await;
    daemon.logged(WAITS).await;
    daemon.stop().await;
    assert_eq!(host.journaled("in", "spooled").await, 1, "a stop leaves it where it is");
    let mut once = start_bound(&host, &["run", "--once"]);
    assert_eq!(once.ended().await.code(), Some(1), "{}", once.log());
    chmod(host.path("in/sub"), 0o755);
    let mut once = start_bound(&host, &["run", "--once"]);
    assert_eq!(once.ended().await.code(), Some(0), "{}", once.log());
    host.assert_delivered_uncharged(&["sub/a.txt".into()]);
    assert_sent_once(&engine, &["a.txt".into()]);
}
