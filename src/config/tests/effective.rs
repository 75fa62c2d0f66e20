//! What `config show` tells: everything that is in effect, and where it comes from.

use std::fs;

use super::super::source::Sources;
use super::super::{Config, Environment};
use super::example::all_keys;
use super::{MINIMAL, origin};

fn shown(text: &str, env: &Environment) -> String {
    Config::effective_of(&Sources::of(text, origin()), env).unwrap()
}

/// Every kind of value, and names that need quoting.
pub(super) const RICH: &str = r#"
server = { uri = "https://a.example", api_key_file = "api-key", chunk_size = "64KiB", proxy = "http://p.example:3128" }
[limits]
files_per_second = 0.25
bytes_per_second = "50MiB"
[retry]
initial = "1h 30m"
max = "2h"
[admin]
listen = "[::1]:9644"
token_file = "token"
[log]
level = "warn,sled=debug"
[pipelines."Rechnungen für \"A\""]
token_file = "t"
uri = "https://b.example"
[pipelines.other]
[[watch]]
path = "/srv/a # b"
pipeline = "Rechnungen für \"A\""
include = ["*.pdf", "a\\b\u202e"]
settle = "1500ms"
done_marker = "{name}.done"
max_size = "1537B"
metadata = { "a b" = "x\n\"y\"\u007f", c = "ü" }
on_success = { move = "done" }
on_failure = { move = "../failed" }
detect = "poll"
[watch.results]
directory = "../results"
mode = "0640"
text = true
[[watch]]
path = "/srv/b"
pipeline = "other"
on_success = "delete"
recursive = false
"#;

#[test]
fn what_is_shown_means_the_same_when_it_is_read_again() {
    for text in [MINIMAL, RICH, include_str!("../../../config.example.toml")] {
        let shown = shown(text, &Environment::default());
        let read = Config::parse(&shown, origin(), &Environment::default()).unwrap_or_else(|e| panic!("{e}\n{shown}"));
        assert_eq!(format!("{read:#?}"), format!("{:#?}", super::good(text)), "{shown}");
    }
}

#[test]
fn every_value_has_its_origin() {
    let env = Environment {
        rocketride_uri: Some("https://env.example".to_owned()),
        state_directory: Some("/var/lib/x".into()),
        runtime_directory: Some("/run/x".into()),
        https_proxy: Some("http://u:s3cret@p".into()),
        ..Environment::default()
    };
    let shown = shown(&MINIMAL.replace("uri = ", "#").replace("[[watch]]", "[[watch]]\nsettle = \"3s\""), &env);
    for line in [
        "uri = \"https://env.example\"  # $ROCKETRIDE_URI",
        "api_key_file = \"api-key\"  # /etc/rocketride-ingest/config.toml:4",
        "proxy = \"\"  # $HTTPS_PROXY and $NO_PROXY",
        "# through the proxy http://p:80, from $HTTPS_PROXY",
        "connect_timeout = \"10s\"  # default",
        "directory = \"/var/lib/x\"  # $STATE_DIRECTORY",
        "socket = \"/run/x/admin.sock\"  # $RUNTIME_DIRECTORY",
        "file = \"/etc/rocketride-ingest/invoices.pipe\"  # /etc/rocketride-ingest/config.toml:6",
        "name = \"invoices\"  # default: the last part of the path",
        "settle = \"3s\"  # /etc/rocketride-ingest/config.toml:8",
        "mode = \"inherit\"  # default",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}\n{shown}");
    }
    assert!(!shown.contains("s3cret"), "{shown}");
    let unquoted = |line: &&str| !line.is_empty() && !line.starts_with(['#', '[']) && !line.contains("  # ");
    assert_eq!(shown.lines().find(unquoted), None);
}

#[test]
fn what_a_file_of_conf_d_says_has_its_place_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    fs::create_dir(folder.path().join("conf.d")).unwrap();
    fs::write(&path, MINIMAL).unwrap();
    let more = "# ours\n[pipelines.b]\nthreads = 2\nfile = \"b.pipe\"\n[[watch]]\nname = \"b\"\npath = \"/b\"\npipeline = \"b\"\n";
    fs::write(folder.path().join("conf.d/b.toml"), more).unwrap();
    let shown = Config::effective(&path, &Environment::default()).unwrap();
    for (line, number) in [("threads = 2", 3), ("name = \"b\"", 6), ("path = \"/b\"", 7)] {
        let line = format!("{line}  # {}/conf.d/b.toml:{number}", folder.path().display());
        assert!(shown.contains(&line), "{line}\n{shown}");
    }
}

#[test]
fn no_secret_is_shown_but_where_it_is() {
    let text = MINIMAL
        .replace("api_key_file = \"api-key\"", "api_key = \"rr_s3cret\"\nproxy = \"http://me:s3cret@p.example:1\"")
        .replace("file = ", "token = \"s3cret\" #");
    let env = Environment { rocketride_apikey: Some("s3cret".into()), ..Environment::default() };
    for text in [text.clone(), text.replace("api_key = \"rr_s3cret\"", "")] {
        let shown = shown(&text, &env);
        assert!(!shown.contains("s3cret"), "{shown}");
        for words in [
            "# token is not shown; /etc/rocketride-ingest/config.toml:7",
            "p.example:1, with a user",
            "from $ROCKETRIDE_APIKEY",
        ] {
            let inline = words.contains("APIKEY") && text.contains("api_key");
            assert!(shown.contains(words) || inline, "{words}\n{shown}");
        }
    }
    assert!(shown(&text, &env).contains("# api_key is not shown; /etc/rocketride-ingest/config.toml:4"));
}

#[test]
fn every_key_there_is_is_shown() {
    let shown = shown(MINIMAL, &Environment::default());
    let mut section = String::new();
    let mut lines = std::collections::BTreeSet::new();
    for line in shown.lines() {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']).replace(".invoices", ".NAME");
        }
        lines.insert(format!("{section} {}", line.split(' ').next().unwrap()));
    }
    // One of each group of alternatives stands in this text.
    let alternatives =
        ["server api_key", "pipelines.NAME token_file", "pipelines.NAME token", "pipelines.NAME api_key_file"];
    for (section, keys) in all_keys() {
        for key in keys {
            let line = format!("{section} {key}");
            assert!(lines.contains(&line) || alternatives.contains(&line.as_str()), "{line}\n{shown}");
        }
    }
}
