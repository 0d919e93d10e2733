//! Inventories in Ansible's INI format.

use std::sync::Arc;

use indexmap::IndexMap;

use super::load::Loading;
use super::{UNGROUPED, literal, names};
use crate::diagnostic::Diagnostic;
use crate::value::{Origin, Value};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    Hosts,
    Vars,
    Children,
}

struct Reader<'a, 'b> {
    loading: &'a mut Loading<'b>,
    file: Arc<str>,
    line: u32,
    group: usize,
    section: Section,
    /// Groups that were mentioned and are still to be declared, in order.
    pending: IndexMap<Arc<str>, Pending>,
}

/// A group that was mentioned but not declared yet.
struct Pending {
    /// By `[group:vars]`, or as a child.
    how: Section,
    /// The groups that it is to be a child of. They get it when it is declared, which decides the order of
    /// their children, and so the order of hosts.
    parents: Vec<usize>,
    origin: Arc<Origin>,
}

/// Reads an INI inventory.
pub(super) fn read(loading: &mut Loading<'_>, file: &str, text: &str) {
    let mut reader = Reader {
        loading,
        file: Arc::from(file),
        line: 0,
        group: UNGROUPED,
        section: Section::Hosts,
        pending: IndexMap::new(),
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for line in text.lines() {
        reader.line += 1;
        if let Err((column, message)) = reader.line(line) {
            let origin = reader.origin(column);
            let problem = Diagnostic::error(message).at(Some(origin));
            reader.loading.errors.push(with_hint(problem, line));
            if reader.loading.errors.len() > 20 {
                break;
            }
        }
    }
    reader.undeclared();
}

fn with_hint(problem: Diagnostic, line: &str) -> Diagnostic {
    let line = line.trim();
    if line.ends_with(':') || line.starts_with("- ") || line == "---" {
        return problem.hint("this looks like YAML; give the file the extension .yml");
    }
    problem
}

type Line = Result<(), (usize, String)>;

impl Reader<'_, '_> {
    /// The place at a column (in bytes, from 0) of the current line.
    fn origin(&self, column: usize) -> Arc<Origin> {
        let column = u32::try_from(column + 1).unwrap_or(u32::MAX);
        Arc::new(Origin { file: Arc::clone(&self.file), line: self.line, column })
    }

    fn line(&mut self, line: &str) -> Line {
        let start = line.len() - line.trim_start().len();
        let content = line.trim();
        if content.is_empty() || content.starts_with(['#', ';']) {
            return Ok(());
        }
        if let Some((name, kind)) = section(content) {
            return self.start_section(name, kind).map_err(|message| (start, message));
        }
        if content.starts_with('[') && content.ends_with(']') {
            return Err((start, format!("'{content}' isn't a section; its name can't have spaces")));
        }
        match self.section {
            Section::Hosts => self.host(line, start),
            Section::Vars => self.variable(content, start),
            Section::Children => self.child(content).map_err(|message| (start, message)),
        }
    }

    fn start_section(&mut self, name: &str, kind: Option<&str>) -> Result<(), String> {
        self.section = match kind {
            None | Some("hosts") => Section::Hosts,
            Some("vars") => Section::Vars,
            Some("children") => Section::Children,
            Some(other) => {
                return Err(format!(
                    "a section [group:{other}] isn't known; there are hosts, vars and children"
                ));
            }
        };
        let name = &*self.loading.inventory.group_name(name).into_owned();
        let is_new = !self.loading.inventory.group_ids.contains_key(name);
        if is_new && self.section == Section::Vars && !self.pending.contains_key(name) {
            let pending = Pending { how: Section::Vars, parents: Vec::new(), origin: self.origin(0) };
            self.pending.insert(Arc::from(name), pending);
        }
        self.group = self.loading.inventory.group_id(name);
        if self.section != Section::Vars {
            self.declare(name)?;
        }
        Ok(())
    }

    /// Gives a group that is now declared to the groups that wait for it.
    fn declare(&mut self, name: &str) -> Result<(), String> {
        let Some(pending) = self.pending.shift_remove(name) else { return Ok(()) };
        let inventory = &mut self.loading.inventory;
        let id = inventory.group_id(name);
        for parent in pending.parents {
            inventory.add_child(parent, id)?;
        }
        Ok(())
    }

    fn undeclared(&mut self) {
        let inventory = &self.loading.inventory;
        for (name, pending) in &self.pending {
            let problem = match (pending.how, pending.parents.last()) {
                (Section::Children, Some(parent)) => {
                    let parent = &inventory.groups[*parent].name;
                    format!("[{parent}:children] names the group '{name}', which isn't defined")
                }
                _ => format!("[{name}:vars] is for a group that isn't defined"),
            };
            let problem = Diagnostic::error(problem).at(Some(Arc::clone(&pending.origin)));
            let known = inventory.groups.iter().map(|group| group.name.as_ref());
            let hint = match crate::diagnostic::did_you_mean(name, known) {
                Some(meant) => format!("did you mean '{meant}'?"),
                None => format!("an empty group is declared by a line `[{name}]`"),
            };
            self.loading.errors.push(problem.hint(hint));
        }
    }

    fn child(&mut self, content: &str) -> Result<(), String> {
        let name = content.split('#').next().unwrap_or_default().trim_end();
        if name.is_empty() || name.contains([':', ']']) || name.contains(char::is_whitespace) {
            return Err(format!("'{content}' isn't the name of a group"));
        }
        let name = &*self.loading.inventory.group_name(name).into_owned();
        if let Some(child) = self.loading.inventory.group_ids.get(name).copied() {
            return self.loading.inventory.add_child(self.group, child).map(|_| ());
        }
        let origin = self.origin(0);
        let pending = self.pending.entry(Arc::from(name)).or_insert_with(|| Pending {
            how: Section::Children,
            parents: Vec::new(),
            origin,
        });
        pending.parents.push(self.group);
        Ok(())
    }

    fn variable(&mut self, content: &str, start: usize) -> Line {
        let Some((key, value)) = content.split_once('=') else {
            return Err((start, format!("'{content}' isn't `name=value`")));
        };
        let at = start + key.len() + 1 + (value.len() - value.trim_start().len());
        let origin = self.origin(at);
        let value = literal::value_of(value.trim(), &origin);
        let key = Value::written(key.trim(), self.origin(start));
        self.loading.inventory.set_group_var(self.group, key, value).map_err(|message| (at, message))
    }

    fn host(&mut self, line: &str, start: usize) -> Line {
        let tokens = tokens(line.trim_end()).map_err(|message| (start, message))?;
        let Some(((_, pattern), vars)) = tokens.split_first() else { return Ok(()) };
        let (names, port) = names::expand(pattern).map_err(|message| (start, message))?;
        let mut pairs = Vec::with_capacity(vars.len());
        for (at, token) in vars {
            let Some((key, value)) = token.split_once('=') else {
                return Err((*at, format!("'{token}' isn't `name=value`")));
            };
            let value = literal::value_of(value, &self.origin(at + key.len() + 1));
            pairs.push((Value::written(key, self.origin(*at)), value));
        }
        let inventory = &mut self.loading.inventory;
        for name in names {
            let host = inventory.host_id(&name, port);
            inventory.put(self.group, host);
            for (key, value) in &pairs {
                inventory.set_host_var(host, key.clone(), value.clone());
            }
        }
        Ok(())
    }
}

/// `[name]` or `[name:kind]`, perhaps with a comment behind it.
fn section(content: &str) -> Option<(&str, Option<&str>)> {
    let (inside, rest) = content.strip_prefix('[')?.split_once(']')?;
    let rest = rest.trim_start();
    if !rest.is_empty() && !rest.starts_with('#') {
        return None;
    }
    let (name, kind) = match inside.split_once(':') {
        Some((name, kind)) => (name, Some(kind)),
        None => (inside, None),
    };
    let kind_is_word =
        kind.is_none_or(|kind| !kind.is_empty() && kind.chars().all(|c| c.is_alphanumeric() || c == '_'));
    (!name.is_empty() && !name.contains(char::is_whitespace) && kind_is_word).then_some((name, kind))
}

/// Splits a line into words as a shell does, with the byte at which each starts; `#` starts a comment.
fn tokens(line: &str) -> Result<Vec<(usize, String)>, String> {
    let mut out: Vec<(usize, String)> = Vec::new();
    let mut word: Option<(usize, String)> = None;
    let mut characters = line.char_indices();
    while let Some((at, character)) = characters.next() {
        if character == '#' {
            break;
        }
        if character.is_whitespace() {
            out.extend(word.take());
            continue;
        }
        let (_, text) = word.get_or_insert_with(|| (at, String::new()));
        match character {
            '\'' => loop {
                match characters.next() {
                    Some((_, '\'')) => break,
                    Some((_, inside)) => text.push(inside),
                    None => return Err("a quote isn't closed".into()),
                }
            },
            '"' => loop {
                match characters.next() {
                    Some((_, '"')) => break,
                    Some((_, '\\')) => match characters.next() {
                        Some((_, escaped @ ('"' | '\\'))) => text.push(escaped),
                        Some((_, other)) => text.extend(['\\', other]),
                        None => return Err("a quote isn't closed".into()),
                    },
                    Some((_, inside)) => text.push(inside),
                    None => return Err("a quote isn't closed".into()),
                }
            },
            '\\' => match characters.next() {
                Some((_, escaped)) => text.push(escaped),
                None => return Err("a backslash at the end of the line escapes nothing".into()),
            },
            character => text.push(character),
        }
    }
    out.extend(word);
    Ok(out)
}
