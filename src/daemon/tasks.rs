//! The tasks of the daemon, with the names they go by: each end is seen, a panic ends the daemon.

use std::collections::HashMap;

use tokio::task::{AbortHandle, Id, JoinError, JoinSet};

use super::DaemonError;
use crate::journal::Failure;
use crate::panics::{self, TaskName};

/// Tasks whose end is seen.
#[derive(Default)]
pub(super) struct Tasks {
    set: JoinSet<Result<(), Failure>>,
    names: HashMap<Id, TaskName>,
}

impl Tasks {
    /// Starts one. Ended through its handle, it is no failure.
    pub(super) fn spawn(
        &mut self,
        name: String,
        task: impl Future<Output = Result<(), Failure>> + Send + 'static,
    ) -> AbortHandle {
        let name = TaskName::from(name);
        let handle = self.set.spawn(panics::named(name.clone(), task));
        self.names.insert(handle.id(), name);
        handle
    }

    /// Waits for the next one that fails or panics. Never resolves while none does. Losing the future loses nothing.
    pub(super) async fn failed(&mut self) -> DaemonError {
        loop {
            match self.set.join_next_with_id().await {
                None => std::future::pending().await,
                Some(Ok((id, Ok(())))) => drop(self.names.remove(&id)),
                Some(Ok((_, Err(failure)))) => return failure.into(),
                Some(Err(error)) => {
                    let name = self.names.remove(&error.id()).unwrap_or_default();
                    if !error.is_cancelled() {
                        return panicked(&name, error);
                    }
                }
            }
        }
    }

    /// Ends them all.
    pub(super) async fn shutdown(mut self) {
        self.set.shutdown().await;
    }
}

/// What is said of a task that panicked, which the log has told in full.
pub(super) fn panicked(name: &str, error: JoinError) -> DaemonError {
    let message = match error.try_into_panic() {
        Ok(panic) => panics::message(panic.as_ref()).to_owned(),
        Err(error) => error.to_string(),
    };
    DaemonError::Panicked(format!("{name}: {message}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_named_and_one_that_ends_is_no_failure() {
        let mut tasks = Tasks::default();
        tasks.spawn("one that ends".into(), async { Ok(()) });
        tasks.spawn("one that is ended".into(), std::future::pending()).abort();
        tasks.spawn("intake of watch \"in\"".into(), async { panic!("index {}", 7) });
        let error = tasks.failed().await;
        assert_eq!(error.to_string(), "a task panicked: intake of watch \"in\": index 7; this is a defect");

        tasks.spawn("intake".into(), async { Err(Failure::Closed) });
        assert!(matches!(tasks.failed().await, DaemonError::Journal(Failure::Closed)));
        assert!(tokio::time::timeout(Duration::from_millis(20), tasks.failed()).await.is_err());
    }
}
