//! Claims about a connection through a proxy.

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use super::*;
use crate::client::Proxy;
use crate::client::error::{Error, Result};

/// A proxy for one client that answers with this, and then passes everything on if it opened a tunnel. Gives back the
/// head of the request.
async fn proxy(answer: &'static str, to: u16) -> (Proxy, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://user:p%40ss@{}", listener.local_addr().unwrap());
    let served = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            if line.trim().is_empty() {
                break;
            }
            head.push(line.trim().to_owned());
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        if answer.contains(" 200 ") {
            let mut onward = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut onward).await;
        }
        head
    });
    (Proxy::parse(&url.into()).unwrap(), served)
}

async fn connect(answer: &'static str) -> (Result<Connection>, Vec<String>) {
    let (listener, mut options) = listen().await;
    let port = listener.local_addr().unwrap().port();
    let (through, served) = proxy(answer, port).await;
    options.proxy = Some(through);
    // A name that only the proxy could know.
    options.uri = ServiceUri::parse(&format!("http://engine.invalid:{port}")).unwrap();
    options.allow_plaintext = true;
    let script = tokio::spawn(async move {
        let mut peer = Peer::accept(&listener).await;
        peer.login().await;
        peer.rest().await;
    });
    let connection = within(Connection::open(&options)).await;
    if let Ok(connection) = &connection {
        within(connection.close()).await;
        finished(script).await;
    } else {
        script.abort();
    }
    let head = within(served).await.unwrap();
    (connection, head.into_iter().map(|line| line.replace(&port.to_string(), "PORT")).collect())
}

#[tokio::test]
async fn a_tunnel_is_asked_for_with_the_servers_name_and_the_credential() {
    let (connection, head) = connect("HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n").await;
    connection.unwrap();
    assert_eq!(
        head,
        [
            "CONNECT engine.invalid:PORT HTTP/1.1",
            "Host: engine.invalid:PORT",
            // user:p@ss
            "Proxy-Authorization: Basic dXNlcjpwQHNz",
        ]
    );
}

#[tokio::test]
async fn tls_goes_through_the_tunnel_to_the_server_itself() {
    let (mut options, server) = tls::serve();
    let authority = tls::authority();
    options.ca_file = Some(authority.path().to_owned());
    let (through, tunnel) = proxy("HTTP/1.1 200 OK\r\n\r\n", options.uri.port()).await;
    options.proxy = Some(through);
    let connection = within(Connection::open(&options)).await.unwrap();
    within(connection.ping()).await.unwrap();
    within(connection.close()).await;
    assert!(within(tunnel).await.unwrap()[0].starts_with("CONNECT localhost:"));
    tokio::task::spawn_blocking(|| server.join().unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_proxy_that_opens_no_tunnel_is_named_in_the_error() {
    for (answer, word) in [
        ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "another user or password"),
        ("HTTP/1.1 403 Forbidden\r\nX: y\r\n\r\n", "HTTP 403"),
        ("SSH-2.0-x\r\n\r\n", "no HTTP"),
        ("HTTP/1.1 200", "proxy"),
    ] {
        // The last one hangs up in the middle of its answer, and then there is nobody to pass anything on to.
        let (connection, _) = connect(answer).await;
        let error = connection.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::Connect { .. }), "{error:?}");
        assert!(text.contains("proxy http://127.0.0.1") && text.contains(word), "{text}");
        assert!(!text.contains("p@ss") && !text.contains("p%40ss"), "{text}");
    }
}
