//! `setpoint drift`: one file a subcommand.

use clap::{Args, Subcommand};

use super::Console;
use super::exit::Exit;
use super::failure::Failure;

mod audit;
mod notify;
mod report;
mod schedule;
mod watch;

/// Find what moved on hosts since it was applied, and repair, accept, silence or report it
#[derive(Args, Clone, Debug)]
pub struct Drift {
    #[command(subcommand)]
    pub action: Action,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Action {
    Audit(audit::Audit),
    Fix(audit::Fix),
    Accept(audit::Accept),
    Ack(audit::Acknowledge),
    Adopt(audit::Adopt),
    Report(report::Report),
    Schedule(schedule::Schedule),
    #[command(hide = true)]
    Scheduled(schedule::Scheduled),
    Watch(watch::Watch),
}

/// Carries out the subcommand.
///
/// # Errors
/// Why nothing was done.
pub fn run(args: &Drift, console: &mut Console) -> Result<Exit, Failure> {
    let outcome = match &args.action {
        Action::Audit(args) => audit::audit(args, console),
        Action::Fix(args) => audit::fix(args, console),
        Action::Accept(args) => audit::accept(args, console),
        Action::Ack(args) => audit::acknowledge(args, console),
        Action::Adopt(args) => audit::adopt(args, console),
        Action::Report(args) => report::run(args, console),
        Action::Schedule(args) => schedule::run(args, console),
        Action::Scheduled(args) => schedule::scheduled(args, console),
        Action::Watch(args) => watch::run(args, console),
    };
    // 4 means unreachable hosts here, and nothing else.
    outcome.map_err(|failure| Failure { exit: Exit::Error, ..failure })
}
