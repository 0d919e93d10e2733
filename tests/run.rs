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

/// Somebody at the debugger looks at a task that failed, changes a variable and an argument, and has it run again.
#[test]
fn the_debugger_changes_a_task_and_runs_it_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let play = "- hosts: h1\n  gather_facts: false\n  connection: local\n  strategy: debug\n  vars: {wrong: '{{ nope }}'}\n  \
                tasks:\n    - name: one\n      debug: {msg: '{{ wrong }}'}\n    - name: two\n      fail: {msg: 'no'}\n    - \
                debug: {msg: never}\n";
    fs::write(dir.path().join("p.yml"), play).expect("written");
    let typed = "p task\np task.args\nfoo\ntask_vars['wrong'] = 'right {{ inventory_hostname }}'\nr\n\
                 p result.msg\ntask.args['msg'] = 'still {{ inventory_hostname }}'\nr\nq\n";
    let mut child = Command::new(env!("CARGO_BIN_EXE_setpoint"))
        .args(["run", "-i", "h1,", "p.yml"])
        .current_dir(dir.path())
        .env_remove("ANSIBLE_CONFIG")
        .env("ANSIBLE_NOCOLOR", "1")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the program starts");
    std::io::Write::write_all(&mut child.stdin.take().expect("piped"), typed.as_bytes()).expect("taken");
    let output = child.wait_with_output().expect("it ends");
    let told = String::from_utf8_lossy(&output.stdout);
    for wanted in [
        "[h1] TASK: one (debug)> TASK: one\n",
        "[h1] TASK: one (debug)> {'msg': '{{ wrong }}'}\n",
        "[h1] TASK: one (debug)> ***NameError: `foo` is no command; `help` names them\n",
        "[h1] TASK: one (debug)> ok: [h1] => {\n    \"msg\": \"right h1\"\n}\n",
        "[h1] TASK: two (debug)> 'no'\n",
        "fatal: [h1]: FAILED! => {\"changed\": false, \"msg\": \"still h1\"}\n[h1] TASK: two (debug)> \n",
    ] {
        assert!(told.contains(wanted), "{wanted:?} is not in: {told}");
    }
    assert!(told.contains("ok=1    changed=0    unreachable=0    failed=1"), "{told}");
    assert_eq!(output.status.code(), Some(99), "{told}");
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

// ---- random plays ----

/// How many random plays are tried; `SETPOINT_RANDOM_PLAYS` says another number, `SETPOINT_RANDOM_SEED` where
/// to begin.
const RANDOM_PLAYS: u64 = 6;

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Dice {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            dice.roll(2);
        }
        dice
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        let count = u64::try_from(from.len()).expect("few");
        from[usize::try_from(self.roll(count)).expect("few")]
    }
}

const FILES: &[&str] = &["a", "b", "c", "d/e", "d/f"];
const TEXTS: &[&str] = &["one", "two", "{{ inventory_hostname }}", "{{ fact | default('none') }}"];
const HOSTS: &[&str] = &["one", "two", "three"];

/// Writes a play of tasks of every scope, with registers, conditions, loops, handlers, blocks and failures.
struct Author {
    dice: Dice,
    out: String,
    registers: Vec<String>,
    tasks: usize,
}

impl Author {
    fn play(seed: u64) -> String {
        let mut author =
            Author { dice: Dice::new(seed), out: String::new(), registers: Vec::new(), tasks: 0 };
        let strategy = if author.dice.one_in(8) { "  strategy: free\n" } else { "" };
        let fatal = if author.dice.one_in(8) { "  any_errors_fatal: true\n" } else { "" };
        author.out = format!(
            "- hosts: all\n  gather_facts: false\n{strategy}{fatal}  handlers:\n    - name: note\n      shell: echo noted >> {{{{ sandbox }}}}/notes\n    - name: keep\n      copy: {{content: kept, dest: \"{{{{ sandbox }}}}/kept\"}}\n      listen: topic\n  tasks:\n"
        );
        author.module("    ", "file", "path: \"{{ sandbox }}/d\", state: directory");
        author.tasks(2, 12);
        author.out.clone()
    }

    fn tasks(&mut self, indent: usize, count: u64) {
        for _ in 0..count {
            self.task(indent);
        }
    }

    fn module(&mut self, indent: &str, module: &str, args: &str) {
        self.tasks += 1;
        let number = self.tasks;
        self.out.push_str(&format!("{indent}- name: task {number}\n{indent}  {module}: {{{args}}}\n"));
    }

    fn task(&mut self, indent: usize) {
        let space = "  ".repeat(indent);
        let file = self.dice.pick(FILES);
        let text = self.dice.pick(TEXTS);
        let path = format!("{{{{ sandbox }}}}/{file}");
        match self.dice.roll(14) {
            0..=2 => self.module(&space, "copy", &format!("content: \"{text}\\n\", dest: \"{path}\"")),
            3 | 4 => {
                self.module(
                    &space,
                    "lineinfile",
                    &format!("path: \"{path}\", line: \"{text}\", create: true"),
                );
            }
            5 => {
                let mode = self.dice.pick(&["0600", "0644", "0640"]);
                self.module(&space, "file", &format!("path: \"{path}\", mode: \"{mode}\""));
                // The file may not be there.
                self.line(&space, "ignore_errors: true");
            }
            6 => self.module(&space, "file", &format!("path: \"{path}\", state: absent")),
            7 => self.module(&space, "stat", &format!("path: \"{path}\"")),
            8 => {
                // What was there at this point: it shows the order of changes.
                let look = "cd {{ sandbox }} && cat a b c d/* notes kept 2>/dev/null | cksum >> trace; true";
                self.module(&space, "shell", &format!("cmd: \"{look}\""));
            }
            9 => {
                self.module(&space, "command", &format!("argv: [test, -e, \"{path}\"]"));
                let changed = self.dice.one_in(3);
                self.line(&space, &format!("changed_when: {changed}"));
                let failed =
                    self.dice.pick(&["failed_when: false", "ignore_errors: true", "ignore_errors: true"]);
                self.line(&space, failed);
            }
            10 => self.module(&space, "set_fact", &format!("fact: \"{text}\"")),
            11 if indent < 4 => return self.block(indent),
            12 => {
                let host = self.dice.pick(HOSTS);
                self.module(&space, "fail", "msg: on purpose");
                let condition = format!("when: inventory_hostname == '{host}' and {}", self.condition());
                return self.line(&space, &condition);
            }
            13 => {
                self.module(&space, "meta", "");
                // `meta` takes a word, not a mapping.
                let at = self.out.rfind("meta: {}").expect("just written");
                self.out.replace_range(at.., "meta: flush_handlers\n");
                return;
            }
            _ => self.module(&space, "debug", &format!("msg: \"{text} {}\"", self.tasks)),
        }
        self.keywords(&space);
    }

    fn line(&mut self, space: &str, text: &str) {
        self.out.push_str(&format!("{space}  {text}\n"));
    }

    fn keywords(&mut self, space: &str) {
        if self.dice.one_in(4) {
            let name = format!("r{}", self.tasks);
            self.line(space, &format!("register: {name}"));
            if self.dice.one_in(2) {
                let condition = format!("when: {}", self.condition());
                self.line(space, &condition);
            }
            self.registers.push(name);
        } else if self.dice.one_in(3) {
            let condition = format!("when: {}", self.condition());
            self.line(space, &condition);
        }
        if self.dice.one_in(4) {
            let handler = self.dice.pick(&["note", "topic"]);
            self.line(space, &format!("notify: {handler}"));
        }
        if self.dice.one_in(6) {
            self.line(space, "loop: [x, y, z]");
        }
        if self.dice.one_in(12) {
            self.line(space, "run_once: true");
        }
    }

    /// A condition that may need a result that is still out.
    fn condition(&mut self) -> String {
        let host = self.dice.pick(HOSTS);
        let count = u64::try_from(self.registers.len()).expect("few");
        if count == 0 || self.dice.one_in(3) {
            return format!("inventory_hostname != '{host}'");
        }
        let name = self.registers[usize::try_from(self.dice.roll(count)).expect("few")].clone();
        match self.dice.roll(4) {
            0 => format!("{name} is changed"),
            1 => format!("{name} is not failed"),
            2 => format!("{name} is skipped or {name}.results is defined"),
            _ => format!("({name}.stat | default({{}})).exists | default(true)"),
        }
    }

    fn block(&mut self, indent: usize) {
        let space = "  ".repeat(indent);
        self.out.push_str(&format!("{space}- block:\n"));
        self.tasks(indent + 2, 3);
        if self.dice.one_in(2) {
            self.out.push_str(&format!("{space}  rescue:\n"));
            self.tasks(indent + 2, 2);
        }
        if self.dice.one_in(3) {
            self.out.push_str(&format!("{space}  always:\n"));
            self.tasks(indent + 2, 1);
        }
        if self.dice.one_in(3) {
            let condition = format!("when: {}", self.condition());
            self.line(&space, &condition);
        }
    }
}

/// What a run told of its results: each host's in their order, without what differs from run to run. The
/// order among hosts is that of their answers.
fn results(output: &Output, dir: &Path) -> BTreeMap<String, Vec<String>> {
    let dir = dir.display().to_string();
    let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let event: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_string();
        let kind = text("event");
        if kind == "result" || kind == "item" {
            let told = format!(
                "{kind} {} {} ignored={} rescued={} {}",
                text("task"),
                text("status"),
                event["ignored"],
                event["rescued"],
                event["result"]["msg"].to_string().replace(&dir, "DIR")
            );
            out.entry(text("host")).or_default().push(told);
        } else if kind == "recap" {
            out.entry("recap".into()).or_default().push(event["hosts"].to_string());
        }
    }
    out
}

/// The same starting state in each of the fleets.
fn furnish(dice: &mut Dice, fleets: [&Fleet; 2]) {
    for host in HOSTS {
        for name in ["a", "b", "c", "d/e", "d/f", "notes", "kept", "trace"] {
            let text = match dice.roll(3) {
                0 if FILES.contains(&name) => Some("one\n"),
                1 if FILES.contains(&name) => Some("other\n"),
                _ => None,
            };
            for fleet in fleets {
                let path = fleet.dir.path().join(host).join(name);
                match text {
                    Some(text) => {
                        fs::create_dir_all(path.parent().expect("in a directory")).expect("made");
                        fs::write(&path, text).expect("written");
                    }
                    None => drop(fs::remove_file(&path)),
                }
            }
        }
    }
}

#[test]
fn random_plays_end_alike_ahead_and_in_lockstep() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("SETPOINT_RANDOM_SEED").unwrap_or(1);
    let count = number("SETPOINT_RANDOM_PLAYS").unwrap_or(RANDOM_PLAYS);
    let (ahead, lockstep) = (Fleet::start(), Fleet::start());
    let place = tempfile::tempdir().expect("a directory");
    let file = place.path().join("play.yml");
    for seed in first..first + count {
        let play = Author::play(seed);
        fs::write(&file, &play).expect("written");
        furnish(&mut Dice::new(seed + 1_000_000), [&ahead, &lockstep]);
        let path = file.display().to_string();
        let run = |fleet: &Fleet, more: &[&str]| {
            let inventory = fleet.dir.path().join("hosts.ini").display().to_string();
            let mut arguments = vec!["run", &path, "-i", &inventory, "--output", "json"];
            arguments.extend(more);
            let output = setpoint(&arguments)?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(matches!(output.status.code(), Some(0 | 2)), "seed {seed}: {said}\n{play}");
            Some((output.status.code(), results(&output, fleet.dir.path())))
        };
        // Twice: on a strange host, and on one that is partly as it should be.
        for round in ["first", "second"] {
            let Some(one) = run(&ahead, &[]) else { return };
            let other = run(&lockstep, &["--window", "1"]).expect("it runs");
            assert_eq!(one, other, "seed {seed}, {round} run, of\n{play}");
            assert_eq!(ahead.state(), lockstep.state(), "seed {seed}, {round} run, of\n{play}");
        }
    }
}
