//! How large the journal gets: file after file comes, is delivered, goes and is forgotten.
//!
//! Prints its size on disk along the way: flat once so many absent records are kept as the bound allows, or it grows for
//! ever.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Instant;

use rocketride_ingest::job::{Event, FileKey, Generation, WatchId};
use rocketride_ingest::journal::Journal;

use crate::Verdict;
use crate::common::{number, scratch};

const GROUP: usize = 512;
const POINTS: usize = 20;
/// By how much it may grow from half-way to the end.
const GROWTH_PERCENT: u64 = 25;

pub fn run(args: &[String]) -> Verdict {
    tokio::runtime::Runtime::new().unwrap().block_on(grow(number(args, 0, 1_000_000), number(args, 1, 20_000)))
}

async fn grow(files: usize, kept: usize) -> Verdict {
    let dir = scratch();
    let state = dir.path().to_owned();
    let (journal, _) = tokio::task::spawn_blocking(move || Journal::open(&state)).await.unwrap().unwrap();
    let watch = WatchId::of("inbox");
    let mut absent: VecDeque<FileKey> = VecDeque::new();
    let mut sizes = Vec::new();
    let began = Instant::now();
    println!("{:>10} {:>10} {:>12} {:>10}", "files", "records", "bytes", "seconds");
    for first in (0..files).step_by(GROUP) {
        let names: Vec<_> = (first..files.min(first + GROUP)).map(|n| PathBuf::from(format!("2026/{n}.pdf"))).collect();
        let all = |event: Event| -> Vec<_> {
            names.iter().map(|path| (FileKey::new(watch, path), path.clone(), event.clone())).collect()
        };
        let generation = Generation { ino: Some(first as u64), size: 4096, mtime_ns: 1, ctime_ns: Some(1) };
        let at = first as u64 + 1;
        let sidecar = "n.pdf.result.json".to_owned();
        for event in [
            Event::Admit { generation, at },
            Event::Claim { at },
            Event::Delivered { sha256: [7; 32], sidecar, post_action: true, warning: None },
            Event::Finished { warning: None, gone: true },
        ] {
            assert!(journal.apply_all(all(event)).await.unwrap().iter().all(Result::is_ok));
        }
        absent.extend(names.iter().map(|path| FileKey::new(watch, path)));
        let over = absent.len().saturating_sub(kept);
        let forgotten: Vec<_> = absent.drain(..over).collect();
        journal.prune(&forgotten).await.unwrap();
        let done = first + names.len();
        if done * POINTS / files != first * POINTS / files {
            let bytes = journal.size_on_disk().unwrap();
            sizes.push(bytes);
            println!("{done:>10} {:>10} {bytes:>12} {:>10.1}", absent.len(), began.elapsed().as_secs_f64());
        }
    }
    assert!(journal.counters(watch).balanced());
    journal.close().await;
    let (half, last) = (sizes.get(sizes.len() / 2).copied().unwrap_or(0), sizes.last().copied().unwrap_or(0));
    if files > 4 * kept && last > half + half * GROWTH_PERCENT / 100 {
        return Err(format!("half-way the journal had {half} bytes, and at the end {last}"));
    }
    Ok(())
}
