//! Everything a template can call by name: the operators behind the syntax, filters, tests and globals.

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, LazyLock};

use indexmap::IndexMap;
use minijinja::value::Value as V;
use minijinja::{Environment, Error, State};

use super::error::TemplateError;
use super::object::{self, Marker, Names, Py, R, check, is_marker, list, marker, py, tuple, type_name};
use super::run::{self, MacroObject, Scope, settle, to_engine};
use super::special::{Cycler, FunctionObject, Joiner, Namespace, Range};
use super::{filters, lookups, methods, ops, tests};
use crate::value::Value;

/// A call's arguments before they are matched with parameters.
#[derive(Default)]
pub(super) struct Args {
    pub(super) positional: Vec<V>,
    pub(super) named: Vec<(String, V)>,
}

impl Args {
    /// Takes the keyword arguments out of what the engine passes.
    fn read(args: &[V]) -> R<Args> {
        let Some((last, rest)) = args.split_last() else { return Ok(Args::default()) };
        let Some(names) = last.downcast_object_ref::<Names>() else {
            return Ok(Args { positional: args.to_vec(), named: Vec::new() });
        };
        let split = rest.len().saturating_sub(names.0.len());
        let mut named = Vec::with_capacity(names.0.len());
        for (name, value) in names.0.iter().zip(&rest[split..]) {
            if *name != "**" {
                named.push(((*name).to_owned(), value.clone()));
                continue;
            }
            check(value)?;
            match py(value) {
                Py::Dict(map) => {
                    named.extend(map.to_map()?.into_iter().map(|(key, value)| (key.to_text(), value)));
                }
                _ => {
                    return Err(TemplateError::runtime(format!(
                        "argument after ** must be a mapping, not {}",
                        type_name(value)
                    )));
                }
            }
        }
        Ok(Args { positional: rest[..split].to_vec(), named })
    }

    /// The argument at `index` or called `name`.
    pub(super) fn get(&self, index: usize, name: &str) -> Option<&V> {
        self.positional.get(index).or_else(|| self.named(name))
    }

    pub(super) fn named(&self, name: &str) -> Option<&V> {
        self.named.iter().find(|(found, _)| found == name).map(|(_, value)| value)
    }

    pub(super) fn required(&self, index: usize) -> R<&V> {
        self.positional.get(index).ok_or_else(|| {
            TemplateError::runtime(format!("missing {} required positional argument(s)", index + 1))
        })
    }

    pub(super) fn to_positional(&self) -> Vec<V> {
        self.positional.clone()
    }

    pub(super) fn first_marker(&self) -> Option<V> {
        self.positional
            .iter()
            .chain(self.named.iter().map(|(_, value)| value))
            .find(|value| is_marker(value))
            .cloned()
    }
}

/// A filter or test as the tables list it.
pub(super) struct Function {
    /// Its name.
    pub(super) name: &'static str,
    /// Its parameters, the input first: `name` is required, `name?` optional, `*` takes the rest, `**` any keyword.
    pub(super) params: &'static str,
    /// It copes with undefined and failed values itself.
    pub(super) markers: bool,
    /// What it does.
    pub(super) run: fn(&mut Call) -> R,
}

/// A table's line.
pub(super) const fn function(name: &'static str, params: &'static str, run: fn(&mut Call) -> R) -> Function {
    Function { name, params, markers: false, run }
}

/// A table's line of a function that copes with undefined values.
pub(super) const fn lenient(name: &'static str, params: &'static str, run: fn(&mut Call) -> R) -> Function {
    Function { name, params, markers: true, run }
}

/// A call of a filter or test with its arguments matched to the parameters.
pub(super) struct Call {
    pub(super) scope: Arc<Scope>,
    values: Vec<Option<V>>,
    /// What `*` took.
    pub(super) rest: Vec<V>,
    /// What `**` took.
    pub(super) extra: Vec<(String, V)>,
}

impl Call {
    /// The input.
    pub(super) fn input(&self) -> V {
        self.arg(0).unwrap_or_default()
    }

    pub(super) fn arg(&self, index: usize) -> Option<V> {
        self.values.get(index).cloned().flatten()
    }

    /// An argument that is given and not `None`.
    pub(super) fn some(&self, index: usize) -> Option<V> {
        self.arg(index).filter(|value| !value.is_none())
    }

    pub(super) fn text(&self, index: usize) -> R<String> {
        ops::to_text(&self.arg(index).unwrap_or_default())
    }

    pub(super) fn text_or(&self, index: usize, default: &str) -> R<String> {
        self.some(index).map_or_else(|| Ok(default.to_owned()), |value| ops::to_text(&value))
    }

    pub(super) fn flag(&self, index: usize, default: bool) -> R<bool> {
        self.arg(index).map_or(Ok(default), |value| ops::truth(&value))
    }

    pub(super) fn int(&self, index: usize) -> R<Option<i64>> {
        let Some(value) = self.some(index) else { return Ok(None) };
        check(&value)?;
        match ops::number(&value) {
            Some(ops::Num::Int(number)) => Ok(i64::try_from(number).ok()),
            #[expect(clippy::cast_possible_truncation, reason = "a whole number is wanted")]
            Some(ops::Num::Float(number)) => Ok(Some(number as i64)),
            None => match py(&value) {
                Py::Str(text) => text
                    .trim()
                    .parse()
                    .map(Some)
                    .map_err(|_| TemplateError::runtime(format!("{text:?} is not a whole number"))),
                _ => Err(TemplateError::runtime(format!(
                    "'{}' object cannot be interpreted as an integer",
                    type_name(&value)
                ))),
            },
        }
    }

    /// The items of the input.
    pub(super) fn items(&self) -> R<Vec<V>> {
        object::iterate(&self.input())
    }

    pub(super) fn extra(&self, name: &str) -> Option<&V> {
        self.extra.iter().find(|(found, _)| found == name).map(|(_, value)| value)
    }
}

fn bind(function: &Function, args: Args, scope: &Arc<Scope>) -> R<Call> {
    let mut call = Call { scope: scope.clone(), values: Vec::new(), rest: Vec::new(), extra: Vec::new() };
    let mut positional = args.positional.into_iter();
    let mut named = args.named;
    let mut takes_extra = false;
    for param in function.params.split(' ') {
        match param {
            "*" => call.rest = positional.by_ref().collect(),
            "**" => takes_extra = true,
            _ => {
                let (name, optional) = param.strip_suffix('?').map_or((param, false), |name| (name, true));
                let value = positional.next().or_else(|| {
                    let at = named.iter().position(|(found, _)| found == name)?;
                    Some(named.swap_remove(at).1)
                });
                if value.is_none() && !optional {
                    return Err(TemplateError::runtime(format!(
                        "{}() missing 1 required positional argument: '{name}'",
                        function.name
                    )));
                }
                call.values.push(value);
            }
        }
    }
    if takes_extra {
        call.extra = named;
    } else if let Some((name, _)) = named.first() {
        return Err(TemplateError::runtime(format!(
            "{}() got an unexpected keyword argument '{name}'",
            function.name
        )));
    }
    let left = positional.count();
    if left > 0 {
        return Err(TemplateError::runtime(format!(
            "{}() takes {} positional arguments but {} were given",
            function.name,
            call.values.len(),
            call.values.len() + left
        )));
    }
    Ok(call)
}

/// Calls a filter or test. Failures become markers, which `default` and the like can replace.
pub(super) fn invoke(kind: &str, function: &Function, args: Args, scope: &Arc<Scope>) -> R {
    if !function.markers
        && let Some(found) = args.first_marker()
    {
        return Ok(found);
    }
    let result = bind(function, args, scope)
        .and_then(|mut call| object::tripping(!function.markers, || (function.run)(&mut call)));
    match result {
        Err(mut error) if !error.is_final() => {
            // What takes failures as values may give one back that is not its own.
            let own = match error.kind {
                super::TemplateErrorKind::Runtime => true,
                // It has been told already which plugin it was: items are computed late.
                super::TemplateErrorKind::Plugin => false,
                _ => !function.markers,
            };
            if !error.is_undefined() && own {
                error.message =
                    format!("The {kind} plugin '{}' failed: {}", full_name(function.name), error.message);
                error.kind = super::TemplateErrorKind::Plugin;
            }
            Ok(marker(error))
        }
        other => other,
    }
}

/// Filters that are known by their short names too, though their home is `community.general`.
const GENERAL: &[&str] = &[
    "counter",
    "dict",
    "dict_kv",
    "groupby_as_dict",
    "json_query",
    "keep_keys",
    "lists_difference",
    "lists_intersect",
    "lists_mergeby",
    "lists_symmetric_difference",
    "lists_union",
    "random_mac",
    "remove_keys",
    "replace_keys",
    "version_sort",
];

/// A filter's or test's name with its collection.
fn full_name(name: &str) -> String {
    let is_in = |table: &[Function]| table.iter().any(|function| function.name == name);
    let collection = match name {
        _ if name.contains('.') => return name.to_owned(),
        _ if GENERAL.contains(&name) => "community.general",
        _ if is_in(filters::UTILS[0]) || is_in(filters::UTILS[1]) => "ansible.utils",
        _ => "ansible.builtin",
    };
    format!("{collection}.{name}")
}

static FILTERS: LazyLock<HashMap<&'static str, &'static Function>> =
    LazyLock::new(|| filters::TABLES.iter().flat_map(|table| table.iter()).map(|f| (f.name, f)).collect());
static TESTS: LazyLock<HashMap<&'static str, &'static Function>> =
    LazyLock::new(|| tests::TABLE.iter().map(|f| (f.name, f)).collect());

/// Collections whose filters and tests we know by their short names.
const COLLECTIONS: &[&str] = &[
    "ansible.builtin.",
    "ansible.legacy.",
    "community.general.",
    "ansible.utils.",
    "ansible.netcommon.",
    "community.crypto.",
    "ansible.posix.",
];

/// A name without the collection, if it is one of those we cover.
pub(super) fn short_name(name: &str) -> &str {
    COLLECTIONS.iter().find_map(|collection| name.strip_prefix(collection)).unwrap_or(name)
}

pub(super) fn filter(name: &str) -> Option<&'static Function> {
    FILTERS.get(short_name(name)).copied()
}

pub(super) fn test(name: &str) -> Option<&'static Function> {
    TESTS.get(short_name(name)).copied()
}

/// The names that the parser asks for.
pub(super) struct Known;

impl super::parser::Names for Known {
    fn has_filter(&self, name: &str) -> bool {
        filter(name).is_some()
    }

    fn has_test(&self, name: &str) -> bool {
        test(name).is_some()
    }
}

pub(super) fn filter_names() -> Vec<&'static str> {
    let mut names: Vec<_> = FILTERS.keys().copied().collect();
    names.sort_unstable();
    names
}

pub(super) fn test_names() -> Vec<&'static str> {
    let mut names: Vec<_> = TESTS.keys().copied().collect();
    names.sort_unstable();
    names
}

pub(super) const GLOBALS: &[&str] =
    &["cycler", "dict", "joiner", "lipsum", "lookup", "namespace", "now", "q", "query", "range", "undef"];

/// What `undef()` says that was given no hint.
pub(super) const UNSET: &str = "Mandatory variable has not been overridden";

/// A global by name.
pub(super) fn global(name: &str, scope: &Arc<Scope>) -> Option<V> {
    if name == "omit" {
        return Some(object::omit());
    }
    if name == "vars" {
        return Some(object::lazy_dict(Arc::new(super::AllVars(scope.vars.clone())), scope));
    }
    let name = GLOBALS.iter().find(|known| **known == name)?;
    Some(V::from_object(FunctionObject { name, object: None }))
}

/// Calls a value.
pub(super) fn call_value(state: &mut State<'_, '_>, callee: &V, args: Args) -> R {
    if let Some(found) = callee.downcast_object_ref::<Marker>() {
        return Ok(marker(found.0.clone()));
    }
    if let Some(found) = callee.downcast_object_ref::<MacroObject>() {
        return found.call(args.positional, args.named);
    }
    if let Some(function) = callee.downcast_object_ref::<FunctionObject>() {
        return match &function.object {
            Some(object) => methods::call(state, object, function.name, args),
            None => call_global(function.name, args),
        };
    }
    if let Some(joiner) = callee.downcast_object_ref::<Joiner>() {
        let first = joiner.used.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
        return Ok(if first { V::from("") } else { joiner.separator.clone() });
    }
    check(callee)?;
    Err(TemplateError::runtime(format!("'{}' object is not callable", type_name(callee))))
}

fn call_global(name: &str, args: Args) -> R {
    let scope = run::current()?.scope.clone();
    if let "lookup" | "query" | "q" = name {
        return lookups::call(args, name != "lookup", &scope);
    }
    if name != "undef"
        && let Some(found) = args.first_marker()
    {
        return Ok(found);
    }
    match name {
        "range" => range(&args),
        "dict" => methods::entries(&args).map(object::dict),
        "namespace" => {
            let entries = methods::entries(&args)?;
            let entries = entries.into_iter().map(|(key, value)| (key.to_text(), value)).collect();
            Ok(V::from_object(Namespace(std::sync::Mutex::new(entries))))
        }
        "cycler" => {
            if args.positional.is_empty() {
                return Err(TemplateError::runtime("at least one item has to be provided"));
            }
            Ok(V::from_object(Cycler { items: args.positional, position: AtomicUsize::new(0) }))
        }
        "joiner" => Ok(V::from_object(Joiner {
            separator: args.get(0, "sep").cloned().unwrap_or_else(|| V::from(", ")),
            used: AtomicUsize::new(0),
        })),
        "now" => super::time::now(&args),
        "undef" => {
            let hint = match args.get(0, "hint") {
                Some(hint) if !hint.is_none() => ops::to_text(hint)?,
                _ => UNSET.into(),
            };
            Ok(marker(TemplateError::undefined("", hint)))
        }
        _ => super::filters::random::lipsum(&args),
    }
}

fn range(args: &Args) -> R {
    let number = |index: usize| -> R<i64> {
        let value = args.required(index)?;
        match ops::number(value) {
            Some(ops::Num::Int(number)) => {
                i64::try_from(number).map_err(|_| TemplateError::limit("the range is too long"))
            }
            _ => Err(TemplateError::runtime(format!(
                "'{}' object cannot be interpreted as an integer",
                type_name(value)
            ))),
        }
    };
    let (start, stop, step) = match args.positional.len() {
        1 => (0, number(0)?, 1),
        2 => (number(0)?, number(1)?, 1),
        3 => (number(0)?, number(1)?, number(2)?),
        count => {
            return Err(TemplateError::runtime(format!("range expected 1 to 3 arguments, got {count}")));
        }
    };
    if step == 0 {
        return Err(TemplateError::runtime("range() arg 3 must not be zero"));
    }
    Ok(V::from_object(Range { start, stop, step }))
}

type Core = fn(&mut State<'_, '_>, &[V]) -> R;

fn at(args: &[V], index: usize) -> R<&V> {
    args.get(index).ok_or_else(|| TemplateError::runtime("an argument is missing"))
}

fn boolean(result: R<bool>) -> R {
    result.map(V::from)
}

/// What the parser emits for Python's syntax.
const CORE: &[(&str, Core)] = &[
    ("__add", |_, a| ops::add(at(a, 0)?, at(a, 1)?)),
    ("__sub", |_, a| ops::subtract(at(a, 0)?, at(a, 1)?)),
    ("__mul", |_, a| ops::multiply(at(a, 0)?, at(a, 1)?)),
    ("__div", |_, a| ops::divide(at(a, 0)?, at(a, 1)?)),
    ("__floordiv", |_, a| ops::floor_divide(at(a, 0)?, at(a, 1)?)),
    ("__mod", |_, a| ops::modulo(at(a, 0)?, at(a, 1)?)),
    ("__pow", |_, a| ops::power(at(a, 0)?, at(a, 1)?)),
    ("__neg", |_, a| ops::negate(at(a, 0)?)),
    ("__pos", |_, a| ops::positive(at(a, 0)?)),
    ("__eq", |_, a| boolean(ops::equal(at(a, 0)?, at(a, 1)?))),
    ("__ne", |_, a| boolean(ops::compare("!=", at(a, 0)?, at(a, 1)?))),
    ("__lt", |_, a| boolean(ops::compare("<", at(a, 0)?, at(a, 1)?))),
    ("__le", |_, a| boolean(ops::compare("<=", at(a, 0)?, at(a, 1)?))),
    ("__gt", |_, a| boolean(ops::compare(">", at(a, 0)?, at(a, 1)?))),
    ("__ge", |_, a| boolean(ops::compare(">=", at(a, 0)?, at(a, 1)?))),
    ("__in", |_, a| boolean(ops::contains(at(a, 1)?, at(a, 0)?))),
    ("__not_in", |_, a| boolean(ops::compare("not in", at(a, 0)?, at(a, 1)?))),
    ("__chain", |_, a| {
        let mut left = at(a, 0)?;
        for pair in a[1..].chunks(2) {
            let (op, right) = (at(pair, 0)?.as_str().unwrap_or_default(), at(pair, 1)?);
            if !ops::compare(op, left, right)? {
                return Ok(V::from(false));
            }
            left = right;
        }
        Ok(V::from(true))
    }),
    ("__not", |_, a| boolean(ops::truth(at(a, 0)?).map(|truth| !truth))),
    ("__truth", |_, a| boolean(ops::truth(at(a, 0)?))),
    ("__check", |_, a| check(at(a, 0)?).and_then(|()| Ok(at(a, 0)?.clone()))),
    ("__concat", |_, a| ops::concat(a)),
    ("__list", |_, a| Ok(list(a[1..].to_vec()))),
    ("__dict", |_, a| ops::build_dict(&a[1..])),
    ("__tuple", |_, a| {
        // A call without arguments gets a placeholder for its input.
        Ok(tuple(if a.len() == 1 && a[0].is_none() { Vec::new() } else { a.to_vec() }))
    }),
    ("__join_parts", |_, a| {
        if let Some(Py::Dict(_)) = a.get(1).map(py) {
            let mut all = IndexMap::new();
            for part in &a[1..] {
                if let Py::Dict(part) = py(part) {
                    all.extend(part.to_map()?);
                }
            }
            return Ok(object::dict(all));
        }
        let mut all = Vec::new();
        for part in &a[1..] {
            all.extend(object::iterate(part)?);
        }
        Ok(list(all))
    }),
    ("__attr", |_, a| ops::attribute(at(a, 0)?, at(a, 1)?.as_str().unwrap_or_default())),
    ("__item", |_, a| ops::item(at(a, 0)?, at(a, 1)?)),
    ("__slice", |_, a| ops::slice(at(a, 0)?, at(a, 1)?, at(a, 2)?, at(a, 3)?)),
    ("__setattr", |_, a| {
        let (object, name) = (at(a, 0)?, at(a, 1)?.as_str().unwrap_or_default());
        check(object)?;
        let Some(namespace) = object.downcast_object_ref::<Namespace>() else {
            return Err(TemplateError::runtime("cannot assign attribute on non-namespace object"));
        };
        object::lock(&namespace.0).insert(name.to_owned(), at(a, 2)?.clone());
        Ok(V::UNDEFINED)
    }),
    ("__no_else", |_, _| Ok(V::from_object(super::special::Blank))),
    ("__unknown", |_, a| {
        let (kind, name) = (at(a, 0)?.as_str().unwrap_or_default(), at(a, 1)?.as_str().unwrap_or_default());
        let mut error =
            TemplateError::new(super::TemplateErrorKind::Syntax, format!("No {kind} named '{name}'."));
        let names = if kind == "filter" { filter_names() } else { test_names() };
        error.hint = super::closest(name, names.into_iter());
        Err(error)
    }),
    ("__discard", |_, a| check(at(a, 0)?).map(|()| V::UNDEFINED)),
    ("__export", |_, a| {
        let frame = run::current()?;
        let name = at(a, 0)?.as_str().unwrap_or_default().to_owned();
        object::lock(&frame.module.exports).insert(name, at(a, 1)?.clone());
        Ok(V::UNDEFINED)
    }),
    ("__begin", |_, _| {
        run::current()?.begin();
        Ok(V::UNDEFINED)
    }),
    ("__end", |_, _| {
        let value = run::current()?.end()?;
        Ok(if value.is_none() { V::from("") } else { value })
    }),
    ("__loop_end", |_, _| {
        let value = run::current()?.end()?;
        Ok(if value.is_none() { V::from("") } else { value })
    }),
    ("__iter", |_, a| object::iterate(at(a, 0)?).map(V::from)),
    ("__iter_unpack", |_, a| {
        let shape = at(a, 1)?;
        object::iterate(at(a, 0)?)?
            .iter()
            .map(|item| run::shaped(item, shape))
            .collect::<R<Vec<V>>>()
            .map(V::from)
    }),
    ("__unpack", |_, a| {
        let count = at(a, 1)?.as_usize().unwrap_or(0);
        run::unpack(at(a, 0)?, count).map(list)
    }),
    ("__missing", |_, a| Ok(V::from(at(a, 0)?.is_undefined()))),
    ("__macro", |state, a| {
        let number = at(a, 0)?.as_usize().unwrap_or(usize::MAX);
        MacroObject::define(state, number).map(V::from_object)
    }),
    ("__caller", |state, a| {
        let number = at(a, 0)?.as_usize().unwrap_or(usize::MAX);
        MacroObject::define(state, number).map(V::from_object)
    }),
    ("__include", |state, a| run::include(state, at(a, 0)?, at(a, 1)?.is_true(), at(a, 2)?.is_true())),
    ("__import", |state, a| run::import(state, at(a, 0)?, at(a, 1)?.is_true())),
    ("__imported", |_, a| {
        let (module, name) = (at(a, 0)?, at(a, 1)?.as_str().unwrap_or_default());
        match methods::property(module, name)? {
            Some(value) => Ok(value),
            None => Ok(marker(TemplateError::undefined(
                name,
                format!("the imported template does not export the requested name '{name}'"),
            ))),
        }
    }),
    ("__extends", |_, a| run::extends(at(a, 0)?)),
    ("__block", |state, a| run::block(state, at(a, 0)?.as_str().unwrap_or_default(), at(a, 1)?.is_true())),
    ("__required", |_, a| {
        let name = at(a, 0)?.as_str().unwrap_or_default();
        Err(TemplateError::runtime(format!("Required block '{name}' not found")))
    }),
    ("__super", |state, _| run::super_block(state)),
    ("__self_block", |_, a| run::self_block(at(a, 0)?.as_str().unwrap_or_default())),
    ("__embedded", |_, a| run::embedded(at(a, 0)?)),
    ("__call", |state, a| {
        let callee = at(a, 0)?;
        let args = Args::read(&a[1..])?;
        let direct = callee.downcast_object_ref::<MacroObject>().is_some()
            || callee
                .downcast_object_ref::<FunctionObject>()
                .is_some_and(|function| matches!(function.name, "lookup" | "query" | "q"));
        if !direct && let Some(found) = args.first_marker() {
            return Ok(if is_marker(callee) { callee.clone() } else { found });
        }
        settle(object::tripping(!direct, || call_value(state, callee, args)))
    }),
    ("__method", |state, a| {
        let object = at(a, 0)?;
        let name = at(a, 1)?.as_str().unwrap_or_default();
        if is_marker(object) {
            return Ok(object.clone());
        }
        let args = Args::read(&a[2..])?;
        let macro_module = object.downcast_object_ref::<run::ModuleObject>().is_some();
        if !macro_module && let Some(found) = args.first_marker() {
            return Ok(found);
        }
        settle(object::tripping(!macro_module, || methods::call(state, object, name, args)))
    }),
];

/// Makes all functions known to the engine.
pub(super) fn install(engine: &mut Environment<'static>) {
    for (name, core) in CORE {
        add(engine, (*name).into(), core);
    }
    for function in FILTERS.values() {
        add(engine, format!("f.{}", function.name), move |_, args| {
            let scope = run::current()?.scope.clone();
            invoke("filter", function, Args::read(args)?, &scope)
        });
    }
    for function in TESTS.values() {
        add(engine, format!("t.{}", function.name), move |_, args| {
            let scope = run::current()?.scope.clone();
            invoke("test", function, Args::read(args)?, &scope)
        });
    }
}

fn add(
    engine: &mut Environment<'static>,
    name: String,
    run: impl Fn(&mut State<'_, '_>, &[V]) -> R + Send + Sync + 'static,
) {
    engine.add_filter(name, move |state: &mut State<'_, '_>, args: &[V]| -> Result<V, Error> {
        run(state, args).map_err(to_engine)
    });
}

/// Calls a filter by name, as `map('name', …)` does.
pub(super) fn call_filter(name: &str, args: Args, scope: &Arc<Scope>) -> R {
    let function =
        filter(name).ok_or_else(|| TemplateError::runtime(format!("No filter named '{name}'.")))?;
    invoke("filter", function, args, scope)
}

/// Calls a test by name, as `select('name', …)` does.
pub(super) fn call_test(name: &str, args: Args, scope: &Arc<Scope>) -> R<bool> {
    let function = test(name).ok_or_else(|| TemplateError::runtime(format!("No test named '{name}'.")))?;
    let value = invoke("test", function, args, scope)?;
    ops::truth(&value)
}

/// A dict with string keys.
pub(super) fn record<const N: usize>(entries: [(&str, V); N]) -> V {
    object::dict(entries.into_iter().map(|(key, value)| (Value::str(key), value)).collect())
}
