//! `known_hosts`: keys of other hosts that SSH trusts.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use sha1::{Digest, Sha1};

use crate::module::files;
use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, args, host, typed};
use crate::system::{Applied, Attributes, System};
use crate::value::{Value, map_of};

type Result<T> = std::result::Result<T, ModuleError>;

/// Adds and removes lines of a file of known hosts.
pub const MODULE: Module = Module {
    name: "ansible.builtin.known_hosts",
    summary: "Add or remove keys of hosts that SSH trusts",
    description: "Names that are hashed in the file are recognised. A host may have one key of each type; a key of a type that \
        is there is replaced. No program of the host is needed.",
    example: "- name: The backup server's key\n  ansible.builtin.known_hosts:\n    name: backup.example.org\n    key: backup.example.org ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGe\n    path: /etc/ssh/ssh_known_hosts\n",
    scope: Scope::Host,
    params: &[
        Param::new("name", Type::Str, "Name or address; `[name]:port` for another port than 22.")
            .required()
            .aliases(&["host"]),
        Param::new("key", Type::Str, "The line of the file: names, type, key."),
        Param::new("path", Type::Path, "The file.").default("~/.ssh/known_hosts"),
        Param::new("hash_host", Type::Bool, "Hash the name in a new line.").default("false"),
        Param::new("state", Type::Str, "Whether the key should be there.")
            .choices(&["absent", "present"])
            .default("present"),
    ],
    rules: &[Rule::RequiredIf { param: "state", value: "present", needs: &["key"], any: false }],
    returns: &[
        ("name", "The host."),
        ("key", "The line that was asked for."),
        ("path", "The file."),
        ("state", "Whether it should be there."),
        ("hash_host", "Whether the name was to be hashed."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    name: String,
    key: Option<String>,
    path: String,
    hash_host: bool,
    state: String,
}

/// A line of the file.
#[derive(Debug, PartialEq, Eq)]
struct Entry<'a> {
    /// `@cert-authority` or `@revoked`.
    marker: Option<&'a str>,
    hosts: &'a str,
    kind: &'a str,
    key: &'a str,
}

fn parse(line: &str) -> Option<Entry<'_>> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let mut words = line.split_whitespace();
    let mut first = words.next()?;
    let marker = first.starts_with('@').then_some(first);
    if marker.is_some() {
        first = words.next()?;
    }
    Some(Entry { marker, hosts: first, kind: words.next()?, key: words.next().unwrap_or_default() })
}

/// HMAC-SHA1, which is what hashed names are.
fn hmac(key: &[u8], text: &[u8]) -> [u8; 20] {
    let mut block = [0_u8; 64];
    let short: Vec<u8> = if key.len() > 64 { Sha1::digest(key).to_vec() } else { key.to_vec() };
    block[..short.len()].copy_from_slice(&short);
    let pad = |byte: u8| block.map(|part| part ^ byte);
    let inner = Sha1::new().chain_update(pad(0x36)).chain_update(text).finalize();
    Sha1::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
}

fn hashed(salt: &[u8], name: &str) -> String {
    format!("|1|{}|{}", STANDARD.encode(salt), STANDARD.encode(hmac(salt, name.as_bytes())))
}

/// Whether the names of a line are about this host.
fn is_about(hosts: &str, name: &str) -> bool {
    if let Some(rest) = hosts.strip_prefix("|1|") {
        let Some((salt, digest)) = rest.split_once('|') else { return false };
        let (Ok(salt), Ok(digest)) = (STANDARD.decode(salt), STANDARD.decode(digest)) else { return false };
        return hmac(&salt, name.as_bytes()).as_slice() == digest;
    }
    let matches = |pattern: &str| {
        glob::Pattern::new(&pattern.replace('[', "[[]")).is_ok_and(|pattern| pattern.matches(name))
    };
    let mut about = false;
    for pattern in hosts.split(',') {
        match pattern.strip_prefix('!') {
            Some(pattern) if matches(pattern) => return false,
            None if pattern == name || matches(pattern) => about = true,
            _ => {}
        }
    }
    about
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome> {
    let path = args::expand_path(&args.path, system)?;
    let name = args.name.as_str();
    if name.contains(',') {
        return Err(ModuleError::new(format!("name must be one name, not a list: {name}")));
    }
    let key = args.key.as_deref().map(str::trim).filter(|key| !key.is_empty());
    let wanted = key.map(|key| new_entry(key, name)).transpose()?;
    let text = host::read_text(&path, system).unwrap_or_default();
    let present = args.state == "present";
    let after = match (&wanted, present) {
        (Some(wanted), true) => with_key(&text, wanted, args.hash_host, name),
        (None, true) => return Err(ModuleError::new("No key specified when adding a host")),
        (wanted, false) => without(&text, wanted.as_ref(), name),
    };
    if after != text {
        make_parent(&path, system)?;
        host::write_text(&path, &after, 0o644, system)?;
    }
    let state = match (&wanted, present) {
        (Some(wanted), true) => map_of([("type", wanted.kind), ("key", wanted.key)]).into(),
        _ => Value::Null,
    };
    let id = format!("{} {name}", path.display());
    system.applied(Applied { kind: "known_host".into(), id, state });
    let mut outcome = Outcome::default()
        .set("name", name)
        .set("key", args.key.clone())
        .set("path", path.to_string_lossy().into_owned())
        .set("state", args.state.as_str())
        .set("hash_host", args.hash_host);
    if let Some(stat) = system.stat_follow(&path)? {
        outcome.values.extend(files::common_values(system, &path, &stat)?);
    }
    Ok(outcome)
}

/// The key that was asked for, which must be about the host.
fn new_entry<'a>(key: &'a str, name: &str) -> Result<Entry<'a>> {
    if key.lines().filter(|line| parse(line).is_some()).count() > 1 {
        return Err(ModuleError::new("key must be one line; use a loop for several"));
    }
    let entry = key
        .lines()
        .find_map(parse)
        .ok_or_else(|| ModuleError::new("key must be a line of a known_hosts file: names, type, key"))?;
    if entry.key.is_empty() {
        return Err(ModuleError::new("key must be a line of a known_hosts file: names, type, key"));
    }
    if !is_about(entry.hosts, name) {
        return Err(ModuleError::new("Host parameter does not match hashed host field in supplied key"));
    }
    Ok(entry)
}

/// The text with the key in it: in place of one of its type, or at the end.
fn with_key(text: &str, wanted: &Entry<'_>, hash: bool, name: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        let Some(entry) = parse(line).filter(|entry| is_about(entry.hosts, name)) else { continue };
        // A name that is hashed stays so only if that is asked for, and a plain one only if not.
        let hashed = hash || wanted.hosts.starts_with("|1|");
        let same_hosts = if hashed { entry.hosts.starts_with("|1|") } else { entry.hosts == wanted.hosts };
        if entry.marker == wanted.marker && entry.kind == wanted.kind && entry.key == wanted.key && same_hosts
        {
            return text.to_string();
        }
        if entry.marker.is_none() && wanted.marker.is_none() && entry.kind == wanted.kind {
            lines.remove(index);
            break;
        }
    }
    let hosts = if hash && !wanted.hosts.starts_with("|1|") {
        hashed(&salt(), name)
    } else {
        wanted.hosts.to_string()
    };
    let marker = wanted.marker.map(|marker| format!("{marker} ")).unwrap_or_default();
    let line = format!("{marker}{hosts} {} {}", wanted.kind, wanted.key);
    lines.iter().map(|line| format!("{line}\n")).collect::<String>() + &line + "\n"
}

/// The text without the key that was asked for; without one, without all keys of the host. Authorities and
/// revoked keys go only if they were asked for.
fn without(text: &str, wanted: Option<&Entry<'_>>, name: &str) -> String {
    let is_it = |line: &str| {
        parse(line).filter(|entry| is_about(entry.hosts, name)).is_some_and(|entry| match wanted {
            None => entry.marker.is_none(),
            Some(key) => (key.marker, key.kind, key.key) == (entry.marker, entry.kind, entry.key),
        })
    };
    text.split_inclusive('\n').filter(|line| !is_it(line)).collect()
}

/// Twenty bytes that can't be guessed: the keys of the standard hasher come from the kernel's random numbers.
fn salt() -> [u8; 20] {
    use std::hash::{BuildHasher, RandomState};
    let mut seed = Sha1::new();
    for number in 0..4_u8 {
        seed.update(RandomState::new().hash_one(number).to_le_bytes());
    }
    seed.finalize().into()
}

/// `~/.ssh` of an account that never used SSH.
fn make_parent(path: &Path, system: &mut dyn System) -> Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    if !host::exists(parent, system)? && parent.file_name().is_some_and(|name| name == ".ssh") {
        system.make_dir(parent, &Attributes { mode: Some(0o700), ..Attributes::default() })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::contract;

    #[test]
    fn hashed_names_are_recognised() {
        let salt: Vec<u8> = (1..=20).collect();
        let name = hashed(&salt, "example.org");
        assert!(is_about(&name, "example.org") && !is_about(&name, "example.com"));
        // RFC 2202, test case 2.
        let digest: String =
            hmac(b"Jefe", b"what do ya want for nothing?").iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79");
        for (hosts, name, expected) in [
            ("a,b", "b", true),
            ("[a]:22", "[a]:22", true),
            ("*.org", "x.org", true),
            ("*.org,!x.org", "x.org", false),
            ("a", "A", false),
        ] {
            assert_eq!(is_about(hosts, name), expected, "{hosts} {name}");
        }
    }

    #[test]
    fn an_authority_goes_only_if_it_was_asked_for() {
        let text = "@cert-authority *.h ssh-rsa C\n*.h ssh-rsa C\n";
        let authority = parse("@cert-authority *.h ssh-rsa C").expect("a key");
        assert_eq!(without(text, Some(&authority), "*.h"), "*.h ssh-rsa C\n");
        assert_eq!(without(text, None, "*.h"), "@cert-authority *.h ssh-rsa C\n");
    }

    #[test]
    fn keys_are_added_replaced_and_removed() {
        let table: &[(&str, &str, &str)] = &[
            ("", r#""name":"h","key":"h ssh-rsa AAAA""#, "h ssh-rsa AAAA\n"),
            ("# c\nh ssh-rsa AAAA", r#""name":"h","key":"h ssh-rsa AAAA comment""#, "# c\nh ssh-rsa AAAA"),
            ("h ssh-rsa AAAA\n", r#""name":"h","key":"h ssh-rsa BBBB""#, "h ssh-rsa BBBB\n"),
            (
                "h ssh-rsa AAAA\n",
                r#""name":"h","key":"h ssh-ed25519 BBBB""#,
                "h ssh-rsa AAAA\nh ssh-ed25519 BBBB\n",
            ),
            ("h,i ssh-rsa AAAA\n", r#""name":"h","key":"h ssh-rsa AAAA""#, "h ssh-rsa AAAA\n"),
            ("h ssh-rsa AAAA\ni ssh-rsa AAAA\n", r#""name":"h","state":"absent""#, "i ssh-rsa AAAA\n"),
            ("h ssh-rsa AAAA\n", r#""name":"h","state":"absent","key":"h ssh-rsa BBBB""#, "h ssh-rsa AAAA\n"),
            (
                "h ssh-rsa AAAA\nh ssh-ed25519 B\n",
                r#""name":"h","state":"absent","key":"h ssh-rsa AAAA""#,
                "h ssh-ed25519 B\n",
            ),
            (
                "|1|AQIDBAUGBwgJCgsMDQ4PEBESExQ=|AAAA ssh-rsa AAAA\n",
                r#""name":"h","state":"absent""#,
                "|1|AQIDBAUGBwgJCgsMDQ4PEBESExQ=|AAAA ssh-rsa AAAA\n",
            ),
        ];
        for (before, arguments, after) in table {
            let arguments = format!(r#"{{{arguments},"path":"@/known"}}"#);
            let start = format!("f known 644 {before}");
            let verdict = contract(&MODULE, &[&start], &arguments);
            assert_eq!(verdict.tree, [format!("f known 644 {after}")], "{arguments}");
            assert_eq!(verdict.changed, before != after, "{arguments}");
        }
        let verdict =
            contract(&MODULE, &[], r#"{"name":"h","key":"h ssh-rsa AAAA","path":"@/.ssh/known_hosts"}"#);
        assert_eq!(verdict.tree, ["d .ssh 700", "f .ssh/known_hosts 644 h ssh-rsa AAAA\n"]);
        let verdict = contract(
            &MODULE,
            &["f k 600 "],
            r#"{"name":"h","key":"h ssh-rsa AAAA","path":"@/k","hash_host":true}"#,
        );
        assert!(
            verdict.tree[0].starts_with("f k 600 |1|") && verdict.tree[0].ends_with(" ssh-rsa AAAA\n"),
            "{:?}",
            verdict.tree
        );
        let verdict = contract(
            &MODULE,
            &["f k 600 h ssh-rsa AAAA\n"],
            r#"{"name":"h","key":"h ssh-rsa AAAA","path":"@/k","hash_host":true}"#,
        );
        assert!(verdict.changed && verdict.tree[0].starts_with("f k 600 |1|"), "{:?}", verdict.tree);
        for (arguments, expected) in [
            (r#"{"name":"h","key":"i ssh-rsa AAAA","path":"@/k"}"#, "does not match hashed host field"),
            (r#"{"name":"h","key":"ssh-rsa","path":"@/k"}"#, "must be a line"),
            (r#"{"name":"h","path":"@/k"}"#, "key"),
        ] {
            let error = contract(&MODULE, &[], arguments).error.unwrap_or_default();
            assert!(error.contains(expected), "{arguments}: {error}");
        }
    }
}
