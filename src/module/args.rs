//! Checks a task's arguments against a module's table: names, aliases, types, choices, rules, defaults.
//!
//! The same check runs at load time (on what is literal) and in the runner (on everything).

use std::path::PathBuf;

use crate::diagnostic::did_you_mean;
use crate::module::{Module, ModuleError, Param, Rule, Type};
use crate::system::System;
use crate::value::{Map, Value, map_of};

/// Parameters that every module with `file_params` takes.
pub const FILE_PARAMS: &[Param] = &[
    Param::new(
        "mode",
        Type::Raw,
        "Permissions: octal (quoted, or with a leading zero) or symbolic such as `u=rw,g=r`; `preserve` where files are copied.",
    ),
    Param::new("owner", Type::Str, "Name or number of the account that should own it."),
    Param::new("group", Type::Str, "Name or number of the group that should own it."),
    Param::new("seuser", Type::Str, "User part of the SELinux context; `_default` for the policy's."),
    Param::new("serole", Type::Str, "Role part of the SELinux context; `_default` for the policy's."),
    Param::new("setype", Type::Str, "Type part of the SELinux context; `_default` for the policy's."),
    Param::new("selevel", Type::Str, "Level part of the SELinux context; `_default` for the policy's."),
    Param::new("attributes", Type::Str, "Attributes as `chattr` takes them, such as `+i`.")
        .aliases(&["attr"]),
    Param::new(
        "unsafe_writes",
        Type::Bool,
        "Write in place where the file cannot be replaced at once, as with bind mounts. Not atomic.",
    )
    .default("false"),
];

/// One thing that is wrong with a task's arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgError {
    /// The argument, if it is about one.
    pub argument: Option<String>,
    /// What is wrong: in the words that users of such modules know.
    pub message: String,
    /// What was probably meant.
    pub hint: Option<String>,
}

/// Checks arguments and brings them into their types, under their main names, with defaults filled in.
/// `literal` says which values are final; an argument for which it is false (it holds a template) is only
/// checked by name, and kept as it is.
///
/// # Errors
/// Everything that is wrong, at once.
pub fn check(module: &Module, given: &Map, literal: &dyn Fn(&Value) -> bool) -> Result<Value, Vec<ArgError>> {
    let mut errors = Vec::new();
    let mut out = Map::new();
    for (key, value) in given {
        let Some(name) = key.as_str() else {
            errors.push(ArgError {
                argument: None,
                message: format!("argument name {} is not a string", key.repr()),
                hint: None,
            });
            continue;
        };
        if matches!(value, Value::Omit) {
            continue;
        }
        if module.free_form && name == "_raw_params" {
            out.insert(key.clone(), value.clone());
            continue;
        }
        let Some(param) =
            module.all_params().find(|param| param.name == name || param.aliases.contains(&name))
        else {
            if module.any_params {
                out.insert(key.clone(), value.clone());
            } else {
                errors.push(unknown(module, name));
            }
            continue;
        };
        if let Some(why) = param.refused {
            errors.push(ArgError {
                argument: Some(name.into()),
                message: format!("parameter `{name}` of `{}` is not supported: {why}", module.name),
                hint: None,
            });
            continue;
        }
        if !literal(value) {
            out.insert(Value::str(param.name), value.clone());
            continue;
        }
        if value.is_null() {
            // As if it had not been given; a required one is reported below.
            continue;
        }
        match coerce(param.kind, value).and_then(|value| choose(param, value)) {
            Ok(value) => {
                out.insert(Value::str(param.name), value);
            }
            Err(reason) => errors.push(ArgError {
                argument: Some(name.into()),
                message: format!("argument '{name}' of `{}`: {reason}", module.name),
                hint: None,
            }),
        }
    }
    check_rules(module, &out, literal, &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }
    for param in module.all_params() {
        if let Some(default) = param.default
            && !out.contains_key(param.name)
        {
            out.insert(Value::str(param.name), default_value(param, default));
        }
    }
    Ok(Value::map(out))
}

fn unknown(module: &Module, name: &str) -> ArgError {
    let known: Vec<&str> = module
        .all_params()
        .filter(|param| param.refused.is_none())
        .flat_map(|param| std::iter::once(param.name).chain(param.aliases.iter().copied()))
        .collect();
    let hint = did_you_mean(name, known.iter().copied()).map(|meant| format!("did you mean `{meant}`?"));
    let mut names: Vec<&str> = module
        .all_params()
        .filter(|p| p.refused.is_none() && !p.name.starts_with('_'))
        .map(|param| param.name)
        .collect();
    names.sort_unstable();
    ArgError {
        argument: Some(name.into()),
        message: format!(
            "Unsupported parameters for ({}) module: {name}. Supported parameters include: {}.",
            module.name,
            names.join(", ")
        ),
        hint,
    }
}

fn check_rules(module: &Module, args: &Map, literal: &dyn Fn(&Value) -> bool, errors: &mut Vec<ArgError>) {
    let mut fail = |message: String| errors.push(ArgError { argument: None, message, hint: None });
    let missing: Vec<&str> = module
        .all_params()
        .filter(|param| param.required && !args.contains_key(param.name))
        .map(|param| param.name)
        .collect();
    if !missing.is_empty() {
        fail(format!("missing required arguments: {}", missing.join(", ")));
    }
    let given = |name: &&&str| args.contains_key(**name);
    // A template may turn out to leave its argument out.
    let sure = |name: &&&str| args.get(**name).is_some_and(literal);
    for rule in module.rules {
        match rule {
            Rule::MutuallyExclusive(names) => {
                if names.iter().filter(sure).count() > 1 {
                    fail(format!("parameters are mutually exclusive: {}", names.join("|")));
                }
            }
            Rule::RequiredTogether(names) => {
                if names.iter().any(|name| sure(&name)) && !names.iter().all(|name| given(&name)) {
                    fail(format!("parameters are required together: {}", names.join(", ")));
                }
            }
            Rule::RequiredOneOf(names) => {
                if names.iter().filter(given).count() == 0 {
                    fail(format!("one of the following is required: {}", names.join(", ")));
                }
            }
            Rule::RequiredIf { param, value, needs, any } => {
                let default = module.all_params().find(|p| p.name == *param).and_then(|p| p.default);
                let actual = match args.get(*param) {
                    Some(actual) if literal(actual) => Some(actual.to_text()),
                    Some(_) => None,
                    None => default.map(str::to_string),
                };
                let matches = actual.is_some_and(|actual| actual.eq_ignore_ascii_case(value));
                let missing: Vec<&str> =
                    needs.iter().filter(|name| !args.contains_key(**name)).copied().collect();
                if matches && *any && missing.len() == needs.len() {
                    fail(format!(
                        "{param} is {value} but any of the following are missing: {}",
                        missing.join(", ")
                    ));
                } else if matches && !*any && !missing.is_empty() {
                    fail(format!(
                        "{param} is {value} but all of the following are missing: {}",
                        missing.join(", ")
                    ));
                }
            }
            Rule::RequiredBy { param, needs } => {
                let missing: Vec<&str> =
                    needs.iter().filter(|name| !args.contains_key(**name)).copied().collect();
                if args.get(*param).is_some_and(literal) && !missing.is_empty() {
                    fail(format!("missing parameter(s) required by '{param}': {}", missing.join(", ")));
                }
            }
        }
    }
}

fn default_value(param: &Param, default: &str) -> Value {
    // Written as YAML: quotes say that it is a string.
    let unquoted = |quote: char| default.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    let default = unquoted('\'').or_else(|| unquoted('"')).unwrap_or(default);
    let value = match (param.kind, default) {
        (Type::List | Type::PathList, "" | "[]") => return Value::list(Vec::new()),
        (Type::Dict, "" | "{}") => return Value::map(Map::new()),
        _ => Value::str(default),
    };
    coerce(param.kind, &value).unwrap_or(value)
}

fn choose(param: &Param, value: Value) -> Result<Value, String> {
    if param.choices.is_empty() {
        return Ok(value);
    }
    let one = |value: &Value| -> Result<Value, String> {
        let text = match value {
            // YAML 1.1 turns bare yes/no/on/off into booleans; the choice that was meant is one of them.
            Value::Bool(truth) => {
                let words: &[&str] =
                    if *truth { &["yes", "on", "true", "True"] } else { &["no", "off", "false", "False"] };
                words
                    .iter()
                    .find(|word| param.choices.contains(word))
                    .map_or_else(|| value.to_text(), |word| (*word).to_string())
            }
            other => other.to_text(),
        };
        if param.choices.contains(&text.as_str()) {
            return Ok(Value::str(text));
        }
        let hint = did_you_mean(&text, param.choices.iter().copied())
            .map(|meant| format!(" (did you mean `{meant}`?)"))
            .unwrap_or_default();
        Err(format!(
            "value of {} must be one of: {}, got: {text}{hint}",
            param.name,
            param.choices.join(", ")
        ))
    };
    match &value {
        Value::List(items) => Ok(Value::list(items.iter().map(one).collect::<Result<_, _>>()?)),
        other => match param.kind {
            Type::Int | Type::Bool => one(other).map(|_| value),
            _ => one(other),
        },
    }
}

/// Brings a value into a parameter's type by the rules that the field's users know.
///
/// # Errors
/// A sentence that names the value and the type.
pub fn coerce(kind: Type, value: &Value) -> Result<Value, String> {
    let wrong = |name: &str| {
        Err(format!(
            "'{}' is of type {} and we were unable to convert to {name}",
            value.to_text(),
            value.type_name()
        ))
    };
    match kind {
        Type::Raw => Ok(value.clone()),
        Type::Str | Type::Path => match value {
            Value::Str(_) => Ok(value.clone()),
            Value::Null => Ok(Value::Null),
            other => Ok(Value::str(other.to_text())),
        },
        Type::Bool => value.to_bool().map_or_else(|| wrong("bool"), |truth| Ok(Value::Bool(truth))),
        Type::Int => match value {
            Value::Int(_) => Ok(value.clone()),
            Value::Bool(truth) => Ok(Value::Int(i64::from(*truth))),
            #[expect(clippy::cast_possible_truncation, reason = "checked to be a whole number in range")]
            Value::Float(number) if number.fract() == 0.0 && number.abs() < 9e15 => {
                Ok(Value::Int(*number as i64))
            }
            Value::Str(text) => text.text.trim().parse().map(Value::Int).or_else(|_| wrong("int")),
            _ => wrong("int"),
        },
        Type::Float => match value {
            Value::Float(_) => Ok(value.clone()),
            #[expect(clippy::cast_precision_loss, reason = "a parameter's number is small")]
            Value::Int(number) => Ok(Value::Float(*number as f64)),
            Value::Str(text) => text.text.trim().parse().map(Value::Float).or_else(|_| wrong("float")),
            _ => wrong("float"),
        },
        Type::List | Type::PathList => match value {
            Value::List(_) => Ok(value.clone()),
            Value::Str(text) => {
                Ok(Value::list(text.text.split(',').map(|item| Value::str(item.trim())).collect()))
            }
            Value::Int(_) | Value::Float(_) | Value::Bool(_) => {
                Ok(Value::list(vec![Value::str(value.to_text())]))
            }
            Value::Map(_) => Ok(Value::list(vec![value.clone()])),
            _ => wrong("list"),
        },
        Type::Dict => match value {
            Value::Map(_) => Ok(value.clone()),
            Value::Str(text) => {
                dict_from_text(&text.text).map_or_else(|| wrong("dict"), |map| Ok(Value::map(map)))
            }
            _ => wrong("dict"),
        },
        Type::Json => match value {
            Value::Str(_) => Ok(value.clone()),
            other => Ok(Value::str(json_text(other))),
        },
        Type::Bytes => match value {
            Value::Int(_) => Ok(value.clone()),
            Value::Str(text) => bytes(&text.text).map_or_else(|| wrong("bytes"), |size| Ok(Value::Int(size))),
            _ => wrong("bytes"),
        },
    }
}

/// JSON as Python writes it by default (`", "` and `": "`), without escaping what is not ASCII.
pub fn json_text(value: &Value) -> String {
    match value {
        Value::Null | Value::Omit | Value::Pending => "null".into(),
        Value::Bool(truth) => truth.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Float(_) => value.to_text(),
        Value::Str(text) => json_string(&text.text),
        Value::Vault(vault) => json_string(&vault.envelope),
        Value::List(items) => format!("[{}]", items.iter().map(json_text).collect::<Vec<_>>().join(", ")),
        Value::Map(map) => {
            let entry = |(key, value): (&Value, &Value)| {
                format!("{}: {}", json_string(&key.to_text()), json_text(value))
            };
            format!("{{{}}}", map.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
        Value::Lazy(lazy) => {
            let entry = |key: &std::sync::Arc<str>| {
                format!("{}: {}", json_string(key), json_text(&lazy.get(key).unwrap_or_default()))
            };
            format!("{{{}}}", lazy.keys().iter().map(entry).collect::<Vec<_>>().join(", "))
        }
    }
}

fn json_string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// `k=v, k2=v2` or `k=v k2=v2`.
fn dict_from_text(text: &str) -> Option<Map> {
    let text = text.trim();
    let separator = if text.contains(',') { ',' } else { ' ' };
    let mut map = Map::new();
    for part in text.split(separator).map(str::trim).filter(|part| !part.is_empty()) {
        let (key, value) = part.split_once('=')?;
        map.extend(map_of([(key.trim(), value.trim().to_string())]));
    }
    Some(map)
}

fn bytes(text: &str) -> Option<i64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let factor: f64 = match text[digits..].trim().to_ascii_uppercase().trim_end_matches('B') {
        "" => 1.0,
        "K" => 1024.0,
        "M" => 1_048_576.0,
        "G" => 1_073_741_824.0,
        "T" => 1_099_511_627_776.0,
        _ => return None,
    };
    #[expect(clippy::cast_possible_truncation, reason = "a size in bytes fits")]
    Some((number * factor) as i64)
}

/// `~`, `~user` and `$VAR`, `${VAR}` with the environment and accounts of the host.
///
/// # Errors
/// If the accounts can't be read.
pub fn expand_path(path: &str, system: &mut dyn System) -> Result<PathBuf, ModuleError> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    if let Some(after) = path.strip_prefix('~') {
        let (name, tail) = after.find('/').map_or((after, ""), |at| after.split_at(at));
        let home = if name.is_empty() {
            Some(
                system
                    .env("HOME")
                    .map_or_else(|| system.whoami().map(|user| user.home), |home| Ok(PathBuf::from(home)))?,
            )
        } else {
            system.user(name)?.map(|user| user.home)
        };
        match home {
            Some(home) => {
                out.push_str(&home.to_string_lossy());
                rest = tail;
            }
            None => rest = path,
        }
    }
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let (name, tail) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some(pair) => pair,
            None => {
                let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
                after.split_at(end)
            }
        };
        match system.env(name) {
            Some(value) if !name.is_empty() => out.push_str(&value),
            _ => out.push_str(&rest[at..rest.len() - tail.len()]),
        }
        rest = tail;
    }
    out.push_str(rest);
    Ok(PathBuf::from(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULE: Module = Module {
        name: "test.thing",
        params: &[
            Param::new("path", Type::Path, "p").required().aliases(&["dest"]),
            Param::new("state", Type::Str, "s").choices(&["present", "absent"]).default("present"),
            Param::new("force", Type::Bool, "f").default("no"),
            Param::new("names", Type::List, "n"),
            Param::new("count", Type::Int, "c"),
        ],
        rules: &[Rule::RequiredIf { param: "state", value: "absent", needs: &["count"], any: false }],
        ..Module::DEFAULT
    };

    fn run(given: Map) -> Result<Value, Vec<String>> {
        check(&MODULE, &given, &|_| true).map_err(|errors| errors.into_iter().map(|e| e.message).collect())
    }

    #[test]
    fn brings_arguments_into_their_types() {
        let out = run(map_of([
            ("dest", Value::str("/x")),
            ("force", Value::str("yes")),
            ("names", Value::str("a, b")),
            ("count", Value::str("3")),
        ]));
        let out = out.expect("valid");
        assert_eq!(
            out.repr(),
            "{'path': '/x', 'force': True, 'names': ['a', 'b'], 'count': 3, 'state': 'present'}"
        );
    }

    #[test]
    fn reports_everything_at_once() {
        let errors = run(map_of([
            ("pth", Value::str("/x")),
            ("state", Value::str("gone")),
            ("count", Value::str("x")),
        ]))
        .expect_err("invalid");
        assert_eq!(errors.len(), 4, "{errors:?}");
    }

    #[test]
    fn rules_see_defaults_and_values() {
        let errors = run(map_of([("path", "/x"), ("state", "absent")])).expect_err("invalid");
        assert_eq!(errors, ["state is absent but all of the following are missing: count"]);
    }

    #[test]
    fn what_a_template_may_leave_out_breaks_no_rule_yet() {
        const RULED: Module = Module {
            rules: &[
                Rule::MutuallyExclusive(&["names", "count"]),
                Rule::RequiredTogether(&["force", "names"]),
            ],
            ..MODULE
        };
        let literal = |value: &Value| !value.to_text().contains("{{");
        for (given, wrong) in [
            (vec![("names", "a"), ("force", "yes"), ("count", "{{ x }}")], 0),
            (vec![("names", "{{ x }}"), ("force", "{{ y }}"), ("count", "{{ z }}")], 0),
            (vec![("names", "{{ x }}")], 0),
            (vec![("names", "a")], 1),
            (vec![("names", "a"), ("count", "1")], 2),
        ] {
            let given: Map = map_of(given.into_iter().chain([("path", "/x")]));
            let found = check(&RULED, &given, &literal).map_or_else(|errors| errors.len(), |_| 0);
            assert_eq!(found, wrong, "{}", Value::map(given).repr());
        }
    }
}
