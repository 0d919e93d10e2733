//! `setpoint drift watch`: audits again and again in the foreground, for a container; repairs by policy, within
//! a budget, and with patience where repairing does not help.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;

use super::notify::Notify;
use super::report;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::options::{Flags, seconds};
use crate::cli::{Console, state};
use crate::state::Verdict;

/// Exit codes of `drift audit`.
const IN_SYNC: i32 = 0;
const DRIFT: i32 = 2;
const PENDING: i32 = 3;

/// The time over which the budget counts.
const HOUR: Duration = Duration::from_secs(3600);

/// Audit again and again in the foreground, and repair by policy
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Watch {
    /// What is passed to `setpoint drift audit`: playbooks and options (after `--`)
    #[arg(value_name = "AUDIT ARGUMENT", last = true)]
    pub audit: Vec<String>,
    /// How long to wait between audits
    #[arg(long, value_name = "TIME", value_parser = seconds, default_value = "5m")]
    pub every: u64,
    /// Wait at most so long, when audits fail or repairs do not last
    #[arg(long, value_name = "TIME", value_parser = seconds, default_value = "1h")]
    pub at_most: u64,
    /// Repair what has drifted
    #[arg(long)]
    pub fix: bool,
    /// Repair at most N things an hour; if more have drifted at once, nothing is repaired and people are told
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub budget: usize,
    /// Audit once and end with its exit code
    #[arg(long)]
    pub once: bool,
    #[command(flatten)]
    pub notify: Notify,
}

const EXAMPLES: &str = "\
Examples:
  setpoint drift watch --every 5m -- site.yml -i inventory/
  setpoint drift watch --every 5m --fix --budget 20 --webhook https://chat.example.org/hook -- site.yml -i inventory/";

/// What a look at the fleet leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Nothing is wrong, or nothing that repairing would change.
    Rest,
    /// Repair these many things.
    Fix(usize),
    /// More has drifted than may be repaired.
    OverBudget(usize),
    /// Looking failed.
    Failed,
}

/// Decides what follows an audit. `spent` is what was repaired within the hour.
fn decide(code: i32, drifted: usize, fix: bool, spent: usize, budget: usize) -> Next {
    match code {
        DRIFT if fix && drifted == 0 => Next::Rest,
        DRIFT if fix && drifted + spent > budget => Next::OverBudget(drifted),
        DRIFT if fix => Next::Fix(drifted),
        IN_SYNC | DRIFT | PENDING => Next::Rest,
        _ => Next::Failed,
    }
}

/// How long to wait. What keeps coming back, or keeps failing, is looked at less and less often.
fn pause(every: u64, at_most: u64, setbacks: u32) -> Duration {
    let factor = 1_u64.checked_shl(setbacks.min(20)).unwrap_or(u64::MAX);
    Duration::from_secs(every.saturating_mul(factor).min(at_most.max(every)))
}

/// Carries out the subcommand.
///
/// # Errors
/// The audit can't be started.
pub fn run(args: &Watch, console: &mut Console) -> Result<Exit, Failure> {
    let program = std::env::current_exe()?;
    let settings = console.settings(&Flags::default())?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    let mut spent: Vec<(Instant, usize)> = Vec::new();
    let mut setbacks = 0;
    let mut repaired_before = false;
    loop {
        let code = child(&program, "audit", &args.audit)?;
        let mut store = state::open(&settings, console)?;
        let drifted = if code == DRIFT { drifted(&mut store) } else { 0 };
        spent.retain(|(at, _)| at.elapsed() < HOUR);
        let used = spent.iter().map(|(_, count)| count).sum();
        let next = decide(code, drifted, args.fix, used, args.budget);
        match next {
            Next::Rest => (setbacks, repaired_before) = (0, false),
            Next::Fix(count) => {
                // What has drifted again right after it was repaired has somebody who wants it so.
                setbacks = if repaired_before { setbacks + 1 } else { 0 };
                repaired_before = true;
                spent.push((Instant::now(), count));
                let code = child(&program, "fix", &args.audit)?;
                console.print(&format!("repaired {count} (exit code {code})\n"))?;
            }
            Next::OverBudget(count) => {
                setbacks += 1;
                console.warn(&format!(
                    "{count} things have drifted and {used} were repaired within the hour, which is more than the budget of {}: nothing is repaired",
                    args.budget
                ));
            }
            Next::Failed => {
                setbacks += 1;
                console.warn(&format!("the audit ended with exit code {code}"));
            }
        }
        match args.notify.tell(&mut store) {
            Ok(Some(told)) => console.print(&format!("told: {told}\n"))?,
            Ok(None) => {}
            // The next audit tries again.
            Err(failure) => console.complain(&failure),
        }
        drop(store);
        if args.once {
            return Ok(exit_of(code));
        }
        let until = Instant::now() + pause(args.every, args.at_most, setbacks);
        while Instant::now() < until {
            if stop.load(Ordering::Relaxed) {
                return Ok(Exit::Success);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// Audits once, repairs if that is wanted, and returns the audit's exit code.
///
/// # Errors
/// The audit can't be started.
pub(super) fn once(
    program: &Path,
    audit: &[String],
    fix: bool,
    budget: Option<usize>,
) -> Result<i32, Failure> {
    let code = child(program, "audit", audit)?;
    if let Next::Fix(_) = decide(code, 1, fix, 0, budget.unwrap_or(usize::MAX)) {
        let fixed = child(program, "fix", audit)?;
        return Ok(if fixed == IN_SYNC { code } else { fixed });
    }
    Ok(code)
}

/// How many things of the last audit somebody has changed on a host.
fn drifted(store: &mut crate::state::Store) -> usize {
    report::read(store, "last").map_or(0, |report| {
        report.open().filter(|finding| matches!(finding.verdict, Verdict::Drifted | Verdict::Missing)).count()
    })
}

fn child(program: &Path, what: &str, arguments: &[String]) -> Result<i32, Failure> {
    let status = Command::new(program)
        .args(["drift", what])
        .args(arguments)
        .stdin(Stdio::null())
        .status()
        .map_err(|error| Failure::error(format!("can't start {}: {error}", program.display())))?;
    Ok(status.code().unwrap_or(1))
}

/// The same exit code.
pub(super) fn exit_of(code: i32) -> Exit {
    match code {
        0 => Exit::Success,
        2 => Exit::Failed,
        3 => Exit::Pending,
        4 => Exit::Unreachable,
        99 => Exit::Interrupted,
        _ => Exit::Error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_and_budget_decide() {
        for (code, drifted, fix, spent, expected) in [
            (0, 0, true, 0, Next::Rest),
            (2, 3, false, 0, Next::Rest),
            (2, 3, true, 0, Next::Fix(3)),
            (2, 3, true, 7, Next::Fix(3)),
            (2, 3, true, 8, Next::OverBudget(3)),
            (2, 11, true, 0, Next::OverBudget(11)),
            (2, 0, true, 0, Next::Rest),
            (3, 0, true, 0, Next::Rest),
            (4, 0, true, 0, Next::Failed),
            (1, 0, false, 0, Next::Failed),
        ] {
            assert_eq!(decide(code, drifted, fix, spent, 10), expected, "{code} {drifted} {fix} {spent}");
        }
    }

    #[test]
    fn what_does_not_help_is_tried_less_often() {
        let waits: Vec<u64> = (0..6).map(|setbacks| pause(300, 3600, setbacks).as_secs()).collect();
        assert_eq!(waits, [300, 600, 1200, 2400, 3600, 3600]);
        assert_eq!(pause(7200, 3600, 3).as_secs(), 7200);
        assert_eq!(pause(300, 3600, u32::MAX).as_secs(), 3600);
    }
}
