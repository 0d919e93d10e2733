//! The command line: one file a subcommand. Started under the name of one of Ansible's programs (a symbolic
//! link), the program behaves as that one.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Settings, Surroundings};
use crate::diagnostic::Diagnostic;
use crate::report::{self, Fan, Plan, Stream, Streams};

mod bridge;
pub mod completions;
pub mod config;
pub mod demo;
pub mod doc;
pub mod drift;
pub mod exec;
pub mod exit;
pub mod extra_vars;
pub mod failure;
pub mod history;
pub mod inventory;
mod look;
pub mod options;
mod prompter;
pub mod rollback;
pub mod run;
pub mod schema;
pub mod secrets;
mod state;
pub mod vault;

use exit::Exit;
use failure::Failure;
use options::Flags;

/// Agentless configuration management over SSH: runs Ansible's playbooks with nothing on the hosts but sshd
#[derive(Debug, Parser)]
#[command(
    name = "setpoint",
    version,
    propagate_version = true,
    infer_long_args = true,
    max_term_width = 100,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    Run(run::Run),
    Rollback(rollback::Rollback),
    Demo(demo::Demo),
    Exec(exec::Exec),
    History(history::History),
    Drift(drift::Drift),
    Inventory(inventory::Inventory),
    Vault(vault::Vault),
    Doc(doc::Doc),
    Schema(schema::Schema),
    Config(config::Config),
    Completions(completions::Completions),
    Man(completions::Man),
}

/// Names of programs as which this one behaves, with the subcommand that it then is.
const NAMES: &[(&str, &str)] = &[
    ("ansible-playbook", "run"),
    ("ansible", "exec"),
    ("ansible-inventory", "inventory"),
    ("ansible-vault", "vault"),
    ("ansible-doc", "doc"),
    ("ansible-config", "config"),
];

/// The program: reads the command line of the process, does it, and says how it ended.
pub fn main() -> ExitCode {
    let arguments = as_subcommand(std::env::args_os().collect());
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are printed too, and are no failure.
            let failed = error.use_stderr();
            let _ = error.print();
            return if failed { Exit::Failed.into() } else { Exit::Success.into() };
        }
    };
    let mut console = Console::of_process();
    match dispatch(&cli.command, &mut console) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            console.complain(&failure);
            failure.exit.into()
        }
    }
}

fn dispatch(command: &Command, console: &mut Console) -> Result<Exit, Failure> {
    match command {
        Command::Run(args) => run::run(args, console),
        Command::Rollback(args) => rollback::run(args, console),
        Command::Demo(args) => demo::run(args, console),
        Command::Exec(args) => exec::run(args, console),
        Command::History(args) => history::run(args, console),
        Command::Drift(args) => drift::run(args, console),
        Command::Inventory(args) => inventory::run(args, console),
        Command::Vault(args) => vault::run(args, console),
        Command::Doc(args) => doc::run(args, console),
        Command::Schema(args) => schema::run(args, console),
        Command::Config(args) => config::run(args, console),
        Command::Completions(args) => completions::run(args, console),
        Command::Man(args) => completions::man(args, console),
    }
}

/// Inserts the subcommand that the program's name stands for.
fn as_subcommand(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let name = arguments.first().and_then(|name| Path::new(name).file_name()).unwrap_or_default();
    if let Some((_, subcommand)) = NAMES.iter().find(|(known, _)| name == *known) {
        arguments.insert(1, (*subcommand).into());
    }
    arguments
}

/// What a subcommand has around it: the process's environment and its standard streams.
#[derive(Debug)]
pub struct Console {
    /// Environment, working directory, home.
    pub around: Surroundings,
    /// Width of the terminal.
    pub columns: Option<usize>,
}

impl Console {
    /// That of this process.
    pub fn of_process() -> Console {
        Console { around: Surroundings::of_process(), columns: columns() }
    }

    /// The settings with what the command line says over them. Their warnings are shown.
    ///
    /// # Errors
    /// A configuration can't be read or a value does not fit.
    pub fn settings(&mut self, flags: &Flags) -> Result<Settings, Failure> {
        let settings = Settings::load(&self.around, &flags.0)?;
        crate::source::set_duplicate_keys(match settings.duplicate_dict_key.as_str() {
            "error" => crate::source::DuplicateKeys::Refused,
            "ignore" => crate::source::DuplicateKeys::Ignored,
            _ => crate::source::DuplicateKeys::Warned,
        });
        for warning in &settings.warnings {
            self.warn(warning);
        }
        Ok(settings)
    }

    /// The listeners for a run.
    ///
    /// # Errors
    /// There is no such layout.
    pub fn listeners(&self, settings: &Settings, verbosity: u8, check: bool) -> Result<Fan, Failure> {
        let plan = Plan {
            display: settings.display.clone(),
            verbosity,
            check,
            log_path: settings.log_path.clone(),
            trace: settings.profile_trace.clone(),
            clock: std::time::SystemTime::now,
        };
        let unknown = report::unknown_callbacks(&settings.display);
        if !unknown.is_empty() {
            self.warn(&format!(
                "these callbacks are not supported and have no effect: {}",
                unknown.join(", ")
            ));
        }
        let columns = self.columns;
        let streams = || Streams {
            out: Stream { to: Box::new(io::stdout()), terminal: io::stdout().is_terminal() },
            err: Stream { to: Box::new(io::stderr()), terminal: io::stderr().is_terminal() },
            columns,
        };
        Ok(report::listeners(&plan, &streams)?)
    }

    /// Writes a line to standard error.
    pub fn warn(&self, text: &str) {
        // Nobody may be listening; that is no reason to fail.
        let _ = writeln!(io::stderr(), "[WARNING]: {text}");
    }

    /// Shows a warning or an error that does not end the command.
    pub fn tell(&self, diagnostic: &Diagnostic) {
        let _ = writeln!(io::stderr(), "{}", report::diagnostic_line(diagnostic).trim_end());
    }

    /// Says why a command failed.
    pub fn complain(&self, failure: &Failure) {
        for diagnostic in &failure.diagnostics {
            self.tell(diagnostic);
        }
    }

    /// Writes to standard output.
    ///
    /// # Errors
    /// It can't be written to; a reader that went away is not an error.
    pub fn print(&self, text: &str) -> Result<(), Failure> {
        match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// Columns of the terminal on standard output, or as `COLUMNS` says where there is none.
fn columns() -> Option<usize> {
    if !io::stdout().is_terminal() {
        return None;
    }
    rustix::termios::tcgetwinsize(io::stdout())
        .ok()
        .map(|size| usize::from(size.ws_col))
        .filter(|columns| *columns > 0)
}

/// Shows a long text through the pager on a terminal; plainly elsewhere.
///
/// # Errors
/// Standard output can't be written to.
fn page(text: &str, settings: &Settings, console: &Console) -> Result<(), Failure> {
    if !io::stdout().is_terminal() {
        return console.print(text);
    }
    let words = shlex::split(&settings.pager)
        .filter(|words| !words.is_empty())
        .unwrap_or_else(|| vec!["less".into()]);
    let started = std::process::Command::new(&words[0])
        .args(&words[1..])
        .env("LESS", std::env::var("LESS").unwrap_or_else(|_| "FRX".into()))
        .stdin(std::process::Stdio::piped())
        .spawn();
    let Ok(mut pager) = started else { return console.print(text) };
    if let Some(mut input) = pager.stdin.take() {
        // Whoever leaves the pager early has read enough.
        let _ = input.write_all(text.as_bytes());
    }
    pager.wait()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_name_of_the_program_is_a_subcommand() {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        for (given, expected) in [
            (vec!["/usr/bin/ansible-playbook", "x.yml"], vec!["/usr/bin/ansible-playbook", "run", "x.yml"]),
            (vec!["ansible", "all", "-m", "ping"], vec!["ansible", "exec", "all", "-m", "ping"]),
            (vec!["setpoint", "run", "x.yml"], vec!["setpoint", "run", "x.yml"]),
        ] {
            assert_eq!(as_subcommand(words(&given)), words(&expected));
        }
    }

    /// Every option that ansible-core's programs take, short and long.
    #[test]
    fn every_option_of_the_others_is_there() {
        let common = "-v --verbose -i --inventory --inventory-file -l --limit --flush-cache -e --extra-vars --vault-id \
                      -J --ask-vault-password --ask-vault-pass --vault-password-file --vault-pass-file";
        let runs = "--private-key --key-file -u --user -c --connection -T --timeout --ssh-common-args --sftp-extra-args \
                    --scp-extra-args --ssh-extra-args -k --ask-pass --connection-password-file --conn-pass-file -b \
                    --become --become-method --become-user -K --ask-become-pass --become-password-file \
                    --become-pass-file -C --check -D --diff -f --forks -M --module-path --list-hosts";
        let playbook = "-t --tags --skip-tags --syntax-check --list-tasks --list-tags --step --start-at-task --force-handlers";
        let ad_hoc = "-P --poll -B --background -o --one-line -t --tree --playbook-dir --task-timeout -a --args -m --module-name";
        let inventory = "--playbook-dir --list --host --graph -y --yaml --toml --vars --export --output";
        let doc = "-M --module-path --playbook-dir -t --type -j --json -r --roles-path -e --entry-point -s --snippet \
                   -F --list_files -l --list --metadata-dump --no-fail-on-errors -v --verbose";
        for (name, groups) in [
            ("run", vec![common, runs, playbook]),
            ("exec", vec![common, runs, ad_hoc]),
            ("inventory", vec![common, inventory]),
            ("doc", vec![doc]),
        ] {
            let command = Cli::command();
            let command = command.find_subcommand(name).expect("it is a subcommand");
            let mut known: Vec<String> = Vec::new();
            for arg in command.get_arguments() {
                known.extend(arg.get_short().map(|short| format!("-{short}")));
                known.extend(arg.get_long().map(|long| format!("--{long}")));
                known
                    .extend(arg.get_all_aliases().unwrap_or_default().iter().map(|long| format!("--{long}")));
            }
            for option in groups.iter().flat_map(|group| group.split_whitespace()) {
                assert!(known.iter().any(|word| word == option), "`{name}` has no {option}");
            }
        }
    }
}
