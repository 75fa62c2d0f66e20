//! What the daemon says while it works: one subscriber for the whole process, on stderr.
//!
//! Shape and level come from [`Log`]. It knows nothing of what is logged. Values from outside go through
//! [`crate::show`] before they become a field; in JSON the encoding escapes them once more.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, fmt};

use crate::config::{Log, LogFormat, LogLevel};

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

/// Installs the subscriber of this process. Fails if there is one already.
pub fn init(log: &Log) -> Result<(), TryInitError> {
    let terminal = std::io::stderr().is_terminal();
    tracing_subscriber::registry().with(layer(log, terminal, std::io::stderr)).try_init()
}

/// The only layer: writes lines to `writer`.
fn layer<W>(log: &Log, terminal: bool, writer: W) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = targets(&log.level);
    let pretty = match log.format {
        LogFormat::Auto => terminal,
        LogFormat::Pretty => true,
        LogFormat::Json => false,
    };
    // Colours only where they are seen; $NO_COLOR is everyone's way to refuse them.
    let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if pretty {
        fmt::layer().with_writer(writer).with_ansi(colours).with_target(false).with_filter(filter).boxed()
    } else {
        // Stable names: timestamp, level, target, message, the event's own fields, span with the innermost span's.
        let json = fmt::layer().json().flatten_event(true).with_current_span(true).with_span_list(false);
        json.with_writer(writer).with_filter(filter).boxed()
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
        let subscriber = tracing_subscriber::registry().with(layer(&log, terminal, move || writer.clone()));
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
    fn auto_is_pretty_on_a_terminal_only() {
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
    }
}
