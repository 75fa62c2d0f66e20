//! How large the program is, how many crates are in it, and how soon it is ready.
//!
//! `build`: and how long it compiles from scratch, in a folder of its own.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Verdict;
use crate::common::{Engine, Host, PROGRAM, median, millis, scratch};

/// The program's file, in bytes.
const SIZE_BOUND: u64 = 20 << 20;
/// From the start of the process to READY=1, with nothing in its state directory.
const READY_BOUND: Duration = Duration::from_millis(500);
const TIMES: usize = 11;

pub fn run(args: &[String]) -> Verdict {
    let size = fs::metadata(PROGRAM).unwrap().len();
    println!("{:32} {:>10.1} MiB", "the program", size as f64 / f64::from(1 << 20));
    println!("{:32} {:>10}", "crates in it", crates());
    for argument in ["--version", "--help"] {
        let time = median((0..TIMES).map(|_| timed(argument)).collect());
        println!("{argument:32} {:>10.1} ms", millis(time));
    }
    let engine = Engine::start(4);
    let ready = median((0..TIMES).map(|_| ready(&engine)).collect());
    println!("{:32} {:>10.1} ms", "ready, with an empty state", millis(ready));
    if args.first().is_some_and(|argument| argument == "build") {
        println!("{:32} {:>10.0} s", "cargo build --release", build().as_secs_f64());
    }
    if size > SIZE_BOUND {
        return Err(format!("the program has {size} bytes"));
    }
    if ready > READY_BOUND {
        return Err(format!("ready after {:.0} ms", millis(ready)));
    }
    Ok(())
}

/// Those that the program is linked of, our own included.
fn crates() -> usize {
    let mut tree = cargo(&["tree", "--edges", "normal", "--prefix", "none", "--format", "{p}"]);
    let output = tree.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| line.replace(" (*)", ""))
        .collect::<BTreeSet<_>>()
        .len()
}

fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.args(args).current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

fn timed(argument: &str) -> Duration {
    let began = Instant::now();
    let status = Command::new(PROGRAM).arg(argument).stdout(Stdio::null()).status().unwrap();
    assert!(status.success());
    began.elapsed()
}

/// From the start to the word that the service manager waits for.
fn ready(engine: &Engine) -> Duration {
    let host = Host::new();
    host.configure(engine.uri(), "", "");
    let socket = host.path("notify");
    let notified = UnixDatagram::bind(&socket).unwrap();
    notified.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let began = Instant::now();
    let daemon = host.start_with("warn", &[("NOTIFY_SOCKET", socket.to_str().unwrap())]);
    let mut message = [0; 4096];
    loop {
        let length = notified.recv(&mut message).unwrap();
        if message[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
            break;
        }
    }
    let time = began.elapsed();
    daemon.stop();
    time
}

fn build() -> Duration {
    let target = scratch();
    let mut command = cargo(&["build", "--release", "--locked", "--target-dir"]);
    let began = Instant::now();
    assert!(command.arg(target.path()).status().unwrap().success());
    began.elapsed()
}
