//! `send`: files to a pipeline, once, from the command line.
//!
//! It knows nothing of the daemon, its journal or its state: what is sent here is not remembered.

mod deliver;
mod inputs;
mod screen;
mod target;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Map, Value};

use self::deliver::{Delivery, Tally};
use self::inputs::{Inputs, MAX_FILES};
use self::screen::Screen;
use self::target::Destination;
use super::{Failure, Global, exit, print_error, runtime, start_logging};
use crate::client::object::FORBIDDEN_METADATA;
use crate::client::send_files::CONCURRENCY;
use crate::config::Log;
use crate::signals;

/// Files in flight at most: each may hold some MiB of buffers.
const MAX_CONCURRENT: u16 = 64;
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// Send files to a pipeline, once, and wait for the results.
///
/// Nothing is watched or remembered, and no file is tried twice. A directory stands for every file in it and below, except
/// hidden files and links. A pattern that the shell did not expand is expanded. `-` is standard input.
///
/// The server is --uri or `$ROCKETRIDE_URI`, the credential `$ROCKETRIDE_APIKEY`. What the environment does not have is
/// looked for in the file .env of the working directory. No configuration file is needed, unless --pipeline names a pipeline
/// of it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  export ROCKETRIDE_URI=https://rocketride.example.com ROCKETRIDE_APIKEY=...
  rocketride-ingest send --pipeline invoices.pipe a.pdf b.pdf   # starts or joins it
  rocketride-ingest send --pipeline invoices scans/   # of the configuration file
  rocketride-ingest send --token-file token '2026/**/*.pdf' --metadata customer=acme
  pg_dump shop | rocketride-ingest send --pipeline sql.pipe - --name shop.sql
  rocketride-ingest send --pipeline invoices.pipe scans/ --json | jq -r 'select(.error) | .filepath'

Exit codes: 0 every file was delivered, 1 some were not, 64 usage, 69 the server or the pipeline is not to be had, \
78 wrong configuration file.")]
pub(super) struct Args {
    /// Files, directories, patterns, or - for standard input.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// A pipeline file (ends in .pipe, or has a / in it), started if it does not run; or the name of a pipeline in the
    /// configuration file.
    #[arg(short, long, value_name = "PIPELINE", conflicts_with = "token_file")]
    pipeline: Option<String>,
    /// A file that holds the token of a running task and that others cannot read. Default: `$ROCKETRIDE_TOKEN`.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Where the server is. Default: `$ROCKETRIDE_URI`.
    #[arg(long, value_name = "URI")]
    uri: Option<String>,
    /// Something the pipeline should know of every file; repeatable.
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = metadata)]
    metadata: Vec<(String, String)>,
    /// The MIME type of every file. Default: by its name.
    #[arg(long, value_name = "TYPE", value_parser = mime_type)]
    mime: Option<String>,
    /// The name of standard input, which also decides its MIME type.
    #[arg(long, value_name = "NAME", default_value = "stdin")]
    name: String,
    /// Files in flight at a time.
    #[arg(long, value_name = "N", default_value_t = CONCURRENCY as u16,
          value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_CONCURRENT)))]
    max_concurrent: u16,
    /// Print one JSON object a file, in the order of the arguments, failed ones too: the SDK's `UPLOAD_RESULT`.
    #[arg(long)]
    json: bool,
    /// A PEM file of extra root certificates.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Send by plain HTTP requests, where a `WebSocket` does not pass.
    ///
    /// HTTP carries neither metadata nor an object id, and the server cuts text without regard for its characters: text
    /// of more than 512 bytes that is not plain ASCII may lose pieces unseen; send it with
    /// `--mime application/octet-stream`. A task that already runs is named by its token, not by its .pipe file.
    #[arg(long, conflicts_with = "metadata")]
    http: bool,
    /// Let the key and the files travel unencrypted to another host.
    #[arg(long)]
    allow_plaintext: bool,
}

pub(super) fn main(global: &Global, args: &Args) -> Result<ExitCode, Failure> {
    // What happened is said anyway; the log is for those who ask for it.
    if global.log_level.is_some() {
        start_logging(global, &Log::default())?;
    }
    let metadata = object(&args.metadata)?;
    let destination = Destination::of(global, args)?;
    let inputs = Inputs::of(&args.files);
    if inputs.too_many {
        return Err(Failure::new(exit::USAGE, format!("more than {MAX_FILES} files; send them in several commands")));
    }
    if inputs.left_out > 0 {
        print_error(format_args!("{} links or special files in directories are left out", inputs.left_out));
    }
    if args.http && args.mime.is_none() && inputs.has_text() {
        print_error("text over HTTP may lose pieces unless it is plain ASCII (see --http); this is not noticed");
    }
    if inputs.list.is_empty() {
        return Err(Failure::new(exit::FAILED, "there is no file to send"));
    }
    let stop = signals::listen()?.stop;
    let runtime = runtime()?;
    let outcome = runtime.block_on(send(args, destination, &inputs, metadata, stop));
    // Nobody waits for a standard input that never ends.
    runtime.shutdown_background();
    let tally = outcome?;
    tally.report(args.json);
    Ok(if tally.is_complete() { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) })
}

async fn send(
    args: &Args,
    destination: Destination,
    inputs: &Inputs,
    metadata: Map<String, Value>,
    mut stop: tokio::sync::watch::Receiver<bool>,
) -> Result<Tally, Failure> {
    let screen = Screen::new(inputs, args.json);
    // Without one file that is there, the server is not needed to say so.
    let token = if inputs.has_any_to_send() {
        let reached = tokio::select! {
            reached = destination.reach() => reached,
            _ = stop.wait_for(|stop| *stop) => {
                screen.clear();
                return Err(Failure::new(exit::FAILED, "interrupted; nothing was sent"));
            }
        };
        reached.inspect_err(|_| screen.clear())?
    } else {
        secrecy::SecretString::default()
    };
    let delivery = Delivery {
        client: &destination.client,
        http: destination.http.as_ref(),
        token: &token,
        metadata: &metadata,
        mime_type: args.mime.as_deref(),
        stdin_name: &args.name,
        chunk_size: destination.chunk_size,
        result_timeout: destination.result_timeout,
        concurrency: usize::from(args.max_concurrent),
        json: args.json,
        screen: &screen,
    };
    let tally = delivery.run(&inputs.list, stop).await;
    screen.clear();
    // The server notices a closed socket by itself; this is only polite.
    let _ = tokio::time::timeout(GOODBYE, destination.client.disconnect()).await;
    Ok(tally)
}

fn metadata(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE")?;
    if key.is_empty() {
        return Err("the key is empty".to_owned());
    }
    if FORBIDDEN_METADATA.contains(&key) {
        return Err(format!("{key:?} is not for metadata: the pipeline engine sets it itself"));
    }
    Ok((key.to_owned(), value.to_owned()))
}

fn mime_type(text: &str) -> Result<String, String> {
    let parts = text.split_once('/');
    let good = parts.is_some_and(|(kind, rest)| !kind.is_empty() && !rest.is_empty())
        && !text.contains(|c: char| c.is_whitespace() || c.is_control());
    if good { Ok(text.to_owned()) } else { Err("a MIME type looks like application/pdf".to_owned()) }
}

fn object(pairs: &[(String, String)]) -> Result<Map<String, Value>, Failure> {
    let mut object = Map::new();
    for (key, value) in pairs {
        if object.insert(key.clone(), value.as_str().into()).is_some() {
            return Err(Failure::new(exit::USAGE, format!("--metadata {key} is given twice")));
        }
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_a_key_and_a_value() {
        assert_eq!(metadata("a=b=c").unwrap(), ("a".to_owned(), "b=c".to_owned()));
        assert_eq!(metadata("a=").unwrap(), ("a".to_owned(), String::new()));
        for wrong in ["a", "=b", "path=x", "objectId=x"] {
            assert!(metadata(wrong).is_err(), "{wrong}");
        }
        let twice = [("a".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())];
        assert!(object(&twice).is_err());
    }

    #[test]
    fn a_mime_type_has_two_parts() {
        assert!(mime_type("text/plain;charset=utf-8").is_ok());
        for wrong in ["pdf", "/pdf", "text/", "text/a b", ""] {
            assert!(mime_type(wrong).is_err(), "{wrong}");
        }
    }
}
