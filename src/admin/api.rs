//! Paths to handlers: arguments in, JSON out, and nothing decided here.
//!
//! Everything that changes something is a POST, is checked by the guard as a write, and is logged with who asked.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use super::guard::{self, Access, Asked, Caller, Refusal};
use super::wire::{Allowed, Page, Problem, Reloaded, Selection, Target};
use super::{Desk, audited, explain, health, hints, list, metrics, page, repair, status};
use crate::blocking::blocking;
use crate::show::escaped;

/// Longest body of a request, in bytes: a thousand long paths.
const MAX_BODY: usize = 8 * 1024 * 1024;

/// Everything that is served.
pub fn router(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/", get(async || page::page()))
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(show_health))
        .route("/readyz", get(show_readiness))
        .route("/api/access", get(show_access))
        .route("/api/status", get(show_status))
        .route("/api/history", get(show_history))
        .route("/api/jobs", get(show_jobs))
        .route("/api/explain", get(show_explanation))
        .route("/api/audit", post(run_audit))
        .route("/api/retry", post(retry))
        .route("/api/forget", post(forget))
        .route("/api/pause", post(|desk, caller, target| set_paused(desk, caller, target, true)))
        .route("/api/resume", post(|desk, caller, target| set_paused(desk, caller, target, false)))
        .route("/api/rescan", post(rescan))
        .route("/api/reload", post(reload))
        .fallback(async || Failure::new(StatusCode::NOT_FOUND, "there is nothing of that name here"))
        .method_not_allowed_fallback(async || {
            Failure::new(StatusCode::METHOD_NOT_ALLOWED, "it is read by GET and changed by POST")
        })
        .layer(middleware::from_fn_with_state(desk.clone(), guarded))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(desk)
}

/// Headers that only a proxy sets.
const PASSED_ON: [&str; 5] = ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip"];
/// What needs no token.
const PUBLIC: [&str; 4] = ["/", "/metrics", "/healthz", "/readyz"];

/// Lets a request through that the guard has no objection to.
async fn guarded(
    State(desk): State<Arc<Desk>>,
    Extension(caller): Extension<Caller>,
    mut request: Request,
    next: Next,
) -> Response {
    let access = match *request.method() {
        Method::GET | Method::HEAD if PUBLIC.contains(&request.uri().path()) => Access::Public,
        Method::GET | Method::HEAD => Access::Read,
        _ => Access::Write,
    };
    let (host, origin) = (text(request.headers(), header::HOST), text(request.headers(), header::ORIGIN));
    let given = bearer(request.headers());
    let forwarded = PASSED_ON.iter().any(|name| request.headers().contains_key(*name));
    let configured = desk.running().config.admin.token.clone();
    let has_token = configured.is_some();
    let token = match (given, caller) {
        (Some(given), Caller::Remote(_)) => {
            let known = match configured {
                // The file is read anew each time, so that a replaced token holds at once.
                Some(secret) => blocking(move || secret.read()).await.map_err(|error| {
                    tracing::warn!(%error, "the admin token cannot be read: nobody is let in with one");
                }),
                None => Err(()),
            };
            Some(known.is_ok_and(|known| is_same(&known, &given)))
        }
        _ => None,
    };
    let asked = Asked { host: host.as_deref(), origin: origin.as_deref(), forwarded, token };
    match guard::check(caller, access, asked, has_token) {
        Ok(()) => {
            if access == Access::Write {
                say_who(caller, request.uri().path());
            }
            let write = guard::check(caller, Access::Write, asked, has_token).is_ok();
            request.extensions_mut().insert(Allowed { write, token_helps: has_token });
            next.run(request).await
        }
        Err(refusal) => {
            tracing::info!(?caller, path = %escaped(request.uri().path()), %refusal, "refused an operator's request");
            let code = match refusal {
                Refusal::Host => StatusCode::MISDIRECTED_REQUEST,
                Refusal::Origin | Refusal::NoToken => StatusCode::FORBIDDEN,
                Refusal::Token => StatusCode::UNAUTHORIZED,
            };
            Failure::new(code, refusal).into_response()
        }
    }
}

/// A header that is no text is one that nothing matches.
fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.get(name).map(|value| value.to_str().unwrap_or("\0").to_owned())
}

fn bearer(headers: &HeaderMap) -> Option<SecretString> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    value.strip_prefix("Bearer ").map(SecretString::from)
}

/// Compares hashes, so that the time it takes tells nothing of where the two differ.
fn is_same(known: &SecretString, given: &SecretString) -> bool {
    let hash = |secret: &SecretString| Sha256::digest(secret.expose_secret().trim());
    hash(known) == hash(given)
}

fn say_who(caller: Caller, action: &str) {
    match caller {
        Caller::Local { uid, pid } => tracing::info!(uid, pid, action, "an operator's command"),
        Caller::Remote(address) => tracing::info!(%address, action, "an operator's command"),
    }
}

/// A refusal with its sentence.
pub struct Failure {
    code: StatusCode,
    error: String,
}

impl Failure {
    /// A failure with this status.
    pub fn new(code: StatusCode, error: impl std::fmt::Display) -> Self {
        Self { code, error: error.to_string() }
    }

    /// What was asked for makes no sense, and why.
    pub fn bad(error: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }
}

impl From<crate::journal::Failure> for Failure {
    fn from(failure: crate::journal::Failure) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, failure)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response<Body> {
        (self.code, Json(Problem { error: self.error })).into_response()
    }
}

type Answer<T> = Result<Json<T>, Failure>;

async fn show_metrics(State(desk): State<Arc<Desk>>) -> Result<Response, Failure> {
    let text = blocking(move || metrics::text(&desk)).await;
    let text = text.map_err(|error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error))?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

async fn show_health(State(desk): State<Arc<Desk>>) -> Response {
    match health::dead(&desk) {
        None => "ok\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn show_readiness(State(desk): State<Arc<Desk>>) -> Response {
    match blocking(move || health::unready(&desk, &status::status(&desk))).await {
        None => "ready\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn show_access(Extension(allowed): Extension<Allowed>) -> Json<Allowed> {
    Json(allowed)
}

async fn show_history(State(desk): State<Arc<Desk>>) -> Json<super::wire::History> {
    Json(desk.history.samples())
}

async fn show_status(State(desk): State<Arc<Desk>>) -> Json<super::wire::Status> {
    Json(blocking(move || status::status(&desk)).await)
}

async fn show_jobs(State(desk): State<Arc<Desk>>, Query(query): Query<list::Query>) -> Answer<Page> {
    let (asked, read) = (desk.clone(), blocking(move || list::page(&desk, &query)));
    let (mut page, letters) = read.await?;
    hints::add(&asked, &mut page, letters).await;
    Ok(Json(page))
}

async fn show_explanation(
    State(desk): State<Arc<Desk>>,
    Query(query): Query<explain::Query>,
) -> Answer<super::wire::explain::Explanation> {
    explain::explain(&desk, query.path()?).await.map(Json)
}

async fn run_audit(State(desk): State<Arc<Desk>>) -> Answer<super::wire::audit::Audited> {
    audited::audit(&desk).await.map(Json)
}

async fn retry(State(desk): State<Arc<Desk>>, Json(selection): Json<Selection>) -> Answer<super::wire::Done> {
    repair::retry(&desk, selection).await.map(Json)
}

async fn forget(State(desk): State<Arc<Desk>>, Json(selection): Json<Selection>) -> Answer<super::wire::Done> {
    repair::forget(&desk, selection).await.map(Json)
}

async fn set_paused(
    State(desk): State<Arc<Desk>>,
    Extension(_): Extension<Caller>,
    Json(target): Json<Target>,
    paused: bool,
) -> Answer<super::wire::Targets> {
    blocking(move || repair::set_paused(&desk, &target, paused)).await.map(Json)
}

async fn reload(State(desk): State<Arc<Desk>>) -> Answer<Reloaded> {
    let (answer, outcome) = oneshot::channel();
    let gone = || Failure::new(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping");
    desk.reloads.send(answer).await.map_err(|_| gone())?;
    let outcome = outcome.await.map_err(|_| gone())?;
    outcome.map(Json).map_err(|rejected| Failure::new(StatusCode::UNPROCESSABLE_ENTITY, rejected))
}

async fn rescan(State(desk): State<Arc<Desk>>, Json(target): Json<Target>) -> Answer<super::wire::Targets> {
    repair::rescan(&desk, &target).map(Json)
}
