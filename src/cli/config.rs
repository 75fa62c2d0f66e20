//! `config`: the configuration in effect, and the schema of its file. It talks to no daemon and no server.

use std::process::ExitCode;

use super::{Failure, Global, exit, say};
use crate::config::{Config, Environment, schema};

/// Show the configuration that is in effect, or the JSON Schema of its file.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Print everything that is in effect as TOML, each value with where it comes from: a default, a file and line, or a
    /// variable of the environment.
    ///
    /// No secret is printed, only where each is taken from. A service has another environment than your shell. Exit 78:
    /// the configuration is wrong.
    Show,
    /// Print the JSON Schema of the configuration file, for editors.
    Schema,
}

pub(super) fn main(global: &Global, args: &Args) -> Result<ExitCode, Failure> {
    match args.what {
        What::Show => say(Config::effective(&global.config, &Environment::from_process())?.trim_end()),
        What::Schema => {
            let text = serde_json::to_string_pretty(&schema()).map_err(|error| Failure::new(exit::FAILED, error))?;
            say(text);
        }
    }
    Ok(ExitCode::SUCCESS)
}
