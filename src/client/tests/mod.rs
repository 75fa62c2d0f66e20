//! Claims about the client on real sockets: a scripted server on the other end, one script a test.

mod connection;
mod events;
#[cfg(feature = "http")]
mod http;
mod matching;
mod pipe;
mod proxy;
mod reconnect;
#[cfg(feature = "daemon")]
mod secrets;
mod tls;
mod upload;

use std::future::Future;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, accept_async_with_config};

use super::protocol::{Frame, Request, Response};
use super::{ConnectOptions, Connection, ServiceUri};

/// No test comes near it unless something hangs.
const LONG: Duration = Duration::from_secs(60);
/// For waits that are meant to run out.
const SHORT: Duration = Duration::from_millis(50);

/// The server's end of a connection.
struct Peer {
    socket: WebSocketStream<TcpStream>,
}

impl Peer {
    async fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = listener.accept().await.unwrap();
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        Self { socket: accept_async_with_config(stream, Some(config)).await.unwrap() }
    }

    /// The next message that is no ping; none when the client is gone.
    async fn message(&mut self) -> Option<Message> {
        loop {
            match self.socket.next().await? {
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(message) => return Some(message),
            }
        }
    }

    /// The next request; none when the client is gone.
    async fn next(&mut self) -> Option<Request> {
        let frame = match self.message().await? {
            Message::Text(text) => Frame::Text(text.to_string()),
            Message::Binary(bytes) => Frame::Binary(bytes),
            other => panic!("unexpected {other:?}"),
        };
        Some(Request::decode(&frame).unwrap())
    }

    /// The next request, which must be this command or, for pipes, this subcommand.
    async fn expect(&mut self, step: &str) -> Request {
        let request = self.next().await.unwrap_or_else(|| panic!("the client left instead of sending {step}"));
        assert_eq!(step_of(&request), step);
        request
    }

    /// Everything until the client leaves.
    async fn rest(&mut self) -> Vec<String> {
        let mut steps = Vec::new();
        while let Some(request) = self.next().await {
            steps.push(step_of(&request).to_owned());
        }
        steps
    }

    async fn raw(&mut self, message: impl Into<Message>) {
        self.socket.send(message.into()).await.unwrap();
    }

    async fn respond(&mut self, response: Response) {
        self.raw(response.encode()).await;
    }

    async fn reply(&mut self, to: &Request, body: Option<Value>) {
        self.respond(Response { seq: 7, request_seq: to.seq, success: true, body, ..named(to) }).await;
    }

    async fn refuse(&mut self, to: &Request, message: &str) {
        self.respond(Response { request_seq: to.seq, message: Some(message.into()), ..named(to) }).await;
    }

    async fn close(&mut self, code: u16, reason: &'static str) {
        self.socket.close(Some(CloseFrame { code: code.into(), reason: reason.into() })).await.unwrap();
        while self.message().await.is_some() {}
    }

    async fn login(&mut self) {
        let auth = self.expect("auth").await;
        self.reply(&auth, Some(json!({"userId": "u", "userToken": ""}))).await;
    }

    /// Grants a pipe and takes everything up to the close, which is left unanswered.
    async fn take_object(&mut self) -> Taken {
        let open = self.expect("open").await;
        self.reply(&open, Some(json!({"pipe_id": 0}))).await;
        let mut writes = Vec::new();
        loop {
            let request = self.next().await.expect("the client commits");
            assert_eq!(request.arguments["pipe_id"], 0);
            assert_eq!(request.arguments["token"], "task");
            match step_of(&request) {
                "write" => {
                    writes.push(request.payload.clone().unwrap().to_vec());
                    self.reply(&request, None).await;
                }
                "close" => return Taken { open, writes, close: request },
                other => panic!("unexpected {other}"),
            }
        }
    }
}

/// An object as it arrived.
struct Taken {
    open: Request,
    writes: Vec<Vec<u8>>,
    close: Request,
}

fn named(to: &Request) -> Response {
    Response { command: to.command.clone(), ..Response::default() }
}

fn step_of(request: &Request) -> &str {
    request.arguments.get("subcommand").and_then(Value::as_str).unwrap_or(&request.command)
}

async fn listen() -> (TcpListener, ConnectOptions) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = ServiceUri::parse(&listener.local_addr().unwrap().to_string()).unwrap();
    let mut options = ConnectOptions::new(uri, "s3cret".into());
    options.connect_timeout = LONG;
    (listener, options)
}

/// A logged-in connection to a server that follows `script` from there; its handle shows that it came to its end.
async fn connected<F>(
    adjust: impl FnOnce(&mut ConnectOptions),
    script: impl FnOnce(Peer) -> F + Send + 'static,
) -> (Connection, JoinHandle<()>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let (listener, mut options) = listen().await;
    adjust(&mut options);
    let server = tokio::spawn(async move {
        let mut peer = Peer::accept(&listener).await;
        peer.login().await;
        script(peer).await;
    });
    (within(Connection::open(&options)).await.unwrap(), server)
}

/// Every wait of a test ends.
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future).await.expect("it takes far too long")
}

/// The script came to its end without a failed claim.
async fn finished(server: JoinHandle<()>) {
    within(server).await.unwrap();
}

fn running(start_time: f64) -> Value {
    json!({"state": 3, "status": "running", "completed": false, "startTime": start_time})
}
