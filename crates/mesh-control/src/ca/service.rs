//! Istio's call: a certificate request in, a chain out.

use std::sync::Arc;
use std::time::SystemTime;

use kube::Client;
use mesh_identity::{Certificate, Connection};
use mesh_model::TrustDomain;
use mesh_proto::istio::v1::auth::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use mesh_proto::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use tonic::{Request, Response, Status};

use super::csr::PublicKey;
use super::gate::{Caller, Gate, ProvenBy};
use super::{Issuer, Lifetimes, Order};

/// A request and its few metadata; more is not decoded.
const MAX_REQUEST: usize = 32 * 1024;

/// Answers `istio.v1.auth.IstioCertificateService`.
pub struct CertificateService {
    issuer: Arc<dyn Issuer>,
    lifetimes: Lifetimes,
}

impl CertificateService {
    /// Issues with `issuer` within `lifetimes`.
    pub fn new(issuer: Arc<dyn Issuer>, lifetimes: Lifetimes) -> Self {
        Self { issuer, lifetimes }
    }

    /// The service behind its gate, for the routes of a server whose connections are
    /// [`mesh_identity::transport::TlsConnection`]s. With `nomad` its workload identities prove
    /// who calls, too.
    pub fn guarded(
        self,
        client: Client,
        trust_domain: TrustDomain,
        nomad: Option<mesh_nomad::client::Client>,
    ) -> Gate<IstioCertificateServiceServer<Self>> {
        let server =
            IstioCertificateServiceServer::new(self).max_decoding_message_size(MAX_REQUEST);
        Gate::new(server, client, trust_domain, nomad)
    }
}

#[tonic::async_trait]
impl IstioCertificateService for CertificateService {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let caller = request
            .extensions()
            .get::<Caller>()
            .cloned()
            // The gate is what makes this service; without it nobody is known.
            .ok_or_else(|| Status::unauthenticated("the caller is not known"))?;
        let remote = request
            .extensions()
            .get::<Connection>()
            .map(|connection| connection.remote);
        let message = request.into_inner();
        let key = PublicKey::of_request(&message.csr)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let order = Order {
            key,
            identity: caller.identity,
            subject: caller.subject,
            ttl: self
                .lifetimes
                .decide_within(message.validity_duration, caller.longest),
            now: SystemTime::now(),
        };
        let chain = self.issuer.issue(&order).await.map_err(|error| {
            let cause: &dyn std::error::Error = &error;
            tracing::error!(identity = %order.identity, error = cause, "nothing issued");
            Status::internal(error.to_string())
        })?;
        // The record of who got what: one line for each certificate, without its key.
        tracing::info!(
            target: "mesh::audit",
            identity = %order.identity,
            proof = match caller.proof {
                ProvenBy::Token => "token",
                ProvenBy::Certificate => "certificate",
                ProvenBy::Nomad => "nomad",
            },
            subject = order.subject,
            remote = remote.map(tracing::field::display),
            serial = chain.leaf().serial(),
            ttl_seconds = order.ttl.as_secs(),
            "certificate issued"
        );
        let roots = self.issuer.roots();
        let cert_chain = chain.iter().chain(roots.roots());
        Ok(Response::new(IstioCertificateResponse {
            cert_chain: cert_chain.map(Certificate::to_pem).collect(),
        }))
    }
}

impl std::fmt::Debug for CertificateService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateService")
            .field("lifetimes", &self.lifetimes)
            .finish_non_exhaustive()
    }
}
