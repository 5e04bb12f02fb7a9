//! Access logs in, metrics out.
