//! Every point between two durable steps: killed there, the next start finishes what was begun, and repeats nothing that
//! was finished.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use rocketride_ingest::crash::POINTS;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::plan::{Case, Step, at_first_starts, at_later_starts, randomly};
use crate::stage::Stage;

/// Daemons at a time; they mostly wait.
const AT_A_TIME: usize = 8;

/// Plays a case, to the end and the checks.
async fn play(case: &Case) -> Result<(), String> {
    let mut stage = Stage::new(&case.ends).await;
    for step in &case.steps {
        match step {
            Step::Crash(point) if stage.killed_at(point).await? => {}
            Step::Crash(point) => return Err(format!("it never came to {point}")),
            Step::MayCrash(point) => drop(stage.killed_at(point).await?),
            Step::Run => stage.run().await?,
            Step::Do(_, change) => change(&mut stage),
        }
    }
    stage.settle().await
}

/// Plays all cases, some at a time, and says which of them failed.
async fn play_all(cases: Vec<Case>) {
    let places = Arc::new(Semaphore::new(AT_A_TIME));
    let (mut running, count) = (JoinSet::new(), cases.len());
    for case in cases {
        let places = places.clone();
        running.spawn(async move {
            let _place = places.acquire_owned().await.unwrap();
            let name = case.to_string();
            let outcome = tokio::spawn(async move { play(&case).await }).await;
            outcome.unwrap_or_else(|panic| Err(panic.to_string())).map_err(|why| format!("{name}: {why}"))
        });
    }
    let failed: Vec<String> = running.join_all().await.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{} of {count} cases failed:\n\n{}", failed.len(), failed.join("\n\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_point_of_a_first_start_loses_nothing_and_repeats_nothing_that_was_finished() {
    play_all(at_first_starts()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_while_an_earlier_one_is_recovered_from_harms_no_more() {
    play_all(at_later_starts()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn crashes_at_random_points_one_after_the_other_harm_no_more() {
    play_all(randomly()).await;
}

#[test]
fn the_plan_visits_every_point_there_is() {
    let cases = at_first_starts().into_iter().chain(at_later_starts());
    let steps: Vec<Step> = cases.flat_map(|case| case.steps).collect();
    let visited: BTreeSet<&str> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Crash(point) => point.split(':').next(),
            _ => None,
        })
        .collect();
    assert_eq!(visited, POINTS.iter().copied().collect());
}

/// The names of the points in the sources, each of them once.
#[test]
fn the_table_lists_the_points_that_the_sources_have() {
    let mut called = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = std::fs::read_to_string(path).unwrap();
                let calls = text.split("crash::point(\"").skip(1).map(|rest| rest.split('"').next().unwrap());
                called.extend(calls.map(str::to_owned));
            }
        }
    }
    called.sort();
    let mut listed = POINTS.to_vec();
    listed.sort_unstable();
    assert_eq!(called, listed);
}
