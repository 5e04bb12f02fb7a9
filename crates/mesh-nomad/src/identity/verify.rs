//! Whether a token proves who its bearer is.

use std::future::Future;
use std::time::Duration;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Validation, decode, decode_header};
use mesh_model::{Namespace, Problem, SpiffeId, TrustDomain, WorkloadId};

use super::{Account, Claims, Keys, ROLE_META, Token, annotations, namespace, workload_id};
use crate::model::allocation::Allocation;

/// What a token has to be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Expectation {
    /// Who it has to be for.
    pub audience: String,
    /// How far clocks may be apart.
    pub leeway: Duration,
    /// The longest that a token may live: one without end, or with an end far away, is refused.
    pub longest: Duration,
}

/// Who the bearer of a token is.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Proven {
    /// The workload.
    pub workload: WorkloadId,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its account. One that its job asks for needs a `RoleBinding` that allows it.
    pub account: Account,
    /// The allocation.
    pub allocation: String,
    /// Its group.
    pub group: String,
    /// Its node.
    pub node: String,
    /// Until when the token holds, seconds since 1970; nothing if none was shown.
    pub expires: Option<i64>,
}

/// Why a token proves nothing. For the log; the bearer is told no more than that.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It is no token, or not one of Nomad's.
    #[error("not a workload identity of Nomad: {reason}")]
    Malformed {
        /// Why.
        reason: String,
    },
    /// It is signed with a key that is not known.
    #[error("signed with the unknown key `{key}`")]
    UnknownKey {
        /// The key's ID.
        key: String,
    },
    /// Its signature is wrong.
    #[error("the signature is wrong")]
    Signature,
    /// It is for somebody else.
    #[error("it is for {found:?}, not for `{expected}`")]
    Audience {
        /// Who it is for.
        found: Vec<String>,
        /// Who it has to be for.
        expected: String,
    },
    /// It holds no more.
    #[error("it expired at {at} (seconds since 1970)")]
    Expired {
        /// When it ended.
        at: i64,
    },
    /// It does not hold yet.
    #[error("it holds from {at} on (seconds since 1970)")]
    NotYet {
        /// When it begins.
        at: i64,
    },
    /// It lives too long, or for ever.
    #[error("it lives longer than {longest:?}: its identity block needs a shorter `ttl`")]
    Lasting {
        /// What is allowed.
        longest: Duration,
    },
    /// There is no such allocation.
    #[error("there is no allocation `{allocation}`")]
    Unknown {
        /// The allocation.
        allocation: String,
    },
    /// The allocation does not run and is not about to.
    #[error("allocation `{allocation}` is not live: {status}")]
    Dead {
        /// The allocation.
        allocation: String,
        /// Its status.
        status: String,
    },
    /// The allocation is of another job or namespace than the token.
    #[error("allocation `{allocation}` is of `{found}`, the token is of `{claimed}`")]
    OtherJob {
        /// The allocation.
        allocation: String,
        /// Namespace and job of the allocation.
        found: String,
        /// Namespace and job of the token.
        claimed: String,
    },
    /// The task is not the sidecar that was injected.
    #[error("task `{task}` is not the injected proxy (task meta `{ROLE_META}`)")]
    OtherTask {
        /// The task.
        task: String,
    },
    /// The allocation's group has no sidecar that was injected, or has none any more.
    #[error("allocation `{allocation}` has no injected proxy (task meta `{ROLE_META}`)")]
    NoProxy {
        /// The allocation.
        allocation: String,
    },
    /// Its names are not such as the mesh has.
    #[error("no identity in the mesh")]
    Name(#[source] Problem),
}

/// Where allocations are looked up.
pub trait Allocations: Send + Sync {
    /// Why there was no answer.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The allocation with its job; none if there is none.
    fn allocation(
        &self,
        id: &str,
    ) -> impl Future<Output = Result<Option<Allocation>, Self::Error>> + Send;
}

/// Verifies signature, audience and times of a token. `now` is in seconds since 1970.
///
/// # Errors
///
/// [`Refusal::UnknownKey`] is worth a fetch of the keys; the others are final.
pub fn verify(
    token: &Token,
    keys: &Keys,
    expected: &Expectation,
    now: i64,
) -> Result<Claims, Refusal> {
    let malformed = |error: jsonwebtoken::errors::Error| Refusal::Malformed {
        reason: error.to_string(),
    };
    let header = decode_header(token.as_str()).map_err(malformed)?;
    let id = header.kid.unwrap_or_default();
    let Some((algorithm, key)) = keys.get(&id) else {
        return Err(Refusal::UnknownKey { key: id });
    };
    let mut validation = Validation::new(*algorithm);
    // Times and audience are checked below, against a clock that is given.
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let claims = decode::<Claims>(token.as_str(), key, &validation);
    let claims = claims.map_err(|error| match error.kind() {
        ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm => Refusal::Signature,
        _ => malformed(error),
    })?;
    check(&claims.claims, expected, now)?;
    Ok(claims.claims)
}

fn check(claims: &Claims, expected: &Expectation, now: i64) -> Result<(), Refusal> {
    if !claims.audiences.contains(&expected.audience) {
        return Err(Refusal::Audience {
            found: claims.audiences.clone(),
            expected: expected.audience.clone(),
        });
    }
    let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let leeway = seconds(expected.leeway);
    let lasting = Refusal::Lasting {
        longest: expected.longest,
    };
    let Some(expires) = claims.expires else {
        return Err(lasting);
    };
    if expires.saturating_add(leeway) <= now {
        return Err(Refusal::Expired { at: expires });
    }
    let begins = claims.not_before.max(claims.issued);
    if begins > now.saturating_add(leeway) {
        return Err(Refusal::NotYet { at: begins });
    }
    if expires.saturating_sub(claims.issued) > seconds(expected.longest) {
        return Err(lasting);
    }
    Ok(())
}

/// Who the bearer is, from verified claims and their allocation as Nomad has it now. The group and
/// the account come from the allocation: a token says nothing of them that can be trusted to be
/// split right.
///
/// # Errors
///
/// When the allocation is not there, not live, of another job, or the task is not the sidecar.
pub fn identify(claims: &Claims, allocation: Option<&Allocation>) -> Result<Proven, Refusal> {
    let id = &claims.allocation;
    let allocation = live(id, allocation)?;
    let origin = origin(allocation);
    if origin != claims.job
        || allocation.namespace.text() != claims.namespace
        || allocation.job.get().is_none()
    {
        return Err(Refusal::OtherJob {
            allocation: id.clone(),
            found: format!("{}/{origin}", allocation.namespace.text()),
            claimed: format!("{}/{}", claims.namespace, claims.job),
        });
    }
    let task = claims.task.as_deref().unwrap_or_default();
    if !proxies(allocation).any(|proxy| proxy == task) {
        return Err(Refusal::OtherTask {
            task: task.to_owned(),
        });
    }
    let expires = claims.expires;
    Ok(Proven {
        expires,
        ..placed(allocation)?
    })
}

/// Who the injected proxy of an allocation is, without a token: for one who proved before that it
/// is this one, as by a certificate that says so.
///
/// # Errors
///
/// When the allocation is not there, not live, or has no injected proxy.
pub fn identify_allocation(id: &str, allocation: Option<&Allocation>) -> Result<Proven, Refusal> {
    let allocation = live(id, allocation)?;
    if proxies(allocation).next().is_none() {
        return Err(Refusal::NoProxy {
            allocation: id.to_owned(),
        });
    }
    placed(allocation)
}

fn live<'a>(id: &str, allocation: Option<&'a Allocation>) -> Result<&'a Allocation, Refusal> {
    let Some(allocation) = allocation.filter(|found| found.id.text() == id) else {
        return Err(Refusal::Unknown {
            allocation: id.to_owned(),
        });
    };
    if !allocation.is_live() {
        return Err(Refusal::Dead {
            allocation: id.to_owned(),
            status: format!(
                "desired `{}`, found `{}`",
                allocation.desired_status.text(),
                allocation.client_status.text()
            ),
        });
    }
    Ok(allocation)
}

/// The job of an allocation; of a dispatched or periodic child its parent.
fn origin(allocation: &Allocation) -> &str {
    let job = allocation.job.get();
    match job.map_or("", |job| job.parent_id.text()) {
        "" => allocation.job_id.text(),
        parent => parent,
    }
}

/// The names of the tasks that were injected as proxies.
fn proxies(allocation: &Allocation) -> impl Iterator<Item = &str> {
    let job = allocation.job.get();
    let group = job.and_then(|job| job.group(allocation.task_group.text()));
    let tasks = group.into_iter().flat_map(|group| group.tasks.items());
    tasks.filter_map(|task| {
        let role = task.meta.get().and_then(|meta| meta.get(ROLE_META));
        let is_proxy = role.is_some_and(|role| role == PROXY_ROLE);
        is_proxy.then(|| task.name.text())
    })
}

fn placed(allocation: &Allocation) -> Result<Proven, Refusal> {
    let (id, group) = (allocation.id.text(), allocation.task_group.text());
    let (job, origin) = (allocation.job.get(), origin(allocation));
    let meta = annotations(
        job.and_then(|job| job.meta.get()),
        job.and_then(|job| job.group(group))
            .and_then(|group| group.meta.get()),
    );
    Ok(Proven {
        workload: workload_id(id, group).map_err(Refusal::Name)?,
        namespace: namespace(allocation.namespace.text()).map_err(Refusal::Name)?,
        account: Account::of_job(origin, &meta).map_err(Refusal::Name)?,
        allocation: id.to_owned(),
        group: group.to_owned(),
        node: allocation.node_id.text().to_owned(),
        expires: None,
    })
}

impl Default for Expectation {
    /// For the mesh's CA: tokens of at most 2 h, since the proxy's live for 1 h.
    fn default() -> Self {
        Self {
            audience: "mesh-ca".to_owned(),
            leeway: Duration::from_secs(30),
            longest: Duration::from_secs(2 * 3600),
        }
    }
}

impl Proven {
    /// The identity in a trust domain.
    pub fn identity(&self, trust_domain: &TrustDomain) -> SpiffeId {
        SpiffeId {
            trust_domain: trust_domain.clone(),
            namespace: self.namespace.clone(),
            service_account: self.account.service_account().clone(),
        }
    }
}

/// The role of the injected sidecar.
const PROXY_ROLE: &str = "proxy";

#[cfg(test)]
mod tests;
