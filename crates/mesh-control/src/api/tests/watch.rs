//! Watches: every change once, in order, from any revision.

use super::*;

/// The events of a watch, parsed.
struct Lines {
    body: axum::body::BodyDataStream,
    rest: Vec<u8>,
}

impl Lines {
    async fn open(world: &World, path: &str) -> Self {
        let answer = world
            .send(request(Method::GET, path, "", Body::empty()))
            .await;
        assert_eq!(answer.code, StatusCode::OK);
        Self {
            body: answer.body.into_data_stream(),
            rest: Vec::new(),
        }
    }

    /// The next event; none when the watch has ended.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let chunk = tokio::time::timeout(Duration::from_secs(20), self.body.next());
            let chunk = chunk.await.expect("the watch is silent")?;
            self.rest.extend(chunk.unwrap());
        }
    }

    async fn told(&mut self) -> (String, String) {
        let event = self.next().await.expect("the watch ended");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (
            text(&event["type"]),
            text(&event["object"]["metadata"]["name"]),
        )
    }
}

fn event(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

async fn revision(world: &World) -> String {
    let (_, list) = world.get(MAPS).await;
    list["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn changes_after_a_revision_are_told_in_order() {
    let world = World::new().await;
    let start = revision(&world).await;
    world.config_map("a", json!({})).await;
    let mut lines = Lines::open(
        &world,
        &format!("{MAPS}?watch=true&resourceVersion={start}"),
    )
    .await;
    world
        .merge(&format!("{MAPS}/a"), json!({"data": {"a": "2"}}))
        .await;
    world.delete(&format!("{MAPS}/a")).await;
    assert_eq!(lines.told().await, event("ADDED", "a"));
    assert_eq!(lines.told().await, event("MODIFIED", "a"));
    let deleted = lines.next().await.unwrap();
    assert_eq!(deleted["type"], "DELETED");
    // The last state, with the revision of the deletion.
    assert_eq!(deleted["object"]["data"]["a"], "2");
    let told: u64 = deleted["object"]["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(told.to_string(), revision(&world).await);
}

#[tokio::test]
async fn without_a_revision_what_exists_is_told_first() {
    let world = World::new().await;
    world.config_map("a", json!({})).await;
    let mut lines = Lines::open(&world, &format!("{MAPS}?watch=1")).await;
    assert_eq!(lines.told().await, event("ADDED", "a"));
    world.config_map("b", json!({})).await;
    assert_eq!(lines.told().await, event("ADDED", "b"));
}

#[tokio::test]
async fn initial_events_end_with_a_marked_bookmark() {
    let world = World::new().await;
    world.config_map("a", json!({})).await;
    let path = format!(
        "{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let mut lines = Lines::open(&world, &path).await;
    assert_eq!(lines.told().await, event("ADDED", "a"));
    let mark = lines.next().await.unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(
        mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
}

#[tokio::test]
async fn an_object_that_stops_matching_is_deleted_for_the_watcher() {
    let world = World::new().await;
    let start = revision(&world).await;
    let path = format!("{MAPS}?watch=true&resourceVersion={start}&labelSelector=app%3Dweb");
    let mut lines = Lines::open(&world, &path).await;
    world.config_map("other", json!({})).await;
    world.config_map("a", json!({})).await;
    let label = |app: &str| json!({"metadata": {"labels": {"app": app}}});
    world.merge(&format!("{MAPS}/a"), label("web")).await;
    world.merge(&format!("{MAPS}/a"), label("db")).await;
    world.merge(&format!("{MAPS}/a"), label("web")).await;
    world.delete(&format!("{MAPS}/a")).await;
    for kind in ["ADDED", "DELETED", "ADDED", "DELETED"] {
        assert_eq!(lines.told().await, event(kind, "a"));
    }
}

#[tokio::test]
async fn a_watch_of_one_namespace_or_name_sees_nothing_else() {
    let world = World::new().await;
    world
        .post("/api/v1/namespaces", json!({"metadata": {"name": "shop"}}))
        .await;
    let start = revision(&world).await;
    let mut here = Lines::open(
        &world,
        &format!("{MAPS}?watch=true&resourceVersion={start}"),
    )
    .await;
    let one = format!(
        "/api/v1/configmaps?watch=true&resourceVersion={start}&fieldSelector=metadata.name%3Db"
    );
    let mut one = Lines::open(&world, &one).await;
    world
        .post(
            "/api/v1/namespaces/shop/configmaps",
            json!({"metadata": {"name": "b"}}),
        )
        .await;
    world.config_map("a", json!({})).await;
    assert_eq!(here.told().await, event("ADDED", "a"));
    assert_eq!(one.told().await, event("ADDED", "b"));
    world.config_map("b", json!({})).await;
    assert_eq!(one.told().await, event("ADDED", "b"));
}

#[tokio::test]
async fn a_place_that_is_gone_ends_the_watch_with_410() {
    let world = World::new().await;
    let start = revision(&world).await;
    let mut last = world.config_map("a", json!({})).await;
    // More changes than the ring holds.
    let writes = (0..9).map(|thousand| {
        let store = Arc::clone(world.api.objects.store());
        tokio::spawn(async move {
            for index in 0..500 {
                let key = format!("core/configmaps/default/m{thousand}-{index}");
                store
                    .create(&key, "{\"metadata\":{}}".into(), None)
                    .await
                    .unwrap();
            }
        })
    });
    for write in writes.collect::<Vec<_>>() {
        write.await.unwrap();
    }
    last["data"]["a"] = "2".into();
    let head = world.api.objects.store().revision().await.unwrap();
    world
        .api
        .cache
        .position()
        .wait_for(|position| position.revision >= head)
        .await
        .unwrap();
    let mut lines = Lines::open(
        &world,
        &format!("{MAPS}?watch=true&resourceVersion={start}"),
    )
    .await;
    let error = lines.next().await.unwrap();
    assert_eq!(error["type"], "ERROR");
    assert_eq!(error["object"]["code"], 410);
    assert!(lines.next().await.is_none());
}

#[tokio::test]
async fn a_place_that_never_was_is_refused() {
    let world = World::new().await;
    let path = format!("{MAPS}?watch=true&resourceVersion=999999");
    let (code, status) = world.get(&path).await;
    assert_eq!(code, StatusCode::GONE, "{status}");
    let (code, _) = world
        .get(&format!("{MAPS}?watch=true&resourceVersion=x"))
        .await;
    assert_eq!(code, StatusCode::BAD_REQUEST);
    let (code, _) = world.get(&format!("{MAPS}?resourceVersion=999999")).await;
    assert_eq!(code, StatusCode::GATEWAY_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_at_its_time_and_tells_its_place_before() {
    let world = World::new().await;
    let start = revision(&world).await;
    let path = format!(
        "{MAPS}?watch=true&resourceVersion={start}&timeoutSeconds=90&allowWatchBookmarks=true"
    );
    let answer = world
        .send(request(Method::GET, &path, "", Body::empty()))
        .await;
    let begin = tokio::time::Instant::now();
    let text = String::from_utf8(answer.bytes().await.to_vec()).unwrap();
    assert_eq!(begin.elapsed().as_secs(), 90);
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 1, "{text}");
    assert_eq!(lines[0]["type"], "BOOKMARK");
    assert_eq!(
        lines[0]["object"]["metadata"]["resourceVersion"],
        start.as_str()
    );
}

#[tokio::test]
async fn tables_are_told_as_tables() {
    let world = World::new().await;
    world.config_map("a", json!({})).await;
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let mut list = request(Method::GET, MAPS, "", Body::empty());
    list.headers_mut()
        .insert(header::ACCEPT, table.parse().unwrap());
    let (_, value) = world.send(list).await.json().await;
    assert_eq!(value["kind"], "Table");
    assert_eq!(value["rows"][0]["cells"][0], "a");
    assert_eq!(value["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let columns = value["columnDefinitions"].as_array().unwrap().len();
    assert_eq!(value["rows"][0]["cells"].as_array().unwrap().len(), columns);
    let mut refused = request(Method::GET, MAPS, "", Body::empty());
    refused.headers_mut().insert(
        header::ACCEPT,
        "application/vnd.kubernetes.protobuf".parse().unwrap(),
    );
    assert_eq!(world.send(refused).await.code, StatusCode::NOT_ACCEPTABLE);
}
