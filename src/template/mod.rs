//! Templates: Jinja2's language with Ansible's rules, on values of ours.
//!
//! The parser translates a template into the engine's (minijinja's) syntax tree, where every operator,
//! attribute, literal, filter and macro is a call of one of our functions; the engine compiles that and runs
//! it. Variables are rendered when they are touched, containers item by item; a failure is a value until
//! somebody uses it, so that `default` works on any chain. Nothing outside of this folder names the engine.

#[cfg(test)]
mod corpus;
mod error;
mod filters;
mod format;
mod lexer;
mod lookups;
mod methods;
mod object;
mod ops;
mod parser;
mod registry;
mod run;
mod special;
mod tests;
mod time;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};

pub use error::{TemplateError, TemplateErrorKind};
pub use lexer::Syntax;

use crate::value::{Lazy, Map, Origin, Value, Vars, VaultText};
use object::{Py, R, py};
use parser::Program;
use run::{Frame, Module, Scope};

/// Decrypts a vaulted value, or says why it can't.
pub type Decrypt = Arc<dyn Fn(&VaultText) -> Result<String, String> + Send + Sync>;

/// What some lookups ask the run for.
pub trait Services: Send + Sync {
    /// The hosts that a pattern names.
    fn inventory_hostnames(&self, pattern: &str) -> Result<Vec<String>, String>;
    /// A configuration setting; `Ok(None)` if there is no such setting.
    fn config(&self, name: &str) -> Result<Option<Value>, String>;
}

/// Settings of all templates of a run.
#[derive(Clone)]
pub struct Options {
    /// Decrypts vaulted values.
    pub vault: Decrypt,
    /// Conditions may be of any type and count as true or false.
    pub allow_broken_conditionals: bool,
    /// What lookups ask the run for.
    pub services: Option<Arc<dyn Services>>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            vault: Arc::new(|_| Err("Attempting to decrypt but no vault secrets found".into())),
            allow_broken_conditionals: false,
            services: None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("allow_broken_conditionals", &self.allow_broken_conditionals).finish()
    }
}

/// What a template sees: variables, raw, and where its files are.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The variables.
    pub vars: &'a Arc<dyn Vars>,
    /// Where files are looked for.
    pub search: &'a Arc<SearchPath>,
}

/// `strftime` of a moment in seconds since 1970, in the time zone of this machine.
///
/// # Errors
/// A moment that is out of range, a format that can't be read.
pub fn local_time(format: &str, seconds: i64) -> Result<String, TemplateError> {
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are small")]
    time::strftime(format, &time::from_seconds(seconds as f64, false)?)
}

/// The folders in which `files/`, `templates/`, `vars/` and plain names are looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SearchPath {
    /// The playbook's folder, tried last.
    pub playbook_dir: PathBuf,
    /// Role folders (the current role first, then its parents), then the folder of the task file.
    pub dirs: Vec<PathBuf>,
    /// What relative paths given by the user (not by a playbook) are relative to.
    pub cwd: PathBuf,
}

/// A file that is in none of the places where it may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileNotFound {
    /// The name that was asked for.
    pub name: String,
    /// Where we looked, in order.
    pub tried: Vec<PathBuf>,
}

impl fmt::Display for FileNotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Could not find or access '{}'{}", self.name, self.searched())
    }
}

impl FileNotFound {
    /// Where we looked, one place a line, as the end of a message.
    pub fn searched(&self) -> String {
        let places: String = self.tried.iter().map(|path| format!("\n\t{}", path.display())).collect();
        if places.is_empty() { places } else { format!("\nSearched in:{places}") }
    }
}

impl std::error::Error for FileNotFound {}

impl SearchPath {
    /// The places where a file of a kind (`files`, `templates`, `vars`…) may be, in order.
    pub fn candidates(&self, kind: &str, name: &str) -> Vec<PathBuf> {
        let name = match name.strip_prefix("~/") {
            Some(rest) => std::env::home_dir().map_or_else(|| PathBuf::from(name), |home| home.join(rest)),
            None => PathBuf::from(name),
        };
        if name.is_absolute() {
            return vec![name];
        }
        let has_kind = !kind.is_empty() && name.starts_with(kind);
        let mut out = Vec::new();
        for dir in self.dirs.iter().chain(std::iter::once(&self.playbook_dir)) {
            let mut add = |path: PathBuf| {
                if !out.contains(&path) {
                    out.push(path);
                }
            };
            if !kind.is_empty() && !has_kind {
                add(dir.join(kind).join(&name));
            }
            add(dir.join(&name));
        }
        out
    }

    /// Finds a file or folder.
    pub fn find(&self, kind: &str, name: &str) -> Result<PathBuf, FileNotFound> {
        let tried = self.candidates(kind, name);
        match tried.iter().find(|path| path.exists()) {
            Some(found) => Ok(found.clone()),
            None => Err(FileNotFound { name: name.to_owned(), tried }),
        }
    }

    /// The text of a template that another one includes.
    fn load_template(&self, name: &str) -> R<Option<String>> {
        let Some(path) = self.candidates("templates", name).into_iter().find(|path| path.is_file()) else {
            return Ok(None);
        };
        std::fs::read_to_string(&path)
            .map(Some)
            .map_err(|error| TemplateError::runtime(format!("can't read {}: {error}", path.display())))
    }
}

/// How a template file is read; from the module's arguments.
#[derive(Clone, Debug, Default)]
pub struct FileOptions {
    /// Delimiters and whitespace.
    pub syntax: Syntax,
}

struct Shared {
    options: Options,
    texts: RwLock<HashMap<String, Arc<Program>>>,
    expressions: RwLock<HashMap<(bool, String), Arc<Program>>>,
    files: RwLock<HashMap<(Syntax, String), Arc<Program>>>,
    vaulted: Mutex<Vaulted>,
}

/// What was decrypted, both ways round.
#[derive(Default)]
struct Vaulted {
    /// What an envelope holds.
    plain: HashMap<Arc<str>, Arc<str>>,
    /// The envelope from which a text came.
    envelopes: HashMap<Arc<str>, Arc<str>>,
}

/// How many compiled templates are kept of each sort; generated ones must not fill the memory.
const CACHE_SIZE: usize = 20_000;

fn cached<K: std::hash::Hash + Eq + Clone>(
    cache: &RwLock<HashMap<K, Arc<Program>>>,
    key: &K,
    compile: impl FnOnce() -> R<Program>,
) -> R<Arc<Program>> {
    if let Ok(cache) = cache.read()
        && let Some(program) = cache.get(key)
    {
        return Ok(program.clone());
    }
    let program = Arc::new(compile()?);
    if let Ok(mut cache) = cache.write() {
        if cache.len() >= CACHE_SIZE {
            cache.clear();
        }
        cache.insert(key.clone(), program.clone());
    }
    Ok(program)
}

impl Shared {
    /// Compiles a string value.
    fn compile_text(&self, source: &str) -> R<Arc<Program>> {
        if let Ok(cache) = self.texts.read()
            && let Some(program) = cache.get(source)
        {
            return Ok(program.clone());
        }
        cached(&self.texts, &source.to_owned(), || {
            let base = Syntax { literal_backslashes: true, ..Syntax::default() };
            let (syntax, body) = header(source, &base)?;
            parser::template(body, &syntax, &registry::Known)
        })
    }

    fn compile_expression(&self, source: &str, literal_backslashes: bool) -> R<Arc<Program>> {
        cached(&self.expressions, &(literal_backslashes, source.to_owned()), || {
            parser::expression(source, literal_backslashes, &registry::Known)
        })
    }

    /// Compiles a template file whose header has been taken off.
    fn compile_file(&self, source: &str, syntax: &Syntax) -> R<Arc<Program>> {
        cached(&self.files, &(syntax.clone(), source.to_owned()), || {
            parser::template(source, syntax, &registry::Known)
        })
    }
}

const HEADER: &str = "#jinja2:";

/// Takes a `#jinja2: option: value, …` line off a template.
fn header<'s>(source: &'s str, base: &Syntax) -> R<(Syntax, &'s str)> {
    let mut syntax = base.clone();
    let Some(rest) = source.strip_prefix(HEADER) else { return Ok((syntax, source)) };
    let wrong = |message: String| TemplateError::syntax(message, 1);
    let Some((line, body)) = rest.split_once('\n') else {
        return Err(wrong("Missing newline after '#jinja2:' override.".into()));
    };
    for pair in line.split(',') {
        if pair.trim().is_empty() {
            return Err(wrong("Empty '#jinja2:' override pair not allowed.".into()));
        }
        let Some((key, value)) = pair.split_once(':') else {
            return Err(wrong(format!(
                "Missing key-value separator `:` in '#jinja2:' override pair '{pair}'."
            )));
        };
        let value = value.trim();
        let text = || -> R<String> {
            let inner = value
                .strip_prefix(['\'', '"'])
                .and_then(|inner| inner.strip_suffix(['\'', '"']))
                .ok_or_else(|| wrong(format!("'#jinja2:' override value {value} must be a quoted string")))?;
            Ok(inner.replace("\\n", "\n").replace("\\r", "\r"))
        };
        let flag = || match value {
            "True" | "true" => Ok(true),
            "False" | "false" => Ok(false),
            _ => Err(wrong(format!("'#jinja2:' override value {value} must be True or False"))),
        };
        match key.trim() {
            "block_start_string" => syntax.block_start = text()?,
            "block_end_string" => syntax.block_end = text()?,
            "variable_start_string" => syntax.variable_start = text()?,
            "variable_end_string" => syntax.variable_end = text()?,
            "comment_start_string" => syntax.comment_start = text()?,
            "comment_end_string" => syntax.comment_end = text()?,
            "newline_sequence" => syntax.newline_sequence = text()?,
            "trim_blocks" => syntax.trim_blocks = flag()?,
            "lstrip_blocks" => syntax.lstrip_blocks = flag()?,
            "keep_trailing_newline" => syntax.keep_trailing_newline = flag()?,
            "line_statement_prefix" if value != "None" => syntax.line_statement = text()?,
            other @ ("line_statement_prefix" | "line_comment_prefix") => {
                if value != "None" {
                    return Err(wrong(format!("'#jinja2:' override '{other}' is not supported")));
                }
            }
            other => return Err(wrong(format!("Invalid '#jinja2:' override key '{other}'."))),
        }
    }
    Ok((syntax, body))
}

/// Whether a string has something that only a template has.
fn looks_like_template(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(found) = bytes[at..].iter().position(|byte| *byte == b'{') {
        at += found;
        if matches!(bytes.get(at + 1), Some(b'{' | b'%' | b'#')) {
            return true;
        }
        at += 1;
    }
    text.starts_with(HEADER)
}

/// All variables as a mapping: `vars['name']`.
#[derive(Debug)]
struct AllVars(Arc<dyn Vars>);

impl Lazy for AllVars {
    fn get(&self, key: &str) -> Option<Value> {
        self.0.get(key)
    }

    fn keys(&self) -> Vec<Arc<str>> {
        self.0.names()
    }
}

/// The name that looks most like `name`.
fn closest<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Option<String> {
    let limit = (name.chars().count() / 3).max(1);
    names
        .map(|known| (distance(name, known), known))
        .filter(|(distance, known)| *distance <= limit && *known != name)
        .min()
        .map(|(_, known)| format!("did you mean '{known}'?"))
}

fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let next = (diagonal + usize::from(x != *y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row[b.len()]
}

/// A problem found without variables.
#[derive(Clone, Debug)]
pub struct Problem {
    /// What is wrong.
    pub message: String,
    /// Where.
    pub origin: Option<Arc<Origin>>,
    /// What may have been meant.
    pub hint: Option<String>,
}

/// Renders templates; one for a run, shared by all threads.
pub struct Templar {
    shared: Arc<Shared>,
}

impl fmt::Debug for Templar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Templar")
    }
}

impl Templar {
    /// Makes one with the run's settings.
    pub fn new(options: Options) -> Templar {
        Templar {
            shared: Arc::new(Shared {
                options,
                texts: RwLock::default(),
                expressions: RwLock::default(),
                files: RwLock::default(),
                vaulted: Mutex::default(),
            }),
        }
    }

    fn scope(&self, ctx: &Context<'_>) -> Scope {
        Scope {
            shared: self.shared.clone(),
            vars: ctx.vars.clone(),
            search: ctx.search.clone(),
            syntax: Arc::new(Syntax::default()),
            renders_constants: false,
            keeps_trust: false,
        }
    }

    /// Adds what is defined that looks like an undefined name.
    fn explain(&self, mut error: TemplateError, ctx: &Context<'_>) -> TemplateError {
        if error.hint.is_none()
            && let TemplateErrorKind::Undefined { name } = &error.kind
            && !name.is_empty()
        {
            let names = ctx.vars.names();
            error.hint = closest(name, names.iter().map(AsRef::as_ref));
        }
        error
    }

    /// Renders every template in a value, deeply. The result is finished: native types, no templates left,
    /// `omit` dropped from containers ([`Value::Omit`] if it is the value itself).
    pub fn render(&self, value: &Value, ctx: &Context<'_>) -> Result<Value, TemplateError> {
        self.render_scoped(value, ctx, false)
    }

    /// As [`Templar::render`], but strings that were written where templates may stand and hold none keep
    /// that mark: they may still be taken as expressions (`assert: {that: "{{ conditions }}"}`).
    pub fn render_trusted(&self, value: &Value, ctx: &Context<'_>) -> Result<Value, TemplateError> {
        self.render_scoped(value, ctx, true)
    }

    fn render_scoped(
        &self,
        value: &Value,
        ctx: &Context<'_>,
        keeps_trust: bool,
    ) -> Result<Value, TemplateError> {
        match value {
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Omit => {
                return Ok(value.clone());
            }
            Value::Str(text) if !text.trusted => return Ok(value.clone()),
            Value::Str(text) if !looks_like_template(&text.text) => {
                return Ok(if keeps_trust { value.clone() } else { value.untrusted() });
            }
            _ => {}
        }
        let scope = Arc::new(Scope { keeps_trust, ..self.scope(ctx) });
        match object::finish(value, &scope, 0) {
            Ok(Some(done)) => Ok(done),
            Ok(None) => Ok(value.clone()),
            Err(error) => Err(self.explain(error, ctx)),
        }
    }

    /// Renders a string to text, whatever the type of the result.
    pub fn render_text(&self, text: &str, ctx: &Context<'_>) -> Result<String, TemplateError> {
        match self.render(&Value::trusted(text), ctx)? {
            Value::Null | Value::Omit => Ok(String::new()),
            value => Ok(value.to_text()),
        }
    }

    /// Judges a condition (`when`, `until`…): an expression, a boolean, or a list of them that must all hold.
    pub fn condition(&self, condition: &Value, ctx: &Context<'_>) -> Result<bool, TemplateError> {
        if let Value::List(items) = condition {
            for item in items.iter() {
                if !self.condition(item, ctx)? {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        let scope = Arc::new(Scope { renders_constants: true, keeps_trust: true, ..self.scope(ctx) });
        self.judge(condition, &scope).map_err(|mut error| {
            // What went wrong in a variable's template has its place already.
            error.in_expression = error.origin.is_none();
            let error = self.explain(error.located(condition.origin()), ctx);
            if error.is_undefined() { error.wanted_for("Error while evaluating conditional") } else { error }
        })
    }

    fn judge(&self, condition: &Value, scope: &Arc<Scope>) -> R<bool> {
        let broken = self.shared.options.allow_broken_conditionals;
        let not_boolean = |message: &str| TemplateError::new(TemplateErrorKind::NotBoolean, message);
        let mut text = match condition {
            Value::Bool(value) => return Ok(*value),
            Value::Str(text) => text.clone(),
            Value::Null => {
                return if broken {
                    Ok(true)
                } else {
                    Err(not_boolean("Empty conditional expressions are not allowed."))
                };
            }
            other if broken => return Ok(other.truthy()),
            _ => return Err(not_boolean("Conditional expressions must be strings.")),
        };
        let trimmed = text.text.trim();
        let wrapped = ["{{", "{%", "{#"].iter().any(|start| trimmed.starts_with(start))
            && ["}}", "%}", "#}"].iter().any(|end| trimmed.ends_with(end));
        if wrapped && text.trusted {
            let inner = crate::value::Text { text: trimmed.into(), ..text.clone() };
            let result = object::lower(&run::render_text(&inner, scope)?)?;
            match result {
                Value::Str(found) => text = found,
                other => return self.verdict(&other),
            }
        }
        let expression = text.text.trim();
        if expression.is_empty() {
            return if broken {
                Ok(true)
            } else {
                Err(not_boolean("Empty conditional expressions are not allowed."))
            };
        }
        if !text.trusted {
            return Err(TemplateError::new(
                TemplateErrorKind::NotBoolean,
                format!(
                    "The conditional {} is an untrusted template or expression.",
                    Value::str(expression).repr()
                ),
            ));
        }
        let value = object::lower(&run::evaluate(expression, false, scope)?)?;
        self.verdict(&value)
    }

    fn verdict(&self, value: &Value) -> R<bool> {
        match value {
            Value::Bool(value) => Ok(*value),
            other if self.shared.options.allow_broken_conditionals => Ok(other.truthy()),
            other => Err(TemplateError::new(
                TemplateErrorKind::NotBoolean,
                format!(
                    "Conditional result ({}) was derived from value of type '{}'. Conditionals must have a boolean result.",
                    if other.truthy() { "True" } else { "False" },
                    other.type_name()
                ),
            )),
        }
    }

    /// Evaluates a bare expression.
    pub fn expression(&self, expression: &str, ctx: &Context<'_>) -> Result<Value, TemplateError> {
        let scope = Arc::new(self.scope(ctx));
        run::evaluate(expression.trim(), true, &scope)
            .and_then(|value| object::lower(&value))
            .map(|value| value.untrusted())
            .map_err(|error| self.explain(error, ctx))
    }

    /// Runs a lookup for `with_<lookup>`: the terms are rendered; the result is always a list.
    pub fn lookup(
        &self,
        name: &str,
        terms: Vec<Value>,
        options: Map,
        ctx: &Context<'_>,
    ) -> Result<Vec<Value>, TemplateError> {
        // Items that were written where expressions may stand can still be used as such.
        let scope = Arc::new(Scope { keeps_trust: true, ..self.scope(ctx) });
        lookups::for_loop(name, &terms, &options, &scope).map_err(|error| self.explain(error, ctx))
    }

    /// Renders a template file to text.
    pub fn file(
        &self,
        path: &Path,
        source: &str,
        ctx: &Context<'_>,
        options: &FileOptions,
    ) -> Result<String, TemplateError> {
        self.file_inner(path, source, ctx, options).map_err(|error| {
            let origin = Arc::new(Origin { file: path.display().to_string().into(), line: 1, column: 1 });
            self.explain(error.located(Some(&origin)), ctx)
        })
    }

    fn file_inner(&self, path: &Path, source: &str, ctx: &Context<'_>, options: &FileOptions) -> R<String> {
        let (syntax, body) = header(source, &options.syntax)?;
        let moved = u32::from(body.len() != source.len());
        // The header's own newlines don't count for what is put back at the end.
        let newline = options.syntax.newline_sequence.clone();
        let program = self.shared.compile_file(body, &syntax).map_err(|mut error| {
            error.line += moved;
            error
        })?;
        let mut search = (**ctx.search).clone();
        if let Some(dir) = path.parent() {
            search.dirs.insert(0, dir.to_owned());
        }
        let scope = Arc::new(Scope { syntax: Arc::new(syntax), search: Arc::new(search), ..self.scope(ctx) });
        let module = Module::named(path.display().to_string());
        let value =
            run::execute_template(Frame::new(&scope, &program, &Arc::new(module))).map_err(|mut error| {
                if error.line > 0 && error.origin.is_none() {
                    error.line += moved;
                }
                error
            })?;
        let value = run::keep_newlines(body, value, &newline);
        match py(&value) {
            Py::None | Py::Omit => Ok(String::new()),
            Py::List(_) | Py::Dict(_) => object::lower(&value).map(|value| value.to_text()),
            _ => ops::to_text(&value),
        }
    }

    /// Whether a string would be rendered, if it is trusted.
    pub fn is_template(text: &str) -> bool {
        looks_like_template(text)
    }

    /// The names of all filters.
    pub fn known_filters() -> Vec<&'static str> {
        registry::filter_names()
    }

    /// The names of all tests.
    pub fn known_tests() -> Vec<&'static str> {
        registry::test_names()
    }

    /// The names of all lookups.
    pub fn known_lookups() -> Vec<&'static str> {
        lookups::names()
    }

    /// Finds syntax errors and unknown filters and tests in all templates of a value, without variables.
    pub fn check_syntax(&self, value: &Value) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.check_value(value, &mut problems);
        problems
    }

    /// The same for a condition: strings are expressions.
    pub fn check_condition(&self, value: &Value) -> Vec<Problem> {
        let mut problems = Vec::new();
        let items = value.as_list().map_or_else(|| vec![value.clone()], <[Value]>::to_vec);
        for item in &items {
            if let Value::Str(text) = item
                && text.trusted
                && !text.text.trim().is_empty()
            {
                let program = if looks_like_template(&text.text) && text.text.trim().starts_with('{') {
                    self.shared.compile_text(&text.text)
                } else {
                    self.shared.compile_expression(text.text.trim(), false)
                };
                report(program, text.origin.as_ref(), &mut problems);
            }
        }
        problems
    }

    fn check_value(&self, value: &Value, problems: &mut Vec<Problem>) {
        match value {
            Value::Str(text) if text.trusted && looks_like_template(&text.text) => {
                report(self.shared.compile_text(&text.text), text.origin.as_ref(), problems);
            }
            Value::List(items) => items.iter().for_each(|item| self.check_value(item, problems)),
            Value::Map(map) => map.values().for_each(|item| self.check_value(item, problems)),
            _ => {}
        }
    }
}

fn report(program: R<Arc<Program>>, origin: Option<&Arc<Origin>>, problems: &mut Vec<Problem>) {
    match program {
        Err(error) => {
            let error = error.located(origin);
            problems.push(Problem {
                message: format!("Syntax error in template: {}", error.message),
                origin: error.origin,
                hint: error.hint,
            });
        }
        Ok(program) => {
            for unknown in &program.unknown {
                let mut error = TemplateError::syntax(
                    format!("No {} named '{}'.", unknown.kind, unknown.name),
                    unknown.line,
                );
                let names =
                    if unknown.kind == "filter" { registry::filter_names() } else { registry::test_names() };
                error.hint = closest(&unknown.name, names.into_iter());
                let error = error.located(origin);
                problems.push(Problem { message: error.message, origin: error.origin, hint: error.hint });
            }
        }
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    /// A string that was decrypted is a string like others, and known for it until something else is made of it.
    #[test]
    fn what_came_from_a_vault_stays_known_for_it() {
        let vaulted =
            |envelope: &str| Value::Vault(Arc::new(VaultText { envelope: envelope.into(), origin: None }));
        let mut all = crate::value::map_of([
            ("opens", vaulted("$ANSIBLE_VAULT;1.1;AES256\n61\n")),
            ("stays", vaulted("$ANSIBLE_VAULT;1.1;AES256\n62\n")),
            ("deep", Value::map(crate::value::map_of([("a", vec![Value::trusted("{{ opens }}")])]))),
        ]);
        let templar = Templar::new(Options {
            vault: Arc::new(|text| match text.envelope.contains("61") {
                true => Ok("it opens".to_owned()),
                false => Err("no password".to_owned()),
            }),
            ..Options::default()
        });
        let search = Arc::new(SearchPath::default());
        let render = |vars: &Map, template: &str| {
            let vars: Arc<dyn Vars> = Arc::new(vars.clone());
            templar.render(&Value::trusted(template), &Context { vars: &vars, search: &search })
        };
        // What a fact keeps.
        for (name, template) in [("fact", "{{ opens }}"), ("facts", "{{ [opens, deep, 'x'] }}")] {
            let value = render(&all, template).expect(template);
            all.insert(name.into(), value);
        }
        for (template, expected) in [
            ("{{ opens is vault_encrypted }}", "True"),
            ("{{ stays is vault_encrypted }}", "True"),
            ("{{ stays is ansible._protomatter.tagged_with('VaultedValue') }}", "True"),
            ("{{ fact is vault_encrypted and facts[0] is vault_encrypted }}", "True"),
            ("{{ facts[1].a[0] is vault_encrypted and deep.a[0] is vault_encrypted }}", "True"),
            ("{{ opens | string | default('x') is vault_encrypted }}", "True"),
            ("{{ opens | trim is vault_encrypted or (opens ~ '') is vault_encrypted }}", "False"),
            ("{{ facts[2] is vault_encrypted or 1 is vault_encrypted }}", "False"),
            ("{{ '$ANSIBLE_VAULT;1.1;AES256' is vault_encrypted }}", "False"),
            (
                "{{ opens ~ '!' }}{{ opens | length }}{{ opens[3:] }}{{ opens == 'it opens' }}",
                "it opens!8opensTrue",
            ),
            (
                "{{ {opens: opens.upper(), 'q': opens in ['it opens']} }}",
                "{'it opens': 'IT OPENS', 'q': True}",
            ),
            (
                "{{ opens | type_debug }} {{ opens is string }} {{ [opens] | to_json }}",
                "str True [\"it opens\"]",
            ),
            ("{{ [fact, 1] | to_nice_yaml }}", "- !vault |\n    $ANSIBLE_VAULT;1.1;AES256\n    61\n- 1\n"),
            ("{{ [fact] | to_nice_yaml(dump_vault_tags=false) }}", "- it opens\n"),
            ("{{ 'x' | vault('p', wrap_object=true) | to_yaml is search('!vault') }}", "True"),
            ("{{ 'x' | vault('p', wrap_object=true) | unvault('p') }}", "x"),
        ] {
            assert_eq!(render(&all, template).expect(template).to_text(), expected, "{template}");
        }
        let error = render(&all, "{{ stays | unvault('p') }}").expect_err("it is not one");
        assert!(error.message.contains("unvault' failed"), "{}", error.message);
        assert!(render(&all, "{{ nope is vault_encrypted }}").expect_err("undefined").is_undefined());
    }

    /// What tasks say that fail for their conditions and arguments, as ansible-core 2.19 does.
    #[test]
    fn failures_are_told_in_the_words_that_playbooks_look_for() {
        let vars = crate::value::map_of([
            ("d", Value::Int(1)),
            ("e", Value::list(vec![])),
            ("bad", Value::trusted("{{ 1 / 0 }}")),
        ]);
        let vars: Arc<dyn Vars> = Arc::new(vars);
        let search = Arc::new(SearchPath::default());
        let ctx = Context { vars: &vars, search: &search };
        let templar = Templar::new(Options::default());
        for (condition, expected) in [
            ("nothere == 1", "Error while evaluating conditional: 'nothere' is undefined"),
            ("d.x == 1", "Error while evaluating conditional: object of type 'int' has no attribute 'x'"),
            ("e[7] == 1", "Error while evaluating conditional: object of type 'list' has no attribute 7"),
            ("e[0] == 1", "Error while evaluating conditional: list object has no element 0"),
            ("1 / 0 == 2", "Error rendering expression: division by zero"),
            ("d | nofilter", "Syntax error in expression: No filter named 'nofilter'."),
            (
                "'x' | from_json",
                "The filter plugin 'ansible.builtin.from_json' failed: Expecting value: line 1 column 1 (char 0)",
            ),
            (
                "d",
                "Conditional result (True) was derived from value of type 'int'. Conditionals must have a boolean result.",
            ),
        ] {
            let error = templar.condition(&Value::trusted(condition), &ctx).expect_err(condition);
            assert_eq!(error.told(), expected, "{condition}");
        }
        for (text, expected) in [
            ("{{ nothere }}", "Wanted: 'nothere' is undefined"),
            ("{{ 1 / 0 }}", "Wanted: Error rendering template: division by zero"),
            ("{{ bad }}", "Wanted: Error rendering template: division by zero"),
            (
                "{{ 'x' | password_hash('sha512', salt_size=[1]) }}",
                "Wanted: The filter plugin 'ansible.builtin.password_hash' failed: salt_size must be an integer",
            ),
            ("{{ 1 | nofilter }}", "Wanted: Syntax error in template: No filter named 'nofilter'."),
        ] {
            let error = templar.render(&Value::trusted(text), &ctx).expect_err(text);
            assert_eq!(error.wanted_for("Wanted").told(), expected, "{text}");
        }
    }

    fn value(json: &serde_json::Value) -> Value {
        match json {
            serde_json::Value::String(text) => Value::trusted(text.as_str()),
            serde_json::Value::Array(items) => Value::list(items.iter().map(value).collect()),
            serde_json::Value::Object(map) => {
                Value::map(map.iter().map(|(key, item)| (Value::str(key.as_str()), value(item))).collect())
            }
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(flag) => Value::Bool(*flag),
            serde_json::Value::Number(number) => {
                number.as_i64().map_or_else(|| Value::Float(number.as_f64().unwrap_or(0.0)), Value::Int)
            }
        }
    }

    fn render(vars: &str, text: &str) -> String {
        let vars: serde_json::Value = serde_json::from_str(vars).expect("variables are JSON");
        let Value::Map(map) = value(&vars) else { panic!("variables are a mapping") };
        let vars: Arc<dyn Vars> = Arc::new((*map).clone());
        let search = Arc::new(SearchPath::default());
        match Templar::new(Options::default())
            .render(&Value::trusted(text), &Context { vars: &vars, search: &search })
        {
            Ok(value) => value.repr(),
            Err(error) => format!("! {error}"),
        }
    }

    #[test]
    fn values_keep_their_types_and_errors_surface_on_use() {
        let vars = r#"{"x": 1, "d": {"a": "{{ x + 1 }}", "b": "{{ nope }}"}, "l": [1, "{{ x }}"],
            "r1": "{{ r2 }}", "r2": "{{ r1 }}", "t": "x == 1"}"#;
        let cases = [
            ("{{ x }}", "1"),
            ("{{ x }}{{ x }}", "'11'"),
            (" {{ x }}", "' 1'"),
            ("{{ d.a }}", "2"),
            ("{{ d.b | default('z') }}", "'z'"),
            ("{{ d }}", "! 'nope' is undefined"),
            ("{{ l }}", "[1, 1]"),
            ("{{ a.b.c | default('deep') }}", "'deep'"),
            ("{% set l = [] %}{% set _ = l.append(3) %}{{ l }}", "[3]"),
            ("{% for k, v in {'a': 1}.items() %}{{ k }}={{ v }};{% endfor %}", "'a=1;'"),
            ("{{ '%s-%03d' % ('a', 7) }}", "'a-007'"),
            ("{{ 1 < 2 < 3 and not (3 < 2) }}", "True"),
            ("{{ (1, 2) + (3,) }}", "[1, 2, 3]"),
            ("{% macro m(a, b=2) %}{{ a }}-{{ b }}-{{ varargs|length }}{% endmacro %}{{ m(1) }}", "'1-2-0'"),
            ("{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % -3 }} {{ 1 / 2 }}", "'3 -4 -2 0.5'"),
            ("{{ ['b', 'a'] | sort | join('+') }}", "'a+b'"),
        ];
        for (template, expected) in cases {
            assert_eq!(render(vars, template), expected, "{template}");
        }
        assert!(render(vars, "{{ r1 }}").contains("Recursive loop"));
    }

    #[test]
    fn hostile_templates_end_with_an_error() {
        let mut chain = String::from("{");
        for index in 0..200 {
            chain += &format!("\"v{index}\": \"{{{{ v{} }}}}-\",", index + 1);
        }
        chain += "\"v200\": 1}";
        let nested = format!("{{{{ {}1{} }}}}", "(".repeat(2000), ")".repeat(2000));
        let blocks = "{% if true %}".repeat(2000);
        let cases = [
            ("{}", "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}"),
            ("{}", "{{ 'a' * 99999999999 }}"),
            ("{}", "{{ range(999999999999) | list }}"),
            ("{}", "{% set l = [] %}{% set _ = l.append(l) %}{{ l }}"),
            ("{}", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"),
            ("{}", nested.as_str()),
            ("{}", blocks.as_str()),
            ("{}", "{{ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!' | regex_search('(a+)+$(?<!x)') }}"),
            (chain.as_str(), "{{ v0 }}"),
        ];
        for (vars, template) in cases {
            let found = render(vars, template);
            let shown: String = template.chars().take(60).collect();
            assert!(
                found.starts_with("! ") || found == "None",
                "{shown}: {}",
                found.chars().take(80).collect::<String>()
            );
        }
    }
}
