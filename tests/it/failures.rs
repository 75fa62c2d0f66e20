//! Failures of the pipeline itself: masked ones are never taken for success, and each stays where it belongs.

use std::time::Duration;

use rocketride_ingest::sandbox::{Effect, Rule};
use serde_json::Value;

use crate::harness::{Host, assert_repeats_replace, assert_sent_once, engine, own_address, wait_for};

const NODE: &str = "the node says no: 4711";

/// Each way in which a pipeline fails on an object, with the name of the files that meet it. A masked write alone
/// cannot be seen by any client: a node that raises in a write says so at the close.
fn rules() -> Vec<(&'static str, Vec<Rule>)> {
    let node = || Effect::NodeError { message: NODE.into() };
    vec![
        ("open", vec![Rule::open(Effect::Mask)]),
        ("write", vec![Rule::write(Effect::Mask), Rule::close(node())]),
        ("close", vec![Rule::close(Effect::Mask)]),
        ("node", vec![Rule::close(node())]),
        ("stranger", vec![Rule::close(Effect::WrongObjectId)]),
        ("refused", vec![Rule::open(Effect::Refuse { message: NODE.into(), code: None })]),
    ]
}

fn name(kind: &str) -> String {
    format!("{kind}.txt")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_looks_like_success_is_tried_again() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    for (kind, rules) in rules() {
        for rule in rules {
            engine.faults().add(rule.object(&name(kind)).times(1));
        }
    }
    let daemon = host.start();
    for (kind, _) in rules() {
        // One after the other: five that fail in a row would be the pipeline's failure, and cost them nothing.
        host.write(format!("in/{}", name(kind)), kind);
        wait_for(kind, || host.result(name(kind)).is_some()).await;
        let result = host.result(name(kind)).unwrap();
        assert_eq!((&result["action"], &result["attempts"]), (&"complete".into(), &2.into()), "{kind}");
        assert_eq!(host.error(name(kind)), None, "{kind}");
        let of_it: Vec<_> = engine.deliveries().into_iter().filter(|delivery| delivery.name == name(kind)).collect();
        assert!(of_it.last().unwrap().complete(), "{kind}: what came last is whole");
        assert!(of_it.iter().all(|delivery| delivery.object_id == of_it[0].object_id), "{kind}");
    }
    wait_for("all slots to be free", || engine.pipes_in_use(&engine.tasks()[0].0.token) == 0).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_lasts_ends_in_an_error_file_and_never_in_a_result() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    for (kind, rules) in rules() {
        for rule in rules {
            engine.faults().add(rule.object(&name(kind)));
        }
    }
    let daemon = host.start();
    for (kind, _) in rules() {
        host.write(format!("in/{}", name(kind)), kind);
    }
    let fine = host.drop_files("fine", 4);
    for (kind, _) in rules() {
        wait_for(kind, || host.error(name(kind)).is_some()).await;
        let error = host.error(name(kind)).unwrap();
        assert_eq!((&error["action"], &error["attempts"]), (&"error".into(), &3.into()), "{kind}");
        assert_eq!(error["retryable"], true, "{kind}");
        for key in ["error", "code", "hint", "first_attempt_at", "last_attempt_at"] {
            assert!(error[key].as_str().is_some_and(|text| !text.is_empty()), "{kind}: {key}: {error}");
        }
        if ["write", "node", "refused"].contains(&kind) {
            assert!(error["error"].as_str().unwrap().contains(NODE), "{kind}: the node's own words: {error}");
        }
        assert_eq!(host.result(name(kind)), None, "{kind}");
    }
    host.all_have_results(&fine).await;
    host.assert_delivered_uncharged(&fine);
    // The error file stands there a moment before it is said.
    let said = || daemon.messages("given up; see its error file").len();
    wait_for("all to be told", || said() == rules().len()).await;
    assert!(daemon.messages("delivered").iter().all(|line| line["path"].as_str().unwrap().starts_with("fine")));
    daemon.stop().await;
    assert_eq!(host.journaled("in", "failed").await, rules().len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_delivered_after_all_when_its_error_file_is_removed() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    engine.faults().add(Rule::close(Effect::NodeError { message: NODE.into() }).times(3));
    let daemon = host.start();
    host.write("in/a.txt", "hello\n");
    wait_for("the error file", || host.error("a.txt").is_some()).await;
    std::fs::remove_file(host.path("in/a.txt.error.json")).unwrap();
    wait_for("the result", || host.result("a.txt").is_some()).await;
    assert_repeats_replace_but_failures(&engine.deliveries());
    assert_eq!(host.error("a.txt"), None);
    daemon.stop().await;
}

fn assert_repeats_replace_but_failures(deliveries: &[rocketride_ingest::sandbox::Delivery]) {
    assert!(deliveries.iter().all(|delivery| delivery.object_id == deliveries[0].object_id), "{deliveries:?}");
    assert!(deliveries.last().unwrap().complete());
}

/// A second pipeline `other` with a watch `out` of its own.
fn other(pipeline: &str) -> String {
    format!(
        "[pipelines.other]\n{pipeline}\n[[watch]]\nname = \"out\"\npath = \"OUT\"\npipeline = \"other\"\n\
         settle = \"300ms\"\n"
    )
}

fn configure_other(host: &Host, uri: &str, pipeline: &str) {
    std::fs::create_dir(host.path("out")).unwrap();
    host.configure(uri, &other(pipeline).replace("OUT", &host.path("out").display().to_string()));
}

fn result_in_out(host: &Host, name: &str) -> Option<Value> {
    crate::harness::read_json(&host.path(format!("out/{name}.result.json")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_is_down_delays_only_its_own_files() {
    let (host, engine) = (Host::new(), engine().await);
    configure_other(&host, &engine.uri(), &format!("file = \"test.pipe\"\nuri = \"http://{}\"", own_address()));
    host.write("out/waits.txt", "waits");
    let daemon = host.start();
    daemon.logged("pipeline is down; its files wait").await;
    let names = host.drop_files("f", 20);
    host.all_have_results(&names).await;
    host.assert_delivered_uncharged(&names);
    assert_sent_once(&engine, &names);
    assert!(result_in_out(&host, "waits.txt").is_none());
    assert!(!host.path("out/waits.txt.error.json").exists());
    daemon.stop().await;
    assert_eq!(host.journaled("out", "pending").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_is_full_holds_no_permit_of_the_daemon() {
    let (host, engine) = (Host::new(), engine().await);
    let full = host.pipeline_file("full");
    configure_other(&host, &engine.uri(), &format!("file = {full:?}\n[limits]\nmax_concurrent_uploads = 1\n"));
    let task = engine.start_task("full", 2).token;
    let held = engine.hold_slots(&task, 2);
    host.write("out/waits.txt", "waits");
    host.write("out/waits too.txt", "waits too");
    let daemon = host.start();
    wait_for("an open that waits", || engine.opens_waiting(&task) == 1).await;
    let names = host.drop_files("f", 20);
    host.all_have_results(&names).await;
    host.assert_delivered_uncharged(&names);
    assert_eq!(engine.opens_waiting(&task), 1);

    drop(held);
    for name in ["waits.txt", "waits too.txt"] {
        wait_for(name, || result_in_out(&host, name).is_some()).await;
        assert_eq!(result_in_out(&host, name).unwrap()["attempts"], 1);
    }
    assert_repeats_replace(&engine, &["waits.txt".into(), "waits too.txt".into()]);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_pipeline_leaves_the_others_their_turns() {
    let (host, engine) = (Host::new(), engine().await);
    let slow = host.pipeline_file("slow");
    configure_other(&host, &engine.uri(), &format!("file = {slow:?}"));
    engine.faults().add(Rule::close(Effect::Delay(Duration::from_secs(100))).object("slow*"));
    for n in 0..12 {
        host.write(format!("out/slow{n}.txt"), format!("{n}"));
    }
    let daemon = host.start();
    wait_for("the slow ones", || engine.opens().iter().any(|open| open.name.starts_with("slow"))).await;
    let names = host.drop_files("f", 20);
    host.all_have_results(&names).await;
    assert!(engine.deliveries().iter().all(|delivery| delivery.name.starts_with('f')), "the slow ones were overtaken");
    engine.faults().clear();
    drop(daemon);
}
