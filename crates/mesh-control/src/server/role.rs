//! The roles of the control plane, and sets of them as the command line writes them.

use std::fmt;
use std::str::FromStr;

use mesh_model::{Namespace, Problem, ServiceAccount, SpiffeId, TrustDomain};

/// One role of the control plane.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Role {
    /// The API server.
    Api,
    /// The certificate authority.
    Ca,
    /// Configures proxies.
    Pilot,
    /// Takes access logs.
    Mixer,
}

/// Some roles, each once; never none.
///
/// ```
/// use mesh_control::server::{Role, Roles};
///
/// let roles: Roles = "pilot,ca".parse().unwrap();
/// assert!(roles.has(Role::Ca) && !roles.has(Role::Api));
/// assert_eq!(roles.to_string(), "ca,pilot");
/// assert_eq!(Roles::default().to_string(), "api,ca,pilot,mixer");
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Roles(Vec<Role>);

// === impl Role ===

impl Role {
    /// Every role, in the order in which they start.
    pub const ALL: [Self; 4] = [Self::Api, Self::Ca, Self::Pilot, Self::Mixer];

    /// Its name, also of its account.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Ca => "ca",
            Self::Pilot => "pilot",
            Self::Mixer => "mixer",
        }
    }

    /// The identity that its certificate carries.
    pub fn identity(self, trust_domain: &TrustDomain) -> SpiffeId {
        SpiffeId {
            trust_domain: trust_domain.clone(),
            namespace: Namespace::mesh_system(),
            service_account: self.account(),
        }
    }

    /// The service account that it joins the mesh as.
    #[expect(
        clippy::expect_used,
        clippy::missing_panics_doc,
        reason = "the names of roles are DNS labels: some lower-case letters"
    )]
    pub fn account(self) -> ServiceAccount {
        self.as_str().parse().expect("a valid name")
    }
}

impl FromStr for Role {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let known = Self::ALL.into_iter().find(|role| role.as_str() == text);
        known.ok_or_else(|| Problem::new("", text, "a role (`api`, `ca`, `pilot` or `mixer`)"))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Roles ===

impl Roles {
    /// Whether a role is among them.
    pub fn has(&self, role: Role) -> bool {
        self.0.contains(&role)
    }

    /// Them, in the order in which they start.
    pub fn iter(&self) -> impl Iterator<Item = Role> {
        self.0.iter().copied()
    }
}

impl Default for Roles {
    fn default() -> Self {
        Self(Role::ALL.to_vec())
    }
}

impl FromStr for Roles {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let mut roles = text
            .split(',')
            .map(|role| role.trim().parse())
            .collect::<Result<Vec<Role>, Problem>>()?;
        roles.sort_unstable();
        roles.dedup();
        Ok(Self(roles))
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, role) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            role.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_role_is_named() {
        for text in ["", "api,", "etcd", "API"] {
            assert!(text.parse::<Roles>().is_err(), "{text}");
        }
        let problem = "api,etcd".parse::<Roles>().unwrap_err();
        assert_eq!(problem.value, "etcd");
    }

    #[test]
    fn a_role_is_known_by_its_account() {
        let identity = Role::Pilot.identity(&TrustDomain::default());
        assert_eq!(
            identity.to_string(),
            "spiffe://cluster.local/ns/mesh-system/sa/pilot"
        );
    }
}
