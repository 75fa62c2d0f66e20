//! Claims about [`Connection`].

use bytes::Bytes;
use secrecy::ExposeSecret as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use super::*;
use crate::client::error::{Error, Result};
use crate::client::protocol::{Arguments, Event};
use crate::client::{ExecuteOptions, Wait};

/// Much more than the buffers of a loopback socket take.
const STUFFING: usize = 48 * 1024 * 1024;

async fn ask(connection: &Connection, command: &'static str) -> Result<Response> {
    within(connection.request(command, Arguments::new(), None, Wait::Timeout(LONG))).await
}

fn lost_code(error: &Error) -> Option<u16> {
    match error {
        Error::ConnectionLost { code, .. } => *code,
        other => panic!("not a lost connection: {other:?}"),
    }
}

#[tokio::test]
async fn replies_in_any_order_reach_the_one_who_asked() {
    let (connection, server) = connected(
        |_| {},
        |mut peer| async move {
            let mut requests = Vec::new();
            for _ in 0..3 {
                requests.push(peer.next().await.unwrap());
            }
            for request in requests.iter().rev() {
                peer.reply(request, Some(json!({"of": request.command}))).await;
            }
            peer.rest().await;
        },
    )
    .await;
    let replies = tokio::join!(ask(&connection, "a"), ask(&connection, "b"), ask(&connection, "c"));
    for (reply, of) in [(replies.0, "a"), (replies.1, "b"), (replies.2, "c")] {
        assert_eq!(reply.unwrap().body, Some(json!({"of": of})));
    }
    connection.close().await;
    finished(server).await;
}

#[tokio::test]
async fn noise_between_the_replies_is_ignored_and_events_are_heard() {
    let (connection, server) = connected(
        |_| {},
        |mut peer| async move {
            let first = peer.expect("a").await;
            peer.raw("not json").await;
            peer.raw("{\"type\":\"request\"}").await;
            peer.raw(Bytes::from_static(b"binary\n")).await;
            peer.raw("{\"type\":\"response\",\"request_seq\":4242,\"success\":true}").await;
            peer.raw(Event { seq: 1, event: "apaevt_x".into(), body: json!({"n": 1}) }.encode()).await;
            peer.reply(&first, None).await;
            peer.reply(&first, None).await;
            let second = peer.expect("b").await;
            peer.reply(&second, None).await;
            peer.rest().await;
        },
    )
    .await;
    let mut events = connection.events();
    ask(&connection, "a").await.unwrap();
    ask(&connection, "b").await.unwrap();
    assert_eq!(within(events.recv()).await.unwrap().event, "apaevt_x");
    assert_eq!(connection.ignored(), 5);
    assert_eq!(connection.late_grants(), 0);
    drop(connection);
    finished(server).await;
}

#[tokio::test]
async fn the_first_request_is_auth_and_a_refusal_is_an_authentication_error() {
    let (listener, options) = listen().await;
    let server = tokio::spawn(async move {
        let mut peer = Peer::accept(&listener).await;
        let auth = peer.expect("auth").await;
        assert_eq!(auth.arguments["auth"], "s3cret");
        assert_eq!(auth.arguments["clientName"], "rocketride-ingest");
        peer.refuse(&auth, "Invalid API key").await;
        peer.close(1000, "").await;
    });
    let error = within(Connection::open(&options)).await.unwrap_err();
    assert!(matches!(&error, Error::Authentication(_)), "{error:?}");
    assert!(!format!("{error:?}").contains("s3cret"));
    finished(server).await;
}

#[tokio::test]
async fn a_refused_upgrade_says_what_it_may_be() {
    for (status, word) in [("403 Forbidden", "403"), ("404 Not Found", "HTTP 404")] {
        let (listener, options) = listen().await;
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await.unwrap();
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let error = within(Connection::open(&options)).await.unwrap_err();
        assert!(matches!(&error, Error::Connect { message, .. } if message.contains(word)), "{error:?}");
        finished(server).await;
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_or_says_nothing_is_a_connect_error() {
    let (listener, mut options) = listen().await;
    options.connect_timeout = SHORT;
    // Accepted by the kernel, upgraded by nobody.
    let error = within(Connection::open(&options)).await.unwrap_err();
    assert!(matches!(&error, Error::Connect { message, .. } if message.contains("no connection within")), "{error:?}");
    drop(listener);
    options.connect_timeout = LONG;
    assert!(matches!(within(Connection::open(&options)).await, Err(Error::Connect { .. })));
}

#[tokio::test]
async fn silence_ends_the_connection_and_everyone_waiting_on_it() {
    let (connection, server) = connected(
        |options| options.silence_timeout = SHORT * 20,
        // Whoever does not read answers no ping.
        |peer| async move {
            tokio::time::sleep(LONG).await;
            drop(peer);
        },
    )
    .await;
    let error = within(connection.request("a", Arguments::new(), None, Wait::Connection)).await.unwrap_err();
    assert!(error.to_string().contains("nothing was heard"), "{error}");
    assert!(connection.is_closed());
    assert!(matches!(within(connection.closed()).await, Error::ConnectionLost { .. }));
    assert!(matches!(ask(&connection, "b").await, Err(Error::ConnectionLost { .. })));
    server.abort();
}

#[tokio::test]
async fn a_server_that_talks_but_takes_nothing_is_lost_too() {
    let (connection, server) = connected(
        |options| options.silence_timeout = SHORT * 40,
        |mut peer| async move {
            let event = Event { seq: 1, event: "x".into(), body: Value::Null }.encode();
            while peer.socket.send(Message::text(event.clone())).await.is_ok() {
                tokio::time::sleep(SHORT).await;
            }
        },
    )
    .await;
    let stuffing = Some(Bytes::from(vec![0; STUFFING]));
    let error = within(connection.request("a", Arguments::new(), stuffing, Wait::Connection)).await.unwrap_err();
    assert!(error.to_string().contains("took nothing"), "{error}");
    finished(server).await;
}

#[tokio::test]
async fn a_connection_ends_with_a_reset_so_that_nothing_arrives_late() {
    let (connection, server) = connected(
        |_| {},
        |mut peer| async move {
            let mut buffer = vec![0; 1 << 20];
            // A FIN would come behind all that waited in the kernel.
            let broken = loop {
                match peer.socket.get_mut().read(&mut buffer).await {
                    Ok(0) => break None,
                    Ok(_) => {}
                    Err(error) => break Some(error.kind()),
                }
            };
            assert_eq!(broken, Some(std::io::ErrorKind::ConnectionReset));
        },
    )
    .await;
    connection.close().await;
    drop(connection);
    finished(server).await;
}

#[tokio::test]
async fn this_side_pings() {
    let (connection, server) = connected(
        |options| options.ping_interval = SHORT,
        |mut peer| async move { while !matches!(peer.socket.next().await, Some(Ok(Message::Ping(_)))) {} },
    )
    .await;
    finished(server).await;
    drop(connection);
}

#[tokio::test]
async fn a_close_code_reaches_the_requests_in_flight() {
    for code in [1009, 1011, 1012] {
        let (connection, server) = connected(
            |_| {},
            move |mut peer| async move {
                peer.expect("a").await;
                peer.close(code, "because").await;
            },
        )
        .await;
        let error = ask(&connection, "a").await.unwrap_err();
        assert_eq!(lost_code(&error), Some(code));
        assert!(error.to_string().contains("because"), "{error}");
        finished(server).await;
    }
}

#[tokio::test]
async fn a_close_in_the_middle_of_a_large_request_is_heard() {
    let (done, wait) = tokio::sync::oneshot::channel::<()>();
    let (connection, server) = connected(
        |_| {},
        |mut peer| async move {
            let frame = CloseFrame { code: 1009.into(), reason: "too big".into() };
            peer.raw(Message::Close(Some(frame))).await;
            wait.await.unwrap();
        },
    )
    .await;
    let stuffing = Some(Bytes::from(vec![0; STUFFING]));
    let error = within(connection.request("a", Arguments::new(), stuffing, Wait::Connection)).await.unwrap_err();
    assert_eq!(lost_code(&error), Some(1009));
    done.send(()).unwrap();
    finished(server).await;
}

#[tokio::test]
async fn a_reset_is_a_lost_connection() {
    let (connection, server) = connected(
        |_| {},
        |mut peer| async move {
            peer.expect("a").await;
        },
    )
    .await;
    assert_eq!(lost_code(&ask(&connection, "a").await.unwrap_err()), None);
    finished(server).await;
}

#[tokio::test]
async fn a_large_reply_passes_and_a_larger_one_ends_the_connection_as_too_large() {
    let (connection, server) = connected(
        |options| options.max_message = 20 * 1024 * 1024,
        |mut peer| async move {
            let large = peer.expect("a").await;
            peer.reply(&large, Some("x".repeat(18 * 1024 * 1024).into())).await;
            let larger = peer.expect("b").await;
            let response =
                Response { request_seq: larger.seq, body: Some("x".repeat(21 * 1024 * 1024).into()), ..named(&larger) };
            // The client leaves in the middle of it.
            let _ = peer.socket.send(Message::text(response.encode())).await;
        },
    )
    .await;
    assert!(ask(&connection, "a").await.unwrap().body.is_some());
    let error = ask(&connection, "b").await.unwrap_err();
    assert_eq!(lost_code(&error), Some(1009), "{error}");
    finished(server).await;
}

#[tokio::test]
async fn a_reply_that_never_comes_times_out_and_a_late_one_harms_nobody() {
    let (connection, server) = connected(
        |_| {},
        |mut peer| async move {
            let late = peer.expect("a").await;
            let next = peer.expect("b").await;
            peer.reply(&late, Some(json!({"pipe_id": 3}))).await;
            peer.reply(&next, None).await;
            peer.rest().await;
        },
    )
    .await;
    let error = within(connection.request("a", Arguments::new(), None, Wait::Timeout(SHORT))).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { what: "a", after: SHORT }), "{error:?}");
    ask(&connection, "b").await.unwrap();
    assert_eq!((connection.ignored(), connection.late_grants()), (1, 1));
    connection.close().await;
    finished(server).await;
}

#[tokio::test]
async fn a_request_withdrawn_or_overdue_in_the_queue_is_never_sent() {
    let (go, wait) = tokio::sync::oneshot::channel::<()>();
    let (connection, server) = connected(
        |_| {},
        |mut peer| async move {
            wait.await.unwrap();
            for command in ["stuffing", "wanted"] {
                let request = peer.expect(command).await;
                peer.reply(&request, None).await;
            }
            assert!(peer.rest().await.is_empty());
        },
    )
    .await;
    let stuffing = connection.request("stuffing", Arguments::new(), Some(vec![0; STUFFING].into()), Wait::Connection);
    let mut stuffing = std::pin::pin!(stuffing);
    assert!(tokio::time::timeout(SHORT, &mut stuffing).await.is_err(), "the server does not read yet");
    // Its caller loses patience while it is queued.
    let withdrawn = connection.request("withdrawn", Arguments::new(), None, Wait::Connection);
    assert!(tokio::time::timeout(SHORT, withdrawn).await.is_err());
    let overdue = connection.request_until("overdue", Arguments::new(), None, Wait::Connection, Instant::now() + SHORT);
    let wanted = ask(&connection, "wanted");
    let release = async {
        tokio::time::sleep(SHORT * 2).await;
        go.send(()).unwrap();
    };
    let (stuffed, overdue, wanted, ()) = within(async { tokio::join!(stuffing, overdue, wanted, release) }).await;
    stuffed.unwrap();
    wanted.unwrap();
    assert!(matches!(overdue, Err(Error::TimedOut { .. })), "{overdue:?}");
    connection.close().await;
    finished(server).await;
}

#[tokio::test]
async fn a_connection_closes_with_its_last_handle() {
    let (connection, server) = connected(|_| {}, |mut peer| async move { assert!(peer.rest().await.is_empty()) }).await;
    let clone = connection.clone();
    drop(connection);
    assert!(!clone.is_closed());
    drop(clone);
    finished(server).await;
}

#[tokio::test]
async fn a_request_larger_than_the_server_bears_is_not_sent() {
    let (connection, server) = connected(|_| {}, |mut peer| async move { assert!(peer.rest().await.is_empty()) }).await;
    let payload = Some(Bytes::from(vec![0; crate::client::dial::MAX_OUTGOING + 1]));
    let error = within(connection.request("a", Arguments::new(), payload, Wait::Connection)).await.unwrap_err();
    assert!(matches!(error, Error::InvalidData(_)), "{error:?}");
    connection.close().await;
    assert!(connection.is_closed());
    finished(server).await;
}

#[tokio::test]
async fn a_task_is_started_asked_for_and_terminated() {
    let (connection, server) = connected(
        |_| {},
        |mut peer| async move {
            let execute = peer.expect("execute").await;
            assert_eq!(execute.arguments["useExisting"], true);
            let info = json!({"id": "i", "token": "task", "publicToken": "pk_1", "projectId": "p"});
            peer.reply(&execute, Some(info)).await;
            let status = peer.expect("rrext_get_task_status").await;
            assert_eq!(status.arguments["token"], "task");
            peer.reply(&status, Some(running(1.5))).await;
            let terminate = peer.expect("terminate").await;
            peer.reply(&terminate, None).await;
            let status = peer.expect("rrext_get_task_status").await;
            peer.refuse(&status, "Your pipeline is not running").await;
            let ping = peer.expect("rrext_ping").await;
            peer.reply(&ping, Some(json!({"pong": true}))).await;
        },
    )
    .await;
    let info = within(connection.execute(ExecuteOptions::new(json!({})))).await.unwrap();
    assert_eq!(info.token.expose_secret(), "task");
    assert!(!format!("{info:?}").contains("task"), "{info:?}");
    let status = within(connection.task_status(&info.token, LONG)).await.unwrap();
    assert!(status.is_alive());
    assert_eq!(status.start_time, Some(json!(1.5)));
    within(connection.terminate(&info.token, LONG)).await.unwrap();
    assert!(matches!(within(connection.task_status(&info.token, LONG)).await, Err(Error::NotRunning(_))));
    within(connection.ping()).await.unwrap();
    finished(server).await;
}
