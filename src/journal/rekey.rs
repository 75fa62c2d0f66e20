//! The move of an earlier version's records to the keys of this one, once, at the opening.
//!
//! It must not change what a record says, nor the ledgers. It may be cut off between any two of its batches: a record is at
//! one key or at the other, the next opening goes on, and only the row of the journal itself, written last, ends it.

use super::check::{Content, Fault};
use super::layout::{self, Key};
use super::record::{self, Meta};
use super::store::{Store, read_record};
use super::view::sum;
use crate::job::FileKey;

/// Records of one batch.
const STEP: usize = 512;

/// Moves every record to its key. Each batch is durable before the next: sled may write over the room of rows that were
/// removed, and until then a power cut must find them at their former keys.
pub(super) fn rekey(store: &Store, content: &Content) -> Result<(), Fault> {
    let tree: &sled::Tree = &store.db;
    let mut from = vec![layout::RECORD];
    loop {
        let mut batch = sled::Batch::default();
        let mut last = None;
        for row in tree.range(from.clone()..).take(STEP) {
            let (key, first) = row?;
            let Some(Key::Record(old)) = Key::parse(&key) else { break };
            let (job, further) = read_record(tree, old, &first)?;
            last = Some(key);
            let new = FileKey::new(old.watch, &job.path);
            if new == old {
                continue;
            }
            batch.insert(layout::record(new), first);
            batch.remove(layout::record(old));
            for index in 0..further {
                if let Some(row) = tree.get(layout::continuation(old, index))? {
                    batch.insert(layout::continuation(new, index), row);
                }
                batch.remove(layout::continuation(old, index));
            }
            if let Some(due) = job.state.due() {
                batch.insert(layout::due(new, due), &[]);
                batch.remove(layout::due(old, due));
            }
        }
        let Some(last) = last else { break };
        tree.apply_batch(batch)?;
        store.make_durable()?;
        // Behind it; a record that was moved there is met again, at its key.
        from = [&last[..], &[0]].concat();
    }
    if let Some(id) = content.id {
        let totals = sum(content.watches.values().map(|watch| &watch.counters));
        tree.insert(layout::META, record::encode_meta(&Meta { id, sequence: content.sequence, totals })?)?;
        store.make_durable()?;
    }
    tracing::info!(records = content.records, "the records of the journal were moved to the keys of this version");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use sha2::{Digest, Sha256};

    use crate::job::{Event, FileKey, Generation, WatchId};
    use crate::journal::open::open_db;
    use crate::journal::{Journal, layout};

    /// The key that earlier versions gave a path.
    fn scattered(key: FileKey, path: &Path) -> FileKey {
        let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
        FileKey { watch: key.watch, path: digest[..16].try_into().unwrap() }
    }

    /// A journal as an earlier version left it, but for those records that were moved before a crash.
    async fn old_journal(state: &Path, paths: &[PathBuf], moved: usize) {
        let (journal, _) = Journal::open(state).unwrap();
        let watch = WatchId::of("in");
        let generation = Generation { ino: Some(1), size: 1, mtime_ns: 1, ctime_ns: None };
        let admit = |path: &PathBuf| (FileKey::new(watch, path), path.clone(), Event::Admit { generation, at: 5 });
        assert!(journal.apply_all(paths.iter().map(admit).collect()).await.unwrap().iter().all(Result::is_ok));
        journal.close().await;
        let db = open_db(&state.join("journal")).unwrap();
        let mut batch = sled::Batch::default();
        let mut relocate = |from: Vec<u8>, to: Vec<u8>| {
            if let Some(row) = db.get(&from).unwrap() {
                batch.insert(to, row);
                batch.remove(from);
            }
        };
        for path in &paths[moved..] {
            let new = FileKey::new(watch, path);
            let old = scattered(new, path);
            relocate(layout::record(new), layout::record(old));
            relocate(layout::due(new, 5), layout::due(old, 5));
            for index in 0..8 {
                relocate(layout::continuation(new, index), layout::continuation(old, index));
            }
        }
        let mut meta = db.get(layout::META).unwrap().unwrap().to_vec();
        meta[0] = 2;
        batch.insert(layout::META, meta);
        db.apply_batch(batch).unwrap();
        db.flush().unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_journal_of_an_earlier_version_is_found_whole_and_so_is_one_whose_move_was_cut_off() {
        let mut paths: Vec<PathBuf> = (0..1500).map(|n| format!("{}/file-{n}", n % 7).into()).collect();
        // Several rows each.
        paths.extend((0..9).map(|n| PathBuf::from("long/".repeat(500) + &n.to_string())));
        for moved in [0, 700] {
            let dir = tempfile::tempdir().unwrap();
            old_journal(dir.path(), &paths, moved).await;
            for opening in 0..2 {
                let (journal, opened) = Journal::open(dir.path()).unwrap();
                assert_eq!((opened.records, opened.quarantined), (1509, None), "opening {opening}");
                for path in &paths {
                    let job = journal.get(FileKey::new(WatchId::of("in"), path)).unwrap();
                    assert_eq!(job.map(|job| job.path).as_ref(), Some(path));
                }
                assert_eq!(journal.due(WatchId::of("in"), 0, 9, 9999).unwrap().len(), paths.len());
                journal.close().await;
            }
        }
    }
}
