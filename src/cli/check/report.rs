//! What `check` found: one block per subject, each finding with `ok`, `warning` or `error` before it.

use std::fmt::Display;

use crate::cli::paint::{Paint, count};
use crate::cli::{exit, say};
use crate::show::escaped;

/// Findings, printed as they come, and counted.
#[derive(Debug, Default)]
pub(super) struct Report {
    paint: Paint,
    warnings: u64,
    /// Of this host: folders, credentials, permissions.
    errors: u64,
    /// Of the server, or of a pipeline on it.
    unavailable: u64,
}

impl Report {
    pub(super) fn new(paint: Paint) -> Self {
        Self { paint, ..Self::default() }
    }

    /// Begins a block.
    pub(super) fn subject(&self, title: impl Display) {
        say("");
        say(self.paint.bold(&escaped(&title.to_string()).to_string()));
    }

    /// As it should be, or worth knowing.
    pub(super) fn ok(&self, text: impl Display) {
        Self::line(&self.paint.green("ok     "), text);
    }

    /// It works, but perhaps not as it is meant.
    pub(super) fn warning(&mut self, text: impl Display) {
        self.warnings += 1;
        Self::line(&self.paint.yellow("warning"), text);
    }

    /// It does not work, and this host or its owner is to put it right.
    pub(super) fn error(&mut self, text: impl Display) {
        self.errors += 1;
        Self::line(&self.paint.red("error  "), text);
    }

    /// The server or a pipeline on it is not to be had.
    pub(super) fn unavailable(&mut self, text: impl Display) {
        self.unavailable += 1;
        Self::line(&self.paint.red("error  "), text);
    }

    /// Names, paths and words of a server may stand in a finding: nothing in it may drive a terminal.
    fn line(word: &str, text: impl Display) {
        say(format_args!("  {word}  {}", escaped(&text.to_string())));
    }

    /// Says how many findings there were.
    pub(super) fn close(&self) {
        let errors = self.errors + self.unavailable;
        let text = format!("{}, {}", count(errors, "error"), count(self.warnings, "warning"));
        say("");
        say(match (errors, self.warnings) {
            (0, 0) => self.paint.green(&format!("all is well: {text}")),
            (0, _) => self.paint.yellow(&text),
            _ => self.paint.red(&text),
        });
    }

    /// The exit code that says the same.
    pub(super) fn code(&self) -> u8 {
        match (self.errors, self.unavailable) {
            (0, 0) => 0,
            (0, _) => exit::UNAVAILABLE,
            _ => exit::FAILED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_tells_this_host_from_the_server() {
        let mut report = Report::default();
        report.warning("w");
        assert_eq!(report.code(), 0, "warnings alone are no failure");
        report.unavailable("u");
        assert_eq!(report.code(), exit::UNAVAILABLE);
        report.error("e");
        assert_eq!(report.code(), exit::FAILED);
    }
}
