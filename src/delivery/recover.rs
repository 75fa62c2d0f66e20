//! Files that a crash left under a hidden name, and that no record knows: their journal was thrown away.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::after::{self, Delivered, Recovery};
use super::blocking;
use super::claimed::Tools;
use crate::clock::unix_millis;
use crate::folder::Folder;
use crate::fs::Root;
use crate::job::{Event, FileKey, JobState};
use crate::show::Shown;

/// How often the end of the first scan, which finds them, is looked for.
const SCAN_CHECK: Duration = Duration::from_millis(500);

/// Has the post-actions of one watch finished or undone that no record knows, once the first scan has found them.
pub async fn hidden_files(folder: Arc<Folder>, tools: Arc<Tools>) {
    while !folder.is_scanned() {
        tokio::time::sleep(SCAN_CHECK).await;
    }
    let watch = &folder.watch;
    while let Some(hidden) = folder.next_orphan() {
        let Some(root) = folder.root() else {
            tokio::time::sleep(SCAN_CHECK).await;
            continue;
        };
        let (owner, recovering, path, at) = (folder.clone(), tools.clone(), hidden.clone(), root.clone());
        let found = blocking(move || {
            let is_known = |rel: &Path| match recovering.journal.get(FileKey::new(owner.watch.id, rel)) {
                Ok(job) => job.is_some_and(|job| job.state == JobState::Delivered),
                // What cannot be asked is left alone.
                Err(_) => true,
            };
            after::recover(&owner, &at, &path, &recovering.identity, is_known)
        });
        match found.await {
            Ok(Recovery::NotOurs) => {}
            Ok(Recovery::Begun(rel, delivered)) => go_on(&folder, &tools, root, &rel, delivered).await,
            Ok(Recovery::Unknown) => tracing::warn!(
                watch = %watch.name, path = %Shown(&hidden),
                "a file in the middle of a post-action that nothing is known about; it is left as it is"
            ),
            Err(error) => {
                tracing::warn!(watch = %watch.name, path = %Shown(&hidden), %error, "cannot look at a post-action");
            }
        }
        // Only now: a single pass does not end before.
        folder.orphan_done(&hidden);
    }
}

/// Tells the journal that the file was delivered, so that the dispatcher finishes the post-action as any other, through
/// further crashes too. Where the journal has something else at this path by now, it is finished here and now.
async fn go_on(folder: &Arc<Folder>, tools: &Tools, root: Arc<Root>, rel: &Path, delivered: Delivered) {
    let watch = &folder.watch;
    let adopt = Event::Adopt {
        generation: delivered.generation,
        sha256: delivered.sha256,
        sidecar: delivered.result.to_string_lossy().into_owned(),
        post_action: true,
        at: unix_millis(),
    };
    let Err(told) = tools.journal.apply(FileKey::new(watch.id, rel), rel, adopt).await else {
        tracing::info!(
            watch = %watch.name, path = %Shown(rel),
            "going on with what an earlier run had begun to do with this delivered file"
        );
        return;
    };
    let (owner, path) = (folder.clone(), rel.to_owned());
    match blocking(move || after::finish(&owner, &root, &path, &delivered)).await {
        Ok(outcome) => tracing::info!(
            watch = %watch.name, path = %Shown(rel), ?outcome, %told,
            "finished what an earlier run had begun to do with this delivered file"
        ),
        Err(error) => {
            tracing::warn!(watch = %watch.name, path = %Shown(rel), %error, "cannot finish a post-action");
        }
    }
}
