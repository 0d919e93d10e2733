//! `docker_image_build`: images of docker from a directory.

use serde::Deserialize;

use crate::module::docker::{self, Connection, Docker, state};
use crate::module::docker_image::{Build, Images, full_name, is_id};
use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, args, host, typed};
use crate::system::{Applied, System};
use crate::value::{Map, Value};

/// Builds images.
pub const MODULE: Module = Module {
    name: "community.docker.docker_image_build",
    summary: "Build an image from a directory",
    description: "Through `docker build`, which is buildx where that is installed; several platforms, secrets and outputs \
        need it. An image that is there is built again only with `rebuild: always`, and that is then a change. Values of \
        build arguments and secrets are not on the command line.",
    example: "- community.docker.docker_image_build:\n    name: registry.example.com/app\n    tag: v1\n    path: /srv/app\n    args:\n      RELEASE: '1.2'\n    secrets:\n      - id: token\n        type: value\n        value: '{{ token }}'\n",
    scope: Scope::World,
    params: &[
        Param::new("name", Type::Str, "The image, with or without tag.").required(),
        Param::new("tag", Type::Str, "Tag, where the name has none.").default("latest"),
        Param::new("path", Type::Path, "The directory.").required(),
        Param::new("dockerfile", Type::Str, "The recipe, relative to the directory."),
        Param::new("cache_from", Type::List, "Images whose layers may be used."),
        Param::new("pull", Type::Bool, "Fetch newer images that it is made from.").default("false"),
        Param::new("network", Type::Str, "Network for the commands that it runs."),
        Param::new("nocache", Type::Bool, "Use no layers of earlier builds.").default("false"),
        Param::new("etc_hosts", Type::Dict, "More hosts and their addresses."),
        Param::new("args", Type::Dict, "Build arguments."),
        Param::new("target", Type::Str, "The stage to build."),
        Param::new("platform", Type::List, "Platforms to build for."),
        Param::new("shm_size", Type::Str, "Size of /dev/shm."),
        Param::new("labels", Type::Dict, "Labels."),
        Param::new("rebuild", Type::Str, "Whether it is built although it is there.")
            .choices(&["never", "always"])
            .default("never"),
        Param::new(
            "secrets",
            Type::List,
            "Secrets: `id`, `type` (`file` with `src`, `env` with `env`, `value` with `value`).",
        )
        .secret(),
        Param::new(
            "outputs",
            Type::List,
            "Where the result goes: `type` (`local`, `tar`, `oci`, `docker`, `image`), `dest`, `context`, `name`, `push`.",
        ),
        Param::new("docker_cli", Type::Path, "The docker command to use."),
        Param::new("cli_context", Type::Str, "Context of docker."),
        Param::new("docker_host", Type::Str, "Address of the engine.").aliases(&["docker_url"]),
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
        Rule::RequiredTogether(&["client_cert", "client_key"]),
    ],
    returns: &[
        ("image", "What docker knows of it."),
        ("command", "The command that built it."),
        ("stdout", "What the build printed."),
        ("stderr", "What the build printed as errors."),
        ("actions", "What was done."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    name: String,
    tag: String,
    path: String,
    dockerfile: Option<String>,
    #[serde(deserialize_with = "host::optional_texts")]
    cache_from: Option<Vec<String>>,
    pull: bool,
    network: Option<String>,
    nocache: bool,
    etc_hosts: Option<Map>,
    args: Option<Map>,
    target: Option<String>,
    #[serde(deserialize_with = "host::optional_texts")]
    platform: Option<Vec<String>>,
    shm_size: Option<String>,
    labels: Option<Map>,
    rebuild: String,
    secrets: Vec<Secret>,
    outputs: Vec<Destination>,
    docker_cli: Option<String>,
    cli_context: Option<String>,
    #[serde(flatten)]
    connection: Connection,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Secret {
    id: String,
    r#type: String,
    src: Option<String>,
    env: Option<String>,
    value: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Destination {
    r#type: String,
    dest: Option<String>,
    context: Option<String>,
    #[serde(deserialize_with = "host::optional_texts")]
    name: Option<Vec<String>>,
    push: bool,
}

/// Fields as the command line takes them: with commas between, and quoted where they hold one.
fn fields(parts: &[String]) -> String {
    let quoted = |part: &String| {
        if part.contains([',', '"']) { format!("\"{}\"", part.replace('"', "\"\"")) } else { part.clone() }
    };
    parts.iter().map(quoted).collect::<Vec<_>>().join(",")
}

fn lacks(what: &str, kind: &str, field: &str) -> ModuleError {
    ModuleError::new(format!("{what}: type is {kind} but {field} is missing"))
}

impl Secret {
    /// What stands on the command line; a value goes to the environment under a name of its own.
    fn word(&self, env: &mut Vec<(String, String)>, system: &mut dyn System) -> Result<String, ModuleError> {
        let needs = |field: &Option<String>, name: &str| {
            field.clone().ok_or_else(|| lacks("secrets", &self.r#type, name))
        };
        let from = match self.r#type.as_str() {
            "file" => {
                let path = args::expand_path(&needs(&self.src, "src")?, system)?;
                ["type=file".to_string(), format!("src={}", path.display())]
            }
            "env" => ["type=env".to_string(), format!("env={}", needs(&self.env, "env")?)],
            "value" => {
                let name = format!("SETPOINT_SECRET_{}", env.len());
                env.push((name.clone(), needs(&self.value, "value")?));
                ["type=env".to_string(), format!("env={name}")]
            }
            other => {
                return Err(ModuleError::new(format!(
                    "secrets: type must be env, file or value, not {other:?}"
                )));
            }
        };
        let id = format!("id={}", self.id);
        Ok(fields(&[[id].as_slice(), &from].concat()))
    }
}

impl Destination {
    fn word(&self, system: &mut dyn System) -> Result<String, ModuleError> {
        let kind = self.r#type.as_str();
        let mut parts = vec![format!("type={kind}")];
        match (kind, &self.dest) {
            ("local" | "tar" | "oci" | "docker", Some(dest)) => {
                parts.push(format!("dest={}", args::expand_path(dest, system)?.display()));
            }
            ("local" | "tar" | "oci", None) => return Err(lacks("outputs", kind, "dest")),
            ("docker" | "image", _) => {}
            _ => {
                let kinds = "docker, image, local, oci or tar";
                return Err(ModuleError::new(format!("outputs: type must be {kinds}, not {kind:?}")));
            }
        }
        if let (true, Some(context)) = (kind == "docker", &self.context) {
            parts.push(format!("context={context}"));
        }
        if kind == "image" {
            parts.extend(self.name.iter().map(|names| format!("name={}", names.join(","))));
            parts.extend(self.push.then(|| "push=true".to_string()));
        }
        Ok(fields(&parts))
    }
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    if is_id(&args.name) {
        return Err(ModuleError::new("Image name must not be a digest or an ID"));
    }
    let name = full_name(&args.name, &args.tag);
    let docker = match &args.docker_cli {
        Some(path) => Docker::program(vec![args::expand_path(path, system)?.to_string_lossy().into_owned()]),
        None => Docker::new(&args.connection, system)?,
    };
    let context = args.cli_context.iter().flat_map(|context| ["--context".to_string(), context.clone()]);
    let mut images = Images { docker: docker.with(context), system, actions: Vec::new() };
    let before = images.id(&name)?;
    let mut outcome = Outcome::default();
    if before.is_none() || args.rebuild == "always" {
        let mut more = Vec::new();
        let mut env = Vec::new();
        for secret in &args.secrets {
            more.extend(["--secret".to_string(), secret.word(&mut env, images.system)?]);
        }
        for destination in &args.outputs {
            more.extend(["--output".to_string(), destination.word(images.system)?]);
        }
        let mut command = args.build().command(&name, &more, &images.docker, images.system)?;
        command.env.extend(env);
        let output = images.build(&command, &name, before.as_ref())?;
        let words = command.argv.iter().map(|word| Value::from(word.to_string_lossy().into_owned()));
        outcome = outcome
            .set("command", Value::list(words.collect()))
            .set("stdout", output.stdout_text())
            .set("stderr", output.stderr_text());
    }
    let image = images.inspect(&name)?;
    images.system.applied(Applied { kind: "image".into(), id: name, state: state("present") });
    Ok(outcome.set("image", image).set("actions", images.actions))
}

impl Args {
    fn build(&self) -> Build {
        Build {
            args: self.args.clone(),
            cache_from: self.cache_from.clone(),
            dockerfile: self.dockerfile.clone(),
            etc_hosts: self.etc_hosts.clone(),
            labels: self.labels.clone(),
            network: self.network.clone(),
            nocache: self.nocache,
            path: Some(self.path.clone()),
            platform: self.platform.as_ref().map(|platforms| platforms.join(",")),
            pull: self.pull,
            shm_size: self.shm_size.clone().map(Value::from),
            target: self.target.clone(),
            ..Build::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::Output;
    use crate::system::fake::Fake;

    #[test]
    fn images_are_built_once() {
        let table: &[(&str, Result<&str, &str>)] = &[
            (r#""name": "a""#, Ok("")),
            (r#""name": "a", "rebuild": "always""#, Ok("build --tag a:latest /src")),
            (
                r#""name": "b", "tag": "1", "platform": ["linux/amd64", "linux/arm64"], "pull": true, "shm_size": "64M",
                   "args": {"TOKEN": "hidden"}, "labels": {"x": "y"}, "etc_hosts": {"h": "10.0.0.1"}"#,
                Ok("build --tag b:1 --build-arg TOKEN --label x=y --add-host h:10.0.0.1 \
                    --platform linux/amd64,linux/arm64 --shm-size 64M --pull /src"),
            ),
            (
                r#""name": "b", "secrets": [{"id": "k", "type": "file", "src": "/a,b"}, {"id": "v", "type": "value", "value": "hidden"},
                   {"id": "e", "type": "env", "env": "E"}]"#,
                Ok("build --tag b:latest --secret id=k,type=file,\"src=/a,b\" --secret \
                    id=v,type=env,env=SETPOINT_SECRET_0 --secret id=e,type=env,env=E /src"),
            ),
            (
                r#""name": "b", "cli_context": "far", "outputs": [{"type": "tar", "dest": "/o.tar"}, {"type": "docker"},
                   {"type": "image", "name": ["h/b:1", "h/b:2"], "push": true}]"#,
                Ok(
                    "--context far build --tag b:latest --output type=tar,dest=/o.tar --output type=docker --output \
                    type=image,\"name=h/b:1,h/b:2\",push=true /src",
                ),
            ),
            (
                r#""name": "b", "outputs": [{"type": "local"}]"#,
                Err("outputs: type is local but dest is missing"),
            ),
            (r#""name": "b", "outputs": [{"type": "x"}]"#, Err("outputs: type must be")),
            (
                r#""name": "b", "secrets": [{"id": "k", "type": "env"}]"#,
                Err("secrets: type is env but env is missing"),
            ),
            (
                r#""name": "b", "secrets": [{"id": "k", "kind": "env"}]"#,
                Err("invalid arguments: unknown field"),
            ),
            (r#""name": "sha256:00""#, Err("Image name must not be")),
        ];
        for (given, expected) in table {
            let mut fake = Fake::new()
                .with_program("/usr/bin/docker")
                .with_command_prefix(&["docker"], Output::ok(""))
                .with_behaviour(&["docker"], |_, command| match command.line() {
                    line if line.contains(" image inspect a:latest") => Output::ok(r#"[{"Id": "sha256:1"}]"#),
                    line if line.contains(" image inspect ") => Output::fails(1, "No such image"),
                    _ => Output::ok(""),
                });
            let arguments: Value =
                serde_json::from_str(&format!(r#"{{"path": "/src", {given}}}"#)).expect("JSON");
            let ended = call(&MODULE, &arguments, &mut fake);
            let acted: Vec<String> = fake
                .log()
                .iter()
                .filter_map(|line| line.strip_prefix("! /usr/bin/docker "))
                .map(|line| line.replace('\'', ""))
                .collect();
            match expected {
                Ok(line) => assert_eq!((ended.err(), acted.join("|").as_str()), (None, *line), "{given}"),
                Err(error) => {
                    let said = ended.expect_err(given);
                    assert!(said.starts_with(error), "{given}: {said}");
                }
            }
            assert!(!fake.log().join("|").contains("hidden"), "{given}");
        }
    }
}
