//! placeholder

pub mod limits;
pub mod slots;
