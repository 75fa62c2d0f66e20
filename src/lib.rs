//! `rocketride-ingest`: files dropped into folders reach their RocketRide pipeline, and come back as results beside them.
//!
//! Two things in one package: [`client`], a library for the data API of RocketRide (feature-free, portable; with a guide
//! beside the official SDK's and a table of parity), and
//! the daemon around it (feature `daemon`, on by default, for Linux 5.6 and newer).
//!
//! # Code map
//! The folders follow the way of a file; imports run downward only, which a test checks.
//!
//! | module | is about |
//! |---|---|
//! | `cli` | one file a command; the only place that prints |
//! | `admin` | what an operator sees of the running daemon, and may do to it |
//! | `audit` | journal, folders, results and spool compared |
//! | `retention` | what the journal may forget |
//! | `daemon`, `once` | all wiring and supervision; when `--once` is over |
//! | `delivery` | a pending job becomes a durable result |
//! | `intake` | a file on disk becomes a settled candidate in the journal |
//! | `folder` | what intake and delivery share about one watch |
//! | `journal` | the daemon's memory: durable states of every path, the only user of sled |
//! | `sidecar`, `identity` | the files about an input: results, error files; who wrote them |
//! | `pauses` | what an operator paused |
//! | `board`, `meters` | what is in flight now; what is counted |
//! | `config` | what was written -> what the daemon uses |
//! | `job` | generations, states, and the whole table of transitions: pure |
//! | `crash` | points at which tests let the process die; nothing in an ordinary build |
//! | `fs`, `lease` | files beneath a root, where their results are put, durable renames; whether somebody still writes |
//! | `sandbox` | an embedded engine that speaks the protocol: demo, tests |
//! | [`client`] | all of the server: connections, tasks, pipes, uploads, events |
//! | `telemetry`, `show`, `clock`, `signals` | logs, names shown safely, the wall clock, signals |
//! | `panics`, `locks`, `blocking` | panics seen and counted; locks for which they mean nothing; blocking work off the async threads |
//! | `progress`, `service` | heartbeats, what the service manager is told |
//!
//! # The way of a file
//! ```text
//! event | scan | restart -> path -> select -> look -> settle, and nobody writes -> journal: Pending (durable)
//!  -> dispatcher: watch and pipeline healthy? room, or soon? limits?
//!  -> worker: journal: Sending, and meanwhile: open beneath the root, same generation? -> temp file of the result
//!     -> dispatcher: its turn, for there is a slot -> open pipe -> same? -> write
//!     -> still the same, by descriptor and by name? -> close
//!  -> result: temp, fsync, rename, fsync of the folder, or the spool until it can be -> journal: Delivered -> post-action -> Done
//! ```
//!
//! # What always holds
//! 1. **Events are hints.** Event, scan and restart take one way; a scan alone would find every file.
//! 2. **`close` commits, so it is sent only for a whole, unchanged file.** There is no abort: an upload that must not
//!    be committed is abandoned.
//! 3. **Post-actions never touch a file that was not delivered.** It is renamed to a hidden name first, compared
//!    there, and only then removed or moved.
//! 4. **A crash at any instruction loses nothing.** Delivery is at least once, under a stable object id, so that a
//!    repeat replaces. A result that stands there is adopted, not paid for again.
//! 5. **The ledger balances** at every commit: each admitted generation is in one state, superseded or pruned.
//! 6. **The backlog lives in the journal**, not in memory; every queue has a bound, every bound a name.
//! 7. **Unknown is never absent.** A folder that cannot be looked at holds its files; it does not lose them.
//! 8. **Every fault has an owner**: server, host or file. Only a fault of the file costs it an attempt.
//! 9. **The journal can be thrown away**: an empty one and the ordinary scan are the rebuild.
//! 10. **Secrets cannot be printed**: they live in `secrecy::SecretString` from the first byte.
//! 11. **A failed or overdue commit of the journal stops the daemon**: better down than wrong.

pub mod client;

#[cfg(feature = "daemon")]
pub mod admin;
#[cfg(feature = "daemon")]
pub mod audit;
#[cfg(feature = "daemon")]
mod blocking;
#[cfg(feature = "daemon")]
pub mod board;
#[cfg(feature = "daemon")]
pub mod cli;
#[cfg(feature = "daemon")]
pub mod clock;
#[cfg(feature = "daemon")]
pub mod config;
#[cfg(all(feature = "daemon", not(feature = "crash-points")))]
mod crash;
#[cfg(feature = "crash-points")]
pub mod crash;
#[cfg(feature = "daemon")]
pub mod daemon;
#[cfg(feature = "daemon")]
pub mod delivery;
#[cfg(feature = "daemon")]
pub mod folder;
#[cfg(feature = "daemon")]
pub mod fs;
#[cfg(feature = "daemon")]
pub mod identity;
#[cfg(feature = "daemon")]
pub mod intake;
#[cfg(feature = "daemon")]
pub mod job;
#[cfg(feature = "daemon")]
pub mod journal;
#[cfg(feature = "daemon")]
pub mod lease;
#[cfg(feature = "daemon")]
mod locks;
#[cfg(feature = "daemon")]
pub mod meters;
#[cfg(feature = "daemon")]
pub mod once;
#[cfg(feature = "daemon")]
pub mod panics;
#[cfg(feature = "daemon")]
pub mod pauses;
#[cfg(feature = "daemon")]
pub mod progress;
#[cfg(feature = "daemon")]
pub mod retention;
#[cfg(feature = "daemon")]
pub mod sandbox;
#[cfg(feature = "daemon")]
pub mod service;
#[cfg(feature = "daemon")]
pub mod show;
#[cfg(feature = "daemon")]
pub mod sidecar;
#[cfg(feature = "daemon")]
pub mod signals;
#[cfg(feature = "daemon")]
pub mod telemetry;
