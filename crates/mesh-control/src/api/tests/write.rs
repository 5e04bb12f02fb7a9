//! Writes: created, replaced, patched, deleted, and refused with every problem.

use super::*;

#[tokio::test]
async fn a_new_object_gets_id_time_and_revision() {
    let world = World::new().await;
    let (code, created) = world.post(ROUTES, virtual_service("a")).await;
    assert_eq!(code, StatusCode::CREATED);
    assert_eq!(created["kind"], "VirtualService");
    assert_eq!(created["apiVersion"], "networking.istio.io/v1");
    assert_eq!(created["metadata"]["namespace"], "default");
    assert_eq!(created["metadata"]["generation"], 1);
    for field in ["uid", "creationTimestamp", "resourceVersion"] {
        assert!(created["metadata"][field].is_string(), "{field}");
    }
    let (code, found) = world.get(&format!("{ROUTES}/a")).await;
    assert_eq!((code, &found), (StatusCode::OK, &created));
    let old = "/apis/networking.istio.io/v1alpha3/namespaces/default/virtualservices/a";
    let (_, found) = world.get(old).await;
    assert_eq!(found["apiVersion"], "networking.istio.io/v1alpha3");
    assert_eq!(found["spec"], created["spec"]);
}

#[tokio::test]
async fn server_side_apply_is_refused_with_what_to_do_instead() {
    let world = World::new().await;
    let path = format!("{MAPS}/a");
    let form = "application/apply-patch+yaml";
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    let (code, status) = world.with_body(Method::PATCH, &path, form, object).await;
    assert_eq!(code, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let message = status["message"].as_str().unwrap();
    assert!(
        message.contains("`kubectl apply` without `--server-side`"),
        "{message}"
    );
    let (code, _) = world.get(&path).await;
    assert_eq!(code, StatusCode::NOT_FOUND, "nothing was stored");
}

#[tokio::test]
async fn a_generated_name_begins_as_asked() {
    let world = World::new().await;
    let object = json!({"metadata": {"generateName": "job-"}});
    let (code, one) = world.post(MAPS, object.clone()).await;
    assert_eq!(code, StatusCode::CREATED);
    let (_, two) = world.post(MAPS, object).await;
    let name = one["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("job-") && name.len() == 9, "{name}");
    assert_ne!(one["metadata"]["name"], two["metadata"]["name"]);
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn refusals_are_status_objects_with_their_codes() {
    let world = World::new().await;
    world.config_map("a", json!({})).await;
    let map = |name: &str| json!({"metadata": {"name": name}});
    let cases = [
        (world.post(MAPS, map("a")).await, 409, "AlreadyExists"),
        (world.get(&format!("{MAPS}/b")).await, 404, "NotFound"),
        (
            world.get("/api/v1/namespaces/default/pods").await,
            404,
            "NotFound",
        ),
        (
            world.get("/apis/apps/v1/deployments").await,
            404,
            "NotFound",
        ),
        (world.get("/nothing").await, 404, "NotFound"),
        (
            world
                .post("/api/v1/namespaces/none/configmaps", map("a"))
                .await,
            404,
            "NotFound",
        ),
        (
            world.post("/api/v1/configmaps", map("a")).await,
            405,
            "MethodNotAllowed",
        ),
        (
            world.post(&format!("{MAPS}/a"), map("a")).await,
            405,
            "MethodNotAllowed",
        ),
        (world.put(MAPS, map("a")).await, 405, "MethodNotAllowed"),
        (
            world.get(&format!("{MAPS}/a/status")).await,
            404,
            "NotFound",
        ),
        (
            world.delete("/api/v1/namespaces/default").await,
            403,
            "Forbidden",
        ),
        (
            world
                .with_body(Method::POST, MAPS, "text/plain", map("c"))
                .await,
            415,
            "UnsupportedMediaType",
        ),
        (
            world
                .with_body(
                    Method::PATCH,
                    &format!("{MAPS}/a"),
                    "application/apply-patch+yaml",
                    map("a"),
                )
                .await,
            415,
            "UnsupportedMediaType",
        ),
        (
            world.post(MAPS, json!({"metadata": {"name": "A b"}})).await,
            422,
            "Invalid",
        ),
        (
            world.post(MAPS, json!({"metadata": {}})).await,
            422,
            "Invalid",
        ),
        (
            world
                .post(MAPS, json!({"kind": "Secret", "metadata": {"name": "x"}}))
                .await,
            400,
            "BadRequest",
        ),
        (
            world
                .post(
                    MAPS,
                    json!({"metadata": {"name": "x", "namespace": "other"}}),
                )
                .await,
            400,
            "BadRequest",
        ),
    ];
    for ((code, status), expected, reason) in cases {
        assert_eq!(code.as_u16(), expected, "{status}");
        assert_eq!(status["kind"], "Status");
        assert_eq!(status["status"], "Failure");
        assert_eq!(status["reason"], reason, "{status}");
        assert_eq!(status["code"], expected);
    }
}

#[tokio::test]
async fn every_problem_of_an_object_is_a_cause_with_its_field() {
    let world = World::new().await;
    let object = json!({
        "metadata": {"name": "a", "labels": {"a b": "c"}, "annotations": {"x": 1}},
        "data": {"x": 7, "bad key": "v"},
        "immutable": "yes",
    });
    let (code, status) = world.post(MAPS, object).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
    let causes = status["details"]["causes"].as_array().unwrap();
    let fields: Vec<_> = causes
        .iter()
        .map(|cause| cause["field"].as_str().unwrap())
        .collect();
    for field in [
        "metadata.labels[a b]",
        "metadata.annotations[x]",
        "data[x]",
        "data[bad key]",
        "immutable",
    ] {
        assert!(fields.contains(&field), "{field} in {fields:?}");
    }
    let (code, _) = world.get(&format!("{MAPS}/a")).await;
    assert_eq!(code, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_replacement_names_what_it_replaces() {
    let world = World::new().await;
    let (_, created) = world.post(ROUTES, virtual_service("a")).await;
    let path = format!("{ROUTES}/a");
    let (code, _) = world.put(&path, virtual_service("a")).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
    let mut changed = created.clone();
    changed["spec"]["hosts"] = json!(["other"]);
    let (code, updated) = world.put(&path, changed.clone()).await;
    assert_eq!(code, StatusCode::OK, "{updated}");
    assert_eq!(updated["metadata"]["generation"], 2);
    assert_eq!(updated["metadata"]["uid"], created["metadata"]["uid"]);
    let (code, status) = world.put(&path, changed).await;
    assert_eq!(
        (code, status["reason"].as_str()),
        (StatusCode::CONFLICT, Some("Conflict"))
    );
    // Nothing changed: nothing is written.
    let (_, same) = world.put(&path, updated.clone()).await;
    assert_eq!(
        same["metadata"]["resourceVersion"],
        updated["metadata"]["resourceVersion"]
    );
}

#[tokio::test]
async fn patches_at_once_are_all_applied() {
    let world = Arc::new(World::new().await);
    world.config_map("a", json!({})).await;
    let writers = (0..8).map(|index| {
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            let patch = json!({"data": {format!("k{index}"): "v"}});
            world.merge(&format!("{MAPS}/a"), patch).await.0
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        assert_eq!(writer.await.unwrap(), StatusCode::OK);
    }
    let (_, object) = world.get(&format!("{MAPS}/a")).await;
    assert_eq!(object["data"].as_object().unwrap().len(), 9);
}

#[tokio::test]
async fn a_rehearsal_changes_nothing() {
    let world = World::new().await;
    let (code, object) = world
        .post(
            &format!("{MAPS}?dryRun=All"),
            json!({"metadata": {"name": "a"}}),
        )
        .await;
    assert_eq!(code, StatusCode::CREATED);
    assert!(object["metadata"]["uid"].is_string());
    assert_eq!(
        world.get(&format!("{MAPS}/a")).await.0,
        StatusCode::NOT_FOUND
    );
    world.config_map("a", json!({})).await;
    let path = format!("{MAPS}/a?dryRun=All");
    let (_, patched) = world.merge(&path, json!({"data": {"a": "2"}})).await;
    assert_eq!(patched["data"]["a"], "2");
    assert_eq!(world.delete(&path).await.0, StatusCode::OK);
    let (_, object) = world.get(&format!("{MAPS}/a")).await;
    assert_eq!(object["data"]["a"], "1");
    let (code, _) = world.delete(&format!("{MAPS}/a?dryRun=Some")).await;
    assert_eq!(code, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_status_is_written_by_its_own_path_only() {
    let world = World::new().await;
    let mut object = virtual_service("a");
    object["status"] = json!({"x": 1});
    let (_, created) = world.post(ROUTES, object).await;
    assert!(created.get("status").is_none());
    let status = json!({"status": {"conditions": []}, "spec": {"hosts": ["evil"]}});
    let (code, updated) = world.merge(&format!("{ROUTES}/a/status"), status).await;
    assert_eq!(code, StatusCode::OK, "{updated}");
    assert_eq!(updated["spec"]["hosts"], json!(["reviews"]));
    assert!(updated["status"]["conditions"].is_array());
    assert_eq!(updated["metadata"]["generation"], 1);
    let (_, kept) = world
        .merge(&format!("{ROUTES}/a"), json!({"status": {"y": 1}}))
        .await;
    assert_eq!(kept["status"], updated["status"]);
}

#[tokio::test]
async fn a_finalizer_holds_an_object_until_it_is_removed() {
    let world = World::new().await;
    let object = json!({"metadata": {"name": "a", "finalizers": ["x.io/y"]}});
    world.post(MAPS, object).await;
    let path = format!("{MAPS}/a");
    let (code, marked) = world.delete(&path).await;
    assert_eq!(code, StatusCode::OK);
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(world.get(&path).await.0, StatusCode::OK);
    let (code, _) = world
        .merge(&path, json!({"metadata": {"finalizers": null}}))
        .await;
    assert_eq!(code, StatusCode::OK);
    assert_eq!(world.get(&path).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_deletion_may_name_the_object_that_it_means() {
    let world = World::new().await;
    let object = world.config_map("a", json!({})).await;
    let path = format!("{MAPS}/a");
    let with = |uid: &str| json!({"preconditions": {"uid": uid}});
    let other = world.with_body(Method::DELETE, &path, "application/json", with("other"));
    assert_eq!(other.await.0, StatusCode::CONFLICT);
    let uid = object["metadata"]["uid"].as_str().unwrap();
    let right = world.with_body(Method::DELETE, &path, "application/json", with(uid));
    assert_eq!(right.await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_namespace_ends_with_everything_in_it() {
    let world = World::new().await;
    world
        .post("/api/v1/namespaces", json!({"metadata": {"name": "shop"}}))
        .await;
    let maps = "/api/v1/namespaces/shop/configmaps";
    // More than one page of the one who cleans up.
    for index in 0..150 {
        world
            .post(maps, json!({"metadata": {"name": format!("m{index}")}}))
            .await;
    }
    world
        .post(
            maps,
            json!({"metadata": {"name": "held", "finalizers": ["x.io/y"]}}),
        )
        .await;
    let (_, account) = world
        .get("/api/v1/namespaces/shop/serviceaccounts/default")
        .await;
    assert_eq!(account["kind"], "ServiceAccount");
    let (_, ending) = world.delete("/api/v1/namespaces/shop").await;
    assert_eq!(ending["status"]["phase"], "Terminating");
    let (code, status) = world
        .post(maps, json!({"metadata": {"name": "late"}}))
        .await;
    assert_eq!(code, StatusCode::FORBIDDEN, "{status}");
    // It waits for the finalizer, and for nothing else.
    until(async || {
        let (_, list) = world.get(maps).await;
        let items = list["items"].as_array().unwrap();
        (items.len() == 1).then_some(())
    })
    .await;
    assert_eq!(world.get("/api/v1/namespaces/shop").await.0, StatusCode::OK);
    world
        .merge(
            &format!("{maps}/held"),
            json!({"metadata": {"finalizers": null}}),
        )
        .await;
    until(async || {
        let (code, _) = world.get("/api/v1/namespaces/shop").await;
        (code == StatusCode::NOT_FOUND).then_some(())
    })
    .await;
}

#[tokio::test]
async fn lists_are_cut_and_go_on_in_the_same_state() {
    let world = World::new().await;
    for name in ["a", "b", "c"] {
        world.config_map(name, json!({"app": name})).await;
    }
    let (_, first) = world.get(&format!("{MAPS}?limit=2")).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    world.delete(&format!("{MAPS}/c")).await;
    let (_, rest) = world.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!(rest["items"][0]["metadata"]["name"], "c");
    assert_eq!(
        rest["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    assert!(rest["metadata"].get("continue").is_none());
    let (_, chosen) = world
        .get(&format!("{MAPS}?labelSelector=app+in+(b,c)"))
        .await;
    assert_eq!(chosen["items"].as_array().unwrap().len(), 1);
    let (code, _) = world.get(&format!("{MAPS}?continue=bm9uc2Vuc2U")).await;
    assert_eq!(code, StatusCode::BAD_REQUEST);
    // A token for one prefix does not open another.
    let secrets = format!("/api/v1/namespaces/default/secrets?continue={token}");
    assert_eq!(world.get(&secrets).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let world = World::new().await;
    world.config_map("a", json!({"app": "x"})).await;
    world.config_map("b", json!({})).await;
    let (code, list) = world.delete(&format!("{MAPS}?labelSelector=app")).await;
    assert_eq!(code, StatusCode::OK);
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    assert_eq!(
        world.get(&format!("{MAPS}/a")).await.0,
        StatusCode::NOT_FOUND
    );
    assert_eq!(world.get(&format!("{MAPS}/b")).await.0, StatusCode::OK);
}

#[tokio::test]
async fn plain_secrets_become_data_and_are_told_by_nobody() {
    let world = World::new().await;
    let path = "/api/v1/namespaces/default/secrets";
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": "geheim"}});
    let (_, created) = world.post(path, secret).await;
    assert_eq!(created["data"]["password"], "Z2VoZWlt");
    assert!(created.get("stringData").is_none());
    assert_eq!(created["type"], "Opaque");
    let wrong = json!({"metadata": {"name": "t"}, "data": {"password": "geheim !"}, "stringData": {"x": 4711}});
    let (code, status) = world.post(path, wrong).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
    let text = status.to_string();
    assert!(!text.contains("geheim") && !text.contains("4711"), "{text}");
}

#[tokio::test]
async fn unknown_fields_are_refused_warned_of_or_ignored() {
    let world = World::new().await;
    let object = |name: &str| json!({"metadata": {"name": name}, "dada": {}});
    let (code, status) = world
        .post(&format!("{MAPS}?fieldValidation=Strict"), object("a"))
        .await;
    assert_eq!(code, StatusCode::BAD_REQUEST);
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("unknown field \"dada\"")
    );
    let send = |query: &str, name: &str| {
        let body = Body::from(object(name).to_string());
        world.send(request(
            Method::POST,
            &format!("{MAPS}{query}"),
            "application/json",
            body,
        ))
    };
    let warned = send("", "b").await;
    assert_eq!(warned.code, StatusCode::CREATED);
    assert_eq!(
        warned.headers[header::WARNING],
        "299 - \"unknown field \\\"dada\\\"\""
    );
    let ignored = send("?fieldValidation=Ignore", "c").await;
    assert!(!ignored.headers.contains_key(header::WARNING));
    let (code, _) = world
        .post(&format!("{MAPS}?fieldValidation=Perhaps"), object("d"))
        .await;
    assert_eq!(code, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn roles_and_bindings_are_checked() {
    let world = World::new().await;
    let base = "/apis/rbac.authorization.k8s.io/v1";
    let role =
        json!({"metadata": {"name": "a"}, "rules": [{"verbs": [], "nonResourceURLs": ["/x"]}]});
    let (code, _) = world
        .post(&format!("{base}/namespaces/default/roles"), role)
        .await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
    let aggregated = json!({"metadata": {"name": "a"}, "aggregationRule": {"clusterRoleSelectors": []}, "rules": []});
    let (code, _) = world
        .post(&format!("{base}/clusterroles"), aggregated)
        .await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
    let bindings = format!("{base}/namespaces/default/rolebindings");
    let binding = json!({
        "metadata": {"name": "a:b"},
        "roleRef": {"kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "User", "name": "bob"}],
    });
    let (code, created) = world.post(&bindings, binding).await;
    assert_eq!(code, StatusCode::CREATED, "{created}");
    assert_eq!(created["roleRef"]["apiGroup"], "rbac.authorization.k8s.io");
    let change = json!({"roleRef": {"name": "edit"}});
    let (code, _) = world.merge(&format!("{bindings}/a%3Ab"), change).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn the_account_of_the_ca_reads_its_secret_and_not_the_key_of_tokens() {
    let world = World::new().await;
    let ca = || Some(user("mesh:ca"));
    let get = |path: &str| request(Method::GET, path, "", Body::empty());
    let secrets = "/api/v1/namespaces/mesh-system/secrets";
    let own = json!({"metadata": {"name": "mesh-ca"}, "data": {}}).to_string();
    let created = world
        .send_as(
            ca(),
            request(Method::POST, secrets, "application/json", Body::from(own)),
        )
        .await;
    assert_eq!(created.code, StatusCode::CREATED);
    assert_eq!(
        world
            .send_as(ca(), get(&format!("{secrets}/mesh-ca")))
            .await
            .code,
        StatusCode::OK
    );
    for path in [format!("{secrets}/mesh-token-key"), secrets.to_owned()] {
        assert_eq!(
            world.send_as(ca(), get(&path)).await.code,
            StatusCode::FORBIDDEN,
            "{path}"
        );
    }
    let pilot = world
        .send_as(Some(user("mesh:pilot")), get(&format!("{secrets}/mesh-ca")))
        .await;
    assert_eq!(pilot.code, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn old_events_are_forgotten() {
    let world = World::new().await;
    let path = "/api/v1/namespaces/default/events";
    let event = |name: &str, time: &str| {
        json!({
            "metadata": {"name": name},
            "involvedObject": {"kind": "ConfigMap", "name": "a", "namespace": "default"},
            "lastTimestamp": time,
            "reason": "Test",
        })
    };
    let (code, created) = world.post(path, event("new", "2100-01-01T00:00:00Z")).await;
    assert_eq!(code, StatusCode::CREATED, "{created}");
    world.post(path, event("old", "2020-01-01T00:00:00Z")).await;
    let now = world.api.clock.now_seconds();
    events::forget(&world.api.objects, now + 10).await.unwrap();
    let (_, list) = world
        .get(&format!("{path}?fieldSelector=involvedObject.name=a"))
        .await;
    let names: Vec<_> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| &item["metadata"]["name"])
        .collect();
    assert_eq!(names, ["new"]);
}
