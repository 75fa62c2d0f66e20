//! The people who drop files: new ones, replaced ones, rewritten and renamed ones, and a ledger of what they did.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;

use crate::harness::sha256;

/// Files dropped ahead of the deliveries; then the droppers wait.
const MAX_AHEAD: u64 = 300;
/// The largest file is so many powers of two.
const LARGEST: f64 = 20.0;

/// A path: the index of its inbox, and the name in it.
pub type Name = (usize, PathBuf);

/// What was dropped at one path.
#[derive(Debug, Default)]
pub struct History {
    /// The hash of every content that ever stood there whole.
    pub versions: Vec<String>,
    /// The content that was left there; none when the file was renamed to another path.
    pub last: Option<String>,
}

/// What was dropped, by path.
pub type Ledger = BTreeMap<Name, History>;

/// One thread that drops files until it is told to stop.
pub struct Dropper {
    inboxes: Vec<PathBuf>,
    /// Whether a file may be written in place, slowly: only where the kernel tells of writers.
    slow_writers: bool,
    rng: Rng,
    count: u64,
    ledger: Ledger,
}

impl Dropper {
    pub fn new(inboxes: Vec<PathBuf>, slow_writers: bool, seed: u64) -> Self {
        Self { inboxes, slow_writers, rng: Rng::with_seed(seed), count: 0, ledger: Ledger::new() }
    }

    /// Drops until told to stop, never far ahead of what was delivered. Returns the ledger.
    pub fn run(mut self, stop: &Arc<AtomicBool>, delivered: &Arc<AtomicU64>) -> Ledger {
        while !stop.load(Ordering::Relaxed) {
            if self.count > delivered.load(Ordering::Relaxed) + MAX_AHEAD {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
            match self.rng.u32(0..100) {
                0..55 => self.drop_new(),
                55..70 => self.replace(),
                70..80 => self.rewrite(),
                80..95 => self.rename(),
                _ => (0..10).for_each(|_| self.drop_new()),
            }
            std::thread::sleep(Duration::from_millis(self.rng.u64(5..60)));
        }
        self.ledger
    }

    fn path(&self, name: &Name) -> PathBuf {
        self.inboxes[name.0].join(&name.1)
    }

    fn fresh_name(&mut self, inbox: usize) -> Name {
        self.count += 1;
        let mut rel = PathBuf::new();
        for level in 0..self.rng.usize(0..4) {
            // Now and then in a folder that is made this moment.
            let most = if self.rng.u8(0..20) == 0 { 10_000 } else { 3 };
            rel.push(format!("level {level} {}", self.rng.u32(0..most)));
        }
        (inbox, rel.join(format!("file {}.bin", self.count)))
    }

    /// Content that was never dropped before at this path, 1 byte to 1 MiB.
    fn content(&mut self, name: &Name) -> Vec<u8> {
        loop {
            let size = 2_f64.powf(self.rng.f64() * LARGEST).round();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and 2^LARGEST")]
            let mut content = vec![0; size as usize];
            self.rng.fill(&mut content);
            let hash = sha256(&content);
            if self.ledger.get(name).is_none_or(|history| !history.versions.contains(&hash)) {
                return content;
            }
        }
    }

    fn note(&mut self, name: Name, hash: String) {
        let history = self.ledger.entry(name).or_default();
        history.versions.push(hash.clone());
        history.last = Some(hash);
    }

    /// One of the paths at which a file was left.
    fn any_left(&mut self) -> Option<Name> {
        let left: Vec<_> = self.ledger.iter().filter(|(_, history)| history.last.is_some()).collect();
        // The newest are most likely to be on their way.
        let newest = left.iter().rev().take(40).map(|(name, _)| (*name).clone()).collect::<Vec<_>>();
        let pool: Vec<Name> = if self.rng.bool() { newest } else { left.iter().map(|(n, _)| (*n).clone()).collect() };
        self.rng.choice(pool)
    }

    fn drop_new(&mut self) {
        let inbox = self.rng.usize(0..self.inboxes.len());
        let name = self.fresh_name(inbox);
        let content = self.content(&name);
        let path = self.path(&name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if self.slow_writers && self.rng.u8(0..5) == 0 {
            self.write_slowly(File::create_new(&path).unwrap(), &content);
        } else {
            put(&path, &content);
        }
        self.note(name, sha256(&content));
    }

    /// Another file under the name of an earlier one, at once.
    fn replace(&mut self) {
        let Some(name) = self.any_left() else { return };
        let content = self.content(&name);
        self.count += 1;
        put(&self.path(&name), &content);
        self.note(name, sha256(&content));
    }

    /// The same file with other content, written in place. Only where files stay: elsewhere it may be gone.
    fn rewrite(&mut self) {
        let Some(name) = self.any_left().filter(|name| self.slow_writers && name.0 == 0) else { return };
        let content = self.content(&name);
        self.count += 1;
        let file = File::options().write(true).truncate(true).open(self.path(&name)).unwrap();
        self.write_slowly(file, &content);
        self.note(name, sha256(&content));
    }

    fn write_slowly(&mut self, mut file: File, content: &[u8]) {
        let cut = self.rng.usize(0..=content.len());
        file.write_all(&content[..cut]).unwrap();
        std::thread::sleep(Duration::from_millis(self.rng.u64(0..250)));
        file.write_all(&content[cut..]).unwrap();
    }

    /// A file gets another name, in the same inbox.
    fn rename(&mut self) {
        let Some(name) = self.any_left() else { return };
        let to = self.fresh_name(name.0);
        let path = self.path(&to);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // It may have been taken away after its delivery.
        if fs::rename(self.path(&name), path).is_ok() {
            let hash = self.ledger.get_mut(&name).and_then(|history| history.last.take()).unwrap();
            self.note(to, hash);
        }
    }
}

/// Puts a whole file at a path, over whatever stands there.
fn put(path: &Path, content: &[u8]) {
    let part = path.with_extension("part");
    fs::write(&part, content).unwrap();
    fs::rename(part, path).unwrap();
}
