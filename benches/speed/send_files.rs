//! How fast the client library sends, beside the official SDK and beside a bare `WebSocket` loop.
//!
//! Small files are a matter of what a file costs, large ones of what a byte costs. Each client is a process of its own and
//! the engine is another; all of them share the machine's cores, so the engine's part is told as well.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use crate::Verdict;
use crate::common::{Engine, median, number, scratch};
use crate::sender::{Cost, Way, send};

/// Bytes of a small file.
const SMALL: usize = 4096;
/// Files of 4 MiB.
const MIDDLES: usize = 60;
/// Files per second, in those of the SDK.
const FASTER: f64 = 4.0;
/// CPU of a file, in parts of the SDK's.
const CHEAPER: f64 = 8.0;
/// Part of the bare loop's bytes per second.
const NEAR: f64 = 0.8;
/// Measurements of each.
const ROUNDS: usize = 3;
/// Slots of the task. The SDK opens pipes for all of its files at once; this is the nearest to it.
const SLOTS: usize = 64;
/// The library's default.
const CONCURRENCY: usize = rocketride_ingest::client::send_files::CONCURRENCY;

pub fn run(args: &[String]) -> Verdict {
    let (smalls, mib) = (number(args, 0, 2000), number(args, 1, 1024));
    let scratch = scratch();
    let folder = |name: &str, files: usize, size: usize| {
        let folder = scratch.path().join(name);
        fs::create_dir(&folder).unwrap();
        (0..files).for_each(|file| make(&folder.join(format!("{file:05}.bin")), size));
        folder
    };
    let (small, middle, large) =
        (folder("small", smalls, SMALL), folder("middle", MIDDLES, 4 << 20), folder("large", 1, mib << 20));
    let engine = Engine::start(SLOTS);
    let mut missed = Vec::new();

    println!("{smalls} files of 4 KiB, median of {ROUNDS} rounds in turn");
    println!("{:34} {:>10} {:>14} {:>14}", "", "files/s", "its us CPU/file", "engine's");
    let senders = [
        ("the SDK's send_files", Way::Sdk, 1),
        ("send_files, 64 at a time", Way::SendFiles, SLOTS),
        ("send_files, 5 at a time (default)", Way::SendFiles, CONCURRENCY),
    ];
    let [sdk, ours, _] = table(&engine, &small, senders, |all| {
        let per_file = |seconds: f64, cost: &Cost| seconds / cost.files as f64 * 1e6;
        let files = median(all.iter().map(|(cost, _)| cost.files as f64 / cost.seconds).collect());
        let cpu = median(all.iter().map(|(cost, _)| per_file(cost.cpu, cost)).collect());
        let engine = median(all.iter().map(|(cost, engine)| per_file(*engine, cost)).collect());
        println!("{files:10.0} {cpu:14.0} {engine:14.0}");
        (files, cpu)
    });
    let (faster, cheaper) = (ours.0 / sdk.0, sdk.1 / ours.1);
    println!(
        "{faster:.1} times the files per second (at least {FASTER}), 1/{cheaper:.1} of the CPU (at most 1/{CHEAPER})\n"
    );
    if faster < FASTER || cheaper < CHEAPER {
        missed.push(format!("small files: {faster:.1} times as fast, 1/{cheaper:.1} of the CPU"));
    }

    for (what, folder) in [(format!("{mib} MiB in one file"), &large), (format!("{MIDDLES} files of 4 MiB"), &middle)] {
        println!("{what}, median of {ROUNDS} rounds in turn");
        println!("{:34} {:>10} {:>14} {:>14}", "", "MiB/s", "its ms CPU/MiB", "engine's");
        let senders = [
            ("a bare loop, hashing", Way::Bare, 1),
            ("the daemon's upload, hashing", Way::Hashing, 1),
            ("send_files", Way::SendFiles, CONCURRENCY),
            ("the SDK's send_files", Way::Sdk, 1),
        ];
        let [bare, hashing, ours, _] = table(&engine, folder, senders, |all| {
            let mib = |cost: &Cost| cost.bytes as f64 / f64::from(1 << 20);
            let speed = median(all.iter().map(|(cost, _)| mib(cost) / cost.seconds).collect());
            let cpu = median(all.iter().map(|(cost, _)| cost.cpu / mib(cost) * 1e3).collect());
            let engine = median(all.iter().map(|(cost, engine)| engine / mib(cost) * 1e3).collect());
            println!("{speed:10.0} {cpu:14.2} {engine:14.2}");
            speed
        });
        let near = hashing.min(ours) / bare;
        println!("{:.0} % of the bare loop (at least {:.0} %)\n", near * 100.0, NEAR * 100.0);
        if near < NEAR {
            missed.push(format!("{what}: {:.0} % of the bare loop", near * 100.0));
        }
    }
    if missed.is_empty() { Ok(()) } else { Err(missed.join("; ")) }
}

/// Lets every sender send the folder in turn, and tells a line of each: its costs, with the engine's CPU.
fn table<T, const N: usize>(
    engine: &Engine,
    folder: &Path,
    senders: [(&str, Way, usize); N],
    line: impl Fn(&[(Cost, f64)]) -> T,
) -> [T; N] {
    let mut costs = [const { Vec::new() }; N];
    for _ in 0..ROUNDS {
        for (costs, (_, way, concurrency)) in costs.iter_mut().zip(senders) {
            let before = engine.usage().cpu.as_secs_f64();
            let cost = send(way, engine.uri(), concurrency, folder);
            costs.push((cost, engine.usage().cpu.as_secs_f64() - before));
        }
    }
    std::array::from_fn(|at| {
        print!("{:34} ", senders[at].0);
        line(&costs[at])
    })
}

/// A file that no two parts of are the same, so that nobody gets it for nothing.
fn make(path: &Path, size: usize) {
    let mut file = std::io::BufWriter::new(fs::File::create(path).unwrap());
    let mut random = fastrand::Rng::new();
    let mut left = size;
    let mut block = [0; SMALL];
    while left > 0 {
        random.fill(&mut block);
        let part = left.min(SMALL);
        file.write_all(&block[..part]).unwrap();
        left -= part;
    }
    file.flush().unwrap();
}
