//! `completions` and `man`: what shells and `man` want to know, made of the very definition of the command line.
//!
//! So neither can be out of date; packages write both when they are built.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use super::{Cli, Failure, exit, print, say};
use crate::show::Shown;

/// Print the completions of a shell, for it to read.
///
/// For bash: `rocketride-ingest completions bash > /usr/share/bash-completion/completions/rocketride-ingest`.
#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// Print a manual page, or write all of them into a folder.
///
/// To read one: `rocketride-ingest man run | man -l -`. To install them:
/// `rocketride-ingest man --dir /usr/local/share/man/man1`.
#[derive(Debug, clap::Args)]
pub(super) struct ManPage {
    /// The command that it is about, for example `run`; by default the program.
    #[arg(value_name = "COMMAND", conflicts_with = "dir")]
    command: Vec<String>,
    /// Write one page for the program and one for each command into this folder, which must exist.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn completions(args: &Completions) -> ExitCode {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    print(script);
    ExitCode::SUCCESS
}

pub(super) fn man(args: &ManPage) -> Result<ExitCode, Failure> {
    // There is no more to say about `help` than that it is there.
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    if let Some(dir) = &args.dir {
        let failed = |error| Failure::new(exit::FAILED, format!("cannot write to {}: {error}", Shown(dir)));
        clap_mangen::generate_to(program, dir).map_err(failed)?;
        say(format_args!("wrote the manual pages to {}", Shown(dir)));
        return Ok(ExitCode::SUCCESS);
    }
    let mut command = &program;
    for name in &args.command {
        command = command.find_subcommand(name).ok_or_else(|| unknown(command, name))?;
    }
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page)?;
    print(page);
    Ok(ExitCode::SUCCESS)
}

fn unknown(above: &Command, name: &str) -> Failure {
    let known: Vec<_> = above.get_subcommands().map(Command::get_name).collect();
    let advice = if known.is_empty() { "it has none".to_owned() } else { format!("it has {}", known.join(", ")) };
    let above = above.get_bin_name().unwrap_or(above.get_name());
    Failure::new(exit::USAGE, format!("{name:?} is no command of {above}: {advice}"))
}
