//! `setpoint run`: playbooks, with the options of ansible-playbook.

use std::io::IsTerminal;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use clap::Args;

use super::exit::Exit;
use super::failure::Failure;
use super::options::{self, Flags};
use super::{Console, extra_vars, secrets};
use crate::config::Settings;
use crate::engine::RunOptions;
use crate::vault::Vault;

/// Run playbooks
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Run {
    /// The playbooks, run in order
    #[arg(required = true, value_name = "PLAYBOOK")]
    pub playbooks: Vec<PathBuf>,

    #[command(flatten)]
    pub inventory: options::Inventory,
    #[command(flatten)]
    pub extra_vars: options::ExtraVars,
    #[command(flatten)]
    pub running: options::Running,

    /// Only run tasks with one of these tags; comma-separated, may be repeated
    #[arg(short, long, value_name = "TAGS", help_heading = "Run")]
    pub tags: Vec<String>,
    /// Run no task with one of these tags; comma-separated, may be repeated
    #[arg(long, value_name = "TAGS", help_heading = "Run")]
    pub skip_tags: Vec<String>,
    /// Begin at the task with this name
    #[arg(long, value_name = "NAME", help_heading = "Run")]
    pub start_at_task: Option<String>,
    /// Ask before each task
    #[arg(long, help_heading = "Run")]
    pub step: bool,
    /// Run notified handlers also after a failure
    #[arg(long, help_heading = "Run")]
    pub force_handlers: bool,
    /// Send at most N tasks ahead to a host (default: as many as its results allow)
    #[arg(long, value_name = "N", help_heading = "Run")]
    pub window: Option<usize>,

    /// Hosts take the run back by themselves unless a new connection confirms it in time, such as 60s
    #[arg(long, value_name = "TIME", value_parser = options::seconds, help_heading = "Run")]
    pub confirm: Option<u64>,
    /// Roll back what this run did on a host that fails, or on its whole batch
    #[arg(long, value_name = "SCOPE", num_args = 0..=1, require_equals = true, default_missing_value = "host", help_heading = "Run")]
    pub rollback_on_failure: Option<options::RollbackOnFailure>,

    /// Check the playbooks and everything that they refer to; touch no host
    #[arg(long, help_heading = "Look, don't run")]
    pub syntax_check: bool,
    /// List the hosts of each play
    #[arg(long, help_heading = "Look, don't run")]
    pub list_hosts: bool,
    /// List the tasks of each play
    #[arg(long, help_heading = "Look, don't run")]
    pub list_tasks: bool,
    /// List the tags of each play
    #[arg(long, help_heading = "Look, don't run")]
    pub list_tags: bool,

    #[command(flatten)]
    pub connection: options::Connection,
    #[command(flatten)]
    pub become_: options::Become,
    #[command(flatten)]
    pub vault: options::VaultPasswords,
    #[command(flatten)]
    pub output: options::Output,
    #[command(flatten)]
    pub verbosity: options::Verbosity,
}

const EXAMPLES: &str = "\
Examples:
  setpoint run site.yml -i inventory/                  apply a site to its hosts
  setpoint run site.yml -i inventory/ --check --diff   show what that would change; change nothing
  setpoint run site.yml -i web1,web2, -l web1 -b -K    two hosts, one of them, as root, ask for sudo's password
  setpoint run site.yml -t nginx -e version=1.27       only tasks tagged nginx, with a variable
  setpoint run sshd.yml --confirm 60s                  a mistake that cuts you off is taken back by the host
  setpoint run site.yml --list-tasks                   what would run, in order
  setpoint run site.yml --output json | jq .event      every event as a line of JSON

Exit codes: 0 success, 1 nothing ran, 2 a host failed (or wrong usage), 4 a host could not be reached (or a
playbook can't be parsed), 5 an option can't be used, 99 interrupted; with --detailed-exitcode 80 something was
changed, 81 something would be.";

/// All that the engine needs for a run.
#[derive(Debug)]
pub struct Prepared {
    /// What to do.
    pub options: RunOptions,
    /// The settings, command line included.
    pub settings: Settings,
    /// The vault passwords.
    pub vault: Vault,
}

/// Carries out the subcommand.
///
/// # Errors
/// Why nothing was run.
pub fn run(args: &Run, console: &mut Console) -> Result<Exit, Failure> {
    let prepared = prepare(args, console)?;
    let options = &prepared.options;
    if options.syntax_check || options.list_hosts || options.list_tasks || options.list_tags {
        return super::look::look(&prepared, console);
    }
    super::bridge::run(prepared, console, args.output.detailed_exitcode)
}

/// Settings, passwords and options of a run.
///
/// # Errors
/// A file is missing, a value does not fit, a password can't be had.
pub fn prepare(args: &Run, console: &mut Console) -> Result<Prepared, Failure> {
    if args.step && !std::io::stdin().is_terminal() {
        return Err(Failure::options("--step asks before each task, and needs a terminal to do so"));
    }
    for playbook in &args.playbooks {
        if !playbook.exists() {
            return Err(Failure::error(format!("the playbook {} could not be found", playbook.display())));
        }
        let pipe = playbook.metadata().is_ok_and(|data| data.file_type().is_fifo());
        if !(playbook.is_file() || pipe || playbook.to_string_lossy().starts_with("/dev/")) {
            return Err(Failure::error(format!("the playbook {} is not a file", playbook.display())));
        }
    }
    let settings = console.settings(&flags(args))?;
    let vault = secrets::vault(&args.vault, &settings)?;
    let extra_vars = extra_vars::parse(&args.extra_vars.extra_vars, &vault)
        .map_err(|diagnostics| Failure { exit: Exit::Options, diagnostics })?;
    let looking = args.syntax_check || args.list_hosts || args.list_tasks || args.list_tags;
    let options = RunOptions {
        playbooks: args.playbooks.clone(),
        inventory: inventory(&args.inventory.inventory, &settings),
        limit: args.inventory.limit.clone(),
        check: args.running.check,
        diff: args.running.diff,
        tags: words(&args.tags).unwrap_or_else(|| settings.run_tags.clone()),
        skip_tags: words(&args.skip_tags).unwrap_or_else(|| settings.skip_tags.clone()),
        extra_vars,
        start_at_task: args.start_at_task.clone(),
        step: args.step,
        flush_cache: args.inventory.flush_cache,
        syntax_check: args.syntax_check,
        list_hosts: args.list_hosts,
        list_tasks: args.list_tasks,
        list_tags: args.list_tags,
        confirm: args.confirm,
        rollback_on_failure: args.rollback_on_failure.map(Into::into),
        ..RunOptions::default()
    };
    complete(options, settings, vault, looking)
}

/// The options with what the settings (command line included) say; passwords are asked for unless the run only
/// looks at files.
///
/// # Errors
/// A password can't be had.
pub(super) fn complete(
    options: RunOptions,
    settings: Settings,
    vault: Vault,
    looking: bool,
) -> Result<Prepared, Failure> {
    let (connection_password, become_password) =
        if looking { (None, None) } else { secrets::login_passwords(&settings)? };
    let given = |key: &str| settings.is_given(key);
    let options = RunOptions {
        diff: options.diff || settings.diff_always,
        forks: settings.forks,
        force_handlers: settings.force_handlers,
        verbosity: settings.verbosity,
        // What is asked for task by task can't be sent ahead.
        window: if options.step { Some(1) } else { Some(settings.window).filter(|window| *window > 0) },
        remote_user: settings.remote_user.clone(),
        connection: given("DEFAULT_TRANSPORT").then(|| settings.transport.clone()),
        timeout: given("DEFAULT_TIMEOUT").then_some(settings.timeout),
        private_key: settings.private_key_file.clone(),
        ssh_common_args: given("SSH_COMMON_ARGS").then(|| settings.ssh_common_args.clone()),
        ssh_extra_args: given("SSH_EXTRA_ARGS").then(|| settings.ssh_extra_args.clone()),
        become_: given("DEFAULT_BECOME").then_some(settings.become_),
        become_user: given("DEFAULT_BECOME_USER").then(|| settings.become_user.clone()),
        become_method: given("DEFAULT_BECOME_METHOD").then(|| settings.become_method.clone()),
        become_password,
        connection_password,
        ..options
    };
    Ok(Prepared { options, settings, vault })
}

fn flags(args: &Run) -> Flags {
    let mut flags = Flags::default();
    args.connection.flags(&mut flags);
    args.become_.flags(&mut flags);
    args.output.flags(&mut flags);
    flags
        .value("DEFAULT_FORKS", args.running.forks, "--forks")
        .switch("DEFAULT_FORCE_HANDLERS", args.force_handlers, "--force-handlers")
        .value("SETPOINT_WINDOW", args.window, "--window")
        .value("DEFAULT_VERBOSITY", verbosity(args.verbosity.verbose), "--verbose");
    if args.output.profile || args.output.profile_trace.is_some() {
        flags.value("CALLBACKS_ENABLED", Some("profile"), "--profile");
    }
    let trace = args.output.profile_trace.as_ref().map(|path| path.display());
    flags.value("SETPOINT_PROFILE_TRACE", trace, "--profile-trace");
    flags
}

/// `-v` given n times, unless it was not given.
pub(super) fn verbosity(count: u8) -> Option<u8> {
    (count > 0).then_some(count)
}

/// The inventory sources of the command line, or else those of the settings.
pub(super) fn inventory(given: &[String], settings: &Settings) -> Vec<String> {
    if given.is_empty() { settings.inventory.clone() } else { given.to_vec() }
}

/// Comma-separated words of all occurrences; `None` if the option was not given.
fn words(options: &[String]) -> Option<Vec<String>> {
    (!options.is_empty()).then(|| {
        options
            .iter()
            .flat_map(|option| option.split(','))
            .map(|word| word.trim().to_owned())
            .filter(|word| !word.is_empty())
            .collect()
    })
}
