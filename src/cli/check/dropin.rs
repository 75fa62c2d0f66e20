//! `--print-dropin`: what the unit of systemd must be given beyond itself for these watches, as a drop-in.
//!
//! The unit sees the whole filesystem read-only, and nothing of the homes. What is printed depends on the configuration
//! and on who owns the folders, on nothing else, so that two runs can be compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::{Config, DEFAULT_CREDENTIAL, DEFAULT_STATE_DIRECTORY, Secret, Target};
use crate::show::Shown;

/// User and group of the unit.
const SERVICE: &str = "rocketride-ingest";
/// Where the unit takes the default key from.
const UNITS_KEY: &str = "/etc/rocketride-ingest/api-key";
/// What the unit lets the daemon write by itself.
const WRITABLE: [&str; 2] = [DEFAULT_STATE_DIRECTORY, "/run/rocketride-ingest"];
/// What `ProtectHome=` hides.
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];
/// What `PrivateTmp=` replaces.
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];
/// Names in the table of groups that are looked at.
const MAX_GROUPS: usize = 100_000;
/// Permission bits of the group that let it make files in a folder.
const GROUP_WRITES: u32 = 0o030;
/// The same of everybody else.
const OTHERS_WRITE: u32 = 0o003;

/// Stands for systemd's folder of credentials: what would be looked for in it is what the unit must load.
pub(super) const CREDENTIALS: &str = "/run/credentials/@";

/// Who owns a folder, and who else may write into it.
#[derive(Debug, Clone)]
struct Owner {
    user: String,
    group: String,
    mode: u32,
}

/// The drop-in for a configuration that was read with [`CREDENTIALS`].
pub(super) fn render(config: &Config) -> String {
    let (users, groups) = (names("/etc/passwd"), names("/etc/group"));
    let name = |table: &BTreeMap<u32, String>, id: u32| table.get(&id).cloned().unwrap_or_else(|| id.to_string());
    render_with(config, |folder| {
        let metadata = folder.metadata().ok()?;
        let (user, group) = (name(&users, metadata.uid()), name(&groups, metadata.gid()));
        Some(Owner { user, group, mode: metadata.mode() & 0o7777 })
    })
}

/// Id -> name of a table as `/etc/group` is one. What only a directory service knows stays a number, which systemd takes.
fn names(table: &str) -> BTreeMap<u32, String> {
    let text = std::fs::read_to_string(table).unwrap_or_default();
    let entries = text.lines().take(MAX_GROUPS).filter_map(|line| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?);
        Some((id.parse().ok()?, name.to_owned()))
    });
    entries.collect()
}

fn render_with(config: &Config, owner: impl Fn(&Path) -> Option<Owner>) -> String {
    let mut text =
        format!("# What {} needs beyond the unit, for `systemctl edit rocketride-ingest`.\n", Shown(&config.origin));
    let folders: BTreeSet<&Path> =
        config.watches.iter().flat_map(|watch| [watch.path.as_path()].into_iter().chain(watch.outputs())).collect();
    if !folders.is_empty() {
        text.push_str(
            "\n[Unit]\n# Started after the filesystems of these folders are mounted, and stopped before they go.\n",
        );
    }
    for folder in &folders {
        setting(&mut text, "RequiresMountsFor", "", folder);
    }
    text.push_str("\n[Service]\n");
    writable(&mut text, config);
    groups(&mut text, config, owner);
    credentials(&mut text, config);
    text
}

/// A folder to be written.
#[derive(Debug, Default)]
struct Tree {
    /// What it is for, a line each.
    purposes: Vec<String>,
    /// Whether it is there for what lies in it, because files are renamed from one of that to another.
    shared: bool,
}

/// Folders to be written, each with what it is for. Never one inside another: each becomes a mount, and a file cannot be
/// renamed from one mount to another.
fn trees(config: &Config) -> BTreeMap<PathBuf, Tree> {
    let mut wanted: BTreeMap<PathBuf, Tree> = BTreeMap::new();
    let mut want = |folder: &Path, purpose: String, shared: bool| {
        let tree = wanted.entry(folder.to_owned()).or_default();
        tree.purposes.push(purpose);
        tree.shared |= shared;
    };
    for watch in &config.watches {
        let common = watch.targets().fold(watch.path.as_path(), common);
        want(common, format!("watch {:?}", watch.name), common != watch.path);
        for target in watch.targets().filter(|target| !target.starts_with(&watch.path)) {
            want(common, format!("what it moves to {}", Shown(target)), true);
        }
        if let Some(directory) = &watch.results.directory {
            want(directory, format!("results of watch {:?}", watch.name), false);
        }
    }
    let by_default = |path: &Path| WRITABLE.iter().any(|writable| path.starts_with(writable));
    if !by_default(&config.state.directory) {
        want(&config.state.directory, "the state directory".to_owned(), false);
    }
    if let Some(folder) = config.admin.socket.parent().filter(|folder| !by_default(folder)) {
        want(folder, "the admin socket".to_owned(), false);
    }
    let mut trees: BTreeMap<PathBuf, Tree> = BTreeMap::new();
    // A folder comes before what lies in it.
    for (folder, tree) in wanted {
        let above = trees.keys().find(|above| folder.starts_with(above)).cloned();
        let kept = trees.entry(above.unwrap_or(folder)).or_default();
        kept.purposes.extend(tree.purposes);
        kept.shared |= tree.shared;
    }
    trees
}

/// The innermost folder that both lie in.
fn common<'p>(one: &'p Path, other: &Path) -> &'p Path {
    one.ancestors().find(|above| other.starts_with(above)).unwrap_or(Path::new("/"))
}

fn writable(text: &mut String, config: &Config) {
    let trees = trees(config);
    let within = |tree: &Path, places: &[&str]| places.iter().any(|place| tree.starts_with(place));
    let is_home = |tree: &Path| HOMES.iter().any(|home| Path::new(home) == tree) || tree == Path::new("/");
    let open_homes = trees.keys().any(|tree| is_home(tree));
    if !trees.is_empty() {
        text.push_str(
            "# The rest of the filesystem stays read-only. \"-\": a folder that is missing at the start does not keep the daemon\n\
             # from serving the others; restart it when the folder is there.\n",
        );
    }
    if open_homes {
        text.push_str("ProtectHome=no\n");
    } else if trees.keys().any(|tree| within(tree, &HOMES)) {
        text.push_str("# Homes are hidden; this shows the named folders only.\nProtectHome=tmpfs\n");
    }
    for (tree, Tree { purposes, shared }) in &trees {
        for purpose in purposes {
            let _ = writeln!(text, "# {purpose}");
        }
        if *shared {
            text.push_str(
                "# One folder for both: systemd mounts each that is named, and no file can be renamed across mounts.\n",
            );
        }
        if tree == Path::new("/") {
            text.push_str("# That is the whole filesystem! Choose a target inside the watch, or beside it.\n");
        }
        let hidden = within(tree, &HOMES) && !open_homes || within(tree, &TEMPORARY);
        setting(text, if hidden { "BindPaths" } else { "ReadWritePaths" }, "-", tree);
    }
}

fn groups(text: &mut String, config: &Config, owner: impl Fn(&Path) -> Option<Owner>) {
    let of_watches = config.watches.iter().map(|watch| (format!("watch {:?}", watch.name), watch.path.as_path()));
    let of_results = config.watches.iter().filter_map(|watch| {
        let directory = watch.results.directory.as_deref()?;
        Some((format!("results of watch {:?}", watch.name), directory))
    });
    for (what, folder) in of_watches.chain(of_results) {
        let Some(owner) = owner(folder) else {
            let _ = writeln!(text, "# {what}: the folder cannot be looked at, so its group is unknown");
            continue;
        };
        let Owner { user, group, mode } = &owner;
        if user == SERVICE || group == SERVICE && mode & GROUP_WRITES == GROUP_WRITES {
            continue;
        }
        if mode & GROUP_WRITES == GROUP_WRITES && group != "root" {
            let _ = writeln!(text, "# {what}: this group may write there");
            let _ = writeln!(text, "SupplementaryGroups={group}");
        } else if mode & OTHERS_WRITE != OTHERS_WRITE {
            let _ = writeln!(
                text,
                "# {what}: belongs to {user}:{group} (mode {mode:04o}); chgrp it to a group of its own and chmod g+rwx it, or \
                 setfacl -m u:{SERVICE}:rwx it"
            );
        }
    }
}

fn credentials(text: &mut String, config: &Config) {
    let of_pipelines = config.pipelines.iter().flat_map(|pipeline| {
        let token = if let Target::Token(token) = &pipeline.target { Some(token) } else { None };
        [&pipeline.api_key].into_iter().chain(token)
    });
    let secrets: BTreeMap<&Path, &Path> = of_pipelines
        .chain(&config.admin.token)
        .map(Secret::candidates)
        .filter_map(|places| {
            let [credential, beside] = places else { return None };
            let name = credential.strip_prefix(CREDENTIALS).ok()?;
            let is_units = name == Path::new(DEFAULT_CREDENTIAL) && beside == Path::new(UNITS_KEY);
            (!is_units).then_some((name, beside.as_path()))
        })
        .collect();
    if !secrets.is_empty() {
        text.push_str(
            "# Secrets, which root alone need be able to read. The blank default lets the daemon start\n# without the file.\n",
        );
    }
    for (name, file) in secrets {
        match name.to_str().filter(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))) {
            Some(name) => {
                setting(text, "LoadCredential", &format!("{name}:"), file);
                let _ = writeln!(text, "SetCredential={name}:\\n");
            }
            None => {
                let _ = writeln!(
                    text,
                    "# {} is no name for a credential: the file must be readable for {SERVICE}",
                    Shown(name)
                );
            }
        }
    }
}

/// A setting whose value is a path, quoted where it needs to be.
fn setting(text: &mut String, key: &str, before: &str, path: &Path) {
    match path.to_str().filter(|path| !path.contains(char::is_control)) {
        // No escape of a unit stands for a character of control in all of these settings.
        None => {
            let _ = writeln!(text, "# {} cannot be written in a unit: rename it", Shown(path));
        }
        Some(path) => {
            let value = format!("{before}{path}").replace('%', "%%");
            let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%=:,".contains(c);
            let _ = if value.chars().all(plain) && !path.contains(':') {
                writeln!(text, "{key}={value}")
            } else {
                let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
                writeln!(text, "{key}=\"{escaped}\"")
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    fn printed(watches: &str) -> String {
        let text = format!("[server]\nuri = \"http://127.0.0.1:1\"\n[pipelines.p]\nfile = \"p.pipe\"\n{watches}");
        let env = Environment { credentials_directory: Some(CREDENTIALS.into()), ..Environment::default() };
        let config = Config::parse(&text, Path::new("/etc/rocketride-ingest/config.toml"), &env).unwrap();
        let owner = |folder: &Path| match folder.to_str()? {
            "/srv/shared" => Some(Owner { user: "alice".into(), group: "scans".into(), mode: 0o2775 }),
            "/srv/alices" => Some(Owner { user: "alice".into(), group: "alice".into(), mode: 0o755 }),
            "/srv/roots" => Some(Owner { user: "root".into(), group: "root".into(), mode: 0o775 }),
            _ => Some(Owner { user: SERVICE.into(), group: SERVICE.into(), mode: 0o700 }),
        };
        render_with(&config, owner)
    }

    fn watch(path: &str, more: &str) -> String {
        let name = path.replace('/', "-");
        format!("[[watch]]\nname = {name:?}\npath = {path:?}\npipeline = \"p\"\n{more}\n")
    }

    fn settings(watches: &str) -> Vec<String> {
        let text = printed(watches);
        text.lines().filter(|line| !line.is_empty() && !line.starts_with(['#', '['])).map(str::to_owned).collect()
    }

    #[test]
    fn a_watch_is_waited_for_and_opened() {
        let wanted = [
            "RequiresMountsFor=/srv/a",
            "RequiresMountsFor=/srv/b",
            "ReadWritePaths=-/srv/a",
            "ReadWritePaths=-/srv/b",
        ];
        assert_eq!(settings(&(watch("/srv/b", "") + &watch("/srv/a", ""))), wanted);
        assert_eq!(settings(""), [""; 0], "the unit alone does without watches");
    }

    #[test]
    fn a_target_inside_the_watch_needs_no_mount_of_its_own_and_one_beside_it_shares_one() {
        let wanted = ["RequiresMountsFor=/srv/a", "RequiresMountsFor=/srv/a/done", "ReadWritePaths=-/srv/a"];
        assert_eq!(settings(&watch("/srv/a", "on_success = { move = \"done\" }")), wanted);
        let beside = watch("/srv/x/a", "on_success = { move = \"/srv/x/done\" }\non_failure = { move = \"../no\" }");
        assert_eq!(settings(&beside).last().unwrap(), "ReadWritePaths=-/srv/x");
        let with_one_in_it = beside + &watch("/srv/x/b", "");
        assert_eq!(settings(&with_one_in_it).iter().filter(|line| line.starts_with("ReadWrite")).count(), 1);
        let far = printed(&watch("/srv/a", "on_success = { move = \"/mnt/done\" }"));
        assert!(far.contains("ReadWritePaths=-/\n") && far.contains("whole filesystem!"), "{far}");
    }

    #[test]
    fn a_results_directory_is_waited_for_and_opened_and_needs_no_common_mount() {
        let results = |path: &str| watch("/srv/x/a", &format!("[watch.results]\ndirectory = {path:?}"));
        let wanted = [
            "RequiresMountsFor=/srv/shared",
            "RequiresMountsFor=/srv/x/a",
            "ReadWritePaths=-/srv/shared",
            "ReadWritePaths=-/srv/x/a",
            "SupplementaryGroups=scans",
        ];
        assert_eq!(settings(&results("/srv/shared")), wanted);
        let inside = ["RequiresMountsFor=/srv/x/a", "RequiresMountsFor=/srv/x/a/out", "ReadWritePaths=-/srv/x/a"];
        assert_eq!(settings(&results("out")), inside);
    }

    #[test]
    fn the_group_that_may_write_is_joined_unless_it_is_root() {
        let group = |path: &str| settings(&watch(path, "")).into_iter().find(|line| line.starts_with("Supp"));
        assert_eq!(group("/srv/shared").as_deref(), Some("SupplementaryGroups=scans"));
        for path in ["/srv/alices", "/srv/roots"] {
            assert_eq!(group(path), None);
            assert!(printed(&watch(path, "")).contains("setfacl"), "{path}");
        }
        assert!(!printed(&watch("/srv/own", "")).contains("setfacl"));
    }

    #[test]
    fn what_the_unit_hides_is_shown_to_it() {
        let wanted = ["ProtectHome=tmpfs", "BindPaths=-/home/scanner/in"];
        assert_eq!(settings(&watch("/home/scanner/in", ""))[1..], wanted);
        assert_eq!(settings(&watch("/tmp/in", ""))[1..], ["BindPaths=-/tmp/in"]);
        assert_eq!(settings(&watch("/home", ""))[1..], ["ProtectHome=no", "ReadWritePaths=-/home"]);
    }

    #[test]
    fn a_name_cannot_become_a_setting() {
        let path = "/srv/100% \"a\\ b:ü";
        let wanted = [r#"RequiresMountsFor="/srv/100%% \"a\\ b:ü""#, r#"ReadWritePaths="-/srv/100%% \"a\\ b:ü""#];
        let table = format!("[[watch]]\nname = \"w\"\npath = '{path}'\npipeline = \"p\"\n");
        assert_eq!(settings(&table), wanted);
        let table = "[[watch]]\nname = \"w\"\npath = \"/srv/a\\nExecStartPre=/bin/evil\"\npipeline = \"p\"\n";
        assert_eq!(settings(table), [""; 0]);
        assert!(printed(table).contains(r"# /srv/a\nExecStartPre=/bin/evil cannot be written"), "{}", printed(table));
    }

    #[test]
    fn other_places_for_the_state_and_the_socket_are_opened() {
        let text = "[state]\ndirectory = \"/data/state\"\n[admin]\nsocket = \"/data/run/a.sock\"\n";
        assert_eq!(settings(text), ["ReadWritePaths=-/data/run", "ReadWritePaths=-/data/state"]);
    }

    #[test]
    fn secrets_of_the_file_are_loaded_by_their_names() {
        let text = "[pipelines.q]\ntoken_file = \"q-token\"\napi_key_file = \"api-key\"\n[pipelines.r]\ntoken_file = \"/abs/t\"\n";
        let wanted = ["LoadCredential=q-token:/etc/rocketride-ingest/q-token", "SetCredential=q-token:\\n"];
        assert_eq!(settings(text), wanted);
    }
}
