//! The table of jobs and the assessment of files against a model: one path in a small world, in which anything may happen.
//!
//! It stands here because it needs both sides: what a file means, and what a job becomes.

mod daemon;
mod world;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use self::world::World;
use crate::job::{Counters, Event, Generation, Job, JobState, transition};

/// Something that happens in the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Move {
    /// A file of new content appears, or replaces what is there.
    Write,
    /// Its metadata change.
    Chmod,
    /// The same content is written anew.
    WriteSame,
    Vanish,
    ComeBack,
    RemoveResult,
    RemoveErrorFile,
    /// Intake looks at the path.
    Look,
    /// The same, but much may happen before the journal hears of it.
    Decide,
    /// It hears of it.
    Record,
    /// The dispatcher and the worker take the next step that there is.
    Step,
    /// As a step of a worker, but the answer is lost with the socket.
    SocketLost,
    /// The file is to blame.
    Refused,
    /// This host cannot read the file.
    Unreadable,
    /// Results can be written where they belong, or not.
    Writable(bool),
    /// A dead letter is moved elsewhere, or only touched by the try.
    PutAside(bool),
    /// The spool's file is removed by somebody.
    EmptySpool,
    /// What a folder that went away leaves of a spooled job.
    FolderGone,
    /// The daemon dies, and starts again.
    Crash,
    /// The same, and its journal is thrown away.
    JournalLost,
    /// An operator asks for it to be sent again, with or without force.
    Retry(bool),
    /// The journal hears of that.
    Answer,
    Forget,
    /// The configuration is read again, with the watch in it or not.
    Reload(bool),
}

fn any_move() -> impl Strategy<Value = Move> {
    use Move as M;
    prop_oneof![
        2 => Just(M::Write),
        1 => prop_oneof![Just(M::Chmod), Just(M::WriteSame)],
        2 => prop_oneof![Just(M::Vanish), Just(M::ComeBack)],
        1 => prop_oneof![Just(M::RemoveResult), Just(M::RemoveErrorFile), Just(M::EmptySpool), Just(M::FolderGone)],
        6 => Just(M::Look),
        3 => prop_oneof![Just(M::Decide), Just(M::Record)],
        14 => Just(M::Step),
        2 => prop_oneof![Just(M::SocketLost), Just(M::Unreadable)],
        4 => Just(M::Refused),
        1 => any::<bool>().prop_map(M::Writable),
        2 => any::<bool>().prop_map(M::PutAside),
        2 => prop_oneof![4 => Just(M::Crash), 1 => Just(M::JournalLost)],
        3 => prop_oneof![2 => any::<bool>().prop_map(M::Retry), 3 => Just(M::Answer), 1 => Just(M::Forget)],
        2 => any::<bool>().prop_map(M::Reload),
    ]
}

/// Lives through a history; the pairs of state and event that were accepted.
fn live(post_action: bool, history: &[Move]) -> BTreeSet<(&'static str, &'static str)> {
    let mut world = World { post_action, ..World::default() };
    world.check_that_it_gets_done();
    for happening in history {
        world.happens(*happening);
        world.check();
        world.check_that_it_gets_done();
    }
    world.seen
}

fn histories() -> impl Strategy<Value = (bool, Vec<Move>)> {
    (any::<bool>(), proptest::collection::vec(any_move(), 0..120))
}

proptest! {
    #[test]
    fn whatever_happens_nothing_is_stuck_lost_or_sent_twice_for_no_reason((post_action, history) in histories()) {
        live(post_action, &history);
    }
}

#[test]
fn every_state_is_reached_and_every_event_that_the_table_accepts_happens() {
    let config = Config { cases: 3000, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let seen = RefCell::new(BTreeSet::new());
    runner
        .run(&histories(), |(post_action, history)| {
            seen.borrow_mut().extend(live(post_action, &history));
            Ok(())
        })
        .unwrap();
    assert_eq!(seen.into_inner(), accepted(), "left: what happened, right: what the table accepts");
}

/// Every pair of state and event that the table accepts.
fn accepted() -> BTreeSet<(&'static str, &'static str)> {
    use JobState as S;
    let (sha256, error, sidecar) = ([1; 32], String::new(), String::new());
    let generation = Generation { ino: None, size: 1, mtime_ns: 1, ctime_ns: None };
    let recover = |watched| Event::Recover { at: 1, watched };
    let events = [
        Event::Admit { generation, at: 1 },
        Event::Adopt { generation, sha256, sidecar: sidecar.clone(), post_action: false, at: 1 },
        Event::SameContent { generation },
        Event::Claim { at: 1 },
        Event::Delivered { sha256, sidecar, post_action: false, warning: None },
        Event::Spool { sha256, error: error.clone() },
        Event::Finished { warning: None, gone: false },
        Event::Retry { due: 1, error: error.clone(), charged: false },
        Event::Changed { due: 1, reason: error.clone() },
        Event::Fail { error: error.clone(), sidecar: None, charged: false },
        Event::Block { due: 1, error },
        Event::Vanish,
        Event::Gone,
        Event::Requeue { at: 1, delivered_too: true },
        Event::Forget,
        recover(true),
        recover(false),
    ];
    let (pending, blocked) = (S::Pending { due: 1 }, S::Blocked { due: 1 });
    let states = [
        pending,
        S::Sending,
        S::Delivered,
        S::Done,
        S::Failed,
        blocked,
        S::Vanished,
        S::Ignored,
        S::Parked,
        S::Spooled,
    ];
    let mut pairs = BTreeSet::new();
    for state in states.map(Some).into_iter().chain([None]) {
        for event in &events {
            let job = state.map(|state| Job { state, ..Job::admitted(Path::new("a"), generation, 1) });
            let mut counters = Counters { admitted: 1, ..Counters::default() };
            if let Some(state) = state {
                counters.states[state.index()] = 1;
            }
            if transition(Path::new("a"), job.as_ref(), event.clone(), &mut counters).is_ok() {
                pairs.insert((state.map_or("unknown", S::name), event.name()));
            }
        }
    }
    pairs
}
