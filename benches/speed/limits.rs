//! Limits of files and bytes per second, by the engine's clock: obeyed within 2 % or one file, or one write, over a window,
//! and no pipe of a throttled daemon silent for long.
//!
//! A limit that was not used lets a burst go, of at most a quarter second's worth; the window begins after it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::Verdict;
use crate::common::{Host, Inside, number};

/// Seconds of the window.
const WINDOW: usize = 4;
/// Before it, the burst has gone.
const LEAD: Duration = Duration::from_secs(1);
/// Files per second.
const FILES: [u64; 5] = [1, 10, 100, 1000, 5000];
/// Bytes per second.
const BYTES: [u64; 6] = [10 << 10, 100 << 10, 1 << 20, 10 << 20, 100 << 20, 1 << 30];
/// Of the rate.
const TOLERANCE: f64 = 0.02;
/// Up to this part of what goes without a limit, a limit is to be reached.
const REACHABLE: f64 = 0.8;
/// The server gives up a pipe that is silent for longer.
const REAPER: Duration = Duration::from_secs(60);

/// What arrived: when, how much, and through which pipe.
type Arrivals = Vec<(Instant, u64, u64)>;

pub fn run(args: &[String]) -> Verdict {
    let window = Duration::from_secs(number(args, 0, WINDOW) as u64);
    let mut missed = Vec::new();
    println!("{:>14} {:>14} {:>9} {:>10}", "limit", "measured", "off by", "silent");
    let free = files(None, window, 3000);
    let free_rate = judge("files/s", None, &free, window, f64::INFINITY, &mut missed);
    for rate in FILES {
        let count = (rate as f64 * (window + 2 * LEAD).as_secs_f64() * 1.1) as usize + 3;
        judge("files/s", Some(rate), &files(Some(rate), window, count), window, free_rate, &mut missed);
    }
    let free = bytes(None, window, 3 << 30);
    let free_rate = judge("bytes/s", None, &free, window, f64::INFINITY, &mut missed);
    for rate in BYTES {
        let total = (rate as f64 * (window + 2 * LEAD).as_secs_f64() * 1.1) as u64;
        judge("bytes/s", Some(rate), &bytes(Some(rate), window, total.min(8 << 30)), window, free_rate, &mut missed);
    }
    if missed.is_empty() { Ok(()) } else { Err(missed.join("; ")) }
}

/// Counts what arrived within the window; says what is wrong with it. Returns the rate.
fn judge(
    unit: &str,
    limit: Option<u64>,
    arrivals: &Arrivals,
    window: Duration,
    free: f64,
    missed: &mut Vec<String>,
) -> f64 {
    let first = arrivals.iter().map(|(at, ..)| *at).min().unwrap();
    let last = arrivals.iter().map(|(at, ..)| *at).max().unwrap();
    let (from, until) = (first + LEAD, first + LEAD + window);
    // Without a limit it may be over sooner.
    let (from, until) = if limit.is_none() && last < until { (first, last) } else { (from, until) };
    let inside = arrivals.iter().filter(|(at, ..)| *at >= from && *at < until);
    let sum: u64 = inside.clone().map(|(_, amount, _)| *amount).sum();
    let largest = inside.map(|(_, amount, _)| *amount).max().unwrap_or(0);
    let seconds = (until - from).as_secs_f64();
    let rate = sum as f64 / seconds;
    let silent = silence(arrivals);
    let said = limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string());
    let Some(limit) = limit else {
        println!("{said:>14} {rate:>14.0} {:>9} {:>8.1} s  {unit}", "", silent.as_secs_f64());
        return rate;
    };
    let off = rate / limit as f64 - 1.0;
    let within = (TOLERANCE * limit as f64).max(largest as f64 / seconds);
    let out_of_reach = limit as f64 > REACHABLE * free;
    let note = if out_of_reach { "out of reach here: only not exceeded" } else { "" };
    println!("{said:>14} {rate:>14.1} {:>8.2}% {:>8.1} s  {unit} {note}", off * 100.0, silent.as_secs_f64());
    let (too_much, too_little) = (rate > limit as f64 + within, rate < limit as f64 - within);
    if too_much || (too_little && !out_of_reach) {
        missed.push(format!("{rate:.1} {unit} at a limit of {limit}"));
    }
    if silent >= REAPER {
        missed.push(format!("a pipe was silent for {silent:?} at a limit of {limit} {unit}"));
    }
    rate
}

/// The longest time between two arrivals through one pipe. (Numbers are used again: it may be overestimated, never under.)
fn silence(arrivals: &Arrivals) -> Duration {
    let (mut latest, mut longest) = (HashMap::new(), Duration::ZERO);
    for (at, _, pipe) in arrivals {
        if let Some(before) = latest.insert(*pipe, *at) {
            longest = longest.max(at.saturating_duration_since(before));
        }
    }
    longest
}

fn host(limits: &str) -> (Host, Inside) {
    let (host, engine) = (Host::new(), Inside::start());
    host.configure(
        &engine.sandbox.uri(),
        &format!("[pipelines.test.limits]\nmax_concurrent_uploads = 8\n{limits}"),
        "settle = \"1ms\"\nmax_size = \"8GiB\"",
    );
    (host, engine)
}

fn files(rate: Option<u64>, window: Duration, count: usize) -> Arrivals {
    let (host, engine) = host(&rate.map_or_else(String::new, |rate| format!("files_per_second = {rate}")));
    for n in 0..count {
        std::fs::write(host.path(format!("in/{n:06}.bin")), "content").unwrap();
    }
    let daemon = host.start("warn");
    // What does not arrive in time shows in the numbers.
    engine.wait(window + 30 * LEAD, |engine| !engine.opens().is_empty());
    engine.wait(window + 2 * LEAD, |engine| engine.delivered() == count as u64);
    daemon.stop();
    engine.sandbox.opens().iter().enumerate().map(|(n, open)| (open.requested_at, 1, n as u64)).collect()
}

fn bytes(rate: Option<u64>, window: Duration, total: u64) -> Arrivals {
    let (host, engine) =
        host(&rate.map_or_else(String::new, |rate| format!("bytes_per_second = \"{}KiB\"", rate >> 10)));
    // Holes take no room; what matters is how they are sent.
    let size = (total / 16).clamp(64 << 10, 512 << 20);
    let count = total.div_ceil(size);
    for n in 0..count {
        std::fs::File::create_new(host.path(format!("in/{n:06}.bin"))).unwrap().set_len(size).unwrap();
    }
    let daemon = host.start("warn");
    engine.wait(window + 30 * LEAD, |engine| !engine.writes().is_empty());
    engine.wait(window + 2 * LEAD, |engine| engine.delivered() == count);
    let writes = engine.sandbox.writes();
    // Nobody waits for what is on its way.
    drop(daemon);
    writes.iter().map(|write| (write.at, write.bytes as u64, write.pipe_id)).collect()
}
