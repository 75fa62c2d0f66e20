//! Results as they appear in the inbox: found by looking at the folder, as any other program would.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cli::paint::count;

/// Deepest folder that is looked into.
const MAX_DEPTH: usize = 64;
/// Names that one look goes through.
const MAX_NAMES: usize = 200_000;
/// The largest result that is read, in bytes.
const MAX_RESULT: u64 = 64 * 1024 * 1024;

/// A result or error file that appeared.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Arrival {
    /// The input, relative to the inbox.
    pub(super) input: PathBuf,
    /// The file about it.
    pub(super) path: PathBuf,
    /// Size of the input in bytes.
    pub(super) bytes: u64,
    /// What happened.
    pub(super) news: News,
}

/// What a file beside an input says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum News {
    /// It was delivered.
    Delivered {
        /// From the open pipe to the answer.
        seconds: f64,
        /// The pipeline's answer in a few words.
        answer: String,
        /// What the daemon adds.
        warnings: Vec<String>,
    },
    /// It was given up.
    Failed {
        /// Why.
        error: String,
        /// What to do.
        hint: String,
    },
}

/// A file's identity and content, as far as a stat tells.
type Stamp = (u64, u64, i64, i64);

/// What is known of the inbox.
#[derive(Debug)]
pub(super) struct Results {
    inbox: PathBuf,
    seen: HashMap<PathBuf, Stamp>,
    delivered: HashSet<PathBuf>,
    failed: HashSet<PathBuf>,
}

impl Results {
    /// Nothing is known yet.
    pub(super) fn new(inbox: PathBuf) -> Self {
        Self { inbox, seen: HashMap::new(), delivered: HashSet::new(), failed: HashSet::new() }
    }

    /// Whether the newest word about an input is a result.
    pub(super) fn has(&self, input: &Path) -> bool {
        self.delivered.contains(input)
    }

    /// Whether the newest word about an input is an error.
    pub(super) fn has_failed(&self, input: &Path) -> bool {
        self.failed.contains(input)
    }

    /// Looks at the inbox; what is new since the last look, in the order of the names.
    pub(super) fn look(&mut self) -> Vec<Arrival> {
        let mut found = Vec::new();
        let mut stack = vec![(self.inbox.clone(), 0)];
        let mut names = 0;
        while let Some((folder, depth)) = stack.pop() {
            // What cannot be read now is looked at again soon.
            let Ok(listing) = fs::read_dir(&folder) else { continue };
            for entry in listing.flatten() {
                names += 1;
                if names > MAX_NAMES {
                    return self.news(found);
                }
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() && depth < MAX_DEPTH => stack.push((entry.path(), depth + 1)),
                    Ok(kind) if kind.is_file() => {
                        let name = entry.file_name();
                        let is = |suffix: &str| name.as_bytes().ends_with(suffix.as_bytes());
                        if is(".result.json") || is(".error.json") {
                            found.push(entry.path());
                        }
                    }
                    _ => {}
                }
            }
        }
        self.news(found)
    }

    fn news(&mut self, mut found: Vec<PathBuf>) -> Vec<Arrival> {
        found.sort();
        let mut arrivals = Vec::new();
        for path in found {
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            let stamp = (metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec());
            if self.seen.get(&path) == Some(&stamp) {
                continue;
            }
            // A stranger's file of such a name says nothing, and need not be read again.
            if let Some(arrival) = read(&path, &self.inbox) {
                match arrival.news {
                    News::Delivered { .. } => {
                        self.failed.remove(&arrival.input);
                        self.delivered.insert(arrival.input.clone());
                    }
                    News::Failed { .. } => {
                        self.failed.insert(arrival.input.clone());
                    }
                }
                arrivals.push(arrival);
            }
            self.seen.insert(path, stamp);
        }
        arrivals
    }
}

fn read(path: &Path, inbox: &Path) -> Option<Arrival> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_RESULT).read_to_end(&mut bytes).ok()?;
    let value: Value = serde_json::from_slice(&bytes).ok()?;
    value.get("schema_version")?;
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let input = Path::new(value.get("filepath")?.as_str()?).strip_prefix(inbox).ok()?.to_owned();
    let news = match value.get("action")?.as_str()? {
        "complete" => News::Delivered {
            seconds: value.get("upload_time").and_then(Value::as_f64).unwrap_or_default(),
            answer: answer(value.get("result").unwrap_or(&Value::Null)),
            warnings: value
                .get("warnings")
                .and_then(Value::as_array)
                .map(|all| all.iter().filter_map(Value::as_str).map(str::to_owned).collect())
                .unwrap_or_default(),
        },
        "error" => News::Failed { error: text("error"), hint: text("hint") },
        _ => return None,
    };
    let bytes = value.get("file_size").and_then(Value::as_u64).unwrap_or_default();
    Some(Arrival { input, path: path.to_owned(), bytes, news })
}

/// What the sandbox engine says of an object.
fn answer(result: &Value) -> String {
    let Some(said) = result.get("sandbox") else { return "accepted".to_owned() };
    let number = |key: &str| said.get(key).and_then(Value::as_u64).unwrap_or_default();
    if said.get("lane").and_then(Value::as_str) == Some("text") {
        let (lines, words) = (number("lines"), number("words"));
        return format!("{}, {}", count(lines, "line"), count(words, "word"));
    }
    format!("raw bytes, sha256 {:.8}", said.get("sha256").and_then(Value::as_str).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn complete(input: &Path, lines: u64) -> String {
        json!({"schema_version": 1, "action": "complete", "filepath": input, "file_size": 3, "upload_time": 0.5,
               "result": {"sandbox": {"lane": "text", "lines": lines, "words": 2}}, "warnings": []})
        .to_string()
    }

    #[test]
    fn a_result_is_news_once_and_again_when_it_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let inbox = dir.path().to_owned();
        let mut results = Results::new(inbox.clone());
        assert!(results.look().is_empty());

        fs::create_dir(inbox.join("deep")).unwrap();
        let (input, result) = (inbox.join("deep/a.txt"), inbox.join("deep/a.txt.result.json"));
        fs::write(&result, complete(&input, 1)).unwrap();
        fs::write(inbox.join("stranger.result.json"), "{}").unwrap();
        let news = results.look();
        assert_eq!((news.len(), &news[0].input), (1, &PathBuf::from("deep/a.txt")));
        assert!(matches!(&news[0].news, News::Delivered { answer, .. } if answer == "1 line, 2 words"));
        assert!(results.has(Path::new("deep/a.txt")) && results.look().is_empty());

        fs::remove_file(&result).unwrap();
        fs::write(&result, complete(&input, 10)).unwrap();
        assert_eq!(results.look().len(), 1);
    }

    #[test]
    fn an_error_file_is_bad_news_until_a_result_comes() {
        let dir = tempfile::tempdir().unwrap();
        let inbox = dir.path().to_owned();
        let input = inbox.join("a");
        let error = json!({"schema_version": 1, "action": "error", "filepath": input, "file_size": 3, "error": "e",
                           "hint": "h"});
        fs::write(inbox.join("a.error.json"), error.to_string()).unwrap();
        let mut results = Results::new(inbox.clone());
        assert!(matches!(&results.look()[0].news, News::Failed { error, .. } if error == "e"));
        assert!(results.has_failed(Path::new("a")) && !results.has(Path::new("a")));
        fs::write(inbox.join("a.result.json"), complete(&input, 1)).unwrap();
        assert_eq!(results.look().len(), 1);
        assert!(results.has(Path::new("a")) && !results.has_failed(Path::new("a")));
    }
}
