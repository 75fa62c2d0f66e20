//! RocketRide, and nothing of the daemon: the client library.

pub mod backoff;
pub mod error;
pub mod mime;
pub mod object;
pub mod options;
pub mod protocol;
pub mod result;
pub mod text;
pub mod uri;

pub use error::{Error, Result, ServerError};
