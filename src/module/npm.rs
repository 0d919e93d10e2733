//! `npm`: packages of Node.js.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, args, host, typed};
use crate::system::{Applied, Command, Effect, Intent, System};
use crate::value::{Value, map_of};

/// Installs and removes packages of Node.js.
pub const MODULE: Module = Module {
    name: "community.general.npm",
    summary: "Install and remove packages of Node.js",
    description: "For a package by name, what is installed is read from its `package.json`, so that npm runs only if the \
        package is missing or has another version. Without a name, all packages that the project's `package.json` names \
        are installed. With `latest`, npm is asked what is outdated.",
    example: "- ansible.builtin.apt:\n    name: npm\n\n- community.general.npm:\n    name: coffee-script\n    version: '1.6.1'\n    path: /srv/app\n",
    scope: Scope::World,
    params: &[
        Param::new("name", Type::Str, "The package; all of the project's if not given."),
        Param::new("path", Type::Path, "Directory of the project."),
        Param::new("version", Type::Str, "Version of the package."),
        Param::new("global", Type::Bool, "Install it for all projects.").default("false"),
        Param::new("executable", Type::Path, "The npm to use."),
        Param::new("ignore_scripts", Type::Bool, "Run no scripts of packages.").default("false"),
        Param::new("unsafe_perm", Type::Bool, "Run scripts of packages as root.").default("false"),
        Param::new("ci", Type::Bool, "Install exactly what `package-lock.json` says.").default("false"),
        Param::new("production", Type::Bool, "Leave out packages for development.").default("false"),
        Param::new("registry", Type::Str, "Address of the registry."),
        Param::new("state", Type::Str, "Whether it should be there, or be the newest.")
            .choices(&["present", "absent", "latest"])
            .default("present"),
        Param::new("no_optional", Type::Bool, "Leave out optional packages.").default("false"),
        Param::new("no_bin_links", Type::Bool, "Make no links to programs.").default("false"),
        Param::new("force", Type::Bool, "Go on where npm would stop.").default("false"),
    ],
    rules: &[Rule::RequiredIf { param: "state", value: "absent", needs: &["name"], any: false }],
    returns: &[],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    name: Option<String>,
    path: Option<String>,
    version: Option<String>,
    global: bool,
    executable: Option<String>,
    ignore_scripts: bool,
    unsafe_perm: bool,
    ci: bool,
    production: bool,
    registry: Option<String>,
    state: String,
    no_optional: bool,
    no_bin_links: bool,
    force: bool,
}

struct Npm<'a> {
    args: &'a Args,
    program: Vec<String>,
    directory: Option<PathBuf>,
}

impl Npm<'_> {
    fn command(&self, verb: &[&str], with_name: bool) -> Command {
        let args = self.args;
        let mut argv = self.program.clone();
        argv.extend(verb.iter().map(ToString::to_string));
        let mut flag = |given: bool, text: &str| argv.extend(given.then(|| text.to_string()));
        flag(args.global, "--global");
        flag(args.production && ["install", "update", "outdated"].contains(&verb[0]), "--production");
        flag(args.ignore_scripts, "--ignore-scripts");
        flag(args.unsafe_perm, "--unsafe-perm");
        flag(args.force, "--force");
        flag(args.no_optional, "--no-optional");
        flag(args.no_bin_links, "--no-bin-links");
        argv.extend(args.registry.iter().flat_map(|registry| ["--registry".to_string(), registry.clone()]));
        if let Some(name) = args.name.as_ref().filter(|_| with_name) {
            let version = args.version.as_ref().filter(|_| verb[0] == "install");
            argv.push(version.map_or_else(|| name.clone(), |version| format!("{name}@{version}")));
        }
        Command { cwd: self.directory.clone(), ..Command::new(argv).c_locale() }
    }

    /// Where packages are.
    fn modules(&self, system: &mut dyn System) -> Result<PathBuf, ModuleError> {
        if let (false, Some(directory)) = (self.args.global, &self.directory) {
            return Ok(directory.join("node_modules"));
        }
        let output = system.query(&self.command(&["root"], false))?;
        Ok(PathBuf::from(output.stdout_text().trim()))
    }

    /// Version of a package that is there.
    fn installed(&self, name: &str, system: &mut dyn System) -> Result<Option<String>, ModuleError> {
        Ok(version_at(&self.modules(system)?.join(name), system))
    }

    /// Packages that the project asks for and that are not there, or not as it asks.
    fn missing(&self, system: &mut dyn System) -> Result<Vec<String>, ModuleError> {
        let output = system.query(&self.command(&["list", "--json", "--depth=0"], false))?;
        let parsed: Value = serde_json::from_str(&output.stdout_text()).unwrap_or_default();
        let empty = crate::value::Map::new();
        let dependencies = parsed.get("dependencies").and_then(Value::as_map).unwrap_or(&empty);
        let wrong = |entry: &Value| {
            ["missing", "invalid"].iter().any(|name| entry.get(name).is_some_and(Value::truthy))
        };
        Ok(dependencies.iter().filter(|(_, entry)| wrong(entry)).map(|(name, _)| name.to_text()).collect())
    }

    fn outdated(&self, system: &mut dyn System) -> Result<Vec<String>, ModuleError> {
        // Status 1 says that something is.
        let output = system.query(&self.command(&["outdated", "--json"], false))?;
        let parsed: Value = serde_json::from_str(&output.stdout_text()).unwrap_or_default();
        Ok(parsed.as_map().map(|map| map.keys().map(Value::to_text).collect()).unwrap_or_default())
    }

    fn act(
        &self,
        verb: &[&str],
        names: &[String],
        gone: bool,
        system: &mut dyn System,
    ) -> Result<(), ModuleError> {
        let state = |there: bool| {
            let one = |name: &String| (name.clone(), if there { "installed".into() } else { Value::Null });
            map_of(names.iter().map(one)).into()
        };
        let place = self.directory.as_ref().map_or("global".into(), |path| path.display().to_string());
        let intent = Intent {
            kind: "npm_package",
            id: format!("{place}: {}", names.join(" ")),
            before: state(gone),
            after: state(!gone),
            effects: vec![Effect::Anything],
            ..Intent::default()
        };
        host::act("npm failed", &self.command(verb, self.args.name.is_some()), intent, system).map(|_| ())
    }
}

fn version_at(directory: &Path, system: &mut dyn System) -> Option<String> {
    let text = host::read_text(directory.join("package.json"), system)?;
    let parsed: Value = serde_json::from_str(&text).ok()?;
    parsed.get("version").map(Value::to_text)
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    if args.path.is_none() && !args.global {
        return Err(ModuleError::new("path must be specified when not using global"));
    }
    let program = match &args.executable {
        Some(line) => host::split_words(line).map_err(ModuleError::new)?,
        None => vec![host::need_program("npm", system)?],
    };
    let directory = args.path.as_ref().map(|path| args::expand_path(path, system)).transpose()?;
    if let Some(path) = &directory
        && args.state != "absent"
        && system.stat_follow(path)?.is_none()
    {
        system.make_dir(path, &crate::system::Attributes::default())?;
    }
    let npm = Npm { args, program, directory };
    match &args.name {
        Some(name) => one_package(&npm, name, system)?,
        None if args.ci => {
            if !npm.missing(system)?.is_empty() {
                npm.act(&["ci"], &["package-lock.json".to_string()], false, system)?;
            }
        }
        None => {
            let missing = npm.missing(system)?;
            if !missing.is_empty() {
                npm.act(&["install"], &missing, false, system)?;
            }
            let outdated = if args.state == "latest" { npm.outdated(system)? } else { Vec::new() };
            if !outdated.is_empty() {
                npm.act(&["update"], &outdated, false, system)?;
            }
        }
    }
    Ok(Outcome::default())
}

fn one_package(npm: &Npm<'_>, name: &str, system: &mut dyn System) -> Result<(), ModuleError> {
    let now = npm.installed(name, system)?;
    let names = [name.to_string()];
    let wanted = npm.args.version.as_deref();
    let exact = |version: &str| {
        version.starts_with(|c: char| c.is_ascii_digit()) && version.matches('.').count() >= 2
    };
    match npm.args.state.as_str() {
        "absent" => {
            if now.is_some() {
                npm.act(&["uninstall"], &names, true, system)?;
            }
        }
        state => {
            let as_asked = match (&now, wanted) {
                (None, _) => false,
                (Some(now), Some(wanted)) if exact(wanted) => now == wanted,
                // A tag or a range is npm's to judge.
                (Some(_), Some(_)) => npm.missing(system)?.is_empty() && state != "latest",
                (Some(_), None) => true,
            };
            if !as_asked {
                npm.act(&["install"], &names, false, system)?;
            } else if state == "latest" && npm.outdated(system)?.iter().any(|other| other == name) {
                npm.act(&["update"], &names, false, system)?;
            }
        }
    }
    let state = match npm.args.state.as_str() {
        "absent" => Value::Null,
        _ => map_of([("version", npm.args.version.clone())]).into(),
    };
    let place = npm.directory.as_ref().map_or("global".into(), |path| path.display().to_string());
    system.applied(Applied { kind: "npm_package".into(), id: format!("{place}: {name}"), state });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::Output;
    use crate::system::fake::Fake;

    #[test]
    fn npm_runs_only_if_something_differs() {
        let project = |version: &str| {
            Fake::new()
                .with_program("/usr/bin/npm")
                .with_file("/srv/node_modules/a/package.json", format!("{{\"version\": \"{version}\"}}"))
                .with_behaviour(&["npm"], |_, command| match command.line() {
                    line if line.contains(" outdated") => Output::ok("{\"a\": {\"latest\": \"2.0.0\"}}"),
                    line if line.contains(" list") => {
                        Output::ok("{\"dependencies\": {\"b\": {\"missing\": true}, \"a\": {}}}")
                    }
                    _ => Output::ok(""),
                })
        };
        for (given, expected) in [
            (vec![("name", "a")], None),
            (vec![("name", "a"), ("version", "1.0.0")], None),
            (vec![("name", "a"), ("version", "1.1.0")], Some("! /usr/bin/npm install a@1.1.0")),
            (vec![("name", "c"), ("production", "yes")], Some("! /usr/bin/npm install --production c")),
            (vec![("name", "a"), ("state", "absent")], Some("! /usr/bin/npm uninstall a")),
            (vec![("name", "c"), ("state", "absent")], None),
            (vec![("name", "a"), ("state", "latest")], Some("! /usr/bin/npm update a")),
            (vec![], Some("! /usr/bin/npm install")),
        ] {
            let mut fake = project("1.0.0");
            let given = map_of(given.into_iter().chain([("path", "/srv")]));
            call(&MODULE, &given.clone().into(), &mut fake).expect("it works");
            let acted = fake.log().iter().find(|line| line.starts_with("! ")).map(String::as_str);
            assert_eq!(acted, expected, "{given:?}");
        }
        let error = call(&MODULE, &map_of([("name", "a")]).into(), &mut project("1")).expect_err("no path");
        assert_eq!(error, "path must be specified when not using global");
    }
}
