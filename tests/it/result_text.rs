//! `text = true`: the text of an answer stands beside its result in a file of its own, and goes where that goes.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::audit::{audit, found};
use crate::harness::{Host, files_beneath, running, sha256, wait_for};

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}

const TEXT: &str = "[watch.results]\ntext = true";

/// The text stands there as its result says, which says it whole.
fn assert_text_of(host: &Host, rel: &str, text: &str) {
    let text = read(host.inbox().join(text));
    let result = host.result(rel).unwrap();
    assert_eq!(result["text_sha256"], sha256(&text));
    assert_eq!(result["result"]["text"][0], *text);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_text_stands_there_once_the_result_does_and_follows_a_new_one() {
    let (host, _engine, daemon) = running(TEXT).await;
    let input = host.write("in/sub/a.txt", "one");
    std::fs::set_permissions(&input, std::fs::Permissions::from_mode(0o640)).unwrap();
    host.has_result_of("sub/a.txt", "one").await;
    assert_text_of(&host, "sub/a.txt", "sub/a.txt.result.txt");
    let mode = |name: &str| host.inbox().join(name).metadata().unwrap().permissions().mode();
    assert_eq!(mode("sub/a.txt.result.txt"), mode("sub/a.txt.result.json"));

    host.write("in/sub/a.txt", "two words");
    host.has_result_of("sub/a.txt", "two words").await;
    assert_text_of(&host, "sub/a.txt", "sub/a.txt.result.txt");
    assert_eq!(files_beneath(&host.inbox()), ["sub/a.txt", "sub/a.txt.result.json", "sub/a.txt.result.txt"]);

    // Without the wish for it, the text of what is no longer the result goes too.
    daemon.stop().await;
    host.edit_config("text = true", "text = false");
    let daemon = host.start();
    host.write("in/sub/a.txt", "three more words");
    host.has_result_of("sub/a.txt", "three more words").await;
    wait_for("the old text to go", || !host.inbox().join("sub/a.txt.result.txt").exists()).await;
    assert!(host.result("sub/a.txt").unwrap().get("text_sha256").is_none());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_of_others_is_never_overwritten_and_an_edited_one_is_theirs() {
    let (host, engine, daemon) = running(TEXT).await;
    host.write("in/a.txt.result.txt", "mine");
    host.write("in/a.txt", "one");
    host.has_result_of("a.txt", "one").await;
    assert_text_of(&host, "a.txt", "a.txt~2.result.txt");
    host.write("in/a.txt~2.result.txt", "edited");
    host.write("in/a.txt", "two");
    host.has_result_of("a.txt", "two").await;
    assert_text_of(&host, "a.txt", "a.txt~3.result.txt");
    assert_eq!(read(host.inbox().join("a.txt.result.txt")), "mine");
    assert_eq!(read(host.inbox().join("a.txt~2.result.txt")), "edited");
    assert_eq!(engine.delivered(), 2, "no text is ever sent");
    daemon.stop().await;
    // The audit knows which of them is ours.
    let strange = |name: &str| format!("{name}: not ours, and never sent, because of its name");
    let mut found = found(&audit(&host).await);
    found.sort();
    assert_eq!(found, [strange("a.txt.result.txt"), strange("a.txt~2.result.txt")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_input_takes_result_and_text_along() {
    let (host, _engine, daemon) = running(&format!("on_success = {{ move = \"done\" }}\n{TEXT}")).await;
    host.write("in/a.txt", "one");
    host.write("in/done/c.txt.result.txt", "mine");
    host.write("in/c.txt", "three");
    let done = host.inbox().join("done");
    let results = ["a.txt", "c.txt"].map(|name| done.join(format!("{name}.result.json")));
    wait_for("all to be moved", || results.iter().all(|path| path.exists())).await;
    let expected = [
        "done/a.txt",
        "done/a.txt.result.json",
        "done/a.txt.result.txt",
        "done/c.txt",
        "done/c.txt.result.json",
        "done/c.txt.result.txt",
        "done/c.txt~2.result.txt",
    ];
    assert_eq!(files_beneath(&host.inbox()), expected);
    assert_eq!(read(done.join("c.txt.result.txt")), "mine");
    daemon.stop().await;
}
