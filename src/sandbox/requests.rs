//! From a decoded request to its reply: who may ask at all, which trouble was ordered, then the command.
//!
//! It must not know what a command does to a task.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::commands::{self, Answer, Call};
use super::connection::Connection;
use super::engine::{Engine, Identity, USER};
use super::faults::{Effect, Matched, Verdict};
use super::monitor::{self, Scope};
use crate::client::protocol::{Arguments, Request};

/// Logins that one connection may try.
const MAX_LOGINS: u32 = 5;

/// A login takes this long, so that a request sent without awaiting its reply is refused, as on the real server.
const LOGIN_TIME: Duration = Duration::from_millis(2);

/// CLOSE 1000: how every refused login ends.
const CLOSE_NORMAL: u16 = 1000;

/// Answers one request, or does not.
pub(super) async fn handle(
    engine: &Arc<Engine>,
    connection: &Arc<Connection>,
    identity: Option<Identity>,
    request: Request,
    size: usize,
) {
    // The real server's thread pool keeps no order among requests that are under way at one time; this makes it plain.
    for _ in 0..fastrand::u8(0..3) {
        tokio::task::yield_now().await;
    }
    let verdict = judge(engine, identity.as_ref(), &request);
    match &verdict.effect {
        Some(Effect::Hang) => return,
        Some(Effect::CutBefore) => return connection.cut(),
        Some(Effect::Close { code, reason }) => return connection.close(*code, reason),
        Some(Effect::Refuse { message, code }) => {
            commands::pause(verdict.delay).await;
            let answer = Answer::Refused { message: message.clone(), code: code.clone() };
            return refuse(connection, &request, answer, request.command == "auth").await;
        }
        _ => {}
    }
    let answer = match (request.command.as_str(), &identity) {
        ("auth", _) => {
            commands::pause(verdict.delay).await;
            log_in(engine, connection, &request).await
        }
        (_, None) => Err(Answer::refused("Not authenticated")),
        ("deauth", Some(_)) => {
            connection.set_identity(None);
            Ok(Answer::Empty)
        }
        ("rrext_monitor", Some(identity)) => {
            commands::pause(verdict.delay).await;
            Ok(match verdict.effect {
                Some(Effect::Mask | Effect::NodeError { .. }) => Answer::Empty,
                _ => subscribe(engine, connection, identity, &request).await,
            })
        }
        (_, Some(identity)) => {
            let effect = verdict.effect.as_ref();
            let call = Call { identity, request: &request, frame: size, delay: verdict.delay, effect };
            Ok(commands::carry_out(engine, call).await)
        }
    };
    match answer {
        _ if verdict.effect == Some(Effect::CutAfter) => connection.cut(),
        Ok(answer) => connection.reply(&request, answer).await,
        Err(answer) => refuse(connection, &request, answer, true).await,
    }
}

/// Takes a subscription and says at once where things stand, before the reply.
async fn subscribe(engine: &Engine, connection: &Connection, identity: &Identity, request: &Request) -> Answer {
    if let Some(refused) = commands::forbidden(identity, &request.command) {
        return refused;
    }
    let scope = match scope(engine, identity, &request.arguments) {
        Ok(scope) => scope,
        Err(refused) => return refused,
    };
    let set = connection.monitors().set(scope.clone(), monitor::kinds(&request.arguments));
    let Some(new) = set else { return Answer::refused("Too many subscriptions") };
    if new & monitor::SUMMARY != 0
        && let Some(standing) = engine.standing(&scope)
    {
        connection.tell(&standing).await;
    }
    if new & monitor::TASK != 0 {
        connection.tell(&engine.running(identity)).await;
    }
    Answer::Empty
}

/// A task by its token, all tasks, or a pipeline that need not run yet. A task credential is locked to its task.
fn scope(engine: &Engine, identity: &Identity, arguments: &Arguments) -> Result<Scope, Answer> {
    let pipe = arguments.get("pipeId").and_then(Value::as_u64);
    let (project, source) = (commands::text(arguments, "projectId"), commands::text(arguments, "source"));
    let token = match identity {
        Identity::Account => commands::text(arguments, "token"),
        Identity::Task(token) | Identity::Public(token) => Some(token.as_str()),
    };
    match (token, project, source) {
        (Some("*"), None, None) => Ok(Scope::All),
        (Some(token), None, None) => engine
            .task(token, |task| (task.start.project_id.clone(), task.start.source.clone()))
            .map(|(project, source)| Scope::Pipeline { project, source, pipe })
            .ok_or_else(|| commands::not_running(engine, None)),
        (None, Some(project), Some(source)) => {
            Ok(Scope::Pipeline { project: project.to_owned(), source: source.to_owned(), pipe })
        }
        _ => Err(Answer::refused("Either a token or projectId and source are needed")),
    }
}

/// Why a request of this process has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// Whoever asks on somebody's behalf loses that connection.
    Cut,
    /// Nobody is ever answered.
    Never,
}

/// Carries out a request of the front that serves HTTP: the same commands, the same trouble, no connection.
pub(super) async fn ask(engine: &Arc<Engine>, identity: &Identity, request: &Request) -> Result<Answer, Lost> {
    let verdict = judge(engine, Some(identity), request);
    match &verdict.effect {
        Some(Effect::Hang) => return Err(Lost::Never),
        Some(Effect::CutBefore | Effect::Close { .. }) => return Err(Lost::Cut),
        Some(Effect::Refuse { message, code }) => {
            commands::pause(verdict.delay).await;
            return Ok(Answer::Refused { message: message.clone(), code: code.clone() });
        }
        _ => {}
    }
    let frame = request.payload.as_ref().map_or(0, bytes::Bytes::len);
    let call = Call { identity, request, frame, delay: verdict.delay, effect: verdict.effect.as_ref() };
    match commands::carry_out(engine, call).await {
        _ if verdict.effect == Some(Effect::CutAfter) => Err(Lost::Cut),
        Answer::Silence => Err(Lost::Never),
        answer => Ok(answer),
    }
}

fn judge(engine: &Engine, identity: Option<&Identity>, request: &Request) -> Verdict {
    if engine.faults.is_empty() {
        return Verdict::default();
    }
    let object = identity.and_then(|identity| commands::object_name(engine, identity, request));
    engine.faults.judge(&Matched {
        command: &request.command,
        subcommand: request.arguments.get("subcommand").and_then(Value::as_str),
        object: object.as_deref(),
        payload: request.payload.as_ref().map_or(0, bytes::Bytes::len),
    })
}

async fn refuse(connection: &Connection, request: &Request, answer: Answer, close: bool) {
    connection.reply(request, answer).await;
    if close {
        connection.close(CLOSE_NORMAL, "");
    }
}

async fn log_in(engine: &Engine, connection: &Connection, request: &Request) -> Result<Answer, Answer> {
    let attempts = {
        let mut login = connection.login();
        login.attempts += 1;
        login.attempts
    };
    if attempts > MAX_LOGINS {
        return Err(Answer::refused("Too many authentication attempts"));
    }
    tokio::time::sleep(LOGIN_TIME).await;
    let credential = request.arguments.get("auth").and_then(Value::as_str).unwrap_or("");
    let identity = engine.identify(credential).map_err(Answer::refused)?;
    connection.set_identity(Some(identity));
    Ok(Answer::Body(json!({
        // The real server echoes the credential, too.
        "userToken": credential,
        "userId": USER,
        "displayName": "Sandbox",
        "organizations": [{"id": "sandbox", "name": "Sandbox", "permissions": [], "teams": []}],
        "serverVersion": concat!("sandbox-", env!("CARGO_PKG_VERSION")),
    })))
}
