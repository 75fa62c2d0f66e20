//! Short work on the disk, off the async threads, and without a thread woken for each piece of it.
//!
//! A watch has a desk: one thread that does what comes for as long as there is something, so that under load no thread
//! sleeps or wakes. Should the thread be held up by a slow disk, whoever comes next, or waits, starts another beside it. A folder
//! that does not answer holds up its own watch alone. It must not know what the work is about.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::job::WatchId;
use crate::locks::lock;
use crate::panics;

/// Work that takes longer holds others up.
const PATIENCE: Duration = Duration::from_micros(300);
/// How long whoever waits leaves it to others to see that a thread is held up.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Most threads of one watch.
const MAX_THREADS: usize = 64;

type Work = Box<dyn FnOnce() + Send>;

/// The desks of all watches. What waits is bounded by the number of workers, each of whom waits for one piece of work.
#[derive(Default)]
pub struct Desks {
    desks: Mutex<HashMap<WatchId, Desk>>,
}

/// What one watch has to do.
struct Desk {
    /// Comes first.
    urgent: VecDeque<Work>,
    waiting: VecDeque<Work>,
    threads: usize,
    /// When a thread last took something.
    taken: Instant,
}

impl Desks {
    /// Does this at the desk of a watch, what is urgent before what is not. A panic in it goes on in the caller.
    pub async fn at<T: Send + 'static>(
        self: &Arc<Self>,
        watch: WatchId,
        is_urgent: bool,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let (answer, answered) = oneshot::channel();
        let name = panics::task_name();
        let work: Work = Box::new(move || {
            // Whoever does not wait any more was given up at the end of a drain.
            let _ = answer.send(catch_unwind(AssertUnwindSafe(|| panics::on_behalf_of(name, work))));
        });
        if self.needs_thread(watch, is_urgent, work) {
            let desks = self.clone();
            // It cannot panic, and ends when there is nothing to do.
            drop(spawn_blocking(move || desks.work(watch)));
        }
        let mut answered = answered;
        let outcome = loop {
            match timeout(LOOK_AGAIN, &mut answered).await {
                Ok(outcome) => break outcome,
                // Nobody may come any more who would start another thread.
                Err(_) if self.is_stuck(watch) => {
                    let desks = self.clone();
                    drop(spawn_blocking(move || desks.work(watch)));
                }
                Err(_) => {}
            }
        };
        match outcome {
            Ok(Ok(value)) => value,
            Ok(Err(panic)) => resume_unwind(panic),
            // Only the end of the runtime gets here, and nobody waits then.
            Err(_) => std::future::pending().await,
        }
    }

    /// Takes the work on. True if a thread is to be started for it, which is counted already.
    fn needs_thread(&self, watch: WatchId, is_urgent: bool, work: Work) -> bool {
        let now = Instant::now();
        let mut desks = lock(&self.desks);
        let desk = desks.entry(watch).or_insert_with(|| Desk {
            urgent: VecDeque::new(),
            waiting: VecDeque::new(),
            threads: 0,
            taken: now,
        });
        if is_urgent { &mut desk.urgent } else { &mut desk.waiting }.push_back(work);
        let held_up = now.saturating_duration_since(desk.taken) > PATIENCE;
        let needed = desk.threads == 0 || (held_up && desk.threads < MAX_THREADS);
        desk.threads += usize::from(needed);
        needed
    }

    /// Whether work waits behind a thread that is held up; then another thread is counted in.
    fn is_stuck(&self, watch: WatchId) -> bool {
        let mut desks = lock(&self.desks);
        let Some(desk) = desks.get_mut(&watch) else { return false };
        let is_idle = desk.urgent.is_empty() && desk.waiting.is_empty();
        let stuck = !is_idle && desk.taken.elapsed() > PATIENCE && desk.threads < MAX_THREADS;
        desk.threads += usize::from(stuck);
        stuck
    }

    fn work(&self, watch: WatchId) {
        while let Some(work) = self.take(watch) {
            work();
        }
    }

    /// What comes next. With nothing, the thread is counted out in the same moment: whoever comes next starts another.
    fn take(&self, watch: WatchId) -> Option<Work> {
        let mut desks = lock(&self.desks);
        let desk = desks.get_mut(&watch)?;
        desk.taken = Instant::now();
        let work = desk.urgent.pop_front().or_else(|| desk.waiting.pop_front());
        if work.is_none() {
            desk.threads -= 1;
            if desk.threads == 0 {
                desks.remove(&watch);
            }
        }
        work
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_work_is_done_whoever_comes_when() {
        let (desks, watch) = (Arc::new(Desks::default()), WatchId::of("w"));
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..200 {
            let desks = desks.clone();
            tasks.spawn(async move { desks.at(watch, false, move || n).await });
        }
        assert_eq!(tasks.join_all().await.into_iter().sum::<u32>(), 199 * 100);
        let all_gone = async {
            while !lock(&desks.desks).is_empty() {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(30), all_gone).await.unwrap();
    }

    #[tokio::test]
    async fn nobody_waits_for_ever_behind_work_that_hangs() {
        let (desks, watch) = (Arc::new(Desks::default()), WatchId::of("w"));
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let (begun, has_begun) = oneshot::channel();
        let other = desks.clone();
        let hanging = tokio::spawn(async move {
            let work = move || {
                let _ = begun.send(());
                let _ = ended.recv();
            };
            other.at(watch, false, work).await;
        });
        has_begun.await.unwrap();
        assert_eq!(desks.at(watch, false, || 7).await, 7);
        drop(end);
        hanging.await.unwrap();
    }

    #[tokio::test]
    async fn a_panic_is_its_callers_and_the_desk_goes_on() {
        let (desks, watch) = (Arc::new(Desks::default()), WatchId::of("w"));
        let other = desks.clone();
        let panicked = tokio::spawn(async move { other.at(watch, false, || panic!("as it goes")).await });
        assert!(panicked.await.unwrap_err().is_panic());
        assert_eq!(desks.at(watch, false, || 7).await, 7);
    }
}
