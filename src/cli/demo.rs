//! `demo`: an engine, a folder with sample files and the real daemon in one process, for a first look.
//!
//! It learns of deliveries as anybody would: from the files that appear beside the inputs.

mod place;
mod results;
mod samples;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::place::{Place, Written};
use self::results::{Arrival, News, Results};
use super::paint::{Paint, count, size};
use super::{Failure, Global, exit, print_error, run, runtime, say, start_logging};
use crate::config::{Config, Environment, Log, LogFormat, LogOverrides};
use crate::daemon::{self, DaemonError, Ended};
use crate::sandbox::{self, Sandbox};
use crate::show::{Shown, escaped};
use crate::signals::{self, Signals};

/// How often the inbox is looked at.
const LOOK: Duration = Duration::from_millis(150);
/// Records the engine keeps: nobody reads them here.
const ENGINE_LOG: usize = 100;
/// How long the engine may take to end.
const ENGINE_STOP: Duration = Duration::from_secs(5);
/// Width of the column of names; a longer one pushes the others aside.
const NAME_WIDTH: usize = 22;
/// The sample whose result is the example to look at.
const WELCOME: &str = "welcome.txt";

/// Try it out: watch a folder with sample files, with an engine in this very process.
///
/// Needs no server, no key and no configuration. It makes a folder with an inbox, sends what is in it, shows each
/// result as it arrives, and goes on watching until Ctrl-C. The folder stays.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Use this folder, which is made if it is missing; what is in it is never overwritten. Default: a fresh one in the
    /// temporary directory.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// End when every file has its result; exit 1 if one failed.
    #[arg(long)]
    once: bool,
}

pub(super) fn main(global: &Global, args: &Args) -> Result<ExitCode, Failure> {
    // Warnings are for a person to see; the ordinary log would hide what the demo shows.
    let level = "warn".parse().unwrap_or_default();
    let log = global.log().over(&Log { level, format: LogFormat::Pretty });
    start_logging(global, &log)?;
    let log = LogOverrides { level: Some(log.level), format: Some(log.format) };
    let signals = signals::listen()?;
    let place = Place::prepare(args.dir.as_deref())?;
    let runtime = runtime()?;
    let outcome = runtime.block_on(perform(&place, args.once, log, signals));
    // A task that blocks on a dead filesystem must not keep the process.
    runtime.shutdown_background();
    outcome
}

async fn perform(place: &Place, once: bool, log: LogOverrides, signals: Signals) -> Result<ExitCode, Failure> {
    let mut stop = signals.stop.clone();
    let engine = start_engine(place.earlier_port()).await?;
    let text = place.config_text(engine.addr().port());
    let config = Config::parse(&text, &place.config(), &Environment::default())
        .map_err(|error| Failure::new(exit::FAILED, format!("this folder cannot be used for a demo: {error}")))?;
    let written = place.write_config(&text)?;
    let samples = place.write_samples()?;

    let mut screen = Screen::new(place);
    screen.head(&engine, &written, &samples);
    let options = daemon::Options { once, accept_new_instance: false, log };
    let mut daemon = tokio::spawn(daemon::run(Arc::new(config), options, signals.clone()));
    let samples: Vec<PathBuf> = samples.into_iter().map(|(sample, _)| sample.rel.into()).collect();
    let mut ticks = tokio::time::interval(LOOK);
    let (mut stopping, mut invited) = (false, false);
    let ended = loop {
        tokio::select! {
            ended = &mut daemon => break ended,
            // An error means that the listener of signals is gone, which is a stop too.
            _ = stop.wait_for(|stop| *stop), if !stopping => {
                stopping = true;
                say("");
                say("stopping: what is being sent may finish");
            }
            _ = ticks.tick() => {
                screen.arrivals();
                if !once && !stopping && !invited && screen.settled(&samples) {
                    invited = true;
                    screen.summary(&samples);
                    screen.invitation();
                }
            }
        }
    };
    screen.arrivals();
    if tokio::time::timeout(ENGINE_STOP, engine.stop()).await.is_err() {
        tracing::warn!("the engine did not end in time");
    }
    let ended = match ended {
        Ok(ended) => ended.map_err(run::failure)?,
        Err(error) => return Err(run::failure(DaemonError::Panicked(error.to_string()))),
    };
    screen.close(&samples, invited);
    Ok(verdict(&ended, &screen, &samples))
}

/// An engine of this process's own, on the port of an earlier demo in the folder if that is free.
async fn start_engine(port: Option<u16>) -> Result<Sandbox, Failure> {
    let mut options = sandbox::Options { log_limit: ENGINE_LOG, ..sandbox::Options::default() };
    if let Some(port) = port {
        let mut same = options.clone();
        same.listen.set_port(port);
        if let Ok(engine) = Sandbox::start(same).await {
            return Ok(engine);
        }
    }
    options.listen.set_port(0);
    let failed = |error| Failure::new(exit::FAILED, format!("cannot listen on 127.0.0.1: {error}"));
    Sandbox::start(options).await.map_err(failed)
}

/// A demo that was ended by a signal has done what it was for; one that ends by itself has delivered everything.
fn verdict(ended: &Ended, screen: &Screen, samples: &[PathBuf]) -> ExitCode {
    let Ended::Once(once) = ended else { return ExitCode::SUCCESS };
    for name in &once.unavailable {
        print_error(format_args!("the folder of watch {name:?} is unavailable"));
    }
    for name in &once.down {
        print_error(format_args!("pipeline {name:?} is down"));
    }
    let missing: Vec<_> = samples.iter().filter(|sample| !screen.results.has(sample)).collect();
    for sample in &missing {
        print_error(format_args!("{} has no result", Shown(sample)));
    }
    let trouble = once.failed + once.blocked + once.unsettled;
    if trouble > 0 {
        print_error(format_args!("{} could not be delivered", count(trouble, "file")));
    }
    if missing.is_empty() && trouble == 0 && once.unavailable.is_empty() && once.down.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(exit::FAILED)
    }
}

/// What a person sees.
struct Screen<'a> {
    place: &'a Place,
    paint: Paint,
    results: Results,
    began: Instant,
    delivered: u64,
    bytes: u64,
    failed: u64,
    /// A result to look at.
    example: Option<PathBuf>,
}

impl<'a> Screen<'a> {
    fn new(place: &'a Place) -> Self {
        let mut results = Results::new(place.inbox());
        // What an earlier demo left in the folder is no news.
        let earlier = results.look();
        let welcome = earlier.iter().find(|arrival| arrival.input == Path::new(WELCOME));
        let example = welcome.or(earlier.first()).map(|arrival| arrival.path.clone());
        let paint = Paint::of_stdout();
        Self { place, paint, results, began: Instant::now(), delivered: 0, bytes: 0, failed: 0, example }
    }

    fn head(&self, engine: &Sandbox, config: &Written, samples: &[(samples::Sample, Written)]) {
        let Self { place, paint, .. } = self;
        say(paint.bold("rocketride-ingest demo"));
        say("");
        say(format_args!("  folder   {}", Shown(&place.dir)));
        say(format_args!("  inbox    {}", Shown(&place.inbox())));
        say(format_args!("  config   {}", Shown(&place.config())));
        say(format_args!("  engine   {} (in this process; it only counts)", engine.uri()));
        say(format_args!("  status   http://{}/", place::page(engine.addr().port())));
        say("");
        if *config == Written::Kept {
            say("config.toml was there already and stays as it is; this demo does not use it.");
        }
        let new = samples.iter().filter(|(_, written)| *written == Written::New).count() as u64;
        let kept = samples.len() as u64 - new;
        let earlier = match kept {
            0 => String::new(),
            1 => " (1 was there already)".to_owned(),
            _ => format!(" ({kept} were there already)"),
        };
        say(format_args!("{} put into the inbox{earlier}. The results, as they arrive:", count(new, "sample file")));
        say("");
    }

    /// Prints what is new in the inbox.
    fn arrivals(&mut self) {
        for arrival in self.results.look() {
            self.arrival(&arrival);
        }
    }

    fn arrival(&mut self, arrival: &Arrival) {
        let name = Shown(&arrival.input).to_string();
        // Counted in characters, which is what a terminal shows of the samples' names.
        let padding = " ".repeat(NAME_WIDTH.saturating_sub(name.chars().count()));
        let bytes = size(arrival.bytes);
        let file = arrival.path.strip_prefix(&self.place.dir).unwrap_or(&arrival.path);
        match &arrival.news {
            News::Delivered { seconds, answer, warnings } => {
                self.delivered += 1;
                self.bytes += arrival.bytes;
                if arrival.input == Path::new(WELCOME) || self.example.is_none() {
                    self.example = Some(arrival.path.clone());
                }
                let ok = self.paint.green("ok    ");
                say(format_args!("  {ok}  {name}{padding} {bytes:>9} {seconds:>7.3} s  {}", escaped(answer)));
                say(self.paint.dim(&format!("          -> {}", Shown(file))));
                for warning in warnings {
                    say(format_args!("          {} {}", self.paint.yellow("warning:"), escaped(warning)));
                }
            }
            News::Failed { error, hint } => {
                self.failed += 1;
                let failed = self.paint.red("failed");
                say(format_args!("  {failed}  {name}{padding} {bytes:>9}            {}", escaped(error)));
                say(self.paint.dim(&format!("          -> {}", Shown(file))));
                if !hint.is_empty() {
                    say(format_args!("          {}", escaped(hint)));
                }
            }
        }
    }

    /// Whether every sample has a result or an error.
    fn settled(&self, samples: &[PathBuf]) -> bool {
        samples.iter().all(|sample| self.results.has(sample) || self.results.has_failed(sample))
    }

    fn summary(&self, samples: &[PathBuf]) {
        let with_result = samples.iter().filter(|sample| self.results.has(sample)).count() as u64;
        let all = samples.len();
        say("");
        let verb = if with_result == 1 { "has" } else { "have" };
        let line = format!("{with_result} of {all} sample files {verb} their result.");
        say(if with_result == all as u64 { self.paint.green(&line) } else { self.paint.red(&line) });
        say(format_args!("{} in {:.1} s.", self.totals(), self.began.elapsed().as_secs_f64()));
    }

    fn totals(&self) -> String {
        let failed = if self.failed > 0 { format!(", {} failed", self.failed) } else { String::new() };
        format!("{} delivered{failed}, {}", count(self.delivered, "file"), size(self.bytes))
    }

    fn invitation(&self) {
        self.look_at_one();
        say("");
        say(format_args!("Now drop a file into {}; Ctrl-C stops.", self.paint.bold("the inbox")));
        say(format_args!("  cp FILE {}", quoted(&self.place.inbox())));
        say("");
    }

    fn look_at_one(&self) {
        if let Some(example) = &self.example {
            say("");
            say("Look at a result:");
            say(format_args!("  cat {}", quoted(example)));
        }
    }

    fn close(&self, samples: &[PathBuf], summed_up: bool) {
        if summed_up {
            say(format_args!("{} in all.", self.totals()));
        } else {
            self.summary(samples);
            self.look_at_one();
        }
        say("");
        say(format_args!("Everything stays in {}.", Shown(&self.place.dir)));
        say("For real use: copy config.example.toml to /etc/rocketride-ingest/config.toml,");
        say("edit it, and try it with");
        say("  rocketride-ingest check");
    }
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_path_can_be_pasted_into_a_shell() {
        assert_eq!(quoted(Path::new("/tmp/it's here")), r"'/tmp/it'\''s here'");
    }
}
