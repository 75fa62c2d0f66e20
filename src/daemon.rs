//! The daemon: all wiring and supervision, on one screen.
//!
//! ```text
//! state directory -> lock, journal, identity -> recover -> one intake per watch, one line per pipeline, one dispatcher
//! ```
//!
//! Every task is supervised: a panic or a failed journal ends the daemon with an error (better down than wrong),
//! and the service manager starts it again. A stop lets what is in flight finish within `drain_timeout`.

mod parts;
pub mod plan;
mod tasks;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinError;

use self::parts::{Parts, ReloadError};
use self::tasks::{Tasks, panicked};
use crate::admin::hints::Hints;
use crate::admin::history::History;
use crate::admin::wire::Reloaded;
use crate::admin::{self, Desk};
use crate::audit;
use crate::blocking::blocking;
use crate::board::Board;
use crate::clock::unix_millis;
use crate::config::{Admin, Config, LogOverrides};
use crate::crash;
use crate::delivery::dispatch::{Dispatcher, Shared};
use crate::delivery::pipeline::Line;
use crate::delivery::spool::{Spool, SpoolError};
use crate::delivery::started::Started;
use crate::identity::{Identity, IdentityError};
use crate::journal::{Failure, Journal, OpenError};
use crate::lease;
use crate::once::{self, Once};
use crate::panics;
use crate::pauses::{Pauses, PausesError};
use crate::progress::Progress;
use crate::retention;
use crate::service::{extending, feed_watchdog, notify, notify_reloading};
use crate::signals::Signals;

/// How often the status line of the service manager is renewed.
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// What the dispatcher goes by.
const DISPATCHER: &str = "the dispatcher";
/// What is said to whoever wants a single pass to reload.
const NOT_ONCE: &str = "this daemon runs once and then ends: it does not reload";

/// How to run.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// End when nothing is left to do.
    pub once: bool,
    /// Let a configured instance replace the kept one.
    pub accept_new_instance: bool,
    /// What the command line says of the log; a reload does not change it.
    pub log: LogOverrides,
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

/// Runs the daemon until `stop` says true, or, with `once`, until nothing is left to do.
#[expect(clippy::too_many_lines, reason = "the wiring is read from the top to the bottom")]
pub async fn run(config: Arc<Config>, options: Options, signals: Signals) -> Result<Ended, DaemonError> {
    let Signals { mut stop, mut hangups } = signals;
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

    let (stopping, stopped) = watch::channel(false);
    let audited_spool = spool.clone();
    let board = Arc::<Board>::default();
    let shared = Shared {
        journal: journal.clone(),
        identity: identity.clone(),
        spool,
        board: board.clone(),
        paused: pauses.follow(),
        stopping: stopped.clone(),
    };
    let (orders, order_queue) = mpsc::channel(1);
    let dispatcher = Dispatcher::new(config.clone(), shared, order_queue);
    let progress = dispatcher.progress();
    let mut dispatcher = tokio::spawn(panics::named(DISPATCHER.into(), dispatcher.run()));
    let started = Arc::new(Started::load(&config.state.directory));
    let mut parts = Parts::new(config.clone(), journal.clone(), identity.clone(), board.clone(), started, orders);
    parts.log = options.log;
    parts.begin().await?;
    if !options.once {
        let running = parts.running.subscribe();
        let folders = move || running.borrow().folders.clone();
        let audits = audit::regularly(folders, journal.clone(), identity.clone(), audited_spool.clone());
        parts.tasks.spawn("the audit".into(), async move { Err(audits.await) });
        let running = parts.running.subscribe();
        let forgets = retention::regularly(
            move || {
                let running = running.borrow();
                (running.config.clone(), running.folders.clone())
            },
            journal.clone(),
            identity.clone(),
        );
        parts.tasks.spawn("the retention".into(), async move { Err(forgets.await) });
    }

    let (reloads, mut asked_to_reload) = mpsc::channel(1);
    let reloaded = Arc::new(AtomicBool::new(true));
    let desk = Arc::new(Desk {
        running: parts.running.subscribe(),
        journal: journal.clone(),
        identity,
        pauses,
        board,
        history: History::default(),
        progress: progress.clone(),
        started_at: unix_millis(),
        reloads,
        reloaded: reloaded.clone(),
        spool: audited_spool,
        hints: Hints::default(),
        auditing: Arc::default(),
        stopping: stopped,
    });
    serve_operators(&mut parts.tasks, &config.admin, desk);

    let running = parts.running();
    let mut looked_at = std::pin::pin!(parts::all_looked_at(running.clone()));
    let once = once::complete(config.clone(), journal.clone(), running.folders.clone(), running.lines.clone());
    let mut once = std::pin::pin!(once);
    let mut watchdog = std::pin::pin!(feed_watchdog(progress.clone()));
    let mut status = tokio::time::interval(STATUS_EVERY);
    let mut ready = false;
    let ended = loop {
        // Somebody asked, or a signal did.
        let asked = async {
            tokio::select! {
                Some(answer) = asked_to_reload.recv() => Some(answer),
                Ok(()) = hangups.changed() => None,
            }
        };
        tokio::select! {
            // The value itself would lock the channel for as long as an answer to another branch takes.
            stopped = async { stop.wait_for(|stop| *stop).await.map(drop) } => match stopped {
                Ok(()) => break Ended::Stopped,
                // Who listens for signals is gone: nobody could stop this daemon any more but by a kill.
                Err(_) => return Err(DaemonError::Panicked("the thread that listens for signals".into())),
            },
            once = &mut once, if options.once => break Ended::Once(once),
            failure = journal.failed() => return Err(failure.into()),
            error = parts.tasks.failed() => return Err(error),
            ended = &mut dispatcher => {
                dispatched(ended)?;
                return Err(Failure::Closed.into());
            }
            () = &mut watchdog => {}
            () = &mut looked_at, if !ready => {
                ready = true;
                notify(&[NotifyState::Ready]);
                tracing::info!(watches = running.folders.len(), pipelines = running.lines.len(), "ready");
            }
            _ = status.tick() => notify(&[NotifyState::Status(&status_line(&journal, &parts.running().lines))]),
            answer = asked => {
                let outcome = if options.once { Err(NOT_ONCE.to_owned()) } else { reload(&mut parts, &progress, ready).await? };
                reloaded.store(outcome.is_ok(), Ordering::Relaxed);
                // Whoever asked may be gone.
                if let Some(answer) = answer {
                    let _ = answer.send(outcome);
                }
            }
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
    parts.tasks.shutdown().await;
    extending("closing the journal", None, journal.close()).await;
    crash::point("daemon.closed");
    tracing::info!("stopped");
    Ok(ended)
}

/// Serves those who look at the daemon, and takes samples for them.
fn serve_operators(tasks: &mut Tasks, admin: &Admin, desk: Arc<Desk>) {
    let (admin, router) = (admin.clone(), admin::api::router(desk.clone()));
    tasks.spawn("the admin socket".into(), async move {
        admin::listen::serve(&admin, router).await;
        Ok(())
    });
    tasks.spawn("the history".into(), async move {
        desk.history.record(&desk.journal).await;
        Ok(())
    });
}

/// Reloads the configuration; a refusal is for whoever asked.
async fn reload(parts: &mut Parts, progress: &Progress, ready: bool) -> Result<Result<Reloaded, String>, Failure> {
    notify_reloading();
    let outcome = extending("reloading", Some(progress), parts.reload()).await;
    if ready {
        notify(&[NotifyState::Ready]);
    }
    match outcome {
        Ok(reloaded) => {
            for change in &reloaded.changes {
                tracing::info!(change, "reload");
            }
            if !reloaded.needs_restart.is_empty() {
                tracing::warn!(keys = reloaded.needs_restart.join(", "), "reload: these change at a restart only");
            }
            tracing::info!(changes = reloaded.changes.len(), "the configuration was reloaded");
            Ok(Ok(reloaded))
        }
        Err(ReloadError::Rejected(rejected)) => {
            tracing::error!(error = %rejected, "the reload was rejected; everything stays as it was");
            Ok(Err(rejected.to_string()))
        }
        Err(ReloadError::Failed(failure)) => Err(failure),
    }
}

/// Passes the dispatcher's failure on, a panic as an error that names it.
fn dispatched(ended: Result<Result<(), Failure>, JoinError>) -> Result<(), DaemonError> {
    match ended {
        Ok(ended) => Ok(ended?),
        Err(error) => Err(panicked(DISPATCHER, error)),
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
    async fn a_dispatcher_that_panics_is_named() {
        let ended = tokio::spawn(async { panic!("no") }).await;
        let error = dispatched(ended).unwrap_err();
        assert_eq!(error.to_string(), "a task panicked: the dispatcher: no; this is a defect");
    }
}
