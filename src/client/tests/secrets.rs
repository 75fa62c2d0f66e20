//! Claims about what is logged: never a credential, never content.

use std::io;
use std::sync::{Arc, Mutex};

use secrecy::SecretString;
use tracing_subscriber::fmt::MakeWriter;

use super::*;
use crate::client::{ObjectInfo, Upload, upload};

/// Everything logged on this thread, which is all of a test's runtime.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn the_log_of_an_upload_tells_commands_but_no_credential_and_no_content() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(log.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let (listener, options) = listen().await;
    let server = tokio::spawn(async move {
        let mut peer = Peer::accept(&listener).await;
        let auth = peer.expect("auth").await;
        peer.reply(&auth, Some(json!({"userToken": "s3cret-token"}))).await;
        peer.raw("{\"type\":\"s3cret-type\"").await;
        let taken = peer.take_object().await;
        peer.reply(&taken.close, Some(json!({"name": "s3cret-name", "text": ["s3cret-result"]}))).await;
    });
    let connection = within(Connection::open(&options)).await.unwrap();
    let token = SecretString::from("task");
    let object = ObjectInfo { name: "s3cret-name".into(), ..ObjectInfo::default() };
    let options = Upload::new(&token, object, "text/plain");
    within(upload(&connection, &options, 14, &b"s3cret-content"[..], &mut ())).await.unwrap();
    connection.close().await;
    finished(server).await;

    let shown = format!("{connection:?}");
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("rrext_process") && log.contains("ignored a message"), "{log}");
    for text in [log, shown] {
        assert!(!text.contains("s3cret") && !text.contains("auth"), "{text}");
    }
}
