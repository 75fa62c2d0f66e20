//! `rocketride-ingest`: files dropped into folders reach their RocketRide pipeline, and come back as results beside them.

pub mod client;

#[cfg(feature = "daemon")]
mod blocking;
#[cfg(feature = "daemon")]
pub mod cli;
#[cfg(feature = "daemon")]
pub mod clock;
#[cfg(feature = "daemon")]
pub mod config;
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
pub mod once;
#[cfg(feature = "daemon")]
pub mod sandbox;
#[cfg(feature = "daemon")]
pub mod show;
#[cfg(feature = "daemon")]
pub mod sidecar;
#[cfg(feature = "daemon")]
pub mod signals;
#[cfg(feature = "daemon")]
pub mod telemetry;
