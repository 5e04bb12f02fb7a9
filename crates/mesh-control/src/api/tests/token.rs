//! Tokens of accounts: asked for, reviewed, refused.

use super::*;

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

async fn token(world: &World, spec: Value) -> (StatusCode, Value) {
    world
        .post(&format!("{ACCOUNTS}/default/token"), json!({"spec": spec}))
        .await
}

async fn review(world: &World, token: &str, audience: &str) -> Value {
    let spec = json!({"spec": {"token": token, "audiences": [audience]}});
    let (code, review) = world.post(REVIEWS, spec).await;
    assert_eq!(code, StatusCode::CREATED);
    assert!(
        !review.to_string().contains(token),
        "the token is told back"
    );
    review["status"].clone()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_token_is_for_joining_unless_asked_otherwise() {
    let world = World::new().await;
    let (code, issued) = token(&world, json!({})).await;
    assert_eq!(code, StatusCode::CREATED);
    assert_eq!(issued["spec"]["audiences"], json!(["mesh-ca"]));
    let token = text(&issued["status"]["token"]);
    let status = review(&world, &token, "mesh-ca").await;
    assert_eq!(status["authenticated"], true);
    assert_eq!(
        status["user"]["username"],
        "system:serviceaccount:default:default"
    );
    assert_eq!(status["audiences"], json!(["mesh-ca"]));
    let status = review(&world, &token, "mesh-api").await;
    assert_eq!(status["authenticated"], false);
}

#[tokio::test]
async fn a_join_token_does_not_open_the_api_and_an_api_token_does() {
    let world = World::new().await;
    let call = async |audience: &str| {
        let (_, issued) = token(&world, json!({"audiences": [audience]})).await;
        let value = format!("Bearer {}", text(&issued["status"]["token"]));
        let mut request = request(Method::GET, "/apis", "", Body::empty());
        request
            .headers_mut()
            .insert(header::AUTHORIZATION, value.parse().unwrap());
        world.send_as(None, request).await.code
    };
    assert_eq!(call("mesh-ca").await, StatusCode::UNAUTHORIZED);
    assert_eq!(call("mesh-api").await, StatusCode::OK);
}

#[tokio::test]
async fn a_wrong_token_is_refused_even_beside_a_certificate() {
    let world = World::new().await;
    for value in [
        "Bearer x",
        "Bearer a.b.c",
        "Basic eDp5",
        "Bearer",
        "Bearer ",
    ] {
        let mut request = request(Method::GET, "/apis", "", Body::empty());
        request
            .headers_mut()
            .insert(header::AUTHORIZATION, value.parse().unwrap());
        let answer = world.send(request).await;
        assert_eq!(answer.code, StatusCode::UNAUTHORIZED, "{value}");
    }
}

#[tokio::test]
async fn a_token_ends_with_its_account() {
    let world = World::new().await;
    world
        .post(ACCOUNTS, json!({"metadata": {"name": "ci"}}))
        .await;
    let (_, issued) = world.post(&format!("{ACCOUNTS}/ci/token"), json!({})).await;
    let token = text(&issued["status"]["token"]);
    assert_eq!(
        review(&world, &token, "mesh-ca").await["authenticated"],
        true
    );
    world.delete(&format!("{ACCOUNTS}/ci")).await;
    assert_eq!(
        review(&world, &token, "mesh-ca").await["authenticated"],
        false
    );
    // Another account of the same name is another account.
    world
        .post(ACCOUNTS, json!({"metadata": {"name": "ci"}}))
        .await;
    assert_eq!(
        review(&world, &token, "mesh-ca").await["authenticated"],
        false
    );
}

#[tokio::test]
async fn life_and_audience_of_a_token_are_bounded() {
    let world = World::new().await;
    let (_, issued) = token(&world, json!({"expirationSeconds": 86400})).await;
    assert_eq!(issued["spec"]["expirationSeconds"], 3600);
    let wrong =
        json!({"expirationSeconds": 1, "audiences": ["vault"], "boundObjectRef": {"kind": "Pod"}});
    let (code, status) = token(&world, wrong).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(status["details"]["causes"].as_array().unwrap().len(), 3);
    let (code, _) = world
        .post(&format!("{ACCOUNTS}/none/token"), json!({}))
        .await;
    assert_eq!(code, StatusCode::NOT_FOUND);
    assert_eq!(
        world.get(&format!("{ACCOUNTS}/default/token")).await.0,
        StatusCode::METHOD_NOT_ALLOWED
    );
}

#[tokio::test]
async fn a_token_of_another_key_or_without_signature_is_refused() {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

    let (one, two) = (World::new().await, World::new().await);
    let (_, issued) = token(&two, json!({})).await;
    let foreign = text(&issued["status"]["token"]);
    assert_eq!(
        review(&one, &foreign, "mesh-ca").await["authenticated"],
        false
    );
    let (_, issued) = token(&one, json!({})).await;
    let own = text(&issued["status"]["token"]);
    let claims = own.split('.').nth(1).unwrap();
    let none = BASE64.encode(br#"{"alg":"none","typ":"JWT"}"#);
    let weak = BASE64.encode(br#"{"alg":"HS256","typ":"JWT"}"#);
    for forged in [format!("{none}.{claims}."), format!("{weak}.{claims}.AAAA")] {
        assert_eq!(
            review(&one, &forged, "mesh-ca").await["authenticated"],
            false
        );
    }
}

#[tokio::test]
async fn access_reviews_answer_as_the_authorizer_would() {
    let world = World::new().await;
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let ask = async |user: &str, verb: &str, resource: &str| {
        let spec = json!({"spec": {"user": user, "resourceAttributes": {
            "verb": verb, "group": "", "resource": resource, "namespace": "mesh-system", "name": "mesh",
        }}});
        let (code, review) = world.post(path, spec).await;
        assert_eq!(code, StatusCode::CREATED, "{review}");
        review["status"]["allowed"] == true
    };
    assert!(ask("mesh:pilot", "patch", "configmaps").await);
    assert!(!ask("mesh:pilot", "get", "secrets").await);
    assert!(!ask("bob", "get", "configmaps").await);
    let (code, _) = world.post(path, json!({"spec": {"user": "bob"}})).await;
    assert_eq!(code, StatusCode::BAD_REQUEST);
    let own = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let asked = request(Method::POST, own, "application/json", Body::from("{}"));
    let (_, review) = world.send_as(Some(user("bob")), asked).await.json().await;
    assert_eq!(review["status"]["userInfo"]["username"], "bob");
}

#[tokio::test]
async fn without_a_credential_only_health_and_version_answer() {
    let world = World::new().await;
    let code = async |path: &str| {
        let request = request(Method::GET, path, "", Body::empty());
        world.send_as(None, request).await.code
    };
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(code(path).await, StatusCode::OK, "{path}");
    }
    for path in [
        "/",
        "/api",
        "/apis",
        "/openapi/v2",
        "/openapi/v3",
        MAPS,
        "/metrics",
        "/debug",
    ] {
        assert_eq!(code(path).await, StatusCode::UNAUTHORIZED, "{path}");
    }
}

#[tokio::test]
async fn everybody_with_a_credential_reads_the_configuration_of_the_mesh() {
    let world = World::new().await;
    let maps = "/api/v1/namespaces/mesh-system/configmaps";
    world
        .post(maps, json!({"metadata": {"name": "mesh"}}))
        .await;
    let code = async |path: String| {
        let request = request(Method::GET, &path, "", Body::empty());
        world.send_as(Some(user("anybody")), request).await.code
    };
    assert_eq!(code(format!("{maps}/mesh")).await, StatusCode::OK);
    assert_eq!(
        code(format!("{maps}?fieldSelector=metadata.name%3Dmesh")).await,
        StatusCode::OK
    );
    assert_eq!(code(maps.to_owned()).await, StatusCode::FORBIDDEN);
    assert_eq!(code(format!("{maps}/vips")).await, StatusCode::FORBIDDEN);
}
