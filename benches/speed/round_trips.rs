//! What many small files cost over a distance of 20 ms: three round trips each, and as many files at a time as are allowed.
//!
//! A proxy holds everything back for 10 ms each way and counts the requests that pass. One after the other a file takes
//! three round trips, for every step needs the answer to the last; what is gained is gained by files beside each other.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::Verdict;
use crate::common::{Daemon, Distance, Engine, Host, Seen, number, scratch};
use crate::sender::{Way, send};

/// One way.
const ONE_WAY: Duration = Duration::from_millis(10);
/// Files at a time.
const CONCURRENCY: [usize; 6] = [1, 2, 4, 8, 16, 32];
/// Slots of the task.
const SLOTS: usize = 32;
/// Requests of a file that goes in one write.
const STEPS: f64 = 3.0;
/// A file alone takes no more round trips than this; the rest is the machine's part.
const MOST_TRIPS: f64 = 3.5;
/// So much of a throughput in proportion to the files at a time must be reached.
const PROPORTION: f64 = 0.8;

pub fn run(args: &[String]) -> Verdict {
    let per_lane = number(args, 0, 25);
    let mut missed = Vec::new();
    println!("files of 4 KiB, a round trip of {} ms, {SLOTS} slots", ONE_WAY.as_millis() * 2);
    println!("{:>14} {:>28} {:>28}", "", "send_files", "the daemon");
    println!(
        "{:>14} {:>9} {:>9} {:>8} {:>9} {:>9} {:>8}",
        "at a time", "files/s", "trips", "requests", "files/s", "trips", "requests"
    );
    let mut alone = [0.0; 2];
    for concurrency in CONCURRENCY {
        let files = per_lane * concurrency;
        let measured = [library(concurrency, files), daemon(concurrency, files)];
        let mut line = format!("{concurrency:14}");
        for ((who, seen), alone) in ["send_files", "the daemon"].into_iter().zip(measured).zip(&mut alone) {
            // The last request is a close, whose answer is still to come.
            let seconds = seen.seconds() + ONE_WAY.as_secs_f64() * 2.0;
            let speed = files as f64 / seconds;
            let trips = concurrency as f64 / speed / (ONE_WAY.as_secs_f64() * 2.0);
            let requests = seen.requests() as f64 / files as f64;
            let _ = write!(line, " {speed:9.1} {trips:9.2} {requests:8.2}");
            if concurrency == 1 {
                *alone = speed;
            }
            let part = speed / (*alone * concurrency as f64);
            if part < PROPORTION {
                missed.push(format!("{who}: {concurrency} at a time reach {:.0} % of that many alone", part * 100.0));
            }
            if requests > STEPS {
                missed.push(format!("{who}: {requests:.2} requests a file"));
            }
            if concurrency == 1 && trips > MOST_TRIPS {
                missed.push(format!("{who}: {trips:.2} round trips a file"));
            }
        }
        println!("{line}");
    }
    if missed.is_empty() { Ok(()) } else { Err(missed.join("; ")) }
}

fn fill(folder: &Path, files: usize) {
    for file in 0..files {
        fs::write(folder.join(format!("{file:05}.bin")), vec![b'x'; 4096]).unwrap();
    }
}

fn library(concurrency: usize, files: usize) -> Seen {
    let engine = Engine::start(SLOTS);
    let distance = Distance::before(engine.uri(), ONE_WAY);
    let folder = scratch();
    fill(folder.path(), files);
    let cost = send(Way::SendFiles, distance.uri(), concurrency, folder.path());
    assert_eq!(cost.files, files as u64);
    distance.take()
}

fn daemon(concurrency: usize, files: usize) -> Seen {
    let engine = Engine::start(SLOTS);
    let distance = Distance::before(engine.uri(), ONE_WAY);
    let host = Host::new();
    fill(&host.path("in"), files);
    let rest = format!(
        "settle = \"1s\"\n[limits]\nmax_concurrent_uploads = {concurrency}\n\
         [pipelines.test.limits]\nmax_concurrent_uploads = {concurrency}"
    );
    host.configure(distance.uri(), &format!("threads = {SLOTS}"), &rest);
    let daemon = host.start("warn");
    daemon.answers();
    daemon.wait_for("all files", || is_delivered(&daemon, files));
    daemon.stop();
    distance.take()
}

/// Whether so many files are.
pub fn is_delivered(daemon: &Daemon<'_>, files: usize) -> bool {
    daemon.metric("rocketride_ingest_files_total", "outcome=\"delivered\"") >= files as f64
}
