//! The life of a task: start, death, termination, idleness.

use super::*;

#[tokio::test]
async fn a_task_that_starts_has_no_data_port_yet_and_is_answered_when_it_runs() {
    let sandbox = start_with(|options| options.start_delay = Duration::from_millis(400)).await;
    let mut client = Client::connect(&sandbox).await;
    let execute = client.send("execute", json!({"pipeline": pipeline("p")})).await;
    let again = client.send("execute", json!({"pipeline": pipeline("p"), "useExisting": true})).await;
    assert!(sandbox.wait_for(LIMIT, |sandbox| sandbox.tasks().len() == 1).await);
    let token = sandbox.tasks()[0].0.token.clone();
    let reply = client.open(&token, "a").await;
    assert!(reply["message"].as_str().unwrap().contains("Connect call failed"), "{reply}");
    assert_eq!(client.reply_to(execute).await["body"]["token"], token);
    assert_eq!(client.reply_to(again).await["body"]["token"], token);
    assert_eq!(client.open(&token, "a").await["body"]["pipe_id"], 0);
    let reply = client.call("execute", json!({"pipeline": pipeline("p")})).await;
    assert_eq!(reply["message"], "Pipeline is already running.");
}

#[tokio::test]
async fn what_is_in_flight_when_a_task_dies_is_never_answered() {
    let sandbox = start().await;
    let token = sandbox.start_task("a", 1).token;
    let slow = sandbox.faults().add(Rule::close(Effect::Delay(Duration::from_millis(50))));
    let mut client = Client::connect(&sandbox).await;
    client.open(&token, "a").await;
    client.send_open(&token, "b").await;
    client.send("rrext_process", json!({"subcommand": "close", "pipe_id": 0, "token": token})).await;
    assert!(sandbox.wait_for(LIMIT, |sandbox| sandbox.faults().hits(slow) == 1).await);
    assert!(sandbox.kill_task(&token));
    assert!(client.is_silent().await);
    assert!(sandbox.deliveries().is_empty());
    let status = client.call("rrext_get_task_status", json!({"token": token})).await["body"].clone();
    assert_eq!((&status["state"], &status["exitCode"]), (&json!(5), &json!(0)));
    assert_eq!(client.open(&token, "c").await["message"], "Task has already completed");
    assert!(sandbox.forget_task(&token));
    assert_eq!(client.open(&token, "c").await["message"], "Your pipeline is not running");
}

#[tokio::test]
async fn a_terminated_task_refuses_without_a_word_and_starts_again_at_pipe_zero() {
    let sandbox = start_with(|options| options.stop_delay = Duration::from_millis(300)).await;
    let mut client = Client::connect(&sandbox).await;
    let start = json!({"pipeline": pipeline("p")});
    let token = client.call("execute", start.clone()).await["body"]["token"].as_str().unwrap().to_owned();
    client.open(&token, "a").await;
    let terminate = client.send("terminate", json!({"token": token})).await;
    assert!(sandbox.wait_for(LIMIT, |sandbox| sandbox.tasks()[0].1 == TaskState::Stopping).await);
    let reply = client.open(&token, "b").await;
    assert_eq!(reply["message"], "Task is terminating, cannot process data requests");
    assert_eq!(client.reply_to(terminate).await["success"], true);
    let reply = client.open(&token, "b").await;
    assert_eq!((&reply["success"], &reply["message"]), (&json!(false), &json!("")));
    assert_eq!(client.call("execute", start).await["body"]["token"], token);
    assert_eq!(client.open(&token, "b").await["body"]["pipe_id"], 0);
}

#[tokio::test]
async fn an_idle_task_ends_and_a_status_request_does_not_keep_it() {
    let sandbox = start_with(|options| options.reap_scan = Duration::from_millis(20)).await;
    let mut client = Client::connect(&sandbox).await;
    let reply = client.call("execute", json!({"pipeline": pipeline("p"), "ttl": 0.2})).await;
    let token = reply["body"]["token"].clone();
    let ended =
        async { while client.call("rrext_get_task_status", json!({"token": token})).await["body"]["state"] != 6 {} };
    timeout(LIMIT, ended).await.expect("asking does not keep it alive");
}
