//! The command line: what an operator types, what is answered, and the exit code.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use crate::harness::{Daemon, Host, KEY, engine, read_json, wait_for};

const COMMANDS: [&str; 4] = ["run", "check", "sandbox", "demo"];

/// Every path beneath a folder, with what a write would change.
fn snapshot(dir: &Path) -> Vec<(PathBuf, u64, SystemTime)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        all.push((entry.path(), metadata.len(), metadata.modified().unwrap()));
        if metadata.is_dir() {
            all.extend(snapshot(&entry.path()));
        }
    }
    all.sort();
    all
}

/// The value of `uri = "..."` in a demo's configuration.
fn demo_uri(dir: &Path) -> String {
    let text = std::fs::read_to_string(dir.join("config.toml")).unwrap();
    text.split_once("uri = \"").unwrap().1.split_once('"').unwrap().0.to_owned()
}

fn in_dir(dir: &Path) -> [&str; 3] {
    ["demo", "--dir", dir.to_str().unwrap()]
}

#[test]
fn every_command_explains_itself() {
    let host = Host::new();
    let (code, out, _) = host.output(&["--help"]);
    assert_eq!(code, 0);
    for command in COMMANDS {
        assert!(out.contains(&format!("  {command} ")), "{command} is not in:\n{out}");
        let (code, out, error) = host.output(&[command, "--help"]);
        assert_eq!(code, 0, "{error}");
        assert!(out.contains("Usage: rocketride-ingest") && out.contains(command), "{out}");
    }
    let (code, out, _) = host.output(&["--version"]);
    assert_eq!((code, out.trim()), (0, concat!("rocketride-ingest ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn a_wrong_command_line_exits_64() {
    let host = Host::new();
    for args in
        [&["frobnicate"][..], &[], &["run", "--twice"], &["--log-level", "inof", "run"], &["sandbox", "--listen", "x"]]
    {
        let (code, out, error) = host.output(args);
        assert_eq!(code, 64, "{args:?}: {error}");
        assert!(out.is_empty() && !error.is_empty(), "{args:?}: {out}{error}");
    }
}

#[test]
fn a_demo_delivers_its_samples_and_leaves_everything_to_look_at() {
    let host = Host::new();
    let dir = host.path("a demo");
    let [demo, flag, path] = in_dir(&dir);
    let (code, out, error) = host.output(&[demo, flag, path, "--once"]);
    assert_eq!(code, 0, "{out}{error}");
    assert!(error.is_empty() && !out.contains('\u{1b}'), "{out}{error}");
    let samples = ["welcome.txt", "Grüße aus Köln.txt", "empty.txt", "rocket.png", "2026/march/report.txt"];
    for sample in samples {
        let result = read_json(&dir.join("inbox").join(format!("{sample}.result.json"))).unwrap();
        assert_eq!(result["action"], "complete");
        assert!(out.contains(&format!("  ok      {sample}")), "{sample} is not in:\n{out}");
        assert!(out.contains(&format!("-> inbox/{sample}.result.json")), "{out}");
    }
    assert!(out.contains("9 of 9 sample files have their result."), "{out}");
    assert!(out.contains("welcome.txt.result.json'"), "it says how to look at one: {out}");
    assert!(dir.join("demo.pipe").exists() && dir.join("state").is_dir());

    // Once more in the same folder: nothing is new, and that is no failure.
    let before = snapshot(&dir.join("inbox"));
    let (code, out, error) = host.output(&[demo, flag, path, "--once"]);
    assert_eq!(code, 0, "{out}{error}");
    assert!(out.contains("0 files delivered"), "{out}");
    assert_eq!(before, snapshot(&dir.join("inbox")));
}

#[test]
fn a_demo_never_touches_what_is_in_its_folder() {
    let host = Host::new();
    let mine = [
        ("d/config.toml", "mine = true\n"),
        (
            "d/demo.pipe",
            r#"{"project_id": "mine", "source": "w", "components": [{"id": "w", "provider": "webhook", "config": {}}]}"#,
        ),
        ("d/inbox/welcome.txt", "my own words"),
        ("d/inbox/order.json.result.json", "mine too"),
        ("d/notes", "n"),
    ];
    for (path, content) in mine {
        host.write(path, content);
    }
    let [demo, flag, path] = ["demo", "--dir", "d"];
    let output = host.command(&[demo, flag, path, "--once"]).current_dir(host.path("")).output().unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{out}{}", String::from_utf8_lossy(&output.stderr));
    for (path, content) in mine {
        assert_eq!(std::fs::read_to_string(host.path(path)).unwrap(), content, "{path}");
    }
    assert!(out.contains("config.toml was there already"), "{out}");
    let result = read_json(&host.path("d/inbox/welcome.txt.result.json")).unwrap();
    assert_eq!(result["file_size"], "my own words".len());
    assert!(host.path("d/inbox/order.json~2.result.json").exists(), "a stranger's file at a result's name stays");
}

#[tokio::test]
async fn a_demo_goes_on_watching_until_it_is_interrupted() {
    let host = Host::new();
    let dir = host.path("demo");
    let mut demo = host.start_with(&in_dir(&dir));
    demo.logged("drop a file into the inbox").await;
    host.write("demo/inbox/new/dropped by me.txt", "one two\n");
    demo.logged("-> inbox/new/dropped by me.txt.result.json").await;
    assert!(demo.log().contains("1 line, 2 words"), "{}", demo.log());

    // Its configuration works for other commands while it runs, and only one of them may have the folder.
    let config = dir.join("config.toml");
    let (code, out, error) = with_config(&host, &config, &["check"]);
    assert_eq!(code, 0, "{out}{error}");
    assert!(out.contains("a daemon runs on it now"), "{out}");
    assert_eq!(host.output(&in_dir(&dir)).0, 75);

    demo.signal("INT");
    let status = demo.ended().await;
    assert_eq!(status.code(), Some(0), "{}", demo.log());
    assert!(demo.log().contains("10 files delivered"), "{}", demo.log());
    let port_free = std::net::TcpStream::connect(demo_uri(&dir).trim_start_matches("http://")).is_err();
    assert!(port_free, "the engine is gone");
}

fn with_config(host: &Host, config: &Path, args: &[&str]) -> (i32, String, String) {
    let mut all = vec!["--config", config.to_str().unwrap()];
    all.extend(args);
    let mut command = Command::new(env!("CARGO_BIN_EXE_rocketride-ingest"));
    let output = command.args(all).current_dir(host.path("")).env_remove("CREDENTIALS_DIRECTORY").output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn check_finds_a_good_host_good_and_changes_nothing() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    host.write("in/deep/a.txt", "hello\n");
    host.write("in/.hidden", "x");
    let before = snapshot(&host.path(""));
    for args in [&["check"][..], &["check", "--offline"]] {
        let (code, out, error) = host.output(args);
        assert_eq!(code, 0, "{out}{error}");
        assert!(out.contains("all is well: 0 errors, 0 warnings") && error.is_empty(), "{out}{error}");
        assert!(out.contains("1 matching file, 6 B, in 2 folders; left alone: 1 by junk"), "{out}");
        assert!(out.contains("does not exist yet; the daemon makes it"), "{out}");
        assert!(out.contains("uid ") && !out.contains(KEY), "{out}");
        assert_eq!(out.contains("connected and logged in"), args.len() == 1, "{out}");
    }
    assert_eq!(before, snapshot(&host.path("")), "nothing was written");
    assert!(engine.opens().is_empty() && engine.tasks().is_empty(), "nothing was sent, no task was started");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_judges_a_running_task_by_its_token() {
    let (host, engine) = (Host::new(), engine().await);
    let tokens = engine.start_task("elsewhere", 4);
    host.write_secret("token", &tokens.token);
    let config = std::fs::read_to_string(host.configure(&engine.uri(), "")).unwrap();
    host.write("config.toml", config.replace("file = \"test.pipe\"", "token_file = \"token\""));
    let (code, out, error) = host.output(&["check"]);
    assert_eq!(code, 0, "{out}{error}");
    assert!(out.contains("the task is running") && !out.contains(&tokens.token), "{out}");

    host.write_secret("token", "tk_of_nothing");
    let (code, out, _) = host.output(&["check"]);
    assert_eq!(code, 69, "{out}");
    assert!(out.contains("start the task"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_what_the_host_lacks() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    std::fs::remove_dir(host.inbox()).unwrap();
    let (code, out, _) = host.output(&["check"]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("error    the folder does not exist: create it"), "{out}");

    std::fs::create_dir(host.inbox()).unwrap();
    std::fs::set_permissions(host.path("key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let (code, out, _) = host.output(&["check"]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("chmod o-rwx") && out.contains("0644"), "{out}");

    std::fs::remove_file(host.path("key")).unwrap();
    let (code, out, _) = host.output(&["check", "--offline"]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("the API key is missing: create"), "{out}");

    host.write_secret("key", KEY);
    host.write("test.pipe", "{\n  oops");
    let (code, out, _) = host.output(&["check", "--offline"]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("test.pipe: not a pipeline"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_exits_69_when_only_the_server_is_not_to_be_had() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    host.write_secret("key", "wrong-key-0815");
    let (code, out, _) = host.output(&["check"]);
    assert_eq!(code, 69, "{out}");
    assert!(out.contains("authentication failed") && !out.contains("wrong-key-0815"), "{out}");
    assert_eq!(host.output(&["check", "--offline"]).0, 0, "the key itself is in order");

    engine.stop().await;
    let (code, out, _) = host.output(&["check"]);
    assert_eq!(code, 69, "{out}");
    assert!(out.contains("cannot connect to"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_warns_of_filters_and_targets_that_cannot_be_meant() {
    let (host, engine) = (Host::new(), engine().await);
    host.write("in/a.txt", "a");
    for (extra, words) in [
        ("include = [\"*.pdf\"]", "no file matches include and exclude; left alone: 1 by include"),
        ("include = [\"*\"]", "include matches every name"),
        ("exclude = [\"**\"]", "exclude matches every name"),
        ("max_size = \"0.5B\"", ""),
    ] {
        host.configure(&engine.uri(), extra);
        let (code, out, error) = host.output(&["check", "--offline"]);
        if words.is_empty() {
            assert_eq!(code, 78, "{out}{error}");
            continue;
        }
        assert_eq!(code, 0, "{out}{error}");
        assert!(out.contains(&format!("warning  {words}")) && out.contains("0 errors, 1 warning"), "{out}");
    }

    // The same folder through a link: the text cannot show it.
    std::os::unix::fs::symlink(host.inbox(), host.path("link")).unwrap();
    let second = format!("[[watch]]\npath = \"{}\"\npipeline = \"test\"", host.path("link").display());
    host.configure(&engine.uri(), &second);
    let (code, out, _) = host.output(&["check", "--offline"]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("same folder as that of watch \"in\""), "{out}");
}

#[test]
fn a_wrong_file_exits_78_with_the_place() {
    let host = Host::new();
    let inbox = host.inbox();
    let inner = format!("[[watch]]\nname = \"inner\"\npath = \"{}/x\"\npipeline = \"test\"", inbox.display());
    for (uri, extra, words) in [
        ("http://127.0.0.1:1", "colour = \"red\"", "colour"),
        ("http://127.0.0.1:1", inner.as_str(), "lies inside watch \"in\""),
        ("http://127.0.0.1:1", "[[watch]]\npath = \"/srv/x\"\npipeline = \"nope\"", "no pipeline \"nope\""),
        ("http://example.com:1", "", "unencrypted"),
        ("ftp://127.0.0.1", "", "scheme"),
    ] {
        let config = host.configure(uri, extra);
        for command in [&["check", "--offline"][..], &["run", "--once"]] {
            let (code, out, error) = host.output(command);
            assert_eq!(code, 78, "{command:?} {extra}: {out}{error}");
            assert!(error.contains(words), "{words:?} is not in: {error}");
            let place = error.split_once(&format!("{}:", config.display())).unwrap().1;
            if !extra.is_empty() {
                let numbers: Vec<_> = place.splitn(3, ':').take(2).map(str::parse::<u32>).collect();
                assert!(numbers.iter().all(Result::is_ok), "no line and column in: {error}");
            }
        }
    }
    let (code, _, error) = with_config(&host, &host.path("none.toml"), &["check"]);
    assert_eq!(code, 78);
    assert!(error.contains("none.toml"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_on_one_state_directory_exits_75() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    let daemon = host.start();
    daemon.logged("\"message\":\"ready\"").await;
    let (code, _, error) = host.output(&["run"]);
    assert_eq!(code, 75, "{error}");
    let words = format!("another rocketride-ingest runs on {}", host.path("state").display());
    assert!(error.contains(&words), "{error}");
    daemon.stop().await;
}

#[tokio::test]
async fn a_sandbox_says_where_it_listens_and_stops_when_told() {
    let host = Host::new();
    let sandbox: Daemon =
        host.start_with(&["--log-level", "error", "sandbox", "--listen", "127.0.0.1:0", "--api-key", "k"]);
    wait_for("the first line", || sandbox.log().contains('\n')).await;
    let log = sandbox.log();
    let address = log.lines().next().unwrap().strip_prefix("sandbox listening on http://127.0.0.1:").unwrap();
    let port: u16 = address.parse().unwrap();
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());

    let (code, _, error) = host.output(&["sandbox", "--listen", &format!("127.0.0.1:{port}")]);
    assert_eq!(code, 1, "the port is taken: {error}");
    assert!(error.contains("cannot listen on 127.0.0.1"), "{error}");
    sandbox.stop().await;
}

#[test]
fn config_shows_what_is_in_effect_and_the_schema_of_the_file() {
    let host = Host::new();
    let config = host.configure("http://localhost:5565", "");
    host.write("conf.d/more.toml", "[pipelines.more]\nfile = \"more.pipe\"\n");
    let (code, out, error) = host.output(&["config", "show"]);
    assert_eq!((code, error.as_str()), (0, ""));
    for line in [
        format!("uri = \"http://localhost:5565\"  # {}:2", config.display()),
        "silence_timeout = \"1m\"  # default".to_owned(),
        format!("file = \"{}\"  # {}:2", host.path("more.pipe").display(), host.path("conf.d/more.toml").display()),
    ] {
        assert!(out.lines().any(|shown| shown == line), "{line}\n{out}");
    }
    assert!(out.contains("key") && !out.contains(KEY), "{out}");

    host.write("conf.d/more.toml", "[retry]\nattempts = 1\n");
    for command in [&["config", "show"][..], &["check", "--offline"], &["run", "--once"]] {
        let (code, out, error) = host.output(command);
        let place = format!("{}:1:2: retry: a file in conf.d adds", host.path("conf.d/more.toml").display());
        assert!(code == 78 && error.contains(&place), "{command:?}: {code} {out}{error}");
    }

    let (code, out, _) = host.output(&["config", "schema"]);
    let schema: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &schema["properties"]["server"]["properties"]["ca_file"]["type"]), (0, &"string".into()));
}
