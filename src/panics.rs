//! Panics of this process: each one is logged once, with the task it happened in, and counted.
//!
//! A panic is a defect. What becomes of it is up to whoever waits for the task: a worker costs its file an attempt, a
//! connection is opened again, everything else ends the daemon. It must not decide that; it only sees to it that no panic
//! goes unseen, on whatever thread, caught or not.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::RefCell;
use std::panic::{self, PanicHookInfo};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::show::escaped;

/// The name of a task, for people: "intake of watch \"in\"".
pub type TaskName = Arc<str>;

/// Panics so far.
static COUNT: AtomicU64 = AtomicU64::new(0);

tokio::task_local! {
    /// The task that runs.
    static TASK: TaskName;
}

thread_local! {
    /// The task that a blocking thread works for.
    static BEHALF: RefCell<Option<TaskName>> = const { RefCell::new(None) };
}

/// Panics of this process since it began to count, those included that were caught.
pub fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// Logs every panic from now on, and counts it. Before anything is logged at all, panics go to standard error as usual.
pub fn watch() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        COUNT.fetch_add(1, Ordering::Relaxed);
        if tracing::dispatcher::has_been_set() {
            log(panic);
        } else {
            usual(panic);
        }
    }));
}

fn log(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("without a name");
    let task = task_name();
    let task = task.as_deref().unwrap_or("none that has a name");
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = escaped(message(panic.payload()));
    // Only with $RUST_BACKTRACE.
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then_some(backtrace);
    let backtrace = backtrace.as_ref().map(tracing::field::display);
    tracing::error!(task, thread, location, error = %message, backtrace, "a panic; this is a defect, or a damaged journal");
}

/// What a panic says.
pub fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

/// The task that the caller runs in, or works for.
pub fn task_name() -> Option<TaskName> {
    TASK.try_with(Clone::clone).ok().or_else(|| BEHALF.with_borrow(Clone::clone))
}

/// Runs a task under a name.
pub async fn named<T>(name: TaskName, task: impl Future<Output = T>) -> T {
    TASK.scope(name, task).await
}

/// Does blocking work under the name of the task that waits for it.
pub fn on_behalf_of<T>(name: Option<TaskName>, work: impl FnOnce() -> T) -> T {
    /// The thread serves another task next, after a panic, too.
    struct Restore;
    impl Drop for Restore {
        fn drop(&mut self) {
            BEHALF.set(None);
        }
    }
    BEHALF.set(name);
    let _restore = Restore;
    work()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_says_what_it_says_whatever_it_carries() {
        let caught = |work: fn()| message(panic::catch_unwind(work).unwrap_err().as_ref()).to_owned();
        assert_eq!(caught(|| panic!("plain")), "plain");
        assert_eq!(caught(|| panic!("number {}", 7)), "number 7");
        assert_eq!(caught(|| panic::panic_any(7)), "without a message");
    }

    #[test]
    fn a_thread_forgets_for_whom_it_worked_after_a_panic_too() {
        assert_eq!(on_behalf_of(Some("a".into()), task_name).as_deref(), Some("a"));
        assert_eq!(task_name(), None);
        let panicked = panic::catch_unwind(|| on_behalf_of(Some("b".into()), || panic!("as it goes")));
        assert!(panicked.is_err());
        assert_eq!(task_name(), None);
    }
}
