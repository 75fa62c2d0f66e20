//! Many files into one task, a few at a time.
//!
//! A file is opened when its turn has come, so that no more files are open than are in flight; the SDK opens pipes for all
//! of them at once and runs out of descriptors. Small files are read a few at a time while others are on their way: what
//! they cost is the going to and fro between threads. One file's failure never stops the others, and no file is sent twice.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::calls::check_token;
use super::connection::Connection;
use super::entry::FileEntry;
use super::error::{Error, Result};
use super::object::ObjectInfo;
use super::progress::{Progress, UploadEvent};
use super::reconnect::Client;
use super::source::{FileSource, SMALL};
use super::upload::{Steps, Upload, UploadError, Uploaded, upload};
use super::upload_result::{Action, UploadResult};
use futures_util::{StreamExt as _, stream};
use secrecy::SecretString;

/// Files in flight at a time.
pub const CONCURRENCY: usize = 5;

/// Files that are looked at in one step of a blocking thread.
const AT_ONCE: usize = 16;

/// How to send files.
#[derive(Debug, Clone)]
pub struct SendOptions {
    /// Most files in flight, which is also the most that are open; 0 means 1.
    pub concurrency: usize,
    /// Who is told of every step.
    pub progress: Option<Progress>,
    /// The kind of source that the task must have; usually none.
    pub provider: Option<String>,
    /// Most bytes in one write; none: the client's.
    pub chunk_size: Option<usize>,
}

impl Default for SendOptions {
    fn default() -> Self {
        Self { concurrency: CONCURRENCY, progress: None, provider: None, chunk_size: None }
    }
}

impl Client {
    /// Sends files and waits for all of their results, which come in the order of the files.
    ///
    /// It fails as a whole, before anything was opened, if an entry is wrong: [`Error::FileNotFound`] for a file that is
    /// not there, [`Error::InvalidData`] for what is not a file, an empty list, bad metadata; and if the server cannot be
    /// connected to. After that every file has its own result. Dropping the future gives up what is in flight; nothing of it
    /// is committed.
    pub async fn send_files<I>(&self, files: I, token: &SecretString) -> Result<Vec<UploadResult>>
    where
        I: IntoIterator,
        I::Item: Into<FileEntry>,
    {
        self.send_files_with(files, token, SendOptions::default()).await
    }

    /// The same with options: how many at a time, who is told of the progress.
    pub async fn send_files_with<I>(
        &self,
        files: I,
        token: &SecretString,
        options: SendOptions,
    ) -> Result<Vec<UploadResult>>
    where
        I: IntoIterator,
        I::Item: Into<FileEntry>,
    {
        let files: Vec<FileEntry> = files.into_iter().map(Into::into).collect();
        send_all(self, files, token, &options).await
    }
}

/// A checked entry.
struct Prepared {
    entry: FileEntry,
    object: ObjectInfo,
    mime_type: String,
}

async fn send_all(
    client: &Client,
    files: Vec<FileEntry>,
    token: &SecretString,
    options: &SendOptions,
) -> Result<Vec<UploadResult>> {
    check_token(token)?;
    if files.is_empty() {
        return Err(Error::InvalidData("there are no files to send".into()));
    }
    let mut prepared = Vec::with_capacity(files.len());
    for entry in files {
        let (object, mime_type) = entry.describe()?;
        object.check()?;
        prepared.push(Prepared { entry, object, mime_type });
    }
    let files: Arc<[Prepared]> = prepared.into();
    let looked_at = Arc::clone(&files);
    blocking(move || looked_at.iter().try_for_each(|file| must_be_a_file(&file.entry.path))).await.flatten()?;
    client.connection().await?;

    let sender = Sender {
        client: client.clone(),
        token: token.clone(),
        options: options.clone(),
        files,
        gave_up: AtomicBool::new(false),
    };
    Ok(sender.send_all().await)
}

/// What stands at a path.
struct Found {
    size: u64,
    /// All of it, if it is small.
    content: Option<FileSource>,
}

fn must_be_a_file(path: &Path) -> Result<()> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(()),
        Ok(_) => Err(Error::InvalidData(format!("not a file: {}", path.display()))),
        Err(error) => Err(unreadable(path, &error)),
    }
}

/// Opens a file and tells its size.
fn open(path: &Path) -> Result<(File, u64)> {
    let opened = File::open(path).and_then(|file| file.metadata().map(|metadata| (file, metadata)));
    match opened {
        Ok((file, metadata)) if metadata.is_file() => Ok((file, metadata.len())),
        Ok(_) => Err(Error::InvalidData(format!("not a file: {}", path.display()))),
        Err(error) => Err(unreadable(path, &error)),
    }
}

fn look(path: &Path) -> Result<Found> {
    let (file, size) = open(path)?;
    if size > SMALL {
        return Ok(Found { size, content: None });
    }
    let content = FileSource::opened(file, size).map_err(|error| unreadable(path, &error))?;
    Ok(Found { size, content: Some(content) })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| panicked())
}

fn panicked() -> Error {
    Error::Abandoned("the thread that looks at the files panicked".into())
}

fn unreadable(path: &Path, error: &io::Error) -> Error {
    if error.kind() == io::ErrorKind::NotFound {
        return Error::FileNotFound(path.to_owned());
    }
    Error::Read { path: path.to_owned(), message: error.to_string() }
}

/// One call.
struct Sender {
    client: Client,
    token: SecretString,
    options: SendOptions,
    files: Arc<[Prepared]>,
    /// No connection could be made for the latest file: the next ones do not wait as long, or a thousand of them would
    /// take hours to fail.
    gave_up: AtomicBool,
}

/// How far a file came.
struct Failed {
    error: Error,
    bytes_sent: u64,
}

impl Sender {
    /// Sends all files; their results in their order.
    async fn send_all(&self) -> Vec<UploadResult> {
        let all = Arc::clone(&self.files);
        let looks = (0..self.files.len()).step_by(AT_ONCE).map(move |first| {
            let some = first..all.len().min(first + AT_ONCE);
            let (count, files) = (some.len(), Arc::clone(&all));
            let looking =
                tokio::task::spawn_blocking(move || files[some].iter().map(|file| look(&file.entry.path)).collect());
            async move {
                let found: Vec<Result<Found>> =
                    looking.await.unwrap_or_else(|_| (0..count).map(|_| Err(panicked())).collect());
                stream::iter(found)
            }
        });
        let mut results: Vec<Option<UploadResult>> = self.files.iter().map(|_| None).collect();
        // Two: the next ones are looked at while these are sent.
        let mut sent = stream::iter(looks)
            .buffered(2)
            .flatten()
            .enumerate()
            .map(|(at, found)| async move { (at, self.send(&self.files[at], found).await) })
            .buffer_unordered(self.options.concurrency.max(1));
        while let Some((at, result)) = sent.next().await {
            results[at] = Some(result);
        }
        // Every place was filled: the stream ends when nothing waits and nothing is in flight.
        results.into_iter().flatten().collect()
    }

    async fn send(&self, file: &Prepared, found: Result<Found>) -> UploadResult {
        let begun = Instant::now();
        let mut file_size = found.as_ref().ok().map(|found| found.size);
        let outcome = self.attempt(file, found, &mut file_size).await;
        let file_size = match file_size {
            Some(size) => size,
            // It was never opened; the SDK tells the size of what is there all the same.
            None => tokio::fs::metadata(&file.entry.path).await.map_or(0, |metadata| metadata.len()),
        };
        let filepath = shown(&file.entry.path);
        let upload_time = begun.elapsed().as_secs_f64();
        let result = match outcome {
            Ok(Uploaded { result, bytes_sent, invalid_utf8, .. }) => UploadResult {
                action: Action::Complete,
                filepath,
                bytes_sent,
                file_size,
                upload_time,
                result: Some(result),
                error: None,
                failure: None,
                invalid_utf8,
            },
            Err(Failed { error, bytes_sent }) => UploadResult {
                action: Action::Error,
                filepath,
                bytes_sent,
                file_size,
                upload_time,
                result: None,
                error: Some(error.to_string()),
                failure: Some(error),
                invalid_utf8: false,
            },
        };
        if let Some(progress) = &self.options.progress {
            progress.tell(UploadEvent::Done(Arc::new(result.clone())));
        }
        result
    }

    async fn attempt(
        &self,
        file: &Prepared,
        found: Result<Found>,
        file_size: &mut Option<u64>,
    ) -> Result<Uploaded, Failed> {
        let failed = |error| Failed { error, bytes_sent: 0 };
        let path = &file.entry.path;
        let connection = self.connection().await.map_err(failed)?;
        let Found { mut size, content } = found.map_err(failed)?;
        // A large one is opened only now.
        let source = if let Some(content) = content {
            content
        } else {
            let path = path.clone();
            let (file, now) = blocking(move || open(&path)).await.flatten().map_err(failed)?;
            (size, *file_size) = (now, Some(now));
            FileSource::new(file)
        };

        let settings = self.client.settings();
        let options = Upload {
            provider: self.options.provider.as_deref(),
            chunk_size: self.options.chunk_size.unwrap_or(settings.chunk_size),
            result_timeout: settings.result_timeout,
            ..Upload::new(&self.token, file.object.clone(), &file.mime_type)
        };
        let mut steps = Told { progress: self.options.progress.as_ref(), path, file_size: size };
        upload(&connection, &options, size, source, &mut steps).await.map_err(|failure| {
            let UploadError { error, bytes_sent, .. } = failure;
            // The upload knows the file by its base name alone.
            let error = match error {
                Error::Read { message, .. } => Error::Read { path: path.clone(), message },
                error => error,
            };
            Failed { error, bytes_sent }
        })
    }

    async fn connection(&self) -> Result<Connection> {
        let outcome = if self.gave_up.load(Ordering::Relaxed) {
            self.client.connect().await
        } else {
            self.client.connection().await
        };
        self.gave_up.store(outcome.is_err(), Ordering::Relaxed);
        outcome
    }
}

/// A path for people and for the SDK's `filepath`.
fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Tells every step of one file.
struct Told<'a> {
    progress: Option<&'a Progress>,
    path: &'a Path,
    file_size: u64,
}

impl Told<'_> {
    fn tell(&self, event: impl FnOnce(String, u64) -> UploadEvent) {
        if let Some(progress) = self.progress {
            progress.tell(event(shown(self.path), self.file_size));
        }
    }
}

impl Steps for Told<'_> {
    async fn granted(&mut self, _waited: Duration) -> Result<()> {
        self.tell(|filepath, file_size| UploadEvent::Open { filepath, file_size });
        Ok(())
    }

    fn written(&mut self, bytes_sent: u64) {
        self.tell(|filepath, file_size| UploadEvent::Write { filepath, bytes_sent, file_size });
    }

    async fn before_close(&mut self, bytes_sent: u64) -> Result<()> {
        self.tell(|filepath, file_size| UploadEvent::Close { filepath, bytes_sent, file_size });
        Ok(())
    }
}
