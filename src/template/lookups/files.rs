//! Lookups that read files and programs of the controller.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use minijinja::value::Value as V;

use super::Lookup;
use crate::template::error::TemplateError;
use crate::template::filters::strings;
use crate::template::lexer::Syntax;
use crate::template::object::{Py, R, check, is_marker, py};
use crate::template::ops;
use crate::template::registry::record;
use crate::template::run::{self, Frame, Module, Scope};
use crate::value::{Value, Vars, VaultText};

/// `text key=value key="a b"`: the free text and the pairs.
pub(super) fn key_values(term: &str) -> (String, Vec<(String, String)>) {
    let mut free = Vec::new();
    let mut pairs = Vec::new();
    let words =
        shlex::split(term).unwrap_or_else(|| term.split_whitespace().map(ToOwned::to_owned).collect());
    for word in words {
        match word.split_once('=') {
            Some((key, value)) if !key.is_empty() && key.chars().all(|c| c == '_' || c.is_alphanumeric()) => {
                pairs.push((key.to_owned(), value.to_owned()));
            }
            _ => free.push(word),
        }
    }
    (free.join(" "), pairs)
}

/// The part of a term that is no `name=value`, with its quotes.
fn free_text(term: &str) -> String {
    let mut words = vec![String::new()];
    let mut quote = None;
    for character in term.chars() {
        match quote {
            Some(open) if open == character => quote = None,
            None if matches!(character, '\'' | '"') => quote = Some(character),
            _ => {}
        }
        if quote.is_none() && character.is_whitespace() {
            words.push(String::new());
        } else if let Some(word) = words.last_mut() {
            word.push(character);
        }
    }
    if quote.is_some() {
        words = term.split_whitespace().map(ToOwned::to_owned).collect();
    }
    let is_pair = |word: &str| {
        word.split_once('=')
            .is_some_and(|(key, _)| !key.is_empty() && key.chars().all(|c| c == '_' || c.is_alphanumeric()))
    };
    words.retain(|word| !word.is_empty() && !is_pair(word));
    words.join(" ")
}

fn io(path: &Path, error: &std::io::Error) -> TemplateError {
    TemplateError::runtime(format!("can't read {}: {error}", path.display()))
}

fn find(lookup: &Lookup<'_>, kind: &str, name: &str) -> R<PathBuf> {
    lookup.scope.search.find(kind, name).map_err(|error| {
        TemplateError::runtime(match kind {
            "templates" => {
                format!("the template file {name} could not be found for the lookup{}", error.searched())
            }
            _ => format!("Unable to access the file '{name}': File not found.{}", error.searched()),
        })
    })
}

/// A file's text, decrypted if it is a vault.
fn read(lookup: &Lookup<'_>, path: &Path) -> R<String> {
    let bytes = std::fs::read(path).map_err(|error| io(path, &error))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| TemplateError::runtime(format!("{} is not UTF-8 text", path.display())))?;
    if text.starts_with("$ANSIBLE_VAULT") {
        let vault = VaultText { envelope: text.into(), origin: None };
        return lookup.scope.decrypt(&Arc::new(vault)).map(|plain| plain.to_string());
    }
    Ok(text)
}

/// A file's text in an encoding that has a name; of those that are not UTF-8, the Latin ones.
fn read_encoded(lookup: &Lookup<'_>, path: &Path, encoding: &str) -> R<String> {
    let plain: String =
        encoding.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    match plain.as_str() {
        "utf8" | "ascii" | "usascii" | "utf8sig" => {
            Ok(read(lookup, path)?.trim_start_matches('\u{feff}').to_owned())
        }
        "iso88591" | "latin1" | "latin" | "l1" | "iso885915" | "latin9" => {
            let bytes = std::fs::read(path).map_err(|error| io(path, &error))?;
            let ninth = plain.ends_with("15") || plain.ends_with('9');
            Ok(bytes.into_iter().map(|byte| if ninth { latin9(byte) } else { char::from(byte) }).collect())
        }
        _ => Err(TemplateError::runtime(format!(
            "the encoding '{encoding}' is not supported; there are utf-8, iso8859-1 and iso8859-15"
        ))),
    }
}

/// ISO 8859-15 differs from ISO 8859-1, which is Unicode's beginning, in eight places.
fn latin9(byte: u8) -> char {
    match byte {
        0xa4 => '€',
        0xa6 => 'Š',
        0xa8 => 'š',
        0xb4 => 'Ž',
        0xb8 => 'ž',
        0xbc => 'Œ',
        0xbd => 'œ',
        0xbe => 'Ÿ',
        other => char::from(other),
    }
}

pub(super) fn file(lookup: &Lookup<'_>) -> R<Vec<V>> {
    let (left, right) = (lookup.flag("lstrip", false)?, lookup.flag("rstrip", true)?);
    lookup
        .terms
        .iter()
        .map(|term| {
            let path = find(lookup, "files", &ops::to_text(term)?)?;
            let text = read(lookup, &path)?;
            let text = if left { text.trim_start() } else { &text };
            Ok(V::from(if right { text.trim_end() } else { text }))
        })
        .collect()
}

pub(super) fn unvault(lookup: &Lookup<'_>) -> R<Vec<V>> {
    lookup
        .terms
        .iter()
        .map(|term| {
            let path = find(lookup, "files", &ops::to_text(term)?)?;
            read(lookup, &path).map(V::from)
        })
        .collect()
}

pub(super) fn fileglob(lookup: &Lookup<'_>) -> R<Vec<V>> {
    let mut out = Vec::new();
    for term in crate::template::filters::lists::flatten_once(lookup.terms.clone())? {
        let term = ops::to_text(&term)?;
        let (dir, name) = (strings::dirname(&term), strings::basename(&term));
        let places: Vec<PathBuf> = if name == term {
            let search = &lookup.scope.search;
            search
                .dirs
                .iter()
                .chain(std::iter::once(&search.playbook_dir))
                .flat_map(|dir| [dir.join("files"), dir.clone()])
                .collect()
        } else {
            lookup.scope.search.find("files", &dir).into_iter().collect()
        };
        for place in places {
            let pattern = place.join(&name);
            let found = glob::glob(&pattern.display().to_string())
                .map_err(|error| TemplateError::runtime(error.to_string()))?;
            let files: Vec<V> = found
                .flatten()
                .filter(|path| path.is_file())
                .map(|path| std::path::absolute(&path).unwrap_or(path))
                .map(|path| V::from(path.display().to_string()))
                .collect();
            if !files.is_empty() {
                out.extend(files);
                break;
            }
        }
    }
    Ok(out)
}

fn split_on(value: &V, separators: &[char]) -> R<Vec<String>> {
    let items = match py(value) {
        Py::List(items) => items.to_vec()?,
        _ => vec![value.clone()],
    };
    let mut out = Vec::new();
    for item in items {
        match py(&item) {
            Py::List(_) => out.extend(split_on(&item, separators)?),
            _ => out.extend(ops::to_text(&item)?.split(separators).map(ToOwned::to_owned)),
        }
    }
    Ok(out)
}

struct FirstFound {
    candidates: Vec<String>,
    skip: bool,
}

fn first_found_terms(terms: &[V], in_loop: bool, options: &FirstFoundOptions, out: &mut FirstFound) -> R<()> {
    for term in terms {
        if is_marker(term) {
            if in_loop && check(term).is_err_and(|error| error.is_undefined()) {
                continue;
            }
            check(term)?;
        }
        let (files, paths) = match py(term) {
            Py::Dict(map) => {
                let get = |name: &str| -> R<Option<V>> {
                    match map.get_str(name)? {
                        Some(value) if is_marker(&value) => {
                            if in_loop && check(&value).is_err_and(|error| error.is_undefined()) {
                                Ok(None)
                            } else {
                                check(&value)?;
                                Ok(None)
                            }
                        }
                        found => Ok(found),
                    }
                };
                if let Some(skip) = get("skip")? {
                    out.skip = crate::template::object::lower(&skip)?.to_bool().unwrap_or(false);
                }
                let clean = |value: V| -> R<V> {
                    match py(&value) {
                        Py::List(items) if in_loop => {
                            let mut kept = Vec::new();
                            for item in items.to_vec()? {
                                match check(&item) {
                                    Ok(()) => kept.push(item),
                                    Err(error) if error.is_undefined() => {}
                                    Err(error) => return Err(error),
                                }
                            }
                            Ok(crate::template::object::list(kept))
                        }
                        _ => Ok(value),
                    }
                };
                let files = get("files")?.map(clean).transpose()?;
                let paths = get("paths")?.map(clean).transpose()?;
                (
                    files.map_or_else(|| Ok(Vec::new()), |files| split_on(&files, &[',', ';']))?,
                    paths.map_or_else(|| Ok(Vec::new()), |paths| split_on(&paths, &[',', ':', ';']))?,
                )
            }
            Py::Str(_) => (split_on(term, &[',', ';'])?, options.paths.clone()),
            Py::List(items) => {
                first_found_terms(&items.to_vec()?, in_loop, options, out)?;
                continue;
            }
            _ => {
                return Err(TemplateError::runtime(format!(
                    "Invalid term supplied. A string, dict or list is required, not '{}').",
                    crate::template::object::type_name(term)
                )));
            }
        };
        if paths.is_empty() {
            out.candidates.extend(files);
        } else {
            for path in &paths {
                for file in &files {
                    out.candidates.push(strings::join_paths(&[path.clone(), file.clone()]));
                }
            }
        }
    }
    Ok(())
}

struct FirstFoundOptions {
    paths: Vec<String>,
}

pub(super) fn first_found(lookup: &Lookup<'_>) -> R<Vec<V>> {
    let mut terms = lookup.terms.clone();
    if terms.is_empty()
        && let Some(files) = lookup.option("files")
    {
        terms = vec![files.clone()];
    }
    let options = FirstFoundOptions {
        paths: lookup
            .option("paths")
            .map_or_else(|| Ok(Vec::new()), |paths| split_on(paths, &[',', ':', ';']))?,
    };
    let mut wanted = FirstFound { candidates: Vec::new(), skip: lookup.flag("skip", false)? };
    first_found_terms(&terms, lookup.in_loop, &options, &mut wanted)?;
    // As a loop, the folder for the task's kind of file is searched too; which one the task wants isn't
    // known here, so all are.
    let kinds: &[&str] = if lookup.in_loop { &["templates", "vars", "files", "tasks"] } else { &["files"] };
    let mut tried = Vec::new();
    for candidate in &wanted.candidates {
        for kind in kinds {
            for path in lookup.scope.search.candidates(kind, candidate) {
                if path.exists() {
                    return Ok(vec![V::from(strings::normpath(&path.display().to_string()))]);
                }
                if !tried.contains(&path) {
                    tried.push(path);
                }
            }
        }
    }
    if wanted.skip {
        return Ok(Vec::new());
    }
    let searched: Vec<String> = tried.iter().map(|path| path.display().to_string()).collect();
    Err(TemplateError::runtime(format!(
        "No file was found when using first_found. Searched: {}",
        searched.join(", ")
    )))
}

/// Variables with some more on top.
#[derive(Debug)]
struct Layered {
    top: HashMap<String, Value>,
    below: Arc<dyn Vars>,
}

impl Vars for Layered {
    fn get(&self, name: &str) -> Option<Value> {
        self.top.get(name).cloned().or_else(|| self.below.get(name))
    }

    fn names(&self) -> Vec<Arc<str>> {
        let mut names = self.below.names();
        names.extend(self.top.keys().map(|key| Arc::from(key.as_str())));
        names
    }
}

pub(super) fn template(lookup: &Lookup<'_>) -> R<Vec<V>> {
    let defaults = Syntax::default();
    let syntax = Syntax {
        variable_start: lookup.text("variable_start_string", &defaults.variable_start)?,
        variable_end: lookup.text("variable_end_string", &defaults.variable_end)?,
        comment_start: lookup.text("comment_start_string", &defaults.comment_start)?,
        comment_end: lookup.text("comment_end_string", &defaults.comment_end)?,
        trim_blocks: lookup.flag("trim_blocks", true)?,
        ..defaults
    };
    let mut extra = HashMap::new();
    if let Some(vars) = lookup.option("template_vars")
        && let Py::Dict(map) = py(vars)
    {
        for (key, value) in map.to_map()? {
            extra.insert(key.to_text(), crate::template::object::lower(&value)?);
        }
    }
    lookup
        .terms
        .iter()
        .map(|term| {
            let name = ops::to_text(term)?;
            let path = find(lookup, "templates", &name)?;
            let source = read(lookup, &path)?;
            let mut top = extra.clone();
            top.entry("template_path".into()).or_insert_with(|| Value::str(name.as_str()));
            top.entry("template_fullpath".into()).or_insert_with(|| Value::str(path.display().to_string()));
            if lookup.scope.vars.get("ansible_managed").is_none() {
                top.entry("ansible_managed".into()).or_insert_with(|| Value::str("Ansible managed"));
            }
            let (syntax, body) = crate::template::header(&source, &syntax)?;
            let program = lookup.scope.shared.compile_file(body, &syntax)?;
            let mut search = (*lookup.scope.search).clone();
            if let Some(dir) = path.parent() {
                search.dirs.insert(0, dir.to_owned());
            }
            let vars: Arc<dyn Vars> = Arc::new(Layered { top, below: lookup.scope.vars.clone() });
            let scope = Arc::new(Scope {
                syntax: Arc::new(syntax),
                search: Arc::new(search),
                ..lookup.scope.with_vars(vars)
            });
            let module = Module::named(path.display().to_string());
            let value = run::execute_template(Frame::new(&scope, &program, &Arc::new(module)))
                .map_err(|error| error.context(format!("in {}", path.display())))?;
            Ok(run::keep_newlines(body, value, "\n"))
        })
        .collect()
}

fn shell(command: &str, cwd: &Path) -> R<std::process::Output> {
    let mut process = std::process::Command::new("/bin/sh");
    process.arg("-c").arg(command).stdin(std::process::Stdio::null());
    if cwd.is_dir() {
        process.current_dir(cwd);
    }
    let output = process
        .output()
        .map_err(|error| TemplateError::runtime(format!("lookup_plugin.pipe({command}) failed: {error}")))?;
    Ok(output)
}

pub(super) fn pipe(lookup: &Lookup<'_>) -> R<Vec<V>> {
    lookup
        .terms
        .iter()
        .map(|term| {
            let command = ops::to_text(term)?;
            let output = shell(&command, &lookup.scope.search.playbook_dir)?;
            if !output.status.success() {
                let code = output.status.code().unwrap_or(-1);
                let stderr = String::from_utf8_lossy(&output.stderr);
                let said =
                    if stderr.trim().is_empty() { String::new() } else { format!(": {}", stderr.trim()) };
                let message = format!("lookup_plugin.pipe({command}) returned {code}{said}");
                return Err(TemplateError::runtime(message));
            }
            Ok(V::from(String::from_utf8_lossy(&output.stdout).trim_end().to_owned()))
        })
        .collect()
}

pub(super) fn lines(lookup: &Lookup<'_>) -> R<Vec<V>> {
    let mut out = Vec::new();
    for term in &lookup.terms {
        let command = ops::to_text(term)?;
        let output = shell(&command, &lookup.scope.search.playbook_dir)?;
        if !output.status.success() {
            return Err(TemplateError::runtime(format!(
                "lookup_plugin.lines({command}) returned {}",
                output.status.code().unwrap_or(-1)
            )));
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        out.extend(crate::template::methods::split_lines(&text, false).into_iter().map(V::from));
    }
    Ok(out)
}

fn csv_rows(text: &str, delimiter: char) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut row = Vec::new();
    let mut field = String::new();
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    let mut started = false;
    while let Some(character) = chars.next() {
        started = true;
        match character {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            '\r' if !quoted => {}
            '\n' if !quoted => {
                row.push(std::mem::take(&mut field));
                rows.push(std::mem::take(&mut row));
                started = false;
            }
            c if c == delimiter && !quoted => row.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    if started {
        row.push(field);
        rows.push(row);
    }
    rows
}

pub(super) fn csvfile(lookup: &Lookup<'_>) -> R<Vec<V>> {
    if lookup.terms.is_empty() {
        return Err(TemplateError::runtime("Search key is required but was not found"));
    }
    let mut out = Vec::new();
    for term in &lookup.terms {
        let term = ops::to_text(term)?;
        // Quotes are part of what is searched for.
        let (key, pairs) = (free_text(&term), key_values(&term).1);
        if key.is_empty() {
            return Err(TemplateError::runtime("Search key is required but was not found"));
        }
        check_options(lookup, &pairs, &["col", "keycol", "default", "delimiter", "file", "encoding"])?;
        let option = |name: &str, default: &str| -> R<String> {
            match pairs.iter().find(|(found, _)| found == name) {
                Some((_, value)) => Ok(value.clone()),
                None => lookup.text(name, default),
            }
        };
        let delimiter = option("delimiter", "TAB")?;
        let delimiter = if delimiter == "TAB" { '\t' } else { delimiter.chars().next().unwrap_or('\t') };
        let index = |name: &str, default: &str| -> R<usize> {
            let value = option(name, default)?;
            value.parse().map_err(|_| {
                TemplateError::runtime(format!(
                    "Option {name:?} has an invalid value: {value:?} is not a whole number"
                ))
            })
        };
        let (column, key_column) = (index("col", "1")?, index("keycol", "0")?);
        let path = find(lookup, "files", &option("file", "ansible.csv")?).map_err(|mut error| {
            error.message.push_str(": No such file or directory");
            error
        })?;
        let text = read_encoded(lookup, &path, &option("encoding", "utf-8")?)?;
        let found = csv_rows(&text, delimiter)
            .into_iter()
            .find(|row| row.get(key_column).is_some_and(|cell| *cell == key));
        match found {
            Some(row) => out.push(V::from(
                row.get(column).cloned().ok_or_else(|| TemplateError::runtime("list index out of range"))?,
            )),
            None => {
                let written = pairs.iter().find(|(name, _)| name == "default");
                match (written, lookup.option("default")) {
                    (Some((_, default)), _) => out.push(V::from(default.as_str())),
                    (None, Some(default)) => match py(default) {
                        Py::List(items) => out.extend(items.to_vec()?),
                        _ => out.push(default.clone()),
                    },
                    (None, None) => {}
                }
            }
        }
    }
    Ok(out)
}

/// Refuses options that a lookup does not have, in its text or beside it.
fn check_options(lookup: &Lookup<'_>, pairs: &[(String, String)], known: &[&str]) -> R<()> {
    let mut given = pairs.iter().map(|(name, _)| name).chain(lookup.options.iter().map(|(name, _)| name));
    match given.find(|name| !known.contains(&name.as_str())) {
        Some(other) => Err(TemplateError::runtime(format!("{other} is not a valid option"))),
        None => Ok(()),
    }
}

/// A section of an INI file: its name and its entries; an entry may have no value.
type Section = (String, Vec<(String, Option<String>)>);

/// Sections of an INI file with their entries in order; keys are lower case unless case counts.
fn ini_sections(text: &str, case_sensitive: bool, valueless: bool) -> R<Vec<Section>> {
    let mut sections: Vec<Section> = Vec::new();
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = trimmed.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            sections.push((name.to_owned(), Vec::new()));
            continue;
        }
        let Some((_, entries)) = sections.last_mut() else { continue };
        if line.starts_with([' ', '\t'])
            && let Some((_, Some(value))) = entries.last_mut()
        {
            value.push('\n');
            value.push_str(trimmed);
            continue;
        }
        let (key, value) = match trimmed.find(['=', ':']) {
            Some(at) => (trimmed[..at].trim_end(), Some(trimmed[at + 1..].trim().to_owned())),
            None if valueless => (trimmed, None),
            None => {
                return Err(TemplateError::runtime(format!(
                    "Source contains parsing errors: {trimmed:?} has no value, which `allow_none` would permit"
                )));
            }
        };
        let key = if case_sensitive { key.to_owned() } else { key.to_lowercase() };
        if entries.iter().any(|(known, _)| *known == key) {
            return Err(TemplateError::runtime(format!("Duplicate option in the file: '{key}'")));
        }
        entries.push((key, value));
    }
    Ok(sections)
}

/// `%(name)s` is another value of the section, `%%` a percent sign.
fn interpolated(raw: &str, section: &str, entries: &[(String, Option<String>)], depth: u32) -> R<String> {
    if depth > 10 {
        return Err(TemplateError::runtime(format!(
            "Recursion limit exceeded in value substitution: section {section:?}: {raw:?}"
        )));
    }
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('%') {
            out.push('%');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|text| text.split_once(")s")) {
            let wanted = name.to_lowercase();
            let found = entries.iter().find(|(key, _)| *key == name || *key == wanted);
            let Some((_, value)) = found else {
                return Err(TemplateError::runtime(format!(
                    "Bad value substitution: section {section:?} contains an interpolation key {name:?} which is not a valid option name. Raw value: {raw:?}"
                )));
            };
            out.push_str(&interpolated(value.as_deref().unwrap_or_default(), section, entries, depth + 1)?);
            rest = tail;
        } else {
            return Err(TemplateError::runtime(format!(
                "'%' must be followed by '%' or '(', found: {:?}",
                &rest[at..]
            )));
        }
    }
    out.push_str(rest);
    Ok(out)
}

pub(super) fn ini(lookup: &Lookup<'_>) -> R<Vec<V>> {
    let mut out = Vec::new();
    for term in &lookup.terms {
        let (free, pairs) = key_values(&ops::to_text(term)?);
        let option = |name: &str, default: &str| -> R<String> {
            match pairs.iter().find(|(found, _)| found == name) {
                Some((_, value)) => Ok(value.clone()),
                None => lookup.text(name, default),
            }
        };
        check_options(
            lookup,
            &pairs,
            &[
                "type",
                "file",
                "section",
                "re",
                "encoding",
                "default",
                "case_sensitive",
                "allow_none",
                "allow_no_value",
                "interpolation",
            ],
        )?;
        if free.is_empty() && !pairs.is_empty() {
            return Err(TemplateError::runtime(
                "No key to look up was provided as first term within string inline options",
            ));
        }
        let key = if free.is_empty() { ops::to_text(term)? } else { free };
        let file = option("file", "ansible.ini")?;
        let path = find(lookup, "files", &file)?;
        let mut text = read_encoded(lookup, &path, &option("encoding", "utf-8")?)?;
        let mut section = option("section", "global")?;
        if option("type", "ini")? == "properties" {
            section = "java_properties".into();
            text = format!("[java_properties]\n{text}");
        }
        let case_sensitive = lookup.flag("case_sensitive", false)?;
        let is_pattern = match pairs.iter().find(|(found, _)| found == "re") {
            Some((_, value)) => Value::str(value.as_str()).to_bool().unwrap_or(false),
            None => lookup.flag("re", false)?,
        };
        let allow_none = lookup.flag("allow_none", false)? || lookup.flag("allow_no_value", false)?;
        let sections = ini_sections(&text, case_sensitive, allow_none)?;
        let defaults: Vec<_> = sections
            .iter()
            .filter(|(name, _)| name == "DEFAULT")
            .flat_map(|(_, entries)| entries.clone())
            .collect();
        let named: Vec<_> = sections.iter().filter(|(name, _)| *name == section).collect();
        if named.is_empty() && section != "DEFAULT" {
            return Err(TemplateError::runtime(format!("No section '{section}' in '{file}'.")));
        }
        let entries: Vec<(String, Option<String>)> =
            named.iter().flat_map(|(_, entries)| entries.clone()).chain(defaults).collect();
        let interpolates = lookup.flag("interpolation", true)?;
        let value_of = |raw: &str| -> R<String> {
            if interpolates { interpolated(raw, &section, &entries, 0) } else { Ok(raw.to_owned()) }
        };
        if is_pattern {
            let pattern = crate::template::filters::regex::compile(&key, false, false)?;
            for (name, value) in &entries {
                if pattern.is_match(name).unwrap_or(false) {
                    out.push(V::from(value_of(value.as_deref().unwrap_or_default())?));
                }
            }
            continue;
        }
        let wanted = if case_sensitive { key } else { key.to_lowercase() };
        let found = entries.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.clone());
        match found {
            Some(Some(value)) => out.push(V::from(value_of(&value)?)),
            // A key without a value gives nothing.
            Some(None) => {}
            None => out.push(V::from(option("default", "")?)),
        }
    }
    Ok(out)
}

pub(super) fn filetree(lookup: &Lookup<'_>) -> R<Vec<V>> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    fn walk(root: &Path, dir: &Path, out: &mut Vec<V>) -> R<()> {
        let mut names: Vec<_> = std::fs::read_dir(dir).map_err(|error| io(dir, &error))?.flatten().collect();
        names.sort_by_key(std::fs::DirEntry::file_name);
        for entry in names {
            let path = entry.path();
            let meta = path.symlink_metadata().map_err(|error| io(&path, &error))?;
            let relative = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            let state = if meta.is_symlink() {
                "link"
            } else if meta.is_dir() {
                "directory"
            } else {
                "file"
            };
            out.push(record([
                ("root", V::from(format!("{}/", root.display()))),
                ("path", V::from(relative)),
                ("state", V::from(state)),
                ("src", V::from(path.display().to_string())),
                ("uid", V::from(meta.uid())),
                ("gid", V::from(meta.gid())),
                ("mode", V::from(format!("0{:o}", meta.permissions().mode() & 0o7777))),
                ("size", V::from(meta.len())),
            ]));
            if meta.is_dir() {
                walk(root, &path, out)?;
            }
        }
        Ok(())
    }
    let mut out = Vec::new();
    for term in &lookup.terms {
        let root = find(lookup, "files", &ops::to_text(term)?)?;
        walk(&root, &root, &mut out)?;
    }
    Ok(out)
}

const PUNCTUATION: &str = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

/// The characters that a list of names (`digits`, `ascii_letters`…) and literal texts stands for.
fn character_set(specs: &[String]) -> Vec<char> {
    let lower: String = ('a'..='z').collect();
    let upper: String = ('A'..='Z').collect();
    let mut out = String::new();
    for spec in specs {
        match spec.as_str() {
            "ascii_letters" => out.push_str(&format!("{lower}{upper}")),
            "ascii_lowercase" => out.push_str(&lower),
            "ascii_uppercase" => out.push_str(&upper),
            "digits" => out.push_str("0123456789"),
            "hexdigits" => out.push_str("0123456789abcdefABCDEF"),
            "octdigits" => out.push_str("01234567"),
            "punctuation" => out.push_str(PUNCTUATION),
            "whitespace" => out.push_str(" \t\n\r\x0b\x0c"),
            literal => out.push_str(literal),
        }
    }
    out.chars().filter(|c| *c != '"' && *c != '\'').collect()
}

fn random_text(set: &[char], length: usize, seed: Option<&V>) -> R<String> {
    if set.is_empty() {
        return Err(TemplateError::runtime("there are no characters to choose from"));
    }
    let mut generator = crate::template::filters::random::generator(seed)?;
    Ok((0..length).map(|_| set[usize::try_from(generator.below(set.len() as u64)).unwrap_or(0)]).collect())
}

/// A stored password, its salt and its ident.
fn stored(content: &str) -> (String, Option<String>, Option<String>) {
    let Some((password, rest)) = content.rsplit_once(" salt=") else {
        return (content.to_owned(), None, None);
    };
    match rest.rsplit_once(" ident=") {
        Some((salt, ident)) => (password.to_owned(), Some(salt.to_owned()), Some(ident.to_owned())),
        None => (password.to_owned(), Some(rest.to_owned()), None),
    }
}

pub(super) fn password(lookup: &Lookup<'_>) -> R<Vec<V>> {
    use crate::template::filters::crypt;
    lookup
        .terms
        .iter()
        .map(|term| {
            let (path, pairs) = key_values(&ops::to_text(term)?);
            let option = |name: &str| -> R<Option<V>> {
                Ok(match pairs.iter().find(|(found, _)| found == name) {
                    Some((_, value)) => Some(V::from(value.as_str())),
                    None => lookup.option(name).cloned(),
                })
            };
            if let Some((name, _)) = pairs
                .iter()
                .find(|(name, _)| !matches!(name.as_str(), "length" | "encrypt" | "chars" | "ident" | "seed"))
            {
                return Err(TemplateError::runtime(format!(
                    "Unrecognized parameter(s) given to password lookup: {name}"
                )));
            }
            let length = match option("length")? {
                Some(length) => ops::to_text(&length)?
                    .parse::<usize>()
                    .map_err(|_| TemplateError::runtime("length must be a number"))?,
                None => 20,
            };
            let specs: Vec<String> = match option("chars")? {
                None => vec!["ascii_letters".into(), "digits".into(), ".,:-_".into()],
                Some(chars) => match py(&chars) {
                    Py::List(items) => items.to_vec()?.iter().map(ops::to_text).collect::<R<_>>()?,
                    _ => {
                        let text = ops::to_text(&chars)?;
                        let comma = text.contains(",,").then(|| ",".to_owned());
                        let parts = text.replace(",,", ",");
                        let parts = parts.split(',').filter(|part| !part.is_empty()).map(ToOwned::to_owned);
                        comma.into_iter().chain(parts).collect()
                    }
                },
            };
            let set = character_set(&specs);
            let path = if path == "/dev/null" || Path::new(&path).is_absolute() {
                PathBuf::from(path)
            } else {
                lookup.scope.search.playbook_dir.join(strings::expand_user(&path))
            };
            let keep = path != Path::new("/dev/null");
            // Hosts are rendered at the same time; the first one makes the password for all.
            static WRITING: std::sync::Mutex<()> = std::sync::Mutex::new(());
            let _alone = crate::template::object::lock(&WRITING);
            let existing = if keep && path.exists() {
                Some(std::fs::read_to_string(&path).map_err(|error| io(&path, &error))?)
            } else {
                None
            };
            let (plain, mut salt, mut ident) = match &existing {
                Some(content) => stored(content.trim_end()),
                None => (random_text(&set, length, option("seed")?.as_ref())?, None, None),
            };
            let mut is_new = existing.is_none();
            let encrypt = option("encrypt")?.map(|kind| ops::to_text(&kind)).transpose()?;
            if let Some(kind) = &encrypt {
                let bcrypt = kind == "bcrypt" || kind == "blowfish";
                if salt.is_none() {
                    let size = if bcrypt {
                        22
                    } else if kind.starts_with("md5") {
                        8
                    } else {
                        16
                    };
                    salt = Some(crypt::random_salt(size));
                    is_new = true;
                }
                if ident.is_none() {
                    ident = option("ident")?.map(|ident| ops::to_text(&ident)).transpose()?;
                    if ident.is_none() && bcrypt {
                        ident = Some("2b".into());
                        is_new = true;
                    }
                }
            }
            if is_new && keep {
                let mut content = plain.clone();
                if let Some(salt) = &salt {
                    content.push_str(&format!(" salt={salt}"));
                }
                if let Some(ident) = &ident {
                    content.push_str(&format!(" ident={ident}"));
                }
                content.push('\n');
                write_private(&path, &content)?;
            }
            match encrypt {
                None => Ok(V::from(plain)),
                Some(kind) => {
                    crypt::hash(&plain, &crypt::Request { kind, salt, ident, ..crypt::Request::default() })
                        .map(V::from)
                }
            }
        })
        .collect()
}

/// Writes a file that only its owner may read, whole or not at all.
fn write_private(path: &Path, content: &str) -> R<()> {
    use std::io::Write as _;
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    let failed =
        |error: std::io::Error| TemplateError::runtime(format!("can't write {}: {error}", path.display()));
    let dir = path.parent().unwrap_or_else(|| Path::new("."));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(failed)?;
    file.write_all(content.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&temporary, path).map_err(failed)
}

pub(super) fn random_string(lookup: &Lookup<'_>) -> R<Vec<V>> {
    let length = match lookup.option("length") {
        Some(length) => {
            usize::try_from(crate::template::filters::lists::whole(length)?).unwrap_or(0).min(1 << 20)
        }
        None => 8,
    };
    let special = lookup.text("override_special", PUNCTUATION)?;
    let similar = lookup.text("similar_chars", "il1LoO0")?;
    let clean = |text: String| -> R<Vec<char>> {
        let drop = lookup.flag("ignore_similar_chars", false)?;
        Ok(text.chars().filter(|c| !drop || !similar.contains(*c)).collect())
    };
    let groups = [
        ("numbers", "min_numeric", "0123456789".to_owned()),
        ("upper", "min_upper", ('A'..='Z').collect()),
        ("lower", "min_lower", ('a'..='z').collect()),
        ("special", "min_special", special),
    ];
    let mut all: Vec<char> = match lookup.option("override_all") {
        Some(chars) => ops::to_text(chars)?.chars().collect(),
        None => Vec::new(),
    };
    let mut out: Vec<char> = Vec::new();
    for (flag, minimum, chars) in groups {
        let set = clean(chars)?;
        if lookup.option("override_all").is_none() && lookup.flag(flag, true)? {
            all.extend(&set);
        }
        if let Some(count) = lookup.option(minimum) {
            let count =
                usize::try_from(crate::template::filters::lists::whole(count)?).unwrap_or(0).min(length);
            out.extend(random_text(&set, count, None)?.chars());
        }
    }
    let rest = length.saturating_sub(out.len());
    out.extend(random_text(&all, rest, lookup.option("seed"))?.chars());
    if rest < length {
        crate::template::filters::random::generator(None)?.shuffle(&mut out);
    }
    let text: String = out.into_iter().collect();
    Ok(vec![V::from(if lookup.flag("base64", false)? {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(text)
    } else {
        text
    })])
}

/// Fetches with the controller's `curl`: the one program that every controller has for TLS.
pub(super) fn url(lookup: &Lookup<'_>) -> R<Vec<V>> {
    use std::io::Write as _;
    let mut out = Vec::new();
    for term in &lookup.terms {
        let url = ops::to_text(term)?;
        if !["http://", "https://", "ftp://", "file://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err(TemplateError::runtime(format!("unknown url type: {url}")));
        }
        // Options and secrets go through standard input, never through the argument list.
        let mut config = String::new();
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let mut set = |name: &str, value: &str| config.push_str(&format!("{name} = \"{}\"\n", quoted(value)));
        set("url", &url);
        set("max-time", &lookup.text("timeout", "10")?);
        set("user-agent", &lookup.text("http_agent", "ansible-httpget")?);
        if let Some(user) = lookup.option("username") {
            set("user", &format!("{}:{}", ops::to_text(user)?, lookup.text("password", "")?));
        }
        if let Some(headers) = lookup.option("headers")
            && let Py::Dict(headers) = py(headers)
        {
            for (name, value) in headers.to_map()? {
                set("header", &format!("{}: {}", name.to_text(), ops::to_text(&value)?));
            }
        }
        for (option, argument) in [
            ("ca_path", "cacert"),
            ("client_cert", "cert"),
            ("client_key", "key"),
            ("unix_socket", "unix-socket"),
        ] {
            if let Some(path) = lookup.option(option) {
                set(argument, &ops::to_text(path)?);
            }
        }
        if !lookup.flag("validate_certs", true)? {
            config.push_str("insecure\n");
        }
        if !matches!(lookup.text("follow_redirects", "urllib2")?.as_str(), "no" | "none" | "False" | "false")
        {
            config.push_str("location\n");
        }
        config.push_str("silent\nshow-error\nfail\n");
        let failed = |why: String| TemplateError::runtime(format!("Failed lookup url for {url} : {why}"));
        let mut child = std::process::Command::new("curl")
            .args(["--config", "-"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .map_err(|error| failed(format!("curl can't be run: {error}")))?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(config.as_bytes()).map_err(|error| failed(error.to_string()))?;
        }
        let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if lookup.flag("split_lines", true)? {
            out.extend(crate::template::methods::split_lines(&text, false).into_iter().map(V::from));
        } else {
            out.push(V::from(text));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_part_of_what_is_searched_for() {
        for (term, free) in [
            ("key file=a.csv col=1", "key"),
            ("\"The Rock\" Johnson file=people.csv delimiter=,", "\"The Rock\" Johnson"),
            ("O'Brien file=a.csv", "O'Brien"),
            ("a b  c=d", "a b"),
        ] {
            assert_eq!(free_text(term), free, "{term}");
        }
    }

    #[test]
    fn values_of_ini_files_refer_to_each_other() {
        let entries = [("home_dir", "/Users"), ("my_dir", "%(home_dir)s/x"), ("loop", "%(loop)s")]
            .map(|(name, value)| (name.to_owned(), Some(value.to_owned())));
        let value = |raw: &str| interpolated(raw, "global", &entries, 0).ok();
        assert_eq!(value("%(MY_dir)s is 100%%").as_deref(), Some("/Users/x is 100%"));
        for wrong in ["%(nope)s", "50% off", "%(loop)s", "%"] {
            assert_eq!(value(wrong), None, "{wrong}");
        }
    }
}
