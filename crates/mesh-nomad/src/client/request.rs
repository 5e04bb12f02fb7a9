//! A request as a value: what is asked, before it is sent.

use std::fmt::Write as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, header};
use http_body_util::Full;
use serde::Serialize;

use super::{Body, Config, Error, Meta};
use crate::model::acl::SecretText;

/// One request to the API.
///
/// ```
/// use mesh_nomad::client::Request;
///
/// let request = Request::get(&["v1", "job", "batch/dispatch-1"]).query("namespace", "a b");
/// assert_eq!(request.target(), "/v1/job/batch%2Fdispatch-1?namespace=a%20b");
/// ```
#[derive(Clone, Debug)]
#[must_use = "a request does nothing until it is sent"]
pub struct Request {
    method: Method,
    path: String,
    query: Vec<(String, String)>,
    body: Bytes,
    /// An index of 0 may mean that the caller may not read this.
    guarded: bool,
    patience: Option<Duration>,
}

// === impl Request ===

impl Request {
    /// A read; the segments of the path are escaped.
    pub fn get(segments: &[&str]) -> Self {
        Self::new(Method::GET, segments)
    }

    /// A write.
    pub fn put(segments: &[&str]) -> Self {
        Self::new(Method::PUT, segments)
    }

    /// A write that the API wants as POST.
    pub fn post(segments: &[&str]) -> Self {
        Self::new(Method::POST, segments)
    }

    /// A removal.
    pub fn delete(segments: &[&str]) -> Self {
        Self::new(Method::DELETE, segments)
    }

    fn new(method: Method, segments: &[&str]) -> Self {
        let mut path = String::new();
        for segment in segments {
            path.push('/');
            escape(&mut path, segment, "");
        }
        Self {
            method,
            path,
            query: Vec::new(),
            body: Bytes::new(),
            guarded: false,
            patience: None,
        }
    }

    /// Adds a path whose slashes are kept, as that of a variable.
    pub(super) fn below(mut self, path: &str) -> Self {
        self.path.push('/');
        escape(&mut self.path, path, "/");
        self
    }

    /// Adds a parameter.
    #[expect(clippy::needless_pass_by_value, reason = "a number is given as it is")]
    pub fn query(mut self, name: &str, value: impl ToString) -> Self {
        self.query.push((name.to_owned(), value.to_string()));
        self
    }

    /// Adds a parameter if there is one.
    pub fn query_if(self, name: &str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    /// The same request for another namespace than the client's; `*` is all, for lists.
    pub fn namespace(self, namespace: &str) -> Self {
        self.query("namespace", namespace)
    }

    /// Sets the body.
    pub fn json(mut self, body: &impl Serialize) -> Result<Self, Error> {
        let body = serde_json::to_vec(body).map_err(|source| Error::Encode {
            path: self.path.clone(),
            source,
        })?;
        self.body = body.into();
        Ok(self)
    }

    /// Makes an answer that means "not allowed" an error. To who may read nothing of a list over all
    /// namespaces Nomad gives an empty one, with index 0.
    pub fn guarded(mut self) -> Self {
        self.guarded = true;
        self
    }

    /// How long it may take.
    pub fn within(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// The path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The path with its parameters.
    pub fn target(&self) -> String {
        let mut target = self.path.clone();
        for (index, (name, value)) in self.query.iter().enumerate() {
            target.push(if index == 0 { '?' } else { '&' });
            escape(&mut target, name, "-");
            target.push('=');
            escape(&mut target, value, "*");
        }
        target
    }

    /// Whether sending it twice is the same as sending it once.
    pub fn is_read(&self) -> bool {
        self.method == Method::GET
    }

    /// The method.
    pub(super) fn method(&self) -> &Method {
        &self.method
    }

    pub(super) fn patience(&self) -> Option<Duration> {
        self.patience
    }

    /// Whether an answer with this index may mean "not allowed".
    pub(super) fn is_doubtful(&self, meta: &Meta) -> bool {
        self.guarded && meta.index == 0
    }

    /// The request that tells such an answer from a table that nothing was ever written to: the
    /// list of services needs the same rights and has an index from the first moment of a cluster.
    /// None if this is that list.
    pub(super) fn probe(&self) -> Option<Self> {
        let services = Self::get(&["v1", "services"]);
        let namespace = self.query.iter().find(|(name, _)| name == "namespace");
        (self.path != services.path)
            .then(|| services.query_if("namespace", namespace.map(|(_, value)| value)))
    }

    /// As it goes over the wire.
    pub(super) fn to_http(
        &self,
        config: &Config,
        token: Option<&SecretText>,
        more: &[(HeaderName, &str)],
    ) -> Result<http::Request<Body>, http::Error> {
        let mut request = self.clone();
        for (name, value) in [("namespace", &config.namespace), ("region", &config.region)] {
            if let Some(value) = value
                && !self.query.iter().any(|(found, _)| found == name)
            {
                request = request.query(name, value);
            }
        }
        let mut builder = http::Request::builder()
            .method(self.method.clone())
            .uri(request.target())
            .header(header::HOST, host(config))
            .header(header::USER_AGENT, USER_AGENT);
        if !self.body.is_empty() {
            builder = builder.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(token.expose())?;
            value.set_sensitive(true);
            builder = builder.header("x-nomad-token", value);
        }
        if let Some(auth) = &config.http_auth {
            let text = format!("Basic {}", BASE64.encode(auth.expose()));
            let mut value = HeaderValue::from_str(&text)?;
            value.set_sensitive(true);
            builder = builder.header(header::AUTHORIZATION, value);
        }
        for (name, value) in more {
            builder = builder.header(name, *value);
        }
        builder.body(Full::new(self.body.clone()))
    }
}

fn host(config: &Config) -> String {
    match &config.address {
        super::Address::Http { host, port } | super::Address::Https { host, port } => {
            format!("{host}:{port}")
        }
        super::Address::Unix(_) => "localhost".to_owned(),
    }
}

/// Appends `text` with everything but RFC 3986's unreserved characters and `keep` escaped.
fn escape(out: &mut String, text: &str, keep: &str) {
    for byte in text.bytes() {
        let is_plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if is_plain || keep.as_bytes().contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _infallible = write!(out, "%{byte:02X}").is_ok();
        }
    }
}

const USER_AGENT: &str = concat!("mesh-nomad/", env!("CARGO_PKG_VERSION"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_namespace_gives_way_to_the_requests() {
        let config = Config {
            namespace: Some("prod".to_owned()),
            region: Some("eu".to_owned()),
            ..Config::new(super::super::Address::default())
        };
        let target = |request: Request| {
            request
                .to_http(&config, None, &[])
                .unwrap()
                .uri()
                .to_string()
        };
        assert_eq!(
            target(Request::get(&["v1", "jobs"])),
            "/v1/jobs?namespace=prod&region=eu"
        );
        assert_eq!(
            target(Request::get(&["v1", "jobs"]).namespace("*")),
            "/v1/jobs?namespace=*&region=eu"
        );
    }

    #[test]
    fn the_token_is_a_sensitive_header() {
        let config = Config::new(super::super::Address::default());
        let token = SecretText::new("s3cret");
        let request = Request::get(&["v1", "jobs"]);
        let sent = request.to_http(&config, Some(&token), &[]).unwrap();
        assert_eq!(sent.headers()["x-nomad-token"], "s3cret");
        assert!(!format!("{sent:?}").contains("s3cret"));
    }
}
