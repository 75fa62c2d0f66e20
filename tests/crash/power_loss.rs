//! What is called durable is durable: the calls of real runs, as the kernel saw them, judged by `order`.
//!
//! Needs strace and a kernel that lets it trace; without them the tests fail, unless `ROCKETRIDE_INGEST_NO_STRACE` says
//! that this is known.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::order::Order;
use crate::stage::{End, Stage};
use crate::trace::{Act, CALLS, Call, parse};

/// The calls of a run to its end; `None` if there is not to be a trace.
fn traced(stage: &Stage) -> Option<Vec<Call>> {
    if std::env::var_os("ROCKETRIDE_INGEST_NO_STRACE").is_some() {
        eprintln!("SKIPPED, as ROCKETRIDE_INGEST_NO_STRACE says: nothing is known of what a power cut leaves");
        return None;
    }
    let daemon = stage.host.command(&["run", "--once"]);
    let trace = stage.host.path("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-s", "1000000", "-e", CALLS, "-o"]).arg(&trace);
    strace.arg(daemon.get_program()).args(daemon.get_args());
    for (name, value) in daemon.get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    let output = strace.output().unwrap_or_else(|error| {
        panic!("cannot run strace: {error}; install it, or set ROCKETRIDE_INGEST_NO_STRACE=1 to do without this test")
    });
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        !stderr.contains("ptrace") && !stderr.contains("strace:"),
        "strace cannot trace here (set ROCKETRIDE_INGEST_NO_STRACE=1 to do without this test): {stderr}"
    );
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}: {stderr}", output.status);
    Some(parse(&std::fs::read_to_string(trace).unwrap()))
}

/// Judges a run from here to its end.
fn judge(stage: &Stage, inputs: &[PathBuf], recorded: bool) {
    judge_with(&stage.host.path("state"), stage, inputs, recorded);
}

/// As [`judge`], with the state directory elsewhere.
fn judge_with(directory: &Path, stage: &Stage, inputs: &[PathBuf], recorded: bool) {
    let Some(calls) = traced(stage) else { return };
    let host = stage.host.path("");
    let syncs = calls.iter().filter(|call| matches!(call.act, Act::Sync(_))).count();
    assert!(syncs > 2, "only {syncs} syncs were seen among {} calls", calls.len());
    let found = Order { calls: &calls, host: &host, state: directory, inputs, recorded }.violations();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_run_makes_everything_durable_in_the_right_order() {
    let stage = Stage::new(End::ALL).await;
    judge(&stage, &stage.inputs(), false);
    stage.settle().await.unwrap();
    // And one with nothing to do: what it opens and closes.
    judge(&stage, &[], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn results_that_are_made_durable_together_are_so_before_the_journal_is_told_of_any() {
    let stage = Stage::new(&[End::Keep]).await;
    let (mut inputs, folder) = (stage.inputs(), stage.input(End::Keep));
    for n in 0..30 {
        let path = folder.with_file_name(format!("together-{n:02}.txt"));
        std::fs::write(&path, path.as_os_str().as_encoded_bytes()).unwrap();
        inputs.push(path);
    }
    judge(&stage, &inputs, false);
    for input in inputs {
        let result = PathBuf::from(format!("{}.result.json", input.display()));
        assert!(result.is_file(), "{}", result.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_post_action_alone_is_durable_before_the_journal_says_so() {
    for end in [End::Delete, End::Move] {
        let stage = Stage::new(&[end]).await;
        judge(&stage, &stage.inputs(), false);
        stage.settle().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_outside_the_watch_is_made_durable_with_all_folders_above_it() {
    let stage = Stage::new(&[End::Move]).await;
    let target = stage.host.path("archive/of/this year");
    stage.host.edit_config("move = \"done\"", &format!("move = \"{}\"", target.display()));
    judge(&stage, &stage.inputs(), false);
    assert!(target.join("sub/move.txt.result.json").is_file());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_directory_is_made_durable_with_all_folders_above_it() {
    let stage = Stage::new(&[End::Keep]).await;
    let elsewhere = stage.host.path("var/lib/state");
    stage.host.edit_config(&stage.host.path("state").display().to_string(), &elsewhere.display().to_string());
    judge_with(&elsewhere, &stage, &stage.inputs(), false);
    assert!(elsewhere.join("journal/db").is_file());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_a_crash_left_is_made_durable_before_it_is_adopted() {
    for (end, point, journal_is_lost) in [
        (End::Keep, "sidecar.renamed", false),
        (End::Keep, "sidecar.renamed", true),
        (End::Delete, "sidecar.renamed", false),
        (End::Move, "sidecar.renamed", true),
    ] {
        let mut stage = Stage::new(&[end]).await;
        assert!(stage.killed_at(point).await.unwrap());
        if journal_is_lost {
            std::fs::remove_dir_all(stage.host.path("state/journal")).unwrap();
        }
        judge(&stage, &stage.inputs(), false);
        stage.settle().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_action_that_a_crash_left_half_done_is_made_durable_by_the_next_start() {
    for (end, point) in [
        (End::Delete, "after.hidden"),
        (End::Delete, "after.unlinked"),
        (End::Move, "after.hidden"),
        (End::Move, "directory.made"),
        (End::Move, "after.moved"),
        (End::Move, "after.result-moved"),
    ] {
        let mut stage = Stage::new(&[end]).await;
        assert!(stage.killed_at(point).await.unwrap());
        judge(&stage, &stage.inputs(), true);
        stage.settle().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_whose_first_opening_was_killed_is_durable_before_it_is_said_to_be_there() {
    for point in ["state.made", "journal.database-opened", "journal.flushed", "journal.synced", "state-file.created:2"]
    {
        let mut stage = Stage::new(&[End::Keep]).await;
        assert!(stage.killed_at(point).await.unwrap());
        judge(&stage, &stage.inputs(), false);
    }
}
