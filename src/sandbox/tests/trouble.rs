//! The rules of ordered trouble, as a client meets them.

use super::*;

#[tokio::test]
async fn a_reply_can_be_lost_after_the_commit() {
    let sandbox = start().await;
    let token = sandbox.start_task("a", 1).token;
    sandbox.faults().add(Rule::close(Effect::CutAfter).object("a*"));
    let mut client = Client::connect(&sandbox).await;
    client.open(&token, "a.txt").await;
    client.send("rrext_process", json!({"subcommand": "close", "pipe_id": 0, "token": token})).await;
    assert_eq!(client.next().await, Err(None));
    assert_eq!(sandbox.deliveries().len(), 1);
}

#[tokio::test]
async fn trouble_comes_as_ordered() {
    let sandbox = start().await;
    let token = sandbox.start_task("a", 1).token;
    let mut client = Client::connect(&sandbox).await;
    let node = Effect::NodeError { message: "no model".into() };
    sandbox.faults().add(Rule::open(Effect::Refuse { message: "busy".into(), code: None }).times(1));
    sandbox.faults().add(Rule::open(Effect::Mask).times(1));
    sandbox.faults().add(Rule::close(node).object("broken"));
    sandbox.faults().add(Rule::close(Effect::WrongObjectId).object("mixed"));
    sandbox.faults().add(Rule::command("rrext_ping", Effect::Hang).times(1));
    sandbox.faults().add(Rule::command("rrext_ping", Effect::Close { code: 1009, reason: "big".into() }));
    assert_eq!(client.open(&token, "a").await["message"], "busy");
    assert!(is_masked(&client.open(&token, "a").await));
    assert_eq!(client.open(&token, "broken").await["body"]["pipe_id"], 0);
    let reply = client.close(&token, 0).await;
    assert_eq!((&reply["success"], &reply["body"]["error"]["message"]), (&json!(true), &json!("no model")));
    client.open(&token, "mixed").await;
    let body = client.close(&token, 0).await["body"].clone();
    let deliveries = sandbox.deliveries();
    assert_eq!(deliveries[0].error.as_deref(), Some("no model"));
    assert_ne!(body["objectId"], deliveries[1].object_id);
    client.send("rrext_ping", json!({})).await;
    assert!(client.is_silent().await);
    client.send("rrext_ping", json!({})).await;
    assert_eq!(client.next().await, Err(Some((1009, "big".into()))));
}

#[tokio::test]
async fn cut_connections_leave_the_server_and_its_pipes() {
    let sandbox = start().await;
    let token = sandbox.start_task("a", 2).token;
    let mut client = Client::connect(&sandbox).await;
    client.open(&token, "a").await;
    sandbox.cut_connections();
    assert_eq!(client.next().await, Err(None));
    let mut client = Client::connect(&sandbox).await;
    assert_eq!(client.open(&token, "b").await["body"]["pipe_id"], 1);
    assert_eq!(sandbox.accepted(), 2);
}
