//! No key of the configuration changes in silence: a reload puts it in force, names it, or refuses it.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::config::{Environment, schema};

const BASE: &str = r#"
[server]
uri = "https://one.example"
api_key_file = "key"
[limits]
[retry]
[state]
[admin]
[log]
[pipelines.a]
file = "a.pipe"
[pipelines.a.limits]
[pipelines.b]
token_file = "b-token"
[[watch]]
name = "one"
path = "/in/one"
pipeline = "a"
[watch.results]
"#;

/// Each section of the base, its name in the schema, and another value for each of its keys.
const OTHERS: &[(&str, &str, &[&str])] = &[
    (
        "[server]",
        "/properties/server",
        &[
            "uri = \"https://two.example\"",
            "api_key_file = \"other\"",
            "api_key = \"k\"",
            "ca_file = \"/etc/hosts\"",
            "proxy = \"http://p.example:3128\"",
            "allow_plaintext = true",
            "connect_timeout = \"11s\"",
            "request_timeout = \"61s\"",
            "silence_timeout = \"61s\"",
            "start_timeout = \"11m\"",
            "result_timeout = \"31m\"",
            "drain_timeout = \"61s\"",
            "chunk_size = \"512KiB\"",
            "instance = \"other\"",
        ],
    ),
    (
        "[limits]",
        "/properties/limits",
        &["max_concurrent_uploads = 9", "files_per_second = 1", "bytes_per_second = \"1MiB\""],
    ),
    ("[retry]", "/properties/retry", &["attempts = 7", "initial = \"31s\"", "max = \"11m\""]),
    (
        "[state]",
        "/properties/state",
        &["directory = \"/other\"", "finished_retention = \"8d\"", "min_free = \"2GiB\"", "max_spool = \"6GiB\""],
    ),
    (
        "[admin]",
        "/properties/admin",
        &["socket = \"/run/other.sock\"", "listen = \"127.0.0.1:9644\"", "token_file = \"admin-token\""],
    ),
    ("[log]", "/properties/log", &["level = \"debug\"", "format = \"json\""]),
    (
        "[pipelines.a]",
        "/properties/pipelines/additionalProperties",
        &[
            "file = \"other.pipe\"",
            "source = \"other\"",
            "threads = 3",
            "ttl = \"1h\"",
            "uri = \"https://two.example\"",
            "api_key_file = \"other\"",
            "chunk_size = \"512KiB\"",
            "result_timeout = \"31m\"",
        ],
    ),
    ("[pipelines.b]", "/properties/pipelines/additionalProperties", &["token_file = \"other\"", "token = \"t\""]),
    (
        "[pipelines.a.limits]",
        "/properties/pipelines/additionalProperties/properties/limits",
        &["max_concurrent_uploads = 9", "files_per_second = 1", "bytes_per_second = \"1MiB\""],
    ),
    (
        "[[watch]]",
        "/properties/watch/items",
        &[
            "name = \"other\"",
            "path = \"/in/other\"",
            "pipeline = \"b\"",
            "recursive = false",
            "include = [\"*.pdf\"]",
            "exclude = [\"*.pdf\"]",
            "ignore_junk = false",
            "settle = \"3s\"",
            "done_marker = \"{name}.done\"",
            "max_size = \"2GiB\"",
            "mime_type = \"text/plain\"",
            "metadata = { a = \"b\" }",
            "on_success = \"delete\"",
            "on_failure = { move = \"failed\" }",
            "detect = \"poll\"",
            "poll_interval = \"31s\"",
            "rescan_interval = \"11m\"",
        ],
    ),
    (
        "[watch.results]",
        "/properties/watch/items/properties/results",
        &["mode = \"0640\"", "text = true", "directory = \"/results\""],
    ),
];

fn parse(text: &str) -> Config {
    Config::parse(text, Path::new("/etc/x/config.toml"), &Environment::default())
        .unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn key(line: &str) -> &str {
    line.split_once(" = ").unwrap().0
}

/// The base with this line in its section, in place of what the section says with the same key.
fn with(section: &str, line: &str) -> String {
    let (head, body) = BASE.split_once(&format!("{section}\n")).unwrap();
    let (body, rest) = body.split_at(body.find("\n[").map_or(body.len(), |at| at + 1));
    // Only one of these may stand there.
    let alternatives = [("api_key", "api_key_file"), ("token", "token_file")];
    let goes = |kept: &str| kept == key(line) || alternatives.contains(&(key(line), kept));
    let kept: Vec<_> = body.lines().filter(|kept| !kept.contains(" = ") || !goes(key(kept))).collect();
    format!("{head}{section}\n{line}\n{}\n{rest}", kept.join("\n"))
}

#[test]
fn a_changed_key_is_put_in_force_or_named_or_refused() {
    let old = parse(BASE);
    for (section, _, lines) in OTHERS {
        for line in *lines {
            let new = parse(&with(section, line));
            let told = match plan(&old, &new) {
                Ok(plan) => !plan.changes.is_empty() || !plan.needs_restart.is_empty(),
                Err(refusal) => !refusal.is_empty(),
            };
            assert!(told, "{section} {line}: a reload says nothing of it");
        }
    }
}

#[test]
fn what_is_named_for_a_restart_does_not_change_before() {
    let old = parse(BASE);
    for (section, _, lines) in OTHERS {
        for line in *lines {
            let mut new = parse(&with(section, line));
            let Ok(told) = plan(&old, &new) else { continue };
            keep_what_needs_a_restart(&old, &mut new);
            let left = plan(&old, &new).unwrap();
            assert_eq!(left.changes, told.changes, "{section} {line}");
            assert!(left.needs_restart.is_empty(), "{section} {line}: {:?}", left.needs_restart);
        }
    }
}

#[test]
fn every_key_of_the_schema_is_tried() {
    let schema = schema();
    let mut known: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (_, place, _) in OTHERS {
        let properties = schema.pointer(&format!("{place}/properties")).unwrap().as_object().unwrap();
        known.extend(properties.keys().map(|key| (*place, key.as_str())));
    }
    // These are sections of their own.
    known.retain(|(_, key)| !["limits", "results"].contains(key));
    let tried: BTreeSet<_> =
        OTHERS.iter().flat_map(|(_, place, lines)| lines.iter().map(|line| (*place, key(line)))).collect();
    assert_eq!(tried, known);
    let mut sections: Vec<_> = schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
    sections.retain(|section| !OTHERS.iter().any(|(_, place, _)| place.starts_with(&format!("/properties/{section}"))));
    assert!(sections.is_empty(), "{sections:?}");
}
