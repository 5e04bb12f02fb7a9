//! A certificate that is asked for and thrown away: whether the invitation holds, the roots are the
//! mesh's and the clocks agree shows before anything of the machine is changed.

use std::error::Error as _;
use std::time::{Duration, SystemTime};

use mesh_identity::ca_client::CertificateRequest;
use mesh_identity::{CaClient, Fingerprint, Key, Proof, RequestError, Token, Trust};
use mesh_model::SpiffeId;

use super::plan::VmRequest;
use crate::exit::{Failure, REFUSED};

/// Any life will do: nobody sees the certificate.
const LIFE: Duration = Duration::from_secs(3600);

/// Asks the CA as the sidecar will.
///
/// # Errors
///
/// With exit code 5 when the CA refuses, and 1 when none answers or it is not that of the invitation.
pub(super) async fn check(request: &VmRequest) -> Result<(), Failure> {
    let roots: Result<Vec<Fingerprint>, _> = request
        .root_hashes
        .iter()
        .map(|hash| hash.parse())
        .collect();
    let roots = roots.map_err(|problem| Failure::usage(problem.to_string()))?;
    let key = Key::generate().map_err(|error| Failure::of(&error))?;
    let client = CaClient::new(request.trust_domain.clone());
    let asked = CertificateRequest {
        addresses: request.cas.clone(),
        proof: Proof::Token {
            token: Token::new(&request.token.0),
            trust: Trust::Pinned(roots),
        },
        identity: SpiffeId {
            trust_domain: request.trust_domain.clone(),
            namespace: request.workload.namespace.clone(),
            service_account: request.workload.service_account.clone(),
        },
        ttl: LIFE,
    };
    let answered = client.request_certificate(&asked, &key, SystemTime::now());
    let Err(error) = answered.await else {
        return Ok(());
    };
    let failure = Failure::doing(
        "nothing was changed; asking the CA for a certificate",
        &error,
    );
    Err(match error {
        RequestError::Refused { .. } => failure
            .with_code(REFUSED)
            .with_hint("make a new invitation: each can be used for a time only"),
        _ if error.source().is_some() => {
            failure.with_hint("is this machine's clock right? `date` says what it shows")
        }
        _ => failure.with_hint("the CA's addresses and roots are those of the invitation"),
    })
}
