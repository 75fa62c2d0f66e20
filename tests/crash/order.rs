//! In which order things must reach the disk, judged by the calls of a run. A sync counts once it has returned, and for
//! what had ended before it began; everything else counts from its beginning.

use std::path::{Path, PathBuf};

use crate::trace::{Act, Call};

const TEMP: &str = ".rri-tmp-";
const HIDDEN: &str = ".rri-";

/// What a trace is judged by.
pub struct Order<'a> {
    pub calls: &'a [Call],
    /// Everything beneath this is the daemon's business.
    pub host: &'a Path,
    /// The state directory.
    pub state: &'a Path,
    /// The inputs that lay there, whose names are no parts of each other; each in a folder of its own.
    pub inputs: &'a [PathBuf],
    /// Their delivery was in the journal before this run.
    pub recorded: bool,
}

impl Order<'_> {
    /// Every way in which a power cut at some moment would have left something else than was promised.
    pub fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        for call in self.calls {
            match &call.act {
                Act::Write(path, text) if self.is_ours(path) => self.write(call, path, text, &mut found),
                Act::Rename(from, to) if self.is_ours(to) => self.rename(call, from, to, &mut found),
                Act::Unlink(path) if self.is_ours(path) && !is_named(path, TEMP) => {
                    self.leaves(call, path, &mut found);
                    self.names_follow(call, path, &mut found);
                }
                Act::Make(path) if self.is_ours(path) && !is_named(path, TEMP) => {
                    self.names_follow(call, path, &mut found);
                }
                Act::Connect => self.connect(call, &mut found),
                _ => {}
            }
        }
        found
    }

    fn write(&self, call: &Call, path: &Path, text: &str, found: &mut Vec<String>) {
        let journal = self.state.join("journal");
        if path.starts_with(journal.join("blobs")) {
            found.push(format!("{} was written, which nobody makes durable", path.display()));
        }
        if path.starts_with(&journal) && !self.synced(path, call.ended, usize::MAX) && !self.renamed(path) {
            found.push(format!("{} was written and not synced after that", path.display()));
        }
        if is_sidecar(path) {
            found.push(format!("{} was written under the name that readers look at", path.display()));
        }
        if path != self.db() {
            return;
        }
        for input in self.inputs {
            for sidecar in [sidecar(input, "result"), sidecar(input, "error")] {
                if !text.contains(sidecar.file_name().unwrap().to_str().unwrap()) {
                    continue;
                }
                let placed = self.last_before(call, |act| matches!(act, Act::Rename(_, to) if *to == sidecar));
                let since = placed.map_or(0, |placed| placed.ended);
                if !self.synced(sidecar.parent().unwrap(), since, call.began) {
                    found.push(format!("the journal was told of {} before its name was durable", sidecar.display()));
                }
            }
        }
    }

    fn rename(&self, call: &Call, from: &Path, to: &Path, found: &mut Vec<String>) {
        // A name may be used again: only what happened to it since it was last given up matters.
        let freed = self.last_before(call, |act| match act {
            Act::Rename(earlier, _) | Act::Unlink(earlier) => earlier == from,
            _ => false,
        });
        let freed = freed.map_or(0, |freed| freed.ended);
        let written = self
            .calls
            .iter()
            .filter(|write| matches!(&write.act, Act::Write(path, _) if path == from))
            .filter(|write| write.began >= freed && write.began < call.ended);
        let written = written.map(|write| write.ended).max();
        if let Some(written) = written
            && !self.synced(from, written, call.began)
        {
            found.push(format!("{} got its name before its content was durable", to.display()));
        }
        if is_sidecar(to) && is_named(from, TEMP) && written.is_none() {
            found.push(format!("{} got its name before it was written", to.display()));
        }
        if to == self.state.join("journal.id") {
            self.id(call, found);
        }
        self.leaves(call, from, found);
        self.names_follow(call, from, found);
        self.names_follow(call, to, found);
    }

    /// An input, or the hidden name of one, goes from its place.
    fn leaves(&self, call: &Call, path: &Path, found: &mut Vec<String>) {
        if let Some(input) = self.inputs.iter().find(|input| *input == path) {
            let name = sidecar(input, "result");
            let name = name.file_name().unwrap().to_str().unwrap();
            let told = self.calls.iter().find(
                |write| matches!(&write.act, Act::Write(path, text) if *path == self.db() && text.contains(name)),
            );
            let durable = told.is_some_and(|told| self.synced(&self.db(), told.ended, call.began));
            if !durable && !self.recorded {
                found.push(format!("{} was touched before its delivery was durable in the journal", input.display()));
            }
        }
        if is_named(path, HIDDEN) && !is_named(path, TEMP) {
            let hidden = self.last_before(call, |act| matches!(act, Act::Rename(_, to) if to == path));
            if let Some(hidden) = hidden
                && !self.synced(path.parent().unwrap(), hidden.ended, call.began)
            {
                found.push(format!("{} went before its hidden name was durable", path.display()));
            }
            // One file alone: whatever the journal is told from now on is what became of it.
            let folders = match &call.act {
                Act::Rename(_, to) => vec![path.parent().unwrap(), to.parent().unwrap()],
                _ => vec![path.parent().unwrap()],
            };
            let told = self.calls.iter().find(|write| {
                write.began > call.ended && matches!(&write.act, Act::Write(path, _) if *path == self.db())
            });
            if let Some(told) = told
                && self.inputs.len() == 1
                && !folders.iter().all(|folder| self.synced(folder, call.ended, told.began))
            {
                found.push(format!("the journal was told that {} went before that was durable", path.display()));
            }
        }
    }

    /// A name that came or went is made durable at some time, and at once where something is put beneath it.
    fn names_follow(&self, call: &Call, path: &Path, found: &mut Vec<String>) {
        let folder = path.parent().unwrap();
        let beneath = self.calls.iter().find(|later| {
            later.began > call.ended && matches!(&later.act, Act::Rename(_, to) if to.parent() == Some(path))
        });
        let limit = if matches!(call.act, Act::Make(_)) { beneath.map(|later| later.began) } else { None };
        if !self.synced(folder, call.ended, limit.unwrap_or(usize::MAX)) {
            found.push(format!("{} was not synced after {} came or went", folder.display(), path.display()));
        }
    }

    /// The second copy of the journal's identity says that there is a journal.
    fn id(&self, call: &Call, found: &mut Vec<String>) {
        let journal = self.state.join("journal");
        for earlier in self.calls.iter().filter(|earlier| earlier.began < call.began) {
            let needed = match &earlier.act {
                Act::Write(path, _) if path.starts_with(&journal) => path.as_path(),
                Act::Make(path) if *path == journal || path.parent() == Some(&journal) => path.parent().unwrap(),
                _ => continue,
            };
            if !self.synced(needed, earlier.ended, call.began) {
                found.push(format!("the journal's identity was written before {} was durable", needed.display()));
            }
        }
    }

    fn connect(&self, call: &Call, found: &mut Vec<String>) {
        let instance = self.state.join("instance");
        let made = self.calls.iter().find(|made| matches!(&made.act, Act::Rename(_, to) if *to == instance));
        if let Some(made) = made
            && !self.synced(self.state, made.ended, call.began)
        {
            found.push("a server was spoken to before the instance id was durable".to_owned());
        }
    }

    /// Whether a sync of this file or directory began after one line and had returned before another.
    fn synced(&self, path: &Path, after: usize, before: usize) -> bool {
        let syncs = |call: &&Call| matches!(&call.act, Act::Sync(synced) if synced == path);
        self.calls.iter().filter(syncs).any(|call| call.began > after && call.ended < before)
    }

    fn renamed(&self, path: &Path) -> bool {
        self.calls.iter().any(|call| matches!(&call.act, Act::Rename(from, _) if from == path))
    }

    fn last_before(&self, call: &Call, is: impl Fn(&Act) -> bool) -> Option<&Call> {
        self.calls.iter().rfind(|earlier| earlier.began < call.began && is(&earlier.act))
    }

    fn is_ours(&self, path: &Path) -> bool {
        // A socket is of no use after a power cut, and made anew.
        path.starts_with(self.host) && path.extension().is_none_or(|extension| extension != "sock")
    }

    fn db(&self) -> PathBuf {
        self.state.join("journal/db")
    }
}

fn is_named(path: &Path, prefix: &str) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
}

fn is_sidecar(path: &Path) -> bool {
    let name = path.to_string_lossy();
    name.ends_with(".result.json") || name.ends_with(".error.json")
}

fn sidecar(input: &Path, kind: &str) -> PathBuf {
    PathBuf::from(format!("{}.{kind}.json", input.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::parse;

    /// One file that is delivered and moved, as it should be. What waits for the disk is cut in two.
    const RIGHT: &[&str] = &[
        "1 mkdir(\"/h/s/journal\", 0700) = 0",
        "1 fsync(3</h/s>) = 0",
        "1 openat(AT_FDCWD</>, \"/h/s/journal/conf\", O_WRONLY|O_CREAT, 0666) = 4</h/s/journal/conf>",
        "1 write(4</h/s/journal/conf>, \"sled\", 4) = 4",
        "1 openat(AT_FDCWD</>, \"/h/s/journal/db\", O_RDWR|O_CREAT, 0666) = 5</h/s/journal/db>",
        "1 pwrite64(5</h/s/journal/db>, \"meta\", 4, 0) = 4",
        "1 fdatasync(6</h/s/journal/db>) = 0",
        "1 fsync(7</h/s/journal/conf>) = 0",
        "1 fsync(8</h/s/journal>) = 0",
        "1 write(9</h/s/journal.id.new>, \"id\", 2) = 2",
        "1 fsync(9</h/s/journal.id.new>) = 0",
        "1 rename(\"/h/s/journal.id.new\", \"/h/s/journal.id\") = 0",
        "1 openat(9</h/s>, \".instance.new\", O_WRONLY|O_CREAT|O_EXCL, 0600) = 10</h/s/.instance.new>",
        "1 write(10</h/s/.instance.new>, \"id\", 2) = 2",
        "1 fsync(10</h/s/.instance.new>) = 0",
        "1 renameat(9</h/s>, \".instance.new\", 9</h/s>, \"instance\") = 0",
        "1 fsync(9</h/s>) = 0",
        "1 connect(11<TCP:[1]>, {sa_family=AF_INET}, 16) = 0",
        "1 openat(12</h/w>, \".rri-tmp-1\", O_WRONLY|O_CREAT|O_EXCL, 0600) = 13</h/w/.rri-tmp-1>",
        "2 write(13</h/w/.rri-tmp-1>, \"{}\", 2 <unfinished ...>",
        "2 <... write resumed>) = 2",
        "5 fsync(13</h/w/.rri-tmp-1> <unfinished ...>",
        "5 <... fsync resumed>) = 0",
        "2 renameat2(12</h/w>, \".rri-tmp-1\", 12</h/w>, \"a.txt.result.json\", RENAME_NOREPLACE) = 0",
        "2 fsync(12</h/w> <unfinished ...>",
        "2 <... fsync resumed>) = 0",
        "3 pwrite64(5</h/s/journal/db>, \"delivered a.txt.result.json\", 27, 4) = 27",
        "4 fdatasync(6</h/s/journal/db> <unfinished ...>",
        "4 <... fdatasync resumed>) = 0",
        "2 renameat2(12</h/w>, \"a.txt\", 12</h/w>, \".rri-1\", RENAME_NOREPLACE) = 0",
        "2 fsync(12</h/w>) = 0",
        "2 mkdirat(12</h/w>, \"done\", 0777) = 0",
        "2 fsync(12</h/w>) = 0",
        "2 renameat2(12</h/w>, \".rri-1\", 14</h/w/done>, \"a.txt\", RENAME_NOREPLACE) = 0",
        "2 fsync(14</h/w/done>) = 0",
        "2 fsync(12</h/w>) = 0",
        "3 pwrite64(5</h/s/journal/db>, \"done a.txt.result.json\", 22, 31) = 22",
        "4 fdatasync(6</h/s/journal/db>) = 0",
    ];

    fn judged(lines: &[&str]) -> Vec<String> {
        let calls = parse(&lines.join("\n"));
        let (host, state) = (Path::new("/h"), Path::new("/h/s"));
        Order { calls: &calls, host, state, inputs: &["/h/w/a.txt".into()], recorded: false }.violations()
    }

    /// Where the one line stands that contains this.
    fn at(text: &str) -> usize {
        let found: Vec<usize> = (0..RIGHT.len()).filter(|n| RIGHT[*n].contains(text)).collect();
        assert_eq!(found.len(), 1, "{text:?} is in lines {found:?}");
        found[0]
    }

    /// What is said of the right trace without some lines.
    fn without(gone: &[usize]) -> String {
        let lines: Vec<_> = (0..RIGHT.len()).filter(|n| !gone.contains(n)).map(|n| RIGHT[n]).collect();
        judged(&lines).join("\n")
    }

    /// What is said of it with one line put before the one that contains a text, and so many lines further up.
    fn moved(line: &str, before: &str, further: usize) -> String {
        let (from, to) = (at(line), at(before) - further);
        let mut lines = RIGHT.to_vec();
        let line = lines.remove(from);
        lines.insert(if to > from { to - 1 } else { to }, line);
        judged(&lines).join("\n")
    }

    #[test]
    fn the_right_order_is_right() {
        assert_eq!(judged(RIGHT), Vec::<String>::new());
    }

    #[test]
    fn every_sync_is_needed() {
        let needless: Vec<_> = (0..RIGHT.len())
            .filter(|n| RIGHT[*n].contains("sync("))
            .filter(|n| {
                let end = RIGHT[*n].contains("unfinished").then_some(n + 1);
                without(&[Some(*n), end].into_iter().flatten().collect::<Vec<_>>()).is_empty()
            })
            .collect();
        // Only where the same folder is synced once more before anything relies on it.
        assert_eq!(needless, [at("\"a.txt\", 12</h/w>, \".rri-1\"") + 1]);
    }

    #[test]
    fn each_wrong_order_is_told_by_its_name() {
        let (placed, told) = ("\".rri-tmp-1\", 12</h/w>", "delivered a.txt");
        let (hidden, gone) = ("\"a.txt\", 12</h/w>, \".rri-1\"", "\".rri-1\", 14</h/w/done>");
        let content = "a.txt.result.json got its name before its content was durable";
        let unplaced = "the journal was told of /h/w/a.txt.result.json before its name was durable";
        let untold = "/h/w/a.txt was touched before its delivery was durable in the journal";
        let early = "the journal was told that /h/w/.rri-1 went before that was durable";
        for (what, said) in [
            (moved(placed, placed, 1), content),
            (moved(placed, placed, 2), content),
            (moved("5 fsync(13", "<... write resumed>", 0), content),
            (moved(placed, "13</h/w/.rri-tmp-1>, \"{}\"", 0), "a.txt.result.json got its name before it was written"),
            (moved(told, told, 1), unplaced),
            (moved(told, told, 2), unplaced),
            (moved(hidden, hidden, 1), untold),
            (moved(hidden, hidden, 2), untold),
            (moved(hidden, hidden, 3), untold),
            (moved("\"done a.txt", "\"done a.txt", 1), early),
            (moved("\"done a.txt", "\"done a.txt", 2), early),
            (moved("mkdirat", gone, 0), "/h/w was not synced after /h/w/done came or went"),
            (moved("\"instance\"", "\"instance\"", 1), "instance got its name before its content was durable"),
            (moved("connect(", "connect(", 1), "a server was spoken to before the instance id was durable"),
            (moved("rename(\"/h/s/journal.id.new", "1 fsync(8", 0), "the journal's identity was written before"),
            (moved("1 fsync(7", "1 write(4", 0), "journal/conf was written and not synced after that"),
            (without(&[RIGHT.len() - 1]), "journal/db was written and not synced after that"),
            (without(&[at("1 fsync(8")]), "/h/s/journal was not synced after"),
        ] {
            assert!(what.contains(said), "{said:?} is not in what was said: {what:?}");
        }
        let unhidden = without(&[at(hidden) + 1, at("mkdirat"), at("mkdirat") + 1]);
        assert!(unhidden.contains("/h/w/.rri-1 went before its hidden name was durable"), "{unhidden}");
        let blob = [RIGHT, &["1 write(9</h/s/journal/blobs/7>, \"x\", 1) = 1"]].concat();
        assert!(judged(&blob).concat().contains("which nobody makes durable"));
        let late = [RIGHT, &["1 write(9</h/w/a.txt.result.json>, \"x\", 1) = 1"]].concat();
        assert!(judged(&late).concat().contains("under the name that readers look at"));
    }
}
