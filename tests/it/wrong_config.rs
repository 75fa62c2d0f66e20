//! A wrong configuration file: exit 78 and one clear line for each mistake, before anything is touched.

use crate::harness::Host;

/// Starts the daemon with a configuration in which `from` became `to`; returns the lines that say `key`.
fn complaints(from: &str, to: &str, key: &str) -> Vec<String> {
    let host = Host::new();
    host.configure("http://localhost:1", "");
    host.edit_config(from, to);
    let (code, stdout, stderr) = host.output(&["run"]);
    assert_eq!((code, &*stdout), (78, ""), "{stderr}");
    assert!(!host.path("state").exists(), "nothing was begun");
    // FILE:LINE:COLUMN: KEY: what is wrong
    let file = format!("{}:", host.path("config.toml").display());
    let text = std::fs::read_to_string(host.path("config.toml")).unwrap();
    let mut found = Vec::new();
    for line in stderr.lines().filter(|line| line.contains(&file)) {
        let place: Vec<_> = line.split_once(&file).unwrap().1.splitn(4, ':').collect();
        let (row, column): (usize, usize) = (place[0].parse().unwrap(), place[1].parse().unwrap());
        let pointed = &text.lines().nth(row - 1).unwrap()[column - 1..];
        assert!(!pointed.is_empty(), "{line}");
        if place[2].trim() == key {
            found.push(format!("{} <- {pointed}", place[3].trim()));
        }
    }
    assert!(!found.is_empty(), "{key} is not named:\n{stderr}");
    found
}

#[test]
fn an_unknown_key_is_pointed_at() {
    let said = complaints("settle = ", "setle = ", "watch.setle");
    assert_eq!(said.len(), 1);
    assert!(said[0].contains("unknown") && said[0].contains("<- setle"), "{said:?}");
}

#[test]
fn an_unknown_pipeline_is_named_with_those_that_exist() {
    let said = complaints("pipeline = \"test\"", "pipeline = \"tset\"", "watch.pipeline");
    assert_eq!(said.len(), 1);
    assert!(said[0].contains("\"tset\"") && said[0].contains("defined: test"), "{said:?}");
}

#[test]
fn two_watches_in_one_another_are_refused_with_both_names() {
    let host = Host::new();
    let inner = host.path("in");
    drop(host);
    let second = format!(
        "settle = \"300ms\"\n[[watch]]\nname = \"a\"\npath = {inner:?}\npipeline = \"test\"\n[[watch]]\nname = \"b\"\n\
         path = {:?}\npipeline = \"test\"\n",
        inner.join("deep")
    );
    let said = complaints("settle = \"300ms\"\n", &second, "watch.path");
    assert_eq!(said.len(), 1);
    assert!(said[0].contains("watch \"b\"") && said[0].contains("watch \"a\""), "{said:?}");
}

#[test]
fn a_duration_that_is_none_is_refused_with_an_example() {
    let said = complaints("settle = \"300ms\"", "settle = \"soon\"", "watch.settle");
    assert_eq!(said.len(), 1);
    assert!(said[0].contains("\"soon\"") && said[0].contains("quotes"), "{said:?}");
}

#[test]
fn a_missing_file_is_a_wrong_configuration_too() {
    let host = Host::new();
    let (code, _, stderr) = host.output(&["run"]);
    assert_eq!(code, 78);
    assert!(stderr.contains(&*host.path("config.toml").to_string_lossy()), "{stderr}");
}
