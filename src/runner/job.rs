//! Detached tasks (`async`): a program of their own that outlives the session and leaves its result in a
//! file, where `async_status` finds it.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use crate::module::args::json_text;
use crate::protocol::{Async, Call, Report, Status};
use crate::system::exec::Programs;
use crate::system::local::{Local, NoDepot, random_name};
use crate::system::recorder::Recorder;
use crate::system::{Attributes, Command, Content, Effect, FileKind, Intent, System, WriteOptions};
use crate::value::{Map, Value, map_of};

use super::task::{self, Carried, Kind};

/// Starts a task on its own.
pub(super) fn start(call: &Call, detach: &Async, local: &mut Local) -> Report {
    match try_start(call, detach, local) {
        Ok(report) => report,
        Err(message) => task::failed(call.id, message),
    }
}

fn try_start(call: &Call, detach: &Async, local: &mut Local) -> Result<Report, String> {
    let valid = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    if detach.job.is_empty() || detach.job.starts_with('.') || !detach.job.chars().all(valid) {
        return Err(format!("`{}` is not a name for a job", detach.job));
    }
    let directory = directory(local);
    std::fs::DirBuilder::new()
        .recursive(true)
        .create(&directory)
        .map_err(|error| format!("could not create: {}: {error}", directory.display()))?;
    let path = directory.join(&detach.job);
    let status = map_of([
        ("started", Value::Int(1)),
        ("finished", Value::Int(0)),
        ("ansible_job_id", detach.job.as_str().into()),
    ]);
    save(&path, &Value::map(status))
        .map_err(|error| format!("failed to write {}: {error}", path.display()))?;
    let order = (path.to_string_lossy().into_owned(), detach.clone(), call.clone());
    let order = rmp_serde::to_vec(&order).map_err(|error| error.to_string())?;
    let failed = |error: std::io::Error| format!("failed to start the job: {error}");
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg("--job").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    #[expect(unsafe_code, reason = "the only way to leave the session in the child")]
    // SAFETY: setsid is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            Ok(())
        });
    }
    let mut child = command.spawn().map_err(failed)?;
    let sent = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(&order));
    sent.map_err(failed)?;
    // The child forks once more, so this ends at once and nothing is left to be waited for.
    child.wait().map_err(failed)?;
    let result = map_of([
        ("ansible_job_id", detach.job.as_str().into()),
        ("started", Value::Bool(true)),
        ("finished", Value::Bool(false)),
        ("results_file", path.to_string_lossy().into_owned().into()),
        ("changed", Value::Bool(true)),
    ]);
    Ok(Report { task: call.id, status: Status::Changed, result: Value::map(result), ..Report::default() })
}

/// What a detached task would do: it is done on record, and the result is where `async_status` is going to
/// look for it, on record too.
pub(super) fn rehearse(call: &Call, detach: &Async, local: &mut Local, carried: &mut Carried) -> Report {
    let mut report = task::run(call, Kind::Dry, local, carried);
    let path = directory(local).join(&detach.job);
    let mut result: Map = report.result.as_map().cloned().unwrap_or_default();
    result.insert("started".into(), Value::Int(1));
    result.insert("finished".into(), Value::Int(1));
    result.insert("ansible_job_id".into(), detach.job.as_str().into());
    let content = json_text(&Value::map(result.clone()));
    if let Some(earlier) = carried.overlay.take() {
        let mut recorder = Recorder::resume(&mut *local, earlier);
        let parent = path.parent().map(PathBuf::from).unwrap_or_default();
        let intent = Intent { effects: vec![Effect::Path(parent, FileKind::Directory)], ..Intent::default() };
        let written = recorder.change(&Command::default(), intent).and_then(|_| {
            let content = Content::Bytes(content.into_bytes());
            recorder.write(&path, &content, &Attributes::default(), WriteOptions::default())
        });
        carried.overlay = Some(recorder.into_overlay());
        if let Err(error) = written {
            return task::failed(call.id, error.to_string());
        }
    }
    result.insert("started".into(), Value::Bool(true));
    result.insert("finished".into(), Value::Bool(false));
    result.insert("results_file".into(), path.to_string_lossy().into_owned().into());
    report.result = Value::map(result);
    report
}

/// Where jobs leave their results.
fn directory(local: &mut Local) -> PathBuf {
    match local.env("ANSIBLE_ASYNC_DIR") {
        Some(directory) if directory.starts_with('/') => directory.into(),
        Some(directory) if directory.starts_with("~/") => local.home().join(&directory[2..]),
        _ => local.home().join(".ansible_async"),
    }
}

/// Replaces the status file at once, readable by its owner only.
fn save(path: &Path, status: &Value) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let temporary = path.with_file_name(format!(".{}", random_name()));
    let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let outcome =
        file.write_all(json_text(status).as_bytes()).and_then(|()| std::fs::rename(&temporary, path));
    if outcome.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    outcome
}

/// The job itself: reads its order from standard input.
pub(super) fn main() -> ExitCode {
    let mut order = Vec::new();
    if std::io::stdin().read_to_end(&mut order).is_err() {
        return ExitCode::FAILURE;
    }
    let Ok((path, detach, call)) = rmp_serde::from_slice::<(String, Async, Call)>(&order) else {
        return ExitCode::FAILURE;
    };
    #[expect(unsafe_code, reason = "the only way to leave the parent behind")]
    // SAFETY: there is only this one thread yet.
    match unsafe { libc::fork() } {
        -1 => return ExitCode::FAILURE,
        0 => {}
        _ => return ExitCode::SUCCESS,
    }
    task::quiet_panics();
    let path = PathBuf::from(path);
    let job = detach.job.clone();
    let programs = Programs::default();
    let limited = (path.clone(), job.clone(), detach.limit, programs.clone());
    std::thread::spawn(move || {
        let (path, job, limit, programs) = limited;
        std::thread::sleep(Duration::from_secs(limit.max(1)));
        programs.kill_all();
        let pid = i64::from(std::process::id());
        let status = map_of([
            ("started", Value::Int(1)),
            ("finished", Value::Int(1)),
            ("ansible_job_id", job.into()),
            ("failed", Value::Bool(true)),
            ("msg", "Timeout exceeded".into()),
            ("child_pid", pid.into()),
        ]);
        let _ = save(&path, &Value::map(status));
        std::process::exit(1);
    });
    let mut local = Local::new(Box::new(NoDepot)).ended_by(programs);
    local.set_environment(call.environment.clone());
    let kind = if call.check { Kind::Alone } else { Kind::Real };
    let report = task::run(&call, kind, &mut local, &mut Carried::default());
    let mut status: Map = report.result.as_map().cloned().unwrap_or_default();
    status.insert("started".into(), Value::Int(1));
    status.insert("finished".into(), Value::Int(1));
    status.insert("ansible_job_id".into(), job.into());
    local.clear_scratch();
    let _ = local.sync();
    if save(&path, &Value::map(status)).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
