//! Which keyword may stand where, and how a keyword joins those that are inherited.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use crate::diagnostic::{Diagnostic, did_you_mean};
use crate::playbook::{Keywords, VarsKind, VarsLayer};
use crate::source::{Node, NodeValue};
use crate::value::{Map, Value};

/// What a mapping in a playbook is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// A play.
    Play,
    /// An entry of `roles:` or of a role's dependencies.
    Role,
    /// A block.
    Block,
    /// A task.
    Task,
    /// A handler.
    Handler,
    /// An `import_playbook` entry.
    ImportPlaybook,
    /// `loop_control`.
    LoopControl,
    /// A role's `meta/main.yml`.
    RoleMetadata,
    /// A dynamic include, whose children take other keywords through `apply`.
    Include,
}

/// Keywords that everything that is inherited from can have.
const COMMON: &[&str] = &[
    "any_errors_fatal",
    "become",
    "become_exe",
    "become_flags",
    "become_method",
    "become_user",
    "check_mode",
    "connection",
    "debugger",
    "diff",
    "environment",
    "ignore_errors",
    "ignore_unreachable",
    "module_defaults",
    "name",
    "no_log",
    "port",
    "remote_user",
    "run_once",
    "throttle",
    "timeout",
    "vars",
];

/// When `debugger` may ask for the task debugger.
pub(super) const DEBUGGER: &[&str] = &["always", "on_failed", "on_unreachable", "on_skipped", "never"];

const PLAY: &[&str] = &[
    "collections",
    "fact_path",
    "force_handlers",
    "gather_facts",
    "gather_subset",
    "gather_timeout",
    "handlers",
    "hosts",
    "max_fail_percentage",
    "order",
    "post_tasks",
    "pre_tasks",
    "roles",
    "serial",
    "strategy",
    "tags",
    "tasks",
    "user",
    "vars_files",
    "vars_prompt",
];

const ROLE: &[&str] = &["collections", "delegate_facts", "delegate_to", "role", "tags", "when"];

const BLOCK: &[&str] =
    &["always", "block", "collections", "delegate_facts", "delegate_to", "notify", "rescue", "tags", "when"];

const TASK: &[&str] = &[
    "action",
    "args",
    "async",
    "changed_when",
    "collections",
    "delay",
    "delegate_facts",
    "delegate_to",
    "failed_when",
    "local_action",
    "loop",
    "loop_control",
    "notify",
    "poll",
    "register",
    "retries",
    "tags",
    "until",
    "when",
];

/// What templates know by name.
const TEMPLATE_GLOBALS: &[&str] = &[
    "cycler",
    "dict",
    "joiner",
    "lipsum",
    "lookup",
    "namespace",
    "now",
    "omit",
    "q",
    "query",
    "range",
    "undef",
];

/// Whether a variable of this name would be mistaken for a keyword or hide something that templates need.
pub fn is_reserved(name: &str) -> bool {
    static NAMES: LazyLock<HashSet<&str>> = LazyLock::new(|| {
        let mut names: HashSet<&str> =
            [COMMON, PLAY, ROLE, BLOCK, TASK, TEMPLATE_GLOBALS].into_iter().flatten().copied().collect();
        // Not a keyword of its own, a mapping of variables, and an old name.
        for name in ["role", "vars", "user"] {
            names.remove(name);
        }
        names.insert("with_");
        names
    });
    NAMES.contains(name)
}

const INCLUDE: &[&str] = &[
    "action",
    "args",
    "collections",
    "debugger",
    "ignore_errors",
    "local_action",
    "loop",
    "loop_control",
    "name",
    "no_log",
    "register",
    "run_once",
    "tags",
    "timeout",
    "vars",
    "when",
];

const LOOP_CONTROL: &[&str] =
    &["break_when", "extended", "extended_allitems", "index_var", "label", "loop_var", "pause"];

const ROLE_METADATA: &[&str] =
    &["allow_duplicates", "argument_specs", "collections", "dependencies", "galaxy_info", "standalone"];

impl Container {
    /// The keywords that may stand in it, in no order.
    pub fn keywords(self) -> impl Iterator<Item = &'static str> {
        let (common, own, extra): (&[&str], &[&str], &[&str]) = match self {
            Container::Play => (COMMON, PLAY, &[]),
            Container::Role => (COMMON, ROLE, &[]),
            Container::Block => (COMMON, BLOCK, &[]),
            Container::Task => (COMMON, TASK, &[]),
            Container::Handler => (COMMON, TASK, &["listen"]),
            Container::ImportPlaybook => (COMMON, &["import_playbook", "tags", "when"], &[]),
            Container::LoopControl => (&[], LOOP_CONTROL, &[]),
            Container::RoleMetadata => (COMMON, ROLE_METADATA, &[]),
            Container::Include => (&[], INCLUDE, &[]),
        };
        common.iter().chain(own).chain(extra).copied()
    }

    /// Whether a keyword may stand in it.
    pub fn takes(self, keyword: &str) -> bool {
        self.keywords().any(|known| known == keyword)
    }

    /// What it is called in a message, in the words that people search for.
    pub fn title(self) -> &'static str {
        match self {
            Container::Play => "a Play",
            Container::Role => "a RoleInclude",
            Container::Block => "a Block",
            Container::Task => "a Task",
            Container::Handler => "a Handler",
            Container::ImportPlaybook => "a PlaybookInclude",
            Container::LoopControl => "a LoopControl",
            Container::RoleMetadata => "a RoleMetadata",
            Container::Include => "a TaskInclude",
        }
    }

    /// What it is called in a hint.
    fn plain_title(self) -> &'static str {
        match self {
            Container::Play => "a play",
            Container::Block => "a block",
            Container::Task => "a task",
            Container::Handler => "a handler",
            Container::LoopControl => "`loop_control`",
            _ => self.title(),
        }
    }

    /// The error for a key that may not stand here, with what was probably meant.
    pub fn unknown(self, key: &Node) -> Diagnostic {
        let name = key.to_value().to_text();
        let error = key.error(format!("'{name}' is not a valid attribute for {}", self.title()));
        if let Some(hint) = gone(&name) {
            return error.hint(hint);
        }
        if self == Container::Include && Container::Task.takes(&name) {
            return error.hint(format!(
                "put `{name}` under `apply:` in the include's arguments, or around it in a block"
            ));
        }
        if let Some(meant) = did_you_mean(&name, self.keywords()) {
            return error.hint(format!("did you mean `{meant}`?"));
        }
        let places: Vec<&str> = [
            Container::Play,
            Container::Role,
            Container::Block,
            Container::Task,
            Container::Handler,
            Container::LoopControl,
        ]
        .into_iter()
        .filter(|place| place.takes(&name))
        .map(Container::plain_title)
        .collect();
        if places.is_empty() { error } else { error.hint(format!("it belongs in {}", places.join(" or "))) }
    }
}

/// What became of a keyword that Ansible has removed.
pub(super) fn gone(name: &str) -> Option<&'static str> {
    Some(match name {
        "include" => {
            "`include` was removed; use `include_tasks`, `import_tasks` or, for a playbook, `import_playbook`"
        }
        "sudo" => "use `become: true`",
        "su" => "use `become: true` with `become_method: su`",
        "sudo_user" | "su_user" => "use `become_user`",
        "sudo_pass" | "sudo_password" | "su_pass" => "use the variable `ansible_become_password`",
        "always_run" => "use `check_mode: false`",
        "accelerate" | "accelerate_port" | "accelerate_ipv6" => "accelerated mode was removed",
        "static" => "use `import_tasks` or `include_tasks`",
        "first_available_file" => "use `with_first_found`",
        "only_if" => "use `when`",
        _ => return None,
    })
}

/// Adds one inheritable keyword to those that are already there. `false` if it is none.
pub(super) fn set(keywords: &mut Arc<Keywords>, key: &str, node: &Node) -> bool {
    let one = || if node.is_null() { None } else { Some(node.to_value()) };
    macro_rules! put {
        ($field:ident) => {{
            if let Some(value) = one() {
                Arc::make_mut(keywords).$field = Some(value);
            }
        }};
    }
    match key {
        "any_errors_fatal" => put!(any_errors_fatal),
        "become" => put!(become_),
        "become_exe" => put!(become_exe),
        "become_flags" => put!(become_flags),
        "become_method" => put!(become_method),
        "become_user" => put!(become_user),
        "check_mode" => put!(check_mode),
        "connection" => put!(connection),
        "debugger" => put!(debugger),
        "delegate_facts" => put!(delegate_facts),
        "delegate_to" => put!(delegate_to),
        "diff" => put!(diff),
        "ignore_errors" => put!(ignore_errors),
        "ignore_unreachable" => put!(ignore_unreachable),
        "no_log" => put!(no_log),
        "port" => put!(port),
        "remote_user" | "user" => put!(remote_user),
        "run_once" => put!(run_once),
        "throttle" => put!(throttle),
        "timeout" => put!(timeout),
        "collections" => {
            let names = list(node).iter().map(Value::to_text).collect();
            Arc::make_mut(keywords).collections = names;
        }
        "environment" => Arc::make_mut(keywords).environment.extend(list(node)),
        "module_defaults" => Arc::make_mut(keywords).module_defaults.extend(list(node)),
        "when" => Arc::make_mut(keywords).when.extend(list(node)),
        "tags" => {
            for tag in tags(node) {
                if !keywords.tags.contains(&tag) {
                    Arc::make_mut(keywords).tags.push(tag);
                }
            }
        }
        _ => return false,
    }
    true
}

/// Adds a layer of variables, if it holds any.
pub(super) fn add_vars(keywords: &mut Arc<Keywords>, kind: VarsKind, map: &Arc<Map>) {
    if !map.is_empty() {
        Arc::make_mut(keywords).vars.push(VarsLayer { kind, map: Arc::clone(map) });
    }
}

/// The items of a list; a lone value is a list of one, nothing is an empty one.
pub(super) fn list(node: &Node) -> Vec<Value> {
    match &node.value {
        NodeValue::List(items) => items.iter().map(Node::to_value).collect(),
        _ if node.is_null() => Vec::new(),
        _ => vec![node.to_value()],
    }
}

/// Tags: strings are split at commas unless they hold a template.
fn tags(node: &Node) -> Vec<Value> {
    let mut out = Vec::new();
    for tag in list(node) {
        match &tag {
            Value::Str(text) if !is_template(&text.text) => {
                for part in text.text.split(',').map(str::trim) {
                    let mut part_text = text.clone();
                    part_text.text = Arc::from(part);
                    out.push(Value::Str(part_text));
                }
            }
            Value::Str(_) => out.push(tag),
            other => out.push(Value::trusted(other.to_text())),
        }
    }
    out
}

/// Whether text holds a template.
pub fn is_template(text: &str) -> bool {
    text.contains("{{") || text.contains("{%") || text.contains("{#")
}

/// Whether no part of a value is a template or must be decrypted first.
pub fn is_literal(value: &Value) -> bool {
    match value {
        Value::Str(text) => !text.trusted || !is_template(&text.text),
        Value::List(items) => items.iter().all(is_literal),
        Value::Map(map) => map.iter().all(|(key, value)| is_literal(key) && is_literal(value)),
        Value::Vault(_) | Value::Pending | Value::Lazy(_) | Value::Omit => false,
        _ => true,
    }
}

/// Whether a name may be a variable's: ASCII, and no word of Python.
pub fn is_variable_name(name: &str) -> bool {
    const RESERVED: &[&str] = &[
        "False", "None", "True", "and", "as", "assert", "async", "await", "break", "class", "continue",
        "def", "del", "elif", "else", "except", "finally", "for", "from", "global", "if", "import", "in",
        "is", "lambda", "nonlocal", "not", "or", "pass", "raise", "return", "try", "while", "with", "yield",
    ];
    let mut characters = name.chars();
    characters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && characters.all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !RESERVED.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_have_the_documented_sizes() {
        // Extra names that only we list: `user` of a play, `local_action`, `standalone`.
        for (container, count) in [
            (Container::Play, 42),
            (Container::Role, 28),
            (Container::Block, 31),
            (Container::Task, 41),
            (Container::Handler, 42),
            (Container::LoopControl, 7),
        ] {
            assert_eq!(container.keywords().count(), count, "{container:?}");
        }
    }
}
