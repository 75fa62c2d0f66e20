//! Credentials and tokens that do not serve: the pipeline is down, the log says what to do, and it is picked up.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use rocketride_ingest::sandbox::{Sandbox, Tokens};

use crate::harness::{Daemon, Host, KEY, assert_sent_once, engine, wait_for};

const DOWN: &str = "pipeline is down; its files wait, at no attempt, until it is up";

/// Long enough for some probes; nothing may happen to the files meanwhile.
async fn nothing_happens_to(host: &Host, names: &[String]) {
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(names.iter().all(|name| host.result(name).is_none() && host.error(name).is_none()));
}

/// Waits until the pipeline is down and returns why.
async fn down(daemon: &Daemon) -> String {
    wait_for("the pipeline to be down", || !daemon.messages(DOWN).is_empty()).await;
    daemon.messages(DOWN)[0]["reason"].as_str().unwrap().to_owned()
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// No file was charged, and every one is delivered once the pipeline is up.
async fn delivered_at_last(host: &Host, daemon: Daemon, engine: &Sandbox, names: &[String]) {
    host.all_have_results(names).await;
    host.assert_delivered_uncharged(names);
    assert_sent_once(engine, names);
    assert_eq!(daemon.messages("pipeline is up again").len(), 1);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_takes_the_pipeline_down_until_it_is_replaced() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    let key = host.write_secret("key", "not-the-key-0815");
    let names = host.drop_files("f", 3);
    let daemon = host.start();
    let reason = down(&daemon).await;
    assert!(reason.contains("Invalid API key") && reason.contains("replace it"), "{reason}");
    assert!(reason.contains(&*key.to_string_lossy()), "it names the file: {reason}");
    nothing_happens_to(&host, &names).await;
    assert!(!daemon.log().contains("not-the-key-0815"));

    host.write_secret("key", KEY);
    delivered_at_last(&host, daemon, &engine, &names).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_every_user_can_read_is_not_used_until_it_is_private() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    chmod(&host.path("key"), 0o644);
    let names = host.drop_files("f", 3);
    let daemon = host.start();
    let reason = down(&daemon).await;
    assert!(reason.contains("0644") && reason.contains("chmod o-rwx"), "{reason}");
    nothing_happens_to(&host, &names).await;
    assert_eq!(engine.accepted(), 0, "it was not even tried");

    chmod(&host.path("key"), 0o640);
    delivered_at_last(&host, daemon, &engine, &names).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_key_takes_the_pipeline_down_until_it_is_there() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    std::fs::remove_file(host.path("key")).unwrap();
    let names = host.drop_files("f", 3);
    let daemon = host.start();
    let reason = down(&daemon).await;
    assert!(reason.contains("missing") && reason.contains("create"), "{reason}");
    nothing_happens_to(&host, &names).await;

    host.write_secret("key", KEY);
    delivered_at_last(&host, daemon, &engine, &names).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_whose_task_does_not_run_takes_the_pipeline_down_until_it_does() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    host.edit_config("file = \"test.pipe\"", "token_file = \"token\"");
    // Tokens are made of the user and the pipeline: a task that starts later has the one that it had before.
    let token = engine.start_task("later", 4).token;
    assert!(engine.forget_task(&token));
    host.write_secret("token", &token);
    let names = host.drop_files("f", 3);
    let daemon = host.start();
    let reason = down(&daemon).await;
    assert!(reason.contains("not running"), "{reason}");
    nothing_happens_to(&host, &names).await;
    assert!(engine.tasks().is_empty(), "a token starts nothing");

    assert_eq!(engine.start_task("later", 4).token, token);
    delivered_at_last(&host, daemon, &engine, &names).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_token_file_is_read_again_after_it_was_replaced() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    host.edit_config("file = \"test.pipe\"", "token_file = \"token\"");
    host.write_secret("token", "tk_of_a_task_of_last_week");
    let names = host.drop_files("f", 3);
    let daemon = host.start();
    assert!(down(&daemon).await.contains("not running"));
    nothing_happens_to(&host, &names).await;
    assert!(!daemon.log().contains("tk_of_a_task_of_last_week"), "a token is a secret");

    host.write_secret("token", &engine.start_task("new", 4).token);
    delivered_at_last(&host, daemon, &engine, &names).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_a_task_serves_without_file_or_token() {
    for of in [|tokens: Tokens| tokens.public, |tokens: Tokens| tokens.token] {
        let (host, engine) = (Host::new(), engine().await);
        host.configure(&engine.uri(), "");
        host.edit_config("file = \"test.pipe\"\n", "");
        let key = of(engine.start_task("mine", 4));
        host.write_secret("key", &key);
        let names = host.drop_files("f", 6);
        let daemon = host.start();
        host.all_have_results(&names).await;
        host.assert_delivered_uncharged(&names);
        assert_sent_once(&engine, &names);
        assert_eq!(engine.pipes_in_use(&engine.tasks()[0].0.token), 0);
        assert!(!daemon.log().contains(&key));
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_a_task_that_ended_takes_the_pipeline_down_and_a_new_one_serves() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    host.edit_config("file = \"test.pipe\"\n", "");
    let old = engine.start_task("mine", 4);
    host.write_secret("key", &old.public);
    let daemon = host.start();
    let first = host.drop_files("first", 2);
    host.all_have_results(&first).await;
    assert!(engine.forget_task(&old.token));
    let names = host.drop_files("f", 3);
    down(&daemon).await;
    nothing_happens_to(&host, &names).await;

    host.write_secret("key", &engine.start_task("another", 4).public);
    host.all_have_results(&names).await;
    host.assert_delivered_uncharged(&names);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_does_not_fit_its_pipeline_says_what_to_change() {
    for (target, key, advice) in
        [("file = \"test.pipe\"", "pk_0123", "use an account key, or remove file"), ("", KEY, "add file or token_file")]
    {
        let (host, engine) = (Host::new(), engine().await);
        host.configure(&engine.uri(), "");
        host.edit_config("file = \"test.pipe\"", target);
        host.write_secret("key", key);
        let daemon = host.start();
        let reason = down(&daemon).await;
        assert!(reason.contains(advice), "{reason}");
        daemon.stop().await;
    }
}
