//! The texts a configuration is made of: the configuration file, and what `conf.d` beside it adds.
//!
//! All texts lie behind one another in one string, so that one offset says which file, line and column is meant. It knows
//! files, offsets and TOML's tables; of the keys it knows only which two may stand in more than one file.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::problem::{ConfigError, Problems};
use super::units;
use crate::show::Shown;

/// The largest configuration file that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// The most bytes that are read of all files together.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// The most files of `conf.d` that are read.
pub const MAX_FILES: usize = 1000;

/// The folder beside the configuration file whose files add to it.
const FOLDER: &str = "conf.d";
/// Permission bits of a file that nobody but its owner can use.
const ALL_BUT_OWNER: u32 = 0o077;

/// Every text of one configuration, the configuration file first, the others by their names.
#[derive(Debug)]
pub(super) struct Sources {
    text: String,
    files: Vec<Source>,
}

/// One file.
#[derive(Debug)]
struct Source {
    /// As an absolute path.
    origin: PathBuf,
    /// Where its text lies.
    range: Range<usize>,
    /// Whether nobody else can read it.
    private: bool,
}

impl Sources {
    /// A text that is taken for the content of `origin`, and for one that nobody else can read.
    pub(super) fn of(text: &str, origin: &Path) -> Self {
        let mut sources = Self { text: String::new(), files: Vec::new() };
        sources.add(text, origin, true);
        sources
    }

    /// Reads the configuration file, and the `*.toml` files in the folder `conf.d` beside it.
    pub(super) fn load(path: &Path) -> Result<Self, ConfigError> {
        let mut sources = Self { text: String::new(), files: Vec::new() };
        sources.read(path, &File::open(path).map_err(failed(path))?)?;
        let folder = sources.files[0].origin.with_file_name(FOLDER);
        for path in more(&folder)? {
            // Not blocking: a FIFO there must not hold the daemon.
            let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
            let file = opened.map_err(failed(&path))?;
            if !file.metadata().map_err(failed(&path))?.is_file() {
                return Err(refused(&path, "it is not a regular file; remove it, or give it another ending"));
            }
            sources.read(&path, &file)?;
        }
        Ok(sources)
    }

    fn read(&mut self, path: &Path, file: &File) -> Result<(), ConfigError> {
        let mode = file.metadata().map_err(failed(path))?.mode();
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed(path))?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(refused(path, &format!("it is larger than {}", units::show_size(MAX_FILE_BYTES))));
        }
        if self.text.len() + bytes.len() > MAX_BYTES {
            let limit = units::show_size(MAX_BYTES as u64);
            return Err(refused(path, &format!("with it the files of {FOLDER} are larger than {limit} together")));
        }
        match std::str::from_utf8(&bytes) {
            Ok(text) => {
                self.add(text, path, mode & ALL_BUT_OWNER == 0);
                Ok(())
            }
            Err(error) => {
                let good = Self::of(&String::from_utf8_lossy(&bytes[..error.valid_up_to()]), path);
                let mut problems = Problems::unparsed(&good);
                let end = good.text.len();
                problems.at(&(end..end), "not UTF-8 text from here on; save the file as UTF-8");
                Err(problems.into_error())
            }
        }
    }

    fn add(&mut self, text: &str, origin: &Path, private: bool) {
        if !self.files.is_empty() {
            // Belongs to no file: so the end of one is not the start of the next.
            self.text.push('\n');
        }
        let start = self.text.len();
        self.text.push_str(text);
        let origin = std::path::absolute(origin).unwrap_or_else(|_| origin.to_owned());
        self.files.push(Source { origin, range: start..self.text.len(), private });
    }

    /// The configuration file itself.
    pub(super) fn origin(&self) -> &Path {
        &self.files[0].origin
    }

    /// Whether nobody else can read the file in which this offset lies.
    pub(super) fn is_private(&self, offset: usize) -> bool {
        self.file(offset).private
    }

    /// The file in which this offset lies, and its text up to and from there.
    pub(super) fn split(&self, offset: usize) -> (&Path, &str, &str) {
        let file = self.file(offset);
        let text = &self.text[file.range.clone()];
        let mut at = offset.clamp(file.range.start, file.range.end) - file.range.start;
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        (&file.origin, &text[..at], &text[at..])
    }

    /// Where this offset lies: file and line, or only `line 7` for one who reads about another offset of that file.
    pub(super) fn place(&self, offset: usize, seen_from: Option<usize>) -> String {
        let (origin, before, _) = self.split(offset);
        let line = before.matches('\n').count() + 1;
        let known = seen_from.is_some_and(|offset| origin == self.split(offset).0);
        if known { format!("line {line}") } else { format!("{}:{line}", Shown(origin)) }
    }

    /// All texts as one document. Tells `wrong` of everything that is no TOML (with an empty key), and of what stands in
    /// `conf.d` and may not; that is left out.
    pub(super) fn parse(&self, mut wrong: impl FnMut(Range<usize>, String, String)) -> Spanned<DeTable<'_>> {
        let mut whole = None;
        for file in &self.files {
            let (mut tree, errors) = DeTable::parse_recoverable(&self.text[file.range.clone()]);
            for error in errors {
                let span = error.span().unwrap_or(0..0);
                let span = span.start + file.range.start..span.end + file.range.start;
                wrong(span, String::new(), error.message().to_owned());
            }
            shift_table(tree.get_mut(), file.range.start);
            match &mut whole {
                None => whole = Some(tree),
                Some(whole) => self.merge(whole.get_mut(), tree.into_inner(), &mut wrong),
            }
        }
        whole.unwrap_or_else(|| Spanned::new(0..0, DeTable::new()))
    }

    fn merge<'t>(
        &self,
        whole: &mut DeTable<'t>,
        added: DeTable<'t>,
        wrong: &mut impl FnMut(Range<usize>, String, String),
    ) {
        for (key, value) in added {
            let (name, span) = (key.get_ref().to_string(), value.span());
            match (name.as_str(), value.into_inner()) {
                ("watch", DeValue::Array(items)) => {
                    let all = whole.entry(key).or_insert_with(|| Spanned::new(span, DeValue::Array(DeArray::new())));
                    // One of the wrong type is reported when the document is read.
                    if let DeValue::Array(all) = all.get_mut() {
                        items.into_iter().for_each(|item| all.push(item));
                    }
                }
                ("pipelines", DeValue::Table(pipelines)) => {
                    let all = whole.entry(key).or_insert_with(|| Spanned::new(span, DeValue::Table(DeTable::new())));
                    let DeValue::Table(all) = all.get_mut() else { continue };
                    for (name, pipeline) in pipelines {
                        if let Some((first, _)) = all.get_key_value(name.get_ref().as_ref()) {
                            let place = self.place(first.span().start, Some(name.span().start));
                            let message = format!("defined already ({place}); remove one of the two, or rename it");
                            wrong(name.span(), format!("pipelines.{}", name.get_ref()), message);
                        } else {
                            all.insert(name, pipeline);
                        }
                    }
                }
                _ => {
                    let message = format!(
                        "a file in {FOLDER} adds [pipelines.NAME] and [[watch]] sections only; move this to {}",
                        Shown(self.origin())
                    );
                    wrong(key.span(), name, message);
                }
            }
        }
    }

    fn file(&self, offset: usize) -> &Source {
        let later = self.files.iter().skip(1).rev().find(|file| file.range.start <= offset);
        later.unwrap_or(&self.files[0])
    }
}

/// The files of the folder that count, by name. One that is not there adds nothing.
fn more(folder: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(folder)(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed(folder))?.path();
        let name = path.file_name().unwrap_or_default().as_bytes();
        if name.starts_with(b".") || !name.ends_with(b".toml") {
            continue;
        }
        if paths.len() == MAX_FILES {
            return Err(refused(folder, &format!("it holds more than {MAX_FILES} .toml files; put some together")));
        }
        paths.push(path);
    }
    paths.sort();
    Ok(paths)
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> ConfigError {
    move |source| ConfigError::Read { path: path.to_owned(), source }
}

fn refused(path: &Path, why: &str) -> ConfigError {
    failed(path)(std::io::Error::other(why))
}

/// Moves every span of the table, from offsets in its own file to offsets in the whole text.
fn shift_table(table: &mut DeTable<'_>, by: usize) {
    if by == 0 {
        return;
    }
    *table = std::mem::take(table)
        .into_iter()
        .map(|(key, value)| (Spanned::new(moved(&key.span(), by), key.into_inner()), shifted(value, by)))
        .collect();
}

fn shifted(value: Spanned<DeValue<'_>>, by: usize) -> Spanned<DeValue<'_>> {
    let span = moved(&value.span(), by);
    let value = match value.into_inner() {
        DeValue::Table(mut table) => {
            shift_table(&mut table, by);
            DeValue::Table(table)
        }
        DeValue::Array(items) => DeValue::Array(items.into_iter().map(|item| shifted(item, by)).collect()),
        other => other,
    };
    Spanned::new(span, value)
}

fn moved(span: &Range<usize>, by: usize) -> Range<usize> {
    span.start + by..span.end + by
}
