//! Filters that read and write YAML.

use minijinja::value::Value as V;

use crate::source;
use crate::source::emit::{Layout, Style};
use crate::template::error::TemplateError;
use crate::template::object::{Py, R, lift, list, lower, none, py};
use crate::template::ops;
use crate::template::registry::{Call, Function, function};

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
            "encoding" | "line_break" | "version" | "tags" | "vault_to_text" | "dump_vault_tags" => {}
            other => {
                return Err(TemplateError::runtime(format!(
                    "dump_all() got an unexpected or unsupported keyword argument '{other}'"
                )));
            }
        }
    }
    let text = source::emit::dump(&lower(&call.input())?, &layout);
    // A lone scalar is not closed by a document end marker.
    let open = !layout.explicit_end && text.ends_with("\n...\n");
    Ok(V::from(if open { &text[..text.len() - 4] } else { &text }))
}

fn parse(text: &str, call: &Call) -> R {
    if text.trim().is_empty() {
        return Ok(none());
    }
    let (value, _) = source::parse_value("<unicode string>", text)
        .map_err(|problem| TemplateError::runtime(format!("YAML parsing failed: {problem}")))?;
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
