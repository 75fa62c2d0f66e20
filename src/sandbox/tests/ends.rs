//! Too large, too silent, stopped, killed.

use super::*;

#[tokio::test]
async fn one_byte_too_much_closes_with_1009() {
    let sandbox = start_with(|options| options.max_message = 4_096).await;
    let mut client = Client::connect(&sandbox).await;
    client.socket.send(Message::binary(vec![b'x'; 4_096])).await.unwrap();
    assert_eq!(client.call("rrext_ping", json!({})).await["success"], true);
    client.socket.send(Message::binary(vec![b'x'; 4_097])).await.unwrap();
    assert_eq!(client.next().await, Err(Some((1009, String::new()))));
}

#[tokio::test]
async fn a_message_at_the_limit_loses_all_pipes_of_its_task() {
    let sandbox = start_with(|options| options.max_message = 4_096).await;
    let token = sandbox.start_task("a", 4).token;
    let (mut client, mut other) = (Client::connect(&sandbox).await, Client::connect(&sandbox).await);
    client.open(&token, "a").await;
    other.open(&token, "b").await;
    let room = 4_096 - 130 - token.len();
    assert_eq!(client.write(&token, 0, &vec![0; room]).await["message"], "Could not send request");
    assert!(is_masked(&other.close(&token, 1).await));
    assert_eq!(sandbox.pipes_in_use(&token), 0);
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_dropped_with_1011() {
    let sandbox = start_with(|options| {
        options.ping_interval = Duration::from_millis(50);
        options.silent_after = Duration::from_millis(500);
    })
    .await;
    let mut silent = Client::connect(&sandbox).await;
    let mut lively = Client::connect(&sandbox).await;
    // Read as bytes, so that nobody answers the pings.
    let mut bytes = Vec::new();
    let ended = silent.socket.get_mut().read_to_end(&mut bytes);
    tokio::select! {
        message = lively.next() => panic!("the lively one got {message:?}"),
        ended = timeout(LIMIT, ended) => drop(ended.unwrap().unwrap()),
    }
    let last = [&1011u16.to_be_bytes()[..], b"keepalive ping timeout"].concat();
    assert!(bytes.ends_with(&last), "{bytes:?}");
}

#[tokio::test]
async fn a_stopped_server_says_1012_and_answers_nothing() {
    let sandbox = start().await;
    let token = sandbox.start_task("a", 1).token;
    let addr = sandbox.addr();
    let mut client = Client::connect(&sandbox).await;
    client.open(&token, "a").await;
    client.send_open(&token, "b").await;
    let (end, ()) = tokio::join!(client.next(), sandbox.stop());
    assert_eq!(end, Err(Some((1012, String::new()))));
    let again = start_with(|options| options.listen = addr).await;
    let mut client = Client::connect(&again).await;
    assert_eq!(client.open(&token, "a").await["message"], "Your pipeline is not running");
}

#[tokio::test]
async fn a_killed_server_cuts_its_sockets_and_frees_its_address() {
    let sandbox = start().await;
    let addr = sandbox.addr();
    let mut client = Client::connect(&sandbox).await;
    sandbox.abort().await;
    assert_eq!(client.next().await, Err(None));
    Client::connect(&start_with(|options| options.listen = addr).await).await;
}

#[tokio::test]
async fn a_dropped_sandbox_is_a_killed_one() {
    let sandbox = start().await;
    let mut client = Client::connect(&sandbox).await;
    drop(sandbox);
    assert_eq!(client.next().await, Err(None));
}
