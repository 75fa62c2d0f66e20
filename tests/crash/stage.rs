//! A host whose daemon is killed at chosen points, and what must hold once it has come to rest again.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rocketride_ingest::journal::Journal;
use rocketride_ingest::sandbox::{Effect, Rule, Sandbox};
use rocketride_ingest::sidecar::{Kind, name_of};
use serde_json::Value;

use crate::harness::{Host, PATIENCE, engine_with, read_json, sha256, sibling};

/// Attempts that a failing file has.
const ATTEMPTS: usize = 2;

/// What is to become of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It stays, with its result.
    Keep,
    /// It goes, its result stays.
    Delete,
    /// It goes to `done` with its result and the text of that.
    Move,
    /// The pipeline refuses it: it stays, with its error file.
    Fail,
    /// Strangers take every name of its result while it is on its way; it stays, with its result, once they are gone.
    Spool,
}

use End::{Delete, Fail, Keep, Move, Spool};

impl End {
    /// One file of each that comes to its end in one start.
    pub const ALL: &[Self] = &[Keep, Delete, Move, Fail];

    fn on_success(self) -> &'static str {
        match self {
            Keep | Fail | Spool => "on_success = \"keep\"",
            Delete => "on_success = \"delete\"",
            Move => "on_success = { move = \"done\" }",
        }
    }
}

/// A file in a watch of its own.
#[derive(Debug, Clone)]
struct Dropped {
    /// Its watch, and the first part of its name.
    watch: String,
    rel: PathBuf,
    end: End,
    /// How often the daemon was killed before the result stood there.
    crashes_before: usize,
    /// How often it had been sent when the daemon was killed and its result stood there.
    finished_after: Option<usize>,
}

impl Dropped {
    fn name(&self) -> &str {
        self.rel.file_name().unwrap().to_str().unwrap()
    }

    fn content(&self) -> String {
        format!("content of {}\n", self.name())
    }

    /// What lies in its watch in the end.
    fn leaves(&self) -> BTreeSet<PathBuf> {
        let with = |input: &Path, suffix: &str| BTreeSet::from([input.to_owned(), sibling(input, suffix)]);
        match self.end {
            Keep | Spool => with(&self.rel, ".result.json"),
            Delete => BTreeSet::from([sibling(&self.rel, ".result.json")]),
            Move => {
                let moved = Path::new("done").join(&self.rel);
                let mut leaves = with(&moved, ".result.json");
                leaves.insert(sibling(&moved, ".result.txt"));
                leaves
            }
            Fail => with(&self.rel, ".error.json"),
        }
    }
}

/// One host and its engine, and what was seen at each crash.
pub struct Stage {
    pub host: Host,
    pub engine: Sandbox,
    files: Vec<Dropped>,
    /// Journals that a test damaged.
    pub quarantined: usize,
}

impl Stage {
    /// A host with a watch for each of these ends, in which a file lies already.
    pub async fn new(ends: &[End]) -> Self {
        let host = Host::new();
        // What a killed daemon held open keeps its slot for a while.
        let engine = engine_with(|options| options.threads = 64).await;
        let mut text = format!(
            "[server]\nuri = \"{uri}\"\napi_key_file = \"key\"\n\
             [retry]\nattempts = {ATTEMPTS}\ninitial = \"20ms\"\nmax = \"10s\"\n\
             [state]\ndirectory = \"{state}\"\nmin_free = \"0\"\n\
             [log]\nformat = \"json\"\nlevel = \"info,rocketride_ingest=debug\"\n\
             [pipelines.test]\nfile = \"test.pipe\"\n",
            uri = engine.uri(),
            state = host.path("state").display(),
        );
        let mut files = Vec::new();
        for end in ends {
            let watch = format!("{end:?}").to_lowercase();
            let folder = if *end == Move { "sub" } else { "" };
            let file = Dropped {
                rel: Path::new(folder).join(format!("{watch}.txt")),
                watch,
                end: *end,
                crashes_before: 0,
                finished_after: None,
            };
            write!(
                text,
                "[[watch]]\nname = \"{0}\"\npath = \"{1}\"\npipeline = \"test\"\nsettle = \"50ms\"\n{2}\n\
                 [watch.results]\ntext = {3}\n",
                file.watch,
                host.path(&file.watch).display(),
                end.on_success(),
                *end == Move,
            )
            .unwrap();
            host.write(Path::new(&file.watch).join(&file.rel), file.content());
            files.push(file);
        }
        host.write("config.toml", text);
        engine.faults().add(Rule::close(Effect::NodeError { message: "no".into() }).object("fail.txt"));
        Self { host, engine, files, quarantined: 0 }
    }

    /// From now on, the file of one end is to have another.
    pub fn change(&mut self, from: End, to: End) {
        if from == Fail {
            self.engine.faults().clear();
        } else {
            self.host.edit_config(from.on_success(), to.on_success());
        }
        self.files.iter_mut().filter(|file| file.end == from).for_each(|file| file.end = to);
    }

    /// The files as they were dropped.
    pub fn inputs(&self) -> Vec<PathBuf> {
        self.files.iter().map(|file| self.host.path(&file.watch).join(&file.rel)).collect()
    }

    /// A file of the inbox of this end.
    pub fn input(&self, end: End) -> PathBuf {
        let file = self.files.iter().find(|file| file.end == end).unwrap();
        self.host.path(&file.watch).join(&file.rel)
    }

    /// Runs the daemon until it dies at a point, or to its end if it does not come to it.
    pub async fn killed_at(&mut self, point: &str) -> Result<bool, String> {
        let mut command = self.host.command(&["run", "--once"]);
        command.env("ROCKETRIDE_INGEST_CRASH_AT", point);
        let mut daemon = self.host.spawn(command);
        let status = daemon.ended().await;
        match (status.signal(), status.code()) {
            (Some(9), _) => {}
            (_, Some(0 | 1)) => return Ok(false),
            _ => return Err(format!("armed with {point} it ended with {status}; its log:\n{}", daemon.log())),
        }
        let mut files = std::mem::take(&mut self.files);
        for file in &mut files {
            if self.result(file).is_none() && !self.is_spooled(file) {
                file.crashes_before += 1;
            } else if file.finished_after.is_none() {
                file.finished_after = Some(self.sent(file));
            }
        }
        self.files = files;
        Ok(true)
    }

    /// Runs the daemon until nothing is left to do.
    pub async fn run(&self) -> Result<(), String> {
        let mut daemon = self.host.start_with(&["run", "--once"]);
        let status = daemon.ended().await;
        let expected = i32::from(self.files.iter().any(|file| file.end == Fail));
        if status.code() == Some(expected) {
            return Ok(());
        }
        Err(format!("it ended with {status}, not with {expected}; its log:\n{}", daemon.log()))
    }

    /// Runs it twice to its end, and checks that all is as if it had never been killed.
    pub async fn settle(&self) -> Result<(), String> {
        self.run().await?;
        self.check_files()?;
        let sent = self.engine.deliveries().len();
        self.run().await?;
        if self.engine.deliveries().len() != sent {
            return Err("a run with nothing to do sent something".to_owned());
        }
        self.check_files()?;
        self.check_state().await
    }

    fn check_files(&self) -> Result<(), String> {
        for file in &self.files {
            let found = files_beneath(&self.host.path(&file.watch));
            if found != file.leaves() {
                return Err(format!("in {} stand {found:?}, not {:?}", file.watch, file.leaves()));
            }
            let sent = self.sent(file);
            if file.end == Fail {
                let at_most = ATTEMPTS * (file.crashes_before + 1);
                if !(ATTEMPTS..=at_most).contains(&sent) {
                    return Err(format!("{} was tried {sent} times, not {ATTEMPTS} to {at_most}", file.name()));
                }
                continue;
            }
            let result = self.result(file).unwrap_or_default();
            if result["sha256"] != sha256(file.content()) {
                return Err(format!("{} has the result of something else: {result}", file.name()));
            }
            // Each crash before the result was there may have cost one delivery, for nothing told of it.
            let expected = file.finished_after.map_or(1..=file.crashes_before + 1, |sent| sent..=sent);
            if !expected.contains(&sent) {
                return Err(format!("{} was sent {sent} times, not {expected:?}", file.name()));
            }
        }
        let mut objects: HashMap<String, BTreeSet<String>> = HashMap::new();
        for delivery in self.engine.deliveries() {
            objects.entry(delivery.name).or_default().insert(delivery.object_id);
        }
        match objects.iter().find(|(_, ids)| ids.len() > 1) {
            Some((name, ids)) => Err(format!("{name} was sent under several object ids: {ids:?}")),
            None => Ok(()),
        }
    }

    async fn check_state(&self) -> Result<(), String> {
        let state = self.host.path("state");
        let names: Vec<String> =
            std::fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        let quarantined = names.iter().filter(|name| name.starts_with("journal.corrupt")).count();
        if quarantined != self.quarantined || names.iter().any(|name| name.contains(".new")) {
            return Err(format!("in the state directory stand {names:?}"));
        }
        let (journal, opened) = Journal::open(&state).map_err(|error| error.to_string())?;
        let (totals, watches) = (journal.totals(), journal.watches());
        journal.close().await;
        let finished = totals.count("done") + totals.count("failed");
        if opened.quarantined.is_some() || !totals.balanced() || !watches.iter().all(|(.., ledger)| ledger.balanced()) {
            return Err(format!("the journal is not whole: {opened:?}, {totals:?}"));
        }
        if finished != opened.records {
            return Err(format!("{} records, of which {finished} are finished: {totals:?}", opened.records));
        }
        Ok(())
    }

    /// Its result, where it stands now; panics if one is torn.
    fn result(&self, file: &Dropped) -> Option<Value> {
        let watch = self.host.path(&file.watch);
        let place = |rel: &Path| read_json(&sibling(&watch.join(rel), ".result.json"));
        place(&file.rel).or_else(|| place(&Path::new("done").join(&file.rel)))
    }

    /// Whether its result waits in the spool.
    fn is_spooled(&self, file: &Dropped) -> bool {
        let names = std::fs::read_dir(self.host.path("state/spool")).into_iter().flatten();
        file.end == Spool && names.flatten().any(|entry| entry.path().extension().is_some_and(|end| end == "json"))
    }

    /// The names that the result of the file to be spooled could have.
    fn result_names(&self) -> Vec<PathBuf> {
        let input = self.input(Spool);
        let name = input.file_name().unwrap();
        (1..=9).map(|n| input.with_file_name(name_of(name, Kind::Result, n))).collect()
    }

    /// Has strangers take all names of a result as soon as it is begun; the pipeline leaves them the time.
    pub fn obstruct(&self) {
        let slow = Effect::Delay(Duration::from_secs(1));
        self.engine.faults().add(Rule::close(slow).object("spool.txt").times(1));
        let (folder, names) = (self.input(Spool).parent().unwrap().to_owned(), self.result_names());
        std::thread::spawn(move || {
            let deadline = Instant::now() + PATIENCE;
            let is_begun = || {
                let mut entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
                entries.any(|entry| entry.file_name().to_string_lossy().starts_with(".rri-tmp-"))
            };
            while !is_begun() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            for name in &names {
                let _ = std::fs::create_dir(name);
            }
        });
    }

    /// The strangers go.
    pub fn clear(&self) {
        for name in self.result_names() {
            let _ = std::fs::remove_dir(name);
        }
    }

    /// How often it was committed at the server.
    fn sent(&self, file: &Dropped) -> usize {
        self.engine.deliveries().iter().filter(|delivery| delivery.name == file.name()).count()
    }
}

/// Every file beneath a folder, relative to it.
fn files_beneath(folder: &Path) -> BTreeSet<PathBuf> {
    let (mut found, mut folders) = (BTreeSet::new(), vec![folder.to_owned()]);
    while let Some(current) = folders.pop() {
        for entry in std::fs::read_dir(&current).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().to_owned());
            }
        }
    }
    found
}
