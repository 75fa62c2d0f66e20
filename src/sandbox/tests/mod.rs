//! The facts of the protocol on the wire, told with raw frames: no client library is in between.

mod ends;
mod events;
mod http;
mod login;
mod pipes;
mod tasks;
mod trouble;

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::*;

/// Far above anything that happens; a test that waits so long has failed.
const LIMIT: Duration = Duration::from_secs(30);

/// Long enough for an answer that should not come to be on its way.
const NEVER: Duration = Duration::from_millis(150);

struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    seq: u64,
    early: Vec<Value>,
}

impl Client {
    async fn attach(sandbox: &Sandbox) -> Self {
        Self::try_attach(sandbox, SERVICE_PATH).await.unwrap()
    }

    async fn try_attach(sandbox: &Sandbox, path: &str) -> Result<Self, Box<Error>> {
        let (socket, _) = connect_async(format!("ws://{}{path}", sandbox.addr())).await.map_err(Box::new)?;
        Ok(Self { socket, seq: 0, early: Vec::new() })
    }

    async fn connect(sandbox: &Sandbox) -> Self {
        Self::connect_as(sandbox, DEFAULT_API_KEY).await
    }

    async fn connect_as(sandbox: &Sandbox, credential: &str) -> Self {
        let mut client = Self::attach(sandbox).await;
        let reply = client.call("auth", json!({"auth": credential})).await;
        assert_eq!(reply["body"]["userToken"], credential, "{reply}");
        client
    }

    async fn send(&mut self, command: &str, arguments: Value) -> u64 {
        self.seq += 1;
        let request = json!({"type": "request", "seq": self.seq, "command": command, "arguments": arguments});
        self.socket.send(Message::text(request.to_string())).await.unwrap();
        self.seq
    }

    async fn send_write(&mut self, token: &str, pipe: u64, data: &[u8]) -> u64 {
        self.seq += 1;
        let arguments = json!({"subcommand": "write", "pipe_id": pipe, "token": token});
        let header =
            json!({"type": "request", "seq": self.seq, "command": "rrext_process", "arguments": arguments}).to_string();
        self.socket.send(Message::binary([header.as_bytes(), b"\n", data].concat())).await.unwrap();
        self.seq
    }

    /// The next reply or close frame.
    async fn next(&mut self) -> Result<Value, Option<(u16, String)>> {
        loop {
            match timeout(LIMIT, self.socket.next()).await.expect("the server says something") {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(Some(frame)))) => {
                    return Err(Some((frame.code.into(), frame.reason.to_string())));
                }
                Some(Ok(Message::Ping(_))) => {}
                Some(Ok(other)) => panic!("unexpected {other:?}"),
                Some(Err(_)) | None => return Err(None),
            }
        }
    }

    async fn reply_to(&mut self, seq: u64) -> Value {
        if let Some(at) = self.early.iter().position(|reply| reply["request_seq"] == seq) {
            return self.early.swap_remove(at);
        }
        loop {
            let reply = self.next().await.expect("a reply before the end");
            if reply["request_seq"] == seq {
                return reply;
            }
            self.early.push(reply);
        }
    }

    async fn is_silent(&mut self) -> bool {
        timeout(NEVER, self.next()).await.is_err()
    }

    async fn call(&mut self, command: &str, arguments: Value) -> Value {
        let seq = self.send(command, arguments).await;
        self.reply_to(seq).await
    }

    async fn send_open(&mut self, token: &str, name: &str) -> u64 {
        let object = json!({"name": name, "size": 5});
        self.send(
            "rrext_process",
            json!({"subcommand": "open", "object": object, "mimeType": "x/y", "provider": null, "token": token}),
        )
        .await
    }

    async fn open(&mut self, token: &str, name: &str) -> Value {
        let seq = self.send_open(token, name).await;
        self.reply_to(seq).await
    }

    async fn write(&mut self, token: &str, pipe: u64, data: &[u8]) -> Value {
        let seq = self.send_write(token, pipe, data).await;
        self.reply_to(seq).await
    }

    async fn close(&mut self, token: &str, pipe: u64) -> Value {
        self.call("rrext_process", json!({"subcommand": "close", "pipe_id": pipe, "token": token})).await
    }

    /// The refusal of a login, and the close that follows it.
    async fn refusal(&mut self) -> String {
        let reply = self.next().await.unwrap();
        assert_eq!(reply["success"], false, "{reply}");
        assert_eq!(self.next().await, Err(Some((1000, String::new()))));
        reply["message"].as_str().unwrap().to_owned()
    }
}

fn is_masked(reply: &Value) -> bool {
    reply["success"] == true && reply.get("body").is_none()
}

async fn start() -> Sandbox {
    Sandbox::start(Options::default()).await.unwrap()
}

async fn start_with(change: impl FnOnce(&mut Options)) -> Sandbox {
    let mut options = Options::default();
    change(&mut options);
    Sandbox::start(options).await.unwrap()
}

fn pipeline(project: &str) -> Value {
    json!({"project_id": project, "source": "w", "components": [{"id": "w", "provider": "webhook"}]})
}
