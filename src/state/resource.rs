//! What a resource is to the store: kinds and states as modules name them, brought into one form, so that a
//! file that became a directory is the same resource in another state.

use crate::value::{Value, map_of};

/// Kinds that are something at a path.
const PATHS: &[&str] = &["file", "directory", "link", "fifo", "socket", "device"];

/// Whether resources of this kind are something at a path.
pub fn is_path(kind: &str) -> bool {
    PATHS.contains(&kind)
}

/// The kind under which the store knows it: all that is at a path is `file`.
pub fn kind(kind: &str) -> &str {
    if is_path(kind) { "file" } else { kind }
}

/// Kind and state in the store's form.
pub fn normal<'a>(given: &'a str, state: &Value) -> (&'a str, Value) {
    let state = match state {
        Value::Map(map) if is_path(given) && given != "file" => {
            let mut typed = map_of([("type", given)]);
            typed.extend(map.iter().map(|(key, value)| (key.clone(), value.untrusted())));
            Value::map(typed)
        }
        other => other.untrusted(),
    };
    (kind(given), state)
}

/// The state of a resource on which two tasks of one run have worked: what is at a path is as the later one
/// left it; of anything else each task may manage other properties.
pub fn merge(kind: &str, earlier: &Value, later: Value) -> Value {
    match (earlier, &later) {
        (Value::Map(earlier), Value::Map(now)) if !is_path(kind) => {
            let mut both = earlier.as_ref().clone();
            both.extend(now.iter().map(|(key, value)| (key.clone(), value.clone())));
            Value::map(both)
        }
        _ => later,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_at_a_path_is_one_resource() {
        let state = Value::map(map_of([("mode", "0755")]));
        assert_eq!(normal("file", &state), ("file", state.clone()));
        let (kind, directory) = normal("directory", &state);
        assert_eq!(kind, "file");
        assert_eq!(directory.repr(), "{'type': 'directory', 'mode': '0755'}");
        assert_eq!(normal("directory", &Value::Null), ("file", Value::Null));
        assert_eq!(normal("service", &state), ("service", state.clone()));
    }

    #[test]
    fn tasks_manage_properties_together_and_paths_in_turn() {
        let map = |key: &str| Value::map(map_of([(key, "x")]));
        assert_eq!(merge("service", &map("enabled"), map("state")).repr(), "{'enabled': 'x', 'state': 'x'}");
        assert_eq!(merge("file", &map("sha256"), map("mode")), map("mode"));
        assert_eq!(merge("service", &map("enabled"), Value::Null), Value::Null);
        assert_eq!(merge("user", &Value::Null, map("shell")), map("shell"));
    }
}
