//! Claims about the client by HTTP against servers written by hand.

use secrecy::SecretString;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::client::{Error, HttpClient, HttpOptions, Proxy, UploadResult};

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

/// A server that reads the head of one request, and `take` bytes of its body, and answers with these bytes.
async fn by_hand(answer: Vec<u8>, take: usize) -> (HttpClient, JoinHandle<String>) {
    let (listener, options) = listen().await;
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => break,
            }
        }
        let mut body = vec![0; take];
        let _ = stream.read_exact(&mut body).await;
        let _ = stream.write_all(&answer).await;
        let _ = stream.shutdown().await;
        head.iter().map(|byte| char::from(*byte)).collect()
    });
    let client = HttpClient::new(ConnectOptions { max_message: 10_000, ..options }).unwrap();
    (client, served)
}

fn http(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

#[tokio::test]
async fn odd_replies_are_errors_and_never_a_result() {
    let done = r#"{"status":"OK","data":{"objectsCompleted":1,"objects":{"body":{"name":"a","status":"OK"}}}}"#;
    for (answer, expected, words) in [
        (http("200 OK", done), "OK", ""),
        (http("200 OK", "<html>"), "PROTOCOL_VIOLATION", "JSON"),
        (http("200 OK", ""), "PROTOCOL_VIOLATION", "JSON"),
        (http("200 OK", &" ".repeat(10_001)), "CONNECTION_LOST", "larger than 10000"),
        (
            [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec(), vec![b' '; 20_000]].concat(),
            "CONNECTION_LOST",
            "larger than 10000",
        ),
        (http("502 Bad Gateway", "<html>"), "REFUSED", "HTTP 502"),
        (http("401 Unauthorized", ""), "AUTHENTICATION_FAILED", "HTTP 401"),
        (
            http("401 Unauthorized", r#"{"detail":"neither s3cret nor tok en& is known"}"#),
            "AUTHENTICATION_FAILED",
            "neither <secret> nor <secret> is known",
        ),
        (b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n".to_vec(), "REFUSED", "redirects"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"status\"".to_vec(), "CONNECTION_LOST", ""),
        (b"\x00\x01garbage\r\n\r\n".to_vec(), "CONNECTION_LOST", ""),
        (Vec::new(), "CONNECTION_LOST", ""),
    ] {
        let shown = String::from_utf8_lossy(&answer[..answer.len().min(60)]).into_owned();
        let (client, served) = by_hand(answer, 1).await;
        let sent = send(&client, &"tok en&".into(), "a", b"x").await;
        assert_eq!(code(&sent), expected, "{shown}: {:?}", sent.error);
        let error = sent.error.unwrap_or_default();
        assert!(error.contains(words) && !error.contains("tok") && !error.contains("s3cret"), "{shown}: {error}");
        let head = within(served).await.unwrap();
        assert!(head.starts_with("POST /task/data?token=tok+en%26 HTTP/1.1\r\n"), "{head}");
        for line in
            ["authorization: Bearer s3cret", "content-length: 1", "content-disposition: attachment; filename=\"a\""]
        {
            assert!(head.lines().any(|got| got == line), "{line}: {head}");
        }
        assert!(!head.contains("transfer-encoding"), "{head}");
    }
}

#[tokio::test]
async fn a_result_before_the_whole_file_arrived_is_not_believed() {
    let done = r#"{"status":"OK","data":{"objectsCompleted":1,"objects":{"body":{"name":"a","status":"OK"}}}}"#;
    let (client, served) = by_hand(http("200 OK", done), 10).await;
    let size = 50_000_000;
    let token = SecretString::from("t");
    let upload = client.upload(&token, "a", "x/y", size, tokio::io::repeat(1).take(size));
    let error = within(upload).await.unwrap_err();
    assert!(matches!(error, Error::Protocol(_) | Error::ConnectionLost { .. }), "{error:?}");
    within(served).await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_so() {
    let (listener, options) = listen().await;
    drop(listener);
    let client = HttpClient::new(options).unwrap();
    let error = within(client.task_status(&"tok".into())).await.unwrap_err();
    assert!(matches!(&error, Error::Connect { message, .. } if message.contains("refused")), "{error:?}");
    let shown = format!("{client:?} {error:?}");
    assert!(!shown.contains("s3cret") && !shown.contains("tok\""), "{shown}");
}

#[tokio::test]
async fn a_stranger_is_refused_with_a_hint_over_http_too() {
    let (options, server) = tls::serve();
    let error = within(HttpClient::new(options).unwrap().task_status(&"t".into())).await.unwrap_err();
    assert!(matches!(&error, Error::Connect { message, .. } if message.contains("ca_file")), "{error:?}");
    server.join().unwrap();
    assert!(rustls::crypto::CryptoProvider::get_default().is_none());
}

#[tokio::test]
async fn https_goes_through_a_tunnel_with_the_proxys_password() {
    let (mut options, server) = tls::serve();
    let authority = tls::authority();
    options.ca_file = Some(authority.path().to_owned());
    let (through, tunnel) = proxy_for(options.uri.port()).await;
    options.proxy = Some(through);
    let client = HttpClient::new(options).unwrap();
    // That server speaks WebSocket alone: it is trusted, and then talks nonsense or leaves.
    let error = within(client.task_status(&"t".into())).await.unwrap_err();
    assert!(!matches!(error, Error::Connect { .. }), "{error:?}");
    let head = within(tunnel).await.unwrap();
    assert!(head.starts_with("CONNECT localhost:"), "{head}");
    assert!(head.to_ascii_lowercase().contains("proxy-authorization: basic dxnlcjpwqhnz"), "{head}");
    assert!(!head.contains("s3cret"), "the credential is the server's alone");
    drop(client);
    server.join().unwrap();
}

/// A proxy for one client that opens a tunnel; gives back the head of the request.
async fn proxy_for(to: u16) -> (Proxy, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://user:p%40ss@{}", listener.local_addr().unwrap());
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let mut onward = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut onward).await;
        String::from_utf8(head).unwrap()
    });
    (Proxy::parse(&url.into()).unwrap(), served)
}
