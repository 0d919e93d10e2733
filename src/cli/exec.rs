//! `setpoint exec`: one task on some hosts, with the options of ansible.

use std::path::PathBuf;

use clap::Args;

use super::exit::Exit;
use super::failure::Failure;
use super::options::{self, Flags};
use super::run::{self, Prepared};
use super::{Console, extra_vars, secrets};
use crate::engine::RunOptions;
use crate::engine::options::AdHoc;

/// Run one module on hosts, without a playbook
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Exec {
    /// Which hosts: a pattern such as web*, db:&prod, all:!old
    #[arg(value_name = "PATTERN")]
    pub pattern: String,
    /// The module
    #[arg(short = 'm', long, value_name = "MODULE")]
    pub module_name: Option<String>,
    /// Its arguments: key=value, free text for command-like modules, or JSON
    #[arg(short = 'a', long = "args", value_name = "ARGS", allow_hyphen_values = true)]
    pub module_args: Option<String>,

    #[command(flatten)]
    pub inventory: options::Inventory,
    #[command(flatten)]
    pub extra_vars: options::ExtraVars,
    #[command(flatten)]
    pub running: options::Running,

    /// Run detached, and fail after this many seconds
    #[arg(short = 'B', long, value_name = "SECONDS", help_heading = "Run")]
    pub background: Option<u64>,
    /// With -B: seconds between looks at it; 0: don't wait for it
    #[arg(short = 'P', long, value_name = "SECONDS", help_heading = "Run")]
    pub poll: Option<u64>,
    /// Fail the task after this many seconds
    #[arg(long, value_name = "SECONDS", help_heading = "Run")]
    pub task_timeout: Option<u64>,
    /// Directory that stands for a playbook's: group_vars, host_vars, roles beside it count
    #[arg(long, value_name = "DIRECTORY", help_heading = "Run")]
    pub playbook_dir: Option<PathBuf>,
    /// List the hosts; run nothing
    #[arg(long, help_heading = "Look, don't run")]
    pub list_hosts: bool,
    /// One line a host
    #[arg(short = 'o', long, help_heading = "Output")]
    pub one_line: bool,
    /// Write each host's result to a file in this directory
    #[arg(short = 't', long, value_name = "DIRECTORY", help_heading = "Output")]
    pub tree: Option<PathBuf>,

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
  setpoint exec all -i inventory/ -m ping                       which hosts can be reached?
  setpoint exec web -i inventory/ -a 'uptime'                   run a command (the default module)
  setpoint exec web -i inventory/ -m copy -a 'src=motd dest=/etc/motd' -b -C -D
  setpoint exec db1, -m setup -a 'filter=ansible_mem*'          facts of a host that is in no inventory";

/// Modules that do nothing without arguments.
const NEED_ARGUMENTS: &[&str] = &["command", "shell", "raw", "script"];

/// Carries out the subcommand.
///
/// # Errors
/// Why nothing was run.
pub fn run(args: &Exec, console: &mut Console) -> Result<Exit, Failure> {
    let (prepared, ad_hoc) = prepare(args, console)?;
    if args.list_hosts {
        return super::look::list_hosts(&prepared, &ad_hoc.pattern, console);
    }
    super::bridge::exec(prepared, &ad_hoc, console, args.output.detailed_exitcode)
}

/// Settings, passwords, options and the task of a run.
///
/// # Errors
/// A value does not fit, a password can't be had.
pub fn prepare(args: &Exec, console: &mut Console) -> Result<(Prepared, AdHoc), Failure> {
    let settings = console.settings(&flags(args))?;
    let module = args.module_name.clone().unwrap_or_else(|| settings.module_name.clone());
    let module_args = args.module_args.clone().or_else(|| settings.module_args.clone()).unwrap_or_default();
    let short = module.rsplit('.').next().unwrap_or(&module);
    if NEED_ARGUMENTS.contains(&short) && module_args.trim().is_empty() && !args.list_hosts {
        let mut message = format!("the module {module} needs arguments: give them with -a");
        if args.pattern.ends_with(".yml") || args.pattern.ends_with(".yaml") {
            message.push_str(" (did you mean `setpoint run`?)");
        }
        return Err(Failure::options(message));
    }
    let vault = secrets::vault(&args.vault, &settings)?;
    let extra_vars = extra_vars::parse(&args.extra_vars.extra_vars, &vault)
        .map_err(|diagnostics| Failure { exit: Exit::Options, diagnostics })?;
    let options = RunOptions {
        inventory: run::inventory(&args.inventory.inventory, &settings),
        limit: args.inventory.limit.clone(),
        check: args.running.check,
        extra_vars,
        flush_cache: args.inventory.flush_cache,
        list_hosts: args.list_hosts,
        ..RunOptions::default()
    };
    let mut prepared = run::complete(options, settings, vault, args.list_hosts)?;
    prepared.options.diff |= args.running.diff;
    let ad_hoc = AdHoc {
        pattern: args.pattern.clone(),
        module,
        args: module_args,
        background: args.background,
        poll: args.poll,
        task_timeout: args.task_timeout,
    };
    Ok((prepared, ad_hoc))
}

fn flags(args: &Exec) -> Flags {
    let mut flags = Flags::default();
    args.connection.flags(&mut flags);
    args.become_.flags(&mut flags);
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    if args.output.output.is_some() {
        args.output.flags(&mut flags);
    } else {
        let layout = if args.one_line { "oneline" } else { "minimal" };
        flags.value("DEFAULT_STDOUT_CALLBACK", Some(layout), "exec");
    }
    if args.tree.is_some() {
        flags.value("CALLBACKS_ENABLED", Some("tree"), "--tree");
    }
    flags
        .value("CALLBACK_TREE_DIR", path(&args.tree), "--tree")
        .value("DEFAULT_FORKS", args.running.forks, "--forks")
        .value("PLAYBOOK_DIR", path(&args.playbook_dir), "--playbook-dir")
        .value("DEFAULT_VERBOSITY", run::verbosity(args.verbosity.verbose), "--verbose");
    flags
}
