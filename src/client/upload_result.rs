//! What became of a file: the SDK's `UPLOAD_RESULT`.
//!
//! Pure.

use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::error::Error;
use super::result::PipelineResult;

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The pipeline took the whole file and answered.
    Complete,
    /// It did not.
    Error,
}

impl Action {
    /// The SDK's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Error => "error",
        }
    }
}

/// The outcome of one file. Serialises to exactly the JSON of the SDK: `error` only on an error, `result` always, as
/// `null` if there is none.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct UploadResult {
    /// How it ended.
    pub action: Action,
    /// The file, as the caller gave it.
    pub filepath: String,
    /// Acknowledged by the server, in bytes.
    pub bytes_sent: u64,
    /// In bytes; 0 for a file that is gone.
    pub file_size: u64,
    /// From its turn to its result, in seconds.
    pub upload_time: f64,
    /// What the pipeline made of it.
    pub result: Option<PipelineResult>,
    /// Why it failed, in words.
    pub error: Option<String>,
    /// The same for programs; not in the JSON.
    pub failure: Option<Error>,
    /// It went as text but is not UTF-8: the text lane of the pipeline will have lost writes. Not in the JSON.
    pub invalid_utf8: bool,
}

impl UploadResult {
    /// Whether the pipeline took the file.
    pub fn is_complete(&self) -> bool {
        self.action == Action::Complete
    }

    /// The SDK's JSON.
    pub fn to_json(&self) -> Value {
        let mut object = serde_json::json!({
            "action": self.action.name(),
            "filepath": self.filepath,
            "bytes_sent": self.bytes_sent,
            "file_size": self.file_size,
            "upload_time": self.upload_time,
            "result": self.result.as_ref().map(PipelineResult::raw),
        });
        if let Some(error) = &self.error {
            object["error"] = error.as_str().into();
        }
        object
    }
}

impl Serialize for UploadResult {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("UploadResult", 6 + usize::from(self.error.is_some()))?;
        object.serialize_field("action", self.action.name())?;
        object.serialize_field("filepath", &self.filepath)?;
        object.serialize_field("bytes_sent", &self.bytes_sent)?;
        object.serialize_field("file_size", &self.file_size)?;
        object.serialize_field("upload_time", &self.upload_time)?;
        object.serialize_field("result", &self.result)?;
        if let Some(error) = &self.error {
            object.serialize_field("error", error)?;
        }
        object.end()
    }
}

/// Of the SDK's fields; an [`Error`] is compared by its words.
impl PartialEq for UploadResult {
    fn eq(&self, other: &Self) -> bool {
        self.to_json() == other.to_json() && self.invalid_utf8 == other.invalid_utf8
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_json_is_the_sdks() {
        let raw = json!({"name": "a", "path": "", "objectId": "i", "result_types": {"text": "text"}, "text": ["x"]});
        let complete = UploadResult {
            action: Action::Complete,
            filepath: "d/a".into(),
            bytes_sent: 3,
            file_size: 3,
            upload_time: 2.0,
            result: Some(PipelineResult::new(raw.as_object().unwrap().clone())),
            error: None,
            failure: None,
            invalid_utf8: true,
        };
        let start =
            r#"{"action":"complete","filepath":"d/a","bytes_sent":3,"file_size":3,"upload_time":2.0,"result":{"#;
        let text = serde_json::to_string(&complete).unwrap();
        assert!(text.starts_with(start), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), complete.to_json());
        assert_eq!(complete.to_json()["result"], raw);

        let failed = UploadResult {
            action: Action::Error,
            result: None,
            error: Some("no".into()),
            failure: Some(Error::Protocol("no".into())),
            ..complete
        };
        assert_eq!(
            serde_json::to_string(&failed).unwrap(),
            r#"{"action":"error","filepath":"d/a","bytes_sent":3,"file_size":3,"upload_time":2.0,"result":null,"error":"no"}"#
        );
        assert_eq!(serde_json::to_value(&failed).unwrap(), failed.to_json());
    }
}
