//! Crashes: whatever the moment, everything arrives, and what has its result is not sent again.

use std::collections::HashSet;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use rocketride_ingest::sandbox::{Effect, Rule, Sandbox};
use serde_json::Value;

use crate::harness::{Host, delivered_by_object, engine, sha256, wait_for};

/// Files of a test that is killed in the middle.
const FILES: usize = 200;

fn rel(n: usize) -> String {
    format!("{}/{n}.txt", n % 5)
}

fn content(n: usize) -> String {
    format!("content of file {n}\n").repeat(1 + n * 7)
}

fn drop_files(host: &Host, count: usize) {
    (0..count).for_each(|n| drop(host.write(format!("in/{}", rel(n)), content(n))));
}

/// The object ids of the files that have a result now.
fn objects_with_result(host: &Host, count: usize) -> HashSet<String> {
    let results = (0..count).filter_map(|n| host.result(rel(n)));
    results.map(|result| result["object_id"].as_str().unwrap().to_owned()).collect()
}

/// Every file has the right result, whose object arrived with the same content.
fn assert_all_arrived(host: &Host, engine: &Sandbox, count: usize) {
    let delivered = delivered_by_object(engine);
    assert_eq!(delivered.len(), count, "objects");
    for n in 0..count {
        let result = host.result(rel(n)).unwrap_or_else(|| panic!("no result of {}", rel(n)));
        let hash = sha256(content(n));
        assert_eq!(result["sha256"], hash, "{}", rel(n));
        let deliveries = &delivered[result["object_id"].as_str().unwrap()];
        assert!(deliveries.iter().all(|delivery| delivery.sha256 == hash), "{}", rel(n));
    }
    assert_eq!(engine.deliveries().len(), delivered.values().map(Vec::len).sum::<usize>(), "nothing incomplete");
}

/// A host whose files are all delivered, and its engine.
async fn finished(count: usize) -> (Host, Sandbox) {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    drop_files(&host, count);
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    assert_eq!(engine.delivered(), count as u64);
    (host, engine)
}

/// What stands in the state directory under names that begin so.
fn in_state(host: &Host, prefix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(host.path("state")).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(prefix)).collect()
}

fn instance_of(host: &Host) -> Value {
    host.result(rel(0)).unwrap()["instance"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_of_many_uploads_loses_nothing_and_repeats_nothing_that_was_recorded() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    let slow = engine.faults().add(Rule::write(Effect::Delay(Duration::from_millis(30))));
    drop_files(&host, FILES);
    let mut daemon = host.start();
    wait_for("60 deliveries", || engine.delivered() >= 60).await;
    daemon.kill();
    let recorded = objects_with_result(&host, FILES);
    assert!((1..FILES).contains(&recorded.len()), "{} results at the kill", recorded.len());

    engine.faults().remove(slow);
    let daemon = host.start();
    wait_for("all results", || objects_with_result(&host, FILES).len() == FILES).await;
    daemon.stop().await;
    assert_all_arrived(&host, &engine, FILES);
    let delivered = delivered_by_object(&engine);
    let repeated: Vec<_> = recorded.iter().filter(|object| delivered[*object].len() != 1).collect();
    assert!(repeated.is_empty(), "sent again though their results stood there: {repeated:?}");

    let before = engine.delivered();
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    assert_eq!(engine.delivered(), before, "a later run has nothing to send");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_after_each_handful_of_deliveries_still_delivers_everything() {
    const FILES: usize = 60;
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    // The reply to a close is the last moment at which the server has a file and this host knows nothing of it.
    engine.faults().add(Rule::close(Effect::Delay(Duration::from_millis(40))));
    drop_files(&host, FILES);
    for stop_at in [5, 17, 29, 41] {
        let mut daemon = host.start();
        wait_for("some deliveries", || engine.delivered() >= stop_at).await;
        daemon.kill();
    }
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    assert_all_arrived(&host, &engine, FILES);
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_within_the_first_moments_harm_nothing() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    drop_files(&host, 10);
    for round in 0..12 {
        let mut daemon = host.start();
        tokio::time::sleep(Duration::from_millis(4 * round)).await;
        daemon.kill();
    }
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    assert_all_arrived(&host, &engine, 10);
    assert!(in_state(&host, "journal.corrupt-").is_empty(), "a kill is no damage");

    // And again, with a journal that has something in it.
    for round in 0..12 {
        let mut daemon = host.start();
        tokio::time::sleep(Duration::from_millis(4 * round)).await;
        daemon.kill();
    }
    host.write("in/later.txt", "later");
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    assert_eq!((engine.delivered(), host.result("later.txt").is_some()), (11, true));
    assert!(in_state(&host, "journal.corrupt-").is_empty(), "a kill is no damage");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_again_after_the_journal_was_deleted() {
    let (host, engine) = finished(40).await;
    let instance = instance_of(&host);
    std::fs::remove_dir_all(host.path("state/journal")).unwrap();
    host.write("in/later.txt", "later");
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    assert_eq!(engine.delivered(), 41);
    assert_eq!(host.result("later.txt").unwrap()["instance"], instance);

    // What was adopted is known from then on.
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    assert_eq!(engine.delivered(), 41);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_sent_again_even_if_the_journal_was_deleted() {
    let (host, engine) = finished(3).await;
    std::fs::remove_dir_all(host.path("state/journal")).unwrap();
    let same_size = content(1).replace('c', "C");
    host.write(format!("in/{}", rel(1)), &same_size);
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    assert_eq!(engine.delivered(), 4);
    assert_eq!(host.result(rel(1)).unwrap()["sha256"], sha256(same_size));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_journal_is_put_aside_and_nothing_is_sent_again() {
    // Long paths fill several segments of the database: damage within one that is not the last cannot be a torn write.
    const FILES: usize = 300;
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    let folder = PathBuf::from_iter(["in".to_owned(), "f".repeat(250), "g".repeat(250), "h".repeat(200)]);
    (0..FILES).for_each(|n| drop(host.write(folder.join(format!("{n}.txt")), content(n % 5))));
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    assert_eq!(engine.delivered(), FILES as u64);
    let instance = std::fs::read(host.path("state/instance")).unwrap();

    let db = std::fs::File::options().write(true).open(host.path("state/journal/db")).unwrap();
    let length = db.metadata().unwrap().len();
    assert!(length > 1_000_000, "{length} bytes are but one segment");
    let garbage: Vec<u8> = (0..length / 2).map(|n| (n * 31 % 251) as u8).collect();
    db.write_all_at(&garbage, length / 4).unwrap();

    host.write("in/later.txt", "later");
    let mut daemon = host.start_with(&["run", "--once"]);
    let status = daemon.ended().await;
    assert!(status.success(), "{status}\n{}", daemon.log());
    assert_eq!(in_state(&host, "journal.corrupt-").len(), 1);
    assert!(daemon.log().contains("the journal is damaged and was put aside"), "{}", daemon.log());
    assert_eq!(engine.delivered(), FILES as u64 + 1, "only what is new");
    assert_eq!(std::fs::read(host.path("state/instance")).unwrap(), instance);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_lost_its_last_entries_sends_nothing_again() {
    let (host, engine) = finished(40).await;
    let db = host.path("state/journal/db");
    for tenths in [8, 6, 4, 2] {
        // To the database this looks like a write that a power cut tore: it goes back to what was before.
        let length = std::fs::metadata(&db).unwrap().len();
        std::fs::File::options().write(true).open(&db).unwrap().set_len(length * tenths / 10).unwrap();
        assert_eq!(host.output(&["run", "--once"]).0, 0);
        assert_eq!(engine.delivered(), 40, "cut to {tenths} tenths");
    }
    assert_all_arrived(&host, &engine, 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_kill_left_half_written_is_swept_at_the_next_start() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    engine.faults().add(Rule::close(Effect::Hang).times(1));
    host.write("in/sub/a.txt", "a");
    let mut daemon = host.start();
    let temps = || {
        let entries = std::fs::read_dir(host.inbox().join("sub")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(".rri-tmp-")).collect::<Vec<_>>()
    };
    wait_for("the upload", || engine.writes().len() == 1).await;
    daemon.kill();
    assert_eq!(temps().len(), 1, "the upload was under way");
    // The input goes, so that no second attempt takes the name over.
    std::fs::remove_file(host.inbox().join("sub/a.txt")).unwrap();
    let stranger = host.write("in/sub/.rri-of-somebody", "not a temp file of ours");
    let stray = host.write("in/.rri-tmp-6ba7b810-9dad-11d1-80b4-00c04fd430c8", "{\"action\":");

    let daemon = host.start();
    wait_for("the sweep", || temps().is_empty() && !stray.exists()).await;
    daemon.stop().await;
    assert!(stranger.exists());
    assert_eq!(engine.delivered(), 0);
}
