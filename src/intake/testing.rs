//! What unit tests of intake need: one on a folder of its own. It must know of no test.

use std::path::Path;
use std::sync::Arc;

use super::Intake;
use super::overlap::Roots;
use crate::blocking::blocking;
use crate::config::{Config, Environment};
use crate::folder::Folder;
use crate::fs::Root;
use crate::identity::Identity;
use crate::journal::Journal;

/// The scratch folder in which all is, an intake with an empty journal, and the open root of its watch.
pub(super) async fn intake() -> (tempfile::TempDir, Intake, Arc<Root>) {
    let dir = tempfile::tempdir().unwrap();
    let (inbox, state) = (dir.path().join("in"), dir.path().join("state"));
    std::fs::create_dir(&inbox).unwrap();
    let text = format!(
        "[server]\nuri = \"http://127.0.0.1\"\n[pipelines.p]\nfile = \"p.pipe\"\n[[watch]]\npath = {:?}\npipeline = \"p\"\n",
        inbox.display().to_string()
    );
    let config = Config::parse(&text, Path::new("/etc/config.toml"), &Environment::default()).unwrap();
    let (folder, words) = Folder::new(config.watches[0].clone());
    let opened = state.clone();
    let journal = blocking(move || Journal::open(&opened)).await.unwrap().0;
    let identity = Arc::new(Identity::load(&state, None, false).unwrap());
    let intake = Intake::new(folder, words, journal, identity, Arc::new(Roots::default()));
    (dir, intake, Arc::new(Root::open(&inbox).unwrap()))
}
