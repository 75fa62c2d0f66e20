//! What is logged and in which shape: the two values a configuration file and the command line share.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};
use tracing::level_filters::LevelFilter;

/// Overrides for single parts of the program that one level may carry.
const MAX_OVERRIDES: usize = 32;

/// The log section.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Log {
    /// How much is logged.
    pub level: LogLevel,
    /// In which shape.
    pub format: LogFormat,
}

/// What the command line says of the log: it holds for the life of the process, whatever the file says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogOverrides {
    /// In place of `log.level`.
    pub level: Option<LogLevel>,
    /// In place of `log.format`.
    pub format: Option<LogFormat>,
}

impl LogOverrides {
    /// What is in force where the file says `written`.
    pub fn over(&self, written: &Log) -> Log {
        Log {
            level: self.level.as_ref().unwrap_or(&written.level).clone(),
            format: self.format.unwrap_or(written.format),
        }
    }
}

/// The shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// `journald` where standard error is systemd's journal, `pretty` on a terminal, else `json`.
    #[default]
    Auto,
    /// For eyes.
    Pretty,
    /// One object a line.
    Json,
    /// Entries of systemd's journal, each value a field of its own; `json` where there is no journal.
    Journald,
}

impl LogFormat {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Pretty => "pretty",
            Self::Json => "json",
            Self::Journald => "journald",
        }
    }
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "pretty" => Ok(Self::Pretty),
            "json" => Ok(Self::Json),
            "journald" => Ok(Self::Journald),
            _ => Err(format!("{text:?} is not a log format; write auto, pretty, json or journald")),
        }
    }
}

/// A level, and other levels for single targets: `info`, `debug` or `info,sled=debug`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLevel {
    /// For everything that no override names.
    pub default: LevelFilter,
    /// Target (a module path and all beneath it) and its level, as written.
    pub overrides: Vec<(String, LevelFilter)>,
}

impl Default for LogLevel {
    fn default() -> Self {
        Self { default: LevelFilter::INFO, overrides: Vec::new() }
    }
}

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |part: &str| {
            format!(
                "{part:?} is not a log level; write error, warn, info, debug or trace, perhaps followed by ,TARGET=LEVEL"
            )
        };
        let level = |part: &str| match part.trim() {
            "off" => Ok(LevelFilter::OFF),
            "error" => Ok(LevelFilter::ERROR),
            "warn" => Ok(LevelFilter::WARN),
            "info" => Ok(LevelFilter::INFO),
            "debug" => Ok(LevelFilter::DEBUG),
            "trace" => Ok(LevelFilter::TRACE),
            other => Err(wrong(other)),
        };
        let mut parsed = Self::default();
        for part in text.split(',') {
            match part.split_once('=') {
                None => parsed.default = level(part)?,
                Some((target, _)) if !is_target(target.trim()) => return Err(wrong(part)),
                Some((target, written)) => parsed.overrides.push((target.trim().to_owned(), level(written)?)),
            }
        }
        if parsed.overrides.len() > MAX_OVERRIDES {
            return Err(format!("a log level names at most {MAX_OVERRIDES} targets"));
        }
        Ok(parsed)
    }
}

fn is_target(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-'))
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.default)?;
        self.overrides.iter().try_for_each(|(target, level)| write!(f, ",{target}={level}"))
    }
}

impl<'de> Deserialize<'de> for LogLevel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_may_name_targets() {
        let level: LogLevel = "warn,sled=debug, rocketride_ingest::client=trace".parse().unwrap();
        assert_eq!(level.default, LevelFilter::WARN);
        assert_eq!(level.to_string(), "warn,sled=debug,rocketride_ingest::client=trace");
    }

    #[test]
    fn a_misspelt_level_is_not_taken_for_a_target() {
        for wrong in ["inof", "", "info,", "=debug", "sled=loud", "a b=info"] {
            assert!(wrong.parse::<LogLevel>().is_err(), "{wrong:?}");
        }
    }
}
