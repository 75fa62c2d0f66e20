//! Secrets stay where the operator put them: nothing that the daemon says or writes has one.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use rocketride_ingest::sandbox::{Effect, Rule};

use std::process::{Command, Stdio};

use crate::harness::{Host, KEY, engine, wait_for};

/// Everything that the configuration accepts, at its loudest; also the crates that are quiet by default.
const LOUDEST: &str = "trace,governor=trace,hyper=trace,mio=trace,notify=trace,rustls=trace,sled=trace,tokio=trace,\
                       tokio_tungstenite=trace,tungstenite=trace";

/// All files beneath a folder; a socket holds nothing.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else if entry.file_type().unwrap().is_file() {
            found.push(entry.path());
        }
    }
    found
}

fn holds(bytes: &[u8], secret: &str) -> bool {
    bytes.windows(secret.len()).any(|window| window == secret.as_bytes())
}

fn process(pid: u32, what: &str) -> Vec<u8> {
    std::fs::read(format!("/proc/{pid}/{what}")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_anything_that_the_daemon_says_or_writes() {
    let (host, engine) = (Host::new(), engine().await);
    let (tokens, locked) = (engine.start_task("by-token", 4), engine.start_task("by-key", 4));
    host.write_secret("token", &tokens.token);
    host.write_secret("locked-key", &locked.token);
    host.write_secret("public-key", &locked.public);
    host.write_secret("wrong-key", "not-a-key-of-anybody-0815");
    let mut extra = String::new();
    for (pipeline, lines) in [
        ("token", "token_file = \"token\""),
        ("locked", "api_key_file = \"locked-key\""),
        ("public", "api_key_file = \"public-key\""),
        ("wrong", "file = \"test.pipe\"\napi_key_file = \"wrong-key\""),
    ] {
        let folder = host.path(format!("in-{pipeline}"));
        std::fs::create_dir(&folder).unwrap();
        writeln!(
            extra,
            "[pipelines.{pipeline}]\n{lines}\n[[watch]]\npath = {folder:?}\npipeline = {pipeline:?}\nsettle = \"300ms\"\n"
        ).unwrap();
        host.write(folder.join("a.txt"), "content of a file");
        host.write(folder.join("bad.txt"), "content of a bad file");
    }
    host.configure_with(&engine.uri(), "request_timeout = \"2s\"", &extra);
    host.edit_config("info,rocketride_ingest=debug", LOUDEST);
    engine.faults().add(Rule::close(Effect::NodeError { message: "no".into() }).object("bad*"));
    engine.faults().add(Rule::write(Effect::CutBefore).times(1));
    engine.faults().add(Rule::command("rrext_get_task_status", Effect::Hang).after(3).times(1));
    host.write("in/a.txt", "content of a file");

    let daemon = host.start();
    let done = |rel: &str| host.path(rel).exists();
    for pipeline in ["token", "locked", "public"] {
        wait_for(pipeline, || done(&format!("in-{pipeline}/a.txt.result.json"))).await;
        wait_for(pipeline, || done(&format!("in-{pipeline}/bad.txt.error.json"))).await;
    }
    wait_for("the file of the account", || host.result("a.txt").is_some()).await;
    daemon.logged("Invalid API key").await;
    // A task that goes and comes, and a token that went.
    assert!(engine.forget_task(&tokens.token));
    host.write("in-token/late.txt", "late");
    daemon.logged("Your pipeline is not running").await;
    engine.start_task("by-token", 4);
    wait_for("the late one", || done("in-token/late.txt.result.json")).await;
    tokio::time::sleep(Duration::from_millis(300)).await;

    let own = engine.tasks().into_iter().map(|(tokens, _)| tokens);
    let mut secrets = vec![KEY.to_owned(), "not-a-key-of-anybody-0815".into()];
    secrets.extend(own.flat_map(|tokens| [tokens.token, tokens.public]));
    let (command_line, environment) = (process(daemon.pid(), "cmdline"), process(daemon.pid(), "environ"));
    daemon.stop().await;

    let log = std::fs::read(host.path("daemon.log")).unwrap();
    assert!(holds(&log, "\"level\":\"TRACE\""), "the log was loud");
    let kept = ["key", "token", "locked-key", "public-key", "wrong-key"].map(|name| host.path(name));
    let written: Vec<_> = files(&host.path("")).into_iter().filter(|path| !kept.contains(path)).collect();
    assert!(written.iter().any(|path| path.starts_with(host.path("state"))), "the journal is among them");
    for secret in secrets {
        assert!(!holds(&command_line, &secret), "{secret} on the command line");
        assert!(!holds(&environment, &secret), "{secret} in the environment");
        for path in &written {
            assert!(!holds(&std::fs::read(path).unwrap(), &secret), "{secret} in {}", path.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_in_the_configuration_is_refused_where_others_can_read_it_and_never_shown() {
    use std::os::unix::fs::PermissionsExt;
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    host.edit_config("api_key_file = \"key\"", &format!("api_key = \"{KEY}\""));
    let mode =
        |mode| std::fs::set_permissions(host.path("config.toml"), std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o644);
    let (code, stdout, stderr) = host.output(&["run"]);
    assert_eq!(code, 78);
    assert!(stderr.contains("api_key") && stderr.contains("0600"), "{stderr}");
    assert!(!stderr.contains(KEY) && !stdout.contains(KEY), "{stderr}");

    mode(0o600);
    let daemon = host.start();
    let names = host.drop_files("f", 1);
    host.all_have_results(&names).await;
    assert!(!daemon.log().contains(KEY));
    daemon.stop().await;
}

/// The whole life of a connection, at its loudest, in a shape of the log that people read.
#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_a_log_for_people_either() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure_with(&engine.uri(), "request_timeout = \"2s\"", "");
    host.edit_config("info,rocketride_ingest=debug", LOUDEST);
    host.edit_config("format = \"json\"", "format = \"pretty\"");
    engine.faults().add(Rule::close(Effect::NodeError { message: "no".into() }).object("bad*"));
    engine.faults().add(Rule::close(Effect::CutBefore).object("cut*").times(1));
    let refused = engine.faults().add(Rule::command(
        "auth",
        // Words of a server that quotes what it was given.
        Effect::Refuse { message: format!("unknown credential {KEY}"), code: None },
    ));
    host.write("in/cut.txt", "cut");
    host.write("in/bad.txt", "bad");
    let daemon = host.start();
    daemon.logged("unknown credential <secret>").await;
    engine.faults().remove(refused);
    wait_for("the result", || host.result("cut.txt").is_some()).await;
    wait_for("the error file", || host.error("bad.txt").is_some()).await;
    let task = engine.tasks()[0].0.clone();
    assert!(engine.kill_task(&task.token));
    host.write("in/late.txt", "late");
    wait_for("the late one", || host.result("late.txt").is_some()).await;
    let tokens: Vec<_> = engine.tasks().into_iter().map(|(task, _)| task).chain([task]).collect();
    daemon.stop().await;

    let secrets = tokens.into_iter().flat_map(|task| [task.token, task.public]).chain([KEY.into()]);
    let written: Vec<_> = files(&host.path("")).into_iter().filter(|path| *path != host.path("key")).collect();
    for secret in secrets {
        for path in &written {
            assert!(!holds(&std::fs::read(path).unwrap(), &secret), "{secret} in {}", path.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_anything_that_send_says() {
    let (host, engine) = (Host::new(), engine().await);
    let locked = engine.start_task("by-token", 4);
    host.write("good.txt", "good");
    host.write("bad.txt", "bad");
    host.write_secret("token", &locked.token);
    engine.faults().add(Rule::close(Effect::NodeError { message: "no".into() }).object("bad*"));
    let mut said = Vec::new();
    let mut send = |key: &str, args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rocketride-ingest"));
        command.current_dir(host.path("")).arg("send").args(args).args(["good.txt", "bad.txt"]).stdin(Stdio::null());
        for variable in ["ROCKETRIDE_TOKEN", "ROCKETRIDE_INGEST_CONFIG", "HTTPS_PROXY", "https_proxy"] {
            command.env_remove(variable);
        }
        let output = command.env("ROCKETRIDE_URI", engine.uri()).env("ROCKETRIDE_APIKEY", key).output().unwrap();
        said.push((format!("{args:?}"), output.stdout));
        said.push((format!("{args:?}"), output.stderr));
        output.status.code()
    };
    for format in ["pretty", "json"] {
        for extra in [&[][..], &["--http"], &["--json"]] {
            let loud = [&["--log-level", LOUDEST, "--log-format", format], extra].concat();
            let by_token = [&loud[..], &["--token-file", "token"]].concat();
            assert_eq!(send(KEY, &by_token), Some(1), "one of them fails: {by_token:?}");
            assert_ne!(send("not-a-key-of-anybody-0815", &by_token), Some(0), "{by_token:?}");
            // By HTTP a pipeline can only be started anew, and this one runs after the first time.
            if extra != ["--http"] {
                assert_eq!(send(KEY, &[&loud[..], &["--pipeline", "test.pipe"]].concat()), Some(1));
            }
        }
    }
    let secrets = engine.tasks().into_iter().flat_map(|(task, _)| [task.token, task.public]);
    let secrets: Vec<_> =
        secrets.chain([KEY.to_owned(), "not-a-key-of-anybody-0815".into(), locked.token, locked.public]).collect();
    assert!(said.iter().any(|(_, text)| holds(text, "TRACE")), "it was loud");
    for (what, text) in &said {
        for secret in &secrets {
            assert!(!holds(text, secret), "{secret} in what send {what} says: {}", String::from_utf8_lossy(text));
        }
    }
}
