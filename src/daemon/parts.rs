//! The parts that run by the configuration, one intake a watch and one line a pipeline, and their change while the rest
//! goes on.
//!
//! An upload is never dropped for it: what is in flight ends as it was begun, under the configuration it was claimed by.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rustix::io::Errno;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::plan::{self, Plan};
use super::tasks::Tasks;
use crate::admin::Running;
use crate::admin::wire::Reloaded;
use crate::blocking::blocking;
use crate::board::Board;
use crate::clock::unix_millis;
use crate::config::{Config, Environment, LogOverrides, Pipeline, Watch};
use crate::delivery::dispatch::Order;
use crate::delivery::pipeline::Line;
use crate::delivery::started::Started;
use crate::folder::{Availability, Folder, Word};
use crate::identity::Identity;
use crate::intake::Intake;
use crate::intake::overlap::{self, Roots};
use crate::journal::{Failure, Journal};
use crate::show::Shown;
use crate::telemetry;

/// How long a folder may take to say whether it can be written.
const ACCESS_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the files of the configuration may take to be read.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// What is said of one that takes longer.
const DOES_NOT_ANSWER: &str = "the filesystem of the configuration, or of a pipeline file, does not answer";
/// How long the intake of a changed watch waits for the end of the one before.
const TURN: Duration = Duration::from_secs(10);
/// How often it is looked whether the last upload of a removed watch, or to a changed pipeline, is over.
const LOOK: Duration = Duration::from_millis(500);

/// What the parts are made with.
pub(super) struct Parts {
    pub(super) config: Arc<Config>,
    pub(super) journal: Journal,
    pub(super) identity: Arc<Identity>,
    pub(super) board: Arc<Board>,
    pub(super) started: Arc<Started>,
    pub(super) roots: Arc<Roots>,
    pub(super) tasks: Tasks,
    /// What the command line says of the log.
    pub(super) log: LogOverrides,
    /// The dispatcher's ear.
    pub(super) orders: mpsc::Sender<Order>,
    /// What runs, for those who look.
    pub(super) running: watch::Sender<Arc<Running>>,
    /// The intake of each watch, and what tells that it is over.
    intakes: HashMap<String, (AbortHandle, oneshot::Receiver<()>)>,
    lines: HashMap<String, AbortHandle>,
    /// What waits for the last upload of a removed watch.
    partings: HashMap<String, Parting>,
}

/// A watch that left, as long as something of it may be on its way.
struct Parting {
    task: AbortHandle,
    over: oneshot::Receiver<()>,
    folder: Arc<Folder>,
}

/// Why a reload was refused. Nothing changed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Rejected(String);

/// Either the reload is refused, or the daemon cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReloadError {
    #[error(transparent)]
    Rejected(#[from] Rejected),
    #[error(transparent)]
    Failed(#[from] Failure),
}

impl Parts {
    /// Nothing runs yet.
    pub(super) fn new(
        config: Arc<Config>,
        journal: Journal,
        identity: Arc<Identity>,
        board: Arc<Board>,
        started: Arc<Started>,
        orders: mpsc::Sender<Order>,
    ) -> Self {
        let nothing = Running { config: config.clone(), folders: Vec::new(), lines: Vec::new() };
        Self {
            config,
            journal,
            identity,
            board,
            started,
            roots: Arc::default(),
            tasks: Tasks::default(),
            log: LogOverrides::default(),
            orders,
            running: watch::Sender::new(Arc::new(nothing)),
            intakes: HashMap::new(),
            lines: HashMap::new(),
            partings: HashMap::new(),
        }
    }

    /// What runs now.
    pub(super) fn running(&self) -> Arc<Running> {
        self.running.borrow().clone()
    }

    /// Starts everything. Errors: the dispatcher is gone.
    pub(super) async fn begin(&mut self) -> Result<(), Failure> {
        let config = self.config.clone();
        let (mut folders, mut lines) = (Vec::new(), Vec::new());
        for watch in &config.watches {
            let (folder, words) = Folder::new(watch.clone());
            self.take_in(&folder, words, folders.last());
            folders.push(folder);
        }
        for pipeline in &config.pipelines {
            lines.push(self.connect(pipeline, &config, None));
        }
        self.order(config, folders, lines).await
    }

    /// Starts the intake of a watch, in place of the one it had. The watches open their folders in their order.
    fn take_in(&mut self, folder: &Arc<Folder>, words: mpsc::Receiver<Word>, earlier: Option<&Arc<Folder>>) {
        let name = folder.watch.name.clone();
        let intake =
            Intake::new(folder.clone(), words, self.journal.clone(), self.identity.clone(), self.roots.clone());
        let earlier = earlier.map(|folder| folder.availability());
        let before = self.intakes.remove(&name).map(|(handle, over)| {
            handle.abort();
            over
        });
        let (end, over) = oneshot::channel();
        let handle = self.tasks.spawn(format!("intake of watch {name:?}"), async move {
            // Dropped with this task, however it ends.
            let _end: oneshot::Sender<()> = end;
            if let Some(before) = before {
                // Both would have the folder in use.
                let _ = timeout(TURN, before).await;
            }
            overlap::turn(earlier).await;
            Err(intake.run().await)
        });
        self.intakes.insert(name, (handle, over));
    }

    /// Starts the line of a pipeline, in place of the one it had. With `drain`, what goes through that one ends before.
    fn connect(&mut self, pipeline: &Arc<Pipeline>, config: &Config, before: Option<(&Arc<Line>, bool)>) -> Arc<Line> {
        let line = Line::new(pipeline.clone(), config, self.started.clone());
        let mut drain = None;
        if let Some((before, outdated)) = before {
            line.succeed(before);
            before.retire();
            drain = outdated.then_some(config.server.drain_timeout);
        }
        let (name, served, board) = (pipeline.name.clone(), line.clone(), self.board.clone());
        let handle = self.tasks.spawn(format!("connection of pipeline {name:?}"), async move {
            if let Some(longest) = drain {
                // Nothing new goes there meanwhile: this line has no session yet.
                let over = async {
                    while board.in_flight(&served.config.name) > 0 {
                        tokio::time::sleep(LOOK).await;
                    }
                };
                if timeout(longest, over).await.is_err() {
                    tracing::warn!(
                        pipeline = %served.config.name,
                        "not finished within drain_timeout; what is still on its way to the earlier task is sent again"
                    );
                }
            }
            served.run().await;
            Ok(())
        });
        if let Some(before) = self.lines.insert(name, handle) {
            // Its connection lives for as long as an upload uses it.
            before.abort();
        }
        line
    }

    /// Has the dispatcher serve these, and shows them.
    async fn order(
        &mut self,
        config: Arc<Config>,
        folders: Vec<Arc<Folder>>,
        lines: Vec<Arc<Line>>,
    ) -> Result<(), Failure> {
        let (done, is_done) = oneshot::channel();
        let order = Order { config: config.clone(), folders: folders.clone(), lines: lines.clone(), done };
        // A dispatcher that is gone has failed, and its end says why.
        self.orders.send(order).await.map_err(|_| Failure::Closed)?;
        is_done.await.map_err(|_| Failure::Closed)?;
        self.config = config.clone();
        self.running.send_replace(Arc::new(Running { config, folders, lines }));
        Ok(())
    }

    /// Reads the configuration again and puts in force what changed.
    pub(super) async fn reload(&mut self) -> Result<Reloaded, ReloadError> {
        let (origin, old) = (self.config.origin.clone(), self.config.clone());
        let read = blocking(move || {
            let mut new = Config::load(&origin, &Environment::from_process()).map_err(|error| error.to_string())?;
            new.check_uris()?;
            let plan = plan::plan(&old, &new)?;
            plan::keep_what_needs_a_restart(&old, &mut new);
            Ok((new, plan))
        });
        let read = timeout(READ_TIMEOUT, read).await.unwrap_or_else(|_| Err(DOES_NOT_ANSWER.to_owned()));
        let (new, mut plan) = read.map_err(Rejected)?;
        self.check_folders(&plan).await?;
        let outdated = self.outdated(&new, &mut plan).await?;
        self.log_as(&new, &mut plan);
        self.apply(Arc::new(new), &plan, &outdated).await?;
        Ok(Reloaded {
            changes: plan.changes,
            needs_restart: plan.needs_restart.iter().map(|key| (*key).to_owned()).collect(),
        })
    }

    /// A new folder that the service's own sandbox keeps read-only would never work: that is told now.
    async fn check_folders(&self, plan: &Plan) -> Result<(), Rejected> {
        let asked = plan.added_watches.iter().map(|watch| {
            let path = watch.path.clone();
            timeout(ACCESS_TIMEOUT, blocking(move || rustix::fs::access(&path, rustix::fs::Access::WRITE_OK)))
        });
        // All at once: each may stand on a filesystem that does not answer.
        let told = join_all(asked).await;
        for (watch, access) in plan.added_watches.iter().zip(told) {
            if let Ok(Err(Errno::ROFS)) = access {
                return Err(Rejected(format!(
                    "watch {:?}: {} is read-only for this service. If its unit does so (ProtectSystem=), add the drop-in \
                     that `rocketride-ingest check --print-dropin` prints, `systemctl daemon-reload`, and restart",
                    watch.name,
                    Shown(&watch.path)
                )));
            }
        }
        Ok(())
    }

    /// From now on as much is logged as the new configuration says, unless the command line said it.
    fn log_as(&self, new: &Config, plan: &mut Plan) {
        if self.config.log.level == new.log.level {
            return;
        }
        if let Some(level) = &self.log.level {
            plan.changes.push(format!("log.level: --log-level {level} of the command line holds all the same"));
        } else if !telemetry::set_level(&new.log.level) {
            plan.needs_restart.push("log.level");
        }
    }

    /// The pipelines whose file says something else than their task was started with; added to what is made anew.
    async fn outdated(&self, new: &Config, plan: &mut Plan) -> Result<Vec<String>, Rejected> {
        let mut outdated = Vec::new();
        for pipeline in &new.pipelines {
            let probe = Line::new(pipeline.clone(), new, self.started.clone());
            let told = timeout(READ_TIMEOUT, blocking(move || probe.is_outdated())).await;
            let told = told.map_err(|_| Rejected(format!("pipeline {:?}: {DOES_NOT_ANSWER}", pipeline.name)))?;
            if told.map_err(|error| Rejected(format!("pipeline {:?}: {error}", pipeline.name)))? {
                if !plan.new_lines.iter().any(|line| line.name == pipeline.name) {
                    plan.changes
                        .push(format!("pipeline {}: its file changed; its task is started again", pipeline.name));
                    plan.new_lines.push(pipeline.clone());
                }
                outdated.push(pipeline.name.clone());
            }
        }
        Ok(outdated)
    }

    async fn apply(&mut self, new: Arc<Config>, plan: &Plan, outdated: &[String]) -> Result<(), Failure> {
        let before = self.running();
        let (mut folders, mut lines): (Vec<Arc<Folder>>, Vec<Arc<Line>>) = (Vec::new(), Vec::new());
        let is_among = |list: &[Arc<Watch>], name: &str| list.iter().any(|watch| watch.name == name);
        for watch in &new.watches {
            let known = before.folder(&watch.name);
            let folder = match known {
                Some(known) if is_among(&plan.changed_watches, &watch.name) => {
                    let (folder, words) = known.renewed(watch.clone());
                    self.take_in(&folder, words, folders.last());
                    folder
                }
                Some(known) => known.clone(),
                None => {
                    let mut earlier = None;
                    if let Some(Parting { task, over, folder }) = self.partings.remove(&watch.name) {
                        task.abort();
                        // What it told the journal last must come before what is told now.
                        let _ = timeout(TURN, over).await;
                        earlier = Some(folder).filter(|folder| folder.watch.path == watch.path);
                    }
                    self.journal.watch_came(watch.id, &watch.name, unix_millis()).await?;
                    // Uploads of its earlier time may still be on their way.
                    let (folder, words) = match earlier {
                        Some(earlier) => earlier.renewed(watch.clone()),
                        None => Folder::new(watch.clone()),
                    };
                    self.take_in(&folder, words, folders.last());
                    folder
                }
            };
            folders.push(folder);
        }
        for pipeline in &new.pipelines {
            let known = before.line(&pipeline.name);
            let is_new = plan.new_lines.iter().any(|line| line.name == pipeline.name);
            lines.push(match known {
                Some(known) if !is_new => known.clone(),
                known => {
                    let outdated = outdated.contains(&pipeline.name);
                    self.connect(pipeline, &new, known.map(|known| (known, outdated)))
                }
            });
        }
        self.order(new, folders, lines).await?;
        for pipeline in &plan.removed_pipelines {
            if let Some(line) = self.lines.remove(&pipeline.name) {
                line.abort();
            }
            if let Some(line) = before.line(&pipeline.name) {
                line.retire();
            }
        }
        for watch in &plan.removed_watches {
            if let Some(folder) = before.folder(&watch.name) {
                self.part_from(folder);
            }
        }
        Ok(())
    }

    /// Ends the intake of a watch, and parks what waits in it, at once and again after its last upload.
    fn part_from(&mut self, folder: &Arc<Folder>) {
        let watch = &folder.watch;
        let intake = self.intakes.remove(&watch.name).map(|(handle, over)| {
            handle.abort();
            over
        });
        folder.retire();
        let (journal, id) = (self.journal.clone(), watch.id);
        let (end, over) = oneshot::channel();
        let task = self.tasks.spawn(format!("parting from watch {:?}", watch.name), async move {
            let _end: oneshot::Sender<()> = end;
            if let Some(intake) = intake {
                // What it told the journal last is parked too.
                let _ = timeout(TURN, intake).await;
            }
            loop {
                // In this order: what was on its way at the look may wait at the parking.
                let sending = journal.counters(id).count("sending");
                journal.watch_went(id, unix_millis()).await?;
                if sending == 0 {
                    return Ok(());
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        self.partings.insert(watch.name.clone(), Parting { task, over, folder: folder.clone() });
    }
}

/// Resolves when every root has been opened or found unavailable: then the daemon is ready.
///
/// The kernel's watches are placed after that, by the first walk, which may take minutes in a large folder. Nothing depends
/// on their being there: a folder is watched before it is listed, so what came before the watch is found by the walk, and
/// what comes after it by an event. To wait for them would only delay the units that start after this one.
pub(super) async fn all_looked_at(running: Arc<Running>) {
    for folder in &running.folders {
        // The sender lives in the folder itself.
        let _ = folder.availability().wait_for(|root| !matches!(root, Availability::Starting)).await;
    }
}
