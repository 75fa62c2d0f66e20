//! The way between the daemon and its server, with every trouble that a way can have.
//!
//! A TCP proxy that knows nothing of what it carries. What it does is one [`Mode`], which holds for every connection at
//! once and may change at any moment: those that are open feel it in the middle of a frame.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::task::{JoinHandle, JoinSet};

/// What the way does to what travels on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Everything arrives.
    Pass,
    /// Connections are accepted and stay open, nothing moves, nobody is told.
    Freeze,
    /// What the server says is thrown away; what it is told arrives.
    Deaf,
    /// What the server says arrives byte by byte, with this pause after each.
    Drip(Duration),
    /// Every connection is reset, new ones at once.
    Reset,
    /// After so many more bytes to the server a connection is reset in the middle of them; then as [`Mode::Pass`].
    ResetAfter(usize),
    /// New connections are answered with these words instead of the server's.
    Say(&'static str),
}

/// A running proxy; ends when dropped.
pub struct Wire {
    addr: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    to: SocketAddr,
    mode: watch::Sender<Mode>,
    accepted: AtomicU64,
    /// Bytes to put between those of the server.
    inserts: broadcast::Sender<Vec<u8>>,
}

/// Where bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Toward {
    Server,
    Client,
}

impl Wire {
    /// A way to this server.
    pub async fn to(server: SocketAddr, mode: Mode) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            to: server,
            mode: watch::Sender::new(mode),
            accepted: AtomicU64::new(0),
            inserts: broadcast::Sender::new(16),
        });
        let server = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { addr, shared, server }
    }

    /// The URI of its near end.
    pub fn uri(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Its near end.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on.
    pub fn set(&self, mode: Mode) {
        self.shared.mode.send_replace(mode);
    }

    /// What it does now.
    pub fn mode(&self) -> Mode {
        self.shared.mode.borrow().clone()
    }

    /// Connections that were ever made.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Lets every client hear these bytes, as if from its server. Only while the server says nothing: it knows no frames.
    pub fn insert(&self, bytes: Vec<u8>) {
        // An error means that nobody is connected.
        let _ = self.shared.inserts.send(bytes);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        shared.accepted.fetch_add(1, Ordering::Relaxed);
        connections.spawn(carry(client, Arc::clone(&shared)));
    }
}

async fn carry(mut client: TcpStream, shared: Arc<Shared>) {
    let mode = shared.mode.borrow().clone();
    if let Mode::Say(words) = mode {
        let _ = client.read(&mut [0; 16 * 1024]).await;
        let _ = client.write_all(words.as_bytes()).await;
        return;
    }
    if mode == Mode::Reset {
        let _ = client.set_zero_linger();
        return;
    }
    let Ok(mut server) = TcpStream::connect(shared.to).await else { return };
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let both = tokio::try_join!(
        pump(from_client, to_server, Toward::Server, &shared),
        pump(from_server, to_client, Toward::Client, &shared),
    );
    if both.is_err() {
        let _ = (client.set_zero_linger(), server.set_zero_linger());
    }
}

/// Carries one direction to its end. An error means that the connection is to be reset.
async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, toward: Toward, shared: &Shared) -> io::Result<()> {
    let mut mode = shared.mode.subscribe();
    let mut inserts = shared.inserts.subscribe();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        open(&mut mode).await?;
        let count = tokio::select! {
            count = from.read(&mut buffer) => count?,
            // Looked at above.
            _ = mode.changed() => continue,
            Ok(bytes) = inserts.recv(), if toward == Toward::Client => {
                to.write_all(&bytes).await?;
                continue;
            }
        };
        // Bytes that were on their way stay there, too.
        open(&mut mode).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        let now = mode.borrow().clone();
        match (now, toward) {
            (Mode::Deaf, Toward::Client) => {}
            (Mode::Drip(pause), Toward::Client) => drip(&buffer[..count], &mut to, pause, &mut mode).await?,
            (Mode::ResetAfter(left), Toward::Server) => {
                to.write_all(&buffer[..count.min(left)]).await?;
                if count >= left {
                    shared.mode.send_replace(Mode::Pass);
                    return Err(reset());
                }
                shared.mode.send_replace(Mode::ResetAfter(left - count));
            }
            _ => to.write_all(&buffer[..count]).await?,
        }
    }
}

/// Waits while nothing moves; fails if the connection is to be reset.
async fn open(mode: &mut watch::Receiver<Mode>) -> io::Result<()> {
    let mode = mode.wait_for(|mode| *mode != Mode::Freeze).await;
    if mode.is_ok_and(|mode| *mode != Mode::Reset) { Ok(()) } else { Err(reset()) }
}

/// Byte by byte for as long as the mode lasts, then the rest.
async fn drip(
    bytes: &[u8],
    to: &mut WriteHalf<'_>,
    pause: Duration,
    mode: &mut watch::Receiver<Mode>,
) -> io::Result<()> {
    for (at, byte) in bytes.iter().enumerate() {
        if !matches!(*mode.borrow(), Mode::Drip(_)) {
            return to.write_all(&bytes[at..]).await;
        }
        to.write_all(&[*byte]).await?;
        tokio::time::sleep(pause).await;
    }
    Ok(())
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

/// A whole text frame of a server.
pub fn text_frame(text: &str) -> Vec<u8> {
    frame(0x81, text.as_bytes())
}

/// A whole binary frame of a server.
pub fn binary_frame(bytes: &[u8]) -> Vec<u8> {
    frame(0x82, bytes)
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(first, payload.len() as u64);
    frame.extend(payload);
    frame
}

/// The header alone of a text frame that will have so many bytes.
pub fn text_frame_header(len: u64) -> Vec<u8> {
    header(0x81, len)
}

fn header(first: u8, len: u64) -> Vec<u8> {
    let mut header = vec![first];
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len), _) if len < 126 => header.push(len),
        (_, Ok(len)) => {
            header.push(126);
            header.extend(len.to_be_bytes());
        }
        _ => {
            header.push(127);
            header.extend(len.to_be_bytes());
        }
    }
    header
}
