//! Uploads and tasks by plain HTTP requests, for programs where only HTTP passes.
//!
//! Built from the pieces of a [`Client`](super::Client): the same address, credential, roots, proxy and rule about
//! plaintext, the same results and errors. A file is streamed, never held. Nothing is sent twice, no redirect is followed,
//! and every request has a connection of its own: one that was kept may be dead, and a file cannot be taken back.
//!
//! It must not be used by the daemon: a request carries no `objectId`, so that a repeat after an unknown outcome
//! duplicates where on the other side it replaces.

mod body;
mod exchange;
mod name;
mod reply;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Method;
use reqwest::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use secrecy::SecretString;
use serde_json::Value;
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::OnceCell;

use super::builder::ClientBuilder;
use super::calls::check_token;
use super::error::{Error, Result};
use super::mime;
use super::options::ConnectOptions;
use super::pipeline::unwrap_pipeline;
use super::progress::{Progress, UploadEvent};
use super::result::PipelineResult;
use super::task::{START_TIMEOUT, TaskInfo, TaskStatus};
use super::text;
use super::upload::RESULT_TIMEOUT;
use super::upload_result::{Action, UploadResult};
use body::{FileBody, Gauge, Told, changed};

/// Where tasks are started, looked at and stopped.
const TASK_PATH: &str = "/task";
/// A text body up to this size arrives in one piece on any network: with its head it fits into one packet.
pub const TEXT_IN_ONE_PIECE: u64 = 512;

/// Where data goes; a server does the same with both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DataPath {
    /// `/task/data`
    #[default]
    TaskData,
    /// `/webhook`, where a gateway lets only that pass.
    Webhook,
}

impl DataPath {
    /// The path in the URL.
    pub fn path(self) -> &'static str {
        match self {
            Self::TaskData => "/task/data",
            Self::Webhook => "/webhook",
        }
    }
}

/// How to send a file; the defaults take everything from its path.
#[derive(Debug, Clone, Default)]
pub struct HttpOptions {
    /// The object's name; none: the file's.
    pub name: Option<String>,
    /// Decides the lane; none: by the name. The server ignores parameters and capitals.
    pub mime_type: Option<String>,
    /// Who is told of every step. `write` means handed to the connection: HTTP acknowledges nothing in between.
    pub progress: Option<Progress>,
}

/// A server behind HTTP. Clones are cheap and share the TLS setup. `Debug` shows no credential.
#[derive(Clone)]
pub struct HttpClient {
    inner: Arc<Inner>,
    data_path: DataPath,
}

struct Inner {
    options: ConnectOptions,
    /// See [`Pipe::close`](super::Pipe::close): then the task is asked for, again and again.
    result_timeout: Duration,
    http: OnceCell<reqwest::Client>,
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient")
            .field("options", &self.inner.options)
            .field("data_path", &self.data_path)
            .finish_non_exhaustive()
    }
}

impl HttpClient {
    /// The builder of all clients; [`ClientBuilder::build_http`] ends it.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// With the default patience for results. [`Error::InvalidData`] for options that must not be used.
    pub fn new(options: ConnectOptions) -> Result<Self> {
        options.check()?;
        Ok(Self::with_result_timeout(options, RESULT_TIMEOUT))
    }

    pub(super) fn with_result_timeout(options: ConnectOptions, result_timeout: Duration) -> Self {
        let inner = Inner { options, result_timeout, http: OnceCell::new() };
        Self { inner: Arc::new(inner), data_path: DataPath::default() }
    }

    /// The same by another path.
    #[must_use]
    pub fn data_path(mut self, data_path: DataPath) -> Self {
        self.data_path = data_path;
        self
    }

    /// Sends exactly `size` bytes of `source`, which must end there, and waits for what the pipeline makes of them.
    ///
    /// A source that is longer or shorter breaks the request off: [`Error::Abandoned`]. The request announces the length,
    /// so that the server knows; but the measured server closes its pipe all the same, and so **commits the beginning**,
    /// as it does when the connection is lost or this future is dropped in the middle. Nothing undoes that. It is never
    /// reported as complete here.
    ///
    /// The name arrives with characters beyond Latin-1, and `"`, `\`, `;`, replaced by `_` on a server that knows no
    /// `filename*`. The server cuts `text/*` between bytes, wherever the network did: text with characters of several
    /// bytes may lose pieces without a word. Send such text as another type, or by a [`Client`](super::Client).
    ///
    /// It waits for a slot and for the result as [`Pipe`](super::Pipe) does: when nothing moves, the task is asked for.
    pub async fn upload<R>(
        &self,
        token: &SecretString,
        name: &str,
        mime_type: &str,
        size: u64,
        source: R,
    ) -> Result<PipelineResult>
    where
        R: AsyncRead + Unpin + Send + 'static,
    {
        let gauge = Arc::new(Gauge::default());
        self.stream(Object { token, name, mime_type, size }, source, gauge, Box::new(|_, _| {})).await
    }

    /// Sends a file; see [`upload`](Self::upload). A failure is in the outcome, with the error for programs in
    /// [`UploadResult::failure`]: [`Error::FileNotFound`] for a file that is not there.
    pub async fn upload_file(
        &self,
        token: &SecretString,
        path: impl AsRef<Path>,
        options: HttpOptions,
    ) -> UploadResult {
        let path = path.as_ref();
        let begun = Instant::now();
        let gauge = Arc::new(Gauge::default());
        let mut file_size = 0;
        let outcome = self.attempt(token, path, &options, &gauge, &mut file_size).await;
        let (result, failure) = match outcome {
            Ok(result) => (Some(result), None),
            // The body knows the file by its name alone.
            Err(Error::Read { message, .. }) => (None, Some(Error::Read { path: path.to_owned(), message })),
            Err(error) => (None, Some(error)),
        };
        let result = UploadResult {
            action: if failure.is_none() { Action::Complete } else { Action::Error },
            filepath: path.to_string_lossy().into_owned(),
            bytes_sent: gauge.sent(),
            file_size,
            upload_time: begun.elapsed().as_secs_f64(),
            result,
            error: failure.as_ref().map(Error::to_string),
            failure,
            invalid_utf8: false,
        };
        if let Some(progress) = &options.progress {
            progress.tell(UploadEvent::Done(Arc::new(result.clone())));
        }
        result
    }

    async fn attempt(
        &self,
        token: &SecretString,
        path: &Path,
        options: &HttpOptions,
        gauge: &Arc<Gauge>,
        file_size: &mut u64,
    ) -> Result<PipelineResult> {
        let opened = async {
            let metadata = tokio::fs::metadata(path).await?;
            // Opening a named pipe would wait for its writer.
            if !metadata.is_file() {
                return Ok::<_, std::io::Error>(None);
            }
            let file = File::open(path).await?;
            let metadata = file.metadata().await?;
            Ok(metadata.is_file().then_some((file, metadata.len())))
        };
        let (file, size) = match opened.await {
            Ok(Some(opened)) => opened,
            Ok(None) => return Err(Error::InvalidData(format!("not a file: {}", path.display()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::FileNotFound(path.to_owned()));
            }
            Err(error) => return Err(Error::Read { path: path.to_owned(), message: error.to_string() }),
        };
        *file_size = size;
        let own = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        let mime_type = options.mime_type.as_deref().unwrap_or_else(|| mime::of(&own));
        let name = options.name.as_deref().unwrap_or(&own);
        let filepath = path.to_string_lossy().into_owned();
        let told: Told = match options.progress.clone() {
            None => Box::new(|_, _| {}),
            Some(progress) => {
                progress.tell(UploadEvent::Open { filepath: filepath.clone(), file_size: size });
                Box::new(move |bytes_sent, last| {
                    progress.tell(UploadEvent::Write { filepath: filepath.clone(), bytes_sent, file_size: size });
                    if last {
                        progress.tell(UploadEvent::Close { filepath: filepath.clone(), bytes_sent, file_size: size });
                    }
                })
            }
        };
        self.stream(Object { token, name, mime_type, size }, file, Arc::clone(gauge), told).await
    }

    async fn stream<R>(
        &self,
        object: Object<'_>,
        mut source: R,
        gauge: Arc<Gauge>,
        told: Told,
    ) -> Result<PipelineResult>
    where
        R: AsyncRead + Unpin + Send + 'static,
    {
        let Object { token, name, mime_type, size } = object;
        check_token(token)?;
        if name.is_empty() {
            return Err(Error::InvalidData("an object that is sent over HTTP needs a name".into()));
        }
        let disposition = HeaderValue::from_bytes(&name::disposition(name))
            .map_err(|_| Error::InvalidData(format!("the name {name:?} cannot be part of an HTTP header")))?;
        let content_type = HeaderValue::from_str(mime_type)
            .ok()
            .filter(|_| !mime_type.trim().to_ascii_lowercase().starts_with("multipart/"))
            .ok_or_else(|| {
                Error::InvalidData(format!("the MIME type {mime_type:?} cannot be that of a single file"))
            })?;
        if text::is_text(mime_type) && size > TEXT_IN_ONE_PIECE {
            tracing::debug!(
                size,
                "text over HTTP is cut between bytes by the server; other than ASCII may lose pieces"
            );
        }
        // The body of an empty request is never looked at.
        if size == 0 && self.first_byte(&mut source, name).await? {
            return Err(changed("longer"));
        }
        let body = FileBody::new(source, name, size, Arc::clone(&gauge), told);
        let request = self
            .request(Method::POST, self.data_path.path(), Some(token), &[])
            .await?
            .header(CONTENT_DISPOSITION, disposition)
            .header(CONTENT_TYPE, content_type)
            .header(CONTENT_LENGTH, size)
            .body(reqwest::Body::wrap(body));
        let reply = self.watched(token, &gauge, self.answer(request)).await;
        // Whatever was answered: the file was not sent as it is.
        if let Some(failure) = gauge.failure() {
            return Err(failure);
        }
        let result = self.telling(Some(token), reply.and_then(|reply| reply.uploaded([name, &name::plain(name)])))?;
        if !gauge.is_finished() {
            return Err(Error::Protocol("the server reported a result before it had the whole file".into()));
        }
        Ok(result)
    }

    async fn first_byte<R: AsyncRead + Unpin>(&self, source: &mut R, name: &str) -> Result<bool> {
        let limit = self.inner.options.silence_timeout;
        match tokio::time::timeout(limit, source.read(&mut [0])).await {
            Ok(Ok(read)) => Ok(read > 0),
            Ok(Err(error)) => Err(Error::Read { path: name.into(), message: error.to_string() }),
            Err(_) => Err(no_bytes(limit)),
        }
    }

    /// The outcome, in whose error the server quotes neither the credential nor the token of the request.
    fn telling<T>(&self, token: Option<&SecretString>, outcome: Result<T>) -> Result<T> {
        let secrets = [Some(&self.inner.options.credential), token];
        outcome.map_err(|error| secrets.into_iter().flatten().fold(error, Error::without))
    }

    /// Starts a pipeline, bare or wrapped in `{"pipeline": ...}`, with so many pipes (none: the server's 4), and waits until
    /// it runs. One that runs already is refused by the server. Of the [`TaskInfo`] only the token is known over HTTP.
    pub async fn start_task(&self, pipeline: Value, threads: Option<u32>) -> Result<TaskInfo> {
        let pipeline = unwrap_pipeline(pipeline);
        let pipeline = pipeline.map_err(|why| Error::InvalidData(format!("not a pipeline: {why}")))?;
        if threads == Some(0) {
            return Err(Error::InvalidData("a pipeline with 0 threads would never grant a pipe".into()));
        }
        let threads = threads.map(|threads| ("threads", threads.to_string()));
        let request = self
            .request(Method::POST, TASK_PATH, None, threads.as_slice())
            .await?
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Value::Object(pipeline).to_string());
        let reply = self.within(START_TIMEOUT, "execute", request).await;
        let data = self.telling(None, reply.and_then(|reply| reply.object("execute")))?;
        let token = data.get("token").and_then(Value::as_str).filter(|token| !token.is_empty());
        Ok(TaskInfo {
            token: token.ok_or_else(|| Error::Protocol("the reply to execute has no token".into()))?.into(),
            public_token: None,
            id: None,
            project_id: None,
            source: None,
            provider: None,
        })
    }

    /// What a task is doing; [`Error::NotRunning`] if the server does not know the token.
    pub async fn task_status(&self, token: &SecretString) -> Result<TaskStatus> {
        const COMMAND: &str = "rrext_get_task_status";
        check_token(token)?;
        let request = self.request(Method::GET, TASK_PATH, Some(token), &[]).await?;
        let reply = self.within(self.inner.options.request_timeout, COMMAND, request).await;
        self.telling(Some(token), reply.and_then(|reply| reply.object(COMMAND))).map(TaskStatus::new)
    }

    /// Ends a task; what is in its pipes is lost.
    pub async fn stop_task(&self, token: &SecretString) -> Result<()> {
        const COMMAND: &str = "terminate";
        check_token(token)?;
        let request = self.request(Method::DELETE, TASK_PATH, Some(token), &[]).await?;
        let reply = self.within(START_TIMEOUT, COMMAND, request).await;
        self.telling(Some(token), reply.and_then(|reply| reply.data(COMMAND))).map(drop)
    }
}

/// What is sent.
struct Object<'a> {
    token: &'a SecretString,
    name: &'a str,
    mime_type: &'a str,
    size: u64,
}

fn no_bytes(after: Duration) -> Error {
    Error::TimedOut { what: "a read of the file", after }
}
