//! Writes the schema table: every message and enum of the API, in a form that is used where it lies in the binary.
//!
//! The crate `envoy-types` ships the descriptors that its types were generated from; the messages that it lacks are in `proto/`.

#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a build that cannot write the table must stop"
)]

#[path = "build/descriptor.rs"]
mod descriptor;
#[path = "build/table.rs"]
mod table;

use descriptor::FileDescriptorSet;
use prost::Message;
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let shipped = envoy_types_descriptors(&here);
    let ours = here.join("proto");
    for input in [here.join("build.rs"), here.join("build"), ours.clone(), shipped.clone()] {
        println!("cargo:rerun-if-changed={}", input.display());
    }

    let shipped = fs::read(&shipped).unwrap_or_else(|error| panic!("{}: {error}", shipped.display()));
    let mut files = FileDescriptorSet::decode(shipped.as_slice()).expect("envoy-types ships a FileDescriptorSet").file;
    files.extend(compile(&ours, &shipped).file);

    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("schema.bin");
    fs::write(&out, table::build(&files)).unwrap_or_else(|error| panic!("{}: {error}", out.display()));
}

/// Compiles our own `.proto` files; what they import comes from the descriptors shipped.
fn compile(directory: &Path, shipped: &[u8]) -> FileDescriptorSet {
    use protox::file::{ChainFileResolver, DescriptorSetFileResolver, GoogleFileResolver, IncludeFileResolver};
    let mut resolver = ChainFileResolver::new();
    resolver.add(IncludeFileResolver::new(directory.to_owned()));
    resolver.add(DescriptorSetFileResolver::decode(shipped).expect("envoy-types ships a FileDescriptorSet"));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    let mut names = Vec::new();
    proto_files(directory, directory, &mut names);
    names.sort();
    // None of the messages holds one, but an Any may.
    names.push("google/protobuf/field_mask.proto".into());
    compiler.open_files(&names).unwrap_or_else(|error| panic!("{error:?}"));
    FileDescriptorSet::decode(compiler.encode_file_descriptor_set().as_slice())
        .expect("protox writes a FileDescriptorSet")
}

fn proto_files(root: &Path, directory: &Path, into: &mut Vec<PathBuf>) {
    for entry in
        fs::read_dir(directory).expect("proto/ is there").map(|entry| entry.expect("proto/ is readable").path())
    {
        if entry.is_dir() {
            proto_files(root, &entry, into);
        } else if entry.extension().is_some_and(|extension| extension == "proto") {
            into.push(entry.strip_prefix(root).expect("it was found below").to_owned());
        }
    }
}

/// Where cargo keeps the source of the crate `envoy-types` that this build links.
fn envoy_types_descriptors(here: &Path) -> PathBuf {
    let output = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--filter-platform"])
        .arg(env::var("TARGET").expect("cargo sets TARGET"))
        .arg("--manifest-path")
        .arg(here.join("Cargo.toml"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    // Another version of envoy-types brings other descriptors, and only the lock file says so.
    if let Some(root) = metadata["workspace_root"].as_str() {
        println!("cargo:rerun-if-changed={root}/Cargo.lock");
    }
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let manifest = packages
        .iter()
        .find(|package| package["name"] == "envoy-types")
        .and_then(|package| package["manifest_path"].as_str());
    Path::new(manifest.expect("envoy-types is a dependency")).with_file_name("src").join("generated/types.bin")
}
