//! Data pipes: the way of one object into a task.
//!
//! The protocol hides failures inside a task behind `success:true`, has no abort, and reuses pipe numbers at once. So:
//! success is only what proves itself, and a [`Pipe`] that failed, timed out or was dropped is never touched again: its
//! number may already be somebody else's. The server reaps it unprocessed, after 60 to 90 s.
//!
//! It must not know where the bytes come from.

use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::Bytes;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use super::connection::{Connection, MAX_QUEUED, Payload, Wait};
use super::error::{Error, Result, ServerError};
use super::object::{Argument, ObjectInfo};
use super::piece::Piece;
use super::protocol::Response;
use super::result::PipelineResult;
use super::task::TaskStatus;

/// The command behind all three steps.
const PROCESS: &str = "rrext_process";
/// A data port that is not up yet refuses the first open; once more after this.
const PORT_RETRY: Duration = Duration::from_millis(250);
/// The server's words for that.
const PORT_NOT_UP: &str = "Connect call failed";
/// An open is granted when a slot is free, however long that takes, but not longer than this.
pub const OPEN_LIMIT: Duration = Duration::from_secs(6 * 60 * 60);
/// How many times the result timeout a close may take while its task runs.
pub const CLOSE_PATIENCE: u32 = 4;
/// So many questions in a row about the task that get no answer at all: then the server does not work, though its socket
/// lives, and nobody waits for it any longer.
const UNANSWERED_LOOKS: u32 = 2;
/// A pipe that was silent for longer, waiting for a limit or for its caller, asks whether its task is still the same
/// before it says anything: another one under the same token may have given the pipe's number to somebody else.
const TASK_RECHECK: Duration = Duration::from_millis(100);

/// What an open needs to know.
#[derive(Debug, Clone)]
pub struct PipeOptions<'a> {
    /// The task.
    pub token: &'a SecretString,
    /// The object.
    pub object: &'a ObjectInfo,
    /// Decides the lane; `lane/NAME` names one.
    pub mime_type: &'a str,
    /// The kind of source that the task must have; usually none.
    pub provider: Option<&'a str>,
    /// `start_time` of the task's status if the caller has it: a restarted task is then noticed at the first look.
    pub task_started: Option<&'a Value>,
}

/// An open pipe. Dropping it abandons the object.
#[derive(Debug)]
pub struct Pipe {
    connection: Connection,
    token: SecretString,
    id: u64,
    name: String,
    object_id: Option<String>,
    task_started: Option<Value>,
    /// When the server last heard of this pipe for certain.
    active: Instant,
    /// False from the start of a step to its success: a cancelled step is a failed one.
    usable: bool,
}

impl Pipe {
    /// Opens a pipe, waiting for a free slot as long as the connection and the task live (at most [`OPEN_LIMIT`]).
    ///
    /// Dropping the future, like giving up, leaves an open behind that the server may grant to nobody.
    pub async fn open(connection: &Connection, options: &PipeOptions<'_>) -> Result<Self> {
        let mut arguments = Arguments::of("open", options.token);
        arguments.object = Some(options.object.argument()?);
        arguments.mime_type = Some(options.mime_type);
        arguments.provider = Some(options.provider.into());

        let mut started = options.task_started.cloned();
        let mut retried = false;
        let reply = loop {
            let not_after = Instant::now() + MAX_QUEUED;
            let request = pin!(connection.exchange(PROCESS, &arguments, Payload::None, Wait::Connection, not_after));
            let watch = Watch {
                connection,
                token: options.token,
                what: "open",
                first_look: connection.request_timeout(),
                long: Duration::MAX,
                limit: OPEN_LIMIT,
                started: &mut started,
            };
            match watch.over(request).await {
                Err(Error::Refused(refusal)) if !retried && refusal.message.contains(PORT_NOT_UP) => {
                    retried = true;
                    tokio::time::sleep(PORT_RETRY).await;
                }
                reply => break named("open", options.token, reply)?,
            }
        };
        let Some(id) = reply.body.as_ref().and_then(|body| body.get("pipe_id")).and_then(Value::as_u64) else {
            return Err(masked("open", "the pipeline refused to open a pipe, and the server hides why"));
        };
        Ok(Self {
            connection: connection.clone(),
            token: options.token.clone(),
            id,
            name: options.object.name.clone(),
            object_id: options.object.object_id.clone(),
            task_started: started,
            active: Instant::now(),
            usable: true,
        })
    }

    /// Sends a piece of the object. Success says only that the pipe may still be alive.
    ///
    /// One request is outstanding at a time: the server would reorder them. A piece that cannot leave before the pipe was
    /// silent for [`MAX_QUEUED`] is not sent.
    pub async fn write(&mut self, piece: Bytes) -> Result<()> {
        self.put(Payload::Bytes(piece)).await
    }

    /// The same without a copy: the memory is lent to the frame, and is the piece's again when this is over.
    pub(super) async fn write_piece(&mut self, piece: &mut Piece) -> Result<()> {
        self.put(Payload::Piece(piece)).await
    }

    async fn put(&mut self, payload: Payload<'_>) -> Result<()> {
        let not_after = self.begin("write").await?;
        let wait = Wait::Timeout(self.connection.request_timeout());
        let arguments = Arguments { pipe_id: Some(self.id), ..Arguments::of("write", &self.token) };
        let reply = self.connection.exchange(PROCESS, &arguments, payload, wait, not_after).await;
        named("write", &self.token, reply)?;
        self.active = Instant::now();
        self.usable = true;
        Ok(())
    }

    /// Commits the object and waits for the result: `result_timeout`, and on as long as the task is seen to run, up to
    /// [`CLOSE_PATIENCE`] times as long. Whether it still runs is asked every request timeout: a task that died answers
    /// nothing.
    ///
    /// There is no way to undo it, nor to close without committing.
    pub async fn close(mut self, result_timeout: Duration) -> Result<PipelineResult> {
        let not_after = self.begin("close").await?;
        let arguments = Arguments { pipe_id: Some(self.id), ..Arguments::of("close", &self.token) };
        let request = self.connection.exchange(PROCESS, &arguments, Payload::None, Wait::Connection, not_after);
        let request = pin!(request);
        let watch = Watch {
            connection: &self.connection,
            token: &self.token,
            what: "close",
            first_look: result_timeout.min(self.connection.request_timeout()),
            long: result_timeout,
            limit: result_timeout.saturating_mul(CLOSE_PATIENCE),
            started: &mut self.task_started,
        };
        let reply = named("close", &self.token, watch.over(request).await)?;
        committed(reply, &self.name, self.object_id.as_deref())
    }

    /// Its number on the task.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether the next step may be tried.
    pub fn is_usable(&self) -> bool {
        self.usable
    }

    /// Starts a step: the moment after which it must not reach the server.
    async fn begin(&mut self, what: &'static str) -> Result<Instant> {
        if !self.usable {
            return Err(Error::Abandoned("the pipe failed before and cannot be used again".into()));
        }
        self.usable = false;
        let silent = self.active.elapsed();
        if silent > MAX_QUEUED {
            return Err(Error::Abandoned(format!(
                "the pipe was silent for {} s before {what} and may have been reaped",
                silent.as_secs()
            )));
        }
        if silent > TASK_RECHECK {
            // Boxed: rare, and its state is large.
            Box::pin(self.same_task(what)).await?;
        }
        Ok(self.active + MAX_QUEUED)
    }

    /// Fails if the task that granted this pipe is known to be gone.
    async fn same_task(&self, what: &'static str) -> Result<()> {
        let Some(started) = &self.task_started else { return Ok(()) };
        match self.connection.task_status(&self.token, self.connection.request_timeout()).await {
            Ok(status) if !status.is_alive() => Err(gone(what, "the task has ended")),
            Ok(status) if status.start_time.as_ref().is_some_and(|now| now != started) => {
                Err(gone(what, "the task was restarted"))
            }
            // A key that may only send data cannot ask.
            Ok(_) | Err(Error::Refused(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// As if nothing had happened on it for so long.
    #[cfg(test)]
    pub(super) fn fall_silent(&mut self, time: Duration) {
        self.active = self.active.checked_sub(time).expect("this host runs for a minute");
    }
}

/// The arguments of a step. It holds the token.
#[derive(Serialize)]
struct Arguments<'a> {
    subcommand: &'static str,
    token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pipe_id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<Argument<'a>>,
    #[serde(rename = "mimeType", skip_serializing_if = "Option::is_none")]
    mime_type: Option<&'a str>,
    /// Given as null where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<Value>,
}

impl<'a> Arguments<'a> {
    fn of(subcommand: &'static str, token: &'a SecretString) -> Self {
        let token = token.expose_secret();
        Self { subcommand, token, pipe_id: None, object: None, mime_type: None, provider: None }
    }
}

/// The result in the reply to a close, if it is one and ours.
fn committed(reply: Response, name: &str, object_id: Option<&str>) -> Result<PipelineResult> {
    let Some(Value::Object(body)) = reply.body else {
        return Err(masked("close", "the pipeline failed on this object, and the server hides why"));
    };
    let result = PipelineResult::new(body);
    if let Some(error) = result.error() {
        return Err(Error::PipeFailed(error));
    }
    // Without a name of ours the server makes one up.
    if !name.is_empty() && result.name() != Some(name) {
        return Err(masked("close", "the result belongs to an object of another name"));
    }
    if object_id.is_some() && result.object_id() != object_id {
        return Err(masked("close", "the result belongs to another object"));
    }
    Ok(result)
}

fn masked(command: &str, message: &str) -> Error {
    Error::PipeFailed(ServerError { command: command.into(), message: message.into(), ..ServerError::default() })
}

/// All three steps are one command: names the step in an error, which does not tell the token.
fn named(step: &'static str, token: &SecretString, reply: Result<Response>) -> Result<Response> {
    reply.map_err(|error| match error.without(token) {
        Error::TimedOut { what: PROCESS, after } => Error::TimedOut { what: step, after },
        Error::NotRunning(refusal) => Error::NotRunning(ServerError { command: step.into(), ..refusal }),
        Error::Refused(refusal) => Error::Refused(ServerError { command: step.into(), ..refusal }),
        other => other,
    })
}

/// Waits for a reply that may take hours, but never comes if the task dies.
struct Watch<'a> {
    connection: &'a Connection,
    token: &'a SecretString,
    what: &'static str,
    /// After this long, and again and again, the task is asked for.
    first_look: Duration,
    /// A wait of this length is worth a word.
    long: Duration,
    limit: Duration,
    /// Start time of the task that has the request, once known.
    started: &'a mut Option<Value>,
}

impl<'a> Watch<'a> {
    async fn over(self, mut request: Pin<&mut (impl Future<Output = Result<Response>> + Send)>) -> Result<Response> {
        let begun = Instant::now();
        let mut unanswered = 0;
        loop {
            let left = self.limit.saturating_sub(begun.elapsed());
            // Where the last question got no answer, the next one does not wait for as long as a result may take.
            let patience = if unanswered > 0 { self.connection.request_timeout() } else { self.limit };
            if let Ok(reply) = tokio::time::timeout(self.first_look.min(patience).min(left), request.as_mut()).await {
                return reply;
            }
            if begun.elapsed() >= self.limit {
                return Err(Error::TimedOut { what: self.what, after: self.limit });
            }
            let status = tokio::select! {
                biased;
                reply = request.as_mut() => return reply,
                status = self.task_status() => status,
            };
            // Any answer is a sign of life.
            unanswered = if matches!(status, Err(Error::TimedOut { .. })) { unanswered + 1 } else { 0 };
            match status {
                Ok(status) if !status.is_alive() => return Err(gone(self.what, "the task has ended")),
                Ok(status) => {
                    if self.started.is_none() {
                        *self.started = status.start_time;
                    } else if status.start_time.is_some() && *self.started != status.start_time {
                        return Err(gone(self.what, "the task was restarted"));
                    }
                }
                Err(Error::NotRunning(refusal)) => {
                    return Err(Error::NotRunning(ServerError { command: self.what.into(), ..refusal }));
                }
                // Pongs may come from a proxy whose server is gone.
                Err(error) if unanswered >= UNANSWERED_LOOKS => return Err(error),
                // Not an answer about the task; the connection's own end answers the request as well.
                Err(error) => tracing::debug!(%error, step = self.what, "the task's status is unknown"),
            }
            if begun.elapsed() >= self.long {
                tracing::warn!(waited_seconds = begun.elapsed().as_secs(), "a result takes long, the task is running");
            }
        }
    }

    /// Boxed: the question is rare and its state large, and every upload holds this future in its own.
    fn task_status(&self) -> Pin<Box<dyn Future<Output = Result<TaskStatus>> + Send + 'a>> {
        Box::pin(self.connection.task_status(self.token, self.connection.request_timeout()))
    }
}

fn gone(step: &str, why: &str) -> Error {
    Error::NotRunning(ServerError { command: step.into(), message: why.into(), ..ServerError::default() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_close_succeeded_only_with_a_result_that_is_ours() {
        for (body, object_id, outcome) in [
            (Some(json!({"name": "a", "objectId": "i"})), Some("i"), None),
            (Some(json!({"name": "a", "objectId": "x"})), None, None),
            (Some(json!({"name": "a", "objectId": "i", "error": null})), Some("i"), None),
            (Some(json!({"name": "a", "objectId": "x"})), Some("i"), Some("another object")),
            (Some(json!({"name": "a"})), Some("i"), Some("another object")),
            (Some(json!({"name": "b", "objectId": "i"})), Some("i"), Some("another name")),
            (Some(json!({"objectId": "i"})), Some("i"), Some("another name")),
            (Some(json!({"name": "a", "objectId": "i", "error": {"message": "boom"}})), Some("i"), Some("boom")),
            (Some(json!("words")), None, Some("hides why")),
            (None, None, Some("hides why")),
        ] {
            let reply = Response { success: true, body: body.clone(), ..Response::default() };
            let error = committed(reply, "a", object_id).err().map(|error| {
                assert!(matches!(error, Error::PipeFailed(_)), "{error:?}");
                error.to_string()
            });
            assert_eq!(error.is_some(), outcome.is_some(), "{body:?}: {error:?}");
            assert!(error.unwrap_or_default().contains(outcome.unwrap_or_default()), "{body:?}");
        }
    }
}
