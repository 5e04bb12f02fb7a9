//! Who may call whom, and who may change what.

use std::time::Duration;

use mesh_tests::call::Call;

use super::routing::{apply, delete};
use crate::e2e::world::{Step, World, ensure, eventually};

const SOON: Duration = Duration::from_secs(10);

pub(crate) async fn rows(world: &World) {
    let result = authorization(world).await;
    world.record("authorization by identity and path, allow and deny", result);
    let result = rbac(world).await;
    world.record(
        "RBAC: a read-only user's write is refused by the API",
        result,
    );
}

async fn status(world: &World, from: &str, path: &str) -> Step<u16> {
    let url = format!("http://ratings:9080{path}");
    Ok(world.call(from, Call::get(&url)).await?.status)
}

async fn authorization(world: &World) -> Step<String> {
    let before = status(world, "productpage-v1", "/only/private").await?;
    ensure(before == 200, || {
        format!("without a policy productpage gets {before}")
    })?;
    apply(world, "ratings-authorization.yaml").await?;
    let refused = || async {
        let got = status(world, "productpage-v1", "/only").await?;
        ensure(got == 403, || format!("productpage gets {got}"))
    };
    eventually(SOON, refused).await?;
    let allowed = status(world, "reviews-v2", "/only").await?;
    ensure(allowed == 200, || format!("reviews gets {allowed}"))?;
    // Other spellings of the same path are the same path.
    // Connections that Envoy kept from before are drained within seconds, not at once.
    for spelling in [
        "/only/private",
        "/only//private",
        "/only/./private",
        "/only/x/../private",
    ] {
        let private = || async {
            let got = status(world, "reviews-v2", spelling).await?;
            ensure(got == 403, || format!("reviews gets {got} for {spelling}"))
        };
        eventually(SOON, private).await?;
    }
    let why = world
        .mesh(&[
            "why",
            "default/productpage",
            "ratings.default:9080",
            "--method",
            "GET",
            "--path",
            "/only",
        ])
        .await?;
    delete(world, "ratings-authorization.yaml").await?;
    let open = || async {
        let got = status(world, "productpage-v1", "/only/private").await?;
        ensure(got == 200, || {
            format!("after the policy productpage gets {got}")
        })
    };
    eventually(SOON, open).await?;
    let why = why
        .lines()
        .find(|line| line.contains("ratings-allow"))
        .unwrap_or_default()
        .trim();
    ensure(!why.is_empty(), || {
        "`mesh why` does not name the policy".to_owned()
    })?;
    Ok(format!(
        "productpage 403, reviews 200, reviews for /only/private and its spellings 403, all 200 without the policies; `mesh why`: {why}"
    ))
}

async fn rbac(world: &World) -> Step<String> {
    apply(world, "read-only.yaml").await?;
    let file = world.home().join("reader.kubeconfig").display().to_string();
    let authority = world.authority().display().to_string();
    world
        .mesh(&[
            "kubeconfig",
            "--home",
            &authority,
            "--user",
            "reader",
            "--group",
            "people",
            "--output",
            &file,
        ])
        .await?;
    let read = world
        .kubectl_says(&file, &["get", "virtualservices"])
        .await?;
    ensure(read.code == 0, || format!("reading: {}", read.stderr))?;
    let route = world.sample("reviews-90-10.yaml");
    let write = world.kubectl_says(&file, &["apply", "-f", &route]).await?;
    let words = write.stderr.to_lowercase();
    ensure(write.code != 0 && words.contains("forbidden"), || {
        format!("writing: {words}")
    })?;
    let stored = world
        .kubectl(&["get", "virtualservices", "-o", "name"])
        .await?;
    ensure(!stored.contains("reviews"), || {
        format!("the refused route is stored: {stored}")
    })?;
    world.kubectl(&["apply", "-f", &route]).await?;
    delete(world, "reviews-90-10.yaml").await?;
    delete(world, "read-only.yaml").await?;
    let first = write
        .stderr
        .lines()
        .find(|line| line.contains("orbidden"))
        .unwrap_or_default();
    Ok(format!(
        "reads; writes nothing: {first}; the admin's same file is taken"
    ))
}
