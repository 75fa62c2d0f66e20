//! What is counted moves when it happens, and only then.

use std::os::unix::net::UnixStream;

use rocketride_ingest::sandbox::{Effect, Rule};

use crate::harness::{Host, engine, http_over, wait_for};

/// The metrics, as Prometheus gets them.
fn metrics(host: &Host) -> String {
    let connected = UnixStream::connect(host.path("admin.sock"));
    connected.map(|stream| http_over(stream, "GET /metrics HTTP/1.1\r\nHost: localhost", "")).unwrap_or_default()
}

/// The value of a series, given without the common prefix and with its labels in order; none if there is no such series.
fn value(host: &Host, series: &str) -> Option<f64> {
    let start = format!("rocketride_ingest_{series} ");
    metrics(host).lines().find_map(|line| line.strip_prefix(&start)?.trim().parse().ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_and_walks_are_counted() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure_with(
        &engine.uri(),
        "chunk_size = \"4KiB\"",
        "[pipelines.test.limits]\nfiles_per_second = 5\nbytes_per_second = \"32KiB\"",
    );
    let daemon = host.start();
    wait_for("the first walk", || value(&host, "rescans_total{reason=\"start\",watch=\"in\"}") == Some(1.0)).await;
    for series in [
        "rescans_total{reason=\"operator\",watch=\"in\"}",
        "retries_total{kind=\"file\",pipeline=\"test\"}",
        "retries_total{kind=\"failing\",pipeline=\"test\"}",
    ] {
        assert_eq!(value(&host, series), Some(0.0), "there before it happens: {series}");
    }
    let names = host.drop_files("f", 4);
    host.write("in/large.bin", vec![7; 40 * 1024]);
    host.all_have_results(&names).await;
    wait_for("the large one", || host.result("large.bin").is_some()).await;
    for limit in ["files", "bytes"] {
        let waited = value(&host, &format!("throttled_seconds_total{{limit=\"{limit}\",pipeline=\"test\"}}"));
        assert!(waited.is_some_and(|waited| waited > 0.1), "{limit}: {waited:?}\n{}", metrics(&host));
    }
    wait_for("the bytes", || {
        value(&host, "uploaded_bytes_total{pipeline=\"test\"}").is_some_and(|bytes| bytes >= 40.0 * 1024.0)
    })
    .await;
    assert_eq!(value(&host, "detection_delay_seconds_count"), Some(5.0));
    let delay = value(&host, "detection_delay_seconds_sum").unwrap();
    assert!(delay >= 5.0 * 0.3, "their settling is part of it: {delay}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_no_event_told_of_counts_as_found_by_a_scan() {
    let (host, engine) = (Host::new(), engine().await);
    let polled = host.path("polled");
    std::fs::create_dir(&polled).unwrap();
    host.configure(
        &engine.uri(),
        &format!(
            "[[watch]]\nname = \"polled\"\npath = \"{}\"\npipeline = \"test\"\nsettle = \"300ms\"\ndetect = \"poll\"\n\
             poll_interval = \"1s\"",
            polled.display()
        ),
    );
    engine.faults().add(Rule::close(Effect::NodeError { message: "no".into() }).object("bad0.txt"));
    let daemon = host.start();
    let scans =
        |reason: &str| value(&host, &format!("rescans_total{{reason=\"{reason}\",watch=\"in\"}}")).unwrap_or(0.0);
    let found = |watch: &str| value(&host, &format!("files_found_by_scan_total{{watch=\"{watch}\"}}"));
    wait_for("the first walk", || scans("start") > 0.0 && host.output(&["status"]).0 == 0).await;
    let good = host.drop_files("good", 2);
    let bad = host.drop_files("bad", 1);
    // A folder comes with what is in it: the event tells of the folder alone.
    host.write("aside/inner.txt", "inner");
    std::fs::rename(host.path("aside"), host.inbox().join("moved-in")).unwrap();
    std::fs::write(polled.join("p.txt"), "p").unwrap();
    host.all_have_results(&good).await;
    wait_for("all ends", || {
        host.error(&bad[0]).is_some()
            && host.result("moved-in/inner.txt").is_some()
            && polled.join("p.txt.result.json").exists()
    })
    .await;
    wait_for("the ledger", || value(&host, "jobs{state=\"failed\",watch=\"in\"}") == Some(1.0)).await;
    assert_eq!(value(&host, "files_total{outcome=\"vanished\",watch=\"in\"}"), Some(0.0), "there before it happens");
    for round in 1..=2 {
        assert_eq!(host.output(&["rescan", "in"]).0, 0);
        wait_for("the rescan", || scans("operator") >= f64::from(round)).await;
    }
    // What a walk found is taken one at a time, and the dead letter is looked at.
    wait_for("the settling", || host.output(&["status", "--json"]).1.contains("\"settling\":0")).await;
    assert_eq!(found("in"), Some(0.0), "{}", metrics(&host));
    assert_eq!(found("polled"), Some(1.0), "{}", metrics(&host));
    daemon.stop().await;
}
