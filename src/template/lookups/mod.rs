//! Lookups: values from outside of the variables, read on the controller.

mod files;
mod sequences;

use std::sync::Arc;

use minijinja::value::Value as V;

use super::error::{TemplateError, TemplateErrorKind};
use super::object::{Py, R, check, is_marker, lift, list, lower, none, py};
use super::ops;
use super::registry::Args;
use super::run::{self, Scope};
use crate::value::{Map, Text, Value};

/// A lookup's call.
pub(super) struct Lookup<'a> {
    pub(super) scope: &'a Arc<Scope>,
    pub(super) terms: Vec<V>,
    pub(super) options: Vec<(String, V)>,
    /// Called as `with_<name>`.
    pub(super) in_loop: bool,
}

impl Lookup<'_> {
    pub(super) fn option(&self, name: &str) -> Option<&V> {
        self.options
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value)
            .filter(|value| !value.is_none())
    }

    pub(super) fn text(&self, name: &str, default: &str) -> R<String> {
        self.option(name).map_or_else(|| Ok(default.to_owned()), ops::to_text)
    }

    pub(super) fn flag(&self, name: &str, default: bool) -> R<bool> {
        match self.option(name) {
            None => Ok(default),
            Some(value) => match lower(value)?.to_bool() {
                Some(flag) => Ok(flag),
                None => ops::truth(value),
            },
        }
    }
}

type Run = fn(&Lookup<'_>) -> R<Vec<V>>;

const TABLE: &[(&str, Run)] = &[
    ("config", sequences::config),
    ("csvfile", files::csvfile),
    ("dict", sequences::dict),
    ("env", sequences::env),
    ("file", files::file),
    ("fileglob", files::fileglob),
    ("first_found", files::first_found),
    ("flattened", sequences::flattened),
    ("indexed_items", sequences::indexed_items),
    ("ini", files::ini),
    ("inventory_hostnames", sequences::inventory_hostnames),
    ("items", sequences::items),
    ("lines", files::lines),
    ("list", sequences::list_lookup),
    ("nested", sequences::nested),
    ("password", files::password),
    ("pipe", files::pipe),
    ("random_choice", sequences::random_choice),
    ("sequence", sequences::sequence),
    ("subelements", sequences::subelements),
    ("template", files::template),
    ("together", sequences::together),
    ("unvault", files::unvault),
    ("url", files::url),
    ("varnames", sequences::varnames),
    ("vars", sequences::vars),
    ("cartesian", sequences::nested),
    ("filetree", files::filetree),
    ("random_string", files::random_string),
    ("merge_variables", sequences::merge_variables),
];

fn short(name: &str) -> &str {
    super::registry::short_name(name)
}

pub(super) fn names() -> Vec<&'static str> {
    TABLE.iter().map(|(name, _)| *name).collect()
}

fn find(name: &str) -> R<Run> {
    TABLE.iter().find(|(known, _)| *known == short(name)).map(|(_, run)| *run).ok_or_else(|| {
        let mut error = TemplateError::new(
            TemplateErrorKind::Lookup,
            format!("The lookup plugin '{name}' was not found."),
        );
        error.hint = super::closest(name, names().into_iter());
        error
    })
}

fn failed(name: &str, error: TemplateError) -> TemplateError {
    if error.is_final() || error.is_undefined() {
        return error;
    }
    TemplateError {
        kind: TemplateErrorKind::Lookup,
        message: format!("The lookup plugin '{name}' failed: {}", error.message),
        ..error
    }
}

/// Templates in constant terms are rendered.
fn trust(term: &V, scope: &Arc<Scope>) -> R {
    match py(term) {
        Py::Str(text) if term.is_safe() && super::looks_like_template(text) => {
            let text = Text { text: text.into(), trusted: true, vaulted: false, origin: None };
            run::settle(run::render_text(&text, scope))
        }
        Py::List(items) => {
            let all = items.to_vec()?;
            if all.iter().any(|item| item.is_safe() || matches!(py(item), Py::List(_) | Py::Dict(_)))
                && !items.tuple
            {
                return Ok(list(all.iter().map(|item| trust(item, scope)).collect::<R<Vec<_>>>()?));
            }
            Ok(term.clone())
        }
        Py::Dict(map) => {
            let all = map.to_map()?;
            if all.values().any(|item| item.is_safe() || matches!(py(item), Py::List(_) | Py::Dict(_))) {
                let mut out = indexmap::IndexMap::new();
                for (key, value) in all {
                    out.insert(key, trust(&value, scope)?);
                }
                return Ok(super::object::dict(out));
            }
            Ok(term.clone())
        }
        _ => Ok(term.clone()),
    }
}

/// `lookup(name, terms…, options…)`
pub(super) fn call(args: Args, want_list: bool, scope: &Arc<Scope>) -> R {
    let mut positional = args.positional.into_iter();
    let Some(name) = positional.next() else {
        return Err(TemplateError::runtime("lookup() missing 1 required positional argument: 'plugin_name'"));
    };
    check(&name)?;
    let name = ops::to_text(&name)?;
    let run = find(&name)?;
    let lenient = matches!(short(&name), "first_found" | "env");
    let mut want_list = want_list;
    let mut errors = "strict".to_owned();
    let mut options = Vec::new();
    for (key, value) in args.named {
        match key.as_str() {
            "wantlist" => want_list = want_list || ops::truth(&value)?,
            "errors" => errors = ops::to_text(&value)?,
            _ if is_marker(&value) && !lenient => return Ok(value),
            _ => options.push((key, value)),
        }
    }
    let mut terms = Vec::new();
    for term in positional {
        let term = trust(&term, scope)?;
        if is_marker(&term) && !lenient {
            return Ok(term);
        }
        terms.push(term);
    }
    let lookup = Lookup { scope, terms, options, in_loop: false };
    let found = match run(&lookup) {
        Ok(found) => found,
        Err(error) if error.is_final() => return Err(error),
        Err(_) if errors == "ignore" || errors == "warn" => {
            return Ok(if want_list { list(Vec::new()) } else { none() });
        }
        Err(error) => return Err(failed(&name, error)),
    };
    if want_list || found.is_empty() {
        return Ok(list(found));
    }
    if found.len() == 1
        && let Some(only) = found.first()
    {
        return Ok(only.clone());
    }
    if found.iter().all(|item| matches!(py(item), Py::Str(_))) {
        let parts: Vec<&str> = found.iter().filter_map(|item| item.as_str()).collect();
        return Ok(V::from(parts.join(",")));
    }
    Ok(list(found))
}

/// `with_<name>: terms`
pub(super) fn for_loop(name: &str, terms: &[Value], options: &Map, scope: &Arc<Scope>) -> R<Vec<Value>> {
    let run = find(name)?;
    let lenient = short(name) == "first_found";
    let mut lifted = Vec::new();
    for term in terms {
        let term = lift(term, scope)?;
        if !lenient {
            check(&term)?;
        }
        lifted.push(term);
    }
    let mut named = Vec::new();
    for (key, value) in options {
        named.push((key.to_text(), lift(value, scope)?));
    }
    let lookup = Lookup { scope, terms: lifted, options: named, in_loop: true };
    let found = run(&lookup).map_err(|error| failed(name, error))?;
    let mut out = Vec::with_capacity(found.len());
    for item in &found {
        match lower(item)? {
            Value::Omit => {}
            value => out.push(if scope.keeps_trust { value } else { value.untrusted() }),
        }
    }
    Ok(out)
}
