//! Folders that come to be other folders: renamed away, mounted over, unmounted, removed. Unknown is never absent.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rocketride_ingest::sandbox::{Effect, HeldSlots, Rule, Sandbox};

use crate::harness::{Daemon, Host, assert_sent_once, delivered_as, engine, is_root, sha256, wait_for};
use crate::mount::{Mount, skipped};

const ANOTHER: &str = "another folder stands at this path than before";
const UNKNOWN: &str = "which is another one than it was seen in";

/// A host whose pipeline grants nothing yet, so that what is dropped stays pending.
async fn host_with_held_slots(extra: &str) -> (Host, Sandbox, HeldSlots) {
    let (host, engine) = (Host::new(), engine().await);
    let task = engine.start_task("test", 4).token;
    let held = engine.hold_slots(&task, 4);
    host.configure(&engine.uri(), extra);
    (host, engine, held)
}

async fn settled(daemon: &Daemon, engine: &Sandbox) {
    let task = engine.tasks()[0].0.token.clone();
    wait_for("an open that waits", || engine.opens_waiting(&task) > 0).await;
    // What is not claimed is admitted by then: the files were there before the first walk.
    daemon.logged("scan complete").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
}

/// The folder at the inbox's path gives way to an empty one.
fn replace_inbox(host: &Host, away: &str) {
    fs::rename(host.inbox(), host.path(away)).unwrap();
    fs::create_dir(host.inbox()).unwrap();
}

/// That these were never taken for gone, and are done now. Ends the daemon.
async fn none_was_lost(host: &Host, engine: &Sandbox, daemon: Daemon, names: &[String], watched: u64) {
    host.assert_delivered_uncharged(names);
    assert_sent_once(engine, names);
    assert!(!daemon.log().contains("gone before it was delivered"));
    daemon.stop().await;
    assert_eq!(host.journaled("in", "vanished").await, 0);
    assert_eq!(host.journaled("in", "done").await, watched);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_folder_that_gave_way_to_another_are_unknown_until_it_is_back() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    let daemon = host.start();
    let done = host.drop_files("done", 2);
    host.all_have_results(&done).await;
    let task = engine.tasks()[0].0.token.clone();
    let held = engine.hold_slots(&task, 64);
    let names = host.drop_files("f", 12);
    settled(&daemon, &engine).await;

    replace_inbox(&host, "elsewhere");
    daemon.logged(ANOTHER).await;
    drop(held);
    wait_for("all to be asked for", || daemon.log().matches(UNKNOWN).count() >= 6).await;
    // The other folder is served, and what comes and goes there says nothing of the first one's files.
    host.write("in/done0.txt", "for a moment");
    fs::remove_file(host.path("in/done0.txt")).unwrap();
    let others = host.drop_files("other", 3);
    host.all_have_results(&others).await;
    host.assert_delivered_uncharged(&others);

    fs::rename(host.inbox(), host.path("other")).unwrap();
    fs::rename(host.path("elsewhere"), host.inbox()).unwrap();
    host.all_have_results(&names).await;
    assert_sent_once(&engine, &done);
    assert_sent_once(&engine, &others);
    none_was_lost(&host, &engine, daemon, &names, 17).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_folder_that_was_removed_are_gone() {
    let (host, engine, held) = host_with_held_slots("").await;
    host.drop_files("f", 4);
    let daemon = host.start();
    settled(&daemon, &engine).await;
    fs::remove_dir_all(host.inbox()).unwrap();
    fs::create_dir(host.inbox()).unwrap();
    wait_for("the new folder", || daemon.messages("watching").len() == 2).await;
    drop(held);
    let names = host.drop_files("new", 1);
    host.all_have_results(&names).await;
    wait_for("each to be found gone", || daemon.messages("gone before it was delivered").len() >= 3).await;
    assert!(!daemon.log().contains(ANOTHER), "nobody is asked to bring back what was removed");
    assert_eq!(engine.delivered(), 1);
    daemon.stop().await;
    assert_eq!(host.journaled("in", "blocked").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_mounted_over_is_served_again_once_the_mount_is_gone() {
    let (host, engine, held) = host_with_held_slots("").await;
    let names = host.drop_files("f", 4);
    let daemon = host.start();
    settled(&daemon, &engine).await;
    let Some(mount) = Mount::tmpfs(host.inbox(), "size=1m") else { return };
    daemon.logged(ANOTHER).await;
    let others = host.drop_files("other", 2);
    drop(held);
    host.all_have_results(&others).await;
    drop(mount);
    host.all_have_results(&names).await;
    assert_sent_once(&engine, &others);
    none_was_lost(&host, &engine, daemon, &names, 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_disk_in_the_folder_that_went_away_are_unknown_until_it_is_back() {
    disk_in_the_folder_goes_away(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_does_not_forget_what_was_mounted_in_the_folder() {
    disk_in_the_folder_goes_away(true).await;
}

/// A disk that is mounted in the folder goes away with its files, and returns unless the configuration is read again.
async fn disk_in_the_folder_goes_away(reload: bool) {
    let (host, engine, held) = host_with_held_slots("rescan_interval = \"30s\"").await;
    for folder in ["disk", "in/sub"] {
        fs::create_dir(host.path(folder)).unwrap();
    }
    let Some(_disk) = Mount::tmpfs(host.path("disk"), "size=1m") else { return };
    let inner = Mount::bind(&host.path("disk"), host.path("in/sub"));
    let names: Vec<_> = (0..4).map(|n| format!("sub/f{n}.txt")).collect();
    for name in &names {
        host.write(host.inbox().join(name), name);
    }
    let daemon = host.start();
    settled(&daemon, &engine).await;

    drop(inner);
    // The folder beneath the mount shows, is looked into, and is removed too, as tools that eject disks do.
    fs::write(host.path("in/sub/f0.txt.part"), "").unwrap();
    fs::remove_file(host.path("in/sub/f0.txt.part")).unwrap();
    fs::rename(host.path("in/sub"), host.path("in/sub2")).unwrap();
    fs::rename(host.path("in/sub2"), host.path("in/sub")).unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    fs::remove_dir(host.path("in/sub")).unwrap();
    if reload {
        host.edit_config("rescan_interval = \"30s\"", "rescan_interval = \"31s\"");
        assert_eq!(host.output(&["reload"]).0, 0);
    }
    drop(held);
    let others = host.drop_files("other", 2);
    host.all_have_results(&others).await;
    wait_for("each to be asked for", || daemon.log().matches("what was mounted at sub is not there now").count() >= 3)
        .await;
    if reload {
        assert!(!daemon.log().contains("gone before it was delivered"));
        daemon.stop().await;
        return assert_eq!((host.journaled("in", "vanished").await, host.journaled("in", "done").await), (0, 2));
    }
    fs::create_dir(host.path("in/sub")).unwrap();
    let _inner = Mount::bind(&host.path("disk"), host.path("in/sub"));
    host.all_have_results(&names).await;

    assert_sent_once(&engine, &others);
    host.assert_delivered_uncharged(&names);
    assert!(!daemon.log().contains("gone before it was delivered"));
    daemon.stop().await;
    assert_eq!((host.journaled("in", "vanished").await, host.journaled("in", "done").await), (0, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_renamed_in_mid_upload_commits_its_files_once_under_their_new_names() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    // Several writes, and slow ones: the rename falls into the middle of them.
    let slow = engine.faults().add(Rule::write(Effect::Delay(Duration::from_millis(500))));
    let content = |n: usize| format!("file {n}\n").repeat(400_000);
    (0..3).for_each(|n| drop(host.write(format!("in/old/f{n}.txt"), content(n))));
    let daemon = host.start();
    wait_for("three uploads", || engine.faults().hits(slow) >= 3).await;
    fs::rename(host.path("in/old"), host.path("in/new")).unwrap();
    engine.faults().remove(slow);

    wait_for("all results", || (0..3).all(|n| host.result(format!("new/f{n}.txt")).is_some())).await;
    for n in 0..3 {
        let result = host.result(format!("new/f{n}.txt")).unwrap();
        assert_eq!((&result["sha256"], &result["attempts"]), (&sha256(content(n)).into(), &1.into()));
        let delivered = delivered_as(&engine, &format!("f{n}.txt"));
        assert!(delivered.iter().all(rocketride_ingest::sandbox::Delivery::complete), "{delivered:?}");
        // One that was whole before the rename was committed rightly; nothing is under its old name after that.
        let last = delivered.last().unwrap();
        assert_eq!(result["object_id"], *last.object_id, "{delivered:?}");
        assert_eq!(delivered.len(), 1, "{delivered:?}");
    }
    assert!(!host.path("in/old").exists(), "nothing is written where the folder was");
    daemon.stop().await;
    assert_eq!(host.journaled("in", "vanished").await, 3);
    assert_eq!(host.journaled("in", "done").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_disk_that_was_made_read_only_nothing_is_sent_until_it_can_be_written() {
    let (host, engine) = (Host::new(), engine().await);
    let Some(mount) = Mount::tmpfs(host.inbox(), "size=1m") else { return };
    host.configure(&engine.uri(), "");
    let names = host.drop_files("f", 3);
    mount.remount("ro");
    let daemon = host.start();
    daemon.logged("this host cannot serve the watch; it is held, and no file is charged").await;
    assert!(daemon.log().contains("Read-only file system"), "{}", daemon.log());
    assert_eq!(engine.opens().len(), 0, "nothing is sent that cannot be recorded");
    mount.remount("rw");
    host.all_have_results(&names).await;
    assert!(!daemon.messages("the watch goes on").is_empty());
    none_was_lost(&host, &engine, daemon, &names, 3).await;
}

/// Makes an empty ext4 filesystem in a file.
fn ext4(image: &Path) -> bool {
    fs::File::create(image).unwrap().set_len(16 << 20).unwrap();
    let made = Command::new("mkfs.ext4").arg("-q").arg(image).status();
    let made = made.is_ok_and(|status| status.success());
    if !made {
        skipped("there is no mkfs.ext4");
    }
    made
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_has_another_device_number_after_a_reboot_has_nothing_sent_again() {
    let (host, engine) = (Host::new(), engine().await);
    let (image, other) = (host.path("disk.img"), host.path("other.img"));
    if !ext4(&image) || !ext4(&other) {
        return;
    }
    let Some(disk) = Mount::image(&image, host.inbox()) else { return };
    host.configure(&engine.uri(), "");
    let names = host.drop_files("f", 5);
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    let device = fs::metadata(host.inbox()).unwrap().dev();

    drop(disk);
    assert!(!host.path("in/f0.txt").exists());
    // Another disk takes the number, as one that was found earlier does.
    fs::create_dir(host.path("other")).unwrap();
    let _other = Mount::image(&other, host.path("other")).unwrap();
    let _disk = Mount::image(&image, host.inbox()).unwrap();
    assert_ne!(fs::metadata(host.inbox()).unwrap().dev(), device);
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    // Nor without the journal: the results tell.
    fs::remove_dir_all(host.path("state/journal")).unwrap();
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    host.assert_delivered_uncharged(&names);
    assert_sent_once(&engine, &names);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_holds_up_no_other_watch_of_its_pipeline() {
    let (host, engine) = (Host::new(), engine().await);
    let image = host.path("disk.img");
    if !ext4(&image) {
        return;
    }
    let Some(_disk) = Mount::image(&image, host.inbox()) else { return };
    fs::create_dir(host.path("other")).unwrap();
    let other = host.path("other");
    host.configure(
        &engine.uri(),
        &format!(
            "[pipelines.test.limits]\nmax_concurrent_uploads = 2\n\
             [[watch]]\nname = \"other\"\npath = \"{}\"\npipeline = \"test\"\nsettle = \"300ms\"",
            other.display()
        ),
    );
    let stuck = host.drop_files("stuck", 6);
    // Declared first, dropped last: it cannot end while one of its threads waits for the disk.
    let daemon;
    let Some(frozen) = Frozen::new(host.inbox()) else { return };
    daemon = host.start();
    wait_for("a file of the disk to be taken up", || host.output(&["list", "--state", "sending"]).1.contains("stuck"))
        .await;
    for n in 0..6 {
        host.write(other.join(format!("free{n}.txt")), format!("free {n}"));
    }
    let has_result = |n: usize| other.join(format!("free{n}.txt.result.json")).exists();
    wait_for("the results of the other watch", || (0..6).all(has_result)).await;
    assert!(stuck.iter().all(|name| delivered_as(&engine, name).is_empty()), "what cannot be recorded is not sent");
    drop(frozen);
    host.all_have_results(&stuck).await;
    host.assert_delivered_uncharged(&stuck);
    daemon.stop().await;
}

/// A filesystem on which whoever writes waits, until this is dropped.
struct Frozen(PathBuf);

impl Frozen {
    /// `None`, said aloud, where that cannot be had.
    fn new(at: PathBuf) -> Option<Self> {
        let frozen = Command::new("fsfreeze").arg("--freeze").arg(&at).status().is_ok_and(|status| status.success());
        if !frozen {
            skipped("cannot freeze a filesystem");
        }
        frozen.then_some(Self(at))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("--unfreeze").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_may_not_be_entered_for_a_while_loses_no_file() {
    if !is_root() {
        return skipped("only root can run the daemon as somebody for whom permissions hold");
    }
    let (host, engine, held) = host_with_held_slots("").await;
    let mut names = host.drop_files("f", 6);
    host.give_away();
    let daemon = host.spawn(Host::unprivileged(&host.command(&["run"])));
    settled(&daemon, &engine).await;
    let mode = |mode| fs::set_permissions(host.inbox(), fs::Permissions::from_mode(mode)).unwrap();
    mode(0o000);
    drop(held);
    names.extend(host.drop_files("meanwhile", 3));
    daemon.logged("this host cannot serve the file now; it waits, at no attempt").await;
    assert!(daemon.log().contains("Permission denied"), "{}", daemon.log());
    mode(0o700);
    host.give_away();
    host.all_have_results(&names).await;
    none_was_lost(&host, &engine, daemon, &names, 9).await;
}
