//! A wall clock that jumps: nothing waits for it, nothing is lost or sent again by it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use rocketride_ingest::sandbox::{Effect, Rule};

use crate::harness::{Daemon, Host, assert_sent_once, engine, wait_for};
use crate::mount::skipped;

/// Put before the C library, this adds the seconds that stand in a file to the wall clock, and to no other.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *now) {
    int result = (int)syscall(SYS_clock_gettime, id, now);
    const char *file = getenv("CLOCK_OFFSET");
    if (result == 0 && id == CLOCK_REALTIME && file) {
        char text[32] = {0};
        int fd = open(file, O_RDONLY | O_CLOEXEC);
        if (fd >= 0) {
            if (read(fd, text, sizeof text - 1) > 0) now->tv_sec += atoll(text);
            close(fd);
        }
    }
    return result;
}
"#;

const DAY: i64 = 24 * 3600;
const YEAR: i64 = 365 * DAY;

/// The wall clock of one host.
struct Clock {
    shim: PathBuf,
    offset: PathBuf,
}

impl Clock {
    /// None, said aloud, where there is no C compiler.
    fn new(host: &Host) -> Option<Self> {
        let (source, shim) = (host.write("clock.c", SHIM), host.path("clock.so"));
        let mut cc = Command::new("cc");
        let built = cc.args(["-shared", "-fPIC", "-o"]).args([&shim, &source]).status();
        if !built.is_ok_and(|status| status.success()) {
            skipped("there is no C compiler for a clock that can be set");
            return None;
        }
        let clock = Self { shim, offset: host.path("offset") };
        clock.set(0);
        Some(clock)
    }

    /// The clock now goes wrong by so many seconds.
    fn set(&self, seconds: i64) {
        // Replaced, not written: the daemon reads it all the time.
        fs::write(self.offset.with_extension("new"), seconds.to_string()).unwrap();
        fs::rename(self.offset.with_extension("new"), &self.offset).unwrap();
    }

    fn start(&self, host: &Host, args: &[&str]) -> Daemon {
        let mut command = host.command(args);
        command.env("LD_PRELOAD", &self.shim).env("CLOCK_OFFSET", &self.offset);
        host.spawn(command)
    }
}

/// The year in which a file was delivered, by the daemon's clock.
fn year(host: &Host, name: &str) -> i64 {
    let result = host.result(name).unwrap();
    result["completed_at"].as_str().unwrap()[..4].parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_wants_sent_again_is_sent_though_the_clock_was_set_back() {
    let (host, engine) = (Host::new(), engine().await);
    let Some(clock) = Clock::new(&host) else { return };
    host.configure(&engine.uri(), "");
    let daemon = clock.start(&host, &["run"]);
    let path = host.write("in/a.txt", "a");
    daemon.logged("\"message\":\"delivered\"").await;
    clock.set(-DAY);
    assert_eq!(host.output(&["retry", "--force", path.to_str().unwrap()]).0, 0);
    wait_for("its end", || {
        let adopted = "the result of an interrupted attempt stands there; not sent again";
        daemon.messages("delivered").len() == 2 || !daemon.messages(adopted).is_empty()
    })
    .await;
    daemon.stop().await;
    assert_eq!((engine.delivered(), host.journaled("in", "done").await), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_loses_nothing_and_delays_nothing() {
    let (host, engine) = (Host::new(), engine().await);
    let Some(clock) = Clock::new(&host) else { return };
    host.configure(&engine.uri(), "");
    host.edit_config("initial = \"100ms\"\nmax = \"1s\"", "initial = \"2s\"\nmax = \"2s\"");
    let daemon = clock.start(&host, &["run"]);
    let first = host.drop_files("first", 2);
    host.all_have_results(&first).await;
    let now = year(&host, &first[0]);

    // Each jump comes between a failure and its retry, and while other files settle. A leap ahead, back to where it
    // was, far back (before the epoch at last), and home.
    let mut all = Vec::new();
    for (n, offset) in [10 * YEAR, 0, -DAY, -10 * YEAR, -100 * YEAR, 0].into_iter().enumerate() {
        let fails = engine.faults().add(Rule::open(Effect::Mask).times(1));
        let retried = host.drop_files(&format!("retried{n}-"), 1);
        wait_for("a failure", || engine.faults().hits(fails) == 1).await;
        let settling = host.drop_files(&format!("settling{n}-"), 2);
        clock.set(offset);
        let after = host.drop_files(&format!("after{n}-"), 2);
        host.all_have_results(&[retried.clone(), settling.clone(), after.clone()].concat()).await;
        assert_eq!(host.result(&retried[0]).unwrap()["attempts"], 2, "the failure and the retry");
        let expected = (now + offset / YEAR).max(1970);
        let found = year(&host, &after[0]);
        assert!((found - expected).abs() <= 1, "the clock was not set: {found} and not {expected}");
        host.assert_delivered_uncharged(&[settling.clone(), after.clone()].concat());
        all.extend([settling, after].concat());
    }
    // Before the epoch time passes, too: what fails there is tried again there.
    clock.set(-100 * YEAR);
    let fails = engine.faults().add(Rule::open(Effect::Mask).times(1));
    let retried = host.drop_files("retried before the epoch", 1);
    host.all_have_results(&retried).await;
    assert_eq!(engine.faults().hits(fails), 1);
    clock.set(0);
    assert_sent_once(&engine, &all);
    daemon.stop().await;

    // Starts under another clock, with and without the journal, send nothing again.
    let before = engine.delivered();
    for offset in [-DAY, YEAR] {
        clock.set(offset);
        for forget in [false, true] {
            if forget {
                fs::remove_dir_all(host.path("state/journal")).unwrap();
            }
            let mut daemon = clock.start(&host, &["run", "--once"]);
            assert!(daemon.ended().await.success(), "{}", daemon.log());
            assert_eq!(engine.delivered(), before);
        }
    }
}
