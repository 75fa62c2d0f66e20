//! What an HTTP reply says: the same results and errors as on the `WebSocket` side.
//!
//! Pure. A status of 200 proves nothing here: a wrong token, a refused open and a failed node all come with it.

use serde_json::{Map, Value};

use crate::client::error::{Error, Result, ServerError};
use crate::client::result::PipelineResult;

/// The key under which a raw body's object comes back.
const OBJECT: &str = "body";
/// The step, as errors name it.
pub(super) const UPLOAD: &str = "upload";
const UNAUTHORIZED: u16 = 401;

/// A whole reply.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

impl Reply {
    /// Its `data`, if it has any, or what went wrong with this command.
    pub(super) fn data(&self, command: &str) -> Result<Option<Value>> {
        let body = match serde_json::from_slice(&self.body) {
            Ok(Value::Object(body)) => Some(body),
            _ => None,
        };
        let status = self.status;
        let refused = |body: Option<&Map<String, Value>>| {
            let mut words = words(command, body.unwrap_or(&Map::new()));
            if words.message.is_empty() && status != 200 {
                words.message = format!("the server answered HTTP {status}");
            }
            words
        };
        match (self.status, body) {
            (UNAUTHORIZED, body) => Err(Error::Authentication(refused(body.as_ref()))),
            (200..=299, None) => Err(Error::Protocol(format!("the reply to {command} is no JSON object"))),
            (200..=299, Some(mut body)) => match body.get("status").and_then(Value::as_str) {
                Some("OK") => Ok(body.remove("data").filter(|data| !data.is_null())),
                Some("Error") => Err(refused(Some(&body)).into_error()),
                _ => Err(Error::Protocol(format!("the reply to {command} has no status"))),
            },
            (300..=399, _) => Err(Error::Refused(ServerError {
                command: command.to_owned(),
                message: format!("the server answered HTTP {status}, and redirects are not followed: use its real uri"),
                ..ServerError::default()
            })),
            (_, body) => Err(refused(body.as_ref()).into_error()),
        }
    }

    /// The `data` as an object.
    pub(super) fn object(&self, command: &str) -> Result<Map<String, Value>> {
        match self.data(command)? {
            Some(Value::Object(data)) => Ok(data),
            _ => Err(Error::Protocol(format!("the reply to {command} has no data"))),
        }
    }

    /// The result of the one object that was sent, whose name is one of these.
    pub(super) fn uploaded(&self, names: [&str; 2]) -> Result<PipelineResult> {
        let Some(Value::Object(mut data)) = self.data(UPLOAD)? else { return Err(masked()) };
        let types = data.remove("resultTypes");
        let completed = data.get("objectsCompleted").and_then(Value::as_u64);
        let object = match data.remove("objects") {
            Some(Value::Object(mut objects)) => objects.remove(OBJECT),
            _ => None,
        };
        let Some(Value::Object(mut object)) = object else {
            return Err(match completed {
                Some(0) => pipe_failed("the server completed nothing and gave no reason"),
                _ => Error::Protocol("the reply to an upload has no object".into()),
            });
        };
        match object.remove("status").as_ref().and_then(Value::as_str) {
            Some("OK") => {}
            Some("Error") => return Err(words(UPLOAD, &object).into_error()),
            _ => return Err(Error::Protocol("the object in the reply to an upload has no status".into())),
        }
        if object.is_empty() {
            return Err(masked());
        }
        // On the other side the lane types are part of the result.
        if let Some(Value::Object(types)) = types
            && !types.is_empty()
            && !object.contains_key("result_types")
        {
            object.insert("result_types".into(), Value::Object(types));
        }
        let result = PipelineResult::new(object);
        if let Some(error) = result.error() {
            return Err(Error::PipeFailed(error));
        }
        match completed {
            None => return Err(Error::Protocol("the reply to an upload does not count its objects".into())),
            Some(0) => return Err(pipe_failed("the server completed nothing and gave no reason")),
            Some(_) => {}
        }
        if !result.name().is_some_and(|name| names.contains(&name)) {
            return Err(pipe_failed("the result belongs to an object of another name"));
        }
        Ok(result)
    }
}

/// The server's words in an object that tells of a failure; `detail` is its framework's.
fn words(command: &str, body: &Map<String, Value>) -> ServerError {
    let described = PipelineResult::new(body.clone()).error().unwrap_or_else(|| ServerError {
        message: match body.get("detail").or_else(|| body.get("message")) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        },
        ..ServerError::default()
    });
    ServerError { command: command.to_owned(), ..described }
}

fn masked() -> Error {
    pipe_failed("the pipeline refused the object or failed on it, and the server hides why")
}

fn pipe_failed(message: &str) -> Error {
    Error::PipeFailed(ServerError { command: UPLOAD.into(), message: message.into(), ..ServerError::default() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn reply(status: u16, body: &Value) -> Reply {
        Reply { status, body: body.to_string().into_bytes() }
    }

    fn sent(completed: u64, object: &Value) -> Value {
        json!({"status": "OK", "data": {"objectsRequested": 1, "objectsCompleted": completed,
               "resultTypes": {"text": "text"}, "objects": {"body": object}}})
    }

    #[test]
    fn a_result_is_the_same_as_on_the_other_side() {
        let object = json!({"name": "a", "objectId": "i", "text": ["x"], "status": "OK"});
        let result = reply(200, &sent(1, &object)).uploaded(["a", "a"]).unwrap();
        assert_eq!(result.text(), ["x"]);
        let expected = json!({"name": "a", "objectId": "i", "text": ["x"], "result_types": {"text": "text"}});
        assert_eq!(Value::Object(result.into_raw()), expected);
    }

    #[test]
    fn what_is_no_success_is_told_apart() {
        for (status, body, code, words) in [
            (
                401,
                json!({"status": "Error", "error": {"message": "Invalid API key"}}),
                "AUTHENTICATION_FAILED",
                "Invalid",
            ),
            (401, json!(null), "AUTHENTICATION_FAILED", "HTTP 401"),
            (
                200,
                sent(0, &json!({"status": "Error", "error": {"message": "Your pipeline is not running"}})),
                "PIPELINE_NOT_RUNNING",
                "not running",
            ),
            (200, sent(1, &json!({"status": "Error", "error": {"message": "odd"}})), "REFUSED", "odd"),
            (200, sent(1, &json!({"status": "OK"})), "PIPE_FAILED", "hides why"),
            (200, sent(0, &json!({"status": "OK", "name": "a"})), "PIPE_FAILED", "completed nothing"),
            (200, sent(1, &json!({"status": "OK", "name": "a", "error": {"message": "boom"}})), "PIPE_FAILED", "boom"),
            (200, sent(1, &json!({"status": "OK", "name": "b"})), "PIPE_FAILED", "another name"),
            (200, sent(1, &json!({"name": "a"})), "PROTOCOL_VIOLATION", "no status"),
            (200, json!({"status": "OK"}), "PIPE_FAILED", "hides why"),
            (200, json!({"status": "OK", "data": {"objectsCompleted": 0}}), "PIPE_FAILED", "completed nothing"),
            (
                200,
                json!({"status": "OK", "data": {"objects": {"body": {"name": "a", "status": "OK"}}}}),
                "PROTOCOL_VIOLATION",
                "count",
            ),
            (200, json!({"status": "Error", "error": {"message": "no"}}), "REFUSED", "no"),
            (200, json!([1]), "PROTOCOL_VIOLATION", "no JSON object"),
            (200, json!({}), "PROTOCOL_VIOLATION", "no status"),
            (422, json!({"detail": [{"msg": "Field required"}]}), "REFUSED", "Field required"),
            (502, json!("<html>"), "REFUSED", "HTTP 502"),
            (302, json!(null), "REFUSED", "redirects"),
        ] {
            let error = reply(status, &body).uploaded(["a", "a"]).unwrap_err();
            assert_eq!(error.code(), code, "{status} {body}: {error}");
            assert!(error.to_string().contains(words), "{status} {body}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_reply_is_a_result_or_an_error(status in 100_u16..600, body: Vec<u8>) {
            let reply = Reply { status, body };
            prop_assert!(reply.uploaded(["a", "a"]).is_err());
        }
    }
}
