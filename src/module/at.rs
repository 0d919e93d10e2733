//! `at`: commands that run once, later.

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, host, typed};
use crate::system::{Command, Done, Intent, System};
use crate::value::{Value, map_of};

type Result<T> = std::result::Result<T, ModuleError>;

/// Schedules commands with `at`.
pub const MODULE: Module = Module {
    name: "ansible.posix.at",
    summary: "Schedule a command or script to run once",
    description: "Without `unique`, each run schedules the command again. Jobs are recognised by their text.",
    example: "- ansible.posix.at:\n    command: rm -rf /tmp/trial\n    count: 20\n    units: minutes\n    unique: true\n",
    scope: Scope::Host,
    params: &[
        Param::new("command", Type::Str, "The command."),
        Param::new("script_file", Type::Str, "A script on the host instead."),
        Param::new("count", Type::Int, "After how many units."),
        Param::new("units", Type::Str, "Which units.").choices(&["minutes", "hours", "days", "weeks"]),
        Param::new("state", Type::Str, "Whether it should be scheduled.")
            .choices(&["absent", "present"])
            .default("present"),
        Param::new("unique", Type::Bool, "Leave it at a job with the same text.").default("false"),
    ],
    rules: &[
        Rule::MutuallyExclusive(&["command", "script_file"]),
        Rule::RequiredOneOf(&["command", "script_file"]),
        Rule::RequiredIf { param: "state", value: "present", needs: &["count", "units"], any: false },
    ],
    returns: &[
        ("script_file", "The script."),
        ("count", "After how many units."),
        ("units", "Which units."),
        ("state", "Whether it is scheduled."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    command: Option<String>,
    script_file: Option<String>,
    count: Option<i64>,
    units: Option<String>,
    state: String,
    unique: bool,
}

/// Numbers of jobs whose text ends with this one; before it stand the variables of whoever scheduled it.
fn jobs_with(text: &str, system: &mut dyn System) -> Result<Vec<String>> {
    let listed = host::ask(["atq"], system)?;
    if listed.code == 127 && system.uncertain().is_some() {
        return Ok(Vec::new());
    }
    if !listed.success() {
        return Err(ModuleError::command("atq failed", &Command::new(["atq"]), &listed));
    }
    let mut found = Vec::new();
    for number in listed.stdout_text().lines().filter_map(|line| line.split_whitespace().next()) {
        let job = host::ask(["at", "-c", number], system)?.stdout_text();
        if body(&job).trim() == text.trim() {
            found.push(number.to_string());
        }
    }
    Ok(found)
}

/// What was given to `at`: it stands after a line `}` that ends the change of directory, on some systems
/// between two lines with a marker.
fn body(job: &str) -> String {
    let after = job.split_once("\n}\n").map_or(job, |(_, after)| after);
    let mut lines: Vec<&str> = after.lines().collect();
    if let Some(marker) = lines
        .first()
        .and_then(|line| line.split_once("<<").map(|(_, marker)| marker.trim_matches(['\'', '"', ' '])))
    {
        let end = lines.iter().rposition(|line| *line == marker).unwrap_or(lines.len());
        lines = lines[1..end].to_vec();
    }
    lines.join("\n")
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome> {
    host::need_program("at", system)?;
    let text = match (&args.command, &args.script_file) {
        (Some(command), _) => command.clone(),
        (None, Some(path)) => host::read_text(path, system)
            .ok_or_else(|| ModuleError::new(format!("the script {path} can't be read on the host")))?,
        (None, None) => return Err(ModuleError::new("one of command and script_file is needed")),
    };
    let outcome = Outcome::default().set("state", args.state.as_str());
    let shown = text.lines().next().unwrap_or_default().to_string();
    let scheduled: Value = map_of([("command", text.as_str())]).into();
    if args.state == "absent" {
        for number in jobs_with(&text, system)? {
            let intent =
                Intent { kind: "at", id: shown.clone(), before: scheduled.clone(), ..Intent::default() };
            host::carry_out(&Command::new(["atrm", &number]), intent, "atrm failed", system)?;
        }
        return Ok(outcome);
    }
    if args.unique && !jobs_with(&text, system)?.is_empty() {
        return Ok(outcome);
    }
    let (count, units) = (args.count.unwrap_or(0), args.units.as_deref().unwrap_or("minutes"));
    let mut command = Command::new(["at".to_string(), format!("now + {count} {units}")]);
    command.stdin = Some(format!("{}\n", text.trim_end_matches('\n')).into_bytes());
    let intent = Intent { kind: "at", id: shown, after: scheduled, ..Intent::default() };
    if let Done::Made(output) = system.change(&command, intent)?
        && !output.success()
    {
        return Err(ModuleError::command("at does not take the job", &command, &output));
    }
    let script = args.script_file.clone();
    Ok(outcome.set("script_file", script).set("count", count).set("units", units))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::{call, on_fake};
    use crate::system::Output;
    use crate::system::fake::Fake;

    const JOB: &str =
        "#!/bin/sh\numask 22\ncd /root || {\n\t echo 'Execution directory inaccessible' >&2\n\t exit 1\n}\n";

    fn machine() -> Fake {
        let mut fake = Fake::new()
            .with_program("/usr/bin/at")
            .with_file("/state/1", format!("{JOB}rm -rf /x\n\n"))
            .with_command(&["atq"], Output::ok("1\tSat Nov 21 15:00:00 2026 a root\n"));
        fake.on(&["atq"], false, |fake, _| {
            let rows: String = ["1", "2"]
                .iter()
                .filter(|number| fake.text(&format!("/state/{number}")).is_some())
                .map(|number| format!("{number}\tSat\n"))
                .collect();
            Output::ok(&rows)
        });
        fake.on(&["at"], true, |fake, command| {
            if command.argv[1] == "-c" {
                let number = command.argv[2].to_string_lossy().into_owned();
                return Output::ok(&fake.text(&format!("/state/{number}")).unwrap_or_default());
            }
            let text = String::from_utf8_lossy(command.stdin.as_deref().unwrap_or_default()).into_owned();
            fake.put("/state/2", format!("{JOB}{text}"));
            Output::ok("")
        });
        fake.on(&["atrm"], true, |fake, command| {
            let number = command.argv[1].to_string_lossy().into_owned();
            fake.delete(&format!("/state/{number}"));
            Output::ok("")
        });
        fake
    }

    #[test]
    fn jobs_are_scheduled_and_removed() {
        let table: &[(&str, &[&str])] = &[
            (r#"{"command":"rm -rf /x","count":5,"units":"hours","unique":true}"#, &[]),
            (r#"{"command":"ls","count":5,"units":"hours","unique":true}"#, &["at 'now + 5 hours'"]),
            (r#"{"command":"rm -rf /x","state":"absent"}"#, &["atrm 1"]),
            (r#"{"command":"ls","state":"absent"}"#, &[]),
        ];
        for (arguments, expected) in table {
            let verdict = on_fake(&MODULE, machine, arguments);
            assert_eq!(verdict.error, None, "{arguments}");
            assert_eq!(verdict.acted(), *expected, "{arguments}");
        }
        let mut fake = machine();
        let given =
            serde_json::from_str(r#"{"command":"rm -rf /x","count":1,"units":"days"}"#).expect("JSON");
        call(&MODULE, &given, &mut fake).expect("it works");
        assert!(fake.log().iter().any(|line| line == "! at 'now + 1 days'"));
        assert_eq!(
            body(&format!("{JOB}${{SHELL:-/bin/sh}} << 'marcinDELIMITER1'\nls\nmarcinDELIMITER1\n")),
            "ls"
        );
    }
}
