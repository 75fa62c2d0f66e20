//! A tree of many small files, and a journal that has finished them all.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rocketride_ingest::clock::unix_millis;
use rocketride_ingest::fs::{Look, Root};
use rocketride_ingest::job::{Event, FileKey, WatchId};
use rocketride_ingest::journal::Journal;

use super::Host;

/// Events that go to the journal at once.
const GROUP: usize = 5000;

/// So many files in so many folders.
#[derive(Debug, Clone, Copy)]
pub struct Tree {
    pub files: usize,
    pub folders: usize,
}

impl Tree {
    /// Relative to the inbox.
    pub fn name(self, n: usize) -> PathBuf {
        format!("{:05}/file-{n:07}.txt", n * self.folders / self.files).into()
    }

    /// Makes the files in the inbox.
    pub fn make(self, host: &Host) {
        for folder in 0..self.folders {
            fs::create_dir_all(host.path(format!("in/{folder:05}"))).unwrap();
        }
        let inbox = host.path("in");
        for n in 0..self.files {
            fs::write(inbox.join(self.name(n)), format!("content of {n}")).unwrap();
        }
    }

    /// Makes a journal that has delivered all of them; without results, and without a daemon.
    pub fn finish(self, host: &Host) {
        let root = Root::open(&host.path("in")).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (journal, _) = Journal::open(&host.path("state")).unwrap();
        runtime.block_on(async {
            let watch = WatchId::of("in");
            journal.recover(&[(watch, "in".to_owned())], unix_millis()).await.unwrap();
            for first in (0..self.files).step_by(GROUP) {
                let mut events = Vec::new();
                for n in first..self.files.min(first + GROUP) {
                    let rel = self.name(n);
                    let Look::File(seen) = root.look(&rel) else { panic!("{} is not there", rel.display()) };
                    let (key, at) = (FileKey::new(watch, &rel), unix_millis());
                    let sidecar = format!("{}.result.json", rel.file_name().unwrap().display());
                    for event in [
                        Event::Admit { generation: seen.generation, at },
                        Event::Claim { at },
                        Event::Delivered { sha256: [7; 32], sidecar, post_action: false, warning: None },
                    ] {
                        events.push((key, rel.clone(), event));
                    }
                }
                assert!(journal.apply_all(events).await.unwrap().iter().all(Result::is_ok));
            }
            journal.close().await;
        });
    }
}

/// How long one thread takes to list all folders beneath `top` and to look at every file that is an input: what no scan
/// can do without.
pub fn bare_walk(top: &Path) -> (u64, Duration) {
    let (began, mut files) = (Instant::now(), 0);
    for entry in walkdir::WalkDir::new(top) {
        let entry = entry.unwrap();
        if entry.file_type().is_file() && !entry.file_name().as_encoded_bytes().ends_with(b".result.json") {
            assert!(entry.metadata().unwrap().ino() > 0);
            files += 1;
        }
    }
    (files, began.elapsed())
}
