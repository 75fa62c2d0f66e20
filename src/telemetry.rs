//! What the daemon says while it works: one subscriber for the whole process, on stderr or to systemd's journal.
//!
//! Shape and level come from [`Log`]. It knows nothing of what is logged. Paths go through [`crate::show`] before they
//! become a field; words of others (a server, an error of the system) may stand in any field, so whatever could forge a
//! line or drive a terminal is escaped here once more.

mod journald;

use std::fmt::{self as text, Write as _};
use std::io::{self, IsTerminal};
use std::sync::OnceLock;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{FormatFields, debug_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, fmt, reload};

use self::journald::Journald;
use crate::config::{Log, LogFormat, LogLevel};
use crate::show::{self, Escaping};

/// Crates that tell at `info` or `debug` what only their own authors need; they are heard from `warn` on, unless an
/// override of the level names them.
const NOISY: [&str; 11] = [
    "governor",
    "hyper",
    "mio",
    "notify",
    "rustls",
    "rustls_native_certs",
    "sled",
    "tokio",
    "tokio_tungstenite",
    "tungstenite",
    "want",
];

/// Crates that print whole frames at `trace`, the login and documents among them: they are never heard beyond `debug`.
const FRAME_PRINTERS: [&str; 2] = ["tokio_tungstenite", "tungstenite"];

/// What of the one subscriber of this process can be changed while it logs.
static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// From now on as much is logged as `level` says; false if nothing is logged in this process, or no more.
pub fn set_level(level: &LogLevel) -> bool {
    FILTER.get().is_some_and(|filter| filter.reload(targets(level)).is_ok())
}

/// Installs the subscriber of this process. Fails if there is one already.
pub fn init(log: &Log) -> Result<(), TryInitError> {
    let terminal = io::stderr().is_terminal();
    let (shape, trouble) = match shape(log.format, terminal, journald::is_stderr()) {
        Wanted::Pretty => (Shape::Pretty, None),
        Wanted::Json => (Shape::Json, None),
        Wanted::Journald => match Journald::at(journald::SOCKET) {
            Ok(journald) => (Shape::Journald(journald), None),
            Err(error) => (Shape::Json, Some(error)),
        },
    };
    let (layer, filter) = layer(log, shape, terminal, io::stderr);
    tracing_subscriber::registry().with(layer).try_init()?;
    // Only the one whose subscriber was installed comes so far.
    let _ = FILTER.set(filter);
    if let Some(error) = trouble {
        tracing::warn!(socket = journald::SOCKET, %error, "the journal cannot be reached, so the log is JSON on standard error");
    }
    Ok(())
}

/// What a format means here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Pretty,
    Json,
    Journald,
}

/// A form of log, ready to be written.
enum Shape {
    Pretty,
    Json,
    Journald(Journald),
}

fn shape(format: LogFormat, terminal: bool, journal: bool) -> Wanted {
    match format {
        LogFormat::Auto if journal => Wanted::Journald,
        LogFormat::Auto if terminal => Wanted::Pretty,
        LogFormat::Auto | LogFormat::Json => Wanted::Json,
        LogFormat::Pretty => Wanted::Pretty,
        LogFormat::Journald => Wanted::Journald,
    }
}

type Writing = Box<dyn Layer<Registry> + Send + Sync>;

/// The only layer: writes lines to `writer`, or entries to the journal; and what changes how much.
fn layer<W>(log: &Log, shape: Shape, terminal: bool, writer: W) -> (Writing, reload::Handle<Targets, Registry>)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(targets(&log.level));
    // Colours only where they are seen; $NO_COLOR is everyone's way to refuse them.
    let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let layer = match shape {
        Shape::Pretty => {
            let pretty = fmt::layer().fmt_fields(plain_fields()).with_ansi(colours).with_target(false);
            pretty.with_writer(writer).with_filter(filter).boxed()
        }
        Shape::Json => {
            // Stable names: timestamp, level, target, message, the event's own fields, span with the innermost span's.
            let json = fmt::layer().json().flatten_event(true).with_current_span(true).with_span_list(false);
            json.with_writer(PlainJson(writer)).with_filter(filter).boxed()
        }
        Shape::Journald(journald) => journald.with_filter(filter).boxed(),
    };
    (layer, handle)
}

/// `name=value`, with the message first and alone, and everything escaped that is not a character of a text.
fn plain_fields() -> impl for<'w> FormatFields<'w> + Send + Sync + 'static {
    use tracing_subscriber::field::MakeExt;
    let write = |writer: &mut fmt::format::Writer<'_>, field: &tracing::field::Field, value: &dyn text::Debug| {
        match (field.name(), writer.has_ansi_escapes()) {
            ("message", _) => {}
            (name, true) => write!(writer, "\u{1b}[3m{name}\u{1b}[0m\u{1b}[2m=\u{1b}[0m")?,
            (name, false) => write!(writer, "{name}=")?,
        }
        write!(Escaping(writer), "{value:?}")
    };
    debug_fn(write).delimited(" ")
}

/// In JSON such characters can only stand within a string: there they are written as numbers.
struct PlainJson<W>(W);

impl<'w, W: MakeWriter<'w>> MakeWriter<'w> for PlainJson<W> {
    type Writer = PlainJson<W::Writer>;

    fn make_writer(&'w self) -> Self::Writer {
        PlainJson(self.0.make_writer())
    }
}

impl<W: io::Write> io::Write for PlainJson<W> {
    /// Takes whole lines, which the layer writes at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write_all(&show::plain_json(line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn targets(level: &LogLevel) -> Targets {
    let noisy = NOISY.map(|target| (target, level.default.min(LevelFilter::WARN)));
    let overrides = level.overrides.iter().map(|(target, level)| {
        let capped = FRAME_PRINTERS.iter().any(|printer| target.starts_with(printer));
        (target.as_str(), if capped { (*level).min(LevelFilter::DEBUG) } else { *level })
    });
    // A later directive for the same target replaces an earlier one; a longer target beats a shorter one.
    Targets::new().with_default(level.default).with_targets(noisy).with_targets(overrides)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::show::Shown;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: &str, format: LogFormat, terminal: bool, what: impl FnOnce()) -> String {
        let lines = Lines::default();
        let log = Log { level: level.parse().unwrap(), format };
        let writer = lines.clone();
        let shape = match shape(format, terminal, false) {
            Wanted::Pretty => Shape::Pretty,
            Wanted::Json => Shape::Json,
            Wanted::Journald => panic!("the journal is no lines"),
        };
        let subscriber = tracing_subscriber::registry().with(layer(&log, shape, terminal, move || writer.clone()).0);
        tracing::subscriber::with_default(subscriber, what);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn hostile() {
        let path = Path::new("a\nb\u{1b}[2J\u{202e}");
        tracing::info!(path = %Shown(path), attempts = 2, "delivered");
    }

    #[test]
    fn json_is_flat_with_stable_names() {
        let line = logged("info", LogFormat::Auto, false, hostile);
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["message"], "delivered");
        assert_eq!(line["path"], r"a\nb\u{1b}[2J\u{202e}");
        assert_eq!(line["attempts"], 2);
        assert!(line["timestamp"].is_string() && line["target"].is_string());
    }

    #[test]
    fn a_hostile_name_stays_on_its_line_and_out_of_the_terminal() {
        let line = logged("info", LogFormat::Pretty, false, hostile);
        assert_eq!(line.lines().count(), 1, "{line:?}");
        assert!(line.contains(r"path=a\nb\u{1b}[2J\u{202e}") && !line.contains('\u{1b}'), "{line:?}");
    }

    #[test]
    fn words_of_a_server_are_escaped_in_every_format() {
        let words = || {
            let reason = "no\u{1b}[2J\nERROR \u{9b}1m\u{7f}\u{202e}\u{e0041}";
            tracing::info!(reason = %reason, quoted = reason, "said {reason}");
        };
        for terminal in [false, true] {
            let line = logged("info", LogFormat::Pretty, terminal, words);
            assert_eq!(line.lines().count(), 1, "{line:?}");
            let escaped = r"no\u{1b}[2J\nERROR \u{9b}1m\u{7f}\u{202e}\u{e0041}";
            assert!(line.contains(&format!("said {escaped}")) && line.matches(escaped).count() == 3, "{line:?}");
        }
        let line = logged("info", LogFormat::Json, false, words);
        assert!(!line.trim_end().chars().any(show::is_unsafe), "{line:?}");
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["reason"], "no\u{1b}[2J\nERROR \u{9b}1m\u{7f}\u{202e}\u{e0041}", "the value stays what it is");
    }

    #[test]
    fn auto_is_the_journal_under_systemd_else_pretty_on_a_terminal_only() {
        assert_eq!(shape(LogFormat::Auto, false, true), Wanted::Journald);
        assert_eq!(shape(LogFormat::Json, false, true), Wanted::Json, "what is written counts");
        assert_eq!(shape(LogFormat::Journald, true, false), Wanted::Journald);
        assert!(!logged("info", LogFormat::Auto, true, hostile).starts_with('{'));
        assert!(logged("info", LogFormat::Auto, false, hostile).starts_with('{'));
    }

    #[test]
    fn noisy_crates_are_heard_from_warn_on_unless_they_are_named() {
        let noise = || {
            tracing::debug!(target: "sled::pagecache", "noise");
            tracing::warn!(target: "sled::pagecache", "trouble");
            tracing::debug!(target: "rocketride_ingest", "own");
        };
        let quiet = logged("debug", LogFormat::Pretty, false, noise);
        assert!(quiet.contains("trouble") && quiet.contains("own") && !quiet.contains("noise"), "{quiet}");
        assert!(logged("info,sled=debug", LogFormat::Pretty, false, noise).contains("noise"));
        assert!(!logged("error", LogFormat::Pretty, false, noise).contains("trouble"));
    }

    #[test]
    fn crates_that_print_whole_frames_never_print_them() {
        let frames = || {
            tracing::trace!(target: "tungstenite::protocol", "frame with a key");
            tracing::trace!(target: "tokio_tungstenite", "frame with a key");
            tracing::debug!(target: "tungstenite::protocol", "closed");
        };
        let loudest =
            "trace,tokio=trace,tung=trace,tungstenite=trace,tungstenite::protocol=trace,tokio_tungstenite=trace";
        let log = logged(loudest, LogFormat::Pretty, false, frames);
        assert!(log.contains("closed") && !log.contains("key"), "{log}");

        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let journal = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
        let log = Log { level: loudest.parse().unwrap(), format: LogFormat::Journald };
        let layer = layer(&log, Shape::Journald(Journald::at(&socket).unwrap()), false, io::stderr);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer.0), frames);
        let (mut buffer, mut entries) = ([0; 4096], String::new());
        journal.set_nonblocking(true).unwrap();
        while let Ok(length) = journal.recv(&mut buffer) {
            entries += str::from_utf8(&buffer[..length]).unwrap();
        }
        assert!(entries.contains("MESSAGE=closed") && !entries.contains("with a key"), "{entries}");
    }
}
