//! Jobs whose result waits in the spool: it is placed once its folder can be written, and nothing is sent for it again.
//!
//! The order is the promise, here too: the result is durable in the spool before the journal says so, and it leaves the
//! spool only after the journal has said that it is durable at its own place. The dispatcher paces the tries by the hold
//! of the watch, one at a time.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::blocking;
use super::claimed::{Claimed, Tools, short};
use super::result::{Input, Temp};
use super::spool::MAX_FILES;
use super::verdict::{self, Fault};
use crate::crash;
use crate::folder::{Availability, Folder};
use crate::fs::{Dir, Look, Seen, base_name};
use crate::job::{ContentHash, Event, FileKey, Job, JobState};
use crate::journal::Failure;
use crate::show::Shown;
use crate::sidecar::{self, Kind, Place, Whole};

/// How often the end of the first scans is looked for, which adopt what waits in the spool.
const SCAN_CHECK: Duration = Duration::from_millis(500);

/// What a try to place a spooled result came to.
enum Try {
    /// It stands there, under this name and with this warning.
    Placed { name: OsString, warning: Option<String>, is_absent: bool },
    /// Not now, and why.
    Refused(String),
    /// The folder is gone, and with it the place of the result.
    Gone,
    /// The spool does not have it any more, and it does not stand at its place either.
    Lost,
}

impl Claimed {
    /// Makes a result durable in the spool; the error says why it cannot be.
    pub(super) async fn spool(&self, content: &Arc<Vec<u8>>) -> io::Result<()> {
        let (tools, id, content) = (self.tools.clone(), self.object_id(), content.clone());
        blocking(move || tools.spool.put(id, &content)).await
    }

    /// Records that the result waits in the spool, because its folder refused it; the watch is held.
    pub(super) async fn spooled(&self, sha256: ContentHash, why: &str) -> Result<(), Failure> {
        let error = short(format!("the result waits in the spool: {why}"));
        self.apply(Event::Spool { sha256, error }).await?;
        crash::point("spool.recorded");
        let (watch, path) = (&self.folder.watch.name, Shown(&self.job.path));
        tracing::error!(
            %watch, %path, error = why, result = %Shown(&self.tools.spool.path_of(self.object_id())),
            "delivered, but the result cannot be written; it waits in the spool until it can, and nothing new is sent \
             meanwhile"
        );
        self.hold(&format!("cannot write the result of {path}: {why}"));
        Ok(())
    }

    /// Records that the result of an earlier attempt was found in the spool; the dispatcher has it placed.
    pub(super) async fn found_spooled(&self, sha256: ContentHash) -> Result<(), Failure> {
        tracing::info!(
            watch = %self.folder.watch.name, path = %Shown(&self.job.path),
            "the result of an earlier attempt waits in the spool; not sent again"
        );
        let error = "the result waits in the spool".to_owned();
        self.apply(Event::Spool { sha256, error }).await.map(drop)
    }

    /// Tries to place the result of a spooled job. While its folder refuses, the watch is held.
    pub async fn place_spooled(&self) -> Result<(), Failure> {
        let claimed = self.clone();
        let (watch, path) = (&self.folder.watch.name, Shown(&self.job.path));
        let tried = blocking(move || claimed.try_place_spooled()).await;
        let spool_file = self.tools.spool.path_of(self.object_id());
        match tried {
            Try::Placed { name, warning, is_absent } => {
                if self.folder.release() {
                    tracing::info!(%watch, "the watch goes on");
                }
                tracing::info!(
                    %watch, %path, pipeline = %self.folder.watch.pipeline, attempts = self.job.attempts,
                    result = %Shown(name.as_ref()), warning, "delivered: the result was placed from the spool"
                );
                let sha256 = self.job.sha256.unwrap_or_default();
                self.record_placed(sha256, &name, warning, is_absent).await.map(drop)
            }
            Try::Refused(error) => {
                self.hold(&format!("the result of {path} waits in the spool: {error}"));
                Ok(())
            }
            Try::Gone => {
                tracing::error!(
                    %watch, %path, result = %Shown(&spool_file),
                    "delivered, but the file is gone with its folder: its result has no place, and is kept in the spool"
                );
                let warning = "delivered, but the folder is gone: the result is kept in the spool".to_owned();
                self.apply(Event::Finished { warning: Some(warning), gone: true }).await.map(drop)
            }
            Try::Lost => {
                tracing::error!(
                    %watch, %path, result = %Shown(&spool_file),
                    "delivered, but its result was removed from the spool, or is not what was put there; to have the \
                     file sent again, touch it"
                );
                let warning = "delivered, but the result was lost from the spool".to_owned();
                self.apply(Event::Finished { warning: Some(warning), gone: false }).await.map(drop)
            }
        }
    }

    fn try_place_spooled(&self) -> Try {
        let (rel, identity, id) = (&self.job.path, &self.tools.identity, self.object_id());
        let whole = match self.tools.spool.read(id) {
            Ok(whole) => whole.filter(|whole| Some(whole.sha256) == self.job.sha256),
            Err(error) => return Try::Refused(format!("cannot read the spool: {error}")),
        };
        // It may take days: the folder that is written must still be the one that is watched.
        if let Err(error) = self.root.verify() {
            return Try::Refused(error.to_string());
        }
        // Nor may it be another one by now than the file was in: a post-action would find the file without its result.
        if !self.folder.can_tell(&self.job) {
            let why =
                "another folder than the file was in stands at the watch's path now; put that one back (mount it)";
            return Try::Refused(why.into());
        }
        let refused = |error: io::Error| {
            if error.kind() == io::ErrorKind::NotFound
                && !self.root.results_are_apart()
                && matches!(self.root.look(rel), Look::Absent)
            {
                Try::Gone
            } else {
                Try::Refused(error.to_string())
            }
        };
        // Results that are put elsewhere have a place also when the folder of their input is gone.
        let dir = match self.root.parent(rel) {
            Ok(dir) => Some(Arc::new(dir)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return refused(error),
        };
        let results = match self.root.make_results(rel, dir.as_ref()) {
            Ok(results) => results,
            Err(error) => return refused(error),
        };
        let placed = |name, warning| Try::Placed { name, warning, is_absent: self.is_absent(None) };
        let Some(whole) = whole else {
            // A crash may have come between the placing and the record of it, and somebody have emptied the spool.
            return match sidecar::find(&results, base_name(rel), Kind::Result, identity) {
                Ok(Place::Ours(ours)) if ours.sha256 == self.job.sha256 => match results.sync() {
                    Ok(()) => placed(ours.name, None),
                    Err(error) => Try::Refused(error.to_string()),
                },
                Ok(_) => Try::Lost,
                Err(error) => Try::Refused(error.to_string()),
            };
        };
        let place = || -> io::Result<OsString> {
            let seen = dir.as_ref().map_or(Ok(None), |dir| dir.file(base_name(rel)))?;
            // How readable an input was that is not there any more is not known.
            let seen = seen.filter(|seen| is_sent(seen, &self.job));
            let input = dir.as_ref().zip(seen.as_ref()).map(|(dir, seen)| Input::Seen(dir, base_name(rel), seen));
            let temp = Temp::create(&self.folder, &results, id, input, identity.uid)?;
            temp.place(&whole.content, base_name(rel), Kind::Result, identity)
        };
        match place() {
            Ok(name) => {
                self.remove_error_file(&results);
                placed(name, whole.warning)
            }
            Err(error) => refused(error),
        }
    }

    /// The hash of the content, if the spool has the result of this very file. Blocks.
    pub(super) fn find_spooled(&self, dir: &Dir, file: &File, seen: &Seen) -> Result<Option<ContentHash>, Fault> {
        let id = self.object_id();
        let of_spool = |error| verdict::of_file("cannot read the spool", &error);
        if !self.tools.spool.has(id) {
            return Ok(None);
        }
        let Some(whole) = self.tools.spool.read(id).map_err(of_spool)? else { return Ok(None) };
        if whole.ours.generation == seen.generation {
            return Ok(Some(whole.sha256));
        }
        if whole.ours.generation.size != seen.generation.size {
            return Ok(None);
        }
        let of_file = |error| verdict::of_file("cannot read the file", &error);
        let hash = file.try_clone().and_then(sidecar::hash_reader).map_err(of_file)?;
        io::Seek::rewind(&mut &*file).map_err(of_file)?;
        match dir.seen(file).map_err(of_file)? {
            Some(now) if now.generation == seen.generation => Ok((hash == whole.sha256).then_some(hash)),
            _ => Err(Fault::Changed("the file changed while it was being read".into())),
        }
    }

    /// Removes what the spool has of a file whose result stands at its place, as the journal knows.
    pub(super) async fn clear_spool(&self) {
        let (tools, id) = (self.tools.clone(), self.object_id());
        if !tools.spool.has(id) {
            return;
        }
        if let Err(error) = blocking(move || tools.spool.remove(id)).await {
            let path = self.tools.spool.path_of(id);
            tracing::warn!(path = %Shown(&path), %error, "cannot remove a result from the spool that stands at its place");
        }
    }
}

/// Whether the input is the very file that was sent; a chmod, which is its owner's will, may have come in between.
fn is_sent(seen: &Seen, job: &Job) -> bool {
    let (now, sent) = (&seen.generation, &job.generation);
    (now.ino, now.size, now.mtime_ns) == (sent.ino, sent.size, sent.mtime_ns)
}

/// Results in the spool that no file waits for.
#[derive(Debug, Default)]
struct Left {
    /// Their input is gone, or another one came to its place.
    orphaned: u64,
    /// Their watch is not in the configuration.
    unwatched: u64,
    /// Not to be trusted: not ours, or not what we wrote.
    strange: u64,
}

/// Says once, after the first scan of every folder, what the spool holds that no file waits for. It is kept.
///
/// What a crash left there although its delivery is recorded is removed.
pub async fn review(folders: Vec<Arc<Folder>>, tools: Arc<Tools>) {
    if tools.spool.ids().is_empty() && tools.spool.strange() == 0 {
        return;
    }
    while folders.iter().any(|folder| match &*folder.availability().borrow() {
        Availability::Starting => true,
        Availability::Open(_) => !folder.is_scanned() && !folder.is_retired(),
        Availability::Unavailable(_) => false,
    }) {
        tokio::time::sleep(SCAN_CHECK).await;
    }
    let reviewed = blocking({
        let tools = tools.clone();
        move || sort_out(&folders, &tools)
    });
    match reviewed.await {
        Ok(Left { orphaned: 0, unwatched: 0, strange: 0 }) => {}
        Ok(Left { orphaned, unwatched, strange }) => tracing::warn!(
            path = %Shown(tools.spool.path()), orphaned, unwatched, strange,
            "the spool holds files that nothing waits for (results whose input is gone, results of watches that are not \
             configured, files of others); they are kept: move or remove them by hand"
        ),
        Err(error) => tracing::warn!(path = %Shown(tools.spool.path()), %error, "cannot look through the spool"),
    }
}

fn sort_out(folders: &[Arc<Folder>], tools: &Tools) -> io::Result<Left> {
    let wanted = wanted(folders, tools).map_err(io::Error::other)?;
    let mut left = Left { strange: tools.spool.strange() as u64, ..Left::default() };
    for id in tools.spool.ids() {
        if wanted.contains(&id) {
            continue;
        }
        let Some(whole) = tools.spool.read(id)? else {
            // One that went meanwhile is none.
            left.strange += u64::from(tools.spool.has(id));
            continue;
        };
        let Some(folder) = folders.iter().find(|folder| folder.watch.name == whole.watch) else {
            left.unwatched += 1;
            continue;
        };
        // A name that is not UTF-8 is written with replacements: then the object id tells that it is not this one.
        let rel = whole.filepath.strip_prefix(&folder.watch.path).map(Path::to_owned);
        let rel = rel.ok().filter(|rel| tools.identity.object_id(&folder.watch.name, rel) == id);
        match rel.map(|rel| fate(folder, tools, &rel, &whole)).transpose()? {
            Some(Fate::Waited) => {}
            Some(Fate::Delivered) => tools.spool.remove(id)?,
            Some(Fate::Orphaned) | None => left.orphaned += 1,
        }
    }
    Ok(left)
}

/// The objects whose jobs are spooled.
fn wanted(folders: &[Arc<Folder>], tools: &Tools) -> Result<HashSet<Uuid>, Failure> {
    let mut wanted = HashSet::new();
    for Folder { watch, .. } in folders.iter().map(Arc::as_ref) {
        for (key, _) in tools.journal.due(watch.id, 0, 0, 2 * MAX_FILES)? {
            if let Some(job) = tools.journal.get(key)?.filter(|job| job.state == JobState::Spooled) {
                wanted.insert(tools.identity.object_id(&watch.name, &job.path));
            }
        }
    }
    Ok(wanted)
}

/// What a result in the spool is there for.
enum Fate {
    /// Its file may still ask for it.
    Waited,
    /// It stands at its place.
    Delivered,
    /// Nobody asks for it.
    Orphaned,
}

fn fate(folder: &Folder, tools: &Tools, rel: &Path, whole: &Whole) -> io::Result<Fate> {
    let job = tools.journal.get(FileKey::new(folder.watch.id, rel)).map_err(io::Error::other)?;
    let is_recorded = |job: &Job| {
        matches!(job.state, JobState::Delivered | JobState::Done)
            && job.sidecar.is_some()
            && job.sha256 == Some(whole.sha256)
    };
    if job.as_ref().is_some_and(is_recorded) {
        return Ok(Fate::Delivered);
    }
    let Some(root) = folder.root() else { return Ok(Fate::Waited) };
    Ok(match root.look(rel) {
        Look::File(_) | Look::Unknown(_) => Fate::Waited,
        // It was delivered from another folder than the one that stands there now.
        Look::Absent if job.is_some_and(|job| !folder.can_tell(&job)) => Fate::Waited,
        Look::Directory | Look::Special | Look::Absent => Fate::Orphaned,
    })
}
