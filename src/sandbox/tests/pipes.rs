//! Open, write, close, and who has which slot.

use super::*;

#[tokio::test]
async fn an_object_goes_through_open_write_close() {
    let sandbox = start().await;
    let token = sandbox.start_task("a", 4).token;
    let mut client = Client::connect(&sandbox).await;
    assert_eq!(client.open(&token, "a.bin").await["body"], json!({"pipe_id": 0}));
    assert!(is_masked(&client.write(&token, 0, b"hel\nlo").await), "a write has no body");
    let body = client.close(&token, 0).await["body"].clone();
    let sha256 = lane::hex(&<sha2::Sha256 as sha2::Digest>::digest(b"hel\nlo"));
    assert_eq!((&body["name"], &body["path"]), (&json!("a.bin"), &json!("")));
    assert_eq!(body["sandbox"]["sha256"], sha256);
    let [delivery] = &sandbox.deliveries()[..] else { panic!("one delivery") };
    assert_eq!((delivery.sha256.as_str(), delivery.bytes, delivery.writes), (sha256.as_str(), 6, 1));
    assert_eq!(delivery.object, json!({"name": "a.bin", "size": 5}).as_object().cloned().unwrap());
    assert!(!delivery.complete(), "5 bytes were declared");
    assert_eq!((sandbox.opens().len(), sandbox.writes()[0].bytes), (1, 6));
    assert_eq!((sandbox.pipes_in_use(&token), sandbox.peak_pipes(&token), sandbox.panics()), (0, 1, 0));
}

#[tokio::test]
async fn failures_inside_the_task_are_masked() {
    let sandbox = start().await;
    let token = sandbox.start_task("a", 1).token;
    let mut client = Client::connect(&sandbox).await;
    for object in [json!({"path": "/x"}), json!({"url": "x"}), json!({"flags": 0}), json!({"size": -1})] {
        let open = json!({"subcommand": "open", "object": object, "mimeType": "text/plain", "token": token});
        assert!(is_masked(&client.call("rrext_process", open).await), "{object}");
    }
    assert!(is_masked(&client.write(&token, 7, b"x").await));
    assert!(is_masked(&client.close(&token, 7).await));
    assert_eq!(sandbox.pipes_in_use(&token), 0, "a refused open keeps no slot");
    assert!(sandbox.deliveries().is_empty());
}

#[tokio::test]
async fn failures_in_front_of_the_task_are_said() {
    let sandbox = start_with(|options| options.codes = true).await;
    let token = sandbox.start_task("a", 1).token;
    let mut client = Client::connect(&sandbox).await;
    let reply = client.open("tk_unknown", "x").await;
    assert_eq!(
        (&reply["message"], &reply["code"]),
        (&json!("Your pipeline is not running"), &json!("TASK_NOT_REGISTERED"))
    );
    let reply = client.call("rrext_process", json!({"subcommand": "open"})).await;
    assert_eq!(reply["message"], "Task token is required");
    let reply = client.call("rrext_process", json!({"subcommand": "open", "provider": "chat", "token": token})).await;
    assert_eq!(reply["message"], "You are looking for a \"chat\", but this pipeline isn't it");
}

#[tokio::test]
async fn a_close_overtakes_a_slow_write_and_commits_nothing() {
    let sandbox = start().await;
    let token = sandbox.start_task("a", 1).token;
    let slow = sandbox.faults().add(Rule::write(Effect::Delay(Duration::from_millis(300))));
    let mut client = Client::connect(&sandbox).await;
    client.open(&token, "a").await;
    let write = client.send_write(&token, 0, b"hello").await;
    assert!(sandbox.wait_for(LIMIT, |sandbox| sandbox.faults().hits(slow) == 1).await);
    assert_eq!(client.close(&token, 0).await["body"]["sandbox"]["bytes"], 0);
    assert!(is_masked(&client.reply_to(write).await), "and the write looks like a success");
}

#[tokio::test]
async fn a_late_write_lands_in_the_object_of_another_client() {
    let sandbox = start().await;
    let token = sandbox.start_task("a", 4).token;
    let (mut first, mut second) = (Client::connect(&sandbox).await, Client::connect(&sandbox).await);
    first.open(&token, "first").await;
    first.close(&token, 0).await;
    assert_eq!(second.open(&token, "second").await["body"]["pipe_id"], 0, "reused at once");
    first.write(&token, 0, b"late").await;
    assert_eq!(second.close(&token, 0).await["body"]["sandbox"]["bytes"], 4);
}

#[tokio::test]
async fn an_open_beyond_the_slots_waits_while_the_rest_goes_on() {
    let sandbox = start().await;
    let token = sandbox.start_task("a", 2).token;
    let mut client = Client::connect(&sandbox).await;
    let others = sandbox.hold_slots(&token, 5);
    assert_eq!(others.count(), 2);
    let open = client.send_open(&token, "a").await;
    assert!(sandbox.wait_for(LIMIT, |sandbox| sandbox.opens_waiting(&token) == 1).await);
    assert_eq!(client.call("rrext_ping", json!({})).await["success"], true);
    assert!(client.is_silent().await);
    drop(others);
    assert_eq!(client.reply_to(open).await["body"]["pipe_id"], 0);
}

#[tokio::test]
async fn a_queued_open_of_a_dead_client_is_granted_and_reaped() {
    let sandbox = start_with(|options| {
        options.reap_after = Duration::from_millis(200);
        options.reap_scan = Duration::from_millis(50);
    })
    .await;
    let token = sandbox.start_task("a", 1).token;
    let others = sandbox.hold_slots(&token, 1);
    let mut dead = Client::connect(&sandbox).await;
    dead.send_open(&token, "dead").await;
    assert!(sandbox.wait_for(LIMIT, |sandbox| sandbox.opens_waiting(&token) == 1).await);
    drop(dead);
    assert!(sandbox.wait_for(LIMIT, |sandbox| sandbox.connections() == 0).await);
    drop(others);
    assert_eq!(sandbox.pipes_in_use(&token), 1, "granted to nobody");
    let mut client = Client::connect(&sandbox).await;
    assert_eq!(client.open(&token, "alive").await["body"]["pipe_id"], 0);
    assert_eq!(sandbox.reaped(), 1);
    assert!(sandbox.deliveries().is_empty(), "reaped unprocessed");
}

#[tokio::test]
async fn without_threads_every_open_hangs() {
    let sandbox = start().await;
    let mut client = Client::connect(&sandbox).await;
    let reply = client.call("execute", json!({"pipeline": pipeline("p"), "threads": 0})).await;
    client.send_open(reply["body"]["token"].as_str().unwrap(), "a").await;
    assert!(client.is_silent().await);
}

#[tokio::test]
async fn nodes_that_fail_can_be_had_by_a_pipeline() {
    let sandbox = start().await;
    let mut client = Client::connect(&sandbox).await;
    let with = |name: &str, provider: &str| {
        let mut pipeline = pipeline(name);
        let node = json!({"id": "node_1", "provider": provider, "config": {"message": "no model"}});
        pipeline["components"].as_array_mut().unwrap().push(node);
        json!({"pipeline": pipeline})
    };
    let (refusing, failing) = (with("r", "sandbox_refusing"), with("f", "sandbox_failing"));
    let reply = client.call("execute", refusing).await;
    assert!(is_masked(&client.open(reply["body"]["token"].as_str().unwrap(), "a").await));
    let reply = client.call("execute", failing).await;
    let token = reply["body"]["token"].as_str().unwrap().to_owned();
    client.open(&token, "a").await;
    assert_eq!(client.close(&token, 0).await["body"]["error"]["message"], "no model");
    assert_eq!(sandbox.deliveries()[0].error.as_deref(), Some("no model"));
}
