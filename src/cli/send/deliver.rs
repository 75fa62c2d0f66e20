//! The sending itself: a few files at a time, results in order, and what is said in the end.
//!
//! Memory is bounded by the files in flight and by [`HELD_MAX`], not by their number: a result is printed and forgotten.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use secrecy::SecretString;
use serde_json::{Map, Value};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

use super::inputs::{Input, STDIN};
use super::screen::{Screen, Transfer};
use crate::cli::paint::{count, size};
use crate::cli::{print_error, say};
use crate::client::{
    Action, Client, Error, FileEntry, HttpClient, HttpOptions, ObjectInfo, PipelineResult, Progress, Result,
    SendOptions, Steps, Upload, UploadResult, mime, upload,
};
use crate::show::{Shown, escaped, plain_json};

/// Bytes of finished results that may wait for an earlier file's, because lines come in the order of the arguments.
const HELD_MAX: usize = 64 * 1024 * 1024;
/// Characters of a reason that are kept for the summary.
const REASON_MAX: usize = 1000;
/// After an interrupt: how long a file that was sent whole may wait for its result.
const GRACE: Duration = Duration::from_secs(5);

/// What all files have in common.
pub(super) struct Delivery<'a> {
    pub(super) client: &'a Client,
    /// Instead of the client, where only HTTP passes.
    pub(super) http: Option<&'a HttpClient>,
    pub(super) token: &'a SecretString,
    pub(super) metadata: &'a Map<String, Value>,
    pub(super) mime_type: Option<&'a str>,
    pub(super) stdin_name: &'a str,
    pub(super) chunk_size: usize,
    pub(super) result_timeout: Duration,
    pub(super) concurrency: usize,
    pub(super) json: bool,
    pub(super) screen: &'a Screen,
}

impl Delivery<'_> {
    /// Sends every input once; returns when each has its result, or when it was told to stop or lost the server.
    pub(super) async fn run(&self, inputs: &[Input], mut stop: watch::Receiver<bool>) -> Tally {
        let mut tally = Tally::default();
        let mut printer = Printer::new(self.json, self.screen);
        let backlog = Arc::clone(&printer.backlog);
        let mut in_flight = FuturesUnordered::new();
        let mut waiting = inputs.iter().enumerate();
        let mut ended = None;
        self.screen.started();
        loop {
            // Said in either of two ways: here, or by a file that it ended.
            if ended.is_none() && *stop.borrow() {
                ended = Some("interrupted".to_owned());
                self.screen.note("stopping");
            }
            while ended.is_none()
                && in_flight.len() < self.concurrency
                && printer.has_room()
                && let Some((at, input)) = waiting.next()
            {
                let stop = stop.clone();
                in_flight.push(async move { (at, input, self.one(input, stop).await) });
            }
            if in_flight.is_empty() && (ended.is_some() || waiting.len() == 0) {
                break;
            }
            tokio::select! {
                Some((at, input, result)) = in_flight.next() => {
                    self.screen.finished(path_of(input), &result);
                    if let Some(error) = result.failure.as_ref().filter(|error| concerns_all(error)) {
                        ended.get_or_insert_with(|| error.to_string());
                    }
                    tally.count(path_of(input), &result);
                    printer.print(at, &result);
                }
                // There may be room for the next file now.
                () = backlog.shrunk.notified() => {}
                // An error means that the listener of signals is gone, which is a stop too.
                stopped = stop.wait_for(|stop| *stop), if ended.is_none() => {
                    if stopped.is_err() {
                        ended = Some("interrupted".to_owned());
                    }
                }
            }
        }
        for (at, input) in waiting {
            tally.not_begun += 1;
            if self.json {
                while !printer.has_room() {
                    backlog.shrunk.notified().await;
                }
                let why = format!("not sent: {}", ended.as_deref().unwrap_or_default());
                printer.print(at, &failed(path_of(input), size_of(input), Instant::now(), 0, Error::Abandoned(why)));
            }
        }
        printer.finish().await;
        tally.ended = ended;
        tally
    }

    async fn one(&self, input: &Input, mut stop: watch::Receiver<bool>) -> UploadResult {
        let begun = Instant::now();
        if let Input::Unusable { path, error } = input {
            return failed(path, 0, begun, 0, error.clone());
        }
        let transfer = Arc::new(self.screen.begin(path_of(input), size_of(input)));
        let sending = async {
            match input {
                Input::File { path, size } => match self.file(path, &transfer).await {
                    Ok(result) => result,
                    Err(error) => failed(path, *size, begun, 0, error),
                },
                _ => self.stdin(&transfer, begun).await,
            }
        };
        let stopped = async {
            let _ = stop.wait_for(|stop| *stop).await;
            // What may be committed already is worth a moment: its result tells.
            if transfer.is_closing() {
                tokio::time::sleep(GRACE).await;
            }
        };
        tokio::select! {
            biased;
            result = sending => result,
            () = stopped => {
                let why = if transfer.is_closing() {
                    "interrupted while the pipeline worked on it: whether it was delivered is unknown"
                } else {
                    "interrupted"
                };
                failed(path_of(input), size_of(input), begun, 0, Error::Abandoned(why.to_owned()))
            }
        }
    }

    async fn file(&self, path: &Path, transfer: &Arc<Transfer>) -> Result<UploadResult> {
        let mut entry = FileEntry::new(path).metadata(Value::Object(self.metadata.clone()));
        entry.mime_type = self.mime_type.map(str::to_owned);
        let told = Arc::clone(transfer);
        let progress = Progress::callback(move |event| told.on(&event));
        if let Some(http) = self.http {
            let mime_type = self.mime_type.map(str::to_owned);
            let options = HttpOptions { mime_type, progress: Some(progress), ..HttpOptions::default() };
            return Ok(http.upload_file(self.token, path, options).await);
        }
        let options = SendOptions { concurrency: 1, progress: Some(progress), ..SendOptions::default() };
        let results = self.client.send_files_with([entry], self.token, options).await?;
        results.into_iter().next().ok_or_else(|| Error::Abandoned("the file has no result".to_owned()))
    }

    /// Kept in a temporary file first: a pipe must not be silent, and who writes to us may be.
    async fn stdin(&self, transfer: &Arc<Transfer>, begun: Instant) -> UploadResult {
        let path = Path::new(STDIN);
        transfer.waits_for("reading standard input");
        let (source, size) = match tokio::task::spawn_blocking(spool).await {
            Ok(Ok(spooled)) => spooled,
            Ok(Err(error)) => return failed(path, 0, begun, 0, error),
            Err(panic) => return failed(path, 0, begun, 0, Error::Abandoned(panic.to_string())),
        };
        transfer.sized(size);
        let mime_type = self.mime_type.unwrap_or_else(|| mime::of(self.stdin_name));
        if let Some(http) = self.http {
            let source = tokio::fs::File::from_std(source);
            return match http.upload(self.token, self.stdin_name, mime_type, size, source).await {
                Ok(result) => complete(size, begun, result, false),
                Err(error) => failed(path, size, begun, 0, error),
            };
        }
        let object =
            ObjectInfo { name: self.stdin_name.to_owned(), metadata: self.metadata.clone(), ..ObjectInfo::default() };
        let options = Upload {
            chunk_size: self.chunk_size,
            result_timeout: self.result_timeout,
            ..Upload::new(self.token, object, mime_type)
        };
        let connection = match self.client.connection().await {
            Ok(connection) => connection,
            Err(error) => return failed(path, size, begun, 0, error),
        };
        let mut steps = Told { transfer, size };
        match upload(&connection, &options, size, tokio::fs::File::from_std(source), &mut steps).await {
            Ok(uploaded) => complete(size, begun, uploaded.result, uploaded.invalid_utf8),
            Err(failure) => failed(path, size, begun, failure.bytes_sent, failure.error),
        }
    }
}

/// Standard input that arrived whole.
fn complete(size: u64, begun: Instant, result: PipelineResult, invalid_utf8: bool) -> UploadResult {
    UploadResult {
        action: Action::Complete,
        filepath: STDIN.to_owned(),
        bytes_sent: size,
        file_size: size,
        upload_time: begun.elapsed().as_secs_f64(),
        result: Some(result),
        error: None,
        failure: None,
        invalid_utf8,
    }
}

/// All of standard input in a file without a name, and its size.
fn spool() -> Result<(std::fs::File, u64)> {
    let failed = |error: std::io::Error| Error::Read {
        path: PathBuf::from("standard input"),
        message: format!("{error} (it is kept in {} before it is sent)", Shown(&std::env::temp_dir())),
    };
    let mut file = tempfile::tempfile().map_err(failed)?;
    let size = std::io::copy(&mut std::io::stdin().lock(), &mut file).map_err(failed)?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    Ok((file, size))
}

/// Shows the steps of standard input.
struct Told<'a> {
    transfer: &'a Transfer,
    size: u64,
}

impl Steps for Told<'_> {
    async fn granted(&mut self, _waited: Duration) -> Result<()> {
        self.transfer.opened(self.size);
        Ok(())
    }

    fn written(&mut self, bytes_sent: u64) {
        self.transfer.written(bytes_sent);
    }

    async fn before_close(&mut self, _bytes_sent: u64) -> Result<()> {
        self.transfer.close();
        Ok(())
    }
}

/// Whether every other file would meet the same: then the rest is not begun.
fn concerns_all(error: &Error) -> bool {
    matches!(error, Error::Connect { .. } | Error::Authentication(_) | Error::NotRunning(_))
}

fn path_of(input: &Input) -> &Path {
    match input {
        Input::File { path, .. } | Input::Unusable { path, .. } => path,
        Input::Stdin => Path::new(STDIN),
    }
}

fn size_of(input: &Input) -> u64 {
    if let Input::File { size, .. } = input { *size } else { 0 }
}

fn failed(path: &Path, file_size: u64, begun: Instant, bytes_sent: u64, error: Error) -> UploadResult {
    let words = match &error {
        // Said by this file, for a person.
        Error::Abandoned(why) => why.clone(),
        error => error.to_string(),
    };
    UploadResult {
        action: Action::Error,
        filepath: path.to_string_lossy().into_owned(),
        bytes_sent,
        file_size,
        upload_time: begun.elapsed().as_secs_f64(),
        result: None,
        error: Some(words),
        failure: Some(error),
        invalid_utf8: false,
    }
}

/// The lines of `--json`, in the order of the arguments.
///
/// They are written by a thread of their own: whoever reads them may be slow, and a pipe must not be silent meanwhile.
struct Printer {
    json: bool,
    /// Whose line comes next.
    next: usize,
    held: BTreeMap<usize, String>,
    lines: mpsc::UnboundedSender<String>,
    backlog: Arc<Backlog>,
    writer: JoinHandle<()>,
}

/// What is finished and not written yet.
#[derive(Default)]
struct Backlog {
    bytes: AtomicUsize,
    shrunk: Notify,
}

impl Printer {
    fn new(json: bool, screen: &Screen) -> Self {
        // Bounded by `has_room`.
        let (lines, mut queue) = mpsc::unbounded_channel::<String>();
        let backlog = Arc::<Backlog>::default();
        let (written, say) = (Arc::clone(&backlog), screen.lines());
        let writer = tokio::task::spawn_blocking(move || {
            while let Some(line) = queue.blocking_recv() {
                say(&line);
                written.bytes.fetch_sub(line.len(), Ordering::AcqRel);
                written.shrunk.notify_one();
            }
        });
        Self { json, next: 0, held: BTreeMap::new(), lines, backlog, writer }
    }

    /// Whether another file may be begun.
    fn has_room(&self) -> bool {
        self.backlog.bytes.load(Ordering::Acquire) < HELD_MAX || self.writer.is_finished()
    }

    fn print(&mut self, at: usize, result: &UploadResult) {
        if !self.json {
            return;
        }
        // In the SDK's order of keys. There is nothing in a result that is not JSON.
        let line = serde_json::to_string(result).unwrap_or_else(|_| result.to_json().to_string());
        // The same values, and nothing in them for a terminal to obey.
        let line = match plain_json(line.as_bytes()) {
            Cow::Borrowed(_) => line,
            Cow::Owned(plain) => String::from_utf8_lossy(&plain).into_owned(),
        };
        self.backlog.bytes.fetch_add(line.len(), Ordering::AcqRel);
        self.held.insert(at, line);
        while let Some(line) = self.held.remove(&self.next) {
            self.next += 1;
            // An error means that the writer panicked, which `finish` says.
            let _ = self.lines.send(line);
        }
    }

    /// Waits until everything is written.
    async fn finish(self) {
        drop(self.lines);
        if let Err(error) = self.writer.await {
            print_error(format_args!("the results could not be printed: {error}"));
        }
    }
}

/// What became of the files.
pub(super) struct Tally {
    began: Instant,
    delivered: u64,
    bytes: u64,
    /// Name and reason.
    failed: Vec<(String, String)>,
    /// Delivered, but the pipeline will have lost some of the text.
    not_utf8: Vec<String>,
    not_begun: u64,
    /// Why the rest was not begun.
    ended: Option<String>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            delivered: 0,
            bytes: 0,
            failed: Vec::new(),
            not_utf8: Vec::new(),
            not_begun: 0,
            ended: None,
        }
    }
}

impl Tally {
    /// Whether every file was delivered.
    pub(super) fn is_complete(&self) -> bool {
        self.failed.is_empty() && self.not_begun == 0
    }

    fn count(&mut self, path: &Path, result: &UploadResult) {
        let name = Shown(path).to_string();
        if let Some(error) = &result.error {
            let reason = match &result.failure {
                // The name stands in front of it anyway.
                Some(Error::FileNotFound(_)) => "file not found".to_owned(),
                Some(Error::Read { message, .. }) => format!("cannot be read: {}", escaped(message)),
                _ => escaped(error).to_string(),
            };
            self.failed.push((name, reason.chars().take(REASON_MAX).collect()));
            return;
        }
        self.delivered += 1;
        self.bytes += result.bytes_sent;
        if result.invalid_utf8 {
            self.not_utf8.push(name);
        }
    }

    /// The summary; each failed file with its reason goes to standard error.
    pub(super) fn report(&self, json: bool) {
        for name in &self.not_utf8 {
            print_error(format_args!(
                "{name}: went as text but is not UTF-8, so the pipeline will have lost some of it"
            ));
        }
        for (name, reason) in &self.failed {
            print_error(format_args!("{name}: {reason}"));
        }
        if self.not_begun > 0 {
            let why = self.ended.as_deref().unwrap_or_default();
            print_error(format_args!("{} not sent: {}", count(self.not_begun, "more file"), escaped(why)));
        }
        let all = self.delivered + self.failed.len() as u64 + self.not_begun;
        let summary = format!(
            "{} of {} delivered, {} in {:.1} s",
            self.delivered,
            count(all, "file"),
            size(self.bytes),
            self.began.elapsed().as_secs_f64()
        );
        if json { print_error(summary) } else { say(summary) }
    }
}
