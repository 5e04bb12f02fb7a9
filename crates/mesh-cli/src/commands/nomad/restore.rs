//! A backup becomes the store of a new install, before anything of the control plane reads it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_control::api::backup::Backup;
use mesh_control::api::bootstrap::Authority;
use mesh_control::store::{EtcdTls, StoreConfig};
use mesh_nomad::client::{Error, Exec, ExecOutput};
use mesh_nomad::install::{
    Component, Facts, Member, Settings, etcd_endpoints, restore_command, restore_job,
};
use mesh_nomad::model::allocation::Allocation;

use super::cluster::Cluster;
use super::failed;
use crate::commands::restore::fill;
use crate::exit::{Failure, REFUSED};

/// Reads a backup.
pub(super) fn read(file: &Path) -> Result<Backup, Failure> {
    let name = file.display();
    let text = fs::read_to_string(file)
        .map_err(|error| Failure::doing(format!("reading {name}"), &error))?;
    Backup::parse(&text).map_err(|problems| Failure::usage(format!("{name}: {problems}")))
}

/// Refuses a store that a control plane may be writing to.
pub(super) fn refuse_beside(facts: &Facts) -> Result<(), Failure> {
    let found: Vec<_> = Component::ALL
        .into_iter()
        .map(Component::job_id)
        .filter(|id| facts.job(id).is_some())
        .collect();
    if found.is_empty() {
        return Ok(());
    }
    let message = format!(
        "a backup is for an empty store, and a mesh is installed: job {}",
        found.join(", ")
    );
    Err(Failure::new(message).with_code(REFUSED).with_hint(
        "`mesh nomad uninstall --purge-data` first; or leave --restore out, if the store was filled before",
    ))
}

/// Fills the members of etcd, which nothing but this has a certificate for yet.
pub(super) async fn into_etcd(
    home: &Path,
    authority: Option<&Authority>,
    members: &[Member],
    backup: &Backup,
) -> Result<(), Failure> {
    let missing = || Failure::new("the CA of etcd is missing");
    let authority = authority.ok_or_else(missing)?;
    let files = Files::write(home, authority)?;
    let config = StoreConfig::etcd(etcd_endpoints(members), files.tls());
    let count = fill(&config, backup)
        .await
        .map_err(|failure| failure.with_hint(AGAIN))?;
    told(count, backup);
    Ok(())
}

/// Fills the file of a `--dev` install, which is where its node or volume is: by a command in a task
/// that does nothing else.
pub(super) async fn beside(
    cluster: &Cluster,
    settings: &Settings,
    members: &[Member],
    backup: &Backup,
) -> Result<(), Failure> {
    let job = restore_job(settings, members);
    let id = job.id.text();
    // One that an interrupted run left behind.
    cluster.end(id).await?;
    let filled = async {
        cluster.bring(&job).await?;
        let allocations = cluster.client.job_allocations(&cluster.namespace, id).await;
        let allocations = allocations
            .map_err(|error| failed(format!("reading the allocations of {id}"), &error))?
            .value;
        let running = allocations.iter().find(|found| Allocation::is_live(found));
        let gone = || Failure::new(format!("job {id} does not run"));
        let allocation = running.ok_or_else(gone)?.id.text();
        let words = restore_command(settings);
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let said = feed(cluster, allocation, id, &words, backup).await;
        let said = said.map_err(|error| failed("restoring beside the store", &error))?;
        judge(&said)
    }
    .await;
    let ended = cluster.end(id).await;
    filled?;
    ended?;
    told(backup.len(), backup);
    Ok(())
}

/// What the command in the task said at its end.
struct Said {
    text: String,
    code: i64,
}

async fn feed(
    cluster: &Cluster,
    allocation: &str,
    task: &str,
    words: &[&str],
    backup: &Backup,
) -> Result<Said, Error> {
    let mut exec = cluster.client.exec(allocation, task, words, false).await?;
    let text = backup.to_text().unwrap_or_default();
    for chunk in text.as_bytes().chunks(CHUNK) {
        exec.write_stdin(chunk).await?;
    }
    exec.close_stdin().await?;
    heard(&mut exec).await
}

async fn heard(exec: &mut Exec) -> Result<Said, Error> {
    let mut text = Vec::new();
    loop {
        match exec.next().await? {
            ExecOutput::Exited(code) => {
                let text = String::from_utf8_lossy(&text).trim().to_owned();
                return Ok(Said { text, code });
            }
            ExecOutput::Stdout(bytes) | ExecOutput::Stderr(bytes) => text.extend_from_slice(&bytes),
            _ => {}
        }
    }
}

fn judge(said: &Said) -> Result<(), Failure> {
    if said.code == 0 {
        return Ok(());
    }
    let failure = Failure::new(format!("restoring beside the store: {}", said.text));
    Err(if said.code == i64::from(REFUSED) {
        failure.with_code(REFUSED).with_hint(AGAIN)
    } else {
        failure
    })
}

fn told(count: usize, backup: &Backup) {
    let revision = backup.revision();
    println!("store: {count} objects of revision {revision}");
}

/// The certificate of one restore, on disk as long as it takes.
struct Files(PathBuf);

impl Files {
    fn write(home: &Path, authority: &Authority) -> Result<Self, Failure> {
        let pair = authority
            .etcd_client(LIFE)
            .map_err(|error| Failure::doing("making a certificate for a client of etcd", &error))?;
        let directory = home.join(format!("restore.{}", std::process::id()));
        let doing = |error: std::io::Error| {
            Failure::doing(format!("writing into {}", directory.display()), &error)
        };
        fs::create_dir_all(home).map_err(doing)?;
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .map_err(doing)?;
        let files = Self(directory.clone());
        for (name, text) in [
            ("ca.crt", authority.pem()),
            ("client.crt", &pair.certificate),
            ("client.key", &pair.key),
        ] {
            let mut options = fs::OpenOptions::new();
            let file = options.write(true).create_new(true).mode(0o600);
            let mut file = file.open(directory.join(name)).map_err(doing)?;
            file.write_all(text.as_bytes()).map_err(doing)?;
        }
        Ok(files)
    }

    fn tls(&self) -> EtcdTls {
        EtcdTls {
            authorities: Some(self.0.join("ca.crt")),
            certificate: Some(self.0.join("client.crt")),
            key: Some(self.0.join("client.key")),
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} could not be removed: {error}", self.0.display());
        }
    }
}

/// How long the certificate holds.
const LIFE: Duration = Duration::from_secs(3600);
/// How much of a backup goes into a frame.
const CHUNK: usize = 32 * 1024;
const AGAIN: &str = "a store that has anything is left alone: `mesh nomad uninstall --purge-data` empties it, and an install without --restore goes on with it";
