//! What this process may do with a path, asked of the kernel without doing it (`access(2)` with the effective ids).

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD};

pub(super) use rustix::fs::Access;

/// Names in the table of users that are looked at.
const MAX_USERS: usize = 100_000;

/// Whether all of these are allowed. A link at the path is followed.
pub(super) fn may(path: &Path, access: Access) -> io::Result<()> {
    Ok(rustix::fs::accessat(CWD, path, access, AtFlags::EACCESS)?)
}

/// Names are made and removed in a folder.
pub(super) fn change_names() -> Access {
    Access::WRITE_OK | Access::EXEC_OK
}

/// The path itself, or the nearest folder above it that exists.
pub(super) fn nearest(path: &Path) -> PathBuf {
    path.ancestors().find(|above| above.symlink_metadata().is_ok()).unwrap_or(Path::new("/")).to_owned()
}

/// The user this process is, by name if the table of users has one.
pub(super) fn user() -> String {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let table = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = table.lines().take(MAX_USERS).find_map(|line| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?);
        (id.parse() == Ok(uid)).then(|| name.to_owned())
    });
    match name {
        Some(name) => format!("user {name} (uid {uid}, gid {gid})"),
        None => format!("uid {uid}, gid {gid}"),
    }
}

/// Whether no permission is ever refused.
pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What an owner types to mend a refused permission.
pub(super) fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; give this user the right, with chmod, chgrp or setfacl",
        io::ErrorKind::ReadOnlyFilesystem => "; it is mounted read-only, or ProtectSystem= of the unit makes it so",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_folder_of_a_path_to_be_made_is_found() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(nearest(&dir.path().join("a/b/c")), dir.path());
        assert_eq!(nearest(dir.path()), dir.path());
        assert!(may(dir.path(), change_names()).is_ok());
        assert!(may(&dir.path().join("none"), Access::EXISTS).is_err());
    }
}
