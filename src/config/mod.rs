//! The configuration: what was written (raw), checked and completed into what the daemon uses.
