//! `done_marker`: what the file is called that says of an input that it is whole.
//!
//! Names only. Whether a marker stands there, and whether it is younger than its input, is asked where files are looked at.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::problem::Problems;
use super::raw::Text;
use super::{blank_as_none, check_text};

/// Stands for the name of the input.
const PLACEHOLDER: &str = "{name}";
/// Characters of the pattern.
const MAX_PATTERN: usize = 100;
/// Endings and beginnings of the names that the daemon gives its own files: they are never anything else.
const OWN_ENDINGS: [&str; 3] = [".result.json", ".error.json", ".result.txt"];
const OWN_BEGINNINGS: [&str; 2] = [".rri-", ".nfs"];

/// The name of a marker: something before or after the name of its input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    before: String,
    after: String,
}

impl Marker {
    /// The marker of the input of this name; perhaps longer than a name may be.
    pub fn of(&self, input: &OsStr) -> OsString {
        OsString::from_vec([self.before.as_bytes(), input.as_bytes(), self.after.as_bytes()].concat())
    }

    /// The name of the input whose marker has this name; none if it is the name of no marker.
    pub fn input_of(&self, name: &OsStr) -> Option<OsString> {
        let inner = name.as_bytes().strip_prefix(self.before.as_bytes())?.strip_suffix(self.after.as_bytes())?;
        (!inner.is_empty()).then(|| OsString::from_vec(inner.to_vec()))
    }

    /// The pattern as written, if it can be meant.
    pub(super) fn build(written: Option<Text>, problems: &mut Problems<'_>) -> Option<Self> {
        let written = blank_as_none(written)?;
        let (pattern, at) = (written.get_ref(), written.span());
        check_text(pattern, MAX_PATTERN, &at, problems);
        let Some((before, after)) = pattern.split_once(PLACEHOLDER) else {
            problems.at(&at, format!("{pattern:?} does not contain {{name}}; write for example \"{{name}}.done\""));
            return None;
        };
        let wrong = if before.is_empty() && after.is_empty() {
            Some("is the name of the input itself")
        } else if pattern.contains(['/', '\0']) {
            Some("is not a name: a marker stands beside its input, so leave out slashes")
        } else if [before, after].iter().any(|part| part.contains(['{', '}'])) {
            Some("may contain {name} once and no other braces")
        } else if OWN_ENDINGS.iter().any(|own| after.ends_with(own))
            || OWN_BEGINNINGS.iter().any(|own| before.starts_with(own))
        {
            Some("is what the daemon calls its own files")
        } else {
            None
        };
        if let Some(wrong) = wrong {
            problems.at(&at, format!("{pattern:?} {wrong}; write for example \"{{name}}.done\""));
            return None;
        }
        Some(Self { before: before.to_owned(), after: after.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_and_its_input_name_each_other() {
        for (before, after, name) in
            [("", ".done", "a.pdf.done"), (".", ".ok", ".a.pdf.ok"), ("ready-", "", "ready-a.pdf")]
        {
            let marker = Marker { before: before.into(), after: after.into() };
            assert_eq!(marker.of(OsStr::new("a.pdf")), name);
            assert_eq!(marker.input_of(OsStr::new(name)), Some("a.pdf".into()));
            assert_eq!(marker.input_of(OsStr::new("b.pdf")), None);
            assert_eq!(marker.input_of(OsStr::new(&format!("{before}{after}"))), None, "of nothing");
        }
        let bytes = OsStr::from_bytes(b"\xff.done");
        let marker = Marker { before: String::new(), after: ".done".into() };
        assert_eq!(marker.of(&marker.input_of(bytes).unwrap()), bytes);
        let overlapping = Marker { before: "aa".into(), after: "ab".into() };
        assert_eq!(overlapping.input_of(OsStr::new("aab")), None);
    }
}
