//! Files beneath a root: opened without following links, identified, and renamed durably without replacing.
//!
//! A person who may write into an inbox may be hostile: every path that came from a folder is resolved by
//! the kernel beneath the root's descriptor (`openat2` with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`), opened
//! with `O_NOFOLLOW | O_NONBLOCK`, and only a regular file is read. Acting on a file goes through its
//! parent's descriptor, so a folder that is renamed meanwhile takes the action along.
//!
//! Every call here is a blocking system call. It must not know of watches, jobs' states or pipelines.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Statx, StatxFlags};
use rustix::io::Errno;

use crate::job::Generation;

/// `openat2` reports EAGAIN when a rename races the resolution; the kernel's advice is to try again.
const RESOLVE_TRIES: usize = 16;

/// A folder that is watched, held open for as long as it is what it was.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    fd: OwnedFd,
    /// Device and inode at the opening.
    id: (u64, u64),
    kind: FsKind,
    /// Devices of the mount points seen beneath it, by relative path.
    mounts: Mutex<BTreeMap<PathBuf, u64>>,
}

/// What a filesystem can be relied on for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FsKind {
    /// Its name as people say it.
    pub name: &'static str,
    /// Changes made by other hosts raise no events, leases are not to be had, inode numbers and ctimes may change.
    pub remote: bool,
}

/// What stands at a path.
#[derive(Debug)]
pub enum Look {
    /// A regular file.
    File(Seen),
    /// A directory.
    Directory,
    /// A link, FIFO, socket or device: never opened.
    Special,
    /// Nothing, and it is known that there is nothing: the root and every mount above it are as they were.
    Absent,
    /// It cannot be told now.
    Unknown(io::Error),
}

/// A regular file as `statx` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Identity of its content.
    pub generation: Generation,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of hard links.
    pub nlink: u32,
}

/// A directory beneath a root, held open.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    remote: bool,
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

impl Root {
    /// Opens a root. A link at `path` itself is followed, once: the operator wrote it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        let kind = FsKind::of(&fd)?;
        Ok(Self { path: path.to_owned(), id: (stat.st_dev, stat.st_ino), fd, kind, mounts: Mutex::default() })
    }

    /// The path as configured.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The filesystem it is on.
    pub fn kind(&self) -> FsKind {
        self.kind
    }

    /// Device and inode at the opening.
    pub fn id(&self) -> (u64, u64) {
        self.id
    }

    /// Fails if another directory, or none, stands at the path now: it was renamed, replaced or unmounted.
    pub fn verify(&self) -> io::Result<()> {
        let now = rustix::fs::stat(&self.path)?;
        if (now.st_dev, now.st_ino) == self.id {
            Ok(())
        } else {
            Err(io::Error::other("another directory stands at this path now (replaced, mounted over or unmounted)"))
        }
    }

    /// Opens a directory beneath the root; the empty path is the root itself.
    pub fn dir(&self, rel: &Path) -> io::Result<Dir> {
        let fd = self.open_beneath(rel, OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(Dir { fd, remote: self.kind.remote })
    }

    /// Opens the directory that holds `rel`.
    pub fn parent(&self, rel: &Path) -> io::Result<Dir> {
        self.dir(rel.parent().unwrap_or(Path::new("")))
    }

    /// Says what stands at a path beneath the root.
    pub fn look(&self, rel: &Path) -> Look {
        let found = self
            .open_beneath(rel, OFlags::PATH | OFlags::NOFOLLOW)
            .and_then(|fd| Dir { fd, remote: self.kind.remote }.stat_self());
        match found {
            Ok(stat) => Look::of(&stat, self.kind.remote),
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => self.absence(rel),
            // Without following links the kernel answers ELOOP for a link in the middle of the path.
            Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => Look::Special,
            Err(error) => Look::Unknown(error),
        }
    }

    /// Remembers that another filesystem is mounted at `rel`; without it, nothing beneath is known to be absent.
    pub fn note_mount(&self, rel: &Path, dir: &Dir) -> io::Result<()> {
        let dev = dir.device()?;
        let mut mounts = self.mounts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let above = mounts
            .iter()
            .rev()
            .find(|(mount, _)| rel != *mount && rel.starts_with(mount))
            .map_or(self.id.0, |(_, dev)| *dev);
        if dev == above {
            mounts.remove(rel);
        } else {
            mounts.insert(rel.to_owned(), dev);
        }
        Ok(())
    }

    /// ENOENT means absent only if everything above is as it was.
    fn absence(&self, rel: &Path) -> Look {
        if let Err(error) = self.verify() {
            return Look::Unknown(error);
        }
        let mounts = self.mounts.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        for (mount, dev) in mounts.iter().filter(|(mount, _)| rel.starts_with(mount)) {
            match self.dir(mount).and_then(|dir| dir.device()) {
                Ok(now) if now == *dev => {}
                Ok(_) => return Look::Unknown(io::Error::other(format!("{} is no longer mounted", mount.display()))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Look::Unknown(error),
            }
        }
        Look::Absent
    }

    fn open_beneath(&self, rel: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let rel = if rel.as_os_str().is_empty() { Path::new(".") } else { rel };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..RESOLVE_TRIES {
            match rustix::fs::openat2(&self.fd, rel, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN) => {}
                other => return Ok(other?),
            }
        }
        Err(io::Error::other("the path kept changing while it was resolved"))
    }
}

impl FsKind {
    /// Reads the type of the filesystem (magic numbers of `statfs(2)`).
    fn of(fd: &OwnedFd) -> io::Result<Self> {
        const REMOTE: &[(u64, &str)] = &[
            (0x6969, "nfs"),
            (0x517B, "smb"),
            (0xFF53_4D42, "cifs"),
            (0xFE53_4D42, "smb3"),
            (0x0102_1997, "9p"),
            (0x6573_5546, "fuse"),
            (0x00C3_6400, "ceph"),
            (0x5346_414F, "afs"),
            (0x0BD0_0BD0, "lustre"),
            (0x0116_1970, "gfs2"),
            (0x7461_636F, "ocfs2"),
            (0x786F_4256, "vboxsf"),
            (0xBACB_ACBC, "vmhgfs"),
        ];
        const LOCAL: &[(u64, &str)] = &[
            (0xEF53, "ext4"),
            (0x5846_5342, "xfs"),
            (0x9123_683E, "btrfs"),
            (0x0102_1994, "tmpfs"),
            (0x794C_7630, "overlay"),
            (0x2FC1_2FC1, "zfs"),
            (0xF2F5_2010, "f2fs"),
        ];
        // The field is a signed or unsigned word of various widths; its low 32 bits are the magic number.
        #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast)]
        let magic = rustix::fs::fstatfs(fd)?.f_type as u64 & 0xFFFF_FFFF;
        let named =
            |table: &[(u64, &'static str)]| table.iter().find(|(known, _)| *known == magic).map(|(_, name)| *name);
        Ok(match named(REMOTE) {
            Some(name) => Self { name, remote: true },
            None => Self { name: named(LOCAL).unwrap_or("local"), remote: false },
        })
    }
}

impl Look {
    fn of(stat: &Statx, remote: bool) -> Self {
        match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::RegularFile => Self::File(Seen::of(stat, remote)),
            FileType::Directory => Self::Directory,
            _ => Self::Special,
        }
    }
}

impl Seen {
    fn of(stat: &Statx, remote: bool) -> Self {
        let nanos = |time: rustix::fs::StatxTimestamp| {
            time.tv_sec.saturating_mul(1_000_000_000).saturating_add(i64::from(time.tv_nsec))
        };
        Self {
            generation: Generation {
                ino: (!remote).then_some(stat.stx_ino),
                size: stat.stx_size,
                mtime_ns: nanos(stat.stx_mtime),
                ctime_ns: (!remote).then(|| nanos(stat.stx_ctime)),
            },
            mode: u32::from(stat.stx_mode) & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            nlink: stat.stx_nlink,
        }
    }
}

impl Dir {
    /// Opens the directory at an absolute path of the operator's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        let remote = FsKind::of(&fd)?.remote;
        Ok(Self { fd, remote })
    }

    /// The directory above; that of the topmost is itself.
    pub fn above(&self) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { fd: rustix::fs::openat(&self.fd, "..", flags, Mode::empty())?, remote: self.remote })
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
        Ok(Look::of(&stat, self.remote))
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
        match Look::of(&stat_fd(file, self.flags())?, self.remote) {
            Look::File(seen) => Ok(Some(seen)),
            _ => Ok(None),
        }
    }

    /// Creates a file that did not exist; `mode` is narrowed by the umask.
    pub fn create_new(&self, name: &OsStr, mode: u32) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(&self.fd, name, flags, Mode::from_raw_mode(mode))?))
    }

    /// Opens a directory in this one, which is made if it is missing; a link is refused.
    pub fn make_dir(&self, name: &OsStr) -> io::Result<Self> {
        match rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(0o777)) {
            Ok(()) => self.sync()?,
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self { fd: rustix::fs::openat(&self.fd, name, flags, Mode::empty())?, remote: self.remote })
    }

    /// Renames over whatever stands at the new name in this directory.
    pub fn replace(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.fd, from, &self.fd, to)?)
    }

    /// Renames a file to a name that must be free; [`io::ErrorKind::AlreadyExists`] if it is taken.
    ///
    /// Where the filesystem has no `RENAME_NOREPLACE` (NFS, many FUSE), a hard link and an unlink do the same.
    pub fn rename_new(&self, from: &OsStr, to_dir: &Self, to: &OsStr) -> io::Result<()> {
        match rustix::fs::renameat_with(&self.fd, from, &to_dir.fd, to, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                rustix::fs::linkat(&self.fd, from, &to_dir.fd, to, AtFlags::empty())?;
                Ok(rustix::fs::unlinkat(&self.fd, from, AtFlags::empty())?)
            }
            other => Ok(other?),
        }
    }

    /// Removes a file.
    pub fn unlink(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())?)
    }

    /// Makes the names in this directory durable.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.fd)?)
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
        if self.remote { AtFlags::STATX_FORCE_SYNC } else { AtFlags::empty() }
    }

    fn stat_self(&self) -> io::Result<Statx> {
        stat_fd(&self.fd, self.flags())
    }
}

fn stat_fd(fd: impl AsFd, flags: AtFlags) -> io::Result<Statx> {
    Ok(rustix::fs::statx(fd, "", flags | AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?)
}

/// The last component of a path that names a file; paths here always have one.
pub fn base_name(rel: &Path) -> &OsStr {
    rel.file_name().unwrap_or(rel.as_os_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        (dir, root)
    }

    #[test]
    fn links_are_never_followed_beneath_a_root() {
        let (dir, root) = root();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "s").unwrap();
        symlink(outside.path().join("secret"), dir.path().join("file")).unwrap();
        symlink(outside.path(), dir.path().join("folder")).unwrap();

        assert!(matches!(root.look(Path::new("file")), Look::Special));
        assert!(matches!(root.look(Path::new("folder/secret")), Look::Special));
        assert!(root.dir(Path::new("folder")).is_err());
        assert!(root.dir(Path::new("")).unwrap().open_file(OsStr::new("file")).is_err());
        assert!(matches!(root.look(Path::new("../x")), Look::Unknown(_)));
    }

    #[test]
    fn a_fifo_neither_blocks_nor_is_read() {
        let (dir, root) = root();
        let path = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert!(matches!(root.look(Path::new("pipe")), Look::Special));
        let error = root.dir(Path::new("")).unwrap().open_file(OsStr::new("pipe")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn absent_is_only_said_beneath_a_root_that_is_still_there() {
        let (dir, root) = root();
        assert!(matches!(root.look(Path::new("nothing")), Look::Absent));
        assert!(matches!(root.look(Path::new("no/folder/nothing")), Look::Absent));
        std::fs::rename(dir.path(), dir.path().with_extension("moved")).unwrap();
        assert!(matches!(root.look(Path::new("nothing")), Look::Unknown(_)));
        std::fs::create_dir(dir.path()).unwrap();
        assert!(matches!(root.look(Path::new("nothing")), Look::Unknown(_)), "another directory of the same name");
        std::fs::remove_dir_all(dir.path().with_extension("moved")).unwrap();
    }

    #[test]
    fn a_rename_to_a_taken_name_changes_nothing() {
        let (dir, root) = root();
        std::fs::write(dir.path().join("a"), "a").unwrap();
        std::fs::write(dir.path().join("b"), "b").unwrap();
        let top = root.dir(Path::new("")).unwrap();
        let error = top.rename_new(OsStr::new("a"), &top, OsStr::new("b")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(dir.path().join("b")).unwrap(), b"b");
        top.rename_new(OsStr::new("a"), &top, OsStr::new("c")).unwrap();
        assert_eq!(std::fs::read(dir.path().join("c")).unwrap(), b"a");
    }

    #[test]
    fn a_generation_changes_with_content_and_with_metadata() {
        let (dir, root) = root();
        let path = dir.path().join("f");
        std::fs::write(&path, "one").unwrap();
        let generation = |root: &Root| match root.look(Path::new("f")) {
            Look::File(seen) => seen.generation,
            other => panic!("{other:?}"),
        };
        let first = generation(&root);
        assert_eq!(first, generation(&root));
        std::fs::write(&path, "four").unwrap();
        assert_ne!(first, generation(&root));
    }
}
