//! Workloads of Nomad as callers of the CA: by the identity that Nomad signed for the sidecar's
//! task, and again by the certificate that names their allocation.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use mesh_identity::Certificate;
use mesh_model::{Namespace, SpiffeId, TrustDomain};
use mesh_nomad::identity::{Account, Expectation, Proven, Refusal, Token, Verifier, VerifyError};
use tokio::time::timeout;

use super::gate::{AUDIENCE, Caller, GateError, ProvenBy, REVIEW};

/// Asks Nomad, and the API about accounts that a job asks for.
pub(super) struct NomadCallers {
    verifier: Verifier,
    client: Client,
    trust_domain: TrustDomain,
}

/// What the common name of a certificate begins with whose bearer is an allocation.
const SUBJECT: &str = "nomad:";

/// How many times what is left of its token a certificate may live: with Nomad's identities of an
/// hour, renewed at half of it, that is at least half a day, which outlives most outages of
/// Nomad's servers; one that is about to end, as a stolen one, gives a short certificate.
const LIVES: u32 = 24;

/// How long a certificate lives that was renewed while nobody could be asked whether the
/// allocation still runs: asked again at half of it.
const UNASKED: Duration = Duration::from_secs(3600);

/// The accounts of the control plane itself, in `mesh-system`.
const RESERVED: [&str; 4] = ["api", "ca", "mixer", "pilot"];

/// The allocation that a certificate names as its bearer.
pub(super) fn allocation_of(certificate: &Certificate) -> Option<&str> {
    certificate.common_name()?.strip_prefix(SUBJECT)
}

impl NomadCallers {
    pub(super) fn new(
        nomad: mesh_nomad::client::Client,
        client: Client,
        trust_domain: TrustDomain,
    ) -> Self {
        let expected = Expectation {
            audience: AUDIENCE.to_owned(),
            ..Expectation::default()
        };
        Self {
            verifier: Verifier::new(nomad, expected),
            client,
            trust_domain,
        }
    }

    /// Who shows an identity that Nomad signed.
    pub(super) async fn join(&self, token: &Token) -> Result<Caller, GateError> {
        let now = unix_seconds(SystemTime::now());
        let proven = answered(timeout(REVIEW, self.verifier.prove(token, now)).await)?;
        let identity = self.admit(&proven).await?;
        let left = proven.expires.unwrap_or(now).saturating_sub(now);
        let left = Duration::from_secs(u64::try_from(left).unwrap_or_default());
        Ok(Caller {
            identity,
            proof: ProvenBy::Nomad,
            subject: Some(subject(&proven.allocation)),
            longest: Some(left.saturating_mul(LIVES)),
        })
    }

    /// Who shows a certificate that names an allocation: it must still run, and still be who the
    /// certificate says. While nobody can be asked, the certificate alone decides, for an hour at
    /// a time: workloads must outlive an outage of Nomad's servers, and of the API.
    pub(super) async fn renew(
        &self,
        identity: &SpiffeId,
        allocation: &str,
    ) -> Result<Caller, GateError> {
        let longest = match self.look_again(identity, allocation).await {
            Ok(()) => None,
            Err(error) if error.is_outage() => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(%identity, allocation, error, "renewing without a look at the allocation");
                Some(UNASKED)
            }
            Err(error) => return Err(error),
        };
        Ok(Caller {
            identity: identity.clone(),
            proof: ProvenBy::Certificate,
            subject: Some(subject(allocation)),
            longest,
        })
    }

    async fn look_again(&self, identity: &SpiffeId, allocation: &str) -> Result<(), GateError> {
        let asked = timeout(REVIEW, self.verifier.prove_allocation(allocation)).await;
        let now = self.admit(&answered(asked)?).await?;
        if now == *identity {
            Ok(())
        } else {
            Err(GateError::OtherIdentity {
                found: Box::new(identity.clone()),
                expected: Box::new(now),
            })
        }
    }

    /// The identity of a workload, if it may have it.
    async fn admit(&self, proven: &Proven) -> Result<SpiffeId, GateError> {
        let identity = proven.identity(&self.trust_domain);
        if is_reserved(&identity) {
            return Err(GateError::Reserved {
                identity: Box::new(identity),
            });
        }
        match &proven.account {
            Account::OfJob(_) => {}
            Account::Asked { account, job } => {
                let user = user_of(&proven.namespace, job);
                let review = review(&proven.namespace, account.as_str(), &user);
                if !self.allows(&review).await? {
                    return Err(GateError::NotBound {
                        job: job.clone(),
                        namespace: proven.namespace.clone(),
                        account: account.clone(),
                        user,
                    });
                }
            }
        }
        Ok(identity)
    }

    async fn allows(&self, review: &SubjectAccessReview) -> Result<bool, GateError> {
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let params = PostParams::default();
        let answer = timeout(REVIEW, reviews.create(&params, review)).await;
        let answer = answer
            .map_err(|_elapsed| GateError::ApiTimeout)?
            .map_err(|source| GateError::Api {
                source: Box::new(source),
            })?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}

/// A job as a user of the API, to whom roles are bound. No namespace has a `:` in its name, so no
/// two jobs are one user.
fn user_of(namespace: &Namespace, job: &str) -> String {
    format!("nomad:job:{namespace}:{job}")
}

/// The question whether a job may run as an account.
fn review(namespace: &Namespace, account: &str, user: &str) -> SubjectAccessReview {
    SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(user.to_owned()),
            resource_attributes: Some(ResourceAttributes {
                namespace: Some(namespace.to_string()),
                verb: Some("use".to_owned()),
                resource: Some("serviceaccounts".to_owned()),
                name: Some(account.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    }
}

/// Whoever may submit jobs to Nomad's namespace of the control plane could name one after Pilot.
fn is_reserved(identity: &SpiffeId) -> bool {
    identity.namespace == Namespace::mesh_system()
        && RESERVED.contains(&identity.service_account.as_str())
}

fn subject(allocation: &str) -> String {
    format!("{SUBJECT}{allocation}")
}

fn answered(
    asked: Result<Result<Proven, VerifyError>, tokio::time::error::Elapsed>,
) -> Result<Proven, GateError> {
    match asked {
        Ok(Ok(proven)) => Ok(proven),
        Ok(Err(VerifyError::Refused(Refusal::Name(problem)))) => Err(GateError::NoName { problem }),
        Ok(Err(VerifyError::Refused(refusal))) => Err(GateError::Unproven {
            source: Box::new(refusal),
        }),
        Ok(Err(error)) => Err(GateError::Nomad {
            source: Some(Box::new(error)),
        }),
        Err(_elapsed) => Err(GateError::Nomad { source: None }),
    }
}

fn unix_seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_job_is_the_control_plane() {
        let identity = |text: &str| text.parse::<SpiffeId>().unwrap();
        for account in RESERVED {
            let own = format!("spiffe://cluster.local/ns/mesh-system/sa/{account}");
            assert!(is_reserved(&identity(&own)), "{own}");
            let others = format!("spiffe://cluster.local/ns/shop/sa/{account}");
            assert!(!is_reserved(&identity(&others)), "{others}");
        }
        let ingress = "spiffe://cluster.local/ns/mesh-system/sa/mesh-ingress";
        assert!(!is_reserved(&identity(ingress)));
    }

    #[test]
    fn who_cannot_be_asked_is_not_who_refuses() {
        let refused = Err(VerifyError::Refused(Refusal::Signature));
        let error = answered(Ok(refused)).unwrap_err();
        assert!(!error.is_outage(), "{error}");
        assert!(GateError::Nomad { source: None }.is_outage());
        assert!(GateError::ApiTimeout.is_outage());
    }
}
