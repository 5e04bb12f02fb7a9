//! What a request asks for, read from method, path and query: who may do it and who does it both need that.

use std::borrow::Cow;

use http::{Method, Uri};

use super::status::Failure;

/// A request, understood as far as the URL goes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Call {
    /// What is to be done, in the words of RBAC.
    pub verb: &'static str,
    /// To what.
    pub target: Target,
    /// The parameters.
    pub query: Query,
}

/// What a request is about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    /// Objects.
    Objects(Place),
    /// Any other path.
    Path(String),
}

/// Objects, or one of them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Place {
    /// API group; empty for the core group.
    pub group: String,
    /// Version of the group.
    pub version: String,
    /// Plural of the kind.
    pub resource: String,
    /// As in `status`, or `token` of service accounts.
    pub subresource: Option<String>,
    /// The namespace; none for all, or for objects without namespace.
    pub namespace: Option<String>,
    /// The object; none for all.
    pub name: Option<String>,
}

/// The parameters after `?`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Query(Vec<(String, String)>);

// === impl Call ===

impl Call {
    /// Reads method and URL.
    ///
    /// # Errors
    ///
    /// 400 if the URL is no valid encoding of text.
    pub fn parse(method: &Method, uri: &Uri) -> Result<Self, Failure> {
        let query = Query::parse(uri.query().unwrap_or_default())?;
        let segments = uri
            .path()
            .split('/')
            .filter(|segment| !segment.is_empty())
            .map(|segment| decode(segment, false))
            .collect::<Result<Vec<_>, _>>()?;
        let parts: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
        let place = match parts.as_slice() {
            ["api", version @ "v1", rest @ ..] => Place::parse("", version, rest),
            ["apis", group, version, rest @ ..] => Place::parse(group, version, rest),
            _ => None,
        };
        let Some(mut place) = place else {
            return Ok(Self {
                verb: path_verb(method),
                target: Target::Path(format!("/{}", parts.join("/"))),
                query,
            });
        };
        let verb = match (method.as_str(), &place.name) {
            ("GET" | "HEAD", Some(_)) if !query.is_true("watch") => "get",
            ("GET" | "HEAD", _) if query.is_true("watch") => "watch",
            ("GET" | "HEAD", _) => "list",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            ("DELETE", Some(_)) => "delete",
            ("DELETE", None) => "deletecollection",
            _ => "",
        };
        if matches!(verb, "list" | "watch" | "deletecollection") && place.name.is_none() {
            // As Kubernetes: rules by name hold for a list of that one name.
            place.name = query.one_name();
        }
        Ok(Self {
            verb,
            target: Target::Objects(place),
            query,
        })
    }
}

// === impl Place ===

impl Place {
    fn parse(group: &str, version: &str, rest: &[&str]) -> Option<Self> {
        let (namespace, rest) = match rest {
            // Of the namespace itself, as `/namespaces/shop/status`.
            ["namespaces", _, "status" | "finalize"] => (None, rest),
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(*namespace), rest),
            rest => (None, rest),
        };
        let (resource, name, subresource) = match rest {
            [resource] => (*resource, None, None),
            [resource, name] => (*resource, Some(*name), None),
            [resource, name, subresource] => (*resource, Some(*name), Some(*subresource)),
            _ => return None,
        };
        Some(Self {
            group: group.to_owned(),
            version: version.to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.map(str::to_owned),
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
        })
    }
}

// === impl Query ===

impl Query {
    fn parse(text: &str) -> Result<Self, Failure> {
        let pairs = text
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                Ok((
                    decode(key, true)?.into_owned(),
                    decode(value, true)?.into_owned(),
                ))
            })
            .collect::<Result<_, Failure>>()?;
        Ok(Self(pairs))
    }

    /// The first value of a parameter.
    pub fn get(&self, key: &str) -> Option<&str> {
        let found = self.0.iter().find(|(found, _)| found == key);
        found.map(|(_, value)| value.as_str())
    }

    /// Every value of a parameter.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(found, _)| found == key)
            .map(|(_, value)| value.as_str())
    }

    /// Whether a parameter says yes; an empty value does.
    pub fn is_true(&self, key: &str) -> bool {
        matches!(self.get(key), Some("true" | "1" | ""))
    }

    /// A number, if given.
    ///
    /// # Errors
    ///
    /// 400 if it is none.
    pub fn number(&self, key: &str) -> Result<Option<u64>, Failure> {
        match self.get(key) {
            None | Some("") => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|error| {
                Failure::bad_request(format!("parameter {key}: `{text}`: {error}"))
            }),
        }
    }

    /// The name, if a field selector allows exactly one.
    fn one_name(&self) -> Option<String> {
        self.get("fieldSelector")?
            .split(',')
            .filter_map(|term| term.strip_prefix("metadata.name="))
            .map(|name| name.trim_start_matches('=').to_owned())
            .find(|name| !name.is_empty())
    }
}

/// The verb of RBAC for a path that is not of objects.
fn path_verb(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" | "HEAD" => "get",
        "POST" => "post",
        "PUT" => "put",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "",
    }
}

/// Undoes percent encoding (RFC 3986 2.1), and in a query `+` for a space.
fn decode(text: &str, plus_is_space: bool) -> Result<Cow<'_, str>, Failure> {
    if !text.contains(['%', '+']) {
        return Ok(Cow::Borrowed(text));
    }
    let malformed =
        |why: &str| Failure::bad_request(format!("`{text}` is not a valid part of a URL: {why}"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let mut digit = || {
                    let byte = rest.next()?;
                    char::from(byte).to_digit(16)
                };
                let (high, low) = digit()
                    .zip(digit())
                    .ok_or_else(|| malformed("`%` without two hexadecimal digits"))?;
                let value = u8::try_from(high * 16 + low);
                bytes.push(value.map_err(|error| malformed(&error.to_string()))?);
            }
            b'+' if plus_is_space => bytes.push(b' '),
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes)
        .map(Cow::Owned)
        .map_err(|error| malformed(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(method: &str, uri: &str) -> Call {
        Call::parse(&method.parse().unwrap(), &uri.parse().unwrap()).unwrap()
    }

    fn place(call: &Call) -> &Place {
        match &call.target {
            Target::Objects(place) => place,
            Target::Path(path) => panic!("path {path}"),
        }
    }

    #[test]
    fn objects_of_a_namespace_are_found_in_the_path() {
        let call = call(
            "GET",
            "/apis/networking.istio.io/v1/namespaces/shop/virtualservices/reviews",
        );
        assert_eq!(call.verb, "get");
        let place = place(&call);
        assert_eq!(place.group, "networking.istio.io");
        assert_eq!(place.resource, "virtualservices");
        assert_eq!(place.namespace.as_deref(), Some("shop"));
        assert_eq!(place.name.as_deref(), Some("reviews"));
    }

    #[test]
    fn a_namespace_is_an_object_without_namespace() {
        let call = call("PUT", "/api/v1/namespaces/shop/status");
        let place = place(&call);
        assert_eq!(place.resource, "namespaces");
        assert_eq!(place.namespace, None);
        assert_eq!(place.name.as_deref(), Some("shop"));
        assert_eq!(place.subresource.as_deref(), Some("status"));
    }

    #[test]
    fn a_list_of_one_name_is_authorized_by_that_name() {
        let call = call(
            "GET",
            "/api/v1/namespaces/mesh-system/configmaps?watch=true&fieldSelector=metadata.name%3Dmesh",
        );
        assert_eq!(call.verb, "watch");
        assert_eq!(place(&call).name.as_deref(), Some("mesh"));
    }

    #[test]
    fn a_slash_inside_a_name_stays_inside() {
        let call = call("GET", "/api/v1/namespaces/a%2Fb/configmaps");
        assert_eq!(place(&call).namespace.as_deref(), Some("a/b"));
    }

    #[test]
    fn a_broken_escape_is_refused() {
        for path in ["/api/v1/%", "/api/v1/%f", "/api/v1/%zz", "/api/v1/%ff"] {
            let failure = Call::parse(&Method::GET, &path.parse().unwrap()).unwrap_err();
            assert_eq!(failure.code, http::StatusCode::BAD_REQUEST, "{path}");
        }
    }

    #[test]
    fn discovery_is_a_path() {
        let call = call("GET", "/apis/networking.istio.io/v1");
        assert_eq!(
            call.target,
            Target::Path("/apis/networking.istio.io/v1".to_owned())
        );
    }
}
