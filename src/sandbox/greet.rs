//! The first words of every connection: HTTP, which is served, and the upgrade, which leads away from it.
//!
//! It must not know what an HTTP request asks for, nor what is said after the upgrade.

use crate::locks::lock;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{HeaderValue, UPGRADE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::connection::Guest;
use super::http;
use super::serve::{Hub, Socket};

/// The path of the service.
pub const SERVICE_PATH: &str = "/task/service";

/// For the head of a request, the first and every later one: an idle connection ends then.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A handshake that was granted, until the socket is free of HTTP.
type Granted = Arc<Mutex<Option<(OnUpgrade, Guest)>>>;

/// Serves HTTP until the peer asks for the other protocol: then that, else nothing.
pub(super) async fn greet(hub: &Arc<Hub>, stream: TcpStream, peer: SocketAddr) -> Option<(Socket, Guest)> {
    let granted = Granted::default();
    let service = service_fn(|request: Request<Incoming>| {
        let (hub, granted) = (Arc::clone(hub), Arc::clone(&granted));
        async move {
            let upgrade = request.headers().get(UPGRADE).map(HeaderValue::as_bytes);
            if upgrade.is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket")) {
                return Ok(shake_hands(&hub, &granted, request, peer));
            }
            http::answer(&hub.engine, request).await
        }
    });
    let http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::select! {
        biased;
        () = hub.engine.wait_down() => return None,
        // An error is a peer that broke off or talks nonsense.
        _ = http => {}
    }
    let (upgrade, guest) = lock(&granted).take()?;
    let parts = upgrade.await.ok()?.downcast::<TokioIo<TcpStream>>().ok()?;
    let max = Some(hub.engine.options.max_message);
    let config = WebSocketConfig::default().max_message_size(max).max_frame_size(max);
    let (stream, read) = (parts.io.into_inner(), parts.read_buf.to_vec());
    Some((Socket::from_partially_read(stream, read, Role::Server, Some(config)).await, guest))
}

/// A wrong path and too many sockets that have not logged in are both forbidden.
fn shake_hands(
    hub: &Hub,
    granted: &Granted,
    mut request: Request<Incoming>,
    peer: SocketAddr,
) -> Response<Full<Bytes>> {
    let refuse = |status| {
        let mut refusal = Response::new(Full::default());
        *refusal.status_mut() = status;
        refusal
    };
    if request.uri().path() != SERVICE_PATH {
        return refuse(StatusCode::FORBIDDEN);
    }
    let Ok(response) = create_response_with_body(&request, Full::default) else {
        return refuse(StatusCode::BAD_REQUEST);
    };
    let Some(guest) = hub.door.enter(peer.ip(), hub.engine.options.max_unauthenticated) else {
        return refuse(StatusCode::FORBIDDEN);
    };
    let upgrade = hyper::upgrade::on(&mut request);
    lock(granted).replace((upgrade, guest));
    response
}
