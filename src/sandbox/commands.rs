//! What a request does, from the arguments to the answer; the data requests are in [`data`].
//!
//! It must not know of sockets: a connection is an [`Identity`] here, and an answer that is never given is
//! [`Answer::Silence`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::data;
use super::engine::{Engine, Identity, Started, TaskRef, tokens_of};
use super::faults::Effect;
use super::task::{Nodes, NotRunning, Start, TaskState};
use crate::client::protocol::{Arguments, Request};

/// What a client gets to hear.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    /// Success with a body.
    Body(Value),
    /// Success without one: done, or a masked failure.
    Empty,
    /// `success:false`.
    Refused { message: String, code: Option<String> },
    /// Nothing, ever.
    Silence,
}

impl Answer {
    pub(super) fn refused(message: &str) -> Self {
        Self::Refused { message: message.to_owned(), code: None }
    }
}

/// One request, with the trouble that was ordered for it.
pub(super) struct Call<'a> {
    pub(super) identity: &'a Identity,
    pub(super) request: &'a Request,
    /// Size of the whole message.
    pub(super) frame: usize,
    pub(super) delay: Duration,
    pub(super) effect: Option<&'a Effect>,
}

impl Call<'_> {
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        text(&self.request.arguments, key)
    }

    /// A connection that is locked to a task ignores the `token` argument.
    pub(super) fn token(&self) -> Option<&str> {
        match self.identity {
            Identity::Account => self.text("token"),
            Identity::Task(token) | Identity::Public(token) => Some(token),
        }
    }

    pub(super) fn pipe_id(&self) -> Option<u64> {
        self.request.arguments.get("pipe_id").and_then(Value::as_u64)
    }

    /// Not processed, as if a node had raised.
    pub(super) fn is_masked(&self) -> bool {
        matches!(self.effect, Some(Effect::Mask | Effect::NodeError { .. }))
    }
}

/// The name of the object that a request is about, for the fault rules.
pub(super) fn object_name(engine: &Engine, identity: &Identity, request: &Request) -> Option<String> {
    let call = Call { identity, request, frame: 0, delay: Duration::ZERO, effect: None };
    if let Some(object) = request.arguments.get("object") {
        return object.get("name").and_then(Value::as_str).map(str::to_owned);
    }
    let id = call.pipe_id()?;
    engine.task(call.token()?, |task| task.pipe(id).map(|pipe| pipe.object.name.clone()))?
}

/// Carries a request out.
pub(super) async fn carry_out(engine: &Arc<Engine>, call: Call<'_>) -> Answer {
    let command = call.request.command.as_str();
    if command == "rrext_process" {
        return data::process(engine, &call).await;
    }
    pause(call.delay).await;
    if call.is_masked() {
        return Answer::Empty;
    }
    if let Some(refused) = forbidden(call.identity, command) {
        return refused;
    }
    match command {
        "rrext_ping" => Answer::Body(json!({"pong": true})),
        "execute" => execute(engine, &call.request.arguments).await,
        "terminate" => terminate(engine, call.token()).await,
        "rrext_get_task_status" => status(engine, call.token()),
        "rrext_get_tasks" => Answer::Body(json!({"tasks": engine.list()})),
        "rrext_get_token" => find_token(engine, &call),
        other => Answer::refused(&format!("Unknown command: {other}")),
    }
}

/// What a credential that is locked to a task may not do: a task token starts nothing, a public key only sends data.
pub(super) fn forbidden(identity: &Identity, command: &str) -> Option<Answer> {
    let missing = match (identity, command) {
        (Identity::Account, _) | (_, "rrext_ping") => return None,
        (_, "execute") | (Identity::Public(_), "terminate") => "task.control",
        (Identity::Task(_), _) => return None,
        (Identity::Public(_), _) => "task.monitor",
    };
    Some(Answer::refused(&format!("Permission {missing} is required")))
}

async fn execute(engine: &Arc<Engine>, arguments: &Arguments) -> Answer {
    let start = match parse_start(engine, arguments) {
        Ok(start) => start,
        Err(message) => return Answer::refused(message),
    };
    let use_existing = arguments.get("useExisting").and_then(Value::as_bool).unwrap_or(false);
    let task = loop {
        // Registered before the look, so that no change is missed in between.
        let changed = engine.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        match engine.start(start.clone(), Instant::now()) {
            Started::New(task) => {
                if !start_up(engine, &task).await {
                    return Answer::Silence;
                }
                break task;
            }
            Started::Existing(..) if !use_existing => return Answer::refused("Pipeline is already running."),
            Started::Existing(task, TaskState::Running) => break task,
            Started::Existing(..) => changed.await,
            Started::Full => return Answer::refused("Too many tasks"),
        }
    };
    // What is running answers, not what was asked for: an existing task keeps its own provider.
    engine
        .same(&task, |task| {
            json!({
                "id": task.id(),
                "token": task.start.tokens.token,
                "publicToken": task.start.tokens.public,
                "projectId": task.start.project_id,
                "source": task.start.source,
                "provider": task.start.provider,
            })
        })
        .map_or(Answer::Silence, Answer::Body)
}

/// Through the states up to running; false when the task ended on the way.
async fn start_up(engine: &Engine, task: &TaskRef) -> bool {
    let half = engine.options.start_delay / 2;
    pause(half).await;
    if !engine.set_state(task, TaskState::Initializing) {
        return false;
    }
    pause(half).await;
    engine.set_state(task, TaskState::Running)
}

/// A pipeline is any object with a project, a source and components; the sandbox runs none of them but its own [`Nodes`].
fn parse_start(engine: &Engine, arguments: &Arguments) -> Result<Start, &'static str> {
    let pipeline = arguments.get("pipeline").and_then(Value::as_object).ok_or("Pipeline is required")?;
    let project_id = text(pipeline, "project_id").ok_or("Pipeline has no project_id")?;
    let components = pipeline.get("components").and_then(Value::as_array).ok_or("Pipeline has no components")?;
    let source = text(arguments, "source").or_else(|| text(pipeline, "source")).ok_or("Pipeline has no source")?;
    let component = components.iter().find(|component| component.get("id").and_then(Value::as_str) == Some(source));
    let component = component.ok_or("Pipeline has no component of its source's id")?;
    let provider = component.get("provider").and_then(Value::as_str).unwrap_or("webhook");
    let threads = match arguments.get("threads") {
        None | Some(Value::Null) => engine.options.threads,
        Some(threads) => threads.as_u64().and_then(|threads| usize::try_from(threads).ok()).ok_or("Bad threads")?,
    };
    let ttl = match arguments.get("ttl") {
        None | Some(Value::Null) => engine.options.ttl,
        Some(ttl) => {
            let ttl = ttl.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).ok_or("Bad ttl")?;
            Some(ttl).filter(|ttl| !ttl.is_zero())
        }
    };
    let mut tokens = tokens_of(project_id, source);
    if let Some(token) = text(arguments, "token") {
        token.clone_into(&mut tokens.token);
    }
    Ok(Start {
        tokens,
        project_id: project_id.to_owned(),
        source: source.to_owned(),
        provider: provider.to_owned(),
        name: text(arguments, "name").or_else(|| text(pipeline, "name")).unwrap_or(source).to_owned(),
        threads,
        nodes: Nodes::of(components),
        ttl,
    })
}

async fn terminate(engine: &Engine, token: Option<&str>) -> Answer {
    let Some(token) = token else { return Answer::refused("Task token is required") };
    let task = engine.task(token, |task| (task.epoch, task.is_over()));
    let Some((epoch, over)) = task else { return not_running(engine, None) };
    let task = TaskRef { token: token.to_owned(), epoch };
    if !over && engine.set_state(&task, TaskState::Stopping) {
        pause(engine.options.stop_delay).await;
        engine.set_state(&task, TaskState::Cancelled);
    }
    Answer::Empty
}

fn status(engine: &Engine, token: Option<&str>) -> Answer {
    let Some(token) = token else { return Answer::refused("Task token is required") };
    engine.task(token, |task| task.status()).map_or_else(|| not_running(engine, None), Answer::Body)
}

fn find_token(engine: &Engine, call: &Call<'_>) -> Answer {
    let token = tokens_of(call.text("projectId").unwrap_or(""), call.text("source").unwrap_or("")).token;
    match engine.task(&token, |task| !task.is_over()) {
        Some(true) => Answer::Body(json!({"token": token})),
        _ => not_running(engine, None),
    }
}

/// The refusals that are raised in front of a task; none: the token is unknown.
pub(super) fn not_running(engine: &Engine, why: Option<NotRunning>) -> Answer {
    let (message, code) = match why {
        None => ("Your pipeline is not running", Some("TASK_NOT_REGISTERED")),
        Some(NotRunning::NotYet) => ("[Errno 111] Connect call failed ('127.0.0.1', 20000)", None),
        Some(NotRunning::Stopping) => ("Task is terminating, cannot process data requests", None),
        Some(NotRunning::Completed) => ("Task has already completed", Some("TASK_COMPLETED")),
        Some(NotRunning::Cancelled) => ("", Some("TASK_STOPPED")),
    };
    let code = code.filter(|_| engine.options.codes).map(str::to_owned);
    Answer::Refused { message: message.to_owned(), code }
}

/// A string argument that is there and not empty.
pub(super) fn text<'a>(arguments: &'a Arguments, key: &str) -> Option<&'a str> {
    arguments.get(key).and_then(Value::as_str).filter(|value| !value.is_empty())
}

pub(super) async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}
