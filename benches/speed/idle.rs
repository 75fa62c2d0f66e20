//! What the daemon takes while there is nothing to do: 100,000 finished files in 10,000 folders, each of them watched.
//!
//! Then the same with the folders walked over and over, as on a network filesystem: a regular walk yields, so that it never
//! has a core for itself.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Verdict;
use crate::common::{Daemon, Engine, Host, Tree, number};

const TREE: Tree = Tree { files: 100_000, folders: 10_000 };
/// Of a core, in percent.
const IDLE_BOUND: f64 = 0.2;
/// Resident memory, in KiB.
const MEMORY_BOUND: u64 = 64 << 10;
/// Of a core, in percent, while the folders are walked again and again.
const WALKING_BOUND: f64 = 35.0;
/// What the start has begun is over by then.
const CALM: Duration = Duration::from_secs(15);
/// How often the folders are walked in the second part.
const POLL: &str = "detect = \"poll\"\npoll_interval = \"1s\"";

pub fn run(args: &[String]) -> Verdict {
    let span = Duration::from_secs(number(args, 0, 30) as u64);
    let host = &Host::new();
    TREE.make(host);
    TREE.finish(host);
    let engine = Engine::start(4);
    println!("{} finished files in {} folders\n", TREE.files, TREE.folders);
    println!("{:24} {:>12} {:>12} {:>10} {:>10}", "", "% of a core", "wake-ups/s", "MiB", "peak MiB");

    let (idle, memory) = observe(host, &engine, "", span, "nothing to do");
    let (walking, _) = observe(host, &engine, POLL, span, "walked all the time");
    let mut missed = Vec::new();
    if idle > IDLE_BOUND {
        missed.push(format!("{idle:.2} % of a core with nothing to do"));
    }
    if memory > MEMORY_BOUND {
        missed.push(format!("{} MiB of memory", memory >> 10));
    }
    if walking > WALKING_BOUND {
        missed.push(format!("{walking:.0} % of a core for walks"));
    }
    if missed.is_empty() { Ok(()) } else { Err(missed.join("; ")) }
}

/// Percent of a core, and the most memory.
fn observe(host: &Host, engine: &Engine, watch: &str, span: Duration, what: &str) -> (f64, u64) {
    std::fs::write(host.path("log"), "").unwrap();
    host.configure(engine.uri(), "", watch);
    let daemon: Daemon<'_> = host.start("debug");
    daemon.logged("scan complete");
    sleep(CALM);
    let (began, usage, wakeups) = (Instant::now(), daemon.usage(), daemon.wakeups());
    sleep(span);
    let after = daemon.usage();
    let seconds = began.elapsed().as_secs_f64();
    let percent = after.cpu.saturating_sub(usage.cpu).as_secs_f64() / seconds * 100.0;
    let woken = daemon.wakeups().saturating_sub(wakeups) as f64 / seconds;
    println!("{what:24} {percent:>12.3} {woken:>12.1} {:>10} {:>10}", after.memory >> 10, after.peak >> 10);
    daemon.stop();
    (percent, after.peak)
}
