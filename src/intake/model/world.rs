//! The world of the model: files, results, the spool and the server are a few fields. What may happen, and what must hold.

use std::collections::BTreeSet;
use std::path::Path;

use super::Move;
use crate::job::{Counters, Event, Generation, Job, JobState, Millis, STATE_NAMES, transition};

/// Steps in which everything must be done once nothing goes wrong any more.
const QUIET: usize = 30;

/// A result, at its place or in the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) content: u32,
    pub(super) generation: Generation,
    pub(super) at: Millis,
}

/// How far a worker is with a claimed file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Claimed,
    Opened,
    /// The server has it.
    Committed(Written),
    /// Its result is durable.
    Placed(Written),
    /// Its result is durable in the spool.
    InSpool(Written),
}

#[derive(Debug, Clone, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of the world by itself")]
pub(super) struct World {
    pub(super) now: Millis,
    pub(super) contents: u32,
    /// What stands at the path.
    pub(super) file: Option<(u32, Generation)>,
    /// What stood there last.
    pub(super) last: Option<(u32, Generation)>,
    pub(super) result: Option<Written>,
    pub(super) error_file: bool,
    pub(super) spool: Option<Written>,
    /// Every commit, in order.
    pub(super) received: Vec<u32>,
    /// What may be sent once more: something happened that no daemon can know the outcome of, or somebody asked for it.
    pub(super) excused: BTreeSet<u32>,
    /// What an operator asked to be sent, and is not yet.
    pub(super) owed: Option<u32>,
    pub(super) job: Option<Job>,
    pub(super) counters: Counters,
    pub(super) worker: Option<Phase>,
    /// What intake decided, and the journal has yet to hear.
    pub(super) decided: Option<Event>,
    /// What an operator asked for, and the journal has yet to hear.
    pub(super) asked: Option<Event>,
    pub(super) unwatched: bool,
    pub(super) readonly: bool,
    pub(super) post_action: bool,
    /// Pairs of state and event that were accepted.
    pub(super) seen: BTreeSet<(&'static str, &'static str)>,
}

impl World {
    pub(super) fn state(&self) -> Option<JobState> {
        self.job.as_ref().map(|job| job.state)
    }

    /// Applies an event; whether it was accepted.
    pub(super) fn apply(&mut self, event: Event) -> bool {
        let pair = (self.state().map_or("unknown", JobState::name), event.name());
        let Ok(job) = transition(Path::new("a"), self.job.as_ref(), event, &mut self.counters) else { return false };
        self.job = Some(job);
        self.seen.insert(pair);
        true
    }

    /// Content of the same size looks the same until it is hashed.
    fn write(&mut self, content: u32) {
        let generation = Generation {
            ino: Some(1),
            size: u64::from(content % 3),
            mtime_ns: i64::try_from(self.now).unwrap(),
            ctime_ns: Some(i64::try_from(self.now).unwrap()),
        };
        self.file = Some((content, generation));
        self.last = self.file;
    }

    pub(super) fn excuse(&mut self, content: u32) {
        self.excused.insert(content);
    }

    /// A result is known to be of a file whose metadata moved only once its delivery is on record: a crash before that,
    /// and a chmod after it, and the file is sent once more.
    fn metadata_moved(&mut self) {
        if let Some((content, _)) = self.file
            && self.job.as_ref().is_none_or(|job| job.sha256 != Some(hash(content)))
        {
            self.excuse(content);
        }
    }

    pub(super) fn happens(&mut self, happening: Move) {
        self.now += 1;
        let at = self.now;
        match happening {
            Move::Write => {
                self.contents += 1;
                self.write(self.contents);
            }
            Move::Chmod => {
                self.metadata_moved();
                if let Some((_, generation)) = &mut self.file {
                    generation.ctime_ns = Some(i64::try_from(at).unwrap());
                    self.last = self.file;
                }
            }
            Move::WriteSame => {
                self.metadata_moved();
                if let Some((content, _)) = self.file {
                    self.write(content);
                    if self.result.is_none_or(|result| result.content != content) {
                        // As in a folder that was emptied unseen: without its result it is a new file.
                        self.excuse(content);
                    }
                }
            }
            Move::Vanish => self.file = None,
            Move::ComeBack => {
                if let (None, Some((content, generation))) = (self.file, self.last) {
                    self.file =
                        Some((content, Generation { ctime_ns: Some(i64::try_from(at).unwrap()), ..generation }));
                    self.last = self.file;
                    self.excuse(content);
                }
            }
            Move::RemoveResult => self.excused.extend(self.result.take().map(|result| result.content)),
            Move::RemoveErrorFile => self.error_file = false,
            Move::EmptySpool => self.excused.extend(self.spool.take().map(|spooled| spooled.content)),
            Move::FolderGone => {
                if self.state() == Some(JobState::Spooled) {
                    self.file = None;
                    self.result = None;
                    self.apply(Event::Finished { warning: None, gone: true });
                }
            }
            Move::Look => self.look(),
            Move::Decide => {
                self.record();
                self.decided = self.decide();
            }
            Move::Record => self.record(),
            Move::Step => self.step(),
            Move::SocketLost => self.socket_lost(),
            Move::Refused => self.refused(),
            Move::Unreadable => {
                if self.worker == Some(Phase::Claimed) {
                    self.end(Event::Block { due: at, error: "no".into() });
                }
            }
            Move::Writable(writable) => self.readonly = !writable,
            Move::PutAside(gone) => self.put_aside(gone),
            Move::Crash => self.restart(),
            Move::JournalLost => {
                let placed = [self.result, self.spool].into_iter().flatten().map(|written| written.content);
                let kept: BTreeSet<_> = placed.collect();
                self.excused.extend(self.received.iter().copied().filter(|content| !kept.contains(content)));
                (self.job, self.counters, self.owed) = (None, Counters::default(), None);
                self.restart();
            }
            Move::Retry(force) => self.asked = self.ask(force),
            Move::Answer => self.answer(),
            Move::Forget => {
                if self.apply(Event::Forget) {
                    self.owed = None;
                }
            }
            Move::Reload(watched) => {
                // Nothing may be on its way then.
                if self.worker.is_none() {
                    self.decided = None;
                    self.unwatched = !watched;
                    self.apply(Event::Recover { at, watched });
                }
            }
        }
        if self.owed.is_some() && self.file.map(|(content, _)| content) != self.owed {
            self.owed = None;
        }
    }

    /// What holds at every moment.
    pub(super) fn check(&self) {
        assert!(self.counters.balanced());
        let mut states = [0; STATE_NAMES.len()];
        self.state().into_iter().for_each(|state| states[state.index()] += 1);
        assert_eq!(self.counters.states, states);
        assert_eq!(self.worker.is_some(), self.state() == Some(JobState::Sending));
        if self.state() == Some(JobState::Spooled) {
            let mut again = self.clone();
            assert!(!again.apply(Event::Claim { at: self.now }), "a spooled result was paid for");
            assert!(
                !again.apply(Event::Requeue { at: self.now, delivered_too: true }),
                "not even an operator can have it sent again"
            );
        }
    }

    /// Nothing goes wrong any more: everything gets done, and what is there has arrived.
    pub(super) fn check_that_it_gets_done(&self) {
        let mut world = self.clone();
        for quiet in [Move::Writable(true), Move::Reload(true)] {
            world.happens(quiet);
        }
        for _ in 0..QUIET {
            world.happens(Move::Step);
            world.happens(Move::Look);
            world.check();
            if world.unwatched {
                world.happens(Move::Reload(true));
            }
        }
        match (world.state(), world.file) {
            (None | Some(JobState::Done), None)
            | (Some(JobState::Vanished | JobState::Ignored | JobState::Failed), _) => {}
            (Some(JobState::Done), Some((content, _))) => {
                assert!(world.received.contains(&content), "{content} never arrived");
                assert_eq!(world.job.as_ref().unwrap().sha256, Some(hash(content)));
            }
            stuck => panic!("stuck at {stuck:?}"),
        }
        if let (Some((_, generation)), Some(job)) = (world.file, &world.job) {
            assert_eq!(job.generation, generation, "it stands there, and nobody looks at it");
        }
        let answered = world.owed.is_none() || world.state() == Some(JobState::Failed);
        assert!(answered, "an operator asked for it, and it was not sent");
    }
}

pub(super) fn hash(content: u32) -> [u8; 32] {
    let mut hash = [0; 32];
    hash[..4].copy_from_slice(&content.to_be_bytes());
    hash
}
