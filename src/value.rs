//! The one value type: what YAML says, what variables hold, what templates produce, what modules return.
//!
//! It is JSON's data model plus what the language needs on the controller: trust (which strings may be
//! templates), origin (where a string was written), vaulted text, `omit`, values that are still on their
//! way, and maps that are computed on demand. Only the JSON part crosses the wire to a host.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use indexmap::{Equivalent, IndexMap};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A mapping that keeps the order in which its keys were written.
pub type Map = IndexMap<Value, Value>;

/// Where a piece of text was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The file, as the user named it.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// A string, with whether it may be a template and where it was written.
#[derive(Clone, Debug)]
pub struct Text {
    /// The characters.
    pub text: Arc<str>,
    /// Written by the playbook's author (a file, the inventory, `-e`): `{{ }}` in it is a template.
    /// Strings from hosts, lookups, filters and vaults are not trusted and are never rendered.
    pub trusted: bool,
    /// It was decrypted from a vaulted string, which whoever decrypted it still knows.
    pub vaulted: bool,
    /// Where it was written, if it was.
    pub origin: Option<Arc<Origin>>,
}

/// A vaulted string that is decrypted when it is used (`!vault`).
#[derive(Clone, Debug)]
pub struct VaultText {
    /// The whole envelope, header included.
    pub envelope: Arc<str>,
    /// Where it was written.
    pub origin: Option<Arc<Origin>>,
}

/// A mapping whose entries are computed when they are asked for, such as `hostvars`.
///
/// What it returns may hold templates; they are rendered in the context that [`Lazy::vars`] names, or in
/// the asking one if that is `None`.
pub trait Lazy: fmt::Debug + Send + Sync {
    /// The raw value under `key`.
    fn get(&self, key: &str) -> Option<Value>;
    /// All keys, in order.
    fn keys(&self) -> Vec<Arc<str>>;
    /// The variables in whose context the entries' templates are rendered.
    fn vars(&self) -> Option<Arc<dyn Vars>> {
        None
    }
}

/// A source of raw (unrendered) variables: what a template sees.
pub trait Vars: fmt::Debug + Send + Sync {
    /// The raw value of a variable.
    fn get(&self, name: &str) -> Option<Value>;
    /// The names of all variables; for `vars`, `varnames` and "did you mean".
    fn names(&self) -> Vec<Arc<str>>;
}

/// Variables that are all there.
impl Vars for Map {
    fn get(&self, name: &str) -> Option<Value> {
        Map::get(self, name).cloned()
    }

    fn names(&self) -> Vec<Arc<str>> {
        self.keys().filter_map(Value::as_str).map(Arc::from).collect()
    }
}

/// Any value.
#[derive(Clone, Debug, Default)]
pub enum Value {
    /// `null`, `None`.
    #[default]
    Null,
    /// `true`, `false`.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A floating point number.
    Float(f64),
    /// A string.
    Str(Text),
    /// A list.
    List(Arc<Vec<Value>>),
    /// A mapping.
    Map(Arc<Map>),
    /// A vaulted string.
    Vault(Arc<VaultText>),
    /// The `omit` placeholder: an argument or list entry that holds it is left out.
    Omit,
    /// The result of a task that is still out. Touching it in a template is
    /// an error of its own kind, on which the engine waits.
    Pending,
    /// A mapping computed on demand.
    Lazy(Arc<dyn Lazy>),
}

impl Value {
    /// A string that is never a template.
    pub fn str(text: impl Into<Arc<str>>) -> Value {
        Value::Str(Text { text: text.into(), trusted: false, vaulted: false, origin: None })
    }

    /// A string that may be a template, without an origin.
    pub fn trusted(text: impl Into<Arc<str>>) -> Value {
        Value::Str(Text { text: text.into(), trusted: true, vaulted: false, origin: None })
    }

    /// A string that may be a template, written at `origin`.
    pub fn written(text: impl Into<Arc<str>>, origin: Arc<Origin>) -> Value {
        Value::Str(Text { text: text.into(), trusted: true, vaulted: false, origin: Some(origin) })
    }

    /// A list.
    pub fn list(items: Vec<Value>) -> Value {
        Value::List(Arc::new(items))
    }

    /// A mapping.
    pub fn map(map: Map) -> Value {
        Value::Map(Arc::new(map))
    }

    /// The characters, if it is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(text) => Some(&text.text),
            _ => None,
        }
    }

    /// The items, if it is a list.
    pub fn as_list(&self) -> Option<&[Value]> {
        match self {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    /// The entries, if it is a mapping (not a lazy one).
    pub fn as_map(&self) -> Option<&Map> {
        match self {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    /// The boolean, if it is one. No coercion; see [`Value::truthy`] and [`Value::to_bool`].
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The integer, if it is one.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// The entry `key` of a mapping.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.as_map().and_then(|map| map.get(key))
    }

    /// Whether it is `null`.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// Python's truth: empty, zero, `None` and `false` are false.
    pub fn truthy(&self) -> bool {
        match self {
            Value::Null | Value::Omit | Value::Pending => false,
            Value::Bool(value) => *value,
            Value::Int(value) => *value != 0,
            Value::Float(value) => *value != 0.0,
            Value::Str(text) => !text.text.is_empty(),
            Value::List(items) => !items.is_empty(),
            Value::Map(map) => !map.is_empty(),
            Value::Vault(_) => true,
            Value::Lazy(lazy) => !lazy.keys().is_empty(),
        }
    }

    /// The boolean that a keyword or a module's argument means: booleans, 0 and 1, and the words
    /// yes/no, on/off, true/false, t/f, y/n in any case. `None` for all else.
    pub fn to_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(*value),
            Value::Int(0) => Some(false),
            Value::Int(1) => Some(true),
            Value::Float(value) if *value == 0.0 => Some(false),
            Value::Float(value) if *value == 1.0 => Some(true),
            Value::Str(text) => match text.text.trim().to_ascii_lowercase().as_str() {
                "yes" | "on" | "true" | "t" | "y" | "1" | "1.0" => Some(true),
                "no" | "off" | "false" | "f" | "n" | "0" | "0.0" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }

    /// Python's name of the type, for messages (`str`, `int`, `list`, `dict`, …).
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Null => "NoneType",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            Value::Str(_) | Value::Vault(_) => "str",
            Value::List(_) => "list",
            Value::Map(_) | Value::Lazy(_) => "dict",
            Value::Omit => "omit",
            Value::Pending => "pending",
        }
    }

    /// Where it was written, if that is known.
    pub fn origin(&self) -> Option<&Arc<Origin>> {
        match self {
            Value::Str(text) => text.origin.as_ref(),
            Value::Vault(vault) => vault.origin.as_ref(),
            Value::List(items) => items.iter().find_map(Value::origin),
            Value::Map(map) => map.iter().find_map(|(key, value)| key.origin().or_else(|| value.origin())),
            _ => None,
        }
    }

    /// A copy in which no string is a template any more.
    #[must_use]
    pub fn untrusted(&self) -> Value {
        match self {
            // Most have nothing to take off.
            clean if clean.is_untrusted() => clean.clone(),
            Value::Str(text) => Value::Str(Text { trusted: false, ..text.clone() }),
            Value::List(items) => Value::list(items.iter().map(Value::untrusted).collect()),
            Value::Map(map) => {
                Value::map(map.iter().map(|(key, value)| (key.untrusted(), value.untrusted())).collect())
            }
            other => other.clone(),
        }
    }

    /// Whether no string in it is a template.
    fn is_untrusted(&self) -> bool {
        match self {
            Value::Str(text) => !text.trusted,
            Value::List(items) => items.iter().all(Value::is_untrusted),
            Value::Map(map) => map.iter().all(|(key, value)| key.is_untrusted() && value.is_untrusted()),
            _ => true,
        }
    }

    /// The text that Python's `str()` gives: strings bare, `True`, `None`, containers as their `repr`.
    pub fn to_text(&self) -> String {
        match self {
            Value::Str(text) => text.text.to_string(),
            other => other.repr(),
        }
    }

    /// The text that Python's `repr()` gives.
    pub fn repr(&self) -> String {
        let mut out = String::new();
        self.write_repr(&mut out);
        out
    }

    fn write_repr(&self, out: &mut String) {
        match self {
            Value::Null => out.push_str("None"),
            Value::Bool(true) => out.push_str("True"),
            Value::Bool(false) => out.push_str("False"),
            Value::Int(value) => out.push_str(&value.to_string()),
            Value::Float(value) => out.push_str(&float_repr(*value)),
            Value::Str(text) => write_str_repr(&text.text, out),
            Value::Vault(vault) => write_str_repr(&vault.envelope, out),
            Value::List(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push_str(", ");
                    }
                    item.write_repr(out);
                }
                out.push(']');
            }
            Value::Map(map) => {
                out.push('{');
                for (index, (key, value)) in map.iter().enumerate() {
                    if index > 0 {
                        out.push_str(", ");
                    }
                    key.write_repr(out);
                    out.push_str(": ");
                    value.write_repr(out);
                }
                out.push('}');
            }
            Value::Lazy(lazy) => {
                out.push('{');
                for (index, key) in lazy.keys().iter().enumerate() {
                    if index > 0 {
                        out.push_str(", ");
                    }
                    write_str_repr(key, out);
                    out.push_str(": ");
                    lazy.get(key).unwrap_or_default().write_repr(out);
                }
                out.push('}');
            }
            Value::Omit => out.push_str("<omit>"),
            Value::Pending => out.push_str("<pending>"),
        }
    }
}

/// Python's `repr` of a float: shortest digits that read back, always with a point or an exponent.
pub fn float_repr(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let text = format!("{value:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
        return format!("{mantissa}e{sign}{digits:0>2}");
    }
    let text = format!("{value}");
    if text.contains('.') { text } else { text + ".0" }
}

fn write_str_repr(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if (c as u32) < 0x20 || (0x7f..0xa0).contains(&(c as u32)) => {
                out.push_str(&format!("\\x{:02x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

/// Equality is Python's: `1 == 1.0 == True`, strings by their characters whatever their trust.
impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Null, Value::Null) | (Value::Omit, Value::Omit) | (Value::Pending, Value::Pending) => {
                true
            }
            (Value::Str(a), Value::Str(b)) => a.text == b.text,
            (Value::List(a), Value::List(b)) => Arc::ptr_eq(a, b) || a == b,
            (Value::Map(a), Value::Map(b)) => Arc::ptr_eq(a, b) || a == b,
            (Value::Vault(a), Value::Vault(b)) => a.envelope == b.envelope,
            (Value::Lazy(a), Value::Lazy(b)) => Arc::ptr_eq(a, b),
            (a, b) => match (a.number(), b.number()) {
                (Some(Number::Int(a)), Some(Number::Int(b))) => a == b,
                (Some(a), Some(b)) => a.float() == b.float(),
                _ => false,
            },
        }
    }
}

impl Eq for Value {}

enum Number {
    Int(i64),
    Float(f64),
}

impl Number {
    #[expect(
        clippy::cast_precision_loss,
        reason = "Python compares int and float the same way for sane sizes"
    )]
    fn float(&self) -> f64 {
        match self {
            Number::Int(value) => *value as f64,
            Number::Float(value) => *value,
        }
    }
}

impl Value {
    fn number(&self) -> Option<Number> {
        match self {
            Value::Bool(value) => Some(Number::Int(i64::from(*value))),
            Value::Int(value) => Some(Number::Int(*value)),
            Value::Float(value) => Some(Number::Float(*value)),
            _ => None,
        }
    }
}

/// Strings hash as `str` does, so that a map can be asked with a plain `&str`.
impl Hash for Value {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Value::Str(text) => text.text.as_ref().hash(state),
            Value::Null | Value::Omit | Value::Pending => 0u8.hash(state),
            Value::List(items) => items.len().hash(state),
            Value::Map(map) => map.len().hash(state),
            Value::Vault(vault) => vault.envelope.hash(state),
            Value::Lazy(_) => 1u8.hash(state),
            number => match number.number() {
                Some(Number::Int(value)) => value.hash(state),
                Some(Number::Float(value)) if value.fract() == 0.0 && value.abs() < 9e15 => {
                    #[expect(
                        clippy::cast_possible_truncation,
                        reason = "checked to be a small whole number"
                    )]
                    (value as i64).hash(state);
                }
                Some(Number::Float(value)) => value.to_bits().hash(state),
                None => 0u8.hash(state),
            },
        }
    }
}

impl Equivalent<Value> for str {
    fn equivalent(&self, key: &Value) -> bool {
        key.as_str() == Some(self)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::str(text)
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::str(text)
    }
}

impl From<Arc<str>> for Value {
    fn from(text: Arc<str>) -> Value {
        Value::str(text)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Value {
        Value::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Value {
        Value::Int(value)
    }
}

impl From<i32> for Value {
    fn from(value: i32) -> Value {
        Value::Int(value.into())
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Value {
        Value::Int(value.into())
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Value {
        i64::try_from(value).map_or_else(|_| Value::Float(value as f64), Value::Int)
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Value {
        (value as u64).into()
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Value {
        Value::Float(value)
    }
}

impl From<Map> for Value {
    fn from(map: Map) -> Value {
        Value::map(map)
    }
}

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(items: Vec<T>) -> Value {
        Value::list(items.into_iter().map(Into::into).collect())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}

/// A mapping from `(key, value)` pairs.
pub fn map_of<K: Borrow<str>, V: Into<Value>>(entries: impl IntoIterator<Item = (K, V)>) -> Map {
    entries.into_iter().map(|(key, value)| (Value::str(key.borrow()), value.into())).collect()
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Null | Value::Omit | Value::Pending => serializer.serialize_unit(),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Int(value) => serializer.serialize_i64(*value),
            Value::Float(value) => serializer.serialize_f64(*value),
            Value::Str(text) => serializer.serialize_str(&text.text),
            Value::Vault(vault) => serializer.serialize_str(&vault.envelope),
            Value::List(items) => {
                let mut seq = serializer.serialize_seq(Some(items.len()))?;
                for item in items.iter() {
                    seq.serialize_element(item)?;
                }
                seq.end()
            }
            Value::Map(map) => {
                let mut out = serializer.serialize_map(Some(map.len()))?;
                for (key, value) in map.iter() {
                    match key {
                        Value::Str(text) => out.serialize_entry(text.text.as_ref(), value)?,
                        other => out.serialize_entry(&json_key(other), value)?,
                    }
                }
                out.end()
            }
            Value::Lazy(lazy) => {
                let keys = lazy.keys();
                let mut out = serializer.serialize_map(Some(keys.len()))?;
                for key in &keys {
                    out.serialize_entry(key.as_ref(), &lazy.get(key).unwrap_or_default())?;
                }
                out.end()
            }
        }
    }
}

/// The key that Python's JSON writer makes of a key that is not a string.
fn json_key(key: &Value) -> String {
    match key {
        Value::Null => "null".into(),
        Value::Bool(true) => "true".into(),
        Value::Bool(false) => "false".into(),
        other => other.to_text(),
    }
}

/// What is read from the wire or from JSON is never trusted.
impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        struct ValueVisitor;
        impl<'de> Visitor<'de> for ValueVisitor {
            type Value = Value;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_none<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
                Value::deserialize(deserializer)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(Value::Bool(value))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(Value::Int(value))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(Value::Float(value))
            }
            fn visit_str<E>(self, text: &str) -> Result<Value, E> {
                Ok(Value::str(text))
            }
            fn visit_string<E>(self, text: String) -> Result<Value, E> {
                Ok(Value::str(text))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
                let mut items = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(4096));
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Value::list(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
                let mut map = Map::with_capacity(access.size_hint().unwrap_or(0).min(4096));
                while let Some((key, value)) = access.next_entry::<Value, Value>()? {
                    map.insert(key, value);
                }
                Ok(Value::map(map))
            }
        }
        deserializer.deserialize_any(ValueVisitor)
    }
}

/// Reads a value into a type of its own, such as a module's arguments.
///
/// # Errors
/// Names what does not fit.
pub fn from_value<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, serde::de::value::Error> {
    T::deserialize(value)
}

impl<'de> serde::de::IntoDeserializer<'de> for Value {
    type Deserializer = Value;
    fn into_deserializer(self) -> Value {
        self
    }
}

/// Each of these exists once for every type that is read from a value, so that each does only what such a
/// type can need: it is the runner's size.
impl Value {
    fn visit_scalar<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        match self {
            Value::Null | Value::Omit | Value::Pending => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(value),
            Value::Int(value) => visitor.visit_i64(value),
            Value::Float(value) => visitor.visit_f64(value),
            Value::Str(text) => visitor.visit_str(&text.text),
            Value::Vault(vault) => visitor.visit_str(&vault.envelope),
            other => Err(other.unfit(&visitor)),
        }
    }

    fn visit_list<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        let Value::List(items) = self else { return Err(self.unfit(&visitor)) };
        let items = Arc::try_unwrap(items).unwrap_or_else(|shared| shared.as_ref().clone());
        let mut seq = serde::de::value::SeqDeserializer::new(items.into_iter());
        let out = visitor.visit_seq(&mut seq)?;
        seq.end()?;
        Ok(out)
    }

    fn visit_entries<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        let map = self.into_entries().map_err(|other| other.unfit(&visitor))?;
        let mut access = serde::de::value::MapDeserializer::new(map.into_iter());
        let out = visitor.visit_map(&mut access)?;
        access.end()?;
        Ok(out)
    }

    fn into_entries(self) -> Result<Map, Value> {
        match self {
            Value::Map(map) => Ok(Arc::try_unwrap(map).unwrap_or_else(|shared| shared.as_ref().clone())),
            Value::Lazy(lazy) => {
                let entry = |key: &Arc<str>| (Value::str(key.clone()), lazy.get(key).unwrap_or_default());
                Ok(lazy.keys().iter().map(entry).collect())
            }
            other => Err(other),
        }
    }

    /// That it is not what was expected.
    fn unfit(&self, expected: &dyn serde::de::Expected) -> ValueError {
        use serde::de::Unexpected;
        let found = match self {
            Value::Null | Value::Omit | Value::Pending => Unexpected::Unit,
            Value::Bool(value) => Unexpected::Bool(*value),
            Value::Int(value) => Unexpected::Signed(*value),
            Value::Float(value) => Unexpected::Float(*value),
            Value::Str(text) => Unexpected::Str(&text.text),
            Value::Vault(vault) => Unexpected::Str(&vault.envelope),
            Value::List(_) => Unexpected::Seq,
            Value::Map(_) | Value::Lazy(_) => Unexpected::Map,
        };
        serde::de::Error::invalid_type(found, expected)
    }
}

type ValueError = serde::de::value::Error;

/// Reads what can be one thing only.
macro_rules! deserialize_by {
    ($how:ident: $($name:ident)*) => {
        $(
            fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
                self.$how(visitor)
            }
        )*
    };
}

impl<'de> Deserializer<'de> for Value {
    type Error = ValueError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self {
            Value::List(_) => self.visit_list(visitor),
            Value::Map(_) | Value::Lazy(_) => self.visit_entries(visitor),
            scalar => scalar.visit_scalar(visitor),
        }
    }

    deserialize_by! { visit_scalar:
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8
        deserialize_u16 deserialize_u32 deserialize_u64 deserialize_f32 deserialize_f64 deserialize_char
        deserialize_str deserialize_string deserialize_identifier deserialize_unit
    }
    deserialize_by! { visit_list: deserialize_seq }
    deserialize_by! { visit_entries: deserialize_map }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.visit_entries(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_unit()
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self {
            Value::Null | Value::Omit => visitor.visit_none(),
            other => visitor.visit_some(other),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        match self {
            Value::Str(text) => {
                visitor.visit_enum(serde::de::value::StrDeserializer::<Self::Error>::new(&text.text))
            }
            other => Err(serde::de::Error::custom(format!("{} is not a name", other.repr()))),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! { bytes byte_buf unit_struct tuple tuple_struct }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equality_and_hash_are_pythons() {
        let map = map_of([("a", 1), ("b", 2)]);
        assert_eq!(map.get("b"), Some(&Value::Int(2)));
        assert_eq!(Value::Int(1), Value::Float(1.0));
        assert_eq!(Value::Bool(true), Value::Int(1));
        assert_ne!(Value::str("1"), Value::Int(1));
        let map: Map = [(Value::Int(1), Value::str("one"))].into_iter().collect();
        assert_eq!(map.get(&Value::Float(1.0)), Some(&Value::str("one")));
    }

    #[test]
    fn repr_is_pythons() {
        for (value, expected) in [
            (Value::Null, "None"),
            (Value::Bool(true), "True"),
            (Value::Float(1.0), "1.0"),
            (Value::Float(1e16), "1e+16"),
            (Value::Float(1.5e-7), "1.5e-07"),
            (Value::Float(0.1), "0.1"),
            (Value::str("it's"), "\"it's\""),
            (Value::str("a\n\"b\" 'c'"), "'a\\n\"b\" \\'c\\''"),
            (Value::from(vec![Value::Int(1), Value::str("x")]), "[1, 'x']"),
            (Value::map(map_of([("a", 1)])), "{'a': 1}"),
        ] {
            assert_eq!(value.repr(), expected);
        }
    }
}
