//! `CNI_ARGS`: pairs that a job, Nomad and others put side by side.

use mesh_netfilter::Policy;

use super::{CONFIG_KEY, CONSUL_KEY, CniError, Code, decode, from_consul};

/// The arguments that are ours. All others are for other plugins, or come from nobody that could
/// be believed: a job chooses them freely.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Args {
    config: Option<String>,
    consul: Option<String>,
}

impl Args {
    /// Reads the pairs, which come in any order, and their keys in any case.
    ///
    /// ```
    /// use mesh_nomad::cni::Args;
    ///
    /// let args = Args::read("NOMAD_JOB_ID=web;mesh_config=e30;IgnoreUnknown=true")?;
    /// assert_ne!(args, Args::default());
    /// assert_eq!(Args::read("IgnoreUnknown=true")?, Args::default());
    /// # Ok::<(), mesh_nomad::cni::CniError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If one of ours is there twice: nobody knows which is meant.
    pub fn read(text: &str) -> Result<Self, CniError> {
        let mut args = Self::default();
        for pair in text.split(';') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let key = key.trim();
            let (slot, name) = if key.eq_ignore_ascii_case(CONFIG_KEY) {
                (&mut args.config, CONFIG_KEY)
            } else if key.eq_ignore_ascii_case(CONSUL_KEY) {
                (&mut args.consul, CONSUL_KEY)
            } else {
                continue;
            };
            if slot.replace(value.to_owned()).is_some() {
                return Err(CniError::new(
                    Code::InvalidEnvironment,
                    format!("the argument {name} is there twice"),
                    "",
                ));
            }
        }
        Ok(args)
    }

    /// The policy that they ask for, if any.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or if both kinds are there: two proxies cannot share a namespace.
    pub fn policy(&self) -> Result<Option<Policy>, CniError> {
        match (&self.config, &self.consul) {
            (None, None) => Ok(None),
            (Some(config), None) => decode(config).map(Some),
            (None, Some(consul)) => from_consul(consul).map(Some),
            (Some(_), Some(_)) => Err(CniError::new(
                Code::InvalidEnvironment,
                format!("the arguments {CONFIG_KEY} and {CONSUL_KEY} are both there"),
                "a group is in this mesh or in Consul's",
            )),
        }
    }
}
