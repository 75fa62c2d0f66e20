//! The frames on the wire: requests, responses and events as text or binary `WebSocket` messages.
//!
//! A pure codec. It knows nothing of sockets, clocks or the meaning of commands. The client encodes
//! requests and decodes what comes back; the sandbox engine does the reverse.
//!
//! Facts of the protocol (measured on the real server):
//! - A frame is either text JSON or binary: a one-line JSON header, `\n`, then the payload, which
//!   becomes `arguments.data`. The first 0x0A splits.
//! - Replies carry `request_seq`, arrive out of order, and their own `seq` is unrelated.
//! - A missing `success` counts as true; `message` of a failure may be empty.
//! - Newer servers may add keys, codes and events: unknown ones are kept or ignored, never an error.

use std::borrow::Cow;
use std::fmt;
use std::io::Write as _;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Most headers are not longer, in bytes.
const USUAL_HEADER: usize = 384;

/// The JSON object that carries a command's arguments.
pub type Arguments = Map<String, Value>;

/// One message as it travels: text, or a binary header line with a payload behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A JSON document.
    Text(String),
    /// A one-line JSON header, `\n`, payload.
    Binary(Bytes),
}

/// A request of the client.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Number of the request, unique on its connection; the reply names it in `request_seq`.
    pub seq: u64,
    /// The command, for example `rrext_process`.
    pub command: String,
    /// Its arguments, without the payload.
    pub arguments: Arguments,
    /// Raw bytes for `arguments.data`; their presence makes the frame binary.
    pub payload: Option<Bytes>,
}

/// A reply of the server.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Response {
    /// The server's own numbering; says nothing about order.
    pub seq: u64,
    /// The request this answers.
    pub request_seq: u64,
    /// The command it answers.
    pub command: String,
    /// False for a refusal that the server raised in front of the task.
    pub success: bool,
    /// The result. Its absence with `success` is how failures inside a task are masked.
    pub body: Option<Value>,
    /// The server's words on a failure; may be empty.
    pub message: Option<String>,
    /// The machine-readable cause that newer servers add.
    pub code: Option<String>,
    /// Where the server raised the failure.
    pub trace: Option<Trace>,
}

/// Where in the server's source a failure was raised.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Trace {
    /// Source file of the server.
    #[serde(default)]
    pub file: String,
    /// Line in it.
    #[serde(default)]
    pub lineno: u64,
}

/// Something the server tells unasked.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The server's own numbering.
    pub seq: u64,
    /// Name of the event, for example `apaevt_status_update`.
    pub event: String,
    /// Its content.
    pub body: Value,
}

/// What a client can receive.
#[derive(Debug, Clone, PartialEq)]
pub enum Incoming {
    /// The answer to a request.
    Response(Response),
    /// An event.
    Event(Event),
}

/// A frame that is not of this protocol. Such frames are never answered (the real server does not either).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A binary frame without a header line.
    #[error("binary frame without a newline after its header")]
    NoHeader,
    /// Text or header that is not JSON of the expected shape.
    #[error("not a protocol message: {0}")]
    Json(String),
    /// A message of a type that this side does not receive.
    #[error("unexpected message type {0:?}")]
    Type(String),
}

/// The union of everything a message may carry; `type` decides which part counts.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    request_seq: Option<u64>,
    #[serde(default)]
    command: String,
    #[serde(default)]
    arguments: Option<Arguments>,
    #[serde(default)]
    success: Option<bool>,
    #[serde(default)]
    body: Option<Value>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    code: Option<Value>,
    #[serde(default)]
    trace: Option<Trace>,
    #[serde(default)]
    event: Option<String>,
}

impl Request {
    /// The frame of this request: text without a payload, binary with one.
    pub fn encode(&self) -> Frame {
        let header = header(self.seq, &self.command, &self.arguments);
        match &self.payload {
            None => Frame::Text(header),
            Some(payload) => {
                let mut frame = Vec::with_capacity(header.len() + 1 + payload.len());
                frame.extend_from_slice(header.as_bytes());
                frame.push(b'\n');
                frame.extend_from_slice(payload);
                Frame::Binary(frame.into())
            }
        }
    }

    /// Reads a client's frame; what the server does.
    pub fn decode(frame: &Frame) -> Result<Self, FrameError> {
        let (header, payload) = match frame {
            Frame::Text(text) => (text.as_bytes(), None),
            Frame::Binary(bytes) => {
                let split = bytes.iter().position(|byte| *byte == b'\n').ok_or(FrameError::NoHeader)?;
                (&bytes[..split], Some(bytes.slice(split + 1..)))
            }
        };
        let envelope = parse(header)?;
        if envelope.kind != "request" {
            return Err(FrameError::Type(envelope.kind.into_owned()));
        }
        let arguments = match (envelope.arguments, &payload) {
            (Some(arguments), _) => arguments,
            (None, None) => Arguments::new(),
            // `"arguments":null` in a binary header is dropped by the real server.
            (None, Some(_)) => return Err(FrameError::Json("a binary header needs arguments".into())),
        };
        Ok(Self { seq: envelope.seq, command: envelope.command, arguments, payload })
    }
}

/// A request's JSON, which in a binary frame is the line before the payload.
///
/// It is one line whatever the strings hold: every control character in them is escaped.
pub(super) fn header(seq: u64, command: &str, arguments: &impl Serialize) -> String {
    let mut json = Vec::with_capacity(USUAL_HEADER);
    // Keys are strings and nothing in it fails to serialise; what is written is text. What is the same in every header is
    // written as it is: piece by piece it would be half of the work.
    let _ = write!(json, r#"{{"type":"request","seq":{seq},"command":"#);
    let _ = serde_json::to_writer(&mut json, command);
    let _ = json.write_all(br#","arguments":"#);
    let _ = serde_json::to_writer(&mut json, arguments);
    json.push(b'}');
    String::from_utf8(json).unwrap_or_default()
}

impl Response {
    /// The text frame of this reply; what the server sends.
    pub fn encode(&self) -> String {
        let mut message = serde_json::json!({
            "type": "response",
            "seq": self.seq,
            "request_seq": self.request_seq,
            "command": self.command,
            "success": self.success,
        });
        if let Some(body) = &self.body {
            message["body"] = body.clone();
        }
        if let Some(text) = &self.message {
            message["message"] = text.as_str().into();
        }
        if let Some(code) = &self.code {
            message["code"] = code.as_str().into();
        }
        if let Some(trace) = &self.trace {
            message["trace"] = serde_json::json!({"file": trace.file, "lineno": trace.lineno});
        }
        message.to_string()
    }
}

impl Event {
    /// The text frame of this event; what the server sends.
    pub fn encode(&self) -> String {
        serde_json::json!({"type": "event", "seq": self.seq, "event": self.event, "body": self.body}).to_string()
    }
}

impl Incoming {
    /// Reads a server's message. Never panics, whatever the bytes.
    pub fn decode(message: &[u8]) -> Result<Self, FrameError> {
        let envelope = parse(message)?;
        match envelope.kind.as_ref() {
            "response" => Ok(Self::Response(Response {
                seq: envelope.seq,
                request_seq: envelope
                    .request_seq
                    .ok_or_else(|| FrameError::Json("a response without request_seq".into()))?,
                command: envelope.command,
                success: envelope.success.unwrap_or(true),
                body: envelope.body.filter(|body| !body.is_null()),
                message: envelope.message,
                code: envelope.code.map(|code| match code {
                    Value::String(text) => text,
                    other => other.to_string(),
                }),
                trace: envelope.trace,
            })),
            "event" => Ok(Self::Event(Event {
                seq: envelope.seq,
                event: envelope.event.ok_or_else(|| FrameError::Json("an event without a name".into()))?,
                body: envelope.body.unwrap_or(Value::Null),
            })),
            other => Err(FrameError::Type(other.chars().take(40).collect())),
        }
    }
}

/// The request that a message answers which [`Incoming::decode`] could not read: nested too deep, cut off, with numbers
/// that JSON does not have. None for what is not a response, or broken before it says so.
///
/// Whoever waits for that reply would otherwise wait for nothing.
pub fn answered_request(message: &[u8]) -> Option<u64> {
    let mut seen = Seen::default();
    // Whatever breaks it comes behind what was seen.
    let _ = seen.deserialize(&mut serde_json::Deserializer::from_slice(message));
    seen.request_seq.filter(|_| seen.kind.is_none_or(|kind| kind == "response"))
}

/// What an envelope says at its top level, as far as it can be read. Values are skipped, however deep, not built.
#[derive(Default)]
struct Seen {
    kind: Option<String>,
    request_seq: Option<u64>,
}

impl<'de> DeserializeSeed<'de> for &mut Seen {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Seen {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "type" => self.kind = Some(map.next_value()?),
                "request_seq" => self.request_seq = Some(map.next_value()?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

fn parse(json: &[u8]) -> Result<Envelope<'_>, FrameError> {
    // Once for all: the parser would look at every string by itself.
    let text = std::str::from_utf8(json).map_err(|_| FrameError::Json("it is not UTF-8".into()))?;
    // The parser's message names only the position and the expectation, never the content: replies may hold secrets.
    serde_json::from_str(text).map_err(|error| {
        FrameError::Json(format!("{:?} error at line {} column {}", error.classify(), error.line(), error.column()))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn arguments() -> impl Strategy<Value = Arguments> {
        proptest::collection::btree_map(
            ".{0,12}",
            prop_oneof![".{0,20}".prop_map(Value::from), any::<i64>().prop_map(Value::from)],
            0..4,
        )
        .prop_map(|map| map.into_iter().collect())
    }

    proptest! {
        #[test]
        fn a_request_survives_the_wire(seq: u64, command in ".{0,20}", arguments in arguments(), payload in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300))) {
            let request = Request { seq, command, arguments, payload: payload.map(Bytes::from) };
            prop_assert_eq!(Request::decode(&request.encode()).unwrap(), request);
        }

        #[test]
        fn a_binary_header_is_one_line(command in "(?s).{0,20}", arguments in arguments()) {
            let request = Request { seq: 1, command, arguments, payload: Some(Bytes::from_static(b"\nx\n")) };
            let Frame::Binary(bytes) = request.encode() else { panic!("a payload makes the frame binary") };
            let split = bytes.iter().position(|byte| *byte == b'\n').unwrap();
            prop_assert_eq!(&bytes[split + 1..], b"\nx\n");
        }

        #[test]
        fn a_response_survives_the_wire(seq: u64, request_seq: u64, success: bool, message in proptest::option::of(".{0,20}"), body in proptest::option::of(arguments())) {
            let response = Response { seq, request_seq, command: "c".into(), success, body: body.map(Value::Object), message, code: None, trace: None };
            prop_assert_eq!(Incoming::decode(response.encode().as_bytes()).unwrap(), Incoming::Response(response));
        }

        #[test]
        fn any_bytes_are_an_answer_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Incoming::decode(&bytes);
            let _ = answered_request(&bytes);
            let _ = Request::decode(&Frame::Binary(bytes.into()));
        }
    }

    #[test]
    fn a_missing_success_counts_as_true_and_a_null_body_as_none() {
        let incoming =
            Incoming::decode(br#"{"type":"response","seq":9,"request_seq":3,"command":"x","body":null,"new":1}"#)
                .unwrap();
        let Incoming::Response(response) = incoming else { panic!("a response") };
        assert!(response.success);
        assert_eq!(response.body, None);
    }

    #[test]
    fn the_request_is_recognised_in_what_cannot_be_read() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        for (message, expected) in [
            (format!(r#"{{"type":"response","request_seq":7,"body":{deep}}}"#), Some(7)),
            (format!(r#"{{"body":{{"x":{deep}}},"request_seq":7,"type":"response"}}"#), Some(7)),
            (r#"{"type":"response","request_seq":7,"body":{"x":NaN}}"#.into(), Some(7)),
            (r#"{"type":"response","request_seq":7,"body":{"x":"#.into(), Some(7)),
            (r#"{"type":"response","request_seq":7,"success":"maybe"}"#.into(), Some(7)),
            (r#"{"type":"event","request_seq":7,"body":NaN}"#.into(), None),
            (format!(r#"{{"type":"event","event":"x","body":{deep}}}"#), None),
            (r#"{"type":"response","body":{"request_seq":7},"x":NaN}"#.into(), None),
            (r#"{"type":"response","request_seq":-7}"#.into(), None),
            ("[".repeat(100_000), None),
            (String::new(), None),
        ] {
            assert!(Incoming::decode(message.as_bytes()).is_err());
            assert_eq!(answered_request(message.as_bytes()), expected, "{message:.80}");
        }
    }

    #[test]
    fn errors_never_quote_the_message() {
        let error = Incoming::decode(br#"{"type":"response","userToken":"s3cret","#).unwrap_err();
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}
