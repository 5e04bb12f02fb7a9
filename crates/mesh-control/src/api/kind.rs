//! The kinds that are served, with what the API adds to the model's table of them.

use std::fmt;
use std::ops::Deref;

use mesh_model::istio::IstioKind;

/// A kind of object of the model's table, as the API serves it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Kind(&'static mesh_model::Kind);

/// Prints as `plural.group`.
struct Qualified<'a>(&'a str, &'a str);

// === impl Kind ===

impl Kind {
    /// Every kind.
    pub fn all() -> impl Iterator<Item = Self> {
        mesh_model::kind::KINDS.iter().map(Self)
    }

    /// The kind with this group, version and plural.
    pub fn find(group: &str, version: &str, plural: &str) -> Option<Self> {
        mesh_model::Kind::of_resource(group, plural)
            .filter(|kind| kind.versions.contains(&version))
            .map(Self)
    }

    /// The kind with this group and plural, as they stand in a key of the store.
    pub fn of_key(group: &str, plural: &str) -> Option<Self> {
        let group = if group == CORE_KEY { "" } else { group };
        mesh_model::Kind::of_resource(group, plural).map(Self)
    }

    /// The kind that everything namespaced depends on.
    #[expect(
        clippy::expect_used,
        clippy::missing_panics_doc,
        reason = "the table of the model has the kind, which every test here would notice missing"
    )]
    pub fn namespace() -> Self {
        Self(mesh_model::Kind::of_resource("", "namespaces").expect("kind Namespace"))
    }

    /// Whether this is the kind Namespace.
    pub fn is_namespace(self) -> bool {
        self.group.is_empty() && self.kind == "Namespace"
    }

    /// Which of Istio's kinds it is; none for a kind of Kubernetes.
    pub fn istio(self) -> Option<IstioKind> {
        IstioKind::of(self.0)
    }

    /// Whether the status is a subresource of its own, and writes of the object leave it alone.
    pub fn has_status(self) -> bool {
        self.istio().is_some() || self.is_namespace()
    }

    /// `virtualservices.networking.istio.io`; the plural alone in the core group.
    pub fn qualified(self) -> impl fmt::Display {
        Qualified(self.0.plural, self.0.group)
    }

    /// `VirtualService.networking.istio.io`; the name alone in the core group.
    pub fn qualified_kind(self) -> impl fmt::Display {
        Qualified(self.0.kind, self.0.group)
    }

    /// `group/version`; the version alone in the core group.
    pub fn api_version(self, version: &str) -> String {
        if self.group.is_empty() {
            version.to_owned()
        } else {
            format!("{}/{version}", self.group)
        }
    }

    /// What the keys of all its objects begin with, or of those in a namespace.
    pub fn prefix(self, namespace: Option<&str>) -> String {
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
    pub fn key(self, namespace: Option<&str>, name: &str) -> String {
        let namespace = namespace.filter(|_| self.namespaced);
        format!("{}{name}", self.prefix(namespace))
    }

    /// The subresources besides the object itself.
    pub fn subresources(self) -> &'static [&'static str] {
        match (self.kind, self.has_status()) {
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

impl Deref for Kind {
    type Target = mesh_model::Kind;

    fn deref(&self) -> &mesh_model::Kind {
        self.0
    }
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
