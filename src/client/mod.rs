//! RocketRide, and nothing of the daemon: the client library.
//!
//! | module | is about |
//! |---|---|
//! | [`protocol`] | the frames on the wire: a pure codec, shared with the sandbox engine |
//! | [`error`] | everything that can go wrong, with the server's own words |
//!
//! It must not know of watches, journals or folders: the daemon is one of its users.

pub mod error;
pub mod protocol;

pub use error::{Error, Result, ServerError};
