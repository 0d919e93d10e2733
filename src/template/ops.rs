//! Python's operators, attributes, items and text forms.

use std::cmp::Ordering;

use indexmap::IndexMap;
use minijinja::value::Value as V;

use super::error::TemplateError;
use super::object::{self, List, Py, R, check, int, iterate, list, marker, py, string, tuple, type_name};
use super::special::{self, FunctionObject, Moment, Namespace, Range, Span};
use crate::value::{Value, float_repr};

/// Longest text or list that an operator may build.
const MAX_SIZE: usize = 256 << 20;

pub(super) enum Num {
    Int(i128),
    Float(f64),
}

impl Num {
    #[expect(clippy::cast_precision_loss, reason = "Python's conversion loses precision the same way")]
    pub(super) fn float(&self) -> f64 {
        match self {
            Num::Int(value) => *value as f64,
            Num::Float(value) => *value,
        }
    }
}

pub(super) fn number(value: &V) -> Option<Num> {
    match py(value) {
        Py::Bool(value) => Some(Num::Int(i128::from(value))),
        Py::Int(value) => Some(Num::Int(value)),
        Py::Float(value) => Some(Num::Float(value)),
        _ => None,
    }
}

// --- text ---

/// Python's `str()`.
pub(super) fn to_text(value: &V) -> R<String> {
    check(value)?;
    match py(value) {
        Py::Str(text) => Ok(text.to_owned()),
        Py::Omit => Ok(String::new()),
        Py::Other => special::text(value),
        _ => repr(value),
    }
}

/// Python's `repr()`.
pub(super) fn repr(value: &V) -> R<String> {
    let mut out = String::new();
    write_repr(value, &mut out, 0)?;
    Ok(out)
}

fn write_repr(value: &V, out: &mut String, depth: u32) -> R<()> {
    if depth > 200 {
        return Err(TemplateError::limit("the value is nested too deeply"));
    }
    if out.len() > MAX_SIZE {
        return Err(TemplateError::limit("the text is too long"));
    }
    check(value)?;
    match py(value) {
        Py::None => out.push_str("None"),
        Py::Bool(true) => out.push_str("True"),
        Py::Bool(false) => out.push_str("False"),
        Py::Int(number) => out.push_str(&number.to_string()),
        Py::Float(number) => out.push_str(&float_repr(number)),
        Py::Str(text) => out.push_str(&Value::str(text).repr()),
        Py::List(items) => {
            out.push(if items.tuple { '(' } else { '[' });
            let all = items.to_vec()?;
            let mut first = true;
            for item in &all {
                if matches!(py(item), Py::Omit) {
                    continue;
                }
                if !std::mem::take(&mut first) {
                    out.push_str(", ");
                }
                write_repr(item, out, depth + 1)?;
            }
            if items.tuple && all.len() == 1 {
                out.push(',');
            }
            out.push(if items.tuple { ')' } else { ']' });
        }
        Py::Dict(dict) => {
            out.push('{');
            let mut first = true;
            for (key, item) in dict.to_map()? {
                if matches!(py(&item), Py::Omit) {
                    continue;
                }
                if !std::mem::take(&mut first) {
                    out.push_str(", ");
                }
                write_repr(&object::key_value(&key), out, depth + 1)?;
                out.push_str(": ");
                write_repr(&item, out, depth + 1)?;
            }
            out.push('}');
        }
        Py::Omit => out.push_str("<Omit>"),
        Py::Other if value.downcast_object_ref::<Moment>().is_some() => {
            if let Some(moment) = value.downcast_object_ref::<Moment>() {
                let time = moment.time;
                out.push_str(&format!(
                    "datetime.datetime({}, {}, {}, {}, {}",
                    time.year(),
                    time.month(),
                    time.day(),
                    time.hour(),
                    time.minute()
                ));
                if time.second() != 0 || time.subsec_nanosecond() != 0 {
                    out.push_str(&format!(", {}", time.second()));
                }
                if time.subsec_nanosecond() != 0 {
                    out.push_str(&format!(", {}", time.subsec_nanosecond() / 1000));
                }
                out.push(')');
            }
        }
        _ => out.push_str(&special::text(value)?),
    }
    Ok(())
}

// --- truth, equality, order ---

pub(super) fn truth(value: &V) -> R<bool> {
    check(value)?;
    Ok(value.is_true())
}

pub(super) fn equal(a: &V, b: &V) -> R<bool> {
    equal_at(a, b, 0)
}

fn equal_at(a: &V, b: &V, depth: u32) -> R<bool> {
    if depth > 200 {
        return Err(TemplateError::limit("the value is nested too deeply"));
    }
    check(a)?;
    check(b)?;
    Ok(match (py(a), py(b)) {
        (Py::None, Py::None) | (Py::Omit, Py::Omit) => true,
        (Py::Str(a), Py::Str(b)) => a == b,
        (Py::List(a), Py::List(b)) => {
            if a.tuple != b.tuple || a.len() != b.len() {
                return Ok(false);
            }
            for (a, b) in a.to_vec()?.iter().zip(&b.to_vec()?) {
                if !equal_at(a, b, depth + 1)? {
                    return Ok(false);
                }
            }
            true
        }
        (Py::Dict(a), Py::Dict(b)) => {
            if a.len() != b.len() {
                return Ok(false);
            }
            for (key, value) in a.to_map()? {
                match b.get(&key)? {
                    Some(other) if equal_at(&value, &other, depth + 1)? => {}
                    _ => return Ok(false),
                }
            }
            true
        }
        (Py::Other, Py::Other) => {
            match (special_order(a, b), a.downcast_object_ref::<Range>(), b.downcast_object_ref::<Range>()) {
                (Some(order), _, _) => order == Ordering::Equal,
                (None, Some(a), Some(b)) => a.start == b.start && a.len() == b.len() && a.step == b.step,
                _ => a == b,
            }
        }
        _ => match (number(a), number(b)) {
            (Some(Num::Int(a)), Some(Num::Int(b))) => a == b,
            (Some(a), Some(b)) => a.float() == b.float(),
            _ => false,
        },
    })
}

fn special_order(a: &V, b: &V) -> Option<Ordering> {
    if let (Some(a), Some(b)) = (a.downcast_object_ref::<Moment>(), b.downcast_object_ref::<Moment>()) {
        return Some(a.time.cmp(&b.time));
    }
    if let (Some(a), Some(b)) = (a.downcast_object_ref::<Span>(), b.downcast_object_ref::<Span>()) {
        return Some(a.micros.cmp(&b.micros));
    }
    None
}

/// Orders two values, or fails as Python does for types that have no order. `None` for NaN.
pub(super) fn order(a: &V, b: &V, op: &str) -> R<Option<Ordering>> {
    check(a)?;
    check(b)?;
    match (py(a), py(b)) {
        (Py::Str(a), Py::Str(b)) => return Ok(Some(a.cmp(b))),
        (Py::List(x), Py::List(y)) if x.tuple == y.tuple => {
            let (x, y) = (x.to_vec()?, y.to_vec()?);
            for (x, y) in x.iter().zip(&y) {
                if !equal(x, y)? {
                    return order(x, y, op);
                }
            }
            return Ok(Some(x.len().cmp(&y.len())));
        }
        (Py::Other, Py::Other) => {
            if let Some(order) = special_order(a, b) {
                return Ok(Some(order));
            }
        }
        _ => {}
    }
    match (number(a), number(b)) {
        (Some(Num::Int(a)), Some(Num::Int(b))) => Ok(Some(a.cmp(&b))),
        (Some(a), Some(b)) => Ok(a.float().partial_cmp(&b.float())),
        _ => Err(TemplateError::runtime(format!(
            "'{op}' not supported between instances of '{}' and '{}'",
            type_name(a),
            type_name(b)
        ))),
    }
}

pub(super) fn compare(op: &str, a: &V, b: &V) -> R<bool> {
    Ok(match op {
        "==" => equal(a, b)?,
        "!=" => !equal(a, b)?,
        "in" => contains(b, a)?,
        "not in" => !contains(b, a)?,
        _ => match order(a, b, op)? {
            None => false,
            Some(order) => match op {
                "<" => order == Ordering::Less,
                "<=" => order != Ordering::Greater,
                ">" => order == Ordering::Greater,
                _ => order != Ordering::Less,
            },
        },
    })
}

/// `item in container`
pub(super) fn contains(container: &V, item: &V) -> R<bool> {
    check(item)?;
    check(container)?;
    match py(container) {
        Py::Str(text) => match py(item) {
            Py::Str(part) => Ok(text.contains(part)),
            _ => Err(TemplateError::runtime(format!(
                "'in <string>' requires string as left operand, not {}",
                type_name(item)
            ))),
        },
        Py::Dict(dict) => Ok(dict.has(&object::to_key(item)?)),
        Py::List(items) => {
            for candidate in items.to_vec()? {
                if equal(&candidate, item)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Py::Other => {
            if let Some(range) = container.downcast_object_ref::<Range>() {
                return Ok(match number(item) {
                    Some(Num::Int(value)) => {
                        let offset = value - i128::from(range.start);
                        let step = i128::from(range.step);
                        offset % step == 0 && (0..i128::from(range.len())).contains(&(offset / step))
                    }
                    _ => false,
                });
            }
            for candidate in iterate(container)? {
                if equal(&candidate, item)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        _ => Err(TemplateError::runtime(format!(
            "argument of type '{}' is not iterable",
            type_name(container)
        ))),
    }
}

// --- arithmetic ---

fn unsupported(op: &str, a: &V, b: &V) -> TemplateError {
    TemplateError::runtime(format!(
        "unsupported operand type(s) for {op}: '{}' and '{}'",
        type_name(a),
        type_name(b)
    ))
}

fn overflow() -> TemplateError {
    TemplateError::runtime("the number is too large")
}

pub(super) fn add(a: &V, b: &V) -> R {
    check(a)?;
    check(b)?;
    match (py(a), py(b)) {
        (Py::Str(x), Py::Str(y)) => {
            size_check(x.len() + y.len())?;
            return Ok(V::from(format!("{x}{y}")));
        }
        (Py::Str(_), _) => {
            return Err(TemplateError::runtime(format!(
                "can only concatenate str (not \"{}\") to str",
                type_name(b)
            )));
        }
        (Py::List(x), Py::List(y)) if x.tuple == y.tuple => {
            size_check((x.len() + y.len()) * 16)?;
            let mut items = x.to_vec()?;
            items.extend(y.to_vec()?);
            return Ok(if x.tuple { tuple(items) } else { list(items) });
        }
        (Py::List(x), _) => {
            let kind = if x.tuple { "tuple" } else { "list" };
            return Err(TemplateError::runtime(format!(
                "can only concatenate {kind} (not \"{}\") to {kind}",
                type_name(b)
            )));
        }
        _ => {}
    }
    if let (Some(moment), Some(span)) = (a.downcast_object_ref::<Moment>(), b.downcast_object_ref::<Span>()) {
        return shift(moment, span.micros);
    }
    if let (Some(x), Some(y)) = (a.downcast_object_ref::<Span>(), b.downcast_object_ref::<Span>()) {
        return Ok(V::from_object(Span { micros: x.micros.saturating_add(y.micros) }));
    }
    match (number(a), number(b)) {
        (Some(Num::Int(a)), Some(Num::Int(b))) => a.checked_add(b).map(int).ok_or_else(overflow),
        (Some(a), Some(b)) => Ok(V::from(a.float() + b.float())),
        _ => Err(unsupported("+", a, b)),
    }
}

fn shift(moment: &Moment, micros: i64) -> R {
    let time = moment
        .time
        .checked_add(jiff::SignedDuration::from_micros(micros))
        .map_err(|error| TemplateError::runtime(error.to_string()))?;
    Ok(V::from_object(Moment { time, offset: moment.offset }))
}

pub(super) fn subtract(a: &V, b: &V) -> R {
    check(a)?;
    check(b)?;
    if let Some(moment) = a.downcast_object_ref::<Moment>() {
        if let Some(other) = b.downcast_object_ref::<Moment>() {
            let micros = moment.time.duration_since(other.time).as_micros();
            return Ok(V::from_object(Span { micros: i64::try_from(micros).unwrap_or(i64::MAX) }));
        }
        if let Some(span) = b.downcast_object_ref::<Span>() {
            return shift(moment, -span.micros);
        }
    }
    if let (Some(x), Some(y)) = (a.downcast_object_ref::<Span>(), b.downcast_object_ref::<Span>()) {
        return Ok(V::from_object(Span { micros: x.micros.saturating_sub(y.micros) }));
    }
    match (number(a), number(b)) {
        (Some(Num::Int(a)), Some(Num::Int(b))) => a.checked_sub(b).map(int).ok_or_else(overflow),
        (Some(a), Some(b)) => Ok(V::from(a.float() - b.float())),
        _ => Err(unsupported("-", a, b)),
    }
}

fn size_check(bytes: usize) -> R<()> {
    if bytes > MAX_SIZE { Err(TemplateError::limit("the value is too large")) } else { Ok(()) }
}

pub(super) fn multiply(a: &V, b: &V) -> R {
    check(a)?;
    check(b)?;
    let repeat = |value: &V, count: i128| -> R<Option<V>> {
        let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
        match py(value) {
            Py::Str(text) => {
                size_check(text.len().saturating_mul(count))?;
                Ok(Some(V::from(text.repeat(count))))
            }
            Py::List(items) => {
                size_check(items.len().saturating_mul(count).saturating_mul(16))?;
                let once = items.to_vec()?;
                let all = (0..count).flat_map(|_| once.iter().cloned()).collect();
                Ok(Some(if items.tuple { tuple(all) } else { list(all) }))
            }
            _ => Ok(None),
        }
    };
    if let Some(Num::Int(count)) = number(b)
        && let Some(value) = repeat(a, count)?
    {
        return Ok(value);
    }
    if let Some(Num::Int(count)) = number(a)
        && let Some(value) = repeat(b, count)?
    {
        return Ok(value);
    }
    match (number(a), number(b)) {
        (Some(Num::Int(a)), Some(Num::Int(b))) => a.checked_mul(b).map(int).ok_or_else(overflow),
        (Some(a), Some(b)) => Ok(V::from(a.float() * b.float())),
        _ => match (py(a), py(b)) {
            (Py::Str(_) | Py::List(_), _) => Err(TemplateError::runtime(format!(
                "can't multiply sequence by non-int of type '{}'",
                type_name(b)
            ))),
            _ => Err(unsupported("*", a, b)),
        },
    }
}

pub(super) fn divide(a: &V, b: &V) -> R {
    check(a)?;
    check(b)?;
    match (number(a), number(b)) {
        (Some(a), Some(b)) => {
            if b.float() == 0.0 {
                let both_int = matches!((&a, &b), (Num::Int(_), Num::Int(_)));
                return Err(TemplateError::runtime(if both_int {
                    "division by zero"
                } else {
                    "float division by zero"
                }));
            }
            Ok(V::from(a.float() / b.float()))
        }
        _ => Err(unsupported("/", a, b)),
    }
}

pub(super) fn floor_divide(a: &V, b: &V) -> R {
    check(a)?;
    check(b)?;
    match (number(a), number(b)) {
        (Some(Num::Int(_)), Some(Num::Int(0))) => {
            Err(TemplateError::runtime("integer division or modulo by zero"))
        }
        (Some(Num::Int(a)), Some(Num::Int(b))) => Ok(int(floor_div(a, b))),
        (Some(a), Some(b)) => {
            if b.float() == 0.0 {
                return Err(TemplateError::runtime("float floor division by zero"));
            }
            Ok(V::from((a.float() / b.float()).floor()))
        }
        _ => Err(unsupported("//", a, b)),
    }
}

pub(super) fn floor_div(a: i128, b: i128) -> i128 {
    let quotient = a / b;
    if a % b != 0 && (a < 0) != (b < 0) { quotient - 1 } else { quotient }
}

pub(super) fn modulo(a: &V, b: &V) -> R {
    check(a)?;
    if let Py::Str(format) = py(a) {
        return percent_format(format, b).map(V::from);
    }
    check(b)?;
    match (number(a), number(b)) {
        (Some(Num::Int(_)), Some(Num::Int(0))) => Err(TemplateError::runtime("integer modulo by zero")),
        (Some(Num::Int(a)), Some(Num::Int(b))) => Ok(int(a - b * floor_div(a, b))),
        (Some(a), Some(b)) => {
            let (a, b) = (a.float(), b.float());
            if b == 0.0 {
                return Err(TemplateError::runtime("float modulo"));
            }
            let rest = a % b;
            Ok(V::from(if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }))
        }
        _ => Err(unsupported("%", a, b)),
    }
}

pub(super) fn power(a: &V, b: &V) -> R {
    check(a)?;
    check(b)?;
    match (number(a), number(b)) {
        (Some(Num::Int(base)), Some(Num::Int(exponent))) if exponent >= 0 => {
            let exponent = u32::try_from(exponent).map_err(|_| overflow())?;
            base.checked_pow(exponent).map(int).ok_or_else(overflow)
        }
        (Some(a), Some(b)) => Ok(V::from(a.float().powf(b.float()))),
        _ => Err(unsupported("** or pow()", a, b)),
    }
}

pub(super) fn negate(value: &V) -> R {
    check(value)?;
    match number(value) {
        Some(Num::Int(value)) => Ok(int(-value)),
        Some(Num::Float(value)) => Ok(V::from(-value)),
        None => Err(TemplateError::runtime(format!("bad operand type for unary -: '{}'", type_name(value)))),
    }
}

pub(super) fn positive(value: &V) -> R {
    check(value)?;
    match number(value) {
        Some(Num::Int(value)) => Ok(int(value)),
        Some(Num::Float(value)) => Ok(V::from(value)),
        None => Err(TemplateError::runtime(format!("bad operand type for unary +: '{}'", type_name(value)))),
    }
}

// --- attributes and items ---

/// `value.name`: what the object itself has comes first, then its item of that name.
pub(super) fn attribute(value: &V, name: &str) -> R {
    if let Some(found) = own_attribute(value, name)? {
        return Ok(found);
    }
    match py(value) {
        Py::Marker(_) => Ok(value.clone()),
        Py::Dict(dict) => {
            if let Some(found) = dict.get_str(name)? {
                return Ok(found);
            }
            Ok(no_attribute(value, name))
        }
        _ => Ok(no_attribute(value, name)),
    }
}

fn no_attribute(value: &V, name: &str) -> V {
    let (kind, shown) = (type_name(value), Value::str(name).repr());
    let is_internal = name.starts_with("__") && name.ends_with("__");
    let message = match is_internal {
        true => format!("access to attribute {shown} of '{kind}' object is unsafe."),
        false => format!("object of type '{kind}' has no attribute {shown}"),
    };
    marker(TemplateError::undefined(name, message))
}

pub(super) fn own_attribute(value: &V, name: &str) -> R<Option<V>> {
    if matches!(py(value), Py::Marker(_)) {
        return Ok(Some(value.clone()));
    }
    if let Py::Undefined = py(value) {
        return Ok(Some(marker(TemplateError::undefined("", "the value is undefined"))));
    }
    if let Some(method) = super::methods::find(value, name) {
        return Ok(Some(V::from_object(FunctionObject { name: method, object: Some(value.clone()) })));
    }
    if let Some(namespace) = value.downcast_object_ref::<Namespace>() {
        return Ok(object::lock(&namespace.0).get(name).cloned());
    }
    super::methods::property(value, name)
}

/// `value[key]`: the item comes first, then (for names) the attribute.
pub(super) fn item(value: &V, key: &V) -> R {
    if matches!(py(value), Py::Marker(_)) {
        return Ok(value.clone());
    }
    check(value)?;
    if matches!(py(key), Py::Marker(_)) {
        return Ok(key.clone());
    }
    check(key)?;
    match py(value) {
        Py::Dict(dict) => {
            if let Ok(key) = object::to_key(key)
                && let Some(found) = dict.get(&key)?
            {
                return Ok(found);
            }
        }
        Py::List(items) => {
            if let Some(Num::Int(index)) = number(key)
                && let Some(index) = position(index, items.len())
                && let Some(found) = items.get(index)?
            {
                return Ok(found);
            }
        }
        Py::Str(text) => {
            if let Some(Num::Int(index)) = number(key) {
                let length = text.chars().count();
                if let Some(found) = position(index, length).and_then(|index| text.chars().nth(index)) {
                    return Ok(V::from(found.to_string()));
                }
            }
        }
        Py::Other => {
            if let (Some(range), Some(Num::Int(index))) = (value.downcast_object_ref::<Range>(), number(key))
            {
                let length = usize::try_from(range.len()).unwrap_or(usize::MAX);
                if let Some(index) = position(index, length) {
                    return Ok(V::from(range.at(index as u64)));
                }
            }
        }
        _ => {}
    }
    if let Py::Str(name) = py(key)
        && let Some(found) = own_attribute(value, name)?
    {
        return Ok(found);
    }
    let (kind, shown) = (type_name(value), repr(key)?);
    // Where the key is nothing in Python's eyes, ansible-core leaves the words to Jinja2.
    let message = match py(key) {
        Py::Str(_) => format!("object of type '{kind}' has no attribute {shown}"),
        _ if key.is_true() => format!("object of type '{kind}' has no attribute {shown}"),
        _ => format!("{kind} object has no element {shown}"),
    };
    Ok(marker(TemplateError::undefined(to_text(key)?, message)))
}

/// An index that may count from the end.
pub(super) fn position(index: i128, length: usize) -> Option<usize> {
    let length = i128::try_from(length).ok()?;
    let index = if index < 0 { index + length } else { index };
    if (0..length).contains(&index) { usize::try_from(index).ok() } else { None }
}

fn slice_index(value: &V) -> R<Option<i128>> {
    match py(value) {
        Py::None | Py::Undefined => Ok(None),
        _ => match number(value) {
            Some(Num::Int(index)) => Ok(Some(index)),
            _ => {
                check(value)?;
                Err(TemplateError::runtime(
                    "slice indices must be integers or None or have an __index__ method",
                ))
            }
        },
    }
}

/// The positions that `[start:stop:step]` selects.
pub(super) fn slice_positions(length: usize, start: &V, stop: &V, step: &V) -> R<Vec<usize>> {
    let length = i128::try_from(length).unwrap_or(i128::MAX);
    let step = slice_index(step)?.unwrap_or(1);
    if step == 0 {
        return Err(TemplateError::runtime("slice step cannot be zero"));
    }
    let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let clamp = |index: Option<i128>, default: i128| match index {
        None => default,
        Some(index) => (if index < 0 { index + length } else { index }).clamp(low, high),
    };
    let (first, last) = if step > 0 { (0, length) } else { (length - 1, -1) };
    let mut at = clamp(slice_index(start)?, first);
    let stop = clamp(slice_index(stop)?, last);
    let mut out = Vec::new();
    while (step > 0 && at < stop) || (step < 0 && at > stop) {
        if let Ok(index) = usize::try_from(at) {
            out.push(index);
        }
        at += step;
    }
    Ok(out)
}

pub(super) fn slice(value: &V, start: &V, stop: &V, step: &V) -> R {
    if matches!(py(value), Py::Marker(_)) {
        return Ok(value.clone());
    }
    check(value)?;
    match py(value) {
        Py::Str(text) => {
            let chars: Vec<char> = text.chars().collect();
            let positions = slice_positions(chars.len(), start, stop, step)?;
            Ok(V::from(positions.into_iter().map(|index| chars[index]).collect::<String>()))
        }
        Py::List(items) => pick(items, &slice_positions(items.len(), start, stop, step)?),
        Py::Other => {
            let items = iterate(value)?;
            let positions = slice_positions(items.len(), start, stop, step)?;
            Ok(list(positions.into_iter().map(|index| items[index].clone()).collect()))
        }
        _ => {
            let message = format!("'{}' object is not subscriptable", type_name(value));
            Ok(marker(TemplateError::undefined("", message)))
        }
    }
}

fn pick(items: &List, positions: &[usize]) -> R {
    let mut out = Vec::with_capacity(positions.len());
    for index in positions {
        if let Some(item) = items.get(*index)? {
            out.push(item);
        }
    }
    Ok(if items.tuple { tuple(out) } else { list(out) })
}

// --- `'…' % values` ---

pub(super) fn percent_format(format: &str, values: &V) -> R<String> {
    let single;
    let mut mapping = None;
    let positional: Vec<V> = match py(values) {
        Py::List(items) if items.tuple => items.to_vec()?,
        Py::Dict(dict) => {
            mapping = Some(dict);
            vec![values.clone()]
        }
        _ => {
            single = values.clone();
            vec![single]
        }
    };
    let mut used = 0;
    let mut used_names = false;
    let mut out = String::new();
    let mut chars = format.chars().peekable();
    while let Some(character) = chars.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let mut name = None;
        if chars.peek() == Some(&'(') {
            chars.next();
            let mut text = String::new();
            loop {
                match chars.next() {
                    Some(')') => break,
                    Some(c) => text.push(c),
                    None => return Err(TemplateError::runtime("incomplete format key")),
                }
            }
            name = Some(text);
        }
        let mut flags = String::new();
        while let Some(flag) = chars.peek().copied().filter(|c| "-+ #0".contains(*c)) {
            flags.push(flag);
            chars.next();
        }
        let next_value = |used: &mut usize| -> R {
            let value = positional
                .get(*used)
                .cloned()
                .ok_or_else(|| TemplateError::runtime("not enough arguments for format string"))?;
            *used += 1;
            Ok(value)
        };
        let amount =
            |chars: &mut std::iter::Peekable<std::str::Chars<'_>>, used: &mut usize| -> R<Option<i128>> {
                if chars.peek() == Some(&'*') {
                    chars.next();
                    return match number(&next_value(used)?) {
                        Some(Num::Int(width)) => Ok(Some(width)),
                        _ => Err(TemplateError::runtime("* wants int")),
                    };
                }
                let mut digits = String::new();
                while let Some(digit) = chars.peek().copied().filter(char::is_ascii_digit) {
                    digits.push(digit);
                    chars.next();
                }
                Ok(digits.parse().ok())
            };
        let mut width = amount(&mut chars, &mut used)?;
        let mut precision = None;
        if chars.peek() == Some(&'.') {
            chars.next();
            precision = Some(amount(&mut chars, &mut used)?.unwrap_or(0).max(0));
        }
        if let Some(negative) = width.filter(|width| *width < 0) {
            flags.push('-');
            width = Some(-negative);
        }
        while chars.peek().is_some_and(|c| "hlL".contains(*c)) {
            chars.next();
        }
        let Some(kind) = chars.next() else { return Err(TemplateError::runtime("incomplete format")) };
        if kind == '%' {
            out.push('%');
            continue;
        }
        let value = match &name {
            Some(name) => {
                used_names = true;
                let dict = mapping.ok_or_else(|| TemplateError::runtime("format requires a mapping"))?;
                dict.get_str(name)?.ok_or_else(|| TemplateError::runtime(format!("'{name}'")))?
            }
            None => next_value(&mut used)?,
        };
        let precision = precision.and_then(|p| usize::try_from(p).ok());
        let body = conversion(kind, &value, &flags, precision)?;
        let width = usize::try_from(width.unwrap_or(0)).unwrap_or(0);
        size_check(width)?;
        pad(&mut out, &body, width, flags.contains('-'), flags.contains('0') && !"srac".contains(kind));
    }
    if mapping.is_none() && !used_names && used < positional.len() {
        return Err(TemplateError::runtime("not all arguments converted during string formatting"));
    }
    Ok(out)
}

fn pad(out: &mut String, body: &str, width: usize, left: bool, zeros: bool) {
    let length = body.chars().count();
    let fill = width.saturating_sub(length);
    if left {
        out.push_str(body);
        out.push_str(&" ".repeat(fill));
    } else if zeros {
        let sign = usize::from(body.starts_with(['-', '+', ' ']));
        out.push_str(&body[..sign]);
        out.push_str(&"0".repeat(fill));
        out.push_str(&body[sign..]);
    } else {
        out.push_str(&" ".repeat(fill));
        out.push_str(body);
    }
}

fn conversion(kind: char, value: &V, flags: &str, precision: Option<usize>) -> R<String> {
    let sign = |negative: bool| {
        if negative {
            "-"
        } else if flags.contains('+') {
            "+"
        } else if flags.contains(' ') {
            " "
        } else {
            ""
        }
    };
    check(value)?;
    Ok(match kind {
        's' | 'r' | 'a' => {
            let text = if kind == 's' { to_text(value)? } else { repr(value)? };
            match precision {
                Some(length) => text.chars().take(length).collect(),
                None => text,
            }
        }
        'c' => match py(value) {
            Py::Str(text) if text.chars().count() == 1 => text.to_owned(),
            Py::Int(code) => u32::try_from(code)
                .ok()
                .and_then(char::from_u32)
                .map(String::from)
                .ok_or_else(|| TemplateError::runtime("%c arg not in range(0x110000)"))?,
            _ => return Err(TemplateError::runtime("%c requires int or char")),
        },
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' => {
            let number = match number(value) {
                Some(Num::Int(number)) => number,
                #[expect(clippy::cast_possible_truncation, reason = "Python truncates here too")]
                Some(Num::Float(number)) if "diu".contains(kind) => number.trunc() as i128,
                _ => {
                    let wanted = if "diu".contains(kind) { "a real number" } else { "an integer" };
                    return Err(TemplateError::runtime(format!(
                        "%{kind} format: {wanted} is required, not {}",
                        type_name(value)
                    )));
                }
            };
            let magnitude = number.unsigned_abs();
            let alternate = flags.contains('#');
            let mut digits = match kind {
                'x' => format!("{magnitude:x}"),
                'X' => format!("{magnitude:X}"),
                'o' => format!("{magnitude:o}"),
                _ => magnitude.to_string(),
            };
            if let Some(length) = precision {
                digits = format!("{}{digits}", "0".repeat(length.saturating_sub(digits.len())));
            }
            let prefix = match kind {
                'x' if alternate => "0x",
                'X' if alternate => "0X",
                'o' if alternate => "0o",
                _ => "",
            };
            format!("{}{prefix}{digits}", sign(number < 0))
        }
        'f' | 'F' | 'e' | 'E' | 'g' | 'G' => {
            let Some(number) = number(value) else {
                return Err(TemplateError::runtime(format!("must be real number, not {}", type_name(value))));
            };
            let number = number.float();
            let body = float_format(number.abs(), kind, precision.unwrap_or(6), flags.contains('#'));
            format!("{}{body}", sign(number.is_sign_negative()))
        }
        other => {
            return Err(TemplateError::runtime(format!(
                "unsupported format character '{other}' (0x{:x})",
                other as u32
            )));
        }
    })
}

/// A float in C's `%f`, `%e` or `%g`.
pub(super) fn float_format(number: f64, kind: char, precision: usize, alternate: bool) -> String {
    if !number.is_finite() {
        return if number.is_nan() { "nan".into() } else { "inf".into() };
    }
    let exponent_form = |precision: usize| {
        let text = format!("{number:.precision$e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
        format!("{mantissa}e{sign}{digits:0>2}")
    };
    let text = match kind.to_ascii_lowercase() {
        'f' => format!("{number:.precision$}"),
        'e' => exponent_form(precision),
        _ => {
            let precision = precision.max(1);
            let scientific = exponent_form(precision - 1);
            let exponent: i32 =
                scientific.split_once('e').and_then(|(_, exponent)| exponent.parse().ok()).unwrap_or(0);
            let strip = |text: String| {
                if alternate || !text.contains('.') {
                    text
                } else {
                    text.trim_end_matches('0').trim_end_matches('.').to_owned()
                }
            };
            if exponent < -4 || exponent >= i32::try_from(precision).unwrap_or(i32::MAX) {
                let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "+00"));
                format!("{}e{exponent}", strip(mantissa.to_owned()))
            } else {
                let decimals =
                    usize::try_from(i32::try_from(precision).unwrap_or(6) - 1 - exponent).unwrap_or(0);
                strip(format!("{number:.decimals$}"))
            }
        }
    };
    if kind.is_ascii_uppercase() { text.to_uppercase() } else { text }
}

/// A dict from `key, value, key, value…`.
pub(super) fn build_dict(parts: &[V]) -> R {
    let mut map = IndexMap::new();
    for pair in parts.chunks(2) {
        if let [key, value] = pair {
            map.insert(object::to_key(key)?, value.clone());
        }
    }
    Ok(object::dict(map))
}

pub(super) fn concat(parts: &[V]) -> R {
    let mut out = String::new();
    for part in parts {
        out.push_str(&to_text(part)?);
    }
    Ok(string(out))
}
