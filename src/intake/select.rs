//! Which paths beneath a root are inputs: filters, junk, and never our own outputs.
//!
//! Pure: it decides by the path alone, relative to the root of its watch.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::config::{Globs, Marker, Watch};
use crate::show::{Shown, escaped};
use crate::sidecar;

/// Deepest nesting of folders that is walked into; a path this deep is a mistake or an attack.
pub const MAX_DEPTH: usize = 128;

/// Patterns that are named when none of them matches.
const SHOWN_PATTERNS: usize = 10;

/// Longest path that a system call takes, in bytes, with the NUL that ends it.
const PATH_MAX: usize = 4096;

/// Names that editors, browsers and systems leave while they work; compared without regard to case.
const JUNK_NAMES: &[&str] = &["thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"];
/// Beginnings of such names: hidden files and folders, and the lock files of office programs.
const JUNK_PREFIXES: &[&str] = &[".", "~$"];
/// Endings of such names.
const JUNK_SUFFIXES: &[&str] =
    &[".tmp", ".temp", ".part", ".partial", ".crdownload", ".opdownload", ".filepart", ".aria2", ".swp", "~"];

/// Why a path is not an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// One of our own outputs or hidden names.
    Output,
    /// A `done_marker`.
    Marker,
    /// In the folder that finished files, or those that were given up, are moved to.
    MoveTarget,
    /// In the folder that results are put into.
    Results,
    /// Junk: `ignore_junk`.
    Junk,
    /// An `exclude` pattern matches.
    Excluded,
    /// No `include` pattern matches.
    NotIncluded,
    /// In a folder, and the watch is not recursive.
    NotRecursive,
    /// Nested deeper than [`MAX_DEPTH`], or of a path that no system call takes.
    TooDeep,
}

impl Skip {
    /// Stable name of the rule.
    pub fn rule(self) -> &'static str {
        match self {
            Self::Output => "output",
            Self::Marker => "done-marker",
            Self::MoveTarget => "move-target",
            Self::Results => "results",
            Self::Junk => "junk",
            Self::Excluded => "exclude",
            Self::NotIncluded => "include",
            Self::NotRecursive => "recursive",
            Self::TooDeep => "depth",
        }
    }
}

/// The selection of one watch.
#[derive(Debug, Clone)]
pub struct Selector {
    filters: crate::config::Filters,
    recursive: bool,
    marker: Option<Marker>,
    /// Where files are moved to in the end, relative to the root, if it lies beneath it.
    move_targets: Vec<PathBuf>,
    /// Where results go, relative to the root, if that lies beneath it.
    results: Option<PathBuf>,
}

impl Selector {
    /// The selection that a watch asks for.
    pub fn new(watch: &Watch) -> Self {
        let inside = |target: &Path| target.strip_prefix(&watch.path).ok().map(Path::to_owned);
        Self {
            filters: watch.select.clone(),
            recursive: watch.recursive,
            marker: watch.done_marker.clone(),
            move_targets: watch.targets().filter_map(inside).collect(),
            results: watch.results.directory.as_deref().and_then(inside),
        }
    }

    /// Whether a file is an input, or why not.
    pub fn file(&self, rel: &Path) -> Result<(), Skip> {
        self.named(rel)?;
        self.folders(rel.parent().unwrap_or(Path::new("")))?;
        self.filtered(rel)
    }

    /// As [`Selector::file`], for a file in a folder that is known not to be left alone.
    pub fn listed(&self, rel: &Path) -> Result<(), Skip> {
        self.named(rel)?;
        self.filtered(rel)
    }

    fn named(&self, rel: &Path) -> Result<(), Skip> {
        if sidecar::is_output(crate::fs::base_name(rel)) {
            return Err(Skip::Output);
        }
        if rel.as_os_str().len() >= PATH_MAX {
            return Err(Skip::TooDeep);
        }
        if self.marker.as_ref().is_some_and(|marker| marker.input_of(crate::fs::base_name(rel)).is_some()) {
            return Err(Skip::Marker);
        }
        Ok(())
    }

    fn filtered(&self, rel: &Path) -> Result<(), Skip> {
        if self.filters.ignore_junk && is_junk(crate::fs::base_name(rel)) {
            return Err(Skip::Junk);
        }
        if self.filters.exclude.is_match(rel) {
            return Err(Skip::Excluded);
        }
        if self.filters.include.as_ref().is_some_and(|include| !include.is_match(rel)) {
            return Err(Skip::NotIncluded);
        }
        Ok(())
    }

    /// Why a rule leaves a path alone, in words that name what about the path it is.
    pub fn reason(&self, rel: &Path, skip: Skip) -> String {
        let shown = |name: &OsStr| Shown(name.as_ref()).to_string();
        let component = |matches: &dyn Fn(&OsStr) -> bool| {
            let mut names = rel.components().filter_map(|component| match component {
                Component::Normal(name) => Some(name),
                _ => None,
            });
            names.find(|name| matches(name)).map_or_else(|| Shown(rel).to_string(), shown)
        };
        match skip {
            Skip::Output => {
                let own = |name: &OsStr| {
                    name.as_bytes().starts_with(sidecar::HIDDEN_PREFIX.as_bytes()) || sidecar::is_output(name)
                };
                format!("{} is a name that the daemon keeps for its own files", component(&own))
            }
            Skip::Marker => {
                let input = self.marker.as_ref().and_then(|marker| marker.input_of(crate::fs::base_name(rel)));
                let input = input.as_deref().map(shown).unwrap_or_default();
                format!("it is the done_marker of {input}, and no input itself")
            }
            Skip::MoveTarget => {
                let target = self.move_targets.iter().find(|target| rel.starts_with(target));
                let target = target.map(|target| Shown(target).to_string()).unwrap_or_default();
                format!("it lies in {target}, where finished files are moved to")
            }
            Skip::Results => {
                let results = self.results.as_deref().map(|results| Shown(results).to_string()).unwrap_or_default();
                format!("it lies in {results}, where results are put")
            }
            Skip::Junk => format!(
                "{} is hidden, or temporary as editors and browsers leave it (ignore_junk = false takes such files)",
                component(&is_junk)
            ),
            Skip::Excluded => {
                let pattern = self.filters.exclude.matching(rel).unwrap_or_default();
                format!("it matches {:?} of exclude", escaped(pattern).to_string())
            }
            Skip::NotIncluded => {
                let written = self.filters.include.as_ref().map(Globs::written).unwrap_or_default();
                let shown: Vec<_> = written
                    .iter()
                    .take(SHOWN_PATTERNS)
                    .map(|glob| format!("{:?}", escaped(glob).to_string()))
                    .collect();
                let more = written.len().saturating_sub(SHOWN_PATTERNS);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                format!("it matches nothing of include, which has {}{more}", shown.join(", "))
            }
            Skip::NotRecursive => "it lies in a folder, and the watch is not recursive".to_owned(),
            Skip::TooDeep => {
                format!("it is nested in more than {MAX_DEPTH} folders, or its path is longer than {PATH_MAX} bytes")
            }
        }
    }

    /// The pattern of `include` that takes a file, if the watch has any.
    pub fn included_by(&self, rel: &Path) -> Option<&str> {
        self.filters.include.as_ref()?.matching(rel)
    }

    /// Whether a folder is walked into, or why not; the root itself always is.
    pub fn folders(&self, rel: &Path) -> Result<(), Skip> {
        if rel.as_os_str().is_empty() {
            return Ok(());
        }
        if !self.recursive {
            return Err(Skip::NotRecursive);
        }
        if self.move_targets.iter().any(|target| rel.starts_with(target)) {
            return Err(Skip::MoveTarget);
        }
        if self.results.as_ref().is_some_and(|results| rel.starts_with(results)) {
            return Err(Skip::Results);
        }
        let mut depth = 0;
        for component in rel.components() {
            let Component::Normal(name) = component else { return Err(Skip::TooDeep) };
            depth += 1;
            if name.as_bytes().starts_with(sidecar::HIDDEN_PREFIX.as_bytes()) {
                return Err(Skip::Output);
            }
            if self.filters.ignore_junk && is_junk(name) {
                return Err(Skip::Junk);
            }
        }
        if depth > MAX_DEPTH || rel.as_os_str().len() >= PATH_MAX { Err(Skip::TooDeep) } else { Ok(()) }
    }
}

fn is_junk(name: &OsStr) -> bool {
    let name = name.as_bytes().to_ascii_lowercase();
    JUNK_NAMES.iter().any(|junk| name == junk.as_bytes())
        || JUNK_PREFIXES.iter().any(|junk| name.starts_with(junk.as_bytes()))
        || JUNK_SUFFIXES.iter().any(|junk| name.ends_with(junk.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Environment};

    fn selector(watch: &str) -> Selector {
        let text = format!(
            "[server]\nuri = \"http://127.0.0.1\"\n[pipelines.p]\nfile = \"p.pipe\"\n\
             [[watch]]\npath = \"/in\"\npipeline = \"p\"\n{watch}"
        );
        let config = Config::parse(&text, Path::new("/etc/config.toml"), &Environment::default()).unwrap();
        Selector::new(&config.watches[0])
    }

    fn check(selector: &Selector, expected: &[(&str, Option<&str>)]) {
        for (path, rule) in expected {
            assert_eq!(selector.file(Path::new(path)).err().map(Skip::rule), *rule, "{path}");
        }
    }

    #[test]
    fn ordinary_names_are_inputs_and_junk_is_not() {
        check(
            &selector(""),
            &[
                ("a.pdf", None),
                ("#1 invoice.pdf", None),
                ("sub/Grüße aus Köln.txt", None),
                (".hidden", Some("junk")),
                (".git/config", Some("junk")),
                ("a.pdf.part", Some("junk")),
                ("sub/UPLOAD.TMP", Some("junk")),
                ("~$report.docx", Some("junk")),
                ("Thumbs.db", Some("junk")),
            ],
        );
        check(&selector("ignore_junk = false"), &[(".hidden", None), ("a.tmp", None)]);
    }

    #[test]
    fn our_own_outputs_are_never_inputs_whatever_the_filters_say() {
        check(
            &selector("ignore_junk = false\ninclude = [\"*\"]"),
            &[
                ("a.pdf.result.json", Some("output")),
                ("a.pdf.error.json", Some("output")),
                ("sub/a.result.txt", Some("output")),
                (".rri-tmp-x", Some("output")),
                (".rri-x/a.pdf", Some("output")),
                (".nfs000", Some("output")),
                ("result.json", None),
            ],
        );
    }

    #[test]
    fn markers_are_never_inputs_whatever_the_filters_say() {
        check(
            &selector("ignore_junk = false\ninclude = [\"*\"]\ndone_marker = \"{name}.done\""),
            &[("a.pdf.done", Some("done-marker")), ("a.pdf.done.done", Some("done-marker")), (".done", None)],
        );
        check(&selector(""), &[("a.pdf.done", None)]);
    }

    #[test]
    fn no_name_of_ours_can_be_a_marker() {
        for pattern in ["{name}.result.json", "x{name}.error.json", "{name}.result.txt", ".rri-{name}", ".nfs{name}x"] {
            assert!(sidecar::is_output(OsStr::new(&pattern.replace("{name}", "a.pdf"))), "{pattern}");
            let text = format!(
                "[server]\nuri = \"http://127.0.0.1\"\n[pipelines.p]\nfile = \"p.pipe\"\n\
                 [[watch]]\npath = \"/in\"\npipeline = \"p\"\ndone_marker = {pattern:?}"
            );
            let refused = Config::parse(&text, Path::new("/etc/config.toml"), &Environment::default()).unwrap_err();
            assert!(refused.to_string().contains("its own files"), "{refused}");
        }
    }

    #[test]
    fn exclude_wins_over_include() {
        check(
            &selector("include = [\"*.pdf\"]\nexclude = [\"draft*\"]"),
            &[("a.pdf", None), ("sub/a.pdf", None), ("a.txt", Some("include")), ("draft.pdf", Some("exclude"))],
        );
    }

    #[test]
    fn a_reason_names_what_of_the_path_it_is_about() {
        for (watch, path, expected) in [
            ("", "a/.git/config", ".git is hidden"),
            ("", "a/b.pdf.part", "b.pdf.part is hidden, or temporary"),
            ("exclude = [\"x/\", \"draft*\"]", "draft.pdf", "\"draft*\" of exclude"),
            ("include = [\"*.pdf\", \"*.csv\"]", "a.txt", "\"*.pdf\", \"*.csv\""),
            ("done_marker = \"{name}.ok\"", "a.pdf.ok", "the done_marker of a.pdf"),
            ("on_success = { move = \"done\" }", "done/a.pdf", "it lies in done"),
            ("[watch.results]\ndirectory = \"out\"", "out/a.pdf", "it lies in out"),
            ("recursive = false", "sub/a.pdf", "not recursive"),
            ("", "sub/a.pdf.result.json", "a.pdf.result.json is a name"),
        ] {
            let selector = selector(watch);
            let reason = selector.reason(Path::new(path), selector.file(Path::new(path)).unwrap_err());
            assert!(reason.contains(expected), "{path}: {reason}");
        }
        assert_eq!(selector("include = [\"*.pdf\"]").included_by(Path::new("a.pdf")), Some("*.pdf"));
    }

    #[test]
    fn where_results_go_nothing_is_picked_up() {
        let selector = selector("[watch.results]\ndirectory = \"out/of\"");
        check(&selector, &[("out/of/in/a.pdf", Some("results")), ("out/a.pdf", None), ("sub/out/of/a.pdf", None)]);
        assert!(selector.folders(Path::new("out/of")).is_err(), "it is not even walked");
    }

    #[test]
    fn where_finished_files_go_nothing_is_picked_up() {
        let selector = selector("on_success = { move = \"done\" }\non_failure = { move = \"failed/x\" }");
        check(&selector, &[("failed/x/a.pdf", Some("move-target")), ("failed/a.pdf", None)]);
        check(&selector, &[("done/a.pdf", Some("move-target")), ("donet/a.pdf", None), ("sub/done/a.pdf", None)]);
        assert!(selector.folders(Path::new("done")).is_err(), "it is not even walked");
    }

    #[test]
    fn nesting_is_bounded_and_can_be_switched_off() {
        check(&selector("recursive = false"), &[("a.pdf", None), ("sub/a.pdf", Some("recursive"))]);
        let deep = "d/".repeat(MAX_DEPTH + 1) + "a.pdf";
        check(&selector(""), &[(deep.as_str(), Some("depth"))]);
    }
}
