//! Log entries for systemd's journal, by its native protocol: every field of an event can be searched for by itself.
//!
//! A file of a watch: `journalctl -u rocketride-ingest RRI_WATCH=invoices`. The message repeats the fields, for without
//! options `journalctl` shows nothing else. Values are escaped as on a terminal: what is not plain text would be shown as
//! a "blob", and no value can then hold the line break that ends a field. Spans are not written; nothing here opens any.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::fstat;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::show::Escaping;

/// Where journald listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// Before the names of our fields, so that none is mistaken for one that the journal knows.
const PREFIX: &str = "RRI_";
/// Longest name of a field.
const MAX_NAME: usize = 64;
/// Longest value, in bytes; a longer one is cut.
const MAX_VALUE: usize = 32 * 1024;
/// Bytes of all fields but the message; those beyond are left out. With the message it is less than a datagram may have.
const MAX_FIELDS: usize = 96 * 1024;
/// How long the journal may take to accept an entry.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether standard error is the journal, as systemd says in `$JOURNAL_STREAM` (`device:inode`).
pub(super) fn is_stderr() -> bool {
    let said = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    // A program that was started with another standard error inherits the variable all the same.
    fstat(io::stderr()).is_ok_and(|stat| said == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// The connection to the journal.
#[derive(Debug)]
pub(super) struct Journald {
    socket: UnixDatagram,
    at: PathBuf,
}

impl Journald {
    /// Fails if nobody listens there.
    pub(super) fn at(path: impl Into<PathBuf>) -> io::Result<Self> {
        let this = Self { socket: UnixDatagram::unbound()?, at: path.into() };
        this.socket.set_write_timeout(Some(SEND_TIMEOUT))?;
        // The journal ignores an empty entry.
        this.socket.send_to(&[], &this.at)?;
        Ok(this)
    }
}

impl<S: Subscriber> Layer<S> for Journald {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut entry = Entry::default();
        event.record(&mut entry);
        let (level, message) = (*event.metadata().level(), entry.message());
        let text = entry.finish(event, &message);
        // By name each time: a socket that was made anew is found.
        if self.socket.send_to(text.as_bytes(), &self.at).is_err() {
            let _ = writeln!(io::stderr(), "{level} {message}");
        }
    }
}

/// An entry while its fields are taken.
#[derive(Default)]
struct Entry {
    /// What the event says.
    said: String,
    /// ` name=value` of each field, for the message.
    shown: String,
    /// `NAME=value`, a line each.
    fields: String,
    /// Where an event of the `log` crate comes from; its own metadata does not tell.
    target: Option<String>,
}

impl Entry {
    fn take(&mut self, field: &Field, value: &str, shown: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.said),
            "log.target" => self.target = Some(value.to_owned()),
            "log.module_path" | "log.file" | "log.line" => {}
            name => {
                if self.shown.len() < MAX_VALUE {
                    let _ = write!(self.shown, " {name}={shown}");
                }
                if self.fields.len() + value.len() < MAX_FIELDS {
                    let _ = writeln!(self.fields, "{}={value}", journal_name(name));
                }
            }
        }
    }

    fn message(&self) -> String {
        let mut message = Bounded(String::new());
        let _ = write!(message, "{}{}", self.said, self.shown);
        message.0
    }

    fn finish(self, event: &Event<'_>, message: &str) -> String {
        let metadata = event.metadata();
        let priority = match *metadata.level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        let target = self.target.as_deref().unwrap_or(metadata.target());
        let mut text = format!(
            "MESSAGE={message}\nPRIORITY={priority}\nSYSLOG_IDENTIFIER=rocketride-ingest\n{PREFIX}TARGET={target}\n{}",
            self.fields
        );
        if let (Some(file), Some(line)) = (metadata.file(), metadata.line()) {
            let _ = write!(text, "CODE_FILE={file}\nCODE_LINE={line}\n");
        }
        text
    }
}

impl Visit for Entry {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let value = escaped(format_args!("{value:?}"));
        self.take(field, &value, &value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, &escaped(format_args!("{value}")), &escaped(format_args!("{value:?}")));
    }
}

/// The value as text that is plain and of bounded length.
fn escaped(value: fmt::Arguments<'_>) -> String {
    let mut text = Bounded(String::new());
    // It stops where it is cut; an implementation that fails half-way has said what it could.
    let _ = Escaping(&mut text).write_fmt(value);
    text.0
}

/// Takes [`MAX_VALUE`] bytes, and says that there was more.
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.push_str(text);
        if self.0.len() <= MAX_VALUE {
            return Ok(());
        }
        let end = (0..=MAX_VALUE).rev().find(|at| self.0.is_char_boundary(*at)).unwrap_or(0);
        self.0.truncate(end);
        self.0.push('…');
        Err(fmt::Error)
    }
}

/// The journal takes capital letters, digits and underscores only.
fn journal_name(name: &str) -> String {
    let name = name.strip_prefix("r#").unwrap_or(name);
    let letters = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    PREFIX.chars().chain(letters).take(MAX_NAME).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::show::Shown;

    /// What arrives at the journal, an entry as its fields each, read as the protocol has it.
    fn sent(what: impl FnOnce()) -> Vec<Vec<(String, String)>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        journal.set_nonblocking(true).unwrap();
        let layer = Journald::at(&path).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), what);
        let mut entries = Vec::new();
        let mut buffer = vec![0; 1 << 20];
        while let Ok(length) = journal.recv(&mut buffer) {
            let text = std::str::from_utf8(&buffer[..length]).unwrap();
            let fields = text.split_terminator('\n').map(|line| {
                // Without "=" it would begin a value of given length.
                let (name, value) = line.split_once('=').unwrap_or_else(|| panic!("{line:?} is no field"));
                (name.to_owned(), value.to_owned())
            });
            entries.push(fields.collect());
        }
        assert_eq!(entries.remove(0), [], "the probe of a connection is no entry");
        entries
    }

    fn value<'e>(entry: &'e [(String, String)], name: &str) -> &'e str {
        let mut values = entry.iter().filter(|(there, _)| there == name);
        let value = values.next().unwrap_or_else(|| panic!("{name} is not in {entry:?}"));
        assert!(values.next().is_none(), "{name} is twice in {entry:?}");
        &value.1
    }

    #[test]
    fn every_field_stands_by_itself_and_in_the_message() {
        let entries = sent(|| {
            let path = Path::new("/in/a b.txt");
            tracing::warn!(path = %Shown(path), watch = "in voices", attempts = 2, a.b = true, r#type = ?Some(1), "failed");
        });
        let [entry] = entries.as_slice() else { panic!("{entries:?}") };
        assert_eq!(
            value(entry, "MESSAGE"),
            r#"failed path=/in/a b.txt watch="in voices" attempts=2 a.b=true type=Some(1)"#
        );
        assert_eq!(value(entry, "RRI_PATH"), "/in/a b.txt");
        assert_eq!(value(entry, "RRI_WATCH"), "in voices");
        assert_eq!(value(entry, "RRI_ATTEMPTS"), "2");
        assert_eq!(value(entry, "RRI_A_B"), "true");
        assert_eq!(value(entry, "RRI_TYPE"), "Some(1)");
        assert_eq!(value(entry, "PRIORITY"), "4");
        assert_eq!(value(entry, "SYSLOG_IDENTIFIER"), "rocketride-ingest");
        assert_eq!(value(entry, "RRI_TARGET"), module_path!());
        assert!(value(entry, "CODE_FILE").ends_with("journald.rs") && value(entry, "CODE_LINE").parse::<u32>().is_ok());
    }

    #[test]
    fn nothing_can_forge_a_field_or_an_entry() {
        let entries = sent(|| {
            let words = "no\nPRIORITY=0\n\nMESSAGE=forged\u{1b}[2J\u{202e}\0";
            tracing::info!(path = %Shown(Path::new("a\nUNIT=x")), reason = words, shown = %words, "said {words}");
        });
        let [entry] = entries.as_slice() else { panic!("{entries:?}") };
        assert_eq!(value(entry, "PRIORITY"), "6");
        assert_eq!(value(entry, "RRI_PATH"), r"a\nUNIT=x");
        assert_eq!(value(entry, "RRI_REASON"), r"no\nPRIORITY=0\n\nMESSAGE=forged\u{1b}[2J\u{202e}\u{0}");
        assert!(value(entry, "MESSAGE").starts_with(r"said no\nPRIORITY=0\n\nMESSAGE=forged\u{1b}"), "{entry:?}");
        assert!(entry.iter().all(|(name, _)| name != "UNIT"), "{entry:?}");
    }

    #[test]
    fn an_entry_is_never_larger_than_a_datagram_may_be() {
        let huge = "ü\n".repeat(1 << 20);
        let entries = sent(|| {
            tracing::info!(a = huge, b = huge, c = huge, d = huge, e = huge, "{huge}");
            tracing::error!(path = %Shown(Path::new("/in/after")), "still here");
        });
        assert_eq!(entries.len(), 2);
        assert_eq!(value(&entries[0], "MESSAGE").len(), MAX_VALUE + "…".len());
        assert!(value(&entries[0], "RRI_A").ends_with('…'));
        let whole: usize = entries[0].iter().map(|(name, value)| name.len() + value.len() + 2).sum();
        assert!(whole < 160 * 1024, "{whole}");
        assert_eq!(value(&entries[1], "MESSAGE"), "still here path=/in/after");
    }

    #[test]
    fn where_nobody_listens_is_no_journal() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        drop(UnixDatagram::bind(&gone).unwrap());
        assert!(Journald::at(&gone).is_err() && Journald::at(dir.path().join("none")).is_err());
    }
}
