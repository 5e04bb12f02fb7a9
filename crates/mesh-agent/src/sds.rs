//! Secrets for Envoy: its own certificate (`default`) and the roots it trusts (`ROOTCA`), pushed when they change.
//!
//! Nothing here prints a request or a response: the key is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;

use mesh_identity::{CredentialStore, Credentials};
use mesh_proto::envoy::config::core::v3::{DataSource, data_source};
use mesh_proto::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret,
};
use mesh_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use mesh_proto::envoy::service::secret::v3::secret_discovery_service_server::SecretDiscoveryService;
use mesh_proto::google::protobuf::Any;
use prost::{Message as _, Name as _};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info, warn};

/// The name of the workload's own certificate and key.
pub(crate) const OWN: &str = "default";
/// The name of the roots.
pub(crate) const ROOTS: &str = "ROOTCA";

/// The SDS service of the agent's socket.
#[derive(Debug)]
pub(crate) struct Sds {
    store: CredentialStore,
    stop: CancellationToken,
}

/// The secrets of one moment, by name.
struct Secrets(BTreeMap<&'static str, Resource>);

/// What one stream asked for and has.
#[derive(Debug, Default)]
struct Subscriber {
    names: BTreeSet<String>,
    /// Version sent last, by name; empty for a name that was said not to exist.
    sent: BTreeMap<String, String>,
    last_nonce: u64,
}

// === impl Sds ===

impl Sds {
    /// Serves what is in `store`, until `stop`.
    pub(crate) fn new(store: CredentialStore, stop: CancellationToken) -> Self {
        Self { store, stop }
    }

    /// Answers a stream's requests, and tells it of each rotation, until the stream or the agent ends.
    fn serve<P: Protocol>(
        &self,
        mut requests: Streaming<P::Request>,
    ) -> ResponseStream<P::Response> {
        let (sender, receiver) = mpsc::channel(1);
        let mut changes = self.store.subscribe();
        let stop = self.stop.clone();
        tokio::spawn(async move {
            let mut subscriber = Subscriber::default();
            loop {
                let (resources, removed) = {
                    let current = changes.borrow_and_update().clone();
                    match current {
                        Some(credentials) => subscriber.due(&Secrets::of(&credentials)),
                        // Envoy waits, with its ports closed.
                        None => (Vec::new(), Vec::new()),
                    }
                };
                if !resources.is_empty() || !removed.is_empty() {
                    let names: Vec<_> = resources.iter().map(|one| one.name.as_str()).collect();
                    info!(?names, "secrets sent to envoy");
                    subscriber.last_nonce += 1;
                    let nonce = subscriber.last_nonce.to_string();
                    let Some(response) = P::response(&subscriber, resources, removed, nonce) else {
                        continue;
                    };
                    if sender.send(Ok(response)).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    request = requests.message() => match request {
                        Ok(Some(request)) => P::take(&mut subscriber, request),
                        Ok(None) => return,
                        Err(status) => {
                            debug!(reason = status.message(), "envoy's secret stream broke");
                            return;
                        }
                    },
                    rotation = changes.changed() => if rotation.is_err() {
                        return;
                    },
                    () = sender.closed() => return,
                    () = stop.cancelled() => return,
                }
            }
        });
        Box::pin(ReceiverStream::new(receiver))
    }
}

type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SecretDiscoveryService for Sds {
    type DeltaSecretsStream = ResponseStream<DeltaDiscoveryResponse>;
    type StreamSecretsStream = ResponseStream<DiscoveryResponse>;

    async fn delta_secrets(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Ok(Response::new(self.serve::<Delta>(request.into_inner())))
    }

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        Ok(Response::new(self.serve::<Whole>(request.into_inner())))
    }

    async fn fetch_secrets(
        &self,
        _request: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("secrets are streamed, not fetched"))
    }
}

/// One of the two protocols of xDS.
trait Protocol {
    type Request: Send + 'static;
    type Response: Send + 'static;

    /// Takes a request in.
    fn take(subscriber: &mut Subscriber, request: Self::Request);

    /// The message that carries these; none if the protocol has no way to say it.
    fn response(
        subscriber: &Subscriber,
        resources: Vec<Resource>,
        removed: Vec<String>,
        nonce: String,
    ) -> Option<Self::Response>;
}

/// Incremental xDS.
enum Delta {}

/// State of the world: each response holds what changed, secrets are additive.
enum Whole {}

impl Protocol for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn take(subscriber: &mut Subscriber, request: DeltaDiscoveryRequest) {
        if let Some(error) = request.error_detail {
            warn!(reason = error.message, "envoy refused a secret");
        }
        subscriber.sent.extend(request.initial_resource_versions);
        for name in request.resource_names_subscribe {
            if !subscriber.names.insert(name.clone()) {
                // Asked for again: it may have been dropped.
                subscriber.sent.remove(&name);
            }
        }
        for name in request.resource_names_unsubscribe {
            subscriber.names.remove(&name);
            subscriber.sent.remove(&name);
        }
    }

    fn response(
        _subscriber: &Subscriber,
        resources: Vec<Resource>,
        removed: Vec<String>,
        nonce: String,
    ) -> Option<DeltaDiscoveryResponse> {
        Some(DeltaDiscoveryResponse {
            type_url: Secret::type_url(),
            resources,
            removed_resources: removed,
            nonce,
            ..Default::default()
        })
    }
}

impl Protocol for Whole {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn take(subscriber: &mut Subscriber, request: DiscoveryRequest) {
        let stale = !request.response_nonce.is_empty()
            && request.response_nonce != subscriber.last_nonce.to_string();
        if stale {
            return;
        }
        if let Some(error) = request.error_detail {
            warn!(reason = error.message, "envoy refused a secret");
        }
        subscriber.names = request.resource_names.into_iter().collect();
        let names = &subscriber.names;
        subscriber.sent.retain(|name, _| names.contains(name));
    }

    fn response(
        subscriber: &Subscriber,
        resources: Vec<Resource>,
        _removed: Vec<String>,
        nonce: String,
    ) -> Option<DiscoveryResponse> {
        if resources.is_empty() {
            return None;
        }
        let versions: Vec<_> = subscriber.sent.values().map(String::as_str).collect();
        Some(DiscoveryResponse {
            version_info: versions.join("."),
            resources: resources
                .into_iter()
                .filter_map(|one| one.resource)
                .collect(),
            type_url: Secret::type_url(),
            nonce,
            ..Default::default()
        })
    }
}

// === impl Subscriber ===

impl Subscriber {
    /// What is to be sent now, and what is to be said not to exist; notes both as sent.
    fn due(&mut self, secrets: &Secrets) -> (Vec<Resource>, Vec<String>) {
        let (mut resources, mut removed) = (Vec::new(), Vec::new());
        for name in &self.names {
            let (version, resource) = match secrets.0.get(name.as_str()) {
                Some(resource) => (resource.version.clone(), Some(resource)),
                None => (String::new(), None),
            };
            if self.sent.get(name) == Some(&version) {
                continue;
            }
            self.sent.insert(name.clone(), version);
            match resource {
                Some(resource) => resources.push(resource.clone()),
                None => removed.push(name.clone()),
            }
        }
        (resources, removed)
    }
}

// === impl Secrets ===

impl Secrets {
    fn of(credentials: &Credentials) -> Self {
        let inline = |pem: String| DataSource {
            specifier: Some(data_source::Specifier::InlineBytes(pem.into())),
            ..Default::default()
        };
        let own = secret::Type::TlsCertificate(TlsCertificate {
            certificate_chain: Some(inline(credentials.chain().to_pem())),
            private_key: Some(inline(credentials.key().to_pem())),
            ..Default::default()
        });
        let roots = secret::Type::ValidationContext(CertificateValidationContext {
            trusted_ca: Some(inline(credentials.bundle().to_pem())),
            ..Default::default()
        });
        let fingerprints: Vec<_> = credentials
            .bundle()
            .fingerprints()
            .iter()
            .map(ToString::to_string)
            .collect();
        Self(BTreeMap::from([
            (OWN, resource(OWN, credentials.serial(), own)),
            (ROOTS, resource(ROOTS, fingerprints.join("."), roots)),
        ]))
    }
}

fn resource(name: &str, version: String, kind: secret::Type) -> Resource {
    let secret = Secret {
        name: name.to_owned(),
        r#type: Some(kind),
    };
    Resource {
        name: name.to_owned(),
        version,
        resource: Some(Any {
            type_url: Secret::type_url(),
            value: secret.encode_to_vec().into(),
        }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use mesh_identity::testing::Authority;

    use super::*;

    const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

    fn subscribed(names: &[&str]) -> Subscriber {
        let mut subscriber = Subscriber::default();
        Delta::take(
            &mut subscriber,
            DeltaDiscoveryRequest {
                resource_names_subscribe: names.iter().map(|&name| name.to_owned()).collect(),
                ..Default::default()
            },
        );
        subscriber
    }

    fn names(resources: &[Resource]) -> Vec<&str> {
        resources.iter().map(|one| one.name.as_str()).collect()
    }

    #[test]
    fn a_rotation_sends_the_certificate_and_not_the_same_roots() {
        let authority = Authority::new();
        let mut subscriber = subscribed(&[OWN, ROOTS]);
        let first = Secrets::of(&authority.credentials(WEB));
        assert_eq!(names(&subscriber.due(&first).0), [ROOTS, OWN]);
        assert_eq!(names(&subscriber.due(&first).0), [""; 0]);
        let second = Secrets::of(&authority.credentials(WEB));
        assert_eq!(names(&subscriber.due(&second).0), [OWN]);
    }

    #[test]
    fn an_unknown_name_is_said_not_to_exist_once() {
        let authority = Authority::new();
        let secrets = Secrets::of(&authority.credentials(WEB));
        let mut subscriber = subscribed(&["other"]);
        assert_eq!(subscriber.due(&secrets).1, ["other"]);
        assert_eq!(subscriber.due(&secrets).1, [""; 0]);
    }

    #[test]
    fn a_secret_asked_for_again_is_sent_again() {
        let authority = Authority::new();
        let secrets = Secrets::of(&authority.credentials(WEB));
        let mut subscriber = subscribed(&[OWN]);
        assert_eq!(names(&subscriber.due(&secrets).0), [OWN]);
        Delta::take(
            &mut subscriber,
            DeltaDiscoveryRequest {
                resource_names_subscribe: vec![OWN.to_owned()],
                ..Default::default()
            },
        );
        assert_eq!(names(&subscriber.due(&secrets).0), [OWN]);
    }

    #[test]
    fn a_stale_request_of_the_whole_protocol_changes_nothing() {
        let mut subscriber = subscribed(&[OWN]);
        subscriber.last_nonce = 2;
        Whole::take(
            &mut subscriber,
            DiscoveryRequest {
                response_nonce: "1".to_owned(),
                ..Default::default()
            },
        );
        assert!(subscriber.names.contains(OWN));
    }
}
