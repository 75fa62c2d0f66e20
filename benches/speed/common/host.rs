//! A scratch host: configuration, state, inbox, log and one daemon; and an engine as a process of its own, so that what it
//! costs is not ours.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Usage, usage};

/// The program that is measured, built as the library beside it.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_rocketride-ingest");
/// The engine's key.
pub const KEY: &str = "sandbox";
/// How long anything that must happen may take. Reached only by a defect.
const PATIENCE: Duration = Duration::from_secs(1800);

/// Ends a process that nobody waits for.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An engine that is a process.
pub struct Engine {
    child: Killed,
    uri: String,
}

impl Engine {
    /// Starts one whose tasks have so many pipe slots.
    pub fn start(threads: usize) -> Self {
        let mut command = Command::new(PROGRAM);
        command.args(["--log-level", "warn", "sandbox", "--listen", "127.0.0.1:0", "--threads", &threads.to_string()]);
        let mut child = Killed(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap());
        let mut line = String::new();
        BufReader::new(child.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let uri = line.trim().rsplit(' ').next().unwrap().to_owned();
        assert!(uri.starts_with("http://"), "the engine said {line:?}");
        Self { child, uri }
    }

    /// Where it listens.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// What it uses.
    pub fn usage(&self) -> Usage {
        usage(self.child.0.id())
    }
}

/// A scratch host.
pub struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    /// An empty host with a pipeline file and an inbox `in`.
    pub fn new() -> Self {
        let dir = super::scratch();
        let host = Self { dir };
        fs::create_dir(host.path("in")).unwrap();
        host.pipeline_file("test");
        host
    }

    /// A path on the host.
    pub fn path(&self, rel: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(rel)
    }

    /// Writes `PROJECT.pipe`, a pipeline whose task is another one than that of other projects.
    pub fn pipeline_file(&self, project: &str) {
        let pipe = format!(
            r#"{{"pipeline": {{"project_id": "{project}", "source": "webhook_1",
            "components": [{{"id": "webhook_1", "provider": "webhook", "config": {{}}}}]}}}}"#
        );
        fs::write(self.path(format!("{project}.pipe")), pipe).unwrap();
    }

    /// The usual configuration: a pipeline `test` given as a file, a watch `in`. `pipeline` are further lines of
    /// `[pipelines.test]`; `rest` goes to the end, that is into `[[watch]]` until another table begins.
    pub fn configure(&self, uri: &str, pipeline: &str, rest: &str) {
        let host = self.path("");
        let host = host.to_str().unwrap().trim_end_matches('/');
        let text = format!(
            "[server]\nuri = \"{uri}\"\n[state]\ndirectory = \"{host}/state\"\nmin_free = \"0\"\n\
             [admin]\nsocket = \"{host}/admin.sock\"\n[log]\nformat = \"json\"\n\
             [pipelines.test]\nfile = \"test.pipe\"\n{pipeline}\n\
             [[watch]]\nname = \"in\"\npath = \"{host}/in\"\npipeline = \"test\"\n{rest}\n"
        );
        fs::write(self.path("config.toml"), text).unwrap();
    }

    /// The program with this host's configuration.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("--config").arg(self.path("config.toml")).args(args);
        // As the unit says.
        command.env("MALLOC_ARENA_MAX", "2");
        command.env("ROCKETRIDE_APIKEY", KEY).stdin(Stdio::null());
        command
    }

    /// Starts the daemon, with its log in `log`, at this level.
    pub fn start(&self, level: &str) -> Daemon<'_> {
        self.start_with(level, &[])
    }

    /// As [`Host::start`], with these in its environment.
    pub fn start_with(&self, level: &str, environment: &[(&str, &str)]) -> Daemon<'_> {
        let log = fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        let began = Instant::now();
        let mut command = self.command(&["--log-level", level, "run"]);
        command.envs(environment.iter().copied());
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        Daemon { host: self, child: Killed(child), began }
    }

    /// One answer over the admin socket, its head included.
    pub fn get(&self, path: &str) -> String {
        let mut stream = UnixStream::connect(self.path("admin.sock")).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 "), "{path}");
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// The daemon, running.
pub struct Daemon<'a> {
    host: &'a Host,
    child: Killed,
    /// When it was started.
    pub began: Instant,
}

impl Daemon<'_> {
    /// What it uses.
    pub fn usage(&self) -> Usage {
        usage(self.child.0.id())
    }

    /// How often its threads have woken so far.
    pub fn wakeups(&self) -> u64 {
        super::wakeups(self.child.0.id())
    }

    /// Waits for a message in its log; returns the time since the start.
    pub fn logged(&self, message: &str) -> Duration {
        self.wait_for(message, || fs::read_to_string(self.host.path("log")).unwrap().contains(message))
    }

    /// Waits until it can be asked.
    pub fn answers(&self) {
        self.wait_for("its socket", || UnixStream::connect(self.host.path("admin.sock")).is_ok());
    }

    /// Waits until this is so, looking every few milliseconds; returns the time since the start.
    pub fn wait_for(&self, what: &str, mut done: impl FnMut() -> bool) -> Duration {
        while !done() {
            let log = self.host.path("log");
            assert!(self.began.elapsed() < PATIENCE, "waited in vain for {what}; the log is {}", log.display());
            std::thread::sleep(Duration::from_millis(5));
        }
        self.began.elapsed()
    }

    /// The sum of a metric over its labels that contain `label`.
    pub fn metric(&self, name: &str, label: &str) -> f64 {
        let text = self.host.get("/metrics");
        let rows = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        rows.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(mut self) {
        let pid = self.child.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.child.0.wait().unwrap();
    }
}
