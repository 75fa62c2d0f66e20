//! Tasks: a pipeline is started as a task, asked for its status, terminated.
//!
//! It knows nothing of files to upload. Tokens are secrets: whoever holds one can send data.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};

use super::connection::{Connection, Wait};
use super::error::{Error, Result};
use super::pipeline::{load_pipeline, unwrap_pipeline};
use super::protocol::{Arguments, Response};

/// A start may load models for minutes; an end waits for what is running.
pub const START_TIMEOUT: Duration = Duration::from_secs(600);
/// The only variables that the server passes on to a task.
const ENV_PREFIX: &str = "ROCKETRIDE_";

/// How to start a pipeline. `Debug` shows neither its content nor the token.
#[derive(Clone)]
pub struct ExecuteOptions {
    /// The pipeline itself, bare or wrapped in `{"pipeline": ...}`.
    pub pipeline: Value,
    /// Which source component to run, if the pipeline has several.
    pub source: Option<String>,
    /// Pipes that can be open at once; never 0, which would make every open hang. None: the server's default.
    pub threads: Option<u32>,
    /// Idle time after which the server ends the task; zero is never. None: the server's 900 s.
    pub ttl: Option<Duration>,
    /// Arguments of the task.
    pub args: Vec<String>,
    /// A name to show.
    pub name: Option<String>,
    /// A token of the caller's choice; else the server derives one from user, project and source.
    pub token: Option<SecretString>,
    /// Joins a task that already runs instead of failing with "Pipeline is already running.".
    pub use_existing: bool,
    /// Variables for the task, each beginning with `ROCKETRIDE_`.
    pub env: BTreeMap<String, String>,
    /// How much the engine traces.
    pub trace_level: Option<String>,
    /// How long the start may take.
    pub start_timeout: Duration,
}

impl ExecuteOptions {
    /// Starts this pipeline, or joins it when it already runs.
    pub fn new(pipeline: Value) -> Self {
        Self {
            pipeline,
            source: None,
            threads: None,
            ttl: None,
            args: Vec::new(),
            name: None,
            token: None,
            use_existing: true,
            env: BTreeMap::new(),
            trace_level: None,
            start_timeout: START_TIMEOUT,
        }
    }

    /// Starts the pipeline in this `.pipe`, JSON or JSON5 file, or joins it when it already runs; shown by the name of the
    /// file. Blocks for the time of reading a small file.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let base = path.file_name().unwrap_or_default().to_string_lossy();
        let name = [".pipe.json", ".pipe"].iter().find_map(|suffix| base.strip_suffix(suffix)).unwrap_or(&base);
        Ok(Self { name: Some(name.to_owned()), ..Self::new(load_pipeline(path)?) })
    }

    fn arguments(self) -> Result<Arguments> {
        let pipeline = unwrap_pipeline(self.pipeline);
        let mut pipeline = pipeline.map_err(|why| Error::InvalidData(format!("not a pipeline: {why}")))?;
        if self.threads == Some(0) {
            return Err(Error::InvalidData("a pipeline with 0 threads would never grant a pipe".into()));
        }
        if let Some(key) = self.env.keys().find(|key| !key.starts_with(ENV_PREFIX)) {
            return Err(Error::InvalidData(format!("variable {key:?} of a pipeline must begin with {ENV_PREFIX}")));
        }
        if let Some(source) = self.source {
            pipeline.insert("source".into(), source.into());
        }
        let mut arguments = Arguments::new();
        arguments.insert("pipeline".into(), Value::Object(pipeline));
        arguments.insert("args".into(), self.args.into());
        arguments.insert("useExisting".into(), self.use_existing.into());
        let optional = [
            ("threads", self.threads.map(Value::from)),
            ("ttl", self.ttl.map(|ttl| whole_seconds(ttl).into())),
            ("name", self.name.map(Value::from)),
            ("token", self.token.map(|token| token.expose_secret().into())),
            ("pipelineTraceLevel", self.trace_level.map(Value::from)),
            ("env", (!self.env.is_empty()).then(|| self.env.into_iter().collect())),
        ];
        for (key, value) in optional {
            if let Some(value) = value {
                arguments.insert(key.into(), value);
            }
        }
        Ok(arguments)
    }
}

/// Rounded up: a part of a second would become 0, which is never.
fn whole_seconds(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

impl From<Value> for ExecuteOptions {
    fn from(pipeline: Value) -> Self {
        Self::new(pipeline)
    }
}

impl fmt::Debug for ExecuteOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecuteOptions")
            .field("name", &self.name)
            .field("source", &self.source)
            .field("threads", &self.threads)
            .field("ttl", &self.ttl)
            .field("use_existing", &self.use_existing)
            .finish_non_exhaustive()
    }
}

/// A started task.
#[derive(Debug, Clone)]
pub struct TaskInfo {
    /// Addresses the task in every later call; dies with the task.
    pub token: SecretString,
    /// A credential that can only send data to this task.
    pub public_token: Option<SecretString>,
    /// The server's id of the task.
    pub id: Option<String>,
    /// The pipeline's project.
    pub project_id: Option<String>,
    /// The source component that runs.
    pub source: Option<String>,
    /// The kind of that source, for example `webhook`.
    pub provider: Option<String>,
}

/// A line in the list of tasks. `Debug` does not show what the server sent: there are tokens in it.
#[derive(Clone)]
#[non_exhaustive]
pub struct TaskEntry {
    /// Addresses the task, if the server tells it.
    pub token: Option<SecretString>,
    /// Its name, for people.
    pub name: Option<String>,
    /// Everything the server sent; the set of fields is the server's.
    pub raw: Map<String, Value>,
}

impl TaskEntry {
    fn new(raw: Map<String, Value>) -> Self {
        let text = |key: &str| raw.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        Self { token: text("token").map(SecretString::from), name: text("name").map(str::to_owned), raw }
    }
}

impl fmt::Debug for TaskEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskEntry").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a task is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    /// 0: known, nothing happened yet.
    None,
    /// 1.
    Starting,
    /// 2.
    Initializing,
    /// 3.
    Running,
    /// 4.
    Stopping,
    /// 5: ended; a killed task says so too.
    Completed,
    /// 6.
    Cancelled,
    /// A state of a newer server, or none at all.
    Other(Option<i64>),
}

impl TaskState {
    fn from_number(number: Option<i64>) -> Self {
        match number {
            Some(0) => Self::None,
            Some(1) => Self::Starting,
            Some(2) => Self::Initializing,
            Some(3) => Self::Running,
            Some(4) => Self::Stopping,
            Some(5) => Self::Completed,
            Some(6) => Self::Cancelled,
            other => Self::Other(other),
        }
    }

    /// Whether requests that it has may still be answered. Unknown states count: giving up is what must be certain.
    pub fn is_alive(self) -> bool {
        !matches!(self, Self::Stopping | Self::Completed | Self::Cancelled)
    }
}

/// The server's word on a task.
#[derive(Debug, Clone)]
pub struct TaskStatus {
    /// What it is doing.
    pub state: TaskState,
    /// The same in the server's words.
    pub status: String,
    /// Whether it has ended.
    pub completed: bool,
    /// When it started, as the server tells it. A different value under the same token is a different task, which knows
    /// nothing of the first one's pipes.
    pub start_time: Option<Value>,
    /// Everything the server sent.
    pub raw: Map<String, Value>,
}

impl TaskStatus {
    pub(super) fn new(raw: Map<String, Value>) -> Self {
        Self {
            state: TaskState::from_number(raw.get("state").and_then(Value::as_i64)),
            status: raw.get("status").and_then(Value::as_str).unwrap_or_default().to_owned(),
            completed: raw.get("completed").and_then(Value::as_bool).unwrap_or_default(),
            start_time: raw.get("startTime").filter(|time| !time.is_null()).cloned(),
            raw,
        }
    }

    /// Whether it is sure to take data now. Not the opposite of having ended: it may be starting.
    pub fn is_running(&self) -> bool {
        self.state == TaskState::Running && !self.completed
    }

    /// Whether requests that the task has may still be answered.
    pub fn is_alive(&self) -> bool {
        self.state.is_alive() && !self.completed
    }
}

impl Connection {
    /// Asks for a sign of life.
    pub async fn ping(&self) -> Result<()> {
        let wait = Wait::Timeout(self.request_timeout());
        self.request("rrext_ping", Arguments::new(), None, wait).await.map(drop)
    }

    /// Starts a pipeline and waits until it runs, which can take minutes.
    pub async fn execute(&self, options: ExecuteOptions) -> Result<TaskInfo> {
        let wait = Wait::Timeout(options.start_timeout);
        let body = object(self.request("execute", options.arguments()?, None, wait).await?)?;
        let text = |key: &str| body.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        Ok(TaskInfo {
            token: text("token").ok_or_else(|| Error::Protocol("the reply to execute has no token".into()))?.into(),
            public_token: text("publicToken").map(SecretString::from),
            id: text("id").map(str::to_owned),
            project_id: text("projectId").map(str::to_owned),
            source: text("source").map(str::to_owned),
            provider: text("provider").map(str::to_owned),
        })
    }

    /// What a task is doing; [`Error::NotRunning`] if the server does not know the token.
    pub async fn task_status(&self, token: &SecretString, timeout: Duration) -> Result<TaskStatus> {
        let reply = self.request("rrext_get_task_status", addressed(token), None, Wait::Timeout(timeout)).await?;
        object(reply).map(TaskStatus::new)
    }

    /// The tasks that the credential may see.
    pub async fn tasks(&self) -> Result<Vec<TaskEntry>> {
        let wait = Wait::Timeout(self.request_timeout());
        let mut body = object(self.request("rrext_get_tasks", Arguments::new(), None, wait).await?)?;
        let wrong = || Error::Protocol("the reply to rrext_get_tasks has no list of tasks".into());
        match body.remove("tasks") {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(tasks)) => tasks
                .into_iter()
                .map(|task| match task {
                    Value::Object(task) => Ok(TaskEntry::new(task)),
                    _ => Err(wrong()),
                })
                .collect(),
            Some(_) => Err(wrong()),
        }
    }

    /// Ends a task; everything in its pipes is lost. Takes up to some seconds.
    pub async fn terminate(&self, token: &SecretString, timeout: Duration) -> Result<()> {
        self.request("terminate", addressed(token), None, Wait::Timeout(timeout)).await.map(drop)
    }
}

fn addressed(token: &SecretString) -> Arguments {
    Arguments::from_iter([("token".to_owned(), token.expose_secret().into())])
}

fn object(reply: Response) -> Result<Map<String, Value>> {
    match reply.body {
        Some(Value::Object(body)) => Ok(body),
        _ => Err(Error::Protocol(format!("the reply to {} has no body", reply.command))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_execute_says_only_what_was_asked_for() {
        let bare = ExecuteOptions::new(json!({"components": []})).arguments().unwrap();
        assert_eq!(Value::Object(bare), json!({"pipeline": {"components": []}, "args": [], "useExisting": true}));

        let full = ExecuteOptions {
            source: Some("web".into()),
            threads: Some(8),
            ttl: Some(Duration::ZERO),
            args: vec!["-x".into()],
            name: Some("n".into()),
            token: Some("tk_1".into()),
            use_existing: false,
            env: BTreeMap::from([("ROCKETRIDE_A".into(), "1".into())]),
            trace_level: Some("none".into()),
            ..ExecuteOptions::new(json!({"components": [], "source": "old"}))
        };
        assert!(!format!("{full:?}").contains("tk_1"));
        assert_eq!(
            Value::Object(full.arguments().unwrap()),
            json!({"pipeline": {"components": [], "source": "web"}, "args": ["-x"], "useExisting": false, "threads": 8,
                   "ttl": 0, "name": "n", "token": "tk_1", "pipelineTraceLevel": "none", "env": {"ROCKETRIDE_A": "1"}})
        );
    }

    #[test]
    fn an_execute_that_cannot_work_is_refused() {
        let options = || ExecuteOptions::new(json!({}));
        let no_threads = ExecuteOptions { threads: Some(0), ..options() };
        let foreign = ExecuteOptions { env: BTreeMap::from([("PATH".into(), String::new())]), ..options() };
        assert!(no_threads.arguments().unwrap_err().to_string().contains("0 threads"));
        assert!(foreign.arguments().unwrap_err().to_string().contains("PATH"));
        assert!(ExecuteOptions::new(json!([])).arguments().is_err());
    }

    #[test]
    fn a_status_tells_the_living_from_the_dead() {
        for (raw, alive) in [
            (json!({"state": 0}), true),
            (json!({"state": 3, "status": "running", "completed": false}), true),
            (json!({"state": 3, "completed": true}), false),
            (json!({"state": 4}), false),
            (json!({"state": 5, "exitCode": 0}), false),
            (json!({"state": 6}), false),
            (json!({"state": 77}), true),
            (json!({}), true),
        ] {
            let status = TaskStatus::new(raw.as_object().unwrap().clone());
            assert_eq!(status.is_alive(), alive, "{raw}");
        }
    }
}
