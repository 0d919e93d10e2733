//! `authorized_key`: SSH keys that may log in to an account.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Scope, Type, args, host, typed};
use crate::system::{Applied, Attributes, Content, FileKind, System, User, WriteOptions};
use crate::value::{Value, map_of};

/// Manages keys of an account.
pub const MODULE: Module = Module {
    name: "ansible.posix.authorized_key",
    summary: "Manage the SSH keys that may log in to an account",
    description: "Keys are known by themselves, not by options or comment. With `exclusive`, all others go. The key \
        may be several lines, a URL, or `file:///path` on the host.",
    example: "- name: The operators' keys, and no others\n  ansible.posix.authorized_key:\n    user: deploy\n    key: \"{{ lookup('file', 'operators.pub') }}\"\n    exclusive: true\n",
    scope: Scope::Host,
    params: &[
        Param::new("user", Type::Str, "The account.").required(),
        Param::new("key", Type::Str, "One key or several, one a line; or where to read them.").required(),
        Param::new("state", Type::Str, "Whether they should be there.")
            .choices(&["absent", "present"])
            .default("present"),
        Param::new("path", Type::Path, "Another file than `~/.ssh/authorized_keys`."),
        Param::new("manage_dir", Type::Bool, "Make the directory, and set its owner and mode.")
            .default("true"),
        Param::new("key_options", Type::Str, "Options of the keys, such as `no-port-forwarding`."),
        Param::new("comment", Type::Str, "Comment in place of the keys' own."),
        Param::new("exclusive", Type::Bool, "Remove all other keys.").default("false"),
        Param::new("follow", Type::Bool, "Follow a symbolic link instead of replacing it.").default("false"),
        Param::new(
            "validate_certs",
            Type::Bool,
            "A server that keys are read from must have a valid certificate.",
        )
        .default("true"),
    ],
    returns: &[
        ("user", "The account."),
        ("key", "The keys as they were given."),
        ("keyfile", "The file."),
        ("state", "Whether they should be there."),
        ("exclusive", "Whether all others were removed."),
        ("key_options", "Options as they were given."),
        ("path", "The file as it was given."),
        ("manage_dir", "Whether the directory was managed."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    user: String,
    key: String,
    state: String,
    path: Option<String>,
    manage_dir: bool,
    key_options: Option<String>,
    comment: Option<String>,
    exclusive: bool,
    follow: bool,
    validate_certs: bool,
}

const TYPES: [&str; 23] = [
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp256-cert-v01@openssh.com",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp384-cert-v01@openssh.com",
    "ecdsa-sha2-nistp521",
    "ecdsa-sha2-nistp521-cert-v01@openssh.com",
    "rsa-sha2-256",
    "rsa-sha2-256-cert-v01@openssh.com",
    "rsa-sha2-512",
    "rsa-sha2-512-cert-v01@openssh.com",
    "sk-ecdsa-sha2-nistp256-cert-v01@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "sk-ssh-ed25519-cert-v01@openssh.com",
    "sk-ssh-ed25519@openssh.com",
    "ssh-dss",
    "ssh-dss-cert-v01@openssh.com",
    "ssh-ed25519",
    "ssh-ed25519-cert-v01@openssh.com",
    "ssh-rsa",
    "ssh-rsa-cert-v01@openssh.com",
    "ssh-xmss-cert-v01@openssh.com",
    "ssh-xmss@openssh.com",
    "webauthn-sk-ecdsa-sha2-nistp256@openssh.com",
];

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Line {
    Key(Key),
    /// A comment or what else it is; kept as it is.
    Other(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    options: Vec<String>,
    kind: String,
    key: String,
    comment: String,
}

impl Key {
    fn parse(line: &str) -> Option<Key> {
        let line = line.replace("\\#", "#");
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.first().is_some_and(|word| word.starts_with('#')) {
            return None;
        }
        let at = words.iter().position(|word| TYPES.contains(word))?;
        let options = words[..at].join(" ");
        Some(Key {
            options: parse_options(&options),
            kind: words[at].to_string(),
            key: (*words.get(at + 1)?).to_string(),
            comment: words.get(at + 2..).unwrap_or_default().join(" "),
        })
    }

    fn line(&self) -> String {
        let options =
            if self.options.is_empty() { String::new() } else { format!("{} ", self.options.join(",")) };
        format!("{options}{} {} {}\n", self.kind, self.key, self.comment)
    }
}

/// The key as it stands in its file: `FILE: KIND KEY`.
pub(super) fn observe(id: &str, _: &Value, system: &mut dyn System) -> Result<Value, ModuleError> {
    let Some((file, wanted)) = id.split_once(": ") else { return Ok(Value::Null) };
    let text = host::read_text(file, system).unwrap_or_default();
    let found = text.lines().filter_map(Key::parse).find(|key| format!("{} {}", key.kind, key.key) == wanted);
    Ok(found.map_or(Value::Null, |key| {
        map_of([("options", Value::from(key.options)), ("comment", key.comment.as_str().into())]).into()
    }))
}

/// Splits options at commas that are not quoted; of one that comes again the last counts.
fn parse_options(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut quote = None;
    for character in text.chars() {
        match quote {
            None if character == ',' => {
                parts.push(String::new());
                continue;
            }
            None if character == '"' || character == '\'' => quote = Some(character),
            Some(open) if open == character => quote = None,
            _ => {}
        }
        if let Some(part) = parts.last_mut() {
            part.push(character);
        }
    }
    let mut options: Vec<String> = Vec::new();
    for part in parts.into_iter().filter(|part| !part.is_empty()) {
        let name = |option: &str| option.split('=').next().unwrap_or_default().to_string();
        match options
            .iter()
            .position(|known| *known == part || (part.contains('=') && name(known) == name(&part)))
        {
            Some(at) => options[at] = part,
            None => options.push(part),
        }
    }
    options
}

fn keys_given(args: &Args, system: &mut dyn System) -> Result<Vec<Key>, ModuleError> {
    let text = if args.key.starts_with("http") {
        let bytes = host::fetch_url(&args.key, args.validate_certs, system)
            .map_err(|error| ModuleError::new(format!("Error getting key from: {} ({error})", args.key)))?;
        String::from_utf8_lossy(&bytes).into_owned()
    } else if let Some(path) = args.key.strip_prefix("file:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        host::read_text(path, system)
            .ok_or_else(|| ModuleError::new(format!("Path to a key file not found: {path}")))?
    } else {
        args.key.clone()
    };
    let mut keys = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let mut key =
            Key::parse(line).ok_or_else(|| ModuleError::new(format!("invalid key specified: {line}")))?;
        if let Some(options) = &args.key_options {
            key.options = parse_options(options);
        }
        if let Some(comment) = &args.comment {
            key.comment.clone_from(comment);
        }
        keys.push(key);
    }
    Ok(keys)
}

/// The new lines, or `None` if all is as it should be.
fn edited(lines: &[Line], wanted: &[Key], args: &Args) -> Option<Vec<Line>> {
    let mut out: Vec<Line> = Vec::new();
    for line in lines {
        // Of a key that comes twice the last line counts.
        if let Line::Key(key) = line {
            out.retain(|known| !matches!(known, Line::Key(other) if other.key == key.key));
        }
        out.push(line.clone());
    }
    let deduplicated = out.clone();
    let is = |line: &Line, key: &Key| matches!(line, Line::Key(known) if known.key == key.key);
    if args.state == "absent" {
        out.retain(|line| !wanted.iter().any(|key| is(line, key)));
    } else {
        for key in wanted {
            let same = Line::Key(key.clone());
            if !out.contains(&same) {
                out.retain(|line| !is(line, key));
                out.push(same);
            }
        }
        if args.exclusive {
            out.retain(|line| wanted.iter().any(|key| is(line, key)));
        }
    }
    (out != deduplicated).then_some(out)
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let wanted = keys_given(args, system)?;
    let path = match &args.path {
        Some(path) => Some(args::expand_path(path, system)?),
        None => None,
    };
    let account = match system.user(&args.user)? {
        Some(account) => Some(account),
        None if system.uncertain().is_some() && path.is_some() => None,
        None => {
            return Err(ModuleError::new(format!(
                "Failed to lookup user {0}: 'getpwnam(): name not found: {0}'",
                args.user
            )));
        }
    };
    let own_path = account.as_ref().map(|account| account.home.join(".ssh/authorized_keys"));
    let mut file = path.or(own_path).unwrap_or_default();
    if args.follow {
        file = system.resolve(&file)?;
    }
    let text = host::read_text(&file, system).unwrap_or_default();
    let lines: Vec<Line> = text
        .lines()
        .map(|line| Key::parse(line).map_or_else(|| Line::Other(format!("{line}\n")), Line::Key))
        .collect();
    if let Some(lines) = edited(&lines, &wanted, args) {
        let new: String = lines
            .iter()
            .map(|line| match line {
                Line::Key(key) => key.line(),
                Line::Other(text) => text.clone(),
            })
            .collect();
        write(args, &file, account.as_ref(), &new, system)?;
    }
    for key in &wanted {
        let state = if args.state == "present" {
            map_of([("options", Value::from(key.options.clone())), ("comment", key.comment.as_str().into())])
                .into()
        } else {
            Value::Null
        };
        let id = format!("{}: {} {}", file.display(), key.kind, key.key);
        system.applied(Applied { kind: "authorized_key".into(), id, state });
    }
    Ok(Outcome::default()
        .set("user", args.user.as_str())
        .set("key", args.key.as_str())
        .set("keyfile", file.to_string_lossy().into_owned())
        .set("state", args.state.as_str())
        .set("exclusive", args.exclusive)
        .set("key_options", args.key_options.clone())
        .set("comment", args.comment.clone())
        .set("path", args.path.clone())
        .set("manage_dir", args.manage_dir)
        .set("follow", args.follow)
        .set("validate_certs", args.validate_certs))
}

fn write(
    args: &Args,
    file: &Path,
    account: Option<&User>,
    text: &str,
    system: &mut dyn System,
) -> Result<(), ModuleError> {
    let known = |number: u32| (number != u32::MAX).then_some(number);
    let own = Attributes {
        uid: account.and_then(|account| known(account.uid)),
        gid: account.and_then(|account| known(account.gid)),
        ..Attributes::default()
    };
    let directory = file.parent().map(PathBuf::from).unwrap_or_default();
    let private = Attributes { mode: Some(0o700), ..own.clone() };
    match system.stat_follow(&directory)?.map(|stat| stat.kind) {
        Some(FileKind::Directory) if args.manage_dir => system.set_attributes(&directory, &private, true)?,
        Some(_) => {}
        None => make_directories(&directory, &private, system)?,
    }
    let attributes = Attributes { mode: Some(0o600), ..own };
    system.write(file, &Content::Bytes(text.as_bytes().to_vec()), &attributes, WriteOptions::default())?;
    Ok(())
}

fn make_directories(
    directory: &Path,
    attributes: &Attributes,
    system: &mut dyn System,
) -> Result<(), ModuleError> {
    if let Some(parent) = directory.parent()
        && system.stat_follow(parent)?.is_none()
    {
        make_directories(parent, &Attributes::default(), system)?;
    }
    system.make_dir(directory, attributes)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::contract;

    #[test]
    fn keys_are_kept_once() {
        let one = "ssh-ed25519 AAAA1 me@a\n";
        let with_options = "no-pty,command=\"a, b\" ssh-rsa AAAA2 you\n";
        let table: &[(Option<&str>, &str, Option<&str>)] = &[
            (None, r#""key":"ssh-ed25519 AAAA1 me""#, Some("ssh-ed25519 AAAA1 me\n")),
            (Some(one), r#""key":"ssh-ed25519 AAAA1 you""#, Some("ssh-ed25519 AAAA1 you\n")),
            (
                Some("# note\nssh-rsa AAAA2 you\n"),
                r#""key":"ssh-ed25519 AAAA1 x\nssh-rsa AAAA2 you""#,
                Some("# note\nssh-rsa AAAA2 you\nssh-ed25519 AAAA1 x\n"),
            ),
            (
                Some("# note\nssh-rsa AAAA2 you\n"),
                r#""key":"ssh-ed25519 AAAA1 x","exclusive":true"#,
                Some("ssh-ed25519 AAAA1 x\n"),
            ),
            (
                Some(with_options),
                r#""key":"ssh-rsa AAAA2 you","key_options":"no-pty,command=\"a, b\"""#,
                Some(with_options),
            ),
            (Some(with_options), r#""key":"ssh-rsa AAAA2","state":"absent""#, Some("")),
        ];
        for (before, given, expected) in table {
            let start: Vec<String> = ["d ssh 700".to_string()]
                .into_iter()
                .chain(before.iter().map(|text| format!("f ssh/keys 600 {text}")))
                .collect();
            let start: Vec<&str> = start.iter().map(String::as_str).collect();
            let arguments =
                format!("{{\"user\":\"root\",\"path\":\"@/ssh/keys\",{given}}}").replace("me@a", "me");
            let verdict = contract(&MODULE, &start, &arguments);
            assert_eq!(verdict.error, None, "{arguments}");
            let end: Vec<String> = ["d ssh 700".to_string()]
                .into_iter()
                .chain(expected.iter().map(|text| format!("f ssh/keys 600 {text}")))
                .collect();
            assert_eq!(verdict.tree, end, "{arguments}");
        }
        let verdict = contract(&MODULE, &[], r#"{"user":"root","path":"@/k","key":"nonsense"}"#);
        assert_eq!(verdict.error.as_deref(), Some("invalid key specified: nonsense"));
    }
}
