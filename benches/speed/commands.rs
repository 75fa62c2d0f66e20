//! How soon the commands answer on a journal of 100,000 jobs.
//!
//! The real daemon runs on a folder of as many real files, with a pipeline that cannot be reached, so that nothing moves
//! on. Measured are the answer over the socket, and the command as an operator waits for it, its start included. Fails if a
//! first page takes longer than [`BOUND`]; commands that go through every record are shown and not judged.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rocketride_ingest::clock::unix_millis;
use rocketride_ingest::fs::{Look, Root};
use rocketride_ingest::job::{Event, FileKey, Generation, WatchId};
use rocketride_ingest::journal::Journal;

use crate::Verdict;
use crate::common::{Host, median, millis};

/// Jobs in the journal.
const JOBS: usize = 100_000;
/// Files in each folder.
const PER_FOLDER: usize = 500;
/// What a first page may take.
const BOUND: Duration = Duration::from_millis(100);
/// Measurements of each kind.
const TIMES: usize = 21;

/// One job in so many is in the rarest states.
const RARE: usize = 1000;

pub fn run(_: &[String]) -> Verdict {
    let host = &Host::new();
    let began = Instant::now();
    fill(host);
    println!("{JOBS} files and jobs were made in {:.1} s", began.elapsed().as_secs_f64());
    host.configure("http://127.0.0.1:9", "", "");
    let daemon = host.start("debug");
    println!(
        "the daemon had looked through them {:.1} s after its start",
        daemon.logged("scan complete").as_secs_f64()
    );
    println!("\n{:46} {:>10} {:>10}", "median of each (ms)", "answer", "command");
    let file = host.path(name(PER_FOLDER * 7 + 1));
    let file = file.to_str().unwrap();
    let hidden = host.path("in/.hidden");
    let hidden = hidden.to_str().unwrap();
    let mut late = Vec::new();
    for (args, path, judged) in [
        (vec!["status", "--json"], "/api/status".to_owned(), true),
        (vec!["list", "--limit", "100"], "/api/jobs?limit=100".to_owned(), true),
        (vec!["list", "--limit", "100", "--state", "pending"], "/api/jobs?limit=100&state=pending".to_owned(), true),
        (vec!["list", "--limit", "100", "--state", "done"], "/api/jobs?limit=100&state=done".to_owned(), true),
        (vec!["list", "--limit", "100", "--state", "failed"], "/api/jobs?limit=100&state=failed".to_owned(), true),
        (vec!["list", "--limit", "100", "--state", "blocked"], "/api/jobs?limit=100&state=blocked".to_owned(), true),
        (vec!["list", "--limit", "100", "--state", "ignored"], "/api/jobs?limit=100&state=ignored".to_owned(), true),
        (vec!["list", "--limit", "100", "--state", "vanished"], "/api/jobs?limit=100&state=vanished".to_owned(), true),
        (vec!["list", "--limit", "100", "--state", "parked"], "/api/jobs?limit=100&state=parked".to_owned(), true),
        (vec!["explain", file], format!("/api/explain?path={file}"), true),
        (vec!["explain", hidden], format!("/api/explain?path={hidden}"), true),
        (vec!["retry", "--dry-run", file], String::new(), true),
        (vec!["forget", "--dry-run", file], String::new(), true),
        (vec!["pause", "in"], String::new(), true),
        (vec!["resume", "in"], String::new(), true),
        (vec![], "/metrics".to_owned(), true),
        (vec![], "/readyz".to_owned(), true),
        (vec!["retry", "--failed", "--dry-run"], String::new(), false),
    ] {
        let answer = (!path.is_empty()).then(|| typical(|| drop(host.get(&path))));
        let command = (!args.is_empty()).then(|| typical(|| once(host, &args)));
        let shown = if args.is_empty() { path } else { args.join(" ").replace(host.path("").to_str().unwrap(), "/") };
        let [a, c] = [answer, command].map(|time| time.map_or("-".to_owned(), |time| format!("{:.1}", millis(time))));
        println!("{shown:46} {a:>10} {c:>10}");
        // Rows in a rare state stand far apart: the first page is soon there, the hundredth row is not.
        if judged && answer.or(command).is_some_and(|time| time > BOUND) {
            late.push(shown);
        }
    }
    if late.is_empty() {
        return Ok(());
    }
    Err(format!("later than {} ms: {}", BOUND.as_millis(), late.join("; ")))
}

fn name(n: usize) -> PathBuf {
    format!("in/{:03}/file-{n:06}.txt", n / PER_FOLDER).into()
}

/// Makes the files, and a journal that knows them in every state.
fn fill(host: &Host) {
    let inbox = host.path("in");
    for folder in 0..JOBS / PER_FOLDER {
        fs::create_dir_all(inbox.join(format!("{folder:03}"))).unwrap();
    }
    let root = Root::open(&inbox).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (journal, _) = Journal::open(&host.path("state")).unwrap();
    runtime.block_on(async {
        journal.recover(&[(WatchId::of("in"), "in".to_owned())], unix_millis()).await.unwrap();
        let mut events = Vec::new();
        for n in 0..JOBS {
            let name = name(n);
            let rel = name.strip_prefix("in").unwrap();
            // What vanished is not there.
            let generation = if n % RARE == 3 {
                Generation { ino: Some(1), size: 7, mtime_ns: 1, ctime_ns: Some(1) }
            } else {
                fs::write(host.path(&name), "content").unwrap();
                let Look::File(seen) = root.look(rel) else { panic!("{} is not there", name.display()) };
                seen.generation
            };
            let key = FileKey::new(WatchId::of("in"), rel);
            events.extend(history(n, generation).into_iter().map(|event| (key, rel.to_owned(), event)));
            if events.len() > 5000 || n + 1 == JOBS {
                let outcomes = journal.apply_all(std::mem::take(&mut events)).await.unwrap();
                let refused = outcomes.iter().find_map(|outcome| outcome.as_ref().err());
                assert!(refused.is_none(), "{refused:?}");
            }
        }
        journal.close().await;
    });
}

/// What happened to a file: most are done, a fifth waits, some were given up, and few are in each other state.
fn history(n: usize, generation: Generation) -> Vec<Event> {
    let at = unix_millis();
    let mut events = vec![Event::Admit { generation, at }];
    let error = "the node says no: a message of the usual length, with a cause".to_owned();
    match n % RARE {
        3 => events.push(Event::Gone),
        4 => events.extend([Event::Claim { at }, Event::Block { due: at + 3_600_000, error }]),
        5 => events.push(Event::Forget),
        6..30 => events.extend([Event::Claim { at }, Event::Fail { error, sidecar: None, charged: true }]),
        30..230 => {}
        _ => events.extend([
            Event::Claim { at },
            Event::Delivered {
                sha256: [7; 32],
                sidecar: format!("file-{n:06}.txt.result.json"),
                post_action: false,
                warning: None,
            },
        ]),
    }
    events
}

/// How long it usually takes.
fn typical(mut what: impl FnMut()) -> Duration {
    median((0..TIMES).map(|_| timed(&mut what)).collect())
}

fn timed(what: &mut impl FnMut()) -> Duration {
    let began = Instant::now();
    what();
    began.elapsed()
}

fn once(host: &Host, args: &[&str]) {
    let output = host.command(args).output().unwrap();
    // `status` says by 1 that the pipeline is down.
    assert!(matches!(output.status.code(), Some(0 | 1)), "{args:?}: {output:?}");
}
