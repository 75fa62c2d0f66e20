//! Results are made durable in groups: those that come while an `fsync` is under way wait for it, and share the next one.
//!
//! A disk makes a hundred files durable in hardly more time than one, and so does a processor. Each watch has groups of its
//! own: a folder that does not answer keeps nobody waiting but its own results. A result that comes alone waits for nobody,
//! and a large one goes alone. It must not know what follows for the job.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::io;
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use super::blocking;
use super::claimed::Claimed;
use super::result::{Placing, Temp, place_all};
use crate::fs::{Dir, Look, Seen, base_name};
use crate::job::WatchId;
use crate::locks::lock;
use crate::panics;
use crate::sidecar::Kind;

/// Most results of one group.
const GROUP_LIMIT: usize = 64;
/// Groups of one watch at a time: while one waits for the disk, the next is written.
const AT_A_TIME: usize = 2;
/// Larger results, in bytes, go alone: nobody waits for them.
const LARGE: usize = 256 * 1024;

/// What waits to be placed, of every watch. Bounded by the number of workers, each of whom waits for one result.
#[derive(Default)]
pub struct Groups {
    lanes: Mutex<HashMap<WatchId, Lane>>,
}

/// What waits of one watch.
#[derive(Default)]
struct Lane {
    waiting: VecDeque<Waiting>,
    /// Threads that place its groups.
    running: usize,
}

struct Waiting {
    file: ToPlace,
    answer: oneshot::Sender<Result<Here, Unplaced>>,
}

/// A result and where it goes.
pub struct ToPlace {
    /// Whose result it is.
    pub claimed: Claimed,
    /// The folder of the input.
    pub dir: Arc<Dir>,
    /// The begun file; without one it is begun now.
    pub temp: Option<Temp>,
    /// Its content.
    pub content: Arc<Vec<u8>>,
    /// The input as it was sent.
    pub seen: Seen,
}

/// A result that is durable at its place.
#[derive(Debug)]
pub struct Here {
    /// Its name.
    pub name: OsString,
    /// Its input is to stay, and is known to be gone.
    pub is_absent: bool,
}

/// Why a result has no place.
#[derive(Debug)]
pub struct Unplaced {
    /// Why.
    pub error: io::Error,
    /// The input is gone with its folder.
    pub gone: bool,
}

impl Groups {
    /// Makes a result durable at its place; the error file of an earlier failure goes.
    pub async fn place(self: &Arc<Self>, file: ToPlace) -> Result<Here, Unplaced> {
        if file.content.len() > LARGE {
            return blocking(move || place(vec![file]).pop().unwrap_or_else(|| Err(interrupted()))).await;
        }
        let watch = file.claimed.folder.watch.id;
        let (answer, placed) = oneshot::channel();
        let more_threads = {
            let mut lanes = lock(&self.lanes);
            let lane = lanes.entry(watch).or_default();
            lane.waiting.push_back(Waiting { file, answer });
            let more_threads = lane.running < AT_A_TIME;
            lane.running += usize::from(more_threads);
            more_threads
        };
        if more_threads {
            let (running, name) = (Running { groups: self.clone(), watch, over: false }, panics::task_name());
            // Should it panic, whoever waits for it is told.
            drop(spawn_blocking(move || panics::on_behalf_of(name, move || running.work())));
        }
        placed.await.unwrap_or_else(|_| Err(interrupted()))
    }
}

fn interrupted() -> Unplaced {
    Unplaced { error: io::Error::other("the daemon failed while it wrote the result"), gone: false }
}

/// A thread that places groups of one watch, until nothing waits.
struct Running {
    groups: Arc<Groups>,
    watch: WatchId,
    /// It has been counted out.
    over: bool,
}

impl Running {
    fn work(mut self) {
        while let Some(group) = self.next() {
            let (files, answers): (Vec<_>, Vec<_>) =
                group.into_iter().map(|waiting| (waiting.file, waiting.answer)).unzip();
            for (placed, answer) in place(files).into_iter().zip(answers) {
                // Whoever does not wait any more was given up at the end of a drain.
                let _ = answer.send(placed);
            }
        }
    }

    /// What waits now. With nothing, this thread is counted out in the same moment: whoever comes next starts another.
    fn next(&mut self) -> Option<Vec<Waiting>> {
        let mut lanes = lock(&self.groups.lanes);
        let lane = lanes.get_mut(&self.watch)?;
        let size = lane.waiting.len().min(GROUP_LIMIT);
        if size > 0 {
            return Some(lane.waiting.drain(..size).collect());
        }
        lane.running -= 1;
        if lane.running == 0 {
            lanes.remove(&self.watch);
        }
        self.over = true;
        None
    }
}

impl Drop for Running {
    /// After a panic: nobody is to wait for a thread that is gone.
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let mut lanes = lock(&self.groups.lanes);
        if let Some(lane) = lanes.get_mut(&self.watch) {
            lane.running -= 1;
            if lane.running == 0 {
                lanes.remove(&self.watch);
            }
        }
    }
}

/// Whose result is being placed.
struct Owner {
    /// Which of its group.
    nth: usize,
    claimed: Claimed,
    /// The folder of its input.
    dir: Arc<Dir>,
    /// The folder of the result.
    results: Arc<Dir>,
    content: Arc<Vec<u8>>,
    /// Name of its input.
    input: OsString,
}

/// Places a group, and removes the error files of what was delivered after all. Blocks.
fn place(group: Vec<ToPlace>) -> Vec<Result<Here, Unplaced>> {
    let (mut ready, mut owners, mut outcomes) = (Vec::new(), Vec::new(), Vec::new());
    for (nth, ToPlace { claimed, dir, temp, content, seen }) in group.into_iter().enumerate() {
        outcomes.push(None);
        let input = base_name(&claimed.job.path).to_owned();
        let begun = temp.map_or_else(|| claimed.begin(&dir, &seen), Ok);
        match begun {
            Ok(temp) => {
                owners.push(Owner { nth, claimed, dir, results: temp.dir().clone(), content, input });
                ready.push(temp);
            }
            Err(error) => outcomes[nth] = Some(Err(unplaced(&claimed, error))),
        }
    }
    let files = ready.into_iter().zip(&owners).map(|(temp, owner)| Placing {
        temp,
        content: &owner.content,
        input: &owner.input,
        kind: Kind::Result,
        identity: &owner.claimed.tools.identity,
    });
    let placed = place_all(files.collect());
    for (placed, Owner { nth, claimed, dir, results, .. }) in placed.into_iter().zip(&owners) {
        if placed.is_ok() {
            claimed.remove_error_file(results);
        }
        let placed = placed.map(|name| Here { name, is_absent: claimed.is_absent(Some(dir)) });
        outcomes[*nth] = Some(placed.map_err(|error| unplaced(claimed, error)));
    }
    outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(|| Err(interrupted()))).collect()
}

fn unplaced(claimed: &Claimed, error: io::Error) -> Unplaced {
    let gone = error.kind() == io::ErrorKind::NotFound
        && !claimed.root.results_are_apart()
        && matches!(claimed.root.look(&claimed.job.path), Look::Absent);
    Unplaced { error, gone }
}
