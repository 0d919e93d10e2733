//! `include_vars`: reads variables from a file or a directory while the play runs.

use std::path::{Path, PathBuf};

use crate::engine::actions::{ActionContext, ActionOutcome, Effect};
use crate::engine::plan::PlanError;
use crate::value::{Map, Value, map_of};
use crate::vars::merged;

const OPTIONS: &[&str] = &[
    "file",
    "dir",
    "name",
    "depth",
    "files_matching",
    "ignore_files",
    "extensions",
    "ignore_unknown_extensions",
    "hash_behaviour",
    "_raw_params",
];

pub(super) fn run(action: &ActionContext<'_>, args: Map) -> Result<ActionOutcome, PlanError> {
    let fail = |message: String| {
        let mut outcome = ActionOutcome::failed(action.task, message.clone());
        // Playbooks know it by this name too.
        outcome.result.insert(Value::str("message"), Value::str(message));
        Ok(outcome)
    };
    if let Some(unknown) = args.keys().map(Value::to_text).find(|name| !OPTIONS.contains(&name.as_str())) {
        return fail(format!("Task failed: {unknown} is not a valid option in include_vars"));
    }
    let has = |names: &[&str]| names.iter().any(|name| args.contains_key(*name));
    if has(&["file", "_raw_params"])
        && has(&["dir", "depth", "files_matching", "ignore_files", "extensions", "ignore_unknown_extensions"])
    {
        let mixed = "You are mixing file only and dir only arguments, these are incompatible";
        return fail(format!("Task failed: {mixed}"));
    }
    let text = |name: &str| match args.get(name) {
        Some(Value::Null) => Some(String::new()),
        given => given.map(Value::to_text),
    };
    let list = |name: &str| -> Vec<String> {
        match args.get(name) {
            Some(Value::List(items)) => items.iter().map(Value::to_text).collect(),
            Some(Value::Null) | None => Vec::new(),
            Some(other) => other.to_text().split_whitespace().map(String::from).collect(),
        }
    };
    let extensions = {
        let given = list("extensions");
        if given.is_empty() { vec!["yaml".into(), "yml".into(), "json".into()] } else { given }
    };
    let mut files = Vec::new();
    if let Some(dir) = text("dir") {
        let dir = locate(action, &dir);
        if !dir.is_dir() {
            return fail(format!("{} directory does not exist", dir.display()));
        }
        let depth = args.get("depth").and_then(Value::as_int).unwrap_or(0);
        collect(&dir, 1, depth, &mut files);
        let matching = match text("files_matching") {
            Some(pattern) => match fancy_regex::Regex::new(&pattern) {
                Ok(pattern) => Some(pattern),
                Err(error) => return fail(format!("files_matching is not a regular expression: {error}")),
            },
            None => None,
        };
        let mut ignored = Vec::new();
        for pattern in list("ignore_files") {
            match fancy_regex::Regex::new(&format!("{pattern}$")) {
                Ok(pattern) => ignored.push(pattern),
                Err(error) => return fail(format!("ignore_files is not a regular expression: {error}")),
            }
        }
        let skip_unknown = args.get("ignore_unknown_extensions").and_then(Value::to_bool).unwrap_or(false);
        let mut chosen = Vec::new();
        for file in files {
            let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if matching.as_ref().is_some_and(|pattern| !pattern.is_match(&name).unwrap_or(false))
                || ignored.iter().any(|pattern| pattern.is_match(&name).unwrap_or(false))
            {
                continue;
            }
            let have = file.extension().map(|have| have.to_string_lossy()).unwrap_or_default();
            let known = extensions.iter().any(|want| have == want.as_str());
            if !known {
                if skip_unknown || matching.is_some() {
                    continue;
                }
                return fail(format!(
                    "{} does not have a valid extension: {}",
                    file.display(),
                    extensions.join(", ")
                ));
            }
            chosen.push(file);
        }
        files = chosen;
    } else {
        let Some(name) = text("file").or_else(|| text("_raw_params")) else {
            return fail("one of `file` and `dir` is needed".into());
        };
        if name.trim().is_empty() {
            return fail("Could not find file: the name is empty".into());
        }
        match action.context.search.find("vars", name.trim()) {
            Ok(path) => files.push(path),
            Err(missing) => {
                let tried: Vec<String> =
                    missing.tried.iter().map(|path| format!("\t{}", path.display())).collect();
                return fail(format!(
                    "Could not find or access '{name}'\nSearched in:\n{} on the controller.",
                    tried.join("\n")
                ));
            }
        }
    }
    let mut vars = Map::new();
    for file in &files {
        match action.shared.vars_file(file) {
            Ok(map) => {
                for (key, value) in map.iter() {
                    vars.insert(key.clone(), value.clone());
                }
            }
            Err(error) => {
                let mut outcome = ActionOutcome::failed(action.task, error.to_string());
                outcome.diagnostic = Some(error);
                return Ok(outcome);
            }
        }
    }
    let included = Value::list(files.iter().map(|file| Value::str(file.to_string_lossy())).collect());
    let mut vars = match text("name") {
        Some(name) => map_of([(name, Value::map(vars))]),
        None => vars,
    };
    match text("hash_behaviour").as_deref() {
        None | Some("replace") => {}
        Some("merge") => vars = over_known(action, vars)?,
        Some(other) => return fail(format!("hash_behaviour must be one of: replace, merge, got: {other}")),
    }
    let result = map_of([
        ("changed", Value::Bool(false)),
        ("ansible_facts", Value::map(vars.clone())),
        ("ansible_included_var_files", included),
    ]);
    Ok(ActionOutcome { result, effects: vec![Effect::IncludeVars(vars)], diagnostic: None })
}

/// Mappings over those that are known by the same names.
fn over_known(action: &ActionContext<'_>, vars: Map) -> Result<Map, PlanError> {
    let mut known = Map::new();
    for (name, _) in vars.iter().filter(|(_, value)| matches!(value, Value::Map(_))) {
        let Some(value) = action.context.vars.get(&name.to_text()) else { continue };
        known.insert(name.clone(), action.shared.templar.render(&value, &action.context)?);
    }
    let names: Vec<Value> = vars.keys().cloned().collect();
    let mut all = merged(&known, &vars);
    all.retain(|name, _| names.contains(name));
    Ok(all)
}

/// A directory: absolute, in the role's `vars`, beside the task file, or beside the playbook.
fn locate(action: &ActionContext<'_>, dir: &str) -> PathBuf {
    if Path::new(dir).is_absolute() {
        return PathBuf::from(dir);
    }
    let search = action.context.search;
    search
        .dirs
        .iter()
        .chain(std::iter::once(&search.playbook_dir))
        .flat_map(|base| [base.join("vars").join(dir), base.join(dir)])
        .find(|path| path.is_dir())
        .unwrap_or_else(|| search.playbook_dir.join(dir))
}

fn collect(dir: &Path, level: i64, depth: i64, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.sort();
    for path in &paths {
        if path.is_file() {
            files.push(path.clone());
        }
    }
    for path in paths {
        if path.is_dir() && (depth == 0 || level < depth) {
            collect(&path, level + 1, depth, files);
        }
    }
}
