//! The members of a cluster: their endpoints, and TLS where an endpoint asks for it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::store::{EtcdTls, StoreError};

/// Why a secured connection did not come about.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error(transparent)]
    Files(#[from] StoreError),
    #[error("cannot reach `{endpoint}`")]
    Connect {
        endpoint: String,
        #[source]
        source: std::io::Error,
    },
    #[error("no TLS with `{endpoint}`")]
    Handshake {
        endpoint: String,
        #[source]
        source: std::io::Error,
    },
}

/// A channel to each member, which connects when first used.
///
/// Certificates are read for each connection, so that new ones need no restart; they are read here
/// too, so that wrong ones are told at once.
pub(super) fn channels(endpoints: &[String], tls: &EtcdTls) -> Result<Vec<Channel>, StoreError> {
    let members = members(endpoints, tls).map_err(|problems| StoreError::Configuration {
        reason: problems.join("; "),
    })?;
    if members.iter().any(Member::is_secured) {
        config(tls)?;
    }
    Ok(members
        .into_iter()
        .map(|member| member.channel(tls))
        .collect())
}

/// One member.
struct Member {
    endpoint: Endpoint,
    host: String,
    port: u16,
}

impl Member {
    fn is_secured(&self) -> bool {
        self.endpoint.uri().scheme() == Some(&http::uri::Scheme::HTTPS)
    }

    fn channel(self, tls: &EtcdTls) -> Channel {
        let is_secured = self.is_secured();
        let Self {
            endpoint,
            host,
            port,
        } = self;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        if !is_secured {
            return endpoint.connect_lazy();
        }
        let tls = tls.clone();
        endpoint.connect_with_connector_lazy(service_fn(move |_: Uri| {
            let (tls, host) = (tls.clone(), host.clone());
            async move { secured(&tls, &host, port).await.map(TokioIo::new) }
        }))
    }
}

/// Reads the endpoints; everything that is wrong with them and with the files that go with them.
fn members(endpoints: &[String], tls: &EtcdTls) -> Result<Vec<Member>, Vec<String>> {
    let mut problems = Vec::new();
    let mut members = Vec::new();
    for text in endpoints {
        match member(text) {
            Some(member) => members.push(member),
            None => problems.push(format!(
                "etcd endpoint `{text}` is not of the form `http://HOST:PORT` or `https://HOST:PORT`"
            )),
        }
    }
    if endpoints.is_empty() {
        problems.push("no etcd endpoint is given".to_owned());
    }
    let secured = members.iter().filter(|member| member.is_secured()).count();
    if secured > 0 && tls.authorities.is_none() {
        problems.push("endpoints with `https` need the file of the CA that signed for them".into());
    }
    if secured == 0 && *tls != EtcdTls::default() && !members.is_empty() {
        problems.push("files for TLS are given, and no endpoint begins with `https`".into());
    }
    if tls.certificate.is_some() != tls.key.is_some() {
        problems.push("a client certificate and its key go together, and one is missing".into());
    }
    if problems.is_empty() {
        Ok(members)
    } else {
        Err(problems)
    }
}

fn member(text: &str) -> Option<Member> {
    let endpoint = Endpoint::from_shared(text.to_owned()).ok()?;
    let uri = endpoint.uri();
    let is_known = matches!(uri.scheme_str(), Some("http" | "https"));
    let host = uri.host()?.trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16()?;
    let is_bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
    (is_known && is_bare && !host.is_empty()).then_some(Member {
        endpoint,
        host,
        port,
    })
}

async fn secured(
    tls: &EtcdTls,
    host: &str,
    port: u16,
) -> Result<TlsStream<TcpStream>, ConnectError> {
    let config = config(tls)?;
    let endpoint = || format!("{host}:{port}");
    let connect = |source| ConnectError::Connect {
        endpoint: endpoint(),
        source,
    };
    let stream = TcpStream::connect((host, port)).await.map_err(connect)?;
    stream.set_nodelay(true).map_err(connect)?;
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| connect(std::io::Error::other(error)))?;
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|source| ConnectError::Handshake {
            endpoint: endpoint(),
            source,
        })
}

fn config(tls: &EtcdTls) -> Result<ClientConfig, StoreError> {
    let wrong = |path: &Path, reason: String| StoreError::Configuration {
        reason: format!("`{}`: {reason}", path.display()),
    };
    let mut roots = RootCertStore::empty();
    if let Some(path) = &tls.authorities {
        for root in certificates(path)? {
            roots
                .add(root)
                .map_err(|error| wrong(path, error.to_string()))?;
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(StoreError::unavailable)?
        .with_root_certificates(roots);
    let mut config = match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate)?;
            let private = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| wrong(key, format!("no private key: {error}")))?;
            builder
                .with_client_auth_cert(chain, private)
                .map_err(|error| wrong(key, error.to_string()))?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// At least one certificate.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, StoreError> {
    let wrong = |reason: String| StoreError::Configuration {
        reason: format!("`{}`: {reason}", path.display()),
    };
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong(format!("no certificates: {error}")))?;
    if found.is_empty() {
        return Err(wrong("there is no certificate in it".to_owned()));
    }
    Ok(found)
}

/// A member that does not accept a connection in this time is down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Finds dead connections; etcd refuses pings more often than every 5 s.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(endpoints: &[&str], tls: &EtcdTls) -> Vec<String> {
        let endpoints: Vec<String> = endpoints.iter().map(|text| (*text).to_owned()).collect();
        members(&endpoints, tls).err().unwrap_or_default()
    }

    #[test]
    fn endpoints_say_whether_they_are_secured() {
        let tls = EtcdTls {
            authorities: Some("/ca.pem".into()),
            ..EtcdTls::default()
        };
        let endpoints = [
            "https://[::1]:2379".to_owned(),
            "http://etcd.example:2379/".to_owned(),
        ];
        let members = members(&endpoints, &tls).unwrap();
        let seen: Vec<_> = members
            .iter()
            .map(|member| (member.is_secured(), member.host.as_str(), member.port))
            .collect();
        assert_eq!(seen, [(true, "::1", 2379), (false, "etcd.example", 2379)]);
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let tls = EtcdTls {
            key: Some("/key.pem".into()),
            ..EtcdTls::default()
        };
        let told = problems(&["https://a:2379", "b:2379", "http://c", "ftp://d:1"], &tls);
        assert_eq!(told.len(), 5, "{told:#?}");
        assert_eq!(problems(&[], &EtcdTls::default()).len(), 1);
        assert_eq!(problems(&["http://a:2379"], &tls).len(), 2);
    }
}
