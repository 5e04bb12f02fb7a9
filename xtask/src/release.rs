//! The `mesh` binary as it is released: what is packaged, put into images and measured.
//!
//! It is linked statically, which costs 1 MB of 40: one file runs on every Linux of the architecture
//! and is all that an image needs. Hosts are all that is looked up through the C library. Of its name
//! service files and DNS are linked in; another module of `nsswitch.conf` is loaded only where the
//! machine has the same C library, and passed over where it has none.
//!
//! It is linked to fixed addresses, as programs in Go are. Otherwise each start writes 68,000
//! addresses into 1.1 MB of its data, pages that no two processes share: 0.8 ms of a start that takes
//! 0.9 ms without, and a workload has several processes of ours. What that gives up is a random
//! address for the program itself; stack, heap and mappings have theirs.
//!
//! What `mesh-cni` runs through stands side by side, as the list says that [`crate::layout`] makes.

use std::path::{Path, PathBuf};

use crate::Failure;
use crate::cmd::Cmd;

/// The package that has the program.
pub(crate) const PACKAGE: &str = "mesh-cli";

/// The platform that rustc builds for here.
pub(crate) fn host(root: &Path) -> Result<String, Failure> {
    let about = Cmd::new("rustc", root).arg("-vV").read()?;
    let host = about
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .ok_or("`rustc -vV` names no host")?;
    Ok(host.to_owned())
}

/// The linker script with the list of what stands side by side.
pub(crate) fn layout(root: &Path) -> PathBuf {
    root.join("crates").join(PACKAGE).join("mesh-cni.ld")
}

/// Where the linker says what it put where.
pub(crate) fn map(root: &Path) -> Result<PathBuf, Failure> {
    Ok(directory(root)?.join("mesh.map"))
}

/// Where the build puts what it makes.
fn directory(root: &Path) -> Result<PathBuf, Failure> {
    Ok(root.join("target").join(host(root)?).join("release"))
}

/// Builds it; where it is.
pub(crate) fn build(root: &Path) -> Result<PathBuf, Failure> {
    let host = host(root)?;
    let mut maps = vec![(root.to_owned(), "/mesh")];
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    maps.extend(home.map(|home| (home, "/cargo")));
    let rust: Vec<String> = maps
        .iter()
        .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()))
        .collect();
    let c: Vec<String> = maps
        .iter()
        .map(|(from, to)| format!("-ffile-prefix-map={}={to}", from.display()))
        .collect();
    // With a platform named, the flags are the program's and not those of build scripts, which
    // cannot be linked in this way.
    let variable = host.replace('-', "_");
    Cmd::cargo(root)
        .args(["build", "--release", "--locked", "--package", PACKAGE])
        .args(["--bins", "--target", &host])
        .env(
            &format!("CARGO_TARGET_{}_RUSTFLAGS", variable.to_uppercase()),
            format!(
                "-C target-feature=+crt-static -C relocation-model=static {}",
                rust.join(" ")
            ),
        )
        .env(&format!("CFLAGS_{variable}"), c.join(" "))
        .env("MESH_LAYOUT", layout(root))
        .env("MESH_LINK_MAP", map(root)?)
        .run()?;
    Ok(directory(root)?.join("mesh"))
}
