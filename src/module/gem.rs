//! `gem`: packages of Ruby.

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, args, host, typed};
use crate::system::{Applied, Command, Effect, Intent, System};
use crate::value::{Value, map_of};

/// Installs and removes packages of Ruby.
pub const MODULE: Module = Module {
    name: "community.general.gem",
    summary: "Install and remove packages of Ruby",
    description: "Asks gem which versions of the package are installed, and runs it only if the package is missing, or \
        the version is, or (with `latest`) a newer one can be had.",
    example: "- community.general.gem:\n    name: vagrant\n    version: '1.0'\n    user_install: false\n",
    scope: Scope::World,
    params: &[
        Param::new("name", Type::Str, "The package.").required(),
        Param::new("state", Type::Str, "Whether it should be there, or be the newest.")
            .choices(&["present", "absent", "latest"])
            .default("present"),
        Param::new("gem_source", Type::Path, "A package file on the host."),
        Param::new("include_dependencies", Type::Bool, "Install what it needs too.").default("true"),
        Param::new("repository", Type::Str, "Address of the source.").aliases(&["source"]),
        Param::new("user_install", Type::Bool, "Install it for the user rather than for all.")
            .default("true"),
        Param::new("executable", Type::Path, "The gem to use."),
        Param::new("install_dir", Type::Path, "Directory to install into."),
        Param::new("bindir", Type::Path, "Directory for programs."),
        Param::new("norc", Type::Bool, "Do not read settings of the user.").default("true"),
        Param::new("env_shebang", Type::Bool, "Start programs through `env`.").default("false"),
        Param::new("version", Type::Str, "The version."),
        Param::new("pre_release", Type::Bool, "Versions before a release are good too.").default("false"),
        Param::new("include_doc", Type::Bool, "Install documentation.").default("false"),
        Param::new("build_flags", Type::Str, "Flags for building extensions."),
        Param::new("force", Type::Bool, "Go on where gem would stop.").default("false"),
    ],
    rules: &[
        Rule::MutuallyExclusive(&["gem_source", "repository"]),
        Rule::MutuallyExclusive(&["gem_source", "version"]),
    ],
    returns: &[
        ("name", "The package."),
        ("state", "What it should be."),
        ("version", "The version, if asked for."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    name: String,
    state: String,
    gem_source: Option<String>,
    include_dependencies: bool,
    repository: Option<String>,
    user_install: bool,
    executable: Option<String>,
    install_dir: Option<String>,
    bindir: Option<String>,
    norc: bool,
    env_shebang: bool,
    version: Option<String>,
    pre_release: bool,
    include_doc: bool,
    build_flags: Option<String>,
    force: bool,
}

/// The versions that `gem list` names for a package: `a (1.2, default: 1.0)`.
fn versions(text: &str, name: &str) -> Vec<String> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_prefix('('));
    let list = line.and_then(|line| line.split_once(')')).map_or("", |(list, _)| list);
    list.split(',')
        .filter_map(|part| part.trim().trim_start_matches("default: ").split_whitespace().next())
        .map(String::from)
        .collect()
}

fn list(
    args: &Args,
    program: &[String],
    remote: bool,
    system: &mut dyn System,
) -> Result<Vec<String>, ModuleError> {
    let mut argv = program.to_vec();
    argv.push("list".into());
    if args.norc {
        argv.push("--norc".into());
    }
    argv.push(if remote { "--remote" } else { "--local" }.into());
    if let (true, Some(source)) = (remote, &args.repository) {
        argv.extend(["--source".to_string(), source.clone()]);
    }
    argv.extend(["-e".to_string(), args.name.clone()]);
    let mut command = Command::new(argv).c_locale();
    if let Some(directory) = &args.install_dir {
        command
            .env
            .push(("GEM_HOME".into(), args::expand_path(directory, system)?.to_string_lossy().into_owned()));
    }
    let output = system.query(&command)?;
    if !output.success() && system.uncertain().is_none() {
        return Err(ModuleError::command("gem failed", &command, &output));
    }
    Ok(versions(&output.stdout_text(), &args.name))
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    if args.version.is_some() && args.state == "latest" {
        return Err(ModuleError::new("Cannot specify version when state=latest"));
    }
    if args.gem_source.is_some() && args.state == "latest" {
        return Err(ModuleError::new("Cannot maintain state=latest when installing from local source"));
    }
    if args.user_install && args.install_dir.is_some() {
        return Err(ModuleError::new("install_dir requires user_install=false"));
    }
    let program = match &args.executable {
        Some(line) => host::split_words(line).map_err(ModuleError::new)?,
        None => vec![host::need_program("gem", system)?],
    };
    let now = list(args, &program, false, system)?;
    let there = match &args.version {
        Some(version) => now.contains(version),
        None => !now.is_empty(),
    };
    let due = match args.state.as_str() {
        "absent" => there,
        "latest" => {
            let newest = list(args, &program, true, system)?;
            !there || newest.first().is_some_and(|newest| !now.contains(newest))
        }
        _ => !there,
    };
    if due {
        change(args, &program, &now, system)?;
    }
    let state = match args.state.as_str() {
        "absent" => Value::Null,
        _ => map_of([("version", args.version.clone())]).into(),
    };
    system.applied(Applied { kind: "gem".into(), id: args.name.clone(), state });
    let mut outcome = Outcome::default().set("name", args.name.as_str()).set("state", args.state.as_str());
    if let Some(version) = &args.version {
        outcome = outcome.set("version", version.as_str());
    }
    Ok(outcome)
}

fn change(
    args: &Args,
    program: &[String],
    now: &[String],
    system: &mut dyn System,
) -> Result<(), ModuleError> {
    let mut argv = program.to_vec();
    let mut add = |word: &str| argv.push(word.to_string());
    let place = |path: &Option<String>, system: &mut dyn System| {
        path.as_ref().map(|path| args::expand_path(path, system)).transpose()
    };
    let (directory, bin) = (place(&args.install_dir, system)?, place(&args.bindir, system)?);
    let absent = args.state == "absent";
    add(if absent { "uninstall" } else { "install" });
    if args.norc {
        add("--norc");
    }
    if let Some(directory) = &directory {
        add("--install-dir");
        add(&directory.to_string_lossy());
    }
    if let Some(bin) = &bin {
        add("--bindir");
        add(&bin.to_string_lossy());
    }
    if absent {
        match &args.version {
            Some(version) => {
                add("--version");
                add(version);
            }
            None => {
                add("--all");
                add("--executable");
            }
        }
        if args.force {
            add("--force");
        }
        add(&args.name);
    } else {
        if let Some(version) = &args.version {
            add("--version");
            add(version);
        }
        if let Some(source) = &args.repository {
            add("--source");
            add(source);
        }
        for (given, word) in [
            (!args.include_dependencies, "--ignore-dependencies"),
            (directory.is_none() && args.user_install, "--user-install"),
            (directory.is_none() && !args.user_install, "--no-user-install"),
            (args.pre_release, "--pre"),
            (!args.include_doc, "--no-document"),
            (args.env_shebang, "--env-shebang"),
            (args.force, "--force"),
        ] {
            if given {
                add(word);
            }
        }
        match &args.gem_source {
            Some(file) => add(&args::expand_path(file, system)?.to_string_lossy()),
            None => add(&args.name),
        }
        if let Some(flags) = &args.build_flags {
            add("--");
            for flag in host::split_words(flags).map_err(ModuleError::new)? {
                add(&flag);
            }
        }
    }
    let state = |versions: &[String]| {
        if versions.is_empty() { Value::Null } else { map_of([("versions", versions.to_vec())]).into() }
    };
    let after = if absent {
        Value::Null
    } else {
        map_of([("version", args.version.clone().unwrap_or_else(|| "newest".into()))]).into()
    };
    let intent = Intent {
        kind: "gem",
        id: args.name.clone(),
        before: state(now),
        after,
        effects: vec![Effect::Anything],
        ..Intent::default()
    };
    let mut command = Command::new(argv).c_locale();
    if let (true, Some(directory)) = (absent, &directory) {
        command.env.push(("GEM_HOME".into(), directory.to_string_lossy().into_owned()));
    }
    host::act("gem failed", &command, intent, system).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::Output;
    use crate::system::fake::Fake;

    #[test]
    fn gem_runs_only_if_something_differs() {
        for (given, expected) in [
            (vec![("name", "rake")], None),
            (vec![("name", "rake"), ("version", "12.0")], None),
            (
                vec![("name", "rake"), ("version", "13.1"), ("user_install", "no")],
                Some("install --norc --version 13.1 --no-user-install --no-document rake"),
            ),
            (
                vec![("name", "rake"), ("state", "latest")],
                Some("install --norc --user-install --no-document rake"),
            ),
            (vec![("name", "rake"), ("state", "absent")], Some("uninstall --norc --all --executable rake")),
            (vec![("name", "rak"), ("state", "absent")], None),
            (
                vec![("name", "b"), ("build_flags", "--with-x='a b'"), ("repository", "http://g")],
                Some("install --norc --source http://g --user-install --no-document b -- '--with-x=a b'"),
            ),
        ] {
            let mut fake =
                Fake::new().with_program("/usr/bin/gem").with_behaviour(&["gem"], |_, command| match command
                    .line()
                {
                    line if line.contains("--remote") => Output::ok("rake (13.2)\n"),
                    line if line.contains(" list ") && line.ends_with(" rake") => {
                        Output::ok("\nrake (13.0.6, default: 12.0)\n")
                    }
                    _ => Output::ok(""),
                });
            call(&MODULE, &map_of(given.clone()).into(), &mut fake).expect("it works");
            let acted = fake.log().iter().find_map(|line| line.strip_prefix("! /usr/bin/gem "));
            assert_eq!(acted, expected, "{given:?}");
        }
        let given = map_of([("name", "a"), ("version", "1"), ("state", "latest")]);
        call(&MODULE, &given.into(), &mut Fake::new()).expect_err("both");
    }
}
