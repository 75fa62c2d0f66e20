//! What the files beside an input say.

use std::ffi::OsString;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::{Kind, Ours};
use crate::clock::from_rfc3339;
use crate::identity::Identity;
use crate::job::{ContentHash, Generation};

/// Version of the files' schema.
pub const SCHEMA_VERSION: u32 = 1;

/// What every file of ours says about itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct About {
    /// Version of this schema.
    pub schema_version: u32,
    /// The input as it was.
    pub generation: Generation,
    /// The object id it had, or would have had, at the server.
    pub object_id: Uuid,
    /// The daemon that wrote it.
    pub instance: String,
    /// Name of the pipeline.
    pub pipeline: String,
    /// Name of the watch.
    pub watch: String,
    /// Attempts charged to the file, the last included.
    pub attempts: u32,
}

/// `NAME.result.json`: the SDK's `UPLOAD_RESULT`, then what makes it verifiable.
#[derive(Debug, Serialize)]
pub struct ResultFile<'a> {
    /// `complete`.
    pub action: &'static str,
    /// The input.
    pub filepath: String,
    /// Bytes that were sent.
    pub bytes_sent: u64,
    /// Size of the input.
    pub file_size: u64,
    /// Seconds from the grant of the pipe to the pipeline's answer.
    pub upload_time: f64,
    /// The pipeline's answer, whole.
    pub result: &'a Value,
    /// SHA-256 of what was sent, hexadecimal.
    pub sha256: String,
    /// SHA-256 of the text that stands beside it in a file of its own, hexadecimal; absent if none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_sha256: Option<String>,
    /// Who, what and how often.
    #[serde(flatten)]
    pub about: About,
    /// RFC 3339, UTC.
    pub completed_at: String,
    /// What a reader should know, for example text that was not valid UTF-8.
    pub warnings: Vec<String>,
}

/// `NAME.error.json`: why a file was given up, and what to do.
#[derive(Debug, Serialize)]
pub struct ErrorFile {
    /// `error`.
    pub action: &'static str,
    /// The input.
    pub filepath: String,
    /// Size of the input.
    pub file_size: u64,
    /// Why.
    pub error: String,
    /// Stable name of the kind of failure.
    pub code: String,
    /// Whether trying again may help without a change.
    pub retryable: bool,
    /// Plain words for the person who dropped the file.
    pub hint: String,
    /// RFC 3339, UTC; absent if it was given up without an attempt.
    pub first_attempt_at: Option<String>,
    /// RFC 3339, UTC; absent if it was given up without an attempt.
    pub last_attempt_at: Option<String>,
    /// Who, what and how often.
    #[serde(flatten)]
    pub about: About,
}

/// What recognition needs of a file of ours; the rest is skipped unread.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Header {
    pub(super) action: String,
    pub(super) filepath: String,
    pub(super) schema_version: u32,
    pub(super) instance: String,
    pub(super) object_id: Uuid,
    pub(super) generation: Generation,
    #[serde(default)]
    sha256: Option<String>,
    #[serde(default)]
    text_sha256: Option<String>,
    #[serde(default)]
    completed_at: Option<String>,
    #[serde(default)]
    pub(super) hint: Option<String>,
    #[serde(default)]
    pub(super) watch: String,
    #[serde(default)]
    pub(super) warnings: Vec<String>,
}

impl Header {
    /// Whether this daemon wrote it, in a form that it knows.
    pub(super) fn is_of(&self, kind: Kind, identity: &Identity) -> bool {
        self.schema_version == SCHEMA_VERSION && self.instance == identity.instance && self.action == kind.action()
    }

    pub(super) fn ours(self, name: OsString) -> Ours {
        let sha256 = self.sha256.as_deref().and_then(from_hex);
        let completed_at = self.completed_at.as_deref().and_then(from_rfc3339);
        let text_sha256 = self.text_sha256.as_deref().and_then(from_hex);
        Ours { name, object_id: self.object_id, generation: self.generation, sha256, text_sha256, completed_at }
    }
}

fn from_hex(text: &str) -> Option<ContentHash> {
    let mut hash = [0; 32];
    hex::decode_to_slice(text, &mut hash).ok().map(|()| hash)
}
