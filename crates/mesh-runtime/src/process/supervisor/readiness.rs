//! Asking a unit whether it can be used.

use std::io;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::children::Children;
use crate::process::launch;
use crate::process::record::UnitRecord;
use crate::{Check, Exit, Readiness};

/// Asks for ever and tells each change; ends when nobody listens.
pub(super) async fn ask(
    readiness: Readiness,
    record: Arc<UnitRecord>,
    children: Children,
    ready: watch::Sender<bool>,
) {
    let mut wait = FIRST_WAIT;
    loop {
        let answer = match &readiness.check {
            Check::Http { port, path } => {
                let answer = timeout(readiness.timeout, http(*port, path)).await;
                answer.is_ok_and(|answer| answer.is_ok_and(|status| (200..300).contains(&status)))
            }
            Check::Command(command) => run(command, &record, &children, readiness.timeout).await,
        };
        ready.send_if_modified(|before| std::mem::replace(before, answer) != answer);
        if ready.is_closed() {
            return;
        }
        if answer {
            sleep(readiness.interval).await;
        } else {
            // Quick at first, since what starts is ready soon, and never slower than the interval.
            sleep(wait.min(readiness.interval)).await;
            wait = wait.saturating_mul(2).min(LONGEST_WAIT);
        }
    }
}

/// The status of a `GET` on loopback, as far as its first line tells it.
async fn http(port: u16, path: &str) -> io::Result<u16> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.write_all(request(port, path).as_bytes()).await?;
    let mut start = [0; 12];
    stream.read_exact(&mut start).await?;
    status(&start).ok_or_else(|| io::Error::other("the answer is not HTTP/1"))
}

/// The whole of a `GET`.
pub(crate) fn request(port: u16, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n")
}

/// The status in `HTTP/1.1 200`. Source: RFC 9112, section 4.
pub(crate) fn status(start: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(start).ok()?;
    let (version, status) = text.split_once(' ')?;
    let known = matches!(version, "HTTP/1.1" | "HTTP/1.0");
    known.then(|| status.parse().ok()).flatten()
}

async fn run(
    command: &[String],
    record: &UnitRecord,
    children: &Children,
    limit: Duration,
) -> bool {
    let spawned =
        launch::prepare(command, &record.spec, record.cgroup.as_deref()).and_then(|mut command| {
            command.stdin(Stdio::null());
            command.stdout(Stdio::null()).stderr(Stdio::null());
            children.spawn(&mut command)
        });
    let Ok((child, exit)) = spawned else {
        return false;
    };
    let ended = timeout(limit, exit).await;
    if ended.is_err() {
        children.kill(child);
    }
    matches!(ended, Ok(Ok(Exit::Code(0))))
}

/// Between the first two questions.
const FIRST_WAIT: Duration = Duration::from_millis(5);

/// Between two questions, while the answer is no.
const LONGEST_WAIT: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_first_line_of_http_1_is_understood() {
        assert_eq!(status(b"HTTP/1.1 200"), Some(200));
        assert_eq!(status(b"HTTP/1.0 503"), Some(503));
        assert_eq!(status(b"HTTP/2.0 200"), None);
        assert_eq!(status(b"SSH-2.0-Open"), None);
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(start in any::<[u8; 12]>()) {
            let _: Option<u16> = status(&start);
        }
    }
}
