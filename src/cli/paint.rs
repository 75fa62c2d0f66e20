//! Colour on a terminal, plain text elsewhere, and sizes and times as people read them.

use std::io::IsTerminal;
use std::time::Duration;

/// Colours, or none.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Paint {
    on: bool,
}

impl Paint {
    /// Colours if standard output is a terminal; `$NO_COLOR` is everyone's way to refuse them.
    pub(super) fn of_stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { on: std::io::stdout().is_terminal() && !refused && !dumb }
    }

    /// For what went well.
    pub(super) fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    /// For what deserves a look.
    pub(super) fn yellow(self, text: &str) -> String {
        self.wrap("33", text)
    }

    /// For what failed.
    pub(super) fn red(self, text: &str) -> String {
        self.wrap("31", text)
    }

    /// For headings.
    pub(super) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    /// For what is there for completeness.
    pub(super) fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.on { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// A number of bytes with one decimal, 1024-based: `1.5 MiB`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[allow(clippy::cast_precision_loss)] // one decimal is printed
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // What would be printed as 1024.0 belongs to the next unit.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A duration as the configuration file would have it.
pub(super) fn span(time: Duration) -> impl std::fmt::Display {
    humantime::format_duration(time)
}

/// So many seconds, in the two largest units.
pub(super) fn span_of_seconds(seconds: u64) -> String {
    let text = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// `1 file`, `2 files`.
pub(super) fn count(number: u64, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_keep_one_decimal() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), shown);
        }
    }

    #[test]
    fn without_a_terminal_there_is_no_escape_sequence() {
        let plain = Paint::default();
        assert_eq!([plain.red("a"), plain.bold("b")].concat(), "ab");
        assert_eq!(Paint { on: true }.green("ok"), "\u{1b}[32mok\u{1b}[0m");
    }
}
