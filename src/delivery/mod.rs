//! placeholder

pub mod after;
pub mod limits;
pub mod result;
pub mod slots;
