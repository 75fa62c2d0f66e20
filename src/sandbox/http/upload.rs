//! Uploads: a raw body or a form becomes objects, one pipe each.
//!
//! It answers as the SDK inside the real server's front does, traps included: a refused open is an object of status OK
//! with nothing in it, a wrong token is HTTP 200, and a raw body that breaks off is committed as far as it came. Two
//! things differ, because nothing is held here: fields go one after the other, and a form that breaks off has its
//! first fields committed already.

use std::time::Duration;

use hyper::Request;
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE};
use multer::Multipart;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use http_body_util::BodyExt;

use super::body::{Broken, Pieces, Source, file_name, mime_type, mime_type_of};
use super::{Front, Reply, failure, success};
use crate::sandbox::commands::Answer;
use crate::sandbox::requests::Lost;

/// Fields of a form; one more is refused.
const MAX_FIELDS: usize = 1_000;

/// When an open is tried again whose task has no data port yet.
const OPEN_AGAIN: Duration = Duration::from_millis(250);

/// What became of an object: its result, or the words of the failure.
type Sent = Result<Map<String, Value>, String>;

/// Takes whatever the request carries.
pub(super) async fn take(front: &Front<'_>, request: Request<Incoming>) -> Result<Reply, Lost> {
    let sent = if mime_type_of(request.headers()) == "multipart/form-data" {
        match form(front, request).await? {
            Ok(sent) => sent,
            Err(message) => return Ok(failure(StatusCode::BAD_REQUEST, &message)),
        }
    } else {
        vec![("body".to_owned(), raw(front, request).await?)]
    };
    Ok(success(Some(&summary(sent))))
}

/// A raw body is one object.
async fn raw(front: &Front<'_>, request: Request<Incoming>) -> Result<Sent, Lost> {
    let headers = request.headers();
    let mime_type = mime_type_of(headers);
    let mut object = json!({"name": file_name(headers).unwrap_or_else(|| format!("stream-{}", Uuid::new_v4()))});
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if let Some(length) = length {
        object["size"] = length.into();
    }
    let pieces = Pieces::new(Source::Whole(request.into_body()));
    send(front, object, &mime_type, pieces).await
}

/// Every field of a form is an object, text fields too. An error is a form that cannot be read.
async fn form(front: &Front<'_>, request: Request<Incoming>) -> Result<Result<Vec<(String, Sent)>, String>, Lost> {
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let Ok(boundary) = multer::parse_boundary(content_type) else { return Ok(Err("Missing boundary".into())) };
    let mut fields = Multipart::new(request.into_body().into_data_stream(), boundary);
    let mut sent = Vec::new();
    loop {
        let field = match fields.next_field().await {
            Ok(None) => return Ok(Ok(sent)),
            Ok(Some(_)) if sent.len() == MAX_FIELDS => return Ok(Err("Too many fields".into())),
            Ok(Some(field)) => field,
            Err(error) => return Ok(Err(format!("the form cannot be read: {error}"))),
        };
        let key = field.name().unwrap_or("").to_owned();
        let file_name = field.file_name().map(str::to_owned);
        let mime_type = match &file_name {
            Some(_) => mime_type(field.content_type().map(AsRef::as_ref)),
            None => "text/plain".to_owned(),
        };
        let name = file_name.filter(|name| !name.is_empty()).unwrap_or_else(|| format!("{key}-{}", Uuid::new_v4()));
        let mut object = json!({"name": name});
        let mut pieces = Pieces::new(Source::Field(Box::new(field)));
        match pieces.is_empty().await {
            // Of other fields the size is known only at their end.
            Ok(true) => object["size"] = 0.into(),
            Ok(false) => {}
            Err(Broken) => return Ok(Err("the form breaks off".into())),
        }
        sent.push((key, send(front, object, &mime_type, pieces).await?));
    }
}

/// Open, write, close.
async fn send(front: &Front<'_>, object: Value, mime_type: &str, mut pieces: Pieces) -> Result<Sent, Lost> {
    let pipe_id = match open(front, &object, mime_type).await? {
        Ok(pipe_id) => pipe_id,
        Err(message) => return Ok(Err(message)),
    };
    let mut trouble = None;
    while trouble.is_none() {
        match pieces.next().await {
            Ok(None) => break,
            Ok(Some(piece)) => {
                let arguments = json!({"subcommand": "write", "pipe_id": pipe_id});
                if let Answer::Refused { message, .. } = front.ask("rrext_process", arguments, Some(piece)).await? {
                    trouble = Some(or(message, "Failed to write to a data pipe."));
                }
            }
            // Left to the reaper: a close would commit half of it. The form is refused where its next field is looked for.
            Err(Broken) if pieces.are_of_a_form() => return Ok(Err("the form breaks off".to_owned())),
            // Closed all the same, which commits what came.
            Err(Broken) => trouble = Some("the body breaks off".to_owned()),
        }
    }
    let arguments = json!({"subcommand": "close", "pipe_id": pipe_id});
    Ok(match (front.ask("rrext_process", arguments, None).await?, trouble) {
        (Answer::Refused { message, .. }, _) => Err(or(message, "Failed to close a data pipe.")),
        (_, Some(trouble)) => Err(trouble),
        (Answer::Body(Value::Object(result)), None) => Ok(result),
        // A masked failure looks like a result with nothing in it.
        (_, None) => Ok(Map::new()),
    })
}

/// The pipe, which is null after a refusal inside the task: nobody looks.
async fn open(front: &Front<'_>, object: &Value, mime_type: &str) -> Result<Result<Value, String>, Lost> {
    let mut again = true;
    loop {
        let arguments = json!({"subcommand": "open", "object": object, "mimeType": mime_type, "provider": null});
        match front.ask("rrext_process", arguments, None).await? {
            Answer::Refused { message, .. } if again && message.contains("Connect call failed") => {
                again = false;
                tokio::time::sleep(OPEN_AGAIN).await;
            }
            Answer::Refused { message, .. } => return Ok(Err(or(message, "Failed to open a data pipe."))),
            Answer::Body(body) => return Ok(Ok(body["pipe_id"].clone())),
            Answer::Empty | Answer::Silence => return Ok(Ok(Value::Null)),
        }
    }
}

/// The server's words, unless it has none.
fn or(message: String, fallback: &str) -> String {
    if message.is_empty() { fallback.to_owned() } else { message }
}

/// The reply's `data`. Fields of one name are numbered.
fn summary(sent: Vec<(String, Sent)>) -> Value {
    let names: Vec<String> = sent.iter().map(|(key, _)| key.clone()).collect();
    let (mut types, mut objects, mut completed) = (Map::new(), Map::new(), 0);
    for (at, (key, sent)) in sent.into_iter().enumerate() {
        let alone = names.iter().filter(|name| **name == key).count() == 1;
        let number = names[..at].iter().filter(|name| **name == key).count();
        let key = if alone { key } else { format!("{key}_{number}") };
        let object = match sent {
            Ok(mut result) => {
                if let Some(Value::Object(its)) = result.remove("result_types") {
                    types.extend(its);
                }
                result.insert("status".into(), "OK".into());
                completed += 1;
                Value::Object(result)
            }
            Err(message) => json!({"status": "Error", "error": {"message": message}}),
        };
        objects.insert(key, object);
    }
    json!({"objectsRequested": names.len(), "objectsCompleted": completed, "resultTypes": types, "objects": objects})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(name: &str) -> Map<String, Value> {
        Map::from_iter([("name".into(), name.into()), ("result_types".into(), json!({"text": "text"}))])
    }

    #[test]
    fn fields_of_one_name_are_numbered_and_a_failure_is_not_completed() {
        let sent = vec![
            ("file".to_owned(), Ok(result("a"))),
            ("note".to_owned(), Err("no".to_owned())),
            ("file".to_owned(), Ok(result("b"))),
        ];
        let expected = json!({
            "objectsRequested": 3,
            "objectsCompleted": 2,
            "resultTypes": {"text": "text"},
            "objects": {
                "file_0": {"name": "a", "status": "OK"},
                "file_1": {"name": "b", "status": "OK"},
                "note": {"status": "Error", "error": {"message": "no"}},
            },
        });
        assert_eq!(summary(sent), expected);
    }

    #[test]
    fn an_object_with_nothing_in_it_counts_as_completed() {
        let data = summary(vec![("body".to_owned(), Ok(Map::new()))]);
        assert_eq!((&data["objectsCompleted"], &data["objects"]["body"]), (&json!(1), &json!({"status": "OK"})));
    }
}
