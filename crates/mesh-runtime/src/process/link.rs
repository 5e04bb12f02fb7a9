//! Links, addresses and routes by rtnetlink; nothing else in this crate names that library.
//!
//! Each function does its work on a thread of its own with a runtime of its own, since a netlink
//! socket belongs to the namespace of the thread that opened it.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::path::Path;

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags};
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};

use super::netns;
use crate::{Addresses, Creation, Removal};

/// An Ethernet address.
pub(super) type Mac = [u8; 6];

/// A bridge as it has to be.
#[derive(Clone, Debug)]
pub(super) struct Bridge<'a> {
    pub(super) name: &'a str,
    /// Fixed, or it would follow the ports that come and go; also the mark that it is ours.
    pub(super) mac: Mac,
    /// The gateway addresses with their prefix lengths.
    pub(super) addresses: [IpNet; 2],
}

/// The two ends of the cable between a bridge and a group.
#[derive(Clone, Debug)]
pub(super) struct Cable<'a> {
    /// The end on the bridge.
    pub(super) name: &'a str,
    pub(super) bridge: &'a str,
    /// For people: which group is behind it.
    pub(super) alias: &'a str,
    /// Of the end in the group. It follows from the address, so that neighbours that remember an
    /// address of an earlier group reach the new one.
    pub(super) mac: Mac,
    pub(super) addresses: Addresses,
    pub(super) prefix_lengths: (u8, u8),
}

/// An address or a route that the host has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Occupied {
    pub(super) net: IpNet,
    pub(super) what: &'static str,
    pub(super) link: String,
}

/// Why [`create_bridge`] did not.
#[derive(Debug)]
pub(super) enum BridgeError {
    /// A link of that name has another Ethernet address: somebody else's.
    Taken,
    Failed(io::Error),
}

/// Name of the interface inside a group.
const INSIDE: &str = "eth0";

/// Makes a bridge with its addresses, or completes one that is ours.
pub(super) fn create_bridge(bridge: &Bridge<'_>) -> Result<Creation, BridgeError> {
    on_socket(None, |handle| async move {
        let found = find(&handle, bridge.name).await?;
        let creation = match &found {
            Some(link) if mac_of(link) == Some(&bridge.mac) => Creation::Exists,
            Some(_) => return Ok(None),
            None => Creation::Created,
        };
        let index = if let Some(link) = found {
            link.header.index
        } else {
            let message = LinkBridge::new(bridge.name).address(bridge.mac.to_vec());
            handle.link().add(message.build()).execute().await?;
            index_of(&handle, bridge.name).await?
        };
        for net in bridge.addresses {
            add_address(&handle, index, net).await?;
        }
        set_up(&handle, LinkUnspec::new_with_index(index)).await?;
        Ok(Some(creation))
    })
    .map_err(BridgeError::Failed)?
    .ok_or(BridgeError::Taken)
}

/// Connects the namespace at `path` with a bridge: pair, addresses, default routes, loopback.
///
/// The pair is made in one message with its far end already in the namespace, so there is never a
/// loose end of it on the host.
pub(super) fn connect(cable: &Cable<'_>, path: &Path) -> io::Result<()> {
    let namespace = std::fs::File::open(path)?;
    let far_end = std::os::fd::AsFd::as_fd(&namespace);
    on_socket(None, |handle| async move {
        let bridge = index_of(&handle, cable.bridge).await?;
        if find(&handle, cable.name).await?.is_none() {
            add_pair(&handle, cable, bridge, far_end).await?;
        }
        let near_end = LinkUnspec::new_with_name(cable.name).controller(bridge);
        set_up(&handle, near_end.alias(cable.alias)).await
    })?;
    on_socket(Some(path), |handle| async move {
        let loopback = index_of(&handle, "lo").await?;
        set_up(&handle, LinkUnspec::new_with_index(loopback)).await?;

        let eth0 = index_of(&handle, INSIDE).await?;
        set_up(&handle, LinkUnspec::new_with_index(eth0)).await?;
        let Addresses { v4, v6, gateways } = cable.addresses;
        let (v4_prefix, v6_prefix) = cable.prefix_lengths;
        add_address(&handle, eth0, net(v4.into(), v4_prefix)?).await?;
        add_address(&handle, eth0, net(v6.into(), v6_prefix)?).await?;

        let v4_route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateways.0);
        let v6_route = RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateways.1);
        add_route(&handle, v4_route.output_interface(eth0).build()).await?;
        add_route(&handle, v6_route.output_interface(eth0).build()).await
    })
}

/// Removes a link of the namespace in which the engine runs.
pub(super) fn remove(name: &str) -> io::Result<Removal> {
    on_socket(None, |handle| async move {
        match find(&handle, name).await? {
            Some(link) => {
                handle.link().del(link.header.index).execute().await?;
                Ok(Removal::Removed)
            }
            None => Ok(Removal::Absent),
        }
    })
}

/// Removes a bridge if it has this Ethernet address, and leaves anybody else's alone.
pub(super) fn remove_bridge(name: &str, mac: Mac) -> io::Result<Removal> {
    on_socket(None, |handle| async move {
        match find(&handle, name).await? {
            Some(link) if mac_of(&link) == Some(&mac) => {
                handle.link().del(link.header.index).execute().await?;
                Ok(Removal::Removed)
            }
            _ => Ok(Removal::Absent),
        }
    })
}

/// Names of all links whose names begin so.
pub(super) fn with_prefix(prefix: &str) -> io::Result<Vec<String>> {
    on_socket(None, |handle| async move {
        let names = names(&handle).await?.into_values();
        Ok(names.filter(|name| name.starts_with(prefix)).collect())
    })
}

/// What the host already uses, but for one link: addresses, and routes that are not the default.
pub(super) fn occupied(except: &str) -> io::Result<Vec<Occupied>> {
    on_socket(None, |handle| async move {
        let names = names(&handle).await?;
        let mut occupied = addresses(&handle, &names).await?;
        for query in [
            RouteMessageBuilder::<Ipv4Addr>::new().build(),
            RouteMessageBuilder::<Ipv6Addr>::new().build(),
        ] {
            let mut routes = handle.route().get(query).execute();
            while let Some(route) = routes.try_next().await? {
                occupied.extend(occupied_by(&route, &names));
            }
        }
        occupied.retain(|it| it.link != except);
        Ok(occupied)
    })
}

/// Why a call failed: the kernel's answer as the error number that it is.
struct NetlinkError(io::Error);

impl From<rtnetlink::Error> for NetlinkError {
    fn from(error: rtnetlink::Error) -> Self {
        Self(match error {
            rtnetlink::Error::NetlinkError(message) => message.to_io(),
            other => io::Error::other(other),
        })
    }
}

impl From<io::Error> for NetlinkError {
    fn from(error: io::Error) -> Self {
        Self(error)
    }
}

fn on_socket<T: Send, F>(
    namespace: Option<&Path>,
    work: impl FnOnce(Handle) -> F + Send,
) -> io::Result<T>
where
    F: Future<Output = Result<T, NetlinkError>>,
{
    netns::within(namespace, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection()?;
            // Ends with the runtime, a few lines below.
            let _connection = tokio::spawn(connection);
            work(handle).await.map_err(|NetlinkError(error)| error)
        })
    })
    .and_then(|done| done)
}

async fn add_pair(
    handle: &Handle,
    cable: &Cable<'_>,
    bridge: u32,
    far_end: BorrowedFd<'_>,
) -> Result<(), NetlinkError> {
    let inside = LinkMessageBuilder::<LinkUnspec>::default()
        .name(INSIDE)
        .address(cable.mac.to_vec())
        .setns_by_fd(far_end.as_raw_fd())
        .build();
    let pair = LinkMessageBuilder::<LinkVeth>::new(cable.name, INSIDE)
        .controller(bridge)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(inside)))
        .build();
    Ok(handle.link().add(pair).execute().await?)
}

async fn set_up(handle: &Handle, link: LinkMessageBuilder<LinkUnspec>) -> Result<(), NetlinkError> {
    Ok(handle.link().set(link.up().build()).execute().await?)
}

/// Adds an address without duplicate address detection: it is ours alone and usable at once.
async fn add_address(handle: &Handle, index: u32, net: IpNet) -> Result<(), NetlinkError> {
    let mut request = handle.address().add(index, net.addr(), net.prefix_len());
    if net.addr().is_ipv6() {
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    }
    present(request.execute().await)
}

async fn add_route(handle: &Handle, route: RouteMessage) -> Result<(), NetlinkError> {
    present(handle.route().add(route).execute().await)
}

/// What is there already is as good as made.
fn present(result: Result<(), rtnetlink::Error>) -> Result<(), NetlinkError> {
    match result.map_err(NetlinkError::from) {
        Err(NetlinkError(error)) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

async fn find(handle: &Handle, name: &str) -> Result<Option<LinkMessage>, NetlinkError> {
    let mut found = handle.link().get().match_name(name.to_owned()).execute();
    match found.try_next().await.map_err(NetlinkError::from) {
        Ok(link) => Ok(link),
        Err(NetlinkError(error)) if error.raw_os_error() == Some(NO_DEVICE) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn index_of(handle: &Handle, name: &str) -> Result<u32, NetlinkError> {
    match find(handle, name).await? {
        Some(link) => Ok(link.header.index),
        None => Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("there is no link `{name}`"),
        )
        .into()),
    }
}

async fn names(handle: &Handle) -> Result<BTreeMap<u32, String>, NetlinkError> {
    let mut names = BTreeMap::new();
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await? {
        let name = link
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name.clone()),
                _ => None,
            });
        names.insert(link.header.index, name.unwrap_or_default());
    }
    Ok(names)
}

async fn addresses(
    handle: &Handle,
    names: &BTreeMap<u32, String>,
) -> Result<Vec<Occupied>, NetlinkError> {
    let mut occupied = Vec::new();
    let mut addresses = handle.address().get().execute();
    while let Some(message) = addresses.try_next().await? {
        let address = message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Local(address) | AddressAttribute::Address(address) => {
                    Some(*address)
                }
                _ => None,
            });
        if let Some(address) = address {
            occupied.push(Occupied {
                net: net(address, message.header.prefix_len)?,
                what: "address",
                link: names
                    .get(&message.header.index)
                    .cloned()
                    .unwrap_or_default(),
            });
        }
    }
    Ok(occupied)
}

/// What a route says is elsewhere. The kernel's own table repeats the addresses.
fn occupied_by(route: &RouteMessage, names: &BTreeMap<u32, String>) -> Option<Occupied> {
    let prefix = route.header.destination_prefix_length;
    if prefix == 0 || route.header.table == LOCAL_TABLE {
        return None;
    }
    let mut destination = None;
    let mut link = String::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                destination = Some(IpAddr::V4(*address));
            }
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => {
                destination = Some(IpAddr::V6(*address));
            }
            RouteAttribute::Oif(index) => {
                link = names.get(index).cloned().unwrap_or_default();
            }
            _ => {}
        }
    }
    Some(Occupied {
        net: net(destination?, prefix).ok()?,
        what: "route",
        link,
    })
}

fn mac_of(link: &LinkMessage) -> Option<&[u8]> {
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Address(mac) => Some(mac.as_slice()),
            _ => None,
        })
}

fn net(address: IpAddr, prefix: u8) -> io::Result<IpNet> {
    IpNet::new(address, prefix).map_err(io::Error::other)
}

/// `ENODEV`, the kernel's answer for a name that no link has.
const NO_DEVICE: i32 = rustix::io::Errno::NODEV.raw_os_error();

/// The kernel's own table, of the addresses of this host. Source: linux/rtnetlink.h.
const LOCAL_TABLE: u8 = 255;
