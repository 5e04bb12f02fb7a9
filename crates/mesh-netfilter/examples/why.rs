//! Why does a packet go where it goes?
//!
//! `cargo run --example why -- 10.0.0.5:80 1000`: where a connection of user 1000 to that address
//! goes under the default policy of a sidecar, and every rule that was asked.

use std::error::Error;
use std::net::SocketAddr;

use mesh_netfilter::{Content, Facts, Owner, Packet, Plan, Policy};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let destination: SocketAddr = arguments.next().ok_or("to which address?")?.parse()?;
    let user = arguments.next().ok_or("of which user?")?.parse()?;
    let source = match destination {
        SocketAddr::V4(_) => "192.0.2.1:40000",
        SocketAddr::V6(_) => "[2001:db8::1]:40000",
    };
    let interface = if destination.ip().is_loopback() {
        "lo"
    } else {
        "eth0"
    };
    let packet = Packet::outgoing(
        Content::TcpFirst,
        source.parse()?,
        destination,
        interface.parse()?,
        Owner { user, group: user },
    );
    let plan = Plan::compile(&Policy::sidecar(), &Facts::default());
    #[expect(clippy::print_stdout, reason = "printing is what this example shows")]
    {
        println!("{}", plan.evaluate(&packet));
    }
    Ok(())
}
