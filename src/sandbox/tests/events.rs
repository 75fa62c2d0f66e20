//! Subscriptions, as frames.

use super::*;

impl Client {
    /// The next event of this name, whatever comes before it.
    async fn event(&mut self, name: &str) -> Value {
        loop {
            if let Some(at) = self.early.iter().position(|message| message["event"] == name) {
                return self.early.remove(at);
            }
            let message = self.next().await.expect("an event before the end");
            self.early.push(message);
        }
    }
}

async fn monitor(client: &mut Client, arguments: Value) {
    let reply = client.call("rrext_monitor", arguments).await;
    assert!(is_masked(&reply), "no body: {reply}");
}

#[tokio::test]
async fn the_life_of_a_task_is_told_with_its_counts() {
    let sandbox = start().await;
    let mut client = Client::connect(&sandbox).await;
    monitor(&mut client, json!({"token": "*", "types": ["summary", "task"]})).await;
    assert_eq!(client.event("apaevt_task").await["body"], json!({"action": "running", "tasks": []}));
    let token = sandbox.start_task("a", 1).token;
    let begin = client.event("apaevt_task").await;
    let expected = json!({"action": "begin", "name": "a", "projectId": "a", "source": "webhook_1"});
    assert_eq!((&begin["type"], &begin["id"], &begin["body"]), (&json!("event"), &json!("a.webhook_1"), &expected));
    client.open(&token, "x").await;
    client.close(&token, 0).await;
    while client.event("apaevt_status_update").await["body"]["completedCount"] != 1 {}
    sandbox.kill_task(&token);
    assert_eq!(client.event("apaevt_task").await["body"]["action"], "end");
    let last = client.event("apaevt_status_update").await;
    assert_eq!((&last["body"]["state"], &last["body"]["completedCount"]), (&json!(5), &json!(1)));
}

#[tokio::test]
async fn a_new_subscriber_is_told_at_once_where_things_stand() {
    let sandbox = start().await;
    let token = sandbox.start_task("a", 1).token;
    let mut client = Client::connect(&sandbox).await;
    monitor(&mut client, json!({"token": token, "types": ["SUMMARY"]})).await;
    assert_eq!(client.event("apaevt_status_update").await["body"]["state"], 3);
    monitor(&mut client, json!({"projectId": "later", "source": "webhook_1", "types": ["summary"]})).await;
    let standing = client.event("apaevt_status_update").await;
    assert_eq!((&standing["body"]["state"], &standing["body"]["status"]), (&json!(0), &json!("Not running")));
    sandbox.start_task("later", 1);
    while client.event("apaevt_status_update").await["body"]["state"] != 3 {}
}

#[tokio::test]
async fn nobody_is_told_what_he_did_not_ask_for() {
    let sandbox = start().await;
    let tokens = sandbox.start_task("a", 1);
    let mut silent = Client::connect(&sandbox).await;
    let mut other = Client::connect_as(&sandbox, &tokens.token).await;
    let mut all = Client::connect(&sandbox).await;
    monitor(&mut silent, json!({"token": tokens.token, "types": ["summary"]})).await;
    silent.event("apaevt_status_update").await;
    monitor(&mut silent, json!({"token": tokens.token, "types": ["apaevt_status_upload"]})).await;
    // Locked to its task, whatever token it names.
    monitor(&mut other, json!({"token": "*", "types": ["task"]})).await;
    other.event("apaevt_task").await;
    monitor(&mut all, json!({"token": "*", "types": 32})).await;
    all.event("apaevt_task").await;
    sandbox.start_task("b", 1);
    assert_eq!(all.event("apaevt_task").await["body"]["name"], "b");
    sandbox.kill_task(&tokens.token);
    assert_eq!(other.event("apaevt_task").await["body"]["name"], "a", "and nothing of b before");
    assert!(silent.is_silent().await);
}

#[tokio::test]
async fn a_subscription_that_cannot_be_is_refused() {
    let sandbox = start().await;
    let tokens = sandbox.start_task("a", 1);
    let mut client = Client::connect(&sandbox).await;
    for arguments in [
        json!({"token": "unknown", "types": ["task"]}),
        json!({"token": tokens.token, "projectId": "a", "source": "webhook_1", "types": ["task"]}),
        json!({"types": ["task"]}),
    ] {
        assert_eq!(client.call("rrext_monitor", arguments).await["success"], false);
    }
    let mut guest = Client::connect_as(&sandbox, &tokens.public).await;
    assert_eq!(guest.call("rrext_monitor", json!({"types": ["task"]})).await["success"], false);
}

#[tokio::test]
async fn a_subscriber_who_does_not_read_holds_up_nobody() {
    let sandbox = start().await;
    let mut deaf = Client::connect(&sandbox).await;
    monitor(&mut deaf, json!({"token": "*", "types": ["all"]})).await;
    for number in 0..3_000 {
        sandbox.kill_task(&sandbox.start_task(&number.to_string(), 1).token);
    }
    let mut client = Client::connect(&sandbox).await;
    assert_eq!(client.call("rrext_ping", json!({})).await["success"], true);
    assert_eq!(sandbox.panics(), 0);
}
