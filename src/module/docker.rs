//! What the modules for containers share: the docker (or podman) command of the host, the parameters that say
//! which engine it talks to, and questions to that engine.

use serde::Deserialize;

use crate::module::{ModuleError, Param, Type, host};
use crate::system::{Command, Effect, Intent, Output, System};
use crate::value::{Map, Value, map_of};

/// The engine's address.
pub const DOCKER_HOST: Param =
    Param::new("docker_host", Type::Str, "Address of the engine; else that of docker's settings.")
        .aliases(&["docker_url"])
        .default("unix:///var/run/docker.sock");
/// A name in certificates.
pub const TLS_HOSTNAME: Param = Param::new("tls_hostname", Type::Str, "Not supported.")
    .refused("the docker command takes the name from docker_host");
/// Version of the interface.
pub const API_VERSION: Param = Param::new("api_version", Type::Str, "Version of the engine's interface.")
    .aliases(&["docker_api_version"])
    .default("auto");
/// A limit.
pub const TIMEOUT: Param =
    Param::new("timeout", Type::Int, "Has no effect: the docker command has a limit of its own.")
        .default("60");
/// Certificates of authorities.
pub const CA_PATH: Param = Param::new("ca_path", Type::Path, "File with certificates of authorities.")
    .aliases(&["ca_cert", "tls_ca_cert", "cacert_path"]);
/// A client's certificate.
pub const CLIENT_CERT: Param =
    Param::new("client_cert", Type::Path, "Client certificate.").aliases(&["tls_client_cert", "cert_path"]);
/// Its key.
pub const CLIENT_KEY: Param = Param::new("client_key", Type::Path, "Key of the client certificate.")
    .aliases(&["tls_client_key", "key_path"]);
/// TLS.
pub const TLS: Param = Param::new("tls", Type::Bool, "Use TLS without checking the engine.").default("false");
/// TLS with checks.
pub const VALIDATE_CERTS: Param = Param::new("validate_certs", Type::Bool, "Use TLS and check the engine.")
    .aliases(&["tls_verify"])
    .default("false");
/// Which ssh.
pub const USE_SSH_CLIENT: Param =
    Param::new("use_ssh_client", Type::Bool, "Has no effect: the docker command uses ssh's own client.")
        .default("false");
/// More to read.
pub const DEBUG: Param = Param::new("debug", Type::Bool, "Has no effect.").default("false");

/// Which engine, as a task says it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Connection {
    docker_host: Option<String>,
    api_version: Option<String>,
    ca_path: Option<String>,
    client_cert: Option<String>,
    client_key: Option<String>,
    tls: bool,
    validate_certs: bool,
}

/// The engine.
#[derive(Clone, Debug)]
pub struct Docker {
    argv: Vec<String>,
    env: Vec<(String, String)>,
}

impl Docker {
    /// The docker command with the engine's address.
    ///
    /// # Errors
    /// If there is no docker command.
    pub fn new(connection: &Connection, system: &mut dyn System) -> Result<Docker, ModuleError> {
        let mut argv = vec![host::need_program("docker", system)?];
        if let Some(address) =
            connection.docker_host.as_ref().filter(|host| *host != "unix:///var/run/docker.sock")
        {
            argv.extend(["--host".to_string(), address.clone()]);
        }
        argv.extend(connection.tls.then(|| "--tls".to_string()));
        argv.extend(connection.validate_certs.then(|| "--tlsverify".to_string()));
        for (option, value) in [
            ("--tlscacert", &connection.ca_path),
            ("--tlscert", &connection.client_cert),
            ("--tlskey", &connection.client_key),
        ] {
            argv.extend(value.iter().flat_map(|value| [option.to_string(), value.clone()]));
        }
        let version = connection.api_version.as_ref().filter(|version| *version != "auto");
        let env =
            version.map(|version| ("DOCKER_API_VERSION".to_string(), version.clone())).into_iter().collect();
        Ok(Docker { argv, env })
    }

    /// Another program that takes the same arguments.
    pub fn program(argv: Vec<String>) -> Docker {
        Docker { argv, env: Vec::new() }
    }

    /// The same with options that stand before each command.
    #[must_use]
    pub fn with(mut self, words: impl IntoIterator<Item = String>) -> Docker {
        self.argv.extend(words);
        self
    }

    /// A command.
    pub fn command<S: Into<String>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        let argv = self.argv.iter().cloned().chain(words.into_iter().map(Into::into));
        Command { env: self.env.clone(), ..Command::new(argv) }
    }

    /// Runs a command that only looks. A program that is missing gives status 127.
    ///
    /// # Errors
    /// If it can't be run for another reason.
    pub fn ask<S: Into<String>>(
        &self,
        words: impl IntoIterator<Item = S>,
        system: &mut dyn System,
    ) -> Result<Output, ModuleError> {
        match system.query(&self.command(words)) {
            Ok(output) => Ok(output),
            Err(error) if error.is_not_found() => Ok(Output { code: 127, ..Output::default() }),
            Err(error) => Err(error.into()),
        }
    }

    /// What the engine knows of a container, image, network or volume. `None` if there is none.
    ///
    /// # Errors
    /// If the engine can't be asked.
    pub fn inspect(
        &self,
        kind: &str,
        name: &str,
        system: &mut dyn System,
    ) -> Result<Option<Value>, ModuleError> {
        let output = self.ask([kind, "inspect", name], system)?;
        if output.success() {
            let parsed: Value = serde_json::from_str(&output.stdout_text())
                .map_err(|error| ModuleError::new(format!("the engine's answer can't be read: {error}")))?;
            return Ok(parsed.as_list().and_then(|list| list.first().cloned()));
        }
        let said = output.stderr_text().to_lowercase();
        let absent = said.contains("no such")
            || said.contains("not known")
            || said.contains("not found")
            || said.contains("unable to find");
        if absent || system.uncertain().is_some() {
            return Ok(None);
        }
        Err(ModuleError::command(
            "Error connecting to the engine",
            &self.command([kind, "inspect", name]),
            &output,
        ))
    }

    /// The command that takes a name from an image, and gives it back to the one that had it before.
    pub fn take_name_back(&self, name: &str, before: Option<&String>) -> Command {
        match before {
            None => self.command(["image", "rm", name]),
            // The image that had the name is still there, without it.
            Some(id) => self.command(["tag", id, name]),
        }
    }

    /// Runs a command that acts; what it printed, or nothing if it was only recorded.
    ///
    /// # Errors
    /// If it fails.
    pub fn act(
        &self,
        command: &Command,
        change: Resource<'_>,
        system: &mut dyn System,
    ) -> Result<Option<Output>, ModuleError> {
        let intent = Intent {
            kind: change.kind,
            id: change.id.to_string(),
            before: change.before,
            after: change.after,
            undo: change.undo,
            effects: vec![Effect::Anything],
            sensitive: false,
        };
        host::act("docker failed", command, intent, system)
    }
}

/// What a command changes.
#[derive(Debug, Default)]
pub struct Resource<'a> {
    /// `container`, `image`, `network` or `volume`.
    pub kind: &'static str,
    /// Its name.
    pub id: &'a str,
    /// State before.
    pub before: Value,
    /// State afterwards.
    pub after: Value,
    /// The command that takes it back.
    pub undo: Option<Command>,
}

/// A state of one word.
pub fn state(word: &str) -> Value {
    map_of([("state", word)]).into()
}

/// A value deep inside: `HostConfig.Memory`.
pub fn at<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(value, |value, name| value.get(name)).filter(|value| !value.is_null())
}

/// Whether every entry that is asked for is there with its value as text.
pub fn holds(actual: Option<&Value>, wanted: &Map) -> bool {
    wanted.iter().all(|(key, value)| {
        let now = actual.and_then(Value::as_map).and_then(|map| map.get(key));
        now.map(Value::to_text) == Some(value.to_text())
    })
}

/// `--flag key=value` for each entry.
pub fn pairs<'a>(flag: &'a str, map: Option<&'a Map>) -> impl Iterator<Item = String> + 'a {
    map.into_iter()
        .flat_map(Map::iter)
        .flat_map(move |(key, value)| [flag.to_string(), format!("{}={}", key.to_text(), value.to_text())])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::fake::Fake;

    #[test]
    fn the_engine_is_asked_as_the_task_says() {
        let mut fake = Fake::new()
            .with_program("/usr/bin/docker")
            .with_command_prefix(&["docker"], Output::fails(1, "Error: No such object: x"));
        let connection = Connection {
            docker_host: Some("tcp://h:1".into()),
            api_version: Some("1.40".into()),
            validate_certs: true,
            ca_path: Some("/ca".into()),
            ..Connection::default()
        };
        let docker = Docker::new(&connection, &mut fake).expect("there");
        assert_eq!(docker.inspect("volume", "x", &mut fake).expect("asked"), None);
        assert_eq!(
            fake.log(),
            ["/usr/bin/docker --host tcp://h:1 --tlsverify --tlscacert /ca volume inspect x"]
        );
        fake.on(&["docker"], true, |_, _| Output::fails(1, "Cannot connect to the Docker daemon"));
        let error = docker.inspect("volume", "x", &mut fake).expect_err("no engine");
        assert!(error.message.contains("Cannot connect"), "{error}");
    }
}
