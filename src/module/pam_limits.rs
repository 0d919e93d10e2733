//! `pam_limits`: resource limits of logins.

use serde::Deserialize;

use crate::module::files::{self, FileArgs, Writing};
use crate::module::regex::Coding;
use crate::module::{Module, ModuleError, Outcome, Param, Type, typed};
use crate::system::{Content, FileKind, System};
use crate::value::Value;

type Result<T> = std::result::Result<T, ModuleError>;

/// The module.
pub const MODULE: Module = Module {
    name: "community.general.pam_limits",
    summary: "Sets limits of resources in limits.conf",
    description: "Sets one limit of one domain, and leaves the rest of the file as it is. The limit holds from the next login.",
    example: "- name: Many open files for the database\n  community.general.pam_limits:\n    domain: postgres\n    limit_type: hard\n    limit_item: nofile\n    value: \"65536\"\n",
    params: &[
        Param::new("domain", Type::Str, "An account, `@group`, a wildcard, or a range of numbers.")
            .required(),
        Param::new("limit_type", Type::Str, "Which limit.").choices(&["hard", "soft", "-"]).required(),
        Param::new("limit_item", Type::Str, "What is limited.")
            .choices(&[
                "core",
                "data",
                "fsize",
                "memlock",
                "nofile",
                "rss",
                "stack",
                "cpu",
                "nproc",
                "as",
                "maxlogins",
                "maxsyslogins",
                "priority",
                "locks",
                "sigpending",
                "msgqueue",
                "nice",
                "rtprio",
                "chroot",
            ])
            .required(),
        Param::new("value", Type::Str, "A number, or `unlimited`, `infinity`, `-1`.").required(),
        Param::new("use_max", Type::Bool, "Keep a limit that is higher.").default("false"),
        Param::new("use_min", Type::Bool, "Keep a limit that is lower.").default("false"),
        Param::new("dest", Type::Str, "The file.").default("/etc/security/limits.conf"),
        Param::new("comment", Type::Str, "A comment at the end of the line.").default(""),
        Param::new("backup", Type::Bool, "Keep a copy of what is replaced, with the time in its name.")
            .default("false"),
    ],
    returns: &[("msg", "The line."), ("backup_file", "The copy that was kept.")],
    run,
    ..Module::DEFAULT
};

#[derive(Deserialize)]
struct Args {
    domain: String,
    limit_type: String,
    limit_item: String,
    value: String,
    use_max: bool,
    use_min: bool,
    dest: String,
    comment: String,
    backup: bool,
}

fn run(args: Value, system: &mut dyn System) -> Result<Outcome> {
    let args: Args = typed(args)?;
    if args.use_max && args.use_min {
        return Err(ModuleError::new("Cannot use use_min and use_max at the same time."));
    }
    if !is_limit(&args.value, &args.limit_item) {
        return Err(ModuleError::new(
            "Argument 'value' must be a number, or one of 'unlimited', 'infinity', '-1'.",
        ));
    }
    let path = files::path_arg(system, &args.dest)?;
    let there = system.stat_follow(&path)?.is_some();
    let parent = files::parent_of(&path);
    let has_parent = system.stat_follow(&parent)?.is_some_and(|stat| stat.kind == FileKind::Directory);
    if !there && !has_parent {
        if let Some(outcome) = files::uncertain(system, &path) {
            return Ok(outcome);
        }
        return Err(ModuleError::new(format!(
            "directory {} is not writable (check presence, access rights, use sudo)",
            parent.display()
        )));
    }
    let before = if there { Some(system.read(&path)?) } else { None };
    let (coding, text) = Coding::decode(before.clone().unwrap_or_default());
    let (after, message) = edit(&args, &text);
    let mut outcome = Outcome::default().set("msg", message);
    if before.is_none() || after != text {
        let plain = FileArgs::default();
        let writing = Writing { backup: args.backup, ..Writing::plain(&plain) };
        let real = system.resolve(&path)?;
        if let Some(backup) = files::put(system, &real, &Content::Bytes(coding.encode(after)), &writing)? {
            outcome = outcome.set("backup_file", backup);
        }
    }
    let stat = system.stat(&path)?;
    files::record(system, &path, stat.as_ref(), None)?;
    Ok(outcome)
}

fn is_unlimited(value: &str) -> bool {
    matches!(value, "unlimited" | "infinity" | "-1")
}

fn is_limit(value: &str, item: &str) -> bool {
    let number = value.parse::<i64>();
    let signed = matches!(item, "nice" | "priority");
    is_unlimited(value) || number.is_ok_and(|number| number >= 0 || signed)
}

/// The value that is to be set where there is another.
fn wanted(args: &Args, actual: &str) -> String {
    if !args.use_max && !args.use_min {
        return args.value.clone();
    }
    let rank = |value: &str| if is_unlimited(value) { i64::MAX } else { value.parse().unwrap_or(0) };
    let keep =
        if args.use_max { rank(actual) >= rank(&args.value) } else { rank(actual) <= rank(&args.value) };
    if keep { actual.into() } else { args.value.clone() }
}

fn edit(args: &Args, text: &str) -> (String, String) {
    let given = if args.comment.is_empty() { String::new() } else { format!("\t#{}", args.comment) };
    let line = |value: &str, comment: &str| {
        format!("{}\t{}\t{}\t{value}{comment}\n", args.domain, args.limit_type, args.limit_item)
    };
    let mut message = None;
    let mut out = String::with_capacity(text.len() + 64);
    for old in text.split_inclusive('\n') {
        let (limit, comment) = match old.trim_end().split_once('#') {
            Some((limit, comment)) => (limit, format!("\t#{comment}")),
            None => (old, String::new()),
        };
        let words: Vec<&str> = limit.split_whitespace().collect();
        let same = words.len() == 4 && words[..3] == [&args.domain, &args.limit_type, &args.limit_item];
        if !same {
            out.push_str(old);
            continue;
        }
        let value = wanted(args, words[3]);
        let comment = if given.is_empty() { &comment } else { &given };
        message = Some(line(&value, comment));
        if value == words[3] {
            out.push_str(old);
        } else {
            out.push_str(&line(&value, comment));
        }
    }
    let message = message.unwrap_or_else(|| {
        if !out.is_empty() && !out.ends_with('\n') {
            out.push('\n');
        }
        let new = line(&args.value, &given);
        out.push_str(&new);
        new
    });
    (out, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::contract;

    #[test]
    fn sets_limits() {
        let base = r#""domain": "db", "limit_type": "hard", "limit_item": "nofile", "dest": "@/x""#;
        let old = "f x 644 # c\ndb  hard nofile 100 # note\n@g soft core 0\n";
        for (start, args, expected) in [
            (old, r#""value": "200""#, "f x 644 # c\ndb\thard\tnofile\t200\t# note\n@g soft core 0\n"),
            (old, r#""value": "100""#, "f x 644 # c\ndb  hard nofile 100 # note\n@g soft core 0\n"),
            (
                old,
                r#""value": "50", "use_max": true"#,
                "f x 644 # c\ndb  hard nofile 100 # note\n@g soft core 0\n",
            ),
            (
                old,
                r#""value": "unlimited", "use_max": true"#,
                "f x 644 # c\ndb\thard\tnofile\tunlimited\t# note\n@g soft core 0\n",
            ),
            ("f x 644 # c", r#""value": "5", "comment": "why""#, "f x 644 # c\ndb\thard\tnofile\t5\t#why\n"),
            ("d y 755", r#""value": "5""#, "f x 644 db\thard\tnofile\t5\n"),
        ] {
            let verdict = contract(&MODULE, &[start], &format!("{{{base}, {args}}}"));
            assert_eq!(verdict.error, None, "{args}");
            assert!(verdict.tree.contains(&expected.to_string()), "{args}: {:?}", verdict.tree);
        }
        let verdict = contract(&MODULE, &[], &format!(r#"{{{base}, "value": "many"}}"#));
        assert!(verdict.error.expect("fails").starts_with("Argument 'value'"));
    }
}
