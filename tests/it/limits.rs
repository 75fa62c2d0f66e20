//! Limits are kept, by the server's own clock; and memory does not grow with a file.
//!
//! Nothing here says that anything is fast: each claim is an upper bound.

use std::fs::File;
use std::time::{Duration, Instant};

use rocketride_ingest::sandbox::{Effect, Rule, Sandbox};

use crate::harness::{Host, assert_sent_once, engine, read_json, wait_for};

const KIB: f64 = 1024.0;
/// Less than a file or a byte: for rounding alone.
const ROUNDING: f64 = 0.01;

/// Two pipelines `test` and `other` with watches `in` and `out`, and more lines.
fn configure_two(host: &Host, engine: &Sandbox, server: &str, more: &str) {
    std::fs::create_dir(host.path("out")).unwrap();
    let (file, out) = (host.pipeline_file("other"), host.path("out").display().to_string());
    host.configure_with(
        &engine.uri(),
        server,
        &format!(
            "[[watch]]\nname = \"out\"\npath = \"{out}\"\npipeline = \"other\"\nsettle = \"300ms\"\n\
             [pipelines.other]\nfile = {file:?}\n{more}"
        ),
    );
}

/// Never was there more than the limit allows since `start`: the burst, and the rate times the time.
fn assert_rate(mut events: Vec<(Instant, f64)>, start: Instant, per_second: f64, burst: f64) {
    events.sort_by_key(|(at, _)| *at);
    let mut sum = 0.0;
    for (at, amount) in events {
        sum += amount;
        let seconds = at.duration_since(start).as_secs_f64();
        let allowed = burst + per_second * seconds + ROUNDING;
        assert!(sum <= allowed, "{sum} after {seconds} s, allowed are {allowed}");
    }
}

fn opens(engine: &Sandbox) -> Vec<(Instant, f64)> {
    engine.opens().iter().map(|open| (open.requested_at, 1.0)).collect()
}

fn writes(engine: &Sandbox) -> Vec<(Instant, f64)> {
    #[allow(clippy::cast_precision_loss)]
    engine.writes().iter().map(|write| (write.at, write.bytes as f64)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_per_second_are_kept_by_the_whole_daemon() {
    let (host, engine) = (Host::new(), engine().await);
    configure_two(&host, &engine, "", "[limits]\nfiles_per_second = 10\n");
    let daemon = host.start();
    daemon.logged("\"message\":\"ready\"").await;
    let start = Instant::now();
    let names = host.drop_files("f", 20);
    for n in 0..20 {
        host.write(format!("out/g{n}.txt"), format!("g{n}"));
    }
    wait_for("all files", || engine.delivered() >= 40).await;
    host.all_have_results(&names).await;
    assert_rate(opens(&engine), start, 10.0, 1.0);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_per_second_are_kept_by_a_pipeline_and_delay_no_other() {
    let (host, engine) = (Host::new(), engine().await);
    configure_two(&host, &engine, "", "[pipelines.other.limits]\nfiles_per_second = 0.5\n");
    let daemon = host.start();
    daemon.logged("\"message\":\"ready\"").await;
    let start = Instant::now();
    for n in 0..20 {
        host.write(format!("out/g{n}.txt"), format!("g{n}"));
    }
    wait_for("the limited one", || engine.delivered() > 0).await;
    let names = host.drop_files("f", 20);
    host.all_have_results(&names).await;
    assert_sent_once(&engine, &names);
    wait_for("some more of the limited one", || engine.delivered() >= 23).await;
    let limited = engine.opens().into_iter().filter(|open| open.name.starts_with('g'));
    assert_rate(limited.map(|open| (open.requested_at, 1.0)).collect(), start, 0.5, 1.0);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_per_second_are_kept_by_the_whole_daemon() {
    let (host, engine) = (Host::new(), engine().await);
    configure_two(&host, &engine, "chunk_size = \"64KiB\"", "[limits]\nbytes_per_second = \"512KiB\"\n");
    let daemon = host.start();
    daemon.logged("\"message\":\"ready\"").await;
    let start = Instant::now();
    for n in 0..4u8 {
        // Text goes in one write, the rest in pieces.
        host.write(format!("in/{n}.bin"), vec![n; 300 * 1024]);
        host.write(format!("out/{n}.txt"), vec![b'a' + n; 300 * 1024]);
    }
    wait_for("all files", || engine.delivered() >= 8).await;
    // A quarter of a second's worth may go at once.
    assert_rate(writes(&engine), start, 512.0 * KIB, 128.0 * KIB);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_per_second_are_kept_by_a_pipeline() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "[pipelines.test.limits]\nbytes_per_second = \"100KiB\"");
    let daemon = host.start();
    daemon.logged("\"message\":\"ready\"").await;
    let start = Instant::now();
    let names: Vec<_> = (0..3).map(|n| format!("{n}.bin")).collect();
    for name in &names {
        host.write(format!("in/{name}"), vec![7; 150 * 1024]);
    }
    host.all_have_results(&names).await;
    host.assert_delivered_uncharged(&names);
    assert_rate(writes(&engine), start, 100.0 * KIB, 25.0 * KIB);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_uploads_are_bounded_per_pipeline() {
    let (host, engine) = (Host::new(), engine().await);
    engine.faults().add(Rule::close(Effect::Delay(Duration::from_millis(300))));
    host.configure(&engine.uri(), "[pipelines.test.limits]\nmax_concurrent_uploads = 3");
    let daemon = host.start();
    let names = host.drop_files("f", 15);
    host.all_have_results(&names).await;
    assert!(engine.peak_pipes(&engine.tasks()[0].0.token) <= 3);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_uploads_are_bounded_for_the_whole_daemon() {
    let (host, engine) = (Host::new(), engine().await);
    engine.faults().add(Rule::close(Effect::Delay(Duration::from_millis(300))));
    configure_two(&host, &engine, "", "[limits]\nmax_concurrent_uploads = 2\n");
    let daemon = host.start();
    let names = host.drop_files("f", 12);
    for n in 0..12 {
        host.write(format!("out/g{n}.txt"), format!("g{n}"));
    }
    host.all_have_results(&names).await;
    wait_for("all files", || engine.delivered() >= 24).await;

    // Pipes that were open at one moment: a pipe's beginning is where most are.
    let deliveries = engine.deliveries();
    let open_at =
        |at: Instant| deliveries.iter().filter(|other| other.opened_at <= at && at < other.committed_at).count();
    let most = deliveries.iter().map(|delivery| open_at(delivery.opened_at)).max().unwrap();
    // One more per pipeline: a grant that came late, after its permit had gone to another, runs at once.
    assert!(most <= 2 + 2, "{most} at a time");
    daemon.stop().await;
}

/// Bytes of the large file, which is sparse. A debug build takes 10 s for it on two quiet cores.
const LARGE: u64 = 2 * 1024 * 1024 * 1024;
/// Reached only by a defect.
const LARGE_PATIENCE: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_the_size_of_a_file() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "max_size = \"3GiB\"");
    let file = File::create(host.path("in/large.bin")).unwrap();
    file.set_len(LARGE).unwrap();
    drop(file);
    let daemon = host.start();
    let began = Instant::now();
    while host.result("large.bin").is_none() {
        assert_eq!(host.error("large.bin"), None);
        assert!(began.elapsed() < LARGE_PATIENCE, "it does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let took = began.elapsed();
    assert_eq!(read_json(&host.path("in/large.bin.result.json")).unwrap()["bytes_sent"], LARGE);
    assert_eq!(engine.deliveries()[0].bytes, LARGE);

    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = peak.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    eprintln!("{} MiB in {:?}, peak {} MiB", LARGE >> 20, took, kib >> 10);
    assert!(kib < 64 * 1024, "the daemon had {} MiB at its peak", kib >> 10);
    daemon.stop().await;
}
