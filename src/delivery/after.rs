//! After the delivery: the input is kept, removed or moved, and never anything that was not delivered.
//!
//! Between "this is the file that was delivered" and "remove it", a writer may replace it. So it is first
//! renamed, without replacing anything, to a hidden name that nobody else uses; what stands there is compared
//! with what was delivered; only then it goes. On a difference it is renamed back, to a name like its own if that is
//! taken by then: under the hidden one nobody would see it, and it would never be sent.
//!
//! A crash at any step is finished at the next start: with a record the steps are simply taken again; without
//! one (the journal was thrown away) the result file beside it names the object and says what it was.
//!
//! Everything here blocks on the disk.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path};

use uuid::Uuid;

use crate::config::OnSuccess;
use crate::folder::Folder;
use crate::fs::{Access, Dir, Look, Root, Seen, base_name};
use crate::identity::Identity;
use crate::job::{ContentHash, Generation};
use crate::lease::Writers;
use crate::show::Shown;
use crate::sidecar::{self, Kind};

/// How many names are tried at a move's target.
const MOVE_NAMES: u8 = 9;

/// What was delivered.
#[derive(Debug, Clone)]
pub struct Delivered {
    /// Its generation then.
    pub generation: Generation,
    /// The hash of its content.
    pub sha256: ContentHash,
    /// Its object id.
    pub object_id: Uuid,
    /// Name of its result file.
    pub result: OsString,
}

/// How a post-action ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The input is no longer at its place.
    Gone,
    /// It stays, and why.
    Kept(String),
}

/// Does what the watch wants done with a delivered file. Errors may be tried again.
pub fn finish(folder: &Folder, root: &Root, rel: &Path, delivered: &Delivered) -> io::Result<Outcome> {
    let dir = root.parent(rel)?;
    let name = base_name(rel);
    let hidden = sidecar::hidden_name(delivered.object_id);
    let is_hidden = match dir.look(&hidden) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error),
        Ok(Look::File(seen)) if is_delivered(&seen, &delivered.generation) => true,
        // Not what was delivered: it may be somebody's only copy, and under this name it would never be sent.
        Ok(Look::File(_)) => {
            reveal(&dir, &hidden, name)?;
            false
        }
        Ok(_) => {
            let why =
                format!("{} stands in the way, and is no file: remove it, then touch this file", hidden.display());
            return Ok(Outcome::Kept(why));
        }
    };
    if !is_hidden {
        if folder.watch.on_success == OnSuccess::Keep {
            return Ok(Outcome::Kept(String::new()));
        }
        let Some(seen) = dir.file(name)? else {
            // Somebody else removed it, or we did before a crash; its result may still have to follow it.
            if let OnSuccess::Move(target) = &folder.watch.on_success {
                follow_moved(folder, root, target, rel, &dir, delivered)?;
            }
            return Ok(Outcome::Gone);
        };
        // A chmod moves the change time, and so does a rewrite that puts the other times back: the content tells.
        let same = is_delivered(&seen, &delivered.generation)
            && (seen.generation == delivered.generation || has_content(&dir, name, &delivered.sha256)?);
        if !same {
            return Ok(Outcome::Kept("the file changed after its delivery".into()));
        }
        if is_written(&dir, name)? {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "somebody has the file open for writing"));
        }
        dir.rename_new(name, &dir, &hidden)?;
        dir.sync()?;
    }
    let same = dir.file(&hidden)?.is_some_and(|seen| is_delivered(&seen, &delivered.generation));
    if !same {
        return reveal(&dir, &hidden, name).map(|()| Outcome::Kept("another file came to its place".into()));
    }
    if is_written(&dir, &hidden)? {
        // What is written now is not what was delivered any more.
        reveal(&dir, &hidden, name)?;
        return Err(io::Error::new(io::ErrorKind::WouldBlock, "somebody has the file open for writing"));
    }
    match &folder.watch.on_success {
        OnSuccess::Keep => put_back(&dir, &hidden, name).map(|()| Outcome::Kept(String::new())),
        OnSuccess::Delete => {
            dir.unlink(&hidden)?;
            dir.sync()?;
            Ok(Outcome::Gone)
        }
        OnSuccess::Move(target) => match move_to(folder, root, target, rel, &dir, &hidden, delivered) {
            Ok(()) => Ok(Outcome::Gone),
            Err(error) => {
                put_back(&dir, &hidden, name)?;
                if error.kind() == io::ErrorKind::CrossesDevices {
                    return Ok(Outcome::Kept(format!("{} is on another filesystem", Shown(target))));
                }
                Err(error)
            }
        },
    }
}

/// What became of a hidden file that a scan found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovery {
    /// It is gone, or a job that is known has it: nothing to do.
    NotOurs,
    /// Nothing is known about it; it stays as it is.
    Unknown,
    /// The post-action of this input was finished or undone.
    Finished(OsString, Outcome),
}

/// Finishes or undoes the post-action of a hidden file that no record knows.
///
/// `is_known` tells whether a job at a path has its post-action still to do: that one is left to the dispatcher.
pub fn recover(
    folder: &Folder,
    root: &Root,
    hidden: &Path,
    identity: &Identity,
    is_known: impl Fn(&Path) -> bool,
) -> io::Result<Recovery> {
    let dir = root.parent(hidden)?;
    let name = base_name(hidden);
    let id = name.to_str().and_then(|name| name.strip_prefix(sidecar::HIDDEN_PREFIX));
    let Some(object_id) = id.and_then(|id| Uuid::parse_str(id).ok()) else { return Ok(Recovery::Unknown) };
    let found = sidecar::find_object(&dir, object_id, identity)?;
    if dir.file(name)?.is_none() {
        return Ok(Recovery::NotOurs);
    }
    let Some((input, ours)) = found else { return Ok(Recovery::Unknown) };
    let rel = hidden.with_file_name(&input);
    if is_known(&rel) {
        return Ok(Recovery::NotOurs);
    }
    // A name that is not UTF-8 is written with replacements: then the object id tells that it is not this one.
    let Some(sha256) = ours.sha256.filter(|_| identity.object_id(&folder.watch.name, &rel) == object_id) else {
        return Ok(Recovery::Unknown);
    };
    let delivered = Delivered { generation: ours.generation, sha256, object_id, result: ours.name };
    finish(folder, root, &rel, &delivered).map(|outcome| Recovery::Finished(input, outcome))
}

/// A rename moves the ctime, so that is not compared.
fn is_delivered(seen: &Seen, generation: &Generation) -> bool {
    let now = &seen.generation;
    (now.ino, now.size, now.mtime_ns) == (generation.ino, generation.size, generation.mtime_ns)
}

/// Whether the file at this name has this content.
fn has_content(dir: &Dir, name: &OsStr, sha256: &ContentHash) -> io::Result<bool> {
    Ok(sidecar::hash_reader(dir.open_file(name)?.0)? == *sha256)
}

/// Whether somebody is known to have it open for writing.
fn is_written(dir: &Dir, name: &OsStr) -> io::Result<bool> {
    match dir.open_file(name) {
        Ok((file, _)) => Ok(dir.writers(&file) == Writers::Some),
        // It was readable when it was delivered; without reading it, there is no telling.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(false),
        Err(error) => Err(error),
    }
}

/// Gives a hidden file its name back; if that is taken by now, both stay.
fn put_back(dir: &Dir, hidden: &OsStr, name: &OsStr) -> io::Result<()> {
    match dir.rename_new(hidden, dir, name) {
        Ok(()) => dir.sync(),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!(
                "its name is taken by now; the delivered file stays as {}: rename or remove that",
                hidden.display()
            ),
        )),
        Err(error) => Err(error),
    }
}

/// Gives a file that is not known to be delivered its name back, or one like it if that is taken: it is to be seen, and
/// sent.
fn reveal(dir: &Dir, hidden: &OsStr, name: &OsStr) -> io::Result<()> {
    for n in 0..MOVE_NAMES {
        let salt = *Uuid::new_v4().as_bytes();
        let other = sidecar::disambiguated(name, &[salt, salt].concat().try_into().unwrap_or_default());
        let to = if n == 0 { name } else { &other };
        match dir.rename_new(hidden, dir, to) {
            Ok(()) => {
                let shown = |name: &OsStr| Shown(Path::new(name)).to_string();
                tracing::warn!(
                    from = shown(hidden),
                    to = shown(to),
                    "a file that is not the delivered one stood at the name of a post-action; it has a name of its own again"
                );
                return dir.sync();
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AlreadyExists,
        format!("rename {} by hand: every name is taken", hidden.display()),
    ))
}

fn move_to(
    folder: &Folder,
    root: &Root,
    target: &Path,
    rel: &Path,
    dir: &Dir,
    hidden: &OsStr,
    delivered: &Delivered,
) -> io::Result<()> {
    let to = target_dir(folder, root, target, rel).map_err(|error| {
        io::Error::new(error.kind(), format!("no folder to move it to, in {}: {error}", Shown(target)))
    })?;
    for n in 0..MOVE_NAMES {
        let name = target_name(base_name(rel), &delivered.sha256, n);
        match dir.rename_new(hidden, &to, &name) {
            Ok(()) => {
                to.sync()?;
                dir.sync()?;
                return move_result(dir, &to, &name, delivered);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("every name for it in {} is taken", Shown(target))))
}

/// After a crash between the move of the input and that of its result: the result follows.
fn follow_moved(
    folder: &Folder,
    root: &Root,
    target: &Path,
    rel: &Path,
    dir: &Dir,
    delivered: &Delivered,
) -> io::Result<()> {
    if dir.file(&delivered.result)?.is_none() {
        return Ok(());
    }
    let to = target_dir(folder, root, target, rel)?;
    for n in 0..MOVE_NAMES {
        let name = target_name(base_name(rel), &delivered.sha256, n);
        if to.file(&name)?.is_some_and(|seen| is_delivered(&seen, &delivered.generation)) {
            return move_result(dir, &to, &name, delivered);
        }
    }
    Ok(())
}

fn move_result(dir: &Dir, to: &Dir, moved: &OsStr, delivered: &Delivered) -> io::Result<()> {
    for n in 1..=u32::from(MOVE_NAMES) {
        match dir.rename_new(&delivered.result, to, &sidecar::name_of(moved, Kind::Result, n)) {
            Ok(()) => {
                to.sync()?;
                return dir.sync();
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "every name for the result at the target is taken"))
}

/// The `n`-th name of a moved file: its own, then `stem~<8 hex of the hash>.ext`, then the same with the hash counted up.
fn target_name(input: &OsStr, sha256: &ContentHash, n: u8) -> OsString {
    if n == 0 {
        return input.to_owned();
    }
    let mut hash = *sha256;
    hash[3] = hash[3].wrapping_add(n - 1);
    sidecar::disambiguated(input, &hash)
}

/// The folder that mirrors the input's beneath the target; made where it is missing, through no link.
fn target_dir(folder: &Folder, root: &Root, target: &Path, rel: &Path) -> io::Result<Dir> {
    let dir = if let Ok(inner) = target.strip_prefix(&folder.watch.path) {
        // Beneath the inbox, where strangers write: every step is checked.
        let mut dir = root.dir(Path::new(""))?;
        let like = dir.access()?;
        for component in inner.components() {
            dir = dir.make_dir(plain(component)?, &like)?;
        }
        dir
    } else {
        std::fs::create_dir_all(target)?;
        Dir::open(target)?
    };
    mirror(root, dir, rel.parent().unwrap_or(Path::new("")))
}

/// Makes the folders on the way to `path` beneath the target, each no more open than the one that it mirrors: what was
/// in a private folder stays in one.
fn mirror(root: &Root, mut dir: Dir, path: &Path) -> io::Result<Dir> {
    let mut model = root.dir(Path::new("")).ok();
    for component in path.components() {
        let name = plain(component)?;
        model = model.and_then(|model| model.subdir(name).ok());
        let like = model.as_ref().and_then(|model| model.access().ok());
        dir = dir.make_dir(name, &like.unwrap_or_else(Access::none))?;
    }
    Ok(dir)
}

fn plain(component: Component<'_>) -> io::Result<&OsStr> {
    match component {
        Component::Normal(name) => Ok(name),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "the target's path is not plain")),
    }
}
