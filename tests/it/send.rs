//! `send`: files from the command line to a pipeline, once, and what is said of them.

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rocketride_ingest::sandbox::{Delivery, Effect, Rule, Sandbox};
use serde_json::Value;

use crate::harness::{Host, KEY, assert_sent_once, engine, sha256, wait_for};

/// The program in the host's directory, without a configuration file, with server and key in the environment.
fn send(host: &Host, engine: &Sandbox, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rocketride-ingest"));
    command.current_dir(host.path("")).arg("send").args(args).stdin(Stdio::null());
    for variable in
        ["ROCKETRIDE_TOKEN", "ROCKETRIDE_INGEST_CONFIG", "HTTPS_PROXY", "https_proxy", "CREDENTIALS_DIRECTORY"]
    {
        command.env_remove(variable);
    }
    command.env("ROCKETRIDE_URI", engine.uri()).env("ROCKETRIDE_APIKEY", KEY);
    command
}

/// Runs it to its end: exit code, standard output, standard error; neither may show the key.
fn end(mut command: Command) -> (i32, String, String) {
    seen(&command.output().unwrap())
}

fn seen(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert!(!out.contains(KEY) && !error.contains(KEY), "{out}{error}");
    assert!(!out.contains('\u{1b}') && !error.contains('\u{1b}'), "bars without a terminal: {out}{error}");
    (output.status.code().unwrap_or(-1), out, error)
}

/// Runs it with this on standard input.
fn end_with_input(mut command: Command, input: &[u8]) -> (i32, String, String) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    seen(&child.wait_with_output().unwrap())
}

fn lines(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"))).collect()
}

fn names(engine: &Sandbox) -> Vec<String> {
    let mut names: Vec<_> = engine.deliveries().into_iter().map(|delivery| delivery.name).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn files_directories_and_patterns_all_arrive_without_a_configuration_file() {
    let (host, engine) = (Host::new(), engine().await);
    for path in ["a.txt", "b.bin", "d/one.txt", "d/deep/two.txt", "d/.hidden", "d/.git/x", "g1.csv", "g2.csv"] {
        host.write(path, format!("content of {path}"));
    }
    let (code, out, error) = end(send(&host, &engine, &["-p", "test.pipe", "a.txt", "b.bin", "d", "g?.csv", "a*"]));
    assert_eq!(code, 0, "{out}{error}");
    assert!(out.starts_with("6 of 6 files delivered") && out.lines().count() == 1, "{out}");
    assert!(error.is_empty(), "{error}");
    assert_eq!(names(&engine), ["a.txt", "b.bin", "g1.csv", "g2.csv", "one.txt", "two.txt"]);
    assert!(engine.deliveries().iter().all(Delivery::complete));
}

#[tokio::test(flavor = "multi_thread")]
async fn json_has_a_line_for_each_file_in_the_order_of_the_arguments() {
    let (host, engine) = (Host::new(), engine().await);
    for name in ["slow.txt", "bad.txt", "good.txt"] {
        host.write(name, "content");
    }
    engine.faults().add(Rule::close(Effect::Delay(Duration::from_secs(1))).object("slow.txt"));
    let message = "the model is out of memory".to_owned();
    engine.faults().add(Rule::close(Effect::NodeError { message }).object("bad.txt"));
    let args = ["-p", "test.pipe", "slow.txt", "gone.txt", "bad.txt", "good.txt"];
    let (code, out, error) = end(send(&host, &engine, &[&args[..], &["--json"]].concat()));
    assert_eq!(code, 1, "{out}{error}");
    let lines = lines(&out);
    let of = |key: &str| lines.iter().map(|line| line[key].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>();
    assert_eq!(of("filepath"), args[2..]);
    assert_eq!(of("action"), ["complete", "error", "error", "complete"]);
    assert_eq!(of("error"), ["", "file not found: gone.txt", "the model is out of memory (1)", ""]);
    assert_eq!((&lines[0]["bytes_sent"], &lines[0]["file_size"]), (&7.into(), &7.into()));
    assert_eq!(lines[0]["result"]["name"], "slow.txt");
    assert!(lines[2]["result"].is_null());
    assert!(out.starts_with(r#"{"action":"complete","filepath":"slow.txt","bytes_sent":7,"#), "{out}");
    for reason in ["gone.txt: file not found", "bad.txt: the model is out of memory", "2 of 4 files delivered"] {
        assert!(error.contains(reason), "{reason:?} is not in {error}");
    }

    // The same for a person.
    let (code, out, error) = end(send(&host, &engine, &args));
    assert_eq!((code, out.starts_with("2 of 4 files delivered")), (1, true), "{out}{error}");
    assert!(error.contains("bad.txt: the model is out of memory") && error.lines().count() == 2, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_input_is_sent_under_its_name() {
    let (host, engine) = (Host::new(), engine().await);
    let text = "Grüße\n".repeat(300_000);
    let args = ["-p", "test.pipe", "-", "--name", "greetings.csv", "-m", "from=pipe", "--json"];
    let (code, out, error) = end_with_input(send(&host, &engine, &args), text.as_bytes());
    assert_eq!(code, 0, "{out}{error}");
    let line = &lines(&out)[0];
    assert_eq!((line["filepath"].as_str(), line["file_size"].as_u64()), (Some("-"), Some(text.len() as u64)));
    let delivery = &engine.deliveries()[0];
    assert!(delivery.complete() && delivery.name == "greetings.csv", "{delivery:?}");
    assert_eq!((delivery.bytes, delivery.mime_type.as_str()), (text.len() as u64, "text/csv"));
    assert_eq!(delivery.object["from"], "pipe");
    assert_eq!((delivery.lost_writes, &delivery.sha256), (0, &sha256(&text)), "no write breaks a character");
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_and_the_mime_type_arrive_and_what_the_engine_refuses_is_refused_here() {
    let (host, engine) = (Host::new(), engine().await);
    host.write("a", "content");
    let args = ["a", "-p", "test.pipe", "--metadata", "customer=acme", "-m", "x=1=2", "--mime", "application/pdf"];
    let (code, out, error) = end(send(&host, &engine, &args));
    assert_eq!(code, 0, "{out}{error}");
    let delivery = &engine.deliveries()[0];
    assert_eq!((&delivery.object["customer"], &delivery.object["x"]), (&"acme".into(), &"1=2".into()));
    assert_eq!(delivery.mime_type, "application/pdf");
    for wrong in [
        &["--metadata", "path=x"][..],
        &["--metadata", "objectId=x"],
        &["--metadata", "nothing"],
        &["-m", "a=1", "-m", "a=2"],
        &["--mime", "pdf"],
        &["--max-concurrent", "0"],
        &["--token-file", "key"],
        &["--uri", "ftp://x"],
    ] {
        let (code, out, error) = end(send(&host, &engine, &[&["a", "-p", "test.pipe"][..], wrong].concat()));
        assert!(code == 64 && out.is_empty() && !error.is_empty(), "{wrong:?}: {code} {out}{error}");
    }
    assert_eq!(engine.delivered(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn four_hundred_files_arrive_with_sixty_four_descriptors() {
    let (host, engine) = (Host::new(), engine().await);
    let files = host.drop_files("f", 400);
    let direct = send(&host, &engine, &["-p", "test.pipe", "in", "--json", "--max-concurrent", "8"]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 64; exec \"$@\"", "sh"]).arg(direct.get_program()).args(direct.get_args());
    limited.current_dir(host.path("")).stdin(Stdio::null());
    limited.env("ROCKETRIDE_URI", engine.uri()).env("ROCKETRIDE_APIKEY", KEY);
    let (code, out, error) = end(limited);
    assert_eq!(code, 0, "{error}");
    let mut sorted: Vec<_> = files.iter().map(|name| format!("in/{name}")).collect();
    sorted.sort();
    assert_eq!(lines(&out).iter().map(|line| line["filepath"].clone()).collect::<Vec<_>>(), sorted);
    assert_sent_once(&engine, &files);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_the_lines_slowly_holds_up_no_file() {
    let (host, engine) = (Host::new(), engine().await);
    let files = host.drop_files("f", 400);
    let mut command = send(&host, &engine, &["-p", "test.pipe", "in", "--json"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Nothing of the lines is read, and a pipe does not hold as many.
    wait_for("all files", || engine.delivered() == 400).await;
    let (code, out, error) = seen(&child.wait_with_output().unwrap());
    assert_eq!((code, lines(&out).len()), (0, files.len()), "{error}");
    assert!(out.len() > 64 * 1024, "{}", out.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_reached_is_said_by_its_exit_code() {
    let (host, engine) = (Host::new(), engine().await);
    host.write("a", "content");
    let args = ["a", "-p", "test.pipe"];
    let mut no_uri = send(&host, &engine, &args);
    let (code, _, error) = end(std::mem::replace(no_uri.env_remove("ROCKETRIDE_URI"), Command::new("true")));
    assert!(code == 64 && error.contains("ROCKETRIDE_URI"), "{code} {error}");
    let mut no_key = send(&host, &engine, &args);
    no_key.env_remove("ROCKETRIDE_APIKEY");
    let (code, _, error) = end(no_key);
    assert!(code == 64 && error.contains("ROCKETRIDE_APIKEY"), "{code} {error}");
    let (code, _, error) = end(send(&host, &engine, &["a"]));
    assert!(code == 64 && error.contains("--pipeline") && error.contains("ROCKETRIDE_TOKEN"), "{code} {error}");
    let (code, _, error) = end(send(&host, &engine, &["a", "-p", "no.pipe"]));
    assert!(code == 64 && error.contains("no.pipe"), "{code} {error}");

    let mut wrong_key = send(&host, &engine, &args);
    wrong_key.env("ROCKETRIDE_APIKEY", "wrong-key-0815");
    let (code, out, error) = end(wrong_key);
    assert!(code == 69 && error.contains("from $ROCKETRIDE_APIKEY") && out.is_empty(), "{code} {out}{error}");
    assert!(!error.contains("0815"), "{error}");
    let mut no_task = send(&host, &engine, &["a"]);
    no_task.env("ROCKETRIDE_TOKEN", "tk_secret_of_nobody");
    let (code, out, error) = end(no_task);
    assert!(code == 69 && error.contains("not running") && out.is_empty(), "{code} {out}{error}");
    assert!(!error.contains("secret_of_nobody"), "{error}");
    let mut no_server = send(&host, &engine, &["a", "-p", "test.pipe", "--uri", "http://127.0.0.1:1"]);
    no_server.env_remove("ROCKETRIDE_URI");
    let (code, _, error) = end(no_server);
    assert!(code == 69 && error.contains("cannot connect"), "{code} {error}");

    // What is not there needs no server to be missed.
    let (code, _, error) = end(send(&host, &engine, &["gone", "-p", "test.pipe", "--uri", "http://127.0.0.1:1"]));
    assert!(code == 1 && error.contains("file not found"), "{code} {error}");
    assert_eq!(engine.delivered(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_task_is_named_by_its_token_or_by_the_key_that_is_locked_to_it() {
    let (host, engine) = (Host::new(), engine().await);
    let tokens = engine.start_task("mine", 4);
    for name in ["a", "b", "c", "d"] {
        host.write(name, "content");
    }
    host.write_secret("token", &format!("{}\n", tokens.token));
    let (code, _, error) = end(send(&host, &engine, &["a", "--token-file", "token"]));
    assert_eq!((code, error.as_str()), (0, ""));
    let mut by_variable = send(&host, &engine, &["b"]);
    by_variable.env("ROCKETRIDE_TOKEN", &tokens.token);
    let (code, _, error) = end(by_variable);
    assert_eq!((code, error.as_str()), (0, ""));
    let mut by_key = send(&host, &engine, &["c"]);
    by_key.env("ROCKETRIDE_APIKEY", &tokens.public);
    let (code, _, error) = end(by_key);
    assert_eq!((code, error.as_str()), (0, ""));
    assert_eq!(names(&engine), ["a", "b", "c"]);
    assert_eq!(engine.tasks().len(), 1, "nothing else was started");

    // Strangers could read it.
    host.write("open-token", &tokens.token);
    let (code, _, error) = end(send(&host, &engine, &["d", "--token-file", "open-token"]));
    assert!(code == 64 && error.contains("chmod") && !error.contains(&tokens.token), "{code} {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dot_env_file_serves_where_the_environment_says_nothing() {
    let (host, engine) = (Host::new(), engine().await);
    host.write("a", "content");
    let without = |args: &[&str]| {
        let mut command = send(&host, &engine, args);
        command.env_remove("ROCKETRIDE_URI").env_remove("ROCKETRIDE_APIKEY");
        command
    };
    let uri = engine.uri();
    host.write(".env", format!("# here\nROCKETRIDE_URI={uri}\nexport ROCKETRIDE_APIKEY=\"{KEY}\"\nOTHER=1\n"));
    let (code, out, error) = end(without(&["a", "-p", "test.pipe"]));
    assert_eq!((code, error.as_str()), (0, ""), "{out}");
    let mut other = without(&["a", "-p", "test.pipe"]);
    other.env("ROCKETRIDE_URI", "http://127.0.0.1:1");
    assert_eq!(end(other).0, 69, "the environment goes first");

    // A line that is none is not shown: it may be half of a secret.
    host.write(".env", format!("ROCKETRIDE_URI={uri}\n{KEY} oops\nROCKETRIDE_APIKEY={KEY}\n"));
    let (code, out, error) = end(without(&["a", "-p", "test.pipe"]));
    assert!(code == 0 && error.contains(".env"), "{code} {out}{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_of_the_configuration_file_brings_its_server_and_key() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    let file = host.write("a", "content");
    let file = file.to_str().unwrap();
    let (code, out, error) = host.output(&["upload", "--pipeline", "test", file]);
    assert_eq!((code, error.as_str()), (0, ""), "{out}");
    assert_eq!(names(&engine), ["a"]);
    assert!(!Path::new(&host.path("state")).exists(), "the daemon's state is left alone");
    let (code, _, error) = host.output(&["send", "--pipeline", "tset", file]);
    assert!(code == 64 && error.contains("test"), "{code} {error}");
    let (code, _, error) = host.output(&["send", "--pipeline", "test", "--uri", "http://elsewhere", file]);
    assert!(code == 64 && error.contains("--uri"), "the key of one server is not for another: {code} {error}");
    host.edit_config("[retry]", "[retri]");
    assert_eq!(host.output(&["send", "--pipeline", "test", file]).0, 78);
    assert_eq!(host.output(&["upload", "--help"]).0, 0);
}

fn interrupt(child: &Child) {
    let status = Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_ends_it_cleanly_and_says_what_was_delivered() {
    let (host, engine) = (Host::new(), engine().await);
    for name in ["1.txt", "2.txt", "3.txt", "4.txt"] {
        host.write(name, "content");
    }
    engine.faults().add(Rule::write(Effect::Hang).object("2.txt"));
    let args = ["-p", "test.pipe", "1.txt", "2.txt", "3.txt", "4.txt", "--max-concurrent", "1", "--json"];
    let mut command = send(&host, &engine, &args);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the second file's pipe", || engine.opens().len() == 2).await;
    interrupt(&child);
    let (code, out, error) = seen(&child.wait_with_output().unwrap());
    assert_eq!(code, 1, "{out}{error}");
    let errors: Vec<_> = lines(&out).iter().map(|line| line["error"].as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!(errors, ["", "interrupted", "not sent: interrupted", "not sent: interrupted"]);
    assert!(error.contains("2.txt: interrupted") && error.contains("2 more files not sent"), "{error}");
    assert!(error.contains("1 of 4 files delivered"), "{error}");
    assert_eq!(names(&engine), ["1.txt"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_away_ends_it_and_the_rest_is_not_begun() {
    let (host, engine) = (Host::new(), engine().await);
    let files = host.drop_files("f", 50);
    engine.faults().add(Rule::write(Effect::Hang).object("f*").after(5));
    let mut command = send(&host, &engine, &["-p", "test.pipe", "in", "--json"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("files in flight", || engine.opens().len() >= 10).await;
    let delivered = engine.delivered();
    engine.abort().await;
    let (code, out, error) = seen(&child.wait_with_output().unwrap());
    assert_eq!(code, 1, "{out}{error}");
    assert_eq!(lines(&out).len(), files.len(), "one line a file, whatever happens");
    assert!(error.contains(&format!("{delivered} of 50 files delivered")), "{error}");
    assert!(error.contains("more files not sent: cannot connect"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_only_http_passes_files_and_standard_input_go_by_http() {
    let (host, engine) = (Host::new(), engine().await);
    host.write("a.bin", [0, 1, 2]);
    host.write("empty.csv", "");
    let args = ["--http", "-p", "test.pipe", "a.bin", "empty.csv", "-", "--name", "in.bin", "--json"];
    let (code, out, error) = end_with_input(send(&host, &engine, &args), b"piped");
    assert_eq!(code, 0, "{out}{error}");
    assert!(lines(&out).iter().all(|line| line["action"] == "complete"), "{out}");
    assert_eq!(names(&engine), ["a.bin", "empty.csv", "in.bin"]);
    assert_eq!(engine.accepted(), 0, "no WebSocket was opened");

    engine.faults().add(Rule::close(Effect::NodeError { message: "the node is out of paper".to_owned() }));
    let token = engine.tasks()[0].0.token.clone();
    let mut again = send(&host, &engine, &["--http", "a.bin"]);
    again.env("ROCKETRIDE_TOKEN", token);
    let (code, out, error) = end(again);
    assert_eq!(code, 1, "{out}{error}");
    assert!(error.contains("the node is out of paper"), "{error}");

    let (code, _, error) = end(send(&host, &engine, &["--http", "-p", "test.pipe", "a.bin", "-m", "k=v"]));
    assert_eq!(code, 64, "HTTP carries no metadata: {error}");
}
