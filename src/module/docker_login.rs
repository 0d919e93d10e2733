//! `docker_login`: accounts at registries.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::module::docker::{self, Connection, Docker};
use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, args, files, host, typed};
use crate::system::{Applied, Command, Effect, Intent, System};
use crate::value::{Map, Value, map_of};

/// Logs in to a registry, or out.
pub const MODULE: Module = Module {
    name: "community.docker.docker_login",
    summary: "Log in to a registry of images, or out",
    description: "Through the docker command, which keeps the password in its settings or hands it to a credentials \
        helper. If the settings hold the same account already, nothing is done. The password is never on a command line.",
    example: "- community.docker.docker_login:\n    registry_url: registry.example.com\n    username: deploy\n    password: '{{ registry_password }}'\n",
    scope: Scope::World,
    params: &[
        Param::new("registry_url", Type::Str, "The registry.")
            .aliases(&["registry", "url"])
            .default("https://index.docker.io/v1/"),
        Param::new("username", Type::Str, "Account."),
        Param::new("password", Type::Str, "Password.").secret(),
        Param::new("reauthorize", Type::Bool, "Log in although the settings hold the account.")
            .aliases(&["reauth"])
            .default("false"),
        Param::new("config_path", Type::Path, "Docker's settings.")
            .aliases(&["dockercfg_path"])
            .default("~/.docker/config.json"),
        Param::new("state", Type::Str, "Logged in or out.")
            .choices(&["present", "absent"])
            .default("present"),
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
        Rule::RequiredIf { param: "state", value: "present", needs: &["username", "password"], any: false },
    ],
    returns: &[("login_result", "The account and what docker said.")],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    registry_url: String,
    username: Option<String>,
    password: Option<String>,
    reauthorize: bool,
    config_path: String,
    state: String,
    #[serde(flatten)]
    connection: Connection,
}

const DEFAULT_REGISTRY: &str = "https://index.docker.io/v1/";

/// The account that docker's settings (or the helper that they name) hold for a registry: `user:password`.
fn known(config: &Value, registry: &str, system: &mut dyn System) -> Result<Option<String>, ModuleError> {
    let helper = config
        .get("credHelpers")
        .and_then(|helpers| helpers.get(registry))
        .or_else(|| config.get("credsStore"))
        .map(Value::to_text)
        .filter(|helper| !helper.is_empty());
    if let Some(helper) = helper {
        let command = Command {
            stdin: Some(registry.as_bytes().to_vec()),
            ..Command::new([format!("docker-credential-{helper}"), "get".into()])
        };
        let output = files::try_query(system, &command)?.filter(|output| output.success());
        let parsed: Value =
            output.and_then(|output| serde_json::from_str(&output.stdout_text()).ok()).unwrap_or_default();
        let part = |name: &str| parsed.get(name).map(Value::to_text);
        return Ok(part("Username").zip(part("Secret")).map(|(user, secret)| format!("{user}:{secret}")));
    }
    let auth = config.get("auths").and_then(|auths| auths.get(registry)).and_then(|entry| entry.get("auth"));
    let decoded = auth.and_then(|auth| STANDARD.decode(auth.to_text()).ok());
    Ok(decoded.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let path = args::expand_path(&args.config_path, system)?;
    let directory = files::parent_of(&path).to_string_lossy().into_owned();
    let docker = Docker::new(&args.connection, system)?.with(["--config".to_string(), directory]);
    let config: Value =
        host::read_text(&path, system).and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let registry = args.registry_url.as_str();
    let now = known(&config, registry, system)?;
    // The command takes the default registry without a name.
    let operand = (registry != DEFAULT_REGISTRY).then(|| registry.to_string());
    let (user, password) =
        (args.username.clone().unwrap_or_default(), args.password.clone().unwrap_or_default());
    let present = args.state == "present";
    let account = |user: &str| Value::map(map_of([("username", user)]));
    let before = now.as_ref().map_or(Value::Null, |now| account(now.split(':').next().unwrap_or_default()));
    let mut said = String::new();
    let due =
        if present { now != Some(format!("{user}:{password}")) || args.reauthorize } else { now.is_some() };
    if due {
        let mut words = if present {
            vec!["login".to_string(), "--username".into(), user.clone(), "--password-stdin".into()]
        } else {
            vec!["logout".to_string()]
        };
        words.extend(operand);
        let mut command = docker.command(words);
        command.stdin = present.then(|| password.clone().into_bytes());
        // podman, where it stands for docker, takes the place of its settings from here.
        command.env.push(("REGISTRY_AUTH_FILE".into(), path.to_string_lossy().into_owned()));
        let intent = Intent {
            kind: "registry_login",
            id: registry.into(),
            before,
            after: if present { account(&user) } else { Value::Null },
            effects: vec![Effect::Anything],
            ..Intent::default()
        };
        let what = format!("Logging into {registry} for user {user} failed");
        if let Some(output) = host::act(&what, &command, intent, system)? {
            said = output.stdout_text().trim().to_string();
        }
    }
    let state = if present { account(&user) } else { Value::Null };
    system.applied(Applied { kind: "registry_login".into(), id: registry.into(), state });
    let mut result = Map::new();
    if present {
        let status = if said.is_empty() { "Login Succeeded".to_string() } else { said };
        result = map_of([("Status", status), ("username", user), ("serveraddress", registry.to_string())]);
    }
    Ok(Outcome::default().set("login_result", Value::map(result)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::Output;
    use crate::system::fake::Fake;

    #[test]
    fn an_account_that_is_known_is_not_given_again() {
        let config =
            format!(r#"{{"auths": {{"r.example": {{"auth": "{}"}}}}}}"#, STANDARD.encode("me:secret"));
        let base = "! /usr/bin/docker --config /root/.docker";
        for (given, expected) in [
            (vec![("username", "me"), ("password", "secret")], None),
            (
                vec![("username", "me"), ("password", "other")],
                Some("login --username me --password-stdin r.example"),
            ),
            (
                vec![("username", "me"), ("password", "secret"), ("reauthorize", "yes")],
                Some("login --username me --password-stdin r.example"),
            ),
            (vec![("state", "absent")], Some("logout r.example")),
            (vec![("state", "absent"), ("registry_url", "other")], None),
            (
                vec![("username", "a"), ("password", "b"), ("registry_url", DEFAULT_REGISTRY)],
                Some("login --username a --password-stdin"),
            ),
        ] {
            let mut fake = Fake::new()
                .with_program("/usr/bin/docker")
                .with_file("/root/.docker/config.json", &config)
                .with_command_prefix(&["docker"], Output::ok("Login Succeeded"));
            let given = map_of([("registry_url", "r.example")].into_iter().chain(given));
            call(&MODULE, &given.clone().into(), &mut fake).expect("it works");
            let acted = fake.log().iter().find(|line| line.starts_with("! ")).cloned();
            assert_eq!(acted, expected.map(|words| format!("{base} {words}")), "{given:?}");
        }
    }
}
