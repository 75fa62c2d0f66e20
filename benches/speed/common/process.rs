//! The kernel's account of a process that runs.

use std::fs;
use std::time::Duration;

/// Ticks of a second in `/proc/PID/stat`: `USER_HZ`, which is 100 on every architecture of ours.
const TICKS: u32 = 100;

/// What a process has used since it began, and what it has now.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// User and system time of all its threads, to 10 ms.
    pub cpu: Duration,
    /// Resident memory now, in KiB.
    pub memory: u64,
    /// The most resident memory that it ever had, in KiB.
    pub peak: u64,
}

/// What a process uses.
pub fn usage(pid: u32) -> Usage {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name in brackets may have spaces.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u32 = fields[11..13].iter().map(|field| field.parse::<u32>().unwrap()).sum();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
    };
    Usage { cpu: Duration::from_secs(1) * ticks / TICKS, memory: kib("VmRSS"), peak: kib("VmHWM") }
}

/// User and system time of this process so far, to the nanosecond.
pub fn own_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// How often the threads of a process went to sleep of themselves, those that have ended not counted: so often they woke.
pub fn wakeups(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let waits = threads.filter_map(|thread| {
        let status = fs::read_to_string(thread.ok()?.path().join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        line.trim().parse::<u64>().ok()
    });
    waits.sum()
}
