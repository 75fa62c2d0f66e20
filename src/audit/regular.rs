//! The daemon's own audit: now and then, and said aloud only if something is wrong.

use std::sync::Arc;
use std::time::Duration;

use super::{Audit, Findings, Pace, Report, Subject};
use crate::blocking::blocking;
use crate::delivery::spool::Spool;
use crate::folder::Folder;
use crate::identity::Identity;
use crate::journal::{Failure, Journal};
use crate::show::Shown;

/// The first audit comes this long after the start: what was found then has been taken in.
const FIRST: Duration = Duration::from_secs(600);
/// Time between two audits.
const INTERVAL: Duration = Duration::from_secs(6 * 3600);
/// Both are longer by up to this part of themselves, so that many hosts do not read one file server at once.
const JITTER: f64 = 0.2;
/// Differences of one watch that the log names.
const LOGGED: usize = 20;

/// Audits the folders that the daemon has then, for as long as it lives. Errors: the journal cannot be read.
pub async fn regularly(
    folders: impl Fn() -> Vec<Arc<Folder>> + Send,
    journal: Journal,
    identity: Arc<Identity>,
    spool: Arc<Spool>,
) -> Failure {
    every(FIRST, INTERVAL, folders, journal, identity, spool).await
}

async fn every(
    first: Duration,
    interval: Duration,
    folders: impl Fn() -> Vec<Arc<Folder>> + Send,
    journal: Journal,
    identity: Arc<Identity>,
    spool: Arc<Spool>,
) -> Failure {
    let mut wait = first;
    loop {
        tokio::time::sleep(wait.mul_f64(1.0 + JITTER * fastrand::f64())).await;
        wait = interval;
        let audit = Audit {
            journal: journal.clone(),
            identity: identity.clone(),
            spool: spool.clone(),
            subjects: folders().iter().map(Subject::of_folder).collect(),
            pace: Pace::GENTLE,
        };
        match blocking(move || audit.run()).await {
            Ok(report) => say(&report),
            Err(failure) => return failure,
        }
    }
}

/// Tells the log.
fn say(report: &Report) {
    for watch in &report.watches {
        differences(&watch.watch, &watch.differences);
        tracing::debug!(
            watch = %watch.watch, records = watch.records, inputs = watch.inputs, results = watch.results,
            in_flight = watch.in_flight, differences = watch.differences.total, notes = watch.notes.total,
            unknown = watch.unknown.total, "audited"
        );
    }
    differences("", &report.spool);
}

fn differences(watch: &str, found: &Findings) {
    for finding in found.named.iter().take(LOGGED) {
        tracing::warn!(watch, path = %Shown(&finding.path), what = finding.what, "the audit found a difference");
    }
    let unsaid = found.total.saturating_sub(LOGGED as u64);
    if unsaid > 0 {
        tracing::warn!(
            watch,
            others = unsaid,
            found_once = found.unconfirmed,
            "the audit found more differences; those found once were not looked at again, and may have been on their way"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, Environment};
    use crate::folder::Availability;
    use crate::fs::Root;

    #[tokio::test]
    async fn it_audits_again_and_again_until_the_journal_cannot_be_read() {
        let temp = tempfile::tempdir().unwrap();
        let text = format!(
            "[server]\nuri = \"http://127.0.0.1\"\n[state]\ndirectory = {0:?}\n[pipelines.p]\nfile = \"p.pipe\"\n\
             [[watch]]\nname = \"w\"\npath = {1:?}\npipeline = \"p\"\n",
            temp.path().join("state"),
            temp.path().join("in")
        );
        for folder in ["state", "in"] {
            std::fs::create_dir(temp.path().join(folder)).unwrap();
        }
        let config = Config::parse(&text, Path::new("/etc/config.toml"), &Environment::default()).unwrap();
        let (journal, _) = Journal::open(&config.state.directory).unwrap();
        let identity = Arc::new(Identity::load(&config.state.directory, None, false).unwrap());
        let spool = Arc::new(Spool::open(&config.state, identity.clone()).unwrap());
        let (folder, _changed) = Folder::new(config.watches[0].clone());
        folder.set_availability(Availability::Open(Arc::new(Root::open(&config.watches[0].path).unwrap())));

        // Without a record to read, a closed journal would not be noticed.
        journal.recover(&[(config.watches[0].id, "w".into())], 1).await.unwrap();

        let short = Duration::from_millis(10);
        let audits = every(short, short, move || vec![folder.clone()], journal.clone(), identity, spool);
        let mut audits = tokio::spawn(audits);
        assert!(tokio::time::timeout(10 * short, &mut audits).await.is_err(), "a clean one is no reason to end");
        journal.close().await;
        assert_eq!(audits.await.unwrap(), Failure::Closed);
    }
}
