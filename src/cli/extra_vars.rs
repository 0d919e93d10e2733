//! `-e`: `key=value` pairs, YAML or JSON, or a file of it; several are merged in order.

use std::path::Path;
use std::sync::Arc;

use crate::diagnostic::Diagnostic;
use crate::source;
use crate::value::{Map, Value};
use crate::vault::Vault;

/// All variables that `-e` options set, later ones over earlier ones.
///
/// # Errors
/// A file can't be read, or an argument is not a mapping.
pub fn parse(arguments: &[String], vault: &Vault) -> Result<Arc<Map>, Vec<Diagnostic>> {
    let mut all = Map::new();
    for argument in arguments {
        all.extend(one(argument, vault)?);
    }
    Ok(Arc::new(all))
}

fn one(argument: &str, vault: &Vault) -> Result<Map, Vec<Diagnostic>> {
    let trimmed = argument.trim();
    let value = if let Some(path) = trimmed.strip_prefix('@') {
        source::load_file(Path::new(path), vault)?.root.to_value()
    } else if trimmed.starts_with(['/', '.']) {
        let message = format!("`{trimmed}` looks like a file: write -e @{trimmed}");
        return Err(vec![Diagnostic::error(message)]);
    } else if trimmed.starts_with(['{', '[']) {
        source::parse_value("--extra-vars", trimmed).map_err(|error| vec![error])?.0
    } else {
        return pairs(trimmed).map_err(|message| vec![Diagnostic::error(message)]);
    };
    match value {
        Value::Map(map) => Ok(Arc::unwrap_or_clone(map)),
        Value::Null => Ok(Map::new()),
        other => {
            let message = format!(
                "-e {trimmed}: variables must be a mapping or key=value, not a {}",
                other.type_name()
            );
            Err(vec![Diagnostic::error(message)])
        }
    }
}

/// `a=1 b="two words"`: every value is a string, and may be a template.
fn pairs(text: &str) -> Result<Map, String> {
    let mut map = Map::new();
    for word in split(text)? {
        let (key, value) = word.split_once('=').ok_or_else(|| {
            format!("-e {text}: `{word}` is not key=value; write YAML or JSON in braces, or @FILE")
        })?;
        map.insert(Value::str(key.trim()), Value::trusted(unquote(value)));
    }
    Ok(map)
}

/// Words, separated by white space outside of quotes and of `{{ }}`, `{% %}`, `{# #}`.
fn split(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let (mut quote, mut depth) = (None, 0usize);
    let chars: Vec<char> = text.chars().collect();
    let mut at = 0;
    while at < chars.len() {
        let c = chars[at];
        let next = chars.get(at + 1).copied();
        match (quote, c) {
            (Some(_), '\\') if next.is_some() => {
                word.push(c);
                word.extend(next);
                at += 2;
                continue;
            }
            (Some(open), _) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, '{') if matches!(next, Some('{' | '%' | '#')) => depth += 1,
            (None, '}') if depth > 0 && at > 0 && matches!(chars[at - 1], '}' | '%' | '#') => depth -= 1,
            (None, c) if c.is_whitespace() && depth == 0 => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                at += 1;
                continue;
            }
            _ => {}
        }
        word.push(c);
        at += 1;
    }
    if quote.is_some() || depth > 0 {
        return Err(format!("-e {text}: a quote or a brace is not closed"));
    }
    if !word.is_empty() {
        words.push(word);
    }
    Ok(words)
}

fn unquote(text: &str) -> String {
    for quote in ['"', '\''] {
        if text.len() > 1
            && let Some(inner) = text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote))
        {
            return inner.replace(&format!("\\{quote}"), &quote.to_string());
        }
    }
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_and_their_types() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("vars.yml");
        std::fs::write(&file, "a: 1\nf: [x]\n").expect("it can be written");
        let at = format!("@{}", file.display());
        for (arguments, expected) in [
            (vec!["a=1 b=True"], "{'a': '1', 'b': 'True'}"),
            (vec!["a='x y' b=\"it's\""], "{'a': 'x y', 'b': \"it's\"}"),
            (vec!["a={{ b c }} d=e"], "{'a': '{{ b c }}', 'd': 'e'}"),
            (vec!["a=b=c"], "{'a': 'b=c'}"),
            (vec!["{\"a\": 1, \"b\": true}"], "{'a': 1, 'b': True}"),
            (vec!["{a: yes}", "a=2"], "{'a': '2'}"),
            (vec!["a=9", &at], "{'a': 1, 'f': ['x']}"),
            (vec![""], "{}"),
        ] {
            let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
            let got = parse(&arguments, &Vault::default()).expect("they are well formed");
            assert_eq!(Value::Map(got).repr(), expected, "{arguments:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (argument, part) in [
            ("a", "not key=value"),
            ("a='b", "not closed"),
            ("[1]", "not a list"),
            ("./vars.yml", "-e @./vars.yml"),
            ("@/nonexistent/x", "/nonexistent/x"),
        ] {
            let errors = parse(&[argument.to_owned()], &Vault::default()).expect_err(argument);
            let all: String = errors.iter().map(|error| error.to_string()).collect();
            assert!(all.contains(part), "{argument}: {all}");
        }
    }
}
