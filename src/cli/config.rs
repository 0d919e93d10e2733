//! `setpoint config`: every setting, its value, and where that was given.

use clap::{Args, ValueEnum};

use super::Console;
use super::exit::Exit;
use super::failure::Failure;
use super::options::{Flags, Verbosity};
use crate::config::{Given, Setting, Settings, Standing};
use crate::source::json::{Layout, dump};
use crate::value::{Map, Value, map_of};

/// Show settings and where they come from
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Config {
    /// What to show (default: dump)
    #[arg(value_enum)]
    pub action: Option<Action>,
    /// The settings with their values (the same as `dump`)
    #[arg(long, conflicts_with_all = ["action", "list"])]
    pub dump: bool,
    /// What settings there are (the same as `list`)
    #[arg(long, conflicts_with = "action")]
    pub list: bool,
    /// Only settings that somebody set
    #[arg(long, visible_alias = "changed-only")]
    pub only_changed: bool,
    /// How to write it
    #[arg(short, long, value_enum, default_value_t = Format::Display)]
    pub format: Format,
    /// Read this file instead of the usual ones
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<String>,
    /// Accepted for compatibility: only the base settings exist here
    #[arg(short = 't', long = "type", value_name = "TYPE", hide_short_help = true)]
    pub kind: Option<String>,
    #[command(flatten)]
    pub verbosity: Verbosity,
}

/// What `config` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Action {
    /// The settings with their values
    Dump,
    /// What settings there are
    List,
    /// The configuration file as it is
    View,
    /// A configuration file with every setting at its default
    Init,
}

/// How `config` writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One line a setting
    Display,
    /// JSON
    Json,
}

const EXAMPLES: &str = "\
Examples:
  setpoint config dump --only-changed    what this directory's configuration and the environment change
  setpoint config list                   every setting with its names in ansible.cfg and the environment
  setpoint config init > ansible.cfg     a file to start from

Settings come from ansible.cfg (ANSIBLE_CONFIG, ./ansible.cfg, ~/.ansible.cfg, /etc/ansible/ansible.cfg; the first
that exists), ./setpoint.toml, the environment and the command line; later ones win.";

/// Carries out the subcommand.
///
/// # Errors
/// A configuration can't be read.
pub fn run(args: &Config, console: &mut Console) -> Result<Exit, Failure> {
    if let Some(file) = &args.config {
        if !std::path::Path::new(file).is_file() {
            return Err(Failure::options(format!("the configuration {file} is not there")));
        }
        console.around.env.insert("ANSIBLE_CONFIG".into(), file.clone());
    }
    let settings = console.settings(&Flags::default())?;
    let action = args.action.unwrap_or(if args.list { Action::List } else { Action::Dump });
    let shown = settings.all.iter().filter(|setting| !args.only_changed || setting.given != Given::Default);
    let text = match (action, args.format) {
        (Action::Dump, Format::Display) => shown.map(dump_line).collect(),
        (Action::Dump, Format::Json) => json(shown.map(dump_value).collect()),
        (Action::List, Format::Display) => shown.map(list_entry).collect(),
        (Action::List, Format::Json) => json(shown.map(list_value).collect()),
        (Action::View, _) => view(&settings)?,
        (Action::Init, _) => init(&settings),
    };
    console.print(&text)?;
    Ok(Exit::Success)
}

fn json(items: Vec<Value>) -> String {
    dump(&Value::list(items), &Layout::nice()) + "\n"
}

fn dump_line(setting: &Setting) -> String {
    let note = match setting.definition.standing {
        Standing::Honoured => "",
        Standing::Moot => "  (no effect here: nothing depends on it)",
        Standing::Ignored => "  (not supported: no effect)",
    };
    format!("{}({}) = {}{note}\n", setting.definition.key, setting.given, setting.value.to_text())
}

fn dump_value(setting: &Setting) -> Value {
    Value::map(map_of([
        ("name", Value::str(setting.definition.key)),
        ("origin", Value::str(setting.given.to_string())),
        ("value", setting.value.clone()),
        ("standing", Value::str(standing(setting))),
    ]))
}

fn standing(setting: &Setting) -> &'static str {
    match setting.definition.standing {
        Standing::Honoured => "honoured",
        Standing::Moot => "no effect needed",
        Standing::Ignored => "not supported",
    }
}

fn list_entry(setting: &Setting) -> String {
    let definition = setting.definition;
    let mut out = format!("{}: {}\n", definition.key, standing(setting));
    out.push_str(&format!("  default: {}\n", definition.default.unwrap_or("none")));
    if !definition.choices.is_empty() {
        out.push_str(&format!("  choices: {}\n", definition.choices.join(", ")));
    }
    for (section, name) in definition.ini {
        out.push_str(&format!("  ansible.cfg: [{section}] {name}\n"));
    }
    for name in definition.env {
        out.push_str(&format!("  environment: {name}\n"));
    }
    out
}

fn list_value(setting: &Setting) -> Value {
    let definition = setting.definition;
    let words = |words: &[&str]| Value::list(words.iter().copied().map(Value::str).collect());
    let ini = definition.ini.iter().map(|(section, name)| {
        Value::map(map_of([("section", Value::str(*section)), ("key", Value::str(*name))]))
    });
    let map: Map = map_of([
        ("name", Value::str(definition.key)),
        ("default", Value::from(definition.default)),
        ("type", Value::str(format!("{:?}", definition.kind).to_lowercase())),
        ("choices", words(definition.choices)),
        ("env", words(definition.env)),
        ("ini", Value::list(ini.collect())),
        ("standing", Value::str(standing(setting))),
    ]);
    Value::map(map)
}

fn view(settings: &Settings) -> Result<String, Failure> {
    let path = settings
        .ansible_cfg
        .as_ref()
        .or(settings.setpoint_toml.as_ref())
        .ok_or_else(|| Failure::options("there is no configuration file"))?;
    Ok(std::fs::read_to_string(path)?)
}

/// Every honoured setting, commented out, by section.
fn init(settings: &Settings) -> String {
    let mut sections: std::collections::BTreeMap<&str, String> = std::collections::BTreeMap::new();
    for setting in settings.all.iter().filter(|setting| setting.definition.standing == Standing::Honoured) {
        let Some((section, name)) = setting.definition.ini.first() else { continue };
        let default = setting.definition.default.unwrap_or("").replace("{ANSIBLE_HOME}", "~/.ansible");
        sections.entry(section).or_default().push_str(&format!(";{name} = {default}\n"));
    }
    sections.iter().map(|(section, lines)| format!("[{section}]\n{lines}\n")).collect()
}
