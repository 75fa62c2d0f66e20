//! The clients that are measured, each in a process of its own, so that its CPU and its allocations are nobody else's.
//!
//! The program runs itself as `sender WAY URI CONCURRENCY FOLDER` and gets a line of JSON.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use rocketride_ingest::client::upload::{Steps, Upload, upload};
use rocketride_ingest::client::{Action, Client, FileSource, ObjectInfo, SecretString, SendOptions};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio_tungstenite::tungstenite::Message;

use crate::Verdict;
use crate::common::{KEY, allocations, answer_of, own_cpu, peer};

/// The word by which the program knows that it is a sender.
pub const SENDER: &str = "sender";
/// Bytes of a write: everybody's default.
pub const CHUNK: usize = 1024 * 1024;

/// What a sender is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// `Client::send_files`.
    SendFiles,
    /// The upload as the daemon makes it, which hashes what it sends; one file after the other.
    Hashing,
    /// A loop over a bare `WebSocket`: read, hash, send, wait for the reply.
    Bare,
    /// The SDK's `send_files`.
    Sdk,
}

/// What sending cost.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Cost {
    pub files: u64,
    pub bytes: u64,
    pub seconds: f64,
    /// User and system time of the sender's process, in seconds.
    pub cpu: f64,
    #[serde(default)]
    pub allocations: u64,
    #[serde(default)]
    pub allocated: u64,
}

/// Lets a sender of this kind send a folder.
pub fn send(way: Way, uri: &str, concurrency: usize, folder: &Path) -> Cost {
    let name = match way {
        Way::SendFiles => "send-files",
        Way::Hashing => "hashing",
        Way::Bare => "bare",
        Way::Sdk => {
            let mut command = peer("send_files.py");
            return serde_json::from_value(answer_of(command.args([uri, KEY]).arg(folder))).unwrap();
        }
    };
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([SENDER, name, uri, &concurrency.to_string()]).arg(folder);
    serde_json::from_value(answer_of(&mut command)).unwrap()
}

/// The sender itself.
pub fn run(args: &[String]) -> Verdict {
    let [way, uri, concurrency, folder] = args else { return Err("sender WAY URI CONCURRENCY FOLDER".into()) };
    let concurrency: usize = concurrency.parse().unwrap();
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (way, uri) = (way.clone(), uri.clone());
    // In a task, as the daemon does and a server would: the thread that waits in `block_on` is another one than those that
    // drive the connection, and every wake-up would have to cross over.
    let sending = runtime.spawn(async move {
        match way.as_str() {
            "bare" => bare(&uri, &files).await,
            "hashing" => hashing(&uri, &files).await,
            _ => send_files(&uri, concurrency, &files).await,
        }
    });
    let cost = runtime.block_on(sending).unwrap();
    println!("{}", serde_json::to_string(&cost).unwrap());
    Ok(())
}

/// A clock for everything that a cost has.
struct Clock {
    began: Instant,
    cpu: Duration,
    allocations: (u64, u64),
}

impl Clock {
    fn start() -> Self {
        Self { allocations: allocations(), cpu: own_cpu(), began: Instant::now() }
    }

    fn stop(&self, files: usize, bytes: u64) -> Cost {
        let (seconds, cpu, now) = (self.began.elapsed(), own_cpu().saturating_sub(self.cpu), allocations());
        Cost {
            files: files as u64,
            bytes,
            seconds: seconds.as_secs_f64(),
            cpu: cpu.as_secs_f64(),
            allocations: now.0 - self.allocations.0,
            allocated: now.1 - self.allocations.1,
        }
    }
}

fn pipeline() -> Value {
    json!({"project_id": "speed", "source": "webhook_1",
           "components": [{"id": "webhook_1", "provider": "webhook", "config": {}}]})
}

async fn connected(uri: &str) -> (Client, SecretString) {
    let client = Client::builder().uri(uri).api_key(KEY.to_owned()).build().unwrap();
    let mut options = rocketride_ingest::client::ExecuteOptions::from(pipeline());
    options.use_existing = true;
    let task = client.use_pipeline(options).await.unwrap();
    (client, task.token)
}

async fn send_files(uri: &str, concurrency: usize, files: &[PathBuf]) -> Cost {
    let (client, token) = connected(uri).await;
    let options = SendOptions { concurrency, ..SendOptions::default() };
    let clock = Clock::start();
    let results = client.send_files_with(files.iter(), &token, options).await.unwrap();
    let cost = clock.stop(files.len(), results.iter().map(|result| result.bytes_sent).sum());
    assert!(results.iter().all(|result| result.action == Action::Complete), "{:?}", results.first());
    cost
}

/// What the daemon does with the bytes.
struct Hash(Sha256);

impl Steps for Hash {
    fn read(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

async fn hashing(uri: &str, files: &[PathBuf]) -> Cost {
    let (client, token) = connected(uri).await;
    let connection = client.connection().await.unwrap();
    let clock = Clock::start();
    let mut bytes = 0;
    for path in files {
        let name = path.file_name().unwrap().to_str().unwrap();
        let what = Upload::new(&token, ObjectInfo::named(name), "application/octet-stream");
        let file = fs::File::open(path).unwrap();
        let size = file.metadata().unwrap().len();
        let mut steps = Hash(Sha256::new());
        let uploaded = upload(&connection, &what, size, FileSource::new(file), &mut steps).await.unwrap();
        let sha256 = hex::encode(steps.0.finalize());
        assert_eq!(uploaded.result.raw()["sandbox"]["sha256"], sha256.as_str());
        bytes += uploaded.bytes_sent;
    }
    clock.stop(files.len(), bytes)
}

/// As little as it takes: no timeouts, no checks, one connection, one file, one chunk at a time.
async fn bare(uri: &str, files: &[PathBuf]) -> Cost {
    let url = format!("{}/task/service", uri.replace("http://", "ws://"));
    let (socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    if let tokio_tungstenite::MaybeTlsStream::Plain(stream) = socket.get_ref() {
        stream.set_nodelay(true).unwrap();
    }
    let mut bare = Bare { socket, seq: 0 };
    bare.text("auth", &json!({"auth": KEY})).await;
    let task = bare.text("execute", &json!({"pipeline": pipeline(), "args": [], "useExisting": true})).await;
    let token = task["body"]["token"].as_str().unwrap().to_owned();
    let clock = Clock::start();
    let mut bytes = 0;
    for path in files {
        let mut file = fs::File::open(path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let mut left = usize::try_from(file.metadata().unwrap().len()).unwrap();
        bytes += left as u64;
        let object = json!({"name": name, "size": left});
        let open =
            json!({"subcommand": "open", "object": object, "mimeType": "application/octet-stream", "token": token});
        let pipe = bare.text("rrext_process", &open).await["body"]["pipe_id"].as_u64().unwrap();
        let mut hasher = Sha256::new();
        while left > 0 {
            let piece = left.min(CHUNK);
            let mut frame = Vec::with_capacity(256 + piece);
            let arguments = json!({"subcommand": "write", "pipe_id": pipe, "token": token});
            frame.extend_from_slice(bare.head("rrext_process", &arguments).as_bytes());
            frame.push(b'\n');
            let head = frame.len();
            frame.resize(head + piece, 0);
            file.read_exact(&mut frame[head..]).unwrap();
            hasher.update(&frame[head..]);
            bare.exchange(Message::binary(frame)).await;
            left -= piece;
        }
        let sha256 = hex::encode(hasher.finalize());
        let result = bare.text("rrext_process", &json!({"subcommand": "close", "pipe_id": pipe, "token": token})).await;
        assert_eq!(result["body"]["sandbox"]["sha256"], sha256.as_str());
    }
    clock.stop(files.len(), bytes)
}

struct Bare {
    socket: tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>,
    seq: u64,
}

impl Bare {
    fn head(&mut self, command: &str, arguments: &Value) -> String {
        self.seq += 1;
        json!({"type": "request", "seq": self.seq, "command": command, "arguments": arguments}).to_string()
    }

    async fn text(&mut self, command: &str, arguments: &Value) -> Value {
        let head = self.head(command, arguments);
        self.exchange(Message::text(head)).await
    }

    async fn exchange(&mut self, message: Message) -> Value {
        self.socket.send(message).await.unwrap();
        loop {
            if let Message::Text(text) = self.socket.next().await.unwrap().unwrap() {
                let reply: Value = serde_json::from_str(&text).unwrap();
                if reply["request_seq"] == self.seq {
                    assert_eq!(reply["success"], true, "{reply}");
                    return reply;
                }
            }
        }
    }
}
