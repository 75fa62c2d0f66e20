//! What an operator sees of the running daemon, and may do to it.
//!
//! ```text
//! Unix socket (whoever may open it)  \
//!                                     > HTTP -> guard (who may do what) -> api -> a view, or an action in the journal
//! TCP (off by default; token)        /
//! ```
//!
//! | module | is about |
//! |---|---|
//! | [`listen`] | the sockets, bounded; who is calling |
//! | [`guard`] | who may do what: pure |
//! | [`api`] | paths to handlers, arguments in and JSON out |
//! | [`wire`] | what is said over the socket; the commands read it |
//! | [`status`], [`list`], [`history`] | views of what is going on |
//! | [`hints`] | what droppers were told of their dead letters |
//! | [`explain`], [`place`] | everything known of one path; which watch it lies in |
//! | [`health`], [`metrics`], [`page`] | for machines, for Prometheus, for eyes |
//! | [`audited`] | an audit because an operator asks for one |
//! | [`repair`] | send again, forget, pause, resume, rescan |
//!
//! It reads the journal, the folders and the pipelines' lines, and changes things only through the journal's table, the
//! pauses and hints to intake: an operator can do nothing that breaks a promise of the daemon.

pub mod api;
pub mod audited;
pub mod explain;
pub mod guard;
pub mod health;
pub mod hints;
pub mod history;
pub mod list;
pub mod listen;
pub mod metrics;
pub mod page;
pub mod place;
pub mod repair;
pub mod status;
pub mod wire;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::{Mutex, mpsc, oneshot, watch};

use self::hints::Hints;
use self::history::History;
use self::wire::Reloaded;
use crate::board::Board;
use crate::config::Config;
use crate::delivery::pipeline::Line;
use crate::delivery::spool::Spool;
use crate::folder::Folder;
use crate::identity::Identity;
use crate::job::Millis;
use crate::journal::Journal;
use crate::pauses::Pauses;
use crate::progress::Progress;

/// What runs by the present configuration; a reload replaces it as a whole.
pub struct Running {
    /// The configuration in force.
    pub config: Arc<Config>,
    /// The watches, in its order.
    pub folders: Vec<Arc<Folder>>,
    /// The pipelines, in its order.
    pub lines: Vec<Arc<Line>>,
}

impl Running {
    /// The watch of this name.
    pub fn folder(&self, name: &str) -> Option<&Arc<Folder>> {
        self.folders.iter().find(|folder| folder.watch.name == name)
    }

    /// The pipeline of this name.
    pub fn line(&self, name: &str) -> Option<&Arc<Line>> {
        self.lines.iter().find(|line| line.config.name == name)
    }
}

/// Everything that the views and actions need.
pub struct Desk {
    /// What runs now.
    pub running: watch::Receiver<Arc<Running>>,
    /// The daemon's memory.
    pub journal: Journal,
    /// Who the daemon is.
    pub identity: Arc<Identity>,
    /// What is paused.
    pub pauses: Arc<Pauses>,
    /// What is in flight.
    pub board: Arc<Board>,
    /// The last hour.
    pub history: History,
    /// The heartbeat of the dispatcher.
    pub progress: Progress,
    /// Takes an operator's wish to reload; answered when it is done.
    pub reloads: mpsc::Sender<oneshot::Sender<Result<Reloaded, String>>>,
    /// Whether the last reload was applied.
    pub reloaded: Arc<AtomicBool>,
    /// When the daemon started.
    pub started_at: Millis,
    /// Results that wait for a folder.
    pub spool: Arc<Spool>,
    /// Who reads error files for a list.
    pub hints: Hints,
    /// Held by the audit that an operator asked for.
    pub auditing: Arc<Mutex<()>>,
    /// True once the daemon stops.
    pub stopping: watch::Receiver<bool>,
}

impl Desk {
    /// What runs now.
    pub fn running(&self) -> Arc<Running> {
        self.running.borrow().clone()
    }
}
