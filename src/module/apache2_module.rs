//! `apache2_module`: modules of Apache's web server.

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Scope, Type, host, typed};
use crate::system::{Applied, Command, Effect, FileKind, Intent, System};
use crate::value::{Value, map_of};

type Result<T> = std::result::Result<T, ModuleError>;

/// Switches modules with `a2enmod` and `a2dismod`.
pub const MODULE: Module = Module {
    name: "community.general.apache2_module",
    summary: "Switch modules of Apache's web server on or off",
    description: "A module is on if its link is in `mods-enabled`; where there is no such directory, or for a module that has no \
        file of its own, the server is asked (`apache2ctl -M`). The server is not restarted: notify a handler.",
    example: "- name: Proxies\n  community.general.apache2_module:\n    name: proxy_http\n  notify: Restart apache2\n",
    scope: Scope::Host,
    params: &[
        Param::new("name", Type::Str, "Name of the module, as `a2enmod` takes it.").required(),
        Param::new("state", Type::Str, "Whether it should be on.")
            .choices(&["present", "absent"])
            .default("present"),
        Param::new(
            "identifier",
            Type::Str,
            "Its name in `apache2ctl -M`, if that can't be told from `name`.",
        ),
        Param::new("force", Type::Bool, "Switch off also what the distribution deems essential.")
            .default("false"),
        Param::new("ignore_configcheck", Type::Bool, "Go on if the server's configuration is broken.")
            .default("false"),
        Param::new("warn_mpm_absent", Type::Bool, "Warn when no multi-processing module is on.")
            .default("true"),
    ],
    returns: &[("result", "In what state the module is.")],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    name: String,
    state: String,
    identifier: Option<String>,
    force: bool,
    ignore_configcheck: bool,
    warn_mpm_absent: bool,
}

/// The name that the server itself uses.
fn identifier(args: &Args) -> String {
    if let Some(identifier) = &args.identifier {
        return identifier.clone();
    }
    let name = args.name.as_str();
    // These do not follow the rule.
    match name {
        "shib2" => "mod_shib".into(),
        "shib" => "mod_shib".into(),
        "evasive" => "evasive20_module".into(),
        "dump_io" => "dumpio_module".into(),
        _ if name.starts_with("php") && name[3..].starts_with(|c: char| c.is_ascii_digit()) => {
            // From 8 on it is just `php_module`.
            let major: u32 = name[3..].split('.').next().and_then(|text| text.parse().ok()).unwrap_or(0);
            if major >= 8 { "php_module".into() } else { format!("php{major}_module") }
        }
        _ => format!("{name}_module"),
    }
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome> {
    let wanted = args.state == "present";
    let mut warnings = Vec::new();
    let on = is_on(args, &mut warnings, system)?;
    if on != wanted {
        switch(args, wanted, system)?;
    }
    let state = if wanted { map_of([("enabled", true)]).into() } else { Value::Null };
    system.applied(Applied { kind: "apache2_module".into(), id: args.name.clone(), state });
    let word = if wanted { "enabled" } else { "disabled" };
    let mut outcome = Outcome::default().set("result", format!("Module {} {word}", args.name));
    outcome.warnings = warnings;
    Ok(outcome)
}

fn is_on(args: &Args, warnings: &mut Vec<String>, system: &mut dyn System) -> Result<bool> {
    let link = format!("/etc/apache2/mods-enabled/{}.load", args.name);
    if system.stat(link.as_ref())?.is_some() {
        return Ok(true);
    }
    // It has a file that can be linked and is not.
    if host::exists(format!("/etc/apache2/mods-available/{}.load", args.name), system)? {
        return Ok(false);
    }
    let mut program = None;
    for name in ["apache2ctl", "apachectl"] {
        program = program.or(host::find_program(name, system)?);
    }
    let Some(program) = program else {
        if system.uncertain().is_some() {
            return Ok(args.state != "present");
        }
        return Err(ModuleError::new(
            "Neither of apache2ctl nor apachectl found. At least one apache control binary is necessary.",
        ));
    };
    let command = Command::new([program.as_os_str(), "-M".as_ref()]);
    let output = host::ask(command.argv.clone(), system)?;
    if !output.success() {
        let said = output.stderr_text();
        if args.ignore_configcheck {
            if said.contains("AH00534") {
                if args.warn_mpm_absent {
                    warnings.push(
                        "No MPM module loaded! apache2 reload AND other module actions will fail if no MPM module is loaded immediately."
                            .into(),
                    );
                }
            } else {
                warnings.push(said);
            }
            return Ok(false);
        }
        return Err(ModuleError::command("the server does not list its modules", &command, &output));
    }
    let identifier = identifier(args);
    Ok(output.stdout_text().lines().any(|line| line.split_whitespace().next() == Some(&identifier)))
}

fn switch(args: &Args, on: bool, system: &mut dyn System) -> Result<()> {
    let (program, other) = if on { ("a2enmod", "a2dismod") } else { ("a2dismod", "a2enmod") };
    let program = match host::find_program(program, system)? {
        Some(path) => path.to_string_lossy().into_owned(),
        None if system.uncertain().is_some() => program.into(),
        None => {
            return Err(ModuleError::new(format!(
                "{program} not found. Perhaps this system does not use {program} to manage apache"
            )));
        }
    };
    let other = program.replace("a2enmod", other).replace("a2dismod", other);
    let mut command = Command::new([program.as_str()]).c_locale();
    if !on && args.force {
        command.argv.push("-f".into());
    }
    command.argv.push(args.name.as_str().into());
    let link = format!("/etc/apache2/mods-enabled/{}.load", args.name).into();
    let exists: Value = map_of([("enabled", true)]).into();
    let (before, after) = if on { (Value::Null, exists) } else { (exists, Value::Null) };
    let intent = Intent {
        kind: "apache2_module",
        id: args.name.clone(),
        before,
        after,
        undo: Some(Command::new([other.as_str(), &args.name])),
        effects: vec![if on { Effect::Path(link, FileKind::Link) } else { Effect::NoPath(link) }],
        ..Intent::default()
    };
    let word = if on { "enabled" } else { "disabled" };
    host::carry_out(&command, intent, &format!("Failed to set module {} to {word}", args.name), system)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::on_fake;
    use crate::system::Output;
    use crate::system::fake::Fake;

    fn machine() -> Fake {
        let mut fake = Fake::new()
            .with_program("/usr/sbin/apache2ctl")
            .with_file("/etc/apache2/mods-available/rewrite.load", "")
            .with_file("/etc/apache2/mods-available/ssl.load", "")
            .with_file("/etc/apache2/mods-enabled/ssl.load", "")
            .with_command(
                &["/usr/sbin/apache2ctl", "-M"],
                Output::ok("Loaded Modules:\n core_module (static)\n so_module (static)\n"),
            );
        for program in ["a2enmod", "a2dismod"] {
            let path = format!("/usr/sbin/{program}");
            fake = fake.with_program(&path);
            fake.on(&[&path], true, move |fake, command| {
                let name = command.argv.last().expect("a name").to_string_lossy().into_owned();
                if fake.text(&format!("/etc/apache2/mods-available/{name}.load")).is_none() {
                    return Output::fails(1, &format!("ERROR: Module {name} does not exist!"));
                }
                let link = format!("/etc/apache2/mods-enabled/{name}.load");
                if program == "a2enmod" {
                    fake.put(&link, "")
                } else {
                    fake.delete(&link)
                }
                Output::ok("")
            });
        }
        fake
    }

    #[test]
    fn modules_are_switched() {
        let table: &[(&str, &[&str], &str)] = &[
            (r#"{"name":"ssl"}"#, &[], "Module ssl enabled"),
            (r#"{"name":"so"}"#, &[], "Module so enabled"),
            (r#"{"name":"rewrite"}"#, &["/usr/sbin/a2enmod rewrite"], "Module rewrite enabled"),
            (r#"{"name":"rewrite","state":"absent"}"#, &[], "Module rewrite disabled"),
            (
                r#"{"name":"ssl","state":"absent","force":true}"#,
                &["/usr/sbin/a2dismod -f ssl"],
                "Module ssl disabled",
            ),
        ];
        for (arguments, expected, result) in table {
            let verdict = on_fake(&MODULE, machine, arguments);
            assert_eq!(verdict.error, None, "{arguments}");
            assert_eq!(verdict.acted(), *expected, "{arguments}");
            assert_eq!(verdict.text("result"), *result);
            assert!(verdict.rolled_back, "{arguments}");
        }
        let unknown = on_fake(&MODULE, machine, r#"{"name":"nothing"}"#);
        assert!(unknown.error.unwrap_or_default().contains("does not exist"));
        let none = on_fake(&MODULE, Fake::new, r#"{"name":"ssl"}"#);
        assert!(none.error.unwrap_or_default().contains("apache2ctl"));
        for (name, expected) in
            [("php8.2", "php_module"), ("php7.4", "php7_module"), ("rewrite", "rewrite_module")]
        {
            assert_eq!(identifier(&Args { name: name.into(), ..Args::default() }), expected);
        }
    }
}
