//! What an audit found.

use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

/// Findings of one kind that are named; the others are counted.
pub const MAX_NAMED: usize = 1000;

/// The outcome of an audit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Report {
    /// Every watch that is configured, or that the journal knows.
    pub watches: Vec<WatchReport>,
    /// Results in the spool that no job waits for: differences too.
    pub spool: Findings,
}

impl Report {
    /// How much must not be.
    pub fn differences(&self) -> u64 {
        self.spool.total + self.watches.iter().map(|watch| watch.differences.total).sum::<u64>()
    }
}

/// What was found in one watch. Paths are relative to its root; the empty path is the watch itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct WatchReport {
    /// Its name.
    pub watch: String,
    /// Whether it is in the configuration; of another one only the records are looked at.
    pub configured: bool,
    /// Records in the journal.
    pub records: u64,
    /// Whether the ledger could be compared with the records: not while they keep changing.
    pub counted: bool,
    /// Inputs seen on disk.
    pub inputs: u64,
    /// Delivered inputs among them whose result is there and right.
    pub results: u64,
    /// Inputs that are on their way, or still settling.
    pub in_flight: u64,
    /// What must not be.
    pub differences: Findings,
    /// What is strange, and was left alone.
    pub notes: Findings,
    /// What could not be looked at.
    pub unknown: Findings,
}

/// Findings of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Findings {
    /// The first of them.
    pub named: Vec<Finding>,
    /// All of them.
    pub total: u64,
    /// Differences among them that were not looked at twice, because only [`MAX_NAMED`] are kept: some of them may have been
    /// on their way.
    pub unconfirmed: u64,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The file.
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    /// What is the matter with it.
    pub what: String,
}

impl Findings {
    pub(super) fn add(&mut self, path: &Path, what: impl Into<String>) {
        self.total += 1;
        if self.named.len() < MAX_NAMED {
            self.named.push(Finding { path: path.to_owned(), what: what.into() });
        }
    }

    /// Keeps those that still hold; the others were on their way.
    pub(super) fn confirm(&mut self, holds: impl FnMut(&Finding) -> bool) {
        let before = self.named.len();
        self.named.retain(holds);
        self.unconfirmed = self.total - before as u64;
        self.total -= (before - self.named.len()) as u64;
    }
}

/// A name need not be UTF-8, JSON must be.
fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_looked_at_twice_is_counted() {
        let mut found = Findings::default();
        for n in 0..MAX_NAMED + 7 {
            found.add(Path::new(&n.to_string()), "gone");
        }
        found.confirm(|finding| finding.path != Path::new("3"));
        assert_eq!((found.total, found.unconfirmed), (MAX_NAMED as u64 + 6, 7));

        let mut few = Findings::default();
        few.add(Path::new("a"), "gone");
        few.confirm(|_| true);
        assert_eq!((few.total, few.unconfirmed), (1, 0));
    }
}
