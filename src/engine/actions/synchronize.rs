//! `synchronize`: says which rsync runs where. The files' other end is the play's host; rsync itself runs on
//! the controller, or on the host of `delegate_to`, and reaches the other end as the inventory says.

use std::path::Path;
use std::sync::Arc;

use crate::engine::connect::{self, Machine, Reached};
use crate::engine::plan::{Bound, PlanError, Planner, failed};
use crate::transport::{Become, Kind, Method};
use crate::value::{Map, Value};
use crate::vars::{HostVars, Scope};

/// Its full name.
pub const NAME: &str = "ansible.posix.synchronize";

/// Who is involved.
pub struct Ends<'a> {
    /// The play's host: where files come from or go to.
    pub host: &'a Reached,
    /// The host that rsync runs on, if the task names one.
    pub delegate: Option<&'a Reached>,
}

/// What is to be done where: arguments for the module, the machine it runs on, and as whom.
pub type Arranged = (Map, Arc<Machine>, Option<Arc<Become>>);

/// The controller as a host that rsync runs on.
fn controller(planner: &Planner<'_>) -> Reached {
    let name: Arc<str> = "localhost".into();
    let vars: Arc<HostVars> = planner.shared.host_vars(&name);
    Reached { name, vars, delegated: true }
}

/// Fills in what the inventory says of the host.
///
/// # Errors
/// If variables can't be rendered or do not make sense.
pub fn arrange(
    planner: &Planner<'_>,
    scope: &Scope,
    bound: &Bound,
    ends: &Ends<'_>,
    mut args: Map,
) -> Result<Arranged, PlanError> {
    // The other end is reached by the host's own variables even if the task is delegated.
    let own = Scope::of_host(&planner.shared.vars, &planner.play.vars, &ends.host.vars);
    let end = if ends.delegate.is_some() {
        let bound = planner.bind(own.clone());
        connect::machine(planner, &own, &bound, ends.host)?
    } else {
        connect::machine(planner, scope, bound, ends.host)?
    };
    let identity = connect::identity(planner, scope, bound, ends.host)?;
    let here = match ends.delegate {
        Some(delegate) => connect::machine(planner, scope, bound, delegate)?,
        None => connect::machine(planner, scope, bound, &controller(planner))?,
    };
    let text = |args: &Map, name: &str| args.get(name).map(Value::to_text).unwrap_or_default();
    let pull = text(&args, "mode") == "pull";
    // The end that is here is found as other sources of tasks are.
    let near = if pull { "dest" } else { "src" };
    let path = text(&args, near);
    if ends.delegate.is_none() && !path.is_empty() {
        args.insert(Value::str(near), Value::str(local_path(bound, &path, pull)));
    }
    if here.place == end.place {
        return Ok((args, here, identity));
    }
    let far = if pull { "src" } else { "dest" };
    let path = text(&args, far);
    if path.is_empty() || path.starts_with("rsync://") {
        return Ok((args, here, None));
    }
    let target = &end.target;
    let with_user = args.get("set_remote_user").and_then(Value::to_bool).unwrap_or(true);
    match &target.kind {
        Kind::Ssh | Kind::OpenSsh => {
            let address = if target.address.contains(':') {
                format!("[{}]", target.address)
            } else {
                target.address.clone()
            };
            let user = target.user.as_ref().filter(|_| with_user).map(|user| format!("{user}@"));
            args.insert(Value::str(far), Value::str(format!("{}{address}:{path}", user.unwrap_or_default())));
            if let Some(port) = target.port.filter(|_| !args.contains_key("dest_port")) {
                args.insert(Value::str("dest_port"), Value::from(u32::from(port)));
            }
            if let Some(key) = target.private_key.as_ref().filter(|_| !args.contains_key("private_key")) {
                args.insert(Value::str("private_key"), Value::str(key.to_string_lossy()));
            }
            if let Some(password) = &target.password {
                args.insert(Value::str("_local_rsync_password"), Value::str(password.reveal()));
            }
            if args.get("use_ssh_args").and_then(Value::to_bool).unwrap_or(false) {
                let words: Vec<String> =
                    target.ssh_args.iter().map(|word| connect::shell_quote(word)).collect();
                args.insert(Value::str("_ssh_args"), Value::str(words.join(" ")));
            }
        }
        Kind::Docker { podman } => {
            let program = if *podman { "podman" } else { "docker" };
            let user = target.user.as_ref().map(|user| format!(" -u {user}")).unwrap_or_default();
            args.insert(Value::str(far), Value::str(format!("{}:{path}", target.address)));
            args.insert(Value::str("_rsh"), Value::str(format!("{program} exec{user} -i")));
        }
        Kind::Chroot => {
            let inside = Path::new(&target.address).join(path.trim_start_matches('/'));
            args.insert(Value::str(far), Value::str(inside.to_string_lossy()));
            return Ok((args, here, identity));
        }
        Kind::Local => return Ok((args, here, identity)),
    }
    // Whoever the task acts as acts on the host: rsync there is started so.
    if let Some(identity) = &identity
        && !args.contains_key("rsync_path")
    {
        let program = match identity.method {
            Method::Sudo => format!("sudo -n -u {} rsync", connect::shell_quote(&identity.user)),
            Method::Doas => format!("doas -n -u {} rsync", connect::shell_quote(&identity.user)),
            _ => {
                let message = "synchronize can become another user with sudo and doas only; give rsync_path to do otherwise";
                return Err(PlanError::Failed(Box::new(failed(planner.task, message))));
            }
        };
        args.insert(Value::str("rsync_path"), Value::str(program));
    }
    Ok((args, here, None))
}

/// A path of the controller: relative ones are those of the role or the playbook. A slash at the end means
/// what is in the directory, and stays.
fn local_path(bound: &Bound, path: &str, pull: bool) -> String {
    if path.starts_with('/') || path.contains("://") {
        return path.to_string();
    }
    if let (Some(rest), Some(home)) = (path.strip_prefix("~/"), std::env::home_dir()) {
        return home.join(rest).to_string_lossy().into_owned();
    }
    let found = if pull { None } else { bound.search.find("files", path.trim_end_matches('/')).ok() };
    let found = found.unwrap_or_else(|| bound.search.playbook_dir.join(path.trim_end_matches('/')));
    let slash = if path.ends_with('/') { "/" } else { "" };
    format!("{}{slash}", found.to_string_lossy())
}
