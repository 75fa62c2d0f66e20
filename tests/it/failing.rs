//! Pipelines that fail on everything, and files that kill their task: the one is not charged to the files, and the
//! other not to the pipeline.

use std::time::Duration;

use rocketride_ingest::sandbox::{Effect, Rule, Sandbox};

use crate::harness::{Host, assert_sent_once, engine, wait_for};

/// Short limits, so that what is never answered is noticed within the test.
const SHORT: &str = "request_timeout = \"1s\"\n";
/// More uploads at a time than pipes that a test abandons: an abandoned one counts for 90 s.
const MANY: &str = "[pipelines.test.limits]\nmax_concurrent_uploads = 64\n[limits]\nmax_concurrent_uploads = 64\n";

const FAILING: &str = "pipeline is failing: different files failed in a row; only one is tried from now on, the others wait at no attempt";
const RECOVERED: &str = "pipeline is no longer failing: it took a file; all of its files go again";

fn node(engine: &Sandbox) {
    engine.faults().add(Rule::close(Effect::NodeError { message: "the model is away".into() }));
}

fn dead_letters(host: &Host, names: &[String]) -> usize {
    names.iter().filter(|name| host.error(name).is_some()).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_fails_on_everything_costs_one_file_at_a_time_and_the_rest_nothing() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    // Time enough for five different files to fail before one of them has failed for good.
    host.edit_config("initial = \"100ms\"", "initial = \"1s\"");
    node(&engine);
    let daemon = host.start();
    let names = host.drop_files("f", 12);
    daemon.logged(FAILING).await;
    wait_for("a dead letter", || dead_letters(&host, &names) == 1).await;
    wait_for("another one", || dead_letters(&host, &names) == 2).await;
    let sent = engine.deliveries().len();
    // A first attempt of each, eight at most in flight when it began, two probes of three attempts; not twelve files of three.
    assert!(sent < 30, "{sent} deliveries");

    engine.faults().clear();
    daemon.logged(RECOVERED).await;
    let given_up: Vec<_> = names.iter().filter(|name| host.error(name).is_some()).cloned().collect();
    let others: Vec<_> = names.iter().filter(|name| !given_up.contains(name)).cloned().collect();
    assert!(given_up.len() <= 3, "{given_up:?}");
    host.all_have_results(&others).await;
    let charged = others.iter().filter(|name| host.result(name).unwrap()["attempts"] != 1).count();
    assert!(charged <= 1, "the probe alone paid: {charged} of {}", others.len());
    for name in &given_up {
        assert_eq!(host.error(name).unwrap()["attempts"], 3, "{name}");
    }
    assert_eq!(daemon.messages(FAILING).len(), 1);
    assert_eq!(daemon.messages(FAILING)[0]["last_error"], "the model is away (1)");
    assert_eq!(daemon.messages(RECOVERED).len(), 1);
    daemon.stop().await;
    assert_eq!(host.journaled("in", "done").await, others.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_pass_over_a_pipeline_that_fails_ends_with_69() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    host.edit_config("attempts = 3", "attempts = 1000");
    node(&engine);
    host.drop_files("f", 8);
    let mut daemon = host.start_with(&["run", "--once"]);
    assert_eq!(daemon.ended().await.code(), Some(69), "{}", daemon.log());
    assert!(daemon.log().contains(FAILING));
    assert_eq!(host.journaled("in", "pending").await, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_file_among_good_ones_never_makes_a_pipeline_failing() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    engine.faults().add(Rule::close(Effect::NodeError { message: "no".into() }).object("bad*"));
    let daemon = host.start();
    let bad = host.drop_files("bad", 1);
    wait_for("the dead letter", || host.error(&bad[0]).is_some()).await;
    let good = host.drop_files("good", 5);
    host.all_have_results(&good).await;
    assert!(daemon.messages(FAILING).is_empty());
    daemon.stop().await;
}

/// A file meets `trouble` whenever it is written; the others go on, and it ends as a dead letter.
async fn one_file_is_given_up(trouble: Effect, said: &str) {
    let (host, engine) = (Host::new(), engine().await);
    host.configure_with(&engine.uri(), SHORT, MANY);
    let killer = engine.faults().add(Rule::write(trouble).object("killer*"));
    // The others are in flight when it happens.
    engine.faults().add(Rule::close(Effect::Delay(Duration::from_millis(300))).object("f*"));
    let daemon = host.start();
    let others = host.drop_files("f", 10);
    host.drop_files("killer", 1);
    wait_for("the dead letter", || host.error("killer0.txt").is_some()).await;
    let error = host.error("killer0.txt").unwrap();
    assert_eq!((&error["code"], &error["attempts"]), (&"KILLS_TASK".into(), &3.into()), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("whenever this file is sent"), "{error}");
    assert!(error["error"].as_str().unwrap().contains(said), "{error}");
    assert_eq!(engine.faults().hits(killer), 5, "two suspicions and three attempts alone");

    host.all_have_results(&others).await;
    host.assert_delivered_uncharged(&others);
    assert_eq!(host.result("killer0.txt"), None);
    let later = host.drop_files("later", 5);
    host.all_have_results(&later).await;
    assert_sent_once(&engine, &later);
    assert!(daemon.messages(FAILING).is_empty());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_kills_its_task_each_time_is_given_up_and_the_others_are_delivered() {
    one_file_is_given_up(Effect::KillTask, "the task").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_over_which_the_server_closes_the_connection_is_given_up_and_the_others_are_delivered() {
    one_file_is_given_up(Effect::Close { code: 1009, reason: "message too big".into() }, "too big").await;
}
