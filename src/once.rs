//! `run --once`: when nothing is left to do, and what that means.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::delivery::pipeline::Line;
use crate::folder::{Availability, Folder};
use crate::journal::Journal;

/// How often it is looked.
const CHECK: Duration = Duration::from_millis(200);

/// How a single pass ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Once {
    /// Files given up.
    pub failed: u64,
    /// Files that this host cannot read.
    pub blocked: u64,
    /// Files that did not settle, when none did any more for `retry.max`.
    pub unsettled: u64,
    /// Watches whose folder is not to be had, or that this host could not serve for `retry.max`.
    pub unavailable: Vec<String>,
    /// Pipelines that stayed down, or failed on every file, for `retry.max`.
    pub down: Vec<String>,
}

/// Since when something has been the case without a break.
#[derive(Default)]
struct Since(Option<Instant>);

impl Since {
    /// Notes whether it is the case now; for how long it has been.
    fn note(&mut self, is: bool) -> Duration {
        self.0 = self.0.filter(|_| is).or_else(|| is.then(Instant::now));
        self.0.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// Resolves when nothing is pending, being sent or settling, or when waiting longer than `retry.max` would not help.
pub async fn complete(config: Arc<Config>, journal: Journal, folders: Vec<Arc<Folder>>, lines: Vec<Arc<Line>>) -> Once {
    let patience = config.retry.max;
    let (mut settling_since, mut held_since) = (Since::default(), Since::default());
    let mut settling_before = 0;
    loop {
        tokio::time::sleep(CHECK).await;
        let now = Instant::now();
        let long_down = |line: &&Arc<Line>| {
            let down = line.outage().map(|(since, _)| since);
            down.into_iter().chain(line.failing_since()).any(|since| since.elapsed() >= patience)
        };
        let down = lines.iter().filter(long_down).map(|line| line.config.name.clone()).collect();
        let mut once = Once { down, ..Once::default() };
        let (mut waiting, mut sending, mut settling) = (0, 0, 0);
        let mut held = Vec::new();
        for folder in &folders {
            match &*folder.availability().borrow() {
                Availability::Unavailable(_) => {
                    once.unavailable.push(folder.watch.name.clone());
                    continue;
                }
                Availability::Starting => waiting += 1,
                Availability::Open(_) if !folder.is_scanned() => waiting += 1,
                Availability::Open(_) => {}
            }
            // Settling first: what is admitted between the two reads is seen twice, not missed.
            settling += folder.settling();
            let counters = journal.counters(folder.watch.id);
            sending += counters.count("sending") + counters.count("delivered");
            // What waits for a pipeline that stayed down is not waited for; the files of the others are.
            if !once.down.contains(&folder.watch.pipeline) {
                waiting += counters.count("pending");
            }
            let spooled = counters.count("spooled");
            waiting += spooled;
            once.failed += counters.count("failed");
            once.blocked += counters.count("blocked");
            if folder.held_until(now).is_some() || folder.has_unplaced() || spooled > 0 {
                held.push(folder.watch.name.clone());
            }
        }
        // As long as they become fewer, somebody is at work on them.
        if settling < std::mem::replace(&mut settling_before, settling) {
            settling_since = Since::default();
        }
        let long_settling = settling_since.note(settling > 0) >= patience;
        if held_since.note(!held.is_empty()) >= patience {
            once.unavailable.append(&mut held);
            return once;
        }
        if waiting == 0 && sending == 0 && (settling == 0 || long_settling) {
            once.unsettled = settling;
            return once;
        }
    }
}
