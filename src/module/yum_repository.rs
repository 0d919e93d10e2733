//! `yum_repository`: sources of packages of Red Hat and its relatives.

use std::path::{Path, PathBuf};

use crate::module::files::{self, FileArgs, Writing};
use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, args, host, typed};
use crate::system::{Applied, System};
use crate::value::{Map, Value};

/// Adds and removes sources of packages.
pub const MODULE: Module = Module {
    name: "ansible.builtin.yum_repository",
    summary: "Add or remove a source of packages for dnf and yum",
    description: "Writes a section of a file in `/etc/yum.repos.d`. Other sections of the file stay as they are; a \
        file whose last section is removed is removed too. What dnf has fetched of a source is not removed.",
    example: "- ansible.builtin.yum_repository:\n    name: epel\n    description: Extra packages\n    baseurl: https://download.fedoraproject.org/pub/epel/$releasever/$basearch/\n    gpgcheck: true\n    gpgkey: https://download.fedoraproject.org/pub/epel/RPM-GPG-KEY-EPEL-9\n",
    scope: Scope::Host,
    file_params: true,
    params: &[
        Param::new("name", Type::Str, "Id of the source: the section's name.").required(),
        Param::new("description", Type::Str, "Name of the source for people."),
        Param::new("state", Type::Str, "Whether it should be there.")
            .choices(&["absent", "present"])
            .default("present"),
        Param::new("baseurl", Type::List, "Addresses of the source."),
        Param::new("mirrorlist", Type::Str, "Address of a list of mirrors."),
        Param::new("metalink", Type::Str, "Address of a list of mirrors with digests."),
        Param::new("file", Type::Str, "Name of the file without `.repo`; that of the source if not given."),
        Param::new("reposdir", Type::Path, "Directory of the files.").default("/etc/yum.repos.d"),
        Param::new("enabled", Type::Bool, "Whether it is used."),
        Param::new("gpgcheck", Type::Bool, "Verify signatures of packages."),
        Param::new("repo_gpgcheck", Type::Bool, "Verify the signature of the list of packages."),
        Param::new("gpgkey", Type::List, "Addresses of keys."),
        Param::new("gpgcakey", Type::Str, "Address of the key that signs keys."),
        Param::new("async", Type::Bool, "Fetch in the background."),
        Param::new("bandwidth", Type::Str, "Most bytes a second."),
        Param::new("cost", Type::Str, "What fetching from here costs, compared with other sources."),
        Param::new("countme", Type::Bool, "Let the source count this machine."),
        Param::new(
            "deltarpm_metadata_percentage",
            Type::Str,
            "How large lists of delta packages may be, in percent.",
        ),
        Param::new("deltarpm_percentage", Type::Str, "How large delta packages may be, in percent."),
        Param::new("enablegroups", Type::Bool, "Groups of packages of this source may be used."),
        Param::new("exclude", Type::List, "Packages not to use.").aliases(&["excludepkgs"]),
        Param::new("failovermethod", Type::Str, "In which order addresses are tried.")
            .choices(&["roundrobin", "priority"]),
        Param::new("http_caching", Type::Str, "What proxies may keep.").choices(&["all", "packages", "none"]),
        Param::new("include", Type::Str, "Address of another file of settings."),
        Param::new("includepkgs", Type::List, "The only packages to use."),
        Param::new("ip_resolve", Type::Str, "Version of the internet protocol.")
            .choices(&["4", "6", "IPv4", "IPv6", "whatever"]),
        Param::new("keepalive", Type::Bool, "Keep connections."),
        Param::new("keepcache", Type::Str, "Keep fetched packages.").choices(&["0", "1"]),
        Param::new("metadata_expire", Type::Str, "How long lists of packages are good enough."),
        Param::new("metadata_expire_filter", Type::Str, "What may use lists that are too old.").choices(&[
            "never",
            "read-only:past",
            "read-only:present",
            "read-only:future",
        ]),
        Param::new("mirrorlist_expire", Type::Str, "How long lists of mirrors are good enough."),
        Param::new("module_hotfixes", Type::Bool, "Packages of modules are not hidden."),
        Param::new("password", Type::Str, "Password for the source.").secret(),
        Param::new("priority", Type::Str, "Which source comes first; a small number is better."),
        Param::new("protect", Type::Bool, "Protect packages of this source from updates by others."),
        Param::new("proxy", Type::Str, "Address of a proxy; `_none_` for none."),
        Param::new("proxy_password", Type::Str, "Password for the proxy.").secret(),
        Param::new("proxy_username", Type::Str, "User for the proxy."),
        Param::new("retries", Type::Str, "How often fetching is tried."),
        Param::new("s3_enabled", Type::Bool, "It is in Amazon's S3."),
        Param::new("skip_if_unavailable", Type::Bool, "Go on without it if it can't be reached."),
        Param::new("ssl_check_cert_permissions", Type::Bool, "Check permissions of certificates."),
        Param::new("sslcacert", Type::Str, "File with certificates of authorities.").aliases(&["ca_cert"]),
        Param::new("sslclientcert", Type::Str, "Client certificate.").aliases(&["client_cert"]),
        Param::new("sslclientkey", Type::Str, "Key of the client certificate.").aliases(&["client_key"]),
        Param::new("sslverify", Type::Bool, "Servers must have valid certificates.")
            .aliases(&["validate_certs"]),
        Param::new("throttle", Type::Str, "Limit on the bandwidth."),
        Param::new("timeout", Type::Str, "Seconds after which a connection is given up."),
        Param::new("ui_repoid_vars", Type::Str, "Variables that are shown in the id."),
        Param::new("username", Type::Str, "User for the source."),
    ],
    rules: &[
        Rule::RequiredIf {
            param: "state",
            value: "present",
            needs: &["baseurl", "mirrorlist", "metalink"],
            any: true,
        },
        Rule::RequiredIf { param: "state", value: "present", needs: &["description"], any: false },
    ],
    returns: &[("repo", "The source's id."), ("state", "Whether it is there.")],
    run,
    ..Module::DEFAULT
};

/// Parameters that are not settings of the source.
const OWN: [&str; 5] = ["name", "description", "state", "file", "reposdir"];

/// Settings of a section as they are written, sorted by name.
fn settings(map: &Map) -> Vec<(String, String)> {
    let text = |name: &str, value: &Value| match value {
        Value::Bool(truth) => u8::from(*truth).to_string(),
        Value::List(items) => {
            let items: Vec<String> = items.iter().map(Value::to_text).collect();
            items.join(if ["exclude", "includepkgs"].contains(&name) { " " } else { "\n" })
        }
        other => other.to_text(),
    };
    let known = |name: &str| MODULE.params.iter().any(|param| param.name == name) && !OWN.contains(&name);
    let mut out: Vec<(String, String)> = map
        .iter()
        .filter_map(|(key, value)| Some((key.as_str()?, value)))
        .filter(|(key, value)| known(key) && !value.is_null())
        .map(|(key, value)| (key.to_string(), text(key, value)))
        .collect();
    out.extend(map.get("description").map(|text| ("name".to_string(), text.to_text())));
    out.sort();
    out
}

/// A line that begins a section, and its name.
fn header(line: &str) -> Option<&str> {
    line.trim_end().strip_prefix('[')?.strip_suffix(']')
}

/// The settings of a section, as [`settings`] gives them. `None` if it is not there.
fn section(text: &str, name: &str) -> Option<Vec<(String, String)>> {
    let mut lines = text.lines();
    lines.find(|line| header(line) == Some(name))?;
    let mut out: Vec<(String, String)> = Vec::new();
    for line in lines.take_while(|line| header(line).is_none()) {
        let plain = line.trim();
        if plain.is_empty() || plain.starts_with(['#', ';']) {
            continue;
        }
        match (line.starts_with([' ', '\t']), out.last_mut()) {
            (true, Some((_, value))) => {
                value.push('\n');
                value.push_str(plain);
            }
            _ => {
                let (key, value) = line.split_once(['=', ':']).unwrap_or((line, ""));
                out.push((key.trim().to_lowercase(), value.trim().to_string()));
            }
        }
    }
    out.sort();
    Some(out)
}

/// The file without the section.
fn without(text: &str, name: &str) -> String {
    let mut inside = false;
    let keep = |line: &&str| {
        if let Some(header) = header(line) {
            inside = header == name;
        }
        !inside
    };
    text.split_inclusive('\n').filter(keep).collect()
}

fn written(name: &str, settings: &[(String, String)]) -> String {
    let line = |(key, value): &(String, String)| format!("{key} = {}\n", value.replace('\n', "\n\t"));
    format!("[{name}]\n{}\n", settings.iter().map(line).collect::<String>())
}

fn run(given: Value, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let file_args: FileArgs = typed(given.clone())?;
    let map = given.as_map().cloned().unwrap_or_default();
    let text = |name: &str| map.get(name).map(Value::to_text).unwrap_or_default();
    let (name, state) = (text("name"), text("state"));
    let directory = args::expand_path(&text("reposdir"), system)?;
    if !host::is_directory(&directory, system)? && system.uncertain().is_none() {
        return Err(ModuleError::new(format!("Repo directory '{}' does not exist.", directory.display())));
    }
    let file = map.get("file").map_or_else(|| name.clone(), Value::to_text);
    let path: PathBuf = directory.join(format!("{}.repo", file.trim_end_matches(".repo")));
    let outcome = Outcome::default().set("repo", name.as_str()).set("state", state.as_str());
    let before = host::read_text(&path, system);
    let known = before.as_deref().and_then(|text| section(text, &name));
    let applied = |state: Value| Applied { kind: "yum_repository".into(), id: name.clone(), state };
    if state == "absent" {
        if known.is_some() {
            take_out(&path, &before.unwrap_or_default(), &name, system)?;
        }
        system.applied(applied(Value::Null));
        return Ok(outcome);
    }
    let wanted = settings(&map);
    if known.as_ref() == Some(&wanted) {
        file_args.apply(system, &path, true)?;
    } else {
        let mut after = without(before.as_deref().unwrap_or_default(), &name);
        if !after.is_empty() && !after.ends_with("\n\n") {
            after.push_str(if after.ends_with('\n') { "\n" } else { "\n\n" });
        }
        after.push_str(&written(&name, &wanted));
        let old = before.as_deref().map(str::as_bytes);
        files::put_if_changed(system, &path, old, after.as_bytes(), &Writing::plain(&file_args))?;
    }
    let settings: Map =
        wanted.iter().map(|(key, value)| (Value::str(key.as_str()), value.as_str().into())).collect();
    system.applied(applied(settings.into()));
    Ok(outcome)
}

fn take_out(path: &Path, text: &str, name: &str, system: &mut dyn System) -> Result<(), ModuleError> {
    let after = without(text, name);
    if after.lines().any(|line| header(line).is_some()) {
        let plain = FileArgs::default();
        files::put_if_changed(
            system,
            path,
            Some(text.as_bytes()),
            after.as_bytes(),
            &Writing::plain(&plain),
        )?;
    } else {
        system.remove(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::contract;

    #[test]
    fn sections_are_kept() {
        let two = "f two.repo 644 [a]\nname = A\nbaseurl = http://a\n\n[b]\n# kept\nname=B\n";
        for (start, arguments, changed, expected) in [
            (
                "d d 755",
                r#""name": "x", "description": "X", "baseurl": ["http://1", "http://2"], "enabled": false, "exclude": "a, b", "mode": "0600""#,
                true,
                Some(
                    "f x.repo 600 [x]\nbaseurl = http://1\n\thttp://2\nenabled = 0\nexclude = a b\nname = X\n\n",
                ),
            ),
            (two, r#""name": "a", "file": "two", "description": "A", "baseurl": "http://a""#, false, None),
            (
                two,
                r#""name": "b", "file": "two", "description": "B", "metalink": "http://m""#,
                true,
                Some(
                    "f two.repo 644 [a]\nname = A\nbaseurl = http://a\n\n[b]\nmetalink = http://m\nname = B\n\n",
                ),
            ),
            (
                two,
                r#""name": "a", "file": "two", "state": "absent""#,
                true,
                Some("f two.repo 644 [b]\n# kept\nname=B\n"),
            ),
            ("f x.repo 644 [x]\nname = X\n", r#""name": "x", "state": "absent""#, true, None),
            ("d d 755", r#""name": "x", "state": "absent""#, false, None),
        ] {
            let verdict = contract(&MODULE, &[start], &format!(r#"{{"reposdir": "@", {arguments}}}"#));
            assert_eq!((verdict.error.clone(), verdict.changed), (None, changed), "{arguments}");
            let Some(expected) = expected else { continue };
            assert!(verdict.tree.iter().any(|line| line == expected), "{arguments}: {:?}", verdict.tree);
        }
        let verdict = contract(&MODULE, &["d d 755"], r#"{"name": "x", "reposdir": "@"}"#);
        assert!(verdict.error.is_some_and(|error| error.contains("baseurl, mirrorlist, metalink")));
        let verdict = contract(
            &MODULE,
            &["d d 755"],
            r#"{"name": "x", "description": "X", "baseurl": "http://a", "reposdir": "@/gone"}"#,
        );
        assert_eq!(verdict.error.as_deref(), Some("Repo directory '@/gone' does not exist."));
    }
}
