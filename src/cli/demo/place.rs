//! The demo's folder: inbox, state, pipeline file, configuration and samples. What is there already is never written.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::samples::{self, Sample};
use crate::cli::{Failure, exit};
use crate::config::MAX_SOCKET_PATH;
use crate::sandbox::DEFAULT_API_KEY;
use crate::show::Shown;

/// Fresh names that are tried in the temporary directory.
const NAMES: usize = 100;
/// A configuration of ours is never larger, in bytes.
const MAX_CONFIG: u64 = 64 * 1024;

const PIPE: &str = r#"{
  "pipeline": {
    "project_id": "rocketride-ingest-demo",
    "source": "webhook_1",
    "components": [
      { "id": "webhook_1", "provider": "webhook", "config": { "mode": "Source" } },
      { "id": "response_1", "provider": "response", "config": {}, "input": [{ "lane": "text", "from": "webhook_1" }] }
    ]
  }
}
"#;

/// The folder in which a demo takes place.
#[derive(Debug)]
pub(super) struct Place {
    /// Absolute.
    pub(super) dir: PathBuf,
}

/// What became of a file that was to be written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It is new.
    New,
    /// A file of this name was there, and stays as it was.
    Kept,
}

impl Place {
    /// The folder that was asked for, or a fresh one that stays.
    pub(super) fn prepare(asked: Option<&Path>) -> Result<Self, Failure> {
        let dir = match asked {
            None => fresh()?,
            Some(asked) => {
                let failed = |error| cannot("use", asked, &error);
                let dir = std::path::absolute(asked).map_err(failed)?;
                DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(failed)?;
                fs::canonicalize(&dir).map_err(failed)?
            }
        };
        if dir.to_str().is_none() {
            return Err(Failure::new(
                exit::FAILED,
                format!("{}: a configuration file can only name folders in UTF-8; choose another --dir", Shown(&dir)),
            ));
        }
        let place = Self { dir };
        let inbox = place.inbox();
        fs::create_dir_all(&inbox).map_err(|error| cannot("create", &inbox, &error))?;
        let pipe = place.pipe();
        write_new(&pipe, PIPE.as_bytes(), 0o644).map_err(|error| cannot("write", &pipe, &error))?;
        Ok(place)
    }

    /// The watched folder.
    pub(super) fn inbox(&self) -> PathBuf {
        self.dir.join("inbox")
    }

    /// The configuration file.
    pub(super) fn config(&self) -> PathBuf {
        self.dir.join("config.toml")
    }

    fn pipe(&self) -> PathBuf {
        self.dir.join("demo.pipe")
    }

    /// The port of the engine of an earlier demo in this folder: its configuration stays true if it is free.
    pub(super) fn earlier_port(&self) -> Option<u16> {
        let mut text = String::new();
        let file = File::open(self.config()).ok()?;
        io::Read::read_to_string(&mut io::Read::take(file, MAX_CONFIG), &mut text).ok()?;
        let port: u16 = text.split_once("uri = \"http://127.0.0.1:")?.1.split_once('"')?.0.parse().ok()?;
        // Only a file that is ours to the last letter says anything.
        (port != 0 && text == self.config_text(port)).then_some(port)
    }

    /// The configuration of this demo.
    pub(super) fn config_text(&self, port: u16) -> String {
        let quoted = |path: PathBuf| toml::Value::String(path.to_string_lossy().into_owned()).to_string();
        let (state, pipe, inbox) = (quoted(self.dir.join("state")), quoted(self.pipe()), quoted(self.inbox()));
        let (socket, page) = (self.dir.join("admin.sock"), page(port));
        // Deep in some folder a socket cannot be; the commands are told so when they are tried.
        let fits = socket.as_os_str().len() <= MAX_SOCKET_PATH;
        let socket = if fits { format!("socket = {}\n", quoted(socket)) } else { String::new() };
        format!(
            r#"# The configuration of a demo of rocketride-ingest. All keys are explained in config.example.toml.
#
# The demo's engine is gone when the demo has ended. To go on with this file without it:
#     rocketride-ingest sandbox --listen 127.0.0.1:{port}
#     rocketride-ingest --config FILE check
#     rocketride-ingest --config FILE run

[server]
uri = "http://127.0.0.1:{port}"
# The sandbox's key. A real one belongs into a file of its own: api_key_file.
api_key = "{DEFAULT_API_KEY}"

[retry]
attempts = 3
initial = "1s"
max = "5s"

[state]
directory = {state}
min_free = "0"

[admin]
# What `status` and its like talk to, and the status page for a browser.
{socket}listen = "{page}"

[pipelines.demo]
file = {pipe}

[[watch]]
name = "inbox"
path = {inbox}
pipeline = "demo"
# Short, so that nobody has to wait.
settle = "300ms"
"#
        )
    }

    /// Writes the configuration unless there is one.
    pub(super) fn write_config(&self, text: &str) -> Result<Written, Failure> {
        let path = self.config();
        // It holds a key, so nobody else may read it.
        let written = write_new(&path, text.as_bytes(), 0o600).map_err(|error| cannot("write", &path, &error))?;
        let same = || fs::read(&path).is_ok_and(|there| there == text.as_bytes());
        Ok(if written == Written::Kept && same() { Written::New } else { written })
    }

    /// Puts the samples into the inbox; those whose names are taken stay out.
    pub(super) fn write_samples(&self) -> Result<Vec<(Sample, Written)>, Failure> {
        let write = |sample: Sample| {
            let path = self.inbox().join(sample.rel);
            let failed = |error| cannot("write", &path, &error);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(failed)?;
            }
            let written = write_new(&path, &sample.content, 0o644).map_err(failed)?;
            Ok((sample, written))
        };
        samples::all().into_iter().map(write).collect()
    }
}

/// Where the status page of a demo is: every address of the loopback network has all ports to itself.
pub(super) fn page(port: u16) -> SocketAddr {
    (Ipv4Addr::new(127, 0, 0, 2), port).into()
}

/// A folder in the temporary directory that did not exist, and that nobody else can look into.
fn fresh() -> Result<PathBuf, Failure> {
    let above = std::env::temp_dir();
    let above = fs::canonicalize(&above).map_err(|error| cannot("use", &above, &error))?;
    for _ in 0..NAMES {
        let dir = above.join(format!("rocketride-demo-{:06x}", fastrand::u32(..1 << 24)));
        match DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(cannot("create", &dir, &error)),
        }
    }
    Err(Failure::new(exit::FAILED, format!("no free name for a folder in {}; use --dir", Shown(&above))))
}

/// Writes a file unless anything stands at its name.
fn write_new(path: &Path, content: &[u8], mode: u32) -> io::Result<Written> {
    match OpenOptions::new().write(true).create_new(true).mode(mode).open(path) {
        Ok(mut file) => file.write_all(content).map(|()| Written::New),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(Written::Kept),
        Err(error) => Err(error),
    }
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::new(exit::FAILED, format!("cannot {what} {}: {error}", Shown(path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Environment};

    #[test]
    fn the_written_configuration_is_one_and_is_recognised_again() {
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("a \"quoted\" folder\\");
        let place = Place::prepare(Some(&odd)).unwrap();
        let text = place.config_text(4711);
        assert_eq!(place.write_config(&text).unwrap(), Written::New);
        let config = Config::load(&place.config(), &Environment::default()).unwrap();
        assert_eq!(config.watches[0].path, place.inbox());
        assert_eq!(place.earlier_port(), Some(4711));
        assert!(crate::client::load_pipeline(&place.pipe()).is_ok());

        assert_eq!(place.write_config(&text).unwrap(), Written::New, "the same once more");
        assert_eq!(place.write_config(&place.config_text(4712)).unwrap(), Written::Kept);
        fs::write(place.config(), text + "# mine\n").unwrap();
        assert_eq!(place.earlier_port(), None);
    }
}
