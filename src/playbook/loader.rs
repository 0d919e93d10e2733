//! Loads playbooks: from files to the tree of [`crate::playbook`], with every error at its place.
//!
//! One [`Loader`] serves a run. It reads playbooks at the start and the files of dynamic includes while the
//! play runs; parsed files are kept, so an include in a loop costs its file once.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::diagnostic::{Diagnostic, Severity};
use crate::playbook::keywords::add_vars;
use crate::playbook::libraries::{self, InCollection, Libraries};
use crate::playbook::roles::{RoleFiles, RoleUse};
use crate::playbook::{Around, Item, Keywords, Play, Playbook, Role, Task, VarsKind, collections, keywords};
use crate::source::{self, Node, NodeValue, Parsed};
use crate::value::{Map, Origin, Text, Value, map_of};
use crate::vault::Vault;

/// What a playbook is loaded for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Purpose {
    /// To be run: what can't be done here is an error.
    #[default]
    Run,
    /// To be checked: what Ansible could do and we can't is a warning.
    Check,
    /// To be listed: the same, and arguments are not looked at.
    List,
}

/// What a loader needs to know.
#[derive(Clone, Debug)]
pub struct LoaderOptions {
    /// Directories in which roles are searched, after `roles/` beside the playbook.
    pub roles_path: Vec<PathBuf>,
    /// Directories that hold `ansible_collections/`.
    pub collections_paths: Vec<PathBuf>,
    /// Opens vaulted files.
    pub vault: Arc<Vault>,
    /// Directories that hold modules of the user's own, besides those of playbooks and roles.
    pub module_paths: Vec<PathBuf>,
    /// What is loaded is to be run, or only looked at.
    pub purpose: Purpose,
    /// Roles of static imports and of `roles:` keep their variables to themselves.
    pub private_role_vars: bool,
}

impl Default for LoaderOptions {
    fn default() -> LoaderOptions {
        LoaderOptions {
            roles_path: Vec::new(),
            collections_paths: Vec::new(),
            vault: Arc::new(Vault::default()),
            module_paths: Vec::new(),
            purpose: Purpose::Run,
            private_role_vars: false,
        }
    }
}

/// Renders a value with these variables and the extra variables.
pub type Render<'a> = dyn Fn(&Value, &Map) -> Result<Value, Diagnostic> + 'a;

/// What the caller lends to loading.
pub struct LoadContext<'a> {
    /// Renders names of imported files and roles: with the given variables, over them the extra variables.
    pub render: &'a Render<'a>,
}

/// Arguments of `include_role`, rendered.
#[derive(Clone, Debug)]
pub struct IncludeRole {
    /// `name` or `role`.
    pub name: String,
    /// `tasks_from`, without extension or with it.
    pub tasks_from: Option<String>,
    /// `vars_from`.
    pub vars_from: Option<String>,
    /// `defaults_from`.
    pub defaults_from: Option<String>,
    /// `handlers_from`.
    pub handlers_from: Option<String>,
    /// `public`: its variables are visible to the rest of the play.
    pub public: bool,
    /// `allow_duplicates`.
    pub allow_duplicates: bool,
    /// `apply`: keywords for the role's tasks.
    pub apply: Option<Value>,
    /// `rolespec_validate`: check the role's arguments against its specification.
    pub rolespec_validate: bool,
}

impl Default for IncludeRole {
    fn default() -> IncludeRole {
        IncludeRole {
            name: String::new(),
            tasks_from: None,
            vars_from: None,
            defaults_from: None,
            handlers_from: None,
            public: false,
            allow_duplicates: true,
            apply: None,
            rolespec_validate: true,
        }
    }
}

/// A role that was included while the play runs.
#[derive(Debug)]
pub struct IncludedRole {
    /// The role.
    pub role: Arc<Role>,
    /// Its tasks, those of its dependencies first.
    pub items: Vec<Item>,
    /// Its handlers, to be added to the play's.
    pub handlers: Vec<Arc<Task>>,
}

/// Reads playbooks, roles and task files.
#[derive(Debug)]
pub struct Loader {
    pub(super) options: LoaderOptions,
    ids: AtomicU64,
    files: Mutex<HashMap<PathBuf, Arc<Parsed>>>,
    libraries: Mutex<Libraries>,
}

/// Whether an error says that a role or a file of tasks is not there, rather than that it makes no sense.
pub fn is_missing(error: &Diagnostic) -> bool {
    is_missing_role(error) || error.message.starts_with("there is no file `")
}

/// Whether an error says that an argument's name is for internal use.
pub fn is_reserved_name(error: &Diagnostic) -> bool {
    error.message.ends_with(super::tasks::RESERVED_NAME)
}

/// Whether an error says that a role is not there.
pub fn is_missing_role(error: &Diagnostic) -> bool {
    error.message.ends_with(super::roles::MISSING_ROLE)
}

impl Loader {
    /// A loader with nothing read yet.
    pub fn new(options: LoaderOptions) -> Loader {
        let mut libraries = Libraries::default();
        for dir in &options.module_paths {
            libraries.add(dir);
        }
        Loader { options, ids: AtomicU64::new(1), files: Mutex::default(), libraries: Mutex::new(libraries) }
    }

    /// What is known of a module that is not among ours: that the project brings it along.
    pub fn own_module(&self, name: &str) -> Option<String> {
        let found = self.libraries().find(name).cloned().or_else(|| {
            match libraries::in_collection(&self.options.collections_paths, name) {
                InCollection::Has(module) => Some(module),
                _ => None,
            }
        });
        found.map(|module| module.refusal(name))
    }

    pub(super) fn libraries(&self) -> MutexGuard<'_, Libraries> {
        self.libraries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a playbook: its plays, with all that is imported. `path` is a file, or the full name of a
    /// collection's playbook.
    ///
    /// # Errors
    /// Everything that is wrong, at once; never empty.
    pub fn playbook(
        &self,
        path: &Path,
        ctx: &LoadContext<'_>,
    ) -> Result<(Playbook, Vec<Diagnostic>), Vec<Diagnostic>> {
        let mut build = Build::new(self, ctx);
        let in_collection = || collections::find_playbook(&self.options.collections_paths, path.to_str()?);
        let path = if path.is_file() { None } else { in_collection() }.unwrap_or_else(|| path.to_owned());
        let plays = build.playbook_file(&path);
        let warnings = build.finish()?;
        Ok((Playbook { path, plays }, warnings))
    }

    /// Reads the file of an `include_tasks` that is being carried out. `vars` are the include's variables as
    /// its tasks see them, `apply` the include's argument of that name.
    ///
    /// # Errors
    /// Everything that is wrong with the file, at once.
    pub fn include_tasks(
        &self,
        path: &Path,
        include: &Arc<Task>,
        vars: &Arc<Map>,
        apply: Option<&Value>,
        play: &Play,
        ctx: &LoadContext<'_>,
    ) -> Result<Vec<Item>, Vec<Diagnostic>> {
        let mut build = Build::for_play(self, ctx, play);
        let scope = build.include_scope(include, vars, apply);
        let items = build.task_file(path, &scope, None);
        build.finish()?;
        Ok(items)
    }

    /// Reads the role of an `include_role` that is being carried out. `vars` are the include's variables as
    /// the role sees them.
    ///
    /// # Errors
    /// Everything that is wrong with the role, at once.
    pub fn include_role(
        &self,
        args: &IncludeRole,
        include: &Arc<Task>,
        vars: &Arc<Map>,
        play: &Play,
        ctx: &LoadContext<'_>,
    ) -> Result<IncludedRole, Vec<Diagnostic>> {
        let mut build = Build::for_play(self, ctx, play);
        let scope = build.include_scope(include, vars, args.apply.as_ref());
        let role_use = RoleUse {
            name: args.name.clone(),
            origin: Arc::clone(&include.origin),
            files: RoleFiles {
                tasks: args.tasks_from.clone(),
                vars: args.vars_from.clone(),
                defaults: args.defaults_from.clone(),
                handlers: args.handlers_from.clone(),
            },
            entry_vars: Arc::clone(vars),
            params: Arc::default(),
            own_keywords: String::new(),
            public: args.public,
            allow_duplicates: Some(args.allow_duplicates),
            validate: args.rolespec_validate,
            from_include: true,
        };
        let mut items = Vec::new();
        let parents = include.role.iter().flat_map(role_chain).collect();
        let role = build.role(role_use, &scope, parents, &mut items);
        let handlers = std::mem::take(&mut build.handlers);
        build.finish()?;
        match role {
            Some(role) => Ok(IncludedRole { role, items, handlers }),
            None => Err(vec![Diagnostic::error(format!("the role `{}` can't be loaded", args.name))]),
        }
    }

    /// The file that the rendered argument of an `include_tasks` names.
    ///
    /// # Errors
    /// There is none; the message says where it was searched.
    pub fn find_include(&self, name: &str, include: &Task, play: &Play) -> Result<PathBuf, Diagnostic> {
        let place = Place {
            role: include.role.as_deref(),
            file: &include.file,
            included_from: &include.included_from,
            handler: include.handler,
            play_dir: &directory(&play.path),
        };
        find_task_file(name, &place).map_err(|error| error.at(Some(Arc::clone(&include.origin))))
    }

    /// One task, as it is given on the command line: the module's name and its arguments in one line (`k=v`
    /// text or a JSON object).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn task_from(
        &self,
        module: &str,
        args: &str,
        ctx: &LoadContext<'_>,
    ) -> Result<Task, Vec<Diagnostic>> {
        let mut build = Build::new(self, ctx);
        let task = build.command_line_task(module, args);
        build.finish()?;
        task.ok_or_else(|| vec![Diagnostic::error(format!("`{module}` can't be run"))])
    }

    /// A number that no other part of the run has.
    pub(super) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// A parsed file, from the cache if it was read before. Its warnings are told once.
    fn parsed(&self, path: &Path, warnings: &mut Vec<Diagnostic>) -> Result<Arc<Parsed>, Vec<Diagnostic>> {
        let cached = self.files.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned();
        if let Some(parsed) = cached {
            return Ok(parsed);
        }
        let parsed = Arc::new(source::load_file(path, &self.options.vault)?);
        warnings.extend(parsed.warnings.iter().cloned());
        self.files
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(path.to_owned(), Arc::clone(&parsed));
        Ok(parsed)
    }
}

/// A role and those that led to it, nearest first.
fn role_chain(role: &Arc<Role>) -> Vec<Arc<Role>> {
    std::iter::once(role).chain(&role.parents).cloned().collect()
}

/// Where the loader is while it reads: what is inherited, whose file it is, how it came there.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    /// Inherited keywords.
    pub(super) keywords: Arc<Keywords>,
    /// Inherited `notify`.
    pub(super) notify: Vec<Value>,
    /// The role whose file it is.
    pub(super) role: Option<Arc<Role>>,
    /// The file.
    pub(super) file: Arc<PathBuf>,
    /// How it came there, nearest first.
    pub(super) included_from: Vec<Arc<Origin>>,
    /// Tasks are handlers.
    pub(super) handler: bool,
    /// It is read while the play runs: nothing in it was sure to run.
    pub(super) dynamic: bool,
    /// It is inside of a block whose failures are rescued.
    pub(super) rescued: bool,
    /// It is inside of a block.
    pub(super) in_block: bool,
    /// Static imports that are open, outermost first: files, and roles with their task files.
    pub(super) open: Vec<PathBuf>,
}

impl Scope {
    pub(super) fn new(file: &Path) -> Scope {
        Scope {
            keywords: Arc::default(),
            notify: Vec::new(),
            role: None,
            file: Arc::new(file.to_owned()),
            included_from: Vec::new(),
            handler: false,
            dynamic: false,
            rescued: false,
            in_block: false,
            open: Vec::new(),
        }
    }

    /// Whether what is read here may turn out not to run, or may fail without harm, so that what is wrong
    /// with it may never matter.
    pub(super) fn is_conditional(&self) -> bool {
        self.dynamic || self.rescued || !self.keywords.when.is_empty()
    }
}

/// One reading: errors, warnings and what is gathered for the play.
pub(super) struct Build<'a> {
    pub(super) loader: &'a Loader,
    pub(super) ctx: &'a LoadContext<'a>,
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
    /// The directory of the playbook that holds the play.
    pub(super) play_dir: PathBuf,
    /// The play's `vars`, with those of the imports that led to it.
    pub(super) play_vars: Arc<Map>,
    /// Static roles, dependencies first.
    pub(super) roles: Vec<Arc<Role>>,
    /// Handlers of roles.
    pub(super) handlers: Vec<Arc<Task>>,
    /// Modules that can't be run here, in a playbook that is only looked at.
    unsupported: Vec<Unsupported>,
    /// Modules of ours that the project has its own of, each told once.
    shadowed: Vec<String>,
}

/// A module that can't be run here, and how often it is used.
struct Unsupported {
    name: String,
    /// What is wrong with it, where it was met first.
    first: Diagnostic,
    uses: usize,
    /// One of the uses is sure to run.
    sure: bool,
}

/// What becomes of a run that needs what can't be done.
const REFUSED: &str = "a run is refused for it before any host is touched";

impl Unsupported {
    fn warning(self) -> Diagnostic {
        let message = match self.uses {
            1 => self.first.message,
            uses => format!("{} ({uses} tasks)", self.first.message),
        };
        let hint = if self.sure { REFUSED } else { "a run fails where such a task is reached" };
        Diagnostic { severity: Severity::Warning, message, hint: Some(hint.into()), ..self.first }
    }
}

impl<'a> Build<'a> {
    fn new(loader: &'a Loader, ctx: &'a LoadContext<'a>) -> Build<'a> {
        Build {
            loader,
            ctx,
            errors: Vec::new(),
            warnings: Vec::new(),
            play_dir: PathBuf::from("."),
            play_vars: Arc::default(),
            roles: Vec::new(),
            handlers: Vec::new(),
            unsupported: Vec::new(),
            shadowed: Vec::new(),
        }
    }

    fn for_play(loader: &'a Loader, ctx: &'a LoadContext<'a>, play: &Play) -> Build<'a> {
        Build {
            play_dir: directory(&play.path),
            play_vars: Arc::clone(&play.vars),
            ..Build::new(loader, ctx)
        }
    }

    fn finish(mut self) -> Result<Vec<Diagnostic>, Vec<Diagnostic>> {
        self.warnings.extend(self.unsupported.into_iter().map(Unsupported::warning));
        if self.errors.is_empty() { Ok(self.warnings) } else { Err(self.errors) }
    }

    /// What is loaded is only looked at.
    pub(super) fn only_looks(&self) -> bool {
        self.loader.options.purpose != Purpose::Run
    }

    /// Notes that Ansible could do this and we can't: an error where it would be run, which is told if it is sure
    /// to be reached, and a warning where it is only looked at.
    pub(super) fn tell_unsupported(&mut self, name: &str, diagnostic: Diagnostic, sure: bool, scope: &Scope) {
        if !self.only_looks() {
            if sure {
                self.tell(diagnostic, scope);
            }
            return;
        }
        if let Some(known) = self.unsupported.iter_mut().find(|known| known.name == name) {
            known.uses += 1;
            known.sure |= sure;
            return;
        }
        let mut first = diagnostic;
        first.included_from.clone_from(&scope.included_from);
        self.unsupported.push(Unsupported { name: name.to_owned(), first, uses: 1, sure });
    }

    /// Notes what a run is refused for and Ansible only sees once it gets there: arguments that make no sense. A
    /// warning where nothing is to be run.
    pub(super) fn tell_refused(&mut self, mut diagnostic: Diagnostic, scope: &Scope) {
        if self.only_looks() {
            diagnostic.severity = Severity::Warning;
            diagnostic.hint.get_or_insert_with(|| REFUSED.into());
        }
        self.tell(diagnostic, scope);
    }

    /// Tells, once for each module, that one of ours runs and not the project's own.
    pub(super) fn tell_shadowed(&mut self, name: &str, diagnostic: Diagnostic, scope: &Scope) {
        if !self.shadowed.iter().any(|known| known == name) {
            self.shadowed.push(name.to_owned());
            self.tell(diagnostic, scope);
        }
    }

    /// Notes an error or a warning, with the chain that led to it.
    pub(super) fn tell(&mut self, mut diagnostic: Diagnostic, scope: &Scope) {
        if diagnostic.included_from.is_empty() {
            diagnostic.included_from.clone_from(&scope.included_from);
        }
        match diagnostic.severity {
            Severity::Error => self.errors.push(diagnostic),
            Severity::Warning => self.warnings.push(diagnostic),
        }
    }

    /// The document in a file; `None` if it can't be read, which is told.
    pub(super) fn read(&mut self, path: &Path, scope: &Scope) -> Option<Arc<Parsed>> {
        match self.loader.parsed(path, &mut self.warnings) {
            Ok(parsed) => Some(parsed),
            Err(errors) => {
                for error in errors {
                    self.tell(error, scope);
                }
                None
            }
        }
    }

    /// Text that may be a template, rendered with the play's and these variables; `None` if that fails.
    pub(super) fn render_text(&mut self, value: &Value, vars: &Map, scope: &Scope) -> Option<String> {
        let Value::Str(text) = value else { return Some(value.to_text()) };
        if !text.trusted || !keywords::is_template(&text.text) {
            return Some(text.text.to_string());
        }
        let mut all = Map::new();
        let mut add = |map: &Map| all.extend(map.iter().map(|(key, value)| (key.clone(), value.clone())));
        if let Some(role) = &scope.role {
            role.parents.iter().rev().chain([role]).for_each(|role| add(&role.defaults));
        }
        add(&self.play_vars);
        if let Some(role) = &scope.role {
            for role in role.parents.iter().rev().chain([role]) {
                add(&role.vars);
                add(&role.entry_vars);
            }
        }
        if let Some(role) = &scope.role {
            add(&role.params);
            add(&map_of([
                ("role_name", Value::str(role.name.as_str())),
                ("role_path", Value::str(absolute(&role.path).to_string_lossy().as_ref())),
            ]));
        }
        let dir = absolute(&self.play_dir);
        add(&map_of([("playbook_dir", Value::str(dir.to_string_lossy().as_ref()))]));
        for layer in &scope.keywords.vars {
            all.extend(layer.map.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        all.extend(vars.iter().map(|(key, value)| (key.clone(), value.clone())));
        match (self.ctx.render)(value, &all) {
            Ok(rendered) => Some(rendered.to_text()),
            Err(error) => {
                self.tell(
                    error.at(text.origin.clone()).hint(
                        "what is imported is settled before any host is known: only variables of the play \
                         and extra variables may be used; a dynamic include may use all",
                    ),
                    scope,
                );
                None
            }
        }
    }

    /// What the children of a dynamic include inherit.
    fn include_scope(&mut self, include: &Arc<Task>, vars: &Arc<Map>, apply: Option<&Value>) -> Scope {
        let around: Around = include.around.as_deref().cloned().unwrap_or_default();
        let mut scope = Scope {
            keywords: around.keywords,
            notify: around.notify,
            role: include.role.clone(),
            included_from: std::iter::once(&include.origin).chain(&include.included_from).cloned().collect(),
            handler: include.handler,
            dynamic: true,
            ..Scope::new(&include.file)
        };
        add_vars(&mut scope.keywords, VarsKind::Include, vars);
        if let Some(apply) = apply {
            self.apply(apply, &include.origin, &mut scope);
        }
        scope
    }

    /// Adds the keywords of an include's `apply`, as a block around what is included would.
    fn apply(&mut self, apply: &Value, origin: &Arc<Origin>, scope: &mut Scope) {
        let Some(map) = apply.as_map() else {
            let error = Diagnostic::error(format!("`apply` takes keywords, not {}", apply.type_name()));
            self.tell(error.at(Some(Arc::clone(origin))), scope);
            return;
        };
        for (key, value) in map {
            let (key, node) = (node_of(key, origin), node_of(value, origin));
            self.block_keyword(&key, &node, scope);
        }
    }

    /// The value as a mapping of variables with valid names; what is not is told.
    pub(super) fn vars(&mut self, node: &Node, scope: &Scope) -> Arc<Map> {
        let Some(entries) = node.as_map() else {
            if !node.is_null() {
                let error = node.error(format!("`vars` must be a mapping, but it is {}", node.kind_name()));
                self.tell(error, scope);
            }
            return Arc::default();
        };
        let mut map = Map::new();
        for (key, value) in entries {
            match key.as_str() {
                Some(name) if keywords::is_variable_name(name) => {
                    map.insert(key.to_value(), value.to_value());
                }
                _ => {
                    let name = key.to_value().to_text();
                    let error = key.error(format!("`{name}` can't be the name of a variable"));
                    self.tell(
                        error.hint("letters, digits and underscores, no digit first, and no word of Python"),
                        scope,
                    );
                }
            }
        }
        Arc::new(map)
    }
}

/// A node for a value that was read before.
pub(super) fn node_of(value: &Value, origin: &Arc<Origin>) -> Node {
    let own = value.origin().unwrap_or(origin);
    let content = match value {
        Value::List(items) => NodeValue::List(items.iter().map(|item| node_of(item, own)).collect()),
        Value::Map(map) => {
            NodeValue::Map(map.iter().map(|(key, value)| (node_of(key, own), node_of(value, own))).collect())
        }
        scalar => NodeValue::Scalar(scalar.clone()),
    };
    Node { value: content, origin: Arc::clone(own) }
}

/// The same text with other characters, at the same place and as trusted.
pub(super) fn text_like(text: &Text, characters: &str) -> Value {
    Value::Str(Text { text: Arc::from(characters), ..text.clone() })
}

/// The directory of a file; `.` if it has none.
pub(super) fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// A path from the root, without `.` and `..`; symbolic links stay.
pub(super) fn absolute(path: &Path) -> PathBuf {
    super::roles::normal(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))
}

/// From where a task file is searched.
pub(super) struct Place<'a> {
    pub(super) role: Option<&'a Role>,
    pub(super) file: &'a Path,
    pub(super) included_from: &'a [Arc<Origin>],
    pub(super) handler: bool,
    pub(super) play_dir: &'a Path,
}

/// The file that an import or include of tasks names: in a role, its tasks first, else the directory of the
/// including file and of those that included it.
pub(super) fn find_task_file(name: &str, place: &Place<'_>) -> Result<PathBuf, Diagnostic> {
    let candidates = task_file_candidates(name, place);
    if let Some(found) = candidates.iter().find(|candidate| candidate.is_file()) {
        return Ok(found.clone());
    }
    let mut searched: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
    searched.dedup();
    Err(Diagnostic::error(format!("there is no file `{name}` to include"))
        .hint(format!("searched: {}", searched.join(", "))))
}

fn task_file_candidates(name: &str, place: &Place<'_>) -> Vec<PathBuf> {
    if let Some(rest) = name.strip_prefix("~/") {
        return vec![home().join(rest)];
    }
    if name.starts_with('/') {
        return vec![PathBuf::from(name)];
    }
    let mut out = Vec::new();
    if let Some(role) = place.role {
        out.push(role.path.join(if place.handler { "handlers" } else { "tasks" }).join(name));
    }
    out.push(directory(place.file).join(name));
    out.extend(
        place.included_from.iter().map(|origin| directory(Path::new(origin.file.as_ref())).join(name)),
    );
    if let Some(role) = place.role {
        out.push(role.path.join("tasks").join(name));
        out.push(role.path.join(name));
    }
    out.push(place.play_dir.join(name));
    out
}

/// The user's home directory, as the environment names it.
pub(super) fn home() -> PathBuf {
    std::env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from)
}
