//! What the disk can do at best: small files made durable, in the ways that a daemon could do it.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use super::{millis, own_cpu};

/// Content of a result of ordinary size.
const CONTENT: &[u8] = &[b'r'; 800];

/// Files per second that become durable under their names.
#[derive(Debug, Clone, Copy)]
pub struct DiskRate {
    /// One after the other: write, `fsync`, rename, `fsync` of the folder.
    pub one_by_one: f64,
    /// The same by 8 threads, each for itself.
    pub by_8_threads: f64,
    /// In groups of 64: all written, `fsync` of each by 8 threads, all renamed, one `fsync` of the folder.
    pub in_groups: f64,
    /// Milliseconds of processor time of a file in groups.
    pub in_groups_cpu: f64,
}

/// Measures a directory with so many files each.
pub fn disk_rate(dir: &Path, files: usize) -> DiskRate {
    let (one, eight, groups) = (dir.join("one"), dir.join("eight"), dir.join("groups"));
    for dir in [&one, &eight, &groups] {
        std::fs::create_dir(dir).unwrap();
    }
    let rate = |files: usize, work: &dyn Fn()| {
        let began = Instant::now();
        work();
        files as f64 / began.elapsed().as_secs_f64()
    };
    let few = files / 4;
    let one_by_one = rate(few, &|| (0..few).for_each(|n| place(&one, n)));
    let by_8_threads = rate(files, &|| {
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let dir = &eight;
                scope.spawn(move || (thread..files).step_by(8).for_each(|n| place(dir, n)));
            }
        });
    });
    let before = own_cpu();
    let in_groups = rate(files, &|| {
        for first in (0..files).step_by(64) {
            let group: Vec<usize> = (first..files.min(first + 64)).collect();
            std::thread::scope(|scope| {
                for part in group.chunks(8) {
                    let dir = &groups;
                    scope.spawn(move || part.iter().for_each(|n| write(dir, *n).sync_all().unwrap()));
                }
            });
            for n in &group {
                rename(&groups, *n);
            }
            File::open(&groups).unwrap().sync_all().unwrap();
        }
    });
    let in_groups_cpu = millis(own_cpu().saturating_sub(before)) / files as f64;
    DiskRate { one_by_one, by_8_threads, in_groups, in_groups_cpu }
}

fn place(dir: &Path, n: usize) {
    write(dir, n).sync_all().unwrap();
    rename(dir, n);
    File::open(dir).unwrap().sync_all().unwrap();
}

fn write(dir: &Path, n: usize) -> File {
    let mut file = File::create_new(dir.join(format!("{n}.temp"))).unwrap();
    file.write_all(CONTENT).unwrap();
    file
}

fn rename(dir: &Path, n: usize) {
    std::fs::rename(dir.join(format!("{n}.temp")), dir.join(format!("{n}"))).unwrap();
}
