//! Folders that must not nest: watches, the targets they move files to, those their results go to, and the state directory.
//!
//! Judged by the text alone, after `.` and `..` are resolved: the same answer on every machine and at every time. That
//! two different paths are one folder (a link, a bind mount) is found where the folders are opened.

use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use super::problem::Problems;
use crate::show::Shown;

/// The path without `.`, `..` and repeated slashes. Links are not followed.
pub(super) fn normalised(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                normal.pop();
            }
            other => normal.push(other),
        }
    }
    normal
}

/// Who uses a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum User {
    /// The watch of this number reads it.
    Watch(usize),
    /// The watch of this number moves files into it.
    Target(usize),
    /// The results of the watch of this number go there.
    Results(usize),
    /// The daemon keeps its state there.
    State,
}

/// A folder and its user.
#[derive(Debug)]
pub(super) struct Territory {
    /// Who uses it.
    pub(super) user: User,
    /// For messages: `watch "invoices"`.
    pub(super) label: String,
    /// Normalised and absolute.
    pub(super) path: PathBuf,
    /// Where the file says so; none if it is a default.
    pub(super) span: Option<Range<usize>>,
}

/// Reports every two folders of which one lies in the other.
pub(super) fn check_overlaps(territories: &[Territory], problems: &mut Problems<'_>) {
    for (number, one) in territories.iter().enumerate() {
        for other in &territories[number + 1..] {
            if !(one.path.starts_with(&other.path) || other.path.starts_with(&one.path)) || allowed(one, other) {
                continue;
            }
            // The one that stands later in the file is the one that was added; a default cannot be pointed at; a target
            // is relative to its watch, whatever stands first.
            let position = |territory: &Territory| territory.span.as_ref().map(|span| span.start);
            let of_one_watch =
                matches!((one.user, other.user), (User::Watch(a), User::Target(b) | User::Results(b)) if a == b);
            let swap = position(one) > position(other) && !of_one_watch;
            let (earlier, later) = if swap { (other, one) } else { (one, other) };
            let Some(span) = &later.span else { continue };
            let relation = if later.path == earlier.path {
                "is the same folder as"
            } else if later.path.starts_with(&earlier.path) {
                "lies inside"
            } else {
                "contains"
            };
            let place = match &earlier.span {
                Some(other) => problems.place(other, span),
                None => "the default".to_owned(),
            };
            let message = format!(
                "{} {} {relation} {} {} ({place}); choose folders that do not contain one another",
                later.label,
                Shown(&later.path),
                earlier.label,
                Shown(&earlier.path),
            );
            problems.at(span, message);
        }
    }
}

/// A target or a results directory may lie inside its own watch, but not be it or contain it. One results directory may
/// serve several watches: each has a folder of its name in it.
fn allowed(one: &Territory, other: &Territory) -> bool {
    let inside_its_own_watch = |watch: &Territory, target: &Territory| match (watch.user, target.user) {
        (User::Watch(a), User::Target(b) | User::Results(b)) => {
            a == b && watch.path != target.path && target.path.starts_with(&watch.path)
        }
        _ => false,
    };
    let shared = matches!((one.user, other.user), (User::Results(_), User::Results(_))) && one.path == other.path;
    shared || inside_its_own_watch(one, other) || inside_its_own_watch(other, one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_compared_as_they_are_meant() {
        for (written, meant) in [
            ("/srv//drop/./in/", "/srv/drop/in"),
            ("/srv/drop/in/../out", "/srv/drop/out"),
            ("/../srv", "/srv"),
            ("/", "/"),
        ] {
            assert_eq!(normalised(Path::new(written)), Path::new(meant), "{written}");
        }
    }
}
