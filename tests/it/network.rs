//! Faults of the way to the server and of the server itself. Each time: the pipeline is to blame and no file, the log
//! names the cause, and everything goes on without a restart.

use std::time::{Duration, Instant};

use rocketride_ingest::client::{Client, ObjectInfo, SecretString};
use rocketride_ingest::sandbox::{Effect, Rule, Sandbox};

use crate::harness::{
    Daemon, Host, KEY, assert_repeats_replace, assert_sent_once, delivered_as, engine, engine_with, own_address,
    sha256, wait_for,
};
use crate::wire::{Mode, Wire, binary_frame, text_frame, text_frame_header};

/// Short limits, so that what is never answered is noticed within the test.
const SHORT: &str =
    "connect_timeout = \"2s\"\nrequest_timeout = \"1s\"\nresult_timeout = \"1s\"\nsilence_timeout = \"2s\"\n";
/// More uploads at a time than pipes that a test abandons: an abandoned one counts for 90 s.
const MANY: &str = "[pipelines.test.limits]\nmax_concurrent_uploads = 64\n[limits]\nmax_concurrent_uploads = 64\n";

const DOWN: &str = "pipeline is down; its files wait, at no attempt, until it is up";
const STILL_DOWN: &str = "pipeline is still down";

/// The only task of an engine.
fn task(engine: &Sandbox) -> String {
    engine.tasks()[0].0.token.clone()
}

/// Every reason that the log gives for an outage, in order.
fn reasons(daemon: &Daemon) -> Vec<String> {
    let lines = [daemon.messages(DOWN), daemon.messages(STILL_DOWN)].concat();
    lines.iter().map(|line| line["reason"].as_str().unwrap().to_owned()).collect()
}

/// Waits until the log gives a reason for an outage that has all these words.
async fn blamed(daemon: &Daemon, words: &[&str]) {
    wait_for(&format!("a reason with {words:?}"), || {
        reasons(daemon).iter().any(|reason| words.iter().all(|word| reason.contains(word)))
    })
    .await;
}

async fn up(daemon: &Daemon) {
    daemon.logged("\"message\":\"pipeline is up\"").await;
}

/// No file was charged or given up, and each is at the server whole, under one identity.
fn assert_nothing_lost(host: &Host, engine: &Sandbox, names: &[String]) {
    host.assert_delivered_uncharged(names);
    assert_repeats_replace(engine, names);
    for name in names {
        let content = sha256(std::fs::read(host.inbox().join(name)).unwrap());
        assert!(delivered_as(engine, name).iter().all(|delivery| delivery.sha256 == content), "{name}");
    }
}

/// The end of every healed fault: all these arrive, and nothing was lost.
async fn all_arrive(host: &Host, engine: &Sandbox, names: &[String]) {
    host.all_have_results(names).await;
    assert_nothing_lost(host, engine, names);
}

/// As [`all_arrive`], and none was sent twice.
async fn all_arrive_once(host: &Host, engine: &Sandbox, names: &[String]) {
    all_arrive(host, engine, names).await;
    assert_sent_once(engine, names);
}

/// Files of several chunks.
fn drop_large(host: &Host, count: u8, size: usize) -> Vec<String> {
    let names: Vec<_> = (0..count).map(|n| format!("f{n}.bin")).collect();
    for (n, name) in (0..count).zip(&names) {
        host.write(host.inbox().join(name), vec![n; size]);
    }
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_falls_silent_takes_the_pipeline_down_with_and_without_work() {
    let (host, engine) = (Host::new(), engine().await);
    let wire = Wire::to(engine.addr(), Mode::Pass).await;
    host.configure_with(&wire.uri(), SHORT, MANY);
    let daemon = host.start();
    up(&daemon).await;

    // Nothing is sent, nothing is in flight: only the pings tell.
    let silent_since = Instant::now();
    wire.set(Mode::Freeze);
    blamed(&daemon, &["nothing was heard from the server for 2 s"]).await;
    assert!(silent_since.elapsed() >= Duration::from_secs(1), "not before its time");
    blamed(&daemon, &["no connection within 2 s", "did not answer the upgrade"]).await;
    let names = host.drop_files("meanwhile", 3);
    wire.set(Mode::Pass);
    all_arrive(&host, &engine, &names).await;

    // In the middle of uploads.
    engine.faults().add(Rule::close(Effect::Delay(Duration::from_secs(1))));
    let busy = host.drop_files("busy", 5);
    wait_for("uploads in flight", || engine.pipes_in_use(&task(&engine)) > 0).await;
    wire.set(Mode::Freeze);
    wait_for("the second outage", || daemon.messages(DOWN).len() == 2).await;
    engine.faults().clear();
    wire.set(Mode::Pass);
    host.all_have_results(&busy).await;
    assert_nothing_lost(&host, &engine, &busy);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_that_are_lost_after_the_commit_lead_to_a_repeat_that_replaces() {
    let (host, engine) = (Host::new(), engine().await);
    let wire = Wire::to(engine.addr(), Mode::Pass).await;
    host.configure_with(&wire.uri(), SHORT, MANY);
    let late = engine.faults().add(Rule::close(Effect::Delay(Duration::from_millis(500))).times(3));
    let daemon = host.start();
    let names = host.drop_files("f", 3);
    wait_for("three closes", || engine.faults().hits(late) == 3).await;
    wire.set(Mode::Deaf);
    wait_for("three commits", || engine.delivered() == 3).await;
    assert!(names.iter().all(|name| host.result(name).is_none()));
    blamed(&daemon, &["nothing was heard from the server"]).await;

    wire.set(Mode::Pass);
    all_arrive(&host, &engine, &names).await;
    for name in &names {
        assert_eq!(delivered_as(&engine, name).len(), 2, "{name}: once, and once more for the lost reply");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_drips_is_no_live_server() {
    let (host, engine) = (Host::new(), engine().await);
    let wire = Wire::to(engine.addr(), Mode::Pass).await;
    host.configure_with(&wire.uri(), SHORT, MANY);
    let daemon = host.start();
    up(&daemon).await;
    // A byte comes now and then, so it is never silent; but no reply comes in time.
    wire.set(Mode::Drip(Duration::from_millis(300)));
    let names = host.drop_files("f", 3);
    blamed(&daemon, &["no reply to"]).await;
    wait_for("another try", || wire.accepted() >= 2).await;
    assert!(names.iter().all(|name| host.result(name).is_none() && host.error(name).is_none()));

    wire.set(Mode::Pass);
    all_arrive(&host, &engine, &names).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_in_the_middle_of_a_frame_commits_nothing_torn() {
    let (host, engine) = (Host::new(), engine().await);
    let wire = Wire::to(engine.addr(), Mode::Pass).await;
    host.configure_with(&wire.uri(), &format!("{SHORT}chunk_size = \"8KiB\"\n"), MANY);
    let daemon = host.start();
    up(&daemon).await;
    wire.set(Mode::ResetAfter(100_003));
    let names = drop_large(&host, 6, 40 * 1024);
    wait_for("the reset", || daemon.messages(DOWN).len() == 1).await;
    blamed(&daemon, &["connection lost", "reset"]).await;
    wire.set(Mode::ResetAfter(60_001));
    wait_for("another reset", || wire.mode() == Mode::Pass).await;

    all_arrive(&host, &engine, &names).await;
    wait_for("abandoned pipes to be reaped", || engine.pipes_in_use(&task(&engine)) == 0).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_never_answered_by_a_task_that_runs_is_tried_again() {
    a_hung_step_is_tried_again(Rule::write(Effect::Hang), "no reply to write within 1 s").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_that_is_never_answered_by_a_task_that_runs_is_tried_again() {
    a_hung_step_is_tried_again(Rule::close(Effect::Hang), "no reply to close within 4 s").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_comes_after_it_was_given_up_is_of_the_same_object_as_its_repeat() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure_with(&engine.uri(), SHORT, MANY);
    engine.faults().add(Rule::close(Effect::Delay(Duration::from_secs(5))).times(1));
    let daemon = host.start();
    host.write("in/late.txt", "late\n");
    wait_for("both commits", || engine.delivered() == 2).await;
    wait_for("the result", || host.result("late.txt").is_some()).await;
    assert_eq!(host.result("late.txt").unwrap()["attempts"], 2);
    let both = delivered_as(&engine, "late.txt");
    assert!(both.iter().all(|delivery| delivery.complete() && delivery.sha256 == sha256("late\n")), "{both:?}");
    assert_eq!(both[0].object_id, both[1].object_id);
    daemon.stop().await;
}

/// The task lives and says so: only the file can be what it hangs on. It is charged, the others are not.
async fn a_hung_step_is_tried_again(step: Rule, words: &str) {
    let (host, engine) = (Host::new(), engine().await);
    host.configure_with(&engine.uri(), SHORT, MANY);
    engine.faults().add(step.object("hung.txt").times(1));
    let daemon = host.start();
    let names = host.drop_files("f", 5);
    host.write("in/hung.txt", "hung\n");
    all_arrive_once(&host, &engine, &names).await;

    wait_for("the file that hung", || host.result("hung.txt").is_some()).await;
    assert_eq!(host.result("hung.txt").unwrap()["attempts"], 2);
    assert_sent_once(&engine, &["hung.txt".into()]);
    let failed = daemon.messages("failed; tried again");
    assert!(failed.len() == 1 && failed[0]["reason"].as_str().unwrap().contains(words), "{failed:?}");
    assert_eq!(daemon.messages(DOWN).len(), 0, "the pipeline was never to blame");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_answers_pings_and_no_request_is_given_up_and_tried_anew() {
    // As behind a proxy that speaks for a server that is gone; a short start_timeout, for a probe asks to start it.
    let (host, engine) = (Host::new(), engine().await);
    host.configure_with(&engine.uri(), &format!("{SHORT}start_timeout = \"1s\"\n"), MANY);
    let daemon = host.start();
    up(&daemon).await;
    for command in ["rrext_process", "rrext_get_task_status", "execute", "rrext_ping"] {
        engine.faults().add(Rule::command(command, Effect::Hang));
    }
    let names = host.drop_files("f", 5);
    blamed(&daemon, &["no reply to rrext_get_task_status within 1 s"]).await;
    let connections = engine.accepted();
    wait_for("a new connection", || engine.accepted() > connections).await;

    engine.faults().clear();
    all_arrive_once(&host, &engine, &names).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_that_a_dead_predecessor_held_come_back() {
    let (host, engine) = (Host::new(), engine_with(|options| options.reap_after = Duration::from_secs(3)).await);
    let task = engine.start_task("test", 4).token;
    // Pipes that are granted and written to, and never closed.
    let writes = engine.faults().add(Rule::write(Effect::Delay(Duration::from_millis(400))));
    host.configure_with(&engine.uri(), &format!("{SHORT}chunk_size = \"4KiB\"\n"), "");
    let mut daemon = host.start();
    let names = drop_large(&host, 6, 40 * 1024);
    wait_for("all slots to be taken", || engine.pipes_in_use(&task) == 4).await;
    daemon.kill();
    engine.faults().remove(writes);

    let daemon = host.start();
    wait_for("an open that waits", || engine.opens_waiting(&task) > 0).await;
    let mut most = 0;
    wait_for("all results", || {
        let waiting = engine.opens_waiting(&task);
        // Once there are free slots, others may ask for them.
        if engine.reaped() == 0 {
            most = most.max(waiting);
        }
        names.iter().all(|name| host.result(name).is_some())
    })
    .await;
    assert_eq!(most, 1, "one open is enough to hear of a free slot");
    assert_nothing_lost(&host, &engine, &names);
    assert_sent_once(&engine, &names);
    assert_eq!(engine.reaped(), 4, "what the dead one left behind, and nothing of the new one");
    assert_eq!(daemon.messages(DOWN).len(), 0);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_of_the_server_a_token_waits_for_its_task_and_says_what_to_do() {
    let (host, address) = (Host::new(), own_address());
    let engine = engine_with(|options| options.listen = address).await;
    let token = engine.start_task("mine", 4).token;
    host.configure_with(&engine.uri(), SHORT, "");
    host.edit_config("file = \"test.pipe\"", "token_file = \"token\"");
    let token_file = host.write_secret("token", &token);
    let daemon = host.start();
    let before = host.drop_files("before", 2);
    host.all_have_results(&before).await;
    host.assert_delivered_uncharged(&before);

    // CLOSE 1012, tasks gone.
    engine.stop().await;
    blamed(&daemon, &["1012"]).await;
    let engine = engine_with(|options| options.listen = address).await;
    let names = host.drop_files("after", 3);
    blamed(&daemon, &["not running", "start it", &token_file.to_string_lossy()]).await;
    assert!(engine.tasks().is_empty(), "a token starts nothing");
    assert!(names.iter().all(|name| host.result(name).is_none() && host.error(name).is_none()));

    host.write_secret("token", &engine.start_task("another", 4).token);
    all_arrive_once(&host, &engine, &names).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_task_is_restarted_under_its_token_nothing_lands_in_the_pipes_of_a_stranger() {
    let (host, engine) = (Host::new(), engine_with(|options| options.reap_after = Duration::from_secs(60)).await);
    let token = engine.start_task("test", 4).token;
    // A slow limit: between two writes of a file there is time for a task to die and for another one to start.
    let limits = "[pipelines.test.limits]\nmax_concurrent_uploads = 4\nbytes_per_second = \"16KiB\"\n";
    host.configure_with(&engine.uri(), &format!("{SHORT}chunk_size = \"4KiB\"\n"), limits);
    let daemon = host.start();
    let names = drop_large(&host, 2, 20 * 1024);
    wait_for("some writes", || engine.writes().len() >= 4).await;
    assert!(engine.kill_task(&token));
    assert_eq!(engine.start_task("test", 4).token, token);

    // The stranger gets the very numbers that were the daemon's.
    let stranger = Client::builder().uri(engine.uri()).api_key(KEY).build().unwrap();
    let token = SecretString::from(token);
    let mut pipes = Vec::new();
    for n in 0..4 {
        let mut pipe = stranger.pipe(&token, ObjectInfo::named(format!("stranger{n}.bin")), None, None);
        pipe.open().await.unwrap();
        pipe.write(b"abc").await.unwrap();
        pipes.push(pipe);
    }
    blamed(&daemon, &["the task"]).await;
    for mut pipe in pipes {
        pipe.write(b"def").await.unwrap();
        pipe.close().await.unwrap();
    }
    for n in 0..4 {
        let of_it = delivered_as(&engine, &format!("stranger{n}.bin"));
        assert_eq!(of_it.len(), 1);
        assert_eq!(of_it[0].sha256, sha256("abcdef"), "a late write of the daemon's landed in it");
    }
    all_arrive_once(&host, &engine, &names).await;
    daemon.stop().await;
}

/// Begins an upload of `held.txt` whose result does not come before the daemon has given it up, and returns once the
/// server says nothing.
async fn held_close(host: &Host, engine: &Sandbox) {
    let held = engine.faults().add(Rule::close(Effect::Hang).object("held.txt").times(1));
    host.write("in/held.txt", "held\n");
    wait_for("a close that waits", || engine.faults().hits(held) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_beyond_the_message_limit_is_named_and_the_others_go_on() {
    let (host, engine) = (Host::new(), engine().await);
    let wire = Wire::to(engine.addr(), Mode::Pass).await;
    host.configure_with(&wire.uri(), "", MANY);
    let daemon = host.start();
    up(&daemon).await;
    held_close(&host, &engine).await;
    wire.insert(text_frame_header(300 << 20));
    blamed(&daemon, &["a reply is too large", "314572800"]).await;

    let names = [host.drop_files("f", 3), vec!["held.txt".into()]].concat();
    all_arrive(&host, &engine, &names).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_says_that_means_nothing_harms_nothing() {
    let (host, engine) = (Host::new(), engine().await);
    let wire = Wire::to(engine.addr(), Mode::Pass).await;
    host.configure_with(&wire.uri(), "result_timeout = \"2s\"\n", MANY);
    let late = engine.faults().add(Rule::close(Effect::Delay(Duration::from_secs(3))).object("late.txt"));
    let daemon = host.start();
    up(&daemon).await;
    host.write("in/late.txt", "late\n");
    wait_for("a close in flight", || engine.faults().hits(late) == 1).await;
    let deep = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
    for words in [
        "",
        "no json",
        "{",
        "[]",
        "null",
        "\"words\"",
        r#"{"type":"novelty","seq":1}"#,
        r#"{"type":"event","seq":1,"event":"apaevt_of_next_year","body":{"x":[1,{"y":null}]},"new":{}}"#,
        r#"{"type":"event","seq":-1,"event":7,"body":NaN}"#,
        r#"{"type":"response","seq":1,"request_seq":987654321,"command":"x","success":true,"body":{"pipe_id":0}}"#,
        r#"{"type":"response","seq":1,"request_seq":"one","success":"maybe"}"#,
        r#"{"type":"request","seq":1,"command":"rrext_ping"}"#,
        &format!(r#"{{"type":"event","event":"x","body":{deep}}}"#),
    ] {
        wire.insert(text_frame(words));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    wire.insert(binary_frame(&[0, 159, 146, 150, b'\n', 0]));
    wire.insert(binary_frame(br#"{"type":"response","request_seq":3,"success":false,"message":"no"}"#));
    let names = [host.drop_files("f", 5), vec!["late.txt".into()]].concat();
    all_arrive_once(&host, &engine, &names).await;
    assert_eq!((daemon.messages(DOWN).len(), engine.accepted()), (0, 1), "one connection all the time");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_cannot_be_read_says_so_and_the_file_is_tried_again() {
    let (host, engine) = (Host::new(), engine().await);
    let wire = Wire::to(engine.addr(), Mode::Pass).await;
    host.configure_with(&wire.uri(), "", MANY);
    let daemon = host.start();
    up(&daemon).await;
    held_close(&host, &engine).await;
    // As Python's JSON writes a number that is none. Who does not wait ignores it.
    for seq in 1..50 {
        let reply = format!(
            r#"{{"type":"response","seq":1,"request_seq":{seq},"command":"rrext_process","body":{{"x":NaN}}}}"#
        );
        wire.insert(text_frame(&reply));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    wait_for("the result", || host.result("held.txt").is_some()).await;
    let failed = daemon.messages("failed; tried again");
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(failed[0]["reason"].as_str().unwrap().contains("its reply cannot be read"), "{failed:?}");
    assert_eq!(host.result("held.txt").unwrap()["attempts"], 2, "only this one result is to blame");
    let names = host.drop_files("f", 3);
    all_arrive(&host, &engine, &names).await;
    assert_eq!(daemon.messages(DOWN).len(), 0);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_that_is_revoked_on_a_live_connection_is_asked_for_again() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure_with(&engine.uri(), SHORT, MANY);
    let daemon = host.start();
    let before = host.drop_files("before", 2);
    host.all_have_results(&before).await;

    // The server has forgotten who is on that connection, and knows the key no more.
    let refuse = |message: &str| Effect::Refuse { message: message.into(), code: None };
    engine.faults().add(Rule::command("auth", refuse("Invalid API key")));
    for command in ["rrext_process", "rrext_get_task_status", "execute", "rrext_ping"] {
        engine.faults().add(Rule::command(command, refuse("Not authenticated")));
    }
    let names = host.drop_files("f", 5);
    let key = host.path("key");
    blamed(&daemon, &["Invalid API key", &key.to_string_lossy(), "replace it"]).await;
    assert!(names.iter().all(|name| host.result(name).is_none() && host.error(name).is_none()));

    // Restored.
    engine.faults().clear();
    host.all_have_results(&names).await;
    assert_nothing_lost(&host, &engine, &[before, names].concat());
    assert!(!daemon.log().contains(KEY), "a key is a secret");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_may_no_longer_start_the_pipeline_is_replaced_without_a_restart() {
    let (host, address) = (Host::new(), own_address());
    let engine = engine_with(|options| options.listen = address).await;
    host.configure_with(&engine.uri(), SHORT, MANY);
    let daemon = host.start();
    let before = host.drop_files("before", 2);
    host.all_have_results(&before).await;
    host.assert_delivered_uncharged(&before);

    engine.stop().await;
    let engine = engine_with(|options| {
        options.listen = address;
        options.api_key = "the-key-of-next-month".into();
    })
    .await;
    let names = host.drop_files("f", 5);
    blamed(&daemon, &["Invalid API key", "replace it"]).await;
    // A key that is taken, and not for this.
    let forbidden = Effect::Refuse { message: "Permission task.control is required".into(), code: None };
    engine.faults().add(Rule::command("execute", forbidden));
    host.write_secret("key", "the-key-of-next-month");
    blamed(&daemon, &["Permission task.control is required"]).await;
    let logins = engine.accepted();
    wait_for("another login", || engine.accepted() > logins).await;

    engine.faults().clear();
    all_arrive(&host, &engine, &names).await;
    assert!(!daemon.log().contains("the-key-of-next-month"));
    daemon.stop().await;
}

/// The daemon starts against a way that is troubled, says these words, and goes on once the way is free.
async fn at_the_door(mode: Mode, words: &[&str]) {
    let (host, engine) = (Host::new(), engine().await);
    let wire = Wire::to(engine.addr(), mode).await;
    host.configure_with(&wire.uri(), SHORT, "");
    let names = host.drop_files("f", 3);
    let daemon = host.start();
    blamed(&daemon, words).await;
    assert!(reasons(&daemon)[0].contains(&wire.addr().to_string()), "it names the server: {:?}", reasons(&daemon));
    let tried = wire.accepted();
    wait_for("another try", || wire.accepted() > tried).await;
    assert!(names.iter().all(|name| host.result(name).is_none() && host.error(name).is_none()));

    wire.set(Mode::Pass);
    all_arrive_once(&host, &engine, &names).await;
    assert_eq!(daemon.messages("pipeline is up again").len(), 1);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_403_on_the_upgrade_says_what_it_may_be() {
    at_the_door(Mode::Say("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"), &["403", "too many connections"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_502_of_a_proxy_is_told_as_that() {
    let page = "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<html></html>";
    at_the_door(Mode::Say(page), &["HTTP 502", "instead of upgrading"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_speaks_another_protocol_is_told_as_that() {
    at_the_door(Mode::Say("220 mail.example ESMTP\r\n"), &["no http is spoken at this port"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_accepts_and_says_nothing_is_given_up_in_time() {
    at_the_door(Mode::Freeze, &["no connection within 2 s", "did not answer the upgrade to a websocket"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_reset_at_once_is_told_as_that() {
    at_the_door(Mode::Reset, &["reset"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_is_never_answered_is_given_up_in_time() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure_with(&engine.uri(), SHORT, "");
    engine.faults().add(Rule::command("auth", Effect::Hang));
    let names = host.drop_files("f", 3);
    let daemon = host.start();
    blamed(&daemon, &["no reply to auth within 1 s"]).await;
    wait_for("another try", || engine.accepted() > 1).await;
    engine.faults().clear();
    all_arrive_once(&host, &engine, &names).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_is_tried_until_somebody_listens() {
    let (host, address) = (Host::new(), own_address());
    host.configure_with(&format!("http://{address}"), SHORT, "");
    let names = host.drop_files("f", 3);
    let daemon = host.start();
    blamed(&daemon, &["cannot connect", &address.to_string(), "refused"]).await;
    let engine = engine_with(|options| options.listen = address).await;
    all_arrive_once(&host, &engine, &names).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_nobody_knows_is_told_as_that_and_charges_nobody() {
    let host = Host::new();
    // Longer than any name may be: no resolver is asked, so that this depends on none.
    let name = format!("{}.invalid", "x".repeat(70));
    host.configure_with(&format!("https://{name}"), SHORT, "");
    let names = host.drop_files("f", 3);
    let daemon = host.start();
    blamed(&daemon, &["cannot connect", &name, "lookup"]).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(names.iter().all(|name| host.result(name).is_none() && host.error(name).is_none()));
    daemon.stop().await;
    assert_eq!(host.journaled("in", "failed").await, 0);
}
