//! Files under the hands of those who write them: nothing torn is ever committed, and what came last arrives.

use std::fs::{File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant, SystemTime};

use rocketride_ingest::sandbox::{Effect, Rule, Sandbox};

use crate::harness::{Daemon, Host, delivered_as, delivered_names, engine, sha256, wait_for, writers_are_seen};

/// Writes are this slow where a test interferes with an upload; it waits for the first of them to arrive.
const SLOW: Duration = Duration::from_millis(100);
/// Takes some 20 such writes in pieces of 64 KiB.
const LARGE: usize = 20 * 64 * 1024;

/// A host whose uploads go in small, slow pieces, and its running daemon.
async fn slow_uploads(engine: &Sandbox) -> (Host, Daemon) {
    let host = Host::new();
    host.configure_with(&engine.uri(), "chunk_size = \"64KiB\"", "");
    engine.faults().add(Rule::write(Effect::Delay(SLOW)));
    let daemon = host.start();
    daemon.logged("\"message\":\"ready\"").await;
    (host, daemon)
}

/// Drops a large file and waits until its upload is under way.
async fn upload_begins(host: &Host, engine: &Sandbox, content: &[u8]) {
    host.write("in/f.bin", content);
    wait_for("the first writes", || engine.writes().len() >= 3).await;
}

fn large(first: u8) -> Vec<u8> {
    (0..251).cycle().take(LARGE).map(|byte: u8| byte ^ first).collect()
}

/// Waits until `name` has the result of this content.
async fn has_result(host: &Host, name: &str, content: &[u8]) {
    let hash = sha256(content);
    wait_for(&format!("the result of {name}"), || host.result(name).is_some_and(|result| result["sha256"] == *hash))
        .await;
}

/// Waits until intake has dealt with all that happened before: it takes hints in their order.
async fn sentinel(host: &Host, name: &str) {
    host.write(format!("in/{name}"), name);
    has_result(host, name, name.as_bytes()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_pauses_with_the_file_open_is_waited_for() {
    let (host, engine) = (Host::new(), engine().await);
    let config = host.configure(&engine.uri(), "");
    let seen = writers_are_seen(&host);
    if !seen {
        // Without the kernel's word only a long quiet helps, and the log must say that it is so.
        let text = std::fs::read_to_string(&config).unwrap().replace("settle = \"300ms\"\n", "");
        std::fs::write(&config, text).unwrap();
    }
    let daemon = host.start();
    daemon.logged("\"message\":\"ready\"").await;
    let mut writer = File::create(host.inbox().join("f.txt")).unwrap();
    writer.write_all(b"first half, ").unwrap();
    if !seen {
        daemon.logged("the kernel does not tell whether files here are still being written").await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(engine.opens().len(), 0, "not even begun");
    writer.write_all(b"second half").unwrap();
    drop(writer);
    has_result(&host, "f.txt", b"first half, second half").await;
    daemon.stop().await;
    assert_eq!(engine.delivered(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_kernel_does_not_tell_of_writers_the_quiet_is_longer_and_the_log_says_why() {
    if !rustix::process::geteuid().is_root() {
        return; // Only root can run a daemon that does not own the files.
    }
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    host.edit_config("settle = \"300ms\"\n", "");
    host.give_away();
    let daemon = host.spawn(Host::unprivileged(&host.command(&["run"])));
    daemon.logged("\"message\":\"ready\"").await;
    let mut writer = File::create(host.inbox().join("f.txt")).unwrap();
    writer.write_all(b"first half, ").unwrap();
    daemon.logged("the kernel does not tell whether files here are still being written").await;
    assert!(daemon.log().contains("neither owner of the file nor CAP_LEASE"), "{}", daemon.log());
    let written = Instant::now();
    writer.write_all(b"second half").unwrap();
    has_result(&host, "f.txt", b"first half, second half").await;
    assert!(written.elapsed() >= Duration::from_secs(10), "{:?}", written.elapsed());
    daemon.stop().await;
    assert_eq!(engine.delivered(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_grows_during_its_upload_arrives_whole_and_only_whole() {
    let engine = engine().await;
    let (host, daemon) = slow_uploads(&engine).await;
    let mut content = large(1);
    upload_begins(&host, &engine, &content).await;
    let mut writer = OpenOptions::new().append(true).open(host.inbox().join("f.bin")).unwrap();
    writer.write_all(b"and more").unwrap();
    drop(writer);
    content.extend_from_slice(b"and more");
    has_result(&host, "f.bin", &content).await;
    daemon.stop().await;
    let deliveries = engine.deliveries();
    assert_eq!(deliveries.len(), 1);
    assert_eq!((deliveries[0].sha256.clone(), deliveries[0].complete()), (sha256(&content), true));
    assert_eq!(host.result("f.bin").unwrap()["attempts"], 1, "a change costs no attempt");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_rewritten_in_place_during_its_upload_arrives_as_it_is_at_the_end() {
    let engine = engine().await;
    let (host, daemon) = slow_uploads(&engine).await;
    upload_begins(&host, &engine, &large(1)).await;
    // The same size: only the times tell.
    let content = large(2);
    host.write("in/f.bin", &content);
    has_result(&host, "f.bin", &content).await;
    daemon.stop().await;
    let hashes: Vec<_> = engine.deliveries().into_iter().map(|delivery| delivery.sha256).collect();
    assert_eq!(hashes, [sha256(&content)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_open_for_writing_at_its_end_is_not_committed_before_it_is_closed() {
    let engine = engine().await;
    let (host, daemon) = slow_uploads(&engine).await;
    if !writers_are_seen(&host) {
        return; // The kernel cannot be asked here; the pausing writer's test demands that the log says so.
    }
    let mut content = large(1);
    upload_begins(&host, &engine, &content).await;
    let mut writer = OpenOptions::new().append(true).open(host.inbox().join("f.bin")).unwrap();
    daemon.logged("settles again").await;
    assert_eq!(engine.delivered(), 0);
    writer.write_all(b"and more").unwrap();
    drop(writer);
    content.extend_from_slice(b"and more");
    has_result(&host, "f.bin", &content).await;
    daemon.stop().await;
    assert_eq!(engine.delivered(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_deleted_in_mid_upload_is_never_committed() {
    let engine = engine().await;
    let (host, daemon) = slow_uploads(&engine).await;
    upload_begins(&host, &engine, &large(1)).await;
    std::fs::remove_file(host.inbox().join("f.bin")).unwrap();
    daemon.logged("gone before it was delivered").await;
    wait_for("the abandoned pipe's end", || engine.reaped() == 1).await;
    daemon.stop().await;
    assert_eq!(engine.delivered(), 0);
    let left: Vec<_> = std::fs::read_dir(host.inbox()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_replaced_by_rename_during_its_upload_arrives_as_the_new_one_only() {
    let engine = engine().await;
    let (host, daemon) = slow_uploads(&engine).await;
    upload_begins(&host, &engine, &large(1)).await;
    // Same size and the same times as the old one: a replacement as `cp -p` and `mv` make it.
    let content = large(2);
    let new = host.write("new", &content);
    let modified = std::fs::metadata(host.inbox().join("f.bin")).unwrap().modified().unwrap();
    OpenOptions::new().write(true).open(&new).unwrap().set_modified(modified).unwrap();
    std::fs::rename(new, host.inbox().join("f.bin")).unwrap();
    has_result(&host, "f.bin", &content).await;
    daemon.stop().await;
    let hashes: Vec<_> = engine.deliveries().into_iter().map(|delivery| delivery.sha256).collect();
    assert_eq!(hashes, [sha256(&content)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_renamed_during_an_upload_delivers_under_its_new_name() {
    let engine = engine().await;
    let (host, daemon) = slow_uploads(&engine).await;
    let content = large(1);
    host.write("in/old/f.bin", &content);
    wait_for("the first writes", || engine.writes().len() >= 3).await;
    std::fs::rename(host.inbox().join("old"), host.inbox().join("new")).unwrap();
    has_result(&host, "new/f.bin", &content).await;
    daemon.stop().await;
    let deliveries = engine.deliveries();
    assert_eq!(deliveries.len(), 1);
    assert_eq!(deliveries[0].object_id, host.result("new/f.bin").unwrap()["object_id"].as_str().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivered_file_is_sent_again_when_its_content_changes_and_not_when_its_metadata_does() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    let daemon = host.start();
    let path = host.write("in/f.txt", "content 1");
    has_result(&host, "f.txt", b"content 1").await;
    let object = host.result("f.txt").unwrap()["object_id"].clone();

    std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    sentinel(&host, "after chmod").await;
    let later = SystemTime::now() + Duration::from_secs(60);
    OpenOptions::new().write(true).open(&path).unwrap().set_modified(later).unwrap();
    sentinel(&host, "after touch").await;
    std::fs::write(&path, "content 1").unwrap();
    sentinel(&host, "after rewrite").await;
    assert_eq!(delivered_as(&engine, "f.txt").len(), 1);

    // Of the same size, so that the content alone tells.
    std::fs::write(&path, "content 2").unwrap();
    has_result(&host, "f.txt", b"content 2").await;
    daemon.stop().await;
    assert_eq!(host.result("f.txt").unwrap()["object_id"], object, "a repeat replaces");
    assert_eq!(delivered_as(&engine, "f.txt").len(), 2);

    let (code, ..) = host.output(&["run", "--once"]);
    assert_eq!((code, engine.delivered()), (0, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivered_file_that_is_removed_and_dropped_again_is_sent_again() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    let daemon = host.start();
    let path = host.write("in/f.txt", "the same");
    has_result(&host, "f.txt", b"the same").await;
    std::fs::remove_file(&path).unwrap();
    sentinel(&host, "after removal").await;
    std::fs::write(&path, "the same").unwrap();
    wait_for("the second delivery", || delivered_as(&engine, "f.txt").len() == 2).await;
    sentinel(&host, "after all").await;
    daemon.stop().await;
    let deliveries = delivered_as(&engine, "f.txt");
    assert_eq!(deliveries.len(), 2);
    assert_eq!(deliveries[0].object_id, deliveries[1].object_id, "a repeat replaces");
}

#[tokio::test(flavor = "multi_thread")]
async fn links_pipes_and_sockets_are_ignored_and_block_nothing() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    host.write("secret", "not for the pipeline");
    let plant = |folder: &str| {
        let folder = host.inbox().join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        symlink(host.path("secret"), folder.join("link.txt")).unwrap();
        symlink(host.path("."), folder.join("linked folder")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, folder.join("pipe.txt"), 0o666.into()).unwrap();
        UnixListener::bind(folder.join("socket.txt")).unwrap()
    };
    let _before = plant("");
    host.write("in/plain.txt", "plain");
    let (code, output, errors) = host.output(&["run", "--once"]);
    assert_eq!(code, 0, "{output}{errors}");
    let daemon = host.start();
    daemon.logged("\"message\":\"ready\"").await;
    let _while_running = plant("sub");
    sentinel(&host, "sub/sentinel").await;
    daemon.stop().await;
    assert_eq!(delivered_names(&engine), ["plain.txt", "sentinel"]);
}
