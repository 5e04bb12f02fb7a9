//! Who a workload is: SPIFFE identities as Istio writes them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Namespace, Problem, ServiceAccount};

/// A SPIFFE trust domain, `cluster.local` unless told otherwise.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(String);

/// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
///
/// Source: the SPIFFE ID specification, and Istio's path convention.
///
/// ```
/// # use mesh_model::SpiffeId;
/// let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
/// assert_eq!(id.namespace.as_str(), "shop");
/// assert_eq!(id.to_string(), "spiffe://cluster.local/ns/shop/sa/web");
/// ```
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    /// The trust domain whose CA vouches for it.
    pub trust_domain: TrustDomain,
    /// The namespace.
    pub namespace: Namespace,
    /// The account.
    pub service_account: ServiceAccount,
}

// === impl TrustDomain ===

impl TrustDomain {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TrustDomain {
    /// Istio's default.
    fn default() -> Self {
        Self("cluster.local".to_owned())
    }
}

impl FromStr for TrustDomain {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let allowed =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        if (1..=255).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Problem::new(
                "",
                text,
                "a trust domain (1 to 255 of a-z, 0-9, `.`, `_`, `-`)",
            ))
        }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = Problem;

    fn try_from(text: String) -> Result<Self, Problem> {
        text.parse()
    }
}

impl From<TrustDomain> for String {
    fn from(domain: TrustDomain) -> Self {
        domain.0
    }
}

// === impl SpiffeId ===

impl FromStr for SpiffeId {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let wrong = || {
            Problem::new(
                "",
                text,
                "a SPIFFE id `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`",
            )
        };
        let rest = text.strip_prefix("spiffe://").ok_or_else(wrong)?;
        let mut parts = rest.split('/');
        let mut next = || parts.next().ok_or_else(wrong);
        let (domain, ns, namespace, sa, account) = (next()?, next()?, next()?, next()?, next()?);
        if ns != "ns" || sa != "sa" || parts.next().is_some() {
            return Err(wrong());
        }
        match (domain.parse(), namespace.parse(), account.parse()) {
            (Ok(trust_domain), Ok(namespace), Ok(service_account)) => Ok(Self {
                trust_domain,
                namespace,
                service_account,
            }),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trust_domain,
            namespace,
            service_account,
        } = self;
        write!(
            f,
            "spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}"
        )
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = Problem;

    fn try_from(text: String) -> Result<Self, Problem> {
        text.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_istios_form_is_an_identity() {
        for text in [
            "",
            "cluster.local/ns/shop/sa/web",
            "spiffe://cluster.local",
            "spiffe:///ns/shop/sa/web",
            "spiffe://cluster.local/ns/shop/sa/",
            "spiffe://cluster.local/ns//sa/web",
            "spiffe://cluster.local/ns/shop/sa/web/x",
            "spiffe://cluster.local/ns/Shop/sa/web",
            "spiffe://cluster.local/sa/web/ns/shop",
            "spiffe://Cluster.local/ns/shop/sa/web",
            "spiffe://cluster.local:80/ns/shop/sa/web",
            "SPIFFE://cluster.local/ns/shop/sa/web",
            "spiffe://cluster.local/ns/shop/sa/web?x",
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text}");
        }
        let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/web.v1".parse().unwrap();
        assert_eq!(id.trust_domain, TrustDomain::default());
        assert_eq!(id.service_account.as_str(), "web.v1");
    }

    #[test]
    fn an_identity_is_text_in_json() {
        let text = "\"spiffe://cluster.local/ns/shop/sa/web\"";
        let id: SpiffeId = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&id).unwrap(), text);
        assert!(serde_json::from_str::<TrustDomain>("\"a b\"").is_err());
    }
}
