//! A slow way to the server: pieces fit it, so that no pipe is silent for so long that the server reaps it.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Host, assert_sent_once, engine_with, sha256, wait_for};

/// Bytes per second towards the server.
const RATE: u32 = 50 * 1024;
/// Bytes that are passed on at a time.
const STEP: usize = 2 * 1024;

/// A way to `server` that is slow in one direction; returns its near end.
async fn slow_way(server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(server).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
            tokio::spawn(async move {
                let mut buffer = [0; STEP];
                while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
                    tokio::time::sleep(Duration::from_secs(read as u64) / RATE).await;
                    if to_server.write_all(&buffer[..read]).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    near
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_takes_longer_than_the_servers_patience_arrives_in_pieces_that_do_not() {
    let host = Host::new();
    // In one write the file would be on its way for 16 s.
    let engine = engine_with(|options| options.reap_after = Duration::from_secs(14)).await;
    let near = slow_way(engine.addr()).await;
    host.configure(&format!("http://{near}"), "");
    let content: Vec<u8> = (0..200 * 1024_u32).flat_map(u32::to_le_bytes).collect();
    host.write("in/large.bin", &content);
    let daemon = host.start();
    wait_for("the result", || host.result("large.bin").is_some()).await;
    let result = host.result("large.bin").unwrap();
    assert_eq!((&result["attempts"], &result["sha256"]), (&1.into(), &sha256(&content).into()));
    assert_sent_once(&engine, &["large.bin".into()]);
    assert_eq!(engine.reaped(), 0);
    let sizes: Vec<_> = engine.writes().into_iter().map(|write| write.bytes).collect();
    assert!(sizes.len() >= 3 && sizes[0] <= 64 * 1024, "{sizes:?}");
    daemon.stop().await;
}
