//! The commands that talk to the running daemon, each against one.

use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use rocketride_ingest::sandbox::{Effect, Rule, Sandbox};
use serde_json::Value;

use crate::harness::{
    Daemon, Host, assert_sent_once, delivered_as, delivered_by_object, engine, http_over, own_address, wait_for,
};

const NODE: &str = "the node says no: 4711";

/// A running daemon with a pipeline that refuses every file whose name begins with `bad`.
async fn running(extra: &str) -> (Host, Sandbox, Daemon) {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), extra);
    for n in 0..3 {
        engine.faults().add(Rule::close(Effect::NodeError { message: NODE.into() }).object(&format!("bad{n}.txt")));
    }
    let daemon = host.start();
    wait_for("the socket", || host.path("admin.sock").exists()).await;
    (host, engine, daemon)
}

fn json(host: &Host, args: &[&str]) -> (i32, Value) {
    let (code, out, err) = host.output(args);
    (code, serde_json::from_str(&out).unwrap_or_else(|error| panic!("{args:?}: {error}\n{out}\n{err}")))
}

fn jobs(host: &Host, args: &[&str]) -> Vec<Value> {
    let (code, out, err) = host.output(&[&["list", "--json"], args].concat());
    assert_eq!(code, 0, "{err}");
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn status_says_whether_it_is_well_and_what_is_not() {
    let (host, _engine, daemon) = running("").await;
    wait_for("a healthy daemon", || host.output(&["status"]).0 == 0).await;
    let good = host.drop_files("good", 2);
    let bad = host.drop_files("bad", 1);
    host.all_have_results(&good).await;
    wait_for("the dead letter", || host.error(&bad[0]).is_some()).await;
    wait_for("the ledger", || json(&host, &["status", "--json"]).1["watches"][0]["jobs"]["failed"] == 1).await;

    let (code, status) = json(&host, &["status", "--json"]);
    assert_eq!(code, 1, "something needs a look");
    assert_eq!(status["health"], "degraded");
    assert_eq!(status["watches"][0]["jobs"]["done"], 2);
    assert_eq!(status["pipelines"][0]["up"], true);
    let (_, text, _) = host.output(&["status"]);
    assert!(text.contains("needs a look") && text.contains("1 given up"), "{text}");
    daemon.stop().await;
    let (code, _, err) = host.output(&["status"]);
    assert!(code == 75 && err.contains("no daemon answers"), "{code} {err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_need_the_socket_and_no_valid_configuration() {
    let (host, _engine, daemon) = running("").await;
    host.write("config.toml", "[server]\nurl = 3\n");
    wait_for("a healthy daemon, by $RUNTIME_DIRECTORY", || host.output(&["status"]).0 == 0).await;
    let socket = host.path("admin.sock");
    let mut command = host.command(&["status"]);
    command.env_remove("RUNTIME_DIRECTORY").arg("--socket").arg(&socket);
    assert!(command.output().unwrap().status.success());
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_comes_whole_over_any_number_of_pages() {
    let (host, _engine, daemon) = running("").await;
    let names = host.drop_files("f", 130);
    host.all_have_results(&names).await;
    wait_for("the journal", || jobs(&host, &["--state", "done"]).len() == names.len()).await;
    let mut paths: Vec<_> = jobs(&host, &[]).iter().map(|job| job["path"].as_str().unwrap().to_owned()).collect();
    paths.sort();
    let mut expected = names.clone();
    expected.sort();
    assert_eq!(paths, expected);
    assert_eq!(jobs(&host, &["--limit", "7"]).len(), 7);
    assert!(jobs(&host, &["--state", "failed"]).is_empty());
    assert_eq!(jobs(&host, &["--watch", "in", "--limit", "3"]).len(), 3);
    let (code, _, err) = host.output(&["list", "--watch", "nix"]);
    assert!(code == 64 && err.contains("there is no watch"), "{code} {err}");

    let (code, out, err) = host.output(&["retry", "--done"]);
    assert!(code == 1 && err.contains("--yes"), "more than 100 are not sent again unasked: {code} {out} {err}");
    let (code, counted) = json(&host, &["retry", "--done", "--dry-run", "--json"]);
    assert_eq!((code, &counted["matched"], &counted["changed"]), (0, &130.into(), &0.into()));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_is_sent_again_when_its_cause_is_gone() {
    let (host, engine, daemon) = running("").await;
    let bad = host.drop_files("bad", 3);
    wait_for("the dead letters", || jobs(&host, &["--state", "failed"]).len() == 3).await;
    assert!(jobs(&host, &["--state", "failed"])[0]["last_error"].as_str().unwrap().contains(NODE));
    engine.faults().clear();

    let (code, done) = json(&host, &["retry", "--failed", "--error", "nothing of the kind", "--json"]);
    assert_eq!((code, &done["changed"]), (0, &0.into()));
    let path = host.inbox().join(&bad[0]);
    let (code, out, err) = host.output(&["retry", path.to_str().unwrap()]);
    assert!(code == 0 && out.contains("1 file"), "{out} {err}");
    wait_for("the first", || host.result(&bad[0]).is_some()).await;
    let (_, done) = json(&host, &["retry", "--failed", "--error", "4711", "--since", "1h", "--json"]);
    assert_eq!(done["changed"], 2);
    host.all_have_results(&bad).await;
    wait_for("no error file", || bad.iter().all(|name| host.error(name).is_none())).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivered_file_is_sent_again_only_by_force_and_under_its_own_name() {
    let (host, engine, daemon) = running("").await;
    let names = host.drop_files("f", 1);
    host.all_have_results(&names).await;
    wait_for("its end", || jobs(&host, &["--state", "done"]).len() == 1).await;
    let path = host.inbox().join(&names[0]);
    let path = path.to_str().unwrap();
    let (code, _, err) = host.output(&["retry", path]);
    assert!(code == 1 && err.contains("--force"), "{code} {err}");
    assert_eq!(host.output(&["retry", path, "--force"]).0, 0);
    wait_for("the repeat", || delivered_as(&engine, &names[0]).len() == 2).await;
    let deliveries = delivered_as(&engine, &names[0]);
    assert_eq!(deliveries[0].object_id, deliveries[1].object_id, "the pipeline replaces what it has");
    let (code, _, err) = host.output(&["retry", "/etc/hostname"]);
    assert!(code == 1 && err.contains("no watched folder"), "{code} {err}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_file_is_left_alone_until_it_changes() {
    let (host, engine, daemon) = running("").await;
    let bad = host.drop_files("bad", 1);
    wait_for("the dead letter", || jobs(&host, &["--state", "failed"]).len() == 1).await;
    let path = host.inbox().join(&bad[0]);
    assert_eq!(host.output(&["forget", path.to_str().unwrap()]).0, 0);
    assert_eq!(jobs(&host, &["--state", "ignored"]).len(), 1);
    assert_eq!(host.output(&["status"]).0, 0, "nothing needs a look any more");
    assert!(path.exists(), "files are never touched");
    engine.faults().clear();
    host.write(&path, "another content");
    wait_for("the new one", || host.result(&bad[0]).is_some()).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rescan_finds_at_once_what_no_event_told_of() {
    let (host, engine, daemon) = running("detect = \"poll\"\npoll_interval = \"1h\"").await;
    wait_for("a healthy daemon", || host.output(&["status"]).0 == 0).await;
    let first = host.drop_files("first", 1);
    wait_for("the first scan or a rescan", || {
        host.output(&["rescan", "in"]);
        host.result(&first[0]).is_some()
    })
    .await;
    let second = host.drop_files("second", 1);
    assert_eq!(host.output(&["rescan"]).0, 0);
    host.all_have_results(&second).await;
    assert_sent_once(&engine, &second);
    let (code, _, err) = host.output(&["rescan", "nix"]);
    assert!(code == 64 && err.contains("watch:in"), "it names what there is: {code} {err}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_another_daemon_serves_is_not_taken_from_it() {
    let (host, engine, daemon) = running("").await;
    let other = Host::new();
    other.configure(&engine.uri(), &format!("[admin]\nsocket = {:?}", host.path("admin.sock")));
    let second = other.start();
    second.logged("another daemon answers there").await;
    let files = other.drop_files("f", 1);
    other.all_have_results(&files).await;
    assert_eq!(json(&host, &["status", "--json"]).1["pid"], daemon.pid(), "the socket is still the first one's");
    second.stop().await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_a_dead_daemon_left_is_replaced() {
    let (host, _engine, mut daemon) = running("").await;
    daemon.kill();
    assert_eq!(host.output(&["status"]).0, 75);
    let daemon = host.start();
    wait_for("the new one", || host.output(&["status"]).0 == 0).await;
    daemon.stop().await;
}

/// One request over TCP: its status line and its body.
fn http(address: std::net::SocketAddr, head: &str, body: &str) -> String {
    http_over(TcpStream::connect(address).unwrap(), head, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tcp_changes_need_the_token_and_strangers_sites_reach_nothing() {
    let address = own_address();
    let (host, engine) = (Host::new(), engine().await);
    host.write_secret("admin-token", "let-me-in-0815\n");
    host.configure(&engine.uri(), &format!("[admin]\nlisten = \"{address}\"\ntoken_file = \"admin-token\""));
    let daemon = host.start();
    daemon.logged("status page are served").await;
    let post = "POST /api/rescan HTTP/1.1\r\nContent-Type: application/json\r\nHost: ";
    let bearer = "\r\nAuthorization: Bearer let-me-in-0815";
    for (head, expected) in [
        (format!("GET /api/status HTTP/1.1\r\nHost: {address}"), "200"),
        ("GET /api/status HTTP/1.1\r\nHost: evil.example".to_owned(), "421"),
        (format!("GET /api/status HTTP/1.1\r\nHost: {address}\r\nOrigin: http://evil.example"), "403"),
        (format!("{post}{address}"), "401"),
        (format!("{post}{address}\r\nAuthorization: Bearer guess"), "401"),
        (format!("{post}{address}{bearer}\r\nOrigin: http://evil.example"), "403"),
        (format!("{post}{address}{bearer}"), "200"),
        (format!("{post}{address}{bearer}\r\nOrigin: http://{address}"), "200"),
    ] {
        let answer = http(address, &head, "{}");
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected} ")), "{head}\n{answer}");
    }
    assert!(!daemon.log().contains("let-me-in"), "{}", daemon.log());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_paused_sends_nothing_new_also_after_a_restart() {
    let (host, engine, daemon) = running("").await;
    let first = host.drop_files("first", 1);
    host.all_have_results(&first).await;
    for target in ["in", "pipeline:test"] {
        assert_eq!(host.output(&["pause", target]).0, 0);
    }
    let second = host.drop_files("second", 2);
    wait_for("the second ones to be journaled", || jobs(&host, &["--state", "pending"]).len() == 2).await;
    daemon.stop().await;
    let daemon = host.start();
    wait_for("the socket", || host.output(&["status"]).0 == 0).await;
    wait_for("the pipeline", || json(&host, &["status", "--json"]).1["pipelines"][0]["up"] == true).await;
    let third = host.drop_files("third", 1);
    wait_for("the third one", || jobs(&host, &["--state", "pending"]).len() == 3).await;
    let (_, status) = json(&host, &["status", "--json"]);
    assert!(status["watches"][0]["paused_since"].is_u64() && status["pipelines"][0]["paused_since"].is_u64());
    assert!(second.iter().chain(&third).all(|name| host.result(name).is_none()));
    assert_eq!(host.output(&["resume", "watch:in"]).0, 0);
    assert!(jobs(&host, &["--state", "done"]).len() == 1, "its pipeline is paused still");
    assert_eq!(host.output(&["resume"]).0, 0);
    host.all_have_results(&second).await;
    host.all_have_results(&third).await;
    assert_sent_once(&engine, &[first, second, third].concat());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_were_to_be_sent_next_go_back_when_their_pipeline_is_paused() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "[pipelines.test.limits]\nmax_concurrent_uploads = 2");
    // So quickly taken that others are made ready meanwhile.
    engine.faults().add(Rule::close(Effect::Delay(Duration::from_millis(20))));
    let names = host.drop_files("f", 200);
    let daemon = host.start();
    wait_for("the first results", || names.iter().filter(|name| host.result(name).is_some()).count() > 20).await;
    assert_eq!(host.output(&["pause", "pipeline:test"]).0, 0);
    wait_for("nothing to be on its way", || jobs(&host, &["--state", "sending"]).is_empty()).await;
    let sent = delivered_by_object(&engine).len();
    let left = jobs(&host, &["--state", "pending"]).len();
    assert_eq!((sent + left, left > 0), (names.len(), true), "what was not sent waits again");
    assert_eq!(host.output(&["resume"]).0, 0);
    host.all_have_results(&names).await;
    host.assert_delivered_uncharged(&names);
    assert_sent_once(&engine, &names);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_learn_whether_it_lives_and_whether_it_can_work() {
    let address = own_address();
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), &format!("[admin]\nlisten = \"{address}\""));
    let daemon = host.start();
    daemon.logged("status page are served").await;
    let get = |path: &str| http(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}"), "");
    wait_for("readiness", || get("/readyz").starts_with("HTTP/1.1 200 ")).await;
    let files = host.drop_files("f", 2);
    host.all_have_results(&files).await;
    // A result stands there a moment before it is counted.
    let delivered = "rocketride_ingest_files_total{outcome=\"delivered\",watch=\"in\"} 2\n";
    wait_for("the count", || get("/metrics").contains(delivered)).await;
    let metrics = get("/metrics");
    for line in [
        "rocketride_ingest_jobs{state=\"failed\",watch=\"in\"} 0",
        "rocketride_ingest_pipeline_up{pipeline=\"test\"} 1",
        "rocketride_ingest_watch_up{watch=\"in\"} 1",
        "rocketride_ingest_task_panics_total 0",
        "rocketride_ingest_upload_duration_seconds_count 2",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    assert!(!metrics.contains("f0.txt"), "never a path as a label");
    engine.abort().await;
    wait_for("no readiness", || get("/readyz").starts_with("HTTP/1.1 503 ")).await;
    assert!(get("/readyz").contains("every pipeline is down"));
    assert!(get("/healthz").starts_with("HTTP/1.1 200 "), "a dead server is no reason for a restart");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_names_a_result_that_was_removed_and_has_nothing_to_say_of_an_honest_run() {
    let address = own_address();
    let (host, _engine, daemon) = running(&format!("[admin]\nlisten = \"{address}\"")).await;
    let metric = |value: &str| {
        let line = format!("rocketride_ingest_ledger_discrepancies {value}");
        let metrics = http(address, &format!("GET /metrics HTTP/1.1\r\nHost: {address}"), "");
        metrics.lines().any(|found| found == line)
    };
    let files = host.drop_files("f", 3);
    wait_for("their end", || jobs(&host, &["--state", "done"]).len() == 3).await;
    assert!(!metric("0"), "nothing is said before the first audit");
    let (code, out, err) = host.output(&["audit"]);
    assert!(code == 0 && out.contains("no difference") && out.contains("3 results right"), "{code} {out}{err}");
    assert!(metric("0"));

    std::fs::remove_file(host.inbox().join(format!("{}.result.json", files[1]))).unwrap();
    let (code, out, err) = host.output(&["audit"]);
    assert!(code == 1 && out.contains(&format!("difference  {}: ", files[1])), "{code} {out}{err}");
    assert!(out.ends_with("1 difference\n"), "{out}");
    assert!(metric("1"));
    let (code, audited) = json(&host, &["audit", "--json"]);
    assert_eq!((code, &audited["differences"], &audited["watches"][0]["results"]), (1, &1.into(), &2.into()));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_of_a_daemon_that_does_not_run_is_checked_and_written_out() {
    let (host, _engine, daemon) = running("").await;
    let names = host.drop_files("f", 3);
    host.all_have_results(&names).await;
    wait_for("the journal", || jobs(&host, &["--state", "done"]).len() == 3).await;
    let (code, _, err) = host.output(&["journal", "check"]);
    assert!(code == 75 && err.contains("another rocketride-ingest runs"), "{code} {err}");
    daemon.stop().await;
    let (code, out, err) = host.output(&["journal", "check"]);
    assert!(code == 0 && out.contains("3 records") && out.contains("in: 3 done"), "{code} {out} {err}");
    let state = host.path("state");
    let (_, out, _) = host.output(&["journal", "export", "--state", state.to_str().unwrap()]);
    let mut paths: Vec<_> =
        out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["path"].clone()).collect();
    paths.sort_by_key(Value::to_string);
    assert_eq!(paths, ["f0.txt", "f1.txt", "f2.txt"]);

    let db = host.path("state/journal/db");
    let bytes = std::fs::read(&db).unwrap();
    std::fs::write(&db, vec![0x5a; bytes.len()]).unwrap();
    for command in ["check", "export"] {
        let (code, _, err) = host.output(&["journal", command]);
        assert!(code == 1 && err.contains("damaged"), "{command}: {code} {err}");
    }
    assert!(db.exists(), "it is left where it is");
    assert_eq!(host.output(&["journal", "check", "--state", "/nowhere"]).0, 1);
}
