//! The whole configuration as it is in effect, as TOML, with where each value comes from.
//!
//! What it prints can be read again and means the same. Secrets are never in it, only where they are taken from.

use std::fmt::{self, Display, Write as _};
use std::path::Path;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::environment::Environment;
use super::problem::ConfigError;
use super::source::Sources;
use super::units::show_size;
use super::watch::{OnFailure, OnSuccess, ResultMode, Watch};
use super::{Config, Limits, PROXY_VARIABLE, Pipeline, Target};
use crate::client::ServiceUri;
use crate::client::upload::CHUNK_SIZE;
use crate::show::is_unsafe;

const DEFAULT: &str = "default";

impl Config {
    /// Reads and validates a file like [`Config::load`], and tells what is in effect: TOML with a comment at each value that
    /// says where it comes from (`# default`, `# FILE:LINE`, `# $VARIABLE`). It holds no secret.
    pub fn effective(path: &Path, env: &Environment) -> Result<String, ConfigError> {
        Self::effective_of(&Sources::load(path)?, env)
    }

    pub(super) fn effective_of(sources: &Sources, env: &Environment) -> Result<String, ConfigError> {
        let config = Self::build(sources, env)?;
        // Everything wrong with it was an error just now.
        let tree = sources.parse(|_, _, _| {});
        let mut out = Out { sources, text: String::new() };
        let root = Some(tree.get_ref());
        out.server(&config, env, table(root, "server"));
        out.sections(&config, env, root);
        let pipelines = table(root, "pipelines");
        for pipeline in &config.pipelines {
            out.pipeline(pipeline, table(pipelines, &pipeline.name), table(root, "server"));
        }
        let written = match root.and_then(|root| root.get("watch")).map(Spanned::get_ref) {
            Some(DeValue::Array(items)) => items.iter().map(|item| item.get_ref().as_table()).collect(),
            _ => Vec::new(),
        };
        for (watch, written) in config.watches.iter().zip(written) {
            out.watch(watch, written);
        }
        Ok(out.text)
    }
}

type Table<'a, 't> = Option<&'a DeTable<'t>>;

fn table<'a, 't>(parent: Table<'a, 't>, key: &str) -> Table<'a, 't> {
    parent?.get(key)?.get_ref().as_table()
}

/// Whether the file says something with this key: an empty text means "not set".
fn is_set(section: Table<'_, '_>, key: &str) -> bool {
    section.and_then(|section| section.get(key)).is_some_and(|value| value.get_ref().as_str() != Some(""))
}

fn text<'a>(section: Table<'a, '_>, key: &str) -> Option<&'a str> {
    section?.get(key)?.get_ref().as_str()
}

struct Out<'s> {
    sources: &'s Sources,
    text: String,
}

impl Out<'_> {
    fn server(&mut self, config: &Config, env: &Environment, written: Table<'_, '_>) {
        let server = &config.server;
        self.heading("[server]");
        if is_set(written, "uri") || env.rocketride_uri.is_some() {
            let uri = text(written, "uri").or(env.rocketride_uri.as_deref()).unwrap_or_default();
            self.line("uri", &Quoted(uri), written, "$ROCKETRIDE_URI");
        }
        self.hidden("api_key", written);
        if let Some(file) = text(written, "api_key_file") {
            self.line("api_key_file", &Quoted(file), written, DEFAULT);
        }
        self.line("ca_file", &Quoted(text(written, "ca_file").unwrap_or_default()), written, DEFAULT);
        self.proxy(config, env, written);
        let plaintext = written.and_then(|written| written.get("allow_plaintext")?.get_ref().as_bool());
        self.line("allow_plaintext", &plaintext.unwrap_or(false), written, DEFAULT);
        self.line("connect_timeout", &Time(server.connect_timeout), written, DEFAULT);
        self.line("request_timeout", &Time(server.request_timeout), written, DEFAULT);
        self.line("silence_timeout", &Time(server.silence_timeout), written, DEFAULT);
        self.line("start_timeout", &Time(server.start_timeout), written, DEFAULT);
        self.line("result_timeout", &Time(server.result_timeout), written, DEFAULT);
        self.line("drain_timeout", &Time(server.drain_timeout), written, DEFAULT);
        let chunk_size = text(written, "chunk_size").map_or_else(|| show_size(CHUNK_SIZE as u64), str::to_owned);
        self.line("chunk_size", &Quoted(&chunk_size), written, DEFAULT);
        let made = "default: made at the first start";
        self.line("instance", &Quoted(server.instance.as_deref().unwrap_or_default()), written, made);
    }

    fn proxy(&mut self, config: &Config, env: &Environment, written: Table<'_, '_>) {
        if is_set(written, "proxy") {
            let place = self.origin(written, "proxy", DEFAULT);
            match config.pipelines.first().and_then(|pipeline| pipeline.proxy.as_ref()) {
                // The whole line is a comment: without its password it would be another proxy.
                Some(rule) if text(written, "proxy").is_some_and(|url| url.contains('@')) => {
                    self.comment(format_args!("proxy: {}, with a user that is not shown; {place}", rule.describe()));
                }
                _ => self.line("proxy", &Quoted(text(written, "proxy").unwrap_or_default()), written, DEFAULT),
            }
        } else if env.https_proxy.is_some() {
            self.line("proxy", &Quoted(""), None, &format!("{PROXY_VARIABLE} and $NO_PROXY"));
        } else {
            self.line("proxy", &Quoted(""), written, "default: none");
        }
    }

    fn sections(&mut self, config: &Config, env: &Environment, root: Table<'_, '_>) {
        self.heading("[limits]");
        self.limits(&config.limits, table(root, "limits"));

        self.heading("[retry]");
        let written = table(root, "retry");
        self.line("attempts", &config.retry.attempts, written, DEFAULT);
        self.line("initial", &Time(config.retry.initial), written, DEFAULT);
        self.line("max", &Time(config.retry.max), written, DEFAULT);

        self.heading("[state]");
        let written = table(root, "state");
        let unwritten = if env.state_directory.is_some() { "$STATE_DIRECTORY" } else { DEFAULT };
        self.line("directory", &Quoted(&config.state.directory.to_string_lossy()), written, unwritten);
        self.line("finished_retention", &Time(config.state.finished_retention), written, DEFAULT);
        self.line("min_free", &Size(config.state.min_free), written, DEFAULT);
        self.line("max_spool", &Size(config.state.max_spool), written, DEFAULT);

        self.heading("[admin]");
        let written = table(root, "admin");
        let unwritten = if env.runtime_directory.is_some() { "$RUNTIME_DIRECTORY" } else { DEFAULT };
        let of_file = written.filter(|_| is_set(written, "socket"));
        self.line("socket", &Quoted(&config.admin.socket.to_string_lossy()), of_file, unwritten);
        let listen = config.admin.listen.map(|address| address.to_string()).unwrap_or_default();
        self.line("listen", &Quoted(&listen), written, DEFAULT);
        self.line("token_file", &Quoted(text(written, "token_file").unwrap_or_default()), written, DEFAULT);
        if let Some(token) = &config.admin.token {
            self.comment(format_args!("the token is taken from {}", token.describe()));
        }

        self.heading("[log]");
        let written = table(root, "log");
        self.line("level", &Quoted(&config.log.level.to_string()), written, DEFAULT);
        self.line("format", &Quoted(config.log.format.name()), written, DEFAULT);
    }

    fn limits(&mut self, limits: &Limits, written: Table<'_, '_>) {
        self.line("max_concurrent_uploads", &limits.max_concurrent_uploads, written, DEFAULT);
        self.line("files_per_second", &limits.files_per_second.unwrap_or(0.0), written, DEFAULT);
        self.line("bytes_per_second", &Size(limits.bytes_per_second.unwrap_or(0)), written, DEFAULT);
    }

    fn pipeline(&mut self, pipeline: &Pipeline, written: Table<'_, '_>, server: Table<'_, '_>) {
        let name = Key(&pipeline.name);
        self.heading(format_args!("[pipelines.{name}]"));
        match &pipeline.target {
            Target::File(path) => self.line("file", &Quoted(&path.to_string_lossy()), written, DEFAULT),
            Target::Token(token) => {
                if let Some(file) = text(written, "token_file") {
                    self.line("token_file", &Quoted(file), written, DEFAULT);
                }
                self.hidden("token", written);
                self.comment(format_args!("the token of its task is taken from {}", token.describe()));
            }
            Target::Credential => self.comment("its task is the one that the key is locked to"),
        }
        if let Target::File(_) = &pipeline.target {
            self.line("source", &Quoted(pipeline.source.as_deref().unwrap_or_default()), written, DEFAULT);
            self.line("threads", &pipeline.threads.unwrap_or(0), written, DEFAULT);
            self.line("ttl", &Time(pipeline.ttl), written, DEFAULT);
        }
        let inherited = |key: &str| if is_set(server, key) { "as in [server]" } else { DEFAULT };
        let of_env = if is_set(server, "uri") { "as in [server]" } else { "$ROCKETRIDE_URI" };
        self.line("uri", &Quoted(&pipeline.uri), written, of_env);
        if let Some(file) = text(written, "api_key_file") {
            self.line("api_key_file", &Quoted(file), written, DEFAULT);
        }
        self.comment(format_args!("the API key is taken from {}", pipeline.api_key.describe()));
        if let (Some(rule), Ok(uri)) = (&pipeline.proxy, ServiceUri::parse(&pipeline.uri)) {
            let from = if rule.is_written() { "[server]" } else { PROXY_VARIABLE };
            match rule.url(&uri) {
                Some(_) => self.comment(format_args!("through the proxy {}, from {from}", rule.describe())),
                None => self.comment("directly: $NO_PROXY spares it, or it is on this machine"),
            }
        }
        self.line("chunk_size", &Size(pipeline.chunk_size as u64), written, inherited("chunk_size"));
        self.line("result_timeout", &Time(pipeline.result_timeout), written, inherited("result_timeout"));
        self.heading(format_args!("[pipelines.{name}.limits]"));
        self.limits(&pipeline.limits, table(written, "limits"));
    }

    fn watch(&mut self, watch: &Watch, written: Table<'_, '_>) {
        self.heading("[[watch]]");
        self.line("name", &Quoted(&watch.name), written, "default: the last part of the path");
        self.line("path", &Quoted(&watch.path.to_string_lossy()), written, DEFAULT);
        self.line("pipeline", &Quoted(&watch.pipeline), written, DEFAULT);
        self.line("recursive", &watch.recursive, written, DEFAULT);
        self.line("include", &List(strings(written, "include")), written, DEFAULT);
        self.line("exclude", &List(strings(written, "exclude")), written, DEFAULT);
        self.line("ignore_junk", &watch.select.ignore_junk, written, DEFAULT);
        let settle = watch.settle.map_or_else(|| "\"\"".to_owned(), |time| Time(time).to_string());
        self.line("settle", &settle, written, "default: 2s, or 10s where the kernel does not tell of writers");
        self.line("done_marker", &Quoted(text(written, "done_marker").unwrap_or_default()), written, DEFAULT);
        self.line("max_size", &Size(watch.max_size), written, DEFAULT);
        let by_name = "default: by name";
        self.line("mime_type", &Quoted(watch.mime_type.as_deref().unwrap_or_default()), written, by_name);
        self.line("metadata", &Metadata(watch), written, DEFAULT);
        let on_success = match &watch.on_success {
            OnSuccess::Keep => "\"keep\"".to_owned(),
            OnSuccess::Delete => "\"delete\"".to_owned(),
            OnSuccess::Move(path) => format!("{{ move = {} }}", Quoted(&path.to_string_lossy())),
        };
        self.line("on_success", &on_success, written, DEFAULT);
        let on_failure = match &watch.on_failure {
            OnFailure::Keep => "\"keep\"".to_owned(),
            OnFailure::Move(path) => format!("{{ move = {} }}", Quoted(&path.to_string_lossy())),
        };
        self.line("on_failure", &on_failure, written, DEFAULT);
        self.line("detect", &Quoted(watch.detect.name()), written, DEFAULT);
        self.line("poll_interval", &Time(watch.poll_interval), written, DEFAULT);
        self.line("rescan_interval", &Time(watch.rescan_interval), written, DEFAULT);
        self.heading("[watch.results]");
        let written = table(written, "results");
        let directory = watch.results.directory.as_ref().map(|path| path.to_string_lossy()).unwrap_or_default();
        self.line("directory", &Quoted(&directory), written, "default: beside the input");
        let mode = match watch.results.mode {
            ResultMode::Inherit => "inherit".to_owned(),
            ResultMode::Fixed(mode) => format!("{mode:04o}"),
        };
        self.line("mode", &Quoted(&mode), written, DEFAULT);
        self.line("text", &watch.results.text, written, DEFAULT);
    }

    fn heading(&mut self, heading: impl Display) {
        let gap = if self.text.is_empty() { "" } else { "\n" };
        let _ = writeln!(self.text, "{gap}{heading}");
    }

    fn line(&mut self, key: &str, value: &impl Display, written: Table<'_, '_>, unwritten: &str) {
        let origin = self.origin(written, key, unwritten);
        let _ = writeln!(self.text, "{key} = {value}  # {origin}");
    }

    /// A key whose value is a secret: that it is there, and where.
    fn hidden(&mut self, key: &str, written: Table<'_, '_>) {
        if written.is_some_and(|written| written.contains_key(key)) {
            let place = self.origin(written, key, DEFAULT);
            self.comment(format_args!("{key} is not shown; {place}"));
        }
    }

    fn comment(&mut self, words: impl Display) {
        let _ = writeln!(self.text, "# {words}");
    }

    fn origin(&self, written: Table<'_, '_>, key: &str, unwritten: &str) -> String {
        match written.and_then(|written| written.get_key_value(key)) {
            Some((key, _)) => self.sources.place(key.span().start, None),
            None => unwritten.to_owned(),
        }
    }
}

fn strings<'a>(section: Table<'a, '_>, key: &str) -> Vec<&'a str> {
    let items = section.and_then(|section| section.get(key)).and_then(|value| value.get_ref().as_array());
    items.into_iter().flatten().filter_map(|item| item.get_ref().as_str()).collect()
}

/// A basic string of TOML on one line, with nothing in it that could drive a terminal.
struct Quoted<'a>(&'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for character in self.0.chars() {
            match character {
                '"' | '\\' => write!(f, "\\{character}")?,
                character if is_unsafe(character) || character.is_control() => {
                    write!(f, "\\U{:08x}", u32::from(character))?;
                }
                character => f.write_char(character)?,
            }
        }
        f.write_char('"')
    }
}

/// A key: bare if it can be.
struct Key<'a>(&'a str);

impl Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if !self.0.is_empty() && self.0.chars().all(bare) { f.write_str(self.0) } else { Quoted(self.0).fmt(f) }
    }
}

struct Time(Duration);

impl Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", humantime::format_duration(self.0))
    }
}

struct Size(u64);

impl Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { f.write_str("\"0\"") } else { write!(f, "\"{}\"", show_size(self.0)) }
    }
}

struct List<'a>(Vec<&'a str>);

impl Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let items: Vec<_> = self.0.iter().map(|item| Quoted(item).to_string()).collect();
        write!(f, "[{}]", items.join(", "))
    }
}

struct Metadata<'a>(&'a Watch);

impl Display for Metadata<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.0.metadata.iter();
        let entries: Vec<_> = entries.map(|(key, value)| format!("{} = {}", Key(key), Quoted(value))).collect();
        if entries.is_empty() { f.write_str("{}") } else { write!(f, "{{ {} }}", entries.join(", ")) }
    }
}
