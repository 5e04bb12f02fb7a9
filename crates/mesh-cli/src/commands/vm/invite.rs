//! `mesh vm invite`: all that a machine needs to join, in one line, so that it needs no kubeconfig.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use mesh_model::{Namespace, ServiceAccount, TrustDomain};
use serde::{Deserialize, Serialize};

use super::plan::Token;
use crate::connect::Connection;
use crate::exit::{OK, Outcome};
use crate::join;

/// Print an invitation for one machine, for `mesh vm join --invite`.
///
/// It is a secret for as long as its token can be used. The account is made where it is missing.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Namespace of the account.
    #[arg(short, long, default_value = "default")]
    namespace: Namespace,
    /// The account that the machine will run as.
    #[arg(short, long)]
    service_account: ServiceAccount,
    /// How long it can be used, in seconds, 10 to 3600.
    #[arg(long, default_value_t = 3600, value_parser = clap::value_parser!(u64).range(10..=3600))]
    ttl: u64,
    /// Where the machine reaches Pilot, if not where Pilot says.
    #[arg(long, value_name = "IP:PORT")]
    pilot: Vec<SocketAddr>,
    /// Where the machine reaches the CA, if not where the CA says.
    #[arg(long, value_name = "IP:PORT")]
    ca: Vec<SocketAddr>,
    #[command(flatten)]
    connection: Connection,
}

/// What an invitation says.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Invite {
    /// The trust domain of the mesh.
    pub(super) trust_domain: TrustDomain,
    /// Namespace of the account.
    pub(super) namespace: Namespace,
    /// The account.
    pub(super) service_account: ServiceAccount,
    /// Replicas of Pilot.
    pub(super) pilots: Vec<SocketAddr>,
    /// Replicas of the CA.
    pub(super) cas: Vec<SocketAddr>,
    /// SHA-256 of each root to trust at first, in hex.
    pub(super) root_hashes: Vec<String>,
    token: String,
}

/// By this an invitation is told from anything else, and from those of another version.
const PREFIX: &str = "mesh-invite-1.";

pub(crate) async fn run(args: &Args) -> Outcome {
    let client = args.connection.client().await?;
    let facts = join::facts(&client).await?;
    join::ensure_account(&client, &args.namespace, &args.service_account).await?;
    let ttl = Duration::from_secs(args.ttl);
    let token = join::token(&client, &args.namespace, &args.service_account, ttl).await?;
    let or = |given: &[SocketAddr], found: Vec<SocketAddr>| {
        if given.is_empty() {
            found
        } else {
            given.to_vec()
        }
    };
    let invite = Invite {
        trust_domain: facts.trust_domain,
        namespace: args.namespace.clone(),
        service_account: args.service_account.clone(),
        pilots: or(&args.pilot, facts.pilots),
        cas: or(&args.ca, facts.cas),
        root_hashes: facts.root_hashes,
        token,
    };
    println!("{}", invite.encode());
    Ok(OK.into())
}

// === impl Invite ===

impl Invite {
    /// The token.
    pub(super) fn token(&self) -> Token {
        Token(self.token.clone())
    }

    /// As one word.
    #[expect(clippy::expect_used, reason = "plain data with keys that are strings")]
    fn encode(&self) -> String {
        let json = serde_json::to_vec(self).expect("plain data");
        format!("{PREFIX}{}", BASE64.encode(json))
    }
}

impl FromStr for Invite {
    type Err = String;

    /// What is wrong is said without the text: it may be the better part of a secret.
    fn from_str(text: &str) -> Result<Self, String> {
        let encoded = text
            .trim()
            .strip_prefix(PREFIX)
            .ok_or("not an invitation of `mesh vm invite`, which begins with `mesh-invite-1.`")?;
        let broken = "the invitation is damaged: it is one line, and all of it is needed";
        let json = BASE64.decode(encoded).map_err(|_error| broken)?;
        serde_json::from_slice(&json).map_err(|_error| broken.to_owned())
    }
}

impl fmt::Debug for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invite")
            .field("namespace", &self.namespace)
            .field("service_account", &self.service_account)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invite() -> Invite {
        Invite {
            trust_domain: TrustDomain::default(),
            namespace: "shop".parse().unwrap(),
            service_account: "db".parse().unwrap(),
            pilots: vec!["192.0.2.1:15012".parse().unwrap()],
            cas: vec!["[2001:db8::1]:15012".parse().unwrap()],
            root_hashes: vec!["ab".repeat(32)],
            token: "a.secret.token".to_owned(),
        }
    }

    #[test]
    fn an_invitation_survives_the_way() {
        let text = format!("  {}\n", invite().encode());
        assert_eq!(text.parse::<Invite>().unwrap(), invite());
        assert!(!format!("{:?}", invite()).contains("secret"));
    }

    #[test]
    fn what_is_wrong_is_said_without_the_secret() {
        let text = invite().encode();
        let half = text.get(..text.len() / 2).unwrap();
        for wrong in [half, "mesh-invite-1.%", "mesh-invite-1.e30", "eyJhbGciOi"] {
            let error = wrong.parse::<Invite>().unwrap_err();
            assert!(error.contains("invitation"), "{error}");
            assert!(!error.contains("eyJ"), "{error}");
        }
    }
}
