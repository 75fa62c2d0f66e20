//! The configuration as a whole: what is accepted, and what it means.

mod effective;
mod example;
mod parts;
mod problems;
mod schema;

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
    assert_eq!(config.server.silence_timeout, 60 * SECOND);
    assert_eq!(config.server.start_timeout, 10 * MINUTE);
    assert_eq!(config.server.result_timeout, 30 * MINUTE);
    assert_eq!(config.server.drain_timeout, 60 * SECOND);
    assert_eq!(config.server.instance, None);
    assert_eq!(config.limits, Limits { max_concurrent_uploads: 8, files_per_second: None, bytes_per_second: None });
    assert_eq!((config.retry.attempts, config.retry.initial, config.retry.max), (6, 30 * SECOND, 10 * MINUTE));
    assert_eq!(config.state.directory, Path::new("/var/lib/rocketride-ingest"));
    assert_eq!((config.state.min_free, config.state.max_spool), (1 << 30, 5 << 30));
    assert_eq!(config.state.finished_retention, 7 * 24 * HOUR);
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
    assert_eq!((&watch.on_failure, &watch.done_marker, watch.targets().count()), (&OnFailure::Keep, &None, 0));
    assert_eq!((watch.poll_interval, watch.rescan_interval), (30 * SECOND, 10 * MINUTE));
    assert_eq!((&watch.results.directory, watch.results.mode), (&None, ResultMode::Inherit));
    assert!(watch.metadata.is_empty() && watch.mime_type.is_none());
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
fn no_debug_shows_a_secret() {
    let text = MINIMAL.replace("api_key_file = \"api-key\"", "api_key = \"rr_s3cr3t\"");
    let env = Environment { rocketride_apikey: Some("rr_s3cr3t".into()), ..Environment::default() };
    let config = good(&text);
    assert_eq!(config.pipelines[0].api_key.read().unwrap().expose_secret(), "rr_s3cr3t");
    assert!(!format!("{config:?} {env:?}").contains("s3cr3t"));
}

#[test]
fn the_proxy_of_the_file_is_for_every_server_and_that_of_the_environment_spares_some() {
    let env = Environment {
        https_proxy: Some("http://u:s3cret@env.example:1".into()),
        no_proxy: "api.rocketride.ai".to_owned(),
        ..Environment::default()
    };
    let proxy = |text: &str, env: &Environment, server: &str| {
        let config = Config::parse(text, origin(), env).unwrap();
        assert!(!format!("{config:?} {env:?}").contains("s3cret"));
        let server = ServiceUri::parse(server).unwrap();
        config.pipelines[0].proxy.as_ref().and_then(|rule| rule.proxy(&server).unwrap().map(|proxy| proxy.to_string()))
    };
    let (spared, other, here) = ("https://api.rocketride.ai", "https://other.example", "http://127.0.0.1:5565");
    assert_eq!(proxy(MINIMAL, &env, spared), None);
    assert_eq!(proxy(MINIMAL, &env, here), None);
    assert_eq!(proxy(MINIMAL, &env, other).as_deref(), Some("http://env.example:1"));
    assert_eq!(proxy(&with("[server]", "proxy = \"\""), &env, other).as_deref(), Some("http://env.example:1"));
    assert_eq!(proxy(MINIMAL, &Environment::default(), other), None);
    let written = with("[server]", "proxy = \"http://written.example:2\"");
    for server in [spared, other, here] {
        assert_eq!(proxy(&written, &env, server).as_deref(), Some("http://written.example:2"));
    }
    // What is wrong with the environment does not make the file wrong.
    let env = Environment { https_proxy: Some("socks5://u:s3cret@h".into()), ..Environment::default() };
    let rule = Config::parse(MINIMAL, origin(), &env).unwrap().pipelines[0].proxy.clone().unwrap();
    let error = rule.proxy(&ServiceUri::parse(other).unwrap()).unwrap_err().to_string();
    assert!(error.contains("$HTTPS_PROXY") && !error.contains("s3cret"), "{error}");
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
    fs::write(&path, with("[server]", "proxy = \"http://u:s3cret@h\"")).unwrap();
    let error = load(0o644).unwrap_err().to_string();
    assert!(error.contains("chmod 0600") && error.contains("server.proxy") && !error.contains("s3cret"), "{error}");
    load(0o600).unwrap();
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
fn a_results_directory_is_relative_to_its_watch_and_may_lie_inside_it() {
    for (written, meant) in
        [("out", "/srv/drop/invoices/out"), ("../out", "/srv/drop/out"), ("/data/./out", "/data/out")]
    {
        let config = good(&with("[watch.results]", &format!("directory = {written:?}")));
        assert_eq!(config.watches[0].results.directory.as_deref(), Some(Path::new(meant)), "{written}");
        assert_eq!(config.watches[0].outputs().collect::<Vec<_>>(), [Path::new(meant)]);
    }
    assert_eq!(good(&with("[watch.results]", "directory = \"\"")).watches[0].results.directory, None);
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
