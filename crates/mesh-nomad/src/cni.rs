//! The protocol between Nomad and `mesh-cni`, without a system call.
//!
//! Nomad runs the plugins of a network's chain when it makes the namespace of an allocation, before
//! any task starts. `mesh-cni` stands last in the chain and sets the redirect rules there. What to
//! capture it takes from the job's argument [`CONFIG_KEY`], or from Consul's for jobs with
//! `transparent_proxy`; without either the group is none of its business.
//!
//! A request is read with [`Call::read`]; what it asks for is in [`Call::policy`]; what is answered
//! is in [`Call::result`] and [`CniError::to_json`].
//!
//! Source: <https://github.com/containernetworking/cni/blob/main/SPEC.md>, versions 0.4.0 to 1.1.0.

mod args;
mod call;
mod config;
mod consul;
mod error;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mesh_netfilter::Policy;
use serde_json::{Value, json};

pub use self::args::Args;
pub use self::call::{Call, Command};
pub use self::consul::from_consul;
pub use self::error::{CniError, Code};

/// The key of the CNI arguments under which a job tells its redirect policy.
pub const CONFIG_KEY: &str = "MESH_CONFIG";

/// The key under which Nomad tells what Consul's transparent proxy needs.
pub const CONSUL_KEY: &str = "CONSUL_IPTABLES_CONFIG";

/// The versions of the protocol that are spoken; CHECK came with the first.
pub const VERSIONS: [&str; 3] = ["0.4.0", "1.0.0", "1.1.0"];

/// A policy as the value of [`CONFIG_KEY`]: JSON in base64url without padding, for `;` ends a pair
/// of the arguments and the other plugins of a chain refuse a second `=`.
///
/// ```
/// use mesh_netfilter::Policy;
/// use mesh_nomad::cni::{decode, encode};
///
/// let text = encode(&Policy::sidecar().to_builder().build()?);
/// assert!(!text.contains(['=', ';', '+', '/']));
/// assert_eq!(decode(&text)?, Policy::sidecar());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn encode(policy: &Policy) -> String {
    URL_SAFE_NO_PAD.encode(crate::inject::policy_text(policy))
}

/// The policy in a value of [`CONFIG_KEY`].
///
/// # Errors
///
/// What is wrong with it: the encoding, the JSON, or the policy.
pub fn decode(text: &str) -> Result<Policy, CniError> {
    let wrong = |found: &dyn std::fmt::Display| {
        CniError::new(
            Code::InvalidEnvironment,
            format!("the argument {CONFIG_KEY} is no redirect policy"),
            found.to_string(),
        )
    };
    // Some write the padding, as far as the other plugins let them.
    let bytes = URL_SAFE_NO_PAD
        .decode(text.trim_end_matches('='))
        .map_err(|error| wrong(&error))?;
    serde_json::from_slice(&bytes).map_err(|error| wrong(&error))
}

/// The answer to VERSION.
pub fn version() -> Value {
    json!({ "cniVersion": "1.1.0", "supportedVersions": VERSIONS })
}
