//! A small CA: real TLS, and it signs whatever key it is shown, for one identity.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_identity::ServerTls;
use mesh_identity::testing::{Authority, Leaf};
use mesh_identity::tls::Clients;
use mesh_identity::transport::{HandshakeLimits, TlsIncoming};
use mesh_proto::istio::v1::auth::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use mesh_proto::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use tokio::runtime::Runtime;
use tonic::{Request, Response, Status};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

/// A running CA; dropping it is its death.
pub(crate) struct Ca(Option<Runtime>);

struct Service {
    authority: Arc<Authority>,
    identity: String,
    life: Duration,
}

impl Ca {
    pub(crate) fn start(
        address: SocketAddr,
        authority: &Arc<Authority>,
        identity: &str,
        life: Duration,
    ) -> Self {
        let runtime = Runtime::new().unwrap();
        let service = Service {
            authority: Arc::clone(authority),
            identity: identity.to_owned(),
            life,
        };
        let store = authority.store("spiffe://cluster.local/ns/mesh-system/sa/ca");
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let tls = ServerTls::new(store, Clients::Anybody { users: None }).sending_roots();
            let incoming = TlsIncoming::new(listener, tls, HandshakeLimits::default());
            tonic::transport::Server::builder()
                .add_service(IstioCertificateServiceServer::new(service))
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        Self(Some(runtime))
    }
}

impl Drop for Ca {
    fn drop(&mut self) {
        self.0.take().unwrap().shutdown_background();
    }
}

#[tonic::async_trait]
impl IstioCertificateService for Service {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let csr = request.into_inner().csr;
        let (_, pem) = x509_parser::pem::parse_x509_pem(csr.as_bytes()).unwrap();
        let (_, csr) = X509CertificationRequest::from_der(&pem.contents).unwrap();
        let key = csr.certification_request_info.subject_pki.raw;
        let now = SystemTime::now();
        let leaf = Leaf {
            not_before: now,
            not_after: now + self.life,
            ..Leaf::of(&self.identity)
        };
        let chain = self.authority.sign(key, &leaf);
        Ok(Response::new(IstioCertificateResponse {
            cert_chain: vec![chain.leaf().to_pem(), self.authority.root().to_pem()],
        }))
    }
}
