//! Real handshakes on loopback: who is accepted, who is refused, and that slow ones delay nobody.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use mesh_model::SpiffeId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::StreamExt as _;

use super::*;
use crate::testing::{Authority, Leaf};
use crate::transport::{HandshakeLimits, TlsIncoming};
use crate::{Chain, CredentialStore, Credentials, Key};

const SERVER: &str = "spiffe://cluster.local/ns/mesh-system/sa/pilot";
const OTHER: &str = "spiffe://cluster.local/ns/mesh-system/sa/mixer";
const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/web";

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

/// Credentials of any leaf, with the bundle of its authority.
fn credentials(authority: &Authority, leaf: &Leaf) -> Credentials {
    let key = Key::generate().unwrap();
    let chain = authority.sign(&key.public_key(), leaf);
    Credentials::new(key, chain, authority.bundle()).unwrap()
}

fn store(authority: &Authority, leaf: &Leaf) -> CredentialStore {
    CredentialStore::new(credentials(authority, leaf))
}

fn anonymous(authority: &Authority) -> ClientTls {
    ClientTls::anonymous(Trust::Roots(authority.bundle()), id(SERVER))
}

fn user_tls(users: &Authority, leaf: &Leaf, mesh: &Authority) -> ClientTls {
    let key = Key::generate().unwrap();
    let chain = users.sign(&key.public_key(), leaf);
    ClientTls::user(key, &chain, mesh.bundle(), id(SERVER))
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// One connection from `client` to `server`, with a byte back from the server: only then has the
/// client learnt what the server thinks of its certificate.
async fn meet(server: ServerTls, client: ClientTls) -> (Result<Peer, String>, Result<(), String>) {
    let (listener, address) = listen().await;
    let serve = async {
        let (stream, from) = listener.accept().await.unwrap();
        match server.accept(stream, from).await {
            Ok((mut stream, connection)) => {
                stream.write_all(b"!").await.unwrap();
                stream.flush().await.unwrap();
                Ok(connection.peer)
            }
            Err(error) => Err(text(&error)),
        }
    };
    let call = async {
        let mut stream = client
            .connect(address)
            .await
            .map_err(|error| text(&error))?;
        stream.read_u8().await.map_err(|error| text(&error))?;
        Ok(())
    };
    tokio::join!(serve, call)
}

fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(result: &Result<T, String>, because: &str) {
    let error = result.as_ref().unwrap_err();
    assert!(error.contains(because), "`{because}` is not in `{error}`");
}

#[tokio::test]
async fn workloads_of_one_mesh_know_each_other() {
    let mesh = Authority::new();
    let server = ServerTls::new(mesh.store(SERVER), Clients::Workloads);
    let client = ClientTls::mutual(mesh.store(CLIENT), id(SERVER));
    let (peer, call) = meet(server, client).await;
    assert_eq!(peer, Ok(Peer::Workload(id(CLIENT))));
    assert_eq!(call, Ok(()));
}

#[tokio::test]
async fn a_server_of_another_identity_is_refused() {
    let mesh = Authority::new();
    let server = ServerTls::new(mesh.store(OTHER), Clients::Workloads);
    let client = ClientTls::mutual(mesh.store(CLIENT), id(SERVER));
    let (_, call) = meet(server, client).await;
    assert_refused(
        &call,
        "sa/mixer`, expected `spiffe://cluster.local/ns/mesh-system/sa/pilot`",
    );
}

#[tokio::test]
async fn a_server_of_another_root_is_refused() {
    let (mesh, stranger) = (Authority::new(), Authority::new());
    let server = ServerTls::new(stranger.store(SERVER), Clients::Anybody { users: None });
    let (_, call) = meet(server, anonymous(&mesh)).await;
    assert_refused(&call, "UnknownIssuer");
}

#[tokio::test]
async fn an_expired_server_is_refused() {
    let mesh = Authority::new();
    let leaf = Leaf {
        not_before: SystemTime::now() - Duration::from_secs(7200),
        not_after: SystemTime::now() - Duration::from_secs(3600),
        ..Leaf::of(SERVER)
    };
    let server = ServerTls::new(store(&mesh, &leaf), Clients::Anybody { users: None });
    let (_, call) = meet(server, anonymous(&mesh)).await;
    assert_refused(&call, "certificate expired");
}

#[tokio::test]
async fn a_dns_name_is_no_identity() {
    let mesh = Authority::new();
    let key = Key::generate().unwrap();
    // Credentials refuse such a leaf at once; a foreign server is imitated with rustls itself.
    let leaf = Leaf {
        dns: vec!["pilot.mesh-system.mesh".to_owned()],
        ..Leaf::default()
    };
    let chain = mesh.sign(&key.public_key(), &leaf);
    let call = call_raw_server(&key, &chain, anonymous(&mesh)).await;
    assert_refused(&call, "0 URI SANs");
}

#[tokio::test]
async fn a_server_of_two_identities_is_refused() {
    let mesh = Authority::new();
    let key = Key::generate().unwrap();
    let leaf = Leaf {
        uris: vec![SERVER.to_owned(), OTHER.to_owned()],
        ..Leaf::default()
    };
    let chain = mesh.sign(&key.public_key(), &leaf);
    let call = call_raw_server(&key, &chain, anonymous(&mesh)).await;
    assert_refused(&call, "2 URI SANs");
}

#[tokio::test]
async fn a_certificate_for_clients_only_serves_nobody() {
    let mesh = Authority::new();
    let leaf = Leaf {
        server: false,
        ..Leaf::of(SERVER)
    };
    let server = ServerTls::new(store(&mesh, &leaf), Clients::Anybody { users: None });
    let (_, call) = meet(server, anonymous(&mesh)).await;
    assert_refused(&call, "extended key usage");
}

/// A TLS server without any check of ours before it sends `chain`.
async fn call_raw_server(key: &Key, chain: &Chain, client: ClientTls) -> Result<(), String> {
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            chain.iter().map(|one| one.der().clone()).collect(),
            key.to_der(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let (listener, address) = listen().await;
    let serve = async {
        let (stream, _) = listener.accept().await.unwrap();
        acceptor.accept(stream).await.is_ok()
    };
    let call = async {
        let connected = client.connect(address).await;
        connected.map(|_| ()).map_err(|error| text(&error))
    };
    let (_, call) = tokio::join!(serve, call);
    call
}

#[tokio::test]
async fn the_first_contact_pins_the_root() {
    let mesh = Authority::new();
    let server = ServerTls::new(mesh.store(SERVER), Clients::Anybody { users: None });
    let pins = mesh.bundle().fingerprints();
    let client = ClientTls::anonymous(Trust::Pinned(pins), id(SERVER));

    let (peer, call) = meet(server.clone().sending_roots(), client.clone()).await;
    assert_eq!((peer, call), (Ok(Peer::None), Ok(())));

    let (_, call) = meet(server, client).await;
    assert_refused(&call, "is a pinned root");
}

#[tokio::test]
async fn another_root_is_not_the_pinned_one() {
    let (mesh, stranger) = (Authority::new(), Authority::new());
    let server = ServerTls::new(stranger.store(SERVER), Clients::Anybody { users: None });
    let pins = mesh.bundle().fingerprints();
    let client = ClientTls::anonymous(Trust::Pinned(pins), id(SERVER));
    let (_, call) = meet(server.sending_roots(), client).await;
    assert_refused(&call, "is a pinned root");
}

#[tokio::test]
async fn a_pinned_root_beside_a_foreign_chain_proves_nothing() {
    let (mesh, stranger) = (Authority::new(), Authority::new());
    let key = Key::generate().unwrap();
    let leaf = stranger.sign(&key.public_key(), &Leaf::of(SERVER));
    let forged = Chain::new(leaf.leaf().clone(), vec![mesh.root().clone()]);
    let pins = mesh.bundle().fingerprints();
    let client = ClientTls::anonymous(Trust::Pinned(pins), id(SERVER));
    let call = call_raw_server(&key, &forged, client).await;
    assert_refused(&call, "UnknownIssuer");
}

#[tokio::test]
async fn a_pinned_leaf_is_no_root() {
    let (mesh, stranger) = (Authority::new(), Authority::new());
    let key = Key::generate().unwrap();
    let chain = stranger.sign(&key.public_key(), &Leaf::of(SERVER));
    let pins = vec![chain.leaf().fingerprint(), mesh.root().fingerprint()];
    let client = ClientTls::anonymous(Trust::Pinned(pins), id(SERVER));
    let call = call_raw_server(&key, &chain, client).await;
    assert_refused(&call, "is a pinned root");
}

#[tokio::test]
async fn a_workload_without_certificate_is_refused_where_one_is_required() {
    let mesh = Authority::new();
    let server = ServerTls::new(mesh.store(SERVER), Clients::Workloads);
    let (peer, call) = meet(server, anonymous(&mesh)).await;
    assert_refused(&peer, "no certificates");
    assert!(call.is_err());
}

#[tokio::test]
async fn clients_that_do_not_verify_are_refused_even_where_none_is_required() {
    let (mesh, stranger) = (Authority::new(), Authority::new());
    let past = Leaf {
        not_before: SystemTime::now() - Duration::from_secs(7200),
        not_after: SystemTime::now() - Duration::from_secs(3600),
        ..Leaf::of(CLIENT)
    };
    let servers_only = Leaf {
        client: false,
        ..Leaf::of(CLIENT)
    };
    let abroad = Leaf::of("spiffe://elsewhere/ns/shop/sa/web");
    let cases = [
        (&stranger, Leaf::of(CLIENT), "UnknownIssuer"),
        (&mesh, past, "certificate expired"),
        (&mesh, servers_only, "extended key usage"),
        (&mesh, abroad, "expected trust domain `cluster.local`"),
    ];
    for (authority, leaf, because) in cases {
        let server = ServerTls::new(mesh.store(SERVER), Clients::Anybody { users: None });
        let own = credentials(authority, &leaf);
        // The client believes the mesh, whoever signed for itself.
        let own = Credentials::new(own.key().clone(), own.chain().clone(), mesh.bundle()).unwrap();
        let client = ClientTls::mutual(CredentialStore::new(own), id(SERVER));
        let (peer, _) = meet(server, client).await;
        assert_refused(&peer, because);
    }
}

#[tokio::test]
async fn a_client_of_two_identities_is_refused() {
    let mesh = Authority::new();
    let leaf = Leaf {
        uris: vec![CLIENT.to_owned(), OTHER.to_owned()],
        ..Leaf::default()
    };
    let server = ServerTls::new(mesh.store(SERVER), Clients::Workloads);
    let (peer, _) = meet(server, user_tls(&mesh, &leaf, &mesh)).await;
    assert_refused(&peer, "2 URI SANs");
}

#[tokio::test]
async fn users_are_known_by_the_roots_of_their_ca() {
    let (mesh, api) = (Authority::new(), Authority::new());
    let clients = Clients::Anybody {
        users: Some(api.bundle()),
    };
    let server = ServerTls::new(mesh.store(SERVER), clients);

    let alice = Leaf::of_user("alice", &["developers"]);
    let (peer, call) = meet(server.clone(), user_tls(&api, &alice, &mesh)).await;
    let expected = Peer::User {
        name: "alice".to_owned(),
        groups: vec!["developers".to_owned()],
    };
    assert_eq!((peer, call), (Ok(expected), Ok(())));

    // The mesh's CA makes nobody a user, and the API's makes nobody a workload.
    let (peer, _) = meet(server.clone(), user_tls(&mesh, &alice, &mesh)).await;
    assert_refused(&peer, "0 URI SANs");
    let posing = Leaf {
        uris: vec![CLIENT.to_owned()],
        ..Leaf::of_user("mallory", &[])
    };
    let (peer, _) = meet(server.clone(), user_tls(&api, &posing, &mesh)).await;
    let mallory = Peer::User {
        name: "mallory".to_owned(),
        groups: Vec::new(),
    };
    assert_eq!(peer, Ok(mallory));

    let nameless = Leaf {
        server: false,
        ..Leaf::default()
    };
    let (peer, _) = meet(server, user_tls(&api, &nameless, &mesh)).await;
    assert_refused(&peer, "0 common names");
}

#[tokio::test]
async fn users_are_nobody_where_none_are_expected() {
    let (mesh, api) = (Authority::new(), Authority::new());
    let server = ServerTls::new(mesh.store(SERVER), Clients::Anybody { users: None });
    let alice = Leaf::of_user("alice", &[]);
    let (peer, _) = meet(server, user_tls(&api, &alice, &mesh)).await;
    assert_refused(&peer, "UnknownIssuer");
}

#[tokio::test]
async fn each_handshake_reads_the_current_credentials() {
    let (old, new) = (Authority::new(), Authority::new());
    let at_server = old.store(SERVER);
    let server = ServerTls::new(at_server.clone(), Clients::Anybody { users: None });
    let (_, call) = meet(server.clone(), anonymous(&old)).await;
    assert_eq!(call, Ok(()));

    at_server.publish(new.credentials(SERVER));
    let (_, call) = meet(server.clone(), anonymous(&new)).await;
    assert_eq!(call, Ok(()));
    let (_, call) = meet(server, anonymous(&old)).await;
    assert_refused(&call, "UnknownIssuer");
}

#[tokio::test]
async fn one_listener_serves_several_identities() {
    let mesh = Authority::new();
    let later = CredentialStore::empty();
    let stores = vec![mesh.store(SERVER), later.clone()];
    let server = ServerTls::several(stores, Clients::Anybody { users: None });
    let mixer = ClientTls::anonymous(Trust::Roots(mesh.bundle()), id(OTHER));

    let (_, call) = meet(server.clone(), anonymous(&mesh)).await;
    assert_eq!(call, Ok(()));
    // Not there yet: the first one is not shown in its place.
    let (met, _) = meet(server.clone(), mixer.clone()).await;
    assert_refused(&met, "no identity is called `mixer.mesh-system.mesh` here");

    later.publish(mesh.credentials(OTHER));
    let (_, call) = meet(server, mixer).await;
    assert_eq!(call, Ok(()));
}

#[tokio::test]
async fn plaintext_is_refused() {
    let mesh = Authority::new();
    let server = ServerTls::new(mesh.store(SERVER), Clients::Anybody { users: None });
    let (listener, address) = listen().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    let (accepted, from) = listener.accept().await.unwrap();
    let met = server.accept(accepted, from).await;
    assert!(matches!(met, Err(TlsError::Handshake { .. })));
}

#[tokio::test]
async fn half_open_handshakes_delay_nobody() {
    let mesh = Authority::new();
    let (listener, address) = listen().await;
    let server = ServerTls::new(mesh.store(SERVER), Clients::Anybody { users: None });
    let limits = HandshakeLimits {
        timeout: Duration::from_secs(600),
        concurrent: 4,
        patience: Duration::ZERO,
    };
    let mut incoming = TlsIncoming::new(listener, server, limits);
    // More silent connections than there is room for.
    let mut silent = Vec::new();
    for _ in 0..16 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let client = anonymous(&mesh);
    let (met, called) = tokio::join!(incoming.next(), client.connect(address));
    assert_eq!(met.unwrap().unwrap().connection().peer, Peer::None);
    assert!(called.is_ok());

    // The oldest gave way: its connection ends, though its time was not up.
    let mut oldest = silent.remove(0);
    assert_eq!(oldest.read(&mut [0; 1]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_is_closed() {
    let mesh = Authority::new();
    let (listener, address) = listen().await;
    let server = ServerTls::new(mesh.store(SERVER), Clients::Anybody { users: None });
    let limits = HandshakeLimits {
        timeout: Duration::from_millis(20),
        ..HandshakeLimits::default()
    };
    let _incoming = TlsIncoming::new(listener, server, limits);
    let mut silent = TcpStream::connect(address).await.unwrap();
    assert_eq!(silent.read(&mut [0; 1]).await.unwrap_or(0), 0);
}
