//! Which files of a watch are meant: the `include` and `exclude` globs, as operators know them from `.gitignore`.
//!
//! A pattern without a slash is about the name of a file at any depth; one with a slash is about the whole path relative
//! to the watch; one with a slash at its end is about everything inside a folder. `*` and `?` never match a slash.

use std::path::Path;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::problem::Problems;
use super::raw::Text;

/// Patterns in one list.
const MAX_GLOBS: usize = 1000;

/// What a watch takes and what it leaves alone. All globs match the path relative to the watch.
#[derive(Debug, Clone, PartialEq)]
pub struct Filters {
    /// Only files that match; none: all files.
    pub include: Option<Globs>,
    /// Files that are left alone even when included.
    pub exclude: Globs,
    /// Whether files that are evidently not meant are left alone too (dotfiles, temporary files of editors and browsers).
    pub ignore_junk: bool,
}

/// A list of patterns, as one matcher and as they were written.
#[derive(Debug, Clone, Default)]
pub struct Globs {
    set: GlobSet,
    /// In the order of the set; by them two lists are told apart.
    written: Vec<String>,
}

impl PartialEq for Globs {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

impl Globs {
    /// Whether one of them matches.
    pub fn is_match(&self, rel: impl AsRef<Path>) -> bool {
        self.set.is_match(rel)
    }

    /// The first of them that matches, as it was written.
    pub fn matching(&self, rel: impl AsRef<Path>) -> Option<&str> {
        self.set.matches(rel).first().and_then(|index| self.written.get(*index)).map(String::as_str)
    }

    /// All of them, as they were written.
    pub fn written(&self) -> &[String] {
        &self.written
    }
}

impl Filters {
    pub(super) fn new(include: &[Text], exclude: &[Text], ignore_junk: bool, problems: &mut Problems<'_>) -> Self {
        let set = (!include.is_empty()).then(|| glob_set(include, problems));
        Self { include: set, exclude: glob_set(exclude, problems), ignore_junk }
    }
}

fn glob_set(patterns: &[Text], problems: &mut Problems<'_>) -> Globs {
    let (mut set, mut kept) = (GlobSetBuilder::new(), Vec::new());
    if let Some(pattern) = patterns.get(MAX_GLOBS) {
        problems.at(&pattern.span(), format!("more than {MAX_GLOBS} patterns; shorten the list"));
    }
    for pattern in patterns.iter().take(MAX_GLOBS) {
        let written = pattern.get_ref();
        if written.trim_matches('/').is_empty() {
            problems.at(&pattern.span(), format!("the glob {written:?} matches nothing; write for example \"*.pdf\""));
            continue;
        }
        if let Some(rest) = written.strip_prefix('!') {
            problems.at(
                &pattern.span(),
                format!("the glob {written:?} cannot be negated; put {rest:?} into the other of include and exclude"),
            );
            continue;
        }
        match GlobBuilder::new(&whole_path(written)).literal_separator(true).build() {
            Ok(glob) => {
                set.add(glob);
                kept.push(written.clone());
            }
            Err(error) => {
                let message = format!("the glob {written:?} is wrong: {}; correct it, or escape with \\", error.kind());
                problems.at(&pattern.span(), message);
            }
        }
    }
    match set.build() {
        Ok(set) => Globs { set, written: kept },
        Err(error) => {
            let span = patterns.first().map_or(0..0, Text::span);
            problems.at(&span, format!("the globs are too large together: {}; shorten the list", error.kind()));
            Globs::default()
        }
    }
}

/// The pattern as one about the whole relative path.
fn whole_path(written: &str) -> String {
    let (pattern, folder) = match written.strip_suffix('/') {
        Some(pattern) => (pattern.trim_end_matches('/'), "/**"),
        None => (written, ""),
    };
    match pattern.strip_prefix('/') {
        Some(anchored) => format!("{anchored}{folder}"),
        None if pattern.contains('/') => format!("{pattern}{folder}"),
        None => format!("**/{pattern}{folder}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        let text = format!("x = [{pattern:?}]");
        let list: std::collections::BTreeMap<String, Vec<Text>> = toml::from_str(&text).unwrap();
        let sources = super::super::source::Sources::of(&text, Path::new("x"));
        let mut problems = Problems::parse(&sources);
        let set = glob_set(&list["x"], &mut problems);
        problems.finish(()).unwrap();
        set.is_match(path)
    }

    #[test]
    fn a_pattern_without_a_slash_is_about_the_name_at_any_depth() {
        assert!(matches("*.csv", "a.csv") && matches("*.csv", "2026/05/a.csv"));
        assert!(!matches("*.csv", "a.csv/readme"));
        assert!(matches("report-[0-9]?.{pdf,docx}", "x/report-12.pdf"));
    }

    #[test]
    fn a_pattern_with_a_slash_is_about_the_whole_path() {
        assert!(matches("in/*.csv", "in/a.csv") && !matches("in/*.csv", "in/deep/a.csv"));
        assert!(!matches("in/*.csv", "x/in/a.csv") && matches("**/in/*.csv", "x/in/a.csv"));
        assert!(matches("/*.csv", "a.csv") && !matches("/*.csv", "x/a.csv"));
    }

    #[test]
    fn the_pattern_that_matched_is_known_as_it_was_written() {
        let text = "x = [\"a/\", \"/b*\", \"*.csv\"]";
        let list: std::collections::BTreeMap<String, Vec<Text>> = toml::from_str(text).unwrap();
        let sources = super::super::source::Sources::of(text, Path::new("x"));
        let globs = glob_set(&list["x"], &mut Problems::parse(&sources));
        assert_eq!(globs.written(), ["a/", "/b*", "*.csv"]);
        for (path, pattern) in [("a/b", Some("a/")), ("b.csv", Some("/b*")), ("x/b.csv", Some("*.csv")), ("c", None)] {
            assert_eq!(globs.matching(path), pattern, "{path}");
        }
    }

    #[test]
    fn a_pattern_with_a_slash_at_its_end_is_about_a_folder() {
        assert!(matches("old/", "old/a") && matches("old/", "x/old/y/a") && !matches("old/", "old"));
        assert!(matches("/old/", "old/a") && !matches("/old/", "x/old/a"));
    }
}
