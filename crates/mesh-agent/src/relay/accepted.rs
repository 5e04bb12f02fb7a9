//! The last configuration that Envoy accepted, by type, and its form on disk.
//!
//! Resources are kept as they came in the envelope of delta xDS; nothing here looks into one.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mesh_proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource};
use prost::Message as _;
use xxhash_rust::xxh3::xxh3_64;

/// What was accepted, by type URL.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Accepted(pub(super) BTreeMap<String, AcceptedType>);

/// What was accepted of one type; that it is there says that an answer was accepted at all.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct AcceptedType {
    /// By name.
    pub(super) resources: BTreeMap<String, Resource>,
    /// Names that Envoy asked for and Pilot said do not exist.
    pub(super) absent: BTreeSet<String>,
}

/// Why bytes are not a stored configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum DecodeError {
    /// Not a file of ours, or of another layout.
    #[error("the file does not begin with `{}`", String::from_utf8_lossy(MAGIC))]
    Foreign,
    /// Cut off or changed.
    #[error("the checksum is {found:016x}, expected {expected:016x}")]
    Checksum {
        /// Of the content.
        found: u64,
        /// In the file's head.
        expected: u64,
    },
    /// The checksum holds, the content is none of ours.
    #[error("the content cannot be decoded")]
    Content(#[source] prost::DecodeError),
    /// Of another workload, whose directory this was.
    #[error("it belongs to `{found}`, expected `{expected}`")]
    OtherOwner {
        /// In the file.
        found: String,
        /// This workload.
        expected: String,
    },
}

/// The content of the file, after magic and checksum.
#[derive(Clone, PartialEq, prost::Message)]
struct Content {
    /// Whose configuration it is.
    #[prost(string, tag = "1")]
    owner: String,
    /// One for each type: its resources, and absent names as the removed ones.
    #[prost(message, repeated, tag = "2")]
    types: Vec<DeltaDiscoveryResponse>,
}

impl Accepted {
    /// The resources of a type, by name.
    pub(crate) fn resources<'a>(
        &'a self,
        type_url: &str,
    ) -> impl Iterator<Item = &'a Resource> + use<'a> {
        self.0
            .get(type_url)
            .into_iter()
            .flat_map(|accepted| accepted.resources.values())
    }

    /// The form on disk: magic, checksum, content.
    pub(crate) fn encode(&self, owner: &str) -> Vec<u8> {
        // Keys of gateways stay in memory: the API keeps them, and its rules say who may read them.
        let types = self
            .0
            .iter()
            .filter(|(type_url, _)| *type_url != SECRET_URL);
        let types = types
            .map(|(type_url, accepted)| DeltaDiscoveryResponse {
                type_url: type_url.clone(),
                resources: accepted.resources.values().cloned().collect(),
                removed_resources: accepted.absent.iter().cloned().collect(),
                ..Default::default()
            })
            .collect();
        let content = Content {
            owner: owner.to_owned(),
            types,
        }
        .encode_to_vec();
        let mut file = Vec::with_capacity(HEAD + content.len());
        file.extend_from_slice(MAGIC);
        file.extend_from_slice(&xxh3_64(&content).to_le_bytes());
        file.extend_from_slice(&content);
        file
    }

    /// Reads what [`Self::encode`] wrote for the same owner.
    pub(crate) fn decode(owner: &str, file: &[u8]) -> Result<Self, DecodeError> {
        let rest = file.strip_prefix(MAGIC).ok_or(DecodeError::Foreign)?;
        let (checksum, content) = rest.split_first_chunk::<8>().ok_or(DecodeError::Foreign)?;
        let (expected, found) = (u64::from_le_bytes(*checksum), xxh3_64(content));
        if found != expected {
            return Err(DecodeError::Checksum { found, expected });
        }
        let content = Content::decode(content).map_err(DecodeError::Content)?;
        if content.owner != owner {
            return Err(DecodeError::OtherOwner {
                found: content.owner,
                expected: owner.to_owned(),
            });
        }
        let of_type = |response: DeltaDiscoveryResponse| {
            let accepted = AcceptedType {
                resources: response
                    .resources
                    .into_iter()
                    .map(|resource| (resource.name.clone(), resource))
                    .collect(),
                absent: response.removed_resources.into_iter().collect(),
            };
            (response.type_url, accepted)
        };
        Ok(Self(content.types.into_iter().map(of_type).collect()))
    }
}

impl AcceptedType {
    /// Takes a resource in; its bytes are copied, so that one resource does not keep alive
    /// the whole network buffer in which it arrived.
    pub(super) fn insert(&mut self, mut resource: Resource) {
        if let Some(any) = &mut resource.resource {
            any.value = Bytes::copy_from_slice(&any.value);
        }
        self.absent.remove(&resource.name);
        self.resources.insert(resource.name.clone(), resource);
    }
}

/// The type of certificates and keys.
const SECRET_URL: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// Begins the file; the last digit is the layout's version.
const MAGIC: &[u8; 8] = b"meshads1";
/// Bytes before the content: magic and checksum.
const HEAD: usize = 16;

#[cfg(test)]
mod tests {
    use mesh_proto::google::protobuf::Any;
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Accepted {
        let mut one = AcceptedType::default();
        one.insert(Resource {
            name: "a".to_owned(),
            version: "1".to_owned(),
            resource: Some(Any {
                type_url: "t".to_owned(),
                value: Bytes::from_static(b"opaque"),
            }),
            ..Default::default()
        });
        one.absent.insert("gone".to_owned());
        Accepted(BTreeMap::from([
            ("t".to_owned(), one),
            ("empty".to_owned(), AcceptedType::default()),
        ]))
    }

    #[test]
    fn what_was_written_is_read_back() {
        let accepted = sample();
        let file = accepted.encode("shop/web-1");
        assert_eq!(Accepted::decode("shop/web-1", &file).unwrap(), accepted);
    }

    #[test]
    fn keys_never_reach_the_disk() {
        let mut accepted = sample();
        let mut secrets = AcceptedType::default();
        secrets.insert(Resource {
            name: "certificate/shop".to_owned(),
            resource: Some(Any {
                type_url: SECRET_URL.to_owned(),
                value: Bytes::from_static(b"PRIVATE KEY"),
            }),
            ..Default::default()
        });
        accepted.0.insert(SECRET_URL.to_owned(), secrets);
        let file = accepted.encode("x");
        assert!(!file.windows(11).any(|window| window == b"PRIVATE KEY"));
        assert_eq!(Accepted::decode("x", &file).unwrap(), sample());
    }

    #[test]
    fn the_file_of_another_workload_is_refused() {
        let file = sample().encode("shop/web-1");
        let error = Accepted::decode("shop/web-2", &file).unwrap_err();
        assert!(matches!(error, DecodeError::OtherOwner { .. }), "{error}");
    }

    #[test]
    fn a_file_cut_anywhere_is_refused() {
        let file = sample().encode("x");
        for length in 0..file.len() {
            assert!(
                Accepted::decode("x", &file[..length]).is_err(),
                "cut at {length}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_changed_byte_is_noticed(at in any::<prop::sample::Index>(), flip in 1_u8..) {
            let mut file = sample().encode("x");
            let at = at.index(file.len());
            file[at] ^= flip;
            prop_assert!(Accepted::decode("x", &file).is_err());
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut file = MAGIC.to_vec();
            file.extend_from_slice(&xxh3_64(&bytes).to_le_bytes());
            file.extend_from_slice(&bytes);
            drop(Accepted::decode("x", &file));
            drop(Accepted::decode("x", &bytes));
        }
    }
}
