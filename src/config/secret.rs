//! Where a secret comes from, and the reading of it.
//!
//! A missing secret, or one that strangers can read, is a state of the world and not of the configuration file: it takes
//! a pipeline down until it is put right, it does not stop the daemon. So the file is opened at each [`Secret::read`],
//! which also makes a replaced key effective. Nothing here prints a value.

use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};

use crate::show::Shown;

/// The longest secret file that is read, in bytes.
pub const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// Permission bits of a secret file that must not be set.
const OTHERS: u32 = 0o007;

/// Reason of an empty file.
const EMPTY: &str = "is empty: put the secret into it (a credential of systemd changes only at a restart)";

/// A credential or a token: known by its sources, read when it is needed.
#[derive(Clone, PartialEq)]
pub struct Secret {
    /// What it is, for messages: `the API key of pipeline "invoices"`.
    what: String,
    /// The first file that exists counts.
    candidates: Vec<PathBuf>,
    /// Counts when no file exists: a value of the environment or of the configuration file itself.
    fallback: Option<Fallback>,
}

#[derive(Clone)]
struct Fallback {
    value: SecretString,
    from: &'static str,
}

impl PartialEq for Fallback {
    fn eq(&self, other: &Self) -> bool {
        self.value.expose_secret() == other.value.expose_secret() && self.from == other.from
    }
}

/// Why a secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// None of its sources has it.
    #[error("{what} is missing: {advice}")]
    Missing {
        /// What it is.
        what: String,
        /// Where it was looked for and what to do.
        advice: String,
    },
    /// Every user of the machine can read or write it.
    #[error("{what}: {} is accessible to every user (mode {mode:04o}): chmod o-rwx it, and replace the secret if strangers had access", Shown(.path))]
    Exposed {
        /// What it is.
        what: String,
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file cannot be read.
    #[error("{what}: cannot read {}: {source}", Shown(.path))]
    Read {
        /// What it is.
        what: String,
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file does not hold a secret.
    #[error("{what}: {} {reason}", Shown(.path))]
    Content {
        /// What it is.
        what: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it, never its content.
        reason: &'static str,
    },
}

impl Secret {
    /// A secret in a file; the first candidate that exists counts.
    pub(crate) fn file(what: String, candidates: Vec<PathBuf>) -> Self {
        Self { what, candidates, fallback: None }
    }

    /// A secret that stands in the configuration file.
    pub(super) fn inline(what: String, value: SecretString) -> Self {
        Self { what, candidates: Vec::new(), fallback: Some(Fallback { value, from: "the configuration file" }) }
    }

    /// The sources when the configuration file names none: systemd's credential, then the environment.
    pub(super) fn unnamed(what: String, credential: Option<PathBuf>, environment: Option<SecretString>) -> Self {
        let fallback = environment.map(|value| Fallback { value, from: "$ROCKETRIDE_APIKEY" });
        Self { what, candidates: credential.into_iter().collect(), fallback }
    }

    /// The files it is looked for in, in this order; none if it stands in the configuration or the environment.
    pub fn candidates(&self) -> &[PathBuf] {
        &self.candidates
    }

    /// Reads it anew. Blocks for one small local read.
    pub fn read(&self) -> Result<SecretString, SecretError> {
        let mut empty = None;
        for path in &self.candidates {
            // Not blocking: somebody may have put a FIFO there.
            let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
            match opened {
                // The unit makes a blank credential when its file is missing: another source may still have the secret.
                Ok(file) => match self.read_file(path, &file) {
                    Err(error @ SecretError::Content { reason: EMPTY, .. }) => empty = empty.or(Some(error)),
                    other => return other,
                },
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(source) => {
                    return Err(SecretError::Read { what: self.what.clone(), path: path.clone(), source });
                }
            }
        }
        match (&self.fallback, empty) {
            (Some(fallback), _) => Ok(fallback.value.clone()),
            (None, Some(error)) => Err(error),
            (None, None) => Err(SecretError::Missing { what: self.what.clone(), advice: self.advice() }),
        }
    }

    /// Where it is taken from at this moment, for a person; never the value.
    pub fn describe(&self) -> String {
        // The unit's stand-in for a missing credential is one newline.
        let holds_something = |path: &&PathBuf| path.metadata().is_ok_and(|metadata| metadata.len() > 1);
        match (self.candidates.iter().find(holds_something), &self.fallback) {
            (Some(path), _) => Shown(path).to_string(),
            (None, Some(fallback)) => fallback.from.to_owned(),
            (None, None) => format!("nowhere ({})", self.advice()),
        }
    }

    fn read_file(&self, path: &Path, file: &File) -> Result<SecretString, SecretError> {
        let failed = |source| SecretError::Read { what: self.what.clone(), path: path.to_owned(), source };
        let content = |reason| SecretError::Content { what: self.what.clone(), path: path.to_owned(), reason };
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(content("is not a regular file"));
        }
        if metadata.mode() & OTHERS != 0 {
            let mode = metadata.mode() & 0o7777;
            return Err(SecretError::Exposed { what: self.what.clone(), path: path.to_owned(), mode });
        }
        let mut text = String::new();
        match file.take(MAX_SECRET_BYTES + 1).read_to_string(&mut text) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::InvalidData => return Err(content("is not UTF-8 text")),
            Err(error) => return Err(failed(error)),
        }
        // From here on the only copies are inside the type that wipes them.
        let oversized = text.len() as u64 > MAX_SECRET_BYTES;
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        let secret = SecretString::from(text);
        let value = secret.expose_secret();
        if oversized {
            return Err(content("is too large to be a secret"));
        }
        if value.is_empty() {
            return Err(content(EMPTY));
        }
        if value.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(content("must hold the secret alone, on one line without blanks"));
        }
        Ok(secret)
    }

    fn advice(&self) -> String {
        match self.candidates.as_slice() {
            [] => "set server.api_key_file, the systemd credential api-key or $ROCKETRIDE_APIKEY".to_owned(),
            paths => {
                let paths: Vec<_> = paths.iter().map(|path| Shown(path).to_string()).collect();
                format!("create {}", paths.join(" or "))
            }
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret")
            .field("what", &self.what)
            .field("candidates", &self.candidates)
            .field("fallback", &self.fallback.as_ref().map(|fallback| fallback.from))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn secret_file(content: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api-key");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (folder, path)
    }

    fn read(content: &[u8], mode: u32) -> Result<String, String> {
        let (_folder, path) = secret_file(content, mode);
        let read = Secret::file("the key".to_owned(), vec![path]).read();
        read.map(|secret| secret.expose_secret().to_owned()).map_err(|error| error.to_string())
    }

    #[test]
    fn one_trailing_newline_is_no_part_of_the_secret() {
        assert_eq!(read(b"rr_1\n", 0o600).unwrap(), "rr_1");
        assert_eq!(read(b"rr_1\r\n", 0o640).unwrap(), "rr_1");
        assert_eq!(read(b"rr_1", 0o400).unwrap(), "rr_1");
        assert!(read(b"rr_1\n\n", 0o600).unwrap_err().contains("on one line"));
    }

    #[test]
    fn a_file_that_strangers_can_read_is_refused_with_advice() {
        let error = read(b"rr_1\n", 0o644).unwrap_err();
        assert!(error.contains("chmod o-rwx") && error.contains("0644") && !error.contains("rr_1"), "{error}");
    }

    #[test]
    fn what_is_no_secret_is_refused_without_showing_it() {
        for (content, words) in [
            (&b""[..], "is empty"),
            (b"a b", "without blanks"),
            (b"\xff\xfe", "UTF-8"),
            (&vec![b'x'; 70_000], "too large"),
        ] {
            let error = read(content, 0o600).unwrap_err();
            assert!(error.contains(words) && error.contains("api-key"), "{error}");
        }
    }

    #[test]
    fn the_first_candidate_that_exists_counts_and_is_read_anew_each_time() {
        let (folder, path) = secret_file(b"old", 0o600);
        let secret = Secret::file("the key".to_owned(), vec![folder.path().join("absent"), path.clone()]);
        assert_eq!(secret.read().unwrap().expose_secret(), "old");
        fs::write(&path, "new").unwrap();
        assert_eq!(secret.read().unwrap().expose_secret(), "new");
        assert_eq!(secret.describe(), path.display().to_string());
        fs::remove_file(&path).unwrap();
        let error = secret.read().unwrap_err().to_string();
        assert!(error.contains("the key is missing") && error.contains("absent or /"), "{error}");
    }

    #[test]
    fn without_a_name_the_credential_goes_before_the_environment() {
        let (_folder, path) = secret_file(b"of-systemd", 0o400);
        let environment = Some(SecretString::from("of-env"));
        let secret = Secret::unnamed("the key".to_owned(), Some(path.clone()), environment);
        assert_eq!(secret.read().unwrap().expose_secret(), "of-systemd");
        fs::remove_file(path).unwrap();
        assert_eq!(secret.read().unwrap().expose_secret(), "of-env");
        assert!(!format!("{secret:?} {}", secret.describe()).contains("of-env"));
        assert!(Secret::unnamed("the key".to_owned(), None, None).read().is_err());
    }

    #[test]
    fn an_empty_credential_counts_only_when_no_other_source_has_the_secret() {
        let (_empty_folder, empty) = secret_file(b"\n", 0o400);
        let (_folder, beside) = secret_file(b"beside", 0o600);
        let environment = Some(SecretString::from("of-env"));
        let secret = Secret::unnamed("the key".to_owned(), Some(empty.clone()), environment);
        assert_eq!(secret.read().unwrap().expose_secret(), "of-env");
        let secret = Secret::file("the key".to_owned(), vec![empty.clone(), beside.clone()]);
        assert_eq!(secret.read().unwrap().expose_secret(), "beside");
        fs::remove_file(beside).unwrap();
        let error = secret.read().unwrap_err().to_string();
        assert!(error.contains("is empty") && error.contains(&empty.display().to_string()), "{error}");
    }

    #[test]
    fn a_fifo_in_place_of_the_secret_blocks_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api-key");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let error = Secret::file("the key".to_owned(), vec![path]).read().unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }
}
