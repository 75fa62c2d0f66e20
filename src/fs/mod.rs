//! Files beneath a root: opened without following links, identified, and renamed durably without replacing.
//!
//! A person who may write into an inbox may be hostile: every path that came from a folder is resolved by
//! the kernel beneath the root's descriptor (`openat2` with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`), opened
//! with `O_NOFOLLOW | O_NONBLOCK`, and only a regular file is read. Acting on a file goes through its
//! parent's descriptor, so a folder that is renamed meanwhile takes the action along.
//!
//! A hard link is a file like any other: whose it was first cannot be told, and uploads that are renamed into place by a
//! link and an unlink have two names for a while. So one is read as far as the daemon may read it; that nobody links
//! what he may not read and write himself is the kernel's to forbid (`fs.protected_hardlinks`, which `check` looks at).
//!
//! Every call here is a blocking system call. It must not know of watches, jobs' states or pipelines.

mod access;
mod dir;
mod kind;
mod mirror;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags};
use rustix::io::Errno;

pub use self::access::Access;
pub use self::dir::{Dir, Entry, EntryKind};
pub use self::kind::FsKind;
use self::mirror::Mirror;
pub use self::mirror::plain;
use crate::job::Generation;
use crate::locks::lock;

/// `openat2` reports EAGAIN when a rename races the resolution; the kernel's advice is to try again.
const RESOLVE_TRIES: usize = 16;

/// Bytes that are free for us on the filesystem of a path.
pub fn free_space(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// A folder that is watched, held open for as long as it is what it was.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    fd: OwnedFd,
    /// What it was at the opening.
    id: RootId,
    kind: FsKind,
    /// Where other filesystems were mounted beneath it.
    mounts: Mounts,
    /// Where results are put, if not beside the files.
    mirror: Option<Mirror>,
}

/// The mount points seen beneath a root and their devices, by relative path. Once seen they are never forgotten: what is
/// beneath one that is gone is on a disk that is elsewhere. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Mounts(Arc<Mutex<BTreeMap<PathBuf, u64>>>);

/// Which folder a root is, among all that stand at its path while the daemon runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootId {
    /// Its device.
    pub dev: u64,
    /// Its inode, which is used again once the folder is removed.
    pub ino: u64,
    /// When it was made, in nanoseconds since the epoch, where the filesystem tells: two folders or disks that follow each
    /// other can have the same numbers.
    pub born: Option<i64>,
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

impl Root {
    /// Opens a root. A link at `path` itself is followed, once: the operator wrote it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        let more = rustix::fs::statx(&fd, "", AtFlags::EMPTY_PATH, StatxFlags::BTIME)?;
        let born = (more.stx_mask & StatxFlags::BTIME.bits() != 0).then(|| nanos(more.stx_btime));
        let id = RootId { dev: stat.st_dev, ino: stat.st_ino, born };
        let kind = FsKind::of(&fd)?;
        Ok(Self { path: path.to_owned(), id, fd, kind, mounts: Mounts::default(), mirror: None })
    }

    /// The path as configured.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The filesystem it is on.
    pub fn kind(&self) -> FsKind {
        self.kind
    }

    /// The mount points seen beneath it.
    pub fn mounts(&self) -> Mounts {
        self.mounts.clone()
    }

    /// Knows the mount points that were seen beneath this very folder before.
    #[must_use]
    pub fn with_mounts(self, mounts: Mounts) -> Self {
        Self { mounts, ..self }
    }

    /// Which folder it is.
    pub fn id(&self) -> RootId {
        self.id
    }

    /// Fails if another directory, or none, stands at the path now: it was renamed, replaced or unmounted. So, too, if that
    /// happened to the tree that its results go to.
    pub fn verify(&self) -> io::Result<()> {
        self.verify_itself()?;
        self.verify_results()
    }

    fn verify_itself(&self) -> io::Result<()> {
        let now = rustix::fs::stat(&self.path)?;
        // The numbers are not used again while the folder is held open.
        if (now.st_dev, now.st_ino) == (self.id.dev, self.id.ino) {
            Ok(())
        } else {
            Err(io::Error::other("another directory stands at this path now (replaced, mounted over or unmounted)"))
        }
    }

    /// Whether the folder was removed, for which it had to be empty.
    pub fn is_removed(&self) -> io::Result<bool> {
        Ok(rustix::fs::fstat(&self.fd)?.st_nlink == 0)
    }

    /// Opens a directory beneath the root; the empty path is the root itself.
    pub fn dir(&self, rel: &Path) -> io::Result<Dir> {
        let fd = self.open_beneath(rel, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let kind = self.kind_of(&fd)?;
        Ok(Dir { fd, kind })
    }

    /// Opens the directory that holds `rel`.
    pub fn parent(&self, rel: &Path) -> io::Result<Dir> {
        self.dir(rel.parent().unwrap_or(Path::new("")))
    }

    /// Says what stands at a path beneath the root.
    pub fn look(&self, rel: &Path) -> Look {
        let found = self.open_beneath(rel, OFlags::PATH | OFlags::NOFOLLOW).and_then(|fd| {
            let kind = self.kind_of(&fd)?;
            Ok(Look::of(&Dir { fd, kind }.stat_self()?, kind))
        });
        match found {
            Ok(look) => look,
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => self.absence(rel),
            // Without following links the kernel answers ELOOP for a link in the middle of the path.
            Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => Look::Special,
            Err(error) => Look::Unknown(error),
        }
    }

    /// What the filesystem of something beneath the root can be relied on for: another one may be mounted there.
    fn kind_of(&self, fd: &OwnedFd) -> io::Result<FsKind> {
        if rustix::fs::fstat(fd)?.st_dev == self.id.dev { Ok(self.kind) } else { FsKind::of(fd) }
    }

    /// Remembers that another filesystem is mounted at `rel`; without it, nothing beneath is known to be absent.
    pub fn note_mount(&self, rel: &Path, dir: &Dir) -> io::Result<()> {
        let dev = dir.device()?;
        let mut mounts = lock(&self.mounts.0);
        let above = mounts
            .iter()
            .rev()
            .find(|(mount, _)| rel != *mount && rel.starts_with(mount))
            .map_or(self.id.dev, |(_, dev)| *dev);
        if dev != above {
            mounts.insert(rel.to_owned(), dev);
        }
        Ok(())
    }

    /// ENOENT means absent only if everything above is as it was.
    fn absence(&self, rel: &Path) -> Look {
        if let Err(error) = self.verify_itself() {
            return Look::Unknown(error);
        }
        let mounts = lock(&self.mounts.0).clone();
        for (mount, dev) in mounts.iter().filter(|(mount, _)| rel.starts_with(mount)) {
            match self.dir(mount).and_then(|dir| dir.device()) {
                Ok(now) if now == *dev => {}
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Look::Unknown(error),
                // Whoever unmounts may remove the folder of the mount too.
                Ok(_) | Err(_) => {
                    let mount = mount.display();
                    return Look::Unknown(io::Error::other(format!("what was mounted at {mount} is not there now")));
                }
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

impl Look {
    fn of(stat: &Statx, kind: FsKind) -> Self {
        match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::RegularFile => Self::File(Seen::of(stat, kind)),
            FileType::Directory => Self::Directory,
            _ => Self::Special,
        }
    }
}

impl Seen {
    fn of(stat: &Statx, kind: FsKind) -> Self {
        Self {
            generation: Generation {
                ino: kind.stable_ids.then_some(stat.stx_ino),
                size: stat.stx_size,
                mtime_ns: nanos(stat.stx_mtime),
                ctime_ns: kind.stable_ids.then(|| nanos(stat.stx_ctime)),
            },
            mode: u32::from(stat.stx_mode) & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            nlink: stat.stx_nlink,
        }
    }
}

fn nanos(time: rustix::fs::StatxTimestamp) -> i64 {
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(i64::from(time.tv_nsec))
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
