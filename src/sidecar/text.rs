//! `NAME.result.txt`: the text of a result by itself, for those who want no JSON.
//!
//! It says nothing about itself. The result file does: it holds the hash of its text. So a text is ours only if it has a
//! hash that we know, beside the usual marks of our files, and one that somebody edited is theirs from then on.

use std::ffi::{OsStr, OsString};
use std::io;

use super::name::{Kind, results_of_text, text_name_of};
use super::{MAX_ALTERNATIVES, hash_reader, open_ours, read_header};
use crate::fs::Dir;
use crate::identity::Identity;
use crate::job::ContentHash;

/// Where the text of a result stands, or is to stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextPlace {
    /// It is there, under this name: it may be replaced, removed, or taken along.
    Ours(OsString),
    /// It is not there; this name is free.
    Free(OsString),
}

/// Looks for the text of the result of an input, which has one of these hashes.
///
/// Errors: the folder cannot be read, or strangers hold every name.
pub fn find_text(dir: &Dir, input: &OsStr, hashes: &[ContentHash], identity: &Identity) -> io::Result<TextPlace> {
    let mut free = None;
    for n in 1..=MAX_ALTERNATIVES {
        let name = text_name_of(input, n);
        if !dir.exists(&name)? {
            free.get_or_insert(name);
            // As for result files: ours may stand behind a name that a stranger's file has left.
            if n > 1 {
                break;
            }
        } else if let Some(file) = open_ours(dir, &name, identity)?
            && hashes.contains(&hash_reader(file)?)
        {
            return Ok(TextPlace::Ours(name));
        }
    }
    free.map(TextPlace::Free).ok_or_else(|| {
        let first = text_name_of(input, 1);
        let why = format!("files of others stand at every name from {} on; remove them", first.display());
        io::Error::new(io::ErrorKind::AlreadyExists, why)
    })
}

/// Whether the file of this name is the text of a result of ours that stands beside it.
pub fn is_our_text(dir: &Dir, name: &OsStr, identity: &Identity) -> io::Result<bool> {
    let results = results_of_text(name);
    if results.is_empty() {
        return Ok(false);
    }
    let Some(file) = open_ours(dir, name, identity)? else { return Ok(false) };
    let hash = Some(hash_reader(file)?);
    for result in results {
        let header = read_header(dir, &result, Kind::Result, identity)?;
        if header.is_some_and(|header| header.ours(result).text_sha256 == hash) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_names_the_results_it_may_be_of() {
        for input in ["a.txt".to_owned(), "a~2".to_owned(), "n".repeat(250), "n".repeat(243), "n".repeat(244)] {
            let input = OsStr::new(&input);
            let numbers: &[_] =
                if input.len() > 200 { &[(1, 1), (9, 9)] } else { &[(1, 1), (1, 2), (2, 1), (9, 9), (3, 2)] };
            for &(of_text, of_result) in numbers {
                let results = results_of_text(&text_name_of(input, of_text));
                let result = super::super::name_of(input, Kind::Result, of_result);
                assert!(results.contains(&result), "{result:?} {results:?}");
            }
        }
        assert!(results_of_text(OsStr::new("a.txt")).is_empty());
    }

    #[test]
    fn a_text_is_ours_by_its_hash_alone() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let identity = Identity { instance: "inst".into(), uid: rustix::process::geteuid().as_raw() };
        let hash = super::super::hash_parts(&[b"ours"]);
        let find = || find_text(&dir, OsStr::new("a"), &[hash], &identity).unwrap();
        let put = |name: &str, text: &str| std::fs::write(temp.path().join(name), text).unwrap();
        assert_eq!(find(), TextPlace::Free("a.result.txt".into()));
        put("a.result.txt", "ours");
        assert_eq!(find(), TextPlace::Ours("a.result.txt".into()));
        put("a.result.txt", "ours, edited");
        assert_eq!(find(), TextPlace::Free("a~2.result.txt".into()));
        put("a~2.result.txt", "ours");
        assert_eq!(find(), TextPlace::Ours("a~2.result.txt".into()));
        std::fs::remove_file(temp.path().join("a.result.txt")).unwrap();
        assert_eq!(find(), TextPlace::Ours("a~2.result.txt".into()));
        std::os::unix::fs::symlink("a~2.result.txt", temp.path().join("a.result.txt")).unwrap();
        assert_eq!(find(), TextPlace::Ours("a~2.result.txt".into()), "a link is a stranger's");
    }
}
