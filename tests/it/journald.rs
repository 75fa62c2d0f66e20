//! The log in systemd's journal: what arrives where journald listens, and what happens where nobody does.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::{Host, carry, engine};
use crate::mount::skipped;

type Entry = BTreeMap<String, String>;

/// The longest entry that is read.
const MAX_ENTRY: usize = 256 * 1024;
/// How long an entry is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A host whose programs see this journal instead of the machine's.
struct Journal {
    socket: UnixDatagram,
}

impl Journal {
    /// `None`, said aloud, where the tests may not make a namespace of mounts.
    fn of(host: &Host) -> Option<Self> {
        let probe = Self::around(host, &Command::new("true")).stderr(Stdio::piped()).output().unwrap();
        if !probe.status.success() {
            skipped(&format!("no namespace of mounts: {}", String::from_utf8_lossy(&probe.stderr).trim()));
            return None;
        }
        std::fs::create_dir_all(host.path("journal")).unwrap();
        let socket = UnixDatagram::bind(host.path("journal/socket")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Some(Self { socket })
    }

    /// The command, in a namespace in which nothing but this host's journal is in `/run`.
    fn around(host: &Host, command: &Command) -> Command {
        let script = "mount -t tmpfs none /run && mkdir -p /run/systemd/journal \
                      && mount --bind \"$1\" /run/systemd/journal && shift && exec \"$@\"";
        std::fs::create_dir_all(host.path("journal")).unwrap();
        let mut wrapped = Command::new("unshare");
        wrapped.args(["--mount", "sh", "-c", script, "sh"]).arg(host.path("journal"));
        carry(command, &mut wrapped);
        wrapped
    }

    /// The next entry whose message begins so.
    fn entry(&self, message: &str) -> Entry {
        let mut buffer = vec![0; MAX_ENTRY];
        loop {
            let length = self.socket.recv(&mut buffer).unwrap_or_else(|error| panic!("no {message:?} comes: {error}"));
            let text = std::str::from_utf8(&buffer[..length]).unwrap();
            let fields = text.lines().map(|line| line.split_once('=').unwrap_or_else(|| panic!("{line:?}")));
            let entry: Entry = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            if entry.get("MESSAGE").is_some_and(|there| there.starts_with(message)) {
                return entry;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn under_systemd_every_value_is_a_field_of_the_journal() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    host.edit_config("format = \"json\"", "format = \"auto\"");
    let Some(journal) = Journal::of(&host) else { return };
    // What systemd does: standard error is the journal's stream, and a variable says which file that is.
    let log = File::options().create(true).append(true).open(host.path("daemon.log")).unwrap().metadata().unwrap();
    let mut command = Journal::around(&host, &host.command(&["run"]));
    command.env("JOURNAL_STREAM", format!("{}:{}", log.dev(), log.ino()));
    let daemon = host.spawn(command);

    host.write("in/an\nodd name.txt", "hello");
    let delivered = tokio::task::spawn_blocking(move || journal.entry("delivered")).await.unwrap();
    assert_eq!(delivered["RRI_PATH"], r"an\nodd name.txt", "{delivered:?}");
    assert_eq!(delivered["RRI_WATCH"], "in");
    assert_eq!(delivered["PRIORITY"], "6");
    assert!(delivered["MESSAGE"].contains(r"path=an\nodd name.txt"), "{delivered:?}");
    assert_eq!(daemon.log(), "", "nothing is said twice");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_journal_the_log_is_json_and_says_so() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    let Some(journal) = Journal::of(&host) else { return };
    drop(journal);
    let daemon = host.spawn(Journal::around(&host, &host.command(&["run", "--log-format", "journald"])));
    host.drop_files("f", 1);
    daemon.logged("delivered").await;
    let said = daemon.messages("the journal cannot be reached, so the log is JSON on standard error");
    assert_eq!(said.len(), 1, "{}", daemon.log());
    assert_eq!(said[0]["level"], "WARN");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_journal_does_not_take_goes_to_standard_error() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    let Some(journal) = Journal::of(&host) else { return };
    let daemon = host.spawn(Journal::around(&host, &host.command(&["run", "--log-format", "journald"])));
    let journal = tokio::task::spawn_blocking(move || {
        journal.entry("ready");
        journal
    });
    drop(journal.await.unwrap());
    host.drop_files("f", 1);
    daemon.logged("INFO delivered").await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_variable_of_another_standard_error_is_not_believed() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    host.edit_config("format = \"json\"", "format = \"auto\"");
    let mut command = host.command(&["run"]);
    command.env("JOURNAL_STREAM", "8:1");
    let daemon = host.spawn(command);
    host.drop_files("f", 1);
    daemon.logged("\"delivered\"").await;
    assert!(daemon.messages("the journal cannot be reached, so the log is JSON on standard error").is_empty());
    daemon.stop().await;
}
