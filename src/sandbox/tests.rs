//! byte level tests
