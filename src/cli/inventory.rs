//! `setpoint inventory`: hosts, groups and variables as they are after all sources are read, with the options of
//! ansible-inventory.

use std::path::{Path, PathBuf};

use clap::Args;

use super::exit::Exit;
use super::failure::Failure;
use super::options::{self, Flags};
use super::{Console, extra_vars, look, run, secrets};
use crate::diagnostic::{Diagnostic, did_you_mean};
use crate::inventory::{Inventory as Loaded, Show, to_json, to_yaml};
use crate::value::{Map, Value};

/// Show hosts, groups and variables
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  setpoint inventory -i inventory/ --graph              groups and hosts as a tree
  setpoint inventory -i inventory/ --list --yaml        everything, as a YAML inventory
  setpoint inventory -i inventory/ --host web1          the variables of a host
  setpoint inventory -i inventory/ --host web1 --explain http_port
                                                        where a variable's value comes from, and what it hides")]
pub struct Inventory {
    /// With --graph: the group to begin at
    #[arg(value_name = "GROUP")]
    pub group: Option<String>,

    /// Show all hosts and groups
    #[arg(long, help_heading = "What to show")]
    pub list: bool,
    /// Show groups and hosts as a tree
    #[arg(long, help_heading = "What to show")]
    pub graph: bool,
    /// Show the variables of one host
    #[arg(long, value_name = "HOST", help_heading = "What to show")]
    pub host: Option<String>,
    /// With --host: say where this variable's value comes from, and what it hides
    #[arg(long, value_name = "VARIABLE", requires = "host", help_heading = "What to show")]
    pub explain: Option<String>,
    /// With --graph: show variables too
    #[arg(long, help_heading = "What to show")]
    pub vars: bool,
    /// With --list: variables of groups with the groups, as an inventory that can be read again
    #[arg(long, help_heading = "What to show")]
    pub export: bool,

    /// Write YAML
    #[arg(short, long, conflicts_with = "toml", help_heading = "How to show it")]
    pub yaml: bool,
    /// Write TOML
    #[arg(long, help_heading = "How to show it")]
    pub toml: bool,
    /// Write to this file
    #[arg(long, value_name = "FILE", help_heading = "How to show it")]
    pub output: Option<PathBuf>,

    #[command(flatten)]
    pub inventory: options::Inventory,
    #[command(flatten)]
    pub extra_vars: options::ExtraVars,
    /// Directory that stands for a playbook's: group_vars and host_vars beside it count
    #[arg(long, value_name = "DIRECTORY")]
    pub playbook_dir: Option<PathBuf>,
    #[command(flatten)]
    pub vault: options::VaultPasswords,
    #[command(flatten)]
    pub verbosity: options::Verbosity,
}

/// Carries out the subcommand.
///
/// # Errors
/// The inventory can't be read, or what is asked for is not in it.
pub fn run(args: &Inventory, console: &mut Console) -> Result<Exit, Failure> {
    match u8::from(args.list) + u8::from(args.graph) + u8::from(args.host.is_some()) {
        1 => {}
        0 => return Err(Failure::options("nothing to show: use --list, --graph or --host")),
        _ => return Err(Failure::options("--list, --graph and --host exclude each other")),
    }
    let mut flags = Flags::default();
    let playbook_dir = args.playbook_dir.as_ref().map(|path| path.display().to_string());
    flags
        .value("PLAYBOOK_DIR", playbook_dir, "--playbook-dir")
        .switch("INVENTORY_EXPORT", args.export, "--export")
        .value("DEFAULT_VERBOSITY", run::verbosity(args.verbosity.verbose), "--verbose");
    let settings = console.settings(&flags)?;
    let vault = secrets::vault(&args.vault, &settings)?;
    let extra = extra_vars::parse(&args.extra_vars.extra_vars, &vault)
        .map_err(|diagnostics| Failure { exit: Exit::Options, diagnostics })?;
    let sources = run::inventory(&args.inventory.inventory, &settings);
    let inventory = look::inventory(&sources, &settings, &vault, console)?;
    let export =
        settings.setting("INVENTORY_EXPORT").and_then(|setting| setting.value.as_bool()).unwrap_or_default();
    let show = Show {
        limit: args.inventory.limit.as_deref(),
        export,
        playbook_dir: settings.playbook_dir.as_deref(),
        vars: args.vars,
    };
    let text = text(args, &inventory, show, &extra)?;
    match &args.output {
        Some(path) => std::fs::write(path, text)
            .map_err(|error| Failure::error(format!("{}: {error}", path.display())))?,
        None => console.print(&text)?,
    }
    Ok(Exit::Success)
}

fn text(args: &Inventory, inventory: &Loaded, show: Show<'_>, extra: &Map) -> Result<String, Failure> {
    let failed = |diagnostics: Vec<Diagnostic>| Failure { exit: Exit::Error, diagnostics };
    let absent = |diagnostics: Vec<Diagnostic>| Failure { exit: Exit::Options, diagnostics };
    if let Some(host) = &args.host {
        if let Some(variable) = &args.explain {
            return explain(inventory, host, variable, show.playbook_dir, extra);
        }
        let mut vars = inventory.show_host(host, show).map_err(absent)?;
        if let Value::Map(map) = &vars {
            let mut map = map.as_ref().clone();
            map.extend(extra.iter().map(|(key, value)| (key.clone(), value.clone())));
            vars = Value::map(map);
        }
        return if args.toml {
            to_toml(&vars)
        } else if args.yaml {
            Ok(to_yaml(&vars))
        } else {
            Ok(to_json(&vars) + "\n")
        };
    }
    if args.graph {
        let group = args.group.as_deref().unwrap_or("all");
        return Ok(inventory.show_graph(group, show).map_err(absent)? + "\n");
    }
    if args.toml {
        return to_toml(&inventory.show_list(show).map_err(failed)?);
    }
    if args.yaml {
        return inventory.show_list_yaml(show).map_err(failed);
    }
    Ok(inventory.show_list_json(show).map_err(failed)? + "\n")
}

/// TOML has no null, so such variables are left out.
fn to_toml(value: &Value) -> Result<String, Failure> {
    let value = toml_value(value).unwrap_or_else(|| toml::Value::Table(toml::Table::new()));
    toml::to_string(&value).map_err(|error| Failure::error(format!("this can't be written as TOML: {error}")))
}

fn toml_value(value: &Value) -> Option<toml::Value> {
    Some(match value {
        Value::Null | Value::Omit | Value::Pending => return None,
        Value::Bool(value) => toml::Value::Boolean(*value),
        Value::Int(value) => toml::Value::Integer(*value),
        Value::Float(value) => toml::Value::Float(*value),
        Value::List(items) => toml::Value::Array(items.iter().filter_map(toml_value).collect()),
        Value::Map(map) => toml::Value::Table(
            map.iter().filter_map(|(key, value)| Some((key.to_text(), toml_value(value)?))).collect(),
        ),
        other => toml::Value::String(other.to_text()),
    })
}

/// The winner and each loser of a variable, with where each was written; strongest first.
fn explain(
    inventory: &Loaded,
    host: &str,
    variable: &str,
    playbook_dir: Option<&Path>,
    extra: &Map,
) -> Result<String, Failure> {
    let options = |problem: Diagnostic| Failure { exit: Exit::Options, diagnostics: vec![problem] };
    if inventory.host(host).is_none() {
        let problem = Diagnostic::error(format!("there is no host `{host}` in the inventory"));
        let names = inventory.hosts_in_order();
        return Err(options(match did_you_mean(host, names.iter().map(AsRef::as_ref)) {
            Some(meant) => problem.hint(format!("did you mean `{meant}`?")),
            None => problem,
        }));
    }
    let layers = inventory
        .var_layers(host, playbook_dir)
        .map_err(|diagnostics| Failure { exit: Exit::Error, diagnostics: diagnostics.to_vec() })?;
    let mut rows: Vec<(String, &Value)> = Vec::new();
    if let Some(value) = extra.get(variable) {
        rows.push(("extra variables (-e)".into(), value));
    }
    for layer in layers.iter().rev() {
        if let Some((key, value)) = layer.map.get_key_value(variable) {
            let place = key
                .origin()
                .or_else(|| value.origin())
                .map_or_else(String::new, |origin| format!(" at {origin}"));
            rows.push((format!("{} {}{place}", layer.level.describe(), layer.source), value));
        }
    }
    if rows.is_empty() {
        let problem = Diagnostic::error(format!("the inventory gives {host} no variable `{variable}`"));
        let names: Vec<String> =
            layers.iter().flat_map(|layer| layer.map.keys().map(Value::to_text)).collect();
        return Err(options(match did_you_mean(variable, names.iter().map(String::as_str)) {
            Some(meant) => problem.hint(format!("did you mean `{meant}`?")),
            None => problem,
        }));
    }
    let mut out = format!("{variable} on {host}, strongest first:\n");
    for (index, (place, value)) in rows.iter().enumerate() {
        let mark = if index == 0 { "=>" } else { "  " };
        out.push_str(&format!("{mark} {}  ({place})\n", value.repr()));
    }
    Ok(out)
}
