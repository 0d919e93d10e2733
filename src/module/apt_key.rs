//! `apt_key`: keys that apt trusts for all sources, in the old way.

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, args, host, typed};
use crate::system::{Applied, Command, Done, Intent, System};
use crate::value::{Value, map_of};

/// Adds and removes keys.
pub const MODULE: Module = Module {
    name: "ansible.builtin.apt_key",
    summary: "Add or remove a key that apt trusts for all sources",
    description: "Uses `apt-key`, which newer distributions have no more: `deb822_repository` with `signed_by` is \
        the way there. With `id`, nothing is fetched if the key is there.",
    example: "- ansible.builtin.apt_key:\n    url: https://apt.example.com/key.asc\n    id: 9FED2BCBDCD29CDF762678CBAED4B06F473041FA\n",
    scope: Scope::World,
    params: &[
        Param::new("id", Type::Str, "Fingerprint or id of the key, with or without `0x`."),
        Param::new("url", Type::Str, "Address of the key."),
        Param::new("data", Type::Str, "The key itself."),
        Param::new("file", Type::Path, "File on the host with the key."),
        Param::new("keyserver", Type::Str, "Server to ask for `id`."),
        Param::new("keyring", Type::Path, "File of trusted keys, such as one in `/etc/apt/trusted.gpg.d`."),
        Param::new("state", Type::Str, "Whether it should be there.")
            .choices(&["absent", "present"])
            .default("present"),
        Param::new("validate_certs", Type::Bool, "The server must have a valid certificate.").default("yes"),
    ],
    rules: &[Rule::MutuallyExclusive(&["data", "file", "keyserver", "url"])],
    returns: &[
        ("id", "Id of the key as it was given."),
        ("key_id", "Long id."),
        ("short_id", "Short id."),
        ("fp", "Fingerprint."),
        ("before", "Ids that were there."),
        ("after", "Ids that are there."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    id: Option<String>,
    url: Option<String>,
    data: Option<String>,
    file: Option<String>,
    keyserver: Option<String>,
    keyring: Option<String>,
    state: String,
    validate_certs: bool,
}

/// Hexadecimal digits of an id, in upper case, without `0x`.
fn plain_id(id: &str) -> Result<String, ModuleError> {
    let plain =
        id.trim().trim_start_matches("0x").trim_start_matches("0X").replace(' ', "").to_ascii_uppercase();
    if plain.len() < 8 || !plain.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(ModuleError::new(format!("Invalid key_id: {id}")));
    }
    Ok(plain)
}

fn apt_key(args: &Args, words: &[&str], system: &mut dyn System) -> Result<Command, ModuleError> {
    let mut argv = vec![host::need_program("apt-key", system)?];
    argv.extend(args.keyring.iter().flat_map(|path| ["--keyring".to_string(), path.clone()]));
    argv.extend(words.iter().map(ToString::to_string));
    let mut command = Command::new(argv).c_locale();
    command.env.push(("APT_KEY_DONT_WARN_ON_DANGEROUS_USAGE".into(), "1".into()));
    Ok(command)
}

/// Fingerprints and long ids of public keys in gpg's output for programs.
fn ids(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        match fields.first() {
            Some(&("pub" | "sub")) => found.extend(fields.get(4).map(ToString::to_string)),
            Some(&"fpr") => found.extend(fields.get(9).map(ToString::to_string)),
            _ => {}
        }
    }
    found
}

fn trusted(args: &Args, system: &mut dyn System) -> Result<Vec<String>, ModuleError> {
    let command = apt_key(
        args,
        &["adv", "--list-public-keys", "--with-colons", "--with-fingerprint", "--keyid-format=long"],
        system,
    )?;
    match system.query(&command) {
        Ok(output) => Ok(ids(&output.stdout_text())),
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let mut data = match (&args.data, &args.file) {
        (Some(data), _) => Some(data.clone().into_bytes()),
        (None, Some(file)) => {
            let path = args::expand_path(file, system)?;
            Some(system.read(&path)?)
        }
        (None, None) => None,
    };
    let mut id = args.id.as_deref().map(plain_id).transpose()?;
    let before = trusted(args, system)?;
    if id.is_none() {
        if data.is_none()
            && let Some(url) = &args.url
        {
            data = Some(host::fetch_url(url, args.validate_certs, system)?);
        }
        let Some(data) = &data else {
            return Err(ModuleError::new("Missing key_id: required with keyserver, and to remove a key"));
        };
        id = Some(id_of(data, system)?);
    }
    let id = id.unwrap_or_default();
    let is_there =
        |known: &[String]| known.iter().any(|known| known.ends_with(&id) || id.ends_with(known.as_str()));
    let there = is_there(&before);
    if args.state == "absent" && there {
        let command = apt_key(args, &["del", &id], system)?;
        act(&command, &id, true, system)?;
    }
    if args.state == "present" && !there {
        let command = match (&args.keyserver, &args.url) {
            (Some(server), _) => {
                apt_key(args, &["adv", "--no-tty", "--keyserver", server, "--recv", &id], system)?
            }
            (None, url) => {
                let data = match (data, url) {
                    (Some(data), _) => data,
                    (None, Some(url)) => host::fetch_url(url, args.validate_certs, system)?,
                    (None, None) => {
                        return Err(ModuleError::new(
                            "the key is missing, and none of data, file, keyserver, url is given",
                        ));
                    }
                };
                Command { stdin: Some(data), ..apt_key(args, &["add", "-"], system)? }
            }
        };
        act(&command, &id, false, system)?;
    }
    let state = if args.state == "present" { map_of([("trusted", true)]).into() } else { Value::Null };
    system.applied(Applied { kind: "apt_key".into(), id: id.clone(), state });
    let tail = |length: usize| id[id.len().saturating_sub(length)..].to_string();
    Ok(Outcome::default()
        .set("id", args.id.clone())
        .set("fp", id.as_str())
        .set("key_id", tail(16))
        .set("short_id", tail(8))
        .set("before", before)
        .set("after", trusted(args, system)?))
}

/// The id of the key in `data`.
fn id_of(data: &[u8], system: &mut dyn System) -> Result<String, ModuleError> {
    let program = host::need_program("gpg", system)?;
    let command = Command {
        stdin: Some(data.to_vec()),
        ..Command::new([program.as_str(), "--batch", "--with-colons", "--show-keys"]).c_locale()
    };
    let output = system.query(&command)?;
    let found = ids(&output.stdout_text()).into_iter().find(|id| id.len() >= 40);
    found.ok_or_else(|| ModuleError::command("Unable to extract key from the data", &command, &output))
}

fn act(command: &Command, id: &str, before: bool, system: &mut dyn System) -> Result<(), ModuleError> {
    let intent = Intent {
        kind: "apt_key",
        id: id.to_string(),
        before: if before { map_of([("trusted", true)]).into() } else { Value::Null },
        after: if before { Value::Null } else { map_of([("trusted", true)]).into() },
        ..Intent::default()
    };
    match system.change(command, intent)? {
        Done::Made(output) if !output.success() => {
            Err(ModuleError::command(format!("apt-key failed for key {id}"), command, &output))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::Output;
    use crate::system::fake::Fake;

    #[test]
    fn keys_are_added_once() {
        const LISTED: &str =
            "pub:-:4096:1:AED4B06F473041FA:1::\nfpr:::::::::9FED2BCBDCD29CDF762678CBAED4B06F473041FA:\n";
        for (given, expected) in [
            (vec![("id", "0x473041FA")], None),
            (vec![("id", "0x473041FA"), ("state", "absent")], Some("! /usr/bin/apt-key del 473041FA")),
            (vec![("id", "11111111"), ("data", "KEY")], Some("! /usr/bin/apt-key add -")),
            (
                vec![("id", "11111111"), ("keyserver", "ks")],
                Some("! /usr/bin/apt-key adv --no-tty --keyserver ks --recv 11111111"),
            ),
            (vec![("data", "KEY")], None),
        ] {
            let mut fake = Fake::new()
                .with_program("/usr/bin/apt-key")
                .with_program("/usr/bin/gpg")
                .with_command_prefix(&["/usr/bin/apt-key"], Output::ok(""))
                .with_command_prefix(&["/usr/bin/apt-key", "adv", "--list-public-keys"], Output::ok(LISTED))
                .with_command_prefix(&["/usr/bin/gpg"], Output::ok(LISTED));
            call(&MODULE, &map_of(given.clone()).into(), &mut fake).expect("it works");
            let acted = fake.log().iter().find(|line| line.starts_with("! ")).map(String::as_str);
            assert_eq!(acted, expected, "{given:?}");
        }
    }
}
