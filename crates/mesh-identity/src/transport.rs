//! gRPC over the mesh's TLS: channels for callers, accepted connections for servers.

mod channel;
mod incoming;

pub use channel::{channel, connect};
pub use incoming::{HandshakeLimits, TlsConnection, TlsIncoming};
