//! `wait_for`: waits until a port, a path or a time has come.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::module::regex::{Coding, Flags, Pattern};
use crate::module::{Module, ModuleError, Outcome, Param, Scope, Type, files, typed};
use crate::system::{Intent, System};
use crate::value::{Map, Value};

type Result<T> = std::result::Result<T, ModuleError>;

/// The module.
pub const MODULE: Module = Module {
    name: "ansible.builtin.wait_for",
    summary: "Waits until a condition holds on a host",
    description: "Waits until a port takes connections (or no longer does), until a file is there (or gone, or holds a text), \
        or, with none of these, for `timeout` seconds. In check mode it does not wait: it is skipped if the condition does not \
        hold yet.",
    example: "- name: Wait for the service\n  ansible.builtin.wait_for:\n    port: 8080\n    timeout: 60\n- name: Wait for the end of the migration\n  ansible.builtin.wait_for:\n    path: /var/log/app.log\n    search_regex: migration finished\n",
    scope: Scope::World,
    params: &[
        Param::new("host", Type::Str, "Name or address to connect to.").default("127.0.0.1"),
        Param::new("port", Type::Int, "Port to connect to."),
        Param::new("path", Type::Path, "File to look for."),
        Param::new(
            "state",
            Type::Str,
            "What to wait for: `started` and `present` (port open, file there), `stopped` and `absent` (port closed, file \
             gone), `drained` (no connections to the port).",
        )
        .choices(&["absent", "drained", "present", "started", "stopped"])
        .default("started"),
        Param::new("search_regex", Type::Str, "A Python regular expression that the file, or what the port sends, must match."),
        Param::new("delay", Type::Int, "Seconds to wait before looking for the first time.").default("0"),
        Param::new("sleep", Type::Int, "Seconds between looks.").default("1"),
        Param::new("timeout", Type::Int, "Seconds after which the task fails.").default("300"),
        Param::new("connect_timeout", Type::Int, "Seconds after which one attempt to connect is given up.").default("5"),
        Param::new("msg", Type::Str, "What to say on failure."),
        Param::new("exclude_hosts", Type::List, "Hosts whose connections do not count, with `drained`."),
        Param::new("active_connection_states", Type::List, "States in which a connection counts, with `drained`.")
            .default("ESTABLISHED,FIN_WAIT1,FIN_WAIT2,SYN_RECV,SYN_SENT,TIME_WAIT"),
    ],
    returns: &[
        ("elapsed", "Seconds that were waited."),
        ("match_groups", "Groups of `search_regex`."),
        ("match_groupdict", "Named groups of `search_regex`."),
    ],
    run,
    ..Module::DEFAULT
};

#[derive(Deserialize)]
struct Args {
    host: String,
    port: Option<u16>,
    path: Option<String>,
    state: String,
    search_regex: Option<String>,
    delay: u64,
    sleep: u64,
    timeout: u64,
    connect_timeout: u64,
    msg: Option<String>,
    exclude_hosts: Option<Vec<String>>,
    active_connection_states: Vec<String>,
}

fn run(args: Value, system: &mut dyn System) -> Result<Outcome> {
    let args: Args = typed(args)?;
    let path = args.path.as_deref().map(|path| files::path_arg(system, path)).transpose()?;
    check(&args)?;
    let started = Instant::now();
    let mut wait = Wait::new(&args, path)?;
    let mut real = false;
    system.perform(Intent::default(), &mut || {
        real = true;
        Ok(())
    })?;
    if !real {
        if (wait.path.is_some() || args.port.is_some()) && wait.holds(system)? {
            return Ok(wait.outcome(started));
        }
        let text = "a dry run does not wait";
        return Ok(Outcome { skipped: true, changed: Some(false), ..Outcome::default() }.set("msg", text));
    }
    let limit = Duration::from_secs(args.timeout);
    std::thread::sleep(Duration::from_secs(args.delay));
    if args.port.is_none() && wait.path.is_none() && args.state != "drained" {
        std::thread::sleep(limit);
        return Ok(wait.outcome(started));
    }
    while started.elapsed() < limit {
        wait.left = limit.saturating_sub(started.elapsed());
        if wait.holds(system)? {
            return Ok(wait.outcome(started));
        }
        std::thread::sleep(Duration::from_secs(args.sleep));
    }
    let message = args.msg.clone().unwrap_or_else(|| wait.complaint());
    Err(ModuleError::new(message).with("elapsed", started.elapsed().as_secs()))
}

fn check(args: &Args) -> Result<()> {
    let only_port =
        |state: &str| format!("state={state} should only be used for checking a port in the wait_for module");
    let message = if args.port.is_some() && args.path.is_some() {
        "port and path parameter can not both be passed to wait_for".to_string()
    } else if args.path.is_some() && matches!(args.state.as_str(), "stopped" | "drained") {
        only_port(&args.state)
    } else if args.exclude_hosts.is_some() && args.state != "drained" {
        "exclude_hosts should only be with state=drained".to_string()
    } else if let Some(unknown) =
        args.active_connection_states.iter().find(|state| state_number(state).is_none())
    {
        format!("unknown active_connection_state ({unknown}) defined")
    } else {
        return Ok(());
    };
    Err(ModuleError::new(message).with("elapsed", 0))
}

struct Wait<'a> {
    args: &'a Args,
    path: Option<PathBuf>,
    pattern: Option<Pattern>,
    left: Duration,
    groups: Vec<Value>,
    names: Map,
}

impl<'a> Wait<'a> {
    fn new(args: &'a Args, path: Option<PathBuf>) -> Result<Wait<'a>> {
        let flags = Flags { multiline: true, ..Flags::default() };
        let pattern = args.search_regex.as_deref().map(|text| Pattern::new(text, flags)).transpose()?;
        let left = Duration::from_secs(args.connect_timeout.max(1));
        Ok(Wait { args, path, pattern, left, groups: Vec::new(), names: Map::new() })
    }

    fn outcome(self, started: Instant) -> Outcome {
        Outcome { changed: Some(false), ..Outcome::default() }
            .set("state", self.args.state.as_str())
            .set("port", self.args.port.map(u32::from))
            .set("path", self.path.as_deref().map(files::text_of))
            .set("search_regex", self.args.search_regex.as_deref())
            .set("match_groups", self.groups)
            .set("match_groupdict", self.names)
            .set("elapsed", started.elapsed().as_secs())
    }

    fn complaint(&self) -> String {
        let place = match (&self.path, self.args.port) {
            (Some(path), _) => path.display().to_string(),
            (None, port) => format!("{}:{}", self.args.host, port.unwrap_or(0)),
        };
        match (self.args.state.as_str(), &self.args.search_regex) {
            ("absent" | "stopped", _) if self.path.is_some() => {
                format!("Timeout when waiting for {place} to be absent.")
            }
            ("absent" | "stopped", _) => format!("Timeout when waiting for {place} to stop."),
            ("drained", _) => format!("Timeout when waiting for {place} to drain"),
            (_, Some(text)) => format!("Timeout when waiting for search string {text} in {place}"),
            (_, None) if self.path.is_some() => format!("Timeout when waiting for file {place}"),
            (_, None) => format!("Timeout when waiting for {place}"),
        }
    }

    /// Whether the condition holds now.
    fn holds(&mut self, system: &mut dyn System) -> Result<bool> {
        let gone = matches!(self.args.state.as_str(), "absent" | "stopped");
        if self.args.state == "drained" {
            return Ok(connections(system, self.args)? == 0);
        }
        if let Some(path) = self.path.clone() {
            let there = system.stat_follow(&path)?.is_some();
            return if gone { Ok(!there) } else { Ok(there && self.file_matches(system, &path)?) };
        }
        let connection = self.connect();
        match connection {
            None => Ok(gone),
            Some(_) if gone => Ok(false),
            Some(stream) => self.port_matches(stream),
        }
    }

    fn connect(&self) -> Option<TcpStream> {
        let limit =
            Duration::from_secs(self.args.connect_timeout.max(1)).min(self.left.max(Duration::from_secs(1)));
        let addresses = (self.args.host.as_str(), self.args.port.unwrap_or(0)).to_socket_addrs().ok()?;
        addresses.into_iter().find_map(|address| TcpStream::connect_timeout(&address, limit).ok())
    }

    fn file_matches(&mut self, system: &mut dyn System, path: &Path) -> Result<bool> {
        if self.pattern.is_none() {
            return Ok(true);
        }
        match system.read(path) {
            Ok(bytes) => self.search(bytes),
            Err(_) => Ok(false),
        }
    }

    /// Reads what the port sends until it matches or nothing more comes.
    fn port_matches(&mut self, mut stream: TcpStream) -> Result<bool> {
        if self.pattern.is_none() {
            return Ok(true);
        }
        let end = Instant::now() + self.left;
        let mut seen = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
                return Ok(false);
            }
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return Ok(false),
                Ok(count) => {
                    seen.extend_from_slice(&buffer[..count]);
                    if self.search(seen.clone())? {
                        return Ok(true);
                    }
                }
            }
        }
    }

    fn search(&mut self, bytes: Vec<u8>) -> Result<bool> {
        let Some(pattern) = &self.pattern else { return Ok(true) };
        let (_, text) = Coding::decode(bytes);
        let Some(captures) = pattern.captures(&text)? else { return Ok(false) };
        let value = |group: Option<fancy_regex::Match<'_>>| Value::from(group.map(|group| group.as_str()));
        self.groups = captures.iter().skip(1).map(value).collect();
        self.names = pattern
            .names()
            .into_iter()
            .map(|name| (Value::str(name.as_str()), value(captures.name(&name))))
            .collect();
        Ok(true)
    }
}

/// The number of a connection's state in the kernel's table.
fn state_number(name: &str) -> Option<u8> {
    let names = [
        "ESTABLISHED",
        "SYN_SENT",
        "SYN_RECV",
        "FIN_WAIT1",
        "FIN_WAIT2",
        "TIME_WAIT",
        "CLOSE",
        "CLOSE_WAIT",
        "LAST_ACK",
        "LISTEN",
        "CLOSING",
    ];
    names.iter().position(|known| *known == name).and_then(|at| u8::try_from(at + 1).ok())
}

/// How many connections there are to the port.
fn connections(system: &mut dyn System, args: &Args) -> Result<usize> {
    let resolve = |name: &str| -> BTreeSet<IpAddr> {
        (name, 0)
            .to_socket_addrs()
            .map(|found| found.map(|address| plain(address.ip())).collect())
            .unwrap_or_default()
    };
    let ours = resolve(&args.host);
    let any = ours.iter().any(IpAddr::is_unspecified);
    let excluded: BTreeSet<IpAddr> =
        args.exclude_hosts.iter().flatten().flat_map(|host| resolve(host)).collect();
    let states: Vec<u8> =
        args.active_connection_states.iter().filter_map(|name| state_number(name)).collect();
    let mut count = 0;
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let Ok(bytes) = system.read(Path::new(table)) else { continue };
        for line in String::from_utf8_lossy(&bytes).lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [_, local, remote, state, ..] = words[..] else { continue };
            let (Some((address, port)), Some((from, _))) = (endpoint(local), endpoint(remote)) else {
                continue;
            };
            let active = u8::from_str_radix(state, 16).is_ok_and(|state| states.contains(&state));
            if active
                && Some(port) == args.port
                && (any || ours.contains(&address))
                && !excluded.contains(&from)
            {
                count += 1;
            }
        }
    }
    Ok(count)
}

/// An IPv4 address in IPv6 clothes is an IPv4 address.
fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(six) => six.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// `0100007F:1F90` as address and port.
fn endpoint(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(address.get(at..at + 8)?, 16).ok().map(u32::swap_bytes);
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for part in 0..4 {
                bytes[part * 4..part * 4 + 4].copy_from_slice(&word(part * 8)?.to_be_bytes());
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some((plain(address), port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::{call, contract};
    use crate::system::local::{Local, NoDepot};
    use crate::system::recorder::Recorder;

    fn wait(args: &str) -> std::result::Result<Outcome, String> {
        let given: Value = serde_json::from_str(args).expect("arguments are JSON");
        call(&MODULE, &given, &mut Local::new(Box::new(NoDepot)))
    }

    #[test]
    fn waits_for_ports() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        assert!(wait(&format!(r#"{{"port": {port}, "timeout": 3}}"#)).is_ok());
        let error =
            wait(&format!(r#"{{"port": {port}, "timeout": 1, "state": "stopped"}}"#)).expect_err("open");
        assert_eq!(error, format!("Timeout when waiting for 127.0.0.1:{port} to stop."));
        let banner = std::thread::spawn(move || {
            use std::io::Write;
            for stream in listener.incoming().take(3) {
                let _ = stream.and_then(|mut stream| stream.write_all(b"220 mail.example.org ESMTP\r\n"));
            }
        });
        let args = format!(r#"{{"port": {port}, "timeout": 5, "search_regex": "^220 (?P<name>\\S+)"}}"#);
        let outcome = wait(&args).expect("answers");
        assert_eq!(
            outcome.values.get("match_groupdict").map(Value::repr).as_deref(),
            Some("{'name': 'mail.example.org'}")
        );
        banner.join().expect("ends");
        assert!(wait(&format!(r#"{{"port": {port}, "timeout": 3, "state": "stopped"}}"#)).is_ok());
        let args = format!(r#"{{"port": {port}, "timeout": 1, "msg": "no luck"}}"#);
        assert_eq!(wait(&args).expect_err("closed"), "no luck");
    }

    #[test]
    fn waits_for_files_but_not_in_a_dry_run() {
        for (args, error) in [
            (r#"{"path": "@/x", "timeout": 1}"#, None),
            (r#"{"path": "@/x", "timeout": 1, "search_regex": "^b$"}"#, None),
            (r#"{"path": "@/y", "timeout": 1, "state": "absent"}"#, None),
            (
                r#"{"path": "@/x", "port": 1}"#,
                Some("port and path parameter can not both be passed to wait_for"),
            ),
        ] {
            let verdict = contract(&MODULE, &["f x 644 a\nb\n"], args);
            assert_eq!(verdict.error.as_deref(), error, "{args}");
        }
        let given: Value = serde_json::from_str(r#"{"path": "/none/x", "timeout": 60}"#).expect("JSON");
        let mut recorder = Recorder::new(Local::new(Box::new(NoDepot)));
        let outcome = call(&MODULE, &given, &mut recorder).expect("skipped");
        assert!(outcome.skipped);
        assert!(recorder.changes().is_empty());
    }

    #[test]
    fn the_kernels_table_is_read() {
        assert_eq!(endpoint("0100007F:1F90"), Some((IpAddr::from([127, 0, 0, 1]), 8080)));
        assert_eq!(
            endpoint("0000000000000000FFFF00000100007F:0016"),
            Some((IpAddr::from([127, 0, 0, 1]), 22))
        );
        assert_eq!(state_number("LISTEN"), Some(10));
    }
}
