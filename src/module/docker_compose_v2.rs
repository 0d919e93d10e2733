//! `docker_compose_v2`: projects of several containers.

use serde::Deserialize;

use crate::module::docker::{self, Connection, Docker};
use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, args, host, typed};
use crate::system::{Applied, Command, Done, Effect, Intent, Output, System};
use crate::value::{Map, Value, map_of};

/// Brings projects up and down.
pub const MODULE: Module = Module {
    name: "community.docker.docker_compose_v2",
    summary: "Bring a project of docker compose up or down",
    description: "Through the `docker compose` command (version 2.18 or newer). What would be done is asked of its \
        `--dry-run` before it is done, so that check mode shows it.",
    example: "- community.docker.docker_compose_v2:\n    project_src: /srv/app\n    state: present\n",
    scope: Scope::World,
    params: &[
        Param::new("project_src", Type::Path, "Directory of the project."),
        Param::new("project_name", Type::Str, "Name of the project; else that of the directory."),
        Param::new("definition", Type::Dict, "The project itself, instead of a directory."),
        Param::new("files", Type::PathList, "Files of the project, relative to its directory."),
        Param::new("env_files", Type::PathList, "Files with variables."),
        Param::new("profiles", Type::List, "Profiles that are on."),
        Param::new("state", Type::Str, "What it should be.")
            .choices(&["absent", "stopped", "restarted", "present"])
            .default("present"),
        Param::new("services", Type::List, "Services that are meant; all if none is named."),
        Param::new("scale", Type::Dict, "How many containers of which service."),
        Param::new("build", Type::Str, "When images are built.")
            .choices(&["always", "never", "policy"])
            .default("policy"),
        Param::new("pull", Type::Str, "When images are fetched.")
            .choices(&["always", "missing", "never", "policy"])
            .default("policy"),
        Param::new("recreate", Type::Str, "When containers are made anew.")
            .choices(&["always", "never", "auto"])
            .default("auto"),
        Param::new("dependencies", Type::Bool, "Also what the services need.").default("true"),
        Param::new("remove_orphans", Type::Bool, "Remove containers of services that are no longer there.")
            .default("false"),
        Param::new("remove_images", Type::Str, "When it goes, remove images too.").choices(&["all", "local"]),
        Param::new("remove_volumes", Type::Bool, "When it goes, remove volumes too.").default("false"),
        Param::new("renew_anon_volumes", Type::Bool, "Unnamed volumes are made anew.").default("false"),
        Param::new("timeout", Type::Int, "Seconds that containers have to stop."),
        Param::new("wait", Type::Bool, "Wait until it is healthy.").default("false"),
        Param::new("wait_timeout", Type::Int, "Seconds to wait."),
        Param::new("assume_yes", Type::Bool, "Answer questions with yes.").default("false"),
        Param::new("check_files_existing", Type::Bool, "There must be a file of the project.")
            .default("true"),
        Param::new("ignore_build_events", Type::Bool, "Building an image is no change.").default("true"),
        Param::new("docker_host", Type::Str, "Address of the engine.").aliases(&["docker_url"]),
        Param::new("cli_context", Type::Str, "Context of docker."),
        Param::new("docker_cli", Type::Path, "The docker command to use."),
        docker::API_VERSION,
        docker::CA_PATH,
        docker::CLIENT_CERT,
        docker::CLIENT_KEY,
        docker::TLS,
        docker::TLS_HOSTNAME,
        docker::VALIDATE_CERTS,
    ],
    rules: &[
        Rule::MutuallyExclusive(&["docker_host", "cli_context"]),
        Rule::MutuallyExclusive(&["definition", "project_src"]),
        Rule::MutuallyExclusive(&["definition", "files"]),
        Rule::RequiredTogether(&["client_cert", "client_key"]),
        Rule::RequiredOneOf(&["definition", "project_src"]),
        Rule::RequiredBy { param: "definition", needs: &["project_name"] },
    ],
    returns: &[
        ("containers", "The project's containers."),
        ("images", "Their images."),
        ("actions", "What was done: mappings with `what`, `id` and `status`."),
        ("stdout", "What docker printed."),
        ("stderr", "What docker printed as errors."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    project_src: Option<String>,
    project_name: Option<String>,
    definition: Option<Map>,
    #[serde(deserialize_with = "host::optional_texts")]
    files: Option<Vec<String>>,
    #[serde(deserialize_with = "host::optional_texts")]
    env_files: Option<Vec<String>>,
    #[serde(deserialize_with = "host::optional_texts")]
    profiles: Option<Vec<String>>,
    state: String,
    #[serde(deserialize_with = "host::optional_texts")]
    services: Option<Vec<String>>,
    scale: Option<Map>,
    build: String,
    pull: String,
    recreate: String,
    dependencies: bool,
    remove_orphans: bool,
    remove_images: Option<String>,
    remove_volumes: bool,
    renew_anon_volumes: bool,
    timeout: Option<i64>,
    wait: bool,
    wait_timeout: Option<i64>,
    assume_yes: bool,
    check_files_existing: bool,
    ignore_build_events: bool,
    cli_context: Option<String>,
    docker_cli: Option<String>,
    #[serde(flatten)]
    connection: Connection,
}

const DEFAULT_FILES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"];

/// Statuses that say that something is being done.
const WORKING: [&str; 12] = [
    "Creating",
    "Starting",
    "Restarting",
    "Stopping",
    "Killing",
    "Removing",
    "Recreate",
    "Recreating",
    "Pausing",
    "Unpausing",
    "Pulling",
    "Building",
];

/// What compose tells: kind, name and status of a thing.
fn events(text: &str) -> Vec<[String; 3]> {
    let event = |line: &str| {
        let line = line.trim().trim_start_matches("DRY-RUN MODE -").trim();
        let words: Vec<&str> = line.split_whitespace().collect();
        let (kind, name, status) = match words.as_slice() {
            [kind @ ("Container" | "Network" | "Volume" | "Image" | "Service"), name, status, ..] => {
                (*kind, *name, *status)
            }
            [name, status @ ("Pulling" | "Building")] => ("Image", *name, *status),
            _ => return None,
        };
        WORKING
            .contains(&status)
            .then(|| [kind.to_lowercase(), name.trim_matches('"').to_string(), status.to_string()])
    };
    text.lines().filter_map(event).collect()
}

fn project(args: &Args, system: &mut dyn System) -> Result<Docker, ModuleError> {
    let mut docker = match &args.docker_cli {
        Some(path) => Docker::program(vec![args::expand_path(path, system)?.to_string_lossy().into_owned()]),
        None => Docker::new(&args.connection, system)?,
    };
    docker =
        docker.with(args.cli_context.iter().flat_map(|context| ["--context".to_string(), context.clone()]));
    let mut words =
        vec!["compose".to_string(), "--ansi".into(), "never".into(), "--progress".into(), "plain".into()];
    let directory = match &args.project_src {
        Some(path) => args::expand_path(path, system)?,
        None => system.scratch()?,
    };
    if let Some(definition) = &args.definition {
        // JSON is YAML.
        let text = args::json_text(&Value::map(definition.clone()));
        system.spool("compose.yaml", &mut text.as_bytes())?;
    } else {
        if !host::is_directory(&directory, system)? && system.uncertain().is_none() {
            return Err(ModuleError::new(format!("\"{}\" is not a directory", directory.display())));
        }
        let mut there = !args.check_files_existing || args.files.is_some();
        for name in DEFAULT_FILES {
            there = there || host::exists(directory.join(name), system)?;
        }
        if !there && system.uncertain().is_none() {
            return Err(ModuleError::new(format!(
                "\"{}\" does not contain {}",
                directory.display(),
                DEFAULT_FILES.join(", or ")
            )));
        }
    }
    words.extend(["--project-directory".to_string(), directory.to_string_lossy().into_owned()]);
    words.extend(args.project_name.iter().flat_map(|name| ["--project-name".to_string(), name.clone()]));
    let full = |name: &String| directory.join(name).to_string_lossy().into_owned();
    let mut files: Vec<String> = args.files.iter().flatten().map(full).collect();
    if args.definition.is_some() {
        files.push(full(&"compose.yaml".to_string()));
    }
    words.extend(files.into_iter().flat_map(|file| ["--file".to_string(), file]));
    words.extend(args.env_files.iter().flatten().flat_map(|file| ["--env-file".to_string(), full(file)]));
    words.extend(args.profiles.iter().flatten().flat_map(|name| ["--profile".to_string(), name.clone()]));
    Ok(docker.with(words))
}

/// The commands that lead to the state, in order.
fn commands(args: &Args) -> Vec<Vec<String>> {
    let time = |words: &mut Vec<String>| {
        words.extend(args.timeout.iter().flat_map(|seconds| ["--timeout".to_string(), seconds.to_string()]));
    };
    let services = |words: &mut Vec<String>| {
        if let Some(services) = args.services.as_ref().filter(|services| !services.is_empty()) {
            words.push("--".into());
            words.extend(services.iter().cloned());
        }
    };
    let up = |starts: bool| {
        let mut words = vec!["up".to_string(), "--detach".into()];
        words.extend((!starts).then(|| "--no-start".to_string()));
        words.retain(|word| starts || word != "--detach");
        for (given, flag) in [
            (args.assume_yes, "--yes"),
            (args.remove_orphans, "--remove-orphans"),
            (args.recreate == "always", "--force-recreate"),
            (args.recreate == "never", "--no-recreate"),
            (args.renew_anon_volumes, "--renew-anon-volumes"),
            (!args.dependencies, "--no-deps"),
            (args.build == "always", "--build"),
            (args.build == "never", "--no-build"),
        ] {
            words.extend(given.then(|| flag.to_string()));
        }
        if args.pull != "policy" {
            words.extend(["--pull".to_string(), args.pull.clone()]);
        }
        time(&mut words);
        for (service, count) in args.scale.iter().flat_map(Map::iter) {
            words.extend(["--scale".to_string(), format!("{}={}", service.to_text(), count.to_text())]);
        }
        if args.wait && starts {
            words.push("--wait".into());
            words.extend(
                args.wait_timeout
                    .iter()
                    .flat_map(|seconds| ["--wait-timeout".to_string(), seconds.to_string()]),
            );
        }
        services(&mut words);
        words
    };
    let simple = |verb: &str| {
        let mut words = vec![verb.to_string()];
        if verb == "restart" && !args.dependencies {
            words.push("--no-deps".into());
        }
        time(&mut words);
        services(&mut words);
        words
    };
    match args.state.as_str() {
        "stopped" => vec![up(false), simple("stop")],
        "restarted" => vec![simple("restart")],
        "absent" => {
            let mut words = vec!["down".to_string()];
            words.extend(args.remove_orphans.then(|| "--remove-orphans".to_string()));
            words.extend(args.remove_images.iter().flat_map(|which| ["--rmi".to_string(), which.clone()]));
            words.extend(args.remove_volumes.then(|| "--volumes".to_string()));
            time(&mut words);
            services(&mut words);
            vec![words]
        }
        _ => vec![up(true)],
    }
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let docker = project(args, system)?;
    let mut actions: Vec<[String; 3]> = Vec::new();
    let (mut stdout, mut stderr) = (String::new(), String::new());
    for words in commands(args) {
        // It claims to stop containers also when they do not run.
        if words[0] == "stop" && !is_running(args, &docker, system)? {
            continue;
        }
        let rehearsal = ["--dry-run".to_string()].into_iter().chain(words.iter().cloned());
        let command = docker.command(rehearsal);
        let simulated = system.query(&command)?;
        if !simulated.success() {
            return Err(failure(&command, &simulated));
        }
        let counts = |event: &[String; 3]| match event[2].as_str() {
            "Building" => !args.ignore_build_events,
            // A fetched image that is another one leads to a new container.
            "Pulling" => args.pull != "always",
            _ => true,
        };
        let due: Vec<[String; 3]> = events(&(simulated.stderr_text() + &simulated.stdout_text()))
            .into_iter()
            .filter(counts)
            .collect();
        let fetches = args.pull == "always" || args.build == "always";
        if due.is_empty() && !fetches {
            continue;
        }
        let output = act(args, &docker.command(words), &due, system)?;
        if let Some(output) = output {
            stdout += &output.stdout_text();
            stderr += &output.stderr_text();
            actions
                .extend(events(&(output.stderr_text() + &output.stdout_text())).into_iter().filter(counts));
        } else {
            actions.extend(due);
        }
    }
    let changed = !actions.is_empty();
    let id = args.project_name.clone().or_else(|| args.project_src.clone()).unwrap_or_default();
    let state = if args.state == "absent" { Value::Null } else { docker::state(&args.state) };
    system.applied(Applied { kind: "compose_project".into(), id, state });
    let actions: Vec<Value> = actions
        .into_iter()
        .map(|[what, id, status]| map_of([("what", what), ("id", id), ("status", status)]).into())
        .collect();
    let containers = listed(&docker, &["ps", "--format", "json", "--all"], system)?;
    let images = listed(&docker, &["images", "--format", "json"], system)?;
    let outcome = Outcome::default()
        .set("actions", Value::list(actions))
        .set("containers", containers)
        .set("images", images)
        .set("stdout", stdout)
        .set("stderr", stderr)
        .set("rc", 0);
    Ok(Outcome { changed: Some(changed), ..outcome })
}

/// Whether any container of the services runs.
fn is_running(args: &Args, docker: &Docker, system: &mut dyn System) -> Result<bool, ModuleError> {
    let running = listed(docker, &["ps", "--format", "json"], system)?;
    let mine = |entry: &Value| {
        let service = entry.get("Service").map(Value::to_text).unwrap_or_default();
        args.services.as_ref().is_none_or(|services| services.is_empty() || services.contains(&service))
    };
    Ok(running.as_list().unwrap_or_default().iter().any(mine))
}

fn failure(command: &Command, output: &Output) -> ModuleError {
    let said = output.stderr_text();
    let what = if ["unknown flag: --ansi", "is not a docker command", "unknown command: docker compose"]
        .iter()
        .any(|text| said.contains(text))
    {
        "this docker has no `compose`: install its plugin of version 2"
    } else {
        "General error"
    };
    ModuleError::command(what, command, output)
}

fn act(
    args: &Args,
    command: &Command,
    due: &[[String; 3]],
    system: &mut dyn System,
) -> Result<Option<Output>, ModuleError> {
    let lines: Vec<String> = due.iter().map(|event| event.join(" ")).collect();
    let intent = Intent {
        // Fetching and building alone may turn out to change nothing.
        kind: if due.is_empty() { "" } else { "compose_project" },
        id: args.project_name.clone().or_else(|| args.project_src.clone()).unwrap_or_default(),
        after: map_of([("state", Value::from(args.state.as_str())), ("actions", lines.into())]).into(),
        effects: vec![Effect::Anything],
        ..Intent::default()
    };
    match system.change(command, intent)? {
        Done::Recorded => Ok(None),
        Done::Made(output) if output.success() => Ok(Some(output)),
        Done::Made(output) => Err(failure(command, &output)),
    }
}

/// Compose prints a list, or an entry a line.
fn listed(docker: &Docker, words: &[&str], system: &mut dyn System) -> Result<Value, ModuleError> {
    let text = docker.ask(words.iter().copied(), system)?.stdout_text();
    if let Ok(list @ Value::List(_)) = serde_json::from_str::<Value>(&text) {
        return Ok(list);
    }
    Ok(Value::list(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::fake::Fake;

    #[test]
    fn compose_acts_only_if_something_would_be_done() {
        let plan = " DRY-RUN MODE -  Container app-web-1  Creating\n DRY-RUN MODE -  Container app-db-1  Running\n DRY-RUN MODE -  Container app-web-1  Created\n";
        for (given, plan, expected) in [
            (r#"{"project_src": "/srv"}"#, plan, vec!["up --detach"]),
            (r#"{"project_src": "/srv"}"#, "Container app-web-1  Running\n", vec![]),
            (
                r#"{"project_src": "/srv", "state": "absent", "remove_volumes": true}"#,
                " Container a  Stopping\n",
                vec!["down --volumes"],
            ),
            (
                r#"{"project_src": "/srv", "recreate": "always", "scale": {"web": 2}, "services": ["web"], "wait": true, "dependencies": false}"#,
                plan,
                vec!["up --detach --force-recreate --no-deps --scale web=2 --wait -- web"],
            ),
            (r#"{"project_src": "/srv", "state": "stopped"}"#, plan, vec!["up --no-start", "stop"]),
            (
                r#"{"project_src": "/srv", "state": "stopped", "services": ["idle"]}"#,
                plan,
                vec!["up --no-start -- idle"],
            ),
        ] {
            let plan = plan.to_string();
            let mut fake = Fake::new()
                .with_program("/usr/bin/docker")
                .with_file("/srv/compose.yml", "")
                .with_behaviour(&["docker"], move |_, command| {
                    if command.line().ends_with(" ps --format json") {
                        return Output::ok("{\"Service\": \"web\", \"Name\": \"app-web-1\"}\n");
                    }
                    let output =
                        if command.line().contains("--dry-run") { plan.clone() } else { String::new() };
                    Output { code: 0, stdout: Vec::new(), stderr: output.into_bytes() }
                });
            let arguments: Value = serde_json::from_str(given).expect("JSON");
            call(&MODULE, &arguments, &mut fake).expect("it works");
            let prefix = "! /usr/bin/docker compose --ansi never --progress plain --project-directory /srv ";
            let acted: Vec<&str> = fake.log().iter().filter_map(|line| line.strip_prefix(prefix)).collect();
            assert_eq!(acted, expected, "{given}");
        }
        let mut fake = Fake::new().with_program("/usr/bin/docker").with_dir("/srv");
        let arguments: Value = serde_json::from_str(r#"{"project_src": "/srv"}"#).expect("JSON");
        assert!(
            call(&MODULE, &arguments, &mut fake)
                .expect_err("no file")
                .starts_with("\"/srv\" does not contain")
        );
    }
}
