//! The sockets: bound, accepted, bounded, and who is calling.
//!
//! A socket that cannot be had is no reason to stop: files matter more. It is said, and tried again. It must not know what
//! a request means.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::fs::Mode;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::guard::Caller;
use crate::blocking::joined;
use crate::config::Admin;
use crate::show::Shown;

/// Who may open the admin socket has full control: its owner and group.
const MODE: Mode = Mode::from_raw_mode(0o660);
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// Connections of one socket at a time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 64;
/// How long a caller may take to send the head of a request, and an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest that a connection from elsewhere lives: whoever polls for days reconnects.
const REMOTE_TIMEOUT: Duration = Duration::from_secs(600);
/// And one of this host: an audit of large folders takes its time.
const LOCAL_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// How often a socket is tried that could not be had.
const RETRY: Duration = Duration::from_secs(10);
/// How long a socket's other owner may take to show that it is alive.
const PROBE: Duration = Duration::from_secs(1);
/// Pause after a failed accept: the cause, too many open files, does not go at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves both sockets for as long as it is polled. A panic of a connection's task goes on here.
pub async fn serve(admin: &Admin, router: Router) {
    let tcp = async {
        match admin.listen {
            Some(address) => serve_tcp(address, router.clone()).await,
            None => std::future::pending().await,
        }
    };
    tokio::join!(serve_unix(&admin.socket, router.clone()), tcp);
}

async fn serve_unix(path: &Path, router: Router) {
    let listener = persist(&Shown(path).to_string(), || bind_unix(path)).await;
    tracing::info!(path = %Shown(path), "commands are taken on the admin socket");
    accept(router, || async {
        let (stream, _) = listener.accept().await?;
        let peer = stream.peer_cred()?;
        Ok((stream, Caller::Local { uid: peer.uid(), pid: peer.pid() }))
    })
    .await;
}

async fn serve_tcp(address: SocketAddr, router: Router) {
    let listener = persist(&address.to_string(), || TcpListener::bind(address)).await;
    // Said with the port that was chosen, should 0 have been asked for.
    let address = listener.local_addr().unwrap_or(address);
    tracing::info!(%address, "metrics, health and the status page are served");
    accept(router, || async {
        let (stream, peer) = listener.accept().await?;
        Ok((stream, Caller::Remote(peer)))
    })
    .await;
}

/// Tries for as long as it takes; says once for each reason why it does not work.
async fn persist<T, F: Future<Output = io::Result<T>>>(what: &str, bind: impl Fn() -> F) -> T {
    let mut said = None;
    loop {
        match bind().await {
            Ok(bound) => return bound,
            Err(error) => {
                let error = error.to_string();
                if said.as_ref() != Some(&error) {
                    tracing::warn!(socket = what, %error, "cannot listen for operators; trying again, files go on");
                }
                said = Some(error);
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Makes the socket, in place of one that a dead daemon left.
async fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if let Ok(metadata) = std::fs::symlink_metadata(path) {
        if !metadata.file_type().is_socket() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something else than a socket stands there"));
        }
        // Only a refusal says that nobody is there.
        match tokio::time::timeout(PROBE, UnixStream::connect(path)).await {
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            _ => {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "another daemon answers there; set admin.socket"));
            }
        }
        std::fs::remove_file(path)?;
    }
    let socket = place(path)?;
    // The umask took from it what it takes; nobody can connect before it listens.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE.as_raw_mode()))?;
    net::listen(&socket, BACKLOG)?;
    UnixListener::from_std(socket.into())
}

/// Makes a socket that nobody but its owner and group may ever open, whatever the umask: Linux gives the file the mode that
/// the socket has when it is bound.
fn place(path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::fs::fchmod(&socket, MODE)?;
    net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Accepts and serves for as long as it is polled.
async fn accept<S, F>(router: Router, next: impl Fn() -> F)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = io::Result<(S, Caller)>>,
{
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // The semaphore is never closed.
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let accepted = loop {
            tokio::select! {
                accepted = next() => break accepted,
                Some(ended) = connections.join_next() => joined(ended).await,
            }
        };
        match accepted {
            Ok((stream, caller)) => {
                let service = TowerToHyperService::new(router.clone().layer(Extension(caller)));
                connections.spawn(async move {
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(HEAD_TIMEOUT)
                        .serve_connection(TokioIo::new(stream), service);
                    // A caller that left or sent nonsense is no concern of ours.
                    let longest = match caller {
                        Caller::Local { .. } => LOCAL_TIMEOUT,
                        Caller::Remote(_) => REMOTE_TIMEOUT,
                    };
                    let _ = tokio::time::timeout(longest, connection).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept an operator's connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_admin_socket_was_never_open_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let path = dir.path().join("made.sock");
        let socket = place(&path).unwrap();
        // Whatever the umask leaves of it: without the mode of the socket the file would begin with 0777.
        assert_eq!(mode(&path) & !0o660, 0, "{:o}", mode(&path));
        assert!(UnixStream::connect(&path).await.is_err(), "nobody gets in before it has its mode");
        drop(socket);

        let listener = bind_unix(&path).await.unwrap();
        assert_eq!(mode(&path), 0o660);
        let (connected, accepted) = tokio::join!(UnixStream::connect(&path), listener.accept());
        assert!(connected.is_ok() && accepted.is_ok());
        assert!(bind_unix(&path).await.is_err(), "another daemon answers there");
    }
}
