//! Signals, the service manager, and exit codes: how the daemon begins and ends as others see it.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rocketride_ingest::sandbox::{Effect, Rule, Sandbox};

use crate::harness::{Host, assert_repeats_replace, assert_sent_once, engine, own_address, wait_for};

/// Longer than any test.
const FOR_EVER: Duration = Duration::from_secs(600);

async fn in_flight(engine: &Sandbox) {
    wait_for("an upload in flight", || {
        engine.tasks().first().is_some_and(|task| engine.pipes_in_use(&task.0.token) > 0)
    })
    .await;
}

/// Without the trouble of before, another start delivers these files, uncharged; a repeat only replaces.
async fn the_next_start_delivers(host: &Host, engine: &Sandbox, names: &[String]) {
    engine.faults().clear();
    let daemon = host.start();
    host.all_have_results(names).await;
    host.assert_delivered_uncharged(names);
    assert_repeats_replace(engine, names);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_what_is_in_flight_finish_and_begins_nothing_new() {
    for signal in ["TERM", "INT"] {
        let (host, engine) = (Host::new(), engine().await);
        let slow = engine.faults().add(Rule::close(Effect::Delay(Duration::from_secs(2))));
        host.configure(&engine.uri(), "[pipelines.test.limits]\nmax_concurrent_uploads = 1");
        host.write("in/first.txt", "first");
        let mut daemon = host.start();
        wait_for("the close", || engine.faults().hits(slow) == 1).await;
        host.write("in/second.txt", "second");
        daemon.signal(signal);
        assert!(daemon.ended().await.success(), "SIG{signal}");
        assert!(daemon.log().contains("stopping"));
        host.assert_delivered_uncharged(&["first.txt".into()]);
        assert_eq!((host.result("second.txt"), engine.opens().len()), (None, 1));

        let daemon = host.start();
        wait_for("the second result", || host.result("second.txt").is_some()).await;
        assert_sent_once(&engine, &["first.txt".into(), "second.txt".into()]);
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_finish_within_the_drain_timeout_is_sent_again_at_no_attempt() {
    let (host, engine) = (Host::new(), engine().await);
    engine.faults().add(Rule::close(Effect::Delay(FOR_EVER)));
    host.configure_with(&engine.uri(), "drain_timeout = \"1s\"", "");
    let mut daemon = host.start();
    let names = host.drop_files("f", 2);
    in_flight(&engine).await;
    daemon.signal("TERM");
    assert!(daemon.ended().await.success(), "a drain that overran is no failure");
    assert!(daemon.log().contains("not finished within drain_timeout"));

    the_next_start_delivers(&host, &engine, &names).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once_and_loses_nothing() {
    let (host, engine) = (Host::new(), engine().await);
    engine.faults().add(Rule::close(Effect::Delay(FOR_EVER)));
    host.configure(&engine.uri(), "");
    let mut daemon = host.start();
    let names = host.drop_files("f", 3);
    in_flight(&engine).await;
    daemon.signal("TERM");
    daemon.logged("asked to stop").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(daemon.is_running(), "the first signal waits for what is in flight");
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.code(), Some(1));

    the_next_start_delivers(&host, &engine, &names).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_of_uploads_loses_nothing() {
    let (host, engine) = (Host::new(), engine().await);
    engine.faults().add(Rule::close(Effect::Delay(FOR_EVER)));
    host.configure(&engine.uri(), "");
    let mut daemon = host.start();
    let names = host.drop_files("f", 6);
    in_flight(&engine).await;
    daemon.kill();

    the_next_start_delivers(&host, &engine, &names).await;
    assert_eq!(host.journaled("in", "done").await, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_without_a_change_is_answered_in_the_log_and_changes_nothing() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    let mut daemon = host.start();
    daemon.logged("\"message\":\"ready\"").await;
    daemon.signal("HUP");
    daemon.logged("the configuration was reloaded").await;
    let names = host.drop_files("f", 1);
    host.all_have_results(&names).await;
    assert!(daemon.is_running());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_hears_when_it_is_ready_how_it_goes_and_when_it_stops() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    let socket = UnixDatagram::bind(host.path("notify")).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut heard = String::new();
    let mut is_told = |what: &str| {
        let mut datagram = [0; 4096];
        while let Ok(length) = socket.recv(&mut datagram) {
            heard.push_str(std::str::from_utf8(&datagram[..length]).unwrap());
            heard.push('\n');
        }
        heard.lines().any(|line| line.starts_with(what))
    };
    let mut command = host.command(&["run"]);
    command.env("NOTIFY_SOCKET", host.path("notify"));
    let mut daemon = host.spawn(command);
    wait_for("READY=1", || is_told("READY=1")).await;
    assert!(daemon.log().contains("\"message\":\"ready\""), "and not before it is");
    wait_for("a status", || is_told("STATUS=")).await;
    assert!(!is_told("STOPPING=1"));
    daemon.signal("TERM");
    assert!(daemon.ended().await.success());
    assert!(is_told("STOPPING=1"));
    wait_for("the status of pipelines and jobs", || heard_status(&heard)).await;
}

/// A line for people that `systemctl status` shows.
fn heard_status(heard: &str) -> bool {
    let mut statuses = heard.lines().filter_map(|line| line.strip_prefix("STATUS="));
    statuses.any(|status| status.contains("pending") && status.contains("pipelines up"))
}

#[tokio::test(flavor = "multi_thread")]
async fn once_ends_well_when_everything_is_delivered() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    // On a busy machine a connection takes its time, and `retry.max` is how long a pipeline may be down.
    host.edit_config("max = \"1s\"", "max = \"60s\"");
    let names = host.drop_files("f", 30);
    host.write("in/deep/down/here.txt", "here");
    let mut once = host.start_with(&["run", "--once"]);
    assert_eq!(once.ended().await.code(), Some(0), "{}", once.log());
    host.assert_delivered_uncharged(&names);
    host.assert_delivered_uncharged(&["deep/down/here.txt".into()]);
    let sent = engine.delivered();
    assert_eq!(sent, 31);

    let mut again = host.start_with(&["run", "--once"]);
    assert_eq!(again.ended().await.code(), Some(0), "nothing to do is fine");
    assert_eq!(engine.delivered(), sent, "and sends nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn once_says_that_a_file_failed() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    host.edit_config("max = \"1s\"", "max = \"60s\"");
    engine.faults().add(Rule::open(Effect::Mask).object("bad*"));
    let names = host.drop_files("fine", 3);
    host.drop_files("bad", 1);
    let mut once = host.start_with(&["run", "--once"]);
    assert_eq!(once.ended().await.code(), Some(1), "{}", once.log());
    assert!(once.log().contains("1 files failed"), "{}", once.log());
    host.assert_delivered_uncharged(&names);
    assert!(host.error("bad0.txt").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn once_says_that_a_pipeline_is_down() {
    let host = Host::new();
    host.configure(&format!("http://{}", own_address()), "");
    let names = host.drop_files("f", 2);
    let mut once = host.start_with(&["run", "--once"]);
    assert_eq!(once.ended().await.code(), Some(69), "{}", once.log());
    assert!(once.log().contains("pipeline \"test\" is down"));
    assert!(names.iter().all(|name| host.result(name).is_none() && host.error(name).is_none()));
    assert_eq!(host.journaled("in", "failed").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_on_the_same_state_is_turned_away() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    let daemon = host.start();
    daemon.logged("\"message\":\"ready\"").await;
    let (code, _, stderr) = host.output(&["run"]);
    assert_eq!(code, 75, "{stderr}");
    let names = host.drop_files("f", 1);
    host.all_have_results(&names).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watchdog_of_the_service_manager_is_fed_while_there_is_nothing_to_do_and_in_a_drain() {
    let (host, engine) = (Host::new(), engine().await);
    engine.faults().add(Rule::close(Effect::Delay(FOR_EVER)));
    host.configure_with(&engine.uri(), "drain_timeout = \"600s\"", "");
    let socket = UnixDatagram::bind(host.path("notify")).unwrap();
    socket.set_nonblocking(true).unwrap();
    let fed = || {
        let mut datagram = [0; 4096];
        let mut fed = 0;
        while let Ok(length) = socket.recv(&mut datagram) {
            fed += usize::from(std::str::from_utf8(&datagram[..length]).unwrap().contains("WATCHDOG=1"));
        }
        fed
    };
    let mut command = host.command(&["run"]);
    command.env("NOTIFY_SOCKET", host.path("notify")).env("WATCHDOG_USEC", "4000000");
    let daemon = host.spawn(command);
    daemon.logged("\"message\":\"ready\"").await;
    let mut times = fed();
    wait_for("food without work", || {
        times += fed();
        times >= 3
    })
    .await;
    host.drop_files("f", 1);
    in_flight(&engine).await;
    daemon.signal("TERM");
    daemon.logged("stopping").await;
    let mut times = fed();
    wait_for("food in a drain", || {
        times += fed();
        times >= 3
    })
    .await;
    assert!(!daemon.log().contains("stands still"), "{}", daemon.log());
}
