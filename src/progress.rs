//! The heartbeat of a loop that must never stand still.
//!
//! The loop says that it goes round; whoever asks decides how long it may not. It knows neither.

use crate::locks::lock;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A loop with nothing to do goes round at least this often. Far less than any sensible deadline for it.
pub const BEAT_EVERY: Duration = Duration::from_secs(2);

/// How often a loop went round, and when last. Clones share it.
#[derive(Debug, Clone)]
pub struct Progress {
    inner: Arc<Mutex<(u64, Instant)>>,
}

impl Default for Progress {
    fn default() -> Self {
        Self { inner: Arc::new(Mutex::new((0, Instant::now()))) }
    }
}

impl Progress {
    /// The loop goes round.
    pub fn beat(&self) {
        let mut inner = lock(&self.inner);
        *inner = (inner.0 + 1, Instant::now());
    }

    /// How often it went round.
    pub fn beats(&self) -> u64 {
        lock(&self.inner).0
    }

    /// When it last did; its making counts as the first time.
    pub fn last_beat(&self) -> Instant {
        lock(&self.inner).1
    }
}
