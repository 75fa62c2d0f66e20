//! Limits of this host: descriptors, watches of the kernel, its queue of events, folders that are very large.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use crate::harness::{Daemon, Host, PATIENCE, assert_sent_once, delivered_names, engine, own_address};
use crate::mount::skipped;

/// Sets how many descriptors a running daemon may have.
fn limit_descriptors(daemon: &Daemon, limit: usize) {
    let mut prlimit = Command::new("prlimit");
    let status = prlimit.args(["--pid", &daemon.pid().to_string(), &format!("--nofile={limit}:")]).status();
    assert!(status.unwrap().success(), "prlimit");
}

/// How many a daemon at rest has; for a moment it may have some more.
fn descriptors(daemon: &Daemon) -> usize {
    let count = || {
        std::thread::sleep(Duration::from_millis(10));
        fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count()
    };
    (0..20).map(|_| count()).min().unwrap()
}

/// The most memory that it ever had, in KiB.
fn peak_memory(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_descriptors_nothing_is_begun_and_nothing_is_charged_until_there_are_some() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    let daemon = host.start();
    let first = host.drop_files("first", 3);
    host.all_have_results(&first).await;
    // Those that it has stay; it gets hardly any more: a file and its folder, and no result.
    let limit = descriptors(&daemon) + 3;
    limit_descriptors(&daemon, limit);
    fs::create_dir(host.path("in/sub")).unwrap();
    let mut names: Vec<_> = (0..20).map(|n| format!("sub/f{n}.txt")).collect();
    for name in &names {
        host.write(host.inbox().join(name), name);
    }
    names.extend(host.drop_files("g", 20));
    daemon.logged("no file descriptors left; nothing new is begun for a while").await;
    assert!(daemon.log().contains("Too many open files"), "{}", daemon.log());

    limit_descriptors(&daemon, 1024);
    host.all_have_results(&names).await;
    host.assert_delivered_uncharged(&names);
    daemon.stop().await;
    assert_eq!(host.journaled("in", "done").await, 43);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_descriptor_the_folders_are_looked_into_again_once_there_are_some() {
    // What an event told of is looked at, what nothing told of is found by a walk.
    for (watching, said) in [
        ("", "cannot be looked at now"),
        (
            "detect = \"poll\"\npoll_interval = \"1s\"",
            "cannot list this folder; what is in it is unknown until it can be read",
        ),
    ] {
        let (host, engine) = (Host::new(), engine().await);
        host.configure(&engine.uri(), watching);
        let daemon = host.start();
        daemon.logged("scan complete").await;
        daemon.logged("pipeline is up").await;
        limit_descriptors(&daemon, 0);
        // Moved in: only a walk finds what is in it.
        host.write("outside/a/f.txt", "f");
        fs::rename(host.path("outside"), host.path("in/moved")).unwrap();
        daemon.logged(said).await;
        let error = daemon.messages(said)[0]["error"].as_str().unwrap().to_owned();
        assert!(error.contains("Too many open files"), "{error}");
        limit_descriptors(&daemon, 1024);
        host.all_have_results(&["moved/a/f.txt".into()]).await;
        host.assert_delivered_uncharged(&["moved/a/f.txt".into()]);
        daemon.stop().await;
    }
}

/// Starts the daemon in a user namespace that grants so little of a resource of inotify. None, said aloud, if that is
/// not possible here.
fn start_with_inotify_limit(host: &Host, limit: &str) -> Option<Daemon> {
    let set = format!("echo {limit}");
    let mut probe = Command::new("unshare");
    if !probe.args(["-Ur", "sh", "-c", &set]).output().is_ok_and(|output| output.status.success()) {
        skipped("this host has no user namespaces for the tests");
        return None;
    }
    let program = host.command(&["run"]);
    let mut command = Command::new("unshare");
    command.args(["-Ur", "sh", "-c", &format!("{set} && exec \"$@\""), "sh"]);
    command.arg(program.get_program()).args(program.get_args());
    for (name, _) in program.get_envs() {
        command.env_remove(name);
    }
    Some(host.spawn(command))
}

#[tokio::test(flavor = "multi_thread")]
async fn where_watches_run_out_the_folder_is_polled() {
    for limit in ["5 > /proc/sys/user/max_inotify_watches", "0 > /proc/sys/user/max_inotify_instances"] {
        let (host, engine) = (Host::new(), engine().await);
        host.configure(&engine.uri(), "poll_interval = \"1s\"");
        (0..10).for_each(|n| fs::create_dir_all(host.path(format!("in/d{n}/deep"))).unwrap());
        let Some(daemon) = start_with_inotify_limit(&host, limit) else { return };
        daemon.logged("falling back to polling for this watch").await;
        let said = &daemon.messages("falling back to polling for this watch")[0]["error"];
        assert!(said.as_str().unwrap().contains("fs.inotify.max_user_"), "{said}");
        let names: Vec<_> = (0..10).map(|n| format!("d{n}/deep/f{n}.txt")).collect();
        for name in &names {
            host.write(host.inbox().join(name), name);
        }
        host.all_have_results(&names).await;
        host.assert_delivered_uncharged(&names);
        assert_eq!(daemon.messages("falling back to polling for this watch").len(), 1, "said once");
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_files_at_once_than_the_kernel_queues_events_are_all_found() {
    const FILES: usize = 20_000;
    let queue: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    assert!(queue < FILES, "the queue of {queue} events does not overflow");
    let host = Host::new();
    // Nobody answers: what is found is admitted and waits.
    host.configure(&format!("http://{}", own_address()), "");
    let status = UnixDatagram::bind(host.path("notify")).unwrap();
    status.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = host.command(&["run"]);
    command.env("NOTIFY_SOCKET", host.path("notify"));
    let mut daemon = host.spawn(command);
    daemon.logged("scan complete").await;
    daemon.signal("STOP");
    for n in 0..FILES {
        fs::write(host.path(format!("in/{n}.txt")), "x").unwrap();
    }
    daemon.signal("CONT");
    daemon.logged("events were lost; the folder is scanned again").await;
    let all_pending = format!("STATUS={FILES} pending");
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&buffer).contains(&all_pending) {
        buffer.fill(0);
        status.recv(&mut buffer).expect("a status line");
    }
    let memory = peak_memory(&daemon);
    assert!(memory < 150_000, "{memory} KiB");
    daemon.kill();
    assert_eq!(host.journaled("in", "pending").await, FILES as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_100_000_files_that_appears_at_once_is_gone_through_in_little_memory() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "include = [\"**/*.pdf\"]");
    fs::create_dir(host.path("outside")).unwrap();
    (0..100_000).for_each(|n| fs::write(host.path(format!("outside/{n}.txt")), "").unwrap());
    let names: Vec<_> = (0..5).map(|n| format!("large/{n}.pdf")).collect();
    (0..5).for_each(|n| drop(host.write(format!("outside/{n}.pdf"), format!("{n}"))));
    let daemon = host.start();
    daemon.logged("scan complete").await;
    daemon.logged("pipeline is up").await;
    let before = peak_memory(&daemon);
    fs::rename(host.path("outside"), host.path("in/large")).unwrap();
    host.all_have_results(&names).await;
    let after = peak_memory(&daemon);
    assert!(after < before + 64 * 1024, "{before} KiB before, {after} KiB after");
    assert_sent_once(&engine, &["0.pdf", "1.pdf", "2.pdf", "3.pdf", "4.pdf"].map(String::from));
    assert_eq!(delivered_names(&engine).len(), 5);
    daemon.stop().await;
}
