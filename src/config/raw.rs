//! The configuration file as it was written: which keys there are and of what type, and nothing of their meaning.
//!
//! Everything is optional here: what is required, what is the default and what fits together is decided by the rest of
//! [`super`]. Spans say where a value stands, so that a later complaint can point at it.

use std::collections::BTreeMap;
use std::fmt;

use secrecy::SecretString;
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::log::{LogFormat, LogLevel};
use super::units::{Size, Time};

/// A text and where it stands.
pub(super) type Text = Spanned<String>;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub(super) server: Option<Spanned<Server>>,
    pub(super) limits: Limits,
    pub(super) retry: Retry,
    pub(super) state: State,
    pub(super) admin: Admin,
    pub(super) log: Log,
    pub(super) pipelines: BTreeMap<Text, Spanned<Pipeline>>,
    pub(super) watch: Vec<Spanned<Watch>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a section with keys")]
pub(super) struct Server {
    pub(super) uri: Option<Text>,
    pub(super) api_key_file: Option<Text>,
    pub(super) api_key: Option<Spanned<Hidden>>,
    pub(super) ca_file: Option<Text>,
    pub(super) proxy: Option<Spanned<Hidden>>,
    pub(super) allow_plaintext: Option<bool>,
    pub(super) connect_timeout: Option<Spanned<Time>>,
    pub(super) request_timeout: Option<Spanned<Time>>,
    pub(super) silence_timeout: Option<Spanned<Time>>,
    pub(super) start_timeout: Option<Spanned<Time>>,
    pub(super) result_timeout: Option<Spanned<Time>>,
    pub(super) drain_timeout: Option<Spanned<Time>>,
    pub(super) chunk_size: Option<Spanned<Size>>,
    pub(super) instance: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a section with keys")]
pub(super) struct Limits {
    pub(super) max_concurrent_uploads: Option<Spanned<u32>>,
    pub(super) files_per_second: Option<Spanned<f64>>,
    pub(super) bytes_per_second: Option<Spanned<Size>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a section with keys")]
pub(super) struct Retry {
    pub(super) attempts: Option<Spanned<u32>>,
    pub(super) initial: Option<Spanned<Time>>,
    pub(super) max: Option<Spanned<Time>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a section with keys")]
pub(super) struct State {
    pub(super) directory: Option<Text>,
    pub(super) min_free: Option<Spanned<Size>>,
    pub(super) max_spool: Option<Spanned<Size>>,
    pub(super) finished_retention: Option<Spanned<Time>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a section with keys")]
pub(super) struct Admin {
    pub(super) socket: Option<Text>,
    pub(super) listen: Option<Text>,
    pub(super) token_file: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a section with keys")]
pub(super) struct Log {
    pub(super) level: Option<LogLevel>,
    pub(super) format: Option<LogFormat>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a section with keys")]
pub(super) struct Pipeline {
    pub(super) file: Option<Text>,
    pub(super) token_file: Option<Text>,
    pub(super) token: Option<Spanned<Hidden>>,
    pub(super) source: Option<Text>,
    pub(super) threads: Option<Spanned<u32>>,
    pub(super) ttl: Option<Spanned<Time>>,
    pub(super) uri: Option<Text>,
    pub(super) api_key_file: Option<Text>,
    pub(super) chunk_size: Option<Spanned<Size>>,
    pub(super) result_timeout: Option<Spanned<Time>>,
    pub(super) limits: Limits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a section with keys")]
pub(super) struct Watch {
    pub(super) name: Option<Text>,
    pub(super) path: Option<Text>,
    pub(super) pipeline: Option<Text>,
    pub(super) recursive: Option<bool>,
    pub(super) include: Vec<Text>,
    pub(super) exclude: Vec<Text>,
    pub(super) ignore_junk: Option<bool>,
    pub(super) settle: Option<Spanned<Settle>>,
    pub(super) done_marker: Option<Text>,
    pub(super) max_size: Option<Spanned<Size>>,
    pub(super) mime_type: Option<Text>,
    pub(super) metadata: BTreeMap<Text, Text>,
    pub(super) on_success: Option<OnSuccess>,
    pub(super) on_failure: Option<OnFailure>,
    pub(super) detect: Option<super::watch::Detect>,
    pub(super) poll_interval: Option<Spanned<Time>>,
    pub(super) rescan_interval: Option<Spanned<Time>>,
    pub(super) results: Results,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum OnSuccess {
    Keep,
    Delete,
    Move(Text),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum OnFailure {
    Keep,
    Move(Text),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a section with keys")]
pub(super) struct Results {
    pub(super) directory: Option<Text>,
    pub(super) mode: Option<Text>,
    pub(super) text: Option<bool>,
}

/// A quiet time, or nothing: the kind of filesystem decides.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settle(pub(super) Option<Time>);

impl<'de> Deserialize<'de> for Settle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(Self(None));
        }
        let text: serde::de::value::StringDeserializer<D::Error> = serde::de::IntoDeserializer::into_deserializer(text);
        Time::deserialize(text).map(|time| Self(Some(time)))
    }
}

/// A secret that stands in the file itself.
pub(super) struct Hidden(pub(super) SecretString);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden(..)")
    }
}

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(text.into()))
    }
}
