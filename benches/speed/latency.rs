//! From a writer's `close()` to the open of the file's pipe on the wire, at a steady rate.
//!
//! The daemon waits for quiet on purpose; here it is told to want as little as can be configured, and that is taken off.
//! The engine runs inside the measuring process, so that both ends are read from one clock.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use crate::Verdict;
use crate::common::{Host, Inside, millis, number};

/// The quiet that is configured, the smallest that can be.
const SETTLE: Duration = Duration::from_millis(1);
/// Files per second, and for how many seconds.
const RATE: usize = 100;
const SECONDS: usize = 5;
/// Milliseconds.
const MEDIAN: f64 = 5.0;
const P99: f64 = 25.0;

pub fn run(args: &[String]) -> Verdict {
    let (seconds, rate) = (number(args, 0, SECONDS), number(args, 1, RATE));
    let (host, engine) = (Host::new(), Inside::start());
    host.configure(&engine.sandbox.uri(), "", "settle = \"1ms\"");
    let daemon = host.start("info");
    daemon.logged("\"message\":\"ready\"");
    // The first pipe of a connection goes alone.
    std::fs::write(host.path("in/first.bin"), "x").unwrap();
    assert!(engine.wait(Duration::from_secs(60), |engine| engine.delivered() == 1));

    let (count, began) = (rate * seconds, Instant::now());
    let mut closed = HashMap::new();
    for n in 0..count {
        let due = began + Duration::from_secs_f64(n as f64 / rate as f64);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let name = format!("{n:06}.bin");
        let mut file = File::create_new(host.path("in").join(&name)).unwrap();
        file.write_all(&[b'x'; 1024]).unwrap();
        drop(file);
        closed.insert(name, Instant::now());
    }
    let all = |engine: &rocketride_ingest::sandbox::Sandbox| engine.delivered() == count as u64 + 1;
    assert!(engine.wait(Duration::from_secs(120), all), "not everything arrived");
    let mut delays: Vec<f64> = engine
        .sandbox
        .opens()
        .iter()
        .filter_map(|open| {
            let closed = closed.get(&open.name)?;
            Some(millis(open.requested_at.saturating_duration_since(*closed).saturating_sub(SETTLE)))
        })
        .collect();
    delays.sort_by(f64::total_cmp);
    let at = |part: f64| delays[((delays.len() - 1) as f64 * part) as usize];
    let (median, p99) = (at(0.5), at(0.99));
    println!("from close() to the open on the wire, {rate} files/s for {seconds} s, without the settle of 1 ms:");
    println!("{:>10} {:>10} {:>10} {:>10} {:>10}", "least", "median", "p90", "p99", "most");
    println!("{:>7.2} ms {median:>7.2} ms {:>7.2} ms {p99:>7.2} ms {:>7.2} ms", at(0.0), at(0.9), at(1.0));
    daemon.stop();
    if median >= MEDIAN || p99 >= P99 {
        return Err(format!("median {median:.2} ms and p99 {p99:.2} ms, not under {MEDIAN} and {P99}"));
    }
    Ok(())
}
