//! Hides values of which only *same or other* may be known.
//!
//! What a task hides (`no_log`), and properties that are secrets by their nature, are stored as digests salted
//! with a random text of the store: equal values compare equal, and nothing can be read back.

use std::sync::Arc;

use crate::system::{Algorithm, digest};
use crate::value::{Map, Value};

/// Properties that tell nothing, and are stored as they are also where a task hides the rest.
const HARMLESS: &[&str] =
    &["mode", "uid", "gid", "size", "sha256", "state", "enabled", "masked", "version", "exists"];

/// Properties that are secrets wherever they occur.
const SECRET: &[&str] = &["password", "passphrase", "value", "secret", "token", "key"];

/// Kinds of which one property named in [`SECRET`] is no secret.
const OPEN: &[(&str, &str)] = &[("sysctl", "value"), ("pam_limit", "value"), ("authorized_key", "key")];

/// A state as it may be stored.
pub fn state(kind: &str, state: &Value, hidden: bool, salt: &str) -> Value {
    match state {
        Value::Map(map) => Value::map(
            map.iter()
                .map(|(key, value)| {
                    let name = key.as_str().unwrap_or_default();
                    let harmless = HARMLESS.contains(&name) || matches!(value, Value::Bool(_) | Value::Null);
                    let secret = SECRET.contains(&name) && !OPEN.contains(&(kind, name));
                    let seal = (hidden && !harmless) || (secret && !value.is_null());
                    (key.clone(), if seal { sealed(value, salt) } else { plain(value) })
                })
                .collect::<Map>(),
        ),
        Value::Null => Value::Null,
        other if hidden && !matches!(other, Value::Bool(_)) => sealed(other, salt),
        other => plain(other),
    }
}

/// The JSON of [`state`].
pub fn json(kind: &str, value: &Value, hidden: bool, salt: &str) -> String {
    let is_open = |map: &Map| map.keys().all(|key| key.as_str().is_none_or(|name| !SECRET.contains(&name)));
    let sealed;
    let shown = match value {
        Value::Map(map) if !hidden && is_open(map) => value,
        Value::Null => value,
        _ => {
            sealed = state(kind, value, hidden, salt);
            &sealed
        }
    };
    serde_json::to_string(shown).unwrap_or_else(|_| "null".into())
}

/// A state in the form in which it is kept: JSON, sealed where it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored(Arc<str>);

impl Stored {
    /// A state of a resource of this kind; all of it is sealed if its task hides it.
    pub fn new(kind: &str, state: &Value, hidden: bool, salt: &str) -> Stored {
        Stored(json(kind, state, hidden, salt).into())
    }

    /// A state as the store has it.
    pub fn from_text(text: &str) -> Stored {
        Stored(text.into())
    }

    /// As it is kept.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The state; `Null`: absent.
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.0).unwrap_or_default()
    }

    /// Whether the resource is to be absent.
    pub fn is_absent(&self) -> bool {
        &*self.0 == "null"
    }
}

/// The digest that stands for a value. What is sealed already stays as it is.
fn sealed(value: &Value, salt: &str) -> Value {
    if value.as_str().is_some_and(|text| text.starts_with(MARK)) {
        return value.clone();
    }
    let text = format!("{salt}\0{}", serde_json::to_string(value).unwrap_or_default());
    Value::from(format!("{MARK}{}", &digest::of_bytes(Algorithm::Sha256, text.as_bytes())[..32]))
}

/// How a sealed value begins.
const MARK: &str = "sealed:";

/// Without trust and origins, which belong to the playbook.
fn plain(value: &Value) -> Value {
    value.untrusted()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::map_of;

    #[test]
    fn what_is_hidden_can_be_compared_and_not_read() {
        let user = |shell: &str, password: &str| {
            Value::map(map_of([("shell", shell), ("password", password), ("state", "present")]))
        };
        let open = state("user", &user("/bin/sh", "hunter2"), false, "salt");
        assert_eq!(open.get("shell").and_then(Value::as_str), Some("/bin/sh"));
        let hidden = state("user", &user("/bin/sh", "hunter2"), true, "salt");
        for value in [&open, &hidden] {
            assert!(!value.repr().contains("hunter2"), "{}", value.repr());
            assert_eq!(value.get("state").and_then(Value::as_str), Some("present"));
        }
        assert!(!hidden.repr().contains("/bin/sh"));
        assert_eq!(hidden, state("user", &user("/bin/sh", "hunter2"), true, "salt"));
        assert_eq!(hidden, state("user", &hidden, true, "salt"), "sealing twice is sealing once");
        assert_ne!(hidden, state("user", &user("/bin/sh", "hunter3"), true, "salt"));
        assert_ne!(hidden, state("user", &user("/bin/sh", "hunter2"), true, "pepper"));
        assert!(state("file", &Value::Null, true, "salt").is_null());
        let sysctl = Value::map(map_of([("value", "1")]));
        assert_eq!(state("sysctl", &sysctl, false, "salt"), sysctl);
        assert_ne!(state("debconf", &sysctl, false, "salt"), sysctl);
    }
}
