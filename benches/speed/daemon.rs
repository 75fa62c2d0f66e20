//! A folder full of small files, from the start of the process to the last result: the daemon, for which every result and every
//! state is durable, and the script that one writes today with the SDK and `watchdog`, for which nothing is.
//!
//! Both run against an engine that is a process of its own, on the same two cores. Times are those that the filesystem
//! gave the results; processor time and memory are the kernel's account of the one process.

use std::os::unix::fs::MetadataExt;
use std::process::{Child, Stdio};
use std::time::{Duration, SystemTime};

use crate::Verdict;
use crate::common::{Daemon, Engine, Host, KEY, Usage, disk_rate, median, number, peer, usage};

const FILES: usize = 2_000;
const ROUNDS: usize = 3;
const SIZE: usize = 4096;
/// Uploads at a time, of both.
const CONCURRENT: usize = 8;
/// At least so many times the peer's files per second, and of its processor time at most one so many.
const FASTER: f64 = 3.0;
const LIGHTER: f64 = 8.0;
/// At least so many files per second, where the disk makes at least this many durable.
const FILES_PER_SECOND: f64 = 3_000.0;
const PATIENCE: Duration = Duration::from_secs(600);

/// One run of one of them.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// From the start of the process to the last result, in files per second.
    whole: f64,
    /// From the first result to the last: without the start of an interpreter, and without the daemon's waiting for quiet.
    flowing: f64,
    /// Milliseconds of processor time per file, all in.
    cpu: f64,
    /// The same between the first result that was seen and the last.
    cpu_flowing: f64,
    /// The engine's, per file.
    engine: f64,
    /// The most memory it had, in MiB.
    peak: f64,
    /// Commits of the journal per file; the peer has none.
    commits: f64,
}

/// Something that serves a folder.
trait Serves {
    fn usage(&self) -> Usage;
    fn commits(&self) -> f64;
}

impl Serves for Daemon<'_> {
    fn usage(&self) -> Usage {
        Daemon::usage(self)
    }

    fn commits(&self) -> f64 {
        self.metric("rocketride_ingest_journal_commit_duration_seconds_count", "")
    }
}

struct Peer(Child);

impl Serves for Peer {
    fn usage(&self) -> Usage {
        usage(self.0.id())
    }

    fn commits(&self) -> f64 {
        0.0
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn run(args: &[String]) -> Verdict {
    let (files, rounds) = (number(args, 0, FILES), number(args, 1, ROUNDS));
    println!(
        "{files} files of {SIZE} bytes lie there at the start, {CONCURRENT} uploads at a time; medians of {rounds} rounds\n"
    );
    // The first call may have to make the environment.
    drop(peer("watch.py"));
    let (mut settled, mut prompt, mut peers, mut disks) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let hosts: Vec<_> = std::iter::repeat_with(|| [(); 4].map(|()| Host::new())).take(rounds).collect();
    for [first, second, third, fourth] in &hosts {
        settled.push(daemon(first, files, ""));
        peers.push(python(second, files));
        prompt.push(daemon(third, files, "settle = \"1ms\""));
        disks.push(disk_rate(&fourth.path(""), files));
    }
    let (settled, prompt, peers) = (middle(&settled), middle(&prompt), middle(&peers));
    println!(
        "{:34} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8}",
        "", "files/s", "files/s", "CPU ms", "CPU ms", "engine's", "peak", "commits"
    );
    println!(
        "{:34} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8}",
        "", "all in", "flowing", "per file", "flowing", "per file", "MiB", "per file"
    );
    for (name, run) in [
        ("daemon, settle of 2 s, durable", settled),
        ("daemon, settle = 1ms, durable", prompt),
        ("SDK + watchdog, not durable", peers),
    ] {
        println!(
            "{name:34} {:>9.0} {:>9.0} {:>9.3} {:>9.3} {:>9.3} {:>8.1} {:>8.3}",
            run.whole, run.flowing, run.cpu, run.cpu_flowing, run.engine, run.peak, run.commits
        );
    }
    let of = |rate: fn(&crate::common::DiskRate) -> f64| median(disks.iter().map(rate).collect());
    let (one, eight, groups) = (of(|disk| disk.one_by_one), of(|disk| disk.by_8_threads), of(|disk| disk.in_groups));
    println!(
        "\nthis disk makes files durable under their names at {one:.0}/s one by one, {eight:.0}/s by 8 threads, {groups:.0}/s in \
         groups of 64, for {:.3} ms of CPU each",
        of(|disk| disk.in_groups_cpu)
    );
    let (faster, flowing) = (prompt.whole / peers.whole, prompt.flowing / peers.flowing);
    let (lighter, lighter_flowing) = (peers.cpu / prompt.cpu, peers.cpu_flowing / prompt.cpu_flowing);
    println!(
        "the daemon (settle = 1ms) is {faster:.1} times as fast all in and {flowing:.1} times flowing; \
         it takes 1/{lighter:.1} of the processor time all in and 1/{lighter_flowing:.1} flowing"
    );
    let mut missed = Vec::new();
    if faster < FASTER {
        missed.push(format!("{faster:.1} times the peer's files per second, not {FASTER}"));
    }
    if lighter < LIGHTER {
        missed.push(format!("1/{lighter:.1} of the peer's processor time per file, not 1/{LIGHTER}"));
    }
    let reachable = FILES_PER_SECOND.min(eight.max(groups));
    if prompt.flowing < reachable {
        missed.push(format!("{:.0} files per second, not {reachable:.0}", prompt.flowing));
    }
    if missed.is_empty() { Ok(()) } else { Err(missed.join("; ")) }
}

/// Puts the files into the inbox.
fn fill(host: &Host, files: usize) {
    let content: Vec<u8> = (0..SIZE).map(|n| b'a' + u8::try_from(n % 26).unwrap()).collect();
    for n in 0..files {
        std::fs::write(host.path(format!("in/{n:05}.bin")), &content).unwrap();
    }
}

fn daemon(host: &Host, files: usize, settle: &str) -> Run {
    fill(host, files);
    let engine = Engine::start(64);
    host.configure(engine.uri(), &format!("[pipelines.test.limits]\nmax_concurrent_uploads = {CONCURRENT}"), settle);
    let began = SystemTime::now();
    let daemon = host.start("warn");
    let run = follow(host, files, began, &daemon, &engine);
    daemon.stop();
    run
}

fn python(host: &Host, files: usize) -> Run {
    fill(host, files);
    let engine = Engine::start(64);
    let mut command = peer("watch.py");
    command.arg(host.path("in")).args([engine.uri(), KEY]).arg(host.path("test.pipe")).arg(CONCURRENT.to_string());
    let began = SystemTime::now();
    let peer = Peer(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap());
    follow(host, files, began, &peer, &engine)
}

/// Waits for all results; what it took.
fn follow(host: &Host, files: usize, began: SystemTime, serves: &impl Serves, engine: &Engine) -> Run {
    let results = || {
        let names = std::fs::read_dir(host.path("in")).unwrap().map(|entry| entry.unwrap());
        names.filter(|entry| entry.file_name().to_string_lossy().ends_with(".result.json")).collect::<Vec<_>>()
    };
    let mut at_first = None;
    loop {
        let count = results().len();
        if count >= files {
            break;
        }
        if count > 0 && at_first.is_none() {
            at_first = Some((count, serves.usage()));
        }
        assert!(began.elapsed().unwrap() < PATIENCE, "waited in vain for {files} results");
        std::thread::sleep(Duration::from_millis(50));
    }
    // The last may have its name and not be recorded yet.
    std::thread::sleep(Duration::from_millis(100));
    let used = serves.usage();
    let commits = serves.commits();
    let mut times: Vec<f64> = results()
        .iter()
        .map(|entry| {
            let stat = entry.metadata().unwrap();
            stat.ctime() as f64 + stat.ctime_nsec() as f64 / 1e9
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let start = began.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    let (first, last) = (times[0], times[files - 1]);
    let (seen, at_first) = at_first.unwrap_or((0, used));
    let millis = |time: Duration, files: usize| time.as_secs_f64() * 1000.0 / files.max(1) as f64;
    Run {
        whole: files as f64 / (last - start),
        flowing: (files - 1) as f64 / (last - first),
        cpu: millis(used.cpu, files),
        cpu_flowing: millis(used.cpu.saturating_sub(at_first.cpu), files - seen),
        engine: millis(engine.usage().cpu, files),
        peak: used.peak as f64 / 1024.0,
        commits: commits / files as f64,
    }
}

/// The median of each number by itself.
fn middle(runs: &[Run]) -> Run {
    let of = |number: fn(&Run) -> f64| median(runs.iter().map(number).collect());
    Run {
        whole: of(|run| run.whole),
        flowing: of(|run| run.flowing),
        cpu: of(|run| run.cpu),
        cpu_flowing: of(|run| run.cpu_flowing),
        engine: of(|run| run.engine),
        peak: of(|run| run.peak),
        commits: of(|run| run.commits),
    }
}
