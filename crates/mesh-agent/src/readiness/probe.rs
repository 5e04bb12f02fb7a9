//! A call to the workload's own address, to see that inbound traffic arrives at Envoy.
//!
//! The agent listens on a port that is kept for this and calls it.
//! Rules send a call of the proxy's user to its own address to Envoy's inbound port;
//! without them it arrives here directly, which is then seen by the caller's own port on the other end.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mesh_model::sidecar::SELF_CALL_PORT;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

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
    call_at(SocketAddr::new(address, SELF_CALL_PORT)).await
}

async fn call_at(address: SocketAddr) -> io::Result<Arrival> {
    let listener = TcpListener::bind(address).await?;
    let target = listener.local_addr()?;
    let mut call = timeout(CONNECT_PATIENCE, TcpStream::connect(target)).await??;
    let caller = call.local_addr()?;
    let arrives = async {
        loop {
            // What Envoy passes on has another source; dropped, it ends at both ends.
            if listener.accept().await?.1 == caller {
                return Ok(Arrival::Direct);
            }
        }
    };
    // Nobody here answers the caller, or ends its connection: who does has taken it.
    let taken = async {
        if call.shutdown().await.is_ok() {
            // Bytes, the end or a reset: each is somebody's.
            drop(call.read(&mut [0]).await);
        }
        Arrival::Captured
    };
    let seen = async {
        tokio::select! {
            biased;
            arrival = arrives => arrival,
            arrival = taken => Ok(arrival),
        }
    };
    // A direct call is in the queue when connect returns.
    timeout(ARRIVAL_PATIENCE, seen)
        .await
        .unwrap_or(Ok(Arrival::Captured))
}

/// Both ends are on this machine.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
/// Within one machine a connection is queued before `connect` returns, and Envoy ends one that is
/// silent; the rest is reserve.
const ARRIVAL_PATIENCE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_rules_a_call_comes_straight_here() {
        let arrival = call_at("127.0.0.1:0".parse().unwrap()).await.unwrap();
        assert_eq!(arrival, Arrival::Direct);
    }
}
