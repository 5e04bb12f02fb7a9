//! Hands the linker what the release build has for it; without it nothing is special.

use std::env;

/// A script with the order of the code (`mesh-cni.ld`).
const LAYOUT: &str = "MESH_LAYOUT";
/// Where the linker is to tell what it put where.
const MAP: &str = "MESH_LINK_MAP";

fn main() {
    for variable in [LAYOUT, MAP] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    if let Ok(script) = env::var(LAYOUT) {
        println!("cargo::rerun-if-changed={script}");
        println!("cargo::rustc-link-arg-bin=mesh=-Wl,-T,{script}");
    }
    if let Ok(map) = env::var(MAP) {
        println!("cargo::rustc-link-arg-bin=mesh=-Wl,-Map={map}");
    }
}
