//! Tasks, blocks and static imports.

use std::path::Path;
use std::sync::Arc;

use crate::diagnostic::{Diagnostic, did_you_mean};
use crate::module::{self, registry};
use crate::playbook::args::{self, Pairs};
use crate::playbook::keywords::{self, Container, is_literal, is_template};
use crate::playbook::libraries::{self, InCollection};
use crate::playbook::loader::{Build, Place, Purpose, Scope, find_task_file, node_of, text_like};
use crate::playbook::names::{self, Known, Resolved};
use crate::playbook::play::{chain, same_file};
use crate::playbook::roles::{RoleFiles, RoleUse};
use crate::playbook::{Around, Block, Item, Loop, Task, VarsKind, known};
use crate::source::{Node, NodeValue};
use crate::value::{Map, Origin, Text, Value};

/// What is said of arguments whose names are for internal use.
pub(super) const RESERVED_NAME: &str = "can't be given in a playbook";

/// A task's action, as it was written.
struct Action<'a> {
    /// The name, templates not rendered.
    name: String,
    /// Where the name is.
    key: &'a Node,
    /// The arguments.
    args: Node,
    /// `local_action`.
    local: bool,
}

impl Build<'_> {
    /// The tasks in a file.
    pub(super) fn task_file(&mut self, path: &Path, scope: &Scope, import: Option<&Node>) -> Vec<Item> {
        let Some(parsed) = self.read(path, scope) else { return Vec::new() };
        let scope = Scope { file: Arc::new(path.to_owned()), ..scope.clone() };
        if parsed.root.is_null()
            && let Some(import) = import
        {
            let warning = Diagnostic::warning(format!("the file {} has no tasks", path.display()));
            self.tell(warning.at(Some(Arc::clone(&import.origin))), &scope);
        }
        self.task_list(&parsed.root, &scope)
    }

    /// A list of tasks and blocks.
    pub(super) fn task_list(&mut self, node: &Node, scope: &Scope) -> Vec<Item> {
        let mut items = Vec::new();
        let Some(entries) = node.as_list() else {
            if !node.is_null() {
                let error = node.error(format!("here is a list of tasks wanted, not {}", node.kind_name()));
                self.tell(error, scope);
            }
            return items;
        };
        for entry in entries {
            self.entry(entry, scope, &mut items);
        }
        items
    }

    /// A list of handlers.
    pub(super) fn handler_list(&mut self, node: &Node, scope: &Scope, out: &mut Vec<Arc<Task>>) {
        for item in self.task_list(node, scope) {
            flatten(&item, out);
        }
    }

    fn entry(&mut self, node: &Node, scope: &Scope, items: &mut Vec<Item>) {
        let Some(entries) = node.as_map() else {
            if !node.is_null() {
                let error = node.error(format!("a task is a mapping, but this is {}", node.kind_name()));
                self.tell(error, scope);
            }
            return;
        };
        if entries.iter().any(|(key, _)| matches!(key.as_str(), Some("block" | "rescue" | "always"))) {
            self.block(node, entries, scope, items);
        } else {
            self.task(node, entries, scope, items);
        }
    }

    fn block(&mut self, node: &Node, entries: &[(Node, Node)], scope: &Scope, items: &mut Vec<Item>) {
        if scope.handler && scope.in_block {
            let error = node.error("Using a block as a handler is not supported");
            self.tell(error.hint("a block in a block of handlers can't be notified"), scope);
            return;
        }
        let mut inner = Scope { in_block: true, ..scope.clone() };
        let mut block = Block {
            id: self.loader.next_id(),
            name: None,
            origin: Arc::clone(&node.origin),
            block: Vec::new(),
            rescue: Vec::new(),
            always: Vec::new(),
            role: None,
        };
        for (key, value) in entries {
            match key.as_str() {
                Some("name") => block.name = self.name(value, scope),
                Some("block" | "rescue" | "always") => {}
                _ => self.block_keyword(key, value, &mut inner),
            }
        }
        let Some(tasks) = node.get("block") else {
            self.tell(node.error("`rescue` and `always` need a `block` beside them"), scope);
            return;
        };
        let guarded = Scope {
            rescued: inner.rescued || node.get("rescue").is_some_and(|rescue| !rescue.is_null()),
            ..inner.clone()
        };
        block.block = self.block_list(tasks, &guarded);
        if let Some(tasks) = node.get("rescue") {
            block.rescue = self.block_list(tasks, &inner);
        }
        if let Some(tasks) = node.get("always") {
            block.always = self.block_list(tasks, &inner);
        }
        items.push(Item::Block(Arc::new(block)));
    }

    /// The tasks of a block; a lone task may stand without a list.
    fn block_list(&mut self, node: &Node, scope: &Scope) -> Vec<Item> {
        if node.as_map().is_none() {
            return self.task_list(node, scope);
        }
        let mut items = Vec::new();
        self.entry(node, scope, &mut items);
        items
    }

    /// Adds a keyword of a block to what its tasks inherit.
    pub(super) fn block_keyword(&mut self, key: &Node, value: &Node, scope: &mut Scope) {
        let name = key.as_str().unwrap_or_default();
        if !Container::Block.takes(name) || matches!(name, "block" | "rescue" | "always") {
            self.tell(Container::Block.unknown(key), scope);
            return;
        }
        match name {
            "vars" => {
                let vars = self.vars(value, scope);
                keywords::add_vars(&mut scope.keywords, VarsKind::Block, &vars);
            }
            "notify" => scope.notify = keywords::list(value),
            _ => {
                self.check_debugger(name, value, scope);
                keywords::set(&mut scope.keywords, name, value);
            }
        }
    }

    /// A task without anything but what it inherits.
    pub(super) fn blank_task(&self, action: &str, origin: &Arc<Origin>, scope: &Scope) -> Task {
        Task {
            id: self.loader.next_id(),
            name: None,
            origin: Arc::clone(origin),
            file: Arc::clone(&scope.file),
            included_from: scope.included_from.clone(),
            action: action.to_owned(),
            action_written: action.to_owned(),
            args: Arc::default(),
            args_template: None,
            keywords: Arc::clone(&scope.keywords),
            register: None,
            looping: None,
            until: Vec::new(),
            retries: None,
            delay: None,
            changed_when: None,
            failed_when: None,
            notify: scope.notify.clone(),
            listen: Vec::new(),
            detach: None,
            poll: None,
            role: scope.role.clone(),
            handler: scope.handler,
            implicit: false,
            around: None,
        }
    }

    fn task(&mut self, node: &Node, entries: &[(Node, Node)], scope: &Scope, items: &mut Vec<Item>) {
        let collections = entries.iter().find(|(key, _)| key.as_str() == Some("collections")).map_or_else(
            || scope.keywords.collections.clone(),
            |(_, value)| keywords::list(value).iter().map(Value::to_text).collect(),
        );
        let Some(action) = self.action(node, entries, &collections, scope) else { return };
        let resolved = if is_template(&action.name) {
            Resolved { full: action.name.clone(), known: Known::Here }
        } else {
            names::resolve(&action.name, &collections)
        };
        let mut task = self.blank_task(&resolved.full, &node.origin, scope);
        task.action_written.clone_from(&action.name);
        let container = Self::container(&resolved, scope);
        let mut vars = None;
        for (key, value) in entries {
            let name = key.as_str().unwrap_or_default();
            if std::ptr::eq(key, action.key) || name == "args" {
                continue;
            }
            let is_with = name.strip_prefix("with_").is_some_and(names::is_lookup);
            let takes = container.takes(name)
                || (name == "listen" && scope.handler && container == Container::Include);
            if !is_with && !takes {
                // What is no keyword anywhere was told when the action was looked for.
                if Container::Handler.takes(name) {
                    self.tell(unknown_in_task(container, key), scope);
                }
                continue;
            }
            match name {
                "vars" => vars = Some(self.vars(value, scope)),
                "name" => task.name = self.name(value, scope),
                _ => self.task_keyword(name, key, value, &mut task, scope),
            }
        }
        task.looping = task.looping.filter(|looping| !looping.value.is_null());
        if let Some(vars) = &vars {
            keywords::add_vars(&mut task.keywords, VarsKind::Task, vars);
        }
        if action.local {
            Arc::make_mut(&mut task.keywords).delegate_to = Some(Value::str("localhost"));
        }
        let extra = entries.iter().find(|(key, _)| key.as_str() == Some("args")).map(|(_, value)| value);
        if !self.task_args(&action, extra, &resolved, &mut task, scope) {
            return;
        }
        match names::builtin(&resolved.full) {
            Some("import_tasks") => self.import_tasks(&task, &action, scope, items),
            Some("import_role") => self.import_role(&task, &action, vars, scope, items),
            Some("import_playbook") => {
                self.tell(action.key.error("a playbook can only be imported beside plays"), scope);
            }
            Some("include_tasks" | "include_role") => {
                if self.check_include(&resolved.full, &task, &action, scope) {
                    task.around = Some(Arc::new(Around {
                        keywords: Arc::clone(&scope.keywords),
                        notify: scope.notify.clone(),
                    }));
                    items.push(Item::Task(Arc::new(task)));
                }
            }
            _ => {
                self.check_action(&resolved, &task, &action, scope);
                items.push(Item::Task(Arc::new(task)));
            }
        }
    }

    fn container(resolved: &Resolved, scope: &Scope) -> Container {
        match names::builtin(&resolved.full) {
            Some("include_tasks" | "include_role") => Container::Include,
            _ if scope.handler => Container::Handler,
            _ => Container::Task,
        }
    }

    fn task_keyword(&mut self, name: &str, key: &Node, value: &Node, task: &mut Task, scope: &Scope) {
        let one = || if value.is_null() { None } else { Some(value.to_value()) };
        match name {
            "register" => task.register = self.register(value, scope),
            "loop" => self.set_loop(None, key, value, task, scope),
            "loop_control" => self.loop_control(value, task, scope),
            "until" => task.until = keywords::list(value),
            "retries" => task.retries = one(),
            "delay" => task.delay = one(),
            "changed_when" => task.changed_when = one().map(|_| keywords::list(value)),
            "failed_when" => task.failed_when = one().map(|_| keywords::list(value)),
            "notify" => task.notify = keywords::list(value),
            "listen" => task.listen = keywords::list(value).iter().map(Value::to_text).collect(),
            "async" => task.detach = one(),
            "poll" => task.poll = one(),
            _ => {
                if let Some(lookup) = name.strip_prefix("with_") {
                    self.set_loop(Some(lookup.to_owned()), key, value, task, scope);
                } else {
                    self.check_debugger(name, value, scope);
                    keywords::set(&mut task.keywords, name, value);
                }
            }
        }
    }

    /// A `name`: text, or what can be shown as text.
    pub(super) fn name(&mut self, node: &Node, scope: &Scope) -> Option<Value> {
        if matches!(node.value, NodeValue::List(_) | NodeValue::Map(_)) {
            self.tell(node.error(format!("`name` must be a string, not {}", node.kind_name())), scope);
        }
        Some(node.to_value()).filter(|name| !name.is_null())
    }

    fn register(&mut self, node: &Node, scope: &Scope) -> Option<String> {
        let name = node.to_value().to_text();
        if node.is_null() {
            return None;
        }
        if !keywords::is_variable_name(&name) {
            let error = node.error(format!("`{name}` can't be the name of a variable"));
            self.tell(
                error.hint("letters, digits and underscores, no digit first, and no word of Python"),
                scope,
            );
            return None;
        }
        Some(name)
    }

    fn set_loop(&mut self, lookup: Option<String>, key: &Node, value: &Node, task: &mut Task, scope: &Scope) {
        let has = task.looping.as_ref().is_some_and(|looping| !looping.value.is_null());
        if has {
            self.tell(key.error("a task can have only one loop"), scope);
            return;
        }
        if value.is_null() {
            let name = key.to_value().to_text();
            self.tell(key.error(format!("`{name}` has no value")), scope);
            return;
        }
        let looping = Arc::make_mut(task.looping.get_or_insert_with(empty_loop));
        looping.lookup = lookup;
        looping.value = value.to_value();
    }

    fn loop_control(&mut self, node: &Node, task: &mut Task, scope: &Scope) {
        let Some(entries) = node.as_map() else {
            if !node.is_null() {
                let error =
                    node.error(format!("`loop_control` is a mapping, but this is {}", node.kind_name()));
                self.tell(error, scope);
            }
            return;
        };
        let looping = Arc::make_mut(task.looping.get_or_insert_with(empty_loop));
        for (key, value) in entries {
            let one = if value.is_null() { None } else { Some(value.to_value()) };
            match key.as_str().unwrap_or_default() {
                "loop_var" => {
                    if let Some(value) = one {
                        looping.var = value;
                    }
                }
                "index_var" => looping.index_var = one,
                "label" => looping.label = one,
                "pause" => looping.pause = one,
                "extended" => looping.extended = one,
                "extended_allitems" => looping.extended_allitems = one,
                "break_when" => looping.break_when = keywords::list(value),
                _ => self.tell(Container::LoopControl.unknown(key), scope),
            }
        }
    }

    /// Which key of a task is its action.
    fn action<'n>(
        &mut self,
        node: &'n Node,
        entries: &'n [(Node, Node)],
        collections: &[String],
        scope: &Scope,
    ) -> Option<Action<'n>> {
        let mut found: Vec<&'n (Node, Node)> = Vec::new();
        let mut strange: Vec<&'n (Node, Node)> = Vec::new();
        for entry in entries {
            let Some(name) = entry.0.as_str() else {
                let name = entry.0.to_value().to_text();
                self.tell(entry.0.error(format!("`{name}` is not a keyword of a task")), scope);
                continue;
            };
            let is_with = name.strip_prefix("with_").is_some_and(names::is_lookup);
            if matches!(name, "action" | "local_action") {
                found.push(entry);
            } else if is_with || Container::Handler.takes(name) {
            } else if matches!(names::resolve(name, collections).known, Known::No)
                && self.loader.own_module(name).is_none()
            {
                strange.push(entry);
            } else {
                found.push(entry);
            }
        }
        if found.is_empty() && strange.len() == 1 && keywords::gone(&key_name(strange[0])).is_none() {
            found.append(&mut strange);
        }
        let container = if scope.handler { Container::Handler } else { Container::Task };
        let no_more_to_say = found.is_empty() && !strange.is_empty();
        for (key, _) in strange {
            self.tell(unknown_in_task(container, key), scope);
        }
        match found.as_slice() {
            [] if no_more_to_say => None,
            [] => {
                let error = node.error("this task has no action").hint(
                    "a task needs the name of a module with its arguments, such as `ansible.builtin.copy:`",
                );
                self.tell(error, scope);
                None
            }
            [(key, value)] => self.one_action(key, value, scope),
            [(first, _), (second, _), ..] => {
                let error = second.error(format!(
                    "a task has one action, but this one has `{}` and `{}`",
                    first.to_value().to_text(),
                    second.to_value().to_text()
                ));
                self.tell(
                    error.hint("a list dash is missing before one of them, or it is misspelled"),
                    scope,
                );
                None
            }
        }
    }

    fn one_action<'n>(&mut self, key: &'n Node, value: &'n Node, scope: &Scope) -> Option<Action<'n>> {
        let name = key.as_str().unwrap_or_default();
        if !matches!(name, "action" | "local_action") {
            return Some(Action { name: name.to_owned(), key, args: value.clone(), local: false });
        }
        let local = name == "local_action";
        match &value.value {
            NodeValue::Scalar(Value::Str(text)) => match args::first_word(&text.text) {
                Ok((module, rest)) if !module.is_empty() => {
                    let args = Node {
                        value: NodeValue::Scalar(text_like(text, rest)),
                        origin: value.origin.clone(),
                    };
                    Some(Action { name: module.to_owned(), key, args, local })
                }
                Ok(_) => {
                    self.tell(value.error(format!("`{name}` names no module")), scope);
                    None
                }
                Err(error) => {
                    self.tell(value.error(error.to_string()), scope);
                    None
                }
            },
            NodeValue::Map(entries) => {
                let Some(module) = value.get("module").and_then(Node::as_str) else {
                    let error = value.error(format!("`{name}` needs the module's name under `module`"));
                    self.tell(error, scope);
                    return None;
                };
                // `module: copy src=a` is allowed there, too.
                let (module, text) = args::first_word(module).unwrap_or((module, ""));
                let mut rest: Vec<(Node, Node)> = entries
                    .iter()
                    .filter(|(key, _)| !matches!(key.as_str(), Some("module" | "args")))
                    .cloned()
                    .collect();
                if let Some(args) = value.get("args") {
                    rest.extend(args.as_map().unwrap_or_default().iter().cloned());
                }
                if let Ok(pairs) = args::parse(text, false) {
                    rest.extend(
                        pairs
                            .pairs
                            .into_iter()
                            .map(|(key, text)| (written(&key, &value.origin), written(&text, &value.origin))),
                    );
                }
                let args = Node { value: NodeValue::Map(rest), origin: value.origin.clone() };
                Some(Action { name: module.to_owned(), key, args, local })
            }
            _ => {
                let error = value.error(format!("`{name}` can't be {}", value.kind_name()));
                self.tell(error, scope);
                None
            }
        }
    }

    /// Reads the arguments. `false` if they are no arguments.
    fn task_args(
        &mut self,
        action: &Action<'_>,
        extra: Option<&Node>,
        resolved: &Resolved,
        task: &mut Task,
        scope: &Scope,
    ) -> bool {
        let mut out = Map::new();
        let mut good = true;
        if let Some(extra) = extra {
            match &extra.value {
                NodeValue::Map(_) => good &= self.map_args(extra, &mut out, scope),
                NodeValue::Scalar(Value::Str(text)) if is_template(&text.text) => {
                    task.args_template = Some(extra.to_value());
                }
                NodeValue::Scalar(Value::Str(text)) => {
                    good &= self.text_args(text, extra, resolved, &mut out, task, scope);
                }
                NodeValue::Scalar(Value::Null) => {}
                _ => {
                    self.tell(extra.error(format!("`args` can't be {}", extra.kind_name())), scope);
                    good = false;
                }
            }
        }
        match &action.args.value {
            NodeValue::Map(_) => good &= self.map_args(&action.args, &mut out, scope),
            NodeValue::Scalar(Value::Str(text)) => {
                good &= self.text_args(text, &action.args, resolved, &mut out, task, scope);
            }
            NodeValue::Scalar(Value::Null) => {}
            NodeValue::Scalar(value) if names::takes_raw_params(&resolved.full) => {
                out.insert(Value::str("_raw_params"), Value::trusted(value.to_text()));
            }
            _ => {
                let error = action.args.error(format!(
                    "the arguments of `{}` can't be {}",
                    action.name,
                    action.args.kind_name()
                ));
                self.tell(error, scope);
                good = false;
            }
        }
        task.args = Arc::new(out);
        good
    }

    fn map_args(&mut self, node: &Node, out: &mut Map, scope: &Scope) -> bool {
        let mut good = true;
        for (key, value) in node.as_map().unwrap_or_default() {
            let name = key.to_value().to_text();
            if name.starts_with("_ansible_") {
                self.tell(key.error(format!("`{name}` {RESERVED_NAME}")), scope);
                good = false;
            }
            out.insert(key.to_value(), value.to_value());
        }
        good
    }

    /// `debugger` takes certain words only.
    pub(super) fn check_debugger(&mut self, name: &str, value: &Node, scope: &Scope) {
        let known = |word: &str| word.is_empty() || keywords::DEBUGGER.contains(&word);
        if name == "debugger" && !value.is_null() && !value.as_str().is_some_and(known) {
            let word = value.to_value().to_text();
            let error = value.error(format!("`{word}` is no value for `debugger`"));
            self.tell(error.hint(format!("there are {}", keywords::DEBUGGER.join(", "))), scope);
        }
    }

    fn text_args(
        &mut self,
        text: &Text,
        node: &Node,
        resolved: &Resolved,
        out: &mut Map,
        task: &mut Task,
        scope: &Scope,
    ) -> bool {
        let name = &resolved.full;
        let Pairs { pairs, raw } = match args::parse(&text.text, names::is_free_form(name)) {
            Ok(pairs) => pairs,
            Err(error) => {
                self.tell(node.error(error.to_string()), scope);
                return false;
            }
        };
        for (key, value) in pairs {
            if key.starts_with("_ansible_") {
                self.tell(node.error(format!("`{key}` {RESERVED_NAME}")), scope);
                return false;
            }
            out.insert(text_like(text, &key), text_like(text, &value));
        }
        let Some(raw) = raw else { return true };
        // Of these, free text can only be a template that gives all arguments.
        let splat = matches!(
            name.as_str(),
            "ansible.builtin.add_host" | "ansible.builtin.group_by" | "ansible.builtin.set_fact"
        ) && is_template(&raw);
        if (names::takes_raw_params(name) || is_template(name)) && !splat {
            out.insert(Value::str("_raw_params"), text_like(text, &raw));
        } else if is_template(&raw) {
            task.args_template = Some(text_like(text, &raw));
        } else if is_lazy(task, scope)
            || resolved.known != Known::Here
            || self.loader.options.purpose == Purpose::List
        {
            out.insert(Value::str("_raw_params"), text_like(text, &raw));
        } else {
            let error =
                node.error(format!("`{}` takes no free text, only `name=value`", task.action_written));
            self.tell(error.hint(format!("this is not `name=value`: {}", raw.trim())), scope);
            return false;
        }
        true
    }

    fn import_tasks(&mut self, task: &Task, action: &Action<'_>, scope: &Scope, items: &mut Vec<Item>) {
        if !self.check_include(&task.action, task, action, scope) {
            return;
        }
        if task.looping.is_some() {
            let error = action.key.error("an import can't have a loop");
            self.tell(error.hint("use `include_tasks`"), scope);
            return;
        }
        let Some(file) = include_file(task) else { return };
        let Some(name) = self.render_text(file, &own_vars(task, scope), scope) else { return };
        let mut inner = Self::import_scope(task, scope);
        let place = Place {
            role: scope.role.as_deref(),
            file: &scope.file,
            included_from: &scope.included_from,
            handler: scope.handler,
            play_dir: &self.play_dir,
        };
        let path = match find_task_file(name.trim(), &place) {
            Ok(path) => path,
            Err(error) => {
                let origin = file.origin().cloned().or_else(|| Some(Arc::clone(&action.key.origin)));
                self.tell(error.at(origin), scope);
                return;
            }
        };
        inner.open.push(scope.file.as_ref().clone());
        if inner.open.iter().any(|open| same_file(open, &path)) {
            let error = action.key.error(format!("the file {} imports itself", path.display()));
            self.tell(error.hint(chain(&inner.open, &path)), scope);
            return;
        }
        items.extend(self.task_file(&path, &inner, Some(action.key)));
    }

    fn import_role(
        &mut self,
        task: &Task,
        action: &Action<'_>,
        vars: Option<Arc<Map>>,
        scope: &Scope,
        items: &mut Vec<Item>,
    ) {
        if !self.check_include(&task.action, task, action, scope) {
            return;
        }
        if task.looping.is_some() {
            let error = action.key.error("an import can't have a loop");
            self.tell(error.hint("use `include_role`"), scope);
            return;
        }
        let arg = |name: &str| task.args.get(name).filter(|value| !value.is_null());
        let Some(name) = arg("name").or_else(|| arg("role")) else { return };
        let own = own_vars(task, scope);
        let Some(name) = self.render_text(name, &own, scope) else { return };
        let mut from = |key: &str| {
            let value = arg(key)?;
            self.render_text(value, &own, scope)
        };
        let files = RoleFiles {
            tasks: from("tasks_from"),
            vars: from("vars_from"),
            defaults: from("defaults_from"),
            handlers: from("handlers_from"),
        };
        let truth = |key: &str| arg(key).and_then(Value::to_bool);
        let role_use = RoleUse {
            name,
            origin: Arc::clone(&task.origin),
            files,
            entry_vars: vars.unwrap_or_default(),
            params: Arc::default(),
            own_keywords: String::new(),
            public: truth("public").unwrap_or(!self.loader.options.private_role_vars),
            allow_duplicates: Some(truth("allow_duplicates").unwrap_or(true)),
            validate: truth("rolespec_validate").unwrap_or(true),
            from_include: true,
        };
        let inner = Scope { included_from: scope.included_from.clone(), ..Self::import_scope(task, scope) };
        let parents = scope.role.iter().flat_map(|role| std::iter::once(role).chain(&role.parents).cloned());
        let parents = parents.collect();
        self.role(role_use, &inner, parents, items);
    }

    /// What the children of a static import inherit: everything that the import has.
    fn import_scope(task: &Task, scope: &Scope) -> Scope {
        Scope {
            keywords: Arc::clone(&task.keywords),
            notify: task.notify.clone(),
            included_from: std::iter::once(&task.origin).chain(&scope.included_from).cloned().collect(),
            in_block: false,
            ..scope.clone()
        }
    }

    /// Checks the arguments of an include or import. `false` if it can't be carried out.
    fn check_include(&mut self, full: &str, task: &Task, action: &Action<'_>, scope: &Scope) -> bool {
        const ROLE_ARGS: &[&str] = &[
            "name",
            "role",
            "tasks_from",
            "vars_from",
            "defaults_from",
            "handlers_from",
            "allow_duplicates",
            "rolespec_validate",
            "public",
        ];
        let short = names::builtin(full).unwrap_or(full);
        let is_role = matches!(short, "include_role" | "import_role");
        let mut known: Vec<&str> = if is_role { ROLE_ARGS.to_vec() } else { vec!["file", "_raw_params"] };
        if short.starts_with("include_") {
            known.push("apply");
        }
        let mut good = true;
        if is_role && scope.handler && !scope.dynamic {
            self.tell(action.key.error(format!("Using '{short}' as a handler is not supported")), scope);
            return false;
        }
        for key in task.args.keys() {
            let name = key.to_text();
            if known.contains(&name.as_str()) {
                continue;
            }
            let origin = key.origin().unwrap_or(&action.key.origin);
            let mut error = Diagnostic::error(format!("Invalid options for {short}: {name}"))
                .at(Some(Arc::clone(origin)));
            if name == "apply" {
                error = error.hint(format!("what `{short}` imports inherits its keywords already"));
            } else if let Some(meant) = did_you_mean(&name, known.iter().copied()) {
                error = error.hint(format!("did you mean `{meant}`?"));
            } else if Container::Task.takes(&name) {
                error = error.hint(format!("`{name}` is a keyword: indent it like `{short}`"));
            }
            self.tell(error, scope);
            good = false;
        }
        for key in ["tasks_from", "vars_from", "defaults_from", "handlers_from"] {
            if let Some(value) = task.args.get(key)
                && !matches!(value, Value::Str(_) | Value::Null)
            {
                let error = action.key.error(format!("`{key}` must be a string, not {}", value.type_name()));
                self.tell(error, scope);
                good = false;
            }
        }
        if let Some(apply) = task.args.get("apply")
            && !matches!(apply, Value::Map(_) | Value::Null)
            && is_literal(apply)
        {
            self.tell(action.key.error("`apply` takes a mapping of keywords"), scope);
            good = false;
        }
        let has_target = if is_role {
            ["name", "role"].iter().any(|key| task.args.get(*key).is_some_and(Value::truthy))
        } else {
            include_file(task).is_some()
        };
        if !has_target && task.args_template.is_none() {
            let what = if is_role { "the role's name under `name`" } else { "the name of a file" };
            self.tell(action.key.error(format!("`{short}` needs {what}")), scope);
            good = false;
        }
        good
    }

    /// Checks the action's name and its literal arguments. Tasks that may never run keep what is wrong
    /// with them until they are reached.
    fn check_action(&mut self, resolved: &Resolved, task: &Task, action: &Action<'_>, scope: &Scope) {
        let is_meta = resolved.full == "ansible.builtin.meta";
        if is_meta {
            self.check_meta(task, action, scope);
        }
        if is_template(&action.name) {
            return;
        }
        if !self.check_module(resolved, task, action, scope)
            || is_lazy(task, scope)
            || self.loader.options.purpose == Purpose::List
        {
            return;
        }
        self.check_module_args(task, action, scope);
    }

    /// Whether the module is one of ours. A name that nobody has is an error wherever it stands; what others have
    /// may stand in a task that is never reached.
    fn check_module(&mut self, resolved: &Resolved, task: &Task, action: &Action<'_>, scope: &Scope) -> bool {
        let name = &action.name;
        let own = self.loader.libraries().find(name).cloned();
        if resolved.known == Known::Here {
            if let Some(own) = own {
                let warning = Diagnostic::warning(format!(
                    "{own} is called `{name}` ({}); it is not used, the built-in module is",
                    own.path.display()
                ));
                self.tell_shadowed(name, warning.at(Some(Arc::clone(&action.key.origin))), scope);
            }
            return true;
        }
        let known = match libraries::in_collection(&self.loader.options.collections_paths, &resolved.full) {
            _ if own.is_some() => Known::Elsewhere,
            InCollection::Lacks(dir) if resolved.known == Known::Foreign => {
                let error = action.key.error(format!("there is no module `{name}`"));
                self.tell(error.hint(format!("the collection in {} has none", dir.display())), scope);
                return false;
            }
            InCollection::Has(_) | InCollection::Mentions => Known::Foreign,
            InCollection::Lacks(_) | InCollection::NotInstalled => resolved.known,
        };
        let refusal = self.loader.own_module(name).or_else(|| self.loader.own_module(&resolved.full));
        let error = match refusal {
            Some(refusal) => action.key.error(refusal),
            None => unknown_module(action, known),
        };
        if known == Known::No {
            self.tell(error, scope);
        } else {
            let full = if own.is_some() { name } else { &resolved.full };
            self.tell_unsupported(full, error, !is_lazy(task, scope), scope);
        }
        false
    }

    fn check_meta(&mut self, task: &Task, action: &Action<'_>, scope: &Scope) {
        let Some(word) = task.args.get("_raw_params").and_then(Value::as_str) else {
            self.tell(action.key.error("`meta` needs a word that says what to do"), scope);
            return;
        };
        if is_template(word) {
            return;
        }
        if !names::META.contains(&word) {
            let mut error = action.args.error(format!("`meta` can't `{word}`"));
            if let Some(meant) = did_you_mean(word, names::META.iter().copied()) {
                error = error.hint(format!("did you mean `{meant}`?"));
            }
            self.tell(error, scope);
        } else if scope.handler && word == "end_role" {
            self.tell(action.args.error("end_role cannot be used as a handler"), scope);
        } else if word == "end_role" && scope.role.is_none() {
            self.tell(action.args.error("`meta: end_role` is only for a role's tasks"), scope);
        }
    }

    fn check_module_args(&mut self, task: &Task, action: &Action<'_>, scope: &Scope) {
        let Some(module) = registry::find(&task.action) else {
            self.check_action_args(task, action, scope);
            return;
        };
        let Err(errors) = module::args::check(module, &task.args, &is_literal) else { return };
        // What is missing here may come from elsewhere.
        let open = task.args_template.is_some() || !task.keywords.module_defaults.is_empty();
        for error in errors {
            if open && error.argument.is_none() {
                continue;
            }
            let key = error.argument.as_deref().and_then(|name| task.args.get_key_value(name));
            let origin = key.and_then(|(key, value)| key.origin().or_else(|| value.origin()));
            let mut told =
                Diagnostic::error(error.message).at(Some(Arc::clone(origin.unwrap_or(&action.key.origin))));
            if let Some(hint) = error.hint {
                told = told.hint(hint);
            } else if let Some(name) = &error.argument
                && Container::Task.takes(name)
            {
                told = told.hint(format!("`{name}` is also a keyword: is it indented too far?"));
            }
            self.tell_refused(told, scope);
        }
    }

    /// Checks the names of the arguments of an action that is no module.
    fn check_action_args(&mut self, task: &Task, action: &Action<'_>, scope: &Scope) {
        let Some(known) = names::action_params(&task.action) else { return };
        for key in task.args.keys() {
            let name = key.to_text();
            if known.contains(&name.as_str()) || name == "_raw_params" {
                continue;
            }
            let origin = key.origin().unwrap_or(&action.key.origin);
            let error = Diagnostic::error(format!("Invalid options for {}: {name}", task.action))
                .at(Some(Arc::clone(origin)));
            let error = match did_you_mean(&name, known.iter().copied()) {
                Some(meant) => error.hint(format!("did you mean `{meant}`?")),
                None if Container::Task.takes(&name) => {
                    error.hint(format!("`{name}` is also a keyword: is it indented too far?"))
                }
                None => error.hint(format!("it takes: {}", known.join(", "))),
            };
            self.tell_refused(error, scope);
        }
    }

    /// A task from the command line.
    pub(super) fn command_line_task(&mut self, module: &str, text: &str) -> Option<Task> {
        let origin = Arc::new(Origin { file: Arc::from("<command line>"), line: 1, column: 1 });
        let scope = Scope::new(Path::new("."));
        let key = written(module, &origin);
        let parsed = text
            .trim_start()
            .starts_with('{')
            .then(|| crate::source::parse("<command line>", text).map(|parsed| parsed.root));
        let args = match parsed {
            Some(Ok(root)) => root,
            Some(Err(error)) => {
                self.tell(error, &scope);
                return None;
            }
            None => node_of(&Value::written(text, Arc::clone(&origin)), &origin),
        };
        let action = Action { name: module.to_owned(), key: &key, args, local: false };
        let resolved = names::resolve(module, &[]);
        let mut task = self.blank_task(&resolved.full, &origin, &scope);
        module.clone_into(&mut task.action_written);
        if !self.task_args(&action, None, &resolved, &mut task, &scope) {
            return None;
        }
        match names::builtin(&resolved.full) {
            Some("import_tasks" | "import_role" | "import_playbook" | "include_tasks") => {
                self.tell(key.error(format!("`{module}` can't be run on its own")), &scope);
                return None;
            }
            Some("include_role") => task.around = Some(Arc::default()),
            _ => self.check_action(&resolved, &task, &action, &scope),
        }
        Some(task)
    }
}

/// Whether a task may turn out not to run, or is written to fail: what is wrong with its module or arguments
/// is then only told when it is reached.
fn is_lazy(task: &Task, scope: &Scope) -> bool {
    let keywords = &task.keywords;
    scope.is_conditional()
        || !keywords.when.is_empty()
        || keywords.tags.iter().any(|tag| tag.as_str() == Some("never"))
        || keywords.ignore_errors.as_ref().is_some_and(|value| value.to_bool() != Some(false))
        || task.failed_when.is_some()
}

/// The error for a key in a task that is neither keyword nor module.
fn unknown_in_task(container: Container, key: &Node) -> Diagnostic {
    let name = key.to_value().to_text();
    if let Some(lookup) = name.strip_prefix("with_") {
        let error = key.error(format!("there is no lookup `{lookup}` for `{name}`"));
        return match did_you_mean(lookup, known::LOOKUPS.iter().copied()) {
            Some(meant) => error.hint(format!("did you mean `with_{meant}`?")),
            None => error,
        };
    }
    let error = container.unknown(key);
    if error.hint.is_some() {
        return error;
    }
    match names::similar(&name) {
        Some(meant) => error.hint(format!("did you mean the module `{meant}`?")),
        None => error,
    }
}

fn unknown_module(action: &Action<'_>, known: Known) -> Diagnostic {
    let name = &action.name;
    match known {
        Known::Elsewhere => action
            .key
            .error(format!("the module `{name}` is not supported here"))
            .hint("a task with a `when` that is false where it runs may name it"),
        Known::Foreign => action
            .key
            .error(format!("the module `{name}` is not supported here"))
            .hint("modules of collections that are not built in can't be run"),
        _ => {
            let error = action.key.error(format!("there is no module `{name}`"));
            let keyword = did_you_mean(name, Container::Task.keywords()).map(str::to_owned);
            match names::similar(name).or(keyword) {
                Some(meant) => error.hint(format!("did you mean `{meant}`?")),
                None => error,
            }
        }
    }
}

/// The file that an include or import names, not rendered.
fn include_file(task: &Task) -> Option<&Value> {
    ["_raw_params", "file"]
        .iter()
        .find_map(|key| task.args.get(*key))
        .filter(|value| value.as_str().is_some_and(|text| !text.trim().is_empty()))
}

/// The variables of a task itself, without the inherited ones.
fn own_vars(task: &Task, scope: &Scope) -> Map {
    let mut out = Map::new();
    for layer in task.keywords.vars.iter().skip(scope.keywords.vars.len()) {
        out.extend(layer.map.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    out
}

fn key_name(entry: &(Node, Node)) -> String {
    entry.0.to_value().to_text()
}

fn written(text: &str, origin: &Arc<Origin>) -> Node {
    Node { value: NodeValue::Scalar(Value::written(text, Arc::clone(origin))), origin: Arc::clone(origin) }
}

fn empty_loop() -> Arc<Loop> {
    Arc::new(Loop {
        lookup: None,
        value: Value::Null,
        var: Value::str("item"),
        index_var: None,
        label: None,
        pause: None,
        extended: None,
        extended_allitems: None,
        break_when: Vec::new(),
    })
}

fn flatten(item: &Item, out: &mut Vec<Arc<Task>>) {
    match item {
        Item::Task(task) => out.push(Arc::clone(task)),
        Item::Block(block) => {
            for item in block.block.iter().chain(&block.rescue).chain(&block.always) {
                flatten(item, out);
            }
        }
    }
}
