//! Opening the journal: the checks before and after, and the quarantine of a damaged one.
//!
//! It must not decide what a record means. What it distinguishes is whose fault a failure is: damage is answered by
//! a new journal (the scan of the folders fills it again), the state of this host (a full disk, missing rights, too
//! many open files) by an error that names it, for that journal is healthy.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::backup;
use super::check::{self, Content, Fault};
use super::home::{FORMAT, Home, Id};
use super::layout;
use super::patience::{Overdue, Patience};
use super::record::{self, Meta};
use super::rekey;
use super::store::{ReadError, Store, SyncFile};
use crate::crash;
use crate::job::Counters;
use crate::panics;

const MIB: u64 = 1 << 20;
/// sled's cache, in bytes, as its rows are on disk; its default is 1 GiB. A walk, or a drop of many files, stays within a few
/// folders at a time, whose records stand side by side; more would be memory for nothing.
const CACHE: u64 = 4 * MIB;
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
         it, or remove `journal`, `journal.id`, `journal.format` and `journal.sequence` and copy what is in \
         journal.format-{FORMAT}.backup here if there is one, or move its `journal` and `journal.format` away and have the \
         folders scanned again",
        .dir.display()
    )]
    NewerFormat {
        /// The state directory.
        dir: PathBuf,
        /// The format found.
        found: u32,
    },
    /// An older program wrote the journal, and there is no room for the copy that is made first.
    #[error(
        "the journal in {} has the older format {found} and is copied to journal.format-{found}.backup before it is taken \
         over: that needs {} MiB, and {} MiB are free there. Nothing was changed: make room, or start the version that \
         wrote it",
        .dir.display(), .bytes.div_ceil(MIB) + backup::MARGIN / MIB, .free / MIB
    )]
    NoRoom {
        /// The state directory.
        dir: PathBuf,
        /// The format found.
        found: u32,
        /// Bytes of the journal.
        bytes: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// This host does not let us.
    #[error("cannot open the journal: {}: {source}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The opening computed without an end. The mark for the next start is left.
    #[error(
        "opening the journal in {} took {} s of processor time and does not end, so it is damaged: the next start puts \
         it aside as journal.corrupt-<time> and begins an empty one; files whose results stand there are not sent again",
        .dir.display(), .busy.as_secs()
    )]
    Endless {
        /// The journal's directory.
        dir: PathBuf,
        /// Processor time used.
        busy: Duration,
    },
    /// The opening waits for the disk, and not for the first minute.
    #[error(
        "opening the journal in {} did not end within {} s, and hardly computed: its disk does not answer, or is far \
         too slow; nothing was changed, and the next start tries again",
        .dir.display(), .after.as_secs()
    )]
    Unanswered {
        /// The journal's directory.
        dir: PathBuf,
        /// How long it was waited for.
        after: Duration,
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
#[derive(Debug)]
pub(super) enum Trouble {
    Host(OpenError),
    Damage(String),
}

impl From<OpenError> for Trouble {
    fn from(error: OpenError) -> Self {
        Self::Host(error)
    }
}

/// The ways of an opening that a test replaces.
pub(super) struct Ways {
    pub(super) sync_file: SyncFile,
    /// Opens the database in a directory and reads all of it.
    pub(super) read_all: fn(&Path) -> Result<(sled::Db, Content), Trouble>,
    /// What a database of so many bytes is given.
    pub(super) patience: fn(u64) -> Patience,
    /// What is free for the copy of a journal of an older format.
    pub(super) free: backup::Free,
}

impl Ways {
    pub(super) fn usual(sync_file: SyncFile) -> Self {
        Self { sync_file, read_all: open_checked, patience: Patience::of, free: backup::free }
    }
}

/// Opens the journal of a state directory, or a new one.
pub(super) fn open(state_dir: &Path, ways: &Ways) -> Result<(Store, Uuid, Content, Opened), OpenError> {
    let home = Arc::new(Home::lock(state_dir)?);
    crash::point("journal.locked");
    home.take_over(ways.free)?;
    let mut quarantined = None;
    if home.is_suspect()? {
        let target = home.quarantine()?;
        tracing::error!(moved_to = %target.display(), "opening the journal did not come to an end at the last start, so it was put aside: starting an empty one; files whose results stand there are not sent again");
        quarantined = Some(target);
    }
    // Only after the journal it speaks of is out of the way; one that speaks of another journal has no meaning.
    home.clear_suspect()?;
    if home.has_journal()? {
        match open_existing(&home, ways) {
            Ok(Some((db, id, content))) => {
                // What a killed predecessor wrote and did not wait for becomes durable, too.
                let store = Store::new(db, ways.sync_file, home.clone(), id, content.sequence)?;
                let move_all = || caught(&home.journal(), || rekey::rekey(&store, &content));
                let moved = if content.scattered { move_all() } else { Ok(()) };
                match moved {
                    Ok(()) => {
                        let opened = Opened { records: content.records, quarantined, fresh: false };
                        return Ok((store, id, content, opened));
                    }
                    Err(Trouble::Host(error)) => return Err(error),
                    Err(Trouble::Damage(why)) => {
                        drop(store);
                        quarantined = Some(put_aside(&home, &why)?);
                    }
                }
            }
            // A first start that got no further than the database's own files.
            Ok(None) => {}
            Err(Trouble::Host(error)) => return Err(error),
            Err(Trouble::Damage(why)) => {
                quarantined = Some(put_aside(&home, &why)?);
            }
        }
    } else if quarantined.is_none() && home.id()? != Id::Missing {
        tracing::warn!(directory = %home.journal().display(), "the journal is gone: starting an empty one");
    }

    home.begin_new()?;
    let (db, content) = open_checked(&home.journal()).map_err(|trouble| unusable(&home, trouble))?;
    let meta = Meta { id: Uuid::new_v4(), sequence: 0, totals: Counters::default() };
    let row = record::encode_meta(&meta).map_err(|error| unusable(&home, blame(&home.journal(), error.into())))?;
    db.insert(layout::META, row).map_err(|error| unusable(&home, blame(&home.journal(), error.into())))?;
    crash::point("journal.meta-inserted");
    let store = Store::new(db, ways.sync_file, home, meta.id, meta.sequence)?;
    // Last: where this copy is and the journal's own is not, a journal was lost.
    store.home.write_id(meta.id)?;
    Ok((store, meta.id, content, Opened { records: 0, quarantined, fresh: true }))
}

/// What a look at a journal found that nobody uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Looked {
    /// There is none.
    Missing,
    /// Everything that is written twice agrees.
    Sound {
        /// Number of records.
        records: u64,
        /// The watches with their ledgers.
        watches: Vec<(String, Counters)>,
        /// Its format, if it is older than ours: the next start copies it and takes it over.
        older_format: Option<u32>,
    },
    /// The next start puts it aside, for this reason.
    Damaged(String),
}

/// Looks at the journal of a state directory as a start would, and leaves it where it is.
pub(super) fn look(state_dir: &Path, ways: &Ways) -> Result<Looked, OpenError> {
    let home = Arc::new(Home::lock(state_dir)?);
    let older_format = home.known_format()?.filter(|format| *format != FORMAT);
    if !home.has_journal()? {
        return Ok(Looked::Missing);
    }
    match open_existing(&home, ways) {
        Ok(Some((_, _, content))) => {
            let watches = content.watches.into_values().map(|watch| (watch.name, watch.counters)).collect();
            Ok(Looked::Sound { records: content.records, watches, older_format })
        }
        Ok(None) => Ok(Looked::Missing),
        Err(Trouble::Damage(why)) => Ok(Looked::Damaged(why)),
        Err(Trouble::Host(error)) => Err(error),
    }
}

/// Opens what is there; none if it is the empty beginning of a journal.
fn open_existing(home: &Arc<Home>, ways: &Ways) -> Result<Option<(sled::Db, Uuid, Content)>, Trouble> {
    home.move_unfinished_snapshots()?;
    let (db, content) = open_in_time(home, ways)?;
    let id = match (content.id, home.id()?) {
        (Some(id), Id::Known(copy)) if id == copy => id,
        (Some(_), Id::Known(_)) => {
            return Err(Trouble::Damage("it is not the journal that was here before".to_owned()));
        }
        (Some(id), Id::Missing | Id::Unreadable) => {
            // What a killed process wrote into the journal need not be durable yet, and the copy is to be the later one.
            home.sync()?;
            home.write_id(id)?;
            id
        }
        (None, Id::Missing) => return Ok(None),
        (None, _) => return Err(Trouble::Damage("it is empty and was not".to_owned())),
    };
    let (found, reached) = (content.sequence, home.sequence(id)?);
    if found < reached {
        return Err(Trouble::Damage(format!("it ends with commit {found} and had reached commit {reached}")));
    }
    Ok(Some((db, id, content)))
}

/// Opens what is there on a thread of its own, as long as there is reason to wait. The lock is kept until the thread
/// ends, so that nobody opens the journal twice.
fn open_in_time(home: &Arc<Home>, ways: &Ways) -> Result<(sled::Db, Content), Trouble> {
    let (dir, read_all) = (home.journal(), ways.read_all);
    let patience = (ways.patience)(home.database_size());
    let opened = {
        let dir = dir.clone();
        patience.wait_for(home.clone(), move || read_all(&dir))
    };
    match opened.map_err(|source| OpenError::Io { path: dir.clone(), source })? {
        Ok(Some(result)) => result,
        Ok(None) => Err(Trouble::Damage("its opening panicked".to_owned())),
        Err(Overdue::Asleep(after)) => Err(OpenError::Unanswered { dir, after }.into()),
        Err(Overdue::Busy(busy)) => {
            home.mark_suspect()?;
            Err(OpenError::Endless { dir, busy }.into())
        }
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
        Err(panic) => Err(Trouble::Damage(format!("the database panicked: {}", panics::message(panic.as_ref())))),
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

fn put_aside(home: &Home, why: &str) -> Result<PathBuf, OpenError> {
    let target = home.quarantine()?;
    tracing::error!(moved_to = %target.display(), %why, "the journal is damaged and was put aside: starting an empty one; files whose results stand there are not sent again");
    Ok(target)
}

fn unusable(home: &Home, trouble: Trouble) -> OpenError {
    match trouble {
        Trouble::Host(error) => error,
        Trouble::Damage(message) => OpenError::Unusable { dir: home.journal(), message },
    }
}
