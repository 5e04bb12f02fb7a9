//! The ConfigMap `mesh`, by which the pieces find each other: trust domain, roots, addresses.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use mesh_identity::{CertificateError, TrustBundle};
use mesh_model::{Namespace, Problem, TrustDomain};
use serde_json::json;

/// The ConfigMap's name, in `mesh-system`.
pub const NAME: &str = "mesh";
/// The mesh's trust domain.
const TRUST_DOMAIN: &str = "trustDomain";
/// The mesh's roots, PEM.
const ROOTS: &str = "roots.pem";

/// Whose addresses an entry holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Service {
    /// The CA's.
    Ca,
    /// Pilot's.
    Pilot,
    /// The Mixer's.
    Mixer,
}

/// What the ConfigMap says.
#[derive(Clone, Debug)]
pub struct Rendezvous {
    /// The mesh's trust domain.
    pub trust_domain: TrustDomain,
    /// The mesh's roots.
    pub roots: TrustBundle,
    data: BTreeMap<String, String>,
}

/// Why it says nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RendezvousError {
    /// The API did not answer as it should.
    #[error("cannot {action} config map `mesh-system/{NAME}`")]
    Api {
        /// "read" or "write".
        action: &'static str,
        /// What it says.
        source: Box<kube::Error>,
    },
    /// Nobody has written it yet.
    #[error("config map `mesh-system/{NAME}` has no `{key}` yet")]
    Missing {
        /// Which entry.
        key: String,
    },
    /// An entry makes no sense.
    #[error("config map `mesh-system/{NAME}`, `{key}`: {problem}")]
    Wrong {
        /// Which entry.
        key: String,
        /// What is wrong with it.
        problem: Problem,
    },
    /// The roots make no sense.
    #[error("config map `mesh-system/{NAME}` has no usable `{ROOTS}`")]
    Roots {
        /// What is wrong with them.
        source: CertificateError,
    },
}

// === impl Service ===

impl Service {
    fn key(self) -> &'static str {
        match self {
            Self::Ca => "ca.addresses",
            Self::Pilot => "pilot.addresses",
            Self::Mixer => "mixer.addresses",
        }
    }

    /// The name of the role as a service of Nomad's.
    pub fn nomad_name(self) -> &'static str {
        match self {
            Self::Ca => "mesh-ca",
            Self::Pilot => "mesh-pilot",
            Self::Mixer => "mesh-mixer",
        }
    }

    /// The entry of a service at these addresses.
    pub fn entry(self, addresses: &[SocketAddr]) -> (String, String) {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        (self.key().to_owned(), addresses.join(","))
    }
}

/// The entries that say whom the mesh trusts.
pub fn trust_entries(trust_domain: &TrustDomain, roots: &TrustBundle) -> [(String, String); 2] {
    [
        (TRUST_DOMAIN.to_owned(), trust_domain.to_string()),
        (ROOTS.to_owned(), roots.to_pem()),
    ]
}

// === impl Rendezvous ===

impl Rendezvous {
    /// Reads what a ConfigMap says.
    ///
    /// # Errors
    ///
    /// Every variant of [`RendezvousError`] but `Api`.
    pub fn of_data(data: BTreeMap<String, String>) -> Result<Self, RendezvousError> {
        let trust_domain = trust_domain(&data)?.ok_or_else(|| missing(TRUST_DOMAIN))?;
        let roots = data.get(ROOTS).ok_or_else(|| missing(ROOTS))?;
        let roots =
            TrustBundle::from_pem(roots).map_err(|source| RendezvousError::Roots { source })?;
        Ok(Self {
            trust_domain,
            roots,
            data,
        })
    }

    /// Reads the ConfigMap.
    ///
    /// # Errors
    ///
    /// Every variant of [`RendezvousError`].
    pub async fn read(client: &Client) -> Result<Self, RendezvousError> {
        Self::of_data(read_data(client).await?)
    }

    /// The addresses of a service.
    ///
    /// # Errors
    ///
    /// [`RendezvousError::Missing`], [`RendezvousError::Wrong`].
    pub fn addresses(&self, service: Service) -> Result<Vec<SocketAddr>, RendezvousError> {
        let key = service.key();
        let text = self.data.get(key).ok_or_else(|| missing(key))?;
        text.split(',')
            .map(|address| {
                let address = address.trim();
                address
                    .parse()
                    .map_err(|_no_address| RendezvousError::Wrong {
                        key: key.to_owned(),
                        problem: Problem::new("", address, "an address with a port"),
                    })
            })
            .collect()
    }
}

/// The trust domain that the mesh has, if it has one yet.
///
/// # Errors
///
/// [`RendezvousError::Api`], [`RendezvousError::Wrong`].
pub async fn stored_trust_domain(client: &Client) -> Result<Option<TrustDomain>, RendezvousError> {
    trust_domain(&read_data(client).await?)
}

/// Writes entries and leaves the others alone; makes the ConfigMap if there is none.
///
/// # Errors
///
/// [`RendezvousError::Api`].
pub async fn write(
    client: &Client,
    entries: impl IntoIterator<Item = (String, String)>,
) -> Result<(), RendezvousError> {
    let failed = |source| RendezvousError::Api {
        action: "write",
        source: Box::new(source),
    };
    let entries: BTreeMap<String, String> = entries.into_iter().collect();
    let maps = maps(client);
    let patch = Patch::Merge(json!({ "data": entries }));
    let params = PatchParams::default();
    match maps.patch(NAME, &params, &patch).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        patched => return patched.map(drop).map_err(failed),
    }
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: Some(Namespace::mesh_system().to_string()),
            ..ObjectMeta::default()
        },
        data: Some(entries),
        ..ConfigMap::default()
    };
    match maps.create(&PostParams::default(), &map).await {
        // Another role made it meanwhile: ours goes beside its entries.
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let patched = maps.patch(NAME, &params, &patch).await;
            patched.map(drop).map_err(failed)
        }
        created => created.map(drop).map_err(failed),
    }
}

async fn read_data(client: &Client) -> Result<BTreeMap<String, String>, RendezvousError> {
    match maps(client).get_opt(NAME).await {
        Ok(map) => Ok(map.and_then(|map| map.data).unwrap_or_default()),
        Err(source) => Err(RendezvousError::Api {
            action: "read",
            source: Box::new(source),
        }),
    }
}

fn maps(client: &Client) -> Api<ConfigMap> {
    Api::namespaced(client.clone(), Namespace::mesh_system().as_str())
}

fn trust_domain(data: &BTreeMap<String, String>) -> Result<Option<TrustDomain>, RendezvousError> {
    let parsed = data.get(TRUST_DOMAIN).map(|text| text.parse());
    parsed
        .transpose()
        .map_err(|problem| RendezvousError::Wrong {
            key: TRUST_DOMAIN.to_owned(),
            problem,
        })
}

fn missing(key: &str) -> RendezvousError {
    RendezvousError::Missing {
        key: key.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use mesh_identity::testing::Authority;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let roots = Authority::new().bundle();
        let cas = ["10.213.0.1:15012", "[fd00::1]:15012"].map(|text| text.parse().unwrap());
        let mut data = BTreeMap::from(trust_entries(&TrustDomain::default(), &roots));
        data.extend([Service::Ca.entry(&cas)]);
        let read = Rendezvous::of_data(data).unwrap();
        assert_eq!(read.roots, roots);
        assert_eq!(read.addresses(Service::Ca).unwrap(), cas);
        let error = read.addresses(Service::Pilot).unwrap_err();
        assert!(error.to_string().contains("no `pilot.addresses` yet"));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let roots = Authority::new().bundle();
        let good = BTreeMap::from(trust_entries(&TrustDomain::default(), &roots));
        let with = |key: &str, value: &str| {
            let mut data = good.clone();
            data.insert(key.to_owned(), value.to_owned());
            data
        };
        let error = Rendezvous::of_data(with(TRUST_DOMAIN, "A B")).unwrap_err();
        assert!(error.to_string().contains("`A B` is not a trust domain"));
        let error = Rendezvous::of_data(with(ROOTS, "x")).unwrap_err();
        assert!(matches!(error, RendezvousError::Roots { .. }));
        assert!(Rendezvous::of_data(BTreeMap::new()).is_err());
        let read = Rendezvous::of_data(with("ca.addresses", "10.0.0.1")).unwrap();
        let error = read.addresses(Service::Ca).unwrap_err();
        assert!(error.to_string().contains("`10.0.0.1` is not an address"));
    }
}
