//! Settings: what `ansible.cfg`, `setpoint.toml`, the environment and the command line say, each with where
//! it was said.
//!
//! Later sources win in that order. Every setting that ansible-core knows is in [`table::DEFINITIONS`]; one
//! that has no effect here is named in a warning when somebody sets it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::value::Value;

mod ini;
pub mod table;

/// The type of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A boolean.
    Bool,
    /// A whole number.
    Int,
    /// A number.
    Float,
    /// Text.
    Str,
    /// Words, separated by commas.
    List,
    /// A path; relative to the file that names it.
    Path,
    /// Paths, separated by colons.
    PathSpec,
    /// Paths, separated by commas.
    PathList,
}

/// What becomes of a setting here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does what it says.
    Honoured,
    /// There is nothing here that it could change (Python interpreters, pipelining, cows): silently accepted.
    Moot,
    /// It would matter and is not supported: warned about when set.
    Ignored,
}

/// One setting.
#[derive(Debug)]
pub struct Definition {
    /// Name, as `config --dump` shows it.
    pub key: &'static str,
    /// Environment variables, the first that is set counts.
    pub env: &'static [&'static str],
    /// Sections and names in `ansible.cfg`.
    pub ini: &'static [(&'static str, &'static str)],
    /// Its type.
    pub kind: Kind,
    /// Its value when nobody sets it.
    pub default: Option<&'static str>,
    /// Allowed values; empty: any.
    pub choices: &'static [&'static str],
    /// What becomes of it.
    pub standing: Standing,
}

/// Where a setting's value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given {
    /// Nowhere.
    Default,
    /// In a file, at a line (0 if unknown).
    File(PathBuf, usize),
    /// In an environment variable.
    Env(String),
    /// On the command line.
    Flag(String),
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Given::Default => f.write_str("default"),
            Given::File(path, 0) => write!(f, "{}", path.display()),
            Given::File(path, line) => write!(f, "{}:{line}", path.display()),
            Given::Env(name) => write!(f, "env: {name}"),
            Given::Flag(name) => write!(f, "flag: {name}"),
        }
    }
}

/// A setting with its value.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Which one.
    pub definition: &'static Definition,
    /// Its value, typed; `Null` if it has none.
    pub value: Value,
    /// Where that was given.
    pub given: Given,
}

/// Why the settings can't be had.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file can't be read.
    #[error("can't read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}:{line}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1; 0 if unknown.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A value does not fit.
    #[error("the setting {key} ({given}) is {value:?}, which is not {wanted}")]
    Value {
        /// The setting.
        key: &'static str,
        /// Where the value was given.
        given: Box<Given>,
        /// What was given.
        value: String,
        /// What would do.
        wanted: String,
    },
}

/// What the process was started with; tests make their own.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub cwd: PathBuf,
    /// Home directory.
    pub home: Option<PathBuf>,
}

impl Surroundings {
    /// Those of this process.
    pub fn of_process() -> Surroundings {
        Surroundings {
            env: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
            cwd: std::env::current_dir().unwrap_or_default(),
            home: std::env::home_dir(),
        }
    }

    /// `~` and `$VAR` replaced; relative paths are taken from `base`.
    fn path(&self, text: &str, base: &Path) -> String {
        let text = self.variables(text);
        let home = self.home.as_deref().map(Path::to_string_lossy);
        let text = match (text.strip_prefix('~'), home) {
            (Some(""), Some(home)) => home.into_owned(),
            (Some(rest), Some(home)) if rest.starts_with('/') => format!("{home}{rest}"),
            _ => text,
        };
        if text.starts_with('/') || text.starts_with('~') || text.is_empty() {
            return text;
        }
        let joined = base.join(&text);
        let mut clean = PathBuf::new();
        for part in joined.components() {
            match part {
                std::path::Component::CurDir => {}
                std::path::Component::ParentDir => {
                    clean.pop();
                }
                other => clean.push(other),
            }
        }
        clean.to_string_lossy().into_owned()
    }

    fn variables(&self, text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            let tail = &rest[at + 1..];
            let (name, after) = match tail.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
                Some((name, after)) => (name, after),
                None => {
                    let end =
                        tail.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(tail.len());
                    tail.split_at(end)
                }
            };
            match self.env.get(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&rest[at..rest.len() - after.len()]),
            }
            rest = after;
        }
        out + rest
    }
}

/// A value given on the command line: setting, value, flag.
pub type Flag = (&'static str, String, &'static str);

/// All settings of a run: the typed ones that the program reads, and the whole table for those who list it.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The whole table.
    pub all: Vec<Setting>,
    /// The `ansible.cfg` that was read.
    pub ansible_cfg: Option<PathBuf>,
    /// The `setpoint.toml` that was read.
    pub setpoint_toml: Option<PathBuf>,
    /// Things that the user should know.
    pub warnings: Vec<String>,

    /// Hosts worked on at a time.
    pub forks: usize,
    /// Seconds until a connection must stand.
    pub timeout: u64,
    /// Seconds that a task may take; 0: no limit.
    pub task_timeout: u64,
    /// Seconds between looks at a detached task.
    pub poll_interval: u64,
    /// User to log in as.
    pub remote_user: Option<String>,
    /// Port to connect to.
    pub remote_port: Option<u16>,
    /// Private key.
    pub private_key_file: Option<PathBuf>,
    /// Connection kind: `ssh`, `local`, …
    pub transport: String,
    /// Host keys are checked.
    pub host_key_checking: bool,
    /// Arguments for SSH, as a command line. `None`: not set by the user.
    pub ssh_args: Option<String>,
    /// More of them.
    pub ssh_common_args: String,
    /// More of them.
    pub ssh_extra_args: String,
    /// The user's ssh program, for connection `openssh`.
    pub ssh_executable: String,
    /// How often a lost connection is tried again.
    pub ssh_retries: u64,
    /// Shell on the hosts.
    pub executable: String,
    /// Tasks become another user.
    pub become_: bool,
    /// Which one.
    pub become_user: String,
    /// How.
    pub become_method: String,
    /// Program for it, if it is not the usual one.
    pub become_exe: Option<String>,
    /// Its options, if they are not the usual ones.
    pub become_flags: Option<String>,
    /// Per method `(exe, flags, user)` from sections such as `[sudo_become_plugin]`.
    pub become_methods: BTreeMap<String, BecomeMethod>,
    /// Becoming the user that one already is goes through the method all the same.
    pub become_allow_same_user: bool,
    /// File with the password for becoming.
    pub become_password_file: Option<PathBuf>,
    /// File with the password for connecting.
    pub connection_password_file: Option<PathBuf>,
    /// Ask for the connection's password.
    pub ask_pass: bool,
    /// Ask for the password for becoming.
    pub become_ask_pass: bool,
    /// Ask for the vault's password.
    pub ask_vault_pass: bool,
    /// `implicit`, `explicit` or `smart`.
    pub gathering: String,
    /// Fact cache: `memory` or `jsonfile`.
    pub fact_caching: String,
    /// Where it is kept.
    pub fact_caching_connection: Option<String>,
    /// Prefix of its files.
    pub fact_caching_prefix: String,
    /// Seconds for which it is valid; 0: for ever.
    pub fact_caching_timeout: u64,
    /// Mappings of the same name are merged instead of replaced.
    pub hash_merge: bool,
    /// Inventory sources.
    pub inventory: Vec<String>,
    /// Plugins that are tried on a source.
    pub inventory_plugins: Vec<String>,
    /// Endings of files in an inventory directory that are not read.
    pub inventory_ignore_extensions: Vec<String>,
    /// Patterns (regular expressions) of names there that are not read.
    pub inventory_ignore_patterns: Vec<String>,
    /// A source that nothing can read is an error if it leaves no inventory at all.
    pub inventory_unparsed_is_failed: bool,
    /// Any source that nothing can read is an error.
    pub inventory_any_unparsed_is_failed: bool,
    /// A source that nothing can read is warned about.
    pub inventory_unparsed_warning: bool,
    /// `error`, `warning` or `ignore`: a pattern that matches nothing.
    pub host_pattern_mismatch: String,
    /// What to do about characters in group names that variables can't have: `always`, `never`, `ignore`, `silently`.
    pub force_valid_group_names: String,
    /// Warn when only the implicit localhost is there.
    pub localhost_warning: bool,
    /// Where roles are looked for.
    pub roles_path: Vec<PathBuf>,
    /// Where collections are looked for.
    pub collections_path: Vec<PathBuf>,
    /// Whose group_vars count for imported playbooks: `top`, `bottom`, `all`.
    pub playbook_vars_root: String,
    /// Directory to take for that of a playbook where there is none.
    pub playbook_dir: Option<PathBuf>,
    /// Order of inventory variables, lowest first.
    pub variable_precedence: Vec<String>,
    /// Files with vault passwords.
    pub vault_password_files: Vec<PathBuf>,
    /// Label of passwords given without one.
    pub vault_identity: String,
    /// `label@source` entries.
    pub vault_identity_list: Vec<String>,
    /// Only the password with the envelope's label is tried.
    pub vault_id_match: bool,
    /// Label to encrypt with.
    pub vault_encrypt_identity: Option<String>,
    /// An undefined variable is an error.
    pub error_on_undefined: bool,
    /// Conditions may be of any type.
    pub allow_broken_conditionals: bool,
    /// A failure on one host ends the play on all.
    pub any_errors_fatal: bool,
    /// After every failure the debugger is asked for.
    pub enable_task_debugger: bool,
    /// Not after failures that are ignored.
    pub task_debugger_ignore_errors: bool,
    /// Notified handlers run also after a failure.
    pub force_handlers: bool,
    /// Notifying a handler that does not exist is an error.
    pub error_on_missing_handler: bool,
    /// How hosts proceed: `linear`, `free`, …
    pub strategy: String,
    /// Facts are variables of their own (`ansible_…`).
    pub inject_facts_as_vars: bool,
    /// Roles' variables are not seen outside of them.
    pub private_role_vars: bool,
    /// Tags to run.
    pub run_tags: Vec<String>,
    /// Tags to skip.
    pub skip_tags: Vec<String>,
    /// Arguments and results of all tasks are hidden.
    pub no_log: bool,
    /// Text of `ansible_managed`.
    pub ansible_managed: String,
    /// `error`, `warn` or `ignore`: a key that is there twice.
    pub duplicate_dict_key: String,
    /// Directory for temporary files of the controller.
    pub local_tmp: PathBuf,
    /// Module of an ad-hoc run.
    pub module_name: String,
    /// Its arguments.
    pub module_args: Option<String>,
    /// Largest file that is shown as a diff, in bytes.
    pub max_diff_size: u64,
    /// Diffs are shown without being asked for.
    pub diff_always: bool,
    /// Lines around each change in a diff.
    pub diff_context: usize,
    /// Editor of `vault edit`.
    pub editor: String,
    /// Pager of `doc` and `vault view`.
    pub pager: String,
    /// Files with the hosts that failed are written.
    pub retry_files_enabled: bool,
    /// Where.
    pub retry_files_save_path: Option<PathBuf>,
    /// `-v`, as often.
    pub verbosity: u8,
    /// Where a copy of the output goes.
    pub log_path: Option<PathBuf>,
    /// URL or path of the state store; `None`: the default place.
    pub state: Option<String>,
    /// Days for which the state store keeps runs and audits; 0: for ever.
    pub state_keep: u64,
    /// Where a trace of the run goes, for viewers of Chrome's format.
    pub profile_trace: Option<PathBuf>,
    /// Most tasks that are sent ahead to a host; 0: the engine chooses.
    pub window: usize,
    /// How runs are told.
    pub display: Display,
}

/// Settings of one way to become another user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BecomeMethod {
    /// Program.
    pub exe: Option<String>,
    /// Options.
    pub flags: Option<String>,
    /// User.
    pub user: Option<String>,
}

/// How runs are told.
#[derive(Clone, Debug, Default)]
pub struct Display {
    /// Layout: `default`, `minimal`, `oneline`, `yaml`, `json`, `jsonl`, `junit`, `tree`.
    pub stdout_callback: String,
    /// Further listeners.
    pub callbacks_enabled: Vec<String>,
    /// `json` or `yaml`.
    pub result_format: String,
    /// Results over several lines (`None`: as the layout likes).
    pub pretty: Option<bool>,
    /// Show hosts that skip.
    pub skipped_hosts: bool,
    /// Show hosts on which nothing changed.
    pub ok_hosts: bool,
    /// Failures go to standard error.
    pub failed_stderr: bool,
    /// Show a task's arguments in its banner.
    pub args_to_stdout: bool,
    /// Show `set_stats`.
    pub custom_stats: bool,
    /// Mark plays and tasks that only simulate.
    pub check_mode_markers: bool,
    /// Show when a host begins a task.
    pub per_host_start: bool,
    /// Show the place of a task that failed.
    pub task_path_on_failure: bool,
    /// What `-v` adds goes to standard error.
    pub verbose_to_stderr: bool,
    /// Show warnings about the system.
    pub system_warnings: bool,
    /// Show what is deprecated.
    pub deprecation_warnings: bool,
    /// Lines around each change in a diff.
    pub diff_context: usize,
    /// The same diff or failure on several hosts is shown once, with their names.
    pub fold: bool,
    /// Colours also where there is no terminal.
    pub force_color: bool,
    /// No colours.
    pub no_color: bool,
    /// Names of colours by use: `changed`, `ok`, `error`, …
    pub colors: BTreeMap<String, String>,
    /// Directory of `tree`.
    pub tree_directory: PathBuf,
    /// JUnit's own.
    pub junit: Junit,
}

/// Settings of the JUnit report.
#[derive(Clone, Debug, Default)]
pub struct Junit {
    /// Directory for the files.
    pub output_dir: PathBuf,
    /// The class is the task's file without its line.
    pub task_class: bool,
    /// Cut this directory from the front of paths.
    pub task_relative_path: Option<String>,
    /// What stands for a path outside of that.
    pub replace_out_of_tree_path: Option<String>,
    /// A change is a failure.
    pub fail_on_change: bool,
    /// An ignored failure is one.
    pub fail_on_ignore: bool,
    /// Fact gathering is a test too.
    pub include_setup: bool,
    /// Arguments are not in the names.
    pub hide_arguments: bool,
    /// Only tasks whose name begins so are tests.
    pub test_case_prefix: String,
}

impl Settings {
    /// Reads all sources.
    ///
    /// # Errors
    /// A file is unreadable or malformed, or a value does not fit its setting.
    pub fn load(around: &Surroundings, flags: &[Flag]) -> Result<Settings, ConfigError> {
        let mut warnings = Vec::new();
        let ansible_cfg = find_ansible_cfg(around, &mut warnings);
        let mut files = Vec::new();
        if let Some(path) = &ansible_cfg {
            files.push((path.clone(), ini::read(path)?));
        }
        let setpoint_toml = around.env.get("SETPOINT_CONFIG").map(PathBuf::from).or_else(|| {
            Some(around.cwd.join("setpoint.toml")).filter(|path| path.is_file() && trusted(&around.cwd))
        });
        if let Some(path) = &setpoint_toml {
            files.push((path.clone(), read_toml(path)?));
        }
        let all = table::DEFINITIONS
            .iter()
            .map(|definition| resolve(definition, around, &files, flags))
            .collect::<Result<Vec<_>, _>>()?;
        warn_about(&all, &files, &mut warnings);
        let settings = Settings { ansible_cfg, setpoint_toml, warnings, ..typed(&Table(&all)) };
        Ok(Settings { all, ..settings })
    }

    /// The setting `key`.
    pub fn setting(&self, key: &str) -> Option<&Setting> {
        self.all.iter().find(|setting| setting.definition.key == key)
    }

    /// Whether somebody set `key`.
    pub fn is_given(&self, key: &str) -> bool {
        self.setting(key).is_some_and(|setting| setting.given != Given::Default)
    }
}

/// The first of `ANSIBLE_CONFIG`, `./ansible.cfg`, `~/.ansible.cfg`, `/etc/ansible/ansible.cfg` that exists.
fn find_ansible_cfg(around: &Surroundings, warnings: &mut Vec<String>) -> Option<PathBuf> {
    if let Some(named) = around.env.get("ANSIBLE_CONFIG") {
        let mut path = PathBuf::from(around.path(named, &around.cwd));
        if path.is_dir() {
            path.push("ansible.cfg");
        }
        if path.is_file() {
            return Some(path);
        }
    }
    let here = around.cwd.join("ansible.cfg");
    if here.is_file() {
        if trusted(&around.cwd) {
            return Some(here);
        }
        warnings.push(format!(
            "everybody can write to the directory {}: its ansible.cfg is ignored",
            around.cwd.display()
        ));
    }
    let home = around.home.as_ref().map(|home| home.join(".ansible.cfg"));
    home.into_iter().chain([PathBuf::from("/etc/ansible/ansible.cfg")]).find(|path| path.is_file())
}

/// Whether not everybody can write to a directory: whoever can could set any option by a file in it.
fn trusted(directory: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(directory).is_ok_and(|meta| meta.permissions().mode() & 0o002 == 0)
}

/// Values of a file by section and name, with their lines.
type Entries = Vec<Entry>;

/// One line of a configuration file.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    section: String,
    name: String,
    value: String,
    line: usize,
}

fn read_toml(path: &Path) -> Result<Entries, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let syntax = |line: usize, message: String| ConfigError::Syntax { path: path.to_owned(), line, message };
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let line =
            error.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        syntax(line, error.message().to_owned())
    })?;
    let line_of = |section: &str, name: &str| {
        let mut inside = false;
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.starts_with('[') {
                inside = line == format!("[{section}]");
            } else if inside && line.split('=').next().is_some_and(|key| key.trim().trim_matches('"') == name)
            {
                return index + 1;
            }
        }
        0
    };
    let mut entries = Vec::new();
    for (section, content) in &table {
        let Some(content) = content.as_table() else {
            return Err(syntax(0, format!("`{section}` stands outside of a section such as [defaults]")));
        };
        for (name, value) in content {
            let value = toml_text(value)
                .ok_or_else(|| syntax(line_of(section, name), format!("`{name}` can't be a table")))?;
            entries.push(Entry {
                section: section.clone(),
                name: name.clone(),
                value,
                line: line_of(section, name),
            });
        }
    }
    Ok(entries)
}

fn toml_text(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Array(items) => {
            items.iter().map(toml_text).collect::<Option<Vec<_>>>().map(|items| items.join(","))
        }
        toml::Value::Table(_) => None,
        other => Some(other.to_string()),
    }
}

fn resolve(
    definition: &'static Definition,
    around: &Surroundings,
    files: &[(PathBuf, Entries)],
    flags: &[Flag],
) -> Result<Setting, ConfigError> {
    let mut found = definition.default.map(|text| (text.to_owned(), Given::Default));
    for (path, entries) in files {
        let here = definition.ini.iter().find_map(|(section, name)| {
            entries.iter().rev().find(|entry| entry.section == *section && entry.name == *name)
        });
        if let Some(entry) = here {
            found = Some((entry.value.clone(), Given::File(path.clone(), entry.line)));
        }
    }
    if let Some(name) = definition.env.iter().find(|name| around.env.contains_key(**name)) {
        // NO_COLOR counts by being there, whatever it says, unless it is empty.
        let value = &around.env[*name];
        if *name != "NO_COLOR" {
            found = Some((value.clone(), Given::Env((*name).to_owned())));
        } else if !value.is_empty() {
            found = Some(("true".to_owned(), Given::Env((*name).to_owned())));
        }
    }
    if let Some((_, value, flag)) = flags.iter().find(|(key, _, _)| *key == definition.key) {
        found = Some((value.clone(), Given::Flag((*flag).to_owned())));
    }
    let Some((text, given)) = found else {
        return Ok(Setting { definition, value: Value::Null, given: Given::Default });
    };
    let value = convert(definition, &text, &given, around)?;
    Ok(Setting { definition, value, given })
}

fn convert(
    definition: &'static Definition,
    text: &str,
    given: &Given,
    around: &Surroundings,
) -> Result<Value, ConfigError> {
    let refuse = |wanted: String| ConfigError::Value {
        key: definition.key,
        given: Box::new(given.clone()),
        value: text.to_owned(),
        wanted,
    };
    let base = match given {
        Given::File(path, _) => path.parent().unwrap_or(Path::new("/")).to_owned(),
        _ => around.cwd.clone(),
    };
    let home = around.env.get("ANSIBLE_HOME").map_or("~/.ansible", String::as_str);
    let text = text.trim().replace("{ANSIBLE_HOME}", home).replace("{{CWD}}", &around.cwd.to_string_lossy());
    let words = |separator: char| -> Vec<String> {
        text.split(separator).map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect()
    };
    let value = match definition.kind {
        Kind::Bool => {
            Value::Bool(Value::str(text.as_str()).to_bool().ok_or_else(|| refuse("a boolean".into()))?)
        }
        Kind::Int => {
            let number = text.parse::<f64>().map_err(|_| refuse("a whole number".into()))?;
            if number.fract() != 0.0 || number.abs() > 9e15 {
                return Err(refuse("a whole number".into()));
            }
            #[expect(clippy::cast_possible_truncation, reason = "checked to be a whole number in range")]
            Value::Int(number as i64)
        }
        Kind::Float => Value::Float(text.parse().map_err(|_| refuse("a number".into()))?),
        Kind::Str => Value::str(unquote(&text)),
        Kind::List => Value::from(words(',')),
        Kind::Path if text.is_empty() => Value::Null,
        Kind::Path => Value::str(around.path(unquote(&text), &base)),
        Kind::PathSpec => {
            Value::from(words(':').iter().map(|path| around.path(unquote(path), &base)).collect::<Vec<_>>())
        }
        // `host,` is a list of hosts, not a path.
        Kind::PathList
            if !matches!(given, Given::File(..))
                && text.contains(',')
                && !matches!(given, Given::Default) =>
        {
            Value::from(vec![text.clone()])
        }
        Kind::PathList => {
            Value::from(words(',').iter().map(|path| around.path(unquote(path), &base)).collect::<Vec<_>>())
        }
    };
    if !definition.choices.is_empty()
        && let Some(chosen) = value.as_str()
        && !definition.choices.contains(&chosen)
    {
        return Err(refuse(format!("one of {}", definition.choices.join(", "))));
    }
    Ok(value)
}

fn unquote(text: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(inner) = text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return inner;
        }
    }
    text
}

/// Folders none of which is there: nothing is lost with them.
fn names_nothing(setting: &Setting) -> bool {
    let folders = match (setting.definition.kind, &setting.value) {
        (Kind::PathSpec | Kind::PathList, Value::List(folders)) => folders,
        _ => return false,
    };
    !folders.iter().any(|folder| folder.as_str().is_some_and(|folder| Path::new(folder).is_dir()))
}

/// One warning for all settings that were given and have no effect here, one for names nobody knows.
fn warn_about(all: &[Setting], files: &[(PathBuf, Entries)], warnings: &mut Vec<String>) {
    let ignored: Vec<String> = all
        .iter()
        .filter(|setting| setting.definition.standing == Standing::Ignored && setting.given != Given::Default)
        .filter(|setting| !names_nothing(setting))
        .map(|setting| format!("{} ({})", setting.definition.key, setting.given))
        .collect();
    if !ignored.is_empty() {
        warnings.push(format!("these settings are not supported and have no effect: {}", ignored.join(", ")));
    }
    let known = |entry: &Entry| {
        all.iter().any(|setting| {
            setting
                .definition
                .ini
                .iter()
                .any(|(section, name)| entry.section == *section && entry.name == *name)
        })
    };
    // Other sections belong to plugins of collections, each with its own names.
    let ours = |entry: &Entry| {
        all.iter().any(|s| s.definition.ini.iter().any(|(section, _)| entry.section == *section))
    };
    let unknown: Vec<String> = files
        .iter()
        .flat_map(|(path, entries)| entries.iter().map(move |entry| (path, entry)))
        .filter(|(_, entry)| ours(entry) && !known(entry))
        .map(|(path, entry)| {
            format!("[{}] {} ({}:{})", entry.section, entry.name, path.display(), entry.line)
        })
        .collect();
    if !unknown.is_empty() {
        warnings.push(format!("these settings are not known and have no effect: {}", unknown.join(", ")));
    }
}

/// Reads typed values out of the table. Every key it is asked for is in [`table::DEFINITIONS`] with the fitting
/// kind, which a test checks.
struct Table<'a>(&'a [Setting]);

impl Table<'_> {
    fn value(&self, key: &str) -> Value {
        let found = self.0.iter().find(|setting| setting.definition.key == key);
        debug_assert!(found.is_some(), "no setting {key}");
        found.map(|setting| setting.value.clone()).unwrap_or_default()
    }

    fn given(&self, key: &str) -> bool {
        self.0.iter().any(|setting| setting.definition.key == key && setting.given != Given::Default)
    }

    fn bool(&self, key: &str) -> bool {
        self.value(key).as_bool().unwrap_or_default()
    }

    fn number(&self, key: &str) -> u64 {
        self.value(key).as_int().and_then(|number| u64::try_from(number).ok()).unwrap_or_default()
    }

    fn size(&self, key: &str) -> usize {
        usize::try_from(self.number(key)).unwrap_or(usize::MAX)
    }

    fn text(&self, key: &str) -> Option<String> {
        Some(self.value(key)).filter(|value| !value.is_null()).map(|value| value.to_text())
    }

    fn word(&self, key: &str) -> String {
        self.text(key).unwrap_or_default()
    }

    fn list(&self, key: &str) -> Vec<String> {
        self.value(key).as_list().unwrap_or_default().iter().map(Value::to_text).collect()
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        self.text(key).map(PathBuf::from)
    }

    fn paths(&self, key: &str) -> Vec<PathBuf> {
        self.list(key).into_iter().map(PathBuf::from).collect()
    }
}

fn typed(table: &Table<'_>) -> Settings {
    Settings {
        all: Vec::new(),
        ansible_cfg: None,
        setpoint_toml: None,
        warnings: Vec::new(),
        forks: table.size("DEFAULT_FORKS").max(1),
        timeout: table.number("DEFAULT_TIMEOUT"),
        task_timeout: table.number("TASK_TIMEOUT"),
        poll_interval: table.number("DEFAULT_POLL_INTERVAL"),
        remote_user: table.text("DEFAULT_REMOTE_USER"),
        remote_port: u16::try_from(table.number("DEFAULT_REMOTE_PORT")).ok().filter(|port| *port > 0),
        private_key_file: table.path("DEFAULT_PRIVATE_KEY_FILE"),
        transport: table.word("DEFAULT_TRANSPORT"),
        host_key_checking: table.bool("HOST_KEY_CHECKING"),
        ssh_args: table.text("SSH_ARGS").filter(|_| table.given("SSH_ARGS")),
        ssh_common_args: table.word("SSH_COMMON_ARGS"),
        ssh_extra_args: table.word("SSH_EXTRA_ARGS"),
        ssh_executable: table.word("SSH_EXECUTABLE"),
        ssh_retries: table.number("SSH_RECONNECTION_RETRIES"),
        executable: table.word("DEFAULT_EXECUTABLE"),
        become_: table.bool("DEFAULT_BECOME"),
        become_user: table.word("DEFAULT_BECOME_USER"),
        become_method: table.word("DEFAULT_BECOME_METHOD"),
        become_exe: table.text("DEFAULT_BECOME_EXE"),
        become_flags: table.text("DEFAULT_BECOME_FLAGS").filter(|flags| !flags.is_empty()),
        become_methods: become_methods(table),
        become_allow_same_user: table.bool("BECOME_ALLOW_SAME_USER"),
        become_password_file: table.path("BECOME_PASSWORD_FILE"),
        connection_password_file: table.path("CONNECTION_PASSWORD_FILE"),
        ask_pass: table.bool("DEFAULT_ASK_PASS"),
        become_ask_pass: table.bool("DEFAULT_BECOME_ASK_PASS"),
        ask_vault_pass: table.bool("DEFAULT_ASK_VAULT_PASS"),
        gathering: table.word("DEFAULT_GATHERING"),
        fact_caching: table.word("CACHE_PLUGIN"),
        fact_caching_connection: table.text("CACHE_PLUGIN_CONNECTION"),
        fact_caching_prefix: table.word("CACHE_PLUGIN_PREFIX"),
        fact_caching_timeout: table.number("CACHE_PLUGIN_TIMEOUT"),
        hash_merge: table.word("DEFAULT_HASH_BEHAVIOUR") == "merge",
        inventory: table.list("DEFAULT_HOST_LIST"),
        inventory_plugins: table.list("INVENTORY_ENABLED"),
        inventory_ignore_extensions: table.list("INVENTORY_IGNORE_EXTS"),
        inventory_ignore_patterns: table.list("INVENTORY_IGNORE_PATTERNS"),
        inventory_unparsed_is_failed: table.bool("INVENTORY_UNPARSED_IS_FAILED"),
        inventory_any_unparsed_is_failed: table.bool("INVENTORY_ANY_UNPARSED_IS_FAILED"),
        inventory_unparsed_warning: table.bool("INVENTORY_UNPARSED_WARNING"),
        host_pattern_mismatch: table.word("HOST_PATTERN_MISMATCH"),
        force_valid_group_names: table.word("TRANSFORM_INVALID_GROUP_CHARS"),
        localhost_warning: table.bool("LOCALHOST_WARNING"),
        roles_path: table.paths("DEFAULT_ROLES_PATH"),
        collections_path: table.paths("COLLECTIONS_PATHS"),
        playbook_vars_root: table.word("PLAYBOOK_VARS_ROOT"),
        playbook_dir: table.path("PLAYBOOK_DIR"),
        variable_precedence: table.list("VARIABLE_PRECEDENCE"),
        vault_password_files: table.path("DEFAULT_VAULT_PASSWORD_FILE").into_iter().collect(),
        vault_identity: table.word("DEFAULT_VAULT_IDENTITY"),
        vault_identity_list: table.list("DEFAULT_VAULT_IDENTITY_LIST"),
        vault_id_match: table.value("DEFAULT_VAULT_ID_MATCH").to_bool().unwrap_or_default(),
        vault_encrypt_identity: table.text("DEFAULT_VAULT_ENCRYPT_IDENTITY"),
        error_on_undefined: table.bool("DEFAULT_UNDEFINED_VAR_BEHAVIOR"),
        allow_broken_conditionals: table.bool("ALLOW_BROKEN_CONDITIONALS"),
        any_errors_fatal: table.bool("ANY_ERRORS_FATAL"),
        enable_task_debugger: table.bool("ENABLE_TASK_DEBUGGER"),
        task_debugger_ignore_errors: table.bool("TASK_DEBUGGER_IGNORE_ERRORS"),
        force_handlers: table.bool("DEFAULT_FORCE_HANDLERS"),
        error_on_missing_handler: table.bool("ERROR_ON_MISSING_HANDLER"),
        strategy: table.word("DEFAULT_STRATEGY"),
        inject_facts_as_vars: table.bool("INJECT_FACTS_AS_VARS"),
        private_role_vars: table.bool("DEFAULT_PRIVATE_ROLE_VARS"),
        run_tags: table.list("TAGS_RUN"),
        skip_tags: table.list("TAGS_SKIP"),
        no_log: table.bool("DEFAULT_NO_LOG"),
        ansible_managed: table.word("DEFAULT_MANAGED_STR"),
        duplicate_dict_key: table.word("DUPLICATE_YAML_DICT_KEY"),
        local_tmp: table.path("DEFAULT_LOCAL_TMP").unwrap_or_default(),
        module_name: table.word("DEFAULT_MODULE_NAME"),
        module_args: table.text("DEFAULT_MODULE_ARGS"),
        max_diff_size: table.number("MAX_FILE_SIZE_FOR_DIFF"),
        diff_always: table.bool("DIFF_ALWAYS"),
        diff_context: table.size("DIFF_CONTEXT"),
        editor: table.word("EDITOR"),
        pager: table.word("PAGER"),
        retry_files_enabled: table.bool("RETRY_FILES_ENABLED"),
        retry_files_save_path: table.path("RETRY_FILES_SAVE_PATH"),
        verbosity: u8::try_from(table.number("DEFAULT_VERBOSITY")).unwrap_or(u8::MAX),
        log_path: table.path("DEFAULT_LOG_PATH"),
        state: table.text("SETPOINT_STATE"),
        state_keep: table.number("SETPOINT_STATE_KEEP"),
        profile_trace: table.path("SETPOINT_PROFILE_TRACE"),
        window: table.size("SETPOINT_WINDOW"),
        display: display(table),
    }
}

fn become_methods(table: &Table<'_>) -> BTreeMap<String, BecomeMethod> {
    ["sudo", "su", "doas"]
        .into_iter()
        .map(|name| {
            let upper = name.to_uppercase();
            let method = BecomeMethod {
                exe: table.text(&format!("{upper}_BECOME_EXE")),
                flags: table.text(&format!("{upper}_BECOME_FLAGS")),
                user: table.text(&format!("{upper}_BECOME_USER")),
            };
            (name.to_owned(), method)
        })
        .filter(|(_, method)| *method != BecomeMethod::default())
        .collect()
}

fn display(table: &Table<'_>) -> Display {
    let path_word = |key: &str| table.text(key).filter(|word| !word.is_empty() && word != "none");
    Display {
        stdout_callback: table.word("DEFAULT_STDOUT_CALLBACK"),
        callbacks_enabled: table.list("CALLBACKS_ENABLED"),
        result_format: table.word("CALLBACK_RESULT_FORMAT"),
        pretty: table.value("CALLBACK_FORMAT_PRETTY").as_bool(),
        skipped_hosts: table.bool("DISPLAY_SKIPPED_HOSTS"),
        ok_hosts: table.bool("DISPLAY_OK_HOSTS"),
        failed_stderr: table.bool("DISPLAY_FAILED_STDERR"),
        args_to_stdout: table.bool("DISPLAY_ARGS_TO_STDOUT"),
        custom_stats: table.bool("SHOW_CUSTOM_STATS"),
        check_mode_markers: table.bool("CHECK_MODE_MARKERS"),
        per_host_start: table.bool("SHOW_PER_HOST_START"),
        task_path_on_failure: table.bool("SHOW_TASK_PATH_ON_FAILURE"),
        verbose_to_stderr: table.bool("VERBOSE_TO_STDERR"),
        system_warnings: table.bool("SYSTEM_WARNINGS"),
        deprecation_warnings: table.bool("DEPRECATION_WARNINGS"),
        diff_context: table.size("DIFF_CONTEXT"),
        fold: table.bool("SETPOINT_FOLD"),
        force_color: table.bool("ANSIBLE_FORCE_COLOR"),
        no_color: table.bool("ANSIBLE_NOCOLOR"),
        colors: table
            .0
            .iter()
            .filter_map(|setting| Some((setting.definition.key.strip_prefix("COLOR_")?, &setting.value)))
            .map(|(key, value)| (key.to_lowercase(), value.to_text()))
            .collect(),
        tree_directory: table.path("CALLBACK_TREE_DIR").unwrap_or_default(),
        junit: Junit {
            output_dir: table.path("JUNIT_OUTPUT_DIR").unwrap_or_default(),
            task_class: table.bool("JUNIT_TASK_CLASS"),
            task_relative_path: path_word("JUNIT_TASK_RELATIVE_PATH"),
            replace_out_of_tree_path: path_word("JUNIT_REPLACE_OUT_OF_TREE_PATH"),
            fail_on_change: table.bool("JUNIT_FAIL_ON_CHANGE"),
            fail_on_ignore: table.bool("JUNIT_FAIL_ON_IGNORE"),
            include_setup: table.bool("JUNIT_INCLUDE_SETUP_TASKS_IN_REPORT"),
            hide_arguments: table.bool("JUNIT_HIDE_TASK_ARGUMENTS"),
            test_case_prefix: table.word("JUNIT_TEST_CASE_PREFIX"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(directory: &Path, env: &[(&str, &str)]) -> Surroundings {
        Surroundings {
            env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            cwd: directory.to_owned(),
            home: Some(PathBuf::from("/home/anna")),
        }
    }

    #[test]
    fn defaults_are_ansibles() {
        let settings = Settings::load(&around(Path::new("/nonexistent"), &[]), &[]).expect("nothing is set");
        assert_eq!((settings.forks, settings.timeout, settings.poll_interval), (5, 10, 15));
        assert_eq!(settings.become_user, "root");
        assert_eq!(settings.display.stdout_callback, "default");
        assert!(settings.host_key_checking && settings.error_on_undefined && settings.display.ok_hosts);
        assert_eq!(settings.roles_path[0], Path::new("/home/anna/.ansible/roles"));
        assert_eq!(settings.inventory, ["/etc/ansible/hosts"]);
        assert_eq!(settings.warnings, Vec::<String>::new());
        assert!(settings.all.len() > 200);
    }

    #[test]
    fn later_sources_win_and_are_named() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let cfg = directory.path().join("ansible.cfg");
        let text = "[defaults]\nforks = 7\nroles_path = roles:../shared\ntimeout = 20\nprivate_key_file = ~/.ssh/$KEY\n\
                    inventory = hosts\n[ssh_connection]\npipelining = True\n";
        std::fs::write(&cfg, text).expect("it can be written");
        std::fs::write(
            directory.path().join("setpoint.toml"),
            "[defaults]\ntimeout = 30\n[setpoint]\nstate = \"x.db\"\n",
        )
        .expect("it can be written");
        let env = [("ANSIBLE_FORKS", "9"), ("KEY", "id_ed25519"), ("ANSIBLE_COW_SELECTION", "bunny")];
        let flags = [("DEFAULT_REMOTE_USER", "deploy".to_owned(), "--user")];
        let settings = Settings::load(&around(directory.path(), &env), &flags).expect("they are right");
        let given = |key: &str| settings.setting(key).expect("it is known").given.to_string();
        assert_eq!((settings.forks, given("DEFAULT_FORKS")), (9, "env: ANSIBLE_FORKS".into()));
        assert_eq!(settings.timeout, 30);
        assert!(given("DEFAULT_TIMEOUT").ends_with("setpoint.toml:2"), "{}", given("DEFAULT_TIMEOUT"));
        assert_eq!(given("DEFAULT_ROLES_PATH"), format!("{}:3", cfg.display()));
        let shared = directory.path().parent().expect("it is not the root").join("shared");
        assert_eq!(settings.roles_path, [directory.path().join("roles"), shared]);
        assert_eq!(settings.private_key_file, Some(PathBuf::from("/home/anna/.ssh/id_ed25519")));
        assert_eq!(settings.inventory, [directory.path().join("hosts").display().to_string()]);
        assert_eq!(
            (settings.remote_user.as_deref(), given("DEFAULT_REMOTE_USER")),
            (Some("deploy"), "flag: --user".into())
        );
        assert_eq!(settings.state.as_deref(), Some("x.db"));
        // What has nothing to do here is no reason to warn.
        assert_eq!(settings.warnings, Vec::<String>::new());
    }

    #[test]
    fn what_has_no_effect_is_named_once() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let text = "[defaults]\nlog_filter = x\nfrks = 3\n[our_plugin]\na = b\n";
        std::fs::write(directory.path().join("ansible.cfg"), text).expect("it can be written");
        let folder = directory.path().display().to_string();
        // A folder that is not there would be no loss.
        let env = [("ANSIBLE_CALLBACK_PLUGINS", folder.as_str()), ("ANSIBLE_LIBRARY", "/dev/null")];
        let settings = Settings::load(&around(directory.path(), &env), &[]).expect("they are right");
        let all = settings.warnings.join("\n");
        assert_eq!(settings.warnings.len(), 2, "{all}");
        assert!(all.contains("DEFAULT_CALLBACK_PLUGIN_PATH (env: ANSIBLE_CALLBACK_PLUGINS)"), "{all}");
        assert!(!all.contains("DEFAULT_MODULE_PATH"), "{all}");
        assert!(
            all.contains("DEFAULT_LOG_FILTER (")
                && all.contains("[defaults] frks (")
                && !all.contains("our_plugin"),
            "{all}"
        );
    }

    #[test]
    fn a_directory_that_everybody_writes_to_is_not_trusted() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(directory.path().join("ansible.cfg"), "[defaults]\nforks = 99\n")
            .expect("it can be written");
        std::fs::write(directory.path().join("setpoint.toml"), "[defaults]\nforks = 99\n")
            .expect("it can be written");
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777))
            .expect("it is ours");
        let settings = Settings::load(&around(directory.path(), &[]), &[]).expect("they are right");
        assert_eq!(settings.forks, 5);
        assert_eq!(settings.warnings.len(), 1);
    }

    #[test]
    fn values_that_do_not_fit_are_refused_with_their_place() {
        for (name, value, part) in [
            ("ANSIBLE_FORKS", "many", "a whole number"),
            ("ANSIBLE_GATHERING", "never", "one of implicit, explicit, smart"),
            ("ANSIBLE_HOST_KEY_CHECKING", "perhaps", "a boolean"),
        ] {
            let error =
                Settings::load(&around(Path::new("/nonexistent"), &[(name, value)]), &[]).expect_err(name);
            let text = error.to_string();
            assert!(text.contains(part) && text.contains(&format!("env: {name}")), "{text}");
        }
    }
}
