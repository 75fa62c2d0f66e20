//! Opening the journal: the checks before and after, and the quarantine of a damaged one.
//!
//! It must not decide what a record means. What it distinguishes is whose fault a failure is: damage is answered by
//! a new journal (the scan of the folders fills it again), the state of this host (a full disk, missing rights, too
//! many open files) by an error that names it, for that journal is healthy.

use std::any::Any;
use std::fs::OpenOptions;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::check::{self, Content, Fault};
use super::home::{FORMAT, Home, Id};
use super::layout;
use super::record;
use super::store::{ReadError, Store, SyncFile};
use crate::crash;
use crate::job::Counters;

/// sled's cache, in bytes; its default is 1 GiB.
const CACHE: u64 = 16 << 20;
/// sled releases its files a moment after the last handle is gone; so long an open waits for one that this very
/// process closed. Another process is kept out by our own lock.
const RELEASE_WAIT: Duration = Duration::from_secs(10);
const RELEASE_POLL: Duration = Duration::from_millis(20);

/// What was found at the opening.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Number of records.
    pub records: u64,
    /// Where a damaged journal was moved to.
    pub quarantined: Option<PathBuf>,
    /// Whether this is a new journal: what is finished must be found by its results.
    pub fresh: bool,
}

/// Why the journal cannot be opened. None of them is mended by throwing the journal away.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the state directory.
    #[error("another rocketride-ingest runs on {}", .dir.display())]
    Locked {
        /// The state directory.
        dir: PathBuf,
    },
    /// A newer program wrote the journal.
    #[error(
        "the journal in {} has format {found} and this program knows format {FORMAT}: install the version that wrote \
         it, or move its `journal` and `journal.format` away and have the folders scanned again",
        .dir.display()
    )]
    NewerFormat {
        /// The state directory.
        dir: PathBuf,
        /// The format found.
        found: u32,
    },
    /// This host does not let us.
    #[error("cannot open the journal: {}: {source}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// Even a new, empty journal does not work.
    #[error("cannot start a new journal in {}: {message}", .dir.display())]
    Unusable {
        /// The journal's directory.
        dir: PathBuf,
        /// Why.
        message: String,
    },
}

/// Why an attempt to open what is there failed.
enum Trouble {
    Host(OpenError),
    Damage(String),
}

impl From<OpenError> for Trouble {
    fn from(error: OpenError) -> Self {
        Self::Host(error)
    }
}

/// Opens the journal of a state directory, or a new one.
pub(super) fn open(state_dir: &Path, sync_file: SyncFile) -> Result<(Store, Uuid, Content, Opened), OpenError> {
    let home = Home::lock(state_dir)?;
    crash::point("journal.locked");
    home.check_format()?;
    let mut quarantined = None;
    if home.has_journal()? {
        match open_existing(&home) {
            Ok(Some((db, id, content))) => {
                let store = finish(home, db, sync_file)?;
                let opened = Opened { records: content.records, quarantined, fresh: false };
                return Ok((store, id, content, opened));
            }
            // A first start that got no further than the database's own files.
            Ok(None) => {}
            Err(Trouble::Host(error)) => return Err(error),
            Err(Trouble::Damage(why)) => {
                let target = home.quarantine()?;
                tracing::error!(moved_to = %target.display(), %why, "the journal is damaged and was put aside: starting an empty one; files whose results stand there are not sent again");
                quarantined = Some(target);
            }
        }
    } else if home.id()? != Id::Missing {
        tracing::warn!(directory = %home.journal().display(), "the journal is gone: starting an empty one");
    }

    home.begin_new()?;
    let (db, content) = open_checked(&home.journal()).map_err(|trouble| unusable(&home, trouble))?;
    let id = Uuid::new_v4();
    let row = record::encode_meta(id, &Counters::default())
        .map_err(|error| unusable(&home, blame(&home.journal(), error.into())))?;
    db.insert(layout::META, row).map_err(|error| unusable(&home, blame(&home.journal(), error.into())))?;
    crash::point("journal.meta-inserted");
    let store = finish(home, db, sync_file)?;
    // Last: where this copy is and the journal's own is not, a journal was lost.
    store.home.write_id(id)?;
    Ok((store, id, content, Opened { records: 0, quarantined, fresh: true }))
}

/// Opens what is there; none if it is the empty beginning of a journal.
fn open_existing(home: &Home) -> Result<Option<(sled::Db, Uuid, Content)>, Trouble> {
    home.move_unfinished_snapshots()?;
    let (db, content) = open_checked(&home.journal())?;
    match (content.id, home.id()?) {
        (Some(id), Id::Known(copy)) if id == copy => Ok(Some((db, id, content))),
        (Some(_), Id::Known(_)) => Err(Trouble::Damage("it is not the journal that was here before".to_owned())),
        (Some(id), Id::Missing | Id::Unreadable) => {
            // What a killed process wrote into the journal need not be durable yet, and the copy is to be the later one.
            home.sync()?;
            home.write_id(id)?;
            Ok(Some((db, id, content)))
        }
        (None, Id::Missing) => Ok(None),
        (None, _) => Err(Trouble::Damage("it is empty and was not".to_owned())),
    }
}

/// Opens the database and reads all of it. Damage shows as an error or as a panic.
fn open_checked(dir: &Path) -> Result<(sled::Db, Content), Trouble> {
    let db = caught(dir, || open_db(dir).map_err(Fault::from))?;
    crash::point("journal.database-opened");
    match caught(dir, || check::examine(&db)) {
        Ok(content) => Ok((db, content)),
        Err(trouble) => {
            // Closing a damaged database may panic too.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(db)));
            Err(trouble)
        }
    }
}

/// Runs a step of the opening, and says whose fault its failure is.
fn caught<T>(dir: &Path, step: impl FnOnce() -> Result<T, Fault>) -> Result<T, Trouble> {
    match catch_unwind(AssertUnwindSafe(step)) {
        Ok(result) => result.map_err(|fault| blame(dir, fault)),
        Err(panic) => Err(Trouble::Damage(format!("the database panicked: {}", panic_message(panic.as_ref())))),
    }
}

/// Only the end of a file where there should be more is damage among the errors of the operating system.
fn blame(dir: &Path, fault: Fault) -> Trouble {
    match fault {
        Fault::Read(ReadError::Sled(sled::Error::Io(source))) if source.kind() != io::ErrorKind::UnexpectedEof => {
            Trouble::Host(OpenError::Io { path: dir.to_owned(), source })
        }
        other => Trouble::Damage(other.to_string()),
    }
}

/// sled may hold its own lock for a moment after its last handle is gone: that is waited for.
pub(super) fn open_db(dir: &Path) -> Result<sled::Db, sled::Error> {
    // No background flusher: it would swallow the errors of its flushes. `mode` has no effect in this version.
    let config = sled::Config::new().path(dir).cache_capacity(CACHE).flush_every_ms(None);
    let deadline = Instant::now() + RELEASE_WAIT;
    loop {
        match config.open() {
            Err(sled::Error::Io(error))
                if error.to_string().contains("could not acquire lock") && Instant::now() < deadline =>
            {
                thread::sleep(RELEASE_POLL);
            }
            result => return result,
        }
    }
}

/// Makes what the opening wrote durable, and what a killed predecessor wrote and did not wait for.
fn finish(home: Home, db: sled::Db, sync_file: SyncFile) -> Result<Store, OpenError> {
    let path = home.journal().join("db");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|source| OpenError::Io { path: path.clone(), source })?;
    let store = Store::new(db, file, sync_file, home);
    store.make_durable().map_err(|error| OpenError::Io { path, source: error.into() })?;
    store.home.sync()?;
    crash::point("journal.names-durable");
    Ok(store)
}

fn unusable(home: &Home, trouble: Trouble) -> OpenError {
    match trouble {
        Trouble::Host(error) => error,
        Trouble::Damage(message) => OpenError::Unusable { dir: home.journal(), message },
    }
}

/// What a panic says.
pub(super) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}
