//! What the first node of a pipeline does with the bytes of one object: nothing but counting and hashing.
//!
//! Pure. It keeps a short echo of text, never the content: an upload of 2 GiB costs no memory. Text goes by
//! the rules of the real text listener, which decodes every write on its own.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Text up to this many bytes comes back in the result as it arrived; of longer text only the summary does.
pub(super) const ECHO_LIMIT: usize = 64 * 1024;

/// Keys of an object that the engine owns; a client that sets one is refused.
const READ_ONLY_KEYS: [&str; 3] = ["path", "url", "flags"];

/// Where the bytes of an object go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    /// Decoded as UTF-8, one write at a time.
    Text,
    /// Passed on as they are, to the lane of this name.
    Raw(String),
}

impl Route {
    /// `text/*` goes to the text lane, case-sensitively; `lane/NAME` names a lane; all else is raw.
    pub(super) fn of(mime_type: &str) -> Self {
        match mime_type.strip_prefix("lane/") {
            Some("text") => Self::Text,
            Some(lane) => Self::Raw(lane.to_owned()),
            None if mime_type.starts_with("text/") => Self::Text,
            None => Self::Raw("data".to_owned()),
        }
    }
}

/// Why the engine refuses an object. The client never sees it: the refusal is masked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unacceptable {
    #[error("object key {0:?} is read-only")]
    ReadOnly(&'static str),
    #[error("object size is not a non-negative integer")]
    Size,
}

/// What a client declares of the thing it sends.
#[derive(Debug, Clone)]
pub(super) struct Object {
    /// As it was sent.
    pub(super) raw: Map<String, Value>,
    pub(super) mime_type: String,
    pub(super) name: String,
    pub(super) id: String,
}

impl Object {
    pub(super) fn new(raw: Map<String, Value>, mime_type: String) -> Self {
        let text = |key| raw.get(key).and_then(Value::as_str).filter(|value| !value.is_empty()).map(str::to_owned);
        let name = text("name").unwrap_or_else(|| Uuid::new_v4().to_string());
        let id = text("objectId").unwrap_or_else(|| {
            Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("null://Stream/{name}").as_bytes()).to_string()
        });
        Self { raw, mime_type, name, id }
    }

    /// Whether the engine takes it.
    pub(super) fn check(&self) -> Result<(), Unacceptable> {
        if let Some(key) = READ_ONLY_KEYS.into_iter().find(|key| self.raw.contains_key(*key)) {
            return Err(Unacceptable::ReadOnly(key));
        }
        match self.raw.get("size") {
            Some(size) if !size.is_u64() => Err(Unacceptable::Size),
            _ => Ok(()),
        }
    }

    /// A declared size of 0 makes the engine skip the object as empty, whatever is written.
    fn is_skipped(&self) -> bool {
        self.raw.get("size").and_then(Value::as_u64) == Some(0)
    }
}

/// The bytes of one object on their way through.
#[derive(Debug)]
pub(super) struct Lane {
    route: Route,
    skipped: bool,
    hasher: Sha256,
    echo: Option<String>,
    in_word: bool,
    at_line_start: bool,
    summary: Summary,
}

/// What is left of the bytes in the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Summary {
    /// Bytes that the node took.
    pub(super) bytes: u64,
    /// Bytes that were written, lost ones too.
    pub(super) received: u64,
    pub(super) lines: u64,
    pub(super) words: u64,
    pub(super) writes: u64,
    /// Writes that were no valid UTF-8 on their own.
    pub(super) lost_writes: u64,
    /// Of the bytes that the node took, in lower-case hex.
    pub(super) sha256: String,
    pub(super) skipped: bool,
}

impl Lane {
    pub(super) fn new(object: &Object) -> Self {
        let route = Route::of(&object.mime_type);
        Self {
            echo: (route == Route::Text).then(String::new),
            route,
            skipped: object.is_skipped(),
            hasher: Sha256::new(),
            in_word: false,
            at_line_start: true,
            summary: Summary::default(),
        }
    }

    /// Takes one write. A text write that is no UTF-8 by itself is lost, and nobody is told.
    pub(super) fn write(&mut self, data: &[u8]) {
        self.summary.writes += 1;
        self.summary.received += data.len() as u64;
        if self.skipped {
            return;
        }
        if self.route == Route::Text {
            let Ok(text) = std::str::from_utf8(data) else {
                self.summary.lost_writes += 1;
                return;
            };
            self.count(data);
            self.keep(text);
        }
        self.hasher.update(data);
        self.summary.bytes += data.len() as u64;
    }

    fn count(&mut self, data: &[u8]) {
        for byte in data {
            if self.at_line_start {
                self.summary.lines += 1;
            }
            self.at_line_start = *byte == b'\n';
            let space = byte.is_ascii_whitespace();
            if !space && !self.in_word {
                self.summary.words += 1;
            }
            self.in_word = !space;
        }
    }

    fn keep(&mut self, text: &str) {
        if let Some(echo) = &mut self.echo {
            // The response node ends every write with an empty line, so each cut shows in the text.
            if echo.len() + text.len() + 2 <= ECHO_LIMIT {
                echo.push_str(text);
                echo.push_str("\n\n");
            } else {
                self.echo = None;
            }
        }
    }

    /// The end of the object: its `PIPELINE_RESULT` and what the log keeps.
    pub(super) fn finish(mut self, object: &Object) -> (Value, Summary) {
        self.summary.sha256 = hex(&self.hasher.finalize());
        self.summary.skipped = self.skipped;
        let summary = self.summary;
        let mut body = json!({"name": object.name, "path": "", "objectId": object.id});
        if self.skipped {
            return (body, summary);
        }
        let mut types = Map::new();
        if self.route == Route::Text {
            let text = self.echo.unwrap_or_else(|| {
                let Summary { bytes, lines, words, sha256, .. } = &summary;
                format!("{}: {bytes} bytes, {lines} lines, {words} words, sha256 {sha256}\n\n", object.name)
            });
            body["text"] = json!([text]);
            types.insert("text".into(), "text".into());
        }
        body["sandbox"] = json!({
            "bytes": summary.bytes,
            "lines": summary.lines,
            "words": summary.words,
            "sha256": summary.sha256,
            "mime": object.mime_type,
            "lane": match &self.route { Route::Text => "text", Route::Raw(lane) => lane },
            "writes": summary.writes,
        });
        types.insert("sandbox".into(), "json".into());
        body["result_types"] = Value::Object(types);
        (body, summary)
    }
}

/// Lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn object(raw: &Value, mime_type: &str) -> Object {
        Object::new(raw.as_object().cloned().unwrap_or_default(), mime_type.to_owned())
    }

    fn through(mime_type: &str, writes: &[&[u8]]) -> (Value, Summary) {
        let object = object(&json!({"name": "a.txt", "size": 1}), mime_type);
        let mut lane = Lane::new(&object);
        for data in writes {
            lane.write(data);
        }
        lane.finish(&object)
    }

    #[test]
    fn text_is_decoded_write_by_write_and_a_split_character_loses_both_writes() {
        let (body, summary) = through("text/plain", &[b"ok ", b"caf\xc3", b"\xa9 end"]);
        assert_eq!(body["text"], json!(["ok \n\n"]));
        assert_eq!((summary.lost_writes, summary.bytes, summary.received), (2, 3, 12));
        let (_, summary) = through("TEXT/PLAIN", &[b"caf\xc3", b"\xa9 end"]);
        assert_eq!((summary.lost_writes, summary.bytes), (0, 9), "a type in capitals is the raw lane");
    }

    #[test]
    fn every_cut_shows_in_the_text() {
        let (body, summary) = through("text/plain", &[b"one two\n", b"three"]);
        assert_eq!(body["text"], json!(["one two\n\n\nthree\n\n"]));
        assert_eq!((summary.lines, summary.words, summary.writes), (2, 3, 2));
    }

    #[test]
    fn long_text_comes_back_as_a_summary_and_keeps_no_content() {
        let (body, _) = through("text/plain", &[&b"word\n".repeat(ECHO_LIMIT)]);
        let text = body["text"][0].as_str().unwrap();
        assert!(text.starts_with("a.txt: 327680 bytes, 65536 lines, 65536 words, sha256 "), "{text}");
    }

    #[test]
    fn a_lane_is_addressed_by_its_name() {
        assert_eq!(Route::of("lane/text"), Route::Text);
        assert_eq!(Route::of("lane/audio"), Route::Raw("audio".into()));
        assert_eq!(Route::of("application/pdf"), Route::Raw("data".into()));
    }

    #[test]
    fn an_object_without_an_id_gets_the_one_of_its_name() {
        // Python: uuid.uuid5(uuid.NAMESPACE_URL, "null://Stream/a.txt")
        assert_eq!(object(&json!({"name": "a.txt"}), "").id, "399b271a-bcbe-5653-b4bc-0fcd9c3769bf");
        assert_eq!(object(&json!({"name": "a.txt", "objectId": "mine"}), "").id, "mine");
    }

    #[test]
    fn read_only_keys_and_odd_sizes_are_refused() {
        assert!(object(&json!({"name": "a", "size": 3, "department": "x"}), "").check().is_ok());
        for raw in
            [json!({"path": "/x"}), json!({"url": "x"}), json!({"flags": 1}), json!({"size": -1}), json!({"size": "3"})]
        {
            assert!(object(&raw, "").check().is_err(), "{raw}");
        }
    }

    #[test]
    fn a_declared_size_of_zero_is_skipped_as_empty() {
        let object = object(&json!({"name": "a", "size": 0}), "text/plain");
        let mut lane = Lane::new(&object);
        lane.write(b"content");
        let (body, summary) = lane.finish(&object);
        assert!(body.get("result_types").is_none());
        assert_eq!((summary.skipped, summary.bytes), (true, 0));
    }

    proptest! {
        #[test]
        fn the_hash_does_not_depend_on_the_cuts(data in proptest::collection::vec(any::<u8>(), 0..400), cut in 0usize..400) {
            let cut = cut.min(data.len());
            let (_, whole) = through("application/pdf", &[&data]);
            let (_, halves) = through("application/pdf", &[&data[..cut], &data[cut..]]);
            prop_assert_eq!(&whole.sha256, &halves.sha256);
            prop_assert_eq!(whole.sha256, hex(&Sha256::digest(&data)));
        }
    }
}
