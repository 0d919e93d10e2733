//! Text to values with places: YAML 1.1 and JSON in, nodes that know where they were written out.
//!
//! The language of playbooks is YAML as PyYAML's safe loader reads it, with Ansible's tags. `yaml` is the
//! only file that names the YAML parser; `emit` writes YAML in PyYAML's layout, `json` writes and reads
//! JSON as Python does.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::diagnostic::Diagnostic;
use crate::value::{Map, Origin, Value};
use crate::vault::Vault;

pub mod emit;
mod hint;
mod indent;
pub mod json;
mod scalar;
mod yaml;

/// A piece of a file: what it says and where.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it says.
    pub value: NodeValue,
    /// Where it starts.
    pub origin: Arc<Origin>,
}

/// What is done about a key that a mapping has twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DuplicateKeys {
    /// The last one counts, with a warning.
    #[default]
    Warned,
    /// The last one counts.
    Ignored,
    /// It is an error.
    Refused,
}

static DUPLICATE_KEYS: std::sync::OnceLock<DuplicateKeys> = std::sync::OnceLock::new();

/// Decides for the whole program, once, what is done about keys that are there twice.
pub fn set_duplicate_keys(choice: DuplicateKeys) {
    // A second call would be about the same settings.
    let _ = DUPLICATE_KEYS.set(choice);
}

fn duplicate_keys() -> DuplicateKeys {
    DUPLICATE_KEYS.get().copied().unwrap_or_default()
}

/// What a node says. Anchors, merge keys and duplicate keys are resolved.
#[derive(Clone, Debug)]
pub enum NodeValue {
    /// Text, a number, a boolean, null or a vaulted string. Written text is trusted unless it is tagged
    /// `!unsafe`.
    Scalar(Value),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order in which its keys first appeared; no key is there twice.
    Map(Vec<(Node, Node)>),
}

impl Node {
    /// The value without the places of lists, mappings and numbers; strings keep theirs.
    pub fn to_value(&self) -> Value {
        match &self.value {
            NodeValue::Scalar(value) => value.clone(),
            NodeValue::List(items) => Value::list(items.iter().map(Node::to_value).collect()),
            NodeValue::Map(entries) => Value::map(
                entries.iter().map(|(key, value)| (key.to_value(), value.to_value())).collect::<Map>(),
            ),
        }
    }

    /// The same as [`Node::to_value`], without copying.
    pub fn into_value(self) -> Value {
        match self.value {
            NodeValue::Scalar(value) => value,
            NodeValue::List(items) => Value::list(items.into_iter().map(Node::into_value).collect()),
            NodeValue::Map(entries) => Value::map(
                entries
                    .into_iter()
                    .map(|(key, value)| (key.into_value(), value.into_value()))
                    .collect::<Map>(),
            ),
        }
    }

    /// The entry under a string key, if it is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|(_, value)| value)
    }

    /// The key and the entry under a string key, if it is a mapping that has it.
    pub fn entry(&self, key: &str) -> Option<&(Node, Node)> {
        self.as_map()?.iter().find(|(name, _)| name.as_str() == Some(key))
    }

    /// The characters, if it is a string.
    pub fn as_str(&self) -> Option<&str> {
        self.as_scalar()?.as_str()
    }

    /// The value, if it is neither a list nor a mapping.
    pub fn as_scalar(&self) -> Option<&Value> {
        match &self.value {
            NodeValue::Scalar(value) => Some(value),
            _ => None,
        }
    }

    /// The items, if it is a list.
    pub fn as_list(&self) -> Option<&[Node]> {
        match &self.value {
            NodeValue::List(items) => Some(items),
            _ => None,
        }
    }

    /// The entries, if it is a mapping.
    pub fn as_map(&self) -> Option<&[(Node, Node)]> {
        match &self.value {
            NodeValue::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// Whether it is `null`.
    pub fn is_null(&self) -> bool {
        self.as_scalar().is_some_and(Value::is_null)
    }

    /// What it is, in the words of a message: `a string`, `a list`, …
    pub fn kind_name(&self) -> &'static str {
        match &self.value {
            NodeValue::List(_) => "a list",
            NodeValue::Map(_) => "a mapping",
            NodeValue::Scalar(value) => match value {
                Value::Null => "nothing",
                Value::Bool(_) => "a boolean",
                Value::Int(_) | Value::Float(_) => "a number",
                Value::Vault(_) => "a vaulted string",
                _ => "a string",
            },
        }
    }

    /// An error at this place.
    pub fn error(&self, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(message).at(Some(Arc::clone(&self.origin)))
    }
}

/// A file that was read.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The document; null if the text has none.
    pub root: Node,
    /// What the user should know about it, such as keys that are there twice.
    pub warnings: Vec<Diagnostic>,
}

/// Reads one YAML or JSON document.
///
/// # Errors
/// The first thing that is wrong with the text, with its place.
pub fn parse(file: &str, text: &str) -> Result<Parsed, Diagnostic> {
    parse_all(file, text).map_err(first)
}

/// The same as [`parse`], but finds several errors where the text can be read past the first one.
///
/// # Errors
/// Everything that was found to be wrong; never empty.
pub fn parse_all(file: &str, text: &str) -> Result<Parsed, Vec<Diagnostic>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let file: Arc<str> = Arc::from(file);
    yaml::load(&file, text)
}

/// Reads one YAML or JSON document straight to a value, with the warnings.
///
/// # Errors
/// As [`parse`].
pub fn parse_value(file: &str, text: &str) -> Result<(Value, Vec<Diagnostic>), Diagnostic> {
    let parsed = parse(file, text)?;
    Ok((parsed.root.into_value(), parsed.warnings))
}

/// Reads a file as text. A vaulted file is decrypted.
///
/// # Errors
/// The file can't be read, can't be decrypted or isn't UTF-8; the message names it.
pub fn read_text(path: &Path, vault: &Vault) -> Result<String, Diagnostic> {
    let name = path.to_string_lossy();
    let bytes = bytes_of(path).map_err(|error| Diagnostic::error(format!("can't read {name}: {error}")))?;
    text_of(&name, bytes, vault)
}

/// What a file holds. A pipe (`/dev/stdin`, `<(command)`) can be read only once; what it said is kept for those
/// who ask again.
fn bytes_of(path: &Path) -> io::Result<Vec<u8>> {
    static PIPES: Mutex<BTreeMap<PathBuf, Vec<u8>>> = Mutex::new(BTreeMap::new());
    if !is_pipe(path) {
        return std::fs::read(path);
    }
    let mut pipes = PIPES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(said) = pipes.get(path) {
        return Ok(said.clone());
    }
    let said = std::fs::read(path)?;
    pipes.insert(path.to_owned(), said.clone());
    Ok(said)
}

fn is_pipe(path: &Path) -> bool {
    path.metadata().is_ok_and(|data| data.file_type().is_fifo() || data.file_type().is_char_device())
}

/// Decrypts if need be and checks that it is text.
fn text_of(name: &str, bytes: Vec<u8>, vault: &Vault) -> Result<String, Diagnostic> {
    let start = || Some(Arc::new(Origin { file: Arc::from(name), line: 1, column: 1 }));
    let bytes = if Vault::is_vault(&bytes) {
        vault
            .decrypt_bytes(&bytes)
            .map_err(|error| Diagnostic::error(format!("can't decrypt {name}: {error}")).at(start()))?
    } else {
        bytes
    };
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let text = String::from_utf8_lossy(valid);
        let line = text.matches('\n').count() + 1;
        let column = text.rsplit('\n').next().map_or(0, |tail| tail.chars().count()) + 1;
        Diagnostic::error(format!("{name} isn't UTF-8 text"))
            .at(Some(Arc::new(Origin { file: Arc::from(name), line: to_u32(line), column: to_u32(column) })))
            .hint("save the file as UTF-8")
    })
}

/// Reads a YAML or JSON file. A vaulted file is decrypted.
///
/// # Errors
/// As [`read_text`] and [`parse_all`]; every message has the file's name.
pub fn load_file(path: &Path, vault: &Vault) -> Result<Parsed, Vec<Diagnostic>> {
    let text = read_text(path, vault).map_err(|error| vec![error])?;
    parse_all(&path.to_string_lossy(), &text)
}

fn first(errors: Vec<Diagnostic>) -> Diagnostic {
    errors.into_iter().next().unwrap_or_else(|| Diagnostic::error("invalid YAML"))
}

fn to_u32(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::value::float_repr;

    /// The form in which `testdata/pyyaml.json` holds values.
    fn canonical(value: &Value) -> Json {
        match value {
            Value::Null => Json::Null,
            Value::Bool(value) => json!(value),
            Value::Int(value) => json!(value),
            Value::Float(value) => json!({ "@f": float_repr(*value) }),
            Value::Str(text) if text.trusted => json!(text.text.as_ref()),
            Value::Str(text) => json!({ "@ts": text.text.as_ref() }),
            Value::Vault(vault) => json!({ "@vault": vault.envelope.as_ref() }),
            Value::List(items) => items.iter().map(canonical).collect(),
            Value::Map(map) => {
                json!({ "@m": map.iter().map(|(k, v)| json!([canonical(k), canonical(v)])).collect::<Vec<_>>() })
            }
            other => json!(format!("{other:?}")),
        }
    }

    /// What PyYAML 6.0.3 made of these texts is recorded; it must be what we make of them.
    #[test]
    fn reads_as_pyyaml_does() {
        let table: Vec<(String, Json)> =
            serde_json::from_str(include_str!("testdata/pyyaml.json")).expect("the table is JSON");
        assert!(table.len() > 250);
        for (text, expected) in table {
            match parse_value("t.yml", &text) {
                Ok((value, _)) => assert_eq!(canonical(&value), expected, "{text:?}"),
                Err(error) => assert_eq!(expected, json!({ "@error": true }), "{text:?}: {error}"),
            }
        }
    }

    /// Where we differ from PyYAML on purpose.
    #[test]
    fn reads_what_pyyaml_does_not() {
        for (text, expected) in [
            ("99999999999999999999", json!("99999999999999999999")),
            ("0xFFFFFFFFFFFFFFFF", json!("18446744073709551615")),
            ("a: b\t# c", json!({"@m": [["a", "b"]]})),
            ("{\n\t\"a\": 1e3}", json!({"@m": [["a", {"@f": "1000.0"}]]})),
            ("!unsafe '{{ x }}'", json!({"@ts": "{{ x }}"})),
            ("!unsafe '12'", json!(12)),
            ("!unsafe [a, {b: c}]", json!([{"@ts": "a"}, {"@m": [[{"@ts": "b"}, {"@ts": "c"}]]}])),
            (
                "!vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  61\n",
                json!({"@vault": "$ANSIBLE_VAULT;1.1;AES256\n61\n"}),
            ),
            ("!!binary aGVsbG8=", json!({"@ts": "hello"})),
        ] {
            let (value, _) = parse_value("t.yml", text).expect(text);
            assert_eq!(canonical(&value), expected, "{text:?}");
        }
    }

    fn place(node: &Node) -> (u32, u32) {
        (node.origin.line, node.origin.column)
    }

    #[test]
    fn nodes_know_their_places() {
        let text = "---\n- name: é: \n  shell: |\n    x\n  vars: {a: [1,\n2], b: 'c'}\n";
        let error = parse("t.yml", text).expect_err("a colon in plain text");
        assert_eq!(error.origin.as_ref().map(|o| (o.line, o.column)), Some((2, 10)));
        let text = "---\n- name: é\n  shell: |\n    x\n  vars: {a: [1,\n2], b: 'c'}\n";
        let root = parse("t.yml", text).expect("valid").root;
        let task = &root.as_list().expect("a list")[0];
        assert_eq!(place(task), (2, 3));
        assert_eq!(place(task.get("name").expect("name")), (2, 9));
        // A block scalar starts where its text does.
        assert_eq!(place(task.get("shell").expect("shell")), (4, 5));
        let vars = task.get("vars").expect("vars");
        assert_eq!(place(vars), (5, 9));
        let list = vars.get("a").and_then(Node::as_list).expect("a list");
        assert_eq!([place(&list[0]), place(&list[1])], [(5, 14), (6, 1)]);
        assert_eq!(place(vars.get("b").expect("b")), (6, 8));
    }

    #[test]
    fn tabs_inside_quotes_are_blanks() {
        let text = "a:\n    b: 'x\n\t\ty\n\tz'\n    c: \"1\n \t2\"\nd: e\n";
        let parsed = parse("t.yml", text).expect("valid");
        assert_eq!(parsed.root.to_value().repr(), "{'a': {'b': 'x y z', 'c': '1 2'}, 'd': 'e'}");
        assert_eq!(place(parsed.root.get("d").expect("there")), (7, 4));
    }

    #[test]
    fn hostile_texts_fail_in_bounds() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..30 {
            let alias = format!("*a{}, ", level - 1).repeat(10);
            bomb.push_str(&format!("a{level}: &a{level} [{alias}]\n"));
        }
        let error = parse("t.yml", &bomb).expect_err("a bomb");
        assert!(error.message.contains("aliases"), "{error}");
        for deep in ["[".repeat(100_000), "- ".repeat(100_000), "{a: ".repeat(5000), "? ".repeat(5000)] {
            parse("t.yml", &deep).expect_err("too deep");
        }
        let mut nested = String::new();
        for level in 0..2000 {
            nested.push_str(&format!("{}a:\n", " ".repeat(level)));
        }
        let error = parse("t.yml", &nested).expect_err("too deep");
        assert!(error.message.contains("levels deep"), "{error}");
    }

    #[test]
    fn duplicate_keys_warn_and_the_last_wins() {
        let parsed = parse("t.yml", "a: 1\nb: 2\na: 3\n").expect("valid");
        assert_eq!(parsed.root.to_value().repr(), "{'a': 3, 'b': 2}");
        let told: Vec<String> = parsed.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["t.yml:3:1: Found duplicate mapping key 'a', which is on line 1 already"]);
        let merged = parse("t.yml", "x: &x {a: 1}\ny: {<<: *x, a: 2}\n").expect("valid");
        assert!(merged.warnings.is_empty());
    }

    #[test]
    fn several_errors_are_told_at_once() {
        let errors = parse_all("t.yml", "a: !foo x\nb: !!python/object/apply:os.system [ls]\nc: !valut x\n")
            .expect_err("unknown tags");
        let told: Vec<String> = errors.iter().map(Diagnostic::render).collect();
        assert_eq!(
            told,
            [
                "error: the YAML tag `!foo` isn't supported here\n  --> t.yml:1:4\n  hint: a value that starts with `!` needs quotes, if that is what it is\n",
                "error: the YAML tag `!!python/object/apply:os.system` isn't supported here\n  --> t.yml:2:4\n  hint: tags that build Python objects are never loaded\n",
                "error: the YAML tag `!valut` isn't supported here\n  --> t.yml:3:4\n  hint: did you mean `!vault`?\n",
            ]
        );
    }

    #[test]
    fn the_usual_mistakes_get_a_hint() {
        for (text, line, hint) in [
            (
                "- debug:\n    msg: {{ x }}\n",
                2,
                "a value that starts with `{{` needs quotes around all of it: \"{{ x }}\"",
            ),
            ("- debug:\n    msg: {{ x }}/b\n", 2, "a value that starts with `{{` needs quotes"),
            ("- debug:\n    msg: \"{{ x }}\" b\n", 2, "only the start of the value is in quotes"),
            ("- name: install: nginx\n", 1, "text that holds `: ` needs quotes"),
            ("a:\n\tb: 1\n", 2, "YAML is indented with spaces"),
            ("- a\n-b\n- c\n", 2, "a list item needs a space after the dash: `- b`"),
            ("a: 1\nb:2\nc: 3\n", 2, "a key needs a space after the colon: `b: 2`"),
            ("a: @x\n", 1, "a value that starts with `@` needs quotes"),
            ("a: 'x\nb: 1\n", 1, "a quote or bracket that was opened is not closed"),
            ("a: 1\n---\nb: 1\n", 2, "remove this `---`"),
        ] {
            let error = parse("t.yml", text).expect_err(text);
            let told = error.hint.clone().unwrap_or_default();
            assert!(told.starts_with(hint), "{text:?}: {}", error.render());
            let at = error.origin.map_or(0, |origin| origin.line);
            assert!(at == line || at == line + 1, "{text:?} at {at}");
        }
    }

    #[test]
    fn files_that_are_not_text_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("x.yml");
        std::fs::write(&path, b"a: 1\nb: \xff\n").expect("written");
        let error = load_file(&path, &Vault::default()).expect_err("not UTF-8").remove(0);
        assert!(error.message.ends_with("x.yml isn't UTF-8 text"), "{error}");
        assert_eq!(error.origin.map(|o| (o.line, o.column)), Some((2, 4)));
        let error = load_file(&dir.path().join("none"), &Vault::default()).expect_err("missing").remove(0);
        assert!(error.message.starts_with("can't read "), "{error}");
    }

    /// Random mutations of real text must never panic, whatever else they do.
    #[test]
    fn no_text_panics() {
        let seed = "---\n- hosts: all\n  vars: {a: [1, 'x', \"y\\n\"], b: !vault |\n      61\n    }\n  tasks:\n  - &x name: >-\n      a\n    <<: *x\n";
        let alphabet: Vec<char> = " \n\t-:{}[]'\"|>&*!#?%@,a0é\\".chars().collect();
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % below as u64).expect("small")
        };
        for _ in 0..5000 {
            let mut text: Vec<char> = seed.chars().collect();
            for _ in 0..=random(8) {
                let at = random(text.len());
                match random(3) {
                    0 => text[at] = alphabet[random(alphabet.len())],
                    1 => text.insert(at, alphabet[random(alphabet.len())]),
                    _ => {
                        text.remove(at);
                    }
                }
            }
            let _ = parse("t.yml", &text.into_iter().collect::<String>());
        }
    }
}
