//! Inventories that a program prints: `--list`, and `--host NAME` where the list doesn't say it all.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::load::Loading;
use super::names;
use crate::diagnostic::Diagnostic;
use crate::value::{Map, Origin, Value};

/// Bytes that a script may print.
const MAX_OUTPUT: u64 = 256 << 20;

/// Whether a file is a program: executable, and it starts like one.
pub(super) fn is_script(path: &Path) -> bool {
    if !path.is_file() || rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_err() {
        return false;
    }
    let mut start = [0; 4];
    let read = std::fs::File::open(path).and_then(|mut file| file.read(&mut start)).unwrap_or(0);
    start[..read].starts_with(b"#!") || start[..read].starts_with(b"\x7fELF")
}

/// Reads the inventory that a script prints.
pub(super) fn read(loading: &mut Loading<'_>, path: &Path) {
    if let Err(problem) = try_read(loading, path) {
        loading.errors.push(problem);
    }
}

fn try_read(loading: &mut Loading<'_>, path: &Path) -> Result<(), Diagnostic> {
    let timeout = loading.options.script_timeout;
    let list = answer(path, &["--list"], timeout)?;
    let origin = Arc::new(Origin { file: Arc::from(path.to_string_lossy()), line: 1, column: 1 });
    let Value::Map(list) = trusted(&list, &origin) else {
        return Err(wrong(path, &format!("--list printed {}, not an object", list.type_name())));
    };
    let mut hosts = Vec::new();
    let mut meta: Option<Arc<Map>> = None;
    for (name, body) in list.iter() {
        let name = name.to_text();
        if name == "_meta" {
            meta = match body.get("hostvars") {
                Some(Value::Map(vars)) => Some(Arc::clone(vars)),
                Some(other) => {
                    return Err(wrong(
                        path,
                        &format!("_meta.hostvars is {}, not an object", other.type_name()),
                    ));
                }
                None => return Err(wrong(path, "_meta has no hostvars")),
            };
        } else {
            group(loading, path, &name, body, &mut hosts)?;
        }
    }
    for (id, name) in hosts {
        let vars = match &meta {
            Some(meta) => meta.get(name.as_ref()).cloned().unwrap_or_default(),
            None => trusted(&answer(path, &["--host", &name], timeout)?, &origin),
        };
        match vars {
            Value::Map(vars) => {
                for (key, value) in vars.iter() {
                    loading.inventory.set_host_var(id, key.clone(), value.clone());
                }
            }
            Value::Null => {}
            other => {
                let kind = other.type_name();
                return Err(wrong(
                    path,
                    &format!("the variables of the host '{name}' are {kind}, not an object"),
                ));
            }
        }
    }
    Ok(())
}

/// What is wrong with a script's answer.
fn wrong(path: &Path, what: &str) -> Diagnostic {
    Diagnostic::error(format!("the inventory script {}: {what}", path.display()))
}

fn group(
    loading: &mut Loading<'_>,
    path: &Path,
    name: &str,
    body: &Value,
    hosts: &mut Vec<(usize, Arc<str>)>,
) -> Result<(), Diagnostic> {
    if name.is_empty() {
        return Err(wrong(path, "a group has no name"));
    }
    let list = |key: &str, value: &Value| -> Result<Vec<Arc<str>>, Diagnostic> {
        let what = || wrong(path, &format!("`{name}.{key}` must be a list of names"));
        value
            .as_list()
            .ok_or_else(what)?
            .iter()
            .map(|item| item.as_str().map(Arc::from).ok_or_else(what))
            .collect()
    };
    let id = loading.inventory.group_id(name);
    let (members, vars, children) = match body {
        Value::Map(map) if ["hosts", "vars", "children"].iter().any(|key| map.contains_key(*key)) => {
            let get = |key: &str| map.get(key).filter(|value| !value.is_null());
            let members = get("hosts").map(|value| list("hosts", value)).transpose()?.unwrap_or_default();
            let children =
                get("children").map(|value| list("children", value)).transpose()?.unwrap_or_default();
            (members, get("vars").cloned(), children)
        }
        // A group that is only variables is a host of that name.
        Value::Map(_) => (vec![Arc::from(name)], Some(body.clone()), Vec::new()),
        _ => (list("hosts", body)?, None, Vec::new()),
    };
    for member in members {
        names::check_name(&member).map_err(|problem| wrong(path, &problem))?;
        let host = loading.inventory.host_id(&member, None);
        loading.inventory.put(id, host);
        hosts.push((host, member));
    }
    match vars {
        Some(Value::Map(vars)) => {
            for (key, value) in vars.iter() {
                loading
                    .inventory
                    .set_group_var(id, key.clone(), value.clone())
                    .map_err(|problem| wrong(path, &problem))?;
            }
        }
        Some(_) => return Err(wrong(path, &format!("`{name}.vars` must be an object"))),
        None => {}
    }
    for child in children {
        let child = loading.inventory.group_id(&child);
        loading.inventory.add_child(id, child).map_err(|problem| wrong(path, &problem))?;
    }
    Ok(())
}

/// What a script says is written by the inventory's author: its strings may be templates.
fn trusted(value: &Value, origin: &Arc<Origin>) -> Value {
    match value {
        Value::Str(text) => Value::written(Arc::clone(&text.text), Arc::clone(origin)),
        Value::List(items) => Value::list(items.iter().map(|item| trusted(item, origin)).collect()),
        Value::Map(map) => {
            if let Some(text) = map.get("__ansible_unsafe").and_then(Value::as_str) {
                return Value::str(text);
            }
            if let Some(text) = map.get("__ansible_vault").and_then(Value::as_str) {
                return Value::Vault(Arc::new(crate::value::VaultText {
                    envelope: Arc::from(text),
                    origin: Some(Arc::clone(origin)),
                }));
            }
            Value::map(
                map.iter().map(|(key, value)| (trusted(key, origin), trusted(value, origin))).collect(),
            )
        }
        other => other.clone(),
    }
}

/// Runs the script and reads the JSON that it prints.
fn answer(path: &Path, arguments: &[&str], timeout: Duration) -> Result<Value, Diagnostic> {
    let shown = arguments.join(" ");
    let (status, out, err) = run(path, arguments, timeout)?;
    let said = String::from_utf8_lossy(&err);
    let with_stderr = |problem: Diagnostic| match said.trim() {
        "" => problem,
        said => problem.hint(format!("it said: {}", said.chars().take(2000).collect::<String>())),
    };
    if !status.success() {
        return Err(with_stderr(wrong(path, &format!("{shown} failed ({status})"))));
    }
    let text =
        String::from_utf8(out).map_err(|_| wrong(path, &format!("{shown} printed what isn't UTF-8")))?;
    if text.trim().is_empty() && arguments.first() == Some(&"--host") {
        return Ok(Value::Null);
    }
    crate::source::json::parse(&path.to_string_lossy(), &text).map_err(|problem| {
        let start: String = text.trim().chars().take(60).collect();
        let why = problem.message.trim_start_matches("invalid JSON: ");
        let problem = wrong(path, &format!("{shown} printed what isn't JSON: {why}"));
        if said.trim().is_empty() {
            problem.hint(format!("it starts with: {start}"))
        } else {
            with_stderr(problem)
        }
    })
}

type Answer = (std::process::ExitStatus, Vec<u8>, Vec<u8>);

/// Runs the script, within bounds of time and of size.
fn run(path: &Path, arguments: &[&str], timeout: Duration) -> Result<Answer, Diagnostic> {
    let failed = |error: std::io::Error| wrong(path, &format!("can't be run: {error}"));
    let mut command = Command::new(path);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn().map_err(failed)?;
    let (sender, receiver) = mpsc::channel();
    let out = child.stdout.take().map(|pipe| collect(pipe, Some(sender.clone())));
    let err = child.stderr.take().map(|pipe| collect(pipe, None));
    drop(sender);
    let deadline = Instant::now() + timeout;
    // The reader of the output reports its end, or that there is too much of it.
    let too_much = match receiver.recv_timeout(timeout) {
        Ok(too_much) => too_much,
        Err(mpsc::RecvTimeoutError::Disconnected) => false,
        Err(mpsc::RecvTimeoutError::Timeout) => {
            kill(&mut child);
            return Err(wrong(
                path,
                &format!("gave no answer to {} in {} s", arguments.join(" "), timeout.as_secs()),
            ));
        }
    };
    if too_much {
        kill(&mut child);
        return Err(wrong(path, &format!("printed more than {} MiB", MAX_OUTPUT >> 20)));
    }
    let status = loop {
        match child.try_wait().map_err(failed)? {
            Some(status) => break status,
            None if Instant::now() >= deadline => {
                kill(&mut child);
                return Err(wrong(path, &format!("didn't end within {} s", timeout.as_secs())));
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    // Something that the script left running may hold the pipes open; it goes with the script.
    kill_group(&child);
    let joined = |reader: Option<std::thread::JoinHandle<Vec<u8>>>| {
        reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
    };
    Ok((status, joined(out), joined(err)))
}

/// Reads a pipe to its end on a thread of its own; tells when it is done and whether it was too much.
fn collect(
    pipe: impl Read + Send + 'static,
    done: Option<mpsc::Sender<bool>>,
) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.take(MAX_OUTPUT + 1).read_to_end(&mut bytes);
        let too_much = bytes.len() as u64 > MAX_OUTPUT;
        if let Some(done) = done {
            let _ = done.send(too_much);
        }
        bytes
    })
}

fn kill(child: &mut std::process::Child) {
    kill_group(child);
    let _ = child.kill();
    let _ = child.wait();
}

fn kill_group(child: &std::process::Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}
