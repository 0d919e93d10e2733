//! `acl`: access control lists of files.

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Type, files, typed};
use crate::system::{Command, Intent, System};
use crate::value::{Value, map_of};

type Result<T> = std::result::Result<T, ModuleError>;

/// The module.
pub const MODULE: Module = Module {
    name: "ansible.posix.acl",
    summary: "Sets and reads access control lists of files",
    description: "Adds or removes one entry of a path's list, or reads the list. The host needs `getfacl` and `setfacl`.",
    example: "- name: The web server may read the logs\n  ansible.posix.acl:\n    path: /var/log/app\n    entity: www-data\n    etype: user\n    permissions: rx\n    state: present\n",
    params: &[
        Param::new("path", Type::Path, "The file or directory.").required().aliases(&["name"]),
        Param::new("state", Type::Str, "Add the entry, remove it, or only read the list.")
            .choices(&["absent", "present", "query"])
            .default("query"),
        Param::new("etype", Type::Str, "Whom the entry is for.").choices(&["group", "mask", "other", "user"]),
        Param::new("entity", Type::Str, "Name of the account or group.").default(""),
        Param::new("permissions", Type::Str, "Some of `r`, `w`, `x`, `X`, `-`."),
        Param::new(
            "entry",
            Type::Str,
            "The whole entry in one, such as `user:web:rx`, in place of the three above.",
        ),
        Param::new("default", Type::Bool, "The entry is for what is made in the directory.").default("false"),
        Param::new("recursive", Type::Bool, "Set it on everything below too.")
            .default("false")
            .aliases(&["recurse"]),
        Param::new("follow", Type::Bool, "A symbolic link stands for its target.").default("true"),
        Param::new("recalculate_mask", Type::Str, "Whether the mask is computed anew.")
            .choices(&["default", "mask", "no_mask"])
            .default("default"),
        Param::new("use_nfsv4_acls", Type::Bool, "Lists as NFSv4 has them; not supported.").default("false"),
    ],
    returns: &[("acl", "The list, entry by entry.")],
    run,
    ..Module::DEFAULT
};

#[derive(Deserialize)]
struct Args {
    path: String,
    state: String,
    etype: Option<String>,
    entity: String,
    permissions: Option<String>,
    entry: Option<String>,
    default: bool,
    recursive: bool,
    follow: bool,
    recalculate_mask: String,
    use_nfsv4_acls: bool,
}

fn run(args: Value, system: &mut dyn System) -> Result<Outcome> {
    let mut args: Args = typed(args)?;
    if args.use_nfsv4_acls {
        return Err(ModuleError::new("use_nfsv4_acls is not supported: only POSIX lists are"));
    }
    check(&args)?;
    let path = files::path_arg(system, &args.path)?;
    if system.stat_follow(&path)?.is_none() {
        if let Some(outcome) = files::uncertain(system, &path) {
            return Ok(outcome);
        }
        return Err(ModuleError::new("Path not found or not accessible."));
    }
    let text = files::text_of(&path);
    if args.state == "query" {
        return Ok(Outcome::default().set("msg", "current acl").set("acl", list(system, &text, &args)?));
    }
    if let Some(entry) = args.entry.take() {
        split_entry(&mut args, &entry)?;
    }
    let entry = entry(&args);
    let mut set = Command::new(["setfacl"]).c_locale();
    match args.recalculate_mask.as_str() {
        "mask" => set.argv.push("--mask".into()),
        "no_mask" => set.argv.push("--no-mask".into()),
        _ => {}
    }
    if args.recursive {
        set.argv.push("--recursive".into());
    }
    if !args.follow {
        set.argv.push("--physical".into());
    }
    if args.default {
        set.argv.push("--default".into());
    }
    let how = if args.state == "present" { "--modify" } else { "--remove" };
    set.argv.extend([format!("{how}={entry}").into(), text.clone().into()]);
    let mut test = set.clone();
    test.argv.insert(1, "--test".into());
    let Some(output) = files::try_query(system, &test)? else {
        if let Some(outcome) = files::uncertain(system, &path) {
            return Ok(outcome);
        }
        return Err(ModuleError::new("Failed to find required executable \"setfacl\" in paths"));
    };
    if !output.success() {
        return Err(ModuleError::command("setfacl refuses the entry", &test, &output));
    }
    // What stays as it is ends in `*,*`: neither list changes.
    let changes =
        output.stdout_text().lines().any(|line| !line.trim().is_empty() && !line.trim_end().ends_with("*,*"));
    if changes {
        let before = list(system, &text, &args)?;
        let intent = Intent {
            kind: "acl",
            id: text.clone(),
            before: map_of([("acl", before)]).into(),
            after: map_of([(how.trim_start_matches('-'), entry.as_str())]).into(),
            ..Intent::default()
        };
        let output = system.change(&set, intent)?.output();
        if !output.success() {
            return Err(ModuleError::command("setfacl failed", &set, &output));
        }
    }
    let message =
        if args.state == "present" { format!("{entry} is present") } else { format!("{entry} is absent") };
    Ok(Outcome::default().set("msg", message).set("acl", list(system, &text, &args)?))
}

fn check(args: &Args) -> Result<()> {
    let message = if args.entry.is_some() {
        if args.etype.is_some() || !args.entity.is_empty() || args.permissions.is_some() {
            "'entry' MUST NOT be set when 'entity', 'etype' or 'permissions' are set."
        } else if args.state == "query" {
            "'entry' MUST NOT be set when 'state=query'."
        } else {
            return Ok(());
        }
    } else if args.state == "query" {
        return Ok(());
    } else if args.etype.is_none() {
        "'etype' MUST be set when 'state=present' or 'state=absent' and 'entry' is not."
    } else if args.state == "present" && args.permissions.is_none() {
        "'permissions' MUST be set when 'state=present'."
    } else if args.state == "absent" && args.permissions.is_some() {
        "'permissions' MUST NOT be set when 'state=absent'."
    } else {
        return Ok(());
    };
    Err(ModuleError::new(message))
}

/// Takes `[default:]type:entity[:permissions]` apart.
fn split_entry(args: &mut Args, entry: &str) -> Result<()> {
    let mut parts: Vec<&str> = entry.split(':').collect();
    if matches!(parts.first(), Some(first) if first.eq_ignore_ascii_case("default") || *first == "d") {
        args.default = true;
        parts.remove(0);
    }
    let wrong = || ModuleError::new(format!("'entry' MUST have 2 or 3 sections divided by ':': {entry}"));
    let kind = match parts.first().map(|kind| kind.to_ascii_lowercase()).as_deref() {
        Some("u" | "user") => "user",
        Some("g" | "group") => "group",
        Some("m" | "mask") => "mask",
        Some("o" | "other") => "other",
        _ => return Err(wrong()),
    };
    args.etype = Some(kind.into());
    match parts[1..] {
        [entity] => args.entity = entity.into(),
        [entity, permissions] => {
            args.entity = entity.into();
            if args.state == "present" {
                args.permissions = Some(permissions.into());
            }
        }
        _ => return Err(wrong()),
    }
    if args.state == "present" && args.permissions.is_none() {
        return Err(wrong());
    }
    Ok(())
}

fn entry(args: &Args) -> String {
    let kind = args.etype.as_deref().unwrap_or_default();
    let permissions = args.permissions.as_ref().map(|bits| format!(":{bits}")).unwrap_or_default();
    format!("{kind}:{}{permissions}", args.entity)
}

/// The list of a path.
fn list(system: &mut dyn System, path: &str, args: &Args) -> Result<Vec<String>> {
    let mut get = Command::new(["getfacl", "--omit-header", "--absolute-names"]).c_locale();
    if args.recursive {
        get.argv.push("--recursive".into());
    }
    if !args.follow {
        get.argv.push("--physical".into());
    }
    get.argv.push(path.into());
    let output = files::try_query(system, &get)?
        .ok_or_else(|| ModuleError::new("Failed to find required executable \"getfacl\" in paths"))?;
    if !output.success() {
        return Err(ModuleError::command("getfacl failed", &get, &output));
    }
    let text = output.stdout_text();
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_string).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::Output;
    use crate::system::fake::Fake;

    fn machine(test: &str) -> Fake {
        Fake::new()
            .with_file("/srv/x", "")
            .with_command_prefix(&["getfacl"], Output::ok("user::rw-\nuser:joe:r--\n\n"))
            .with_command_prefix(&["setfacl"], Output::ok(""))
            .with_command_prefix(&["setfacl", "--test"], Output::ok(test))
    }

    #[test]
    fn sets_what_differs() {
        for (test, args, expected) in [
            (
                "/srv/x: *,*\n",
                r#""etype": "user", "entity": "joe", "permissions": "r", "state": "present""#,
                None,
            ),
            (
                "/srv/x: u::rw-,u:joe:r--,*\n",
                r#""etype": "user", "entity": "joe", "permissions": "r", "state": "present""#,
                Some("setfacl --modify=user:joe:r /srv/x"),
            ),
            (
                "/srv/x: u::rw-,*\n",
                r#""entry": "default:user:joe:rw-", "state": "absent", "recursive": true"#,
                Some("setfacl --recursive --default --remove=user:joe /srv/x"),
            ),
            ("", r#""state": "query""#, None),
        ] {
            let mut fake = machine(test);
            let given: Value =
                serde_json::from_str(&format!(r#"{{"path": "/srv/x", {args}}}"#)).expect("JSON");
            let outcome = call(&MODULE, &given, &mut fake).expect("works");
            let acl = outcome.values.get("acl").map(Value::repr);
            assert_eq!(acl.as_deref(), Some("['user::rw-', 'user:joe:r--']"), "{args}");
            let acted =
                fake.log().iter().find(|line| line.contains("setfacl") && !line.contains("--test")).cloned();
            assert_eq!(acted.as_deref().map(|line| line.trim_start_matches("! ")), expected, "{args}");
        }
        let given: Value =
            serde_json::from_str(r#"{"path": "/srv/x", "state": "present", "etype": "user"}"#).expect("JSON");
        let error = call(&MODULE, &given, &mut machine("")).expect_err("fails");
        assert_eq!(error, "'permissions' MUST be set when 'state=present'.");
    }
}
