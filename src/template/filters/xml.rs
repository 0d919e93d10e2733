//! XML as dicts and back, in the way that `xmltodict` maps them.

use indexmap::IndexMap;
use minijinja::value::Value as V;
use quick_xml::Reader;
use quick_xml::events::Event;

use crate::template::error::TemplateError;
use crate::template::object::{self, Py, R, dict, key_value, list, none, py};
use crate::template::ops;
use crate::template::registry::{Call, Function, function};
use crate::value::Value;

pub(super) const TABLE: &[Function] =
    &[function("from_xml", "data engine?", from_xml), function("to_xml", "data engine? **", to_xml)];

fn only_xmltodict(call: &Call) -> R<()> {
    match call.text_or(1, "xmltodict")?.as_str() {
        "xmltodict" => Ok(()),
        other => Err(TemplateError::runtime(format!("engine: {other} is not supported"))),
    }
}

struct Element {
    name: String,
    entries: IndexMap<Value, V>,
    text: String,
}

fn add(entries: &mut IndexMap<Value, V>, name: &str, value: V) -> R<()> {
    let key = Value::str(name);
    let joined = match entries.get(&key) {
        None => value,
        Some(known) => match py(known) {
            Py::List(items) => {
                let mut items = items.to_vec()?;
                items.push(value);
                list(items)
            }
            _ => list(vec![known.clone(), value]),
        },
    };
    entries.insert(key, joined);
    Ok(())
}

fn finished(element: Element) -> V {
    let text = element.text.trim();
    if element.entries.is_empty() {
        return if text.is_empty() { none() } else { V::from(text) };
    }
    let mut entries = element.entries;
    if !text.is_empty() {
        entries.insert(Value::str("#text"), V::from(text));
    }
    dict(entries)
}

fn wrong(error: impl std::fmt::Display) -> TemplateError {
    TemplateError::runtime(format!("the XML can't be read: {error}"))
}

/// The character that `&name;` stands for.
fn entity(name: &str) -> Option<String> {
    let code = match name.strip_prefix("#x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => name.strip_prefix('#').and_then(|decimal| decimal.parse().ok()),
    };
    if let Some(character) = code.and_then(char::from_u32) {
        return Some(character.to_string());
    }
    quick_xml::escape::resolve_predefined_entity(name).map(ToOwned::to_owned)
}

fn from_xml(call: &mut Call) -> R {
    only_xmltodict(call)?;
    let text = call.text(0)?;
    let mut reader = Reader::from_str(&text);
    let mut open: Vec<Element> = Vec::new();
    let mut root = IndexMap::new();
    loop {
        let event = reader.read_event().map_err(wrong)?;
        let closes = matches!(event, Event::Empty(_) | Event::End(_));
        match event {
            Event::Start(start) | Event::Empty(start) => {
                if open.len() > 150 {
                    return Err(TemplateError::limit("the XML is nested too deeply"));
                }
                let mut entries = IndexMap::new();
                for attribute in start.attributes() {
                    let attribute = attribute.map_err(wrong)?;
                    let name = String::from_utf8_lossy(attribute.key.as_ref()).into_owned();
                    let value = attribute.unescape_value().map_err(wrong)?;
                    entries.insert(Value::str(format!("@{name}")), V::from(value.as_ref()));
                }
                let name = String::from_utf8_lossy(start.name().as_ref()).into_owned();
                open.push(Element { name, entries, text: String::new() });
            }
            Event::Text(part) => {
                if let Some(element) = open.last_mut() {
                    element.text.push_str(&part.decode().map_err(wrong)?);
                }
            }
            Event::CData(part) => {
                if let Some(element) = open.last_mut() {
                    element.text.push_str(&String::from_utf8_lossy(&part));
                }
            }
            Event::GeneralRef(reference) => {
                let name = reference.decode().map_err(wrong)?.into_owned();
                let character = entity(&name).ok_or_else(|| wrong(format!("undefined entity &{name};")))?;
                if let Some(element) = open.last_mut() {
                    element.text.push_str(&character);
                }
            }
            Event::Eof => break,
            _ => {}
        }
        if closes && let Some(element) = open.pop() {
            let name = element.name.clone();
            let value = finished(element);
            match open.last_mut() {
                Some(parent) => add(&mut parent.entries, &name, value)?,
                None => add(&mut root, &name, value)?,
            }
        }
    }
    if !open.is_empty() || root.is_empty() {
        return Err(wrong("no element found"));
    }
    Ok(dict(root))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn write(name: &str, value: &V, indent: &str, depth: usize, out: &mut String) -> R<()> {
    if depth > 150 {
        return Err(TemplateError::limit("the value is nested too deeply"));
    }
    if let Py::List(items) = py(value) {
        for item in items.to_vec()? {
            write(name, &item, indent, depth, out)?;
        }
        return Ok(());
    }
    let start = indent.repeat(depth);
    let mut attributes = String::new();
    let mut children = Vec::new();
    let mut text = String::new();
    match py(value) {
        Py::Dict(map) => {
            for (key, item) in map.to_map()? {
                let key = ops::to_text(&key_value(&key))?;
                if let Some(name) = key.strip_prefix('@') {
                    attributes.push_str(&format!(
                        " {name}=\"{}\"",
                        escape(&ops::to_text(&item)?).replace('"', "&quot;")
                    ));
                } else if key == "#text" {
                    text = ops::to_text(&item)?;
                } else {
                    children.push((key, item));
                }
            }
        }
        Py::None => {}
        Py::Bool(flag) => text = if flag { "true".into() } else { "false".into() },
        _ => text = ops::to_text(value)?,
    }
    out.push_str(&format!("{start}<{name}{attributes}>"));
    if !children.is_empty() {
        out.push('\n');
        for (key, item) in &children {
            write(key, item, indent, depth + 1, out)?;
        }
    }
    out.push_str(&escape(&text));
    if !children.is_empty() {
        out.push_str(&start);
    }
    out.push_str(&format!("</{name}>\n"));
    Ok(())
}

fn to_xml(call: &mut Call) -> R {
    only_xmltodict(call)?;
    let full = call.extra("full_document").map_or(Ok(true), ops::truth)?;
    let width = match call.extra("indent_width") {
        Some(width) => usize::try_from(super::lists::whole(width)?).unwrap_or(4).min(100),
        None => 4,
    };
    let indent = match call.extra("indent").map(ops::to_text).transpose()?.as_deref() {
        Some("spaces") => " ".repeat(width),
        _ => "\t".into(),
    };
    let input = call.input();
    let Py::Dict(map) = py(&input) else {
        return Err(TemplateError::runtime(format!(
            "to_xml wants a dictionary, not {}",
            object::type_name(&input)
        )));
    };
    let mut out = String::new();
    if full {
        if map.len() != 1 {
            return Err(TemplateError::runtime("Document must have exactly one root."));
        }
        out.push_str("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n");
    }
    for (key, value) in map.to_map()? {
        write(&ops::to_text(&key_value(&key))?, &value, &indent, 0, &mut out)?;
    }
    Ok(V::from(out.trim_end_matches('\n')))
}
