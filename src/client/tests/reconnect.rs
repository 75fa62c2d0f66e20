//! Claims about [`Client`].

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::client::error::Error;
use crate::client::{Backoff, Client, Reconnect};

/// Takes every login, reports the credentials, and breaks each connection when told to.
async fn logins(listener: TcpListener, user_token: &str, seen: tokio::sync::mpsc::Sender<String>) {
    loop {
        let mut peer = Peer::accept(&listener).await;
        let auth = peer.expect("auth").await;
        let credential = auth.arguments["auth"].as_str().unwrap().to_owned();
        seen.send(credential.clone()).await.unwrap();
        if credential == "expired" {
            peer.refuse(&auth, "Invalid API key").await;
            peer.close(1000, "").await;
            continue;
        }
        peer.reply(&auth, Some(json!({"userToken": user_token}))).await;
        tokio::spawn(async move { peer.rest().await });
    }
}

#[tokio::test]
async fn a_reconnect_uses_the_token_that_the_server_gave_unless_the_key_is_a_tasks() {
    for (key, given, expected) in [
        ("s3cret", "renewed", vec!["s3cret", "renewed"]),
        ("s3cret", "", vec!["s3cret", "s3cret"]),
        ("tk_1", "renewed", vec!["tk_1", "tk_1"]),
        ("pk_1", "renewed", vec!["pk_1", "pk_1"]),
        ("s3cret", "expired", vec!["s3cret", "expired", "s3cret"]),
    ] {
        let (listener, mut options) = listen().await;
        options.credential = key.into();
        let (seen, mut credentials) = tokio::sync::mpsc::channel(8);
        let server = tokio::spawn(async move { logins(listener, given, seen).await });
        let client = Client::new(options);
        within(client.connection()).await.unwrap();
        within(client.disconnect()).await;
        within(client.connection()).await.unwrap();
        for credential in expected {
            assert_eq!(within(credentials.recv()).await.unwrap(), credential, "{key} {given}");
        }
        server.abort();
    }
}

#[tokio::test]
async fn concurrent_callers_share_one_attempt_and_one_connection() {
    let (listener, options) = listen().await;
    let (seen, mut credentials) = tokio::sync::mpsc::channel(8);
    let server = tokio::spawn(logins(listener, "", seen));
    let client = Client::new(options);
    let (a, b, c) = within(async { tokio::join!(client.connect(), client.connect(), client.connection()) }).await;
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    assert_eq!(within(credentials.recv()).await.unwrap(), "s3cret");
    client.set_credential("other".into());
    within(client.connect()).await.unwrap();
    assert!(credentials.try_recv().is_err(), "the live connection stays");
    within(client.disconnect()).await;
    within(client.connect()).await.unwrap();
    assert_eq!(within(credentials.recv()).await.unwrap(), "other");
    server.abort();
}

#[tokio::test]
async fn a_server_that_comes_up_meanwhile_is_reached_within_the_attempts_allowed() {
    for (attempts, reached) in [(3, true), (2, false), (0, false)] {
        let (listener, options) = listen().await;
        let server = tokio::spawn(async move {
            let mut refused = 0;
            while refused < 2 {
                drop(listener.accept().await.unwrap());
                refused += 1;
            }
            let mut peer = Peer::accept(&listener).await;
            peer.login().await;
            peer.rest().await;
        });
        let backoff = Backoff { initial: Duration::from_millis(1), max: Duration::from_millis(1) };
        let client = Client::builder().uri(options.uri.to_string()).api_key("k");
        let client = client.reconnect(Reconnect { attempts, backoff }).build().unwrap();
        let outcome = within(client.connection()).await;
        assert_eq!(outcome.is_ok(), reached, "{outcome:?}");
        server.abort();
    }
}

#[tokio::test]
async fn a_failed_attempt_is_shared_and_a_refused_login_is_not_repeated() {
    let (listener, mut options) = listen().await;
    options.credential = "expired".into();
    let attempts = Arc::new(AtomicUsize::new(0));
    let (seen, mut credentials) = tokio::sync::mpsc::channel(8);
    let server = tokio::spawn(logins(listener, "", seen));
    let counter = Arc::clone(&attempts);
    let count = tokio::spawn(async move {
        while credentials.recv().await.is_some() {
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    let client = Client::new(options);
    let (a, b) = within(async { tokio::join!(client.connection(), client.connection()) }).await;
    assert!(matches!(a, Err(Error::Authentication(_))) && matches!(b, Err(Error::Authentication(_))));
    server.abort();
    within(count).await.unwrap();
    assert_eq!(attempts.load(Ordering::SeqCst), 1);
}
