//! The marker of an input goes where the input goes: along with it, or away.
//!
//! A writer may put a new input and its marker in their place at any moment. A new marker comes after its input; so the
//! marker is renamed to a hidden name first, and if no new input stands there then, it is the old one's. It is worth less
//! than its input: whoever asks goes on when this fails. A crash in between is finished with that of the input where that
//! is still to be finished; else the marker stays under its hidden name.
//!
//! Everything here blocks on the disk.

use std::ffi::{OsStr, OsString};
use std::io;

use uuid::Uuid;

use super::after::put_back;
use crate::config::Marker;
use crate::fs::Dir;
use crate::sidecar::{self, NAME_MAX};

/// Removes the marker of an input that is gone from this folder.
pub fn remove(marker: &Marker, dir: &Dir, input: &OsStr, object_id: Uuid) -> io::Result<()> {
    if let Some(hidden) = take(marker, dir, input, object_id)? {
        dir.unlink(&hidden)?;
        dir.sync()?;
    }
    Ok(())
}

/// Moves the marker of an input that is gone from this folder to the first of these names that is free there.
pub fn follow(
    marker: &Marker,
    dir: &Dir,
    input: &OsStr,
    object_id: Uuid,
    to: &Dir,
    names: impl Iterator<Item = OsString>,
) -> io::Result<()> {
    let Some(hidden) = take(marker, dir, input, object_id)? else { return Ok(()) };
    for name in names {
        match dir.rename_new(&hidden, to, &name) {
            Ok(()) => {
                to.sync()?;
                return dir.sync();
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                put_back(dir, &hidden, &marker.of(input))?;
                return Err(error);
            }
        }
    }
    put_back(dir, &hidden, &marker.of(input))?;
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "every name for the marker at the target is taken"))
}

/// Gives the marker its hidden name; none if there is none, or if it is that of a new input.
fn take(marker: &Marker, dir: &Dir, input: &OsStr, object_id: Uuid) -> io::Result<Option<OsString>> {
    let (name, hidden) = (marker.of(input), sidecar::hidden_marker_name(object_id));
    if name.len() > NAME_MAX {
        return Ok(None);
    }
    if !dir.exists(&hidden)? {
        if dir.file(&name)?.is_none() {
            return Ok(None);
        }
        dir.rename_new(&name, dir, &hidden)?;
    }
    // Where another marker stands already, that one is the new input's.
    let is_old = dir.file(&hidden)?.is_some() && (!dir.exists(input)? || dir.exists(&name)?);
    if is_old {
        return Ok(Some(hidden));
    }
    put_back(dir, &hidden, &name).map(|()| None)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, Environment};

    fn marker() -> Marker {
        let text = "[server]\nuri = \"http://127.0.0.1\"\n[pipelines.p]\nfile = \"p.pipe\"\n\
                    [[watch]]\npath = \"/in\"\npipeline = \"p\"\ndone_marker = \"{name}.done\"";
        let config = Config::parse(text, Path::new("/etc/config.toml"), &Environment::default()).unwrap();
        config.watches[0].done_marker.clone().unwrap()
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn remove_in(dir: &Path) {
        remove(&marker(), &Dir::open(dir).unwrap(), OsStr::new("a"), Uuid::nil()).unwrap();
    }

    #[test]
    fn a_marker_is_removed_unless_a_new_input_stands_there() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("a.done"), "").unwrap();
        std::fs::write(temp.path().join("a"), "new").unwrap();
        remove_in(temp.path());
        assert_eq!(names(temp.path()), ["a", "a.done"]);
        std::fs::remove_file(temp.path().join("a")).unwrap();
        remove_in(temp.path());
        assert!(names(temp.path()).is_empty());
        remove_in(temp.path());
    }

    #[test]
    fn what_is_no_regular_file_is_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("x", temp.path().join("a.done")).unwrap();
        remove_in(temp.path());
        std::fs::remove_file(temp.path().join("a.done")).unwrap();
        std::fs::create_dir(temp.path().join("a.done")).unwrap();
        remove_in(temp.path());
        assert_eq!(names(temp.path()), ["a.done"]);
    }

    #[test]
    fn a_marker_that_a_crash_left_hidden_goes_too_and_a_new_one_stays() {
        let temp = tempfile::tempdir().unwrap();
        let hidden = sidecar::hidden_marker_name(Uuid::nil());
        std::fs::write(temp.path().join(&hidden), "").unwrap();
        remove_in(temp.path());
        assert!(names(temp.path()).is_empty());
        for name in [hidden.to_str().unwrap(), "a", "a.done"] {
            std::fs::write(temp.path().join(name), "").unwrap();
        }
        remove_in(temp.path());
        assert_eq!(names(temp.path()), ["a", "a.done"]);
        // Without a new marker it can only be the new input's.
        std::fs::rename(temp.path().join("a.done"), temp.path().join(&hidden)).unwrap();
        remove_in(temp.path());
        assert_eq!(names(temp.path()), ["a", "a.done"]);
    }

    #[test]
    fn a_marker_never_overwrites_and_stays_where_it_finds_no_name() {
        let (temp, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (dir, to) = (Dir::open(temp.path()).unwrap(), Dir::open(target.path()).unwrap());
        std::fs::write(temp.path().join("a.done"), "mine").unwrap();
        std::fs::write(target.path().join("a.done"), "theirs").unwrap();
        let follow = |names: &[&str]| {
            let names = names.iter().map(OsString::from);
            follow(&marker(), &dir, OsStr::new("a"), Uuid::nil(), &to, names)
        };
        assert_eq!(follow(&["a.done"]).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(names(temp.path()), ["a.done"]);
        follow(&["a.done", "b.done"]).unwrap();
        assert!(names(temp.path()).is_empty());
        assert_eq!(std::fs::read(target.path().join("a.done")).unwrap(), b"theirs");
        assert_eq!(std::fs::read(target.path().join("b.done")).unwrap(), b"mine");
    }
}
