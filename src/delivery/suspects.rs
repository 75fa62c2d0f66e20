//! Files that were on their way when their task died: perhaps one of them kills it.
//!
//! Pure. A task that dies takes all its pipes along, so one death accuses every file in flight; so does a connection
//! that the server closes because a message was too big. Twice is no accident: such a file is sent alone, and if the
//! same happens then, it is that file's fault. The others go on.
//!
//! In memory and bounded: what is forgotten is only found out anew.

use std::collections::VecDeque;

use crate::job::FileKey;

/// So many suspicions, and a file is sent alone.
pub const ALONE_AFTER: u8 = 2;
/// Suspects of one pipeline that are remembered; the oldest are forgotten first.
pub const MAX_SUSPECTS: usize = 1024;

/// The suspects of one pipeline.
#[derive(Debug, Default)]
pub struct Suspects {
    /// With the number of suspicions, the latest last.
    files: VecDeque<(FileKey, u8)>,
}

impl Suspects {
    /// The task died while this file was on its way.
    pub fn suspect(&mut self, key: FileKey) {
        let so_far = self.remove(key);
        if self.files.len() >= MAX_SUSPECTS {
            self.files.pop_front();
        }
        self.files.push_back((key, so_far.saturating_add(1)));
    }

    /// The pipeline took this file.
    pub fn clear(&mut self, key: FileKey) {
        self.remove(key);
    }

    /// Whether this file is to be sent alone.
    pub fn goes_alone(&self, key: FileKey) -> bool {
        self.files.iter().any(|(suspect, count)| *suspect == key && *count >= ALONE_AFTER)
    }

    fn remove(&mut self, key: FileKey) -> u8 {
        let place = self.files.iter().position(|(suspect, _)| *suspect == key);
        place.and_then(|place| self.files.remove(place)).map_or(0, |(_, count)| count)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::job::WatchId;

    fn key(name: usize) -> FileKey {
        FileKey::new(WatchId::of("w"), Path::new(&name.to_string()))
    }

    #[test]
    fn the_second_suspicion_makes_a_file_go_alone_until_it_is_delivered() {
        let mut suspects = Suspects::default();
        suspects.suspect(key(1));
        assert!(!suspects.goes_alone(key(1)));
        suspects.suspect(key(1));
        suspects.suspect(key(2));
        assert!(suspects.goes_alone(key(1)) && !suspects.goes_alone(key(2)));
        suspects.clear(key(1));
        suspects.suspect(key(1));
        assert!(!suspects.goes_alone(key(1)), "a delivery clears it of all");
    }

    #[test]
    fn the_oldest_suspects_are_forgotten() {
        let mut suspects = Suspects::default();
        for name in [0, 0, 1].into_iter().chain(2..=MAX_SUSPECTS) {
            suspects.suspect(key(name));
        }
        assert_eq!(suspects.files.len(), MAX_SUSPECTS);
        assert!(!suspects.goes_alone(key(0)));
        suspects.suspect(key(1));
        assert!(suspects.goes_alone(key(1)));
    }
}
