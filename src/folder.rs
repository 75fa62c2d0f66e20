//! A watched folder as it is now: what intake and delivery share about one watch.
//!
//! Intake opens the root and says when it is gone; delivery reads files through it, tells intake which files
//! changed under its hands, and holds the watch when this host cannot serve it. Neither knows the other.

mod tenures;

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::timeout;

use self::tenures::Tenures;
use crate::config::Watch;
use crate::crash;
use crate::fs::{Dir, Mounts, Root, RootId};
use crate::job::{Job, Millis};
use crate::locks::lock;
use crate::sidecar;

/// Words that intake may have waiting; changed paths that find no room are found again by the next scan.
const WORDS: usize = 1024;
/// How long intake may take to say how a path stands; it may be reading a large file.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Files with an unfinished move or removal that the first scan remembers; the others wait for the next start.
const MAX_STRAYS: usize = 10_000;
/// First pause after a fault of this host; doubled each time up to [`HOLD_MAX`].
const HOLD_MIN: Duration = Duration::from_secs(5);
/// Longest pause after a fault of this host.
const HOLD_MAX: Duration = Duration::from_secs(300);

/// What is known of a watch at run time.
#[derive(Debug)]
pub struct Folder {
    /// The watch as configured.
    pub watch: Arc<Watch>,
    root: watch::Sender<Availability>,
    /// What outlives a change of the watch's configuration.
    kept: Arc<Kept>,
    /// Paths that are settling now.
    settling: AtomicU64,
    /// Whether one scan has gone through the whole root since the start.
    scanned: AtomicBool,
    /// Whether it left the configuration, or another one has its place since: nobody looks at it any more.
    retired: AtomicBool,
    /// How new files and writers are noticed, for those who look at the daemon.
    noticing: Mutex<Noticing>,
    /// An operator wants the folder walked at once.
    rescan: Notify,
}

/// What is known of a watch however often its configuration changes: workers that began under the earlier one go on.
#[derive(Debug)]
struct Kept {
    /// Which folder stood at the path when.
    tenures: Mutex<Tenures>,
    /// To the intake that is there now.
    words: Mutex<mpsc::Sender<Word>>,
    hold: Mutex<Option<Hold>>,
    /// Temp files that a worker of this process is writing; a sweep leaves them alone.
    temps: Mutex<HashSet<OsString>>,
    /// Results of this watch that the pipeline gave and that cannot be written now.
    unplaced: AtomicU64,
    /// Files whose move or removal was begun by an earlier run, found by the first scan.
    strays: Mutex<BTreeSet<PathBuf>>,
    /// What was mounted when the root was open last.
    mounted: Mutex<Mounted>,
    /// What was mounted beneath the root when it was open last.
    mounts: Mutex<Option<(RootId, Mounts)>>,
}

/// Where filesystems of their own were mounted: without them, what stands there are other folders.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mounted {
    /// At the root.
    pub root: bool,
    /// At the folder that results go to.
    pub results: bool,
}

/// What intake is told or asked.
#[derive(Debug)]
pub enum Word {
    /// A file's content changed while it was being sent.
    Changed(PathBuf),
    /// Somebody wants to know how a path stands.
    Asked(PathBuf, oneshot::Sender<Standing>),
}

/// How a path stands with intake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// If it is settling: how far that is.
    pub settling: Option<Settle>,
    /// Until the whole folder is walked again; none: it is being walked.
    pub next_walk: Option<Duration>,
}

/// How far a path has settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settle {
    /// How long it must look the same.
    pub quiet: Duration,
    /// For how long it has looked the same; none before the first look.
    pub unchanged: Option<Duration>,
    /// Until it is looked at again.
    pub next: Duration,
}

/// Whether a root can be used.
#[derive(Debug, Clone)]
pub enum Availability {
    /// Not looked at yet.
    Starting,
    /// It is open.
    Open(Arc<Root>),
    /// It is not there, or cannot be read, and why.
    Unavailable(Arc<str>),
}

/// How a watch notices new files, and whether somebody still writes to them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Noticing {
    /// Why it is polled; none: the kernel's events tell.
    pub polls: Option<&'static str>,
    /// Whether the kernel tells of writers, or why not; none before the first file.
    pub writers: Option<Result<(), &'static str>>,
}

/// A watch that delivery leaves alone for a while because of this host.
#[derive(Debug, Clone)]
struct Hold {
    until: Instant,
    pause: Duration,
}

/// Opens the folder of a watch, and the one that its results go to, which both must be there.
pub fn open_root(watch: &Watch) -> io::Result<Root> {
    let root = Root::open(&watch.path)?;
    match &watch.results.directory {
        Some(directory) => root.with_results(directory, &watch.name),
        None => Ok(root),
    }
}

impl Folder {
    /// A folder that nobody has looked at yet, and what intake is to listen to.
    pub fn new(watch: Arc<Watch>) -> (Arc<Self>, mpsc::Receiver<Word>) {
        let (words, receiver) = mpsc::channel(WORDS);
        let kept = Kept {
            tenures: Mutex::default(),
            words: Mutex::new(words),
            hold: Mutex::default(),
            temps: Mutex::default(),
            unplaced: AtomicU64::new(0),
            strays: Mutex::default(),
            mounted: Mutex::default(),
            mounts: Mutex::default(),
        };
        (Self::of(watch, Arc::new(kept)), receiver)
    }

    /// The same folder under another configuration of its watch, and what intake is to listen to from now on. Nobody has
    /// looked at it yet.
    pub fn renewed(&self, watch: Arc<Watch>) -> (Arc<Self>, mpsc::Receiver<Word>) {
        let (words, receiver) = mpsc::channel(WORDS);
        *lock(&self.kept.words) = words;
        if watch.results.directory != self.watch.results.directory {
            lock(&self.kept.mounted).results = false;
        }
        self.retire();
        (Self::of(watch, self.kept.clone()), receiver)
    }

    fn of(watch: Arc<Watch>, kept: Arc<Kept>) -> Arc<Self> {
        Arc::new(Self {
            watch,
            root: watch::Sender::new(Availability::Starting),
            kept,
            settling: AtomicU64::new(0),
            scanned: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            noticing: Mutex::default(),
            rescan: Notify::new(),
        })
    }

    /// The root, if it is available.
    pub fn root(&self) -> Option<Arc<Root>> {
        match &*self.root.borrow() {
            Availability::Open(root) => Some(root.clone()),
            Availability::Starting | Availability::Unavailable(_) => None,
        }
    }

    /// Nobody will look at this folder any more: whoever waits for its first look or scan waits in vain. What is in flight
    /// goes on.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        self.root.send_if_modified(|availability| {
            let is_waited_for = matches!(availability, Availability::Starting);
            if is_waited_for {
                *availability = Availability::Unavailable("its watch was changed or removed".into());
            }
            is_waited_for
        });
    }

    /// Whether nobody looks at it any more.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// Follows the availability of the root.
    pub fn availability(&self) -> watch::Receiver<Availability> {
        self.root.subscribe()
    }

    /// Says whether the root can be used.
    pub fn set_availability(&self, availability: Availability) {
        self.root.send_replace(availability);
    }

    /// Notes which folder stands at the path now. True if it is another one than before, which was not seen to be removed.
    pub fn opened(&self, root: &Root, at: Millis) -> bool {
        lock(&self.kept.tenures).opened(root.id(), at)
    }

    /// Whether this very folder stood at the path before, since the start.
    pub fn knows(&self, root: &Root) -> bool {
        lock(&self.kept.tenures).knows(root.id())
    }

    /// Notes what is mounted at a root that was opened, at the folder of its results, and beneath it.
    pub fn note_mounts(&self, root: &Root, mounted: Mounted) {
        *lock(&self.kept.mounted) = mounted;
        *lock(&self.kept.mounts) = Some((root.id(), root.mounts()));
    }

    /// A root that knows what was mounted beneath it when it was open last.
    #[must_use]
    pub fn with_mounts(&self, root: Root) -> Root {
        match &*lock(&self.kept.mounts) {
            Some((id, mounts)) if *id == root.id() => root.with_mounts(mounts.clone()),
            _ => root,
        }
    }

    /// Where filesystems of their own were mounted when the root was open last.
    pub fn was_mounted(&self) -> Mounted {
        *lock(&self.kept.mounted)
    }

    /// Notes that the folder at the path was removed: it was empty then.
    pub fn removed(&self) {
        lock(&self.kept.tenures).removed();
    }

    /// Whether it can be told that the file of a job is gone, when it is not in the folder that stands at the path now:
    /// not if it was admitted from another one.
    pub fn can_tell(&self, job: &Job) -> bool {
        lock(&self.kept.tenures).tell(job.admitted_at)
    }

    /// Tells intake that a file is not what it was; it settles again.
    pub fn report_changed(&self, rel: PathBuf) {
        // A full channel loses nothing: the job is looked at again when it is due, and scans see the file.
        let _ = lock(&self.kept.words).try_send(Word::Changed(rel));
    }

    /// Asks intake how a path stands. None if it does not answer in time: its root is unavailable, or it is busy.
    pub async fn standing(&self, rel: PathBuf) -> Option<Standing> {
        let (answer, standing) = oneshot::channel();
        lock(&self.kept.words).try_send(Word::Asked(rel, answer)).ok()?;
        timeout(ANSWER_TIMEOUT, standing).await.ok()?.ok()
    }

    /// How many paths are settling, or have yet to go where an earlier run was to put them.
    pub fn settling(&self) -> u64 {
        self.settling.load(Ordering::Relaxed) + lock(&self.kept.strays).len() as u64
    }

    /// Says how many paths are settling.
    pub fn set_settling(&self, count: usize) {
        self.settling.store(count as u64, Ordering::Relaxed);
    }

    /// Whether one scan has gone through the whole root since the start.
    pub fn is_scanned(&self) -> bool {
        self.scanned.load(Ordering::Acquire)
    }

    /// Notes that a scan has gone through the whole root.
    pub fn set_scanned(&self) {
        self.scanned.store(true, Ordering::Release);
    }

    /// Holds the watch after a fault of this host; the pause doubles while faults go on. Returns it if it is new.
    pub fn hold(&self, now: Instant) -> Option<Duration> {
        let mut hold = lock(&self.kept.hold);
        if hold.as_ref().is_some_and(|hold| hold.until > now) {
            return None;
        }
        let pause = hold.as_ref().map_or(HOLD_MIN, |hold| (hold.pause * 2).min(HOLD_MAX));
        *hold = Some(Hold { until: now + pause, pause });
        Some(pause)
    }

    /// Ends the hold: something was written here. True if there was one.
    pub fn release(&self) -> bool {
        lock(&self.kept.hold).take().is_some()
    }

    /// Until when the watch is held, if it is.
    pub fn held_until(&self, now: Instant) -> Option<Instant> {
        lock(&self.kept.hold).as_ref().map(|hold| hold.until).filter(|until| *until > now)
    }

    /// Registers a temp file of a worker, so that no sweep removes it; none if another worker of this process has it.
    pub fn claim_temp(self: &Arc<Self>, name: OsString) -> Option<TempClaim> {
        let is_free = lock(&self.kept.temps).insert(name.clone());
        is_free.then(|| TempClaim { folder: self.clone(), name })
    }

    /// Removes a temp file that a crash left, unless a worker of this process is writing it.
    pub fn sweep_temp(&self, dir: &Dir, name: &std::ffi::OsStr, uid: u32) -> io::Result<bool> {
        // Nobody begins it meanwhile.
        let temps = lock(&self.kept.temps);
        if temps.contains(name) { Ok(false) } else { sweep(dir, name, uid) }
    }

    /// Says that a result cannot be written; nothing new is sent for this watch until the guard is dropped.
    pub fn unplaced(self: &Arc<Self>) -> Unplaced {
        self.kept.unplaced.fetch_add(1, Ordering::AcqRel);
        Unplaced { folder: self.clone() }
    }

    /// Whether results are waiting to be written.
    pub fn has_unplaced(&self) -> bool {
        self.kept.unplaced.load(Ordering::Acquire) > 0
    }

    /// How new files and writers are noticed.
    pub fn noticing(&self) -> Noticing {
        *lock(&self.noticing)
    }

    /// Says why new files are looked for by polling, or that events tell of them.
    pub fn set_polls(&self, why: Option<&'static str>) {
        lock(&self.noticing).polls = why;
    }

    /// Says whether the kernel tells of writers here, or why not.
    pub fn set_writers(&self, told: Result<(), &'static str>) {
        lock(&self.noticing).writers = Some(told);
    }

    /// Asks intake to walk the whole folder at once.
    pub fn ask_for_rescan(&self) {
        self.rescan.notify_one();
    }

    /// Resolves when somebody asked for that.
    pub async fn rescan_asked_for(&self) {
        self.rescan.notified().await;
    }

    /// Remembers a file that is to go elsewhere and has not: one at its hidden name, or a dead letter at its own.
    pub fn add_stray(&self, rel: PathBuf) {
        let mut strays = lock(&self.kept.strays);
        if strays.len() < MAX_STRAYS {
            strays.insert(rel);
        }
    }

    /// One of the files that are to go elsewhere.
    pub fn stray(&self) -> Option<PathBuf> {
        lock(&self.kept.strays).first().cloned()
    }

    /// Forgets a file that was to go elsewhere.
    pub fn forget_stray(&self, rel: &Path) {
        lock(&self.kept.strays).remove(rel);
    }
}

/// A result that waits to be written, until dropped.
#[derive(Debug)]
pub struct Unplaced {
    folder: Arc<Folder>,
}

impl Drop for Unplaced {
    fn drop(&mut self) {
        self.folder.kept.unplaced.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A temp file's name, registered until this is dropped.
#[derive(Debug)]
pub struct TempClaim {
    folder: Arc<Folder>,
    name: OsString,
}

impl TempClaim {
    /// The name.
    pub fn name(&self) -> &std::ffi::OsStr {
        &self.name
    }

    /// Removes what a crash left at the name.
    pub fn sweep(&self, dir: &Dir, uid: u32) -> io::Result<bool> {
        sweep(dir, &self.name, uid)
    }
}

/// Removes a temp file if it is of this user.
fn sweep(dir: &Dir, name: &std::ffi::OsStr, uid: u32) -> io::Result<bool> {
    debug_assert!(name.as_encoded_bytes().starts_with(sidecar::TEMP_PREFIX.as_bytes()));
    // A second link is what a crash between link and unlink leaves; this name goes, the other stays.
    let ours = dir.file(name)?.is_some_and(|seen| seen.uid == uid);
    if ours {
        dir.unlink(name)?;
        crash::point("temp.swept");
    }
    Ok(ours)
}

impl Drop for TempClaim {
    fn drop(&mut self) {
        lock(&self.folder.kept.temps).remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Environment};

    #[test]
    fn who_waits_for_the_first_look_at_a_folder_that_was_replaced_does_not_wait_for_ever() {
        let text = "[server]\nuri = \"http://127.0.0.1\"\napi_key_file = \"k\"\n[pipelines.p]\nfile = \"p.pipe\"\n\
                    [[watch]]\nname = \"in\"\npath = \"/in\"\npipeline = \"p\"\n";
        let config = Config::parse(text, Path::new("/etc/x.toml"), &Environment::default()).unwrap();
        let (earlier, _words) = Folder::new(config.watches[0].clone());
        let (later, _words) = earlier.renewed(config.watches[0].clone());
        assert!(earlier.is_retired() && !later.is_retired());
        assert!(matches!(&*earlier.availability().borrow(), Availability::Unavailable(_)));
        assert!(matches!(&*later.availability().borrow(), Availability::Starting));
    }
}
