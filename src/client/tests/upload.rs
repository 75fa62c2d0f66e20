//! Claims about [`upload`]: exactly the announced bytes are committed, or nothing.

use proptest::prelude::*;
use secrecy::SecretString;

use super::*;
use crate::client::error::{Error, Result};
use crate::client::upload::MAX_CHUNK_SIZE;
use crate::client::{Link, ObjectInfo, Step, Steps, Upload, UploadError, Uploaded, upload};

const ID: &str = "id";

fn object(name: &str) -> ObjectInfo {
    ObjectInfo { name: name.into(), object_id: Some(ID.into()), ..ObjectInfo::default() }
}

/// Uploads `content` announced as `size` to a server that commits whatever comes.
async fn send<S: Steps + Send>(
    content: &[u8],
    size: u64,
    mime_type: &str,
    adjust: impl FnOnce(&mut Upload<'_>),
    steps: &mut S,
) -> (Result<Uploaded, UploadError>, Vec<Vec<u8>>, bool) {
    let (tell, told) = tokio::sync::oneshot::channel();
    let (connection, server) = connected(
        |_| {},
        |mut peer| async move {
            let mut writes = Vec::new();
            let mut committed = false;
            while let Some(request) = peer.next().await {
                match step_of(&request) {
                    "open" => peer.reply(&request, Some(json!({"pipe_id": 0}))).await,
                    "write" => {
                        writes.push(request.payload.clone().unwrap().to_vec());
                        peer.reply(&request, None).await;
                    }
                    "close" => {
                        committed = true;
                        peer.reply(&request, Some(json!({"name": "a", "objectId": ID}))).await;
                    }
                    other => panic!("unexpected {other}"),
                }
            }
            tell.send((writes, committed)).unwrap();
        },
    )
    .await;
    let token = SecretString::from("task");
    let mut options = Upload::new(&token, object("a"), mime_type);
    adjust(&mut options);
    let outcome = within(upload(&connection, &options, size, content, steps)).await;
    drop(connection);
    finished(server).await;
    let (writes, committed) = told.await.unwrap();
    (outcome, writes, committed)
}

#[tokio::test]
async fn a_file_arrives_in_order_and_whole() {
    let content: Vec<u8> = (0..10_000_u32).flat_map(u32::to_le_bytes).collect();
    let (connection, server) = connected(|_| {}, {
        let content = content.clone();
        |mut peer| async move {
            let taken = peer.take_object().await;
            assert_eq!(taken.open.arguments["object"], json!({"name": "a", "size": content.len(), "objectId": ID}));
            assert_eq!(taken.writes.concat(), content);
            assert_eq!(taken.writes.len(), 5);
            peer.reply(&taken.close, Some(json!({"name": "a", "objectId": ID, "n": 1}))).await;
        }
    })
    .await;
    let token = SecretString::from("task");
    let mut options = Upload::new(&token, object("a"), "application/pdf");
    options.chunk_size = 8192;
    let uploaded = within(upload(&connection, &options, 40_000, &content[..], &mut ())).await.unwrap();
    assert_eq!((uploaded.bytes_sent, uploaded.invalid_utf8), (40_000, false));
    assert_eq!(uploaded.result.raw()["n"], 1);
    finished(server).await;
}

#[tokio::test]
async fn an_empty_file_is_an_open_and_a_close() {
    let (outcome, writes, committed) = send(b"", 0, "text/plain", |_| {}, &mut ()).await;
    assert_eq!(outcome.unwrap().bytes_sent, 0);
    assert!(writes.is_empty() && committed);
}

#[tokio::test]
async fn a_file_of_another_size_is_never_committed() {
    for (content, size) in [(&b"abcdef"[..], 7), (b"abcdef", 5), (b"", 1), (b"a", 0)] {
        for mime_type in ["x/y", "text/plain"] {
            let (outcome, _, committed) = send(content, size, mime_type, |_| {}, &mut ()).await;
            let error = outcome.unwrap_err();
            assert_eq!(error.step, Step::Changed);
            assert!(error.pipe_left && !committed);
            assert!(error.to_string().contains("the file changed"), "{error}");
        }
    }
}

#[tokio::test]
async fn small_text_goes_in_one_write_and_large_text_is_cut_at_lines() {
    let text = "l\u{e4}ngere Zeile\n".repeat(1000);
    let size = text.len() as u64;
    let (outcome, writes, _) = send(text.as_bytes(), size, "text/csv", |o| o.chunk_size = 100, &mut ()).await;
    assert!(!outcome.unwrap().invalid_utf8);
    assert_eq!(writes.len(), 1);
    let slow = |options: &mut Upload<'_>| (options.chunk_size, options.one_write_max) = (100, 0);
    let (outcome, writes, _) = send(text.as_bytes(), size, "text/csv", slow, &mut ()).await;
    outcome.unwrap();
    assert_eq!(writes.concat(), text.as_bytes());
    assert!(writes.iter().all(|piece| piece.ends_with(b"\n") && piece.len() <= 100));
    // The case of the type counts: this is no text to the engine.
    let (_, writes, _) = send(text.as_bytes(), size, "TEXT/CSV", slow, &mut ()).await;
    assert!(writes.iter().rev().skip(1).all(|piece| piece.len() == 100));
}

#[tokio::test]
async fn text_that_is_not_utf8_is_sent_and_reported() {
    let (outcome, writes, _) = send(b"a\xffb", 3, "text/plain", |_| {}, &mut ()).await;
    assert!(outcome.unwrap().invalid_utf8);
    assert_eq!(writes.concat(), b"a\xffb");
    let (outcome, ..) = send(b"a\xffb", 3, "application/octet-stream", |_| {}, &mut ()).await;
    assert!(!outcome.unwrap().invalid_utf8);
}

/// Stops at one of its steps, and notes what it saw.
#[derive(Default)]
struct StopAt {
    step: &'static str,
    seen: Vec<u8>,
    acknowledged: u64,
}

impl StopAt {
    fn at(&self, step: &str) -> Result<()> {
        if self.step == step { Err(Error::Abandoned(format!("stopped at {step}"))) } else { Ok(()) }
    }
}

impl Steps for StopAt {
    async fn opening(&mut self) -> Result<()> {
        self.at("opening")
    }
    async fn granted(&mut self, _waited: Duration) -> Result<()> {
        self.at("granted")
    }
    async fn before_write(&mut self, chunk: &[u8]) -> Result<()> {
        self.seen.extend_from_slice(chunk);
        self.at("write")
    }
    fn written(&mut self, total: u64) {
        self.acknowledged = total;
    }
    async fn before_close(&mut self, bytes_sent: u64) -> Result<()> {
        assert_eq!(bytes_sent, self.acknowledged);
        self.at("close")
    }
}

#[tokio::test]
async fn the_caller_may_stop_at_every_step_and_nothing_is_committed() {
    for (step, pipe_left, pieces) in
        [("opening", false, 0), ("granted", true, 0), ("write", true, 0), ("close", true, 2)]
    {
        let mut steps = StopAt { step, ..StopAt::default() };
        let (outcome, writes, committed) = send(b"abcdefgh", 8, "x/y", |o| o.chunk_size = 4, &mut steps).await;
        let error = outcome.unwrap_err();
        assert_eq!((error.step, error.pipe_left, committed), (Step::Caller, pipe_left, false), "{step}");
        assert_eq!((writes.len(), error.to_string()), (pieces, format!("upload abandoned: stopped at {step}")));
    }
    let mut steps = StopAt::default();
    let (outcome, _, committed) = send(b"abcdefgh", 8, "x/y", |o| o.chunk_size = 4, &mut steps).await;
    assert!(outcome.is_ok() && committed);
    assert_eq!((steps.seen.as_slice(), steps.acknowledged), (&b"abcdefgh"[..], 8));
}

#[tokio::test]
async fn an_error_says_whether_a_pipe_is_left_behind() {
    // What the server does at a step; where it fails; whether a slot may stay blocked.
    for (at, how, step, pipe_left) in [
        ("open", "mask", Step::Open, false),
        ("open", "refuse", Step::Open, false),
        ("open", "vanish", Step::Open, true),
        ("write", "refuse", Step::Write, true),
        ("write", "gone", Step::Write, false),
        ("write", "vanish", Step::Write, true),
        ("close", "mask", Step::Close, false),
        ("close", "vanish", Step::Close, true),
    ] {
        let (connection, server) = connected(
            |_| {},
            move |mut peer| async move {
                while let Some(request) = peer.next().await {
                    match (step_of(&request) == at, how) {
                        (true, "mask") => peer.reply(&request, None).await,
                        (true, "refuse") => peer.refuse(&request, "Could not send request").await,
                        (true, "gone") => peer.refuse(&request, "").await,
                        (true, _) => return,
                        (false, _) => peer.reply(&request, Some(json!({"pipe_id": 0}))).await,
                    }
                }
            },
        )
        .await;
        let token = SecretString::from("task");
        let options = Upload::new(&token, object("a"), "x/y");
        let error = within(upload(&connection, &options, 3, &b"abc"[..], &mut ())).await.unwrap_err();
        assert_eq!((error.step, error.pipe_left), (step, pipe_left), "{at} {how}: {error:?}");
        drop(connection);
        finished(server).await;
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_told_with_its_number() {
    struct Broken;
    impl tokio::io::AsyncRead for Broken {
        fn poll_read(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Err(std::io::Error::from_raw_os_error(5)))
        }
    }
    let (connection, server) = connected(
        |_| {},
        |mut peer| async move {
            let open = peer.expect("open").await;
            peer.reply(&open, Some(json!({"pipe_id": 0}))).await;
            assert!(peer.rest().await.is_empty());
        },
    )
    .await;
    let token = SecretString::from("task");
    let options = Upload::new(&token, object("a"), "x/y");
    let error = within(upload(&connection, &options, 3, Broken, &mut ())).await.unwrap_err();
    assert_eq!((error.step, error.os_error, error.pipe_left), (Step::Read, Some(5), true));
    drop(connection);
    finished(server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_uploads_share_a_connection_without_mixing() {
    const FILES: usize = 12;
    let (connection, server) = connected(
        |_| {},
        |mut peer| async move {
            let mut names = Vec::new();
            let mut contents = vec![Vec::new(); FILES];
            while let Some(request) = peer.next().await {
                let pipe =
                    request.arguments.get("pipe_id").and_then(Value::as_u64).map(|id| usize::try_from(id).unwrap());
                match (step_of(&request), pipe) {
                    ("open", _) => {
                        names.push(request.arguments["object"]["name"].as_str().unwrap().to_owned());
                        peer.reply(&request, Some(json!({"pipe_id": names.len() - 1}))).await;
                    }
                    ("write", Some(pipe)) => {
                        contents[pipe].extend_from_slice(&request.payload.clone().unwrap());
                        peer.reply(&request, None).await;
                    }
                    (_, Some(pipe)) => {
                        let body = json!({"name": names[pipe], "objectId": ID, "sum": contents[pipe].len(),
                                          "first": contents[pipe][0]});
                        peer.reply(&request, Some(body)).await;
                    }
                    other => panic!("{other:?}"),
                }
            }
        },
    )
    .await;
    let token = SecretString::from("task");
    let uploads = (0..FILES).map(|number| {
        let (connection, token) = (&connection, &token);
        async move {
            let content = vec![u8::try_from(number).unwrap(); 50_000 + number];
            let mut options = Upload::new(token, object(&format!("f{number}")), "x/y");
            options.chunk_size = 4096;
            let uploaded = upload(connection, &options, content.len() as u64, &content[..], &mut ()).await.unwrap();
            assert_eq!(uploaded.result.raw()["sum"], 50_000 + number);
            assert_eq!(uploaded.result.raw()["first"], number);
        }
    });
    within(futures_util::future::join_all(uploads)).await;
    drop(connection);
    finished(server).await;
}

/// Futures of the public interface can be spawned.
#[test]
fn an_upload_can_be_spawned() {
    fn sendable<T: Send>(_: &T) {}
    fn check(connection: &Connection, options: &Upload<'_>, file: tokio::fs::File) {
        sendable(&upload(connection, options, 1, file, &mut ()));
    }
    let _ = check;
}

proptest! {
    #[test]
    fn no_write_is_larger_than_the_buffer_that_was_announced(size: u64, chunk: usize, one_write: u64, text: bool) {
        let token = SecretString::from("task");
        let mut options = Upload::new(&token, object("a"), if text { "text/plain" } else { "x/y" });
        (options.chunk_size, options.one_write_max) = (chunk, one_write);
        let largest = options.largest_write(size);
        prop_assert!(largest as u64 <= size);
        prop_assert!(largest <= MAX_CHUNK_SIZE);
    }
}

#[tokio::test]
async fn pieces_grow_with_the_link_and_text_stays_cut_between_characters() {
    for (mime_type, text) in [("text/plain", true), ("application/pdf", false)] {
        let content = "\u{20ac}".repeat(200_000);
        let link = Link::default();
        let (outcome, writes, committed) = send(
            content.as_bytes(),
            content.len() as u64,
            mime_type,
            |options| (options.link, options.one_write_max, options.chunk_size) = (Some(link.clone()), 0, 256 * 1024),
            &mut (),
        )
        .await;
        assert!(committed && !outcome.unwrap().invalid_utf8);
        assert_eq!(writes.concat(), content.as_bytes());
        assert!(writes[0].len() <= 64 * 1024, "an unknown link is tried with little first");
        assert!(writes.len() == 4 && writes[1].len() > 128 * 1024, "and this one is fast");
        assert!(!text || writes.iter().all(|piece| std::str::from_utf8(piece).is_ok()));
        assert!(writes.iter().all(|piece| piece.len() <= 256 * 1024));
    }
}

/// A link that becomes worse with every piece.
struct Worse<'a>(&'a Link);

impl Steps for Worse<'_> {
    fn written(&mut self, total: u64) {
        self.0.took(usize::try_from(total).unwrap() * 1000, Duration::from_secs(100_000));
        self.0.gave_up(64 * 1024, Duration::from_secs(60 * total));
    }
}

#[tokio::test]
async fn pieces_shrink_with_the_link_and_nothing_read_before_is_lost() {
    for mime_type in ["text/plain", "application/pdf"] {
        // The lines end early in each piece, so that much is read and not sent when the next piece must be smaller.
        let content = format!("short\n{}", "\u{e4}".repeat(100_000));
        let link = Link::default();
        link.took(1024 * 1024, Duration::from_millis(1));
        let (outcome, writes, _) = send(
            content.as_bytes(),
            content.len() as u64,
            mime_type,
            |options| (options.link, options.one_write_max, options.chunk_size) = (Some(link.clone()), 0, 100_000),
            &mut Worse(&link),
        )
        .await;
        assert!(!outcome.unwrap().invalid_utf8);
        assert_eq!(writes.concat(), content.as_bytes());
        assert!(writes[1].len() < 64 * 1024, "{}", writes[1].len());
        if mime_type == "text/plain" {
            assert!(writes.iter().all(|piece| std::str::from_utf8(piece).is_ok()));
        }
    }
}
