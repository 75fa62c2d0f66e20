//! The server's slots are shared with strangers: none is leaked, and a queue of ours never grows.

use std::time::{Duration, Instant};

use rocketride_ingest::sandbox::{Effect, Rule};

use crate::harness::{Host, assert_sent_once, delivered_by_object, engine, wait_for};

/// How long it is watched that nothing happens which must not.
const WATCHED: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn while_somebody_else_has_every_slot_one_open_of_ours_waits_and_none_is_leaked() {
    let (host, engine) = (Host::new(), engine().await);
    let task = engine.start_task("test", 4).token;
    let (most, last) = (engine.hold_slots(&task, 3), engine.hold_slots(&task, 1));
    assert_eq!((most.count(), last.count()), (3, 1));
    // A short request_timeout: an open that waits longer is not given up, only its task is asked.
    host.configure_with(
        &engine.uri(),
        "request_timeout = \"1s\"",
        "[pipelines.test.limits]\nmax_concurrent_uploads = 4",
    );
    let names = host.drop_files("f", 8);
    let daemon = host.start();

    wait_for("an open that waits", || engine.opens_waiting(&task) > 0).await;
    let since = Instant::now();
    while since.elapsed() < WATCHED {
        assert_eq!(engine.opens_waiting(&task), 1, "one open of ours is enough to hear of a free slot");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    // With one slot free, everything goes through that one.
    drop(last);
    host.all_have_results(&names).await;
    host.assert_delivered_uncharged(&names);
    assert_sent_once(&engine, &names);
    wait_for("our slot to be free again", || engine.pipes_in_use(&task) == 3).await;
    drop(most);
    assert_eq!((engine.pipes_in_use(&task), engine.opens_waiting(&task), engine.reaped()), (0, 0, 0));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_that_are_taken_in_the_middle_delay_files_and_cost_them_nothing() {
    let (host, engine) = (Host::new(), engine().await);
    let task = engine.start_task("test", 4).token;
    host.configure_with(
        &engine.uri(),
        "request_timeout = \"1s\"",
        "[pipelines.test.limits]\nmax_concurrent_uploads = 4",
    );
    let daemon = host.start();
    let first = host.drop_files("before", 3);
    host.all_have_results(&first).await;

    let held = engine.hold_slots(&task, 4);
    assert_eq!(held.count(), 4);
    let names = host.drop_files("during", 12);
    wait_for("an open that waits", || engine.opens_waiting(&task) > 0).await;
    tokio::time::sleep(WATCHED).await;
    // The server was known to grant: some may have been on their way at once, but no more than may run at once.
    assert!(engine.opens_waiting(&task) <= 4);
    assert!(names.iter().all(|name| host.result(name).is_none() && host.error(name).is_none()));

    drop(held);
    host.all_have_results(&names).await;
    host.assert_delivered_uncharged(&names);
    assert_sent_once(&engine, &names);
    wait_for("all slots to be free", || engine.pipes_in_use(&task) == 0).await;
    assert_eq!((engine.opens_waiting(&task), engine.reaped()), (0, 0));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_that_is_never_answered_holds_up_neither_a_stop_nor_the_next_start() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure_with(&engine.uri(), "drain_timeout = \"60s\"", "");
    let hang = engine.faults().add(Rule::open(Effect::Hang));
    let mut daemon = host.start();
    host.write("in/a.txt", "hello\n");
    wait_for("the open", || engine.faults().hits(hang) > 0).await;

    daemon.signal("TERM");
    assert!(daemon.ended().await.success());
    assert!(!daemon.log().contains("not finished within drain_timeout"), "nothing was in flight that could finish");

    engine.faults().clear();
    let daemon = host.start();
    wait_for("the result", || host.result("a.txt").is_some()).await;
    assert_eq!(host.result("a.txt").unwrap()["attempts"], 1);
    assert_eq!(delivered_by_object(&engine).len(), 1);
    daemon.stop().await;
}
