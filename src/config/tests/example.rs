//! The example file cannot drift from the program.

use std::collections::BTreeSet;
use std::path::Path;

use super::super::{DEFAULT_STATE_DIRECTORY, SECOND, raw};
use super::{MINIMAL, good, invalid};

#[test]
fn the_example_file_shows_the_defaults() {
    let example = include_str!("../../../config.example.toml");
    assert_eq!(format!("{:#?}", good(example)), format!("{:#?}", good(MINIMAL)));
}

#[test]
fn the_example_file_with_its_commented_keys_is_valid_but_for_the_alternatives() {
    let uncommented: Vec<_> = include_str!("../../../config.example.toml")
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')) => rest,
            _ => line,
        })
        .collect();
    let found = invalid(&uncommented.join("\n"));
    let keys: Vec<_> = found.problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["server.api_key", "pipelines.invoices.token_file"], "{found}");
    let alternatives = ["api_key =", "token_file =", "token ="];
    let rest: Vec<_> =
        uncommented.into_iter().filter(|line| !alternatives.iter().any(|key| line.starts_with(key))).collect();
    let config = good(&rest.join("\n"));
    assert_eq!(config.watches[0].settle, Some(2 * SECOND));
    assert_eq!(config.state.directory, Path::new(DEFAULT_STATE_DIRECTORY));
}

/// Tells the keys of a section by asking its `Deserialize` for them.
struct FieldNames<'n>(&'n mut Vec<&'static str>);

impl<'de> serde::Deserializer<'de> for FieldNames<'_> {
    type Error = serde::de::value::Error;

    fn deserialize_any<V: serde::de::Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(serde::de::Error::custom("only structs"))
    }

    fn deserialize_struct<V: serde::de::Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Self::Error> {
        self.0.extend(fields);
        Err(serde::de::Error::custom("that is all"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

fn fields<'de, T: serde::Deserialize<'de>>() -> Vec<&'static str> {
    let mut names = Vec::new();
    let _ = T::deserialize(FieldNames(&mut names));
    assert!(!names.is_empty());
    names
}

/// Every section with its keys, as the program reads them.
pub(super) fn all_keys() -> [(&'static str, Vec<&'static str>); 10] {
    [
        ("server", fields::<raw::Server>()),
        ("limits", fields::<raw::Limits>()),
        ("pipelines.NAME.limits", fields::<raw::Limits>()),
        ("retry", fields::<raw::Retry>()),
        ("state", fields::<raw::State>()),
        ("admin", fields::<raw::Admin>()),
        ("log", fields::<raw::Log>()),
        ("pipelines.NAME", fields::<raw::Pipeline>().into_iter().filter(|key| *key != "limits").collect()),
        ("watch", fields::<raw::Watch>().into_iter().filter(|key| *key != "results").collect()),
        ("watch.results", fields::<raw::Results>()),
    ]
}

#[test]
fn the_example_file_explains_every_key_there_is() {
    let mut shown: BTreeSet<(String, String)> = BTreeSet::new();
    let mut section = String::new();
    for line in include_str!("../../../config.example.toml").lines() {
        if line.starts_with('[') {
            section = line.split(['#']).next().unwrap().trim_matches(['[', ']', ' ']).replace(".invoices", ".NAME");
        }
        if let Some((key, _)) = line.trim_start_matches("# ").split_once(" = ") {
            shown.insert((section.clone(), key.to_owned()));
        }
    }
    for (section, keys) in all_keys() {
        for key in keys {
            assert!(shown.contains(&(section.to_owned(), key.to_owned())), "[{section}] {key} is not in the example");
        }
    }
    assert_eq!(fields::<raw::File>(), ["server", "limits", "retry", "state", "admin", "log", "pipelines", "watch"]);
}
