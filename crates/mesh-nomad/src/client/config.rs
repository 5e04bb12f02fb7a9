//! Where the agent is and who asks, from values or from Nomad's environment variables.

use std::path::PathBuf;
use std::time::Duration;

use mesh_model::Problems;

use super::{Error, Retry, TIMEOUT};
use crate::model::acl::SecretText;

/// Where the agent is and who asks.
///
/// ```
/// use mesh_nomad::client::Config;
///
/// let variables = |name: &str| match name {
///     "NOMAD_ADDR" => Some("https://10.0.0.1:4646".to_owned()),
///     "NOMAD_CACERT" => Some("/etc/nomad/ca.pem".to_owned()),
///     _ => None,
/// };
/// let config = Config::from_variables(variables)?;
/// assert_eq!(config.address.to_string(), "https://10.0.0.1:4646");
/// # Ok::<(), mesh_model::Problems>(())
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    /// The agent.
    pub address: Address,
    /// The token, if there is one.
    pub token: TokenSource,
    /// The namespace of requests that name none; the server's default is `default`.
    pub namespace: Option<String>,
    /// The region of all requests; the agent's own if unset.
    pub region: Option<String>,
    /// What TLS needs, for an `https` address.
    pub tls: Tls,
    /// User and password of a proxy in front, `user:password`.
    pub http_auth: Option<SecretText>,
    /// How long a request that does not block may take.
    pub timeout: Duration,
    /// What is sent again, and when.
    pub retry: Retry,
}

/// Where an agent listens.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "these are the ways an agent listens"
)]
pub enum Address {
    /// In the clear.
    Http {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// Over TLS.
    Https {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// On a unix socket, as a task's own API; it always wants a token.
    Unix(PathBuf),
}

/// Where the token comes from.
#[derive(Clone, Debug, Default)]
#[expect(clippy::exhaustive_enums, reason = "a new way is a new kind of client")]
pub enum TokenSource {
    /// There is none.
    #[default]
    None,
    /// It stays the same.
    Fixed(SecretText),
    /// A file, read for every request, since Nomad renews workload identities in place.
    File(PathBuf),
}

/// What TLS needs.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// File with the roots, PEM; the system's if neither this nor `ca_directory` is set.
    pub ca_file: Option<PathBuf>,
    /// Directory whose files hold roots, PEM.
    pub ca_directory: Option<PathBuf>,
    /// The client's certificate chain, PEM, with `client_key`.
    pub client_certificate: Option<PathBuf>,
    /// Its key, PEM.
    pub client_key: Option<PathBuf>,
    /// The name that the server's certificate must have, as `server.global.nomad`; the host of the
    /// address if unset.
    pub server_name: Option<String>,
}

// === impl Config ===

impl Config {
    /// An agent without token, namespace and region.
    pub fn new(address: Address) -> Self {
        Self {
            address,
            token: TokenSource::None,
            namespace: None,
            region: None,
            tls: Tls::default(),
            http_auth: None,
            timeout: TIMEOUT,
            retry: Retry::default(),
        }
    }

    /// What Nomad's environment variables say, each asked of `variable`: pass a closure over
    /// `std::env::var` at the edge of a program.
    ///
    /// `NOMAD_ADDR` (also `unix://PATH`), `NOMAD_UNIX_ADDR` when there is no `NOMAD_ADDR`,
    /// `NOMAD_TOKEN`, `NOMAD_REGION`, `NOMAD_NAMESPACE`, `NOMAD_CACERT`, `NOMAD_CAPATH`,
    /// `NOMAD_CLIENT_CERT`, `NOMAD_CLIENT_KEY`, `NOMAD_TLS_SERVER_NAME`, `NOMAD_HTTP_AUTH`.
    ///
    /// # Errors
    ///
    /// Every variable that cannot be used. `NOMAD_SKIP_VERIFY` is one: tokens go over verified TLS
    /// or not at all.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Problems> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let path = |name: &str| variable(name).map(PathBuf::from);
        let mut problems = Problems::default();
        let address = variable("NOMAD_ADDR").map(|value| ("NOMAD_ADDR", value));
        let address =
            address.or_else(|| variable("NOMAD_UNIX_ADDR").map(|value| ("NOMAD_UNIX_ADDR", value)));
        let address = match address {
            None => Address::default(),
            Some((name, value)) => value.parse().unwrap_or_else(|()| {
                problems.add(name, &value, ADDRESS_EXPECTED);
                Address::default()
            }),
        };
        if variable("NOMAD_SKIP_VERIFY").is_some_and(|value| value != "false" && value != "0") {
            problems.add(
                "NOMAD_SKIP_VERIFY",
                "",
                "NOMAD_CACERT: TLS is always verified",
            );
        }
        let tls = Tls {
            ca_file: path("NOMAD_CACERT"),
            ca_directory: path("NOMAD_CAPATH"),
            client_certificate: path("NOMAD_CLIENT_CERT"),
            client_key: path("NOMAD_CLIENT_KEY"),
            server_name: variable("NOMAD_TLS_SERVER_NAME"),
        };
        match (&tls.client_certificate, &tls.client_key) {
            (Some(_), None) => problems.add("NOMAD_CLIENT_KEY", "", "the key of NOMAD_CLIENT_CERT"),
            (None, Some(_)) => {
                problems.add(
                    "NOMAD_CLIENT_CERT",
                    "",
                    "the certificate of NOMAD_CLIENT_KEY",
                );
            }
            _ => {}
        }
        let token = variable("NOMAD_TOKEN");
        let config = Self {
            token: token.map_or(TokenSource::None, |token| {
                TokenSource::Fixed(SecretText::new(token))
            }),
            namespace: variable("NOMAD_NAMESPACE"),
            region: variable("NOMAD_REGION"),
            tls,
            http_auth: variable("NOMAD_HTTP_AUTH").map(SecretText::new),
            ..Self::new(address)
        };
        problems.into_result(config)
    }

    /// The same for a program that may be a task of Nomad's: a task without `NOMAD_ADDR` asks the
    /// socket in its directory for secrets, and a task without `NOMAD_TOKEN` shows its own
    /// identity, read from its file for every request.
    ///
    /// ```
    /// use mesh_nomad::client::Config;
    ///
    /// let variables = |name: &str| match name {
    ///     "NOMAD_ALLOC_ID" => Some("83ca2e70-0637-b493-ca43-c8f8b5b9e212".to_owned()),
    ///     "NOMAD_SECRETS_DIR" => Some("/secrets".to_owned()),
    ///     _ => None,
    /// };
    /// let config = Config::from_task_variables(variables)?;
    /// assert_eq!(config.address.to_string(), "unix:///secrets/api.sock");
    /// # Ok::<(), mesh_model::Problems>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Self::from_variables`].
    pub fn from_task_variables(
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Problems> {
        let is_set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
        let mut config = Self::from_variables(&variable)?;
        if !is_set("NOMAD_ALLOC_ID") {
            return Ok(config);
        }
        let Some(secrets) = variable("NOMAD_SECRETS_DIR").map(PathBuf::from) else {
            return Ok(config);
        };
        if !is_set("NOMAD_ADDR") && !is_set("NOMAD_UNIX_ADDR") {
            config.address = Address::Unix(secrets.join(TASK_SOCKET));
        }
        if matches!(config.token, TokenSource::None) {
            config.token = TokenSource::File(secrets.join(TASK_TOKEN));
        }
        Ok(config)
    }
}

// === impl Address ===

impl Default for Address {
    /// The agent of this machine.
    fn default() -> Self {
        Self::Http {
            host: "127.0.0.1".to_owned(),
            port: PORT,
        }
    }
}

impl std::str::FromStr for Address {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if let Some(path) = text.strip_prefix("unix://") {
            let absolute = path
                .starts_with('/')
                .then(|| Self::Unix(PathBuf::from(path)));
            return absolute.ok_or(());
        }
        let uri: http::Uri = text.parse().map_err(|_invalid| ())?;
        let host = uri
            .host()
            .filter(|host| !host.is_empty())
            .ok_or(())?
            .to_owned();
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(());
        }
        let port = uri.port_u16().unwrap_or(PORT);
        match uri.scheme_str() {
            Some("http") => Ok(Self::Http { host, port }),
            Some("https") => Ok(Self::Https { host, port }),
            _ => Err(()),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Http { host, port } => write!(f, "http://{host}:{port}"),
            Self::Https { host, port } => write!(f, "https://{host}:{port}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

// === impl TokenSource ===

impl TokenSource {
    /// The token as it is now.
    pub(super) async fn read(&self) -> Result<Option<SecretText>, Error> {
        let path = match self {
            Self::None => return Ok(None),
            Self::Fixed(token) => return Ok(Some(token.clone())),
            Self::File(path) => path,
        };
        let failed = |source| Error::Token {
            path: path.clone(),
            source,
        };
        let text = tokio::fs::read_to_string(path).await.map_err(failed)?;
        match text.trim() {
            "" => Err(failed(std::io::ErrorKind::UnexpectedEof.into())),
            token => Ok(Some(SecretText::new(token))),
        }
    }
}

const ADDRESS_EXPECTED: &str = "an address (http://HOST:PORT, https://HOST:PORT or unix:///PATH)";

/// Where agents listen unless told otherwise.
const PORT: u16 = 4646;

/// A task's own way to Nomad's API, in its directory for secrets.
const TASK_SOCKET: &str = "api.sock";

/// A task's own identity, in its directory for secrets.
const TASK_TOKEN: &str = "nomad_token";

#[cfg(test)]
mod tests {
    use super::*;

    fn config(variables: &[(&str, &str)]) -> Result<Config, Problems> {
        Config::from_variables(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn without_variables_the_agent_is_this_machines() {
        let config = config(&[]).unwrap();
        assert_eq!(config.address.to_string(), "http://127.0.0.1:4646");
        assert!(matches!(config.token, TokenSource::None));
    }

    #[test]
    fn a_task_finds_its_api_and_hides_its_token() {
        let config = config(&[
            ("NOMAD_UNIX_ADDR", "unix:///secrets/api.sock"),
            ("NOMAD_TOKEN", "e30.e30.c2ln"),
        ])
        .unwrap();
        assert_eq!(config.address, Address::Unix("/secrets/api.sock".into()));
        assert!(!format!("{config:?}").contains("c2ln"));
    }

    #[test]
    fn a_task_shows_its_own_identity_unless_told_otherwise() {
        let task = [
            ("NOMAD_ALLOC_ID", "83ca2e70-0637-b493-ca43-c8f8b5b9e212"),
            ("NOMAD_SECRETS_DIR", "/alloc/secrets"),
        ];
        let config = |more: &[(&str, &str)]| {
            Config::from_task_variables(|name| {
                let found = task.iter().chain(more).find(|(key, _)| *key == name);
                found.map(|(_, value)| (*value).to_owned())
            })
            .unwrap()
        };
        let own = config(&[]);
        assert_eq!(own.address, Address::Unix("/alloc/secrets/api.sock".into()));
        assert!(
            matches!(own.token, TokenSource::File(path) if path.ends_with("secrets/nomad_token"))
        );
        let told = config(&[
            ("NOMAD_ADDR", "https://10.0.0.1:4646"),
            ("NOMAD_TOKEN", "x"),
        ]);
        assert_eq!(told.address.to_string(), "https://10.0.0.1:4646");
        assert!(matches!(told.token, TokenSource::Fixed(_)));
        // Elsewhere nothing changes.
        let elsewhere = Config::from_task_variables(|_| None).unwrap();
        assert_eq!(elsewhere.address, Address::default());
    }

    #[test]
    fn everything_wrong_is_said_at_once() {
        let problems = config(&[
            ("NOMAD_ADDR", "10.0.0.1"),
            ("NOMAD_SKIP_VERIFY", "true"),
            ("NOMAD_CLIENT_CERT", "/c.pem"),
        ])
        .unwrap_err();
        let paths: Vec<_> = problems.0.iter().map(|problem| &problem.path[..]).collect();
        assert_eq!(
            paths,
            ["NOMAD_ADDR", "NOMAD_SKIP_VERIFY", "NOMAD_CLIENT_KEY"]
        );
    }

    #[test]
    fn addresses_have_a_scheme_and_no_path() {
        for text in ["http://[::1]:1", "https://nomad.example", "unix:///run/a"] {
            assert!(text.parse::<Address>().is_ok(), "{text}");
        }
        for text in ["", "nomad", "ftp://a", "http://a/v1", "unix://a"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
