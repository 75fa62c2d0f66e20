//! One watched folder: can it be served, how are new files noticed, and what is in it now.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::access::{self, advice, change_names, may};
use super::report::Report;
use super::walk::{Found, Tally, look};
use crate::cli::paint::{count, size, span};
use crate::config::{Detect, Globs, OnSuccess, Watch};
use crate::fs::{Dir, Root, base_name};
use crate::intake::Backend;
use crate::intake::overlap::{InUse, Roots};
use crate::lease::{self, Writers};
use crate::show::Shown;

/// Names that no sensible pattern is about: a list that matches all of them matches everything.
const ANYTHING: [&str; 3] = ["q7", "q7/q7.q7", "q7/q7/q7/q7.q7x"];

/// What the other checks need of a watch.
pub(super) struct Served {
    /// Held, so that later watches are compared with it.
    _in_use: InUse,
    /// Folders that need a watch of the kernel.
    pub(super) event_folders: u64,
}

/// Checks a watch; none if its folder cannot be served.
pub(super) fn check(watch: &Watch, roots: &Arc<Roots>, report: &mut Report) -> Option<Served> {
    report.subject(format_args!("watch {:?}: {} to pipeline {:?}", watch.name, Shown(&watch.path), watch.pipeline));
    let root = match Root::open(&watch.path) {
        Ok(root) => root,
        Err(error) => {
            report.error(match error.kind() {
                ErrorKind::NotFound => "the folder does not exist: create it, or mount what should be there".to_owned(),
                ErrorKind::NotADirectory => "it is no folder: correct the path".to_owned(),
                _ => format!("the folder cannot be opened: {error}{}", advice(&error)),
            });
            return None;
        }
    };
    let in_use = match roots.register(&watch.name, &watch.path) {
        Ok(in_use) => in_use,
        Err(error) => {
            report.error(error);
            return None;
        }
    };
    let backend = backend(watch, &root, report);
    let found = look(watch, &root);
    contents(watch, &found, filters(watch, report), report);
    writers(&root, &found.probes, report);
    permissions(watch, &found, report);
    for target in watch.targets() {
        move_target(&root, target, report);
    }
    if let Some(directory) = &watch.results.directory {
        results(directory, &watch.name, report);
    }
    let event_folders = if backend == Backend::Events { found.folders } else { 0 };
    Some(Served { _in_use: in_use, event_folders })
}

fn backend(watch: &Watch, root: &Root, report: &mut Report) -> Backend {
    let (backend, kind) = (Backend::choose(watch.detect, root), root.kind());
    match backend {
        Backend::Poll(why) => {
            report.ok(format_args!("on {}: polled every {}, because {why}", kind.name, span(watch.poll_interval)));
        }
        Backend::Events if kind.remote && watch.detect == Detect::Events => report.warning(format_args!(
            "on {}: the kernel's events do not tell what other hosts do there, so their files wait for the rescan \
             every {}: use detect = \"auto\" or \"poll\"",
            kind.name,
            span(watch.rescan_interval)
        )),
        Backend::Events => report.ok(format_args!(
            "on {}: the kernel's events tell of new files, and a rescan every {}",
            kind.name,
            span(watch.rescan_interval)
        )),
    }
    backend
}

/// Finds patterns that cannot be meant, whatever is in the folder. True if there are none.
fn filters(watch: &Watch, report: &mut Report) -> bool {
    let everything = |globs: &Globs| ANYTHING.iter().all(|path| globs.is_match(path));
    if everything(&watch.select.exclude) {
        report.warning("exclude matches every name, so nothing is ever sent: correct it");
        return false;
    }
    if watch.select.include.as_ref().is_some_and(everything) {
        report.warning("include matches every name and restricts nothing: leave it out, or correct it");
        return false;
    }
    true
}

fn contents(watch: &Watch, found: &Found, sensible: bool, report: &mut Report) {
    let skipped: u64 = found.skipped.values().sum();
    let rules: Vec<_> = found.skipped.iter().map(|(rule, number)| format!("{number} by {rule}")).collect();
    let left = if skipped > 0 { format!("; left alone: {}", rules.join(", ")) } else { String::new() };
    let least = if found.cut_short { "at least " } else { "" };
    let folders = count(found.folders, "folder");
    if sensible && found.files == 0 && found.skipped.iter().any(|(rule, _)| ["include", "exclude"].contains(rule)) {
        report.warning(format_args!("no file matches include and exclude{left}: is the filter what you mean?"));
    } else if found.files == 0 {
        report.ok(format_args!("no matching file yet, in {folders}{left}"));
    } else {
        let files = count(found.files, "matching file");
        report.ok(format_args!("{least}{files}, {}, in {folders}{left}", size(found.bytes)));
    }
    if watch.done_marker.is_some() && found.files > 0 {
        report.ok(format_args!("{} no done_marker yet, sent before or waiting for it", have(found.unmarked, "file")));
    }
    if let Some((first, _)) = &found.unmarkable.first {
        report.warning(format_args!(
            "{} so long a name that its done_marker can never exist, and is never sent, for example {}: give it a \
             shorter one",
            have(found.unmarkable.number, "file"),
            Shown(first)
        ));
    }
    if let Some((first, _)) = &found.oversized.first {
        report.warning(format_args!(
            "{} larger than max_size ({}) and will get an error file, for example {}",
            are(found.oversized.number, "file"),
            size(watch.max_size),
            Shown(first)
        ));
    }
}

/// Asks the kernel about writers of some of the files, as the daemon will for each.
fn writers(root: &Root, probes: &[PathBuf], report: &mut Report) {
    if root.kind().remote {
        return report.ok(format_args!(
            "writer check: not available on {}; files settle by the longer quiet alone",
            root.kind().name
        ));
    }
    let mut written = None;
    let mut asked = 0;
    for rel in probes {
        let Ok((file, _)) = root.parent(rel).and_then(|dir| dir.open_file(base_name(rel))) else { continue };
        asked += 1;
        match lease::check(&file) {
            Writers::None => {}
            Writers::Some => written = Some(rel),
            Writers::Unknown(why) => {
                return report.warning(format_args!(
                    "writer check: not available ({why}, {}); files settle by the longer quiet alone. Run the daemon \
                     as the owner of the files, or give it CAP_LEASE as the unit does",
                    Shown(rel)
                ));
            }
        }
    }
    match written {
        Some(rel) => report.ok(format_args!("writer check: available; {} is being written now", Shown(rel))),
        None if asked > 0 => {
            report.ok("writer check: available, the kernel tells when nobody writes to a file any more");
        }
        None => report.ok("writer check: no file to try it on; it needs the owner of the files or CAP_LEASE"),
    }
}

fn permissions(watch: &Watch, found: &Found, report: &mut Report) {
    let mut refused = false;
    let mut complain = |tally: &Tally, thing: &str, what: &str, consequence: &str| {
        if let Some((first, why)) = &tally.first {
            refused = true;
            let first = if first.as_os_str().is_empty() { Path::new(".") } else { first };
            report.error(format_args!(
                "{} {what}, for example {} ({why}): {consequence}; give this user the right, with chmod, chgrp or \
                 setfacl",
                are(tally.number, thing),
                Shown(first)
            ));
        }
    };
    complain(&found.unlistable, "folder", "not to be listed", "what is in it is never sent");
    complain(&found.unreadable, "file", "not readable", "it is not sent");
    complain(&found.unwritable, "folder", "not writable", "no result can be put there, so nothing is sent from it");
    complain(&found.stuck, "file", "not to be renamed", "on_success and on_failure cannot be done");
    if !refused {
        let files = match (&watch.on_success, watch.targets().next()) {
            (OnSuccess::Delete, None) => "files read and deleted",
            (OnSuccess::Delete, Some(_)) => "files read, deleted and moved",
            (_, None) => "files read",
            (_, Some(_)) => "files read and moved",
        };
        let results = if watch.results.directory.is_none() { ", results created" } else { "" };
        report.ok(format_args!("folders can be listed, {files}{results}"));
    }
}

/// The target is made when it is first needed; a file moves there by a rename, which stays on one filesystem.
fn move_target(root: &Root, target: &Path, report: &mut Report) {
    let nearest = access::nearest(target);
    let shown = Shown(target);
    if !nearest.is_dir() {
        return report.error(format_args!("move target {shown}: {} is no folder", Shown(&nearest)));
    }
    match Dir::open(&nearest).and_then(|dir| dir.device()) {
        Ok(device) if device != root.id().dev => {
            return report.error(format_args!(
                "move target {shown} is on another filesystem, and files are only ever renamed: choose a folder on \
                 that of the watch"
            ));
        }
        Ok(_) => {}
        Err(error) => return report.error(format_args!("move target {shown}: {error}{}", advice(&error))),
    }
    match may(&nearest, change_names()) {
        Ok(()) if nearest == target => report.ok(format_args!("move target {shown}: writable, on the same filesystem")),
        Ok(()) => report.ok(format_args!("move target {shown}: made when it is needed, on the same filesystem")),
        Err(error) => report.error(format_args!(
            "move target {shown}: cannot write to {} ({error}){}",
            Shown(&nearest),
            advice(&error)
        )),
    }
}

/// The folder for the results is the operator's to make: one that is missing may be a disk that is not mounted.
fn results(directory: &Path, watch: &str, report: &mut Report) {
    let shown = Shown(directory);
    let opened = Dir::open(directory).and_then(|dir| dir.entries().map(|_| dir));
    let mounted = match opened.and_then(|dir| dir.is_mount()) {
        Ok(mounted) => mounted,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return report.error(format_args!(
                "results directory {shown} does not exist, and nothing is sent before it does: create it, or mount what \
                 should be there"
            ));
        }
        Err(error) => {
            return report.error(format_args!("results directory {shown} cannot be opened: {error}{}", advice(&error)));
        }
    };
    // The folder for this watch may have been made by an operator; then the one above need not be ours to write.
    let own = directory.join(watch);
    match may(if own.is_dir() { &own } else { directory }, change_names()) {
        Ok(()) if mounted => report.warning(format_args!(
            "results directory {shown} is where a filesystem is mounted; when it is not, results would go beneath it: \
             make a folder on it, and name that"
        )),
        Ok(()) => report.ok(format_args!("results directory {shown}: writable")),
        Err(error) => {
            report.error(format_args!("results directory {shown}: cannot write to it ({error}){}", advice(&error)));
        }
    }
}

/// `1 file is`, `2 files are`.
fn are(number: u64, thing: &str) -> String {
    format!("{} {}", count(number, thing), if number == 1 { "is" } else { "are" })
}

/// `1 file has`, `2 files have`.
fn have(number: u64, thing: &str) -> String {
    format!("{} {}", count(number, thing), if number == 1 { "has" } else { "have" })
}
