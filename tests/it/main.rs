//! The integration tests: the real program, on real folders, against the sandbox engine.
//!
//! Each test is a claim about what an operator sees. Waiting is for a condition, with a generous upper bound; no
//! test depends on how fast this machine is.

// `pub` here means: for the other files of this one binary. A harness that cannot go on panics, and prints why.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::print_stderr)]

mod after;
mod audit;
mod cli;
mod control;
mod crashes;
mod credentials;
mod delivery;
mod done_marker;
mod explain;
mod failing;
mod failures;
mod faults;
mod harness;
mod host_clock;
mod host_faults;
mod host_limits;
mod host_roots;
mod host_space;
mod hostile;
mod imports;
mod journal_damage;
mod journald;
mod limits;
mod main_job;
mod manual;
mod metrics;
mod mount;
mod network;
mod on_failure;
mod proxy;
mod reload;
mod result_text;
mod results_directory;
mod secrets;
mod send;
mod signals;
mod slots;
mod slow_link;
mod spool;
mod storm;
mod systemd;
mod tls;
mod wire;
mod writers;
mod wrong_config;
