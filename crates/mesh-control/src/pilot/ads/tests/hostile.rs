//! Bytes that are no request, sent where requests are expected.

use bytes::{Buf as _, BufMut as _, Bytes};
use tokio_stream::StreamExt as _;
use tonic::client::Grpc as Client;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use super::*;

/// Sends bytes as they are, and takes whatever comes.
#[derive(Clone, Copy, Debug, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// How a stream ends on which these messages are sent.
async fn end_of(world: &World, messages: Vec<Bytes>) -> Status {
    let ended = timeout(Duration::from_secs(20), ended(world, messages));
    ended.await.expect("the stream ends")
}

async fn ended(world: &World, messages: Vec<Bytes>) -> Status {
    let mut client = Client::new(world.dialer.channel(&web()));
    client.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static(DELTA_PATH);
    // It stays open after the last message: the server ends it, or nobody.
    let messages = tokio_stream::iter(messages).chain(tokio_stream::pending());
    let answers = client.streaming(Request::new(messages), path, Raw).await;
    let mut answers = match answers {
        Ok(answers) => answers.into_inner(),
        Err(status) => return status,
    };
    loop {
        match answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return Status::ok("the server ended it"),
            Err(status) => return status,
        }
    }
}

/// A first message as a proxy sends it.
fn hello(node: &str) -> Bytes {
    let request = DeltaDiscoveryRequest {
        node: Some(Node {
            id: node.to_owned(),
            ..Node::default()
        }),
        type_url: ResourceType::Cluster.url().to_owned(),
        ..DeltaDiscoveryRequest::default()
    };
    prost::Message::encode_to_vec(&request).into()
}

#[tokio::test]
async fn bytes_that_are_no_request_end_their_stream_and_no_other() {
    let world = World::new();
    let _agent = world.register("default/web-1").await;
    let mut proxy = world.connect("default/web-1", Held::default()).await;
    world.publish("default/web-1", 3, 1, 10);
    proxy.until(has_all(3)).await.unwrap();

    // A field that never ends, a length beyond the message, a wire type that is none, bytes of text.
    let damaged: [&[u8]; 4] = [
        &[0xff; 20],
        &[0x0a, 0x7f, 1],
        &[0x0f, 1, 2],
        b"GET / HTTP/1.1",
    ];
    for bytes in damaged {
        let bytes = Bytes::from_static(bytes);
        let first = end_of(&world, vec![bytes.clone()]).await;
        assert_eq!(first.code(), Code::Internal, "{first}");
        let later = end_of(&world, vec![hello("default/web-1"), bytes]).await;
        assert_eq!(later.code(), Code::Internal, "{later}");
    }
    for node in ["", "a b", "default/web-1\n", &"a/".repeat(500)] {
        let refused = end_of(&world, vec![hello(node)]).await;
        assert_eq!(refused.code(), Code::InvalidArgument, "{node}: {refused}");
        assert!(refused.message().starts_with("node.id: "), "{refused}");
    }
    let large = Bytes::from(vec![0; MAX_REQUEST + 1]);
    let refused = end_of(&world, vec![hello("default/web-1"), large]).await;
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");

    world.publish("default/web-1", 5, 2, 10);
    proxy.until(has_all(5)).await.unwrap();
}
