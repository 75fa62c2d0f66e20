//! What happens between the steps of one upload: the file looked at once more, bytes waited for, hashed, counted.
//!
//! `close` commits, so everything the file could do meanwhile is looked at right before it, by descriptor and by name.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::claimed::Claimed;
use super::limits::take_bytes;
use super::slots::PATIENCE;
use super::verdict::{self, Fault};
use super::worker::{BUFFER_BYTES, Report, Worker};
use crate::board::{Phase, Posted};
use crate::client::Error;
use crate::client::upload::Steps;
use crate::crash;
use crate::fs::{Dir, Seen, base_name};
use crate::lease::Writers;
use crate::meters::meters;

/// A file that was looked at so recently is not looked at once more before it is sent.
const RECENT: Duration = Duration::from_millis(100);

/// A file, by descriptor and by name.
#[derive(Clone)]
pub(super) struct FileAtPlace {
    /// Its folder.
    pub(super) dir: Arc<Dir>,
    /// The open file.
    pub(super) file: Arc<File>,
    /// As it was opened.
    pub(super) seen: Seen,
}

impl FileAtPlace {
    /// Fails unless both the descriptor and the name still show what was opened, and nobody is writing to it. Blocks.
    fn unchanged(&self, claimed: &Claimed) -> Result<(), Fault> {
        let changed = |why: &str| Err(Fault::Changed(format!("the file {why} while it was being sent")));
        let failed = |error: io::Error| verdict::of_file("the file cannot be looked at any more", &error);
        let rel = &claimed.job.path;
        // Asked before the times are compared: what a writer did who is gone by now shows there.
        if self.dir.writers(&self.file) == Writers::Some {
            return changed("was opened for writing");
        }
        match self.dir.seen(&self.file).map_err(failed)? {
            Some(now) if now.generation == self.seen.generation => {}
            _ => return changed("changed"),
        }
        match self.dir.file(base_name(rel)).map_err(failed)? {
            Some(now) if now.generation == self.seen.generation => {}
            Some(_) => return changed("was replaced"),
            None => return changed("was removed"),
        }
        // The descriptor of a folder follows it when it is renamed: is the path still this folder's?
        let parent = claimed.root.parent(rel).and_then(|dir| dir.id());
        match (parent, self.dir.id()) {
            (Ok(now), Ok(opened)) if now == opened => Ok(()),
            _ => changed("went elsewhere with its folder"),
        }
    }
}

/// What happens between the steps of the upload.
pub(super) struct Checks<'a> {
    /// Who uploads.
    pub(super) worker: &'a Worker,
    /// What.
    pub(super) file: FileAtPlace,
    /// When it was looked at last.
    pub(super) looked: Instant,
    /// Of what was read so far.
    pub(super) hasher: Sha256,
    /// Why the upload was stopped here.
    pub(super) fault: Option<Fault>,
    /// Set once the pipe was granted.
    pub(super) granted: Arc<AtomicBool>,
    /// Bytes of the largest write.
    pub(super) largest: usize,
    /// The byte budget was taken before the open: the file goes in one write.
    pub(super) prepaid: bool,
    /// What others see of it.
    pub(super) flight: &'a Posted,
    /// Its share of all buffers.
    pub(super) buffer: Option<OwnedSemaphorePermit>,
}

impl Checks<'_> {
    /// Waits until the limits of bytes let so many go.
    async fn take_bytes(&self, bytes: u64) {
        let began = Instant::now();
        take_bytes(&self.worker.byte_limits, bytes).await;
        if !self.worker.byte_limits.is_empty() {
            meters().throttled(&self.worker.line.config.name, "bytes", began.elapsed());
        }
    }

    /// Fails if the file is not what it was. What changes in a moment is seen before the close.
    async fn recently_unchanged(&mut self) -> Result<(), Error> {
        if self.looked.elapsed() < RECENT { Ok(()) } else { self.unchanged().await }
    }

    async fn unchanged(&mut self) -> Result<(), Error> {
        self.looked = Instant::now();
        let (file, claimed) = (self.file.clone(), self.worker.claimed.clone());
        self.worker.claimed.first_at_desk(move || file.unchanged(&claimed)).await.map_err(|fault| {
            self.fault = Some(fault);
            Error::Abandoned("the file is not to be committed as it is".into())
        })
    }
}

impl Steps for Checks<'_> {
    async fn opening(&mut self) -> Result<(), Error> {
        if self.prepaid {
            self.take_bytes(self.largest as u64).await;
        }
        // Its turn may have taken a while, and a pipe that is not used is lost for longer. A disk that does not answer must not
        // look like an open that is stuck, beside which nothing is sent.
        if let Ok(unchanged) = timeout(PATIENCE / 2, self.recently_unchanged()).await {
            return unchanged;
        }
        self.fault = Some(Fault::Host("the disk of the file does not answer".into()));
        Err(Error::Abandoned("the file cannot be looked at now".into()))
    }

    async fn granted(&mut self, _waited: Duration) -> Result<(), Error> {
        self.granted.store(true, Ordering::Release);
        self.flight.enter(Phase::Sending);
        let _ = self.worker.reports.send(Report::Granted(self.worker.id));
        self.worker.line.granted(self.worker.session.number);
        let share = u32::try_from(self.largest.min(BUFFER_BYTES)).unwrap_or(u32::MAX);
        crash::point("upload.granted");
        // The semaphore is never closed.
        self.buffer = self.worker.claimed.tools.buffers.clone().acquire_many_owned(share).await.ok();
        // The grant may have taken hours.
        self.recently_unchanged().await
    }

    fn read(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    async fn before_write(&mut self, chunk: &[u8]) -> Result<(), Error> {
        if !self.prepaid {
            self.take_bytes(chunk.len() as u64).await;
        }
        Ok(())
    }

    fn written(&mut self, total: u64) {
        let more = self.flight.set_sent(total);
        meters().uploaded_bytes.with_label_values(&[&self.worker.line.config.name]).inc_by(more);
    }

    async fn before_close(&mut self, _bytes_sent: u64) -> Result<(), Error> {
        // Everything is acknowledged: what follows may take hours and needs no buffer.
        self.buffer = None;
        self.unchanged().await?;
        self.flight.enter(Phase::Processing);
        crash::point("upload.closing");
        Ok(())
    }
}
