//! The playbook with which an audit asks the hosts: one task, which cannot change anything.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use crate::playbook::{Item, Keywords, Play, Playbook, Task};
use crate::state::{Applied, Login, resource};
use crate::value::{Map, Origin, Value, map_of};

/// The module that looks.
pub const OBSERVE: &str = "setpoint.drift.observe";

/// What stands for the path of the playbook that asks.
pub const ASKING: &str = "(audit)";

/// What is asked of the hosts.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    /// Arguments, by number of the request and host.
    pub arguments: HashMap<(i64, String), Value>,
    /// How hosts are reached for a request, by its number.
    pub logins: Vec<(Login, Vec<String>)>,
}

/// Most resources of one request: its answer has to fit into a message.
const MOST: usize = 50_000;

impl Requests {
    /// Asks for the state of everything that was applied. Each host is asked once for each way in which it
    /// was reached (and once more for every 50,000 resources).
    pub fn of_applied(applied: &[Applied]) -> Requests {
        let mut by_way: BTreeMap<(&Login, usize), BTreeMap<&str, Vec<&Applied>>> = BTreeMap::new();
        let mut counts: HashMap<(&Login, &str), usize> = HashMap::new();
        for one in applied {
            let count = counts.entry((&one.login, &one.host)).or_default();
            by_way.entry((&one.login, *count / MOST)).or_default().entry(&one.host).or_default().push(one);
            *count += 1;
        }
        let trees = trees(applied);
        let mut requests = Requests::default();
        for ((login, _), hosts) in by_way {
            let names: Vec<String> = hosts.keys().map(|host| (*host).to_string()).collect();
            let number = requests.add(login.clone(), names);
            for (host, resources) in hosts {
                let arguments = arguments(&resources, &trees);
                requests.arguments.insert((number, host.to_string()), arguments);
            }
        }
        requests
    }

    /// Asks who changed these paths, and when.
    pub fn of_hints(paths: BTreeMap<(Login, String), Vec<String>>) -> Requests {
        let mut by_login: BTreeMap<Login, Vec<(String, Vec<String>)>> = BTreeMap::new();
        for ((login, host), paths) in paths {
            by_login.entry(login).or_default().push((host, paths));
        }
        let mut requests = Requests::default();
        for (login, hosts) in by_login {
            let names = hosts.iter().map(|(host, _)| host.clone()).collect();
            let number = requests.add(login, names);
            for (host, paths) in hosts {
                let arguments = map_of([("hints", Value::from(paths))]);
                requests.arguments.insert((number, host), arguments.into());
            }
        }
        requests
    }

    fn add(&mut self, login: Login, hosts: Vec<String>) -> i64 {
        self.logins.push((login, hosts));
        i64::try_from(self.logins.len()).unwrap_or(i64::MAX) - 1
    }

    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.logins.is_empty()
    }

    /// The playbook that asks. `task` makes a task of the module with these arguments.
    ///
    /// # Errors
    /// What `task` says.
    pub fn playbook<E>(&self, task: impl Fn(&str, &str) -> Result<Task, E>) -> Result<Playbook, E> {
        let mut plays = Vec::new();
        for (number, (login, hosts)) in self.logins.iter().enumerate() {
            let task = task(OBSERVE, &format!("request={number}"))?;
            plays.push(Arc::new(play(login, hosts, task)));
        }
        Ok(Playbook { path: PathBuf::from(ASKING), plays })
    }
}

/// Directories that held nothing but what a task has put there, with the names of that: what else is there was
/// added.
fn trees(applied: &[Applied]) -> HashMap<(&str, &str), Vec<&str>> {
    let directories: HashMap<(&str, &str), &Applied> = applied
        .iter()
        .filter(|one| {
            one.kind == "file" && one.state.get("type").and_then(Value::as_str) == Some("directory")
        })
        .filter(|one| one.state.get("whole").is_some_and(Value::truthy))
        .map(|one| ((one.host.as_str(), one.id.as_str()), one))
        .collect();
    let mut trees: HashMap<(&str, &str), Vec<&str>> = HashMap::new();
    for one in applied.iter().filter(|one| one.kind == "file" && !one.state.is_null()) {
        let Some((parent, name)) = one.id.rsplit_once('/') else { continue };
        if directories.get(&(one.host.as_str(), parent)).is_some_and(|made| made.task == one.task) {
            trees.entry((&one.host, parent)).or_default().push(name);
        }
    }
    trees
}

fn arguments(resources: &[&Applied], trees: &HashMap<(&str, &str), Vec<&str>>) -> Value {
    let mut paths: Vec<Value> = Vec::new();
    let mut others: Vec<Value> = Vec::new();
    let mut watched = Map::new();
    for one in resources {
        if resource::is_path(&one.kind) {
            paths.push(one.id.as_str().into());
            if let Some(names) = trees.get(&(one.host.as_str(), one.id.as_str())) {
                watched.insert(one.id.as_str().into(), names.clone().into());
            }
        } else if crate::module::observe::can_observe(&one.kind) {
            others
                .push(vec![Value::from(one.kind.as_str()), one.id.as_str().into(), one.state.clone()].into());
        }
    }
    let mut map = map_of([("paths", Value::list(paths)), ("resources", Value::list(others))]);
    if !watched.is_empty() {
        map.insert("trees".into(), watched.into());
    }
    map.into()
}

/// A play of one task, for hosts that are reached so.
pub fn play(login: &Login, hosts: &[String], mut task: Task) -> Play {
    let text = |value: &Option<String>| value.as_deref().map(Value::str);
    task.keywords = Arc::new(Keywords {
        connection: (login.connection != "ssh").then(|| Value::str(login.connection.as_str())),
        remote_user: text(&login.user),
        become_: Some(Value::Bool(login.become_user.is_some())),
        become_method: text(&login.become_method),
        become_user: text(&login.become_user),
        ..task.keywords.as_ref().clone()
    });
    Play {
        name: Some(Value::str("audit")),
        hosts: hosts.to_vec().into(),
        origin: Arc::new(Origin { file: "audit".into(), line: 1, column: 1 }),
        path: PathBuf::from("audit"),
        keywords: Arc::new(Keywords::default()),
        vars: Arc::new(Map::new()),
        vars_files: Vec::new(),
        vars_prompt: Vec::new(),
        gather_facts: Some(Value::Bool(false)),
        gather_subset: None,
        gather_timeout: None,
        fact_path: None,
        serial: Vec::new(),
        strategy: None,
        order: None,
        max_fail_percentage: None,
        force_handlers: None,
        roles: Vec::new(),
        pre_tasks: Vec::new(),
        role_tasks: Vec::new(),
        tasks: vec![Item::Task(Arc::new(task))],
        post_tasks: Vec::new(),
        handlers: Vec::new(),
    }
}
