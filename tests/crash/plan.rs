//! The cases: which files lie there, and where the daemon is killed, one start after the other.

use std::fmt;
use std::os::unix::fs::FileExt;
use std::time::SystemTime;

use rocketride_ingest::crash::POINTS;

use crate::stage::{End, Stage};

/// What happens on a stage before all must come to rest.
#[derive(Clone)]
pub enum Step {
    /// A start that dies at this point (`NAME` or `NAME:NTH`).
    Crash(String),
    /// A start that dies at this point, if it comes to it.
    MayCrash(String),
    /// A start that ends by itself.
    Run,
    /// What somebody does meanwhile, and its name.
    Do(&'static str, fn(&mut Stage)),
}

/// One case.
pub struct Case {
    pub ends: Vec<End>,
    pub steps: Vec<Step>,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.ends)?;
        self.steps.iter().try_for_each(|step| match step {
            Step::Crash(point) => write!(f, ", crash at {point}"),
            Step::MayCrash(point) => write!(f, ", crash at {point} if it comes to it"),
            Step::Run => write!(f, ", run"),
            Step::Do(name, _) => write!(f, ", {name}"),
        })
    }
}

fn crash(point: impl Into<String>) -> Step {
    Step::Crash(point.into())
}

fn case(ends: &[End], steps: impl IntoIterator<Item = Step>) -> Case {
    Case { ends: ends.to_vec(), steps: steps.into_iter().collect() }
}

/// Points that a first start with one file of each kind comes to, and at least how often.
const FIRST: &[(&str, u64)] = &[
    ("state.made", 1),
    ("journal.locked", 1),
    // The format, then the journal's second identity.
    ("state-file.created", 2),
    ("state-file.written", 2),
    ("state-file.synced", 2),
    ("state-file.renamed", 2),
    ("state-file.durable", 2),
    ("journal.id-gone", 1),
    ("journal.directory-made", 1),
    ("journal.database-opened", 1),
    ("journal.meta-inserted", 1),
    ("journal.names-durable", 1),
    // The watches, then at least admitted, claimed, delivered, finished.
    ("commit.begun", 5),
    ("commit.applied", 5),
    ("journal.flushed", 6),
    ("journal.synced", 6),
    ("commit.answering", 5),
    ("whole-file.created", 1),
    ("whole-file.written", 1),
    ("whole-file.synced", 1),
    ("whole-file.renamed", 1),
    ("whole-file.durable", 1),
    ("daemon.recovered", 1),
    ("claim.durable", 2),
    ("temp.created", 4),
    ("upload.granted", 2),
    ("upload.closing", 2),
    ("upload.closed", 3),
    // Three results and an error file.
    ("sidecar.written", 4),
    ("sidecar.synced", 4),
    // Of the one that is to be moved.
    ("text.synced", 1),
    ("text.renamed", 1),
    ("sidecar.renamed", 4),
    ("sidecar.durable", 4),
    ("delivered.placed", 3),
    ("delivered.recorded", 3),
    ("failed.placed", 1),
    ("failed.recorded", 1),
    ("after.hidden", 2),
    ("after.hidden-durable", 2),
    ("after.unlinked", 1),
    ("after.unlinked-durable", 1),
    ("directory.made", 2),
    ("after.moved", 1),
    ("after.moved-durable", 1),
    // Its text, then the result itself.
    ("after.result-moved", 2),
    ("after.result-moved-durable", 2),
    ("finish.done", 2),
    ("finish.recorded", 2),
    ("daemon.closed", 1),
];

/// Every point of a first start, each time it is come to.
pub fn at_first_starts() -> Vec<Case> {
    let points = FIRST.iter().flat_map(|(name, times)| (1..=*times).map(move |nth| format!("{name}:{nth}")));
    points.map(|point| case(End::ALL, [crash(point)])).collect()
}

/// Crashes in the start after a crash, and in what only such a start does.
pub fn at_later_starts() -> Vec<Case> {
    use End::{Delete, Fail, Keep, Move};
    let mut cases = Vec::new();
    // Whatever the first crash left, every step of opening and recovering may be interrupted.
    for first in ["claim.durable", "sidecar.renamed"] {
        for second in [
            "journal.locked",
            "journal.database-opened",
            "journal.flushed",
            "journal.synced",
            "journal.names-durable",
            "commit.begun",
            "commit.applied",
            "journal.flushed:2",
            "journal.synced:2",
            "commit.answering",
            "recover.page",
            "daemon.recovered",
            "claim.durable",
        ] {
            cases.push(case(&[Keep], [crash(first), crash(second)]));
        }
    }
    // A first start that is interrupted twice.
    for (first, second) in [
        ("journal.directory-made", "journal.database-opened"),
        ("journal.meta-inserted", "journal.id-gone"),
        ("journal.names-durable", "state-file.renamed"),
        ("state-file.created:2", "state-file.written"),
        ("whole-file.synced", "whole-file.renamed"),
    ] {
        cases.push(case(&[Keep], [crash(first), crash(second)]));
    }
    // A result that is begun, that stands there, that is on its way with its input.
    for (ends, first, second) in [
        (&[Keep], "sidecar.written", "temp.swept"),
        (&[Fail], "sidecar.synced", "temp.swept"),
        (&[Move], "text.synced", "temp.swept"),
        (&[Move], "text.renamed", "text.renamed"),
        (&[Keep], "sidecar.renamed", "worker.adopting"),
        (&[Keep], "sidecar.durable", "delivered.recorded"),
        (&[Delete], "sidecar.renamed", "after.hidden"),
        (&[Delete], "delivered.recorded", "after.hidden-durable"),
        (&[Delete], "after.hidden", "after.unlinked"),
        (&[Delete], "after.unlinked", "finish.done"),
        (&[Delete], "finish.done", "finish.recorded"),
        (&[Move], "after.hidden", "directory.made"),
        (&[Move], "directory.made", "directory.made"),
        (&[Move], "after.hidden-durable", "after.moved"),
        (&[Move], "after.moved", "after.result-moved"),
        (&[Move], "after.moved-durable", "after.result-moved-durable"),
        (&[Move], "after.result-moved", "after.result-moved"),
        (&[Move], "after.result-moved:2", "finish.done"),
        (&[Fail], "failed.placed", "sidecar.renamed"),
    ] {
        cases.push(case(ends, [crash(first), crash(second)]));
    }
    // The journal is lost as well.
    let lost = Step::Do("the journal is deleted", |stage| {
        std::fs::remove_dir_all(stage.host.path("state/journal")).unwrap();
    });
    for (ends, first, second) in [
        (&[Keep], "sidecar.renamed", "intake.adopting"),
        (&[Delete], "sidecar.durable", "after.hidden"),
        (&[Delete], "after.hidden", "orphan.found"),
        (&[Delete], "after.hidden-durable", "after.unlinked"),
        (&[Move], "after.hidden", "after.moved"),
        (&[Move], "after.hidden", "journal.names-durable"),
    ] {
        cases.push(case(ends, [crash(first), lost.clone(), crash(second)]));
    }
    cases.extend(in_the_spool(&lost));
    // It is damaged: put aside, and that is interrupted.
    let damaged = Step::Do("the journal is damaged", |stage| {
        let db = std::fs::File::options().write(true).open(stage.host.path("state/journal/db")).unwrap();
        db.write_all_at(&[0xA5; 64], 0).unwrap();
        stage.quarantined += 1;
    });
    for second in ["journal.quarantined", "journal.id-gone", "journal.directory-made", "journal.meta-inserted"] {
        cases.push(case(&[Keep, Fail], [Step::Run, damaged.clone(), crash(second)]));
    }
    // What sled leaves that is killed while it opens.
    let snapshot = Step::Do("a snapshot is left unfinished", |stage| {
        drop(stage.host.write("state/journal/snap.0000000000000001.generating", "half a snapshot"));
    });
    cases.push(case(&[Keep], [crash("claim.durable"), snapshot, crash("journal.snapshot-moved")]));
    // The operator changes his mind between two starts.
    let keep = Step::Do("it is to be kept after all", |stage| stage.change(Delete, Keep));
    cases.push(case(&[Delete], [crash("after.hidden"), keep, crash("after.put-back")]));
    // A dead letter is delivered after all.
    let mended = Step::Do("the pipeline is mended and the file touched", |stage| {
        let input = std::fs::File::options().write(true).open(stage.input(Fail)).unwrap();
        input.set_modified(SystemTime::now()).unwrap();
        stage.change(Fail, Keep);
    });
    for second in ["sidecar.durable", "error-file.removed"] {
        cases.push(case(&[Fail], [Step::Run, mended.clone(), crash(second)]));
    }
    cases
}

/// A result that finds no place goes into the spool, and from there to its place once there is one.
fn in_the_spool(lost: &Step) -> Vec<Case> {
    use End::Spool;
    let mut cases = Vec::new();
    let obstruct = Step::Do("strangers take the names of the result", |stage| stage.obstruct());
    let clear = Step::Do("they go", |stage| stage.clear());
    for point in ["spool.written", "spool.synced", "spool.renamed", "spool.durable", "spool.recorded"] {
        cases.push(case(&[Spool], [obstruct.clone(), crash(point), clear.clone()]));
    }
    for second in ["sidecar.written", "sidecar.renamed", "delivered.recorded", "spool.removed"] {
        cases.push(case(&[Spool], [obstruct.clone(), crash("spool.recorded"), clear.clone(), crash(second)]));
    }
    for first in ["spool.durable", "spool.recorded"] {
        let steps = [obstruct.clone(), crash(first), lost.clone(), clear.clone(), crash("spool.removed")];
        cases.push(case(&[Spool], steps));
    }
    cases
}

/// How many random cases there are.
const RANDOM: usize = 8;
/// Names the seed of an earlier run.
const SEED: &str = "ROCKETRIDE_INGEST_CRASH_SEED";

/// Two crashes at random points, that are the same for the same seed.
pub fn randomly() -> Vec<Case> {
    let seed = std::env::var(SEED).map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    eprintln!("random crashes: to have the same ones again, set {SEED}={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    (0..RANDOM)
        .map(|_| {
            let (name, times) = FIRST[random.usize(..FIRST.len())];
            let first = format!("{name}:{}", random.u64(1..=times));
            let again = Step::MayCrash(format!("{}:{}", POINTS[random.usize(..POINTS.len())], random.u64(1..=3)));
            case(End::ALL, [crash(first), again])
        })
        .collect()
}
