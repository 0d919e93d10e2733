//! Lookups that compute lists from their terms, variables and settings.

use minijinja::value::Value as V;

use super::Lookup;
use crate::template::error::TemplateError;
use crate::template::filters::{lists, random as chance, regex};
use crate::template::object::{Py, R, check, iterate, key_value, none, py, to_key, tuple, type_name};
use crate::template::ops;
use crate::template::registry::{UNSET, record};

pub(super) fn items(lookup: &Lookup<'_>) -> R<Vec<V>> {
    lists::flatten_once(lookup.terms.clone())
}

pub(super) fn list_lookup(lookup: &Lookup<'_>) -> R<Vec<V>> {
    Ok(lookup.terms.clone())
}

pub(super) fn flattened(lookup: &Lookup<'_>) -> R<Vec<V>> {
    fn walk(items: &[V], out: &mut Vec<V>, depth: u32) -> R<()> {
        if depth > 200 {
            return Err(TemplateError::limit("the list is nested too deeply"));
        }
        for item in items {
            check(item)?;
            match py(item) {
                Py::None => {}
                Py::Str("None" | "null") => {}
                Py::List(inner) => walk(&inner.to_vec()?, out, depth + 1)?,
                _ => out.push(item.clone()),
            }
        }
        Ok(())
    }
    let mut out = Vec::new();
    walk(&lookup.terms, &mut out, 0)?;
    Ok(out)
}

pub(super) fn indexed_items(lookup: &Lookup<'_>) -> R<Vec<V>> {
    let items = lists::flatten_once(lookup.terms.clone())?;
    Ok(items.into_iter().enumerate().map(|(index, item)| tuple(vec![V::from(index), item])).collect())
}

pub(super) fn random_choice(lookup: &Lookup<'_>) -> R<Vec<V>> {
    if lookup.terms.is_empty() {
        return Ok(Vec::new());
    }
    let mut generator = chance::generator(None)?;
    let index = usize::try_from(generator.below(lookup.terms.len() as u64)).unwrap_or(0);
    Ok(vec![lookup.terms[index].clone()])
}

pub(super) fn dict(lookup: &Lookup<'_>) -> R<Vec<V>> {
    let mut out = Vec::new();
    let mut terms = Vec::new();
    for term in &lookup.terms {
        check(term)?;
        match py(term) {
            Py::List(inner) => terms.extend(inner.to_vec()?),
            _ => terms.push(term.clone()),
        }
    }
    for term in terms {
        let Py::Dict(map) = py(&term) else {
            return Err(TemplateError::runtime(format!(
                "the 'dict' lookup plugin expects a dictionary, got '{}' of type <class '{}'>)",
                ops::to_text(&term)?,
                type_name(&term)
            )));
        };
        for (key, value) in map.to_map()? {
            out.push(record([("key", key_value(&key)), ("value", value)]));
        }
    }
    Ok(out)
}

pub(super) fn nested(lookup: &Lookup<'_>) -> R<Vec<V>> {
    if lookup.terms.is_empty() {
        return Err(TemplateError::runtime("with_nested requires at least one element in the nested list"));
    }
    let columns = lookup
        .terms
        .iter()
        .map(|term| match py(term) {
            Py::List(items) => items.to_vec(),
            _ => check(term).map(|()| vec![term.clone()]),
        })
        .collect::<R<Vec<_>>>()?;
    lists::cartesian(&columns)?
        .into_iter()
        .map(|row| lists::flatten_once(row).map(crate::template::object::list))
        .collect()
}

pub(super) fn together(lookup: &Lookup<'_>) -> R<Vec<V>> {
    if lookup.terms.is_empty() {
        return Err(TemplateError::runtime("with_together requires at least one element in each list"));
    }
    let columns = lookup.terms.iter().map(iterate).collect::<R<Vec<_>>>()?;
    let rows = columns.iter().map(Vec::len).max().unwrap_or(0);
    (0..rows)
        .map(|row| {
            let items = columns.iter().map(|column| column.get(row).cloned().unwrap_or_else(none)).collect();
            lists::flatten_once(items).map(crate::template::object::list)
        })
        .collect()
}

pub(super) fn subelements(lookup: &Lookup<'_>) -> R<Vec<V>> {
    let wrong = |why: &str| {
        TemplateError::runtime(format!("subelements lookup expects a list of two or three items, {why}"))
    };
    let (first, path, flags) = match lookup.terms.as_slice() {
        [first, path] => (first, path, None),
        [first, path, flags] => (first, path, Some(flags)),
        _ => return Err(wrong("")),
    };
    check(first)?;
    let skip_missing = match flags.map(py) {
        Some(Py::Dict(flags)) => match flags.get_str("skip_missing")? {
            _ if flags.to_map()?.keys().any(|key| key.as_str() != Some("skip_missing")) => {
                return Err(wrong("the optional third item must be a dict with flags [skip_missing]"));
            }
            Some(value) => crate::template::object::lower(&value)?.to_bool().unwrap_or(false),
            None => false,
        },
        Some(_) => return Err(wrong("the optional third item must be a dict with flags [skip_missing]")),
        None => match lookup.option("skip_missing") {
            Some(value) => crate::template::object::lower(value)?.to_bool().unwrap_or(false),
            None => false,
        },
    };
    let is_skipped = |item: &V| -> R<bool> {
        match py(item) {
            Py::Dict(map) => match map.get_str("skipped")? {
                Some(value) => ops::truth(&value),
                None => Ok(false),
            },
            _ => Ok(false),
        }
    };
    let elements = match py(first) {
        Py::Dict(map) => {
            if is_skipped(first)? {
                return Ok(Vec::new());
            }
            map.to_map()?.into_values().collect()
        }
        Py::List(items) => items.to_vec()?,
        _ => return Err(wrong("first a dict or a list, second a string pointing to the subkey")),
    };
    let Py::Str(path) = py(path) else {
        return Err(wrong("first a dict or a list, second a string pointing to the subkey"));
    };
    let parts: Vec<&str> = path.split('.').collect();
    let mut out = Vec::new();
    for element in elements {
        let Py::Dict(map) = py(&element) else {
            return Err(TemplateError::runtime(format!(
                "subelements lookup expects a dictionary, got '{}'",
                ops::to_text(&element)?
            )));
        };
        if is_skipped(&element)? {
            continue;
        }
        let mut value = element.clone();
        let mut found = None;
        for (index, part) in parts.iter().enumerate() {
            let next = match py(&value) {
                Py::Dict(map) => map.get_str(part)?,
                _ => None,
            };
            let Some(next) = next else {
                if skip_missing {
                    break;
                }
                return Err(TemplateError::runtime(format!(
                    "could not find '{part}' key in iterated item '{}'",
                    ops::to_text(&value)?
                )));
            };
            check(&next)?;
            if index + 1 < parts.len() {
                if !matches!(py(&next), Py::Dict(_)) {
                    if skip_missing {
                        break;
                    }
                    return Err(TemplateError::runtime(format!(
                        "the key {part} should point to a dictionary, got '{}'",
                        ops::to_text(&next)?
                    )));
                }
                value = next;
            } else if let Py::List(items) = py(&next) {
                found = Some(items.to_vec()?);
            } else {
                return Err(TemplateError::runtime(format!(
                    "the key {part} should point to a list, got '{}'",
                    ops::to_text(&next)?
                )));
            }
        }
        // The list itself is left out of the element that comes with each of its items.
        let mut rest = map.to_map()?;
        if found.is_some() && parts.len() == 1 {
            rest.shift_remove(&to_key(&V::from(parts[0]))?);
        } else if found.is_some() {
            rest = without(&rest, &parts)?;
        }
        let element = crate::template::object::dict(rest);
        for item in found.unwrap_or_default() {
            out.push(tuple(vec![element.clone(), item]));
        }
    }
    Ok(out)
}

type Entries = indexmap::IndexMap<crate::value::Value, V>;

fn without(map: &Entries, path: &[&str]) -> R<Entries> {
    let mut out = map.clone();
    let Some((first, rest)) = path.split_first() else { return Ok(out) };
    let key = to_key(&V::from(*first))?;
    if rest.is_empty() {
        out.shift_remove(&key);
    } else if let Some(inner) = map.get(&key)
        && let Py::Dict(inner) = py(inner)
    {
        out.insert(key, crate::template::object::dict(without(&inner.to_map()?, rest)?));
    }
    Ok(out)
}

pub(super) fn sequence(lookup: &Lookup<'_>) -> R<Vec<V>> {
    let number = |name: &str, text: &str| -> R<i64> {
        text.trim().parse().map_err(|_| {
            TemplateError::runtime(format!(
                "Config '{name}' for 'sequence' lookup plugin from 'Direct' has an invalid value: Invalid value provided for 'integer': '{text}'"
            ))
        })
    };
    // Only the short form takes hexadecimal numbers.
    let decimal = |text: &str| -> String {
        let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
        let value = digits.and_then(|digits| i64::from_str_radix(digits, 16).ok());
        value.map_or_else(|| text.to_owned(), |value| value.to_string())
    };
    let mut terms: Vec<String> = lookup.terms.iter().map(ops::to_text).collect::<R<_>>()?;
    if terms.is_empty() && !lookup.options.is_empty() {
        terms.push(String::new());
    }
    let shortcut = regex::compile(
        r"(?i)^((0x)?[0-9a-f]+\-)?((0x)?[0-9a-f]+)(\/((0x)?[0-9a-f]+))?(:(.+))?$",
        false,
        false,
    )?;
    let mut out = Vec::new();
    for term in terms {
        let mut start = 1;
        let (mut end, mut count) = (None, None);
        let mut stride = 1;
        let mut format = "%d".to_owned();
        let mut set = |name: &str, value: &str| -> R<()> {
            match name {
                "start" => start = number(name, value)?,
                "end" => end = Some(number(name, value)?),
                "count" => count = Some(number(name, value)?),
                "stride" => stride = number(name, value)?,
                "format" => format = value.to_owned(),
                other => {
                    return Err(TemplateError::runtime(format!(
                        "unrecognized arguments to with_sequence: ['{other}']"
                    )));
                }
            }
            Ok(())
        };
        for (name, value) in &lookup.options {
            set(name, &ops::to_text(value)?)?;
        }
        let captures = shortcut.captures(&term).ok().flatten();
        if let Some(captures) = captures {
            let group = |index: usize| captures.get(index).map(|found| found.as_str().to_owned());
            if let Some(start) = group(1) {
                set("start", &decimal(start.trim_end_matches('-')))?;
            }
            if let Some(end) = group(3) {
                set("end", &decimal(&end))?;
            }
            if let Some(stride) = group(6) {
                set("stride", &decimal(&stride))?;
            }
            if let Some(format) = group(9) {
                set("format", &format)?;
            }
        } else {
            for (name, value) in super::files::key_values(&term).1 {
                set(&name, &value)?;
            }
        }
        let last = match (end, count) {
            (None, None) => return Err(TemplateError::runtime("must specify count or end in with_sequence")),
            (Some(_), Some(_)) => {
                return Err(TemplateError::runtime("can't specify both count and end in with_sequence"));
            }
            (None, Some(0)) => continue,
            (None, Some(count)) => start + count * stride - 1,
            (Some(end), None) => end,
        };
        if stride > 0 && last < start {
            return Err(TemplateError::runtime("to count backwards make stride negative"));
        }
        if stride < 0 && last > start {
            return Err(TemplateError::runtime("to count forward don't make stride negative"));
        }
        if stride == 0 {
            continue;
        }
        if format.matches('%').count() != 1 {
            return Err(TemplateError::runtime(format!("bad formatting string: {format}")));
        }
        if (last - start) / stride > 5_000_000 {
            return Err(TemplateError::limit("the sequence is too long"));
        }
        let mut at = start;
        while (stride > 0 && at <= last) || (stride < 0 && at >= last) {
            let text = ops::percent_format(&format, &tuple(vec![V::from(at)]))
                .map_err(|_| TemplateError::runtime(format!("problem formatting {at} with '{format}'")))?;
            out.push(V::from(text));
            at += stride;
        }
    }
    Ok(out)
}

pub(super) fn env(lookup: &Lookup<'_>) -> R<Vec<V>> {
    let default = lookup.option("default").cloned();
    let mut out = Vec::new();
    for term in &lookup.terms {
        let name = ops::to_text(term)?;
        let name = name.split_whitespace().next().unwrap_or_default();
        out.push(match std::env::var_os(name) {
            Some(value) => V::from(value.to_string_lossy().into_owned()),
            None => match &default {
                Some(default) => {
                    check(default).map_err(|error| match error.message == UNSET {
                        true => TemplateError::undefined(
                            name,
                            format!("The environment variable '{name}' is not set."),
                        ),
                        false => error,
                    })?;
                    default.clone()
                }
                None => V::from(""),
            },
        });
    }
    Ok(out)
}

pub(super) fn vars(lookup: &Lookup<'_>) -> R<Vec<V>> {
    let default = lookup.option("default").cloned();
    let mut out = Vec::new();
    for term in &lookup.terms {
        let Py::Str(name) = py(term) else {
            return Err(TemplateError::runtime(format!(
                "Variable name must be 'str' not '{}'.",
                crate::template::object::type_name(term)
            )));
        };
        let value = match lookup.scope.variable(name)? {
            Some(value) => value,
            None => match &default {
                Some(default) => default.clone(),
                None => {
                    return Err(TemplateError::undefined(
                        name,
                        format!("No variable named '{name}' was found."),
                    ));
                }
            },
        };
        check(&value)?;
        out.push(value);
    }
    Ok(out)
}

pub(super) fn varnames(lookup: &Lookup<'_>) -> R<Vec<V>> {
    let names = lookup.scope.vars.names();
    let mut out = Vec::new();
    for term in &lookup.terms {
        let Py::Str(pattern) = py(term) else {
            return Err(TemplateError::runtime(format!(
                "Invalid setting identifier, \"{}\" is not a string, its type is {}",
                ops::to_text(term)?,
                crate::template::object::lower(term)?.type_name()
            )));
        };
        let pattern = regex::compile(pattern, false, false).map_err(|error| {
            TemplateError::runtime(format!("Unable to use \"{pattern}\" as a pattern: {}", error.message))
        })?;
        for name in &names {
            if pattern.is_match(name).unwrap_or(false) {
                out.push(V::from(name.clone()));
            }
        }
    }
    Ok(out)
}

pub(super) fn inventory_hostnames(lookup: &Lookup<'_>) -> R<Vec<V>> {
    let mut patterns = Vec::new();
    for term in lists::flatten_once(lookup.terms.clone())? {
        patterns.push(ops::to_text(&term)?);
    }
    let Some(services) = &lookup.scope.shared.options.services else {
        return Err(TemplateError::runtime("there is no inventory"));
    };
    let hosts = services.inventory_hostnames(&patterns.join(",")).map_err(TemplateError::runtime)?;
    Ok(hosts.into_iter().map(V::from).collect())
}

pub(super) fn config(lookup: &Lookup<'_>) -> R<Vec<V>> {
    let on_missing = lookup.text("on_missing", "error")?;
    let Some(services) = &lookup.scope.shared.options.services else {
        return Err(TemplateError::runtime("there is no configuration"));
    };
    let mut out = Vec::new();
    for term in &lookup.terms {
        let name = ops::to_text(term)?;
        match services.config(&name).map_err(TemplateError::runtime)? {
            Some(value) => out.push(crate::template::object::lift(&value, lookup.scope)?),
            None if on_missing == "error" => {
                return Err(TemplateError::runtime(format!(
                    "Requested entry (plugin_type: None, plugin: None, setting: {name}) was not defined in configuration."
                )));
            }
            None => {}
        }
    }
    Ok(out)
}

pub(super) fn merge_variables(lookup: &Lookup<'_>) -> R<Vec<V>> {
    let how = lookup.text("pattern_type", "regex")?;
    let initial = lookup.option("initial_value").cloned();
    let mut names: Vec<_> = lookup.scope.vars.names();
    names.sort();
    let mut out = Vec::new();
    for term in &lookup.terms {
        let pattern = ops::to_text(term)?;
        let mut merged = initial.clone();
        for name in &names {
            let hit = match how.as_str() {
                "prefix" => name.starts_with(pattern.as_str()),
                "suffix" => name.ends_with(pattern.as_str()),
                _ => regex::compile(&pattern, false, false)?.is_match(name).unwrap_or(false),
            };
            if !hit {
                continue;
            }
            let Some(value) = lookup.scope.variable(name)? else { continue };
            check(&value)?;
            merged = Some(match merged {
                None => value,
                Some(known) => match (py(&known), py(&value)) {
                    (Py::Dict(_), Py::Dict(_)) => {
                        crate::template::filters::data::merge(&known, &value, true, "append")?
                    }
                    (Py::List(_), Py::List(_)) => ops::add(&known, &value)?,
                    _ => {
                        return Err(TemplateError::runtime("variables of different types can't be merged"));
                    }
                },
            });
        }
        out.push(merged.unwrap_or_else(none));
    }
    Ok(out)
}
