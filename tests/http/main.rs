//! Claims about the client by HTTP against the sandbox engine.

#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rocketride_ingest::client::{
    Client, DataPath, Error, HttpClient, HttpOptions, Notice, ObjectInfo, Progress, SecretString, TaskState,
    UploadResult,
};
use rocketride_ingest::sandbox::{DEFAULT_API_KEY, Effect, Options, Rule, Sandbox};
use secrecy::ExposeSecret as _;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};

/// No test comes near it unless something hangs.
const LONG: Duration = Duration::from_secs(60);
/// For waits that are meant to run out.
const SHORT: Duration = Duration::from_millis(50);

/// Every wait of a test ends.
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future).await.expect("it takes far too long")
}

async fn engine() -> (Sandbox, HttpClient, SecretString) {
    let sandbox = Sandbox::start(Options::default()).await.unwrap();
    let token = sandbox.start_task("t", 4).token.into();
    let client = client(&sandbox, DEFAULT_API_KEY);
    (sandbox, client, token)
}

fn client(sandbox: &Sandbox, key: &str) -> HttpClient {
    Client::builder().uri(sandbox.uri()).api_key(key).build_http().unwrap()
}

/// A file of this name and content, sent.
async fn send(client: &HttpClient, token: &SecretString, name: &str, content: &[u8]) -> UploadResult {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    within(client.upload_file(token, &path, HttpOptions::default())).await
}

fn code(result: &UploadResult) -> &'static str {
    result.failure.as_ref().map_or("OK", Error::code)
}

#[tokio::test]
async fn a_file_arrives_whole_and_its_result_is_that_of_the_other_side() {
    let (sandbox, client, token) = engine().await;
    let sent = send(&client, &token, "hello.txt", b"hello").await;
    assert_eq!((code(&sent), sent.bytes_sent, sent.file_size), ("OK", 5, 5));
    let by_http = sent.result.unwrap();
    assert_eq!(by_http.text().concat().trim(), "hello");
    assert_eq!(by_http.name(), Some("hello.txt"));

    let other = Client::builder().uri(sandbox.uri()).api_key(DEFAULT_API_KEY).build().unwrap();
    let object = ObjectInfo::named("hello.txt");
    let by_socket = within(other.send(&token, "hello", object, None)).await.unwrap();
    assert_eq!(by_http.raw().keys().collect::<Vec<_>>(), by_socket.raw().keys().collect::<Vec<_>>());
    assert_eq!(by_http.result_types(), by_socket.result_types());
    other.disconnect().await;

    let webhook = client.clone().data_path(DataPath::Webhook);
    let source = std::io::Cursor::new(vec![7_u8; 100]);
    let result = within(webhook.upload(&token, "x.bin", "application/x-y", 100, source)).await.unwrap();
    assert_eq!(result.name(), Some("x.bin"));
    let last = sandbox.deliveries().pop().unwrap();
    assert_eq!((last.received, last.mime_type.as_str()), (100, "application/x-y"));
    sandbox.stop().await;
}

#[tokio::test]
async fn names_arrive_as_well_as_a_header_can_say_them() {
    let (sandbox, client, token) = engine().await;
    for (name, arrives) in [
        ("Rechnung \u{fc}ber 5%.pdf", "Rechnung \u{fc}ber 5%.pdf"),
        ("\u{65e5}\u{672c}.pdf", "__.pdf"),
        ("a \"quoted\"; b.pdf", "a _quoted__ b.pdf"),
        ("'x'.pdf", "_x'.pdf"),
        ("line\nbreak.pdf", "line_break.pdf"),
        ("filename=b.pdf", "filename=b.pdf"),
    ] {
        let sent = send(&client, &token, name, b"x").await;
        assert_eq!(code(&sent), "OK", "{name}: {:?}", sent.error);
        assert_eq!(sandbox.deliveries().pop().unwrap().name, arrives);
    }
    sandbox.stop().await;
}

#[tokio::test]
async fn an_empty_file_arrives() {
    let (sandbox, client, token) = engine().await;
    let sent = send(&client, &token, "empty.bin", b"").await;
    assert_eq!((code(&sent), sent.bytes_sent, sent.file_size), ("OK", 0, 0), "{:?}", sent.error);
    assert_eq!(sandbox.deliveries().pop().unwrap().received, 0);
    let full = within(client.upload(&token, "a", "x/y", 0, &b"not empty"[..])).await.unwrap_err();
    assert!(matches!(&full, Error::Abandoned(why) if why.contains("longer")), "{full:?}");
    assert_eq!(sandbox.delivered(), 1, "nothing was sent");
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_megabytes_are_streamed_and_told_of() {
    const SIZE: u64 = 50_000_000;
    let (sandbox, client, token) = engine().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("big.bin");
    std::fs::File::create(&path).unwrap().set_len(SIZE).unwrap();
    let (progress, mut events) = Progress::stream();
    let options = HttpOptions { progress: Some(progress), ..HttpOptions::default() };
    let watch = async {
        let mut actions: Vec<&str> = Vec::new();
        while let Some(notice) = events.next().await {
            if let Notice::Event(event) = notice
                && actions.last() != Some(&event.action())
            {
                actions.push(event.action());
            }
        }
        actions
    };
    let upload = async {
        let sent = client.upload_file(&token, &path, options).await;
        assert_eq!((code(&sent), sent.bytes_sent), ("OK", SIZE), "{:?}", sent.error);
    };
    let ((), actions) = within(async { tokio::join!(upload, watch) }).await;
    assert_eq!(actions, ["open", "write", "close", "complete"]);
    let delivery = sandbox.deliveries().pop().unwrap();
    assert_eq!(delivery.received, SIZE);
    sandbox.stop().await;
}

#[tokio::test]
async fn a_wrong_token_and_a_wrong_key_are_told_apart() {
    let (sandbox, client_, token) = engine().await;
    let stranger = send(&client_, &"no such task".into(), "a", b"x").await;
    assert_eq!(code(&stranger), "PIPELINE_NOT_RUNNING", "{:?}", stranger.error);
    let locked_out = client(&sandbox, "wrong");
    let refused = send(&locked_out, &token, "a", b"x").await;
    assert_eq!(code(&refused), "AUTHENTICATION_FAILED", "{:?}", refused.error);
    assert_eq!(within(locked_out.task_status(&token)).await.unwrap_err().code(), "AUTHENTICATION_FAILED");
    assert_eq!(within(client_.task_status(&"none".into())).await.unwrap_err().code(), "PIPELINE_NOT_RUNNING");
    assert_eq!(within(client_.stop_task(&"none".into())).await.unwrap_err().code(), "PIPELINE_NOT_RUNNING");
    assert_eq!(within(client_.task_status(&"".into())).await.unwrap_err().code(), "INVALID_DATA");
    assert_eq!(sandbox.delivered(), 0);
    sandbox.stop().await;
}

#[tokio::test]
async fn failures_that_come_with_http_200_are_failures() {
    for (rule, expected, words) in [
        (Rule::close(Effect::NodeError { message: "the model is away".into() }), "PIPE_FAILED", "the model is away"),
        (Rule::open(Effect::Mask), "PIPE_FAILED", "hides why"),
        (Rule::close(Effect::Mask), "PIPE_FAILED", "hides why"),
        (Rule::open(Effect::Refuse { message: "no room".into(), code: None }), "REFUSED", "no room"),
        (Rule::open(Effect::CutBefore), "CONNECTION_LOST", ""),
        (Rule::close(Effect::CutAfter), "CONNECTION_LOST", ""),
    ] {
        let (sandbox, client, token) = engine().await;
        sandbox.faults().add(rule.clone());
        let sent = send(&client, &token, "a", b"x").await;
        assert_eq!(code(&sent), expected, "{rule:?}: {:?}", sent.error);
        assert!(sent.error.unwrap().contains(words), "{rule:?}");
        sandbox.stop().await;
    }
}

#[tokio::test]
async fn a_task_is_started_looked_at_and_stopped() {
    let (sandbox, client, _) = engine().await;
    let pipeline = json!({"pipeline": {"project_id": "p", "source": "in",
                          "components": [{"id": "in", "provider": "webhook"}]}});
    let task = within(client.start_task(pipeline.clone(), Some(2))).await.unwrap();
    let again = within(client.start_task(pipeline, None)).await.unwrap_err();
    assert!(matches!(&again, Error::Refused(words) if words.message.contains("already running")), "{again:?}");
    assert_eq!(within(client.task_status(&task.token)).await.unwrap().state, TaskState::Running);
    assert_eq!(code(&send(&client, &task.token, "a", b"x").await), "OK");
    within(client.stop_task(&task.token)).await.unwrap();
    assert!(!within(client.task_status(&task.token)).await.is_ok_and(|status| status.is_alive()));
    assert!(within(client.start_task(json!([]), None)).await.is_err());
    assert!(within(client.start_task(json!({}), Some(0))).await.is_err());
    sandbox.stop().await;
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_before() {
    let (sandbox, client, token) = engine().await;
    let folder = tempfile::tempdir().unwrap();
    let missing = within(client.upload_file(&token, folder.path().join("none"), HttpOptions::default())).await;
    assert_eq!((code(&missing), missing.file_size), ("FILE_NOT_FOUND", 0));
    let directory = within(client.upload_file(&token, folder.path(), HttpOptions::default())).await;
    assert_eq!(code(&directory), "INVALID_DATA");
    for (token, name, mime_type) in
        [("", "a", "x/y"), ("t", "", "x/y"), ("t", "a", "multipart/form-data; boundary=x"), ("t", "a", "x\ny")]
    {
        let error = within(client.upload(&token.into(), name, mime_type, 1, &b"x"[..])).await.unwrap_err();
        assert_eq!(error.code(), "INVALID_DATA", "{token:?} {name:?} {mime_type:?}");
    }
    assert!(sandbox.opens().is_empty());
    let plaintext = Client::builder().uri("http://engine.example").api_key("k").build_http().unwrap_err();
    assert!(plaintext.to_string().contains("unencrypted"));
    sandbox.stop().await;
}

#[tokio::test]
async fn a_file_that_changes_its_length_is_never_complete() {
    for (size, word) in [(400_000, "shorter"), (200_000, "longer"), (299_999, "longer"), (300_001, "shorter")] {
        let (sandbox, client, token) = engine().await;
        let source = std::io::Cursor::new(vec![1_u8; 300_000]);
        let error = within(client.upload(&token, "a", "x/y", size, source)).await.unwrap_err();
        assert!(matches!(&error, Error::Abandoned(why) if why.contains(word)), "{size}: {error:?}");
        // The announced bytes never arrived in full.
        assert!(sandbox.deliveries().iter().all(|delivery| delivery.received < size));
        sandbox.stop().await;
    }
}

/// Some bytes, and then nothing or an error.
struct Stuck {
    left: usize,
    error: Option<i32>,
}

impl AsyncRead for Stuck {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        if self.left == 0 {
            return match self.error {
                Some(number) => Poll::Ready(Err(std::io::Error::from_raw_os_error(number))),
                None => Poll::Pending,
            };
        }
        let count = self.left.min(buffer.remaining());
        buffer.put_slice(&vec![0; count]);
        self.left -= count;
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_source_that_fails_or_falls_silent_ends_the_upload() {
    let (sandbox, _, token) = engine().await;
    let client =
        Client::builder().uri(sandbox.uri()).api_key(DEFAULT_API_KEY).silence_timeout(SHORT).build_http().unwrap();
    let broken = within(client.upload(&token, "a", "x/y", 500, Stuck { left: 100, error: Some(5) })).await;
    assert!(matches!(&broken, Err(Error::Read { .. })), "{broken:?}");
    let silent = within(client.upload(&token, "a", "x/y", 500, Stuck { left: 100, error: None })).await;
    assert!(matches!(&silent, Err(Error::TimedOut { what: "a read of the file", .. })), "{silent:?}");
    sandbox.stop().await;
}

#[tokio::test]
async fn an_upload_waits_while_its_task_runs_and_ends_with_it() {
    let sandbox = Sandbox::start(Options::default()).await.unwrap();
    let token: SecretString = sandbox.start_task("t", 1).token.into();
    let builder = Client::builder().uri(sandbox.uri()).api_key(DEFAULT_API_KEY);
    let client = builder.silence_timeout(SHORT).result_timeout(SHORT * 4).build_http().unwrap();
    // A body that no socket buffers, and no slot: the server takes nothing.
    let size = 40_000_000;
    let held = sandbox.hold_slots(token.expose_secret(), 1);
    let upload = {
        let (client, token) = (client.clone(), token.clone());
        tokio::spawn(async move { client.upload(&token, "a", "x/y", size, tokio::io::repeat(1).take(size)).await })
    };
    // The upload's connection, and then those that ask for the task.
    let waiting = |sandbox: &Sandbox| sandbox.opens_waiting(token.expose_secret()) == 1;
    assert!(sandbox.wait_for(LONG, waiting).await);
    // Many times the span after which the task is asked for.
    tokio::time::sleep(SHORT * 20).await;
    assert!(!upload.is_finished());
    drop(held);
    assert_eq!(within(upload).await.unwrap().unwrap().name(), Some("a"));

    // A close that is never answered: the task is asked for, and dies.
    sandbox.faults().add(Rule::close(Effect::Hang));
    let upload = tokio::spawn({
        let (client, token) = (client.clone(), token.clone());
        async move { client.upload(&token, "b", "x/y", 1, &b"x"[..]).await }
    });
    assert!(sandbox.wait_for(LONG, |sandbox| sandbox.pipes_in_use(token.expose_secret()) == 1).await);
    sandbox.kill_task(token.expose_secret());
    let error = within(upload).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::NotRunning(_) | Error::TimedOut { what: "close", .. }), "{error:?}");
    sandbox.stop().await;
}

#[tokio::test]
async fn a_connection_that_is_cut_in_the_middle_is_lost_and_not_tried_again() {
    let (sandbox, client, token) = engine().await;
    let size = 40_000_000;
    let held = sandbox.hold_slots(token.expose_secret(), 4);
    let upload = tokio::spawn({
        let token = token.clone();
        async move { client.upload(&token, "a", "x/y", size, tokio::io::repeat(1).take(size)).await }
    });
    assert!(sandbox.wait_for(LONG, |sandbox| sandbox.opens_waiting(token.expose_secret()) == 1).await);
    sandbox.abort().await;
    let error = within(upload).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::ConnectionLost { .. }), "{error:?}");
    drop(held);
}
