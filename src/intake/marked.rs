//! `done_marker`: whether the file stands beside an input that says that it is whole.
//!
//! Only a regular file counts, and only one that was not changed before its input: a file that is written anew waits for
//! a new marker. Where the filesystem's change times are not to be relied on, the times of the last write are compared.

use std::ffi::OsStr;
use std::io;

use crate::config::Marker;
use crate::fs::Seen;
use crate::job::Generation;
use crate::sidecar::NAME_MAX;

/// What the marker of an input says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marked {
    /// The input is whole.
    Yes,
    /// Nothing yet.
    NotYet,
    /// Its name would be longer than a name may be: it can never stand there.
    Never,
}

/// Asks for the marker of an input; `look` tells the regular file of a name beside it, if there is one.
pub fn marked(
    marker: &Marker,
    input: &OsStr,
    generation: &Generation,
    look: impl FnOnce(&OsStr) -> io::Result<Option<Seen>>,
) -> io::Result<Marked> {
    let name = marker.of(input);
    if name.len() > NAME_MAX {
        return Ok(Marked::Never);
    }
    let counts = look(&name)?.is_some_and(|seen| is_no_older(&seen.generation, generation));
    Ok(if counts { Marked::Yes } else { Marked::NotYet })
}

fn is_no_older(marker: &Generation, input: &Generation) -> bool {
    match (marker.ctime_ns, input.ctime_ns) {
        (Some(marker), Some(input)) => marker >= input,
        _ => marker.mtime_ns >= input.mtime_ns,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mtime_ns: i64, ctime_ns: Option<i64>) -> Generation {
        Generation { ino: Some(1), size: 1, mtime_ns, ctime_ns }
    }

    #[test]
    fn a_marker_counts_unless_it_is_older_than_its_input() {
        for (marker, input, counts) in [
            (at(0, Some(5)), at(9, Some(4)), true),
            (at(0, Some(5)), at(0, Some(5)), true),
            (at(9, Some(5)), at(0, Some(6)), false),
            (at(5, None), at(5, None), true),
            (at(4, None), at(5, None), false),
        ] {
            assert_eq!(is_no_older(&marker, &input), counts, "{marker:?} for {input:?}");
        }
    }
}
