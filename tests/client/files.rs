//! Many files: order, failures, metadata, progress.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rocketride_ingest::client::{Error, FileEntry, Notice, Progress, SendOptions, UploadEvent, UploadResult};
use rocketride_ingest::sandbox::{Effect, Rule};
use serde_json::json;

use super::*;

/// Files of these names and contents.
fn files(contents: &[(&str, &[u8])]) -> (tempfile::TempDir, Vec<PathBuf>) {
    let directory = tempfile::tempdir().unwrap();
    let write = |(name, content): &(&str, &[u8])| {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    };
    let paths = contents.iter().map(write).collect();
    (directory, paths)
}

#[tokio::test]
async fn results_come_in_the_order_of_the_files_and_one_failure_stops_nobody() {
    let (sandbox, client, token) = engine(4).await;
    sandbox.faults().add(Rule::open(Effect::Mask).object("open.bin"));
    // A dead pipe: its writes look like successes, and so does its close, but for the result that is not there.
    sandbox.faults().add(Rule::write(Effect::Mask).object("write.bin"));
    sandbox.faults().add(Rule::close(Effect::Mask).object("write.bin"));
    sandbox.faults().add(Rule::close(Effect::Mask).object("close.bin"));
    sandbox.faults().add(Rule::close(Effect::NodeError { message: "the node is sad".into() }).object("node.bin"));
    let names = ["a.bin", "open.bin", "b.bin", "write.bin", "c.bin", "close.bin", "d.bin", "node.bin", "e.bin"];
    let contents: Vec<(&str, &[u8])> = names.iter().map(|name| (*name, name.as_bytes())).collect();
    let (_directory, paths) = files(&contents);
    let results = within(client.send_files(&paths, &token)).await.unwrap();

    assert_eq!(results.len(), names.len());
    for ((result, path), name) in results.iter().zip(&paths).zip(names) {
        assert_eq!(result.filepath, path.to_str().unwrap());
        assert_eq!(result.file_size, name.len() as u64);
        let failed = ["open.bin", "write.bin", "close.bin", "node.bin"].contains(&name);
        assert_eq!(result.is_complete(), !failed, "{result:?}");
        assert_eq!(result.error.is_some(), failed);
        assert_eq!(result.result.is_some(), !failed);
    }
    assert!(results[7].error.as_ref().unwrap().contains("the node is sad"), "{:?}", results[7]);
}

#[tokio::test]
async fn a_missing_file_is_found_before_anything_is_sent() {
    let (sandbox, client, token) = engine(4).await;
    let (directory, paths) = files(&[("a", b"x")]);
    let missing = directory.path().join("missing");
    let error = within(client.send_files([&paths[0], &missing], &token)).await.unwrap_err();
    assert!(matches!(&error, Error::FileNotFound(path) if *path == missing), "{error:?}");
    let error = within(client.send_files([&paths[0], &directory.path().to_owned()], &token)).await.unwrap_err();
    assert!(matches!(error, Error::InvalidData(_)), "{error:?}");
    let nothing: [&str; 0] = [];
    assert!(matches!(within(client.send_files(nothing, &token)).await, Err(Error::InvalidData(_))));
    let no_token = SecretString::from("");
    assert!(matches!(within(client.send_files(&paths, &no_token)).await, Err(Error::InvalidData(_))));
    assert_eq!(sandbox.accepted(), 0, "not even a connection was made");
}

#[tokio::test]
async fn metadata_and_type_reach_the_engine_and_files_of_one_name_stay_apart() {
    let (sandbox, client, token) = engine(4).await;
    let (_directory, paths) = files(&[("one/a.csv", b"1"), ("two/a.csv", b"2"), ("three/a.csv", b"")]);
    let entries = [
        FileEntry::from(&paths[0]),
        FileEntry::from((&paths[1], json!({"customer": "acme", "objectId": "mine"}))),
        FileEntry::from((&paths[2], json!({"name": "renamed"}), "x/y")),
    ];
    let results = within(client.send_files(entries, &token)).await.unwrap();
    assert!(results.iter().all(UploadResult::is_complete), "{results:?}");
    let mut deliveries = sandbox.deliveries();
    deliveries.sort_by_key(|delivery| delivery.sha256.clone());
    let find = |name: &str, id: Option<&str>| {
        deliveries.iter().find(|it| it.name == name && id.is_none_or(|id| it.object_id == id)).unwrap()
    };
    let mine = find("a.csv", Some("mine"));
    assert_eq!((mine.object["customer"].as_str(), mine.mime_type.as_str()), (Some("acme"), "text/csv"));
    assert_eq!(find("renamed", None).mime_type, "x/y");
    let ids: std::collections::BTreeSet<_> = deliveries.iter().map(|it| &it.object_id).collect();
    assert_eq!(ids.len(), 3, "nobody replaces anybody");
}

#[tokio::test]
async fn every_step_of_every_file_is_told_in_the_sdks_words() {
    let (sandbox, client, token) = engine(4).await;
    sandbox.faults().add(Rule::open(Effect::Mask).object("bad"));
    let (_directory, paths) = files(&[("good", &[7; 2500]), ("bad", b"x")]);
    let (progress, mut stream) = Progress::stream();
    let options = SendOptions { progress: Some(progress), chunk_size: Some(1000), ..SendOptions::default() };
    let watch = async {
        let mut seen = Vec::new();
        while let Some(notice) = stream.next().await {
            match notice {
                Notice::Event(event) => seen.push(event),
                other => panic!("{other:?}"),
            }
        }
        seen
    };
    let (results, seen) = within(async { tokio::join!(client.send_files_with(&paths, &token, options), watch) }).await;
    let results = results.unwrap();
    let of = |path: &PathBuf| -> Vec<UploadEvent> {
        seen.iter().filter(|event| event.filepath() == path.to_str().unwrap()).cloned().collect()
    };
    let (good, bad) = (of(&paths[0]), of(&paths[1]));
    let actions: Vec<_> = good.iter().map(UploadEvent::action).collect();
    assert_eq!(actions, ["open", "write", "write", "write", "close", "complete"]);
    let sent: Vec<_> = good.iter().map(|event| event.body()["bytes_sent"].as_u64()).collect();
    assert_eq!(sent, [None, Some(1000), Some(2000), Some(2500), Some(2500), Some(2500)]);
    assert_eq!(good[5].body(), serde_json::to_value(&results[0]).unwrap());
    let actions: Vec<_> = bad.iter().map(UploadEvent::action).collect();
    assert_eq!(actions, ["error"], "a pipe that was not granted was never open");
    assert_eq!(bad[0].body()["result"], Value::Null);
}

#[tokio::test]
async fn a_callback_is_called_for_every_step() {
    let (_sandbox, client, token) = engine(4).await;
    let (_directory, paths) = files(&[("a", b"x")]);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let progress = Progress::callback({
        let seen = Arc::clone(&seen);
        move |event| seen.lock().unwrap().push(event.action())
    });
    let options = SendOptions { progress: Some(progress), ..SendOptions::default() };
    within(client.send_files_with(&paths, &token, options)).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), ["open", "write", "close", "complete"]);
}

#[tokio::test]
async fn no_more_files_are_in_flight_than_asked_for() {
    let (sandbox, client, token) = engine(16).await;
    sandbox.faults().add(Rule::write(Effect::Delay(Duration::from_millis(5))));
    let names: Vec<String> = (0..30).map(|at| format!("{at}.bin")).collect();
    let contents: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), name.as_bytes())).collect();
    let (_directory, paths) = files(&contents);
    let options = SendOptions { concurrency: 3, ..SendOptions::default() };
    let results = within(client.send_files_with(&paths, &token, options)).await.unwrap();
    assert!(results.iter().all(UploadResult::is_complete));
    assert_eq!(sandbox.peak_pipes(token_text(&token)), 3);
}

#[tokio::test]
async fn a_lost_connection_costs_the_files_in_flight_and_no_others() {
    let (sandbox, client, token) = engine(4).await;
    sandbox.faults().add(Rule::write(Effect::Delay(Duration::from_secs(30))).object("stuck").times(1));
    let names = ["a", "stuck", "b", "c"];
    let contents: Vec<(&str, &[u8])> = names.iter().map(|name| (*name, name.as_bytes())).collect();
    let (_directory, paths) = files(&contents);
    let options = SendOptions { concurrency: 1, ..SendOptions::default() };
    let cut = async {
        assert!(sandbox.wait_for(LONG, |sandbox| sandbox.writes().len() == 2).await);
        sandbox.cut_connections();
    };
    let (results, ()) = within(async { tokio::join!(client.send_files_with(&paths, &token, options), cut) }).await;
    let results = results.unwrap();
    let complete: Vec<_> = results.iter().map(UploadResult::is_complete).collect();
    assert_eq!(complete, [true, false, true, true], "{results:?}");
    assert!(matches!(results[1].failure, Some(Error::ConnectionLost { .. })), "{results:?}");
}

#[tokio::test]
async fn no_write_of_a_long_text_is_invalid_on_its_own() {
    let (sandbox, client, token) = engine(4).await;
    // 1.5 MB of three-byte characters without a line, in pieces of a size that no character fits.
    let text = "\u{20ac}".repeat(500_000);
    let (_directory, paths) = files(&[("long.txt", text.as_bytes())]);
    let options = SendOptions { chunk_size: Some(65_536), ..SendOptions::default() };
    let results = within(client.send_files_with(&paths, &token, options)).await.unwrap();
    assert!(results[0].is_complete(), "{results:?}");
    let delivery = &sandbox.deliveries()[0];
    assert_eq!((delivery.bytes, delivery.lost_writes), (text.len() as u64, 0));
}
