//! A call of the plugin: its environment and its standard input.

use mesh_netfilter::Policy;

use super::config::Config;
use super::{Args, CniError, Code, VERSIONS};

/// What a runtime asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Command {
    /// The namespace is new.
    Add,
    /// The namespace is there already; is it as it should be?
    Check,
    /// The namespace goes.
    Del,
    /// Which versions of the protocol are spoken?
    Version,
    /// Only these attachments are still there.
    Gc,
    /// Could ADD work?
    Status,
}

/// A call of the plugin.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Call {
    /// What is asked for.
    pub command: Command,
    /// The file that stands for the network namespace; empty if none is named.
    pub netns: String,
    /// The version of the protocol that the caller speaks.
    pub version: String,
    args: Args,
    previous: Option<String>,
}

impl Call {
    /// Reads a call: its variables, and what stands on its standard input. None if there is no
    /// `CNI_COMMAND`: then it is Nomad that wants to know the plugin's own version.
    ///
    /// DEL is never an error, whatever it comes with: what is being removed goes with its namespace.
    ///
    /// # Errors
    ///
    /// [`Code::InvalidEnvironment`], [`Code::Undecodable`], [`Code::IncompatibleVersion`] and
    /// [`Code::InvalidConfig`], as the protocol has them.
    pub fn read(
        variable: impl Fn(&str) -> Option<String>,
        input: impl FnOnce() -> std::io::Result<String>,
    ) -> Result<Option<Self>, CniError> {
        let Some(command) = variable("CNI_COMMAND").filter(|command| !command.is_empty()) else {
            return Ok(None);
        };
        let command = Command::read(&command)?;
        let netns = variable("CNI_NETNS").unwrap_or_default();
        let args = Args::read(&variable("CNI_ARGS").unwrap_or_default());
        let config = input()
            .map_err(|error| {
                CniError::new(Code::Io, "reading the configuration", error.to_string())
            })
            .and_then(|text| parse(&text));
        let mut call = Self {
            command,
            netns,
            version: String::new(),
            args: Args::default(),
            previous: None,
        };
        match (command, config) {
            // Nothing depends on it.
            (Command::Del | Command::Version, config) => {
                call.version = config.unwrap_or_default().version.unwrap_or_default();
                call.args = args.unwrap_or_default();
            }
            (_, config) => {
                let config = config?;
                call.version = known_version(config.version)?;
                call.args = args?;
                call.previous = config.previous;
            }
        }
        if matches!(command, Command::Add | Command::Check) {
            call.check_chain()?;
        }
        Ok(Some(call))
    }

    /// What is to be captured; none if the group is none of ours.
    ///
    /// # Errors
    ///
    /// If an argument is ours and cannot be read.
    pub fn policy(&self) -> Result<Option<Policy>, CniError> {
        self.args.policy()
    }

    /// The answer to ADD: what the plugin before said, in JSON and byte for byte.
    pub fn result(&self) -> Option<&str> {
        self.previous.as_deref()
    }

    fn check_chain(&self) -> Result<(), CniError> {
        if self.netns.is_empty() {
            let message = "CNI_NETNS is missing";
            return Err(CniError::new(Code::InvalidEnvironment, message, ""));
        }
        if self.previous.is_none() {
            return Err(CniError::new(
                Code::InvalidConfig,
                "prevResult is missing",
                "mesh-cni makes no network itself: put it behind a plugin that does",
            ));
        }
        Ok(())
    }
}

impl Command {
    fn read(text: &str) -> Result<Self, CniError> {
        Ok(match text {
            "ADD" => Self::Add,
            "CHECK" => Self::Check,
            "DEL" => Self::Del,
            "VERSION" => Self::Version,
            "GC" => Self::Gc,
            "STATUS" => Self::Status,
            _ => {
                let message = format!("CNI_COMMAND `{text}` is not a command");
                let details = "expected ADD, CHECK, DEL, GC, STATUS or VERSION";
                return Err(CniError::new(Code::InvalidEnvironment, message, details));
            }
        })
    }
}

fn parse(text: &str) -> Result<Config, CniError> {
    serde_json::from_str(text).map_err(|error| {
        CniError::new(
            Code::Undecodable,
            "the configuration cannot be read",
            error.to_string(),
        )
    })
}

fn known_version(found: Option<String>) -> Result<String, CniError> {
    // The protocol takes a missing one for the first version, which had no chains.
    let version = found.unwrap_or_else(|| "0.1.0".to_owned());
    if VERSIONS.contains(&version.as_str()) {
        return Ok(version);
    }
    Err(CniError::new(
        Code::IncompatibleVersion,
        format!("version `{version}` of the protocol is not spoken"),
        format!("expected one of {}", VERSIONS.join(", ")),
    ))
}
