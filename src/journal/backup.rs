//! Before a journal of an older format is first opened for writing it is copied, so that whoever goes back to the older
//! program has what that one can read.
//!
//! The copy is a directory `journal.format-N.backup` in the state directory with the journal, its format and its identity as
//! they were. It has its name only once it is whole and durable. There is one of each format at most: a later one replaces an
//! earlier one, since it is of a later time. Nothing here removes one otherwise; that is the operator's to do.
//!
//! It must not know of sled: the journal is files here.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::home::{FORMAT, FORMAT_FILE, Home, ID_FILE, JOURNAL};
use super::open::OpenError;

/// What must stay free on the filesystem beyond the copy, in bytes: the opening itself writes, too.
pub(super) const MARGIN: u64 = 16 << 20;
/// Folders within the journal's directory; the database has one.
const MAX_DEPTH: usize = 4;

/// Bytes that are free on the filesystem of a directory. A parameter, so that a test can let them run out.
pub(super) type Free = fn(&Path) -> io::Result<u64>;

/// What `statvfs` says.
pub(super) fn free(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The name of the copy of a journal of this format.
fn name(format: u32) -> String {
    format!("journal.format-{format}.backup")
}

/// The copies that stand in a state directory, those of the oldest format first.
pub fn backups(state_dir: &Path) -> Vec<PathBuf> {
    (0..FORMAT).map(|format| state_dir.join(name(format))).filter(|backup| backup.is_dir()).collect()
}

/// Copies the journal, which nobody has open, and says so. The journal stays as it is.
pub(super) fn make(home: &Home, format: u32, free: Free) -> Result<PathBuf, OpenError> {
    let (journal, backup) = (home.journal(), home.dir().join(name(format)));
    let new = home.dir().join(format!("{}.new", name(format)));
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Io { path, source }
    };
    // What a killed predecessor, or one without room, left of it.
    remove(&new).map_err(failed(&new))?;
    let bytes = size(&journal, MAX_DEPTH).map_err(failed(&journal))?;
    let no_room = |free| OpenError::NoRoom { dir: home.dir().to_owned(), found: format, bytes, free };
    // Room that cannot be asked for is found out by the copying.
    if let Ok(free) = free(home.dir())
        // The copy, and then every record may be written once more.
        && free < bytes.saturating_mul(2).saturating_add(MARGIN)
    {
        return Err(no_room(free));
    }
    if let Err(source) = copy_all(home, &new) {
        let _ = remove(&new);
        let full = matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        return Err(if full { no_room(free(home.dir()).unwrap_or_default()) } else { failed(&new)(source) });
    }
    remove(&backup).map_err(failed(&backup))?;
    fs::rename(&new, &backup).map_err(failed(&backup))?;
    sync(home.dir()).map_err(failed(home.dir()))?;
    tracing::warn!(
        backup = %backup.display(), bytes, from = format, to = FORMAT,
        "the journal has an older format and is taken over; it was copied before, for a way back to the earlier version"
    );
    Ok(backup)
}

fn copy_all(home: &Home, new: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(new)?;
    copy(&home.journal(), &new.join(JOURNAL), MAX_DEPTH)?;
    for name in [FORMAT_FILE, ID_FILE] {
        match copy_file(&home.dir().join(name), &new.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    sync(new)
}

/// Copies a directory, durably. What is neither file nor directory is none of the database's.
fn copy(from: &Path, to: &Path, depth: usize) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() && depth > 0 {
            copy(&entry.path(), &target, depth - 1)?;
        } else if kind.is_file() {
            copy_file(&entry.path(), &target)?;
        }
    }
    sync(to)
}

fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    fs::copy(from, to)?;
    File::open(to)?.sync_all()
}

fn size(dir: &Path, depth: usize) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        bytes += match entry.metadata()? {
            found if found.is_dir() && depth > 0 => size(&entry.path(), depth - 1)?,
            found => found.len(),
        };
    }
    Ok(bytes)
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
