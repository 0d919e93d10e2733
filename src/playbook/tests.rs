//! Playbooks in, trees out: what the loader makes of small projects, as text.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use super::loader::{LoadContext, Loader, LoaderOptions, Purpose};
use super::{Item, Keywords, Play, Playbook, Task, VarsKind};
use crate::diagnostic::Diagnostic;
use crate::value::{Map, Value};

/// Replaces `{{ name }}` by the variable's text; enough for names of files.
fn render(value: &Value, vars: &Map) -> Result<Value, Diagnostic> {
    let mut text = value.to_text();
    while let Some((before, rest)) = text.split_once("{{") {
        let Some((name, after)) = rest.split_once("}}") else { break };
        let Some(found) = vars.get(name.trim()) else {
            return Err(Diagnostic::error(format!("`{}` is undefined", name.trim())));
        };
        text = format!("{before}{}{after}", found.to_text());
    }
    Ok(Value::str(text))
}

/// Writes files given as `## name` sections below a directory.
fn project(files: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for section in files.split("## ").skip(1) {
        let (name, text) = section.split_once('\n').expect("a name and a text");
        let path = dir.path().join(name.trim());
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(path, text).expect("written");
    }
    dir
}

fn load(dir: &Path) -> Result<(Playbook, Vec<Diagnostic>), Vec<Diagnostic>> {
    load_for(dir, Purpose::Run)
}

fn load_for(dir: &Path, purpose: Purpose) -> Result<(Playbook, Vec<Diagnostic>), Vec<Diagnostic>> {
    let loader = Loader::new(LoaderOptions {
        collections_paths: vec![dir.join("collections")],
        purpose,
        ..LoaderOptions::default()
    });
    loader.playbook(&dir.join("site.yml"), &LoadContext { render: &render })
}

/// The tree of a project, one line a task.
fn tree(files: &str) -> String {
    let dir = project(files);
    let root = format!("{}/", dir.path().display());
    match load(dir.path()) {
        Ok((playbook, warnings)) => {
            let mut out = String::new();
            for warning in warnings {
                out.push_str(&warning.render());
            }
            for play in &playbook.plays {
                dump_play(play, &mut out);
            }
            out.replace(&root, "")
        }
        Err(errors) => errors.iter().map(Diagnostic::render).collect::<String>().replace(&root, ""),
    }
}

fn dump_play(play: &Play, out: &mut String) {
    let name = play.name.as_ref().map_or_else(String::new, Value::to_text);
    let _ = writeln!(
        out,
        "PLAY {name} hosts={} {}",
        play.hosts.repr(),
        Value::Map(Arc::clone(&play.vars)).repr()
    );
    for (title, items) in [
        ("pre", &play.pre_tasks),
        ("roles", &play.role_tasks),
        ("tasks", &play.tasks),
        ("post", &play.post_tasks),
    ] {
        if !items.is_empty() {
            let _ = writeln!(out, " {title}:");
            dump_items(items, 2, out);
        }
    }
    if !play.handlers.is_empty() {
        let _ = writeln!(out, " handlers:");
        for handler in &play.handlers {
            dump_task(handler, 2, out);
        }
    }
    for role in &play.roles {
        let deps: Vec<&str> = role.dependencies.iter().map(|role| role.name.as_str()).collect();
        let parents: Vec<&str> = role.parents.iter().map(|role| role.name.as_str()).collect();
        let text = |map: &Arc<Map>| Value::Map(Arc::clone(map)).repr();
        let _ = writeln!(
            out,
            " role {}: defaults={} vars={} entry={} params={} deps={deps:?} parents={parents:?} public={} dup={}",
            role.name,
            text(&role.defaults),
            text(&role.vars),
            text(&role.entry_vars),
            text(&role.params),
            role.public,
            role.allow_duplicates,
        );
    }
}

fn dump_items(items: &[Item], depth: usize, out: &mut String) {
    for item in items {
        match item {
            Item::Task(task) => dump_task(task, depth, out),
            Item::Block(block) => {
                let role =
                    block.role.as_ref().map_or_else(String::new, |role| format!(" role={}", role.name));
                let _ = writeln!(out, "{}block{role}", " ".repeat(depth));
                dump_items(&block.block, depth + 1, out);
                for (title, items) in [("rescue", &block.rescue), ("always", &block.always)] {
                    if !items.is_empty() {
                        let _ = writeln!(out, "{}{title}", " ".repeat(depth));
                        dump_items(items, depth + 1, out);
                    }
                }
            }
        }
    }
}

fn dump_task(task: &Task, depth: usize, out: &mut String) {
    let _ = write!(out, "{}", " ".repeat(depth));
    if let Some(role) = &task.role {
        let _ = write!(out, "{} : ", role.name);
    }
    if let Some(name) = &task.name {
        let _ = write!(out, "{} = ", name.to_text());
    }
    let action = task.action.strip_prefix("ansible.builtin.").unwrap_or(&task.action);
    let _ = write!(out, "{action} {}", Value::Map(Arc::clone(&task.args)).repr());
    let mut put = |name: &str, value: String| {
        let _ = write!(out, " {name}={value}");
    };
    if let Some(template) = &task.args_template {
        put("args", template.repr());
    }
    if let Some(register) = &task.register {
        put("register", register.clone());
    }
    if let Some(looping) = &task.looping {
        put(looping.lookup.as_deref().unwrap_or("loop"), looping.value.repr());
        if looping.var.as_str() != Some("item") {
            put("loop_var", looping.var.repr());
        }
    }
    if !task.notify.is_empty() {
        put("notify", Value::list(task.notify.clone()).repr());
    }
    if !task.listen.is_empty() {
        put("listen", format!("{:?}", task.listen));
    }
    dump_keywords(&task.keywords, &mut put);
    out.push('\n');
}

fn dump_keywords(keywords: &Keywords, put: &mut dyn FnMut(&str, String)) {
    for (name, value) in [
        ("become", &keywords.become_),
        ("become_user", &keywords.become_user),
        ("delegate_to", &keywords.delegate_to),
        ("run_once", &keywords.run_once),
        ("ignore_errors", &keywords.ignore_errors),
    ] {
        if let Some(value) = value {
            put(name, value.repr());
        }
    }
    for (name, values) in
        [("when", &keywords.when), ("tags", &keywords.tags), ("environment", &keywords.environment)]
    {
        if !values.is_empty() {
            put(name, Value::list(values.clone()).repr());
        }
    }
    if !keywords.collections.is_empty() {
        put("collections", format!("{:?}", keywords.collections));
    }
    for layer in &keywords.vars {
        let kind = match layer.kind {
            VarsKind::Block => "block_vars",
            VarsKind::Task => "vars",
            VarsKind::Include => "include_vars",
        };
        put(kind, Value::Map(Arc::clone(&layer.map)).repr());
    }
}

/// Compares line by line, so that a difference is readable.
fn check(files: &str, expected: &str) {
    let found = tree(files);
    let expected = expected.strip_prefix('\n').unwrap_or(expected);
    assert_eq!(found, expected, "\n--- found:\n{found}\n--- expected:\n{expected}");
}

#[test]
fn keywords_are_inherited() {
    check(
        "## site.yml
- name: one
  hosts: web
  become: true
  tags: [p]
  vars: {a: 1}
  environment: {A: b}
  pre_tasks:
    - debug: msg=hi
  tasks:
    - name: outer
      block:
        - command: echo  a   b chdir=/tmp
          become: false
          when: c
          tags: x, y
          register: r
          loop: [1, 2]
          loop_control: {loop_var: i}
        - block:
            - copy: {src: a, dest: /b}
              notify: own
              environment: [{C: d}]
          rescue:
            - fail:
          always:
            - ansible.builtin.meta: flush_handlers
          vars: {inner: 2}
      when: [a, b]
      notify: h
      vars: {outer: 1}
  handlers:
    - name: h
      debug: {msg: h}
      listen: [t]
",
        "
PLAY one hosts='web' {'a': 1}
 pre:
  debug {'msg': 'hi'} become=True tags=['p'] environment=[{'A': 'b'}]
 tasks:
  block
   command {'chdir': '/tmp', '_raw_params': 'echo  a   b'} register=r loop=[1, 2] loop_var='i' notify=['h'] become=False when=['a', 'b', 'c'] tags=['p', 'x', 'y'] environment=[{'A': 'b'}] block_vars={'outer': 1}
   block
    copy {'src': 'a', 'dest': '/b'} notify=['own'] become=True when=['a', 'b'] tags=['p'] environment=[{'A': 'b'}, {'C': 'd'}] block_vars={'outer': 1} block_vars={'inner': 2}
   rescue
    fail {} notify=['h'] become=True when=['a', 'b'] tags=['p'] environment=[{'A': 'b'}] block_vars={'outer': 1} block_vars={'inner': 2}
   always
    meta {'_raw_params': 'flush_handlers'} notify=['h'] become=True when=['a', 'b'] tags=['p'] environment=[{'A': 'b'}] block_vars={'outer': 1} block_vars={'inner': 2}
 handlers:
  h = debug {'msg': 'h'} listen=[\"t\"] become=True tags=['p'] environment=[{'A': 'b'}]
",
    );
}

#[test]
fn roles_bring_what_they_need() {
    check(
        "## site.yml
- hosts: all
  roles:
    - base
    - role: app
      http: 80
      vars: {v: 1}
      tags: web
      when: on
## roles/base/tasks/main.yml
- debug: {msg: base}
## roles/base/handlers/main.yml
- name: restart
  debug:
## roles/app/meta/main.yml
dependencies:
  - {role: dep, x: 1}
argument_specs:
  main:
    short_description: The app
    options: {http: {type: int}}
## roles/app/defaults/main.yml
d: 1
## roles/app/vars/main/b.yml
b: 2
## roles/app/vars/main/a.yml
b: 1
a: 1
## roles/app/tasks/main.yml
- import_tasks: sub/more.yml
  vars: {t: 1}
  tags: sub
## roles/app/tasks/sub/more.yml
- debug: {msg: more}
- import_tasks: deep.yml
## roles/app/tasks/sub/deep.yml
- debug: {msg: deep}
## roles/dep/tasks/main.yaml
- debug: {msg: dep}
",
        "
PLAY  hosts='all' {}
 roles:
  block role=base
   base : debug {'msg': 'base'}
  block role=dep
   dep : debug {'msg': 'dep'} when=[True] tags=['web']
  block role=app
   app : Validating arguments against arg spec 'main' - The app = validate_argument_spec {'argument_spec': {'http': {'type': 'int'}}, 'provided_arguments': {'http': 80}, 'validate_args_context': {'type': 'role', 'name': 'app', 'argument_spec_name': 'main', 'path': 'roles/app'}} when=[True] tags=['web', 'always']
   app : debug {'msg': 'more'} when=[True] tags=['web', 'sub'] vars={'t': 1}
   app : debug {'msg': 'deep'} when=[True] tags=['web', 'sub'] vars={'t': 1}
 handlers:
  base : restart = debug {}
 role base: defaults={} vars={} entry={} params={} deps=[] parents=[] public=true dup=false
 role dep: defaults={} vars={} entry={} params={'x': 1} deps=[] parents=[\"app\"] public=true dup=false
 role app: defaults={'d': 1} vars={'b': 2, 'a': 1} entry={'v': 1} params={'http': 80} deps=[\"dep\"] parents=[] public=true dup=false
",
    );
}

#[test]
fn imports_are_expanded_with_their_keywords() {
    check(
        "## site.yml
- import_playbook: \"{{ which }}.yml\"
  vars: {which: sub/inner, v: outer}
  when: w
  tags: [t]
## sub/inner.yml
- hosts: h
  vars: {v: inner, f: extra}
  tags: own
  tasks:
    - import_tasks: \"tasks/{{ f }}.yml\"
      become: true
      when: a
    - include_tasks: dyn.yml
      tags: i
    - import_role:
        name: r
        tasks_from: other
        defaults_from: d.yml
      vars: {x: 1}
    - include_role: name=r public=yes
      loop: [1]
  handlers:
    - import_tasks: tasks/extra.yml
    - name: inc
      include_tasks: dyn.yml
      listen: topic
    - block:
        - name: in block
          debug:
      become: true
## sub/tasks/extra.yml
- debug: msg=x
  when: b
- block:
    - debug:
## sub/roles/r/tasks/other.yml
- debug: {msg: \"{{ x }}\"}
## sub/roles/r/defaults/d.yml
d: 1
## sub/roles/r/handlers/main.yml
- name: rh
  debug:
",
        "
PLAY  hosts='h' {'v': 'outer', 'f': 'extra', 'which': 'sub/inner'}
 tasks:
  debug {'msg': 'x'} become=True when=['w', 'a', 'b'] tags=['t', 'own']
  block
   debug {} become=True when=['w', 'a'] tags=['t', 'own']
  include_tasks {'_raw_params': 'dyn.yml'} when=['w'] tags=['t', 'own', 'i']
  block role=r
   r : debug {'msg': '{{ x }}'} when=['w'] tags=['t', 'own'] vars={'x': 1}
  include_role {'name': 'r', 'public': 'yes'} loop=[1] when=['w'] tags=['t', 'own']
 handlers:
  debug {'msg': 'x'} when=['w', 'b'] tags=['t', 'own']
  debug {} when=['w'] tags=['t', 'own']
  inc = include_tasks {'_raw_params': 'dyn.yml'} listen=[\"topic\"] when=['w'] tags=['t', 'own']
  in block = debug {} become=True when=['w'] tags=['t', 'own']
  r : rh = debug {} when=['w'] tags=['t', 'own'] vars={'x': 1}
 role r: defaults={'d': 1} vars={} entry={'x': 1} params={} deps=[] parents=[] public=true dup=true
",
    );
}

#[test]
fn actions_take_all_forms() {
    check(
        "## site.yml
- hosts: h
  collections: [community.general]
  tasks:
    - action: copy src=a dest=\"/x y\"
    - action: {module: command, _raw_params: ls, chdir: /}
    - local_action: command echo 'a  b' creates=/c
    - local_action: {module: debug, msg: hi}
    - shell: |
        echo a=b
        cat <<E
          x   y
        E
      args:
        chdir: /tmp
    - debug: \"{{ all }}\"
    - set_fact: a=1 b='{{ c d }}'
    - debug:
      args: \"{{ more }}\"
    - action: \"{{ mgr }} name=x\"
    - command: ls
      with_items: [a]
      loop_control: {loop_var: l}
      until: r is ok
      retries: 2
      notify: a
      vars: {z: 1}
      delegate_to: other
",
        "
PLAY  hosts='h' {}
 tasks:
  copy {'src': 'a', 'dest': '/x y'} collections=[\"community.general\"]
  command {'_raw_params': 'ls', 'chdir': '/'} collections=[\"community.general\"]
  command {'creates': '/c', '_raw_params': \"echo 'a  b'\"} delegate_to='localhost' collections=[\"community.general\"]
  debug {'msg': 'hi'} delegate_to='localhost' collections=[\"community.general\"]
  shell {'chdir': '/tmp', '_raw_params': 'echo a=b\\ncat <<E\\n  x   y\\nE\\n'} collections=[\"community.general\"]
  debug {} args='{{ all }}' collections=[\"community.general\"]
  set_fact {'a': '1', 'b': '{{ c d }}'} collections=[\"community.general\"]
  debug {} args='{{ more }}' collections=[\"community.general\"]
  {{ mgr }} {'name': 'x'} collections=[\"community.general\"]
  command {'_raw_params': 'ls'} items=['a'] loop_var='l' notify=['a'] delegate_to='other' collections=[\"community.general\"] vars={'z': 1}
",
    );
}

#[test]
fn what_may_not_run_is_not_refused() {
    check(
        "## site.yml
- hosts: h
  tasks:
    - {nosuch.thing.here: {a: 1}, when: x}
    - block:
        - debug: {mgs: x}
      rescue: []
    - file: {pth: /x}
      ignore_errors: true
    - ec2_thing: {a: 1}
      tags: never
",
        "
PLAY  hosts='h' {}
 tasks:
  nosuch.thing.here {'a': 1} when=['x']
  block
   debug {'mgs': 'x'}
  file {'pth': '/x'} ignore_errors=True
  ec2_thing {'a': 1} tags=['never']
",
    );
}

#[test]
fn everything_wrong_is_told_at_once() {
    check(
        "## site.yml
- hosts: h
  tsks: []
  strategy: mitogen_linear
  vars: {a-b: 1}
  tasks:
    - debug: {mgs: x}
    - ping: {dtaa: x}
    - tempalte: {src: a, dest: b}
    - name: no action
      when: x
    - command: ls
      whn: x
    - debug:
      ping:
    - include: x.yml
    - include_tasks: x.yml
      become: true
    - import_tasks: missing.yml
    - command: echo it's
    - debug:
      register: a b
    - debug:
      with_itmes: []
    - debug:
      loop_control: {lop_var: x}
    - meta: flush_handler
    - import_role: {name: wbe}
    - import_role: {name: ns.coll.x}
    - import_role: {name: wanted}
    - import_role: {name: web, tasks_from: ../../../site.yml}
    - import_role: {name: web, tasks_from: ../tasks/main}
    - rescue: []
  handlers:
    - include_role: {name: x}
## roles/web/tasks/main.yml
## requirements.yml
roles:
  - src: https://example.org/x/wanted.git
",
        include_str!("testdata/errors.txt"),
    );
}

#[test]
fn cycles_end() {
    check(
        "## site.yml
- hosts: h
  roles: [a]
  tasks:
    - import_tasks: x.yml
- import_playbook: site.yml
## x.yml
- import_tasks: y.yml
## y.yml
- import_tasks: x.yml
## roles/a/meta/main.yml
dependencies: [b]
## roles/b/meta/main.yml
dependencies: [{role: a}]
",
        include_str!("testdata/cycles.txt"),
    );
}

#[test]
fn collections_hold_roles_and_playbooks() {
    check(
        "## site.yml
- import_playbook: ns.coll.deploy
- hosts: h
  collections: [ns.coll]
  roles:
    - web
    - ns.coll.sub.deep
## collections/ansible_collections/ns/coll/playbooks/deploy.yml
- hosts: all
  roles: [web]
## collections/ansible_collections/ns/coll/roles/web/tasks/main.yml
- ping:
## collections/ansible_collections/ns/coll/roles/web/meta/main.yml
dependencies: [base]
## collections/ansible_collections/ns/coll/roles/base/tasks/main.yml
- debug:
## collections/ansible_collections/ns/coll/roles/sub/deep/tasks/main.yml
- debug:
",
        "
PLAY  hosts='all' {}
 roles:
  block role=ns.coll.base
   ns.coll.base : debug {} collections=[\"ns.coll\"]
  block role=ns.coll.web
   ns.coll.web : ping {} collections=[\"ns.coll\"]
 role ns.coll.base: defaults={} vars={} entry={} params={} deps=[] parents=[\"ns.coll.web\"] public=true dup=false
 role ns.coll.web: defaults={} vars={} entry={} params={} deps=[\"ns.coll.base\"] parents=[] public=true dup=false
PLAY  hosts='h' {}
 roles:
  block role=ns.coll.base
   ns.coll.base : debug {} collections=[\"ns.coll\"]
  block role=ns.coll.web
   ns.coll.web : ping {} collections=[\"ns.coll\"]
  block role=ns.coll.deep
   ns.coll.deep : debug {} collections=[\"ns.coll\"]
 role ns.coll.base: defaults={} vars={} entry={} params={} deps=[] parents=[\"ns.coll.web\"] public=true dup=false
 role ns.coll.web: defaults={} vars={} entry={} params={} deps=[\"ns.coll.base\"] parents=[] public=true dup=false
 role ns.coll.deep: defaults={} vars={} entry={} params={} deps=[] parents=[] public=true dup=false
",
    );
}

#[test]
fn dynamic_includes_inherit_what_is_around_them() {
    let dir = project(
        "## site.yml
- hosts: h
  become: true
  tasks:
    - block:
        - include_tasks: sub/a.yml
          when: own
          tags: own
        - include_role: {name: r}
          vars: {n: 1}
      when: around
      vars: {b: 1}
      notify: h
## sub/a.yml
- debug:
- include_tasks: b.yml
## sub/b.yml
- debug:
## roles/r/tasks/main.yml
- debug:
- include_tasks: more.yml
## roles/r/tasks/more.yml
- zfs:
## roles/r/handlers/main.yml
- name: rh
  debug:
## roles/r/meta/main.yml
dependencies: [dep]
## roles/dep/tasks/main.yml
- debug:
",
    );
    let loader = Loader::new(LoaderOptions::default());
    let ctx = LoadContext { render: &render };
    let (playbook, _) = loader.playbook(&dir.path().join("site.yml"), &ctx).expect("loads");
    let play = &playbook.plays[0];
    let Item::Block(block) = &play.tasks[0] else { panic!("a block") };
    let tasks: Vec<Arc<Task>> = block
        .block
        .iter()
        .map(|item| match item {
            Item::Task(task) => Arc::clone(task),
            Item::Block(_) => panic!("a task"),
        })
        .collect();
    let vars = Arc::new(crate::value::map_of([("i", 1)]));
    let mut out = String::new();
    let path = loader.find_include("sub/a.yml", &tasks[0], play).expect("found");
    let apply = Value::map(crate::value::map_of([("tags", "applied")]));
    let items = loader.include_tasks(&path, &tasks[0], &vars, Some(&apply), play, &ctx).expect("loads");
    dump_items(&items, 0, &mut out);
    let Item::Task(nested) = &items[1] else { panic!("a task") };
    let path = loader.find_include("b.yml", nested, play).expect("found beside the including file");
    assert!(path.ends_with("sub/b.yml"));
    assert_eq!(nested.included_from.len(), 1);
    let args = super::loader::IncludeRole { name: "r".into(), ..Default::default() };
    let role = loader.include_role(&args, &tasks[1], &vars, play, &ctx).expect("loads");
    dump_items(&role.items, 0, &mut out);
    for handler in &role.handlers {
        dump_task(handler, 0, &mut out);
    }
    let Some(Item::Block(block)) = role.items.last() else { panic!("a block") };
    let Item::Task(nested) = &block.block[1] else { panic!("a task") };
    let path = loader.find_include("more.yml", nested, play).expect("found in the role");
    let items = loader.include_tasks(&path, nested, &Arc::default(), None, play, &ctx).expect("loads");
    dump_items(&items, 0, &mut out);
    let error = loader.find_include("none.yml", nested, play).expect_err("missing");
    assert!(error.hint.is_some_and(|hint| hint.contains("roles/r/tasks/none.yml")));
    let expected = "\
debug {} notify=['h'] become=True when=['around'] tags=['applied'] block_vars={'b': 1} include_vars={'i': 1}
include_tasks {'_raw_params': 'b.yml'} notify=['h'] become=True when=['around'] tags=['applied'] block_vars={'b': 1} include_vars={'i': 1}
block role=dep
 dep : debug {} notify=['h'] become=True when=['around'] block_vars={'b': 1} include_vars={'i': 1}
block role=r
 r : debug {} notify=['h'] become=True when=['around'] block_vars={'b': 1} include_vars={'i': 1}
 r : include_tasks {'_raw_params': 'more.yml'} notify=['h'] become=True when=['around'] block_vars={'b': 1} include_vars={'i': 1}
r : rh = debug {} notify=['h'] become=True when=['around'] block_vars={'b': 1} include_vars={'i': 1}
r : community.general.zfs {} notify=['h'] become=True when=['around'] block_vars={'b': 1} include_vars={'i': 1}
";
    assert_eq!(out, expected, "\n--- found:\n{out}");
}

#[test]
fn a_listing_has_the_familiar_layout() {
    use super::listing::{Lookups, What, listing};
    let dir = project(
        "## site.yml
- name: first {{ n }}
  hosts: [web, '!db']
  vars: {n: one}
  tags: p, o
  roles: [r]
  tasks:
    - name: b
      debug:
      tags: [z, a]
    - block:
        - command: ls
        - include_role: {name: r}
          name: inc
      always:
        - fail:
    - {name: n, debug: , tags: [never, x]}
- hosts: all
## roles/r/tasks/main.yml
- name: t
  debug:
",
    );
    let (playbook, _) = load(dir.path()).expect("loads");
    let lookups = Lookups {
        hosts: &|_| vec!["w1".into(), "w2".into()],
        render: &|value, play| {
            if value.as_str().is_some() { render(value, &play.vars).expect("renders") } else { value.clone() }
        },
    };
    let what = What { hosts: true, tasks: true, ..What::default() };
    let expected = "
playbook: site.yml

  play #1 (web,!db): first one\tTAGS: [p,o]
    pattern: ['web', '!db']
    hosts (2):
      w1
      w2
    tasks:
      r : t\tTAGS: [o, p]
      b\tTAGS: [a, o, p, z]
      command\tTAGS: [o, p]
      inc\tTAGS: [o, p]

  play #2 (all): all\tTAGS: []
    pattern: ['all']
    hosts (2):
      w1
      w2
    tasks:
";
    assert_eq!(listing(&playbook, "site.yml", &what, &lookups), expected);
    let what = What { tags: true, only: vec!["a".into()], ..What::default() };
    let found = listing(&playbook, "site.yml", &what, &lookups);
    assert!(found.contains("      TASK TAGS: [a, o, p, z]\n"), "{found}");
    let what = What { tags: true, ..What::default() };
    let found = listing(&playbook, "site.yml", &what, &lookups);
    assert!(found.contains("      TASK TAGS: [a, never, o, p, x, z]\n"), "{found}");
    assert_eq!(listing(&playbook, "s.yml", &What::default(), &lookups), "\nplaybook: s.yml\n");
}

#[test]
fn a_task_comes_from_the_command_line() {
    let loader = Loader::new(LoaderOptions::default());
    let ctx = LoadContext { render: &render };
    for (module, args, expected) in [
        ("command", "ls  -l chdir=/x", "command {'chdir': '/x', '_raw_params': 'ls  -l'}\n"),
        ("debug", "{\"msg\": [1]}", "debug {'msg': [1]}\n"),
        ("include_role", "name=r", "include_role {'name': 'r'}\n"),
        ("debug", "", "debug {}\n"),
    ] {
        let mut out = String::new();
        dump_task(&loader.task_from(module, args, &ctx).expect("a task"), 0, &mut out);
        assert_eq!(out, expected);
    }
    for (module, args) in [("nosuch", ""), ("debug", "free text"), ("debug", "a='b"), ("import_tasks", "x")] {
        loader.task_from(module, args, &ctx).expect_err(module);
    }
}

#[test]
fn what_only_ansible_can_do_is_a_warning_where_nothing_is_run() {
    let dir = project(
        "## site.yml
- hosts: all
  strategy: mitogen_linear
  roles: [r]
  tasks:
    - community.general.zfs: {name: a, state: present}
    - zfs: name=b state=present
    - amazon.aws.ec2_instance: some text
      when: cloud
    - mine: {a: 1}
      failed_when: false
    - apt: {name: x}
    - apt: {name: y}
    - ns.coll.one:
    - ping: {mgs: x}
## library/mine.py
## library/apt.py
## roles/r/library/of_role
## roles/r/tasks/main.yml
- of_role:
## collections/ansible_collections/ns/coll/plugins/modules/one.py
",
    );
    let root = format!("{}/", dir.path().display());
    let told = |purpose| {
        let told = match load_for(dir.path(), purpose) {
            Ok((_, warnings)) => warnings,
            Err(errors) => errors,
        };
        told.iter().map(Diagnostic::render).collect::<String>().replace(&root, "")
    };
    let looked = told(Purpose::Check);
    assert_eq!(looked, include_str!("testdata/looked.txt"), "\n--- found:\n{looked}");
    let listed = told(Purpose::List);
    assert!(!listed.contains("mgs") && looked.contains("mgs"), "arguments are not looked at: {listed}");
    let refused = told(Purpose::Run);
    assert_eq!(refused, include_str!("testdata/refused.txt"), "\n--- found:\n{refused}");
}

#[test]
fn a_module_that_nobody_has_is_an_error_wherever_it_stands() {
    for (task, hint) in [
        ("- tempalte: {src: a}\n      when: false", "did you mean `template`?"),
        ("- community.general.nosuch_thing:\n      when: false", ""),
        ("- {action: nosuch_thing, ignore_errors: true}", ""),
        (
            "- {ns.coll.two: , when: false}",
            "the collection in collections/ansible_collections/ns/coll has none",
        ),
    ] {
        let dir = project(&format!(
            "## site.yml\n- hosts: all\n  tasks:\n    {task}\n\
             ## collections/ansible_collections/ns/coll/plugins/modules/one.py\n"
        ));
        for purpose in [Purpose::Run, Purpose::Check, Purpose::List] {
            let errors = load_for(dir.path(), purpose).expect_err(task);
            let root = format!("{}/", dir.path().display());
            let text = errors.iter().map(Diagnostic::render).collect::<String>().replace(&root, "");
            assert!(
                text.contains("error: there is no module `") && text.contains(hint),
                "{purpose:?}: {text}"
            );
        }
    }
}
