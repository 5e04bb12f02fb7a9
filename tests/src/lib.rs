//! Scenarios across crates and daemons, and the echo server that they use.
