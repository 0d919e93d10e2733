//! The whole program on real playbooks: output as ansible-playbook prints it, and the windowed engine against
//! plain lockstep on hosts that are reached over SSH.

#![expect(clippy::print_stderr, reason = "a skipped test says so")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use setpoint::transport::Sandbox;

fn playbooks() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/playbooks")
}

/// Runs the program; `None`, said aloud, if it was built without a runner.
fn setpoint(arguments: &[&str]) -> Option<Output> {
    let output = Command::new(env!("CARGO_BIN_EXE_setpoint"))
        .args(arguments)
        .current_dir(playbooks())
        .env_remove("ANSIBLE_CONFIG")
        .env("ANSIBLE_NOCOLOR", "1")
        .output()
        .expect("the program starts");
    let text = String::from_utf8_lossy(&output.stdout);
    if text.contains("built without a runner") {
        eprintln!("skipped: this build has no runner");
        return None;
    }
    Some(output)
}

/// Leaves out what differs from run to run: times, and places of files.
fn redacted(text: &str) -> String {
    let dir = playbooks().display().to_string();
    let mut out = String::new();
    for line in text.lines() {
        let mut line = line.replace(&dir, "DIR");
        for name in ["delta", "end", "start"] {
            let key = format!("\"{name}\": \"");
            if let Some(at) = line.find(&key) {
                let from = at + key.len();
                let to = from + line[from..].find('"').unwrap_or(0);
                line.replace_range(from..to, "TIME");
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[test]
fn output_is_the_familiar_one() {
    let Some(output) = setpoint(&["run", "language.yml", "-i", "localhost,", "-c", "local"]) else { return };
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    let told = redacted(&String::from_utf8_lossy(&output.stdout));
    let file = playbooks().join("language.out");
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(&file, &told).expect("written");
    }
    let expected = fs::read_to_string(&file).expect("the expected output");
    assert_eq!(told, expected);
}

/// Exit codes and recaps, recorded from ansible-core 2.19 with `-i h1,h2 -c local`.
#[test]
fn recaps_and_exit_codes_are_those_of_ansible() {
    let dir = playbooks().join("recaps");
    let expected = fs::read_to_string(dir.join("expected.txt")).expect("the expected recaps");
    let mut files: Vec<String> = fs::read_dir(&dir)
        .expect("readable")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".yml"))
        .collect();
    files.sort();
    let mut found = String::new();
    for file in files {
        let path = format!("recaps/{file}");
        let Some(output) = setpoint(&["run", &path, "-i", "h1,h2", "-c", "local"]) else { return };
        found.push_str(&format!("== {file} exit {}\n", output.status.code().unwrap_or(-1)));
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let recap = told.split("PLAY RECAP").nth(1).unwrap_or_default();
        for line in recap.lines().skip(1).map(str::trim_end).filter(|line| !line.is_empty()) {
            found.push_str(line);
            found.push('\n');
        }
    }
    assert_eq!(found, expected);
}

/// Every file below a directory with its content.
fn tree(dir: &Path, root: &Path, out: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).expect("readable").flatten() {
        let path = entry.path();
        let name = path.strip_prefix(root).expect("below the root").display().to_string();
        if name.contains(".cache") || name.contains(".local") {
            continue;
        }
        if path.is_dir() {
            tree(&path, root, out);
        } else {
            out.insert(name, fs::read_to_string(&path).unwrap_or_default());
        }
    }
}

struct Fleet {
    dir: tempfile::TempDir,
    _sandbox: Sandbox,
}

impl Fleet {
    fn start() -> Fleet {
        let dir = tempfile::tempdir().expect("a directory");
        let names: Vec<String> = ["one", "two", "three"].map(String::from).to_vec();
        let sandbox = Sandbox::start(dir.path(), &names).expect("sandbox hosts");
        let mut inventory = String::from("[all]\n");
        for (name, host) in names.iter().zip(&sandbox.hosts) {
            inventory.push_str(&format!(
                "{name} ansible_host=127.0.0.1 ansible_port={} sandbox={}\n",
                host.address.port(),
                host.root.display()
            ));
        }
        inventory.push_str(&format!(
            "[all:vars]\nansible_user=x\nansible_ssh_private_key_file={}\nansible_ssh_common_args=-F /dev/null -o UserKnownHostsFile={}\n",
            sandbox.key.display(),
            sandbox.known_hosts.display()
        ));
        fs::write(dir.path().join("hosts.ini"), inventory).expect("written");
        Fleet { dir, _sandbox: sandbox }
    }

    fn run(&self, more: &[&str]) -> Option<(Option<i32>, Vec<String>)> {
        let inventory = self.dir.path().join("hosts.ini").display().to_string();
        let mut arguments = vec!["run", "fleet.yml", "-i", &inventory];
        arguments.extend(more);
        let output = setpoint(&arguments)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let recap = text.lines().filter(|line| line.contains("unreachable=")).map(String::from).collect();
        Some((output.status.code(), recap))
    }

    fn state(&self) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        for name in ["one", "two", "three"] {
            let root = self.dir.path().join(name);
            let mut files = BTreeMap::new();
            tree(&root, &root, &mut files);
            out.extend(files.into_iter().map(|(path, text)| (format!("{name}/{path}"), text)));
        }
        out
    }
}

#[test]
fn verifying_ahead_equals_lockstep() {
    let (ahead, lockstep) = (Fleet::start(), Fleet::start());
    let Some(first) = ahead.run(&[]) else { return };
    let second = lockstep.run(&["--window", "1"]).expect("it runs");
    assert_eq!(first, second);
    assert_eq!(first.0, Some(2));
    assert_eq!(ahead.state(), lockstep.state());
    assert!(ahead.state().contains_key("two/rescued"));
    assert!(!ahead.state().contains_key("three/part1"));
    // Again: what is done is done, in both.
    let third = ahead.run(&[]).expect("it runs");
    assert_eq!(third, lockstep.run(&["--window", "1"]).expect("it runs"));
    assert!(third.1[0].contains("changed=0"), "{third:?}");
    assert_eq!(ahead.state(), lockstep.state());
}

#[test]
fn a_dry_run_changes_nothing_and_predicts_what_a_run_does() {
    let fleet = Fleet::start();
    let before = fleet.state();
    let Some(dry) = fleet.run(&["--check", "--diff"]) else { return };
    assert_eq!(fleet.state(), before);
    assert_eq!(dry.1.len(), 3, "{dry:?}");
    assert!(dry.1.iter().all(|line| line.contains("unreachable=0")), "{dry:?}");
}

#[test]
fn the_demo_goes_through() {
    let Some(output) = setpoint(&["demo"]) else { return };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
