//! The JSON Schema of the configuration file, for editors and for those who generate the file.
//!
//! It says of each key what it is called, of what kind its value is, and what the example file says of it; ranges and what
//! fits together are judged by the program alone, so a file that the schema accepts may still be refused. Its keys are
//! compared with those the program reads by a test.

use serde_json::{Map, Value, json};

/// The file that explains every key; its comments are the descriptions.
const EXAMPLE: &str = include_str!("../../config.example.toml");

/// The JSON Schema (draft 2020-12) of the configuration file and of the files in `conf.d`.
pub fn schema() -> Value {
    let limits = [("max_concurrent_uploads", count(1)), ("files_per_second", number()), ("bytes_per_second", size())];
    let server = section(
        "server",
        &[
            ("uri", text()),
            ("api_key_file", text()),
            ("api_key", text()),
            ("ca_file", text()),
            ("proxy", text()),
            ("allow_plaintext", flag()),
            ("connect_timeout", time()),
            ("request_timeout", time()),
            ("silence_timeout", time()),
            ("start_timeout", time()),
            ("result_timeout", time()),
            ("drain_timeout", time()),
            ("chunk_size", size()),
            ("instance", text()),
        ],
    );
    let pipeline = section(
        "pipelines.invoices",
        &[
            ("file", text()),
            ("token_file", text()),
            ("token", text()),
            ("source", text()),
            ("threads", count(0)),
            ("ttl", time()),
            ("uri", text()),
            ("api_key_file", text()),
            ("chunk_size", size()),
            ("result_timeout", time()),
            ("limits", section("pipelines.invoices.limits", &limits)),
        ],
    );
    let mut watch = section(
        "watch",
        &[
            ("name", text()),
            ("path", pattern("^/")),
            ("pipeline", text()),
            ("recursive", flag()),
            ("include", texts()),
            ("exclude", texts()),
            ("ignore_junk", flag()),
            ("settle", pattern(&format!("^$|{TIME}"))),
            ("done_marker", pattern(r"^$|^[^{}]*\{name\}[^{}]*$")),
            ("max_size", size()),
            ("mime_type", text()),
            ("metadata", json!({"type": "object", "additionalProperties": {"type": "string"}})),
            ("on_success", after(&["keep", "delete"])),
            ("on_failure", after(&["keep"])),
            ("detect", one_of(&["auto", "events", "poll"])),
            ("poll_interval", time()),
            ("rescan_interval", time()),
            (
                "results",
                section(
                    "watch.results",
                    &[("directory", text()), ("mode", pattern("^(inherit|0?6[04][04])$")), ("text", flag())],
                ),
            ),
        ],
    );
    watch["required"] = json!(["path", "pipeline"]);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "rocketride-ingest",
        "description": "The configuration of rocketride-ingest (TOML). Files in conf.d hold pipelines and watch only.",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "server": server,
            "limits": section("limits", &limits),
            "retry": section("retry", &[("attempts", count(1)), ("initial", time()), ("max", time())]),
            "state": section(
                "state",
                &[
                    ("directory", pattern("^/")),
                    ("finished_retention", time()),
                    ("min_free", size()),
                    ("max_spool", size()),
                ],
            ),
            "admin": section(
                "admin",
                &[("socket", pattern("^$|^/")), ("listen", text()), ("token_file", text())],
            ),
            "log": section("log", &[("level", text()), ("format", one_of(&["auto", "pretty", "json", "journald"]))]),
            "pipelines": {"type": "object", "additionalProperties": pipeline},
            "watch": {"type": "array", "items": watch},
        },
    })
}

/// A duration with its unit; zero needs none.
const TIME: &str = r"^\s*(0|([0-9]+\s*[a-zµ]+\s*)+)\s*$";
/// A size with its unit; zero needs none.
const SIZE: &str = r"^\s*(0|[0-9.]+\s*[A-Za-z]+)\s*$";

fn section(name: &str, keys: &[(&str, Value)]) -> Value {
    let described = keys.iter().map(|(key, value)| {
        let mut value = value.clone();
        let description = description(name, key).or_else(|| {
            // What overrides another section's key is explained there.
            let general = if name.ends_with(".limits") { "limits" } else { "server" };
            description(general, key)
        });
        if let Some(description) = description {
            value["description"] = description.into();
        }
        ((*key).to_owned(), value)
    });
    let properties: Map<_, _> = described.collect();
    json!({"type": "object", "additionalProperties": false, "properties": properties})
}

/// The comment above a key in the example file; keys without a blank line between them share it.
fn description(section: &str, key: &str) -> Option<String> {
    let mut current = "";
    let mut words: Vec<&str> = Vec::new();
    let mut complete = false;
    for line in EXAMPLE.lines() {
        if let Some(header) = line.strip_prefix('[') {
            current = header.trim_start_matches('[').split(']').next().unwrap_or_default();
            words.clear();
        } else if let Some((name, _)) = line.trim_start_matches("# ").split_once(" = ").filter(|(name, _)| is_key(name))
        {
            if (current, name) == (section, key) {
                let text = words.join(" ");
                return (!text.is_empty()).then_some(text);
            }
            complete = true;
        } else {
            if std::mem::take(&mut complete) || line.is_empty() {
                words.clear();
            }
            words.extend(line.strip_prefix('#').map(str::trim));
        }
    }
    None
}

fn is_key(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

fn text() -> Value {
    json!({"type": "string"})
}

fn texts() -> Value {
    json!({"type": "array", "items": {"type": "string"}})
}

fn flag() -> Value {
    json!({"type": "boolean"})
}

fn number() -> Value {
    json!({"type": "number", "minimum": 0})
}

fn count(least: u32) -> Value {
    json!({"type": "integer", "minimum": least})
}

fn time() -> Value {
    pattern(TIME)
}

fn size() -> Value {
    pattern(SIZE)
}

fn pattern(pattern: &str) -> Value {
    json!({"type": "string", "pattern": pattern})
}

fn one_of(words: &[&str]) -> Value {
    json!({"enum": words})
}

fn after(words: &[&str]) -> Value {
    let folder = json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["move"],
        "properties": {"move": {"type": "string"}},
    });
    json!({"oneOf": [{"enum": words}, folder]})
}
