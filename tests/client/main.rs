//! Claims about the client library against the sandbox engine: what the official SDK does, and what it gets wrong.

#![allow(clippy::unwrap_used)]

mod files;
mod limits;
mod pipes;
mod tasks;

use std::future::Future;
use std::time::Duration;

use rocketride_ingest::client::{Client, SecretString};
use rocketride_ingest::sandbox::{DEFAULT_API_KEY, Options, Sandbox};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

/// No test comes near it unless something hangs.
const LONG: Duration = Duration::from_secs(120);

/// Every wait of a test ends.
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future).await.expect("it takes far too long")
}

fn client(sandbox: &Sandbox) -> Client {
    Client::builder().uri(sandbox.uri()).api_key(DEFAULT_API_KEY).build().unwrap()
}

/// An engine with a task of so many slots.
async fn engine(threads: usize) -> (Sandbox, Client, SecretString) {
    let sandbox = Sandbox::start(Options::default()).await.unwrap();
    let token = sandbox.start_task("t", threads).token;
    let client = client(&sandbox);
    (sandbox, client, token.into())
}

fn token_text(token: &SecretString) -> &str {
    token.expose_secret()
}

fn pipeline() -> Value {
    json!({"project_id": "p", "source": "in", "components": [{"id": "in", "provider": "webhook"}]})
}
