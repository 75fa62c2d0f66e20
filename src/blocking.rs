//! Work that blocks on the disk, off the async threads.

use tokio::task::{JoinError, spawn_blocking};

use crate::panics;

/// Runs a closure on a blocking thread. A panic in it goes on in the caller, whose supervisor sees it; the log names
/// the caller's task.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let name = panics::task_name();
    joined(spawn_blocking(move || panics::on_behalf_of(name, work)).await).await
}

/// The value of a task that is never aborted; its panic goes on in the caller.
pub(crate) async fn joined<T>(outcome: Result<T, JoinError>) -> T {
    match outcome {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only the end of the runtime gets here, and nobody waits then.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_on_another_thread_bears_the_name_of_its_task() {
        let name = panics::named("a".into(), async { blocking(panics::task_name).await }).await;
        assert_eq!(name.as_deref(), Some("a"));
        assert_eq!(blocking(panics::task_name).await, None);
    }
}
