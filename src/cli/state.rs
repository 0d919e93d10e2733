//! The state store on the command line: where it is, and how runs get into it.

use super::Console;
use super::failure::Failure;
use crate::config::Settings;
use crate::engine::options::OwedHandler;
use crate::engine::{Engine, RunEnd, Stop};
use crate::state::recorder::{Ending, absolute};
use crate::state::{NewRun, Place, Recorder, RunKind, Status, Store, StoreError};
use crate::value::{Map, Value, map_of};

/// Opens the store that the settings name.
///
/// # Errors
/// There is none to be had.
pub(super) fn open(settings: &Settings, console: &Console) -> Result<Store, Failure> {
    let opened = Store::open(&Place::of(settings, &console.around)?)?;
    if let Some(warning) = &opened.warning {
        console.warn(warning);
    }
    Ok(opened.store)
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure::error(error.to_string())
    }
}

/// Begins to record what the engine is about to do. A store that can't be written to is warned about and
/// does not stop the run.
pub(super) fn record(
    engine: &mut Engine,
    kind: RunKind,
    target: Option<String>,
    console: &Console,
) -> Option<Ending> {
    match begin(engine, kind, target, console) {
        Ok(ending) => ending,
        Err(error) => {
            console.warn(&format!("this run is not recorded: {error}"));
            None
        }
    }
}

fn begin(
    engine: &mut Engine,
    kind: RunKind,
    target: Option<String>,
    console: &Console,
) -> Result<Option<Ending>, StoreError> {
    let settings = engine.shared.settings.clone();
    let place = Place::of(&settings, &console.around)?;
    if place == Place::Nowhere {
        return Ok(None);
    }
    let opened = Store::open(&place)?;
    if let Some(warning) = &opened.warning {
        console.warn(warning);
    }
    let mut store = opened.store;
    prune(&mut store, settings.state_keep)?;
    let owed = store.owed(None)?.into_iter().map(|owed| OwedHandler {
        host: owed.host,
        playbook: owed.playbook,
        play: owed.play,
        handler: owed.handler,
    });
    engine.owe(owed.collect());
    let options = &engine.shared.options;
    let playbooks: Vec<String> =
        options.playbooks.iter().map(|path| absolute(&path.to_string_lossy())).collect();
    let run = NewRun {
        id: engine.run_id().to_string(),
        kind,
        command: command_line(std::env::args()),
        playbooks,
        options: Value::map(told(options)),
        operator: operator(console),
        directory: console.around.cwd.to_string_lossy().into_owned(),
        commit: None,
        dirty: false,
        target,
    };
    let (recorder, ending) = Recorder::start(store, run)?;
    engine.listen(Box::new(recorder));
    Ok(Some(ending))
}

/// Removes what the settings don't want kept, once a day.
pub(super) fn prune(store: &mut Store, days: u64) -> Result<(), StoreError> {
    const DAY: i64 = 24 * 3600 * 1000;
    let now = crate::state::now();
    let last: i64 = store.meta("pruned")?.and_then(|text| text.parse().ok()).unwrap_or(0);
    if days == 0 || now - last < DAY {
        return Ok(());
    }
    let span = i64::try_from(days).unwrap_or(i64::MAX).saturating_mul(DAY);
    store.prune(now.saturating_sub(span))?;
    store.set_meta("pruned", &now.to_string())
}

/// Says how the run ended, and what went wrong with the store. Connections are closed while the rest is
/// written.
pub(super) fn finish(ending: Ending, engine: &mut Engine, outcome: &Result<RunEnd, Stop>, console: &Console) {
    ending.tell(status(outcome));
    engine.hang_up();
    if let Some(error) = ending.finish() {
        console.warn(&format!("this run is not recorded completely: {error}"));
    }
}

fn status(outcome: &Result<RunEnd, Stop>) -> Status {
    match outcome {
        Ok(RunEnd { unreachable: true, .. }) => Status::Unreachable,
        Ok(RunEnd { failed: true, .. }) => Status::Failed,
        Ok(_) => Status::Ok,
        Err(Stop::Interrupted) => Status::Interrupted,
        Err(_) => Status::Error,
    }
}

/// What of the options is worth remembering.
fn told(options: &crate::engine::RunOptions) -> Map {
    let mut map = Map::new();
    let mut list = |key: &str, list: &[String]| {
        if !list.is_empty() {
            map.insert(key.into(), list.to_vec().into());
        }
    };
    list("inventory", &options.inventory);
    list("tags", &options.tags);
    list("skip_tags", &options.skip_tags);
    if let Some(limit) = &options.limit {
        map.extend(map_of([("limit", limit.as_str())]));
    }
    map
}

/// Who runs this: `ann@desk`.
pub(super) fn operator(console: &Console) -> String {
    let env = |name: &str| console.around.env.get(name).filter(|value| !value.is_empty()).cloned();
    let uid = rustix::process::getuid().as_raw();
    let user = env("SUDO_USER").or_else(|| env("USER")).or_else(|| env("LOGNAME"));
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{}@{host}", user.unwrap_or_else(|| format!("uid{uid}")))
}

/// The command line as it may be kept: what variables were set to is left out.
pub(super) fn command_line(arguments: impl Iterator<Item = String>) -> String {
    let mut out: Vec<String> = Vec::new();
    let mut mask_next = false;
    for (index, argument) in arguments.enumerate() {
        let argument = if index == 0 {
            argument.rsplit('/').next().unwrap_or_default().to_string()
        } else if std::mem::take(&mut mask_next) {
            masked(&argument)
        } else if let Some(value) = argument.strip_prefix("--extra-vars=") {
            format!("--extra-vars={}", masked(value))
        } else if let Some(value) =
            argument.strip_prefix("-e").filter(|value| !value.is_empty() && !argument.starts_with("--"))
        {
            format!("-e{}", masked(value))
        } else if let Some(value) = argument.strip_prefix("--args=") {
            format!("--args={}", masked(value))
        } else {
            mask_next = ["-e", "--extra-vars", "-a", "--args"].contains(&argument.as_str());
            argument
        };
        out.push(shlex::try_quote(&argument).map(|word| word.into_owned()).unwrap_or(argument));
    }
    out.join(" ")
}

/// A file is told by its name; of anything else only the names of the variables.
fn masked(value: &str) -> String {
    if value.starts_with('@') {
        return value.to_string();
    }
    let names: Vec<String> = shlex::split(value)
        .unwrap_or_default()
        .iter()
        .filter_map(|word| word.split_once('=').map(|(name, _)| format!("{name}=…")))
        .collect();
    if names.is_empty() { "…".into() } else { names.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_kept_without_values() {
        for (given, expected) in [
            ("/usr/bin/setpoint run site.yml -l web", "setpoint run site.yml -l web"),
            ("setpoint run s.yml -e password=hunter2", "setpoint run s.yml -e 'password=…'"),
            ("setpoint run s.yml -epassword=hunter2", "setpoint run s.yml '-epassword=…'"),
            ("setpoint run s.yml --extra-vars={\"a\":1}", "setpoint run s.yml '--extra-vars=…'"),
            ("setpoint run s.yml -e @vars.yml", "setpoint run s.yml -e @vars.yml"),
            ("setpoint exec all -m user -a password=x", "setpoint exec all -m user -a 'password=…'"),
        ] {
            let words = given.split(' ').map(str::to_string);
            assert_eq!(command_line(words), expected);
        }
    }
}
