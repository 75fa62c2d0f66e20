//! What is wrong with a configuration file, told so that an operator can put it right at once.
//!
//! Every problem carries the place (line and column), the key, the offending line with a caret, and words on what to
//! do. Lines that may hold a secret are never shown. It knows TOML's spans, not what the keys mean.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::source::Sources;
use crate::show::{Shown, escaped};

/// Problems that are printed; what lies beyond is only counted.
pub const MAX_PROBLEMS: usize = 20;

/// Characters of an offending line that are printed.
const MAX_EXCERPT: usize = 200;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read at all.
    #[error("cannot read the configuration file {}: {source}", Shown(.path))]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file says something that cannot be meant.
    #[error("{0}")]
    Invalid(Invalid),
}

/// Everything that is wrong with one configuration, in the order of its files and their lines.
#[derive(Debug)]
pub struct Invalid {
    /// The first [`MAX_PROBLEMS`] problems.
    pub problems: Vec<Problem>,
    /// How many more there are.
    pub omitted: usize,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.problems.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        if self.omitted > 0 {
            write!(f, "\n... and {} more", self.omitted)?;
        }
        Ok(())
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub origin: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The key it is about, for example `watch.settle`; empty for a syntax error.
    pub key: String,
    /// What is wrong and what to do.
    pub message: String,
    /// The offending line and the number of characters to underline; none if the line may hold a secret.
    excerpt: Option<(String, usize)>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", Shown(&self.origin), self.line, self.column)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", escaped(&self.key))?;
        }
        write!(f, "{}", escaped(&self.message))?;
        if let Some((text, marked)) = &self.excerpt {
            let gutter = self.line.to_string().len();
            // Escaping may lengthen what stands before the caret, so its width is taken after escaping.
            let before: String = text.chars().take(self.column - 1).collect();
            let indent = escaped(&before).to_string().chars().count();
            let shown = escaped(text).to_string();
            write!(f, "\n{:gutter$} |\n{} | {shown}", "", self.line)?;
            write!(f, "\n{:gutter$} | {:indent$}{}", "", "", "^".repeat((*marked).max(1)))?;
        }
        Ok(())
    }
}

/// A step from the document's root to a value.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// Collects problems of one document and knows where its keys stand.
pub(super) struct Problems<'t> {
    sources: &'t Sources,
    tree: Spanned<DeTable<'t>>,
    /// Each with the offset it is about.
    list: Vec<(usize, Problem)>,
    /// Exact paths (with the index of array elements) that were already complained about.
    blamed: BTreeSet<String>,
}

impl<'t> Problems<'t> {
    /// Parses the texts as far as it goes; syntax errors are the first problems, and the only ones then.
    pub(super) fn parse(sources: &'t Sources) -> Self {
        let mut found = Vec::new();
        let tree = sources.parse(|span, key, message| found.push((span, key, message)));
        let mut problems = Self { sources, tree, list: Vec::new(), blamed: BTreeSet::new() };
        for (span, key, message) in found {
            problems.report(&span, key, message);
        }
        problems
    }

    /// For a text that is not even parsed.
    pub(super) fn unparsed(sources: &'t Sources) -> Self {
        let tree = Spanned::new(0..0, DeTable::new());
        Self { sources, tree, list: Vec::new(), blamed: BTreeSet::new() }
    }

    /// Whether the files are well-formed TOML so far.
    pub(super) fn is_well_formed(&self) -> bool {
        self.list.iter().all(|(_, problem)| !problem.key.is_empty())
    }

    /// Whether nobody but its owner can read the file of this value.
    pub(super) fn is_private(&self, span: &Range<usize>) -> bool {
        self.sources.is_private(span.start)
    }

    /// Reads the document as `T`. What does not fit is reported and left out, and the rest is read again, so that one
    /// run finds everything.
    pub(super) fn read<T: serde::de::DeserializeOwned + Default>(&mut self) -> T {
        let mut tree = self.tree.clone();
        // Each round removes an entry, so it ends; the bound only guards against a document full of nonsense.
        for _ in 0..=MAX_PROBLEMS {
            match T::deserialize(toml::de::Deserializer::from(tree.clone())) {
                Ok(value) => return value,
                Err(error) => {
                    let Some(span) = error.span() else {
                        self.at(&(0..0), error.message());
                        break;
                    };
                    let Some(mut path) = locate(&tree, &span) else {
                        self.at(&span, error.message());
                        break;
                    };
                    while matches!(path.last(), Some(Step::Index(_))) {
                        path.pop();
                    }
                    let key = readable(&path);
                    let message = reworded(&key, error.message());
                    self.blamed.insert(exact(&path));
                    self.report(&span, key, message);
                    if !remove(tree.get_mut(), &path) {
                        break;
                    }
                }
            }
        }
        T::default()
    }

    /// Reports a problem of the value at this span.
    pub(super) fn at(&mut self, span: &Range<usize>, message: impl Into<String>) {
        let path = locate(&self.tree, span).unwrap_or_default();
        self.blamed.insert(exact(&path));
        self.report(span, readable(&path), message.into());
    }

    /// Reports that `key` is missing from the table at this span, unless it was there and already complained about.
    pub(super) fn missing(&mut self, table: &Range<usize>, key: &str, message: impl Into<String>) {
        let mut path = locate(&self.tree, table).unwrap_or_default();
        path.push(Step::Key(key.to_owned()));
        if self.blamed.insert(exact(&path)) {
            self.report(table, readable(&path), message.into());
        }
    }

    /// Like [`Self::missing`] for a key outside of arrays whose table may be absent as well.
    pub(super) fn absent(&mut self, table: &Range<usize>, key: &str, message: &str) {
        let section = key.split('.').next().unwrap_or_default();
        if !self.is_blamed(section) && self.blamed.insert(key.to_owned()) {
            self.report(table, key.to_owned(), message.to_owned());
        }
    }

    /// Whether this exact path, for example `pipelines.invoices`, was complained about.
    pub(super) fn is_blamed(&self, path: &str) -> bool {
        self.blamed.contains(path)
    }

    /// Where a value stands, for one who reads about another: `line 7`, or with its file if that is another one.
    pub(super) fn place(&self, span: &Range<usize>, seen_from: &Range<usize>) -> String {
        self.sources.place(span.start, Some(seen_from.start))
    }

    /// The value if nothing is wrong, else everything that is.
    pub(super) fn finish<T>(self, value: T) -> Result<T, ConfigError> {
        if self.list.is_empty() { Ok(value) } else { Err(self.into_error()) }
    }

    /// Everything that was reported.
    pub(super) fn into_error(mut self) -> ConfigError {
        self.list.sort_by_key(|(offset, _)| *offset);
        self.list.dedup();
        let omitted = self.list.len().saturating_sub(MAX_PROBLEMS);
        let problems = self.list.into_iter().map(|(_, problem)| problem).take(MAX_PROBLEMS).collect();
        ConfigError::Invalid(Invalid { problems, omitted })
    }

    fn report(&mut self, span: &Range<usize>, key: String, message: String) {
        let (origin, before, after) = self.sources.split(span.start);
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let (line, column) = (before.matches('\n').count() + 1, before[start..].chars().count() + 1);
        let rest = after.lines().next().unwrap_or_default();
        let text = format!("{}{rest}", &before[start..]);
        let marked = after.get(..span.len()).map_or(1, |marked| marked.chars().take_while(|c| *c != '\n').count());
        let marked = marked.min(rest.chars().count()).min(MAX_EXCERPT);
        let hidden = may_hold_secret(&before[..start], &text) || column > MAX_EXCERPT;
        let excerpt = (!hidden).then(|| (text.chars().take(MAX_EXCERPT).collect(), marked));
        self.list.push((span.start, Problem { origin: origin.to_owned(), line, column, key, message, excerpt }));
    }
}

/// A line that names something like a secret, or that lies inside a multi-line string, is not shown.
fn may_hold_secret(before: &str, line: &str) -> bool {
    let line = line.to_lowercase();
    // Keys that name a file are no secrets.
    let line = line.replace("api_key_file", "").replace("token_file", "");
    ["key", "token", "secret", "passw", "@"].iter().any(|word| line.contains(word))
        || ["\"\"\"", "'''"].iter().any(|quote| before.matches(quote).count() % 2 == 1)
}

/// Types by the names that operators know.
const WORDS: [(&str, &str); 5] = [
    ("expected a sequence", "expected a list in brackets, for example [\"*.pdf\"]"),
    ("expected a map", "expected a section with keys"),
    ("expected u32", "expected a whole number from 0"),
    ("expected f64", "expected a number"),
    ("expected a string", "expected a text in quotes"),
];

/// Puts serde's words into an operator's, and keeps a secret of the wrong type out of them.
fn reworded(key: &str, message: &str) -> String {
    let last = key.rsplit('.').next().unwrap_or_default();
    match last {
        "api_key" | "token" if message.starts_with("invalid type") => "must be a string in quotes".to_owned(),
        "on_failure" => "must be \"keep\" or { move = \"FOLDER\" }".to_owned(),
        "on_success" => "must be \"keep\", \"delete\" or { move = \"FOLDER\" }".to_owned(),
        _ => match message.split_once("unknown field `").and_then(|(_, rest)| rest.split_once("`, ")) {
            Some((_, expected)) => format!("unknown key; remove it or correct its spelling ({expected})"),
            None => WORDS.iter().fold(message.to_owned(), |said, (word, meant)| said.replace(word, meant)),
        },
    }
}

/// The path of the smallest key or value that covers the start of `span`.
fn locate(tree: &Spanned<DeTable<'_>>, span: &Range<usize>) -> Option<Vec<Step>> {
    let mut best = None;
    search_table(tree.get_ref(), span.start, &mut Vec::new(), &mut best);
    best.map(|(_, path)| path)
}

fn search_table(table: &DeTable<'_>, offset: usize, path: &mut Vec<Step>, best: &mut Option<(usize, Vec<Step>)>) {
    for (key, value) in table {
        path.push(Step::Key(key.get_ref().to_string()));
        consider(&key.span(), offset, path, best);
        search_value(value, offset, path, best);
        path.pop();
    }
}

fn search_value(
    value: &Spanned<DeValue<'_>>,
    offset: usize,
    path: &mut Vec<Step>,
    best: &mut Option<(usize, Vec<Step>)>,
) {
    consider(&value.span(), offset, path, best);
    match value.get_ref() {
        DeValue::Table(table) => search_table(table, offset, path, best),
        DeValue::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                path.push(Step::Index(index));
                search_value(item, offset, path, best);
                path.pop();
            }
        }
        _ => {}
    }
}

/// Of two of the same size the later, which is the inner one: an array of one table has the span of its table.
fn consider(span: &Range<usize>, offset: usize, path: &[Step], best: &mut Option<(usize, Vec<Step>)>) {
    if span.contains(&offset) && best.as_ref().is_none_or(|(length, _)| span.len() <= *length) {
        *best = Some((span.len(), path.to_vec()));
    }
}

fn remove(table: &mut DeTable<'_>, path: &[Step]) -> bool {
    let [Step::Key(key), rest @ ..] = path else { return false };
    if rest.is_empty() {
        return table.remove(key.as_str()).is_some();
    }
    let Some(mut value) = table.get_mut(key.as_str()) else { return false };
    let mut rest = rest;
    while let ([Step::Index(index), tail @ ..], DeValue::Array(_)) = (rest, value.get_ref()) {
        let DeValue::Array(items) = value.get_mut() else { return false };
        let Some(item) = items.get_mut(*index) else { return false };
        (value, rest) = (item, tail);
    }
    match value.get_mut() {
        DeValue::Table(table) => remove(table, rest),
        _ => false,
    }
}

/// `watch.results.mode`: as an operator would say it.
fn readable(path: &[Step]) -> String {
    let keys: Vec<_> = path
        .iter()
        .filter_map(|step| match step {
            Step::Key(key) => Some(key.as_str()),
            Step::Index(_) => None,
        })
        .collect();
    keys.join(".")
}

/// `watch.1.results.mode`: tells array elements apart.
fn exact(path: &[Step]) -> String {
    let steps: Vec<_> = path
        .iter()
        .map(|step| match step {
            Step::Key(key) => key.clone(),
            Step::Index(index) => index.to_string(),
        })
        .collect();
    steps.join(".")
}
