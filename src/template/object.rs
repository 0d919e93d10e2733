//! Python's values as the engine sees them: lists, tuples and dicts that can be changed and whose items are
//! rendered when they are touched; undefined and failed values; and the way from and to [`Value`].

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indexmap::IndexMap;
use minijinja::value::{Object, ObjectRepr, Value as V, ValueKind};

use super::error::{TemplateError, TemplateErrorKind};
use super::run::{self, Scope};
use crate::value::{Lazy, Map, Text, Value};

pub(super) type R<T = V> = Result<T, TemplateError>;

/// How deeply values may nest before we refuse them (they may contain themselves).
const MAX_DEPTH: u32 = 200;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The names of a call's keyword arguments, which are its last positional ones.
#[derive(Debug)]
pub(super) struct Names(pub(super) Vec<&'static str>);

impl Object for Names {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

/// An undefined or failed value: an error that surfaces when the value is used.
#[derive(Debug)]
pub(super) struct Marker(pub(super) TemplateError);

impl Object for Marker {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

/// The `omit` placeholder.
#[derive(Debug)]
pub(super) struct OmitObject;

impl Object for OmitObject {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

/// A string that was decrypted from a vault: it is a string like others, but known for it.
#[derive(Debug)]
pub(super) struct Unsealed(Arc<str>);

impl Object for Unsealed {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn is_true(self: &Arc<Self>) -> bool {
        !self.0.is_empty()
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

enum Items {
    /// As written; items are rendered when asked for, and kept if that made something.
    Raw {
        items: Arc<Vec<Value>>,
        scope: Arc<Scope>,
        seen: HashMap<usize, V>,
    },
    Own(Vec<V>),
}

/// A list or tuple.
pub(super) struct List {
    items: Mutex<Items>,
    pub(super) tuple: bool,
    /// A pair that `groupby` made: its parts have names.
    pub(super) group: bool,
}

impl fmt::Debug for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<list of {}>", self.len())
    }
}

impl Object for List {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn is_true(self: &Arc<Self>) -> bool {
        self.len() > 0
    }
}

impl List {
    pub(super) fn len(&self) -> usize {
        match &*lock(&self.items) {
            Items::Raw { items, .. } => items.len(),
            Items::Own(items) => items.len(),
        }
    }

    /// The rendered item, which may be a marker.
    pub(super) fn get(&self, index: usize) -> R<Option<V>> {
        touched_option(self.find(index)?)
    }

    fn find(&self, index: usize) -> R<Option<V>> {
        let (raw, scope) = match &*lock(&self.items) {
            Items::Own(items) => return Ok(items.get(index).cloned()),
            Items::Raw { items, scope, seen } => {
                if let Some(value) = seen.get(&index) {
                    return Ok(Some(value.clone()));
                }
                match items.get(index) {
                    Some(raw) => (raw.clone(), scope.clone()),
                    None => return Ok(None),
                }
            }
        };
        let value = lift(&raw, &scope)?;
        if is_worth_keeping(&raw)
            && let Items::Raw { seen, .. } = &mut *lock(&self.items)
        {
            return Ok(Some(seen.entry(index).or_insert(value).clone()));
        }
        Ok(Some(value))
    }

    /// All items, rendered.
    pub(super) fn to_vec(&self) -> R<Vec<V>> {
        if let Items::Own(items) = &*lock(&self.items) {
            return items.iter().cloned().map(touched).collect();
        }
        let mut out = Vec::with_capacity(self.len());
        let mut index = 0;
        while let Some(item) = self.get(index)? {
            out.push(item);
            index += 1;
        }
        Ok(out)
    }

    /// Changes the items in place.
    pub(super) fn change<T>(&self, edit: impl FnOnce(&mut Vec<V>) -> T) -> R<T> {
        let own = tripping(false, || self.to_vec())?;
        let mut items = lock(&self.items);
        if let Items::Raw { .. } = &*items {
            *items = Items::Own(own);
        }
        match &mut *items {
            Items::Own(items) => Ok(edit(items)),
            Items::Raw { .. } => Err(TemplateError::runtime("the list can't be changed")),
        }
    }

    fn raw(&self) -> Option<(Arc<Vec<Value>>, Arc<Scope>)> {
        match &*lock(&self.items) {
            Items::Raw { items, scope, seen } if seen.is_empty() => Some((items.clone(), scope.clone())),
            _ => None,
        }
    }
}

enum Entries {
    Raw { map: Arc<Map>, scope: Arc<Scope>, seen: HashMap<usize, V> },
    Lazy { lazy: Arc<dyn Lazy>, scope: Arc<Scope>, seen: HashMap<Arc<str>, V> },
    Own(IndexMap<Value, V>),
}

/// A dict. Keys are plain values.
pub(super) struct Dict {
    entries: Mutex<Entries>,
}

impl fmt::Debug for Dict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<dict>")
    }
}

impl Object for Dict {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn is_true(self: &Arc<Self>) -> bool {
        self.len() > 0
    }
}

impl Dict {
    pub(super) fn len(&self) -> usize {
        let lazy = match &*lock(&self.entries) {
            Entries::Raw { map, .. } => return map.len(),
            Entries::Own(map) => return map.len(),
            Entries::Lazy { lazy, .. } => lazy.clone(),
        };
        lazy.keys().len()
    }

    pub(super) fn keys(&self) -> Vec<Value> {
        let lazy = match &*lock(&self.entries) {
            Entries::Raw { map, .. } => return map.keys().cloned().collect(),
            Entries::Own(map) => return map.keys().cloned().collect(),
            Entries::Lazy { lazy, .. } => lazy.clone(),
        };
        lazy.keys().into_iter().map(Value::str).collect()
    }

    pub(super) fn has(&self, key: &Value) -> bool {
        let lazy = match &*lock(&self.entries) {
            Entries::Raw { map, .. } => return map.contains_key(key),
            Entries::Own(map) => return map.contains_key(key),
            Entries::Lazy { lazy, .. } => lazy.clone(),
        };
        key.as_str().is_some_and(|key| lazy.get(key).is_some())
    }

    pub(super) fn get_str(&self, key: &str) -> R<Option<V>> {
        self.get(&Value::str(key))
    }

    /// The rendered value under `key`, which may be a marker.
    pub(super) fn get(&self, key: &Value) -> R<Option<V>> {
        touched_option(self.find(key)?)
    }

    fn find(&self, key: &Value) -> R<Option<V>> {
        enum Found {
            Raw(usize, Value, Arc<Scope>),
            Lazy(Arc<str>, Arc<dyn Lazy>, Arc<Scope>),
        }
        let found = match &*lock(&self.entries) {
            Entries::Own(map) => return Ok(map.get(key).cloned()),
            Entries::Raw { map, scope, seen } => match map.get_full(key) {
                Some((index, _, raw)) => {
                    if let Some(value) = seen.get(&index) {
                        return Ok(Some(value.clone()));
                    }
                    Found::Raw(index, raw.clone(), scope.clone())
                }
                None => return Ok(None),
            },
            Entries::Lazy { lazy, scope, seen } => match key {
                Value::Str(text) => {
                    if let Some(value) = seen.get(&text.text) {
                        return Ok(Some(value.clone()));
                    }
                    Found::Lazy(text.text.clone(), lazy.clone(), scope.clone())
                }
                _ => return Ok(None),
            },
        };
        match found {
            Found::Raw(index, raw, scope) => {
                let value = lift(&raw, &scope)?;
                if is_worth_keeping(&raw)
                    && let Entries::Raw { seen, .. } = &mut *lock(&self.entries)
                {
                    return Ok(Some(seen.entry(index).or_insert(value).clone()));
                }
                Ok(Some(value))
            }
            Found::Lazy(name, lazy, scope) => {
                let Some(raw) = lazy.get(&name) else { return Ok(None) };
                let value = lift(&raw, &scope)?;
                if is_worth_keeping(&raw)
                    && let Entries::Lazy { seen, .. } = &mut *lock(&self.entries)
                {
                    return Ok(Some(seen.entry(name).or_insert(value).clone()));
                }
                Ok(Some(value))
            }
        }
    }

    /// All entries, rendered.
    pub(super) fn to_map(&self) -> R<IndexMap<Value, V>> {
        if let Entries::Own(map) = &*lock(&self.entries) {
            map.values().try_for_each(|value| touched(value.clone()).map(drop))?;
            return Ok(map.clone());
        }
        let mut out = IndexMap::new();
        for key in self.keys() {
            if let Some(value) = self.get(&key)? {
                out.insert(key.untrusted(), value);
            }
        }
        Ok(out)
    }

    /// Changes the entries in place.
    pub(super) fn change<T>(&self, edit: impl FnOnce(&mut IndexMap<Value, V>) -> T) -> R<T> {
        let own = tripping(false, || self.to_map())?;
        let mut entries = lock(&self.entries);
        if !matches!(&*entries, Entries::Own(_)) {
            *entries = Entries::Own(own);
        }
        match &mut *entries {
            Entries::Own(map) => Ok(edit(map)),
            _ => Err(TemplateError::runtime("the dict can't be changed")),
        }
    }

    fn raw(&self) -> Option<(Arc<Map>, Arc<Scope>)> {
        match &*lock(&self.entries) {
            Entries::Raw { map, scope, seen } if seen.is_empty() => Some((map.clone(), scope.clone())),
            _ => None,
        }
    }
}

thread_local! {
    static TRIPS: Cell<bool> = const { Cell::new(false) };
}

/// Runs a function in which touching an undefined item fails (`true`: filters, tests, methods) or yields the
/// undefined value (`false`: templates).
pub(super) fn tripping<T>(trips: bool, run: impl FnOnce() -> T) -> T {
    let before = TRIPS.replace(trips);
    let result = run();
    TRIPS.set(before);
    result
}

fn touched(value: V) -> R {
    if TRIPS.get() {
        check(&value)?;
    }
    Ok(value)
}

fn touched_option(value: Option<V>) -> R<Option<V>> {
    value.map(touched).transpose()
}

fn is_worth_keeping(raw: &Value) -> bool {
    match raw {
        Value::List(_) | Value::Map(_) | Value::Lazy(_) | Value::Vault(_) => true,
        Value::Str(text) => text.trusted,
        _ => false,
    }
}

// --- making values ---

pub(super) fn list(items: Vec<V>) -> V {
    V::from_object(List { items: Mutex::new(Items::Own(items)), tuple: false, group: false })
}

pub(super) fn tuple(items: Vec<V>) -> V {
    V::from_object(List { items: Mutex::new(Items::Own(items)), tuple: true, group: false })
}

/// A group of `groupby`: its key and its members.
pub(super) fn group(key: V, members: Vec<V>) -> V {
    V::from_object(List { items: Mutex::new(Items::Own(vec![key, list(members)])), tuple: true, group: true })
}

/// What is written keeps what a container held at that moment.
pub(super) fn snapshot(value: &V) -> V {
    match py(value) {
        Py::List(items) => {
            let own = match &*lock(&items.items) {
                Items::Own(own) => Some(own.clone()),
                Items::Raw { .. } => None,
            };
            match own {
                Some(own) => V::from_object(List {
                    items: Mutex::new(Items::Own(own)),
                    tuple: items.tuple,
                    group: items.group,
                }),
                None => value.clone(),
            }
        }
        Py::Dict(map) => {
            let own = match &*lock(&map.entries) {
                Entries::Own(own) => Some(own.clone()),
                _ => None,
            };
            own.map_or_else(|| value.clone(), dict)
        }
        _ => value.clone(),
    }
}

pub(super) fn dict(map: IndexMap<Value, V>) -> V {
    V::from_object(Dict { entries: Mutex::new(Entries::Own(map)) })
}

pub(super) fn lazy_dict(lazy: Arc<dyn Lazy>, scope: &Arc<Scope>) -> V {
    let scope = match lazy.vars() {
        Some(vars) => Arc::new(scope.with_vars(vars)),
        None => scope.clone(),
    };
    V::from_object(Dict { entries: Mutex::new(Entries::Lazy { lazy, scope, seen: HashMap::new() }) })
}

pub(super) fn none() -> V {
    V::from(())
}

pub(super) fn string(text: impl Into<Arc<str>>) -> V {
    V::from(text.into())
}

pub(super) fn unsealed(text: impl Into<Arc<str>>) -> V {
    V::from_object(Unsealed(text.into()))
}

pub(super) fn is_unsealed(value: &V) -> bool {
    value.downcast_object_ref::<Unsealed>().is_some()
}

pub(super) fn int(number: i128) -> V {
    i64::try_from(number).map_or_else(|_| V::from(number), V::from)
}

pub(super) fn marker(error: TemplateError) -> V {
    V::from_object(Marker(error))
}

pub(super) fn omit() -> V {
    V::from_object(OmitObject)
}

pub(super) fn strings<I: IntoIterator<Item = S>, S: Into<String>>(items: I) -> V {
    list(items.into_iter().map(|item| V::from(item.into())).collect())
}

// --- looking at values ---

/// A value by its Python type.
pub(super) enum Py<'a> {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(&'a str),
    /// A list or tuple.
    List(&'a List),
    Dict(&'a Dict),
    Marker(&'a Marker),
    /// The engine's own undefined value.
    Undefined,
    Omit,
    Other,
}

pub(super) fn py(value: &V) -> Py<'_> {
    match value.kind() {
        ValueKind::Undefined => Py::Undefined,
        ValueKind::None => Py::None,
        ValueKind::Bool => Py::Bool(value.is_true()),
        ValueKind::Number => {
            if value.is_integer() {
                i128::try_from(value.clone()).map_or(Py::Other, Py::Int)
            } else {
                f64::try_from(value.clone()).map_or(Py::Other, Py::Float)
            }
        }
        ValueKind::String => value.as_str().map_or(Py::Other, Py::Str),
        _ => {
            if let Some(list) = value.downcast_object_ref::<List>() {
                Py::List(list)
            } else if let Some(dict) = value.downcast_object_ref::<Dict>() {
                Py::Dict(dict)
            } else if let Some(marker) = value.downcast_object_ref::<Marker>() {
                Py::Marker(marker)
            } else if let Some(text) = value.downcast_object_ref::<Unsealed>() {
                Py::Str(&text.0)
            } else if value.downcast_object_ref::<OmitObject>().is_some() {
                Py::Omit
            } else {
                Py::Other
            }
        }
    }
}

/// The error that using an undefined or failed value raises.
pub(super) fn check(value: &V) -> R<()> {
    match value.kind() {
        ValueKind::Undefined => Err(TemplateError::undefined("", "the value is undefined")),
        ValueKind::Plain => match value.downcast_object_ref::<Marker>() {
            Some(marker) => Err(marker.0.clone()),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

pub(super) fn is_marker(value: &V) -> bool {
    matches!(value.kind(), ValueKind::Undefined | ValueKind::Plain) && check(value).is_err()
}

/// Python's name of the type.
pub(super) fn type_name(value: &V) -> String {
    match py(value) {
        Py::None => "NoneType".into(),
        Py::Bool(_) => "bool".into(),
        Py::Int(_) => "int".into(),
        Py::Float(_) => "float".into(),
        Py::Str(_) => "str".into(),
        Py::List(list) if list.tuple => "tuple".into(),
        Py::List(_) => "list".into(),
        Py::Dict(_) => "dict".into(),
        Py::Marker(marker) if matches!(marker.0.kind, TemplateErrorKind::Undefined { .. }) => {
            "UndefinedMarker".into()
        }
        Py::Marker(_) => "CapturedExceptionMarker".into(),
        Py::Undefined => "UndefinedMarker".into(),
        Py::Omit => "Omit".into(),
        Py::Other => super::special::type_name(value).into(),
    }
}

/// The items that iterating over a value yields.
pub(super) fn iterate(value: &V) -> R<Vec<V>> {
    check(value)?;
    match py(value) {
        Py::List(list) => list.to_vec(),
        Py::Dict(dict) => Ok(dict.keys().iter().map(key_value).collect()),
        Py::Str(text) => Ok(text.chars().map(|c| V::from(c.to_string())).collect()),
        Py::Other => match super::special::iterate(value) {
            Some(items) => items,
            None => match value.try_iter() {
                Ok(items) => Ok(items.collect()),
                Err(_) => Err(not_iterable(value)),
            },
        },
        _ => Err(not_iterable(value)),
    }
}

fn not_iterable(value: &V) -> TemplateError {
    TemplateError::runtime(format!("'{}' object is not iterable", type_name(value)))
}

/// A dict's key as a value.
pub(super) fn key_value(key: &Value) -> V {
    match key {
        Value::Null => none(),
        Value::Bool(value) => V::from(*value),
        Value::Int(value) => V::from(*value),
        Value::Float(value) => V::from(*value),
        Value::Str(text) => V::from(text.text.clone()),
        Value::List(items) => tuple(items.iter().map(key_value).collect()),
        other => V::from(other.to_text()),
    }
}

/// A value as a dict's key.
pub(super) fn to_key(value: &V) -> R<Value> {
    check(value)?;
    Ok(match py(value) {
        Py::None => Value::Null,
        Py::Bool(value) => Value::Bool(value),
        Py::Int(value) => i64::try_from(value).map_or_else(|_| Value::str(value.to_string()), Value::Int),
        Py::Float(value) => Value::Float(value),
        Py::Str(text) => Value::str(text),
        Py::List(list) if list.tuple => {
            Value::list(list.to_vec()?.iter().map(to_key).collect::<R<Vec<_>>>()?)
        }
        _ => return Err(TemplateError::runtime(format!("unhashable type: '{}'", type_name(value)))),
    })
}

// --- from and to `Value` ---

/// A raw value as the engine sees it: templates rendered, containers on demand. Failures become markers,
/// except those that must surface.
pub(super) fn lift(value: &Value, scope: &Arc<Scope>) -> R {
    Ok(match value {
        Value::Null => none(),
        Value::Bool(value) => V::from(*value),
        Value::Int(value) => V::from(*value),
        Value::Float(value) => V::from(*value),
        Value::Str(text) => {
            if text.trusted && super::looks_like_template(&text.text) {
                return run::settle(run::render_text(text, scope));
            }
            if text.trusted && scope.keeps_trust {
                return Ok(V::from_safe_string(text.text.to_string()));
            }
            if text.vaulted {
                return Ok(unsealed(text.text.clone()));
            }
            V::from(text.text.clone())
        }
        Value::List(items) => V::from_object(List {
            items: Mutex::new(Items::Raw {
                items: items.clone(),
                scope: scope.clone(),
                seen: HashMap::new(),
            }),
            tuple: false,
            group: false,
        }),
        Value::Map(map) => V::from_object(Dict {
            entries: Mutex::new(Entries::Raw {
                map: map.clone(),
                scope: scope.clone(),
                seen: HashMap::new(),
            }),
        }),
        Value::Vault(vault) => return run::settle(scope.decrypt(vault).map(unsealed)),
        Value::Omit => omit(),
        Value::Pending => return Err(TemplateError::pending()),
        Value::Lazy(lazy) => lazy_dict(lazy.clone(), scope),
    })
}

/// A finished value: everything rendered, `omit` dropped from containers, no undefined left.
pub(super) fn lower(value: &V) -> R<Value> {
    lower_at(value, 0)
}

fn lower_at(value: &V, depth: u32) -> R<Value> {
    if depth > MAX_DEPTH {
        return Err(TemplateError::limit("the value is nested too deeply"));
    }
    Ok(match py(value) {
        Py::None => Value::Null,
        Py::Bool(value) => Value::Bool(value),
        Py::Int(number) => i64::try_from(number).map_or_else(|_| Value::str(number.to_string()), Value::Int),
        Py::Float(value) => Value::Float(value),
        Py::Str(text) => Value::Str(Text {
            text: text.into(),
            trusted: value.is_safe(),
            vaulted: is_unsealed(value),
            origin: None,
        }),
        Py::List(items) => {
            if let Some((raw, scope)) = items.raw() {
                return finish_list(&raw, &scope, depth).map(|done| Value::List(done.unwrap_or(raw)));
            }
            let mut out = Vec::with_capacity(items.len());
            for item in items.to_vec()? {
                match lower_at(&item, depth + 1)? {
                    Value::Omit => {}
                    item => out.push(item),
                }
            }
            Value::list(out)
        }
        Py::Dict(dict) => {
            if let Some((raw, scope)) = dict.raw() {
                return finish_map(&raw, &scope, depth).map(|done| Value::Map(done.unwrap_or(raw)));
            }
            let mut out = Map::new();
            for (key, item) in dict.to_map()? {
                match lower_at(&item, depth + 1)? {
                    Value::Omit => {}
                    item => {
                        out.insert(key, item);
                    }
                }
            }
            Value::map(out)
        }
        Py::Marker(marker) => return Err(marker.0.clone()),
        Py::Undefined => return Err(TemplateError::undefined("", "the value is undefined")),
        Py::Omit => Value::Omit,
        Py::Other => return super::special::lower(value, &|item| lower_at(item, depth + 1)),
    })
}

/// Renders all of a raw value; `None` if it is finished as it is.
pub(super) fn finish(value: &Value, scope: &Arc<Scope>, depth: u32) -> R<Option<Value>> {
    if depth > MAX_DEPTH {
        return Err(TemplateError::limit("the value is nested too deeply"));
    }
    Ok(match value {
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Omit => None,
        Value::Str(text) if !text.trusted => None,
        Value::Str(text) if super::looks_like_template(&text.text) => {
            let mut done = lower_at(&run::render_text(text, scope)?, depth)?;
            if let Value::Str(done) = &mut done
                && done.origin.is_none()
            {
                done.origin.clone_from(&text.origin);
            }
            Some(done)
        }
        Value::Str(_) if scope.keeps_trust => None,
        Value::Str(_) => Some(value.untrusted()),
        Value::List(items) => finish_list(items, scope, depth)?.map(Value::List),
        Value::Map(map) => finish_map(map, scope, depth)?.map(Value::Map),
        Value::Vault(vault) => {
            let text = scope.decrypt(vault)?;
            Some(Value::Str(Text { text, trusted: false, vaulted: true, origin: None }))
        }
        Value::Pending => return Err(TemplateError::pending()),
        Value::Lazy(lazy) => Some(lower_at(&lazy_dict(lazy.clone(), scope), depth)?),
    })
}

fn finish_list(items: &Arc<Vec<Value>>, scope: &Arc<Scope>, depth: u32) -> R<Option<Arc<Vec<Value>>>> {
    let mut out: Option<Vec<Value>> = None;
    for (index, item) in items.iter().enumerate() {
        let done = match finish(item, scope, depth + 1)? {
            None if matches!(item, Value::Omit) => Some(Value::Omit),
            done => done,
        };
        match (&mut out, done) {
            (None, None) => {}
            (Some(out), None) => out.push(item.clone()),
            (slot, Some(done)) => {
                let out = slot.get_or_insert_with(|| items[..index].to_vec());
                if !matches!(done, Value::Omit) {
                    out.push(done);
                }
            }
        }
    }
    Ok(out.map(Arc::new))
}

fn finish_map(map: &Arc<Map>, scope: &Arc<Scope>, depth: u32) -> R<Option<Arc<Map>>> {
    let mut out: Option<Map> = None;
    for (index, (key, item)) in map.iter().enumerate() {
        let done = match finish(item, scope, depth + 1)? {
            None if matches!(item, Value::Omit) => Some(Value::Omit),
            done => done,
        };
        let key_trusted = matches!(key, Value::Str(text) if text.trusted);
        if out.is_none() && done.is_none() && !key_trusted {
            continue;
        }
        let out =
            out.get_or_insert_with(|| map.iter().take(index).map(|(k, v)| (k.clone(), v.clone())).collect());
        match done {
            Some(Value::Omit) => {}
            done => {
                out.insert(key.untrusted(), done.unwrap_or_else(|| item.clone()));
            }
        }
    }
    Ok(out.map(Arc::new))
}
