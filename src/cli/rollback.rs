//! `setpoint rollback`: undoes a run, from the prior states that its hosts keep.

use clap::Args;

use super::exit::Exit;
use super::failure::Failure;
use super::options::{self, Flags};
use super::run::{self, Prepared};
use super::{Console, secrets, state};
use crate::engine::RunOptions;
use crate::state::{Run, RunKind, Store};
use crate::value::Value;

/// Undo a run
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Rollback {
    /// The run: its name or the beginning of it, `last`, or `last~N` for the N-th before
    #[arg(value_name = "RUN")]
    pub run: String,

    #[command(flatten)]
    pub inventory: options::Inventory,
    #[command(flatten)]
    pub running: options::Running,
    /// Also overwrite what was changed since, and go on although records are damaged
    #[arg(long, help_heading = "Run")]
    pub force: bool,
    /// Also take back what the run did as this user; may be repeated (root and the login user are always asked)
    #[arg(long = "as", value_name = "USER", help_heading = "Run")]
    pub users: Vec<String>,

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
  setpoint rollback last --check         what it would take to undo the last run
  setpoint rollback last --limit web1    undo it on one host
  setpoint rollback 1766325000.4711 -i inventory/ --limit web   a run that this machine does not know

Hosts keep what was there before their last 20 runs. What somebody changed since is left alone without --force, and
then the exit code is 2. A rollback is a run of its own and can itself be rolled back.

Exit codes: 0 all is as it was, 1 no such run, 2 something was left as it is, 4 a host could not be reached.";

/// What is to be undone.
#[derive(Debug)]
pub(super) struct Undo {
    /// Name of the run.
    pub(super) run: String,
    /// Its hosts, if they are known.
    pub(super) hosts: Option<Vec<String>>,
    /// Also what was changed since.
    pub(super) force: bool,
    /// Users beside the one who logs in and root.
    pub(super) users: Vec<String>,
}

/// Carries out the subcommand.
///
/// # Errors
/// There is no such run, or nothing can be run.
pub fn run(args: &Rollback, console: &mut Console) -> Result<Exit, Failure> {
    let settings = console.settings(&flags(args))?;
    let known = match state::open(&settings, console) {
        Ok(mut store) => find(&mut store, &args.run),
        Err(failure) => Err(failure),
    };
    let (name, hosts, sources) = match known {
        Ok((run, hosts)) => {
            let given = run.new.options.get("inventory").and_then(Value::as_list).unwrap_or_default();
            let sources = given.iter().map(|source| from(&run.new.directory, &source.to_text())).collect();
            (run.new.id, Some(hosts), sources)
        }
        // A run of another controller, whose name somebody has.
        Err(_) if crate::system::prior::is_name(&args.run) && args.run.contains('.') => {
            (args.run.clone(), None, Vec::new())
        }
        Err(failure) => return Err(failure),
    };
    if hosts.as_ref().is_some_and(Vec::is_empty) {
        return Err(Failure::error(format!("run {name} changed nothing on any host")));
    }
    let vault = secrets::vault(&args.vault, &settings)?;
    let inventory = match args.inventory.inventory.is_empty() && !sources.is_empty() {
        true => sources,
        false => run::inventory(&args.inventory.inventory, &settings),
    };
    let options = RunOptions {
        inventory,
        limit: args.inventory.limit.clone(),
        check: args.running.check,
        ..RunOptions::default()
    };
    let mut prepared: Prepared = run::complete(options, settings, vault, false)?;
    prepared.options.diff |= args.running.diff;
    let undo = Undo { run: name, hosts, force: args.force, users: args.users.clone() };
    super::bridge::rollback(prepared, &undo, console, args.output.detailed_exitcode)
}

/// The run, and its hosts. `last` is the last one that could have changed anything.
fn find(store: &mut Store, word: &str) -> Result<(Run, Vec<String>), Failure> {
    let changing = |run: &Run| [RunKind::Run, RunKind::Exec, RunKind::Fix].contains(&run.new.kind);
    let back = match word.strip_prefix("last") {
        Some("") => Some(0),
        Some(rest) => rest.strip_prefix('~').and_then(|number| number.parse::<usize>().ok()),
        None => None,
    };
    let run = match back {
        Some(back) => {
            let runs = store.runs(1000, None)?;
            runs.into_iter().filter(|run| changing(run)).nth(back).ok_or_else(|| {
                Failure::error(format!("there is no run `{word}`; `setpoint history` lists them"))
            })?
        }
        None => store.find_run(word)?,
    };
    if run.new.kind == RunKind::Check {
        return Err(Failure::error(format!("run {} was a dry run: it changed nothing", run.new.id)));
    }
    let mut hosts: Vec<String> = store
        .run_hosts(&run.new.id)?
        .into_iter()
        .filter(|host| host.stats.changed + host.stats.failed + host.stats.unreachable > 0)
        .map(|host| host.host)
        .collect();
    if hosts.is_empty() {
        // An interrupted run has no recap.
        hosts = store.prior(&run.new.id, None)?.into_iter().map(|prior| prior.host).collect();
        hosts.sort_unstable();
        hosts.dedup();
    }
    Ok((run, hosts))
}

/// An inventory source as it was meant in the run's directory.
fn from(directory: &str, source: &str) -> String {
    let path = std::path::Path::new(directory).join(source);
    if source.contains(',') || !path.exists() {
        source.to_string()
    } else {
        path.to_string_lossy().into_owned()
    }
}

fn flags(args: &Rollback) -> Flags {
    let mut flags = Flags::default();
    args.connection.flags(&mut flags);
    args.become_.flags(&mut flags);
    if args.output.output.is_some() {
        args.output.flags(&mut flags);
    } else if !args.running.diff {
        flags.value("DEFAULT_STDOUT_CALLBACK", Some("rollback"), "rollback");
    }
    flags.value("DEFAULT_FORKS", args.running.forks, "--forks").value(
        "DEFAULT_VERBOSITY",
        run::verbosity(args.verbosity.verbose),
        "--verbose",
    );
    flags
}
