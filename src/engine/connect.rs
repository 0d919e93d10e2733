//! From variables and keywords to a machine and an identity: how a host is reached, and as whom.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::engine::plan::{self, Bound, PlanError, Planner, failed};
use crate::engine::shared::lock;
use crate::event::Login;
use crate::template::TemplateError;
use crate::transport::{Become, Kind, Method, Secret, Target};
use crate::value::Value;
use crate::vars::{HostVars, Scope};

/// A way to reach a host. Two tasks that reach the same host in the same way share one connection.
#[derive(Debug)]
pub struct Machine {
    /// Number within the run.
    pub id: u32,
    /// Name of the host in the inventory.
    pub host: Arc<str>,
    /// How it is reached.
    pub target: Arc<Target>,
    /// Where it is: hosts with equal places are (or may be) the same machine.
    pub place: String,
}

impl Machine {
    /// How it is reached, as the state store keeps it: without passwords and keys.
    pub fn login(&self, identity: Option<&Become>) -> Login {
        Login {
            connection: match self.target.kind {
                Kind::Ssh => "ssh",
                Kind::OpenSsh => "openssh",
                Kind::Local => "local",
                Kind::Docker { podman: true } => "podman",
                Kind::Docker { podman: false } => "docker",
                Kind::Chroot => "chroot",
            }
            .to_string(),
            user: self.target.user.clone(),
            become_method: identity.map(|identity| identity.method.program().to_string()),
            become_user: identity.map(|identity| identity.user.clone()),
        }
    }
}

/// All machines of a run.
#[derive(Default)]
pub struct Machines {
    known: Mutex<HashMap<String, Arc<Machine>>>,
    identities: Mutex<HashMap<String, Arc<Become>>>,
}

impl Machines {
    /// The host of a machine.
    pub fn name(&self, id: u32) -> Arc<str> {
        let known = lock(&self.known);
        known
            .values()
            .find(|machine| machine.id == id)
            .map_or_else(|| "?".into(), |machine| machine.host.clone())
    }

    /// The machines by which a host has been reached.
    pub fn of_host(&self, host: &str) -> Vec<u32> {
        lock(&self.known)
            .values()
            .filter(|machine| machine.host.as_ref() == host)
            .map(|machine| machine.id)
            .collect()
    }
}

/// The host that a task reaches: its own, or the one it is delegated to.
pub struct Reached {
    /// Name.
    pub name: Arc<str>,
    /// Variables.
    pub vars: Arc<HostVars>,
    /// It is not the task's own.
    pub delegated: bool,
}

/// The variables that say how a host is reached.
const CONNECTION_VARS: &[&str] = &[
    "ansible_connection",
    "ansible_host",
    "ansible_ssh_host",
    "ansible_port",
    "ansible_ssh_port",
    "ansible_user",
    "ansible_ssh_user",
    "ansible_password",
    "ansible_ssh_pass",
    "ansible_ssh_password",
    "ansible_ssh_private_key_file",
    "ansible_private_key_file",
    "ansible_ssh_private_key",
    "ansible_ssh_private_key_passphrase",
    "ansible_ssh_args",
    "ansible_ssh_common_args",
    "ansible_ssh_extra_args",
    "ansible_host_key_checking",
    "ansible_ssh_host_key_checking",
    "ansible_ssh_timeout",
    "ansible_timeout",
    "ansible_ssh_executable",
    "ansible_ssh_retries",
    "ansible_docker_extra_args",
    "ansible_docker_host",
    "ansible_docker_user",
    "ansible_podman_extra_args",
    "ansible_podman_executable",
    "ansible_chroot_exe",
    "ansible_ssh_use_tty",
];

/// How the task reaches its host.
///
/// # Errors
/// If a variable can't be rendered or does not make sense.
pub fn machine(
    planner: &Planner<'_>,
    scope: &Scope,
    bound: &Bound,
    reached: &Reached,
) -> Result<Arc<Machine>, PlanError> {
    let shared = planner.shared;
    let other;
    let vars: &Scope = if reached.delegated {
        other = Scope {
            role: None,
            keywords: None,
            local: crate::value::Map::new(),
            ..Scope::of_host(&shared.vars, &planner.play.vars, &reached.vars)
        };
        &other
    } else {
        scope
    };
    let keywords = &planner.task.keywords;
    let others = if reached.delegated { planner.bind(vars.clone()) } else { bound.clone() };
    let render = |value: &Value, bound: &Bound| -> Result<Value, TemplateError> {
        shared.templar.render(value, &bound.context())
    };
    let keyword = |name: &str, value: &Option<Value>| -> Result<Option<Value>, TemplateError> {
        let Some(value) = value else { return Ok(None) };
        let value = render(value, bound).map_err(|error| error.wanted_for(plan::keyword(name)))?;
        Ok(Some(value).filter(|value| !matches!(value, Value::Null | Value::Omit)))
    };
    let mut values: HashMap<&str, Value> = HashMap::new();
    for name in CONNECTION_VARS {
        if let Some(value) = vars.given(name) {
            let value = render(&value, &others)?;
            if !matches!(value, Value::Null | Value::Omit) {
                values.insert(name, value);
            }
        }
    }
    // Keywords stand below variables, the command line below keywords.
    let options = &shared.options;
    let mut below = |name: &'static str, others: &[&str], value: Option<Value>| {
        if let Some(value) = value
            && !values.contains_key(name)
            && !others.iter().any(|other| values.contains_key(other))
        {
            values.insert(name, value);
        }
    };
    let delegated_local = reached.delegated && is_local_name(&reached.name);
    if !reached.delegated {
        below("ansible_connection", &[], keyword("connection", &keywords.connection)?);
    } else if delegated_local {
        below("ansible_connection", &[], Some(Value::str("local")));
    }
    below("ansible_user", &["ansible_ssh_user"], keyword("remote_user", &keywords.remote_user)?);
    below("ansible_port", &["ansible_ssh_port"], keyword("port", &keywords.port)?);
    if is_local_name(&reached.name) && reached.vars.inventory.is_empty() {
        below("ansible_connection", &[], Some(Value::str("local")));
    }
    below("ansible_connection", &[], options.connection.clone().map(Value::from));
    below("ansible_user", &["ansible_ssh_user"], options.remote_user.clone().map(Value::from));
    below("ansible_timeout", &["ansible_ssh_timeout"], options.timeout.map(Value::from));
    below(
        "ansible_ssh_private_key_file",
        &["ansible_private_key_file", "ansible_ssh_private_key"],
        options.private_key.as_ref().map(|path| Value::str(path.to_string_lossy())),
    );
    below("ansible_ssh_common_args", &[], options.ssh_common_args.clone().map(Value::from));
    below("ansible_ssh_extra_args", &[], options.ssh_extra_args.clone().map(Value::from));
    if let Some(password) = &options.connection_password {
        below(
            "ansible_password",
            &["ansible_ssh_pass", "ansible_ssh_password"],
            Some(Value::str(password.reveal())),
        );
    }
    let mut names: Vec<&&str> = values.keys().collect();
    names.sort_unstable();
    let mut key = reached.name.to_string();
    for name in names {
        key.push('\0');
        key.push_str(name);
        key.push('=');
        key.push_str(&values[*name].to_text());
    }
    // Programs on this machine run beside the playbook.
    let directory = bound.search.playbook_dir.clone();
    if values.get("ansible_connection").is_some_and(|kind| kind.to_text().ends_with("local")) {
        key.push('\0');
        key.push_str(&directory.to_string_lossy());
    }
    let mut known = lock(&shared.machines.known);
    if let Some(machine) = known.get(&key) {
        return Ok(machine.clone());
    }
    let mut target = Target::from_vars(&reached.name, &|name| values.get(name).cloned(), &shared.transport)
        .map_err(|error| PlanError::Failed(Box::new(failed(planner.task, error.to_string()))))?;
    target.directory = (target.kind == Kind::Local && !directory.as_os_str().is_empty()).then_some(directory);
    let machine = Arc::new(Machine {
        id: u32::try_from(known.len()).unwrap_or(u32::MAX),
        host: reached.name.clone(),
        place: format!("{:?} {} {:?}", target.kind, target.address, target.port),
        target: Arc::new(target),
    });
    known.insert(key, machine.clone());
    Ok(machine)
}

fn is_local_name(name: &str) -> bool {
    matches!(name, "localhost" | "127.0.0.1" | "::1")
}

/// As whom the task acts; `None` for the user who logs in.
///
/// # Errors
/// If a keyword or variable can't be rendered or does not make sense.
pub fn identity(
    planner: &Planner<'_>,
    scope: &Scope,
    bound: &Bound,
    reached: &Reached,
) -> Result<Option<Arc<Become>>, PlanError> {
    let shared = planner.shared;
    let other;
    let vars: &Scope = if reached.delegated {
        other = Scope::of_host(&shared.vars, &planner.play.vars, &reached.vars);
        &other
    } else {
        scope
    };
    let keywords = &planner.task.keywords;
    let options = &shared.options;
    let others = if reached.delegated { planner.bind(vars.clone()) } else { bound.clone() };
    let render = |value: &Value, bound: &Bound| -> Result<Option<Value>, TemplateError> {
        let value = shared.templar.render(value, &bound.context())?;
        Ok(Some(value).filter(|value| !matches!(value, Value::Null | Value::Omit)))
    };
    // Variable over keyword over command line over configuration.
    let find = |names: &[&str], keyword: &Option<Value>| -> Result<Option<Value>, PlanError> {
        for name in names {
            if let Some(value) = vars.given(name)
                && let Some(value) = render(&value, &others)?
            {
                return Ok(Some(value));
            }
        }
        let Some(value) = keyword else { return Ok(None) };
        let name = names[0].strip_prefix("ansible_").unwrap_or(names[0]);
        Ok(render(value, bound).map_err(|error| error.wanted_for(plan::keyword(name)))?)
    };
    let bad = |name: &str, value: &Value| {
        PlanError::Failed(Box::new(failed(
            planner.task,
            format!("`{name}` has the value {}, which does not make sense", value.repr()),
        )))
    };
    let active = match find(&["ansible_become"], &keywords.become_)? {
        Some(value) => value.to_bool().ok_or_else(|| bad("become", &value))?,
        None => options.become_.unwrap_or(shared.settings.become_),
    };
    if !active {
        return Ok(None);
    }
    let text = |value: Option<Value>| value.map(|value| value.to_text()).filter(|text| !text.is_empty());
    let method = text(find(&["ansible_become_method"], &keywords.become_method)?)
        .or_else(|| options.become_method.clone())
        .unwrap_or_else(|| shared.settings.become_method.clone());
    let named = Value::str(method.as_str());
    let method = Method::from_name(&method).ok_or_else(|| bad("become_method", &named))?;
    let specific = |what: &str| format!("ansible_{}_{what}", method.program());
    let user = text(find(&["ansible_become_user", &specific("user")], &keywords.become_user)?)
        .or_else(|| options.become_user.clone())
        .unwrap_or_else(|| shared.settings.become_user.clone());
    let exe = text(find(&["ansible_become_exe", &specific("exe")], &keywords.become_exe)?);
    let flags = text(find(&["ansible_become_flags", &specific("flags")], &keywords.become_flags)?);
    let password = text(find(
        &["ansible_become_password", "ansible_become_pass", &specific("pass"), &specific("password")],
        &None,
    )?)
    .map(Secret::new)
    .or_else(|| options.become_password.clone());
    let secret = password.as_ref().map(|secret| secret.reveal().to_string()).unwrap_or_default();
    let key = format!("{}\0{user}\0{exe:?}\0{flags:?}\0{secret}", method.program());
    let mut known = lock(&shared.machines.identities);
    let identity =
        known.entry(key).or_insert_with(|| Arc::new(Become { method, user, password, exe, flags }));
    Ok(Some(identity.clone()))
}

/// Quotes a word for a POSIX shell.
pub fn shell_quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}
