//! `slurp`: the content of a file, as a return value.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Type, files, typed};
use crate::system::{FileKind, System, SystemError};
use crate::value::Value;

/// The module.
pub const MODULE: Module = Module {
    name: "ansible.builtin.slurp",
    summary: "Returns the content of a file of a host",
    description: "The content comes in base64, so that it may be anything: decode it with the filter `b64decode`. For large \
        files use `fetch`, which does not hold them in memory.",
    example: "- name: Which key did the host make?\n  ansible.builtin.slurp:\n    src: /etc/app/public.key\n  register: key\n- ansible.builtin.debug:\n    msg: \"{{ key.content | b64decode }}\"\n",
    params: &[Param::new("src", Type::Path, "The file.").required().aliases(&["path"])],
    returns: &[
        ("content", "The content, in base64."),
        ("encoding", "Always `base64`."),
        ("source", "The path of the file."),
    ],
    run,
    ..Module::DEFAULT
};

#[derive(Deserialize)]
struct Args {
    src: String,
}

fn run(args: Value, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let args: Args = typed(args)?;
    let path = files::path_arg(system, &args.src)?;
    let readable = |error: SystemError| {
        ModuleError::new(if error.errno() == Some(libc::EACCES) {
            format!("File is not readable: {}", path.display())
        } else {
            format!("Unable to slurp file: {error}")
        })
    };
    match system.stat_follow(&path).map_err(readable)? {
        None => {
            if let Some(outcome) = files::uncertain(system, &path) {
                return Ok(Outcome { changed: None, ..outcome });
            }
            let parent = system.stat_follow(&files::parent_of(&path)).ok().flatten();
            let inside_file = parent.is_some_and(|parent| parent.kind != FileKind::Directory);
            return Err(ModuleError::new(if inside_file {
                format!("Unable to slurp file: {} is below a file", path.display())
            } else {
                format!("File not found: {}", path.display())
            }));
        }
        Some(stat) if stat.kind == FileKind::Directory => {
            return Err(ModuleError::new(format!(
                "Source is a directory and must be a file: {}",
                path.display()
            )));
        }
        Some(_) => {}
    }
    let content = system.read(&path).map_err(readable)?;
    Ok(Outcome::default()
        .set("content", STANDARD.encode(content))
        .set("encoding", "base64")
        .set("source", files::text_of(&path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::contract;

    #[test]
    fn returns_content() {
        let verdict = contract(&MODULE, &["f x 600 a\nb"], r#"{"path": "@/x"}"#);
        assert_eq!(verdict.text("content"), "YQpi");
        let verdict = contract(&MODULE, &[], r#"{"src": "@/x"}"#);
        assert_eq!(verdict.error.as_deref(), Some("File not found: @/x"));
        let verdict = contract(&MODULE, &["f x 600 a"], r#"{"src": "@/x/y"}"#);
        assert_eq!(verdict.error.as_deref(), Some("Unable to slurp file: @/x/y is below a file"));
        let verdict = contract(&MODULE, &["d x 755"], r#"{"src": "@/x"}"#);
        assert_eq!(verdict.error.as_deref(), Some("Source is a directory and must be a file: @/x"));
    }
}
