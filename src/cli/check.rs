//! `check`: everything that can be known before the first file is sent, and nothing that changes anything.
//!
//! Permissions are asked of the kernel (`access(2)`) instead of being tried: a file made in an inbox, even for an
//! instant, would be seen by whoever else watches it. Only a folder's names and attributes are read, and some files
//! are opened for reading to ask for their writers.

mod access;
mod dropin;
mod host;
mod pipeline;
mod report;
mod state;
mod walk;
mod watch;

use std::process::ExitCode;
use std::sync::Arc;

use self::report::Report;
use super::paint::{Paint, count};
use super::{Failure, Global, exit, print, runtime, say, start_logging};
use crate::config::{Config, Environment};
use crate::intake::overlap::Roots;
use crate::lease;
use crate::show::Shown;

/// Check the configuration, the folders, permissions and credentials, and the server.
///
/// Nothing is sent, started or written. Run it as the daemon's user: it can only judge what it may do itself.
///
/// Exit 0: nothing wrong, perhaps warnings. 1: something on this host is wrong. 69: only the server or a pipeline is
/// not to be had. 78: the configuration file is wrong.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Do not connect to the server.
    #[arg(long)]
    offline: bool,
    /// Print what systemd's unit must be given for these watches, and check nothing else.
    ///
    /// The folders are looked at for their groups. For the instance `NAME` of the template unit:
    /// `--config /etc/rocketride-ingest/NAME.toml`.
    #[arg(long, conflicts_with = "offline")]
    print_dropin: bool,
}

pub(super) fn main(global: &Global, args: &Args) -> Result<ExitCode, Failure> {
    if args.print_dropin {
        // The unit has a runtime and a state directory of its own, whatever this process was given.
        let env = Environment {
            credentials_directory: Some(dropin::CREDENTIALS.into()),
            state_directory: None,
            runtime_directory: None,
            ..Environment::from_process()
        };
        print(dropin::render(&Config::load(&global.config, &env)?));
        return Ok(ExitCode::SUCCESS);
    }
    let config = global.load()?;
    // What is found is said on standard output; the log is for those who ask for it.
    if global.log_level.is_some() {
        start_logging(global, &config.log)?;
    }
    config.check_uris().map_err(|error| Failure::new(exit::CONFIG, error))?;
    lease::install_handler().map_err(|error| Failure::new(exit::FAILED, error))?;

    let mut report = Report::new(Paint::of_stdout());
    say(format_args!("checking as {}", access::user()));
    if access::is_root() {
        say("root may do everything: to judge what the daemon may do, run this as its user (sudo -u USER)");
    }
    report.subject(format_args!("configuration {}", Shown(&config.origin)));
    let (watches, pipelines) = (config.watches.len(), config.pipelines.len());
    let watches_shown = if watches == 1 { "1 watch".to_owned() } else { format!("{watches} watches") };
    report.ok(format_args!("{watches_shown}, {}", count(pipelines as u64, "pipeline")));
    if watches == 0 {
        report.warning("no watch is defined, so nothing is ever sent: add a [[watch]]");
    }
    state::check(&config, &mut report);
    folders(&config, &mut report);
    if args.offline {
        for pipeline in &config.pipelines {
            pipeline::check(&config, pipeline, &mut report);
        }
    } else {
        let runtime = runtime()?;
        runtime.block_on(servers(&config, &mut report));
        runtime.shutdown_background();
    }
    report.close();
    Ok(ExitCode::from(report.code()))
}

fn folders(config: &Config, report: &mut Report) {
    let roots = Arc::<Roots>::default();
    let served: Vec<_> = config.watches.iter().filter_map(|watch| watch::check(watch, &roots, report)).collect();
    let with_events = served.iter().filter(|served| served.event_folders > 0).count() as u64;
    host::hard_links(report);
    host::inotify(with_events, served.iter().map(|served| served.event_folders).sum(), report);
}

/// One after the other: a server counts the sockets of one address that have not logged in yet.
async fn servers(config: &Config, report: &mut Report) {
    let mut unreachable = pipeline::Unreachable::default();
    for pipeline in &config.pipelines {
        if let Some(credentials) = pipeline::check(config, pipeline, report) {
            pipeline::ask(config, pipeline, credentials, &mut unreachable, report).await;
        }
    }
}
