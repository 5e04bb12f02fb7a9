//! A call to the workload's own address, to see that inbound traffic arrives at Envoy.
//!
//! The agent listens on a port of its own choice and calls it.
//! Rules send a call of the proxy's user to its own address to Envoy's inbound port;
//! without them it arrives here directly, which is then seen by the caller's own port on the other end.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout, timeout_at};

/// What became of the call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Arrival {
    /// Somebody else took it: Envoy.
    Captured,
    /// It came straight here.
    Direct,
}

/// Calls `address` once.
pub(super) async fn call(address: IpAddr) -> io::Result<Arrival> {
    let listener = TcpListener::bind(SocketAddr::new(address, 0)).await?;
    let target = listener.local_addr()?;
    let call = timeout(CONNECT_PATIENCE, TcpStream::connect(target)).await??;
    let caller = call.local_addr()?;
    // A direct call is in the queue when connect returns; what Envoy passes on has another source.
    let deadline = Instant::now() + ARRIVAL_PATIENCE;
    while let Ok(accepted) = timeout_at(deadline, listener.accept()).await {
        if accepted?.1 == caller {
            return Ok(Arrival::Direct);
        }
    }
    Ok(Arrival::Captured)
}

/// Both ends are on this machine.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
/// Within one machine a connection is queued before `connect` returns; the rest is reserve.
const ARRIVAL_PATIENCE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_rules_a_call_comes_straight_here() {
        let arrival = call("127.0.0.1".parse().unwrap()).await.unwrap();
        assert_eq!(arrival, Arrival::Direct);
    }
}
