//! What delivery is doing right now: the uploads in flight and how far they are, for those who look at the daemon.
//!
//! Nothing is decided by it. It knows nothing of pipes or journals, and costs an upload two atomic stores a write.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::job::Millis;
use crate::locks::lock;

/// Everything in flight.
#[derive(Debug, Default)]
pub struct Board {
    flights: Mutex<BTreeMap<u64, Arc<Flight>>>,
    /// When each pipeline last took a file.
    successes: Mutex<HashMap<String, Millis>>,
}

/// One upload.
#[derive(Debug)]
pub struct Flight {
    /// The watch.
    pub watch: String,
    /// The file, relative to it.
    pub path: PathBuf,
    /// Where it goes.
    pub pipeline: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was begun.
    pub began: Instant,
    sent: AtomicU64,
    phase: AtomicU8,
}

/// How far an upload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Waits for the server to grant it a pipe.
    Opening,
    /// Its bytes are on their way.
    Sending,
    /// The pipeline works on it.
    Processing,
    /// Its result is being written.
    Recording,
}

impl Phase {
    const ALL: [Self; 4] = [Self::Opening, Self::Sending, Self::Processing, Self::Recording];

    /// Stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Sending => "sending",
            Self::Processing => "processing",
            Self::Recording => "recording",
        }
    }
}

impl Flight {
    /// Notes that so many bytes were acknowledged in all. Returns how many more those are.
    pub fn set_sent(&self, total: u64) -> u64 {
        total.saturating_sub(self.sent.swap(total, Ordering::Relaxed))
    }

    /// Bytes that were acknowledged.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Notes that it has got so far.
    pub fn enter(&self, phase: Phase) {
        let index = Phase::ALL.iter().position(|known| *known == phase).unwrap_or_default();
        self.phase.store(u8::try_from(index).unwrap_or_default(), Ordering::Relaxed);
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        let index = usize::from(self.phase.load(Ordering::Relaxed));
        Phase::ALL.get(index).copied().unwrap_or(Phase::Opening)
    }
}

impl Board {
    /// An upload begins; it is on the board until the guard is dropped.
    pub fn begin(self: &Arc<Self>, id: u64, watch: &str, path: PathBuf, pipeline: &str, size: u64) -> Posted {
        let flight = Arc::new(Flight {
            watch: watch.to_owned(),
            path,
            pipeline: pipeline.to_owned(),
            size,
            began: Instant::now(),
            sent: AtomicU64::new(0),
            phase: AtomicU8::new(0),
        });
        lock(&self.flights).insert(id, flight.clone());
        Posted { board: self.clone(), id, flight }
    }

    /// Everything in flight, oldest first.
    pub fn flights(&self) -> Vec<Arc<Flight>> {
        lock(&self.flights).values().cloned().collect()
    }

    /// Uploads in flight to a pipeline.
    pub fn in_flight(&self, pipeline: &str) -> usize {
        lock(&self.flights).values().filter(|flight| flight.pipeline == pipeline).count()
    }

    /// A pipeline took a file.
    pub fn succeeded(&self, pipeline: &str, at: Millis) {
        let mut successes = lock(&self.successes);
        match successes.get_mut(pipeline) {
            Some(last) => *last = at,
            None => drop(successes.insert(pipeline.to_owned(), at)),
        }
    }

    /// When a pipeline last took a file since the start.
    pub fn last_success(&self, pipeline: &str) -> Option<Millis> {
        lock(&self.successes).get(pipeline).copied()
    }
}

/// An upload on the board, until dropped.
#[derive(Debug)]
pub struct Posted {
    board: Arc<Board>,
    id: u64,
    flight: Arc<Flight>,
}

impl std::ops::Deref for Posted {
    type Target = Flight;

    fn deref(&self) -> &Flight {
        &self.flight
    }
}

impl Drop for Posted {
    fn drop(&mut self) {
        lock(&self.board.flights).remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_is_on_the_board_for_as_long_as_it_lasts() {
        let board = Arc::<Board>::default();
        let posted = board.begin(1, "in", "a.pdf".into(), "p", 10);
        posted.enter(Phase::Sending);
        assert_eq!((posted.set_sent(4), posted.set_sent(7)), (4, 3));
        let seen = board.flights();
        assert_eq!(
            (seen[0].sent(), seen[0].phase(), board.in_flight("p"), board.in_flight("q")),
            (7, Phase::Sending, 1, 0)
        );
        drop(posted);
        assert!(board.flights().is_empty());
    }

    #[test]
    fn each_phase_is_read_as_it_was_noted() {
        let board = Arc::<Board>::default();
        let posted = board.begin(1, "in", "a".into(), "p", 0);
        for phase in Phase::ALL {
            posted.enter(phase);
            assert_eq!(posted.phase(), phase);
        }
    }
}
