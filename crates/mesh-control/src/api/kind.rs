//! The kinds that are served: a fixed table, no kind is added at run time.

use std::fmt;

/// A kind of object, and how it is reached.
#[derive(Debug, Eq, PartialEq)]
pub struct Kind {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Served versions, all of one schema; the first is preferred.
    pub versions: &'static [&'static str],
    /// As in `VirtualService`.
    pub name: &'static str,
    /// As in `virtualservices`.
    pub plural: &'static str,
    /// As in `virtualservice`.
    pub singular: &'static str,
    /// As in `vs`.
    pub short: &'static [&'static str],
    /// Names for several kinds at once, as in `istio-io`.
    pub categories: &'static [&'static str],
    /// Whether objects live in a namespace.
    pub is_namespaced: bool,
    /// Whether the status is a subresource of its own, and writes of the object leave it alone.
    pub has_status: bool,
    /// Who says what a valid object is.
    pub family: Family,
}

/// Who says what a valid object is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Family {
    /// Kubernetes' own kinds.
    Kubernetes,
    /// Istio's kinds; `mesh_model` knows them.
    Istio,
}

/// Prints as `plural.group`.
struct Qualified<'a>(&'a str, &'a str);

// === impl Kind ===

impl Kind {
    /// Every kind.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        KUBERNETES.iter().chain(ISTIO)
    }

    /// The kind with this group, version and plural.
    pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Self> {
        Self::all().find(|kind| {
            kind.group == group && kind.plural == plural && kind.versions.contains(&version)
        })
    }

    /// The kind with this group and plural, as they stand in a key of the store.
    pub fn of_key(group: &str, plural: &str) -> Option<&'static Self> {
        let group = if group == CORE_KEY { "" } else { group };
        Self::all().find(|kind| kind.group == group && kind.plural == plural)
    }

    /// `virtualservices.networking.istio.io`; the plural alone in the core group.
    pub fn qualified(&self) -> impl fmt::Display {
        Qualified(self.plural, self.group)
    }

    /// `VirtualService.networking.istio.io`; the name alone in the core group.
    pub fn qualified_kind(&self) -> impl fmt::Display {
        Qualified(self.name, self.group)
    }

    /// `group/version`; the version alone in the core group.
    pub fn api_version(&self, version: &str) -> String {
        if self.group.is_empty() {
            version.to_owned()
        } else {
            format!("{}/{version}", self.group)
        }
    }

    /// The preferred version.
    pub fn preferred(&self) -> &'static str {
        self.versions.first().copied().unwrap_or_default()
    }

    /// What the keys of all its objects begin with, or of those in a namespace.
    pub fn prefix(&self, namespace: Option<&str>) -> String {
        let group = if self.group.is_empty() {
            CORE_KEY
        } else {
            self.group
        };
        match namespace {
            Some(namespace) => format!("{group}/{}/{namespace}/", self.plural),
            None => format!("{group}/{}/", self.plural),
        }
    }

    /// The key of one object; the namespace is ignored where the kind has none.
    pub fn key(&self, namespace: Option<&str>, name: &str) -> String {
        let namespace = namespace.filter(|_| self.is_namespaced);
        format!("{}{name}", self.prefix(namespace))
    }

    /// The subresources besides the object itself.
    pub fn subresources(&self) -> &'static [&'static str] {
        match (self.name, self.has_status) {
            ("ServiceAccount", _) => &["token"],
            (_, true) => &["status"],
            _ => &[],
        }
    }

    /// What may be done with its objects, in the words of RBAC.
    pub const VERBS: &[&str] = &[
        "create",
        "delete",
        "deletecollection",
        "get",
        "list",
        "patch",
        "update",
        "watch",
    ];
}

impl fmt::Display for Qualified<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.1.is_empty() {
            f.write_str(self.0)
        } else {
            write!(f, "{}.{}", self.0, self.1)
        }
    }
}

/// The core group in a key of the store, where a part must not be empty.
const CORE_KEY: &str = "core";

/// The group of roles and bindings.
pub const RBAC_GROUP: &str = "rbac.authorization.k8s.io";

/// The kind that everything namespaced depends on.
pub const NAMESPACE: &Kind = &KUBERNETES[0];

/// A row that most kinds of Kubernetes differ from in a few fields.
const CORE: Kind = Kind {
    group: "",
    versions: &["v1"],
    name: "",
    plural: "",
    singular: "",
    short: &[],
    categories: &[],
    is_namespaced: true,
    has_status: false,
    family: Family::Kubernetes,
};

const KUBERNETES: [Kind; 9] = [
    Kind {
        name: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short: &["ns"],
        is_namespaced: false,
        has_status: true,
        ..CORE
    },
    Kind {
        name: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short: &["cm"],
        ..CORE
    },
    Kind {
        name: "Secret",
        plural: "secrets",
        singular: "secret",
        ..CORE
    },
    Kind {
        name: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short: &["sa"],
        ..CORE
    },
    Kind {
        name: "Event",
        plural: "events",
        singular: "event",
        short: &["ev"],
        ..CORE
    },
    Kind {
        group: RBAC_GROUP,
        name: "Role",
        plural: "roles",
        singular: "role",
        ..CORE
    },
    Kind {
        group: RBAC_GROUP,
        name: "RoleBinding",
        plural: "rolebindings",
        singular: "rolebinding",
        ..CORE
    },
    Kind {
        group: RBAC_GROUP,
        name: "ClusterRole",
        plural: "clusterroles",
        singular: "clusterrole",
        is_namespaced: false,
        ..CORE
    },
    Kind {
        group: RBAC_GROUP,
        name: "ClusterRoleBinding",
        plural: "clusterrolebindings",
        singular: "clusterrolebinding",
        is_namespaced: false,
        ..CORE
    },
];

const NETWORKING: Kind = Kind {
    group: "networking.istio.io",
    versions: &["v1", "v1beta1", "v1alpha3"],
    categories: &["istio-io", "networking-istio-io"],
    has_status: true,
    family: Family::Istio,
    ..CORE
};

const SECURITY: Kind = Kind {
    group: "security.istio.io",
    versions: &["v1", "v1beta1"],
    categories: &["istio-io", "security-istio-io"],
    has_status: true,
    family: Family::Istio,
    ..CORE
};

const ISTIO: &[Kind] = &[
    Kind {
        name: "VirtualService",
        plural: "virtualservices",
        singular: "virtualservice",
        short: &["vs"],
        ..NETWORKING
    },
    Kind {
        name: "DestinationRule",
        plural: "destinationrules",
        singular: "destinationrule",
        short: &["dr"],
        ..NETWORKING
    },
    Kind {
        name: "ServiceEntry",
        plural: "serviceentries",
        singular: "serviceentry",
        short: &["se"],
        ..NETWORKING
    },
    Kind {
        name: "WorkloadEntry",
        plural: "workloadentries",
        singular: "workloadentry",
        short: &["we"],
        ..NETWORKING
    },
    Kind {
        name: "PeerAuthentication",
        plural: "peerauthentications",
        singular: "peerauthentication",
        short: &["pa"],
        ..SECURITY
    },
    Kind {
        name: "AuthorizationPolicy",
        plural: "authorizationpolicies",
        singular: "authorizationpolicy",
        short: &["ap"],
        ..SECURITY
    },
];
