//! The table, pair by pair and over random histories.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::*;
use proptest::prelude::*;

const NOW: Millis = 1_000;
const LATER: Millis = 2_000;

fn generation(size: u64) -> Generation {
    Generation { ino: Some(7), size, mtime_ns: 1, ctime_ns: Some(1) }
}

fn changed() -> Event {
    Event::Changed { due: LATER, reason: "it grew".to_owned() }
}

fn events() -> Vec<(&'static str, Event)> {
    let (sha256, sidecar, error) = ([1; 32], "a.result.json".to_owned(), "no".to_owned());
    let adopt = |size, post_action| Event::Adopt {
        generation: generation(size),
        sha256,
        sidecar: sidecar.clone(),
        post_action,
        at: NOW,
    };
    let delivered = |post_action| Event::Delivered { sha256, sidecar: sidecar.clone(), post_action, warning: None };
    vec![
        ("admit", Event::Admit { generation: generation(6), at: NOW }),
        ("adopt-same-size", adopt(5, false)),
        ("adopt-other-size", adopt(6, false)),
        ("adopt+post-action", adopt(5, true)),
        ("same-content", Event::SameContent { generation: generation(5) }),
        ("claim", Event::Claim { at: NOW }),
        ("delivered", delivered(false)),
        ("delivered+post-action", delivered(true)),
        ("spool", Event::Spool { sha256, error: error.clone() }),
        ("finished", Event::Finished { warning: None, gone: false }),
        ("retry", Event::Retry { due: LATER, error: error.clone(), charged: true }),
        ("refund", Event::Refund { attempts: 1, due: LATER }),
        ("changed", changed()),
        ("fail", Event::Fail { error: error.clone(), sidecar: None, charged: true }),
        ("block", Event::Block { due: LATER, error }),
        ("vanish", Event::Vanish),
        ("gone", Event::Gone),
        ("requeue", Event::Requeue { at: NOW, delivered_too: false }),
        ("requeue-delivered-too", Event::Requeue { at: NOW, delivered_too: true }),
        ("forget", Event::Forget),
        ("recover-watched", Event::Recover { at: NOW, watched: true }),
        ("recover-unwatched", Event::Recover { at: NOW, watched: false }),
    ]
}

fn states() -> [JobState; STATE_NAMES.len()] {
    use JobState as S;
    let (pending, blocked) = (S::Pending { due: NOW }, S::Blocked { due: NOW });
    [pending, S::Sending, S::Delivered, S::Done, S::Failed, blocked, S::Vanished, S::Ignored, S::Parked, S::Spooled]
}

fn job(state: JobState) -> Job {
    Job { state, ..Job::admitted(Path::new("a"), generation(5), 1) }
}

/// A ledger that holds nothing but a job in this state.
fn ledger(state: Option<JobState>) -> Counters {
    let mut counters = Counters::default();
    if let Some(state) = state {
        counters.admitted = 1;
        counters.states[state.index()] = 1;
    }
    counters
}

/// What becomes of every pair; `.` is refused, `*` begins a new generation.
const TABLE: &str = "
    event                 unknown    pending  sending   delivered done     failed   blocked  vanished ignored  parked  spooled
    admit                 *pending   *pending .         .         *pending *pending *pending *pending *pending .       .
    adopt-same-size       *done      .        .         .         .        .        .        .        .        .       .
    adopt-other-size      *done      .        .         .         .        .        .        .        .        .       .
    adopt+post-action     *delivered .        .         .         .        .        .        .        .        .       .
    same-content          .          pending  .         .         done     failed   .        .        .        .       .
    claim                 .          sending  .         .         .        .        sending  .        .        .       .
    delivered             .          .        done      .         .        .        .        .        .        .       done
    delivered+post-action .          .        delivered .         .        .        .        .        .        .       delivered
    spool                 .          .        spooled   .         .        .        .        .        .        .       .
    finished              .          .        .         done      .        .        .        .        .        .       done
    retry                 .          .        pending   .         .        .        .        .        .        .       .
    refund                .          pending  sending   .         .        .        .        .        .       .       .
    changed               .          .        pending   .         .        .        .        .        .        .       .
    fail                  .          .        failed    .         .        .        .        .        .        .       .
    block                 .          .        blocked   .         .        .        .        .        .        .       .
    vanish                .          .        vanished  .         .        .        .        .        .        .       .
    gone                  .          vanished .         .         done     failed   vanished .        ignored  .       .
    requeue               .          pending  .         .         .        pending  pending  .        pending  .       .
    requeue-delivered-too .          pending  .         .         pending  pending  pending  .        pending  .       .
    forget                .          ignored  .         .         .        ignored  ignored  ignored  .        ignored .
    recover-watched       .          .        pending   .         .        .        .        .        .        pending .
    recover-unwatched     .          parked   parked    .         .        .        parked   .        .        .       .
";

#[test]
fn every_pair_of_state_and_event_is_decided_as_the_table_says() {
    let mut lines = TABLE.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).filter(|l| !l.is_empty());
    let header = lines.next().unwrap();
    assert_eq!(header[2..], STATE_NAMES);
    let rows: Vec<_> = lines.collect();
    let events = events();
    assert_eq!(rows.iter().map(|row| row[0]).collect::<Vec<_>>(), events.iter().map(|e| e.0).collect::<Vec<_>>());

    for (row, (name, event)) in rows.iter().zip(events) {
        let befores = std::iter::once(None).chain(states().map(Some));
        for (expected, before) in row[1..].iter().zip(befores) {
            let what = format!("{name} on {}", before.map_or("unknown", JobState::name));
            let (job, mut counters) = (before.map(job), ledger(before));
            match transition(Path::new("a"), job.as_ref(), event.clone(), &mut counters) {
                Ok(after) => {
                    let new = counters.admitted > u64::from(before.is_some());
                    assert_eq!(*expected, format!("{}{}", if new { "*" } else { "" }, after.state.name()), "{what}");
                    assert_eq!(counters.count(after.state.name()), 1, "{what}");
                    assert_eq!(counters.states.iter().sum::<u64>(), 1, "{what}");
                    assert!(counters.balanced(), "{what}");
                }
                Err(refused) => {
                    assert_eq!(*expected, ".", "{what}");
                    assert_eq!(refused.event, event.name());
                    assert_eq!(refused.state, before.map_or("unknown", JobState::name));
                    assert_eq!(counters, ledger(before), "{what} must not count");
                }
            }
        }
    }
}

fn after(before: &Job, event: Event) -> Job {
    transition(&before.path, Some(before), event, &mut ledger(Some(before.state))).unwrap()
}

#[test]
fn a_new_generation_over_a_delivered_one_prunes_and_over_another_supersedes() {
    for (state, counted) in [(JobState::Done, (0, 1)), (JobState::Failed, (1, 0)), (JobState::Vanished, (1, 0))] {
        let mut counters = ledger(Some(state));
        let admit = Event::Admit { generation: generation(6), at: NOW };
        transition(Path::new("a"), Some(&job(state)), admit, &mut counters).unwrap();
        assert_eq!((counters.superseded, counters.pruned), counted, "{state:?}");
    }
}

#[test]
fn only_charged_failures_and_deliveries_are_attempts() {
    let sending = job(JobState::Sending);
    for charged in [false, true] {
        let expected = u32::from(charged);
        let retry = Event::Retry { due: LATER, error: "no".to_owned(), charged };
        assert_eq!(after(&sending, retry).attempts, expected);
        let fail = Event::Fail { error: "no".to_owned(), sidecar: None, charged };
        assert_eq!(after(&sending, fail).attempts, expected);
    }
    for event in [changed(), Event::Block { due: LATER, error: "no".to_owned() }] {
        assert_eq!(after(&sending, event).attempts, 0);
    }
    let delivered = events().into_iter().find(|(name, _)| *name == "delivered").unwrap().1;
    assert_eq!(after(&sending, delivered).attempts, 1);
}

#[test]
fn a_refund_gives_back_no_more_than_was_charged_and_lets_a_pending_job_go_at_once() {
    let charged = Job { attempts: 2, ..job(JobState::Pending { due: 9 * LATER }) };
    let refunded = after(&charged, Event::Refund { attempts: 1, due: NOW });
    assert_eq!((refunded.attempts, refunded.state), (1, JobState::Pending { due: NOW }));
    let sending = Job { state: JobState::Sending, ..charged };
    assert_eq!(after(&sending, Event::Refund { attempts: 3, due: NOW }).attempts, 0);
}

#[test]
fn a_claim_keeps_the_first_attempt_and_moves_the_latest() {
    let first = after(&job(JobState::Pending { due: 1 }), Event::Claim { at: NOW });
    let pending = after(&first, changed());
    let second = after(&pending, Event::Claim { at: LATER });
    assert_eq!((second.first_attempt_at, second.last_attempt_at), (Some(NOW), Some(LATER)));
}

#[test]
fn changes_add_up_over_new_generations_until_one_is_delivered() {
    let once = after(&job(JobState::Sending), changed());
    let admitted = after(&once, Event::Admit { generation: generation(9), at: NOW });
    assert_eq!(admitted.changes, 1);
    let sending = after(&admitted, Event::Claim { at: NOW });
    let twice = after(&sending, changed());
    assert_eq!(twice.changes, 2);
    let sending = after(&twice, Event::Claim { at: NOW });
    let delivered = events().into_iter().find(|(name, _)| *name == "delivered").unwrap().1;
    assert_eq!(after(&sending, delivered).changes, 0);
}

#[test]
fn a_finished_file_that_is_gone_is_marked_and_a_new_one_is_not() {
    let gone = after(&job(JobState::Done), Event::Gone);
    assert!(gone.absent);
    assert!(!after(&gone, Event::Admit { generation: generation(5), at: NOW }).absent);
}

#[test]
fn a_dead_letter_that_is_retried_has_all_its_attempts() {
    let failed = Job { attempts: 6, sidecar: Some("a.error.json".to_owned()), ..job(JobState::Failed) };
    let again = after(&failed, Event::Requeue { at: NOW, delivered_too: false });
    assert_eq!((again.attempts, again.sidecar, again.state), (0, None, JobState::Pending { due: NOW }));
}

#[test]
fn a_spooled_result_is_an_attempt_once_and_never_sent_again() {
    let spooled = after(&job(JobState::Sending), Event::Spool { sha256: [1; 32], error: "full".to_owned() });
    assert_eq!((spooled.attempts, spooled.sha256, spooled.state.due()), (1, Some([1; 32]), Some(0)));
    let delivered = events().into_iter().find(|(name, _)| *name == "delivered").unwrap().1;
    assert_eq!(after(&spooled, delivered).attempts, 1);
}

#[test]
fn a_delivered_file_that_is_sent_again_counts_as_admitted_then() {
    let done = Job { first_attempt_at: Some(1), sha256: Some([1; 32]), ..job(JobState::Done) };
    let again = after(&done, Event::Requeue { at: LATER, delivered_too: true });
    assert_eq!((again.admitted_at, again.first_attempt_at, again.sha256), (LATER, None, None));
    let gone = Job { absent: true, ..done };
    let refused = transition(
        &gone.path,
        Some(&gone),
        Event::Requeue { at: LATER, delivered_too: true },
        &mut ledger(Some(gone.state)),
    );
    assert!(refused.is_err(), "there is nothing to send");
}

#[test]
fn a_file_that_is_to_be_sent_again_takes_over_no_older_result_however_often_it_was_begun() {
    let again = after(&job(JobState::Done), Event::Requeue { at: LATER, delivered_too: true });
    let begun = after(&after(&again, Event::Claim { at: LATER + 1 }), changed());
    let begun = after(&begun, Event::Claim { at: LATER + 2 });
    assert_eq!([Some(LATER - 1), Some(LATER), None].map(|at| begun.may_have_made(at)), [false, true, true]);
    // Whatever time a result bears: the clock may have been set back.
    let first = after(&again, Event::Claim { at: LATER + 1 });
    assert_eq!([Some(LATER - 1), Some(LATER), None].map(|at| first.may_have_made(at)), [false; 3]);
}

#[test]
fn only_what_is_over_and_gone_is_pruned() {
    for state in states() {
        for absent in [false, true] {
            let (job, mut counters) = (Job { absent, ..job(state) }, ledger(Some(state)));
            let over = match state {
                JobState::Done | JobState::Failed | JobState::Ignored => absent,
                state => state == JobState::Vanished,
            };
            assert_eq!(prune(&job, &mut counters).is_ok(), over, "{state:?}, absent: {absent}");
            assert_eq!((counters.pruned, counters.balanced()), (u64::from(over), true));
        }
    }
}

#[test]
fn keys_hash_the_bytes_of_the_path_and_belong_to_a_watch() {
    let (a, b) = (WatchId::of("a"), WatchId::of("b"));
    let path = Path::new(std::ffi::OsStr::from_bytes(b"x\xff"));
    assert_ne!(FileKey::new(a, path), FileKey::new(b, path));
    assert_ne!(FileKey::new(a, path), FileKey::new(a, Path::new("x")));
    assert_eq!(FileKey::from_bytes(FileKey::new(a, path).to_bytes()), FileKey::new(a, path));
}

proptest! {
    #[test]
    fn the_ledger_balances_over_any_history(history in proptest::collection::vec((0..3_usize, 0..events().len()), 0..200)) {
        let mut jobs: [Option<Job>; 3] = [None, None, None];
        let mut counters = Counters::default();
        let events = events();
        for (file, event) in history {
            if let Ok(after) = transition(Path::new("a"), jobs[file].as_ref(), events[event].1.clone(), &mut counters) {
                jobs[file] = Some(after);
            }
            prop_assert!(counters.balanced());
            for state in states() {
                let here = jobs.iter().flatten().filter(|job| job.state.index() == state.index()).count();
                prop_assert_eq!(counters.states[state.index()], here as u64);
            }
        }
    }
}
