//! `mount`: file systems, now and in `/etc/fstab`.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, args, files, host, typed};
use crate::system::{Applied, Attributes, Command, Done, Effect, FileKind, Intent, Output, System};
use crate::value::{Value, map_of};

/// Manages mounts.
pub const MODULE: Module = Module {
    name: "ansible.posix.mount",
    summary: "Mount and unmount file systems, and keep /etc/fstab",
    description: "`present` keeps the entry only; `mounted` mounts too, and mounts again if the entry changed; if \
        that fails the entry is put back. `ephemeral` mounts without an entry. What is mounted is read from the \
        kernel.",
    example: "- ansible.posix.mount:\n    path: /srv/data\n    src: LABEL=data\n    fstype: ext4\n    opts: noatime\n    state: mounted\n",
    scope: Scope::Host,
    params: &[
        Param::new("path", Type::Path, "Where it is mounted; `none` for swap.").required().aliases(&["name"]),
        Param::new("state", Type::Str, "What should be.").required().choices(&[
            "absent",
            "absent_from_fstab",
            "mounted",
            "present",
            "unmounted",
            "remounted",
            "ephemeral",
        ]),
        Param::new("src", Type::Path, "What is mounted: a device, `UUID=…`, `host:/path`, …"),
        Param::new("fstype", Type::Str, "Kind of file system."),
        Param::new("opts", Type::Str, "Options."),
        Param::new("dump", Type::Str, "Whether it is dumped.").default("0"),
        Param::new("passno", Type::Str, "When it is checked at boot.").default("0"),
        Param::new("fstab", Type::Str, "Another file than `/etc/fstab`."),
        Param::new("boot", Type::Bool, "Mount it at boot; else `noauto` is added to the options.")
            .default("true"),
        Param::new("backup", Type::Bool, "Keep a copy of the file before it is changed.").default("false"),
        Param::new("opts_no_log", Type::Bool, "The options hold secrets.").default("false"),
    ],
    rules: &[
        Rule::RequiredIf { param: "state", value: "mounted", needs: &["src", "fstype"], any: false },
        Rule::RequiredIf { param: "state", value: "present", needs: &["src", "fstype"], any: false },
        Rule::RequiredIf { param: "state", value: "ephemeral", needs: &["src", "fstype"], any: false },
    ],
    returns: &[
        ("name", "Where it is mounted."),
        ("src", "What is mounted."),
        ("fstype", "Kind of file system."),
        ("opts", "Options."),
        ("fstab", "The file."),
        ("backup_file", "Copy of the file, if one was made."),
    ],
    run: |args, system| run(typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    path: String,
    state: String,
    src: Option<String>,
    fstype: Option<String>,
    opts: Option<String>,
    dump: String,
    passno: String,
    fstab: Option<String>,
    boot: bool,
    backup: bool,
    opts_no_log: bool,
}

impl Args {
    fn opts(&self) -> &str {
        self.opts.as_deref().unwrap_or("defaults")
    }

    fn fstab(&self) -> &str {
        self.fstab.as_deref().unwrap_or("/etc/fstab")
    }
}

/// Blanks and the like in a field of the table.
fn escape(text: &str) -> String {
    text.replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011").replace('&', "\\046")
}

/// An entry of the table: six fields, the last two with their defaults filled in.
fn fields(line: &str) -> Option<[String; 6]> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let words: Vec<&str> = line.split('#').next()?.split_whitespace().collect();
    if !(4..=6).contains(&words.len()) {
        return None;
    }
    let word = |index: usize| words.get(index).map_or_else(|| "0".to_string(), ToString::to_string);
    Some([word(0), word(1), word(2), word(3), word(4), word(5)])
}

fn is_entry(args: &Args, entry: &[String; 6]) -> bool {
    let is_other_swap = entry[1] == "none"
        && entry[2] == "swap"
        && args.src.as_deref().is_some_and(|src| escape(src) != entry[0]);
    entry[1] == escape(&args.path) && !is_other_swap
}

/// The table with the entry put in.
fn with_entry(args: &Args, text: &str) -> String {
    let wanted = [
        escape(args.src.as_deref().unwrap_or_default()),
        escape(&args.path),
        escape(args.fstype.as_deref().unwrap_or_default()),
        escape(args.opts()),
        escape(&args.dump),
        escape(&args.passno),
    ];
    let mut lines: Vec<String> = Vec::new();
    let mut found = false;
    for line in text.lines() {
        match fields(line) {
            Some(entry) if is_entry(args, &entry) => {
                found = true;
                lines.push(if entry == wanted { line.to_string() } else { wanted.join(" ") });
            }
            _ => lines.push(line.to_string()),
        }
    }
    if !found {
        lines.push(wanted.join(" "));
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn without_entry(args: &Args, text: &str) -> String {
    let keeps = |line: &&str| fields(line).is_none_or(|entry| !is_entry(args, &entry));
    text.lines().filter(keeps).map(|line| format!("{line}\n")).collect()
}

/// What the kernel says is mounted at a path, the last one first: source and root within it.
fn mounted(path: &str, system: &mut dyn System) -> Option<String> {
    let text = host::read_text("/proc/self/mountinfo", system).unwrap_or_default();
    let plain = |text: &str| text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\");
    text.lines().rev().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let target = left.split(' ').nth(4)?;
        (plain(target) == path).then(|| plain(right.split(' ').nth(1).unwrap_or_default()))
    })
}

fn run(mut args: Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let mut warnings = Vec::new();
    if args.path != "none" {
        let path = args::expand_path(&args.path, system)?.to_string_lossy().into_owned();
        args.path = if path.len() > 1 { path.trim_end_matches('/').to_string() } else { path };
    }
    let has_noauto = args.opts().split(',').any(|option| option == "noauto");
    if args.boot && has_noauto {
        warnings.push("Ignore the 'boot' due to 'opts' contains 'noauto'.".to_string());
    } else if !args.boot && !has_noauto {
        args.opts = Some(format!("{},noauto", args.opts()));
    }
    let args = &args;
    let mut outcome = Outcome { warnings, ..Outcome::default() }
        .set("name", args.path.as_str())
        .set("src", args.src.clone())
        .set("fstype", args.fstype.clone())
        .set("opts", args.opts())
        .set("dump", args.dump.as_str())
        .set("passno", args.passno.as_str())
        .set("fstab", args.fstab())
        .set("boot", if args.boot { "yes" } else { "no" });
    if let Some(copy) = bring(args, system)? {
        outcome = outcome.set("backup_file", copy);
    }
    let state = match args.state.as_str() {
        "absent" | "absent_from_fstab" | "unmounted" => Value::Null,
        _ => map_of([
            ("src", args.src.clone()),
            ("fstype", args.fstype.clone()),
            ("opts", (!args.opts_no_log).then(|| args.opts().to_string())),
        ])
        .into(),
    };
    system.applied(Applied { kind: "mount".into(), id: args.path.clone(), state });
    Ok(outcome)
}

/// Writes the table if it differs; returns where a copy of the old one is.
fn write_table(args: &Args, text: &str, system: &mut dyn System) -> Result<Option<String>, ModuleError> {
    let path = Path::new(args.fstab());
    let there = system.stat_follow(path)?.is_some();
    if there && system.read(path)? == text.as_bytes() {
        return Ok(None);
    }
    let copy = if args.backup && there { Some(files::back_up(system, path)?) } else { None };
    host::write_text(path, text, 0o644, system)?;
    Ok(copy)
}

fn bring(args: &Args, system: &mut dyn System) -> Result<Option<String>, ModuleError> {
    let table = host::read_text(args.fstab(), system).unwrap_or_default();
    let now = mounted(&args.path, system);
    match args.state.as_str() {
        "present" => write_table(args, &with_entry(args, &table), system),
        "absent_from_fstab" => remove_entry(args, &table, system),
        "absent" => {
            let copy = remove_entry(args, &table, system)?;
            if now.is_some() {
                unmount(args, system)?;
            }
            let path = Path::new(&args.path);
            let is_empty =
                host::is_directory(path, system)? && (now.is_some() || system.list(path)?.is_empty());
            if is_empty && args.path.starts_with('/') && args.path != "/" {
                remove_directory(path, system)?;
            }
            Ok(copy)
        }
        "unmounted" => {
            if now.is_some() {
                unmount(args, system)?;
            }
            Ok(None)
        }
        "remounted" => {
            remount(args, system)?;
            Ok(None)
        }
        "ephemeral" => {
            make_point(args, system)?;
            match now {
                None => mount(args, system)?,
                Some(source)
                    if Some(source.as_str()) == args.src.as_deref() || same_device(&source, args, system) =>
                {
                    remount(args, system)?;
                }
                Some(_) => {
                    return Err(ModuleError::new(
                        "Ephemeral mount point is already mounted with a different source than the specified one. \
                         Failing in order to prevent an unwanted unmount or override operation. Try replacing this \
                         command with a \"state: unmounted\" followed by a \"state: ephemeral\", or use a different \
                         destination path.",
                    ));
                }
            }
            Ok(None)
        }
        _ => {
            make_point(args, system)?;
            let new = with_entry(args, &table);
            let differs = new != with_newline(&table);
            let copy = if differs { write_table(args, &new, system)? } else { None };
            let done = match (now, differs) {
                (None, _) if args.fstype.as_deref() == Some("swap") && args.path == "none" => Ok(()),
                (None, _) => mount(args, system),
                (Some(_), true) => remount(args, system),
                (Some(_), false) => Ok(()),
            };
            if let Err(error) = done {
                // An entry that does not work may keep the machine from booting.
                if differs {
                    host::write_text(Path::new(args.fstab()), &table, 0o644, system)?;
                }
                return Err(error);
            }
            Ok(copy)
        }
    }
}

fn with_newline(text: &str) -> String {
    text.lines().map(|line| format!("{line}\n")).collect()
}

fn remove_entry(args: &Args, table: &str, system: &mut dyn System) -> Result<Option<String>, ModuleError> {
    let new = without_entry(args, table);
    if new == with_newline(table) { Ok(None) } else { write_table(args, &new, system) }
}

fn same_device(source: &str, args: &Args, system: &mut dyn System) -> bool {
    let Some(wanted) = &args.src else { return false };
    let path =
        [("UUID=", "uuid"), ("LABEL=", "label"), ("PARTUUID=", "partuuid"), ("PARTLABEL=", "partlabel")]
            .iter()
            .find_map(|(prefix, kind)| {
                Some(format!("/dev/disk/by-{kind}/{}", wanted.strip_prefix(prefix)?.trim_matches('"')))
            })
            .unwrap_or_else(|| wanted.clone());
    let real = |path: &str, system: &mut dyn System| system.resolve(Path::new(path)).ok();
    real(&path, system).is_some() && real(&path, system) == real(source, system)
}

fn make_point(args: &Args, system: &mut dyn System) -> Result<(), ModuleError> {
    if !args.path.starts_with('/') {
        return Ok(());
    }
    let mut missing: Vec<PathBuf> = Vec::new();
    let mut path = Path::new(&args.path);
    while system.stat_follow(path)?.is_none() {
        missing.push(path.to_path_buf());
        match path.parent() {
            Some(parent) => path = parent,
            None => break,
        }
    }
    for path in missing.iter().rev() {
        system.make_dir(path, &Attributes::default())?;
    }
    Ok(())
}

/// The mount point goes only if it is empty, whatever was mounted there.
fn remove_directory(path: &Path, system: &mut dyn System) -> Result<(), ModuleError> {
    let intent = Intent {
        kind: "directory",
        id: path.to_string_lossy().into_owned(),
        before: map_of([("state", "directory")]).into(),
        effects: vec![Effect::NoPath(path.to_path_buf())],
        ..Intent::default()
    };
    let command = Command::new([std::ffi::OsStr::new("rmdir"), "--".as_ref(), path.as_os_str()]);
    match system.change(&command, intent)? {
        Done::Made(output) if !output.success() => {
            Err(ModuleError::new(format!("Error rmdir {}: {}", path.display(), output.stderr_text().trim())))
        }
        _ => Ok(()),
    }
}

fn act(
    args: &Args,
    argv: Vec<String>,
    after: &str,
    undo: Option<Command>,
    system: &mut dyn System,
) -> Result<Result<(), Output>, ModuleError> {
    let intent = Intent {
        kind: "mount",
        id: args.path.clone(),
        before: map_of([("mounted", after != "mounted")]).into(),
        after: map_of([("mounted", after != "unmounted")]).into(),
        undo,
        effects: vec![Effect::Path(args.path.clone().into(), FileKind::Directory), Effect::Anything],
        sensitive: args.opts_no_log,
    };
    match system.change(&Command::new(argv).c_locale(), intent)? {
        Done::Made(output) if !output.success() => Ok(Err(output)),
        _ => Ok(Ok(())),
    }
}

fn said(output: &Output) -> String {
    output.stdout_text() + &output.stderr_text()
}

/// Where the entry is, or what there is to mount if there is none.
fn source_words(args: &Args) -> Vec<String> {
    let mut words = Vec::new();
    if args.state == "ephemeral" {
        words.extend(["-t".into(), args.fstype.clone().unwrap_or_default()]);
        if args.opts() != "defaults" {
            words.extend(["-o".into(), args.opts().to_string()]);
        }
        words.push(args.src.clone().unwrap_or_default());
    } else if args.fstab() != "/etc/fstab" {
        words.extend(["-T".into(), args.fstab().to_string()]);
    }
    words
}

fn mount(args: &Args, system: &mut dyn System) -> Result<(), ModuleError> {
    let mut argv = vec![host::need_program("mount", system)?];
    argv.extend(source_words(args));
    argv.push(args.path.clone());
    let undo = Command::new(["umount", args.path.as_str()]).c_locale();
    act(args, argv, "mounted", Some(undo), system)?
        .map_err(|output| ModuleError::new(format!("Error mounting {}: {}", args.path, said(&output).trim())))
}

fn unmount(args: &Args, system: &mut dyn System) -> Result<(), ModuleError> {
    let argv = vec![host::need_program("umount", system)?, args.path.clone()];
    act(args, argv, "unmounted", None, system)?.map_err(|output| {
        ModuleError::new(format!("Error unmounting {}: {}", args.path, said(&output).trim()))
    })
}

/// By `remount`; what does not know that is unmounted and mounted.
fn remount(args: &Args, system: &mut dyn System) -> Result<(), ModuleError> {
    let mut argv = vec![host::need_program("mount", system)?, "-o".into()];
    let has_options = args.state == "remounted" && args.opts() != "defaults";
    argv.push(if has_options { format!("remount,{}", args.opts()) } else { "remount".into() });
    argv.extend(source_words(args));
    argv.push(args.path.clone());
    let Err(output) = act(args, argv, "remounted", None, system)? else { return Ok(()) };
    if has_options {
        return Err(ModuleError::new(format!(
            "Options were specified with remounted, but the remount command failed. Failing in order to prevent an \
             unexpected mount result. Try replacing this command with a \"state: unmounted\" followed by a \"state: \
             mounted\" using the full desired mount options instead. {}",
            said(&output).trim()
        )));
    }
    if mounted(&args.path, system).is_some() {
        unmount(args, system)?;
    }
    mount(args, system)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::fake::Fake;

    fn entry() -> Vec<(&'static str, &'static str)> {
        vec![("path", "/srv/a b"), ("src", "/dev/x"), ("fstype", "ext4"), ("opts", "noatime")]
    }

    const LINE: &str = "/dev/x /srv/a\\040b ext4 noatime 0 0\n";

    #[test]
    fn tables() {
        for (before, state, after) in [
            ("", "present", LINE.to_string()),
            (LINE, "present", LINE.to_string()),
            (
                "# c\n/dev/x  /srv/a\\040b ext4 noatime\n",
                "present",
                "# c\n/dev/x  /srv/a\\040b ext4 noatime\n".into(),
            ),
            (
                "/dev/y /srv/a\\040b ext4 ro 0 0\n/dev/z /z xfs ro 0 0",
                "present",
                format!("{LINE}/dev/z /z xfs ro 0 0\n"),
            ),
            (LINE, "absent_from_fstab", String::new()),
            ("/dev/z /z xfs ro 0 0", "absent_from_fstab", "/dev/z /z xfs ro 0 0".into()),
        ] {
            let mut fake = Fake::new().with_file("/etc/fstab", before);
            let given = entry().into_iter().chain([("state", state)]);
            call(&MODULE, &map_of(given).into(), &mut fake).expect("it works");
            assert_eq!(fake.text("/etc/fstab"), Some(after), "{before} {state}");
        }
    }

    #[test]
    fn mounts() {
        const MOUNTED: &str = "30 1 8:1 / /srv/a\\040b rw - ext4 /dev/x rw\n";
        for (table, info, state, expected) in [
            ("", "", "mounted", vec!["! /bin/mount '/srv/a b'"]),
            (LINE, MOUNTED, "mounted", vec![]),
            ("", MOUNTED, "mounted", vec!["! /bin/mount -o remount '/srv/a b'"]),
            (LINE, MOUNTED, "unmounted", vec!["! /bin/umount '/srv/a b'"]),
            (LINE, "", "unmounted", vec![]),
            (LINE, MOUNTED, "absent", vec!["! /bin/umount '/srv/a b'", "! rmdir -- '/srv/a b'"]),
            ("", "", "ephemeral", vec!["! /bin/mount -t ext4 -o noatime /dev/x '/srv/a b'"]),
            (LINE, MOUNTED, "remounted", vec!["! /bin/mount -o remount,noatime '/srv/a b'"]),
        ] {
            let mut fake = Fake::new()
                .with_program("/bin/mount")
                .with_program("/bin/umount")
                .with_command_prefix(&["/bin/mount"], Output::ok(""))
                .with_command_prefix(&["/bin/umount"], Output::ok(""))
                .with_command_prefix(&["rmdir"], Output::ok(""))
                .with_file("/etc/fstab", table)
                .with_file("/proc/self/mountinfo", info);
            if state == "absent" {
                fake = fake.with_dir("/srv/a b");
            }
            let given = entry().into_iter().chain([("state", state)]);
            call(&MODULE, &map_of(given).into(), &mut fake).expect("it works");
            assert_eq!(fake.log(), expected, "{table} {state}");
        }
    }

    #[test]
    fn an_entry_that_does_not_work_is_taken_back() {
        let mut fake = Fake::new()
            .with_program("/bin/mount")
            .with_command_prefix(&["/bin/mount"], Output::fails(32, "no such device"))
            .with_file("/etc/fstab", "# c\n");
        let given = entry().into_iter().chain([("state", "mounted")]);
        let error = call(&MODULE, &map_of(given).into(), &mut fake).expect_err("it fails");
        assert_eq!(error, "Error mounting /srv/a b: no such device");
        assert_eq!(fake.text("/etc/fstab").as_deref(), Some("# c\n"));
    }
}
