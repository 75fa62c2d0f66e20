//! After the delivery: the input is kept, removed or moved, and never anything that was not delivered. So, too, a file
//! that was given up, which is moved only if it is what failed.
//!
//! Between "this is the file that was delivered" and "remove it", a writer may replace it. So it is first
//! renamed, without replacing anything, to a hidden name that nobody else uses; what stands there is compared
//! with what was delivered; only then it goes. On a difference it is renamed back, to a name like its own if that is
//! taken by then: under the hidden one nobody would see it, and it would never be sent.
//!
//! A crash at any step is finished at the next start: with a record the steps are simply taken again; without
//! one (the journal was thrown away) its result file names the object and says what it was.
//!
//! Everything here blocks on the disk.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use super::marker;
use crate::config::{OnFailure, OnSuccess, Watch};
use crate::crash;
use crate::folder::Folder;
use crate::fs::{Dir, Look, Root, Seen, base_name, plain};
use crate::identity::Identity;
use crate::job::{ContentHash, Generation};
use crate::lease::Writers;
use crate::show::Shown;
use crate::sidecar::{self, Kind};

/// How many names are tried at a move's target.
const MOVE_NAMES: u8 = 9;

/// What was delivered, or given up.
#[derive(Debug, Clone)]
pub struct Delivered {
    /// Which of the two its file beside it says.
    pub kind: Kind,
    /// Its generation then.
    pub generation: Generation,
    /// The hash of its content; known only of what was delivered.
    pub sha256: Option<ContentHash>,
    /// Its object id.
    pub object_id: Uuid,
    /// Name of its result or error file.
    pub result: OsString,
    /// Name of the text beside a result, if there is one.
    pub text: Option<OsString>,
}

/// What the watch wants done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted<'a> {
    Keep,
    Delete,
    Move(&'a Path),
}

impl Delivered {
    fn wanted<'a>(&self, watch: &'a Watch) -> Wanted<'a> {
        match (self.kind, &watch.on_success, &watch.on_failure) {
            (Kind::Result, OnSuccess::Keep, _) | (Kind::Error, _, OnFailure::Keep) => Wanted::Keep,
            (Kind::Result, OnSuccess::Delete, _) => Wanted::Delete,
            (Kind::Result, OnSuccess::Move(target), _) | (Kind::Error, _, OnFailure::Move(target)) => {
                Wanted::Move(target)
            }
        }
    }

    /// Tells it from others of its name: the hash of its content. Of what was given up, which may be too large to be
    /// read again, or not to be read at all, the hash of what it was known by.
    fn mark(&self) -> ContentHash {
        self.sha256.unwrap_or_else(|| {
            let Generation { size, mtime_ns, .. } = self.generation;
            sidecar::hash_parts(&[self.object_id.as_bytes(), &size.to_le_bytes(), &mtime_ns.to_le_bytes()])
        })
    }
}

/// How a post-action ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The input is no longer at its place.
    Gone,
    /// It stays, and why.
    Kept(String),
}

/// Does what the watch wants done with a file that was delivered or given up. Errors may be tried again.
pub fn finish(folder: &Folder, root: &Root, rel: &Path, delivered: &Delivered) -> io::Result<Outcome> {
    let dir = root.parent(rel)?;
    let name = base_name(rel);
    let hidden = sidecar::hidden_name(delivered.object_id);
    let wanted = delivered.wanted(&folder.watch);
    let is_hidden = match dir.look(&hidden) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error),
        Ok(Look::File(seen)) if is_delivered(&seen, &delivered.generation) => true,
        // Not what was delivered: it may be somebody's only copy, and under this name it would never be sent.
        Ok(Look::File(_)) => {
            if reveal(&dir, &hidden, name)? {
                return Ok(Outcome::Kept("another file came to its place".into()));
            }
            false
        }
        Ok(_) => {
            let why =
                format!("{} stands in the way, and is no file: remove it, then touch this file", hidden.display());
            return Ok(Outcome::Kept(why));
        }
    };
    if !is_hidden {
        if wanted == Wanted::Keep {
            return Ok(Outcome::Kept(String::new()));
        }
        let Some(seen) = dir.file(name)? else {
            if let Look::Unknown(error) = root.look(rel) {
                return Err(error);
            }
            // Somebody else removed it, or we did before a crash; what belongs to it may still have to follow it.
            match wanted {
                Wanted::Keep => {}
                Wanted::Delete => take_marker(folder, &dir, rel, delivered, None),
                Wanted::Move(target) => follow_moved(folder, root, target, rel, &dir, delivered)?,
            }
            // Whoever did it: it is gone for good once the journal says so.
            dir.sync()?;
            return Ok(Outcome::Gone);
        };
        // A chmod moves the change time, and so does a rewrite that puts the other times back: the content tells.
        let same = is_delivered(&seen, &delivered.generation)
            && (seen.generation == delivered.generation || has_content(&dir, name, delivered.sha256)?);
        if !same {
            return Ok(Outcome::Kept(match delivered.kind {
                Kind::Result => "the file changed after its delivery".into(),
                Kind::Error => "the file changed after it was given up".into(),
            }));
        }
        if is_written(&dir, name)? {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "somebody has the file open for writing"));
        }
        dir.rename_new(name, &dir, &hidden)?;
        crash::point("after.hidden");
        dir.sync()?;
        crash::point("after.hidden-durable");
    }
    let same = dir.file(&hidden)?.is_some_and(|seen| is_delivered(&seen, &delivered.generation));
    if !same {
        return reveal(&dir, &hidden, name).map(|_| Outcome::Kept("another file came to its place".into()));
    }
    if is_written(&dir, &hidden)? {
        // What is written now is not what was delivered any more.
        reveal(&dir, &hidden, name)?;
        return Err(io::Error::new(io::ErrorKind::WouldBlock, "somebody has the file open for writing"));
    }
    match wanted {
        Wanted::Keep => put_back(&dir, &hidden, name).map(|()| Outcome::Kept(String::new())),
        Wanted::Delete => {
            dir.unlink(&hidden)?;
            crash::point("after.unlinked");
            dir.sync()?;
            crash::point("after.unlinked-durable");
            take_marker(folder, &dir, rel, delivered, None);
            Ok(Outcome::Gone)
        }
        Wanted::Move(target) => match move_to(folder, root, target, rel, &dir, &hidden, delivered) {
            Ok(()) => Ok(Outcome::Gone),
            Err(error) => {
                put_back(&dir, &hidden, name)?;
                if error.kind() == io::ErrorKind::CrossesDevices {
                    // No two mounts of one filesystem allow it either, and a unit of systemd mounts each folder it opens.
                    let why = "is on another filesystem, or mounted apart (see `check --print-dropin`)";
                    return Ok(Outcome::Kept(format!("{} {why}", Shown(target))));
                }
                Err(error)
            }
        },
    }
}

/// What a hidden file is that a scan found.
#[derive(Debug, Clone)]
pub enum Recovery {
    /// It is gone, or a job that is known has it: nothing to do.
    NotOurs,
    /// Nothing is known about it; it stays as it is.
    Unknown,
    /// The input of this path, as it was delivered; its post-action is to be finished.
    Begun(PathBuf, Delivered),
}

/// Says whose post-action a hidden file is in the middle of that no record knows.
///
/// `is_known` tells whether a job at a path has its post-action still to do: that one is left to the dispatcher.
pub fn recover(
    folder: &Folder,
    root: &Root,
    hidden: &Path,
    identity: &Identity,
    is_known: impl Fn(&Path) -> bool,
) -> io::Result<Recovery> {
    let dir = Arc::new(root.parent(hidden)?);
    let name = base_name(hidden);
    let id = name.to_str().and_then(|name| name.strip_prefix(sidecar::HIDDEN_PREFIX));
    let Some(object_id) = id.and_then(|id| Uuid::parse_str(id).ok()) else { return Ok(Recovery::Unknown) };
    let Some(results) = root.results(hidden, Some(&dir))? else { return Ok(Recovery::Unknown) };
    let failed = sidecar::find_object(&results, object_id, Kind::Error, identity)?;
    let delivered = sidecar::find_object(&results, object_id, Kind::Result, identity)?;
    let Some(seen) = dir.file(name)? else { return Ok(Recovery::NotOurs) };
    // A success removes the error file: where there is one, it is about what came last. Both may be there still.
    let failed = failed.filter(|(_, ours)| is_delivered(&seen, &ours.generation)).map(|found| (Kind::Error, found));
    let Some((kind, (input, ours))) = failed.or(delivered.map(|found| (Kind::Result, found))) else {
        return Ok(Recovery::Unknown);
    };
    let rel = hidden.with_file_name(&input);
    if is_known(&rel) {
        return Ok(Recovery::NotOurs);
    }
    // A name that is not UTF-8 is written with replacements: then the object id tells that it is not this one.
    let is_this = identity.object_id(&folder.watch.name, &rel) == object_id;
    if !is_this || (kind == Kind::Result && ours.sha256.is_none()) {
        return Ok(Recovery::Unknown);
    }
    crash::point("orphan.found");
    let sha256 = ours.sha256.filter(|_| kind == Kind::Result);
    let text = ours.text(&results, &input, identity)?;
    let delivered = Delivered { kind, generation: ours.generation, sha256, object_id, result: ours.name, text };
    Ok(Recovery::Begun(rel, delivered))
}

/// A rename moves the ctime, so that is not compared.
fn is_delivered(seen: &Seen, generation: &Generation) -> bool {
    let now = &seen.generation;
    (now.ino, now.size, now.mtime_ns) == (generation.ino, generation.size, generation.mtime_ns)
}

/// Whether the file at this name has this content; what was never hashed is not known to.
fn has_content(dir: &Dir, name: &OsStr, sha256: Option<ContentHash>) -> io::Result<bool> {
    let Some(sha256) = sha256 else { return Ok(false) };
    Ok(sidecar::hash_reader(dir.open_file(name)?.0)? == sha256)
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
pub(super) fn put_back(dir: &Dir, hidden: &OsStr, name: &OsStr) -> io::Result<()> {
    match dir.rename_new(hidden, dir, name) {
        Ok(()) => {
            crash::point("after.put-back");
            dir.sync()
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("its name is taken by now; the file stays as {}: rename or remove that", hidden.display()),
        )),
        Err(error) => Err(error),
    }
}

/// Gives a file that is not known to be delivered its name back, or one like it if that is taken: it is to be seen, and
/// sent. True if it has its own name.
fn reveal(dir: &Dir, hidden: &OsStr, name: &OsStr) -> io::Result<bool> {
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
                dir.sync()?;
                return Ok(n == 0);
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
    let mark = delivered.mark();
    for n in 0..MOVE_NAMES {
        let name = target_name(base_name(rel), &mark, n);
        match dir.rename_new(hidden, &to, &name) {
            Ok(()) => {
                crash::point("after.moved");
                to.sync()?;
                dir.sync()?;
                crash::point("after.moved-durable");
                move_result(root, dir, &to, &name, delivered)?;
                take_marker(folder, dir, rel, delivered, Some((&to, &name)));
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("every name for it in {} is taken", Shown(target))))
}

/// After a crash between the move of the input and that of what belongs to it: this follows.
fn follow_moved(
    folder: &Folder,
    root: &Root,
    target: &Path,
    rel: &Path,
    dir: &Dir,
    delivered: &Delivered,
) -> io::Result<()> {
    let result_follows = !root.results_are_apart() && dir.file(&delivered.result)?.is_some();
    if !result_follows && folder.watch.done_marker.is_none() {
        return Ok(());
    }
    let to = target_dir(folder, root, target, rel)?;
    let mark = delivered.mark();
    for n in 0..MOVE_NAMES {
        let name = target_name(base_name(rel), &mark, n);
        if to.file(&name)?.is_some_and(|seen| is_delivered(&seen, &delivered.generation)) {
            move_result(root, dir, &to, &name, delivered)?;
            take_marker(folder, dir, rel, delivered, Some((&to, &name)));
            return Ok(());
        }
    }
    Ok(())
}

/// The marker of an input that is gone goes away, or along to where the input is now. That it cannot is no failure.
fn take_marker(folder: &Folder, dir: &Dir, rel: &Path, delivered: &Delivered, moved: Option<(&Dir, &OsStr)>) {
    let Some(marker) = &folder.watch.done_marker else { return };
    let (input, object_id) = (base_name(rel), delivered.object_id);
    let taken = match moved {
        None => marker::remove(marker, dir, input, object_id),
        Some((to, name)) => {
            let (name, mark) = (marker.of(name), delivered.mark());
            let names = (0..MOVE_NAMES).map(|n| target_name(&name, &mark, n));
            marker::follow(marker, dir, input, object_id, to, names)
        }
    };
    if let Err(error) = taken {
        tracing::warn!(watch = %folder.watch.name, path = %Shown(rel), %error, "the marker of this file was left behind");
    }
}

/// The result follows its input, its text first: while the result is still there, a restart goes on here. One that stands in
/// a tree of its own stays there.
fn move_result(root: &Root, dir: &Dir, to: &Dir, moved: &OsStr, delivered: &Delivered) -> io::Result<()> {
    if root.results_are_apart() {
        return Ok(());
    }
    if let Some(text) = &delivered.text {
        take_along(dir, to, text, |n| sidecar::text_name_of(moved, n))?;
    }
    take_along(dir, to, &delivered.result, |n| sidecar::name_of(moved, delivered.kind, n))
}

fn take_along(dir: &Dir, to: &Dir, name: &OsStr, nth: impl Fn(u32) -> OsString) -> io::Result<()> {
    for n in 1..=u32::from(MOVE_NAMES) {
        match dir.rename_new(name, to, &nth(n)) {
            Ok(()) => {
                crash::point("after.result-moved");
                to.sync()?;
                dir.sync()?;
                crash::point("after.result-moved-durable");
                return Ok(());
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
            dir = dir.make_dir(plain(component)?, Some(&like))?;
        }
        dir
    } else {
        Dir::open_or_make(target)?
    };
    root.mirror_into(dir, rel.parent().unwrap_or(Path::new("")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Environment};

    /// An inbox whose dead letters are to be moved, with one file in it and what is known of that.
    fn given_up() -> (tempfile::TempDir, Arc<Folder>, Root, Delivered) {
        let inbox = tempfile::tempdir().unwrap();
        let text = format!(
            "[server]\nuri = \"http://127.0.0.1\"\n[pipelines.p]\nfile = \"p.pipe\"\n\
             [[watch]]\nname = \"w\"\npath = {:?}\npipeline = \"p\"\non_failure = {{ move = \"failed\" }}",
            inbox.path()
        );
        let config = Config::parse(&text, Path::new("/etc/config.toml"), &Environment::default()).unwrap();
        let (folder, _) = Folder::new(config.watches[0].clone());
        std::fs::write(inbox.path().join("a.txt"), "one").unwrap();
        let root = Root::open(inbox.path()).unwrap();
        let generation = root.dir(Path::new("")).unwrap().file(OsStr::new("a.txt")).unwrap().unwrap().generation;
        let delivered = Delivered {
            kind: Kind::Error,
            generation,
            sha256: None,
            object_id: Uuid::nil(),
            result: "a.txt.error.json".into(),
            text: None,
        };
        (inbox, folder, root, delivered)
    }

    #[test]
    fn only_the_very_file_that_failed_is_moved() {
        let changes: [fn(&Path); 3] = [
            |path| std::fs::write(path, "two").unwrap(),
            |path| {
                let new = path.with_extension("new");
                std::fs::write(&new, "one").unwrap();
                std::fs::rename(new, path).unwrap();
            },
            |path| {
                let readonly = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o444);
                std::fs::set_permissions(path, readonly).unwrap();
            },
        ];
        for change in changes {
            let (inbox, folder, root, delivered) = given_up();
            // The kernel's clock of change times goes in ticks.
            std::thread::sleep(std::time::Duration::from_millis(20));
            change(&inbox.path().join("a.txt"));
            let outcome = finish(&folder, &root, Path::new("a.txt"), &delivered).unwrap();
            assert_eq!(outcome, Outcome::Kept("the file changed after it was given up".into()));
            assert!(inbox.path().join("a.txt").exists() && !inbox.path().join("failed").exists());
        }
        let (inbox, folder, root, delivered) = given_up();
        std::fs::write(inbox.path().join("a.txt.error.json"), "{}").unwrap();
        assert_eq!(finish(&folder, &root, Path::new("a.txt"), &delivered).unwrap(), Outcome::Gone);
        let failed = inbox.path().join("failed");
        assert!(failed.join("a.txt").exists() && failed.join("a.txt.error.json").exists());
    }

    #[test]
    fn what_came_to_the_hidden_name_instead_is_put_back() {
        let (inbox, folder, root, delivered) = given_up();
        let (path, hidden) = (inbox.path().join("a.txt"), inbox.path().join(sidecar::hidden_name(Uuid::nil())));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&hidden, "somebody's").unwrap();
        let outcome = finish(&folder, &root, Path::new("a.txt"), &delivered).unwrap();
        assert_eq!(outcome, Outcome::Kept("another file came to its place".into()));
        assert_eq!(std::fs::read(path).unwrap(), b"somebody's");
        assert!(!inbox.path().join("failed").exists());
    }
}
