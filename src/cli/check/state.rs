//! The state directory: there or to be made, ours, with room, and whether a daemon runs on it.
//!
//! The journal itself is never opened: it belongs to the daemon.

use std::fs::{File, Metadata, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::access::{self, Access, advice, change_names, may};
use super::report::Report;
use crate::cli::paint::size;
use crate::config::Config;
use crate::identity::Identity;
use crate::show::Shown;

/// What the daemon keeps open for writing; files of another user among them stop it.
const OWN: [&str; 6] = ["lock", "instance", "spool", "journal", "journal/db", "journal/conf"];
/// Permission bits of strangers.
const OTHERS: u32 = 0o007;

pub(super) fn check(config: &Config, report: &mut Report) {
    let dir = &config.state.directory;
    report.subject(format_args!("state directory {}", Shown(dir)));
    match dir.metadata() {
        Ok(metadata) if metadata.is_dir() => existing(config, dir, &metadata, report),
        Ok(_) => report.error("it is no directory: move away what stands there"),
        Err(error) if error.kind() == ErrorKind::NotFound => missing(dir, report),
        Err(error) => report.error(format_args!("cannot be looked at: {error}{}", advice(&error))),
    }
    free_space(config, report);
}

fn existing(config: &Config, dir: &Path, metadata: &Metadata, report: &mut Report) {
    match may(dir, Access::READ_OK | change_names()) {
        Ok(()) => report.ok("exists and is writable"),
        Err(error) => report.error(format_args!(
            "not readable and writable ({error}): chown it to the daemon's user{}",
            if error.kind() == ErrorKind::ReadOnlyFilesystem { advice(&error) } else { "" }
        )),
    }
    if metadata.permissions().mode() & OTHERS != 0 {
        let mode = metadata.mode() & 0o7777;
        report.warning(format_args!("every user of this host can look into it (mode {mode:04o}): chmod o-rwx it"));
    }
    let strange = OWN.iter().map(|name| dir.join(name)).find(|path| {
        may(path, Access::READ_OK | Access::WRITE_OK).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
    });
    if let Some(path) = strange {
        report.error(format_args!(
            "{} belongs to somebody else, perhaps because the daemon once ran as another user: chown -R the directory",
            Shown(&path)
        ));
    }
    if let Some(configured) = &config.server.instance {
        // Without a kept one this would write it.
        let kept = std::fs::read_to_string(dir.join("instance")).is_ok_and(|text| !text.trim().is_empty());
        if kept && let Err(error) = Identity::load(dir, Some(configured), false) {
            report.error(error);
        }
    }
    daemon(dir, report);
}

/// Asks for a shared lock, only for an instant: a daemon holds an exclusive one for as long as it runs.
///
/// A daemon that starts in this very instant ends with exit code 75, and its service manager starts it again.
fn daemon(dir: &Path, report: &Report) {
    let lock = match File::open(dir.join("lock")) {
        Ok(lock) => lock,
        Err(error) if error.kind() == ErrorKind::NotFound => return report.ok("no daemon runs on it"),
        Err(error) => return report.ok(format_args!("whether a daemon runs on it cannot be told: {error}")),
    };
    match lock.try_lock_shared() {
        Ok(()) => report.ok("no daemon runs on it"),
        Err(TryLockError::WouldBlock) => report.ok("a daemon runs on it now"),
        Err(TryLockError::Error(error)) => {
            report.ok(format_args!("whether a daemon runs on it cannot be told: {error}"));
        }
    }
}

fn missing(dir: &Path, report: &mut Report) {
    let above = access::nearest(dir);
    match may(&above, change_names()) {
        Ok(()) if above.is_dir() => report.ok("does not exist yet; the daemon makes it"),
        Ok(()) => report.error(format_args!("cannot be made: {} is no directory", Shown(&above))),
        Err(error) => report.error(format_args!(
            "does not exist and cannot be made in {} ({error}): make it and chown it to the daemon's user, or let \
             systemd do so (StateDirectory=)",
            Shown(&above)
        )),
    }
}

fn free_space(config: &Config, report: &mut Report) {
    let (dir, needed) = (access::nearest(&config.state.directory), config.state.min_free);
    match crate::fs::free_space(&dir) {
        Ok(free) => {
            if needed == 0 {
                report.ok(format_args!("{} free (state.min_free is off)", size(free)));
            } else if free < needed {
                report.error(format_args!(
                    "{} free, but nothing is sent with less than {} (state.min_free): make room or lower it",
                    size(free),
                    size(needed)
                ));
            } else {
                report.ok(format_args!("{} free, {} are wanted (state.min_free)", size(free), size(needed)));
            }
        }
        Err(error) => report.error(format_args!("its free space is unknown: {error}")),
    }
}
