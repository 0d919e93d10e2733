//! What ansible-core makes of the templates in `tests/corpus`, compared with what we make of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;

#[derive(Debug)]
struct Table(Arc<Map>);

impl Vars for Table {
    fn get(&self, name: &str) -> Option<Value> {
        self.0.get(name).cloned()
    }

    fn names(&self) -> Vec<Arc<str>> {
        self.0.keys().filter_map(Value::as_str).map(Arc::from).collect()
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

fn load(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).expect("the corpus is there");
    crate::source::parse_value(&path.display().to_string(), &text).expect("the corpus is YAML").0
}

fn vars(value: &Value) -> Arc<dyn Vars> {
    match value {
        Value::Map(map) => Arc::new(Table(map.clone())),
        _ => panic!("variables are a mapping"),
    }
}

/// Cases in which we differ on purpose, with why.
const DIFFERENT: &[(&str, &str)] = &[
    ("{{ omit }}", "the caller gets `omit` and decides what it means there"),
    ("{{ nope | default(omit) }}", "as above"),
    (
        "{{ '{\"a\": 1.0, \"b\": 1e5, \"c\": -0}' | from_json }}",
        "the reader of JSON keeps the sign of a negative zero",
    ),
    (
        "{{ data | community.general.json_query('servers[*].{n: name, c: length(ports)}') }}",
        "our JMESPath sorts the keys of the objects that it makes",
    ),
    (
        "{{ 'secret' | password_hash('bcrypt', '1234567890123456789012', rounds=5) }}",
        "the reference's bcrypt library was broken when this was recorded",
    ),
    (
        "{{ 'secret' | password_hash('blowfish', '1234567890123456789012', rounds=4, ident='2y') }}",
        "as above",
    ),
    ("{{ v6 | ansible.utils.ipaddr('size') }}", "integers of more than 64 bits leave a template as text"),
    ("{{ v6 | ansible.utils.ipaddr('size_usable') }}", "as above"),
    ("{{ ips | ansible.utils.ipaddr('size') }}", "as above"),
    ("{{ ips | ansible.utils.ipaddr('size_usable') }}", "as above"),
    ("{{ ips | ansible.utils.ipaddr('int') }}", "as above"),
    ("{{ 10 ** 20 }}", "integers of more than 64 bits leave a template as text"),
    ("{{ vars['x'] }} {{ vars.s }}", "the recorder runs without the magic variable `vars`"),
];

#[test]
fn values_are_what_ansible_makes_of_them() {
    compare("expressions.yml");
}

#[test]
fn filters_of_collections_do_what_theirs_do() {
    compare("community.yml");
}

fn compare(file: &str) {
    let data = load(&folder().join(file));
    let vars = vars(data.get("vars").expect("vars"));
    let search = Arc::new(SearchPath { playbook_dir: folder(), ..SearchPath::default() });
    let templar = Templar::new(Options::default());
    let mut wrong = Vec::new();
    let cases = data.get("cases").and_then(Value::as_list).expect("cases");
    for case in cases {
        let template = case.get("template").and_then(Value::as_str).expect("template");
        let expected = case.get("result").and_then(Value::as_str).expect("result");
        let found = match templar.render(&Value::trusted(template), &Context { vars: &vars, search: &search })
        {
            Ok(value) => value.repr(),
            Err(error) => format!("error {error}"),
        };
        let agrees = if expected == "error" { found.starts_with("error ") } else { found == expected };
        if !agrees && !DIFFERENT.iter().any(|(known, _)| *known == template) {
            wrong.push(format!("{template}\n    expected {expected}\n    found    {found}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// Failures that we tell in words of our own, with why.
const TOLD_DIFFERENTLY: &[(&str, &str)] = &[
    ("{{ 'x' if false }}", "the reference tells of its own workings"),
    ("{{ 1 if false }}", "as above"),
    ("{{ (1 if false) | default(3) }}", "as above"),
    ("{{ '{a[b]} {c.x}'.format(a={'b': 1}, c={'x': 2}) }}", "the reference names a type of its own"),
    ("{{ d | combine('x') }}", "as above"),
    ("{{ s.__class__ }}", "as above"),
    ("{{ l.__class__.__name__ }}", "as above"),
    ("{{ lookup('nope_lookup', 1) }}", "recorded where no collections were set up"),
    ("{{ lookup('file', '/nonexistent/x') }}", "we say where we have looked"),
    ("{{ l | map('pow') | list }}", "the reference names the function behind the filter"),
    ("{{ net | ansible.utils.ipaddr('ip_wildcard') }}", "the reference trips over itself"),
    ("{{ addr | ansible.utils.ipaddr('ip_wildcard') }}", "as above"),
    ("{{ v6 | ansible.utils.ipaddr('ip_wildcard') }}", "as above"),
    ("{{ 'x' | password_hash('sha512', 'bad salt!') }}", "we say what is allowed"),
];

#[test]
fn failures_are_told_in_ansibles_words() {
    for file in ["expressions.yml", "community.yml"] {
        let data = load(&folder().join(file));
        let vars = vars(data.get("vars").expect("vars"));
        let search = Arc::new(SearchPath { playbook_dir: folder(), ..SearchPath::default() });
        let templar = Templar::new(Options::default());
        let mut wrong = Vec::new();
        let mut count = 0;
        for case in data.get("cases").and_then(Value::as_list).expect("cases") {
            let template = case.get("template").and_then(Value::as_str).expect("template");
            let Some(expected) = case.get("why").and_then(Value::as_str) else { continue };
            count += 1;
            let Err(error) =
                templar.render(&Value::trusted(template), &Context { vars: &vars, search: &search })
            else {
                continue;
            };
            let told = error.told();
            let found: String = told.lines().next().unwrap_or_default().chars().take(160).collect();
            if found != expected && !TOLD_DIFFERENTLY.iter().any(|(known, _)| *known == template) {
                wrong.push(format!("{template}\n    expected {expected}\n    found    {found}"));
            }
        }
        assert!(wrong.is_empty(), "{file}: {} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
    }
}

#[test]
fn files_are_what_ansible_makes_of_them() {
    let folder = folder().join("templates");
    let vars = vars(&load(&folder.join("vars.yml")));
    let search = Arc::new(SearchPath { playbook_dir: folder.clone(), ..SearchPath::default() });
    let templar = Templar::new(Options::default());
    let mut wrong = Vec::new();
    let mut count = 0;
    let mut names: Vec<_> = std::fs::read_dir(&folder).expect("the corpus is there").flatten().collect();
    names.sort_by_key(std::fs::DirEntry::file_name);
    for entry in names {
        let path = entry.path();
        let out = path.with_extension("out");
        if path.extension().is_none_or(|extension| extension != "j2") || !out.exists() {
            continue;
        }
        count += 1;
        let source = std::fs::read_to_string(&path).expect("a template is text");
        let expected = std::fs::read(&out).expect("its outcome was recorded");
        let expected = String::from_utf8(expected).expect("outcomes are text");
        let ctx = Context { vars: &vars, search: &search };
        let found = match templar.file(&path, &source, &ctx, &FileOptions::default()) {
            Ok(text) => text,
            Err(error) => format!("error: {error}"),
        };
        let agrees =
            if expected.starts_with("error: ") { found.starts_with("error: ") } else { found == expected };
        if !agrees {
            wrong.push(format!("{}\n    expected {expected:?}\n    found    {found:?}", path.display()));
        }
    }
    assert!(count >= 60, "only {count} templates");
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
}
