//! Arguments -> configuration -> telemetry -> runtime -> command -> exit code.
fn main() {}
