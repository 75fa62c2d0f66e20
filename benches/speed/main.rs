//! How fast, how large, how soon: every number of speed, size or memory that is stated anywhere comes from here.
//!
//! `cargo bench` lists the measurements, `cargo bench -- NAME [ARGUMENTS]` makes one. Speed is told as a ratio to a peer that
//! runs in the same minute on the same machine, for a number alone says more of the machine than of the program.
//! Each module is one measurement; [`common`] has what several need. A measurement that has a bound fails if it is missed.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::print_stdout,
    clippy::print_stderr
)]

mod backlog;
mod commands;
mod common;
mod daemon;
mod fairness;
mod idle;
mod journal_growth;
mod latency;
mod limits;
mod memory;
mod round_trips;
mod send_files;
mod sender;
mod start;

use std::process::ExitCode;

/// What a measurement says of its bounds: which one was missed, and by how much.
type Verdict = Result<(), String>;

/// A measurement.
struct Bench {
    name: &'static str,
    /// What it shows, and its arguments.
    about: &'static str,
    run: fn(&[String]) -> Verdict,
}

const BENCHES: &[Bench] = &[
    Bench {
        name: "backlog",
        about: "[FILES [filled]] many files at the start, and after a restart; `filled`: without the uploads",
        run: backlog::run,
    },
    Bench { name: "commands", about: "how soon the commands answer on a journal of 100,000 jobs", run: commands::run },
    Bench {
        name: "daemon",
        about: "[FILES [ROUNDS]] files per second and processor time from a full folder to durable results, beside the SDK with watchdog",
        run: daemon::run,
    },
    Bench {
        name: "fairness",
        about: "[HEAP [PROBES]] how long a file of one pipeline takes while another pipeline has a heap of them",
        run: fairness::run,
    },
    Bench {
        name: "idle",
        about: "[SECONDS] what the daemon takes with 100,000 finished files and nothing to do",
        run: idle::run,
    },
    Bench {
        name: "journal-growth",
        about: "[FILES [KEPT]] the journal's size over so many lifecycles, with so many absent records kept",
        run: journal_growth::run,
    },
    Bench {
        name: "latency",
        about: "[SECONDS [RATE]] from a writer's close() to the open on the wire, at so many files per second",
        run: latency::run,
    },
    Bench {
        name: "limits",
        about: "[SECONDS] whether limits of files and bytes per second are obeyed, over windows of so many seconds",
        run: limits::run,
    },
    Bench {
        name: "memory",
        about: "[MIB] memory of sixteen uploads at once, and allocations of a chunk",
        run: memory::run,
    },
    Bench {
        name: "round-trips",
        about: "[FILES] small files over a distance of 20 ms, so many for each that goes at a time",
        run: round_trips::run,
    },
    Bench {
        name: "send-files",
        about: "[FILES [MIB]] the library beside the official SDK and a bare WebSocket loop, small files and large",
        run: send_files::run,
    },
    Bench {
        name: "start",
        about: "[build] how large the program is, and how soon it is ready; `build`: and how long it compiles",
        run: start::run,
    },
];

fn main() -> ExitCode {
    // Cargo adds a switch of its own.
    let args: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let Some((name, rest)) = args.split_first() else {
        println!("usage: cargo bench -- NAME [ARGUMENTS]\n");
        for bench in BENCHES {
            println!("  {:16} {}", bench.name, bench.about);
        }
        return ExitCode::SUCCESS;
    };
    if name == sender::SENDER {
        return sender::run(rest).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    let Some(bench) = BENCHES.iter().find(|bench| bench.name == *name) else {
        eprintln!("there is no measurement {name:?}; `cargo bench` lists them");
        return ExitCode::from(2);
    };
    println!("{}\n", common::machine());
    match (bench.run)(rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(missed) => {
            println!("\nMISSED: {missed}");
            ExitCode::FAILURE
        }
    }
}
