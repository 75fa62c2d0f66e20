//! A directory held open, and what is done to the names in it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::{Access, FsKind, Look, Seen, stat_fd};
use crate::crash;
use crate::lease::{self, Writers};

/// A directory beneath a root, held open.
#[derive(Debug)]
pub struct Dir {
    pub(super) fd: OwnedFd,
    pub(super) kind: FsKind,
}

/// One name in a directory.
#[derive(Debug)]
pub struct Entry {
    /// The name, as bytes.
    pub name: OsString,
    /// What the directory says it is; `None` where the filesystem does not tell.
    pub kind: Option<EntryKind>,
}

/// What a directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// Anything else.
    Special,
}

impl Dir {
    /// Opens the directory at an absolute path of the operator's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        let kind = FsKind::of(&fd)?;
        Ok(Self { fd, kind })
    }

    /// As [`Dir::open`]; what is missing on the way there is made, durably.
    pub fn open_or_make(path: &Path) -> io::Result<Self> {
        match (Self::open(path), path.parent(), path.file_name()) {
            (Err(error), Some(above), Some(name)) if error.kind() == io::ErrorKind::NotFound => {
                Self::open_or_make(above)?.make_dir(name, None)
            }
            (opened, ..) => opened,
        }
    }

    /// The directory above; that of the topmost is itself.
    pub fn above(&self) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { fd: rustix::fs::openat(&self.fd, "..", flags, Mode::empty())?, kind: self.kind })
    }

    /// Whether another filesystem is mounted at it.
    pub fn is_mount(&self) -> io::Result<bool> {
        Ok(self.device()? != self.above()?.device()?)
    }

    /// Fails if this user may not make names in it, without trying.
    pub fn may_be_written(&self) -> io::Result<()> {
        let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
        Ok(rustix::fs::accessat(&self.fd, ".", access, AtFlags::EACCESS)?)
    }

    /// The names in it, without `.` and `..`, in the order the filesystem gives them.
    pub fn entries(&self) -> io::Result<impl Iterator<Item = io::Result<Entry>> + use<>> {
        let listing = rustix::fs::Dir::read_from(&self.fd)?;
        Ok(listing.filter_map(|entry| match entry {
            Err(error) => Some(Err(error.into())),
            Ok(entry) => {
                let name = OsStr::from_bytes(entry.file_name().to_bytes());
                if name == "." || name == ".." {
                    return None;
                }
                let kind = match entry.file_type() {
                    FileType::RegularFile => Some(EntryKind::File),
                    FileType::Directory => Some(EntryKind::Directory),
                    FileType::Unknown => None,
                    _ => Some(EntryKind::Special),
                };
                Some(Ok(Entry { name: name.to_owned(), kind }))
            }
        }))
    }

    /// Says what stands at a name in this directory; ENOENT is an error here, the caller knows what it means.
    pub fn look(&self, name: &OsStr) -> io::Result<Look> {
        let stat =
            rustix::fs::statx(&self.fd, name, self.flags() | AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)?;
        Ok(Look::of(&stat, self.kind))
    }

    /// Like [`Dir::look`], with `None` for nothing or anything that is no regular file.
    pub fn file(&self, name: &OsStr) -> io::Result<Option<Seen>> {
        match self.look(name) {
            Ok(Look::File(seen)) => Ok(Some(seen)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether any name stands there, whatever it is.
    pub fn exists(&self, name: &OsStr) -> io::Result<bool> {
        match self.look(name) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Opens a regular file for reading, without following a link and without waiting for a FIFO's writer.
    ///
    /// Anything else than a regular file is [`io::ErrorKind::InvalidInput`].
    pub fn open_file(&self, name: &OsStr) -> io::Result<(File, Seen)> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&self.fd, name, flags, Mode::empty())?);
        let seen =
            self.seen(&file)?.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))?;
        Ok((file, seen))
    }

    /// The identity of an open file; `None` if it is no regular file.
    pub fn seen(&self, file: &File) -> io::Result<Option<Seen>> {
        match Look::of(&stat_fd(file, self.flags())?, self.kind) {
            Look::File(seen) => Ok(Some(seen)),
            _ => Ok(None),
        }
    }

    /// Creates a file that did not exist; `mode` is narrowed by the umask.
    pub fn create_new(&self, name: &OsStr, mode: u32) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(&self.fd, name, flags, Mode::from_raw_mode(mode))?))
    }

    /// Opens a directory in this one, which is made if it is missing; a link is refused. One that is made is open to
    /// nobody more than `like` says, or to whom the umask leaves it.
    pub fn make_dir(&self, name: &OsStr, like: Option<&Access>) -> io::Result<Self> {
        let made = match rustix::fs::mkdirat(
            &self.fd,
            name,
            Mode::from_raw_mode(if like.is_some() { 0o700 } else { 0o777 }),
        ) {
            Ok(()) => true,
            // One that a crash left unsynced becomes durable with the first sync of what is put into it, wherever there is a
            // journal; a sync of every folder above at every move would be paid for by every file.
            Err(Errno::EXIST) => false,
            Err(error) => return Err(error.into()),
        };
        let dir = self.subdir(name)?;
        if made {
            if let Some(like) = like {
                like.give(&dir.fd, 0o7, 0o7);
            }
            crash::point("directory.made");
            self.sync()?;
        }
        Ok(dir)
    }

    /// Opens a directory in this one; a link is refused.
    pub fn subdir(&self, name: &OsStr) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self { fd: rustix::fs::openat(&self.fd, name, flags, Mode::empty())?, kind: self.kind })
    }

    /// Who may do what in it.
    pub fn access(&self) -> io::Result<Access> {
        Access::of(&self.fd)
    }

    /// Whether anybody has an open file of this directory open for writing, where the kernel can tell.
    pub fn writers(&self, file: &File) -> Writers {
        if self.kind.remote {
            // A lease without the server's consent is refused there, whoever writes.
            return Writers::Unknown("a network filesystem does not tell");
        }
        lease::check(file)
    }

    /// Renames over whatever stands at the new name in this directory.
    pub fn replace(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.fd, from, &self.fd, to)?)
    }

    /// Renames a file to a name that must be free; [`io::ErrorKind::AlreadyExists`] if it is taken.
    ///
    /// Where the filesystem has no `RENAME_NOREPLACE` (NFS, many FUSE), a hard link and an unlink do the same; where it
    /// has no hard links either, the error is [`io::ErrorKind::Unsupported`].
    pub fn rename_new(&self, from: &OsStr, to_dir: &Self, to: &OsStr) -> io::Result<()> {
        match rustix::fs::renameat_with(&self.fd, from, &to_dir.fd, to, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                match rustix::fs::linkat(&self.fd, from, &to_dir.fd, to, AtFlags::empty()) {
                    Ok(()) => Ok(rustix::fs::unlinkat(&self.fd, from, AtFlags::empty())?),
                    Err(Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => Err(io::Error::new(
                        io::ErrorKind::Unsupported,
                        "this filesystem can neither rename without replacing nor make hard links",
                    )),
                    Err(error) => Err(error.into()),
                }
            }
            other => Ok(other?),
        }
    }

    /// Replaces a small file as a whole, durably, with one that nobody else can read. Only for folders of our own: a
    /// leftover of an earlier try at its temporary name is removed.
    pub fn write_whole(&self, name: &OsStr, content: &[u8]) -> io::Result<()> {
        let mut temp = OsString::from(".");
        temp.push(name);
        temp.push(".new");
        match self.unlink(&temp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = self.create_new(&temp, 0o600)?;
        crash::point("whole-file.created");
        io::Write::write_all(&mut file, content)?;
        crash::point("whole-file.written");
        file.sync_all()?;
        crash::point("whole-file.synced");
        self.replace(&temp, name)?;
        crash::point("whole-file.renamed");
        self.sync()?;
        crash::point("whole-file.durable");
        Ok(())
    }

    /// Reads a small file as [`Dir::write_whole`] leaves it; `None` if there is none. One with more than `most` bytes is none
    /// of ours, which is an error, as is anything else than a regular file.
    pub fn read_whole(&self, name: &OsStr, most: u64) -> io::Result<Option<Vec<u8>>> {
        let file = match self.open_file(name) {
            Ok((file, _)) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut content = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(file, most.saturating_add(1)), &mut content)?;
        if content.len() as u64 > most {
            return Err(io::Error::other("it is too large to be ours"));
        }
        Ok(Some(content))
    }

    /// Removes a file.
    pub fn unlink(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())?)
    }

    /// Makes the names in this directory durable, where the filesystem knows such a thing.
    pub fn sync(&self) -> io::Result<()> {
        match rustix::fs::fsync(&self.fd) {
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(()),
            other => Ok(other?),
        }
    }

    /// The device the directory is on.
    pub fn device(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(&self.fd)?.st_dev)
    }

    /// Device and inode.
    pub fn id(&self) -> io::Result<(u64, u64)> {
        let stat = rustix::fs::fstat(&self.fd)?;
        Ok((stat.st_dev, stat.st_ino))
    }

    /// On network filesystems attributes are asked of the server, not of a cache.
    fn flags(&self) -> AtFlags {
        if self.kind.remote { AtFlags::STATX_FORCE_SYNC } else { AtFlags::empty() }
    }

    pub(super) fn stat_self(&self) -> io::Result<Statx> {
        stat_fd(&self.fd, self.flags())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_whole_is_read_whole_and_nothing_else_is() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let read = |most| dir.read_whole("f".as_ref(), most);
        assert_eq!(read(3).unwrap(), None);
        dir.write_whole("f".as_ref(), b"abc").unwrap();
        assert_eq!(read(3).unwrap().as_deref(), Some(&b"abc"[..]));
        assert!(read(2).unwrap_err().to_string().contains("too large"));
        std::fs::remove_file(temp.path().join("f")).unwrap();
        std::fs::create_dir(temp.path().join("f")).unwrap();
        assert!(read(3).is_err());
    }
}
