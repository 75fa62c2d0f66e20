//! Which watch a path belongs to, however the operator wrote it.
//!
//! A path that lies in a watched folder as it is written is taken so: a link beneath the folder is never followed. Any
//! other is looked for through `..` and links above the folder, as it lies on the disk. The watched folders themselves are
//! known by the numbers they were opened with, so that a path that lies elsewhere wakes none of their filesystems.

use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::Running;
use crate::folder::Folder;
use crate::job::FileKey;

/// The watch of a path, and the path relative to its folder; empty for the folder itself. Blocks.
pub fn locate(running: &Running, path: &Path) -> Option<(Arc<Folder>, PathBuf)> {
    let beneath = |root: &Path, path: &Path| {
        let rel = path.strip_prefix(root).ok()?;
        rel.components().all(|part| matches!(part, Component::Normal(_))).then(|| rel.to_owned())
    };
    let folders = &running.folders;
    let written = folders.iter().find_map(|folder| Some((folder.clone(), beneath(&folder.watch.path, path)?)));
    written.or_else(|| {
        let path = resolved(path)?;
        let opened: Vec<_> = folders.iter().filter_map(|folder| Some((folder, folder.root()?.id()))).collect();
        let stands = |above: &Path| std::fs::symlink_metadata(above).ok().map(|found| (found.dev(), found.ino()));
        path.ancestors().find_map(|above| {
            let stands = stands(above)?;
            let (folder, _) = opened.iter().find(|(_, id)| (id.dev, id.ino) == stands)?;
            Some(((*folder).clone(), beneath(above, &path)?))
        })
    })
}

/// The key of a file and its path beneath its watch, if it lies in one. Blocks.
pub fn key_of(running: &Running, path: &Path) -> Option<(FileKey, PathBuf)> {
    let (folder, rel) = locate(running, path)?;
    (!rel.as_os_str().is_empty()).then(|| (FileKey::new(folder.watch.id, &rel), rel))
}

/// The path through no link and no `..`, as far as it exists; its last part is taken as it is.
fn resolved(path: &Path) -> Option<PathBuf> {
    let mut rest = PathBuf::new();
    let mut above = path;
    loop {
        // A path that ends in `..` or `/` has no name of its own and must exist.
        let Some(name) = above.file_name() else { return Some(above.canonicalize().ok()?.join(rest)) };
        rest = if rest.as_os_str().is_empty() { PathBuf::from(name) } else { Path::new(name).join(rest) };
        above = above.parent()?;
        if let Ok(above) = above.canonicalize() {
            return Some(above.join(rest));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_through_links_and_dots_above_what_is_missing() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().canonicalize().unwrap();
        std::fs::create_dir_all(dir.join("real/in")).unwrap();
        std::os::unix::fs::symlink(dir.join("real"), dir.join("link")).unwrap();
        for (written, meant) in [
            ("link/in/a", "real/in/a"),
            ("link/in/gone/deep/a", "real/in/gone/deep/a"),
            ("real/in/../in/a", "real/in/a"),
            ("link", "link"),
        ] {
            assert_eq!(resolved(&dir.join(written)), Some(dir.join(meant)), "{written}");
        }
        assert_eq!(resolved(&dir.join("nothing/..")), None);
    }
}
