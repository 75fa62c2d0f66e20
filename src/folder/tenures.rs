//! Which folder stood at a watch's path when: what is missing in one was perhaps only ever in another.
//!
//! The path of a watch can come to mean another folder while the daemon runs: a disk is unmounted or mounted, the
//! folder is renamed away and an empty one made, a link is turned. A file that is not in the folder of now is gone
//! only if it was seen in this folder; one that was seen in an earlier one is unknown until that one returns. Two
//! things end the doubt: an earlier folder that was seen to be removed, for only an empty one can be, and a restart
//! of the daemon, by which an operator says that what stands at the path is right.
//!
//! Times are the wall clock's, as in the records. Set back at a bad moment it makes a file of this folder unknown, which
//! costs a wait, or lets one of an earlier folder vanish, which is undone when its file is seen again.

use crate::fs::RootId;
use crate::job::Millis;

/// Changes that are remembered; what lies before them is unknown.
const MAX_TENURES: usize = 32;

/// The folders that stood at a path since the start, in order.
#[derive(Debug, Default)]
pub(super) struct Tenures(Vec<Tenure>);

/// One folder's time at the path.
#[derive(Debug)]
struct Tenure {
    folder: Stood,
    /// From when on files were admitted from it; up to the next one's.
    since: Millis,
}

#[derive(Debug, PartialEq, Eq)]
enum Stood {
    /// This one.
    Known(RootId),
    /// One that was removed since: it was empty then.
    Removed,
    /// One or several that are no longer remembered.
    Forgotten,
}

impl Tenures {
    /// A folder was opened. True if it is another one than stood there last, which still exists somewhere.
    pub(super) fn opened(&mut self, id: RootId, at: Millis) -> bool {
        let Some(last) = self.0.last() else {
            // What was admitted before the daemon started is judged by what it finds at its start.
            self.0.push(Tenure { folder: Stood::Known(id), since: 0 });
            return false;
        };
        if last.folder == Stood::Known(id) {
            return false;
        }
        let doubt = last.folder != Stood::Removed;
        if self.0.len() == MAX_TENURES {
            self.0.remove(1);
            self.0[0].folder = Stood::Forgotten;
        }
        self.0.push(Tenure { folder: Stood::Known(id), since: at });
        doubt
    }

    /// The folder that stands there last was removed.
    pub(super) fn removed(&mut self) {
        if let Some(id) = self.0.last().map(|last| last.folder.id()) {
            for tenure in self.0.iter_mut().filter(|tenure| id.is_some() && tenure.folder.id() == id) {
                tenure.folder = Stood::Removed;
            }
        }
    }

    /// Whether this very folder stood there before.
    pub(super) fn knows(&self, id: RootId) -> bool {
        self.0.iter().any(|tenure| tenure.folder == Stood::Known(id))
    }

    /// Whether a file that was admitted then, and is not in the folder of now, is gone.
    pub(super) fn tell(&self, admitted: Millis) -> bool {
        let Some(now) = self.0.last() else { return false };
        let then = self.0.iter().rev().find(|tenure| tenure.since <= admitted);
        then.is_some_and(|then| then.folder == Stood::Removed || then.folder == now.folder)
    }
}

impl Stood {
    fn id(&self) -> Option<RootId> {
        match self {
            Self::Known(id) => Some(*id),
            Self::Removed | Self::Forgotten => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(ino: u64) -> RootId {
        RootId { dev: 1, ino, born: None }
    }

    #[test]
    fn a_file_is_only_gone_from_the_folder_in_which_it_was_seen() {
        let mut tenures = Tenures::default();
        assert!(!tenures.tell(0) && !tenures.knows(folder(1)));
        assert!(!tenures.opened(folder(1), 1000));
        assert!(tenures.tell(5) && tenures.tell(1500), "as at the start");

        assert!(tenures.opened(folder(2), 2000), "another one");
        assert!(!tenures.tell(5) && !tenures.tell(1999));
        assert!(tenures.tell(2000));

        assert!(tenures.opened(folder(1), 3000), "the first one again");
        assert!(tenures.tell(5) && tenures.tell(1999) && tenures.tell(3000));
        assert!(!tenures.tell(2500));
        assert!(tenures.knows(folder(2)) && !tenures.knows(folder(3)));
        assert!(!tenures.opened(folder(1), 4000), "unmounted and mounted again");
    }

    #[test]
    fn what_was_in_a_folder_that_was_removed_is_gone() {
        let mut tenures = Tenures::default();
        tenures.opened(folder(1), 0);
        tenures.removed();
        assert!(!tenures.opened(folder(1), 2000), "inode numbers are used again");
        assert!(tenures.tell(5) && tenures.tell(2000));
        tenures.opened(folder(2), 3000);
        assert!(tenures.tell(5), "it stays removed");
        assert!(!tenures.tell(2000));
    }

    #[test]
    fn what_is_no_longer_remembered_is_unknown() {
        let mut tenures = Tenures::default();
        for n in 0..100 {
            tenures.opened(folder(n % 2), n * 10);
        }
        assert_eq!(tenures.0.len(), MAX_TENURES);
        assert!(!tenures.tell(0) && !tenures.tell(300));
        assert!(tenures.tell(990) && tenures.tell(970) && !tenures.tell(980));
    }
}
