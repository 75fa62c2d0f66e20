//! The peers, which are Python programs of `benches/speed/peers`, in an environment of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Where the peers stand.
const PEERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/speed/peers");

/// A command that runs a peer. The first call makes the environment, which asks pip for what `requirements.txt` pins.
pub fn peer(script: &str) -> Command {
    let mut command = Command::new(environment().join("bin/python"));
    command.arg(Path::new(PEERS).join(script));
    command.env("PYTHONDONTWRITEBYTECODE", "1").env_remove("ROCKETRIDE_URI").env_remove("ROCKETRIDE_APIKEY");
    command
}

/// Runs a peer to its end; what it printed last, a line of JSON.
pub fn answer_of(command: &mut Command) -> Value {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{command:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(said.lines().last().unwrap()).unwrap()
}

fn environment() -> PathBuf {
    let pinned = fs::read(Path::new(PEERS).join("requirements.txt")).unwrap();
    let environment = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peers");
    let installed = environment.join("installed.txt");
    if fs::read(&installed).ok().as_ref() != Some(&pinned) {
        let _ = fs::remove_dir_all(&environment);
        run(Command::new("python3").args(["-m", "venv"]).arg(&environment));
        let mut pip = Command::new(environment.join("bin/pip"));
        run(pip
            .args(["install", "--quiet", "--disable-pip-version-check", "-r", "requirements.txt"])
            .current_dir(PEERS));
        fs::write(installed, pinned).unwrap();
    }
    environment
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}
