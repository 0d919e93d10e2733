//! A host as its variables describe it: how to reach it, as whom, with what.

use std::path::PathBuf;
use std::time::Duration;

use super::config::Arguments;
use super::error::{Cause, TransportError};
use super::{Secret, Settings};
use crate::value::Value;

/// Time for a connection attempt where nobody says otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// A way to a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The built-in SSH client.
    Ssh,
    /// The user's own ssh program.
    OpenSsh,
    /// This machine.
    Local,
    /// `docker exec`, or `podman exec`.
    Docker {
        /// It is podman.
        podman: bool,
    },
    /// A directory with a root file system.
    Chroot,
}

/// What an inventory says about host keys; finer shades come from ssh options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostKeyChecking {
    /// As the ssh configuration says, which without a word means: unknown keys are asked for.
    Configured,
    /// Checked, even if the ssh configuration says otherwise.
    On,
    /// Not checked: every key is accepted.
    Off,
}

/// A host to connect to.
#[derive(Clone, Debug)]
pub struct Target {
    /// The inventory name.
    pub name: String,
    /// The way.
    pub kind: Kind,
    /// Host name, address, container or directory.
    pub address: String,
    /// Port, where the inventory gives one.
    pub port: Option<u16>,
    /// Remote user, where the inventory gives one.
    pub user: Option<String>,
    /// Password for connecting.
    pub password: Option<Secret>,
    /// Private key file.
    pub private_key: Option<PathBuf>,
    /// Passphrase of that key.
    pub passphrase: Option<Secret>,
    /// The words of `ansible_ssh_args`, `ansible_ssh_common_args` and `ansible_ssh_extra_args`, for the
    /// `openssh` kind.
    pub ssh_args: Vec<String>,
    /// Whether host keys are checked.
    pub host_key_checking: HostKeyChecking,
    /// Time for one connection attempt.
    pub connect_timeout: Duration,
    /// More attempts after the first.
    pub retries: u32,
    /// The program behind `openssh`, `docker`, `podman` or `chroot`, if the inventory names one.
    pub executable: Option<PathBuf>,
    /// Where programs run on this machine; the current directory if it is not given.
    pub directory: Option<PathBuf>,
    /// More words for `docker` or `podman`, before `exec`.
    pub extra_args: Vec<String>,
    /// The same options, understood; those of the inventory's other variables among them.
    pub(super) arguments: Arguments,
}

impl Target {
    /// This machine.
    pub fn local(name: &str) -> Target {
        Target {
            name: name.to_owned(),
            kind: Kind::Local,
            address: name.to_owned(),
            port: None,
            user: None,
            password: None,
            private_key: None,
            passphrase: None,
            ssh_args: Vec::new(),
            host_key_checking: HostKeyChecking::Configured,
            connect_timeout: DEFAULT_TIMEOUT,
            retries: 0,
            executable: None,
            directory: None,
            extra_args: Vec::new(),
            arguments: Arguments::default(),
        }
    }

    /// What the variables of host `name` say, over `settings`. `get` gives rendered values.
    ///
    /// # Errors
    /// A value of the wrong type, an unknown connection, an option of ssh that can't be honoured, or an
    /// address that a command line could take for an option.
    pub fn from_vars(
        name: &str,
        get: &dyn Fn(&str) -> Option<Value>,
        settings: &Settings,
    ) -> Result<Target, TransportError> {
        let vars = Vars { get };
        read(name, &vars, settings).map_err(|cause| TransportError::new(format!("connect to {name}"), cause))
    }
}

fn read(name: &str, vars: &Vars<'_>, settings: &Settings) -> Result<Target, Cause> {
    let connection = vars.text(&["ansible_connection"])?.unwrap_or_else(|| settings.connection.clone());
    let kind = parse_kind(&connection)?;
    let mut target = Target { kind, retries: settings.retries, ..Target::local(name) };
    let user = match target.kind {
        Kind::Docker { .. } => vars.text(&["ansible_docker_user", "ansible_podman_user", "ansible_user"])?,
        _ => vars.text(&["ansible_ssh_user", "ansible_user"])?,
    };
    target.user = user.or_else(|| settings.remote_user.clone());
    target.address = address(name, vars, &target.kind)?;
    match target.kind {
        Kind::Ssh | Kind::OpenSsh => read_ssh(&mut target, vars, settings)?,
        Kind::Docker { podman } => {
            let (executable, args) = if podman {
                ("ansible_podman_executable", "ansible_podman_extra_args")
            } else {
                ("ansible_docker_executable", "ansible_docker_extra_args")
            };
            target.executable = vars.text(&[executable])?.map(PathBuf::from);
            target.extra_args = words(args, vars.text(&[args])?)?;
        }
        Kind::Chroot => {
            target.executable = vars.text(&["ansible_chroot_exe"])?.map(PathBuf::from);
        }
        Kind::Local => {}
    }
    check_name("ansible_host", &target.address)?;
    if let Some(user) = &target.user {
        check_name("ansible_user", user)?;
    }
    Ok(target)
}

fn read_ssh(target: &mut Target, vars: &Vars<'_>, settings: &Settings) -> Result<(), Cause> {
    target.port = vars.port(&["ansible_ssh_port", "ansible_port"])?.or(settings.remote_port);
    let password = vars.text(&["ansible_ssh_password", "ansible_ssh_pass", "ansible_password"])?;
    target.password = password.map(Secret::new).or_else(|| settings.password.clone());
    let key = vars.text(&["ansible_ssh_private_key_file", "ansible_private_key_file"])?;
    target.private_key = key.map(|path| in_home(&path, settings)).or_else(|| settings.private_key.clone());
    target.passphrase = vars.text(&["ansible_ssh_private_key_passphrase"])?.map(Secret::new);
    target.executable = vars.text(&["ansible_ssh_executable"])?.map(PathBuf::from);
    let checking = vars
        .flag(&["ansible_ssh_host_key_checking", "ansible_host_key_checking"])?
        .or(settings.host_key_checking);
    target.host_key_checking = match checking {
        // On is the default, so it says no more than the user's ssh configuration does.
        None | Some(true) => HostKeyChecking::Configured,
        Some(false) => HostKeyChecking::Off,
    };
    let timeout = vars.seconds(&["ansible_ssh_timeout", "ansible_timeout"])?.or(settings.timeout);
    target.connect_timeout = timeout.unwrap_or(DEFAULT_TIMEOUT);
    if let Some(retries) = vars.number(&["ansible_ssh_retries", "ansible_ssh_reconnection_retries"])? {
        target.retries = u32::try_from(retries).unwrap_or(0);
    }
    if target.kind == Kind::OpenSsh && target.password.is_some() {
        return Err(Cause::Option {
            option: "ansible_password".to_owned(),
            reason: "the ssh program takes no password from us; use a key, or `ansible_connection: ssh`"
                .to_owned(),
        });
    }
    // The order in which an ssh command line would hold them; the first value of an option wins.
    let mut arguments = Arguments::default();
    let mut take = |origin: &'static str, text: Option<String>| -> Result<(), Cause> {
        let words = words(origin, text)?;
        if target.kind == Kind::Ssh {
            arguments.extend(Arguments::parse(&words, origin)?);
        }
        target.ssh_args.extend(words);
        Ok(())
    };
    take("ansible_ssh_args", vars.text(&["ansible_ssh_args"])?.or_else(|| settings.ssh_args.clone()))?;
    let mut own = Arguments::default();
    if target.host_key_checking == HostKeyChecking::Off {
        own.set("stricthostkeychecking", "no", "host_key_checking")?;
    }
    if let Some(port) = target.port {
        own.set("port", &port.to_string(), "ansible_port")?;
    }
    if let Some(user) = &target.user {
        own.set("user", user, "ansible_user")?;
    }
    if timeout.is_some() {
        own.set("connecttimeout", &target.connect_timeout.as_secs().max(1).to_string(), "ansible_timeout")?;
    }
    let common = vars.text(&["ansible_ssh_common_args"])?.or_else(|| settings.ssh_common_args.clone());
    take("ansible_ssh_common_args", common)?;
    let extra = vars.text(&["ansible_ssh_extra_args"])?.or_else(|| settings.ssh_extra_args.clone());
    take("ansible_ssh_extra_args", extra)?;
    // A variable of its own beats the free-form words.
    own.extend(arguments);
    target.arguments = own;
    Ok(())
}

fn address(name: &str, vars: &Vars<'_>, kind: &Kind) -> Result<String, Cause> {
    let names: &[&str] = match kind {
        Kind::Ssh | Kind::OpenSsh => &["ansible_ssh_host", "ansible_host"],
        _ => &["ansible_host"],
    };
    Ok(vars.text(names)?.unwrap_or_else(|| name.to_owned()))
}

fn parse_kind(connection: &str) -> Result<Kind, Cause> {
    let short = [
        "ansible.builtin.",
        "ansible.legacy.",
        "community.docker.",
        "containers.podman.",
        "community.general.",
        "ansible.netcommon.",
    ]
    .iter()
    .find_map(|prefix| connection.strip_prefix(prefix))
    .unwrap_or(connection);
    Ok(match short {
        "ssh" | "smart" | "paramiko" | "paramiko_ssh" | "libssh" => Kind::Ssh,
        "openssh" => Kind::OpenSsh,
        "local" => Kind::Local,
        "docker" | "docker_api" => Kind::Docker { podman: false },
        "podman" => Kind::Docker { podman: true },
        "chroot" => Kind::Chroot,
        _ => {
            let known = ["ssh", "smart", "paramiko", "openssh", "local", "docker", "podman", "chroot"];
            let hint = match crate::diagnostic::did_you_mean(short, known) {
                Some(word) => format!("; did you mean {word}?"),
                None => String::new(),
            };
            return Err(Cause::Option {
                option: format!("ansible_connection: {connection}"),
                reason: format!("no such connection; there are {}{hint}", known.join(", ")),
            });
        }
    })
}

/// Names end up in command lines of others (`ssh`, `docker`, a ProxyCommand): what could be an option or
/// shell syntax there is refused here.
pub(super) fn check_name(what: &str, name: &str) -> Result<(), Cause> {
    let problem = if name.is_empty() {
        "is empty"
    } else if name.starts_with('-') {
        "must not begin with a dash: a program could take it for an option"
    } else if name.chars().any(|c| c.is_whitespace() || c.is_control() || "'`\"$\\;&<>|(){}*?!".contains(c)) {
        "holds white space or a character that means something to a shell"
    } else {
        return Ok(());
    };
    Err(Cause::Option { option: format!("{what}: {name:?}"), reason: problem.to_owned() })
}

fn words(origin: &str, text: Option<String>) -> Result<Vec<String>, Cause> {
    let text = text.unwrap_or_default();
    shlex::split(&text).ok_or_else(|| Cause::Option {
        option: format!("{origin}: {text}"),
        reason: "a quote is not closed".to_owned(),
    })
}

fn in_home(path: &str, settings: &Settings) -> PathBuf {
    match path.strip_prefix("~/") {
        Some(rest) => settings.home.join(rest),
        None => PathBuf::from(path),
    }
}

/// Typed access to variables. Of several names the first that is set counts.
struct Vars<'a> {
    get: &'a dyn Fn(&str) -> Option<Value>,
}

impl Vars<'_> {
    fn first<'n>(&self, names: &[&'n str]) -> Option<(&'n str, Value)> {
        names.iter().find_map(|name| {
            let value = (self.get)(name)?;
            (!matches!(value, Value::Null | Value::Omit)).then_some((*name, value))
        })
    }

    fn text(&self, names: &[&str]) -> Result<Option<String>, Cause> {
        let Some((name, value)) = self.first(names) else { return Ok(None) };
        Ok(Some(match &value {
            Value::Str(text) => text.text.to_string(),
            Value::Int(number) => number.to_string(),
            Value::Bool(_) | Value::Float(_) => value.to_text(),
            _ => return Err(wrong(name, "must be text")),
        })
        .filter(|text| !text.is_empty()))
    }

    fn number(&self, names: &[&str]) -> Result<Option<i64>, Cause> {
        let Some((name, value)) = self.first(names) else { return Ok(None) };
        match &value {
            Value::Int(number) => Ok(Some(*number)),
            Value::Float(number) if number.fract() == 0.0 && number.abs() < 1e15 => Ok(Some(*number as i64)),
            Value::Str(text) if text.text.trim().is_empty() => Ok(None),
            Value::Str(text) => {
                text.text.trim().parse().map(Some).map_err(|_| wrong(name, "must be a number"))
            }
            _ => Err(wrong(name, "must be a number")),
        }
    }

    fn port(&self, names: &[&str]) -> Result<Option<u16>, Cause> {
        let Some(number) = self.number(names)? else { return Ok(None) };
        match u16::try_from(number) {
            Ok(port) if port != 0 => Ok(Some(port)),
            _ => Err(wrong(names[names.len() - 1], "must be a port number from 1 to 65535")),
        }
    }

    fn seconds(&self, names: &[&str]) -> Result<Option<Duration>, Cause> {
        match self.number(names)? {
            None => Ok(None),
            Some(seconds) if (1..=86_400).contains(&seconds) => {
                Ok(Some(Duration::from_secs(seconds.unsigned_abs())))
            }
            Some(_) => Err(wrong(names[0], "must be a number of seconds")),
        }
    }

    fn flag(&self, names: &[&str]) -> Result<Option<bool>, Cause> {
        let Some((name, value)) = self.first(names) else { return Ok(None) };
        match &value {
            Value::Bool(flag) => Ok(Some(*flag)),
            Value::Int(0) => Ok(Some(false)),
            Value::Int(1) => Ok(Some(true)),
            Value::Str(text) => match text.text.trim().to_lowercase().as_str() {
                "true" | "yes" | "on" | "1" | "t" | "y" => Ok(Some(true)),
                "false" | "no" | "off" | "0" | "f" | "n" => Ok(Some(false)),
                _ => Err(wrong(name, "must be yes or no")),
            },
            _ => Err(wrong(name, "must be yes or no")),
        }
    }
}

fn wrong(name: &str, reason: &str) -> Cause {
    Cause::Option { option: name.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn target(vars: &[(&str, Value)]) -> Result<Target, String> {
        let vars: HashMap<&str, Value> = vars.iter().cloned().collect();
        let mut settings = Settings::new("/home/me", "me");
        settings.remote_user = Some("settings".to_owned());
        settings.ssh_args = Some("-C -o ControlMaster=auto".to_owned());
        Target::from_vars("web1", &|name| vars.get(name).cloned(), &settings)
            .map_err(|error| error.to_string())
    }

    /// What matters of a target, in a line.
    fn short(vars: &[(&str, Value)]) -> String {
        match target(vars) {
            Ok(target) => format!(
                "{:?} {} {} {}",
                target.kind,
                target.user.unwrap_or_default(),
                target.address,
                target.port.map(|port| port.to_string()).unwrap_or_default()
            ),
            Err(error) => error,
        }
    }

    #[test]
    fn variables_make_a_target() {
        let text = |text: &str| Value::str(text);
        let cases = [
            (vec![], "Ssh settings web1 "),
            (vec![("ansible_host", text("10.0.0.1"))], "Ssh settings 10.0.0.1 "),
            (vec![("ansible_host", text("a")), ("ansible_ssh_host", text("b"))], "Ssh settings b "),
            (vec![("ansible_port", Value::Int(2222)), ("ansible_user", text("u"))], "Ssh u web1 2222"),
            (vec![("ansible_port", text("2222")), ("ansible_user", Value::Null)], "Ssh settings web1 2222"),
            (vec![("ansible_user", text("a")), ("ansible_ssh_user", text("b"))], "Ssh b web1 "),
            (vec![("ansible_connection", text("smart"))], "Ssh settings web1 "),
            (vec![("ansible_connection", text("ansible.builtin.paramiko_ssh"))], "Ssh settings web1 "),
            (vec![("ansible_connection", text("openssh"))], "OpenSsh settings web1 "),
            (vec![("ansible_connection", text("local"))], "Local settings web1 "),
            (
                vec![("ansible_connection", text("containers.podman.podman"))],
                "Docker { podman: true } settings web1 ",
            ),
            (
                vec![
                    ("ansible_connection", text("docker")),
                    ("ansible_host", text("box")),
                    ("ansible_docker_user", text("d")),
                ],
                "Docker { podman: false } d box ",
            ),
            (
                vec![("ansible_connection", text("chroot")), ("ansible_host", text("/srv/x"))],
                "Chroot settings /srv/x ",
            ),
            (
                vec![("ansible_connection", text("shh"))],
                "could not connect to web1: ansible_connection: shh: no such connection; there are ssh, smart, paramiko, openssh, local, docker, podman, chroot; did you mean ssh?",
            ),
            (
                vec![("ansible_connection", text("winrm"))],
                "could not connect to web1: ansible_connection: winrm: no such connection; there are ssh, smart, paramiko, openssh, local, docker, podman, chroot",
            ),
            (vec![("ansible_port", text("x"))], "could not connect to web1: ansible_port: must be a number"),
            (
                vec![("ansible_port", Value::Int(0))],
                "could not connect to web1: ansible_port: must be a port number from 1 to 65535",
            ),
            (
                vec![("ansible_host", Value::list(vec![]))],
                "could not connect to web1: ansible_host: must be text",
            ),
            (
                vec![("ansible_ssh_timeout", Value::Int(-1))],
                "could not connect to web1: ansible_ssh_timeout: must be a number of seconds",
            ),
            (
                vec![("ansible_host_key_checking", text("maybe"))],
                "could not connect to web1: ansible_host_key_checking: must be yes or no",
            ),
            (
                vec![("ansible_ssh_extra_args", text("-o 'x"))],
                "could not connect to web1: ansible_ssh_extra_args: -o 'x: a quote is not closed",
            ),
            (
                vec![("ansible_host", text("-oProxyCommand=x"))],
                "could not connect to web1: ansible_host: \"-oProxyCommand=x\": must not begin with a dash: a program could take it for an option",
            ),
            (
                vec![("ansible_user", text("a;b"))],
                "could not connect to web1: ansible_user: \"a;b\": holds white space or a character that means something to a shell",
            ),
        ];
        for (vars, expected) in cases {
            assert_eq!(short(&vars), expected, "{vars:?}");
        }
    }

    #[test]
    fn secrets_files_and_words() {
        let target = target(&[
            ("ansible_password", Value::str("hush")),
            ("ansible_ssh_private_key_file", Value::str("~/.ssh/k")),
            ("ansible_ssh_common_args", Value::str("-o 'ProxyCommand=x y'")),
            ("ansible_ssh_timeout", Value::Int(7)),
            ("ansible_ssh_retries", Value::str("3")),
            ("ansible_host_key_checking", Value::Bool(false)),
        ])
        .expect("a target");
        assert_eq!(target.password.as_ref().map(Secret::reveal), Some("hush"));
        assert!(!format!("{target:?}").contains("hush"));
        assert_eq!(target.private_key, Some(PathBuf::from("/home/me/.ssh/k")));
        assert_eq!(target.ssh_args, ["-C", "-o", "ControlMaster=auto", "-o", "ProxyCommand=x y"]);
        assert_eq!((target.connect_timeout, target.retries), (Duration::from_secs(7), 3));
        assert_eq!(target.host_key_checking, HostKeyChecking::Off);
    }
}
