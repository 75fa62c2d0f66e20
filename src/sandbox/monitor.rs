//! Subscriptions to events: which a connection asked for, and what it is told of a task.
//!
//! It must not know of sockets or commands. Events are made where a task changes and kept in a short queue, because that
//! place holds the lock of the engine; whoever serves the sockets takes them out.

use std::collections::{HashMap, VecDeque};

use serde_json::{Value, json};

use super::task::{Task, TaskState};
use crate::client::protocol::Arguments;

/// Subscriptions of one connection; one more is refused.
pub const MAX_MONITORS: usize = 1_000;

/// Events that wait to be handed out; beyond it the oldest go, as for a reader that is too slow.
const MAX_NOTICES: usize = 10_000;

/// Snapshots in shorter and longer intervals, and what happens to tasks: bits of the numbers that the official SDKs use.
pub(super) const DETAIL: u64 = 1 << 1;
pub(super) const SUMMARY: u64 = 1 << 2;
pub(super) const TASK: u64 = 1 << 5;

/// Every kind there is, each the next bit. The sandbox sends [`DETAIL`], [`SUMMARY`] and [`TASK`] only.
const KINDS: [&str; 10] =
    ["DEBUGGER", "DETAIL", "SUMMARY", "OUTPUT", "FLOW", "TASK", "SSE", "DASHBOARD", "BILLING", "DEPLOY"];

/// The kinds that a subscription names: strings in any case, a number, a number as a string, or `listenType` of old
/// clients. What is unknown is ignored; nothing at all ends the subscription.
pub(super) fn kinds(arguments: &Arguments) -> u64 {
    let all = (1 << KINDS.len()) - 1;
    let bit = |name: &str| match KINDS.iter().position(|kind| kind.eq_ignore_ascii_case(name)) {
        Some(at) => 1 << at,
        None if name.eq_ignore_ascii_case("all") => all,
        None => 0,
    };
    let bits = match arguments.get("types") {
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).fold(0, |bits, name| bits | bit(name)),
        Some(Value::Number(bits)) => bits.as_u64().unwrap_or(0),
        Some(Value::String(bits)) => bits.parse().unwrap_or(0),
        _ => arguments.get("listenType").and_then(Value::as_u64).unwrap_or(0),
    };
    bits & all
}

/// What a subscription is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Scope {
    /// Every task that the connection may see.
    All,
    /// One pipeline, running or not; `*` as its source is all of its project. Narrowed to a pipe it gets the events of
    /// that pipe, of which the sandbox has none.
    Pipeline { project: String, source: String, pipe: Option<u64> },
}

/// The subscriptions of one connection.
#[derive(Debug, Default)]
pub(super) struct Monitors {
    kinds: HashMap<Scope, u64>,
}

impl Monitors {
    /// From now on these kinds and no others; the kinds that are new, or none when there is no room.
    pub(super) fn set(&mut self, scope: Scope, kinds: u64) -> Option<u64> {
        if kinds == 0 {
            self.kinds.remove(&scope);
            return Some(0);
        }
        if self.kinds.len() >= MAX_MONITORS && !self.kinds.contains_key(&scope) {
            return None;
        }
        let before = self.kinds.insert(scope, kinds).unwrap_or(0);
        Some(kinds & !before)
    }

    pub(super) fn clear(&mut self) {
        self.kinds.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// Whether any subscription asks for it. However many do, it is sent once.
    pub(super) fn want(&self, notice: &Notice) -> bool {
        self.kinds.iter().any(|(scope, kinds)| kinds & notice.kinds != 0 && notice.is_in(scope))
    }
}

/// One event, for whoever asked for it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Notice {
    /// It goes to subscribers of any of these.
    pub(super) kinds: u64,
    pub(super) event: &'static str,
    project: String,
    source: String,
    pub(super) body: Value,
}

impl Notice {
    /// The life of a task: `begin`, `end`.
    fn task(action: &str, task: &Task) -> Self {
        let start = &task.start;
        Self {
            kinds: TASK,
            event: "apaevt_task",
            project: start.project_id.clone(),
            source: start.source.clone(),
            body: json!({"action": action, "name": start.name, "projectId": start.project_id, "source": start.source}),
        }
    }

    /// Where a task stands, counts of objects included.
    pub(super) fn status(task: &Task) -> Self {
        Self {
            kinds: SUMMARY | DETAIL,
            event: "apaevt_status_update",
            project: task.start.project_id.clone(),
            source: task.start.source.clone(),
            body: task.status(),
        }
    }

    /// What a subscriber of a pipeline that does not run is told at once.
    pub(super) fn not_running(project: &str, source: &str) -> Self {
        let body =
            json!({"state": 0, "status": "Not running", "project_id": project, "source": source, "completed": false});
        let (project, source) = (project.to_owned(), source.to_owned());
        Self { kinds: SUMMARY, event: "apaevt_status_update", project, source, body }
    }

    /// What a subscriber to the life of tasks is told at once: which there are.
    pub(super) fn running<'a>(tasks: impl Iterator<Item = &'a Task>) -> Self {
        let tasks: Vec<Value> = tasks
            .filter(|task| !task.is_over())
            .map(|task| {
                let start = &task.start;
                json!({"id": task.id(), "name": start.name, "projectId": start.project_id, "source": start.source})
            })
            .collect();
        let body = json!({"action": "running", "tasks": tasks});
        Self { kinds: TASK, event: "apaevt_task", project: String::new(), source: String::new(), body }
    }

    /// The task it is about; empty when it is about all.
    pub(super) fn id(&self) -> String {
        if self.project.is_empty() { String::new() } else { format!("{}.{}", self.project, self.source) }
    }

    fn is_in(&self, scope: &Scope) -> bool {
        match scope {
            Scope::All => true,
            Scope::Pipeline { project, source, pipe } => {
                pipe.is_none() && *project == self.project && (source == "*" || *source == self.source)
            }
        }
    }
}

/// Events that nobody was told of yet, oldest first.
#[derive(Debug, Default)]
pub(super) struct Notices {
    waiting: VecDeque<Notice>,
}

impl Notices {
    fn push(&mut self, notice: Notice) {
        if self.waiting.len() == MAX_NOTICES {
            self.waiting.pop_front();
        }
        self.waiting.push_back(notice);
    }

    pub(super) fn began(&mut self, task: &Task) {
        self.push(Notice::task("begin", task));
        self.push(Notice::status(task));
    }

    /// A new state, perhaps the last one.
    pub(super) fn moved(&mut self, task: &mut Task) {
        task.unreported = false;
        self.push(Notice::status(task));
        if matches!(task.state, TaskState::Completed | TaskState::Cancelled) {
            self.push(Notice::task("end", task));
        }
    }

    /// A task that was taken away while it ran.
    pub(super) fn lost(&mut self, task: &Task) {
        self.push(Notice::task("end", task));
    }

    /// The counts, when they changed since the last report.
    pub(super) fn sum_up(&mut self, task: &mut Task) {
        if std::mem::take(&mut task.unreported) {
            self.push(Notice::status(task));
        }
    }

    pub(super) fn take(&mut self) -> VecDeque<Notice> {
        std::mem::take(&mut self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(types: &Value) -> u64 {
        kinds(json!({"types": types}).as_object().unwrap())
    }

    fn notice(project: &str, source: &str) -> Notice {
        Notice::not_running(project, source)
    }

    fn pipeline(project: &str, source: &str, pipe: Option<u64>) -> Scope {
        Scope::Pipeline { project: project.into(), source: source.into(), pipe }
    }

    #[test]
    fn kinds_come_in_four_ways_and_unknown_ones_are_ignored() {
        assert_eq!(named(&json!(["summary", "TASK", "apaevt_status_upload", 7])), SUMMARY | TASK);
        assert_eq!(named(&json!(["all"])), 1023);
        assert_eq!(named(&json!(36)), SUMMARY | TASK);
        assert_eq!(named(&json!("36")), SUMMARY | TASK);
        assert_eq!(kinds(json!({"listenType": 4}).as_object().unwrap()), SUMMARY);
        assert_eq!((named(&json!([])), named(&json!("x")), named(&json!(-1))), (0, 0, 0));
    }

    #[test]
    fn a_subscription_meets_its_pipeline_and_no_other() {
        for (scope, met) in [
            (Scope::All, true),
            (pipeline("p", "s", None), true),
            (pipeline("p", "*", None), true),
            (pipeline("p", "t", None), false),
            (pipeline("q", "s", None), false),
            (pipeline("p", "s", Some(0)), false),
        ] {
            let mut monitors = Monitors::default();
            assert_eq!(monitors.set(scope.clone(), SUMMARY), Some(SUMMARY));
            assert_eq!(monitors.want(&notice("p", "s")), met, "{scope:?}");
        }
    }

    #[test]
    fn the_last_word_counts_and_nothing_ends_it() {
        let mut monitors = Monitors::default();
        assert_eq!(monitors.set(Scope::All, TASK), Some(TASK));
        assert!(!monitors.want(&notice("p", "s")));
        assert_eq!(monitors.set(Scope::All, TASK | SUMMARY), Some(SUMMARY), "only what is new is caught up on");
        assert!(monitors.want(&notice("p", "s")));
        assert_eq!(monitors.set(Scope::All, 0), Some(0));
        assert!(monitors.is_empty());
    }

    #[test]
    fn subscriptions_and_waiting_events_are_bounded() {
        let mut monitors = Monitors::default();
        for number in 0..MAX_MONITORS {
            assert!(monitors.set(pipeline("p", &number.to_string(), None), TASK).is_some());
        }
        assert_eq!(monitors.set(pipeline("p", "more", None), TASK), None);
        let mut notices = Notices::default();
        for number in 0..=MAX_NOTICES {
            notices.push(notice("p", &number.to_string()));
        }
        let waiting = notices.take();
        assert_eq!((waiting.len(), waiting[0].id().as_str()), (MAX_NOTICES, "p.1"));
    }
}
