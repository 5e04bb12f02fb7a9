//! The client and the catalogue against a server on a real socket that fails in every way that
//! Nomad does.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mesh_nomad::catalogue::{FollowSettings, Follower};
use mesh_nomad::client::{Client, Config, Error, Reason, Request, Retry, Topic};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// What the server does with one request.
enum Answer {
    /// A whole reply: status, index, body.
    Reply(u16, u64, String),
    /// Half of a reply, then the end of the connection.
    Cut(String),
    /// The head of a reply, then nothing for ever.
    Silence,
    /// Nothing at all: the connection ends.
    Gone,
}

type Script = dyn Fn(&str) -> Answer + Send + Sync;

/// A client of a server that answers as told. The server ends with the set.
async fn serve(script: Arc<Script>) -> (Client, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            connections.spawn(connection(stream, Arc::clone(&script)));
        }
    });
    let mut config = Config::new(address.parse().unwrap());
    config.timeout = Duration::from_secs(2);
    config.retry = Retry {
        first: Duration::from_millis(1),
        most: Duration::from_millis(20),
        ..Retry::default()
    };
    (Client::new(config).unwrap(), tasks)
}

async fn connection(stream: TcpStream, script: Arc<Script>) {
    let mut stream = BufReader::new(stream);
    while let Some(target) = request(&mut stream).await {
        let (text, goes_on) = match script(&target) {
            Answer::Reply(status, index, body) => (reply(status, index, &body), true),
            Answer::Cut(body) => {
                let whole = reply(200, 9, &body);
                (whole[..whole.len() - body.len() / 2].to_owned(), false)
            }
            Answer::Silence => {
                let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
                stream.write_all(head.as_bytes()).await.unwrap();
                // Until the client has enough of it.
                drop(stream.read_u8().await);
                return;
            }
            Answer::Gone => return,
        };
        if stream.write_all(text.as_bytes()).await.is_err() || !goes_on {
            return;
        }
    }
}

fn reply(status: u16, index: u64, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} X\r\nX-Nomad-Index: {index}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// Reads one request; gives its target.
async fn request(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let (mut target, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse().unwrap();
        }
        if target.is_none() {
            target = line.split(' ').nth(1).map(str::to_owned);
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    target
}

/// A server whose first answers are these, and whose others are an empty list; and how many were
/// asked for.
async fn sequence(answers: Vec<Answer>) -> (Client, JoinSet<()>, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let answers = Mutex::new(answers.into_iter());
    let script = move |_: &str| {
        counted.fetch_add(1, Ordering::SeqCst);
        let next = answers.lock().unwrap().next();
        next.unwrap_or_else(|| Answer::Reply(200, 9, "[]".to_owned()))
    };
    let (client, tasks) = serve(Arc::new(script)).await;
    (client, tasks, count)
}

fn error(status: u16, text: &str) -> Answer {
    Answer::Reply(status, 0, text.to_owned())
}

#[tokio::test]
async fn a_read_survives_the_loss_of_the_leader_and_broken_connections() {
    let (client, _server, count) = sequence(vec![
        error(500, "rpc error: EOF"),
        error(500, "No cluster leader"),
        Answer::Gone,
        Answer::Cut(json!([{ "ID": "web" }]).to_string()),
        error(429, "Your IP is issuing too many concurrent connections"),
    ])
    .await;
    let jobs = client.jobs("default").await.unwrap();
    assert!(jobs.value.is_empty());
    assert_eq!(count.load(Ordering::SeqCst), 6);
}

#[tokio::test]
async fn a_write_that_may_have_had_an_effect_is_not_repeated() {
    let (client, _server, count) = sequence(vec![
        error(500, "No cluster leader"),
        error(500, "rpc error: EOF"),
    ])
    .await;
    let request = Request::put(&["v1", "system", "gc"]);
    let failed = client.send(&request).await.unwrap_err();
    assert_eq!(failed.reason(), Some(Reason::Rpc));
    assert_eq!(
        count.load(Ordering::SeqCst),
        2,
        "the first was certainly not carried out"
    );
}

#[tokio::test]
async fn an_error_keeps_status_and_text_and_is_not_repeated() {
    let text = "Enforcing job modify index 0: job already exists";
    let (client, _server, count) = sequence(vec![error(500, text)]).await;
    let Error::Api(found) = client.job("default", "web").await.unwrap_err() else {
        panic!("not an answer of Nomad");
    };
    assert_eq!((found.status, found.body.as_str()), (500, text));
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn silence_after_success_is_a_timeout_and_on_the_event_stream_a_denial() {
    let (client, _server) = serve(Arc::new(|_: &str| Answer::Silence)).await;
    let mut config = client.config().clone();
    config.timeout = Duration::from_millis(100);
    config.retry = Retry::NEVER;
    let hasty = Client::new(config).unwrap();
    let failed = hasty.jobs("default").await.unwrap_err();
    assert!(matches!(failed, Error::Timeout { .. }), "{failed}");
    let failed = client
        .events(&[Topic::all("Service")], "*", None)
        .await
        .unwrap_err();
    assert!(matches!(failed, Error::StreamDenied { .. }), "{failed}");
}

#[tokio::test]
async fn an_empty_list_with_index_zero_is_told_from_a_new_table() {
    let denied = |_: &str| Answer::Reply(200, 0, "[]".to_owned());
    let (client, _server) = serve(Arc::new(denied)).await;
    for failed in [
        client.services("*").await.unwrap_err(),
        client.jobs("*").await.unwrap_err(),
    ] {
        assert!(matches!(failed, Error::NotAllowed { .. }), "{failed}");
    }
    let new = |target: &str| {
        let index = u64::from(target.starts_with("/v1/services"));
        Answer::Reply(200, index, "[]".to_owned())
    };
    let (client, _server) = serve(Arc::new(new)).await;
    assert!(client.jobs("*").await.unwrap().value.is_empty());
}

/// A catalogue of services with one allocation each, at an index.
fn answer(target: &str, index: u64, count: u64) -> Answer {
    let uuid = |n: u64| format!("00000000-0000-0000-0000-0000000000{n:02x}");
    let registration = |n: u64| {
        json!([{
            "ID": format!("_nomad-task-{}-group-g-s{n}-http", uuid(n)), "ServiceName": format!("s{n}"),
            "Namespace": "default", "JobID": "web", "AllocID": uuid(n), "NodeID": "n", "Tags": [],
            "Datacenter": "dc1", "Address": "10.0.0.1", "Port": 25000, "CreateIndex": 5,
            "ModifyIndex": 5,
        }])
    };
    let path = target.split('?').next().unwrap_or_default();
    let body = match path.trim_start_matches("/v1/") {
        "services" => {
            let names = (0..count).map(|n| json!({ "ServiceName": format!("s{n}") }));
            json!([{ "Namespace": "default", "Services": names.collect::<Vec<_>>() }])
        }
        "allocations" => {
            let all = (0..count).map(|n| {
                json!({
                    "ID": uuid(n), "Namespace": "default", "JobID": "web", "TaskGroup": "g",
                    "NodeID": "n", "DesiredStatus": "run", "ClientStatus": "running",
                    "CreateIndex": 4, "ModifyIndex": 4, "AllocatedResources": { "Shared": {
                        "Ports": [{ "Label": "http", "Value": 25000, "To": 80 }],
                    } },
                })
            });
            json!(all.collect::<Vec<_>>())
        }
        "jobs" => json!([{ "ID": "web", "Namespace": "default", "JobModifyIndex": 3 }]),
        path => match path.strip_prefix("service/s").and_then(|n| n.parse().ok()) {
            Some(n) if n < count => registration(n),
            _ => json!([]),
        },
    };
    Answer::Reply(200, index, body.to_string())
}

#[tokio::test]
async fn the_catalogue_forgets_nothing_while_everything_fails_and_then_goes_on() {
    /// What the server is up to.
    #[derive(Clone, Copy, PartialEq)]
    enum Mood {
        Well(u64, u64),
        Failing,
    }
    let (mood, current) = watch::channel(Mood::Well(10, 2));
    let turns: Mutex<BTreeMap<String, usize>> = Mutex::default();
    let script = move |target: &str| {
        let path = target.split('?').next().unwrap_or_default().to_owned();
        if path == "/v1/event/stream" {
            return error(500, "rpc error: EOF");
        }
        match *current.borrow() {
            Mood::Well(index, count) => answer(target, index, count),
            Mood::Failing => {
                let mut turns = turns.lock().unwrap();
                let turn = turns.entry(path).or_default();
                *turn += 1;
                match *turn % 6 {
                    0 => error(500, "No cluster leader"),
                    1 => Answer::Gone,
                    2 => Answer::Cut(json!([{ "Namespace": "default" }]).to_string()),
                    3 => error(429, "too many"),
                    // A server that is behind, and one that lost everything, for a while.
                    4 => answer(target, 7, 1),
                    _ => Answer::Reply(200, 6, "[]".to_owned()),
                }
            }
        }
    };
    let (client, _server) = serve(Arc::new(script)).await;
    // Every failure is the catalogue's own to deal with.
    let mut config = client.config().clone();
    config.retry.attempts = 0;
    let client = Client::new(config).unwrap();
    let mut settings = FollowSettings::default();
    settings.wait = Duration::from_millis(10);
    settings.pace = Duration::from_millis(1);
    let follower = Follower::start(client, settings);
    let mut snapshots = follower.snapshots();
    let see = async |snapshots: &mut watch::Receiver<Arc<_>>, count: usize| {
        let wanted =
            |snapshot: &Arc<mesh_nomad::catalogue::Snapshot>| snapshot.instances.len() == count;
        timeout(Duration::from_secs(30), snapshots.wait_for(wanted))
            .await
            .is_ok_and(|seen| seen.is_ok())
    };
    assert!(
        see(&mut snapshots, 2).await,
        "{:?}",
        follower.status().borrow()
    );
    mood.send_replace(Mood::Failing);
    let mut status = follower.status();
    let failing = timeout(
        Duration::from_secs(30),
        status.wait_for(|status| status.failure.is_some()),
    );
    assert!(failing.await.is_ok_and(|seen| seen.is_ok()));
    let forgot = timeout(
        Duration::from_secs(3),
        snapshots.wait_for(|snapshot| snapshot.instances.len() != 2),
    );
    assert!(forgot.await.is_err(), "{:?}", follower.snapshot());
    mood.send_replace(Mood::Well(12, 3));
    assert!(
        see(&mut snapshots, 3).await,
        "{:?}",
        follower.status().borrow()
    );
    follower.close().await;
}
