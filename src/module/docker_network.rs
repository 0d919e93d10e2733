//! `docker_network`: networks of docker.

use serde::Deserialize;

use crate::module::docker::{self, Connection, Docker, Resource, at, holds, pairs, state};
use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, host, typed};
use crate::system::{Applied, System};
use crate::value::{Map, Value, map_of};

/// Makes and removes networks.
pub const MODULE: Module = Module {
    name: "community.docker.docker_network",
    summary: "Make or remove a network of docker, and connect containers",
    description: "Through the docker command. A network with other options is made anew: its containers are \
        disconnected first, and those that the task names are connected again.",
    example: "- community.docker.docker_network:\n    name: backend\n    ipam_config:\n      - subnet: 172.23.27.0/24\n    connected: [web]\n",
    scope: Scope::Host,
    params: &[
        Param::new("name", Type::Str, "The network.").aliases(&["network_name"]).required(),
        Param::new("state", Type::Str, "Whether it should be there.")
            .choices(&["absent", "present"])
            .default("present"),
        Param::new("driver", Type::Str, "Driver.").default("bridge"),
        Param::new("driver_options", Type::Dict, "Options of the driver.").default("{}"),
        Param::new("connected", Type::List, "Containers that are in it.")
            .aliases(&["containers"])
            .default("[]"),
        Param::new("appends", Type::Bool, "Containers that are not named stay connected.")
            .aliases(&["incremental"])
            .default("false"),
        Param::new("force", Type::Bool, "Make it anew in any case.").default("false"),
        Param::new("attachable", Type::Bool, "Containers outside of services may join."),
        Param::new("config_only", Type::Bool, "It holds settings for other networks alone."),
        Param::new("config_from", Type::Str, "The network whose settings it takes."),
        Param::new("enable_ipv4", Type::Bool, "With addresses of version 4."),
        Param::new("enable_ipv6", Type::Bool, "With addresses of version 6."),
        Param::new("ingress", Type::Bool, "It is the network between nodes of a swarm."),
        Param::new("internal", Type::Bool, "Nothing outside can be reached."),
        Param::new("ipam_config", Type::List, "Ranges of addresses."),
        Param::new("ipam_driver", Type::Str, "Driver that gives addresses."),
        Param::new("ipam_driver_options", Type::Dict, "Options of that driver."),
        Param::new("labels", Type::Dict, "Labels.").default("{}"),
        Param::new("scope", Type::Str, "How far it reaches.").choices(&["local", "global", "swarm"]),
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
    returns: &[("network", "What docker knows of it.")],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    name: String,
    state: String,
    driver: String,
    driver_options: Map,
    #[serde(deserialize_with = "host::texts")]
    connected: Vec<String>,
    appends: bool,
    force: bool,
    attachable: Option<bool>,
    config_only: Option<bool>,
    config_from: Option<String>,
    enable_ipv4: Option<bool>,
    enable_ipv6: Option<bool>,
    ingress: Option<bool>,
    internal: Option<bool>,
    ipam_config: Option<Vec<Map>>,
    ipam_driver: Option<String>,
    ipam_driver_options: Option<Map>,
    labels: Map,
    scope: Option<String>,
    #[serde(flatten)]
    connection: Connection,
}

/// Names of parameters that are not as asked for.
fn differences(args: &Args, now: &Value) -> Vec<&'static str> {
    let mut out = Vec::new();
    let mut differs = |name: &'static str, differs: bool| out.extend(differs.then_some(name));
    let text = |path: &str| at(now, path).map(Value::to_text).unwrap_or_default();
    differs("driver", text("Driver") != args.driver);
    differs("driver_options", !holds(at(now, "Options"), &args.driver_options));
    differs("labels", !holds(at(now, "Labels"), &args.labels));
    for (name, wanted, path) in [
        ("attachable", args.attachable, "Attachable"),
        ("config_only", args.config_only, "ConfigOnly"),
        ("enable_ipv4", args.enable_ipv4, "EnableIPv4"),
        ("enable_ipv6", args.enable_ipv6, "EnableIPv6"),
        ("ingress", args.ingress, "Ingress"),
        ("internal", args.internal, "Internal"),
    ] {
        let is = at(now, path).and_then(Value::to_bool);
        // Old engines do not tell of version 4, which is then on.
        let is = is.unwrap_or(path == "EnableIPv4");
        differs(name, wanted.is_some_and(|wanted| wanted != is));
    }
    for (name, wanted, path) in [
        ("config_from", &args.config_from, "ConfigFrom.Network"),
        ("ipam_driver", &args.ipam_driver, "IPAM.Driver"),
        ("scope", &args.scope, "Scope"),
    ] {
        differs(name, wanted.as_ref().is_some_and(|wanted| *wanted != text(path)));
    }
    if let Some(options) = &args.ipam_driver_options {
        differs("ipam_driver_options", !holds(at(now, "IPAM.Options"), options));
    }
    let known = at(now, "IPAM.Config").and_then(Value::as_list).unwrap_or_default();
    let missing =
        args.ipam_config.iter().flatten().any(|wanted| !known.iter().any(|is| same_range(is, wanted)));
    differs(
        "ipam_config",
        missing || args.ipam_config.as_ref().is_some_and(|wanted| wanted.len() != known.len()),
    );
    out
}

fn same_range(is: &Value, wanted: &Map) -> bool {
    [("subnet", "Subnet"), ("gateway", "Gateway"), ("iprange", "IPRange")].iter().all(|(name, theirs)| {
        let wanted = wanted.get(*name).filter(|value| !value.is_null()).map(Value::to_text);
        wanted.is_none_or(|wanted| at(is, theirs).map(Value::to_text) == Some(wanted))
    }) && wanted
        .get("aux_addresses")
        .and_then(Value::as_map)
        .is_none_or(|addresses| holds(at(is, "AuxiliaryAddresses"), addresses))
}

fn creation(args: &Args) -> Vec<String> {
    let mut words = vec!["network".to_string(), "create".into(), "--driver".into(), args.driver.clone()];
    words.extend(pairs("--opt", Some(&args.driver_options)));
    for (given, flag) in [
        (args.attachable, "--attachable"),
        (args.config_only, "--config-only"),
        (args.enable_ipv6, "--ipv6"),
        (args.ingress, "--ingress"),
        (args.internal, "--internal"),
    ] {
        words.extend((given == Some(true)).then(|| flag.to_string()));
    }
    words.extend(args.enable_ipv4.map(|on| format!("--ipv4={on}")));
    for (value, flag) in
        [(&args.config_from, "--config-from"), (&args.ipam_driver, "--ipam-driver"), (&args.scope, "--scope")]
    {
        words.extend(value.iter().flat_map(|value| [flag.to_string(), value.clone()]));
    }
    words.extend(pairs("--ipam-opt", args.ipam_driver_options.as_ref()));
    for range in args.ipam_config.iter().flatten() {
        for (name, flag) in [("subnet", "--subnet"), ("gateway", "--gateway"), ("iprange", "--ip-range")] {
            if let Some(value) = range.get(name).filter(|value| !value.is_null()) {
                words.extend([flag.to_string(), value.to_text()]);
            }
        }
        words.extend(pairs("--aux-address", range.get("aux_addresses").and_then(Value::as_map)));
    }
    words.extend(pairs("--label", Some(&args.labels)));
    words.push(args.name.clone());
    words
}

/// Names of the containers that docker tells to be in it: those that run.
fn running_members(now: Option<&Value>) -> Vec<String> {
    let containers = now.and_then(|now| at(now, "Containers")).and_then(Value::as_map);
    let name = |entry: &Value| {
        entry.get("Name").or_else(|| entry.get("name")).map(Value::to_text).unwrap_or_default()
    };
    containers.map(|map| map.values().map(name).collect()).unwrap_or_default()
}

/// Names of the containers that are in it, those that do not run among them.
fn members(
    docker: &Docker,
    name: &str,
    now: Option<&Value>,
    system: &mut dyn System,
) -> Result<Vec<String>, ModuleError> {
    if now.is_none() {
        return Ok(Vec::new());
    }
    let mut names = running_members(now);
    let filter = format!("network={name}");
    let listed = docker.ask(["ps", "--all", "--filter", &filter, "--format", "{{.Names}}"], system)?;
    let listed = if listed.success() { listed.stdout_text() } else { String::new() };
    names.extend(listed.lines().map(|line| line.trim().to_string()).filter(|name| !name.is_empty()));
    names.sort();
    names.dedup();
    Ok(names)
}

/// What podman tells of a network, as docker tells it.
fn as_docker_tells(network: Value) -> Value {
    if network.get("driver").is_none() {
        return network;
    }
    let subnets = network.get("subnets");
    let text = |path: &str| at(&network, path).cloned().unwrap_or_default();
    let range = |subnet: &Value| -> Value {
        let part = |name: &str| subnet.get(name).cloned().unwrap_or_default();
        map_of([("Subnet", part("subnet")), ("Gateway", part("gateway"))]).into()
    };
    let ranges: Vec<Value> = subnets.and_then(Value::as_list).unwrap_or_default().iter().map(range).collect();
    let driver = match at(&network, "ipam_options.driver").map(Value::to_text).as_deref() {
        None | Some("host-local") => "default".to_string(),
        Some(other) => other.to_string(),
    };
    let ipam = map_of([("Driver", Value::from(driver)), ("Config", Value::list(ranges))]);
    let mut told = map_of([
        ("Name", text("name")),
        ("Id", text("id")),
        ("Created", text("created")),
        ("Driver", text("driver")),
        ("Internal", text("internal")),
        ("EnableIPv6", text("ipv6_enabled")),
        ("IPAM", ipam.into()),
    ]);
    for (name, path) in [("Labels", "labels"), ("Options", "options"), ("Containers", "containers")] {
        let value = at(&network, path).cloned().unwrap_or_else(|| Value::map(Map::new()));
        told.insert(name.into(), value);
    }
    told.into()
}

struct Work<'a> {
    docker: Docker,
    name: &'a str,
    system: &'a mut dyn System,
}

impl Work<'_> {
    fn join(&mut self, container: &str, joins: bool) -> Result<(), ModuleError> {
        let words = if joins {
            vec!["network", "connect", self.name, container]
        } else {
            vec!["network", "disconnect", "--force", self.name, container]
        };
        let id = format!("{}: {container}", self.name);
        let (mut before, mut after) = (state("connected"), Value::Null);
        if joins {
            std::mem::swap(&mut before, &mut after);
        }
        // With which address and which further names a container was in it is not known.
        let undo =
            joins.then(|| self.docker.command(["network", "disconnect", "--force", self.name, container]));
        let change = Resource { kind: "network_member", id: &id, before, after, undo };
        self.docker.act(&self.docker.command(words), change, self.system).map(|_| ())
    }

    fn remove(&mut self, now: &Value) -> Result<(), ModuleError> {
        for member in members(&self.docker, self.name, Some(now), self.system)? {
            self.join(&member, false)?;
        }
        let change =
            Resource { kind: "network", id: self.name, before: state("present"), ..Resource::default() };
        self.docker.act(&self.docker.command(["network", "rm", self.name]), change, self.system).map(|_| ())
    }
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let docker = Docker::new(&args.connection, system)?;
    let name = args.name.as_str();
    let now = docker.inspect("network", name, system)?.map(as_docker_tells);
    let applied = |state: Value| Applied { kind: "network".into(), id: name.into(), state };
    let mut work = Work { docker, name, system };
    if args.state == "absent" {
        if let Some(now) = &now {
            work.remove(now)?;
        }
        work.system.applied(applied(Value::Null));
        return Ok(Outcome::default());
    }
    let different = now.as_ref().map(|now| differences(args, now)).unwrap_or_default();
    let again = now.is_some() && (args.force || !different.is_empty());
    if let Some(now) = now.as_ref().filter(|_| again) {
        work.remove(now)?;
    }
    if now.is_none() || again {
        let after = map_of([("state", Value::from("present")), ("differed", different.into())]).into();
        let undo = now.is_none().then(|| work.docker.command(["network", "rm", name]));
        let change = Resource { kind: "network", id: name, after, undo, ..Resource::default() };
        work.docker.act(&work.docker.command(creation(args)), change, work.system)?;
    }
    let inside = if again { Vec::new() } else { members(&work.docker, name, now.as_ref(), work.system)? };
    for container in args.connected.iter().filter(|container| !inside.contains(container)) {
        work.join(container, true)?;
    }
    if !args.appends && !again {
        for container in
            running_members(now.as_ref()).iter().filter(|container| !args.connected.contains(container))
        {
            work.join(container, false)?;
        }
    }
    work.system.applied(applied(state("present")));
    let network = work.docker.inspect("network", name, work.system)?.map(as_docker_tells).or(now);
    Ok(Outcome::default().set("network", network.unwrap_or_else(|| Value::map(Map::new()))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::Output;
    use crate::system::fake::Fake;

    #[test]
    fn what_podman_tells_is_understood() {
        let told = r#"[{"name": "n", "id": "1", "driver": "bridge", "network_interface": "podman1", "created": "2026",
            "subnets": [{"subnet": "10.1.0.0/16", "gateway": "10.1.0.1"}], "ipv6_enabled": false, "internal": true,
            "dns_enabled": true, "labels": {"a": "b"}, "ipam_options": {"driver": "host-local"}}]"#;
        for (given, expected) in [
            (r#""internal": true, "labels": {"a": "b"}, "ipam_config": [{"subnet": "10.1.0.0/16"}]"#, 0),
            (r#""internal": true, "ipam_driver": "default""#, 0),
            (r#""internal": false"#, 3),
            (r#""internal": true, "connected": ["web"]"#, 0),
            (r#""internal": true, "labels": {"a": "c"}, "connected": ["web"]"#, 4),
        ] {
            let members = if given.contains("connected") || expected == 3 { "web\n" } else { "" };
            let mut fake = Fake::new()
                .with_program("/usr/bin/docker")
                .with_command_prefix(&["docker"], Output::ok(""))
                .with_command_prefix(&["docker", "ps"], Output::ok(members))
                .with_command(&["docker", "network", "inspect", "n"], Output::ok(told));
            let arguments: Value =
                serde_json::from_str(&format!(r#"{{"name": "n", {given}}}"#)).expect("JSON");
            call(&MODULE, &arguments, &mut fake).expect("it works");
            let acted = fake.log().iter().filter(|line| line.starts_with("! ")).count();
            assert_eq!(acted, expected, "{given}: {:?}", fake.log());
        }
    }

    #[test]
    fn networks_are_made_once() {
        let known = r#"[{"Name": "n", "Driver": "bridge", "Internal": false, "EnableIPv6": false, "Labels": {}, "Options": {},
            "IPAM": {"Driver": "default", "Config": [{"Subnet": "10.1.0.0/16", "Gateway": "10.1.0.1"}]},
            "Containers": {"abc": {"Name": "web"}}}]"#;
        for (given, expected) in [
            (r#"{"name": "n", "connected": ["web"], "internal": false}"#, vec![]),
            (r#"{"name": "n", "connected": ["db"], "appends": true}"#, vec!["network connect n db"]),
            (r#"{"name": "n"}"#, vec!["network disconnect --force n web"]),
            (r#"{"name": "n", "connected": ["web"], "ipam_config": [{"subnet": "10.1.0.0/16"}]}"#, vec![]),
            (
                r#"{"name": "n", "connected": ["web"], "internal": true}"#,
                vec![
                    "network disconnect --force n web",
                    "network rm n",
                    "network create --driver bridge --internal n",
                    "network connect n web",
                ],
            ),
            (
                r#"{"name": "m", "enable_ipv6": true, "ipam_config": [{"subnet": "fd00::/64", "aux_addresses": {"a": "fd00::2"}}], "labels": {"x": "y"}}"#,
                vec![
                    "network create --driver bridge --ipv6 --subnet fd00::/64 --aux-address a=fd00::2 --label x=y m",
                ],
            ),
            (r#"{"name": "n", "state": "absent"}"#, vec!["network disconnect --force n web", "network rm n"]),
            (r#"{"name": "m", "state": "absent"}"#, vec![]),
        ] {
            let mut fake = Fake::new()
                .with_program("/usr/bin/docker")
                .with_command_prefix(&["docker"], Output::ok(""))
                .with_command_prefix(&["docker", "network", "inspect"], Output::fails(1, "no such network"))
                .with_command(&["docker", "network", "inspect", "n"], Output::ok(known));
            let arguments: Value = serde_json::from_str(given).expect("JSON");
            call(&MODULE, &arguments, &mut fake).expect("it works");
            let acted: Vec<&str> =
                fake.log().iter().filter_map(|line| line.strip_prefix("! /usr/bin/docker ")).collect();
            assert_eq!(acted, expected, "{given}");
        }
    }
}
