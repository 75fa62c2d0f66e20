//! A watch with a heap of pending files, and another one to another pipeline that gets a file now and then: how much longer
//! those take than with an idle daemon. The waiting for quiet, which
//! both have, is shown and not judged.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use crate::Verdict;
use crate::common::{Daemon, Host, Inside, median, millis, number};

/// Files of the heap.
const HEAP: usize = 20_000;
/// Files of the other watch, and the time between two of them.
const PROBES: usize = 10;
const EVERY: Duration = Duration::from_millis(500);
/// How long a file must be quiet, in milliseconds.
const SETTLE: f64 = 2000.0;
/// By less than this factor the median may grow, and so many milliseconds, within which a scheduler may do what it likes.
const GROWTH: f64 = 2.0;
const SLACK: f64 = 5.0;

pub fn run(args: &[String]) -> Verdict {
    let (heap, probes) = (number(args, 0, HEAP), number(args, 1, PROBES));
    let (host, engine) = (Host::new(), Inside::start());
    host.pipeline_file("other");
    std::fs::create_dir(host.path("out")).unwrap();
    let out = host.path("out").display().to_string();
    let other = format!(
        "[[watch]]\nname = \"out\"\npath = \"{out}\"\npipeline = \"other\"\n[pipelines.other]\nfile = \"other.pipe\""
    );
    host.configure(&engine.sandbox.uri(), "", &other);
    let daemon = host.start("info");
    daemon.logged("\"message\":\"ready\"");
    probe(&host, &engine, "first", 1);
    let idle = probe(&host, &engine, "idle", probes);
    // The heap is heaped up first, and then goes as fast as it can.
    tell(&host, "pause");
    for n in 0..heap {
        std::fs::write(host.path(format!("in/{n:06}.bin")), "x").unwrap();
    }
    pending(&daemon, heap);
    tell(&host, "resume");
    let busy = probe(&host, &engine, "busy", probes);
    let left = daemon.metric("rocketride_ingest_jobs", "state=\"pending\"");
    println!("from close() to the open on the wire, settle of 2 s included, medians of {probes}:");
    println!("{:28} {idle:>9.1} ms", "idle daemon");
    println!("{:28} {busy:>9.1} ms  ({left:.0} files still pending)", "another pipeline has a heap");
    let (quiet_idle, quiet_busy) = (idle - SETTLE, busy - SETTLE);
    println!("without the settle: {quiet_idle:.1} ms and {quiet_busy:.1} ms");
    daemon.stop();
    if left < 1.0 {
        return Err("the heap was gone before the measurement was over".into());
    }
    if quiet_busy >= GROWTH * quiet_idle + SLACK {
        return Err(format!("{:.1} times as long, not under {GROWTH}", quiet_busy / quiet_idle));
    }
    Ok(())
}

/// Pauses the heap's pipeline, or lets it go.
fn tell(host: &Host, what: &str) {
    assert!(host.command(&[what, "pipeline:test"]).status().unwrap().success());
}

/// Waits until so many files are pending.
fn pending(daemon: &Daemon<'_>, files: usize) {
    daemon.wait_for("the heap", || {
        std::thread::sleep(Duration::from_millis(200));
        daemon.metric("rocketride_ingest_jobs", "state=\"pending\"") >= files as f64
    });
}

/// The median delay of so many files of the other watch, in milliseconds.
fn probe(host: &Host, engine: &Inside, what: &str, files: usize) -> f64 {
    let mut closed = Vec::new();
    for n in 0..files {
        let name = format!("{what}-{n}.bin");
        let mut file = File::create_new(host.path("out").join(&name)).unwrap();
        file.write_all(b"x").unwrap();
        drop(file);
        closed.push((name, Instant::now()));
        std::thread::sleep(EVERY);
    }
    let mut delays = Vec::new();
    for (name, closed) in closed {
        let open = || engine.sandbox.opens().into_iter().find(|open| open.name == name);
        assert!(engine.wait(Duration::from_secs(120), |_| open().is_some()), "{name} did not arrive");
        delays.push(millis(open().unwrap().requested_at.saturating_duration_since(closed)));
    }
    median(delays)
}
