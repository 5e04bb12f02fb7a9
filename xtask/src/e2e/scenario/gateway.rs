//! A gateway lets the outside in, by host and certificate, and nothing else.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::routing::{apply, delete};
use crate::Ground;
use crate::e2e::nomad::NODE;
use crate::e2e::world::{Said, Step, World, ensure, eventually};

const SOON: Duration = Duration::from_secs(20);

/// What is asked for, and that only details answers so.
const PATH: &str = "/only/from-outside";
const ANSWER: &str = "\"name\": \"details\"";

pub(crate) async fn rows(world: &World) {
    let result = edge(world).await;
    world.record(
        "a gateway lets the outside in, by host and certificate, and nothing else",
        result,
    );
}

async fn edge(world: &World) -> Step<String> {
    for name in ["shop", "partner", "client", "next"] {
        certificate(world, name).await?;
    }
    let address = start(world).await?;
    secret(world, "shop", "shop").await?;
    secret(world, "partner", "partner").await?;
    let roots = format!("--from-file=ca.crt={}", file(world, "client.crt"));
    let made = ["create", "secret", "generic", "partner-cacert", &roots];
    world.kubectl(&[&made[..], &beside(world)].concat()).await?;
    apply(world, "edge.yaml").await?;
    let listed = world.kubectl(&["get", "gw", "-o", "name"]).await?;
    ensure(listed.contains("gateway.networking.istio.io/edge"), || {
        format!("`kubectl get gw` says {listed}")
    })?;
    let served = served(world, &address).await?;
    let refused = refused(world, &address).await?;
    let rotated = rotation(world, &address).await?;
    let status = world.mesh(&["proxy-status"]).await?;
    let name = match world.ground() {
        Ground::Nomad => "/ingress",
        _ => "default/edge",
    };
    ensure(status.contains(name), || {
        format!("`mesh proxy-status` does not name the gateway: {status}")
    })?;
    let secrets = ["delete", "secret", "shop", "partner", "partner-cacert"];
    world
        .kubectl(&[&secrets[..], &beside(world)].concat())
        .await?;
    delete(world, "edge.yaml").await?;
    match world.ground() {
        Ground::Nomad => world.mesh(&["nomad", "install", "--ingress", "0"]).await?,
        _ => world.mesh(&["rm", "edge"]).await?,
    };
    Ok(format!("{served}; {refused}; {rotated}"))
}

/// Where the Secrets of the gateway are: in its own namespace.
fn beside(world: &World) -> [&'static str; 2] {
    match world.ground() {
        Ground::Nomad => ["--namespace", "mesh-ingress"],
        _ => ["--namespace", "default"],
    }
}

/// Starts the gateway, and says where it is.
async fn start(world: &World) -> Step<String> {
    if world.ground() == Ground::Nomad {
        // There is one node.
        let values = [("--ingress 2", "--ingress 1")];
        world
            .as_the_page_says(&["mesh nomad install --ingress "], &values)
            .await?;
        return Ok(NODE.to_owned());
    }
    let started = world
        .mesh(&[
            "run",
            "--detach",
            "--gateway",
            "--name",
            "edge",
            "--label",
            "istio=ingressgateway",
        ])
        .await?;
    started
        .rsplit_once(" at ")
        .and_then(|(_, addresses)| addresses.split(',').next())
        .map(|address| address.trim().to_owned())
        .ok_or_else(|| format!("`mesh run` says {started}"))
}

/// What the gateway serves.
async fn served(world: &World, address: &str) -> Step<String> {
    let simple = || async {
        let said = https(world, address, "shop", "shop.example.com", &[]).await?;
        ensure(said.stdout.contains(ANSWER), || {
            format!("HTTPS: {}{}", said.stdout, said.stderr.trim())
        })
    };
    eventually(SOON, simple).await?;
    let plain = curl(world, address, "http://open.example.com", &[]).await?;
    ensure(plain.stdout.contains(ANSWER), || {
        format!("HTTP: {}{}", plain.stdout, plain.stderr.trim())
    })?;
    let (key, own) = (file(world, "client.key"), file(world, "client.crt"));
    let shown = ["--key", &key, "--cert", &own];
    let mutual = https(world, address, "partner", "partner.example.com", &shown).await?;
    ensure(mutual.stdout.contains(ANSWER), || {
        format!("MUTUAL: {}{}", mutual.stdout, mutual.stderr.trim())
    })?;
    let head = ["--head"];
    let moved = curl(world, address, "http://shop.example.com", &head).await?;
    let wanted = format!("location: https://shop.example.com{PATH}");
    ensure(
        moved.stdout.contains(" 301 ") && moved.stdout.to_lowercase().contains(&wanted),
        || format!("redirect: {}", moved.stdout),
    )?;
    let include = ["--include"];
    let server = https(world, address, "shop", "shop.example.com", &include).await?;
    ensure(server.stdout.starts_with("HTTP/2 200"), || {
        format!("HTTP/2: {}{}", server.stdout, server.stderr.trim())
    })?;
    Ok("HTTP, HTTP/2 by SNI, MUTUAL and the redirect answered".to_owned())
}

/// What it refuses: each a control of what it serves.
async fn refused(world: &World, address: &str) -> Step<String> {
    let unknown = curl(world, address, "http://nobody.example.com", &["--head"]).await?;
    ensure(unknown.stdout.contains(" 404 "), || {
        format!("an unknown host: {}", unknown.stdout)
    })?;
    let nobody = https(world, address, "partner", "partner.example.com", &[]).await?;
    ensure(nobody.code != 0 && nobody.stdout.is_empty(), || {
        format!("MUTUAL without a certificate: {}", nobody.stdout)
    })?;
    for host in ["nobody.example.com", "missing.example.com"] {
        let wrong = https(world, address, "shop", host, &["--insecure"]).await?;
        ensure(wrong.code != 0 && wrong.stdout.is_empty(), || {
            format!("the server name {host}: {}", wrong.stdout)
        })?;
    }
    let url = "http://shop.example.com:443";
    let plain = curl(world, address, url, &[]).await?;
    ensure(plain.code != 0 && plain.stdout.is_empty(), || {
        format!("plaintext at 443: {}", plain.stdout)
    })?;
    Ok(
        "404 for an unknown host; refused: a wrong SNI, plaintext at 443, MUTUAL without a \
        certificate, a server without its Secret"
            .to_owned(),
    )
}

/// A connection of HTTP/1.1 over TLS that stays open.
struct Kept {
    process: Child,
    input: ChildStdin,
    output: tokio::io::Lines<BufReader<ChildStdout>>,
}

/// A changed Secret is served to new connections, and old ones go on.
async fn rotation(world: &World, address: &str) -> Step<String> {
    let mut kept = Kept::open(world, address)?;
    kept.ask().await?;
    let (before, _) = shown(world, address).await?;
    let create = create(world, "shop", "next");
    let mut create: Vec<&str> = create.iter().map(String::as_str).collect();
    create.extend(["--dry-run=client", "-o", "json"]);
    let json = world.kubectl(&create).await?;
    let replaced = world.home().join("shop.json");
    std::fs::write(&replaced, json).map_err(|error| error.to_string())?;
    let replaced = replaced.display().to_string();
    world.kubectl(&["replace", "-f", &replaced]).await?;
    let changed = || async {
        let (now, _) = shown(world, address).await?;
        ensure(now != before, || format!("the certificate is still {now}"))
    };
    let ((), took) = eventually(SOON, changed).await?;
    let next = https(world, address, "next", "shop.example.com", &[]).await?;
    ensure(next.stdout.contains(ANSWER), || {
        format!("with the next certificate: {}", next.stderr.trim())
    })?;
    kept.ask().await?;
    let ended = kept.process.start_kill();
    ended.map_err(|error| error.to_string())?;
    Ok(format!(
        "a changed Secret was served after {} ms, and a connection of before went on",
        took.as_millis()
    ))
}

/// The fingerprint of the certificate that is shown.
async fn shown(world: &World, address: &str) -> Step<(String, Said)> {
    let target = format!("{address}:443");
    let arguments = [
        "s_client",
        "-connect",
        &target,
        "-servername",
        "shop.example.com",
        "-showcerts",
    ];
    let said = world.says("openssl", &arguments).await?;
    let pem = said.stdout.split("-----BEGIN CERTIFICATE-----").nth(1);
    let pem = pem.and_then(|rest| rest.split("-----END").next());
    let pem = pem.ok_or_else(|| format!("no certificate: {}", said.stderr))?;
    Ok((pem.trim().to_owned(), said))
}

impl Kept {
    fn open(world: &World, address: &str) -> Step<Self> {
        let mut process = Command::new(world.bin("openssl"))
            .args(["s_client", "-quiet", "-servername", "shop.example.com"])
            .args(["-connect", &format!("{address}:443")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("openssl: {error}"))?;
        let (input, output) = (process.stdin.take(), process.stdout.take());
        let (Some(input), Some(output)) = (input, output) else {
            return Err("openssl has no pipes".to_owned());
        };
        Ok(Self {
            process,
            input,
            output: BufReader::new(output).lines(),
        })
    }

    /// Asks once more; the connection is left as it was.
    async fn ask(&mut self) -> Step<()> {
        let request = format!("HEAD {PATH} HTTP/1.1\r\nhost: shop.example.com\r\n\r\n");
        let sent = self.input.write_all(request.as_bytes()).await;
        sent.map_err(|error| format!("the kept connection: {error}"))?;
        let mut status = None;
        loop {
            let line = timeout(SOON, self.output.next_line()).await;
            let line = line.map_err(|_elapsed| "the kept connection is silent".to_owned())?;
            let line = line.map_err(|error| format!("the kept connection: {error}"))?;
            let line = line.ok_or("the kept connection was closed")?;
            let line = line.trim_end().to_owned();
            if line.is_empty() {
                break;
            }
            ensure(line.to_lowercase() != "connection: close", || {
                "the kept connection is to be closed".to_owned()
            })?;
            status.get_or_insert(line);
        }
        let status = status.unwrap_or_default();
        ensure(status.contains(" 200"), || {
            format!("the kept connection was answered {status}")
        })
    }
}

/// A request from outside to a host, whose address is the gateway's.
async fn curl(world: &World, address: &str, url: &str, more: &[&str]) -> Step<Said> {
    let whole = format!("{url}{PATH}");
    let place = format!("::{address}:");
    let mut arguments = vec![
        "--silent",
        "--show-error",
        "--max-time",
        "10",
        "--connect-to",
        &place,
    ];
    arguments.extend(more);
    arguments.push(&whole);
    world.says("curl", &arguments).await
}

/// The same over TLS, where the certificate must be this one.
async fn https(
    world: &World,
    address: &str,
    certificate: &str,
    host: &str,
    more: &[&str],
) -> Step<Said> {
    let roots = file(world, &format!("{certificate}.crt"));
    let mut all = vec!["--cacert", roots.as_str()];
    all.extend(more);
    curl(world, address, &format!("https://{host}"), &all).await
}

/// Makes a certificate that signs itself, and its key.
async fn certificate(world: &World, name: &str) -> Step<()> {
    let (key, own) = (
        file(world, &format!("{name}.key")),
        file(world, &format!("{name}.crt")),
    );
    let host = if name == "next" { "shop" } else { name };
    let names = format!("subjectAltName=DNS:{host}.example.com");
    let subject = format!("/CN={name}");
    let arguments = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
        "-subj",
        &subject,
        "-addext",
        &names,
        "-keyout",
        &key,
        "-out",
        &own,
    ];
    let said = world.says("openssl", &arguments).await?;
    ensure(said.code == 0, || format!("openssl: {}", said.stderr))
}

fn file(world: &World, name: &str) -> String {
    world.home().join(name).display().to_string()
}

async fn secret(world: &World, name: &str, certificate: &str) -> Step<()> {
    let arguments = create(world, name, certificate);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    world.kubectl(&arguments).await.map(drop)
}

fn create(world: &World, name: &str, certificate: &str) -> [String; 8] {
    let own = file(world, &format!("{certificate}.crt"));
    let key = file(world, &format!("{certificate}.key"));
    let [flag, namespace] = beside(world);
    [
        "create".to_owned(),
        "secret".to_owned(),
        "tls".to_owned(),
        name.to_owned(),
        format!("--cert={own}"),
        format!("--key={key}"),
        flag.to_owned(),
        namespace.to_owned(),
    ]
}
