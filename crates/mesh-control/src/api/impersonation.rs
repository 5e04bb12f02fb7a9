//! Acting as somebody else (`kubectl --as`): allowed by the verb `impersonate`, never by a header alone.

use http::HeaderMap;

use super::authentication::User;
use super::authorization::{Attributes, Decision, Object, Policy};
use super::status::Failure;

/// The user that a request acts as; the caller, if it asks for nobody else.
///
/// # Errors
///
/// 403 if the caller may not impersonate every name and group asked for, or asks for what is not supported.
pub(crate) fn acting_user(
    caller: &User,
    headers: &HeaderMap,
    policy: &Policy,
) -> Result<Option<User>, Failure> {
    let values = |name: &str| -> Vec<String> {
        let values = headers.get_all(name).iter();
        values
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect()
    };
    let is_asked = headers
        .keys()
        .any(|name| name.as_str().starts_with("impersonate-"));
    if !is_asked {
        return Ok(None);
    }
    let unknown = headers.keys().find(|name| {
        let name = name.as_str();
        name.starts_with("impersonate-") && !matches!(name, USER | GROUP)
    });
    if let Some(name) = unknown {
        return Err(Failure::forbidden(format!(
            "header `{name}` is not supported"
        )));
    }
    let mut names = values(USER);
    let Some(name) = names
        .pop()
        .filter(|name| names.is_empty() && !name.is_empty())
    else {
        return Err(Failure::bad_request(format!(
            "header `{USER}` must name one user"
        )));
    };
    let mut groups = values(GROUP);
    let account = name
        .strip_prefix("system:serviceaccount:")
        .and_then(|account| account.split_once(':'));
    let mut asked = vec![match account {
        Some((namespace, account)) => ("serviceaccounts", namespace, account),
        None => ("users", "", name.as_str()),
    }];
    asked.extend(groups.iter().map(|group| ("groups", "", group.as_str())));
    for (resource, namespace, name) in asked {
        let object = Object::Resource {
            group: "",
            resource,
            subresource: "",
            namespace,
            name,
        };
        let decision = policy.decide(&Attributes {
            user: caller,
            verb: "impersonate",
            object,
        });
        if decision == Decision::Denied {
            return Err(Failure::forbidden(format!(
                "{resource} \"{name}\" is forbidden: User \"{}\" cannot impersonate resource \"{resource}\"",
                caller.name
            )));
        }
    }
    if let Some((namespace, _)) = account {
        groups.push("system:serviceaccounts".to_owned());
        groups.push(format!("system:serviceaccounts:{namespace}"));
    }
    groups.push(User::AUTHENTICATED.to_owned());
    Ok(Some(User {
        name,
        uid: String::new(),
        groups,
    }))
}

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
