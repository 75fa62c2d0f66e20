//! A killed process: everything that was acknowledged is there.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::*;

/// Names the state directory to the child, which is this test binary running [`child_writes_until_it_is_killed`].
const CHILD_DIR: &str = "JOURNAL_TEST_CHILD_DIR";
const ACKNOWLEDGED: &str = "acknowledged ";
const WRITERS: usize = 8;

/// The child's side; without its variable it is an empty test.
#[tokio::test]
async fn child_writes_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let (journal, _) = Journal::open(Path::new(&dir)).unwrap();
    let run = std::process::id();
    let writers = (0..WRITERS).map(|writer| {
        let journal = journal.clone();
        tokio::spawn(async move {
            for n in 0_u64.. {
                let path = format!("{run}-{writer}-{n}");
                apply(&journal, &path, admit(n, 1)).await.unwrap();
                let job = if n % 2 == 0 {
                    apply(&journal, &path, Event::Claim { at: 2 }).await.unwrap()
                } else {
                    apply(&journal, &path, Event::Gone).await.unwrap()
                };
                writeln!(io::stdout(), "{ACKNOWLEDGED}{path} {}", job.state.name()).unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn everything_acknowledged_survives_a_kill() {
    let dir = TempDir::new().unwrap();
    let mut expected = Vec::new();
    for acknowledgements in [1, 100, 500] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "journal::tests::crash::child_writes_until_it_is_killed", "--nocapture"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut read = |expected: &mut Vec<(String, String)>| {
            let line = lines.next()?;
            // The test runner writes in front of the first line. A line that the kill cut short counts not at all.
            if let Some((path, state)) = line.split_once(ACKNOWLEDGED).and_then(|(_, rest)| rest.split_once(' '))
                && crate::job::STATE_NAMES.contains(&state)
            {
                expected.push((path.to_owned(), state.to_owned()));
            }
            Some(())
        };
        let enough = expected.len() + acknowledgements;
        while expected.len() < enough {
            read(&mut expected).expect("the child must write on");
        }
        child.kill().unwrap();
        while read(&mut expected).is_some() {}
        child.wait().unwrap();

        let (journal, opened) = Journal::open(dir.path()).unwrap();
        assert_eq!(opened.quarantined, None);
        for (path, state) in &expected {
            let job = journal.get(key(path)).unwrap().unwrap_or_else(|| panic!("{path} is lost"));
            assert_eq!(job.state.name(), state, "{path}");
        }
        journal.close().await;
    }
}
