//! The text of an answer by itself: what goes into `NAME.result.txt`. Where that stands is `sidecar`'s, writing it `result`'s.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::client::PipelineResult;

/// The text of an answer: what its text lanes hold, each ended by a line break. None for an answer without text.
pub(super) fn text_of(answer: &PipelineResult) -> Option<String> {
    let mut text = String::new();
    for piece in answer.text() {
        text.push_str(&piece);
        if !piece.is_empty() && !piece.ends_with('\n') {
            text.push('\n');
        }
    }
    (!text.is_empty()).then_some(text)
}

/// The text that belongs beside a result file of this content; none if it names none.
pub(super) fn text_of_file(content: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        text_sha256: Option<String>,
    }
    #[derive(Deserialize)]
    struct Answer {
        result: Map<String, Value>,
    }
    // The answer may be large: it is only read where there is a reason.
    serde_json::from_slice::<Named>(content).ok()?.text_sha256?;
    text_of(&PipelineResult::new(serde_json::from_slice::<Answer>(content).ok()?.result))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(value: Value) -> PipelineResult {
        PipelineResult::new(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn the_text_is_what_the_text_lanes_hold() {
        let types = serde_json::json!({"a": "text", "b": "answers", "c": "text"});
        let with = serde_json::json!({"result_types": types, "a": ["one\n", "two"], "b": ["no"], "c": "three"});
        assert_eq!(text_of(&answer(with)).unwrap(), "one\ntwo\nthree\n");
        for without in [serde_json::json!({}), serde_json::json!({"result_types": {"a": "text"}, "a": [""]})] {
            assert_eq!(text_of(&answer(without)), None);
        }
    }
}
