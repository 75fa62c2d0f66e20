//! The JSON Schema says what the program reads.

use serde_json::Value;

use super::super::schema;
use super::example::all_keys;
use super::{MINIMAL, with};

/// As much of JSON Schema as ours uses; another keyword is a failure.
fn accepts(schema: &Value, value: &Value) -> bool {
    let schema = schema.as_object().unwrap();
    schema.iter().all(|(keyword, rule)| match keyword.as_str() {
        "$schema" | "title" | "description" | "properties" => true,
        "type" => match rule.as_str().unwrap() {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "number" => value.is_number(),
            "integer" => value.is_i64() || value.is_u64(),
            other => panic!("type {other}"),
        },
        "additionalProperties" => value.as_object().into_iter().flatten().all(|(key, value)| {
            match schema.get("properties").and_then(|properties| properties.get(key)) {
                Some(schema) => accepts(schema, value),
                None => rule.is_object() && accepts(rule, value),
            }
        }),
        "required" => rule.as_array().unwrap().iter().all(|key| value.get(key.as_str().unwrap()).is_some()),
        "items" => value.as_array().into_iter().flatten().all(|item| accepts(rule, item)),
        "enum" => rule.as_array().unwrap().contains(value),
        "oneOf" => rule.as_array().unwrap().iter().filter(|rule| accepts(rule, value)).count() == 1,
        "minimum" => value.as_f64().is_none_or(|number| number >= rule.as_f64().unwrap()),
        "pattern" => {
            let pattern = regex::Regex::new(rule.as_str().unwrap()).unwrap();
            value.as_str().is_none_or(|text| pattern.is_match(text))
        }
        other => panic!("keyword {other}"),
    })
}

fn accepted(text: &str) -> bool {
    accepts(&schema(), &toml::from_str(text).unwrap())
}

#[test]
fn the_schema_accepts_what_the_program_accepts() {
    for text in [MINIMAL, super::effective::RICH, include_str!("../../../config.example.toml")] {
        assert!(accepted(text), "{text}");
    }
    for (section, line) in [
        ("[[watch]]", "settle = \"\""),
        ("[[watch]]", "settle = \"1h 30m\""),
        ("[[watch]]", "on_failure = { move = \"x\" }"),
        ("[[watch]]", "max_size = \"1.5 GiB\""),
        ("[pipelines.invoices]", "ttl = \"0\""),
        ("[limits]", "bytes_per_second = \"0\""),
        ("[log]", "format = \"journald\""),
        ("[watch.results]", "mode = \"0644\""),
        ("[watch.results]", "directory = \"out\""),
    ] {
        super::good(&with(section, line));
        assert!(accepted(&with(section, line)), "{line}");
    }
}

#[test]
fn the_schema_refuses_what_is_misspelt_or_of_the_wrong_kind() {
    for (section, line) in [
        ("[server]", "urii = \"x\""),
        ("[server]", "connect_timeout = 10"),
        ("[server]", "connect_timeout = \"10\""),
        ("[server]", "chunk_size = \"65536\""),
        ("[server]", "allow_plaintext = \"yes\""),
        ("[limits]", "max_concurrent_uploads = 0"),
        ("[log]", "format = \"xml\""),
        ("[metrics]", ""),
        ("[pipelines.invoices]", "thread = 1"),
        ("[pipelines.invoices.limits]", "files_per_second = -1"),
        ("[[watch]]", "include = \"*.pdf\""),
        ("[[watch]]", "on_success = \"archive\""),
        ("[[watch]]", "on_failure = \"delete\""),
        ("[[watch]]", "settle = \"soon\""),
        ("[[watch]]", "done_marker = \"done\""),
        ("[watch.results]", "mode = \"0755\""),
        ("[watch.results]", "directory = false"),
    ] {
        super::invalid(&with(section, line));
        assert!(!accepted(&with(section, line)), "{line}");
    }
    assert!(!accepted(&MINIMAL.replace("path = ", "# ")));
}

#[test]
fn the_schema_has_every_key_with_its_description_and_no_other() {
    let schema = schema();
    let sections = &schema["properties"];
    for (section, mut keys) in all_keys() {
        let found = match section {
            "pipelines.NAME" => &sections["pipelines"]["additionalProperties"],
            "pipelines.NAME.limits" => &sections["pipelines"]["additionalProperties"]["properties"]["limits"],
            "watch" => &sections["watch"]["items"],
            "watch.results" => &sections["watch"]["items"]["properties"]["results"],
            other => &sections[other],
        };
        let found = found["properties"].as_object().unwrap();
        keys.sort_unstable();
        let mut names: Vec<_> =
            found.keys().map(String::as_str).filter(|key| !["limits", "results"].contains(key)).collect();
        names.sort_unstable();
        assert_eq!(names, keys, "{section}");
        for (key, value) in found {
            let described = value["description"].as_str().is_some_and(|text| text.len() > 10);
            assert!(described || ["limits", "results"].contains(&key.as_str()), "[{section}] {key}: {value}");
        }
    }
    let mut names: Vec<_> = sections.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["admin", "limits", "log", "pipelines", "retry", "server", "state", "watch"]);
}
