//! `composer`: libraries of PHP projects.

use std::collections::HashSet;

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, args, host, typed};
use crate::system::{Command, Effect, Intent, System};
use crate::value::{Value, map_of};

/// Runs composer.
pub const MODULE: Module = Module {
    name: "community.general.composer",
    summary: "Install libraries of a PHP project with composer",
    description: "Composer is run each time, because it also makes the project's autoloader and runs its scripts. Whether that is \
        a change is asked of its own `--dry-run` beforehand; a command that has none is one each time.",
    example: "- community.general.composer:\n    command: install\n    working_dir: /srv/app\n",
    scope: Scope::World,
    params: &[
        Param::new("command", Type::Str, "Command of composer, such as `install`, `update` or `require`.")
            .default("install"),
        Param::new("arguments", Type::Str, "Its arguments, such as names of packages.").default(""),
        Param::new("working_dir", Type::Path, "Directory of the project."),
        Param::new("global_command", Type::Bool, "Work on what all projects of the user share.")
            .default("false"),
        Param::new("executable", Type::Path, "The php to use.").aliases(&["php_path"]),
        Param::new("composer_executable", Type::Path, "The composer to use."),
        Param::new("prefer_source", Type::Bool, "Get sources rather than archives.").default("false"),
        Param::new("prefer_dist", Type::Bool, "Get archives also of versions in development.")
            .default("false"),
        Param::new("no_dev", Type::Bool, "Leave out packages for development.").default("true"),
        Param::new("no_scripts", Type::Bool, "Run none of the project's scripts.").default("false"),
        Param::new("no_plugins", Type::Bool, "Use no plugins.").default("false"),
        Param::new("optimize_autoloader", Type::Bool, "Make a list of all classes for the autoloader.")
            .default("true"),
        Param::new("classmap_authoritative", Type::Bool, "Load classes only from that list.")
            .default("false"),
        Param::new("apcu_autoloader", Type::Bool, "Keep what the autoloader found in memory.")
            .default("false"),
        Param::new("ignore_platform_reqs", Type::Bool, "Do not look at PHP's version and extensions.")
            .default("false"),
    ],
    rules: &[Rule::RequiredIf {
        param: "global_command",
        value: "false",
        needs: &["working_dir"],
        any: false,
    }],
    returns: &[("msg", "What composer printed, in one line."), ("stdout", "What composer printed.")],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    command: String,
    arguments: String,
    working_dir: Option<String>,
    global_command: bool,
    executable: Option<String>,
    composer_executable: Option<String>,
    prefer_source: bool,
    prefer_dist: bool,
    no_dev: bool,
    no_scripts: bool,
    no_plugins: bool,
    optimize_autoloader: bool,
    classmap_authoritative: bool,
    apcu_autoloader: bool,
    ignore_platform_reqs: bool,
}

impl Args {
    /// Options that are asked for, where the command has them.
    fn options(&self) -> [(bool, &'static str); 12] {
        [
            (true, "no-ansi"),
            (true, "no-interaction"),
            (true, "no-progress"),
            (self.prefer_source, "prefer-source"),
            (self.prefer_dist, "prefer-dist"),
            (self.no_dev, "no-dev"),
            (self.no_scripts, "no-scripts"),
            (self.no_plugins, "no-plugins"),
            (self.apcu_autoloader, "apcu-autoloader"),
            (self.optimize_autoloader, "optimize-autoloader"),
            (self.classmap_authoritative, "classmap-authoritative"),
            (self.ignore_platform_reqs, "ignore-platform-reqs"),
        ]
    }
}

/// A program that a task names, or the one that is found.
fn program(given: Option<&String>, name: &str, system: &mut dyn System) -> Result<String, ModuleError> {
    match given {
        Some(path) => Ok(args::expand_path(path, system)?.to_string_lossy().into_owned()),
        None => host::need_program(name, system),
    }
}

/// The names of the options that a command of composer has. Empty, in a dry run, if composer is not there yet.
fn available(
    program: &[String],
    command: &str,
    system: &mut dyn System,
) -> Result<HashSet<String>, ModuleError> {
    let help = ["help", command, "--no-interaction", "--format=json"].map(String::from);
    let help = Command::new([program, &help].concat()).c_locale();
    let failed = match system.query(&help) {
        Ok(output) if output.success() => {
            let text = output.stdout_text();
            let parsed: Value =
                serde_json::from_str(text.get(text.find('{').unwrap_or(0)..).unwrap_or_default())
                    .map_err(|error| ModuleError::new(format!("composer's help can't be read: {error}")))?;
            let options = parsed.get("definition").and_then(|definition| definition.get("options"));
            let names = options.and_then(Value::as_map).into_iter().flat_map(crate::value::Map::keys);
            return Ok(names.map(Value::to_text).collect());
        }
        Ok(output) => ModuleError::command("composer failed", &help, &output),
        Err(error) => error.into(),
    };
    if system.uncertain().is_some() { Ok(HashSet::new()) } else { Err(failed) }
}

fn has_changed(text: &str) -> bool {
    !["Nothing to install or update", "Nothing to install, update or remove"]
        .iter()
        .any(|sentence| text.contains(sentence))
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    if args.command.contains(char::is_whitespace) {
        return Err(ModuleError::new("Use the 'arguments' param for passing arguments with the 'command'"));
    }
    let composer = [
        program(args.executable.as_ref(), "php", system)?,
        program(args.composer_executable.as_ref(), "composer", system)?,
    ];
    let available = available(&composer, &args.command, system)?;
    let mut words = composer.to_vec();
    words.extend(args.global_command.then(|| "global".to_string()));
    words.push(args.command.clone());
    let options = args.options().into_iter().filter(|(asked, name)| *asked && available.contains(*name));
    words.extend(options.map(|(_, name)| format!("--{name}")));
    let mut place = "global".to_string();
    if let Some(directory) = args.working_dir.as_ref().filter(|_| !args.global_command) {
        place = args::expand_path(directory, system)?.to_string_lossy().into_owned();
        words.extend(["--working-dir".to_string(), place.clone()]);
    }
    let arguments = host::split_words(&args.arguments).map_err(ModuleError::new)?;
    let command = |more: &[&str]| {
        let more = more.iter().map(ToString::to_string);
        Command::new(words.iter().cloned().chain(more).chain(arguments.iter().cloned())).c_locale()
    };
    let told = |output: &crate::system::Output| output.stdout_text() + &output.stderr_text();
    let is_due = if available.contains("dry-run") {
        let asked = system.query(&command(&["--dry-run"]))?;
        // Where it fails, the real run says why.
        !asked.success() || has_changed(&told(&asked))
    } else {
        true
    };
    let real = command(&[]);
    let intent = Intent {
        // The autoloader and what scripts do is no change.
        kind: if is_due { "composer" } else { "" },
        id: format!("{} in {place}", args.command),
        after: map_of([("command", real.line())]).into(),
        effects: if is_due { vec![Effect::Anything] } else { Vec::new() },
        ..Intent::default()
    };
    let output = host::carry_out(&real, intent, "composer failed", system)?;
    let text = told(&output);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    Ok(Outcome::default().set("msg", line).set("stdout", text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::on_fake;
    use crate::system::Output;
    use crate::system::fake::Fake;

    const HELP: &str = r#"{"definition": {"options": {"no-interaction": {}, "no-progress": {}, "no-dev": {}, "optimize-autoloader": {}, "dry-run": {}}}}"#;

    /// A project whose libraries are there once composer ran.
    fn project() -> Fake {
        Fake::new()
            .with_program("/usr/bin/php")
            .with_program("/usr/bin/composer")
            .with_program("/opt/composer")
            .with_dir("/srv/app")
            .with_behaviour(&["php"], |fake, command| {
                let line = command.line();
                if line.contains(" help ") {
                    let options =
                        if line.contains(" status ") { "{\"definition\": {\"options\": {}}}" } else { HELP };
                    return Output::ok(options);
                }
                if line.contains("broken") {
                    return Output::fails(2, "No composer.json");
                }
                let nothing = "Nothing to install, update or remove\nGenerating autoload files\n";
                let there = fake.text("/srv/app/vendor").is_some();
                if !line.contains("--dry-run") && !there && line.contains(" install ") {
                    fake.put("/srv/app/vendor", "");
                }
                Output::ok(if there { nothing } else { "  - Installing a/b\n" })
            })
    }

    #[test]
    fn composer_runs_each_time_and_changes_once() {
        let table: &[(&str, &str)] = &[
            (
                r#"{"working_dir": "/srv/app"}"#,
                "install --no-interaction --no-progress --no-dev --optimize-autoloader --working-dir /srv/app",
            ),
            (
                r#"{"working_dir": "/srv/app", "no_dev": false, "optimize_autoloader": false, "arguments": "a/b 'c d'",
                    "composer_executable": "/opt/composer", "prefer_dist": true}"#,
                "install --no-interaction --no-progress --working-dir /srv/app a/b 'c d'",
            ),
            (
                r#"{"global_command": true}"#,
                "global install --no-interaction --no-progress --no-dev --optimize-autoloader",
            ),
        ];
        for (arguments, expected) in table {
            let verdict = on_fake(&MODULE, project, arguments);
            assert_eq!((verdict.error.clone(), verdict.changed), (None, true), "{arguments}");
            assert!(verdict.acted()[0].ends_with(&format!("composer {expected}")), "{:?}", verdict.acted());
            assert_eq!(verdict.text("msg"), "- Installing a/b");
        }
        let converged = || project().with_file("/srv/app/vendor", "");
        let verdict = on_fake(&MODULE, converged, r#"{"working_dir": "/srv/app"}"#);
        assert_eq!((verdict.error.clone(), verdict.changed, verdict.acted().len()), (None, false, 1));
    }

    #[test]
    fn what_can_not_work_is_told() {
        for (arguments, expected) in [
            (r#"{"command": "require a/b", "working_dir": "/srv/app"}"#, "Use the 'arguments' param"),
            (r#"{}"#, "working_dir"),
            (r#"{"working_dir": "/srv/app", "arguments": "'"}"#, "No closing quotation"),
            (r#"{"working_dir": "/broken"}"#, "composer failed: No composer.json"),
        ] {
            let error = on_fake(&MODULE, project, arguments).error.unwrap_or_default();
            assert!(error.contains(expected), "{arguments}: {error}");
        }
        let none = on_fake(&MODULE, Fake::new, r#"{"global_command": true}"#);
        assert!(none.error.unwrap_or_default().contains("executable \"php\""));
    }
}
