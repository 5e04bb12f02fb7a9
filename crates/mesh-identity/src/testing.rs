//! An authority for tests: made in memory, and it signs anything, also what a real one refuses.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SubjectPublicKeyInfo,
};

use crate::{Certificate, Chain, CredentialStore, Credentials, Fingerprint, Key, TrustBundle};

/// A root that signs what a test asks for.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: Certificate,
}

/// What a leaf says; the default is a correct workload's of one hour.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// URI SANs.
    pub uris: Vec<String>,
    /// DNS SANs.
    pub dns: Vec<String>,
    /// Common name of the subject.
    pub common_name: Option<String>,
    /// Organizations of the subject.
    pub organizations: Vec<String>,
    /// From when it holds.
    pub not_before: SystemTime,
    /// Until when.
    pub not_after: SystemTime,
    /// Whether it is for servers.
    pub server: bool,
    /// Whether it is for clients.
    pub client: bool,
}

impl Default for Leaf {
    fn default() -> Self {
        let now = SystemTime::now();
        Self {
            uris: Vec::new(),
            dns: Vec::new(),
            common_name: None,
            organizations: Vec::new(),
            not_before: now - Duration::from_secs(60),
            not_after: now + Duration::from_secs(3600),
            server: true,
            client: true,
        }
    }
}

impl Leaf {
    /// A correct leaf of this identity.
    pub fn of(identity: &str) -> Self {
        Self {
            uris: vec![identity.to_owned()],
            ..Self::default()
        }
    }

    /// A user's, as the API's CA signs them.
    pub fn of_user(name: &str, groups: &[&str]) -> Self {
        Self {
            common_name: Some(name.to_owned()),
            organizations: groups.iter().map(|group| (*group).to_owned()).collect(),
            server: false,
            ..Self::default()
        }
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

#[expect(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a test's own authority that cannot sign is a failed test"
)]
impl Authority {
    /// A new root.
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        // Names differ as keys do, so that a stranger's chain is of an unknown issuer.
        let name = Fingerprint::of(key.public_key_raw()).to_string();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&key).unwrap();
        Self {
            root: Certificate::from_der(root.into()).unwrap(),
            issuer: Issuer::new(params, key),
        }
    }

    /// The root.
    pub fn root(&self) -> &Certificate {
        &self.root
    }

    /// A bundle of only this root.
    pub fn bundle(&self) -> TrustBundle {
        TrustBundle::new(vec![self.root.clone()]).unwrap()
    }

    /// Signs `leaf` for a public key (DER of `SubjectPublicKeyInfo`).
    pub fn sign(&self, public_key: &[u8], leaf: &Leaf) -> Chain {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(name) = &leaf.common_name {
            params
                .distinguished_name
                .push(DnType::CommonName, name.as_str());
        }
        // rcgen keeps one value for each kind: one organization is what it can write.
        if let Some(organization) = leaf.organizations.first() {
            params
                .distinguished_name
                .push(DnType::OrganizationName, organization.as_str());
        }
        let uris = leaf.uris.iter();
        let dns = leaf.dns.iter();
        params.subject_alt_names = uris
            .map(|uri| SanType::URI(uri.as_str().try_into().unwrap()))
            .chain(dns.map(|name| SanType::DnsName(name.as_str().try_into().unwrap())))
            .collect();
        if leaf.server {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        if leaf.client {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        params.not_before = leaf.not_before.into();
        params.not_after = leaf.not_after.into();
        let key = SubjectPublicKeyInfo::from_der(public_key).unwrap();
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        Chain::new(Certificate::from_der(signed.into()).unwrap(), Vec::new())
    }

    /// Credentials of a correct workload.
    pub fn credentials(&self, identity: &str) -> Credentials {
        let key = Key::generate().unwrap();
        let chain = self.sign(&key.public_key(), &Leaf::of(identity));
        Credentials::new(key, chain, self.bundle()).unwrap()
    }

    /// A store with the credentials of a correct workload.
    pub fn store(&self, identity: &str) -> CredentialStore {
        CredentialStore::new(self.credentials(identity))
    }
}
