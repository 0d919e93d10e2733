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
                .ok_or_else(|| format!("error loading facts as JSON or ini - please check content: {shown}"))
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

fn parse(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok().or_else(|| ini(text).map(Value::map))
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
            ("no section = 1", None),
            ("", None),
        ] {
            assert_eq!(parse(text).map(|value| value.repr()).as_deref(), expected, "{text}");
        }
    }
}
