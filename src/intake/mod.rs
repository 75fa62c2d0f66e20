//! Intake: a file on disk becomes a settled candidate in the journal.
//!
//! ```text
//! event | scan | delivery's "it changed" -> path -> select -> look -> settle -> nobody writes -> journal: Pending
//! ```
//!
//! Events are hints: every path takes the same way, whoever named it. One task per watch owns its root, its
//! watches and its table of settling paths; whatever blocks on the disk runs on blocking threads. The table is
//! bounded: a scan waits while it is full, and an event that finds no room becomes a rescan.
//!
//! It knows nothing of pipelines, uploads or results' content.

pub mod admit;
pub mod assess;
pub mod marked;
#[cfg(test)]
mod model;
pub mod overlap;
pub mod pace;
pub mod rounds;
pub mod scan;
pub mod select;
pub mod settle;
mod settled;
#[cfg(test)]
mod testing;
pub mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::timeout;

use self::overlap::{InUse, Roots};
use self::rounds::Rounds;
use self::scan::{Found, Report, Walker};
use self::select::Selector;
use self::settle::Settling;
use self::watch::{WatchError, Watches};
use crate::blocking::blocking;
use crate::clock::unix_millis;
use crate::config::{Detect, Watch};
use crate::folder::{Availability, Folder, Mounted, Standing, Word, open_root};
use crate::fs::{Root, base_name};
use crate::identity::Identity;
use crate::job::FileKey;
use crate::journal::{Failure, Journal};
use crate::meters::meters;
use crate::show::Shown;
use crate::sidecar;

/// Paths of one watch that may be settling at a time.
const MAX_SETTLING: usize = 10_000;
/// Paths that a walk may be ahead of intake.
const SINK_CAPACITY: usize = 256;
/// Quiet that a file must show where the kernel tells of writers.
const QUIET: Duration = Duration::from_secs(2);
/// Quiet that a file must show whose marker says that it is whole: what its writer does last, a chmod say, is waited for.
const QUIET_MARKED: Duration = Duration::from_millis(200);
/// Quiet that a file must show where it does not.
const QUIET_UNSURE: Duration = Duration::from_secs(10);
/// How often the root is compared with what stands at its path.
const ROOT_CHECK: Duration = Duration::from_secs(2);
/// How long a root may take to be opened or compared.
const ROOT_TIMEOUT: Duration = Duration::from_secs(10);
/// What is said of a root that takes longer.
const DOES_NOT_ANSWER: &str = "its filesystem does not answer";

/// Intake of one watch.
pub struct Intake {
    folder: Arc<Folder>,
    journal: Journal,
    identity: Arc<Identity>,
    selector: Arc<Selector>,
    /// The roots of all watches.
    roots: Arc<Roots>,
    /// What delivery found changed, and what operators ask.
    words: mpsc::Receiver<Word>,
    settling: Settling,
    /// The monotonic clock of the table begins here.
    started: Instant,
    /// The writer check was found missing and said so.
    unsure_said: bool,
    /// A file was found whose marker can never stand there, and it was said so.
    never_said: bool,
}

/// How new files of a root are noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// By the kernel's events, with scans as the safety net.
    Events,
    /// By scans alone, and why.
    Poll(&'static str),
}

impl Backend {
    /// The way that fits a watch on this root.
    pub fn choose(detect: Detect, root: &Root) -> Self {
        match detect {
            Detect::Poll => Self::Poll("the configuration says so"),
            Detect::Auto if root.kind().remote => {
                Self::Poll("a network filesystem raises no events for changes by others")
            }
            Detect::Auto | Detect::Events => Self::Events,
        }
    }

    /// Why it polls, if it does.
    fn polls(self) -> Option<&'static str> {
        match self {
            Self::Events => None,
            Self::Poll(why) => Some(why),
        }
    }

    /// How often the whole root is walked.
    fn interval(self, watch: &Watch) -> Duration {
        match self {
            Self::Events => watch.rescan_interval,
            Self::Poll(_) => watch.poll_interval,
        }
    }
}

impl Intake {
    /// Intake for a folder; `words` is what [`Folder::new`] gave.
    pub fn new(
        folder: Arc<Folder>,
        words: mpsc::Receiver<Word>,
        journal: Journal,
        identity: Arc<Identity>,
        roots: Arc<Roots>,
    ) -> Self {
        let selector = Arc::new(Selector::new(&folder.watch));
        Self {
            folder,
            journal,
            identity,
            selector,
            roots,
            words,
            settling: Settling::new(MAX_SETTLING),
            started: Instant::now(),
            unsure_said: false,
            never_said: false,
        }
    }

    /// Runs until the journal fails; dropping the future ends it at any point without loss.
    pub async fn run(mut self) -> Failure {
        loop {
            let (root, in_use) = self.open_root().await;
            match self.session(root).await {
                Ok(reason) => {
                    tracing::warn!(
                        watch = %self.folder.watch.name, path = %Shown(&self.folder.watch.path), reason,
                        "the watched folder is unavailable; its files are unknown, not gone"
                    );
                    self.folder.set_availability(Availability::Unavailable(reason.into()));
                }
                Err(failure) => return failure,
            }
            drop(in_use);
        }
    }

    /// Waits until the root can be opened.
    async fn open_root(&mut self) -> (Arc<Root>, InUse) {
        let mut said = None;
        loop {
            let (folder, roots) = (self.folder.clone(), self.roots.clone());
            let opened = blocking(move || {
                let watch = &folder.watch;
                let root = folder.with_mounts(open_root(watch)?);
                let top = root.dir(Path::new(""))?;
                let mounted = Mounted { root: top.is_mount()?, results: root.results_are_mounted()? };
                // The folder beneath a mount shows; one that was served before is no stranger.
                let was_mounted = folder.was_mounted();
                if was_mounted.root && !mounted.root && !folder.knows(&root) {
                    return Err(std::io::Error::other("the filesystem that was mounted here is gone"));
                }
                if was_mounted.results && !mounted.results {
                    let why = "the filesystem that was mounted at the results directory is gone: mount it, or restart the daemon";
                    return Err(std::io::Error::other(why));
                }
                root.results_may_be_made()?;
                // A root that cannot be listed cannot be served either.
                drop(top.entries()?);
                let in_use = roots.register(&watch.name, &watch.path)?;
                Ok::<_, std::io::Error>((Arc::new(root), mounted, in_use))
            });
            let mut opened = std::pin::pin!(opened);
            let outcome = if let Ok(outcome) = timeout(ROOT_TIMEOUT, &mut opened).await {
                outcome
            } else {
                self.say_unavailable(&mut said, DOES_NOT_ANSWER);
                opened.await
            };
            match outcome {
                Ok((root, mounted, in_use)) => {
                    self.folder.note_mounts(&root, mounted);
                    if self.folder.opened(&root, unix_millis()) {
                        tracing::warn!(
                            watch = %self.folder.watch.name, path = %Shown(&self.folder.watch.path),
                            "another folder stands at this path than before; what is served is this one, and files of the \
                             one before that are not in it are unknown, not gone, until it is back or the daemon restarts"
                        );
                    }
                    self.folder.set_availability(Availability::Open(root.clone()));
                    return (root, in_use);
                }
                Err(error) => self.say_unavailable(&mut said, &error.to_string()),
            }
            tokio::time::sleep(ROOT_CHECK).await;
        }
    }

    /// The root cannot be had: said once for each reason.
    fn say_unavailable(&self, said: &mut Option<String>, reason: &str) {
        if said.as_deref() != Some(reason) {
            tracing::warn!(
                watch = %self.folder.watch.name, path = %Shown(&self.folder.watch.path), error = reason,
                "the watched folder is unavailable; it is picked up when it can be opened"
            );
        }
        self.folder.set_availability(Availability::Unavailable(reason.into()));
        *said = Some(reason.to_owned());
    }

    /// Serves one opened root until it is not what it was; says why it is not.
    async fn session(&mut self, root: Arc<Root>) -> Result<String, Failure> {
        self.settling.clear();
        let watch = self.folder.watch.clone();
        let (mut backend, watches, mut hints) = self.listen(&root);
        let (sink, mut found) = mpsc::channel(SINK_CAPACITY);
        let mut rounds = Rounds::new(self.walker(&root, watches.clone(), sink), backend.interval(&watch));
        let mut root_check = tokio::time::interval(ROOT_CHECK);
        root_check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let on_the_way = found.len() + rounds.parts() + hints.as_ref().map_or(0, mpsc::Receiver::len);
            self.folder.set_settling(self.settling.len() + on_the_way);
            let look_at = self.settling.next_due().map(|due| self.started + due);
            tokio::select! {
                round = rounds.ended() => {
                    if round.report.no_descriptors {
                        rounds.rescan();
                    }
                    if round.report.exhausted && backend == Backend::Events {
                        backend = self.fall_back(&WatchError::Exhausted);
                        rounds.set_interval(backend.interval(&watch));
                    }
                    if round.whole {
                        // What it found last may still be on its way: that counts as settling before the walk counts as done.
                        self.folder.set_settling(self.settling.len() + found.len());
                        self.walked(&round.report);
                    }
                }
                hint = receive(&mut hints) => match hint {
                    Some(rel) => {
                        if !self.hint(&rel) {
                            rounds.rescan();
                        }
                    }
                    None => hints = None,
                },
                () = lost(watches.as_deref()) => {
                    if rounds.rescan() {
                        tracing::info!(watch = %watch.name, "events were lost; the folder is scanned again");
                    }
                }
                () = self.folder.rescan_asked_for() => rounds.rescan_now(),
                Some(word) = self.words.recv() => match word {
                    Word::Changed(rel) => { self.notice(&rel); }
                    Word::Asked(rel, answer) => {
                        let settling = self.settling.standing(&rel, self.started.elapsed());
                        // Whoever asked may have gone.
                        let _ = answer.send(Standing { settling, next_walk: rounds.until_next() });
                    }
                },
                Some(Found { path, expected }) = found.recv(), if !self.settling.is_full() => {
                    // The first walk is not about events that were missed.
                    if !expected && self.folder.is_scanned() && self.settling.quiet(&path).is_none() {
                        meters().files_found_by_scan.with_label_values(&[&watch.name]).inc();
                    }
                    self.notice(&path);
                }
                () = sleep_until(look_at) => {
                    let looked = match self.settle(&root).await? {
                        Ok(looked) => looked,
                        Err(reason) => return Ok(reason),
                    };
                    for folder in looked.folders {
                        rounds.appeared(folder);
                    }
                    if looked.dropped {
                        rounds.rescan();
                    }
                }
                _ = root_check.tick() => {
                    if let Err(reason) = self.check_root(&root).await {
                        return Ok(reason);
                    }
                }
            }
        }
    }

    /// Whether the root is what it was; if not, why.
    async fn check_root(&self, root: &Arc<Root>) -> Result<(), String> {
        let checked = root.clone();
        let check = move || checked.verify().map_err(|error| (error, checked.is_removed()));
        match timeout(ROOT_TIMEOUT, blocking(check)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err((error, removed))) => {
                if removed.unwrap_or(false) {
                    self.folder.removed();
                }
                Err(error.to_string())
            }
            Err(_) => Err(DOES_NOT_ANSWER.into()),
        }
    }

    /// Begins to listen to the kernel, where that is how this root is watched.
    fn listen(&self, root: &Root) -> (Backend, Option<Arc<Watches>>, Option<mpsc::Receiver<PathBuf>>) {
        let mut backend = Backend::choose(self.folder.watch.detect, root);
        let mut listening = (None, None);
        if backend == Backend::Events {
            match Watches::new(root.path()) {
                Ok((watches, hints)) => listening = (Some(Arc::new(watches)), Some(hints)),
                Err(error) => backend = self.fall_back(&error),
            }
        }
        self.folder.set_polls(backend.polls());
        tracing::info!(
            watch = %self.folder.watch.name, path = %Shown(root.path()), filesystem = %root.kind().name, ?backend,
            "watching"
        );
        (backend, listening.0, listening.1)
    }

    fn walker(&self, root: &Arc<Root>, watches: Option<Arc<Watches>>, sink: mpsc::Sender<Found>) -> Walker {
        Walker {
            folder: self.folder.clone(),
            root: root.clone(),
            selector: self.selector.clone(),
            journal: self.journal.clone(),
            identity: self.identity.clone(),
            watches,
            sink,
        }
    }

    fn fall_back(&self, error: &WatchError) -> Backend {
        tracing::warn!(watch = %self.folder.watch.name, %error, "falling back to polling for this watch");
        let backend = Backend::Poll("watches ran out");
        self.folder.set_polls(backend.polls());
        backend
    }

    fn walked(&self, report: &Report) {
        tracing::debug!(
            watch = %self.folder.watch.name, directories = report.directories, files = report.files,
            found = report.found, unreadable = report.unreadable, unknown = report.unknown, "scan complete"
        );
        if !report.stopped {
            self.folder.set_scanned();
        }
    }

    /// A hint of the kernel. False if there was no room for it.
    fn hint(&mut self, rel: &Path) -> bool {
        if let Some(input) = self.input_behind(rel)
            && self.selector.file(&input).is_ok()
            && !self.notice(&input)
        {
            return false;
        }
        // The path may be a folder: whether it is an input is asked again when it is known to be a file.
        if self.selector.file(rel).is_err() && self.selector.folders(rel).is_err() {
            return true;
        }
        self.notice(rel)
    }

    /// The input that is to be looked at because something happened to a file beside it: its error file was removed, or
    /// its marker appeared.
    fn input_behind(&self, rel: &Path) -> Option<PathBuf> {
        let marked = || self.folder.watch.done_marker.as_ref()?.input_of(base_name(rel));
        sidecar::input_of_error(base_name(rel)).or_else(marked).map(|name| rel.with_file_name(name))
    }

    fn notice(&mut self, rel: &Path) -> bool {
        let changes = match self.journal.get(FileKey::new(self.folder.watch.id, rel)) {
            Ok(Some(job)) => job.changes,
            _ => 0,
        };
        let quiet = settle::doubled(self.quiet(), changes);
        let now = self.started.elapsed();
        self.settling.notice(rel, quiet, now)
    }

    /// The quiet that a file of this watch must show.
    fn quiet(&self) -> Duration {
        let remote = self.folder.root().is_some_and(|root| root.kind().remote);
        let default = match self.folder.watch.done_marker {
            Some(_) => QUIET_MARKED,
            None if remote => QUIET_UNSURE,
            None => QUIET,
        };
        self.folder.watch.settle.unwrap_or(default)
    }
}

async fn receive(hints: &mut Option<mpsc::Receiver<PathBuf>>) -> Option<PathBuf> {
    match hints {
        Some(hints) => hints.recv().await,
        None => std::future::pending().await,
    }
}

async fn lost(watches: Option<&Watches>) {
    match watches {
        Some(watches) => watches.lost().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
