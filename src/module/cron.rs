//! `cron` and `cronvar`: lines in tables of cron, and variables at their top.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, args, files, host, typed};
use crate::system::{Applied, Attributes, Command, Content, Done, Intent, System, WriteOptions};
use crate::value::{Value, map_of};

/// Manages jobs of cron.
pub const MODULE: Module = Module {
    name: "ansible.builtin.cron",
    summary: "Manage jobs and variables of cron",
    description: "A job is known by its name, which stands in a line above it. User tables are read and written \
        with `crontab`, files in `/etc/cron.d` directly. Jobs of others are left as they are.",
    example: "- name: Clean up every night\n  ansible.builtin.cron:\n    name: clean up\n    hour: '3'\n    minute: '15'\n    job: /usr/local/bin/clean > /dev/null\n",
    scope: Scope::Host,
    params: &[
        Param::new("name", Type::Str, "Name of the job, or of the variable if `env`.").required(),
        Param::new("state", Type::Str, "Whether it should be there.")
            .choices(&["absent", "present"])
            .default("present"),
        Param::new("job", Type::Str, "The command, or the value of the variable.").aliases(&["value"]),
        Param::new("user", Type::Str, "Whose table; in a file the user that runs the job."),
        Param::new(
            "cron_file",
            Type::Path,
            "A file instead of a user's table: absolute, or below `/etc/cron.d`.",
        ),
        Param::new("minute", Type::Str, "When: `0`-`59`, `*`, `*/2`, …").default("*"),
        Param::new("hour", Type::Str, "When: `0`-`23`, `*`, `*/2`, …").default("*"),
        Param::new("day", Type::Str, "When: `1`-`31`, `*`, `*/2`, …").aliases(&["dom"]).default("*"),
        Param::new("month", Type::Str, "When: `1`-`12`, `*`, …").default("*"),
        Param::new("weekday", Type::Str, "When: `0`-`6` from Sunday, `*`, …").aliases(&["dow"]).default("*"),
        Param::new("special_time", Type::Str, "When, by a name, instead of the five above.")
            .choices(&["annually", "daily", "hourly", "monthly", "reboot", "weekly", "yearly"]),
        Param::new("disabled", Type::Bool, "Keep the line as a comment.").default("false"),
        Param::new("env", Type::Bool, "It is a variable, not a job.").default("false"),
        Param::new("insertafter", Type::Str, "Put a new variable after this one."),
        Param::new("insertbefore", Type::Str, "Put a new variable before this one."),
        Param::new("backup", Type::Bool, "Keep a copy of the table that was there.").default("false"),
    ],
    rules: &[Rule::MutuallyExclusive(&["insertafter", "insertbefore"])],
    returns: &[
        ("jobs", "Names of the jobs in the table."),
        ("envs", "Names of the variables in the table."),
        ("cron_file", "The file, if one was given."),
        ("backup_file", "The copy, if one was made."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

/// Manages variables of cron's tables.
pub const CRONVAR: Module = Module {
    name: "community.general.cronvar",
    summary: "Manage variables at the top of cron's tables",
    description: "Like `cron` with `env`, but values stand without quotation marks unless they need them.",
    example: "- community.general.cronvar:\n    name: MAILTO\n    value: admin@example.com\n    user: root\n",
    scope: Scope::Host,
    params: &[
        Param::new("name", Type::Str, "Name of the variable.").required(),
        Param::new("value", Type::Str, "Its value."),
        Param::new("state", Type::Str, "Whether it should be there.")
            .choices(&["absent", "present"])
            .default("present"),
        Param::new("user", Type::Str, "Whose table."),
        Param::new(
            "cron_file",
            Type::Path,
            "A file instead of a user's table: absolute, or below `/etc/cron.d`.",
        ),
        Param::new("insertafter", Type::Str, "Put a new variable after this one."),
        Param::new("insertbefore", Type::Str, "Put a new variable before this one."),
        Param::new("backup", Type::Bool, "Keep a copy of the table that was there.").default("false"),
    ],
    rules: &[Rule::MutuallyExclusive(&["insertafter", "insertbefore"])],
    returns: &[("vars", "Names of the variables in the table."), ("state", "Whether it should be there.")],
    run: |args, system| run_variable(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    name: String,
    state: String,
    #[serde(alias = "value")]
    job: Option<String>,
    user: Option<String>,
    cron_file: Option<String>,
    minute: String,
    hour: String,
    day: String,
    month: String,
    weekday: String,
    special_time: Option<String>,
    disabled: bool,
    env: bool,
    insertafter: Option<String>,
    insertbefore: Option<String>,
    backup: bool,
}

impl Args {
    fn present(&self) -> bool {
        self.state == "present"
    }
}

const MARK: &str = "#Ansible: ";

/// Where a table is.
enum Place {
    File(PathBuf),
    /// Of this user, or of the one that runs this.
    User(Option<String>),
}

struct Table {
    place: Place,
    text: String,
    lines: Vec<String>,
}

impl Table {
    fn read(args: &Args, system: &mut dyn System) -> Result<Table, ModuleError> {
        if let Some(file) = &args.cron_file {
            let path = Path::new("/etc/cron.d").join(args::expand_path(file, system)?);
            let text = host::read_text(&path, system).unwrap_or_default();
            let lines = text.lines().map(String::from).collect();
            return Ok(Table { place: Place::File(path), text, lines });
        }
        let own = system.whoami()?.name;
        let user = args.user.clone().filter(|user| *user != own);
        let mut argv = vec![host::need_program("crontab", system)?];
        argv.extend(user.iter().flat_map(|user| ["-u".to_string(), user.clone()]));
        argv.push("-l".into());
        let output = host::ask(argv, system)?;
        // 1 is said when there is no table yet; what is missing in a dry run may come with a package.
        if ![0, 1].contains(&output.code) && system.uncertain().is_none() {
            return Err(ModuleError::new("Unable to read crontab").with("stderr", output.stderr_text()));
        }
        let said = if output.success() { output.stdout_text() } else { String::new() };
        let is_header = |line: &str| {
            line.starts_with("# DO NOT EDIT THIS FILE - edit the master and reinstall.")
                || (line.starts_with("# (/tmp/") && line.contains("installed on"))
                || (line.starts_with("# (") && line.contains("version"))
        };
        let kept: Vec<&str> = said
            .split_inclusive('\n')
            .enumerate()
            .filter(|(index, line)| *index > 2 || !is_header(line))
            .map(|(_, line)| line)
            .collect();
        let text = kept.concat();
        let lines = text.lines().map(String::from).collect();
        Ok(Table { place: Place::User(user), text, lines })
    }

    fn render(&self) -> String {
        let text = self.lines.join("\n");
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() { String::new() } else { format!("{text}\n") }
    }

    fn is_empty(&self) -> bool {
        self.lines.iter().all(|line| line.trim().is_empty())
    }

    fn id(&self) -> String {
        match &self.place {
            Place::File(path) => path.to_string_lossy().into_owned(),
            Place::User(Some(user)) => format!("crontab for user \"{user}\""),
            Place::User(None) => "crontab".into(),
        }
    }

    /// Line number of the variable's declaration.
    fn variable(&self, name: &str) -> Option<usize> {
        self.lines
            .iter()
            .position(|line| line.strip_prefix(name).is_some_and(|rest| rest.trim_start().starts_with('=')))
    }

    fn names(&self, strip: fn(&str) -> Option<&str>) -> Vec<String> {
        self.lines.iter().filter_map(|line| strip(line)).map(String::from).collect()
    }

    fn variables(&self) -> Vec<String> {
        self.names(|line| {
            let (name, _) = line.split_once('=')?;
            (!name.is_empty() && !name.contains(char::is_whitespace) && !name.starts_with('#'))
                .then_some(name)
        })
    }

    /// Where the job with this name stands: the line of its name.
    fn job(&self, name: &str) -> Option<usize> {
        let mut index = 0;
        while index + 1 < self.lines.len() {
            match self.lines[index].strip_prefix(MARK) {
                Some(found) if found == name => return Some(index),
                Some(_) => index += 2,
                None => index += 1,
            }
        }
        None
    }

    fn put_variable(&mut self, args: &Args, declaration: String) -> Result<(), ModuleError> {
        if let Some(at) = self.variable(&args.name) {
            self.lines[at] = declaration;
            return Ok(());
        }
        let at = match (&args.insertafter, &args.insertbefore) {
            (None, None) => 0,
            (Some(other), _) | (_, Some(other)) => {
                let found = self
                    .variable(other)
                    .ok_or_else(|| ModuleError::new(format!("Variable named '{other}' not found.")))?;
                found + usize::from(args.insertafter.is_some())
            }
        };
        self.lines.insert(at, declaration);
        Ok(())
    }

    fn put_job(&mut self, name: &str, line: String) {
        if let Some(at) = self.job(name) {
            self.lines[at + 1] = line;
        } else if let Some(at) = self.lines.iter().position(|known| *known == line) {
            // A line that was there without a name gets one.
            let named = at > 0 && self.lines[at - 1].starts_with(MARK);
            if named && self.lines[at - 1] == format!("{MARK}None") {
                self.lines[at - 1] = format!("{MARK}{name}");
            } else if named {
                self.lines.extend([format!("{MARK}{name}"), line]);
            } else {
                self.lines.insert(at, format!("{MARK}{name}"));
            }
        } else {
            self.lines.extend([format!("{MARK}{name}"), line]);
        }
    }

    /// Puts the table in place if it differs; returns where a copy of the old one is.
    fn write(&self, backup: bool, system: &mut dyn System) -> Result<Option<String>, ModuleError> {
        let text = self.render();
        if text == self.text {
            return Ok(None);
        }
        match &self.place {
            Place::File(path) => {
                let there = system.stat_follow(path)?.is_some();
                let copy = if backup && there { Some(files::back_up(system, path)?) } else { None };
                host::write_text(path, &text, 0o644, system)?;
                Ok(copy)
            }
            Place::User(user) => {
                let copy = if backup && !self.text.is_empty() {
                    let path = format!("/var/backups/crontab.{}", files::now());
                    let content = Content::Bytes(self.text.clone().into_bytes());
                    let attributes = Attributes { mode: Some(0o600), ..Attributes::default() };
                    system.write(Path::new(&path), &content, &attributes, WriteOptions::default())?;
                    Some(path)
                } else {
                    None
                };
                self.install(user.as_deref(), text, system)?;
                Ok(copy)
            }
        }
    }

    fn install(&self, user: Option<&str>, text: String, system: &mut dyn System) -> Result<(), ModuleError> {
        let mut argv = vec![host::need_program("crontab", system)?];
        argv.extend(user.iter().flat_map(|user| ["-u".to_string(), (*user).to_string()]));
        argv.push("-".into());
        let undo = Command { stdin: Some(self.text.clone().into_bytes()), ..Command::new(argv.clone()) };
        let command = Command { stdin: Some(text.clone().into_bytes()), ..Command::new(argv) };
        let intent = Intent {
            kind: "crontab",
            id: self.id(),
            before: map_of([("content", self.text.as_str())]).into(),
            after: map_of([("content", text)]).into(),
            undo: Some(undo),
            ..Intent::default()
        };
        match system.change(&command, intent)? {
            Done::Made(output) if !output.success() => {
                Err(ModuleError::command("Failed to install new cronfile", &command, &output))
            }
            _ => Ok(()),
        }
    }
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let mut warnings = Vec::new();
    if let Some(file) = &args.cron_file {
        if file == "/etc/crontab" {
            return Err(ModuleError::new("Will not manage /etc/crontab via cron_file, see documentation."));
        }
        let name = file.rsplit('/').next().unwrap_or_default();
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c)) {
            warnings.push(format!(
                "Filename portion of cron_file (\"{name}\") should consist solely of upper- and lower-case letters, digits, underscores, and hyphens"
            ));
        }
    }
    validate(args)?;
    let mut table = Table::read(args, system)?;
    let id = format!("{}: {}", table.id(), args.name);
    let mut state = Value::Null;
    if args.env {
        if args.present() {
            let declaration = format!("{}=\"{}\"", args.name, args.job.as_deref().unwrap_or_default());
            state = map_of([("line", declaration.as_str())]).into();
            table.put_variable(args, declaration)?;
        } else if let Some(at) = table.variable(&args.name) {
            table.lines.remove(at);
        }
    } else if args.present() {
        if args.job.as_deref().unwrap_or_default().trim_matches(['\r', '\n']).contains(['\r', '\n']) {
            warnings.push("Job should not contain line breaks".into());
        }
        let line = line(args, &table);
        state = map_of([("line", line.as_str())]).into();
        table.put_job(&args.name, line);
    } else {
        while let Some(at) = table.job(&args.name) {
            table.lines.drain(at..(at + 2).min(table.lines.len()));
        }
    }
    system.applied(Applied { kind: "cron".into(), id, state });
    let mut outcome = Outcome { warnings, ..Outcome::default() };
    if let Some(file) = &args.cron_file {
        outcome = outcome.set("cron_file", file.as_str());
    }
    if let Place::File(path) = &table.place
        && !args.present()
        && !args.env
        && table.is_empty()
        && !table.text.is_empty()
    {
        system.remove(&path.clone())?;
        return Ok(outcome.set("state", args.state.as_str()));
    }
    let backup = table.write(args.backup, system)?;
    if let Some(backup) = backup {
        outcome = outcome.set("backup_file", backup);
    }
    let jobs = table.names(|line| line.strip_prefix(MARK));
    Ok(outcome.set("jobs", jobs).set("envs", table.variables()))
}

fn validate(args: &Args) -> Result<(), ModuleError> {
    let times = [&args.minute, &args.hour, &args.day, &args.month, &args.weekday];
    let fail = |message: &str| Err(ModuleError::new(message));
    if args.special_time.is_some() && times.iter().any(|time| *time != "*") {
        return fail("You cannot combine special_time with any of the time or day/date parameters.");
    }
    if args.env && args.name.contains(' ') {
        return fail("Invalid name for environment variable");
    }
    if !args.present() {
        return Ok(());
    }
    if args.cron_file.is_some() && args.user.is_none() {
        return fail("To use cron_file=... parameter you must specify user=... as well");
    }
    if args.job.is_none() {
        return fail("You must specify 'job' to install a new cron job or variable");
    }
    if (args.insertafter.is_some() || args.insertbefore.is_some()) && !args.env {
        return fail("Insertafter and insertbefore parameters are valid only with env=yes");
    }
    Ok(())
}

fn line(args: &Args, table: &Table) -> String {
    let mut words: Vec<&str> = Vec::new();
    let special = args.special_time.as_ref().map(|name| format!("@{name}"));
    match &special {
        Some(name) => words.push(name),
        None => words.extend([
            args.minute.as_str(),
            args.hour.as_str(),
            args.day.as_str(),
            args.month.as_str(),
            args.weekday.as_str(),
        ]),
    }
    if let (Place::File(_), Some(user)) = (&table.place, &args.user) {
        words.push(user);
    }
    words.push(args.job.as_deref().unwrap_or_default().trim_matches(['\r', '\n']));
    format!("{}{}", if args.disabled { "#" } else { "" }, words.join(" "))
}

/// The entry as it stands in its table: `TABLE: NAME`.
pub(super) fn observe(id: &str, left: &Value, system: &mut dyn System) -> Result<Value, ModuleError> {
    let Some((place, name)) = id.split_once(": ") else { return Ok(Value::Null) };
    let mut args = Args { name: name.to_string(), ..Args::default() };
    if place.starts_with('/') {
        args.cron_file = Some(place.to_string());
    } else if let Some(user) = place.strip_prefix("crontab for user \"") {
        args.user = Some(user.trim_end_matches('"').to_string());
    }
    let table = Table::read(&args, system)?;
    let variable = table.variable(name).map(|at| table.lines[at].clone());
    if let Some(left) = left.get("value") {
        // A variable on its own: quotes are its spelling.
        let bare = |text: &str| text.trim().trim_matches(['"', '\'']).to_string();
        let now = variable.as_deref().and_then(|line| line.split_once('=')).map(|(_, value)| value.trim());
        return Ok(now.map_or(Value::Null, |now| {
            let same = bare(now) == bare(&left.to_text());
            map_of([("value", if same { left.clone() } else { now.into() })]).into()
        }));
    }
    let job = table.job(name).and_then(|at| table.lines.get(at + 1)).cloned();
    let is_variable = left
        .get("line")
        .and_then(Value::as_str)
        .is_some_and(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with("=\"")));
    let line = if is_variable { variable } else { job };
    Ok(line.map_or(Value::Null, |line| map_of([("line", line)]).into()))
}

fn run_variable(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    if args.present() && args.job.is_none() {
        return Err(ModuleError::new("You must specify 'value' to insert a new cron variable"));
    }
    let mut table = Table::read(args, system)?;
    let mut state = Value::Null;
    if args.present() {
        let value = args.job.clone().unwrap_or_default();
        let quoted = if value.is_empty() || value.starts_with(' ') || value.ends_with(' ') {
            format!("\"{value}\"")
        } else {
            value
        };
        let known = table
            .variable(&args.name)
            .and_then(|at| table.lines[at].split_once('='))
            .map(|(_, value)| value.trim().to_string());
        state = map_of([("value", quoted.as_str())]).into();
        let bare = |text: &str| text.trim_matches(['"', '\'']).to_string();
        if known.as_deref().map(bare) != Some(bare(&quoted)) {
            table.put_variable(args, format!("{} = {quoted}", args.name))?;
        }
    } else if let Some(at) = table.variable(&args.name) {
        table.lines.remove(at);
    }
    let id = format!("{}: {}", table.id(), args.name);
    system.applied(Applied { kind: "cron".into(), id, state });
    let mut outcome = Outcome::default().set("state", args.state.as_str());
    if let Place::File(path) = &table.place
        && !args.present()
        && table.is_empty()
        && !table.text.is_empty()
    {
        system.remove(&path.clone())?;
    } else if let Some(backup) = table.write(args.backup, system)? {
        outcome = outcome.set("backup_file", backup);
    }
    let names: Vec<String> = table
        .lines
        .iter()
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name.trim().to_string())
        .filter(|name| !name.starts_with('#') && !name.contains(char::is_whitespace))
        .collect();
    Ok(outcome.set("vars", names))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::contract;
    use crate::system::Output;
    use crate::system::fake::Fake;

    #[test]
    fn files_of_jobs() {
        let job = "#Ansible: a\n* 3 * * * root /bin/true\n";
        let other = "#Ansible: b\n@daily root /bin/b\n";
        let table: &[(Option<&str>, &str, Option<&str>)] = &[
            (None, r#""name":"a","hour":"3","job":"/bin/true","user":"root""#, Some(job)),
            (Some(job), r#""name":"a","hour":"3","job":"/bin/true","user":"root""#, Some(job)),
            (
                Some(job),
                r#""name":"a","hour":"4","job":"/bin/true","user":"root","disabled":true"#,
                Some("#Ansible: a\n#* 4 * * * root /bin/true\n"),
            ),
            (
                Some(job),
                r#""name":"b","special_time":"daily","job":"/bin/b","user":"root""#,
                Some("#Ansible: a\n* 3 * * * root /bin/true\n#Ansible: b\n@daily root /bin/b\n"),
            ),
            (
                Some("* 3 * * * root /bin/true\n"),
                r#""name":"a","hour":"3","job":"/bin/true","user":"root""#,
                Some(job),
            ),
            (Some(job), r#""name":"a","state":"absent""#, None),
            (
                Some("X=1\n#Ansible: a\n* 3 * * * root /bin/true\n"),
                r#""name":"a","state":"absent""#,
                Some("X=1\n"),
            ),
            (
                Some(other),
                r#""name":"P","env":true,"job":"/x","user":"root""#,
                Some("P=\"/x\"\n#Ansible: b\n@daily root /bin/b\n"),
            ),
            (
                Some("P=\"/y\"\nQ=\"1\"\n"),
                r#""name":"P","env":true,"job":"/x","user":"root""#,
                Some("P=\"/x\"\nQ=\"1\"\n"),
            ),
            (
                Some("P=\"/y\"\n"),
                r#""name":"Q","env":true,"job":"2","user":"root","insertafter":"P""#,
                Some("P=\"/y\"\nQ=\"2\"\n"),
            ),
        ];
        for (before, given, expected) in table {
            let start: Vec<String> = before.iter().map(|text| format!("f tab 644 {text}")).collect();
            let start: Vec<&str> = start.iter().map(String::as_str).collect();
            let arguments = format!("{{\"cron_file\":\"@/tab\",{given}}}");
            let verdict = contract(&MODULE, &start, &arguments);
            assert_eq!(verdict.error, None, "{arguments}");
            let end: Vec<String> = expected.iter().map(|text| format!("f tab 644 {text}")).collect();
            assert_eq!(verdict.tree, end, "{arguments}");
        }
    }

    #[test]
    fn tables_of_users() {
        let mut fake = Fake::new()
            .with_program("/usr/bin/crontab")
            .with_command(
                &["/usr/bin/crontab", "-u", "nobody", "-l"],
                Output::ok("# DO NOT EDIT THIS FILE - edit the master and reinstall.\n0 1 * * * x"),
            )
            .with_behaviour(&["/usr/bin/crontab", "-u", "nobody", "-"], |fake, command| {
                fake.put("/tab", command.stdin.clone().unwrap_or_default());
                Output::ok("")
            });
        let given = map_of([("name", "n"), ("job", "y"), ("user", "nobody"), ("special_time", "hourly")]);
        let args = args::check(&MODULE, &given, &|_| true).expect("valid");
        (MODULE.run)(args, &mut fake).expect("it works");
        assert_eq!(fake.text("/tab").as_deref(), Some("0 1 * * * x\n#Ansible: n\n@hourly y\n"));
        assert_eq!(fake.changes().len(), 1);
    }
}
