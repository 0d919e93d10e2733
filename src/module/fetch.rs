//! `fetch`, the host's side: streams a file to the controller, which decides where it goes.

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Scope, Type, files, typed};
use crate::system::{Algorithm, FileKind, System};
use crate::value::Value;

/// Name under which the file is sent unless the controller says another.
pub const NAME: &str = "fetch";

/// The module.
pub const MODULE: Module = Module {
    name: "ansible.builtin.fetch",
    summary: "Copies a file from a host to the controller",
    description: "The file goes to `dest/HOST/path/of/the/file` on the controller, or with `flat: true` to `dest` itself. It \
        travels only if the controller's copy differs, in chunks, so that its size does not matter.",
    example: "- name: Collect the logs\n  ansible.builtin.fetch:\n    src: /var/log/app.log\n    dest: collected/\n",
    scope: Scope::World,
    params: &[
        Param::new("src", Type::Path, "The file on the host. Directories can't be fetched.").required(),
        Param::new(
            "dest",
            Type::Str,
            "Directory on the controller, in which a directory for each host is made; with `flat`, the file.",
        ),
        Param::new("flat", Type::Bool, "Use `dest` as it is.").default("false"),
        Param::new("fail_on_missing", Type::Bool, "A file that is not there is a failure.").default("true"),
        Param::new("validate_checksum", Type::Bool, "Compare the digest of what arrived. Always done.")
            .default("true"),
        Param::new("_sha256", Type::Str, ""),
        Param::new("_name", Type::Str, ""),
    ],
    returns: &[
        ("checksum", "SHA-1 of the file."),
        ("remote_checksum", "SHA-1 of the file."),
        ("dest", "Where it is on the controller."),
        ("src", "The file on the host."),
    ],
    run,
    ..Module::DEFAULT
};

#[derive(Deserialize)]
struct Args {
    src: String,
    fail_on_missing: bool,
    #[serde(rename = "_sha256")]
    sha256: Option<String>,
    #[serde(rename = "_name")]
    name: Option<String>,
}

fn run(args: Value, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let args: Args = typed(args)?;
    let path = files::path_arg(system, &args.src)?;
    let outcome = Outcome::default().set("src", files::text_of(&path)).set("file", files::text_of(&path));
    let missing = match system.stat_follow(&path)? {
        None => "the remote file does not exist",
        Some(stat) if stat.kind == FileKind::Directory => {
            "remote file is a directory, fetch cannot work on directories"
        }
        Some(_) if !system.access(&path, 4)? => "the remote file is not readable",
        Some(stat) => {
            let digest = system.digest(&path, Algorithm::Sha256)?;
            let checksum = system.digest(&path, Algorithm::Sha1)?;
            let sent = args.sha256.as_ref() != Some(&digest);
            if sent {
                system.send(&path, args.name.as_deref().unwrap_or(NAME))?;
            }
            return Ok(outcome
                .set("_sent", sent)
                .set("_sha256", digest)
                .set("size", stat.size)
                .set("checksum", checksum.as_str())
                .set("remote_checksum", checksum)
                .set("remote_md5sum", Value::Null));
        }
    };
    if args.fail_on_missing {
        return Err(ModuleError::new(missing).with("file", files::text_of(&path)));
    }
    Ok(outcome.set("_sent", false).set("msg", format!("{missing}, not transferring, ignored")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::{call, contract};
    use crate::system::fake::Fake;

    #[test]
    fn sends_what_differs() {
        let mut fake = Fake::new().with_file("/etc/x", "text");
        let args = crate::value::map_of([("src", "/etc/x"), ("dest", "here")]);
        let outcome = call(&MODULE, &args.clone().into(), &mut fake).expect("sent");
        assert_eq!(fake.sent(), [("fetch".to_string(), b"text".to_vec())]);
        let digest = outcome.values.get("_sha256").expect("returned").clone();
        let mut args = args;
        args.insert("_sha256".into(), digest);
        let outcome = call(&MODULE, &args.into(), &mut fake).expect("not sent");
        assert_eq!(outcome.values.get("_sent"), Some(&Value::Bool(false)));
        assert_eq!(fake.sent().len(), 1);
    }

    #[test]
    fn says_what_is_missing() {
        let verdict = contract(&MODULE, &[], r#"{"src": "@/x", "dest": "d"}"#);
        assert_eq!(verdict.error.as_deref(), Some("the remote file does not exist"));
        let verdict = contract(&MODULE, &[], r#"{"src": "@/x", "dest": "d", "fail_on_missing": false}"#);
        assert_eq!(verdict.text("msg"), "the remote file does not exist, not transferring, ignored");
    }
}
