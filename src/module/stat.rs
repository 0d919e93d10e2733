//! `stat`: what is at a path.

use std::path::Path;

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Type, files, typed};
use crate::system::{Algorithm, Command, FileKind, Stat, System};
use crate::value::{Map, Value, map_of};

type Result<T> = std::result::Result<T, ModuleError>;

/// Names of digest algorithms, for parameters.
pub const ALGORITHMS: &[&str] = &["md5", "sha1", "sha224", "sha256", "sha384", "sha512"];

/// The module.
pub const MODULE: Module = Module {
    name: "ansible.builtin.stat",
    summary: "Tells what is at a path",
    description: "Returns everything that the host knows of a path: whether it exists, kind, permissions, owner, times, \
        checksum, attributes. It changes nothing.",
    example: "- name: Look at the marker\n  ansible.builtin.stat:\n    path: /var/lib/app/installed\n  register: marker\n- name: Install\n  ansible.builtin.command: /opt/app/install.sh\n  when: not marker.stat.exists\n",
    params: &[
        Param::new("path", Type::Path, "The path to look at.").required().aliases(&["dest", "name"]),
        Param::new("follow", Type::Bool, "Look at a symbolic link's target.").default("false"),
        Param::new("get_checksum", Type::Bool, "Return a checksum of a file's content.").default("true"),
        Param::new("checksum_algorithm", Type::Str, "How the checksum is computed.")
            .choices(ALGORITHMS)
            .default("sha1")
            .aliases(&["checksum", "checksum_algo"]),
        Param::new("get_mime", Type::Bool, "Return type and character set as the host's `file` tells them.")
            .default("true")
            .aliases(&["mime", "mime_type", "mime-type"]),
        Param::new("get_attributes", Type::Bool, "Return attributes as `lsattr` shows them.")
            .default("true")
            .aliases(&["attr", "attributes"]),
    ],
    returns: &[(
        "stat",
        "`exists`, and if so `path`, `isdir`, `isreg`, `islnk`, `mode`, `size`, `uid`, `gid`, `pw_name`, `gr_name`, `atime`, \
         `mtime`, `ctime`, `checksum`, `readable`, `writeable`, `executable`, `mimetype`, `attributes` and more.",
    )],
    run,
    ..Module::DEFAULT
};

#[derive(Deserialize)]
struct Args {
    path: String,
    follow: bool,
    get_checksum: bool,
    checksum_algorithm: String,
    get_mime: bool,
    get_attributes: bool,
}

fn run(args: Value, system: &mut dyn System) -> Result<Outcome> {
    let args: Args = typed(args)?;
    // A slash at the end is kept: it asks for what a link to a directory points to.
    let path = crate::module::expand_path(&args.path, system)?;
    let stat = if args.follow { system.stat_follow(&path)? } else { system.stat(&path)? };
    let Some(stat) = stat else {
        return Ok(Outcome::default().set("stat", map_of([("exists", false)])));
    };
    let mut out = values(&path, &stat);
    let mut set = |key: &str, value: Value| out.insert(Value::str(key), value);
    let readable = system.access(&path, 4)?;
    set("readable", readable.into());
    set("writeable", system.access(&path, 2)?.into());
    set("executable", system.access(&path, 1)?.into());
    if stat.kind == FileKind::Link {
        set("lnk_source", files::text_of(&system.resolve(&path)?).into());
        set("lnk_target", files::text_of(&system.read_link(&path)?).into());
    }
    if let Some(user) = system.user(&stat.uid.to_string())? {
        set("pw_name", user.name.into());
    }
    if let Some(group) = system.group(&stat.gid.to_string())? {
        set("gr_name", group.name.into());
    }
    if args.get_checksum && stat.kind == FileKind::File && readable {
        set("checksum", system.digest(&path, algorithm(&args.checksum_algorithm)?)?.into());
    }
    if args.get_mime {
        let (mimetype, charset) = mime(system, &path)?;
        set("mimetype", mimetype.into());
        set("charset", charset.into());
    }
    if args.get_attributes {
        let letters = text_attribute(system, &path, crate::system::flags::NAME).unwrap_or_default();
        let letters: String = letters.chars().filter(char::is_ascii_alphabetic).collect();
        set("version", text_attribute(system, &path, "version").into());
        set("attributes", letters.chars().filter_map(attribute_name).collect::<Vec<_>>().into());
        set("attr_flags", letters.into());
    }
    Ok(Outcome::default().set("stat", out))
}

fn text_attribute(system: &mut dyn System, path: &Path, name: &str) -> Option<String> {
    let bytes = system.extended_attribute(path, name).ok().flatten()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The algorithm that a parameter names.
///
/// # Errors
/// If there is none of that name.
pub fn algorithm(name: &str) -> Result<Algorithm> {
    Ok(match name {
        "md5" => Algorithm::Md5,
        "sha1" => Algorithm::Sha1,
        "sha224" => Algorithm::Sha224,
        "sha256" => Algorithm::Sha256,
        "sha384" => Algorithm::Sha384,
        "sha512" => Algorithm::Sha512,
        other => return Err(ModuleError::new(format!("unknown checksum algorithm {other}"))),
    })
}

/// What `stat` alone tells, under the names that `stat` and `find` return.
pub fn values(path: &Path, stat: &Stat) -> Map {
    let mut out = map_of([("exists", true)]);
    out.insert("path".into(), files::text_of(path).into());
    out.insert("mode".into(), files::mode_text(stat.mode).into());
    out.extend(map_of(
        [
            ("isdir", FileKind::Directory),
            ("ischr", FileKind::CharDevice),
            ("isblk", FileKind::BlockDevice),
            ("isreg", FileKind::File),
            ("isfifo", FileKind::Fifo),
            ("islnk", FileKind::Link),
            ("issock", FileKind::Socket),
        ]
        .map(|(key, kind)| (key, stat.kind == kind)),
    ));
    out.extend(map_of([
        ("uid", u64::from(stat.uid)),
        ("gid", u64::from(stat.gid)),
        ("size", stat.size),
        ("inode", stat.inode),
        ("dev", stat.device),
        ("nlink", stat.links),
    ]));
    out.extend(map_of([("atime", stat.atime), ("mtime", stat.mtime), ("ctime", stat.ctime)]));
    out.extend(map_of(
        [
            ("wusr", 0o200),
            ("rusr", 0o400),
            ("xusr", 0o100),
            ("wgrp", 0o020),
            ("rgrp", 0o040),
            ("xgrp", 0o010),
            ("woth", 0o002),
            ("roth", 0o004),
            ("xoth", 0o001),
            ("isuid", 0o4000),
            ("isgid", 0o2000),
        ]
        .map(|(key, bit)| (key, stat.mode & bit != 0)),
    ));
    out.extend(map_of([
        ("blocks", stat.blocks),
        ("block_size", stat.block_size),
        ("device_type", stat.device_type),
    ]));
    out
}

/// Type and character set as the host's `file` tells them.
fn mime(system: &mut dyn System, path: &Path) -> Result<(String, String)> {
    let unknown = || ("unknown".to_string(), "unknown".to_string());
    let mut command = Command::new(["file", "--mime-type", "--mime-encoding"]);
    command.argv.push(path.into());
    let Some(output) = files::try_query(system, &command)?.filter(|output| output.success()) else {
        return Ok(unknown());
    };
    let text = output.stdout_text();
    let parts = text
        .rsplit_once(':')
        .and_then(|(_, mime)| mime.split_once(';'))
        .and_then(|(kind, charset)| Some((kind.trim(), charset.split_once('=')?.1.trim())));
    Ok(parts.map_or_else(unknown, |(kind, charset)| (kind.into(), charset.into())))
}

/// The word for a letter of `lsattr`.
fn attribute_name(letter: char) -> Option<&'static str> {
    Some(match letter {
        'A' => "noatime",
        'a' => "append",
        'c' => "compressed",
        'C' => "nocow",
        'd' => "nodump",
        'D' => "dirsync",
        'e' => "extents",
        'E' => "encrypted",
        'h' => "blocksize",
        'i' => "immutable",
        'I' => "indexed",
        'j' => "journalled",
        'N' => "inline",
        's' => "zero",
        'S' => "synchronous",
        't' => "notail",
        'T' => "blockroot",
        'u' => "undelete",
        'X' => "compressedraw",
        'Z' => "compresseddirty",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::contract;

    #[test]
    fn tells_what_is_there() {
        let start = &["f x 640 text", "l l x", "d d 1777"];
        for (args, key, expected) in [
            (r#"{"path": "@/none"}"#, "exists", "False"),
            (r#"{"path": "@/x"}"#, "exists", "True"),
            (r#"{"path": "@/x"}"#, "isreg", "True"),
            (r#"{"path": "@/x"}"#, "mode", "0640"),
            (r#"{"path": "@/x"}"#, "size", "4"),
            (r#"{"path": "@/x"}"#, "rgrp", "True"),
            (r#"{"path": "@/x"}"#, "wgrp", "False"),
            (r#"{"path": "@/x"}"#, "readable", "True"),
            (r#"{"path": "@/x"}"#, "checksum", "372ea08cab33e71c02c651dbc83a474d32c676ea"),
            (
                r#"{"path": "@/x", "checksum_algo": "sha256"}"#,
                "checksum",
                "982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1",
            ),
            (r#"{"path": "@/l"}"#, "islnk", "True"),
            (r#"{"path": "@/l"}"#, "lnk_target", "x"),
            (r#"{"path": "@/l", "follow": true}"#, "isreg", "True"),
            (r#"{"path": "@/d"}"#, "isdir", "True"),
            (r#"{"path": "@/d"}"#, "mode", "1777"),
        ] {
            let verdict = contract(&MODULE, start, args);
            let stat = verdict.outcome.values.get("stat").expect("returned");
            assert_eq!(stat.get(key).map(Value::to_text).as_deref(), Some(expected), "{args} {key}");
        }
    }
}
