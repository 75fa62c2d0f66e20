//! Who gets in: the upgrade, the login, the credentials.

use super::*;

#[tokio::test]
async fn a_wrong_path_is_forbidden() {
    let sandbox = start().await;
    let Err(error) = Client::try_attach(&sandbox, "/models").await else { panic!("no such path") };
    assert!(matches!(&*error, Error::Http(response) if response.status() == 403), "{error}");
}

#[tokio::test]
async fn the_eleventh_socket_that_has_not_logged_in_is_forbidden() {
    let sandbox = start().await;
    let mut waiting = Vec::new();
    for _ in 0..10 {
        waiting.push(Client::attach(&sandbox).await);
    }
    let Err(error) = Client::try_attach(&sandbox, SERVICE_PATH).await else { panic!("one too many") };
    assert!(matches!(&*error, Error::Http(response) if response.status() == 403), "{error}");
    waiting[0].call("auth", json!({"auth": DEFAULT_API_KEY})).await;
    Client::connect(&sandbox).await;
}

#[tokio::test]
async fn a_refused_login_is_an_error_reply_and_a_normal_close() {
    let sandbox = start().await;
    for (arguments, message) in [
        (json!({"auth": "wrong"}), "Invalid API key"),
        (json!({}), "No authorization provided"),
        (json!({"auth": "tk_unknown"}), "Bad request"),
        (json!({"auth": "pk_unknown"}), "Bad request"),
    ] {
        let mut client = Client::attach(&sandbox).await;
        client.send("auth", arguments).await;
        assert_eq!(client.refusal().await, message);
    }
    let mut client = Client::attach(&sandbox).await;
    client.send("rrext_ping", json!({})).await;
    assert_eq!(client.refusal().await, "Not authenticated");
}

#[tokio::test]
async fn the_sixth_login_on_one_connection_is_too_many() {
    let sandbox = start().await;
    let mut client = Client::connect(&sandbox).await;
    for _ in 0..4 {
        assert_eq!(client.call("auth", json!({"auth": DEFAULT_API_KEY})).await["success"], true);
    }
    client.send("auth", json!({"auth": DEFAULT_API_KEY})).await;
    assert_eq!(client.refusal().await, "Too many authentication attempts");
}

#[tokio::test]
async fn a_request_that_does_not_await_the_login_comes_too_early() {
    let sandbox = start().await;
    let mut client = Client::attach(&sandbox).await;
    let auth = json!({"type": "request", "seq": 1, "command": "auth", "arguments": {"auth": DEFAULT_API_KEY}});
    let ping = json!({"type": "request", "seq": 2, "command": "rrext_ping"});
    // Both in one segment: the kernel would hold the second back until the first is acknowledged.
    client.socket.feed(Message::text(auth.to_string())).await.unwrap();
    client.socket.send(Message::text(ping.to_string())).await.unwrap();
    assert_eq!(client.refusal().await, "Not authenticated");
}

#[tokio::test]
async fn malformed_input_is_never_answered_and_closes_nothing() {
    let sandbox = start().await;
    let mut client = Client::connect(&sandbox).await;
    for text in
        ["", "{", "[]", r#"{"type":"response","seq":1}"#, r#"{"type":"request","seq":"x","command":"rrext_ping"}"#]
    {
        client.socket.send(Message::text(text)).await.unwrap();
    }
    for frame in [
        &b"no newline"[..],
        b"{}\nx",
        br#"{"type":"request","seq":9,"command":"rrext_ping","arguments":null}
"#,
    ] {
        client.socket.send(Message::binary(frame.to_vec())).await.unwrap();
    }
    let reply = client.call("rrext_ping", json!({})).await;
    assert_eq!(reply["body"], json!({"pong": true}));
    assert!(client.early.is_empty());
}

#[tokio::test]
async fn a_task_credential_is_locked_to_its_task() {
    let sandbox = start().await;
    let tokens = sandbox.start_task("a", 4);
    for credential in [&tokens.token, &tokens.public] {
        let mut client = Client::connect_as(&sandbox, credential).await;
        assert_eq!(client.open("another token", "x").await["success"], true);
    }
    assert_eq!(sandbox.pipes_in_use(&tokens.token), 2);
    let mut guest = Client::connect_as(&sandbox, &tokens.public).await;
    for command in ["execute", "terminate", "rrext_get_task_status"] {
        assert_eq!(guest.call(command, json!({"pipeline": pipeline("b")})).await["success"], false, "{command}");
    }
    let mut holder = Client::connect_as(&sandbox, &tokens.token).await;
    assert_eq!(holder.call("rrext_get_task_status", json!({})).await["body"]["state"], 3);
    assert_eq!(holder.call("execute", json!({"pipeline": pipeline("b")})).await["success"], false);
}
