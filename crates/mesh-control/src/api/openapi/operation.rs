//! The calls on each kind as both versions of `OpenAPI` tell them.

use serde_json::{Value, json};

use crate::api::kind::Kind;

/// One path and what can be done there.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) path: String,
    /// Method of HTTP and action of Kubernetes.
    pub(super) methods: &'static [(&'static str, &'static str)],
    kind: Kind,
    version: &'static str,
    is_status: bool,
    is_namespaced: bool,
}

/// A parameter of a query.
#[derive(Debug)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) r#type: &'static str,
    pub(super) description: &'static str,
    pub(super) methods: &'static [&'static str],
}

// === impl Route ===

impl Route {
    /// As Kubernetes marks which kind a call is about.
    pub(super) fn group_version_kind(&self) -> Value {
        json!({"group": self.kind.group, "version": self.version, "kind": self.kind.kind})
    }

    /// The kind.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// The parameters in the path.
    pub(super) fn path_parameters(&self) -> Vec<&'static str> {
        ["namespace", "name"]
            .into_iter()
            .filter(|name| self.path.contains(&format!("{{{name}}}")))
            .collect()
    }

    /// A name that no other call has.
    pub(super) fn operation_id(&self, method: &str) -> String {
        let status = if self.is_status { "Status" } else { "" };
        let scope = if self.is_namespaced { "Namespaced" } else { "" };
        let one = if self.path.contains("{name}") {
            ""
        } else {
            "Collection"
        };
        format!(
            "{method}{}{}{scope}{}{one}{status}",
            self.kind.group.replace('.', "_"),
            self.version,
            self.kind.kind
        )
    }
}

/// The paths of a kind in a version.
pub(super) fn routes(kind: Kind, version: &'static str) -> Vec<Route> {
    let base = match kind.group {
        "" => format!("/api/{version}"),
        group => format!("/apis/{group}/{version}"),
    };
    let home = if kind.namespaced {
        format!("{base}/namespaces/{{namespace}}/{}", kind.plural)
    } else {
        format!("{base}/{}", kind.plural)
    };
    let route = |path, methods, is_status, is_namespaced| Route {
        path,
        methods,
        kind,
        version,
        is_status,
        is_namespaced,
    };
    let mut routes = vec![
        route(home.clone(), COLLECTION, false, kind.namespaced),
        route(format!("{home}/{{name}}"), OBJECT, false, kind.namespaced),
    ];
    if kind.namespaced {
        routes.push(route(
            format!("{base}/{}", kind.plural),
            EVERYWHERE,
            false,
            false,
        ));
    }
    if kind.has_status() {
        let path = format!("{home}/{{name}}/status");
        routes.push(route(path, STATUS, true, kind.namespaced));
    }
    routes
}

const COLLECTION: &[(&str, &str)] = &[
    ("get", "list"),
    ("post", "post"),
    ("delete", "deletecollection"),
];

const OBJECT: &[(&str, &str)] = &[
    ("get", "get"),
    ("put", "put"),
    ("patch", "patch"),
    ("delete", "delete"),
];

const EVERYWHERE: &[(&str, &str)] = &[("get", "list")];

const STATUS: &[(&str, &str)] = &[("get", "get"), ("put", "put"), ("patch", "patch")];

/// The parameters of the calls; `dryRun` and `fieldValidation` on PATCH are what kubectl looks for.
pub(super) const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "dryRun",
        r#type: "string",
        description: "`All`: do everything but store it.",
        methods: &["post", "put", "patch", "delete"],
    },
    Parameter {
        name: "fieldManager",
        r#type: "string",
        description: "Who writes.",
        methods: &["post", "put", "patch"],
    },
    Parameter {
        name: "fieldValidation",
        r#type: "string",
        description: "What becomes of unknown fields: `Ignore`, `Warn` or `Strict`.",
        methods: &["post", "put", "patch"],
    },
    Parameter {
        name: "labelSelector",
        r#type: "string",
        description: "Only objects with these labels.",
        methods: &["get"],
    },
    Parameter {
        name: "fieldSelector",
        r#type: "string",
        description: "Only objects with these fields.",
        methods: &["get"],
    },
    Parameter {
        name: "limit",
        r#type: "integer",
        description: "At most so many objects.",
        methods: &["get"],
    },
    Parameter {
        name: "continue",
        r#type: "string",
        description: "Go on where a limited list ended.",
        methods: &["get"],
    },
    Parameter {
        name: "resourceVersion",
        r#type: "string",
        description: "Not older than this.",
        methods: &["get"],
    },
    Parameter {
        name: "watch",
        r#type: "boolean",
        description: "Tell changes as they happen.",
        methods: &["get"],
    },
];
