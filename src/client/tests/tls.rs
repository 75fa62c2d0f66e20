//! Claims about TLS: a private authority counts if it was named, a stranger never.

use std::io::Write as _;
use std::net::TcpListener as BlockingListener;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tokio_tungstenite::tungstenite;

use super::*;
use crate::client::Wait;
use crate::client::error::Error;
use crate::client::protocol::Arguments;

// Made with openssl for these tests alone: an authority, and a server certificate of it for localhost and 127.0.0.1,
// both P-256 and good for a hundred years. The authority's key was thrown away.
const AUTHORITY: &str = "-----BEGIN CERTIFICATE-----
MIIBmDCCAT+gAwIBAgIUQUP9dY5Dj1hjFCyRrtVLI6RIB5UwCgYIKoZIzj0EAwIw
GTEXMBUGA1UEAwwOVGVzdCBBdXRob3JpdHkwIBcNMjYxMTIyMTk1ODM4WhgPMjEy
NjEwMjkxOTU4MzhaMBkxFzAVBgNVBAMMDlRlc3QgQXV0aG9yaXR5MFkwEwYHKoZI
zj0CAQYIKoZIzj0DAQcDQgAEpLAFiQ1XPbKrSrySRFQTczBVJ0lF/o6VA9mt+1PI
Ab9AlN1GcS+rMh3W62/oBK6625HUlJw5xKvbHk7wq6zhn6NjMGEwHQYDVR0OBBYE
FNSBoOYq6wPopx4lkbr79Jg57fCzMB8GA1UdIwQYMBaAFNSBoOYq6wPopx4lkbr7
9Jg57fCzMA8GA1UdEwEB/wQFMAMBAf8wDgYDVR0PAQH/BAQDAgIEMAoGCCqGSM49
BAMCA0cAMEQCIGavazESxUT/kbnUxafEk6VJ5E0EfcBCWRSgmP7R1TVfAiBrNb89
FzGKBwCV3GueksfCdeNroorRZHnOqjGq22OYJw==
-----END CERTIFICATE-----
";
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MIIBsDCCAVWgAwIBAgIUW0BMg465mQtBbjif7vM1cIW1zt0wCgYIKoZIzj0EAwIw
GTEXMBUGA1UEAwwOVGVzdCBBdXRob3JpdHkwIBcNMjYxMTIyMTk1ODM4WhgPMjEy
NjEwMjkxOTU4MzhaMBQxEjAQBgNVBAMMCWxvY2FsaG9zdDBZMBMGByqGSM49AgEG
CCqGSM49AwEHA0IABC3UJ6Tyq6PqUew/5JUbwloJIu3pbkGUgz2c5/VY/dACWZ8N
C8GcOxcAgAi3SHwTTC5hNCmGXTQ/7vbYrpJdnA+jfjB8MBoGA1UdEQQTMBGCCWxv
Y2FsaG9zdIcEfwAAATAJBgNVHRMEAjAAMBMGA1UdJQQMMAoGCCsGAQUFBwMBMB0G
A1UdDgQWBBQOvnyuQGJUrglFgHHMLV+ScL/y/zAfBgNVHSMEGDAWgBTUgaDmKusD
6KceJZG6+/SYOe3wszAKBggqhkjOPQQDAgNJADBGAiEAo2Yn7HXhXh/JBmc9CS3M
jw0BL7boSuuByvIcGi4Sq1kCIQC9+x4+AV6Xxi+d/ZbNSOyBfrFfNLpyZxHJ9bXn
rDYQUg==
-----END CERTIFICATE-----
";
const KEY: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgr9PZwZc0rJj90PMP
jz7HXFX9JCJ8jkvqDvrL5jESt8ehRANCAAQt1Cek8quj6lHsP+SVG8JaCSLt6W5B
lIM9nOf1WP3QAlmfDQvBnDsXAIAIt0h8E0wuYTQphl00P+722K6SXZwP
-----END PRIVATE KEY-----
";

/// The file of the authority.
pub(super) fn authority() -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(AUTHORITY.as_bytes()).unwrap();
    file
}

/// A server with that certificate, for one client; on a thread, as rustls alone does no asynchronous sockets.
pub(super) fn serve() -> (ConnectOptions, std::thread::JoinHandle<()>) {
    let listener = BlockingListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let server = std::thread::spawn(move || {
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(KEY.as_bytes()).unwrap(),
            )
            .unwrap();
        let (stream, _) = listener.accept().unwrap();
        let tls = StreamOwned::new(ServerConnection::new(Arc::new(config)).unwrap(), stream);
        // A client that does not trust us leaves here.
        let Ok(mut socket) = tungstenite::accept(tls) else { return };
        while let Ok(message) = socket.read() {
            if let Message::Text(text) = message {
                let request = Request::decode(&Frame::Text(text.to_string())).unwrap();
                let reply = Response { request_seq: request.seq, success: true, ..named(&request) };
                socket.send(Message::text(reply.encode())).unwrap();
            }
        }
    });
    (ConnectOptions::new(ServiceUri::parse(&uri).unwrap(), "s3cret".into()), server)
}

#[tokio::test]
async fn a_private_authority_counts_if_it_was_named() {
    let file = authority();
    let (mut options, server) = serve();
    options.ca_file = Some(file.path().to_owned());
    let connection = within(Connection::open(&options)).await.unwrap();
    within(connection.request("a", Arguments::new(), None, Wait::Timeout(LONG))).await.unwrap();
    connection.close().await;
    server.join().unwrap();
    // The library leaves the process-wide choice of a provider to the application.
    assert!(rustls::crypto::CryptoProvider::get_default().is_none());
}

#[tokio::test]
async fn a_stranger_is_refused_with_a_hint() {
    let (options, server) = serve();
    let error = within(Connection::open(&options)).await.unwrap_err();
    assert!(matches!(&error, Error::Connect { message, .. } if message.contains("ca_file")), "{error:?}");
    server.join().unwrap();
}

#[tokio::test]
async fn a_ca_file_that_holds_none_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut options = ConnectOptions::new(ServiceUri::parse("https://localhost:1").unwrap(), "s3cret".into());
    for path in [file.path().to_owned(), "/nonexistent/ca.pem".into()] {
        options.ca_file = Some(path.clone());
        let error = within(Connection::open(&options)).await.unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }
}
