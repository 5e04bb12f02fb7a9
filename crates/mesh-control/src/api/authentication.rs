//! Who calls: a client certificate of the API's own CA, or a bearer token of a service account.

use std::sync::Arc;

use http::{HeaderMap, header};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::status::Failure;
use super::token::Tokens;

/// Who calls.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct User {
    /// As in `jane` or `system:serviceaccount:shop:ci`.
    pub name: String,
    /// The id of a service account.
    pub uid: String,
    /// As in `system:authenticated`.
    pub groups: Vec<String>,
}

/// What a connection proved before its first request.
#[derive(Clone, Debug, Default)]
pub struct Peer(Option<Arc<User>>);

// === impl User ===

impl User {
    /// Everybody who proved to be somebody.
    pub const AUTHENTICATED: &str = "system:authenticated";

    /// Nobody in particular: only health and version are for everybody.
    pub const ANONYMOUS: &str = "system:anonymous";

    /// The server itself, when it makes what must exist.
    pub fn server() -> Self {
        Self {
            name: "system:apiserver".to_owned(),
            uid: String::new(),
            groups: vec![super::authorization::Policy::MASTERS.to_owned()],
        }
    }

    /// Whether the user is in a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|found| found == group)
    }
}

// === impl Peer ===

impl Peer {
    /// The user of a client certificate that TLS has verified: CN is the name, each O a group.
    ///
    /// A certificate without a usable name proves nobody.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Self {
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
            return Self(None);
        };
        let subject = certificate.subject();
        let name = subject
            .iter_common_name()
            .next()
            .and_then(|name| name.as_str().ok())
            .filter(|name| !name.is_empty());
        let Some(name) = name else {
            return Self(None);
        };
        let mut groups: Vec<String> = subject
            .iter_organization()
            .filter_map(|group| group.as_str().ok())
            .filter(|group| !group.is_empty())
            .map(str::to_owned)
            .collect();
        groups.push(User::AUTHENTICATED.to_owned());
        Self::of_user(User {
            name: name.to_owned(),
            uid: String::new(),
            groups,
        })
    }

    /// A connection that proved to be this user's.
    pub(super) fn of_user(user: User) -> Self {
        Self(Some(Arc::new(user)))
    }
}

/// The user of a request; none if it shows no credential.
///
/// # Errors
///
/// 401 if a token is shown and not valid, whatever else is shown.
pub async fn authenticate(
    peer: &Peer,
    headers: &HeaderMap,
    tokens: &Tokens,
) -> Result<Option<Arc<User>>, Failure> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Ok(peer.0.clone());
    };
    let token = value
        .to_str()
        .ok()
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    let Some(token) = token else {
        return Err(Failure::unauthorized());
    };
    match tokens.review(token, &[super::token::API_AUDIENCE]).await? {
        Ok(reviewed) => Ok(Some(Arc::new(reviewed.user))),
        Err(reason) => {
            tracing::debug!(%reason, "bearer token refused");
            Err(Failure::unauthorized())
        }
    }
}
