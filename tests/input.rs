//! Bad input: each kind gets a clear error with its place, in bounded time and memory, and no host is touched;
//! and texts that are nearly right, made by a seeded generator, never make a reader panic or hang.

#![expect(clippy::unwrap_used, reason = "a test may stop where something is not as it must be")]

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use setpoint::inventory::{Inventory, LoadOptions};
use setpoint::template::{Context, Options, SearchPath, Templar};
use setpoint::value::{Value, Vars};
use setpoint::vault::Vault;

// ---- what a user meets ----

/// A play whose only task is this one.
fn play(task: &str) -> String {
    format!("- hosts: all\n  gather_facts: false\n  connection: local\n  tasks:\n    - {task}\n")
}

/// Ten aliases of ten aliases of ten …
fn bomb(indent: &str) -> String {
    let mut text = format!("{indent}a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        text.push_str(&format!("{indent}a{level}: &a{level} [{aliases}]\n"));
    }
    text
}

/// What the program says of these files, run with these arguments: exit code and text. It gets 4 GiB of address
/// space and a minute.
fn told(files: &[(&str, Vec<u8>)], arguments: &[&str]) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        if content.starts_with(b"#!") {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -v 4194304; exec \"$@\" 2>&1", "sh", env!("CARGO_BIN_EXE_setpoint"), "run"])
        .args(arguments)
        .current_dir(dir.path())
        .env_remove("ANSIBLE_CONFIG")
        .env("ANSIBLE_NOCOLOR", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = output.read_to_end(&mut text);
        text
    });
    let started = Instant::now();
    let code = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status.code();
        }
        if started.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    (code, String::from_utf8_lossy(&reader.join().unwrap()).into_owned())
}

#[test]
fn bad_input_is_told_with_its_place() {
    let debug = play("debug: {msg: x}");
    let show = |template: &str| play(&format!("debug: {{msg: \"{{{{ {template} }}}}\"}}"));
    let text = |text: &str| text.as_bytes().to_vec();
    let one = |play: String| vec![("p.yml", play.into_bytes())];
    let with = |name: &'static str, content: Vec<u8>| vec![("p.yml", text(&debug)), (name, content)];
    type Case = (Vec<(&'static str, Vec<u8>)>, &'static str, i32, &'static [&'static str]);
    let cases: Vec<Case> = vec![
        (
            one(format!("- hosts: all\n  vars:\n{}  tasks: []\n", bomb("    "))),
            "h1,",
            4,
            &["the aliases of this file stand for more than", "p.yml:8:29"],
        ),
        (with("group_vars/all.yml", bomb("").into()), "h1,", 4, &["the aliases of this file", "all.yml:6:"]),
        (
            with("inv", format!("all:\n  vars:\n{}", bomb("    ")).into()),
            "inv",
            1,
            &["the aliases", "inv:8:29"],
        ),
        (one("[".repeat(100_000)), "h1,", 4, &["p.yml:1:"]),
        (
            with("group_vars/all.yml", text(&format!("x: {}", "{a: ".repeat(50_000)))),
            "h1,",
            4,
            &["levels deep", "all.yml:1:"],
        ),
        (
            one(show(&format!("{}1{}", "(".repeat(20_000), ")".repeat(20_000)))),
            "h1,",
            2,
            &["nested too deeply", "p.yml:5:"],
        ),
        (one(show("range(10**12) | list")), "h1,", 2, &["the range is too long", "p.yml:5:"]),
        (one(show("9**9**9")), "h1,", 2, &["the number is too large", "p.yml:5:"]),
        (one(show("'x' * 100000000000")), "h1,", 2, &["the value is too large", "p.yml:5:"]),
        (one(show("'x' | center(100000000000)")), "h1,", 2, &["the value is too large", "p.yml:5:"]),
        (one(show("('a' * 40) is match('(a+)+$b')")), "h1,", 2, &["regular expression", "p.yml:5:"]),
        (
            vec![("p.yml", text(&show("a"))), ("group_vars/all.yml", text("a: '{{ b }}'\nb: '{{ a }}'\n"))],
            "h1,",
            2,
            &["Recursive loop detected in template", "p.yml:5:"],
        ),
        (
            vec![("p.yml", text(&play("import_tasks: a.yml"))), ("a.yml", text("- import_tasks: a.yml\n"))],
            "h1,",
            4,
            &["imports itself", "a.yml:1:3"],
        ),
        (
            vec![("p.yml", text(&play("include_tasks: a.yml"))), ("a.yml", text("- include_tasks: a.yml\n"))],
            "h1,",
            2,
            &["includes are nested more than 500 deep", "a.yml:1:3"],
        ),
        (
            vec![
                ("p.yml", text("- hosts: all\n  roles: [a]\n")),
                ("roles/a/meta/main.yml", text("dependencies: [b]\n")),
                ("roles/b/meta/main.yml", text("dependencies: [a]\n")),
            ],
            "h1,",
            4,
            &["the role `a` leads back to itself; a -> b -> a", "roles/b/meta/main.yml:1:16"],
        ),
        (
            vec![
                ("p.yml", text("- import_playbook: q.yml\n")),
                ("q.yml", text("- import_playbook: p.yml\n")),
            ],
            "h1,",
            4,
            &["imports itself", "q.yml:1:20"],
        ),
        (
            with("inv", text("#!/bin/sh\nhead -c 100000 /dev/urandom\n")),
            "inv",
            1,
            &["the inventory script", "inv"],
        ),
        (with("inv", text("#!/bin/sh\necho '{'\n")), "inv", 1, &["the inventory script", "inv"]),
        (with("inv", text("#!/bin/sh\necho no >&2; exit 3\n")), "inv", 1, &["exit status: 3", "it said: no"]),
        (
            with("group_vars/all.yml", text("$ANSIBLE_VAULT;1.1;AES256\n6162\nzz\n")),
            "h1,",
            4,
            &["can't decrypt", "its body isn't hexadecimal", "all.yml:1:1"],
        ),
        (
            one("- hosts: all\n  name: caf\u{e9}\n  gather_facts: false\n  tasks: []\n".into()),
            "h1,",
            0,
            &["PLAY [caf\u{e9}]"],
        ),
        (
            vec![("p.yml", b"- hosts: all\n  name: caf\xe9\n".to_vec())],
            "h1,",
            4,
            &["isn't UTF-8", "p.yml:2:12"],
        ),
        (with("group_vars/all.yml", b"x: \xff\xfe\n".to_vec()), "h1,", 4, &["isn't UTF-8", "all.yml:1:4"]),
        (with("inv", b"h\xe9\n".to_vec()), "inv", 1, &["isn't UTF-8", "inv:1:2"]),
        (
            with("inv", text("-oProxyCommand=x\n")),
            "inv",
            1,
            &["'-oProxyCommand=x' can't be a host name", "inv:1:1"],
        ),
        (
            with("inv", text("h[1:9999999999]\n")),
            "inv",
            1,
            &["stands for more than 1000000 hosts", "inv:1:1"],
        ),
        (with("inv", text("[a:children]\nb\n[b:children]\na\n")), "inv", 1, &["a → b → a", "inv:4:1"]),
        (one(String::new()), "h1,", 4, &["the playbook p.yml is empty"]),
    ];
    let mut wrong = Vec::new();
    for (files, inventory, code, said) in cases {
        let (found, output) = told(&files, &["-i", inventory, "p.yml"]);
        let shown: String = output.chars().take(3000).collect();
        if found != Some(code) {
            wrong.push(format!("{found:?} instead of {code}: {said:?}: {shown}"));
        }
        let missing = said.iter().filter(|words| !output.contains(**words));
        wrong.extend(missing.map(|words| format!("{words:?} is not in: {shown}")));
        if code != 0 && code != 2 {
            assert!(!output.contains("TASK ["), "nothing ran: {shown}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn ten_megabytes_of_variables_are_read() {
    let mut vars = String::new();
    for number in 0..10_000 {
        vars.push_str(&format!("v{number}: {}\n", "y".repeat(1000)));
    }
    let play = play("debug: {msg: \"{{ v9999 | length }}\"}");
    let files = [("p.yml", play.into_bytes()), ("group_vars/all.yml", vars.into_bytes())];
    let (code, output) = told(&files, &["-i", "h1,", "p.yml"]);
    assert_eq!(code, Some(0), "{output}");
    assert!(output.contains("\"msg\": \"1000\"") || output.contains("\"msg\": 1000"), "{output}");
}

/// Pipes: what can be read once is read once, wherever it is named.
#[test]
fn what_is_given_through_a_pipe_is_read_once() {
    let dir = tempfile::tempdir().unwrap();
    let vault = Vault::new([("default", "right")]).encrypt(b"hidden", None).unwrap();
    let vault: String = vault.lines().map(|line| format!("      {line}\n")).collect();
    let play = format!(
        "- hosts: all\n  gather_facts: false\n  vars:\n    secret: !vault |\n{vault}  tasks:\n    - meta: \
         refresh_inventory\n    - debug: {{msg: \"{{{{ given }}}} {{{{ secret }}}} {{{{ of_group }}}}\"}}\n    - debug: \
         {{msg: \"{{{{ broken }}}}\"}}\n"
    );
    fs::write(dir.path().join("p.yml"), play).unwrap();
    let script = "mkfifo vars password hosts play
        echo '{given: one, broken: \"{{ nothing }}\"}' > vars &
        echo right > password &
        printf 'h1\\n[all:vars]\\nof_group=three\\n' > hosts &
        cat p.yml > play &
        echo h2 | timeout 60 \"$0\" run -c local -i hosts -i /dev/stdin -e @vars --vault-password-file password play";
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_setpoint")])
        .current_dir(dir.path())
        .env_remove("ANSIBLE_CONFIG")
        .env("ANSIBLE_NOCOLOR", "1")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{told}{}", String::from_utf8_lossy(&output.stderr));
    for host in ["h1", "h2"] {
        assert!(
            told.contains(&format!("ok: [{host}] => {{\n    \"msg\": \"one hidden three\"\n}}")),
            "{told}"
        );
        assert!(
            told.contains(&format!("fatal: [{host}]")) && told.contains("'nothing' is undefined"),
            "{told}"
        );
    }
}

// ---- texts that are nearly right ----

/// A generator of pseudo-random numbers: the same seed gives the same texts.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % (sides.max(1) as u64)).unwrap()
    }
}

/// What turns up where texts go wrong.
const SPICE: &[&str] = &[
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "#}",
    "'",
    "\"",
    "\\",
    "[",
    "]",
    "{",
    "}",
    ":",
    ": ",
    "- ",
    "\n",
    "\n  ",
    "\t",
    "&a ",
    "*a",
    "<<: ",
    "!vault ",
    "!unsafe ",
    "|",
    ">",
    "|2-",
    "#",
    "%",
    "\0",
    "\u{feff}",
    "\u{85}",
    "é",
    "💥",
    "-",
    "~",
    "!",
    "&",
    ",",
    "[1:3]",
    "[a:z:2]",
    "..",
    "1e999",
    "0x",
    "0b",
    "0o7",
    "1_000",
    "12:30:45",
    "2001-01-01",
    ".inf",
    "---\n",
    "...\n",
    "%YAML 1.1\n",
    "$ANSIBLE_VAULT;1.1;AES256\n",
    "(",
    ")",
    "**",
    "//",
    " is ",
    " not ",
    " if ",
    " else ",
    "|map",
    "loop",
    "self",
    "caller",
    "omit",
    "{% raw %}",
    "{% endraw %}",
    "-%}",
    "{%-",
    "\r\n",
];

/// A seed with some bytes changed, left out, said twice or taken from another seed.
fn mutated(dice: &mut Dice, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut text = seeds[dice.roll(seeds.len())].clone();
    for _ in 0..=dice.roll(6) {
        let at = dice.roll(text.len() + 1);
        let end = (at + dice.roll(40)).min(text.len());
        match dice.roll(6) {
            0 => drop(text.drain(at..end)),
            1 => {
                let again = text[at..end].to_vec();
                let count = again.len() * (1 + dice.roll(3));
                drop(text.splice(at..at, again.iter().copied().cycle().take(count)));
            }
            2 if !text.is_empty() => {
                let at = at.min(text.len() - 1);
                text[at] = u8::try_from(dice.roll(256)).unwrap();
            }
            3 => {
                let other = &seeds[dice.roll(seeds.len())];
                let from = dice.roll(other.len() + 1);
                let to = (from + dice.roll(200)).min(other.len());
                drop(text.splice(at..end, other[from..to].iter().copied()));
            }
            4 => text.truncate(at),
            _ => drop(text.splice(at..at, SPICE[dice.roll(SPICE.len())].bytes())),
        }
    }
    text
}

/// Gives many mutated texts to a reader. `SETPOINT_MUTATIONS` says how many (fewer where each is
/// costly), `SETPOINT_SEED` from where.
fn try_out(name: &str, cost: u64, seeds: &[Vec<u8>], read: impl Fn(&[u8]) + std::panic::RefUnwindSafe) {
    let number =
        |name: &str, default: u64| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let count = (number("SETPOINT_MUTATIONS", 1500) / cost).max(1);
    let first = number("SETPOINT_SEED", 1);
    assert!(!seeds.is_empty());
    for seed in first..first + count {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let text = mutated(&mut dice, seeds);
        let started = Instant::now();
        let outcome = std::panic::catch_unwind(|| read(&text));
        let shown = String::from_utf8_lossy(&text);
        assert!(outcome.is_ok(), "{name}, SETPOINT_SEED={seed}: a panic on {shown:?}");
        let took = started.elapsed();
        assert!(took < Duration::from_secs(20), "{name}, SETPOINT_SEED={seed}: {took:?} for {shown:?}");
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// The files of a folder of the tests that end so, in pieces of some lines.
fn pieces(folder: &str, ending: &str, lines: usize) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(root().join(folder)).unwrap().flatten().map(|e| e.path()).collect();
    paths.sort();
    let mut out = Vec::new();
    for path in paths.iter().filter(|path| path.is_file() && path.to_string_lossy().ends_with(ending)) {
        let text = fs::read_to_string(path).unwrap();
        let all: Vec<&str> = text.lines().collect();
        out.extend(all.chunks(lines).map(|piece| (piece.join("\n") + "\n").into_bytes()));
    }
    out
}

#[test]
fn no_yaml_makes_the_reader_panic() {
    let mut seeds = pieces("corpus", ".yml", 40);
    seeds.extend(pieces("fleet", ".yml", 60));
    seeds.push(
        b"a: &a {x: 1, y: [1, 2]}\nb:\n  <<: *a\n  z: !vault |\n    $ANSIBLE_VAULT;1.1;AES256\n    6162\n"
            .to_vec(),
    );
    try_out("yaml", 1, &seeds, |text| {
        let text = String::from_utf8_lossy(text);
        if let Ok(parsed) = setpoint::source::parse("t.yml", &text) {
            let value = parsed.root.to_value();
            let _ = (value.repr(), value.to_text());
        }
    });
}

#[test]
fn no_inventory_makes_the_reader_panic() {
    let seeds: Vec<Vec<u8>> = [
        "h1 ansible_host=10.0.0.1 x='a b' y=\"{{ z }}\"\nh[01:10:2] port=22\n\n[web:vars]\na=[1, 2]\nb={'c': True}\n\n[web]\nh1\nweb[a:c].example.org:2222\n\n[all:children]\nweb\ndb\n\n[db]\n::1\n[2001:db8::1]:22 v=1 # note\n",
        "all:\n  vars: {a: 1}\n  hosts:\n    h1: {ansible_host: 10.0.0.1}\n    h[2:4]:\n  children:\n    web:\n      hosts: {h1: null}\n      children: {inner: {vars: {x: [1]}}}\n",
        "plugin: ansible.builtin.constructed\nstrict: false\ncompose: {x: inventory_hostname}\ngroups: {a: x is defined}\nkeyed_groups: [{key: x, prefix: p}]\n",
        "plugin: generator\nhosts: {name: \"{{ a }}_{{ b }}\", parents: [{name: g}]}\nlayers: {a: [1, 2], b: [x, y]}\n",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect();
    let dir = tempfile::tempdir().unwrap();
    for name in ["hosts", "hosts.yml"] {
        let path = dir.path().join(name);
        let source = path.to_string_lossy().into_owned();
        try_out(name, 1, &seeds, |text| {
            fs::write(&path, text).unwrap();
            if let Ok((inventory, _)) =
                Inventory::load(std::slice::from_ref(&source), &LoadOptions::default())
            {
                for host in inventory.hosts_in_order().iter().take(20) {
                    let _ = inventory.group_names(host);
                }
            }
        });
    }
}

#[test]
fn no_pattern_makes_the_selection_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hosts");
    fs::write(&path, "a1\na2\na3\n[web]\nb[1:20].example.org\n[db]\na1\nb1.example.org\n[all:vars]\nx=1\n")
        .unwrap();
    let (inventory, _) =
        Inventory::load(&[path.to_string_lossy().into_owned()], &LoadOptions::default()).unwrap();
    let seeds: Vec<Vec<u8>> = [
        "all",
        "web:&db:!a1",
        "~b[0-9]+\\.example",
        "web[0:3],db[-1]",
        "a*:b?.example.org",
        "web[5:]:!web[7]",
        "::1,[::1]:22",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect();
    let inventory = std::panic::AssertUnwindSafe(inventory);
    try_out("pattern", 1, &seeds, |text| {
        let pattern = String::from_utf8_lossy(text);
        let _ = inventory.select(&pattern, None);
        let _ = inventory.select("all", Some(&pattern));
    });
}

#[test]
fn no_template_makes_the_renderer_panic() {
    let own = "users: [{name: ann, age: 3}, {name: bob, tags: [a, b]}]\ntext: Hello World\nn: 42\nnothing: null\nmap: {a: 1, b: {c: [1, 2, 3]}}\nnested: '{{ text }} {{ n }}'\n";
    let (own, _) = setpoint::source::parse_value("vars.yml", own).unwrap();
    let Value::Map(own) = own else { panic!("variables are a mapping") };
    let vars: Arc<dyn Vars> = Arc::new(own.as_ref().clone());
    let search = Arc::new(SearchPath::default());
    let templar = Templar::new(Options::default());
    // What reads files or runs programs is not for random texts.
    let tame = |piece: &Vec<u8>| {
        let text = String::from_utf8_lossy(piece);
        !["lookup", "query", "q(", "include", "import", "extends"].iter().any(|word| text.contains(word))
    };
    let mut seeds = pieces("corpus/templates", ".j2", 12);
    seeds.extend(pieces("corpus", "expressions.yml", 1));
    seeds.retain(tame);
    seeds.push(b"{% for u in users if u.age is defined %}{{ loop.index }} {{ u['name'] | upper }}{% else %}-{% endfor %}".to_vec());
    seeds.push(b"{% macro m(a, b=2) %}{{ a ~ b }}{% endmacro %}{{ m(text[1:-1:2]) }}{% set ns = namespace(x=1) %}{% set ns.x = ns.x + n %}{{ ns.x }}".to_vec());
    let state = std::panic::AssertUnwindSafe((templar, vars, search));
    try_out("template", 1, &seeds, |text| {
        let (templar, vars, search) = &*state;
        let text = String::from_utf8_lossy(text);
        let context = Context { vars, search };
        let _ = templar.render(&Value::trusted(&*text), &context);
        let _ = templar.expression(&text, &context);
    });
}

#[test]
fn no_vault_makes_the_reader_panic() {
    let vault = Vault::new([("default", "right"), ("other", "too")]);
    let seeds = [
        vault.encrypt(b"secret: text\n", None).unwrap().into_bytes(),
        vault.encrypt(b"", Some("other")).unwrap().into_bytes(),
    ];
    let vault = std::panic::AssertUnwindSafe(vault);
    try_out("vault", 50, &seeds, |text| {
        let _ = Vault::is_vault(text);
        let _ = vault.decrypt_bytes(text);
    });
}
