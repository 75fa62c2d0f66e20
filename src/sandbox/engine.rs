//! The state of the engine: its tasks, its logs, and the one lock around them.
//!
//! Every method is short and never waits. It must not know of sockets or frames; it is told the time, except
//! where a record is made.

use crate::locks::lock;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use secrecy::ExposeSecret;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, watch};

use super::Options;
use super::faults::Faults;
use super::lane::hex;
use super::monitor::{Notice, Notices, Scope};
use super::records::{Delivery, Log, OpenRecord, WriteRecord};
use super::task::{NotRunning, Start, Task, TaskState, Tokens};

/// The one user of the sandbox; part of every deterministic token.
pub(super) const USER: &str = "sandbox-user";

/// Tasks at one time, running or over; the oldest that is over goes first.
const MAX_TASKS: usize = 10_000;

/// A task as it was when a request arrived: restarting it makes another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TaskRef {
    pub(super) token: String,
    pub(super) epoch: u64,
}

/// Who a connection belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Identity {
    /// Holds the account's key: may do everything.
    Account,
    /// Holds a task token: locked to that task.
    Task(String),
    /// Holds the public key of a task: may only send data to it.
    Public(String),
}

/// What `execute` met.
pub(super) enum Started {
    /// A task that is now starting.
    New(TaskRef),
    /// One that is already there.
    Existing(TaskRef, TaskState),
    /// The engine is full.
    Full,
}

#[derive(Debug)]
pub(super) struct Engine {
    pub(super) options: Options,
    pub(super) faults: Faults,
    inner: Mutex<Inner>,
    /// Wakes whoever waits for a task to change its state.
    pub(super) changed: Notify,
    /// Wakes whoever hands out the events.
    pub(super) noticed: Notify,
    down: watch::Sender<bool>,
    pub(super) panics: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Inner {
    tasks: HashMap<String, Task>,
    notices: Notices,
    next_epoch: u64,
    pub(super) deliveries: Log<Delivery>,
    pub(super) opens: Log<OpenRecord>,
    pub(super) writes: Log<WriteRecord>,
    pub(super) reaped: u64,
    last_reap: Instant,
}

impl Engine {
    pub(super) fn new(options: Options) -> Self {
        let limit = options.log_limit;
        Self {
            faults: Faults::default(),
            inner: Mutex::new(Inner {
                tasks: HashMap::new(),
                notices: Notices::default(),
                next_epoch: 1,
                deliveries: Log::new(limit),
                opens: Log::new(limit),
                writes: Log::new(limit),
                reaped: 0,
                last_reap: Instant::now(),
            }),
            options,
            changed: Notify::new(),
            noticed: Notify::new(),
            down: watch::Sender::new(false),
            panics: AtomicU64::new(0),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// Ends everything that is in flight, unanswered. For good.
    pub(super) fn shut_down(&self) {
        self.down.send_replace(true);
        self.lock().tasks.clear();
        self.changed.notify_waiters();
    }

    /// Returns when the engine goes down.
    pub(super) async fn wait_down(&self) {
        let mut down = self.down.subscribe();
        // The sender lives as long as `self`: an error cannot happen before.
        let _ = down.wait_for(|down| *down).await;
    }

    pub(super) fn saw_panic(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
        tracing::error!("a request handler of the sandbox panicked");
    }

    /// Who holds this credential.
    pub(super) fn identify(&self, credential: &str) -> Result<Identity, &'static str> {
        if credential.is_empty() {
            return Err("No authorization provided");
        }
        if credential.starts_with("tk_") {
            let known = self.lock().tasks.contains_key(credential);
            return if known { Ok(Identity::Task(credential.to_owned())) } else { Err("Bad request") };
        }
        if credential.starts_with("pk_") {
            let inner = self.lock();
            let task = inner.tasks.values().find(|task| task.start.tokens.public == credential);
            return task.map(|task| Identity::Public(task.start.tokens.token.clone())).ok_or("Bad request");
        }
        if credential == self.options.api_key.expose_secret() { Ok(Identity::Account) } else { Err("Invalid API key") }
    }

    /// Starts a task unless one of this token is there and not over.
    pub(super) fn start(&self, start: Start, now: Instant) -> Started {
        let mut inner = self.lock();
        let token = start.tokens.token.clone();
        if let Some(task) = inner.tasks.get(&token).filter(|task| !task.is_over()) {
            return Started::Existing(TaskRef { token, epoch: task.epoch }, task.state);
        }
        if inner.tasks.len() >= MAX_TASKS && !inner.tasks.contains_key(&token) {
            let over = inner.tasks.values().filter(|task| task.is_over()).min_by_key(|task| task.epoch);
            let Some(over) = over.map(|task| task.start.tokens.token.clone()) else { return Started::Full };
            inner.tasks.remove(&over);
        }
        let epoch = inner.next_epoch;
        inner.next_epoch += 1;
        let task = Task::new(epoch, start, now);
        inner.notices.began(&task);
        inner.tasks.insert(token.clone(), task);
        drop(inner);
        self.noticed.notify_one();
        Started::New(TaskRef { token, epoch })
    }

    /// The running task that a data request is for.
    pub(super) fn data_request(&self, token: &str, now: Instant) -> Result<(TaskRef, String), Option<NotRunning>> {
        let mut inner = self.lock();
        let task = inner.tasks.get_mut(token).ok_or(None)?;
        task.data_request(now).map_err(Some)?;
        Ok((TaskRef { token: token.to_owned(), epoch: task.epoch }, task.start.provider.clone()))
    }

    /// Looks at or changes a task; none when it is unknown.
    pub(super) fn task<R>(&self, token: &str, look: impl FnOnce(&mut Task) -> R) -> Option<R> {
        self.lock().tasks.get_mut(token).map(look)
    }

    /// As [`Engine::task`], but only the very task that a request arrived for, and only while it is not over.
    pub(super) fn same<R>(&self, task: &TaskRef, look: impl FnOnce(&mut Task) -> R) -> Option<R> {
        self.same_with(task, |task, _| look(task))
    }

    /// As [`Engine::same`], with the logs at hand.
    pub(super) fn same_with<R>(&self, task: &TaskRef, look: impl FnOnce(&mut Task, &mut Logs<'_>) -> R) -> Option<R> {
        let mut inner = self.lock();
        let Inner { tasks, deliveries, opens, writes, .. } = &mut *inner;
        let task = tasks.get_mut(&task.token).filter(|found| found.epoch == task.epoch && !found.is_over())?;
        Some(look(task, &mut Logs { deliveries, opens, writes }))
    }

    /// Moves a task on; false when it is not there any more.
    pub(super) fn set_state(&self, task: &TaskRef, state: TaskState) -> bool {
        let mut inner = self.lock();
        let Inner { tasks, notices, .. } = &mut *inner;
        let found = tasks.get_mut(&task.token).filter(|found| found.epoch == task.epoch && !found.is_over());
        let Some(found) = found else { return false };
        if matches!(state, TaskState::Stopping | TaskState::Completed | TaskState::Cancelled) {
            found.end(state);
        } else {
            found.state = state;
        }
        notices.moved(found);
        drop(inner);
        self.changed.notify_waiters();
        self.noticed.notify_one();
        true
    }

    pub(super) fn forget(&self, token: &str) -> bool {
        let mut inner = self.lock();
        let Some(task) = inner.tasks.remove(token) else { return false };
        if !task.is_over() {
            inner.notices.lost(&task);
        }
        drop(inner);
        self.changed.notify_waiters();
        self.noticed.notify_one();
        true
    }

    pub(super) fn tokens(&self) -> Vec<(Tokens, TaskState)> {
        let inner = self.lock();
        let mut tasks: Vec<&Task> = inner.tasks.values().collect();
        tasks.sort_by_key(|task| task.epoch);
        tasks.into_iter().map(|task| (task.start.tokens.clone(), task.state)).collect()
    }

    /// Bodies of the running tasks' entries in `rrext_get_tasks`.
    pub(super) fn list(&self) -> Vec<Value> {
        let inner = self.lock();
        let running = inner.tasks.values().filter(|task| task.state == TaskState::Running);
        running
            .map(|task| {
                serde_json::json!({
                    "name": task.start.name,
                    "source": task.start.source,
                    "token": task.start.tokens.token,
                    "status": "Running",
                })
            })
            .collect()
    }

    /// The events since the last time, in their order.
    pub(super) fn take_notices(&self) -> VecDeque<Notice> {
        self.lock().notices.take()
    }

    /// Makes an event of every count that changed since the last time.
    pub(super) fn sum_up(&self) {
        let mut inner = self.lock();
        let Inner { tasks, notices, .. } = &mut *inner;
        for task in tasks.values_mut() {
            notices.sum_up(task);
        }
    }

    /// The running tasks that this credential may see, as an event.
    pub(super) fn running(&self, identity: &Identity) -> Notice {
        let inner = self.lock();
        Notice::running(inner.tasks.values().filter(|task| match identity {
            Identity::Account => true,
            Identity::Task(token) | Identity::Public(token) => task.start.tokens.token == *token,
        }))
    }

    /// Where the pipeline of a subscription stands, as an event; none when that is no single pipeline.
    pub(super) fn standing(&self, scope: &Scope) -> Option<Notice> {
        let Scope::Pipeline { project, source, .. } = scope else { return None };
        let inner = self.lock();
        let its = inner.tasks.values().filter(|task| task.start.project_id == *project && task.start.source == *source);
        let newest = its.max_by_key(|task| task.epoch);
        Some(newest.map_or_else(|| Notice::not_running(project, source), Notice::status))
    }

    /// The regular work: reaping idle pipes, ending idle tasks.
    pub(super) fn sweep(&self, now: Instant) {
        let mut inner = self.lock();
        let reap = now.saturating_duration_since(inner.last_reap) >= self.options.reap_scan;
        let mut reaped = 0;
        let mut ended = false;
        let Inner { tasks, notices, .. } = &mut *inner;
        for task in tasks.values_mut() {
            if task.ttl_is_over(now) {
                task.end(TaskState::Cancelled);
                notices.moved(task);
                ended = true;
            } else if reap && !task.is_over() {
                reaped += task.reap(self.options.reap_after, now);
            }
        }
        inner.reaped += reaped as u64;
        if reap {
            inner.last_reap = now;
        }
        drop(inner);
        if ended {
            self.changed.notify_waiters();
            self.noticed.notify_one();
        }
    }

    /// How often [`Engine::sweep`] is due.
    pub(super) fn sweep_interval(&self) -> Duration {
        const LONGEST: Duration = Duration::from_millis(500);
        const SHORTEST: Duration = Duration::from_millis(10);
        self.options.reap_scan.clamp(SHORTEST, LONGEST)
    }
}

/// The logs of an engine, to be written while a task is held.
pub(super) struct Logs<'a> {
    pub(super) deliveries: &'a mut Log<Delivery>,
    pub(super) opens: &'a mut Log<OpenRecord>,
    pub(super) writes: &'a mut Log<WriteRecord>,
}

/// The tokens of a pipeline: the same for the same user, project and source, whatever happened in between.
pub(super) fn tokens_of(project_id: &str, source: &str) -> Tokens {
    let name = |kind: &str| {
        let text = format!("{kind}\0{USER}\0{project_id}\0{source}");
        hex(&Sha256::digest(text.as_bytes())[..16])
    };
    Tokens { token: format!("tk_{}", name("task")), public: format!("pk_{}", name("public")) }
}
