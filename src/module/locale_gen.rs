//! `locale_gen`: locales of glibc, as Debian and Ubuntu make them.

use std::path::Path;

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Scope, Type, host, typed};
use crate::system::{Applied, Command, Intent, System};
use crate::value::{Value, map_of};

type Result<T> = std::result::Result<T, ModuleError>;

const LOCALE_GEN: &str = "/etc/locale.gen";
const SUPPORTED: [&str; 2] = ["/usr/share/i18n/SUPPORTED", "/usr/local/share/i18n/SUPPORTED"];
const UBUNTU: &str = "/var/lib/locales/supported.d/local";

/// Makes and removes locales.
pub const MODULE: Module = Module {
    name: "community.general.locale_gen",
    summary: "Make or remove locales",
    description: "Takes lines of `/etc/locale.gen` into use or out of it and runs `locale-gen`. On old Ubuntu, which has a \
        directory `/var/lib/locales/supported.d` instead, the list there is used.",
    example: "- name: German and English\n  community.general.locale_gen:\n    name:\n      - de_DE.UTF-8\n      - en_US.UTF-8\n",
    scope: Scope::Host,
    params: &[
        Param::new("name", Type::List, "Names of locales, such as `de_CH.UTF-8`.").required(),
        Param::new("state", Type::Str, "Whether they should be there.")
            .choices(&["absent", "present"])
            .default("present"),
    ],
    returns: &[
        ("name", "The locales."),
        ("mechanism", "How locales are made here: `glibc` or `ubuntu_legacy`."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    #[serde(deserialize_with = "host::texts")]
    name: Vec<String>,
    state: String,
}

/// Names as `locale -a` prints them: `de_DE.utf8`, `de_DE@euro`.
fn normal(name: &str) -> String {
    let (rest, modifier) =
        name.split_once('@').map_or((name, None), |(rest, modifier)| (rest, Some(modifier)));
    let (language, charset) =
        rest.split_once('.').map_or((rest, None), |(language, charset)| (language, Some(charset)));
    let mut out = language.to_string();
    if let Some(charset) = charset {
        let plain: String =
            charset.chars().filter(|c| c.is_ascii_alphanumeric()).collect::<String>().to_ascii_lowercase();
        out.push('.');
        out.push_str(&plain);
    }
    if let Some(modifier) = modifier {
        out.push('@');
        out.push_str(modifier);
    }
    out
}

/// The locale and charset of a line such as `# de_DE.UTF-8 UTF-8`, and whether it is in use.
fn entry(line: &str) -> Option<(&str, &str, bool)> {
    let line = line.trim();
    let rest = line.trim_start_matches('#').trim();
    let mut words = rest.split_whitespace();
    let (name, charset) = (words.next()?, words.next()?);
    let plausible =
        charset.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '-' || c == '_')
            && words.next().is_none();
    plausible.then_some((name, charset, !line.starts_with('#')))
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome> {
    let glibc = host::exists(LOCALE_GEN, system)?;
    if !glibc && !host::is_directory("/var/lib/locales/supported.d", system)? && system.uncertain().is_none()
    {
        return Err(ModuleError::new(format!(
            "{LOCALE_GEN} and /var/lib/locales/supported.d are missing: is the package locales installed?"
        )));
    }
    let legacy = !glibc && host::is_directory("/var/lib/locales/supported.d", system)?;
    let present = args.state == "present";
    let output = host::ask(["locale", "-a"], system)?.stdout_text();
    let made: Vec<String> = output.lines().map(|line| normal(line.trim())).collect();
    let due: Vec<&String> = args.name.iter().filter(|name| made.contains(&normal(name)) != present).collect();
    let file = if legacy { UBUNTU } else { LOCALE_GEN };
    let text = host::read_text(file, system).unwrap_or_default();
    let mut known = String::new();
    for path in SUPPORTED {
        known.push_str(&host::read_text(path, system).unwrap_or_default());
    }
    let mut after = text.clone();
    for name in &args.name {
        let charset = charset_of(name, &text, &known);
        if charset.is_none() && present && system.uncertain().is_none() && due.contains(&name) {
            return Err(ModuleError::new(format!(
                "the locale {name} is not one of those that this system can make"
            )));
        }
        let charset = charset.unwrap_or_else(|| "UTF-8".into());
        after = if legacy {
            listed(&after, name, &charset, present)
        } else {
            edited(&after, name, &charset, present)
        };
    }
    if after != text {
        host::write_text(Path::new(file), &after, 0o644, system)?;
    }
    if !due.is_empty() || (after != text && !present) {
        generate(&due, present, legacy, system)?;
    }
    for name in &args.name {
        let state = if present { map_of([("present", true)]).into() } else { Value::Null };
        system.applied(Applied { kind: "locale".into(), id: name.clone(), state });
    }
    let names = Value::list(args.name.iter().cloned().map(Value::from).collect());
    Ok(Outcome::default().set("name", names).set("mechanism", if legacy { "ubuntu_legacy" } else { "glibc" }))
}

fn charset_of(name: &str, text: &str, known: &str) -> Option<String> {
    let same = |(found, charset, _): (&str, &str, bool)| (found == name).then(|| charset.to_string());
    let find = |text: &str| text.lines().filter_map(entry).find_map(same);
    find(known).or_else(|| find(text))
}

/// `/etc/locale.gen` with the locale's line in use or not.
fn edited(text: &str, name: &str, charset: &str, present: bool) -> String {
    let mut found = false;
    let mut out = String::new();
    for line in text.lines() {
        match entry(line) {
            Some((known, kind, in_use)) if known == name => {
                found = true;
                if in_use == present {
                    out.push_str(line);
                } else if present {
                    out.push_str(&format!("{known} {kind}"));
                } else {
                    out.push_str(&format!("# {known} {kind}"));
                }
            }
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    if !found && present {
        out.push_str(&format!("{name} {charset}\n"));
    }
    out
}

fn listed(text: &str, name: &str, charset: &str, present: bool) -> String {
    let is_it = |line: &&str| line.split_whitespace().next() == Some(name);
    if present {
        if text.lines().any(|line| is_it(&line)) {
            return text.to_string();
        }
        return format!("{text}{name} {charset}\n");
    }
    text.lines().filter(|line| !is_it(line)).map(|line| format!("{line}\n")).collect()
}

fn generate(due: &[&String], present: bool, legacy: bool, system: &mut dyn System) -> Result<()> {
    let program = host::need_program("locale-gen", system)?;
    // On Debian, locales that are no longer listed go with those that are made anew.
    let mut command = Command::new([program]);
    if legacy && !present {
        command.argv.push("--purge".into());
    }
    let names: Vec<&str> = due.iter().map(|name| name.as_str()).collect();
    let exists: Value = map_of([("present", true)]).into();
    let (before, after) = if present { (Value::Null, exists) } else { (exists, Value::Null) };
    let intent = Intent {
        kind: "locale",
        id: names.join(" "),
        before,
        after,
        // A rollback goes backwards: the list comes back only after this, so that no command here would help.
        undo: None,
        ..Intent::default()
    };
    host::carry_out(&command, intent, "locale-gen failed", system)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::on_fake;
    use crate::system::Output;
    use crate::system::fake::Fake;

    fn machine() -> Fake {
        Fake::new()
            .with_program("/usr/sbin/locale-gen")
            .with_file(
                "/usr/share/i18n/SUPPORTED",
                "de_DE.UTF-8 UTF-8\nde_CH ISO-8859-1\nen_US.UTF-8 UTF-8\n",
            )
            .with_file(LOCALE_GEN, "# This file lists locales\n# de_DE.UTF-8 UTF-8\nen_US.UTF-8 UTF-8\n")
            .with_file("/state/made", "en_US.utf8\n")
            .with_behaviour(&["locale"], |fake, _| {
                let made = fake.text("/state/made").unwrap_or_default();
                Output::ok(&format!("C\nPOSIX\n{made}"))
            })
            .with_behaviour(&["/usr/sbin/locale-gen"], |fake, _| {
                let text = fake.text(LOCALE_GEN).unwrap_or_default();
                let made: String = text
                    .lines()
                    .filter_map(entry)
                    .filter(|(_, _, used)| *used)
                    .map(|(name, ..)| normal(name) + "\n")
                    .collect();
                fake.put("/state/made", made);
                Output::ok("")
            })
    }

    #[test]
    fn locales_are_made_and_removed() {
        let table: &[(&str, usize, &str)] = &[
            (r#"{"name":"en_US.UTF-8"}"#, 0, "# de_DE.UTF-8 UTF-8\nen_US.UTF-8 UTF-8\n"),
            (r#"{"name":["de_DE.UTF-8","en_US.UTF-8"]}"#, 1, "de_DE.UTF-8 UTF-8\nen_US.UTF-8 UTF-8\n"),
            (r#"{"name":"de_CH"}"#, 1, "# de_DE.UTF-8 UTF-8\nen_US.UTF-8 UTF-8\nde_CH ISO-8859-1\n"),
            (r#"{"name":"en_US.UTF-8","state":"absent"}"#, 1, "# de_DE.UTF-8 UTF-8\n# en_US.UTF-8 UTF-8\n"),
            (r#"{"name":"fr_FR.UTF-8","state":"absent"}"#, 0, "# de_DE.UTF-8 UTF-8\nen_US.UTF-8 UTF-8\n"),
        ];
        for (arguments, runs, text) in table {
            let mut verdict = on_fake(&MODULE, machine, arguments);
            assert_eq!(verdict.error, None, "{arguments}");
            assert_eq!(verdict.acted().len(), *runs, "{arguments}");
            let expected = format!("# This file lists locales\n{text}");
            assert_eq!(verdict.machine.text(LOCALE_GEN), Some(expected), "{arguments}");
            assert_eq!(verdict.text("mechanism"), "glibc");
        }
        let unknown = on_fake(&MODULE, machine, r#"{"name":"xx_XX.UTF-8"}"#);
        assert!(unknown.error.unwrap_or_default().contains("xx_XX.UTF-8"));
        let none = on_fake(&MODULE, Fake::new, r#"{"name":"de_DE.UTF-8"}"#);
        assert!(none.error.unwrap_or_default().contains("package locales"));
    }

    #[test]
    fn names_are_written_in_many_ways() {
        for (name, expected) in [
            ("de_DE.UTF-8", "de_DE.utf8"),
            ("de_DE@euro", "de_DE@euro"),
            ("ja_JP.EUC-JP", "ja_JP.eucjp"),
            ("C", "C"),
        ] {
            assert_eq!(normal(name), expected);
        }
    }
}
