//! What the files beside an input are called.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::job::ContentHash;

/// How many names are tried when strangers' files stand at ours.
pub(super) const MAX_ALTERNATIVES: u32 = 9;
/// Longest name that Linux filesystems take, in bytes.
pub const NAME_MAX: usize = 255;
/// Prefix of every hidden name of ours: temp files and files in the middle of a post-action.
pub const HIDDEN_PREFIX: &str = ".rri-";
/// Prefix of temp files; the object id follows.
pub const TEMP_PREFIX: &str = ".rri-tmp-";

/// Longest ending of a name that is kept when the name is made longer, in bytes.
const MAX_EXTENSION: usize = 100;
/// Suffix of the text of a result.
const TEXT_SUFFIX: &str = ".result.txt";

/// Which of the files beside an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `NAME.result.json`
    Result,
    /// `NAME.error.json`
    Error,
}

impl Kind {
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::Result => ".result.json",
            Self::Error => ".error.json",
        }
    }

    /// Whether a name is one that files of this kind have.
    pub fn is_of(self, name: &OsStr) -> bool {
        name.as_bytes().ends_with(self.suffix().as_bytes())
    }

    pub(super) fn action(self) -> &'static str {
        match self {
            Self::Result => "complete",
            Self::Error => "error",
        }
    }
}

/// Whether a name is one of our outputs, or of NFS's own; never ingested, whatever the filters say.
pub fn is_output(name: &OsStr) -> bool {
    is_result(name)
        || name.as_bytes().ends_with(Kind::Error.suffix().as_bytes())
        || [HIDDEN_PREFIX, ".nfs"].iter().any(|prefix| name.as_bytes().starts_with(prefix.as_bytes()))
}

/// Whether a name is that of a result or of its text.
pub fn is_result(name: &OsStr) -> bool {
    [Kind::Result.suffix(), TEXT_SUFFIX].iter().any(|suffix| name.as_bytes().ends_with(suffix.as_bytes()))
}

/// The input that an error file of this name is about, where the name was not shortened.
pub fn input_of_error(name: &OsStr) -> Option<OsString> {
    let stem = name.as_bytes().strip_suffix(Kind::Error.suffix().as_bytes())?;
    (!stem.is_empty()).then(|| OsString::from_vec(stem.to_vec()))
}

/// The temp name of an object's result.
pub fn temp_name(object_id: Uuid) -> OsString {
    format!("{TEMP_PREFIX}{object_id}").into()
}

/// Another temp name of it, that nobody can foresee: for when a stranger's file stands at the first.
pub fn other_temp_name(object_id: Uuid) -> OsString {
    format!("{TEMP_PREFIX}{object_id}-{}", Uuid::new_v4().simple()).into()
}

/// The name a file has while its post-action is under way.
pub fn hidden_name(object_id: Uuid) -> OsString {
    format!("{HIDDEN_PREFIX}{object_id}").into()
}

/// The name its marker has meanwhile.
pub fn hidden_marker_name(object_id: Uuid) -> OsString {
    format!("{HIDDEN_PREFIX}{object_id}.marker").into()
}

/// The `n`-th name (from 1) for the result or error file of an input.
///
/// `NAME.result.json`, then `NAME~2.result.json` and so on; shortened to
/// `<stem>~<8 hex of sha256(name)>.result.json` where it would be longer than a name may be.
pub fn name_of(input: &OsStr, kind: Kind, n: u32) -> OsString {
    let alternative = if n > 1 { format!("~{n}") } else { String::new() };
    let tail = format!("{alternative}{}", kind.suffix());
    let mut name = input.as_bytes().to_vec();
    if name.len() + tail.len() > NAME_MAX {
        let mark = format!("~{}", short_hash(&Sha256::digest(input.as_bytes())));
        name.truncate(floor_char_boundary(&name, NAME_MAX - tail.len() - mark.len()));
        name.extend_from_slice(mark.as_bytes());
    }
    name.extend_from_slice(tail.as_bytes());
    OsString::from_vec(name)
}

/// The `n`-th name (from 1) for the text of the result of an input: the `n`-th name of its result, but for the ending.
pub fn text_name_of(input: &OsStr, n: u32) -> OsString {
    let name = name_of(input, Kind::Result, n);
    let stem = name.as_bytes().strip_suffix(Kind::Result.suffix().as_bytes()).unwrap_or(name.as_bytes());
    OsString::from_vec([stem, TEXT_SUFFIX.as_bytes()].concat())
}

/// The names of results whose text may have this name; none if it is not the name of a text.
///
/// Each of the two took the first name that was free, so their numbers may differ; but for names that had to be shortened,
/// of which only the same number is tried.
pub(super) fn results_of_text(name: &OsStr) -> Vec<OsString> {
    let Some(stem) = name.as_bytes().strip_suffix(TEXT_SUFFIX.as_bytes()) else { return Vec::new() };
    let mut firsts = vec![stem];
    if let [first @ .., b'~', b'2'..=b'9'] = stem {
        firsts.push(first);
    }
    let name = |first: &[u8], tail: &str| {
        OsString::from_vec([first, tail.as_bytes(), Kind::Result.suffix().as_bytes()].concat())
    };
    let numbered = |first| (2..=MAX_ALTERNATIVES).map(move |n| name(first, &format!("~{n}")));
    let names = firsts.into_iter().flat_map(|first| std::iter::once(name(first, "")).chain(numbered(first)));
    names.filter(|name| name.len() <= NAME_MAX).collect()
}

/// `stem~<8 hex of the hash>.ext`: the name of a moved file whose own name is taken at the target.
pub fn disambiguated(input: &OsStr, sha256: &ContentHash) -> OsString {
    let path = Path::new(input);
    let mark = format!("~{}", short_hash(sha256));
    // What follows the last dot of a name may be nearly all of it, and is no extension then.
    let extension = path.extension().filter(|ext| ext.len() <= MAX_EXTENSION);
    let stem = extension.and_then(|_| path.file_stem()).unwrap_or(input);
    let extension = extension.map(|ext| [b".", ext.as_bytes()].concat()).unwrap_or_default();
    let mut name = stem.as_bytes().to_vec();
    let room = NAME_MAX - mark.len() - extension.len();
    if name.len() > room {
        name.truncate(floor_char_boundary(&name, room));
    }
    name.extend_from_slice(mark.as_bytes());
    name.extend_from_slice(&extension);
    OsString::from_vec(name)
}

fn short_hash(hash: &[u8]) -> String {
    hex::encode(&hash[..4])
}

/// The largest cut not above `at` that splits no UTF-8 character; in bytes that are not UTF-8, any cut will do.
fn floor_char_boundary(bytes: &[u8], at: usize) -> usize {
    let continuation = |index: usize| bytes.get(index).is_some_and(|byte| byte & 0xC0 == 0x80);
    (at.saturating_sub(3)..=at).rev().find(|index| !continuation(*index)).unwrap_or(at)
}
