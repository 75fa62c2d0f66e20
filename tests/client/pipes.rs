//! Pipes in the caller's hands, and single sends.

use rocketride_ingest::client::{Error, ObjectInfo};
use rocketride_ingest::sandbox::{Effect, Rule};

use super::*;

#[tokio::test]
async fn pieces_become_one_object() {
    let (sandbox, client, token) = engine(4).await;
    let mut pipe = client.pipe(&token, ObjectInfo::named("a.csv").with("k", 1), None, None);
    assert!(!pipe.is_opened() && pipe.pipe_id().is_none());
    within(pipe.open()).await.unwrap();
    assert!(pipe.is_opened() && pipe.pipe_id() == Some(0));
    within(pipe.write("one,")).await.unwrap();
    within(pipe.write(b"two\n")).await.unwrap();
    let result = within(pipe.close()).await.unwrap();
    assert_eq!(result.name(), Some("a.csv"));
    assert!(!pipe.is_opened() && pipe.pipe_id().is_none());
    let delivery = &sandbox.deliveries()[0];
    assert_eq!((delivery.bytes, delivery.mime_type.as_str(), delivery.writes), (8, "text/csv", 2));
    assert_eq!(delivery.object["k"], 1);
}

#[tokio::test]
async fn the_wrong_step_is_an_error_that_says_so() {
    let (_sandbox, client, token) = engine(4).await;
    let mut pipe = client.pipe(&token, ObjectInfo::named("a"), None, None);
    for error in [within(pipe.write("x")).await.unwrap_err(), within(pipe.close()).await.unwrap_err()] {
        assert!(matches!(&error, Error::InvalidData(why) if why.contains("not open")), "{error:?}");
    }
    within(pipe.open()).await.unwrap();
    let again = within(pipe.open()).await.unwrap_err();
    assert!(again.to_string().contains("open already"), "{again}");
    assert!(pipe.is_opened(), "the mistake did no harm");
    within(pipe.close()).await.unwrap();
    let twice = within(pipe.close()).await.unwrap_err();
    assert!(twice.to_string().contains("closed already"), "{twice}");
    assert!(!twice.is_retryable());
}

#[tokio::test]
async fn a_pipe_that_failed_or_was_dropped_is_never_committed() {
    let (sandbox, client, token) = engine(4).await;
    sandbox.faults().add(Rule::write(Effect::Refuse { message: "no".into(), code: None }).object("failed"));
    let mut failed = client.pipe(&token, ObjectInfo::named("failed"), None, None);
    within(failed.open()).await.unwrap();
    within(failed.write("x")).await.unwrap_err();
    let error = within(failed.close()).await.unwrap_err();
    assert!(error.to_string().contains("failed before") && error.to_string().contains("no"), "{error}");

    let mut dropped = client.pipe(&token, ObjectInfo::named("dropped"), None, None);
    within(dropped.open()).await.unwrap();
    within(dropped.write("x")).await.unwrap();
    drop(dropped);

    sandbox.faults().add(Rule::write(Effect::Delay(LONG)).object("cancelled"));
    let mut cancelled = client.pipe(&token, ObjectInfo::named("cancelled"), None, None);
    within(cancelled.open()).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(20), cancelled.write("x")).await.is_err());
    let error = within(cancelled.close()).await.unwrap_err();
    assert!(error.to_string().contains("write was cancelled"), "{error}");

    within(client.ping()).await.unwrap();
    assert_eq!(sandbox.delivered(), 0);
}

#[tokio::test]
async fn a_refused_open_may_be_tried_again() {
    let (sandbox, client, token) = engine(4).await;
    sandbox.faults().add(Rule::open(Effect::Mask).times(1));
    let mut pipe = client.pipe(&token, ObjectInfo::named("a"), None, None);
    assert!(matches!(within(pipe.open()).await, Err(Error::PipeFailed(_))));
    assert!(!pipe.is_opened());
    within(pipe.open()).await.unwrap().write("x").await.unwrap();
    within(pipe.close()).await.unwrap();
    assert_eq!(sandbox.delivered(), 1);
}

#[tokio::test]
async fn a_character_between_two_pieces_of_text_is_not_torn() {
    let (sandbox, client, token) = engine(4).await;
    let text = "a\u{20ac}b\u{1f600}c";
    let mut pipe = client.pipe(&token, ObjectInfo::named("a.txt"), None, None);
    within(pipe.open()).await.unwrap();
    for byte in text.as_bytes() {
        within(pipe.write([*byte])).await.unwrap();
    }
    within(pipe.close()).await.unwrap();
    let delivery = &sandbox.deliveries()[0];
    assert_eq!((delivery.bytes, delivery.lost_writes), (text.len() as u64, 0));
}

#[tokio::test]
async fn the_provider_is_asked_for() {
    let (_sandbox, client, token) = engine(4).await;
    let mut pipe = client.pipe(&token, ObjectInfo::default(), None, Some("chat"));
    let error = within(pipe.open()).await.unwrap_err();
    assert!(error.to_string().contains("chat"), "{error}");
}

#[tokio::test]
async fn text_and_bytes_are_sent_in_one_call() {
    let (sandbox, client, token) = engine(4).await;
    let result = within(client.send(&token, "hello", ObjectInfo::named("a.txt"), None)).await.unwrap();
    assert_eq!(result.text().concat().trim(), "hello");
    assert_eq!(result.lane("text").count(), 1);
    within(client.send(&token, vec![0_u8, 159], ObjectInfo::named("a.txt"), Some("x/y"))).await.unwrap();
    within(client.send(&token, "", ObjectInfo::default(), None)).await.unwrap();
    let types: Vec<_> = sandbox.deliveries().iter().map(|it| (it.mime_type.clone(), it.bytes, it.skipped)).collect();
    let expected = [("text/plain", 5), ("x/y", 2), ("application/octet-stream", 0)];
    assert_eq!(types, expected.map(|(kind, bytes)| (kind.to_owned(), bytes, false)));

    let read_only = ObjectInfo::named("a").with("flags", 1);
    assert!(matches!(within(client.send(&token, "x", read_only, None)).await, Err(Error::InvalidData(_))));
}
