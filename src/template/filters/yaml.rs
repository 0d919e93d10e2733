//! Filters that read and write YAML.

use std::sync::Arc;

use minijinja::value::Value as V;

use crate::diagnostic::Diagnostic;
use crate::source;
use crate::source::emit::{Layout, Style};
use crate::template::error::TemplateError;
use crate::template::object::{Py, R, lift, list, lower, none, py};
use crate::template::ops;
use crate::template::registry::{Call, Function, function};
use crate::template::run::Scope;
use crate::value::{Value, VaultText};

pub(super) const TABLE: &[Function] = &[
    function("to_yaml", "a * **", |call| to_yaml(call, Layout::to_yaml())),
    function("to_nice_yaml", "a indent? **", |call| {
        let mut layout = Layout::to_nice_yaml();
        if let Some(indent) = call.int(1)? {
            layout.indent = usize::try_from(indent).unwrap_or(4);
        }
        to_yaml(call, layout)
    }),
    function("from_yaml", "data", from_yaml),
    function("from_yaml_all", "data", from_yaml_all),
];

fn to_yaml(call: &mut Call, mut layout: Layout) -> R {
    let mut seals = true;
    for (name, value) in &call.extra {
        let number = || super::lists::whole(value).map(|number| usize::try_from(number).unwrap_or(0));
        match name.as_str() {
            "indent" if value.is_none() => {}
            "indent" => layout.indent = number()?,
            "width" if value.is_none() => {}
            // A width of infinity or less than nothing means that lines are never broken.
            "width" => {
                layout.width = match ops::number(value) {
                    Some(ops::Num::Float(width)) if width.is_infinite() => usize::MAX,
                    _ => number()?,
                }
            }
            "sort_keys" => layout.sort_keys = ops::truth(value)?,
            "allow_unicode" => layout.allow_unicode = ops::truth(value)?,
            "explicit_start" => layout.explicit_start = ops::truth(value)?,
            "explicit_end" => layout.explicit_end = ops::truth(value)?,
            "default_flow_style" => {
                layout.flow = if value.is_none() { None } else { Some(ops::truth(value)?) };
            }
            "canonical" => layout.canonical = ops::truth(value)?,
            "default_style" if value.is_none() => {}
            "default_style" => layout.style = value.as_str().and_then(Style::of_sign),
            "dump_vault_tags" => seals = value.is_none() || ops::truth(value)?,
            "encoding" | "line_break" | "version" | "tags" | "vault_to_text" => {}
            other => {
                return Err(TemplateError::runtime(format!(
                    "dump_all() got an unexpected or unsupported keyword argument '{other}'"
                )));
            }
        }
    }
    let value = lower(&call.input())?;
    let sealed = if seals { sealed(&value, &call.scope) } else { None };
    let text = source::emit::dump(sealed.as_ref().unwrap_or(&value), &layout);
    // A lone scalar is not closed by a document end marker.
    let open = !layout.explicit_end && text.ends_with("\n...\n");
    Ok(V::from(if open { &text[..text.len() - 4] } else { &text }))
}

/// The value with what was vaulted as it was written; `None` if nothing was.
fn sealed(value: &Value, scope: &Scope) -> Option<Value> {
    match value {
        Value::Str(text) if text.vaulted => {
            let envelope = scope.envelope(&text.text)?;
            Some(Value::Vault(Arc::new(VaultText { envelope, origin: text.origin.clone() })))
        }
        Value::List(items) => {
            let found: Vec<_> = items.iter().map(|item| sealed(item, scope)).collect();
            found.iter().any(Option::is_some).then(|| {
                let both = found.into_iter().zip(items.iter());
                Value::list(both.map(|(found, item)| found.unwrap_or_else(|| item.clone())).collect())
            })
        }
        Value::Map(map) => {
            let found: Vec<_> = map.values().map(|item| sealed(item, scope)).collect();
            found.iter().any(Option::is_some).then(|| {
                let both = found.into_iter().zip(map.iter());
                let entry = |(found, (key, item)): (Option<Value>, (&Value, &Value))| {
                    (key.clone(), found.unwrap_or_else(|| item.clone()))
                };
                Value::map(both.map(entry).collect())
            })
        }
        _ => None,
    }
}

/// That a text is no YAML, laid out as the library does it that people know: what, then where.
fn unreadable(problem: &Diagnostic) -> TemplateError {
    let what = problem.message.trim_start_matches("invalid YAML: ");
    let place = problem.origin.as_ref().map_or_else(String::new, |origin| {
        format!("\n  in \"<unicode string>\", line {}, column {}", origin.line, origin.column)
    });
    TemplateError::runtime(match what.split_once(", ") {
        Some((during, what)) if during.starts_with("while ") => format!("{during}\n{what}{place}"),
        _ => format!("{what}{place}"),
    })
}

fn parse(text: &str, call: &Call) -> R {
    if text.trim().is_empty() {
        return Ok(none());
    }
    let (value, _) = source::parse_value("<unicode string>", text).map_err(|problem| unreadable(&problem))?;
    lift(&value.untrusted(), &call.scope)
}

fn from_yaml(call: &mut Call) -> R {
    let input = call.input();
    match py(&input) {
        Py::Str(text) => parse(text, call),
        _ => Ok(input),
    }
}

/// Documents of a stream: they are parted by lines that start with `---`.
fn documents(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut current = String::new();
    let mut has_start = false;
    for line in text.split_inclusive('\n') {
        let ends = line.trim_end() == "...";
        if line.trim_end() == "---" || line.starts_with("--- ") || ends {
            if has_start || !current.trim().is_empty() {
                out.push(std::mem::take(&mut current));
            }
            current.clear();
            has_start = !ends;
            if let Some(rest) = line.strip_prefix("--- ") {
                current.push_str(rest);
            }
        } else {
            current.push_str(line);
        }
    }
    if has_start || !current.trim().is_empty() {
        out.push(current);
    }
    out
}

fn from_yaml_all(call: &mut Call) -> R {
    let input = call.input();
    match py(&input) {
        Py::None => Ok(list(Vec::new())),
        Py::Str(text) => {
            documents(text).iter().map(|text| parse(text, call)).collect::<R<Vec<_>>>().map(list)
        }
        _ => Ok(input),
    }
}
