//! Delta responses on the wire: prepared bytes, copied once.

use mesh_proto::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use prost::bytes::BufMut as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic_prost::ProstDecoder;

use crate::pilot::session::Response;

/// Encodes [`Response`]s as `DeltaDiscoveryResponse`, decodes `DeltaDiscoveryRequest`s.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DeltaCodec;

/// The encoding half.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ResponseEncoder;

impl Codec for DeltaCodec {
    type Encode = Response;
    type Decode = DeltaDiscoveryRequest;
    type Encoder = ResponseEncoder;
    type Decoder = ProstDecoder<DeltaDiscoveryRequest>;

    fn encoder(&mut self) -> ResponseEncoder {
        ResponseEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(BufferSettings::default())
    }
}

impl Encoder for ResponseEncoder {
    type Item = Response;
    type Error = Status;

    fn encode(&mut self, response: Response, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(length(&response));
        for entry in &response.entries {
            buffer.put_slice(entry);
        }
        put_text(TYPE_URL, &response.type_url, buffer);
        put_text(NONCE, &response.nonce, buffer);
        for name in &response.removed {
            put_text(REMOVED_RESOURCES, name, buffer);
        }
        Ok(())
    }
}

/// Bytes of a response on the wire.
fn length(response: &Response) -> usize {
    let text =
        |field, text: &str| key_len(field) + encoded_len_varint(text.len() as u64) + text.len();
    let entries = response.entries.iter().map(bytes::Bytes::len);
    let removed = response.removed.iter();
    entries
        .chain(removed.map(|name| text(REMOVED_RESOURCES, name)))
        .sum::<usize>()
        + text(TYPE_URL, &response.type_url)
        + text(NONCE, &response.nonce)
}

fn put_text(field: u32, text: &str, buffer: &mut EncodeBuf<'_>) {
    encode_key(field, WireType::LengthDelimited, buffer);
    encode_varint(text.len() as u64, buffer);
    buffer.put_slice(text.as_bytes());
}

// Fields of `envoy.service.discovery.v3.DeltaDiscoveryResponse`; resources are its field 2.
const TYPE_URL: u32 = 4;
const NONCE: u32 = 5;
const REMOVED_RESOURCES: u32 = 6;
