//! The workspace keeps its shape: which crate may depend on which, where the heavy crates live, who may be unsafe.
//!
//! Reads `cargo metadata`. The table below is design section 3; a new crate fails here until it has a line.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the workspace cannot be read or breaks its rules: the test fails"
)]

use std::collections::BTreeSet;
use std::path::Path;

use cargo_metadata::{CargoOpt, DependencyKind, Metadata, MetadataCommand, Package};

/// Folder, and the workspace crates it may use outside its tests.
const EDGES: [(&str, &[&str]); 9] = [
    ("api", &[]),
    ("rules", &["api"]),
    ("xsk", &[]),
    ("switch", &["rules", "xsk", "api"]),
    ("control", &["api"]),
    ("cli", &["api", "rules", "lab"]),
    ("pktgen", &["xsk"]),
    ("lab", &["api"]),
    ("bench", &["api", "rules", "xsk", "switch", "pktgen", "lab"]),
];

/// Crates that may be linked into these folders only, by the beginning of their name.
const CONFINED: [(&str, &[&str]); 4] = [
    ("tokio", &["control", "cli", "switch", "bench"]),
    ("aws-", &["control"]),
    ("kube", &["control"]),
    ("k8s-openapi", &["control"]),
];

/// The one crate that may hold unsafe code.
const UNSAFE: &str = "xsk";

/// The workspace as it is built here: other platforms' crates need not be at hand.
fn metadata() -> Metadata {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    MetadataCommand::new()
        .manifest_path(manifest)
        .features(CargoOpt::AllFeatures)
        .other_options(vec!["--locked".to_owned(), "--filter-platform".to_owned(), platform])
        .exec()
        .unwrap()
}

/// Folder of a workspace member; its package is named after it.
fn folder(package: &Package) -> &str {
    package
        .name
        .strip_prefix("espalier-")
        .unwrap_or_else(|| panic!("package {} must be named espalier-<folder>", package.name))
}

fn allowed(folder: &str) -> &'static [&'static str] {
    EDGES.iter().find(|(name, _)| *name == folder).map(|(_, edges)| *edges).unwrap_or_else(|| {
        panic!(
            "crate {folder} is in no table: add it to EDGES in api/tests/edges.rs and to docs/ARCHITECTURE.md"
        )
    })
}

#[test]
fn crates_use_only_the_crates_they_may() {
    let metadata = metadata();
    for package in metadata.workspace_packages() {
        let allowed = allowed(folder(package));
        for dependency in package.dependencies.iter().filter(|d| d.kind != DependencyKind::Development) {
            if let Some(other) = dependency.name.strip_prefix("espalier-") {
                assert!(allowed.contains(&other), "{} must not depend on {other}", package.name);
            }
        }
    }
}

#[test]
fn a_folder_is_named_as_its_package() {
    let metadata = metadata();
    for package in metadata.workspace_packages() {
        let expected = metadata.workspace_root.join(folder(package)).join("Cargo.toml");
        assert_eq!(package.manifest_path, expected);
    }
}

#[test]
fn heavy_crates_stay_where_they_belong() {
    let metadata = metadata();
    for package in metadata.workspace_packages() {
        let folder = folder(package);
        for linked in linked(&metadata, package) {
            for (prefix, folders) in CONFINED {
                let confined = linked == prefix || linked.starts_with(prefix) && prefix.ends_with('-');
                assert!(
                    !confined || folders.contains(&folder),
                    "{} links {linked}, which belongs in {folders:?} only",
                    package.name
                );
            }
        }
    }
}

/// Names of everything a package links or builds with, at any depth, its tests apart.
fn linked(metadata: &Metadata, package: &Package) -> BTreeSet<String> {
    let nodes = &metadata.resolve.as_ref().unwrap().nodes;
    let mut waiting = vec![&package.id];
    let mut seen = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        let node = nodes.iter().find(|node| node.id == *id).unwrap();
        for dependency in &node.deps {
            let runs = dependency.dep_kinds.iter().any(|kind| kind.kind != DependencyKind::Development);
            if runs && seen.insert(&dependency.pkg) {
                waiting.push(&dependency.pkg);
            }
        }
    }
    seen.into_iter().map(|id| metadata[id].name.to_string()).collect()
}

#[test]
fn unsafe_code_is_forbidden_everywhere_but_in_one_crate() {
    let metadata = metadata();
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let workspace = read(metadata.workspace_root.join("Cargo.toml").as_std_path());
    let rust_lints = table(&workspace, "[workspace.lints.rust]");
    assert!(
        rust_lints.contains(&"unsafe_code = \"forbid\""),
        "the workspace's lints must forbid unsafe_code"
    );
    for package in metadata.workspace_packages() {
        if folder(package) == UNSAFE {
            continue;
        }
        let manifest = read(package.manifest_path.as_std_path());
        assert!(
            table(&manifest, "[lints]").contains(&"workspace = true"),
            "{} must have `[lints] workspace = true`: it forbids unsafe code",
            package.name
        );
    }
}

/// Lines of a TOML table, up to the next one.
fn table<'a>(text: &'a str, heading: &str) -> Vec<&'a str> {
    let lines = text.lines().map(str::trim);
    lines.skip_while(|line| *line != heading).skip(1).take_while(|line| !line.starts_with('[')).collect()
}
