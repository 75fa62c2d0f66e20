//! What a pipeline made of an object: the body of a close, kept whole.
//!
//! Pure. Which fields there are depends on the pipeline; `result_types` names the lane of each.

use std::borrow::Cow;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::error::ServerError;
use super::protocol::Trace;

/// The `PIPELINE_RESULT` of the SDK, with every key the server sent.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PipelineResult {
    raw: Map<String, Value>,
}

impl PipelineResult {
    /// Wraps the body of a close.
    pub fn new(raw: Map<String, Value>) -> Self {
        Self { raw }
    }

    /// Everything the server sent.
    pub fn raw(&self) -> &Map<String, Value> {
        &self.raw
    }

    /// The same, owned.
    pub fn into_raw(self) -> Map<String, Value> {
        self.raw
    }

    /// Name of the object it belongs to.
    pub fn name(&self) -> Option<&str> {
        self.word("name")
    }

    /// Path that the engine gave the object.
    pub fn path(&self) -> Option<&str> {
        self.word("path")
    }

    /// Identity of the object it belongs to.
    pub fn object_id(&self) -> Option<&str> {
        self.word("objectId")
    }

    /// The result fields and the lane type of each.
    pub fn result_types(&self) -> Option<&Map<String, Value>> {
        self.raw.get("result_types").and_then(Value::as_object)
    }

    /// The failure of a node, which arrives inside an otherwise successful reply.
    pub fn error(&self) -> Option<ServerError> {
        let error = self.raw.get("error").filter(|error| !error.is_null())?;
        let words = |value: &Value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let trace = error.get("file").and_then(Value::as_str).map(|file| Trace {
            file: file.to_owned(),
            lineno: error.get("line").and_then(Value::as_u64).unwrap_or_default(),
        });
        let message = match error.get("message") {
            Some(message) => words(message),
            None => words(error),
        };
        Some(ServerError {
            command: "close".into(),
            message,
            code: error.get("code").filter(|code| !code.is_null()).map(words),
            trace,
        })
    }

    /// A field by its name, for example one of [`result_types`](Self::result_types).
    pub fn field(&self, name: &str) -> Option<&Value> {
        self.raw.get(name)
    }

    /// The fields of one lane type with their names. Several nodes of a pipeline may answer in one lane.
    pub fn lane<'a>(&'a self, lane_type: &'a str) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.result_types()
            .into_iter()
            .flatten()
            .filter(move |(_, kind)| kind.as_str() == Some(lane_type))
            .filter_map(|(name, _)| Some((name.as_str(), self.raw.get(name)?)))
    }

    /// Everything in the text lane, field by field.
    pub fn text(&self) -> Vec<Cow<'_, str>> {
        self.words_of("text")
    }

    /// Everything in the answers lane, field by field. An answer that is not text comes as its JSON.
    pub fn answers(&self) -> Vec<Cow<'_, str>> {
        self.words_of("answers")
    }

    fn words_of<'a>(&'a self, lane_type: &'a str) -> Vec<Cow<'a, str>> {
        let values = self.lane(lane_type).flat_map(|(_, value)| match value {
            Value::Array(values) => values.as_slice(),
            one => std::slice::from_ref(one),
        });
        values
            .filter(|value| !value.is_null())
            .map(|value| value.as_str().map_or_else(|| Cow::Owned(value.to_string()), Cow::Borrowed))
            .collect()
    }

    fn word(&self, key: &str) -> Option<&str> {
        self.raw.get(key).and_then(Value::as_str)
    }
}

/// Serialises as what the server sent.
impl Serialize for PipelineResult {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.raw.serialize(serializer)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn result(value: &Value) -> PipelineResult {
        PipelineResult::new(value.as_object().unwrap().clone())
    }

    #[test]
    fn a_result_keeps_every_key() {
        let value = json!({"name": "a", "path": "/a", "objectId": "i", "result_types": {"text": "text"},
                           "text": ["x"], "new": {"deep": [1, null]}});
        let result = result(&value);
        assert_eq!((result.name(), result.path(), result.object_id()), (Some("a"), Some("/a"), Some("i")));
        assert_eq!(result.result_types().unwrap()["text"], "text");
        assert_eq!(result.error(), None);
        assert_eq!(Value::Object(result.into_raw()), value);
    }

    #[test]
    fn fields_are_found_by_name_and_by_lane() {
        let value = json!({"name": "a", "result_types": {"text": "text", "more": "text", "reply": "answers", "gone": "text"},
                           "text": ["x", "y"], "more": "z", "reply": ["one", {"n": 2}, null]});
        let result = result(&value);
        assert_eq!(result.text(), ["z", "x", "y"]);
        assert_eq!(result.answers(), ["one", r#"{"n":2}"#]);
        assert_eq!(result.field("more"), Some(&json!("z")));
        assert_eq!(result.lane("answers").map(|(name, _)| name).collect::<Vec<_>>(), ["reply"]);
        assert_eq!(serde_json::to_value(&result).unwrap(), value);
        assert!(PipelineResult::default().text().is_empty());
    }

    #[test]
    fn a_nodes_error_has_its_words_code_and_place() {
        for (error, message, code, place) in [
            (json!({"message": "no", "code": 7, "file": "n.py", "line": 3}), "no", Some("7"), Some(("n.py", 3))),
            (json!({"message": "no", "code": "EBAD"}), "no", Some("EBAD"), None),
            (json!("just words"), "just words", None, None),
            (json!({"code": null}), r#"{"code":null}"#, None, None),
        ] {
            let error = result(&json!({"name": "a", "error": error})).error().unwrap();
            assert_eq!((error.message.as_str(), error.code.as_deref()), (message, code));
            assert_eq!(error.trace.as_ref().map(|trace| (trace.file.as_str(), trace.lineno)), place);
        }
        assert_eq!(result(&json!({"error": null})).error(), None);
    }
}
