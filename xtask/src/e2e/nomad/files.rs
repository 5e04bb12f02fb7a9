//! Programs as nodes download them: archives and their checksums, over HTTP.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tokio::fs::File;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::lab::shell;
use crate::e2e::world::{Step, World};

/// Files over HTTP for as long as this lives.
#[derive(Debug)]
pub(crate) struct Files {
    address: SocketAddr,
    /// Checksums by name.
    sums: BTreeMap<&'static str, String>,
    served: JoinHandle<()>,
}

/// What there is: `mesh` in two releases, which differ in their number alone, and etcd.
const NAMES: [&str; 3] = ["mesh.tar.gz", "mesh-2.tar.gz", "etcd"];

/// Puts the archives together: `$1` has the programs.
const PACK: &str = "
cd files
for release in 1 2; do echo $release > RELEASE; tar -cf mesh-$release.tar -C ../bin mesh -C ../files RELEASE; done
mv mesh-1.tar mesh.tar
gzip -1 mesh.tar mesh-2.tar
sha256sum mesh.tar.gz mesh-2.tar.gz etcd > SHA256SUMS
";

// === impl Files ===

impl Files {
    /// Makes the files and serves them at an address.
    pub(crate) async fn serve(world: &World, address: SocketAddr) -> Step<Self> {
        let directory = world.home().join("files");
        fs::create_dir_all(&directory).map_err(io)?;
        let etcd = world.bin("etcd").canonicalize().map_err(io)?;
        symlink(etcd, directory.join("etcd")).map_err(io)?;
        let pack = format!("cd {}\n{PACK}", world.home().display());
        shell(&pack, world.home()).await?;
        let listed = fs::read_to_string(directory.join("SHA256SUMS")).map_err(io)?;
        let sum = |name: &str| {
            let mut pairs = listed.lines().filter_map(|line| line.split_once("  "));
            let found = pairs.find(|(_, file)| *file == name);
            found.map(|(sum, _)| sum.to_owned())
        };
        let sums = NAMES.into_iter();
        let sums = sums.filter_map(|name| Some((name, sum(name)?))).collect();
        let listener = TcpListener::bind(address).await.map_err(io)?;
        let served = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Who hangs up in the middle asks again.
                tokio::spawn(answer(stream, directory.clone()));
            }
        });
        Ok(Self {
            address,
            sums,
            served,
        })
    }

    /// `URL#sha256:HEX` of a file.
    pub(crate) fn artifact(&self, name: &str) -> Step<String> {
        let sum = self.sums.get(name);
        let sum = sum.ok_or_else(|| format!("there is no file {name} to download"))?;
        Ok(format!("http://{}/{name}#sha256:{sum}", self.address))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.served.abort();
    }
}

/// Answers one request: the whole file, or nothing.
async fn answer(mut stream: TcpStream, directory: PathBuf) -> std::io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut lines = BufReader::new(reader).lines();
    let request = lines.next_line().await?.unwrap_or_default();
    while lines
        .next_line()
        .await?
        .is_some_and(|line| !line.is_empty())
    {}
    let mut words = request.split(' ');
    let is_head = words.next() == Some("HEAD");
    let path = words.next().unwrap_or_default().split('?').next();
    let name = path.unwrap_or_default().trim_start_matches('/');
    let Some(mut file) = open(&directory, name).await else {
        let none = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return writer.write_all(none).await;
    };
    let length = file.metadata().await?.len();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    writer.write_all(head.as_bytes()).await?;
    if !is_head {
        tokio::io::copy(&mut file, &mut writer).await?;
    }
    writer.shutdown().await
}

async fn open(directory: &Path, name: &str) -> Option<File> {
    let name = NAMES.into_iter().find(|known| *known == name)?;
    File::open(directory.join(name)).await.ok()
}

#[expect(clippy::needless_pass_by_value, reason = "as map_err has it")]
fn io(error: std::io::Error) -> String {
    format!("files to download: {error}")
}
