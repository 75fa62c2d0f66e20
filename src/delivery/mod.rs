//! Delivery: a pending job becomes a result beside its input, or in the folder for results.
//!
//! | module | is about |
//! |---|---|
//! | [`dispatch`] | decides what starts and when |
//! | `pick` | which job goes next, and where |
//! | `lane`, `outlet` | what one watch has to send; what one pipeline can take |
//! | [`pipeline`] | a pipeline's line to its server: up, or down and probed |
//! | [`started`] | what each pipeline's task was started with |
//! | [`slots`], [`limits`] | how many at a time, and how fast: pure, and by governor |
//! | [`failing`], [`suspects`] | a pipeline that fails on every file; a file that kills its task: pure |
//! | [`worker`], `steps` | one upload; what happens between its steps |
//! | [`desks`] | short work on the disk, without a thread woken for each piece |
//! | [`verdict`] | whose fault a failure is, and what follows: pure |
//! | [`claimed`] | a job that is being worked on |
//! | [`delivered`], [`failed`] | what became of it: files on disk, then the journal |
//! | [`groups`] | results that come together are made durable together |
//! | [`spool`], [`spooled`] | results whose folder cannot be written wait in the state directory; what becomes of their jobs |
//! | [`result`](mod@result), [`after`] | result files, written durably; the input kept, removed or moved |
//! | [`marker`], [`aside`] | the marker goes where its input goes; a dead letter goes where `on_failure` says |
//! | [`recover`] | moves and removals that a crash interrupted and that no due job finishes |
//! | [`space`] | whether there is room to begin anything new |
//!
//! It gets its work from the journal alone and knows nothing of events, scans or settling.

pub mod after;
pub mod aside;
pub mod claimed;
pub mod delivered;
pub mod desks;
pub mod dispatch;
pub mod failed;
pub mod failing;
pub mod groups;
mod lane;
pub mod limits;
pub mod marker;
mod outlet;
mod pick;
pub mod pipeline;
pub mod recover;
pub mod result;
pub mod slots;
pub mod space;
pub mod spool;
pub mod spooled;
pub mod started;
mod steps;
pub mod suspects;
mod text;
pub mod verdict;
pub mod worker;

use crate::blocking::blocking;
