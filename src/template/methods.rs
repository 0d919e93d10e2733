//! Python's methods on strings, lists, dicts, numbers and dates.

use indexmap::IndexMap;
use minijinja::State;
use minijinja::value::Value as V;

use super::error::TemplateError;
use super::object::{
    self, Dict, List, Py, R, check, dict, int, iterate, list, none, py, strings, tuple, type_name,
};
use super::ops::{self, Num, number};
use super::registry::Args;
use super::special::{Bytes, Cycler, FunctionObject, Moment, Namespace, Span};
use crate::value::Value;

const STR: &[&str] = &[
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];
const LIST: &[&str] =
    &["append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse", "sort"];
const TUPLE: &[&str] = &["count", "index"];
const DICT: &[&str] = &[
    "clear",
    "copy",
    "fromkeys",
    "get",
    "items",
    "keys",
    "pop",
    "popitem",
    "setdefault",
    "update",
    "values",
];
const INT: &[&str] =
    &["__and__", "__lshift__", "__or__", "__rshift__", "__xor__", "bit_length", "conjugate", "is_integer"];
const FLOAT: &[&str] = &["is_integer", "conjugate", "hex"];
const MOMENT: &[&str] = &[
    "ctime",
    "date",
    "isoformat",
    "isocalendar",
    "isoweekday",
    "replace",
    "strftime",
    "time",
    "timestamp",
    "timetuple",
    "toordinal",
    "weekday",
    "utctimetuple",
    "astimezone",
];
const SPAN: &[&str] = &["total_seconds"];
const CYCLER: &[&str] = &["next", "reset"];
const BYTES: &[&str] = &["decode", "hex"];

/// The method's name, if values of this type have it.
pub(super) fn find(value: &V, name: &str) -> Option<&'static str> {
    let names = match py(value) {
        Py::Str(_) => STR,
        Py::List(list) if list.tuple => TUPLE,
        Py::List(_) => LIST,
        Py::Dict(_) => DICT,
        Py::Int(_) | Py::Bool(_) => INT,
        Py::Float(_) => FLOAT,
        Py::Other => {
            if value.downcast_object_ref::<Moment>().is_some() {
                MOMENT
            } else if value.downcast_object_ref::<Span>().is_some() {
                SPAN
            } else if value.downcast_object_ref::<Cycler>().is_some() {
                CYCLER
            } else if value.downcast_object_ref::<Bytes>().is_some() {
                BYTES
            } else {
                return None;
            }
        }
        _ => return None,
    };
    names.iter().find(|known| **known == name).copied()
}

/// Attributes that are no methods, of dates and of what the engine itself provides (`loop`).
pub(super) fn property(value: &V, name: &str) -> R<Option<V>> {
    if let Some(moment) = value.downcast_object_ref::<Moment>() {
        let time = moment.time;
        return Ok(match name {
            "year" => Some(V::from(i64::from(time.year()))),
            "month" => Some(V::from(i64::from(time.month()))),
            "day" => Some(V::from(i64::from(time.day()))),
            "hour" => Some(V::from(i64::from(time.hour()))),
            "minute" => Some(V::from(i64::from(time.minute()))),
            "second" => Some(V::from(i64::from(time.second()))),
            "microsecond" => Some(V::from(i64::from(time.subsec_nanosecond() / 1000))),
            "tzinfo" => Some(none()),
            _ => None,
        });
    }
    if let Py::List(pair) = py(value)
        && pair.group
    {
        return match name {
            "grouper" => pair.get(0),
            "list" => pair.get(1),
            _ => Ok(None),
        };
    }
    if let Some(span) = value.downcast_object_ref::<Span>() {
        return Ok(match name {
            "days" => Some(V::from(span.days())),
            "seconds" => Some(V::from(span.seconds())),
            "microseconds" => Some(V::from(span.microseconds())),
            _ => None,
        });
    }
    if let Some(cycler) = value.downcast_object_ref::<Cycler>()
        && name == "current"
    {
        return Ok(Some(cycler.current()));
    }
    if let Some(module) = value.downcast_object_ref::<super::run::ModuleObject>() {
        return Ok(object::lock(&module.module.exports).get(name).cloned());
    }
    if let Some(found) = value.downcast_object_ref::<super::run::MacroObject>() {
        let code = &found.code;
        return Ok(match name {
            "name" => Some(V::from(code.name.as_str())),
            "arguments" => Some(tuple(code.params.iter().map(|param| V::from(*param)).collect())),
            "catch_kwargs" => Some(V::from(code.uses_kwargs)),
            "catch_varargs" => Some(V::from(code.uses_varargs)),
            "caller" => Some(V::from(code.uses_caller)),
            _ => None,
        });
    }
    if matches!(py(value), Py::Other) && value.downcast_object_ref::<FunctionObject>().is_none() {
        return Ok(match value.get_attr(name) {
            Ok(found) if found.is_undefined() => None,
            Ok(found) => Some(found),
            Err(_) => None,
        });
    }
    Ok(None)
}

/// `object.name(args…)`
pub(super) fn call(state: &mut State<'_, '_>, object: &V, name: &str, args: Args) -> R {
    if object::is_marker(object) {
        check(object)?;
    }
    match py(object) {
        Py::Str(text) if find(object, name).is_some() => return on_str(text, name, args),
        Py::List(items) if find(object, name).is_some() => return on_list(items, name, args),
        Py::Dict(entries) if find(object, name).is_some() => return on_dict(entries, name, args),
        Py::Int(number) if find(object, name).is_some() => return on_int(number, name, &args),
        Py::Bool(value) if find(object, name).is_some() => return on_int(i128::from(value), name, &args),
        Py::Float(number) if find(object, name).is_some() => {
            return match name {
                "is_integer" => Ok(V::from(number.fract() == 0.0)),
                "conjugate" => Ok(V::from(number)),
                _ => Err(no_method(object, name)),
            };
        }
        Py::Other => {
            if let Some(result) = on_special(object, name, &args) {
                return result;
            }
            if object.downcast_object_ref::<Namespace>().is_none()
                && object.downcast_object_ref::<super::run::ModuleObject>().is_none()
                && object.downcast_object_ref::<super::run::MacroObject>().is_none()
                && object.downcast_object_ref::<FunctionObject>().is_none()
            {
                // What the engine provides: `loop.cycle(…)`, `loop.changed(…)`.
                let result = object.call_method(state, name, &args.to_positional());
                return result.map_err(|error| TemplateError::runtime(error.to_string()));
            }
        }
        _ => {}
    }
    let function = ops::attribute(object, name)?;
    check(&function)?;
    super::registry::call_value(state, &function, args)
}

fn no_method(object: &V, name: &str) -> TemplateError {
    TemplateError::runtime(format!("'{}' object has no attribute '{name}'", type_name(object)))
}

fn text_of<'a>(value: &'a V, what: &str) -> R<&'a str> {
    check(value)?;
    match py(value) {
        Py::Str(text) => Ok(text),
        _ => Err(TemplateError::runtime(format!("{what} must be str, not {}", type_name(value)))),
    }
}

fn chars_of(args: &Args) -> R<Option<Vec<char>>> {
    match args.positional.first() {
        None => Ok(None),
        Some(value) if value.is_none() => Ok(None),
        Some(value) => Ok(Some(text_of(value, "strip arg")?.chars().collect())),
    }
}

fn integer(value: &V) -> R<i128> {
    check(value)?;
    match number(value) {
        Some(Num::Int(number)) => Ok(number),
        _ => Err(TemplateError::runtime(format!(
            "'{}' object cannot be interpreted as an integer",
            type_name(value)
        ))),
    }
}

fn is_blank(character: char) -> bool {
    character.is_whitespace() || ('\x1c'..='\x1f').contains(&character)
}

pub(super) fn py_strip(text: &str) -> &str {
    text.trim_matches(is_blank)
}

/// Python's `split()` without a separator.
pub(super) fn split_blank(text: &str, limit: Option<usize>) -> Vec<String> {
    let mut out = Vec::new();
    let mut rest = text.trim_start_matches(is_blank);
    while !rest.is_empty() {
        if limit.is_some_and(|limit| out.len() >= limit) {
            out.push(rest.trim_end_matches(is_blank).to_owned());
            return out;
        }
        let end = rest.find(is_blank).unwrap_or(rest.len());
        out.push(rest[..end].to_owned());
        rest = rest[end..].trim_start_matches(is_blank);
    }
    out
}

fn rsplit_blank(text: &str, limit: usize) -> Vec<String> {
    let mut out = Vec::new();
    let mut rest = text.trim_end_matches(is_blank);
    while !rest.is_empty() {
        if out.len() >= limit {
            out.push(rest.trim_start_matches(is_blank).to_owned());
            break;
        }
        let start =
            rest.rfind(is_blank).map_or(0, |at| at + rest[at..].chars().next().map_or(1, char::len_utf8));
        out.push(rest[start..].to_owned());
        rest = rest[..start].trim_end_matches(is_blank);
    }
    out.reverse();
    out
}

pub(super) fn split_lines(text: &str, keep_ends: bool) -> Vec<String> {
    let mut out = Vec::new();
    let mut line = String::new();
    let mut chars = text.chars().peekable();
    while let Some(character) = chars.next() {
        let ends = matches!(
            character,
            '\n' | '\r' | '\x0b' | '\x0c' | '\x1c' | '\x1d' | '\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
        );
        if !ends {
            line.push(character);
            continue;
        }
        let mut end = String::from(character);
        if character == '\r' && chars.peek() == Some(&'\n') {
            chars.next();
            end.push('\n');
        }
        if keep_ends {
            line.push_str(&end);
        }
        out.push(std::mem::take(&mut line));
    }
    if !line.is_empty() {
        out.push(line);
    }
    out
}

pub(super) fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars.flat_map(char::to_lowercase)).collect(),
        None => String::new(),
    }
}

/// Python's `title()`: a letter after a non-letter is upper case.
fn title(text: &str) -> String {
    let mut out = String::new();
    let mut in_word = false;
    for character in text.chars() {
        if character.is_alphabetic() {
            if in_word {
                out.extend(character.to_lowercase());
            } else {
                out.extend(character.to_uppercase());
            }
            in_word = true;
        } else {
            out.push(character);
            in_word = false;
        }
    }
    out
}

/// The characters `[start:end]` of the text that `find`, `count`… look at, with the offset in characters.
fn window(text: &str, args: &[V]) -> R<(String, usize)> {
    let length = text.chars().count();
    let bound = |value: Option<&V>, default: usize| -> R<usize> {
        match value {
            None => Ok(default),
            Some(value) if value.is_none() => Ok(default),
            Some(value) => {
                let index = integer(value)?;
                let length = i128::try_from(length).unwrap_or(i128::MAX);
                let index = if index < 0 { (index + length).max(0) } else { index.min(length) };
                Ok(usize::try_from(index).unwrap_or(0))
            }
        }
    };
    let start = bound(args.first(), 0)?;
    let end = bound(args.get(1), length)?;
    Ok((text.chars().skip(start).take(end.saturating_sub(start)).collect(), start))
}

fn search(text: &str, args: &Args, last: bool) -> R<Option<usize>> {
    let part = text_of(args.required(0)?, "argument")?.to_owned();
    let (window, offset) = window(text, &args.positional[1..])?;
    let found = if last { window.rfind(&part) } else { window.find(&part) };
    Ok(found.map(|at| window[..at].chars().count() + offset))
}

fn affixes(args: &Args) -> R<Vec<String>> {
    let value = args.required(0)?;
    match py(value) {
        Py::List(items) if items.tuple => items
            .to_vec()?
            .iter()
            .map(|item| text_of(item, "tuple for startswith").map(ToOwned::to_owned))
            .collect(),
        _ => Ok(vec![text_of(value, "first arg")?.to_owned()]),
    }
}

fn pad(text: &str, args: &Args, side: char) -> R {
    let width = usize::try_from(integer(args.required(0)?)?.max(0)).unwrap_or(0);
    if width > super::run::MAX_OUTPUT {
        return Err(TemplateError::limit("the text is too long"));
    }
    let fill = match args.positional.get(1) {
        Some(fill) => text_of(fill, "fill character")?.to_owned(),
        None => " ".into(),
    };
    if fill.chars().count() != 1 {
        return Err(TemplateError::runtime("The fill character must be exactly one character long"));
    }
    let missing = width.saturating_sub(text.chars().count());
    let (left, right) = match side {
        'l' => (0, missing),
        'r' => (missing, 0),
        _ => {
            let left = missing / 2 + (missing & width & 1);
            (left, missing - left)
        }
    };
    Ok(V::from(format!("{}{text}{}", fill.repeat(left), fill.repeat(right))))
}

fn on_str(text: &str, name: &str, args: Args) -> R {
    let all = |test: fn(char) -> bool| V::from(!text.is_empty() && text.chars().all(test));
    let has_cased = || text.chars().any(|c| c.is_lowercase() || c.is_uppercase());
    Ok(match name {
        "lower" => V::from(text.to_lowercase()),
        "casefold" => V::from(text.to_lowercase().replace('ß', "ss")),
        "upper" => V::from(text.to_uppercase()),
        "capitalize" => V::from(capitalize(text)),
        "title" => V::from(title(text)),
        "swapcase" => V::from(
            text.chars()
                .flat_map(|c| {
                    if c.is_uppercase() {
                        c.to_lowercase().collect::<Vec<_>>()
                    } else {
                        c.to_uppercase().collect()
                    }
                })
                .collect::<String>(),
        ),
        "strip" | "lstrip" | "rstrip" => {
            let set = chars_of(&args)?;
            let matches = |c: char| set.as_ref().map_or_else(|| is_blank(c), |set| set.contains(&c));
            V::from(match name {
                "strip" => text.trim_matches(matches),
                "lstrip" => text.trim_start_matches(matches),
                _ => text.trim_end_matches(matches),
            })
        }
        "split" | "rsplit" => {
            let separator = args.get(0, "sep");
            let limit = match args.get(1, "maxsplit") {
                Some(limit) => usize::try_from(integer(limit)?).ok(),
                None => None,
            };
            match separator {
                Some(separator) if !separator.is_none() => {
                    let separator = text_of(separator, "separator")?;
                    if separator.is_empty() {
                        return Err(TemplateError::runtime("empty separator"));
                    }
                    match (name, limit) {
                        ("split", Some(limit)) => strings(text.splitn(limit + 1, separator)),
                        ("rsplit", Some(limit)) => {
                            let mut parts: Vec<&str> = text.rsplitn(limit + 1, separator).collect();
                            parts.reverse();
                            strings(parts)
                        }
                        _ => strings(text.split(separator)),
                    }
                }
                _ => strings(match (name, limit) {
                    ("rsplit", Some(limit)) => rsplit_blank(text, limit),
                    (_, limit) => split_blank(text, limit),
                }),
            }
        }
        "splitlines" => {
            let keep = match args.get(0, "keepends") {
                Some(value) => ops::truth(value)?,
                None => false,
            };
            strings(split_lines(text, keep))
        }
        "partition" | "rpartition" => {
            let separator = text_of(args.required(0)?, "separator")?;
            if separator.is_empty() {
                return Err(TemplateError::runtime("empty separator"));
            }
            let found =
                if name == "partition" { text.split_once(separator) } else { text.rsplit_once(separator) };
            let parts = match found {
                Some((left, right)) => [left, separator, right],
                None if name == "partition" => [text, "", ""],
                None => ["", "", text],
            };
            tuple(parts.into_iter().map(V::from).collect())
        }
        "replace" => {
            let (old, new) = (
                text_of(args.required(0)?, "replace() argument 1")?,
                text_of(args.required(1)?, "replace() argument 2")?,
            );
            match args.get(2, "count") {
                Some(count) => match usize::try_from(integer(count)?) {
                    Ok(count) => V::from(text.replacen(old, new, count)),
                    Err(_) => V::from(text.replace(old, new)),
                },
                None => V::from(text.replace(old, new)),
            }
        }
        "startswith" | "endswith" => {
            let (window, _) = window(text, args.positional.get(1..).unwrap_or_default())?;
            let affixes = affixes(&args)?;
            V::from(affixes.iter().any(|affix| {
                if name == "startswith" {
                    window.starts_with(affix.as_str())
                } else {
                    window.ends_with(affix.as_str())
                }
            }))
        }
        "removeprefix" => {
            let prefix = text_of(args.required(0)?, "removeprefix() argument")?;
            V::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let suffix = text_of(args.required(0)?, "removesuffix() argument")?;
            V::from(if suffix.is_empty() { text } else { text.strip_suffix(suffix).unwrap_or(text) })
        }
        "find" | "rfind" => V::from(
            search(text, &args, name == "rfind")?.map_or(-1, |at| i64::try_from(at).unwrap_or(i64::MAX)),
        ),
        "index" | "rindex" => V::from(
            search(text, &args, name == "rindex")?
                .ok_or_else(|| TemplateError::runtime("substring not found"))?,
        ),
        "count" => {
            let part = text_of(args.required(0)?, "argument")?;
            let (window, _) = window(text, &args.positional[1..])?;
            V::from(if part.is_empty() { window.chars().count() + 1 } else { window.matches(part).count() })
        }
        "join" => {
            let mut parts = Vec::new();
            for (index, item) in iterate(args.required(0)?)?.iter().enumerate() {
                check(item)?;
                match py(item) {
                    Py::Str(part) => parts.push(part.to_owned()),
                    _ => {
                        return Err(TemplateError::runtime(format!(
                            "sequence item {index}: expected str instance, {} found",
                            type_name(item)
                        )));
                    }
                }
            }
            V::from(parts.join(text))
        }
        "ljust" => pad(text, &args, 'l')?,
        "rjust" => pad(text, &args, 'r')?,
        "center" => pad(text, &args, 'c')?,
        "zfill" => {
            let width = usize::try_from(integer(args.required(0)?)?.max(0)).unwrap_or(0).min(1 << 20);
            let sign = usize::from(text.starts_with(['-', '+']));
            let fill = "0".repeat(width.saturating_sub(text.chars().count()));
            V::from(format!("{}{fill}{}", &text[..sign], &text[sign..]))
        }
        "expandtabs" => {
            let size = match args.get(0, "tabsize") {
                Some(size) => usize::try_from(integer(size)?).unwrap_or(0),
                None => 8,
            };
            let mut out = String::new();
            let mut column = 0;
            for character in text.chars() {
                match character {
                    '\t' => {
                        let fill = if size == 0 { 0 } else { size - column % size };
                        out.push_str(&" ".repeat(fill));
                        column += fill;
                    }
                    '\n' | '\r' => {
                        out.push(character);
                        column = 0;
                    }
                    _ => {
                        out.push(character);
                        column += 1;
                    }
                }
            }
            V::from(out)
        }
        "isalnum" => all(char::is_alphanumeric),
        "isalpha" => all(char::is_alphabetic),
        "isascii" => V::from(text.is_ascii()),
        "isdigit" | "isdecimal" | "isnumeric" => all(char::is_numeric),
        "isspace" => all(is_blank),
        "isprintable" => V::from(text.chars().all(|c| !c.is_control())),
        "islower" => V::from(has_cased() && !text.chars().any(char::is_uppercase)),
        "isupper" => V::from(has_cased() && !text.chars().any(char::is_lowercase)),
        "istitle" => V::from(has_cased() && title(text) == text),
        "isidentifier" => V::from(
            !text.is_empty()
                && !text.starts_with(|c: char| c.is_numeric())
                && text.chars().all(|c| c == '_' || c.is_alphanumeric()),
        ),
        "encode" => V::from_object(Bytes(text.as_bytes().to_vec())),
        "format" => V::from(super::format::format(text, &args.positional, &args.named)?),
        "format_map" => {
            let Py::Dict(map) = py(args.required(0)?) else {
                return Err(TemplateError::runtime("format_map() argument must be a mapping"));
            };
            let named: Vec<(String, V)> =
                map.to_map()?.into_iter().map(|(key, value)| (key.to_text(), value)).collect();
            V::from(super::format::format(text, &[], &named)?)
        }
        "translate" => {
            let Py::Dict(table) = py(args.required(0)?) else {
                return Err(TemplateError::runtime("the translation table must be a dict"));
            };
            let mut out = String::new();
            for character in text.chars() {
                match table.get(&Value::Int(i64::from(u32::from(character))))? {
                    None => out.push(character),
                    Some(value) if value.is_none() => {}
                    Some(value) => match number(&value) {
                        Some(Num::Int(code)) => out.extend(u32::try_from(code).ok().and_then(char::from_u32)),
                        _ => out.push_str(&ops::to_text(&value)?),
                    },
                }
            }
            V::from(out)
        }
        _ => return Err(no_method(&V::from(text), name)),
    })
}

fn on_list(items: &List, name: &str, args: Args) -> R {
    match name {
        "append" => {
            let value = args.required(0)?.clone();
            items.change(|items| items.push(value))?;
            Ok(none())
        }
        "extend" => {
            let more = iterate(args.required(0)?)?;
            items.change(|items| items.extend(more))?;
            Ok(none())
        }
        "insert" => {
            let (at, value) = (integer(args.required(0)?)?, args.required(1)?.clone());
            items.change(|items| {
                let length = i128::try_from(items.len()).unwrap_or(i128::MAX);
                let at = (if at < 0 { at + length } else { at }).clamp(0, length);
                items.insert(usize::try_from(at).unwrap_or(0), value);
            })?;
            Ok(none())
        }
        "pop" => {
            let at = match args.positional.first() {
                Some(at) => integer(at)?,
                None => -1,
            };
            items.change(|items| match ops::position(at, items.len()) {
                Some(at) => Ok(items.remove(at)),
                None if items.is_empty() => Err(TemplateError::runtime("pop from empty list")),
                None => Err(TemplateError::runtime("pop index out of range")),
            })?
        }
        "remove" => {
            let wanted = args.required(0)?;
            let mut found = None;
            for (index, item) in items.to_vec()?.iter().enumerate() {
                if ops::equal(item, wanted)? {
                    found = Some(index);
                    break;
                }
            }
            let found = found.ok_or_else(|| TemplateError::runtime("list.remove(x): x not in list"))?;
            items.change(|items| items.remove(found))?;
            Ok(none())
        }
        "clear" => {
            items.change(Vec::clear)?;
            Ok(none())
        }
        "reverse" => {
            items.change(|items| items.reverse())?;
            Ok(none())
        }
        "sort" => {
            let reverse = match args.named("reverse") {
                Some(value) => ops::truth(value)?,
                None => false,
            };
            let sorted = super::filters::lists::sorted(items.to_vec()?, reverse, |value| Ok(value.clone()))?;
            items.change(|items| *items = sorted)?;
            Ok(none())
        }
        "copy" => Ok(list(items.to_vec()?)),
        "count" => {
            let wanted = args.required(0)?;
            let mut count = 0_i64;
            for item in items.to_vec()? {
                count += i64::from(ops::equal(&item, wanted)?);
            }
            Ok(V::from(count))
        }
        "index" => {
            let wanted = args.required(0)?;
            let start = match args.positional.get(1) {
                Some(start) => usize::try_from(integer(start)?).unwrap_or(0),
                None => 0,
            };
            for (index, item) in items.to_vec()?.iter().enumerate().skip(start) {
                if ops::equal(item, wanted)? {
                    return Ok(V::from(index));
                }
            }
            let kind = if items.tuple {
                "tuple.index(x): x not in tuple".into()
            } else {
                format!("{} is not in list", ops::repr(wanted)?)
            };
            Err(TemplateError::runtime(kind))
        }
        _ => Err(TemplateError::runtime(format!("'list' object has no attribute '{name}'"))),
    }
}

/// Entries from a dict, a list of pairs and keyword arguments, as `dict(…)` and `update(…)` take them.
pub(super) fn entries(args: &Args) -> R<IndexMap<Value, V>> {
    let mut out = IndexMap::new();
    if let Some(source) = args.positional.first() {
        check(source)?;
        if let Py::Dict(map) = py(source) {
            out = map.to_map()?;
        } else {
            for (index, pair) in iterate(source)?.iter().enumerate() {
                let parts = iterate(pair)?;
                let [key, value] = parts.as_slice() else {
                    return Err(TemplateError::runtime(format!(
                        "dictionary update sequence element #{index} has length {}; 2 is required",
                        parts.len()
                    )));
                };
                out.insert(object::to_key(key)?, value.clone());
            }
        }
    }
    for (name, value) in &args.named {
        out.insert(Value::str(name.as_str()), value.clone());
    }
    Ok(out)
}

fn on_dict(map: &Dict, name: &str, args: Args) -> R {
    match name {
        "get" => match map.get(&object::to_key(args.required(0)?)?)? {
            Some(value) => Ok(value),
            None => Ok(args.get(1, "default").cloned().unwrap_or_else(none)),
        },
        "keys" => Ok(list(map.keys().iter().map(object::key_value).collect())),
        "values" => Ok(list(map.to_map()?.into_values().collect())),
        "items" => Ok(list(
            map.to_map()?
                .into_iter()
                .map(|(key, value)| tuple(vec![object::key_value(&key), value]))
                .collect(),
        )),
        "update" => {
            let more = entries(&args)?;
            map.change(|map| map.extend(more))?;
            Ok(none())
        }
        "pop" => {
            let key = object::to_key(args.required(0)?)?;
            match map.change(|map| map.shift_remove(&key))? {
                Some(value) => Ok(value),
                None => args.get(1, "default").cloned().ok_or_else(|| TemplateError::runtime(key.repr())),
            }
        }
        "popitem" => match map.change(IndexMap::pop)? {
            Some((key, value)) => Ok(tuple(vec![object::key_value(&key), value])),
            None => Err(TemplateError::runtime("popitem(): dictionary is empty")),
        },
        "setdefault" => {
            let key = object::to_key(args.required(0)?)?;
            if let Some(value) = map.get(&key)? {
                return Ok(value);
            }
            let value = args.get(1, "default").cloned().unwrap_or_else(none);
            map.change(|map| map.insert(key, value.clone()))?;
            Ok(value)
        }
        "clear" => {
            map.change(IndexMap::clear)?;
            Ok(none())
        }
        "copy" => Ok(dict(map.to_map()?)),
        "fromkeys" => {
            let value = args.get(1, "value").cloned().unwrap_or_else(none);
            let mut out = IndexMap::new();
            for key in iterate(args.required(0)?)? {
                out.insert(object::to_key(&key)?, value.clone());
            }
            Ok(dict(out))
        }
        _ => Err(TemplateError::runtime(format!("'dict' object has no attribute '{name}'"))),
    }
}

fn on_int(number: i128, name: &str, args: &Args) -> R {
    let other = || integer(args.required(0)?);
    let shift =
        || -> R<u32> { u32::try_from(other()?).map_err(|_| TemplateError::runtime("negative shift count")) };
    Ok(match name {
        "__and__" => int(number & other()?),
        "__or__" => int(number | other()?),
        "__xor__" => int(number ^ other()?),
        "__lshift__" => {
            let result = number.checked_shl(shift()?).filter(|shifted| shifted.abs() < 1 << 120);
            int(result.ok_or_else(|| TemplateError::runtime("the number is too large"))?)
        }
        "__rshift__" => int(number.checked_shr(shift()?).unwrap_or(if number < 0 { -1 } else { 0 })),
        "bit_length" => int(i128::from(128 - number.unsigned_abs().leading_zeros())),
        "is_integer" => V::from(true),
        _ => int(number),
    })
}

fn on_special(object: &V, name: &str, args: &Args) -> Option<R> {
    if let Some(moment) = object.downcast_object_ref::<Moment>() {
        find(object, name)?;
        return Some(on_moment(moment, name, args));
    }
    if let Some(span) = object.downcast_object_ref::<Span>() {
        #[expect(clippy::cast_precision_loss, reason = "Python divides floats here")]
        return (name == "total_seconds").then(|| Ok(V::from(span.micros as f64 / 1_000_000.0)));
    }
    if let Some(cycler) = object.downcast_object_ref::<Cycler>() {
        return match name {
            "next" => Some(Ok(cycler.step())),
            "reset" => {
                cycler.position.store(0, std::sync::atomic::Ordering::Relaxed);
                Some(Ok(none()))
            }
            _ => None,
        };
    }
    if let Some(bytes) = object.downcast_object_ref::<Bytes>() {
        return match name {
            "decode" => Some(
                String::from_utf8(bytes.0.clone())
                    .map(V::from)
                    .map_err(|error| TemplateError::runtime(error.to_string())),
            ),
            "hex" => Some(Ok(V::from(bytes.0.iter().map(|byte| format!("{byte:02x}")).collect::<String>()))),
            _ => None,
        };
    }
    None
}

fn on_moment(moment: &Moment, name: &str, args: &Args) -> R {
    let time = moment.time;
    Ok(match name {
        "strftime" => {
            V::from(super::time::strftime(text_of(args.required(0)?, "strftime() argument 1")?, moment)?)
        }
        "isoformat" => V::from(match args.positional.first() {
            Some(separator) => moment.text().replacen(' ', text_of(separator, "isoformat() argument")?, 1),
            None => moment.iso(),
        }),
        "timestamp" => V::from(super::time::timestamp(moment)?),
        "weekday" => V::from(i64::from(time.weekday().to_monday_zero_offset())),
        "isoweekday" => V::from(i64::from(time.weekday().to_monday_one_offset())),
        "date" => V::from_object(Moment {
            time: time.date().to_datetime(jiff::civil::Time::midnight()),
            offset: None,
        }),
        "ctime" => V::from(super::time::strftime("%a %b %e %H:%M:%S %Y", moment)?),
        "toordinal" => {
            let days = time
                .date()
                .since(jiff::civil::date(1, 1, 1))
                .map_err(|e| TemplateError::runtime(e.to_string()))?;
            V::from(i64::from(days.get_days()) + 1)
        }
        "replace" => {
            let mut with = time.with();
            for (key, value) in &args.named {
                let number = integer(value)?;
                let out_of_range = || TemplateError::runtime(format!("{key} is out of range"));
                with = match key.as_str() {
                    "year" => with.year(i16::try_from(number).map_err(|_| out_of_range())?),
                    "month" => with.month(i8::try_from(number).map_err(|_| out_of_range())?),
                    "day" => with.day(i8::try_from(number).map_err(|_| out_of_range())?),
                    "hour" => with.hour(i8::try_from(number).map_err(|_| out_of_range())?),
                    "minute" => with.minute(i8::try_from(number).map_err(|_| out_of_range())?),
                    "second" => with.second(i8::try_from(number).map_err(|_| out_of_range())?),
                    "microsecond" => {
                        with.subsec_nanosecond(i32::try_from(number * 1000).map_err(|_| out_of_range())?)
                    }
                    _ => return Err(TemplateError::runtime(format!("replace() takes no argument '{key}'"))),
                };
            }
            let time = with.build().map_err(|error| TemplateError::runtime(error.to_string()))?;
            V::from_object(Moment { time, offset: moment.offset })
        }
        _ => {
            return Err(TemplateError::runtime(format!("the method '{name}' of datetime is not supported")));
        }
    })
}
