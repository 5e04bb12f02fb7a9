//! Certificates and keys of gateways: read from Secrets by name, judged, and kept current.
//!
//! A Secret is read only if a `Gateway` names it, and only in the namespace of a gateway that serves
//! it. That gateway's account must be allowed to `get` it by the API's own rules, which Pilot asks
//! for: else whoever may register as a gateway could have any key of its namespace.

mod pem;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watch_object};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::StreamMap;
use tracing::{info, warn};

use super::mesh::{Credential, CredentialKey, Credentials};

/// How often permissions and lifetimes are looked at again.
const AGAIN: Duration = Duration::from_secs(30);

/// What the API says of one Secret.
type Seen = Result<Option<Secret>, watcher::Error>;

/// Reads the Secrets that are wanted and tells what became of them, as long as anybody listens.
///
/// While the API server is away, what was read stays.
pub(super) async fn follow_credentials(
    client: Client,
    mut wanted: watch::Receiver<BTreeSet<CredentialKey>>,
    found: watch::Sender<Credentials>,
) {
    let mut streams: StreamMap<CredentialKey, BoxStream<'static, Seen>> = StreamMap::new();
    let mut secrets: BTreeMap<CredentialKey, Option<Secret>> = BTreeMap::new();
    let mut known: BTreeMap<CredentialKey, Credential> = BTreeMap::new();
    let mut again = interval(AGAIN);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let due: Vec<CredentialKey> = tokio::select! {
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = wanted.borrow_and_update().clone();
                let gone: Vec<_> = streams.keys().filter(|key| !now.contains(*key)).cloned().collect();
                for key in gone {
                    streams.remove(&key);
                    secrets.remove(&key);
                    known.remove(&key);
                }
                for key in now {
                    if !streams.contains_key(&key) {
                        let stream = follow(&client, &key);
                        streams.insert(key, stream);
                    }
                }
                Vec::new()
            }
            Some((key, seen)) = streams.next() => match seen {
                Ok(secret) => {
                    secrets.insert(key.clone(), secret);
                    vec![key]
                }
                Err(error) => {
                    unread(&key, &error, &mut known);
                    Vec::new()
                }
            },
            _ = again.tick() => secrets.keys().cloned().collect(),
        };
        for key in due {
            let Some(secret) = secrets.get(&key) else {
                continue;
            };
            let credential = match may_read(&client, &key).await {
                Ok(true) => judge(secret.as_ref()),
                Ok(false) => Credential::unusable(format!(
                    "may not be read by the gateway: service account `{}` is not allowed to `get` it",
                    key.account
                )),
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    warn!(namespace = %key.namespace, secret = key.name, error, "cannot ask who may read a secret; what was known stays");
                    continue;
                }
            };
            known.insert(key, credential);
        }
        found.send_if_modified(|current| {
            let is_change = **current != known;
            if is_change {
                info!(secrets = known.len(), "credentials of gateways changed");
                *current = Arc::new(known.clone());
            }
            is_change
        });
    }
}

fn follow(client: &Client, key: &CredentialKey) -> BoxStream<'static, Seen> {
    let api: Api<Secret> = Api::namespaced(client.clone(), key.namespace.as_str());
    watch_object(api, &key.name).default_backoff().boxed()
}

/// A Secret that cannot be read: one that Pilot is refused is of no use, anything else may pass.
fn unread(
    key: &CredentialKey,
    error: &watcher::Error,
    known: &mut BTreeMap<CredentialKey, Credential>,
) {
    let refused = match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => {
            matches!(error, kube::Error::Api(status) if status.code == 403)
        }
        _ => false,
    };
    if refused && !known.contains_key(key) {
        let reason = "may not be read by Pilot: no RoleBinding in its namespace lets user `mesh:pilot` get, list and watch it";
        known.insert(key.clone(), Credential::unusable(reason));
    } else if !refused {
        warn!(namespace = %key.namespace, secret = key.name, %error, "cannot read a secret; what was known stays");
    }
}

/// Whether the gateway's own account may read the Secret.
async fn may_read(client: &Client, key: &CredentialKey) -> Result<bool, kube::Error> {
    let CredentialKey {
        namespace,
        account,
        name,
    } = key;
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(format!("system:serviceaccount:{namespace}:{account}")),
            groups: Some(vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
                "system:authenticated".to_owned(),
            ]),
            resource_attributes: Some(ResourceAttributes {
                namespace: Some(namespace.to_string()),
                verb: Some("get".to_owned()),
                resource: Some("secrets".to_owned()),
                name: Some(name.clone()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let reviews: Api<SubjectAccessReview> = Api::all(client.clone());
    let answer = reviews.create(&PostParams::default(), &review).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

/// What can be served of a Secret at this moment.
fn judge(secret: Option<&Secret>) -> Credential {
    let Some(secret) = secret else {
        return Credential::unusable("does not exist");
    };
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        });
    let data = |key: &str| {
        let data = secret.data.as_ref()?.get(key)?;
        (!data.0.is_empty()).then_some(data.0.as_slice())
    };
    Credential {
        pair: pem::pair(data("tls.crt"), data("tls.key"), now),
        roots: pem::roots(data("ca.crt").or_else(|| data("cacert"))),
    }
}
