//! The daemon of the model: it drives `transition` and `assess` as intake, the dispatcher and the workers do.

use super::Move;
use super::world::{Phase, World, Written, hash};
use crate::intake::assess::{Assessment, assess};
use crate::job::{Event, Job, JobState};

/// Attempts that are charged before a file is given up.
const ATTEMPTS: u32 = 2;

impl World {
    /// Intake looks, and the journal hears of it before anything else happens.
    pub(super) fn look(&mut self) {
        self.record();
        if let Some(event) = self.decide() {
            assert!(self.apply(event));
        }
    }

    /// What intake decided meets whatever the job is by now.
    pub(super) fn record(&mut self) {
        self.decided.take().map(|event| self.apply(event));
    }

    /// Intake: `Desk::inspect` and `Desk::decide`.
    pub(super) fn decide(&self) -> Option<Event> {
        if self.unwatched {
            return None;
        }
        let at = self.now;
        let Some((content, generation)) = self.file else {
            return self.job.as_ref().is_some_and(Job::minds_absence).then_some(Event::Gone);
        };
        let result = self.result.filter(|result| result.generation.size == generation.size);
        let admit = Event::Admit { generation, at };
        Some(match assess(self.job.as_ref(), &generation) {
            Assessment::Known | Assessment::Busy => return None,
            Assessment::DeadLetter => {
                let is_known = self.job.as_ref().is_some_and(|job| job.generation == generation);
                match (self.error_file, is_known) {
                    (true, true) => return None,
                    (true, false) => Event::SameContent { generation },
                    (false, true) => Event::Requeue { at, delivered_too: false },
                    (false, false) => admit,
                }
            }
            Assessment::New => admit,
            Assessment::MaybeSame => {
                let job = self.job.as_ref().unwrap();
                let stayed = (job.generation.ino, job.generation.mtime_ns) == (generation.ino, generation.mtime_ns);
                let same = job.sha256 == Some(hash(content));
                let has_result = result.is_some_and(|result| result.content == content);
                if same && (stayed || has_result) { Event::SameContent { generation } } else { admit }
            }
            Assessment::Unseen => match result {
                Some(result) if result.content == content => Event::Adopt {
                    generation,
                    sha256: hash(content),
                    sidecar: "r".into(),
                    post_action: self.post_action,
                    at,
                },
                _ => admit,
            },
        })
    }

    /// An operator's `retry` looks at the record: `Change::event`.
    pub(super) fn ask(&self, force: bool) -> Option<Event> {
        let job = self.job.as_ref().filter(|job| !job.absent)?;
        match job.state {
            JobState::Pending { .. } | JobState::Failed | JobState::Blocked { .. } | JobState::Ignored => {}
            JobState::Done if force => {}
            _ => return None,
        }
        Some(Event::Requeue { at: self.now, delivered_too: force })
    }

    /// What an operator asked for meets whatever the job is by now.
    pub(super) fn answer(&mut self) {
        let Some(event) = self.asked.take() else { return };
        let forced = matches!(event, Event::Requeue { delivered_too: true, .. });
        let finished = self.state() == Some(JobState::Done);
        if self.apply(event)
            && let Some((content, _)) = self.file
        {
            if forced || !finished {
                self.excuse(content);
            }
            self.owed = self.owed.or(finished.then_some(content));
        }
    }

    /// The worker is done with the job.
    pub(super) fn end(&mut self, event: Event) {
        self.worker = None;
        assert!(self.apply(event), "a worker speaks of a job that is its own");
    }

    /// What a worker finds different from what it claimed.
    fn moved_on(&self) -> Option<Event> {
        match self.file {
            None => Some(Event::Vanish),
            Some((_, generation)) if self.job.as_ref().unwrap().generation != generation => {
                Some(Event::Changed { due: self.now, reason: "changed".into() })
            }
            Some(_) => None,
        }
    }

    /// The dispatcher, the worker, the post-action.
    pub(super) fn step(&mut self) {
        let at = self.now;
        match (self.worker, self.state()) {
            (None, Some(JobState::Pending { .. } | JobState::Blocked { .. })) if !self.unwatched => {
                assert!(self.apply(Event::Claim { at }));
                self.worker = Some(Phase::Claimed);
            }
            (None, Some(JobState::Delivered)) if !self.unwatched => self.post_action(),
            (None, Some(JobState::Spooled)) if !self.unwatched => self.place_spooled(),
            (Some(Phase::Claimed), _) => self.prepare(),
            (Some(Phase::Opened), _) => self.commit(),
            (Some(Phase::Committed(written)), _) => {
                let written = Written { at, ..written };
                self.worker = Some(if self.readonly {
                    self.spool = Some(written);
                    Phase::InSpool(written)
                } else {
                    (self.result, self.error_file) = (Some(written), false);
                    Phase::Placed(written)
                });
            }
            (Some(Phase::Placed(written)), _) => {
                self.end(self.delivered(written.content));
                self.spool = None;
            }
            (Some(Phase::InSpool(written)), _) => {
                self.end(Event::Spool { sha256: hash(written.content), error: "read-only".into() });
            }
            _ => {}
        }
    }

    fn commit(&mut self) {
        if let Some(event) = self.moved_on() {
            return self.end(event);
        }
        let ((content, generation), at) = (self.file.unwrap(), self.now);
        let repeated = self.received.contains(&content);
        assert!(!repeated || self.excused.remove(&content), "{content} is sent again for no reason");
        self.received.push(content);
        self.owed = self.owed.filter(|owed| *owed != content);
        self.worker = Some(Phase::Committed(Written { content, generation, at }));
    }

    fn delivered(&self, content: u32) -> Event {
        let (sha256, sidecar) = (hash(content), "r".into());
        Event::Delivered { sha256, sidecar, post_action: self.post_action, warning: None }
    }

    /// A worker looks at the file: has it been sent already?
    fn prepare(&mut self) {
        if let Some(event) = self.moved_on() {
            return self.end(event);
        }
        let (content, generation) = self.file.unwrap();
        let job = self.job.as_ref().unwrap();
        if let Some(result) = self.result.filter(|result| result.generation == generation)
            && job.may_have_made(Some(result.at))
        {
            return self.end(self.delivered(result.content));
        }
        match self.spool {
            Some(spooled) if spooled.content == content => {
                self.end(Event::Spool { sha256: hash(content), error: "found".into() });
            }
            _ => self.worker = Some(Phase::Opened),
        }
    }

    fn post_action(&mut self) {
        let unchanged = self.file.is_some_and(|(content, _)| self.job.as_ref().unwrap().sha256 == Some(hash(content)));
        if unchanged {
            self.file = None;
        }
        let gone = self.file.is_none();
        assert!(self.apply(Event::Finished { warning: None, gone }));
    }

    fn place_spooled(&mut self) {
        let sha256 = self.job.as_ref().unwrap().sha256;
        match self.spool.filter(|spooled| Some(hash(spooled.content)) == sha256) {
            Some(_) if self.readonly => {}
            Some(spooled) => {
                (self.result, self.error_file) = (Some(spooled), false);
                assert!(self.apply(self.delivered(spooled.content)));
                self.spool = None;
            }
            None => match self.result.filter(|result| Some(hash(result.content)) == sha256) {
                Some(result) => assert!(self.apply(self.delivered(result.content))),
                None => assert!(self.apply(Event::Finished { warning: None, gone: false })),
            },
        }
    }

    pub(super) fn socket_lost(&mut self) {
        match self.worker {
            Some(Phase::Claimed) => {}
            // Whether the server committed is not known: here it did not, or it did.
            Some(Phase::Opened) => {
                if self.now.is_multiple_of(2) && self.moved_on().is_none() {
                    self.step();
                    let (content, _) = self.file.unwrap();
                    self.excuse(content);
                }
            }
            // The answer was here.
            _ => return,
        }
        self.end(Event::Retry { due: self.now, error: "cut".into(), charged: false });
    }

    pub(super) fn refused(&mut self) {
        if self.worker == Some(Phase::Claimed) {
            self.prepare();
        }
        if self.worker != Some(Phase::Opened) {
            return;
        }
        let attempts = self.job.as_ref().unwrap().attempts + 1;
        let error = "no".to_owned();
        if attempts < ATTEMPTS {
            return self.end(Event::Retry { due: self.now, error, charged: true });
        }
        // The error file is written beside the file; without it the file is looked at again.
        match self.moved_on() {
            Some(event) => self.end(event),
            None if self.readonly => self.end(Event::Retry { due: self.now, error, charged: false }),
            None => {
                self.error_file = true;
                self.end(Event::Fail { error, sidecar: Some("e".into()), charged: true });
            }
        }
    }

    pub(super) fn put_aside(&mut self, gone: bool) {
        let unchanged = self.file.is_some_and(|(_, seen)| self.job.as_ref().is_some_and(|job| job.generation == seen));
        if self.state() != Some(JobState::Failed) || !unchanged || self.unwatched {
            return;
        }
        if gone {
            (self.file, self.error_file) = (None, false);
            assert!(self.apply(Event::Gone));
        } else {
            self.happens(Move::Chmod);
            let (_, generation) = self.file.unwrap();
            // An operator may have it sent again in this very moment; no worker takes it before the try is over.
            self.answer();
            assert!(self.apply(Event::SameContent { generation }));
        }
    }

    pub(super) fn restart(&mut self) {
        (self.decided, self.asked) = (None, None);
        match self.worker.take() {
            // The server may have it, and nobody here knows.
            Some(Phase::Committed(written)) => self.excuse(written.content),
            // What is durable is found.
            Some(Phase::Placed(_) | Phase::InSpool(_) | Phase::Claimed | Phase::Opened) | None => {}
        }
        let (at, watched) = (self.now, !self.unwatched);
        self.apply(Event::Recover { at, watched });
        // What a crash left in the spool although its delivery is recorded is removed.
        if let (Some(spooled), Some(job)) = (self.spool, &self.job)
            && matches!(job.state, JobState::Done | JobState::Delivered)
            && job.sha256 == Some(hash(spooled.content))
            && self.result.is_some_and(|result| result.content == spooled.content)
        {
            self.spool = None;
        }
    }
}
