//! From options to an upgraded `WebSocket`: TCP, perhaps a proxy, TLS, HTTP upgrade.
//!
//! It knows nothing of the messages that will travel. TLS uses rustls with the `ring` provider, passed explicitly: a
//! process-wide default is the application's to choose. The TCP stream is metered beneath TLS, so that silence means no
//! byte at all: a large message on a slow link is not silence.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, http::StatusCode};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, client_async_tls_with_config};

use super::error::{Error, Result};
use super::options::ConnectOptions;

/// Largest frame this side sends. The server refuses messages over 262,144,000 bytes, and one just below costs it all
/// pipes of the task (it forwards the message with a longer header).
pub(super) const MAX_OUTGOING: usize = 192 * 1024 * 1024;
/// Bytes that are read at a time: replies are small, and the whole of the buffer is cleared for each read.
const READ_BUFFER: usize = 16 * 1024;
/// Frames are handed to the socket from a buffer of about this size.
const WRITE_BUFFER: usize = 128 * 1024;
/// What control frames may add to a buffer that holds one frame.
const CONTROL_ROOM: usize = 64 * 1024;

/// The socket of a connection.
pub(super) type Socket = WebSocketStream<MaybeTlsStream<Metered>>;

/// Connects within `connect_timeout`.
pub(super) async fn dial(options: &ConnectOptions) -> Result<(Socket, Arc<Meter>)> {
    options.check()?;
    let failed = |message: String| Error::Connect { uri: options.uri.to_string(), message };
    let stage = AtomicU8::new(0);
    match tokio::time::timeout(options.connect_timeout, attempt(options, &stage)).await {
        Ok(Ok(connected)) => Ok(connected),
        Ok(Err(message)) => Err(failed(message)),
        Err(_) => {
            let stage = STAGES[usize::from(stage.load(Ordering::Relaxed))];
            Err(failed(format!("no connection within {} s: {stage}", options.connect_timeout.as_secs_f32())))
        }
    }
}

/// What was not over when the time was, in the order of [`attempt`].
const STAGES: [&str; 4] = [
    "the name was not found or the host did not answer; is the uri right, and does a firewall drop the packets?",
    "the proxy did not open the way",
    "the host accepted the connection, but did not answer the tls handshake or the upgrade to a websocket",
    "the host accepted the connection, but did not answer the upgrade to a websocket",
];

async fn attempt(options: &ConnectOptions, stage: &AtomicU8) -> Result<(Socket, Arc<Meter>), String> {
    let connector = if options.uri.is_plaintext() {
        Connector::Plain
    } else {
        let ca_file = options.ca_file.clone();
        // Dozens of files are read for the system's roots.
        let tls = tokio::task::spawn_blocking(move || tls_config(ca_file.as_deref()));
        Connector::Rustls(tls.await.map_err(|_| "loading the root certificates panicked".to_owned())??)
    };
    let stream = match &options.proxy {
        None => {
            let host = options.uri.host();
            TcpStream::connect((host.as_str(), options.uri.port())).await.map_err(|error| error.to_string())?
        }
        Some(proxy) => {
            TcpStream::connect((proxy.host(), proxy.port())).await.map_err(|error| format!("proxy {proxy}: {error}"))?
        }
    };
    // Requests are small and wait for their replies.
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    // What has not left the kernel when this side is done with the socket must not arrive: a late write lands in the
    // object of whoever got that pipe's number next. So the end is a reset, and no FIN behind the queued bytes. Nothing
    // is lost by it: only what was answered counts.
    stream.set_zero_linger().map_err(|error| error.to_string())?;
    let meter = Arc::new(Meter::new());
    let mut stream = Metered { stream, meter: Arc::clone(&meter) };
    if let Some(proxy) = &options.proxy {
        stage.store(1, Ordering::Relaxed);
        proxy.tunnel(&mut stream, &options.uri).await?;
    }
    stage.store(if options.uri.is_plaintext() { 3 } else { 2 }, Ordering::Relaxed);

    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(WRITE_BUFFER + MAX_OUTGOING + CONTROL_ROOM)
        .max_message_size(Some(options.max_message))
        .max_frame_size(Some(options.max_message));
    let url = options.uri.websocket_url();
    match client_async_tls_with_config(url, stream, Some(config), Some(connector)).await {
        Ok((socket, _)) => Ok((socket, meter)),
        Err(error) => Err(refused_upgrade(&error)),
    }
}

/// The words for a failed handshake.
fn refused_upgrade(error: &WsError) -> String {
    match error {
        WsError::Http(response) if response.status() == StatusCode::FORBIDDEN => {
            "the server answered 403 to the upgrade: too many connections of this address that are not logged in, \
             or no RocketRide server behind this uri"
                .into()
        }
        WsError::Http(response) => {
            format!("the server answered HTTP {} instead of upgrading to a websocket", response.status().as_u16())
        }
        error => with_hint(error.to_string()),
    }
}

/// What rustls and the websocket library say, and what to do about it. Matched on words: by the time they get here, some
/// errors are nothing else any more.
const HINTS: [(&str, &str); 8] = [
    ("UnknownIssuer", "a private authority belongs into ca_file"),
    ("certificate expired", "the server needs a new certificate, or the clock of this host is wrong"),
    ("certificate not valid yet", "the clock of this host is wrong, or the server's certificate is for later"),
    (
        "certificate not valid for name",
        "use a name of the certificate in the uri, or give the server one for this name",
    ),
    ("InvalidContentType", "no tls is spoken at this port: is it http:// instead of https://, or another port?"),
    ("tls handshake eof", "the server hung up in the tls handshake; its own log may tell why"),
    ("Handshake not finished", "the server hung up instead of answering; is it https:// instead of http://?"),
    ("httparse error", "no http is spoken at this port: is it https:// instead of http://, or another port?"),
];

/// The words for a failed connection, with a hint if there is one.
pub(super) fn with_hint(words: String) -> String {
    match HINTS.iter().find(|(cause, _)| words.contains(cause)) {
        Some((_, hint)) => format!("{words} ({hint})"),
        None => words,
    }
}

/// The system's roots and those of `ca_file`.
pub(super) fn tls_config(ca_file: Option<&std::path::Path>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(system.certs);
    if let Some(path) = ca_file {
        let unreadable = |error: &dyn std::fmt::Display| format!("ca_file {}: {error}", path.display());
        let before = roots.len();
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unreadable(&error))? {
            let certificate = certificate.map_err(|error| unreadable(&error))?;
            roots.add(certificate).map_err(|error| unreadable(&error))?;
        }
        if roots.len() == before {
            return Err(unreadable(&"it holds no certificate"));
        }
    }
    if roots.is_empty() {
        return Err(format!("no root certificates on this host ({:?})", system.errors));
    }
    trusting(roots).map(Arc::new)
}

/// TLS with these roots and none else.
pub(super) fn trusting(roots: RootCertStore) -> Result<ClientConfig, String> {
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// When bytes last moved.
#[derive(Debug)]
pub(super) struct Meter {
    start: Instant,
    /// Milliseconds from `start` to the last received byte.
    received: AtomicU64,
    /// 1 + milliseconds from `start` to the first refused write since the last accepted one; 0: nothing is held up.
    held_up: AtomicU64,
}

impl Meter {
    fn new() -> Self {
        Self { start: Instant::now(), received: AtomicU64::new(0), held_up: AtomicU64::new(0) }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// For how long nothing was received.
    pub(super) fn silence(&self) -> Duration {
        Duration::from_millis(self.now().saturating_sub(self.received.load(Ordering::Relaxed)))
    }

    /// For how long the socket has taken nothing of what is to be sent.
    pub(super) fn stall(&self) -> Duration {
        match self.held_up.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis((self.now() + 1).saturating_sub(since)),
        }
    }

    fn wrote<T>(&self, poll: &Poll<T>) {
        if poll.is_ready() {
            self.held_up.store(0, Ordering::Relaxed);
        } else {
            let _ = self.held_up.compare_exchange(0, self.now() + 1, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

/// A TCP stream that notes when bytes move.
#[derive(Debug)]
pub(super) struct Metered {
    stream: TcpStream,
    meter: Arc<Meter>,
}

impl AsyncRead for Metered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.meter.received.store(self.meter.now(), Ordering::Relaxed);
        }
        poll
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.meter.wrote(&poll);
        poll
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.meter.wrote(&poll);
        poll
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
