//! Whole inventories against what `ansible-inventory` 2.19 prints for them, and the errors of broken ones.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::*;

/// A directory of files that goes away with the test.
struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new(files: &[(&str, &str)]) -> Files {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(&path, text).expect("written");
            if text.starts_with("#!") {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set");
            }
        }
        Files { dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_string_lossy().into_owned()
    }

    fn load(&self, names: &[&str]) -> (Inventory, Vec<Diagnostic>) {
        self.try_load(names, &LoadOptions::default()).map_err(|errors| rendered(&errors)).expect("loads")
    }

    fn try_load(
        &self,
        names: &[&str],
        options: &LoadOptions,
    ) -> Result<(Inventory, Vec<Diagnostic>), Vec<Diagnostic>> {
        let sources: Vec<String> = names
            .iter()
            .map(|name| if name.contains(',') { (*name).into() } else { self.path(name) })
            .collect();
        Inventory::load(&sources, options)
    }

    /// The errors, with the directory's name left out.
    fn errors(&self, names: &[&str]) -> String {
        let options = LoadOptions { script_timeout: Duration::from_millis(500), ..LoadOptions::default() };
        let errors = self.try_load(names, &options).expect_err("it is broken");
        rendered(&errors).replace(&format!("{}/", self.dir.path().display()), "")
    }
}

fn rendered(problems: &[Diagnostic]) -> String {
    problems.iter().map(Diagnostic::render).collect()
}

fn ini(text: &str) -> (Inventory, Vec<Diagnostic>) {
    Files::new(&[("hosts", text)]).load(&["hosts"])
}

fn names(names: &[Arc<str>]) -> String {
    names.join(" ")
}

const HOSTS: &str = "\
# comment
; other
lonely ansible_host=10.0.0.1 a=\"1\" b='\"1\"' c=True d=true e=None f=0644 g=[1,'x'] h={'a':1} i=\"x y\" j=1e3 k=a#b
jumper:2222 ansible_user=joe   # trailing
[web]
web[01:03].example.com http_port=80
web02.example.com extra='{{ http_port }}'
[db]
db-[a:c]
db-a
[prod:children]
db
web
[web:vars]
va = 1
vb=\"1\"
vc=foo # x
vd =
ve=80 # y
ports=80,443
[prod:vars]
region=eu
ansible_group_priority=5
[ungrouped]
late
[alpha]
db-a
lonely
[fe]
[2001:db8::1]:22
fe80::1 ansible_user=x
";

/// Recorded from `ansible-inventory -i hosts --list --export`.
#[test]
fn ini_reads_as_ansible_reads_it() {
    let (inventory, warnings) = ini(HOSTS);
    assert_eq!(rendered(&warnings), "");
    let shown = inventory.show_list_json(Show { export: true, ..Show::default() }).expect("shown");
    assert_eq!(
        shown,
        r#"{
    "_meta": {
        "hostvars": {
            "2001:db8::1": {
                "ansible_port": 22
            },
            "fe80::1": {
                "ansible_user": "x"
            },
            "jumper": {
                "ansible_port": 2222,
                "ansible_user": "joe"
            },
            "lonely": {
                "a": 1,
                "ansible_host": "10.0.0.1",
                "b": "1",
                "c": true,
                "d": "true",
                "e": null,
                "f": "0644",
                "g": "[1,x]",
                "h": "{a:1}",
                "i": "x y",
                "j": 1000.0,
                "k": "a"
            },
            "web01.example.com": {
                "http_port": 80
            },
            "web02.example.com": {
                "extra": "{{ http_port }}",
                "http_port": 80
            },
            "web03.example.com": {
                "http_port": 80
            }
        },
        "profile": "inventory_legacy"
    },
    "all": {
        "children": [
            "ungrouped",
            "prod",
            "alpha",
            "fe"
        ]
    },
    "alpha": {
        "hosts": [
            "db-a",
            "lonely"
        ]
    },
    "db": {
        "hosts": [
            "db-a",
            "db-b",
            "db-c"
        ]
    },
    "fe": {
        "hosts": [
            "2001:db8::1",
            "fe80::1"
        ]
    },
    "prod": {
        "children": [
            "db",
            "web"
        ],
        "vars": {
            "ansible_group_priority": 5,
            "region": "eu"
        }
    },
    "ungrouped": {
        "hosts": [
            "jumper",
            "late"
        ]
    },
    "web": {
        "hosts": [
            "web01.example.com",
            "web02.example.com",
            "web03.example.com"
        ],
        "vars": {
            "ports": [
                80,
                443
            ],
            "va": 1,
            "vb": "1",
            "vc": "foo # x",
            "vd": "",
            "ve": 80
        }
    }
}"#
    );
}

const YAML: &str = "\
all:
  hosts:
    h1: {a: 1, b: yes, c: '{{ x }}'}
    h[2:3]:
  children:
    z:
      hosts:
        h2: {v: 1}
        h9:
      children:
        y:
          hosts: {h3: , h10: {q: 1}}
        x:
          vars: {k: v, ansible_group_priority: 3}
    w:
      hosts: h1
      children:
        y:
  vars:
    top: 1
";

/// Recorded from `ansible-inventory -i inv.yml --graph --vars` and `--list --yaml`.
#[test]
fn yaml_reads_as_ansible_reads_it() {
    let files = Files::new(&[("inv.yml", YAML)]);
    let (inventory, warnings) = files.load(&["inv.yml"]);
    assert_eq!(rendered(&warnings), "");
    let graph = inventory.show_graph("all", Show { vars: true, ..Show::default() }).expect("shown");
    assert_eq!(
        graph,
        "\
@all:
  |--@ungrouped:
  |--@z:
  |  |--@y:
  |  |  |--h3
  |  |  |  |--{top = 1}
  |  |  |--h10
  |  |  |  |--{q = 1}
  |  |  |  |--{top = 1}
  |  |--@x:
  |  |  |--{ansible_group_priority = 3}
  |  |  |--{k = v}
  |  |--h2
  |  |  |--{top = 1}
  |  |  |--{v = 1}
  |  |--h9
  |  |  |--{top = 1}
  |--@w:
  |  |--@y:
  |  |  |--h3
  |  |  |  |--{top = 1}
  |  |  |--h10
  |  |  |  |--{q = 1}
  |  |  |  |--{top = 1}
  |  |--h1
  |  |  |--{a = 1}
  |  |  |--{b = True}
  |  |  |--{c = {{ x }}}
  |  |  |--{top = 1}
  |--{top = 1}"
    );
    assert_eq!(
        inventory.show_list_yaml(Show { limit: Some("z"), ..Show::default() }).expect("shown"),
        "\
all:
  children:
    w:
      children:
        y: {}
    z:
      children:
        y:
          hosts:
            h10:
              q: 1
              top: 1
            h3:
              top: 1
      hosts:
        h2:
          top: 1
          v: 1
        h9:
          top: 1
"
    );
    assert_eq!(names(&inventory.hosts_in_order()), "h1 h2 h3 h9 h10");
    assert_eq!(names(&inventory.group_names("h3")), "w y z");
}

/// Every level of variables that the inventory knows, in the order of precedence, each with its source.
#[test]
fn layers_are_in_order_of_precedence() {
    let files = Files::new(&[
        ("inv/hosts", "[all:vars]\nv=1\n[g:children]\nsub\n[sub]\nh v=7\n[g:vars]\nv=2\n[sub:vars]\nv=3\n"),
        ("inv/group_vars/all.yml", "v: 4"),
        ("inv/group_vars/g/b.yml", "v: 6b"),
        ("inv/group_vars/g/a", "v: 6a"),
        ("inv/group_vars/g/nested/c.json", "{\"v\": \"6c\"}"),
        ("inv/group_vars/g/notes.txt", "not: read"),
        ("inv/group_vars/g/.hidden.yml", "not: read"),
        ("inv/group_vars/g/backup~", "not: read"),
        ("inv/group_vars/sub", "v: 6d"),
        ("inv/group_vars/sub.yml", "not: read"),
        ("inv/group_vars/ungrouped.yml", "not: for h"),
        ("inv/host_vars/h.yaml", "v: 8"),
        ("inv/host_vars/h.json", "not: read"),
        ("play/group_vars/all", "v: 5"),
        ("play/group_vars/sub.yml", "v: 6e"),
        ("play/host_vars/h", "v: 9"),
        ("play/host_vars/empty", ""),
    ]);
    let (inventory, _) = files.load(&["inv/hosts"]);
    let play = PathBuf::from(files.path("play"));
    let layers = inventory.var_layers("h", Some(&play)).expect("read");
    let told: Vec<String> = layers
        .iter()
        .map(|layer| {
            let value = layer.map.get("v").map(Value::to_text).unwrap_or_default();
            let source = layer.source.replace(&files.path(""), "");
            format!("{value}: {} ({source})", layer.level.describe())
        })
        .collect();
    assert_eq!(
        told,
        [
            "1: inventory, group all (all)",
            "2: inventory, group (g)",
            "3: inventory, group (sub)",
            "4: inventory group_vars/all (inv/group_vars/all.yml)",
            "5: playbook group_vars/all (play/group_vars/all)",
            "6a: inventory group_vars (inv/group_vars/g/a)",
            "6b: inventory group_vars (inv/group_vars/g/b.yml)",
            "6c: inventory group_vars (inv/group_vars/g/nested/c.json)",
            "6d: inventory group_vars (inv/group_vars/sub)",
            "6e: playbook group_vars (play/group_vars/sub.yml)",
            "7: inventory, host (h)",
            "8: inventory host_vars (inv/host_vars/h.yaml)",
            "9: playbook host_vars (play/host_vars/h)",
        ]
    );
    // Without the playbook's directory its files count for nothing.
    assert_eq!(inventory.host_vars("h", None).expect("read").get("v"), Some(&Value::Int(8)));
    // Layers are shared, not copied.
    let again = inventory.var_layers("h", Some(&play)).expect("read");
    assert!(Arc::ptr_eq(&layers, &again));
}

#[test]
fn depth_then_priority_then_name_decide_between_groups() {
    let text = "\
[b]\nh\n[a]\nh\n[high]\nh\n[deep]\nh\n[top:children]\ndeep\n
[a:vars]\nname=a\ndepth=a\nprio=a\n[b:vars]\nname=b\ndepth=b\nprio=b\n
[high:vars]\nansible_group_priority=10\nprio=high\ndepth=high\n[deep:vars]\ndepth=deep\n";
    let (inventory, _) = ini(text);
    let vars = inventory.host_vars("h", None).expect("read");
    let got = ["name", "prio", "depth"].map(|name| vars.get(name).map(Value::to_text).unwrap_or_default());
    assert_eq!(got, ["b", "high", "deep"]);
}

#[test]
fn patterns_select_as_ansible_does() {
    let (inventory, _) = ini(HOSTS);
    for (pattern, limit, expected) in [
        (
            "all",
            None,
            "jumper late db-a lonely 2001:db8::1 fe80::1 db-b db-c web01.example.com web02.example.com web03.example.com",
        ),
        ("web", None, "web01.example.com web02.example.com web03.example.com"),
        ("web:db", None, "web01.example.com web02.example.com web03.example.com db-a db-b db-c"),
        ("!web:db:&alpha", None, "db-a"),
        ("!alpha:&prod", None, "db-b db-c web01.example.com web02.example.com web03.example.com"),
        ("web[0]", None, "web01.example.com"),
        ("web[-1]", None, "web03.example.com"),
        ("web[0:1]", None, "web01.example.com web02.example.com"),
        ("web[1:]", None, "web02.example.com web03.example.com"),
        ("web[5:9]", None, ""),
        ("web0[1-2]*", None, "web01.example.com web02.example.com"),
        ("web0[!1]*", None, "web02.example.com web03.example.com"),
        ("*.example.com[1]", None, "web02.example.com"),
        ("db*", None, "db-a db-b db-c"),
        ("db-?", None, "db-a db-b db-c"),
        ("~db-[bc]", None, "db-b db-c"),
        ("~.*-b$", None, "db-b"),
        ("fe80::1", None, "fe80::1"),
        ("db-a, jumper ,", None, "db-a jumper"),
        ("localhost", None, "localhost"),
        ("::1", None, "::1"),
        ("all", Some("alpha"), "db-a lonely"),
        ("web", Some("!web02.example.com"), "web01.example.com web03.example.com"),
        ("nosuch", None, ""),
    ] {
        let selection = inventory.select(pattern, limit).expect(pattern);
        assert_eq!(names(&selection.hosts), expected, "{pattern}");
    }
    let warnings = inventory.select("wbe:db", None).expect("selected").warnings;
    assert_eq!(rendered(&warnings), "warning: no host or group matches 'wbe'\n  hint: did you mean 'web'?\n");
    for (pattern, message) in [
        ("web[7]", "no host matches 'web[7]': 'web' has only 3"),
        ("web:&", "there is nothing behind the '&' of the host pattern"),
        ("~(", "the host pattern '~(' isn't a regular expression"),
    ] {
        let error = inventory.select(pattern, None).expect_err(pattern);
        assert!(error.message.starts_with(message), "{error}");
    }
    let files = Files::new(&[("limit", "db-b\n\ndb-c\n")]);
    let limit = format!("@{}", files.path("limit"));
    assert_eq!(names(&inventory.select("all", Some(&limit)).expect("selected").hosts), "db-b db-c");
    inventory.select("all", Some("@/no/such")).expect_err("no file");
    // A pattern that is bad for naive matchers takes no time.
    let started = Instant::now();
    let evil = format!("{}b", "*a".repeat(200));
    inventory.select(&evil, None).expect("selected");
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[test]
fn several_sources_directories_and_scripts_become_one() {
    let files = Files::new(&[
        ("inv/01-static", "[g1]\nm1\nm2\n[g2:children]\ng1\n"),
        (
            "inv/02-dyn.sh",
            "#!/bin/sh\n[ \"$1\" = --list ] && echo '{\"g1\":{\"hosts\":[\"m3\"],\"vars\":{\"s\":\"{{ t }}\"}},\"lone\":[\"m4\"],\"m5\":{\"v\":1},\"p\":{\"children\":[\"g1\"]},\"_meta\":{\"hostvars\":{\"m3\":{\"z\":1}}}}'\n",
        ),
        (
            "inv/03-old.sh",
            "#!/bin/sh\ncase $1 in --list) echo '{\"old\": [\"o1\"]}';; --host) echo \"{\\\"me\\\": \\\"$2\\\"}\";; esac\n",
        ),
        ("inv/x.txt", "ignored"),
        ("inv/.hidden", "[ignored"),
        ("inv/sub/hosts", "sub1\n"),
        ("inv/group_vars/g1.yml", "g1v: 1\n"),
    ]);
    let (inventory, warnings) = files.load(&["inv", "extra1,extra2:2222", "none"]);
    assert_eq!(
        rendered(&warnings),
        format!(
            "warning: the inventory {} doesn't exist\n  hint: a list of hosts needs a comma: `-i host1,`\nwarning: 'm5' is both a group and a host\n",
            files.path("none")
        )
    );
    assert_eq!(names(&inventory.hosts_in_order()), "sub1 extra1 extra2 m4 m5 o1 m1 m2 m3");
    let vars = |host: &str| {
        let shown = inventory.show_host(host, Show::default()).expect("shown");
        shown.repr()
    };
    assert_eq!(vars("m3"), "{'s': '{{ t }}', 'g1v': 1, 'z': 1}");
    assert_eq!(vars("m5"), "{'v': 1}");
    assert_eq!(vars("o1"), "{'me': 'o1'}");
    assert_eq!(vars("extra2"), "{'ansible_port': 2222}");
    let origin = inventory.host_vars("m3", None).expect("read").get("inventory_file").map(Value::to_text);
    assert_eq!(origin, Some(files.path("inv/02-dyn.sh")));
}

#[test]
fn vaulted_files_are_opened() {
    let vault = Vault::new([("default", "secret")]);
    let sealed = vault.encrypt(b"token: abc\n", None).expect("sealed");
    let files = Files::new(&[("hosts", "h\n"), ("group_vars/all", &sealed)]);
    let options = LoadOptions { vault, ..LoadOptions::default() };
    let (inventory, _) = files.try_load(&["hosts"], &options).map_err(|e| rendered(&e)).expect("loads");
    assert_eq!(inventory.host_vars("h", None).expect("read").get("token"), Some(&Value::str("abc")));
    let (inventory, _) = files.load(&["hosts"]);
    let errors = inventory.var_layers("h", None).expect_err("no password");
    assert!(errors[0].message.contains("no vault password was given"), "{}", errors[0]);
}

#[test]
fn the_machine_itself_is_always_there() {
    let files = Files::new(&[("hosts", "h\n[all:vars]\nv=1\n"), ("host_vars/localhost.yml", "w: 2\n")]);
    let (inventory, _) = files.load(&["hosts"]);
    assert_eq!(
        inventory.show_host("localhost", Show::default()).expect("shown").repr(),
        "{'v': 1, 'ansible_connection': 'local', 'ansible_python_interpreter': '/usr/bin/python3', 'w': 2}"
    );
    assert_eq!(names(&inventory.select("all", None).expect("selected").hosts), "h");
    assert_eq!(names(&inventory.group_names("localhost")), "");
    let (inventory, _) = ini("localhost ansible_host=x\n");
    assert!(!inventory.host("localhost").expect("there").implicit);
    assert_eq!(names(&inventory.select("127.0.0.1", None).expect("selected").hosts), "localhost");
}

#[test]
fn hosts_and_groups_are_added_while_a_play_runs() {
    let (mut inventory, _) = ini("[g]\na\n[g:vars]\nv=1\n");
    let vars = crate::value::map_of([("x", 1)]);
    assert_eq!(names(&inventory.select("all", None).expect("selected").hosts), "a");
    assert!(inventory.add_host("new", &["g".into(), "fresh".into()], &vars).expect("added"));
    assert!(!inventory.add_host("new", &["g".into()], &vars).expect("added"));
    assert_eq!(names(&inventory.group_names("new")), "fresh g");
    assert_eq!(inventory.show_host("new", Show::default()).expect("shown").repr(), "{'v': 1, 'x': 1}");
    assert!(inventory.add_group("os_debian", &["linux".into()], &["a"]).expect("added"));
    assert!(!inventory.add_group("os_debian", &["linux".into()], &["a"]).expect("added"));
    assert_eq!(names(&inventory.select("linux", None).expect("selected").hosts), "a");
    assert_eq!(
        inventory.groups_value().repr(),
        "{'all': ['new', 'a'], 'ungrouped': [], 'g': ['a', 'new'], 'fresh': ['new'], 'os_debian': ['a'], 'linux': ['a']}"
    );
    inventory.add_host("-oProxyCommand=x", &[], &Map::new()).expect_err("an option");
    inventory.add_group("linux", &["os_debian".into()], &[]).expect_err("a cycle");
    inventory.add_group("x", &[], &["nobody"]).expect_err("no such host");
}

#[test]
fn constructed_makes_variables_and_groups() {
    let files = Files::new(&[
        (
            "hosts",
            "[web]\nw1 os=debian tags=\"['a','b-c']\" meta=\"{'k': 'v', 'e': ''}\" empty=\n[db]\nd1 os=rocky\n",
        ),
        (
            "con.yml",
            "\
plugin: constructed
use_extra_vars: true
compose:
  copied: os
  short: inventory_hostname[:1] ~ extra
  broken: nosuch
groups:
  is-debian: os == 'debian'
keyed_groups:
  - {key: os, prefix: os}
  - {key: tags}
  - {key: meta, prefix: m, separator: '-', parent_group: metas}
  - {key: empty, prefix: e, default_value: none}
",
        ),
    ]);
    let options =
        LoadOptions { extra_vars: crate::value::map_of([("extra", "e")]), ..LoadOptions::default() };
    let (inventory, _) =
        files.try_load(&["hosts", "con.yml"], &options).map_err(|e| rendered(&e)).expect("loads");
    assert_eq!(
        inventory.show_graph("all", Show::default()).expect("shown"),
        "\
@all:
  |--@ungrouped:
  |--@web:
  |  |--w1
  |--@db:
  |  |--d1
  |--@is_debian:
  |  |--w1
  |--@os_debian:
  |  |--w1
  |--@_a:
  |  |--w1
  |--@_b_c:
  |  |--w1
  |--@metas:
  |  |--@m_k_v:
  |  |  |--w1
  |  |--@m_e_:
  |  |  |--w1
  |--@e_none:
  |  |--w1
  |--@os_rocky:
  |  |--d1"
    );
    let vars = inventory.host_vars("d1", None).expect("read");
    assert_eq!(vars.get("copied"), Some(&Value::str("rocky")));
    assert_eq!(vars.get("short"), Some(&Value::str("de")));
    assert_eq!(vars.get("broken"), None);
}

#[test]
fn generator_makes_hosts_from_layers() {
    let files = Files::new(&[(
        "gen.yml",
        "\
plugin: generator
hosts:
  name: '{{ op }}_{{ env }}_runner'
  parents:
    - name: '{{ op }}'
      vars: {op: '{{ op }}', n: 1}
      parents: [{name: ops}]
    - name: runner
layers:
  op: [build, launch]
  env: [dev, prod]
",
    )]);
    let options =
        LoadOptions { extra_vars: crate::value::map_of([("extra", "e")]), ..LoadOptions::default() };
    let (inventory, _) = files.try_load(&["gen.yml"], &options).map_err(|e| rendered(&e)).expect("loads");
    assert_eq!(
        names(&inventory.hosts_in_order()),
        "build_dev_runner build_prod_runner launch_dev_runner launch_prod_runner"
    );
    assert_eq!(names(&inventory.group_names("build_dev_runner")), "build ops runner");
    assert_eq!(
        inventory.host_vars("launch_dev_runner", None).expect("read").get("op"),
        Some(&Value::str("launch"))
    );
}

#[test]
fn broken_inventories_say_what_and_where() {
    let mut wrong = String::new();
    for (name, text, expected) in [
        (
            "hosts",
            "[a b]\n",
            "error: '[a b]' isn't a section; its name can't have spaces\n  --> hosts:1:1\n    |\n  1 | [a b]\n    | ^\n",
        ),
        (
            "hosts",
            "[a:foo]\n",
            "error: a section [group:foo] isn't known; there are hosts, vars and children\n  --> hosts:1:1\n    |\n  1 | [a:foo]\n    | ^\n",
        ),
        (
            "hosts",
            "h a=1 b\n",
            "error: 'b' isn't `name=value`\n  --> hosts:1:7\n    |\n  1 | h a=1 b\n    |       ^\n",
        ),
        (
            "hosts",
            "[web]\nh\n[wbe:vars]\na=1\n",
            "error: [wbe:vars] is for a group that isn't defined\n  --> hosts:3:1\n    |\n  3 | [wbe:vars]\n    | ^\n  hint: did you mean 'web'?\n",
        ),
        (
            "hosts",
            "[a:children]\nzzz\n",
            "error: [a:children] names the group 'zzz', which isn't defined\n  --> hosts:2:1\n    |\n  2 | zzz\n    | ^\n  hint: an empty group is declared by a line `[zzz]`\n",
        ),
        (
            "hosts",
            "[a:children]\nb\n[b:children]\nc\n[c:children]\na\n",
            "error: the groups contain each other: a → b → c → a\n  --> hosts:6:1\n    |\n  6 | a\n    | ^\n",
        ),
        ("hosts", "h a='x\n", "error: a quote isn't closed\n  --> hosts:1:1\n    |\n  1 | h a='x\n    | ^\n"),
        (
            "hosts",
            "-oProxyCommand=x\n",
            "error: '-oProxyCommand=x' can't be a host name: it would be taken for an option\n  --> hosts:1:1\n    |\n  1 | -oProxyCommand=x\n    | ^\n",
        ),
        (
            "hosts.ini",
            "all:\n  hosts:\n",
            "error: the host name 'all:' ends in a colon; only a port may follow one\n  --> hosts.ini:1:1\n    |\n  1 | all:\n    | ^\n  hint: this looks like YAML; give the file the extension .yml\nerror: the host name 'hosts:' ends in a colon; only a port may follow one\n  --> hosts.ini:2:3\n    |\n  2 |   hosts:\n    |   ^\n  hint: this looks like YAML; give the file the extension .yml\n",
        ),
        (
            "hosts.ini",
            "h[1:3\n",
            "error: the range in 'h[1:3' isn't closed\n  --> hosts.ini:1:1\n    |\n  1 | h[1:3\n    | ^\n",
        ),
        (
            "i.yml",
            "all:\n  hosts: [a, b]\n",
            "error: `hosts` must be a mapping, but this is a list\n  --> i.yml:2:10\n    |\n  2 |   hosts: [a, b]\n    |          ^\n  hint: write `name:` on a line of its own for each, without a dash\n",
        ),
        (
            "i.yml",
            "- a\n",
            "error: an inventory is a mapping of groups, but this is a list\n  --> i.yml:1:1\n    |\n  1 | - a\n    | ^\n",
        ),
        (
            "i.yml",
            "a: {children: {b: {children: {a: }}}}\n",
            "error: the groups contain each other: b → a → b\n",
        ),
        (
            "i.yml",
            "a: {hosts: {1: }}\n",
            "error: the name of a host must be a string, but this is a number\n  --> i.yml:1:13\n    |\n  1 | a: {hosts: {1: }}\n    |             ^\n  hint: put it in quotes\n",
        ),
        (
            "i.yml",
            "plugin: amazon.aws.aws_ec2\n",
            "error: the inventory plugin 'amazon.aws.aws_ec2' isn't supported\n",
        ),
        (
            "i.yml",
            "plugin: constructed\ncompos: {}\n",
            "error: 'compos' isn't an option of this inventory plugin\n  --> i.yml:2:1\n    |\n  2 | compos: {}\n    | ^\n  hint: did you mean 'compose'?\n",
        ),
        ("i.toml", "[web]\n", "error: inventories in TOML aren't supported; use YAML or INI\n"),
        (
            "dyn",
            "#!/bin/sh\necho '{'\n",
            "error: the inventory script dyn: --list printed what isn't JSON: EOF while parsing an object\n",
        ),
        (
            "dyn",
            "#!/bin/sh\necho oops >&2; exit 3\n",
            "error: the inventory script dyn: --list failed (exit status: 3)\n  hint: it said: oops\n",
        ),
        (
            "dyn",
            "#!/bin/sh\nsleep 60\n",
            "error: the inventory script dyn: gave no answer to --list in 0 s\n",
        ),
        (
            "dyn",
            "#!/bin/sh\necho '[1]'\n",
            "error: the inventory script dyn: --list printed list, not an object\n",
        ),
        (
            "dyn",
            "#!/bin/sh\necho '{\"a\": 1}'\n",
            "error: the inventory script dyn: `a.hosts` must be a list of names\n",
        ),
        (
            "dyn",
            "#!/bin/sh\necho '{\"a\": [\"-x\"]}'\n",
            "error: the inventory script dyn: '-x' can't be a host name: it would be taken for an option\n",
        ),
        (
            "dyn",
            "#!/no/such/interpreter\n",
            "error: the inventory script dyn: can't be run: No such file or directory (os error 2)\n",
        ),
    ] {
        let told = Files::new(&[(name, text)]).errors(&[name]);
        if !told.starts_with(expected) {
            wrong.push_str(&format!("{text:?}\ngot:\n{told}\nexpected:\n{expected}\n"));
        }
    }
    assert_eq!(wrong, "");
}

/// Random inventories never panic and never hang, whatever else they do.
#[test]
fn no_inventory_panics() {
    let pieces = [
        "[a]",
        "[b:children]",
        "[a:vars]",
        "[all]",
        "[ungrouped:children]",
        "a",
        "b",
        "all",
        "h[1:3]",
        "h[a:",
        "[::1]:22",
        "x=1",
        "k={'a': [1,",
        "k=\"'",
        "#",
        ";",
        "\n",
        "\n",
        "\n",
        " ",
        "\t",
        "=",
        "\\",
        "ansible_group_priority=x",
        "é",
        "-",
        ":",
        "---",
        "hosts:",
        "  children:",
        "{",
        "}",
        "\u{feff}",
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).expect("small")
    };
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("hosts");
    for _ in 0..500 {
        let text: String = (0..random(30)).map(|_| pieces[random(pieces.len())]).collect();
        fs::write(&path, &text).expect("written");
        let Ok((inventory, _)) =
            Inventory::load(&[path.to_string_lossy().into_owned()], &LoadOptions::default())
        else {
            continue;
        };
        let pattern: String = (0..random(6))
            .map(|_| ["a", "*", "[1:2]", ":", "!", "&", "h", "~", "]", "all"][random(10)])
            .collect();
        let _ = inventory.select(&pattern, None);
        for host in inventory.hosts_in_order() {
            inventory.var_layers(&host, None).expect("there are no files");
        }
        inventory.show_list(Show::default()).expect("shown");
        inventory.show_graph("all", Show::default()).expect("shown");
    }
}
