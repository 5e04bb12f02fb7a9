//! Nomad's objects as its HTTP API gives and takes them.
