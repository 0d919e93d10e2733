//! `tempfile`: a fresh file or directory with a name that nobody else has.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Type, files, typed};
use crate::system::{Attributes, Content, System, WriteOptions};
use crate::value::Value;

/// The module.
pub const MODULE: Module = Module {
    name: "ansible.builtin.tempfile",
    summary: "Makes a temporary file or directory",
    description: "It belongs to the user that the task runs as, and nobody else may read it. It is not removed at the end: do \
        that with `file`. The task reports a change each time.",
    example: "- name: A place to build in\n  ansible.builtin.tempfile:\n    state: directory\n    suffix: build\n  register: build\n",
    params: &[
        Param::new("state", Type::Str, "What to make.").choices(&["directory", "file"]).default("file"),
        Param::new("path", Type::Path, "Where; by default `$TMPDIR`, else `/tmp`."),
        Param::new("prefix", Type::Str, "What the name starts with.").default("ansible."),
        Param::new("suffix", Type::Str, "What the name ends with.").default(""),
    ],
    returns: &[("path", "The path that was made."), ("state", "`file` or `directory`.")],
    run,
    ..Module::DEFAULT
};

#[derive(Deserialize)]
struct Args {
    state: String,
    path: Option<String>,
    prefix: String,
    suffix: String,
}

fn run(args: Value, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let args: Args = typed(args)?;
    for (what, part) in [("prefix", &args.prefix), ("suffix", &args.suffix)] {
        if part.contains(['/', '\0']) {
            return Err(ModuleError::new(format!(
                "{what} must be a valid file name component, without slashes: {part}"
            )));
        }
    }
    let directory = match &args.path {
        Some(path) => files::path_arg(system, path)?,
        None => system.env("TMPDIR").filter(|path| !path.is_empty()).map_or("/tmp".into(), PathBuf::from),
    };
    let mut path = directory.join(name(&args));
    while system.stat(&path)?.is_some() {
        path = directory.join(name(&args));
    }
    let private = |mode| Attributes { mode: Some(mode), ..Attributes::default() };
    if args.state == "directory" {
        system.make_dir(&path, &private(0o700))?;
    } else {
        let nothing = Content::Bytes(Vec::new());
        system.write(&path, &nothing, &private(0o600), WriteOptions::default())?;
    }
    let stat = system.stat(&path)?;
    let mut outcome = Outcome::default().set("path", files::text_of(&path));
    if let Some(stat) = &stat {
        outcome.values.extend(files::common_values(system, &path, stat)?);
    }
    Ok(outcome)
}

/// Eight characters that can't be guessed: the hasher's keys come from the system's random numbers.
fn name(args: &Args) -> String {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789_";
    let mut number = RandomState::new().build_hasher().finish();
    let mut random = String::new();
    for _ in 0..8 {
        #[expect(clippy::cast_possible_truncation, reason = "smaller than the number of letters")]
        random.push(char::from(LETTERS[(number % LETTERS.len() as u64) as usize]));
        number /= LETTERS.len() as u64;
    }
    format!("{}{random}{}", args.prefix, args.suffix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::contract_once;

    #[test]
    fn a_place_stays_in_its_directory() {
        for args in
            [r#"{"path": "@", "prefix": "../x"}"#, r#"{"path": "@", "suffix": "/x", "state": "directory"}"#]
        {
            let error = contract_once(&MODULE, &["d sub 755"], args).error.unwrap_or_default();
            assert!(error.contains("must be a valid file name component"), "{error}");
        }
    }

    #[test]
    fn makes_private_places() {
        for (args, expected) in [
            (r#"{"path": "@", "suffix": ".x"}"#, ("f ansible.", ".x 600 ")),
            (r#"{"path": "@", "state": "directory", "prefix": "p"}"#, ("d p", " 700")),
        ] {
            let verdict = contract_once(&MODULE, &[], args);
            assert!(verdict.changed);
            let [line] = &verdict.tree[..] else { panic!("one path expected: {:?}", verdict.tree) };
            assert!(line.starts_with(expected.0) && line.ends_with(expected.1), "{line}");
        }
    }
}
