//! Playbooks in, trees out: what the loader makes of small projects, as text.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use super::loader::{LoadContext, Loader, LoaderOptions};
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
    let loader = Loader::new(LoaderOptions {
        collections_paths: vec![dir.join("collections")],
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
