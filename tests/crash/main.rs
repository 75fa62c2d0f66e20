//! What a crash and a power cut leave behind: the real program killed between any two durable steps, and its writes and
//! syncs as the kernel saw them.
//!
//! Needs the feature `crash-points`, without which the program has no points to die at:
//! `cargo test --features crash-points --test crash`.

// `pub` here means: for the other files of this one binary. A harness that cannot go on panics, and prints why.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::print_stderr)]

#[allow(dead_code)]
#[path = "../it/harness.rs"]
mod harness;
mod order;
mod plan;
mod points;
mod power_loss;
mod stage;
mod trace;
