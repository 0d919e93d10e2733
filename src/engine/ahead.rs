//! Walks ahead of where a host stands and plans what can be planned: everything up to the first task that
//! needs a result that is still out, or whose effect on what follows can't be foreseen.
//!
//! What is planned here stays true whatever the results are, except for a failure, a notification or the end
//! of a host, on which the engine forgets it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::engine::actions::{self, Effect};
use crate::engine::cursor::Cursor;
use crate::engine::debugger;
use crate::engine::host::{Ahead, AheadKind, Host, TaskAhead};
use crate::engine::include;
use crate::engine::plan::{Flags, PlanError, Planned, PlannedItem, Planner, Step};
use crate::engine::shared::{PlayState, Shared};
use crate::playbook::Task;
use crate::value::{Map, Value};
use crate::vars::HostVars;

/// Modules that return facts of the host.
const FACT_MODULES: &[&str] = &[
    "ansible.builtin.setup",
    "ansible.builtin.gather_facts",
    "ansible.builtin.package_facts",
    "ansible.builtin.service_facts",
    "ansible.builtin.getent",
    "ansible.builtin.mount_facts",
    "community.general.zfs_facts",
    "ansible.builtin.hostname",
    "community.docker.current_container_facts",
];

/// How far and by which rules to walk.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// At most so many tasks.
    pub tasks: usize,
    /// What is planned is applied without waiting for its turn, so that nothing may be planned across a point
    /// that depends on an outcome.
    pub streaming: bool,
    /// The play has one host.
    pub alone: bool,
}

/// What a walk brought.
pub struct Walk {
    /// Planned entries, to be put behind those that the host has.
    pub entries: Vec<Ahead>,
    /// Where it ended.
    pub walker: Cursor,
    /// It can't go on until something is done.
    pub blocked: bool,
}

static SERIAL: AtomicU64 = AtomicU64::new(1);

/// Walks on from where the host's queue ends.
pub fn walk(shared: &Shared, play: &PlayState, host: &Host, limits: Limits) -> Walk {
    let mut walker = host.walker.clone().unwrap_or_else(|| host.cursor.clone());
    let mut vars = host.vars_ahead();
    let mut entries: Vec<Ahead> = Vec::new();
    let mut may_notify = limits.streaming && host.queue.iter().any(may_change_course);
    let mut first = host.queue.is_empty();
    let mut blocked = false;
    while host.queue.len() + entries.len() < limits.tasks.max(1) {
        let before = walker.clone();
        let Some((task, position)) = walker.peek() else {
            blocked = true;
            break;
        };
        let mut entry = Ahead {
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            task: task.clone(),
            position,
            before,
            kind: AheadKind::Flush,
            sets: Vec::new(),
            includes: Vec::new(),
            facts: false,
        };
        let planner = Planner { shared, play, task: &task, host: &vars, ahead: !first };
        let stop = match task.action.as_str() {
            "ansible.builtin.meta" => {
                let plain_flush = include::meta_name(&task) == "flush_handlers"
                    && task.keywords.when.is_empty()
                    && !task.handler;
                if !plain_flush || walker.due() || may_notify {
                    blocked = true;
                    break;
                }
                walker.advance(false);
                false
            }
            "ansible.builtin.include_tasks" | "ansible.builtin.include_role" => {
                match include::resolve(&planner) {
                    Ok(resolved) if resolved.foreseeable => {
                        include::enter(&mut walker, &resolved.included);
                        if let Some(register) = &task.register {
                            entry.sets.push((register.as_str().into(), Value::Pending));
                        }
                        entry.kind = AheadKind::Include(resolved.included);
                        false
                    }
                    _ => {
                        blocked = true;
                        break;
                    }
                }
            }
            _ => match plan_task(&planner, &task, first, limits) {
                None => {
                    blocked = true;
                    break;
                }
                Some((planned, stop)) => {
                    foresee(&task, &planned, &mut entry);
                    may_notify |= !task.notify.is_empty();
                    // A role all of whose tasks are skipped may run again.
                    let skipped = planned.items.iter().all(|item| match &item.step {
                        Step::Done(settled) => settled.result.get("skipped").is_some_and(Value::truthy),
                        _ => false,
                    });
                    entry.kind = AheadKind::Task(Box::new(TaskAhead::new(planned)));
                    walker.advance(!skipped);
                    stop
                }
            },
        };
        if !entry.sets.is_empty() || !entry.includes.is_empty() || entry.facts {
            vars = with_entry(&vars, &entry);
        }
        entries.push(entry);
        first = false;
        if stop {
            blocked = true;
            break;
        }
    }
    Walk { entries, walker, blocked }
}

fn may_change_course(entry: &Ahead) -> bool {
    !entry.task.notify.is_empty()
}

fn with_entry(vars: &Arc<HostVars>, entry: &Ahead) -> Arc<HostVars> {
    let mut vars = vars.as_ref().clone();
    for (name, value) in &entry.sets {
        vars.set(name, value.clone());
    }
    for map in &entry.includes {
        let included = Arc::make_mut(&mut vars.included);
        included.extend(map.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    vars.facts_pending |= entry.facts;
    Arc::new(vars)
}

/// Plans one task; `None` if it has to wait for its turn. The flag says that nothing after it can be planned.
fn plan_task(
    planner: &Planner<'_>,
    task: &Arc<Task>,
    first: bool,
    limits: Limits,
) -> Option<(Planned, bool)> {
    let barrier = task.keywords.delegate_to.is_some()
        || task.keywords.throttle.is_some()
        || task.keywords.debugger.is_some()
        || debugger::everywhere(&planner.shared.settings, &planner.play.play)
        || task.detach.is_some()
        || task.action.contains("{{")
        || (task.keywords.run_once.is_some() && !limits.alone)
        || actions::bypasses_host_loop(&task.action)
        || actions::is_engine_action(&task.action)
        || task.action == "ansible.builtin.raw"
        || task.action == "ansible.builtin.group_by"
        || task
            .looping
            .as_ref()
            .is_some_and(|looping| looping.pause.is_some() || !looping.break_when.is_empty());
    if barrier && !first {
        return None;
    }
    let planned = match planner.plan() {
        Ok(planned) => planned,
        Err(PlanError::Pending) if !first => return None,
        Err(error) => return first.then(|| (failure_of(planner, error), true)),
    };
    let shared = planner.shared;
    let real_in_check = shared.options.check && planned.any(|flags| !flags.check);
    let check_in_real = !shared.options.check && planned.any(|flags| flags.check);
    let fails = planned.items.iter().any(|item| match &item.step {
        Step::Done(settled) | Step::Local { settled, .. } => {
            settled.result.get("failed").is_some_and(Value::truthy)
        }
        _ => false,
    });
    let unverifiable = !limits.streaming
        && planned.items.iter().any(|item| matches!(&item.step, Step::Remote(remote) if !remote.verifiable));
    if !first
        && (real_in_check
            || check_in_real
            || fails
            || unverifiable
            || planned.flags.run_once && !limits.alone)
    {
        return None;
    }
    let judged = limits.streaming
        && (task.failed_when.is_some()
            || planned.any(|flags| flags.retries.is_some())
            || task.changed_when.is_some() && !task.notify.is_empty());
    let stop = barrier
        || real_in_check
        || check_in_real
        || fails
        || unverifiable
        || judged
        || planned.rest.is_some();
    Some((planned, stop))
}

/// Plans a task whose turn it is.
pub fn plan_now(planner: &Planner<'_>) -> Planned {
    planner.plan().unwrap_or_else(|error| failure_of(planner, error))
}

/// A task that could not be planned fails.
fn failure_of(planner: &Planner<'_>, error: PlanError) -> Planned {
    match error {
        PlanError::Pending => whole_failure(planner, "a result that this task needs never arrived"),
        PlanError::Failed(settled) => {
            let mut planned = whole_failure(planner, "");
            planned.items[0].step = Step::Done(*settled);
            planned
        }
    }
}

fn whole_failure(planner: &Planner<'_>, message: &str) -> Planned {
    let flags = keyword_flags(planner);
    Planned {
        info: planner.info(planner.shared.options.check),
        items: vec![PlannedItem {
            local: Map::new(),
            item: None,
            label: None,
            step: Step::Done(crate::engine::plan::failed(planner.task, message)),
            delegate: None,
            flags: flags.clone(),
        }],
        looped: None,
        rest: None,
        flags,
    }
}

/// The flags of a task that could not be planned, as far as they are written out.
fn keyword_flags(planner: &Planner<'_>) -> Flags {
    let literal = |value: &Option<Value>| value.as_ref().and_then(Value::as_bool).unwrap_or(false);
    let keywords = &planner.task.keywords;
    let quiet = planner.is_quiet();
    Flags {
        quiet,
        ignore_errors: quiet || planner.shared.options.look_only || literal(&keywords.ignore_errors),
        no_log: literal(&keywords.no_log),
        any_errors_fatal: literal(&keywords.any_errors_fatal),
        run_once: literal(&keywords.run_once),
        check: quiet || planner.shared.options.check,
        ..Flags::default()
    }
}

/// What later tasks may count on.
fn foresee(task: &Task, planned: &Planned, entry: &mut Ahead) {
    for item in &planned.items {
        if let Step::Local { effects, .. } = &item.step {
            for effect in effects {
                match effect {
                    Effect::SetFacts { vars, .. } => {
                        for (name, value) in vars {
                            entry.sets.push((name.to_text().into(), value.clone()));
                        }
                    }
                    Effect::IncludeVars(map) => entry.includes.push(map.clone()),
                    _ => {}
                }
            }
        }
    }
    if planned.rest.is_some() && task.action == "ansible.builtin.set_fact" {
        for name in task.args.keys() {
            entry.sets.push((name.to_text().into(), Value::Pending));
        }
    }
    if let Some(register) = &task.register {
        entry.sets.push((register.as_str().into(), Value::Pending));
    }
    entry.facts = FACT_MODULES.contains(&task.action.as_str());
}
