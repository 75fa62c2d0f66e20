//! How much memory uploads take: sixteen files of 2 GiB at once through the daemon, and what the library allocates for
//! every chunk.

use std::fs::File;
use std::path::Path;

use crate::Verdict;
use crate::common::{Engine, Host, number, scratch};
use crate::round_trips::is_delivered;
use crate::sender::{CHUNK, Way, send};

/// Files in flight.
const UPLOADS: usize = 16;
/// The most resident memory, in KiB.
const MOST: u64 = 64 * 1024;
/// Allocations for a chunk, its request and its reply, at most. None of them is for the bytes.
const PER_CHUNK: f64 = 16.0;
/// Bytes of them.
const BYTES_PER_CHUNK: f64 = 4.0 * 1024.0;

pub fn run(args: &[String]) -> Verdict {
    let mib = number(args, 0, 2048);
    let mut missed = Vec::new();
    let engine = Engine::start(64);

    let scratch = scratch();
    let costs = [mib / 2, mib].map(|mib| {
        let folder = scratch.path().join(mib.to_string());
        std::fs::create_dir(&folder).unwrap();
        sparse(&folder.join("a.bin"), mib);
        send(Way::Hashing, engine.uri(), 1, &folder)
    });
    let chunks = (costs[1].bytes - costs[0].bytes) as f64 / CHUNK as f64;
    let allocations = (costs[1].allocations - costs[0].allocations) as f64 / chunks;
    let bytes = (costs[1].allocated - costs[0].allocated) as f64 / chunks;
    println!(
        "a chunk of 1 MiB more: {allocations:.1} allocations more (at most {PER_CHUNK}), of {bytes:.0} bytes in all"
    );
    if allocations > PER_CHUNK || bytes > BYTES_PER_CHUNK {
        missed.push(format!("{allocations:.1} allocations of {bytes:.0} bytes for a chunk"));
    }

    let host = Host::new();
    host.configure(
        engine.uri(),
        &format!("threads = {UPLOADS}"),
        &format!(
            "settle = \"1s\"\nmax_size = \"1TiB\"\n[limits]\nmax_concurrent_uploads = {UPLOADS}\n\
             [pipelines.test.limits]\nmax_concurrent_uploads = {UPLOADS}"
        ),
    );
    let daemon = host.start("info");
    daemon.logged("pipeline is up");
    let idle = daemon.usage();
    for file in 0..UPLOADS {
        sparse(&host.path(format!("in/{file}.bin")), mib);
    }
    let mut in_flight: f64 = 0.0;
    daemon.wait_for("all files", || {
        in_flight = in_flight.max(daemon.metric("rocketride_ingest_uploads_in_flight", ""));
        is_delivered(&daemon, UPLOADS)
    });
    let usage = daemon.usage();
    println!(
        "{UPLOADS} files of {mib} MiB through the daemon, {in_flight} seen in flight at once: at most {:.1} MiB resident (less \
         than {}), idle {:.1} MiB",
        usage.peak as f64 / 1024.0,
        MOST / 1024,
        idle.peak as f64 / 1024.0
    );
    if usage.peak >= MOST {
        missed.push(format!("{:.1} MiB resident", usage.peak as f64 / 1024.0));
    }
    if in_flight < UPLOADS as f64 {
        missed.push(format!("only {in_flight} uploads were seen in flight at once"));
    }
    daemon.stop();
    if missed.is_empty() { Ok(()) } else { Err(missed.join("; ")) }
}

/// A file without a block on the disk.
fn sparse(path: &Path, mib: usize) {
    File::create(path).unwrap().set_len((mib as u64) << 20).unwrap();
}
