//! The name table, from which agents answer DNS.

use mesh_model::Service;
use mesh_proto::mesh::agent::v1::Name;

/// The entry of a service: its host, and the virtual addresses of both families.
pub(super) fn of(service: &Service) -> Name {
    let addresses = service.virtual_addresses;
    Name {
        host: service.host.to_string(),
        addresses: vec![addresses.v4.to_string(), addresses.v6.to_string()],
    }
}
