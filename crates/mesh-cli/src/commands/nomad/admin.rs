//! The API server of an install, and its admin's kubeconfig.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use mesh_control::api::bootstrap::Authority;
use mesh_nomad::install::{API_NAME, Component};
use mesh_nomad::model::registration::Registration;
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::failed;
use crate::exit::{Failure, REFUSED};
use crate::{connect, join};

/// How long the admin's certificate lives; another run of `install` makes a new one.
const LIFE: Duration = Duration::from_secs(365 * 86400);
/// The group that passes every check.
const MASTERS: &str = "system:masters";
/// How long the control plane may take to answer once its jobs are healthy.
const PATIENCE: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_millis(500);

/// The address of an API server, out of the catalogue.
pub(super) async fn server(cluster: &Cluster) -> Result<String, Failure> {
    let service = Component::Api.job_id();
    let found = cluster.client.service(&cluster.namespace, service).await;
    let found = found.map_err(|error| failed("asking for the API server's address", &error))?;
    let mut urls: Vec<_> = found.value.iter().filter_map(url).collect();
    urls.sort_unstable();
    urls.into_iter().next().ok_or_else(|| {
        Failure::new(format!(
            "no instance of the service `{service}` is registered"
        ))
    })
}

fn url(registration: &Registration) -> Option<String> {
    let address: IpAddr = registration.address.text().parse().ok()?;
    let port = registration.port.value();
    Some(match address {
        IpAddr::V4(address) => format!("https://{address}:{port}"),
        IpAddr::V6(address) => format!("https://[{address}]:{port}"),
    })
}

/// Writes the admin's kubeconfig (0600) unless the file is one for this API. True if it wrote.
pub(super) fn write_kubeconfig(
    authority: &Authority,
    server: &str,
    file: &Path,
) -> Result<bool, Failure> {
    let doing =
        |error: std::io::Error| Failure::doing(format!("writing {}", file.display()), &error);
    let found = match fs::read_to_string(file) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(doing(error)),
    };
    if let Some(text) = &found {
        match state(text, authority, server) {
            State::Good => return Ok(false),
            State::Old => {}
            State::Foreign => {
                let message = format!("{} is the kubeconfig of another API server", file.display());
                return Err(Failure::new(message)
                    .with_code(REFUSED)
                    .with_hint("name another file with --kubeconfig"));
            }
        }
    }
    let text = authority
        .user_kubeconfig("mesh:admin", &[MASTERS.to_owned()], LIFE, Some(server))
        .map_err(|error| Failure::doing("making the admin's kubeconfig", &error))?;
    let mut config: Value = serde_json::from_str(&text).map_err(|error| Failure::of(&error))?;
    // Replicas have a certificate of one name, wherever they run.
    if let Some(cluster) = config
        .pointer_mut("/clusters/0/cluster")
        .and_then(Value::as_object_mut)
    {
        cluster.insert("tls-server-name".to_owned(), json!(API_NAME));
    }
    if let Some(parent) = file.parent() {
        fs::create_dir_all(parent).map_err(doing)?;
    }
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let temporary = file.with_file_name(name);
    let mut options = fs::OpenOptions::new();
    let mut open = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(doing)?;
    open.write_all(format!("{config:#}\n").as_bytes())
        .map_err(doing)?;
    fs::rename(&temporary, file).map_err(doing)?;
    Ok(true)
}

/// What a kubeconfig is to an API.
enum State {
    Good,
    /// Of this API, with another address or a certificate near its end.
    Old,
    Foreign,
}

fn state(text: &str, authority: &Authority, server: &str) -> State {
    let Ok(config) = serde_json::from_str::<Value>(text) else {
        return State::Foreign;
    };
    let now = std::time::SystemTime::now();
    let certificate = super::secret::certificate(text);
    let has_server = config.pointer("/clusters/0/cluster/server") == Some(&json!(server));
    let ca = config.pointer("/clusters/0/cluster/certificate-authority-data");
    let ca = ca.and_then(Value::as_str).and_then(decoded);
    if ca.as_deref() != Some(authority.pem()) {
        State::Foreign
    } else if has_server && certificate.is_some_and(|found| authority.is_fresh(&found, now)) {
        State::Good
    } else {
        State::Old
    }
}

fn decoded(text: &str) -> Option<String> {
    use base64::Engine as _;

    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .ok()?;
    String::from_utf8(bytes).ok()
}

/// What the control plane says of itself, once CA and Pilot have said it.
pub(super) async fn published(client: &kube::Client) -> Result<join::Facts, Failure> {
    let start = Instant::now();
    loop {
        match join::facts(client).await {
            Ok(facts) => return Ok(facts),
            Err(failure) if start.elapsed() > PATIENCE => return Err(failure),
            Err(_not_yet) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// A client of the API with the admin's kubeconfig.
pub(super) async fn client(file: &Path) -> Result<kube::Client, Failure> {
    connect::client(file).await
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn authority() -> Authority {
        Authority::from_pair(&Authority::generate("mesh api ca").unwrap()).unwrap()
    }

    #[test]
    fn a_kubeconfig_is_written_once_and_follows_the_address() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("home/kubeconfig");
        let authority = authority();
        assert!(write_kubeconfig(&authority, "https://10.0.0.1:6443", &file).unwrap());
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(!write_kubeconfig(&authority, "https://10.0.0.1:6443", &file).unwrap());
        assert!(write_kubeconfig(&authority, "https://10.0.0.2:6443", &file).unwrap());
        let config: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!(
            config.pointer("/clusters/0/cluster/tls-server-name"),
            Some(&json!("mesh-api"))
        );
    }

    #[test]
    fn a_kubeconfig_of_another_mesh_is_not_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("kubeconfig");
        write_kubeconfig(&authority(), "https://10.0.0.1:6443", &file).unwrap();
        let before = fs::read_to_string(&file).unwrap();
        assert!(write_kubeconfig(&authority(), "https://10.0.0.1:6443", &file).is_err());
        fs::write(directory.path().join("text"), "text").unwrap();
        assert!(
            write_kubeconfig(&authority(), "https://a", &directory.path().join("text")).is_err()
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), before);
    }
}
