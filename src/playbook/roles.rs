//! Roles: where they are, what they hold, what they depend on.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::diagnostic::{Diagnostic, did_you_mean};
use crate::playbook::keywords::{self, Container};
use crate::playbook::loader::{Build, Scope, directory, home};
use crate::playbook::{Block, Item, Keywords, Role, Task, collections};
use crate::source::{Node, Parsed};
use crate::value::{Map, Origin, Value, map_of};

/// Which of a role's files are meant, where not `main`.
#[derive(Clone, Debug, Default)]
pub(super) struct RoleFiles {
    pub(super) tasks: Option<String>,
    pub(super) vars: Option<String>,
    pub(super) defaults: Option<String>,
    pub(super) handlers: Option<String>,
}

/// One use of a role, as it was written.
#[derive(Clone, Debug)]
pub(super) struct RoleUse {
    pub(super) name: String,
    pub(super) origin: Arc<Origin>,
    pub(super) files: RoleFiles,
    pub(super) entry_vars: Arc<Map>,
    pub(super) params: Arc<Map>,
    /// The entry's own `when` and `tags`, for comparison with other uses.
    pub(super) own_keywords: String,
    pub(super) public: bool,
    /// As the use says; else as the role says.
    pub(super) allow_duplicates: Option<bool>,
    pub(super) validate: bool,
    pub(super) from_include: bool,
}

/// What `meta/main.yml` says.
#[derive(Default)]
struct Metadata {
    file: Option<(PathBuf, Arc<Parsed>)>,
    allow_duplicates: bool,
    collections: Vec<String>,
}

impl Metadata {
    fn root(&self) -> Option<&Node> {
        self.file.as_ref().map(|(_, parsed)| &parsed.root)
    }
}

impl Build<'_> {
    /// The roles of a play.
    pub(super) fn play_roles(&mut self, node: &Node, scope: &Scope, items: &mut Vec<Item>) {
        if node.is_null() {
            return;
        }
        let Some(entries) = node.as_list() else {
            self.tell(node.error(format!("`roles` is a list, but this is {}", node.kind_name())), scope);
            return;
        };
        for entry in entries {
            let mut scope = scope.clone();
            if let Some(role_use) = self.role_entry(entry, &mut scope, false) {
                self.role(role_use, &scope, Vec::new(), items);
            }
        }
    }

    /// An entry of `roles:` or of a role's dependencies; its keywords join the scope.
    fn role_entry(&mut self, node: &Node, scope: &mut Scope, dependency: bool) -> Option<RoleUse> {
        let mut role_use = RoleUse {
            name: String::new(),
            origin: Arc::clone(&node.origin),
            files: RoleFiles::default(),
            entry_vars: Arc::default(),
            params: Arc::default(),
            own_keywords: String::new(),
            public: !self.loader.options.private_role_vars,
            allow_duplicates: None,
            validate: true,
            from_include: false,
        };
        let Some(entries) = node.as_map() else {
            let name = node.as_scalar().filter(|value| !value.is_null())?;
            role_use.name = self.render_text(name, &Map::new(), scope)?;
            return Some(role_use);
        };
        let mut name = None;
        let mut params = Map::new();
        let mut own = Arc::new(Keywords::default());
        for (key, value) in entries {
            let word = key.as_str().unwrap_or_default();
            match word {
                "role" => name = Some(value),
                "name" => name = name.or(Some(value)),
                "src" if dependency => name = name.or(Some(value)),
                "scm" | "version" if dependency && node.get("src").is_some() => {}
                "vars" => role_use.entry_vars = self.vars(value, scope),
                _ if Container::Role.takes(word) => {
                    self.check_debugger(word, value, scope);
                    keywords::set(&mut own, word, value);
                    keywords::set(&mut scope.keywords, word, value);
                }
                _ => {
                    params.insert(key.to_value(), value.to_value());
                }
            }
        }
        let Some(name) = name.filter(|name| name.as_str().is_some_and(|name| !name.is_empty())) else {
            self.tell(node.error("a role entry needs the role's name under `role`"), scope);
            return None;
        };
        let vars = Arc::clone(&role_use.entry_vars);
        role_use.name = self.render_text(&name.to_value(), &vars, scope)?;
        role_use.params = Arc::new(params);
        role_use.own_keywords =
            format!("{} {}", Value::list(own.when.clone()).repr(), Value::list(own.tags.clone()).repr());
        Some(role_use)
    }

    /// Reads a role with its dependencies. Their tasks go to `items`, their handlers to the play's.
    pub(super) fn role(
        &mut self,
        role_use: RoleUse,
        scope: &Scope,
        parents: Vec<Arc<Role>>,
        items: &mut Vec<Item>,
    ) -> Option<Arc<Role>> {
        let (path, name, collection) = self.find_role(&role_use, scope, &parents)?;
        self.loader.libraries().add_project(&path);
        let mut scope = Scope {
            included_from: if scope.dynamic && scope.included_from.first() == Some(&role_use.origin) {
                scope.included_from.clone()
            } else {
                std::iter::once(&role_use.origin).chain(&scope.included_from).cloned().collect()
            },
            ..scope.clone()
        };
        let tasks_from = role_use.files.tasks.as_deref().unwrap_or("main");
        let key = path.join("tasks").join(tasks_from);
        if scope.open.contains(&key) {
            let mut names: Vec<String> = parents.iter().rev().map(|role| role.name.clone()).collect();
            names.push(name.clone());
            let error = Diagnostic::error(format!("the role `{name}` leads back to itself"))
                .at(Some(Arc::clone(&role_use.origin)));
            // The place itself is no part of the chain that led to it.
            let outer = Scope { included_from: scope.included_from.split_off(1), ..scope.clone() };
            self.tell(error.hint(names.join(" -> ")), &outer);
            return None;
        }
        scope.open.push(key);
        let mut metadata = self.metadata(&path, &scope);
        if let Some(collection) = collection {
            metadata.collections.insert(0, collection);
        }
        let mut role = Role {
            id: self.loader.next_id(),
            name,
            defaults: self.role_vars(
                &path,
                "defaults",
                role_use.files.defaults.as_deref(),
                &role_use,
                &scope,
            ),
            vars: self.role_vars(&path, "vars", role_use.files.vars.as_deref(), &role_use, &scope),
            entry_vars: Arc::clone(&role_use.entry_vars),
            params: Arc::clone(&role_use.params),
            parents,
            dependencies: Vec::new(),
            public: role_use.public,
            allow_duplicates: role_use.allow_duplicates.unwrap_or(metadata.allow_duplicates),
            dedup_key: dedup_key(&path, &role_use),
            collections: metadata.collections.clone(),
            path,
        };
        if scope.keywords.collections != role.collections {
            Arc::make_mut(&mut scope.keywords).collections.clone_from(&role.collections);
        }
        role.dependencies = self.dependencies(&role, &metadata, &role_use, &scope, items);
        let role = Arc::new(role);
        scope.role = Some(Arc::clone(&role));
        self.role_handlers(&role, &role_use, &scope);
        let block = self.role_tasks(&role, &metadata, &role_use, &scope);
        items.push(Item::Block(Arc::new(Block {
            id: self.loader.next_id(),
            name: None,
            origin: Arc::clone(&role_use.origin),
            block,
            rescue: Vec::new(),
            always: Vec::new(),
            role: Some(Arc::clone(&role)),
        })));
        self.roles.push(Arc::clone(&role));
        Some(role)
    }

    fn dependencies(
        &mut self,
        role: &Role,
        metadata: &Metadata,
        role_use: &RoleUse,
        scope: &Scope,
        items: &mut Vec<Item>,
    ) -> Vec<Arc<Role>> {
        let Some(node) = metadata.root().and_then(|root| root.get("dependencies")) else { return Vec::new() };
        if node.is_null() {
            return Vec::new();
        }
        let Some(entries) = node.as_list() else {
            let error = node.error(format!("`dependencies` is a list, but this is {}", node.kind_name()));
            self.tell(error, scope);
            return Vec::new();
        };
        let parents: Vec<Arc<Role>> =
            std::iter::once(Arc::new(role.clone())).chain(role.parents.iter().cloned()).collect();
        let mut out = Vec::new();
        for entry in entries {
            let mut scope = scope.clone();
            let Some(mut dependency) = self.role_entry(entry, &mut scope, true) else { continue };
            dependency.public = role_use.public;
            out.extend(self.role(dependency, &scope, parents.clone(), items));
        }
        out
    }

    fn role_tasks(
        &mut self,
        role: &Arc<Role>,
        metadata: &Metadata,
        role_use: &RoleUse,
        scope: &Scope,
    ) -> Vec<Item> {
        let scope = &Scope { handler: false, ..scope.clone() };
        let mut out = Vec::new();
        let entry_point = role_use.files.tasks.as_deref().unwrap_or("main");
        let entry_point = entry_point
            .strip_suffix(".yml")
            .or_else(|| entry_point.strip_suffix(".yaml"))
            .unwrap_or(entry_point);
        if role_use.validate
            && let Some(task) = self.validation(role, metadata, entry_point, scope)
        {
            out.push(Item::Task(Arc::new(task)));
        }
        let Some(file) = self.role_file(role, "tasks", role_use.files.tasks.as_deref(), role_use, scope)
        else {
            return out;
        };
        out.extend(self.task_file(&file, scope, None));
        out
    }

    fn role_handlers(&mut self, role: &Arc<Role>, role_use: &RoleUse, scope: &Scope) {
        let from = role_use.files.handlers.as_deref();
        let Some(file) = self.role_file(role, "handlers", from, role_use, scope) else { return };
        if self.roles.iter().any(|other| other.dedup_key == role.dedup_key) {
            // The same handlers again would only be notified twice.
            return;
        }
        let Some(parsed) = self.read(&file, scope) else { return };
        let scope = Scope { handler: true, file: Arc::new(file), ..scope.clone() };
        let mut handlers = std::mem::take(&mut self.handlers);
        self.handler_list(&parsed.root, &scope, &mut handlers);
        handlers.append(&mut self.handlers);
        self.handlers = handlers;
    }

    /// One of a role's main files, or the one that a `*_from` names (which must be there).
    fn role_file(
        &mut self,
        role: &Role,
        kind: &str,
        from: Option<&str>,
        role_use: &RoleUse,
        scope: &Scope,
    ) -> Option<PathBuf> {
        let found = file_in(&role.path.join(kind), from);
        if found.is_none()
            && let Some(from) = from
        {
            self.missing_from(&role.path, kind, from, role_use, scope);
        }
        found
    }

    fn missing_from(&mut self, path: &Path, kind: &str, from: &str, role_use: &RoleUse, scope: &Scope) {
        let dir = path.join(kind);
        let (message, hint) = if is_outside(&dir.join(from), &dir) {
            let message = format!("`{from}` is not inside the role `{}`", role_use.name);
            (message, format!("what a role is told to read must be below {}", dir.display()))
        } else {
            let message = format!("the role `{}` has no file `{kind}/{from}`", role_use.name);
            (message, format!("searched: {}", dir.join(from).display()))
        };
        let error = Diagnostic::error(message).at(Some(Arc::clone(&role_use.origin))).hint(hint);
        // The place itself is no part of the chain that led to it.
        let outer = Scope { included_from: scope.included_from[1..].to_vec(), ..scope.clone() };
        self.tell(error, &outer);
    }

    /// `defaults` or `vars`: a file, or a directory of files that are merged in order of their names.
    fn role_vars(
        &mut self,
        path: &Path,
        kind: &str,
        from: Option<&str>,
        role_use: &RoleUse,
        scope: &Scope,
    ) -> Arc<Map> {
        let dir = path.join(kind);
        let files = match file_in(&dir, from) {
            Some(file) => vec![file],
            None => {
                let sub = dir.join(from.unwrap_or("main"));
                if sub.is_dir() && !is_outside(&sub, &dir) {
                    vars_files_in(&sub)
                } else {
                    if let Some(from) = from {
                        self.missing_from(path, kind, from, role_use, scope);
                    }
                    return Arc::default();
                }
            }
        };
        let mut out = Map::new();
        for file in files {
            let Some(parsed) = self.read(&file, scope) else { continue };
            match parsed.root.to_value() {
                Value::Null => {}
                Value::Map(map) => out.extend(map.iter().map(|(key, value)| (key.clone(), value.clone()))),
                _ => {
                    let error = parsed.root.error(format!(
                        "the `{kind}` of a role are a mapping, but this is {}",
                        parsed.root.kind_name()
                    ));
                    self.tell(error, scope);
                }
            }
        }
        Arc::new(out)
    }

    fn metadata(&mut self, path: &Path, scope: &Scope) -> Metadata {
        let mut out = Metadata::default();
        let Some(file) = file_in(&path.join("meta"), None) else { return out };
        let Some(parsed) = self.read(&file, scope) else { return out };
        if parsed.root.is_null() {
            return out;
        }
        let Some(entries) = parsed.root.as_map() else {
            let error = parsed
                .root
                .error(format!("a role's metadata are a mapping, not {}", parsed.root.kind_name()));
            self.tell(error, scope);
            return out;
        };
        for (key, value) in entries {
            match key.as_str().unwrap_or_default() {
                "allow_duplicates" => {
                    out.allow_duplicates = value.to_value().to_bool().unwrap_or_default();
                }
                "collections" => {
                    out.collections = keywords::list(value).iter().map(Value::to_text).collect();
                }
                name if Container::RoleMetadata.takes(name) => {}
                _ => self.tell(Container::RoleMetadata.unknown(key), scope),
            }
        }
        out.file = Some((file, parsed));
        out
    }

    /// The task that checks a role's arguments, if the role specifies them.
    fn validation(
        &mut self,
        role: &Arc<Role>,
        metadata: &Metadata,
        entry_point: &str,
        scope: &Scope,
    ) -> Option<Task> {
        let meta = role.path.join("meta");
        let own = ["argument_specs.yml", "argument_specs.yaml", "argument_specs.json"]
            .iter()
            .map(|name| meta.join(name))
            .find(|path| path.is_file());
        let parsed = match &own {
            Some(file) => self.read(file, scope)?,
            None => Arc::clone(&metadata.file.as_ref()?.1),
        };
        let specs = parsed.root.get("argument_specs")?;
        let spec = specs.get(entry_point)?;
        let mut title = format!("Validating arguments against arg spec '{entry_point}'");
        if let Some(short) = spec.get("short_description").filter(|text| !text.is_null()) {
            title.push_str(&format!(" - {}", short.to_value().to_text()));
        }
        let options = spec.get("options").map(|options| options.to_value().untrusted());
        // A collection's role has its plain name here.
        let prefix = role.collections.first().map(|collection| format!("{collection}."));
        let name = prefix.and_then(|prefix| role.name.strip_prefix(prefix.as_str())).unwrap_or(&role.name);
        let context = map_of([
            ("type", Value::str("role")),
            ("name", Value::str(name)),
            ("argument_spec_name", Value::str(entry_point)),
            (
                "path",
                Value::str(
                    std::path::absolute(&role.path).unwrap_or_else(|_| role.path.clone()).to_string_lossy(),
                ),
            ),
        ]);
        let args = map_of([
            ("argument_spec", options.filter(|options| !options.is_null()).unwrap_or(Map::new().into())),
            ("provided_arguments", Value::Map(Arc::clone(&role.params))),
            ("validate_args_context", Value::map(context)),
        ]);
        let mut keywords = Arc::clone(&scope.keywords);
        Arc::make_mut(&mut keywords).tags.push(Value::str("always"));
        Some(Task {
            name: Some(Value::str(title)),
            args: Arc::new(args),
            keywords,
            implicit: true,
            ..self.blank_task("ansible.builtin.validate_argument_spec", &spec.origin, scope)
        })
    }

    /// A role's directory, its name and, if it is in one, its collection.
    fn find_role(
        &mut self,
        role_use: &RoleUse,
        scope: &Scope,
        parents: &[Arc<Role>],
    ) -> Option<(PathBuf, String, Option<String>)> {
        let name = role_use.name.as_str();
        let options = &self.loader.options;
        if collections::is_full_name(name)
            && let Some((dir, collection)) = collections::find_role(&options.collections_paths, name)
        {
            // `ns.coll.dir.role` lies deeper, but is called `ns.coll.role`.
            let short = name.rsplit('.').next().unwrap_or(name);
            return Some((dir, format!("{collection}.{short}"), Some(collection)));
        }
        if !name.contains('.') && !name.contains('/') {
            // A playbook or role that is itself in a collection finds that collection's roles.
            let own = collections::containing(&self.play_dir);
            for collection in own.iter().chain(&scope.keywords.collections) {
                let full = format!("{collection}.{name}");
                if let Some((dir, collection)) = collections::find_role(&options.collections_paths, &full) {
                    return Some((dir, full, Some(collection)));
                }
            }
        }
        let mut searched = vec![self.play_dir.join("roles")];
        searched.extend(options.roles_path.iter().cloned());
        if !role_use.from_include || !parents.is_empty() {
            searched.extend(parents.first().map(|parent| directory(&parent.path)));
        }
        searched.push(self.play_dir.clone());
        if let Some(dir) = searched.iter().map(|dir| normal(&dir.join(name))).find(|dir| dir.is_dir()) {
            return Some((dir, name.to_owned(), None));
        }
        let literal = match name.strip_prefix("~/") {
            Some(rest) => home().join(rest),
            None => PathBuf::from(name),
        };
        if literal.is_dir() {
            let short = literal.file_name().map(|short| short.to_string_lossy().into_owned());
            return Some((literal, short.unwrap_or_else(|| name.to_owned()), None));
        }
        let error = Diagnostic::error(format!("the role '{name}'{MISSING_ROLE}"))
            .at(Some(Arc::clone(&role_use.origin)))
            .hint(self.missing_role_hint(name, &searched));
        self.tell(error, scope);
        None
    }
}

impl Build<'_> {
    /// What to do about a role that is not there.
    fn missing_role_hint(&self, name: &str, searched: &[PathBuf]) -> String {
        let wanted = collections::required(&self.play_dir, &self.loader.options.vault);
        if let Some(file) = wanted.iter().find(|wanted| wanted.provides(name)).map(|wanted| &wanted.file) {
            return format!("{} asks for it: install what it lists with ansible-galaxy", file.display());
        }
        let paths = &self.loader.options.collections_paths;
        let mut parts = name.splitn(3, '.');
        if let (true, Some(namespace), Some(collection)) =
            (collections::is_full_name(name), parts.next(), parts.next())
        {
            let known = collections::find(paths, namespace, collection);
            let places: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
            return match known {
                Some(dir) => format!("the collection in {} has no such role", dir.display()),
                None => format!(
                    "the collection `{namespace}.{collection}` is not installed; searched: {}",
                    places.join(", ")
                ),
            };
        }
        let names: Vec<String> = searched.iter().flat_map(|dir| names_in(dir)).collect();
        let places: Vec<String> = searched.iter().map(|path| path.display().to_string()).collect();
        match did_you_mean(name, names.iter().map(String::as_str)) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("searched: {}", places.join(", ")),
        }
    }
}

/// How the message of a role that is not there ends.
pub(super) const MISSING_ROLE: &str = " was not found";

/// The names of the directories in a directory.
fn names_in(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Equal for uses of a role that run only once.
fn dedup_key(path: &Path, role_use: &RoleUse) -> String {
    let files = &role_use.files;
    format!(
        "{}|{}|{}|{}|{}|{:?}|{:?}|{:?}|{:?}|{}",
        role_use.name,
        path.display(),
        Value::Map(Arc::clone(&role_use.params)).repr(),
        Value::Map(Arc::clone(&role_use.entry_vars)).repr(),
        role_use.own_keywords,
        files.tasks,
        files.vars,
        files.defaults,
        files.handlers,
        role_use.from_include,
    )
}

/// A path without `.` and `x/..`, whether `x` is there or not.
pub(super) fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if matches!(out.components().next_back(), Some(Component::Normal(_))) => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    if out.as_os_str().is_empty() { PathBuf::from(".") } else { out }
}

/// `main.yml`, `.yaml`, `.json` or `main` in a directory; or what `from` names, with or without extension,
/// which can't be outside of it.
fn file_in(dir: &Path, from: Option<&str>) -> Option<PathBuf> {
    let candidates: Vec<String> = match from {
        None => ["main.yml", "main.yaml", "main.json", "main"].map(str::to_owned).to_vec(),
        Some(name) => ["", ".yml", ".yaml", ".json"].map(|extension| format!("{name}{extension}")).to_vec(),
    };
    candidates.iter().map(|name| dir.join(name)).find(|path| path.is_file() && !is_outside(path, dir))
}

/// Whether a path leads out of a directory, going by its words alone.
fn is_outside(path: &Path, dir: &Path) -> bool {
    !normal(path).starts_with(normal(dir))
}

/// All files of variables below a directory, sorted.
fn vars_files_in(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    paths.sort();
    let mut out = Vec::new();
    for path in paths {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with('.') || name.ends_with('~') {
            continue;
        }
        if path.is_dir() {
            out.extend(vars_files_in(&path));
        } else if !name.contains('.')
            || [".yml", ".yaml", ".json"].iter().any(|extension| name.ends_with(extension))
        {
            out.push(path);
        }
    }
    out
}
