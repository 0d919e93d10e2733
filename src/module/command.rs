//! `command` and `shell`: run a program or a line of shell, unless a path says that it has been done.

use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use serde::Deserialize;

use crate::module::clock::{Zone, python_span};
use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, args, host, typed};
use crate::system::{Applied, Command, Done, Effect, FileKind, Intent, Output, System};
use crate::value::{Map, Value, map_of};

const CHDIR: Param = Param::new("chdir", Type::Path, "Directory to run in.");
const CREATES: Param =
    Param::new("creates", Type::Path, "A path or pattern; if something is there, nothing is run.");
const REMOVES: Param =
    Param::new("removes", Type::Path, "A path or pattern; if nothing is there, nothing is run.");
const CMD: Param = Param::new("cmd", Type::Str, "What to run, instead of free text.");
const STDIN: Param = Param::new("stdin", Type::Str, "What it reads on standard input.");
const STDIN_NEWLINE: Param =
    Param::new("stdin_add_newline", Type::Bool, "End the standard input with a newline.").default("true");
const STRIP: Param =
    Param::new("strip_empty_ends", Type::Bool, "Remove newlines from the end of stdout and stderr.")
        .default("true");

const RETURNS: &[(&str, &str)] = &[
    ("cmd", "What was run: a list for `command`, a string for `shell`."),
    ("rc", "Exit status; 0 if nothing was run."),
    ("stdout", "Standard output."),
    ("stderr", "Standard error."),
    ("start", "When it was started, in the host's local time."),
    ("end", "When it ended, in the host's local time."),
    ("delta", "How long it took: `hours:minutes:seconds`."),
    ("msg", "Why it failed or was not run."),
];

/// Runs a program without a shell.
pub const COMMAND: Module = Module {
    name: "ansible.builtin.command",
    summary: "Run a program",
    description: "The text is split into words as a shell would, `~` and `$VAR` in them are expanded, but there \
        are no pipes, redirections or patterns: use `shell` for those. With `creates` or `removes` it runs only if \
        it has to. In check mode it is never run: it is skipped, or reported as a change if `creates` or `removes` \
        says that it would run.",
    example: "- name: Make the database once\n  ansible.builtin.command:\n    cmd: /usr/bin/make_database.sh db_user db_name\n    creates: /path/to/database\n",
    scope: Scope::World,
    params: &[
        CMD,
        Param::new("argv", Type::List, "What to run, as a list of words."),
        CHDIR,
        CREATES,
        REMOVES,
        STDIN,
        STDIN_NEWLINE,
        STRIP,
        Param::new("expand_argument_vars", Type::Bool, "Expand `~` and `$VAR` in the words.").default("true"),
        Param::new("executable", Type::Str, "Has no effect; only `shell` uses it."),
    ],
    free_form: true,
    rules: &[
        Rule::MutuallyExclusive(&["_raw_params", "cmd", "argv"]),
        Rule::RequiredOneOf(&["_raw_params", "cmd", "argv"]),
    ],
    returns: RETURNS,
    run: |args, system| run(typed(args)?, false, system),
    ..Module::DEFAULT
};

/// Runs a line of shell.
pub const SHELL: Module = Module {
    name: "ansible.builtin.shell",
    summary: "Run a line of shell",
    description: "Like `command`, but through `/bin/sh -c` (or another shell): pipes, redirections, patterns and \
        variables work. Quote variables of the play with the `quote` filter.",
    example: "- name: Count log lines\n  ansible.builtin.shell: cat *.log | wc -l\n  args:\n    chdir: /var/log\n  changed_when: false\n",
    scope: Scope::World,
    params: &[
        CMD,
        CHDIR,
        CREATES,
        REMOVES,
        STDIN,
        STDIN_NEWLINE,
        STRIP,
        Param::new("executable", Type::Path, "The shell to use: an absolute path."),
        Param::new("expand_argument_vars", Type::Bool, "Not for this module, in which the shell expands."),
    ],
    free_form: true,
    rules: &[Rule::MutuallyExclusive(&["_raw_params", "cmd"]), Rule::RequiredOneOf(&["_raw_params", "cmd"])],
    returns: RETURNS,
    run: |args, system| run(typed(args)?, true, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    #[serde(rename = "_raw_params")]
    raw: Option<Value>,
    cmd: Option<String>,
    #[serde(deserialize_with = "host::optional_texts")]
    argv: Option<Vec<String>>,
    chdir: Option<String>,
    creates: Option<String>,
    removes: Option<String>,
    executable: Option<String>,
    stdin: Option<String>,
    stdin_add_newline: bool,
    strip_empty_ends: bool,
    expand_argument_vars: Option<bool>,
}

fn run(args: Args, shell: bool, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let mut warnings = Vec::new();
    if !shell && let Some(executable) = &args.executable {
        warnings.push(format!(
            "'executable' is no longer supported by command (shell has it) and not used: {executable}"
        ));
    }
    if shell && args.expand_argument_vars.is_some() {
        return Err(ModuleError::new("Unsupported parameters for (shell) module: expand_argument_vars"));
    }
    let text = args.raw.as_ref().map(Value::to_text).or_else(|| args.cmd.clone());
    let words = words(&args, text.as_deref(), shell)?;
    let shown: Value = if shell { text.unwrap_or_default().into() } else { words.clone().into() };
    let mut values = map_of([
        ("cmd", shown),
        ("rc", Value::Null),
        ("stdout", "".into()),
        ("stderr", "".into()),
        ("start", Value::Null),
        ("end", Value::Null),
        ("delta", Value::Null),
        ("msg", "".into()),
    ]);
    if words.is_empty() {
        return Err(failure(values, "no command given", 256));
    }
    let cwd = match &args.chdir {
        Some(directory) => Some(working_directory(directory, &values, system)?),
        None => None,
    };
    let guard = Guard { creates: args.creates.as_deref(), removes: args.removes.as_deref() };
    if let Some(reason) = guard.satisfied(cwd.as_deref(), system)? {
        set(&mut values, "rc", 0);
        set(&mut values, "msg", format!("Did not run command since {}", reason.sentence));
        set(&mut values, "stdout", format!("skipped, since {}", reason.short));
        guard.record(system);
        return Ok(Outcome { values, changed: Some(false), warnings, ..Outcome::default() });
    }

    let argv = if shell {
        words
    } else if args.expand_argument_vars.unwrap_or(true) {
        let mut expanded = Vec::with_capacity(words.len());
        for word in &words {
            expanded.push(args::expand_path(word, system)?.to_string_lossy().into_owned());
        }
        expanded
    } else {
        words
    };
    let mut command = Command::new(argv);
    command.cwd = cwd;
    command.stdin = args.stdin.map(|text| {
        let mut bytes = text.into_bytes();
        if args.stdin_add_newline {
            bytes.push(b'\n');
        }
        bytes
    });
    let zone = Zone::of(system);
    let started = SystemTime::now();
    let watch = Instant::now();
    let done = match system.change(&command, guard.intent(&command)) {
        Ok(done) => done,
        Err(error) if error.errno().is_some() => {
            let code = error.errno().unwrap_or(1);
            return Err(failure(values, &format!("Error executing command.: {error}"), code));
        }
        Err(error) => return Err(error.into()),
    };
    let output = match done {
        Done::Made(output) => output,
        Done::Recorded => {
            set(&mut values, "rc", 0);
            set(&mut values, "msg", "Command would have run if not in check mode");
            let skipped = !guard.given();
            return Ok(Outcome { values, skipped, changed: Some(!skipped), warnings, ..Outcome::default() });
        }
    };
    let elapsed = watch.elapsed();
    set(&mut values, "start", zone.local(started).python());
    set(&mut values, "end", zone.local(started + elapsed).python());
    set(&mut values, "delta", python_span(elapsed));
    tell(&mut values, &output, args.strip_empty_ends);
    guard.record(system);
    let mut outcome = Outcome { values, changed: Some(true), warnings, ..Outcome::default() };
    if !output.success() {
        set(&mut outcome.values, "msg", "non-zero return code");
        outcome.failed = true;
    }
    Ok(outcome)
}

fn words(args: &Args, text: Option<&str>, shell: bool) -> Result<Vec<String>, ModuleError> {
    let Some(text) = text else { return Ok(args.argv.clone().unwrap_or_default()) };
    if shell {
        if text.trim().is_empty() {
            return Ok(Vec::new());
        }
        let program = args.executable.clone().unwrap_or_else(|| "/bin/sh".into());
        return Ok(vec![program, "-c".into(), text.into()]);
    }
    host::split_words(text).map_err(|reason| ModuleError::new(format!("{reason}: {text}")))
}

fn working_directory(directory: &str, values: &Map, system: &mut dyn System) -> Result<PathBuf, ModuleError> {
    let path = args::expand_path(directory, system)?;
    if !host::is_directory(&path, system)? && system.uncertain().is_none() {
        let mut error = ModuleError::new(format!(
            "Unable to change directory before execution.: No such directory: '{}'",
            path.display()
        ));
        error.values = values.clone();
        return Err(error);
    }
    Ok(path)
}

fn set(values: &mut Map, name: &str, value: impl Into<Value>) {
    values.insert(Value::str(name), value.into());
}

fn failure(mut values: Map, message: &str, code: i32) -> ModuleError {
    set(&mut values, "rc", code);
    values.shift_remove("msg");
    ModuleError { message: message.to_string(), values }
}

/// Puts what a program left into return values.
fn tell(values: &mut Map, output: &Output, strip: bool) {
    let text = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        if strip { text.trim_end_matches(['\r', '\n']).to_string() } else { text.into_owned() }
    };
    set(values, "rc", output.code);
    set(values, "stdout", text(&output.stdout));
    set(values, "stderr", text(&output.stderr));
}

/// `creates` and `removes`: paths that tell whether a command has been run before.
pub(crate) struct Guard<'a> {
    pub(crate) creates: Option<&'a str>,
    pub(crate) removes: Option<&'a str>,
}

/// Why a command is not run.
pub(crate) struct Reason {
    /// With the path quoted.
    pub(crate) sentence: String,
    /// Without quotes.
    pub(crate) short: String,
}

impl Guard<'_> {
    pub(crate) fn given(&self) -> bool {
        self.creates.is_some() || self.removes.is_some()
    }

    pub(crate) fn satisfied(
        &self,
        cwd: Option<&Path>,
        system: &mut dyn System,
    ) -> Result<Option<Reason>, ModuleError> {
        if let Some(path) = self.creates
            && !found(path, cwd, system)?.is_empty()
        {
            return Ok(Some(Reason {
                sentence: format!("'{path}' exists"),
                short: format!("{path} exists"),
            }));
        }
        if let Some(path) = self.removes
            && found(path, cwd, system)?.is_empty()
            && system.uncertain().is_none()
        {
            return Ok(Some(Reason {
                sentence: format!("'{path}' does not exist"),
                short: format!("{path} does not exist"),
            }));
        }
        Ok(None)
    }

    /// What running the command is meant to lead to.
    pub(crate) fn intent(&self, command: &Command) -> Intent {
        let mut effects = vec![Effect::Anything];
        let plain = |path: &&str| path.starts_with('/') && !path.contains(['*', '?', '[', '$']);
        effects.extend(self.creates.filter(plain).map(|path| Effect::Path(path.into(), FileKind::File)));
        effects.extend(self.removes.filter(plain).map(|path| Effect::NoPath(path.into())));
        Intent {
            kind: "command",
            id: command.line(),
            after: map_of([("cmd", command.line())]).into(),
            effects,
            ..Intent::default()
        }
    }

    /// What the task manages is the path that says that it has run.
    pub(crate) fn record(&self, system: &mut dyn System) {
        for (path, present) in [(self.creates, true), (self.removes, false)] {
            if let Some(path) = path {
                let state = map_of([("exists", present)]).into();
                system.applied(Applied { kind: "path".into(), id: path.into(), state });
            }
        }
    }
}

fn found(pattern: &str, cwd: Option<&Path>, system: &mut dyn System) -> Result<Vec<PathBuf>, ModuleError> {
    let path = args::expand_path(pattern, system)?;
    let path = cwd.map_or_else(|| path.clone(), |cwd| cwd.join(&path));
    host::expand_pattern(&path.to_string_lossy(), system)
}
