//! Mutexes of plain data.
//!
//! No panic can leave such data half changed, so whether somebody panicked while holding the lock means nothing: the panic
//! itself is seen by whoever supervises the task.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, whether or not a holder panicked.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
