//! What is wrong with a configuration file, told so that an operator can put it right at once.
//!
//! Every problem carries the place (line and column), the key, the offending line with a caret, and words on what to
//! do. Lines that may hold a secret are never shown. It knows TOML's spans, not what the keys mean.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

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

/// Everything that is wrong with one file, in the order of its lines.
#[derive(Debug)]
pub struct Invalid {
    /// The file.
    pub origin: PathBuf,
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
            write!(f, "{}:{problem}", Shown(&self.origin))?;
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
        write!(f, "{}:{}: ", self.line, self.column)?;
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
    origin: PathBuf,
    text: &'t str,
    tree: Spanned<DeTable<'t>>,
    list: Vec<Problem>,
    /// Exact paths (with the index of array elements) that were already complained about.
    blamed: BTreeSet<String>,
}

impl<'t> Problems<'t> {
    /// Parses the text as far as it goes; syntax errors are the first problems.
    pub(super) fn parse(text: &'t str, origin: &Path) -> Self {
        let (tree, errors) = DeTable::parse_recoverable(text);
        let mut problems = Self { origin: origin.to_owned(), text, tree, list: Vec::new(), blamed: BTreeSet::new() };
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            let problem = problems.problem(&span, String::new(), error.message().to_owned());
            problems.list.push(problem);
        }
        problems
    }

    /// For a text that is not even parsed.
    pub(super) fn unparsed(text: &'t str, origin: &Path) -> Self {
        Self { text, ..Self::parse("", origin) }
    }

    /// Whether the file is well-formed TOML so far.
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
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
                    let problem = self.problem(&span, key, message);
                    self.list.push(problem);
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
        let problem = self.problem(span, readable(&path), message.into());
        self.list.push(problem);
    }

    /// Reports that `key` is missing from the table at this span, unless it was there and already complained about.
    pub(super) fn missing(&mut self, table: &Range<usize>, key: &str, message: impl Into<String>) {
        let mut path = locate(&self.tree, table).unwrap_or_default();
        path.push(Step::Key(key.to_owned()));
        if self.blamed.insert(exact(&path)) {
            let problem = self.problem(table, readable(&path), message.into());
            self.list.push(problem);
        }
    }

    /// Like [`Self::missing`] for a key outside of arrays whose table may be absent as well.
    pub(super) fn absent(&mut self, table: &Range<usize>, key: &str, message: &str) {
        let section = key.split('.').next().unwrap_or_default();
        if !self.is_blamed(section) && self.blamed.insert(key.to_owned()) {
            let problem = self.problem(table, key.to_owned(), message.to_owned());
            self.list.push(problem);
        }
    }

    /// Whether this exact path, for example `pipelines.invoices`, was complained about.
    pub(super) fn is_blamed(&self, path: &str) -> bool {
        self.blamed.contains(path)
    }

    /// The line of a span, from 1.
    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        self.position(span.start).0
    }

    /// The value if nothing is wrong, else everything that is.
    pub(super) fn finish<T>(self, value: T) -> Result<T, ConfigError> {
        if self.list.is_empty() { Ok(value) } else { Err(self.into_error()) }
    }

    /// Everything that was reported.
    pub(super) fn into_error(mut self) -> ConfigError {
        self.list.sort_by_key(|problem| (problem.line, problem.column));
        self.list.dedup();
        let omitted = self.list.len().saturating_sub(MAX_PROBLEMS);
        self.list.truncate(MAX_PROBLEMS);
        ConfigError::Invalid(Invalid { origin: self.origin, problems: self.list, omitted })
    }

    fn problem(&self, span: &Range<usize>, key: String, message: String) -> Problem {
        let (line, column, start) = self.position(span.start);
        let text = self.text[start..].lines().next().unwrap_or_default();
        let room = text.chars().count().saturating_sub(column - 1);
        let marked = self.text.get(span.clone()).map_or(1, |marked| marked.chars().take_while(|c| *c != '\n').count());
        let hidden = may_hold_secret(self.text, start) || column > MAX_EXCERPT;
        let excerpt = (!hidden).then(|| (text.chars().take(MAX_EXCERPT).collect(), marked.min(room).min(MAX_EXCERPT)));
        Problem { line, column, key, message, excerpt }
    }

    /// Line and column from 1, and the offset at which the line starts.
    fn position(&self, offset: usize) -> (usize, usize, usize) {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = &self.text[..offset];
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[start..].chars().count() + 1, start)
    }
}

/// A line that names something like a secret, or that lies inside a multi-line string, is not shown.
fn may_hold_secret(text: &str, line_start: usize) -> bool {
    let line = text[line_start..].lines().next().unwrap_or_default().to_lowercase();
    // Keys that name a file are no secrets.
    let line = line.replace("api_key_file", "").replace("token_file", "");
    let before = &text[..line_start];
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
