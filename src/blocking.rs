//! Work that blocks on the disk, off the async threads.

use tokio::task::{JoinError, spawn_blocking};

/// Runs a closure on a blocking thread. A panic in it goes on in the caller, whose supervisor sees it.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    joined(spawn_blocking(work).await).await
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
