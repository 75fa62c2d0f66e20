//! One HTTP request and its answer: the connection, the credential, the waits, and what an error means.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Method, RequestBuilder, Url};
use rustls::RootCertStore;
use secrecy::{ExposeSecret as _, SecretString};

use super::body::Gauge;
use super::reply::{self, Reply};
use super::{HttpClient, no_bytes};
use crate::client::dial;
use crate::client::error::{Error, Result, ServerError};
use crate::client::options::CLIENT_NAME;
use crate::client::pipe::{CLOSE_PATIENCE, OPEN_LIMIT};

/// The server is unreachable when so many questions after the task in a row did not reach it.
const UNREACHABLE: u32 = 2;
/// What a larger reply looks like on the other side.
const CLOSE_TOO_BIG: u16 = 1009;

impl HttpClient {
    /// A request with the credential, and the token in the query where the server wants it.
    pub(super) async fn request(
        &self,
        method: Method,
        path: &str,
        token: Option<&SecretString>,
        query: &[(&str, String)],
    ) -> Result<RequestBuilder> {
        let options = &self.inner.options;
        let mut url = Url::parse(&format!("{}{path}", options.uri))
            .map_err(|error| Error::InvalidData(format!("invalid server uri {}: {error}", options.uri)))?;
        if let Some(token) = token {
            url.query_pairs_mut().append_pair("token", token.expose_secret());
        }
        for (key, value) in query {
            url.query_pairs_mut().append_pair(key, value);
        }
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", options.credential.expose_secret()))
            .map_err(|_| Error::InvalidData("the api key cannot be part of an HTTP header".into()))?;
        bearer.set_sensitive(true);
        Ok(self.http().await?.request(method, url).header(AUTHORIZATION, bearer))
    }

    /// Made at the first request: dozens of files are read for the system's roots.
    pub(super) async fn http(&self) -> Result<&reqwest::Client> {
        self.inner.http.get_or_try_init(|| self.make_http()).await
    }

    async fn make_http(&self) -> Result<reqwest::Client> {
        let options = &self.inner.options;
        let failed = |message: String| Error::Connect { uri: options.uri.to_string(), message };
        let tls = if options.uri.is_plaintext() {
            // Never used, but the HTTP client wants one, and must not choose for itself.
            dial::trusting(RootCertStore::empty())
        } else {
            let ca_file = options.ca_file.clone();
            let loaded = tokio::task::spawn_blocking(move || dial::tls_config(ca_file.as_deref())).await;
            loaded.map_err(|_| failed("loading the root certificates panicked".into()))?.map(Arc::unwrap_or_clone)
        };
        let agent = |name: &str| HeaderValue::from_str(&format!("{name}/{}", env!("CARGO_PKG_VERSION")));
        let agent = agent(&options.client_name).or_else(|_| agent(CLIENT_NAME));
        let pings = options.silence_timeout.as_secs() / options.ping_interval.as_secs().max(1);
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls.map_err(failed)?)
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .no_proxy()
            .pool_max_idle_per_host(0)
            .connect_timeout(options.connect_timeout)
            .tcp_nodelay(true)
            .tcp_keepalive(options.ping_interval)
            .tcp_keepalive_interval(options.ping_interval)
            .tcp_keepalive_retries(u32::try_from(pings).unwrap_or(u32::MAX).clamp(1, 100))
            .user_agent(agent.map_err(|error| failed(error.to_string()))?);
        // Its default of 30 s ends a connection whose server takes nothing for so long, which is how a server waits for a slot.
        #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
        {
            builder = builder.tcp_user_timeout(None);
        }
        if let Some(proxy) = &options.proxy {
            let mut through = reqwest::Proxy::all(proxy.to_string()).map_err(|error| failed(told(&error)))?;
            if let Some(authorization) = proxy.authorization() {
                let mut value = HeaderValue::from_str(authorization.expose_secret())
                    .map_err(|_| failed(format!("proxy {proxy}: its user or password cannot be sent")))?;
                value.set_sensitive(true);
                through = through.custom_http_auth(value);
            }
            builder = builder.proxy(through);
        }
        builder.build().map_err(|error| failed(told(&error)))
    }

    /// A request whose reply comes soon.
    pub(super) async fn within(&self, limit: Duration, what: &'static str, request: RequestBuilder) -> Result<Reply> {
        match tokio::time::timeout(limit, self.answer(request)).await {
            Ok(reply) => reply,
            Err(_) => Err(Error::TimedOut { what, after: limit }),
        }
    }

    /// The whole reply, which is never larger than `max_message`.
    pub(super) async fn answer(&self, request: RequestBuilder) -> Result<Reply> {
        let options = &self.inner.options;
        let lost = |error: reqwest::Error| {
            let message = dial::with_hint(told(&error));
            if error.is_connect() {
                Error::Connect { uri: options.uri.to_string(), message }
            } else {
                Error::ConnectionLost { code: None, message }
            }
        };
        let too_large = || Error::ConnectionLost {
            code: Some(CLOSE_TOO_BIG),
            message: format!("the reply is larger than {} bytes", options.max_message),
        };
        let mut response = request.send().await.map_err(lost)?;
        let status = response.status().as_u16();
        if response.content_length().is_some_and(|length| length > options.max_message as u64) {
            return Err(too_large());
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(lost)? {
            if body.len() + chunk.len() > options.max_message {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Reply { status, body })
    }

    /// Waits for the reply to an upload, which may take hours: for a slot, for a slow link, for the pipeline. Whenever
    /// nothing moved for a while, the task is asked for.
    pub(super) async fn watched(
        &self,
        token: &SecretString,
        gauge: &Gauge,
        reply: impl Future<Output = Result<Reply>> + Send,
    ) -> Result<Reply> {
        let mut reply = pin!(reply);
        let (mut seen, mut still_since) = ((0, false), Instant::now());
        let (mut started, mut unreachable) = (None, 0);
        loop {
            let finished = gauge.is_finished();
            let (what, span, limit) = if finished {
                let span = self.inner.result_timeout;
                ("close", span, span.saturating_mul(CLOSE_PATIENCE))
            } else {
                ("write", self.inner.options.silence_timeout, OPEN_LIMIT)
            };
            let now = (gauge.sent(), finished);
            if seen != now {
                (seen, still_since) = (now, Instant::now());
            }
            let left = limit.saturating_sub(still_since.elapsed());
            if let Ok(reply) = tokio::time::timeout(span.min(left), &mut reply).await {
                return reply;
            }
            if (gauge.sent(), gauge.is_finished()) != seen {
                continue;
            }
            if !finished && gauge.is_reading() {
                return Err(no_bytes(span));
            }
            if still_since.elapsed() >= limit {
                return Err(Error::TimedOut { what, after: limit });
            }
            let status = tokio::select! {
                biased;
                reply = &mut reply => return reply,
                status = self.task_status(token) => status,
            };
            match status {
                Ok(status) if !status.is_alive() => return Err(gone("the task has ended")),
                Ok(status) => {
                    unreachable = 0;
                    if started.is_none() {
                        started = status.start_time;
                    } else if status.start_time.is_some() && started != status.start_time {
                        return Err(gone("the task was restarted"));
                    }
                }
                Err(Error::NotRunning(refusal)) => return Err(Error::NotRunning(refusal)),
                Err(error @ (Error::Connect { .. } | Error::TimedOut { .. })) => {
                    unreachable += 1;
                    if unreachable >= UNREACHABLE {
                        return Err(Error::ConnectionLost { code: None, message: error.to_string() });
                    }
                }
                // Not an answer about the task.
                Err(error) => tracing::debug!(%error, step = what, "the task's status is unknown"),
            }
            tracing::debug!(waited_seconds = still_since.elapsed().as_secs(), step = what, "an upload takes long");
        }
    }
}

fn gone(why: &str) -> Error {
    let command = reply::UPLOAD.into();
    Error::NotRunning(ServerError { command, message: why.into(), ..ServerError::default() })
}

/// The words of the HTTP client, outermost last left out; never its URL, which holds the token.
fn told(error: &reqwest::Error) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let text = cause.to_string();
        if words.last() != Some(&text) {
            words.push(text);
        }
        source = cause.source();
    }
    if words.is_empty() { "the HTTP request failed".into() } else { words.join(": ") }
}
