//! The state directory without room: the daemon begins nothing new, or stops with a reason, and goes on later.

use std::fs;

use rocketride_ingest::sandbox::{Effect, Rule};

use crate::harness::{Host, assert_repeats_replace, assert_sent_once, engine, wait_for};
use crate::mount::Mount;

/// Writes into a file of the state directory until there is no room.
fn fill(host: &Host) {
    let error = fs::write(host.path("state/ballast"), vec![0; 64 << 20]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
}

fn quarantined(host: &Host) -> bool {
    let mut entries = fs::read_dir(host.path("state")).unwrap();
    entries.any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with("journal.corrupt-"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_without_room_stops_the_daemon_with_the_reason_and_nothing_is_lost() {
    let (host, engine) = (Host::new(), engine().await);
    fs::create_dir(host.path("state")).unwrap();
    let Some(_state) = Mount::tmpfs(host.path("state"), "size=8m") else { return };
    host.configure(&engine.uri(), "");
    // What is in flight when the room ends is sent, and its result written: only the journal does not know.
    let slow = engine.faults().add(Rule::close(Effect::Delay(std::time::Duration::from_secs(2))));
    let in_flight = host.drop_files("in-flight", 4);
    let mut daemon = host.start();
    wait_for("the closes", || engine.faults().hits(slow) >= 4).await;
    fill(&host);
    let later = host.drop_files("later", 50);
    let status = daemon.ended().await;
    assert_eq!(status.code(), Some(1), "{}", daemon.log());
    for words in ["cannot write the journal in ", "No space left on device", "the daemon stops"] {
        assert!(daemon.log().contains(words), "{words:?} in:\n{}", daemon.log());
    }

    // Still without room: the next starts say so too, and do not take a healthy journal for a damaged one.
    for _ in 0..2 {
        let mut daemon = host.start();
        assert_eq!(daemon.ended().await.code(), Some(1), "{}", daemon.log());
        assert!(daemon.log().contains("No space left on device"), "{}", daemon.log());
        assert!(!quarantined(&host), "{}", daemon.log());
    }

    engine.faults().clear();
    fs::remove_file(host.path("state/ballast")).unwrap();
    let daemon = host.start();
    let names = [in_flight, later].concat();
    host.all_have_results(&names).await;
    host.assert_delivered_uncharged(&names);
    assert_repeats_replace(&engine, &names);
    daemon.stop().await;
    assert!(!quarantined(&host));
    assert_eq!(host.journaled("in", "done").await, 54);
}

#[tokio::test(flavor = "multi_thread")]
async fn below_min_free_nothing_new_is_begun_and_what_is_in_flight_ends_well() {
    let (host, engine) = (Host::new(), engine().await);
    fs::create_dir(host.path("state")).unwrap();
    let Some(_state) = Mount::tmpfs(host.path("state"), "size=16m") else { return };
    host.configure(&engine.uri(), "");
    host.edit_config("min_free = \"0\"", "min_free = \"8MiB\"");
    let daemon = host.start();
    let first = host.drop_files("first", 2);
    host.all_have_results(&first).await;
    fs::write(host.path("state/ballast"), vec![0; 10 << 20]).unwrap();
    daemon.logged("too little free space for the state directory (state.min_free); nothing new is begun").await;
    let names = host.drop_files("f", 5);
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(engine.opens().len(), 2, "nothing new is begun");
    fs::remove_file(host.path("state/ballast")).unwrap();
    host.all_have_results(&names).await;
    assert!(!daemon.messages("the state directory has room again").is_empty());
    host.assert_delivered_uncharged(&names);
    assert_sent_once(&engine, &names);
    daemon.stop().await;
}
