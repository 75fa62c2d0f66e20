//! The data requests: `rrext_process` with open, write and close.
//!
//! Failures inside the task are masked here as the real engine masks them: an [`Answer::Empty`] that looks like
//! success. It must not know of sockets.

use crate::locks::lock;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use serde_json::{Value, json};
use uuid::Uuid;

use super::commands::{Answer, Call, not_running, pause};
use super::engine::{Engine, TaskRef};
use super::faults::Effect;
use super::lane::{Lane, Object, Summary};
use super::records::{Delivery, OpenRecord, WriteRecord};
use super::task::{Grant, Pipe, TaskState};

/// A payload above this is hashed on a blocking thread, so that it does not hold up the other requests.
const HASH_INLINE: usize = 1024 * 1024;

/// How much the header of a data request grows on its way into the task: a message this close to the limit of the
/// front no longer fits the task's own limit, and all pipes of the task are lost.
const RESERIALISED_GROWTH: usize = 64;

/// Carries a data request out.
pub(super) async fn process(engine: &Arc<Engine>, call: &Call<'_>) -> Answer {
    let Some(token) = call.token() else { return Answer::refused("Task token is required") };
    let (task, provider) = match engine.data_request(token, Instant::now()) {
        Ok(found) => found,
        Err(why) => return not_running(engine, why),
    };
    if let Some(wanted) = call.text("provider").filter(|wanted| *wanted != provider) {
        return Answer::refused(&format!("You are looking for a \"{wanted}\", but this pipeline isn't it"));
    }
    if call.frame + RESERIALISED_GROWTH > engine.options.max_message {
        engine.same(&task, super::task::Task::lose_pipes);
        return Answer::refused("Could not send request");
    }
    if call.effect == Some(&Effect::KillTask) {
        pause(call.delay).await;
        engine.set_state(&task, TaskState::Completed);
        return Answer::Silence;
    }
    match call.text("subcommand") {
        Some("open") => open(engine, call, &task).await,
        Some("write") => write(engine, call, &task).await,
        Some("close") => close(engine, call, &task).await,
        _ => Answer::Empty,
    }
}

async fn open(engine: &Engine, call: &Call<'_>, task: &TaskRef) -> Answer {
    let requested_at = Instant::now();
    pause(call.delay).await;
    if call.is_masked() {
        return Answer::Empty;
    }
    let raw = call.request.arguments.get("object").and_then(Value::as_object).cloned().unwrap_or_default();
    let object = Arc::new(Object::new(raw, call.text("mimeType").unwrap_or("").to_owned()));
    let grant = engine.same(task, |task| {
        (!task.start.nodes.refuses).then(|| task.open(Arc::clone(&object), requested_at, Instant::now()))
    });
    let Some(grant) = grant else { return Answer::Silence };
    let Some(grant) = grant else { return Answer::Empty };
    let pipe_id = match grant {
        Grant::Now(id) => id,
        Grant::Later(granted) => match granted.await {
            Ok(id) => id,
            // The task died: nobody who waited is answered.
            Err(_) => return Answer::Silence,
        },
    };
    let granted_at = Instant::now();
    if object.check().is_err() {
        return engine.same(task, |task| task.release(pipe_id, granted_at)).map_or(Answer::Silence, |()| Answer::Empty);
    }
    let record = OpenRecord { requested_at, granted_at, name: object.name.clone(), token: task.token.clone(), pipe_id };
    engine
        .same_with(task, |_, logs| logs.opens.push(record))
        .map_or(Answer::Silence, |()| Answer::Body(json!({"pipe_id": pipe_id})))
}

async fn write(engine: &Engine, call: &Call<'_>, task: &TaskRef) -> Answer {
    let data = match &call.request.payload {
        Some(payload) => payload.clone(),
        None => Bytes::copy_from_slice(call.text("data").unwrap_or("").as_bytes()),
    };
    let Some(pipe_id) = call.pipe_id() else { return Answer::Empty };
    let begun = engine.same_with(task, |task, logs| {
        let at = Instant::now();
        let lane = task.begin_write(pipe_id, at)?;
        logs.writes.push(WriteRecord { at, bytes: data.len(), token: task.start.tokens.token.clone(), pipe_id });
        Some(lane)
    });
    let lane = match begun {
        None => return Answer::Silence,
        Some(None) => return Answer::Empty,
        Some(Some(lane)) => lane,
    };
    pause(call.delay).await;
    if !call.is_masked() {
        take(engine, &lane, data).await;
    }
    engine.same(task, |task| task.end_write(pipe_id, &lane, Instant::now())).map_or(Answer::Silence, |()| Answer::Empty)
}

async fn take(engine: &Engine, lane: &Arc<Mutex<Lane>>, data: Bytes) {
    let work = |lane: &Mutex<Lane>, data: &[u8]| lock(lane).write(data);
    if data.len() <= HASH_INLINE {
        work(lane, &data);
        return;
    }
    let lane = Arc::clone(lane);
    if tokio::task::spawn_blocking(move || work(&lane, &data)).await.is_err() {
        engine.saw_panic();
    }
}

async fn close(engine: &Engine, call: &Call<'_>, task: &TaskRef) -> Answer {
    let Some(pipe_id) = call.pipe_id() else { return Answer::Empty };
    let (pipe, fails) = match engine.same(task, |task| (task.begin_close(pipe_id), task.start.nodes.fails.clone())) {
        None => return Answer::Silence,
        Some((None, _)) => return Answer::Empty,
        Some((Some(pipe), fails)) => (pipe, fails),
    };
    // The slot stays taken while the nodes work.
    pause(call.delay).await;
    if call.effect == Some(&Effect::Mask) {
        let released = engine.same(task, |task| task.release(pipe_id, Instant::now()));
        return released.map_or(Answer::Silence, |()| Answer::Empty);
    }
    let (mut body, summary) = {
        // A write that is still on its way keeps the old lane alive and is lost: the object is what arrived before.
        let mut lane = lock(&pipe.lane);
        std::mem::replace(&mut *lane, Lane::new(&pipe.object)).finish(&pipe.object)
    };
    if call.effect == Some(&Effect::WrongObjectId) {
        body["objectId"] = Uuid::new_v4().to_string().into();
    }
    let error = match call.effect {
        Some(Effect::NodeError { message }) => Some(message.clone()),
        _ => fails,
    };
    if let Some(message) = &error {
        body["error"] = json!({"message": message, "code": 1, "file": "sandbox", "line": 1, "function": "closing"});
    }
    let delivery = record(task, pipe_id, &pipe, summary, error);
    let committed = engine.same_with(task, |task, logs| {
        task.count(delivery.error.is_none());
        logs.deliveries.push(delivery);
        task.release(pipe_id, Instant::now());
    });
    committed.map_or(Answer::Silence, |()| Answer::Body(body))
}

fn record(task: &TaskRef, pipe_id: u64, pipe: &Pipe, summary: Summary, error: Option<String>) -> Delivery {
    Delivery {
        object_id: pipe.object.id.clone(),
        name: pipe.object.name.clone(),
        object: pipe.object.raw.clone(),
        mime_type: pipe.object.mime_type.clone(),
        bytes: summary.bytes,
        received: summary.received,
        sha256: summary.sha256,
        writes: summary.writes,
        lost_writes: summary.lost_writes,
        skipped: summary.skipped,
        error,
        token: task.token.clone(),
        pipe_id,
        requested_at: pipe.requested_at,
        opened_at: pipe.opened_at,
        committed_at: Instant::now(),
    }
}
