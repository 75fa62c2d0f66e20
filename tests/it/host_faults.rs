//! Faults of this host: folders that go and come, permissions, a full disk. They cost no attempt.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

pub use crate::harness::is_root;
use crate::harness::{Daemon, Host, assert_sent_once, delivered_as, engine, read_json, wait_for};
pub use crate::mount::Mount;

pub fn chmod(path: impl AsRef<Path>, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Starts the daemon as a user for whom permissions hold.
pub fn start_bound_by_permissions(host: &Host) -> Daemon {
    start_bound(host, &["run"])
}

/// As [`start_bound_by_permissions`], any command.
pub fn start_bound(host: &Host, args: &[&str]) -> Daemon {
    let command = host.command(args);
    if !is_root() {
        return host.spawn(command);
    }
    host.give_away();
    host.spawn(Host::unprivileged(&command))
}

/// A second watch `out` on the same pipeline.
fn second_watch(path: &Path) -> String {
    format!("[[watch]]\nname = \"out\"\npath = \"{}\"\npipeline = \"test\"\nsettle = \"300ms\"\n", path.display())
}

fn result_at(path: &Path) -> Option<serde_json::Value> {
    read_json(&crate::harness::sibling(path, ".result.json"))
}

/// These files, whose folder was away, are delivered uncharged after its return, and none was ever taken for gone.
async fn all_were_only_unknown(host: &Host, daemon: Daemon, names: &[String]) {
    host.all_have_results(names).await;
    host.assert_delivered_uncharged(names);
    assert!(!daemon.log().contains("gone before it was delivered"));
    daemon.stop().await;
    assert_eq!(host.journaled("in", "vanished").await, 0);
    assert_eq!(host.journaled("in", "done").await, names.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_folder_is_said_delays_no_other_and_is_picked_up_when_it_appears() {
    let (host, engine) = (Host::new(), engine().await);
    let out = host.path("not/yet/there");
    host.configure(&engine.uri(), &second_watch(&out));
    let daemon = host.start();
    daemon.logged("\"message\":\"ready\"").await;
    let said = daemon.messages("the watched folder is unavailable; it is picked up when it can be opened");
    assert_eq!((said.len(), &said[0]["watch"]), (1, &"out".into()));
    assert_eq!(said[0]["path"], *out.to_string_lossy());
    let names = host.drop_files("f", 5);
    host.all_have_results(&names).await;

    host.write(out.join("late.txt"), "late");
    wait_for("the late one", || result_at(&out.join("late.txt")).is_some()).await;
    assert_eq!(daemon.messages("the watched folder is unavailable; it is picked up when it can be opened").len(), 1);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_is_renamed_away_and_back_loses_no_file() {
    let (host, engine) = (Host::new(), engine().await);
    let task = engine.start_task("test", 4).token;
    let held = engine.hold_slots(&task, 4);
    host.configure(&engine.uri(), "");
    let names = host.drop_files("f", 12);
    let daemon = host.start();
    wait_for("an open that waits", || engine.opens_waiting(&task) > 0).await;

    std::fs::rename(host.inbox(), host.path("elsewhere")).unwrap();
    daemon.logged("its files are unknown, not gone").await;
    drop(held);
    // Nothing more is begun while it is away; what was under way may end as it will, but commits nothing else.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(engine.delivered() <= 1, "{}", engine.delivered());
    std::fs::rename(host.path("elsewhere"), host.inbox()).unwrap();

    all_were_only_unknown(&host, daemon, &names).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_root_that_was_unmounted_files_are_unknown_and_not_gone() {
    let (host, engine) = (Host::new(), engine().await);
    std::fs::create_dir(host.path("disk")).unwrap();
    let Some(_disk) = Mount::tmpfs(host.path("disk"), "size=1m") else { return };
    let inbox = Mount::bind(&host.path("disk"), host.inbox());
    let task = engine.start_task("test", 4).token;
    let held = engine.hold_slots(&task, 4);
    host.configure(&engine.uri(), "");
    let names = host.drop_files("f", 12);
    let daemon = host.start();
    wait_for("an open that waits", || engine.opens_waiting(&task) > 0).await;

    // The empty folder beneath the mount shows.
    drop(inbox);
    daemon.logged("the filesystem that was mounted here is gone").await;
    drop(held);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(engine.delivered() <= 1, "nothing is begun meanwhile: {}", engine.delivered());
    let _inbox = Mount::bind(&host.path("disk"), host.inbox());
    all_were_only_unknown(&host, daemon, &names).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_in_a_folder_that_was_made_anew_are_new_even_with_the_same_content() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    let daemon = host.start();
    let names = host.drop_files("f", 3);
    host.all_have_results(&names).await;
    std::fs::remove_dir_all(host.inbox()).unwrap();
    std::fs::create_dir(host.inbox()).unwrap();
    host.drop_files("f", 3);
    host.all_have_results(&names).await;
    host.assert_delivered_uncharged(&names);
    assert_eq!(engine.delivered(), 6);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_may_not_be_read_waits_at_no_attempt_until_it_may() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    let path = host.write("in/private.txt", "private");
    let daemon = {
        chmod(&path, 0o000);
        start_bound_by_permissions(&host)
    };
    daemon.logged("this host cannot serve the file now; it waits, at no attempt").await;
    let names = host.drop_files("f", 3);
    if is_root() {
        host.give_away();
    }
    host.all_have_results(&names).await;
    assert_eq!((host.result("private.txt"), host.error("private.txt")), (None, None));

    chmod(&path, 0o600);
    wait_for("its result", || host.result("private.txt").is_some()).await;
    host.assert_delivered_uncharged(&["private.txt".into()]);
    let mode = std::fs::metadata(host.path("in/private.txt.result.json")).unwrap().mode() & 0o777;
    assert_eq!(mode, 0o600, "a result is no more readable than its input");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_result_can_be_written_nothing_is_sent_until_one_can() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    host.write("in/sub/waits.txt", "waits");
    chmod(host.path("in/sub"), 0o555);
    let daemon = start_bound_by_permissions(&host);
    daemon.logged("cannot begin the result file").await;
    let names = host.drop_files("f", 3);
    if is_root() {
        host.give_away();
    }
    host.all_have_results(&names).await;
    assert!(delivered_as(&engine, "waits.txt").is_empty(), "nothing is sent that cannot be recorded");
    assert_eq!(host.error("sub/waits.txt"), None);

    chmod(host.path("in/sub"), 0o755);
    wait_for("its result", || host.result("sub/waits.txt").is_some()).await;
    host.assert_delivered_uncharged(&["sub/waits.txt".into()]);
    assert_sent_once(&engine, &["waits.txt".into()]);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_what_was_sent_is_recorded_once_there_is_room() {
    let (host, engine) = (Host::new(), engine().await);
    let Some(_mount) = Mount::tmpfs(host.inbox(), "size=512k") else { return };
    host.configure(&engine.uri(), "");
    let names = host.drop_files("f", 3);
    let ballast = host.path("in/ballast.tmp");
    // Writes until the disk is full.
    assert!(std::fs::write(&ballast, vec![0; 1024 * 1024]).is_err());
    let daemon = host.start();
    daemon.logged("delivered, but the result cannot be written; it waits in the spool").await;
    assert!(names.iter().all(|name| host.result(name).is_none() && host.error(name).is_none()));

    std::fs::remove_file(&ballast).unwrap();
    host.all_have_results(&names).await;
    host.assert_delivered_uncharged(&names);
    assert_sent_once(&engine, &names);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_file_can_be_made_nothing_is_sent_until_one_can() {
    let (host, engine) = (Host::new(), engine().await);
    let Some(_mount) = Mount::tmpfs(host.inbox(), "nr_inodes=8") else { return };
    host.configure(&engine.uri(), "");
    let names = host.drop_files("f", 2);
    let ballast: Vec<_> = (0..8).map(|n| host.path(format!("in/ballast{n}.tmp"))).collect();
    let made = ballast.iter().filter(|path| std::fs::write(path, "").is_ok()).count();
    assert!(made < ballast.len(), "the disk has no room for another file");
    let daemon = host.start();
    daemon.logged("this host cannot serve the watch; it is held, and no file is charged").await;
    assert_eq!(engine.delivered(), 0, "nothing is sent that cannot be recorded");

    for path in &ballast {
        let _ = std::fs::remove_file(path);
    }
    host.all_have_results(&names).await;
    host.assert_delivered_uncharged(&names);
    assert_sent_once(&engine, &names);
    assert!(!daemon.messages("the watch goes on").is_empty());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_two_watches_reach_is_served_by_the_first_alone() {
    for _ in 0..5 {
        let (host, engine) = (Host::new(), engine().await);
        symlink(host.inbox(), host.path("link")).unwrap();
        host.configure(&engine.uri(), &second_watch(&host.path("link")));
        let names = host.drop_files("f", 3);
        let daemon = host.start();
        daemon.logged("\"message\":\"ready\"").await;
        let said = daemon.messages("the watched folder is unavailable; it is picked up when it can be opened");
        assert_eq!((said.len(), &said[0]["watch"]), (1, &"out".into()), "the later one of the file is turned away");
        assert!(said[0]["error"].as_str().unwrap().contains("watch \"in\""), "{said:?}");
        host.all_have_results(&names).await;
        assert!(names.iter().all(|name| host.result(name).unwrap()["watch"] == "in"));
        assert_sent_once(&engine, &names);
        daemon.stop().await;
    }
}
