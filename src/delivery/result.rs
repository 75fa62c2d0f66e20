//! Result and error files on disk: written whole, durable, and no more readable than their input.
//!
//! The order that nothing may change: temp file, content, `fsync`, rename, `fsync` of the directory; only then
//! may the journal say that it is there. A failed `fsync` is never repeated on the same file: the pages it was
//! about may be marked clean already, so a new temp file is written.
//!
//! Everything here blocks on the disk.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use rustix::fs::Advice;
use uuid::Uuid;

use super::text::text_of_file;
use crate::config::ResultMode;
use crate::crash;
use crate::folder::{Folder, TempClaim};
use crate::fs::{Access, Dir, Seen};
use crate::identity::Identity;
use crate::job::ContentHash;
use crate::sidecar::{self, Kind, Place, TextPlace};

/// What others than the daemon may do with a result at most: one that others can write is no word of the daemon's.
const READ: u16 = 0o4;
/// How often a name is looked for again that somebody else took between look and rename.
const PLACE_TRIES: usize = 8;

/// An input, whose result is to be no more readable than it is.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// It is open. (So, too, a result whose text is to be like it.)
    Open(&'a File),
    /// It was seen in a folder under a name, and may be another one by now.
    Seen(&'a Dir, &'a OsStr, &'a Seen),
}

impl Input<'_> {
    /// Who may do what with it; of one that is not there any more, or is another one, that is not known.
    fn access(self) -> Option<Access> {
        match self {
            Self::Open(file) => Access::of(file).ok(),
            Self::Seen(dir, name, seen) => {
                let (file, now) = dir.open_file(name).ok()?;
                if now.generation == seen.generation { Access::of(&file).ok() } else { None }
            }
        }
    }
}

/// A temp file in the folder of a result; removed when dropped unplaced.
#[derive(Debug)]
pub struct Temp {
    /// Of the watch.
    folder: Arc<Folder>,
    /// The object.
    id: Uuid,
    dir: Arc<Dir>,
    /// Taken when it is dropped.
    claim: Option<TempClaim>,
    file: File,
    /// The name for it that was free when it was begun.
    free: Option<OsString>,
    placed: bool,
}

impl Temp {
    /// Creates the temp file of an object's result. Nothing is sent whose result could not even be begun.
    ///
    /// A leftover of a crash at its name is removed first, if it is ours.
    ///
    /// `dir` is the folder of the result. Without an input, because it is gone, only our user may read the result, unless the
    /// watch says otherwise.
    pub fn create(
        folder: &Arc<Folder>,
        dir: &Arc<Dir>,
        id: Uuid,
        input: Option<Input<'_>>,
        uid: u32,
    ) -> io::Result<Self> {
        let (claim, file) = begin(folder, dir, id, uid)?;
        let (folder, dir) = (folder.clone(), dir.clone());
        let temp = Self { folder, id, dir, claim: Some(claim), file, free: None, placed: false };
        crash::point("temp.created");
        match temp.folder.watch.results.mode {
            ResultMode::Fixed(mode) => temp.file.set_permissions(Permissions::from_mode(mode))?,
            ResultMode::Inherit => {
                let access = input.and_then(Input::access);
                access.unwrap_or_else(Access::none).give(&temp.file, 0o6, READ);
            }
        }
        Ok(temp)
    }

    /// Knows a name for it that was free: it is tried without looking once more.
    #[must_use]
    pub fn with_free_name(mut self, name: OsString) -> Self {
        self.free = Some(name);
        self
    }

    /// The folder that it is in.
    pub fn dir(&self) -> &Arc<Dir> {
        &self.dir
    }

    /// Writes the content, makes it durable and gives it its name. Returns the name.
    ///
    /// One of ours at the name is replaced; a stranger's file never is.
    pub fn place(self, content: &[u8], input: &OsStr, kind: Kind, identity: &Identity) -> io::Result<OsString> {
        let mut placed = place_all(vec![Placing { temp: self, content, input, kind, identity }]);
        placed.pop().unwrap_or_else(|| Err(io::Error::other("nothing was placed")))
    }

    /// Writes the text of this result, as readable as this; one of ours, with the hash `old`, is replaced.
    fn place_text(&self, text: &str, old: Option<ContentHash>, input: &OsStr, identity: &Identity) -> io::Result<()> {
        let like = Some(Input::Open(&self.file));
        let mut temp = Self::create(&self.folder, &self.dir, self.id, like, identity.uid)?;
        temp.file.write_all(text.as_bytes())?;
        temp.file.sync_all()?;
        crash::point("text.synced");
        let hashes: Vec<_> = old.into_iter().chain([sidecar::hash_parts(&[text.as_bytes()])]).collect();
        for _ in 0..PLACE_TRIES {
            let renamed = match sidecar::find_text(&temp.dir, input, &hashes, identity)? {
                TextPlace::Ours(name) => temp.dir.replace(temp.name(), &name),
                TextPlace::Free(name) => temp.take(&name),
            };
            match renamed {
                Ok(()) => {
                    temp.placed = true;
                    crash::point("text.renamed");
                    return temp.dir.sync();
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("somebody keeps taking the names of the text of the result"))
    }

    /// Gives it a name that was free.
    fn take(&self, name: &OsStr) -> io::Result<()> {
        match self.dir.rename_new(self.name(), &self.dir, name) {
            // Such a filesystem leaves a moment between look and rename; a result is worth it, an input is not.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.dir.replace(self.name(), name),
            other => other,
        }
    }
}

/// Creates a temp file of an object, which nobody else can read yet, under the first of its two names that is free.
fn begin(folder: &Arc<Folder>, dir: &Dir, id: Uuid, uid: u32) -> io::Result<(TempClaim, File)> {
    begin_as(folder, dir, sidecar::temp_name(id), uid).or_else(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => begin_as(folder, dir, sidecar::other_temp_name(id), uid),
        _ => Err(error),
    })
}

/// The same under this name; what a crash left there is removed, if it is ours.
fn begin_as(folder: &Arc<Folder>, dir: &Dir, name: OsString, uid: u32) -> io::Result<(TempClaim, File)> {
    let claim = folder.claim_temp(name).ok_or(io::ErrorKind::AlreadyExists)?;
    let create = || dir.create_new(claim.name(), 0o600);
    let file = create().or_else(|error| match error.kind() {
        io::ErrorKind::AlreadyExists if claim.sweep(dir, uid)? => create(),
        _ => Err(error),
    })?;
    Ok((claim, file))
}

/// A temp file that is to become a file of ours.
#[derive(Debug)]
pub struct Placing<'a> {
    /// The begun file.
    pub temp: Temp,
    /// What goes into it.
    pub content: &'a [u8],
    /// Name of the input.
    pub input: &'a OsStr,
    /// Result or error file.
    pub kind: Kind,
    /// Who writes it.
    pub identity: &'a Identity,
}

/// One that has its name, which is not durable yet.
struct Named {
    dir: Arc<Dir>,
    name: OsString,
    input: OsString,
    /// The text of an earlier result, where this one has none.
    old_text: Option<ContentHash>,
}

/// Places files as [`Temp::place`] does, and makes them durable together: each step is done for all of them before the
/// next one begins, and a folder is made durable once for all the names that it got. Outcomes are in the order given.
///
/// What fails for one file concerns that file alone, except the `fsync` of a folder: that is every name's in it.
pub fn place_all(files: Vec<Placing<'_>>) -> Vec<io::Result<OsString>> {
    let identities: Vec<_> = files.iter().map(|file| file.identity).collect();
    let together = files.len() > 1;
    let files: Vec<_> = files.into_iter().map(|file| file.written(together)).collect();
    let files: Vec<_> = files.into_iter().map(|file| file.and_then(Placing::synced)).collect();
    let files: Vec<_> = files.into_iter().map(|file| file.and_then(Placing::named)).collect();
    let mut folders = Folders::default();
    let durable = files.into_iter().map(|file| {
        let file = file?;
        folders.make_durable(&file.dir)?;
        crash::point("sidecar.durable");
        Ok(file)
    });
    let durable: Vec<io::Result<Named>> = durable.collect();
    let placed = durable.into_iter().zip(identities).map(|(file, identity)| {
        let Named { dir, name, input, old_text } = file?;
        if let Some(old) = old_text {
            remove_text(&dir, &input, old, identity);
        }
        Ok(name)
    });
    placed.collect()
}

/// The folders that got names, and how it went to make them durable.
#[derive(Default)]
struct Folders(Vec<((u64, u64), io::Result<()>)>);

impl Folders {
    /// Makes a folder durable, once; whoever asks again gets the same answer.
    fn make_durable(&mut self, dir: &Dir) -> io::Result<()> {
        let id = dir.id()?;
        let known = self.0.iter().position(|(known, _)| *known == id);
        let at = known.unwrap_or_else(|| {
            self.0.push((id, dir.sync()));
            self.0.len() - 1
        });
        self.0[at].1.as_ref().map_err(same).copied()
    }
}

/// The same error once more.
fn same(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| io::Error::new(error.kind(), error.to_string()), io::Error::from_raw_os_error)
}

impl Placing<'_> {
    /// Writes the content. With others about to be made durable, the disk begins at once: the first `fsync` then finds all
    /// of them ready, and waits for all.
    fn written(mut self, together: bool) -> io::Result<Self> {
        self.temp.file.write_all(self.content)?;
        crash::point("sidecar.written");
        if together {
            // Only to be faster: what goes wrong here, the `fsync` says.
            let _ = rustix::fs::fadvise(&self.temp.file, 0, None, Advice::DontNeed);
        }
        Ok(self)
    }

    fn synced(self) -> io::Result<Self> {
        self.temp.file.sync_all()?;
        crash::point("sidecar.synced");
        Ok(self)
    }

    fn named(self) -> io::Result<Named> {
        let Self { mut temp, content, input, kind, identity } = self;
        let text = if kind == Kind::Result { text_of_file(content) } else { None };
        // A name that was free is tried without a look: whatever came there since is not replaced.
        let free = temp.free.take().filter(|_| text.is_none());
        let mut looked = free.is_none();
        let mut place = match free {
            Some(name) => Place::Free(name),
            None => sidecar::find(&temp.dir, input, kind, identity)?,
        };
        let old_text = |place: &Place| if let Place::Ours(ours) = place { ours.text_sha256 } else { None };
        if let Some(text) = &text {
            // A result that stands there says that its text does.
            temp.place_text(text, old_text(&place), input, identity)?;
        }
        for _ in 0..PLACE_TRIES {
            let renamed = match &place {
                Place::Ours(ours) => temp.dir.replace(temp.name(), &ours.name),
                Place::Free(name) if looked => temp.take(name),
                Place::Free(name) => temp.dir.rename_new(temp.name(), &temp.dir, name),
            };
            match renamed {
                Ok(()) => {
                    temp.placed = true;
                    crash::point("sidecar.renamed");
                    return Ok(Named {
                        dir: temp.dir.clone(),
                        name: place.name().to_owned(),
                        input: input.to_owned(),
                        old_text: old_text(&place).filter(|_| text.is_none()),
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                // This filesystem cannot do it without a look.
                Err(error) if error.kind() == io::ErrorKind::Unsupported && !looked => {}
                Err(error) => return Err(error),
            }
            looked = true;
            place = sidecar::find(&temp.dir, input, kind, identity)?;
        }
        Err(io::Error::other("somebody keeps taking the names of the result file"))
    }
}

/// Removes the text of an earlier result: the one that stands there now has none.
fn remove_text(dir: &Dir, input: &OsStr, old: ContentHash, identity: &Identity) {
    let removed = match sidecar::find_text(dir, input, &[old], identity) {
        Ok(TextPlace::Ours(name)) => dir.unlink(&name).and_then(|()| dir.sync()),
        Ok(TextPlace::Free(_)) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = removed {
        tracing::warn!(input = %input.display(), %error, "the text of an earlier result was left behind");
    }
}

impl Temp {
    fn name(&self) -> &OsStr {
        self.claim.as_ref().map_or(OsStr::new(""), TempClaim::name)
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let (true, Some(claim)) = (!self.placed, self.claim.take()) else { return };
        let dir = self.dir.clone();
        // What cannot be removed now is swept at the next start.
        let remove = move || drop(dir.unlink(claim.name()));
        // A filesystem that hangs must not take an async thread with it.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// Removes the error file of an input that was delivered after all, if there is one.
pub fn remove_error_file(dir: &Dir, input: &OsStr, identity: &Identity) -> io::Result<()> {
    let Place::Ours(ours) = sidecar::find(dir, input, Kind::Error, identity)? else { return Ok(()) };
    dir.unlink(&ours.name)?;
    crash::point("error-file.removed");
    dir.sync()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_could_not_be_made_durable_failed_for_every_name_in_it() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let mut folders = Folders(vec![(dir.id().unwrap(), Err(io::Error::from_raw_os_error(5)))]);
        for _ in 0..3 {
            assert_eq!(folders.make_durable(&dir).unwrap_err().raw_os_error(), Some(5));
        }
        let mut folders = Folders::default();
        for _ in 0..3 {
            folders.make_durable(&Dir::open(temp.path()).unwrap()).unwrap();
        }
        assert_eq!(folders.0.len(), 1, "however often it is opened");
    }
}
