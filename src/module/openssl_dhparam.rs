//! `openssl_dhparam`: parameters for Diffie-Hellman key exchange.

use serde::Deserialize;

use crate::module::files::FileArgs;
use crate::module::openssl::{self, Call};
use crate::module::{Module, ModuleError, Outcome, Param, Scope, Type, host, typed};
use crate::system::{Command, Done, Effect, FileKind, Intent, System};
use crate::value::{Value, map_of};

/// Makes parameters for Diffie-Hellman key exchange.
pub const MODULE: Module = Module {
    name: "community.crypto.openssl_dhparam",
    summary: "Make parameters for Diffie-Hellman key exchange",
    description: "Makes parameters with the host's openssl, unless there are valid ones of this size. That takes minutes \
        for 4096 bits; in check mode it is not done.",
    example: "- community.crypto.openssl_dhparam:\n    path: /etc/ssl/dhparams.pem\n    size: 2048\n",
    scope: Scope::Host,
    file_params: true,
    params: &[
        Param::new("path", Type::Path, "The file.").required(),
        Param::new("state", Type::Str, "Whether it should be there.")
            .choices(&["absent", "present"])
            .default("present"),
        Param::new("size", Type::Int, "Bits.").default("4096"),
        Param::new("force", Type::Bool, "Make new ones each time.").default("false"),
        Param::new("backup", Type::Bool, "Keep a copy of those that are replaced or removed.")
            .default("false"),
        Param::new("return_content", Type::Bool, "Return them too.").default("false"),
        Param::new("select_crypto_backend", Type::Str, "Has no effect: openssl is used.")
            .choices(&["auto", "cryptography", "openssl"])
            .default("auto"),
    ],
    returns: &[
        ("filename", "The file."),
        ("size", "Bits."),
        ("backup_file", "The copy of what was there."),
        ("dhparams", "The parameters, if asked for."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    path: String,
    state: String,
    size: i64,
    force: bool,
    backup: bool,
    return_content: bool,
    #[serde(flatten)]
    file: FileArgs,
}

/// Bits of parameters; `None` if they are not valid.
fn size(content: &[u8], system: &mut dyn System) -> Result<Option<i64>, ModuleError> {
    let output = Call::new(["dhparam", "-check", "-text", "-noout"]).reading(content).ask(system)?;
    if !output.success() {
        return Ok(None);
    }
    let text = output.stdout_text();
    let digits: String =
        text.split_once('(').map_or("", |(_, rest)| rest).chars().take_while(char::is_ascii_digit).collect();
    Ok(digits.parse().ok())
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let product = openssl::product(&args.path, &args.file, args.backup, 0o644, system)?;
    if args.state == "absent" {
        return product.remove(system);
    }
    let good = match &product.before {
        Some(content) if !args.force => size(content, system)? == Some(args.size),
        _ => false,
    };
    let content = match &product.before {
        Some(content) if good => content.clone(),
        _ => make(args, &product.path, system)?,
    };
    let outcome = product.put(&content, system)?.set("size", args.size);
    if args.return_content {
        return Ok(outcome.set("dhparams", String::from_utf8_lossy(&content).into_owned()));
    }
    Ok(outcome)
}

/// Makes them. Because that takes long, it is an act: a dry run gets a line that says so in their place.
fn make(args: &Args, path: &std::path::Path, system: &mut dyn System) -> Result<Vec<u8>, ModuleError> {
    let program = host::need_program("openssl", system)?;
    let command = Command::new([program, "dhparam".into(), args.size.to_string()]).c_locale();
    let intent = Intent {
        // What is noted is the file.
        kind: "",
        id: path.to_string_lossy().into_owned(),
        after: Value::map(map_of([("size", args.size)])),
        effects: vec![Effect::Path(path.into(), FileKind::File)],
        ..Intent::default()
    };
    match system.change(&command, intent)? {
        Done::Recorded => {
            Ok(format!("# parameters of {} bits that a real run makes\n", args.size).into_bytes())
        }
        Done::Made(output) if output.success() => Ok(output.stdout),
        Done::Made(output) => Err(ModuleError::command("failed to make the parameters", &command, &output)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::contract;

    #[test]
    fn parameters_are_made_once() {
        let verdict = contract(&MODULE, &[], r#"{"path": "@/dh", "size": 512}"#);
        assert_eq!((verdict.error.clone(), verdict.changed), (None, true));
        assert!(verdict.tree[0].starts_with("f dh 644 -----BEGIN DH PARAMETERS"), "{:?}", verdict.tree);
        let damaged = contract(&MODULE, &["f dh 600 x"], r#"{"path": "@/dh", "size": 512, "mode": "0640"}"#);
        assert!(damaged.changed && damaged.tree[0].starts_with("f dh 640 -----BEGIN"), "{damaged:?}");
        let gone = contract(&MODULE, &["f dh 600 x"], r#"{"path": "@/dh", "state": "absent"}"#);
        assert!(gone.changed && gone.tree.is_empty());
    }
}
