//! Nobody grants more than they hold: checked when a role or a binding is written.

use serde_json::Value;

use super::{Objects, Write, name_of};
use crate::api::authorization::{Attributes, Decision, Object, Policy, RoleRef, Rule};
use crate::api::kind::{Kind, RBAC_GROUP};
use crate::api::status::Failure;

impl Objects {
    /// As Kubernetes: the writer holds every rule that the role or binding grants, or may `escalate` or `bind`.
    ///
    /// # Errors
    ///
    /// 403 with the rules that the writer lacks.
    pub(super) async fn check_grant(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        old: Option<&Value>,
        new: &Value,
        write: &Write<'_>,
    ) -> Result<(), Failure> {
        if kind.group != RBAC_GROUP || write.user.is_in(Policy::MASTERS) {
            return Ok(());
        }
        let is_same = |field: &str| old.is_some_and(|old| old.get(field) == new.get(field));
        let namespace = namespace.unwrap_or_default();
        let name = name_of(new);
        let is_binding = new.get("roleRef").is_some();
        let rules = if is_binding {
            if is_same("roleRef") && is_same("subjects") {
                return Ok(());
            }
            let role: RoleRef = part(new, "roleRef", kind, &name)?;
            if may(write, "bind", namespace, &role) {
                return Ok(());
            }
            self.rules_of(&role, namespace).await?
        } else {
            if is_same("rules") {
                return Ok(());
            }
            let role = RoleRef {
                kind: kind.kind.to_owned(),
                name: name.clone(),
            };
            if may(write, "escalate", namespace, &role) {
                return Ok(());
            }
            match new.get("rules") {
                None | Some(Value::Null) => Vec::new(),
                Some(_) => part::<Vec<Rule>>(new, "rules", kind, &name)?,
            }
        };
        let missing = write.policy.missing(write.user, namespace, &rules);
        if missing.is_empty() {
            return Ok(());
        }
        let list: Vec<_> = missing
            .iter()
            .map(|rule| serde_json::to_string(rule).unwrap_or_default())
            .collect();
        let why = format!(
            "user \"{}\" is attempting to grant RBAC permissions not currently held: {}",
            write.user.name,
            list.join(", ")
        );
        Err(Failure::forbidden_object(kind, &name, &why))
    }

    async fn rules_of(&self, role: &RoleRef, namespace: &str) -> Result<Vec<Rule>, Failure> {
        let plural = if role.kind == "Role" {
            "roles"
        } else {
            "clusterroles"
        };
        let kind = Kind::find(RBAC_GROUP, "v1", plural).ok_or_else(Failure::no_such_path)?;
        let namespace = Some(namespace).filter(|_| kind.namespaced);
        let object = self.get(kind, "v1", namespace, &role.name).await?;
        match object.get("rules") {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(_) => part(&object, "rules", kind, &role.name),
        }
    }
}

fn may(write: &Write<'_>, verb: &str, namespace: &str, role: &RoleRef) -> bool {
    let resource = if role.kind == "Role" {
        "roles"
    } else {
        "clusterroles"
    };
    let decision = write.policy.decide(&Attributes {
        user: write.user,
        verb,
        object: Object::Resource {
            group: RBAC_GROUP,
            resource,
            subresource: "",
            namespace,
            name: &role.name,
        },
    });
    decision != Decision::Denied
}

fn part<T: serde::de::DeserializeOwned>(
    object: &Value,
    field: &str,
    kind: Kind,
    name: &str,
) -> Result<T, Failure> {
    let value = object.get(field).cloned().unwrap_or_default();
    serde_json::from_value(value).map_err(|error| {
        let problem = mesh_model::Problem::new(field, error.to_string(), "as Kubernetes has it");
        Failure::invalid(kind, name, &problem.into())
    })
}
