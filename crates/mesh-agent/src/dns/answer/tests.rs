//! Each form of a name, each kind of answer, and bytes that are no query.

use hickory_proto::rr::Name;
use proptest::prelude::*;

use super::*;

fn table() -> NameTable {
    NameTable::of(&[
        ("reviews.shop.mesh", &["240.240.0.1", "fd00::1"]),
        ("ratings.other.mesh", &["240.240.0.2"]),
        ("api.example.com", &["240.240.0.3"]),
        ("*.wild.example.com", &["240.240.0.4"]),
    ])
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn ask(name: &str, kind: RecordType) -> Decision {
    let bytes = query(name, kind).to_vec().unwrap();
    decide(&table(), "shop", Transport::Udp, &bytes)
}

fn answer(name: &str, kind: RecordType) -> Message {
    match ask(name, kind) {
        Decision::Answer(bytes) => Message::from_vec(&bytes).unwrap(),
        other => panic!("{name}: {other:?}"),
    }
}

fn addresses(message: &Message) -> Vec<String> {
    let data = message.answers.iter().map(|record| record.data.to_string());
    data.collect()
}

#[test]
fn a_host_is_found_in_every_form() {
    for name in [
        "reviews.",
        "REVIEWS.",
        "reviews.shop.",
        "Reviews.Shop.Mesh.",
        "reviews.shop.svc.",
        "reviews.shop.svc.cluster.local.",
        "reviews.shop.mesh.shop.mesh.",
        "reviews.shop.shop.mesh.",
        "reviews.shop.shop.svc.cluster.local.",
        "reviews.shop.mesh.svc.cluster.local.",
        "reviews.shop.mesh.cluster.local.",
    ] {
        let message = answer(name, RecordType::A);
        assert_eq!(addresses(&message), ["240.240.0.1"], "{name}");
        assert_eq!(message.metadata.id, 7);
        assert!(message.metadata.recursion_desired);
        // The question comes back as it was asked, letter for letter.
        assert_eq!(message.queries[0].name().to_ascii(), name);
        assert_eq!(message.answers[0].name.to_ascii(), name);
    }
}

#[test]
fn a_host_of_another_namespace_needs_its_namespace() {
    assert_eq!(ask("ratings.", RecordType::A), Decision::Forward);
    for name in [
        "ratings.other.",
        "ratings.other.mesh.",
        "ratings.other.shop.mesh.",
    ] {
        assert_eq!(
            addresses(&answer(name, RecordType::A)),
            ["240.240.0.2"],
            "{name}"
        );
    }
}

#[test]
fn each_family_has_its_own_answer() {
    assert_eq!(
        addresses(&answer("reviews.", RecordType::AAAA)),
        ["fd00::1"]
    );
    let none = answer("ratings.other.mesh.", RecordType::AAAA);
    assert_eq!(addresses(&none), [""; 0]);
    assert_eq!(none.metadata.response_code, ResponseCode::NoError);
}

#[test]
fn another_type_of_a_mesh_name_has_no_data() {
    for kind in [
        RecordType::TXT,
        RecordType::HTTPS,
        RecordType::SRV,
        RecordType::ANY,
    ] {
        let message = answer("reviews.shop.mesh.", kind);
        assert_eq!(message.metadata.response_code, ResponseCode::NoError);
        assert!(message.answers.is_empty());
    }
}

#[test]
fn an_unknown_name_of_the_mesh_does_not_exist() {
    for name in ["nobody.shop.mesh.", "mesh.", "x.y.svc.cluster.local."] {
        let message = answer(name, RecordType::A);
        assert_eq!(
            message.metadata.response_code,
            ResponseCode::NXDomain,
            "{name}"
        );
    }
}

#[test]
fn before_the_table_came_nothing_is_said_not_to_exist() {
    let bytes = query("reviews.shop.mesh.", RecordType::A).to_vec().unwrap();
    let decision = decide(&NameTable::default(), "shop", Transport::Udp, &bytes);
    let Decision::Answer(bytes) = decision else {
        panic!("{decision:?}");
    };
    let message = Message::from_vec(&bytes).unwrap();
    assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
}

#[test]
fn the_rest_is_forwarded() {
    for name in ["example.com.", ".", "localhost.", "notmesh.", "a.b.c."] {
        assert_eq!(ask(name, RecordType::A), Decision::Forward, "{name}");
    }
}

#[test]
fn service_entries_are_answered_with_their_wildcards() {
    assert_eq!(
        addresses(&answer("api.example.com.", RecordType::A)),
        ["240.240.0.3"]
    );
    assert_eq!(
        addresses(&answer("a.wild.example.com.", RecordType::A)),
        ["240.240.0.4"]
    );
    assert_eq!(ask("wild.example.com.", RecordType::A), Decision::Forward);
}

#[test]
fn edns_is_answered_with_edns() {
    let mut message = query("reviews.", RecordType::A);
    message.set_edns(Edns::new());
    let bytes = message.to_vec().unwrap();
    let Decision::Answer(bytes) = decide(&table(), "shop", Transport::Udp, &bytes) else {
        panic!("no answer");
    };
    assert!(Message::from_vec(&bytes).unwrap().edns.is_some());
    assert!(answer("reviews.", RecordType::A).edns.is_none());
}

#[test]
fn an_answer_too_long_for_a_datagram_is_truncated() {
    let many: Vec<String> = (0..100).map(|host| format!("240.240.1.{host}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let table = NameTable::of(&[("reviews.shop.mesh", &many)]);
    let bytes = query("reviews.", RecordType::A).to_vec().unwrap();
    for (transport, truncated) in [(Transport::Udp, true), (Transport::Tcp, false)] {
        let Decision::Answer(bytes) = decide(&table, "shop", transport, &bytes) else {
            panic!("no answer");
        };
        let message = Message::from_vec(&bytes).unwrap();
        assert_eq!(message.metadata.truncation, truncated);
        assert_eq!(message.answers.is_empty(), truncated);
    }
}

#[test]
fn what_is_no_query_is_answered_shortly_or_not_at_all() {
    let mut response = query("reviews.", RecordType::A);
    response.metadata.message_type = MessageType::Response;
    let decision =
        |message: &Message| decide(&table(), "shop", Transport::Udp, &message.to_vec().unwrap());
    assert_eq!(decision(&response), Decision::Drop);
    let mut update = query("reviews.", RecordType::A);
    update.metadata.op_code = OpCode::Update;
    let mut two = query("reviews.", RecordType::A);
    two.add_query(two.queries[0].clone());
    for (message, code) in [(update, ResponseCode::NotImp), (two, ResponseCode::FormErr)] {
        let Decision::Answer(bytes) = decision(&message) else {
            panic!("no answer");
        };
        let message = Message::from_vec(&bytes).unwrap();
        assert_eq!(message.metadata.response_code, code);
    }
    assert_eq!(
        decide(&table(), "shop", Transport::Udp, b"short"),
        Decision::Drop
    );
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _decision = decide(&table(), "shop", Transport::Udp, &bytes);
        drop(failure(&bytes, ResponseCode::ServFail));
        prop_assert!(payload(&bytes) >= 512);
    }

    #[test]
    fn a_damaged_query_never_panics(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut message = query("reviews.shop.mesh.", RecordType::A);
        message.set_edns(Edns::new());
        let mut bytes = message.to_vec().unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let length = cut.index(bytes.len() + 1);
        let _decision = decide(&table(), "shop", Transport::Udp, &bytes[..length]);
    }
}
