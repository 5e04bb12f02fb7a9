//! Istio's own YAML, applied with real kubectl, decides where requests go and how they fail.

use std::time::{Duration, Instant};

use mesh_tests::call::{Call, Load, Outcome};
use mesh_tests::control::Command;
use serde_json::Value;

use super::deploy;
use crate::Ground;
use crate::e2e::world::{Step, World, ensure, eventually};

const CLIENT: &str = "productpage-v1";
/// How long a change may take to reach every sidecar.
const SOON: Duration = Duration::from_secs(10);

pub(crate) async fn rows(world: &World) {
    let result = names(world).await;
    world.record("names resolve in the mesh", result);
    let result = by_header(world).await;
    world.record("routing by header", result);
    let result = by_weight(world).await;
    world.record("90/10 weights, within statistics", result);
    let result = faults(world).await;
    world.record("delay and abort faults", result);
    let result = patience(world).await;
    world.record("timeout and retry", result);
    let result = redis(world).await;
    world.record("Redis, a server that nobody here wrote", result);
}

pub(crate) async fn apply(world: &World, file: &str) -> Step<()> {
    world
        .kubectl(&["apply", "-f", &world.sample(file)])
        .await
        .map(drop)
}

pub(crate) async fn delete(world: &World, file: &str) -> Step<()> {
    world
        .kubectl(&["delete", "-f", &world.sample(file)])
        .await
        .map(drop)
}

async fn as_user(world: &World, user: &str, url: &str) -> Step<Outcome> {
    let mut call = Call::get(url);
    if !user.is_empty() {
        call.headers.insert("end-user".to_owned(), user.to_owned());
    }
    world.call(CLIENT, call).await
}

fn version(outcome: &Outcome) -> &str {
    outcome
        .body
        .get("version")
        .and_then(Value::as_str)
        .unwrap_or("none")
}

/// Every form of a name gives the same two virtual addresses; an unknown one gives none.
async fn names(world: &World) -> Step<String> {
    let resolve = |name: &str| Command::Resolve {
        name: name.to_owned(),
    };
    let mut seen: Option<Value> = None;
    let forms = [
        "reviews",
        "reviews.default",
        "reviews.default.mesh",
        "reviews.default.svc.cluster.local",
    ];
    for name in forms {
        let found = world.tell(CLIENT, &resolve(name)).await?;
        let addresses = found.as_array().map(Vec::len);
        ensure(addresses == Some(2), || {
            format!("`{name}` resolves to {found}")
        })?;
        let same = seen.as_ref().is_none_or(|before| *before == found);
        ensure(same, || {
            format!("`{name}` resolves to {found}, another form to {seen:?}")
        })?;
        seen = Some(found);
    }
    let unknown = world.tell(CLIENT, &resolve("nobody.default.mesh")).await?;
    ensure(unknown.get("error").is_some(), || {
        format!("an unknown name resolves to {unknown}")
    })?;
    Ok(format!(
        "{} → {}; an unknown name to nothing",
        forms.join(", "),
        seen.unwrap_or_default()
    ))
}

async fn by_header(world: &World) -> Step<String> {
    const URL: &str = "http://reviews:9080/only";
    let before = versions(world, URL, 30).await?;
    ensure(before.len() > 1, || {
        format!("without a route 30 requests saw only {before:?}")
    })?;
    apply(world, "destination-rules.yaml").await?;
    apply(world, "reviews-by-header.yaml").await?;
    let everybody = || async {
        let seen = versions(world, URL, 10).await?;
        ensure(seen == ["v1"], || format!("without a header: {seen:?}"))
    };
    let ((), took) = eventually(SOON, everybody).await?;
    for _ in 0..20 {
        let outcome = as_user(world, "ann", URL).await?;
        ensure(version(&outcome) == "v2", || {
            format!("Ann sees {outcome:?}")
        })?;
    }
    let stored = world
        .kubectl(&[
            "get",
            "virtualservice",
            "reviews",
            "-o",
            "jsonpath={.spec.http[0].name}",
        ])
        .await?;
    ensure(stored == "ann", || {
        format!("the stored route's name is `{stored}`")
    })?;
    Ok(format!(
        "before: {}; Ann: v2 20 times of 20, others: v1 only; in effect {} ms after kubectl",
        before.join(", "),
        took.as_millis()
    ))
}

async fn versions(world: &World, url: &str, times: u64) -> Step<Vec<String>> {
    let load = Load {
        call: Call::get(url),
        requests: Some(times),
        until_file: None,
        at_least: 0,
        workers: 1,
        pause_ms: 0,
    };
    let report = world.load(CLIENT, load).await?;
    ensure(report.failed() == 0, || format!("{report:?}"))?;
    Ok(report.by_version.into_keys().collect())
}

/// 1,000 requests: the binomial standard deviation of a tenth is 9.5; four of them either way.
async fn by_weight(world: &World) -> Step<String> {
    apply(world, "reviews-90-10.yaml").await?;
    let url = "http://reviews:9080/only";
    let new = || async {
        let seen = versions(world, url, 40).await?;
        ensure(!seen.iter().any(|v| v == "v2") && seen.len() == 2, || {
            format!("versions seen: {seen:?}")
        })
    };
    eventually(SOON, new).await?;
    let load = Load {
        call: Call::get(url),
        requests: Some(1000),
        until_file: None,
        at_least: 0,
        workers: 4,
        pause_ms: 0,
    };
    let report = world.load(CLIENT, load).await?;
    let third = report.by_version.get("v3").copied().unwrap_or_default();
    ensure(report.failed() == 0 && (62..=138).contains(&third), || {
        format!("{report:?}")
    })?;
    delete(world, "reviews-90-10.yaml").await?;
    Ok(format!(
        "1,000 requests: {:?}; 62 to 138 of v3 are within four standard deviations",
        report.by_version
    ))
}

async fn faults(world: &World) -> Step<String> {
    const URL: &str = "http://ratings:9080/only";
    apply(world, "ratings-faults.yaml").await?;
    let bob = || async {
        let outcome = as_user(world, "bob", URL).await?;
        ensure(outcome.status == 418, || format!("Bob gets {outcome:?}"))
    };
    eventually(SOON, bob).await?;
    let ann = as_user(world, "ann", URL).await?;
    ensure(
        ann.status == 200 && (1000..2000).contains(&ann.milliseconds),
        || format!("Ann gets {ann:?}"),
    )?;
    let other = as_user(world, "", URL).await?;
    ensure(other.status == 200 && other.milliseconds < 900, || {
        format!("others get {other:?}")
    })?;
    delete(world, "ratings-faults.yaml").await?;
    let gone = || async {
        let outcome = as_user(world, "bob", URL).await?;
        ensure(outcome.status == 200, || {
            format!("without the fault Bob gets {outcome:?}")
        })
    };
    eventually(SOON, gone).await?;
    Ok(format!(
        "Ann waits {} ms of 1,000, Bob gets 418, others 200 in {} ms; without the fault Bob gets 200",
        ann.milliseconds, other.milliseconds
    ))
}

async fn patience(world: &World) -> Step<String> {
    const SLOW: &str = "http://ratings:9080/only/slow/1500";
    let get = |url: String| async move { world.call(CLIENT, Call::get(&url)).await };
    let before = get(SLOW.to_owned()).await?;
    ensure(before.status == 200 && before.milliseconds >= 1500, || {
        format!("without a route: {before:?}")
    })?;
    let flaky = get("http://ratings:9080/only/flaky/2/before".to_owned()).await?;
    ensure(flaky.status == 503, || {
        format!("without a route the flaky path gives {flaky:?}")
    })?;

    apply(world, "ratings-patience.yaml").await?;
    let late = || async {
        let outcome = get(SLOW.to_owned()).await?;
        ensure(outcome.status == 504 && outcome.milliseconds < 1400, || {
            format!("{outcome:?}")
        })?;
        Ok(outcome.milliseconds)
    };
    let (late, _) = eventually(SOON, late).await?;
    let start = Instant::now();
    let retried = get(format!(
        "http://ratings:9080/only/flaky/2/after-{}",
        start.elapsed().as_nanos()
    ))
    .await?;
    ensure(retried.status == 200, || {
        format!("two failures and a success gave {retried:?}")
    })?;
    let over = get("http://ratings:9080/only/flaky/3/too-many".to_owned()).await?;
    ensure(over.status == 503, || {
        format!("three failures gave {over:?}")
    })?;
    delete(world, "ratings-patience.yaml").await?;
    Ok(format!(
        "1.5 s of work: 200 before, 504 after {late} ms with a timeout of 0.5 s; 503, 503, 200 is one 200 with two retries, three 503 are a 503"
    ))
}

/// A real server behind a TCP service: a value written through the mesh is read back from it.
async fn redis(world: &World) -> Step<String> {
    let server = world.bin("redis-server").display().to_string();
    let command = [
        &server,
        "--port",
        "6379",
        "--bind",
        "0.0.0.0",
        "::",
        "--protected-mode",
        "no",
        "--save",
        "",
        "--dir",
        "/tmp",
    ];
    if world.ground() == Ground::Nomad {
        deploy::run_redis_on_nomad(world, &command).await?;
    } else {
        run_redis(world, &command).await?;
    }
    let say = |text: &str| Command::Tcp {
        address: "redis:6379".to_owned(),
        send: text.to_owned(),
    };
    let pong = || async {
        let answer = world.tell(CLIENT, &say("PING\r\n")).await?;
        ensure(answer.as_str() == Some("+PONG\r\n"), || {
            format!("PING: {answer}")
        })
    };
    eventually(SOON, pong).await?;
    let set = world.tell(CLIENT, &say("SET promise kept\r\n")).await?;
    let got = world.tell(CLIENT, &say("GET promise\r\n")).await?;
    ensure(got.as_str() == Some("$4\r\nkept\r\n"), || {
        format!("SET: {set}, GET: {got}")
    })?;
    let log = || async {
        let log = world.sidecar_log("redis").await?;
        let line = log
            .lines()
            .find(|line| line.contains("sa/productpage") && !line.contains("received=0 "))
            .map(str::to_owned);
        line.ok_or_else(|| "the sidecar of Redis logged no connection of productpage".to_owned())
    };
    let (line, _) = eventually(SOON, log).await?;
    Ok(format!(
        "PING, SET and GET answered; the sidecar of Redis logged: {line}"
    ))
}

async fn run_redis(world: &World, command: &[&str]) -> Step<()> {
    let placed = world.placed();
    let mut arguments = vec![
        "run",
        "--detach",
        "--name",
        "redis",
        "--namespace",
        "default",
        "--service-account",
        "redis",
        "--service",
        "redis",
        "--port",
        "tcp:6379",
        "--user",
        "1000",
    ];
    arguments.extend(placed.iter().map(String::as_str));
    arguments.push("--");
    arguments.extend(command);
    world.mesh(&arguments).await.map(drop)
}
