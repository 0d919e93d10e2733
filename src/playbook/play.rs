//! Plays and playbook files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::diagnostic::Diagnostic;
use crate::playbook::keywords::{self, Container};
use crate::playbook::loader::{Build, Scope, directory, home};
use crate::playbook::{Keywords, Play, VarsPrompt, collections};
use crate::source::Node;
use crate::value::{Map, Value};

/// What an `import_playbook` gives to the plays of its file.
#[derive(Clone, Default)]
struct Imported {
    keywords: Arc<Keywords>,
    vars: Map,
}

impl Build<'_> {
    /// The plays of a playbook file, with those that it imports.
    pub(super) fn playbook_file(&mut self, path: &Path) -> Vec<Arc<Play>> {
        let mut plays = Vec::new();
        self.plays_of(path, &Imported::default(), &Scope::new(path), &mut plays);
        plays
    }

    fn plays_of(&mut self, path: &Path, imported: &Imported, scope: &Scope, plays: &mut Vec<Arc<Play>>) {
        let Some(parsed) = self.read(path, scope) else { return };
        self.loader.libraries().add_project(&directory(path));
        let Some(entries) = parsed.root.as_list() else {
            let kind = parsed.root.kind_name();
            let error = if parsed.root.is_null() {
                Diagnostic::error(format!("the playbook {} is empty", path.display()))
            } else {
                parsed.root.error(format!("a playbook is a list of plays, but this is {kind}"))
            };
            self.tell(error, scope);
            return;
        };
        if entries.is_empty() {
            let error = parsed.root.error(format!("the playbook {} is empty", path.display()));
            self.tell(error, scope);
        }
        for entry in entries {
            let Some(map) = entry.as_map() else {
                let error = entry.error(format!("a play is a mapping, but this is {}", entry.kind_name()));
                self.tell(error, scope);
                continue;
            };
            let import = map.iter().find(|(key, _)| {
                matches!(
                    key.as_str(),
                    Some(
                        "import_playbook"
                            | "ansible.builtin.import_playbook"
                            | "ansible.legacy.import_playbook"
                    )
                )
            });
            match import {
                Some((_, file)) => self.import_playbook(entry, map, file, imported, scope, plays),
                None => {
                    if let Some(play) = self.play(entry, map, path, imported, scope) {
                        plays.push(Arc::new(play));
                    }
                }
            }
        }
    }

    fn import_playbook(
        &mut self,
        entry: &Node,
        map: &[(Node, Node)],
        file: &Node,
        imported: &Imported,
        scope: &Scope,
        plays: &mut Vec<Arc<Play>>,
    ) {
        let mut own = imported.clone();
        for (key, value) in map {
            let name = key.as_str().unwrap_or_default();
            match name {
                "vars" => {
                    // An outer import's variables win over those of an inner one.
                    let mut vars = self.vars(value, scope).as_ref().clone();
                    vars.extend(imported.vars.iter().map(|(key, value)| (key.clone(), value.clone())));
                    own.vars = vars;
                }
                _ if name.ends_with("import_playbook") => {}
                _ if !Container::ImportPlaybook.takes(name) => {
                    self.tell(Container::ImportPlaybook.unknown(key), scope);
                }
                "when" | "tags" => {
                    keywords::set(&mut own.keywords, name, value);
                }
                _ => {}
            }
        }
        let Some(text) = file.as_str().filter(|text| !text.trim().is_empty()) else {
            self.tell(file.error("`import_playbook` takes the name of a file"), scope);
            return;
        };
        if !super::args::is_balanced(text) {
            self.tell(file.error(super::args::Unbalanced.to_string()), scope);
            return;
        }
        self.play_vars = Arc::new(own.vars.clone());
        let Some(name) = self.render_text(&file.to_value(), &Map::new(), scope) else { return };
        let name = name.trim();
        let path = match self.find_playbook(name, &directory(&scope.file)) {
            Ok(path) => path,
            Err(error) => {
                self.tell(error.at(Some(Arc::clone(&file.origin))), scope);
                return;
            }
        };
        let mut inner = Scope::new(&path);
        inner.included_from = std::iter::once(&entry.origin).chain(&scope.included_from).cloned().collect();
        inner.open.clone_from(&scope.open);
        inner.open.push(scope.file.as_ref().clone());
        if inner.open.iter().any(|open| same_file(open, &path)) {
            let error = file.error(format!("the playbook {} imports itself", path.display()));
            self.tell(error.hint(chain(&inner.open, &path)), scope);
            return;
        }
        self.plays_of(&path, &own, &inner, plays);
    }

    /// The file of an imported playbook: beside the importing one, or in a collection.
    fn find_playbook(&self, name: &str, dir: &Path) -> Result<PathBuf, Diagnostic> {
        let path = match name.strip_prefix("~/") {
            Some(rest) => home().join(rest),
            None => dir.join(name),
        };
        if path.is_file() {
            return Ok(path);
        }
        if let Some(found) = collections::find_playbook(&self.loader.options.collections_paths, name) {
            return Ok(found);
        }
        let error = Diagnostic::error(format!("there is no playbook `{name}`"));
        Err(error.hint(format!("searched: {}", path.display())))
    }

    fn play(
        &mut self,
        node: &Node,
        map: &[(Node, Node)],
        path: &Path,
        imported: &Imported,
        outer: &Scope,
    ) -> Option<Play> {
        self.play_dir = directory(path);
        self.roles.clear();
        self.handlers.clear();
        let mut play = Play {
            name: None,
            hosts: Value::Null,
            origin: Arc::clone(&node.origin),
            path: path.to_owned(),
            keywords: Arc::default(),
            vars: Arc::default(),
            vars_files: Vec::new(),
            vars_prompt: Vec::new(),
            gather_facts: None,
            gather_subset: None,
            gather_timeout: None,
            fact_path: None,
            serial: Vec::new(),
            strategy: None,
            order: None,
            max_fail_percentage: None,
            force_handlers: None,
            roles: Vec::new(),
            pre_tasks: Vec::new(),
            role_tasks: Vec::new(),
            tasks: Vec::new(),
            post_tasks: Vec::new(),
            handlers: Vec::new(),
        };
        let mut keywords = Arc::clone(&imported.keywords);
        let mut sections = Sections::default();
        for (key, value) in map {
            let name = key.as_str().unwrap_or_default();
            if !Container::Play.takes(name) {
                self.tell(Container::Play.unknown(key), outer);
                continue;
            }
            let one = || if value.is_null() { None } else { Some(value.to_value()) };
            match name {
                "name" => play.name = self.name(value, outer),
                "hosts" => play.hosts = self.hosts(value, outer),
                "vars" => play.vars = self.vars(value, outer),
                "vars_files" => {
                    if value.as_map().is_some() {
                        self.tell(value.error("`vars_files` takes names of files, not a mapping"), outer);
                    }
                    play.vars_files = keywords::list(value);
                }
                "vars_prompt" => play.vars_prompt = self.vars_prompt(value, outer),
                "gather_facts" => play.gather_facts = one(),
                "gather_subset" => play.gather_subset = one(),
                "gather_timeout" => play.gather_timeout = one(),
                "fact_path" => play.fact_path = one(),
                "serial" => play.serial = keywords::list(value),
                "strategy" => play.strategy = one(),
                "order" => play.order = one(),
                "max_fail_percentage" => play.max_fail_percentage = one(),
                "force_handlers" => play.force_handlers = one(),
                "roles" => sections.roles = Some(value),
                "pre_tasks" => sections.pre_tasks = Some(value),
                "tasks" => sections.tasks = Some(value),
                "post_tasks" => sections.post_tasks = Some(value),
                "handlers" => sections.handlers = Some(value),
                _ => {
                    self.check_debugger(name, value, outer);
                    keywords::set(&mut keywords, name, value);
                }
            }
        }
        let names = |name: &str| map.iter().any(|(key, _)| key.as_str() == Some(name));
        if names("user") && names("remote_user") {
            self.tell(node.error("`user` and `remote_user` mean the same; give one of them"), outer);
        }
        self.check_strategy(&play, outer);
        if !names("hosts") {
            self.tell(node.error("a play needs `hosts`"), outer);
        }
        if !imported.vars.is_empty() {
            let mut vars = play.vars.as_ref().clone();
            vars.extend(imported.vars.iter().map(|(key, value)| (key.clone(), value.clone())));
            play.vars = Arc::new(vars);
        }
        play.keywords = Arc::clone(&keywords);
        self.play_vars = Arc::clone(&play.vars);
        let scope = Scope { keywords, ..outer.clone() };
        self.sections(&sections, &scope, &mut play);
        Some(play)
    }

    fn check_strategy(&mut self, play: &Play, scope: &Scope) {
        let Some(Value::Str(text)) = &play.strategy else { return };
        let name = text.text.strip_prefix("ansible.builtin.").unwrap_or(&text.text);
        if keywords::is_template(name) || matches!(name, "linear" | "free" | "host_pinned" | "debug") {
            return;
        }
        let error = Diagnostic::error(format!("the strategy `{name}` is not supported here"))
            .at(text.origin.clone())
            .hint("there are `linear`, `free`, `host_pinned` and `debug`");
        self.tell_unsupported(&format!("strategy {name}"), error, true, scope);
    }

    fn sections(&mut self, sections: &Sections<'_>, scope: &Scope, play: &mut Play) {
        if let Some(roles) = sections.roles {
            self.play_roles(roles, scope, &mut play.role_tasks);
        }
        let mut handlers = std::mem::take(&mut self.handlers);
        if let Some(node) = sections.handlers {
            let scope = Scope { handler: true, ..scope.clone() };
            self.handler_list(node, &scope, &mut handlers);
        }
        for (node, items) in [
            (sections.pre_tasks, &mut play.pre_tasks),
            (sections.tasks, &mut play.tasks),
            (sections.post_tasks, &mut play.post_tasks),
        ] {
            if let Some(node) = node {
                *items = self.task_list(node, scope);
            }
        }
        handlers.append(&mut self.handlers);
        play.handlers = handlers;
        play.roles = std::mem::take(&mut self.roles);
    }

    fn hosts(&mut self, node: &Node, scope: &Scope) -> Value {
        let value = node.to_value();
        let empty = match &value {
            Value::Str(text) => text.text.is_empty(),
            Value::List(items) => items.is_empty() || items.iter().any(Value::is_null),
            Value::Int(_) => false,
            Value::Null => true,
            _ => {
                let error = node.error(format!(
                    "`hosts` takes a pattern or a list of patterns, but this is {}",
                    node.kind_name()
                ));
                self.tell(error, scope);
                false
            }
        };
        if empty {
            self.tell(node.error("`hosts` names no hosts"), scope);
        }
        value
    }

    fn vars_prompt(&mut self, node: &Node, scope: &Scope) -> Vec<VarsPrompt> {
        let entries = match node.as_list() {
            Some(entries) => entries,
            None if node.is_null() => &[],
            None => std::slice::from_ref(node),
        };
        entries.iter().filter_map(|entry| self.one_prompt(entry, scope)).collect()
    }

    fn one_prompt(&mut self, node: &Node, scope: &Scope) -> Option<VarsPrompt> {
        const KEYS: &[&str] =
            &["name", "prompt", "default", "private", "confirm", "encrypt", "salt", "salt_size", "unsafe"];
        let Some(name) = node.get("name").map(|name| name.to_value().to_text()) else {
            self.tell(node.error("an entry of `vars_prompt` needs `name`"), scope);
            return None;
        };
        for (key, _) in node.as_map().unwrap_or_default() {
            let word = key.to_value().to_text();
            if !KEYS.contains(&word.as_str()) {
                self.tell(key.error(format!("`vars_prompt` has no option `{word}`")), scope);
            }
        }
        let text = |key: &str| node.get(key).filter(|value| !value.is_null()).map(Node::to_value);
        let truth = |key: &str, default: bool| {
            text(key).map_or(default, |value| value.to_bool().unwrap_or_else(|| value.truthy()))
        };
        Some(VarsPrompt {
            name,
            prompt: text("prompt"),
            default: text("default"),
            private: truth("private", true),
            confirm: truth("confirm", false),
            encrypt: text("encrypt").map(|value| value.to_text()),
            salt: text("salt"),
            salt_size: text("salt_size").and_then(|value| match value {
                Value::Int(size) => Some(size),
                other => other.to_text().parse().ok(),
            }),
            is_unsafe: truth("unsafe", false),
        })
    }
}

/// The parts of a play that hold tasks: read after all its keywords are known.
#[derive(Default)]
struct Sections<'a> {
    roles: Option<&'a Node>,
    pre_tasks: Option<&'a Node>,
    tasks: Option<&'a Node>,
    post_tasks: Option<&'a Node>,
    handlers: Option<&'a Node>,
}

/// Whether two names lead to one file.
pub(super) fn same_file(a: &Path, b: &Path) -> bool {
    a == b
        || match (a.canonicalize(), b.canonicalize()) {
            (Ok(a), Ok(b)) => a == b,
            _ => false,
        }
}

/// The chain of files that led back to `last`, for a message.
pub(super) fn chain(open: &[PathBuf], last: &Path) -> String {
    let names: Vec<String> =
        open.iter().map(PathBuf::as_path).chain([last]).map(|path| path.display().to_string()).collect();
    names.join(" -> ")
}
