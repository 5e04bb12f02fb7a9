//! Hostile input: a clear error, nothing stored, and the server goes on.

use proptest::prelude::*;

use super::*;

#[tokio::test]
async fn what_is_no_object_is_refused_and_not_stored() {
    let world = World::new().await;
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    let deep_map = format!("{}1{}", "{\"a\":".repeat(5000), "}".repeat(5000));
    let deep_yaml = format!(
        "metadata: {{name: a}}\ndata: {}1{}\n",
        "{a: ".repeat(120),
        "}".repeat(120)
    );
    let bombs = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n";
    let bodies: [(&str, Vec<u8>); 15] = [
        ("application/yaml", deep_yaml.into_bytes()),
        ("application/json", b"".to_vec()),
        ("application/json", b"{".to_vec()),
        ("application/json", b"null".to_vec()),
        ("application/json", b"[]".to_vec()),
        ("application/json", b"7".to_vec()),
        ("application/json", b"\xff\xfe".to_vec()),
        ("application/json", deep.into_bytes()),
        ("application/json", deep_map.into_bytes()),
        ("application/json", br#"{"metadata": []}"#.to_vec()),
        (
            "application/json",
            br#"{"metadata": {"name": {"a": 1}}}"#.to_vec(),
        ),
        ("application/yaml", bombs.as_bytes().to_vec()),
        ("application/yaml", b"a: [".to_vec()),
        ("application/vnd.kubernetes.protobuf", b"k8s".to_vec()),
        (
            "application/vnd.kubernetes.protobuf",
            b"k8s\0\xff\xff\xff".to_vec(),
        ),
    ];
    for (media_type, body) in bodies {
        let shown = String::from_utf8_lossy(&body)
            .chars()
            .take(40)
            .collect::<String>();
        let answer = world
            .send(request(Method::POST, MAPS, media_type, Body::from(body)))
            .await;
        let (code, status) = answer.json().await;
        assert!(code.is_client_error(), "{shown}: {code} {status}");
        assert_eq!(status["kind"], "Status", "{shown}");
    }
    let (_, list) = world.get(MAPS).await;
    assert_eq!(list["items"], json!([]));
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused() {
    let world = World::new().await;
    let body = json!({"metadata": {"name": "a"}, "data": {"a": "x".repeat(4 << 20)}});
    let (code, _) = world.post(MAPS, body).await;
    assert_eq!(code, StatusCode::PAYLOAD_TOO_LARGE);
    let (code, _) = world.get(&format!("{MAPS}/a")).await;
    assert_eq!(code, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn hostile_names_reach_no_other_key() {
    let world = World::new().await;
    world.config_map("a", json!({})).await;
    for path in [
        "/api/v1/namespaces/default%2Fconfigmaps/configmaps/a",
        "/api/v1/namespaces/default/configmaps/..%2F..%2Fsecrets%2Fmesh-system%2Fmesh-token-key",
        "/api/v1/namespaces/mesh-system%2Fmesh-token-key/secrets",
        "/api/v1/namespaces/default/configmaps/%00",
        "/api/v1/namespaces/../configmaps/a",
        "/api/v1/namespaces/default/configmaps/a/b/c/d",
        "/api/v2/namespaces/default/configmaps/a",
    ] {
        let (code, body) = world.get(path).await;
        let is_nothing = code.is_client_error() || body["items"] == json!([]);
        assert!(is_nothing, "{path}: {code} {body}");
    }
    let hostile = json!({"metadata": {"name": "../../x", "namespace": "default"}});
    let (code, _) = world.post(MAPS, hostile).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn hostile_patches_are_refused_and_change_nothing() {
    let world = World::new().await;
    let before = world.config_map("a", json!({})).await;
    let path = format!("{MAPS}/a");
    let json_patch = "application/json-patch+json";
    let copies: Vec<Value> = (0..10_001)
        .map(|_| json!({"op": "copy", "from": "/data", "path": "/data/x"}))
        .collect();
    let doubling: Vec<Value> = (0..40)
        .map(|index| json!({"op": "copy", "from": "", "path": format!("/data/k{index}")}))
        .collect();
    let nesting: Vec<Value> = (0..3000)
        .flat_map(|_| {
            [
                json!({"op": "add", "path": "/t", "value": {}}),
                json!({"op": "move", "from": "/data", "path": "/t/d"}),
                json!({"op": "move", "from": "/t", "path": "/data"}),
            ]
        })
        .collect();
    for (media_type, patch) in [
        (json_patch, json!(nesting)),
        (json_patch, json!({"op": "add"})),
        (json_patch, json!([{"op": "explode", "path": "/data"}])),
        (
            json_patch,
            json!([{"op": "test", "path": "/data/a", "value": "other"}]),
        ),
        (
            json_patch,
            json!([{"op": "replace", "path": "", "value": 7}]),
        ),
        (
            json_patch,
            json!([{"op": "replace", "path": "/metadata/name", "value": "b"}]),
        ),
        (json_patch, json!(copies)),
        (json_patch, json!(doubling)),
        ("application/merge-patch+json", json!([])),
        ("application/merge-patch+json", json!({"kind": "Secret"})),
        (
            "application/merge-patch+json",
            json!({"metadata": {"namespace": "other"}}),
        ),
        (
            "application/merge-patch+json",
            json!({"metadata": {"uid": "other"}}),
        ),
        (
            "application/merge-patch+json",
            json!({"metadata": {"resourceVersion": "1"}}),
        ),
        (
            "application/strategic-merge-patch+json",
            json!({"$patch": "explode"}),
        ),
        (
            "application/strategic-merge-patch+json",
            json!({"$patch": "delete"}),
        ),
        (
            "application/strategic-merge-patch+json",
            json!({"metadata": {"ownerReferences": [{}]}}),
        ),
        ("application/json", json!({})),
    ] {
        let (code, status) = world
            .with_body(Method::PATCH, &path, media_type, patch.clone())
            .await;
        let shown: String = patch.to_string().chars().take(80).collect();
        assert!(code.is_client_error(), "{shown}: {code} {status}");
    }
    assert_eq!(world.get(&path).await.1, before);
}

#[tokio::test]
async fn methods_that_nobody_knows_are_refused() {
    let world = World::new().await;
    for method in [
        Method::OPTIONS,
        Method::TRACE,
        Method::CONNECT,
        Method::from_bytes(b"BREW").unwrap(),
    ] {
        let answer = world
            .send(request(method.clone(), MAPS, "", Body::empty()))
            .await;
        assert_eq!(answer.code, StatusCode::METHOD_NOT_ALLOWED, "{method}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_url_panics(path in "(/[a-z0-9%./?&=+!(),-]{0,12}){0,6}") {
        if let Ok(uri) = path.parse::<http::Uri>()
            && let Ok(call) = request::Call::parse(&Method::GET, &uri)
        {
            let kind = kind::Kind::namespace();
            drop(selector::Selector::parse(&call.query, kind));
        }
    }

    #[test]
    fn no_selector_panics(text in "[a-z=!,() ]{0,24}") {
        let uri = format!("/api/v1/namespaces?labelSelector={}", text.replace(' ', "+"));
        if let Ok(uri) = uri.parse::<http::Uri>() {
            let call = request::Call::parse(&Method::GET, &uri).unwrap();
            drop(selector::Selector::parse(&call.query, kind::Kind::namespace()));
        }
    }

    #[test]
    fn no_binary_body_panics(tail in proptest::collection::vec(any::<u8>(), 0..64)) {
        let body = [b"k8s\0".as_slice(), &tail].concat();
        drop(protobuf::read(&body));
    }
}
