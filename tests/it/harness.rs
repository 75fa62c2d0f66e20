//! What every test needs: an engine in this process, the daemon as a child, a folder between them.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use rocketride_ingest::job::WatchId;
use rocketride_ingest::journal::{Journal, OpenError};
use rocketride_ingest::sandbox::{Delivery, Options, Sandbox};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// How long a test waits for what must happen. Reached only by a defect.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// The engine's key.
pub const KEY: &str = "test-key-4711";
/// User and group of [`Host::unprivileged`].
const NOBODY: u32 = 65534;
/// The smallest pipeline file.
const PIPE: &str = r#"{"pipeline": {"project_id": "test", "source": "webhook_1",
    "components": [{"id": "webhook_1", "provider": "webhook", "config": {}}]}}"#;

/// A scratch host: configuration, state, inbox and logs of one daemon.
pub struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    /// An empty host with a pipeline file, the engine's key, and an inbox `in`.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = Self { dir };
        std::fs::create_dir(host.path("in")).unwrap();
        host.write("test.pipe", PIPE);
        host.write_secret("key", KEY);
        host
    }

    /// A path on the host.
    pub fn path(&self, rel: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(rel)
    }

    /// The inbox.
    pub fn inbox(&self) -> PathBuf {
        self.path("in")
    }

    /// Writes a file, with its folders.
    pub fn write(&self, rel: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(rel);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Writes a file that nobody else can read.
    pub fn write_secret(&self, rel: &str, content: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.write(rel, content);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// The usual configuration: one pipeline `test` given as a file, one watch `in`, a short settle and retry.
    /// `extra` lines go to the end, that is into the `[[watch]]` table; begin another table to leave it.
    pub fn configure(&self, uri: &str, extra: &str) -> PathBuf {
        self.configure_with(uri, "", extra)
    }

    /// As [`Host::configure`], with lines for the `[server]` table.
    pub fn configure_with(&self, uri: &str, server: &str, extra: &str) -> PathBuf {
        let mut text = String::new();
        writeln!(
            text,
            "[server]\nuri = \"{uri}\"\napi_key_file = \"key\"\n{server}\n\
             [retry]\nattempts = 3\ninitial = \"100ms\"\nmax = \"1s\"\n\
             [state]\ndirectory = \"{state}\"\nmin_free = \"0\"\n\
             [log]\nformat = \"json\"\nlevel = \"info,rocketride_ingest=debug\"\n\
             [pipelines.test]\nfile = \"test.pipe\"\n\
             [[watch]]\nname = \"in\"\npath = \"{inbox}\"\npipeline = \"test\"\nsettle = \"300ms\"\n{extra}",
            state = self.path("state").display(),
            inbox = self.inbox().display(),
        )
        .unwrap();
        self.write("config.toml", text)
    }

    /// Changes the text of the configuration; what is replaced must stand there.
    pub fn edit_config(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path("config.toml")).unwrap();
        assert!(text.contains(from), "{from:?} is not in the configuration:\n{text}");
        self.write("config.toml", text.replace(from, to));
    }

    /// Another pipeline file of the host: its project is `project`, and so its task is another one.
    pub fn pipeline_file(&self, project: &str) -> String {
        let name = format!("{project}.pipe");
        self.write(&name, PIPE.replace("\"test\"", &format!("{project:?}")));
        name
    }

    /// Gives everything on this host to the unprivileged user whom [`Host::unprivileged`] runs as. Needs root.
    pub fn give_away(&self) {
        let owner = format!("{NOBODY}:{NOBODY}");
        let status = Command::new("chown").args(["-R", &owner]).arg(self.path("")).status().unwrap();
        assert!(status.success(), "chown -R {owner}");
    }

    /// Makes a command run as an unprivileged user, for whom permissions hold. Needs root.
    pub fn unprivileged(command: &Command) -> Command {
        let mut wrapped = Command::new("setpriv");
        wrapped.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".into()]);
        carry(command, &mut wrapped);
        wrapped
    }

    /// How many generations of a watch the journal has in a state. Only while no daemon runs.
    pub async fn journaled(&self, watch: &str, state: &str) -> u64 {
        let journal = open_journal(&self.path("state")).await;
        let counters = journal.counters(WatchId::of(watch));
        journal.close().await;
        assert!(counters.balanced(), "{counters:?}");
        counters.count(state)
    }

    /// A command of the program with this host's configuration.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rocketride-ingest"));
        command.arg("--config").arg(self.path("config.toml")).args(args);
        command.env("RUNTIME_DIRECTORY", self.path(""));
        for variable in
            ["ROCKETRIDE_URI", "ROCKETRIDE_APIKEY", "STATE_DIRECTORY", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET"]
        {
            command.env_remove(variable);
        }
        command
    }

    /// Starts the daemon; its log goes to a file of the host, appended over restarts.
    pub fn start(&self) -> Daemon {
        self.start_with(&["run"])
    }

    /// Starts a command that stays, as [`Host::start`].
    pub fn start_with(&self, args: &[&str]) -> Daemon {
        self.spawn(self.command(args))
    }

    /// Starts a prepared command, as [`Host::start`].
    pub fn spawn(&self, mut command: Command) -> Daemon {
        let log = self.path("daemon.log");
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let began = file.metadata().unwrap().len();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        Daemon { child: command.spawn().unwrap(), log, began }
    }

    /// Runs a command to its end: exit code, standard output, standard error.
    pub fn output(&self, args: &[&str]) -> (i32, String, String) {
        let output = self.command(args).stdin(Stdio::null()).output().unwrap();
        (
            output.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }

    /// The result of an input given relative to the inbox, if it stands there.
    pub fn result(&self, rel: impl AsRef<Path>) -> Option<Value> {
        read_json(&sibling(&self.inbox().join(rel), ".result.json"))
    }

    /// Waits until an input has the result of this very content.
    pub async fn has_result_of(&self, rel: &str, content: &str) {
        let hash = sha256(content);
        wait_for(&format!("the result of {rel}"), || self.result(rel).is_some_and(|result| result["sha256"] == *hash))
            .await;
    }

    /// Writes so many small files of different content into the inbox; returns their names.
    pub fn drop_files(&self, prefix: &str, count: usize) -> Vec<String> {
        let names: Vec<_> = (0..count).map(|n| format!("{prefix}{n}.txt")).collect();
        for name in &names {
            self.write(self.inbox().join(name), format!("content of {name}\n"));
        }
        names
    }

    /// Waits until every one of these inputs has a result.
    pub async fn all_have_results(&self, names: &[String]) {
        wait_for("all results", || names.iter().all(|name| self.result(name).is_some())).await;
    }

    /// That every one of these inputs has a result that is of its content, at the first attempt, and no error file.
    pub fn assert_delivered_uncharged(&self, names: &[String]) {
        for name in names {
            let result = self.result(name).unwrap_or_else(|| panic!("{name} has no result"));
            assert_eq!(result["attempts"], 1, "{name}");
            assert_eq!(result["sha256"], sha256(std::fs::read(self.inbox().join(name)).unwrap()), "{name}");
            assert_eq!(self.error(name), None, "{name}");
        }
    }

    /// The error file of an input, if it stands there.
    pub fn error(&self, rel: impl AsRef<Path>) -> Option<Value> {
        read_json(&sibling(&self.inbox().join(rel), ".error.json"))
    }
}

/// A running daemon; killed when dropped.
pub struct Daemon {
    child: Child,
    log: PathBuf,
    /// Where its part of the log begins.
    began: u64,
}

impl Daemon {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(log.get(usize::try_from(self.began).unwrap()..).unwrap_or_default()).into_owned()
    }

    /// The log lines with this message, parsed.
    pub fn messages(&self, message: &str) -> Vec<Value> {
        let lines = self.log();
        let parsed = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        parsed.filter(|line| line["message"] == message).collect()
    }

    /// Waits until a text is in the log.
    pub async fn logged(&self, text: &str) {
        wait_for(&format!("{text:?} in the log"), || self.log().contains(text)).await;
    }

    /// Sends a signal by name, for example `TERM`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().unwrap();
        assert!(status.success(), "kill -s {name}");
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the daemon does not end; its log:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// SIGTERM, then waits; it must exit 0.
    pub async fn stop(mut self) {
        self.signal("TERM");
        let status = self.ended().await;
        assert!(status.success(), "{status} after SIGTERM; its log:\n{}", self.log());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the daemon ---\n{}\n---", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An engine with the tests' key; the pipe reaper is fast, so that abandoned slots come back within the test.
pub async fn engine() -> Sandbox {
    engine_with(|_| {}).await
}

/// A host with its engine and a running daemon, whose watch has these further lines.
pub async fn running(extra: &str) -> (Host, Sandbox, Daemon) {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), extra);
    let daemon = host.start();
    daemon.logged("\"message\":\"ready\"").await;
    (host, engine, daemon)
}

/// An engine with other options.
pub async fn engine_with(adjust: impl FnOnce(&mut Options)) -> Sandbox {
    let mut options = Options {
        api_key: KEY.into(),
        reap_after: Duration::from_secs(2),
        reap_scan: Duration::from_millis(500),
        ..Options::default()
    };
    adjust(&mut options);
    Sandbox::start(options).await.unwrap()
}

/// An address on which nobody else listens, now or later: an engine that ends can be followed by another one there.
pub fn own_address() -> SocketAddr {
    static COUNT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    // Each address of the loopback network has all ports to itself.
    let ip = Ipv4Addr::new(127, high, low, COUNT.fetch_add(1, Ordering::Relaxed));
    let probe = TcpListener::bind((ip, 0)).unwrap();
    probe.local_addr().unwrap()
}

/// One request on a fresh connection, given by its head: the whole answer as it came.
pub fn http_over(mut stream: impl Read + Write, head: &str, body: &str) -> String {
    write!(stream, "{head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Waits until something holds.
pub async fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether permissions can be tested: root gives the host to another user, anybody else is bound by them anyway.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

/// SHA-256 in hexadecimal.
pub fn sha256(content: impl AsRef<[u8]>) -> String {
    hex::encode(Sha256::digest(content.as_ref()))
}

/// The complete deliveries without an error, by object id.
pub fn delivered_by_object(engine: &Sandbox) -> HashMap<String, Vec<Delivery>> {
    let mut by_object: HashMap<String, Vec<Delivery>> = HashMap::new();
    for delivery in engine.deliveries().into_iter().filter(Delivery::complete) {
        by_object.entry(delivery.object_id.clone()).or_default().push(delivery);
    }
    by_object
}

/// That every one of these files was committed once, and whole.
pub fn assert_sent_once(engine: &Sandbox, names: &[String]) {
    let deliveries = engine.deliveries();
    for name in names {
        let of_it: Vec<_> = deliveries.iter().filter(|delivery| delivery.name == *name).collect();
        assert!(of_it.len() == 1 && of_it[0].complete(), "{name}: {of_it:?}");
    }
}

/// That every one of these files was committed whole, and every repeat of it under its own object id alone.
pub fn assert_repeats_replace(engine: &Sandbox, names: &[String]) {
    let deliveries = engine.deliveries();
    for name in names {
        let of_it: Vec<_> = deliveries.iter().filter(|delivery| delivery.name == *name).collect();
        assert!(!of_it.is_empty() && of_it.iter().all(|delivery| delivery.complete()), "{name}: {of_it:?}");
        assert!(of_it.iter().all(|delivery| delivery.object_id == of_it[0].object_id), "{name}: {of_it:?}");
    }
}

/// `NAME` + a suffix, in bytes.
pub fn sibling(input: &Path, suffix: &str) -> PathBuf {
    let mut name = input.file_name().unwrap().to_owned();
    name.push(suffix);
    input.with_file_name(name)
}

/// A JSON file, if it stands there whole.
pub fn read_json(path: &Path) -> Option<Value> {
    let text = std::fs::read(path).ok()?;
    Some(serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{} is not whole: {error}", path.display())))
}

/// Whether the kernel tells of writers in the folder of a host; without that, only quiet says that a file is whole.
pub fn writers_are_seen(host: &Host) -> bool {
    rocketride_ingest::lease::install_handler().unwrap();
    let probe = host.write("probe", "");
    rocketride_ingest::lease::check(&File::open(probe).unwrap()) == rocketride_ingest::lease::Writers::None
}

/// Where the result of an input stands, given the input's path; a name too long for the suffix is shortened.
pub fn result_path(input: &Path) -> PathBuf {
    use rocketride_ingest::sidecar::{Kind, name_of};
    input.with_file_name(name_of(input.file_name().unwrap(), Kind::Result, 1))
}

/// The names of what was delivered, sorted.
pub fn delivered_names(engine: &Sandbox) -> Vec<String> {
    let mut names: Vec<_> = engine.deliveries().into_iter().map(|delivery| delivery.name).collect();
    names.sort();
    names
}

/// What was ever delivered under this name, in order.
pub fn delivered_as(engine: &Sandbox, name: &str) -> Vec<Delivery> {
    engine.deliveries().into_iter().filter(|delivery| delivery.name == name).collect()
}

/// Every file beneath a folder, relative to it, sorted.
pub fn files_beneath(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(current) = folders.pop() {
        for entry in std::fs::read_dir(&current).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(folder).unwrap().to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}

/// Opens the journal of a daemon that does not run.
pub async fn open_journal(state: &Path) -> Journal {
    let deadline = Instant::now() + PATIENCE;
    let (journal, opened) = loop {
        match Journal::open(state) {
            // A process that another test is starting has our lock until it runs its own program.
            Err(OpenError::Locked { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            opened => break opened.unwrap(),
        }
    };
    assert_eq!(opened.quarantined, None);
    journal
}

/// Makes another command, which runs the one that is named at its end, run this one in its environment.
pub fn carry(command: &Command, wrapped: &mut Command) {
    wrapped.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
}
