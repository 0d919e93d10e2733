//! Playbooks on booted Debian hosts with systemd, sshd, apt and sudo.
//!
//! `tests/fleet/hosts up 3` brings the hosts up (root and Debian needed) and the variable `SETPOINT_FLEET` tells
//! these tests where their state is; without it they say that they were skipped. `.ci/run` does both.
//!
//! Every playbook in `tests/fleet/` is a scenario and must keep the module contract: a dry run leaves the host
//! byte-identical and names exactly the tasks that the real run then changes, and a second run changes nothing.
//! `NAME.setup` beside `NAME.yml` is a shell script that runs on the host before. A task whose name ends with
//! "(uncertain)" may be predicted wrongly, one that ends with "(always)" changes each time; each says why beside it.

#![expect(clippy::print_stderr, reason = "a skipped test says so")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use setpoint::value::Value;

/// One test at a time has the hosts.
static HOSTS: Mutex<()> = Mutex::new(());

struct Fleet {
    dir: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

impl Fleet {
    /// The hosts, for one test; `None`, said aloud, if there are none.
    fn take(test: &str) -> Option<Fleet> {
        let Some(dir) = std::env::var_os("SETPOINT_FLEET") else {
            eprintln!("skipped {test}: no hosts; `tests/fleet/hosts up 3` and SETPOINT_FLEET give it some");
            return None;
        };
        let turn = HOSTS.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Fleet { dir: PathBuf::from(dir), _turn: turn })
    }

    fn names(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.join("inventory.ini")).expect("hosts are up");
        let words = text.lines().filter_map(|line| line.split_once(" ansible_host="));
        words.map(|(name, _)| name.to_string()).collect()
    }

    fn address(&self, name: &str) -> String {
        let text = fs::read_to_string(self.dir.join("inventory.ini")).expect("hosts are up");
        let mut lines = text.lines().filter_map(|line| line.split_once(" ansible_host="));
        lines.find(|(host, _)| *host == name).expect("a host of the fleet").1.to_string()
    }

    fn hosts(&self, arguments: &[&str]) {
        let status =
            Command::new(source("tests/fleet/hosts")).args(arguments).status().expect("the script starts");
        assert!(status.success(), "tests/fleet/hosts {arguments:?}");
    }

    /// Fresh file systems, for some hosts at once.
    fn fresh(&self, names: &[&str]) {
        std::thread::scope(|scope| {
            for name in names {
                scope.spawn(move || self.hosts(&["fresh", name]));
            }
        });
    }

    /// Runs a shell script as root on a host; its standard output.
    fn shell(&self, name: &str, script: &str) -> String {
        let mut child = Command::new(source("tests/fleet/hosts"))
            .args(["ssh", name, "sh", "-s"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the script starts");
        let mut input = child.stdin.take().expect("a pipe");
        input.write_all(script.as_bytes()).expect("written");
        drop(input);
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{name}: {script}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn setpoint(&self, arguments: &[&str]) -> Output {
        self.start(arguments).wait_with_output().expect("the program ends")
    }

    /// Runs a script of `tests/fleet` with the program and the inventory; it says itself what is wrong.
    fn script(&self, name: &str, more: &[&str]) {
        let started = Instant::now();
        let output = Command::new("sh")
            .arg(source("tests/fleet").join(name))
            .args([Path::new(env!("CARGO_BIN_EXE_setpoint")), &self.dir.join("inventory.ini")])
            .args(more)
            .env_remove("ANSIBLE_CONFIG")
            .env_remove("SSH_AUTH_SOCK")
            .env("HOME", &self.dir)
            .stdin(Stdio::null())
            .output()
            .expect("the script starts");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{name}: {}\n{out}\n{err}", output.status);
        eprintln!("{name}: {:.1} s", started.elapsed().as_secs_f32());
    }

    fn start(&self, arguments: &[&str]) -> std::process::Child {
        let inventory = self.dir.join("inventory.ini").display().to_string();
        let (command, rest) = arguments.split_first().expect("a subcommand");
        Command::new(env!("CARGO_BIN_EXE_setpoint"))
            .arg(command)
            .args(["-i", &inventory])
            .args(rest)
            .current_dir(source("tests/fleet"))
            .env_remove("ANSIBLE_CONFIG")
            .env_remove("SSH_AUTH_SOCK")
            .env("HOME", &self.dir)
            .env("ANSIBLE_NOCOLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts")
    }

    /// Runs a playbook and gathers what became of every task.
    fn run(&self, arguments: &[&str]) -> Told {
        let mut all = vec!["run", "--output", "json"];
        all.extend(arguments);
        let output = self.setpoint(&all);
        Told::of(&output)
    }

    /// All that was ever written to a host since it was made: path, kind, owner, mode, size, time, content.
    /// Left out is what a login leaves (logs) and the cached runner, which a dry run delivers too; and what dnf and
    /// zypper keep for themselves whenever they are asked, as does whoever reads a database of SQLite's.
    fn written(&self, name: &str) -> BTreeMap<String, String> {
        fn walk(dir: &Path, root: &Path, out: &mut BTreeMap<String, String>) {
            for entry in fs::read_dir(dir).expect("readable").flatten() {
                let path = entry.path();
                let shown = path.strip_prefix(root).expect("below the root").display().to_string();
                let left_out =
                    ["var/log", "var/lib/systemd", "var/cache/ldconfig", "var/cache/dnf", "var/cache/zypp"];
                let own = [".cache/setpoint", ".sqlite-shm", ".sqlite-wal"];
                if left_out.contains(&shown.as_str()) || own.iter().any(|end| shown.ends_with(end)) {
                    continue;
                }
                let meta = fs::symlink_metadata(&path).expect("readable");
                let kind = meta.mode();
                let mut said = format!("{kind:o} {}:{}", meta.uid(), meta.gid());
                if meta.is_file() {
                    let digest = setpoint::system::digest::of_bytes(
                        setpoint::system::Algorithm::Sha256,
                        &fs::read(&path).expect("readable"),
                    );
                    let time = if shown.ends_with(".sqlite") { 0 } else { meta.mtime() };
                    said.push_str(&format!(" {} {time} {digest}", meta.size()));
                } else if meta.is_symlink() {
                    said.push_str(&format!(" -> {}", fs::read_link(&path).expect("readable").display()));
                } else if meta.is_dir() {
                    walk(&path, root, out);
                }
                out.insert(shown, said);
            }
        }
        let root = self.dir.join(name).join("upper");
        let mut out = BTreeMap::new();
        walk(&root, &root, &mut out);
        // The directories that lead to the cache come with it.
        for home in ["root/.cache", "home/deploy/.cache", "home/erin/.cache"] {
            for place in Path::new(home).ancestors() {
                out.remove(&place.display().to_string());
            }
        }
        out.insert("/tmp".into(), self.shell(name, "ls -lA /tmp /var/tmp /dev/shm"));
        out
    }
}

/// What a run told.
struct Told {
    code: Option<i32>,
    /// Host and task, with what became of it.
    results: Vec<(String, String, String)>,
    text: String,
}

impl Told {
    fn of(output: &Output) -> Told {
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut results = Vec::new();
        for line in stdout.lines() {
            let Ok(Value::Map(event)) = serde_json::from_str::<Value>(line) else { continue };
            let text = |name: &str| event.get(name).map(Value::to_text).unwrap_or_default();
            if text("event") == "result" {
                let changed = text("changed").eq_ignore_ascii_case("true");
                let status = if changed { "changed".to_string() } else { text("status") };
                results.push((text("host"), text("task"), status));
            }
        }
        let bad = |line: &&str| {
            ["\"failed\", ", "\"unreachable\", ", "\"diagnostic\""].iter().any(|word| line.contains(word))
        };
        let bad: Vec<&str> =
            stdout.lines().filter(bad).map(|line| line.get(..1500).unwrap_or(line)).collect();
        let text = format!("{}\n{}", bad.join("\n"), String::from_utf8_lossy(&output.stderr));
        Told { code: output.status.code(), results, text }
    }

    fn changed(&self, without: &str) -> BTreeSet<(String, String)> {
        let changed =
            self.results.iter().filter(|(_, task, status)| status == "changed" && !task.ends_with(without));
        changed.map(|(host, task, _)| (host.clone(), task.clone())).collect()
    }
}

/// The differences of two listings.
fn differences(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let differing = names.into_iter().filter(|name| before.get(*name) != after.get(*name));
    differing.map(|name| format!("{name}: {:?} -> {:?}", before.get(name), after.get(name))).collect()
}

/// The module contract for a playbook on some hosts; what was broken of it. `uncertain` are more tasks that may be
/// predicted wrongly.
fn keeps_the_contract(
    fleet: &Fleet,
    playbook: &str,
    hosts: &[&str],
    more: &[&str],
    uncertain: &[&str],
) -> Result<(), String> {
    let limit = hosts.join(",");
    let text = fs::read_to_string(source("tests/fleet").join(playbook)).expect("the playbook");
    let real_tasks = text.contains("check_mode: false");
    let mut arguments = vec![playbook, "--limit", &limit];
    arguments.extend(more);
    let before: Vec<_> = hosts.iter().map(|host| fleet.written(host)).collect();
    let mut dry = arguments.clone();
    dry.extend(["--check", "--diff"]);
    let predicted = fleet.run(&dry);
    if predicted.code != Some(0) {
        return Err(format!("the dry run of {playbook} failed:\n{}", predicted.text));
    }
    for (host, before) in hosts.iter().zip(&before) {
        let mut differences = differences(before, &fleet.written(host));
        // What is run for real at the playbook's own wish is recorded for a rollback.
        differences.retain(|line| !(real_tasks && line.starts_with("var/lib/setpoint")));
        if !differences.is_empty() {
            return Err(format!("a dry run of {playbook} changed {host}:\n{}", differences.join("\n")));
        }
    }
    let real = fleet.run(&arguments);
    if real.code != Some(0) {
        return Err(format!("{playbook} failed:\n{}", real.text));
    }
    let (foretold, made) = (predicted.changed("(uncertain)"), real.changed("(uncertain)"));
    let wrong: Vec<_> = foretold
        .symmetric_difference(&made)
        .filter(|(_, task)| !uncertain.contains(&task.as_str()))
        .collect();
    if !wrong.is_empty() {
        return Err(format!("{playbook} predicted wrongly: {wrong:?}; foretold {foretold:?}"));
    }
    let again = fleet.run(&arguments);
    if again.code != Some(0) {
        return Err(format!("{playbook} failed the second time:\n{}", again.text));
    }
    let moved = again.changed("(always)");
    if moved.is_empty() {
        Ok(())
    } else {
        Err(format!("a second run of {playbook} changed something: {moved:?}"))
    }
}

#[test]
fn scenarios_keep_the_module_contract() {
    let Some(fleet) = Fleet::take("scenarios") else { return };
    let names = fleet.names();
    fleet.fresh(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut scenarios: Vec<String> = fs::read_dir(source("tests/fleet"))
        .expect("readable")
        .flatten()
        .filter_map(|entry| {
            entry.file_name().to_str().and_then(|name| name.strip_suffix(".yml")).map(String::from)
        })
        .collect();
    scenarios.sort();
    if let Some(only) = std::env::var_os("SETPOINT_SCENARIO") {
        scenarios.retain(|name| only.to_string_lossy().split(',').any(|word| word == name));
    }
    let (queue, broken) = (Mutex::new(scenarios), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for host in &names {
            let (queue, broken, fleet) = (&queue, &broken, &fleet);
            scope.spawn(move || {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
                    let Some(name) = next else { break };
                    if let Ok(script) = fs::read_to_string(source(&format!("tests/fleet/{name}.setup"))) {
                        fleet.shell(host, &script);
                    }
                    let started = Instant::now();
                    if let Err(what) = keeps_the_contract(fleet, &format!("{name}.yml"), &[host], &[], &[]) {
                        broken
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(format!("{name} on {host}: {what}"));
                    }
                    eprintln!("{name} on {host}: {:.1} s", started.elapsed().as_secs_f32());
                }
            });
        }
    });
    let broken = broken.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(broken.is_empty(), "{}", broken.join("\n\n"));
}

#[test]
fn the_example_site_applies_and_a_second_run_changes_nothing() {
    let Some(fleet) = Fleet::take("site") else { return };
    let names = fleet.names();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    fleet.fresh(&names);
    let site = source("playbooks/site.yml").display().to_string();
    let variables = format!("@{}", source("inventory/group_vars/all/main.yml").display());
    // The package brings a site of its own, and its unit is started when it is installed.
    let uncertain = ["web : Debian's default site is off", "web : It runs, now and after a restart"];
    keeps_the_contract(&fleet, &site, &names, &["-e", &variables], &uncertain).expect("the contract is kept");
    for name in names {
        assert_eq!(fleet.shell(name, "systemctl is-active nginx").trim(), "active");
    }
}

#[test]
fn drift_is_found_repaired_acknowledged_and_adopted_and_owed_handlers_are_run() {
    let Some(fleet) = Fleet::take("drift") else { return };
    let names = fleet.names();
    fleet.fresh(&names.iter().map(String::as_str).collect::<Vec<_>>());
    fleet.script("drift.sh", &[]);
}

#[test]
fn the_example_site_is_rolled_back_to_the_last_bit_and_its_drift_is_repaired() {
    let Some(fleet) = Fleet::take("site with drift") else { return };
    let names = fleet.names();
    fleet.fresh(&names.iter().map(String::as_str).collect::<Vec<_>>());
    fleet.script("site.sh", &[]);
}

#[test]
fn a_host_that_was_cut_off_comes_back_by_itself() {
    let Some(fleet) = Fleet::take("dead man's switch") else { return };
    let host = fleet.names().pop().expect("a host");
    fleet.fresh(&[&host]);
    fleet.script("confirm.sh", &[&host]);
}

#[test]
fn an_unplugged_host_is_reported_and_the_others_finish() {
    let Some(fleet) = Fleet::take("unplugged") else { return };
    let names = fleet.names();
    let playbook = fleet.dir.join("unplugged.yml");
    let text = "- hosts: all\n  gather_facts: false\n  tasks:\n    - name: long\n      command: sleep 4\n    - name: last\n      command: 'true'\n";
    fs::write(&playbook, text).expect("written");
    fleet.setpoint(&["exec", "all", "-m", "ping"]);
    let started = Instant::now();
    let child = fleet.start(&[
        "run",
        "--output",
        "json",
        &playbook.display().to_string(),
        "--ssh-extra-args",
        "-o ServerAliveInterval=2 -o ServerAliveCountMax=2",
    ]);
    fleet.shell(&names[2], "for i in $(seq 300); do pgrep -xf 'sleep 4' && break; sleep 0.1; done");
    fleet.hosts(&["cut", &names[2]]);
    let told = Told::of(&child.wait_with_output().expect("it ends"));
    fleet.hosts(&["join", &names[2]]);
    assert_eq!(told.code, Some(4), "{}", told.text);
    assert!(started.elapsed() < Duration::from_secs(25), "it took {:?}", started.elapsed());
    let of = |host: &str, task: &str| {
        let found = told.results.iter().find(|(name, title, _)| name == host && title == task);
        found.map(|(_, _, status)| status.clone()).unwrap_or_default()
    };
    assert_eq!(of(&names[2], "long"), "unreachable", "{}", told.text);
    assert!(told.text.contains("stopped answering"), "{}", told.text);
    for name in &names[..2] {
        assert_eq!(of(name, "last"), "changed", "{}", told.text);
    }
}

/// A host that is not as it should be: how it came to that, what is run, and what must be said.
struct Trouble {
    name: &'static str,
    setup: &'static str,
    arguments: &'static [&'static str],
    code: i32,
    says: &'static [&'static str],
    /// A script on the host that must print nothing: nothing is left half-done.
    left: &'static str,
}

const PING: &[&str] = &["-m", "ping"];
const WRITE: &[&str] = &["-m", "copy", "-a", "content=new dest=/mnt/place/file", "-b"];

const TROUBLES: &[Trouble] = &[
    Trouble {
        name: "nothing listens",
        setup: "",
        arguments: &["-m", "ping", "-e", "ansible_port=9"],
        code: 4,
        says: &["refused"],
        left: "",
    },
    Trouble {
        name: "nobody is there",
        setup: "",
        arguments: &["-m", "ping", "-e", "ansible_host=10.79.0.200", "-T", "2"],
        code: 4,
        says: &["2 s"],
        left: "",
    },
    Trouble {
        name: "a key that can't be read",
        setup: "",
        arguments: &["-m", "ping", "-e", "ansible_ssh_private_key_file=/nonexistent/key"],
        code: 4,
        says: &["/nonexistent/key"],
        left: "",
    },
    Trouble {
        name: "an unknown user",
        setup: "",
        arguments: &["-m", "ping", "-u", "nosuchuser", "-e", "ansible_user=nosuchuser"],
        code: 4,
        says: &["nosuchuser"],
        left: "",
    },
    Trouble {
        name: "a full disk",
        setup: "mkdir -p /mnt/place; mountpoint -q /mnt/place && umount /mnt/place; mount -t tmpfs -o size=16k tmpfs /mnt/place; echo old >/mnt/place/file; dd if=/dev/zero of=/mnt/place/fill bs=1k count=100 2>/dev/null || true",
        arguments: WRITE,
        code: 2,
        says: &["No space left"],
        left: "cat /mnt/place/file | grep -v old; ls -A /mnt/place | grep -v -e '^file$' -e '^fill$'; umount /mnt/place",
    },
    Trouble {
        name: "a read-only disk",
        setup: "mkdir -p /mnt/place; mountpoint -q /mnt/place && umount /mnt/place; mount -t tmpfs -o size=1m tmpfs /mnt/place; echo old >/mnt/place/file; mount -o remount,ro /mnt/place",
        arguments: WRITE,
        code: 2,
        says: &["Read-only"],
        left: "cat /mnt/place/file | grep -v old; ls -A /mnt/place | grep -v '^file$'; umount /mnt/place",
    },
    Trouble {
        name: "a directory that can't be entered",
        setup: "install -d -m 700 /srv/closed; echo old >/srv/closed/file",
        arguments: &["-m", "copy", "-a", "content=new dest=/srv/closed/file"],
        code: 2,
        says: &["/srv/closed", "ermission denied"],
        left: "grep -v old /srv/closed/file",
    },
    Trouble {
        name: "nothing may be executed in the cache",
        setup: "mkdir -p /home/deploy/.cache; mountpoint -q /home/deploy/.cache || mount -t tmpfs -o noexec,mode=755,uid=$(id -u deploy) tmpfs /home/deploy/.cache",
        arguments: PING,
        code: 0,
        says: &["pong"],
        left: "find /tmp /var/tmp /dev/shm -name '*setpoint*'; umount /home/deploy/.cache",
    },
    Trouble {
        name: "no home",
        setup: "mv /home/deploy /home/deploy.away; mkdir -p /etc/ssh/keys; cp /home/deploy.away/.ssh/authorized_keys /etc/ssh/keys/deploy; chmod 644 /etc/ssh/keys/deploy; echo 'AuthorizedKeysFile .ssh/authorized_keys /etc/ssh/keys/%u' >/etc/ssh/sshd_config.d/keys.conf; systemctl restart ssh",
        arguments: PING,
        code: 0,
        says: &["pong"],
        left: "find /tmp /var/tmp /dev/shm /home/deploy -name '*setpoint*' 2>/dev/null; mv /home/deploy.away /home/deploy; rm /etc/ssh/sshd_config.d/keys.conf",
    },
    Trouble {
        name: "somebody else's file in the runner's place",
        setup: "rm -rf /home/deploy/.cache; mkdir -m 777 /srv/trap; chown nobody2 /srv/trap; su deploy -c 'mkdir -p ~/.cache'; ln -s /srv/trap /home/deploy/.cache/setpoint",
        arguments: PING,
        code: 0,
        says: &["pong"],
        left: "ls -A /srv/trap; rm -rf /srv/trap /home/deploy/.cache/setpoint",
    },
    Trouble {
        name: "a shell that talks",
        setup: "cp -n /home/deploy/.bashrc /home/deploy/.bashrc.away; sed -i '1i echo Welcome to this host; echo Mind the gap >&2' /home/deploy/.bashrc",
        arguments: PING,
        code: 0,
        says: &["pong"],
        left: "mv /home/deploy/.bashrc.away /home/deploy/.bashrc",
    },
    Trouble {
        name: "fish",
        setup: "usermod -s /usr/bin/fish deploy",
        arguments: PING,
        code: 0,
        says: &["pong"],
        left: "",
    },
    Trouble {
        name: "csh",
        setup: "usermod -s /bin/tcsh deploy",
        arguments: PING,
        code: 0,
        says: &["pong"],
        left: "",
    },
    Trouble {
        name: "ksh",
        setup: "usermod -s /bin/ksh deploy",
        arguments: PING,
        code: 0,
        says: &["pong"],
        left: "",
    },
    Trouble {
        name: "busybox",
        setup: "ln -sf /usr/bin/busybox /usr/local/bin/ash; usermod -s /usr/local/bin/ash deploy",
        arguments: PING,
        code: 0,
        says: &["pong"],
        left: "",
    },
    Trouble {
        name: "no shell",
        setup: "usermod -s /usr/sbin/nologin deploy",
        arguments: PING,
        code: 4,
        says: &["This account is currently not available"],
        left: "usermod -s /bin/bash deploy",
    },
    Trouble {
        name: "sudo with a password",
        setup: "",
        arguments: &[
            "-m",
            "command",
            "-a",
            "id -un",
            "-b",
            "-e",
            "ansible_user=erin",
            "-e",
            "{ansible_become_password: correct horse}",
        ],
        code: 0,
        says: &["root"],
        left: "",
    },
    Trouble {
        name: "a wrong password for sudo",
        setup: "",
        arguments: &["-m", "ping", "-b", "-e", "ansible_user=erin", "-e", "ansible_become_password=wrong"],
        code: 2,
        says: &["password"],
        left: "pgrep -u erin sudo",
    },
    Trouble {
        name: "no password for sudo",
        setup: "",
        arguments: &["-m", "ping", "-b", "-e", "ansible_user=erin"],
        code: 2,
        says: &["password"],
        left: "pgrep -u erin sudo",
    },
    Trouble {
        name: "not in the sudoers file",
        setup: "echo nobody2:secret | chpasswd",
        arguments: &[
            "-m",
            "ping",
            "-b",
            "-e",
            "ansible_user=nobody2",
            "-e",
            "ansible_become_password=secret",
        ],
        code: 2,
        says: &["sudo"],
        left: "",
    },
    Trouble {
        name: "sudo that wants a terminal",
        setup: "echo 'Defaults:erin requiretty' >/etc/sudoers.d/tty",
        arguments: &[
            "-m",
            "ping",
            "-b",
            "-e",
            "ansible_user=erin",
            "-e",
            "{ansible_become_password: correct horse}",
        ],
        code: 2,
        says: &["tty"],
        left: "rm /etc/sudoers.d/tty",
    },
    Trouble {
        name: "su with the password of root",
        setup: "",
        arguments: &[
            "-m",
            "command",
            "-a",
            "id -un",
            "-b",
            "--become-method",
            "su",
            "-e",
            "{ansible_become_password: battery staple}",
        ],
        code: 0,
        says: &["root"],
        left: "",
    },
    Trouble {
        name: "no doas",
        setup: "",
        arguments: &["-m", "ping", "-b", "--become-method", "doas"],
        code: 2,
        says: &["doas"],
        left: "",
    },
    Trouble {
        name: "no sudo",
        setup: "mv /usr/bin/sudo /usr/bin/sudo.away",
        arguments: &["-m", "ping", "-b"],
        code: 2,
        says: &["sudo"],
        left: "mv /usr/bin/sudo.away /usr/bin/sudo",
    },
];

#[test]
fn a_host_in_trouble_has_a_clear_error_and_the_other_goes_on() {
    let Some(fleet) = Fleet::take("troubles") else { return };
    let names = fleet.names();
    let (bad, good) = (names[0].as_str(), names[1].as_str());
    fleet.fresh(&[bad]);
    let key = fleet.dir.join("key").display().to_string();
    let inventory = format!(
        "{bad} ansible_host={}\n[all:vars]\nansible_user=deploy\nansible_ssh_private_key_file={key}\nansible_ssh_common_args=-F /dev/null -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null\n",
        fleet.address(bad)
    );
    let file = fleet.dir.join("trouble.ini");
    fs::write(&file, inventory).expect("written");
    let mut wrong = Vec::new();
    for trouble in TROUBLES {
        fleet.shell(bad, trouble.setup);
        let mut arguments = vec!["exec", "all", "--limit", bad];
        arguments.extend(trouble.arguments);
        let output = fleet.setpoint(&arguments);
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let missing: Vec<_> = trouble.says.iter().filter(|said| !text.contains(**said)).collect();
        let left = fleet.shell(
            bad,
            &format!("{{ {}\n}} || true", if trouble.left.is_empty() { ":" } else { trouble.left }),
        );
        if output.status.code() != Some(trouble.code) || !missing.is_empty() || !left.is_empty() {
            let code = output.status.code();
            wrong.push(format!(
                "{}: exit {code:?}, did not say {missing:?}, left {left:?}\n{text}",
                trouble.name
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Two hosts, one of them in trouble.
    let told = {
        fleet.shell(bad, "usermod -s /usr/sbin/nologin deploy");
        let limit = format!("{bad},{good}");
        let playbook = fleet.dir.join("both.yml");
        let text = "- hosts: all\n  gather_facts: false\n  tasks:\n    - name: one\n      ping:\n    - name: two\n      command: 'true'\n";
        fs::write(&playbook, text).expect("written");
        fleet.run(&[&playbook.display().to_string(), "--limit", &limit])
    };
    fleet.shell(bad, "usermod -s /bin/bash deploy");
    assert_eq!(told.code, Some(4), "{}", told.text);
    assert!(told.results.contains(&(good.to_string(), "two".into(), "changed".into())), "{}", told.text);
    assert!(told.results.contains(&(bad.to_string(), "one".into(), "unreachable".into())), "{}", told.text);
}

#[test]
fn a_changed_host_key_is_refused_with_both_fingerprints() {
    let Some(fleet) = Fleet::take("host keys") else { return };
    let names = fleet.names();
    let address = fleet.address(&names[1]);
    let known = fleet.dir.join("known");
    let other = "AAAAC3NzaC1lZDI1NTE5AAAAIMcNLOhyBrFMBTGbFNBKrSYp/Vck5EVvDRZqtIIt4nLx";
    fs::write(&known, format!("{address} ssh-ed25519 {other}\n")).expect("written");
    let common = format!("-F /dev/null -o UserKnownHostsFile={}", known.display());
    let output = fleet.setpoint(&[
        "exec",
        "all",
        "--limit",
        &names[1],
        "-m",
        "ping",
        "-e",
        &format!("{{ansible_ssh_common_args: '{common}'}}"),
    ]);
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(4), "{text}");
    assert_eq!(text.matches("SHA256:").count(), 2, "{text}");
}

#[test]
fn a_runner_killed_while_it_writes_leaves_the_old_or_the_new_file() {
    let Some(fleet) = Fleet::take("killed") else { return };
    let names = fleet.names();
    let host = names[1].as_str();
    let playbook = fleet.dir.join("killed.yml");
    let text = "- hosts: all\n  gather_facts: false\n  become: true\n  tasks:\n    - name: many\n      copy: {dest: '/srv/kill/{{ item }}', content: \"{{ word * 60000 }}\", mode: '0600'}\n      loop: '{{ range(40) | list }}'\n";
    fs::write(&playbook, text).expect("written");
    fleet.shell(host, "mkdir -p /srv/kill; for i in $(seq 0 39); do head -c 300000 /dev/zero | tr '\\0' o >/srv/kill/$i; done");
    let mut cut = 0;
    for round in 0..6 {
        let word = if round % 2 == 0 { "newer" } else { "older" };
        let child = fleet.start(&[
            "run",
            &playbook.display().to_string(),
            "--limit",
            host,
            "-e",
            &format!("word={word}"),
        ]);
        // Killed when some of the files have the new content. It is stopped first and the files are counted
        // once more, for what was written between a look and a signal may have been the last of them.
        let letter = &word[..1];
        let killed = fleet.shell(
            host,
            &format!(
                "new() {{ n=$(head -qc1 /srv/kill/[0-9]* | tr -cd {letter} | wc -c); }}
                runner='[s]etpoint/runner|[r]unner-'
                for i in $(seq 2000); do
                    new
                    [ $n -gt {round} ] || continue
                    [ $n -lt 40 ] && pkill -STOP -f \"$runner\" && new
                    if [ $n -lt 40 ]; then pkill -KILL -f \"$runner\" && echo killed; break; fi
                    pkill -CONT -f \"$runner\"; break
                done; true"
            ),
        );
        let output = child.wait_with_output().expect("it ends");
        if killed.contains("killed") {
            cut += 1;
            assert!(
                matches!(output.status.code(), Some(2 | 4)),
                "{:?} {}",
                output.status,
                String::from_utf8_lossy(&output.stdout)
            );
        }
        let odd = fleet.shell(
            host,
            "cd /srv/kill; for f in [0-9]*; do s=$(stat -c %s $f); [ $s = 300000 ] || echo \"$f has $s bytes\"; n=$(fold -w5 $f | sort -u | wc -l); [ $n = 1 ] || echo \"$f is mixed\"; done",
        );
        assert_eq!(odd, "", "round {round}");
        // The next run converges and leaves nothing lying about.
        let again =
            fleet.run(&[&playbook.display().to_string(), "--limit", host, "-e", &format!("word={word}")]);
        assert_eq!(again.code, Some(0), "{}", again.text);
        assert_eq!(fleet.shell(host, "ls -A /srv/kill | grep -v '^[0-9]*$' || true"), "", "round {round}");
    }
    assert!(cut > 0, "no run was ever cut in the middle: this test saw nothing");
}
