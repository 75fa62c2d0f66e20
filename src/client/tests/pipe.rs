//! Claims about [`Pipe`]: success is only what proves itself.

use bytes::Bytes;
use secrecy::SecretString;

use super::*;
use crate::client::error::{Error, Result};
use crate::client::{ObjectInfo, Pipe, PipeOptions};

fn object() -> ObjectInfo {
    ObjectInfo { name: "a.bin".into(), size: 3, object_id: Some("id".into()), ..ObjectInfo::default() }
}

async fn open_after(connection: &Connection, task_started: Option<&Value>) -> Result<Pipe> {
    let token = SecretString::from("task");
    let object = object();
    let options = PipeOptions { token: &token, object: &object, mime_type: "x/y", provider: None, task_started };
    within(Pipe::open(connection, &options)).await
}

async fn open(connection: &Connection) -> Result<Pipe> {
    open_after(connection, None).await
}

/// A pipe whose open was granted, and a server that follows `script` from there.
async fn granted<F>(
    request_timeout: Duration,
    script: impl FnOnce(Peer) -> F + Send + 'static,
) -> (Connection, Pipe, JoinHandle<()>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let (connection, server) = connected(
        |options| options.request_timeout = request_timeout,
        |mut peer| async move {
            let open = peer.expect("open").await;
            peer.reply(&open, Some(json!({"pipe_id": 0}))).await;
            script(peer).await;
        },
    )
    .await;
    let pipe = open(&connection).await.unwrap();
    (connection, pipe, server)
}

#[tokio::test]
async fn a_masked_open_is_a_failure() {
    for body in [None, Some(json!({})), Some(json!({"pipe_id": null})), Some(json!({"pipe_id": "0"}))] {
        let (connection, server) = connected(
            |_| {},
            |mut peer| async move {
                let open = peer.expect("open").await;
                let expected = json!({"subcommand": "open", "object": {"name": "a.bin", "size": 3, "objectId": "id"},
                                      "mimeType": "x/y", "provider": null, "token": "task"});
                assert_eq!(Value::Object(open.arguments.clone()), expected);
                peer.reply(&open, body).await;
                assert!(peer.rest().await.is_empty());
            },
        )
        .await;
        assert!(matches!(open(&connection).await, Err(Error::PipeFailed(_))));
        connection.close().await;
        finished(server).await;
    }
}

#[tokio::test]
async fn a_data_port_that_is_not_up_yet_is_tried_once_more() {
    for port_comes_up in [true, false] {
        let (connection, server) = connected(
            |_| {},
            move |mut peer| async move {
                let first = peer.expect("open").await;
                peer.refuse(&first, "[Errno 111] Connect call failed ('127.0.0.1', 1)").await;
                let second = peer.expect("open").await;
                if port_comes_up {
                    peer.reply(&second, Some(json!({"pipe_id": 0}))).await;
                } else {
                    peer.refuse(&second, "[Errno 111] Connect call failed ('127.0.0.1', 1)").await;
                }
                assert!(peer.rest().await.is_empty());
            },
        )
        .await;
        match open(&connection).await {
            Ok(pipe) => assert!(port_comes_up && pipe.is_usable()),
            Err(error) => assert!(!port_comes_up && matches!(error, Error::Refused(_)), "{error:?}"),
        }
        connection.close().await;
        finished(server).await;
    }
}

#[tokio::test]
async fn an_open_waits_as_long_as_the_task_runs() {
    let (connection, server) = connected(
        |options| options.request_timeout = SHORT * 10,
        |mut peer| async move {
            let open = peer.expect("open").await;
            for _ in 0..3 {
                let status = peer.expect("rrext_get_task_status").await;
                peer.reply(&status, Some(running(1.0))).await;
            }
            peer.reply(&open, Some(json!({"pipe_id": 0}))).await;
        },
    )
    .await;
    assert!(open(&connection).await.unwrap().is_usable());
    finished(server).await;
}

#[tokio::test]
async fn an_open_is_given_up_when_its_task_is_gone() {
    let ended = || Some(json!({"state": 5, "completed": true, "exitCode": 0}));
    for (known, answers) in [
        (None, vec![ended()]),
        (None, vec![Some(running(1.0)), ended()]),
        (None, vec![Some(running(1.0)), Some(running(2.0))]),
        (Some(json!(1.0)), vec![Some(running(2.0))]),
        (None, vec![None]),
    ] {
        let (connection, server) = connected(
            |options| options.request_timeout = SHORT * 10,
            |mut peer| async move {
                peer.expect("open").await;
                for answer in answers {
                    let status = peer.expect("rrext_get_task_status").await;
                    match answer {
                        Some(body) => peer.reply(&status, Some(body)).await,
                        None => peer.refuse(&status, "Your pipeline is not running").await,
                    }
                }
                assert!(peer.rest().await.is_empty());
            },
        )
        .await;
        let error = open_after(&connection, known.as_ref()).await.unwrap_err();
        assert!(matches!(error, Error::NotRunning(_)), "{error:?}");
        connection.close().await;
        finished(server).await;
    }
}

#[tokio::test]
async fn a_write_without_a_reply_poisons_the_pipe() {
    let (connection, mut pipe, server) = granted(SHORT * 10, |mut peer| async move {
        let write = peer.expect("write").await;
        assert_eq!(write.payload.unwrap(), "abc");
        assert!(peer.rest().await.is_empty(), "a failed pipe is never touched again");
    })
    .await;
    let error = within(pipe.write(Bytes::from_static(b"abc"))).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { what: "write", .. }), "{error:?}");
    assert!(matches!(within(pipe.write(Bytes::new())).await, Err(Error::Abandoned(_))));
    assert!(matches!(within(pipe.close(LONG)).await, Err(Error::Abandoned(_))));
    connection.close().await;
    finished(server).await;
}

#[tokio::test]
async fn a_cancelled_write_poisons_the_pipe() {
    let (connection, mut pipe, server) = granted(LONG, |mut peer| async move {
        peer.expect("write").await;
        assert!(peer.rest().await.is_empty());
    })
    .await;
    assert!(tokio::time::timeout(SHORT, pipe.write(Bytes::from_static(b"abc"))).await.is_err());
    assert!(!pipe.is_usable());
    assert!(within(pipe.write(Bytes::new())).await.is_err());
    drop(pipe);
    connection.close().await;
    finished(server).await;
}

#[tokio::test]
async fn a_refused_write_fails_with_the_servers_words() {
    let (connection, mut pipe, server) = granted(LONG, |mut peer| async move {
        let write = peer.expect("write").await;
        peer.refuse(&write, "").await;
        peer.rest().await;
    })
    .await;
    let error = within(pipe.write(Bytes::from_static(b"abc"))).await.unwrap_err();
    assert!(matches!(error, Error::NotRunning(_)), "{error:?}");
    drop((pipe, connection));
    finished(server).await;
}

#[tokio::test]
async fn a_close_is_a_success_only_with_our_own_result() {
    for (body, word) in [
        (Some(json!({"name": "a.bin", "objectId": "id", "path": "/a", "text": ["x"]})), None),
        (None, Some("hides why")),
        (Some(json!({"name": "a.bin", "objectId": "other"})), Some("another object")),
        (
            Some(json!({"name": "a.bin", "objectId": "id", "error": {"message": "node broke", "code": 3}})),
            Some("broke"),
        ),
    ] {
        let expected = body.clone();
        let (_, pipe, server) = granted(LONG, |mut peer| async move {
            let close = peer.expect("close").await;
            peer.reply(&close, body).await;
        })
        .await;
        match (within(pipe.close(LONG)).await, word) {
            (Ok(result), None) => assert_eq!(Some(Value::Object(result.into_raw())), expected),
            (Err(Error::PipeFailed(error)), Some(word)) => assert!(error.message.contains(word), "{error}"),
            (other, _) => panic!("{expected:?}: {other:?}"),
        }
        finished(server).await;
    }
}

#[tokio::test]
async fn a_close_waits_on_while_its_task_runs_but_not_for_ever() {
    for answered in [true, false] {
        let (connection, pipe, server) = granted(LONG, move |mut peer| async move {
            let close = peer.expect("close").await;
            let status = peer.expect("rrext_get_task_status").await;
            peer.reply(&status, Some(running(1.0))).await;
            if answered {
                peer.reply(&close, Some(json!({"name": "a.bin", "objectId": "id"}))).await;
            }
            while let Some(request) = peer.next().await {
                peer.reply(&request, Some(running(1.0))).await;
            }
        })
        .await;
        let result = within(pipe.close(SHORT * 10)).await;
        match result {
            Ok(_) => assert!(answered),
            Err(error) => assert!(!answered && matches!(error, Error::TimedOut { what: "close", .. }), "{error:?}"),
        }
        drop(connection);
        finished(server).await;
    }
}

#[tokio::test]
async fn a_close_whose_task_died_is_given_up() {
    let (connection, pipe, server) = granted(LONG, |mut peer| async move {
        peer.expect("close").await;
        let status = peer.expect("rrext_get_task_status").await;
        peer.reply(&status, Some(json!({"state": 5, "completed": true}))).await;
        peer.rest().await;
    })
    .await;
    let error = within(pipe.close(SHORT * 10)).await.unwrap_err();
    assert!(matches!(error, Error::NotRunning(_)), "{error:?}");
    connection.close().await;
    finished(server).await;
}

#[tokio::test]
async fn a_pipe_that_was_silent_for_too_long_is_not_touched() {
    let (connection, mut pipe, server) =
        granted(LONG, |mut peer| async move { assert!(peer.rest().await.is_empty()) }).await;
    pipe.fall_silent(Duration::from_secs(46));
    let error = within(pipe.write(Bytes::from_static(b"abc"))).await.unwrap_err();
    assert!(matches!(&error, Error::Abandoned(why) if why.contains("silent")), "{error:?}");
    assert!(!pipe.is_usable());
    connection.close().await;
    finished(server).await;
}

#[tokio::test]
async fn a_server_that_answers_nothing_about_the_task_is_not_waited_for() {
    let (connection, server) = connected(
        |options| options.request_timeout = SHORT * 4,
        |mut peer| async move {
            peer.expect("open").await;
            peer.expect("rrext_get_task_status").await;
            // A sign of life counts anew.
            let status = peer.expect("rrext_get_task_status").await;
            peer.reply(&status, Some(running(1.0))).await;
            for _ in 0..2 {
                peer.expect("rrext_get_task_status").await;
            }
            assert!(peer.rest().await.is_empty());
        },
    )
    .await;
    let error = open(&connection).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { what: "rrext_get_task_status", .. }), "{error:?}");
    connection.close().await;
    finished(server).await;
}

#[tokio::test]
async fn after_a_pause_a_pipe_asks_whether_its_task_is_still_the_same() {
    for (answer, allowed) in [
        (Some(running(1.0)), true),
        (Some(running(2.0)), false),
        (Some(json!({"state": 5, "completed": true, "startTime": 1.0})), false),
        // A key that may only send data.
        (None, true),
    ] {
        let (connection, server) = connected(
            |_| {},
            move |mut peer| async move {
                let open = peer.expect("open").await;
                peer.reply(&open, Some(json!({"pipe_id": 0}))).await;
                let status = peer.expect("rrext_get_task_status").await;
                match answer {
                    Some(body) => peer.reply(&status, Some(body)).await,
                    None => peer.refuse(&status, "Permission task.monitor is required").await,
                }
                if allowed {
                    let write = peer.expect("write").await;
                    peer.reply(&write, None).await;
                }
                assert!(peer.rest().await.is_empty());
            },
        )
        .await;
        let mut pipe = open_after(&connection, Some(&json!(1.0))).await.unwrap();
        pipe.fall_silent(Duration::from_secs(1));
        let outcome = within(pipe.write(Bytes::from_static(b"abc"))).await;
        assert!(if allowed { outcome.is_ok() } else { matches!(outcome, Err(Error::NotRunning(_))) }, "{outcome:?}");
        connection.close().await;
        finished(server).await;
    }
}
