//! `sandbox`: the embedded engine as a server of its own.

use std::net::SocketAddr;
use std::process::ExitCode;

use secrecy::SecretString;

use super::{Failure, Global, exit, runtime, say, start_logging};
use crate::config::Log;
use crate::sandbox::{DEFAULT_API_KEY, Options, Sandbox};
use crate::signals;

/// Records of deliveries that are kept: nobody reads them here, and an engine may run for weeks.
const LOG_LIMIT: usize = 10_000;

/// Run an engine that speaks the RocketRide protocol, for trying things out.
///
/// It runs no pipeline: it takes any pipeline file, counts and hashes what arrives, keeps none of it, and says in the
/// result how many bytes, lines and words it was. The official SDKs take it for a server.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to listen; port 0 takes any free one, and the first line printed says which.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:5565")]
    listen: SocketAddr,
    /// The account's API key.
    #[arg(long, value_name = "KEY", default_value = DEFAULT_API_KEY)]
    api_key: String,
    /// Pipe slots of a task that is started without `threads`.
    #[arg(long, value_name = "N", default_value_t = Options::default().threads)]
    threads: usize,
}

pub(super) fn main(global: &Global, args: &Args) -> Result<ExitCode, Failure> {
    start_logging(global, &Log::default())?;
    let mut stop = signals::listen()?.stop;
    let options = Options {
        listen: args.listen,
        api_key: SecretString::from(args.api_key.as_str()),
        threads: args.threads,
        log_limit: LOG_LIMIT,
        ..Options::default()
    };
    runtime()?.block_on(async {
        let sandbox = Sandbox::start(options)
            .await
            .map_err(|error| Failure::new(exit::FAILED, format!("cannot listen on {}: {error}", args.listen)))?;
        say(format_args!("sandbox listening on {}", sandbox.uri()));
        // An error means that the listener of signals is gone, which is a stop too.
        let _ = stop.wait_for(|stop| *stop).await;
        sandbox.stop().await;
        Ok(ExitCode::SUCCESS)
    })
}
