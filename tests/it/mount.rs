//! Filesystems that a test mounts: they go with the test.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Something mounted at a path, while this lives. Mounting needs privileges that not every host grants.
pub struct Mount(PathBuf);

impl Mount {
    /// A small filesystem of its own. `None`, said aloud, where the tests may not mount.
    pub fn tmpfs(at: impl Into<PathBuf>, options: &str) -> Option<Self> {
        Self::with(&["-t", "tmpfs", "-o", options, "tmpfs"], at.into())
    }

    /// The filesystem in a file. `None`, said aloud, where the tests may not mount.
    pub fn image(image: &Path, at: impl Into<PathBuf>) -> Option<Self> {
        Self::with(&["-o", "loop", image.to_str().unwrap()], at.into())
    }

    /// What stands at one path, at another one too.
    pub fn bind(what: &Path, at: impl Into<PathBuf>) -> Self {
        Self::with(&["--bind", what.to_str().unwrap()], at.into()).expect("a bind mount where another one was possible")
    }

    fn with(args: &[&str], at: PathBuf) -> Option<Self> {
        let output = Command::new("mount").args(args).arg(&at).stdin(Stdio::null()).output();
        match output {
            Ok(output) if output.status.success() => return Some(Self(at)),
            Ok(output) => skipped(&format!("cannot mount: {}", String::from_utf8_lossy(&output.stderr).trim())),
            Err(error) => skipped(&format!("cannot mount: {error}")),
        }
        None
    }

    /// Mounts it anew with other options.
    pub fn remount(&self, options: &str) {
        let mut mount = Command::new("mount");
        let status = mount.args(["-o", &format!("remount,{options}")]).arg(&self.0).status();
        assert!(status.unwrap().success(), "mount -o remount,{options}");
    }
}

/// Says that a test proves nothing on this host. Not by a macro: what those print of a test that passes is never seen.
pub fn skipped(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a daemon that a failing test leaves may still look into it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
