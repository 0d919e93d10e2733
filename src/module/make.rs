//! `make`: targets of a makefile.

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, args, host, typed};
use crate::system::{Command, Done, Intent, Output, System};
use crate::value::{Map, Value, map_of};

/// Runs make where a target is not up to date.
pub const MODULE: Module = Module {
    name: "community.general.make",
    summary: "Run targets of a makefile",
    description: "Asks `make --question` first: nothing is done, and nothing changed, if all targets are up to date.",
    example: "- name: Build it\n  community.general.make:\n    chdir: /usr/src/app\n    target: all\n    params:\n      PREFIX: /opt/app\n",
    scope: Scope::World,
    params: &[
        Param::new("chdir", Type::Path, "Directory to run in.").required(),
        Param::new("target", Type::Str, "The target; without it, the makefile's first."),
        Param::new("targets", Type::List, "Several targets."),
        Param::new("params", Type::Dict, "Variables; one without a value is given by its name alone."),
        Param::new("file", Type::Path, "The makefile, if it has another name."),
        Param::new("jobs", Type::Int, "How many commands run at once."),
        Param::new("make", Type::Path, "The program; without it, `gmake` or `make`."),
    ],
    rules: &[Rule::MutuallyExclusive(&["target", "targets"])],
    returns: &[
        ("stdout", "What make printed."),
        ("stderr", "What make complained about."),
        ("command", "The command."),
        ("chdir", "The directory."),
        ("file", "The makefile."),
        ("jobs", "How many commands ran at once."),
        ("params", "The variables."),
        ("target", "The target."),
        ("targets", "The targets."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    chdir: String,
    target: Option<String>,
    #[serde(deserialize_with = "host::optional_texts")]
    targets: Option<Vec<String>>,
    params: Option<Map>,
    file: Option<String>,
    jobs: Option<i64>,
    make: Option<String>,
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let program = match &args.make {
        Some(path) => args::expand_path(path, system)?.to_string_lossy().into_owned(),
        None => match host::find_program("gmake", system)? {
            Some(path) => path.to_string_lossy().into_owned(),
            None => host::need_program("make", system)?,
        },
    };
    let directory = args::expand_path(&args.chdir, system)?;
    let mut words = vec![program];
    words.extend(args.jobs.iter().flat_map(|jobs| ["-j".to_string(), jobs.to_string()]));
    let file = match &args.file {
        Some(file) => Some(args::expand_path(file, system)?.to_string_lossy().into_owned()),
        None => None,
    };
    words.extend(file.iter().flat_map(|file| ["-f".to_string(), file.clone()]));
    words.extend(args.target.clone());
    words.extend(args.targets.iter().flatten().cloned());
    for (name, value) in args.params.iter().flatten() {
        let name = name.to_text();
        words.push(if value.is_null() { name } else { format!("{name}={}", value.to_text()) });
    }
    let command = |words: &[String]| {
        let mut command = Command::new(words).c_locale();
        command.cwd = Some(directory.clone());
        command
    };
    let mut question = words.clone();
    question.insert(1, "--question".into());
    let asked = system.query(&command(&question));
    let up_to_date = match asked {
        Ok(output) => output.success(),
        // The program or the directory may come with what this dry run would do.
        Err(_) if system.uncertain().is_some() => false,
        Err(error) => return Err(error.into()),
    };
    let made = command(&words);
    let output = if up_to_date {
        Output::default()
    } else {
        let id = args.target.clone().unwrap_or_else(|| args.targets.clone().unwrap_or_default().join(" "));
        let intent = Intent {
            kind: "command",
            id: format!("make {id} in {}", directory.display()),
            after: map_of([("command", made.line())]).into(),
            effects: vec![crate::system::Effect::Anything],
            ..Intent::default()
        };
        match system.change(&made, intent)? {
            Done::Made(output) if !output.success() => {
                return Err(ModuleError::command("make failed", &made, &output));
            }
            done => done.output(),
        }
    };
    Ok(Outcome::default()
        .set("stdout", output.stdout_text().trim_end())
        .set("stderr", output.stderr_text().trim_end())
        .set("command", made.line())
        .set("chdir", directory.to_string_lossy().into_owned())
        .set("file", file)
        .set("jobs", args.jobs)
        .set("params", args.params.clone().map_or(Value::Null, Value::map))
        .set("target", args.target.clone())
        .set(
            "targets",
            args.targets.clone().map_or(Value::Null, |targets| {
                Value::list(targets.iter().cloned().map(Value::from).collect())
            }),
        ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::{contract, on_fake};
    use crate::system::fake::Fake;

    #[test]
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    fn what_is_not_up_to_date_is_made() {
        if !std::path::Path::new("/usr/bin/make").exists() {
            eprintln!("skipped: no make");
            return;
        }
        let start = ["f Makefile 644 out:\n\techo $(X) > out\nall: out\n"];
        let verdict =
            contract(&MODULE, &start, r#"{"chdir":"@","target":"all","params":{"X":"1"},"jobs":2}"#);
        assert!(verdict.changed && verdict.tree[1].starts_with("f out 644 1"), "{verdict:?}");
        assert!(verdict.text("command").ends_with("make -j 2 all X=1"), "{verdict:?}");
        let verdict = contract(
            &MODULE,
            &["f Makefile 644 out:\n\techo > out\n", "f out 644 x"],
            r#"{"chdir":"@","targets":["out"]}"#,
        );
        assert!(!verdict.changed, "{verdict:?}");
        let machine = || {
            let none = Output { code: 1, ..Output::default() };
            Fake::new()
                .with_program("/usr/bin/make")
                .with_command_prefix(&["/usr/bin/make"], Output::fails(2, "no rule"))
                .with_command_prefix(&["/usr/bin/make", "--question"], none)
        };
        let failed = on_fake(&MODULE, machine, r#"{"chdir":"/tmp"}"#);
        assert_eq!(failed.error.unwrap_or_default(), "make failed: no rule");
    }

    #[test]
    fn the_program_may_be_another() {
        let machine = || {
            Fake::new()
                .with_program("/opt/make")
                .with_dir("/src")
                .with_command_prefix(&["/opt/make"], Output::ok("done"))
        };
        let verdict = on_fake(&MODULE, machine, r#"{"chdir":"/src","make":"/opt/make","file":"/src/M"}"#);
        assert_eq!(verdict.log, ["/opt/make --question -f /src/M"]);
    }
}
