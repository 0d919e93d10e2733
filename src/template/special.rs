//! Values that only exist while a template runs: ranges, dates, functions, namespaces.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use indexmap::IndexMap;
use jiff::civil::DateTime;
use jiff::tz::Offset;
use minijinja::value::{Object, ObjectRepr, Value as V};

use super::error::TemplateError;
use super::object::{R, lock};
use super::run::{MacroObject, ModuleObject};
use crate::value::Value;

macro_rules! plain_object {
    ($type:ty) => {
        impl Object for $type {
            fn repr(self: &Arc<Self>) -> ObjectRepr {
                ObjectRepr::Plain
            }
        }
    };
}

/// `range(…)`: not spelled out before it is used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    pub(super) start: i64,
    pub(super) stop: i64,
    pub(super) step: i64,
}

impl Object for Range {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn is_true(self: &Arc<Self>) -> bool {
        self.len() > 0
    }
}

impl Range {
    pub(super) fn len(&self) -> u64 {
        let (start, stop, step) = (i128::from(self.start), i128::from(self.stop), i128::from(self.step));
        let count =
            if step > 0 { (stop - start + step - 1) / step } else { (start - stop - step - 1) / -step };
        u64::try_from(count.max(0)).unwrap_or(u64::MAX)
    }

    pub(super) fn at(&self, index: u64) -> i64 {
        self.start.saturating_add(self.step.saturating_mul(i64::try_from(index).unwrap_or(i64::MAX)))
    }

    fn items(&self) -> R<Vec<V>> {
        if self.len() > 20_000_000 {
            return Err(TemplateError::limit("the range is too long"));
        }
        Ok((0..self.len()).map(|index| V::from(self.at(index))).collect())
    }
}

/// A point in time, with an offset if it has one.
#[derive(Debug, Clone)]
pub(super) struct Moment {
    pub(super) time: DateTime,
    pub(super) offset: Option<Offset>,
}

plain_object!(Moment);

impl Moment {
    /// Python's `str()`.
    pub(super) fn text(&self) -> String {
        let time = self.time;
        let mut out = format!(
            "{:04}-{:02}-{:02} {:02}:{:02}:{:02}",
            time.year(),
            time.month(),
            time.day(),
            time.hour(),
            time.minute(),
            time.second()
        );
        let micros = time.subsec_nanosecond() / 1000;
        if micros != 0 {
            out += &format!(".{micros:06}");
        }
        if let Some(offset) = self.offset {
            let seconds = offset.seconds();
            let sign = if seconds < 0 { '-' } else { '+' };
            out += &format!("{sign}{:02}:{:02}", seconds.abs() / 3600, seconds.abs() / 60 % 60);
        }
        out
    }

    pub(super) fn iso(&self) -> String {
        self.text().replacen(' ', "T", 1)
    }
}

/// The time between two moments, in microseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) micros: i64,
}

plain_object!(Span);

impl Span {
    pub(super) fn days(self) -> i64 {
        self.micros.div_euclid(86_400_000_000)
    }

    pub(super) fn seconds(self) -> i64 {
        self.micros.rem_euclid(86_400_000_000) / 1_000_000
    }

    pub(super) fn microseconds(self) -> i64 {
        self.micros.rem_euclid(1_000_000)
    }

    /// Python's `str()`.
    pub(super) fn text(self) -> String {
        let seconds = self.seconds();
        let mut out = String::new();
        let days = self.days();
        if days != 0 {
            out += &format!("{days} day{}, ", if days.abs() == 1 { "" } else { "s" });
        }
        out += &format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
        if self.microseconds() != 0 {
            out += &format!(".{:06}", self.microseconds());
        }
        out
    }
}

/// What an inline `if` without `else` yields: nothing in text, and no value.
#[derive(Debug)]
pub(super) struct Blank;

impl Object for Blank {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn is_true(self: &Arc<Self>) -> bool {
        false
    }
}

/// A global function or a bound method, by name.
#[derive(Debug)]
pub(super) struct FunctionObject {
    pub(super) name: &'static str,
    /// The object of a bound method.
    pub(super) object: Option<V>,
}

plain_object!(FunctionObject);

/// `namespace(…)`: the one thing whose attributes templates assign.
#[derive(Debug, Default)]
pub(super) struct Namespace(pub(super) Mutex<IndexMap<String, V>>);

plain_object!(Namespace);

/// `cycler(…)`
#[derive(Debug)]
pub(super) struct Cycler {
    pub(super) items: Vec<V>,
    pub(super) position: AtomicUsize,
}

plain_object!(Cycler);

impl Cycler {
    pub(super) fn current(&self) -> V {
        self.items.get(self.position.load(Ordering::Relaxed)).cloned().unwrap_or_default()
    }

    pub(super) fn step(&self) -> V {
        let value = self.current();
        let next = (self.position.load(Ordering::Relaxed) + 1) % self.items.len().max(1);
        self.position.store(next, Ordering::Relaxed);
        value
    }
}

/// `joiner(…)`
#[derive(Debug)]
pub(super) struct Joiner {
    pub(super) separator: V,
    pub(super) used: AtomicUsize,
}

plain_object!(Joiner);

/// Bytes, which Python tells from text (`b'…'`); templates meet them in `encode` only.
#[derive(Debug)]
pub(super) struct Bytes(pub(super) Vec<u8>);

plain_object!(Bytes);

pub(super) fn type_name(value: &V) -> &'static str {
    if value.downcast_object_ref::<Range>().is_some() {
        "range"
    } else if value.downcast_object_ref::<Blank>().is_some() {
        "Undefined"
    } else if value.downcast_object_ref::<Moment>().is_some() {
        "datetime"
    } else if value.downcast_object_ref::<Span>().is_some() {
        "timedelta"
    } else if let Some(function) = value.downcast_object_ref::<FunctionObject>() {
        if function.object.is_some() { "builtin_function_or_method" } else { "function" }
    } else if value.downcast_object_ref::<Namespace>().is_some() {
        "Namespace"
    } else if value.downcast_object_ref::<MacroObject>().is_some() {
        "Macro"
    } else if value.downcast_object_ref::<ModuleObject>().is_some() {
        "TemplateModule"
    } else if value.downcast_object_ref::<Cycler>().is_some() {
        "Cycler"
    } else if value.downcast_object_ref::<Joiner>().is_some() {
        "Joiner"
    } else if value.downcast_object_ref::<Bytes>().is_some() {
        "bytes"
    } else {
        "LoopContext"
    }
}

/// The items of a special value that can be iterated.
pub(super) fn iterate(value: &V) -> Option<R<Vec<V>>> {
    if let Some(range) = value.downcast_object_ref::<Range>() {
        return Some(range.items());
    }
    value.downcast_object_ref::<Blank>().map(|_| Ok(Vec::new()))
}

/// Python's `str()`.
pub(super) fn text(value: &V) -> R<String> {
    if let Some(range) = value.downcast_object_ref::<Range>() {
        return Ok(if range.step == 1 {
            format!("range({}, {})", range.start, range.stop)
        } else {
            format!("range({}, {}, {})", range.start, range.stop, range.step)
        });
    }
    if value.downcast_object_ref::<Blank>().is_some() {
        return Ok(String::new());
    }
    if let Some(moment) = value.downcast_object_ref::<Moment>() {
        return Ok(moment.text());
    }
    if let Some(span) = value.downcast_object_ref::<Span>() {
        return Ok(span.text());
    }
    if let Some(module) = value.downcast_object_ref::<ModuleObject>() {
        return super::ops::to_text(&module.text);
    }
    if let Some(namespace) = value.downcast_object_ref::<Namespace>() {
        let entries = lock(&namespace.0).clone();
        let entries = entries.into_iter().map(|(key, value)| (Value::str(key), value)).collect();
        return Ok(format!("<Namespace {}>", super::ops::repr(&super::object::dict(entries))?));
    }
    if let Some(bytes) = value.downcast_object_ref::<Bytes>() {
        return Ok(format!("b{}", Value::str(String::from_utf8_lossy(&bytes.0).into_owned()).repr()));
    }
    if let Some(function) = value.downcast_object_ref::<FunctionObject>() {
        return Ok(format!("<function {}>", function.name));
    }
    Ok(value.to_string())
}

/// A special value as a finished one.
pub(super) fn lower(value: &V, each: &dyn Fn(&V) -> R<Value>) -> R<Value> {
    if let Some(moment) = value.downcast_object_ref::<Moment>() {
        return Ok(Value::str(moment.iso()));
    }
    if value.downcast_object_ref::<Blank>().is_some() {
        return Err(TemplateError::undefined(
            "",
            "the inline if-expression evaluated to false and no else section was defined.",
        ));
    }
    let is_value = value.downcast_object_ref::<Namespace>().is_none();
    if !is_value {
        // Reported below by its type.
    } else if value.downcast_object_ref::<ModuleObject>().is_some()
        || value.downcast_object_ref::<Bytes>().is_some()
    {
        return text(value).map(Value::str);
    } else if value.downcast_object_ref::<Range>().is_none()
        && let Ok(items) = value.try_iter()
    {
        return items.map(|item| each(&item)).collect::<R<Vec<_>>>().map(Value::list);
    }
    Err(TemplateError::runtime(format!("Type '{}' is unsupported for variable storage.", type_name(value))))
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}
