//! `haproxy`: servers of a running haproxy.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Scope, Type, args, typed};
use crate::system::{Applied, Command, Intent, System, SystemError};
use crate::value::{Value, map_of};

/// Takes servers out of rotation and back.
pub const MODULE: Module = Module {
    name: "community.general.haproxy",
    summary: "Take a server of haproxy out of rotation, and back",
    description: "Talks to haproxy's socket, which needs `stats socket … level admin`. A server that is as it should be \
        is left alone; check mode works.",
    example: "- community.general.haproxy:\n    state: disabled\n    host: '{{ inventory_hostname }}'\n    backend: www\n    socket: /run/haproxy/admin.sock\n    wait: true\n  delegate_to: balancer\n",
    scope: Scope::World,
    params: &[
        Param::new("host", Type::Str, "The server.").required(),
        Param::new("state", Type::Str, "What it should be.")
            .choices(&["disabled", "drain", "enabled"])
            .required(),
        Param::new("backend", Type::Str, "The backend; all that have the server if not given."),
        Param::new("socket", Type::Path, "Haproxy's socket.").default("/var/run/haproxy.sock"),
        Param::new(
            "weight",
            Type::Str,
            "Weight of the server: a number, or a percentage of that in the settings.",
        ),
        Param::new("health", Type::Bool, "Also its health checks.").default("false"),
        Param::new("agent", Type::Bool, "Also its agent checks.").default("false"),
        Param::new("drain", Type::Bool, "With `disabled`, wait until its connections have ended.")
            .default("false"),
        Param::new("shutdown_sessions", Type::Bool, "With `disabled`, end its connections.").default("false"),
        Param::new("fail_on_not_found", Type::Bool, "Fail if there is no such server.").default("false"),
        Param::new("wait", Type::Bool, "Wait until haproxy says that it is so.").default("false"),
        Param::new("wait_retries", Type::Int, "How often it is asked.").default("25"),
        Param::new("wait_interval", Type::Int, "Seconds between.").default("5"),
    ],
    returns: &[
        ("state", "State of the server in each backend, before and after."),
        ("command", "What was said to haproxy."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    host: String,
    state: String,
    backend: Option<String>,
    socket: String,
    weight: Option<String>,
    health: bool,
    agent: bool,
    drain: bool,
    shutdown_sessions: bool,
    fail_on_not_found: bool,
    wait: bool,
    wait_retries: u32,
    wait_interval: u64,
}

/// A server as `show stat` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Server {
    backend: String,
    status: String,
    weight: String,
    sessions: u64,
}

/// Longest wait for an answer of haproxy.
const PATIENCE: Duration = Duration::from_secs(10);

fn talk(socket: &Path, line: &str) -> Result<String, SystemError> {
    let failed = |source| SystemError::Io { action: "talk to", path: socket.into(), source };
    let mut stream = UnixStream::connect(socket).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.write_all(format!("{line}\n").as_bytes()).map_err(failed)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(failed)?;
    Ok(answer.trim().to_string())
}

/// The rows of `show stat` that are about a server.
fn servers(text: &str, host: &str, backend: Option<&str>) -> Vec<Server> {
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default().trim_start_matches("# ");
    let column = |name: &str| head.split(',').position(|column| column == name);
    let columns = ["pxname", "svname", "status", "weight", "scur"].map(column);
    let row = |line: &str| {
        let fields: Vec<&str> = line.split(',').collect();
        let field = |index: usize| columns[index].and_then(|at| fields.get(at)).copied().unwrap_or_default();
        let meant = field(1) == host && backend.is_none_or(|backend| backend == field(0));
        meant.then(|| Server {
            backend: field(0).into(),
            status: field(2).into(),
            weight: field(3).into(),
            sessions: field(4).parse().unwrap_or(0),
        })
    };
    lines.filter_map(row).collect()
}

fn is_there(args: &Args, server: &Server) -> bool {
    let status = server.status.as_str();
    match args.state.as_str() {
        "enabled" => !status.contains("MAINT") && !status.contains("DRAIN"),
        "drain" => status.contains("DRAIN"),
        _ => status.contains("MAINT"),
    }
}

/// What has to be said for one server.
fn orders(args: &Args, server: &Server, socket: &Path) -> Result<Vec<String>, ModuleError> {
    let name = format!("{}/{}", server.backend, args.host);
    let mut out = Vec::new();
    let there = is_there(args, server);
    match args.state.as_str() {
        "enabled" => {
            // A server that is drained is not in maintenance, so that enabling it is not enough.
            let word = if server.status.contains("DRAIN") {
                format!("set server {name} state ready")
            } else {
                format!("enable server {name}")
            };
            out.extend((!there).then_some(word));
            out.extend((!there && args.agent).then(|| format!("enable agent {name}")));
            out.extend((!there && args.health).then(|| format!("enable health {name}")));
            if let Some(weight) = &args.weight
                && wanted_weight(&name, weight, socket)? != server.weight
            {
                out.push(format!("set weight {name} {weight}"));
            }
        }
        "drain" => out.extend((!there).then(|| format!("set server {name} state drain"))),
        _ => {
            out.extend((!there && args.agent).then(|| format!("disable agent {name}")));
            out.extend((!there && args.health).then(|| format!("disable health {name}")));
            out.extend((!there && args.drain).then(|| format!("set server {name} state drain")));
            out.extend((!there).then(|| format!("disable server {name}")));
            out.extend(
                (!there && args.shutdown_sessions).then(|| format!("shutdown sessions server {name}")),
            );
        }
    }
    Ok(out)
}

/// The weight as a number; a percentage is one of that in the settings.
fn wanted_weight(name: &str, weight: &str, socket: &Path) -> Result<String, ModuleError> {
    let Some(percent) = weight.strip_suffix('%') else { return Ok(weight.to_string()) };
    let answer = talk(socket, &format!("get weight {name}"))?;
    let initial = answer.split("initial ").nth(1).unwrap_or_default().trim_end_matches(')');
    let (percent, initial) = (percent.parse::<f64>().unwrap_or(100.0), initial.parse::<f64>().unwrap_or(1.0));
    Ok((initial * percent / 100.0).ceil().to_string())
}

fn state_of(server: &Server) -> Value {
    map_of([("status", server.status.as_str()), ("weight", server.weight.as_str())]).into()
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let socket: PathBuf = args::expand_path(&args.socket, system)?;
    if let Some(weight) = &args.weight
        && weight.trim_end_matches('%').parse::<u32>().is_err()
    {
        return Err(ModuleError::new(format!("'{weight}' is not a weight")));
    }
    let show = |socket: &Path| talk(socket, "show stat");
    let look = |socket: &Path| show(socket).map(|text| servers(&text, &args.host, args.backend.as_deref()));
    let before = look(&socket)?;
    if before.is_empty() && args.fail_on_not_found {
        return Err(ModuleError::new("The specified backend/svname pair was not found!"));
    }
    let mut said = Vec::new();
    for server in &before {
        let orders = orders(args, server, &socket)?;
        if orders.is_empty() {
            continue;
        }
        let id = format!("{}/{}", server.backend, args.host);
        let intent = Intent {
            kind: "haproxy_server",
            id: id.clone(),
            before: state_of(server),
            after: map_of([
                ("status", args.state.clone()),
                ("weight", args.weight.clone().unwrap_or_else(|| server.weight.clone())),
            ])
            .into(),
            ..Intent::default()
        };
        let made = system.perform(intent, &mut || tell(&socket, &orders))?;
        if made && args.wait {
            wait(args, &id, &socket, system)?;
        }
        said.extend(orders);
    }
    for server in &before {
        let id = format!("{}/{}", server.backend, args.host);
        system.applied(Applied {
            kind: "haproxy_server".into(),
            id,
            state: map_of([("state", args.state.as_str())]).into(),
        });
    }
    let after = look(&socket)?;
    let list = |servers: &[Server]| -> Value { Value::list(servers.iter().map(state_of).collect()) };
    let states = map_of([("before", list(&before)), ("after", list(&after))]);
    Ok(Outcome::default().set("state", Value::map(states)).set("command", said.join("; ")))
}

/// Haproxy is silent if it did what it was told.
fn tell(socket: &Path, orders: &[String]) -> Result<(), SystemError> {
    for order in orders {
        let answer = talk(socket, order)?;
        if !answer.is_empty() && !answer.starts_with("No ") {
            return Err(SystemError::Other(format!("haproxy refused `{order}`: {answer}")));
        }
    }
    Ok(())
}

fn wait(args: &Args, id: &str, socket: &Path, system: &mut dyn System) -> Result<(), ModuleError> {
    for _ in 0..args.wait_retries {
        let (backend, _) = id.split_once('/').unwrap_or((id, ""));
        let now = servers(&talk(socket, "show stat")?, &args.host, Some(backend));
        let settled = now.iter().all(|server| {
            let idle = !args.drain || server.sessions == 0;
            is_there(args, server)
                && (args.state != "enabled" || server.status.starts_with("UP") || server.status == "no check")
                && idle
        });
        if settled {
            return Ok(());
        }
        system.query(&Command::new(["sleep".to_string(), args.wait_interval.to_string()]))?;
    }
    Err(ModuleError::new(format!(
        "server {id} not status '{}' after {} retries. Aborting.",
        args.state, args.wait_retries
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::fake::Fake;
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixListener;

    /// A haproxy with one server.
    fn haproxy(socket: &Path) {
        let listener = UnixListener::bind(socket).expect("a free path");
        std::thread::spawn(move || {
            let (mut status, mut weight) = ("UP".to_string(), "100".to_string());
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).expect("a line");
                let words: Vec<&str> = line.split_whitespace().collect();
                let answer = match words.as_slice() {
                    ["show", "stat"] => format!(
                        "# pxname,svname,scur,status,weight,\nwww,web,0,{status},{weight},\nwww,BACKEND,0,UP,1,\n"
                    ),
                    ["get", "weight", ..] => format!("{weight} (initial 100)\n"),
                    ["enable", "server", _] | ["set", "server", _, "state", "ready"] => {
                        status = "UP".into();
                        "\n".into()
                    }
                    ["disable", "server", _] => {
                        status = "MAINT".into();
                        "\n".into()
                    }
                    ["set", "server", _, "state", "drain"] => {
                        status = "DRAIN".into();
                        "\n".into()
                    }
                    ["set", "weight", _, wanted] => {
                        weight = wanted.replace('%', "");
                        "\n".into()
                    }
                    _ => "Unknown command.\n".to_string(),
                };
                let _ = stream.write_all(answer.as_bytes());
            }
        });
    }

    #[test]
    fn servers_are_changed_once() {
        let place = tempfile::tempdir().expect("a directory");
        let socket = place.path().join("s");
        haproxy(&socket);
        let socket = socket.to_string_lossy().into_owned();
        for (given, said) in [
            (vec![("state", "enabled")], ""),
            (
                vec![("state", "disabled"), ("wait", "yes"), ("drain", "yes")],
                "set server www/web state drain; disable server www/web",
            ),
            (vec![("state", "disabled")], ""),
            (vec![("state", "enabled"), ("weight", "50%")], "enable server www/web; set weight www/web 50%"),
            (vec![("state", "enabled"), ("weight", "50%"), ("backend", "www")], ""),
            (vec![("state", "drain")], "set server www/web state drain"),
            (vec![("state", "enabled")], "set server www/web state ready"),
            (vec![("state", "disabled"), ("backend", "other")], ""),
        ] {
            let mut fake = Fake::new();
            let common = [("socket", socket.as_str()), ("host", "web")];
            let outcome = call(&MODULE, &map_of(given.iter().copied().chain(common)).into(), &mut fake)
                .expect("it works");
            assert_eq!(outcome.values.get("command"), Some(&said.into()), "{given:?}");
            assert_eq!(fake.changes().len(), usize::from(!said.is_empty()), "{given:?}");
        }
        for (given, expected) in [
            (
                vec![("host", "gone"), ("fail_on_not_found", "yes")],
                "The specified backend/svname pair was not found!",
            ),
            (vec![("host", "web"), ("weight", "x")], "'x' is not a weight"),
        ] {
            let given = map_of(given.into_iter().chain([("socket", socket.as_str()), ("state", "enabled")]));
            assert_eq!(call(&MODULE, &given.into(), &mut Fake::new()).expect_err("refused"), expected);
        }
    }
}
