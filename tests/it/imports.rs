//! The architecture, held by a test: imports run downward only.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Every room, and the rooms it may import from. What stands alone imports nothing of the crate.
const RULES: &[(&str, &[&str])] = &[
    ("client", &[]),
    ("show", &[]),
    ("panics", &["show"]),
    ("locks", &[]),
    ("blocking", &["panics"]),
    ("progress", &["locks"]),
    ("service", &["progress"]),
    ("job", &[]),
    ("crash", &[]),
    ("lease", &[]),
    ("signals", &[]),
    ("clock", &["job"]),
    ("fs", &["crash", "job", "lease", "locks", "show"]),
    ("config", &["client", "job", "show"]),
    ("identity", &["fs", "job"]),
    ("telemetry", &["config", "show"]),
    ("sandbox", &["client", "locks"]),
    ("sidecar", &["clock", "fs", "identity", "job", "show"]),
    ("journal", &["clock", "crash", "job", "locks", "meters", "panics", "show"]),
    ("folder", &["config", "crash", "fs", "job", "locks", "sidecar"]),
    (
        "intake",
        &[
            "blocking", "clock", "config", "crash", "folder", "fs", "identity", "job", "journal", "lease", "locks",
            "meters", "show", "sidecar",
        ],
    ),
    (
        "delivery",
        &[
            "blocking", "board", "client", "clock", "config", "crash", "folder", "fs", "identity", "job", "journal",
            "lease", "locks", "meters", "panics", "pauses", "progress", "show", "sidecar",
        ],
    ),
    (
        "audit",
        &[
            "blocking", "clock", "config", "delivery", "folder", "fs", "identity", "intake", "job", "journal", "lease",
            "meters", "show", "sidecar",
        ],
    ),
    ("board", &["job", "locks"]),
    ("meters", &[]),
    ("pauses", &["fs", "job", "locks"]),
    (
        "admin",
        &[
            "audit", "blocking", "board", "clock", "config", "delivery", "folder", "fs", "identity", "intake", "job",
            "journal", "lease", "locks", "meters", "panics", "pauses", "progress", "show", "sidecar",
        ],
    ),
    ("once", &["config", "delivery", "folder", "journal"]),
    ("retention", &["blocking", "clock", "config", "folder", "fs", "identity", "job", "journal", "sidecar"]),
    (
        "daemon",
        &[
            "admin",
            "audit",
            "blocking",
            "board",
            "clock",
            "config",
            "crash",
            "delivery",
            "folder",
            "identity",
            "intake",
            "journal",
            "lease",
            "once",
            "panics",
            "pauses",
            "progress",
            "retention",
            "service",
            "signals",
            "show",
            "telemetry",
        ],
    ),
    (
        "cli",
        &[
            "admin",
            "client",
            "clock",
            "config",
            "daemon",
            "delivery",
            "folder",
            "fs",
            "identity",
            "intake",
            "job",
            "journal",
            "lease",
            "once",
            "panics",
            "sandbox",
            "show",
            "sidecar",
            "signals",
            "telemetry",
        ],
    ),
];

/// Crates with one user only, and the file or folder that may use them.
const OWNERS: &[(&str, &str)] =
    &[("sled::", "journal"), ("notify::", "intake/watch.rs"), ("governor::", "delivery/limits.rs"), ("clap::", "cli")];

fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut files) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push((path.strip_prefix(&root).unwrap().to_owned(), std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    files
}

/// The code lines of a file, without comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|line| line.split("//").next().unwrap_or_default())
}

fn room(path: &Path) -> String {
    path.components().next().unwrap().as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
}

#[test]
fn imports_run_downward_only() {
    for (path, text) in sources() {
        let room = room(&path);
        if ["main", "lib"].contains(&room.as_str()) {
            continue;
        }
        let allowed = RULES.iter().find(|(name, _)| *name == room);
        let (_, allowed) = allowed.unwrap_or_else(|| panic!("the room {room:?} has no rule; add one"));
        let imported: BTreeSet<&str> = code(&text)
            .flat_map(|line| line.split("crate::").skip(1))
            .map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default())
            .filter(|name| RULES.iter().any(|(room, _)| room == name))
            .collect();
        for name in imported {
            assert!(name == room || allowed.contains(&name), "{} imports from {name}", path.display());
        }
    }
}

#[test]
fn some_crates_have_one_user() {
    for (path, text) in sources() {
        for (crate_name, owner) in OWNERS {
            let uses = code(&text).any(|line| {
                line.match_indices(crate_name).any(|(at, _)| {
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == '"')
                })
            });
            assert!(!uses || path.starts_with(owner), "{} uses {crate_name}", path.display());
        }
    }
}

#[test]
fn pure_rooms_know_neither_clock_nor_runtime_nor_disk() {
    for (path, text) in sources() {
        let pure = path.starts_with("job")
            || [
                "intake/settle.rs",
                "intake/assess.rs",
                "intake/select.rs",
                "folder/tenures.rs",
                "client/link.rs",
                "client/protocol.rs",
                "delivery/slots.rs",
                "delivery/failing.rs",
                "delivery/suspects.rs",
            ]
            .iter()
            .any(|pure| path == Path::new(pure));
        if pure && !path.ends_with("tests.rs") {
            for forbidden in ["tokio", "std::fs", "Instant", "SystemTime"] {
                assert!(!code(&text).any(|line| line.contains(forbidden)), "{} knows of {forbidden}", path.display());
            }
        }
    }
}
