//! `patch`: applies a patch file.

use std::path::PathBuf;

use serde::Deserialize;

use crate::module::copy::Blob;
use crate::module::{Module, ModuleError, Outcome, Param, Rule, Type, files, typed};
use crate::system::{Attributes, Command, Effect, Intent, System, WriteOptions};
use crate::value::{Value, map_of};

type Result<T> = std::result::Result<T, ModuleError>;

/// The module.
pub const MODULE: Module = Module {
    name: "ansible.posix.patch",
    summary: "Applies a patch to files of a host",
    description: "Applies a patch, or with `state: absent` takes it back, unless that is done already. The host needs `patch`. \
        A patch that does not fit changes nothing.",
    example: "- name: Fix the application\n  ansible.posix.patch:\n    src: fix.patch\n    basedir: /opt/app\n    strip: 1\n",
    params: &[
        Param::new("src", Type::Path, "The patch.").required().aliases(&["patchfile"]),
        Param::new("basedir", Type::Path, "Directory to start in."),
        Param::new("dest", Type::Path, "The one file to change; by default the patch says which.")
            .aliases(&["originalfile"]),
        Param::new("state", Type::Str, "Whether the patch should be applied.")
            .choices(&["absent", "present"])
            .default("present"),
        Param::new("strip", Type::Int, "How many directories to take from the names in the patch.")
            .default("0"),
        Param::new("remote_src", Type::Bool, "The patch is on the host.").default("false"),
        Param::new("backup", Type::Bool, "Keep a copy of what is changed.").default("false"),
        Param::new("binary", Type::Bool, "Keep the ends of lines as they are.").default("false"),
        Param::new("ignore_whitespace", Type::Bool, "Let blanks differ.").default("false"),
        Param::new("_blob", Type::Dict, ""),
    ],
    rules: &[Rule::RequiredOneOf(&["dest", "basedir"])],
    returns: &[("msg", "What `patch` said.")],
    run,
    ..Module::DEFAULT
};

#[derive(Deserialize)]
struct Args {
    src: String,
    basedir: Option<String>,
    dest: Option<String>,
    state: String,
    strip: u32,
    backup: bool,
    binary: bool,
    ignore_whitespace: bool,
    #[serde(rename = "_blob")]
    blob: Option<Blob>,
}

fn run(args: Value, system: &mut dyn System) -> Result<Outcome> {
    let args: Args = typed(args)?;
    let src = match &args.blob {
        Some(blob) => {
            let path = system.scratch()?.join("patch");
            let private = Attributes { mode: Some(0o600), ..Attributes::default() };
            system.write(&path, &blob.content(), &private, WriteOptions::default())?;
            path
        }
        None => {
            let path = files::path_arg(system, &args.src)?;
            if system.stat_follow(&path)?.is_none() {
                if let Some(outcome) = files::uncertain(system, &path) {
                    return Ok(outcome);
                }
                return Err(ModuleError::new(format!(
                    "src {} doesn't exist or not readable",
                    path.display()
                )));
            }
            path
        }
    };
    let dest = args.dest.as_deref().map(|path| files::path_arg(system, path)).transpose()?;
    let basedir = match (&args.basedir, &dest) {
        (Some(path), _) => files::path_arg(system, path)?,
        (None, Some(dest)) => files::parent_of(dest),
        (None, None) => PathBuf::from("."),
    };
    for path in dest.iter().chain([&basedir]) {
        if system.stat_follow(path)?.is_none() {
            if let Some(outcome) = files::uncertain(system, path) {
                return Ok(outcome);
            }
            return Err(ModuleError::new(format!("dest {} doesn't exist", path.display())));
        }
    }
    let command = |reverse: bool, dry: bool| {
        let mut command = Command::new(["patch", "--force", "--quiet"]).c_locale();
        command.argv.push(if reverse { "--reverse" } else { "--forward" }.into());
        if dry {
            command.argv.push("--dry-run".into());
        } else if args.backup {
            command.argv.extend(["--backup".into(), "--version-control=numbered".into()]);
        }
        if args.binary {
            command.argv.push("--binary".into());
        }
        if args.ignore_whitespace {
            command.argv.push("--ignore-whitespace".into());
        }
        command.argv.extend([
            "--reject-file=-".into(),
            format!("--strip={}", args.strip).into(),
            format!("--directory={}", basedir.display()).into(),
            format!("--input={}", src.display()).into(),
        ]);
        command.argv.extend(dest.iter().map(|path| path.clone().into_os_string()));
        command
    };
    let back = args.state == "absent";
    let Some(done) = files::try_query(system, &command(!back, true))? else {
        if let Some(outcome) = files::uncertain(system, &basedir) {
            return Ok(outcome);
        }
        return Err(ModuleError::new("Failed to find required executable \"patch\" in paths"));
    };
    if done.success() {
        return Ok(Outcome::default());
    }
    let dry = command(back, true);
    let fits = system.query(&dry)?;
    if !fits.success() {
        return Err(ModuleError::command("the patch does not fit", &dry, &fits));
    }
    let act = command(back, false);
    let intent = Intent {
        kind: "patch",
        id: files::text_of(dest.as_ref().unwrap_or(&basedir)),
        after: map_of([("patch", args.src.as_str()), ("state", args.state.as_str())]).into(),
        undo: Some(command(!back, false)),
        effects: vec![Effect::Anything],
        ..Intent::default()
    };
    let output = system.change(&act, intent)?.output();
    if !output.success() {
        return Err(ModuleError::command("patch failed", &act, &output));
    }
    Ok(Outcome::default().set("msg", output.stdout_text().trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::contract;

    #[test]
    fn applies_and_takes_back() {
        if std::process::Command::new("patch").arg("--version").output().is_err() {
            // Nothing to test with.
            return;
        }
        let patch = "f p 644 --- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n one\n-two\n+three\n";
        for (text, state, expected) in [
            ("one\ntwo\n", "present", Ok("f x 644 one\nthree\n")),
            ("one\nthree\n", "present", Ok("f x 644 one\nthree\n")),
            ("one\nthree\n", "absent", Ok("f x 644 one\ntwo\n")),
            ("else\n", "present", Err("the patch does not fit")),
        ] {
            let args = format!(
                r#"{{"src": "@/p", "remote_src": true, "basedir": "@", "strip": 1, "state": "{state}"}}"#
            );
            let verdict = contract(&MODULE, &[patch, &format!("f x 644 {text}")], &args);
            match expected {
                Ok(line) => {
                    assert_eq!(verdict.error, None, "{text:?} {state}");
                    assert!(verdict.tree.contains(&line.to_string()), "{text:?} {state}: {:?}", verdict.tree);
                }
                Err(start) => assert!(verdict.error.expect("fails").starts_with(start)),
            }
        }
    }
}
