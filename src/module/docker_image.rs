//! `docker_image`: images of docker.

use serde::Deserialize;

use crate::module::docker::{self, Connection, Docker, Resource, at, pairs, state};
use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, args, host, typed};
use crate::system::{Applied, Command, Effect, FileKind, Intent, Output, System};
use crate::value::{Map, Value, map_of};

/// Fetches, builds, loads, tags, saves and removes images.
pub const MODULE: Module = Module {
    name: "community.docker.docker_image",
    summary: "Fetch, build, load, tag, push or remove an image",
    description: "Through the docker command. An image that is there is fetched, built or loaded again only with \
        `force_source`. Values of build arguments are not on the command line.",
    example: "- community.docker.docker_image:\n    name: nginx:1.27\n    source: pull\n\n- community.docker.docker_image:\n    name: registry.example.com/app\n    tag: v1\n    source: build\n    build:\n      path: /srv/app\n      pull: true\n    push: true\n",
    scope: Scope::World,
    params: &[
        Param::new("name", Type::Str, "The image, with or without tag or digest; or its id.").required(),
        Param::new("tag", Type::Str, "Tag, where the name has none.").default("latest"),
        Param::new("state", Type::Str, "Whether it should be there.")
            .choices(&["absent", "present"])
            .default("present"),
        Param::new(
            "source",
            Type::Str,
            "Where it comes from: a registry, a directory to build, a file, or it must be there.",
        )
        .choices(&["build", "load", "pull", "local"]),
        Param::new("build", Type::Dict, "How it is built."),
        Param::new("pull", Type::Dict, "How it is fetched."),
        Param::new("load_path", Type::Path, "The file to load."),
        Param::new("archive_path", Type::Path, "A file to save it to."),
        Param::new("repository", Type::Str, "A further name for it."),
        Param::new("push", Type::Bool, "Push it to its registry.").default("false"),
        Param::new("force_source", Type::Bool, "Fetch, build or load it although it is there.")
            .default("false"),
        Param::new("force_absent", Type::Bool, "Remove it although containers use it.").default("false"),
        Param::new("force_tag", Type::Bool, "Give the further name although it is taken.").default("false"),
        docker::API_VERSION,
        docker::CA_PATH,
        docker::CLIENT_CERT,
        docker::CLIENT_KEY,
        docker::DEBUG,
        docker::DOCKER_HOST,
        docker::TIMEOUT,
        docker::TLS,
        docker::TLS_HOSTNAME,
        docker::USE_SSH_CLIENT,
        docker::VALIDATE_CERTS,
    ],
    rules: &[
        Rule::RequiredTogether(&["client_cert", "client_key"]),
        Rule::RequiredIf { param: "state", value: "present", needs: &["source"], any: false },
        Rule::RequiredIf { param: "source", value: "build", needs: &["build"], any: false },
        Rule::RequiredIf { param: "source", value: "load", needs: &["load_path"], any: false },
    ],
    returns: &[
        ("image", "What docker knows of it."),
        ("stdout", "What the build printed."),
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
    state: String,
    source: Option<String>,
    build: Option<Build>,
    pull: Option<Pull>,
    load_path: Option<String>,
    archive_path: Option<String>,
    repository: Option<String>,
    push: bool,
    force_source: bool,
    force_absent: bool,
    force_tag: bool,
    #[serde(flatten)]
    connection: Connection,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Pull {
    platform: Option<String>,
}

/// How an image is built.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Build {
    pub(super) args: Option<Map>,
    #[serde(deserialize_with = "host::optional_texts")]
    pub(super) cache_from: Option<Vec<String>>,
    pub(super) container_limits: Option<Map>,
    pub(super) dockerfile: Option<String>,
    pub(super) etc_hosts: Option<Map>,
    pub(super) http_timeout: Option<Value>,
    pub(super) labels: Option<Map>,
    pub(super) network: Option<String>,
    pub(super) nocache: bool,
    pub(super) path: Option<String>,
    pub(super) platform: Option<String>,
    pub(super) pull: bool,
    pub(super) rm: Option<bool>,
    pub(super) shm_size: Option<Value>,
    pub(super) target: Option<String>,
    pub(super) use_config_proxy: Option<bool>,
}

/// Whether this is an image's id rather than a name.
pub fn is_id(name: &str) -> bool {
    name.starts_with("sha256:") || (name.len() == 64 && name.chars().all(|c| c.is_ascii_hexdigit()))
}

/// A name with its tag or digest; an id has none.
pub fn full_name(name: &str, tag: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if is_id(name) || last.contains(':') || name.contains('@') {
        name.to_string()
    } else if tag.starts_with("sha256:") {
        format!("{name}@{tag}")
    } else {
        format!("{name}:{tag}")
    }
}

/// What becomes of images, for this module and those that do one of its things alone.
pub struct Images<'a> {
    /// The engine.
    pub docker: Docker,
    /// The machine.
    pub system: &'a mut dyn System,
    /// What was done, as users are told.
    pub actions: Vec<String>,
}

impl Images<'_> {
    /// Runs a command that gives a name to an image (`before` is the one that had it), or takes it away. What it
    /// printed, or nothing if it was only recorded.
    fn act(
        &mut self,
        command: &Command,
        name: &str,
        before: Option<&String>,
        after: Value,
    ) -> Result<Option<Output>, ModuleError> {
        let stays = before.is_none() || !after.is_null();
        let undo = stays.then(|| self.docker.take_name_back(name, before));
        let before = before.map_or(Value::Null, |id| map_of([("id", id.as_str())]).into());
        let change = Resource { kind: "image", id: name, before, after, undo };
        self.docker.act(command, change, self.system)
    }

    /// What the engine knows of an image; an empty mapping where there is none.
    ///
    /// # Errors
    /// If it can't be asked.
    pub fn inspect(&mut self, name: &str) -> Result<Value, ModuleError> {
        let known = self.docker.inspect("image", name, self.system)?;
        Ok(known.unwrap_or_else(|| Value::map(Map::new())))
    }

    /// The id of an image.
    ///
    /// # Errors
    /// If the engine can't be asked.
    pub fn id(&mut self, name: &str) -> Result<Option<String>, ModuleError> {
        Ok(at(&self.inspect(name)?, "Id").map(Value::to_text))
    }

    /// Fetches an image.
    ///
    /// # Errors
    /// If that fails.
    pub fn pull(
        &mut self,
        name: &str,
        platform: Option<&String>,
        before: Option<&String>,
    ) -> Result<Option<Output>, ModuleError> {
        let mut words = vec!["pull".to_string(), "--quiet".into()];
        words.extend(platform.iter().flat_map(|platform| ["--platform".to_string(), platform.to_string()]));
        words.push(name.into());
        let output = self.act(&self.docker.command(words), name, before, state("present"))?;
        self.actions.push(format!("Pulled image {name}"));
        Ok(output)
    }

    /// Builds an image with this command, as [`Build::command`] makes it.
    ///
    /// # Errors
    /// If that fails.
    pub fn build(
        &mut self,
        command: &Command,
        name: &str,
        before: Option<&String>,
    ) -> Result<Output, ModuleError> {
        let output = self.act(command, name, before, state("present"))?;
        self.actions.push(format!("Built image {name}"));
        Ok(output.unwrap_or_default())
    }

    /// Gives an image a further name, which now belongs to `before`.
    ///
    /// # Errors
    /// If that fails.
    pub fn tag(
        &mut self,
        name: &str,
        further: &str,
        before: Option<&String>,
        id: Option<&String>,
    ) -> Result<(), ModuleError> {
        let command = self.docker.command(["tag", name, further]);
        self.act(&command, further, before, map_of([("id", id.cloned())]).into())?;
        self.actions.push(format!("Tagged image {name} to {further}"));
        Ok(())
    }

    /// Pushes an image. Whether the registry lacked something of it, as far as is known.
    ///
    /// # Errors
    /// If that fails.
    pub fn push(&mut self, name: &str) -> Result<bool, ModuleError> {
        let id = format!("push {name}");
        let change = Resource { kind: "image", id: &id, after: state("pushed"), ..Resource::default() };
        let output = self.docker.act(&self.docker.command(["push", name]), change, self.system)?;
        self.actions.push(format!("Pushed image {name}"));
        let text = output.map(|output| output.stdout_text()).unwrap_or_default();
        Ok(text.contains(": Pushed") || !text.contains("Layer already exists"))
    }

    /// Fetches, builds or loads an image, as the task says.
    fn obtain(&mut self, args: &Args, name: &str, before: Option<&String>) -> Result<String, ModuleError> {
        match args.source.as_deref() {
            Some("pull") => {
                let platform = args.pull.as_ref().and_then(|pull| pull.platform.as_ref());
                self.pull(name, platform, before)?;
            }
            Some("build") => {
                let build = args.build.as_ref().ok_or_else(|| ModuleError::new("build is required"))?;
                let command = build.command(name, &[], &self.docker, self.system)?;
                return Ok(self.build(&command, name, before)?.stdout_text());
            }
            Some("load") => {
                let path = args.load_path.clone().unwrap_or_default();
                let path = args::expand_path(&path, self.system)?;
                if self.system.stat_follow(&path)?.is_none() && self.system.uncertain().is_none() {
                    return Err(ModuleError::new(format!(
                        "Error loading image {name}. Specified path {} does not exist.",
                        path.display()
                    )));
                }
                let shown = path.to_string_lossy().into_owned();
                let command = self.docker.command(["load", "--input", &shown]);
                self.act(&command, name, before, state("present"))?;
                self.actions.push(format!("Loaded image {name} from {shown}"));
            }
            _ => return Err(ModuleError::new(format!("Cannot find the image {name} locally."))),
        }
        Ok(String::new())
    }
}

impl Build {
    /// The command that builds, with further options; the environment holds the values of build arguments.
    ///
    /// # Errors
    /// If there is no path, or a limit has another name than those that there are.
    pub fn command(
        &self,
        name: &str,
        more: &[String],
        docker: &Docker,
        system: &mut dyn System,
    ) -> Result<Command, ModuleError> {
        let build = self;
        let Some(path) = &build.path else { return Err(ModuleError::new("build: path is required")) };
        let mut words = vec!["build".to_string(), "--tag".into(), name.into()];
        let mut env = Vec::new();
        for (key, value) in build.args.iter().flat_map(Map::iter) {
            words.extend(["--build-arg".to_string(), key.to_text()]);
            env.push((key.to_text(), value.to_text()));
        }
        words.extend(pairs("--label", build.labels.as_ref()));
        for (host, address) in build.etc_hosts.iter().flat_map(Map::iter) {
            words.extend(["--add-host".to_string(), format!("{}:{}", host.to_text(), address.to_text())]);
        }
        for source in build.cache_from.iter().flatten() {
            words.extend(["--cache-from".to_string(), source.clone()]);
        }
        let limits = [
            ("memory", "--memory"),
            ("memswap", "--memory-swap"),
            ("cpushares", "--cpu-shares"),
            ("cpusetcpus", "--cpuset-cpus"),
        ];
        for (key, value) in build.container_limits.iter().flat_map(Map::iter) {
            let key = key.to_text();
            let flag = limits.iter().find(|(name, _)| *name == key);
            let (_, flag) =
                flag.ok_or_else(|| ModuleError::new(format!("build: container_limits has no {key}")))?;
            words.extend([flag.to_string(), value.to_text()]);
        }
        for (value, flag) in [
            (build.network.clone(), "--network"),
            (build.platform.clone(), "--platform"),
            (build.target.clone(), "--target"),
            (build.shm_size.as_ref().map(Value::to_text), "--shm-size"),
        ] {
            words.extend(value.into_iter().flat_map(|value| [flag.to_string(), value]));
        }
        let path = args::expand_path(path, system)?;
        if let Some(file) = &build.dockerfile {
            words.extend(["--file".to_string(), path.join(file).to_string_lossy().into_owned()]);
        }
        for (given, flag) in
            [(build.nocache, "--no-cache"), (build.pull, "--pull"), (build.rm == Some(false), "--rm=false")]
        {
            words.extend(given.then(|| flag.to_string()));
        }
        words.extend_from_slice(more);
        words.push(path.to_string_lossy().into_owned());
        let mut command = docker.command(words);
        command.env.extend(env);
        Ok(command)
    }
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let docker = Docker::new(&args.connection, system)?;
    let name = full_name(&args.name, &args.tag);
    let mut images = Images { docker, system, actions: Vec::new() };
    let before = images.id(&name)?;
    let applied = |state: Value| Applied { kind: "image".into(), id: name.clone(), state };
    if args.state == "absent" {
        if before.is_some() {
            let mut words = vec!["image".to_string(), "rm".into()];
            words.extend(args.force_absent.then(|| "--force".to_string()));
            words.push(name.clone());
            images.act(&images.docker.command(words), &name, before.as_ref(), Value::Null)?;
            images.actions.push(format!("Removed image {name}"));
        }
        images.system.applied(applied(Value::Null));
        return Ok(Outcome::default().set("actions", images.actions).set("image", Value::map(Map::new())));
    }
    let mut stdout = String::new();
    if before.is_none() || args.force_source {
        stdout = images.obtain(args, &name, before.as_ref())?;
    }
    let after = images.id(&name)?;
    // An image that was fetched again and is the one that was there is no change.
    let unchanged = before.is_some() && after == before && args.force_source;
    let mut others = 0;
    if let Some(path) = &args.archive_path {
        others += archive(&mut images, path, &name, after.as_ref())?;
    }
    let mut pushed = name.clone();
    if let Some(repository) = &args.repository {
        pushed = full_name(repository, &args.tag);
        let now = images.id(&pushed)?;
        if now.is_none() || (args.force_tag && now != after) {
            images.tag(&name, &pushed, now.as_ref(), after.as_ref())?;
            others += 1;
        }
    }
    if args.push {
        others += usize::from(images.push(&pushed)?);
    }
    images.system.applied(applied(state("present")));
    let image = images.inspect(&name)?;
    let mut outcome = Outcome::default().set("image", image).set("actions", images.actions);
    if args.source.as_deref() == Some("build") {
        outcome = outcome.set("stdout", stdout);
    }
    if unchanged || args.push {
        let made = (before.is_none() || args.force_source) && !unchanged;
        outcome.changed = Some(made || others > 0);
    }
    Ok(outcome)
}

/// Saves the image, unless the file holds it already. Returns how many changes that was.
fn archive(
    images: &mut Images<'_>,
    path: &str,
    name: &str,
    id: Option<&String>,
) -> Result<usize, ModuleError> {
    let path = args::expand_path(path, images.system)?;
    if let Some(id) = id
        && images.system.stat_follow(&path)?.is_some()
    {
        let shown = path.to_string_lossy().into_owned();
        let manifest = host::ask(["tar", "-xOf", &shown, "manifest.json"], images.system)?.stdout_text();
        if manifest.contains(id.trim_start_matches("sha256:")) {
            return Ok(0);
        }
    }
    let shown = path.to_string_lossy().into_owned();
    let command = images.docker.command(["save", "--output", &shown, name]);
    let is_new = images.system.stat_follow(&path)?.is_none();
    let intent = Intent {
        kind: "file",
        id: shown.clone(),
        after: state("file"),
        undo: is_new.then(|| Command::new(["rm", "-f", &shown])),
        effects: vec![Effect::Path(path, FileKind::File)],
        ..Intent::default()
    };
    host::act("failed to save the image", &command, intent, images.system)?;
    images.actions.push(format!("Archived image {name} to {shown}"));
    Ok(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::fake::Fake;

    #[test]
    fn images_are_obtained_once() {
        for (given, expected) in [
            (r#"{"name": "a:1", "source": "pull"}"#, vec![]),
            (
                r#"{"name": "b", "source": "pull", "pull": {"platform": "arm64"}}"#,
                vec!["pull --quiet --platform arm64 b:latest"],
            ),
            (r#"{"name": "a:1", "source": "local", "repository": "r/a", "tag": "2"}"#, vec!["tag a:1 r/a:2"]),
            (
                r#"{"name": "b", "source": "build", "build": {"path": "/src", "dockerfile": "D", "args": {"TOKEN": "secret"}, "nocache": true, "target": "t"}}"#,
                vec!["build --tag b:latest --build-arg TOKEN --target t --file /src/D --no-cache /src"],
            ),
            (r#"{"name": "b", "source": "load", "load_path": "/b.tar"}"#, vec!["load --input /b.tar"]),
            (r#"{"name": "a:1", "state": "absent", "force_absent": true}"#, vec!["image rm --force a:1"]),
            (r#"{"name": "b", "state": "absent"}"#, vec![]),
        ] {
            let mut fake = Fake::new()
                .with_program("/usr/bin/docker")
                .with_file("/b.tar", "")
                .with_command_prefix(&["docker"], Output::ok(""))
                .with_command_prefix(
                    &["docker", "image", "inspect"],
                    Output::fails(1, "Error: No such image"),
                )
                .with_command(&["docker", "image", "inspect", "a:1"], Output::ok(r#"[{"Id": "sha256:1"}]"#));
            let arguments: Value = serde_json::from_str(given).expect("JSON");
            call(&MODULE, &arguments, &mut fake).expect("it works");
            let acted: Vec<&str> =
                fake.log().iter().filter_map(|line| line.strip_prefix("! /usr/bin/docker ")).collect();
            assert_eq!(acted, expected, "{given}");
        }
        let mut fake = Fake::new()
            .with_program("/usr/bin/docker")
            .with_command_prefix(&["docker"], Output::fails(1, "No such image"));
        let arguments: Value = serde_json::from_str(r#"{"name": "b", "source": "local"}"#).expect("JSON");
        assert_eq!(
            call(&MODULE, &arguments, &mut fake).expect_err("missing"),
            "Cannot find the image b:latest locally."
        );
    }

    #[test]
    fn names_get_a_tag() {
        for (name, tag, expected) in [
            ("a", "latest", "a:latest"),
            ("h:5000/a", "1", "h:5000/a:1"),
            ("h:5000/a:2", "1", "h:5000/a:2"),
            ("a@sha256:00", "1", "a@sha256:00"),
            ("a", "sha256:00", "a@sha256:00"),
            ("sha256:00", "1", "sha256:00"),
        ] {
            assert_eq!(full_name(name, tag), expected);
        }
    }
}
