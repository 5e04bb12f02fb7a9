//! Keys, certificates and kubeconfigs of the control plane: made once, kept in Nomad's variables,
//! renewed in the last third of their lives.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use mesh_control::api::bootstrap::{Authority, BootstrapError, Pair};
use mesh_nomad::client::Written;
use mesh_nomad::install::{
    API_NAME, Component, Member, RECORD, Settings, item_of, variable_path, variables,
};
use mesh_nomad::model::variable::Variable;
use serde_json::Value;

use super::cluster::{Cluster, Found, SETTINGS_ITEM};
use super::failed;
use crate::exit::Failure;

/// Items by their names.
type Items = BTreeMap<String, String>;

/// How long the credentials of jobs live. Nobody has to come back each year to renew them, and an
/// install or upgrade does so in the last third.
const LIFE: Duration = Duration::from_secs(5 * 365 * 86400);

/// What was done to the variables.
#[derive(Debug)]
pub(super) struct Secrets {
    /// The API's CA.
    pub(super) authority: Authority,
    /// The CA of etcd, where there is one.
    pub(super) etcd: Option<Authority>,
    /// Variables that were written.
    pub(super) written: Vec<String>,
    /// Jobs that run with credentials that were renewed since.
    pub(super) renewed: Vec<Component>,
}

/// Makes what is missing and renews what is old; all else is kept.
pub(super) async fn make(
    cluster: &Cluster,
    settings: &Settings,
    members: &[Member],
    found: &Found,
) -> Result<Secrets, Failure> {
    let items = |path: &str| -> Items {
        let variable = found
            .variables
            .get(path)
            .and_then(|variable| variable.items.get());
        variable.map(|items| items.0.clone()).unwrap_or_default()
    };
    let variables = variables(settings);
    let mut wanted: BTreeMap<String, Items> = variables
        .iter()
        .map(|variable| (variable.path.clone(), items(&variable.path)))
        .collect();
    let keeper = [Component::Api, Component::Dev]
        .map(variable_path)
        .into_iter()
        .find(|path| wanted.contains_key(path))
        .unwrap_or_default();
    let api = wanted.entry(keeper).or_default();
    let api = authority(api, "pki/api-ca.crt", "pki/api-ca.key", "mesh api ca")?;

    let mut record = items(RECORD);
    let text = serde_json::to_string_pretty(settings).map_err(|error| Failure::of(&error))?;
    record.insert(SETTINGS_ITEM.to_owned(), text);
    let has_etcd = variables
        .iter()
        .any(|variable| variable.component == Component::Etcd);
    let etcd = has_etcd
        .then(|| authority(&mut record, "etcd-ca.crt", "etcd-ca.key", "mesh etcd ca"))
        .transpose()?;
    wanted.insert(RECORD.to_owned(), record);

    let mut renewed = Vec::new();
    for variable in &variables {
        let Some(items) = wanted.get_mut(&variable.path) else {
            continue;
        };
        let had = items.clone();
        let changed = fill(
            variable.component,
            items,
            &api,
            etcd.as_ref(),
            members,
            settings,
        )
        .map_err(|error| {
            Failure::doing(format!("making the secrets of {}", variable.path), &error)
        })?;
        // What was never there cannot be in use.
        if changed && !had.is_empty() && found.facts.job(variable.component.job_id()).is_some() {
            renewed.push(variable.component);
        }
    }
    let mut written = Vec::new();
    for (path, wanted) in wanted {
        if wanted != items(&path) {
            write(cluster, found, &path, wanted).await?;
            written.push(path);
        }
    }
    Ok(Secrets {
        authority: api,
        etcd,
        written,
        renewed,
    })
}

/// Writes what a job lacks; true if anything was.
fn fill(
    component: Component,
    items: &mut Items,
    api: &Authority,
    etcd: Option<&Authority>,
    members: &[Member],
    settings: &Settings,
) -> Result<bool, BootstrapError> {
    let now = SystemTime::now();
    let before = items.clone();
    let role = match component {
        Component::Ca => Some("ca"),
        Component::Pilot => Some("pilot"),
        Component::Mixer => Some("mixer"),
        _ => None,
    };
    if let Some(role) = role {
        let item = item_of(&format!("{role}.kubeconfig"));
        let known = items.get(&item).and_then(|text| certificate(text));
        if !known.is_some_and(|certificate| api.is_fresh(&certificate, now)) {
            // The role finds the API as a service of Nomad's; this address is never dialled.
            let server = format!("https://{API_NAME}:{}", settings.api_port);
            let text = api.user_kubeconfig(&format!("mesh:{role}"), &[], LIFE, Some(&server))?;
            items.insert(item, text);
        }
    }
    let Some(etcd) = etcd else {
        return Ok(*items != before);
    };
    let mut pair = |name: &str, make: &dyn Fn() -> Result<Pair, BootstrapError>| {
        let (certificate, key) = (
            item_of(&format!("{name}.crt")),
            item_of(&format!("{name}.key")),
        );
        let is_kept = items.contains_key(&key)
            && items
                .get(&certificate)
                .is_some_and(|text| etcd.is_fresh(text, now));
        if !is_kept {
            let made = make()?;
            items.insert(certificate, made.certificate);
            items.insert(key, made.key);
        }
        Ok::<_, BootstrapError>(())
    };
    match component {
        Component::Etcd => {
            let addresses: Vec<IpAddr> = members
                .iter()
                .filter_map(|member| member.address.parse().ok())
                .collect();
            pair("member", &|| etcd.etcd_member(&addresses, LIFE))?;
            items.insert(item_of("ca.crt"), etcd.pem().to_owned());
        }
        Component::Api => {
            pair("etcd/client", &|| etcd.etcd_client(LIFE))?;
            items.insert(item_of("etcd/ca.crt"), etcd.pem().to_owned());
        }
        _ => {}
    }
    Ok(*items != before)
}

/// The CA in these items, made if there is none. Half of one is never replaced.
fn authority(
    items: &mut Items,
    certificate: &str,
    key: &str,
    name: &str,
) -> Result<Authority, Failure> {
    let wrong = |error: BootstrapError| Failure::doing(format!("the CA `{name}`"), &error);
    let (certificate, key) = (item_of(certificate), item_of(key));
    let pair = match (items.get(&certificate), items.get(&key)) {
        (Some(certificate), Some(key)) => Pair {
            certificate: certificate.clone(),
            key: key.clone(),
        },
        (None, None) => {
            let pair = Authority::generate(name).map_err(wrong)?;
            items.insert(certificate, pair.certificate.clone());
            items.insert(key, pair.key.clone());
            pair
        }
        _ => {
            let message = format!("of `{certificate}` and `{key}` one is missing in its variable");
            return Err(
                Failure::new(message).with_hint("put it back: a CA is never replaced silently")
            );
        }
    };
    Authority::from_pair(&pair).map_err(wrong)
}

/// The client certificate of a kubeconfig, PEM.
pub(super) fn certificate(kubeconfig: &str) -> Option<String> {
    let config: Value = serde_json::from_str(kubeconfig).ok()?;
    let data = config
        .pointer("/users/0/user/client-certificate-data")?
        .as_str()?;
    String::from_utf8(BASE64.decode(data).ok()?).ok()
}

async fn write(cluster: &Cluster, found: &Found, path: &str, items: Items) -> Result<(), Failure> {
    let variable = Variable::new(path, items);
    let index = found
        .variables
        .get(path)
        .map_or(0, |known| known.modify_index.value());
    let written = cluster
        .client
        .write_variable(&cluster.namespace, &variable, Some(index))
        .await;
    match written.map_err(|error| failed(format!("writing the variable `{path}`"), &error))? {
        Written::Done(_) => Ok(()),
        Written::Conflict(_) => Err(Failure::new(format!(
            "the variable `{path}` was changed by somebody else at the same time"
        ))
        .with_hint("run the same command again")),
    }
}
