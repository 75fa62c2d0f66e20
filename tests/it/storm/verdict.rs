//! The verdict: what was dropped, what the engine has, and what stands on disk, compared.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rocketride_ingest::identity::Identity;
use rocketride_ingest::sandbox::Delivery;

use super::dropper::{Ledger, Name};
use crate::harness::{Host, read_json, result_path, sha256};

/// Who wrote the results.
fn identity(host: &Host) -> Identity {
    let instance = std::fs::read_to_string(host.path("state/instance")).unwrap().trim().to_owned();
    Identity { instance, uid: rustix::process::geteuid().as_raw() }
}

fn object_id(identity: &Identity, watches: &[&str], name: &Name) -> String {
    identity.object_id(watches[name.0], &name.1).to_string()
}

/// Every file beneath a folder.
fn files(dir: &Path) -> Vec<PathBuf> {
    let (mut folders, mut files) = (vec![dir.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files
}

/// What was left at a path arrived whole, has its result, and is where the watch wants it.
pub fn nothing_is_lost(host: &Host, watches: &[&str], ledger: &Ledger, deliveries: &[Delivery]) {
    let identity = identity(host);
    let arrived: HashSet<(&str, &str)> = deliveries
        .iter()
        .filter(|delivery| delivery.complete())
        .map(|delivery| (delivery.object_id.as_str(), delivery.sha256.as_str()))
        .collect();
    let moved: HashSet<String> = match host.path("moved/done") {
        done if done.is_dir() => files(&done).iter().map(|path| sha256(std::fs::read(path).unwrap())).collect(),
        _ => HashSet::new(),
    };
    let mut lost = Vec::new();
    for (name, history) in ledger {
        let Some(hash) = &history.last else { continue };
        let path = host.path(watches[name.0]).join(&name.1);
        let mut missing = |what: &str| lost.push(format!("{what}: {} ({hash})", path.display()));
        if !arrived.contains(&(object_id(&identity, watches, name).as_str(), hash.as_str())) {
            missing("never arrived");
        }
        let stands = std::fs::read(&path).ok().map(sha256);
        let result = read_json(&result_path(&path)).map(|result| result["sha256"].clone());
        match watches[name.0] {
            "in" if stands.as_ref() != Some(hash) => missing("the input was touched"),
            "in" | "deleted" if result != Some(hash.as_str().into()) => missing("no result"),
            "deleted" | "moved" if stands.is_some() => missing("still there"),
            "moved" if !moved.contains(hash) => missing("not at the target"),
            _ => {}
        }
    }
    assert!(lost.is_empty(), "{} lost:\n{}", lost.len(), lost.join("\n"));
}

/// Whatever was committed is, byte for byte, something that was dropped at that path; every result is whole.
pub fn nothing_is_torn(host: &Host, watches: &[&str], ledger: &Ledger, deliveries: &[Delivery]) {
    let identity = identity(host);
    let dropped: HashMap<String, _> =
        ledger.iter().map(|(name, history)| (object_id(&identity, watches, name), history)).collect();
    for delivery in deliveries {
        let history = dropped.get(&delivery.object_id).unwrap_or_else(|| panic!("nobody dropped {delivery:?}"));
        assert!(delivery.complete(), "torn: {delivery:?}");
        assert!(history.versions.contains(&delivery.sha256), "torn: {delivery:?}\n{history:?}");
    }
    for path in watches.iter().flat_map(|watch| files(&host.path(watch))) {
        if path.to_string_lossy().ends_with(".result.json") {
            let result = read_json(&path).unwrap();
            let history = &dropped[result["object_id"].as_str().unwrap()];
            assert!(history.versions.iter().any(|hash| result["sha256"] == **hash), "{}: {result}", path.display());
        }
    }
}

/// Between two commits of the same content something was killed or cut. Returns the number of repeats.
pub fn every_repeat_has_its_trouble(deliveries: &[Delivery], troubles: &[Instant]) -> usize {
    let mut commits: HashMap<(&str, &str), Vec<&Delivery>> = HashMap::new();
    for delivery in deliveries {
        commits.entry((&delivery.object_id, &delivery.sha256)).or_default().push(delivery);
    }
    let mut repeats = 0;
    for of_one in commits.values_mut() {
        of_one.sort_by_key(|delivery| delivery.committed_at);
        for pair in of_one.windows(2) {
            repeats += 1;
            let between = pair[0].requested_at..=pair[1].requested_at;
            let explained = troubles.iter().any(|trouble| between.contains(trouble));
            assert!(explained, "sent twice without a crash in between: {:?}\n{:?}", pair[0], pair[1]);
        }
    }
    repeats
}

/// No hidden name, no temp file, no error file, no quarantine, nothing in the spool.
pub fn nothing_is_left_over(host: &Host, watches: &[&str]) {
    let strange = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with(".rri-") || name.ends_with(".error.json")
    };
    let left: Vec<_> = watches.iter().flat_map(|watch| files(&host.path(watch))).filter(strange).collect();
    assert!(left.is_empty(), "left over: {left:?}");
    let spooled = host.path("state/spool");
    assert!(files(&spooled).is_empty(), "left in the spool");
    let state = std::fs::read_dir(host.path("state")).unwrap().map(|entry| entry.unwrap().file_name());
    let quarantined: Vec<_> = state.filter(|name| name.to_string_lossy().contains("corrupt")).collect();
    assert!(quarantined.is_empty(), "a kill is no damage: {quarantined:?}");
}
