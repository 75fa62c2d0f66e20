//! One task: the life of a running pipeline, its slots and its pipes.
//!
//! Time comes in as an argument; no sockets, no sleeping. Whoever waits for a slot is told through a oneshot
//! that is dropped when the task dies: such an open is never answered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::lane::{Lane, Object};
use super::slots::Slots;

/// Where a task stands, by the numbers of the status reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    /// Resources are being allocated.
    Starting = 1,
    /// The pipeline is being built.
    Initializing = 2,
    /// Ready for data.
    Running = 3,
    /// Being terminated.
    Stopping = 4,
    /// Over by itself, also when it was killed.
    Completed = 5,
    /// Terminated, or idle for longer than its `ttl`.
    Cancelled = 6,
}

/// What names a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// The task token (`tk_...`): for the `token` argument, and as a credential that is locked to the task.
    pub token: String,
    /// The public key (`pk_...`): a credential that may do nothing but send data to the task.
    pub public: String,
}

/// The nodes that the sandbox does run, told by the `provider` of a component: those that fail, for programs that can
/// send a pipeline but not order trouble.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Nodes {
    /// `sandbox_refusing`: refuses every object at its open, which is masked.
    pub(super) refuses: bool,
    /// `sandbox_failing`: fails at every close with the `message` of its `config`.
    pub(super) fails: Option<String>,
}

impl Nodes {
    pub(super) fn of(components: &[Value]) -> Self {
        let with = |provider: &str| components.iter().find(|component| component["provider"] == provider);
        let words = |node: &Value| node["config"]["message"].as_str().unwrap_or("the node failed").to_owned();
        Self { refuses: with("sandbox_refusing").is_some(), fails: with("sandbox_failing").map(words) }
    }
}

/// How a task is started.
#[derive(Debug, Clone)]
pub(super) struct Start {
    pub(super) tokens: Tokens,
    pub(super) project_id: String,
    pub(super) source: String,
    pub(super) provider: String,
    pub(super) name: String,
    pub(super) threads: usize,
    pub(super) nodes: Nodes,
    /// None: never.
    pub(super) ttl: Option<Duration>,
}

/// Why a data request is refused in front of the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotRunning {
    /// Its data port is not up yet.
    NotYet,
    Stopping,
    Completed,
    Cancelled,
}

/// One object on its way through a slot.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) object: Arc<Object>,
    pub(super) lane: Arc<Mutex<Lane>>,
    pub(super) requested_at: Instant,
    pub(super) opened_at: Instant,
    last: Instant,
    /// Writes that are running: such a pipe is not reaped.
    busy: usize,
}

/// An open that waits for a slot.
#[derive(Debug)]
pub(super) struct Waiter {
    object: Arc<Object>,
    requested_at: Instant,
    granted: oneshot::Sender<u64>,
}

/// What became of an open.
pub(super) enum Grant {
    Now(u64),
    Later(oneshot::Receiver<u64>),
}

#[derive(Debug)]
pub(super) struct Task {
    /// Tells a restarted task from the one before it under the same token.
    pub(super) epoch: u64,
    pub(super) start: Start,
    pub(super) state: TaskState,
    pub(super) started_at: SystemTime,
    ended_at: Option<SystemTime>,
    last_data: Instant,
    slots: Slots<Waiter>,
    pipes: HashMap<u64, Pipe>,
    completed: u64,
    failed: u64,
    /// The counts changed since subscribers were told of them.
    pub(super) unreported: bool,
    pub(super) peak_pipes: usize,
}

impl Task {
    pub(super) fn new(epoch: u64, start: Start, now: Instant) -> Self {
        Self {
            epoch,
            slots: Slots::new(start.threads),
            start,
            state: TaskState::Starting,
            started_at: SystemTime::now(),
            ended_at: None,
            last_data: now,
            pipes: HashMap::new(),
            completed: 0,
            failed: 0,
            unreported: false,
            peak_pipes: 0,
        }
    }

    /// Names the pipeline, whichever time it runs.
    pub(super) fn id(&self) -> String {
        format!("{}.{}", self.start.project_id, self.start.source)
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, TaskState::Completed | TaskState::Cancelled)
    }

    /// Counts as activity for the `ttl`; says why no data can be taken.
    pub(super) fn data_request(&mut self, now: Instant) -> Result<(), NotRunning> {
        match self.state {
            TaskState::Running => {
                self.last_data = now;
                Ok(())
            }
            TaskState::Starting | TaskState::Initializing => Err(NotRunning::NotYet),
            TaskState::Stopping => Err(NotRunning::Stopping),
            TaskState::Completed => Err(NotRunning::Completed),
            TaskState::Cancelled => Err(NotRunning::Cancelled),
        }
    }

    pub(super) fn ttl_is_over(&self, now: Instant) -> bool {
        self.state == TaskState::Running
            && self.start.ttl.is_some_and(|ttl| now.saturating_duration_since(self.last_data) >= ttl)
    }

    /// Ends every pipe and every wait: none of them is ever answered.
    pub(super) fn end(&mut self, state: TaskState) {
        self.state = state;
        if self.is_over() {
            self.ended_at.get_or_insert_with(SystemTime::now);
        }
        self.pipes.clear();
        self.slots = Slots::new(self.start.threads);
    }

    /// The data connection into the task broke: its pipes are gone, the task runs on.
    pub(super) fn lose_pipes(&mut self) {
        let now = Instant::now();
        let lost: Vec<u64> = self.pipes.keys().copied().collect();
        self.pipes.clear();
        for id in lost {
            self.release(id, now);
        }
    }

    pub(super) fn open(&mut self, object: Arc<Object>, requested_at: Instant, now: Instant) -> Grant {
        let (granted, later) = oneshot::channel();
        match self.slots.request(Waiter { object, requested_at, granted }) {
            Ok((id, waiter)) => {
                self.install(id, waiter, now);
                Grant::Now(id)
            }
            Err(_) => Grant::Later(later),
        }
    }

    /// The pipe exists from the grant on, whether or not the client still lives.
    fn install(&mut self, id: u64, waiter: Waiter, now: Instant) {
        let lane = Arc::new(Mutex::new(Lane::new(&waiter.object)));
        let pipe =
            Pipe { object: waiter.object, lane, requested_at: waiter.requested_at, opened_at: now, last: now, busy: 0 };
        self.pipes.insert(id, pipe);
        self.peak_pipes = self.peak_pipes.max(self.slots.in_use());
        // Nobody may be listening any more: then the pipe stays until it is reaped.
        let _ = waiter.granted.send(id);
    }

    pub(super) fn release(&mut self, id: u64, now: Instant) {
        self.pipes.remove(&id);
        if let Some((id, waiter)) = self.slots.release(id) {
            self.install(id, waiter, now);
        }
    }

    /// Takes up to `count` free slots for somebody else.
    pub(super) fn hold(&mut self, count: usize) -> Vec<u64> {
        (0..count).map_while(|_| self.slots.take()).collect()
    }

    pub(super) fn pipe(&self, id: u64) -> Option<&Pipe> {
        self.pipes.get(&id)
    }

    pub(super) fn begin_write(&mut self, id: u64, now: Instant) -> Option<Arc<Mutex<Lane>>> {
        let pipe = self.pipes.get_mut(&id)?;
        pipe.busy += 1;
        pipe.last = now;
        Some(Arc::clone(&pipe.lane))
    }

    /// The id may have a new owner by now; only the pipe whose lane was written is touched.
    pub(super) fn end_write(&mut self, id: u64, lane: &Arc<Mutex<Lane>>, now: Instant) {
        if let Some(pipe) = self.pipes.get_mut(&id).filter(|pipe| Arc::ptr_eq(&pipe.lane, lane)) {
            pipe.busy = pipe.busy.saturating_sub(1);
            pipe.last = now;
        }
    }

    /// Takes the pipe out of use for its close; its slot stays taken until [`Task::release`].
    pub(super) fn begin_close(&mut self, id: u64) -> Option<Pipe> {
        self.pipes.remove(&id)
    }

    pub(super) fn count(&mut self, ok: bool) {
        *(if ok { &mut self.completed } else { &mut self.failed }) += 1;
        self.unreported = true;
    }

    /// Drops idle pipes unprocessed and silently; a running write is spared.
    pub(super) fn reap(&mut self, idle: Duration, now: Instant) -> usize {
        let dead: Vec<u64> = self
            .pipes
            .iter()
            .filter(|(_, pipe)| pipe.busy == 0 && now.saturating_duration_since(pipe.last) > idle)
            .map(|(id, _)| *id)
            .collect();
        for id in &dead {
            self.release(*id, now);
        }
        dead.len()
    }

    pub(super) fn in_use(&self) -> usize {
        self.slots.in_use()
    }

    pub(super) fn waiting(&self) -> usize {
        self.slots.waiting()
    }

    /// The body of a status reply.
    pub(super) fn status(&self) -> Value {
        json!({
            "name": self.start.name,
            "project_id": self.start.project_id,
            "source": self.start.source,
            "state": self.state as u8,
            "status": match self.state {
                TaskState::Starting => "Starting",
                TaskState::Initializing => "Initializing",
                TaskState::Running => "Running",
                TaskState::Stopping => "Stopping",
                TaskState::Completed => "Completed",
                TaskState::Cancelled => "Cancelled",
            },
            "completed": self.is_over(),
            "startTime": seconds(self.started_at),
            "endTime": self.ended_at.map_or(0.0, seconds),
            "exitCode": 0,
            "exitMessage": "",
            "serviceUp": self.state == TaskState::Running,
            "totalCount": self.completed + self.failed,
            "completedCount": self.completed,
            "failedCount": self.failed,
            "warnings": [],
            "errors": [],
        })
    }
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Map;

    fn task(threads: usize, now: Instant) -> Task {
        let tokens = Tokens { token: "tk_1".into(), public: "pk_1".into() };
        let (project_id, source) = ("p".to_owned(), "s".to_owned());
        let start = Start {
            tokens,
            project_id,
            source,
            provider: "webhook".into(),
            name: "n".into(),
            threads,
            nodes: Nodes::default(),
            ttl: Some(Duration::from_secs(900)),
        };
        let mut task = Task::new(1, start, now);
        task.state = TaskState::Running;
        task
    }

    fn object() -> Arc<Object> {
        Arc::new(Object::new(Map::new(), "text/plain".into()))
    }

    #[test]
    fn a_grant_to_a_vanished_client_holds_the_slot_until_it_is_reaped() {
        let now = Instant::now();
        let mut task = task(1, now);
        assert!(matches!(task.open(object(), now, now), Grant::Now(0)));
        drop(task.open(object(), now, now));
        let Grant::Later(mut third) = task.open(object(), now, now) else { panic!("no free slot") };
        task.release(0, now);
        assert!(third.try_recv().is_err(), "the dead one was first in the queue");
        let later = now + Duration::from_secs(61);
        assert_eq!(task.reap(Duration::from_secs(60), later), 1);
        assert_eq!(third.try_recv(), Ok(0));
    }

    #[test]
    fn a_running_write_is_spared_by_the_reaper() {
        let now = Instant::now();
        let mut task = task(2, now);
        task.open(object(), now, now);
        let lane = task.begin_write(0, now).unwrap();
        let later = now + Duration::from_secs(1_000);
        assert_eq!(task.reap(Duration::from_secs(60), later), 0);
        task.end_write(0, &lane, later);
        assert_eq!(task.reap(Duration::from_secs(60), later), 0, "the end of a write is activity");
        assert_eq!(task.reap(Duration::from_secs(60), later + Duration::from_secs(61)), 1);
    }

    #[test]
    fn only_data_requests_keep_a_task_alive() {
        let now = Instant::now();
        let mut task = task(1, now);
        let later = now + Duration::from_secs(800);
        assert_eq!(task.data_request(later), Ok(()));
        let _ = task.status();
        assert!(!task.ttl_is_over(now + Duration::from_secs(1_600)));
        assert!(task.ttl_is_over(now + Duration::from_secs(1_700)));
    }

    #[test]
    fn a_dead_task_answers_nobody_who_waits() {
        let now = Instant::now();
        let mut task = task(0, now);
        let Grant::Later(mut waiting) = task.open(object(), now, now) else { panic!("no slots at all") };
        task.end(TaskState::Completed);
        assert_eq!(waiting.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert_eq!(task.data_request(now), Err(NotRunning::Completed));
        assert_eq!(task.status()["exitCode"], 0);
    }
}
