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
    /// Files that did not settle within `retry.max`.
    pub unsettled: u64,
    /// Watches whose folder is not to be had.
    pub unavailable: Vec<String>,
    /// Pipelines that stayed down for `retry.max`.
    pub down: Vec<String>,
}

/// Resolves when nothing is pending, being sent or settling, or when waiting longer than `retry.max` would not help.
pub async fn complete(config: &Config, journal: &Journal, folders: &[Arc<Folder>], lines: &[Arc<Line>]) -> Once {
    let patience = config.retry.max;
    let mut settling_since: Option<Instant> = None;
    loop {
        tokio::time::sleep(CHECK).await;
        let mut once = Once::default();
        let (mut waiting, mut settling) = (0, 0);
        for folder in folders {
            match &*folder.availability().borrow() {
                Availability::Unavailable(_) => {
                    once.unavailable.push(folder.watch.name.clone());
                    continue;
                }
                Availability::Starting => waiting += 1,
                Availability::Open(_) if !folder.is_scanned() => waiting += 1,
                Availability::Open(_) => {}
            }
            let counters = journal.counters(folder.watch.id);
            settling += folder.settling();
            waiting += ["pending", "sending", "delivered"].iter().map(|state| counters.count(state)).sum::<u64>();
            once.failed += counters.count("failed");
            once.blocked += counters.count("blocked");
        }
        let long_down = |line: &&Arc<Line>| line.outage().is_some_and(|(since, _)| since.elapsed() >= patience);
        once.down = lines.iter().filter(long_down).map(|line| line.config.name.clone()).collect();
        // Files that this run has begun to send are finished first, whatever else is down.
        let sending: u64 = folders.iter().map(|folder| journal.counters(folder.watch.id).count("sending")).sum();
        if waiting == 0 && settling == 0 || !once.down.is_empty() && sending == 0 {
            return once;
        }
        let since = if settling > 0 { *settling_since.get_or_insert_with(Instant::now) } else { Instant::now() };
        if settling == 0 {
            settling_since = None;
        }
        if waiting == 0 && since.elapsed() >= patience {
            once.unsettled = settling;
            return once;
        }
    }
}
