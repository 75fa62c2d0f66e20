//! How uploads get on: the SDK's `apaevt_status_upload` events, which the client makes itself.
//!
//! They go to a callback, or into a bounded stream. It knows nothing of connections, and it never holds up an upload: a
//! pipe must not be silent, so a slow reader of the stream loses the oldest events and is told how many.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::{Stream, StreamExt as _, stream};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::protocol::Event;
use super::upload_result::UploadResult;

/// The name of these events.
pub const UPLOAD_EVENT: &str = "apaevt_status_upload";
/// Events that a slow reader may lag behind before it loses the oldest.
pub const PROGRESS_QUEUE: usize = 1024;

/// What a bounded stream yields.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice<T> {
    /// Something happened.
    Event(T),
    /// So many events were lost just before the next one, because the reader was too slow.
    Missed(u64),
    /// The connection was lost and is back; what happened in between is unknown. Only in a stream of server events.
    Reconnected,
}

/// One step of one file.
#[derive(Debug, Clone, PartialEq)]
pub enum UploadEvent {
    /// Its pipe was granted.
    Open {
        /// As the caller gave it.
        filepath: String,
        /// In bytes.
        file_size: u64,
    },
    /// A piece was acknowledged.
    Write {
        /// As the caller gave it.
        filepath: String,
        /// In all, in bytes.
        bytes_sent: u64,
        /// In bytes.
        file_size: u64,
    },
    /// Everything was sent; the pipeline works on it now.
    Close {
        /// As the caller gave it.
        filepath: String,
        /// In all, in bytes.
        bytes_sent: u64,
        /// In bytes.
        file_size: u64,
    },
    /// The pipeline's result is there (`complete`), or the upload failed (`error`).
    Done(Arc<UploadResult>),
}

impl UploadEvent {
    /// `open`, `write`, `close`, `complete` or `error`.
    pub fn action(&self) -> &'static str {
        match self {
            Self::Open { .. } => "open",
            Self::Write { .. } => "write",
            Self::Close { .. } => "close",
            Self::Done(result) => result.action.name(),
        }
    }

    /// The file, as the caller gave it.
    pub fn filepath(&self) -> &str {
        match self {
            Self::Open { filepath, .. } | Self::Write { filepath, .. } | Self::Close { filepath, .. } => filepath,
            Self::Done(result) => &result.filepath,
        }
    }

    /// The body of the SDK's event.
    pub fn body(&self) -> Value {
        match self {
            Self::Open { filepath, file_size } => {
                json!({"action": "open", "filepath": filepath, "file_size": file_size})
            }
            Self::Write { filepath, bytes_sent, file_size } | Self::Close { filepath, bytes_sent, file_size } => {
                json!({"action": self.action(), "filepath": filepath, "bytes_sent": bytes_sent, "file_size": file_size})
            }
            Self::Done(result) => result.to_json(),
        }
    }

    /// The SDK's whole event, whose `seq` is always 0.
    pub fn to_event(&self) -> Event {
        Event { seq: 0, event: UPLOAD_EVENT.into(), body: self.body() }
    }
}

/// Serialises as the SDK's whole event.
impl Serialize for UploadEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        json!({"type": "event", "seq": 0, "event": UPLOAD_EVENT, "body": self.body()}).serialize(serializer)
    }
}

/// Where the events of an upload go; clones go to the same place.
#[derive(Clone)]
pub struct Progress {
    told: Arc<dyn Fn(UploadEvent) + Send + Sync>,
}

impl Progress {
    /// Calls this for every event, between the steps of the uploads: it must neither block nor panic, which all of them
    /// would suffer.
    pub fn callback(told: impl Fn(UploadEvent) + Send + Sync + 'static) -> Self {
        Self { told: Arc::new(told) }
    }

    /// A stream of the events; it ends when the last clone of the sending side is gone, which for
    /// [`send_files_with`](super::Client::send_files_with) is its end.
    pub fn stream() -> (Self, UploadEvents) {
        let (sender, receiver) = broadcast::channel(PROGRESS_QUEUE);
        // An error only means that nobody listens.
        let progress = Self::callback(move |event| drop(sender.send(event)));
        let next = |mut receiver: broadcast::Receiver<UploadEvent>| async move {
            let notice = match receiver.recv().await {
                Ok(event) => Notice::Event(event),
                Err(RecvError::Lagged(missed)) => Notice::Missed(missed),
                Err(RecvError::Closed) => return None,
            };
            Some((notice, receiver))
        };
        (progress, UploadEvents { stream: Box::pin(stream::unfold(receiver, next)) })
    }

    pub(super) fn tell(&self, event: UploadEvent) {
        (self.told)(event);
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}

/// The events of uploads, in their order.
pub struct UploadEvents {
    stream: Pin<Box<dyn Stream<Item = Notice<UploadEvent>> + Send>>,
}

impl UploadEvents {
    /// The next one; none when the upload is over.
    pub async fn next(&mut self) -> Option<Notice<UploadEvent>> {
        self.stream.next().await
    }
}

impl Stream for UploadEvents {
    type Item = Notice<UploadEvent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for UploadEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UploadEvents")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(bytes_sent: u64) -> UploadEvent {
        UploadEvent::Write { filepath: "a".into(), bytes_sent, file_size: 9 }
    }

    #[test]
    fn an_event_is_the_sdks_event() {
        let open = UploadEvent::Open { filepath: "d/a".into(), file_size: 9 };
        assert_eq!(
            serde_json::to_value(&open).ok(),
            Some(json!({"type": "event", "seq": 0, "event": "apaevt_status_upload",
                        "body": {"action": "open", "filepath": "d/a", "file_size": 9}}))
        );
        assert_eq!(
            write(3).to_event().body,
            json!({"action": "write", "filepath": "a", "bytes_sent": 3, "file_size": 9})
        );
        let close = UploadEvent::Close { filepath: "a".into(), bytes_sent: 9, file_size: 9 };
        assert_eq!(close.body(), json!({"action": "close", "filepath": "a", "bytes_sent": 9, "file_size": 9}));
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_how_much_it_missed_and_the_stream_ends() {
        let (progress, mut events) = Progress::stream();
        let extra = 5;
        for at in 0..PROGRESS_QUEUE as u64 + extra {
            progress.tell(write(at));
        }
        drop(progress);
        assert_eq!(events.next().await, Some(Notice::Missed(extra)));
        assert_eq!(events.next().await, Some(Notice::Event(write(extra))));
        let mut left = 0;
        while events.next().await.is_some() {
            left += 1;
        }
        assert_eq!(left, PROGRESS_QUEUE - 1);
    }
}
