//! Claims about subscriptions and the stream of the server's events.

use secrecy::SecretString;

use super::*;
use crate::client::connection::EVENT_QUEUE;
use crate::client::error::Error;
use crate::client::protocol::Event;
use crate::client::{Client, Monitor, Notice, Reconnect};

fn event(n: usize) -> String {
    Event { seq: 1, event: "apaevt_x".into(), body: json!({"n": n}) }.encode()
}

/// The next `rrext_monitor`, answered.
async fn subscription(peer: &mut Peer) -> Value {
    let request = peer.expect("rrext_monitor").await;
    peer.reply(&request, None).await;
    Value::Object(request.arguments)
}

#[tokio::test]
async fn subscriptions_add_up_and_come_back_with_the_connection() {
    let (listener, options) = listen().await;
    let server = tokio::spawn(async move {
        let mut peer = Peer::accept(&listener).await;
        peer.login().await;
        assert_eq!(subscription(&mut peer).await, json!({"token": "task", "types": ["TASK"]}));
        assert_eq!(subscription(&mut peer).await, json!({"token": "task", "types": ["SUMMARY", "TASK"]}));
        assert_eq!(
            subscription(&mut peer).await,
            json!({"projectId": "p", "source": "s", "pipeId": 3, "teamId": "t", "types": ["SSE"]})
        );
        // One of the two who wanted it is left.
        assert_eq!(subscription(&mut peer).await, json!({"token": "task", "types": ["SUMMARY", "TASK"]}));
        peer.raw(event(1)).await;
        peer.close(1012, "").await;

        let mut peer = Peer::accept(&listener).await;
        peer.login().await;
        let mut renewed = [subscription(&mut peer).await, subscription(&mut peer).await];
        renewed.sort_by_key(Value::to_string);
        assert_eq!(renewed[0]["projectId"], "p");
        assert_eq!(renewed[1], json!({"token": "task", "types": ["SUMMARY", "TASK"]}));
        peer.raw(event(2)).await;
        assert_eq!(subscription(&mut peer).await["types"], json!([]));
        peer.rest().await;
    });
    let client = Client::new(options);
    let mut events = client.events();
    let task = Monitor::task(&SecretString::from("task"));
    let project = Monitor::project("p", "s").team("t").pipe(3);
    within(client.add_monitor(&task, &["TASK"])).await.unwrap();
    within(client.add_monitor(&task, &["TASK", "SUMMARY"])).await.unwrap();
    within(client.add_monitor(&project, &["SSE"])).await.unwrap();
    within(client.remove_monitor(&task, &["TASK"])).await.unwrap();

    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(match within(events.next()).await.unwrap().unwrap() {
            Notice::Event(event) => event.body["n"].to_string(),
            other => format!("{other:?}"),
        });
    }
    assert_eq!(seen, ["1", "Reconnected", "2"]);
    within(client.remove_monitor(&project, &["SSE"])).await.unwrap();
    within(client.disconnect()).await;
    assert!(within(events.next()).await.is_none(), "who disconnects does not listen on");
    finished(server).await;
    assert!(!format!("{task:?}").contains("task\""), "a token is not shown");
}

#[tokio::test]
async fn a_slow_listener_is_told_how_much_it_missed() {
    let (listener, options) = listen().await;
    let extra = 7;
    let server = tokio::spawn(async move {
        let mut peer = Peer::accept(&listener).await;
        peer.login().await;
        for n in 0..EVENT_QUEUE + extra {
            peer.raw(event(n)).await;
        }
        let ping = peer.expect("rrext_ping").await;
        peer.reply(&ping, None).await;
        peer.rest().await;
    });
    let client = Client::new(options);
    let mut events = client.events();
    // Its reply comes behind all events.
    within(client.ping()).await.unwrap();
    assert_eq!(within(events.next()).await.unwrap().unwrap(), Notice::Missed(extra as u64));
    let Notice::Event(first) = within(events.next()).await.unwrap().unwrap() else { panic!("an event") };
    assert_eq!(first.body["n"], extra);
    within(client.disconnect()).await;
    finished(server).await;
}

#[tokio::test]
async fn a_stream_that_cannot_connect_says_why_and_ends() {
    let (listener, options) = listen().await;
    drop(listener);
    let uri = options.uri.to_string();
    let client = Client::builder().uri(uri).api_key("k").reconnect(Reconnect::NEVER).build().unwrap();
    let mut events = client.events();
    assert!(matches!(within(events.next()).await, Some(Err(Error::Connect { .. }))));
    assert!(within(events.next()).await.is_none());
}

#[tokio::test]
async fn a_refused_subscription_is_not_kept() {
    let (listener, options) = listen().await;
    let server = tokio::spawn(async move {
        let mut peer = Peer::accept(&listener).await;
        peer.login().await;
        let request = peer.expect("rrext_monitor").await;
        peer.refuse(&request, "no").await;
        assert_eq!(subscription(&mut peer).await["types"], json!(["B"]));
        peer.rest().await;
    });
    let client = Client::new(options);
    let task = Monitor::task(&SecretString::from("task"));
    within(client.add_monitor(&task, &["A"])).await.unwrap_err();
    within(client.add_monitor(&task, &["B"])).await.unwrap();
    within(client.disconnect()).await;
    finished(server).await;
}
