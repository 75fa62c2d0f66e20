//! The integration tests: the real program on real folders against the sandbox.
fn main() {}
