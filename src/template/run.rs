//! Runs compiled templates: where names come from, what is written, and the bounds on all of it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use indexmap::IndexMap;
use minijinja::machinery::{Instructions, eval, make_string_output};
use minijinja::value::{Object, ObjectRepr, Value as V};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State};

use super::error::{TemplateError, TemplateErrorKind};
use super::lexer::Syntax;
use super::object::{self, Py, R, check, is_marker, lift, lock, marker, none, py};
use super::parser::{MacroCode, Program};
use super::{SearchPath, Shared, ops, registry};
use crate::value::{Text, Value, Vars, VaultText};

/// Templates within templates (variables that refer to variables) may nest this deeply.
const MAX_DEPTH: u32 = 64;
/// Instructions that one template may execute: some seconds' worth (an unoptimised test has less patience).
const FUEL: u64 = if cfg!(test) { 3_000_000 } else { 50_000_000 };
/// Bytes that one template may produce.
pub(super) const MAX_OUTPUT: usize = 512 << 20;

/// Where a template's names come from and how it is to be read.
pub(super) struct Scope {
    pub(super) shared: Arc<Shared>,
    pub(super) vars: Arc<dyn Vars>,
    pub(super) search: Arc<SearchPath>,
    /// How files are read that this template includes.
    pub(super) syntax: Arc<Syntax>,
    /// Templates inside constants are rendered (conditions).
    pub(super) renders_constants: bool,
    /// Strings that could be templates keep that mark (conditions that name conditions).
    pub(super) keeps_trust: bool,
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scope")
    }
}

impl Scope {
    pub(super) fn with_vars(&self, vars: Arc<dyn Vars>) -> Scope {
        Scope {
            shared: self.shared.clone(),
            vars,
            search: self.search.clone(),
            syntax: self.syntax.clone(),
            renders_constants: self.renders_constants,
            keeps_trust: self.keeps_trust,
        }
    }

    /// What a vaulted string says. It is decrypted once.
    pub(super) fn decrypt(&self, vault: &Arc<VaultText>) -> R<Arc<str>> {
        if let Some(plain) = lock(&self.shared.vaulted).plain.get(&vault.envelope) {
            return Ok(plain.clone());
        }
        let plain: Arc<str> = (self.shared.options.vault)(vault)
            .map_err(|message| {
                let kind = TemplateErrorKind::Vault { envelope: vault.envelope.clone() };
                TemplateError::new(kind, message).located(vault.origin.as_ref())
            })?
            .into();
        self.remember(&plain, &vault.envelope);
        Ok(plain)
    }

    /// Keeps in mind from which envelope a text came.
    pub(super) fn remember(&self, plain: &Arc<str>, envelope: &Arc<str>) {
        let mut vaulted = lock(&self.shared.vaulted);
        vaulted.plain.insert(envelope.clone(), plain.clone());
        vaulted.envelopes.insert(plain.clone(), envelope.clone());
    }

    /// The envelope from which a text came that is marked as vaulted.
    pub(super) fn envelope(&self, plain: &str) -> Option<Arc<str>> {
        lock(&self.shared.vaulted).envelopes.get(plain).cloned()
    }

    /// The value of a variable, rendered; `None` if there is none.
    pub(super) fn variable(self: &Arc<Scope>, name: &str) -> R<Option<V>> {
        match self.vars.get(name) {
            Some(raw) => lift(&raw, self).map(Some),
            None => Ok(None),
        }
    }
}

/// What a template file defines at its top level, shared with its macros, blocks and importers.
#[derive(Default)]
pub(super) struct Module {
    pub(super) name: String,
    pub(super) exports: Mutex<IndexMap<String, V>>,
    /// Variables that were resolved: each is computed once per template.
    resolved: Mutex<HashMap<String, V>>,
}

impl Module {
    pub(super) fn named(name: impl Into<String>) -> Module {
        Module { name: name.into(), ..Module::default() }
    }
}

/// The bodies of a `{% block %}`, most derived first.
pub(super) type Blocks = Mutex<HashMap<String, Vec<Arc<Program>>>>;

/// One execution of a program.
pub(super) struct Frame {
    pub(super) scope: Arc<Scope>,
    pub(super) program: Arc<Program>,
    pub(super) module: Arc<Module>,
    pub(super) locals: HashMap<String, V>,
    pub(super) blocks: Arc<Blocks>,
    /// The block that is being written and which of its bodies.
    pub(super) block: Option<(String, usize)>,
    /// Imported without context: variables are not visible.
    pub(super) sealed: bool,
    /// The template that this one extends: its name and its text.
    pub(super) parent: Mutex<Option<(String, String)>>,
    /// It inherits: what it writes outside of blocks is dropped.
    pub(super) silent: AtomicBool,
    output: Mutex<Vec<Vec<V>>>,
    written: AtomicUsize,
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Frame")
    }
}

impl Frame {
    pub(super) fn new(scope: &Arc<Scope>, program: &Arc<Program>, module: &Arc<Module>) -> Frame {
        Frame {
            scope: scope.clone(),
            program: program.clone(),
            module: module.clone(),
            locals: HashMap::new(),
            blocks: Arc::new(Mutex::default()),
            block: None,
            sealed: false,
            parent: Mutex::new(None),
            silent: AtomicBool::new(false),
            output: Mutex::new(vec![Vec::new()]),
            written: AtomicUsize::new(0),
        }
    }

    fn resolve(&self, name: &str) -> R {
        if let Some(value) = self.locals.get(name) {
            return Ok(value.clone());
        }
        if let Some(value) = lock(&self.module.exports).get(name) {
            return Ok(value.clone());
        }
        if !self.sealed {
            if let Some(value) = lock(&self.module.resolved).get(name) {
                return Ok(value.clone());
            }
            if let Some(value) = self.scope.variable(name)? {
                lock(&self.module.resolved).insert(name.to_owned(), value.clone());
                return Ok(value);
            }
        }
        Ok(registry::global(name, &self.scope).unwrap_or_else(|| undefined(name)))
    }

    fn write(&self, value: &V) -> R<()> {
        if value.is_undefined() || self.silent.load(Ordering::Relaxed) && lock(&self.output).len() == 1 {
            return Ok(());
        }
        check(value)?;
        if value.is_none() {
            return Ok(());
        }
        if let Py::Str(text) = py(value) {
            let total = self.written.fetch_add(text.len(), Ordering::Relaxed) + text.len();
            if total > MAX_OUTPUT {
                return Err(TemplateError::limit("the template produces too much text"));
            }
        }
        if let Some(buffer) = lock(&self.output).last_mut() {
            buffer.push(object::snapshot(value));
        }
        Ok(())
    }

    pub(super) fn begin(&self) {
        lock(&self.output).push(Vec::new());
    }

    pub(super) fn end(&self) -> R {
        let nodes = lock(&self.output).pop().unwrap_or_default();
        concat(nodes)
    }
}

/// A variable that doesn't exist.
pub(super) fn undefined(name: &str) -> V {
    marker(TemplateError::undefined(name, format!("'{name}' is undefined")))
}

/// A failure as a value, unless it must surface.
pub(super) fn settle(result: R) -> R {
    match result {
        Err(error) if !error.is_final() => Ok(marker(error)),
        other => other,
    }
}

/// What written pieces amount to: one piece is itself, several are one text.
pub(super) fn concat(mut nodes: Vec<V>) -> R {
    match nodes.len() {
        0 => Ok(none()),
        1 => Ok(nodes.pop().unwrap_or_default()),
        _ => {
            let mut out = String::new();
            for node in &nodes {
                match py(node) {
                    Py::Str(text) => out.push_str(text),
                    Py::Omit => {}
                    // Containers are finished first: tuples are lists and `omit` is gone.
                    Py::List(_) | Py::Dict(_) => out.push_str(&object::lower(node)?.repr()),
                    _ => out.push_str(&ops::to_text(node)?),
                }
            }
            Ok(V::from(out))
        }
    }
}

/// The engine's view of a frame: a namespace.
struct Root(Arc<Frame>);

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Root")
    }
}

impl Object for Root {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, key: &V) -> Option<V> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<V> {
        Some(self.0.resolve(key).unwrap_or_else(|error| V::from(to_engine(error))))
    }
}

thread_local! {
    static FRAMES: RefCell<Vec<Arc<Frame>>> = const { RefCell::new(Vec::new()) };
    static ACTIVE: RefCell<Vec<(usize, usize)>> = const { RefCell::new(Vec::new()) };
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// The frame that is being executed on this thread.
pub(super) fn current() -> R<Arc<Frame>> {
    FRAMES
        .with(|frames| frames.borrow().last().cloned())
        .ok_or_else(|| TemplateError::runtime("there is no template being rendered"))
}

/// Our error inside the engine's.
pub(super) fn to_engine(error: TemplateError) -> Error {
    Error::new(ErrorKind::InvalidOperation, "").with_source(error)
}

/// The engine's error as ours, with the line that it noted.
fn from_engine(error: &Error) -> TemplateError {
    let line = error.line().and_then(|line| u32::try_from(line).ok()).unwrap_or(0);
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = source {
        if let Some(ours) = current.downcast_ref::<TemplateError>() {
            let mut ours = ours.clone();
            if ours.line == 0 && ours.origin.is_none() {
                ours.line = line;
            }
            return ours;
        }
        source = current.source();
    }
    let mut ours = if error.kind() == ErrorKind::OutOfFuel {
        TemplateError::limit("the template runs too long")
    } else {
        TemplateError::runtime(error.detail().map_or_else(|| error.to_string(), ToOwned::to_owned))
    };
    ours.line = line;
    ours
}

struct Depth;

impl Depth {
    fn enter() -> R<Depth> {
        let depth = DEPTH.get();
        if depth >= MAX_DEPTH {
            return Err(TemplateError::new(
                TemplateErrorKind::Recursion,
                "Recursive loop detected in template: templates are nested too deeply",
            ));
        }
        DEPTH.set(depth + 1);
        Ok(Depth)
    }
}

impl Drop for Depth {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

static ENGINE: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut engine = Environment::empty();
    engine.set_fuel(Some(FUEL));
    engine.set_formatter(|_, _, value| current().and_then(|frame| frame.write(value)).map_err(to_engine));
    registry::install(&mut engine);
    engine
});

static NO_BLOCKS: BTreeMap<&'static str, Instructions<'static>> = BTreeMap::new();

/// Executes a frame's program and yields its value.
pub(super) fn execute(frame: &Arc<Frame>) -> R {
    let _depth = Depth::enter()?;
    FRAMES.with(|frames| frames.borrow_mut().push(frame.clone()));
    let mut sink = String::new();
    let result = object::tripping(false, || {
        let mut out = make_string_output(&mut sink);
        let root = V::from_object(Root(frame.clone()));
        let code = &frame.program.code;
        eval(&ENGINE, code, root, &NO_BLOCKS, &mut out, AutoEscape::None)
            .map(|(value, _)| value)
            .map_err(|error| from_engine(&error))
    });
    FRAMES.with(|frames| frames.borrow_mut().pop());
    let value = result?;
    if frame.program.is_expression {
        return Ok(value.unwrap_or_default());
    }
    frame.end()
}

/// Executes a whole template with the templates that it extends.
pub(super) fn execute_template(frame: Frame) -> R {
    let mut frame = Arc::new(frame);
    add_blocks(&frame.blocks, &frame.program);
    let mut seen = vec![frame.module.name.clone()];
    loop {
        let value = execute(&frame)?;
        let Some((name, source)) = lock(&frame.parent).take() else { return Ok(value) };
        if seen.contains(&name) {
            return Err(TemplateError::runtime(format!("cycle in template inheritance: {name}")));
        }
        seen.push(name);
        let program = frame.scope.shared.compile_file(&source, &frame.scope.syntax)?;
        add_blocks(&frame.blocks, &program);
        let mut next = Frame::new(&frame.scope, &program, &frame.module);
        next.blocks = frame.blocks.clone();
        next.locals.clone_from(&frame.locals);
        next.sealed = frame.sealed;
        frame = Arc::new(next);
    }
}

fn add_blocks(blocks: &Blocks, program: &Program) {
    let mut blocks = lock(blocks);
    for (name, body) in &program.blocks {
        blocks.entry(name.clone()).or_default().push(body.clone());
    }
}

/// Renders a string value that is a template.
pub(super) fn render_text(text: &Text, scope: &Arc<Scope>) -> R {
    let active =
        (Arc::as_ptr(&text.text).cast::<u8>() as usize, Arc::as_ptr(&scope.vars).cast::<u8>() as usize);
    if ACTIVE.with(|list| list.borrow().contains(&active)) {
        let error = TemplateError::new(
            TemplateErrorKind::Recursion,
            format!("Recursive loop detected in template: {}", text.text.trim()),
        );
        return Err(error.located(text.origin.as_ref()));
    }
    ACTIVE.with(|list| list.borrow_mut().push(active));
    let result = object::tripping(false, || render_active(&text.text, scope));
    ACTIVE.with(|list| list.borrow_mut().pop());
    match result {
        Ok(value) => Ok(match value.downcast_object_ref::<object::Marker>() {
            Some(found) if found.0.origin.is_none() => marker(found.0.clone().located(text.origin.as_ref())),
            _ => value,
        }),
        Err(error) if error.kind == TemplateErrorKind::Recursion => Err(error
            .located(text.origin.as_ref())
            .context(format!("while rendering {:?}", text.text.trim()))),
        Err(error) => Err(error.located(text.origin.as_ref())),
    }
}

fn render_active(source: &str, scope: &Arc<Scope>) -> R {
    let program = scope.shared.compile_text(source)?;
    let value = match &program.lone_name {
        Some(name) => {
            let _depth = Depth::enter()?;
            match scope.variable(name)? {
                Some(value) => value,
                None => registry::global(name, scope).unwrap_or_else(|| undefined(name)),
            }
        }
        None => execute_template(Frame::new(scope, &program, &Arc::new(Module::default())))?,
    };
    Ok(keep_newlines(source, value, "\n"))
}

/// Puts back the newlines at the end of the source that reading it took away.
pub(super) fn keep_newlines(source: &str, value: V, newline: &str) -> V {
    if !source.ends_with('\n') {
        return value;
    }
    let count = |text: &str| text.len() - text.trim_end_matches('\n').len();
    match py(&value) {
        Py::Str(text) => {
            let missing = count(source).saturating_sub(count(text));
            if missing == 0 { value } else { V::from(format!("{text}{}", newline.repeat(missing))) }
        }
        _ => value,
    }
}

/// Evaluates a bare expression.
pub(super) fn evaluate(source: &str, literal_backslashes: bool, scope: &Arc<Scope>) -> R {
    let program = scope.shared.compile_expression(source, literal_backslashes)?;
    let value = match &program.lone_name {
        Some(name) => match scope.variable(name)? {
            Some(value) => value,
            None => registry::global(name, scope).unwrap_or_else(|| undefined(name)),
        },
        None => execute(&Arc::new(Frame::new(scope, &program, &Arc::new(Module::default()))))?,
    };
    check(&value)?;
    Ok(value)
}

/// The variables of the engine's scopes, for macros, includes and imports that may see them.
pub(super) fn visible_locals(state: &State<'_, '_>) -> HashMap<String, V> {
    let mut out: HashMap<String, V> = state
        .known_variables()
        .into_iter()
        .filter(|name| !name.starts_with("__"))
        .filter_map(|name| state.lookup(&name).map(|value| (name.into_owned(), value)))
        .collect();
    if let Ok(frame) = current() {
        for (name, value) in &frame.locals {
            out.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
    out
}

/// A macro with the scope it was defined in.
pub(super) struct MacroObject {
    pub(super) code: Arc<MacroCode>,
    scope: Arc<Scope>,
    module: Arc<Module>,
    blocks: Arc<Blocks>,
    sealed: bool,
    locals: HashMap<String, V>,
}

impl fmt::Debug for MacroObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<macro {}>", self.code.name)
    }
}

impl Object for MacroObject {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

impl MacroObject {
    pub(super) fn define(state: &State<'_, '_>, number: usize) -> R<MacroObject> {
        let frame = current()?;
        let code = frame
            .program
            .macros
            .get(number)
            .cloned()
            .ok_or_else(|| TemplateError::runtime("the macro is not part of this template"))?;
        let locals = if code.nested { visible_locals(state) } else { HashMap::new() };
        Ok(MacroObject {
            code,
            scope: frame.scope.clone(),
            module: frame.module.clone(),
            blocks: frame.blocks.clone(),
            sealed: frame.sealed,
            locals,
        })
    }

    pub(super) fn call(&self, args: Vec<V>, named: Vec<(String, V)>) -> R {
        let code = &self.code;
        let mut locals = self.locals.clone();
        let mut args = args.into_iter();
        let mut extra: IndexMap<Value, V> = IndexMap::new();
        let mut by_name: HashMap<String, V> = HashMap::new();
        for (name, value) in named {
            if code.params.contains(&name.as_str()) || name == "caller" {
                by_name.insert(name, value);
            } else {
                extra.insert(Value::str(name), value);
            }
        }
        let caller = if code.params.contains(&"caller") { None } else { by_name.remove("caller") };
        let first_default = code.params.len() - code.defaults;
        for (index, param) in code.params.iter().enumerate() {
            let value = match args.next() {
                Some(value) => value,
                None => match by_name.remove(*param) {
                    Some(value) => value,
                    None if index >= first_default => V::UNDEFINED,
                    None => marker(TemplateError::undefined(
                        *param,
                        format!("parameter '{param}' was not provided"),
                    )),
                },
            };
            locals.insert((*param).to_owned(), value);
        }
        let rest: Vec<V> = args.collect();
        if code.uses_varargs {
            locals.insert("varargs".into(), object::tuple(rest));
        } else if !rest.is_empty() {
            return Err(TemplateError::runtime(format!(
                "macro '{}' takes not more than {} argument(s)",
                code.name,
                code.params.len()
            )));
        }
        if code.uses_kwargs {
            locals.insert("kwargs".into(), object::dict(extra));
        } else if let Some(name) = extra.keys().next() {
            return Err(TemplateError::runtime(format!(
                "macro '{}' takes no keyword argument '{}'",
                code.name,
                name.to_text()
            )));
        }
        match caller {
            Some(caller) if code.uses_caller => {
                locals.insert("caller".into(), caller);
            }
            Some(_) => {
                return Err(TemplateError::runtime(format!(
                    "macro '{}' was invoked with two values for the special caller argument or does not use it",
                    code.name
                )));
            }
            None if code.uses_caller && !code.params.contains(&"caller") => {
                let missing = TemplateError::undefined("caller", "No caller defined");
                locals.insert("caller".into(), marker(missing));
            }
            None => {}
        }
        let mut frame = Frame::new(&self.scope, &code.body, &self.module);
        frame.locals = locals;
        frame.blocks = self.blocks.clone();
        frame.sealed = self.sealed;
        let value = execute(&Arc::new(frame))?;
        // A macro that writes nothing yields an empty text.
        Ok(if value.is_none() { V::from("") } else { value })
    }
}

/// An imported template: its macros and top-level variables.
pub(super) struct ModuleObject {
    pub(super) module: Arc<Module>,
    pub(super) text: V,
}

impl fmt::Debug for ModuleObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<TemplateModule '{}'>", self.module.name)
    }
}

impl Object for ModuleObject {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

fn load(name: &V, frame: &Frame) -> R<Option<(String, String)>> {
    check(name)?;
    let names: Vec<V> = match py(name) {
        Py::List(items) => items.to_vec()?,
        _ => vec![name.clone()],
    };
    for name in names {
        let Some(name) = name.as_str() else {
            return Err(TemplateError::runtime("the name of a template must be a string"));
        };
        if let Some(source) = frame.scope.search.load_template(name)? {
            return Ok(Some((name.to_owned(), source)));
        }
    }
    Ok(None)
}

fn not_found(name: &V) -> TemplateError {
    let name = ops::to_text(name).unwrap_or_default();
    TemplateError::runtime(format!("template not found: {name}"))
}

pub(super) fn include(state: &State<'_, '_>, name: &V, ignore_missing: bool, with_context: bool) -> R {
    let frame = current()?;
    let Some((name, source)) = load(name, &frame)? else {
        return if ignore_missing { Ok(V::UNDEFINED) } else { Err(not_found(name)) };
    };
    let program = frame.scope.shared.compile_file(&source, &frame.scope.syntax)?;
    let module = Module { name: name.clone(), ..Module::default() };
    if with_context {
        *lock(&module.exports) = lock(&frame.module.exports).clone();
    }
    let mut inner = Frame::new(&frame.scope, &program, &Arc::new(module));
    inner.sealed = !with_context;
    if with_context {
        inner.locals = visible_locals(state);
        inner.locals.remove("loop");
    }
    let value = execute_template(inner).map_err(|error| error.context(format!("in {name}")))?;
    frame.write(&value)?;
    Ok(V::UNDEFINED)
}

pub(super) fn import(state: &State<'_, '_>, name: &V, with_context: bool) -> R {
    let frame = current()?;
    let Some((name, source)) = load(name, &frame)? else { return Err(not_found(name)) };
    let program = frame.scope.shared.compile_file(&source, &frame.scope.syntax)?;
    let module = Arc::new(Module { name: name.clone(), ..Module::default() });
    let mut inner = Frame::new(&frame.scope, &program, &module);
    inner.sealed = !with_context;
    if with_context {
        // What the macros of the imported template are to see, also when they are called later.
        let mut context = if frame.sealed { HashMap::new() } else { lock(&frame.module.resolved).clone() };
        context.extend(lock(&frame.module.exports).iter().map(|(name, value)| (name.clone(), value.clone())));
        context.extend(visible_locals(state));
        *lock(&module.resolved) = context;
    }
    let text = execute_template(inner).map_err(|error| error.context(format!("in {name}")))?;
    Ok(V::from_object(ModuleObject { module, text }))
}

pub(super) fn extends(name: &V) -> R {
    let frame = current()?;
    if lock(&frame.parent).is_some() {
        return Err(TemplateError::runtime("extended multiple times"));
    }
    let Some(found) = load(name, &frame)? else { return Err(not_found(name)) };
    *lock(&frame.parent) = Some(found);
    frame.silent.store(true, Ordering::Relaxed);
    Ok(V::UNDEFINED)
}

fn run_block(name: &str, index: usize, locals: HashMap<String, V>) -> R<Option<V>> {
    let frame = current()?;
    let Some(body) = lock(&frame.blocks).get(name).and_then(|bodies| bodies.get(index)).cloned() else {
        return Ok(None);
    };
    let mut inner = Frame::new(&frame.scope, &body, &frame.module);
    inner.blocks = frame.blocks.clone();
    inner.block = Some((name.to_owned(), index));
    inner.locals = locals;
    inner.sealed = frame.sealed;
    execute(&Arc::new(inner)).map(Some)
}

pub(super) fn block(state: &State<'_, '_>, name: &str, scoped: bool) -> R {
    let frame = current()?;
    if frame.silent.load(Ordering::Relaxed) {
        return Ok(V::UNDEFINED);
    }
    let locals = if scoped { visible_locals(state) } else { frame.locals.clone() };
    if let Some(value) = run_block(name, 0, locals)? {
        frame.write(&value)?;
    }
    Ok(V::UNDEFINED)
}

pub(super) fn super_block(state: &State<'_, '_>) -> R {
    let frame = current()?;
    let Some((name, index)) = frame.block.clone() else {
        return Err(TemplateError::runtime("super() is used outside of a block"));
    };
    run_block(&name, index + 1, visible_locals(state))?
        .map(|value| if value.is_none() { V::from("") } else { value })
        .ok_or_else(|| {
            TemplateError::undefined("super", format!("there is no parent block called '{name}'."))
        })
}

pub(super) fn self_block(name: &str) -> R {
    let frame = current()?;
    run_block(name, 0, frame.locals.clone())?
        .map(|value| if value.is_none() { V::from("") } else { value })
        .ok_or_else(|| TemplateError::undefined(name, format!("there is no block called '{name}'")))
}

/// The parts of an assignment to several names.
pub(super) fn unpack(value: &V, count: usize) -> R<Vec<V>> {
    let items = object::iterate(value).map_err(|error| {
        if is_marker(value) {
            error
        } else {
            TemplateError::runtime(format!("cannot unpack non-iterable {} object", object::type_name(value)))
        }
    })?;
    if items.len() > count {
        return Err(TemplateError::runtime(format!("too many values to unpack (expected {count})")));
    }
    if items.len() < count {
        return Err(TemplateError::runtime(format!(
            "not enough values to unpack (expected {count}, got {})",
            items.len()
        )));
    }
    Ok(items)
}

/// An item of an unpacking loop in the shape that the engine takes apart.
pub(super) fn shaped(value: &V, shape: &V) -> R {
    let Ok(parts) = shape.try_iter() else { return Ok(value.clone()) };
    let parts: Vec<V> = parts.collect();
    let items = unpack(value, parts.len())?;
    let shaped = items
        .iter()
        .zip(&parts)
        .map(|(item, part)| if part.is_none() { Ok(item.clone()) } else { shaped(item, part) })
        .collect::<R<Vec<V>>>()?;
    Ok(V::from(shaped))
}

/// A template inside a constant: rendered in conditions; elsewhere marked, so that lookups render it.
pub(super) fn embedded(text: &V) -> R {
    let frame = current()?;
    let source = text.as_str().unwrap_or_default();
    if frame.scope.renders_constants {
        let text = Text { text: source.into(), trusted: true, vaulted: false, origin: None };
        return settle(render_text(&text, &frame.scope));
    }
    Ok(V::from_safe_string(source.to_owned()))
}
