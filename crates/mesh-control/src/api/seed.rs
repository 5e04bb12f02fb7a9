//! What an empty store is given: the namespaces and roles that the mesh cannot be without.
//!
//! Nothing that exists is changed: an operator who narrows a role finds it narrow after the next start.

use serde_json::{Value, json};

use super::admission::Addressed;
use super::authentication::User;
use super::authorization::Policy;
use super::kind::{Kind, RBAC_GROUP};
use super::objects::{Objects, Write};
use super::status::Failure;
use super::validation::FieldValidation;

/// Makes what is absent.
pub(super) async fn plant(objects: &Objects) -> Result<(), Failure> {
    for name in ["default", "istio-system", "mesh-system"] {
        let namespace = json!({"metadata": {"name": name}});
        make(objects, Kind::namespace(), None, namespace).await?;
        objects.ensure_default_account(name).await?;
    }
    for (plural, namespace, object) in roles() {
        let kind = Kind::find(RBAC_GROUP, "v1", plural).ok_or_else(Failure::no_such_path)?;
        make(objects, kind, namespace, object).await?;
    }
    Ok(())
}

async fn make(
    objects: &Objects,
    kind: Kind,
    namespace: Option<&str>,
    object: Value,
) -> Result<(), Failure> {
    let user = User::server();
    let policy = Policy::default();
    let write = Write {
        user: &user,
        is_dry_run: false,
        validation: FieldValidation::Strict,
        policy: &policy,
    };
    let to = Addressed {
        kind,
        version: kind.version(),
        namespace,
        name: None,
    };
    match objects.create(object, to, &write).await {
        Ok(_) => Ok(()),
        Err(failure) if failure.reason == "AlreadyExists" => Ok(()),
        Err(failure) => Err(failure),
    }
}

/// Plural, namespace and content of every role and binding.
fn roles() -> Vec<(&'static str, Option<&'static str>, Value)> {
    let mut all: Vec<(&'static str, Option<&'static str>, Value)> = Vec::new();
    for (name, rules) in user_roles().into_iter().chain(mesh_roles()) {
        all.push((
            "clusterroles",
            None,
            json!({"metadata": {"name": name}, "rules": rules}),
        ));
    }
    for (role, subject) in [
        ("system:discovery", group(User::AUTHENTICATED)),
        ("system:basic-user", group(User::AUTHENTICATED)),
        ("cluster-admin", group(Policy::MASTERS)),
        ("mesh:pilot", user("mesh:pilot")),
        ("mesh:ca", user("mesh:ca")),
        ("mesh:mixer", user("mesh:mixer")),
    ] {
        all.push((
            "clusterrolebindings",
            None,
            json!({
                "metadata": {"name": role},
                "roleRef": {"apiGroup": RBAC_GROUP, "kind": "ClusterRole", "name": role},
                "subjects": [subject],
            }),
        ));
    }
    for (name, rules, subject) in system_roles() {
        let system = Some("mesh-system");
        all.push((
            "roles",
            system,
            json!({"metadata": {"name": name}, "rules": rules}),
        ));
        all.push((
            "rolebindings",
            system,
            json!({
                "metadata": {"name": name},
                "roleRef": {"apiGroup": RBAC_GROUP, "kind": "Role", "name": name},
                "subjects": [subject],
            }),
        ));
    }
    all
}

/// ClusterRoles for people, and for everybody.
fn user_roles() -> Vec<(&'static str, Value)> {
    let istio = istio_groups();
    let read = json!(["get", "list", "watch"]);
    let write = json!(Kind::VERBS);
    let view = vec![
        json!({"apiGroups": istio, "resources": ["*"], "verbs": read}),
        json!({
            "apiGroups": [""],
            "resources": ["configmaps", "events", "namespaces", "serviceaccounts"],
            "verbs": read,
        }),
        json!({"apiGroups": ["mesh.dev"], "resources": ["proxies"], "verbs": ["get"]}),
    ];
    let mut edit = view.clone();
    edit.extend([
        json!({"apiGroups": istio, "resources": ["*"], "verbs": write}),
        json!({
            "apiGroups": [""],
            "resources": ["configmaps", "events", "secrets", "serviceaccounts"],
            "verbs": write,
        }),
        json!({"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"]}),
    ]);
    let mut admin = edit.clone();
    admin.push(json!({
        "apiGroups": [RBAC_GROUP],
        "resources": ["roles", "rolebindings"],
        "verbs": write,
    }));
    vec![
        (
            "cluster-admin",
            json!([
                {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
                {"nonResourceURLs": ["*"], "verbs": ["*"]},
            ]),
        ),
        ("view", view.into()),
        ("edit", edit.into()),
        ("admin", admin.into()),
        (
            "system:discovery",
            json!([{
                "nonResourceURLs": ["/", "/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*"],
                "verbs": ["get"],
            }]),
        ),
        (
            "system:basic-user",
            json!([
                {
                    "apiGroups": ["authorization.k8s.io"],
                    "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
                    "verbs": ["create"],
                },
                {
                    "apiGroups": ["authentication.k8s.io"],
                    "resources": ["selfsubjectreviews"],
                    "verbs": ["create"],
                },
            ]),
        ),
    ]
}

/// ClusterRoles of the control plane's own services.
fn mesh_roles() -> Vec<(&'static str, Value)> {
    let istio = istio_groups();
    let read = json!(["get", "list", "watch"]);
    vec![
        (
            "mesh:pilot",
            json!([
                {"apiGroups": istio, "resources": ["*"], "verbs": read},
                {
                    "apiGroups": istio,
                    "resources": ["*/status"],
                    "verbs": ["get", "patch", "update"],
                },
                {
                    "apiGroups": [""],
                    "resources": ["configmaps", "namespaces", "serviceaccounts"],
                    "verbs": read,
                },
                {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch", "update"]},
                reviewer(),
            ]),
        ),
        (
            "mesh:ca",
            json!([
                {"apiGroups": [""], "resources": ["namespaces", "serviceaccounts"], "verbs": read},
                {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch", "update"]},
                {
                    "apiGroups": ["authentication.k8s.io"],
                    "resources": ["tokenreviews"],
                    "verbs": ["create"],
                },
                reviewer(),
            ]),
        ),
        (
            "mesh:mixer",
            json!([
                {"apiGroups": istio, "resources": ["*"], "verbs": read},
                {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch", "update"]},
            ]),
        ),
    ]
}

/// Roles in `mesh-system`: name, rules, to whom.
fn system_roles() -> Vec<(&'static str, Value, Value)> {
    let maps = json!({
        "apiGroups": [""],
        "resources": ["configmaps"],
        "verbs": ["create", "get", "list", "patch", "update", "watch"],
    });
    vec![
        (
            "mesh:config",
            json!([{
                "apiGroups": [""],
                "resources": ["configmaps"],
                "resourceNames": ["mesh"],
                "verbs": ["get", "list", "watch"],
            }]),
            group(User::AUTHENTICATED),
        ),
        ("mesh:pilot", with_join(&maps, "pilot"), user("mesh:pilot")),
        ("mesh:mixer", with_join(&maps, "mixer"), user("mesh:mixer")),
        (
            "mesh:ca",
            json!([
                maps,
                // Creation cannot be limited to a name; an existing Secret, as the key of tokens, is
                // neither read nor replaced by it.
                {
                    "apiGroups": [""],
                    "resources": ["secrets"],
                    "verbs": ["create"],
                },
                {
                    "apiGroups": [""],
                    "resources": ["secrets"],
                    "resourceNames": ["mesh-ca", "mesh-root"],
                    "verbs": ["delete", "get", "list", "patch", "update", "watch"],
                },
            ]),
            user("mesh:ca"),
        ),
    ]
}

/// Joining the mesh as a workload does: with a token of the role's own account, and of no other.
fn with_join(maps: &Value, account: &str) -> Value {
    json!([
        maps,
        {"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["create"]},
        {
            "apiGroups": [""],
            "resources": ["serviceaccounts/token"],
            "resourceNames": [account],
            "verbs": ["create"],
        },
    ])
}

fn istio_groups() -> Value {
    json!([
        "networking.istio.io",
        "security.istio.io",
        "telemetry.istio.io"
    ])
}

fn reviewer() -> Value {
    json!({
        "apiGroups": ["authorization.k8s.io"],
        "resources": ["subjectaccessreviews"],
        "verbs": ["create"],
    })
}

fn user(name: &str) -> Value {
    json!({"apiGroup": RBAC_GROUP, "kind": "User", "name": name})
}

fn group(name: &str) -> Value {
    json!({"apiGroup": RBAC_GROUP, "kind": "Group", "name": name})
}
