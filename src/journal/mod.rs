//! The memory of the daemon: the only user of sled.
