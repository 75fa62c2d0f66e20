//! The front that serves HTTP on the same port: uploads, and the start, status and end of a task.
//!
//! On the real server this front is a client like any other, with the official SDK in it: it opens, writes and closes
//! pipes by the requests of the protocol, and what it answers is what that SDK makes of them. So it is here: every step
//! is a request that goes through [`requests::ask`], and ordered trouble meets it. It must not know of tasks or pipes.

mod body;
mod upload;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::commands::Answer;
use super::engine::{Engine, Identity};
use super::requests::{self, Lost};
use crate::client::protocol;

/// Where data goes; both do the same.
pub const DATA_PATHS: [&str; 2] = ["/task/data", "/webhook"];

/// Where tasks are started, looked at and stopped.
pub const TASK_PATH: &str = "/task";

/// Pipe slots of a task that is started over HTTP without `threads`.
pub const HTTP_THREADS: u64 = 4;

/// Most pipe slots that can be asked for over HTTP.
const MAX_THREADS: u64 = 64;

/// Largest pipeline in bytes.
const MAX_PIPELINE: usize = 4 * 1024 * 1024;

type Reply = Response<Full<Bytes>>;

/// The connection is to be cut without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is cut as ordered")]
pub(super) struct Cut;

/// Answers one request. The work goes on when the client leaves: what was written is committed all the same.
pub(super) async fn answer(engine: &Arc<Engine>, request: Request<Incoming>) -> Result<Reply, Cut> {
    let (tell, told) = oneshot::channel();
    let engine = Arc::clone(engine);
    tokio::spawn(async move {
        let work = AssertUnwindSafe(route(&engine, request));
        let caught = tokio::select! {
            biased;
            () = engine.wait_down() => return,
            caught = work.catch_unwind() => caught,
        };
        match caught {
            // Nobody may be listening any more.
            Ok(reply) => drop(tell.send(reply)),
            Err(_) => engine.saw_panic(),
        }
    });
    match told.await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(Lost::Never)) => std::future::pending().await,
        Ok(Err(Lost::Cut)) | Err(_) => Err(Cut),
    }
}

async fn route(engine: &Arc<Engine>, request: Request<Incoming>) -> Result<Reply, Lost> {
    let identity = match engine.identify(credential(request.headers())) {
        Ok(identity) => identity,
        Err(message) => return Ok(failure(StatusCode::UNAUTHORIZED, message)),
    };
    let query = request.uri().query().unwrap_or("").to_owned();
    let front = Front { engine, identity, token: value(&query, "token") };
    let path = request.uri().path();
    match (request.method(), path) {
        (&Method::POST, path) if DATA_PATHS.contains(&path) => upload::take(&front, request).await,
        (&Method::POST, TASK_PATH) => start(&front, &query, request).await,
        (&Method::GET | &Method::DELETE, TASK_PATH) if front.token.is_none() => {
            Ok(failure(StatusCode::UNPROCESSABLE_ENTITY, "Field required: token"))
        }
        (&Method::GET, TASK_PATH) => front.plain("rrext_get_task_status", json!({})).await,
        (&Method::DELETE, TASK_PATH) => front.plain("terminate", json!({})).await,
        (_, path) if path == TASK_PATH || DATA_PATHS.contains(&path) => {
            let mut reply = failure(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
            let allowed = if path == TASK_PATH { "POST, GET, DELETE" } else { "POST" };
            reply.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
            Ok(reply)
        }
        _ => Ok(failure(StatusCode::NOT_FOUND, "Not Found")),
    }
}

/// Who asks, and for which task.
struct Front<'a> {
    engine: &'a Arc<Engine>,
    identity: Identity,
    token: Option<String>,
}

impl Front<'_> {
    /// One request of the protocol on the client's behalf.
    async fn ask(&self, command: &str, arguments: Value, payload: Option<Bytes>) -> Result<Answer, Lost> {
        let Value::Object(mut arguments) = arguments else { return Ok(Answer::Empty) };
        if let Some(token) = &self.token {
            arguments.insert("token".into(), token.as_str().into());
        }
        let request = protocol::Request { seq: 0, command: command.to_owned(), arguments, payload };
        requests::ask(self.engine, &self.identity, &request).await
    }

    /// A request whose reply is passed on.
    async fn plain(&self, command: &str, arguments: Value) -> Result<Reply, Lost> {
        Ok(match self.ask(command, arguments, None).await? {
            Answer::Body(body) => success(Some(&body)),
            Answer::Empty | Answer::Silence => success(None),
            Answer::Refused { message, .. } => failure(StatusCode::BAD_REQUEST, &message),
        })
    }
}

async fn start(front: &Front<'_>, query: &str, request: Request<Incoming>) -> Result<Reply, Lost> {
    let threads = match value(query, "threads").map(|threads| threads.parse()) {
        None => HTTP_THREADS,
        Some(Ok(threads)) if (1..=MAX_THREADS).contains(&threads) => threads,
        Some(_) => return Ok(failure(StatusCode::UNPROCESSABLE_ENTITY, "threads must be 1 to 64")),
    };
    let Ok(body) = Limited::new(request.into_body(), MAX_PIPELINE).collect().await else {
        return Ok(failure(StatusCode::PAYLOAD_TOO_LARGE, "the pipeline did not arrive, or is too large"));
    };
    let Ok(Value::Object(mut pipeline)) = serde_json::from_slice(&body.to_bytes()) else {
        return Ok(failure(StatusCode::UNPROCESSABLE_ENTITY, "the pipeline is not a JSON object"));
    };
    // As a pipeline file may have it.
    if let Some(Value::Object(inner)) = pipeline.get_mut("pipeline") {
        pipeline = std::mem::take(inner);
    }
    let arguments = json!({"pipeline": pipeline, "threads": threads, "args": []});
    Ok(match front.ask("execute", arguments, None).await? {
        Answer::Body(body) => success(Some(&json!({"token": body["token"]}))),
        Answer::Empty | Answer::Silence => success(Some(&json!({"token": ""}))),
        Answer::Refused { message, .. } => failure(StatusCode::BAD_REQUEST, &message),
    })
}

/// What stands behind `Bearer`; empty when nothing does.
fn credential(headers: &HeaderMap) -> &str {
    let header = headers.get(AUTHORIZATION).and_then(|header| header.to_str().ok()).unwrap_or("");
    let (scheme, credential) = header.split_once(' ').unwrap_or((header, ""));
    if scheme.eq_ignore_ascii_case("bearer") { credential.trim() } else { "" }
}

/// A value of the query that is not empty.
fn value(query: &str, key: &str) -> Option<String> {
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    pairs.find(|(name, value)| name == key && !value.is_empty()).map(|(_, value)| value.into_owned())
}

fn success(data: Option<&Value>) -> Reply {
    let body = match data {
        Some(data) => json!({"status": "OK", "data": data}),
        None => json!({"status": "OK"}),
    };
    reply(StatusCode::OK, &body)
}

fn failure(status: StatusCode, message: &str) -> Reply {
    reply(status, &json!({"status": "Error", "error": {"message": message}}))
}

fn reply(status: StatusCode, body: &Value) -> Reply {
    let mut reply = Response::new(Full::new(body.to_string().into()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}
