//! Facts of the site: `*.fact` files, JSON or INI, or programs that print one of these.

use crate::module::facts::Gathering;
use crate::system::Command;
use crate::value::{Map, Value};

pub(super) fn collect(gathering: &mut Gathering) {
    let directory = gathering.fact_path.clone();
    let mut facts = Map::new();
    for name in gathering.names(&directory) {
        let Some(base) = name.strip_suffix(".fact").filter(|base| !base.is_empty() && !base.starts_with('.'))
        else {
            continue;
        };
        let path = directory.join(&name);
        let shown = path.display().to_string();
        let fact = read_fact(gathering, &path).and_then(|text| {
            parse(&text)
                .map_err(|what| format!("error loading facts as {what} - please check content: {shown}"))
        });
        let fact = fact.unwrap_or_else(|problem| {
            gathering.warnings.push(problem.clone());
            problem.into()
        });
        facts.insert(base.into(), fact);
    }
    gathering.set("local", facts);
}

fn read_fact(gathering: &mut Gathering, path: &std::path::Path) -> Result<String, String> {
    let shown = path.display();
    let stat = gathering
        .system
        .stat_follow(path)
        .map_err(|error| format!("Could not stat fact ({shown}): {error}"))?;
    let stat = stat.ok_or_else(|| format!("Could not stat fact ({shown}): the link dangles"))?;
    if stat.mode & 0o100 == 0 {
        return Ok(gathering.text(path).unwrap_or_default());
    }
    let command = Command { timeout: Some(gathering.timeout), ..Command::new([path]) };
    let output = gathering
        .system
        .query(&command)
        .map_err(|error| format!("Could not execute fact script ({shown}): {error}"))?;
    if output.success() {
        Ok(output.stdout_text())
    } else {
        let stderr = output.stderr_text();
        Err(format!("Failure executing fact script ({shown}), rc: {}, err: {stderr}", output.code))
    }
}

/// The fact, or as what it can't be read.
fn parse(text: &str) -> Result<Value, &'static str> {
    if let Ok(value) = serde_json::from_str(text) {
        return Ok(value);
    }
    let sections = ini(text).ok_or("JSON or ini")?;
    let resolved = |(name, section): (&Value, &Value)| {
        let options = section.as_map()?;
        let value = |option: &Value| interpolated(&option.to_text(), options, 0).map(Value::from);
        let options: Option<Map> =
            options.iter().map(|(key, option)| Some((key.clone(), value(option)?))).collect();
        Some((name.clone(), Value::map(options?)))
    };
    sections.iter().map(resolved).collect::<Option<Map>>().map(Value::map).ok_or("ini")
}

/// A value with `%(name)s` replaced by another option of the section and `%%` by `%`. `None` if there is no such
/// option, or the percent sign means nothing.
fn interpolated(text: &str, options: &Map, depth: usize) -> Option<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let (name, after) = after.strip_prefix('(')?.split_once(")s")?;
        let other = options.get(name.to_lowercase().as_str()).filter(|_| depth < 10)?;
        out.push_str(&interpolated(&other.to_text(), options, depth + 1)?);
        rest = after;
    }
    out.push_str(rest);
    Some(out)
}

/// Sections of options: `name = value` or `name: value`, continued on lines that are indented.
fn ini(text: &str) -> Option<Map> {
    let mut sections = Map::new();
    let mut section: Option<(String, Map)> = None;
    let mut last: Option<String> = None;
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) =
            trimmed.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(name, _)| name)
        {
            if let Some((name, options)) = section.replace((name.to_string(), Map::new())) {
                sections.insert(name.into(), options.into());
            }
            last = None;
            continue;
        }
        let (_, options) = section.as_mut()?;
        if line.starts_with([' ', '\t'])
            && let Some(name) = &last
        {
            let joined =
                format!("{}\n{trimmed}", options.get(name.as_str()).map(Value::to_text).unwrap_or_default());
            options.insert(name.as_str().into(), joined.into());
            continue;
        }
        let (name, value) = trimmed.split_once(['=', ':'])?;
        let name = name.trim().to_lowercase();
        options.insert(name.as_str().into(), value.trim().into());
        last = Some(name);
    }
    let (name, options) = section?;
    sections.insert(name.into(), options.into());
    Some(sections)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_json_or_ini() {
        for (text, expected) in [
            ("{\"a\": [1, true]}", Some("{'a': [1, True]}")),
            ("\"text\"", Some("'text'")),
            (
                "[One]\nName = x y\nother: 2\n  more\n\n; no\n[two]\n",
                Some("{'One': {'name': 'x y', 'other': '2\\nmore'}, 'two': {}}"),
            ),
            ("[a]\nx = 100%%\ny = %(X)s of it", Some("{'a': {'x': '100%', 'y': '100% of it'}}")),
            ("[a]\nx = 5 % of\n", None),
            ("[a]\nx = %(x)s\n", None),
            ("no section = 1", None),
            ("", None),
        ] {
            assert_eq!(parse(text).ok().map(|value| value.repr()).as_deref(), expected, "{text}");
        }
        assert_eq!(parse("[a]\nx = 5 % of\n").err(), Some("ini"));
        assert_eq!(parse("x").err(), Some("JSON or ini"));
    }
}
