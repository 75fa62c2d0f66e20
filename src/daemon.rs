//! The daemon: all wiring and supervision, on one screen.
//!
//! ```text
//! state directory -> lock, journal, identity -> recover -> one intake per watch, one line per pipeline, one dispatcher
//! ```
//!
//! Every task is supervised: a panic or a failed journal ends the daemon with an error (better down than wrong),
//! and the service manager starts it again. A stop lets what is in flight finish within `drain_timeout`.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};

use crate::admin::history::History;
use crate::admin::{self, Desk, Running};
use crate::audit;
use crate::blocking::blocking;
use crate::board::Board;
use crate::clock::unix_millis;
use crate::config::Config;
use crate::crash;
use crate::delivery::dispatch::{Dispatcher, Shared};
use crate::delivery::pipeline::Line;
use crate::delivery::spool::{Spool, SpoolError};
use crate::folder::{Availability, Folder};
use crate::identity::{Identity, IdentityError};
use crate::intake::Intake;
use crate::intake::overlap::{self, Roots};
use crate::journal::{Failure, Journal, OpenError};
use crate::lease;
use crate::once::{self, Once};
use crate::panics::{self, TaskName};
use crate::pauses::{Pauses, PausesError};
use crate::service::{extending, feed_watchdog, notify};

/// How often the status line of the service manager is renewed.
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// What the dispatcher goes by.
const DISPATCHER: &str = "the dispatcher";

/// How to run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// End when nothing is left to do.
    pub once: bool,
    /// Let a configured instance replace the kept one.
    pub accept_new_instance: bool,
}

/// How a run ended that did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It was told to stop.
    Stopped,
    /// `once`: nothing is left to do, or nothing more can be done.
    Once(Once),
}

/// Why the daemon cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The journal cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The instance id is not to be had.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The spool cannot be used.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// What an operator paused is not to be had.
    #[error(transparent)]
    Pauses(#[from] PausesError),
    /// The journal failed while running.
    #[error("{0}; the daemon stops, because what it cannot remember it must not do")]
    Journal(#[from] Failure),
    /// The handler without which a lease would be deadly cannot be installed.
    #[error("cannot install a signal handler: {0}")]
    Signal(io::Error),
    /// A task panicked.
    #[error("a task panicked: {0}; this is a defect")]
    Panicked(String),
}

/// Tasks whose end is seen, with the names they go by.
#[derive(Default)]
struct Tasks {
    set: JoinSet<Result<(), Failure>>,
    names: HashMap<Id, TaskName>,
}

impl Tasks {
    fn spawn(&mut self, name: String, task: impl Future<Output = Result<(), Failure>> + Send + 'static) {
        let name = TaskName::from(name);
        let id = self.set.spawn(panics::named(name.clone(), task)).id();
        self.names.insert(id, name);
    }

    /// Waits for the next one that fails or panics. Never resolves while none does.
    async fn failed(&mut self) -> DaemonError {
        loop {
            match self.set.join_next_with_id().await {
                None => std::future::pending().await,
                Some(Ok((id, Ok(())))) => drop(self.names.remove(&id)),
                Some(Ok((_, Err(failure)))) => return failure.into(),
                Some(Err(error)) => {
                    let name = self.names.get(&error.id()).cloned().unwrap_or_default();
                    return panicked(&name, error);
                }
            }
        }
    }
}

/// Runs the daemon until `stop` says true, or, with `once`, until nothing is left to do.
#[expect(clippy::too_many_lines, reason = "the wiring is read from the top to the bottom")]
pub async fn run(config: Arc<Config>, options: Options, mut stop: watch::Receiver<bool>) -> Result<Ended, DaemonError> {
    lease::install_handler().map_err(DaemonError::Signal)?;
    let state_dir = config.state.directory.clone();
    let (journal, opened) = extending("opening the journal", None, blocking(move || Journal::open(&state_dir))).await?;
    let accept = options.accept_new_instance;
    let identity = Arc::new(Identity::load(&config.state.directory, config.server.instance.as_deref(), accept)?);
    let spool = Arc::new(Spool::open(&config.state, identity.clone())?);
    let pauses = Arc::new(Pauses::load(&config.state.directory)?);
    let watches: Vec<_> = config.watches.iter().map(|watch| (watch.id, watch.name.clone())).collect();
    let recovered = extending("recovering", None, journal.recover(&watches, unix_millis())).await?;
    crash::point("daemon.recovered");
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"), instance = %identity.instance, records = opened.records,
        interrupted = recovered.interrupted, parked = recovered.parked, unparked = recovered.unparked, "starting"
    );

    let mut supervised = Tasks::default();
    let roots = Arc::<Roots>::default();
    let mut folders = Vec::new();
    let mut earlier = None;
    for watch in &config.watches {
        let (folder, changed) = Folder::new(watch.clone());
        let intake = Intake::new(folder.clone(), changed, journal.clone(), identity.clone(), roots.clone());
        let earlier = earlier.replace(folder.availability());
        supervised.spawn(format!("intake of watch {:?}", watch.name), async move {
            overlap::turn(earlier).await;
            Err(intake.run().await)
        });
        folders.push(folder);
    }
    let lines: Vec<_> = config.pipelines.iter().map(|pipeline| Line::new(pipeline.clone(), &config)).collect();
    for line in &lines {
        let line = line.clone();
        supervised.spawn(format!("connection of pipeline {:?}", line.config.name), async move {
            line.run().await;
            Ok(())
        });
    }
    let audits = audit::regularly(folders.clone(), journal.clone(), identity.clone(), spool.clone());
    let (stopping, stopped) = watch::channel(false);
    let board = Arc::<Board>::default();
    let shared = Shared {
        journal: journal.clone(),
        identity: identity.clone(),
        spool,
        board: board.clone(),
        paused: pauses.follow(),
        stopping: stopped.clone(),
    };
    let dispatcher = Dispatcher::new(config.clone(), shared, &folders, &lines);
    let progress = dispatcher.progress();
    let running = Running { config: config.clone(), folders: folders.clone(), lines: lines.clone() };
    let running = watch::Sender::new(Arc::new(running));
    let desk = Arc::new(Desk {
        running: running.subscribe(),
        journal: journal.clone(),
        identity: identity.clone(),
        pauses,
        board: board.clone(),
        history: History::default(),
        progress: progress.clone(),
        started_at: unix_millis(),
        stopping: stopped.clone(),
    });
    let (listen, router) = (config.admin.clone(), admin::api::router(desk.clone()));
    supervised.spawn("the admin socket".into(), async move {
        admin::listen::serve(&listen, router).await;
        Ok(())
    });
    supervised.spawn("the history".into(), async move {
        desk.history.record(&desk.journal).await;
        Ok(())
    });
    supervised.spawn("the audit".into(), async move { if options.once { Ok(()) } else { Err(audits.await) } });
    let mut dispatcher = tokio::spawn(panics::named(DISPATCHER.into(), dispatcher.run()));

    let once = once::complete(config.clone(), journal.clone(), folders.clone(), lines.clone());
    let mut once = std::pin::pin!(once);
    let mut watchdog = std::pin::pin!(feed_watchdog(progress.clone()));
    let mut status = tokio::time::interval(STATUS_EVERY);
    let mut ready = false;
    let ended = loop {
        tokio::select! {
            stopped = stop.wait_for(|stop| *stop) => match stopped {
                Ok(_) => break Ended::Stopped,
                // Who listens for signals is gone: nobody could stop this daemon any more but by a kill.
                Err(_) => return Err(DaemonError::Panicked("the thread that listens for signals".into())),
            },
            once = &mut once, if options.once => break Ended::Once(once),
            failure = journal.failed() => return Err(failure.into()),
            error = supervised.failed() => return Err(error),
            ended = &mut dispatcher => {
                dispatched(ended)?;
                return Err(Failure::Closed.into());
            }
            () = &mut watchdog => {}
            () = all_looked_at(&folders), if !ready => {
                ready = true;
                notify(&[NotifyState::Ready]);
                tracing::info!(watches = folders.len(), pipelines = lines.len(), "ready");
            }
            _ = status.tick() => notify(&[NotifyState::Status(&status_line(&journal, &lines))]),
        }
    };

    tracing::info!("stopping: what is in flight may finish within drain_timeout");
    notify(&[NotifyState::Stopping]);
    stopping.send_replace(true);
    let drained = extending("draining", Some(&progress), async {
        tokio::select! {
            drained = &mut dispatcher => dispatched(drained),
            failure = journal.failed() => Err(failure.into()),
        }
    });
    drained.await?;
    supervised.set.shutdown().await;
    extending("closing the journal", None, journal.close()).await;
    crash::point("daemon.closed");
    tracing::info!("stopped");
    Ok(ended)
}

/// Passes the dispatcher's failure on, a panic as an error that names it.
fn dispatched(ended: Result<Result<(), Failure>, JoinError>) -> Result<(), DaemonError> {
    match ended {
        Ok(ended) => Ok(ended?),
        Err(error) => Err(panicked(DISPATCHER, error)),
    }
}

/// What is said of a task that panicked, which the log has told in full.
fn panicked(name: &str, error: JoinError) -> DaemonError {
    let message = match error.try_into_panic() {
        Ok(panic) => panics::message(panic.as_ref()).to_owned(),
        Err(error) => error.to_string(),
    };
    DaemonError::Panicked(format!("{name}: {message}"))
}

/// Resolves when every root has been opened or found unavailable.
async fn all_looked_at(folders: &[Arc<Folder>]) {
    for folder in folders {
        // The sender lives in the folder itself.
        let _ = folder.availability().wait_for(|root| !matches!(root, Availability::Starting)).await;
    }
}

fn status_line(journal: &Journal, lines: &[Arc<Line>]) -> String {
    let totals = journal.totals();
    let up = lines.iter().filter(|line| line.session().is_some()).count();
    format!(
        "{} pending, {} sending, {} failed, {} blocked, {} done; {up} of {} pipelines up",
        totals.count("pending"),
        totals.count("sending"),
        totals.count("failed"),
        totals.count("blocked"),
        totals.count("done"),
        lines.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_named_and_one_that_ends_is_no_failure() {
        let mut tasks = Tasks::default();
        tasks.spawn("one that ends".into(), async { Ok(()) });
        tasks.spawn("intake of watch \"in\"".into(), async { panic!("index {}", 7) });
        let error = tasks.failed().await;
        assert_eq!(error.to_string(), "a task panicked: intake of watch \"in\": index 7; this is a defect");

        tasks.spawn("intake".into(), async { Err(Failure::Closed) });
        assert!(matches!(tasks.failed().await, DaemonError::Journal(Failure::Closed)));
        assert!(tokio::time::timeout(Duration::from_millis(20), tasks.failed()).await.is_err());
    }

    #[tokio::test]
    async fn a_dispatcher_that_panics_is_named() {
        let ended = tokio::spawn(async { panic!("no") }).await;
        let error = dispatched(ended).unwrap_err();
        assert_eq!(error.to_string(), "a task panicked: the dispatcher: no; this is a defect");
    }
}
