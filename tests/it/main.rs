//! The integration tests: the real program, on real folders, against the sandbox engine.
//!
//! Each test is a claim about what an operator sees. Waiting is for a condition, with a generous upper bound; no
//! test depends on how fast this machine is.

#![allow(unreachable_pub)] // `pub` here means: for the other files of this one binary

mod cli;
mod delivery;
mod harness;
