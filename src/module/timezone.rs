//! `timezone`: the machine's time zone, and what its hardware clock shows.

use std::path::Path;

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, host, typed};
use crate::system::{Applied, LinkKind, System};
use crate::value::map_of;

/// Sets the time zone.
pub const MODULE: Module = Module {
    name: "community.general.timezone",
    summary: "Set the time zone, and what the hardware clock shows",
    description: "Makes `/etc/localtime` a link to the zone's file, as every system today has it, and writes \
        `/etc/timezone` where it is used. `hwclock` is kept in `/etc/adjtime`. Programs that run already keep the \
        old zone until they are started again.",
    example: "- community.general.timezone:\n    name: Europe/Berlin\n",
    scope: Scope::Host,
    params: &[
        Param::new("name", Type::Str, "Name of the zone, such as `Europe/Berlin`."),
        Param::new("hwclock", Type::Str, "What the hardware clock shows.")
            .choices(&["local", "UTC"])
            .aliases(&["rtc"]),
    ],
    rules: &[Rule::RequiredOneOf(&["hwclock", "name"])],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    name: Option<String>,
    hwclock: Option<String>,
}

const ZONES: &str = "/usr/share/zoneinfo";
const LOCAL: &str = "/etc/localtime";

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    if let Some(name) = &args.name {
        zone(name, system)?;
        let state = map_of([("name", name.as_str())]).into();
        system.applied(Applied { kind: "timezone".into(), id: "timezone".into(), state });
    }
    if let Some(clock) = &args.hwclock {
        hardware_clock(clock, system)?;
    }
    Ok(Outcome::default())
}

fn zone(name: &str, system: &mut dyn System) -> Result<(), ModuleError> {
    let file = Path::new(ZONES).join(name);
    let is_plain = !name.split('/').any(|part| part.is_empty() || part == "." || part == "..");
    if !is_plain || (!host::exists(&file, system)? && system.uncertain().is_none()) {
        return Err(ModuleError::new(format!("given timezone \"{name}\" is not available")));
    }
    let local = Path::new(LOCAL);
    let now = system.read_link(local).ok();
    let points_to = now.as_ref().map(|target| Path::new("/etc").join(target));
    let resolved = |path: &Path, system: &mut dyn System| system.resolve(path).ok();
    let same = points_to.as_deref().is_some_and(|target| target.ends_with(format!("zoneinfo/{name}")))
        && resolved(local, system) == resolved(&file, system);
    if !same {
        system.link(local, &file, LinkKind::Symbolic)?;
    }
    let kept = Path::new("/etc/timezone");
    if let Some(text) = host::read_text(kept, system)
        && text.trim() != name
    {
        host::write_text(kept, &format!("{name}\n"), 0o644, system)?;
    }
    Ok(())
}

fn hardware_clock(wanted: &str, system: &mut dyn System) -> Result<(), ModuleError> {
    let path = Path::new("/etc/adjtime");
    let text = host::read_text(path, system).unwrap_or_default();
    let now = text.lines().nth(2).map_or("UTC", str::trim);
    let word = if wanted == "UTC" { "UTC" } else { "LOCAL" };
    if now == word {
        return Ok(());
    }
    let mut lines: Vec<&str> = text.lines().collect();
    for default in ["0.0 0 0.0", "0"].iter().skip(lines.len().min(2)) {
        lines.push(default);
    }
    lines.truncate(2);
    lines.push(word);
    host::write_text(path, &(lines.join("\n") + "\n"), 0o644, system)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::fake::Fake;
    use crate::value::Value;

    #[test]
    fn zones_are_links() {
        let machine = || {
            Fake::new()
                .with_file("/usr/share/zoneinfo/Europe/Berlin", "TZif")
                .with_file("/usr/share/zoneinfo/UTC", "TZif")
                .with_link("/etc/localtime", "/usr/share/zoneinfo/UTC")
                .with_file("/etc/timezone", "Etc/UTC\n")
        };
        let mut fake = machine();
        let given = Value::map(map_of([("name", "Europe/Berlin"), ("hwclock", "local")]));
        call(&MODULE, &given, &mut fake).expect("it works");
        assert_eq!(
            fake.read_link(Path::new(LOCAL)).expect("a link"),
            Path::new("/usr/share/zoneinfo/Europe/Berlin")
        );
        assert_eq!(fake.text("/etc/timezone").as_deref(), Some("Europe/Berlin\n"));
        assert_eq!(fake.text("/etc/adjtime").as_deref(), Some("0.0 0 0.0\n0\nLOCAL\n"));
        fake.forget();
        call(&MODULE, &given, &mut fake).expect("it works");
        assert!(fake.changes().is_empty());
        for name in ["Europe/Atlantis", "../../etc/passwd"] {
            let error =
                call(&MODULE, &Value::map(map_of([("name", name)])), &mut machine()).expect_err("unknown");
            assert_eq!(error, format!("given timezone \"{name}\" is not available"));
        }
    }
}
