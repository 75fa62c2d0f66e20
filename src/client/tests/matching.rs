//! Claims about who gets which reply: whatever comes in whatever order, everyone the one to their own request.

use proptest::prelude::*;

use super::*;
use crate::client::Wait;
use crate::client::error::Error;
use crate::client::protocol::{Arguments, Event};

/// Requests that wait at the same time.
const REQUESTS: usize = 6;

/// What a server may send between two replies.
#[derive(Debug, Clone, Copy)]
enum Noise {
    Event,
    /// A reply to a request that was never made.
    Unknown(u64),
    /// The latest reply once more.
    Duplicate,
    Garbage,
}

fn noise() -> impl Strategy<Value = Noise> {
    prop_oneof![
        Just(Noise::Event),
        (1000..u64::MAX).prop_map(Noise::Unknown),
        Just(Noise::Duplicate),
        Just(Noise::Garbage)
    ]
}

fn reply_to(request: &Request, unreadable: bool) -> String {
    let body = json!({"of": request.arguments["n"]});
    if unreadable {
        return format!(r#"{{"type":"response","seq":1,"request_seq":{},"body":NaN}}"#, request.seq);
    }
    Response { seq: 999 - request.seq, request_seq: request.seq, success: true, body: Some(body), ..named(request) }
        .encode()
}

/// Sends the replies in this order with this noise before each.
async fn serve(mut peer: Peer, order: Vec<usize>, noise: Vec<Vec<Noise>>, unreadable: usize) {
    let mut requests = Vec::new();
    while requests.len() < REQUESTS {
        requests.push(peer.next().await.unwrap());
    }
    let mut latest: Option<String> = None;
    for (at, noise) in order.into_iter().zip(noise) {
        for noise in noise {
            match noise {
                Noise::Event => peer.raw(Event { seq: 1, event: "e".into(), body: Value::Null }.encode()).await,
                Noise::Unknown(request_seq) => {
                    peer.respond(Response { request_seq, success: true, ..Response::default() }).await;
                }
                Noise::Duplicate => {
                    if let Some(latest) = &latest {
                        peer.raw(latest.clone()).await;
                    }
                }
                Noise::Garbage => peer.raw(r#"{"type":"response","body":{"request_seq":1},"#).await,
            }
        }
        let is_unreadable = requests[at].arguments["n"] == json!(unreadable);
        let reply = reply_to(&requests[at], is_unreadable);
        peer.raw(reply.clone()).await;
        latest = Some(reply);
    }
    peer.rest().await;
}

async fn everyone_gets_their_own(order: Vec<usize>, noise: Vec<Vec<Noise>>, unreadable: usize) {
    let (connection, server) = connected(|_| {}, move |peer| serve(peer, order, noise, unreadable)).await;
    let asks = (0..REQUESTS).map(|n| {
        let arguments = Arguments::from_iter([("n".to_owned(), n.into())]);
        connection.request("x", arguments, None, Wait::Timeout(LONG))
    });
    let replies = within(futures_util::future::join_all(asks)).await;
    for (n, reply) in replies.into_iter().enumerate() {
        if n == unreadable {
            assert!(matches!(&reply, Err(Error::Protocol(why)) if why.contains("cannot be read")), "{reply:?}");
        } else {
            assert_eq!(reply.unwrap().body, Some(json!({"of": n})));
        }
    }
    drop(connection);
    finished(server).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_reply_reaches_its_request_and_an_unreadable_one_is_an_error(
        order in Just((0..REQUESTS).collect::<Vec<_>>()).prop_shuffle(),
        noise in proptest::collection::vec(proptest::collection::vec(noise(), 0..4), REQUESTS),
        // Beyond the last request: all can be read.
        unreadable in 0..REQUESTS * 2,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(everyone_gets_their_own(order, noise, unreadable));
    }
}

#[tokio::test]
async fn a_reply_that_is_nested_too_deep_fails_its_request_and_no_other() {
    let (connection, server) = connected(
        |_| {},
        |mut peer| async move {
            let deep = peer.expect("deep").await;
            let nested = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
            peer.raw(format!(r#"{{"type":"response","request_seq":{},"body":{nested}}}"#, deep.seq)).await;
            let next = peer.expect("next").await;
            peer.reply(&next, None).await;
            peer.rest().await;
        },
    )
    .await;
    let ask = |command| within(connection.request(command, Arguments::new(), None, Wait::Timeout(LONG)));
    let error = ask("deep").await.unwrap_err();
    assert!(matches!(error, Error::Protocol(_)), "{error:?}");
    ask("next").await.unwrap();
    assert_eq!(connection.ignored(), 0);
    drop(connection);
    finished(server).await;
}
