//! The table of the kinds that are served.

use super::{Cell, Column, Kind};

/// Every kind that is served.
pub static KINDS: &[Kind] = &[
    Kind {
        short_names: &["vs"],
        columns: &[
            Column {
                name: "Gateways",
                cell: Cell::Path(&["spec", "gateways"]),
            },
            Column {
                name: "Hosts",
                cell: Cell::Path(&["spec", "hosts"]),
            },
            AGE,
        ],
        ..networking("VirtualService", "virtualservices", "virtualservice")
    },
    Kind {
        short_names: &["dr"],
        columns: &[
            Column {
                name: "Host",
                cell: Cell::Path(&["spec", "host"]),
            },
            AGE,
        ],
        ..networking("DestinationRule", "destinationrules", "destinationrule")
    },
    Kind {
        short_names: &["gw"],
        columns: &[AGE],
        ..networking("Gateway", "gateways", "gateway")
    },
    Kind {
        short_names: &["se"],
        columns: &[
            Column {
                name: "Hosts",
                cell: Cell::Path(&["spec", "hosts"]),
            },
            Column {
                name: "Location",
                cell: Cell::Path(&["spec", "location"]),
            },
            Column {
                name: "Resolution",
                cell: Cell::Path(&["spec", "resolution"]),
            },
            AGE,
        ],
        ..networking("ServiceEntry", "serviceentries", "serviceentry")
    },
    Kind {
        short_names: &["we"],
        columns: &[
            AGE,
            Column {
                name: "Address",
                cell: Cell::Path(&["spec", "address"]),
            },
        ],
        ..networking("WorkloadEntry", "workloadentries", "workloadentry")
    },
    Kind {
        short_names: &["pa"],
        columns: &[
            Column {
                name: "Mode",
                cell: Cell::Path(&["spec", "mtls", "mode"]),
            },
            AGE,
        ],
        ..security(
            "PeerAuthentication",
            "peerauthentications",
            "peerauthentication",
        )
    },
    Kind {
        short_names: &["ap"],
        columns: &[
            Column {
                name: "Action",
                cell: Cell::Path(&["spec", "action"]),
            },
            AGE,
        ],
        ..security(
            "AuthorizationPolicy",
            "authorizationpolicies",
            "authorizationpolicy",
        )
    },
    Kind {
        short_names: &["ns"],
        namespaced: false,
        columns: &[
            Column {
                name: "Status",
                cell: Cell::Path(&["status", "phase"]),
            },
            AGE,
        ],
        ..core("Namespace", "namespaces", "namespace")
    },
    Kind {
        columns: &[
            Column {
                name: "Type",
                cell: Cell::Path(&["type"]),
            },
            Column {
                name: "Data",
                cell: Cell::Count(&["data"]),
            },
            AGE,
        ],
        ..core("Secret", "secrets", "secret")
    },
    Kind {
        short_names: &["cm"],
        columns: &[
            Column {
                name: "Data",
                cell: Cell::Count(&["data"]),
            },
            AGE,
        ],
        ..core("ConfigMap", "configmaps", "configmap")
    },
    Kind {
        short_names: &["ev"],
        columns: &[
            Column {
                name: "Last Seen",
                cell: Cell::AgeOf(&["lastTimestamp"]),
            },
            Column {
                name: "Type",
                cell: Cell::Path(&["type"]),
            },
            Column {
                name: "Reason",
                cell: Cell::Path(&["reason"]),
            },
            Column {
                name: "Object",
                cell: Cell::Reference(&["involvedObject"]),
            },
            Column {
                name: "Message",
                cell: Cell::Path(&["message"]),
            },
        ],
        ..core("Event", "events", "event")
    },
    Kind {
        short_names: &["sa"],
        columns: &[
            Column {
                name: "Secrets",
                cell: Cell::Count(&["secrets"]),
            },
            AGE,
        ],
        ..core("ServiceAccount", "serviceaccounts", "serviceaccount")
    },
    Kind {
        columns: &[CREATED],
        ..rbac("Role", "roles", "role")
    },
    Kind {
        columns: &[ROLE, AGE],
        ..rbac("RoleBinding", "rolebindings", "rolebinding")
    },
    Kind {
        namespaced: false,
        columns: &[CREATED],
        ..rbac("ClusterRole", "clusterroles", "clusterrole")
    },
    Kind {
        namespaced: false,
        columns: &[ROLE, AGE],
        ..rbac(
            "ClusterRoleBinding",
            "clusterrolebindings",
            "clusterrolebinding",
        )
    },
];

const AGE: Column = Column {
    name: "Age",
    cell: Cell::Age,
};
const ROLE: Column = Column {
    name: "Role",
    cell: Cell::Reference(&["roleRef"]),
};
const CREATED: Column = Column {
    name: "Created At",
    cell: Cell::Path(&["metadata", "creationTimestamp"]),
};

/// A kind of Istio's networking group, in the versions of Istio's own definitions.
const fn networking(kind: &'static str, plural: &'static str, singular: &'static str) -> Kind {
    Kind {
        group: "networking.istio.io",
        versions: &["v1", "v1beta1", "v1alpha3"],
        categories: &["istio-io", "networking-istio-io"],
        ..core(kind, plural, singular)
    }
}

/// A kind of Istio's security group.
const fn security(kind: &'static str, plural: &'static str, singular: &'static str) -> Kind {
    Kind {
        group: "security.istio.io",
        versions: &["v1", "v1beta1"],
        categories: &["istio-io", "security-istio-io"],
        ..core(kind, plural, singular)
    }
}

/// A kind of Kubernetes' access control.
const fn rbac(kind: &'static str, plural: &'static str, singular: &'static str) -> Kind {
    Kind {
        group: "rbac.authorization.k8s.io",
        ..core(kind, plural, singular)
    }
}

/// A kind of Kubernetes' core.
const fn core(kind: &'static str, plural: &'static str, singular: &'static str) -> Kind {
    Kind {
        group: "",
        versions: &["v1"],
        kind,
        plural,
        singular,
        short_names: &[],
        namespaced: true,
        categories: &[],
        columns: &[],
    }
}
