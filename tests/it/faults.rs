//! Faults of the server and of the network: nothing is lost, nothing is charged, everything goes on by itself.

use std::time::Duration;

use rocketride_ingest::sandbox::{Effect, Rule, Sandbox};

use crate::harness::{
    Daemon, Host, assert_repeats_replace, assert_sent_once, engine, engine_with, own_address, wait_for,
};

/// Short limits, so that what is never answered is noticed within the test.
const SHORT: &str = "request_timeout = \"2s\"\nresult_timeout = \"2s\"\n";
/// More uploads at a time than pipes that a test abandons: an abandoned one counts for 90 s.
const MANY: &str = "[pipelines.test.limits]\nmax_concurrent_uploads = 64\n[limits]\nmax_concurrent_uploads = 64\n";

const DOWN: &str = "pipeline is down; its files wait, at no attempt, until it is up";
const UP_AGAIN: &str = "pipeline is up again";

/// The only task of an engine.
fn task(engine: &Sandbox) -> String {
    engine.tasks()[0].0.token.clone()
}

/// One warning when it began and one line when it was over; in between at most words about another reason.
fn assert_one_outage(daemon: &Daemon) {
    let (down, up) = (daemon.messages(DOWN), daemon.messages(UP_AGAIN));
    assert_eq!((down.len(), up.len()), (1, 1), "{}", daemon.log());
    assert_eq!((&down[0]["level"], &down[0]["pipeline"]), (&"WARN".into(), &"test".into()));
    assert!(down[0]["reason"].as_str().is_some_and(|reason| !reason.is_empty()));
    assert!(daemon.messages("pipeline is still down").len() <= 2, "{}", daemon.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_delays_files_and_loses_none() {
    let (host, address) = (Host::new(), own_address());
    let engine = engine_with(|options| options.listen = address).await;
    host.configure(&engine.uri(), "");
    let daemon = host.start();
    let before = host.drop_files("before", 3);
    host.all_have_results(&before).await;

    engine.stop().await;
    daemon.logged(DOWN).await;
    let meanwhile = host.drop_files("meanwhile", 20);
    // Long enough for the files to settle and for some probes.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(meanwhile.iter().all(|name| host.result(name).is_none() && host.error(name).is_none()));

    let engine = engine_with(|options| options.listen = address).await;
    host.all_have_results(&meanwhile).await;
    host.assert_delivered_uncharged(&before);
    host.assert_delivered_uncharged(&meanwhile);
    assert_sent_once(&engine, &meanwhile);
    assert_one_outage(&daemon);
    daemon.stop().await;
    assert_eq!(host.journaled("in", "done").await, 23);
    assert_eq!(host.journaled("in", "failed").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_in_the_middle_of_uploads_gets_them_again() {
    let (host, address) = (Host::new(), own_address());
    let engine = engine_with(|options| options.listen = address).await;
    engine.faults().add(Rule::close(Effect::Delay(Duration::from_secs(60))));
    host.configure(&engine.uri(), "");
    let daemon = host.start();
    let names = host.drop_files("f", 10);
    wait_for("uploads in flight", || engine.tasks().len() == 1 && engine.pipes_in_use(&task(&engine)) == 4).await;
    engine.abort().await;
    daemon.logged(DOWN).await;

    let engine = engine_with(|options| options.listen = address).await;
    host.all_have_results(&names).await;
    host.assert_delivered_uncharged(&names);
    assert_sent_once(&engine, &names);
    assert_one_outage(&daemon);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_file_is_started_and_started_again_when_the_server_forgot_it() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    let daemon = host.start();
    let first = host.drop_files("first", 2);
    host.all_have_results(&first).await;
    assert!(engine.forget_task(&task(&engine)));

    let second = host.drop_files("second", 5);
    host.all_have_results(&second).await;
    assert!(engine.kill_task(&task(&engine)));
    let third = host.drop_files("third", 5);
    host.all_have_results(&third).await;

    for names in [first, second, third] {
        host.assert_delivered_uncharged(&names);
        assert_sent_once(&engine, &names);
    }
    assert_eq!(daemon.messages(DOWN).len(), daemon.messages(UP_AGAIN).len());
    daemon.stop().await;
}

/// A task dies while `step` is unanswered for some files.
async fn a_task_dies_over(step: Rule) {
    let (host, engine) = (Host::new(), engine().await);
    let late = engine.faults().add(step.times(3));
    host.configure_with(&engine.uri(), SHORT, MANY);
    let daemon = host.start();
    let names = host.drop_files("f", 6);
    wait_for("three requests in flight", || engine.faults().hits(late) == 3).await;
    assert!(engine.kill_task(&task(&engine)));

    host.all_have_results(&names).await;
    host.assert_delivered_uncharged(&names);
    assert_repeats_replace(&engine, &names);
    wait_for("no pipe in use", || engine.pipes_in_use(&task(&engine)) == 0).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_dies_over_writes_is_started_again_and_nothing_is_charged() {
    a_task_dies_over(Rule::write(Effect::Delay(Duration::from_secs(90)))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_dies_over_closes_is_started_again_and_nothing_is_charged() {
    a_task_dies_over(Rule::close(Effect::Delay(Duration::from_secs(90)))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_that_are_cut_in_the_middle_cost_no_attempt() {
    let (host, engine) = (Host::new(), engine().await);
    // The pieces of a file take a while, so that a cut meets them anywhere.
    engine.faults().add(Rule::write(Effect::Delay(Duration::from_millis(30))));
    host.configure_with(&engine.uri(), "chunk_size = \"4KiB\"", MANY);
    let daemon = host.start();
    let names: Vec<_> = (0..8).map(|n| format!("f{n}.bin")).collect();
    for (n, name) in (0u8..).zip(&names) {
        host.write(format!("in/{name}"), vec![n; 100 * 1024]);
    }
    for cut in 1..=3 {
        wait_for("uploads in flight", || engine.tasks().len() == 1 && engine.pipes_in_use(&task(&engine)) > 0).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        engine.cut_connections();
        wait_for("the cut to be noticed", || daemon.messages(DOWN).len() >= cut || all_delivered(&host, &names)).await;
    }
    host.all_have_results(&names).await;
    host.assert_delivered_uncharged(&names);
    assert_repeats_replace(&engine, &names);
    wait_for("abandoned pipes to be reaped", || engine.pipes_in_use(&task(&engine)) == 0).await;
    daemon.stop().await;
    assert_eq!(host.journaled("in", "done").await, 8);
}

fn all_delivered(host: &Host, names: &[String]) -> bool {
    names.iter().all(|name| host.result(name).is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_around_the_close_leads_to_a_delivery_and_a_repeat_replaces() {
    let (host, engine) = (Host::new(), engine().await);
    let before = engine.faults().add(Rule::close(Effect::CutBefore).object("f*").after(1).times(2));
    let after = engine.faults().add(Rule::close(Effect::CutAfter).object("g*").after(1).times(2));
    host.configure_with(&engine.uri(), "", MANY);
    let daemon = host.start();
    let names = [host.drop_files("f", 6), host.drop_files("g", 6)].concat();
    host.all_have_results(&names).await;

    assert_eq!((engine.faults().hits(before), engine.faults().hits(after)), (2, 2), "the cuts were met");
    host.assert_delivered_uncharged(&names);
    assert_repeats_replace(&engine, &names);
    // The pipeline had the second kind already: at least once means that it gets them once more.
    assert!(engine.delivered() >= 14, "{}", engine.delivered());
    daemon.stop().await;
    assert_eq!(host.journaled("in", "failed").await, 0);
}
