//! `assemble`: one file from fragments.

use std::path::Path;

use serde::Deserialize;

use crate::module::copy::Blob;
use crate::module::files::{self, FileArgs, Writing};
use crate::module::regex::{Flags, Pattern};
use crate::module::{Module, ModuleError, Outcome, Param, Type, typed};
use crate::system::digest::of_bytes;
use crate::system::{Algorithm, Content, FileKind, System};
use crate::value::Value;

type Result<T> = std::result::Result<T, ModuleError>;

/// The module.
pub const MODULE: Module = Module {
    name: "ansible.builtin.assemble",
    summary: "Builds a file from the fragments in a directory",
    description: "Joins the files of a directory in the order of their names. A fragment that lacks a newline at its end gets \
        one between it and the next. With `remote_src: false` the fragments are on the controller.",
    example: "- name: One configuration from its parts\n  ansible.builtin.assemble:\n    src: /etc/app/conf.d\n    dest: /etc/app/app.conf\n    delimiter: \"### next ###\"\n",
    params: &[
        Param::new("src", Type::Path, "The directory with the fragments.").required(),
        Param::new("dest", Type::Path, "The file to make.").required(),
        Param::new("delimiter", Type::Str, "A line between fragments; escapes such as `\\n` are understood."),
        Param::new(
            "regexp",
            Type::Str,
            "Only fragments whose name this Python regular expression is found in.",
        ),
        Param::new("ignore_hidden", Type::Bool, "Leave out names that start with a dot.").default("false"),
        Param::new("remote_src", Type::Bool, "The fragments are on the host.").default("true"),
        Param::new("backup", Type::Bool, "Keep a copy of what is replaced, with the time in its name.")
            .default("false"),
        Param::new(
            "validate",
            Type::Str,
            "A command, without a shell, that must accept the new file, which `%s` stands for.",
        ),
        Param::new("decrypt", Type::Bool, "Decrypt fragments on the controller that are vaulted.")
            .default("true"),
        Param::new("_blob", Type::Dict, ""),
    ],
    file_params: true,
    returns: &[
        ("dest", "The file."),
        ("src", "The directory with the fragments."),
        ("checksum", "SHA-1 of the file."),
        ("backup_file", "The copy that was kept."),
    ],
    run,
    ..Module::DEFAULT
};

#[derive(Deserialize)]
struct Args {
    src: String,
    dest: String,
    delimiter: Option<String>,
    regexp: Option<String>,
    ignore_hidden: bool,
    backup: bool,
    validate: Option<String>,
    #[serde(rename = "_blob")]
    blob: Option<Blob>,
    #[serde(flatten)]
    file: FileArgs,
}

fn run(args: Value, system: &mut dyn System) -> Result<Outcome> {
    let args: Args = typed(args)?;
    let dest = files::path_arg(system, &args.dest)?;
    let (content, sha256) = match &args.blob {
        Some(blob) => (blob.content(), blob.sha256().to_string()),
        None => {
            let src = files::path_arg(system, &args.src)?;
            match system.stat_follow(&src)? {
                Some(stat) if stat.kind == FileKind::Directory => {}
                Some(_) => {
                    return Err(ModuleError::new(format!("Source ({}) is not a directory", src.display())));
                }
                None => {
                    if let Some(outcome) = files::uncertain(system, &dest) {
                        return Ok(outcome);
                    }
                    return Err(ModuleError::new(format!("Source ({}) does not exist", src.display())));
                }
            }
            let bytes = join(system, &args, &src)?;
            let digest = of_bytes(Algorithm::Sha256, &bytes);
            (Content::Bytes(bytes), digest)
        }
    };
    let stat = system.stat_follow(&dest)?;
    let same = stat.as_ref().is_some_and(|stat| stat.kind == FileKind::File)
        && system.digest(&dest, Algorithm::Sha256)? == sha256;
    let mut outcome = Outcome::default().set("src", args.src.as_str()).set("msg", "OK");
    if same {
        args.file.apply(system, &dest, true)?;
    } else {
        let writing = Writing {
            args: &args.file,
            backup: args.backup,
            validate: args.validate.as_deref(),
            source_mode: None,
            secret: false,
        };
        if let Some(backup) = files::put(system, &dest, &content, &writing)? {
            outcome = outcome.set("backup_file", backup);
        }
    }
    outcome = outcome.set("checksum", system.digest(&dest, Algorithm::Sha1)?);
    files::finish(system, outcome, &dest, "dest", Some(sha256))
}

fn join(system: &mut dyn System, args: &Args, src: &Path) -> Result<Vec<u8>> {
    let pattern = args.regexp.as_deref().map(|text| Pattern::new(text, Flags::default())).transpose()?;
    let delimiter = args.delimiter.as_deref().filter(|text| !text.is_empty()).map(unescape);
    let mut out = Vec::new();
    let mut first = true;
    for name in system.list(src)? {
        let text = name.to_string_lossy();
        if args.ignore_hidden && text.starts_with('.') {
            continue;
        }
        if let Some(pattern) = &pattern
            && !pattern.is_match(&text)?
        {
            continue;
        }
        let path = src.join(&name);
        if !system.stat_follow(&path)?.is_some_and(|stat| stat.kind == FileKind::File) {
            continue;
        }
        if !first {
            if !out.is_empty() && !out.ends_with(b"\n") {
                out.push(b'\n');
            }
            if let Some(delimiter) = &delimiter {
                out.extend_from_slice(delimiter);
                if !delimiter.ends_with(b"\n") {
                    out.push(b'\n');
                }
            }
        }
        out.extend(system.read(&path)?);
        first = false;
    }
    Ok(out)
}

/// Bytes with the escapes of a Python byte string replaced.
fn unescape(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let next = bytes.get(at + 1).copied();
        let (byte, length) = match (bytes[at], next) {
            (b'\\', Some(b'n')) => (b'\n', 2),
            (b'\\', Some(b't')) => (b'\t', 2),
            (b'\\', Some(b'r')) => (b'\r', 2),
            (b'\\', Some(b'\\')) => (b'\\', 2),
            (b'\\', Some(quote @ (b'\'' | b'"'))) => (quote, 2),
            (b'\\', Some(b'x')) => {
                let code = text.get(at + 2..at + 4).and_then(|hex| u8::from_str_radix(hex, 16).ok());
                code.map_or((b'\\', 1), |code| (code, 4))
            }
            (byte, _) => (byte, 1),
        };
        out.push(byte);
        at += length;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::contract;

    #[test]
    fn joins_fragments() {
        let start = &[
            "d d 755",
            "f d/1 644 one",
            "f d/2 644 two\n",
            "f d/3 644 three",
            "d d/s 755",
            "f d/.h 644 h\n",
        ];
        for (args, expected) in [
            ("", "h\none\ntwo\nthree"),
            (r#", "ignore_hidden": true"#, "one\ntwo\nthree"),
            (r#", "regexp": "^[12]$", "delimiter": "--""#, "one\n--\ntwo\n"),
            (r#", "regexp": "^[12]$", "delimiter": "\\x41\\n""#, "one\nA\ntwo\n"),
            (r#", "_blob": "blob:ready", "remote_src": false"#, "ready"),
        ] {
            let verdict = contract(
                &MODULE,
                start,
                &format!(r#"{{"src": "@/d", "dest": "@/out", "mode": "0600"{args}}}"#),
            );
            assert_eq!(verdict.error, None, "{args}");
            assert!(verdict.tree.contains(&format!("f out 600 {expected}")), "{args}: {:?}", verdict.tree);
        }
        let verdict = contract(&MODULE, &[], r#"{"src": "@/d", "dest": "@/out"}"#);
        assert_eq!(verdict.error.as_deref(), Some("Source (@/d) does not exist"));
    }
}
