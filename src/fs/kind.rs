//! What a filesystem can be relied on for, by its type.

use std::io;
use std::os::fd::OwnedFd;

/// What a filesystem can be relied on for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FsKind {
    /// Its name as people say it.
    pub name: &'static str,
    /// Changes made by other hosts raise no events, leases are not to be had, attributes may be cached.
    pub remote: bool,
    /// Inode numbers and change times stay what they are while a file does.
    pub stable_ids: bool,
}

/// Filesystems behind a network or a user's process (magic numbers of `statfs(2)`).
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

/// Local filesystems that make inode numbers up when they are mounted.
const WITHOUT_INODES: &[(u64, &str)] = &[(0x4D44, "vfat"), (0x2011_BAB0, "exfat")];

/// Local filesystems with a name; any other is local as well.
const LOCAL: &[(u64, &str)] = &[
    (0xEF53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683E, "btrfs"),
    (0x0102_1994, "tmpfs"),
    (0x794C_7630, "overlay"),
    (0x2FC1_2FC1, "zfs"),
    (0xF2F5_2010, "f2fs"),
];

impl FsKind {
    /// The kind of the filesystem that this descriptor is on.
    pub(super) fn of(fd: &OwnedFd) -> io::Result<Self> {
        // The field is a signed or unsigned word of various widths; its low 32 bits are the magic number.
        #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast)]
        let magic = rustix::fs::fstatfs(fd)?.f_type as u64 & 0xFFFF_FFFF;
        let named =
            |table: &[(u64, &'static str)]| table.iter().find(|(known, _)| *known == magic).map(|(_, name)| *name);
        Ok(if let Some(name) = named(REMOTE) {
            Self { name, remote: true, stable_ids: false }
        } else if let Some(name) = named(WITHOUT_INODES) {
            Self { name, remote: false, stable_ids: false }
        } else {
            Self { name: named(LOCAL).unwrap_or("local"), remote: false, stable_ids: true }
        })
    }
}
