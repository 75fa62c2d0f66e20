//! What a person sees while files are sent: a bar for each transfer and one for the whole, on a terminal alone.

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::inputs::Inputs;
use crate::cli::paint::{Paint, count, size};
use crate::cli::say;
use crate::client::{UploadEvent, UploadResult};
use crate::show::Shown;

/// How often a bar moves by itself, for the time that passes.
const TICK: Duration = Duration::from_millis(125);
/// Characters of a name in front of a bar; of a longer one, the end is shown.
const NAME_WIDTH: usize = 24;

/// Of the whole and of a transfer; they fit into 80 columns.
const BAR: &str = "{prefix:24} [{wide_bar}] {bytes:>10} / {total_bytes:10} {bytes_per_sec:>12} {eta:>4}";
const WAITING: &str = "{prefix:24} {spinner} {msg} ({elapsed})";

/// The bars, or nothing if standard error is not a terminal.
pub(super) struct Screen {
    bars: MultiProgress,
    total: ProgressBar,
    files: usize,
    done: AtomicU64,
    /// Each finished file gets a line.
    lines: bool,
    paint: Paint,
}

impl Screen {
    pub(super) fn new(inputs: &Inputs, json: bool) -> Self {
        // Hides itself where there is no terminal.
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let total = bars.add(ProgressBar::new(inputs.bytes()).with_style(style(BAR)));
        let lines = !json && std::io::stdout().is_terminal() && !bars.is_hidden();
        let files = inputs.list.len();
        let screen = Self { bars, total, files, done: AtomicU64::new(0), lines, paint: Paint::of_stdout() };
        screen.total.set_prefix("connecting");
        screen.total.enable_steady_tick(TICK);
        screen
    }

    /// A file's turn has come.
    pub(super) fn begin(&self, path: &Path, size: u64) -> Transfer {
        let bar = ProgressBar::new(size).with_style(style(WAITING)).with_prefix(short(&Shown(path).to_string()));
        let bar = self.bars.insert_before(&self.total, bar);
        bar.set_message("waiting for the pipeline");
        bar.enable_steady_tick(TICK);
        Transfer { bar, total: self.total.clone(), expected: size.into(), sent: 0.into(), closing: false.into() }
    }

    /// A file has its result.
    pub(super) fn finished(&self, path: &Path, result: &UploadResult) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        self.total.set_prefix(self.so_far(done));
        if !self.lines {
            return;
        }
        let name = Shown(path);
        let line = if result.is_complete() {
            let (ok, bytes) = (self.paint.green("ok    "), size(result.bytes_sent));
            format!("{ok}  {bytes:>10} {:>8.2} s  {name}", result.upload_time)
        } else {
            format!("{}  {:>10} {:>8}    {name}", self.paint.red("failed"), "", "")
        };
        self.bars.suspend(|| say(line));
    }

    fn so_far(&self, done: u64) -> String {
        format!("{done} of {}", count(self.files as u64, "file"))
    }

    /// Prints a line on standard output and leaves the bars whole.
    pub(super) fn lines(&self) -> impl Fn(&str) + Send + 'static {
        let bars = self.bars.clone();
        // Elsewhere a line cannot hit the bars, and a slow reader of it must not hold them up.
        let together = !bars.is_hidden() && std::io::stdout().is_terminal();
        move |line| if together { bars.suspend(|| say(line)) } else { say(line) }
    }

    /// The server is reached, and the first file comes.
    pub(super) fn started(&self) {
        self.total.set_prefix(self.so_far(0));
        self.total.reset_eta();
    }

    /// What goes on is not the sending any more.
    pub(super) fn note(&self, note: &'static str) {
        self.total.set_prefix(note);
    }

    /// Takes the bars away.
    pub(super) fn clear(&self) {
        self.total.disable_steady_tick();
        // An error means that the terminal is gone.
        let _ = self.bars.clear();
    }
}

/// One file on its way.
pub(super) struct Transfer {
    bar: ProgressBar,
    total: ProgressBar,
    /// What the whole counts for it.
    expected: AtomicU64,
    sent: AtomicU64,
    closing: AtomicBool,
}

impl Transfer {
    /// Standard input is here, and so its size is known.
    pub(super) fn sized(&self, bytes: u64) {
        self.expected.store(bytes, Ordering::Relaxed);
        self.total.inc_length(bytes);
        self.bar.set_length(bytes);
        self.bar.set_message("waiting for the pipeline");
    }

    /// What the bar says until there is something to count.
    pub(super) fn waits_for(&self, what: &'static str) {
        self.bar.set_message(what);
    }

    /// A step of the upload.
    pub(super) fn on(&self, event: &UploadEvent) {
        match event {
            UploadEvent::Open { file_size, .. } => self.opened(*file_size),
            UploadEvent::Write { bytes_sent, .. } => self.written(*bytes_sent),
            UploadEvent::Close { .. } => self.close(),
            UploadEvent::Done(_) => {}
        }
    }

    pub(super) fn opened(&self, size: u64) {
        self.bar.set_length(size);
        self.bar.set_style(style(BAR));
        self.bar.reset_elapsed();
    }

    pub(super) fn written(&self, bytes_sent: u64) {
        let before = self.sent.swap(bytes_sent, Ordering::Relaxed);
        self.bar.set_position(bytes_sent);
        self.total.inc(bytes_sent.saturating_sub(before));
    }

    /// Everything is sent, and the close follows at once.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.bar.set_style(style(WAITING));
        self.bar.set_message("sent; the pipeline works on it");
        self.bar.reset_elapsed();
    }

    /// Whether the server may have been told to commit it.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        // A file that failed counts as done too, or the whole would never be.
        let left = self.expected.load(Ordering::Relaxed).saturating_sub(self.sent.load(Ordering::Relaxed));
        self.total.inc(left);
        self.bar.finish_and_clear();
    }
}

/// The templates are constants, and tested.
fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars("=> ")
}

/// The end of a long name: there the names of one directory differ.
fn short(name: &str) -> String {
    let length = name.chars().count();
    if length <= NAME_WIDTH {
        return name.to_owned();
    }
    let end: String = name.chars().skip(length - (NAME_WIDTH - 3)).collect();
    format!("...{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_good() {
        for template in [BAR, WAITING] {
            ProgressStyle::with_template(template).unwrap();
        }
    }

    #[test]
    fn of_a_long_name_the_end_is_shown() {
        assert_eq!(short("a.txt"), "a.txt");
        let long = short(&format!("{}/the-end.txt", "ü".repeat(50)));
        assert!(long.starts_with("...ü") && long.ends_with("/the-end.txt"), "{long}");
        assert_eq!(long.chars().count(), NAME_WIDTH);
    }
}
