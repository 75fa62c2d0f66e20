//! The state directory around the journal: the lock, the format file, the second copy of the identity, and moving a
//! journal out of the way.
//!
//! It must not know of sled, but for the name of a file that a killed open leaves behind.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use uuid::Uuid;

use super::backup;
use super::open::OpenError;
use crate::crash;

/// The format of everything in the journal's directory. Raised when an older program could not read what we write.
pub(super) const FORMAT: u32 = 3;
/// How many journals may be moved away within one second.
const MAX_SAME_NAME: u32 = 100;

const LOCK: &str = "lock";
pub(super) const JOURNAL: &str = "journal";
pub(super) const FORMAT_FILE: &str = "journal.format";
pub(super) const ID_FILE: &str = "journal.id";
const SUSPECT: &str = "journal.suspect";
const SEQUENCE: &str = "journal.sequence";
/// The database's file within the journal's directory.
const DATABASE: &str = "db";
/// Where an unfinished snapshot goes; the latest one replaces an earlier one.
const ASIDE: &str = "journal.unfinished-snapshot";

/// A state directory that belongs to this process.
pub(super) struct Home {
    dir: PathBuf,
    /// Holds the lock for as long as it is open.
    _lock: File,
}

/// What the second copy of the identity says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Id {
    /// No journal was ever finished here.
    Missing,
    /// A journal was, but which one cannot be read.
    Unreadable,
    /// This one.
    Known(Uuid),
}

impl Home {
    /// Creates the directory if need be, and takes its lock.
    pub(super) fn lock(dir: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Io { path: dir.to_owned(), source };
        if !dir.is_dir() {
            let missing: Vec<&Path> = dir.ancestors().take_while(|above| !above.is_dir()).collect();
            DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
            crash::point("state.made");
            for made in missing.into_iter().rev() {
                if let Some(parent) = made.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                    sync_dir(parent)?;
                }
            }
        }
        let path = dir.join(LOCK);
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|source| OpenError::Io { path: path.clone(), source })?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { dir: dir.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(OpenError::Locked { dir: dir.to_owned() }),
            Err(TryLockError::Error(source)) => Err(OpenError::Io { path, source }),
        }
    }

    /// The state directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The database's file.
    pub(super) fn database(&self) -> PathBuf {
        self.journal().join(DATABASE)
    }

    /// The journal's own directory.
    pub(super) fn journal(&self) -> PathBuf {
        self.dir.join(JOURNAL)
    }

    /// Whether there is a journal to open. An empty directory is none: there is nothing in it to keep.
    pub(super) fn has_journal(&self) -> Result<bool, OpenError> {
        let path = self.journal();
        match fs::read_dir(&path) {
            Ok(mut entries) => Ok(entries.next().is_some()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(OpenError::Io { path, source }),
        }
    }

    /// Refuses the journal of a newer program, and copies that of an older one before it becomes one of ours; an unreadable
    /// format file is written again.
    pub(super) fn take_over(&self, free: backup::Free) -> Result<(), OpenError> {
        match self.known_format()? {
            Some(FORMAT) => return Ok(()),
            Some(older) if self.has_journal()? => drop(backup::make(self, older, free)?),
            // The journal's own check decides whether what is there can be read.
            _ => {}
        }
        // From here on the older program refuses it.
        self.write(FORMAT_FILE, &FORMAT.to_string())
    }

    /// The format that is noted, if it can be read; that of a newer program is refused.
    pub(super) fn known_format(&self) -> Result<Option<u32>, OpenError> {
        match self.read(FORMAT_FILE)?.map(|text| text.trim().parse::<u32>()) {
            Some(Ok(found)) if found > FORMAT => Err(OpenError::NewerFormat { dir: self.dir.clone(), found }),
            found => Ok(found.and_then(Result::ok)),
        }
    }

    /// The second copy of the identity.
    pub(super) fn id(&self) -> Result<Id, OpenError> {
        Ok(match self.read(ID_FILE)?.map(|text| text.trim().parse()) {
            None => Id::Missing,
            Some(Err(_)) => Id::Unreadable,
            Some(Ok(id)) => Id::Known(id),
        })
    }

    /// Writes the second copy of the identity, durably.
    pub(super) fn write_id(&self, id: Uuid) -> Result<(), OpenError> {
        self.write(ID_FILE, &id.to_string())
    }

    /// Makes an empty directory for a new journal. The old identity goes first: a crash before the new journal is
    /// whole must not look like the loss of the old one.
    pub(super) fn begin_new(&self) -> Result<(), OpenError> {
        let (id, journal) = (self.dir.join(ID_FILE), self.journal());
        match fs::remove_file(&id) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(OpenError::Io { path: id, source }),
            _ => sync_dir(&self.dir)?,
        }
        crash::point("journal.id-gone");
        match DirBuilder::new().mode(0o700).create(&journal) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                Err(OpenError::Io { path: journal, source })
            }
            _ => {
                crash::point("journal.directory-made");
                sync_dir(&self.dir)
            }
        }
    }

    /// Makes durable what stands in the journal's directory, and its names: sled writes a file that tells how to read the
    /// others, `conf`, and never syncs it. Torn by a power cut it would make a whole journal unreadable.
    pub(super) fn sync(&self) -> Result<(), OpenError> {
        let journal = self.journal();
        let failed = |source| OpenError::Io { path: journal.clone(), source };
        for entry in fs::read_dir(&journal).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let synced = match fs::symlink_metadata(&path) {
                Ok(found) if found.is_file() => File::open(&path).and_then(|file| file.sync_all()),
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            };
            match synced {
                // sled removes its old snapshots when it likes.
                Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(OpenError::Io { path, source }),
                _ => {}
            }
        }
        sync_dir(&journal)?;
        sync_dir(&self.dir)
    }

    /// Moves away what a process leaves behind that was killed while it opened the journal: sled takes such a file
    /// for a snapshot and then fails.
    pub(super) fn move_unfinished_snapshots(&self) -> Result<(), OpenError> {
        let journal = self.journal();
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        for entry in fs::read_dir(&journal).map_err(failed(&journal))? {
            let entry = entry.map_err(failed(&journal))?;
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| name.starts_with("snap.") && name.ends_with(".generating")) {
                tracing::warn!(file = %entry.path().display(), "moving an unfinished snapshot out of the journal");
                fs::rename(entry.path(), self.dir.join(ASIDE)).map_err(failed(&entry.path()))?;
                crash::point("journal.snapshot-moved");
            }
        }
        sync_dir(&journal)
    }

    /// Moves a damaged journal away, under a name that says when.
    pub(super) fn quarantine(&self) -> Result<PathBuf, OpenError> {
        let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string().replace(':', "");
        let target = (1..=MAX_SAME_NAME)
            .map(|n| {
                self.dir.join(if n == 1 {
                    format!("journal.corrupt-{time}")
                } else {
                    format!("journal.corrupt-{time}-{n}")
                })
            })
            .find(|target| fs::symlink_metadata(target).is_err())
            .ok_or_else(|| OpenError::Io { path: self.journal(), source: io::ErrorKind::AlreadyExists.into() })?;
        fs::rename(self.journal(), &target).map_err(|source| OpenError::Io { path: target.clone(), source })?;
        crash::point("journal.quarantined");
        sync_dir(&self.dir)?;
        Ok(target)
    }

    /// Leaves the mark that the journal as it stands there now cannot be opened, durably.
    pub(super) fn mark_suspect(&self) -> Result<(), OpenError> {
        let database = self.describe_database()?.unwrap_or_default();
        self.write(SUSPECT, &database)
    }

    /// Whether the mark stands there and speaks of this very journal, not of one that was put in its place since.
    pub(super) fn is_suspect(&self) -> Result<bool, OpenError> {
        let Some(mark) = self.read(SUSPECT)? else { return Ok(false) };
        Ok(self.describe_database()?.is_some_and(|database| database == mark.trim()))
    }

    /// Removes the mark, if there is one.
    pub(super) fn clear_suspect(&self) -> Result<(), OpenError> {
        let path = self.dir.join(SUSPECT);
        match fs::remove_file(&path) {
            Ok(()) => sync_dir(&self.dir),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(OpenError::Io { path, source }),
        }
    }

    /// What tells one state of the database's file from another; none without a file.
    fn describe_database(&self) -> Result<Option<String>, OpenError> {
        let path = self.database();
        match fs::metadata(&path) {
            Ok(file) => Ok(Some(format!("{} {} {}.{:09}", file.ino(), file.len(), file.mtime(), file.mtime_nsec()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(OpenError::Io { path, source }),
        }
    }

    /// Bytes of the database's file; 0 without one.
    pub(super) fn database_size(&self) -> u64 {
        fs::metadata(self.database()).map_or(0, |file| file.len())
    }

    /// The sequence number that the journal `id` had reached for certain; 0 if nothing is known.
    pub(super) fn sequence(&self, id: Uuid) -> Result<u64, OpenError> {
        let text = self.read(SEQUENCE)?.unwrap_or_default();
        let known = text.trim().split_once(' ').filter(|(of, _)| of.parse() == Ok(id));
        Ok(known.and_then(|(_, sequence)| sequence.parse().ok()).unwrap_or_default())
    }

    /// Opens the file that follows the sequence numbers of the journal `id`.
    pub(super) fn follow(&self, id: Uuid, sequence: u64) -> Result<Sequence, OpenError> {
        let path = self.dir.join(SEQUENCE);
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
        file.and_then(|file| {
            let followed = Sequence { id, file };
            followed.note(sequence)?;
            // A line has one length, so nothing of an earlier one is left behind it.
            followed.file.set_len(Sequence::line(id, sequence).len() as u64)?;
            Ok(followed)
        })
        .map_err(|source| OpenError::Io { path, source })
    }

    fn read(&self, name: &str) -> Result<Option<String>, OpenError> {
        let path = self.dir.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(OpenError::Io { path, source }),
        }
    }

    /// Replaces a small file as a whole.
    fn write(&self, name: &str, text: &str) -> Result<(), OpenError> {
        let (path, new) = (self.dir.join(name), self.dir.join(format!("{name}.new")));
        let replace = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            crash::point("state-file.created");
            writeln!(file, "{text}")?;
            crash::point("state-file.written");
            file.sync_all()?;
            crash::point("state-file.synced");
            fs::rename(&new, &path)
        };
        replace().map_err(|source| OpenError::Io { path: path.clone(), source })?;
        crash::point("state-file.renamed");
        sync_dir(&self.dir)?;
        crash::point("state-file.durable");
        Ok(())
    }
}

/// The file that says how far a journal had come. It is written after a batch is durable and never waited for, so it may
/// lag behind; a journal that is older than it was cut off or put in the place of a newer one.
pub(super) struct Sequence {
    id: Uuid,
    file: File,
}

impl Sequence {
    /// Notes that everything up to this number is durable.
    pub(super) fn note(&self, sequence: u64) -> io::Result<()> {
        self.file.write_all_at(Self::line(self.id, sequence).as_bytes(), 0)
    }

    /// Makes the latest note durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn line(id: Uuid, sequence: u64) -> String {
        format!("{id} {sequence:020}\n")
    }
}

fn sync_dir(dir: &Path) -> Result<(), OpenError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|source| OpenError::Io { path: dir.to_owned(), source })
}
