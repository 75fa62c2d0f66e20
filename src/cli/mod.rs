//! The command line: one file a command, and the only place that prints.

mod check;
mod config;
mod control;
mod demo;
mod journal;
mod manual;
mod paint;
mod run;
mod sandbox;
mod send;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::{Config, ConfigError, Environment, Log, LogFormat, LogLevel, LogOverrides};
use crate::panics;
use crate::telemetry;

/// Where the configuration is looked for by default.
const DEFAULT_CONFIG: &str = "/etc/rocketride-ingest/config.toml";

/// Heading of the options that every command takes, so that they do not stand between its own.
const EVERYWHERE: &str = "Options of every command";

/// Exit codes, as `sysexits.h` has them where it has one.
pub mod exit {
    /// Something failed; standard error says what.
    pub const FAILED: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 64;
    /// The server, or a pipeline on it, is not to be had.
    pub const UNAVAILABLE: u8 = 69;
    /// No daemon answers, or another one has the state directory.
    pub const TEMPORARY: u8 = 75;
    /// The configuration file is wrong.
    pub const CONFIG: u8 = 78;
}

/// Watches folders and sends every file that settles in them to a RocketRide pipeline; each comes back as a
/// result beside it.
///
/// Start with `rocketride-ingest demo`: it needs nothing else. For real use, copy `config.example.toml` to
/// /etc/rocketride-ingest/config.toml, edit it, and try it with `rocketride-ingest check`.
#[derive(Debug, Parser)]
#[command(name = "rocketride-ingest", version, propagate_version = true, subcommand_required = true)]
#[command(
    after_help = "Exit codes: 0 fine, 1 failed, 64 usage, 69 server unavailable, 75 no daemon answers, or another is running, 78 wrong \
                        configuration file."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, clap::Args)]
struct Global {
    /// The configuration file.
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "FILE", env = "ROCKETRIDE_INGEST_CONFIG", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Where the running daemon listens, for the commands that talk to it.
    ///
    /// By default `admin.socket` of the configuration file if that can be read, else as systemd says.
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// How the log looks, auto, pretty, json or journald: `auto` is journald under systemd, pretty on a terminal, else
    /// json.
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "FORMAT", value_parser = parse::<LogFormat>)]
    log_format: Option<LogFormat>,
    /// What is logged: error, warn, info, debug or trace; also per module, as in `info,rocketride_ingest::intake=debug`.
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "LEVEL", value_parser = parse::<LogLevel>)]
    log_level: Option<LogLevel>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Check(check::Args),
    #[command(visible_alias = "upload")]
    Send(send::Args),
    Status(control::status::Args),
    List(control::list::Args),
    Explain(control::explain::Args),
    Audit(control::audit::Args),
    Retry(control::repair::Retry),
    Forget(control::repair::Forget),
    Pause(control::pause::Pause),
    Resume(control::pause::Resume),
    Rescan(control::pause::Rescan),
    Config(config::Args),
    Reload(control::reload::Args),
    #[command(subcommand)]
    Journal(journal::Command),
    Sandbox(sandbox::Args),
    Demo(demo::Args),
    Completions(manual::Completions),
    Man(manual::ManPage),
}

/// Reads the command line, runs the command, and says how it went.
pub fn main() -> ExitCode {
    let matches = match Cli::command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            // Help and version are no errors; they go to standard output.
            let code = if error.use_stderr() { exit::USAGE } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(exit::USAGE);
        }
    };
    let outcome = match cli.command {
        Command::Run(args) => run::main(&cli.global, &args),
        Command::Check(args) => check::main(&cli.global, &args),
        Command::Send(args) => send::main(&cli.global, &args),
        Command::Status(args) => control::status::main(&cli.global, &args),
        Command::List(args) => control::list::main(&cli.global, &args),
        Command::Explain(args) => control::explain::main(&cli.global, &args),
        Command::Audit(args) => control::audit::main(&cli.global, &args),
        Command::Retry(args) => control::repair::retry(&cli.global, &args),
        Command::Forget(args) => control::repair::forget(&cli.global, &args),
        Command::Pause(args) => control::pause::pause(&cli.global, &args),
        Command::Resume(args) => control::pause::resume(&cli.global, &args),
        Command::Rescan(args) => control::pause::rescan(&cli.global, &args),
        Command::Config(args) => config::main(&cli.global, &args),
        Command::Reload(args) => control::reload::main(&cli.global, &args),
        Command::Journal(command) => journal::main(&cli.global, &command),
        Command::Sandbox(args) => sandbox::main(&cli.global, &args),
        Command::Demo(args) => demo::main(&cli.global, &args),
        Command::Completions(args) => Ok(manual::completions(&args)),
        Command::Man(args) => manual::man(&args),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

/// Why a command failed, and the exit code that says so.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    fn new(code: u8, message: impl std::fmt::Display) -> Self {
        Self { code, message: message.to_string() }
    }

    fn report(&self) -> ExitCode {
        print_error(&self.message);
        ExitCode::from(self.code)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(exit::CONFIG, error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(exit::FAILED, error)
    }
}

impl Global {
    /// The configuration as the files have it.
    fn load(&self) -> Result<Config, Failure> {
        Ok(Config::load(&self.config, &Environment::from_process())?)
    }

    /// What the command line says about logs.
    fn log(&self) -> LogOverrides {
        LogOverrides { level: self.log_level.clone(), format: self.log_format }
    }
}

/// Begins to log as the command line says, else as `written`; a second subscriber in one process is a defect.
fn start_logging(global: &Global, written: &Log) -> Result<(), Failure> {
    telemetry::init(&global.log().over(written))
        .map_err(|error| Failure::new(exit::FAILED, format!("cannot begin to log: {error}")))?;
    panics::watch();
    Ok(())
}

/// The async runtime of a command.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(exit::FAILED, format!("cannot start the runtime: {error}")))
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// A line on standard output. A closed pipe is no error: the reader has seen enough.
#[allow(clippy::print_stdout)]
fn say(line: impl std::fmt::Display) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A whole text on standard output, as [`say`] prints a line.
fn print(text: impl AsRef<[u8]>) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_ref()).and_then(|()| out.flush());
}

/// A line on standard error.
fn print_error(message: impl std::fmt::Display) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "rocketride-ingest: {message}");
}
