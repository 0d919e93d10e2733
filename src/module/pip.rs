//! `pip`: packages of Python.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, args, host, typed};
use crate::system::{Applied, Command, Done, Effect, FileKind, Intent, System};
use crate::value::{Map, Value, map_of};

/// Manages packages of Python.
pub const MODULE: Module = Module {
    name: "ansible.builtin.pip",
    summary: "Install and remove packages of Python",
    description: "What is installed is looked up first (in a virtual environment without running Python), and pip \
        runs only if a package is missing, or its version is another one. Requirements files, addresses, `latest` \
        and `extra_args` need pip to decide.",
    example: "- ansible.builtin.pip:\n    name: ['requests>=2.31', gunicorn]\n    virtualenv: /srv/app/venv\n    virtualenv_command: python3 -m venv\n",
    scope: Scope::World,
    params: &[
        Param::new("name", Type::Raw, "Packages, with versions such as `a==1.2` or `b>=2,<3`; or addresses."),
        Param::new("version", Type::Str, "Version of the one package."),
        Param::new("requirements", Type::Str, "File with packages, on the host."),
        Param::new("state", Type::Str, "What they should be.")
            .choices(&["absent", "forcereinstall", "latest", "present"])
            .default("present"),
        Param::new("virtualenv", Type::Path, "Virtual environment to install into; made if it is missing."),
        Param::new("virtualenv_command", Type::Path, "How it is made.").default("virtualenv"),
        Param::new("virtualenv_python", Type::Str, "Python that it is made with."),
        Param::new("virtualenv_site_packages", Type::Bool, "It sees packages of the system too.")
            .default("no"),
        Param::new("executable", Type::Path, "The pip to use: a path, or a name such as `pip3.11`."),
        Param::new("extra_args", Type::Str, "Further arguments for pip."),
        Param::new("editable", Type::Bool, "Install in place (`-e`).").default("no"),
        Param::new("chdir", Type::Path, "Directory to run pip in."),
        Param::new("umask", Type::Str, "File mode mask in octal."),
        Param::new("break_system_packages", Type::Bool, "Also where packages are managed by the system.")
            .default("false"),
    ],
    rules: &[
        Rule::RequiredOneOf(&["name", "requirements"]),
        Rule::MutuallyExclusive(&["name", "requirements"]),
        Rule::MutuallyExclusive(&["executable", "virtualenv"]),
    ],
    returns: &[
        ("cmd", "The command."),
        ("name", "The packages."),
        ("requirements", "The file."),
        ("version", "The version."),
        ("virtualenv", "The virtual environment."),
        ("stdout", "What pip printed."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    name: Option<Value>,
    version: Option<String>,
    requirements: Option<String>,
    state: String,
    virtualenv: Option<String>,
    virtualenv_command: String,
    virtualenv_python: Option<String>,
    virtualenv_site_packages: bool,
    executable: Option<String>,
    extra_args: Option<String>,
    editable: bool,
    chdir: Option<String>,
    umask: Option<String>,
    break_system_packages: bool,
}

/// Packages as given: a list, or text in which a comma may also be part of a version.
fn names(given: Option<&Value>) -> Vec<String> {
    let items: Vec<String> = match given {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::List(items)) => items.iter().map(Value::to_text).collect(),
        Some(other) => vec![other.to_text()],
    };
    let mut out: Vec<String> = Vec::new();
    for part in items.iter().flat_map(|item| item.split(',')) {
        let part = part.trim();
        let goes_on = part.starts_with(['<', '>', '=', '!', '~'])
            || out.last().is_some_and(|last| last.contains('[') && !last.contains(']'));
        match out.last_mut() {
            Some(last) if goes_on => {
                last.push(',');
                last.push_str(part);
            }
            _ if part.is_empty() => {}
            _ => out.push(part.to_string()),
        }
    }
    out
}

/// A package and the versions that are good enough.
#[derive(Debug, PartialEq, Eq)]
struct Requirement {
    name: String,
    clauses: Vec<(String, String)>,
}

impl Requirement {
    /// `None` for addresses, paths and what else only pip can judge.
    fn parse(text: &str) -> Option<Requirement> {
        if text.contains("://")
            || text.contains('/')
            || text.contains(';')
            || text.contains('@')
            || text.starts_with(['.', '-'])
        {
            return None;
        }
        let end = text.find(['<', '>', '=', '!', '~', ' ']).unwrap_or(text.len());
        let name = text[..end].trim();
        if name.is_empty() || name.contains('[') {
            return None;
        }
        let mut clauses = Vec::new();
        for clause in text[end..].split(',').map(str::trim).filter(|clause| !clause.is_empty()) {
            let digits = clause.find(|c| !"<>=!~".contains(c))?;
            let (operator, version) = clause.split_at(digits);
            if !["==", ">=", "<=", "!=", "<", ">", "~="].contains(&operator) {
                return None;
            }
            clauses.push((operator.to_string(), version.trim().to_string()));
        }
        Some(Requirement { name: normal_name(name), clauses })
    }

    fn accepts(&self, version: &str) -> bool {
        self.clauses.iter().all(|(operator, wanted)| {
            if let Some(prefix) = wanted.strip_suffix(".*") {
                let inside = version == prefix || version.starts_with(&format!("{prefix}."));
                return inside == (operator == "==");
            }
            let order = compare(version, wanted);
            match operator.as_str() {
                "==" => order == Ordering::Equal,
                "!=" => order != Ordering::Equal,
                ">=" => order != Ordering::Less,
                "<=" => order != Ordering::Greater,
                "<" => order == Ordering::Less,
                ">" => order == Ordering::Greater,
                _ => {
                    let series = wanted.rsplit_once('.').map_or("", |(series, _)| series);
                    order != Ordering::Less && version.starts_with(&format!("{series}."))
                }
            }
        })
    }
}

/// Names differ not by case, nor by `-`, `_` and `.`.
fn normal_name(name: &str) -> String {
    name.to_lowercase().replace(['_', '.'], "-")
}

/// Compares two versions: numbers, then what comes before and after a release.
fn compare(one: &str, other: &str) -> Ordering {
    let parse = |text: &str| -> (Vec<u64>, i64, u64) {
        let text = text.trim().trim_start_matches('v').to_lowercase();
        let text = text.split('+').next().unwrap_or_default().to_string();
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let mut release: Vec<u64> = text[..end].split('.').filter_map(|part| part.parse().ok()).collect();
        while release.last() == Some(&0) {
            release.pop();
        }
        let rest = text[end..].trim_start_matches(['.', '-', '_']);
        let letters: String = rest.chars().take_while(char::is_ascii_alphabetic).collect();
        let number = rest[letters.len()..].trim_start_matches(['.', '-', '_']);
        let number = number.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0);
        let stage = match letters.as_str() {
            "dev" => -4,
            "a" | "alpha" => -3,
            "b" | "beta" => -2,
            "rc" | "c" | "pre" | "preview" => -1,
            "post" | "rev" | "r" => 1,
            _ => 0,
        };
        (release, stage, number)
    };
    parse(one).cmp(&parse(other))
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let mut packages = names(args.name.as_ref());
    if let Some(version) = &args.version {
        if args.state == "latest" {
            return Err(ModuleError::new("version is incompatible with state=latest"));
        }
        if packages.len() != 1 {
            return Err(ModuleError::new(
                "'version' argument is ambiguous when installing multiple package distributions. Please specify version restrictions next to each package in 'name' argument.",
            ));
        }
        if packages[0].contains(['<', '>', '=', '!', '~']) {
            return Err(ModuleError::new(
                "The 'version' argument conflicts with any version specifier provided along with a package name. Please keep the version specifier, but remove the 'version' argument.",
            ));
        }
        let operator = if version.starts_with(['<', '>', '=', '!', '~']) { "" } else { "==" };
        packages[0] = format!("{}{operator}{version}", packages[0]);
    }
    let chdir = match &args.chdir {
        Some(path) => Some(args::expand_path(path, system)?),
        None => None,
    };
    let env = match &args.virtualenv {
        None => None,
        Some(path) => {
            let path = args::expand_path(path, system)?;
            Some(chdir.as_ref().map_or_else(|| path.clone(), |chdir| chdir.join(&path)))
        }
    };
    let env = env.as_deref();
    let has_env = match env {
        Some(env) => host::exists(env.join("bin/activate"), system)?,
        None => true,
    };
    let mut outcome = Outcome::default()
        .set("name", packages.clone())
        .set("version", args.version.clone())
        .set("state", args.state.as_str())
        .set("requirements", args.requirements.clone())
        .set("virtualenv", env.map(|env| env.to_string_lossy().into_owned()));
    let made = match env {
        Some(env) if !has_env => {
            make_environment(args, env, chdir.as_deref(), system)?;
            true
        }
        _ => false,
    };
    let pip = find_pip(args, env, system)?;
    let due = if made { true } else { is_due(args, &packages, env, &pip, system)? };
    let mut argv = pip.clone();
    argv.extend(match args.state.as_str() {
        "absent" => vec!["uninstall".to_string(), "-y".into()],
        "latest" => vec!["install".into(), "-U".into()],
        "forcereinstall" => vec!["install".into(), "-U".into(), "--force-reinstall".into()],
        _ => vec!["install".into()],
    });
    if let Some(extra) = &args.extra_args {
        argv.extend(host::split_words(extra).map_err(ModuleError::new)?);
    }
    if args.editable && !argv.iter().any(|word| word == "-e") {
        argv.push("-e".into());
    }
    argv.extend(packages.iter().cloned());
    argv.extend(args.requirements.iter().flat_map(|file| ["-r".to_string(), file.clone()]));
    outcome = outcome.set("cmd", argv.clone());
    if due {
        let changed = install(args, argv, &packages, env, chdir, &pip, &mut outcome, system)?;
        outcome.changed = Some(changed || made);
    }
    for package in &packages {
        let state = if args.state == "absent" {
            Value::Null
        } else {
            map_of([("installed", package.as_str())]).into()
        };
        let place = env.map(|env| format!("{}: ", env.display())).unwrap_or_default();
        system.applied(Applied { kind: "python_package".into(), id: format!("{place}{package}"), state });
    }
    Ok(outcome)
}

/// The pip of the environment, the one that is named, or the one of the path.
fn find_pip(args: &Args, env: Option<&Path>, system: &mut dyn System) -> Result<Vec<String>, ModuleError> {
    if let Some(env) = env {
        return Ok(vec![env.join("bin/python").to_string_lossy().into_owned(), "-m".into(), "pip".into()]);
    }
    if let Some(name) = &args.executable {
        if name.contains('/') {
            return Ok(vec![args::expand_path(name, system)?.to_string_lossy().into_owned()]);
        }
        return Ok(vec![host::need_program(name, system)?]);
    }
    for name in ["pip3", "pip"] {
        if let Some(path) = host::find_program(name, system)? {
            return Ok(vec![path.to_string_lossy().into_owned()]);
        }
    }
    if system.uncertain().is_some() {
        return Ok(vec!["pip3".into()]);
    }
    Err(ModuleError::new("Unable to find any of pip3, pip to use.  pip needs to be installed."))
}

/// Installed packages: normal name and version.
fn installed(
    env: Option<&Path>,
    sees_system: bool,
    pip: &[String],
    system: &mut dyn System,
) -> Result<Vec<(String, String)>, ModuleError> {
    if let Some(env) = env.filter(|_| !sees_system) {
        let mut found = Vec::new();
        for directory in
            host::expand_pattern(&format!("{}/lib/python*/site-packages", env.display()), system)?
        {
            for name in system.list(&directory)? {
                let name = name.to_string_lossy().into_owned();
                let Some(base) = name.strip_suffix(".dist-info").or_else(|| name.strip_suffix(".egg-info"))
                else {
                    continue;
                };
                if let Some((name, version)) = base.split_once('-') {
                    let version = version.split("-py").next().unwrap_or(version);
                    found.push((normal_name(name), version.to_string()));
                }
            }
        }
        return Ok(found);
    }
    let argv =
        pip.iter().map(String::as_str).chain(["list", "--format=freeze", "--disable-pip-version-check"]);
    let output = host::ask(argv, system)?;
    let pair = |line: &str| {
        line.split_once("==").map(|(name, version)| (normal_name(name), version.trim().to_string()))
    };
    Ok(output.stdout_text().lines().filter_map(pair).collect())
}

/// Whether pip has to run.
fn is_due(
    args: &Args,
    packages: &[String],
    env: Option<&Path>,
    pip: &[String],
    system: &mut dyn System,
) -> Result<bool, ModuleError> {
    let plain: Option<Vec<Requirement>> =
        packages.iter().map(|package| Requirement::parse(package)).collect();
    let Some(plain) = plain.filter(|plain| !plain.is_empty()) else { return Ok(true) };
    let only_pip_knows = args.requirements.is_some()
        || args.editable
        || args.extra_args.is_some() && args.state != "absent" && extra_matters(args)
        || ["latest", "forcereinstall"].contains(&args.state.as_str());
    if only_pip_knows {
        return Ok(true);
    }
    let sees_system = match env {
        Some(env) => {
            let config = host::read_text(env.join("pyvenv.cfg"), system).unwrap_or_default();
            config
                .lines()
                .any(|line| line.replace(' ', "").eq_ignore_ascii_case("include-system-site-packages=true"))
        }
        None => true,
    };
    let known = installed(env, sees_system, pip, system)?;
    Ok(plain.iter().any(|wanted| {
        let now = known.iter().find(|(name, _)| *name == wanted.name);
        match args.state.as_str() {
            "absent" => now.is_some(),
            _ => now.is_none_or(|(_, version)| !wanted.accepts(version)),
        }
    }))
}

/// Options that say where packages come from don't matter if nothing has to be fetched; others may.
fn extra_matters(args: &Args) -> bool {
    let extra = args.extra_args.as_deref().unwrap_or_default();
    [
        "-U",
        "--upgrade",
        "--target",
        "-t",
        "--prefix",
        "--root",
        "--user",
        "--force-reinstall",
        "--ignore-installed",
        "-r",
        "-e",
        "-c",
    ]
    .iter()
    .any(|option| {
        extra.split_whitespace().any(|word| word == *option || word.starts_with(&format!("{option}=")))
    })
}

fn environment(args: &Args, env: Option<&Path>, system: &mut dyn System) -> Vec<(String, String)> {
    let mut out = Vec::new();
    if let Some(env) = env {
        let path = system.env("PATH").unwrap_or_default();
        out.push(("PATH".to_string(), format!("{}/bin:{path}", env.display())));
    }
    if args.break_system_packages {
        out.push(("PIP_BREAK_SYSTEM_PACKAGES".to_string(), "1".to_string()));
    }
    out
}

fn mask(args: &Args) -> Result<Option<u32>, ModuleError> {
    let octal = |text: &String| {
        u32::from_str_radix(text, 8).map_err(|_| ModuleError::new("umask must be an octal integer"))
    };
    args.umask.as_ref().map(octal).transpose()
}

fn make_environment(
    args: &Args,
    env: &Path,
    chdir: Option<&Path>,
    system: &mut dyn System,
) -> Result<(), ModuleError> {
    let mut argv = host::split_words(&args.virtualenv_command).map_err(ModuleError::new)?;
    if argv.is_empty() {
        return Err(ModuleError::new("virtualenv_command is empty"));
    }
    if !argv[0].contains('/') {
        argv[0] = host::need_program(&argv[0], system)?;
    }
    let is_venv = argv.iter().any(|word| word == "venv") || argv[0].contains("pyvenv");
    if args.virtualenv_site_packages {
        argv.push("--system-site-packages".into());
    }
    if let Some(python) = &args.virtualenv_python {
        if is_venv {
            return Err(ModuleError::new(
                "virtualenv_python should not be used when using the venv module or pyvenv as virtualenv_command",
            ));
        }
        argv.push(format!("-p{python}"));
    }
    argv.push(env.to_string_lossy().into_owned());
    let command =
        Command { cwd: chdir.map(PathBuf::from), umask: mask(args)?, ..Command::new(argv).c_locale() };
    let intent = Intent {
        kind: "virtualenv",
        id: env.to_string_lossy().into_owned(),
        after: map_of([("state", "directory")]).into(),
        effects: vec![Effect::Path(env.to_path_buf(), FileKind::Directory), Effect::Anything],
        ..Intent::default()
    };
    match system.change(&command, intent)? {
        Done::Made(output) if !output.success() => {
            Err(ModuleError::command("failed to make the virtual environment", &command, &output))
        }
        _ => Ok(()),
    }
}

#[expect(clippy::too_many_arguments, reason = "one call, of what has been found out")]
fn install(
    args: &Args,
    argv: Vec<String>,
    packages: &[String],
    env: Option<&Path>,
    chdir: Option<PathBuf>,
    pip: &[String],
    outcome: &mut Outcome,
    system: &mut dyn System,
) -> Result<bool, ModuleError> {
    let mut command = Command::new(argv).c_locale();
    command.cwd = chdir.or_else(|| Some("/tmp".into()));
    command.umask = mask(args)?;
    command.env.extend(environment(args, env, system));
    let compares = args.requirements.is_some() || packages.iter().any(|package| package.contains("://"));
    let before = if compares { installed(None, true, pip, system)? } else { Vec::new() };
    let versions = |state: bool| -> Map {
        packages
            .iter()
            .map(|package| (package.as_str().into(), if state { "installed".into() } else { Value::Null }))
            .collect()
    };
    let intent = Intent {
        kind: "python_package",
        id: if packages.is_empty() {
            args.requirements.clone().unwrap_or_default()
        } else {
            packages.join(" ")
        },
        before: versions(args.state == "absent").into(),
        after: versions(args.state != "absent").into(),
        effects: vec![Effect::Anything],
        ..Intent::default()
    };
    let output = match system.change(&command, intent)? {
        Done::Made(output) => output,
        Done::Recorded => return Ok(true),
    };
    let said = output.stdout_text();
    outcome.values.insert("stdout".into(), said.as_str().into());
    outcome.values.insert("stderr".into(), output.stderr_text().into());
    let was_not_there = args.state == "absent"
        && (said.contains("not installed") || output.stderr_text().contains("not installed"));
    if !output.success() && !was_not_there {
        let said = output.stderr_text();
        return Err(ModuleError {
            message: format!("stdout: {}\n\n:stderr: {said}", output.stdout_text()),
            ..ModuleError::command("", &command, &output)
        });
    }
    Ok(if args.state == "absent" {
        said.contains("Successfully uninstalled")
    } else if compares {
        before != installed(None, true, pip, system)?
    } else {
        said.contains("Successfully installed")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::Output;
    use crate::system::fake::Fake;

    #[test]
    fn requirements_are_judged() {
        for (text, version, expected) in [
            ("a", "1", true),
            ("a==1.2", "1.2.0", true),
            ("a==1.2.*", "1.2.9", true),
            ("a==1.2.*", "1.20", false),
            ("a>=1.10,<2", "1.9", false),
            ("a>=1.10,<2", "1.11", true),
            ("a~=1.4.2", "1.4.9", true),
            ("a~=1.4.2", "1.5", false),
            ("a<2", "2.0rc1", true),
            ("a!=1.0", "1.0.post1", true),
        ] {
            let requirement = Requirement::parse(text).expect("a requirement");
            assert_eq!(requirement.accepts(version), expected, "{text} {version}");
        }
        assert_eq!(Requirement::parse("git+https://h/x"), None);
        assert_eq!(names(Some(&"a>=1,<2, b[x,y], c".into())), ["a>=1,<2", "b[x,y]", "c"]);
    }

    #[test]
    fn pip_runs_only_if_it_must() {
        let machine = || {
            Fake::new()
                .with_file("/venv/bin/activate", "")
                .with_file("/venv/lib/python3.11/site-packages/Flask_Login-0.6.3.dist-info/METADATA", "")
                .with_program("/usr/bin/pip3")
                .with_program("/usr/bin/virtualenv")
                .with_command_prefix(&["/usr/bin/virtualenv"], Output::ok(""))
                .with_command_prefix(&["/usr/bin/pip3"], Output::ok("Successfully installed b-1"))
                .with_command_prefix(&["/usr/bin/pip3", "list"], Output::ok("requests==2.31.0\n"))
                .with_command_prefix(&["/venv/bin/python"], Output::ok("Successfully installed b-1"))
                .with_command_prefix(&["/new/bin/python"], Output::ok("Successfully installed b-1"))
        };
        for (given, expected) in [
            (vec![("name", "flask.login"), ("virtualenv", "/venv")], vec![]),
            (
                vec![("name", "flask-login>0.7"), ("virtualenv", "/venv")],
                vec!["! /venv/bin/python -m pip install 'flask-login>0.7'"],
            ),
            (vec![("name", "requests"), ("version", "2.31.0")], vec![]),
            (vec![("name", "requests,b")], vec!["! /usr/bin/pip3 install requests b"]),
            (vec![("name", "requests"), ("state", "latest")], vec!["! /usr/bin/pip3 install -U requests"]),
            (vec![("name", "gone"), ("state", "absent")], vec![]),
            (
                vec![("name", "b"), ("virtualenv", "/new")],
                vec!["! /usr/bin/virtualenv /new", "! /new/bin/python -m pip install b"],
            ),
        ] {
            let mut fake = machine();
            call(&MODULE, &map_of(given.clone()).into(), &mut fake).expect("it works");
            let acted: Vec<&String> = fake.log().iter().filter(|line| line.starts_with("! ")).collect();
            assert_eq!(acted, expected, "{given:?}");
        }
    }
}
