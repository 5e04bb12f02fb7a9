//! How verbs ask Pilot what is inside: over its xDS port, as the user of the kubeconfig.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::Client;
use kube::config::AuthInfo;
use mesh_identity::transport::channel;
use mesh_identity::{Certificate, Chain, ClientTls, Key};
use mesh_model::{Namespace, SpiffeId};
use mesh_proto::mesh::agent::v1::introspection_client::IntrospectionClient;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::connect::{self, Connection};
use crate::exit::{Failure, REFUSED};
use crate::join;

/// Bytes of an answer: Envoy's dump of a large configuration is some ten megabytes.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// A client of each replica of Pilot, in the order in which the mesh names them.
pub(super) async fn pilots(
    connection: &Connection,
) -> Result<Vec<IntrospectionClient<Channel>>, Failure> {
    let config = connect::config(&connection.file()).await?;
    let (key, chain) = certificate(&config.auth_info).map_err(|what| {
        Failure::new(format!(
            "kubeconfig {}: {what}",
            connection.file().display()
        ))
        .with_hint("Pilot knows users by client certificates; `mesh kubeconfig` makes one")
    })?;
    let client = Client::try_from(config)
        .map_err(|error| Failure::doing("making a client of the API", &error))?;
    let facts = join::facts(&client).await?;
    let pilot = SpiffeId {
        trust_domain: facts.trust_domain,
        namespace: Namespace::mesh_system(),
        service_account: "pilot"
            .parse()
            .map_err(|problem: mesh_model::Problem| Failure::new(problem.to_string()))?,
    };
    let clients = facts.pilots.into_iter().map(|address| {
        let tls = ClientTls::user(key.clone(), &chain, facts.roots.clone(), pilot.clone());
        IntrospectionClient::new(channel(address, tls)).max_decoding_message_size(MAX_ANSWER)
    });
    Ok(clients.collect())
}

/// What the first replica answers that can be reached.
pub(super) async fn ask<T, F>(
    connection: &Connection,
    mut question: impl FnMut(IntrospectionClient<Channel>) -> F,
) -> Result<T, Failure>
where
    F: Future<Output = Result<tonic::Response<T>, Status>>,
{
    let mut failure = Failure::new("the mesh names no Pilot");
    for pilot in pilots(connection).await? {
        match question(pilot).await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) => {
                let is_away = status.code() == Code::Unavailable;
                failure = refused(&status);
                if !is_away {
                    break;
                }
            }
        }
    }
    Err(failure)
}

/// A refusal in its own words, with the exit code that it deserves.
pub(super) fn refused(status: &Status) -> Failure {
    let failure = match status.code() {
        Code::Unavailable => {
            Failure::doing("asking Pilot", status).with_hint("see `mesh status` whether Pilot runs")
        }
        _ => Failure::new(status.message()),
    };
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated => failure.with_code(REFUSED),
        _ => failure,
    }
}

/// The client certificate of a kubeconfig and its key.
fn certificate(auth: &AuthInfo) -> Result<(Key, Chain), String> {
    // As a file has it; the type itself keeps the key from us.
    let fields = serde_json::to_value(auth).map_err(|error| error.to_string())?;
    let key = pem(&fields, "client-key")?;
    let chain = pem(&fields, "client-certificate")?;
    let wrong = |error: &dyn std::error::Error| crate::exit::chain(error);
    let key = Key::from_pem(&key).map_err(|error| wrong(&error))?;
    let mut chain = CertificateDer::pem_slice_iter(chain.as_bytes()).map(|der| {
        let der = der.map_err(|error| wrong(&error))?;
        Certificate::from_der(der).map_err(|error| wrong(&error))
    });
    let leaf = chain
        .next()
        .unwrap_or_else(|| Err("`client-certificate` holds no certificate".to_owned()))?;
    let chain = Chain::new(leaf, chain.collect::<Result<_, _>>()?);
    Ok((key, chain))
}

/// The text of a PEM that stands in a kubeconfig itself (`<field>-data`) or in a file of its own.
fn pem(fields: &Value, field: &str) -> Result<String, String> {
    let text = |name: &str| fields.get(name).and_then(Value::as_str);
    if let Some(data) = text(&format!("{field}-data")) {
        let bytes = STANDARD.decode(data).map_err(|error| error.to_string());
        return bytes.and_then(|bytes| String::from_utf8(bytes).map_err(|error| error.to_string()));
    }
    let path = text(field).ok_or_else(|| format!("its user has no `{field}`"))?;
    std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))
}
