//! `docker_volume`: volumes of docker.

use serde::Deserialize;

use crate::module::docker::{self, Connection, Docker, Resource, at, holds, pairs, state};
use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, typed};
use crate::system::{Applied, System};
use crate::value::{Map, Value};

/// Makes and removes volumes.
pub const MODULE: Module = Module {
    name: "community.docker.docker_volume",
    summary: "Make or remove a volume of docker",
    description: "Through the docker command. A volume with other options is left as it is unless `recreate` says that \
        it may be made anew, which loses what is in it.",
    example: "- community.docker.docker_volume:\n    name: data\n",
    scope: Scope::Host,
    params: &[
        Param::new("volume_name", Type::Str, "The volume.").aliases(&["name"]).required(),
        Param::new("state", Type::Str, "Whether it should be there.")
            .choices(&["absent", "present"])
            .default("present"),
        Param::new("driver", Type::Str, "Driver.").default("local"),
        Param::new("driver_options", Type::Dict, "Options of the driver.").default("{}"),
        Param::new("labels", Type::Dict, "Labels."),
        Param::new("recreate", Type::Str, "When it is made anew, which loses what is in it.")
            .choices(&["always", "never", "options-changed"])
            .default("never"),
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
    rules: &[Rule::RequiredTogether(&["client_cert", "client_key"])],
    returns: &[("volume", "What docker knows of it.")],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    volume_name: String,
    state: String,
    driver: String,
    driver_options: Map,
    labels: Option<Map>,
    recreate: String,
    #[serde(flatten)]
    connection: Connection,
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let docker = Docker::new(&args.connection, system)?;
    let name = args.volume_name.as_str();
    let now = docker.inspect("volume", name, system)?;
    let applied = |state: Value| Applied { kind: "volume".into(), id: name.into(), state };
    let remove = |now: &Value, system: &mut dyn System| {
        let change = Resource { kind: "volume", id: name, before: now.clone(), ..Resource::default() };
        docker.act(&docker.command(["volume", "rm", name]), change, system)
    };
    if args.state == "absent" {
        if let Some(now) = &now {
            remove(now, system)?;
        }
        system.applied(applied(Value::Null));
        return Ok(Outcome::default());
    }
    let differs = now.as_ref().is_some_and(|now| {
        at(now, "Driver").map(Value::to_text).as_deref() != Some(&args.driver)
            || !holds(at(now, "Options"), &args.driver_options)
            || !holds(at(now, "Labels"), args.labels.as_ref().unwrap_or(&Map::new()))
    });
    let again = args.recreate == "always" || (args.recreate == "options-changed" && differs);
    if let Some(now) = now.as_ref().filter(|_| again) {
        remove(now, system)?;
    }
    if now.is_none() || again {
        let mut words = vec!["volume".to_string(), "create".into(), "--driver".into(), args.driver.clone()];
        words.extend(pairs("--opt", Some(&args.driver_options)));
        words.extend(pairs("--label", args.labels.as_ref()));
        words.push(name.into());
        let undo = now.is_none().then(|| docker.command(["volume", "rm", name]));
        let change =
            Resource { kind: "volume", id: name, after: state("present"), undo, ..Resource::default() };
        docker.act(&docker.command(words), change, system)?;
    }
    system.applied(applied(state("present")));
    let volume = docker.inspect("volume", name, system)?.or(now);
    Ok(Outcome::default().set("volume", volume.unwrap_or_else(|| Value::map(Map::new()))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::Output;
    use crate::system::fake::Fake;
    use crate::value::map_of;

    #[test]
    fn volumes_are_made_once() {
        let known =
            r#"[{"Name": "v", "Driver": "local", "Options": {"type": "tmpfs"}, "Labels": {"a": "1"}}]"#;
        for (given, expected) in [
            (vec![("name", "v".into())], vec![]),
            (vec![("name", "v".into()), ("labels", Value::map(map_of([("a", 1)])))], vec![]),
            (vec![("name", "v".into()), ("driver", "x".into())], vec![]),
            (
                vec![("name", "v".into()), ("driver", "x".into()), ("recreate", "options-changed".into())],
                vec!["volume rm v", "volume create --driver x v"],
            ),
            (
                vec![("name", "w".into()), ("driver_options", Value::map(map_of([("o", "size=1")])))],
                vec!["volume create --driver local --opt o=size=1 w"],
            ),
            (vec![("name", "v".into()), ("state", "absent".into())], vec!["volume rm v"]),
            (vec![("name", "w".into()), ("state", "absent".into())], vec![]),
        ] {
            let mut fake = Fake::new()
                .with_program("/usr/bin/docker")
                .with_command_prefix(&["docker"], Output::ok(""))
                .with_command_prefix(&["docker", "volume", "inspect"], Output::fails(1, "no such volume"))
                .with_command(&["docker", "volume", "inspect", "v"], Output::ok(known));
            call(&MODULE, &map_of(given.clone()).into(), &mut fake).expect("it works");
            let acted: Vec<&str> =
                fake.log().iter().filter_map(|line| line.strip_prefix("! /usr/bin/docker ")).collect();
            assert_eq!(acted, expected, "{given:?}");
        }
    }
}
