//! The playbook with which an audit asks the hosts: one task, which cannot change anything.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::gather::Look;
use crate::module::observe;
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
    /// Of what is asked, by number of the request and host: places among what was applied.
    asked: HashMap<(i64, String), Vec<usize>>,
}

/// Most resources of one request: its answer has to fit into a message.
const MOST: usize = 50_000;

impl Requests {
    /// Asks for the state of everything that was applied. Each host is asked once for each way in which it
    /// was reached (and once more for every 50,000 resources).
    pub fn of_applied(applied: &[Applied]) -> Requests {
        let mut by_way: BTreeMap<(&Login, usize), BTreeMap<&str, Vec<usize>>> = BTreeMap::new();
        let mut counts: HashMap<(&Login, &str), usize> = HashMap::new();
        for (place, one) in applied.iter().enumerate().filter(|(_, one)| is_asked(one)) {
            let count = counts.entry((&one.login, &one.host)).or_default();
            by_way.entry((&one.login, *count / MOST)).or_default().entry(&one.host).or_default().push(place);
            *count += 1;
        }
        let trees = trees(applied);
        let mut requests = Requests::default();
        for ((login, _), hosts) in by_way {
            let names: Vec<String> = hosts.keys().map(|host| (*host).to_string()).collect();
            let number = requests.add(login.clone(), names);
            for (host, places) in hosts {
                let resources = places.iter().map(|place| &applied[*place]);
                let arguments = arguments(number, resources, &trees);
                requests.arguments.insert((number, host.to_string()), arguments);
                requests.asked.insert((number, host.to_string()), places);
            }
        }
        requests
    }

    /// Which of what was applied the hosts say is as it was left: what they have counted only. If what a host
    /// has counted and what it has told are not together what it was asked, nothing that it counted is known.
    pub fn confirmed(&self, applied: &[Applied], looks: &BTreeMap<String, Look>) -> Vec<bool> {
        let mut confirmed = vec![false; applied.len()];
        for ((number, host), places) in &self.asked {
            let Some((look, count)) = looks.get(host).and_then(|look| Some((look, look.same.get(number)?)))
            else {
                continue;
            };
            let told: HashSet<(&str, &str)> =
                look.actual.keys().chain(look.problems.keys()).map(|(kind, id)| (&**kind, &**id)).collect();
            let is_told = |place: &&usize| {
                let one = &applied[**place];
                told.contains(&(&*one.kind, &*one.id))
            };
            let counted: Vec<&usize> = places.iter().filter(|place| !is_told(place)).collect();
            if u64::try_from(counted.len()) == Ok(*count) {
                for place in counted {
                    confirmed[*place] = true;
                }
            }
        }
        confirmed
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

/// Whether it can be told without the playbook.
fn is_asked(one: &Applied) -> bool {
    resource::is_path(&one.kind) || observe::can_observe(&one.kind)
}

/// Directories that held nothing but what a task has put there, with the names of that: what else is there was
/// added.
fn trees(applied: &[Applied]) -> HashMap<(&str, &str), Vec<&str>> {
    let is_whole = |one: &&Applied| {
        // Few are: most need not be read.
        one.state.text().contains("\"whole\"") && {
            let state = one.state.value();
            state.get("type").and_then(Value::as_str) == Some("directory")
                && state.get("whole").is_some_and(Value::truthy)
        }
    };
    let directories: HashMap<(&str, &str), &Applied> = applied
        .iter()
        .filter(|one| &*one.kind == "file")
        .filter(is_whole)
        .map(|one| ((&*one.host, one.id.as_str()), one))
        .collect();
    let mut trees: HashMap<(&str, &str), Vec<&str>> = HashMap::new();
    if directories.is_empty() {
        return trees;
    }
    for one in applied.iter().filter(|one| &*one.kind == "file" && !one.state.is_absent()) {
        let Some((parent, name)) = one.id.rsplit_once('/') else { continue };
        if directories.get(&(&*one.host, parent)).is_some_and(|made| made.task == one.task) {
            trees.entry((&one.host, parent)).or_default().push(name);
        }
    }
    trees
}

fn arguments<'a>(
    number: i64,
    resources: impl Iterator<Item = &'a Applied>,
    trees: &HashMap<(&str, &str), Vec<&str>>,
) -> Value {
    let mut paths: Vec<Value> = Vec::new();
    let mut left: Vec<Value> = Vec::new();
    let mut others: Vec<Value> = Vec::new();
    let mut watched = Map::new();
    for one in resources {
        if resource::is_path(&one.kind) {
            paths.push(one.id.as_str().into());
            // What is sealed can't be compared there.
            let digest = if one.sealed { [0, 0] } else { observe::digest(one.state.text()) };
            left.extend(digest.map(Value::Int));
            if let Some(names) = trees.get(&(&*one.host, one.id.as_str())) {
                watched.insert(one.id.as_str().into(), names.clone().into());
            }
        } else {
            let words =
                [one.kind.as_ref().into(), one.id.as_str().into(), one.state.value(), one.sealed.into()];
            others.push(Value::list(words.to_vec()));
        }
    }
    let mut map = map_of([
        ("request", Value::Int(number)),
        ("paths", Value::list(paths)),
        ("left", Value::list(left)),
        ("resources", Value::list(others)),
    ]);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Stored, TaskRef};

    fn applied(host: &str, kind: &str, id: &str, sealed: bool) -> Applied {
        Applied {
            host: host.into(),
            kind: kind.into(),
            id: id.into(),
            state: Stored::from_text("{\"mode\":\"0644\"}"),
            sealed,
            task: TaskRef::default().into(),
            also: vec![],
            playbook: "/p".into(),
            play: "web".into(),
            login: Arc::default(),
            run: "1".into(),
            recorded: 1,
            changed_run: None,
            origin: "run".into(),
        }
    }

    #[test]
    fn hosts_are_believed_when_they_account_for_all_that_was_asked() {
        let all = [
            applied("a", "file", "/1", false),
            applied("a", "service", "ssh", false),
            applied("a", "apt_key", "nobody can tell", false),
            applied("a", "file", "/secret", true),
            applied("b", "file", "/1", false),
        ];
        let requests = Requests::of_applied(&all);
        let asked = &requests.arguments[&(0, "a".to_string())];
        let digest = observe::digest("{\"mode\":\"0644\"}");
        let left: Vec<i64> = asked
            .get("left")
            .and_then(Value::as_list)
            .expect("told")
            .iter()
            .filter_map(Value::as_int)
            .collect();
        assert_eq!(left, [digest[0], digest[1], 0, 0]);
        assert_eq!(
            asked.get("resources").expect("told").repr(),
            "[['service', 'ssh', {'mode': '0644'}, False]]"
        );
        let look = |same: u64, told: &[(&str, &str)]| {
            let mut look = Look { same: HashMap::from([(0, same)]), ..Look::default() };
            for (kind, id) in told {
                look.actual.insert(((*kind).to_string(), (*id).to_string()), Value::Null);
            }
            look
        };
        for (same, told, expected) in [
            (2, &[("file", "/secret")][..], [true, true, false, false, true]),
            (1, &[("file", "/secret"), ("file", "/1")], [false, true, false, false, true]),
            // It says that it has counted more, or fewer, than it has not told.
            (3, &[("file", "/secret")], [false, false, false, false, true]),
            (1, &[("file", "/secret")], [false, false, false, false, true]),
        ] {
            let looks =
                BTreeMap::from([("a".to_string(), look(same, told)), ("b".to_string(), look(1, &[]))]);
            assert_eq!(requests.confirmed(&all, &looks), expected, "{same} {told:?}");
        }
        assert_eq!(requests.confirmed(&all, &BTreeMap::new()), [false; 5]);
    }
}
