//! `cargo xtask codegen`: writes `crates/mesh-proto/src/generated` from .proto files, without protoc.
//!
//! Envoy's files come out of the package `envoy-types`, which ships them; nothing foreign is vendored.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use prost::Message as _;

/// The files whose messages we use; what they import comes along.
const FILES: &[&str] = &[
    "envoy/admin/v3/config_dump.proto",
    "envoy/config/bootstrap/v3/bootstrap.proto",
    "envoy/config/cluster/v3/cluster.proto",
    "envoy/config/endpoint/v3/endpoint.proto",
    "envoy/config/listener/v3/listener.proto",
    "envoy/config/route/v3/route.proto",
    "envoy/extensions/access_loggers/grpc/v3/als.proto",
    "envoy/extensions/access_loggers/stream/v3/stream.proto",
    "envoy/extensions/clusters/original_dst/v3/original_dst.proto",
    "envoy/extensions/filters/http/fault/v3/fault.proto",
    "envoy/extensions/filters/http/rbac/v3/rbac.proto",
    "envoy/extensions/filters/http/router/v3/router.proto",
    "envoy/extensions/filters/listener/http_inspector/v3/http_inspector.proto",
    "envoy/extensions/filters/listener/original_dst/v3/original_dst.proto",
    "envoy/extensions/filters/listener/tls_inspector/v3/tls_inspector.proto",
    "envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto",
    "envoy/extensions/filters/network/rbac/v3/rbac.proto",
    "envoy/extensions/filters/network/set_filter_state/v3/set_filter_state.proto",
    "envoy/extensions/filters/network/tcp_proxy/v3/tcp_proxy.proto",
    "envoy/extensions/path/match/uri_template/v3/uri_template_match.proto",
    "envoy/extensions/resource_monitors/downstream_connections/v3/downstream_connections.proto",
    "envoy/extensions/retry/host/previous_hosts/v3/previous_hosts.proto",
    "envoy/extensions/transport_sockets/tls/v3/tls.proto",
    "envoy/extensions/upstreams/http/v3/http_protocol_options.proto",
    "envoy/service/accesslog/v3/als.proto",
    "envoy/service/discovery/v3/ads.proto",
    "envoy/service/secret/v3/sds.proto",
    "etcd/rpc.proto",
    "forward_proxy/cluster.proto",
    "forward_proxy/filter.proto",
    "istio/v1/auth/ca.proto",
    "kubernetes/object.proto",
    "kubernetes/review.proto",
    "mesh/agent/v1/agent.proto",
    "openapi/v2/openapi.proto",
];

/// Where `envoy-types` keeps the roots of its .proto trees.
const ENVOY_ROOTS: &[&str] = &[
    "proto/data-plane-api",
    "proto/cel-spec/proto",
    "proto/client_model",
    "proto/googleapis",
    "proto/opentelemetry-proto",
    "proto/protoc-gen-validate",
    "proto/xds",
];

/// Regenerates, or with `check` compares and changes nothing.
pub(crate) fn run(root: &Path, check: bool) -> Result<(), Box<dyn Error>> {
    let target = root.join("crates/mesh-proto/src/generated");
    let fresh = root.join("target/codegen");
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    fs::create_dir_all(&fresh)?;
    generate(root, &fresh)?;

    let (old, new) = (read_dir(&target)?, read_dir(&fresh)?);
    if check {
        let stale: Vec<_> = new
            .keys()
            .chain(old.keys())
            .filter(|name| old.get(*name) != new.get(*name))
            .map(|name| name.display().to_string())
            .collect();
        return match stale.as_slice() {
            [] => Ok(()),
            names => Err(format!("stale: {}; run `cargo xtask codegen`", names.join(", ")).into()),
        };
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        fs::remove_file(target.join(name))?;
    }
    for (name, content) in &new {
        fs::write(target.join(name), content)?;
    }
    eprintln!("{} files in {}", new.len(), target.display());
    Ok(())
}

fn generate(root: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let envoy = envoy_types(root)?;
    let mut includes: Vec<PathBuf> = ENVOY_ROOTS.iter().map(|path| envoy.join(path)).collect();
    includes.push(root.join("crates/mesh-proto/proto"));
    let mut descriptors = protox::compile(FILES, includes)?;
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;

    let mut config = tonic_prost_build::Config::new();
    config
        .bytes(["."])
        // A hash map encodes in random order, and content-hash versions would flap.
        .btree_map(["."])
        .disable_comments(["."])
        .compile_well_known_types()
        .enable_type_names()
        .type_name_domain(["."], "type.googleapis.com")
        .include_file("tree.rs");
    tonic_prost_build::configure()
        .out_dir(out)
        .emit_rerun_if_changed(false)
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}

/// The unpacked sources of `envoy-types`, as cargo resolved it.
fn envoy_types(root: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version", "1", "--all-features"])
        .current_dir(root)
        .output()?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    metadata
        .get("packages")
        .and_then(serde_json::Value::as_array)
        .into_iter()
        .flatten()
        .find(|package| package["name"] == "envoy-types")
        .and_then(|package| package["manifest_path"].as_str())
        .and_then(|manifest| Path::new(manifest).parent())
        .map(Path::to_owned)
        .ok_or_else(|| "`cargo metadata` knows no package `envoy-types`".into())
}

fn read_dir(dir: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>, Box<dyn Error>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        files.insert(PathBuf::from(entry.file_name()), fs::read(entry.path())?);
    }
    Ok(files)
}
