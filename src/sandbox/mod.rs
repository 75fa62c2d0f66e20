//! An embedded engine that speaks the protocol: for the demo, the tests and the benches.
