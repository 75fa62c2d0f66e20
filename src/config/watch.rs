//! One watched folder: what is taken from it, when, and what becomes of it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::filters::Filters;
use super::marker::Marker;
use super::paths::{Territory, User, normalised};
use super::pipeline::Pipeline;
use super::problem::Problems;
use super::raw::Text;
use super::units::{Size, Time, show_size};
use super::{blank_as_none, check_name, raw, time_within};
use crate::client::object::FORBIDDEN_METADATA;
use crate::job::WatchId;

/// How often a folder is looked at when the kernel tells nothing.
const POLL_INTERVAL: Duration = Duration::from_secs(30);
/// How often a folder is looked at although the kernel tells.
const RESCAN_INTERVAL: Duration = Duration::from_secs(600);
/// A larger file is a dead letter.
const MAX_SIZE: u64 = 1 << 30;
/// Bytes of all keys and values of a watch's metadata.
const MAX_METADATA_BYTES: usize = 16 * 1024;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A watched folder.
#[derive(Debug, Clone, PartialEq)]
pub struct Watch {
    /// Made of the name.
    pub id: WatchId,
    /// Unique among the watches.
    pub name: String,
    /// Absolute, without `.` and `..`.
    pub path: PathBuf,
    /// Name of a pipeline of the same configuration.
    pub pipeline: String,
    /// Whether folders inside it belong to it.
    pub recursive: bool,
    /// Which files are meant.
    pub select: Filters,
    /// How long a file must be quiet; none: as long as the filesystem needs.
    pub settle: Option<Duration>,
    /// What the file beside an input is called that says that it is whole; none: quiet alone says so.
    pub done_marker: Option<Marker>,
    /// The largest file that is sent, in bytes.
    pub max_size: u64,
    /// The type that is sent for every file; none: by name.
    pub mime_type: Option<String>,
    /// Added to every object.
    pub metadata: BTreeMap<String, String>,
    /// What becomes of a delivered file.
    pub on_success: OnSuccess,
    /// What becomes of a file that was given up.
    pub on_failure: OnFailure,
    /// How new files are noticed.
    pub detect: Detect,
    /// How often the folder is looked at when it is polled.
    pub poll_interval: Duration,
    /// How often the folder is looked at when the kernel tells of changes.
    pub rescan_interval: Duration,
    /// About its result files.
    pub results: Results,
}

/// What becomes of a delivered file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OnSuccess {
    /// It stays.
    Keep,
    /// It is removed.
    Delete,
    /// It goes to this folder: absolute, without `.` and `..`, perhaps inside the watch.
    Move(PathBuf),
}

/// What becomes of a file that was given up, after its error file is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OnFailure {
    /// It stays, until it is saved anew or its error file removed.
    Keep,
    /// It goes to this folder, and its error file with it: absolute, without `.` and `..`, perhaps inside the watch.
    Move(PathBuf),
}

impl Watch {
    /// The folders that files are moved to once nothing is left to do with them; nothing in them is ever sent.
    pub fn targets(&self) -> impl Iterator<Item = &Path> {
        let done = if let OnSuccess::Move(target) = &self.on_success { Some(target.as_path()) } else { None };
        let failed = if let OnFailure::Move(target) = &self.on_failure { Some(target.as_path()) } else { None };
        done.into_iter().chain(failed)
    }

    /// Every folder but its own that something is put into.
    pub fn outputs(&self) -> impl Iterator<Item = &Path> {
        self.targets().chain(self.results.directory.as_deref())
    }
}

/// How new files are noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Detect {
    /// Poll on network filesystems, else events.
    #[default]
    Auto,
    /// The kernel's events.
    Events,
    /// Looking at regular times.
    Poll,
}

impl Detect {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Events => "events",
            Self::Poll => "poll",
        }
    }
}

/// About result files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Results {
    /// Where they go, in a folder of the watch's name that mirrors the watch: absolute, without `.` and `..`, perhaps inside the
    /// watch. None: beside their inputs.
    pub directory: Option<PathBuf>,
    /// Their permissions.
    pub mode: ResultMode,
    /// Whether the text of the pipeline's answer is also written by itself.
    pub text: bool,
}

/// Permissions of a result file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResultMode {
    /// Never more readable than its input: by its mode & 0444 less the umask, its group and its access control list.
    Inherit,
    /// These bits.
    Fixed(u32),
}

/// A watch and where the file says what others need to know of it.
struct Placed {
    watch: Watch,
    name_at: Range<usize>,
    path_at: Range<usize>,
    target_at: Option<Range<usize>>,
    failed_at: Option<Range<usize>>,
    results_at: Option<Range<usize>>,
}

/// Validates all watches, and claims their folders.
pub(super) fn build_all(
    written: Vec<Spanned<raw::Watch>>,
    pipelines: &[Arc<Pipeline>],
    territories: &mut Vec<Territory>,
    problems: &mut Problems<'_>,
) -> Vec<Arc<Watch>> {
    let mut names: BTreeMap<String, Range<usize>> = BTreeMap::new();
    let mut watches = Vec::new();
    for (number, written) in written.into_iter().enumerate() {
        let pipeline_at = written.get_ref().pipeline.as_ref().map(Spanned::span);
        let pipeline = written.get_ref().pipeline.as_ref().map(|pipeline| pipeline.get_ref().clone());
        if let (Some(name), Some(span)) = (pipeline, pipeline_at)
            && !pipelines.iter().any(|pipeline| pipeline.name == name)
            && !problems.is_blamed(&format!("pipelines.{name}"))
            && !problems.is_blamed("pipelines")
        {
            let known: Vec<_> = pipelines.iter().map(|pipeline| pipeline.name.as_str()).collect();
            let known =
                if known.is_empty() { "none is defined".to_owned() } else { format!("defined: {}", known.join(", ")) };
            problems.at(
                &span,
                format!("there is no pipeline {name:?} ({known}); add [pipelines.{name}] or correct the name"),
            );
        }
        let Some(placed) = build(written, problems) else { continue };
        let watch = placed.watch;
        if let Some(first) = names.get(&watch.name) {
            let place = problems.place(first, &placed.name_at);
            let message = format!("the watch of {place} is called {:?} too; give one of them another name", watch.name);
            problems.at(&placed.name_at, message);
        } else {
            names.insert(watch.name.clone(), placed.name_at);
        }
        territories.push(Territory {
            user: User::Watch(number),
            label: format!("watch {:?}", watch.name),
            path: watch.path.clone(),
            span: Some(placed.path_at),
        });
        if let (OnSuccess::Move(target), Some(span)) = (&watch.on_success, placed.target_at) {
            territories.push(Territory {
                user: User::Target(number),
                label: format!("the move target of watch {:?}", watch.name),
                path: target.clone(),
                span: Some(span),
            });
        }
        if let (OnFailure::Move(target), Some(span)) = (&watch.on_failure, placed.failed_at) {
            territories.push(Territory {
                user: User::Target(number),
                label: format!("the on_failure target of watch {:?}", watch.name),
                path: target.clone(),
                span: Some(span),
            });
        }
        if let (Some(directory), Some(span)) = (&watch.results.directory, placed.results_at) {
            territories.push(Territory {
                user: User::Results(number),
                label: format!("the results directory of watch {:?}", watch.name),
                path: directory.clone(),
                span: Some(span),
            });
        }
        watches.push(Arc::new(watch));
    }
    watches
}

/// Validates one watch. None if it lacks what everything else depends on; the reason is reported.
fn build(written: Spanned<raw::Watch>, problems: &mut Problems<'_>) -> Option<Placed> {
    let table = written.span();
    let written = written.into_inner();
    if written.path.is_none() {
        problems.missing(&table, "path", "missing: add the absolute path of the folder to watch");
    }
    if written.pipeline.is_none() {
        problems.missing(&table, "pipeline", "missing: add the name of a [pipelines.NAME] section");
    }
    let settle = written.settle.and_then(|settle| {
        let span = settle.span();
        let value = settle.into_inner().0.map(|time| Spanned::new(span, time))?;
        Some(time_within(Some(value), Duration::ZERO, Duration::from_millis(1)..=DAY, problems))
    });
    let done_marker = Marker::build(written.done_marker, problems);
    let max_size = max_size(written.max_size, problems);
    let mime_type = mime_type(written.mime_type, problems);
    let metadata = metadata(written.metadata, problems);
    let poll = interval(written.poll_interval, POLL_INTERVAL, problems);
    let rescan = interval(written.rescan_interval, RESCAN_INTERVAL, problems);
    let mode = written.results.mode.map_or(ResultMode::Inherit, |mode| result_mode(&mode, problems));
    let ignore_junk = written.ignore_junk.unwrap_or(true);
    let select = Filters::new(&written.include, &written.exclude, ignore_junk, problems);

    let path_text = written.path?;
    let path = absolute(&path_text, problems)?;
    let name_at = written.name.as_ref().map_or_else(|| path_text.span(), Spanned::span);
    let name = match written.name {
        Some(name) => name.into_inner(),
        // Checked below like a written one.
        None => path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
    };
    check_name("watch", &name, &name_at, problems);
    let (on_success, target_at) = match written.on_success.unwrap_or(raw::OnSuccess::Keep) {
        raw::OnSuccess::Keep => (OnSuccess::Keep, None),
        raw::OnSuccess::Delete => (OnSuccess::Delete, None),
        raw::OnSuccess::Move(target) => {
            let (target, at) = folder(&path, &target, "{ move = \"done\" }", problems);
            (OnSuccess::Move(target), at)
        }
    };
    let (on_failure, failed_at) = match written.on_failure.unwrap_or(raw::OnFailure::Keep) {
        raw::OnFailure::Keep => (OnFailure::Keep, None),
        raw::OnFailure::Move(target) => {
            let (target, at) = folder(&path, &target, "{ move = \"failed\" }", problems);
            (OnFailure::Move(target), at)
        }
    };
    let (directory, results_at) = match blank_as_none(written.results.directory) {
        None => (None, None),
        Some(written) => {
            let (directory, at) = folder(&path, &written, "\"results\"", problems);
            (Some(directory), at)
        }
    };
    let watch = Watch {
        id: WatchId::of(&name),
        name,
        path,
        pipeline: written.pipeline.map(Spanned::into_inner).unwrap_or_default(),
        recursive: written.recursive.unwrap_or(true),
        select,
        settle,
        done_marker,
        max_size,
        mime_type,
        metadata,
        on_success,
        on_failure,
        detect: written.detect.unwrap_or_default(),
        poll_interval: poll,
        rescan_interval: rescan,
        results: Results { directory, mode, text: written.results.text.unwrap_or(false) },
    };
    Some(Placed { watch, name_at, path_at: path_text.span(), target_at, failed_at, results_at })
}

/// The folder that is written, relative to its watch, and where it is written if it can be meant.
fn folder(watch: &Path, written: &Text, example: &str, problems: &mut Problems<'_>) -> (PathBuf, Option<Range<usize>>) {
    let unusable = written.get_ref().trim().is_empty() || written.get_ref().contains('\0');
    if unusable {
        problems.at(&written.span(), format!("must name a folder, for example {example}"));
    }
    (normalised(&watch.join(written.get_ref())), (!unusable).then(|| written.span()))
}

fn interval(written: Option<Spanned<Time>>, default: Duration, problems: &mut Problems<'_>) -> Duration {
    time_within(written, default, Duration::from_millis(100)..=7 * DAY, problems)
}

/// The path, if it can be meant as that of a folder wherever the daemon is started.
pub(super) fn absolute(text: &Text, problems: &mut Problems<'_>) -> Option<PathBuf> {
    let path = Path::new(text.get_ref());
    if !path.is_absolute() || text.get_ref().contains('\0') {
        problems.at(&text.span(), format!("{:?} is not an absolute path; begin it with /", text.get_ref()));
        return None;
    }
    Some(normalised(path))
}

fn max_size(written: Option<Spanned<Size>>, problems: &mut Problems<'_>) -> u64 {
    let Some(written) = written else { return MAX_SIZE };
    let Size(size) = *written.get_ref();
    if size == 0 {
        problems.at(&written.span(), format!("0 would refuse every file; the default is {}", show_size(MAX_SIZE)));
    }
    size
}

fn mime_type(written: Option<Text>, problems: &mut Problems<'_>) -> Option<String> {
    let written = blank_as_none(written)?;
    let halves: Vec<_> = written.get_ref().split('/').collect();
    let whole = halves.len() == 2 && halves.iter().all(|half| !half.is_empty());
    if !whole || !written.get_ref().chars().all(|c| c.is_ascii_graphic() || c == ' ') {
        let message = format!("{:?} is not a MIME type; write for example \"text/csv\"", written.get_ref());
        problems.at(&written.span(), message);
    }
    Some(written.into_inner())
}

fn metadata(written: BTreeMap<Text, Text>, problems: &mut Problems<'_>) -> BTreeMap<String, String> {
    let mut bytes = 0;
    let mut metadata = BTreeMap::new();
    for (key, value) in written {
        if FORBIDDEN_METADATA.contains(&key.get_ref().as_str()) {
            let message =
                format!("reserved for the daemon; choose another key (not {})", FORBIDDEN_METADATA.join(", "));
            problems.at(&key.span(), message);
        } else if key.get_ref().trim().is_empty() {
            problems.at(&key.span(), "an empty key; give it a name");
        }
        let before = bytes;
        bytes += key.get_ref().len() + value.get_ref().len();
        if before <= MAX_METADATA_BYTES && bytes > MAX_METADATA_BYTES {
            let limit = show_size(MAX_METADATA_BYTES as u64);
            problems.at(&value.span(), format!("the metadata is larger than {limit} together; shorten it"));
        }
        metadata.insert(key.into_inner(), value.into_inner());
    }
    metadata
}

fn result_mode(written: &Text, problems: &mut Problems<'_>) -> ResultMode {
    if written.get_ref() == "inherit" {
        return ResultMode::Inherit;
    }
    // The daemon itself must be able to read a result again, and nobody else to forge one; a result is no program.
    match u32::from_str_radix(written.get_ref(), 8) {
        Ok(mode) if mode & !0o644 == 0 && mode & 0o600 == 0o600 => ResultMode::Fixed(mode),
        _ => {
            let message = format!(
                "{:?} is not a mode for result files; write \"inherit\" or octal digits from \"0600\" to \"0644\" (a result that others could change would prove nothing)",
                written.get_ref()
            );
            problems.at(&written.span(), message);
            ResultMode::Inherit
        }
    }
}
