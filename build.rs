//! Builds the runner and embeds it, so that one `cargo build` makes everything.
//!
//! `SETPOINT_RUNNER_BIN=path` embeds that file instead, `SETPOINT_RUNNER_BIN=none` nothing.
//! `SETPOINT_RUNNER_TARGETS="x86_64-unknown-linux-musl aarch64-unknown-linux-musl"` builds for these targets.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

/// What the runner is made of. Anything else may change without building it again.
const SOURCES: &[&str] = &[
    "build.rs",
    "Cargo.lock",
    "Cargo.toml",
    "src/lib.rs",
    "src/diagnostic.rs",
    "src/module",
    "src/protocol",
    "src/runner",
    "src/system",
    "src/value.rs",
];

fn main() {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    for name in ["SETPOINT_RUNNER_BIN", "SETPOINT_RUNNER_TARGETS"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    for source in SOURCES.iter().filter(|source| root.join(source).exists()) {
        println!("cargo::rerun-if-changed={source}");
    }
    if env::var_os("CARGO_FEATURE_CONTROLLER").is_none() {
        // This is the runner itself being built.
        return;
    }
    let runners: Vec<(String, PathBuf)> = match env::var("SETPOINT_RUNNER_BIN").as_deref() {
        Ok("none") => Vec::new(),
        Ok(path) if !path.is_empty() => {
            println!("cargo::rerun-if-changed={path}");
            let path = root.join(path);
            vec![(machine_of(&path), path)]
        }
        _ => targets().iter().map(|target| build(&root, target)).collect(),
    };
    embed(&runners);
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}

/// What to build for: what was asked for, or this machine's kind, static.
fn targets() -> Vec<String> {
    if let Ok(listed) = env::var("SETPOINT_RUNNER_TARGETS") {
        let targets: Vec<String> = listed.split_whitespace().map(String::from).collect();
        if !targets.is_empty() {
            return targets;
        }
    }
    let arch = variable("CARGO_CFG_TARGET_ARCH");
    let musl = format!("{arch}-unknown-linux-musl");
    vec![if has_std(&musl) { musl } else { format!("{arch}-unknown-linux-gnu") }]
}

/// Whether the standard library for a target is installed.
fn has_std(target: &str) -> bool {
    let output =
        Command::new(variable("RUSTC")).args(["--print", "target-libdir", "--target", target]).output();
    output.is_ok_and(|output| {
        let path = String::from_utf8_lossy(&output.stdout);
        output.status.success()
            && fs::read_dir(path.trim()).is_ok_and(|entries| {
                entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
            })
    })
}

/// Builds the runner for a target; returns its architecture as `uname -m` says it, and the file.
fn build(root: &Path, target: &str) -> (String, PathBuf) {
    // A place of its own: the outer cargo holds the lock of the usual one.
    let place = PathBuf::from(variable("OUT_DIR")).join("runner");
    let release = variable("PROFILE") == "release";
    let profile = if release { "runner" } else { "runner-dev" };
    let mut command = Command::new(variable("CARGO"));
    command
        .current_dir(root)
        .args(["build", "--bin", "setpoint-runner", "--no-default-features", "--profile", profile])
        .args(["--target", target, "--target-dir"])
        .arg(&place);
    if root.join("Cargo.lock").exists() {
        command.arg("--locked");
    }
    // What the outer build was told does not hold for this one.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let inherited =
            ["CARGO_FEATURE_", "CARGO_CFG_", "CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_PROFILE_"];
        if inherited.iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    for name in [
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "RUSTC_WORKSPACE_WRAPPER",
        "CARGO_BUILD_RUSTFLAGS",
    ] {
        command.env_remove(name);
    }
    // Without relocations, which are a twelfth of its size.
    let mut flags = vec!["-C", "target-feature=+crt-static", "-C", "relocation-model=static"];
    if target.ends_with("-musl") && !target.starts_with(&variable("CARGO_CFG_TARGET_ARCH")) {
        // Pure Rust: no C compiler for the other machine is needed.
        flags.extend(["-C", "linker=rust-lld", "-C", "link-self-contained=yes"]);
    }
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    let output =
        command.output().unwrap_or_else(|error| panic!("failed to start cargo for the runner: {error}"));
    assert!(
        output.status.success(),
        "the runner for {target} did not build:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let arch = target.split('-').next().unwrap_or(target).to_string();
    (arch, place.join(target).join(profile).join("setpoint-runner"))
}

/// The architecture of an ELF file, as `uname -m` says it.
fn machine_of(path: &Path) -> String {
    let bytes = fs::read(path)
        .unwrap_or_else(|error| panic!("failed to read the runner {}: {error}", path.display()));
    match bytes.get(18..20) {
        Some([0x3e, 0]) => "x86_64".into(),
        Some([0xb7, 0]) => "aarch64".into(),
        Some([0x28, 0]) => "armv7l".into(),
        Some([0xf3, 0]) => "riscv64".into(),
        _ => panic!("{} is no program for a machine that is known here", path.display()),
    }
}

/// Writes the compressed runners and the table that names them.
fn embed(runners: &[(String, PathBuf)]) {
    let out = PathBuf::from(variable("OUT_DIR"));
    let mut table = String::from("&[");
    for (arch, path) in runners {
        let bytes = fs::read(path)
            .unwrap_or_else(|error| panic!("failed to read the runner {}: {error}", path.display()));
        let sha256 = Sha256::digest(&bytes).iter().fold(String::new(), |mut out, byte| {
            let _ = write!(out, "{byte:02x}");
            out
        });
        let packed = out.join(format!("runner-{arch}.gz"));
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        let compressed = encoder.write_all(&bytes).and_then(|()| encoder.finish()).unwrap_or_default();
        fs::write(&packed, &compressed)
            .unwrap_or_else(|error| panic!("failed to write {}: {error}", packed.display()));
        let plain = out.join(format!("runner-{arch}"));
        fs::write(&plain, &bytes)
            .unwrap_or_else(|error| panic!("failed to write {}: {error}", plain.display()));
        println!("cargo::warning=runner for {arch}: {} bytes, {} compressed", bytes.len(), compressed.len());
        let _ = write!(
            table,
            "Embedded {{ arch: {arch:?}, sha256: {sha256:?}, program: include_bytes!({plain:?}), gzip: include_bytes!({packed:?}) }},",
        );
    }
    table.push(']');
    fs::write(out.join("runners.rs"), table)
        .unwrap_or_else(|error| panic!("failed to write the table: {error}"));
}
