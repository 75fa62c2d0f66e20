//! What several measurements need: a scratch host with the daemon, an engine, a Python with the peers, the kernel's own
//! account of a process.

mod counting;
mod disk;
mod distance;
mod host;
mod inside;
mod peers;
mod process;
mod tree;

use std::fs;
use std::time::Duration;

pub use counting::allocations;
pub use disk::{DiskRate, disk_rate};
pub use distance::{Distance, Seen};
pub use host::{Daemon, Engine, Host, KEY, PROGRAM};
pub use inside::Inside;
pub use peers::{answer_of, peer};
pub use process::{Usage, own_cpu, usage, wakeups};
pub use tree::{Tree, bare_walk};

/// A folder to measure in, removed when it is dropped: in `$RRI_BENCH_DIR`, or on the disk that the build is on. Not in memory,
/// which has no `fsync` worth the name.
///
/// Whoever times new files keeps it to the end: ext4 goes round the inodes of files that were removed minutes ago, one by one.
pub fn scratch() -> tempfile::TempDir {
    let place = std::env::var("RRI_BENCH_DIR").unwrap_or_else(|_| env!("CARGO_TARGET_TMPDIR").to_owned());
    tempfile::tempdir_in(&place).unwrap_or_else(|error| panic!("{place}: {error}"))
}

/// The machine, in one line.
pub fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown processor");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: u64 = memory.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0);
    format!(
        "{cores} cores of {}, {} GiB, Linux {}",
        model.trim_start_matches([' ', '\t', ':']),
        kib >> 20,
        kernel.trim()
    )
}

/// The middle one; of an even number the larger of the two in the middle.
pub fn median<T: PartialOrd + Copy>(mut values: Vec<T>) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).unwrap());
    values[values.len() / 2]
}

/// A number among the arguments.
pub fn number(args: &[String], nth: usize, default: usize) -> usize {
    args.get(nth).map_or(default, |argument| argument.replace('_', "").parse().expect("a number"))
}

/// Milliseconds, for tables.
pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
