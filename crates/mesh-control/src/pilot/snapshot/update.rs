//! The layer of a mesh from the layer of the mesh before, where only endpoints are different.

use std::sync::Arc;

use mesh_model::service::Resolution;
use mesh_model::{Mode, Namespace};

use super::direct::Directory;
use super::{View, cluster, direct, endpoint, shared};
use crate::pilot::mesh::Mesh;
use crate::pilot::resource::{Layer, Resource, ResourceType};

/// What [`shared`] gives, from the `layer` that it gave for the mesh `before` and the same mode.
///
/// When only endpoints are different, which is what happens most, nothing else is made again.
pub fn shared_after(
    mesh: &Mesh,
    namespace: &Namespace,
    mode: Mode,
    before: &Mesh,
    layer: &Layer,
) -> Layer {
    updated(mesh, namespace, before, layer).unwrap_or_else(|| shared(mesh, namespace, mode))
}

fn updated(mesh: &Mesh, namespace: &Namespace, before: &Mesh, layer: &Layer) -> Option<Layer> {
    let view = View { mesh, namespace };
    let mut endpoints = layer.of(ResourceType::Endpoint).to_vec();
    for host in mesh.endpoints_changed(before)? {
        let Some(entry) = view.entry(host) else {
            continue;
        };
        let (service, old) = (&entry.service, &before.entries.get(host)?.service);
        for port in service.ports.keys() {
            if cluster::transport(mesh, service, *port) != cluster::transport(before, old, *port) {
                return None;
            }
            for part in cluster::parts(&view, entry, *port) {
                if part.resolution(service) != Resolution::Static {
                    continue;
                }
                let place = endpoints
                    .binary_search_by(|resource| (*resource.name).cmp(&part.name))
                    .ok()?;
                let assignment = endpoint::assignment(mesh, service, &part);
                *endpoints.get_mut(place)? = Resource::encode(&part.name, &assignment);
            }
        }
    }
    let mut layer = layer.clone();
    layer.set(ResourceType::Endpoint, endpoints).ok()?;
    if layer.direct.is_some() {
        let directory = Directory::of(&view)?;
        let others = layer.of(ResourceType::Listener).iter();
        let others = others.filter(|listener| !direct::is_name(&listener.name));
        let own = direct::listeners(&view, &directory).into_iter();
        let own = own.map(|listener| Resource::encode(&listener.name, &listener));
        let listeners = others.cloned().chain(own).collect();
        layer.set(ResourceType::Listener, listeners).ok()?;
        layer.direct = Some(Arc::new(directory));
    }
    Some(layer)
}
