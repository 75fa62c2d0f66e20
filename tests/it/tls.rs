//! A server behind TLS whose certificate is not trusted: each time the log says why and what to do, and once the
//! certificate or `ca_file` is right, everything goes on without a restart.
//!
//! The certificates in `tls/` were made once with openssl, for a hundred years but for the expired one: `good`, `other`
//! (for another name) and `expired` are signed by `authority`; `stranger` is an authority that signed none of them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rocketride_ingest::sandbox::Sandbox;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::harness::{Daemon, Host, assert_sent_once, engine, wait_for};

const DOWN: &str = "pipeline is down; its files wait, at no attempt, until it is up";

fn pem(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/tls").join(name)
}

/// Ends TLS before an engine, with a certificate that can be changed.
struct Front {
    addr: SocketAddr,
    acceptor: Arc<Mutex<TlsAcceptor>>,
    server: JoinHandle<()>,
}

impl Front {
    async fn of(engine: &Sandbox, certificate: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let acceptor = Arc::new(Mutex::new(acceptor(certificate)));
        let server = tokio::spawn(serve(listener, Arc::clone(&acceptor), engine.addr()));
        Self { addr, acceptor, server }
    }

    /// New connections see this one.
    fn set(&self, certificate: &str) {
        *self.acceptor.lock().unwrap() = acceptor(certificate);
    }

    fn uri(&self) -> String {
        format!("https://localhost:{}", self.addr.port())
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, acceptor: Arc<Mutex<TlsAcceptor>>, to: SocketAddr) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let acceptor = acceptor.lock().unwrap().clone();
        connections.spawn(async move {
            // A client that does not trust us leaves here.
            let Ok(mut client) = acceptor.accept(client).await else { return };
            let mut server = TcpStream::connect(to).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        });
    }
}

fn acceptor(certificate: &str) -> TlsAcceptor {
    let chain = vec![CertificateDer::from_pem_file(pem(&format!("{certificate}.pem"))).unwrap()];
    let key = PrivateKeyDer::from_pem_file(pem(&format!("{certificate}.key"))).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// A host that trusts this authority, and the path of its `ca_file`.
fn configure(host: &Host, uri: &str, authority: &str) -> std::path::PathBuf {
    let file = host.path("ca.pem");
    std::fs::copy(pem(&format!("{authority}.pem")), &file).unwrap();
    host.configure_with(uri, "ca_file = \"ca.pem\"\nconnect_timeout = \"5s\"\n", "");
    file
}

async fn down(daemon: &Daemon, words: &[&str]) {
    wait_for("the pipeline to be down", || !daemon.messages(DOWN).is_empty()).await;
    let reason = daemon.messages(DOWN)[0]["reason"].as_str().unwrap().to_owned();
    for word in words {
        assert!(reason.contains(word), "{word:?} is not in {reason:?}");
    }
}

/// The pipeline is down for this reason until something is put right.
async fn until_it_is_right(certificate: &str, authority: &str, words: &[&str], right: impl FnOnce(&Front, &Path)) {
    let (host, engine) = (Host::new(), engine().await);
    let front = Front::of(&engine, certificate).await;
    let ca_file = configure(&host, &front.uri(), authority);
    let names = host.drop_files("f", 3);
    let daemon = host.start();
    down(&daemon, words).await;
    down(&daemon, &["cannot connect to", &front.uri()["https://".len()..]]).await;
    assert!(names.iter().all(|name| host.result(name).is_none() && host.error(name).is_none()));
    assert_eq!(engine.accepted(), 0, "no key left for a server that is not trusted");

    right(&front, &ca_file);
    host.all_have_results(&names).await;
    host.assert_delivered_uncharged(&names);
    assert_sent_once(&engine, &names);
    assert_eq!(daemon.messages("pipeline is up again").len(), 1);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_another_name_is_refused_with_both_names() {
    let words = ["localhost", "other.example", "use a name of the certificate in the uri"];
    until_it_is_right("other", "authority", &words, |front, _| front.set("good")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_refused_with_what_to_do() {
    let words = ["certificate expired", "the server needs a new certificate"];
    until_it_is_right("expired", "authority", &words, |front, _| front.set("good")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_authority_is_refused_until_it_stands_in_the_ca_file() {
    until_it_is_right("good", "stranger", &["UnknownIssuer", "ca_file"], |_, ca_file| {
        std::fs::copy(pem("authority.pem"), ca_file).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_file_that_goes_missing_is_named_until_it_is_back() {
    let (host, engine) = (Host::new(), engine().await);
    let front = Front::of(&engine, "good").await;
    let ca_file = configure(&host, &front.uri(), "authority");
    std::fs::remove_file(&ca_file).unwrap();
    let names = host.drop_files("f", 3);
    let daemon = host.start();
    down(&daemon, &["ca_file", &ca_file.to_string_lossy(), "o such file"]).await;
    std::fs::copy(pem("authority.pem"), &ca_file).unwrap();
    host.all_have_results(&names).await;
    host.assert_delivered_uncharged(&names);
    assert_sent_once(&engine, &names);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn https_to_a_port_without_tls_and_http_to_one_with_it_are_told_as_that() {
    let engine = engine().await;
    let front = Front::of(&engine, "good").await;
    for (uri, words) in [
        (format!("https://localhost:{}", engine.addr().port()), "no tls is spoken at this port: is it http://"),
        (front.uri().replace("https", "http"), "no http is spoken at this port: is it https://"),
    ] {
        let host = Host::new();
        configure(&host, &uri, "authority");
        let names = host.drop_files("f", 2);
        let daemon = host.start();
        down(&daemon, &[words]).await;
        daemon.stop().await;
        assert!(names.iter().all(|name| host.error(name).is_none()));
        assert_eq!(host.journaled("in", "failed").await, 0);
    }
    assert_eq!(engine.delivered(), 0);
}
