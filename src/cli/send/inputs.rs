//! From what stands on the command line to the files to send: directories, patterns, standard input.
//!
//! It looks at names and attributes, never into a file, and knows nothing of servers.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::client::http::TEXT_IN_ONE_PIECE;
use crate::client::{Error, mime, text};

/// What standard input is called on the command line.
pub(super) const STDIN: &str = "-";
/// Most files of one command: their paths are kept in memory.
pub(super) const MAX_FILES: usize = 1_000_000;
/// What makes an argument a pattern, if no file has that very name.
const MAGIC: &[u8] = b"*?[";

/// Something to send, or why it cannot be.
#[derive(Debug)]
pub(super) enum Input {
    /// A file of this many bytes, when it was looked at.
    File { path: PathBuf, size: u64 },
    /// Standard input.
    Stdin,
    /// Was asked for and is not to be had.
    Unusable { path: PathBuf, error: Error },
}

/// Everything that was asked for, in the order of the arguments, each file once.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    pub(super) list: Vec<Input>,
    /// Links and special files inside directories.
    pub(super) left_out: u64,
    /// There are more than [`MAX_FILES`].
    pub(super) too_many: bool,
    seen: HashSet<PathBuf>,
    stdin: bool,
}

impl Inputs {
    /// Looks at every argument.
    pub(super) fn of(arguments: &[PathBuf]) -> Self {
        let mut inputs = Self::default();
        for argument in arguments {
            if argument.as_os_str() == STDIN {
                if !std::mem::replace(&mut inputs.stdin, true) {
                    inputs.push(Input::Stdin);
                }
            } else {
                inputs.argument(argument);
            }
        }
        inputs.seen = HashSet::new();
        inputs
    }

    /// The bytes of all files, as far as they are known.
    pub(super) fn bytes(&self) -> u64 {
        let size = |input: &Input| if let Input::File { size, .. } = input { *size } else { 0 };
        self.list.iter().map(size).sum()
    }

    /// Whether there is text that does not go in one piece by HTTP.
    pub(super) fn has_text(&self) -> bool {
        self.list.iter().any(|input| match input {
            Input::File { path, size } => *size > TEXT_IN_ONE_PIECE && text::is_text(mime::of(&path.to_string_lossy())),
            Input::Stdin | Input::Unusable { .. } => false,
        })
    }

    /// Whether there is anything to connect for.
    pub(super) fn has_any_to_send(&self) -> bool {
        self.list.iter().any(|input| !matches!(input, Input::Unusable { .. }))
    }

    fn argument(&mut self, path: &Path) {
        match path.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound && is_pattern(path) => self.pattern(path),
            _ => self.path(path),
        }
    }

    fn path(&mut self, path: &Path) {
        match path.metadata() {
            Ok(metadata) if metadata.is_file() => self.file(path, metadata.len()),
            Ok(metadata) if metadata.is_dir() => self.directory(path),
            Ok(_) => {
                let why = format!("not a file: {}; pipe it into standard input and name it -", path.display());
                self.unusable(path, Error::InvalidData(why));
            }
            Err(error) => self.unusable(path, unreadable(path, &error)),
        }
    }

    fn directory(&mut self, directory: &Path) {
        let walk = walkdir::WalkDir::new(directory).sort_by_file_name().into_iter();
        for entry in walk.filter_entry(|entry| entry.depth() == 0 || !is_hidden(entry.file_name())) {
            match entry {
                Ok(entry) if entry.file_type().is_file() => match entry.metadata() {
                    Ok(metadata) => self.file(entry.path(), metadata.len()),
                    Err(error) => self.lost(directory, &error),
                },
                Ok(entry) if entry.file_type().is_dir() => {}
                // A link could lead anywhere, also back here.
                Ok(_) => self.left_out += 1,
                Err(error) => self.lost(directory, &error),
            }
            if self.too_many {
                break;
            }
        }
    }

    fn pattern(&mut self, pattern: &Path) {
        let options = glob::MatchOptions { require_literal_leading_dot: true, ..glob::MatchOptions::new() };
        let found = pattern.to_str().map(|pattern| glob::glob_with(pattern, options));
        let mut any = false;
        match found {
            Some(Ok(paths)) => {
                for found in paths {
                    any = true;
                    match found {
                        Ok(path) => self.path(&path),
                        Err(error) => self.unusable(error.path(), unreadable(error.path(), error.error())),
                    }
                    if self.too_many {
                        return;
                    }
                }
            }
            Some(Err(error)) => {
                let why = format!("not a file, and not a pattern: {}: {}", pattern.display(), error.msg);
                return self.unusable(pattern, Error::InvalidData(why));
            }
            None => {}
        }
        if !any {
            self.unusable(pattern, Error::FileNotFound(pattern.to_owned()));
        }
    }

    fn file(&mut self, path: &Path, size: u64) {
        if self.is_new(path) {
            self.push(Input::File { path: path.to_owned(), size });
        }
    }

    fn unusable(&mut self, path: &Path, error: Error) {
        if self.is_new(path) {
            self.push(Input::Unusable { path: path.to_owned(), error });
        }
    }

    fn lost(&mut self, directory: &Path, error: &walkdir::Error) {
        let path = error.path().unwrap_or(directory);
        let message = error.io_error().map_or_else(|| error.to_string(), ToString::to_string);
        self.unusable(path, Error::Read { path: path.to_owned(), message });
    }

    /// Two arguments may lead to one file, as in `*.txt a*`.
    fn is_new(&mut self, path: &Path) -> bool {
        self.seen.insert(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))
    }

    fn push(&mut self, input: Input) {
        if self.list.len() < MAX_FILES {
            self.list.push(input);
        } else {
            self.too_many = true;
        }
    }
}

fn is_pattern(path: &Path) -> bool {
    path.as_os_str().as_bytes().iter().any(|byte| MAGIC.contains(byte))
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".")
}

fn unreadable(path: &Path, error: &io::Error) -> Error {
    if error.kind() == io::ErrorKind::NotFound {
        return Error::FileNotFound(path.to_owned());
    }
    Error::Read { path: path.to_owned(), message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(root: &Path, arguments: &[&str]) -> Vec<String> {
        let arguments: Vec<_> = arguments.iter().map(|argument| root.join(argument)).collect();
        let inputs = Inputs::of(&arguments);
        let shown = |path: &Path| path.strip_prefix(root).unwrap().display().to_string();
        let list = inputs.list.iter().map(|input| match input {
            Input::File { path, .. } => shown(path),
            Input::Stdin => STDIN.to_owned(),
            Input::Unusable { path, .. } => format!("!{}", shown(path)),
        });
        list.chain((inputs.left_out > 0).then(|| format!("left out {}", inputs.left_out))).collect()
    }

    #[test]
    fn directories_are_walked_in_order_without_hidden_files_and_links() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        for path in ["d/b", "d/a", "d/sub/c", "d/.hidden", "d/.git/x", "star*", "starfish", "e.txt"] {
            std::fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            std::fs::write(root.join(path), "x").unwrap();
        }
        std::os::unix::fs::symlink(root, root.join("d/up")).unwrap();
        assert_eq!(found(root, &["d"]), ["d/a", "d/b", "d/sub/c", "left out 1"]);
        assert_eq!(found(root, &["d/.hidden"]), ["d/.hidden"], "what is named is sent");
        assert_eq!(found(root, &["e.txt", "d/sub", "e.txt", "d/sub/c"]), ["e.txt", "d/sub/c"], "each once");
        assert_eq!(found(root, &["star*"]), ["star*"], "a file of that very name is no pattern");
        assert_eq!(found(root, &["starf*"]), ["starfish"]);
        assert_eq!(found(root, &["gone", "no*", "[", "e.txt"]), ["!gone", "!no*", "![", "e.txt"]);
    }

    #[test]
    fn standard_input_comes_once_and_a_device_is_no_file() {
        let inputs = Inputs::of(&["-".into(), "-".into(), "/dev/null".into()]);
        assert!(matches!(inputs.list[..], [Input::Stdin, Input::Unusable { .. }]), "{inputs:?}");
        assert!(inputs.has_any_to_send() && inputs.bytes() == 0);
    }
}
