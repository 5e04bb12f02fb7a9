//! What the relay does with each message, without doing it: a state machine between Envoy and Pilot.
//!
//! To Envoy it is a delta xDS server that answers from the accepted configuration at once,
//! to Pilot a delta xDS client that says which versions it has and passes on what Envoy says.
//!
//! ```text
//! Envoy ──request──► subscription ──request──► Pilot
//!   ▲                  accepted ◄─on ACK─┐       │
//!   ├──what is accepted◄───┘             │       │
//!   └──────────response◄──in flight ◄────┴───────┘
//! ```
//!
//! The rules that hold whatever the order of events:
//! - A response of Pilot's is acknowledged to Pilot when Envoy acknowledged it, on the same stream, or never.
//! - What Envoy acknowledged becomes the accepted configuration; what it refused does not.
//!   Which resources of a refused response are at fault is prose; Pilot sends them again one by one.
//! - Pilot is told the version of a resource only if Envoy accepted that version.
//!   Where it is uncertain what Envoy holds, Pilot is told a version that no resource has,
//!   so that it sends or removes the resource.
//! - While Pilot is silent, Envoy keeps what it has: nothing is ever taken away for want of an answer.
//! - While Pilot is away, the cluster of an address that is not known lets calls pass as they are.
//!
//! Source: `docs/root/api-docs/xds_protocol.rst` of Envoy, "Incremental xDS".

mod conversation;
mod direct;

use std::collections::BTreeMap;

use mesh_proto::envoy::config::cluster::v3::Cluster;
use mesh_proto::envoy::config::core::v3::Node;
use mesh_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
};
use mesh_proto::google::rpc::Status;
use mesh_proto::mesh::agent::v1::Name;
use prost::{Message as _, Name as _};

use super::accepted::{Accepted, AcceptedType};
use conversation::{Conversation, Origin, Sent, Unconfirmed, forward};

/// Something happened.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a message is moved in once; boxing each would cost more than the move"
)]
pub(crate) enum Input {
    /// Envoy opened a stream; a former one is over.
    EnvoyConnected,
    /// Envoy said something on its stream.
    FromEnvoy(DeltaDiscoveryRequest),
    /// Envoy's stream ended.
    EnvoyDisconnected,
    /// A stream to Pilot is open.
    PilotConnected,
    /// Pilot said something on that stream.
    FromPilot(DeltaDiscoveryResponse),
    /// The stream to Pilot ended.
    PilotDisconnected,
}

/// Something is to be done.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "a message is moved out once; boxing each would cost more than the move"
)]
#[must_use]
pub(crate) enum Output {
    /// Send this on Envoy's stream.
    ToEnvoy(DeltaDiscoveryResponse),
    /// Send this on the stream to Pilot.
    ToPilot(DeltaDiscoveryRequest),
    /// Close the stream to Pilot and open another one at once.
    RestartPilot,
    /// The accepted configuration is another one now.
    AcceptedChanged,
    /// The name table is another one now.
    NamesChanged,
    /// Envoy asked for a type that is not relayed.
    NotRelayed(String),
    /// Envoy refused a response; this is its reason.
    Refused {
        /// The type of the response.
        type_url: String,
        /// What Envoy said.
        reason: String,
    },
}

/// The state between Envoy and Pilot.
#[derive(Debug)]
pub(crate) struct Session {
    node: Node,
    accepted: Accepted,
    /// What was sent on Envoy's last stream and not answered there.
    unconfirmed: BTreeMap<String, Unconfirmed>,
    /// Envoy's stream, if there is one.
    envoy: Option<EnvoyStream>,
    /// Whether there is a stream to Pilot.
    pilot: bool,
    last_nonce: u64,
}

#[derive(Debug, Default)]
struct EnvoyStream {
    types: BTreeMap<String, Conversation>,
    /// Whether Pilot sent anything on this stream; else all that Envoy knows came from here.
    pilot_spoke: bool,
}

// === impl Session ===

impl Session {
    /// A session with nobody connected; `node` is what Pilot is told that this proxy is.
    pub(crate) fn new(node: Node, accepted: Accepted) -> Self {
        Self {
            node,
            accepted,
            unconfirmed: BTreeMap::new(),
            envoy: None,
            pilot: false,
            last_nonce: 0,
        }
    }

    /// The accepted configuration.
    pub(crate) fn accepted(&self) -> &Accepted {
        &self.accepted
    }

    /// How many responses Envoy has not answered.
    pub(crate) fn in_flight(&self) -> usize {
        let types = self.envoy.iter().flat_map(|envoy| envoy.types.values());
        types.map(|live| live.in_flight.len()).sum()
    }

    /// Takes in what happened and says what is to be done, in this order.
    pub(crate) fn step(&mut self, input: Input) -> Vec<Output> {
        let mut outputs = Vec::new();
        match input {
            Input::EnvoyConnected => {
                self.end_envoy(&mut outputs);
                self.envoy = Some(EnvoyStream::default());
            }
            Input::FromEnvoy(request) => self.take_request(request, &mut outputs),
            Input::EnvoyDisconnected => self.end_envoy(&mut outputs),
            Input::PilotConnected => self.begin_pilot(&mut outputs),
            Input::FromPilot(response) => self.take_response(response, &mut outputs),
            Input::PilotDisconnected => {
                self.end_pilot();
                self.let_pass(&mut outputs);
            }
        }
        outputs
    }

    /// Forgets Envoy's stream. What it was last sent is kept aside: the next stream's versions may confirm it.
    ///
    /// Pilot's stream begins anew too: it knows what the lost stream had been sent,
    /// which is not what the next Envoy has.
    fn end_envoy(&mut self, outputs: &mut Vec<Output>) {
        let Some(envoy) = self.envoy.take() else {
            return;
        };
        let asked = envoy.types.values().any(|live| live.asked);
        for (type_url, live) in envoy.types {
            let unconfirmed = self.unconfirmed.entry(type_url).or_default();
            unconfirmed.clear();
            for sent in live.in_flight {
                let resources = sent.resources.into_iter();
                let changes = resources
                    .map(|one| (one.name.clone(), Some(one)))
                    .chain(sent.removed.into_iter().map(|name| (name, None)));
                for (name, change) in changes {
                    unconfirmed.entry(name).or_default().push(change);
                }
            }
        }
        if self.pilot && asked {
            self.restart_pilot(outputs);
        }
    }

    fn restart_pilot(&mut self, outputs: &mut Vec<Output>) {
        self.end_pilot();
        outputs.push(Output::RestartPilot);
    }

    fn end_pilot(&mut self) {
        self.pilot = false;
        let types = self.envoy.iter_mut().flat_map(|envoy| &mut envoy.types);
        for (_, live) in types {
            live.asked = false;
            for sent in &mut live.in_flight {
                sent.pilot_nonce = None;
            }
        }
    }

    /// Tells Envoy of the addresses that it waits for, of which nobody else will.
    fn let_pass(&mut self, outputs: &mut Vec<Output>) {
        let type_url = Cluster::type_url();
        let types = self.envoy.as_mut().map(|envoy| &mut envoy.types);
        let Some(live) = types.and_then(|types| types.get_mut(&type_url)) else {
            return;
        };
        let passed = live.awaited(self.accepted.0.get(&type_url));
        if !passed.is_empty() {
            let nonce = next_nonce(&mut self.last_nonce);
            outputs.push(live.send(&type_url, nonce, passed, Vec::new()));
        }
    }

    /// Asks Pilot for everything, in the order in which Envoy itself would.
    fn begin_pilot(&mut self, outputs: &mut Vec<Output>) {
        self.end_pilot();
        self.pilot = true;
        let names = self.accepted.resources(&Name::type_url());
        outputs.push(Output::ToPilot(DeltaDiscoveryRequest {
            node: Some(self.node.clone()),
            type_url: Name::type_url(),
            initial_resource_versions: names
                .map(|name| (name.name.clone(), name.version.clone()))
                .collect(),
            ..Default::default()
        }));
        let Some(envoy) = &mut self.envoy else {
            return;
        };
        let mut types: Vec<_> = envoy.types.iter_mut().collect();
        types.sort_by_key(|(type_url, _)| rank(type_url));
        for (type_url, live) in types {
            outputs.extend(live.ask(type_url, self.accepted.0.get(type_url)));
        }
    }

    fn take_request(&mut self, request: DeltaDiscoveryRequest, outputs: &mut Vec<Output>) {
        let type_url = request.type_url.clone();
        if type_url == Name::type_url() {
            outputs.push(Output::NotRelayed(type_url));
            return;
        }
        let Some(envoy) = &mut self.envoy else {
            return;
        };
        if envoy.types.contains_key(&type_url) {
            self.continue_type(request, outputs);
        } else {
            self.begin_type(&request, outputs);
        }
        if !self.pilot {
            self.let_pass(outputs);
        }
    }

    /// The first request of a type on Envoy's stream: what it wants and what it has.
    fn begin_type(&mut self, request: &DeltaDiscoveryRequest, outputs: &mut Vec<Output>) {
        let type_url = &request.type_url;
        let has = &request.initial_resource_versions;
        let Some(envoy) = &mut self.envoy else {
            return;
        };
        let live = envoy.types.entry(type_url.clone()).or_default();
        live.subscription.wildcard = request.resource_names_subscribe.is_empty()
            && request.resource_names_unsubscribe.is_empty();
        live.subscription.change(request);

        if live.reconcile(
            &mut self.accepted,
            type_url,
            has,
            self.unconfirmed.remove(type_url).unwrap_or_default(),
        ) {
            outputs.push(Output::AcceptedChanged);
        }

        let nothing = AcceptedType::default();
        let known = self.accepted.0.get(type_url);
        let guess_absent = !self.pilot && !envoy.pilot_spoke;
        let (resources, removed) = live.answer_first(known.unwrap_or(&nothing), has, guess_absent);
        // Envoy waits for an answer to its first wildcard request, an empty one if need be.
        let waits = known.is_some() && live.subscription.wildcard && has.is_empty();
        if waits || !resources.is_empty() || !removed.is_empty() {
            let nonce = next_nonce(&mut self.last_nonce);
            outputs.push(live.send(type_url, nonce, resources, removed));
        }
        if self.pilot {
            outputs.extend(live.ask(type_url, self.accepted.0.get(type_url)));
        }
    }

    /// A later request: an answer to a response, another subscription, or both.
    fn continue_type(&mut self, request: DeltaDiscoveryRequest, outputs: &mut Vec<Output>) {
        let type_url = &request.type_url;
        let Some(envoy) = &mut self.envoy else {
            return;
        };
        let live = envoy.types.entry(type_url.clone()).or_default();
        let mut pilot_nonce = None;
        let mut restart = false;
        // A nonce that is not in flight is of a former stream: the rest of the request still counts.
        let answered = live
            .in_flight
            .iter()
            .position(|sent| sent.nonce == request.response_nonce);
        if let Some(sent) = answered.and_then(|at| live.in_flight.remove(at)) {
            pilot_nonce.clone_from(&sent.pilot_nonce);
            if let Some(error) = &request.error_detail {
                outputs.push(Output::Refused {
                    type_url: type_url.clone(),
                    reason: error.message.clone(),
                });
                // Pilot believes that Envoy has these: only a new stream can say that it has not.
                restart = sent.origin == Origin::Accepted && live.asked;
                live.uncertain.extend(sent.names().cloned());
            } else {
                let accepted = self.accepted.0.entry(type_url.clone()).or_default();
                if live.accept(accepted, sent) {
                    outputs.push(Output::AcceptedChanged);
                }
            }
        }

        live.subscription.change(&request);
        let given_up = &request.resource_names_unsubscribe;
        let mut nothing = AcceptedType::default();
        let accepted = self.accepted.0.get_mut(type_url).unwrap_or(&mut nothing);
        if live.forget(accepted, given_up) {
            outputs.push(Output::AcceptedChanged);
        }
        let guess_absent = !self.pilot && !envoy.pilot_spoke;
        let wanted = &request.resource_names_subscribe;
        let (resources, removed) = live.answer_later(accepted, wanted, guess_absent);
        if !resources.is_empty() || !removed.is_empty() {
            let nonce = next_nonce(&mut self.last_nonce);
            outputs.push(live.send(type_url, nonce, resources, removed));
        }
        if restart {
            self.restart_pilot(outputs);
        } else if self.pilot && !live.asked {
            outputs.extend(live.ask(type_url, self.accepted.0.get(type_url)));
        } else if live.asked {
            outputs.extend(forward(request, pilot_nonce));
        }
    }

    fn take_response(&mut self, response: DeltaDiscoveryResponse, outputs: &mut Vec<Output>) {
        if response.type_url == Name::type_url() {
            self.take_names(response, outputs);
            return;
        }
        let Some(envoy) = &mut self.envoy else {
            return;
        };
        // Only what was asked for on this stream is answered; anything else is not Envoy's business.
        let Some(live) = envoy.types.get_mut(&response.type_url) else {
            return;
        };
        envoy.pilot_spoke = true;
        let nonce = next_nonce(&mut self.last_nonce);
        live.in_flight.push_back(Sent {
            nonce: nonce.clone(),
            pilot_nonce: Some(response.nonce.clone()),
            origin: Origin::Pilot,
            resources: response.resources.clone(),
            removed: response.removed_resources.clone(),
        });
        outputs.push(Output::ToEnvoy(DeltaDiscoveryResponse {
            nonce,
            ..response
        }));
    }

    /// The agent's own subscription: taken whole or refused whole.
    fn take_names(&mut self, response: DeltaDiscoveryResponse, outputs: &mut Vec<Output>) {
        let wrong: Vec<_> = response
            .resources
            .iter()
            .filter_map(|resource| Some(format!("`{}`: {}", resource.name, wrong_name(resource)?)))
            .collect();
        let error_detail = (!wrong.is_empty()).then(|| Status {
            // INVALID_ARGUMENT, as Envoy answers.
            code: 3,
            message: wrong.join("; "),
            ..Default::default()
        });
        if error_detail.is_none() {
            let first = !self.accepted.0.contains_key(&Name::type_url());
            let is_change =
                !response.resources.is_empty() || !response.removed_resources.is_empty();
            let accepted = self.accepted.0.entry(Name::type_url()).or_default();
            for resource in response.resources {
                accepted.insert(resource);
            }
            for name in &response.removed_resources {
                accepted.resources.remove(name);
            }
            if first || is_change {
                outputs.push(Output::NamesChanged);
                outputs.push(Output::AcceptedChanged);
            }
        }
        outputs.push(Output::ToPilot(DeltaDiscoveryRequest {
            type_url: Name::type_url(),
            response_nonce: response.nonce,
            error_detail,
            ..Default::default()
        }));
    }
}

/// Why a resource is not an entry of the name table.
fn wrong_name(resource: &Resource) -> Option<String> {
    let Some(any) = &resource.resource else {
        return Some("the resource has no content".to_owned());
    };
    match Name::decode(any.value.as_ref()) {
        Err(error) => Some(error.to_string()),
        Ok(name) => name
            .addresses
            .iter()
            .find(|address| address.parse::<std::net::IpAddr>().is_err())
            .map(|address| format!("`{address}` is not an address")),
    }
}

/// Make before break: the order in which Envoy wants types to arrive.
fn rank(type_url: &str) -> usize {
    ORDER
        .iter()
        .position(|kind| type_url.ends_with(kind))
        .unwrap_or(ORDER.len())
}

fn next_nonce(last: &mut u64) -> String {
    *last += 1;
    last.to_string()
}

/// Ends of the type URLs in the order of sending.
const ORDER: [&str; 5] = [
    ".Cluster",
    ".ClusterLoadAssignment",
    ".Secret",
    ".Listener",
    ".RouteConfiguration",
];

#[cfg(test)]
mod tests;
