//! Connecting and tasks.

use rocketride_ingest::client::{Error, ExecuteOptions, Monitor, Notice, ObjectInfo, Reconnect, TaskState};
use rocketride_ingest::sandbox::{Effect, Rule};

use super::*;

#[tokio::test]
async fn a_task_is_used_looked_at_and_ended() {
    let sandbox = Sandbox::start(Options::default()).await.unwrap();
    let client = client(&sandbox);
    let wrapped = json!({"pipeline": pipeline()});
    let task = within(client.use_pipeline(wrapped)).await.unwrap();
    assert_eq!((task.source.as_deref(), task.provider.as_deref()), (Some("in"), Some("webhook")));
    let again = within(client.use_pipeline(pipeline())).await.unwrap();
    assert_eq!(token_text(&again.token), token_text(&task.token), "it joins what runs");

    let status = within(client.get_task_status(&task.token)).await.unwrap();
    assert_eq!(status.state, TaskState::Running);
    let tasks = within(client.get_tasks()).await.unwrap();
    assert_eq!(tasks.len(), 1);
    assert_eq!(token_text(tasks[0].token.as_ref().unwrap()), token_text(&task.token));
    assert!(!format!("{tasks:?}").contains(token_text(&task.token)));

    within(client.terminate(&task.token)).await.unwrap();
    let error = within(client.send(&task.token, "x", ObjectInfo::default(), None)).await.unwrap_err();
    assert!(matches!(error, Error::NotRunning(_)), "{error:?}");
    let words = error.to_string();
    assert!(words.contains("without") || words.contains("gave no reason"), "an empty refusal has words: {words}");
}

#[tokio::test]
async fn a_pipeline_file_gives_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("invoices.pipe");
    std::fs::write(&path, format!("// by hand\n{{pipeline: {}}}", pipeline())).unwrap();
    let sandbox = Sandbox::start(Options::default()).await.unwrap();
    let client = client(&sandbox);
    let options = ExecuteOptions { threads: Some(3), ..ExecuteOptions::from_file(&path).unwrap() };
    let task = within(client.use_pipeline(options)).await.unwrap();
    assert_eq!(within(client.get_tasks()).await.unwrap()[0].name.as_deref(), Some("invoices"));
    let no_second = ExecuteOptions { use_existing: false, ..ExecuteOptions::new(pipeline()) };
    let error = within(client.use_pipeline(no_second)).await.unwrap_err();
    assert!(error.to_string().contains("already running"), "{error}");
    drop(task);
}

#[tokio::test]
async fn a_client_connects_when_needed_and_again_after_a_loss() {
    let (sandbox, client, _token) = engine(4).await;
    assert!(!client.is_connected());
    within(client.connect()).await.unwrap();
    assert!(client.is_connected());
    within(client.clone().ping()).await.unwrap();
    assert_eq!(sandbox.accepted(), 1, "clones share a connection");

    let connection = within(client.connect()).await.unwrap();
    sandbox.cut_connections();
    within(connection.closed()).await;
    assert!(!client.is_connected());
    within(client.ping()).await.unwrap();
    assert!(client.is_connected());

    within(client.disconnect()).await;
    assert!(!client.is_connected());
    assert!(sandbox.wait_for(LONG, |sandbox| sandbox.connections() == 0).await);
}

#[tokio::test]
async fn the_reconnect_policy_counts_attempts() {
    let sandbox = Sandbox::start(Options::default()).await.unwrap();
    let uri = sandbox.uri();
    sandbox.stop().await;
    let client = Client::builder().uri(uri).api_key("k").reconnect(Reconnect::NEVER).build().unwrap();
    assert!(matches!(within(client.ping()).await, Err(Error::Connect { .. })));
}

#[tokio::test]
async fn an_error_carries_the_servers_message_code_and_place() {
    let (sandbox, client, _token) = engine(4).await;
    let refused = Effect::Refuse { message: "out of luck".into(), code: Some("NO_LUCK".into()) };
    sandbox.faults().add(Rule::command("rrext_ping", refused));
    let error = within(client.ping()).await.unwrap_err();
    let server = error.server().unwrap();
    assert_eq!((server.message.as_str(), server.code.as_deref()), ("out of luck", Some("NO_LUCK")));
}

#[tokio::test]
async fn the_servers_events_arrive_as_long_as_they_are_wanted() {
    let (_sandbox, client, token) = engine(4).await;
    let mut events = client.events();
    let monitor = Monitor::task(&token);
    within(client.add_monitor(&monitor, &["summary", "task"])).await.unwrap();
    within(client.send(&token, "x", ObjectInfo::default(), None)).await.unwrap();
    loop {
        match within(events.next()).await.unwrap().unwrap() {
            Notice::Event(event) if event.event == "apaevt_status_update" => break,
            Notice::Event(_) => {}
            other => panic!("{other:?}"),
        }
    }
    within(client.remove_monitor(&monitor, &["summary", "task"])).await.unwrap();
    within(client.disconnect()).await;
    // What came before the end may still be there, then it is over.
    while let Some(notice) = within(events.next()).await {
        notice.unwrap();
    }
}
