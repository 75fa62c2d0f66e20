//! Many files at the start: how soon the first is sent, what each costs, and how soon a restart is over that finds them all
//! done.
//!
//! For every power of ten up to FILES, 100 to a folder and at most 1,000 folders: the daemon starts on files that nobody
//! has seen, sends them all to an engine that is a process of its own, and stops. One more file is dropped, and it starts
//! again. With `filled` the journal is written by the library instead, and only the restart is measured.

use std::fs;
use std::io::Write;
use std::thread::sleep;
use std::time::Duration;

use crate::Verdict;
use crate::common::{Daemon, Engine, Host, Tree, bare_walk, median, number};

/// The smallest backlog.
const LEAST: usize = 1_000;
const MOST_FOLDERS: usize = 1_000;
const PER_FOLDER: usize = 100;
/// How long a file must be quiet.
const SETTLE: Duration = Duration::from_secs(2);
/// From the start to the first result, settling not counted.
const FIRST_BOUND: Duration = Duration::from_secs(2);
/// The same for a start with a journal of so many finished files.
const RESTART_BOUND: Duration = Duration::from_secs(5);
/// The most resident memory, in KiB.
const MEMORY_BOUND: u64 = 128 << 10;
/// How much slower than a bare walk the scan of a start may be.
const SCAN_BOUND: f64 = 2.0;
/// How much dearer a file of the largest backlog may be than one of ten times fewer.
const GROWTH_BOUND: f64 = 1.25;
/// Rounds of the restart.
const ROUNDS: usize = 3;
/// Columns of the plot.
const WIDTH: f64 = 50.0;

/// What one backlog gave.
struct Row {
    files: usize,
    /// Only where they were really sent.
    sent: Option<Sent>,
    /// Bytes of the journal a file.
    journal: f64,
    restart: Duration,
    /// Processor time of the restart until its scan was over, a file.
    restart_cpu: f64,
    scan: Duration,
    walk: Duration,
    /// Resident at most, at the restart.
    memory: u64,
}

struct Sent {
    first: Duration,
    /// Processor time of the daemon, in µs a file.
    cpu: f64,
    rate: f64,
    memory: u64,
}

pub fn run(args: &[String]) -> Verdict {
    let files = number(args, 0, 100_000);
    let really = args.get(1).is_none_or(|argument| argument != "filled");
    let mut rows = Vec::new();
    println!(
        "{:>9} {:>8} {:>8} {:>8} {:>8} | {:>8} {:>8} {:>8} {:>8} {:>6} {:>8} {:>8}",
        "files",
        "first s",
        "file/s",
        "µs/file",
        "MiB",
        "B/file",
        "again s",
        "scan s",
        "walk s",
        "ratio",
        "µs/file",
        "MiB"
    );
    let mut size = LEAST.min(files);
    loop {
        let row = measure(size, really);
        print(&row);
        rows.push(row);
        if size == files {
            break;
        }
        size = (size * 10).min(files);
    }
    plot(&rows, "processor time of a file sent, µs", |row| row.sent.as_ref().map(|sent| sent.cpu));
    plot(&rows, "processor time of a file found done at a restart, µs", |row| Some(row.restart_cpu));
    plot(&rows, "bytes of the journal a file", |row| Some(row.journal));
    judge(&rows)
}

fn measure(files: usize, really: bool) -> Row {
    let host = &Host::new();
    let tree = Tree { files, folders: (files / PER_FOLDER).clamp(1, MOST_FOLDERS) };
    tree.make(host);
    let engine = Engine::start(64);
    host.configure(engine.uri(), "", "");
    let sent = really.then(|| send(host, files));
    if !really {
        tree.finish(host);
    }
    let journal = fs::metadata(host.path("state/journal/db")).unwrap().len() as f64 / files as f64;
    let rounds: Vec<_> = (0..ROUNDS).map(|round| restart(host, files + round)).collect();
    let least = |time: fn(&Restart) -> Duration| rounds.iter().map(time).min().unwrap();
    Row {
        files,
        sent,
        journal,
        restart: median(rounds.iter().map(|round| round.first).collect()),
        restart_cpu: median(rounds.iter().map(|round| round.cpu).collect()),
        // Of these two the ratio counts, and others on this machine only add to them.
        scan: least(|round| round.scan),
        walk: least(|round| round.walk),
        memory: rounds.iter().map(|round| round.memory).max().unwrap(),
    }
}

/// Sends all files.
fn send(host: &Host, files: usize) -> Sent {
    let daemon = host.start("warn");
    let first = daemon.wait_for("the first result", || done(host, &daemon) > 0);
    let all = daemon.wait_for("the last result", || {
        sleep(Duration::from_millis(500));
        done(host, &daemon) >= files
    });
    let usage = daemon.usage();
    let sent = Sent {
        first: first.saturating_sub(SETTLE),
        cpu: usage.cpu.as_secs_f64() * 1e6 / files as f64,
        rate: files as f64 / all.as_secs_f64(),
        memory: usage.peak,
    };
    daemon.stop();
    sent
}

struct Restart {
    first: Duration,
    cpu: f64,
    scan: Duration,
    walk: Duration,
    memory: u64,
}

/// Starts with a journal that knows `known` files, all done, and one file that it does not know.
fn restart(host: &Host, known: usize) -> Restart {
    let inbox = host.path("in");
    let name = format!("new-{known}.txt");
    fs::write(inbox.join(&name), "new").unwrap();
    // The kernel knows all of it already, for both.
    bare_walk(&inbox);
    let (_, walk) = bare_walk(&inbox);
    fs::File::create(host.path("log")).unwrap().flush().unwrap();
    let daemon = host.start("debug");
    let result = inbox.join(format!("{name}.result.json"));
    let mut scanned = None;
    let first = daemon.wait_for("the result of the new file", || {
        if scanned.is_none() && log_time(host, "scan complete").is_some() {
            scanned = Some(daemon.usage());
        }
        result.exists()
    });
    daemon.logged("scan complete");
    let usage = scanned.unwrap_or_else(|| daemon.usage());
    let [began, ended] = ["watching", "scan complete"].map(|message| log_time(host, message).unwrap());
    let memory = daemon.usage().peak;
    daemon.stop();
    Restart {
        first: first.saturating_sub(SETTLE),
        cpu: usage.cpu.as_secs_f64() * 1e6 / known as f64,
        scan: ended.saturating_sub(began),
        walk,
        memory,
    }
}

fn done(host: &Host, daemon: &Daemon<'_>) -> usize {
    if !host.path("admin.sock").exists() {
        return 0;
    }
    daemon.metric("rocketride_ingest_jobs", "state=\"done\"") as usize
}

/// When a message was logged first, since the epoch.
fn log_time(host: &Host, message: &str) -> Option<Duration> {
    let log = fs::read_to_string(host.path("log")).unwrap();
    let line = log.lines().find(|line| line.contains(&format!("\"{message}\"")))?;
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let at = humantime::parse_rfc3339(line["timestamp"].as_str()?).unwrap();
    Some(at.duration_since(std::time::UNIX_EPOCH).unwrap())
}

fn print(row: &Row) {
    let sent = row.sent.as_ref().map_or_else(
        || format!("{:>8} {:>8} {:>8} {:>8}", "-", "-", "-", "-"),
        |sent| {
            let (first, memory) = (sent.first.as_secs_f64(), sent.memory >> 10);
            format!("{first:>8.2} {:>8.0} {:>8.0} {memory:>8}", sent.rate, sent.cpu)
        },
    );
    let [restart, scan, walk] = [row.restart, row.scan, row.walk].map(|time| time.as_secs_f64());
    println!(
        "{:>9} {sent} | {:>8.0} {restart:>8.2} {scan:>8.3} {walk:>8.3} {:>6.2} {:>8.1} {:>8}",
        row.files,
        row.journal,
        scan / walk,
        row.restart_cpu,
        row.memory >> 10
    );
}

fn plot(rows: &[Row], what: &str, value: impl Fn(&Row) -> Option<f64>) {
    let values: Vec<_> = rows.iter().filter_map(|row| Some((row.files, value(row)?))).collect();
    let most = values.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    if values.is_empty() {
        return;
    }
    println!("\n{what}");
    for (files, value) in values {
        let bar = (value / most * WIDTH).round().max(1.0);
        println!("{files:>9} {} {value:.1}", std::iter::repeat_n('#', bar as usize).collect::<String>());
    }
}

fn judge(rows: &[Row]) -> Verdict {
    let mut missed = Vec::new();
    for row in rows {
        if let Some(sent) = row.sent.as_ref().filter(|sent| sent.first > FIRST_BOUND) {
            missed.push(format!("{} files: the first upload took {:.1} s", row.files, sent.first.as_secs_f64()));
        }
        if row.restart > RESTART_BOUND {
            missed.push(format!("{} files: after a restart it took {:.1} s", row.files, row.restart.as_secs_f64()));
        }
        let memory = row.memory.max(row.sent.as_ref().map_or(0, |sent| sent.memory));
        if memory > MEMORY_BOUND {
            missed.push(format!("{} files: {} MiB of memory", row.files, memory >> 10));
        }
    }
    if let [.., before, last] = rows {
        // Of fewer files neither is long enough to be measured.
        let ratio = last.scan.as_secs_f64() / last.walk.as_secs_f64();
        if ratio > SCAN_BOUND {
            missed.push(format!("{} files: the scan took {ratio:.1} times as long as a bare walk", last.files));
        }
        let cpu = |row: &Row| row.sent.as_ref().map_or(row.restart_cpu, |sent| sent.cpu);
        let grown = (cpu(last) / cpu(before)).max(last.journal / before.journal);
        if grown > GROWTH_BOUND {
            missed.push(format!("a file of {} costs {grown:.2} times one of {}", last.files, before.files));
        }
    }
    if missed.is_empty() { Ok(()) } else { Err(missed.join("; ")) }
}
