//! What a file on disk means, given what the journal knows of its path.
//!
//! Pure: the record and the generation come in, a decision goes out.

use crate::job::{Generation, Job, JobState};

/// What is to be done about a file that was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Assessment {
    /// Nothing: this generation is known.
    Known,
    /// Nobody has seen this path: it may have a result already, else it is admitted.
    Unseen,
    /// A new generation of a known path.
    New,
    /// A finished file whose metadata changed; if its content did not, it is still finished.
    MaybeSame,
    /// An earlier generation is on its way; this one waits for its end.
    Busy,
    /// A dead letter, unchanged: it is tried again if its error file was removed.
    DeadLetter,
}

/// Decides about a file.
pub fn assess(job: Option<&Job>, generation: &Generation) -> Assessment {
    use Assessment as A;
    let Some(job) = job else { return A::Unseen };
    let same = job.generation == *generation && !job.absent;
    match job.state {
        JobState::Sending | JobState::Spooled | JobState::Delivered if same => A::Known,
        JobState::Sending | JobState::Spooled | JobState::Delivered => A::Busy,
        // A chmod, or a move that was taken back, is no saving.
        JobState::Failed if !job.absent && is_unsaved(job, generation) && job.sidecar.is_some() => A::DeadLetter,
        // A watch that is in use has nothing parked; recovery is about to say so.
        JobState::Parked => A::Known,
        JobState::Vanished => A::New,
        _ if same => A::Known,
        JobState::Done if !job.absent && job.generation.size == generation.size => A::MaybeSame,
        _ => A::New,
    }
}

/// Whether the file was not written since: at most its change time is another one.
fn is_unsaved(job: &Job, generation: &Generation) -> bool {
    job.generation == Generation { ctime_ns: job.generation.ctime_ns, ..*generation }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn job(state: JobState) -> Job {
        Job { state, ..Job::admitted(Path::new("f"), generation(1), 0) }
    }

    fn generation(mtime_ns: i64) -> Generation {
        Generation { ino: Some(1), size: 5, mtime_ns, ctime_ns: Some(0) }
    }

    #[test]
    fn a_known_generation_is_left_alone() {
        use JobState as S;
        for state in [
            S::Pending { due: 0 },
            S::Sending,
            S::Spooled,
            S::Delivered,
            S::Done,
            S::Failed,
            S::Blocked { due: 0 },
            S::Ignored,
        ] {
            assert_eq!(assess(Some(&job(state)), &generation(1)), Assessment::Known, "{state:?}");
        }
        assert_eq!(assess(Some(&job(S::Vanished)), &generation(1)), Assessment::New, "it came back");
    }

    #[test]
    fn another_generation_is_new_unless_one_is_on_its_way_or_the_size_is_the_same() {
        use JobState as S;
        let larger = Generation { size: 6, ..generation(2) };
        for (state, expected) in [
            (S::Pending { due: 0 }, Assessment::New),
            (S::Sending, Assessment::Busy),
            (S::Delivered, Assessment::Busy),
            (S::Done, Assessment::New),
            (S::Failed, Assessment::New),
            (S::Blocked { due: 0 }, Assessment::New),
            (S::Ignored, Assessment::New),
        ] {
            assert_eq!(assess(Some(&job(state)), &larger), expected, "{state:?}");
        }
        assert_eq!(assess(Some(&job(S::Done)), &generation(2)), Assessment::MaybeSame);
        assert_eq!(assess(Some(&job(S::Failed)), &generation(2)), Assessment::New, "a touch retries a dead letter");
    }

    #[test]
    fn a_finished_file_that_was_absent_is_new_whatever_it_looks_like() {
        let gone = Job { absent: true, ..job(JobState::Done) };
        assert_eq!(assess(Some(&gone), &generation(1)), Assessment::New);
        assert_eq!(assess(Some(&gone), &generation(2)), Assessment::New);
    }

    #[test]
    fn a_dead_letter_with_an_error_file_is_asked_about_it() {
        let failed = Job { sidecar: Some("f.error.json".into()), ..job(JobState::Failed) };
        assert_eq!(assess(Some(&failed), &generation(1)), Assessment::DeadLetter);
        let chmodded = Generation { ctime_ns: Some(7), ..generation(1) };
        assert_eq!(assess(Some(&failed), &chmodded), Assessment::DeadLetter, "nobody saved it");
        assert_eq!(assess(Some(&failed), &generation(2)), Assessment::New);
    }
}
