//! A pipe in the caller's hands: data that comes in pieces.
//!
//! It adds to [`Pipe`] the states that a caller can get wrong, and care for text: the engine decodes every write on its
//! own, so the bytes of a character that a piece ends with wait for the rest of it.

use std::fmt;

use bytes::Bytes;
use secrecy::SecretString;

use super::calls::check_token;
use super::error::{Error, Result};
use super::mime;
use super::object::ObjectInfo;
use super::pipe::{Pipe, PipeOptions};
use super::reconnect::Client;
use super::result::PipelineResult;
use super::text;
use super::upload::MAX_CHUNK_SIZE;

/// Data on its way into a task: [`open`](Self::open), [`write`](Self::write) any number of times, and
/// [`close`](Self::close), which commits.
///
/// A pipe that is dropped, or failed in any step, is never committed; the server forgets it after 60 to 90 s, and until
/// then it takes one of the task's slots. So it does with a pipe that gets nothing for 45 s: the next step fails.
pub struct DataPipe {
    client: Client,
    token: SecretString,
    object: ObjectInfo,
    mime_type: String,
    provider: Option<String>,
    state: State,
    /// The beginning of a character whose end is to come.
    carry: Vec<u8>,
}

enum State {
    New,
    Open(Pipe),
    /// A step failed, or was cancelled in the middle; said in the error of every later step.
    Failed(String),
    Closed,
}

impl DataPipe {
    pub(super) fn new(
        client: Client,
        token: SecretString,
        object: ObjectInfo,
        mime_type: Option<&str>,
        provider: Option<&str>,
    ) -> Self {
        let mime_type = mime_type.unwrap_or_else(|| mime::of(&object.name)).to_owned();
        let provider = provider.map(str::to_owned);
        Self { client, token, object, mime_type, provider, state: State::New, carry: Vec::new() }
    }

    /// Whether it can be written to.
    pub fn is_opened(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// The number of an open pipe on its task. It is somebody else's as soon as this pipe is closed or given up.
    pub fn pipe_id(&self) -> Option<u64> {
        match &self.state {
            State::Open(pipe) => Some(pipe.id()),
            _ => None,
        }
    }

    /// Asks for a slot and waits until one is free, however long that takes while the task lives.
    ///
    /// After a failure it may be tried again.
    pub async fn open(&mut self) -> Result<&mut Self> {
        match &self.state {
            State::New => {}
            State::Open(_) => return Err(misuse("open", "the pipe is open already")),
            State::Failed(why) => return Err(unusable("open", why)),
            State::Closed => return Err(misuse("open", "the pipe was closed; make a new one")),
        }
        check_token(&self.token)?;
        let connection = self.client.connection().await?;
        let options = PipeOptions {
            token: &self.token,
            object: &self.object,
            mime_type: &self.mime_type,
            provider: self.provider.as_deref(),
            task_started: None,
        };
        self.state = State::Open(Pipe::open(&connection, &options).await?);
        Ok(self)
    }

    /// Sends the next piece and waits until the server has it.
    ///
    /// A piece is one write, and in a text lane every write is a paragraph of the result. Pieces over 64 MiB are cut.
    pub async fn write(&mut self, data: impl AsRef<[u8]> + Send) -> Result<()> {
        let data = data.as_ref();
        let mut pipe = self.take("write")?;
        let mut bytes = std::mem::take(&mut self.carry);
        bytes.extend_from_slice(data);
        if text::is_text(&self.mime_type) {
            self.carry = bytes.split_off(bytes.len() - text::unfinished(&bytes));
        }
        let mut bytes = Bytes::from(bytes);
        while !bytes.is_empty() {
            let length = if text::is_text(&self.mime_type) {
                text::cut(&bytes, bytes.len() <= MAX_CHUNK_SIZE, MAX_CHUNK_SIZE)
            } else {
                bytes.len().min(MAX_CHUNK_SIZE)
            };
            let piece = bytes.split_to(length);
            self.outcome(pipe.write(piece).await)?;
        }
        self.state = State::Open(pipe);
        Ok(())
    }

    /// Commits what was written and waits for the result.
    pub async fn close(&mut self) -> Result<PipelineResult> {
        let mut pipe = self.take("close")?;
        let carry = std::mem::take(&mut self.carry);
        if !carry.is_empty() {
            // Not UTF-8 after all; sent as it is.
            self.outcome(pipe.write(carry.into()).await)?;
        }
        let closed = pipe.close(self.client.settings().result_timeout).await;
        let result = self.outcome(closed)?;
        self.state = State::Closed;
        Ok(result)
    }

    /// The pipe for one step. Until the step has succeeded the state says that it was cancelled.
    fn take(&mut self, step: &str) -> Result<Pipe> {
        match std::mem::replace(&mut self.state, State::Failed(format!("its {step} was cancelled"))) {
            State::Open(pipe) => Ok(pipe),
            other => {
                let error = match &other {
                    State::New | State::Open(_) => misuse(step, "the pipe is not open; call open first"),
                    State::Closed => misuse(step, "the pipe is closed already"),
                    State::Failed(why) => unusable(step, why),
                };
                self.state = other;
                Err(error)
            }
        }
    }

    fn outcome<T>(&mut self, outcome: Result<T>) -> Result<T> {
        if let Err(error) = &outcome {
            self.state = State::Failed(error.to_string());
        }
        outcome
    }
}

fn misuse(step: &str, why: &str) -> Error {
    Error::InvalidData(format!("cannot {step}: {why}"))
}

fn unusable(step: &str, why: &str) -> Error {
    Error::Abandoned(format!("cannot {step}: the pipe failed before ({why}) and nothing of it was committed by {step}"))
}

impl fmt::Debug for DataPipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::New => "new",
            State::Open(_) => "open",
            State::Failed(_) => "failed",
            State::Closed => "closed",
        };
        f.debug_struct("DataPipe").field("object", &self.object.name).field("state", &state).finish_non_exhaustive()
    }
}
