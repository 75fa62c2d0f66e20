//! Files that a crash left on their way to another folder or out of this one.
//!
//! At a hidden name: its journal was thrown away, or the file had been given up. In its place: given up, and not moved yet.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::after::{self, Delivered, Outcome, Recovery};
use super::blocking;
use super::claimed::{Claimed, Tools};
use crate::clock::unix_millis;
use crate::folder::Folder;
use crate::fs::{Root, base_name};
use crate::job::{Event, FileKey, JobState};
use crate::journal::{ApplyError, Failure};
use crate::show::Shown;
use crate::sidecar::{self, HIDDEN_PREFIX};

/// How often the end of the first scan, which finds them, is looked for.
const SCAN_CHECK: Duration = Duration::from_millis(500);

/// Finishes or undoes what was begun with files of one watch, once the first scan has found them. Ends as well when the
/// folder is scanned no more; who has its place then knows what is left.
///
/// Errors: the journal failed; the dispatcher learns of it by itself.
pub async fn strays(folder: Arc<Folder>, tools: Arc<Tools>) -> Result<(), Failure> {
    while !folder.is_scanned() {
        if folder.is_retired() {
            return Ok(());
        }
        tokio::time::sleep(SCAN_CHECK).await;
    }
    while let Some(path) = folder.stray() {
        let Some(root) = folder.root() else {
            if folder.is_retired() {
                return Ok(());
            }
            tokio::time::sleep(SCAN_CHECK).await;
            continue;
        };
        if base_name(&path).as_encoded_bytes().starts_with(HIDDEN_PREFIX.as_bytes()) {
            hidden_file(&folder, &root, &path, &tools).await?;
        } else {
            dead_letter(&folder, root, &path, &tools).await?;
        }
        folder.forget_stray(&path);
    }
    Ok(())
}

/// A file that was given up, and stands in its place, or its error file does, although the watch wants both moved.
async fn dead_letter(folder: &Arc<Folder>, root: Arc<Root>, path: &Path, tools: &Arc<Tools>) -> Result<bool, Failure> {
    let key = FileKey::new(folder.watch.id, path);
    // In another folder than it was in it would be found gone.
    let job = tools.journal.get(key)?.filter(|job| job.state == JobState::Failed && folder.can_tell(job));
    let Some(job) = job else { return Ok(false) };
    Claimed { tools: tools.clone(), folder: folder.clone(), root, key, job }.put_aside(&[]).await
}

async fn hidden_file(folder: &Arc<Folder>, root: &Arc<Root>, hidden: &Path, tools: &Arc<Tools>) -> Result<(), Failure> {
    let (owner, its_root, its_tools, path) = (folder.clone(), root.clone(), tools.clone(), hidden.to_owned());
    let recovered = blocking(move || {
        let is_known = |rel: &Path| match its_tools.journal.get(FileKey::new(owner.watch.id, rel)) {
            Ok(job) => job.is_some_and(|job| job.state == JobState::Delivered),
            // What cannot be asked is left alone.
            Err(_) => true,
        };
        after::recover(&owner, &its_root, &path, &its_tools.identity, is_known)
    });
    let watch = &folder.watch;
    match recovered.await {
        Ok(Recovery::NotOurs) => {}
        Ok(Recovery::Begun(rel, delivered)) => go_on(folder, root, &rel, delivered, tools).await?,
        Ok(Recovery::Unknown) => tracing::warn!(
            watch = %watch.name, path = %Shown(hidden),
            "a file in the middle of a post-action that nothing is known about is left as it is: give it a name of its own to \
              have it sent, or remove it"
        ),
        Err(error) => {
            tracing::warn!(watch = %watch.name, path = %Shown(hidden), %error, "cannot look at a post-action");
        }
    }
    Ok(())
}

/// Tells the journal that the file was delivered, so that the dispatcher finishes the post-action as any other, through
/// further crashes too. A dead letter, and a path at which the journal has something else by now, is finished here and now.
async fn go_on(
    folder: &Arc<Folder>,
    root: &Arc<Root>,
    rel: &Path,
    begun: Delivered,
    tools: &Arc<Tools>,
) -> Result<(), Failure> {
    let watch = &folder.watch;
    if let Some(sha256) = begun.sha256 {
        let adopt = Event::Adopt {
            generation: begun.generation,
            sha256,
            sidecar: sidecar::recorded(root, rel, &begun.result),
            post_action: true,
            at: unix_millis(),
        };
        match tools.journal.apply(FileKey::new(watch.id, rel), rel, adopt).await {
            Ok(_) => {
                tracing::info!(
                    watch = %watch.name, path = %Shown(rel),
                    "going on with what an earlier run had begun to do with this delivered file"
                );
                return Ok(());
            }
            Err(ApplyError::Failed(failure)) => return Err(failure),
            Err(_) => {}
        }
    }
    let (owner, its_root, path) = (folder.clone(), root.clone(), rel.to_owned());
    match blocking(move || after::finish(&owner, &its_root, &path, &begun)).await {
        Ok(outcome) => {
            tracing::info!(
                watch = %watch.name, path = %Shown(rel), ?outcome,
                "finished what an earlier run had begun to do with this file"
            );
            if outcome == Outcome::Gone {
                // If it is a dead letter, the journal does not know yet that it is gone.
                dead_letter(folder, root.clone(), rel, tools).await?;
            }
        }
        Err(error) => {
            tracing::warn!(watch = %watch.name, path = %Shown(rel), %error, "cannot finish a post-action");
        }
    }
    Ok(())
}
