//! The fact cache: facts that outlive a run, in one JSON file a host, named and laid out as Ansible's
//! `jsonfile` cache does it, so that both can use the same directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::diagnostic::Diagnostic;
use crate::source::json::{Layout, dump};
use crate::value::{Map, Value, map_of};

use super::HostVars;

/// Where facts are kept between runs.
#[derive(Clone, Debug, Default)]
pub struct FactCache {
    /// `None` to keep them in memory alone.
    dir: Option<PathBuf>,
    prefix: String,
    /// Facts older than this are not there; zero for no limit.
    timeout: Duration,
}

impl FactCache {
    /// The cache that settings ask for: `memory`, or `jsonfile` with a directory.
    ///
    /// # Errors
    /// Another kind is asked for, or the directory is missing or can't be made.
    pub fn open(
        kind: &str,
        connection: Option<&str>,
        prefix: &str,
        timeout: Duration,
    ) -> Result<FactCache, Diagnostic> {
        match kind.strip_prefix("ansible.builtin.").unwrap_or(kind) {
            "memory" | "" => Ok(FactCache::default()),
            "jsonfile" => {
                let Some(place) = connection.filter(|place| !place.is_empty()) else {
                    return Err(Diagnostic::error("the fact cache `jsonfile` needs a directory")
                        .hint("set fact_caching_connection"));
                };
                let dir = match place.strip_prefix("~/") {
                    Some(rest) => {
                        std::env::home_dir().map_or_else(|| PathBuf::from(place), |home| home.join(rest))
                    }
                    None => PathBuf::from(place),
                };
                fs::create_dir_all(&dir).map_err(|error| {
                    Diagnostic::error(format!("can't make the fact cache {}: {error}", dir.display()))
                })?;
                Ok(FactCache { dir: Some(dir), prefix: prefix.to_owned(), timeout })
            }
            other => Err(Diagnostic::error(format!("the fact cache `{other}` is not supported"))
                .hint("there are memory and jsonfile")),
        }
    }

    /// Nothing outlives the run.
    pub fn is_memory(&self) -> bool {
        self.dir.is_none()
    }

    fn path(&self, host: &str) -> Option<PathBuf> {
        // A host's name may hold a slash or be `..`; such a host has no file.
        let plain = !host.contains(['/', '\0']) && !host.starts_with('.');
        let dir = self.dir.as_ref().filter(|_| plain)?;
        Some(dir.join(format!("{}s1_{host}", self.prefix)))
    }

    /// The facts of a host as modules return them; nothing if there are none or they are too old.
    pub fn load(&self, host: &str) -> Option<Map> {
        let path = self.path(host)?;
        let age = fs::metadata(&path).ok()?.modified().ok()?.elapsed().unwrap_or_default();
        if !self.timeout.is_zero() && age > self.timeout {
            return None;
        }
        let text = fs::read_to_string(&path).ok()?;
        let place = path.to_string_lossy();
        let (mut value, _) = crate::source::parse_value(&place, &text).ok()?;
        if let Some(payload) = value.get(PAYLOAD) {
            (value, _) = crate::source::parse_value(&place, payload.as_str()?).ok()?;
        }
        match plain(&value.untrusted(), 0) {
            Value::Map(map) => Some(Arc::unwrap_or_clone(map)),
            _ => None,
        }
    }

    /// Keeps the facts that a host has now.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn store(&self, host: &HostVars) -> Result<(), Diagnostic> {
        let Some(path) = self.path(&host.name) else { return Ok(()) };
        let mut out = Map::new();
        for (key, value) in host.facts.iter() {
            let Some(name) = key.as_str() else { continue };
            let prefixed = format!("ansible_{name}");
            let plain = host.injected.contains_key(name) && !host.injected.contains_key(prefixed.as_str());
            out.insert(Value::str(if plain { name.to_owned() } else { prefixed }), value.clone());
        }
        let layout = Layout { indent: Some(4), sort_keys: true, ..Layout::default() };
        let payload = map_of([(PAYLOAD, dump(&Value::map(out), &Layout::default()))]);
        write(&path, &dump(&Value::map(payload), &layout)).map_err(|error| {
            Diagnostic::error(format!("can't write the fact cache {}: {error}", path.display()))
        })
    }

    /// Forgets the facts of a host.
    pub fn remove(&self, host: &str) {
        if let Some(path) = self.path(host) {
            // It may not have been there.
            let _ = fs::remove_file(path);
        }
    }

    /// Forgets the facts of all hosts.
    pub fn flush<'a>(&self, hosts: impl IntoIterator<Item = &'a str>) {
        if !self.is_memory() {
            hosts.into_iter().for_each(|host| self.remove(host));
        }
    }
}

/// The facts are JSON inside this entry of a JSON file.
const PAYLOAD: &str = "__payload__";

/// How deep facts are looked into.
const MAX_DEPTH: usize = 64;

/// A value without the wrappers that say where a part of it came from.
fn plain(value: &Value, depth: usize) -> Value {
    match value {
        _ if depth > MAX_DEPTH => value.clone(),
        Value::List(items) => Value::list(items.iter().map(|item| plain(item, depth + 1)).collect()),
        Value::Map(map) => {
            let wrapped = map.get("__ansible_type").and_then(Value::as_str);
            match (wrapped, map.get("value")) {
                (Some(kind), Some(inner)) if kind.starts_with("_AnsibleTagged") => plain(inner, depth + 1),
                _ => {
                    Value::map(map.iter().map(|(key, item)| (key.clone(), plain(item, depth + 1))).collect())
                }
            }
        }
        other => other.clone(),
    }
}

/// Writes a file so that a reader sees all of it or nothing.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}", std::process::id()));
    let beside = path.with_file_name(name);
    fs::write(&beside, text)?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(dir: &Path, timeout: u64) -> FactCache {
        let place = dir.join("facts").display().to_string();
        FactCache::open("jsonfile", Some(&place), "pre_", Duration::from_secs(timeout)).expect("opens")
    }

    #[test]
    fn facts_come_back_under_their_names_until_they_are_too_old() {
        let dir = tempfile::tempdir().expect("a directory");
        let kept = cache(dir.path(), 0);
        let mut host = HostVars { name: "web1".into(), ..HostVars::default() };
        host.add_facts(&map_of([("ansible_distribution", "Debian"), ("packages", "none")]));
        kept.store(&host).expect("stored");
        assert!(dir.path().join("facts/pre_s1_web1").is_file());
        let mut again = HostVars::default();
        again.add_facts(&kept.load("web1").expect("there"));
        assert_eq!(again.facts, host.facts);
        assert_eq!(again.injected, host.injected);
        let old = std::time::SystemTime::now() - Duration::from_secs(100);
        let file = fs::File::options().append(true).open(dir.path().join("facts/pre_s1_web1")).expect("open");
        file.set_modified(old).expect("aged");
        assert!(cache(dir.path(), 10).load("web1").is_none());
        assert!(cache(dir.path(), 1000).load("web1").is_some());
        kept.remove("web1");
        assert!(kept.load("web1").is_none());
    }

    #[test]
    fn files_that_ansible_wrote_are_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let kept = cache(dir.path(), 0);
        let text = r#"{"__payload__": "{\"kept\": {\"value\": 1, \"tags\": [], \"__ansible_type\": \"_AnsibleTaggedInt\"}, \"ansible_distribution\": \"Debian\"}"}"#;
        fs::write(dir.path().join("facts/pre_s1_web1"), text).expect("written");
        let facts = Value::map(kept.load("web1").expect("there"));
        assert_eq!(facts.repr(), "{'kept': 1, 'ansible_distribution': 'Debian'}");
    }

    #[test]
    fn names_of_hosts_lead_nowhere_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let kept = cache(dir.path(), 0);
        for name in ["../web1", "..", "a/b"] {
            let host = HostVars { name: name.into(), ..HostVars::default() };
            kept.store(&host).expect("nothing to do");
            assert!(kept.load(name).is_none());
        }
        assert_eq!(fs::read_dir(dir.path().join("facts")).expect("readable").count(), 0);
    }

    #[test]
    fn other_kinds_are_refused_by_name() {
        let error = FactCache::open("redis", Some("x"), "", Duration::ZERO).expect_err("not supported");
        assert!(error.message.contains("`redis`"), "{error}");
        FactCache::open("jsonfile", None, "", Duration::ZERO).expect_err("no directory");
        assert!(FactCache::open("memory", None, "", Duration::ZERO).expect("opens").is_memory());
    }
}
