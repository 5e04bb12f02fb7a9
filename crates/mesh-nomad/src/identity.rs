//! Who an allocation is in the mesh: its workload id, its account, and the proof that Nomad signs.

#[cfg(feature = "identity")]
mod keys;
#[cfg(feature = "identity")]
mod token;
#[cfg(all(feature = "client", feature = "identity"))]
mod verifier;
#[cfg(feature = "identity")]
mod verify;

use std::collections::BTreeMap;

use mesh_model::{Namespace, Problem, ServiceAccount, WorkloadId};

#[cfg(feature = "identity")]
pub use self::keys::{KeyCache, Keys, KeysError};
#[cfg(feature = "identity")]
pub use self::token::{Claims, Token};
#[cfg(all(feature = "client", feature = "identity"))]
pub use self::verifier::{Verifier, VerifyError};
#[cfg(feature = "identity")]
pub use self::verify::{
    Allocations, Expectation, Proven, Refusal, identify, identify_allocation, verify,
};

/// Job meta that names another account than the job's own.
pub const ACCOUNT_META: &str = "mesh.service_account";

/// Meta of a task that says what the mesh made it for.
pub const ROLE_META: &str = "mesh.role";

/// The account that an allocation runs as.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "an account is a job's own or it is not"
)]
pub enum Account {
    /// That of its job.
    OfJob(ServiceAccount),
    /// One that the job asks for. Whoever may submit the job chose it, so it needs a `RoleBinding`
    /// that allows it.
    Asked {
        /// The account.
        account: ServiceAccount,
        /// The job.
        job: String,
    },
}

impl Account {
    /// The account of a job, from its own ID, or that of the job it was dispatched from, and its
    /// [`annotations`].
    ///
    /// ```
    /// use std::collections::BTreeMap;
    /// use mesh_nomad::identity::Account;
    ///
    /// let account = Account::of_job("web", &BTreeMap::new())?;
    /// assert_eq!(account.service_account().as_str(), "web");
    /// # Ok::<(), mesh_model::Problem>(())
    /// ```
    ///
    /// # Errors
    ///
    /// When the name is not one that an account can have.
    pub fn of_job(job: &str, meta: &BTreeMap<String, String>) -> Result<Self, Problem> {
        let at = |path: &str, problem: Problem| Problem {
            path: path.to_owned(),
            ..problem
        };
        match meta.get(ACCOUNT_META) {
            Some(asked) if asked != job => {
                let path = format!("Meta[{ACCOUNT_META}]");
                let account = asked.parse().map_err(|problem| at(&path, problem))?;
                let job = job.to_owned();
                Ok(Self::Asked { account, job })
            }
            _ => {
                let account = job.parse().map_err(|problem: Problem| Problem {
                    expected: format!(
                        "{}; job meta `{ACCOUNT_META}` can name one",
                        problem.expected
                    ),
                    ..at("ID", problem)
                })?;
                Ok(Self::OfJob(account))
            }
        }
    }

    /// The account itself.
    pub fn service_account(&self) -> &ServiceAccount {
        match self {
            Self::OfJob(account) | Self::Asked { account, .. } => account,
        }
    }
}

/// What a job and one of its groups say of the mesh in their meta: the keys that begin with
/// `mesh.`, a group's word before the job's. `_` may stand for the first `.`, since HCL wants plain
/// names in blocks.
pub fn annotations(
    job: Option<&BTreeMap<String, String>>,
    group: Option<&BTreeMap<String, String>>,
) -> BTreeMap<String, String> {
    let all = job.into_iter().chain(group).flatten();
    let of_mesh = all.filter_map(|(key, value)| {
        let name = key
            .strip_prefix("mesh.")
            .or_else(|| key.strip_prefix("mesh_"))?;
        Some((format!("mesh.{name}"), value.clone()))
    });
    of_mesh.collect()
}

/// The id of the workload that a group's allocation is: `<allocation>/<group>`.
///
/// The group is there for people; what its name may hold and an id may not becomes `_`.
///
/// ```
/// use mesh_nomad::identity::workload_id;
///
/// let id = workload_id("096aa3a1-fe13-ef38-ebd5-36fe50e8cd67", "Web tier")?;
/// assert_eq!(id.as_str(), "096aa3a1-fe13-ef38-ebd5-36fe50e8cd67/web_tier");
/// # Ok::<(), mesh_model::Problem>(())
/// ```
///
/// # Errors
///
/// When the allocation's ID is not a UUID in lower case.
pub fn workload_id(allocation: &str, group: &str) -> Result<WorkloadId, Problem> {
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte) || byte == b'-';
    if allocation.len() != UUID_LENGTH || !allocation.bytes().all(is_hex) {
        return Err(Problem::new("ID", allocation, "the UUID of an allocation"));
    }
    let readable = |char: char| {
        let char = char.to_ascii_lowercase();
        if char.is_ascii_alphanumeric() || "._-".contains(char) {
            char
        } else {
            '_'
        }
    };
    let group: String = group.chars().map(readable).take(MAX_GROUP).collect();
    format!("{allocation}/{group}").parse()
}

/// The mesh's namespace for one of Nomad's: the same.
///
/// # Errors
///
/// When its name is not one that a namespace of the mesh can have: upper case, or over 63
/// characters.
pub fn namespace(name: &str) -> Result<Namespace, Problem> {
    name.parse().map_err(|problem| Problem {
        path: "Namespace".to_owned(),
        ..problem
    })
}

/// 32 digits and 4 dashes.
const UUID_LENGTH: usize = 36;

/// What a workload id has room for beside the allocation's ID.
const MAX_GROUP: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_asks_for_another_account_is_told_apart() {
        let meta = BTreeMap::from([(ACCOUNT_META.to_owned(), "admin".to_owned())]);
        assert_eq!(
            Account::of_job("web", &meta).unwrap(),
            Account::Asked {
                account: "admin".parse().unwrap(),
                job: "web".to_owned(),
            }
        );
        // Asking for one's own is asking for nothing.
        assert!(matches!(
            Account::of_job("admin", &meta).unwrap(),
            Account::OfJob(_)
        ));
    }

    #[test]
    fn a_job_whose_id_is_no_account_is_told_what_to_do() {
        let problem = Account::of_job("Web_1", &BTreeMap::new()).unwrap_err();
        assert!(problem.to_string().contains(ACCOUNT_META), "{problem}");
    }

    #[test]
    fn workload_ids_stay_within_their_alphabet() {
        let id = "096aa3a1-fe13-ef38-ebd5-36fe50e8cd67";
        assert!(workload_id(id, &"\u{e4}".repeat(200)).is_ok());
        assert!(workload_id("096aa3a1", "web").is_err());
        assert!(workload_id(&id.to_uppercase(), "web").is_err());
    }
}
