//! Istio's kinds as Istio publishes them: types, reading, validation.
//!
//! The JSON is Istio's own, so its users' files work as they are. [`check`] reads an object and
//! says everything that is wrong with it at once.

pub mod authorization_policy;
pub mod destination_rule;
pub mod duration;
pub mod gateway;
pub mod peer_authentication;
#[cfg(feature = "schema")]
pub mod schema;
pub mod service_entry;
pub mod shared;
pub mod virtual_service;
pub mod workload_entry;

mod check;
mod message;
mod read;
mod report;
mod unsupported;

pub use authorization_policy::AuthorizationPolicy;
pub use check::{Checked, check};
pub use destination_rule::DestinationRule;
pub use duration::Duration;
pub use gateway::Gateway;
pub use peer_authentication::PeerAuthentication;
pub use service_entry::ServiceEntry;
pub use shared::{Matcher, Percent, PortSelector, StringMatch, WorkloadSelector};
pub use virtual_service::VirtualService;
pub use workload_entry::WorkloadEntry;

use serde::Serialize;

use crate::{Kind, Object, ObjectMeta};

/// A kind of Istio's that is served.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum IstioKind {
    /// [`VirtualService`].
    VirtualService,
    /// [`DestinationRule`].
    DestinationRule,
    /// [`Gateway`].
    Gateway,
    /// [`ServiceEntry`].
    ServiceEntry,
    /// [`WorkloadEntry`].
    WorkloadEntry,
    /// [`PeerAuthentication`].
    PeerAuthentication,
    /// [`AuthorizationPolicy`].
    AuthorizationPolicy,
}

/// An object of one of Istio's kinds.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum IstioObject {
    /// A [`VirtualService`].
    VirtualService(Object<VirtualService>),
    /// A [`DestinationRule`].
    DestinationRule(Box<Object<DestinationRule>>),
    /// A [`Gateway`].
    Gateway(Object<Gateway>),
    /// A [`ServiceEntry`].
    ServiceEntry(Object<ServiceEntry>),
    /// A [`WorkloadEntry`].
    WorkloadEntry(Object<WorkloadEntry>),
    /// A [`PeerAuthentication`].
    PeerAuthentication(Object<PeerAuthentication>),
    /// An [`AuthorizationPolicy`].
    AuthorizationPolicy(Object<AuthorizationPolicy>),
}

// === impl IstioKind ===

impl IstioKind {
    /// Every one of them.
    pub const ALL: [Self; 7] = [
        Self::VirtualService,
        Self::DestinationRule,
        Self::Gateway,
        Self::ServiceEntry,
        Self::WorkloadEntry,
        Self::PeerAuthentication,
        Self::AuthorizationPolicy,
    ];

    /// The name, as in an object's `kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::VirtualService => "VirtualService",
            Self::DestinationRule => "DestinationRule",
            Self::Gateway => "Gateway",
            Self::ServiceEntry => "ServiceEntry",
            Self::WorkloadEntry => "WorkloadEntry",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
        }
    }

    /// The kind of Istio's that a served kind is, if it is one.
    ///
    /// ```
    /// # use mesh_model::{Kind, istio::IstioKind};
    /// let kind = Kind::of_object("networking.istio.io/v1", "ServiceEntry").unwrap();
    /// assert_eq!(IstioKind::of(kind), Some(IstioKind::ServiceEntry));
    /// assert_eq!(IstioKind::of(Kind::named("", "Secret").unwrap()), None);
    /// ```
    pub fn of(kind: &Kind) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|istio| istio.group() == kind.group && istio.as_str() == kind.kind)
    }

    /// Its API group.
    pub fn group(self) -> &'static str {
        match self {
            Self::PeerAuthentication | Self::AuthorizationPolicy => "security.istio.io",
            _ => "networking.istio.io",
        }
    }
}

// === impl IstioObject ===

impl IstioObject {
    /// Which kind it is.
    pub fn kind(&self) -> IstioKind {
        match self {
            Self::VirtualService(_) => IstioKind::VirtualService,
            Self::DestinationRule(_) => IstioKind::DestinationRule,
            Self::Gateway(_) => IstioKind::Gateway,
            Self::ServiceEntry(_) => IstioKind::ServiceEntry,
            Self::WorkloadEntry(_) => IstioKind::WorkloadEntry,
            Self::PeerAuthentication(_) => IstioKind::PeerAuthentication,
            Self::AuthorizationPolicy(_) => IstioKind::AuthorizationPolicy,
        }
    }

    /// Its metadata.
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::VirtualService(object) => &object.metadata,
            Self::DestinationRule(object) => &object.metadata,
            Self::Gateway(object) => &object.metadata,
            Self::ServiceEntry(object) => &object.metadata,
            Self::WorkloadEntry(object) => &object.metadata,
            Self::PeerAuthentication(object) => &object.metadata,
            Self::AuthorizationPolicy(object) => &object.metadata,
        }
    }
}
