//! Whether anybody still has a file open for writing: asked of the kernel by a lease.
//!
//! `fcntl(F_SETLEASE, F_RDLCK)` on a read-only descriptor fails with EAGAIN while any process has the file
//! open for writing or mapped writable, and succeeds once the last writer is gone. That proves what no quiet
//! period can. It needs ownership of the file or `CAP_LEASE`, and a local filesystem; elsewhere the answer is
//! unknown and the quiet alone decides. The lease is given back at once; while it is held, a writer's
//! non-blocking open gets EAGAIN.
//!
//! The kernel tells a lease holder of a newcomer by SIGIO, whose default action kills the process:
//! [`install_handler`] must have run before the first check, and [`check`] refuses to ask before.
//!
//! This module holds the only `unsafe` code of the crate: neither rustix nor nix wraps `F_SETLEASE`.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

static HANDLER_INSTALLED: AtomicBool = AtomicBool::new(false);

/// What the kernel says about writers of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Writers {
    /// Nobody has it open for writing.
    None,
    /// Somebody has.
    Some,
    /// It cannot be told, and why.
    Unknown(&'static str),
}

/// Makes SIGIO harmless for this process. Call it once, before any [`check`].
pub fn install_handler() -> io::Result<()> {
    // The flag is never read: having a handler is the point.
    signal_hook::flag::register(libc::SIGIO, Arc::new(AtomicBool::new(false)))?;
    HANDLER_INSTALLED.store(true, Ordering::Release);
    Ok(())
}

/// Asks whether anybody has the file open for writing. The descriptor must be read-only.
pub fn check(file: &File) -> Writers {
    if !HANDLER_INSTALLED.load(Ordering::Acquire) {
        return Writers::Unknown("the handler of SIGIO is not installed");
    }
    match set_lease(file, libc::F_RDLCK) {
        Ok(()) => match set_lease(file, libc::F_UNLCK) {
            Ok(()) => Writers::None,
            Err(_) => Writers::Unknown("the lease could not be given back"),
        },
        Err(Errno::AGAIN) => Writers::Some,
        Err(Errno::ACCESS | Errno::PERM) => Writers::Unknown("neither owner of the file nor CAP_LEASE"),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Writers::Unknown("this filesystem has no leases"),
        Err(_) => Writers::Unknown("the kernel refused the lease"),
    }
}

#[allow(unsafe_code)]
fn set_lease(file: &File, kind: libc::c_int) -> Result<(), Errno> {
    // SAFETY: `fcntl` with F_SETLEASE takes an open descriptor, which `file` keeps open over the call, and an
    // integer. It touches no memory of this process.
    let outcome = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) };
    if outcome == 0 { Ok(()) } else { Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_is_seen_until_it_closes() {
        install_handler().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let writer = File::create(&path).unwrap();
        let reader = File::open(&path).unwrap();
        let with_writer = check(&reader);
        if matches!(with_writer, Writers::Unknown(_)) {
            // A temporary directory on a filesystem without leases shows nothing of the rule.
            return;
        }
        assert_eq!(with_writer, Writers::Some);
        drop(writer);
        assert_eq!(check(&reader), Writers::None);
        // The lease was given back: a writer may open at once.
        assert!(std::fs::OpenOptions::new().write(true).open(&path).is_ok());
    }
}
