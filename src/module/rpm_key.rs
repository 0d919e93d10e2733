//! `rpm_key`: keys with which packages are signed, in rpm's database.

use base64::Engine;
use serde::Deserialize;
use sha1::{Digest, Sha1};

use crate::module::{Module, ModuleError, Outcome, Param, Scope, Type, args, host, typed};
use crate::system::{Applied, Command, Intent, System};
use crate::value::{Value, map_of};

/// Adds and removes keys.
pub const MODULE: Module = Module {
    name: "ansible.builtin.rpm_key",
    summary: "Add or remove a key of packages in rpm's database",
    description: "Reads the key (of a file on the host, or from an address) itself, so that gpg is not needed, and asks \
        rpm which keys it has. A key that is to be removed may also be named by its id.",
    example: "- ansible.builtin.rpm_key:\n    key: https://example.com/RPM-GPG-KEY-example\n    fingerprint: EBC6 E12C 62B1 C734 026B 2122 A20E 5214 6B8D 79E6\n",
    scope: Scope::World,
    params: &[
        Param::new("key", Type::Str, "The key: a file on the host, an address, or (to remove it) its id.")
            .required(),
        Param::new("state", Type::Str, "Whether it should be there.")
            .choices(&["absent", "present"])
            .default("present"),
        Param::new("fingerprint", Type::List, "Fingerprints that the keys must have."),
        Param::new("validate_certs", Type::Bool, "The server of an address must have a valid certificate.")
            .default("yes"),
    ],
    returns: &[],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    key: String,
    state: String,
    #[serde(deserialize_with = "host::optional_texts")]
    fingerprint: Option<Vec<String>>,
    validate_certs: bool,
}

/// The bytes of a key: armor is taken off.
fn dearmored(data: &[u8]) -> Result<Vec<u8>, ModuleError> {
    let text = String::from_utf8_lossy(data);
    let Some((_, rest)) = text.split_once("-----BEGIN PGP PUBLIC KEY BLOCK-----") else {
        return Ok(data.to_vec());
    };
    let mut out = Vec::new();
    for block in std::iter::once(rest).chain(text.split("-----BEGIN PGP PUBLIC KEY BLOCK-----").skip(2)) {
        let block = block.split("-----END").next().unwrap_or_default();
        // Headers end with an empty line; the checksum begins with an equals sign.
        let body: String = block
            .lines()
            .map(str::trim)
            .skip_while(|line| !line.is_empty())
            .filter(|line| !line.starts_with('='))
            .collect();
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(body)
            .map_err(|error| ModuleError::new(format!("the key is damaged: {error}")))?;
        out.extend(bytes);
    }
    Ok(out)
}

/// Kind and body of each packet (RFC 4880, 4.2).
fn packets(mut data: &[u8]) -> Vec<(u8, &[u8])> {
    let mut out = Vec::new();
    while let [tag, rest @ ..] = data {
        if tag & 0x80 == 0 {
            break;
        }
        let number = |bytes: &[u8]| bytes.iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
        let (kind, head, length) = if tag & 0x40 != 0 {
            match rest {
                [first @ 0..=191, ..] => (tag & 0x3f, 1, usize::from(*first)),
                [first @ 192..=223, second, ..] => {
                    (tag & 0x3f, 2, (usize::from(*first) - 192) * 256 + usize::from(*second) + 192)
                }
                [255, length @ ..] if length.len() >= 4 => (tag & 0x3f, 5, number(&length[..4])),
                _ => break,
            }
        } else {
            let size = match tag & 3 {
                0 => 1,
                1 => 2,
                2 => 4,
                _ => break,
            };
            if rest.len() < size {
                break;
            }
            ((tag >> 2) & 0xf, size, number(&rest[..size]))
        };
        let Some(body) = rest.get(head..head + length) else { break };
        out.push((kind, body));
        data = &rest[head + length..];
    }
    out
}

/// The fingerprints of the primary keys in a file, in capital hexadecimal.
fn fingerprints(data: &[u8]) -> Result<Vec<String>, ModuleError> {
    let bytes = dearmored(data)?;
    let found: Vec<String> = packets(&bytes)
        .into_iter()
        .filter(|(kind, body)| *kind == 6 && body.first() == Some(&4))
        .map(|(_, body)| {
            let length = u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes();
            let digest = Sha1::new().chain_update([0x99]).chain_update(length).chain_update(body).finalize();
            digest.iter().map(|byte| format!("{byte:02X}")).collect()
        })
        .collect();
    if found.is_empty() {
        Err(ModuleError::new("Not a valid key: it has no public key of version 4"))
    } else {
        Ok(found)
    }
}

fn is_key_id(text: &str) -> bool {
    let text = text.trim();
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    digits.len() >= 8 && digits.chars().all(|c| c.is_ascii_hexdigit())
}

/// The last eight digits, by which rpm names keys.
fn short(id: &str) -> String {
    let id = id.trim().to_lowercase();
    id[id.len().saturating_sub(8)..].to_string()
}

fn installed(system: &mut dyn System) -> Result<Vec<String>, ModuleError> {
    let output = host::ask(["rpm", "-q", "gpg-pubkey", "--qf", "%{version}\n"], system)?;
    if output.code == 127 && system.uncertain().is_none() {
        return Err(ModuleError::new("Failed to find required executable \"rpm\""));
    }
    // Status 1 says that there is none.
    let output = output.stdout_text();
    Ok(output.lines().filter(|line| is_key_id(line)).map(short).collect())
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let present = args.state == "present";
    let is_id = is_key_id(&args.key);
    if present && is_id {
        return Err(ModuleError::new(
            "When importing a key, a valid file must be given: an id can only be removed",
        ));
    }
    let (ids, file) = if is_id {
        (vec![short(&args.key)], None)
    } else {
        let (data, file) = if args.key.contains("://") {
            let data = host::fetch_url(&args.key, args.validate_certs, system)?;
            let file = system.spool("key", &mut data.as_slice())?;
            (data, file)
        } else {
            let path = args::expand_path(&args.key, system)?;
            (system.read(&path)?, path)
        };
        let found = fingerprints(&data)?;
        check(&found, args.fingerprint.as_deref().unwrap_or_default())?;
        (found.iter().map(|print| short(print)).collect(), Some(file))
    };
    let known = installed(system)?;
    if present {
        let missing = ids.iter().any(|id| !known.contains(id));
        if let Some(file) = file.filter(|_| missing) {
            let command = Command::new(["rpm".into(), "--import".into(), file.into_os_string()]).c_locale();
            let undo = ids.first().filter(|_| ids.len() == 1).map(|id| erase(id));
            change(&command, &ids, false, undo, system)?;
        }
    } else {
        for id in ids.iter().filter(|id| known.contains(id)) {
            change(&erase(id), std::slice::from_ref(id), true, None, system)?;
        }
    }
    for id in ids {
        let state = if present { map_of([("installed", Value::Bool(true))]).into() } else { Value::Null };
        system.applied(Applied { kind: "rpm_key".into(), id, state });
    }
    Ok(Outcome::default())
}

fn erase(id: &str) -> Command {
    Command::new(["rpm", "--erase", "--allmatches", &format!("gpg-pubkey-{id}")]).c_locale()
}

fn change(
    command: &Command,
    ids: &[String],
    before: bool,
    undo: Option<Command>,
    system: &mut dyn System,
) -> Result<(), ModuleError> {
    let state = |there: bool| if there { map_of([("state", "present")]).into() } else { Value::Null };
    let intent = Intent {
        kind: "rpm_key",
        id: ids.join(" "),
        before: state(before),
        after: state(!before),
        undo,
        ..Intent::default()
    };
    host::act("rpm failed", command, intent, system).map(|_| ())
}

/// Every fingerprint that is asked for must be that of a key.
fn check(found: &[String], wanted: &[String]) -> Result<(), ModuleError> {
    let wanted: Vec<String> = wanted.iter().map(|print| print.replace(' ', "").to_uppercase()).collect();
    match wanted.iter().find(|print| !found.contains(print)) {
        Some(_) => Err(ModuleError::new(format!(
            "The specified fingerprint, '{}', does not match the key fingerprint '{}'",
            wanted.join(", "),
            found.join(", ")
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::Output;
    use crate::system::fake::Fake;

    /// An EdDSA key made for this test.
    const KEY: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDMEawGgxBYJKwYBBAHaRw8BAQdAvTyMBEf1cf5o1uWfmqDQJ6ghVO6ppjKJLzFb\nRry1nRW0GHRlc3Qga2V5IDxhQGV4YW1wbGUuY29tPoiQBBMWCAA4FiEEI3yfOMDa\nwH5ddruzruLdYpxY/A8FAmsBoMQCGwMFCwkIBwIGFQoJCAsCBBYCAwECHgECF4AA\nCgkQruLdYpxY/A/cMAD+LdRJyYzdSfY+IR85g3jIqoU7EK1xMVCdydUmZbj9VLYB\nAKHfemhGqIdY8el8yA+/LHPlO67YRKS9I3Dl2vtWDpYF\n=3Uhx\n-----END PGP PUBLIC KEY BLOCK-----\n";
    const FINGERPRINT: &str = "237C9F38C0DAC07E5D76BBB3AEE2DD629C58FC0F";

    #[test]
    fn fingerprints_are_those_of_gpg() {
        assert_eq!(fingerprints(KEY.as_bytes()).expect("a key"), [FINGERPRINT]);
        assert!(fingerprints(b"no key").is_err());
        assert!(fingerprints(b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n$$$\n-----END").is_err());
    }

    #[test]
    fn keys_are_imported_and_erased_once() {
        let id = short(FINGERPRINT);
        let file = |state: &str, known: &str| {
            let mut fake = Fake::new().with_file("/key", KEY).with_behaviour(&["rpm"], |_, _| Output::ok(""));
            fake = fake.with_command_prefix(&["rpm", "-q"], Output::ok(known));
            let given = map_of([("key", "/key"), ("state", state), ("fingerprint", FINGERPRINT)]);
            call(&MODULE, &given.into(), &mut fake).expect("it works");
            fake.changes().len()
        };
        let line = format!("{id}\n");
        for (state, known, changes) in [
            ("present", "", 1),
            ("present", line.as_str(), 0),
            ("absent", &line, 1),
            ("absent", "deadbeef\n", 0),
        ] {
            assert_eq!(file(state, known), changes, "{state} {known}");
        }
        let mut fake = Fake::new().with_file("/key", KEY);
        let given = map_of([("key", "/key"), ("fingerprint", "AA BB")]);
        assert!(call(&MODULE, &given.into(), &mut fake).expect_err("another").contains("does not match"));
    }
}
