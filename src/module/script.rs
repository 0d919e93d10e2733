//! `script`: run a script of the controller on the host.

use std::path::Path;

use serde::Deserialize;

use crate::module::command::Guard;
use crate::module::{Module, ModuleError, Outcome, Param, Scope, Type, args, host, typed};
use crate::system::{BlobRef, Command, Done, System};
use crate::value::map_of;

/// Runs a script that the controller holds.
pub const SCRIPT: Module = Module {
    name: "ansible.builtin.script",
    summary: "Run a script of the controller on the host",
    description: "The script is sent to a private directory of the host, run through the login shell of the \
        connection with the arguments that follow its name, and removed. It needs an interpreter on the host, \
        which its first line or `executable` names. In check mode it is not run; with `creates` or `removes` it \
        is known whether it would be.",
    example: "- name: Set up the agent once\n  ansible.builtin.script:\n    cmd: setup_agent.sh --quiet\n    creates: /opt/agent\n",
    scope: Scope::World,
    params: &[
        Param::new("cmd", Type::Str, "Path of the script on the controller, and its arguments."),
        Param::new("chdir", Type::Path, "Directory to run in."),
        Param::new("creates", Type::Path, "If this path exists, nothing is run."),
        Param::new("removes", Type::Path, "If this path does not exist, nothing is run."),
        Param::new("executable", Type::Str, "Program that runs the script, instead of its first line."),
        Param::new("decrypt", Type::Bool, "Decrypt the script if it is in a vault (done by the controller).")
            .default("true"),
        Param::new("_blob", Type::Raw, "The script's content; set by the controller."),
    ],
    free_form: true,
    returns: &[
        ("rc", "Exit status."),
        ("stdout", "Standard output."),
        ("stderr", "Standard error."),
        ("msg", "Why it failed or was not run."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    #[serde(rename = "_raw_params")]
    raw: Option<String>,
    cmd: Option<String>,
    chdir: Option<String>,
    creates: Option<String>,
    removes: Option<String>,
    executable: Option<String>,
    #[serde(rename = "_blob")]
    blob: Option<BlobRef>,
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let line = args.raw.as_deref().or(args.cmd.as_deref()).unwrap_or_default().trim();
    if line.is_empty() {
        return Err(ModuleError::new("one of the following is required: _raw_params, cmd"));
    }
    let words = host::split_words(line).map_err(|reason| ModuleError::new(format!("{reason}: {line}")))?;
    let name = Path::new(&words[0]).file_name().map_or_else(|| "script".into(), |name| name.to_owned());
    let guard = Guard { creates: args.creates.as_deref(), removes: args.removes.as_deref() };
    let cwd = match &args.chdir {
        Some(directory) => Some(args::expand_path(directory, system)?),
        None => None,
    };
    if let Some(reason) = guard.satisfied(cwd.as_deref(), system)? {
        let option =
            if args.creates.is_some() && reason.short.ends_with(" exists") { "creates" } else { "removes" };
        guard.record(system);
        return Ok(Outcome {
            values: map_of([("msg", format!("{}, matching {option} option", reason.short))]),
            skipped: true,
            ..Outcome::default()
        });
    }
    if let Some(cwd) = &cwd
        && !host::is_directory(cwd, system)?
        && system.uncertain().is_none()
    {
        return Err(ModuleError::new(format!(
            "failed to change directory to '{}': it does not exist on the remote host",
            cwd.display()
        )));
    }
    let blob = args.blob.as_ref().ok_or_else(|| ModuleError::new("the script's content was not sent"))?;
    let script = system.scratch()?.join(name);
    let content = system.blob(blob)?;
    let path = script.to_string_lossy().into_owned();
    // Written by a command, because a file in the scratch directory is not a change of the machine.
    let put = Command {
        stdin: Some(content),
        umask: Some(0o077),
        ..Command::new(["/bin/sh", "-c", "cat >\"$1\" && chmod 0700 \"$1\"", "sh", &path])
    };
    let put_output = system.query(&put)?;
    if !put_output.success() {
        return Err(ModuleError::command("failed to write the script", &put, &put_output));
    }
    let mut line = args.executable.iter().cloned().chain([host::quote_word(&path)]).collect::<Vec<_>>();
    line.extend(words[1..].iter().map(|word| host::quote_word(word)));
    let command = Command { cwd, ..Command::new(["/bin/sh".to_string(), "-c".into(), line.join(" ")]) };
    let mut intent = guard.intent(&command);
    intent.id = words.join(" ");
    intent.after = map_of([("script", intent.id.clone())]).into();
    let output = match system.change(&command, intent)? {
        Done::Made(output) => output,
        // Something that is made once is as good as predicted.
        Done::Recorded if args.creates.is_some() || args.removes.is_some() => {
            return Ok(Outcome { changed: Some(true), ..Outcome::default() });
        }
        Done::Recorded => {
            return Ok(Outcome {
                values: map_of([("msg", "Check mode is not supported for this task.")]),
                changed: Some(false),
                skipped: true,
                ..Outcome::default()
            });
        }
    };
    guard.record(system);
    let mut outcome = Outcome::default()
        .set("rc", output.code)
        .set("stdout", output.stdout_text())
        .set("stderr", output.stderr_text());
    outcome.changed = Some(true);
    if !output.success() {
        outcome.failed = true;
        outcome = outcome.set("msg", "non-zero return code");
    }
    Ok(outcome)
}
