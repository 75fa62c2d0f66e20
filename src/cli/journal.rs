//! `journal`: the journal of a daemon that does not run, looked at and written out.

use std::path::PathBuf;
use std::process::ExitCode;

use super::run::open_failure;
use super::{Failure, Global, exit, runtime, say};
use crate::admin::list::row;
use crate::cli::paint::count;
use crate::job::STATE_NAMES;
use crate::journal::{Journal, Looked, backups};
use crate::show::{Shown, escaped};

/// What is said of a copy that stands there.
const BACKUP: &str =
    "the journal as an earlier version left it, for a way back to that one; remove it when it is not needed any more";
/// Records written out between two looks at the journal.
const PAGE: usize = 512;

/// Look at the journal of a daemon that does not run.
///
/// Exit 75 while one runs: `list` and `audit` ask that one.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Read every row, compare everything that is written twice, and say what a start would find. Exit 1: it is damaged,
    /// and the next start puts it aside.
    Check(Args),
    /// Print every record as a line of JSON, as `list --json` does. A damaged journal is not read.
    Export(Args),
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The state directory; by default that of the configuration file.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

impl Args {
    fn directory(&self, global: &Global) -> Result<PathBuf, Failure> {
        let directory = match &self.state {
            Some(directory) => directory.clone(),
            None => global.load()?.state.directory,
        };
        if directory.is_dir() {
            return Ok(directory);
        }
        Err(Failure::new(exit::FAILED, format!("{}: there is no such state directory", Shown(&directory))))
    }
}

pub(super) fn main(global: &Global, command: &Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Check(args) => check(&args.directory(global)?),
        Command::Export(args) => export(args.directory(global)?),
    }
}

fn check(directory: &std::path::Path) -> Result<ExitCode, Failure> {
    match Journal::look(directory).map_err(open_failure)? {
        Looked::Missing => say("there is no journal yet; the first start makes one"),
        Looked::Damaged(why) => {
            let why = escaped(&why).to_string();
            return Err(Failure::new(
                exit::FAILED,
                format!(
                    "the journal is damaged: {why}. The next start puts it aside as journal.corrupt-<time> and begins an \
                     empty one; files whose results stand there are not sent again"
                ),
            ));
        }
        Looked::Sound { records, watches, older_format } => {
            say(format_args!(
                "the journal is sound: {} of {}",
                count(records, "record"),
                count(watches.len() as u64, "watch")
            ));
            for (name, counters) in watches {
                let states = STATE_NAMES.iter().filter(|state| counters.count(state) > 0);
                let states: Vec<_> = states.map(|state| format!("{} {state}", counters.count(state))).collect();
                let states = if states.is_empty() { "nothing".to_owned() } else { states.join(", ") };
                say(format_args!("  {}: {states}", escaped(&name)));
            }
            if let Some(format) = older_format {
                say(format_args!(
                    "it has the older format {format}: the next start copies it to journal.format-{format}.backup and \
                     takes it over"
                ));
            }
        }
    }
    for backup in backups(directory) {
        say(format_args!("{}: {BACKUP}", Shown(&backup)));
    }
    Ok(ExitCode::SUCCESS)
}

fn export(directory: PathBuf) -> Result<ExitCode, Failure> {
    // An opening puts a damaged one aside: that is a start's to do.
    match Journal::look(&directory).map_err(open_failure)? {
        Looked::Missing => return Ok(ExitCode::SUCCESS),
        Looked::Damaged(why) => {
            let why = escaped(&why).to_string();
            return Err(Failure::new(exit::FAILED, format!("the journal is damaged and not read: {why}")));
        }
        Looked::Sound { .. } => {}
    }
    runtime()?.block_on(async {
        let opened = tokio::task::spawn_blocking(move || Journal::open(&directory)).await;
        let (journal, _) = opened.map_err(|error| Failure::new(exit::FAILED, error))?.map_err(open_failure)?;
        for (watch, name, _) in journal.watches() {
            let mut after = None;
            loop {
                let page = journal.jobs(watch, after, PAGE).map_err(|error| Failure::new(exit::FAILED, error))?;
                let Some((last, _)) = page.last() else { break };
                after = Some(*last);
                for (key, job) in &page {
                    let line = serde_json::to_string(&row(&name, *key, job));
                    say(line.map_err(|error| Failure::new(exit::FAILED, error))?);
                }
            }
        }
        journal.close().await;
        Ok(ExitCode::SUCCESS)
    })
}
