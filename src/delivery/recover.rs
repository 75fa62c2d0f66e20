//! Files that a crash left under a hidden name, and that no record knows: their journal was thrown away.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::after::{self, Recovery};
use super::blocking;
use super::claimed::Tools;
use crate::folder::Folder;
use crate::job::{FileKey, JobState};
use crate::show::Shown;

/// How often the end of the first scan, which finds them, is looked for.
const SCAN_CHECK: Duration = Duration::from_millis(500);

/// Finishes or undoes the post-actions of one watch that no record knows, once the first scan has found them.
pub async fn hidden_files(folder: Arc<Folder>, tools: Arc<Tools>) {
    while !folder.is_scanned() {
        tokio::time::sleep(SCAN_CHECK).await;
    }
    let watch = &folder.watch;
    for hidden in folder.take_orphans() {
        let Some(root) = folder.root() else { return };
        let (owner, tools, path) = (folder.clone(), tools.clone(), hidden.clone());
        let recovered = blocking(move || {
            let is_known = |rel: &Path| match tools.journal.get(FileKey::new(owner.watch.id, rel)) {
                Ok(job) => job.is_some_and(|job| job.state == JobState::Delivered),
                // What cannot be asked is left alone.
                Err(_) => true,
            };
            after::recover(&owner, &root, &path, &tools.identity, is_known)
        });
        match recovered.await {
            Ok(Recovery::NotOurs) => {}
            Ok(Recovery::Finished(input, outcome)) => tracing::info!(
                watch = %watch.name, path = %Shown(&hidden.with_file_name(input)), ?outcome,
                "finished what an earlier run had begun to do with this delivered file"
            ),
            Ok(Recovery::Unknown) => tracing::warn!(
                watch = %watch.name, path = %Shown(&hidden),
                "a file in the middle of a post-action that nothing is known about is left as it is: give it a name of its own to have it sent, or remove it"
            ),
            Err(error) => {
                tracing::warn!(watch = %watch.name, path = %Shown(&hidden), %error, "cannot finish a post-action");
            }
        }
    }
}
