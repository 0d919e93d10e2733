//! Filters on values of any type: defaults, numbers, dicts, JSON.

use std::sync::Arc;

use indexmap::IndexMap;
use minijinja::value::Value as V;

use super::complaints;
use crate::template::error::{TemplateError, TemplateErrorKind};
use crate::template::object::{
    self, Py, R, check, dict, int, is_unsealed, iterate, key_value, lift, list, lower, marker, py, to_key,
    tuple, type_name, unsealed,
};
use crate::template::ops::{self, Num, number};
use crate::template::registry::{Call, Function, function, lenient, record};
use crate::template::special::Moment;
use crate::template::time;
use crate::value::Value;

pub(super) const TABLE: &[Function] = &[
    lenient("default", "value default_value? boolean?", default),
    lenient("d", "value default_value? boolean?", default),
    lenient("mandatory", "a msg?", mandatory),
    lenient("ternary", "value true_val false_val none_val?", ternary),
    function("bool", "value", to_bool),
    function("int", "value default? base?", to_int),
    function("float", "value default?", to_float),
    function("abs", "x", abs),
    function("round", "value precision? method?", round),
    function("log", "x base?", log),
    function("pow", "x y", pow),
    function("root", "x base?", root),
    function("attr", "obj name", |call| {
        let (object, name) = (call.input(), call.text(1)?);
        // Attributes only, never items: dicts have none but their methods.
        match py(&object) {
            Py::Dict(_) | Py::List(_) | Py::Str(_)
                if crate::template::methods::find(&object, &name).is_none() =>
            {
                if let Some(found) = crate::template::methods::property(&object, &name)? {
                    return Ok(found);
                }
                Ok(marker(TemplateError::undefined(
                    name.as_str(),
                    format!("'{}' object has no attribute '{name}'", type_name(&object)),
                )))
            }
            _ => ops::attribute(&object, &name),
        }
    }),
    function("dictsort", "value case_sensitive? by? reverse?", dictsort),
    function("items", "value", |call| match py(&call.input()) {
        Py::Dict(map) => Ok(pairs(map.to_map()?)),
        _ => Err(TemplateError::runtime("Can only get item pairs from a mapping.")),
    }),
    function("dict2items", "mydict key_name? value_name?", dict2items),
    function("items2dict", "mylist key_name? value_name?", items2dict),
    function("combine", "value * **", combine),
    function("dict", "sequence", |call| {
        let mut out = IndexMap::new();
        for pair in call.items()? {
            match iterate(&pair)?.as_slice() {
                [key, value] => {
                    out.insert(to_key(key)?, value.clone());
                }
                other => {
                    return Err(TemplateError::runtime(format!(
                        "dictionary update sequence element has length {}; 2 is required",
                        other.len()
                    )));
                }
            }
        }
        Ok(dict(out))
    }),
    function("dict_kv", "value key", |call| {
        let key = to_key(&call.arg(1).unwrap_or_default())?;
        Ok(dict(IndexMap::from([(key, call.input())])))
    }),
    function("groupby_as_dict", "sequence attribute", |call| {
        let attribute = call.text(1)?;
        let mut out = IndexMap::new();
        for (index, item) in call.items()?.into_iter().enumerate() {
            let Py::Dict(map) = py(&item) else {
                return Err(TemplateError::runtime(format!("Sequence element #{index} is not a mapping")));
            };
            let value = map.get_str(&attribute)?.ok_or_else(|| {
                TemplateError::runtime(format!("Attribute not contained in element #{index} of sequence"))
            })?;
            let key = to_key(&value)?;
            if out.contains_key(&key) {
                return Err(TemplateError::runtime(format!(
                    "Multiple sequence entries have attribute value {}",
                    key.repr()
                )));
            }
            out.insert(key, item);
        }
        Ok(dict(out))
    }),
    function("keep_keys", "data target matching_parameter?", |call| keys_filter(call, true)),
    function("remove_keys", "data target matching_parameter?", |call| keys_filter(call, false)),
    function("to_json", "a profile? **", |call| to_json(call, None)),
    function("to_nice_json", "a indent? sort_keys? **", |call| to_json(call, Some(4))),
    function("tojson", "value indent?", tojson),
    function("from_json", "a profile? **", |call| {
        let text = call.text(0)?;
        from_json(&text)
    }),
    function("json_query", "data expr", json_query),
    function("to_datetime", "string format?", |call| {
        let format = call.text_or(1, "%Y-%m-%d %H:%M:%S")?;
        Ok(V::from_object(time::strptime(&call.text(0)?, &format)?))
    }),
    function("strftime", "string_format second? utc?", strftime),
    function("vault", "data secret salt? vault_id? wrap_object? vaultid?", vault),
    lenient("unvault", "vault secret vault_id? vaultid?", unvault),
    // What is evaluated as late as possible, evaluated now.
    function("ansible._protomatter.finalize", "value", |call| lift(&lower(&call.input())?, &call.scope)),
];

/// The texts that a vault filter takes; anything else is an error that names it.
fn vault_text(call: &Call, index: usize, what: &str) -> R<String> {
    match call.arg(index).as_ref().map(py) {
        Some(Py::Str(text)) => Ok(text.to_owned()),
        _ => Err(TemplateError::runtime(format!("{what} is required to be a string"))),
    }
}

fn vault(call: &mut Call) -> R {
    let data = vault_text(call, 0, "The data passed")?;
    let secret = vault_text(call, 1, "Secret passed")?;
    let label = call.text_or(3, "filter_default")?;
    let salt = call.some(2).map(|salt| ops::to_text(&salt)).transpose()?;
    let vault = crate::vault::Vault::new([(label.as_str(), secret.as_str())]);
    let sealed = match salt {
        Some(salt) => vault.encrypt_with_salt(data.as_bytes(), &label, salt.as_bytes()),
        None => vault.encrypt(data.as_bytes(), Some(&label)),
    };
    let sealed = sealed.map_err(|error| TemplateError::runtime(format!("Unable to encrypt: {error}")))?;
    if call.flag(4, false)? {
        let plain = Arc::from(data);
        call.scope.remember(&plain, &sealed.into());
        return Ok(unsealed(plain));
    }
    Ok(V::from(sealed))
}

fn unvault(call: &mut Call) -> R {
    let input = call.input();
    let sealed = match check(&input) {
        Err(TemplateError { kind: TemplateErrorKind::Vault { envelope }, .. }) => Some(envelope),
        Err(error) => return Err(error),
        Ok(()) => None,
    };
    call.some(1).as_ref().map_or(Ok(()), check)?;
    let secret = vault_text(call, 1, "Secret passed")?;
    let text = match sealed {
        Some(envelope) => envelope.to_string(),
        None => vault_text(call, 0, "Vault")?,
    };
    let text = match call.scope.envelope(&text) {
        Some(envelope) if is_unsealed(&input) => envelope.to_string(),
        _ => text,
    };
    if !crate::vault::Vault::is_vault(text.as_bytes()) {
        return Ok(V::from(text));
    }
    let label = call.text_or(2, "filter_default")?;
    let vault = crate::vault::Vault::new([(label.as_str(), secret.as_str())]);
    vault
        .decrypt_bytes(text.as_bytes())
        .map_err(|error| error.to_string())
        .and_then(|plain| String::from_utf8(plain).map_err(|_| "it is not UTF-8".to_owned()))
        .map(V::from)
        .map_err(|error| TemplateError::runtime(format!("Unable to decrypt: {error}")))
}

fn pairs(map: IndexMap<Value, V>) -> V {
    list(map.into_iter().map(|(key, value)| tuple(vec![key_value(&key), value])).collect())
}

fn default(call: &mut Call) -> R {
    let input = call.input();
    let otherwise = || call.arg(1).unwrap_or_else(|| V::from(""));
    match check(&input) {
        Err(error) if error.is_undefined() => Ok(otherwise()),
        Err(error) => {
            if call.flag(2, false)? {
                return Err(error);
            }
            Ok(input)
        }
        Ok(()) => {
            if call.flag(2, false)? && !ops::truth(&input)? {
                return Ok(otherwise());
            }
            Ok(input)
        }
    }
}

fn mandatory(call: &mut Call) -> R {
    let input = call.input();
    match check(&input) {
        Err(error) if error.is_undefined() => {
            if let Some(message) = call.some(1) {
                return Err(TemplateError::runtime(ops::to_text(&message)?));
            }
            let name = match &error.kind {
                crate::template::TemplateErrorKind::Undefined { name } if !name.is_empty() => {
                    format!("{} ", Value::str(name.as_str()).repr())
                }
                _ => String::new(),
            };
            Err(TemplateError::runtime(format!("Mandatory variable {name}not defined.")))
        }
        _ => Ok(input),
    }
}

fn ternary(call: &mut Call) -> R {
    let input = call.input();
    if input.is_none()
        && let Some(value) = call.some(3)
    {
        return Ok(value);
    }
    let chosen = if ops::truth(&input)? { 1 } else { 2 };
    Ok(call.arg(chosen).unwrap_or_default())
}

fn to_bool(call: &mut Call) -> R {
    let input = call.input();
    Ok(V::from(match py(&input) {
        Py::Bool(value) => value,
        Py::Int(value) => value == 1,
        Py::Float(value) => value == 1.0,
        Py::Str(text) => matches!(text.to_lowercase().as_str(), "yes" | "on" | "true" | "1"),
        _ => false,
    }))
}

fn to_int(call: &mut Call) -> R {
    let input = call.input();
    let otherwise = || call.arg(1).unwrap_or_else(|| V::from(0));
    let base = call.int(2)?.unwrap_or(10);
    match py(&input) {
        Py::Str(text) => {
            if let Some(number) = parse_int(text, base) {
                return Ok(int(number));
            }
            // `int(float(value))` is tried last.
            #[expect(clippy::cast_possible_truncation, reason = "Python truncates here too")]
            Ok(parse_float(text)
                .filter(|number| number.is_finite())
                .map_or_else(otherwise, |number| int(number.trunc() as i128)))
        }
        #[expect(clippy::cast_possible_truncation, reason = "Python truncates here too")]
        Py::Float(value) if value.is_finite() => Ok(int(value.trunc() as i128)),
        Py::Bool(value) => Ok(V::from(i64::from(value))),
        Py::Int(_) => Ok(input),
        _ => Ok(otherwise()),
    }
}

/// Python's `int(text, base)`.
pub(in crate::template) fn parse_int(text: &str, base: i64) -> Option<i128> {
    let text = text.trim();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let prefixed = |prefix: &str| lower.strip_prefix(prefix).map(ToOwned::to_owned);
    let (radix, digits) = match base {
        0 => {
            if let Some(digits) = prefixed("0x") {
                (16, digits)
            } else if let Some(digits) = prefixed("0o") {
                (8, digits)
            } else if let Some(digits) = prefixed("0b") {
                (2, digits)
            } else {
                (10, lower)
            }
        }
        16 => (16, prefixed("0x").unwrap_or(lower)),
        8 => (8, prefixed("0o").unwrap_or(lower)),
        2 => (2, prefixed("0b").unwrap_or(lower)),
        base => (u32::try_from(base).ok().filter(|base| (2..=36).contains(base))?, lower),
    };
    if digits.is_empty() || digits.starts_with('_') || digits.ends_with('_') || digits.contains("__") {
        return None;
    }
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let number = i128::from_str_radix(&digits.replace('_', ""), radix).ok()?;
    Some(if negative { -number } else { number })
}

/// Python's `float(text)`.
pub(in crate::template) fn parse_float(text: &str) -> Option<f64> {
    let text = text.trim().replace('_', "");
    match text.to_ascii_lowercase().trim_start_matches(['+', '-']) {
        "inf" | "infinity" | "nan" => {}
        body if !body.starts_with(|c: char| c.is_ascii_digit() || c == '.') => return None,
        _ => {}
    }
    text.parse().ok()
}

fn to_float(call: &mut Call) -> R {
    let input = call.input();
    let otherwise = || call.arg(1).unwrap_or_else(|| V::from(0.0));
    Ok(match py(&input) {
        Py::Str(text) => parse_float(text).map_or_else(otherwise, V::from),
        _ => number(&input).map_or_else(otherwise, |number| V::from(number.float())),
    })
}

fn abs(call: &mut Call) -> R {
    let input = call.input();
    match number(&input) {
        Some(Num::Int(value)) => Ok(int(value.abs())),
        Some(Num::Float(value)) => Ok(V::from(value.abs())),
        None => Err(TemplateError::runtime(format!("bad operand type for abs(): '{}'", type_name(&input)))),
    }
}

fn round(call: &mut Call) -> R {
    let input = call.input();
    let Some(value) = number(&input) else {
        return Err(TemplateError::runtime(format!(
            "type {} doesn't define __round__ method",
            type_name(&input)
        )));
    };
    let precision = call.int(1)?.unwrap_or(0);
    let method = call.text_or(2, "common")?;
    let exponent = i32::try_from(precision).unwrap_or(0);
    match method.as_str() {
        "common" => match value {
            Num::Int(value) => {
                if precision >= 0 {
                    return Ok(int(value));
                }
                let unit = 10_i128.checked_pow(u32::try_from(-precision).unwrap_or(0)).unwrap_or(i128::MAX);
                let (quotient, rest) = (ops::floor_div(value, unit), value.rem_euclid(unit));
                let up = rest * 2 > unit || (rest * 2 == unit && quotient % 2 != 0);
                Ok(int((quotient + i128::from(up)) * unit))
            }
            Num::Float(value) => Ok(V::from(round_half_even(value, exponent))),
        },
        "ceil" | "floor" => {
            let factor = 10_f64.powi(exponent);
            let scaled = value.float() * factor;
            Ok(V::from((if method == "ceil" { scaled.ceil() } else { scaled.floor() }) / factor))
        }
        _ => Err(TemplateError::runtime("method must be common, ceil or floor")),
    }
}

/// Python's `round(x, n)`: correct to the decimal digits that the float really has.
fn round_half_even(value: f64, precision: i32) -> f64 {
    if !value.is_finite() {
        return value;
    }
    if precision >= 0 {
        let digits = usize::try_from(precision).unwrap_or(0).min(300);
        return format!("{value:.digits$}").parse().unwrap_or(value);
    }
    let unit = 10_f64.powi(-precision);
    (value / unit).round_ties_even() * unit
}

fn float_of(call: &Call, index: usize, what: &str) -> R<f64> {
    let value = call.arg(index).unwrap_or_default();
    number(&value).map(|number| number.float()).ok_or_else(|| {
        let found = type_name(&value);
        TemplateError::runtime(format!(
            "{what}() can only be used on numbers: must be real number, not {found}"
        ))
    })
}

fn log(call: &mut Call) -> R {
    let x = float_of(call, 0, "log")?;
    if x <= 0.0 {
        return Err(TemplateError::runtime("math domain error"));
    }
    Ok(V::from(match call.some(1) {
        None => x.ln(),
        Some(_) => {
            let base = float_of(call, 1, "log")?;
            if base == 10.0 { x.log10() } else { x.ln() / base.ln() }
        }
    }))
}

fn pow(call: &mut Call) -> R {
    Ok(V::from(float_of(call, 0, "pow")?.powf(float_of(call, 1, "pow")?)))
}

fn root(call: &mut Call) -> R {
    let x = float_of(call, 0, "root")?;
    let base = if call.some(1).is_some() { float_of(call, 1, "root")? } else { 2.0 };
    if x < 0.0 {
        return Err(TemplateError::runtime("root() can only be used on numbers"));
    }
    Ok(V::from(if base == 2.0 { x.sqrt() } else { x.powf(1.0 / base) }))
}

fn dictsort(call: &mut Call) -> R {
    let input = call.input();
    let Py::Dict(map) = py(&input) else {
        return Err(TemplateError::runtime(format!(
            "'{}' object has no attribute 'items'",
            type_name(&input)
        )));
    };
    let (case_sensitive, by, reverse) = (call.flag(1, false)?, call.text_or(2, "key")?, call.flag(3, false)?);
    let at = match by.as_str() {
        "key" => 0,
        "value" => 1,
        _ => return Err(TemplateError::runtime("You can only sort by either \"key\" or \"value\"")),
    };
    let items: Vec<V> =
        map.to_map()?.into_iter().map(|(key, value)| tuple(vec![key_value(&key), value])).collect();
    super::lists::sorted(items, reverse, |pair| {
        let value = ops::item(pair, &V::from(at))?;
        Ok(match py(&value) {
            Py::Str(text) if !case_sensitive => V::from(text.to_lowercase()),
            _ => value,
        })
    })
    .map(list)
}

fn dict2items(call: &mut Call) -> R {
    let input = call.input();
    let Py::Dict(map) = py(&input) else {
        return Err(TemplateError::runtime(format!(
            "dict2items requires a dictionary, got <class '{}'> instead.",
            type_name(&input)
        )));
    };
    let (key_name, value_name) = (call.text_or(1, "key")?, call.text_or(2, "value")?);
    Ok(list(
        map.to_map()?
            .into_iter()
            .map(|(key, value)| record([(&key_name, key_value(&key)), (&value_name, value)]))
            .collect(),
    ))
}

fn items2dict(call: &mut Call) -> R {
    let input = call.input();
    if !matches!(py(&input), Py::List(_)) {
        return Err(TemplateError::runtime(format!(
            "items2dict requires a list, got <class '{}'> instead.",
            type_name(&input)
        )));
    }
    let (key_name, value_name) = (call.text_or(1, "key")?, call.text_or(2, "value")?);
    let mut out = IndexMap::new();
    for item in call.items()? {
        let Py::Dict(map) = py(&item) else {
            return Err(TemplateError::runtime(format!(
                "items2dict requires a list of dictionaries, got {} instead.",
                ops::repr(&input)?
            )));
        };
        match (map.get_str(&key_name)?, map.get_str(&value_name)?) {
            (Some(key), Some(value)) => {
                out.insert(to_key(&key)?, value);
            }
            _ => {
                return Err(TemplateError::runtime(format!(
                    "items2dict requires each dictionary in the list to contain the keys '{key_name}' and '{value_name}', got {} instead.",
                    ops::repr(&input)?
                )));
            }
        }
    }
    Ok(dict(out))
}

fn combine(call: &mut Call) -> R {
    let mut recursive = false;
    let mut list_merge = "replace".to_owned();
    for (name, value) in &call.extra {
        match name.as_str() {
            "recursive" => recursive = ops::truth(value)?,
            "list_merge" => list_merge = ops::to_text(value)?,
            _ => {
                return Err(TemplateError::runtime(
                    "'recursive' and 'list_merge' are the only valid keyword arguments",
                ));
            }
        }
    }
    let mut terms = Vec::new();
    for term in std::iter::once(call.input()).chain(call.rest.iter().cloned()) {
        match py(&term) {
            Py::List(items) => terms.extend(items.to_vec()?),
            Py::None => {}
            _ => terms.push(term),
        }
    }
    let mut terms = terms.into_iter();
    let Some(mut result) = terms.next() else { return Ok(dict(IndexMap::new())) };
    let mut is_single = true;
    for term in terms {
        result = merge(&result, &term, recursive, &list_merge)?;
        is_single = false;
    }
    if is_single {
        check(&result)?;
    }
    Ok(result)
}

/// Two dicts as one; the second wins.
pub(in crate::template) fn merge(a: &V, b: &V, recursive: bool, list_merge: &str) -> R {
    check(a)?;
    check(b)?;
    let (Py::Dict(x), Py::Dict(y)) = (py(a), py(b)) else {
        return Err(TemplateError::runtime(format!(
            "failed to combine variables, expected dicts but got a '{}' and a '{}'.",
            type_name(a),
            type_name(b)
        )));
    };
    if !matches!(list_merge, "replace" | "keep" | "append" | "prepend" | "append_rp" | "prepend_rp") {
        return Err(TemplateError::runtime(
            "merge_hash: 'list_merge' argument can only be equal to 'replace', 'keep', 'append', 'prepend', 'append_rp' or 'prepend_rp'",
        ));
    }
    let mut out = x.to_map()?;
    if !recursive && list_merge == "replace" {
        out.extend(y.to_map()?);
        return Ok(dict(out));
    }
    for (key, value) in y.to_map()? {
        let Some(known) = out.get(&key).cloned() else {
            out.insert(key, value);
            continue;
        };
        let merged = match (py(&known), py(&value)) {
            (Py::Dict(_), Py::Dict(_)) if recursive => merge(&known, &value, recursive, list_merge)?,
            (Py::Dict(_), Py::Dict(_)) => value.clone(),
            (Py::List(old), Py::List(new)) => {
                let (old, new) = (old.to_vec()?, new.to_vec()?);
                let without = |items: Vec<V>, present: &[V]| -> R<Vec<V>> {
                    let present = list(present.to_vec());
                    let mut out = Vec::new();
                    for item in items {
                        if !ops::contains(&present, &item)? {
                            out.push(item);
                        }
                    }
                    Ok(out)
                };
                list(match list_merge {
                    "keep" => old,
                    "append" => [old, new].concat(),
                    "prepend" => [new, old].concat(),
                    "append_rp" => [without(old, &new)?, new].concat(),
                    "prepend_rp" => {
                        let rest = without(old, &new)?;
                        [new, rest].concat()
                    }
                    _ => new,
                })
            }
            _ => value.clone(),
        };
        out.insert(key, merged);
    }
    Ok(dict(out))
}

fn keys_filter(call: &mut Call, keep: bool) -> R {
    let how = call.text_or(2, "equal")?;
    let target = call.arg(1).unwrap_or_default();
    let targets = match py(&target) {
        Py::List(items) => items.to_vec()?.iter().map(ops::to_text).collect::<R<Vec<_>>>()?,
        _ => vec![ops::to_text(&target)?],
    };
    let matches = |key: &str| -> R<bool> {
        for target in &targets {
            let hit = match how.as_str() {
                "equal" => key == target,
                "starts_with" => key.starts_with(target.as_str()),
                "ends_with" => key.ends_with(target.as_str()),
                "regex" => super::regex::compile(target, false, false)?
                    .is_match(key)
                    .map_err(|error| TemplateError::runtime(error.to_string()))?,
                other => return Err(TemplateError::runtime(format!("unknown matching_parameter '{other}'"))),
            };
            if hit {
                return Ok(true);
            }
        }
        Ok(false)
    };
    let mut out = Vec::new();
    for item in call.items()? {
        let Py::Dict(map) = py(&item) else {
            return Err(TemplateError::runtime("the list must hold dictionaries"));
        };
        let mut kept = IndexMap::new();
        for (key, value) in map.to_map()? {
            if matches(&key.to_text())? == keep {
                kept.insert(key, value);
            }
        }
        out.push(dict(kept));
    }
    Ok(list(out))
}

// --- JSON ---

/// How JSON is laid out.
pub(in crate::template) struct JsonStyle {
    pub(in crate::template) indent: Option<String>,
    pub(in crate::template) sort_keys: bool,
    pub(in crate::template) item_separator: String,
    pub(in crate::template) key_separator: String,
    pub(in crate::template) ascii: bool,
}

impl Default for JsonStyle {
    fn default() -> JsonStyle {
        JsonStyle {
            indent: None,
            sort_keys: false,
            item_separator: ", ".into(),
            key_separator: ": ".into(),
            ascii: true,
        }
    }
}

/// Python's `json.dumps`.
pub(in crate::template) fn json(value: &V, style: &JsonStyle) -> R<String> {
    let mut out = String::new();
    write_json(value, style, 0, &mut out)?;
    Ok(out)
}

fn json_string(text: &str, ascii: bool, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            c if u32::from(c) < 0x20 || (ascii && !c.is_ascii()) || (ascii && c == '\x7f') => {
                if c == '\x7f' {
                    out.push(c);
                    continue;
                }
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn json_float(value: f64) -> String {
    if value.is_nan() {
        "NaN".into()
    } else if value.is_infinite() {
        if value > 0.0 { "Infinity".into() } else { "-Infinity".into() }
    } else {
        crate::value::float_repr(value)
    }
}

fn write_json(value: &V, style: &JsonStyle, depth: usize, out: &mut String) -> R<()> {
    if depth > 200 {
        return Err(TemplateError::limit("the value is nested too deeply"));
    }
    if out.len() > crate::template::run::MAX_OUTPUT {
        return Err(TemplateError::limit("the text is too long"));
    }
    check(value)?;
    let newline = |depth: usize, out: &mut String| {
        if let Some(indent) = &style.indent {
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
    };
    match py(value) {
        Py::None => out.push_str("null"),
        Py::Bool(value) => out.push_str(if value { "true" } else { "false" }),
        Py::Int(value) => out.push_str(&value.to_string()),
        Py::Float(value) => out.push_str(&json_float(value)),
        Py::Str(text) => json_string(text, style.ascii, out),
        Py::List(items) => {
            let items: Vec<V> =
                items.to_vec()?.into_iter().filter(|item| !matches!(py(item), Py::Omit)).collect();
            if items.is_empty() {
                out.push_str("[]");
                return Ok(());
            }
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push_str(&style.item_separator);
                }
                newline(depth + 1, out);
                write_json(item, style, depth + 1, out)?;
            }
            newline(depth, out);
            out.push(']');
        }
        Py::Dict(map) => {
            let mut entries: Vec<(Value, V)> =
                map.to_map()?.into_iter().filter(|(_, item)| !matches!(py(item), Py::Omit)).collect();
            if entries.is_empty() {
                out.push_str("{}");
                return Ok(());
            }
            if style.sort_keys {
                let mut failure = None;
                entries.sort_by(|(a, _), (b, _)| {
                    ops::order(&key_value(a), &key_value(b), "<").map_or_else(
                        |error| {
                            failure.get_or_insert(error);
                            std::cmp::Ordering::Equal
                        },
                        |order| order.unwrap_or(std::cmp::Ordering::Equal),
                    )
                });
                if let Some(error) = failure {
                    return Err(error);
                }
            }
            out.push('{');
            for (index, (key, item)) in entries.iter().enumerate() {
                if index > 0 {
                    out.push_str(&style.item_separator);
                }
                newline(depth + 1, out);
                let key = match key {
                    Value::Null => "null".into(),
                    Value::Bool(value) => {
                        if *value {
                            "true".into()
                        } else {
                            "false".into()
                        }
                    }
                    Value::Float(value) => json_float(*value),
                    Value::Int(_) | Value::Str(_) => key.to_text(),
                    other => {
                        return Err(TemplateError::runtime(format!(
                            "keys must be str, int, float, bool or None, not {}",
                            if matches!(other, Value::List(_)) { "tuple" } else { other.type_name() }
                        )));
                    }
                };
                json_string(&key, style.ascii, out);
                out.push_str(&style.key_separator);
                write_json(item, style, depth + 1, out)?;
            }
            newline(depth, out);
            out.push('}');
        }
        Py::Omit | Py::Marker(_) | Py::Undefined => out.push_str("null"),
        Py::Other => match value.downcast_object_ref::<Moment>() {
            Some(moment) => json_string(&moment.iso(), style.ascii, out),
            None => {
                if value.downcast_object_ref::<crate::template::special::Range>().is_some() {
                    return Err(TemplateError::runtime("Object of type range is not JSON serializable"));
                }
                let items = iterate(value).map_err(|_| {
                    TemplateError::runtime(format!(
                        "Object of type {} is not JSON serializable",
                        type_name(value)
                    ))
                })?;
                write_json(&list(items), style, depth, out)?;
            }
        },
    }
    Ok(())
}

fn to_json(call: &mut Call, nice: Option<i64>) -> R {
    let mut style = JsonStyle::default();
    let mut indent = None;
    let mut options: Vec<(String, V)> = call.extra.clone();
    if nice.is_some() {
        indent = Some(call.arg(1).unwrap_or_else(|| V::from(4)));
        style.sort_keys = call.flag(2, true)?;
        style.item_separator = ",".into();
    }
    let mut separators = None;
    for (name, value) in options.drain(..) {
        match name.as_str() {
            "indent" => indent = Some(value),
            "sort_keys" => style.sort_keys = ops::truth(&value)?,
            "ensure_ascii" => style.ascii = ops::truth(&value)?,
            "separators" => separators = Some(iterate(&value)?),
            "vault_to_text" | "preprocess_unsafe" | "allow_nan" | "check_circular" | "skipkeys"
            | "default" | "cls" | "profile" => {}
            other => {
                return Err(TemplateError::runtime(format!(
                    "JSONEncoder.__init__() got an unexpected keyword argument '{other}'"
                )));
            }
        }
    }
    if let Some(indent) = indent.filter(|indent| !indent.is_none()) {
        style.indent = Some(match py(&indent) {
            Py::Str(text) => text.to_owned(),
            _ => " ".repeat(usize::try_from(super::lists::whole(&indent)?).unwrap_or(0).min(1000)),
        });
        style.item_separator = ",".into();
    }
    if let Some([item, key]) = separators.as_deref()
        && nice.is_none()
    {
        style.item_separator = ops::to_text(item)?;
        style.key_separator = ops::to_text(key)?;
    }
    json(&call.input(), &style).map(V::from)
}

/// Jinja2's own JSON, safe within HTML.
fn tojson(call: &mut Call) -> R {
    let mut style = JsonStyle { sort_keys: true, ..JsonStyle::default() };
    if let Some(indent) = call.int(1)? {
        style.indent = Some(" ".repeat(usize::try_from(indent).unwrap_or(0).min(1000)));
        style.item_separator = ",".into();
    }
    let text = json(&call.input(), &style)?;
    Ok(V::from(
        text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026").replace('\'', "\\u0027"),
    ))
}

/// Text as JSON.
pub(in crate::template) fn from_json(text: &str) -> R {
    // Python's reader takes NaN and the infinities.
    if let "NaN" | "Infinity" | "-Infinity" = text.trim() {
        return Ok(V::from(match text.trim() {
            "NaN" => f64::NAN,
            "Infinity" => f64::INFINITY,
            _ => f64::NEG_INFINITY,
        }));
    }
    let parsed: serde_json::Value = serde_json::from_str(text).map_err(|error| {
        let told = complaints::json(text).unwrap_or_else(|| format!("invalid JSON: {error}"));
        TemplateError::runtime(told)
    })?;
    Ok(from_serde(&parsed))
}

pub(in crate::template) fn from_serde(value: &serde_json::Value) -> V {
    match value {
        serde_json::Value::Null => object::none(),
        serde_json::Value::Bool(value) => V::from(*value),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => V::from(number),
            (None, Some(number)) => int(i128::from(number)),
            _ => V::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => V::from(text.as_str()),
        serde_json::Value::Array(items) => list(items.iter().map(from_serde).collect()),
        serde_json::Value::Object(map) => {
            dict(map.iter().map(|(key, value)| (Value::str(key.as_str()), from_serde(value))).collect())
        }
    }
}

fn json_query(call: &mut Call) -> R {
    let expression = call.text(1)?;
    let compiled = jmespath::compile(&expression).map_err(|error| {
        TemplateError::runtime(format!(
            "JMESPathError in json_query filter plugin:\n{error}\nQuery: {expression}"
        ))
    })?;
    let text = json(&call.input(), &JsonStyle { ascii: false, ..JsonStyle::default() })?;
    let data = jmespath::Variable::from_json(&text).map_err(TemplateError::runtime)?;
    let found = compiled.search(data).map_err(|error| {
        TemplateError::runtime(format!(
            "JMESPathError in json_query filter plugin:\n{error}\nQuery: {expression}"
        ))
    })?;
    from_json(&found.to_string())
}

fn strftime(call: &mut Call) -> R {
    let format = call.text(0)?;
    let utc = call.flag(2, false)?;
    let seconds = match call.some(1) {
        None => None,
        Some(second) => {
            let seconds = match py(&second) {
                Py::Str(text) => parse_float(text),
                _ => number(&second).map(|number| number.float()),
            };
            Some(seconds.ok_or_else(|| {
                TemplateError::runtime(format!(
                    "Invalid value for epoch value ({})",
                    ops::to_text(&second).unwrap_or_default()
                ))
            })?)
        }
    };
    let moment = match seconds {
        Some(seconds) => time::from_seconds(seconds.floor(), utc)?,
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit")]
        None => time::from_seconds(jiff::Timestamp::now().as_second() as f64, utc)?,
    };
    time::strftime(&format, &moment).map(V::from)
}
