//! What `--list-hosts`, `--list-tasks`, `--list-tags` and `--syntax-check` print, in the layout that scripts
//! and people know.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use crate::playbook::{Item, Play, Playbook, Task, names, tags};
use crate::value::Value;

/// What to list.
#[derive(Clone, Debug, Default)]
pub struct What {
    /// The hosts of each play.
    pub hosts: bool,
    /// The tasks of each play.
    pub tasks: bool,
    /// All tags of each play's tasks.
    pub tags: bool,
    /// `--tags`.
    pub only: Vec<String>,
    /// `--skip-tags`.
    pub skip: Vec<String>,
}

/// How a listing learns what a playbook alone does not say.
pub struct Lookups<'a> {
    /// A play's hosts, in order.
    pub hosts: &'a dyn Fn(&Play) -> Vec<Arc<str>>,
    /// A value of a play (its name, its tags), rendered with the play's and the extra variables; what can't
    /// be rendered is returned as it is.
    pub render: &'a dyn Fn(&Value, &Play) -> Value,
}

/// The listing of a playbook. `name` is its file as the user gave it. Nothing but its name is listed if
/// nothing is asked for, which is what `--syntax-check` prints.
pub fn listing(playbook: &Playbook, name: &str, what: &What, lookups: &Lookups<'_>) -> String {
    let mut out = format!("\nplaybook: {name}\n");
    if !(what.hosts || what.tasks || what.tags) {
        return out;
    }
    for (index, play) in playbook.plays.iter().enumerate() {
        play_listing(index + 1, play, what, lookups, &mut out);
    }
    out
}

fn play_listing(number: usize, play: &Play, what: &What, lookups: &Lookups<'_>, out: &mut String) {
    let patterns = patterns(&(lookups.render)(&play.hosts, play));
    let name = match &play.name {
        Some(name) => (lookups.render)(name, play).to_text(),
        None => patterns.join(","),
    };
    let rendered = |values: &[Value]| -> Vec<String> {
        tags::words(&values.iter().map(|tag| (lookups.render)(tag, play)).collect::<Vec<_>>())
    };
    // A play's own tags stand in the order in which they were written, without spaces.
    let own = rendered(&play.keywords.tags);
    let _ = writeln!(out, "\n  play #{number} ({}): {name}\tTAGS: [{}]", patterns.join(","), own.join(","));
    let own: BTreeSet<String> = own.into_iter().collect();
    if what.hosts {
        let hosts = (lookups.hosts)(play);
        let shown: Value = if patterns.is_empty() { Value::Null } else { patterns.into() };
        let _ = writeln!(out, "    pattern: {}\n    hosts ({}):", shown.repr(), hosts.len());
        for host in hosts {
            let _ = writeln!(out, "      {host}");
        }
    }
    if what.tasks {
        out.push_str("    tasks:\n");
    }
    let mut all = own.clone();
    let everything = ["all".to_owned(), "never".to_owned()];
    for task in listed(play) {
        let mut words = rendered(&task.keywords.tags);
        // Asked for all tags, one wants to see those of tasks that never run unasked, too.
        let only: &[String] = if what.tags && what.only.is_empty() { &everything } else { &what.only };
        if !tags::selected(&words, only, &what.skip) {
            continue;
        }
        words.extend(own.iter().cloned());
        let words: BTreeSet<String> = words.into_iter().collect();
        if what.tasks {
            let _ = writeln!(out, "      {}\tTAGS: [{}]", task_title(task), joined(&words));
        }
        all.extend(words);
    }
    if what.tags {
        let _ = writeln!(out, "      TASK TAGS: [{}]", joined(&all));
    }
}

/// A task's name with its role's before it (which an `include_role` does not get); without one, its action
/// as written.
fn task_title(task: &Task) -> String {
    let is_role = matches!(names::builtin(&task.action), Some("include_role"));
    match (&task.name, task.role.as_ref().filter(|_| !is_role)) {
        (Some(name), Some(role)) => format!("{} : {}", role.name, name.to_text()),
        (Some(name), None) => name.to_text(),
        (None, _) => task.action_written.clone(),
    }
}

/// The tasks that are listed: not those of `rescue` and `always`, nor those that nobody wrote.
fn listed(play: &Play) -> Vec<&Task> {
    let mut out = Vec::new();
    for items in [&play.pre_tasks, &play.role_tasks, &play.tasks, &play.post_tasks] {
        collect(items, &mut out);
    }
    out
}

fn collect<'a>(items: &'a [Item], out: &mut Vec<&'a Task>) {
    for item in items {
        match item {
            Item::Task(task) if task.implicit && names::builtin(&task.action) == Some("meta") => {}
            Item::Task(task) => out.push(task),
            Item::Block(block) => collect(&block.block, out),
        }
    }
}

fn patterns(hosts: &Value) -> Vec<String> {
    match hosts {
        Value::Omit => Vec::new(),
        Value::List(items) => items.iter().map(Value::to_text).collect(),
        other => vec![other.to_text()],
    }
}

fn joined(words: &BTreeSet<String>) -> String {
    words.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}
