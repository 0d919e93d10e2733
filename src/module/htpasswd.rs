//! `htpasswd`: accounts of web servers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use serde::Deserialize;
use sha1::Sha1;

use crate::module::files::{self, FileArgs, Writing};
use crate::module::regex::Coding;
use crate::module::{Module, ModuleError, Outcome, Param, Type, file, typed};
use crate::system::{Content, System};
use crate::value::Value;

type Result<T> = std::result::Result<T, ModuleError>;

/// The module.
pub const MODULE: Module = Module {
    name: "community.general.htpasswd",
    summary: "Keeps accounts in a file for basic authentication",
    description: "Adds an account with its password, changes the password if it is another, or removes the account. Hashes are \
        computed here; of the schemes, `apr_md5_crypt`, `md5_crypt`, `ldap_sha1` and `plaintext` are supported.",
    example: "- name: Who may see the statistics\n  community.general.htpasswd:\n    path: /etc/nginx/stats.htpasswd\n    name: anna\n    password: \"{{ anna_password }}\"\n    owner: root\n    group: www-data\n    mode: \"0640\"\n",
    params: &[
        Param::new("path", Type::Path, "The file.").required().aliases(&["dest", "destfile"]),
        Param::new("name", Type::Str, "The account.").required().aliases(&["username"]),
        Param::new("password", Type::Str, "Its password; needed with `state: present`.").secret(),
        Param::new("hash_scheme", Type::Str, "How a new password is hashed.")
            .default("apr_md5_crypt")
            .aliases(&["crypt_scheme"]),
        Param::new("state", Type::Str, "Whether the account should be there.")
            .choices(&["present", "absent"])
            .default("present"),
        Param::new("create", Type::Bool, "Make the file if it is not there.").default("true"),
    ],
    file_params: true,
    returns: &[("msg", "What was done."), ("path", "The file.")],
    run,
    ..Module::DEFAULT
};

#[derive(Deserialize)]
struct Args {
    path: String,
    name: String,
    password: Option<String>,
    hash_scheme: String,
    state: String,
    create: bool,
    #[serde(flatten)]
    file: FileArgs,
}

fn run(args: Value, system: &mut dyn System) -> Result<Outcome> {
    let args: Args = typed(args)?;
    if args.name.contains([':', '\n']) || args.name.is_empty() {
        return Err(ModuleError::new("name must not be empty and must not hold a colon or a newline"));
    }
    let path = files::path_arg(system, &args.path)?;
    let there = system.stat_follow(&path)?.is_some();
    let present = args.state == "present";
    if !there {
        if !present {
            files::record(system, &path, None, None)?;
            return Ok(Outcome::default().set("msg", format!("{} not present", path.display())));
        }
        if !args.create {
            if let Some(outcome) = files::uncertain(system, &path) {
                return Ok(outcome);
            }
            return Err(ModuleError::new(format!("Destination {} does not exist", path.display())));
        }
        file::make_directories(system, &files::parent_of(&path), &FileArgs::default())?;
    }
    let before = if there { Some(system.read(&path)?) } else { None };
    let (coding, text) = Coding::decode(before.clone().unwrap_or_default());
    let name = coding.parameter(&args.name).into_owned();
    let line_of = |line: &str| line.split_once(':').is_some_and(|(account, _)| account == name);
    let known = text.lines().find(|line| line_of(line)).and_then(|line| line.split_once(':'));
    let (after, message) = if present {
        let password = args.password.as_deref().ok_or_else(|| {
            ModuleError::new("state is present but all of the following are missing: password")
        })?;
        match known {
            Some((_, hash)) if verify(password, hash.trim_end())? => {
                (text.clone(), format!("{} already present", args.name))
            }
            Some(_) => {
                let new = format!("{name}:{}", hash(&args.hash_scheme, password, &salt())?);
                let lines: Vec<&str> =
                    text.lines().map(|line| if line_of(line) { new.as_str() } else { line }).collect();
                (lines.join("\n") + "\n", format!("Add/update {}", args.name))
            }
            None => {
                let mut out = text.clone();
                if !out.is_empty() && !out.ends_with('\n') {
                    out.push('\n');
                }
                out.push_str(&format!("{name}:{}\n", hash(&args.hash_scheme, password, &salt())?));
                let message = if there {
                    format!("Add/update {}", args.name)
                } else {
                    format!("Create {}", path.display())
                };
                (out, message)
            }
        }
    } else if known.is_some() {
        let kept: String = text.split_inclusive('\n').filter(|line| !line_of(line)).collect();
        (kept, format!("Remove {}", args.name))
    } else {
        (text.clone(), format!("{} not present", args.name))
    };
    if before.is_none() || after != text {
        let real = system.resolve(&path)?;
        let content = Content::Bytes(coding.encode(after));
        files::put(system, &real, &content, &Writing::plain(&args.file))?;
    } else {
        args.file.apply(system, &path, true)?;
    }
    files::finish(system, Outcome::default().set("msg", message), &path, "path", None)
}

const ITOA64: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

fn salt() -> String {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let mut number = RandomState::new().build_hasher().finish();
    let mut salt = String::new();
    for _ in 0..8 {
        salt.push(char::from(ITOA64[usize::try_from(number & 63).unwrap_or(0)]));
        number >>= 6;
    }
    salt
}

fn hash(scheme: &str, password: &str, salt: &str) -> Result<String> {
    Ok(match scheme {
        "apr_md5_crypt" => md5_crypt("$apr1$", password, salt),
        "md5_crypt" => md5_crypt("$1$", password, salt),
        "ldap_sha1" => ldap_sha1(password),
        "plaintext" => password.into(),
        other => {
            return Err(ModuleError::new(format!(
                "hash_scheme {other} is not supported; apr_md5_crypt, md5_crypt, ldap_sha1 and plaintext are"
            )));
        }
    })
}

/// Whether a password is the one that was hashed.
fn verify(password: &str, hash: &str) -> Result<bool> {
    for prefix in ["$apr1$", "$1$"] {
        if let Some(rest) = hash.strip_prefix(prefix) {
            let salt = rest.split('$').next().unwrap_or_default();
            return Ok(md5_crypt(prefix, password, salt) == hash);
        }
    }
    if hash.starts_with("{SHA}") {
        return Ok(ldap_sha1(password) == hash);
    }
    if hash.starts_with('$') || hash.starts_with('{') {
        return Err(ModuleError::new(
            "the account's password is hashed in a way that is not supported; remove the account first",
        ));
    }
    Ok(password == hash)
}

fn ldap_sha1(password: &str) -> String {
    format!("{{SHA}}{}", STANDARD.encode(Sha1::digest(password)))
}

/// The hash that `crypt` calls MD5, and Apache's variant of it, which differs in the prefix alone.
fn md5_crypt(prefix: &str, password: &str, salt: &str) -> String {
    let salt = &salt[..salt.len().min(8)];
    let (password, salt_bytes) = (password.as_bytes(), salt.as_bytes());
    let inner = Md5::new().chain_update(password).chain_update(salt_bytes).chain_update(password).finalize();
    let mut outer =
        Md5::new().chain_update(password).chain_update(prefix.as_bytes()).chain_update(salt_bytes);
    for index in 0..password.len() {
        outer.update([inner[index % 16]]);
    }
    let mut bits = password.len();
    while bits > 0 {
        outer.update([if bits & 1 == 1 { 0 } else { password[0] }]);
        bits >>= 1;
    }
    let mut digest = outer.finalize();
    for round in 0..1000 {
        let mut next = Md5::new();
        if round % 2 == 1 {
            next.update(password)
        } else {
            next.update(digest)
        }
        if round % 3 != 0 {
            next.update(salt_bytes);
        }
        if round % 7 != 0 {
            next.update(password);
        }
        if round % 2 == 1 {
            next.update(digest)
        } else {
            next.update(password)
        }
        digest = next.finalize();
    }
    let mut out = format!("{prefix}{salt}$");
    let mut add = |a: u8, b: u8, c: u8, count: usize| {
        let mut value = u32::from(a) << 16 | u32::from(b) << 8 | u32::from(c);
        for _ in 0..count {
            out.push(char::from(ITOA64[usize::try_from(value & 63).unwrap_or(0)]));
            value >>= 6;
        }
    };
    for [a, b, c] in [[0, 6, 12], [1, 7, 13], [2, 8, 14], [3, 9, 15], [4, 10, 5]] {
        add(digest[a], digest[b], digest[c], 4);
    }
    add(0, 0, digest[11], 2);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::contract;

    #[test]
    fn hashes_are_those_of_others() {
        // From `openssl passwd -apr1` and `openssl passwd -1`.
        assert_eq!(md5_crypt("$apr1$", "secret", "abcdefgh"), "$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/");
        assert_eq!(md5_crypt("$1$", "secret", "abcdefgh"), "$1$abcdefgh$cHJi5PXp/ki/ktXzqlk6I1");
        assert_eq!(ldap_sha1("secret"), "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=");
    }

    #[test]
    fn keeps_accounts() {
        let known =
            "f x 640 anna:$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/\nbert:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n";
        for (start, args, changed, needle) in [
            (known, r#""name": "anna", "password": "secret""#, false, "anna:$apr1$abcdefgh$"),
            (known, r#""name": "bert", "password": "secret""#, false, "bert:{SHA}5en6"),
            (known, r#""name": "bert", "password": "new", "hash_scheme": "plaintext""#, true, "\nbert:new\n"),
            (known, r#""name": "anna", "state": "absent""#, true, "f x 640 bert:"),
            (known, r#""name": "carl", "password": "p", "mode": "0600""#, true, "\ncarl:$apr1$"),
            ("d d 755", r#""name": "carl", "password": "p", "mode": "0600""#, true, "f x 600 carl:$apr1$"),
        ] {
            let verdict = contract(&MODULE, &[start], &format!(r#"{{"path": "@/x", {args}}}"#));
            assert_eq!(verdict.error, None, "{args}");
            assert_eq!(verdict.changed, changed, "{args}");
            assert!(verdict.tree.iter().any(|line| line.contains(needle)), "{args}: {:?}", verdict.tree);
        }
    }
}
