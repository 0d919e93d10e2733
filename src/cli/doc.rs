//! `setpoint doc`: what is known of modules, from the same tables that check a playbook.

use clap::Args;

use super::Console;
use super::exit::Exit;
use super::failure::Failure;
use super::options::{Flags, Verbosity};
use crate::config::Standing;
use crate::config::table::DEFINITIONS;
use crate::diagnostic::{Diagnostic, did_you_mean};
use crate::module::registry::{self, MODULES};
use crate::module::{Module, Param, Scope, Type};
use crate::source::json::{Layout, dump};
use crate::template::Templar;
use crate::value::{Map, Value, map_of};

/// Show the documentation of modules
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  setpoint doc copy              what copy does, its parameters, an example
  setpoint doc --list            all modules, one line each
  setpoint doc -s template       a task to fill in
  setpoint doc --json            all modules, for programs
  setpoint doc -t all            all that a playbook may use here, as JSON
  setpoint doc -t filter         the names of all filters")]
pub struct Doc {
    /// The modules
    #[arg(value_name = "MODULE")]
    pub names: Vec<String>,
    /// List the modules
    #[arg(short, long)]
    pub list: bool,
    /// Write JSON
    #[arg(short, long)]
    pub json: bool,
    /// Write a task to fill in
    #[arg(short, long)]
    pub snippet: bool,
    /// What to document: module, keyword, filter, test, lookup, or all of them
    #[arg(short = 't', long = "type", value_name = "TYPE", default_value = "module")]
    pub kind: String,
    /// All that is known, as JSON
    #[arg(long)]
    pub metadata_dump: bool,
    /// List the modules with where they are defined
    #[arg(short = 'F', long = "list_files")]
    pub list_files: bool,
    /// Accepted for compatibility; modules are built in
    #[arg(short = 'M', long, value_name = "PATH", hide_short_help = true)]
    pub module_path: Vec<String>,
    /// Accepted for compatibility
    #[arg(long, value_name = "DIRECTORY", hide_short_help = true)]
    pub playbook_dir: Option<String>,
    /// Accepted for compatibility
    #[arg(long, hide_short_help = true)]
    pub no_fail_on_errors: bool,
    /// Documentation of roles is not supported
    #[arg(short, long, value_name = "PATH", hide_short_help = true)]
    pub roles_path: Vec<String>,
    /// Documentation of roles is not supported
    #[arg(short, long, value_name = "NAME", hide_short_help = true)]
    pub entry_point: Option<String>,
    #[command(flatten)]
    pub verbosity: Verbosity,
}

/// Carries out the subcommand.
///
/// # Errors
/// There is no such module.
pub fn run(args: &Doc, console: &mut Console) -> Result<Exit, Failure> {
    let settings = console.settings(&Flags::default())?;
    if !["module", "keyword", "all"].contains(&args.kind.as_str()) && plugins(&args.kind).is_none() {
        return Err(Failure::unsupported(
            &format!("--type {}", args.kind),
            "there is documentation of modules and keywords, and lists of filters, tests and lookups",
        ));
    }
    if !args.roles_path.is_empty() || args.entry_point.is_some() {
        return Err(Failure::unsupported("documentation of roles", "read their meta/argument_specs.yml"));
    }
    if args.kind == "all" {
        super::page(&(dump(&Value::map(everything()), &Layout::nice()) + "\n"), &settings, console)?;
        return Ok(Exit::Success);
    }
    if let Some(names) = plugins(&args.kind) {
        let text = if args.json {
            dump(&words(&names), &Layout::nice()) + "\n"
        } else {
            names.iter().map(|name| format!("{name}\n")).collect()
        };
        super::page(&text, &settings, console)?;
        return Ok(Exit::Success);
    }
    let modules = chosen(&args.names)?;
    let text = if args.kind == "keyword" {
        keywords(&args.names, args.json)?
    } else if args.json || args.metadata_dump {
        let all: Map =
            modules.iter().map(|module| (Value::str(module.name), Value::map(value(module)))).collect();
        dump(&Value::map(all), &Layout::nice()) + "\n"
    } else if args.list || args.list_files || (args.names.is_empty() && !args.snippet) {
        let width = modules.iter().map(|module| module.name.len()).max().unwrap_or_default();
        modules.iter().map(|module| format!("{:width$}  {}\n", module.name, module.summary)).collect()
    } else if args.snippet {
        modules.iter().map(|module| snippet(module)).collect()
    } else {
        let width = console.columns.unwrap_or(80).clamp(40, 100);
        modules.iter().map(|module| page(module, width)).collect::<Vec<_>>().join("\n")
    };
    super::page(&text, &settings, console)?;
    Ok(Exit::Success)
}

/// The names of all filters, tests or lookups.
fn plugins(kind: &str) -> Option<Vec<&'static str>> {
    Some(match kind {
        "filter" => Templar::known_filters(),
        "test" => Templar::known_tests(),
        "lookup" => Templar::known_lookups(),
        _ => return None,
    })
}

fn words(words: &[&str]) -> Value {
    Value::list(words.iter().copied().map(Value::str).collect())
}

/// All that a playbook may use here, from the tables that check and run it.
fn everything() -> Map {
    let modules: Map =
        MODULES.iter().map(|module| (Value::str(module.name), Value::map(value(module)))).collect();
    let keywords: Map = super::schema::KEYWORDS
        .iter()
        .map(|keyword| (Value::str(keyword.name), words(keyword.places)))
        .collect();
    let actions: Vec<&str> = crate::engine::actions::names().collect();
    map_of([
        ("keywords", Value::map(keywords)),
        ("modules", Value::map(modules)),
        ("actions", words(&actions)),
        ("filters", words(&Templar::known_filters())),
        ("tests", words(&Templar::known_tests())),
        ("lookups", words(&Templar::known_lookups())),
        ("meta", words(crate::playbook::names::META)),
        ("strategies", words(&["debug", "free", "host_pinned", "linear"])),
        ("settings", Value::map(known_settings())),
    ])
}

/// Every setting, and whether it does something here.
fn known_settings() -> Map {
    let standing = |standing: Standing| match standing {
        Standing::Honoured => "honoured",
        Standing::Moot => "accepted: nothing here depends on it",
        Standing::Ignored => "not supported: a warning when it is set",
    };
    DEFINITIONS.iter().map(|known| (Value::str(known.key), Value::str(standing(known.standing)))).collect()
}

fn chosen(names: &[String]) -> Result<Vec<&'static Module>, Failure> {
    if names.is_empty() {
        return Ok(MODULES.to_vec());
    }
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for name in names {
        match registry::find(name) {
            Some(module) => found.push(module),
            None => {
                let problem = Diagnostic::error(format!("there is no module `{name}`"));
                missing.push(match did_you_mean(name, MODULES.iter().map(|module| module.short_name())) {
                    Some(meant) => problem.hint(format!("did you mean `{meant}`?")),
                    None => problem,
                });
            }
        }
    }
    if missing.is_empty() { Ok(found) } else { Err(Failure { exit: Exit::Error, diagnostics: missing }) }
}

/// The name of a type, as the field's documentation writes it.
pub(super) fn type_name(kind: Type) -> &'static str {
    match kind {
        Type::Str => "str",
        Type::Bool => "bool",
        Type::Int => "int",
        Type::Float => "float",
        Type::Path => "path",
        Type::List => "list",
        Type::PathList => "list of path",
        Type::Dict => "dict",
        Type::Raw => "raw",
        Type::Json => "json",
        Type::Bytes => "bytes",
    }
}

/// The parameters that a user can give; those that begin with `_` are between controller and module.
pub(super) fn shown_params(module: &Module) -> impl Iterator<Item = &'static Param> {
    module.all_params().filter(|param| !param.name.starts_with('_'))
}

/// A module's page.
fn page(module: &Module, width: usize) -> String {
    let mut out = format!("{}  {}\n\n", module.name.to_uppercase(), module.summary);
    if !module.description.is_empty() {
        out.push_str(&wrap(module.description, 2, width));
        out.push('\n');
    }
    if !module.aliases.is_empty() {
        out.push_str(&wrap(&format!("Also known as: {}", module.aliases.join(", ")), 2, width));
    }
    let scope = match module.scope {
        Scope::Host => {
            "looks at the host alone: tasks that are true already are found so ahead of their turn"
        }
        Scope::World => "looks beyond the host: it always runs when its turn comes",
    };
    out.push_str(&wrap(&format!("Scope: {scope}"), 2, width));
    let mut params: Vec<&Param> = shown_params(module).collect();
    params.sort_by_key(|param| (!param.required, param.name));
    if !params.is_empty() {
        out.push_str("\nPARAMETERS (= means required)\n\n");
    }
    for param in params {
        let mark = if param.required { '=' } else { '-' };
        out.push_str(&format!("{mark} {}  ({})\n", param.name, type_name(param.kind)));
        out.push_str(&wrap(param.doc, 6, width));
        for (label, text) in notes(param) {
            out.push_str(&wrap(&format!("{label}: {text}"), 6, width));
        }
        out.push('\n');
    }
    if !module.returns.is_empty() {
        out.push_str("RETURNS\n\n");
        for (name, meaning) in module.returns {
            out.push_str(&format!("- {name}\n{}", wrap(meaning, 6, width)));
        }
        out.push('\n');
    }
    if !module.example.is_empty() {
        out.push_str("EXAMPLE\n\n");
        for line in module.example.trim_matches('\n').lines() {
            out.push_str(format!("  {line}").trim_end());
            out.push('\n');
        }
    }
    out
}

fn notes(param: &Param) -> Vec<(&'static str, String)> {
    let mut notes = Vec::new();
    if !param.aliases.is_empty() {
        notes.push(("aliases", param.aliases.join(", ")));
    }
    if !param.choices.is_empty() {
        notes.push(("choices", param.choices.join(", ")));
    }
    if let Some(default) = param.default {
        notes.push(("default", default.to_owned()));
    }
    if let Some(why) = param.refused {
        notes.push(("not supported", why.to_owned()));
    }
    notes
}

/// A text in lines of at most `width`, each indented; its own line breaks are kept.
fn wrap(text: &str, indent: usize, width: usize) -> String {
    let pad = " ".repeat(indent);
    let mut out = String::new();
    for paragraph in text.trim().lines() {
        let mut line = pad.clone();
        for word in paragraph.split_whitespace() {
            if line.len() > indent && line.chars().count() + 1 + word.chars().count() > width {
                out.push_str(&line);
                out.push('\n');
                line.clone_from(&pad);
            }
            if line.len() > indent {
                line.push(' ');
            }
            line.push_str(word);
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// A task with every parameter.
fn snippet(module: &Module) -> String {
    let mut out = format!("- name: {}\n  {}:\n", module.summary, module.name);
    for param in shown_params(module).filter(|param| param.refused.is_none()) {
        let required = if param.required { "  # required" } else { "" };
        out.push_str(&format!("    {}: {}{required}\n", param.name, param.default.unwrap_or("\"\"")));
    }
    out
}

fn value(module: &Module) -> Map {
    let params: Map = module
        .all_params()
        .map(|param| {
            let mut map = map_of([
                ("type", Value::str(type_name(param.kind))),
                ("description", Value::str(param.doc)),
                ("required", Value::Bool(param.required)),
                ("aliases", words(param.aliases)),
                ("choices", words(param.choices)),
                ("default", Value::from(param.default)),
                ("secret", Value::Bool(param.secret)),
            ]);
            if let Some(why) = param.refused {
                map.insert(Value::str("not_supported"), Value::str(why));
            }
            (Value::str(param.name), Value::map(map))
        })
        .collect();
    let returns: Map =
        module.returns.iter().map(|(name, text)| (Value::str(*name), Value::str(*text))).collect();
    map_of([
        ("name", Value::str(module.name)),
        ("aliases", words(module.aliases)),
        ("summary", Value::str(module.summary)),
        ("description", Value::str(module.description)),
        ("scope", Value::str(if module.scope == Scope::Host { "host" } else { "world" })),
        ("free_form", Value::Bool(module.free_form)),
        ("parameters", Value::map(params)),
        ("returns", Value::map(returns)),
        ("example", Value::str(module.example)),
    ])
}

/// Keywords with the places where they may stand.
fn keywords(names: &[String], json: bool) -> Result<String, Failure> {
    let all = super::schema::KEYWORDS;
    let mut rows = Vec::new();
    for name in names {
        let row = all.iter().find(|keyword| keyword.name == name).ok_or_else(|| {
            let problem = Diagnostic::error(format!("there is no keyword `{name}`"));
            let problem = match did_you_mean(name, all.iter().map(|keyword| keyword.name)) {
                Some(meant) => problem.hint(format!("did you mean `{meant}`?")),
                None => problem,
            };
            Failure { exit: Exit::Error, diagnostics: vec![problem] }
        })?;
        rows.push(row);
    }
    let rows = if names.is_empty() { all.iter().collect() } else { rows };
    if json {
        let map: Map = rows
            .iter()
            .map(|row| {
                (Value::str(row.name), Value::list(row.places.iter().copied().map(Value::str).collect()))
            })
            .collect();
        return Ok(dump(&Value::map(map), &Layout::nice()) + "\n");
    }
    Ok(rows.iter().map(|row| format!("{:24} {}\n", row.name, row.places.join(", "))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Modules of the builtin collection that are not here; a playbook that uses one is refused by name.
    const ABSENT_MODULES: &[&str] = &["iptables", "known_hosts", "subversion"];

    #[test]
    fn the_language_is_covered_by_name() {
        let mut kind = "";
        let mut missing: Vec<String> = Vec::new();
        let mut counts = std::collections::BTreeMap::new();
        for line in include_str!("testdata/language_names.txt").lines() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(section) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                kind = section;
                continue;
            }
            let known = match kind {
                "keyword" => crate::cli::schema::KEYWORDS.iter().any(|keyword| keyword.name == line),
                "filter" => Templar::known_filters().contains(&line),
                // Operators are tests by another name; templates use them as operators.
                "test" => {
                    Templar::known_tests().contains(&line)
                        || line.chars().all(|character| !character.is_ascii_alphanumeric())
                }
                "lookup" => Templar::known_lookups().contains(&line),
                _ => {
                    registry::find(line).is_some()
                        || crate::playbook::names::ACTIONS.contains(&line)
                        || line == "import_playbook"
                        || ABSENT_MODULES.contains(&line)
                }
            };
            *counts.entry(kind).or_insert(0) += 1;
            if !known {
                missing.push(format!("{kind} {line}"));
            }
        }
        assert!(counts["keyword"] == 64 && counts["filter"] > 100 && counts["lookup"] == 25, "{counts:?}");
        assert!(missing.is_empty(), "not here: {missing:?}");
    }

    #[test]
    fn text_is_wrapped_and_keeps_its_paragraphs() {
        assert_eq!(wrap("one two three four", 2, 12), "  one two\n  three four\n");
        assert_eq!(wrap("a\n\nb", 2, 12), "  a\n\n  b\n");
    }

    #[test]
    fn every_module_has_a_page_and_an_example() {
        for module in MODULES {
            let text = page(module, 80);
            assert!(text.contains(module.summary), "{}", module.name);
            assert!(!module.summary.is_empty(), "{} has no summary", module.name);
        }
    }
}
