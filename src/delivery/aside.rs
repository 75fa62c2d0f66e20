//! A dead letter goes to the folder that `on_failure` names, and its error file with it, if that stands beside it.
//!
//! The order: the error file is durable, the journal says that the file was given up, then it moves, by the same careful
//! steps as what was delivered. A crash before the last step leaves it given up in its place; the next start, whose first
//! scan finds it there, moves it. What somebody wrote to meanwhile stays: it is another file, and tried again.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::after::{self, Delivered, Outcome};
use super::blocking;
use super::claimed::Claimed;
use crate::config::OnFailure;
use crate::fs::{Look, base_name};
use crate::job::{Event, Generation, JobState};
use crate::journal::Failure;
use crate::show::Shown;
use crate::sidecar::{self, Kind, Place};

/// What a try came to.
struct Tried {
    outcome: io::Result<Outcome>,
    /// What the file is known by now if it stands in its place again: a rename and its reverse move the change time, and
    /// that must not look like somebody who wants it tried again.
    touched: Option<Generation>,
}

impl Claimed {
    /// Moves a file that was given up, if that is wanted, and tells the journal that it is gone. True if it is.
    ///
    /// What fails is tried again after each of these pauses, and then left for the next start.
    pub async fn put_aside(mut self, pauses: &[Duration]) -> Result<bool, Failure> {
        let watch = self.folder.watch.clone();
        let OnFailure::Move(target) = &watch.on_failure else { return Ok(false) };
        let mut stopping = self.tools.stopping.clone();
        let mut pauses = pauses.iter();
        loop {
            let claimed = self.clone();
            let Some(Tried { outcome, touched }) = blocking(move || claimed.move_aside()).await? else {
                tracing::debug!(path = %Shown(&self.job.path), "it is tried again, and stays in its place");
                return Ok(false);
            };
            if let Some(generation) = touched
                && let Some(job) = self.apply(Event::SameContent { generation }).await?
            {
                self.job = job;
            }
            let path = Shown(&self.job.path);
            let why = match outcome {
                Ok(Outcome::Gone) => {
                    tracing::info!(watch = %watch.name, %path, target = %Shown(target), "given up, and gone from its place");
                    self.apply(Event::Gone).await?;
                    return Ok(true);
                }
                Ok(Outcome::Kept(why)) => why,
                Err(error) => match pauses.next() {
                    Some(pause) => {
                        tracing::debug!(%path, %error, "the move of this dead letter is tried again");
                        tokio::select! {
                            () = tokio::time::sleep(*pause) => continue,
                            // The next start finds it in its place.
                            _ = stopping.wait_for(|stopping| *stopping) => return Ok(false),
                        }
                    }
                    None => error.to_string(),
                },
            };
            tracing::warn!(watch = %watch.name, %path, why, "given up, but the file was left where it is");
            return Ok(false);
        }
    }

    /// Takes the steps. None if the file is given up no more: since the try before, somebody may have asked for it to be
    /// sent again, or saved it anew.
    fn move_aside(&self) -> Result<Option<Tried>, Failure> {
        let (rel, known) = (&self.job.path, self.job.generation);
        let job = self.tools.journal.get(self.key)?;
        if !job.is_some_and(|job| job.state == JobState::Failed && job.generation == known) {
            return Ok(None);
        }
        let stands = || match self.root.look(rel) {
            Look::File(seen) => Some(seen.generation),
            _ => None,
        };
        let as_known = stands() == Some(known);
        let outcome = self.try_move_aside();
        let same = |now: &Generation| *now != known && Generation { ctime_ns: known.ctime_ns, ..*now } == known;
        Ok(Some(Tried { outcome, touched: stands().filter(|now| as_known && same(now)) }))
    }

    fn try_move_aside(&self) -> io::Result<Outcome> {
        let (rel, root) = (&self.job.path, &self.root);
        let dir = Arc::new(root.parent(rel)?);
        let place = sidecar::find_of(root, rel, Some(&dir), Kind::Error, &self.tools.identity)?;
        // One that was put elsewhere, under an earlier configuration, is not looked for.
        let looked_for = self.job.sidecar.as_ref().is_none_or(|recorded| sidecar::is_in_place(root, rel, recorded));
        if looked_for && matches!(place, Place::Free(_)) && dir.exists(base_name(rel))? {
            return Ok(Outcome::Kept("its error file was removed, so it is tried again".into()));
        }
        let given_up = Delivered {
            kind: Kind::Error,
            generation: self.job.generation,
            sha256: None,
            object_id: self.object_id(),
            result: place.name().to_owned(),
            text: None,
        };
        after::finish(&self.folder, &self.root, &self.job.path, &given_up)
    }
}
