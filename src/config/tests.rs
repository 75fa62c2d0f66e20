//! The configuration as a whole: what is accepted, what it means, and what an operator is told.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use secrecy::ExposeSecret;

use super::*;

const MINIMAL: &str = r#"
[server]
uri = "https://api.rocketride.ai"
api_key_file = "api-key"
[pipelines.invoices]
file = "/etc/rocketride-ingest/invoices.pipe"
[[watch]]
path = "/srv/drop/invoices"
pipeline = "invoices"
"#;

fn origin() -> &'static Path {
    Path::new("/etc/rocketride-ingest/config.toml")
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, origin(), &Environment::default())
}

fn good(text: &str) -> Config {
    parse(text).unwrap_or_else(|error| panic!("{error}"))
}

fn invalid(text: &str) -> Invalid {
    match parse(text) {
        Err(ConfigError::Invalid(invalid)) => invalid,
        other => panic!("{other:?}\n{text}"),
    }
}

/// `MINIMAL` with a key (and more) added to a section.
fn with(section: &str, line: &str) -> String {
    let header = format!("\n{section}\n");
    if MINIMAL.contains(&header) {
        MINIMAL.replace(&header, &format!("{header}{line}\n"))
    } else {
        format!("{MINIMAL}{section}\n{line}\n")
    }
}

/// Asserts that the text has exactly one problem, at this key, on the line that holds `line`, with these words.
#[track_caller]
fn one_problem(text: &str, key: &str, line: &str, words: &str) {
    let found = invalid(text);
    let printed = found.to_string();
    assert_eq!(found.problems.len(), 1, "{printed}\n{text}");
    let problem = &found.problems[0];
    assert_eq!(problem.key, key, "{printed}");
    assert!(problem.message.contains(words), "{printed}");
    let at = text.lines().nth(problem.line - 1).unwrap();
    assert!(at.contains(line), "{printed}");
    assert!(printed.starts_with(&format!("{}:{}:{}: ", origin().display(), problem.line, problem.column)), "{printed}");
}

#[test]
fn a_minimal_file_gets_every_default() {
    let config = good(MINIMAL);
    assert_eq!(config.server.connect_timeout, 10 * SECOND);
    assert_eq!(config.server.request_timeout, 60 * SECOND);
    assert_eq!(config.server.start_timeout, 10 * MINUTE);
    assert_eq!(config.server.result_timeout, 30 * MINUTE);
    assert_eq!(config.server.drain_timeout, 60 * SECOND);
    assert_eq!(config.server.instance, None);
    assert_eq!(config.limits, Limits { max_concurrent_uploads: 8, files_per_second: None, bytes_per_second: None });
    assert_eq!((config.retry.attempts, config.retry.initial, config.retry.max), (6, 30 * SECOND, 10 * MINUTE));
    assert_eq!(config.state.directory, Path::new("/var/lib/rocketride-ingest"));
    assert_eq!(config.state.min_free, 1 << 30);
    assert_eq!(config.log, Log { level: "info".parse().unwrap(), format: LogFormat::Auto });
    let pipeline = config.pipeline("invoices").unwrap();
    assert_eq!(pipeline.uri, "https://api.rocketride.ai");
    assert!(
        matches!(&pipeline.target, Target::File(path) if path == Path::new("/etc/rocketride-ingest/invoices.pipe"))
    );
    assert_eq!((pipeline.chunk_size, pipeline.threads, pipeline.ttl), (1 << 20, None, Duration::ZERO));
    assert_eq!(pipeline.result_timeout, 30 * MINUTE);
    assert_eq!(pipeline.limits.max_concurrent_uploads, 4);
    assert!(!pipeline.allow_plaintext && pipeline.ca_file.is_none() && pipeline.source.is_none());
    let watch = &config.watches[0];
    assert_eq!((watch.name.as_str(), watch.id), ("invoices", crate::job::WatchId::of("invoices")));
    assert_eq!((watch.path.as_path(), watch.pipeline.as_str()), (Path::new("/srv/drop/invoices"), "invoices"));
    assert!(watch.recursive && watch.select.include.is_none() && watch.select.ignore_junk);
    assert_eq!((watch.settle, watch.max_size), (None, 1 << 30));
    assert_eq!((&watch.on_success, watch.detect), (&OnSuccess::Keep, Detect::Auto));
    assert_eq!((watch.poll_interval, watch.rescan_interval), (30 * SECOND, 10 * MINUTE));
    assert_eq!(watch.results.mode, ResultMode::Inherit);
    assert!(watch.metadata.is_empty() && watch.mime_type.is_none());
}

#[test]
fn the_example_file_shows_the_defaults() {
    let example = include_str!("../../config.example.toml");
    assert_eq!(format!("{:#?}", good(example)), format!("{:#?}", good(MINIMAL)));
}

#[test]
fn the_example_file_with_its_commented_keys_is_valid_but_for_the_alternatives() {
    let uncommented: Vec<_> = include_str!("../../config.example.toml")
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

#[test]
fn the_example_file_explains_every_key_there_is() {
    let mut shown: BTreeSet<(String, String)> = BTreeSet::new();
    let mut section = String::new();
    for line in include_str!("../../config.example.toml").lines() {
        if line.starts_with('[') {
            section = line.split(['#']).next().unwrap().trim_matches(['[', ']', ' ']).replace(".invoices", ".NAME");
        }
        if let Some((key, _)) = line.trim_start_matches("# ").split_once(" = ") {
            shown.insert((section.clone(), key.to_owned()));
        }
    }
    for (section, keys) in [
        ("server", fields::<raw::Server>()),
        ("limits", fields::<raw::Limits>()),
        ("pipelines.NAME.limits", fields::<raw::Limits>()),
        ("retry", fields::<raw::Retry>()),
        ("state", fields::<raw::State>()),
        ("log", fields::<raw::Log>()),
        ("pipelines.NAME", fields::<raw::Pipeline>().into_iter().filter(|key| *key != "limits").collect()),
        ("watch", fields::<raw::Watch>().into_iter().filter(|key| *key != "results").collect()),
        ("watch.results", fields::<raw::Results>()),
    ] {
        for key in keys {
            assert!(shown.contains(&(section.to_owned(), key.to_owned())), "[{section}] {key} is not in the example");
        }
    }
    assert_eq!(fields::<raw::File>(), ["server", "limits", "retry", "state", "log", "pipelines", "watch"]);
}

#[test]
fn an_unknown_key_is_an_error_with_its_place_and_the_known_ones() {
    one_problem(&with("[server]", "proxy = \"\""), "server.proxy", "proxy", "unknown key");
    one_problem(&with("[admin]", ""), "admin", "[admin]", "unknown key");
    one_problem(&with("[[watch]]", "setle = \"2s\""), "watch.setle", "setle", "`settle`");
    one_problem(&with("[watch.results]", "text = true"), "watch.results.text", "text", "unknown key");
    one_problem(&with("[pipelines.invoices]", "key = 1"), "pipelines.invoices.key", "key = 1", "unknown key");
}

#[test]
fn every_wrong_value_is_named_with_its_key_and_line() {
    for (section, line, key, words) in [
        ("[server]", "connect_timeout = 10", "server.connect_timeout", "a duration in quotes"),
        ("[server]", "request_timeout = \"10 parsecs\"", "server.request_timeout", "is not a duration"),
        ("[server]", "start_timeout = \"0s\"", "server.start_timeout", "must be from"),
        ("[server]", "drain_timeout = \"2h\"", "server.drain_timeout", "must be from"),
        ("[server]", "chunk_size = \"1KiB\"", "server.chunk_size", "\"4KiB\" to \"64MiB\""),
        ("[server]", "chunk_size = \"65MiB\"", "server.chunk_size", "\"4KiB\" to \"64MiB\""),
        ("[server]", "chunk_size = \"65536\"", "server.chunk_size", "has no unit"),
        ("[server]", "allow_plaintext = \"yes\"", "server.allow_plaintext", "expected a boolean"),
        ("[server]", "instance = \" a\"", "server.instance", "blank"),
        ("[limits]", "max_concurrent_uploads = 0", "limits.max_concurrent_uploads", "from 1"),
        ("[limits]", "max_concurrent_uploads = -1", "limits.max_concurrent_uploads", "expected u32"),
        ("[limits]", "files_per_second = -1", "limits.files_per_second", "0 (unlimited)"),
        ("[limits]", "files_per_second = nan", "limits.files_per_second", "0 (unlimited)"),
        ("[limits]", "bytes_per_second = \"1B\"", "limits.bytes_per_second", "at least \"1KiB\""),
        ("[retry]", "attempts = 0", "retry.attempts", "from 1"),
        ("[retry]", "initial = \"11m\"", "retry.initial", "is less than"),
        ("[retry]", "max = \"1s\"", "retry.max", "raise max"),
        ("[state]", "directory = \"state\"", "state.directory", "absolute"),
        ("[log]", "level = \"loud\"", "log.level", "is not a log level"),
        ("[log]", "format = \"xml\"", "log.format", "`pretty`"),
        ("[pipelines.invoices]", "token_file = \"t\"", "pipelines.invoices.token_file", "is enough"),
        ("[pipelines.invoices]", "threads = 5000", "pipelines.invoices.threads", "up to 4096"),
        ("[pipelines.invoices]", "ttl = \"500ms\"", "pipelines.invoices.ttl", "whole seconds"),
        ("[pipelines.invoices]", "uri = \"\"", "pipelines.invoices.uri", "names no server"),
        ("[pipelines.invoices]", "uri = \"https://u:p@host\"", "pipelines.invoices.uri", "api_key_file"),
        ("[pipelines.invoices]", "api_key_file = \"\"", "pipelines.invoices.api_key_file", "names no file"),
        (
            "[pipelines.invoices.limits]",
            "max_concurrent_uploads = 0",
            "pipelines.invoices.limits.max_concurrent_uploads",
            "from 1",
        ),
        ("[[watch]]", "name = \"a/b\"", "watch.name", "slashes"),
        ("[[watch]]", "name = \"..\"", "watch.name", "slashes and dots"),
        ("[[watch]]", "name = \"a\\tb\"", "watch.name", "control characters"),
        ("[[watch]]", "name = \"\"", "watch.name", "no name"),
        ("[[watch]]", "include = [\"*.csv\", \"[\"]", "watch.include", "the glob \"[\" is wrong"),
        ("[[watch]]", "exclude = [\"!a\"]", "watch.exclude", "cannot be negated"),
        ("[[watch]]", "include = [5]", "watch.include", "expected a string"),
        ("[[watch]]", "settle = \"0s\"", "watch.settle", "must be from \"1ms\""),
        ("[[watch]]", "poll_interval = \"0s\"", "watch.poll_interval", "must be from"),
        ("[[watch]]", "rescan_interval = \"0s\"", "watch.rescan_interval", "must be from"),
        ("[[watch]]", "max_size = \"0\"", "watch.max_size", "refuse every file"),
        ("[[watch]]", "mime_type = \"csv\"", "watch.mime_type", "is not a MIME type"),
        ("[[watch]]", "on_success = \"archive\"", "watch.on_success", "{ move = \"FOLDER\" }"),
        ("[[watch]]", "on_success = { move = \"\" }", "watch.on_success.move", "name a folder"),
        ("[[watch]]", "on_success = { move = \".\" }", "watch.on_success.move", "is the same folder as watch"),
        ("[[watch]]", "on_success = { move = \"..\" }", "watch.on_success.move", "contains watch"),
        ("[[watch]]", "detect = \"magic\"", "watch.detect", "`events`"),
        ("[watch.results]", "mode = \"0755\"", "watch.results.mode", "octal"),
        ("[watch.results]", "mode = \"0440\"", "watch.results.mode", "octal"),
    ] {
        one_problem(&with(section, line), key, line, words);
    }
    for key in ["name", "path", "url", "flags", "size", "objectId"] {
        let line = format!("metadata = {{ {key} = \"x\" }}");
        one_problem(&with("[[watch]]", &line), &format!("watch.metadata.{key}"), &line, "reserved");
    }
    let line = format!("name = \"{}\"", "n".repeat(65));
    one_problem(&with("[[watch]]", &line), "watch.name", &line, "65 characters");
}

#[test]
fn what_is_missing_is_asked_for_where_it_belongs() {
    one_problem(&MINIMAL.replace("path = \"/srv", "#"), "watch.path", "[[watch]]", "absolute path");
    one_problem(&MINIMAL.replace("pipeline = ", "#"), "watch.pipeline", "[[watch]]", "[pipelines.NAME]");
    one_problem(&MINIMAL.replace("uri = ", "#"), "server.uri", "[server]", "$ROCKETRIDE_URI");
    one_problem(&MINIMAL.replace("\"/srv/drop", "\"drop"), "watch.path", "path", "begin it with /");
    one_problem("[log]\nlevel = \"info\"", "server.uri", "[log]", "$ROCKETRIDE_URI");
    let env = Environment { rocketride_uri: Some("http://localhost:5565".to_owned()), ..Environment::default() };
    let config = Config::parse(&MINIMAL.replace("uri = ", "#"), origin(), &env).unwrap();
    assert_eq!(config.pipelines[0].uri, "http://localhost:5565");
    // What the file says goes before the environment.
    assert_eq!(Config::parse(MINIMAL, origin(), &env).unwrap().pipelines[0].uri, "https://api.rocketride.ai");
}

#[test]
fn a_key_of_the_wrong_type_is_not_called_missing_as_well() {
    one_problem(&MINIMAL.replace("uri = \"https://api.rocketride.ai\"", "uri = 5"), "server.uri", "uri = 5", "string");
    one_problem(&MINIMAL.replace("path = \"/srv/drop/invoices\"", "path = 5"), "watch.path", "path = 5", "string");
    one_problem(&MINIMAL.replace("pipeline = \"invoices\"", "pipeline = 5"), "watch.pipeline", "= 5", "string");
    one_problem(
        &with("[pipelines.invoices]", "threads = 2")
            .replace("file = \"/etc/rocketride-ingest/invoices.pipe\"", "file = 5"),
        "pipelines.invoices.file",
        "file = 5",
        "string",
    );
}

#[test]
fn an_unknown_pipeline_and_a_name_used_twice_are_named() {
    one_problem(
        &MINIMAL.replace("pipeline = \"invoices\"", "pipeline = \"invoice\""),
        "watch.pipeline",
        "pipeline =",
        "(defined: invoices)",
    );
    let twice = format!("{MINIMAL}[[watch]]\npath = \"/mnt/invoices\"\npipeline = \"invoices\"\n");
    one_problem(&twice, "watch.path", "/mnt/invoices", "the watch of line 8 is called \"invoices\" too");
    let twice = format!("{MINIMAL}[[watch]]\nname = \"invoices\"\npath = \"/mnt/b\"\npipeline = \"invoices\"\n");
    one_problem(&twice, "watch.name", "name = \"invoices\"", "another name");
}

#[test]
fn folders_that_contain_one_another_are_refused() {
    let second = |path: &str, more: &str| {
        format!("{MINIMAL}[[watch]]\nname = \"b\"\npath = {path:?}\npipeline = \"invoices\"\n{more}\n")
    };
    let overlap = "choose folders that do not contain one another";
    one_problem(&second("/srv/drop/invoices", ""), "watch.path", "path", "is the same folder as watch \"invoices\"");
    one_problem(
        &second("/srv//drop/x/../invoices/./deep/", ""),
        "watch.path",
        "path",
        "lies inside watch \"invoices\"",
    );
    one_problem(&second("/srv", ""), "watch.path", "path", "contains watch \"invoices\" /srv/drop/invoices (line 8)");
    one_problem(&second("/var/lib/rocketride-ingest/in", ""), "watch.path", "path", "(the default)");
    one_problem(&with("[state]", "directory = \"/srv/drop\""), "state.directory", "directory", overlap);
    let target = "watch.on_success.move";
    one_problem(&second("/srv/b", "on_success = { move = \"/srv/drop/invoices/b\" }"), target, "move", overlap);
    one_problem(&second("/srv/b", "on_success = { move = \"/var/lib/rocketride-ingest\" }"), target, "move", overlap);
    // A name that merely begins alike is another folder.
    good(&second("/srv/drop/invoices2", ""));
}

#[test]
fn a_target_is_relative_to_its_watch_and_may_lie_inside_it() {
    let target = |text: &str| {
        let config = good(&with("[[watch]]", &format!("on_success = {{ move = {text:?} }}")));
        config.watches[0].on_success.clone()
    };
    assert_eq!(target("done"), OnSuccess::Move("/srv/drop/invoices/done".into()));
    assert_eq!(target("../done/./x"), OnSuccess::Move("/srv/drop/done/x".into()));
    assert_eq!(target("/srv/done"), OnSuccess::Move("/srv/done".into()));
    assert_eq!(good(&with("[[watch]]", "on_success = \"delete\"")).watches[0].on_success, OnSuccess::Delete);
}

#[test]
fn all_problems_are_reported_in_the_order_of_the_file() {
    let text = r#"
[server]
uri = 5
colour = "red"
chunk_size = "1KiB"
[pipelines.a]
threads = "many"
[[watch]]
path = "/srv/a"
pipeline = "b"
settle = "soon"
[[watch]]
pipeline = "a"
poll_interval = "0s"
"#;
    let found = invalid(text);
    let keys: Vec<_> = found.problems.iter().map(|problem| (problem.line, problem.key.as_str())).collect();
    let expected = [
        (3, "server.uri"),
        (4, "server.colour"),
        (5, "server.chunk_size"),
        (7, "pipelines.a.threads"),
        (10, "watch.pipeline"),
        (11, "watch.settle"),
        (12, "watch.path"),
        (14, "watch.poll_interval"),
    ];
    assert_eq!(keys, expected, "{found}");
}

#[test]
fn a_file_full_of_nonsense_is_reported_within_bounds() {
    let nonsense: String = (0..500).map(|number| format!("k{number} = 1")).collect::<Vec<_>>().join("\n");
    let found = invalid(&nonsense);
    assert_eq!(found.problems.len(), MAX_PROBLEMS);
    assert!(found.omitted > 0 && found.to_string().contains("more"));
}

#[test]
fn a_problem_shows_its_line_with_a_caret_under_the_value() {
    let printed = invalid(&with("[[watch]]", "settle = \"soon\"")).to_string();
    let lines: Vec<_> = printed.lines().skip(1).collect();
    assert_eq!(lines, ["  |", "8 | settle = \"soon\"", "  |          ^^^^^^"], "{printed}");
}

#[test]
fn a_syntax_error_has_its_place() {
    let found = invalid("[server]\nuri = https://x\n");
    assert_eq!(found.problems[0].line, 2, "{found}");
    let duplicate = invalid("[server]\nuri = \"a\"\nuri = \"b\"\n");
    assert_eq!(duplicate.problems[0].line, 3, "{duplicate}");
}

#[test]
fn no_problem_shows_a_secret() {
    let secret = "rr_s3cr3t";
    for text in [
        format!("[server]\napi_key = \"{secret}\nuri = 5"),
        format!("[server]\napi_key = {secret}\n"),
        format!("[server]\napi_key = \"\"\"\n{secret} =\n\u{1}\"\"\"\n"),
        format!("[server]\napikey = \"{secret}\"\n"),
        format!("[server]\napi_key_file = \"x\"\napi_key = \"{secret}\"\n"),
        format!("[server]\napi_key = [\"{secret}\"]\n"),
        format!("[server]\nuri = \"https://user:{secret}@host name\"\n"),
        with("[pipelines.invoices]", &format!("token = \"{secret}\"")),
        with("[pipelines.invoices]", &format!("token = {{ a = \"{secret}\" }}")),
    ] {
        let found = invalid(&text);
        assert!(!format!("{found} {found:?}").contains(secret), "{found}");
    }
    let found = invalid(&with("[pipelines.invoices]", "token = 123456789"));
    assert!(!format!("{found} {found:?}").contains("123456789"), "{found}");
}

#[test]
fn no_debug_shows_a_secret() {
    let text = MINIMAL.replace("api_key_file = \"api-key\"", "api_key = \"rr_s3cr3t\"");
    let env = Environment { rocketride_apikey: Some("rr_s3cr3t".into()), ..Environment::default() };
    let config = good(&text);
    assert_eq!(config.pipelines[0].api_key.read().unwrap().expose_secret(), "rr_s3cr3t");
    assert!(!format!("{config:?} {env:?}").contains("s3cr3t"));
}

#[test]
fn an_inline_secret_needs_a_private_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    fs::write(&path, MINIMAL.replace("api_key_file = \"api-key\"", "api_key = \"rr_1\"")).unwrap();
    let load = |mode| {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        Config::load(&path, &Environment::default())
    };
    load(0o600).unwrap();
    for mode in [0o640, 0o604] {
        let error = load(mode).unwrap_err().to_string();
        assert!(error.contains("chmod 0600") && error.contains("server.api_key") && !error.contains("rr_1"), "{error}");
    }
}

#[test]
fn secrets_are_looked_up_among_the_credentials_then_beside_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let credentials = folder.path().join("credentials");
    fs::create_dir(&credentials).unwrap();
    let secret = |path: PathBuf, value: &str| {
        fs::write(&path, value).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    let env = Environment {
        credentials_directory: Some(credentials.clone()),
        rocketride_apikey: Some("of-env".into()),
        ..Environment::default()
    };
    let key = |text: &str| {
        let config = Config::parse(text, &folder.path().join("config.toml"), &env).unwrap();
        config.pipelines[0].api_key.read().map(|secret| secret.expose_secret().to_owned())
    };
    let unnamed = MINIMAL.replace("api_key_file = \"api-key\"\n", "");
    // A file that is named and missing is no reason to take another key.
    assert!(key(MINIMAL).unwrap_err().to_string().contains("is missing"));
    assert_eq!(key(&unnamed).unwrap(), "of-env");
    secret(folder.path().join("api-key"), "beside");
    assert_eq!(key(MINIMAL).unwrap(), "beside");
    assert_eq!(key(&unnamed).unwrap(), "of-env");
    secret(credentials.join("api-key"), "credential");
    assert_eq!(key(MINIMAL).unwrap(), "credential");
    assert_eq!(key(&unnamed).unwrap(), "credential");
    secret(folder.path().join("own"), "own");
    assert_eq!(key(&with("[pipelines.invoices]", "api_key_file = \"own\"")).unwrap(), "own");
}

#[test]
fn the_key_of_a_task_needs_no_target_and_an_account_key_does() {
    let text = |key: &str, target: &str| {
        MINIMAL
            .replace("api_key_file = \"api-key\"", &format!("api_key = \"{key}\""))
            .replace("file = \"/etc/rocketride-ingest/invoices.pipe\"", target)
    };
    let config = good(&text("pk_1", ""));
    assert!(matches!(config.pipelines[0].target, Target::Credential));
    config.pipelines[0].check_key(&"pk_1".into()).unwrap();
    assert!(config.pipelines[0].check_key(&"rr_1".into()).unwrap_err().contains("names no task"));
    one_problem(&text("rr_1", ""), "pipelines.invoices.file", "[pipelines.invoices]", "not the key of a task");
    one_problem(&text("tk_1", "file = \"x\""), "pipelines.invoices.file", "file = ", "not possible");
    one_problem(&text("tk_1", "threads = 2"), "pipelines.invoices.threads", "threads", "has no effect");
    let config = good(&text("rr_1", "token = \"t\""));
    assert!(
        matches!(&config.pipelines[0].target, Target::Token(token) if token.read().unwrap().expose_secret() == "t")
    );
}

#[test]
fn a_pipeline_inherits_from_the_server_and_may_differ() {
    let text = with(
        "[server]",
        "chunk_size = \"64KiB\"\nresult_timeout = \"1h\"\nallow_plaintext = true\nca_file = \"ca.pem\"",
    );
    let config = good(&format!(
        "{text}[pipelines.other]\nuri = \"ws://10.0.0.1\"\nchunk_size = \"8KiB\"\nresult_timeout = \"1m\"\nlimits = {{ files_per_second = 0.5, bytes_per_second = \"1MiB\" }}\n"
    ));
    let (inheriting, differing) = (&config.pipelines[0], &config.pipelines[1]);
    assert_eq!((inheriting.chunk_size, inheriting.result_timeout), (64 << 10, HOUR));
    assert!(inheriting.allow_plaintext);
    assert_eq!(inheriting.ca_file.as_deref(), Some(Path::new("/etc/rocketride-ingest/ca.pem")));
    assert_eq!((differing.chunk_size, differing.result_timeout), (8 << 10, MINUTE));
    assert_eq!(differing.uri, "ws://10.0.0.1");
    assert_eq!((differing.limits.files_per_second, differing.limits.bytes_per_second), (Some(0.5), Some(1 << 20)));
    assert!(matches!(differing.target, Target::Credential));
}

#[test]
fn results_belong_to_the_watch_above_them() {
    let config = good(&format!(
        "{MINIMAL}[watch.results]\nmode = \"0640\"\n[[watch]]\npath = \"/mnt/b\"\npipeline = \"invoices\"\n"
    ));
    let modes: Vec<_> = config.watches.iter().map(|watch| watch.results.mode).collect();
    assert_eq!(modes, [ResultMode::Fixed(0o640), ResultMode::Inherit]);
}

#[test]
fn the_state_directory_of_systemd_counts_unless_the_file_names_one() {
    let env = Environment { state_directory: Some("/var/lib/other".into()), ..Environment::default() };
    let directory = |text: &str| Config::parse(text, origin(), &env).unwrap().state.directory;
    assert_eq!(directory(MINIMAL), Path::new("/var/lib/other"));
    assert_eq!(directory(&with("[state]", "directory = \"/data/state\"")), Path::new("/data/state"));
}

#[test]
fn a_file_that_cannot_be_read_as_text_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    let load = || Config::load(&path, &Environment::default()).unwrap_err().to_string();
    assert!(load().contains("cannot read the configuration file"));
    fs::write(&path, b"[server]\nuri = \"\xff\"\n").unwrap();
    assert!(load().contains("config.toml:2:8: not UTF-8"), "{}", load());
    fs::write(&path, vec![b'#'; 2 << 20]).unwrap();
    assert!(load().contains("larger than 1MiB"));
}
