//! Who may read a file, taken over by another one: never by anybody more.
//!
//! Mode bits alone do not say it: with an access control list the group's bits are only the most that the list may
//! give, and a list of the folder is given to whatever is made in it. So a file of ours is made for its owner alone
//! and then gets what its model has: the group, the list and the bits, where all of it can be had, and less otherwise.

use std::io;
use std::os::fd::AsFd;
use std::sync::OnceLock;

use rustix::fs::{Gid, Mode, XattrFlags};
use rustix::io::Errno;

/// The list that the kernel obeys.
const ACL: &str = "system.posix_acl_access";
/// Its version comes first, then entries of a tag, permissions and an id.
const ACL_HEADER: usize = 4;
const ACL_ENTRY: usize = 8;
/// Longest list that a filesystem keeps, in bytes.
const MAX_ACL: usize = 64 * 1024;
/// Room that most lists find enough, in bytes.
const USUAL_ACL: usize = 1024;
/// Tags of entries.
const OWNER: u16 = 0x01;
const GROUP: u16 = 0x04;
const OTHERS: u16 = 0x20;

/// What others than the owner may do with a file or folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    mode: u32,
    gid: u32,
    acl: Option<Vec<u8>>,
}

impl Access {
    /// What the file or folder behind a descriptor grants.
    pub fn of(fd: impl AsFd) -> io::Result<Self> {
        let stat = rustix::fs::fstat(&fd)?;
        let mut acl = vec![0; USUAL_ACL];
        let mut read = rustix::fs::fgetxattr(&fd, ACL, &mut acl);
        if read == Err(Errno::RANGE) {
            acl.resize(MAX_ACL, 0);
            read = rustix::fs::fgetxattr(&fd, ACL, &mut acl);
        }
        let acl = match read {
            Ok(length) => {
                acl.truncate(length);
                Some(acl)
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Self { mode: stat.st_mode & 0o777, gid: stat.st_gid, acl })
    }

    /// For the owner alone.
    pub fn none() -> Self {
        Self { mode: 0, gid: u32::MAX, acl: None }
    }

    /// Gives it to a file or folder that is its owner's alone so far; `most` is what anybody else gets at most (`rwx`
    /// as a digit), the owner has `owner` in any case. What cannot be given is left out: some filesystems know no modes.
    pub fn give(&self, fd: impl AsFd, owner: u16, most: u16) {
        let Ok(made) = rustix::fs::fstat(&fd) else { return };
        let same_group = made.st_gid == self.gid
            || self.gid != u32::MAX && rustix::fs::fchown(&fd, None, Some(Gid::from_raw(self.gid))).is_ok();
        if let Some(acl) = &self.acl {
            if let Some(acl) = narrowed(acl, owner, most, same_group) {
                let _ = rustix::fs::fsetxattr(&fd, ACL, &acl, XattrFlags::empty());
            }
            return;
        }
        // A list that came from the folder gives nothing while the group's bits are off.
        match rustix::fs::fremovexattr(&fd, ACL) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(_) => return,
        }
        let (mut group, mut others) = (self.mode >> 3 & 7, self.mode & 7);
        if !same_group {
            // Whoever is in the model's group counts among the others now, and others are in the new group.
            others &= group;
            group = others;
        }
        let (umask, most) = (umask(), u32::from(most));
        let bits = ((group & most) << 3 | (others & most)) & !umask | u32::from(owner) << 6;
        let _ = rustix::fs::fchmod(&fd, Mode::from_raw_mode(bits));
    }
}

/// A list with nothing beyond `most` for anybody but the owner; `None` if it is not of the shape that is known.
fn narrowed(acl: &[u8], owner: u16, most: u16, same_group: bool) -> Option<Vec<u8>> {
    let mut narrowed = acl.to_vec();
    let (header, entries) = narrowed.split_at_mut_checked(ACL_HEADER)?;
    if header != 2u32.to_le_bytes() || entries.len() % ACL_ENTRY != 0 {
        return None;
    }
    let field = |entry: &[u8], at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]);
    let of = |tag| entries.chunks_exact(ACL_ENTRY).find(|entry| field(entry, 0) == tag).map(|entry| field(entry, 2));
    let both = of(GROUP)? & of(OTHERS)?;
    for entry in entries.chunks_exact_mut(ACL_ENTRY) {
        let permissions = match field(entry, 0) {
            OWNER => owner,
            GROUP | OTHERS if !same_group => both & most,
            _ => field(entry, 2) & most,
        };
        entry[2..4].copy_from_slice(&permissions.to_le_bytes());
    }
    Some(narrowed)
}

/// This process's umask; asking for it by `umask(2)` would change it for a moment.
fn umask() -> u32 {
    static UMASK: OnceLock<u32> = OnceLock::new();
    *UMASK.get_or_init(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let written = status.lines().find_map(|line| line.strip_prefix("Umask:"));
        // Where it cannot be read, others get nothing.
        written.and_then(|text| u32::from_str_radix(text.trim(), 8).ok()).unwrap_or(0o077)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut acl = 2u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            acl.extend(tag.to_le_bytes());
            acl.extend(permissions.to_le_bytes());
            acl.extend(id.to_le_bytes());
        }
        acl
    }

    #[test]
    fn a_list_is_taken_over_for_reading_only() {
        let given = acl(&[(OWNER, 7, 0), (2, 6, 1000), (GROUP, 5, 0), (0x10, 7, 0), (OTHERS, 2, 0)]);
        let expected = acl(&[(OWNER, 6, 0), (2, 4, 1000), (GROUP, 4, 0), (0x10, 4, 0), (OTHERS, 0, 0)]);
        assert_eq!(narrowed(&given, 6, 4, true), Some(expected));
        let elsewhere = acl(&[(OWNER, 6, 0), (2, 4, 1000), (GROUP, 0, 0), (0x10, 4, 0), (OTHERS, 0, 0)]);
        assert_eq!(narrowed(&given, 6, 4, false), Some(elsewhere), "another group is not the list's");
    }

    #[test]
    fn what_is_no_list_is_not_taken_over() {
        for odd in [vec![], vec![2, 0, 0], vec![1, 0, 0, 0], acl(&[(OWNER, 6, 0)]), {
            let mut odd = acl(&[(GROUP, 4, 0), (OTHERS, 4, 0)]);
            odd.pop();
            odd
        }] {
            assert_eq!(narrowed(&odd, 6, 4, true), None);
        }
    }
}
