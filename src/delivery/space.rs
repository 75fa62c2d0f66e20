//! Whether the state directory has room: without it, nothing new is begun.

use std::time::{Duration, Instant};

use crate::config::State;
use crate::fs::free_space;
use crate::show::Shown;

/// How often the free space is looked at.
const CHECK_EVERY: Duration = Duration::from_secs(10);

/// The room of the state directory.
#[derive(Debug)]
pub struct Space {
    state: State,
    enough: bool,
    checked: Option<Instant>,
}

impl Space {
    /// Not looked at yet.
    pub fn new(state: State) -> Self {
        Self { state, enough: true, checked: None }
    }

    /// Whether there is room for what the journal will have to remember (`state.min_free`).
    pub fn is_enough(&mut self, now: Instant) -> bool {
        if self.checked.is_some_and(|checked| now.duration_since(checked) < CHECK_EVERY) {
            return self.enough;
        }
        self.checked = Some(now);
        let free = free_space(&self.state.directory);
        let enough = free.as_ref().is_ok_and(|free| *free >= self.state.min_free);
        if enough != self.enough {
            let path = Shown(&self.state.directory);
            if enough {
                tracing::info!(%path, "the state directory has room again");
            } else {
                tracing::error!(
                    %path, ?free, needed = self.state.min_free,
                    "too little free space for the state directory (state.min_free); nothing new is begun"
                );
            }
        }
        self.enough = enough;
        enough
    }
}
