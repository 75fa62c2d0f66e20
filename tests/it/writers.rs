//! Files under the hands of those who write them: nothing torn is ever committed, and what came last arrives.

use std::fs::{File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use rocketride_ingest::sandbox::{Delivery, Effect, Rule, Sandbox};

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

/// A file is removed while its delivery ends, which takes so many seconds, `meanwhile` happens, and the same content is dropped again.
async fn removed_while_its_delivery_ends(extra: &str, delay: u64, meanwhile: impl AsyncFnOnce(&Host, &Daemon)) {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), extra);
    // Every last look at the file has been taken when the reply is awaited.
    let late = engine.faults().add(Rule::close(Effect::Delay(Duration::from_secs(delay))).times(1));
    let daemon = host.start();
    let path = host.write("in/f.txt", "the same");
    wait_for("the close", || engine.faults().hits(late) == 1).await;
    std::fs::remove_file(&path).unwrap();
    meanwhile(&host, &daemon).await;
    assert_eq!(host.result("f.txt"), None, "in time");
    has_result(&host, "f.txt", b"the same").await;
    wait_for("its absence to be known", || {
        let (_, out, err) = host.output(&["retry", "--dry-run", path.to_str().unwrap()]);
        (out + &err).contains("its file is no longer there")
    })
    .await;
    std::fs::write(&path, "the same").unwrap();
    wait_for("the second delivery", || delivered_as(&engine, "f.txt").len() == 2).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_removed_while_its_delivery_ends_and_dropped_again_is_sent_again() {
    removed_while_its_delivery_ends("", 3, async |_, _| ()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_does_not_forget_that_a_file_was_removed_while_its_delivery_ends() {
    let reload = async |host: &Host, daemon: &Daemon| {
        // The hint of its removal is heard before.
        sentinel(host, "heard.txt").await;
        host.edit_config("exclude = [\"x\"]", "exclude = [\"y\"]");
        assert_eq!(host.output(&["reload"]).0, 0);
        wait_for("the new intake", || daemon.messages("scan complete").len() >= 2).await;
    };
    removed_while_its_delivery_ends("exclude = [\"x\"]", 8, reload).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_folder_is_polled_a_file_removed_while_its_delivery_ends_is_known_to_be_gone() {
    removed_while_its_delivery_ends("detect = \"poll\"\npoll_interval = \"1s\"", 3, async |_, _| ()).await;
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

/// Writes bytes into a shared mapping of a file whose descriptor is closed, at each line on standard input, into pages
/// that are dirty already.
const MAPPER: &str = r#"
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
mapped = mmap.mmap(fd, 0)
os.close(fd)
mapped[0] = 1
print("mapped", flush=True)
for line in sys.stdin:
    mapped[1] = mapped[1] ^ 0xFF
    print("stored", flush=True)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_somebody_has_mapped_is_not_committed_before_it_is_unmapped() {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};
    let (host, engine) = (Host::new(), engine().await);
    if !writers_are_seen(&host) {
        eprintln!("skipped: the kernel tells nothing of writers here");
        return;
    }
    let path = host.write("mapped", vec![7; 8192]);
    let mut mapper = Command::new("python3");
    mapper.args(["-c", MAPPER]).arg(&path).stdin(Stdio::piped()).stdout(Stdio::piped());
    let Ok(mut mapper) = mapper.spawn() else {
        eprintln!("skipped: no python3 to map a file with");
        return;
    };
    let mut said = BufReader::new(mapper.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "mapped");
    host.configure(&engine.uri(), "");
    let daemon = host.start();
    daemon.logged("\"message\":\"ready\"").await;
    std::fs::rename(&path, host.inbox().join("f.bin")).unwrap();
    let modified = || std::fs::metadata(host.inbox().join("f.bin")).unwrap().modified().unwrap();
    let before = modified();
    sentinel(&host, "meanwhile").await;
    writeln!(mapper.stdin.as_ref().unwrap(), "store").unwrap();
    assert_eq!(said.next().unwrap().unwrap(), "stored");
    assert_eq!(modified(), before, "the times tell nothing");
    sentinel(&host, "later").await;
    assert!(delivered_as(&engine, "f.bin").is_empty(), "it is still mapped");
    drop(mapper.stdin.take());
    assert!(mapper.wait().unwrap().success());
    let mut content = vec![7; 8192];
    (content[0], content[1]) = (1, 7 ^ 0xFF);
    has_result(&host, "f.bin", &content).await;
    daemon.stop().await;
    assert_eq!(delivered_as(&engine, "f.bin").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_written_for_ever_is_never_committed_costs_nothing_and_holds_up_nobody() {
    let engine = engine().await;
    let (host, daemon) = slow_uploads(&engine).await;
    let path = host.inbox().join("f.bin");
    let mut content = large(1);
    // Each piece comes after the file has settled, by a writer that closes it: its upload is under way then.
    for n in 0..3u8 {
        std::fs::write(&path, &content).unwrap();
        wait_for("an upload", || engine.opens().iter().filter(|open| open.name == "f.bin").count() > usize::from(n))
            .await;
        wait_for("a write", || !engine.writes().is_empty()).await;
        content.extend_from_slice(b"more");
    }
    let closed = daemon.messages("settles again").len();
    assert!(closed >= 2, "{closed}");
    for n in 0..20 {
        std::fs::write(&path, &content).unwrap();
        content.extend_from_slice(b"more");
        if n == 10 {
            host.write("in/other.txt", "other");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    has_result(&host, "other.txt", b"other").await;
    assert!(delivered_as(&engine, "f.bin").is_empty());
    std::fs::write(&path, &content).unwrap();
    has_result(&host, "f.bin", &content).await;
    daemon.stop().await;
    assert_eq!(host.result("f.bin").unwrap()["attempts"], 1, "changes cost no attempt");
    assert_eq!(delivered_as(&engine, "f.bin").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_truncated_during_its_upload_is_not_committed_and_arrives_as_it_is_at_the_end() {
    let engine = engine().await;
    let (host, daemon) = slow_uploads(&engine).await;
    upload_begins(&host, &engine, &large(1)).await;
    let file = OpenOptions::new().write(true).open(host.inbox().join("f.bin")).unwrap();
    file.set_len(70_000).unwrap();
    drop(file);
    has_result(&host, "f.bin", &large(1)[..70_000]).await;
    daemon.stop().await;
    let hashes: Vec<_> = engine.deliveries().into_iter().map(|delivery| delivery.sha256).collect();
    assert_eq!(hashes, [sha256(&large(1)[..70_000])]);
    assert_eq!(host.result("f.bin").unwrap()["attempts"], 1, "a change costs no attempt");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_replaced_by_its_like_while_its_delivery_ends_does_not_lie_there_for_ever() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "on_success = \"delete\"");
    let late = engine.faults().add(Rule::close(Effect::Delay(Duration::from_secs(3))).times(1));
    let daemon = host.start();
    let path = host.write("in/f.txt", "the same");
    wait_for("the close", || engine.faults().hits(late) == 1).await;
    std::fs::rename(host.write("new", "the same"), &path).unwrap();
    has_result(&host, "f.txt", b"the same").await;
    wait_for("the other one to go, too", || !path.exists()).await;
    daemon.stop().await;
    assert_eq!(delivered_as(&engine, "f.txt").len(), 2, "nothing goes that was not sent");
}

/// Another file comes to the place of `f.txt`, as `how` says, while the pipeline is down and the first one waits.
async fn replaced_while_it_waits(how: impl FnOnce(&Host, &Path)) {
    let (host, engine) = (Host::new(), engine().await);
    let login = engine.faults().add(Rule::command("auth", Effect::Hang));
    host.configure_with(&engine.uri(), "request_timeout = \"1s\"", "");
    let daemon = host.start();
    let path = host.write("in/f.txt", "old content");
    // Long enough to settle; the pipeline is not to be had.
    tokio::time::sleep(Duration::from_secs(1)).await;
    how(&host, &path);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(engine.opens().len(), 0);
    engine.faults().remove(login);
    has_result(&host, "f.txt", b"new content").await;
    daemon.stop().await;
    let hashes: Vec<_> = engine.deliveries().into_iter().map(|delivery| delivery.sha256).collect();
    assert_eq!(hashes, [sha256("new content")], "what was replaced unsent is gone, and nothing stands for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_replaced_while_it_waits_arrives_as_the_new_one() {
    // By rename.
    replaced_while_it_waits(|host, path| {
        std::fs::rename(host.write("new", "new content"), path).unwrap();
    })
    .await;
    // As `cp -p`: the same inode, size and times.
    replaced_while_it_waits(|_, path| {
        let modified = std::fs::metadata(path).unwrap().modified().unwrap();
        std::fs::write(path, "new content").unwrap();
        OpenOptions::new().write(true).open(path).unwrap().set_modified(modified).unwrap();
    })
    .await;
    // Deleted and created again.
    replaced_while_it_waits(|_, path| {
        std::fs::remove_file(path).unwrap();
        std::fs::write(path, "new content").unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivered_file_over_which_another_one_is_copied_with_its_times_is_sent_again() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    let daemon = host.start();
    let path = host.write("in/f.txt", "content 1");
    has_result(&host, "f.txt", b"content 1").await;
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    std::fs::write(&path, "content 2").unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    has_result(&host, "f.txt", b"content 2").await;
    daemon.stop().await;
    assert_eq!(delivered_as(&engine, "f.txt").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_one_file_are_delivered_each_and_removed_each() {
    for after in ["keep", "delete"] {
        let (host, engine) = (Host::new(), engine().await);
        host.configure(&engine.uri(), &format!("on_success = {after:?}"));
        let first = host.write("in/one.txt", "one inode");
        std::fs::hard_link(&first, host.inbox().join("two.txt")).unwrap();
        // A third name that the daemon cannot see.
        let outside = host.path("outside.txt");
        std::fs::hard_link(&first, &outside).unwrap();
        let daemon = host.start();
        for name in ["one.txt", "two.txt"] {
            has_result(&host, name, b"one inode").await;
            wait_for("the post-action", || host.inbox().join(name).exists() == (after == "keep")).await;
        }
        assert_eq!(std::fs::read_to_string(&outside).unwrap(), "one inode");
        if writers_are_seen(&host) && after == "keep" {
            // Who writes through the other name is seen as well.
            let mut writer = OpenOptions::new().append(true).open(&outside).unwrap();
            writer.write_all(b" and more").unwrap();
            sentinel(&host, "meanwhile").await;
            assert_eq!(delivered_as(&engine, "one.txt").len(), 1, "it is still being written");
            drop(writer);
            // No event tells of it in this folder: a scan would.
            std::fs::set_permissions(&first, Permissions::from_mode(0o644)).unwrap();
            has_result(&host, "one.txt", b"one inode and more").await;
        }
        daemon.stop().await;
        let (one, two) = (delivered_as(&engine, "one.txt"), delivered_as(&engine, "two.txt"));
        assert_ne!(one[0].object_id, two[0].object_id);
        assert!(one.iter().chain(&two).all(Delivery::complete));
        assert_eq!(two.len(), 1, "{two:?}");
    }
}
