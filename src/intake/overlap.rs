//! Roots that turn out to lie in one another: by links or bind mounts, which the configuration's text cannot show.
//!
//! Two watches over one folder would send its files twice. The one that was opened later is unavailable until
//! the other is gone.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use crate::folder::Availability;
use crate::fs::Dir;
use crate::locks::lock;

/// Deepest folder whose ancestors are compared.
const MAX_DEPTH: usize = 256;

/// How long a watch waits for the one before it, whose filesystem may not answer.
const TURN: Duration = Duration::from_secs(5);

/// Waits until the watch before in the configuration has been looked at, so that of two that overlap the same one is
/// served at every start: object ids and records hang on the watch.
pub async fn turn(earlier: Option<watch::Receiver<Availability>>) {
    if let Some(mut earlier) = earlier {
        let looked_at = earlier.wait_for(|root| !matches!(root, Availability::Starting));
        // Too late, or gone: then the order is as it comes.
        let _ = tokio::time::timeout(TURN, looked_at).await;
    }
}

/// The roots that are in use.
#[derive(Debug, Default)]
pub struct Roots {
    in_use: Mutex<Vec<Entry>>,
}

#[derive(Debug)]
struct Entry {
    watch: String,
    /// Device and inode of the root, then of each folder above it.
    chain: Vec<(u64, u64)>,
}

/// A root in use, until dropped.
#[derive(Debug)]
pub struct InUse {
    roots: Arc<Roots>,
    watch: String,
}

impl Roots {
    /// Registers a root for a watch; an error if it lies in another's, or another's in it. Blocks.
    pub fn register(self: &Arc<Self>, watch: &str, path: &Path) -> io::Result<InUse> {
        let chain = chain(path)?;
        let mut in_use = lock(&self.in_use);
        if let Some(other) =
            in_use.iter().find(|other| other.chain.contains(&chain[0]) || chain.contains(&other.chain[0]))
        {
            return Err(io::Error::other(format!(
                "it is the same folder as that of watch {:?}, or one lies in the other (through a link or a mount); \
                 each file would be sent twice",
                other.watch
            )));
        }
        in_use.push(Entry { watch: watch.to_owned(), chain });
        Ok(InUse { roots: self.clone(), watch: watch.to_owned() })
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut in_use = lock(&self.roots.in_use);
        in_use.retain(|entry| entry.watch != self.watch);
    }
}

/// Device and inode of a folder and of every folder above it; never empty.
fn chain(path: &Path) -> io::Result<Vec<(u64, u64)>> {
    let mut dir = Dir::open(path)?;
    let mut chain = vec![dir.id()?];
    for _ in 0..MAX_DEPTH {
        dir = dir.above()?;
        let id = dir.id()?;
        // The root of the filesystem tree is its own parent.
        if chain.last() == Some(&id) {
            return Ok(chain);
        }
        chain.push(id);
    }
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_in_one_another_are_found_through_links() {
        let dir = tempfile::tempdir().unwrap();
        let (inbox, inner) = (dir.path().join("inbox"), dir.path().join("inbox/inner"));
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::create_dir(dir.path().join("other")).unwrap();
        std::os::unix::fs::symlink(&inner, dir.path().join("link")).unwrap();

        let roots = Arc::<Roots>::default();
        let first = roots.register("first", &inbox).unwrap();
        let refused = roots.register("second", &dir.path().join("link")).unwrap_err();
        assert!(refused.to_string().contains("\"first\""), "{refused}");
        assert!(roots.register("third", &dir.path().join("other")).is_ok());
        drop(first);
        let _second = roots.register("second", &dir.path().join("link")).unwrap();
        assert!(roots.register("first", &inbox).is_err());
    }
}
