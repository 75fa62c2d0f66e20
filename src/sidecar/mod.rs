//! The files about an input, beside it or in a tree for them (see [`crate::fs`]): names, content and recognition of result
//! and error files.
//!
//! Both sides need it: intake, to adopt a result instead of sending a file again and never to ingest our own
//! outputs; delivery, to write them. Writing durably is delivery's; here is what they are called and what they say.
//!
//! A file counts as ours only if it is a regular file, owned by our user, with one link, of a known schema
//! version, of our instance, and about an input of this name. Whatever else stands at such a name, a link and
//! a directory included, is a stranger's and is never overwritten: the next name is taken.

mod name;
mod schema;
mod text;

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use self::name::MAX_ALTERNATIVES;
pub use self::name::{
    HIDDEN_PREFIX, Kind, NAME_MAX, TEMP_PREFIX, disambiguated, hidden_marker_name, hidden_name, input_of_error,
    is_output, is_result, name_of, other_temp_name, temp_name, text_name_of,
};
use self::schema::Header;
pub use self::schema::{About, ErrorFile, ResultFile, SCHEMA_VERSION};
pub use self::text::{TextPlace, find_text, is_our_text};
use crate::fs::{Dir, Look, Root, base_name};
use crate::identity::Identity;
use crate::job::{ContentHash, Generation, Millis};
use crate::show::Shown;

/// A file of ours is never larger, in bytes: incoming messages are bounded below this.
pub const MAX_LEN: u64 = 512 * 1024 * 1024;

/// A file of ours that stands beside an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ours {
    /// Its name.
    pub name: OsString,
    /// The object it is about.
    pub object_id: Uuid,
    /// The input as it was.
    pub generation: Generation,
    /// What was sent; result files have it.
    pub sha256: Option<ContentHash>,
    /// The text that stands beside it; result files have it where the watch wants it.
    pub text_sha256: Option<ContentHash>,
    /// When it was delivered; result files have it.
    pub completed_at: Option<Millis>,
}

impl Ours {
    /// The name of the text that stands beside this result of an input, if it does.
    pub fn text(&self, dir: &Dir, input: &OsStr, identity: &Identity) -> io::Result<Option<OsString>> {
        let Some(hash) = self.text_sha256 else { return Ok(None) };
        Ok(match find_text(dir, input, &[hash], identity)? {
            TextPlace::Ours(name) => Some(name),
            TextPlace::Free(_) => None,
        })
    }
}

/// A result file of ours that was read whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    /// What it says about itself.
    pub ours: Ours,
    /// Hash of what was sent.
    pub sha256: ContentHash,
    /// Name of its watch.
    pub watch: String,
    /// The input, as the watch's path and the path beneath it; bytes that are not UTF-8 are replaced.
    pub filepath: PathBuf,
    /// The first thing it warns of.
    pub warning: Option<String>,
    /// The very bytes.
    pub content: Vec<u8>,
}

/// Where the result or error file of an input stands, or is to stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// One of ours is there: it may be adopted, replaced or removed.
    Ours(Ours),
    /// Nothing of ours is there; this name is free.
    Free(OsString),
}

impl Place {
    /// The name, taken by us or free.
    pub fn name(&self) -> &OsStr {
        match self {
            Self::Ours(ours) => &ours.name,
            Self::Free(name) => name,
        }
    }
}

/// Looks for the result or error file of an input in the folder of its results.
///
/// Errors: the folder cannot be read, or strangers hold every name.
pub fn find(dir: &Dir, input: &OsStr, kind: Kind, identity: &Identity) -> io::Result<Place> {
    let mut free = None;
    for n in 1..=MAX_ALTERNATIVES {
        let name = name_of(input, kind, n);
        if !dir.exists(&name)? {
            free.get_or_insert(name);
            // A stranger's file at the first name may have gone since; ours would then stand at the second.
            if n > 1 {
                break;
            }
        } else if let Some(ours) = read_ours(dir, name, input, kind, identity)? {
            return Ok(Place::Ours(ours));
        }
    }
    free.map(Place::Free).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!(
                "files of others stand at every name from {} on; remove them",
                Shown(name_of(input, kind, 1).as_ref())
            ),
        )
    })
}

/// As [`find`], for an input beneath a root, wherever its results are put; `beside` is its folder, if that is open already.
///
/// Errors: also, the tree for the results is not there.
pub fn find_of(
    root: &Root,
    rel: &Path,
    beside: Option<&Arc<Dir>>,
    kind: Kind,
    identity: &Identity,
) -> io::Result<Place> {
    find_in(root.results(rel, beside)?.as_deref(), base_name(rel), kind, identity)
}

/// As [`find`], in a folder that need not have been made yet.
pub fn find_in(dir: Option<&Dir>, input: &OsStr, kind: Kind, identity: &Identity) -> io::Result<Place> {
    dir.map_or_else(|| Ok(Place::Free(name_of(input, kind, 1))), |dir| find(dir, input, kind, identity))
}

/// How the place of a result or error file is written down: by its name beside its input, else by its whole path.
pub fn recorded(root: &Root, rel: &Path, name: &OsStr) -> String {
    let path = root.results_path(rel).map(|folder| folder.join(name));
    path.as_deref().map_or(name, Path::as_os_str).to_string_lossy().into_owned()
}

/// Whether what was written down names a place in the folder where the results of an input are put now: the configuration
/// may have named another one then.
pub fn is_in_place(root: &Root, rel: &Path, recorded: &str) -> bool {
    let folder = root.results_path(rel).unwrap_or_default();
    Path::new(recorded).parent() == Some(Path::new(&*folder.to_string_lossy()))
}

/// Looks through a folder for our result or error file of an object. Returns the input's name and the file.
pub fn find_object(
    dir: &Dir,
    object_id: Uuid,
    kind: Kind,
    identity: &Identity,
) -> io::Result<Option<(OsString, Ours)>> {
    for entry in dir.entries()? {
        let name = entry?.name;
        if !name.as_bytes().ends_with(kind.suffix().as_bytes()) {
            continue;
        }
        match read_header(dir, &name, kind, identity)? {
            Some(header) if header.object_id == object_id => {
                let input = Path::new(&header.filepath).file_name().map(OsStr::to_owned);
                return Ok(input.map(|input| (input, header.ours(name))));
            }
            _ => {}
        }
    }
    Ok(None)
}

/// Which file of ours stands at a name, and the input it is about; `None` for a stranger's, or nothing.
pub fn whose(dir: &Dir, name: &OsStr, identity: &Identity) -> io::Result<Option<(Kind, PathBuf)>> {
    for kind in [Kind::Result, Kind::Error] {
        if name.as_bytes().ends_with(kind.suffix().as_bytes()) {
            let header = read_header(dir, name, kind, identity)?;
            return Ok(header.map(|header| (kind, PathBuf::from(header.filepath))));
        }
    }
    Ok(None)
}

/// Reads a file as one of ours about this input; `None` for a stranger's.
fn read_ours(dir: &Dir, name: OsString, input: &OsStr, kind: Kind, identity: &Identity) -> io::Result<Option<Ours>> {
    let header = read_header(dir, &name, kind, identity)?;
    let about_this =
        |header: &Header| Path::new(&header.filepath).file_name() == Some(OsStr::new(&*input.to_string_lossy()));
    Ok(header.filter(about_this).map(|header| header.ours(name)))
}

/// Reads the file at a name as a result of ours of an object, wherever it stands; `None` for a stranger's, or nothing.
pub fn read_result(dir: &Dir, name: &OsStr, object_id: Uuid, identity: &Identity) -> io::Result<Option<Whole>> {
    let Some(mut file) = open_ours(dir, name, identity)? else { return Ok(None) };
    let mut content = Vec::new();
    file.read_to_end(&mut content)?;
    let Ok(header) = serde_json::from_slice::<Header>(&content) else { return Ok(None) };
    if !header.is_of(Kind::Result, identity) || header.object_id != object_id {
        return Ok(None);
    }
    let (watch, filepath) = (header.watch.clone(), PathBuf::from(&header.filepath));
    let warning = header.warnings.first().cloned();
    let ours = header.ours(name.to_owned());
    Ok(ours.sha256.map(|sha256| Whole { ours, sha256, watch, filepath, warning, content }))
}

/// Whether the file at a name is a result or error file of ours, whatever it is about.
pub fn is_ours(dir: &Dir, name: &OsStr, kind: Kind, identity: &Identity) -> io::Result<bool> {
    Ok(read_header(dir, name, kind, identity)?.is_some())
}

/// What the error file at a name tells whoever dropped this very content; `None` for a stranger's, or another content's.
pub fn hint(dir: &Dir, name: &OsStr, of: &Generation, identity: &Identity) -> io::Result<Option<String>> {
    let header = read_header(dir, name, Kind::Error, identity)?;
    Ok(header.filter(|header| header.generation == *of).and_then(|header| header.hint))
}

/// Reads what a file of ours says about itself; `None` for a stranger's.
fn read_header(dir: &Dir, name: &OsStr, kind: Kind, identity: &Identity) -> io::Result<Option<Header>> {
    let Some(file) = open_ours(dir, name, identity)? else { return Ok(None) };
    let Ok(header) = serde_json::from_reader::<_, Header>(io::BufReader::new(file)) else { return Ok(None) };
    Ok(header.is_of(kind, identity).then_some(header))
}

/// Opens a file that may be ours by what `stat` says of it; `None` for a stranger's, or nothing.
fn open_ours(dir: &Dir, name: &OsStr, identity: &Identity) -> io::Result<Option<io::Take<std::fs::File>>> {
    let ours = |seen: &crate::fs::Seen| seen.uid == identity.uid && seen.nlink == 1 && seen.generation.size <= MAX_LEN;
    match dir.look(name) {
        Ok(Look::File(seen)) if ours(&seen) => {}
        _ => return Ok(None),
    }
    match dir.open_file(name) {
        Ok((file, seen)) if ours(&seen) => Ok(Some(file.take(MAX_LEN))),
        Ok(_) => Ok(None),
        // It went, or became something else, since it was looked at.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What an existing result says about a file as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Adoption {
    /// It is the result of this very content.
    Adopt(ContentHash, OsString),
    /// Of the same size: it is, if the content has this hash.
    IfHash(ContentHash, OsString),
    /// It is of something else, or there is none.
    No,
}

/// Decides whether a result already stands for a generation.
pub fn adoption(place: &Place, generation: &Generation) -> Adoption {
    let Place::Ours(ours) = place else { return Adoption::No };
    let Some(sha256) = ours.sha256 else { return Adoption::No };
    if ours.generation == *generation {
        Adoption::Adopt(sha256, ours.name.clone())
    } else if ours.generation.size == generation.size {
        Adoption::IfHash(sha256, ours.name.clone())
    } else {
        Adoption::No
    }
}

/// The SHA-256 of these parts, one after the other.
pub fn hash_parts(parts: &[&[u8]]) -> ContentHash {
    parts.iter().fold(Sha256::new(), Digest::chain_update).finalize().into()
}

/// The SHA-256 of everything that a reader gives.
pub fn hash_reader(mut reader: impl Read) -> io::Result<ContentHash> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finalize().into()),
            Ok(n) => hasher.update(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether a file is known to be gone from its place, given its object id. Blocks.
///
/// While it is moved, or removed, it has another name for a moment, and if that cannot be done it comes back: as a file that
/// is new, if it had been told gone.
pub fn is_gone(root: &Root, rel: &Path, object_id: Uuid) -> bool {
    let hidden = rel.with_file_name(hidden_name(object_id));
    // By its own name last: between the two looks it may have come back.
    [&hidden, rel].iter().all(|path| matches!(root.look(path), Look::Absent))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::ffi::OsStringExt;

    fn identity() -> Identity {
        Identity { instance: "inst".into(), uid: rustix::process::geteuid().as_raw() }
    }

    fn generation() -> Generation {
        Generation { ino: Some(7), size: 3, mtime_ns: 1, ctime_ns: Some(2) }
    }

    fn result_json(filepath: &str, instance: &str) -> String {
        let about = About {
            schema_version: SCHEMA_VERSION,
            generation: generation(),
            object_id: Uuid::nil(),
            instance: instance.into(),
            pipeline: "p".into(),
            watch: "w".into(),
            attempts: 1,
        };
        serde_json::to_string(&ResultFile {
            action: "complete",
            filepath: filepath.into(),
            bytes_sent: 3,
            file_size: 3,
            upload_time: 0.1,
            result: &serde_json::json!({"text": ["x"]}),
            sha256: hex::encode([0xAB; 32]),
            text_sha256: None,
            about,
            completed_at: "2026-01-01T00:00:00Z".into(),
            warnings: vec![],
        })
        .unwrap()
    }

    proptest! {
        #[test]
        fn every_name_fits_and_is_an_output(input in proptest::collection::vec(1u8..=255, 1..=255), n in 1u32..=9) {
            let input = OsString::from_vec(input.into_iter().filter(|byte| *byte != b'/').collect());
            let name = name_of(&input, Kind::Result, n);
            prop_assert!(name.len() <= NAME_MAX);
            prop_assert!(is_output(&name));
            prop_assert!(disambiguated(&input, &[1; 32]).len() <= NAME_MAX);
        }

        #[test]
        fn a_shortened_name_stays_valid_utf8(input in "\\PC{200,255}") {
            let input: String = input.chars().take_while({ let mut n = 0; move |c| { n += c.len_utf8(); n <= 255 } }).collect();
            prop_assert!(name_of(OsStr::new(&input), Kind::Error, 1).to_str().is_some());
        }
    }

    #[test]
    fn a_dot_at_the_beginning_of_a_long_name_begins_no_extension() {
        let name = disambiguated(OsStr::new(&format!("a.{}", "b".repeat(253))), &[1; 32]);
        assert_eq!(name.to_str().unwrap(), format!("a.{}~01010101", "b".repeat(244)));
        assert_eq!(disambiguated(OsStr::new("a.pdf"), &[1; 32]), "a~01010101.pdf");
    }

    #[test]
    fn long_names_of_different_files_stay_different() {
        let (a, b) = ("a".repeat(250) + "x", "a".repeat(250) + "y");
        assert_ne!(name_of(OsStr::new(&a), Kind::Result, 1), name_of(OsStr::new(&b), Kind::Result, 1));
    }

    #[test]
    fn a_moved_file_whose_name_is_taken_keeps_its_extension() {
        assert_eq!(disambiguated(OsStr::new("in.pdf"), &[0xCD; 32]), "in~cdcdcdcd.pdf");
        assert_eq!(disambiguated(OsStr::new("plain"), &[0xCD; 32]), "plain~cdcdcdcd");
    }

    #[test]
    fn only_a_result_of_ours_about_this_input_is_ours() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let input = OsStr::new("in.txt");
        let place = |json: &str| {
            std::fs::write(temp.path().join("in.txt.result.json"), json).unwrap();
            find(&dir, input, Kind::Result, &identity()).unwrap()
        };
        assert!(matches!(place(&result_json("/d/in.txt", "inst")), Place::Ours(_)));
        let alternative = Place::Free("in.txt~2.result.json".into());
        assert_eq!(place(&result_json("/d/in.txt", "other instance")), alternative);
        assert_eq!(place(&result_json("/d/another.txt", "inst")), alternative);
        assert_eq!(place("{\"action\":\"complete\"}"), alternative);
        assert_eq!(place("not json"), alternative);

        std::fs::remove_file(temp.path().join("in.txt.result.json")).unwrap();
        assert_eq!(find(&dir, input, Kind::Result, &identity()).unwrap(), Place::Free("in.txt.result.json".into()));
        std::fs::write(temp.path().join("target"), result_json("/d/in.txt", "inst")).unwrap();
        std::os::unix::fs::symlink("target", temp.path().join("in.txt.result.json")).unwrap();
        assert_eq!(find(&dir, input, Kind::Result, &identity()).unwrap(), alternative, "a link is a stranger's");
        std::fs::remove_file(temp.path().join("in.txt.result.json")).unwrap();
        std::fs::hard_link(temp.path().join("target"), temp.path().join("in.txt.result.json")).unwrap();
        assert_eq!(find(&dir, input, Kind::Result, &identity()).unwrap(), alternative, "so is a hard link");
    }

    #[test]
    fn ours_is_found_behind_a_stranger() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        std::fs::create_dir(temp.path().join("in.txt.result.json")).unwrap();
        std::fs::write(temp.path().join("in.txt~2.result.json"), result_json("/d/in.txt", "inst")).unwrap();
        let find = || find(&dir, OsStr::new("in.txt"), Kind::Result, &identity()).unwrap();
        assert!(matches!(find(), Place::Ours(ours) if ours.name == "in.txt~2.result.json"));
        std::fs::remove_dir(temp.path().join("in.txt.result.json")).unwrap();
        assert!(matches!(find(), Place::Ours(ours) if ours.name == "in.txt~2.result.json"));
    }

    #[test]
    fn a_result_is_adopted_for_its_generation_and_otherwise_only_by_hash() {
        let ours = Place::Ours(Ours {
            name: "r".into(),
            object_id: Uuid::nil(),
            generation: generation(),
            sha256: Some([1; 32]),
            text_sha256: None,
            completed_at: None,
        });
        assert_eq!(adoption(&ours, &generation()), Adoption::Adopt([1; 32], "r".into()));
        let touched = Generation { mtime_ns: 99, ..generation() };
        assert_eq!(adoption(&ours, &touched), Adoption::IfHash([1; 32], "r".into()));
        assert_eq!(adoption(&ours, &Generation { size: 4, ..generation() }), Adoption::No);
        assert_eq!(adoption(&Place::Free("r".into()), &generation()), Adoption::No);
    }
}
