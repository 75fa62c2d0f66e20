#![doc = include_str!("guide.md")]
//!
//! # The modules
//!
//! | module | is about |
//! |---|---|
//! | [`builder`], [`reconnect`] | a [`Client`]: how it is put together, its connection that comes back |
//! | `calls`, [`send_files`], [`data_pipe`], [`events`] | what a client does |
//! | [`entry`], [`upload_result`], [`progress`] | a file to send, what became of it, and how it gets on |
//! | [`uri`], [`options`], [`proxy`], [`backoff`] | where the server is, how to log in, how patient to be |
//! | [`connection`], `dial`, `driver` | one logged-in socket: requests, replies, events; how it is made; the tasks behind it |
//! | [`task`], [`pipeline`] | pipelines: their files, starting, status, terminating |
//! | [`upload`](mod@upload), [`pipe`] | one file into a pipeline, step by step; the daemon uploads by these too |
//! | [`source`], `piece` | where the bytes of an upload come from; the bytes of one write, sent from where they were read to |
//! | [`link`](mod@link) | how fast the way to the server is, and how large a write may be for it: pure |
//! | `http` | uploads and tasks by HTTP requests, where only those pass (feature `http`) |
//! | [`object`], [`mime`], [`text`] | what the server is told about a file; how text is cut |
//! | [`result`] | what the pipeline made of it |
//! | [`protocol`] | the frames on the wire: a pure codec, shared with the sandbox engine |
//! | [`error`] | everything that can go wrong, with the server's own words |
//!
//! It must not know of watches, journals or folders: the daemon is one of its users. It is portable: no call of one
//! operating system. It logs through `tracing`, never a credential and never content; whoever routes the `log` records of
//! the `tungstenite` crate as well must cut them off at `debug`, because its `trace` shows whole messages.

pub mod backoff;
pub mod builder;
mod calls;
pub mod connection;
pub mod data_pipe;
mod dial;
mod driver;
pub mod entry;
pub mod error;
pub mod events;
#[cfg(feature = "http")]
pub mod http;
pub mod link;
pub mod mime;
pub mod object;
pub mod options;
mod piece;
pub mod pipe;
pub mod pipeline;
pub mod progress;
pub mod protocol;
pub mod proxy;
pub mod reconnect;
pub mod result;
pub mod send_files;
pub mod source;
pub mod task;
pub mod text;
pub mod upload;
pub mod upload_result;
pub mod uri;

#[cfg(test)]
mod tests;

pub use backoff::Backoff;
pub use builder::ClientBuilder;
pub use connection::{Connection, NOT_SENT, Wait};
pub use data_pipe::DataPipe;
pub use entry::FileEntry;
pub use error::{Error, Result, ServerError};
pub use events::{Monitor, ServerEvents};
#[cfg(feature = "http")]
pub use http::{DataPath, HttpClient, HttpOptions};
pub use link::Link;
pub use object::ObjectInfo;
pub use options::{ConnectOptions, SILENCE_TIMEOUT, is_task_key};
pub use pipe::{Pipe, PipeOptions};
pub use pipeline::{load_pipeline, parse_pipeline};
pub use progress::{Notice, Progress, UploadEvent, UploadEvents};
pub use proxy::Proxy;
pub use reconnect::{Client, Reconnect};
pub use result::PipelineResult;
pub use secrecy::SecretString;
pub use send_files::SendOptions;
pub use source::{FileSource, Source};
pub use task::{ExecuteOptions, TaskEntry, TaskInfo, TaskState, TaskStatus};
pub use upload::{Step, Steps, Upload, UploadError, Uploaded, upload};
pub use upload_result::{Action, UploadResult};
pub use uri::ServiceUri;
