//! Where what is made of the files beneath a root is put: beside them, or in another tree that mirrors their folders.
//!
//! The top of that tree is the operator's to make: if it is not there, its disk is not mounted, and what was written in its
//! place would be lost from sight. Beneath it folders are made as they are needed, each no more open than the one that it
//! mirrors, and no link is followed.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use super::{Access, Dir, Look, Root};
use crate::show::Shown;

/// Another tree for what is made of the files beneath a root.
#[derive(Debug)]
pub(super) struct Mirror {
    /// The operator's folder.
    top: Box<Root>,
    /// The folder in it that stands for the root.
    name: OsString,
}

impl Mirror {
    /// The folder that mirrors one beneath the root, relative to the top.
    fn of(&self, folder: &Path) -> PathBuf {
        Path::new(&self.name).join(folder)
    }

    /// Fails if another directory, or none, stands at the path of its top now.
    pub(super) fn verify(&self) -> io::Result<()> {
        self.top.verify().map_err(|error| of_top(self.top.path(), &error))
    }
}

fn of_top(path: &Path, error: &io::Error) -> io::Error {
    let why = format!("the results directory {}: {error}; create it, or mount what should be there", Shown(path));
    io::Error::new(error.kind(), why)
}

impl Root {
    /// Puts what is made of its files beneath `top`, which must be there, in the folder called `name`.
    pub fn with_results(self, top: &Path, name: &str) -> io::Result<Self> {
        let open = || {
            let top = Self::open(top)?;
            // Like the root itself: what cannot be listed cannot be searched for results.
            top.dir(Path::new(""))?.entries().map(|_| top)
        };
        let top = Box::new(open().map_err(|error| of_top(top, &error))?);
        Ok(Self { mirror: Some(Mirror { top, name: name.into() }), ..self })
    }

    /// Whether what is made of its files is put into a tree of its own.
    pub fn results_are_apart(&self) -> bool {
        self.mirror.is_some()
    }

    /// Whether the top of that tree is where another filesystem is mounted.
    pub fn results_are_mounted(&self) -> io::Result<bool> {
        self.mirror.as_ref().map_or(Ok(false), |mirror| mirror.top.dir(Path::new(""))?.is_mount())
    }

    /// Fails if nothing may be put into that tree, as far as its permissions tell.
    pub fn results_may_be_made(&self) -> io::Result<()> {
        let Some(mirror) = &self.mirror else { return Ok(()) };
        // Where the folder for this root was made by an operator, the top need not be ours to write.
        let dir = self.results_folder(Path::new(""))?.map_or_else(|| mirror.top.dir(Path::new("")), Ok)?;
        dir.may_be_written().map_err(|error| {
            let why = format!("nothing can be put into the results directory {}: {error}", Shown(mirror.top.path()));
            io::Error::new(error.kind(), why)
        })
    }

    /// Where the results of a file beneath it are put, unless that is beside the file.
    pub fn results_path(&self, rel: &Path) -> Option<PathBuf> {
        self.mirror.as_ref().map(|mirror| mirror.top.path().join(mirror.of(above(rel))))
    }

    /// Fails if the tree for results is not where it was.
    pub fn verify_results(&self) -> io::Result<()> {
        self.mirror.as_ref().map_or(Ok(()), Mirror::verify)
    }

    /// Opens the folder of the results of a file; none if there never was one, which is known only while the tree is there.
    /// `beside` is the folder of the file, where that is open already.
    pub fn results(&self, rel: &Path, beside: Option<&Arc<Dir>>) -> io::Result<Option<Arc<Dir>>> {
        if self.mirror.is_none() {
            return self.beside(rel, beside).map(Some);
        }
        Ok(self.results_folder(above(rel))?.map(Arc::new))
    }

    /// As [`Root::results`]; what is missing of the folder is made.
    pub fn make_results(&self, rel: &Path, beside: Option<&Arc<Dir>>) -> io::Result<Arc<Dir>> {
        let Some(mirror) = &self.mirror else { return self.beside(rel, beside) };
        let path = mirror.of(above(rel));
        let made = match mirror.top.dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let model = self.dir(Path::new("")).and_then(|root| root.access());
                let top = mirror.top.dir(Path::new(""))?;
                let top = top.make_dir(&mirror.name, Some(&model.unwrap_or_else(|_| Access::none())))?;
                self.mirror_into(top, above(rel))?
            }
            other => other?,
        };
        mirror.top.note_mount(&path, &made)?;
        Ok(Arc::new(made))
    }

    /// Opens the folder that mirrors one of the root's in the tree for results; none without such a tree, or if there is no
    /// such folder in it.
    pub fn results_folder(&self, folder: &Path) -> io::Result<Option<Dir>> {
        let Some(mirror) = &self.mirror else { return Ok(None) };
        let path = mirror.of(folder);
        match mirror.top.dir(&path) {
            Ok(dir) => {
                mirror.top.note_mount(&path, &dir)?;
                Ok(Some(dir))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => match mirror.top.absence(&path) {
                Look::Unknown(error) => Err(of_top(mirror.top.path(), &error)),
                _ => Ok(None),
            },
            // A link or a file stands there: nothing of ours is beyond it.
            Err(error) if is(&error, Errno::LOOP) || is(&error, Errno::NOTDIR) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn beside(&self, rel: &Path, beside: Option<&Arc<Dir>>) -> io::Result<Arc<Dir>> {
        beside.map_or_else(|| self.parent(rel).map(Arc::new), |dir| Ok(dir.clone()))
    }

    /// Makes the folders on the way to `path` in another one, each no more open than the one of the root's that it mirrors:
    /// what was in a private folder stays in one.
    pub fn mirror_into(&self, mut dir: Dir, path: &Path) -> io::Result<Dir> {
        let mut model = self.dir(Path::new("")).ok();
        for component in path.components() {
            let name = plain(component)?;
            model = model.and_then(|model| model.subdir(name).ok());
            let like = model.as_ref().and_then(|model| model.access().ok());
            dir = dir.make_dir(name, Some(&like.unwrap_or_else(Access::none)))?;
        }
        Ok(dir)
    }
}

/// The name that a component of a path stands for, if it is one.
pub fn plain(component: Component<'_>) -> io::Result<&OsStr> {
    match component {
        Component::Normal(name) => Ok(name),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "the path is not plain")),
    }
}

fn above(rel: &Path) -> &Path {
    rel.parent().unwrap_or(Path::new(""))
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// A root with a tree for results beside it.
    fn world() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("in/a/b")).unwrap();
        std::fs::create_dir(dir.path().join("out")).unwrap();
        let root = Root::open(&dir.path().join("in")).unwrap().with_results(&dir.path().join("out"), "w").unwrap();
        (dir, root)
    }

    #[test]
    fn folders_are_mirrored_and_never_more_open_than_their_models() {
        let (dir, root) = world();
        let mode = |path: &str| dir.path().join(path).metadata().unwrap().permissions().mode() & 0o777;
        std::fs::set_permissions(dir.path().join("in/a"), std::fs::Permissions::from_mode(0o700)).unwrap();
        let rel = Path::new("a/b/f");
        assert!(root.results(rel, None).unwrap().is_none(), "looking makes nothing");
        root.make_results(rel, None).unwrap().create_new(OsStr::new("r"), 0o600).unwrap();
        assert!(dir.path().join("out/w/a/b/r").is_file());
        assert_eq!((mode("out/w/a"), mode("out/w") & !mode("in")), (0o700, 0));
        assert!(root.results(rel, None).unwrap().unwrap().exists(OsStr::new("r")).unwrap());
        assert_eq!(root.results_path(rel).unwrap(), dir.path().join("out/w/a/b"));
        root.make_results(Path::new("gone/f"), None).unwrap();
        assert_eq!(mode("out/w/gone"), 0o700, "without a model it is private");
    }

    #[test]
    fn a_tree_that_is_not_there_is_no_empty_one() {
        let (dir, root) = world();
        let (out, away) = (dir.path().join("out"), dir.path().join("away"));
        root.verify().unwrap();
        std::fs::rename(&out, &away).unwrap();
        for _ in 0..2 {
            let error = root.verify().unwrap_err().to_string();
            assert!(error.contains("the results directory"), "{error}");
            assert!(root.results(Path::new("f"), None).is_err());
            // Another one in its place is not it.
            std::fs::create_dir_all(&out).unwrap();
        }
        std::fs::remove_dir(&out).unwrap();
        let root = Root::open(&dir.path().join("in")).unwrap();
        let error = root.with_results(&out, "w").unwrap_err().to_string();
        assert!(error.contains("create it, or mount"), "{error}");
        assert!(!out.exists(), "it is not made");
    }

    #[test]
    fn a_link_in_the_tree_is_not_followed() {
        let (dir, root) = world();
        std::fs::create_dir(dir.path().join("out/w")).unwrap();
        std::fs::create_dir(dir.path().join("elsewhere")).unwrap();
        symlink(dir.path().join("elsewhere"), dir.path().join("out/w/a")).unwrap();
        assert!(root.results(Path::new("a/f"), None).unwrap().is_none());
        assert!(root.make_results(Path::new("a/f"), None).is_err());
        assert!(root.make_results(Path::new("a/b/f"), None).is_err());
        assert_eq!(std::fs::read_dir(dir.path().join("elsewhere")).unwrap().count(), 0);
    }
}
