//! Where the command line meets the engine.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::exit::Exit;
use super::failure::Failure;
use super::prompter::TerminalPrompter;
use super::rollback::Undo;
use super::run::Prepared;
use super::{Console, look, state};
use crate::engine::options::AdHoc;
use crate::engine::{Engine, Interrupt, Parts, RunEnd, Stop};
use crate::event::Listener;
use crate::playbook::loader::LoadContext;
use crate::playbook::{Item, Keywords, Play, Playbook, Task};
use crate::source::json::{Layout, dump};
use crate::state::RunKind;
use crate::value::{Map, Origin, Value};

/// Runs playbooks.
///
/// # Errors
/// Why nothing was run.
pub(super) fn run(prepared: Prepared, console: &mut Console, detailed: bool) -> Result<Exit, Failure> {
    let playbooks = prepared.options.playbooks.clone();
    let check = prepared.options.check;
    let mut engine = engine(prepared, console)?;
    let loaded = load(&engine, &playbooks, console)?;
    let kind = if check { RunKind::Check } else { RunKind::Run };
    let outcome = recorded(&mut engine, kind, console, |engine| engine.run(&loaded), detailed, check);
    if engine.shared.settings.retry_files_enabled {
        write_retry_file(&engine, console)?;
    }
    outcome
}

/// Names the hosts that are to be tried again in a file that `--limit` takes.
fn write_retry_file(engine: &Engine, console: &Console) -> Result<(), Failure> {
    let hosts = engine.lost_hosts();
    let Some(playbook) = engine.last_playbook().filter(|_| !hosts.is_empty()) else { return Ok(()) };
    let dir = match &engine.shared.settings.retry_files_save_path {
        Some(dir) => dir.clone(),
        None => playbook.parent().map(Path::to_path_buf).unwrap_or_default(),
    };
    let name = playbook.file_stem().unwrap_or_default().to_string_lossy();
    let path = dir.join(format!("{name}.retry"));
    let path = std::path::absolute(&path).unwrap_or(path);
    let text: String = hosts.iter().map(|host| format!("{host}\n")).collect();
    match std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(&path, text)) {
        Ok(()) => console.print(&format!("\tto retry, use: --limit @{}\n\n", path.display())),
        Err(error) => {
            console.warn(&format!("could not write the retry file {}: {error}", path.display()));
            Ok(())
        }
    }
}

/// Runs only some tasks of playbooks, to repair what `target` (an audit) has found.
///
/// # Errors
/// Why nothing was run.
pub(super) fn fix(prepared: Prepared, target: String, console: &mut Console) -> Result<Exit, Failure> {
    let playbooks = prepared.options.playbooks.clone();
    let check = prepared.options.check;
    let mut engine = engine(prepared, console)?;
    let loaded = load(&engine, &playbooks, console)?;
    let kind = if check { RunKind::Check } else { RunKind::Fix };
    let recording = state::record(&mut engine, kind, Some(target), console);
    let outcome = engine.run(&loaded);
    if let Some(recording) = recording {
        state::finish(recording, &mut engine, &outcome, console);
    }
    end(outcome, false, check)
}

/// Reads playbooks, and shows their warnings.
///
/// # Errors
/// Everything that is wrong with them.
pub(super) fn load(
    engine: &Engine,
    playbooks: &[PathBuf],
    console: &Console,
) -> Result<Vec<Playbook>, Failure> {
    let mut loaded = Vec::new();
    let mut errors = Vec::new();
    for path in playbooks {
        match engine.load(path) {
            Ok((playbook, warnings)) => {
                for warning in &warnings {
                    console.tell(warning);
                }
                loaded.push(playbook);
            }
            Err(more) => errors.extend(more),
        }
    }
    if errors.is_empty() { Ok(loaded) } else { Err(Failure::parse(errors)) }
}

/// Lets the engine run while the state store listens.
fn recorded(
    engine: &mut Engine,
    kind: RunKind,
    console: &Console,
    act: impl FnOnce(&mut Engine) -> Result<RunEnd, Stop>,
    detailed: bool,
    check: bool,
) -> Result<Exit, Failure> {
    let recording = state::record(engine, kind, None, console);
    let outcome = act(engine);
    if let Some(recording) = recording {
        state::finish(recording, engine, &outcome, console);
    }
    end(outcome, detailed, check)
}

/// Runs one task.
///
/// # Errors
/// Why nothing was run.
pub(super) fn exec(
    prepared: Prepared,
    ad_hoc: &AdHoc,
    console: &mut Console,
    detailed: bool,
) -> Result<Exit, Failure> {
    let check = prepared.options.check;
    let mut engine = engine(prepared, console)?;
    let task = {
        let shared = &engine.shared;
        let render = |value: &Value, vars: &Map| shared.render_static(value, vars);
        shared
            .loader
            .task_from(&ad_hoc.module, &ad_hoc.args, &LoadContext { render: &render })
            .map_err(Failure::parse)?
    };
    let playbook = Playbook { path: PathBuf::from("exec"), plays: vec![Arc::new(play(ad_hoc, task))] };
    let kind = if check { RunKind::Check } else { RunKind::Exec };
    recorded(&mut engine, kind, console, |engine| engine.run(&[playbook]), detailed, check)
}

/// Undoes a run: asks each identity what it has kept, shows the plan, and takes it back.
///
/// # Errors
/// Why nothing was run.
pub(super) fn rollback(
    prepared: Prepared,
    undo: &Undo,
    console: &mut Console,
    detailed: bool,
) -> Result<Exit, Failure> {
    let check = prepared.options.check;
    let mut engine = engine(prepared, console)?;
    let mut users: Vec<Option<&str>> = vec![None, Some("root")];
    users.extend(undo.users.iter().map(|user| Some(user.as_str())).filter(|user| *user != Some("root")));
    let mut items = Vec::new();
    for state in ["listed", "restored"] {
        for (number, user) in users.iter().enumerate() {
            items.push(Item::Task(Arc::new(rollback_task(&engine, undo, state, number, *user)?)));
        }
        if state == "listed" {
            let message = format!("nothing is kept of run {} here", undo.run);
            let mut task =
                internal(&engine, "ansible.builtin.fail", &[("msg", Value::str(message.as_str()))])?;
            let none: Vec<String> =
                (0..users.len()).map(|number| format!("not (plan_{number}.kept | default(false))")).collect();
            let mut keywords = task.keywords.as_ref().clone();
            keywords.when = vec![Value::trusted(none.join(" and "))];
            task.keywords = Arc::new(keywords);
            items.push(Item::Task(Arc::new(task)));
        }
    }
    let pattern = match &undo.hosts {
        Some(hosts) => hosts.join(","),
        None => "all".into(),
    };
    let mut play = play_around(&pattern, "Rollback", items);
    play.path = PathBuf::from("rollback");
    let playbook = Playbook { path: PathBuf::from("rollback"), plays: vec![Arc::new(play)] };
    let kind = if check { RunKind::Check } else { RunKind::Rollback };
    let recording = state::record(&mut engine, kind, Some(undo.run.clone()), console);
    let outcome = engine.run(&[playbook]);
    if let Some(recording) = recording {
        state::finish(recording, &mut engine, &outcome, console);
    }
    end(outcome, detailed, check)
}

/// What one identity has kept, listed or restored. The first is the user who logs in.
fn rollback_task(
    engine: &Engine,
    undo: &Undo,
    state: &str,
    number: usize,
    user: Option<&str>,
) -> Result<Task, Failure> {
    let args = [
        ("run", Value::str(undo.run.as_str())),
        ("state", Value::str(state)),
        ("force", Value::Bool(undo.force)),
    ];
    let mut task = internal(engine, "setpoint.builtin.rollback", &args)?;
    let listed = state == "listed";
    let verb = if listed { "Plan" } else { "Roll back" };
    task.name = Some(Value::str(match user {
        Some(user) => format!("{verb} as {user}"),
        None => verb.to_string(),
    }));
    let mut keywords = task.keywords.as_ref().clone();
    if let Some(user) = user {
        keywords.become_ = Some(Value::Bool(true));
        keywords.become_user = Some(Value::str(user));
        // Only once as the same user.
        keywords.when.push(Value::trusted(format!("plan_0.user | default('') != '{user}'")));
        if listed {
            keywords.ignore_errors = Some(Value::Bool(true));
            keywords.ignore_unreachable = Some(Value::Bool(true));
        }
    }
    if listed {
        task.register = Some(format!("plan_{number}"));
    } else {
        keywords.when.push(Value::trusted(format!("plan_{number}.kept | default(false)")));
    }
    task.keywords = Arc::new(keywords);
    Ok(task)
}

/// A task of our own making.
fn internal(engine: &Engine, action: &str, args: &[(&str, Value)]) -> Result<Task, Failure> {
    let shared = &engine.shared;
    let render = |value: &Value, vars: &Map| shared.render_static(value, vars);
    let json = dump(&Value::map(crate::value::map_of(args.iter().cloned())), &Layout::default());
    shared.loader.task_from(action, &json, &LoadContext { render: &render }).map_err(Failure::parse)
}

fn engine(prepared: Prepared, console: &mut Console) -> Result<Engine, Failure> {
    let options = &prepared.options;
    let listeners = console.listeners(&prepared.settings, options.verbosity, options.check)?;
    engine_for(prepared, Box::new(listeners), console)
}

/// An engine that tells only `listener` what happens.
///
/// # Errors
/// Inventory or limit don't fit.
pub(super) fn engine_for(
    prepared: Prepared,
    listener: Box<dyn Listener>,
    console: &mut Console,
) -> Result<Engine, Failure> {
    let options = &prepared.options;
    let inventory = look::inventory(&options.inventory, &prepared.settings, &prepared.vault, console)?;
    if let Some(limit) = &options.limit {
        look::check_limit(&inventory, limit)?;
    }
    let parts = Parts {
        inventory,
        vault: Arc::new(prepared.vault),
        prompter: Box::new(TerminalPrompter),
        listeners: vec![listener],
        interrupt: interrupt()?,
    };
    Ok(Engine::new(prepared.options, Arc::new(prepared.settings), parts)?)
}

/// A play around one task.
fn play(ad_hoc: &AdHoc, mut task: Task) -> Play {
    let seconds = |seconds: u64| Value::from(seconds);
    let mut keywords = task.keywords.as_ref().clone();
    if let Some(limit) = ad_hoc.background.filter(|limit| *limit > 0) {
        task.detach = Some(seconds(limit));
        task.poll = Some(seconds(ad_hoc.poll.unwrap_or(15)));
    }
    if let Some(limit) = ad_hoc.task_timeout.filter(|limit| *limit > 0) {
        keywords.timeout = Some(seconds(limit));
    }
    task.keywords = Arc::new(keywords);
    play_around(&ad_hoc.pattern, "Ad-hoc", vec![Item::Task(Arc::new(task))])
}

/// A play around tasks of our own.
fn play_around(pattern: &str, name: &str, tasks: Vec<Item>) -> Play {
    Play {
        name: Some(Value::str(name)),
        hosts: Value::str(pattern),
        origin: Arc::new(Origin { file: "command line".into(), line: 1, column: 1 }),
        path: Path::new("exec").to_owned(),
        keywords: Arc::new(Keywords::default()),
        vars: Arc::new(Map::new()),
        vars_files: Vec::new(),
        vars_prompt: Vec::new(),
        gather_facts: Some(Value::Bool(false)),
        gather_subset: None,
        gather_timeout: None,
        fact_path: None,
        serial: Vec::new(),
        strategy: None,
        order: None,
        max_fail_percentage: None,
        force_handlers: None,
        roles: Vec::new(),
        pre_tasks: Vec::new(),
        role_tasks: Vec::new(),
        tasks,
        post_tasks: Vec::new(),
        handlers: Vec::new(),
    }
}

fn end(outcome: Result<RunEnd, Stop>, detailed: bool, check: bool) -> Result<Exit, Failure> {
    let end = match outcome {
        Ok(end) => end,
        Err(Stop::Interrupted) => return Ok(Exit::Interrupted),
        Err(Stop::Error(error)) => return Err(Failure { exit: Exit::Error, diagnostics: vec![error] }),
        Err(Stop::Syntax(errors)) => return Err(Failure::parse(errors)),
        Err(Stop::Bug(message)) => {
            return Err(Failure::error(format!("unexpected error: {message}")).exit(Exit::Unexpected));
        }
    };
    Ok(match end {
        RunEnd { unreachable: true, .. } => Exit::Unreachable,
        RunEnd { failed: true, .. } => Exit::Failed,
        RunEnd { changed: true, .. } if detailed && check => Exit::WouldChange,
        RunEnd { changed: true, .. } if detailed => Exit::Changed,
        _ => Exit::Success,
    })
}

/// Counts Ctrl-C: the first lets what runs finish, the second cuts connections, the third ends at once.
fn interrupt() -> Result<Interrupt, Failure> {
    let count = Interrupt::default();
    let counted = count.clone();
    let mut signals =
        signal_hook::iterator::Signals::new([signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM])?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            let before = counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if before == 0 {
                let _ = std::io::Write::write_all(
                    &mut std::io::stderr(),
                    b"\ninterrupted: finishing what runs; once more cuts the connections\n",
                );
            }
            if before >= 2 {
                signal_hook::low_level::exit(i32::from(Exit::Interrupted.code()));
            }
        }
    });
    Ok(count)
}
