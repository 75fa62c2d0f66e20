//! The audit: nothing to say after an honest run, and every way in which disk, journal and results may differ is named.

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rocketride_ingest::audit::{Audit, Findings, Pace, Report, Subject, WatchReport};
use rocketride_ingest::config::{Config, Environment};
use rocketride_ingest::delivery::spool::Spool;
use rocketride_ingest::identity::Identity;
use rocketride_ingest::sandbox::Sandbox;

use crate::harness::{Host, engine, open_journal, read_json};

/// Audits a host on which no daemon runs.
pub async fn audit(host: &Host) -> Report {
    audit_after(host, Pace::ALONE.grace).await
}

/// As [`audit`]; inputs that are older are expected to be known.
async fn audit_after(host: &Host, grace: Duration) -> Report {
    let config = Config::load(&host.path("config.toml"), &Environment::default()).unwrap();
    let journal = open_journal(&config.state.directory).await;
    // A host may have been given away: then the results are another user's.
    let uid = std::fs::metadata(&config.state.directory).unwrap().uid();
    let identity = Identity::load(&config.state.directory, None, false).unwrap();
    let identity = Arc::new(Identity { uid, ..identity });
    let audit = Audit {
        journal: journal.clone(),
        identity: identity.clone(),
        spool: Arc::new(Spool::open(&config.state, identity).unwrap()),
        subjects: config.watches.iter().map(Subject::of_watch).collect(),
        pace: Pace { grace, ..Pace::ALONE },
    };
    let report = tokio::task::spawn_blocking(move || audit.run()).await.unwrap().unwrap();
    journal.close().await;
    report
}

fn lines(findings: &Findings) -> Vec<String> {
    findings.named.iter().map(|finding| format!("{}: {}", finding.path.display(), finding.what)).collect()
}

/// Everything that was found, of whatever kind.
pub fn found(report: &Report) -> Vec<String> {
    let of_watch = |watch: &WatchReport| [&watch.differences, &watch.notes, &watch.unknown].map(lines).concat();
    report.watches.iter().flat_map(of_watch).chain(lines(&report.spool)).collect()
}

/// A host whose files are delivered: `a.txt`, `sub/b.txt`.
async fn delivered() -> (Host, Sandbox) {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    host.write("in/a.txt", "a");
    host.write("in/sub/b.txt", "bb");
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    (host, engine)
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_honest_run_there_is_nothing_to_say() {
    let (host, engine) = (Host::new(), engine().await);
    std::fs::create_dir(host.path("gone")).unwrap();
    let second = format!(
        "max_size = \"100B\"\n[[watch]]\nname = \"gone\"\npath = {:?}\npipeline = \"test\"\nsettle = \"300ms\"\non_success = \"delete\"\n",
        host.path("gone")
    );
    host.configure(&engine.uri(), &second);
    for path in ["in/a.txt", "in/sub/b.txt", "gone/c.txt"] {
        host.write(path, path);
    }
    host.write("in/bad.txt", [0; 101]);
    let (code, _, stderr) = host.output(&["run", "--once"]);
    assert_eq!(code, 1, "one of them is too large: {stderr}");
    assert!(host.error("bad.txt").is_some());

    let report = audit(&host).await;
    assert_eq!((report.differences(), found(&report)), (0, vec![]), "{report:?}");
    let counts: Vec<_> = report
        .watches
        .iter()
        .map(|watch| (watch.watch.as_str(), watch.counted, watch.records, watch.inputs, watch.results, watch.in_flight))
        .collect();
    assert_eq!(counts, [("in", true, 3, 3, 2, 0), ("gone", true, 1, 0, 0, 0)]);

    std::fs::remove_file(host.path("in/bad.txt.error.json")).unwrap();
    assert_eq!(found(&audit(&host).await), ["bad.txt: its error file bad.txt.error.json is missing"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_a_replaced_and_a_wrong_result_are_named() {
    let (host, _engine) = delivered().await;
    let (a, b) = (host.path("in/a.txt.result.json"), host.path("in/sub/b.txt.result.json"));
    let original = std::fs::read_to_string(&b).unwrap();
    std::fs::remove_file(&a).unwrap();
    let hash = read_json(&b).unwrap()["sha256"].as_str().unwrap().to_owned();
    std::fs::write(&b, original.replace(&hash, &"0".repeat(64))).unwrap();
    let report = audit(&host).await;
    assert_eq!(report.differences(), 2);
    let mut differences = lines(&report.watches[0].differences);
    differences.sort();
    let wrong = "sub/b.txt: b.txt.result.json is the result of another content than the one delivered";
    assert_eq!(differences, ["a.txt: its result a.txt.result.json is missing", wrong]);

    std::fs::write(&b, "{}").unwrap();
    let report = audit(&host).await;
    let replaced = "sub/b.txt: its result b.txt.result.json was replaced by something that is not ours";
    assert!(lines(&report.watches[0].differences).contains(&replaced.to_owned()), "{report:?}");
    assert_eq!(
        lines(&report.watches[0].notes),
        ["sub/b.txt.result.json: not ours, and never sent, because of its name"]
    );
    assert!(serde_json::to_value(&report).unwrap()["watches"][0]["differences"]["total"] == 2);

    // What is changed or gone is another matter than what was delivered.
    std::fs::write(host.path("in/a.txt"), "another").unwrap();
    std::fs::remove_file(host.path("in/sub/b.txt")).unwrap();
    assert_eq!(audit(&host).await.differences(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_nobody_took_in_is_a_difference_once_it_is_old_enough_and_nobody_writes_to_it() {
    let (host, _engine) = delivered().await;
    let late = host.write("in/late.txt", "late");
    let report = audit(&host).await;
    assert_eq!((report.differences(), report.watches[0].in_flight), (0, 1), "it may still be settling");
    // Longer than it is to settle.
    tokio::time::sleep(Duration::from_millis(400)).await;
    let missed = ["late.txt: nobody writes to it any more, and the journal does not know it"];
    assert_eq!(found(&audit_after(&host, Duration::ZERO).await), missed);
    if crate::harness::writers_are_seen(&host) {
        let writer = std::fs::File::options().append(true).open(late).unwrap();
        let report = audit_after(&host, Duration::ZERO).await;
        assert_eq!((report.differences(), report.watches[0].in_flight), (0, 1));
        drop(writer);
    }
    assert_eq!(host.output(&["run", "--once"]).0, 0);
    assert_eq!(audit_after(&host, Duration::ZERO).await.differences(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_strange_is_noted_and_what_lies_outside_is_never_read() {
    let (host, _engine) = delivered().await;
    let id = "6ba7b811-9dad-11d1-80b4-00c04fd430c8";
    host.write("in/report.error.json", "mine");
    host.write(format!("in/sub/.rri-{id}"), "in the middle");
    host.write(format!("in/.rri-tmp-{id}"), "half");
    host.write("in/.rri-mine", "mine");
    host.write("outside/secret.txt", "secret");
    symlink(host.path("outside"), host.path("in/link")).unwrap();
    symlink(host.path("outside/secret.txt"), host.path("in/link.txt")).unwrap();
    let report = audit_after(&host, Duration::ZERO).await;
    assert_eq!((report.differences(), report.watches[0].inputs), (0, 2), "{report:?}");
    let mut notes = lines(&report.watches[0].notes);
    notes.sort();
    assert_eq!(
        notes,
        [
            ".rri-mine: a hidden name of this program that it does not use".to_owned(),
            format!(".rri-tmp-{id}: a temp file that no upload writes to; the next start removes it"),
            "report.error.json: not ours, and never sent, because of its name".to_owned(),
            format!("sub/.rri-{id}: a file in the middle of a post-action that no job knows of; it is left as it is"),
        ]
    );
    assert!(Path::new(&host.path(format!("in/.rri-tmp-{id}"))).exists(), "the audit changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_looked_at_is_unknown_and_no_difference() {
    let (host, _engine) = delivered().await;
    std::fs::remove_file(host.path("in/a.txt.result.json")).unwrap();
    std::fs::rename(host.path("in"), host.path("elsewhere")).unwrap();
    let report = audit(&host).await;
    assert_eq!((report.differences(), report.watches[0].unknown.total), (0, 1), "{report:?}");
    assert!(lines(&report.watches[0].unknown)[0].contains("the folder is unavailable"), "{report:?}");
    assert!(report.watches[0].counted, "the ledger needs no folder");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_in_the_spool_that_no_job_waits_for_is_a_difference() {
    let (host, _engine) = delivered().await;
    let result = read_json(&host.path("in/a.txt.result.json")).unwrap();
    let name = format!("state/spool/{}.json", result["object_id"].as_str().unwrap());
    let spooled = host.write(&name, result.to_string());
    let report = audit(&host).await;
    assert_eq!(report.differences(), 1);
    let expected = format!("{}: a result in the spool that no job waits for", spooled.display());
    assert_eq!(found(&report), [expected]);
}
