//! Through an HTTP proxy: the daemon, `check` and `send` reach the server by `CONNECT`, by a name that only the proxy
//! knows; written in the file or taken from the environment, with the exceptions of `$NO_PROXY`.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::harness::{Host, assert_sent_once, engine};

/// A proxy that sends every tunnel to one place, and remembers what was asked for.
struct Proxy {
    addr: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    server: JoinHandle<()>,
}

impl Proxy {
    async fn to(engine: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heads = asked.clone();
        let server = tokio::spawn(async move {
            let mut tunnels = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tunnels.spawn(tunnel(stream, engine, heads.clone()));
            }
        });
        Self { addr, asked, server }
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn tunnel(stream: TcpStream, engine: SocketAddr, asked: Arc<Mutex<Vec<String>>>) {
    let mut stream = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        if line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_owned());
    }
    asked.lock().unwrap().push(head.join("\n"));
    let mut onward = TcpStream::connect(engine).await.unwrap();
    stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
    let _ = tokio::io::copy_bidirectional(&mut stream, &mut onward).await;
}

/// A server that no name service knows, so that only the proxy finds it.
const SERVER: &str = "http://engine.invalid:5565";
const CONNECT: &str = "CONNECT engine.invalid:5565 HTTP/1.1";

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_check_and_send_go_through_the_proxy_that_is_written() {
    let engine = engine().await;
    let proxy = Proxy::to(engine.addr()).await;
    let host = Host::new();
    let server = format!("allow_plaintext = true\nproxy = \"http://user:s3cret@{}\"", proxy.addr);
    host.configure_with(SERVER, &server, "");
    // The proxy's password stands in it.
    let text = std::fs::read_to_string(host.path("config.toml")).unwrap();
    host.write_secret("config.toml", &text);

    let (code, out, error) = tokio::task::block_in_place(|| host.output(&["check"]));
    assert_eq!(code, 0, "{out}{error}");
    let proxy_url = format!("http://{}", proxy.addr);
    assert!(out.contains(&proxy_url) && !format!("{out}{error}").contains("s3cret"), "{out}{error}");
    let asked = proxy.asked();
    assert!(!asked.is_empty() && asked.iter().all(|head| head.starts_with(CONNECT)), "{asked:?}");
    // user:s3cret
    assert!(asked[0].contains("Proxy-Authorization: Basic dXNlcjpzM2NyZXQ="), "{asked:?}");

    let daemon = host.start();
    let names = host.drop_files("a", 2);
    host.all_have_results(&names).await;
    assert_sent_once(&engine, &names);
    assert!(proxy.asked()[0].starts_with(CONNECT));
    assert!(!daemon.log().contains("s3cret"));
    daemon.stop().await;

    let file = host.write("one.txt", "one");
    let (code, out, error) =
        tokio::task::block_in_place(|| host.output(&["send", "--pipeline", "test", "--json", &file.to_string_lossy()]));
    assert_eq!(code, 0, "{out}{error}");
    assert!(proxy.asked()[0].starts_with(CONNECT));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_of_the_environment_counts_but_for_what_no_proxy_spares() {
    let engine = engine().await;
    let proxy = Proxy::to(engine.addr()).await;
    let host = Host::new();
    host.configure_with(SERVER, "allow_plaintext = true", "");
    let check = |no_proxy: &str| {
        let mut command = host.command(&["check"]);
        command.env("HTTPS_PROXY", format!("http://{}", proxy.addr)).env("NO_PROXY", no_proxy);
        let output = tokio::task::block_in_place(|| command.output()).unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, out) = check("");
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains(&format!("http://{}", proxy.addr)), "{out}");
    assert!(proxy.asked()[0].starts_with(CONNECT));
    // Spared, the server is looked up by its name, which nobody knows.
    let (code, out) = check("other.example, .invalid");
    assert_ne!(code, Some(0), "{out}");
    assert!(proxy.asked().is_empty(), "{out}");
}
